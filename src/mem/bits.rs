//! A sparse set of numbers.
//!
//! Bitmaps of 32,768 numbers under a radix tree that is as high as its largest number needs. Not a hash: no choice of
//! numbers makes it slow, and walking it is in order. Nodes lie in pools and refer to each other by index, so the leaf
//! that was used last can be remembered, and neighbours that are added one by one find it again without a walk.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::num::{index_of, usize_of};

mod cursor;
#[cfg(test)]
mod tests;

pub use cursor::{Cursor, Numbers, Runs};

/// 64-bit words in a leaf.
pub(crate) const WORDS: usize = 512;
/// log2 of the words in a leaf.
const LEAF_SHIFT: u32 = 9;
/// log2 of the children of an inner node. Small nodes keep a single number far from all others cheap.
const FAN_SHIFT: u32 = 6;
const FAN: usize = 64;
/// A child that is not there.
const NONE: u32 = u32::MAX;
/// An index that no leaf has: they are below 2^49.
const NO_LEAF: u64 = u64::MAX;

type Leaf = [u64; WORDS];

/// A sparse set of numbers: pages that are preserved, pages that a walk has visited, pages that have an owner.
///
/// Any `u64` can be in it. The memory that it takes is proportional to the leaves that were touched, 32,768 numbers
/// each: one far number costs at most 7 KiB, a dense set one bit per number. [`Bits::insert_range`] of a range that
/// comes from outside must therefore be bounded by its caller. Removing frees nothing.
///
/// ```
/// use kho::mem::Bits;
///
/// let mut pages = Bits::new();
/// assert_eq!(pages.insert_range(0x100, 64), 64);
/// assert!(!pages.insert(0x13f), "was there");
/// assert!(pages.insert(0x140));
/// assert_eq!(pages.runs().collect::<Vec<_>>(), [(0x100, 65)]);
/// ```
#[derive(Clone)]
pub struct Bits {
    /// Children of the inner nodes: nodes, or in the lowest level leaves, by their index in the pool.
    nodes: Vec<[u32; FAN]>,
    /// Boxed, so that a pool that grows does not move the leaves.
    leaves: Vec<Box<Leaf>>,
    /// The root: a leaf when `height` is 0, else a node.
    root: u32,
    /// Inner levels.
    height: u32,
    /// The leaf that was changed last: its index in the number space and in the pool.
    last: (u64, usize),
}

impl Default for Bits {
    fn default() -> Self {
        Bits::new()
    }
}

impl Bits {
    /// The empty set. Takes no memory.
    #[must_use]
    pub const fn new() -> Self {
        Bits { nodes: Vec::new(), leaves: Vec::new(), root: NONE, height: 0, last: (NO_LEAF, 0) }
    }

    /// Adds a number; whether it is new.
    #[inline]
    pub fn insert(&mut self, number: u64) -> bool {
        let bit = 1 << (number & 63);
        self.insert_word(number >> 6, bit) != 0
    }

    /// Adds those of the numbers `64 * word ..= 64 * word + 63` whose bits are set in `bits`; the bits of those that
    /// are new.
    #[inline]
    pub fn insert_word(&mut self, word: u64, bits: u64) -> u64 {
        let index = leaf_of(word);
        if index != self.last.0 {
            if bits == 0 {
                return 0;
            }
            self.last = (index, self.make(index));
        }
        let place = self.leaves.get_mut(self.last.1).and_then(|leaf| leaf.get_mut(usize_of(word) % WORDS));
        let Some(place) = place else { return 0 };
        let new = bits & !*place;
        *place |= bits;
        new
    }

    /// Flips bits in two words, or in one named twice (then they are different bits), provided that both are in the
    /// leaf that was changed last and that each bit is as in `before`. Whether it did so, else nothing is changed.
    #[inline]
    pub(crate) fn flip_words(&mut self, words: [u64; 2], bits: [u64; 2], before: u64) -> bool {
        let ([first, last], [head, tail]) = (words, bits);
        if leaf_of(first) != self.last.0 || leaf_of(last) != self.last.0 {
            return false;
        }
        let Some(leaf) = self.leaves.get_mut(self.last.1).map(|leaf| &mut **leaf) else { return false };
        let (first, last) = (usize_of(first) % WORDS, usize_of(last) % WORDS);
        #[allow(clippy::indexing_slicing, reason = "below the length of an array; checked by the compiler")]
        {
            if (leaf[first] ^ before) & head | (leaf[last] ^ before) & tail != 0 {
                return false;
            }
            leaf[first] ^= head;
            leaf[last] ^= tail;
        }
        true
    }

    /// Adds `count` numbers from `start` on, up to the largest `u64` at most; how many of them are new.
    pub fn insert_range(&mut self, start: u64, count: u64) -> u64 {
        let mut sum = 0_u64;
        let mut words = WordsOf::new(start, count);
        while let Some((index, first, last)) = words.next_leaf() {
            let slot = self.make(index);
            if let Some(leaf) = self.leaves.get_mut(slot) {
                let new: u64 = words.masks(leaf, first, last, |word, mask| {
                    let new = mask & !*word;
                    *word |= mask;
                    new
                });
                sum = sum.wrapping_add(new);
            }
            self.last = (index, slot);
        }
        sum
    }

    /// Removes a number; whether it was there.
    pub fn remove(&mut self, number: u64) -> bool {
        let bit = 1 << (number & 63);
        self.remove_word(number >> 6, bit) != 0
    }

    /// Removes those of the numbers `64 * word ..= 64 * word + 63` whose bits are set in `bits`; the bits of those
    /// that were there.
    pub fn remove_word(&mut self, word: u64, bits: u64) -> u64 {
        let index = leaf_of(word);
        if index != self.last.0 {
            let Some(slot) = self.find(index) else { return 0 };
            self.last = (index, slot);
        }
        let Some(place) = self.leaves.get_mut(self.last.1).and_then(|leaf| leaf.get_mut(usize_of(word) % WORDS)) else {
            return 0;
        };
        let old = bits & *place;
        *place &= !bits;
        old
    }

    /// Removes `count` numbers from `start` on; how many of them were there.
    pub fn remove_range(&mut self, start: u64, count: u64) -> u64 {
        let mut sum = 0_u64;
        let mut words = WordsOf::new(start, count);
        while let Some((index, first, last)) = words.next_leaf() {
            // Only leaves that exist: the range may be far larger than the set.
            let Some((there, slot)) = self.leaf_from(index) else { break };
            if there != index {
                words.skip_to(there);
                continue;
            }
            if let Some(leaf) = self.leaves.get_mut(slot) {
                let old: u64 = words.masks(leaf, first, last, |word, mask| {
                    let old = mask & *word;
                    *word &= !mask;
                    old
                });
                sum = sum.wrapping_add(old);
            }
        }
        sum
    }

    /// Whether the number is there. For many lookups in neighbourhoods [`Bits::cursor`] is faster.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.word(number >> 6) & 1 << (number & 63) != 0
    }

    /// Which of the numbers `64 * word ..= 64 * word + 63` are there, the lowest in the lowest bit.
    #[must_use]
    pub fn word(&self, word: u64) -> u64 {
        self.find(leaf_of(word))
            .and_then(|slot| self.leaves.get(slot)?.get(usize_of(word) % WORDS).copied())
            .unwrap_or(0)
    }

    /// Whether all `count` numbers from `start` on are there. Word by word, up to the first that is not.
    #[must_use]
    pub fn contains_range(&self, start: u64, count: u64) -> bool {
        count == 0 || self.next_clear(start).is_none_or(|clear| clear.wrapping_sub(start) >= count)
    }

    /// The lowest number from `from` on that is there.
    #[must_use]
    pub fn next_set(&self, from: u64) -> Option<u64> {
        self.cursor().next_set(from)
    }

    /// The lowest number from `from` on that is not there; none when all up to the largest `u64` are.
    #[must_use]
    pub fn next_clear(&self, from: u64) -> Option<u64> {
        self.cursor().next_clear(from)
    }

    /// How many numbers there are. Counts them, word by word: keeping account would slow down every insertion.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.leaves.iter().flat_map(|leaf| leaf.iter()).fold(0, |sum, &word| sum.wrapping_add(ones(word)))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.iter().flat_map(|leaf| leaf.iter()).all(|&word| word == 0)
    }

    /// Lookups that remember the leaf they were in.
    #[must_use]
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor::new(self)
    }

    /// All numbers, ascending.
    #[must_use]
    pub fn iter(&self) -> Numbers<'_> {
        self.iter_from(0)
    }

    /// All numbers from `from` on, ascending.
    #[must_use]
    pub fn iter_from(&self, from: u64) -> Numbers<'_> {
        Numbers::new(self, from)
    }

    /// All numbers as `(start, count)`, ascending, neighbours joined.
    #[must_use]
    pub fn runs(&self) -> Runs<'_> {
        self.runs_from(0)
    }

    /// As [`Bits::runs`], without the numbers below `from`.
    #[must_use]
    pub fn runs_from(&self, from: u64) -> Runs<'_> {
        Runs::new(self, from)
    }

    /// The leaves that were touched, ascending: leaf `i` has the bits of the 32,768 numbers from `32,768 * i` on. It
    /// may be empty, where numbers were removed.
    pub fn leaves(&self) -> impl Iterator<Item = (u64, &[u64; 512])> + '_ {
        let mut from = 0_u64;
        core::iter::from_fn(move || {
            let (index, slot) = self.leaf_from(from)?;
            from = index.wrapping_add(1);
            Some((index, &**self.leaves.get(slot)?))
        })
    }

    /// The pool slot of a leaf.
    fn find(&self, index: u64) -> Option<usize> {
        if self.root == NONE || beyond(index, self.height) {
            return None;
        }
        let mut at = self.root;
        for level in (0..self.height).rev() {
            at = *self.nodes.get(index_of(at))?.get(child_of(index, level))?;
            if at == NONE {
                return None;
            }
        }
        Some(index_of(at))
    }

    /// The pool slot of a leaf that is made when it is missing. Not inlined: four of it in one function leave no
    /// registers for the usual case.
    #[inline(never)]
    fn make(&mut self, index: u64) -> usize {
        match self.find(index) {
            Some(slot) => slot,
            None => self.make_missing(index).unwrap_or(usize::MAX),
        }
    }

    #[cold]
    fn make_missing(&mut self, index: u64) -> Option<usize> {
        while beyond(index, self.height) {
            if self.root != NONE {
                let mut node = [NONE; FAN];
                *node.first_mut()? = self.root;
                self.root = push(&mut self.nodes, node);
            }
            self.height = self.height.wrapping_add(1);
        }
        if self.root == NONE {
            self.root = match self.height {
                0 => push(&mut self.leaves, blank()),
                _ => push(&mut self.nodes, [NONE; FAN]),
            };
        }
        let mut at = self.root;
        for level in (0..self.height).rev() {
            let (node, child) = (index_of(at), child_of(index, level));
            at = *self.nodes.get(node)?.get(child)?;
            if at == NONE {
                at = match level {
                    0 => push(&mut self.leaves, blank()),
                    _ => push(&mut self.nodes, [NONE; FAN]),
                };
                *self.nodes.get_mut(node)?.get_mut(child)? = at;
            }
        }
        Some(index_of(at))
    }

    /// The first leaf from `index` on that exists: its index and its pool slot.
    fn leaf_from(&self, index: u64) -> Option<(u64, usize)> {
        let mut index = index;
        if self.root == NONE {
            return None;
        }
        // Each turn climbs: a node has a child, so only the way along the right edge of a subtree comes back here.
        'from_root: while !beyond(index, self.height) {
            let mut at = self.root;
            for level in (0..self.height).rev() {
                let (node, child) = (self.nodes.get(index_of(at))?, child_of(index, level));
                let shift = level.wrapping_mul(FAN_SHIFT);
                match node.get(child..)?.iter().position(|&child| child != NONE) {
                    Some(0) => at = *node.get(child)?,
                    Some(skip) => {
                        let child = child.wrapping_add(skip);
                        index = (index >> shift).wrapping_add(crate::num::u64_of(skip)) << shift;
                        at = *node.get(child)?;
                    }
                    None => {
                        let shift = shift.wrapping_add(FAN_SHIFT);
                        index = (index >> shift).wrapping_add(1) << shift;
                        continue 'from_root;
                    }
                }
            }
            return Some((index, index_of(at)));
        }
        None
    }
}

/// The leaf of a word. Words are numbered below 2^58; what is above is cut off.
const fn leaf_of(word: u64) -> u64 {
    word << 6 >> (6 + LEAF_SHIFT)
}

/// Which child leads to the leaf. The levels count from 0, above the leaves.
fn child_of(index: u64, level: u32) -> usize {
    usize_of(index >> level.wrapping_mul(FAN_SHIFT)) % FAN
}

/// Whether a tree of that height is too low for the leaf.
const fn beyond(index: u64, height: u32) -> bool {
    index >> height.wrapping_mul(FAN_SHIFT) != 0
}

/// Its index in the pool. A pool of 2^32 leaves would be 16 TiB: the allocator gives up long before `NONE` is reached.
fn push<T>(pool: &mut Vec<T>, item: T) -> u32 {
    let index = u32::try_from(pool.len()).unwrap_or(NONE);
    pool.push(item);
    index
}

/// An empty leaf, without a copy over the stack.
fn blank() -> Box<Leaf> {
    vec![0; WORDS].into_boxed_slice().try_into().unwrap_or_else(|_| Box::new([0; WORDS]))
}

/// How many bits are set.
#[inline]
fn ones(bits: u64) -> u64 {
    u64::from(bits.count_ones())
}

/// The words of a range of numbers, leaf by leaf.
struct WordsOf {
    /// First and last number; none when nothing is left.
    range: Option<(u64, u64)>,
    /// Bits of the first and of the last word of the part that was given out.
    edges: (u64, u64),
}

impl WordsOf {
    fn new(start: u64, count: u64) -> Self {
        let range = count.checked_sub(1).map(|more| (start, start.saturating_add(more)));
        WordsOf { range, edges: (0, 0) }
    }

    /// The next leaf, and its first and last word in the range.
    fn next_leaf(&mut self) -> Option<(u64, usize, usize)> {
        let (start, last) = self.range?;
        let shift = FAN_SHIFT.wrapping_add(LEAF_SHIFT);
        let index = start >> shift;
        let here = last.min(start | (1_u64 << shift).wrapping_sub(1));
        self.range = here.checked_add(1).filter(|&next| next <= last).map(|next| (next, last));
        self.edges = (u64::MAX << (start & 63), u64::MAX >> (63 ^ (here & 63)));
        Some((index, usize_of(start >> 6) % WORDS, usize_of(here >> 6) % WORDS))
    }

    /// Goes on with that leaf.
    fn skip_to(&mut self, index: u64) {
        let start = index << FAN_SHIFT.wrapping_add(LEAF_SHIFT);
        self.range = self.range.and_then(|(_, last)| (start <= last).then_some((start, last)));
    }

    /// Applies `change` to each word of the part and sums the bits that it returns.
    fn masks(&self, leaf: &mut Leaf, first: usize, last: usize, change: impl Fn(&mut u64, u64) -> u64) -> u64 {
        let Some([head, rest @ ..]) = leaf.get_mut(first..=last) else { return 0 };
        let Some((tail, middle)) = rest.split_last_mut() else {
            return ones(change(head, self.edges.0 & self.edges.1));
        };
        let mut sum = ones(change(head, self.edges.0)).wrapping_add(ones(change(tail, self.edges.1)));
        for word in middle {
            sum = sum.wrapping_add(ones(change(word, u64::MAX)));
        }
        sum
    }
}

impl PartialEq for Bits {
    /// The same numbers, however they came in.
    fn eq(&self, other: &Self) -> bool {
        let mut left = self.leaves().filter(|(_, leaf)| leaf.iter().any(|&word| word != 0));
        let mut right = other.leaves().filter(|(_, leaf)| leaf.iter().any(|&word| word != 0));
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (left, right) if left == right => {}
                _ => return false,
            }
        }
    }
}

impl Eq for Bits {}

impl fmt::Debug for Bits {
    /// The runs, as `start..=last`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.runs().map(|(start, count)| start..=start.wrapping_add(count).wrapping_sub(1));
        f.debug_set().entries(runs).finish()
    }
}

impl Extend<u64> for Bits {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, numbers: I) {
        for number in numbers {
            self.insert(number);
        }
    }
}

impl FromIterator<u64> for Bits {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut bits = Bits::new();
        bits.extend(numbers);
        bits
    }
}

impl<'a> IntoIterator for &'a Bits {
    type Item = u64;
    type IntoIter = Numbers<'a>;
    fn into_iter(self) -> Numbers<'a> {
        self.iter()
    }
}
