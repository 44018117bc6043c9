//! Ranges of pages: who owns which, and as lists, sorted, joined, cut to the largest.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::mem::{Bits, PageRange};

/// Pages that have an owner, in memory that grows with the claims and not with the pages: a bit of a hostile tree
/// stands for up to 2^46 pages.
#[derive(Default)]
pub(super) struct Owned {
    /// Ranges of at most [`Owned::SMALL`] pages, a bit for each.
    small: Bits,
    /// Larger ranges: first page, and the first behind.
    large: BTreeMap<u64, u64>,
    pages: u64,
}

impl Owned {
    /// So many pages are two leaves of a bitmap at most.
    const SMALL: u64 = 1 << 15;

    /// Adds a range; whether no page of it was there. Of a large one that was there in part nothing is added.
    pub(super) fn insert(&mut self, range: PageRange) -> bool {
        let (start, end) = (range.start().get(), range.end());
        let large = range.count() > Self::SMALL;
        if self.large.range(..end).next_back().is_some_and(|(_, &behind)| behind > start)
            || large && self.small.next_set(start).is_some_and(|page| page < end)
        {
            return range.count() == 0;
        }
        let new = if large {
            self.large.insert(start, end);
            range.count()
        } else {
            self.small.insert_range(start, range.count())
        };
        self.pages = self.pages.saturating_add(new);
        new == range.count()
    }

    /// How many pages.
    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    /// The first page from that one on that is not there.
    pub(super) fn next_free(&self, from: u64) -> Option<u64> {
        let mut page = self.small.next_clear(from)?;
        while let Some((_, &behind)) = self.large.range(..=page).next_back().filter(|(_, behind)| **behind > page) {
            page = self.small.next_clear(behind)?;
        }
        Some(page)
    }
}

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
    fn a_page_has_one_owner_and_large_ranges_cost_nothing() {
        let range = |start: u64, count: u64| PageRange::new(Pfn::new(start).unwrap(), count).unwrap();
        let mut owned = Owned::default();
        let half = 1 << 46;
        for (start, count) in [(half, half), (8, 8), (1 << 20, 1 << 20), (16, 1 << 16), (0, 8)] {
            assert!(owned.insert(range(start, count)), "{start:#x}");
        }
        let pages = half + 8 + (1 << 20) + (1 << 16) + 8;
        assert_eq!(owned.pages(), pages);
        for (start, count) in [(half + 5, 1), (half - 1, 2), (7, 2), (0, half), (0x1f_ffff, 1), (1 << 16, 1), (16, 1)] {
            assert!(!owned.insert(range(start, count)), "{start:#x}");
        }
        assert!(owned.insert(range(half, 0)));
        assert_eq!(owned.pages(), pages);
        assert_eq!(owned.next_free(0), Some(16 + (1 << 16)));
        assert_eq!(owned.next_free((1 << 20) - 1), Some((1 << 20) - 1));
        assert_eq!(owned.next_free(1 << 20), Some(1 << 21));
        assert_eq!(owned.next_free(half + 1), Some(half * 2));
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
