use std::os::fd::AsFd as _;

use proptest::prelude::*;
use rustix::fs::fstat;

use super::*;
use crate::abi::session::ARENA;

fn root(files: &[u64]) -> Root {
    Root { nonce: 7, stamp: 9, arena: ARENA, files: files.to_vec() }
}

/// The bytes of a record of two files, changed.
#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<u8>), code: Code, says: &str) {
    let mut bytes = root(&[1, 2]).encode();
    change(&mut bytes);
    let fault = Root::decode(&bytes).unwrap_err();
    assert_eq!((fault.code(), fault.to_string().as_str()), (code, says));
}

#[test]
fn byte_for_byte() {
    let mut expected = b"\x7fKHOSES\n\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0".to_vec();
    expected.extend_from_slice(b"\xfe\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01");
    let root = root(&[0x0102_0304_0506_0708]);
    assert_eq!(root.encode(), expected);
    assert_eq!(Root::decode(&expected).unwrap(), root);
}

#[test]
fn a_version_is_told_before_anything_else_of_it() {
    let newer = "version-newer: root: found kho-session-v2, expected kho-session-v1";
    refused(|bytes| bytes[8] = 2, Code::VersionNewer, newer);
    // Longer, shorter, with other fields: that is the newer version's matter.
    refused(
        |bytes| {
            bytes.truncate(12);
            bytes[8] = 2;
        },
        Code::VersionNewer,
        newer,
    );
    refused(
        |bytes| {
            bytes[8] = 2;
            bytes[12..].fill(0xff);
            bytes.resize(usize_of(MAX_BYTES) + 100, 0);
        },
        Code::VersionNewer,
        newer,
    );
    let older = "version-older: root: found kho-session-v0, expected kho-session-v1";
    refused(|bytes| bytes[8] = 0, Code::VersionOlder, older);
}

#[test]
fn what_is_no_record() {
    let magic = "magic: root.magic: found 0x004b484f5345530a, expected 0x7f4b484f5345530a";
    refused(|bytes| bytes[0] = 0, Code::Magic, magic);
    refused(Vec::clear, Code::Truncated, "truncated: root.head: found 0 bytes, expected 48 bytes");
    refused(|b| b.truncate(47), Code::Truncated, "truncated: root.head: found 47 bytes, expected 48 bytes");
    refused(|b| b.truncate(11), Code::Truncated, "truncated: root.head: found 11 bytes, expected 48 bytes");
    refused(|b| b.truncate(63), Code::Truncated, "truncated: root.tokens: found 15 bytes, expected 16 bytes");
    refused(|b| b.push(0), Code::ParcelCount, "parcel-count: root.tokens: found 17 bytes, expected 16 bytes");
    refused(|b| b[40] = 1, Code::ParcelCount, "parcel-count: root.tokens: found 16 bytes, expected 8 bytes");
    refused(|b| b[12] = 1, Code::Reserved, "reserved: root.reserved at offset 0xc: found 1, expected 0");
}

#[test]
fn more_files_than_any_session_has() {
    let says = "too-large: root.files at offset 0x28: found 1048577, expected at most 1048576";
    refused(|bytes| bytes[40..48].copy_from_slice(&(MAX_FILES + 1).to_le_bytes()), Code::TooLarge, says);
    let says = format!("too-large: root.files at offset 0x28: found {}, expected at most 1048576", u64::MAX);
    refused(|bytes| bytes[40..48].fill(0xff), Code::TooLarge, &says);
    refused(
        |bytes| bytes[40..48].copy_from_slice(&MAX_FILES.to_le_bytes()),
        Code::Truncated,
        "truncated: root.tokens: found 16 bytes, expected 8388608 bytes",
    );
}

#[test]
fn tokens_that_are_taken() {
    let says = |at: u64, token: u64| {
        format!("token-duplicate: root.tokens at offset {at:#x}: {token:#x}, which is taken or not for files")
    };
    refused(|bytes| bytes[56] = 1, Code::TokenDuplicate, &says(56, 1));
    for token in [ROOT, ARENA, RESERVED] {
        refused(|bytes| bytes[48..56].copy_from_slice(&token.to_le_bytes()), Code::TokenDuplicate, &says(48, token));
    }
    // The arena under the token of a file, and under the root's.
    refused(|bytes| bytes[32..40].copy_from_slice(&2_u64.to_le_bytes()), Code::TokenDuplicate, &says(56, 2));
    let says = "token-duplicate: root.arena at offset 0x20: the token of the root";
    refused(|bytes| bytes[32..40].fill(0xff), Code::TokenDuplicate, says);
    assert!(Root::decode(&root(&[RESERVED - 1]).encode()).is_ok());
}

#[test]
fn the_memfd_of_a_record_never_changes() {
    let root = root(&[3, 1, 1 << 63]);
    let file = root.memfd().unwrap();
    assert!(rustix::io::pwrite(&file, b"x", 0).is_err() && rustix::fs::ftruncate(&file, 0).is_err());
    assert!(fcntl_add_seals(&file, SealFlags::SHRINK).is_err());
    assert_eq!(fstat(&file).unwrap().st_size, 48 + 3 * 8);
    assert_eq!(Root::read(file).unwrap(), root);
}

#[test]
fn a_root_that_could_change_or_is_no_memfd() {
    let file = |seals| {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&file, &root(&[]).encode()).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        Root::read(file)
    };
    assert!(file(SEALS).is_ok());
    let fault = file(SealFlags::SHRINK | SealFlags::GROW).unwrap_err();
    assert_eq!(fault.to_string(), "memfd-seals: root.seals: found 0x6, expected 0xe at least");
    let (pipe, _writer) = std::io::pipe().unwrap();
    assert_eq!(Root::read(pipe.into()).unwrap_err().code(), Code::FileKind);
}

#[test]
fn a_file_that_is_longer_than_any_record() {
    let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut bytes = root(&[]).encode();
    bytes[40..48].copy_from_slice(&MAX_FILES.to_le_bytes());
    rustix::io::write(&file, &bytes).unwrap();
    rustix::fs::ftruncate(file.as_fd(), 1 << 40).unwrap();
    fcntl_add_seals(&file, SEALS).unwrap();
    assert_eq!(Root::read(file).unwrap_err().code(), Code::ParcelCount);
}

proptest! {
    #[test]
    fn any_record_comes_back(
        nonce: u64, stamp: u64, files in proptest::collection::hash_set(0..RESERVED, 0..40)
    ) {
        let root = Root { nonce, stamp, arena: ARENA, files: files.into_iter().collect() };
        prop_assert_eq!(Root::decode(&root.encode()).unwrap(), root);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = Root::decode(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_head_are_read_as_they_stand(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120), files in 0..12_u8
    ) {
        bytes.splice(..0, *b"\x7fKHOSES\n\x01\0\0\0\0\0\0\0");
        if let Some(field) = bytes.get_mut(40..48) {
            field.fill(0);
            field[0] = files;
        }
        if let Ok(root) = Root::decode(&bytes) {
            prop_assert_eq!(root.encode(), bytes);
        }
    }
}
