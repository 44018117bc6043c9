//! What a kernel with live update answers to what it does not do, and what this library understands by it. Runs in the
//! guest as root: [`without`] where live update is off; [`before`] and [`after`] the kexec, [`before`]'s sessions held.

use std::error::Error;
use std::fmt::Debug;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use kho::liveupdate::{Cause, Device, NewSession, Refused, RetrievedSession, preflight};
use kho::report::Code;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};

type Fails<T = ()> = Result<T, Box<dyn Error>>;

/// The kernel's answer by name, as [`Refused`] prints it.
fn refused<T: Debug>(what: &str, answer: Result<T, Refused>, cause: Cause, errno: &str) -> Fails {
    match answer {
        Err(refused) if refused.cause() == cause && refused.to_string().ends_with(&format!("({errno})")) => Ok(()),
        other => Err(format!("{what}: {other:?}, expected {cause:?} and {errno}").into()),
    }
}

fn is(what: &str, so: bool) -> Fails {
    if so { Ok(()) } else { Err(what.into()) }
}

fn memfd(bytes: &[u8], flags: MemfdFlags) -> Fails<OwnedFd> {
    let file = rustix::fs::memfd_create("refusals", flags | MemfdFlags::CLOEXEC)?;
    is("short write", rustix::io::write(&file, bytes)? == bytes.len())?;
    Ok(file)
}

fn plain(bytes: &[u8]) -> Fails<OwnedFd> {
    memfd(bytes, MemfdFlags::ALLOW_SEALING)
}

fn content(file: &OwnedFd) -> Fails<Vec<u8>> {
    let mut bytes = vec![0; 64];
    let len = rustix::io::pread(file, &mut bytes, 0)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Booted without `liveupdate=on`.
pub(crate) fn without() -> Fails {
    refused("open without live update", Device::open(), Cause::NoLiveUpdate, "ENOENT")
}

/// In the first kernel. The sessions are to be open when it is left.
pub(crate) fn before() -> Fails<Vec<NewSession>> {
    let device = Device::open()?;
    refused("a second opener", Device::open(), Cause::OpenElsewhere, "EBUSY")?;
    let given = |fd: &Device| NewSession::from_fd(fd.as_fd().try_clone_to_owned().unwrap()).map_err(|(_, error)| error);
    refused("the device as a session", given(&device), Cause::WrongKind, "EINVAL")?;

    let one = device.create("refusals one")?;
    refused("a name twice", device.create("refusals one"), Cause::NameTaken, "EEXIST")?;
    refused("a session of this kernel", device.retrieve("refusals one"), Cause::NoSuchSession, "ENOENT")?;
    refused("a session of nobody", device.retrieve("nobody's"), Cause::NoSuchSession, "ENOENT")?;
    let two = device.create("refusals two")?;

    let file = plain(b"one")?;
    one.preserve(1, &file)?;
    refused("one token twice", one.preserve(1, plain(b"x")?), Cause::TokenTaken, "EEXIST")?;
    refused("one file twice", one.preserve(2, &file), Cause::FileTaken, "EBUSY")?;
    refused("one file in two sessions", two.preserve(1, &file), Cause::FileTaken, "EBUSY")?;

    // Preflight says the same of each.
    let names = File::create("/tmp/refusals")?;
    let path = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (pipe, _writer) = std::io::pipe()?;
    let large = memfd(b"", MemfdFlags::empty())?;
    rustix::fs::ftruncate(&large, 1 << 44)?;
    let (no, unfit) = (Cause::NotPreservable, Code::FileKind);
    let mut files: Vec<(&str, OwnedFd, Cause, &str, Code)> = vec![
        ("a file of a root tmpfs", File::open("/init")?.into(), no, "ENOENT", unfit),
        ("a file of procfs", File::open("/proc/self/stat")?.into(), no, "ENOENT", unfit),
        ("shmem with a name", names.into(), no, "ENOENT", unfit),
        ("a device", File::open("/dev/null")?.into(), no, "ENOENT", unfit),
        ("a pipe", pipe.into(), no, "ENOENT", unfit),
        ("a directory", File::open("/proc")?.into(), no, "ENOENT", unfit),
        ("a session", two.as_fd().try_clone_to_owned()?, no, "ENOENT", unfit),
        ("a path", path, Cause::BadDescriptor, "EBADF", unfit),
        ("2^32 pages", large, Cause::TooLarge, "EFBIG", Code::TooLarge),
    ];
    match rustix::fs::memfd_create("huge", MemfdFlags::HUGETLB | MemfdFlags::CLOEXEC) {
        Ok(huge) => files.push(("hugetlb", huge, no, "ENOENT", unfit)),
        Err(error) => println!("guest: no hugetlb in this kernel: {error}"),
    }
    for (what, file, cause, errno, code) in &files {
        refused(what, two.preserve(9, file), *cause, errno)?;
        is(what, preflight(&[(9, file)]).findings.has(*code))?;
    }
    // More holes than memory: the kernel would kill for it, so it is not asked.
    let holes = memfd(b"", MemfdFlags::empty())?;
    rustix::fs::ftruncate(&holes, 1 << 40)?;
    is("memory-short", preflight(&[(1, &holes)]).findings.has(Code::MemoryShort))?;

    // What preflight warns of; `after` sees it.
    let unwritable = memfd(b"noexec", MemfdFlags::NOEXEC_SEAL)?;
    is("memfd-unwritable", preflight(&[(11, &unwritable)]).findings.has(Code::MemfdUnwritable))?;
    two.preserve(11, &unwritable)?;
    let mode = plain(b"mode")?;
    rustix::fs::fchmod(&mode, Mode::from_raw_mode(0o600))?;
    is("memfd-mode", preflight(&[(12, &mode)]).findings.has(Code::MemfdMode))?;
    two.preserve(12, &mode)?;
    let holes = plain(b"holes")?;
    rustix::fs::ftruncate(&holes, 1 << 20)?;
    let filled = preflight(&[(13, &holes)]).summary.filled;
    let blocks = rustix::fs::fstat(&holes)?.st_blocks;
    two.preserve(13, &holes)?;
    let more = (rustix::fs::fstat(&holes)?.st_blocks - blocks) * 512;
    is("the holes cost what preflight says", filled > 0 && u64::try_from(more)? == filled)?;
    rustix::io::pwrite(&holes, b"HOLES", 0)?;
    is("a preserved memfd cannot grow", rustix::fs::ftruncate(&holes, 2 << 20) == Err(rustix::io::Errno::PERM))?;
    is("nor shrink", rustix::fs::ftruncate(&holes, 1) == Err(rustix::io::Errno::PERM))?;

    // Seals are those of the time when it was preserved, the position that of the kexec.
    let late = plain(b"late")?;
    two.preserve(15, &late)?;
    rustix::fs::fcntl_add_seals(&late, SealFlags::GROW)?;
    rustix::fs::seek(&late, SeekFrom::Start(2))?;

    // A session that was given; of the other kind; and one that is dropped frees its name and its files.
    let (fd, error) = RetrievedSession::from_fd(two.as_fd().try_clone_to_owned()?).unwrap_err();
    refused::<()>("a new session as a retrieved one", Err(error), Cause::OtherKind, "EINVAL")?;
    let given = NewSession::from_fd(fd).map_err(|(_, error)| error)?;
    is("name", given.name() == two.name() && given.name().as_bytes() == b"refusals two")?;
    drop(given);
    let dropped = device.create("refusals dropped")?;
    let again = plain(b"again")?;
    dropped.preserve(1, &again)?;
    drop(dropped);
    let dropped = device.create("refusals dropped")?;
    two.preserve(14, &again)?;
    // Sessions do not need the device.
    drop(device);
    drop(Device::open()?);
    dropped.preserve(1, plain(b"kept")?)?;
    dropped.preserve(2, plain(b"kept too")?)?;
    let closed = Device::open()?.create("refusals closed")?;
    closed.preserve(1, plain(b"lost")?)?;
    Ok(vec![one, two, dropped, closed])
}

/// In the second kernel.
pub(crate) fn after() -> Fails {
    let device = Device::open()?;
    refused("a session of nobody", device.retrieve("nobody's"), Cause::NoSuchSession, "ENOENT")?;
    let one = device.retrieve("refusals one")?;
    refused("a session twice", device.retrieve("refusals one"), Cause::AlreadyRetrieved, "EINVAL")?;
    // Names of new and of retrieved sessions do not collide.
    let new = device.create("refusals one")?;
    refused("a token of nobody", one.retrieve(99), Cause::NoSuchToken, "ENOENT")?;
    let (file, again) = (one.retrieve(1)?, one.retrieve(1)?);
    is("twice the same file", rustix::fs::fstat(&file)?.st_ino == rustix::fs::fstat(&again)?.st_ino)?;
    is("close-on-exec", rustix::io::fcntl_getfd(&file)?.contains(rustix::io::FdFlags::CLOEXEC))?;
    is("content", content(&file)? == b"one")?;
    refused("preserve before finish", new.preserve(1, &file), Cause::FileTaken, "EBUSY")?;
    let (fd, error) = NewSession::from_fd(one.as_fd().try_clone_to_owned()?).unwrap_err();
    refused::<()>("a retrieved session as a new one", Err(error), Cause::OtherKind, "EINVAL")?;
    let given = RetrievedSession::from_fd(fd).map_err(|(_, error)| error)?;
    one.finish().map_err(|(_, error)| error)?;
    refused("retrieve after finish", given.retrieve(1), Cause::NoSuchToken, "ENOENT")?;
    given.finish().map_err(|(_, error)| error)?;
    refused("a session that is gone", device.retrieve("refusals one"), Cause::NoSuchSession, "ENOENT")?;
    is("content after finish", content(&file)? == b"one")?;
    new.preserve(1, &file)?;

    let two = device.retrieve("refusals two")?;
    let unwritable = two.retrieve(11)?;
    let after = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::FUTURE_WRITE | SealFlags::EXEC;
    is("seals after noexec", rustix::fs::fcntl_get_seals(&unwritable)? == after)?;
    is("unwritable", rustix::io::pwrite(&unwritable, b"x", 0) == Err(rustix::io::Errno::PERM))?;
    is("mode", rustix::fs::fstat(&two.retrieve(12)?)?.st_mode & 0o7777 == 0o777)?;
    is("written while it was preserved", content(&two.retrieve(13)?)?.starts_with(b"HOLES\0"))?;
    is("moved from a dropped session", content(&two.retrieve(14)?)? == b"again")?;
    let late = two.retrieve(15)?;
    is("a late seal", rustix::fs::fcntl_get_seals(&late)?.is_empty())?;
    is("a late position", rustix::fs::seek(&late, SeekFrom::Current(0))? == 2)?;
    two.finish().map_err(|(_, error)| error)?;

    // A value that is dropped stays open, and so does its session.
    let dropped = device.retrieve("refusals dropped")?;
    let number = dropped.as_fd().as_raw_fd();
    drop(dropped);
    let dropped = RetrievedSession::from_fd(kho::liveupdate::inherited(number)?).map_err(|(_, error)| error)?;
    is("retrieved after a drop", content(&dropped.retrieve(2)?)? == b"kept too")?;
    dropped.finish().map_err(|(_, error)| error)?;
    // To close its descriptor is to finish it.
    drop(OwnedFd::from(device.retrieve("refusals closed")?));
    refused("a session that was closed", device.retrieve("refusals closed"), Cause::NoSuchSession, "ENOENT")
}
