//! Files as they are named on the command line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use rustix::fs::{MemfdFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{Failed, open_number, token};
use crate::source::clean;

/// A number is a descriptor that this process inherited; anything else is a path, `./3` too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Where {
    Number(RawFd),
    Path(PathBuf),
}

impl Where {
    pub(super) fn parse(text: &OsStr) -> Where {
        let digits = text.as_bytes().iter().all(u8::is_ascii_digit);
        match text.to_str().and_then(|text| text.parse().ok()).filter(|_| digits) {
            Some(number) => Where::Number(number),
            None => Where::Path(text.into()),
        }
    }

    fn open(&self) -> Result<OwnedFd, Failed> {
        match self {
            Where::Number(number) => open_number(*number),
            Where::Path(path) => {
                // NONBLOCK: a pipe must not hold us before it is refused. And to open a device may be to start it, as
                // a watchdog: what is no file is only looked at.
                let device = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
                let look = if device { OFlags::PATH } else { OFlags::NONBLOCK };
                let flags = (look | OFlags::NOCTTY).bits();
                let file = File::options().read(true).custom_flags(i32::try_from(flags)?).open(path);
                Ok(file.map_err(|error| format!("{self}: {error}"))?.into())
            }
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Where::Number(number) => write!(f, "descriptor {number}"),
            Where::Path(path) => f.write_str(&clean(&path.display().to_string())),
        }
    }
}

/// `TOKEN=` and what follows; the token also as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) written: String,
    pub(super) token: u64,
    pub(super) rest: Option<OsString>,
}

/// `TOKEN` or `TOKEN=REST`.
pub(super) fn item(text: &OsStr) -> Option<Item> {
    let bytes = text.as_bytes();
    let (name, rest) = match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].into()))),
        None => (bytes, None),
    };
    let name = OsStr::from_bytes(name);
    // An empty rest names nothing.
    let rest = match rest {
        Some(rest) if rest.is_empty() => return None,
        rest => rest,
    };
    Some(Item { written: name.to_str()?.into(), token: token(name).filter(|_| !name.is_empty())?, rest })
}

/// Parses `TOKEN=REST` for clap; a path is any bytes.
pub(super) fn pair() -> impl TypedValueParser<Value = (u64, OsString)> {
    OsStringValueParser::new().try_map(|text| match item(&text) {
        Some(Item { token, rest: Some(rest), .. }) => Ok((token, rest)),
        _ => Err("not TOKEN=WHAT with a token of at most 64 bits, decimal or 0x.."),
    })
}

/// A file to be preserved, open.
pub(super) struct Source {
    pub(super) token: u64,
    pub(super) name: String,
    pub(super) file: OwnedFd,
}

impl Source {
    /// The file itself.
    pub(super) fn itself(token: u64, place: &OsStr) -> Result<Source, Failed> {
        let place = Where::parse(place);
        Ok(Source { token, name: place.to_string(), file: place.open()? })
    }

    /// The bytes of a file, in a new memfd.
    pub(super) fn copy(token: u64, path: &OsStr) -> Result<Source, Failed> {
        let place = Where::Path(path.into());
        let from = File::from(place.open()?);
        if !from.metadata()?.is_file() {
            return Err(format!("{place}: not a regular file, so its bytes cannot be copied").into());
        }
        let to = rustix::fs::memfd_create("kho", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let to = File::from(to);
        pour(&from, &to).map_err(|error| format!("{place}: {error}"))?;
        Ok(Source { token, name: place.to_string(), file: to.into() })
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

const BLOCK: usize = 4096;

/// Copies a file into an empty one. Blocks of zeros become holes, and holes are not read. Moves the position of `from`.
pub(super) fn pour(from: &File, to: &File) -> std::io::Result<()> {
    let size = from.metadata()?.len();
    let mut buffer = vec![0; 256 * BLOCK];
    let mut at = 0_u64;
    loop {
        at = next_data(from, at, size);
        // Whole pieces, so that blocks stay blocks.
        let mut len = 0;
        while len < buffer.len() {
            match from.read_at(&mut buffer[len..], at + len as u64) {
                Ok(0) => break,
                Ok(got) => len += got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let piece = &buffer[..len];
        let mut start = 0;
        while start < len {
            let is_zero = |at: usize| piece[at..len.min(at + BLOCK)].iter().all(|&byte| byte == 0);
            let zero = is_zero(start);
            let mut end = start + BLOCK;
            while end < len && is_zero(end) == zero {
                end += BLOCK;
            }
            let end = end.min(len);
            if !zero {
                to.write_all_at(&piece[start..end], at + start as u64)?;
            }
            start = end;
        }
        at += len as u64;
        if len < buffer.len() {
            // Holes at the end.
            return to.set_len(at);
        }
    }
}

/// From where on there may be something else than a hole. What has no size, as in /proc, has none.
fn next_data(file: &File, at: u64, size: u64) -> u64 {
    if at >= size {
        return at;
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(next) => next.clamp(at, size) & !(BLOCK as u64 - 1),
        // It ends in a hole.
        Err(Errno::NXIO) => size,
        Err(_) => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, u64, Option<String>)> {
        item(OsStr::new(text)).map(|item| (item.written, item.token, item.rest.map(|rest| rest.into_string().unwrap())))
    }

    #[test]
    fn tokens_as_people_write_them() {
        assert_eq!(parsed("7"), Some(("7".into(), 7, None)));
        assert_eq!(parsed("0x1F=out"), Some(("0x1F".into(), 31, Some("out".into()))));
        assert_eq!(parsed("0xffffffffffffffff=a=b"), Some(("0xffffffffffffffff".into(), u64::MAX, Some("a=b".into()))));
        assert_eq!(parsed("18446744073709551615").unwrap().1, u64::MAX);
        for text in
            ["", "=x", "1=", "x=1", "+1", "-1", "1 ", "0x", "0x+1", "1F", "18446744073709551616", "0x10000000000000000"]
        {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_descriptors_and_the_rest_paths() {
        assert_eq!(Where::parse(OsStr::new("3")), Where::Number(3));
        for path in ["./3", "-1", "3x", "99999999999", "a"] {
            assert_eq!(Where::parse(OsStr::new(path)), Where::Path(path.into()));
        }
    }

    #[test]
    fn zeros_become_holes() {
        let file = || tempfile::tempfile().unwrap();
        for size in [0, 1, 4096, 5 << 20, (1 << 20) + 5] {
            let (from, to) = (file(), file());
            from.set_len(size).unwrap();
            for at in [0, 70_000, (1 << 20) - 1].into_iter().filter(|at| at + 2 <= size) {
                from.write_all_at(b"xy", at).unwrap();
            }
            pour(&from, &to).unwrap();
            let bytes = |file: &File| {
                let mut bytes = vec![0; usize::try_from(size).unwrap()];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            assert_eq!(to.metadata().unwrap().len(), size);
            assert!(bytes(&from) == bytes(&to), "{size}");
        }
        // A TiB of which a byte is there, not at the start of a block.
        let (from, to) = (file(), file());
        from.set_len(1 << 40).unwrap();
        from.write_all_at(b"x", (1 << 39) + 70_001).unwrap();
        pour(&from, &to).unwrap();
        let mut bytes = [1; 3];
        to.read_exact_at(&mut bytes, (1 << 39) + 70_000).unwrap();
        assert_eq!((&bytes, to.metadata().unwrap().len()), (b"\0x\0", 1 << 40));
        let (from, to) = (File::open("/proc/self/status").unwrap(), file());
        pour(&from, &to).unwrap();
        assert!(to.metadata().unwrap().len() > 100, "what says no size is read to its end");
        let (from, to) = (file(), file());
        from.write_all_at(&vec![0; 1 << 20], 0).unwrap();
        pour(&from, &to).unwrap();
        assert_eq!(rustix::fs::fstat(&to).unwrap().st_blocks, 0);
    }
}
