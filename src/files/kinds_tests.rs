//! Files of other kinds than memfds: what their records hold them to.

use alloc::string::String;
use alloc::vec;
use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};

use proptest::prelude::*;
use rustix::event::EventfdFlags;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::tests::{changed_of, handed_over, memfd, told};
use super::*;
use crate::handover::Incoming;
use crate::mem::Arena;
use crate::testing::cases;
use crate::transport::Bundle;
use zerocopy::FromBytes as _;

fn eventfd(count: u32) -> OwnedFd {
    rustix::event::eventfd(count, EventfdFlags::CLOEXEC).unwrap()
}

fn listener() -> (OwnedFd, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (UnixListener::bind(folder.path().join("socket")).unwrap().into(), folder)
}

fn pidfd() -> OwnedFd {
    let flags = rustix::process::PidfdFlags::empty();
    rustix::process::pidfd_open(rustix::process::getpid(), flags).unwrap()
}

fn timerfd(seconds: i64) -> OwnedFd {
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let it_interval = Timespec { tv_sec: seconds, tv_nsec: 5 };
    let it_value = Timespec { tv_sec: 1000, tv_nsec: 0 };
    let spec = Itimerspec { it_interval, it_value };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).unwrap();
    timer
}

fn change_one(file: OwnedFd, change: impl FnOnce(&mut Record)) -> Vec<String> {
    changed_of(vec![(1, file)], 0, change)
}

#[test]
fn a_record_of_another_kind_than_its_descriptor() {
    let number = |kind: Kind| move |record: &mut Record| record.kind = kind.number().into();
    let says = |found: &str, expected: &str| {
        vec![format!("file-identity: files[0x1].kind: found {found}, expected {expected}")]
    };
    assert_eq!(change_one(eventfd(0), number(Kind::Pidfd)), says("an eventfd", "a pidfd"));
    assert_eq!(change_one(memfd(0), number(Kind::Hugetlb)), says("a memfd", "a hugetlb memfd"));
    assert_eq!(change_one(memfd(0), number(Kind::Regular)), says("a memfd", "a regular file"));
    let null = File::open("/dev/null").unwrap();
    // The device number is nothing that a memfd has.
    assert_eq!(
        change_one(null.into(), number(Kind::Memfd)),
        ["reserved: files[0x1].detail: found 259, expected 0".into(), says("a character device", "a memfd").remove(0)]
    );
}

#[test]
fn a_record_of_a_kind_that_is_not_known() {
    let says = "file-kind: files[0x1].kind: found 13, expected 1 to 12, the kinds that are known here";
    assert_eq!(change_one(eventfd(0), |record| record.kind = 13.into()), [says]);
}

#[test]
fn what_a_kind_does_not_have_is_zero() {
    let max = u64::MAX;
    let (pipe, _writer) = std::io::pipe().unwrap();
    let seals = change_one(pipe.into(), |record| record.seals = 1.into());
    assert_eq!(seals, ["reserved: files[0x1].seals: found 1, expected 0"]);
    let (pipe, _writer) = std::io::pipe().unwrap();
    let more = change_one(pipe.into(), |record| record.more = 3.into());
    assert_eq!(more, ["reserved: files[0x1].more: found 3, expected 0"]);
    let bits = change_one(eventfd(0), |record| record.more = 5.into());
    assert_eq!(bits, ["reserved: files[0x1].more: found 5, expected 1"]);
    let (socket, _other) = UnixStream::pair().unwrap();
    let bits = change_one(socket.into(), |record| record.more = (2 << 32).into());
    assert!(bits[0].starts_with("reserved: files[0x1].more: found 8589934592, expected 0"), "{bits:?}");
    assert!(bits[1].starts_with("file-identity: files[0x1].listening: found 0x0, expected 0x2"), "{bits:?}");
    let bits = change_one(pidfd(), |record| record.more = max.into());
    assert!(bits[0].starts_with("reserved: files[0x1].more: found 18446744073709551615, expected 1"), "{bits:?}");
    let reserved = change_one(timerfd(1), |record| record.reserved = 9.into());
    assert_eq!(reserved, ["reserved: files[0x1].reserved: found 9, expected 0"]);
}

#[test]
fn records_of_other_files_of_the_same_kind() {
    let one = |file: OwnedFd, change: fn(&mut Record), says: &str| {
        let told = change_one(file, change);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("file-identity: files[0x1].{says}")), "{told:?} instead of {says}");
    };
    one(eventfd(0), |record| record.detail += 1, "eventfd-id: found 0x");
    one(eventfd(0), |record| record.more |= 2, "semaphore: found 0x0, expected 0x2");
    one(eventfd(0), |record| record.status ^= 0o4000, "status flags: found 0x2, expected 0x802");
    one(timerfd(7), |record| record.detail = 0.into(), "clock: found 0x1, expected 0x0");
    one(timerfd(7), |record| record.more = 7.into(), "interval: found 0x1a13b8605, expected 0x7");
    one(listener().0, |record| record.more = 0.into(), "listening: found 0x1, expected 0x0");
    one(listener().0, |record| record.more |= 6, "protocol: found 0x0, expected 0x6");
    one(listener().0, |record| record.detail += 1, "domain: found 0x1, expected 0x2");
    one(listener().0, |record| record.detail += 1 << 32, "type: found 0x1, expected 0x2");
    one(std::io::pipe().unwrap().0.into(), |record| record.detail += 1, "capacity: found 0x10000, expected 0x10001");
    one(std::io::pipe().unwrap().0.into(), |record| record.inode += 1, "inode: found 0x");
    one(File::open("/dev/null").unwrap().into(), |record| record.detail += 1, "device number: found 0x103");
    one(File::open("/proc/self/exe").unwrap().into(), |record| record.mode ^= 1, "mode: found 0x");
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    one(epoll, |record| record.detail = 4.into(), "watches: found 0x0, expected 0x4");
    // With pidfs the inode tells processes apart, without it their number.
    one(
        pidfd(),
        |record| match record.more.get() {
            0 => record.detail += 1,
            _ => record.inode += 1,
        },
        if identity::record(0, pidfd().as_fd()).unwrap().more == 0 { "process: found 0x" } else { "inode: found 0x" },
    );
}

#[test]
fn a_process_that_is_gone_is_not_another_one() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = rustix::process::Pid::from_child(&child);
    let file = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
    let before = identity::record(1, file.as_fd()).unwrap();
    assert_eq!(before.detail.get(), u64::from(child.id()));
    child.wait().unwrap();
    assert_eq!(identity::record(1, file.as_fd()).unwrap().detail.get(), u64::MAX);
    identity::compare(&before, file.as_fd(), false).unwrap();
}

#[test]
fn without_pidfs_a_process_is_known_by_its_number() {
    let record = |process: u64, inode: u64| {
        let mut record = identity::record(1, pidfd().as_fd()).unwrap();
        (record.detail, record.more, record.inode) = (process.into(), 0.into(), inode.into());
        record
    };
    let told = |expected: u64, found: u64| {
        identity::same(Kind::Pidfd, &record(expected, 1), &record(found, 2), false).map_err(|fault| fault.to_string())
    };
    assert_eq!(told(42, 42), Ok(()));
    assert_eq!(told(42, u64::MAX), Ok(()), "it has ended, and nobody knows its number any more");
    assert_eq!(told(42, 43), Err("file-identity: process: found 0x2b, expected 0x2a".into()));
    assert!(told(u64::MAX, 42).is_err(), "nobody comes back");
}

#[test]
fn a_session_makes_memfds_anew_and_nothing_else() {
    let (incoming, _) = handed_over(vec![(1, memfd(4096)), (2, eventfd(0))]);
    let root = incoming.root();
    let mut bundle = incoming.into_memory();
    drop(core::mem::take(bundle.files_mut()));
    let arena = Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap();
    let came = Files::retrieved([(1, memfd(4096)), (2, eventfd(0))]);
    assert_eq!(
        told(Incoming::new(Bundle::of(arena, came), root)),
        [
            "file-kind: files[0x2].kind: found an eventfd, expected a memfd that is not hugetlb, which is all that a session \
          carries"
        ]
    );
}

#[test]
fn a_route_refuses_before_anything_leaves() {
    let mut files = Files::new();
    files.add(1, memfd(1)).unwrap();
    files.add(2, eventfd(0)).unwrap();
    files.add(0x30, File::open("/dev/null").unwrap().into()).unwrap();
    let only = "a memfd that is not hugetlb, which is all that a session carries";
    let told: Vec<String> = files.refused_by(Route::Session).iter().map(ToString::to_string).collect();
    let says = |item: &str, found: &str| format!("file-kind: {item}: found {found}, expected {only}");
    assert_eq!(told, [says("files[0x2]", "an eventfd"), says("files[0x30]", "a character device")]);
    assert!(files.refused_by(Route::Exec).is_empty() && files.refused_by(Route::Socket).is_empty());
    // Received and not looked at yet.
    let folder = Files::received([(7, File::open("/").unwrap().into())]);
    let told: Vec<String> = folder.refused_by(Route::Exec).iter().map(ToString::to_string).collect();
    assert_eq!(told, ["file-kind: files[0x7].kind: a directory, which the successor opens by its path"]);
    for kind in Kind::ALL {
        assert!(kind.carried_by(Route::Exec).is_ok() && kind.carried_by(Route::Socket).is_ok());
        assert_eq!(kind.carried_by(Route::Session).is_ok(), *kind == Kind::Memfd, "{kind}");
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_record_is_an_error_or_a_file(mut bytes in prop::collection::vec(any::<u8>(), size_of::<Record>()), kind in 0..20_u8) {
        // Nearly every other number is no kind.
        if kind < 14 {
            bytes[8..12].copy_from_slice(&[kind, 0, 0, 0]);
        }
        let record = Record::read_from_bytes(&bytes).unwrap();
        let _ = (identity::check(&record), identity::compare(&record, memfd(0).as_fd(), kind & 1 == 0));
        for known in Kind::ALL {
            prop_assert_eq!(identity::same(*known, &record, &record, false).is_ok(), true);
        }
        #[cfg(feature = "serde")]
        let _ = details(&record);
    }
}
