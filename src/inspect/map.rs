//! Physical memory and who owns it: the data of a picture.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::find::Shared;
use super::view::Range;
use crate::handover::{Owners, Plan};
use crate::mem::{Bits, Memory as _, PageRange, Pfn, PhysRange};
use crate::num::index_of;
use crate::radix::Tree;
use crate::report::{Code, Fault, Findings};

/// Physical memory, by who owns it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Map {
    /// The memory that there is to be looked at; a dump may lack most of its machine.
    pub extents: Vec<Range>,
    /// Where the next kernel allocates before it has read the tree, as far as that was said.
    pub scratch: Vec<Range>,
    /// The root, the nodes and their parts, then the tree, the scratch, and what is preserved and nobody's.
    pub owners: Vec<MapOwner>,
    /// Memory that has an owner, ascending and disjoint; the first [`Map::KEPT`]. What is not here is free.
    pub ranges: Vec<Stretch>,
    /// How many ranges there are.
    pub range_count: u64,
    /// Bytes that have more than one owner.
    pub overlapping: u64,
}

/// Somebody who owns memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct MapOwner {
    /// What kind of owner.
    pub kind: OwnerKind,
    /// Path of the node, `/` for all that is no node's.
    pub node: String,
    /// The part of the node, as findings name it: `sessions[vm].files[0x7]`.
    pub part: Option<String>,
    /// Bytes that it owns or claims, in whole pages.
    pub bytes: u64,
}

/// What kind of owner somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OwnerKind {
    /// The root FDT.
    Root,
    /// A node, or a part of it.
    Node,
    /// The pages of the radix tree, which are not preserved.
    Tree,
    /// Scratch.
    Scratch,
    /// Preserved, and nobody says for whom.
    Unowned,
}

/// Memory that has the same owners from its first byte to its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Stretch {
    /// Physical address of the first byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Places in [`Map::owners`], ascending; the first eight. More than one is an overlap.
    pub owners: Vec<u32>,
}

/// So many owners of one byte are named.
const NAMED: usize = 8;

impl Map {
    /// So many ranges are kept, as of [`Preserved`](super::Preserved).
    pub const KEPT: usize = 1 << 20;

    pub(super) fn of(extents: &[PhysRange], scratch: &[PhysRange], plan: &Plan<Shared>, owners: &Owners) -> Map {
        let geometry = plan.memory().geometry();
        let bytes = |pages: PageRange| ends(&pages.bytes(geometry));
        let mut layers: Vec<Layer> = Vec::new();
        let mut places = BTreeMap::new();
        for (node, part, pages) in owners.all() {
            let place = *places.entry((node, part)).or_insert(layers.len());
            if place == layers.len() {
                let kind = if node == "/" { OwnerKind::Root } else { OwnerKind::Node };
                layers.push(Layer::new(kind, node, part));
            }
            layers.get_mut(place).into_iter().for_each(|layer| layer.ranges.push(bytes(pages)));
        }
        let nodes = plan.tree_nodes().into_iter().flat_map(Bits::runs);
        let nodes = nodes.filter_map(|(start, count)| PageRange::new(Pfn::new(start)?, count)).map(bytes);
        layers.push(Layer { ranges: nodes.collect(), ..Layer::new(OwnerKind::Tree, "/", "") });
        let ranges = scratch.iter().map(ends).collect();
        layers.push(Layer { ranges, ..Layer::new(OwnerKind::Scratch, "/", "") });
        layers.iter_mut().for_each(Layer::join);
        layers.retain(|layer| layer.owner.bytes > 0);

        let range = |range: &PhysRange| Range { address: range.start().get(), size: range.size() };
        let mut map = Map {
            extents: extents.iter().map(range).collect(),
            scratch: scratch.iter().map(range).collect(),
            ..Map::default()
        };
        let unowned = map.sweep(&layers, plan.tree().into_iter().flat_map(Tree::ranges).map(bytes));
        map.owners = layers.into_iter().map(|layer| layer.owner).collect();
        if unowned > 0 {
            map.owners.push(MapOwner { bytes: unowned, ..Layer::new(OwnerKind::Unowned, "/", "").owner });
        }
        map
    }

    /// Goes through the memory once, over the ends of all ranges; bytes that are preserved and that nobody owns.
    fn sweep(&mut self, layers: &[Layer], preserved: impl Iterator<Item = (u64, u64)>) -> u64 {
        let mut events: Vec<(u64, bool, u32)> = Vec::new();
        for (place, layer) in (0..).zip(layers) {
            events.extend(layer.ranges.iter().flat_map(|&(start, end)| [(start, true, place), (end, false, place)]));
        }
        events.sort_unstable();
        let (mut events, mut preserved) = (events.into_iter().peekable(), preserved.peekable());
        let nobody = u32::try_from(layers.len()).unwrap_or(u32::MAX);
        // Who owns the byte at hand, and how many of them own it as the handover has it.
        let (mut active, mut owning, mut inside) = (BTreeSet::new(), 0_usize, false);
        let (mut at, mut unowned) = (0_u64, 0_u64);
        loop {
            let border = preserved.peek().map(|&(start, end)| if inside { end } else { start });
            let event = events.peek().map(|&(next, ..)| next);
            let Some(next) = border.into_iter().chain(event).min() else { return unowned };
            if next > at {
                let mut owners: Vec<u32> = active.iter().copied().take(NAMED).collect();
                if inside && owning == 0 {
                    unowned = unowned.saturating_add(next.saturating_sub(at));
                    owners.push(nobody);
                }
                self.add(at, next, owners);
                at = next;
            }
            if border == Some(next) {
                if inside {
                    preserved.next();
                }
                inside = !inside;
            }
            while let Some((_, opens, place)) = events.next_if(|event| event.0 <= next) {
                let kind = layers.get(index_of(place)).map(|layer| layer.owner.kind);
                let owns = usize::from(matches!(kind, Some(OwnerKind::Root | OwnerKind::Node)));
                if opens {
                    active.insert(place);
                    owning = owning.saturating_add(owns);
                } else {
                    active.remove(&place);
                    owning = owning.saturating_sub(owns);
                }
            }
        }
    }

    fn add(&mut self, start: u64, end: u64, owners: Vec<u32>) {
        let size = end.saturating_sub(start);
        if owners.is_empty() {
            return;
        }
        if owners.len() > 1 {
            self.overlapping = self.overlapping.saturating_add(size);
        }
        let room = self.ranges.len() < Self::KEPT;
        match self.ranges.last_mut() {
            Some(last) if last.owners == owners && last.address.saturating_add(last.size) == start => {
                last.size = last.size.saturating_add(size);
                return;
            }
            _ if room => self.ranges.push(Stretch { address: start, size, owners }),
            _ => {}
        }
        self.range_count = self.range_count.saturating_add(1);
    }
}

/// The memory of one owner.
struct Layer {
    owner: MapOwner,
    /// First byte, and the one behind the last.
    ranges: Vec<(u64, u64)>,
}

impl Layer {
    fn new(kind: OwnerKind, node: &str, part: &str) -> Self {
        let part = (!part.is_empty()).then(|| part.into());
        Layer { owner: MapOwner { kind, node: node.into(), part, bytes: 0 }, ranges: Vec::new() }
    }

    /// Sorts, joins neighbours and counts.
    fn join(&mut self) {
        self.ranges.retain(|range| range.0 < range.1);
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, last| {
            let joined = next.0 <= last.1;
            if joined {
                last.1 = last.1.max(next.1);
            }
            joined
        });
        let sizes = self.ranges.iter().map(|range| range.1.saturating_sub(range.0));
        self.owner.bytes = sizes.fold(0, u64::saturating_add);
    }
}

fn ends(range: &PhysRange) -> (u64, u64) {
    (range.start().get(), range.end().get())
}

/// Areas of some size, ascending; those that have a byte in common are one. So many areas cost no more than their number.
fn disjoint(areas: &[PhysRange]) -> Vec<PhysRange> {
    let mut areas: Vec<PhysRange> = areas.iter().copied().filter(|area| area.size() > 0).collect();
    areas.sort_unstable();
    areas.dedup_by(|next, last| {
        let common = next.start() < last.end();
        let size = next.end().max(last.end()).get().saturating_sub(last.start().get());
        if common && let Some(whole) = PhysRange::new(last.start(), size) {
            *last = whole;
        }
        common
    });
    areas
}

/// Holds the scratch against what the handover needs: the next kernel allocates there before it has read the tree, so
/// that what is inside is overwritten.
pub(super) fn check_scratch(scratch: &[PhysRange], plan: &Plan<Shared>, owners: &Owners, findings: &mut Findings) {
    let scratch = disjoint(scratch);
    if scratch.is_empty() {
        return;
    }
    let geometry = plan.memory().geometry();
    let bytes = |pages: PageRange| ends(&pages.bytes(geometry));
    // First byte inside, and how many.
    let mut preserved = vec![None; scratch.len()];
    let mut tree = preserved.clone();
    let cut = |found: &mut Vec<Option<(u64, u64)>>, (start, end): (u64, u64)| {
        let from = scratch.partition_point(|range| range.end().get() <= start);
        let areas = scratch.iter().zip(found).skip(from);
        for (range, found) in areas.take_while(|(range, _)| range.start().get() < end) {
            let (first, last) = (start.max(range.start().get()), end.min(range.end().get()));
            if let Some(size) = last.checked_sub(first).filter(|&size| size > 0) {
                let (_, sum) = found.get_or_insert((first, 0));
                *sum = sum.saturating_add(size);
            }
        }
    };
    plan.tree().into_iter().flat_map(Tree::ranges).for_each(|pages| cut(&mut preserved, bytes(pages)));
    for (start, count) in plan.tree_nodes().into_iter().flat_map(Bits::runs) {
        if let Some(pages) = Pfn::new(start).and_then(|start| PageRange::new(start, count)) {
            cut(&mut tree, bytes(pages));
        }
    }
    for ((range, preserved), tree) in scratch.iter().zip(preserved).zip(tree) {
        let kept = findings.kept().len() < Findings::LIMIT;
        let fault = |first: u64, what: String| {
            let fault = Fault::new(Code::ScratchOverlap).address(first).found(what);
            fault.expected(format_args!("nothing of the handover in the scratch {range}"))
        };
        if let Some((first, size)) = preserved {
            // Looked for as long as somebody will see it.
            let owner = owners.all().take_while(|_| kept).find(|(.., pages)| {
                let (start, end) = bytes(*pages);
                (start..end).contains(&first)
            });
            let (node, part) = owner.map_or(("/", ""), |(node, part, _)| (node, part));
            let fault = fault(first, format!("{size:#x} bytes that are preserved there, these first"));
            findings.add(node, if part.is_empty() { fault } else { fault.item(part.to_owned()) });
        }
        if let Some((first, size)) = tree {
            findings
                .add("/", fault(first, format!("{size:#x} bytes of the tree there, these first")).item("radix tree"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(kind: OwnerKind, ranges: &[(u64, u64)]) -> Layer {
        let mut layer = Layer { ranges: ranges.to_vec(), ..Layer::new(kind, "/", "") };
        layer.join();
        layer
    }

    fn swept(layers: &[Layer], preserved: &[(u64, u64)]) -> (Map, u64) {
        let mut map = Map::default();
        let unowned = map.sweep(layers, preserved.iter().copied());
        (map, unowned)
    }

    fn ranges(map: &Map) -> Vec<(u64, u64, &[u32])> {
        map.ranges.iter().map(|range| (range.address, range.size, range.owners.as_slice())).collect()
    }

    #[test]
    fn every_byte_has_the_owners_that_it_has() {
        use OwnerKind::{Node, Scratch, Tree};
        let layers = [
            layer(Node, &[(30, 40), (10, 20), (20, 25), (70, 70)]),
            layer(Node, &[(22, 32)]),
            layer(Tree, &[(60, 70)]),
            layer(Scratch, &[(38, 65)]),
        ];
        assert_eq!(layers[0].owner.bytes, 25);
        let (map, unowned) = swept(&layers, &[(10, 34), (34, 50), (80, 90)]);
        let expected: [(u64, u64, &[u32]); 11] = [
            (10, 12, &[0]),
            (22, 3, &[0, 1]),
            (25, 5, &[1]),
            (30, 2, &[0, 1]),
            (32, 6, &[0]),
            (38, 2, &[0, 3]),
            (40, 10, &[3, 4]),
            (50, 10, &[3]),
            (60, 5, &[2, 3]),
            (65, 5, &[2]),
            (80, 10, &[4]),
        ];
        assert_eq!(ranges(&map), expected);
        assert_eq!((map.overlapping, map.range_count, unowned), (3 + 2 + 2 + 10 + 5, 11, 20));
        assert_eq!(swept(&[], &[]).0, Map::default());
    }

    #[test]
    fn areas_of_scratch_that_are_one() {
        let range = |start: u64, end: u64| PhysRange::new(crate::mem::PhysAddr::new(start), end - start).unwrap();
        let areas = [range(9, 9), range(5, 7), range(7, 8), range(1, 4), range(2, 3), range(3, 5), range(20, u64::MAX)];
        assert_eq!(disjoint(&areas), [range(1, 5), range(5, 7), range(7, 8), range(20, u64::MAX)]);
        assert_eq!(disjoint(&[range(3, 3)]), []);
    }

    #[test]
    fn owners_of_one_byte_beyond_any_reason() {
        // 20,000 who all claim one block, in which 20,000 others have a page each: 400 million pairs.
        let mut layers: Vec<_> = (0..20_000).map(|_| layer(OwnerKind::Node, &[(0, 40_000)])).collect();
        layers.extend((0..20_000).map(|page| layer(OwnerKind::Node, &[(2 * page, 2 * page + 1)])));
        let start = std::time::Instant::now();
        let (map, _) = swept(&layers, &[(0, 40_000)]);
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(ranges(&map), [(0, 40_000, &[0, 1, 2, 3, 4, 5, 6, 7][..])]);
    }

    #[test]
    fn of_more_ranges_than_anybody_draws_the_first_are_kept() {
        let kept = u64::try_from(Map::KEPT).unwrap();
        let preserved: Vec<_> = (0..kept + 3).map(|number| (2 * number, 2 * number + 1)).collect();
        let (map, unowned) = swept(&[], &preserved);
        assert_eq!((map.ranges.len(), map.range_count, unowned), (Map::KEPT, kept + 3, kept + 3));
    }
}
