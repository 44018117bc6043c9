//! What the files of the command's tests do not have: other page sizes, hostile memory, any bytes.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::compat::{Compat, CompatList};
use crate::handover::{Outgoing, Verdict};
use crate::mem::{Memory as _, Order, Pfn, Ram};
use crate::payload::{Bytes, RECORDS_USE, Records};
use crate::selftest::{Payload, Rule};

const BASE: u64 = 1 << 30;
const TABLE: CompatList<'static> = CompatList::new(Compat::new("shop-orders", 3), RECORDS_USE);
const NOTE: CompatList<'static> = CompatList::new(Compat::new("shop-note", 1), &[]);

/// The memory of a machine with a handover, and where its root is.
fn machine(geometry: Geometry) -> (Vec<u8>, u64) {
    let first = Pfn::new(BASE >> geometry.page_shift()).unwrap();
    let mut outgoing = Outgoing::new(Ram::new(geometry, PageRange::new(first, 64).unwrap()));
    let payload = Payload { folios: vec![(Order::new(1).unwrap(), b"hello")], rule: Rule::Folded };
    outgoing.preserve("kho_test", &payload).unwrap();
    outgoing.preserve("orders", &Records { made_of: TABLE, records: &[[7_u8; 100]; 9] }).unwrap();
    outgoing.preserve("note", &Bytes { made_of: NOTE, bytes: b"a note" }).unwrap();
    let (ram, root) = outgoing.finish().unwrap().into_parts();
    let mut bytes = vec![0; usize_of(64 * geometry.page_size())];
    ram.read(PhysAddr::new(BASE), &mut bytes).unwrap();
    (bytes, root.start().get())
}

fn decode(bytes: &[u8], options: &Options) -> Result<Decoded, NotShown> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    memory(Image::raw(file, PhysAddr::new(BASE), Geometry::K4).unwrap(), options)
}

#[test]
fn the_page_size_that_nobody_says_is_found() {
    for geometry in Geometry::ALL {
        let (bytes, root) = machine(geometry);
        let decoded = decode(&bytes, &Options::default()).unwrap();
        let page = decoded.page_size.unwrap();
        assert_eq!((page.bytes, page.by), (geometry.page_size(), PageSizeBy::Tree));
        assert_eq!((decoded.root.address, decoded.root.found_by), (Some(root), FoundBy::Search));
        assert_eq!((decoded.errors, decoded.warnings), (0, 1), "{:?}", decoded.findings);
        let [test, orders, note] = &decoded.nodes[..] else { panic!("{:?}", decoded.nodes) };
        let Some(Content::KhoTest { rule: Rule::Folded, bytes, .. }) = &test.content else { panic!("{test:?}") };
        assert_eq!(*bytes, 2 * geometry.page_size());
        let Some(Content::Records { count: 9, record_size: 100, .. }) = &orders.content else { panic!("{orders:?}") };
        assert_eq!(note.content, Some(Content::Bytes { first_bytes: "61206e6f7465".into() }));
        assert_eq!(note.verdict, Some(Verdict::Opaque));
        // A wrong one that is insisted on is an error, and not a guess.
        let other = Geometry::ALL[(Geometry::ALL.iter().position(|g| *g == geometry).unwrap() + 1) % 3];
        let decoded = decode(&self::machine(geometry).0, &Options { geometry: Some(other), ..Options::default() });
        assert!(decoded.is_ok_and(|decoded| decoded.errors > 0 && decoded.nodes.len() == 3));
    }
}

#[test]
fn a_table_whose_records_have_no_size_or_too_much() {
    let (bytes, _) = machine(Geometry::K4);
    let decoded = decode(&bytes, &Options::default()).unwrap();
    let blob = decoded.nodes[1].blob.unwrap();
    for size in [0, 4081, u64::MAX] {
        let mut bytes = bytes.clone();
        let at = usize_of(blob.address - BASE) + 16;
        bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(size));
        let decoded = decode(&bytes, &Options::default()).unwrap();
        let errors: Vec<_> = decoded.findings.iter().filter(|finding| finding.node == "/orders").collect();
        assert_eq!(
            (errors[0].code, errors[0].found.as_str()),
            (Code::TooLarge, size.to_string().as_str()),
            "{errors:?}"
        );
        assert_eq!(decoded.nodes[1].verdict, Some(Verdict::Refused));
    }
}

#[test]
fn memory_made_of_roots_is_not_looked_into_for_ever() {
    let (bytes, root) = machine(Geometry::K4);
    let page = &bytes[usize_of(root - BASE)..][..4096];
    let roots = [bytes.clone(), page.repeat(3000)].concat();
    let decoded = decode(&roots, &Options::default()).unwrap();
    assert_eq!((decoded.root.address, decoded.errors), (Some(root), 0));
    assert_eq!(decoded.candidates.len(), 3000);
    // Their trees can be read, but nobody preserved them.
    assert_eq!(decoded.candidates.iter().filter(|other| other.errors == Some(1)).count(), find::ROOTS - 1);
}

#[test]
fn seals_by_name() {
    assert_eq!(content::seals(0), [""; 0]);
    assert_eq!(content::seals(0x3f), ["seal", "shrink", "grow", "write", "future-write", "exec"]);
    assert_eq!(content::seals(0x142), ["shrink", "0x140"]);
}

#[test]
fn of_more_blocks_than_anybody_reads_the_first_are_kept() {
    let blocks = Preserved::KEPT as u64 + 5;
    let mut tree = Tree::new(Geometry::K4);
    (1..=blocks).for_each(|number| assert!(tree.add(crate::mem::Folio::page(Pfn::new(2 * number).unwrap()))));
    let preserved = Preserved::of(&tree);
    assert_eq!((preserved.blocks, preserved.range_count), (blocks, blocks));
    assert_eq!((preserved.ranges.len(), preserved.entries.len()), (Preserved::KEPT, Preserved::KEPT));
    assert_eq!((preserved.ranges[0], preserved.entries[0]), (Range { address: 0x2000, size: 0x1000 }, (0x2000, 0)));
}

#[test]
fn a_node_that_linux_would_take_for_its_own_is_told() {
    let errors = |names: &[&str]| {
        let mut fdt = crate::fdt::Builder::new();
        fdt.strings("compatible", ["kho-v4"]).unwrap();
        fdt.u64_native("preserved-memory-map", 0x1000).unwrap();
        for name in names {
            fdt.node(name, |fdt| {
                fdt.u64_native("preserved-data", 0x2000)?;
                fdt.u64_native("blob-size", 8)
            })
            .unwrap();
        }
        let decoded = device_tree(&fdt.finish().unwrap()).unwrap();
        decoded.findings.iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    assert_eq!(errors(&["LUO@1", "LUO"]), [Code::FdtUnitAddress]);
    assert_eq!(errors(&["kho_test@0"]), [Code::FdtUnitAddress]);
    assert_eq!(errors(&["LUO", "LUO@1", "other@1"]), []);
}

#[test]
fn the_fields_of_the_json_stay() {
    let (bytes, _) = machine(Geometry::K4);
    let decoded = serde_json::to_value(decode(&bytes, &Options::default()).unwrap()).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&decoded),
        "candidates errors findings machine nodes page_size preserved root scratch source warnings"
    );
    assert_eq!(keys(&decoded["root"]), "address compatible found_by is_handover preserved_memory_map size");
    assert_eq!(keys(&decoded["preserved"]), "blocks bytes entries orders pages range_count ranges");
    assert_eq!(
        keys(&decoded["nodes"][0]),
        "blob compatible content mem mem_partial name optional owned read_as verdict"
    );
    assert_eq!(keys(&decoded["findings"][0]), "address class code expected found item node offset severity text");
    assert_eq!(decoded["findings"][0]["severity"], "warning");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_change_is_shown_or_refused(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        // What is not zero is what means something.
        let (mut bytes, _) = machine(Geometry::K4);
        let used: Vec<usize> = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        for (index, value) in changes {
            bytes[used[index.index(used.len())]] = value;
        }
        if let Ok(decoded) = decode(&bytes, &Options::default()) {
            let mut text = String::new();
            decoded.print_dts(&mut text).unwrap();
            serde_json::to_vec(&decoded).unwrap();
        }
    }

    #[test]
    fn any_bytes_are_no_device_tree(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let magic = [&[0xd0, 0x0d, 0xfe, 0xed][..], &bytes].concat();
        prop_assert!(device_tree(&bytes).is_err());
        let _ = device_tree(&magic);
    }
}
