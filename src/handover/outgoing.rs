//! The predecessor's half: preserve components, finish, or take it all back.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::MEM_LIMIT;
use super::claims::{coalesce, largest};
use super::finished::{Finished, Root, Unfinished};
use super::scope::{Blob, Home, Kept, Preserve, Scope, release};
use crate::abi::kho;
use crate::compat::CompatList;
use crate::fdt::Builder;
use crate::mem::{
    Bits, Frame, Frames, Geometry, MemError, Order, PageRange, PhysAddr, PhysRange, fresh_home, memory_of,
};
use crate::num::u64_of;
use crate::radix::{self, Tree};
use crate::report::{Code, Fault};

pub(super) struct OutgoingNode {
    name: String,
    compat: CompatList<'static>,
    optional: bool,
    blob: Blob,
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
        Outgoing { memory, tree, owned: Bits::default(), nodes: Vec::new() }
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

    fn write_root(&mut self) -> Result<Root, Fault> {
        let geometry = self.memory.geometry();
        // The size does not depend on where the tree will be.
        let size = u64_of(self.root_fdt(PhysAddr::new(0))?.len());
        let order =
            Order::holding(size, geometry).ok_or_else(|| Fault::new(Code::TooLarge).item("root FDT").found(size))?;
        let page = self.memory.alloc(order)?;
        let folio = page.folio();
        self.tree.add(folio);
        let written = self.write_tree_and_fdt(&page, geometry);
        match written {
            Ok((stored, range)) => Ok(Root { page, stored, range }),
            Err(fault) => {
                self.tree.remove(folio);
                self.memory.free(page);
                Err(fault)
            }
        }
    }

    fn write_tree_and_fdt(&mut self, page: &Frame, geometry: Geometry) -> Result<(radix::Stored, PhysRange), Fault> {
        let stored = self.tree.store(&mut self.memory)?;
        let done = (|| {
            let fdt = self.root_fdt(stored.root)?;
            self.memory.write(page, 0, &fdt)?;
            let range = PhysRange::new(page.folio().addr(geometry), u64_of(fdt.len()))
                .ok_or_else(|| Fault::new(Code::TooLarge).item("root FDT").found(fdt.len()))?;
            self.memory.announce(Some(range))?;
            Ok(range)
        })();
        match done {
            Ok(range) => Ok((stored, range)),
            Err(fault) => {
                stored.free(&mut self.memory);
                Err(fault)
            }
        }
    }

    fn root_fdt(&self, tree: PhysAddr) -> Result<Vec<u8>, Fault> {
        let geometry = self.memory.geometry();
        let mut fdt = Builder::new();
        let mut made_of: Vec<String> = [crate::abi::radix::COMPAT]
            .into_iter()
            .chain(self.nodes.iter().flat_map(|node| node.compat.uses().iter().copied()))
            .map(|compat| compat.to_string())
            .collect();
        made_of.sort_unstable();
        made_of.dedup();
        fdt.strings(kho::COMPATIBLE, [kho::COMPAT.to_string()].into_iter().chain(made_of))?;
        fdt.cells_u32(kho::ADDRESS_CELLS, &[2])?;
        fdt.cells_u32(kho::SIZE_CELLS, &[2])?;
        fdt.u64_native(kho::PRESERVED_MEMORY_MAP, tree.get())?;
        for node in &self.nodes {
            fdt.node(&node.name, |fdt| {
                fdt.strings(kho::COMPATIBLE, node.compat.iter().map(|compat| compat.to_string()))?;
                let mut ranges: Vec<PageRange> = node.kept.folios.iter().map(|folio| folio.range()).collect();
                coalesce(&mut ranges);
                let partial = largest(&mut ranges, MEM_LIMIT);
                let bytes: Vec<PhysRange> = ranges.iter().map(|range| range.bytes(geometry)).collect();
                fdt.mem(&bytes)?;
                if partial {
                    fdt.empty(kho::MEM_PARTIAL)?;
                }
                if node.optional {
                    fdt.empty(kho::OPTIONAL)?;
                }
                fdt.u64_native(kho::PRESERVED_DATA, node.blob.range().start().get())?;
                fdt.u64_native(kho::BLOB_SIZE, node.blob.range().size())
            })?;
        }
        fdt.finish()
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
