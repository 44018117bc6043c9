//! What a file is, and whether a descriptor is that file.

use alloc::vec::Vec;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::kind::{Kind, Looked, Route, is_page, look, system};
use super::proc_info;
use crate::abi::files::{EVENTFD_ID, EVENTFD_SEMAPHORE, PIDFD_INODE, Record};
use crate::num::{bits_of, u64_of};
use crate::report::{Code, Fault};

/// Two halves of a word.
fn halves(low: u32, high: u32) -> u64 {
    u64::from(high).wrapping_shl(32) | u64::from(low)
}

pub(super) fn low(word: u64) -> u64 {
    word & u64::from(u32::MAX)
}

pub(super) const fn high(word: u64) -> u64 {
    word.wrapping_shr(32)
}

/// Whether that is `/dev/ptmx`.
fn is_terminal(device: u64) -> bool {
    device == rustix::fs::makedev(5, 2)
}

/// Looks at a file.
pub(super) fn record(token: u64, file: BorrowedFd<'_>) -> Result<Record, Fault> {
    let looked = look(file)?;
    let (detail, more) = details(&looked, file)?;
    let Looked { kind, stat, status, seals, .. } = looked;
    let descriptor = rustix::io::fcntl_getfd(file).map_err(system("F_GETFD"))?;
    let seals = match kind {
        Kind::Memfd | Kind::Hugetlb if seals.is_some() => seals.unwrap_or(0),
        Kind::Memfd | Kind::Hugetlb => rustix::fs::fcntl_get_seals(file).map_err(system("F_GET_SEALS"))?.bits(),
        _ => 0,
    };
    // A file that can be sought has a position. A device may do anything when it is asked for one, and is not asked.
    let pos = match kind {
        Kind::Memfd | Kind::Hugetlb | Kind::Regular | Kind::BlockDevice => {
            match rustix::fs::seek(file, SeekFrom::Current(0)) {
                // Some files of tracefs are streams.
                Err(Errno::SPIPE) => 0,
                pos => pos.map_err(system("lseek"))?,
            }
        }
        _ => 0,
    };
    Ok(Record {
        token: token.into(),
        kind: kind.number().into(),
        seals: seals.into(),
        device: stat.st_dev.into(),
        inode: stat.st_ino.into(),
        size: u64::try_from(stat.st_size).unwrap_or(0).into(),
        pos: pos.into(),
        status: status.bits().into(),
        descriptor: descriptor.bits().into(),
        mode: (stat.st_mode & 0o7777).into(),
        reserved: 0.into(),
        detail: detail.into(),
        more: more.into(),
    })
}

/// Looks at a file that is said to be that one. With its inode, and what tells its kind without asking for its file system,
/// it costs half as much as [`record`]; anything else is looked at as a whole.
pub(super) fn record_again(known: &Record, file: BorrowedFd<'_>) -> Result<Record, Fault> {
    let kind = Kind::of_number(known.kind.get());
    let stat = rustix::fs::fstat(file).map_err(system("fstat"))?;
    let same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && (stat.st_dev, stat.st_ino) == (known.device.get(), known.inode.get());
    let seals = match kind {
        // What has a name is no memfd; what has none, seals, and pages of the usual size is one.
        Some(Kind::Regular) if same && stat.st_nlink > 0 => 0,
        Some(Kind::Memfd) if same && stat.st_nlink == 0 && is_page(stat.st_blksize) => {
            match rustix::fs::fcntl_get_seals(file) {
                Ok(seals) => seals.bits(),
                Err(_) => return record(known.token.get(), file),
            }
        }
        _ => return record(known.token.get(), file),
    };
    let status = rustix::fs::fcntl_getfl(file).map_err(system("F_GETFL"))?;
    if status.contains(OFlags::PATH) {
        return record(known.token.get(), file);
    }
    let pos = match rustix::fs::seek(file, SeekFrom::Current(0)) {
        Err(Errno::SPIPE) => 0,
        pos => pos.map_err(system("lseek"))?,
    };
    Ok(Record {
        seals: seals.into(),
        size: u64::try_from(stat.st_size).unwrap_or(0).into(),
        pos: pos.into(),
        status: status.bits().into(),
        mode: (stat.st_mode & 0o7777).into(),
        detail: 0.into(),
        more: 0.into(),
        ..*known
    })
}

/// What only this kind has.
fn details(looked: &Looked, file: BorrowedFd<'_>) -> Result<(u64, u64), Fault> {
    Ok(match looked.kind {
        Kind::Memfd | Kind::Regular => (0, 0),
        Kind::Hugetlb => (looked.block, 0),
        Kind::Pipe => (u64_of(rustix::pipe::fcntl_getpipe_size(file).map_err(system("F_GETPIPE_SZ"))?), 0),
        Kind::Socket => {
            let domain = sockopt::socket_domain(file).map_err(system("SO_DOMAIN"))?.as_raw();
            let ty = sockopt::socket_type(file).map_err(system("SO_TYPE"))?.as_raw();
            let protocol = sockopt::socket_protocol(file).map_err(system("SO_PROTOCOL"))?;
            let protocol = protocol.map_or(0, |protocol| protocol.as_raw().get());
            let listens = sockopt::socket_acceptconn(file).map_err(system("SO_ACCEPTCONN"))?;
            (halves(domain.into(), ty), halves(protocol, listens.into()))
        }
        // Masters of pseudoterminals are one inode.
        Kind::CharDevice if is_terminal(looked.stat.st_rdev) => {
            let [index] = proc_info::values(file, ["tty-index"])?;
            let index = index.and_then(|text| text.parse::<u64>().ok());
            (looked.stat.st_rdev, index.map_or(0, |index| index.saturating_add(1)))
        }
        Kind::CharDevice | Kind::BlockDevice => (looked.stat.st_rdev, 0),
        Kind::Eventfd => {
            let [id, semaphore] = proc_info::values(file, ["eventfd-id", "eventfd-semaphore"])?;
            let id = id.and_then(|text| text.parse().ok());
            let known = if id.is_some() { EVENTFD_ID } else { 0 };
            let semaphore = if semaphore.is_some_and(|text| text != "0") { EVENTFD_SEMAPHORE } else { 0 };
            (id.unwrap_or(0), known | semaphore)
        }
        Kind::Epoll => {
            let mut watches = 0_u64;
            proc_info::each(file, |name, _| watches = watches.saturating_add(u64::from(name == "tfd")))?;
            (watches, 0)
        }
        Kind::Timerfd => {
            let [clock, interval] = proc_info::values(file, ["clockid", "it_interval"])?;
            let clock = proc_info::must("clockid", clock.as_ref(), |text| text.parse::<u64>().ok())?;
            (clock, proc_info::must("it_interval", interval.as_ref(), proc_info::nanoseconds)?)
        }
        Kind::Signalfd => {
            let [signals] = proc_info::values(file, ["sigmask"])?;
            (proc_info::must("sigmask", signals.as_ref(), |text| u64::from_str_radix(text, 16).ok())?, 0)
        }
        Kind::Pidfd => {
            let [process] = proc_info::values(file, ["Pid"])?;
            let process = proc_info::must("Pid", process.as_ref(), |text| text.parse::<i64>().ok())?;
            (bits_of(process), if looked.of_pidfs { PIDFD_INODE } else { 0 })
        }
    })
}

/// Whether this reader knows what was recorded.
pub(super) fn check(expected: &Record) -> Result<(), Fault> {
    let Some(kind) = Kind::of_number(expected.kind.get()) else {
        let fault = Fault::new(Code::FileKind).item("kind").found(expected.kind);
        let (first, last) = (Kind::ALL.first(), Kind::ALL.last());
        let number = |kind: Option<&Kind>| kind.map_or(0, |kind| kind.number());
        return Err(fault.expected(format_args!(
            "{} to {}, the kinds that are known here",
            number(first),
            number(last)
        )));
    };
    let seals = match kind {
        Kind::Memfd | Kind::Hugetlb => u32::MAX,
        _ => 0,
    };
    // The bits that mean something.
    let (detail, more) = match kind {
        Kind::Memfd | Kind::Regular => (0, 0),
        Kind::CharDevice if is_terminal(expected.detail.get()) => (u64::MAX, u64::MAX),
        Kind::CharDevice | Kind::Hugetlb | Kind::Pipe | Kind::BlockDevice | Kind::Epoll | Kind::Signalfd => {
            (u64::MAX, 0)
        }
        Kind::Socket => (u64::MAX, halves(u32::MAX, 1)),
        Kind::Timerfd => (u64::MAX, u64::MAX),
        Kind::Eventfd if expected.more.get() & EVENTFD_ID == 0 => (0, EVENTFD_SEMAPHORE),
        Kind::Eventfd => (u64::MAX, EVENTFD_ID | EVENTFD_SEMAPHORE),
        Kind::Pidfd => (u64::MAX, PIDFD_INODE),
    };
    for (item, value, means) in [
        ("reserved", u64::from(expected.reserved.get()), 0),
        ("seals", expected.seals.get().into(), seals.into()),
        ("detail", expected.detail.get(), detail),
        ("more", expected.more.get(), more),
    ] {
        if value & !means != 0 {
            return Err(Fault::new(Code::Reserved).item(item).found(value).expected(value & means));
        }
    }
    Ok(())
}

/// What is compared of a file of that kind, by the name that it is told by. What goes on while nobody looks is not in it:
/// the count of an eventfd, the time that is left of a timer, what is in a pipe or waits at a socket, whether the other
/// end is still there.
fn identity(kind: Kind, record: &Record) -> Vec<(&'static str, u64)> {
    let inode = [("device", record.device.get()), ("inode", record.inode.get())];
    let size = ("size", record.size.get());
    let position = ("position", record.pos.get());
    let status = ("status flags", record.status.get().into());
    let (detail, more) = (record.detail.get(), record.more.get());
    let mut all = Vec::new();
    match kind {
        Kind::Memfd | Kind::Hugetlb => {
            all.extend(inode);
            all.extend([size, ("seals", record.seals.get().into()), position]);
            all.extend([status, ("mode", record.mode.get().into()), ("page size", detail)]);
        }
        Kind::Regular => {
            all.extend(inode);
            all.extend([size, position, status, ("mode", record.mode.get().into())]);
        }
        Kind::Pipe => {
            all.extend(inode);
            all.extend([status, ("capacity", detail)]);
        }
        Kind::Socket => {
            all.extend(inode);
            all.extend([("domain", low(detail)), ("type", high(detail)), ("protocol", low(more))]);
            all.extend([("listening", high(more)), status]);
        }
        Kind::CharDevice => {
            all.extend(inode);
            all.extend([("device number", detail), ("terminal", more), status]);
        }
        Kind::BlockDevice => {
            all.extend(inode);
            all.extend([("device number", detail), position, status]);
        }
        Kind::Eventfd => {
            all.extend([("eventfd-id", detail), ("semaphore", more & EVENTFD_SEMAPHORE), status]);
        }
        Kind::Epoll => all.extend([("watches", detail), status]),
        Kind::Timerfd => all.extend([("clock", detail), ("interval", more), status]),
        Kind::Signalfd => all.extend([("signals", detail), status]),
        // By its inode where that is of one process only; numbers of processes differ between pid namespaces, and are
        // gone when the process is.
        Kind::Pidfd if more & PIDFD_INODE != 0 => {
            all.extend(inode);
            all.push(status);
        }
        Kind::Pidfd => all.extend([("process", detail), status]),
    }
    all
}

/// A process that was there and is not any more, where only its number tells it from others: it is not found wrong.
fn is_gone(kind: Kind, item: &str, found: u64) -> bool {
    kind == Kind::Pidfd && item == "process" && found == u64::MAX
}

/// Holds a descriptor that came against what was recorded. What the next kernel made anew has another inode, its own mode,
/// and is open for reading and writing.
pub(super) fn compare(expected: &Record, file: BorrowedFd<'_>, reborn: bool) -> Result<(), Fault> {
    let Some(kind) = Kind::of_number(expected.kind.get()) else {
        // `check` has told it.
        return Ok(());
    };
    let other = |found: &str| {
        let fault = Fault::new(Code::FileIdentity).item("kind").found(found);
        fault.expected(kind.with_article())
    };
    let came = match record_again(expected, file) {
        // One that could never have been handed over is another file, too.
        Err(fault) if fault.code() == Code::FileKind => return Err(other(fault.found_text())),
        came => came?,
    };
    match Kind::of_number(came.kind.get()) {
        Some(found) if found != kind => return Err(other(&found.with_article())),
        _ => {}
    }
    if let (true, Err(only)) = (reborn, kind.carried_by(Route::Session)) {
        return Err(Fault::new(Code::FileKind).item("kind").found(kind.with_article()).expected(only));
    }
    same(kind, expected, &came, reborn)
}

/// Holds what a file of that kind is now against what it was.
pub(super) fn same(kind: Kind, expected: &Record, came: &Record, reborn: bool) -> Result<(), Fault> {
    let remains = |item: &str| !reborn || matches!(item, "size" | "seals" | "position");
    let (came, recorded) = (identity(kind, came), identity(kind, expected));
    let mut fields = came.into_iter().zip(recorded).filter(|((item, _), _)| remains(item));
    match fields
        .find(|((item, found), (other, expected))| item != other || (found != expected && !is_gone(kind, item, *found)))
    {
        None => Ok(()),
        Some(((item, found), (_, expected))) => Err(Fault::new(Code::FileIdentity)
            .item(item)
            .found(format_args!("{found:#x}"))
            .expected(format_args!("{expected:#x}"))),
    }
}
