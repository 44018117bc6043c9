use super::*;
use crate::fdt::Builder;
use crate::handover::Scope;
use crate::handover::testing::{block, planned, sent, written};
use crate::mem::{Geometry, Ram};
use alloc::string::{String, ToString as _};

/// What one range says.
struct Says {
    name: &'static [u8],
    compatible: &'static str,
    start: u64,
    size: u64,
}

const FINE: Says = Says { name: b"mem", compatible: "reserve-mem-v1", start: 0, size: 0x2800 };

/// A tree of these ranges; a start of 0 becomes that of a preserved block of 2 pages, what is above is added to it.
fn tree(scope: &mut Scope<'_, Ram>, compatible: &[&str], ranges: &[Says]) -> Vec<u8> {
    let mut fdt = Builder::new();
    fdt.strings(COMPATIBLE, compatible).unwrap();
    let letters = |number: usize, len: usize| -> String {
        (0..len).map(|at| char::from(b'A' + u8::try_from(if at == 0 { number } else { 25 }).unwrap())).collect()
    };
    for (number, range) in ranges.iter().enumerate() {
        let start = if range.start < 0x1000 { range.start + block(scope, 1, b"") } else { range.start };
        let node = |fdt: &mut Builder| {
            fdt.strings(COMPATIBLE, [range.compatible])?;
            fdt.u64_native(START, start)?;
            fdt.u64_native(SIZE, range.size)
        };
        fdt.node(&letters(number, range.name.len()), node).unwrap();
    }
    let mut bytes = fdt.finish().unwrap();
    // The writer refuses the names that Linux takes.
    for (number, range) in ranges.iter().enumerate() {
        let place = letters(number, range.name.len()) + "\0";
        let at = bytes.windows(place.len()).position(|bytes| bytes == place.as_bytes()).unwrap();
        bytes[at..at + range.name.len()].copy_from_slice(range.name);
    }
    bytes
}

fn read(ranges: &[Says]) -> (Option<Memblock>, Vec<String>) {
    read_tree(&["memblock-v1"], ranges)
}

fn read_tree(compatible: &[&str], ranges: &[Says]) -> (Option<Memblock>, Vec<String>) {
    let incoming = written(Geometry::K4, MADE_OF, |scope| {
        let bytes = tree(scope, compatible, ranges);
        scope.blob(&bytes)
    });
    planned(incoming, MemblockNode)
}

fn fault(says: Says) -> String {
    let (_, findings) = read(&[says]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings[0].clone()
}

#[test]
fn ranges_are_their_whole_pages_and_their_names_are_bytes() {
    let ranges = [
        Says { ..FINE },
        // Less than a page preserves nothing, and what starts inside a page has that page.
        Says { name: b"\xff,/ x", start: 0x40, size: 0x2000, ..FINE },
        Says { name: b"123456789012345", start: 0x1_0000_0000, size: 0xfff, ..FINE },
    ];
    let (found, findings) = read(&ranges);
    assert!(findings.is_empty(), "{findings:?}");
    let found = found.unwrap().ranges;
    assert_eq!(found.iter().map(|range| range.name.as_bytes()).collect::<Vec<_>>(), ranges.map(|range| range.name));
    assert_eq!((found[0].start.get(), found[0].size), (0x100_000, 0x2800));
    assert_eq!((found[1].start.get(), found[1].size), (0x102_040, 0x2000));
    assert_eq!(found[1].name.to_string(), "\\xff,/ x");
    assert_eq!(read(&[]), (Some(Memblock::default()), Vec::new()));
}

#[test]
fn any_entry_of_the_list_that_is_right_makes_it_right() {
    assert!(read_tree(&["other-v1", "memblock-v2", "memblock-v1"], &[]).1.is_empty());
    let fault = |list: &[&str]| read_tree(list, &[]).1;
    let at = "compatible at 0x100000: found";
    assert_eq!(fault(&["memblock-v2"]), [alloc::format!("version-newer: {at} memblock-v2, expected memblock-v1")]);
    assert_eq!(fault(&["memblock-v0"]), [alloc::format!("version-older: {at} memblock-v0, expected memblock-v1")]);
    assert_eq!(fault(&["kho-v4"]), [alloc::format!("component-unknown: {at} kho-v4, expected memblock-v1")]);
}

#[test]
fn ranges_that_lie() {
    let newer = fault(Says { compatible: "reserve-mem-v2", ..FINE });
    assert!(newer.starts_with("version-newer: mem.compatible at offset"), "{newer}");
    let empty = fault(Says { size: 0, ..FINE });
    assert!(empty.starts_with("too-large: mem.size at offset"), "{empty}");
    let wraps = fault(Says { start: u64::MAX - 0xfff, ..FINE });
    assert!(wraps.contains("found 0x2800 bytes from 0xfffffffffffff000 on, expected"), "{wraps}");
    let beyond = fault(Says { start: 1 << 59, ..FINE });
    assert!(beyond.starts_with("too-large: mem.size"), "{beyond}");
    // One page more than was preserved: the third is free.
    let more = fault(Says { size: 0x3000_0000, ..FINE });
    assert_eq!(
        more,
        "not-preserved: mem at 0x100000: 0x100000..0x30100000, of which the page 0x104000 is not preserved"
    );
    let twice = read(&[FINE, Says { name: b"two", start: 0x101_000, size: 0x1000, ..FINE }]).1;
    assert_eq!(twice, ["owned-twice: two at 0x100000: 0x100000..0x102000, of which mem of /node owns a page"]);
}

#[test]
fn names_that_linux_does_not_have() {
    let long = fault(Says { name: b"1234567890123456", ..FINE });
    assert!(long.starts_with("text: 1234567890123456 at offset"), "{long}");
    assert!(long.ends_with("found a name of 16 bytes, expected 1 to 15 bytes that are not all blank"), "{long}");
    assert!(fault(Says { name: b"  ", ..FINE }).starts_with("text:"));
    // Linux would take the first for the second.
    let (_, findings) = read(&[Says { name: b"mem@1", ..FINE }, FINE]);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].starts_with("fdt-unit-address: mem at offset"), "{findings:?}");
    assert!(findings[0].ends_with("mem@1 in front of it"), "{findings:?}");
    assert!(read(&[FINE, Says { name: b"mem@1", ..FINE }]).1.is_empty());
}

#[test]
fn more_ranges_than_linux_has() {
    let says =
        |number: usize| Says { name: [b"a0", b"a1", b"a2", b"a3", b"a4", b"a5", b"a6", b"a7", b"a8"][number], ..FINE };
    let nine: Vec<Says> = (0..9).map(says).collect();
    assert_eq!(read(&nine[..8]).0.unwrap().ranges.len(), 8);
    let (_, findings) = read(&nine);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].ends_with("found more than 8 ranges, expected at most 8"), "{findings:?}");
}

#[test]
fn a_blob_that_is_no_tree_or_too_long() {
    let blob =
        |bytes: &'static [u8]| planned(written(Geometry::K4, MADE_OF, |scope| scope.blob(bytes)), MemblockNode).1;
    assert!(blob(&[0; 48])[0].starts_with("fdt-header:"), "{:?}", blob(&[0; 48]));
    assert!(blob(&[0; 65_537])[0].starts_with("too-large: blob-size at"), "{:?}", blob(&[0; 65_537]));
}

fn range(name: &str, size: u64, align: u64) -> NewRange<'static> {
    NewRange { name: name.into(), size, align, bytes: b"" }
}

#[test]
fn what_is_written_for_linux() {
    // Blocks as Linux splits a run, and no larger: 7 pages aligned to 2.
    let bytes = [7; 0x6001];
    let ranges =
        alloc::vec![NewRange { bytes: &bytes, ..range("one", 0x7000, 0x2000) }, range("fifteen-letters", 0x1000, 1)];
    let incoming = sent(Geometry::K4, &Ranges { ranges });
    let fdt = incoming.plan(&crate::handover::Registry::observing());
    let orders: Vec<u32> =
        fdt.tree().unwrap().iter().map(|folio| folio.order().get()).filter(|&order| order > 0).collect();
    // The run starts at a multiple of 8 pages, as it does in memory that is empty.
    assert_eq!(orders, [2, 1]);
    let (found, findings) =
        planned(sent(Geometry::K4, &Ranges { ranges: alloc::vec![range("one", 0x7000, 0x2000)] }), MemblockNode);
    assert_eq!(findings, [""; 0]);
    let found = found.unwrap();
    assert_eq!((found.ranges[0].name.as_bytes(), found.ranges[0].size), (&b"one"[..], 0x7000));
    assert_eq!(found.ranges[0].start.get() % 0x2000, 0);
}

#[test]
fn ranges_that_linux_would_not_revive() {
    let refused = |ranges: Vec<NewRange<'static>>| {
        let mut outgoing = crate::handover::Outgoing::new(crate::handover::testing::ram(Geometry::K4));
        let fault = outgoing.preserve("memblock", &Ranges { ranges }).unwrap_err();
        assert_eq!(outgoing.memory().free_pages(), 4096);
        fault.to_string()
    };
    let one = |range| refused(alloc::vec![range]);
    let nine = (0..9).map(|n| range(&format!("m{n}"), 4096, 4096)).collect();
    assert_eq!(refused(nine), "too-large: ranges: found 9, expected at most 8");
    let long = one(range("sixteen--letters", 4096, 1));
    assert_eq!(long, "text: sixteen--letters.name: found 16 bytes, expected at most 15");
    assert!(one(range("a@1", 4096, 1)).starts_with("fdt-name: a@1.a@1: found a unit address"));
    let size = "expected whole pages of 0x1000";
    assert_eq!(one(range("a", 4097, 1)), format!("unaligned: a.size: found 0x1001, {size}"));
    assert_eq!(one(range("a", 0, 1)), format!("unaligned: a.size: found 0x0, {size}"));
    let align = "expected a power of two, below 2^47 pages";
    assert_eq!(one(range("a", 4096, 0)), format!("unaligned: a.align: found 0, {align}"));
    assert_eq!(one(range("a", 4096, 12288)), format!("unaligned: a.align: found 12288, {align}"));
    let full = one(NewRange { bytes: &[0; 4097], ..range("a", 4096, 1) });
    assert_eq!(full, "too-large: a.bytes: found 4097, expected at most 4096, the size");
    assert_eq!(one(range("a", 1 << 30, 1)), "exhausted: a: no free block of order 18 is left");
    let twice = refused(alloc::vec![range("a", 4096, 1), range("a", 4096, 1)]);
    assert!(twice.starts_with("fdt-duplicate: a: found a second node"), "{twice}");
}
