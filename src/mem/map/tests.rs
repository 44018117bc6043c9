use std::collections::BTreeMap;

use super::*;
use crate::mem::{Claim as _, Memory as _, Order};

/// `count` blocks of 64 KiB, none beside the one before it.
fn scattered(arena: &mut Arena, count: usize) -> Vec<Frame> {
    let order = Order::holding(64 << 10, arena.geometry()).unwrap();
    let all: Vec<Frame> = (0..2 * count).map(|_| arena.alloc(order).unwrap()).collect();
    let (even, odd): (Vec<_>, Vec<_>) = all.into_iter().zip(0..).partition(|(_, index)| index % 2 == 0);
    for (frame, _) in odd {
        arena.free(frame);
    }
    // And not in the order of the addresses.
    let mut frames: Vec<(Frame, usize)> = even.into_iter().map(|(frame, index)| (frame, index * 7919 % 1021)).collect();
    frames.sort_by_key(|(_, place)| *place);
    frames.into_iter().map(|(frame, _)| frame).collect()
}

fn number(arena: &Arena, frames: &mut [Frame]) {
    for (frame, block) in frames.iter_mut().zip(0_u64..) {
        for (word, offset) in arena.bytes_mut(frame).unwrap().chunks_exact_mut(8).zip(0_u64..) {
            word.copy_from_slice(&(block << 32 | offset).to_le_bytes());
        }
    }
}

fn numbered(bytes: &[u8]) -> bool {
    let words = 0x1_0000 / 8;
    bytes.chunks_exact(8).zip(0_u64..).all(|(word, at)| word == (((at / words) << 32) | (at % words)).to_le_bytes())
}

#[test]
fn a_thousand_scattered_blocks_are_one_slice() {
    let mut arena = Arena::new(1 << 30).unwrap();
    let mut frames = scattered(&mut arena, 1024);
    number(&arena, &mut frames);
    let folios: Vec<Folio> = frames.iter().map(Frame::folio).collect();
    let start = std::time::Instant::now();
    let mut mapping = arena.map_contiguous(frames).unwrap();
    println!("1024 blocks of 64 KiB mapped in {:?}", start.elapsed());
    assert!(!mapping.is_copy());
    assert_eq!(mapping.len(), 64 << 20);
    assert!(numbered(&mapping));
    assert_eq!(mapping.folios().collect::<Vec<_>>(), folios);

    // What is written through the mapping is in the arena at once, for read(2) and for slices.
    mapping[0x1_0000 - 1..0x1_0000 + 1].copy_from_slice(b"ab");
    let mut byte = [0];
    arena.read(folios[1].addr(arena.geometry()), &mut byte).unwrap();
    assert_eq!(&byte, b"b");
    mapping.flush(&mut arena).unwrap();
    let frames = mapping.into_frames();
    assert_eq!(frames.iter().map(Frame::folio).collect::<Vec<_>>(), folios);
    assert_eq!(arena.bytes(&frames[0]).unwrap()[0xffff], b'a');
    assert_eq!(arena.bytes(&frames[1]).unwrap()[0], b'b');
}

#[test]
fn a_copy_where_mappings_are_short() {
    let mut arena = Arena::new(64 << 20).unwrap();
    let mut frames = scattered(&mut arena, 33);
    number(&arena, &mut frames);
    let first = frames[0].folio().addr(arena.geometry());
    let mapped = arena.map_contiguous_within(frames, Some(33)).unwrap();
    assert!(!mapped.is_copy());
    let mut copy = arena.map_contiguous_within(mapped.into_frames(), Some(32)).unwrap();
    assert!(copy.is_copy() && numbered(&copy));

    let mut bytes = [0; 3];
    copy[..3].copy_from_slice(b"new");
    arena.read(first, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 3], "not yet");
    let mut other = Arena::new(1 << 20).unwrap();
    assert!(matches!(copy.flush(&mut other), Err(MemError::NotHeld { .. })));
    copy.flush(&mut arena).unwrap();
    arena.read(first, &mut bytes).unwrap();
    assert_eq!(&bytes, b"new");
    assert_eq!(arena.bytes(&copy.into_frames()[0]).unwrap()[..3], *b"new");
}

#[test]
fn a_copy_of_holes_costs_no_memory() {
    let mut arena = Arena::new(4 << 30).unwrap();
    // 1 GiB in four blocks, not in the order of their addresses, and two words in all of it.
    let order = Order::holding(256 << 20, arena.geometry()).unwrap();
    let mut frames: Vec<Frame> = (0..4).map(|_| arena.alloc(order).unwrap()).collect();
    frames.swap(0, 2);
    frames.swap(1, 3);
    let (early, late) = (5 << 20 | 0xfff, (256_u64 << 20) - 4);
    arena.write(&frames[1], early, b"early").unwrap();
    arena.write(&frames[3], late, b"late").unwrap();
    let copy = arena.map_contiguous_within(frames, Some(0)).unwrap();
    assert!(copy.is_copy());
    assert_eq!(copy.len(), 1 << 30);
    let at = |block: u64, offset: u64| usize_of((block << 28) + offset);
    assert_eq!(&copy[at(1, early) - 3..][..11], b"\0\0\0early\0\0\0");
    assert_eq!(&copy[at(3, late) - 3..], b"\0\0\0late");
    assert_eq!(&copy[at(0, early)..][..5], [0; 5]);
    let has = rustix::fs::fstat(&arena.fd).unwrap().st_blocks * 512;
    assert!(has <= 4 * rustix::param::page_size() as i64, "{has} bytes: the header and three pages");
}

#[test]
fn neighbours_are_one_mapping() {
    let mut arena = Arena::new(4 << 20).unwrap();
    let frames: Vec<Frame> = (0..64).map(|_| arena.alloc(Order::ZERO).unwrap()).collect();
    let mapping = arena.map_contiguous_within(frames, Some(1)).unwrap();
    assert!(!mapping.is_copy());
    let mut frames = mapping.into_frames();
    frames.swap(10, 11);
    assert!(arena.map_contiguous_within(frames, Some(3)).unwrap().is_copy(), "four runs");
}

#[test]
fn no_blocks_are_an_empty_slice() {
    let arena = Arena::new(1 << 20).unwrap();
    let mut mapping = arena.map_contiguous(Vec::new()).unwrap();
    assert!(mapping.is_empty() && !mapping.is_copy() && mapping.as_mut().is_empty());
}

/// The mappings of the arena that has this name: start and end.
fn maps_of(name: &str) -> BTreeMap<u64, u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ours = maps.lines().filter(|line| line.contains(name));
    let range = |line: &str| {
        let (start, rest) = line.split_once('-').unwrap();
        let hex = |text| u64::from_str_radix(text, 16).unwrap();
        (hex(start), hex(rest.split_once(' ').unwrap().0))
    };
    ours.map(range).collect()
}

#[test]
fn a_mapping_that_is_dropped_or_failed_leaves_nothing_mapped() {
    let mut arena = Arena::with_name("kho-maps-test", 16 << 20).unwrap();
    let frames = scattered(&mut arena, 8);
    assert!(maps_of("kho-maps-test").is_empty());
    let mapping = arena.map_contiguous(frames).unwrap();
    assert_eq!(maps_of("kho-maps-test").len(), 8);
    let mut frames = mapping.into_frames();
    assert!(maps_of("kho-maps-test").is_empty());

    let mut other = Arena::new(1 << 20).unwrap();
    frames.push(other.alloc(Order::ZERO).unwrap());
    let failed = arena.map_contiguous(frames).unwrap_err();
    assert!(matches!(failed.error, MemError::NotHeld { .. }));
    assert_eq!(failed.frames.len(), 9);
    assert!(maps_of("kho-maps-test").is_empty());
}

#[test]
fn the_mapping_outlives_its_arena() {
    let mut arena = Arena::new(1 << 20).unwrap();
    let mut frame = arena.alloc(Order::ZERO).unwrap();
    arena.bytes_mut(&mut frame).unwrap()[..4].copy_from_slice(b"stay");
    let folio = frame.folio();
    let mapping = arena.map_contiguous(vec![frame]).unwrap();
    let fd = arena.fd().try_clone_to_owned().unwrap();
    drop(arena);
    assert_eq!(mapping[..4], *b"stay");
    drop(mapping);
    let mut arena = Arena::open(fd).unwrap();
    arena.admit(&mut [folio].into_iter(), &mut [].into_iter()).unwrap();
    let frame = arena.claim(folio).unwrap();
    assert_eq!(arena.bytes(&frame).unwrap()[..4], *b"stay");
}

#[test]
fn no_descriptor_writes_under_a_mapping() {
    let mut arena = Arena::new(1 << 20).unwrap();
    let frame = arena.alloc(Order::ZERO).unwrap();
    arena.write(&frame, 0, b"mine").unwrap();
    let offset = frame.folio().addr(arena.geometry()).get() - arena.base().get();
    let mapping = arena.map_contiguous(vec![frame]).unwrap();
    let reader = arena.read_only_fd().unwrap();
    assert_eq!(rustix::io::fcntl_getfd(&reader).unwrap(), rustix::io::FdFlags::CLOEXEC);
    let mut bytes = [0; 4];
    read_at(reader.as_fd(), offset, &mut bytes).unwrap();
    assert_eq!(&bytes, b"mine");
    assert_eq!(rustix::io::pwrite(&reader, b"theirs", offset).unwrap_err(), rustix::io::Errno::BADF);
    assert!(Region::of_file(reader.as_fd(), 1 << 20).is_err(), "nor can a shared mapping that can be written be made");
    // Its position is its own.
    rustix::fs::seek(&reader, rustix::fs::SeekFrom::Start(7)).unwrap();
    assert_eq!(rustix::fs::seek(&arena.fd, rustix::fs::SeekFrom::Current(0)).unwrap(), 0);

    let refused = arena.into_fd().unwrap_err();
    assert_eq!(refused.to_string(), "refused: into_fd: an arena of which mappings are left");
    assert_eq!(mapping[..4], *b"mine");
    drop(mapping);
    let fd = refused.arena.into_fd().unwrap();
    rustix::io::pwrite(&fd, b"free", offset).unwrap();
}

#[test]
fn slices_of_two_frames_at_once_from_two_threads() {
    let mut arena = Arena::new(1 << 20).unwrap();
    let (mut one, mut two) = (arena.alloc(Order::ZERO).unwrap(), arena.alloc(Order::ZERO).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| arena.bytes_mut(&mut one).unwrap().fill(1));
        scope.spawn(|| arena.bytes_mut(&mut two).unwrap().fill(2));
    });
    assert!(arena.bytes(&one).unwrap().iter().all(|&byte| byte == 1));
    assert!(arena.bytes(&two).unwrap().iter().all(|&byte| byte == 2));
}

#[test]
fn the_reserve_of_mappings_is_kept() {
    assert_eq!(mappings_left(16), 16);
    let limit: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    let left = mappings_left(1_000_000);
    assert!(left < limit - limit / 16 && mappings_now().unwrap() > 10, "{left}");
}
