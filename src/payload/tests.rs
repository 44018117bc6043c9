//! Round trips of plain data, and blobs that lie.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

use super::*;
use crate::compat::CompatList;
use crate::fdt::Fdt;
use crate::handover::{Check, Finished, Home, Incoming, Outgoing, Preserve, Registry};
use crate::mem::{Arena, Frames as _, Geometry, Memory as _, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram};
use crate::report::{Class, Code, Fault};

const BYTES: CompatList<'static> = CompatList::new(Compat::new("test-bytes", 1), &[]);
const TABLE: CompatList<'static> = CompatList::new(Compat::new("test-table", 1), RECORDS_USE);
const ARRAY: CompatList<'static> = CompatList::new(Compat::new("test-array", 1), ARRAY_USE);

fn ram(geometry: Geometry) -> Ram {
    Ram::new(geometry, PageRange::new(Pfn::new(0x100).unwrap(), 4096).unwrap())
}

fn finish<M: Home>(memory: M, component: &impl Preserve<M>) -> Finished<M> {
    let mut outgoing = Outgoing::new(memory);
    outgoing.preserve("it", component).unwrap();
    outgoing.finish().unwrap()
}

fn blob_of<M: Home>(finished: &Finished<M>) -> PhysRange {
    let bytes = finished.root_fdt().unwrap();
    let fdt = Fdt::parse(&bytes).unwrap();
    let word = |name| fdt.root().child("it").unwrap().property(name).unwrap().u64_native().unwrap();
    PhysRange::new(PhysAddr::new(word("preserved-data")), word("blob-size")).unwrap()
}

/// What a reader makes of the node; what is wrong, without `error: /it: ` and with the blob's address as `BLOB`.
fn read<C: Check<Ram> + 'static>(memory: Ram, root: PhysAddr, check: C) -> Result<C::Checked, String> {
    let mut registry = Registry::new();
    let handle = registry.read("it", check);
    let plan = Incoming::new(memory, root).plan(&registry);
    let blob = plan.nodes()[0].blob.unwrap().start().to_string();
    match plan.accept() {
        Ok(accepted) => Ok(accepted.restore().unwrap().take(&handle).unwrap()),
        Err(refused) => Err(errors(&refused.findings, &blob)),
    }
}

fn errors(findings: &crate::report::Findings, blob: &str) -> String {
    let errors = findings.kept().iter().filter(|one| one.fault.code() != Code::Unowned);
    let text: vec::Vec<String> =
        errors.map(|one| one.to_string().replace("error: /it: ", "").replace(blob, "BLOB")).collect();
    text.join("\n")
}

fn round_trip<C: Check<Ram> + 'static>(
    geometry: Geometry,
    component: &impl Preserve<Ram>,
    check: C,
) -> Result<C::Checked, String> {
    let (memory, root) = finish(ram(geometry), component).into_parts();
    read(memory, root.start(), check)
}

/// Reads after the blob was changed.
fn changed<C: Check<Ram> + 'static>(
    component: &impl Preserve<Ram>,
    check: C,
    change: impl FnOnce(&mut [u8]),
) -> Result<C::Checked, String> {
    let finished = finish(ram(Geometry::K4), component);
    let blob = blob_of(&finished);
    let (mut memory, root) = finished.into_parts();
    let mut bytes = vec![0; blob.size() as usize];
    memory.read(blob.start(), &mut bytes).unwrap();
    change(&mut bytes);
    memory.poke(blob.start(), &bytes).unwrap();
    read(memory, root.start(), check)
}

fn set(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn numbers(count: u64) -> vec::Vec<U64> {
    (0..count).map(U64::new).collect()
}

#[test]
fn bytes_of_any_length_in_every_geometry() {
    for geometry in [Geometry::K4, Geometry::K16, Geometry::K64] {
        let page = geometry.page_size() as usize;
        for len in [0, 1, page, page + 1, 3 * page] {
            let bytes: vec::Vec<u8> = (0..len).map(|at| at as u8 ^ (at >> 8) as u8).collect();
            let limit = len as u64;
            let component = Bytes { made_of: BYTES, bytes: &bytes };
            let back = round_trip(geometry, &component, BytesNode { made_of: BYTES, limit });
            assert_eq!(back.as_ref(), Ok(&bytes), "{geometry} {len}");
        }
    }
}

#[test]
fn a_blob_over_the_limit_is_refused_before_it_is_read() {
    let component = Bytes { made_of: BYTES, bytes: b"hello" };
    let told = round_trip(Geometry::K4, &component, BytesNode { made_of: BYTES, limit: 4 }).unwrap_err();
    assert_eq!(told, "too-large: blob-size at BLOB: found 5, expected at most 4");
}

#[test]
fn bytes_that_do_not_fit_leave_nothing_preserved() {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let bytes = vec![1; 4097 * 4096];
    let fault = outgoing.preserve("it", &Bytes { made_of: BYTES, bytes: &bytes }).unwrap_err();
    assert_eq!(fault.to_string(), "exhausted: no free block of order 13 is left");
    assert_eq!(outgoing.memory().free_pages(), 4096);
}

#[test]
fn records_of_any_number_in_every_geometry() {
    for geometry in [Geometry::K4, Geometry::K16, Geometry::K64] {
        let full = geometry.block_capacity(8);
        for count in [0, 1, full, full + 1, 20_000] {
            let records = numbers(count);
            let back =
                round_trip(geometry, &Records { made_of: TABLE, records: &records }, RecordsNode::<U64>::new(TABLE));
            assert_eq!(back.as_ref(), Ok(&records), "{geometry} {count}");
        }
    }
}

#[test]
fn records_of_another_size_are_a_mismatch() {
    let records = numbers(3);
    let component = Records { made_of: TABLE, records: &records };
    let told = round_trip(Geometry::K4, &component, RecordsNode::<U32>::new(TABLE)).unwrap_err();
    let name = core::any::type_name::<U32>();
    let says = format!("record-size: record at BLOB: found records of 8 bytes, expected 4, the size of {name}");
    assert_eq!(told, says);
    assert_eq!(Code::RecordSize.class(), Class::Mismatch);
    let told = changed(&component, RecordsNode::<U64>::new(TABLE), |blob| set(blob, 16, 0)).unwrap_err();
    assert!(told.starts_with("record-size: record at BLOB: found records of 0 bytes, expected 8"), "{told}");
}

#[test]
fn a_table_that_lies_about_its_records() {
    // 510 and 490 of them: two blocks.
    let records = numbers(1_000);
    let component = Records { made_of: TABLE, records: &records };
    let told = |at: usize, word: u64| {
        changed(&component, RecordsNode::<U64>::new(TABLE), |blob| set(blob, at, word)).unwrap_err()
    };
    // Blocks that the table does not reach are owned by nobody, though `mem` says so.
    let first = |text: &str| text.lines().next().unwrap_or_default().to_string();
    assert_eq!(first(&told(8, 1_001)), "block-count: records.count: found 1001, expected 1000");
    assert_eq!(first(&told(8, 999)), "block-count: records.count: found 999, expected at least 1000");
    assert_eq!(first(&told(8, 0)), "block-count: records.count: found 0, expected at least 510");
    assert_eq!(first(&told(8, u64::MAX)), format!("block-count: records.count: found {}, expected 1000", u64::MAX));
    assert_eq!(first(&told(0, 0)), "block-count: records.count: found 1000, expected 0");
    assert!(told(0, 0x100_008).starts_with("unaligned: records"), "{}", told(0, 0x100_008));
    assert!(told(0, 0x800_000).starts_with("not-preserved: records"), "{}", told(0, 0x800_000));
    assert!(told(0, 0xdead_0000_0000).starts_with("not-preserved: records"), "{}", told(0, 0xdead_0000_0000));
}

#[test]
fn a_blob_that_is_too_short_for_its_table() {
    let told = |made_of, len| {
        let bytes = vec![0; len];
        let component = Bytes { made_of, bytes: &bytes };
        round_trip(Geometry::K4, &component, RecordsNode::<U64>::new(TABLE))
    };
    assert_eq!(told(TABLE, 23).unwrap_err(), "truncated: blob-size at BLOB: found 23, expected at least 24 (Records)");
    assert_eq!(told(TABLE, 0).unwrap_err(), "truncated: blob-size at BLOB: found 0, expected at least 24 (Records)");
    let says = "record-size: record at BLOB: found records of 0 bytes, expected 8, the size of ";
    assert!(told(TABLE, 24).unwrap_err().starts_with(says));
}

/// Blocks of an arena as an array, and what a reader makes of it when the blob was changed.
fn array(
    blocks: usize,
    bytes: u64,
    change: impl FnOnce(&Arena, PhysRange, &mut abi::payload::Array),
) -> Result<vec::Vec<u8>, String> {
    let mut outgoing = Outgoing::new(Arena::new(1 << 20).unwrap());
    let mut frames: vec::Vec<_> = (0..blocks).map(|_| outgoing.alloc(Order::ZERO).unwrap()).collect();
    frames.reverse();
    for (number, frame) in frames.iter_mut().enumerate() {
        outgoing.memory().bytes_mut(frame).unwrap().fill(number as u8 + 1);
    }
    outgoing.preserve("it", &Array { made_of: ARRAY, frames: &frames, bytes }).unwrap();
    let finished = outgoing.finish().unwrap();
    let blob = blob_of(&finished);
    let (arena, root) = finished.into_parts();
    let mut wire: abi::payload::Array = crate::mem::read_wire(&arena, blob.start()).unwrap();
    change(&arena, blob, &mut wire);
    poke(&arena, blob.start(), wire.as_bytes());
    let mut registry = Registry::new();
    let handle = registry.add("it", ArrayNode { made_of: ARRAY });
    let plan = Incoming::new(Arena::open(arena.into_fd().unwrap()).unwrap(), root.start()).plan(&registry);
    match plan.accept() {
        Ok(accepted) => Ok(accepted.restore().unwrap().take(&handle).unwrap().to_vec()),
        Err(refused) => Err(errors(&refused.findings, &blob.start().to_string())),
    }
}

fn poke(arena: &Arena, at: PhysAddr, bytes: &[u8]) {
    let file = File::from(arena.fd().try_clone_to_owned().unwrap());
    file.write_all_at(bytes, at.get() - arena.base().get()).unwrap();
}

fn page() -> u64 {
    Arena::new(1 << 20).unwrap().geometry().page_size()
}

#[test]
fn arrays_of_any_length() {
    let page = page();
    for (blocks, bytes) in [(0, 0), (1, 0), (1, 1), (1, page), (3, 2 * page + 5), (3, 3 * page)] {
        let back = array(blocks, bytes, |_, _, _| {}).unwrap();
        let expected: vec::Vec<u8> = (0..bytes).map(|at| (at / page) as u8 + 1).collect();
        assert!(back == expected, "{blocks} {bytes}");
    }
}

#[test]
fn blocks_that_make_no_array_leave_nothing_preserved() {
    let mut outgoing = Outgoing::new(Arena::new(1 << 20).unwrap());
    let page = page();
    let frames = [outgoing.alloc(Order::ZERO).unwrap(), outgoing.alloc(Order::ZERO).unwrap()];
    let odd = [outgoing.alloc(Order::ZERO).unwrap(), outgoing.alloc(Order::new(1).unwrap()).unwrap()];
    let foreign = [Arena::new(1 << 20).unwrap().alloc(Order::ZERO).unwrap()];
    let free = outgoing.memory().free_pages();
    let mut told = |frames: &[crate::mem::Frame], bytes| -> Fault {
        outgoing.preserve("it", &Array { made_of: ARRAY, frames, bytes }).unwrap_err()
    };
    let says = format!("too-large: bytes: found {}, expected at most {}, what the blocks hold", 2 * page + 1, 2 * page);
    assert_eq!(told(&frames, 2 * page + 1).to_string(), says);
    assert_eq!(told(&[], 1).to_string(), "too-large: bytes: found 1, expected at most 0, what the blocks hold");
    let fault = told(&odd, 1);
    assert_eq!((fault.code(), fault.expected_text()), (Code::Refused, "order 0 behind page 0"));
    assert_eq!(told(&foreign, 1).code(), Code::Refused);
    assert_eq!(outgoing.memory().free_pages(), free);
    outgoing.preserve("it", &Array { made_of: ARRAY, frames: &frames, bytes: 2 * page }).unwrap();
}

#[test]
fn blocks_that_are_mapped_are_handed_over_as_they_are_and_a_copy_is_not() {
    let mut outgoing = Outgoing::new(Arena::new(1 << 20).unwrap());
    let mut two = || vec![outgoing.alloc(Order::ZERO).unwrap(), outgoing.alloc(Order::ZERO).unwrap()];
    let (ours, others) = (two(), two());
    let copy = outgoing.memory().map_contiguous_within(others, Some(0)).unwrap();
    let told = outgoing.preserve("it", &MappedArray { made_of: ARRAY, mapping: &copy, bytes: 1 }).unwrap_err();
    assert_eq!(told.to_string(), "refused: mapping: found a copy, expected the blocks themselves");
    let mut mapping = outgoing.memory().map_contiguous(ours).unwrap();
    let bytes = 2 * page();
    outgoing.preserve("it", &MappedArray { made_of: ARRAY, mapping: &mapping, bytes }).unwrap();
    // It may still be written to.
    mapping.fill(7);
    drop((copy, mapping));
    let (arena, root) = outgoing.finish().unwrap().into_parts();
    let mut registry = Registry::new();
    let handle = registry.add("it", ArrayNode { made_of: ARRAY });
    let plan = Incoming::new(Arena::open(arena.into_fd().unwrap()).unwrap(), root.start()).plan(&registry);
    let array = plan.accept().unwrap().restore().unwrap().take(&handle).unwrap();
    assert!(array.len() as u64 == bytes && array.iter().all(|byte| *byte == 7));
}

#[test]
fn an_array_that_lies_about_its_bytes() {
    let page = page();
    for bytes in [3 * page + 1, u64::MAX] {
        let told = array(3, 5, |_, _, wire| wire.bytes = bytes.into()).unwrap_err();
        let says =
            format!("vmalloc-pages: bytes at BLOB: found {bytes}, expected at most {}, what the blocks hold", 3 * page);
        assert_eq!(told, says);
    }
    // Bytes, and no blocks.
    let told = array(0, 0, |_, _, wire| wire.bytes = 1.into()).unwrap_err();
    assert_eq!(told, "vmalloc-pages: blocks.total_pages: found 0, expected a nonzero multiple of 1");
    let told = array(3, 5, |_, _, wire| wire.blocks.total_pages = 4.into()).unwrap_err();
    assert_eq!(told.lines().next(), Some("vmalloc-pages: blocks.total_pages: found 4, expected 3"));
    let told = array(3, 5, |_, _, wire| wire.blocks.flags = 0x80.into()).unwrap_err();
    assert!(told.starts_with("vmalloc-flags: blocks.flags: found 0x80"), "{told}");
}

#[test]
fn an_array_with_one_block_twice_is_owned_twice() {
    let told = array(3, 5, |arena, _, wire| {
        // The chunk: the header's word, and then the addresses.
        let chunk = wire.blocks.first.get();
        let mut second = [0; 8];
        arena.read(PhysAddr::new(chunk + 16), &mut second).unwrap();
        poke(arena, PhysAddr::new(chunk + 8), &second);
    })
    .unwrap_err();
    assert!(told.starts_with("owned-twice: blocks at 0x") && told.contains("of which /it owns a page"), "{told}");
}
