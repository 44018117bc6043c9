//! Who owns which pages, and ranges of pages as lists.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use crate::mem::{Bits, Folio, Geometry, Order, PageRange, Pfn};
use crate::radix::Tree;
use crate::report::{Code, Fault};

/// Blocks of this order and above are kept as blocks, smaller ones as the bits of their pages: so that what a claim
/// costs is bounded, however large the block is that it names.
const LARGE: Order = match Order::new(6) {
    Some(order) => order,
    None => Order::ZERO,
};

/// So many claims on what another owner has are kept, for pictures; each is told anyway.
const CONTESTED: usize = 1 << 16;

/// Who owns which page: all pages that are owned, and the blocks of each node and of its parts.
#[derive(Default)]
pub(crate) struct Owners {
    small: Bits,
    large: BTreeSet<Claim>,
    pages: u64,
    /// Paths of the nodes.
    nodes: Vec<String>,
    /// What claims, in the order of claiming; a part that claims again later stands there again.
    owners: Vec<Owner>,
    /// The first owner of the node that began last.
    first: usize,
    /// The part of the node that claims from now on, if it is not that of the last owner.
    next: Option<String>,
    /// Claims of a node of several parts, while they are sorted.
    merged: Vec<Claim>,
    conflicts: usize,
    contested: Vec<(usize, Claim)>,
}

/// A node, or a part of one, and what it claimed.
struct Owner {
    node: usize,
    /// As findings name it: `sessions[a].files[0x7]`; empty for what belongs to the node as a whole.
    part: String,
    claims: Vec<Claim>,
}

/// A block in one word: there may be a million of them. Sorts by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim(u64);

impl Claim {
    fn new(block: Folio) -> Self {
        Claim(block.pfn().get() << 6 | u64::from(block.order().get()))
    }

    /// First page, and the one behind the last.
    const fn ends(self) -> (u64, u64) {
        let start = self.0 >> 6;
        (start, start.wrapping_add(1 << (self.0 & 0x3f)))
    }
}

impl Owners {
    pub(super) fn begin(&mut self, path: &str) {
        self.first = self.owners.len();
        self.owners.push(Owner { node: self.nodes.len(), part: String::new(), claims: Vec::new() });
        self.nodes.push(path.into());
        self.next = None;
    }

    /// What is claimed from now on belongs to that part of the node.
    pub(super) fn enter(&mut self, part: &str) {
        let same = self.owners.last().is_some_and(|last| last.part == part);
        self.next = (!same).then(|| part.into());
    }

    /// Who claims now.
    fn current(&mut self) -> Option<&mut Owner> {
        if let Some(part) = self.next.take() {
            let node = self.nodes.len().saturating_sub(1);
            self.owners.push(Owner { node, part, claims: Vec::new() });
        }
        self.owners.last_mut()
    }

    /// How many pages are owned.
    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages the node that began last has claimed.
    pub(super) fn claimed_pages(&self) -> u64 {
        let claims = self.owners.get(self.first..).unwrap_or_default().iter().flat_map(|owner| &owner.claims);
        claims.map(|claim| claim.ends()).fold(0, |sum, (start, end)| sum.saturating_add(end.wrapping_sub(start)))
    }

    /// What the node that began last has claimed: sorted, neighbours joined.
    pub(super) fn claimed(&mut self) -> impl Iterator<Item = PageRange> + '_ {
        let claims = match self.owners.get_mut(self.first..) {
            Some([only]) => only.claims.as_mut_slice(),
            Some(parts) => {
                self.merged.clear();
                // Exactly: of a million claims the rest of a doubling would be megabytes.
                self.merged.reserve_exact(parts.iter().map(|part| part.claims.len()).sum());
                parts.iter().for_each(|part| self.merged.extend_from_slice(&part.claims));
                self.merged.as_mut_slice()
            }
            None => &mut [],
        };
        // An area claims its blocks by address, so that mostly only a few at the front are to be sorted.
        let backwards = claims.iter().rev().zip(claims.iter().rev().skip(1));
        let sorted = backwards.take_while(|(next, before)| before <= next).count().saturating_add(1);
        let (head, tail) = claims.split_at_mut(claims.len().saturating_sub(sorted));
        sort_by_number(head, |claim| claim.0);
        let (mut head, mut tail) = (head.iter().peekable(), tail.iter().peekable());
        let both = core::iter::from_fn(move || match (head.peek(), tail.peek()) {
            (Some(first), Some(second)) if second < first => tail.next(),
            (None, _) => tail.next(),
            _ => head.next(),
        });
        let mut rest = both.map(|claim| claim.ends()).peekable();
        core::iter::from_fn(move || {
            let (start, mut end) = rest.next()?;
            while let Some((_, next)) = rest.next_if(|next| next.0 <= end) {
                end = end.max(next);
            }
            PageRange::new(Pfn::new(start)?, end.wrapping_sub(start))
        })
    }

    /// All owners: path of the node, part of it, and the blocks that it claimed, whether it got them or not.
    #[cfg(all(feature = "std", feature = "serde"))]
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, PageRange)> {
        let got = self.owners.iter().flat_map(|owner| owner.claims.iter().map(move |claim| (owner, *claim)));
        let not = self.contested.iter().filter_map(|(owner, claim)| Some((self.owners.get(*owner)?, *claim)));
        got.chain(not).filter_map(|(owner, claim)| {
            let (start, end) = claim.ends();
            let range = PageRange::new(Pfn::new(start)?, end.wrapping_sub(start))?;
            Some((self.nodes.get(owner.node)?.as_str(), owner.part.as_str(), range))
        })
    }

    /// Whether somebody owns the first page of this preserved block.
    pub(super) fn owns(&self, block: Folio) -> bool {
        self.small.contains(block.pfn().get())
            || self
                .large
                .range(..=Claim::new(block))
                .next_back()
                .is_some_and(|claim| block.pfn().get() < claim.ends().1)
    }

    /// Claims a block for the node that began last.
    pub(super) fn claim(&mut self, block: Folio, geometry: Geometry) -> Result<(), Fault> {
        if self.take(block) { Ok(()) } else { Err(self.conflict(block, geometry)) }
    }

    /// [`Owners::claim`] for many blocks: whether it was free. A fault is large, and passing one on for each block that
    /// is fine took a fifth of a plan.
    pub(super) fn take(&mut self, block: Folio) -> bool {
        let pages = block.order().pages();
        let new = if block.order() >= LARGE {
            if self.large.insert(Claim::new(block)) { pages } else { 0 }
        } else if pages == 1 {
            u64::from(self.small.insert(block.pfn().get()))
        } else {
            self.small.insert_range(block.pfn().get(), pages)
        };
        self.pages = self.pages.saturating_add(new);
        if new != pages {
            return false;
        }
        if let Some(owner) = self.current() {
            owner.claims.push(Claim::new(block));
        }
        true
    }

    /// Claims the preserved blocks that these pages are in, each whole, for the node that began last. So every claim is
    /// a block of the tree, and two owners of one page are two claims of one block.
    pub(super) fn claim_range(&mut self, range: PageRange, tree: &Tree) -> Result<(), Fault> {
        if !tree.covers(range) {
            return Err(not_preserved(range, tree));
        }
        let mut page = range.start().get();
        while page < range.end() {
            let Some(block) = Pfn::new(page).and_then(|page| tree.holder(page)) else { break };
            self.claim(block, tree.geometry())?;
            page = block.range().end();
        }
        Ok(())
    }

    /// Who else claimed a page of this block. Looking for it is work for each conflict, so that only the first ones
    /// name it: a hostile handover may have a conflict for every page.
    pub(super) fn conflict(&mut self, block: Folio, geometry: Geometry) -> Fault {
        let bytes = block.range().bytes(geometry);
        let fault = Fault::new(Code::OwnedTwice).address(bytes.start().get());
        self.conflicts = self.conflicts.saturating_add(1);
        let (start, end) = Claim::new(block).ends();
        let overlaps = |claim: &Claim| claim.ends().0 < end && start < claim.ends().1;
        let named = (self.conflicts <= 16)
            .then(|| self.owners.iter().find(|owner| owner.claims.iter().any(overlaps)))
            .flatten()
            .and_then(|owner| Some((self.nodes.get(owner.node)?, &owner.part)));
        let fault = match named {
            Some((node, part)) if part.is_empty() => fault.found(format_args!("{bytes}, of which {node} owns a page")),
            Some((node, part)) => fault.found(format_args!("{bytes}, of which {part} of {node} owns a page")),
            None => fault.found(format_args!("{bytes}, of which another owner has a page")),
        };
        if self.contested.len() < CONTESTED {
            self.current();
            self.contested.push((self.owners.len().saturating_sub(1), Claim::new(block)));
        }
        fault
    }
}

/// Sorts by a number of each. Of a plan of a million scattered pages, comparing them took a quarter; a radix sort by the
/// distance from the lowest, which is short, takes half of that, if there are enough of them to pay for its tables.
#[cfg(feature = "std")]
pub(super) fn sort_by_number<T>(items: &mut [T], number: impl Fn(&T) -> u64) {
    const ENOUGH: usize = 256;
    let lowest = items.iter().map(&number).min().unwrap_or(0);
    let short = |item: &T| u32::try_from(number(item).wrapping_sub(lowest)).ok();
    if items.len() >= ENOUGH && items.iter().all(|item| short(item).is_some()) {
        radsort::sort_by_key(items, |item| short(item).unwrap_or(u32::MAX));
    } else {
        items.sort_unstable_by_key(number);
    }
}

#[cfg(not(feature = "std"))]
pub(super) fn sort_by_number<T>(items: &mut [T], number: impl Fn(&T) -> u64) {
    items.sort_unstable_by_key(number);
}

/// Says which range is not preserved as a whole.
pub(super) fn not_preserved(range: PageRange, tree: &Tree) -> Fault {
    let bytes = range.bytes(tree.geometry());
    let gap = tree.first_gap(range).map_or(bytes.start(), |gap| gap.addr(tree.geometry()));
    Fault::new(Code::NotPreserved)
        .address(bytes.start().get())
        .found(format_args!("{bytes}, of which the page {gap} is not preserved"))
}

/// Sorts, joins neighbours and drops the empty ones. Ranges that overlap are joined too.
#[cfg(feature = "write")]
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
#[cfg(feature = "write")]
pub(super) fn largest(ranges: &mut Vec<PageRange>, limit: usize) -> bool {
    if ranges.len() <= limit {
        return false;
    }
    ranges.sort_by_key(|range| core::cmp::Reverse(range.count()));
    ranges.truncate(limit);
    ranges.sort_unstable();
    true
}

#[cfg(all(test, feature = "write"))]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Vec<PageRange> {
        list.iter().map(|&(start, count)| PageRange::new(Pfn::new(start).unwrap(), count).unwrap()).collect()
    }

    #[test]
    fn a_block_has_one_owner_and_large_ones_cost_nothing() {
        let block = |pfn: u64, order: u32| Folio::new(Pfn::new(pfn).unwrap(), Order::new(order).unwrap()).unwrap();
        let mut tree = Tree::new(Geometry::K4);
        let blocks = [block(1 << 46, 46), block(0, 3), block(8, 0), block(64, 6), block(1 << 20, 5)];
        blocks.iter().for_each(|&block| assert!(tree.add(block)));
        let mut owners = Owners::default();
        owners.begin("/one");
        for block in blocks {
            owners.claim(block, Geometry::K4).unwrap();
        }
        assert_eq!(owners.pages(), tree.pages());
        assert_eq!(owners.claimed_pages(), tree.pages());
        assert_eq!(
            owners.claimed().collect::<Vec<_>>(),
            ranges(&[(0, 9), (64, 64), (1 << 20, 32), (1 << 46, 1 << 46)])
        );
        owners.begin("/two");
        for block in blocks {
            let fault = owners.claim(block, Geometry::K4).unwrap_err();
            assert_eq!(fault.code(), Code::OwnedTwice);
            assert!(fault.found_text().ends_with("of which /one owns a page"), "{fault}");
        }
        let range = |start, count| ranges(&[(start, count)])[0];
        assert_eq!(owners.claim_range(range(70, 1), &tree).unwrap_err().code(), Code::OwnedTwice);
        assert_eq!(owners.claim_range(range(9, 1), &tree).unwrap_err().code(), Code::NotPreserved);
        assert!(owners.owns(block(64, 6)) && !owners.owns(block(128, 6)));
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
