use super::*;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use proptest::prelude::*;

#[test]
fn the_largest_numbers_are_numbers_too() {
    let mut bits = Bits::new();
    assert_eq!(bits.insert_range(u64::MAX - 1, 100), 2);
    assert!(bits.insert(0) && bits.insert(1 << 53));
    assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 1 << 53, u64::MAX - 1, u64::MAX]);
    assert_eq!(bits.runs().collect::<Vec<_>>(), [(0, 1), (1 << 53, 1), (u64::MAX - 1, 2)]);
    assert_eq!(bits.next_clear(u64::MAX - 1), None);
    assert!(bits.contains_range(u64::MAX - 1, 2) && bits.contains_range(u64::MAX, u64::MAX));
    assert_eq!(bits.next_set((1 << 53) + 1), Some(u64::MAX - 1));
    assert_eq!(bits.iter_from(u64::MAX).collect::<Vec<_>>(), [u64::MAX]);
    assert_eq!(bits.remove_range(1, u64::MAX), 3);
    assert_eq!(bits.iter().collect::<Vec<_>>(), [0]);
    assert_eq!(bits.next_set(1), None);
}

#[test]
fn an_empty_set_takes_no_memory_and_a_far_number_little() {
    let mut bits = Bits::new();
    assert_eq!((bits.leaves.capacity(), bits.nodes.capacity()), (0, 0));
    assert!(!bits.remove(77) && !bits.contains(77));
    assert_eq!((bits.remove_range(0, u64::MAX), bits.insert_range(5, 0)), (0, 0));
    bits.insert(u64::MAX);
    assert_eq!((bits.leaves.len(), bits.nodes.len()), (1, 9));
}

#[test]
fn removing_from_a_huge_range_visits_what_is_there() {
    let mut bits: Bits = (0..1_000).map(|n| n << 40).collect();
    assert_eq!(bits.remove_range(1 << 40, u64::MAX), 999);
    assert_eq!(bits, Bits::from_iter([0]));
}

#[test]
fn equal_sets_are_equal_however_they_came_about() {
    let mut one: Bits = [1 << 40, 3, 70_000].into_iter().collect();
    let two: Bits = [3, 1 << 40].into_iter().collect();
    assert_ne!(one, two);
    one.remove(70_000);
    assert_eq!(one, two);
    assert_ne!(two, Bits::from_iter([3, 4]));
    assert_eq!(alloc::format!("{two:?}"), "{3..=3, 1099511627776..=1099511627776}");
}

#[test]
fn leaves_in_order_with_their_words() {
    let bits: Bits = [40_000, 5, 1 << 50].into_iter().collect();
    let leaves: Vec<_> = bits.leaves().map(|(index, leaf)| (index, leaf.iter().position(|&w| w != 0))).collect();
    assert_eq!(leaves, [(0, Some(0)), (1, Some((40_000 - 32_768) / 64)), (1 << 35, Some(0))]);
}

/// Numbers at which something could go wrong: dense, around the edges of words, leaves and nodes, and far.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..300,
        2 => (0_u64..6).prop_map(|n| 32_768 * 64 - 3 + n),
        2 => (0_u64..200).prop_map(|n| 32_768 - 100 + n),
        1 => (0_u64..10).prop_map(|n| (1 << 53) - 5 + n),
        1 => (0_u64..10).prop_map(|n| u64::MAX - n),
        1 => any::<u64>(),
    ]
}

proptest! {
    /// Against the plain set.
    #[test]
    fn like_a_plain_set(steps in proptest::collection::vec((0_u8..6, number(), 0_u64..400, any::<u64>()), 1..60)) {
        let (mut bits, mut model) = (Bits::new(), BTreeSet::new());
        for (what, at, count, mask) in steps {
            let range = || (0..count).map_while(|n| at.checked_add(n));
            match what {
                0 => prop_assert_eq!(bits.insert(at), model.insert(at)),
                1 => prop_assert_eq!(bits.remove(at), model.remove(&at)),
                2 => {
                    let new = range().filter(|&n| model.insert(n)).count() as u64;
                    prop_assert_eq!(bits.insert_range(at, count), new);
                }
                3 => {
                    let old = range().filter(|n| model.remove(n)).count() as u64;
                    prop_assert_eq!(bits.remove_range(at, count), old);
                }
                4 => {
                    let new = (0..64).filter(|n| mask >> n & 1 != 0 && model.insert(at & !63 | n));
                    let new = new.fold(0, |bits, n| bits | 1_u64 << n);
                    prop_assert_eq!(bits.insert_word(at >> 6, mask), new);
                }
                _ => {
                    let old = (0..64).filter(|n| mask >> n & 1 != 0 && model.remove(&(at & !63 | n)));
                    let old = old.fold(0, |bits, n| bits | 1_u64 << n);
                    prop_assert_eq!(bits.remove_word(at >> 6, mask), old);
                }
            }
            prop_assert_eq!(bits.contains_range(at, count), range().all(|n| model.contains(&n)));
            prop_assert_eq!(bits.next_set(at), model.range(at..).next().copied());
            prop_assert_eq!(bits.contains(at), model.contains(&at));
            let mut clear = Some(at);
            while let Some(n) = clear && model.contains(&n) {
                clear = n.checked_add(1);
            }
            prop_assert_eq!(bits.next_clear(at), clear);
            prop_assert_eq!(bits.len(), model.len() as u64);
            prop_assert!(bits.iter_from(at).eq(model.range(at..).copied()));
        }
        prop_assert!(bits.iter().eq(model.iter().copied()));
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for &n in &model {
            match runs.last_mut() {
                Some((start, count)) if n - *start == *count => *count += 1,
                _ => runs.push((n, 1)),
            }
        }
        prop_assert_eq!(bits.runs().collect::<Vec<_>>(), runs);
        prop_assert_eq!(model.into_iter().rev().collect::<Bits>(), bits);
    }
}
