//! Descriptors and headers that are not those of an arena.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::tests::{SIZE, arena, page};
use super::*;
use crate::abi::arena::{COMPAT, Header};
use crate::report::Class;

/// A memfd of `size` bytes that begins with `bytes`.
fn memfd(bytes: &[u8], size: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("hostile", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size).unwrap();
    write_at(fd.as_fd(), 0, bytes).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn header() -> Header {
    arena().facts.header()
}

/// Opens an arena whose header was changed; what is told: code, item, found, expected.
fn refused(change: impl FnOnce(&mut Header)) -> (Code, String, String, String) {
    let mut header = header();
    change(&mut header);
    told(Arena::open(memfd(header.as_bytes(), SIZE, SEALS)))
}

fn told(opened: Result<Arena, Fault>) -> (Code, String, String, String) {
    let fault = opened.unwrap_err();
    let item = fault.at().item.as_deref().unwrap_or_default().to_owned();
    (fault.code(), item, fault.found_text().to_owned(), fault.expected_text().to_owned())
}

fn code_and_item(opened: Result<Arena, Fault>) -> (Code, String) {
    let (code, item, ..) = told(opened);
    (code, item)
}

#[test]
fn sizes_that_no_arena_has() {
    for size in [0, 1, page(), page() * 2 + 1, SIZE - 512] {
        let (code, item, found, _) = told(Arena::new(size));
        assert_eq!((code, item.as_str(), found), (Code::ImageHeader, "size", format!("{size:#x}")));
    }
    assert_eq!(code_and_item(Arena::new(1 << 63)), (Code::TooLarge, "size".into()));
}

#[test]
fn another_kind_of_descriptor() {
    let told_of = |fd: OwnedFd| {
        let (code, item, found, expected) = told(Arena::open(fd));
        assert_eq!((code, item.as_str(), expected.as_str()), (Code::FileKind, "descriptor", "a memfd"));
        found
    };
    let file = File::open("/proc/self/status").unwrap();
    assert_eq!(told_of(file.into()), "a regular file, on a file system of type 0x9fa0");
    assert_eq!(told_of(std::io::pipe().unwrap().0.into()), "Fifo");
    assert_eq!(told_of(File::open("/").unwrap().into()), "Directory");
    assert_eq!(told_of(std::os::unix::net::UnixStream::pair().unwrap().0.into()), "Socket");
}

#[test]
fn an_arena_that_was_swapped_for_a_file_with_the_same_bytes() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(header().as_bytes()).unwrap();
    file.set_len(SIZE).unwrap();
    // A temporary directory may be a tmpfs: then only the seals tell.
    let (code, item) = code_and_item(Arena::open(file.into()));
    let told = (code, item.as_str());
    assert!([(Code::FileKind, "descriptor"), (Code::MemfdSeals, "seals")].contains(&told), "{told:?}");
}

#[test]
fn seals_that_are_missing_or_too_many() {
    let header = header();
    for seals in [
        SealFlags::empty(),
        SealFlags::SEAL,
        SealFlags::GROW | SealFlags::SHRINK,
        SealFlags::GROW | SealFlags::SEAL,
        SealFlags::SHRINK | SealFlags::SEAL,
        SEALS | SealFlags::WRITE,
        SEALS | SealFlags::FUTURE_WRITE,
    ] {
        let (code, item, found, expected) = told(Arena::open(memfd(header.as_bytes(), SIZE, seals)));
        assert_eq!((code, item, found), (Code::MemfdSeals, "seals".into(), format!("{:#x}", seals.bits())));
        assert!(expected.starts_with("0x7"), "{expected}");
    }
    // No seals can be put on it.
    let plain = memfd_create("plain", MemfdFlags::empty()).unwrap();
    ftruncate(&plain, SIZE).unwrap();
    assert_eq!(code_and_item(Arena::open(plain)), (Code::MemfdSeals, "seals".into()));
}

#[test]
fn a_memfd_that_can_only_be_read_or_appended_to() {
    let arena = arena();
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR | OFlags::APPEND, OFlags::PATH] {
        let path = format!("/proc/self/fd/{}", arena.fd().as_raw_fd());
        let again = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        assert_eq!(code_and_item(Arena::open(again)), (Code::Refused, "access mode".into()), "{flags:?}");
    }
}

#[test]
fn another_size_than_the_header_says() {
    let header = header();
    for (size, code) in
        [(SIZE - page(), Code::Truncated), (SIZE - 1, Code::Truncated), (SIZE + page(), Code::ImageHeader)]
    {
        let (got, item, found, expected) = told(Arena::open(memfd(header.as_bytes(), size, SEALS)));
        assert_eq!((got, item.as_str()), (code, "size"));
        assert_eq!((found, expected), (format!("a file of {size} bytes"), format!("{SIZE} bytes")));
    }
    let (code, item, found, _) = told(Arena::open(memfd(&[], 63, SEALS)));
    assert_eq!((code, item.as_str(), found.as_str()), (Code::Truncated, "header", "63 bytes"));
    assert_eq!(told(Arena::open(memfd(&[], 0, SEALS))).0, Code::Truncated);
}

#[test]
fn a_header_of_another_version_is_a_mismatch_and_not_corruption() {
    for (version, code) in [(0, Code::VersionOlder), (2, Code::VersionNewer), (u32::MAX, Code::VersionNewer)] {
        let (got, item, found, expected) = refused(|header| header.version = version.into());
        assert_eq!((got, got.class(), item.as_str()), (code, Class::Mismatch, "version"));
        assert_eq!((found, expected.as_str()), (format!("kho-arena-v{version}"), "kho-arena-v1"));
    }
}

#[test]
fn a_header_of_a_big_endian_machine_is_named_so() {
    let (code, item, ..) = refused(|header| {
        header.version = COMPAT.version().swap_bytes().into();
        header.byte_order = 0x0403_0201.into();
        header.page_shift = 12_u32.swap_bytes().into();
    });
    assert_eq!((code, item.as_str()), (Code::ForeignEndian, "byte_order"));
    assert_eq!(refused(|header| header.byte_order = 0x0102_0305.into()).0, Code::ImageHeader);
}

#[test]
fn a_header_of_another_page_size() {
    let other = Geometry::ALL.into_iter().find(|&other| other != host_geometry().unwrap()).unwrap();
    let (code, item, found, _) = refused(|header| header.page_shift = other.page_shift().into());
    assert_eq!((code, item, found), (Code::PageSize, "page_shift".into(), format!("{other} pages")));
    for shift in [0, 13, 63, 64, u32::MAX] {
        let (code, item, found, _) = refused(|header| header.page_shift = shift.into());
        assert_eq!((code, item.as_str(), found), (Code::PageSize, "page_shift", shift.to_string()));
    }
}

#[test]
fn a_header_with_one_wrong_field() {
    let base = 1_u64 << 40;
    let told = |change: &dyn Fn(&mut Header)| {
        let (code, item, ..) = refused(change);
        (code, item)
    };
    assert_eq!(told(&|header| header.magic[7] ^= 1), (Code::Magic, "magic".into()));
    assert_eq!(told(&|header| header.reserved = 1.into()), (Code::Reserved, "reserved".into()));
    for wrong in [0, page(), base + page(), SIZE / 2] {
        assert_eq!(told(&|header| header.base = wrong.into()), (Code::ImageHeader, "base".into()), "{wrong:#x}");
    }
    for wrong in [0, page(), SIZE - 1, u64::MAX] {
        assert_eq!(told(&|header| header.size = wrong.into()), (Code::ImageHeader, "size".into()), "{wrong:#x}");
    }
    // The last multiple of SIZE there is, and a size that only matters with the base.
    assert_eq!(told(&|header| header.base = (SIZE.wrapping_neg()).into()), (Code::TooLarge, "size".into()));
    assert_eq!(told(&|header| header.size = (1 << 62).into()), (Code::ImageHeader, "base".into()));
    for (addr, size) in [
        (0, 1),
        (base, 8),
        (base + page(), 0),
        (base + SIZE - 8, 9),
        (base + SIZE, 1),
        (u64::MAX, u64::MAX),
        (base - 8, 8),
    ] {
        let root = |header: &mut Header| (header.fdt_addr, header.fdt_size) = (addr.into(), size.into());
        assert_eq!(told(&root), (Code::Outside, "fdt_addr".into()), "{addr:#x} {size:#x}");
    }
    let mut bytes = header().as_bytes().to_vec();
    bytes.resize(page() as usize, 0);
    bytes[page() as usize - 1] = 9;
    let fault = Arena::open(memfd(&bytes, SIZE, SEALS)).unwrap_err();
    assert_eq!((fault.code(), fault.at().offset), (Code::Reserved, Some(page() - 1)));
}

proptest! {
    #[test]
    fn any_header_is_an_error_or_makes_sense(
        magic in any::<bool>(), bytes in any::<[u8; 64]>(), words in any::<[u8; 8]>(), size in any::<u64>(),
    ) {
        let mut header = Header::new_zeroed();
        header.as_mut_bytes().copy_from_slice(&bytes);
        if magic {
            // Mostly right, with single bytes changed.
            header = self::header();
            let at = usize::from(words[0]) % 64;
            header.as_mut_bytes()[at] = words[1];
        }
        let size = if words[2] < 200 { SIZE } else { size };
        if let Ok(facts) = header::check(&header, size) {
            prop_assert_eq!(facts.size(), size);
            prop_assert_eq!(facts.header(), header);
        }
    }
}
