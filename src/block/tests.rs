use std::string::{String, ToString as _};

use proptest::prelude::*;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::*;
use crate::abi::luo::{File, Session};
use crate::mem::{MemError, Order, PageRange, PhysRange, Ram};

/// Records of our own, as a user of the library makes them.
macro_rules! record {
    ($(#[$about:meta] $name:ident { $($field:ident: $ty:ty),* })*) => {$(
        #[$about]
        #[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        struct $name {
            $($field: $ty),*
        }
    )*};
}

record! {
    /// As small as a record usually gets.
    Small { number: U64 }
    /// Of a size that divides nothing.
    Odd { number: U64, rest: [u8; 64] }
    /// Just fits a 4K page.
    Whole { bytes: [u8; 4080] }
    /// One byte more.
    TooBig { bytes: [u8; 4081] }
}

fn ram(geometry: Geometry, pages: u64) -> Ram {
    Ram::new(geometry, PageRange::new(Pfn::new(0x10).unwrap(), pages).unwrap())
}

fn session(number: u64) -> Session {
    let mut name = [0; 64];
    name[..8].copy_from_slice(&number.to_be_bytes());
    Session { name, files: (number << 12).into(), count: number.into() }
}

fn sessions(count: u64) -> BlockSet<Session> {
    (0..count).map(session).collect::<Vec<_>>().into()
}

fn read<R: Plain>(memory: &dyn Memory, first: u64, count: Option<u64>) -> Result<Loaded<R>, Fault> {
    load(memory, PhysAddr::new(first), count, &mut Bits::default())
}

fn header(ram: &Ram, page: Pfn) -> (u64, u64) {
    let header: Header = crate::mem::read_wire(ram, page.addr(ram.geometry())).unwrap();
    (header.next.get(), header.count.get())
}

#[test]
fn golden_bytes_at_4k() {
    let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 4).unwrap());
    let mut set = BlockSet::new();
    set.extend((0..511_u64).map(|number| Small { number: (number * 0x101).into() }));
    let stored = set.store(&mut ram).unwrap();
    assert_eq!((stored.first.get(), stored.blocks.len()), (0x10_0000, 2));
    let mut first = [0; 32];
    ram.read(PhysAddr::new(0x10_0000), &mut first).unwrap();
    #[rustfmt::skip]
    assert_eq!(first, [
        0x00, 0x10, 0x10, 0, 0, 0, 0, 0, // next
        0xfe, 0x01, 0, 0, 0, 0, 0, 0, // count 510
        0, 0, 0, 0, 0, 0, 0, 0,
        0x01, 0x01, 0, 0, 0, 0, 0, 0,
    ]);
    let mut second = [0; 32];
    ram.read(PhysAddr::new(0x10_1000), &mut second).unwrap();
    #[rustfmt::skip]
    assert_eq!(second, [
        0, 0, 0, 0, 0, 0, 0, 0, // next
        1, 0, 0, 0, 0, 0, 0, 0, // count
        0xfe, 0xff, 0x01, 0, 0, 0, 0, 0, // 510 * 0x101
        0, 0, 0, 0, 0, 0, 0, 0,
    ]);
}

/// The case in which Linux's own writer leaves an empty block and the next kernel panics.
#[test]
fn exactly_full_blocks_have_no_empty_one_behind_them() {
    for (geometry, capacity) in [(Geometry::K4, 51), (Geometry::K16, 204), (Geometry::K64, 819)] {
        for full in 1..4 {
            let mut ram = ram(geometry, 8);
            let set = sessions(full * capacity);
            let stored = set.store(&mut ram).unwrap();
            let blocks: Vec<Pfn> = stored.blocks.iter().map(|block| block.folio().pfn()).collect();
            let counts: Vec<u64> = blocks.iter().map(|&block| header(&ram, block).1).collect();
            assert_eq!(counts, vec![capacity; full as usize], "{geometry}");
            assert_eq!(header(&ram, *blocks.last().unwrap()).0, 0);
            let loaded = read::<Session>(&ram, stored.first.get(), Some(full * capacity)).unwrap();
            assert_eq!(loaded, Loaded { records: set.records, blocks });
        }
    }
}

#[test]
fn shrinking_over_a_block_leaves_no_block_behind() {
    let mut ram = ram(Geometry::K4, 8);
    let mut set = sessions(50);
    set.append(&[session(50), session(51)]);
    set.push(session(52));
    assert_eq!(set.store(&mut ram).unwrap().blocks.len(), 2);
    assert_eq!(set.pop(), Some(session(52)));
    set.truncate(51);
    assert_eq!((set.len(), set.is_empty()), (51, false));
    set.as_mut_slice()[0] = session(99);
    let stored = set.store(&mut ram).unwrap();
    assert_eq!(stored.blocks.len(), 1);
    let records = read::<Session>(&ram, stored.first.get(), Some(51)).unwrap().records;
    assert!(records.iter().eq(&set) && records[0] == session(99));
    set.truncate(0);
    assert!(set.store(&mut ram).unwrap().blocks.is_empty());
}

#[test]
fn no_records_are_no_blocks() {
    let mut ram = ram(Geometry::K4, 1);
    let stored = BlockSet::<File>::new().store(&mut ram).unwrap();
    assert_eq!((stored.first.get(), stored.blocks.len(), ram.free_pages()), (0, 0, 1));
    let none = Loaded::<File> { records: Vec::new(), blocks: Vec::new() };
    assert_eq!(read(&ram, 0, None), Ok(none.clone()));
    assert_eq!(read(&ram, 0, Some(0)), Ok(none));
}

#[test]
fn capacities_follow_the_page_and_the_record() {
    fn capacity<R: Plain>(geometry: Geometry) -> Result<u64, Fault> {
        room(geometry, Record::of::<R>())
    }
    let row = |geometry| [capacity::<Session>(geometry), capacity::<File>(geometry)].map(Result::unwrap);
    assert_eq!(Geometry::ALL.map(row), [[51, 63], [204, 255], [819, 1023]]);
    assert_eq!(capacity::<Whole>(Geometry::K4), Ok(1));
    let fault = "too-large: kho::block::tests::TooBig: found 4081, expected 1..=4080 bytes";
    let set = BlockSet::from(vec![TooBig { bytes: [0; 4081] }]);
    assert_eq!(set.store(&mut ram(Geometry::K4, 1)).unwrap_err().to_string(), fault);
    assert_eq!(read::<TooBig>(&ram(Geometry::K4, 1), 0x1000, None).unwrap_err().to_string(), fault);
    assert_eq!(capacity::<TooBig>(Geometry::K16), Ok(4));
}

#[test]
fn a_writer_that_runs_out_or_fails_leaves_nothing_allocated() {
    let mut short = ram(Geometry::K4, 2);
    assert_eq!(sessions(103).store(&mut short).unwrap_err().code(), Code::Exhausted);
    assert_eq!(short.free_pages(), 2);
    let mut failing = Counting { ram: ram(Geometry::K4, 4), writes: 0, fail_at: 3 };
    assert_eq!(sessions(103).store(&mut failing).unwrap_err().code(), Code::Io);
    assert_eq!((failing.writes, failing.ram.free_pages()), (3, 4));
}

#[test]
fn the_longest_list_and_one_block_more() {
    let start = 0x4000;
    let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(start).unwrap(), 0x4000).unwrap());
    let mut set = BlockSet::from(vec![Whole { bytes: [7; 4080] }; 10_001]);
    let fault = set.store(&mut ram).unwrap_err();
    assert_eq!(fault.to_string(), "list-long: blocks: found 10001, expected at most 10000");
    assert_eq!(ram.free_pages(), 0x4000);
    set.pop();
    let first = set.store(&mut ram).unwrap().first.get();
    assert_eq!(read::<Whole>(&ram, first, Some(10_000)).unwrap().blocks.len(), 10_000);
    // By hand: one block more, which is fine in itself.
    let (last, more) = ((start + 9_999) << 12, (start + 10_000) << 12);
    ram.poke(PhysAddr::new(last), &u64::to_le_bytes(more)).unwrap();
    ram.poke(PhysAddr::new(more + 8), &u64::to_le_bytes(1)).unwrap();
    let verdict =
        |ram: &Ram| read::<Whole>(ram, first, None).map(|loaded| loaded.blocks.len()).unwrap_err().to_string();
    assert_eq!(verdict(&ram), "list-long: next at 0x670f000: found 0x6710000, expected an end after 10000 pages");
    // And the last points at the first: a cycle, not a long list.
    ram.poke(PhysAddr::new(last), &u64::to_le_bytes(first)).unwrap();
    assert_eq!(
        verdict(&ram),
        "list-cycle: next at 0x670f000: found 0x4000000, expected a page that this list has not had"
    );
}

/// 60 sessions in 0x10000 (51) and 0x11000 (9): a good list in which one word is broken.
fn broken(at: u64, value: u64) -> String {
    let mut ram = ram(Geometry::K4, 8);
    let stored = sessions(60).store(&mut ram).unwrap();
    ram.poke(PhysAddr::new(at), &value.to_le_bytes()).unwrap();
    read::<Session>(&ram, stored.first.get(), None).unwrap_err().to_string()
}

#[test]
fn counts_of_zero_and_beyond_the_block() {
    assert_eq!(broken(0x10008, 0), "block-count: count at 0x10000: found 0, expected 1..=51");
    assert_eq!(broken(0x11008, 0), "block-count: count at 0x11000: found 0, expected 1..=51");
    assert_eq!(broken(0x10008, 52), "block-count: count at 0x10000: found 52, expected 1..=51");
    let found = u64::MAX;
    assert_eq!(broken(0x11008, found), format!("block-count: count at 0x11000: found {found}, expected 1..=51"));
}

#[test]
fn an_empty_last_block_as_linux_can_leave_it() {
    let mut ram = ram(Geometry::K4, 8);
    sessions(51).store(&mut ram).unwrap().blocks.clear();
    ram.poke(PhysAddr::new(0x10000), &0x1_1000_u64.to_le_bytes()).unwrap();
    assert_eq!(
        read::<Session>(&ram, 0x10000, Some(51)).unwrap_err().to_string(),
        "block-count: count at 0x11000: found 0, expected 1..=51"
    );
}

#[test]
fn lists_that_return() {
    let cycle = |at, to| format!("list-cycle: next at {at}: found {to}, expected a page that this list has not had");
    assert_eq!(broken(0x10000, 0x10000), cycle("0x10000", "0x10000"));
    assert_eq!(broken(0x11000, 0x10000), cycle("0x11000", "0x10000"));
    assert_eq!(broken(0x11000, 0x11000), cycle("0x11000", "0x11000"));
}

#[test]
fn blocks_that_are_no_pages_that_there_are() {
    assert_eq!(broken(0x10000, 0x11010), "unaligned: next at 0x10000: found 0x11010, expected a multiple of 0x1000");
    assert_eq!(broken(0x10000, 0x9000), "outside: next at 0x10000: found 0x9000, expected a page that was handed over");
    assert_eq!(
        broken(0x10000, 1 << 63),
        "too-large: next at 0x10000: found 0x8000000000000000, expected below 0x800000000000000"
    );
    let ram = ram(Geometry::K16, 8);
    assert_eq!(
        read::<File>(&ram, 0x5000, None).unwrap_err().to_string(),
        "unaligned: first: found 0x5000, expected a multiple of 0x4000"
    );
    assert_eq!(
        read::<File>(&ram, 0x4000 * 0x18, None).unwrap_err().to_string(),
        "outside: first: found 0x60000, expected a page that was handed over"
    );
}

#[test]
fn an_owner_that_counts_otherwise() {
    let mut ram = ram(Geometry::K4, 8);
    let first = sessions(60).store(&mut ram).unwrap().first.get();
    let verdict = |first, count| read::<Session>(&ram, first, Some(count)).unwrap_err().to_string();
    assert_eq!(verdict(first, 59), "block-count: count: found 59, expected at least 60");
    assert_eq!(verdict(first, 61), "block-count: count: found 61, expected 60");
    assert_eq!(verdict(first, u64::MAX), "block-count: count: found 18446744073709551615, expected 60");
    assert_eq!(verdict(first, 0), "block-count: count: found 0, expected at least 51");
    assert_eq!(verdict(0, 3), "block-count: count: found 3, expected 0");
    assert!(read::<Session>(&ram, first, Some(60)).is_ok());
}

#[test]
fn a_block_of_another_list() {
    let mut ram = ram(Geometry::K4, 8);
    let one = sessions(60).store(&mut ram).unwrap();
    let other = sessions(51).store(&mut ram).unwrap();
    ram.poke(other.first, &0x1_1000_u64.to_le_bytes()).unwrap();
    let mut taken = Bits::default();
    load::<Session>(&ram, one.first, None, &mut taken).unwrap();
    assert_eq!(
        load::<Session>(&ram, other.first, None, &mut taken).unwrap_err().to_string(),
        "owned-twice: next at 0x12000: found 0x11000, expected a page that nothing else has"
    );
}

/// Counts reads and writes; a write can fail.
struct Counting {
    ram: Ram,
    writes: usize,
    fail_at: usize,
}

impl Memory for Counting {
    fn geometry(&self) -> Geometry {
        self.ram.geometry()
    }
    fn extents(&self) -> &[PhysRange] {
        self.ram.extents()
    }
    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        assert_eq!((at.get() & 0xfff, to.len() & 0xfff), (0, 0), "whole pages only");
        self.ram.read(at, to)
    }
}

impl Frames for Counting {
    fn holds(&self, frame: &Frame) -> bool {
        self.ram.holds(frame)
    }
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        self.ram.alloc(order)
    }
    fn free(&mut self, frame: Frame) {
        self.ram.free(frame);
    }
    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError> {
        self.writes += 1;
        if self.writes == self.fail_at {
            let (at, len) = (frame.folio().addr(self.geometry()), bytes.len() as u64);
            return Err(MemError::Io { at, len, reason: "no".to_string() });
        }
        self.ram.write(frame, offset, bytes)
    }
}

#[test]
fn a_hundred_thousand_records_are_written_page_by_page() {
    let record = |number: u64| Odd { number: number.into(), rest: [number as u8; 64] };
    let set = BlockSet::from((0..100_000).map(record).collect::<Vec<_>>());
    let mut memory = Counting { ram: ram(Geometry::K4, 2_000), writes: 0, fail_at: usize::MAX };
    let stored = set.store(&mut memory).unwrap();
    assert_eq!((memory.writes, stored.blocks.len()), (1_786, 1_786));
    let loaded = read::<Odd>(&memory, stored.first.get(), Some(100_000)).unwrap();
    assert_eq!(loaded.records, set.as_slice());
    stored.free(&mut memory);
    assert_eq!(memory.ram.free_pages(), 2_000);
}

fn comes_back<R: Plain + PartialEq + std::fmt::Debug>(
    geometry: Geometry,
    records: &[R],
) -> Result<(), proptest::test_runner::TestCaseError> {
    let mut ram = ram(geometry, 64);
    let stored = BlockSet::from(records.to_vec()).store(&mut ram).unwrap();
    let capacity = geometry.block_capacity(size_of::<R>() as u64);
    prop_assert_eq!(stored.blocks.len() as u64, (records.len() as u64).div_ceil(capacity));
    let loaded = read::<R>(&ram, stored.first.get(), Some(records.len() as u64)).unwrap();
    prop_assert_eq!(loaded.records, records);
    prop_assert!(
        loaded.blocks.iter().eq(stored.blocks.iter().map(|block| block.folio().pfn()).collect::<Vec<_>>().iter())
    );
    stored.free(&mut ram);
    prop_assert_eq!(ram.free_pages(), 64);
    Ok(())
}

proptest! {
    #[test]
    fn any_records_come_back(
        geometry in proptest::sample::select(&Geometry::ALL),
        numbers in proptest::collection::vec(any::<u64>(), 0..1500),
    ) {
        comes_back(geometry, &numbers.iter().map(|&number| session(number)).collect::<Vec<_>>())?;
        comes_back(geometry, &numbers.iter().map(|&number| Small { number: number.into() }).collect::<Vec<_>>())?;
    }

    /// Any words in any pages: an error, or records that stood there.
    #[test]
    fn any_bytes(
        pages in proptest::collection::vec((chain::tests::word(), chain::tests::word()), 6),
        first in chain::tests::word(),
        count in proptest::option::of(0_u64..200),
    ) {
        let mut ram = ram(Geometry::K4, 6);
        for (page, (next, count)) in pages.iter().enumerate() {
            let header = Header { next: (*next).into(), count: (*count).into() };
            ram.poke(PhysAddr::new((page as u64 + 0x10) << 12), header.as_bytes()).unwrap();
        }
        if let Ok(Loaded { records, blocks }) = read::<File>(&ram, first, count) {
            prop_assert!(blocks.len() <= 6 && (blocks.is_empty() == (first == 0)));
            let counted: u64 = blocks.iter().map(|&block| header(&ram, block).1).sum();
            prop_assert_eq!(counted, records.len() as u64);
            prop_assert!(count.is_none_or(|count| count == counted));
        }
    }
}
