//! Predecessors that close, stall, flood and lie, against a successor that must refuse without harm, or take over where
//! nobody else can. The predecessor is a child that speaks the protocol by hand.
#![cfg(feature = "std")]

mod common;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/living.rs"]
mod service;

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use kho::files::Beside as _;
use kho::handover::{Finished, Outgoing};
use kho::payload::Bytes;
use kho::report::Fault;
use kho::transport::{Bundle, Call, Patience};
use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use rustix::process::{Pid, Signal};

use common::*;
use raw::*;
use service::*;

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[("predecessor", || drop(predecessor(&std::env::var(HOW).unwrap())))]);
}

/// Where a predecessor does what it was told: all others are as they should be.
fn here(how: &str, place: &str) -> Option<()> {
    if how == format!("closes {place}") {
        return None;
    }
    if how == format!("stops {place}") {
        rustix::process::kill_process(rustix::process::getpid(), Signal::STOP).unwrap();
        std::thread::sleep(millis(60_000));
    }
    if how == format!("stalls {place}") {
        std::thread::sleep(millis(60_000));
    }
    Some(())
}

fn handover() -> Finished<Bundle> {
    let mut outgoing = Outgoing::of(Bundle::new(1 << 20).unwrap(), &MANIFEST);
    outgoing.preserve_file(1, memfd("log")).unwrap();
    outgoing.preserve_file(2, memfd("late")).unwrap();
    outgoing.preserve("state", &Bytes { made_of: STATE, bytes: &42_u64.to_le_bytes() }).unwrap();
    outgoing.finish().unwrap()
}

fn eventfd(value: u32) -> OwnedFd {
    rustix::event::eventfd(value, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn sealed(size: u64, seals: SealFlags) -> OwnedFd {
    let file = rustix::fs::memfd_create(c"arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

fn predecessor(how: &str) -> Option<()> {
    let raw = Raw::accept(Path::new(&std::env::var(DOOR).unwrap()));
    let many = |kind: u32, text: &[u8]| {
        let file = memfd("");
        drop(raw.send(&prefixed(kind, text.len(), text), &[file.as_fd(); 253]));
    };
    raw.hears(HELLO);
    raw.hear()?;
    here(how, "before hello")?;
    let note = MANIFEST.note();
    match how {
        "says a version to come" => raw.say(HELLO, &hello(2, note)),
        "says a version before all" => raw.say(HELLO, &hello(0, note)),
        "says no magic" => raw.say(HELLO, &[b'a'; 40]),
        "says a note that is none" => raw.say(HELLO, &hello(1, &[0xff; 40])),
        "refuses" => raw.say(REFUSED, b"not \x1b[31myou"),
        "sends descriptors with its hello" => many(HELLO, &hello(1, note)),
        "says more without end" => while raw.send(&prefixed(MORE, 1 << 20, &[0; 32 << 10]), &[]).is_ok() {},
        "says more than fits" => drop(raw.send(&prefixed(HELLO, 60_000, &[0; 60_000]), &[])),
        _ => raw.say(HELLO, &hello(1, note)),
    }
    here(how, "after hello")?;

    let finished = handover();
    let bundle = finished.memory();
    let arena = bundle.arena().read_only_fd().unwrap();
    let arena: OwnedFd = {
        let path = format!("/proc/self/fd/{}", arena.as_raw_fd());
        File::options().read(true).write(true).open(path).unwrap().into()
    };
    let file = |token| bundle.files().get(token).unwrap();
    let swapped = memfd("log");
    let event = eventfd(1);
    let early = match how {
        "swaps a memfd" => swapped.as_fd(),
        "swaps a memfd for an eventfd" => event.as_fd(),
        _ => file(1),
    };
    match how {
        "sends too many files" => drop(raw.send(&tokens(&[1, 5, 6, 7]), &[early; 4])),
        "sends files without end" => while raw.send(&tokens(&[1; 3]), &[early; 3]).is_ok() {},
        "sends a token twice" => drop(raw.send(&tokens(&[1, 1]), &[early; 2])),
        "sends fewer descriptors than tokens" => drop(raw.send(&tokens(&[1, 2]), &[early])),
        "sends no descriptors" => drop(raw.send(&tokens(&[1]), &[])),
        _ => drop(raw.send(&tokens(&[1]), &[early])),
    }
    here(how, "during files")?;
    match how {
        "sends descriptors with prepare" => many(PREPARE, b""),
        "commits too early" => raw.say(COMMIT, b""),
        _ => raw.say(PREPARE, b""),
    }
    raw.hears(PREPARED);
    here(how, "after prepared")?;

    let nonce = bundle.arena().nonce();
    let (nonce, version) = match how {
        "sends another nonce" => (nonce ^ 1, 1),
        "sends a parcel to come" => (nonce, 2),
        _ => (nonce, 1),
    };
    let files = match how {
        "announces a million files" => 1_000_000,
        "announces more files than it sends" => 2,
        _ => 1,
    };
    let (reader, _writer) = std::io::pipe().unwrap();
    let baton: OwnedFd = match how {
        "gives a pipe for the baton" => reader.into(),
        "gives a pipe that does not block" => {
            let reader: OwnedFd = reader.into();
            rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
            reader
        }
        "gives a file for the baton" => {
            let file = memfd("\x01\0\0\0\0\0\0\0");
            rustix::fs::fcntl_setfl(&file, OFlags::NONBLOCK).unwrap();
            file
        }
        "gives a baton that blocks" => rustix::event::eventfd(1, EventfdFlags::CLOEXEC).unwrap(),
        "gives a baton that is taken" => eventfd(0),
        "gives a baton that is marked" => eventfd(2),
        "gives a baton of three" => eventfd(3),
        _ => eventfd(1),
    };
    let arena: OwnedFd = match how {
        "gives an eventfd for the arena" => eventfd(1),
        "gives a pipe for the arena" => std::io::pipe().unwrap().0.into(),
        "gives an arena that is not sealed" => sealed(1 << 20, SealFlags::empty()),
        "gives an arena that is empty" => sealed(0, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL),
        "gives an arena that was cut" => {
            let mut header = [0; 64];
            File::from(arena).read_exact_at(&mut header, 0).unwrap();
            let cut = sealed(4096, SealFlags::empty());
            File::from(cut.try_clone().unwrap()).write_all_at(&header, 0).unwrap();
            rustix::fs::fcntl_add_seals(&cut, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
            cut
        }
        "cuts the arena afterwards" => {
            assert!(rustix::fs::ftruncate(&arena, 0).is_err(), "it is sealed");
            arena
        }
        _ => arena,
    };
    let own = own_pidfd();
    let (flags, with) = match how {
        "gives no baton" => (0, vec![arena.as_fd()]),
        "sends too few descriptors" => (HAS_BATON, vec![arena.as_fd(), baton.as_fd()]),
        "sends too many descriptors" => (HAS_BATON, vec![arena.as_fd(), baton.as_fd(), own.as_fd(), own.as_fd()]),
        "sends flags of nobody" => (HAS_BATON | 1 << 31, vec![arena.as_fd(), baton.as_fd(), own.as_fd()]),
        _ => (HAS_BATON, vec![arena.as_fd(), baton.as_fd(), own.as_fd()]),
    };
    match how {
        "aborts instead" => raw.say(ABORT, b"over budget"),
        _ => drop(raw.send(&head(version, flags, nonce, files), &with)),
    }
    here(how, "after half a parcel")?;
    match how {
        "sends a token early and late" => drop(raw.send(&tokens(&[1]), &[file(1)])),
        "sends more files than it announced" => drop(raw.send(&tokens(&[2, 3]), &[file(2); 2])),
        "aborts amid the parcel" => raw.say(ABORT, b"no room"),
        _ => drop(raw.send(&tokens(&[2]), &[file(2)])),
    }
    match how {
        "sends descriptors with the end" => drop(raw.send(&end(), &[file(1)])),
        _ => drop(raw.send(&end(), &[])),
    }
    here(how, "after the whole parcel")?;
    raw.hears(ACCEPTED);
    here(how, "after accepted")?;
    match how {
        "aborts, and has not taken it" => raw.say(ABORT, b"a lie"),
        "holds the baton" => {
            assert_eq!(value(&baton), 1);
            raw.say(ABORT, b"it is mine");
            std::thread::sleep(millis(60_000));
        }
        "dies with the baton" => {
            assert_eq!(value(&baton), 1);
            return None;
        }
        "serves" => {
            assert_eq!(value(&baton), 1);
            rustix::io::write(&baton, &2_u64.to_ne_bytes()).unwrap();
            raw.say(ABORT, b"it is mine");
        }
        "makes the baton block" => {
            assert_eq!(value(&baton), 1);
            rustix::fs::fcntl_setfl(&baton, OFlags::empty()).unwrap();
            std::thread::sleep(millis(60_000));
        }
        "says commit without end" => while raw.send(&prefixed(COMMIT, 0, b""), &[]).is_ok() {},
        _ => raw.say(COMMIT, b""),
    }
    println!("heard: {:?}", raw.rest());
    Some(())
}

/// What comes of an arrival from such a predecessor: of its turn, where it comes so far, with all restored if asked for.
fn successor(how: &str, patience: Patience) -> (Result<(), Fault>, &'static str, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let mut command = child(&me(), "predecessor");
    command.env(DOOR, &path).env(HOW, how).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + millis(20_000);
    let call = loop {
        match Call::connect(&path, &[]) {
            Ok(call) => break call,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(millis(1));
    };
    let start = Instant::now();
    let before = inheritable();
    let (result, step) = match call.patience(patience).at_most(3).arrive(&MANIFEST) {
        Err(error) => (Err(error.fault), "arrive"),
        Ok(arrival) => {
            assert_eq!(inheritable(), before, "{how}: all that came is close-on-exec");
            if how.starts_with("swaps") || how.starts_with("cuts") {
                let registry = kho::handover::Registry::of(&MANIFEST);
                let mut registry = registry;
                registry.read("state", kho::payload::BytesNode { made_of: STATE, limit: 8 });
                registry.add(kho::abi::files::NODE, kho::files::FilesNode);
                match arrival.incoming.plan(&registry).accept() {
                    Err(refused) => (Err(refused.findings.kept()[0].fault.clone()), "plan"),
                    Ok(accepted) => {
                        let restored = accepted.restore().unwrap();
                        let taken = arrival.turn.take().map(drop);
                        restored.finish().1.unwrap();
                        (taken, "take")
                    }
                }
            } else {
                (arrival.turn.take().map(drop), "take")
            }
        }
    };
    assert!(start.elapsed() < millis(10_000), "{how}: {:?}", start.elapsed());
    if how.starts_with("stalls") || how.starts_with("stops") {
        assert!(child.try_wait().unwrap().is_none(), "{how}: nobody was killed");
        let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::KILL);
    }
    (result, step, finished(child))
}

#[track_caller]
fn refused(how: &str, patience: Patience, says: &str) {
    let _alone = alone();
    let before = descriptors();
    let (result, step, said) = successor(how, patience);
    let told = format!("{step}: {}", result.expect_err(how));
    assert!(told.starts_with(says), "{how}: {told}\n{said}");
    assert_eq!(descriptors(), before, "{how}");
}

#[track_caller]
fn takes_over(how: &str, patience: Patience) -> String {
    let _alone = alone();
    let before = descriptors();
    let (result, step, said) = successor(how, patience);
    assert_eq!((result.map_err(|fault| fault.to_string()), step), (Ok(()), "take"), "{how}: {said}");
    assert_eq!(descriptors(), before, "{how}");
    said
}

#[test]
fn a_predecessor_that_closes_the_connection_in_any_state() {
    for place in ["before hello", "after hello", "during files", "after prepared", "after half a parcel"] {
        refused(&format!("closes {place}"), Patience::default(), "arrive: peer-closed: ");
    }
    // From here on the handover is the successor's, if nobody else is there.
    for place in ["after the whole parcel", "after accepted"] {
        takes_over(&format!("closes {place}"), Patience::default());
    }
}

#[test]
fn a_predecessor_that_stalls_or_is_stopped_in_any_state() {
    for how in ["stalls", "stops"] {
        for place in ["before hello", "after hello", "during files", "after prepared", "after half a parcel"] {
            refused(&format!("{how} {place}"), impatient(), "arrive: late: message: none in its time");
        }
        for place in ["after the whole parcel", "after accepted"] {
            takes_over(&format!("{how} {place}"), impatient());
        }
    }
}

#[test]
fn a_predecessor_that_lies_or_floods() {
    for (how, says) in [
        ("says a version to come", "arrive: version-newer: hello: found kho-upgrade-v2, expected kho-upgrade-v1"),
        ("says a version before all", "arrive: version-older: hello: found kho-upgrade-v0, expected kho-upgrade-v1"),
        ("says no magic", "arrive: magic: hello: found aaaaaaaa"),
        ("says a note that is none", "arrive: magic: hello.note: found"),
        ("refuses", "arrive: refused: not \u{fffd}[31myou"),
        ("sends descriptors with its hello", "arrive: parcel-count: message: found 253 descriptors, expected 0"),
        ("says more without end", "arrive: parcel-message: kind: found more, expected a first message"),
        ("says more than fits", "arrive: too-large: message: found a longer message"),
        ("sends too many files", "arrive: parcel-count: files: found 4 descriptors, expected 3"),
        ("sends files without end", "arrive: parcel-count: files: found 6 descriptors, expected 3"),
        ("sends a token twice", "arrive: token-duplicate: files.token: 1"),
        ("sends fewer descriptors than tokens", "arrive: parcel-count: files: found 1 descriptors, expected 2"),
        ("sends no descriptors", "arrive: parcel-count: files: found 0 descriptors, expected 1"),
        ("sends descriptors with prepare", "arrive: parcel-message: kind: found prepare, expected files or prepare"),
        ("commits too early", "arrive: parcel-message: kind: found commit, expected files or prepare"),
        ("aborts instead", "arrive: refused: over budget"),
        ("aborts amid the parcel", "arrive: refused: no room"),
        ("sends another nonce", "arrive: file-identity: nonce: found an arena of the handover 0x"),
        ("sends a parcel to come", "arrive: version-newer: parcel: found kho-parcel-v2, expected kho-parcel-v1"),
        ("announces a million files", "arrive: parcel-limit: head.files: found 1000000, expected at most 2"),
        ("announces more files than it sends", "arrive: parcel-count: files: found 1 descriptors, expected 2"),
        ("sends more files than it announced", "arrive: parcel-count: files: found 2 descriptors, expected 1"),
        ("sends a token early and late", "arrive: token-duplicate: files.token: 1"),
        ("sends descriptors with the end", "arrive: parcel-count: end: found 1 descriptors, expected 0"),
        ("gives no baton", "arrive: parcel-count: baton: none"),
        ("sends too few descriptors", "arrive: parcel-count: head: found 2 descriptors, expected 3"),
        ("sends too many descriptors", "arrive: parcel-count: head: found 4 descriptors, expected 3"),
        ("sends flags of nobody", "arrive: parcel-message: head.flags: found 0x80000004"),
    ] {
        refused(how, Patience::default(), says);
    }
    takes_over("says commit without end", Patience::default());
}

#[test]
fn a_predecessor_whose_descriptors_are_others() {
    for (how, says) in [
        ("gives a pipe for the baton", "arrive: file-kind: baton: found pipe, expected an eventfd"),
        ("gives a pipe that does not block", "arrive: file-kind: baton: found pipe, expected an eventfd"),
        ("gives a file for the baton", "arrive: file-kind: baton: found memfd, expected an eventfd"),
        ("gives a baton that blocks", "arrive: file-kind: baton: found a file that blocks, expected an eventfd"),
        ("gives a baton that is marked", "take: peer-serves: predecessor"),
        ("gives a baton of three", "take: peer-serves: predecessor"),
        ("serves", "take: peer-serves: predecessor"),
        ("gives an eventfd for the arena", "arrive: file-kind: descriptor: found "),
        ("gives a pipe for the arena", "arrive: file-kind: descriptor: found Fifo, expected a memfd"),
        ("gives an arena that is not sealed", "arrive: memfd-seals: seals: found 0x0, expected 0x7"),
        ("gives an arena that is empty", "arrive: truncated: header"),
        ("gives an arena that was cut", "arrive: truncated: size at offset 0x20: found a file of 4096 bytes"),
        ("swaps a memfd", "plan: file-identity: files[0x1].inode: found 0x"),
        ("swaps a memfd for an eventfd", "plan: file-identity: files[0x1].kind: found an eventfd, expected a memfd"),
    ] {
        refused(how, Patience::default(), says);
    }
    takes_over("cuts the arena afterwards", Patience::default());
}

#[test]
fn a_predecessor_that_has_the_baton_and_does_not_serve() {
    let short = Patience { commit: millis(200), ..Patience::default() };
    for how in ["gives a baton that is taken", "holds the baton", "makes the baton block"] {
        let said = takes_over(how, short);
        assert!(said.contains("signal: 9"), "{how}: {said}");
    }
    takes_over("dies with the baton", short);
    // What it says is not what it has done.
    let said = takes_over("aborts, and has not taken it", short);
    assert!(said.contains("heard: [(22, "), "it is told: {said}");
}
