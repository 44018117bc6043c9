use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::mem::{Arena, Frames as _, Order};

const FROZEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/linux-7.2-x86_64/frozen.core");

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn image(file: File) -> Image {
    match Image::from_file(file).unwrap() {
        Source::Image(image) => image,
        Source::DeviceTree(_) | Source::States(_) => panic!("no memory"),
    }
}

fn told(file: File) -> (Code, String) {
    let fault = Image::from_file(file).unwrap_err();
    (fault.code(), fault.at().item.as_deref().unwrap_or_default().to_owned())
}

/// A segment: p_offset, p_paddr, p_filesz, p_memsz.
type Segment = [u64; 4];

/// The header and program headers of a core; `xnum` puts their number into the first section header.
fn core(segments: &[Segment], xnum: bool) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(128_u64.to_le_bytes());
    bytes.extend(64_u64.to_le_bytes());
    let count = if xnum { 0xffff } else { segments.len() as u16 };
    bytes.extend([0; 4]);
    for half in [64, 56, count, 64, 1, 0] {
        bytes.extend(half.to_le_bytes());
    }
    // The section header.
    bytes.extend([0; 44]);
    bytes.extend((segments.len() as u32).to_le_bytes());
    bytes.extend([0; 16]);
    assert_eq!(bytes.len(), 128);
    for [offset, addr, in_file, in_memory] in segments {
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(6_u32.to_le_bytes());
        for word in [*offset, 0, *addr, *in_file, *in_memory, 0x1000] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}

/// A core with `data` from offset 0x1000 on.
fn core_with(segments: &[Segment], data: &[u8]) -> File {
    let mut bytes = core(segments, false);
    assert!(bytes.len() <= 0x1000);
    bytes.resize(0x1000, 0);
    bytes.extend(data);
    file(&bytes)
}

fn read(image: &Image, at: u64, len: usize) -> Result<Vec<u8>, MemError> {
    let mut bytes = vec![0xee; len];
    image.read(PhysAddr::new(at), &mut bytes).map(|()| bytes)
}

fn extents(image: &Image) -> Vec<(u64, u64)> {
    image.extents().iter().map(|extent| (extent.start().get(), extent.size())).collect()
}

fn fdts(image: &Image) -> Vec<u64> {
    image.find_fdt().map(|at| at.unwrap().get()).collect()
}

#[test]
fn the_core_of_a_frozen_machine() {
    let Source::Image(image) = Image::open(FROZEN).unwrap() else { panic!("a core") };
    assert_eq!((image.kind(), image.geometry(), image.arena_root()), (ImageKind::Core, Geometry::K4, None));
    assert_eq!(image.extents().len(), 13);
    assert_eq!(extents(&image)[..2], [(0x448000, 0x7000), (0x452000, 0x1000)]);
    assert_eq!(image.bytes_read(), 0);
    assert!(fdts(&image).contains(&4_489_216), "{:x?}", fdts(&image));
    assert_eq!(read(&image, 4_489_216, 4).unwrap(), [0xd0, 0x0d, 0xfe, 0xed]);
    // Between two segments, and from one into the gap.
    assert!(matches!(read(&image, 0x44f000, 1), Err(MemError::Outside { .. })));
    assert!(matches!(read(&image, 0x44efff, 2), Err(MemError::Outside { .. })));
}

#[test]
fn a_core_that_ends_early_names_the_segment() {
    let bytes = std::fs::read(FROZEN).unwrap();
    // A number of bytes, and what is missing then; the last segment is at 0x5e000 + 0x36000.
    for (len, item) in [
        (0, "magic"),
        (3, "magic"),
        (7, "ELF header"),
        (63, "ELF header"),
        (64, "program headers"),
        (64 + 13 * 56 - 1, "program headers"),
        (64 + 13 * 56, "segment[0]"),
        (0x7fff, "segment[0]"),
        (0x8000, "segment[1]"),
        (0x5e000, "segment[12]"),
        (0x93fff, "segment[12]"),
    ] {
        assert_eq!(told(file(&bytes[..len])), (Code::Truncated, item.to_owned()), "{len} bytes");
    }
    let fault = Image::from_file(file(&bytes[..0x93fff])).unwrap_err();
    assert_eq!(fault.at().address, Some(0x17bc000));
    assert_eq!((fault.found_text(), fault.expected_text()), ("a file of 606207 bytes", "606208 bytes at least"));
    image(file(&bytes[..0x94000]));
}

#[test]
fn zero_behind_the_bytes_of_a_segment() {
    let image = image(core_with(&[[0x1000, 0x5000, 3, 8]], b"abc"));
    assert_eq!(extents(&image), [(0x5000, 8)]);
    assert_eq!(read(&image, 0x5001, 7).unwrap(), b"bc\0\0\0\0\0");
    assert_eq!(image.bytes_read(), 2, "zeros are not read");
    assert!(matches!(read(&image, 0x5001, 8), Err(MemError::Outside { .. })));
}

#[test]
fn a_read_goes_on_in_the_next_segment() {
    // Neighbours in memory, in the other order in the file.
    let image =
        image(core_with(&[[0x1004, 0x5000, 4, 4], [0x1000, 0x5004, 4, 4], [0x1000, 0x5009, 1, 1]], b"efghabcd"));
    assert_eq!(extents(&image), [(0x5000, 8), (0x5009, 1)]);
    assert_eq!(read(&image, 0x5000, 8).unwrap(), b"abcdefgh");
    assert_eq!(read(&image, 0x5003, 2).unwrap(), b"de");
    assert!(matches!(read(&image, 0x5003, 6), Err(MemError::Outside { .. })));
    assert_eq!(read(&image, 0x5008, 0).unwrap(), b"", "no bytes are everywhere that memory is");
    assert!(matches!(read(&image, u64::MAX, 1), Err(MemError::Outside { .. })));
}

#[test]
fn of_overlapping_segments_the_first_with_bytes_wins() {
    let segments = [[0x1000, 0x5004, 4, 4], [0x1004, 0x5000, 12, 12], [0x1010, 0x5002, 0, 30], [0x1000, !0, 4, 4]];
    let image = image(core_with(&segments, b"ABCDabcdefghijklxxxx"));
    assert_eq!(extents(&image), [(0x5000, 32)]);
    assert_eq!(read(&image, 0x5000, 14).unwrap(), b"abcdABCDijkl\0\0");
}

#[test]
fn more_program_headers_than_their_field_can_count() {
    let count = 70_000;
    let data = 128 + 56 * count;
    let segments: Vec<Segment> = (0..count).map(|i| [data + i, 0x1000 * (count - i), 1, 0x800]).collect();
    let mut bytes = core(&segments, true);
    bytes.extend((0..count).map(|i| i as u8));
    let image = image(file(&bytes));
    assert_eq!(image.extents().len(), 70_000);
    assert_eq!(read(&image, 0x1000, 2).unwrap(), [(69_999 % 256) as u8, 0]);

    let huge = u32::MAX.to_le_bytes();
    bytes[64 + 44..][..4].copy_from_slice(&huge);
    assert_eq!(told(file(&bytes)), (Code::TooLarge, "e_phnum".into()));
    bytes[64 + 44..][..4].copy_from_slice(&1_000_000_u32.to_le_bytes());
    assert_eq!(told(file(&bytes)), (Code::Truncated, "program headers".into()));
    bytes[40..48].fill(0xff);
    assert_eq!(told(file(&bytes)), (Code::Truncated, "section[0]".into()));
}

#[test]
fn cores_that_contradict_themselves() {
    let told_of = |segment| told(core_with(&[[0x1000, 0, 1, 1], segment], &[0; 64]));
    let item = |field: &str| format!("segment[1].{field}");
    assert_eq!(told_of([0x1000, 0x5000, 9, 8]), (Code::ImageHeader, item("p_filesz")));
    assert_eq!(told_of([0x1000, 0x5000, 1, u64::MAX]), (Code::TooLarge, item("p_memsz")));
    assert_eq!(told_of([u64::MAX, 0x5000, 2, 2]), (Code::Truncated, "segment[1]".into()));
    assert_eq!(told_of([0x1000, 0x5000, u64::MAX - 0x5000, u64::MAX - 0x5000]), (Code::Truncated, "segment[1]".into()));
    // A few bytes of file, said to be a lot of memory.
    let many: Vec<Segment> = (0..60).map(|i| [0, 0x10000 * i, 0x1000, 0x1000]).collect();
    assert_eq!(told(core_with(&many, &[])), (Code::ImageHeader, "segments".into()));

    let with = |at: usize, byte: u8| {
        let mut bytes = core(&[], false);
        bytes[at] = byte;
        told(file(&bytes))
    };
    assert_eq!(with(5, 2), (Code::ForeignEndian, "e_ident.data".into()));
    assert_eq!(with(5, 0), (Code::ImageHeader, "e_ident.data".into()));
    assert_eq!(with(4, 1), (Code::FileKind, "e_ident.class".into()));
    assert_eq!(with(16, 2), (Code::FileKind, "e_type".into()));
    assert_eq!(with(54, 32), (Code::ImageHeader, "e_phentsize".into()));
    assert!(image(file(&core(&[], false))).extents().is_empty());
}

#[test]
fn overlaps_cost_no_more_than_sorting() {
    // Every segment overlaps every other one.
    let count = 100_000;
    let segments: Vec<Segment> = (0..count).map(|i| [0, 0x1000 + i, 0, 4 * count - 2 * i]).collect();
    let start = std::time::Instant::now();
    let image = image(file(&core(&segments, true)));
    println!("100k nested segments: {:?}", start.elapsed());
    assert_eq!(extents(&image), [(0x1000, 4 * count)]);
    assert_eq!(image.pieces.len(), 1);
}

/// The bytes of a small arena with a block in it, its block and its root.
fn arena_bytes() -> (Vec<u8>, PhysAddr) {
    let mut arena = Arena::new(1 << 20).unwrap();
    let frame = arena.alloc(Order::ZERO).unwrap();
    arena.write(&frame, 8, b"inside").unwrap();
    let at = frame.folio().addr(arena.geometry());
    arena.set_root(PhysRange::new(at, 42)).unwrap();
    let mut bytes = vec![0; 1 << 20];
    read_at(arena.fd(), 0, &mut bytes).unwrap();
    (bytes, at)
}

#[test]
fn a_file_that_is_a_copy_of_an_arena() {
    let (bytes, at) = arena_bytes();
    let image = image(file(&bytes)).with_geometry(Geometry::K64);
    assert_eq!((image.kind(), image.arena_root()), (ImageKind::Arena, Some((at, 42))));
    assert_eq!(image.geometry().page_size(), u64_of(rustix::param::page_size()), "its own");
    assert_eq!(read(&image, at.get() + 8, 6).unwrap(), b"inside");
    let page = image.geometry().page_size();
    assert_eq!(extents(&image), [(Arena::BASE + page, (1 << 20) - page)]);
    assert!(matches!(read(&image, Arena::BASE, 8), Err(MemError::Outside { .. })), "the header is no memory");
}

#[test]
fn an_arena_of_another_page_size_can_be_read() {
    let (mut bytes, _) = arena_bytes();
    bytes[16..20].copy_from_slice(&16_u32.to_le_bytes());
    bytes[40..56].fill(0);
    bytes[64..0x1_0000].fill(0);
    let image = image(file(&bytes));
    assert_eq!((image.geometry(), image.arena_root()), (Geometry::K64, None));
    assert_eq!(extents(&image), [(Arena::BASE + 0x1_0000, 0xf_0000)]);
}

#[test]
fn a_copy_of_an_arena_that_ends_early() {
    let (bytes, _) = arena_bytes();
    for (len, item) in [(3, "magic"), (7, "magic"), (8, "header"), (63, "header"), (64, "size"), (0x1000, "size")] {
        assert_eq!(told(file(&bytes[..len])), (Code::Truncated, item.to_owned()), "{len} bytes");
    }
    for len in (0x1001..1 << 20).step_by(37_813).chain([(1 << 20) - 1]) {
        let fault = Image::from_file(file(&bytes[..len])).unwrap_err();
        assert_eq!(fault.code(), Code::Truncated);
        assert_eq!(fault.found_text(), format!("a file of {len} bytes"));
        assert_eq!(fault.expected_text(), "1048576 bytes");
    }
    let mut newer = bytes;
    newer[8] = 2;
    assert_eq!(told(file(&newer)), (Code::VersionNewer, "version".into()));
}

#[test]
fn what_is_no_image() {
    let Source::DeviceTree(tree) = Image::from_file(file(b"\xd0\x0d\xfe\xed\0\0\0\x48")).unwrap() else {
        panic!("a device tree")
    };
    assert_eq!(tree.metadata().unwrap().len(), 8);
    assert_eq!(told(file(b"#!/bin/sh\n")), (Code::Magic, "magic".into()));
    assert_eq!(told(file(b"")), (Code::Truncated, "magic".into()));
    assert_eq!(told(File::open("/").unwrap()), (Code::FileKind, "file".into()));
    let pipe = std::io::pipe().unwrap().0;
    assert_eq!(told(std::os::fd::OwnedFd::from(pipe).into()), (Code::FileKind, "file".into()));
    let fault = Image::open("/nonexistent/image").unwrap_err();
    assert_eq!((fault.code(), fault.at().item.as_deref()), (Code::Io, Some("/nonexistent/image")));
}

#[test]
fn raw_memory() {
    let image = Image::raw(file(b"abcdef"), PhysAddr::new(0x10_0002), Geometry::K16).unwrap();
    assert_eq!(
        (image.kind(), image.geometry(), extents(&image)),
        (ImageKind::Raw, Geometry::K16, vec![(0x10_0002, 6)])
    );
    assert_eq!(read(&image, 0x10_0004, 4).unwrap(), b"cdef");
    assert!(matches!(read(&image, 0x10_0001, 2), Err(MemError::Outside { .. })));
    let high = Image::raw(file(b"abcdef"), PhysAddr::new(u64::MAX - 4), Geometry::K4).unwrap_err();
    assert_eq!(high.code(), Code::TooLarge);
    assert!(extents(&Image::raw(file(b""), PhysAddr::new(0), Geometry::K4).unwrap()).is_empty());
}

#[test]
fn a_file_that_is_cut_while_it_is_read_is_an_error() {
    let file = file(&[1; 0x2000]);
    let image = Image::raw(file.try_clone().unwrap(), PhysAddr::new(0), Geometry::K4).unwrap();
    file.set_len(0x1800).unwrap();
    assert!(matches!(read(&image, 0x17ff, 2), Err(MemError::Io { .. })));
    assert!(image.find_fdt().next().is_none());
    file.set_len(0x800).unwrap();
    let scanned: Vec<_> = image.find_fdt().collect();
    assert!(matches!(scanned.as_slice(), [] | [Err(MemError::Io { .. })]), "{scanned:?}");
}

const FDT: [u32; 10] = [FDT_MAGIC, 0x200, 56, 0x180, 40, 17, 16, 0, 0x80, 0x100];

fn put_fdt(file: &File, offset: u64) {
    let bytes: Vec<u8> = FDT.iter().flat_map(|word| word.to_be_bytes()).collect();
    super::super::file::write_at(file.as_fd(), offset, &bytes).unwrap();
}

#[test]
fn a_sparse_half_terabyte_costs_its_data() {
    let file = tempfile::tempfile().unwrap();
    let size = 512 << 30;
    file.set_len(size).unwrap();
    // A mebibyte of other data here and there, and the tree in one of them.
    for at in [0, 100 << 30, size - (1 << 20)] {
        super::super::file::write_at(file.as_fd(), at, &[0xaa; 1 << 20]).unwrap();
    }
    put_fdt(&file, (100 << 30) + 0x3000);
    put_fdt(&file, 300 << 30);
    put_fdt(&file, (300 << 30) + 0x1008);
    let image = Image::raw(file, PhysAddr::new(0x1000), Geometry::K4).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(fdts(&image), [(100 << 30) + 0x4000, (300 << 30) + 0x1000]);
    println!("512 GiB with 3 MiB of data: {:?}, {} bytes read", start.elapsed(), image.bytes_read());
    assert!(image.bytes_read() < 10 << 20);
}

#[test]
fn a_sparse_core_is_scanned_by_address() {
    let size = 512_u64 << 30;
    // In the file the upper half of memory comes first; and a hundred terabytes that the file does not have.
    let half = size / 2;
    let segments = [[0x1000, half, half, half], [0x1000 + half, 0, half, half], [0x1000, size + 0x1000, 0, 100 << 40]];
    let file = core_with(&segments, &[]);
    file.set_len(0x1000 + size).unwrap();
    put_fdt(&file, 0x1000 + 0x5000);
    put_fdt(&file, 0x1000 + half + 0x7000);
    let image = image(file);
    assert_eq!(fdts(&image), [0x7000, half + 0x5000]);
    assert!(image.bytes_read() < 10 << 20, "{}", image.bytes_read());
}

/// Bytes of memory, of which some are known.
type Model = std::collections::BTreeMap<u64, u8>;

proptest! {
    /// Random segments, many of them overlapping, against a map of bytes.
    #[test]
    fn like_a_map_of_bytes(
        segments in proptest::collection::vec((0_u64..40, 0_u64..120, 0_u64..40, 0_u64..10), 0..12),
        reads in proptest::collection::vec((0_u64..200, 0_usize..60), 20),
    ) {
        // Far more file than the segments can use twice.
        let data: Vec<u8> = (0..2000_u32).map(|i| (i * 7 % 251) as u8 + 1).collect();
        let segments: Vec<Segment> =
            segments.iter().map(|(from, at, len, more)| [0x1000 + from, *at, *len, len + more]).collect();
        let mut model = Model::new();
        for filled in [true, false] {
            for [from, at, in_file, in_memory] in &segments {
                let range = if filled { 0..*in_file } else { *in_file..*in_memory };
                for i in range {
                    let byte = if filled { data[(from - 0x1000 + i) as usize] } else { 0 };
                    model.entry(at + i).or_insert(byte);
                }
            }
        }
        let image = image(core_with(&segments, &data));
        for (at, len) in reads {
            let expected: Option<Vec<u8>> = (at..at + len as u64).map(|at| model.get(&at).copied()).collect();
            match read(&image, at, len) {
                Ok(bytes) => prop_assert_eq!(Some(bytes), expected),
                Err(MemError::Outside { .. }) => prop_assert!(expected.is_none() || len == 0),
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
        for pair in image.extents().windows(2) {
            prop_assert!(pair[0].end() < pair[1].start());
        }
        let total: u64 = image.extents().iter().map(|extent| extent.size()).sum();
        prop_assert_eq!(total, model.len() as u64);
    }

    #[test]
    fn any_file_is_an_error_or_memory_that_can_be_read(
        which in 0_u8..3, changes in proptest::collection::vec((0_usize..300, any::<u8>()), 1..12), cut in 0_usize..0x1800,
    ) {
        let mut bytes = match which {
            0 => {
                let mut bytes = core(&[[0x1000, 0x5000, 0x400, 0x800], [0x1400, 0x6000, 0x400, 0x400]], true);
                bytes.resize(0x1800, 7);
                bytes
            }
            1 => {
                let mut bytes = arena_bytes().0;
                bytes.truncate(0x2000);
                bytes[32..40].copy_from_slice(&0x2000_u64.to_le_bytes());
                bytes
            }
            _ => vec![0; 0x1800],
        };
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if cut % 3 == 0 {
            bytes.truncate(cut);
        }
        if let Ok(Source::Image(image)) = Image::from_file(file(&bytes)) {
            for extent in image.extents() {
                let mut first = [0];
                image.read(extent.start(), &mut first).unwrap();
            }
            prop_assert!(image.find_fdt().take(100).all(|at| at.is_ok()));
        }
    }
}
