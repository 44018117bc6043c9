//! The data: a table of slots in blocks of the arena, written where it is and never copied.

use std::error::Error;

use kho::mem::{Frames as _, Mapping, Memory as _, Order};
use kho::payload::{Contiguous, MappedArray};
use kho::transport::Bundle;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::state;

/// Bytes of each block of the arena.
pub(super) const BLOCK: u64 = 2 << 20;
/// Keys from here on are there from the beginning, and nobody changes them.
pub(super) const FIXED: u64 = 1 << 63;

/// One key. Without a version the slot is free.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Slot {
    key: U64,
    value: U64,
    /// How often it was written.
    version: U64,
    /// Of the others: a slot that was written halfway is told.
    check: U64,
}

impl Slot {
    fn new(key: u64, value: u64, version: u64) -> Self {
        let check = mix(key ^ mix(value ^ mix(version)));
        Slot { key: key.into(), value: value.into(), version: version.into(), check: check.into() }
    }

    fn is_whole(&self) -> bool {
        Slot::new(self.key.get(), self.value.get(), self.version.get()).check == self.check
    }
}

/// Open addressing, in one mapping.
#[derive(Debug)]
pub(super) struct Store {
    mapping: Mapping,
}

impl Store {
    /// A table of that size in new blocks of so many bytes, a quarter full of keys that stay as they are; and how many these are.
    pub(super) fn new(bundle: &mut Bundle, size: u64, block: u64) -> Result<(Self, u64), Box<dyn Error>> {
        let order = Order::holding(block, bundle.geometry()).ok_or("no blocks of that size")?;
        let blocks = size.div_ceil(block).max(1);
        let frames = (0..blocks).map(|_| bundle.alloc(order)).collect::<Result<Vec<_>, _>>()?;
        let mapping = bundle.arena().map_contiguous(frames).map_err(|failed| failed.error)?;
        let mut store = Store { mapping };
        let fixed = store.fixed();
        for key in (0..fixed).map(|number| FIXED | number) {
            store.set(key, mix(key)).ok_or("a table that is full")?;
        }
        Ok((store, fixed))
    }

    /// The table that a predecessor had.
    pub(super) fn of(array: Contiguous) -> Self {
        Store { mapping: array.into_mapping() }
    }

    /// The same, to be handed over.
    pub(super) fn as_array(&self) -> MappedArray<'_> {
        MappedArray { made_of: state::STORE_IS, mapping: &self.mapping, bytes: self.bytes() }
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.mapping.len()).unwrap_or(0)
    }

    /// How many keys are there from the beginning.
    pub(super) fn fixed(&self) -> u64 {
        u64::try_from(self.slots().len() / 4).unwrap_or(0)
    }

    fn slots(&self) -> &[Slot] {
        // Blocks are whole slots.
        <[Slot]>::ref_from_bytes(&self.mapping).unwrap_or_default()
    }

    fn slots_mut(&mut self) -> &mut [Slot] {
        <[Slot]>::mut_from_bytes(&mut self.mapping).unwrap_or_default()
    }

    /// Where a key is, or would be; none when the table is full.
    fn place(&self, key: u64) -> Option<usize> {
        let slots = self.slots();
        let start = usize::try_from(mix(key)).ok()?.checked_rem(slots.len())?;
        let order = (start..slots.len()).chain(0..start);
        order.into_iter().find(|at| slots[*at].version.get() == 0 || slots[*at].key.get() == key)
    }

    pub(super) fn get(&self, key: u64) -> Option<u64> {
        let slot = self.slots()[self.place(key)?];
        (slot.version.get() != 0).then(|| slot.value.get())
    }

    /// Whether the key is new; none when the table is full.
    pub(super) fn set(&mut self, key: u64, value: u64) -> Option<bool> {
        let at = self.place(key)?;
        let slot = &mut self.slots_mut()[at];
        let version = slot.version.get();
        *slot = Slot::new(key, value, version.wrapping_add(1));
        Some(version == 0)
    }

    /// Looks at all of it: how many keys there are, and how many of their slots are broken.
    pub(super) fn check(&self) -> (u64, u64) {
        let used = self.slots().iter().filter(|slot| slot.version.get() != 0);
        used.fold((0, 0), |(keys, broken), slot| (keys + 1, broken + u64::from(!slot.is_whole())))
    }
}

/// splitmix64, by Sebastiano Vigna, in the public domain.
pub(super) const fn mix(word: u64) -> u64 {
    let mut word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_again_and_what_is_broken_is_told() {
        let mut bundle = Bundle::new(16 << 20).unwrap();
        let (mut store, fixed) = Store::new(&mut bundle, 1, BLOCK).unwrap();
        assert_eq!((store.slots().len(), fixed), (1 << 16, 1 << 14));
        assert_eq!((store.get(FIXED | 5), store.get(5)), (Some(mix(FIXED | 5)), None));
        assert_eq!((store.set(5, 7), store.set(5, 8), store.get(5)), (Some(true), Some(false), Some(8)));
        assert_eq!(store.check(), (fixed + 1, 0));
        let at = store.place(5).unwrap();
        store.slots_mut()[at].value = 9.into();
        assert_eq!(store.check(), (fixed + 1, 1));
    }
}
