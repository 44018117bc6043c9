use std::collections::BTreeSet;
use std::string::{String, ToString as _};

use proptest::prelude::*;
use zerocopy::FromZeros as _;
use zerocopy::little_endian::U64;

use super::*;
use crate::mem::{FrameAllocator, MemError, PageRange, PhysRange, Ram};

fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

fn ram(geometry: Geometry, pages: u64) -> Ram {
    Ram::new(geometry, PageRange::new(pfn(0x10), pages).unwrap())
}

fn order(order: u32) -> Order {
    Order::new(order).unwrap()
}

/// An area of order-0 blocks at these pages, which need not exist.
fn area(blocks: impl IntoIterator<Item = u64>) -> Area {
    Area::from_folios(Order::ZERO, FLAG_ALLOC, blocks.into_iter().map(|block| Folio::page(pfn(block)))).unwrap()
}

fn load(memory: &dyn Memory, descriptor: &Descriptor) -> Result<Loaded, Fault> {
    Area::load(memory, descriptor, &mut Bits::default())
}

/// All words of a page.
fn words(ram: &Ram, page: Pfn) -> Vec<u64> {
    let mut bytes = vec![0; ram.geometry().page_size() as usize];
    ram.read(page.addr(ram.geometry()), &mut bytes).unwrap();
    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn golden_bytes_at_4k() {
    let mut ram = Ram::new(Geometry::K4, PageRange::new(pfn(0x100), 16).unwrap());
    let folios = [0x40, 0x88, 0x7_fff4].map(|block| Folio::new(pfn(block), order(2)).unwrap());
    let stored = Area::from_folios(order(2), FLAG_ALLOC | 2, folios).unwrap().store(&mut ram).unwrap();
    let descriptor = stored.descriptor.as_bytes();
    assert_eq!(descriptor, [0, 0, 0x10, 0, 0, 0, 0, 0, /* pages */ 12, 0, 0, 0, /* flags */ 3, 0, /* order */ 2, 0]);
    let mut chunk = [0; 40];
    ram.read(PhysAddr::new(0x10_0000), &mut chunk).unwrap();
    #[rustfmt::skip]
    assert_eq!(chunk, [
        0, 0, 0, 0, 0, 0, 0, 0, // next
        0x00, 0x00, 0x04, 0, 0, 0, 0, 0,
        0x00, 0x80, 0x08, 0, 0, 0, 0, 0,
        0x00, 0x40, 0xff, 0x7f, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, // ends
    ]);
}

#[test]
fn a_chunk_that_fills_exactly_links_an_empty_one() {
    for (geometry, capacity) in [(Geometry::K4, 511), (Geometry::K16, 2047), (Geometry::K64, 8191)] {
        let ends: [(u64, &[u64]); 5] = [
            (1, &[1]),
            (capacity - 1, &[capacity - 1]),
            (capacity, &[capacity, 0]),
            (capacity + 1, &[capacity, 1]),
            (2 * capacity, &[capacity, capacity, 0]),
        ];
        for (count, expected) in ends {
            let mut ram = ram(geometry, 8);
            let area = area(100..100 + count);
            let stored = area.store(&mut ram).unwrap();
            let chunks: Vec<Pfn> = stored.chunks.iter().map(|chunk| chunk.folio().pfn()).collect();
            let held: Vec<u64> = chunks
                .iter()
                .map(|&chunk| words(&ram, chunk)[1..].iter().filter(|word| **word != 0).count() as u64)
                .collect();
            assert_eq!(held, expected, "{count} blocks at {geometry}");
            let nexts: Vec<u64> = chunks.iter().map(|&chunk| words(&ram, chunk)[0]).collect();
            let follow = chunks.iter().skip(1).map(|chunk| chunk.addr(geometry).get());
            assert_eq!(nexts, follow.chain([0]).collect::<Vec<_>>());
            assert_eq!(load(&ram, &stored.descriptor), Ok(Loaded { area, chunks }));
            stored.free(&mut ram);
            assert_eq!(ram.free_pages(), 8);
        }
    }
}

#[test]
fn what_a_writer_refuses() {
    let text = |result: Result<Area, Fault>| result.unwrap_err().to_string();
    let page = |number| Folio::page(pfn(number));
    assert_eq!(text(Area::new(Order::ZERO, 4)), "vmalloc-flags: flags: found 0x4, expected none but 0x3");
    assert_eq!(
        text(Area::from_folios(order(1), 1, [page(2)])),
        "refused: found pfn 0x2 order 0, expected order 1 behind page 0"
    );
    assert_eq!(
        text(Area::from_folios(Order::ZERO, 1, [page(0)])),
        "refused: found pfn 0x0 order 0, expected order 0 behind page 0"
    );
    let huge = [Folio::new(pfn(1 << 31), order(31)).unwrap(), Folio::new(pfn(2 << 31), order(31)).unwrap()];
    assert_eq!(
        text(Area::from_folios(order(31), 1, huge)),
        "too-large: total_pages: found 4294967296, expected at most 4294967295"
    );
    assert_eq!(
        area([]).store(&mut ram(Geometry::K4, 1)).unwrap_err().to_string(),
        "refused: found an area of no pages, expected at least one block"
    );
    assert_eq!(store_bytes(&mut ram(Geometry::K4, 1), Order::ZERO, b"").unwrap_err().code(), Code::Refused);
}

/// Four pages from page 0 on, of somebody who hands out that one too.
struct Low(FrameAllocator, [PhysRange; 1]);

impl crate::mem::Memory for Low {
    fn geometry(&self) -> Geometry {
        Geometry::K4
    }

    fn extents(&self) -> &[PhysRange] {
        &self.1
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        Err(MemError::Outside { at, len: to.len() as u64 })
    }
}

impl Frames for Low {
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        self.0.alloc(order)
    }

    fn holds(&self, frame: &Frame) -> bool {
        self.0.holds(frame)
    }

    fn free(&mut self, frame: Frame) {
        self.0.free(frame);
    }

    fn write(&mut self, _: &Frame, _: u64, _: &[u8]) -> Result<(), MemError> {
        Ok(())
    }
}

#[test]
fn page_0_is_not_handed_over() {
    let window = PageRange::new(pfn(0), 4).unwrap();
    let mut ram = Low(FrameAllocator::new(Geometry::K4, window), [window.bytes(Geometry::K4)]);
    let fault = area([9]).store(&mut ram).unwrap_err();
    assert_eq!(fault.to_string(), "refused: found page 0, expected memory that starts behind it");
    assert_eq!(store_bytes(&mut ram, order(1), b"x").unwrap_err().code(), Code::Refused);
    assert_eq!(ram.0.free_pages(), 4);
}

#[test]
fn a_writer_that_runs_out_leaves_nothing_allocated() {
    let mut ram = ram(Geometry::K4, 2);
    assert_eq!(area(10..10 + 1022).store(&mut ram).unwrap_err().code(), Code::Exhausted);
    assert_eq!(ram.free_pages(), 2);
    // Both pages of data fit, the chunk does not.
    assert_eq!(store_bytes(&mut ram, Order::ZERO, &[1; 8192]).unwrap_err().code(), Code::Exhausted);
    assert_eq!(ram.free_pages(), 2);
}

/// 600 order-0 blocks in chunks 0x10000 and 0x11000: a good chain that each test breaks in one place.
struct Broken {
    ram: Ram,
    descriptor: Descriptor,
}

impl Broken {
    fn new() -> Self {
        let mut ram = ram(Geometry::K4, 8);
        let descriptor = area(100..700).store(&mut ram).unwrap().descriptor;
        assert_eq!(descriptor.first.get(), 0x10000);
        Broken { ram, descriptor }
    }

    fn word(mut self, at: u64, value: u64) -> Self {
        self.ram.poke(PhysAddr::new(at), &value.to_le_bytes()).unwrap();
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Descriptor)) -> Self {
        change(&mut self.descriptor);
        self
    }

    fn verdict(&self) -> String {
        load(&self.ram, &self.descriptor).unwrap_err().to_string()
    }
}

#[test]
fn flags_that_nobody_knows() {
    let broken = Broken::new().with(|d| d.flags = 4.into());
    assert_eq!(broken.verdict(), "vmalloc-flags: flags: found 0x4, expected none but 0x3");
    let broken = Broken::new().with(|d| d.flags = 0x8001.into());
    assert_eq!(broken.verdict(), "vmalloc-flags: flags: found 0x8001, expected none but 0x3");
}

#[test]
fn orders_beyond_the_format_and_beyond_total_pages() {
    let verdict = |order: u16| Broken::new().with(|d| d.order = order.into()).verdict();
    assert_eq!(verdict(60), "too-large: order: found 60, expected at most 46");
    assert_eq!(verdict(u16::MAX), "too-large: order: found 65535, expected at most 46");
    assert_eq!(verdict(46), "vmalloc-pages: total_pages: found 600, expected a nonzero multiple of 70368744177664");
    assert_eq!(verdict(32), "vmalloc-pages: total_pages: found 600, expected a nonzero multiple of 4294967296");
    assert_eq!(verdict(4), "vmalloc-pages: total_pages: found 600, expected a nonzero multiple of 16");
}

#[test]
fn total_pages_that_lies() {
    let verdict = |pages: u32| Broken::new().with(|d| d.total_pages = pages.into()).verdict();
    assert_eq!(verdict(0), "vmalloc-pages: total_pages: found 0, expected a nonzero multiple of 1");
    assert_eq!(verdict(599), "vmalloc-pages: total_pages: found 599, expected at least 600");
    assert_eq!(verdict(601), "vmalloc-pages: total_pages: found 601, expected 600");
    assert_eq!(verdict(510), "vmalloc-pages: total_pages: found 510, expected at least 511");
    // Refused after the two chunks that there are: nothing is allocated for four billion.
    assert_eq!(verdict(u32::MAX), "vmalloc-pages: total_pages: found 4294967295, expected 600");
}

#[test]
fn no_chunks_at_all() {
    let broken = Broken::new().with(|d| d.first = 0.into());
    assert_eq!(broken.verdict(), "vmalloc-pages: total_pages: found 600, expected 0");
    assert_eq!(
        load(&broken.ram, &Descriptor::new_zeroed()).unwrap_err().to_string(),
        "vmalloc-pages: total_pages: found 0, expected a nonzero multiple of 1"
    );
}

#[test]
fn chunks_that_are_no_pages_that_there_are() {
    let first = |at: u64| Broken::new().with(|d| d.first = at.into()).verdict();
    assert_eq!(first(0x10001), "unaligned: first: found 0x10001, expected a multiple of 0x1000");
    assert_eq!(first(0xf000), "outside: first: found 0xf000, expected a page that was handed over");
    assert_eq!(first(1 << 60), "too-large: first: found 0x1000000000000000, expected below 0x800000000000000");
    let next = |at: u64| Broken::new().word(0x10000, at).verdict();
    assert_eq!(next(0x11800), "unaligned: next at 0x10000: found 0x11800, expected a multiple of 0x1000");
    assert_eq!(next(0xf000), "outside: next at 0x10000: found 0xf000, expected a page that was handed over");
    assert_eq!(next(!0xfff), "too-large: next at 0x10000: found 0xfffffffffffff000, expected below 0x800000000000000");
}

#[test]
fn a_chain_that_returns() {
    let itself = Broken::new().word(0x10000, 0x10000);
    assert_eq!(
        itself.verdict(),
        "list-cycle: next at 0x10000: found 0x10000, expected a page that this list has not had"
    );
    let to_first = Broken::new().word(0x11000, 0x10000);
    assert_eq!(
        to_first.verdict(),
        "list-cycle: next at 0x11000: found 0x10000, expected a page that this list has not had"
    );
}

#[test]
fn a_chain_with_more_chunks_than_the_blocks_fill() {
    let broken = Broken::new().word(0x11000, 0x12000);
    assert_eq!(broken.verdict(), "list-long: next at 0x11000: found 0x12000, expected an end after 2 pages");
    // 5 blocks need one chunk, so the second is not read.
    let broken = Broken::new().word(0x10008 + 5 * 8, 0).with(|d| d.total_pages = 5.into());
    assert_eq!(broken.verdict(), "list-long: next at 0x10000: found 0x11000, expected an end after 1 pages");
}

#[test]
fn blocks_that_are_no_blocks() {
    let word = |value: u64| Broken::new().word(0x11008 + 3 * 8, value).verdict();
    assert_eq!(word(0x64_0008), "unaligned: phys[3] at 0x11000: found 0x640008, expected a multiple of 0x1000");
    assert_eq!(
        word(1 << 59),
        "too-large: phys[3] at 0x11000: found 0x800000000000000, expected below 0x800000000000000"
    );
    // Aligned to a page and not to the order.
    let broken = Broken::new().with(|d| d.order = 2.into());
    assert_eq!(broken.verdict(), "unaligned: phys[1] at 0x10000: found 0x65000, expected a multiple of 0x4000");
}

#[test]
fn a_zero_ends_the_chunk_as_in_linux() {
    // Whatever stands behind the zero does not count, so the next chunk's blocks follow.
    let broken = Broken::new().word(0x10008 + 8, 0);
    assert_eq!(broken.verdict(), "vmalloc-pages: total_pages: found 600, expected 90");
    let garbage = Broken::new().word(0x11008 + 90 * 8, 0xdead_beef);
    assert_eq!(load(&garbage.ram, &garbage.descriptor).unwrap().area, area(100..700));
}

#[test]
fn a_block_that_stands_twice() {
    let Broken { ram, descriptor } = Broken::new().word(0x11008, 101 << 12);
    let area = load(&ram, &descriptor).unwrap().area;
    assert_eq!(
        area.check_unique(Geometry::K4).unwrap_err().to_string(),
        "owned-twice: blocks[511] at 0x65000: found the block of blocks[1], expected another one"
    );
    let mut backwards: Vec<u64> = (1..600).rev().collect();
    backwards.swap(3, 300);
    assert_eq!(self::area(backwards).check_unique(Geometry::K4), Ok(()));
}

#[test]
fn a_chunk_of_another_list() {
    let Broken { ram, descriptor } = Broken::new();
    let mut taken = Bits::default();
    Area::load(&ram, &descriptor, &mut taken).unwrap();
    assert_eq!(taken.iter().collect::<Vec<_>>(), [0x10, 0x11]);
    let fault = Area::load(&ram, &descriptor, &mut taken).unwrap_err();
    assert_eq!(fault.to_string(), "owned-twice: first: found 0x10000, expected a page that nothing else has");
}

#[test]
fn one_array_across_blocks() {
    let mut ram = ram(Geometry::K4, 64);
    let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
    let stored = store_bytes(&mut ram, order(1), &bytes).unwrap();
    let area = load(&ram, &stored.descriptor).unwrap().area;
    assert_eq!((area.order(), area.flags(), area.total_pages()), (order(1), FLAG_ALLOC, 6));
    assert!(area.folios().eq(stored.blocks.iter().map(Frame::folio)));
    let mut back = vec![0xff; 6 * 4096];
    area.read(&ram, 0, &mut back).unwrap();
    assert_eq!(back[..20_000], bytes);
    assert!(back[20_000..].iter().all(|&byte| byte == 0));
    // Across the end of the first block, and at the very end.
    let mut some = [0; 3];
    area.read(&ram, 8191, &mut some).unwrap();
    assert_eq!(some, bytes[8191..8194]);
    area.read(&ram, 24_576, &mut []).unwrap();
    let past = area.read(&ram, 24_574, &mut some).unwrap_err();
    assert_eq!(past.to_string(), "too-large: end: found 24577, expected at most 24576");
    assert_eq!(area.read(&ram, u64::MAX, &mut some).unwrap_err().code(), Code::TooLarge);
    stored.free(&mut ram);
    assert_eq!(ram.free_pages(), 64);
}

#[test]
fn records_of_any_size() {
    let mut ram = ram(Geometry::K4, 64);
    let numbers: Vec<U64> = (0..3_000_u64).map(U64::new).collect();
    let stored = store_bytes(&mut ram, Order::ZERO, numbers.as_bytes()).unwrap();
    let area = load(&ram, &stored.descriptor).unwrap().area;
    assert_eq!(area.read_records::<U64>(&ram, 3_000).unwrap(), numbers);
    assert!(area.read_records::<U64>(&ram, 0).unwrap().is_empty());
    // 6 pages are 24,576 bytes: one record of three words more than fits.
    let three: Vec<[U64; 3]> = area.read_records(&ram, 1_000).unwrap();
    assert_eq!(three.as_flattened(), numbers);
    let fault = area.read_records::<[U64; 3]>(&ram, 1_025).unwrap_err();
    assert_eq!(fault.to_string(), "too-large: count: found 1025, expected at most 1024");
    assert_eq!(area.read_records::<U64>(&ram, u64::MAX).unwrap_err().code(), Code::TooLarge);
    assert_eq!(area.read_records::<[u8; 0]>(&ram, 1).unwrap_err().code(), Code::TooLarge);
}

#[test]
fn records_beyond_what_exists_end_at_the_first_missing_page() {
    let mut ram = ram(Geometry::K4, 2);
    let block = Folio::new(pfn(1 << 30), order(30)).unwrap();
    let stored = Area::from_folios(order(30), 0, [block]).unwrap().store(&mut ram).unwrap();
    let area = load(&ram, &stored.descriptor).unwrap().area;
    let fault = area.read_records::<U64>(&ram, 1 << 39).unwrap_err();
    assert_eq!((fault.code(), fault.at().address), (Code::Outside, Some(1 << 42)));
}

proptest! {
    #[test]
    fn comes_back_as_it_was(
        geometry in proptest::sample::select(&Geometry::ALL),
        exponent in 0_u32..12,
        blocks in proptest::collection::btree_set(1_u64..1 << 30, 1..1200),
        flags in 0_u16..4,
        shuffle in any::<u64>(),
    ) {
        let mut blocks: Vec<u64> = blocks.into_iter().collect();
        blocks.sort_by_key(|block| block.wrapping_mul(shuffle | 1));
        let folios = blocks.iter().map(|block| Folio::new(pfn(block << exponent), order(exponent)).unwrap());
        let area = Area::from_folios(order(exponent), flags, folios).unwrap();
        let mut ram = ram(geometry, 4);
        let stored = area.store(&mut ram).unwrap();
        prop_assert_eq!(stored.chunks.len() as u64, blocks.len() as u64 / geometry.chunk_capacity() + 1);
        prop_assert_eq!(load(&ram, &stored.descriptor).unwrap().area, area);
    }

    /// As one slice: any piece of the array is that piece of the bytes.
    #[test]
    fn reads_like_a_slice(
        exponent in 0_u32..3,
        bytes in proptest::collection::vec(any::<u8>(), 1..40_000),
        from in 0_usize..40_000,
        len in 0_usize..20_000,
    ) {
        let mut ram = ram(Geometry::K4, 64);
        let stored = store_bytes(&mut ram, order(exponent), &bytes).unwrap();
        let area = load(&ram, &stored.descriptor).unwrap().area;
        let mut padded = bytes.clone();
        padded.resize(area.bytes(Geometry::K4) as usize, 0);
        let mut back = vec![0xff; len];
        match padded.get(from..).and_then(|rest| rest.get(..len)) {
            Some(expected) => {
                area.read(&ram, from as u64, &mut back).unwrap();
                prop_assert_eq!(back, expected);
            }
            None => prop_assert_eq!(area.read(&ram, from as u64, &mut back).unwrap_err().code(), Code::TooLarge),
        }
    }

    /// Any words in any pages: an error, or an area that keeps what its type promises.
    #[test]
    fn any_bytes(
        pages in proptest::collection::vec(proptest::collection::vec((0_u64..24, crate::mem::chain::tests::word()), 0..24), 6),
        first in crate::mem::chain::tests::word(), total_pages in prop_oneof![0_u32..24, any::<u32>()],
        flags in prop_oneof![9 => 0_u16..4, 1 => any::<u16>()], order in prop_oneof![9 => 0_u16..3, 1 => any::<u16>()],
    ) {
        let mut ram = ram(Geometry::K4, 6);
        for (page, words) in pages.iter().enumerate() {
            for (index, word) in words {
                ram.poke(PhysAddr::new((page as u64 + 0x10) * 4096 + index * 8), &word.to_le_bytes()).unwrap();
            }
        }
        let descriptor =
            Descriptor { first: first.into(), total_pages: total_pages.into(), flags: flags.into(), order: order.into() };
        if let Ok(Loaded { area, chunks }) = load(&ram, &descriptor) {
            prop_assert_eq!(area.total_pages(), total_pages);
            let different = area.folios().collect::<BTreeSet<_>>().len();
            prop_assert_eq!(area.check_unique(Geometry::K4).is_ok(), different == area.blocks().len());
            prop_assert!(!chunks.is_empty() && chunks.len() <= 6);
            let _ = area.read_records::<U64>(&ram, u64::from(total_pages) * 3);
        }
    }
}
