//! The radix tree of a real machine, Linux 7.2 on x86-64, frozen at the moment of kexec.

use kho::mem::{Geometry, MemError, Memory, PageRange, Pfn, PhysAddr, PhysRange, Ram};
use kho::radix::Tree;

/// The loadable segments of an ELF core by physical address, read by hand.
struct Core {
    bytes: Vec<u8>,
    extents: Vec<PhysRange>,
    /// Where the bytes of each extent are in the file.
    offsets: Vec<usize>,
}

impl Core {
    fn new(bytes: Vec<u8>) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        assert_eq!(&bytes[..6], b"\x7fELF\x02\x01");
        let (mut extents, mut offsets) = (Vec::new(), Vec::new());
        for segment in 0..usize::from(u16_at(56)) {
            let at = u64_at(32) as usize + segment * usize::from(u16_at(54));
            if bytes[at..at + 4] == [1, 0, 0, 0] {
                extents.push(PhysRange::new(PhysAddr::new(u64_at(at + 24)), u64_at(at + 32)).unwrap());
                offsets.push(u64_at(at + 8) as usize);
            }
        }
        assert!(extents.is_sorted());
        Core { bytes, extents, offsets }
    }
}

impl Memory for Core {
    fn geometry(&self) -> Geometry {
        Geometry::K4
    }

    fn extents(&self) -> &[PhysRange] {
        &self.extents
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        let len = to.len() as u64;
        let index = self.extents.iter().position(|extent| extent.contains(at, len));
        let index = index.ok_or(MemError::Outside { at, len })?;
        let start = self.offsets[index] + (at.get() - self.extents[index].start().get()) as usize;
        to.copy_from_slice(&self.bytes[start..start + to.len()]);
        Ok(())
    }
}

#[test]
fn the_tree_of_a_real_machine() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/linux-7.2-x86_64");
    let core = Core::new(std::fs::read(format!("{folder}/frozen.core")).unwrap());
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
