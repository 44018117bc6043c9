//! Lookups and walks over a set, with the leaf at hand.

use super::{Bits, LEAF_SHIFT, Leaf, NO_LEAF, WORDS, leaf_of};
use crate::num::{u64_of, usize_of};

/// Looks numbers up and remembers the leaf it was in: neighbours are found without a walk.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    bits: &'a Bits,
    /// The leaf at hand, which may be one that does not exist.
    index: u64,
    leaf: Option<&'a Leaf>,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bits: &'a Bits) -> Self {
        Cursor { bits, index: NO_LEAF, leaf: None }
    }

    /// Whether the number is there.
    #[inline]
    pub fn contains(&mut self, number: u64) -> bool {
        self.word(number >> 6) & 1 << (number & 63) != 0
    }

    /// Which of the numbers `64 * word ..= 64 * word + 63` are there, the lowest in the lowest bit.
    #[inline]
    pub fn word(&mut self, word: u64) -> u64 {
        let index = leaf_of(word);
        if index != self.index {
            self.leaf = self.bits.find(index).and_then(|slot| self.bits.leaves.get(slot)).map(|leaf| &**leaf);
            self.index = index;
        }
        self.leaf.and_then(|leaf| leaf.get(usize_of(word) % WORDS)).copied().unwrap_or(0)
    }

    /// The first word from `word` on in which a number is there: its number and its bits.
    #[inline]
    pub fn next_word(&mut self, word: u64) -> Option<(u64, u64)> {
        let (mut index, mut from) = (word >> LEAF_SHIFT, usize_of(word) % WORDS);
        loop {
            if index != self.index || self.leaf.is_none() {
                let (there, slot) = self.bits.leaf_from(index)?;
                if there != index {
                    (index, from) = (there, 0);
                }
                self.index = index;
                self.leaf = self.bits.leaves.get(slot).map(|leaf| &**leaf);
            }
            let words = self.leaf?.get(from..)?;
            for (skip, &bits) in words.iter().enumerate() {
                if bits != 0 {
                    return Some(((index << LEAF_SHIFT) | u64_of(from.wrapping_add(skip)), bits));
                }
            }
            (index, from) = (index.wrapping_add(1), 0);
        }
    }

    /// The lowest number from `from` on that is there.
    pub fn next_set(&mut self, from: u64) -> Option<u64> {
        let here = self.word(from >> 6) & u64::MAX << (from & 63);
        if here != 0 {
            return Some(from & !63 | u64::from(here.trailing_zeros()));
        }
        let (word, bits) = self.next_word((from >> 6).wrapping_add(1))?;
        Some(word << 6 | u64::from(bits.trailing_zeros()))
    }

    /// The lowest number from `from` on that is not there; none when all up to the largest `u64` are.
    pub fn next_clear(&mut self, from: u64) -> Option<u64> {
        self.next_clear_below(from, u64::MAX)
    }

    /// As [`Cursor::next_clear`], and looks no further than the word of `end`: what it returns may be anything from
    /// there on.
    pub(crate) fn next_clear_below(&mut self, from: u64, end: u64) -> Option<u64> {
        let last = end >> 6;
        let (mut word, mut mask) = (from >> 6, u64::MAX << (from & 63));
        loop {
            let here = !self.word(word) & mask;
            if here != 0 {
                return Some(word << 6 | u64::from(here.trailing_zeros()));
            }
            if word >= last {
                return word.checked_add(1).filter(|&next| next <= u64::MAX >> 6).map(|next| next << 6);
            }
            // The rest of this leaf in one go.
            let from = (usize_of(word) % WORDS).wrapping_add(1);
            let rest = self.leaf.and_then(|leaf| leaf.get(from..)).unwrap_or(&[]);
            let full =
                rest.iter().take(usize_of(last.wrapping_sub(word))).take_while(|&&bits| bits == u64::MAX).count();
            word = word.wrapping_add(1).wrapping_add(u64_of(full));
            if word > u64::MAX >> 6 {
                return None;
            }
            mask = u64::MAX;
        }
    }
}

/// Numbers of a set, ascending.
#[derive(Clone, Debug)]
pub struct Numbers<'a> {
    cursor: Cursor<'a>,
    /// What is left of the word at hand, and its first number.
    bits: u64,
    base: u64,
}

impl<'a> Numbers<'a> {
    pub(super) fn new(bits: &'a Bits, from: u64) -> Self {
        let mut cursor = bits.cursor();
        let bits = cursor.word(from >> 6) & u64::MAX << (from & 63);
        Numbers { cursor, bits, base: from & !63 }
    }
}

impl Iterator for Numbers<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        if self.bits == 0 {
            let (word, bits) = self.cursor.next_word((self.base >> 6).wrapping_add(1))?;
            (self.base, self.bits) = (word << 6, bits);
        }
        let number = self.base | u64::from(self.bits.trailing_zeros());
        self.bits &= self.bits.wrapping_sub(1);
        Some(number)
    }
}

/// Numbers of a set as `(start, count)`, ascending, neighbours joined.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    cursor: Cursor<'a>,
    /// Where to go on; none at the end of all numbers.
    from: Option<u64>,
}

impl<'a> Runs<'a> {
    pub(super) const fn new(bits: &'a Bits, from: u64) -> Self {
        Runs { cursor: Cursor::new(bits), from: Some(from) }
    }
}

impl Iterator for Runs<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let start = self.cursor.next_set(self.from?)?;
        self.from = self.cursor.next_clear(start);
        // The end of all numbers is 2^64, which wraps to 0; a set of all numbers does not fit into memory.
        Some((start, self.from.unwrap_or(0).wrapping_sub(start)))
    }
}
