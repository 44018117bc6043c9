//! What the predecessor's components write into.

use alloc::borrow::ToOwned as _;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::layouts::Layouts;
use crate::abi::{self, Plain};
use crate::block::{self, BlockSet};
use crate::compat::{Compat, CompatList, CompatVec};
use crate::mem::{
    Bits, Folio, Frame, Frames, MemError, Memory, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram, memory_of,
};
use crate::num::u64_of;
use crate::radix::Tree;
use crate::report::{Code, Fault};
use crate::state::Description;
use crate::vmalloc::{self, Area};

/// A component of the predecessor: something that writes a node of the handover.
pub trait Preserve<M: Home> {
    /// What the node is made of in the newest version that can be written: its owner first, then the layouts that it
    /// uses. Those stand here in the version that is written by default.
    fn compat(&self) -> CompatList<'static>;

    /// Older versions that can be written too, for a successor that reads no newer one: [`Scope::version`] tells which
    /// one it is to be. See [`Outgoing::write_for`](super::Outgoing::write_for).
    fn older(&self) -> &'static [CompatList<'static>] {
        &[]
    }

    /// The states that are written, of a node that has states: they must be in the manifest.
    fn states(&self) -> Vec<Description> {
        Vec::new()
    }

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

    /// Never hands out a page of these bytes, which are somebody else's.
    ///
    /// # Errors
    /// [`Code::Refused`] when it cannot promise that, as a memory that has these pages and does not know how.
    fn keep_out(&mut self, owner: &str, bytes: PhysRange) -> Result<(), Fault> {
        let common = |extent: &PhysRange| extent.start() < bytes.end() && bytes.start() < extent.end();
        if self.extents().iter().any(common) {
            let fault = Fault::new(Code::Refused).address(bytes.start().get()).item(owner.to_owned());
            return Err(fault.found("a memory that has these pages, and cannot keep them out"));
        }
        Ok(())
    }

    /// Takes exactly this block, if all of it is free.
    ///
    /// # Errors
    /// [`MemError::NotHeld`] when a page of it is not free, or this memory chooses places itself.
    fn alloc_at(&mut self, folio: Folio) -> Result<Frame, MemError> {
        Err(MemError::NotHeld { folio })
    }

    /// Takes a descriptor that travels beside the memory, and chooses its token.
    ///
    /// # Errors
    /// [`Code::Refused`] when nothing travels beside it; [`Code::FileKind`] for a file that cannot travel.
    #[cfg(feature = "std")]
    fn keep_file(&mut self, file: std::os::fd::OwnedFd) -> Result<u64, Fault> {
        let _ = file;
        let fault = Fault::new(Code::Refused).found("a descriptor, in a memory that no descriptor travels beside");
        Err(fault.expected("a bundle of an arena and files"))
    }

    /// Gives back a descriptor of [`Home::keep_file`].
    #[cfg(feature = "std")]
    fn forget_file(&mut self, token: u64) {
        let _ = token;
    }
}

impl Home for Ram {
    fn keep_out(&mut self, owner: &str, bytes: PhysRange) -> Result<(), Fault> {
        Ram::keep_out(self, owner, bytes)
    }

    fn alloc_at(&mut self, folio: Folio) -> Result<Frame, MemError> {
        Ram::alloc_at(self, folio)
    }
}

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
    pub(super) memory: &'a mut M,
    pub(super) tree: &'a mut Tree,
    pub(super) owned: &'a mut Bits,
    pub(super) kept: Kept,
    /// What the node is written as.
    pub(super) made_of: &'a CompatVec<'static>,
    pub(super) layouts: &'a Layouts,
    /// The states that the successor reads, where it is known.
    pub(super) reader: Option<&'a [Description]>,
    /// Frames that the scope hands out are of this home, so that only the scope can write or free them; the frames of
    /// the memory stay here.
    pub(super) home: u64,
}

/// What a node holds.
#[derive(Default)]
pub(super) struct Kept {
    /// Frames that were allocated through the scope, by first page.
    pub(super) frames: BTreeMap<u64, Frame>,
    /// Every block that was preserved, the frames included, in order of preserving.
    pub(super) folios: Vec<Folio>,
    /// Pages of the frames that are contents, not metadata.
    pub(super) bulk: u64,
    /// Tokens of descriptors.
    #[cfg(feature = "std")]
    pub(super) files: Vec<u64>,
    /// What is left behind.
    pub(super) warnings: Vec<Fault>,
}

impl<'a, M: Home> Scope<'a, M> {
    /// The number of the version in which the node is to be written: that of [`Preserve::compat`], or of one of
    /// [`Preserve::older`] that the successor reads.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.made_of.list().owner().version()
    }

    /// The version in which the node uses a layout; where its list does not say, `implied`.
    fn used(&self, implied: Compat<'static>) -> Compat<'static> {
        self.made_of.find(implied.name()).unwrap_or(implied)
    }

    /// Writes what describes the area, in the version that the node's list names.
    ///
    /// # Errors
    /// As [`Area::store`].
    pub fn area(&mut self, area: &Area) -> Result<vmalloc::Stored, Fault> {
        let (version, layouts) = (self.used(abi::vmalloc::COMPAT), self.layouts);
        layouts.vmalloc(version)?.store(version, area, self)
    }

    /// Copies bytes into new blocks of that order and describes them, in the version that the node's list names.
    ///
    /// # Errors
    /// As [`vmalloc::store_bytes`].
    pub fn area_of(&mut self, order: Order, bytes: &[u8]) -> Result<vmalloc::Stored, Fault> {
        let (version, layouts) = (self.used(abi::vmalloc::COMPAT), self.layouts);
        vmalloc::store_bytes_as(layouts.vmalloc(version)?, version, self, order, bytes)
    }

    /// Writes a block set, in the version that the node's list names.
    ///
    /// # Errors
    /// As [`BlockSet::store`].
    pub fn records<R: Plain>(&mut self, set: &BlockSet<R>) -> Result<block::Stored, Fault> {
        let (version, layouts) = (self.used(abi::block::COMPAT), self.layouts);
        set.store_as(layouts.block(version)?, version, self)
    }

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

    /// Allocates and preserves contiguous pages as Linux does it: in the largest blocks that fit. They start at a
    /// multiple of the block `align`, and are one range.
    ///
    /// # Errors
    /// [`Code::TooLarge`] for no pages or too many, [`Code::Exhausted`] when there is no such run, [`Code::Refused`]
    /// when this memory chooses places itself.
    pub fn alloc_run(&mut self, pages: u64, align: Order) -> Result<(PageRange, Vec<Frame>), Fault> {
        let geometry = self.geometry();
        let bytes = pages.checked_mul(geometry.page_size()).filter(|&bytes| bytes > 0);
        let order = bytes.and_then(|bytes| Order::holding(bytes, geometry));
        let order = order.ok_or_else(|| Fault::new(Code::TooLarge).item("pages").found(pages))?;
        // A block that is large enough says where; it is given back, and its front taken in pieces.
        let whole = self.memory.alloc(order.max(align))?;
        let start = whole.folio().pfn();
        self.memory.free(whole);
        let run = PageRange::new(start, pages).ok_or_else(|| Fault::new(Code::TooLarge).item("pages").found(pages))?;
        let mut frames = Vec::new();
        let mut from = start.get();
        while let Some(rest) = run.end().checked_sub(from).filter(|&rest| rest > 0) {
            let order = Order::new(from.trailing_zeros().min(rest.ilog2()).min(Order::MAX.get()));
            let folio = order.and_then(|order| Folio::new(Pfn::new(from)?, order));
            let folio = folio.ok_or_else(|| Fault::new(Code::TooLarge).item("pages").found(pages))?;
            let frame = self.memory.alloc_at(folio)?;
            frames.push(self.hold(frame)?);
            self.kept.bulk = self.kept.bulk.saturating_add(folio.order().pages());
            from = from.saturating_add(folio.order().pages());
        }
        Ok((run, frames))
    }

    /// Preserves a frame of the memory, which belongs to the node from now on.
    fn hold(&mut self, frame: Frame) -> Result<Frame, MemError> {
        let folio = frame.folio();
        if self.keep(folio).is_err() {
            // Only a memory that hands out what it handed out before comes here.
            self.memory.free(frame);
            return Err(MemError::NotHeld { folio });
        }
        self.kept.frames.insert(folio.pfn().get(), frame);
        Ok(Frame::of(self.home, folio))
    }

    /// The states that the successor reads in this node, where [`Outgoing::write_for`](super::Outgoing::write_for) was
    /// told of it.
    #[must_use]
    pub const fn reader_states(&self) -> Option<&'a [Description]> {
        self.reader
    }

    /// Lets a descriptor travel; its token. It belongs to the node, as pages do.
    ///
    /// # Errors
    /// As [`Home::keep_file`].
    #[cfg(feature = "std")]
    pub fn keep_file(&mut self, file: std::os::fd::OwnedFd) -> Result<u64, Fault> {
        let token = self.memory.keep_file(file)?;
        self.kept.files.push(token);
        Ok(token)
    }

    /// Tells something that the node is written without: see [`Outgoing::warnings`](super::Outgoing::warnings).
    pub fn warn(&mut self, fault: Fault) {
        self.kept.warnings.push(fault);
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

    pub(super) fn unwind(self) {
        release(self.memory, self.tree, self.owned, self.kept);
    }
}

pub(super) fn release<M: Home>(memory: &mut M, tree: &mut Tree, owned: &mut Bits, kept: Kept) {
    for folio in kept.folios {
        tree.remove(folio);
        owned.remove_range(folio.pfn().get(), folio.order().pages());
    }
    for frame in kept.frames.into_values() {
        memory.free(frame);
    }
    #[cfg(feature = "std")]
    kept.files.into_iter().for_each(|token| memory.forget_file(token));
}

memory_of!([M: Home] Scope<'_, M>, |it| it.memory);

impl<M: Home> Frames for Scope<'_, M> {
    /// Allocates and preserves: the block belongs to the node, also when the frame is dropped.
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        let frame = self.memory.alloc(order)?;
        self.hold(frame)
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
