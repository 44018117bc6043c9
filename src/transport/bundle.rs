//! An arena and the files that travel beside it: the memory of a handover between processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::turn::Ours;
use crate::abi;
use crate::files::{Beside, Files, Rejected};
use crate::handover::{Home, Outgoing, OwnNode};
use crate::mem::{
    Arena, Claim, Folio, Frame, Frames, MemError, Memory as _, Order, PageRange, PhysAddr, PhysRange, Pour, Pouring,
    Run, memory_of,
};
use crate::num::u64_of;
use crate::report::Fault;

/// An arena and the files that travel beside it.
///
/// ```
/// use kho::handover::Outgoing;
/// use kho::mem::{Frames as _, Order};
/// use kho::transport::Bundle;
///
/// let mut outgoing = Outgoing::new(Bundle::new(1 << 30)?);
/// let mut frame = outgoing.alloc(Order::ZERO)?;
/// outgoing.memory().arena().bytes_mut(&mut frame)?[..5].copy_from_slice(b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bundle {
    arena: Arena,
    files: Files,
    /// What came and may not be this process's own yet.
    ours: Option<Ours>,
}

impl Bundle {
    /// A new arena of at most `size` bytes, sparse, and no files.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn new(size: u64) -> Result<Self, Fault> {
        Ok(Bundle::of(Arena::new(size)?, Files::new()))
    }

    /// What a transport received; the plan checks the files.
    #[must_use]
    pub const fn of(arena: Arena, files: Files) -> Self {
        Bundle { arena, files, ours: None }
    }

    /// Nothing of it is freed before it is this process's own.
    pub(super) fn held_by(self, ours: Option<Ours>) -> Self {
        Bundle { ours, ..self }
    }

    /// The arena.
    #[must_use]
    pub const fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Nothing of it is changed before it is this process's own.
    fn untouched(&self, at: PhysAddr, len: u64) -> Result<(), MemError> {
        let ours = self.ours.as_ref().map_or(Ok(()), Ours::check);
        ours.map_err(|fault| MemError::Io { at, len, reason: fault.to_string() })
    }

    /// Somebody else had it, and may have written to what is free.
    pub(super) const fn distrust(&mut self) {
        self.arena.distrust();
    }

    /// The arena alone; files that are still here are closed.
    #[must_use]
    pub fn into_arena(self) -> Arena {
        self.arena
    }
}

impl Outgoing<Bundle> {
    /// Adds a file that travels by descriptor: see [`Files::add`]. It appears in the node `files`, which is written
    /// when the handover is finished.
    ///
    /// # Errors
    /// As [`Files::add`]; the file comes back.
    pub fn preserve_file(&mut self, token: u64, file: OwnedFd) -> Result<(), Rejected> {
        self.memory_mut().files.add(token, file)
    }

    /// Adds a second descriptor of a file: as [`preserve_file`](Outgoing::preserve_file), for one that the program goes on
    /// with.
    ///
    /// # Errors
    /// As [`Files::add`], and [`Code::Io`](crate::report::Code::Io) when there can be no further descriptor.
    pub fn lend_file(&mut self, token: u64, file: impl AsFd) -> Result<(), Fault> {
        let file = crate::files::duplicate(file)?;
        Ok(self.preserve_file(token, file)?)
    }

    /// Takes back a file that was added; also one that was sent ahead, while the program served
    /// ([`Upgrade::prepare`](super::Upgrade::prepare)): the successor drops it. A file that comes in its place needs a token
    /// of its own.
    pub fn unpreserve_file(&mut self, token: u64) -> Option<OwnedFd> {
        self.memory_mut().files.take(token)
    }
}

impl AsRef<Arena> for Bundle {
    fn as_ref(&self) -> &Arena {
        &self.arena
    }
}

impl Beside for Bundle {
    fn files(&self) -> &Files {
        &self.files
    }

    fn files_mut(&mut self) -> &mut Files {
        &mut self.files
    }
}

impl AsRef<Arena> for Arena {
    fn as_ref(&self) -> &Arena {
        self
    }
}

impl Home for Arena {
    fn announce(&mut self, root: Option<PhysRange>) -> Result<(), Fault> {
        self.set_root(root)
    }
}

impl Home for Bundle {
    fn own_node(&self) -> Result<Option<OwnNode<Self>>, Fault> {
        if self.files.is_empty() {
            return Ok(None);
        }
        Ok(Some((abi::files::NODE, Box::new(self.files.records()?))))
    }

    fn announce(&mut self, root: Option<PhysRange>) -> Result<(), Fault> {
        self.ours.as_ref().map_or(Ok(()), Ours::check)?;
        self.arena.set_root(root)
    }

    fn keep_file(&mut self, file: OwnedFd) -> Result<u64, Fault> {
        let token = self.files.free_token();
        self.files.add(token, file).map_err(|rejected| rejected.fault)?;
        Ok(token)
    }

    fn forget_file(&mut self, token: u64) {
        self.files.take(token);
    }
}

memory_of!([] Bundle, |it| it.arena);

impl Frames for Bundle {
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        // What seems free here may be a block that the predecessor did not preserve, and goes on with.
        self.untouched(self.arena.base(), order.bytes(self.arena.geometry()))?;
        self.arena.alloc(order)
    }

    fn holds(&self, frame: &Frame) -> bool {
        self.arena.holds(frame)
    }

    fn free(&mut self, frame: Frame) {
        self.arena.free(frame);
    }

    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError> {
        self.untouched(frame.folio().addr(self.arena.geometry()), u64_of(bytes.len()))?;
        self.arena.write(frame, offset, bytes)
    }
}

impl Claim for Bundle {
    fn admit(
        &mut self,
        preserved: &mut dyn Iterator<Item = Folio>,
        nodes: &mut dyn Iterator<Item = PageRange>,
    ) -> Result<(), Fault> {
        self.arena.admit(preserved, nodes)
    }

    fn claim(&mut self, folio: Folio) -> Result<Frame, MemError> {
        self.arena.claim(folio)
    }

    fn release_rest(&mut self) -> Result<u64, Fault> {
        self.ours.as_ref().map_or(Ok(()), Ours::check)?;
        self.arena.release_rest()
    }
}

impl Pour for Bundle {
    fn pour(&self, runs: Vec<Run>, file: BorrowedFd<'_>) -> Result<Pouring, MemError> {
        self.arena.pour(runs, file)
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;
    use crate::fdt::Builder;
    use crate::handover::{Incoming, Registry};
    use crate::inspect::{self, Options};
    use crate::mem::Pfn;
    use crate::radix::Tree;
    use crate::report::Code;

    #[test]
    fn a_block_outside_the_arena_is_found_by_the_plan_and_in_a_copy() {
        let mut arena = Arena::new(1 << 20).unwrap();
        let page = arena.alloc(Order::ZERO).unwrap();
        let at = page.folio().addr(arena.geometry());
        let mut tree = Tree::new(arena.geometry());
        tree.add(page.folio());
        tree.add(Folio::page(Pfn::new(arena.base().get() / arena.geometry().page_size() + 512).unwrap()));
        let map = tree.store(&mut arena).unwrap().root;
        let mut fdt = Builder::new();
        fdt.strings("compatible", ["kho-v4"]).unwrap();
        fdt.u64_native("preserved-memory-map", map.get()).unwrap();
        let fdt = fdt.finish().unwrap();
        arena.write(&page, 0, &fdt).unwrap();
        arena.set_root(PhysRange::new(at, fdt.len() as u64)).unwrap();

        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&arena.fd()));
        let shown = inspect::open(path, &Options::default()).unwrap();
        assert_eq!((shown.errors, shown.findings[0].code), (1, Code::Outside));

        let bundle = Bundle::of(Arena::open(arena.into_fd().unwrap()).unwrap(), Files::new());
        let refused = Incoming::new(bundle, at).plan(&Registry::new()).accept().unwrap_err();
        assert_eq!(refused.findings.kept()[0].fault.code(), Code::Outside);
    }
}
