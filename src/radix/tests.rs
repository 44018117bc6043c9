//! Against the plain set of blocks, and the exact bytes of stored trees.

use super::*;
use crate::mem::{Frames as _, Memory as _, Order, PhysAddr, Ram};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use alloc::{format, vec};
use proptest::prelude::*;

pub(super) fn pages(start: u64, count: u64) -> PageRange {
    PageRange::new(Pfn::new(start).unwrap(), count).unwrap()
}

pub(super) fn folio(pfn: u64, order: u32) -> Folio {
    Folio::new(Pfn::new(pfn).unwrap(), Order::new(order).unwrap()).unwrap()
}

fn blocks(range: PageRange, nodes: &Nodes<'_>) -> Vec<(u64, u32)> {
    split(range, nodes).map(|block| (block.pfn().get(), block.order().get())).collect()
}

#[test]
fn runs_are_cut_as_linux_cuts_them() {
    assert_eq!(
        blocks(pages(0x101, 37), &Nodes::NONE),
        [(0x101, 0), (0x102, 1), (0x104, 2), (0x108, 3), (0x110, 4), (0x120, 2), (0x124, 1)]
    );
    assert_eq!(blocks(pages(0, Pfn::LIMIT), &Nodes::NONE), [(0, 46), (1 << 46, 46)]);
    assert_eq!(blocks(pages(7, 0), &Nodes::NONE), []);
    // A reserve_mem beyond the buddy allocator's orders.
    assert_eq!(blocks(pages(1 << 18, 1 << 18), &Nodes::NONE), [(1 << 18, 18)]);
}

#[test]
fn blocks_stay_within_a_numa_node() {
    // Node 1 between two parts of node 0, then a hole.
    let map = [(pages(0, 12), 0), (pages(12, 4), 1), (pages(16, 16), 0)];
    let nodes = Nodes::new(&map).unwrap();
    assert_eq!(blocks(pages(8, 8), &nodes), [(8, 2), (12, 2)]);
    assert_eq!(blocks(pages(4, 32), &nodes), [(4, 2), (8, 2), (12, 2), (16, 4), (32, 2)]);
    // Linux looks at the first and the last page only.
    assert_eq!(blocks(pages(0, 32), &nodes), [(0, 5)]);
    assert_eq!(blocks(pages(31, 2), &nodes), [(31, 0), (32, 0)]);
    assert_eq!(Nodes::new(&[(pages(4, 4), 0), (pages(7, 1), 1)]), None);
    assert_eq!(Nodes::new(&[(pages(4, 4), 0), (pages(0, 1), 1)]), None);

    let mut tree = Tree::new(Geometry::K4);
    assert_eq!(tree.add_range_within(pages(8, 8), &nodes), 8);
    assert!(tree.contains(folio(8, 2)) && !tree.contains(folio(8, 3)));
    assert_eq!(tree.remove_range(pages(8, 8)), 0, "split otherwise");
    assert_eq!((tree.remove_range_within(pages(8, 8), &nodes), tree.len()), (8, 0));
}

#[test]
fn what_was_split_by_nodes_is_removed_with_the_same_split() {
    // Borders of nodes at pages where no block ends, a node of one page, and a hole.
    let map = [(pages(0, 0x103), 0), (pages(0x103, 1), 1), (pages(0x104, 0x7c), 0), (pages(0x190, 0x1000), 1)];
    let nodes = Nodes::new(&map).unwrap();
    let mut before = Tree::new(Geometry::K4);
    // Neighbours on both sides that are nobody's business here, also within the blocks of the plain split.
    before.add_range(pages(0xc0, 0x40));
    before.add_range_within(pages(0x200, 0x40), &nodes);
    for (start, count) in [(0x100, 0x100), (0x102, 3), (0x101, 0xff), (0x103, 1), (0x180, 0x20), (0x100, 0)] {
        let range = pages(start, count);
        let mut tree = before.clone();
        assert_eq!(tree.add_range_within(range, &nodes), count);
        assert!(tree.covers(range));
        // What is handed over and read back has these very blocks.
        let mut ram = Ram::new(Geometry::K4, pages(0x10_0000, 64));
        let stored = tree.store(&mut ram).unwrap();
        let mut loaded = Tree::load(&ram, stored.root).unwrap().tree;
        assert_eq!(loaded.iter().collect::<Vec<_>>(), tree.iter().collect::<Vec<_>>());
        for tree in [&mut tree, &mut loaded] {
            assert_eq!(tree.remove_range_within(range, &nodes), count, "{range}");
            assert_eq!((&*tree, tree.pages()), (&before, before.pages()));
            assert_eq!(tree.remove_range_within(range, &nodes), 0, "a second time");
        }
        // The other split leaves what it cannot name: not a page too much, and the tree says what is left.
        tree.add_range_within(range, &nodes);
        let removed = tree.remove_range(range);
        assert_eq!(removed == count, split(range, &nodes).eq(split(range, &Nodes::NONE)), "{range}");
        assert_eq!(tree.pages(), before.pages() + count - removed);
    }
}

proptest! {
    #[test]
    fn any_split_by_nodes_is_removed_with_the_same_split(
        sizes in proptest::collection::vec((1_u64..200, 0_u32..3), 0..12), start in 0_u64..1000, count in 0_u64..1500,
        others in proptest::collection::vec((0_u64..3000, 0_u32..4), 0..20),
    ) {
        let mut end = 0;
        let map: Vec<_> = sizes.into_iter().map(|(count, node)| {
            end += count;
            (pages(end - count, count), node)
        }).collect();
        let nodes = Nodes::new(&map).unwrap();
        let range = pages(start, count);
        let mut before = Tree::new(Geometry::K16);
        for (page, order) in others {
            let other = folio(page >> order << order, order);
            if !before.covers(other.range()) && (other.range().end() <= start || other.pfn().get() >= start + count) {
                before.add(other);
            }
        }
        let mut tree = before.clone();
        prop_assert_eq!(tree.add_range_within(range, &nodes), count);
        prop_assert_eq!(tree.remove_range_within(range, &nodes), count);
        prop_assert_eq!(tree, before);
    }
}

#[test]
fn a_block_of_half_of_all_memory_costs_no_more_than_a_page() {
    let mut tree = Tree::new(Geometry::K4);
    assert_eq!(tree.add_range(pages(1, Pfn::LIMIT - 2)), Pfn::LIMIT - 2);
    assert_eq!((tree.len(), tree.pages()), (92, Pfn::LIMIT - 2));
    assert!(tree.covers(pages(1, Pfn::LIMIT - 2)) && !tree.covers(pages(0, 2)));
    assert_eq!(tree.first_gap(pages(1, Pfn::LIMIT - 1)), Pfn::new(Pfn::LIMIT - 1));
    assert_eq!(tree.ranges().collect::<Vec<_>>(), [pages(1, Pfn::LIMIT - 2)]);
    assert_eq!(tree.check_disjoint(), Ok(()));
    assert_eq!(tree.holder(Pfn::new(5 << 40).unwrap()), Some(folio(4 << 40, 42)));
    assert!(tree.add(folio(1 << 46, 46)), "its pages are there, the block is not");
    let fault = tree.check_disjoint().unwrap_err();
    assert_eq!(
        fault.to_string(),
        format!("preserved-twice: at {:#x}: found blocks of order 45 and of order 46, expected one block", 1_u64 << 58)
    );
}

#[test]
fn the_lowest_page_in_two_blocks_is_named() {
    for (first, second, at) in [
        (folio(0, 9), folio(77, 0), 77),
        (folio(64, 3), folio(68, 1), 68),
        (folio(0, 7), folio(0, 12), 0),
        (folio(1 << 20, 20), folio(3 << 19, 13), 3 << 19),
    ] {
        let mut tree = Tree::new(Geometry::K64);
        tree.add_range(pages(1 << 30, 1_000));
        tree.add(folio(1 << 30, 30));
        tree.add(first);
        assert_eq!(tree.check_disjoint().unwrap_err().at().address, Some(1 << 46), "{first}");
        tree.add(second);
        let fault = tree.check_disjoint().unwrap_err();
        assert_eq!((fault.code(), fault.at().address), (Code::PreservedTwice, Some(at << 16)), "{first}, {second}");
    }
}

/// Page, offset, value of every word of a stored tree that is not zero; pages by their number, the root first.
fn dump(tree: &Tree) -> (usize, Vec<(usize, u64, u64)>) {
    let geometry = tree.geometry();
    let mut ram = Ram::new(geometry, pages(0x100, 64));
    let stored = tree.store(&mut ram).unwrap();
    assert_eq!(stored.root, PhysAddr::new(0x100 << geometry.page_shift()));
    let mut words = Vec::new();
    for (number, frame) in stored.nodes.iter().enumerate() {
        assert_eq!(frame.folio(), folio(0x100 + number as u64, 0));
        let mut page = vec![0; geometry.page_size() as usize];
        ram.read(frame.folio().addr(geometry), &mut page).unwrap();
        for (at, word) in (0..).step_by(8).zip(page.as_chunks::<8>().0) {
            if *word != [0; 8] {
                words.push((number, at, u64::from_le_bytes(*word)));
            }
        }
    }
    (stored.nodes.len(), words)
}

fn of(geometry: Geometry, blocks: &[(u64, u32)]) -> Tree {
    let mut tree = Tree::new(geometry);
    for &(pfn, order) in blocks {
        assert!(tree.add(folio(pfn, order)));
    }
    tree
}

/// Nodes are numbered as they are allocated; node `n` lies in page `0x100 + n`.
#[test]
fn the_exact_words_of_4k() {
    let tree = of(Geometry::K4, &[(0x12345, 0), (0x12347, 0), (0x400, 9), (0, 46), (1 << 46, 46)]);
    let words = [
        // Root: key bits 51 and up.
        (0, 0, 0x10_1000),
        (0, 16, 0x10_a000),
        // Order 46: keys 64 and 65, in the very first leaf. Order 9: bit 43 is entry 2 of the node below the root.
        (1, 0, 0x10_2000),
        (1, 16, 0x10_6000),
        (2, 0, 0x10_3000),
        (3, 0, 0x10_4000),
        (4, 0, 0x10_5000),
        (5, 8, 0b11),
        // Order 9, page 0x400: key 1 << 43 | 2.
        (6, 0, 0x10_7000),
        (7, 0, 0x10_8000),
        (8, 0, 0x10_9000),
        (9, 0, 1 << 2),
        // Order 0: keys 1 << 52 | 0x12345 and | 0x12347; entry 2 of level 1 is key bits 15 and up.
        (10, 0, 0x10_b000),
        (11, 0, 0x10_c000),
        (12, 0, 0x10_d000),
        (13, 16, 0x10_e000),
        (14, 0x2340 / 8, 1 << 5 | 1 << 7),
    ];
    assert_eq!(dump(&tree), (15, words.to_vec()));
}

#[test]
fn the_exact_words_of_16k() {
    // Key 1 << 50 | 0x54321.
    let words = [
        (0, 8, 0x40_4000),
        (1, 0, 0x40_8000),
        (2, 0, 0x40_c000),
        (3, 8 * (0x54321 >> 17), 0x41_0000),
        (4, 0x14320 / 64 * 8, 1 << (0x21)),
    ];
    assert_eq!(dump(&of(Geometry::K16, &[(0x54321, 0)])), (5, words.to_vec()));
}

#[test]
fn the_exact_words_of_64k() {
    // Order 4: key 1 << 44 | 0x76_5432.
    let words = [
        (0, 0, 0x101_0000),
        (1, 8 << 12, 0x102_0000),
        (2, 8 * (0x76_5432 >> 19), 0x103_0000),
        (3, (0x76_5432 & 0x7_ffff) / 64 * 8, 1 << (0x32)),
    ];
    assert_eq!(dump(&of(Geometry::K64, &[(0x765_4320, 4)])), (4, words.to_vec()));
}

#[test]
fn an_empty_tree_is_an_empty_root() {
    for geometry in Geometry::ALL {
        assert_eq!(dump(&Tree::new(geometry)), (1, vec![]));
    }
}

#[test]
fn a_store_that_fails_frees_what_it_took() {
    let tree = of(Geometry::K4, &[(1, 0)]);
    for room in 0..6 {
        let mut ram = Ram::new(Geometry::K4, pages(16, room));
        assert_eq!(tree.store(&mut ram).unwrap_err().code(), Code::Exhausted);
        assert_eq!(ram.free_pages(), room);
    }
    let mut ram = Ram::new(Geometry::K4, pages(16, 6));
    for frame in tree.store(&mut ram).unwrap().nodes {
        ram.free(frame);
    }
    assert_eq!(ram.free_pages(), 6);
}

/// The plain model: a set of (page, order).
#[derive(Default)]
struct Model(BTreeSet<(u64, u32)>);

impl Model {
    fn add(&mut self, blocks: impl Iterator<Item = Folio>) -> u64 {
        blocks.filter(|b| self.0.insert((b.pfn().get(), b.order().get()))).map(|b| b.order().pages()).sum()
    }
    fn remove(&mut self, blocks: impl Iterator<Item = Folio>) -> u64 {
        blocks.filter(|b| self.0.remove(&(b.pfn().get(), b.order().get()))).map(|b| b.order().pages()).sum()
    }
    fn holders(&self, page: u64) -> Vec<(u64, u32)> {
        let mut found: Vec<_> = self.0.iter().copied().filter(|(pfn, order)| pfn >> order == page >> order).collect();
        found.sort_by_key(|&(_, order)| order);
        found
    }
    /// Coalesced, as start and end.
    fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (start, end) in self.0.iter().map(|(pfn, order)| (*pfn, pfn + (1 << order))) {
            match ranges.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => ranges.push((start, end)),
            }
        }
        ranges
    }
    fn first_gap(&self, range: PageRange) -> Option<u64> {
        let mut at = range.start().get();
        while at < range.end() {
            match self.holders(at).last() {
                Some((pfn, order)) => at = pfn + (1 << order),
                None => return Some(at),
            }
        }
        None
    }
    /// The lowest page in two blocks is the start of one of them.
    fn twice(&self) -> Option<u64> {
        self.0.iter().map(|&(pfn, _)| pfn).filter(|&pfn| self.holders(pfn).len() > 1).min()
    }
}

/// A page near edges: of words, heaps, leaves, of all memory.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0_u64..400,
        1 => (0_u64..300).prop_map(|n| (1 << 15) - 150 + n),
        1 => (0_u64..300).prop_map(|n| (5 << 24) - 150 + n),
        1 => (1_u64..300).prop_map(|n| Pfn::LIMIT - n),
        1 => 0..Pfn::LIMIT,
    ]
}

fn order() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0), 4 => 0_u32..8, 1 => 0_u32..47]
}

pub(super) fn geometry() -> impl Strategy<Value = Geometry> {
    prop_oneof![Just(Geometry::K4), Just(Geometry::K16), Just(Geometry::K64)]
}

type Step = (u8, u64, u32, u64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let count = prop_oneof![4 => 0_u64..200, 1 => 0_u64..20_000, 1 => 0..Pfn::LIMIT];
    proptest::collection::vec((0_u8..5, page(), order(), count), 1..25)
}

fn apply(tree: &mut Tree, model: &mut Model, (what, page, order, count): Step) -> Result<PageRange, TestCaseError> {
    let block = folio(page >> order << order, order);
    let range = pages(page, count.min(Pfn::LIMIT - page));
    match what {
        0 => prop_assert_eq!(u64::from(tree.add(block)) << order, model.add([block].into_iter())),
        1 => prop_assert_eq!(u64::from(tree.remove(block)) << order, model.remove([block].into_iter())),
        2 | 3 => prop_assert_eq!(tree.add_range(range), model.add(split(range, &Nodes::NONE))),
        _ => prop_assert_eq!(tree.remove_range(range), model.remove(split(range, &Nodes::NONE))),
    }
    Ok(range)
}

proptest! {
    #[test]
    fn like_a_plain_set_of_blocks(steps in steps()) {
        let (mut tree, mut model) = (Tree::new(Geometry::K16), Model::default());
        for step in steps {
            let (page, order) = (step.1, step.2);
            let range = apply(&mut tree, &mut model, step)?;
            prop_assert_eq!(tree.contains(folio(page >> order << order, order)), model.0.contains(&(page >> order << order, order)));
            let holders: Vec<_> = tree.holders(Pfn::new(page).unwrap()).map(|b| (b.pfn().get(), b.order().get())).collect();
            prop_assert_eq!(&holders, &model.holders(page));
            prop_assert_eq!(tree.holder(Pfn::new(page).unwrap()).is_some(), !holders.is_empty());
            prop_assert_eq!(tree.first_gap(range).map(Pfn::get), model.first_gap(range));
            prop_assert_eq!(tree.covers(range), model.first_gap(range).is_none());
        }
        let mut blocks: Vec<(u64, u32)> = model.0.iter().copied().collect();
        prop_assert_eq!(tree.len(), blocks.len() as u64);
        prop_assert_eq!(tree.is_empty(), blocks.is_empty());
        prop_assert_eq!(tree.pages(), blocks.iter().map(|(_, order)| 1 << order).sum::<u64>());
        blocks.sort_by_key(|&(pfn, order)| (core::cmp::Reverse(order), pfn));
        prop_assert_eq!(tree.iter().map(|b| (b.pfn().get(), b.order().get())).collect::<Vec<_>>(), blocks);
        prop_assert_eq!(tree.ranges().map(|r| (r.start().get(), r.end())).collect::<Vec<_>>(), model.ranges());
        let ends = model.ranges().first().map(|first| (first.0, model.ranges().last().unwrap().1));
        prop_assert_eq!(tree.span().map(|span| (span.start().get(), span.end())), ends);
        let twice = tree.check_disjoint().err().and_then(|fault| fault.at().address);
        prop_assert_eq!(twice, model.twice().map(|pfn| pfn << 14));
    }

    #[test]
    fn every_short_run_is_cut_alike(start in 0_u64..200, count in 0_u64..300, far in 0_u64..1000) {
        let range = pages(start + (far << 20), count);
        let mut tree = Tree::new(Geometry::K4);
        prop_assert_eq!(tree.add_range(range), count);
        let mut by_address: Vec<Folio> = tree.iter().collect();
        by_address.sort();
        prop_assert_eq!(by_address, split(range, &Nodes::NONE).collect::<Vec<_>>());
        let first = tree.clone();
        prop_assert_eq!((tree.remove_range(range), tree.remove_range(range), tree.len()), (count, 0, 0));
        // The leaves are there now.
        prop_assert_eq!((tree.add_range(range), tree.add_range(range)), (count, 0));
        prop_assert_eq!(tree, first);
    }

    /// What is stored is read back, and the nodes are the pages that were allocated.
    #[test]
    fn there_and_back(geometry in geometry(), steps in steps()) {
        let (mut tree, mut model) = (Tree::new(geometry), Model::default());
        for step in steps {
            apply(&mut tree, &mut model, step)?;
        }
        let mut ram = Ram::new(geometry, pages(1 << 20, 1 << 12));
        let stored = tree.store(&mut ram).unwrap();
        let loaded = Tree::load(&ram, stored.root).unwrap();
        prop_assert_eq!(&loaded.tree, &tree);
        prop_assert_eq!(loaded.tree.pages(), tree.pages());
        let nodes: Bits = stored.nodes.iter().map(|frame| frame.folio().pfn().get()).collect();
        prop_assert_eq!(loaded.nodes, nodes);
    }
}
