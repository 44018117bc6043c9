//! Handovers between real processes whose files or arena are not what was handed over.
#![cfg(feature = "std")]

mod common;
#[path = "common/whole.rs"]
mod whole;

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use kho::files::Beside as _;
use kho::handover::{Outgoing, Verdict};
use kho::mem::Arena;
use kho::transport::{Arrival, Bundle, Cargo, NotTaken, Ticket};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, SeekFrom};

use common::*;
use whole::*;

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[
        ("files", leave_with_other_files),
        ("files: arrive", refuse_other_files),
        ("arena", leave_with_another_arena),
        ("arena: arrive", || println!("told: {}", Arrival::take().unwrap_err())),
        ("version", leave_with_a_newer_arena),
        ("version: arrive", go_back_unread),
    ]);
}

#[test]
fn files_that_are_not_what_was_handed_over_are_refused() {
    for (how, says) in [
        ("swapped", "file-identity: files[0x1].inode: found 0x"),
        ("shorter", "file-identity: files[0x1].size: found 0x1869f, expected 0x186a0"),
        ("sealed", "file-identity: files[0x1].seals: found 0x8, expected 0x0"),
        ("moved", "file-identity: files[0x1].position: found 0x4e, expected 0x4d"),
        ("non-blocking", "file-identity: files[0x1].status flags: found 0x"),
        ("mode", "file-identity: files[0x1].mode: found 0x180, expected 0x1ff"),
        ("a pipe", "file-identity: files[0x1].kind: found a pipe, expected a memfd"),
        ("missing", "token-missing: files[0x1]: no file came with that token"),
        ("another", "file-identity: files[0x2]: a file that no record names"),
    ] {
        let mut command = child(&me(), "files");
        command.env(HOW, how);
        let text = succeeds(command);
        assert!(text.contains(&format!("told: error: /files: {says}")), "{how}: {text}");
        assert_eq!(text.matches("told: ").count(), 1, "{text}");
    }
}

fn leave_with_other_files() {
    let finished = all().finish().unwrap();
    let bundle = finished.memory();
    // A third holder of the open file.
    let one = bundle.files().get(1).unwrap();
    let other = noisy(1, SIZE, 77);
    let (pipe, _writer) = std::io::pipe().unwrap();
    let mut files: Vec<(u64, BorrowedFd<'_>)> = bundle.files().iter().collect();
    match std::env::var(HOW).unwrap().as_str() {
        "swapped" => files[0].1 = other.as_fd(),
        "shorter" => rustix::fs::ftruncate(one, SIZE - 1).unwrap(),
        "sealed" => rustix::fs::fcntl_add_seals(one, SealFlags::WRITE).unwrap(),
        "moved" => drop(rustix::fs::seek(one, SeekFrom::Current(1)).unwrap()),
        "non-blocking" => rustix::fs::fcntl_setfl(one, OFlags::NONBLOCK).unwrap(),
        "mode" => rustix::fs::fchmod(one, 0o600.into()).unwrap(),
        "a pipe" => files[0].1 = pipe.as_fd(),
        "missing" => drop(files.remove(0)),
        "another" => files.push((2, other.as_fd())),
        other => panic!("no way {other}"),
    }
    let arena = writable(bundle.arena());
    let mut cargo = Cargo::new(bundle.arena().nonce(), arena.as_fd());
    cargo.extend(files);
    panic!("{}", cargo.exec(&next("files: arrive")));
}

fn refuse_other_files() {
    let (registry, _) = registry();
    let refused = Arrival::take().unwrap().unwrap().incoming.plan(&registry).accept().unwrap_err();
    for finding in refused.findings.kept() {
        println!("told: {finding}");
    }
    let wrong: Vec<&str> =
        refused.nodes.iter().filter(|node| node.verdict == Verdict::Refused).map(|node| node.name.as_str()).collect();
    assert_eq!(wrong, ["files"]);
}

#[test]
fn an_arena_that_is_none_is_told_at_arrival() {
    for (how, says) in [
        ("plain", "memfd-seals: seals: found 0x1, expected 0x7, and none against writing"),
        ("empty", "truncated: header at offset 0x0: found 0 bytes, expected a header of 64 bytes"),
        ("zero", "magic: magic at offset 0x0: found [00, 00, 00, 00, 00, 00, 00, 00], expected [7f,"),
        ("cut", "truncated: size at offset 0x20: found a file of 8192 bytes, expected 67108864 bytes"),
        ("unfinished", "no-handover: fdt_addr: an arena that was not finished"),
        ("of another handover", "file-identity: nonce: found an arena of the handover 0x"),
        ("a pipe", "file-kind: descriptor: found Fifo, expected a memfd"),
        ("a file", "file-kind: descriptor: found a"),
    ] {
        let mut command = child(&me(), "arena");
        command.env(HOW, how);
        let text = succeeds(command);
        assert!(text.contains(&format!("told: {says}")), "{how}: {text}");
    }
}

fn leave_with_another_arena() {
    let finished = all().finish().unwrap();
    let arena = finished.memory().arena();
    let made = |bytes: &[u8], size: u64| {
        let file = rustix::fs::memfd_create(c"arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, size).unwrap();
        let file = File::from(file);
        file.write_all_at(bytes, 0).unwrap();
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL).unwrap();
        OwnedFd::from(file)
    };
    let mut header = [0; 64];
    File::from(arena.read_only_fd().unwrap()).read_exact_at(&mut header, 0).unwrap();
    let mut nonce = arena.nonce();
    let other: OwnedFd = match std::env::var(HOW).unwrap().as_str() {
        "plain" => memfd("not an arena"),
        "empty" => made(&[], 0),
        "zero" => made(&[], 1 << 20),
        "cut" => made(&header, 8192),
        "unfinished" => {
            let new = Outgoing::new(Bundle::new(1 << 20).unwrap()).into_memory();
            nonce = new.arena().nonce();
            new.into_arena().into_fd().unwrap()
        }
        "of another handover" => {
            nonce ^= 1;
            writable(arena)
        }
        "a pipe" => std::io::pipe().unwrap().0.into(),
        "a file" => File::open(me()).unwrap().into(),
        other => panic!("no way {other}"),
    };
    panic!("{}", Cargo::new(nonce, other.as_fd()).exec(&next("arena: arrive")));
}

#[test]
fn an_arena_of_another_version_goes_back_unread() {
    let says = "came back: version-newer: version at offset 0x8: found kho-arena-v2, expected kho-arena-v1\n";
    let text = succeeds(child(&me(), "version"));
    assert!(text.contains(says), "{text}");
}

/// What no safe interface gives out: a way to write to an arena that is in use.
fn writable(arena: &Arena) -> OwnedFd {
    let reader = arena.read_only_fd().unwrap();
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap().into()
}

fn set_version(arena: BorrowedFd<'_>, version: u32) {
    File::from(arena.try_clone_to_owned().unwrap()).write_all_at(&version.to_le_bytes(), 8).unwrap();
}

fn leave_with_a_newer_arena() {
    let finished = all().finish().unwrap();
    set_version(writable(finished.memory().arena()).as_fd(), 2);
    panic!("{}", finished.exec(&next("version: arrive"), Some(&Ticket::current().unwrap())));
}

/// The successor of the older version, and after it the predecessor again, which understands its own.
fn go_back_unread() {
    let NotTaken { fault, parcel } = Arrival::take().unwrap_err();
    let parcel = parcel.unwrap();
    if let Some(reason) = &parcel.reason {
        println!("came back: {reason}");
        set_version(parcel.arena.as_fd(), 1);
        let (registry, handles) = registry();
        restore_by(Arrival::of(*parcel).unwrap().incoming, &registry, &handles);
        return;
    }
    panic!("{}", parcel.go_back(&fault.to_string()));
}
