//! An arena and the files that travel beside it: the memory of a handover between processes.

use std::os::fd::{BorrowedFd, OwnedFd};

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::abi;
use crate::files::{Beside, Files, Rejected};
use crate::handover::{Home, Outgoing, OwnNode};
use crate::mem::{
    Arena, Claim, Folio, Frame, Frames, Geometry, MemError, Memory, Order, PageRange, PhysAddr, PhysRange, Pour,
    Pouring, Run,
};
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
}

impl Bundle {
    /// A new arena of at most `size` bytes, sparse, and no files.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn new(size: u64) -> Result<Self, Fault> {
        Ok(Bundle { arena: Arena::new(size)?, files: Files::new() })
    }

    /// What a transport received; the plan checks the files.
    #[must_use]
    pub const fn of(arena: Arena, files: Files) -> Self {
        Bundle { arena, files }
    }

    /// The arena.
    #[must_use]
    pub const fn arena(&self) -> &Arena {
        &self.arena
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

    /// Takes back a file that was added.
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
        self.arena.set_root(root)
    }
}

impl Memory for Bundle {
    fn geometry(&self) -> Geometry {
        self.arena.geometry()
    }

    fn extents(&self) -> &[PhysRange] {
        self.arena.extents()
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        self.arena.read(at, to)
    }
}

impl Frames for Bundle {
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        self.arena.alloc(order)
    }

    fn holds(&self, frame: &Frame) -> bool {
        self.arena.holds(frame)
    }

    fn free(&mut self, frame: Frame) {
        self.arena.free(frame);
    }

    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError> {
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
        self.arena.release_rest()
    }
}

impl Pour for Bundle {
    fn pour(&self, runs: Vec<Run>, file: BorrowedFd<'_>) -> Result<Pouring, MemError> {
        self.arena.pour(runs, file)
    }
}
