use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::*;
use crate::transport::exec::{Program, variable};
use crate::transport::{Cargo, Ticket};

const NONCE: u64 = 0x1122_3344_5566_7788;

fn memfd() -> OwnedFd {
    rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap()
}

/// Sender and receiver; the receiver as exec leaves it.
fn pair() -> (OwnedFd, OwnedFd) {
    pair_of(SocketType::SEQPACKET)
}

fn pair_of(kind: SocketType) -> (OwnedFd, OwnedFd) {
    let (sender, receiver) = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    rustix::io::fcntl_setfd(&receiver, FdFlags::empty()).unwrap();
    (sender, receiver)
}

fn pack(sender: &OwnedFd, cargo: &Cargo<'_>) {
    socket::send(sender.as_fd(), cargo, socket::Wait::Never).unwrap();
    socket::finish(sender.as_fd(), 42, socket::Wait::Never).unwrap();
}

/// A receiver with a parcel of one file in it.
fn packed(arena: BorrowedFd<'_>) -> OwnedFd {
    let (sender, receiver) = pair();
    pack(&sender, &Cargo::new(NONCE, arena).file(3, arena));
    receiver
}

fn try_arrive(socket: &OwnedFd, pid: u32, nonce: u64) -> Result<Option<Parcel>, Fault> {
    arrive_by(&variable(socket.as_raw_fd(), pid, nonce), std::process::id(), false, &AtomicBool::new(false))
}

/// That the parcel in the socket was not touched.
#[track_caller]
fn still_whole(socket: OwnedFd) {
    let taken = AtomicBool::new(false);
    let name = variable(socket.as_raw_fd(), std::process::id(), NONCE);
    let parcel = arrive_by(&name, std::process::id(), false, &taken).unwrap().expect("a parcel");
    assert_eq!((parcel.nonce, parcel.stamp_ns, parcel.files.len()), (NONCE, 42, 1));
    assert!(parcel.ticket.is_none() && parcel.reason.is_none());
    assert!(arrive_by(&name, std::process::id(), false, &taken).unwrap().is_none(), "a second time");
    // Whoever owns the socket, here we, still does; it is empty, and nobody inherits it.
    assert_eq!(rustix::io::fcntl_getfd(&socket).unwrap(), FdFlags::CLOEXEC);
    assert_eq!(rustix::net::recv(&socket, &mut [0; 8], RecvFlags::DONTWAIT).unwrap().0, 0);
}

#[test]
fn a_parcel_for_somebody_else_stays_whole() {
    let arena = memfd();
    let socket = packed(arena.as_fd());
    let me = std::process::id();
    assert!(try_arrive(&socket, me + 1, NONCE).unwrap().is_none(), "other process");
    assert!(try_arrive(&socket, me, NONCE + 1).unwrap().is_none(), "other nonce");
    let name = variable(socket.as_raw_fd(), me, NONCE);
    assert!(arrive_by(&name, me, true, &AtomicBool::new(false)).unwrap().is_none(), "secure mode");
    assert!(arrive_by(&name, me, false, &AtomicBool::new(true)).unwrap().is_none(), "taken before");
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC).unwrap();
    assert!(try_arrive(&socket, me, NONCE).unwrap().is_none(), "not inherited");
    rustix::io::fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    still_whole(socket);
}

#[test]
fn a_newer_parcel_is_a_mismatch_and_stays() {
    let (sender, receiver) = pair();
    let mut head = b"\x7fKHOPCL\n\x02\0\0\0\0\0\0\0".to_vec();
    head.extend_from_slice(&NONCE.to_le_bytes());
    head.extend_from_slice(&[0; 32]);
    rustix::net::send(&sender, &head, SendFlags::empty()).unwrap();
    let fault = try_arrive(&receiver, std::process::id(), NONCE).unwrap_err();
    assert_eq!(fault.to_string(), "version-newer: parcel: found kho-parcel-v2, expected kho-parcel-v1");
    let mut again = [0; 100];
    assert_eq!(rustix::net::recv(&receiver, &mut again[..], RecvFlags::DONTWAIT).unwrap().0, 56);

    let socket = packed(memfd().as_fd());
    let name = format!("{}:{}:{NONCE:016x}:v2", socket.as_raw_fd(), std::process::id());
    let fault = arrive_by(name.as_ref(), std::process::id(), false, &AtomicBool::new(false)).unwrap_err();
    assert_eq!(fault.code(), Code::VersionNewer);
    still_whole(socket);
}

#[test]
fn foreign_descriptors_are_left_as_they_are() {
    let me = std::process::id();
    // A file, in the middle.
    let mut file = File::from(memfd());
    file.write_all(b"0123456789").unwrap();
    file.seek(std::io::SeekFrom::Start(4)).unwrap();
    let file = OwnedFd::from(file);
    rustix::io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
    assert!(try_arrive(&file, me, NONCE).unwrap().is_none());
    let mut rest = String::new();
    File::from(file).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "456789");

    // Sockets with something else in them, or nothing, or of another type.
    for (kind, sent) in [
        (SocketType::SEQPACKET, &b"a message of somebody else, not of ours"[..]),
        (SocketType::SEQPACKET, b"short"),
        (SocketType::SEQPACKET, b""),
        (SocketType::STREAM, b"\x7fKHOPCL\n\x01\0\0\0\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\0\0\0\0\0\0\0\0"),
        (SocketType::DGRAM, b"\x7fKHOPCL\n\x01\0\0\0\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\0\0\0\0\0\0\0\0"),
    ] {
        let (sender, receiver) = pair_of(kind);
        if !sent.is_empty() {
            rustix::net::send(&sender, sent, SendFlags::empty()).unwrap();
        }
        assert!(try_arrive(&receiver, me, NONCE).unwrap().is_none());
        let mut left = [0; 100];
        let left_len = rustix::net::recv(&receiver, &mut left[..], RecvFlags::DONTWAIT).map_or(0, |(len, _)| len);
        assert_eq!(&left[..left_len], sent);
    }

    // A socket without a peer, whose credentials have the process id 0.
    let lonely =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
    assert!(try_arrive(&lonely, me, NONCE).unwrap().is_none());
    // A number that no descriptor has.
    let name = variable(i32::MAX, me, NONCE);
    assert!(arrive_by(&name, me, false, &AtomicBool::new(false)).unwrap().is_none());
}

#[test]
fn a_variable_that_is_not_ours_is_no_handover() {
    let good = "5:77:00000000000000ff:v1";
    assert_eq!(parse(OsStr::new(good)), Some(Named { number: 5, pid: 77, nonce: 255, version: 1, keeps: false }));
    for bad in [
        "",
        "5",
        "5:77:ff:v1",
        "5:77:00000000000000FF:v1",
        "+5:77:00000000000000ff:v1",
        "-1:77:00000000000000ff:v1",
        "5:+77:00000000000000ff:v1",
        "5:77:+0000000000000ff:v1",
        "5:77:00000000000000ff:1",
        "5:77:00000000000000ff:v",
        "5:77:00000000000000ff:v1:",
        " 5:77:00000000000000ff:v1",
        ":77:00000000000000ff:v1",
        "2147483648:77:00000000000000ff:v1",
        "5:4294967296:00000000000000ff:v1",
    ] {
        assert_eq!(parse(OsStr::new(bad)), None, "{bad}");
    }
}

#[test]
fn a_parcel_that_ends_too_early_or_too_late() {
    let arena = memfd();
    let lost = |receiver: OwnedFd| {
        let name = variable(receiver.as_raw_fd(), std::process::id(), NONCE);
        arrive_by(&name, std::process::id(), false, &AtomicBool::new(false)).unwrap_err().to_string()
    };
    let (sender, receiver) = pair();
    socket::send(sender.as_fd(), &Cargo::new(NONCE, arena.as_fd()), socket::Wait::Never).unwrap();
    drop(sender);
    assert_eq!(lost(receiver), "truncated: parcel: found the end of the stream, expected end");

    // The sender lives, in a forked process for example: that does not block.
    let (sender, receiver) = pair();
    socket::send(sender.as_fd(), &Cargo::new(NONCE, arena.as_fd()), socket::Wait::Never).unwrap();
    assert_eq!(lost(receiver), "truncated: parcel: found no further message, expected end");

    let (sender, receiver) = pair();
    pack(&sender, &Cargo::new(NONCE, arena.as_fd()));
    socket::finish(sender.as_fd(), 43, socket::Wait::Never).unwrap();
    assert_eq!(lost(receiver), "parcel-message: parcel: found a message, expected nothing behind end");

    let (sender, receiver) = pair();
    socket::send(sender.as_fd(), &Cargo::new(NONCE, arena.as_fd()), socket::Wait::Never).unwrap();
    rustix::net::send(&sender, &vec![4; 100_000], SendFlags::empty()).unwrap();
    assert_eq!(lost(receiver), "too-large: message: found a longer message, expected at most 65656 bytes");
}

#[test]
fn the_bytes_on_the_wire() {
    let (arena, file) = (memfd(), memfd());
    let (sender, receiver) = pair();
    let program = Program::current().unwrap().arg0("me").args(["-v"]);
    let ticket = Ticket::of(&program).unwrap();
    pack(&sender, &Cargo::new(NONCE, arena.as_fd()).file(0xa1b2, file.as_fd()).ticket(&ticket));
    let next = || {
        let mut buffer = vec![0; 1000];
        let len = rustix::net::recv(&receiver, &mut buffer[..], RecvFlags::DONTWAIT).unwrap().0;
        buffer.truncate(len);
        buffer
    };
    let head = b"\x7fKHOPCL\n\x01\0\0\0\x01\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\x01\0\0\0\0\0\0\0";
    assert_eq!(next(), head);
    let record = next();
    assert_eq!(&record[..8], b"\x01\0\0\0\0\0\0\0");
    assert_eq!(&record[24..32], ticket.identity.size.to_le_bytes());
    assert_eq!(&record[52..56], [2, 0, 0, 0]);
    assert_eq!(&record[56 + ticket.build_id().len()..], b"me\0-v\0");
    assert_eq!(next(), b"\x03\0\0\0\x01\0\0\0\xb2\xa1\0\0\0\0\0\0");
    assert_eq!(next(), b"\x04\0\0\0\0\0\0\0\x2a\0\0\0\0\0\0\0");
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let arena = memfd();
    let (sender, receiver) = pair();
    let reason = "é".repeat(3_000);
    let mut cargo = Cargo::new(NONCE, arena.as_fd());
    cargo.reason = Some(&reason);
    pack(&sender, &cargo);
    let name = variable(receiver.as_raw_fd(), std::process::id(), NONCE);
    let parcel = arrive_by(&name, std::process::id(), false, &AtomicBool::new(false)).unwrap().unwrap();
    assert_eq!(parcel.reason.unwrap(), reason[..4096]);
}
