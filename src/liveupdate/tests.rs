use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use zerocopy::IntoBytes as _;

use super::refused::meaning;
use super::sys::{Argument as _, request};
use super::{Cause, Device, FileKind, NewSession, Operation, Preflight, RetrievedSession, device, preflight, session};
use crate::abi::liveupdate as abi;
use crate::report::Code;

#[test]
fn requests_are_io_of_type_ba() {
    let numbers = [
        (abi::CREATE_SESSION, 0xba00),
        (abi::RETRIEVE_SESSION, 0xba01),
        (abi::PRESERVE_FD, 0xba40),
        (abi::RETRIEVE_FD, 0xba41),
        (abi::FINISH, 0xba42),
        (abi::GET_NAME, 0xba43),
    ];
    for (number, expected) in numbers {
        assert_eq!(request(number), expected);
    }
}

#[test]
fn arguments_byte_for_byte() {
    let mut argument = device::by_name(b"vm-7").unwrap();
    argument.set_size(72);
    let mut bytes = vec![72, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, b'v', b'm', b'-', b'7'];
    bytes.resize(72, 0);
    assert_eq!(argument.as_bytes(), bytes);

    let mut argument = session::by_token(0x0102_0304_0506_0708, 9);
    argument.set_size(16);
    assert_eq!(argument.as_bytes(), [16, 0, 0, 0, 9, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);

    let mut argument = abi::SessionFinish { size: 0.into(), reserved: 0.into() };
    argument.set_size(8);
    assert_eq!(argument.as_bytes(), [8, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn names_that_a_session_cannot_have() {
    for name in [&b""[..], b"a\0b", b"\0", &[b'x'; 64]] {
        assert!(device::by_name(name).is_none(), "{name:?}");
    }
    assert_eq!(device::by_name(&[b'x'; 63]).unwrap().name[63], 0);
    assert!(device::by_name(b"\xff\n").is_some(), "bytes, not text");
    // The kernel is not asked: this file would answer ENOTTY.
    let refused = Device::open_at("/dev/null").unwrap().create("a\0b").unwrap_err();
    assert_eq!((refused.operation(), refused.cause()), (Operation::Create, Cause::BadName));
    assert_eq!(refused.to_string(), "create session a\\x00b: a name that no session can have (EINVAL)");
}

#[test]
fn every_row_of_the_table() {
    use Operation::{Create, Finish, Name, Open, Preserve, Retrieve, RetrieveFile};
    let rows = [
        (Open, Errno::NOENT, Cause::NoLiveUpdate),
        (Open, Errno::NODEV, Cause::NoLiveUpdate),
        (Open, Errno::NXIO, Cause::NoLiveUpdate),
        (Open, Errno::OPNOTSUPP, Cause::NoLiveUpdate),
        (Open, Errno::BUSY, Cause::OpenElsewhere),
        (Open, Errno::ACCESS, Cause::Forbidden),
        (Open, Errno::PERM, Cause::Forbidden),
        (Open, Errno::IO, Cause::IncomingBroken),
        (Open, Errno::ISDIR, Cause::Unknown),
        (Create, Errno::NOTTY, Cause::WrongKind),
        (Create, Errno::EXIST, Cause::NameTaken),
        (Create, Errno::INVAL, Cause::BadName),
        (Retrieve, Errno::NOENT, Cause::NoSuchSession),
        (Retrieve, Errno::INVAL, Cause::AlreadyRetrieved),
        (Name, Errno::NOTTY, Cause::WrongKind),
        (Preserve, Errno::EXIST, Cause::TokenTaken),
        (Preserve, Errno::BUSY, Cause::FileTaken),
        (Preserve, Errno::NOENT, Cause::NotPreservable),
        (Preserve, Errno::OPNOTSUPP, Cause::Seals),
        (Preserve, Errno::FBIG, Cause::TooLarge),
        (Preserve, Errno::NOSPC, Cause::Full),
        (Preserve, Errno::BADF, Cause::BadDescriptor),
        (Preserve, Errno::INVAL, Cause::NotHere),
        (Preserve, Errno::NOMEM, Cause::NoMemory),
        (RetrieveFile, Errno::NOENT, Cause::NoSuchToken),
        (RetrieveFile, Errno::INVAL, Cause::NotHere),
        (RetrieveFile, Errno::IO, Cause::RetrieveFailed),
        (RetrieveFile, Errno::TOOBIG, Cause::NewerThanKernel),
        (Finish, Errno::BUSY, Cause::NotFinished),
        (Finish, Errno::INVAL, Cause::NotHere),
        (Finish, Errno::INTR, Cause::Interrupted),
        (Finish, Errno::DOM, Cause::Unknown),
    ];
    for (operation, errno, cause) in rows {
        assert_eq!(meaning(operation, errno), cause, "{operation:?} {errno:?}");
    }
}
