//! What `/proc` says of a descriptor of this process: of some files the kernel tells nowhere else what they are.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::report::{Code, Fault};

/// Of the thread and not of the process: the main thread may have ended, and a thread may have descriptors of its own.
const FOLDER: &str = "/proc/thread-self";
/// `PROC_SUPER_MAGIC`: anything can be mounted at a path.
const PROCFS: u64 = 0x9fa0;
/// Bytes that are read of one descriptor. An epoll has a line of some 70 bytes for each file that it watches.
const LIMIT: u64 = 256 << 20;
/// Bytes of a line that are looked at.
const LINE: u64 = 4096;

fn fault(found: impl core::fmt::Display) -> Fault {
    Fault::new(Code::Io).item("fdinfo").found(found)
}

fn folder(path: &str) -> Result<OwnedFd, Fault> {
    let unmounted = |found: &dyn core::fmt::Display| {
        fault(format_args!("{path}: {found}")).expected("/proc, mounted: it says what a file is")
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| unmounted(&errno))?;
    let system = rustix::fs::fstatfs(&folder).map_err(|errno| unmounted(&errno))?;
    if u64::try_from(system.f_type).is_ok_and(|magic| magic == PROCFS) {
        return Ok(folder);
    }
    Err(unmounted(&"a folder of another file system"))
}

/// What stands for the path of the descriptor: `anon_inode:[eventfd]`.
pub(super) fn link(file: BorrowedFd<'_>) -> Result<String, Fault> {
    let folder = folder(&format!("{FOLDER}/fd"))?;
    let link = rustix::fs::readlinkat(&folder, file.as_raw_fd().to_string(), Vec::new()).map_err(fault)?;
    Ok(link.to_string_lossy().into_owned())
}

/// Each line `NAME: VALUE` that the kernel says of the open file.
pub(super) fn each(file: BorrowedFd<'_>, line: impl FnMut(&str, &str)) -> Result<(), Fault> {
    let folder = folder(&format!("{FOLDER}/fdinfo"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let info = rustix::fs::openat(&folder, file.as_raw_fd().to_string(), flags, Mode::empty()).map_err(fault)?;
    parse(File::from(info), line)
}

fn parse(source: impl std::io::Read, mut line: impl FnMut(&str, &str)) -> Result<(), Fault> {
    let mut reader = BufReader::new(source.take(LIMIT.saturating_add(1)));
    let mut bytes = Vec::new();
    let mut total = 0_u64;
    loop {
        bytes.clear();
        let read = reader.by_ref().take(LINE).read_until(b'\n', &mut bytes).map_err(fault)?;
        total = total.saturating_add(crate::num::u64_of(read));
        if read == 0 {
            return Ok(());
        }
        if total > LIMIT {
            return Err(fault(format_args!("more than {LIMIT} bytes")));
        }
        if let Some((name, value)) = core::str::from_utf8(&bytes).ok().and_then(|text| text.split_once(':')) {
            line(name.trim(), value.trim());
        }
    }
}

/// The first value of each of these names.
pub(super) fn values<const N: usize>(file: BorrowedFd<'_>, names: [&str; N]) -> Result<[Option<String>; N], Fault> {
    let mut found = [const { None }; N];
    each(file, |name, value| {
        for (wanted, place) in names.iter().zip(&mut found) {
            if *wanted == name && place.is_none() {
                *place = Some(value.to_string());
            }
        }
    })?;
    Ok(found)
}

/// A value that must be there, and mean something.
pub(super) fn must<T>(name: &str, value: Option<&String>, read: impl FnOnce(&str) -> Option<T>) -> Result<T, Fault> {
    let value = value.ok_or_else(|| fault(format_args!("no line {name}")))?;
    read(value).ok_or_else(|| fault(format_args!("{name}: {value}")))
}

/// `(SECONDS, NANOSECONDS)` in nanoseconds.
pub(super) fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, nanoseconds) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_proc_the_error_says_so() {
        assert_eq!(
            folder("/nowhere/at/all/fd").unwrap_err().to_string(),
            "io: fdinfo: found /nowhere/at/all/fd: No such file or directory (os error 2), expected /proc, mounted: it \
             says what a file is"
        );
        // Anything can be at a path.
        let other = tempfile::tempdir().unwrap();
        let path = other.path().to_str().unwrap();
        let says = format!("found {path}: a folder of another file system, expected /proc, mounted");
        assert!(folder(path).unwrap_err().to_string().contains(&says));
    }

    fn lines(text: &[u8]) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        parse(text, |name, value| lines.push((name.to_string(), value.to_string()))).unwrap();
        lines
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let text = b"pos:\t0\nno colon\n\xff\xfe: 3\n\n:\nclockid: 1";
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        assert_eq!(lines(text), [pair("pos", "0"), pair("", ""), pair("clockid", "1")]);
        assert_eq!(lines(b""), []);
        let long = [b"a:".as_slice(), &[b'x'; 10_000], b"\nb: 1\n"].concat();
        assert_eq!(lines(&long).last(), Some(&pair("b", "1")));
    }

    #[test]
    fn endless_lines_end() {
        let told = parse(std::io::repeat(b'x'), |_, _| panic!("no line")).unwrap_err();
        assert_eq!(told.to_string(), "io: fdinfo: more than 268435456 bytes");
    }

    #[test]
    fn times_and_values() {
        assert_eq!(nanoseconds("(1, 500)"), Some(1_000_000_500));
        assert_eq!(nanoseconds("(18446744073709551615, 0)"), Some(u64::MAX));
        for text in ["", "(", "(1)", "1, 2", "(a, 2)", "(1, -2)", "(1, 2"] {
            assert_eq!(nanoseconds(text), None, "{text}");
        }
        let told = |value: Option<&String>| must("clockid", value, |text| text.parse::<u32>().ok());
        assert_eq!(told(None).unwrap_err().to_string(), "io: fdinfo: no line clockid");
        assert_eq!(told(Some(&"x".into())).unwrap_err().to_string(), "io: fdinfo: clockid: x");
        assert_eq!(told(Some(&"7".into())).unwrap(), 7);
    }

    proptest::proptest! {
        #![proptest_config(crate::testing::cases(300))]

        #[test]
        fn any_bytes_are_lines_or_none(bytes in proptest::collection::vec(0..=255_u8, 0..9000)) {
            parse(bytes.as_slice(), |_, value| {
                let _ = nanoseconds(value);
            })
            .unwrap();
        }
    }
}
