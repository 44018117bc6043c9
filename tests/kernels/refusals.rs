//! What Linux 7.2 refuses, how, and what the library says that it means. Guest and host include this file: the guest
//! provokes each, the host demands each.

use kho::liveupdate::Cause;
use rustix::io::Errno;

pub(crate) type Refusal = (&'static str, Cause, Errno);

/// In a kernel that was booted cold.
pub(crate) const BEFORE: [Refusal; 23] = [
    ("a second opener", Cause::OpenElsewhere, Errno::BUSY),
    ("a session that nobody left", Cause::NoSuchSession, Errno::NOENT),
    ("a second session of that name", Cause::NameTaken, Errno::EXIST),
    ("no name", Cause::BadName, Errno::INVAL),
    ("a name of 64 bytes", Cause::BadName, Errno::INVAL),
    ("a new session as a retrieved one", Cause::OtherKind, Errno::INVAL),
    ("a memfd as a session", Cause::WrongKind, Errno::NOTTY),
    ("the device as a session", Cause::WrongKind, Errno::INVAL),
    ("a file under a second token", Cause::FileTaken, Errno::BUSY),
    ("a file in a second session", Cause::FileTaken, Errno::BUSY),
    ("a second file under that token", Cause::TokenTaken, Errno::EXIST),
    ("a file with a name", Cause::NotPreservable, Errno::NOENT),
    ("a file of the initramfs", Cause::NotPreservable, Errno::NOENT),
    ("a file of procfs", Cause::NotPreservable, Errno::NOENT),
    ("a folder", Cause::NotPreservable, Errno::NOENT),
    ("a device", Cause::NotPreservable, Errno::NOENT),
    ("a pipe", Cause::NotPreservable, Errno::NOENT),
    ("a session", Cause::NotPreservable, Errno::NOENT),
    ("hugetlb", Cause::NotPreservable, Errno::NOENT),
    ("O_PATH", Cause::BadDescriptor, Errno::BADF),
    ("2^32 pages", Cause::TooLarge, Errno::FBIG),
    ("a larger file than it was", Cause::Unknown, Errno::PERM),
    ("bytes behind the end", Cause::Unknown, Errno::PERM),
];

/// In the kernel after a kexec.
pub(crate) const AFTER: [Refusal; 8] = [
    ("a session that nobody left", Cause::NoSuchSession, Errno::NOENT),
    ("a session twice", Cause::AlreadyRetrieved, Errno::INVAL),
    ("a retrieved session as a new one", Cause::OtherKind, Errno::INVAL),
    ("a token that nobody gave", Cause::NoSuchToken, Errno::NOENT),
    ("a file of an unfinished session", Cause::FileTaken, Errno::BUSY),
    ("a file with a name", Cause::NotPreservable, Errno::NOENT),
    ("a finished session", Cause::NoSuchSession, Errno::NOENT),
    ("a freed session", Cause::NoSuchSession, Errno::NOENT),
];
