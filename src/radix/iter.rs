//! Walks over a tree: by key, and by address.

use alloc::vec::Vec;

use super::heap::{LEVELS, Place, cover, folio, unit_shift};
use crate::mem::{Bits, Cursor, Folio, Order, PageRange, Pfn, Runs};

/// The blocks of a tree in the order of their keys: the large orders first, each by address.
#[derive(Clone, Debug)]
pub struct Folios<'a> {
    levels: &'a [Bits; LEVELS],
    order: u32,
    place: Place,
    cursor: Cursor<'a>,
    /// Where the cursor goes on.
    next: u64,
    /// What is left of the word at hand, and the number of its first block.
    field: u64,
    base: u64,
}

impl<'a> Folios<'a> {
    pub(super) fn new(levels: &'a [Bits; LEVELS]) -> Self {
        let [.., last] = levels;
        let order = Order::MAX.get();
        Folios { levels, order, place: Place::of(order), cursor: last.cursor(), next: 0, field: 0, base: 0 }
    }

    /// Goes on to the next blocks of one order in one word: the order, the number of the first of them (its page over
    /// its pages; a multiple of how many there can be), and their bits.
    #[inline(never)]
    pub(super) fn next_field(&mut self) -> Option<(u32, u64, u64)> {
        loop {
            if let Some((word, bits)) = self.cursor.next_word(self.next) {
                self.next = word.wrapping_add(1);
                let field = self.place.field(bits);
                if field != 0 {
                    return Some((self.order, word << self.place.per_word, field));
                }
            } else {
                self.order = self.order.checked_sub(1)?;
                self.place = Place::of(self.order);
                self.cursor = self.levels.get(self.place.level)?.cursor();
                self.next = 0;
            }
        }
    }
}

impl Iterator for Folios<'_> {
    type Item = Folio;

    #[inline]
    fn next(&mut self) -> Option<Folio> {
        if self.field == 0 {
            (_, self.base, self.field) = self.next_field()?;
        }
        let number = self.base | u64::from(self.field.trailing_zeros());
        self.field &= self.field.wrapping_sub(1);
        block(self.order, number)
    }
}

/// As [`folio`], with the many of order 0 first.
#[inline]
fn block(order: u32, number: u64) -> Option<Folio> {
    if order == 0 { Pfn::new(number).map(Folio::page) } else { folio(order, number) }
}

/// The pages of one level by address, as start and end; not all neighbours are joined.
#[derive(Clone, Debug)]
enum Stream<'a> {
    Pages(Runs<'a>),
    Heaps {
        cursor: Cursor<'a>,
        next: u64,
        /// What is left of the units of the heap at hand, its first unit, and log2 of the pages of a unit.
        units: u64,
        base: u64,
        shift: u32,
    },
}

impl Stream<'_> {
    fn next(&mut self) -> Option<(u64, u64)> {
        match self {
            Stream::Pages(runs) => runs.next().map(|(start, count)| (start, start.wrapping_add(count))),
            Stream::Heaps { cursor, next, units, base, shift } => {
                while *units == 0 {
                    let (word, heap) = cursor.next_word(*next)?;
                    *next = word.wrapping_add(1);
                    (*units, _) = cover(heap);
                    *base = word << 6;
                }
                let skip = units.trailing_zeros();
                let count = (!(*units >> skip)).trailing_zeros();
                let start = base.wrapping_add(u64::from(skip));
                // All units below the end of this run are done.
                let done = skip.wrapping_add(count);
                *units &= u64::MAX.checked_shl(done).unwrap_or(0);
                Some((start << *shift, start.wrapping_add(u64::from(count)) << *shift))
            }
        }
    }
}

/// The preserved pages by address, neighbours joined: what [`Tree::ranges`](super::Tree::ranges) returns.
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    /// The levels that are not at their end, each with its next run.
    streams: Vec<((u64, u64), Stream<'a>)>,
}

impl<'a> Ranges<'a> {
    pub(super) fn new(levels: &'a [Bits; LEVELS]) -> Self {
        Self::of(levels, 0)
    }

    /// From that level on.
    fn of(levels: &'a [Bits; LEVELS], from: usize) -> Self {
        let streams = levels.iter().enumerate().skip(from).filter_map(|(level, bits)| {
            let mut stream = match level {
                0 => Stream::Pages(bits.runs()),
                _ => Stream::Heaps { cursor: bits.cursor(), next: 0, units: 0, base: 0, shift: unit_shift(level) },
            };
            Some((stream.next()?, stream))
        });
        Ranges { streams: streams.collect() }
    }

    /// The lowest run of all levels that starts at `limit` or below.
    fn pop(&mut self, limit: u64) -> Option<(u64, u64)> {
        let (index, (found, stream)) = self.streams.iter_mut().enumerate().min_by_key(|(_, (run, _))| run.0)?;
        if found.0 > limit {
            return None;
        }
        let run = *found;
        match stream.next() {
            Some(next) => *found = next,
            None => drop(self.streams.swap_remove(index)),
        }
        Some(run)
    }
}

impl Iterator for Ranges<'_> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        let (start, mut end) = self.pop(u64::MAX)?;
        while let Some((_, further)) = self.pop(end) {
            end = end.max(further);
        }
        PageRange::new(Pfn::new(start)?, end.wrapping_sub(start))
    }
}

/// The lowest page that is in two blocks.
pub(super) fn first_twice(levels: &[Bits; LEVELS]) -> Option<u64> {
    // Within each level, word by word; between the levels, where one's run starts before the others' end.
    let within = levels.iter().enumerate().skip(1).filter_map(|(level, bits)| {
        let (mut cursor, mut next) = (bits.cursor(), 0);
        loop {
            let (word, heap) = cursor.next_word(next)?;
            next = word.wrapping_add(1);
            let (_, twice) = cover(heap);
            if twice != 0 {
                return Some((word << 6 | u64::from(twice.trailing_zeros())) << unit_shift(level));
            }
        }
    });
    // Single pages are the most by far: they are looked up under the larger blocks, and not walked.
    let mut ranges = Ranges::of(levels, 1);
    let mut pages = levels.first().map(Bits::cursor);
    let (mut behind, mut between) = (0, None);
    while let Some((start, end)) = ranges.pop(between.unwrap_or(u64::MAX)) {
        let page = pages.as_mut().and_then(|pages| pages.next_set(start)).filter(|&page| page < end);
        let block = Some(start).filter(|&start| start < behind);
        between = [between, page, block].into_iter().flatten().min();
        behind = behind.max(end);
    }
    within.chain(between).min()
}
