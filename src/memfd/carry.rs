//! A memfd out of a process by its pages, and into the next one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use alloc::vec::Vec;

use rustix::fs::{MemfdFlags, Mode, SealFlags, SeekFrom};
use zerocopy::IntoBytes as _;

use super::save::{folio_order, record, store};
use super::{MADE_OF, MemfdNode, Pages, check_numbers};
use crate::abi::memfd::{Folio as Record, Memfd};
use crate::compat::CompatList;
use crate::handover::{Blob, Component, Home, Preserve, Scope};
use crate::mem::{Frame, Frames as _, Geometry, Memory as _, Order, Pour, Pouring, Run};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Bytes that are copied at a time: fits a cache, and is few system calls for a megabyte.
const PIECE: usize = 256 << 10;

/// `F_SEAL_EXEC`.
const EXEC: u32 = 0x20;
/// `F_SEAL_SHRINK`, `GROW`, `WRITE` and `FUTURE_WRITE`.
const WRITES: u32 = 0x1e;

/// A memfd to be handed over by value: its bytes are copied into the handover's memory in folios of at most that order.
///
/// For small files. Nothing may write to the file meanwhile.
///
/// ```
/// use std::os::fd::AsFd as _;
///
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::mem::{Arena, Order};
/// use kho::memfd::{ByPages, MemfdNode};
/// use rustix::fs::{MemfdFlags, memfd_create};
///
/// let file = memfd_create("bios", MemfdFlags::CLOEXEC)?;
/// rustix::io::write(&file, b"reset vector")?;
/// let mut outgoing = Outgoing::new(Arena::new(1 << 20)?);
/// outgoing.preserve("bios", &ByPages { file: file.as_fd(), order: Order::ZERO })?;
/// let (arena, root) = outgoing.finish()?.into_parts();
///
/// // The successor, here in the same process.
/// let mut registry = Registry::new();
/// let bios = registry.add("bios", MemfdNode);
/// let incoming = Incoming::new(Arena::open(arena.into_fd()?)?, root.start());
/// let mut restored = incoming.plan(&registry).accept()?.restore()?;
/// let (file, mut bytes) = (restored.take(&bios).unwrap(), [0; 12]);
/// rustix::io::pread(&file, &mut bytes, 0)?;
/// assert_eq!(&bytes, b"reset vector");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ByPages<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// log2 of the pages of its folios; the tail of the file is in smaller ones. Linux has 0, or 9 with huge pages.
    pub order: Order,
}

fn system(what: &'static str) -> impl Fn(rustix::io::Errno) -> Fault {
    move |errno| Fault::new(Code::Io).item(what).found(errno)
}

impl<M: Home> Preserve<M> for ByPages<'_> {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        let wire = self.store(scope)?;
        scope.blob(wire.as_bytes())
    }
}

impl ByPages<'_> {
    /// Copies the file; the structure that describes it.
    pub(crate) fn store<M: Home>(&self, scope: &mut Scope<'_, M>) -> Result<Memfd, Fault> {
        let geometry = scope.geometry();
        let seals = rustix::fs::fcntl_get_seals(self.file)
            .map_err(|errno| Fault::new(Code::FileKind).found(errno).expected("a memfd"))?
            .bits();
        let stat = rustix::fs::fstat(self.file).map_err(system("fstat"))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let pos = rustix::fs::seek(self.file, SeekFrom::Current(0)).map_err(system("lseek"))?;
        let pages = check_numbers(geometry, pos, size, seals)?;
        let mut records: Vec<Record> = Vec::new();
        let mut buffer = alloc::vec![0_u8; PIECE];
        let mut index = 0_u64;
        while let Some(rest) = pages.checked_sub(index).filter(|&rest| rest > 0) {
            let order = folio_order(index, rest, self.order);
            let frame = scope.alloc_bulk(order)?;
            self.copy_in(scope, &frame, index << geometry.page_shift(), size, &mut buffer)?;
            records.push(record(frame.folio(), index));
            index = index.saturating_add(order.pages());
        }
        store(scope, pos, size, seals, &records)
    }

    /// Copies the file from byte `from` on into a frame, up to the end of either.
    fn copy_in<M: Home>(
        &self,
        scope: &mut Scope<'_, M>,
        frame: &Frame,
        from: u64,
        size: u64,
        buffer: &mut [u8],
    ) -> Result<(), Fault> {
        let len = frame.folio().order().bytes(scope.geometry()).min(size.saturating_sub(from));
        let mut done = 0_u64;
        while done < len {
            let want = usize_of(len.saturating_sub(done)).min(buffer.len());
            let Some(piece) = buffer.get_mut(..want) else { break };
            let got = rustix::io::pread(self.file, &mut *piece, from.saturating_add(done)).map_err(system("pread"))?;
            if got == 0 {
                return Err(Fault::new(Code::FileIdentity)
                    .item("size")
                    .offset(from.saturating_add(done))
                    .found("the end of a file that was shrunk while it was copied")
                    .expected(format_args!("{size} bytes")));
            }
            scope.write(frame, done, piece.get(..got).unwrap_or_default())?;
            done = done.saturating_add(u64_of(got));
        }
        Ok(())
    }
}

impl Pages {
    /// Where the bytes are and where they belong: folios that are neighbours in both are one run.
    fn runs(&self, geometry: Geometry) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (folio, index) in &self.folios {
            let (from, offset) = (folio.addr(geometry), index << geometry.page_shift());
            let len = folio.order().bytes(geometry).min(self.size.saturating_sub(offset));
            match runs.last_mut() {
                Some(last)
                    if last.from.checked_add(last.len) == Some(from)
                        && last.offset.checked_add(last.len) == Some(offset) =>
                {
                    last.len = last.len.saturating_add(len);
                }
                _ => runs.push(Run { from, len, offset }),
            }
        }
        runs
    }
}

/// A memfd that is being filled.
#[derive(Debug)]
pub struct Filling {
    file: OwnedFd,
    pages: Pages,
    pouring: Pouring,
}

impl<M: Pour> Component<M> for MemfdNode {
    type Prepared = Filling;
    type Restored = OwnedFd;

    fn prepare(&self, pages: Pages, memory: &mut M) -> Result<Filling, Fault> {
        let file = rustix::fs::memfd_create("kho", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(system("memfd_create"))?;
        rustix::fs::ftruncate(&file, pages.size).map_err(system("ftruncate"))?;
        let pouring = memory.pour(pages.runs(memory.geometry()), file.as_fd())?;
        Ok(Filling { file, pages, pouring })
    }

    fn settle(&self, filling: Filling) -> Result<Filling, Fault> {
        let Filling { file: fd, pages: file, pouring } = filling;
        pouring.wait()?;
        if file.seals & EXEC != 0 && file.seals & WRITES != WRITES {
            // Sealing what may be executed adds all of these: so this file was not to be executed, and must not be now,
            // or it could not be written any more.
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o666)).map_err(system("fchmod"))?;
        }
        rustix::fs::seek(&fd, SeekFrom::Start(file.pos)).map_err(system("lseek"))?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::from_bits_retain(file.seals)).map_err(system("F_ADD_SEALS"))?;
        Ok(Filling { file: fd, pages: file, pouring: Pouring::DONE })
    }

    fn commit(&self, filling: Filling, _: &mut M) -> OwnedFd {
        filling.file
    }
}
