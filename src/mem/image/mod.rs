//! Memory that was written to a file: dumps, copies of arenas.

mod dev_mem;
mod elf;
#[cfg(test)]
mod tests;

use core::fmt;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::file::{io_fault, read_at};
use super::scan::{FDT_MAGIC, candidates};
use super::{Geometry, Machine, MemError, Memory, PhysAddr, PhysRange, arena};
use crate::abi::arena::MAGIC as ARENA_MAGIC;
use crate::abi::state::MAGIC as STATES_MAGIC;
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Where Linux says which memory is what.
pub(crate) const IOMEM: &str = "/proc/iomem";

/// What a file turned out to be.
#[derive(Debug)]
#[non_exhaustive]
pub enum Source {
    /// Memory.
    Image(Image),
    /// A device tree by itself, which is no memory: addresses in it lead nowhere.
    DeviceTree(File),
    /// States that were saved as bytes, see [`state::save`](crate::state::save).
    States(File),
}

/// Where the memory of an [`Image`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageKind {
    /// Bytes from one address on.
    Raw,
    /// An ELF core: QEMU's `dump-guest-memory`, `/proc/vmcore`, `/proc/kcore`.
    Core,
    /// An [`Arena`](super::Arena), or a file that is a copy of one.
    Arena,
}

/// A file as read-only [`Memory`] by physical address. Nothing is mapped: only what is asked for is read.
///
/// ```
/// use kho::mem::{Geometry, Image, Memory as _, PhysAddr};
///
/// let mut file = tempfile::tempfile()?;
/// std::io::Write::write_all(&mut file, &[7; 0x2000])?;
/// let image = Image::raw(file, PhysAddr::new(0x8000_0000), Geometry::K4)?;
/// let mut bytes = [0; 4];
/// image.read(PhysAddr::new(0x8000_1ffc), &mut bytes)?;
/// assert_eq!((bytes, image.bytes_read()), ([7; 4], 4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Image {
    backing: Backing,
    kind: ImageKind,
    geometry: Geometry,
    /// Sorted and disjoint.
    pieces: Vec<Piece>,
    /// The same, neighbours joined.
    extents: Vec<PhysRange>,
    root: Option<(PhysAddr, u64)>,
    machine: Option<Machine>,
    read: AtomicU64,
}

/// What has the bytes.
enum Backing {
    File(File),
    /// By address, which is the offset of each of its pieces.
    Memory(Box<dyn Memory + Send + Sync>),
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backing::File(file) => file.fmt(f),
            Backing::Memory(memory) => f.debug_tuple("Memory").field(&memory.extents()).finish(),
        }
    }
}

/// Bytes that lie in one piece in memory and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    size: u64,
    /// Offset in the file; none where memory is zero and the file has nothing.
    from: Option<u64>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

impl Image {
    /// Opens a file and finds out what it is: an arena, an ELF core (64 bit, little-endian), a device tree, or `/dev/mem`,
    /// of which the RAM of this machine is taken as `/proc/iomem` lists it.
    ///
    /// The page size is 4K, and that of the arena if it is one. Where segments of a core overlap, the first one that has
    /// bytes in the file wins (`/proc/vmcore` has the kernel's text twice); those with the address -1 are left out, as
    /// `/proc/kcore` has them for what has no physical address.
    ///
    /// # Errors
    /// [`Code::Magic`] when it is none of them: raw memory needs an address, see [`Image::raw`]. [`Code::Truncated`]
    /// when the file is shorter than it says, with the segment. [`Code::ForeignEndian`], [`Code::FileKind`] for other
    /// ELF files and for what is not a file, and for arenas what [`Arena::open`](super::Arena::open) tells of headers.
    pub fn open(path: impl AsRef<Path>) -> Result<Source, Fault> {
        let file = File::open(&path)
            .map_err(|error| Fault::new(Code::Io).item(path.as_ref().display().to_string()).found(error))?;
        Image::from_file(file)
    }

    /// As [`Image::open`], of a file that is open.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn from_file(file: File) -> Result<Source, Fault> {
        if dev_mem::is_it(&file)? {
            let iomem = std::fs::read_to_string(IOMEM).map_err(|error| io_fault(IOMEM, error))?;
            return Ok(Source::Image(Image::device(file, &iomem)?));
        }
        let size = size_of_file(&file)?;
        let mut magic = [0; 8];
        // Files of debugfs and procfs say that they are empty, and are not.
        let there = if size == 0 { 8 } else { size };
        let some = magic.get_mut(..usize_of(there.min(8))).unwrap_or_default();
        match read_at(file.as_fd(), 0, some) {
            Err(_) if size == 0 => magic = [0; 8],
            read => read.map_err(|error| io_fault("magic", error))?,
        }
        let [a, b, c, d, ..] = magic;
        let image = if magic == ARENA_MAGIC {
            let facts = arena::read_header(file.as_fd(), size)?;
            let memory = facts.memory();
            let from = Some(facts.geometry.page_size());
            let piece = Piece { start: memory.start().get(), size: memory.size(), from };
            Image { root: facts.root, ..Image::new(file, ImageKind::Arena, facts.geometry, vec![piece]) }
        } else if [a, b, c, d] == object::elf::ELFMAG {
            let (pieces, machine) = elf::pieces(file.as_fd(), size)?;
            Image { machine, ..Image::new(file, ImageKind::Core, Geometry::K4, pieces) }
        } else if u32::from_be_bytes([a, b, c, d]) == FDT_MAGIC {
            return Ok(Source::DeviceTree(file));
        } else if u64::from_le_bytes(magic) == STATES_MAGIC {
            return Ok(Source::States(file));
        } else if size < 8 && magic == [0; 8] || (1..8).contains(&size) {
            return Err(Fault::new(Code::Truncated)
                .item("magic")
                .offset(size)
                .found(format_args!("{size} bytes"))
                .expected("an arena, an ELF core or a device tree"));
        } else {
            return Err(Fault::new(Code::Magic)
                .item("magic")
                .offset(0)
                .found(format_args!("{magic:02x?}"))
                .expected("an arena, an ELF core, a device tree, or an address for raw memory"));
        };
        Ok(Source::Image(image))
    }

    /// A file whose first byte is at that physical address.
    ///
    /// # Errors
    /// [`Code::TooLarge`] when it would pass the end of the address space, [`Code::FileKind`] when it is no file.
    pub fn raw(file: File, base: PhysAddr, geometry: Geometry) -> Result<Image, Fault> {
        Image::raw_from(file, 0, base, geometry)
    }

    /// As [`Image::raw`], of a file whose byte `offset` is at that address: what is before it is no memory.
    ///
    /// # Errors
    /// As there, and [`Code::Truncated`] when the file ends before.
    pub fn raw_from(file: File, offset: u64, base: PhysAddr, geometry: Geometry) -> Result<Image, Fault> {
        let whole = size_of_file(&file)?;
        let Some(size) = whole.checked_sub(offset) else {
            let fault = Fault::new(Code::Truncated).item("offset").offset(offset);
            return Err(fault.found(format_args!("a file of {whole} bytes")).expected("memory from there on"));
        };
        if PhysRange::new(base, size).is_none() {
            let found = format!("{size:#x} bytes from {base} on");
            return Err(Fault::new(Code::TooLarge).item("base").found(found).expected("an end below 2^64"));
        }
        let piece = Piece { start: base.get(), size, from: Some(offset) };
        let pieces = if size == 0 { Vec::new() } else { vec![piece] };
        Ok(Image::new(file, ImageKind::Raw, geometry, pieces))
    }

    /// A device in which every byte of the machine's memory is at its physical address, as `/dev/mem`: it has no size,
    /// so that `iomem`, the text of `/proc/iomem`, says where memory is (`System RAM`, as far as it is whole pages). Much of it a kernel may refuse
    /// to show; then reading it is an error.
    ///
    /// # Errors
    /// [`Code::Io`] when the text names no memory, which is what users that are not root get to see.
    pub fn device(file: File, iomem: &str) -> Result<Image, Fault> {
        let pieces = dev_mem::pieces(iomem, u64_of(rustix::param::page_size()));
        if pieces.is_empty() {
            let fault = Fault::new(Code::Io).item("iomem").found("no addresses of System RAM");
            return Err(fault.expected("those that root gets to see in /proc/iomem"));
        }
        Ok(Image { machine: Machine::here(), ..Image::new(file, ImageKind::Raw, Geometry::K4, pieces) })
    }

    /// Any other memory, to be decoded as a dump of it is: that of a [guest](crate::guest), or one that was authored.
    ///
    /// ```
    /// use kho::mem::{Geometry, Image, PageRange, Pfn, Ram};
    ///
    /// let ram = Ram::new(Geometry::K16, PageRange::new(Pfn::new(4).unwrap(), 2).unwrap());
    /// assert_eq!(Image::of_memory(ram).bytes_in_file(), 2 << 14);
    /// ```
    #[must_use]
    pub fn of_memory(memory: impl Memory + Send + Sync + 'static) -> Image {
        let geometry = memory.geometry();
        let extents = memory.extents().iter();
        let piece = |extent: &PhysRange| Piece {
            start: extent.start().get(),
            size: extent.size(),
            from: Some(extent.start().get()),
        };
        let pieces = extents.map(piece).collect();
        Image::over(Backing::Memory(Box::new(memory)), ImageKind::Raw, geometry, pieces)
    }

    fn new(file: File, kind: ImageKind, geometry: Geometry, pieces: Vec<Piece>) -> Image {
        Image::over(Backing::File(file), kind, geometry, pieces)
    }

    fn over(backing: Backing, kind: ImageKind, geometry: Geometry, pieces: Vec<Piece>) -> Image {
        let mut extents: Vec<PhysRange> = Vec::new();
        for range in pieces.iter().filter_map(|piece| PhysRange::new(PhysAddr::new(piece.start), piece.size)) {
            let joined = extents
                .last()
                .filter(|last| last.end() == range.start())
                .and_then(|last| PhysRange::new(last.start(), last.size().saturating_add(range.size())));
            if let Some((last, joined)) = extents.last_mut().zip(joined) {
                *last = joined;
            } else {
                extents.push(range);
            }
        }
        Image { backing, kind, geometry, pieces, extents, root: None, machine: None, read: AtomicU64::new(0) }
    }

    /// With that page size. An arena says its own, and keeps it.
    #[must_use]
    pub fn with_geometry(mut self, geometry: Geometry) -> Image {
        if self.kind != ImageKind::Arena {
            self.geometry = geometry;
        }
        self
    }

    /// Where the memory comes from.
    #[must_use]
    pub const fn kind(&self) -> ImageKind {
        self.kind
    }

    /// The architecture of the machine whose memory it is, where the file says it: ELF cores do, and `/dev/mem` is that
    /// of this one.
    #[must_use]
    pub const fn machine(&self) -> Option<Machine> {
        self.machine
    }

    /// Address and size in bytes of the root FDT, as the header of an arena has it.
    #[must_use]
    pub const fn arena_root(&self) -> Option<(PhysAddr, u64)> {
        self.root
    }

    /// How many bytes were read from the file by address: what a decoder cost.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// How many bytes of the memory the file has, its holes among them. Whatever a handover says, it has not more.
    #[must_use]
    pub fn bytes_in_file(&self) -> u64 {
        let there = self.pieces.iter().filter(|piece| piece.from.is_some());
        there.fold(0, |sum, piece| sum.saturating_add(piece.size))
    }

    /// As [`find_fdt`](super::find_fdt), without the holes of a sparse file, where all is zero.
    ///
    /// # Errors
    /// A page that cannot be read is one, and the search goes on behind it.
    pub fn find_fdt(&self) -> impl Iterator<Item = Result<PhysAddr, MemError>> + '_ {
        candidates(self, |from| self.next_data(PhysAddr::new(from)))
    }

    /// The first bytes from that address on that the file has. What is before them, or behind the last, is a hole of
    /// the file, or of the memory.
    #[must_use]
    pub fn next_data(&self, from: PhysAddr) -> Option<PhysRange> {
        let from = from.get();
        let pieces = self.pieces.get(self.pieces.partition_point(|piece| piece.end() <= from)..)?;
        pieces.iter().find_map(|piece| {
            let skip = from.saturating_sub(piece.start);
            let start = piece.from?.checked_add(skip)?;
            let end = piece.from?.checked_add(piece.size)?;
            let (data, hole) = match &self.backing {
                Backing::Memory(_) => (start, end),
                Backing::File(file) => match seek(file, SeekFrom::Data(start)) {
                    Ok(data) if data < end => (data, seek(file, SeekFrom::Hole(data)).unwrap_or(end).min(end)),
                    Ok(_) | Err(Errno::NXIO) => return None,
                    // A file system that knows no holes.
                    Err(_) => (start, end),
                },
            };
            let at = piece.start.checked_add(data.checked_sub(piece.from?)?)?;
            PhysRange::new(PhysAddr::new(at), hole.checked_sub(data)?).filter(|range| range.size() > 0)
        })
    }
}

impl Memory for Image {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extents(&self) -> &[PhysRange] {
        &self.extents
    }

    /// An arena is; a dump may lack some of its machine; other memory says it itself.
    fn is_whole(&self) -> bool {
        match &self.backing {
            Backing::Memory(memory) => memory.is_whole(),
            Backing::File(_) => self.kind == ImageKind::Arena,
        }
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        let len = u64_of(to.len());
        let before = self.extents.partition_point(|extent| extent.start() <= at);
        let extent = before.checked_sub(1).and_then(|index| self.extents.get(index));
        if !extent.is_some_and(|extent| extent.contains(at, len)) {
            return Err(MemError::Outside { at, len });
        }
        let first = self.pieces.partition_point(|piece| piece.end() <= at.get());
        let (mut rest, mut here) = (to, at.get());
        for piece in self.pieces.iter().skip(first) {
            if rest.is_empty() {
                break;
            }
            // Pieces of one extent leave no gap, so `here` is inside of each in turn.
            let now = usize_of(piece.end().saturating_sub(here)).min(rest.len());
            let (now, later) = rest.split_at_mut(now);
            match piece.from {
                None => now.fill(0),
                Some(from) => {
                    let offset = from.saturating_add(here.saturating_sub(piece.start));
                    match &self.backing {
                        Backing::Memory(memory) => memory.read(PhysAddr::new(offset), now)?,
                        Backing::File(file) => read_at(file.as_fd(), offset, now).map_err(|error| MemError::Io {
                            at,
                            len,
                            reason: error.to_string(),
                        })?,
                    }
                    self.read.fetch_add(u64_of(now.len()), Ordering::Relaxed);
                }
            }
            here = here.saturating_add(u64_of(now.len()));
            rest = later;
        }
        Ok(())
    }
}

/// Bytes of a file or block device.
fn size_of_file(file: &File) -> Result<u64, Fault> {
    let kind = file.metadata().map_err(|error| io_fault("fstat", error))?.file_type();
    if kind.is_dir() {
        return Err(Fault::new(Code::FileKind).item("file").found("a directory").expected("a file"));
    }
    // Not from fstat, which knows no size of a block device.
    seek(file, SeekFrom::End(0)).map_err(|error| {
        Fault::new(Code::FileKind).item("file").found(format_args!("{kind:?}: {error}")).expected("a file with a size")
    })
}
