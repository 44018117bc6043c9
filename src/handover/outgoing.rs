//! The predecessor's half: preserve components, finish, or take it all back.

use alloc::borrow::ToOwned as _;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::MEM_LIMIT;
use super::claims::{coalesce, largest};
use crate::abi::kho;
use crate::compat::CompatList;
use crate::fdt::Builder;
use crate::mem::{
    Bits, Folio, Frame, Frames, Geometry, MemError, Memory, Order, PageRange, PhysAddr, PhysRange, fresh_home,
};
use crate::num::u64_of;
use crate::radix::{self, Tree};
use crate::report::{Code, Fault};

/// A component of the predecessor: something that writes a node of the handover.
pub trait Preserve<M: Home> {
    /// What the node is made of: its owner first, then the layouts that it uses.
    fn compat(&self) -> CompatList<'static>;

    /// Whether a successor that does not understand the node may leave it.
    fn optional(&self) -> bool {
        false
    }

    /// Writes the node's data. Everything that is allocated or preserved through the scope belongs to the node, and is
    /// taken back when this fails.
    ///
    /// # Errors
    /// Whatever makes it impossible; nothing stays preserved then.
    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault>;
}

/// Name of a node, and the component that writes it.
pub type OwnNode<M> = (&'static str, Box<dyn Preserve<M>>);

/// Memory that a handover can be made in.
pub trait Home: Frames + Sized {
    /// A node that the memory itself adds when the handover is finished: the table of the files that travel with it.
    ///
    /// # Errors
    /// What makes it impossible to hand over what the memory holds.
    fn own_node(&self) -> Result<Option<OwnNode<Self>>, Fault> {
        Ok(None)
    }

    /// Remembers where the root FDT is, for whoever opens this memory next; [`None`] takes it back.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn announce(&mut self, root: Option<PhysRange>) -> Result<(), Fault> {
        let _ = root;
        Ok(())
    }
}

impl Home for crate::mem::Ram {}

/// The blob of a node: where it is, and how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob(PhysRange);

impl Blob {
    /// The bytes of it.
    #[must_use]
    pub const fn range(self) -> PhysRange {
        self.0
    }
}

/// One node while it is being written. Allocating through it preserves.
pub struct Scope<'a, M: Home> {
    memory: &'a mut M,
    tree: &'a mut Tree,
    owned: &'a mut Bits,
    kept: Kept,
    /// Frames that the scope hands out are of this home, so that only the scope can write or free them; the frames of
    /// the memory stay here.
    home: u64,
}

/// What a node holds.
#[derive(Default)]
struct Kept {
    /// Frames that were allocated through the scope, by first page.
    frames: BTreeMap<u64, Frame>,
    /// Every block that was preserved, the frames included, in order of preserving.
    folios: Vec<Folio>,
    /// Pages of the frames that are contents, not metadata.
    bulk: u64,
}

impl<'a, M: Home> Scope<'a, M> {
    /// Preserves a block that the user holds. Neighbouring blocks are not merged: each is restored as it was preserved.
    ///
    /// # Errors
    /// [`Code::Refused`] when the frame is not of this memory, [`Code::OwnedTwice`] when a page of it is preserved.
    pub fn preserve(&mut self, frame: &Frame) -> Result<(), Fault> {
        if !self.memory.holds(frame) {
            return Err(MemError::NotHeld { folio: frame.folio() }.into());
        }
        self.keep(frame.folio())
    }

    /// Writes a blob into a block of its own and preserves that.
    ///
    /// # Errors
    /// When no memory is left or it cannot be written.
    pub fn blob(&mut self, bytes: &[u8]) -> Result<Blob, Fault> {
        self.blob_of_order(bytes, Order::ZERO)
    }

    /// Like [`Scope::blob`], in a block of at least that order.
    ///
    /// # Errors
    /// When no memory is left or it cannot be written.
    pub fn blob_of_order(&mut self, bytes: &[u8], at_least: Order) -> Result<Blob, Fault> {
        let geometry = self.geometry();
        let order = Order::holding(u64_of(bytes.len()), geometry)
            .ok_or_else(|| Fault::new(Code::TooLarge).item("blob").found(bytes.len()))?;
        let frame = self.alloc(order.max(at_least))?;
        self.write(&frame, 0, bytes)?;
        self.blob_at(frame.folio().addr(geometry), u64_of(bytes.len()))
    }

    /// Names bytes that were written already as the blob.
    ///
    /// # Errors
    /// [`Code::TooLarge`] when they pass the end of the address space.
    pub fn blob_at(&self, at: PhysAddr, bytes: u64) -> Result<Blob, Fault> {
        PhysRange::new(at, bytes)
            .map(Blob)
            .ok_or_else(|| Fault::new(Code::TooLarge).address(at.get()).item("blob").found(bytes))
    }

    /// Allocates and preserves a block for contents. Like [`Frames::alloc`], but it does not count as metadata.
    ///
    /// # Errors
    /// [`MemError::Exhausted`] when none is left.
    pub fn alloc_bulk(&mut self, order: Order) -> Result<Frame, MemError> {
        let frame = self.alloc(order)?;
        self.kept.bulk = self.kept.bulk.saturating_add(order.pages());
        Ok(frame)
    }

    /// The memory itself, to read what the user's frames hold.
    #[must_use]
    pub const fn memory(&self) -> &M {
        self.memory
    }

    fn keep(&mut self, folio: Folio) -> Result<(), Fault> {
        let range = folio.range();
        let taken = self.owned.next_set(range.start().get()).filter(|&page| page < range.end());
        if let Some(page) = taken {
            return Err(Fault::new(Code::OwnedTwice)
                .address(page << self.geometry().page_shift())
                .found(format_args!("{folio}, of which a page is preserved already")));
        }
        self.owned.insert_range(range.start().get(), range.count());
        self.tree.add(folio);
        self.kept.folios.push(folio);
        Ok(())
    }

    fn unwind(self) {
        release(self.memory, self.tree, self.owned, self.kept);
    }
}

fn release<M: Home>(memory: &mut M, tree: &mut Tree, owned: &mut Bits, kept: Kept) {
    for folio in kept.folios {
        tree.remove(folio);
        owned.remove_range(folio.pfn().get(), folio.order().pages());
    }
    for frame in kept.frames.into_values() {
        memory.free(frame);
    }
}

impl<M: Home> Memory for Scope<'_, M> {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    fn extents(&self) -> &[PhysRange] {
        self.memory.extents()
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        self.memory.read(at, to)
    }
}

impl<M: Home> Frames for Scope<'_, M> {
    /// Allocates and preserves: the block belongs to the node, also when the frame is dropped.
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        let frame = self.memory.alloc(order)?;
        let folio = frame.folio();
        if self.keep(folio).is_err() {
            // Only a memory that hands out what it handed out before comes here.
            self.memory.free(frame);
            return Err(MemError::NotHeld { folio });
        }
        self.kept.frames.insert(folio.pfn().get(), frame);
        Ok(Frame::of(self.home, folio))
    }

    fn holds(&self, frame: &Frame) -> bool {
        frame.home() == self.home && self.kept.frames.contains_key(&frame.folio().pfn().get())
    }

    fn free(&mut self, frame: Frame) {
        if !self.holds(&frame) {
            return;
        }
        let folio = frame.folio();
        if let Some(real) = self.kept.frames.remove(&folio.pfn().get()) {
            self.tree.remove(folio);
            self.owned.remove_range(folio.pfn().get(), folio.order().pages());
            // The blocks freed are mostly those allocated last: an error unwinds from the end.
            if let Some(at) = self.kept.folios.iter().rposition(|&kept| kept == folio) {
                self.kept.folios.remove(at);
            }
            self.memory.free(real);
        }
    }

    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError> {
        let folio = frame.folio();
        match self.kept.frames.get(&folio.pfn().get()) {
            Some(real) if frame.home() == self.home => self.memory.write(real, offset, bytes),
            _ => Err(MemError::NotHeld { folio }),
        }
    }
}

struct OutgoingNode {
    name: String,
    compat: CompatList<'static>,
    optional: bool,
    blob: Blob,
    kept: Kept,
}

/// A handover that is being made.
///
/// The memory belongs to it until it is given back: blocks are allocated and written through it, and what is preserved
/// cannot be freed by mistake.
pub struct Outgoing<M: Home> {
    memory: M,
    tree: Tree,
    /// Every page that is preserved.
    owned: Bits,
    nodes: Vec<OutgoingNode>,
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
                fdt.u64_native(kho::PRESERVED_DATA, node.blob.0.start().get())?;
                fdt.u64_native(kho::BLOB_SIZE, node.blob.0.size())
            })?;
        }
        fdt.finish()
    }
}

impl<M: Home> Memory for Outgoing<M> {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    fn extents(&self) -> &[PhysRange] {
        self.memory.extents()
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        self.memory.read(at, to)
    }
}

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

struct Root {
    page: Frame,
    stored: radix::Stored,
    range: PhysRange,
}

/// A handover that could not be finished, as it was before.
#[derive(thiserror::Error)]
#[error("{fault}")]
pub struct Unfinished<M: Home> {
    /// Why.
    pub fault: Fault,
    /// The handover, unchanged.
    pub outgoing: Outgoing<M>,
}

impl<M: Home> core::fmt::Debug for Unfinished<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Unfinished").field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// A handover that is ready to leave: tree and root FDT are written.
pub struct Finished<M: Home> {
    outgoing: Outgoing<M>,
    root: Root,
    own: Option<&'static str>,
}

impl<M: Home> core::fmt::Debug for Finished<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Finished").field("root", &self.root.range).finish_non_exhaustive()
    }
}

impl<M: Home> Finished<M> {
    /// Where the root FDT is.
    #[must_use]
    pub const fn root(&self) -> PhysRange {
        self.root.range
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.outgoing.memory
    }

    /// The bytes of the root FDT.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn root_fdt(&self) -> Result<Vec<u8>, Fault> {
        let mut bytes = alloc::vec![0; crate::num::usize_of(self.root.range.size())];
        self.outgoing.memory.read(self.root.range.start(), &mut bytes)?;
        Ok(bytes)
    }

    /// Bytes of metadata that were written: tree, root FDT and everything that components allocated through their
    /// scopes, in whole pages.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        let kept = self.outgoing.nodes.iter().map(|node| {
            let all =
                node.kept.frames.values().fold(0_u64, |sum, frame| sum.saturating_add(frame.folio().order().pages()));
            all.saturating_sub(node.kept.bulk)
        });
        let root = [u64_of(self.root.stored.nodes.len()), self.root.page.folio().order().pages()];
        let pages: u64 = kept.chain(root).fold(0, u64::saturating_add);
        pages.saturating_mul(self.outgoing.memory.geometry().page_size())
    }

    /// Gives up leaving: the handover as it was before it was finished.
    ///
    /// # Errors
    /// When the memory cannot forget where the root was; it is still usable.
    pub fn cancel(self) -> Result<Outgoing<M>, Unfinished<M>> {
        let Finished { mut outgoing, root, own } = self;
        outgoing.tree.remove(root.page.folio());
        outgoing.memory.free(root.page);
        root.stored.free(&mut outgoing.memory);
        if let Some(name) = own {
            outgoing.unpreserve(name);
        }
        match outgoing.memory.announce(None) {
            Ok(()) => Ok(outgoing),
            Err(fault) => Err(Unfinished { fault, outgoing }),
        }
    }

    /// Leaves: the memory as it stands, for any transport, and where the root FDT is. Frames of the predecessor are
    /// still good for it.
    #[must_use]
    pub fn into_parts(self) -> (M, PhysRange) {
        (self.outgoing.memory, self.root.range)
    }
}
