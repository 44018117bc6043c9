//! Whether a map has a key twice.

use alloc::vec::Vec;

/// The keys of a map, by their bytes: each value has one form.
#[derive(Default)]
pub(super) struct Keys<'a> {
    all: Vec<&'a [u8]>,
    scattered: bool,
}

impl<'a> Keys<'a> {
    pub(super) fn add(&mut self, key: &'a [u8]) {
        // The order of numbers: the longer form is the larger number, and the last bytes weigh most.
        let by_weight = |one: &[u8], other: &[u8]| {
            one.len().cmp(&other.len()).then_with(|| one.iter().rev().cmp(other.iter().rev()))
        };
        if let Some(last) = self.all.last()
            && !self.scattered
        {
            self.scattered = by_weight(last, key).is_ge();
        }
        self.all.push(key);
    }

    pub(super) fn are_unique(mut self) -> core::result::Result<(), ()> {
        if !self.scattered {
            return Ok(());
        }
        self.all.sort_unstable();
        let twice = self.all.iter().zip(self.all.iter().skip(1)).any(|(one, other)| one == other);
        if twice { Err(()) } else { Ok(()) }
    }
}
