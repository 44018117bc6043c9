//! The radix tree of a real machine, Linux 7.2 on x86-64, frozen at the moment of kexec.

use kho::mem::{Geometry, Image, PageRange, Pfn, PhysAddr, Ram, Source};
use kho::radix::Tree;

#[test]
fn the_tree_of_a_real_machine() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/linux-7.2-x86_64");
    let Source::Image(core) = Image::open(format!("{folder}/frozen.core")).unwrap() else { panic!("a core is memory") };
    let json = std::fs::read_to_string(format!("{folder}/frozen.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let root = PhysAddr::new(json["memory_map"].as_u64().unwrap());
    let loaded = Tree::load(&core, root).unwrap();
    let tree = &loaded.tree;

    let mut found: Vec<(u64, u32)> =
        tree.iter().map(|folio| (folio.addr(Geometry::K4).get(), folio.order().get())).collect();
    found.sort();
    let expected: Vec<(u64, u32)> = json["preserved"]
        .as_array()
        .unwrap()
        .iter()
        .map(|block| serde_json::from_value(block.clone()).unwrap())
        .collect();
    assert_eq!(found, expected);
    assert_eq!((tree.len(), tree.pages(), json["preserved_pages"].as_u64()), (97, 384, Some(384)));
    assert_eq!(tree.check_disjoint(), Ok(()));
    assert_eq!(tree.ranges().map(PageRange::count).sum::<u64>(), 384);

    // The page of the root FDT is preserved; the tree's own nodes are not.
    let fdt = Pfn::new(json["fdt"].as_u64().unwrap() >> 12).unwrap();
    assert_eq!(tree.holder(fdt).map(|folio| folio.pfn()), Some(fdt));
    assert!(loaded.nodes.contains(root.get() >> 12));
    assert!(loaded.nodes.iter().all(|page| tree.holder(Pfn::new(page).unwrap()).is_none()));

    // Written by us it has the same blocks, in as many nodes or fewer: Linux keeps what it emptied.
    let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x8000).unwrap(), 64).unwrap());
    let stored = tree.store(&mut ram).unwrap();
    assert_eq!(&Tree::load(&ram, stored.root).unwrap().tree, tree);
    assert!(stored.nodes.len() as u64 <= loaded.nodes.len(), "{} nodes", stored.nodes.len());
}
