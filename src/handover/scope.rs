//! What the predecessor's components write into.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::compat::CompatList;
use crate::mem::{Bits, Folio, Frame, Frames, MemError, Memory, Order, PhysAddr, PhysRange, memory_of};
use crate::num::u64_of;
use crate::radix::Tree;
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
    pub(super) memory: &'a mut M,
    pub(super) tree: &'a mut Tree,
    pub(super) owned: &'a mut Bits,
    pub(super) kept: Kept,
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
}

memory_of!([M: Home] Scope<'_, M>, |it| it.memory);

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
