//! Slices of an arena, and scattered blocks as one mapping. The only file of this room with `unsafe` in it.
//!
//! Rules that the slices stand on:
//! 1. A block has at most one [`Frame`]: frames cannot be copied, the allocator of an arena makes one when it takes a
//!    block out of its free ones, and `Arena::claim` makes one of a reserved block after marking it as claimed. Only
//!    the arena itself, or the [`Mapping`] that owns the frame, gives out slices of it, and a slice borrows the frame.
//! 2. Two frames of one arena share no byte, and the header page is in no frame.
//! 3. A process makes frames of a memfd in one place: an [`Arena`] holds the `Lease` of its inode as long as frames can
//!    exist, and each [`Mapping`] keeps it.
//! 4. This library changes pages of an arena only through `&mut Arena` (`write`, `free` and what else punches holes) or
//!    through the slices here. The first kind names a frame, or pages that no frame has. A frame in a [`Mapping`]
//!    is not lent to anyone while the mapping lives.
//! 5. The memfd is sealed `GROW | SHRINK | SEAL` before it is mapped, and offsets are checked against its size: a mapped
//!    page is always inside the file. What is left of SIGBUS is a machine without memory for a hole that is touched
//!    (`vm.overcommit_memory=2`): it ends the process and corrupts nothing.
//! 6. Safe code gets no descriptor to write through from an arena that has slices: `Arena::read_only_fd` cannot write,
//!    `Arena::into_fd` takes the arena and needs that no `Mapping` is left, and `Arena::fd` is the transport's, which
//!    lets it only be received by another process, after this one stopped. What no process can enforce is left to who
//!    has a descriptor from elsewhere: a duplicate that was made before `Arena::open`, another process that passed it
//!    on, whoever opens it anew under `/proc`. They must not write to pages that this process holds. Within the handover
//!    this follows from the protocol: the predecessor has stopped before the successor claims. A seal is no help:
//!    `FUTURE_WRITE` would keep off the others, but also the successor's mappings, and our own `write` and punched holes.
#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::arena::Lease;
use super::file::{Data, read_at};
use super::{Arena, Folio, Frame, Frames as _, MemError, Memory as _, PhysAddr};
use crate::num::{u64_of, usize_of};

/// Address space of this process, given back when it is dropped. It may be empty, and then nothing is mapped.
#[derive(Debug)]
pub(super) struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a Region is an address and a length: no thread is tied to it, and munmap works from any. What is in the memory
// is reached only by the unsafe methods below.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` gives out copies of the address only.
unsafe impl Sync for Region {}

impl Region {
    const EMPTY: Region = Region { start: NonNull::dangling(), len: 0 };

    /// `len` bytes of the file from its start on, to be read and written, shared with all who map it.
    fn of_file(fd: BorrowedFd<'_>, len: usize) -> rustix::io::Result<Region> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: no address is asked for, so the kernel picks one where nothing is: no memory that exists is touched.
        Region::own(unsafe { mmap(ptr::null_mut(), len, prot, flags, fd, 0) }?, len)
    }

    /// `len` bytes that belong to no file: zero and writable, or only reserved.
    fn anonymous(len: usize, prot: ProtFlags) -> rustix::io::Result<Region> {
        if len == 0 {
            return Ok(Region::EMPTY);
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: as in `of_file`.
        Region::own(unsafe { mmap_anonymous(ptr::null_mut(), len, prot, flags) }?, len)
    }

    fn own(start: *mut core::ffi::c_void, len: usize) -> rustix::io::Result<Region> {
        // Without MAP_FIXED the kernel does not return the page at 0.
        NonNull::new(start.cast()).map(|start| Region { start, len }).ok_or(rustix::io::Errno::NOMEM)
    }

    /// The address of `len` bytes from `at` on, if they are inside.
    fn part(&self, at: u64, len: u64) -> Option<NonNull<u8>> {
        let end = at.checked_add(len)?;
        let inside = end <= u64_of(self.len) && usize::try_from(len).is_ok_and(|len| isize::try_from(len).is_ok());
        // Inside of one mapping, so the address does not wrap and is not 0.
        NonNull::new(self.start.as_ptr().wrapping_add(usize_of(at))).filter(|_| inside)
    }

    /// # Safety
    /// The region is readable, and nobody writes to it as long as the slice lives.
    unsafe fn slice(&self) -> &[u8] {
        // SAFETY: start is nonnull (dangling only with len 0), `len` bytes from it on are one mapping that lives as
        // long as `self`; a mapping is below isize::MAX. The rest is what the caller promises.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// # Safety
    /// The region is writable, and nobody else reads or writes it as long as the slice lives.
    unsafe fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `slice`.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Mappings that are placed one behind the other where nothing is. What is placed is unmapped when it is dropped.
///
/// The kernel refuses to place one over anything else (`MAP_FIXED_NOREPLACE`): so nothing has to be reserved before,
/// which costs a split of the reservation for each block, and nothing of anybody else can be replaced.
struct Row {
    start: NonNull<u8>,
    placed: usize,
    total: usize,
}

impl Row {
    /// Looks for so many bytes of free addresses.
    fn begin(total: usize) -> rustix::io::Result<Row> {
        let found = Region::anonymous(total, ProtFlags::empty())?;
        Ok(Row { start: found.start, placed: 0, total })
    }

    /// Maps `len` bytes of the file at `offset` behind what is placed.
    fn place(&mut self, len: usize, fd: BorrowedFd<'_>, offset: u64) -> rustix::io::Result<()> {
        let end = self.placed.checked_add(len).filter(|&end| len > 0 && end <= self.total);
        let end = end.ok_or(rustix::io::Errno::INVAL)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        let at = self.start.as_ptr().wrapping_add(self.placed).cast();
        // SAFETY: MAP_FIXED_NOREPLACE touches no mapping that exists. A kernel before 4.17 takes the address as a hint
        // only and may return another one, which is ours then and is given back.
        let got = unsafe { mmap(at, len, prot, flags | MapFlags::FIXED_NOREPLACE, fd, offset)? };
        if got != at {
            drop(Region::own(got, len)?);
            return Err(rustix::io::Errno::EXIST);
        }
        self.placed = end;
        Ok(())
    }

    /// All that was placed, as one region.
    fn finish(self) -> Region {
        let row = ManuallyDrop::new(self);
        Region { start: row.start, len: row.placed }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        drop(Region { start: self.start, len: self.placed });
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.len != 0 {
            // SAFETY: exactly what mmap gave us; all slices of it borrow this region, or the arena that owns it, and
            // are gone. Where it fails the addresses stay taken, which is harmless.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

impl Arena {
    /// The bytes of a block.
    ///
    /// The first call maps the whole arena, lazily: only what is touched costs memory.
    ///
    /// # Errors
    /// [`MemError::NotHeld`] when the frame is of another memory, [`MemError::Io`] when the system refuses to map.
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> Result<&'a [u8], MemError> {
        let (start, len) = self.place_of(frame)?;
        // SAFETY: `place_of` gives the bytes of this frame, which are mapped as long as the arena is borrowed. Nobody
        // writes to them: the frame is the only one of its pages (rules 1 to 3) and lent to us unchanging for 'a;
        // writing by `&mut Arena` waits until 'a is over (rule 4).
        Ok(unsafe { core::slice::from_raw_parts(start.as_ptr(), len) })
    }

    /// The bytes of a block, to be written. What is written is in the arena at once.
    ///
    /// # Errors
    /// As [`Arena::bytes`].
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> Result<&'a mut [u8], MemError> {
        let (start, len) = self.place_of(frame)?;
        // SAFETY: as in `bytes`; and the frame is lent to us alone for 'a, so there is no other slice of its pages.
        Ok(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) })
    }

    /// Where a block is mapped, and its size.
    fn place_of(&self, frame: &Frame) -> Result<(NonNull<u8>, usize), MemError> {
        let folio = frame.folio();
        let bytes = folio.range().bytes(self.geometry());
        if !self.frames.holds(frame) {
            return Err(MemError::NotHeld { folio });
        }
        let whole = match self.whole.get() {
            Some(whole) => whole,
            None => {
                let mapped = Region::of_file(self.fd.as_fd(), usize_of(self.size()));
                let mapped = mapped.map_err(|error| refused(self.base(), self.size(), error))?;
                // Another thread may have been faster: then ours is unmapped again.
                self.whole.get_or_init(|| mapped)
            }
        };
        let part = self.offset(bytes.start()).and_then(|at| whole.part(at, bytes.size()));
        let part = part.ok_or(MemError::Outside { at: bytes.start(), len: bytes.size() })?;
        Ok((part, usize_of(bytes.size())))
    }

    /// Scattered blocks, in this order, as one contiguous mapping, which owns them from now on.
    ///
    /// Neighbours in the arena become one mapping of the kernel. Where the blocks would bring the process near its limit
    /// of mappings (`vm.max_map_count`; a sixteenth of it is left for others), or the system refuses to map more, the
    /// bytes are copied instead: see [`Mapping::is_copy`].
    ///
    /// # Errors
    /// [`MemError::NotHeld`] when a frame is of another memory, [`MemError::Io`] when the system refuses. Nothing is
    /// mapped then, and the error has the frames.
    pub fn map_contiguous(&self, frames: Vec<Frame>) -> Result<Mapping, MapFailed> {
        self.map_contiguous_within(frames, None)
    }

    /// As [`Arena::map_contiguous`], with another limit: so many mappings of the kernel at most, or a copy.
    ///
    /// # Errors
    /// As [`Arena::map_contiguous`].
    pub fn map_contiguous_within(&self, frames: Vec<Frame>, limit: Option<usize>) -> Result<Mapping, MapFailed> {
        match self.map_or_copy(&frames, limit) {
            Ok((region, copy, lease)) => Ok(Mapping { region, copy, frames, lease }),
            Err(error) => Err(MapFailed { error, frames }),
        }
    }

    fn map_or_copy(
        &self,
        frames: &[Frame],
        limit: Option<usize>,
    ) -> Result<(Region, bool, Option<Arc<Lease>>), MemError> {
        let runs = self.runs(frames)?;
        let total = runs.iter().try_fold(0_u64, |sum, run| sum.checked_add(run.len));
        let outside = MemError::Outside { at: self.base(), len: total.unwrap_or(u64::MAX) };
        // Frames are disjoint: together they are never more than the arena.
        let total = total.filter(|&total| total <= self.size()).map(usize_of).ok_or(outside)?;
        let lease = self.lease.clone();
        if runs.len() <= limit.unwrap_or_else(|| mappings_left(runs.len()))
            && let Ok(region) = self.map_runs(&runs, total)
        {
            return Ok((region, false, lease));
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let mut region = Region::anonymous(total, prot).map_err(|error| refused(self.base(), u64_of(total), error))?;
        // SAFETY: anonymous memory of our own, readable and writable, that nobody else knows of.
        self.copy_runs(runs, unsafe { region.slice_mut() })?;
        Ok((region, true, lease))
    }

    /// Copies the runs, one behind the other, to where everything is zero: holes of the memfd are left out, and cost
    /// memory neither there nor here.
    fn copy_runs(&self, runs: Vec<Run>, zeros: &mut [u8]) -> Result<(), MemError> {
        let mut rest = zeros;
        let mut parts: Vec<(Run, &mut [u8])> = Vec::with_capacity(runs.len());
        for run in runs {
            let (now, later) = rest.split_at_mut(usize_of(run.len).min(rest.len()));
            parts.push((run, now));
            rest = later;
        }
        parts.sort_unstable_by_key(|(run, _)| run.offset);
        let mut data = Data::of(self.fd.as_fd());
        for (run, part) in parts {
            let end = run.offset.saturating_add(run.len);
            let mut from = run.offset;
            let mut copy = || {
                while let Some(piece) = data.first_in(from..end)? {
                    let place = |at: u64| usize_of(at.saturating_sub(run.offset));
                    let part = part.get_mut(place(piece.start)..place(piece.end)).unwrap_or_default();
                    read_at(self.fd.as_fd(), piece.start, part)?;
                    from = piece.end;
                }
                Ok(())
            };
            copy().map_err(|error: std::io::Error| {
                refused(PhysAddr::new(self.base().get().saturating_add(run.offset)), run.len, error)
            })?;
        }
        Ok(())
    }

    fn map_runs(&self, runs: &[Run], total: usize) -> rustix::io::Result<Region> {
        if total == 0 {
            return Ok(Region::EMPTY);
        }
        let place = || {
            let mut row = Row::begin(total)?;
            runs.iter().try_for_each(|run| row.place(usize_of(run.len), self.fd.as_fd(), run.offset))?;
            Ok(row.finish())
        };
        // Another thread may take the addresses before we are through; then others are tried.
        let taken = |result: &rustix::io::Result<Region>| matches!(result, Err(rustix::io::Errno::EXIST));
        (0..3).map(|_| place()).find(|result| !taken(result)).unwrap_or_else(place)
    }

    /// The blocks as runs of the memfd, neighbours joined.
    fn runs(&self, frames: &[Frame]) -> Result<Vec<Run>, MemError> {
        let mut runs: Vec<Run> = Vec::new();
        for frame in frames {
            let folio = frame.folio();
            let bytes = folio.range().bytes(self.geometry());
            let held = Some(bytes.start()).filter(|_| self.frames.holds(frame)).and_then(|at| self.offset(at));
            let offset = held.ok_or(MemError::NotHeld { folio })?;
            match runs.last_mut().filter(|last| last.offset.checked_add(last.len) == Some(offset)) {
                Some(last) => last.len = last.len.saturating_add(bytes.size()),
                None => runs.push(Run { offset, len: bytes.size() }),
            }
        }
        Ok(runs)
    }
}

/// Bytes of the memfd.
struct Run {
    offset: u64,
    len: u64,
}

fn refused(at: PhysAddr, len: u64, error: impl ToString) -> MemError {
    MemError::Io { at, len, reason: error.to_string() }
}

/// How many more mappings this process may have, less a reserve; `wanted` when that is too few to matter.
fn mappings_left(wanted: usize) -> usize {
    /// So few are mapped without asking: counting reads a line per mapping of the process.
    const FEW: usize = 16;
    /// What Linux has when nobody says otherwise.
    const DEFAULT_LIMIT: usize = 65_530;
    if wanted <= FEW {
        return wanted;
    }
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_LIMIT);
    limit.saturating_sub(limit.div_ceil(16)).saturating_sub(mappings_now().unwrap_or(DEFAULT_LIMIT))
}

fn mappings_now() -> std::io::Result<usize> {
    let mut maps = std::fs::File::open("/proc/self/maps")?;
    let mut buffer = [0; 0x4000];
    let mut lines = 0_usize;
    loop {
        let got = maps.read(&mut buffer)?;
        if got == 0 {
            return Ok(lines);
        }
        lines = lines.saturating_add(buffer.iter().take(got).filter(|&&byte| byte == b'\n').count());
    }
}

/// The blocks could not be mapped; nothing is.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct MapFailed {
    /// Why.
    #[source]
    pub error: MemError,
    /// The blocks, as they were.
    pub frames: Vec<Frame>,
}

/// Blocks of an arena as one slice. It owns them; it may outlive the [`Arena`].
///
/// Dropping it unmaps, and leaves the blocks allocated, as dropping a [`Frame`] does.
///
/// ```
/// use kho::mem::{Arena, Frame, Frames as _, MemError, Order};
///
/// let mut arena = Arena::new(16 << 20)?;
/// let blocks: Vec<Frame> = (0..4).map(|_| arena.alloc(Order::ZERO)).collect::<Result<_, MemError>>()?;
/// let scattered = blocks.into_iter().rev().collect();
/// let mut array = arena.map_contiguous(scattered).map_err(|failed| failed.error)?;
/// array.fill(7);
/// for block in array.into_frames() {
///     assert_eq!(arena.bytes(&block)?[0], 7);
/// }
/// # Ok::<(), kho::report::Fault>(())
/// ```
#[derive(Debug)]
pub struct Mapping {
    region: Region,
    copy: bool,
    // Never lent to users: a second way to these pages would break rule 4.
    frames: Vec<Frame>,
    lease: Option<Arc<Lease>>,
}

impl Mapping {
    /// Whether the bytes are a copy in anonymous memory. What is written to a copy is in the arena only after
    /// [`Mapping::flush`].
    #[must_use]
    pub const fn is_copy(&self) -> bool {
        self.copy
    }

    /// The blocks, in the order of their bytes.
    pub fn folios(&self) -> impl ExactSizeIterator<Item = Folio> + '_ {
        self.frames.iter().map(Frame::folio)
    }

    /// The same for who preserves them, and neither reads nor writes them meanwhile.
    pub(crate) fn blocks(&self) -> &[Frame] {
        &self.frames
    }

    /// Writes a copy back into its blocks; where the blocks themselves are mapped there is nothing to do.
    ///
    /// # Errors
    /// [`MemError::NotHeld`] when this is not the arena of the blocks, [`MemError::Io`] when the system refuses: then
    /// some blocks may have been written.
    pub fn flush(&self, arena: &mut Arena) -> Result<(), MemError> {
        let mut rest: &[u8] = if self.copy { self } else { &[] };
        for frame in &self.frames {
            let size = usize_of(frame.folio().order().bytes(arena.geometry()));
            let (now, later) = rest.split_at(size.min(rest.len()));
            arena.write(frame, 0, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Unmaps, and gives the blocks back to the caller, in the order in which they came. Changes in a
    /// [copy](Mapping::is_copy) are lost unless they were [flushed](Mapping::flush).
    #[must_use = "blocks that are dropped stay allocated"]
    pub fn into_frames(self) -> Vec<Frame> {
        let Mapping { region, frames, lease, .. } = self;
        drop((region, lease));
        frames
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: all of the region is readable (each run was placed, or it is anonymous). Its pages are those of
        // frames that we own and do not lend (rule 4), or our own copy: they change only by `deref_mut`, which needs
        // `&mut self`. The lease lasts at least as long as we do (rule 3).
        unsafe { self.region.slice() }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` leaves no other slice.
        unsafe { self.region.slice_mut() }
    }
}
