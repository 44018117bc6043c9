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
/// about 50 slots for as many names as a part has.
const PROBES: usize = 128;

/// Larger sets are split into parts of about so many names, by their hashes: tables that stay in the cache.
const PART: usize = 8192;
/// log2 of the most parts. Beyond, parts grow.
const MAX_PART_BITS: u32 = 12;

/// The half of a hash that is kept, beside the index of the name in the other half.
const HASH_HALF: u64 = 0xffff_ffff_0000_0000;

fn index_in(entry: u64) -> usize {
    usize_of(entry & !HASH_HALF)
}

/// Finds names that stand twice. Keeps its memory, so that many small sets cost no allocations; at most 48 bytes for
/// each name, of which the blob has 12 at least.
#[derive(Default)]
pub(super) struct Duplicates {
    /// For each name, hash and index.
    hashed: Vec<u64>,
    /// The same, sorted by the first bits of the hash.
    parted: Vec<u64>,
    /// Open addressing: hash and index; [`FREE`] is free.
    table: Vec<u64>,
}

/// An index that no name has: a blob has fewer.
const FREE: u64 = u64::MAX;

impl Duplicates {
    /// The first name, in the order of `names`, that stands there before.
    ///
    /// A hash table finds it in linear time; names that were made to collide fill a run of the table, and then they are
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
        let hashes = names.iter().map(|name| hash(name.bytes(blob)) & HASH_HALF);
        self.hashed.clear();
        self.hashed.extend(hashes.zip(0u64..).map(|(hash, index)| hash | index));

        let bits = names.len().div_ceil(PART).next_power_of_two().trailing_zeros().min(MAX_PART_BITS);
        if bits == 0 {
            return first_in_part(blob, names, &self.hashed, &mut self.table);
        }
        let part_of = |entry: u64| usize_of(entry >> (64u32.wrapping_sub(bits)));
        // The end of each part, then, while entries are moved from the last to the first, its start.
        let mut ends = alloc::vec![0usize; 1 << bits];
        for entry in &self.hashed {
            if let Some(count) = ends.get_mut(part_of(*entry)) {
                *count = count.wrapping_add(1);
            }
        }
        let mut sum: usize = 0;
        for end in &mut ends {
            sum = sum.wrapping_add(*end);
            *end = sum;
        }
        self.parted.clear();
        self.parted.resize(names.len(), 0);
        for entry in self.hashed.iter().rev() {
            if let Some(end) = ends.get_mut(part_of(*entry)) {
                *end = end.wrapping_sub(1);
                if let Some(place) = self.parted.get_mut(*end) {
                    *place = *entry;
                }
            }
        }
        let Duplicates { parted, table, .. } = self;
        let parts = parted.chunk_by(|a, b| part_of(*a) == part_of(*b));
        parts.filter_map(|part| first_in_part(blob, names, part, table)).min_by_key(|name| name.at)
    }
}

/// The same for some of the names, given by their hashes and indices in ascending order.
fn first_in_part(blob: &[u8], names: &[Name], part: &[u64], table: &mut Vec<u64>) -> Option<Name> {
    let slots = part.len().saturating_mul(2).next_power_of_two();
    table.clear();
    table.resize(slots, FREE);
    let mask = u64_of(slots).wrapping_sub(1);
    for entry in part {
        // The first bits of the hash are the same in the whole part; these are its last.
        let mut slot = (entry >> 32) & mask;
        let mut probes: usize = 0;
        loop {
            let before = table.get_mut(usize_of(slot))?;
            if *before == FREE {
                *before = *entry;
                break;
            }
            if (*before ^ *entry) & HASH_HALF == 0
                && let (Some(before), Some(name)) = (names.get(index_in(*before)), names.get(index_in(*entry)))
                && before.same(name, blob)
            {
                return Some(*name);
            }
            probes = probes.wrapping_add(1);
            if probes == PROBES {
                return first_by_sorting(blob, part.iter().filter_map(|entry| names.get(index_in(*entry))));
            }
            slot = slot.wrapping_add(1) & mask;
        }
    }
    None
}

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
fn first_by_sorting<'n>(blob: &[u8], names: impl Iterator<Item = &'n Name>) -> Option<Name> {
    let mut sorted: Vec<&Name> = names.collect();
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
    fn sets_of_many_parts() {
        let mut list: Vec<_> = (0..100_000).map(|n| format!("node-{n}")).collect();
        let (blob, names) = block(&list);
        assert!(Duplicates::default().first(&blob, &names).is_none());
        for again in [99_999, 5, 70_000, 5] {
            list.push(list[again].clone());
        }
        let (blob, names) = block(&list);
        assert_eq!(Duplicates::default().first(&blob, &names).unwrap().at, names[100_000].at);
        assert_eq!(Duplicates::default().first(&blob, &names[1..]).unwrap().at, names[100_000].at);
        assert_eq!(Duplicates::default().first(&blob, &names[..100_000]).map(|name| name.at), None);
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
            prop_assert_eq!(first_by_sorting(&blob, names.iter()).map(|name| name.at), naive);
        }

        #[test]
        fn the_length_is_the_position_of_the_first_nul(bytes in prop::collection::vec(0..3u8, 0..40), start in 0..40u32) {
            let naive = bytes.get(start as usize..).and_then(|tail| tail.iter().position(|&b| b == 0));
            prop_assert_eq!(name_len(&bytes, start), naive.map(|len| len as u32));
        }
    }
}
