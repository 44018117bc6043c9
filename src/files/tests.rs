//! What is a file that can travel, and whether what came is what was sent.

use alloc::string::{String, ToString as _};
use alloc::vec;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::FdFlags;

use super::*;
use crate::abi::files::NODE;
use crate::fdt::Fdt;
use crate::handover::{Incoming, Outgoing, Registry};
use crate::mem::{Arena, PhysRange, read_wire};
use crate::transport::Bundle;

pub(super) fn memfd(len: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, len).unwrap();
    file
}

fn rejected(files: &mut Files, token: u64, file: impl Into<OwnedFd>) -> String {
    let file = file.into();
    let number = file.as_raw_fd();
    let rejected = files.add(token, file).unwrap_err();
    assert_eq!(rejected.file.as_raw_fd(), number, "the file comes back");
    assert_eq!(rejected.to_string(), rejected.fault.to_string());
    rejected.fault.to_string()
}

#[test]
fn a_token_and_a_file_stand_once() {
    let mut files = Files::new();
    let one = memfd(1);
    let again = one.try_clone().unwrap();
    let inode = rustix::fs::fstat(&one).unwrap().st_ino;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", one.as_raw_fd());
    let opened_anew = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    files.add(5, one).unwrap();
    assert_eq!(rejected(&mut files, 5, memfd(2)), "token-duplicate: files[0x5].token: a token that is taken");
    let says = format!("file-duplicate: files[0x6].inode: inode {inode}, which has the token 0x5 already");
    assert_eq!(rejected(&mut files, 6, again.try_clone().unwrap()), says);
    assert_eq!(rejected(&mut files, 6, opened_anew), says);
    assert_eq!(files.len(), 1);
    // Taken back, both are free again.
    assert!(files.take(5).is_some() && files.take(5).is_none() && files.is_empty());
    files.add(5, memfd(3)).unwrap();
    files.add(6, again).unwrap();
}

#[test]
fn what_does_not_travel_comes_back_with_the_reason() {
    let mut files = Files::new();
    let refused = |what: &str| format!("file-kind: files[0x1].kind: {what}");
    let folder = File::open("/").unwrap();
    assert_eq!(rejected(&mut files, 1, folder), refused("a directory, which the successor opens by its path"));
    let memfd = memfd(0);
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    let by_path = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let says = refused("an O_PATH descriptor, which names a file that it has not opened");
    assert_eq!(rejected(&mut files, 1, by_path), says);
    let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
    let says = refused("inotify, an anonymous inode that cannot be told from another of its kind");
    assert_eq!(rejected(&mut files, 1, watch), says);
    let of_proc = File::open("/proc/self/maps").unwrap();
    let says = refused("a file of /proc, which speaks of what it was opened in: the successor opens it anew");
    assert_eq!(rejected(&mut files, 1, of_proc), says);
    assert!(files.is_empty());
}

#[test]
fn a_file_of_tmpfs_is_a_memfd_when_it_has_no_name() {
    let mut files = Files::new();
    let Ok(named) = tempfile::Builder::new().tempfile_in("/dev/shm") else {
        eprintln!("needs a tmpfs at /dev/shm");
        return;
    };
    assert_eq!(Kind::of(named.as_file()).unwrap(), Kind::Regular);
    let file = named.into_file();
    // tempfile removes the name together with the path.
    assert_eq!(Kind::of(&file).unwrap(), Kind::Memfd);
    files.add(1, file.into()).unwrap();
}

/// A handover of these files, as it arrives: its own files come with it, or those that are given.
pub(super) fn handed_over(files: Vec<(u64, OwnedFd)>) -> (Incoming<Bundle>, PhysRange) {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    for (token, file) in files {
        outgoing.preserve_file(token, file).unwrap();
    }
    let finished = outgoing.finish().unwrap();
    let fdt = finished.root_fdt().unwrap();
    let fdt = Fdt::parse(&fdt).unwrap();
    let node = fdt.root().child(NODE).unwrap();
    let word = |name| node.property(name).unwrap().u64_native().unwrap();
    let blob = PhysRange::new(crate::mem::PhysAddr::new(word("preserved-data")), word("blob-size")).unwrap();
    let (mut bundle, root) = finished.into_parts();
    let files = core::mem::take(bundle.files_mut());
    let arena = Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap();
    (Incoming::new(Bundle::of(arena, files), root.start()), blob)
}

/// What the plan says of it, without `error: /files: `.
pub(super) fn told(incoming: Incoming<Bundle>) -> Vec<String> {
    let mut registry = Registry::new();
    registry.add(NODE, FilesNode);
    let refused = incoming.plan(&registry).accept().unwrap_err();
    let errors = refused.findings.kept().iter().map(|one| one.to_string().replace("error: /files: ", ""));
    errors.filter(|text| !text.starts_with("warning: ")).collect()
}

#[test]
fn hundreds_of_files_arrive_as_they_were() {
    let files: Vec<(u64, OwnedFd)> = (0..300).map(|token| (token * 7 % 300, memfd(token))).collect();
    let inodes: BTreeMap<u64, u64> =
        files.iter().map(|(token, file)| (*token, rustix::fs::fstat(file).unwrap().st_ino)).collect();
    rustix::fs::seek(&files[1].1, SeekFrom::Start(99)).unwrap();
    rustix::fs::fcntl_add_seals(&files[2].1, SealFlags::WRITE).unwrap();
    rustix::io::fcntl_setfd(&files[3].1, FdFlags::empty()).unwrap();
    let (incoming, _) = handed_over(files);
    let mut registry = Registry::new();
    let handle = registry.add(NODE, FilesNode);
    let plan = incoming.plan(&registry);
    assert_eq!(plan.findings().to_string(), "");
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let files = restored.take(&handle).unwrap();
    assert!(restored.memory().files().is_empty(), "they are the successor's now");
    let came: BTreeMap<u64, u64> =
        files.iter().map(|(token, file)| (token, rustix::fs::fstat(file).unwrap().st_ino)).collect();
    assert_eq!(came, inodes);
    assert_eq!(rustix::fs::seek(files.get(7).unwrap(), SeekFrom::Current(0)).unwrap(), 99);
    assert_eq!(rustix::fs::fcntl_get_seals(files.get(14).unwrap()).unwrap(), SealFlags::WRITE);
    let (_, released) = restored.finish();
    assert!(released.unwrap() > 2);
}

#[test]
fn no_files_are_no_node() {
    let outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    let finished = outgoing.finish().unwrap();
    assert!(Fdt::parse(&finished.root_fdt().unwrap()).unwrap().root().child(NODE).is_none());
    let (bundle, root) = finished.into_parts();
    let arena = Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap();
    let incoming = Incoming::new(Bundle::of(arena, Files::new()), root.start());
    assert_eq!(told(incoming), ["component-missing: expected kho-files-v1"]);
}

#[test]
fn a_file_that_is_taken_back_is_not_in_the_node() {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    outgoing.preserve_file(1, memfd(1)).unwrap();
    outgoing.preserve_file(2, memfd(2)).unwrap();
    let free = outgoing.memory().arena().free_pages();
    let cancelled = outgoing.finish().unwrap().cancel().unwrap();
    assert_eq!((cancelled.memory().files().len(), cancelled.memory().arena().free_pages()), (2, free));
    // The node is made when it leaves: what was taken back is not in it.
    let mut outgoing = cancelled;
    assert!(outgoing.unpreserve_file(1).is_some());
    let finished = outgoing.finish().unwrap();
    assert_eq!(finished.memory().files().iter().map(|(token, _)| token).collect::<Vec<_>>(), [2]);
}

#[test]
fn missing_and_unknown_descriptors_are_all_told() {
    let (incoming, _) = handed_over(vec![(1, memfd(1)), (2, memfd(2)), (3, memfd(3))]);
    let root = incoming.root();
    let mut bundle = incoming.into_memory();
    let mut files = core::mem::take(bundle.files_mut());
    let came = vec![(2, files.take(2).unwrap()), (8, memfd(1)), (9, memfd(1))];
    let bundle = Bundle::of(Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap(), Files::received(came));
    assert_eq!(
        told(Incoming::new(bundle, root)),
        [
            "token-missing: files[0x1]: no file came with that token",
            "token-missing: files[0x3]: no file came with that token",
            "file-identity: files[0x8]: a file that no record names",
            "file-identity: files[0x9]: a file that no record names",
        ]
    );
}

/// Three files, one record of which is changed.
fn changed(which: usize, change: impl FnOnce(&mut Record)) -> Vec<String> {
    changed_of(vec![(1, memfd(1)), (2, memfd(2)), (3, memfd(3))], which, change)
}

/// These files, one record of which is changed.
pub(super) fn changed_of(files: Vec<(u64, OwnedFd)>, which: usize, change: impl FnOnce(&mut Record)) -> Vec<String> {
    let (incoming, blob) = handed_over(files);
    let arena = incoming.memory().arena();
    let table: Table = read_wire(arena, blob.start()).unwrap();
    // Behind the two words of the block.
    let at = crate::mem::PhysAddr::new(table.records.get() + 16 + (which * size_of::<Record>()) as u64);
    let mut record: Record = read_wire(arena, at).unwrap();
    change(&mut record);
    let file = File::from(arena.fd().try_clone_to_owned().unwrap());
    file.write_all_at(record.as_bytes(), at.get() - arena.base().get()).unwrap();
    told(incoming)
}

#[test]
fn records_that_lie() {
    assert_eq!(
        changed(1, |record| record.token = 1.into()),
        [
            "token-duplicate: files[0x1]: records[1] with a token that one before it has",
            "file-identity: files[0x2]: a file that no record names",
        ]
    );
    for (change, says) in [
        (
            (|record| record.kind = 9.into()) as fn(&mut Record),
            "file-identity: files[0x2].kind: found a memfd, expected an epoll",
        ),
        (
            |record| record.kind = 0.into(),
            "file-kind: files[0x2].kind: found 0, expected 1 to 12, the kinds that are known here",
        ),
        (
            |record| record.kind = u32::MAX.into(),
            "file-kind: files[0x2].kind: found 4294967295, expected 1 to 12, the kinds that are known here",
        ),
        (|record| record.reserved = 7.into(), "reserved: files[0x2].reserved: found 7, expected 0"),
        (|record| record.more = u64::MAX.into(), "reserved: files[0x2].more: found 18446744073709551615, expected 0"),
        (|record| record.size = 3.into(), "file-identity: files[0x2].size: found 0x2, expected 0x3"),
        (|record| record.seals = 2.into(), "file-identity: files[0x2].seals: found 0x0, expected 0x2"),
        (
            |record| record.pos = (1 << 63).into(),
            "file-identity: files[0x2].position: found 0x0, expected 0x8000000000000000",
        ),
    ] {
        assert_eq!(changed(1, change), [says]);
    }
}

#[test]
fn every_file_is_close_on_exec_whatever_it_was() {
    let (incoming, _) = handed_over(vec![(1, memfd(1)), (2, memfd(2))]);
    rustix::io::fcntl_setfd(incoming.memory().files().get(1).unwrap(), FdFlags::empty()).unwrap();
    let mut registry = Registry::new();
    let handle = registry.add(NODE, FilesNode);
    let mut restored = incoming.plan(&registry).accept().unwrap().restore().unwrap();
    for (token, file) in restored.take(&handle).unwrap().iter() {
        assert_eq!(rustix::io::fcntl_getfd(file).unwrap(), FdFlags::CLOEXEC, "{token}");
    }
}

#[test]
fn a_table_that_lies_about_its_records() {
    let counted = |count: u64| {
        let (incoming, blob) = handed_over(vec![(1, memfd(1)), (2, memfd(2))]);
        let arena = incoming.memory().arena();
        let file = File::from(arena.fd().try_clone_to_owned().unwrap());
        file.write_all_at(&count.to_le_bytes(), blob.start().get() + 8 - arena.base().get()).unwrap();
        told(incoming)
    };
    assert_eq!(counted(3), ["block-count: records.count: found 3, expected 2"]);
    assert_eq!(counted(1), ["block-count: records.count: found 1, expected at least 2"]);
    assert_eq!(counted(u64::MAX), ["block-count: records.count: found 18446744073709551615, expected 2"]);
}
