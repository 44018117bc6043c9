//! A sparse set of numbers.

use alloc::collections::BTreeSet;

/// A sparse set of numbers: pages, keys of the radix tree, pages that a walk has visited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(BTreeSet<u64>);

impl Bits {
    /// Adds a number; whether it is new.
    pub fn insert(&mut self, number: u64) -> bool {
        self.0.insert(number)
    }
    /// Adds `count` numbers from `start` on; how many of them are new.
    pub fn insert_range(&mut self, start: u64, count: u64) -> u64 {
        let before = self.0.len();
        self.0.extend(start..start.saturating_add(count));
        crate::num::u64_of(self.0.len().saturating_sub(before))
    }
    /// Removes a number; whether it was there.
    pub fn remove(&mut self, number: u64) -> bool {
        self.0.remove(&number)
    }
    /// Whether the number is there.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.0.contains(&number)
    }
    /// How many numbers there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        crate::num::u64_of(self.0.len())
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// All numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }
}
