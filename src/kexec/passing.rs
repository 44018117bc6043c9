//! A handover as it is laid into the memory of the next kernel.

use alloc::vec::Vec;

use crate::abi::kho::PRESERVED_MEMORY_MAP;
use crate::fdt::Fdt;
use crate::handover::read_root;
use crate::linux::check_scratch;
use crate::mem::{Memory, PageRange, PhysAddr, PhysRange};
use crate::num::{u64_of, usize_of};
use crate::radix::Tree;
use crate::report::{Code, Fault};

use super::Segment;

/// The kernel takes 16 segments; four are its own: kernel, initial RAM disk, boot parameters, and one to spare.
const MAX_SEGMENTS: usize = 12;

/// A handover that somebody authored, and where the next kernel may allocate until it has read it.
#[derive(Clone, Debug)]
pub struct Passing {
    pub(super) root: PhysRange,
    pub(super) scratch: Vec<PhysRange>,
    pub(super) segments: Vec<Segment>,
}

impl Passing {
    /// Reads what has to be in the next kernel's memory: the blocks that are preserved, and the pages of the tree.
    ///
    /// `scratch` is where the next kernel allocates at first: it must be large enough for its early memory, the best
    /// part of it below 4 GiB. Plan the handover before ([`Incoming::plan`](crate::handover::Incoming::plan)): what is
    /// wrong in it is not looked for here.
    ///
    /// # Errors
    /// As the reader of the root and [`Tree::load`], and [`check_scratch`]; [`Code::OwnedTwice`] when a scratch area
    /// overlaps what is preserved; [`Code::Exhausted`] when it is more than this process can hold.
    pub fn new(memory: &dyn Memory, root: PhysAddr, scratch: &[PhysRange]) -> Result<Passing, Fault> {
        let geometry = memory.geometry();
        let bytes = read_root(memory, root)?;
        let map = Fdt::parse(&bytes)?.root().required(PRESERVED_MEMORY_MAP)?.u64_native()?;
        if map == 0 {
            return Err(Fault::new(Code::NoHandover).item(PRESERVED_MEMORY_MAP).found(0));
        }
        let size = u64_of(bytes.len());
        let too_large = || Fault::new(Code::TooLarge).address(root.get()).item("root").found(size);
        let root = PhysRange::new(root, size).ok_or_else(too_large)?;
        let loaded = Tree::load(memory, PhysAddr::new(map))?;
        let nodes = loaded.nodes.iter().filter_map(|page| PageRange::new(crate::mem::Pfn::new(page)?, 1));
        // The kernel is told of the root: it must be there also if nobody preserved it.
        let nodes = nodes.chain([PageRange::around(root, geometry).ok_or_else(too_large)?]);
        let mut ranges: Vec<PhysRange> = loaded.tree.ranges().chain(nodes).map(|pages| pages.bytes(geometry)).collect();
        ranges.sort_unstable();
        // Disjoint from here on.
        let ranges = joined(&ranges, usize::MAX);
        check_scratch(geometry, scratch)?;
        for area in scratch.iter().filter(|area| area.size() > 0) {
            let next = ranges.partition_point(|range| range.end() <= area.start());
            if let Some(other) = ranges.get(next).filter(|range| range.start() < area.end()) {
                let fault = Fault::new(Code::OwnedTwice).address(area.start().get()).item("scratch").found(area);
                return Err(fault.expected(format_args!("nothing preserved there, as is {other}")));
            }
        }
        let wholes = joined(&ranges, MAX_SEGMENTS);
        // A tree of a page can say that all memory is preserved: asked before anything is read.
        let all = wholes.iter().fold(0_u64, |sum, range| sum.saturating_add(range.size()));
        reserve(all)?;
        let segments = wholes.into_iter().map(|range| read(memory, range, &ranges));
        Ok(Passing { root, scratch: scratch.to_vec(), segments: segments.collect::<Result<_, _>>()? })
    }
}

/// Room for so many bytes, if there is.
fn reserve(size: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let fault = || Fault::new(Code::Exhausted).item("handover").found(format_args!("no memory for {size:#x} bytes"));
    let wanted = usize::try_from(size).map_err(|_| fault())?;
    bytes.try_reserve_exact(wanted).map_err(|_| fault())?;
    Ok(bytes)
}

/// At most so many ranges that cover all of these, which ascend: what lies in the smallest gaps between them is taken
/// along.
fn joined(ranges: &[PhysRange], most: usize) -> Vec<PhysRange> {
    let gaps =
        ranges.iter().zip(ranges.iter().skip(1)).map(|(one, next)| next.start().get().saturating_sub(one.end().get()));
    let mut largest: Vec<u64> = gaps.filter(|&gap| gap > 0).collect();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    // Gaps of the size that must go may be more than fit, so all of that size go.
    let limit = largest.get(most.saturating_sub(1)).map_or(0, |&gap| gap);
    let mut joined: Vec<PhysRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start().get().saturating_sub(last.end().get()) <= limit => {
                let end = range.end().max(last.end()).get();
                if let Some(whole) = PhysRange::new(last.start(), end.saturating_sub(last.start().get())) {
                    *last = whole;
                }
            }
            _ => joined.push(*range),
        }
    }
    joined
}

/// Bytes that are read at a time, so that what is not there is noticed early.
const PIECE: u64 = 1 << 20;

/// The bytes of a segment: those of the ranges in it, and zeros between.
fn read(memory: &dyn Memory, segment: PhysRange, ranges: &[PhysRange]) -> Result<Segment, Fault> {
    let mut bytes = reserve(segment.size())?;
    let inside = |at: PhysAddr| usize_of(at.get().saturating_sub(segment.start().get()));
    let first = ranges.partition_point(|range| range.start() < segment.start());
    for range in ranges.iter().skip(first).take_while(|range| range.end() <= segment.end()) {
        bytes.resize(inside(range.start()), 0);
        let mut at = range.start();
        while at < range.end() {
            let end = PhysAddr::new(at.get().saturating_add(PIECE)).min(range.end());
            bytes.resize(inside(end), 0);
            memory.read(at, bytes.get_mut(inside(at)..).unwrap_or_default())?;
            at = end;
        }
    }
    bytes.resize(usize_of(segment.size()), 0);
    Ok(Segment { at: segment.start(), size: segment.size(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), end - start).unwrap()
    }

    #[test]
    fn the_largest_gaps_stay() {
        let ranges = [range(1, 2), range(2, 4), range(10, 11), range(12, 13), range(100, 101)];
        assert_eq!(joined(&ranges, 4), [range(1, 4), range(10, 11), range(12, 13), range(100, 101)]);
        assert_eq!(joined(&ranges, 3), [range(1, 4), range(10, 13), range(100, 101)]);
        assert_eq!(joined(&ranges, 2), [range(1, 13), range(100, 101)]);
        assert_eq!(joined(&ranges, 1), [range(1, 101)]);
        let even = [range(0, 1), range(2, 3), range(4, 5), range(6, 7)];
        assert_eq!(joined(&even, 2), [range(0, 7)], "gaps of one size go together");
        assert_eq!(joined(&[], 2), []);
    }
}
