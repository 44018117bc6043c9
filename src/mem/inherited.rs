//! What a predecessor left in a memory: which blocks it preserved, and which of them were taken over.

use alloc::vec::Vec;

use super::{Folio, Frame, FrameAllocator, Geometry, MemError, Order, PageRange, Pfn};
use crate::report::{Code, Fault};

/// The blocks that were preserved, and the pages of the tree that says so.
#[derive(Debug, Default)]
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
    /// The account, and an allocator in which everything else is free. All must be inside the window and disjoint.
    pub(super) fn new(
        geometry: Geometry,
        window: PageRange,
        folios: impl IntoIterator<Item = Folio>,
        nodes: impl IntoIterator<Item = PageRange>,
    ) -> Result<(FrameAllocator, Self), Fault> {
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
        let mut frames = FrameAllocator::empty(geometry, window);
        for gap in this.gaps(window) {
            frames.release(gap);
        }
        Ok((frames, this))
    }

    /// Takes over a block, once.
    pub(super) fn claim(&mut self, frames: &FrameAllocator, folio: Folio) -> Result<Frame, MemError> {
        if self.set_claimed(folio, true) { Ok(frames.adopt(folio)) } else { Err(MemError::NotHeld { folio }) }
    }

    /// Takes a frame back that was claimed: preserved and unclaimed again. Any other comes back to the caller.
    pub(super) fn unclaim(&mut self, frame: Frame) -> Option<Frame> {
        if self.set_claimed(frame.folio(), false) { None } else { Some(frame) }
    }

    /// How many preserved pages nobody has claimed.
    pub(super) fn unclaimed_pages(&self) -> u64 {
        self.unclaimed().fold(0, |pages, folio| pages.saturating_add(folio.order().pages()))
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
    fn gaps(&self, window: PageRange) -> impl Iterator<Item = PageRange> {
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
    fn set_claimed(&mut self, folio: Folio, claimed: bool) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn folio(pfn: u64, order: u32) -> Folio {
        Folio::new(Pfn::new(pfn).unwrap(), Order::new(order).unwrap()).unwrap()
    }

    fn pages(start: u64, count: u64) -> PageRange {
        PageRange::new(Pfn::new(start).unwrap(), count).unwrap()
    }

    #[test]
    fn what_was_preserved_can_be_claimed_once_and_the_rest_is_released() {
        let window = pages(1, 31);
        let (mut frames, mut left) =
            Inherited::new(Geometry::K4, window, [folio(8, 2), folio(3, 0)], [pages(5, 1)]).unwrap();
        assert_eq!(frames.free_pages(), 31 - 4 - 1 - 1);
        let frame = left.claim(&frames, folio(8, 2)).unwrap();
        assert!(frames.holds(&frame));
        for refused in [folio(8, 2), folio(8, 1), folio(4, 0)] {
            assert_eq!(left.claim(&frames, refused), Err(MemError::NotHeld { folio: refused }));
        }
        assert_eq!(left.unclaimed().collect::<Vec<_>>(), [folio(3, 0)]);
        assert_eq!(left.unclaim(frame), None);
        let _frame = left.claim(&frames, folio(8, 2)).unwrap();
        assert_eq!(left.rest(), [pages(3, 1), pages(5, 1)]);
        left.rest().into_iter().for_each(|range| frames.release(range));
        assert_eq!(frames.free_pages(), 31 - 4);
    }

    #[test]
    fn blocks_outside_or_on_top_of_each_other_are_refused() {
        let refused = |folios: &[Folio], nodes: &[PageRange]| {
            Inherited::new(Geometry::K4, pages(1, 31), folios.iter().copied(), nodes.iter().copied())
                .unwrap_err()
                .code()
        };
        assert_eq!(refused(&[folio(0, 0)], &[]), Code::Outside);
        assert_eq!(refused(&[folio(32, 0)], &[]), Code::Outside);
        assert_eq!(refused(&[folio(8, 3), folio(12, 0)], &[]), Code::PreservedTwice);
        assert_eq!(refused(&[folio(8, 3)], &[pages(15, 1)]), Code::OwnedTwice);
    }
}
