use alloc::string::String;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;
use crate::abi::vmalloc::Descriptor;
use crate::handover::testing::{NODE, block, planned, ram, sent, written};
use crate::handover::{Incoming, Outgoing, Registry, Scope};
use crate::mem::{Bits, Frames as _, Geometry, Image, Order, Ram, Source, read_wire};
use crate::vmalloc::{Area, store_bytes};

fn order(order: u32) -> Order {
    Order::new(order).unwrap()
}

/// A record with both flags.
fn record(address: u64, index: u64) -> abi::memfd::Folio {
    abi::memfd::Folio { pfn_flags: (address >> 12 | 3 << PFN_BITS).into(), index: index.into() }
}

fn array(scope: &mut Scope<'_, Ram>, records: &[abi::memfd::Folio]) -> Descriptor {
    store_bytes(scope, Order::ZERO, records.as_bytes()).unwrap().descriptor
}

/// A file of these records and so many bytes.
fn memfd(scope: &mut Scope<'_, Ram>, size: u64, records: &[abi::memfd::Folio]) -> Memfd {
    let mut wire = Memfd::new_zeroed();
    (wire.size, wire.nr_folios) = (size.into(), u64_of(records.len()).into());
    if !records.is_empty() {
        wire.folios = array(scope, records);
    }
    wire
}

fn plan(write: impl Fn(&mut Scope<'_, Ram>) -> Memfd) -> (Option<Pages>, Vec<String>) {
    let write = |scope: &mut Scope<'_, Ram>| {
        let wire = write(scope);
        scope.blob(wire.as_bytes())
    };
    planned(written(Geometry::K4, MADE_OF, write), MemfdNode)
}

fn fine(write: impl Fn(&mut Scope<'_, Ram>) -> Memfd) -> Pages {
    let (found, findings) = plan(write);
    assert_eq!(findings, [""; 0]);
    found.unwrap()
}

/// The one thing that is wrong.
fn fault(write: impl Fn(&mut Scope<'_, Ram>) -> Memfd) -> String {
    let (_, mut findings) = plan(write);
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.pop().unwrap()
}

/// The one thing that is wrong with a structure without folios, which is at 0x100000.
fn field(change: impl Fn(&mut Memfd)) -> String {
    fault(|_| {
        let mut wire = Memfd::new_zeroed();
        change(&mut wire);
        wire
    })
}

#[test]
fn fields_that_linux_does_not_write() {
    assert_eq!(field(|wire| wire.flags = 1.into()), "reserved: flags at 0x100000: found 1, expected 0");
    let seals = field(|wire| wire.seals = 0x41.into());
    assert_eq!(seals, "memfd-seals: seals at 0x100000: found 0x41, expected seals of 0x3f");
    let pos = field(|wire| wire.pos = (1 << 63).into());
    assert_eq!(pos, "too-large: pos at 0x100000: found 9223372036854775808, expected below 2^63");
    let size = field(|wire| wire.size = ((0xffff_ffff << 12) + 1).into());
    assert_eq!(size, "too-large: size at 0x100000: found 17592186040321, expected at most 4294967295 pages");
    let many = field(|wire| (wire.size, wire.nr_folios) = (8192.into(), 3.into()));
    assert_eq!(many, "memfd-size: nr_folios at 0x100000: found 3, expected at most 2, the pages of 8192 bytes");
    let none = field(|wire| wire.nr_folios = 1.into());
    assert_eq!(none, "memfd-size: nr_folios at 0x100000: found 1, expected at most 0, the pages of 0 bytes");
    let array = field(|wire| wire.folios.first = 0x5000.into());
    assert_eq!(array, "memfd-size: folios at 0x100000: found an array at 0x5000, expected none, for no folios");
    // The most that there can be, all of it holes: fine.
    let largest = fine(|_| {
        let mut wire = Memfd::new_zeroed();
        (wire.size, wire.pos, wire.seals) = ((0xffff_ffff << 12).into(), (i64::MAX as u64).into(), 0x3f.into());
        wire
    });
    assert_eq!(largest, Pages { pos: i64::MAX as u64, size: 0xffff_ffff << 12, seals: 0x3f, folios: Vec::new() });
}

#[test]
fn more_records_than_the_array_holds() {
    let write = |nr: u64| {
        move |scope: &mut Scope<'_, Ram>| {
            let mut wire = memfd(scope, 1 << 21, &[record(0, 0)]);
            wire.nr_folios = nr.into();
            wire
        }
    };
    // What is behind the records that were written is zero: holes.
    assert_eq!(fine(write(256)).folios, []);
    let beyond = fault(write(257));
    assert_eq!(beyond, "memfd-size: nr_folios at 0x102000: found 257, expected at most 256, what the array holds");
    let array = fault(|scope| {
        let mut wire = memfd(scope, 4096, &[record(0, 0)]);
        wire.folios.order = 47.into();
        wire
    });
    assert_eq!(array, "too-large: folios.order at 0x102000: found 47, expected at most 46");
}

#[test]
fn folios_are_read_by_index_and_holes_are_left_out() {
    let found = fine(|scope| {
        let [one, two] = [block(scope, 0, b""), block(scope, 2, b"")];
        // The last one is larger than what is left of the file, as with huge pages.
        memfd(scope, 5 << 12, &[record(0, 9), record(two, 4), record(one, 0)])
    });
    let orders: Vec<_> = found.folios.iter().map(|(folio, index)| (folio.order().get(), *index)).collect();
    assert_eq!(orders, [(0, 0), (2, 4)]);
}

#[test]
fn folios_that_lie() {
    // One block of order 2 at 0x100000, in a file of 8 pages.
    let one = |change: fn(u64) -> abi::memfd::Folio| {
        fault(move |scope| {
            let at = block(scope, 2, b"");
            memfd(scope, 8 << 12, &[record(0, 0), change(at)])
        })
    };
    let flags = one(|at| abi::memfd::Folio { pfn_flags: (at >> 12 | 4 << PFN_BITS).into(), index: 0.into() });
    assert_eq!(flags, "folio-flags: folios[1].flags at 0x104010: found 0x4, expected flags of 0x3");
    let address = one(|at| record(at << 12, 0));
    assert_eq!(
        address,
        "not-preserved: folios[1].pfn at 0x100000000: pfn 0x100000, which is not preserved; as an address it is pfn 0x100, which is"
    );
    let far = one(|_| abi::memfd::Folio { pfn_flags: (1 << 47).into(), index: 0.into() });
    assert_eq!(far, "too-large: folios[1].pfn at 0x104010: found 0x800000000000, expected below 2^47");
    let inside = one(|at| record(at + 4096, 0));
    assert_eq!(
        inside,
        "preserved-otherwise: folios[1].pfn at 0x101000: found pfn 0x101, inside pfn 0x100 order 2, expected the first \
         page of a preserved block"
    );
    let unaligned = one(|at| record(at, 2));
    assert_eq!(
        unaligned,
        "memfd-index: folios[1].index at 0x100000: found 0x2, expected a multiple of 0x4, the pages of the folio"
    );
    let beyond = one(|at| record(at, 8));
    assert_eq!(
        beyond,
        "memfd-index: folios[1].index at 0x100000: found 0x8, expected below 0x8, the pages of the file"
    );
}

#[test]
fn folios_over_each_other() {
    let overlap = fault(|scope| {
        let [one, two] = [block(scope, 0, b""), block(scope, 2, b"")];
        memfd(scope, 8 << 12, &[record(one, 3), record(two, 0)])
    });
    assert_eq!(
        overlap,
        "memfd-index: folios.index at 0x100000: found 0x3, inside the folio before it, expected at least 0x4"
    );
    let (_, findings) = plan(|scope| {
        let one = block(scope, 0, b"");
        memfd(scope, 2 << 12, &[record(one, 0), record(one, 1)])
    });
    assert_eq!(findings, ["owned-twice: folios at 0x100000: 0x100000..0x101000, of which /node owns a page"]);
    // The array is nobody's folio either.
    let (_, findings) = plan(|scope| {
        let frame = scope.alloc(Order::ZERO).unwrap();
        let at = frame.folio().addr(Geometry::K4).get();
        scope.write(&frame, 0, record(at, 0).as_bytes()).unwrap();
        let mut wire = memfd(scope, 4096, &[]);
        let area = Area::from_folios(Order::ZERO, 0, [frame.folio()]).unwrap();
        (wire.nr_folios, wire.folios) = (1.into(), area.store(scope).unwrap().descriptor);
        wire
    });
    assert_eq!(findings, ["owned-twice: folios at 0x100000: 0x100000..0x101000, of which /node owns a page"]);
}

#[test]
fn a_structure_that_is_cut() {
    let short = planned(written(Geometry::K4, MADE_OF, |scope| scope.blob(&[0; 47])), MemfdNode).1;
    assert_eq!(short, ["truncated: blob-size at 0x100000: found 47, expected at least 48 (Memfd)"]);
}

fn new_memfd(bytes: &[u8], seals: u32) -> File {
    let flags = if seals & 0x20 != 0 { MemfdFlags::NOEXEC_SEAL } else { MemfdFlags::ALLOW_SEALING };
    let file = File::from(rustix::fs::memfd_create("test", flags | MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::from_bits_retain(seals)).unwrap();
    file
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = alloc::vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn restored(incoming: Incoming<Ram>) -> File {
    let mut registry = Registry::new();
    let handle = registry.add(NODE, MemfdNode);
    let plan = incoming.plan(&registry);
    assert_eq!(plan.findings().to_string(), "");
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let fd: OwnedFd = restored.take(&handle).unwrap();
    File::from(fd)
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn files_come_back_with_bytes_position_and_seals() {
    for (len, orders) in [(0, 0..10), (1, 0..1), (4095, 0..1), (4096, 0..1), (4097, 0..10), ((1 << 20) + 1, 0..10)] {
        for order_number in orders.filter(|order| [0, 4, 9].contains(order)) {
            let bytes = noise(len);
            let file = new_memfd(&bytes, 6);
            rustix::fs::seek(&file, SeekFrom::Start(77)).unwrap();
            for geometry in [Geometry::K4, Geometry::K16] {
                let incoming = sent(geometry, &ByPages { file: file.as_fd(), order: order(order_number) });
                let back = restored(incoming);
                assert!(contents(&back) == bytes, "{len} bytes in order {order_number} of {geometry}");
                assert_eq!(rustix::fs::seek(&back, SeekFrom::Current(0)).unwrap(), 77);
                assert_eq!(rustix::fs::fcntl_get_seals(&back).unwrap().bits(), 6);
            }
        }
    }
}

#[test]
fn holes_are_zeros() {
    let file = new_memfd(b"start", 0);
    file.set_len(3 << 20).unwrap();
    file.write_all_at(b"end", (3 << 20) - 3).unwrap();
    let back = restored(sent(Geometry::K4, &ByPages { file: file.as_fd(), order: order(4) }));
    assert!(contents(&back) == contents(&file));
    // And those that another writer left out come back as holes of the new file.
    let write = |scope: &mut Scope<'_, Ram>| {
        let at = block(scope, 0, b"here");
        let wire = memfd(scope, (200 << 20) + 4, &[record(0, 0), record(at, 50 << 10)]);
        scope.blob(wire.as_bytes())
    };
    let back = restored(written(Geometry::K4, MADE_OF, write));
    let mut here = [0; 5];
    back.read_exact_at(&mut here[..4], 200 << 20).unwrap();
    assert_eq!(&here, b"here\0");
    assert_eq!(back.metadata().unwrap().len(), (200 << 20) + 4);
    assert!(back.metadata().unwrap().blocks() <= 16);
}

#[test]
fn seals_come_back_as_they_were() {
    for seals in [0, 1, 0x2, 0x8, 0x10, 0x1f, 0x20, 0x3f] {
        let file = new_memfd(b"x", seals);
        let sealed = rustix::fs::fcntl_get_seals(&file).unwrap().bits();
        let back = restored(sent(Geometry::K4, &ByPages { file: file.as_fd(), order: Order::ZERO }));
        assert_eq!(rustix::fs::fcntl_get_seals(&back).unwrap().bits(), sealed, "{seals:#x}");
        if seals == 0x20 {
            assert_eq!(back.metadata().unwrap().mode() & 0o777, 0o666);
            back.write_all_at(b"y", 0).unwrap();
        }
    }
}

#[test]
fn what_is_no_memfd_is_not_preserved() {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let fault = outgoing.preserve(NODE, &ByPages { file: file.as_fd(), order: Order::ZERO }).unwrap_err();
    assert_eq!((fault.code(), fault.expected_text()), (Code::FileKind, "a memfd"));
    // A file that does not fit: nothing of it stays.
    let large = new_memfd(&noise(17 << 20), 0);
    let fault = outgoing.preserve(NODE, &ByPages { file: large.as_fd(), order: order(4) }).unwrap_err();
    assert_eq!(fault.code(), Code::Exhausted);
    assert_eq!(outgoing.memory().free_pages(), 4096);
}

#[test]
fn a_file_of_more_than_32_bits_of_pages_is_not_preserved() {
    // Sparse: none of it is there.
    let file = new_memfd(b"", 0);
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let mut refused = |len: u64, largest: u32| {
        file.set_len(len).unwrap();
        let fault = outgoing.preserve(NODE, &ByPages { file: file.as_fd(), order: order(largest) }).unwrap_err();
        assert_eq!(outgoing.memory().free_pages(), 4096, "nothing of it stays");
        fault.to_string()
    };
    let most = 0xffff_ffff_u64 << 12;
    for (len, largest) in [(most + 1, 0), (most + 4096, 9), (most + 4097, 0), (1 << 62, 9)] {
        let says = format!("too-large: size: found {len}, expected at most 4294967295 pages");
        assert_eq!(refused(len, largest), says);
    }
    // One page less, and it is only too large for this memory; a quarter of the pages when they are larger.
    assert_eq!(refused(most, 13), "exhausted: no free block of order 13 is left");
    file.set_len(most + 1).unwrap();
    let mut larger = Outgoing::new(ram(Geometry::K16));
    let fault = larger.preserve(NODE, &ByPages { file: file.as_fd(), order: order(13) }).unwrap_err();
    assert_eq!(fault.code(), Code::Exhausted);
}

/// The array of a structure, from either side.
fn records_of(memory: &dyn Memory, wire: &Memfd) -> (Area, Vec<abi::memfd::Folio>) {
    let area = Area::load(memory, &wire.folios, &mut Bits::default()).unwrap().area;
    let records = area.read_records(memory, wire.nr_folios.get()).unwrap();
    (area, records)
}

#[test]
fn what_we_write_is_what_linux_wrote_but_for_the_places() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/linux-7.2-x86_64");
    let Source::Image(linux) = Image::open(data.join("frozen.core")).unwrap() else { panic!() };
    for (name, at, seals, pos) in [
        ("abc", 6_905_856, 0, 1234),
        ("2", 6_922_240, 6, 77),
        ("3", 6_950_912, 0, 0),
        ("ffffffffffffffff", 6_955_008, 0, 40960),
    ] {
        let theirs: Memfd = read_wire(&linux, PhysAddr::new(at)).unwrap();
        let file =
            new_memfd(&std::fs::read(data.join("memfds").join(alloc::format!("vm-session.{name}"))).unwrap(), seals);
        rustix::fs::seek(&file, SeekFrom::Start(pos)).unwrap();
        let mut outgoing = Outgoing::new(ram(Geometry::K4));
        outgoing.preserve(NODE, &ByPages { file: file.as_fd(), order: Order::ZERO }).unwrap();
        let finished = outgoing.finish().unwrap();
        let fdt = finished.root_fdt().unwrap();
        let node = crate::fdt::Fdt::parse(&fdt).unwrap().root().child(NODE).unwrap();
        assert_eq!(node.property("blob-size").unwrap().u64_native().unwrap(), 48);
        let at = node.property("preserved-data").unwrap().u64_native().unwrap();
        let mut ours: Memfd = read_wire(finished.memory(), PhysAddr::new(at)).unwrap();
        if theirs.nr_folios.get() > 0 {
            let (our_area, our_records) = records_of(finished.memory(), &ours);
            let (their_area, their_records) = records_of(&linux, &theirs);
            assert_eq!((our_area.order(), our_area.total_pages()), (their_area.order(), their_area.total_pages()));
            let places = |records: &[abi::memfd::Folio]| -> Vec<(u64, u64)> {
                records.iter().map(|record| (record.pfn_flags.get() >> PFN_BITS, record.index.get())).collect()
            };
            assert_eq!(places(&our_records), places(&their_records));
        }
        ours.folios.first = theirs.folios.first;
        assert_eq!(ours.as_bytes(), theirs.as_bytes(), "{name}");
    }
}
