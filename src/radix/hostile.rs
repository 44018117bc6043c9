//! Trees that nobody should have written.

use super::tests::{folio, geometry, pages};
use super::*;
use crate::mem::{Memory as _, Order, PhysAddr, Ram};
use alloc::string::String;
use alloc::vec::Vec;
use proptest::prelude::*;

/// A window of zero pages from page 0x10 on, in which trees are made by hand.
struct Image {
    ram: Ram,
    geometry: Geometry,
}

const ROOT: u64 = 0x10;

impl Image {
    fn new(geometry: Geometry, count: u64) -> Self {
        Image { ram: Ram::new(geometry, pages(ROOT, count)), geometry }
    }

    fn addr(&self, page: u64) -> u64 {
        page << self.geometry.page_shift()
    }

    fn set(&mut self, page: u64, index: u64, value: u64) -> &mut Self {
        let at = PhysAddr::new(self.addr(page) + index * 8);
        self.ram.poke(at, &value.to_le_bytes()).unwrap();
        self
    }

    /// `page`'s entry `index` is the node in page `child`.
    fn link(&mut self, page: u64, index: u64, child: u64) -> &mut Self {
        let child = self.addr(child);
        self.set(page, index, child)
    }

    /// Links pages `ROOT`, `ROOT + 1` ... down to a leaf by the entries for a key, and sets its bit. The leaf's page.
    fn key(&mut self, key: u64) -> u64 {
        let (leaf_bits, table_bits) = (self.geometry.leaf_bits(), self.geometry.table_bits());
        let depth = u64::from(self.geometry.depth());
        for node in 0..depth - 1 {
            let index = key >> (leaf_bits + (depth - 2 - node) as u32 * table_bits) & ((1 << table_bits) - 1);
            self.link(ROOT + node, index, ROOT + node + 1);
        }
        let bit = key & ((1 << leaf_bits) - 1);
        self.set(ROOT + depth - 1, bit / 64, 1 << (bit % 64));
        ROOT + depth - 1
    }

    fn load(&self) -> Result<Loaded, Fault> {
        Tree::load(&self.ram, PhysAddr::new(self.addr(ROOT)))
    }

    /// Code, page of the node, item, found.
    fn fault(&self) -> (Code, u64, String, String) {
        let fault = self.load().unwrap_err();
        let at = fault.at();
        let page = at.address.unwrap() >> self.geometry.page_shift();
        (fault.code(), page, at.item.clone().unwrap_or_default().into_owned(), fault.found_text().into())
    }
}

fn hex(n: u64) -> String {
    alloc::format!("{n:#x}")
}

#[test]
fn keys_made_by_hand_are_read() {
    for geometry in Geometry::ALL {
        for block in [folio(0, 0), folio(0x12345, 0), folio(Pfn::LIMIT - 1, 0), folio(1 << 46, 46), folio(0x600, 9)] {
            let mut image = Image::new(geometry, 16);
            let order = block.order().get();
            image.key(1 << (64 - geometry.page_shift() - order) | block.pfn().get() >> order);
            let loaded = image.load().unwrap();
            assert_eq!(loaded.tree.iter().collect::<Vec<_>>(), [block], "{geometry}");
            assert_eq!(loaded.nodes.runs().collect::<Vec<_>>(), [(ROOT, u64::from(geometry.depth()))]);
        }
    }
}

#[test]
fn no_root_is_no_handover() {
    let fault = Tree::load(&Image::new(Geometry::K4, 1).ram, PhysAddr::new(0)).unwrap_err();
    assert_eq!((fault.code(), fault.at().address), (Code::NoHandover, None));
}

#[test]
fn a_root_elsewhere() {
    let image = Image::new(Geometry::K4, 1);
    let load = |at| Tree::load(&image.ram, PhysAddr::new(at)).unwrap_err();
    assert_eq!((load(0x10_008).code(), load(0x10_008).at().address), (Code::Unaligned, Some(0x10_008)));
    for at in [0x11_000, 0xf000, u64::MAX << 12] {
        assert_eq!((load(at).code(), load(at).at().address), (Code::Outside, Some(at)));
    }
}

#[test]
fn empty_nodes_and_leaves_are_legal() {
    for geometry in Geometry::ALL {
        let mut image = Image::new(geometry, 16);
        let leaf = image.key(1 << (64 - geometry.page_shift()));
        image.set(leaf, 0, 0).link(ROOT, 0, ROOT + 9);
        let loaded = image.load().unwrap();
        assert_eq!((loaded.tree.len(), loaded.nodes.len()), (0, u64::from(geometry.depth()) + 1));
    }
}

#[test]
fn ten_thousand_parents_share_a_child() {
    for geometry in Geometry::ALL {
        let entries = 1 << geometry.table_bits();
        let parents = 10_000;
        let mut image = Image::new(geometry, 20_000);
        // Root -> some pages -> 10,000 parents -> all entries of all of them one child.
        let child = ROOT + 19_000;
        for parent in 0..parents {
            let above = ROOT + 1 + parent / entries;
            image.link(above, parent % entries, ROOT + 100 + parent);
            image.link(ROOT + 100 + parent, 0, child).link(ROOT + 100 + parent, entries - 1, child);
        }
        // A 64K tree has one level less.
        let top = if geometry == Geometry::K64 { ROOT } else { ROOT + 90 };
        for above in 0..parents.div_ceil(entries) {
            image.link(top, above, ROOT + 1 + above);
        }
        if top != ROOT {
            image.link(ROOT, 0, top);
        }
        let found = (Code::RadixShared, ROOT + 100, alloc::format!("entry {}", entries - 1), hex(image.addr(child)));
        assert_eq!(image.fault(), found, "{geometry}");
    }
}

#[test]
fn aliases_on_every_level_end_at_the_first() {
    // Read naively, 512 * 512 * 512 * 512 leaves.
    let mut image = Image::new(Geometry::K4, 16);
    for level in 0..5 {
        for entry in 0..512 {
            if level > 0 || entry < 4 {
                image.link(ROOT + level, entry, ROOT + level + 1);
            }
        }
    }
    assert_eq!(image.fault(), (Code::RadixShared, ROOT + 4, "entry 1".into(), hex(image.addr(ROOT + 5))));
}

#[test]
fn a_node_that_is_its_own_parent() {
    for geometry in Geometry::ALL {
        let mut image = Image::new(geometry, 16);
        image.link(ROOT, 1, ROOT);
        assert_eq!(image.fault(), (Code::RadixShared, ROOT, "entry 1".into(), hex(image.addr(ROOT))));
    }
}

#[test]
fn a_cycle_over_several_nodes() {
    for geometry in Geometry::ALL {
        let mut image = Image::new(geometry, 16);
        image.link(ROOT, 1, ROOT + 1).link(ROOT + 1, 3, ROOT + 2).link(ROOT + 2, 7, ROOT + 1);
        assert_eq!(image.fault(), (Code::RadixShared, ROOT + 2, "entry 7".into(), hex(image.addr(ROOT + 1))));
    }
}

#[test]
fn an_unaligned_child() {
    for geometry in Geometry::ALL {
        let mut image = Image::new(geometry, 16);
        let child = image.addr(ROOT + 1) + 8;
        image.set(ROOT, 1, child);
        assert_eq!(image.fault(), (Code::Unaligned, ROOT, "entry 1".into(), hex(child)));
    }
}

#[test]
fn a_child_outside_memory() {
    for geometry in Geometry::ALL {
        for page in [1, ROOT - 1, ROOT + 16, Pfn::LIMIT, (1 << 48) - 1] {
            let mut image = Image::new(geometry, 16);
            image.link(ROOT, 0, page);
            assert_eq!(image.fault(), (Code::Outside, ROOT, "entry 0".into(), hex(image.addr(page))), "{geometry}");
        }
    }
}

#[test]
fn key_0_and_key_1() {
    for geometry in Geometry::ALL {
        for key in [0, 1] {
            let mut image = Image::new(geometry, 16);
            let leaf = image.key(key);
            assert_eq!(image.fault(), (Code::RadixKey, leaf, "".into(), hex(key)), "{geometry}");
        }
    }
}

#[test]
fn keys_of_orders_that_no_machine_has() {
    for geometry in Geometry::ALL {
        // The smallest key that is good, and the one below it.
        let good = 1 << (64 - geometry.page_shift() - Order::MAX.get());
        let mut image = Image::new(geometry, 16);
        image.key(good);
        assert_eq!(image.load().unwrap().tree.iter().next(), Some(folio(0, 46)));
        let mut image = Image::new(geometry, 16);
        let leaf = image.key(good - 1);
        assert_eq!(image.fault(), (Code::RadixKey, leaf, "".into(), hex(good - 1)), "{geometry}");
    }
}

#[test]
fn pages_beyond_all_memory() {
    for geometry in [Geometry::K4, Geometry::K16] {
        for order in [0, 1, 9, 41, 45] {
            let key = 1 << (64 - geometry.page_shift() - order) | Pfn::LIMIT >> order;
            let mut image = Image::new(geometry, 16);
            let leaf = image.key(key);
            assert_eq!(image.fault(), (Code::RadixKey, leaf, "".into(), hex(key)), "{geometry} order {order}");
        }
    }
    // Of two bits in one word, the good one comes first and the bad one is named.
    let mut image = Image::new(Geometry::K4, 16);
    let leaf = image.key((1 << 6) + 1);
    image.set(leaf, 1, 0b110);
    assert_eq!(image.fault(), (Code::RadixKey, leaf, "".into(), hex((1 << 6) + 2)));
}

#[test]
fn nodes_under_entries_that_no_key_reaches() {
    for (geometry, reach) in [(Geometry::K4, 4), (Geometry::K16, 2), (Geometry::K64, 16)] {
        let mut image = Image::new(geometry, 16);
        image.link(ROOT, reach - 1, ROOT + 1);
        assert_eq!(image.load().unwrap().nodes.len(), 2);
        image.link(ROOT, reach, ROOT + 2);
        let found = (Code::RadixKey, ROOT, "".into(), hex(1 << geometry.key_bits()));
        assert_eq!(image.fault(), found, "{geometry}");
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(64))]
    /// Pages of links among each other and of noise: an answer, and only pages that are there in it.
    #[test]
    fn any_pages_an_answer_and_never_a_panic(
        geometry in geometry(),
        words in proptest::collection::vec((0_u64..24, prop_oneof![0_u64..16, 0_u64..8192], 0_u64..26, any::<u64>(), 0_u8..4), 0..200),
    ) {
        let mut image = Image::new(geometry, 24);
        let entries = geometry.page_size() / 8;
        for (page, index, child, noise, kind) in words {
            let value = if kind == 0 { noise } else { image.addr(ROOT + child) };
            image.set(ROOT + page, index % entries, value);
        }
        if let Ok(loaded) = image.load() {
            let extents: Vec<_> = image.ram.extents().to_vec();
            prop_assert!(loaded.nodes.iter().all(|page| extents[0].contains(PhysAddr::new(image.addr(page)), 1)));
            let mut ram = Ram::new(geometry, pages(1 << 20, 64));
            let stored = loaded.tree.store(&mut ram).unwrap();
            prop_assert_eq!(Tree::load(&ram, stored.root).unwrap().tree, loaded.tree);
        }
    }
}
