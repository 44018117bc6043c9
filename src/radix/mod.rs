//! Which pages are preserved: Linux's `radix-v1`.
//!
//! A [`Tree`] is a set of blocks ([`Folio`]s). The block is the unit of preserving and of restoring: two neighbours are
//! never joined, and a run of pages is cut into blocks exactly as Linux cuts it ([`split`]). In memory the set is a few
//! bitmaps (`heap.rs`); Linux's pages of nodes and leaves are made by [`Tree::store`] and read by [`Tree::load`].
//!
//! ```
//! use kho::mem::{Geometry, PageRange, Pfn, Ram};
//! use kho::radix::Tree;
//!
//! let pages = |start, count| PageRange::new(Pfn::new(start).unwrap(), count).unwrap();
//! let mut tree = Tree::new(Geometry::K4);
//! assert_eq!(tree.add_range(pages(0x101, 7)), 7);
//! assert_eq!(tree.len(), 3, "orders 0, 1 and 2");
//! assert_eq!(tree.ranges().collect::<Vec<_>>(), [pages(0x101, 7)]);
//!
//! let mut ram = Ram::new(Geometry::K4, pages(0x1000, 16));
//! let stored = tree.store(&mut ram)?;
//! assert_eq!(Tree::load(&ram, stored.root)?.tree, tree);
//! # Ok::<(), kho::report::Fault>(())
//! ```

mod heap;
#[cfg(test)]
mod hostile;
mod iter;
mod split;
#[cfg(test)]
mod tests;
mod wire;

use crate::mem::{Bits, Folio, Geometry, Order, PageRange, Pfn};
use crate::report::{Code, Fault};
use heap::{LEVELS, Place, Small, block, holding, locate, pages_of};

pub use crate::abi::radix::COMPAT;
pub use iter::{Folios, Ranges};
pub use split::{Nodes, Split, split};
pub use wire::{Loaded, Stored};

/// A set of preserved blocks.
///
/// Blocks may overlap, because those of a foreign tree may: [`Tree::check_disjoint`] says so. The memory that it takes
/// is proportional to the touched bitmaps, whatever the size of the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    geometry: Geometry,
    levels: [Bits; LEVELS],
    /// Sum over all blocks. Cannot overflow: each of the 47 orders has at most 2^47 pages.
    pages: u64,
}

impl Tree {
    /// The empty tree. Takes no memory.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        Tree { geometry, levels: [const { Bits::new() }; LEVELS], pages: 0 }
    }

    /// The page size.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Adds exactly this block; whether it is new.
    #[inline]
    pub fn add(&mut self, folio: Folio) -> bool {
        let (level, word, bit) = locate(folio);
        let Some(bits) = self.levels.get_mut(level) else { return false };
        let new = bits.insert_word(word, 1 << bit) != 0;
        self.pages = self.pages.wrapping_add(u64::from(new) << folio.order().get());
        new
    }

    /// Removes exactly this block; whether it was there.
    pub fn remove(&mut self, folio: Folio) -> bool {
        let (level, word, bit) = locate(folio);
        let Some(bits) = self.levels.get_mut(level) else { return false };
        let old = bits.remove_word(word, 1 << bit) != 0;
        self.pages = self.pages.wrapping_sub(u64::from(old) << folio.order().get());
        old
    }

    /// Adds the blocks of a run of pages, cut as [`split`] cuts it. How many pages the new blocks have: `range.count()`
    /// unless one of these very blocks was there.
    #[inline]
    pub fn add_range(&mut self, range: PageRange) -> u64 {
        let new = self.change(range, 0, Bits::insert_word);
        self.pages = self.pages.wrapping_add(new);
        new
    }

    /// As [`Tree::add_range`], with blocks that stay within a NUMA node.
    pub fn add_range_within(&mut self, range: PageRange, nodes: &Nodes<'_>) -> u64 {
        split(range, nodes).filter(|&folio| self.add(folio)).map(|folio| folio.order().pages()).sum()
    }

    /// Removes the blocks of a run of pages that was added as this one run. How many pages the removed blocks had.
    pub fn remove_range(&mut self, range: PageRange) -> u64 {
        let old = self.change(range, u64::MAX, Bits::remove_word);
        self.pages = self.pages.wrapping_sub(old);
        old
    }

    /// As [`Tree::remove_range`], for what [`Tree::add_range_within`] added.
    pub fn remove_range_within(&mut self, range: PageRange, nodes: &Nodes<'_>) -> u64 {
        split(range, nodes).filter(|&folio| self.remove(folio)).map(|folio| folio.order().pages()).sum()
    }

    /// Whether exactly this block is preserved.
    #[must_use]
    pub fn contains(&self, folio: Folio) -> bool {
        let (level, word, bit) = locate(folio);
        self.levels.get(level).is_some_and(|bits| bits.word(word) >> bit & 1 != 0)
    }

    /// [`Tree::contains`] for many blocks of one order: by their first page, fastest in ascending order.
    pub fn blocks_of(&self, order: Order) -> impl FnMut(Pfn) -> bool + '_ {
        let place = Place::of(order.get());
        let mut level = self.levels.get(place.level).map(Bits::cursor);
        move |pfn| {
            let (word, bit) = place.bit(pfn.get() >> order.get());
            let aligned = pfn.get() & order.pages().wrapping_sub(1) == 0;
            aligned && level.as_mut().is_some_and(|bits| bits.word(word) >> bit & 1 != 0)
        }
    }

    /// The preserved block that contains a page; the smallest, should there be several.
    #[must_use]
    pub fn holder(&self, pfn: Pfn) -> Option<Folio> {
        // Most blocks are pages.
        let page = Folio::page(pfn);
        if self.contains(page) { Some(page) } else { self.holders(pfn).next() }
    }

    /// All preserved blocks that contain a page, the smallest first. In a sound tree there is at most one.
    pub fn holders(&self, pfn: Pfn) -> impl Iterator<Item = Folio> + '_ {
        self.levels.iter().enumerate().flat_map(move |(level, bits)| {
            let (word, mask) = holding(level, pfn.get());
            let mut found = bits.word(word) & mask;
            core::iter::from_fn(move || {
                let bit = found.checked_ilog2()?;
                found ^= 1 << bit;
                block(level, word, bit)
            })
        })
    }

    /// Whether every page of the range is preserved, in whatever blocks.
    #[must_use]
    pub fn covers(&self, range: PageRange) -> bool {
        self.first_gap(range).is_none()
    }

    /// The first page of the range that is not preserved. Takes time by words for single pages and by blocks for
    /// larger ones, never by the pages of a block.
    #[must_use]
    pub fn first_gap(&self, range: PageRange) -> Option<Pfn> {
        let mut cursors = self.levels.each_ref().map(Bits::cursor);
        let [pages, heaps @ ..] = &mut cursors;
        let mut at = range.start().get();
        'next: while at < range.end() {
            let clear = pages.next_clear_below(at, range.end()).unwrap_or(u64::MAX);
            if clear > at {
                at = clear;
                continue;
            }
            for (level, heap) in (1..).zip(heaps.iter_mut()) {
                let (word, mask) = holding(level, at);
                let found = heap.word(word) & mask;
                // The lowest bit is the largest block.
                if let Some(folio) = found.checked_ilog2().and_then(|_| block(level, word, found.trailing_zeros())) {
                    at = folio.range().end();
                    continue 'next;
                }
            }
            return Pfn::new(at);
        }
        None
    }

    /// How many pages all blocks have together.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// How many blocks there are. Counts them, word by word.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.levels.iter().fold(0, |sum, bits| sum.wrapping_add(bits.len()))
    }

    /// Whether nothing is preserved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// All blocks in the order of their keys on the wire: the large orders first, each by address.
    #[must_use]
    pub fn iter(&self) -> Folios<'_> {
        Folios::new(&self.levels)
    }

    /// The preserved pages by address, neighbours joined, whatever their blocks are.
    #[must_use]
    pub fn ranges(&self) -> Ranges<'_> {
        Ranges::new(&self.levels)
    }

    /// From the first preserved page to the last, with all that is not preserved between; none when nothing is.
    #[must_use]
    pub fn span(&self) -> Option<PageRange> {
        let mut ends: Option<(u64, u64)> = None;
        for (level, bits) in self.levels.iter().enumerate() {
            let words = bits.leaves().flat_map(|(leaf, words)| (leaf.saturating_mul(512)..).zip(words));
            let mut words = words.filter(|(_, bits)| **bits != 0);
            let first = words.next();
            let last = words.last();
            for (word, bits) in first.into_iter().chain(last) {
                for range in (0..64).filter(|bit| bits >> bit & 1 != 0).filter_map(|bit| block(level, word, bit)) {
                    let (start, end) = (range.pfn().get(), range.range().end());
                    ends = Some(ends.map_or((start, end), |(first, last)| (first.min(start), last.max(end))));
                }
            }
        }
        let (start, end) = ends?;
        PageRange::new(Pfn::new(start)?, end.saturating_sub(start))
    }

    /// Whether every page is in one block at most.
    ///
    /// # Errors
    /// [`Code::PreservedTwice`] with the address of the lowest page that is in two.
    pub fn check_disjoint(&self) -> Result<(), Fault> {
        let Some(page) = iter::first_twice(&self.levels).and_then(Pfn::new) else { return Ok(()) };
        let mut orders = self.holders(page).map(Folio::order);
        let fault = Fault::new(Code::PreservedTwice).address(page.addr(self.geometry).get()).expected("one block");
        Err(match (orders.next(), orders.next()) {
            (Some(one), Some(two)) => fault.found(format_args!("blocks of order {one} and of order {two}")),
            _ => fault,
        })
    }

    /// Adds 64 blocks of one order, those whose bits are set; the first has that number, a multiple of 64.
    fn add_word(&mut self, order: u32, number: u64, bits: u64) {
        let place = Place::of(order);
        let Some(level) = self.levels.get_mut(place.level) else { return };
        let mut rest = bits;
        while rest != 0 {
            // All that are in the same word of ours.
            let from = rest.trailing_zeros() >> place.per_word << place.per_word;
            let field = rest >> from & place.mask();
            rest ^= field << from;
            let new = level.insert_word((number | u64::from(from)) >> place.per_word, field << place.shift);
            self.pages = self.pages.wrapping_add(u64::from(new.count_ones()) << order);
        }
    }

    /// Does the same to every block of a run of pages: `change`, which has an effect on bits that are as in `before`.
    /// How many pages the blocks have that this changed.
    #[inline]
    fn change(&mut self, range: PageRange, before: u64, change: impl Fn(&mut Bits, u64, u64) -> u64 + Copy) -> u64 {
        if range.count() == 0 {
            return 0;
        }
        let Small { words, pages, heaps, middle: (start, end) } = Small::new(range.start().get(), range.end());
        let mut changed = range.count();
        let [level_0, level_1, ..] = &mut self.levels;
        // Nearly always this is all there is to do.
        if !level_0.flip_words(words, pages, before) && pages != [0, 0] {
            changed = changed.wrapping_sub(same_of(0, words, pages, level_0, change));
        }
        if !level_1.flip_words(words, heaps, before) && heaps != [0, 0] {
            changed = changed.wrapping_sub(same_of(1, words, heaps, level_1, change));
        }
        if start < end {
            changed = changed.wrapping_sub(self.change_middle(start << 6, end << 6, change));
        }
        changed
    }

    /// For the blocks that are not [`Small`], those of the pages from `start` up to `end`. How many pages the blocks
    /// have that this did *not* change.
    #[inline(never)]
    fn change_middle(&mut self, start: u64, end: u64, change: impl Fn(&mut Bits, u64, u64) -> u64) -> u64 {
        let mut same: u64 = 0;
        let range = end.checked_sub(start).and_then(|count| PageRange::new(Pfn::new(start)?, count));
        for folio in range.into_iter().flat_map(|range| split(range, &Nodes::NONE)) {
            let (level, word, bit) = locate(folio);
            if self.levels.get_mut(level).is_none_or(|bits| change(bits, word, 1 << bit) == 0) {
                same = same.wrapping_add(folio.order().pages());
            }
        }
        same
    }
}

/// Changes bits in two words of a level that are in another leaf than the last ones, or of which some are the same.
/// How many pages the blocks have that this did *not* change.
#[inline(never)]
fn same_of(
    level: usize,
    words: [u64; 2],
    bits: [u64; 2],
    of: &mut Bits,
    change: impl Fn(&mut Bits, u64, u64) -> u64,
) -> u64 {
    let pairs = words.into_iter().zip(bits);
    pairs.map(|(word, bits)| pages_of(level, bits ^ change(of, word, bits))).sum()
}

impl<'a> IntoIterator for &'a Tree {
    type Item = Folio;
    type IntoIter = Folios<'a>;
    fn into_iter(self) -> Folios<'a> {
        self.iter()
    }
}
