//! The header page of an arena, and the descriptor that it comes by: both are checked before anything is mapped.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, FsWord, OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstat, fstatfs};
use zerocopy::IntoBytes as _;

use crate::abi::arena::{BYTE_ORDER, COMPAT, Header, MAGIC};
use crate::compat::Compat;
use crate::mem::file::{io_fault, read_at};
use crate::mem::{Geometry, PageRange, PhysAddr, PhysRange};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// `f_type` of the file system that memfds live in: linux/magic.h.
const TMPFS_MAGIC: FsWord = 0x0102_1994;
/// The same of memfds of huge pages, which cannot be written by write(2).
const HUGETLBFS_MAGIC: FsWord = 0x9584_58f6;

/// The arena neither grows nor shrinks, and nobody can change that: a page that is mapped stays there.
pub(super) const SEALS: SealFlags = SealFlags::GROW.union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// What a header says, once it makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mem) struct Facts {
    pub(in crate::mem) geometry: Geometry,
    /// All pages, the header's included.
    pub(in crate::mem) pages: PageRange,
    pub(in crate::mem) root: Option<(PhysAddr, u64)>,
    pub(in crate::mem) nonce: u64,
}

impl Facts {
    pub(in crate::mem) fn new(geometry: Geometry, base: u64, size: u64) -> Result<Facts, Fault> {
        let header = |field: &'static str, offset| Fault::new(Code::ImageHeader).item(field).offset(offset);
        let page = geometry.page_size();
        if !size.is_multiple_of(page) || size < page.saturating_mul(2) {
            return Err(header("size", 32)
                .found(format_args!("{size:#x}"))
                .expected(format_args!("a multiple of {page:#x}, two pages at least")));
        }
        let align = alignment(size);
        if base == 0 || !base.is_multiple_of(align) {
            return Err(header("base", 24)
                .found(format_args!("{base:#x}"))
                .expected(format_args!("a nonzero multiple of {align:#x}")));
        }
        let start = PhysAddr::new(base).page(geometry);
        let pages = start.and_then(|start| PageRange::new(start, geometry.pages(size)));
        let pages = pages.ok_or_else(|| {
            Fault::new(Code::TooLarge)
                .item("size")
                .offset(32)
                .found(format_args!("{size:#x} bytes from {base:#x} on"))
                .expected("an end at page 2^47 at most")
        })?;
        Ok(Facts { geometry, pages, root: None, nonce: 0 })
    }

    /// The address of offset 0.
    pub(in crate::mem) fn base(&self) -> u64 {
        self.pages.start().addr(self.geometry).get()
    }

    /// Bytes of the arena.
    pub(in crate::mem) fn size(&self) -> u64 {
        self.pages.bytes(self.geometry).size()
    }

    /// All pages but the header's.
    pub(in crate::mem) fn window(&self) -> PageRange {
        let (start, count) = (self.pages.start(), self.pages.count());
        let next = crate::mem::Pfn::new(start.get().saturating_add(1));
        next.and_then(|next| PageRange::new(next, count.saturating_sub(1))).unwrap_or(self.pages)
    }

    /// The memory of the arena: all but its header page.
    pub(in crate::mem) fn memory(&self) -> PhysRange {
        self.window().bytes(self.geometry)
    }

    /// Sets the root; address 0 is none.
    pub(in crate::mem) fn set_root(&mut self, addr: u64, size: u64) -> Result<(), Fault> {
        let at = PhysAddr::new(addr);
        self.root = match (addr, size) {
            (0, 0) => None,
            (_, 1..) if self.memory().contains(at, size) => Some((at, size)),
            _ => {
                return Err(Fault::new(Code::Outside)
                    .item("fdt_addr")
                    .offset(40)
                    .found(format_args!("{size:#x} bytes at {addr:#x}"))
                    .expected(format_args!("inside {}, or 0 and 0", self.memory())));
            }
        };
        Ok(())
    }

    pub(super) fn header(&self) -> Header {
        let (fdt_addr, fdt_size) = self.root.map_or((0, 0), |(at, size)| (at.get(), size));
        Header {
            magic: MAGIC,
            version: COMPAT.version().into(),
            byte_order: BYTE_ORDER.into(),
            page_shift: self.geometry.page_shift().into(),
            reserved: 0.into(),
            base: self.base().into(),
            size: self.size().into(),
            fdt_addr: fdt_addr.into(),
            fdt_size: fdt_size.into(),
            nonce: self.nonce.into(),
        }
    }
}

/// The largest block that fits into so many bytes: what the base must be a multiple of.
pub(super) const fn alignment(size: u64) -> u64 {
    match size.checked_ilog2() {
        Some(log) => 1 << log,
        None => 1,
    }
}

/// What the header says, if it makes sense in a file of that size.
pub(in crate::mem) fn check(header: &Header, file_size: u64) -> Result<Facts, Fault> {
    if header.magic != MAGIC {
        return Err(Fault::new(Code::Magic)
            .item("magic")
            .offset(0)
            .found(format_args!("{:02x?}", header.magic))
            .expected(format_args!("{MAGIC:02x?}")));
    }
    // Before the version: a number of the other byte order would pass for a very new one.
    let order = header.byte_order.get();
    if order == BYTE_ORDER.swap_bytes() {
        return Err(Fault::new(Code::ForeignEndian)
            .item("byte_order")
            .offset(12)
            .found(format_args!("{order:#010x}"))
            .expected(format_args!("{BYTE_ORDER:#010x}")));
    }
    let version = header.version.get();
    if version != COMPAT.version() {
        let code = if version < COMPAT.version() { Code::VersionOlder } else { Code::VersionNewer };
        let found = Compat::new(COMPAT.name(), version);
        return Err(Fault::new(code).item("version").offset(8).found(found).expected(COMPAT));
    }
    if order != BYTE_ORDER {
        return Err(Fault::new(Code::ImageHeader)
            .item("byte_order")
            .offset(12)
            .found(format_args!("{order:#010x}"))
            .expected(format_args!("{BYTE_ORDER:#010x}")));
    }
    let shift = header.page_shift.get();
    let geometry = 1_u64.checked_shl(shift).and_then(Geometry::with_page_size).ok_or_else(|| {
        Fault::new(Code::PageSize).item("page_shift").offset(16).found(shift).expected("12, 14 or 16")
    })?;
    if header.reserved.get() != 0 {
        let found = format!("{:#x}", header.reserved.get());
        return Err(Fault::new(Code::Reserved).item("reserved").offset(20).found(found).expected(0));
    }
    let mut facts = Facts::new(geometry, header.base.get(), header.size.get())?;
    if facts.size() != file_size {
        let code = if file_size < facts.size() { Code::Truncated } else { Code::ImageHeader };
        return Err(Fault::new(code)
            .item("size")
            .offset(32)
            .found(format_args!("a file of {file_size} bytes"))
            .expected(format_args!("{} bytes", facts.size())));
    }
    facts.set_root(header.fdt_addr.get(), header.fdt_size.get())?;
    facts.nonce = header.nonce.get();
    Ok(facts)
}

/// Reads and checks the header page of a file of that size.
pub(in crate::mem) fn read(fd: BorrowedFd<'_>, file_size: u64) -> Result<Facts, Fault> {
    let mut header: Header = zerocopy::FromZeros::new_zeroed();
    let len = u64_of(size_of::<Header>());
    if file_size < len {
        return Err(Fault::new(Code::Truncated)
            .item("header")
            .offset(file_size)
            .found(format_args!("{file_size} bytes"))
            .expected(format_args!("a header of {len} bytes")));
    }
    read_at(fd, 0, header.as_mut_bytes()).map_err(|error| io_fault("header", error))?;
    let facts = check(&header, file_size)?;
    let mut rest = vec![0; usize_of(facts.geometry.page_size().saturating_sub(len))];
    read_at(fd, len, &mut rest).map_err(|error| io_fault("header", error))?;
    match rest.iter().zip(len..).find(|(byte, _)| **byte != 0) {
        None => Ok(facts),
        Some((byte, at)) => Err(Fault::new(Code::Reserved)
            .item("header page")
            .offset(at)
            .found(format_args!("{byte:#x}"))
            .expected("zero behind the header")),
    }
}

/// Whether the descriptor is a memfd that can be read and written and keeps its size; its size.
pub(super) fn check_descriptor(fd: BorrowedFd<'_>) -> Result<u64, Fault> {
    let kind = |found: String| Fault::new(Code::FileKind).item("descriptor").found(found).expected("a memfd");
    let stat = fstat(fd).map_err(|error| io_fault("fstat", error))?;
    let what = FileType::from_raw_mode(stat.st_mode);
    if what != FileType::RegularFile {
        return Err(kind(format!("{what:?}")));
    }
    let fs = fstatfs(fd).map_err(|error| io_fault("fstatfs", error))?.f_type;
    if fs == HUGETLBFS_MAGIC {
        return Err(kind("a memfd of huge pages".to_owned()));
    }
    if fs != TMPFS_MAGIC {
        return Err(kind(format!("a regular file, on a file system of type {fs:#x}")));
    }
    let mode = fcntl_getfl(fd).map_err(|error| io_fault("fcntl", error))?;
    if mode & OFlags::RWMODE != OFlags::RDWR || mode.intersects(OFlags::APPEND | OFlags::PATH) {
        return Err(Fault::new(Code::Refused)
            .item("access mode")
            .found(format_args!("{:#o}", mode.bits()))
            .expected("open for reading and writing, without O_APPEND"));
    }
    let seals = fcntl_get_seals(fd).map_err(|error| kind(format!("a file without seals ({error})")))?;
    if !seals.contains(SEALS) || seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
        return Err(Fault::new(Code::MemfdSeals)
            .item("seals")
            .found(format_args!("{:#x}", seals.bits()))
            .expected(format_args!("{:#x}, and none against writing", SEALS.bits())));
    }
    // Only now: before it was sealed it could still become shorter.
    let size = fstat(fd).map_err(|error| io_fault("fstat", error))?.st_size;
    u64::try_from(size).map_err(|error| io_fault("fstat", error))
}
