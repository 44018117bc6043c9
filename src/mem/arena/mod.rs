//! Memory that outlives the program: a sealed memfd, with an allocator that is rebuilt around what was preserved.

mod header;
#[cfg(test)]
mod hostile;
mod lease;
mod pour;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, fallocate, fchmod, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::{Errno, FdFlags, fcntl_setfd, retry_on_intr};
use rustix::rand::{GetRandomFlags, getrandom};
use zerocopy::IntoBytes as _;

use self::header::{Facts, SEALS, alignment};
use super::file::{io_fault, read_at, write_at};
use super::inherited::Inherited;
use super::map::Region;
use super::{
    Claim, Folio, Frame, FrameAllocator, Frames, Geometry, MemError, Memory, Order, PageRange, PhysAddr, PhysRange,
};
use crate::num::u64_of;
use crate::report::{Code, Fault};

pub(super) use self::header::read as read_header;
pub(super) use self::lease::Lease;

/// Memory that a program hands to its successor: blocks of pages in a memfd, by "physical" address.
///
/// The memfd is sparse: its size is a limit, memory is used by the pages that are written. It is sealed against growing
/// and shrinking. Its first page is the [header](crate::abi::arena::Header); the address of a byte is
/// [`Arena::base`] plus its offset in the memfd. The page size is that of this machine.
///
/// A predecessor makes one with [`Arena::new`], allocates and writes, names its root FDT ([`Arena::set_root`]) and
/// passes the descriptor on. A successor checks it ([`Arena::open`]): then it can be read and nothing in it is free.
/// [`Claim::admit`] frees what is neither preserved nor a page of the tree, [`Claim::claim`] takes over block by block
/// what was preserved, and [`Claim::release_rest`] ends the handover and frees what nobody took. Until then no byte that
/// was preserved is changed, except by who claimed it: a handover that fails can be read again.
///
/// ```
/// use kho::mem::{Arena, Claim as _, Frames as _, Order};
///
/// let mut arena = Arena::new(Arena::DEFAULT_SIZE)?;
/// let mut frame = arena.alloc(Order::ZERO)?;
/// arena.bytes_mut(&mut frame)?[..5].copy_from_slice(b"hello");
/// let folio = frame.folio();
///
/// // The successor, here in the same process.
/// let mut arena = Arena::open(arena.into_fd()?)?;
/// arena.admit(&mut [folio].into_iter(), &mut [].into_iter())?;
/// let frame = arena.claim(folio)?;
/// assert_eq!(&arena.bytes(&frame)?[..5], b"hello");
/// arena.release_rest()?;
/// # Ok::<(), kho::report::Fault>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    pub(super) fd: OwnedFd,
    pub(super) frames: FrameAllocator,
    facts: Facts,
    extents: [PhysRange; 1],
    phase: Phase,
    /// Free pages may hold old bytes: they are punched when they are allocated.
    stale: bool,
    /// All of the memfd, mapped when the first slice is asked for.
    pub(super) whole: OnceLock<Region>,
    /// Bytes that were copied into files.
    poured: AtomicU64,
    /// Held from the moment on from which frames exist.
    pub(super) lease: Option<Arc<Lease>>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing (more) in it is a predecessor's.
    Own,
    /// Opened, and what was preserved is not known yet: nothing is free.
    Opened,
    /// What a predecessor preserved waits to be claimed.
    Admitted(Inherited),
}

impl Arena {
    /// A limit for those who have no better one, in bytes: 64 GiB.
    pub const DEFAULT_SIZE: u64 = 64 << 30;

    /// The address of offset 0 in arenas up to 2 TiB. In larger ones it is the largest power of two that is not above
    /// the size, so that a block of any order that fits is aligned in the memfd as its address is.
    pub const BASE: u64 = 1 << 40;

    /// An arena of at most that many bytes, all of it free.
    ///
    /// # Errors
    /// [`Code::ImageHeader`] when the size is not a multiple of the page or below two pages, [`Code::TooLarge`] when
    /// addresses would pass page 2^47, [`Code::Io`] when the system refuses.
    pub fn new(size: u64) -> Result<Arena, Fault> {
        Arena::with_name("kho-arena", size)
    }

    /// As [`Arena::new`], with a name of its own in `/proc/self/fd`; at most 249 bytes.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn with_name(name: &str, size: u64) -> Result<Arena, Fault> {
        let mut facts = Facts::new(host_geometry()?, Self::BASE.max(alignment(size)), size)?;
        facts.nonce = random()?;
        let fd = new_memfd(name).map_err(|error| io_fault("memfd_create", error))?;
        ftruncate(&fd, size).map_err(|error| io_fault("ftruncate", error))?;
        // Not F_SEAL_SEAL alone at the end: the three together leave no moment in which the size is open.
        fcntl_add_seals(&fd, SEALS).map_err(|error| io_fault("F_ADD_SEALS", error))?;
        write_at(fd.as_fd(), 0, facts.header().as_bytes()).map_err(|error| io_fault("header", error))?;
        let lease = Lease::take(fd.as_fd())?;
        let frames = FrameAllocator::new(facts.geometry, facts.window());
        Ok(Arena::from_checked(fd, facts, frames, Phase::Own, Some(lease)))
    }

    /// Takes over the descriptor of an arena. It is checked before it is used; nothing is mapped, nothing is changed,
    /// nothing is free until [`Claim::admit`].
    ///
    /// The caller vouches for what no system call tells: that nobody writes through a duplicate of the descriptor, here
    /// or in another process, to what is claimed from now on.
    ///
    /// # Errors
    /// [`Code::FileKind`] for what is no memfd, [`Code::MemfdSeals`] for one whose size is not sealed or that cannot be
    /// written, [`Code::Truncated`], [`Code::Magic`], [`Code::VersionOlder`], [`Code::VersionNewer`],
    /// [`Code::ForeignEndian`], [`Code::PageSize`], [`Code::Reserved`], [`Code::ImageHeader`], [`Code::TooLarge`] and
    /// [`Code::Outside`] for a header that cannot be used here; the item is the field. [`Code::Io`] when the system
    /// refuses.
    pub fn open(fd: OwnedFd) -> Result<Arena, Fault> {
        let size = header::check_descriptor(fd.as_fd())?;
        let facts = header::read(fd.as_fd(), size)?;
        let host = host_geometry()?;
        if facts.geometry != host {
            return Err(Fault::new(Code::PageSize)
                .item("page_shift")
                .offset(16)
                .found(format_args!("{} pages", facts.geometry))
                .expected(format_args!("{host} pages, as this machine has")));
        }
        fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(|error| io_fault("F_SETFD", error))?;
        let frames = FrameAllocator::empty(facts.geometry, facts.window());
        Ok(Arena::from_checked(fd, facts, frames, Phase::Opened, None))
    }

    fn from_checked(
        fd: OwnedFd,
        facts: Facts,
        frames: FrameAllocator,
        phase: Phase,
        lease: Option<Arc<Lease>>,
    ) -> Arena {
        let stale = !matches!(phase, Phase::Own);
        Arena {
            fd,
            frames,
            facts,
            extents: [facts.memory()],
            phase,
            stale,
            whole: OnceLock::new(),
            poured: AtomicU64::new(0),
            lease,
        }
    }

    /// What a predecessor preserved and nobody claimed yet, by address.
    pub fn unclaimed(&self) -> impl Iterator<Item = Folio> {
        let inherited = match &self.phase {
            Phase::Admitted(inherited) => Some(inherited),
            Phase::Own | Phase::Opened => None,
        };
        inherited.into_iter().flat_map(Inherited::unclaimed)
    }

    /// Writes into the header where the root FDT is, or that there is none. A root that is set draws a new
    /// [nonce](Arena::nonce).
    ///
    /// # Errors
    /// [`Code::Outside`] when it is not in the arena, [`Code::Refused`] before [`Claim::admit`] (the header is still the
    /// predecessor's), [`Code::Io`] when the system refuses. The root is as before then.
    pub fn set_root(&mut self, root: Option<PhysRange>) -> Result<(), Fault> {
        if matches!(self.phase, Phase::Opened) {
            return Err(not_admitted("set_root"));
        }
        let mut facts = self.facts;
        let (at, size) = root.map_or((0, 0), |root| (root.start().get(), root.size()));
        facts.set_root(at, size)?;
        if facts.root.is_some() {
            facts.nonce = random()?;
        }
        write_at(self.fd.as_fd(), 0, facts.header().as_bytes()).map_err(|error| io_fault("header", error))?;
        self.facts = facts;
        Ok(())
    }

    /// Address and size in bytes of the root FDT, as the header had it when the arena was opened or as it was set.
    #[must_use]
    pub const fn root(&self) -> Option<(PhysAddr, u64)> {
        self.facts.root
    }

    /// A random number, drawn anew for each handover: sent beside the descriptor, it tells a stale or swapped arena.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.facts.nonce
    }

    /// The address of offset 0 of the memfd. The page there is the header, which is not part of the memory.
    #[must_use]
    pub fn base(&self) -> PhysAddr {
        PhysAddr::new(self.facts.base())
    }

    /// Bytes of the memfd, the header page included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.facts.size()
    }

    /// How many pages are free.
    #[must_use]
    pub const fn free_pages(&self) -> u64 {
        self.frames.free_pages()
    }

    /// Pages that are free may have bytes in them: each is cleared when it is allocated.
    pub(crate) const fn distrust(&mut self) {
        self.stale = true;
    }

    /// The memfd, for those who pass it on to another process. Not public: it can be written through, also under a
    /// slice.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A descriptor of the memfd that can only be read, closed on exec and with a position of its own: to copy or look
    /// at the arena as a file. One that can be written is given out by [`Arena::into_fd`] only, when no slice is left.
    ///
    /// # Errors
    /// [`Code::Io`] when the system refuses: it is opened through `/proc/self/fd`.
    pub fn read_only_fd(&self) -> Result<OwnedFd, Fault> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let opened = retry_on_intr(|| rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()));
        opened.map_err(|error| io_fault("/proc/self/fd", error))
    }

    /// Gives up the arena and keeps its memfd.
    ///
    /// # Errors
    /// When [mappings](super::Mapping) of it are left, whose bytes could be written through the descriptor: the arena
    /// comes back.
    pub fn into_fd(self) -> Result<OwnedFd, StillMapped> {
        // None can be added meanwhile: that takes a borrow of the arena.
        if self.lease.as_ref().is_some_and(|lease| Arc::strong_count(lease) > 1) {
            return Err(StillMapped { arena: Box::new(self) });
        }
        Ok(self.fd)
    }

    /// Where the address is in the memfd; none below the base.
    pub(super) fn offset(&self, at: PhysAddr) -> Option<u64> {
        at.get().checked_sub(self.facts.base())
    }

    fn io(&self, at: PhysAddr, len: usize, error: impl ToString) -> MemError {
        MemError::Io { at, len: u64_of(len), reason: error.to_string() }
    }

    /// Gives the memory of the pages back to the system: they read as zero from now on.
    fn punch(&self, pages: PageRange) -> Result<(), Errno> {
        let bytes = pages.bytes(self.geometry());
        let offset = self.offset(bytes.start()).ok_or(Errno::INVAL)?;
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry_on_intr(|| fallocate(&self.fd, how, offset, bytes.size()))
    }

    /// Punches pages that are about to be free. Where that fails, allocating them will do it.
    fn give_back(&mut self, pages: PageRange) {
        if self.punch(pages).is_err() {
            self.stale = true;
        }
    }
}

/// An arena of which mappings are left keeps its descriptor: see [`Arena::into_fd`].
#[derive(Debug, thiserror::Error)]
#[error("{}", mapped("into_fd"))]
pub struct StillMapped {
    /// The arena, as it was.
    pub arena: Box<Arena>,
}

impl From<StillMapped> for Fault {
    fn from(_: StillMapped) -> Fault {
        mapped("into_fd")
    }
}

fn mapped(what: &'static str) -> Fault {
    Fault::new(Code::Refused).item(what).found("an arena of which mappings are left")
}

impl Memory for Arena {
    fn geometry(&self) -> Geometry {
        self.facts.geometry
    }

    fn extents(&self) -> &[PhysRange] {
        &self.extents
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        let len = u64_of(to.len());
        let inside = self.extents.iter().any(|extent| extent.contains(at, len));
        let offset = self.offset(at).filter(|_| inside).ok_or(MemError::Outside { at, len })?;
        read_at(self.fd.as_fd(), offset, to).map_err(|error| self.io(at, to.len(), error))
    }
}

impl Frames for Arena {
    fn holds(&self, frame: &Frame) -> bool {
        self.frames.holds(frame)
    }

    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        let frame = self.frames.alloc(order)?;
        if self.stale
            && let Err(error) = self.punch(frame.folio().range())
        {
            let at = frame.folio().addr(self.geometry());
            self.frames.free(frame);
            return Err(MemError::Io { at, len: order.bytes(self.geometry()), reason: error.to_string() });
        }
        Ok(frame)
    }

    /// Gives a block back. One that a predecessor preserved becomes preserved and unclaimed again, with the bytes that
    /// it has, until [`Claim::release_rest`]: so undoing a restore takes nothing away.
    fn free(&mut self, frame: Frame) {
        if !self.frames.holds(&frame) {
            return;
        }
        let frame = match &mut self.phase {
            Phase::Admitted(inherited) => inherited.unclaim(frame),
            Phase::Own | Phase::Opened => Some(frame),
        };
        if let Some(frame) = frame {
            self.give_back(frame.folio().range());
            self.frames.free(frame);
        }
    }

    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError> {
        let len = u64_of(bytes.len());
        let at = self.frames.place(frame, offset, len)?;
        let place = self.offset(at).ok_or(MemError::Outside { at, len })?;
        write_at(self.fd.as_fd(), place, bytes).map_err(|error| self.io(at, bytes.len(), error))
    }
}

impl Claim for Arena {
    /// Nothing is written. Refused also when the same memfd is in use in this process already, as an [`Arena`] or a
    /// [`Mapping`](super::Mapping): two owners of one memory are more than slices allow.
    fn admit(
        &mut self,
        preserved: &mut dyn Iterator<Item = Folio>,
        nodes: &mut dyn Iterator<Item = PageRange>,
    ) -> Result<(), Fault> {
        let lease = match (&self.phase, self.lease.take()) {
            (Phase::Own, lease) => {
                self.lease = lease;
                return Err(Fault::new(Code::Refused).item("admit").found("an arena that no predecessor left"));
            }
            (_, Some(lease)) if Arc::strong_count(&lease) > 1 => {
                self.lease = Some(lease);
                return Err(mapped("admit"));
            }
            (_, Some(lease)) => lease,
            (_, None) => Lease::take(self.fd.as_fd())?,
        };
        self.lease = Some(lease);
        // A new allocator is a new home: frames of before are void.
        let (frames, inherited) = Inherited::new(self.geometry(), self.frames.window(), preserved, nodes)?;
        self.frames = frames;
        self.phase = Phase::Admitted(inherited);
        Ok(())
    }

    fn claim(&mut self, folio: Folio) -> Result<Frame, MemError> {
        match &mut self.phase {
            Phase::Admitted(inherited) => inherited.claim(&self.frames, folio),
            Phase::Own | Phase::Opened => Err(MemError::NotHeld { folio }),
        }
    }

    fn release_rest(&mut self) -> Result<u64, Fault> {
        match &self.phase {
            Phase::Own => return Ok(0),
            Phase::Opened => return Err(not_admitted("release_rest")),
            Phase::Admitted(_) => {}
        }
        // First, so that no header ever names a root that is gone.
        self.set_root(None)?;
        let Phase::Admitted(inherited) = core::mem::replace(&mut self.phase, Phase::Own) else { return Ok(0) };
        for pages in inherited.rest() {
            self.give_back(pages);
            self.frames.release(pages);
        }
        Ok(inherited.unclaimed_pages())
    }
}

/// An empty memfd that nobody can execute as it is.
///
/// Not one of NOEXEC_SEAL where that can be helped: Linux gives every memfd out of a session with the mode 0777, and one
/// that has this seal then gets those against writing too.
fn new_memfd(name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name, flags | MemfdFlags::EXEC) {
        // Linux before 6.3 knows neither flag.
        Err(Errno::INVAL) => memfd_create(name, flags),
        // vm.memfd_noexec=2.
        Err(Errno::ACCESS) => memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL),
        other => other,
    }?;
    fchmod(&fd, Mode::from_raw_mode(0o666))?;
    Ok(fd)
}

fn host_geometry() -> Result<Geometry, Fault> {
    let size = u64_of(rustix::param::page_size());
    Geometry::with_page_size(size).ok_or_else(|| {
        Fault::new(Code::PageSize).item("page size of this machine").found(size).expected("4K, 16K or 64K")
    })
}

fn not_admitted(what: &'static str) -> Fault {
    Fault::new(Code::Refused).item(what).found("an arena whose preserved blocks are not known").expected("admit first")
}

pub(crate) fn random() -> Result<u64, Fault> {
    let mut bytes = [0_u8; 8];
    let got = retry_on_intr(|| getrandom(&mut bytes, GetRandomFlags::empty()));
    match got.map_err(|error| io_fault("getrandom", error))? {
        8 => Ok(u64::from_le_bytes(bytes)),
        short => Err(io_fault("getrandom", format_args!("{short} bytes of 8"))),
    }
}
