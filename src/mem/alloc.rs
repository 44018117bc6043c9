//! Which blocks are free: a buddy allocator that can be rebuilt around what a handover preserved.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Folio, Geometry, MemError, Order, PageRange, Pfn, PhysAddr};

/// Every memory that hands out frames has another number, so that a frame cannot be used in a memory it is not from.
static NEXT_HOME: AtomicU64 = AtomicU64::new(1);

/// A block of pages that is held: to be written by its holder only, and given back once.
///
/// It cannot be copied. Dropping one does not free it: the block stays allocated until its memory goes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped stays allocated"]
pub struct Frame {
    folio: Folio,
    home: u64,
}

/// A number that no other memory has.
pub(crate) fn fresh_home() -> u64 {
    NEXT_HOME.fetch_add(1, Ordering::Relaxed)
}

impl Frame {
    /// A frame of a home that keeps the account of its frames itself.
    pub(crate) const fn of(home: u64, folio: Folio) -> Self {
        Frame { folio, home }
    }

    /// Whose frame it is.
    pub(crate) const fn home(&self) -> u64 {
        self.home
    }

    /// The block.
    #[must_use]
    pub const fn folio(&self) -> Folio {
        self.folio
    }
}

/// The free blocks of a window of pages, and the frames that were handed out of it.
///
/// For those who implement [`Frames`](super::Frames): it makes frames and knows its own. Deterministic: the smallest
/// block that is large enough, and of these the lowest.
///
/// ```
/// use kho::mem::{FrameAllocator, Geometry, Order, PageRange, Pfn};
///
/// let window = PageRange::new(Pfn::new(0x101).unwrap(), 15).unwrap();
/// let mut frames = FrameAllocator::new(Geometry::K4, window);
/// let pages = frames.alloc(Order::new(2).unwrap())?;
/// assert_eq!(pages.folio().pfn().get(), 0x104, "four pages, aligned to four");
/// frames.free(pages);
/// assert_eq!(frames.free_pages(), 15);
/// # Ok::<(), kho::mem::MemError>(())
/// ```
#[derive(Debug)]
pub struct FrameAllocator {
    home: u64,
    geometry: Geometry,
    window: PageRange,
    /// First pages of the free blocks, by order.
    free: Vec<BTreeSet<u64>>,
    free_pages: u64,
}

impl FrameAllocator {
    /// All pages of the window are free.
    #[must_use]
    pub fn new(geometry: Geometry, window: PageRange) -> Self {
        let mut this = Self::empty(geometry, window);
        this.release(window);
        this
    }

    /// No page of the window is free.
    #[must_use]
    pub fn empty(geometry: Geometry, window: PageRange) -> Self {
        FrameAllocator {
            home: fresh_home(),
            geometry,
            window,
            free: (0..=Order::MAX.get()).map(|_| BTreeSet::new()).collect(),
            free_pages: 0,
        }
    }

    /// The page size.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// All pages that this allocator knows of, free or not.
    #[must_use]
    pub const fn window(&self) -> PageRange {
        self.window
    }

    /// How many pages are free.
    #[must_use]
    pub const fn free_pages(&self) -> u64 {
        self.free_pages
    }

    /// The pages of the window that are not free: sorted, and neighbours joined.
    pub(crate) fn used(&self) -> Vec<PageRange> {
        let mut free: Vec<(u64, u64)> = Vec::new();
        for (order, blocks) in self.free.iter().enumerate() {
            free.extend(blocks.iter().map(|&start| (start, start.wrapping_add(1_u64 << order))));
        }
        free.sort_unstable();
        let mut used = Vec::new();
        let mut from = self.window.start().get();
        for (start, end) in free.into_iter().chain([(self.window.end(), self.window.end())]) {
            let gap = Pfn::new(from).and_then(|first| PageRange::new(first, start.saturating_sub(from)));
            used.extend(gap.filter(|gap| gap.count() > 0));
            from = end;
        }
        used
    }

    /// Whether the frame came out of this allocator.
    #[must_use]
    pub const fn holds(&self, frame: &Frame) -> bool {
        frame.home == self.home
    }

    /// Where `len` bytes are that start `offset` bytes into a frame.
    ///
    /// # Errors
    /// [`MemError::NotHeld`] when the frame is of another allocator, [`MemError::Outside`] when the bytes are not all in
    /// its block.
    pub fn place(&self, frame: &Frame, offset: u64, len: u64) -> Result<PhysAddr, MemError> {
        let folio = frame.folio;
        if !self.holds(frame) {
            return Err(MemError::NotHeld { folio });
        }
        let block = folio.range().bytes(self.geometry);
        let at = PhysAddr::new(block.start().get().saturating_add(offset));
        if block.contains(at, len) { Ok(at) } else { Err(MemError::Outside { at, len }) }
    }

    /// Takes the smallest and lowest block that is large enough.
    ///
    /// # Errors
    /// [`MemError::Exhausted`] when there is none.
    pub fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        let (from, start) = self
            .free
            .iter()
            .enumerate()
            .skip(order.index())
            .find_map(|(from, blocks)| blocks.first().map(|&start| (from, start)))
            .ok_or(MemError::Exhausted { order })?;
        self.take(from, start);
        // The upper halves go back, from the largest down.
        for half in (order.index()..from).rev() {
            self.put(half, start.wrapping_add(1_u64 << half));
        }
        let folio = Pfn::new(start).and_then(|pfn| Folio::new(pfn, order)).ok_or(MemError::Exhausted { order })?;
        Ok(Frame { folio, home: self.home })
    }

    /// Takes back a block; one of another allocator is dropped without effect.
    pub fn free(&mut self, frame: Frame) {
        if self.holds(&frame) {
            self.give(frame.folio);
        }
    }

    /// Takes exactly this block, if all of it is free.
    ///
    /// # Errors
    /// [`MemError::NotHeld`] when a page of it is not free.
    pub fn alloc_at(&mut self, folio: Folio) -> Result<Frame, MemError> {
        if !self.is_free(folio) {
            return Err(MemError::NotHeld { folio });
        }
        self.reserve(folio.range());
        Ok(Frame { folio, home: self.home })
    }

    /// A frame for a block that is not free. The caller keeps account of which these are: asked twice, it would make
    /// two frames of one block.
    pub(crate) const fn adopt(&self, folio: Folio) -> Frame {
        Frame { folio, home: self.home }
    }

    /// Makes these pages not free, those of them that are.
    pub fn reserve(&mut self, pages: PageRange) {
        // What lies outside goes back only when all blocks are taken: earlier, a piece could join a block inside the
        // range to one of an order that was visited already.
        let mut outside = Vec::new();
        for order in (0..self.free.len()).rev() {
            let size = 1_u64 << order;
            let low = pages.start().get() & !size.wrapping_sub(1);
            let hit: Vec<u64> = self
                .free
                .get(order)
                .map(|blocks| blocks.range(low..pages.end()).copied().collect())
                .unwrap_or_default();
            for start in hit {
                self.take(order, start);
                let end = start.wrapping_add(size);
                outside.push((start, pages.start().get().max(start)));
                outside.push((pages.end().min(end), end));
            }
        }
        for (from, to) in outside {
            self.release_raw(from, to);
        }
    }

    /// Makes these pages free. They must not be free yet.
    pub(crate) fn release(&mut self, pages: PageRange) {
        self.release_raw(pages.start().get(), pages.end());
    }

    fn release_raw(&mut self, mut from: u64, to: u64) {
        while let Some(rest) = to.checked_sub(from).filter(|&rest| rest > 0) {
            let order = from.trailing_zeros().min(rest.ilog2()).min(Order::MAX.get());
            if let Some(folio) =
                Order::new(order).and_then(|order| Pfn::new(from).and_then(|pfn| Folio::new(pfn, order)))
            {
                self.give(folio);
            }
            from = from.wrapping_add(1 << order);
        }
    }

    /// Frees a block and joins it with its buddy as long as that is free too.
    fn give(&mut self, folio: Folio) {
        let (mut start, mut order) = (folio.pfn().get(), folio.order().index());
        while order < Order::MAX.index() {
            let buddy = start ^ (1_u64 << order);
            if !self.free.get(order).is_some_and(|blocks| blocks.contains(&buddy)) {
                break;
            }
            self.take(order, buddy);
            start &= !(1_u64 << order);
            order = order.saturating_add(1);
        }
        self.put(order, start);
    }

    fn is_free(&self, folio: Folio) -> bool {
        (folio.order().index()..self.free.len()).any(|order| {
            let start = folio.pfn().get() & !(1_u64 << order).wrapping_sub(1);
            self.free.get(order).is_some_and(|blocks| blocks.contains(&start))
        })
    }

    fn take(&mut self, order: usize, start: u64) {
        if self.free.get_mut(order).is_some_and(|blocks| blocks.remove(&start)) {
            self.free_pages = self.free_pages.saturating_sub(1 << order);
        }
    }

    fn put(&mut self, order: usize, start: u64) {
        if self.free.get_mut(order).is_some_and(|blocks| blocks.insert(start)) {
            self.free_pages = self.free_pages.saturating_add(1 << order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: u64, count: u64) -> PageRange {
        PageRange::new(Pfn::new(start).unwrap(), count).unwrap()
    }

    #[test]
    fn freeing_all_gives_back_the_first_block_whole() {
        let mut frames = FrameAllocator::new(Geometry::K4, window(3, 1021));
        let all: Vec<Frame> = std::iter::from_fn(|| frames.alloc(Order::ZERO).ok()).collect();
        assert_eq!((all.len(), frames.free_pages()), (1021, 0));
        assert!(all.windows(2).all(|pair| pair[0].folio() < pair[1].folio()), "lowest first");
        for frame in all {
            frames.free(frame);
        }
        assert_eq!(frames.free_pages(), 1021);
        assert_eq!(frames.alloc(Order::new(9).unwrap()).unwrap().folio().pfn().get(), 512);
    }

    #[test]
    fn a_frame_of_another_allocator_changes_nothing() {
        let mut one = FrameAllocator::new(Geometry::K4, window(0, 8));
        let mut two = FrameAllocator::new(Geometry::K4, window(0, 8));
        let frame = one.alloc(Order::ZERO).unwrap();
        assert!(!two.holds(&frame));
        two.free(frame);
        assert_eq!((one.free_pages(), two.free_pages()), (7, 8));
    }

    proptest::proptest! {
        /// Against a plain list of flags: what is reserved or allocated is not given out again, and nothing is lost.
        #[test]
        fn like_a_list_of_flags(steps in proptest::collection::vec((0_u8..4, 0_u64..300, 0_u32..6), 1..60)) {
            let mut frames = FrameAllocator::new(Geometry::K4, window(5, 256));
            let mut used = [true; 512];
            used[5..261].fill(false);
            let mut held = Vec::new();
            for (what, number, order) in steps {
                let order = Order::new(order).unwrap();
                match what {
                    0 => match frames.alloc(order) {
                        Ok(frame) => held.push(frame),
                        Err(_) => continue,
                    },
                    1 => {
                        let folio = Folio::new(Pfn::new(number >> order.get() << order.get()).unwrap(), order).unwrap();
                        let range = folio.range();
                        let free = (range.start().get()..range.end()).all(|page| !used[page as usize]);
                        match frames.alloc_at(folio) {
                            Ok(frame) => { assert!(free); held.push(frame) }
                            Err(_) => { assert!(!free); continue }
                        }
                    }
                    2 => {
                        let range = window(number, u64::from(order.get()) * 7);
                        frames.reserve(range);
                        for page in range.start().get()..range.end() { used[page as usize] = true; }
                        continue;
                    }
                    _ => {
                        if held.is_empty() { continue }
                        let frame = held.swap_remove(number as usize % held.len());
                        let range = frame.folio().range();
                        for page in range.start().get()..range.end() { used[page as usize] = false; }
                        frames.free(frame);
                        continue;
                    }
                }
                let range = held.last().unwrap().folio().range();
                for page in range.start().get()..range.end() {
                    assert!(!std::mem::replace(&mut used[page as usize], true), "page {page} was given out twice");
                }
            }
            assert_eq!(frames.free_pages(), used[..261].iter().filter(|used| !**used).count() as u64);
        }
    }
}
