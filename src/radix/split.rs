//! How Linux cuts a run of pages into blocks.

use crate::mem::{Folio, Order, PageRange, Pfn};

/// Which NUMA node has which pages: `(pages, node)`, sorted by page.
///
/// ```
/// use kho::mem::{PageRange, Pfn};
/// use kho::radix::{Nodes, split};
///
/// let pages = |start, count| PageRange::new(Pfn::new(start).unwrap(), count).unwrap();
/// let map = [(pages(0, 0x18), 0), (pages(0x18, 0x100), 1)];
/// let nodes = Nodes::new(&map).unwrap();
/// let orders = |nodes| split(pages(0x10, 16), nodes).map(|block| block.order().get()).collect::<Vec<_>>();
/// assert_eq!(orders(&Nodes::NONE), [4]);
/// assert_eq!(orders(&nodes), [3, 3]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nodes<'a>(&'a [(PageRange, u32)]);

impl Nodes<'static> {
    /// One node, or a machine whose nodes do not matter.
    pub const NONE: Nodes<'static> = Nodes(&[]);
}

impl<'a> Nodes<'a> {
    /// The map, unless it is not sorted or overlaps.
    #[must_use]
    pub fn new(map: &'a [(PageRange, u32)]) -> Option<Self> {
        map.is_sorted_by(|(one, _), (two, _)| one.end() <= two.start().get()).then_some(Nodes(map))
    }

    /// The node of a page; none between the ranges.
    fn of(&self, page: u64) -> Option<u32> {
        let behind = self.0.partition_point(|(pages, _)| pages.start().get() <= page);
        let (pages, node) = self.0.get(behind.checked_sub(1)?)?;
        (page < pages.end()).then_some(*node)
    }
}

/// The blocks that Linux makes of a run of pages: from its start on, always the largest block that is aligned and fits,
/// made smaller until its first and its last page are in one NUMA node.
///
/// Preserving and unpreserving must split alike. Two runs are never one: joined, they would be other blocks.
#[must_use]
pub fn split<'a>(range: PageRange, nodes: &Nodes<'a>) -> Split<'a> {
    Split { at: range.start().get(), end: range.end(), nodes: *nodes }
}

/// The iterator that [`split`] returns.
#[derive(Clone, Debug)]
pub struct Split<'a> {
    at: u64,
    end: u64,
    nodes: Nodes<'a>,
}

impl Iterator for Split<'_> {
    type Item = Folio;

    #[inline]
    fn next(&mut self) -> Option<Folio> {
        let rest = self.end.checked_sub(self.at)?.checked_ilog2()?;
        let mut order = self.at.trailing_zeros().min(rest).min(Order::MAX.get());
        if !self.nodes.0.is_empty() {
            let node = self.nodes.of(self.at);
            let last = |order: u32| self.at.wrapping_add(1 << order).wrapping_sub(1);
            while order > 0 && self.nodes.of(last(order)) != node {
                order = order.wrapping_sub(1);
            }
        }
        let folio = Folio::new(Pfn::new(self.at)?, Order::new(order)?)?;
        self.at = self.at.wrapping_add(1 << order);
        Some(folio)
    }
}
