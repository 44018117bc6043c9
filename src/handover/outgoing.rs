//! The predecessor's half: preserve components, finish, or take it all back.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;

use super::finished::{Finished, Unfinished};
use super::linux::{Linux, known_to_linux};
use super::scope::{Blob, Home, Kept, Preserve, Scope, release};
use crate::compat::CompatList;
use crate::mem::{Bits, Frame, Frames, MemError, Order, fresh_home, memory_of};
use crate::radix::Tree;
use crate::report::{Code, Fault};

pub(super) struct OutgoingNode {
    pub(super) name: String,
    pub(super) compat: CompatList<'static>,
    pub(super) optional: bool,
    pub(super) blob: Blob,
    pub(super) kept: Kept,
}

/// A handover that is being made.
///
/// The memory belongs to it until it is given back: blocks are allocated and written through it, and what is preserved
/// cannot be freed by mistake.
///
/// ```
/// use kho::handover::Outgoing;
/// use kho::payload::Bytes;
/// # use kho::compat::{Compat, CompatList};
/// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
/// # const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
/// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
///
/// let mut outgoing = Outgoing::new(ram);
/// outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"42 requests" })?;
/// assert!(outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"" }).is_err(), "a name is taken once");
///
/// let finished = outgoing.finish()?;
/// assert_eq!(finished.metadata_bytes(), 8 * 4096, "the blob, six nodes of the tree and the root FDT");
/// let mut outgoing = finished.cancel()?; // Staying after all.
/// assert!(outgoing.unpreserve("state"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Outgoing<M: Home> {
    pub(super) memory: M,
    pub(super) tree: Tree,
    /// Every page that is preserved.
    owned: Bits,
    pub(super) nodes: Vec<OutgoingNode>,
    /// What the next kernel needs, when it is for one.
    pub(super) linux: Option<Linux>,
}

impl<M: Home> core::fmt::Debug for Outgoing<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let nodes: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        f.debug_struct("Outgoing").field("nodes", &nodes).finish_non_exhaustive()
    }
}

impl<M: Home> Outgoing<M> {
    /// Nothing is preserved yet.
    #[must_use]
    pub fn new(memory: M) -> Self {
        let tree = Tree::new(memory.geometry());
        Outgoing { memory, tree, owned: Bits::default(), nodes: Vec::new(), linux: None }
    }

    /// Preserves a component as the node `name`: all of it, or on an error nothing.
    ///
    /// # Errors
    /// [`Code::FdtName`] for a name that a device tree cannot have, [`Code::FdtDuplicate`] for one that is taken, and
    /// whatever the component says.
    pub fn preserve<C: Preserve<M> + ?Sized>(&mut self, name: &str, component: &C) -> Result<(), Fault> {
        crate::fdt::check_node_name(name)?;
        if self.nodes.iter().any(|node| node.name == name) {
            return Err(Fault::new(Code::FdtDuplicate).item(name.to_owned()).found("a node of that name"));
        }
        if self.linux.is_some() {
            known_to_linux(name, component.compat().owner())?;
        }
        let mut scope = Scope {
            memory: &mut self.memory,
            tree: &mut self.tree,
            owned: &mut self.owned,
            kept: Kept::default(),
            home: fresh_home(),
        };
        match component.preserve(&mut scope) {
            Ok(blob) => {
                let kept = scope.kept;
                let (compat, optional) = (component.compat(), component.optional());
                self.nodes.push(OutgoingNode { name: name.to_owned(), compat, optional, blob, kept });
                Ok(())
            }
            Err(fault) => {
                scope.unwind();
                Err(fault)
            }
        }
    }

    /// Takes back what was preserved as that node; whether there was one.
    pub fn unpreserve(&mut self, name: &str) -> bool {
        let Some(at) = self.nodes.iter().position(|node| node.name == name) else { return false };
        let node = self.nodes.remove(at);
        release(&mut self.memory, &mut self.tree, &mut self.owned, node.kept);
        true
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    #[cfg(feature = "std")]
    pub(crate) const fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Takes everything back, and gives the memory.
    #[must_use]
    pub fn into_memory(mut self) -> M {
        while let Some(node) = self.nodes.pop() {
            release(&mut self.memory, &mut self.tree, &mut self.owned, node.kept);
        }
        if let Some(linux) = self.linux {
            self.memory.free(linux.array);
        }
        self.memory
    }

    /// Writes the tree and the root FDT.
    ///
    /// # Errors
    /// What went wrong, with the handover as it was before: nothing is lost, and it may be tried again.
    pub fn finish(mut self) -> Result<Finished<M>, Unfinished<M>> {
        let own = match self.memory.own_node() {
            Ok(None) => None,
            Ok(Some((name, component))) => match self.preserve(name, &*component) {
                Ok(()) => Some(name),
                Err(fault) => return Err(Unfinished { fault: fault.within(name), outgoing: self }),
            },
            Err(fault) => return Err(Unfinished { fault, outgoing: self }),
        };
        match self.write_root() {
            Ok(root) => Ok(Finished { outgoing: self, root, own }),
            Err(fault) => {
                if let Some(name) = own {
                    self.unpreserve(name);
                }
                Err(Unfinished { fault, outgoing: self })
            }
        }
    }
}

memory_of!([M: Home] Outgoing<M>, |it| it.memory);

impl<M: Home> Frames for Outgoing<M> {
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        self.memory.alloc(order)
    }

    fn holds(&self, frame: &Frame) -> bool {
        self.memory.holds(frame)
    }

    /// A block that is preserved is not freed: unpreserve it first.
    fn free(&mut self, frame: Frame) {
        let range = frame.folio().range();
        if self.owned.next_set(range.start().get()).is_none_or(|page| page >= range.end()) {
            self.memory.free(frame);
        }
    }

    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError> {
        self.memory.write(frame, offset, bytes)
    }
}
