//! Ranges of pages as lists: sorted, joined, cut to the largest.

use alloc::vec::Vec;

use crate::mem::PageRange;

/// Sorts, joins neighbours and drops the empty ones. Ranges that overlap are joined too.
pub(super) fn coalesce(ranges: &mut Vec<PageRange>) {
    ranges.retain(|range| range.count() > 0);
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let joined = next.start().get() <= last.end();
        if joined {
            let count = next.end().max(last.end()).saturating_sub(last.start().get());
            // Ends where one of the two ends, so it is a range; and if it were not, nothing is joined.
            match PageRange::new(last.start(), count) {
                Some(range) => *last = range,
                None => return false,
            }
        }
        joined
    });
}

/// Keeps the `limit` largest of sorted ranges, sorted; whether any was dropped.
pub(super) fn largest(ranges: &mut Vec<PageRange>, limit: usize) -> bool {
    if ranges.len() <= limit {
        return false;
    }
    ranges.sort_by_key(|range| core::cmp::Reverse(range.count()));
    ranges.truncate(limit);
    ranges.sort_unstable();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Pfn;

    fn ranges(list: &[(u64, u64)]) -> Vec<PageRange> {
        list.iter().map(|&(start, count)| PageRange::new(Pfn::new(start).unwrap(), count).unwrap()).collect()
    }

    #[test]
    fn neighbours_join_and_gaps_stay() {
        let mut list = ranges(&[(9, 1), (1, 2), (3, 1), (5, 0), (6, 1), (1, 1)]);
        coalesce(&mut list);
        assert_eq!(list, ranges(&[(1, 3), (6, 1), (9, 1)]));
    }

    #[test]
    fn the_largest_stay_in_order() {
        let mut list = ranges(&[(1, 1), (3, 5), (10, 1), (20, 7)]);
        assert!(!largest(&mut list, 4));
        assert!(largest(&mut list, 2));
        assert_eq!(list, ranges(&[(3, 5), (20, 7)]));
    }
}
