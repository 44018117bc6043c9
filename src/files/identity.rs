//! What a file is, and whether a descriptor is that file.

use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;

use crate::abi::files::{KIND_MEMFD, Record};
use crate::report::{Code, Fault};

fn system(what: &'static str) -> impl Fn(rustix::io::Errno) -> Fault {
    move |errno| Fault::new(Code::Io).item(what).found(errno)
}

/// Looks at a memfd.
pub(super) fn record(token: u64, file: BorrowedFd<'_>) -> Result<Record, Fault> {
    let stat = rustix::fs::fstat(file).map_err(system("fstat"))?;
    // Only files of tmpfs and hugetlbfs have seals, and only such a file without a link is a memfd.
    let seals = rustix::fs::fcntl_get_seals(file)
        .map_err(|errno| Fault::new(Code::FileKind).item("kind").found(errno).expected("a memfd"))?;
    if stat.st_nlink != 0 {
        return Err(Fault::new(Code::FileKind).item("kind").found("a file that has a name").expected("a memfd"));
    }
    let status = rustix::fs::fcntl_getfl(file).map_err(system("F_GETFL"))?;
    let descriptor = rustix::io::fcntl_getfd(file).map_err(system("F_GETFD"))?;
    let pos = rustix::fs::seek(file, SeekFrom::Current(0)).map_err(system("lseek"))?;
    Ok(Record {
        token: token.into(),
        kind: KIND_MEMFD.into(),
        seals: seals.bits().into(),
        device: stat.st_dev.into(),
        inode: stat.st_ino.into(),
        size: u64::try_from(stat.st_size).unwrap_or(0).into(),
        pos: pos.into(),
        status: status.bits().into(),
        descriptor: descriptor.bits().into(),
        mode: (stat.st_mode & 0o7777).into(),
        reserved: 0.into(),
        reserved2: 0.into(),
    })
}

/// Whether this reader knows what was recorded.
pub(super) fn check(expected: &Record) -> Result<(), Fault> {
    if expected.kind.get() != KIND_MEMFD {
        let fault = Fault::new(Code::FileKind).item("kind").found(expected.kind);
        return Err(fault.expected(format_args!("{KIND_MEMFD}, a memfd")));
    }
    for (item, value) in [("reserved", u64::from(expected.reserved.get())), ("reserved2", expected.reserved2.get())] {
        if value != 0 {
            return Err(Fault::new(Code::Reserved).item(item).found(value).expected(0));
        }
    }
    Ok(())
}

/// Holds a descriptor that came against what was recorded. What the next kernel made anew has another inode, its own mode,
/// and is open for reading and writing.
pub(super) fn compare(expected: &Record, file: BorrowedFd<'_>, reborn: bool) -> Result<(), Fault> {
    let found = record(expected.token.get(), file)?;
    let fields = [
        ("device", found.device.get(), expected.device.get()),
        ("inode", found.inode.get(), expected.inode.get()),
        ("size", found.size.get(), expected.size.get()),
        ("seals", found.seals.get().into(), expected.seals.get().into()),
        ("position", found.pos.get(), expected.pos.get()),
        ("status flags", found.status.get().into(), expected.status.get().into()),
        ("mode", found.mode.get().into(), expected.mode.get().into()),
    ];
    let remains = |item: &str| !reborn || matches!(item, "size" | "seals" | "position");
    match fields.into_iter().find(|(item, found, expected)| found != expected && remains(item)) {
        None => Ok(()),
        Some((item, found, expected)) => Err(Fault::new(Code::FileIdentity)
            .item(item)
            .found(format_args!("{found:#x}"))
            .expected(format_args!("{expected:#x}"))),
    }
}
