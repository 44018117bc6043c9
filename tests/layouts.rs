//! New versions of layouts, of which the library knows nothing: they are made known here, and no component and no other
//! layout has to change for them.
#![cfg(feature = "std")]

#[path = "common/whole.rs"]
mod whole;

use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use kho::abi::vmalloc::Descriptor;
use kho::block::{self, Record, Set};
use kho::compat::{Compat, Reads};
use kho::files::Files;
use kho::handover::{Handle, Incoming, Layout, Outgoing, Registry, Verdict};
use kho::mem::{Arena, Bits, Folio, Frame, Frames, Memory, Order, Pfn, PhysAddr};
use kho::memfd::{ByPages, MemfdNode};
use kho::payload::{Array, ArrayNode, Contiguous, Records, RecordsNode};
use kho::report::{Code, Fault};
use kho::transport::Bundle;
use kho::vmalloc::{self, Area};
use zerocopy::little_endian::U64;

use whole::{ARRAY, TABLE, contents, noise, noisy};

const VMALLOC_V2: Compat<'static> = Compat::new("vmalloc", 2);
const BLOCK_V2: Compat<'static> = Compat::new("block", 2);

/// A page of words that somebody else wrote, once.
fn words(memory: &dyn Memory, at: u64, taken: &mut Bits) -> Result<(Pfn, Vec<u64>), Fault> {
    let page = PhysAddr::new(at).page(memory.geometry()).ok_or_else(|| Fault::new(Code::Unaligned).address(at))?;
    if taken.contains(page.get()) {
        return Err(Fault::new(Code::ListCycle).address(at));
    }
    taken.insert(page.get());
    let mut bytes = vec![0; memory.geometry().page_size() as usize];
    memory.read(PhysAddr::new(at), &mut bytes)?;
    Ok((page, bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()))
}

/// Writes pages of words, each with the address of the next one in front.
fn store(frames: &mut dyn Frames, bodies: &[Vec<u64>]) -> Result<Vec<Frame>, Fault> {
    let pages: Vec<Frame> = bodies.iter().map(|_| frames.alloc(Order::ZERO)).collect::<Result<_, _>>()?;
    let geometry = frames.geometry();
    for (number, body) in bodies.iter().enumerate() {
        let next = pages.get(number + 1).map_or(0, |page| page.folio().addr(geometry).get());
        let bytes: Vec<u8> = [next].iter().chain(body).flat_map(|word| word.to_le_bytes()).collect();
        frames.write(&pages[number], 0, &bytes)?;
    }
    Ok(pages)
}

/// Versions 1 and 2 of vmalloc: in version 2 a chunk is the address of the next one, a count, then so many page numbers.
struct Second;

impl vmalloc::Format for Second {
    fn versions(&self) -> Reads<'static> {
        Reads::since(1, VMALLOC_V2)
    }

    fn load(
        &self,
        found: Compat<'_>,
        memory: &dyn Memory,
        descriptor: &Descriptor,
        taken: &mut Bits,
    ) -> Result<vmalloc::Loaded, Fault> {
        if found.version() == 1 {
            return vmalloc::V1.load(found, memory, descriptor, taken);
        }
        let order = Order::new(descriptor.order.get().into()).ok_or_else(|| Fault::new(Code::TooLarge))?;
        let (mut area, mut chunks) = (Area::new(order, descriptor.flags.get())?, Vec::new());
        let mut next = descriptor.first.get();
        while next != 0 {
            let (page, body) = words(memory, next, taken)?;
            chunks.push(page);
            let count = body[1] as usize;
            for number in body.get(2..2 + count).ok_or_else(|| Fault::new(Code::VmallocPages))? {
                let folio = Pfn::new(*number).and_then(|pfn| Folio::new(pfn, order));
                area.push(folio.ok_or_else(|| Fault::new(Code::Unaligned))?)?;
            }
            next = body[0];
        }
        if area.total_pages() != descriptor.total_pages.get() {
            return Err(Fault::new(Code::VmallocPages).found(descriptor.total_pages));
        }
        Ok(vmalloc::Loaded { area, chunks })
    }

    fn store(&self, version: Compat<'_>, area: &Area, frames: &mut dyn Frames) -> Result<vmalloc::Stored, Fault> {
        if version.version() == 1 {
            return vmalloc::V1.store(version, area, frames);
        }
        // Few in a chunk, so that there are several.
        let bodies: Vec<Vec<u64>> = area
            .blocks()
            .chunks(3)
            .map(|part| [part.len() as u64].into_iter().chain(part.iter().map(|pfn| pfn.get())).collect())
            .collect();
        let chunks = store(frames, &bodies)?;
        let descriptor = Descriptor {
            first: chunks[0].folio().addr(frames.geometry()).get().into(),
            total_pages: area.total_pages().into(),
            flags: area.flags().into(),
            order: (area.order().get() as u16).into(),
        };
        Ok(vmalloc::Stored { descriptor, chunks, blocks: Vec::new() })
    }
}

/// Version 2 of block sets, and no other: one page is a table of all the others, each with its number of records.
struct Tabled;

impl block::Format for Tabled {
    fn versions(&self) -> Reads<'static> {
        Reads::only(BLOCK_V2)
    }

    fn walk(
        &self,
        _: Compat<'_>,
        memory: &dyn Memory,
        set: &Set,
        taken: &mut Bits,
        each: &mut dyn FnMut(PhysAddr, &[u8]),
    ) -> (Vec<Pfn>, Result<(), Fault>) {
        let mut pages = Vec::new();
        let mut walk = || {
            let (page, table) = words(memory, set.first.get(), taken)?;
            pages.push(page);
            let mut total = 0;
            for entry in table[1..].chunks_exact(2).take_while(|entry| entry[0] != 0) {
                let (page, _) = words(memory, entry[0], taken)?;
                pages.push(page);
                let mut bytes = vec![0; (entry[1] * set.record.bytes) as usize];
                memory.read(PhysAddr::new(entry[0]), &mut bytes)?;
                each(PhysAddr::new(entry[0]), &bytes);
                total += entry[1];
            }
            if set.count.is_some_and(|count| count != total) {
                return Err(Fault::new(Code::BlockCount).found(total));
            }
            Ok(())
        };
        let walked = walk();
        (pages, walked)
    }

    fn store(
        &self,
        _: Compat<'_>,
        record: Record,
        bytes: &[u8],
        frames: &mut dyn Frames,
    ) -> Result<block::Stored, Fault> {
        let room = 100 * record.bytes as usize;
        let (mut table, mut blocks) = (Vec::new(), Vec::new());
        for part in bytes.chunks(room) {
            let page = frames.alloc(Order::ZERO)?;
            frames.write(&page, 0, part)?;
            table.extend([page.folio().addr(frames.geometry()).get(), part.len() as u64 / record.bytes]);
            blocks.push(page);
        }
        let first = store(frames, &[table])?.remove(0);
        let at = first.folio().addr(frames.geometry());
        blocks.insert(0, first);
        Ok(block::Stored { first: at, blocks })
    }
}

/// A successor, with what it knows beyond the library.
struct Successor {
    registry: Registry<Bundle>,
    memfd: Handle<OwnedFd>,
    array: Handle<Contiguous>,
    table: Handle<Vec<U64>>,
}

fn successor(layouts: &[Layout]) -> Successor {
    let mut registry = Registry::new();
    layouts.iter().for_each(|layout| registry.add_layout(layout.clone()));
    Successor {
        memfd: registry.add("memfd", MemfdNode),
        array: registry.add("array", ArrayNode { made_of: ARRAY }),
        table: registry.read("table", RecordsNode::new(TABLE)),
        registry,
    }
}

fn second() -> Layout {
    Layout::Vmalloc(Rc::new(Second))
}

fn tabled() -> Layout {
    Layout::Block(Rc::new(Tabled))
}

const ARRAY_BYTES: usize = 7 * 4096 - 5;

fn rows() -> Vec<U64> {
    (0..450).map(|number: u64| U64::new(number * 3)).collect()
}

/// A handover by who knows these layouts, for a reader where one is named; and what its nodes are made of.
fn handed_over(layouts: &[Layout], reader: Option<&Successor>) -> (Incoming<Bundle>, [String; 3]) {
    let mut outgoing = Outgoing::new(Bundle::new(8 << 20).unwrap());
    layouts.iter().for_each(|layout| outgoing.add_layout(layout.clone()));
    if let Some(reader) = reader {
        outgoing.write_for(&reader.registry.terms()).unwrap();
    }
    let carried = noisy(3, 50_001, 0x1234);
    outgoing.preserve("memfd", &ByPages { file: carried.as_fd(), order: Order::ZERO }).unwrap();
    let bytes = noise(6, ARRAY_BYTES);
    let page = outgoing.geometry().page_size() as usize;
    let frames: Vec<Frame> = bytes.chunks(page).map(|_| outgoing.alloc(Order::ZERO).unwrap()).collect();
    for (frame, part) in frames.iter().zip(bytes.chunks(page)) {
        outgoing.write(frame, 0, part).unwrap();
    }
    outgoing.preserve("array", &Array { made_of: ARRAY, frames: &frames, bytes: ARRAY_BYTES as u64 }).unwrap();
    outgoing.preserve("table", &Records { made_of: TABLE, records: &rows() }).unwrap();
    let made_of = ["memfd", "array", "table"].map(|node| outgoing.made_of(node).unwrap().to_string());
    let (bundle, root) = outgoing.finish().unwrap().into_parts();
    (arrived(bundle, root.start()), made_of)
}

/// As a successor opens it.
fn arrived(bundle: Bundle, root: PhysAddr) -> Incoming<Bundle> {
    let arena = Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap();
    Incoming::new(Bundle::of(arena, Files::new()), root)
}

#[track_caller]
fn restores(incoming: Incoming<Bundle>, successor: &Successor) {
    let plan = incoming.plan(&successor.registry);
    assert!(plan.findings().is_empty(), "{}", plan.findings());
    let mut restored = plan.accept().unwrap().restore().unwrap();
    assert_eq!(contents(restored.take(&successor.memfd).unwrap().as_fd()), noise(3, 50_001));
    assert_eq!(restored.take(&successor.array).unwrap()[..], noise(6, ARRAY_BYTES));
    assert_eq!(restored.take(&successor.table).unwrap(), rows());
    assert!(restored.finish().1.unwrap() > 0, "metadata is freed");
}

const OLD: [&str; 3] =
    ["memfd-v2;vmalloc-v1", "test-array-v1;kho-array-v1;vmalloc-v1", "test-table-v1;block-v1;kho-records-v1"];

fn old_with(from: &str, to: &str) -> [String; 3] {
    OLD.map(|text| text.replace(from, to))
}

#[test]
fn a_new_version_of_vmalloc_is_written_for_who_reads_it_and_no_component_notices() {
    let reader = successor(&[second()]);
    let (incoming, made_of) = handed_over(&[second()], Some(&reader));
    assert_eq!(made_of, old_with("vmalloc-v1", "vmalloc-v2"));
    restores(incoming, &reader);
}

#[test]
fn a_new_version_of_block_sets_too() {
    let reader = successor(&[tabled()]);
    let (incoming, made_of) = handed_over(&[tabled()], Some(&reader));
    assert_eq!(made_of, old_with("block-v1", "block-v2"));
    restores(incoming, &reader);
    // Both at once.
    let reader = successor(&[tabled(), second()]);
    let (incoming, made_of) = handed_over(&[second(), tabled()], Some(&reader));
    assert_eq!(made_of, old_with("block-v1", "block-v2").map(|text| text.replace("vmalloc-v1", "vmalloc-v2")));
    restores(incoming, &reader);
}

#[test]
fn where_one_side_knows_only_the_first_version_that_is_written() {
    let [old, new] = [successor(&[]), successor(&[second(), tabled()])];
    let knows: &[Layout] = &[second(), tabled()];
    for (writer, reader) in [(knows, &old), (&[], &new), (&[], &old)] {
        let (incoming, made_of) = handed_over(writer, Some(reader));
        assert_eq!(made_of, OLD);
        restores(incoming, reader);
    }
    // Also when nothing is known of the reader; and the newer one reads it.
    let (incoming, made_of) = handed_over(knows, None);
    assert_eq!(made_of, OLD);
    restores(incoming, &new);
}

#[test]
fn who_does_not_know_the_new_version_refuses_it_as_newer_and_never_as_corrupt() {
    let knows = [second(), tabled()];
    let (incoming, _) = handed_over(&knows, Some(&successor(&knows)));
    let old = successor(&[]);
    let refused = incoming.plan(&old.registry).accept().unwrap_err();
    let says = "\
error: /memfd: version-newer: compatible: found vmalloc-v2, expected vmalloc-v1
error: /array: version-newer: compatible: found vmalloc-v2, expected vmalloc-v1
error: /table: version-newer: compatible: found block-v2, expected block-v1";
    assert_eq!(refused.findings.to_string(), says);
    assert!(refused.nodes.iter().all(|node| node.verdict == Verdict::Refused));
    // Each is told by itself; and as it came, it restores where it is understood.
    let half = successor(&[second()]);
    let refused = refused.incoming.plan(&half.registry).accept().unwrap_err();
    assert_eq!(refused.findings.to_string(), says.lines().last().unwrap());
    restores(refused.incoming, &successor(&knows));
}

#[test]
fn the_forecast_says_the_same_before_anybody_leaves() {
    let mut outgoing = Outgoing::new(Bundle::new(8 << 20).unwrap());
    outgoing.add_layout(second());
    outgoing.write_for(&successor(&[second()]).registry.terms()).unwrap();
    let carried = noisy(3, 5_001, 0);
    outgoing.preserve("memfd", &ByPages { file: carried.as_fd(), order: Order::ZERO }).unwrap();
    let finished = outgoing.finish().unwrap();
    let mut old = Registry::<Bundle>::new();
    old.add("memfd", MemfdNode);
    let forecast = finished.forecast(&old.terms()).unwrap();
    let says = "error: /memfd: version-newer: compatible: found vmalloc-v2, expected vmalloc-v1";
    assert_eq!((forecast.verdict(), forecast.to_string().as_str()), (Verdict::Refused, says));
    let (bundle, root) = finished.into_parts();
    assert_eq!(arrived(bundle, root.start()).plan(&old).findings().to_string(), says);
}

kho::manifest! {
    static MANIFEST = [both("array", &[ARRAY])];
}

#[test]
fn a_layout_that_the_manifest_does_not_name_is_neither_read_nor_written() {
    let mut registry = Registry::of(&MANIFEST);
    registry.add("array", ArrayNode { made_of: ARRAY });
    registry.add_layout(second());
    let mut outgoing = Outgoing::of(Bundle::new(1 << 20).unwrap(), &MANIFEST);
    outgoing.add_layout(second());
    outgoing.write_for(&registry.terms()).unwrap();
    let frames = [outgoing.alloc(Order::ZERO).unwrap()];
    let fault = outgoing.preserve("array", &Array { made_of: ARRAY, frames: &frames, bytes: 1 }).unwrap_err();
    let says = "manifest-disagrees: /array: found vmalloc-v2, expected vmalloc-v1, as the manifest says";
    assert_eq!(fault.to_string(), says);
    let empty = Outgoing::new(Bundle::new(1 << 20).unwrap()).finish().unwrap();
    let (bundle, root) = empty.into_parts();
    let plan = arrived(bundle, root.start()).plan(&registry);
    let says =
        "error: /: manifest-disagrees: layouts: found vmalloc-v2 (from v1), expected nothing, as the manifest says";
    assert_eq!(plan.findings().to_string().lines().next(), Some(says));
}
