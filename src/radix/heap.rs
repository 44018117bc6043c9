//! Where a block has its bit in memory.
//!
//! The wire format keeps each order apart, so a run of 37 pages, which is six or seven blocks, is six or seven places
//! far from each other. Here six orders at a time share one word, a *heap* in the sense of a binary heap: bit 1 is the
//! block of 64 units, bits 2 and 3 its halves, and so on to bits 32..=63, the pairs of units. So all blocks of such a
//! run are in two neighbouring words, and which bits they are is looked up in a table.
//!
//! Level 0 is a plain bitmap of the blocks of order 0. Level `l` has the orders `6*l - 5 ..= 6*l`; its unit is
//! `64^(l-1)` pages, and its word `w` describes the units `64*w ..= 64*w + 63`.

use crate::mem::{Folio, Order, Pfn};
use crate::num::{index_of, u64_of, usize_of};

/// Levels, for all orders up to [`Order::MAX`].
pub(super) const LEVELS: usize = 9;
const _: () = assert!(Order::MAX.index() / 6 < LEVELS - 1);

/// Where the blocks of one order are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Which level.
    pub(super) level: usize,
    /// log2 of the blocks of this order in one word.
    pub(super) per_word: u32,
    /// The bits of a word from here on are these blocks.
    pub(super) shift: u32,
}

impl Place {
    #[inline]
    pub(super) const fn of(order: u32) -> Place {
        if order == 0 {
            return Place { level: 0, per_word: 6, shift: 0 };
        }
        let level = (order.wrapping_add(5)) / 6;
        let per_word = level.wrapping_mul(6).wrapping_sub(order);
        Place { level: index_of(level), per_word, shift: 1 << per_word }
    }

    /// The blocks of this order in a word of their level: bit `n` is the `n`th.
    #[inline]
    pub(super) const fn field(self, word: u64) -> u64 {
        word >> self.shift & self.mask()
    }

    /// As many bits as there are blocks in a word.
    pub(super) const fn mask(self) -> u64 {
        u64::MAX >> 64_u32.wrapping_sub(1 << self.per_word)
    }

    /// Word and bit of the block with that number (its first page over its pages).
    #[inline]
    pub(super) const fn bit(self, number: u64) -> (u64, u32) {
        let within = number & (1_u64 << self.per_word).wrapping_sub(1);
        (number >> self.per_word, self.shift.wrapping_add(low(within)))
    }
}

/// Level, word and bit of a block.
#[inline]
pub(super) const fn locate(folio: Folio) -> (usize, u64, u32) {
    let order = folio.order().get();
    let place = Place::of(order);
    let (word, bit) = place.bit(folio.pfn().get() >> order);
    (place.level, word, bit)
}

/// The block with that number.
pub(super) const fn folio(order: u32, number: u64) -> Option<Folio> {
    match (Pfn::new(number << order), Order::new(order)) {
        (Some(pfn), Some(order)) => Folio::new(pfn, order),
        _ => None,
    }
}

/// log2 of the pages of a unit of that level, which is not level 0.
#[allow(clippy::as_conversions, reason = "a level is below 9; not const otherwise")]
pub(super) const fn unit_shift(level: usize) -> u32 {
    (level as u32).saturating_sub(1).wrapping_mul(6)
}

/// The block of a bit.
pub(super) const fn block(level: usize, word: u64, bit: u32) -> Option<Folio> {
    let per_word = match (level, bit.checked_ilog2()) {
        (0, _) => return folio(0, word << 6 | wide(bit)),
        (_, Some(log)) => log,
        (_, None) => return None,
    };
    let number = word << per_word | wide(bit ^ (1 << per_word));
    folio(unit_shift(level).wrapping_add(6).wrapping_sub(per_word), number)
}

/// The word of a level that a page is in, and the bits of all blocks there that contain it.
pub(super) const fn holding(level: usize, page: u64) -> (u64, u64) {
    let unit = page >> unit_shift(level);
    if level == 0 {
        return (unit >> 6, 1 << (unit & 63));
    }
    let mut at = (unit & 63 | 64) >> 1;
    let mut bits = 0;
    while at != 0 {
        bits |= 1_u64 << at;
        at >>= 1;
    }
    (unit >> 6, bits)
}

/// How many pages the blocks of these bits have.
pub(super) fn pages_of(level: usize, bits: u64) -> u64 {
    let mut rest = bits;
    let mut pages: u64 = 0;
    while rest != 0 {
        let order = block(level, 0, rest.trailing_zeros()).map_or(0, |folio| folio.order().pages());
        pages = pages.wrapping_add(order);
        rest &= rest.wrapping_sub(1);
    }
    pages
}

/// Which units a heap covers, and which of them twice.
pub(super) const fn cover(heap: u64) -> (u64, u64) {
    let (mut once, mut twice) = (0, 0);
    let mut width = 1;
    while width < 64 {
        let field = heap >> width & u64::MAX >> 64_u32.wrapping_sub(width);
        twice |= once & field;
        once = double(once | field);
        twice = double(twice);
        width <<= 1;
    }
    (once, twice)
}

/// Each of the low 32 bits, twice.
const fn double(bits: u64) -> u64 {
    let mut bits = bits;
    bits = (bits | bits << 16) & 0x0000_ffff_0000_ffff;
    bits = (bits | bits << 8) & 0x00ff_00ff_00ff_00ff;
    bits = (bits | bits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    bits = (bits | bits << 2) & 0x3333_3333_3333_3333;
    bits = (bits | bits << 1) & 0x5555_5555_5555_5555;
    bits | bits << 1
}

/// The blocks of a short run in the two levels of the small orders, whose words stand for the same 64 pages each.
pub(super) struct Small {
    /// First and last word; two different ones, or one and the same.
    pub(super) words: [u64; 2],
    /// Their bits of level 0.
    pub(super) pages: [u64; 2],
    /// Their bits of level 1, of the orders 1 to 5.
    pub(super) heaps: [u64; 2],
    /// What lies between, first word and the word behind: none when not below each other.
    pub(super) middle: (u64, u64),
}

impl Small {
    /// Cuts the pages from `start` up to `end`, of which there is at least one, into blocks below order 6 and the rest.
    ///
    /// Let the *crest* be the page number in `start..=end` that is divisible by the highest power of two. Up to it the
    /// blocks are the bits of `crest - start`, growing, behind it the bits of `end - crest`, shrinking. Up to the next
    /// word they are the same as those of a run that goes to the word's end, as far as that goes beyond the crest only
    /// with larger blocks; hence the tables.
    #[inline]
    pub(super) fn new(start: u64, end: u64) -> Small {
        // log2 of what the crest is divisible by. At least 1, so `| 1` changes nothing; it saves a test for 0.
        let crest = (start.wrapping_sub(1) ^ end | 1).ilog2();
        let below_crest = BELOW_CREST.get(index_of(crest) % 64).copied().unwrap_or(0);
        let (first, up) = entry(&UP_TO_END, start);
        let (last, from) = entry(&FROM_START, end);
        let words = [start >> 6, end >> 6];
        let behind = start.wrapping_add(63) >> 6;
        Small { words, pages: [first, last], heaps: [up & below_crest, from & below_crest], middle: (behind, end >> 6) }
    }
}

/// For each page of a word, bits of level 0 and of level 1.
type Table = [(u64, u64); 64];

#[inline]
fn entry(table: &Table, page: u64) -> (u64, u64) {
    table.get(usize_of(page) % 64).copied().unwrap_or((0, 0))
}

/// The blocks from page `i` of a word up to its end; none for 0, which is a whole word.
static UP_TO_END: Table = tables().0;
/// The blocks from the start of a word up to page `i`.
static FROM_START: Table = tables().1;
/// The bits of a heap that are orders below the crest's, and below 6.
static BELOW_CREST: [u64; 64] = tables().2;

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "runs when the library is compiled")]
const fn tables() -> (Table, Table, [u64; 64]) {
    let (mut up, mut from, mut below) = ([(0, 0); 64], [(0, 0); 64], [u64::MAX << 2; 64]);
    let mut i = 1;
    while i < 64 {
        up[i].0 = (u64_of(i) & 1) << i;
        from[i].0 = (u64_of(i) & 1) << (i - 1);
        // Pairs of pages are bits 32..=63, their parents half that.
        let mut at = 32 | i.div_ceil(2);
        let mut left = 32 - i.div_ceil(2);
        while left != 0 {
            if left & 1 != 0 {
                up[i].1 |= 1 << at;
                at += 1;
            }
            left >>= 1;
            at >>= 1;
        }
        let mut at = 32 | i >> 1;
        let mut rest = i >> 1;
        while rest != 0 {
            if rest & 1 != 0 {
                from[i].1 |= 1 << (at - 1);
            }
            rest >>= 1;
            at >>= 1;
        }
        i += 1;
    }
    // Orders from 6 on are not in the tables. A crest of order 0 there is not.
    let mut crest = 1;
    while crest < 6 {
        let half = 1 << (6 - crest);
        below[crest] = u64::MAX << half << half;
        crest += 1;
    }
    (up, from, below)
}

#[allow(clippy::as_conversions, reason = "below 64; not const otherwise")]
const fn low(bits: u64) -> u32 {
    bits as u32
}

#[allow(clippy::as_conversions, reason = "widening; not const otherwise")]
const fn wide(bits: u32) -> u64 {
    bits as u64
}
