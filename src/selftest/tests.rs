use alloc::string::String;

use zerocopy::IntoBytes as _;

use super::*;
use crate::fdt::Builder;
use crate::handover::testing::{NODE, block, planned, sent, written};
use crate::handover::{Registry, Scope};
use crate::mem::{Frames as _, Geometry, Ram};
use crate::vmalloc::store_bytes;

fn order(order: u32) -> Order {
    Order::new(order).unwrap()
}

#[test]
fn payloads_come_back_by_both_rules_in_all_geometries() {
    let noise: Vec<u8> = (0..200_001_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for geometry in Geometry::ALL {
        for rule in Rule::ALL {
            let page = usize::try_from(geometry.page_size()).unwrap();
            let parts = [
                (0, &noise[..page]),
                (5, &noise[7..100_000]),
                (0, b"".as_slice()),
                (3, &noise[1..4]),
                (0, &noise[..5]),
            ];
            let payload = Payload { folios: parts.map(|(of, bytes)| (order(of), bytes)).to_vec(), rule };
            let (found, findings) = planned(sent(geometry, &payload), SelfTestNode);
            assert_eq!(findings, [""; 0]);
            let found = found.unwrap();
            assert_eq!(found.rule, rule);
            assert_eq!(found.folios.iter().map(|folio| folio.order().get()).collect::<Vec<_>>(), [0, 5, 0, 3, 0]);

            let mut registry = Registry::new();
            let handle = registry.add(NODE, SelfTestNode);
            let mut restored = sent(geometry, &payload).plan(&registry).accept().unwrap().restore().unwrap();
            let frames = restored.take(&handle).unwrap();
            for (frame, (of, bytes)) in frames.iter().zip(parts) {
                assert_eq!(frame.folio().order(), order(of));
                let mut back = vec![1; usize_of(frame.folio().order().bytes(geometry))];
                restored.memory().read(frame.folio().addr(geometry), &mut back).unwrap();
                let (start, rest) = back.split_at(bytes.len());
                assert!(start == bytes && rest.iter().all(|&byte| byte == 0), "{frame:?}");
            }
            let (memory, unclaimed) = restored.finish();
            // The tree of the payload, of order 1, its array and the chunk, and the page of the root FDT.
            assert_eq!(unclaimed.unwrap(), 2 + 1 + 1 + 1);
            assert_eq!(memory.free_pages(), 4096 - (1 + 32 + 1 + 8 + 1));
        }
    }
}

#[test]
fn the_rules_differ_when_a_folio_sums_to_more_than_16_bits() {
    let payload = |rule| Payload { folios: vec![(Order::ZERO, &[1, 0, 1, 0][..]), (Order::ZERO, &[2, 0, 0, 0])], rule };
    let csum = |rule| planned(sent(Geometry::K4, &payload(rule)), SelfTestNode).0.unwrap().csum;
    assert_eq!((csum(Rule::Words), csum(Rule::Folded)), (0x0001_0003, 4));
    let fits = Payload { folios: vec![(Order::MAX, &[])], rule: Rule::Words };
    let mut outgoing = crate::handover::Outgoing::new(crate::handover::testing::ram(Geometry::K4));
    assert_eq!(outgoing.preserve(NODE, &fits).unwrap_err().code(), Code::Exhausted);
    let long = Payload { folios: vec![(Order::ZERO, &[0; 4097])], rule: Rule::Words };
    let fault = outgoing.preserve(NODE, &long).unwrap_err();
    assert_eq!(fault.to_string(), "too-large: folio: found 4097, expected at most 4096, a folio of order 0");
    assert_eq!(outgoing.memory().free_pages(), 4096);
}

/// What a tree says of one folio of order 1 that holds the word `0x10001`.
struct Says {
    compatible: &'static [&'static str],
    magic: u32,
    /// How many folios, and the word of the array from the address of the folio.
    nr_folios: u32,
    word: fn(u64) -> u64,
    info: fn(&mut Vec<u8>),
    csum: u32,
}

const FINE: Says = Says {
    compatible: &["kho-test-v1"],
    magic: MAGIC_VALUE,
    nr_folios: 1,
    word: |at| at | 1,
    info: |_| (),
    csum: 0x0001_0001,
};

fn tree(scope: &mut Scope<'_, Ram>, says: &Says) -> Vec<u8> {
    let at = block(scope, 1, &[1, 0, 1, 0]);
    let stored = store_bytes(scope, Order::ZERO, &(says.word)(at).to_le_bytes().repeat(2)).unwrap();
    let mut info = stored.descriptor.as_bytes().to_vec();
    (says.info)(&mut info);
    let mut fdt = Builder::new();
    fdt.strings(abi::kho::COMPATIBLE, says.compatible).unwrap();
    fdt.u32_native(MAGIC, says.magic).unwrap();
    let node = |data: &mut Builder| {
        data.u32_native(NR_FOLIOS, says.nr_folios)?;
        data.bytes(FOLIOS_INFO, &info)?;
        data.u32_native(CSUM, says.csum)
    };
    fdt.node(DATA, node).unwrap();
    fdt.finish().unwrap()
}

fn read(says: &Says) -> (Option<Found>, Vec<String>) {
    let incoming = written(Geometry::K4, MADE_OF, |scope| {
        let bytes = tree(scope, says);
        scope.blob(&bytes)
    });
    planned(incoming, SelfTestNode)
}

fn fault(says: Says) -> String {
    let (_, mut findings) = read(&says);
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.pop().unwrap()
}

#[test]
fn another_checksum_is_told_with_both_that_are_right() {
    // The sum of words and the folded one are both right for somebody.
    assert_eq!(read(&FINE).0.unwrap().rule, Rule::Words);
    assert_eq!(read(&Says { csum: 2, ..FINE }).0.unwrap().rule, Rule::Folded);
    assert_eq!(
        fault(Says { csum: 3, ..FINE }),
        "checksum: csum at 0x104000: found 0x00000003, expected 0x00010001 (x86-64) or 0x00000002 (arm64)"
    );
    assert_eq!(
        fault(Says { nr_folios: 0, csum: 3, ..FINE }),
        "checksum: csum at 0x104000: found 0x00000003, expected 0x00000000 (x86-64) or 0x00000000 (arm64)"
    );
}

#[test]
fn trees_that_are_none_of_ours() {
    assert_eq!(
        fault(Says { magic: 0x214f_484b, ..FINE }),
        "magic: magic at 0x104000: found 0x214f484b, expected 0x4b484f21"
    );
    assert_eq!(
        fault(Says { compatible: &["kho-test-v2"], ..FINE }),
        "version-newer: compatible at 0x104000: found kho-test-v2, expected kho-test-v1"
    );
    assert_eq!(read(&Says { compatible: &["other", "kho-test-v1"], ..FINE }).1, [""; 0]);
    let nothing = |build: fn(&mut Builder)| {
        let write = |scope: &mut Scope<'_, Ram>| {
            let mut fdt = Builder::new();
            build(&mut fdt);
            scope.blob(&fdt.finish()?)
        };
        planned(written(Geometry::K4, MADE_OF, write), SelfTestNode).1
    };
    assert!(nothing(|_| ())[0].starts_with("property-missing: compatible"));
    let data = nothing(|fdt| {
        fdt.strings("compatible", ["kho-test-v1"]).unwrap();
        fdt.u32_native(MAGIC, MAGIC_VALUE).unwrap();
    });
    assert!(data[0].starts_with("property-missing: data at offset"), "{data:?}");
    let huge = planned(written(Geometry::K4, MADE_OF, |scope| scope.blob(&[0; 65_537])), SelfTestNode).1;
    assert_eq!(huge, ["too-large: blob-size at 0x100000: found 65537, expected at most 65536"]);
}

#[test]
fn arrays_that_lie() {
    let word = |word: fn(u64) -> u64| fault(Says { word, ..FINE });
    assert_eq!(
        word(|at| at | 47),
        "too-large: folios_info.folios[0].order at 0x100000: found 0x10002f, expected an order below 47"
    );
    assert_eq!(
        word(|at| at | 0xfff),
        "too-large: folios_info.folios[0].order at 0x100000: found 0x100fff, expected an order below 47"
    );
    assert_eq!(
        word(|at| at | 9 | 0x1000),
        "unaligned: folios_info.folios[0].address at 0x101000: found 0x101009, expected aligned to order 9"
    );
    assert_eq!(
        word(|at| at),
        "preserved-otherwise: folios[0] at 0x100000: found preserved as pfn 0x100 order 1, expected pfn 0x100 order 0"
    );
    assert_eq!(
        word(|_| 0x7000_0000),
        "not-preserved: folios[0] at 0x70000000: pfn 0x70000 order 0, which is not preserved"
    );
    assert_eq!(
        word(|_| 1),
        "not-preserved: folios_info.folios[0].address at 0x0: found 0x1, expected not page 0, which means none"
    );
    assert!(word(|_| 1 << 63).starts_with("too-large: folios_info.folios[0].address at 0x8000000000000000"));
    assert_eq!(
        fault(Says { nr_folios: 2, ..FINE }),
        "owned-twice: folios[1] at 0x100000: 0x100000..0x102000, of which /node owns a page"
    );
    assert_eq!(
        fault(Says { nr_folios: 513, ..FINE }),
        "too-large: folios_info.count at 0x104000: found 513, expected at most 512"
    );
    // What is behind the array is zero: no folio.
    assert!(read(&Says { nr_folios: 512, ..FINE }).1[0].starts_with("not-preserved: folios_info.folios[2].address"));
}

#[test]
fn descriptors_that_lie() {
    let info = |info: fn(&mut Vec<u8>)| fault(Says { info, ..FINE });
    let size = info(|bytes| bytes.truncate(15));
    assert!(size.starts_with("property-size: folios_info at offset"), "{size}");
    assert!(size.ends_with("found 15, expected 16"), "{size}");
    assert_eq!(info(|bytes| bytes[8] = 2), "vmalloc-pages: folios_info.total_pages at 0x104000: found 2, expected 1");
    let none = info(|bytes| bytes[8] = 0);
    assert_eq!(none, "vmalloc-pages: folios_info.total_pages at 0x104000: found 0, expected a nonzero multiple of 1");
    assert!(info(|bytes| bytes[12] = 4).starts_with("vmalloc-flags: folios_info"), "flags");
    assert!(info(|bytes| bytes[14] = 47).starts_with("too-large: folios_info.order"), "order");
    assert!(info(|bytes| bytes[0] = 8).starts_with("unaligned: folios_info"), "first chunk");
    assert!(info(|bytes| bytes[3] = 0x70).starts_with("not-preserved: folios_info"), "first chunk");
}

#[test]
fn a_thousand_names_of_one_folio_are_summed_not_once() {
    let write = |scope: &mut Scope<'_, Ram>| {
        let frame = scope.alloc(order(11)).unwrap();
        let word = frame.folio().addr(Geometry::K4).get() | 11;
        let stored = store_bytes(scope, Order::ZERO, &word.to_le_bytes().repeat(20_000)).unwrap();
        let mut fdt = Builder::new();
        fdt.strings(abi::kho::COMPATIBLE, ["kho-test-v1"])?;
        fdt.u32_native(MAGIC, MAGIC_VALUE)?;
        fdt.node(DATA, |data| {
            data.u32_native(NR_FOLIOS, 20_000)?;
            data.bytes(FOLIOS_INFO, stored.descriptor.as_bytes())?;
            data.u32_native(CSUM, 0)
        })?;
        scope.blob(&fdt.finish()?)
    };
    // 160 GB if they were read.
    let findings = planned(written(Geometry::K4, MADE_OF, write), SelfTestNode).1;
    assert_eq!(findings, ["owned-twice: folios[1] at 0x800000: 0x800000..0x1000000, of which /node owns a page"]);
}
