//! Lengths of names, and names that stand twice.

use alloc::vec::Vec;

use super::MAX_NAME;
use crate::num::{index_of, u64_of, usize_of};

/// The length of the name at `start`, without the NUL; none when there is no NUL in the next [`MAX_NAME`] + 1 bytes
/// of `bytes`.
#[inline]
pub(super) fn name_len(bytes: &[u8], start: u32) -> Option<u32> {
    const LOW: u128 = u128::from_ne_bytes([0x01; 16]);
    const HIGH: u128 = u128::from_ne_bytes([0x80; 16]);
    let tail = bytes.get(index_of(start)..)?;
    let window = tail.get(..MAX_NAME.wrapping_add(1)).unwrap_or(tail);
    let (words, rest) = window.as_chunks::<16>();
    let mut len: u32 = 0;
    for word in words {
        let word = u128::from_le_bytes(*word);
        // The lowest set bit is the high bit of the first zero byte.
        let zeros = word.wrapping_sub(LOW) & !word & HIGH;
        if zeros != 0 {
            return Some(len.wrapping_add(zeros.trailing_zeros() >> 3));
        }
        len = len.wrapping_add(16);
    }
    for &byte in rest {
        if byte == 0 {
            return Some(len);
        }
        len = len.wrapping_add(1);
    }
    None
}

/// One name of a node or property: where its token is, where its bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    /// Offset of the BEGIN_NODE or PROP token.
    pub(super) at: u32,
    /// Offset of the first byte.
    pub(super) start: u32,
    /// Bytes, without the NUL.
    pub(super) len: u32,
}

impl Name {
    #[inline]
    pub(super) fn bytes<'a>(&self, blob: &'a [u8]) -> &'a [u8] {
        let start = index_of(self.start);
        blob.get(start..start.wrapping_add(index_of(self.len))).unwrap_or(&[])
    }

    #[inline]
    fn same(&self, other: &Name, blob: &[u8]) -> bool {
        self.start == other.start || (self.len == other.len && self.bytes(blob) == other.bytes(blob))
    }
}

/// Up to so many names are compared each with each.
const FEW: usize = 8;

/// So many slots are looked at before a table is given up. With random names, the longest run in a half full table is
/// about 70 slots for a million names and 95 for a hundred million.
const PROBES: usize = 128;

/// Finds names that stand twice. Keeps its table, so that many small sets cost no allocations.
#[derive(Default)]
pub(super) struct Duplicates {
    /// Open addressing: hash in the high half, index + 1 in the low one; 0 is free.
    table: Vec<u64>,
}

impl Duplicates {
    /// The first name, in the order of `names`, that stands there before.
    ///
    /// A hash table finds it in linear time; names that were made to collide fill a run of the table, and then all are
    /// sorted instead. So the worst case is n log n, whatever the names are.
    #[inline]
    pub(super) fn first(&mut self, blob: &[u8], names: &[Name]) -> Option<Name> {
        if names.len() <= FEW {
            for (index, name) in names.iter().enumerate() {
                if names.iter().take(index).any(|before| before.same(name, blob)) {
                    return Some(*name);
                }
            }
            return None;
        }
        self.first_of_many(blob, names)
    }

    fn first_of_many(&mut self, blob: &[u8], names: &[Name]) -> Option<Name> {
        // At most 32 bytes for each name, of which the blob has 12 at least.
        let slots = names.len().saturating_mul(2).next_power_of_two();
        self.table.clear();
        self.table.resize(slots, 0);
        let mask = u64_of(slots).wrapping_sub(1);

        for (index, name) in names.iter().enumerate() {
            let hash = hash(name.bytes(blob));
            let tag = hash & HASH_HALF;
            let mut slot = hash & mask;
            let mut probes: usize = 0;
            loop {
                let Some(entry) = self.table.get_mut(usize_of(slot)) else { return first_by_sorting(blob, names) };
                if *entry == 0 {
                    *entry = tag | u64_of(index.wrapping_add(1));
                    break;
                }
                if *entry & HASH_HALF == tag {
                    let before = usize_of((*entry & !HASH_HALF).wrapping_sub(1));
                    if names.get(before).is_some_and(|before| before.same(name, blob)) {
                        return Some(*name);
                    }
                }
                probes = probes.wrapping_add(1);
                if probes == PROBES {
                    return first_by_sorting(blob, names);
                }
                slot = slot.wrapping_add(1) & mask;
            }
        }
        None
    }
}

const HASH_HALF: u64 = 0xffff_ffff_0000_0000;

/// Fast and without a secret: somebody who wants collisions gets them, and gains nothing.
#[inline]
fn hash(name: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = name.as_chunks::<8>();
    let mut hash = u64_of(name.len());
    for word in words {
        hash = (hash.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
    let last = match (name.last_chunk::<8>(), name.last_chunk::<4>(), name.first_chunk::<4>(), rest) {
        (_, _, _, []) => 0,
        (Some(last), ..) => u64::from_le_bytes(*last),
        (None, Some(last), Some(first), _) => {
            u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
        }
        (.., [a, rest @ ..]) => rest.iter().fold((*a).into(), |last, byte| last << 8 | u64::from(*byte)),
    };
    hash = (hash.rotate_left(29) ^ last).wrapping_mul(FACTOR);
    hash = (hash ^ (hash >> 32)).wrapping_mul(FACTOR);
    hash ^ (hash >> 29)
}

#[cold]
fn first_by_sorting(blob: &[u8], names: &[Name]) -> Option<Name> {
    let mut sorted: Vec<&Name> = names.iter().collect();
    sorted.sort_unstable_by(|a, b| a.bytes(blob).cmp(b.bytes(blob)).then(a.at.cmp(&b.at)));
    // Of equal names the first stands first, so the one behind it is the earliest repetition of this name.
    let repeated = sorted.windows(2).filter_map(|pair| match pair {
        [a, b] if a.bytes(blob) == b.bytes(blob) => Some(**b),
        _ => None,
    });
    repeated.min_by_key(|name| name.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::format;
    use proptest::prelude::*;

    /// The names one behind the other, each with a NUL.
    fn block(list: &[impl AsRef<[u8]>]) -> (Vec<u8>, Vec<Name>) {
        let mut blob = Vec::new();
        let mut names = Vec::new();
        for name in list {
            let name = name.as_ref();
            let start = blob.len() as u32;
            names.push(Name { at: start, start, len: name.len() as u32 });
            blob.extend_from_slice(name);
            blob.push(0);
        }
        (blob, names)
    }

    fn naive(list: &[impl AsRef<[u8]>]) -> Option<usize> {
        let mut seen = BTreeSet::new();
        list.iter().position(|name| !seen.insert(name.as_ref()))
    }

    /// `hash` is a chain of bijections for the last word: run backwards from one and the same state, every first word
    /// has a second word that gives that state.
    fn colliding(count: u64) -> Vec<[u8; 16]> {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = |word: u64| (16u64.rotate_left(29) ^ word).wrapping_mul(FACTOR).rotate_left(29);
        let target = state(u64::from_le_bytes(*b"ABCDEFGH")) ^ u64::from_le_bytes(*b"abcdefgh");
        (0..count)
            .map(|n| {
                // No zero bytes in the first word; the second is what it has to be.
                let first = u64::from_le_bytes(format!("{n:08}").into_bytes().try_into().unwrap());
                let mut name = [0; 16];
                name[..8].copy_from_slice(&first.to_le_bytes());
                name[8..].copy_from_slice(&(state(first) ^ target).to_le_bytes());
                name
            })
            .collect()
    }

    #[test]
    fn names_that_collide_in_all_64_bits_are_sorted_in_time() {
        let mut names = colliding(100_000);
        let all_the_same: BTreeSet<u64> = names.iter().map(|name| hash(name)).collect();
        assert_eq!(all_the_same.len(), 1, "the attack itself works");

        let (blob, list) = block(&names);
        assert!(Duplicates::default().first(&blob, &list).is_none());
        names.push(names[40_000]);
        names.push(names[3]);
        let (blob, list) = block(&names);
        let found = Duplicates::default().first(&blob, &list).unwrap();
        assert_eq!(found.at, list[100_000].at, "the first repetition, not the first name that is repeated");
    }

    #[test]
    fn a_name_needs_a_nul_within_the_limit() {
        let mut bytes = alloc::vec![b'x'; 300];
        assert_eq!(name_len(&bytes, 0), None);
        for len in [0, 1, 7, 8, 9, 63, 254, 255] {
            bytes[len] = 0;
            assert_eq!(name_len(&bytes, 0), Some(len as u32));
            bytes[len] = b'x';
        }
        bytes[256] = 0;
        assert_eq!(name_len(&bytes, 0), None);
        assert_eq!(name_len(&bytes, 256), Some(0));
        assert_eq!(name_len(&bytes, 257), None);
        assert_eq!(name_len(&bytes, 300), None);
        assert_eq!(name_len(&bytes, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn as_the_naive_set(list in prop::collection::vec("[ab]{0,9}", 0..60)) {
            let (blob, names) = block(&list);
            let naive = naive(&list).map(|index| names[index].at);
            prop_assert_eq!(Duplicates::default().first(&blob, &names).map(|name| name.at), naive);
            prop_assert_eq!(first_by_sorting(&blob, &names).map(|name| name.at), naive);
        }

        #[test]
        fn the_length_is_the_position_of_the_first_nul(bytes in prop::collection::vec(0..3u8, 0..40), start in 0..40u32) {
            let naive = bytes.get(start as usize..).and_then(|tail| tail.iter().position(|&b| b == 0));
            prop_assert_eq!(name_len(&bytes, start), naive.map(|len| len as u32));
        }
    }
}
