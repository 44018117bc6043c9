//! What a predecessor left in an arena: which blocks it preserved, and which of them were taken over.

use crate::mem::{Folio, Geometry, Order, PageRange, Pfn};
use crate::report::{Code, Fault};

/// The blocks that were preserved, and the pages of the tree that says so.
#[derive(Debug)]
pub(super) struct Inherited {
    /// Sorted, so by address: page number, 6 bits of order, and whether it was claimed. A Linux tree of a million
    /// pages costs 8 MB.
    folios: Vec<u64>,
    nodes: Vec<PageRange>,
}

const CLAIMED: u64 = 1;

fn pack(folio: Folio) -> u64 {
    folio.pfn().get() << 7 | u64::from(folio.order().get()) << 1
}

fn unpack(packed: u64) -> Option<Folio> {
    let order = u32::try_from(packed >> 1 & 0x3f).ok().and_then(Order::new)?;
    Folio::new(Pfn::new(packed >> 7)?, order)
}

impl Inherited {
    /// All must be inside the window and disjoint.
    pub(super) fn new(
        geometry: Geometry,
        window: PageRange,
        folios: impl IntoIterator<Item = Folio>,
        nodes: impl IntoIterator<Item = PageRange>,
    ) -> Result<Self, Fault> {
        let mut this = Inherited {
            folios: folios.into_iter().map(pack).collect(),
            nodes: nodes.into_iter().filter(|node| node.count() > 0).collect(),
        };
        this.folios.sort_unstable();
        this.nodes.sort_unstable();
        // Sorted by their starts: any overlap shows between neighbours, or the first would end behind the second.
        let (mut end, mut last_is_node) = (window.start().get(), false);
        for (range, is_node, _) in this.taken() {
            let fault = |code| Fault::new(code).address(range.start().addr(geometry).get()).found(range);
            if range.start().get() < window.start().get() || range.end() > window.end() {
                return Err(fault(Code::Outside).item("preserved block").expected(format_args!("inside {window}")));
            }
            if range.start().get() < end {
                let code = if is_node || last_is_node { Code::OwnedTwice } else { Code::PreservedTwice };
                return Err(fault(code).expected(format_args!("a start behind pfn {end:#x}")));
            }
            (end, last_is_node) = (range.end(), is_node);
        }
        Ok(this)
    }

    /// Blocks and nodes, sorted by their starts: pages, whether it is a node, whether it was claimed.
    fn taken(&self) -> impl Iterator<Item = (PageRange, bool, bool)> {
        let mut folios =
            self.folios.iter().filter_map(|&at| Some((unpack(at)?.range(), false, at & CLAIMED != 0))).peekable();
        let mut nodes = self.nodes.iter().map(|&node| (node, true, false)).peekable();
        core::iter::from_fn(move || match (folios.peek(), nodes.peek()) {
            (Some(folio), Some(node)) if node.0.start() < folio.0.start() => nodes.next(),
            (Some(_), _) => folios.next(),
            (None, _) => nodes.next(),
        })
    }

    /// The pages of the window that belong to nobody.
    pub(super) fn gaps(&self, window: PageRange) -> impl Iterator<Item = PageRange> {
        let ends = [(window.end(), window.end())];
        let taken = self.taken().map(|(range, ..)| (range.start().get(), range.end())).chain(ends);
        let mut from = Some(window.start().get());
        taken.filter_map(move |(start, end)| {
            let gap = PageRange::new(Pfn::new(from?)?, start.checked_sub(from?)?);
            from = Some(end);
            gap.filter(|gap| gap.count() > 0)
        })
    }

    /// The pages that nobody claimed and those of the tree, neighbours joined.
    pub(super) fn rest(&self) -> Vec<PageRange> {
        let mut rest: Vec<PageRange> = Vec::new();
        for (range, _, claimed) in self.taken() {
            if claimed {
                continue;
            }
            let joined = rest
                .last()
                .filter(|last| last.end() == range.start().get())
                .and_then(|last| PageRange::new(last.start(), last.count().saturating_add(range.count())));
            if let Some((last, joined)) = rest.last_mut().zip(joined) {
                *last = joined;
            } else {
                rest.push(range);
            }
        }
        rest
    }

    /// The blocks that nobody claimed, by address.
    pub(super) fn unclaimed(&self) -> impl Iterator<Item = Folio> {
        self.folios.iter().filter(|&&at| at & CLAIMED == 0).filter_map(|&at| unpack(at))
    }

    /// Changes a block from not claimed to claimed or back; whether it was there and was not so already.
    pub(super) fn set_claimed(&mut self, folio: Folio, claimed: bool) -> bool {
        let key = pack(folio);
        let found = self.folios.binary_search_by_key(&key, |&at| at & !CLAIMED);
        match found.ok().and_then(|index| self.folios.get_mut(index)) {
            Some(at) if (*at & CLAIMED != 0) != claimed => {
                *at ^= CLAIMED;
                true
            }
            _ => false,
        }
    }
}
