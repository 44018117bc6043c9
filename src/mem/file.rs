//! Reading and writing files at an offset, all or an error; and where a sparse one has data.

use core::ops::Range;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use crate::num::u64_of;
use crate::report::{Code, Fault};

/// Fills `to` from `offset` on. A file that ends before is an error, not zeros.
pub(super) fn read_at(fd: BorrowedFd<'_>, mut offset: u64, to: &mut [u8]) -> io::Result<()> {
    let mut rest = to;
    while !rest.is_empty() {
        let got = retry_on_intr(|| pread(fd, &mut *rest, offset))?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends at {offset:#x}")));
        }
        offset = offset.saturating_add(u64_of(got));
        rest = rest.get_mut(got..).unwrap_or_default();
    }
    Ok(())
}

/// Writes all of `from` at `offset`.
pub(super) fn write_at(fd: BorrowedFd<'_>, mut offset: u64, from: &[u8]) -> io::Result<()> {
    let mut rest = from;
    while !rest.is_empty() {
        let put = retry_on_intr(|| pwrite(fd, rest, offset))?;
        if put == 0 {
            return Err(Errno::NOSPC.into());
        }
        offset = offset.saturating_add(u64_of(put));
        rest = rest.get(put..).unwrap_or_default();
    }
    Ok(())
}

/// Where a sparse file has data. The system is asked once for each piece of it and not for each range, because the answer
/// costs time by its size: so ranges should be asked for in the order of the file.
///
/// The position of the open file moves; whoever uses this reads and writes at offsets.
pub(super) struct Data<'a> {
    fd: BorrowedFd<'a>,
    /// From here on up to the piece is a hole.
    asked: u64,
    piece: Range<u64>,
}

impl<'a> Data<'a> {
    /// Nothing is known yet.
    pub(super) const fn of(fd: BorrowedFd<'a>) -> Self {
        Data { fd, asked: 0, piece: 0..0 }
    }

    /// Takes all of the file for data, holes too, and never asks.
    pub(super) const fn everywhere(fd: BorrowedFd<'a>) -> Self {
        Data { fd, asked: 0, piece: 0..u64::MAX }
    }

    /// The first data in the range; none when all of it is a hole.
    pub(super) fn first_in(&mut self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        if range.start < self.asked || range.start >= self.piece.end {
            self.piece = match seek(self.fd, SeekFrom::Data(range.start)) {
                Ok(data) => data..seek(self.fd, SeekFrom::Hole(data)).unwrap_or(u64::MAX),
                // Nothing but a hole up to the end.
                Err(Errno::NXIO) => u64::MAX..u64::MAX,
                // A file system that cannot tell.
                Err(_) => range.start..u64::MAX,
            };
            self.asked = range.start;
            if self.piece.is_empty() && self.piece.start != u64::MAX {
                return Err(io::Error::other("the file changes while it is copied"));
            }
        }
        let data = self.piece.start.max(range.start)..self.piece.end.min(range.end);
        Ok(Some(data).filter(|data| !data.is_empty()))
    }
}

/// What the system refused, and in its own words why.
pub(super) fn io_fault(what: &'static str, error: impl std::fmt::Display) -> Fault {
    Fault::new(Code::Io).item(what).found(error)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn data_between_holes() {
        let page = u64_of(rustix::param::page_size());
        let file = File::from(rustix::fs::memfd_create("sparse", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(100 * page).unwrap();
        for at in [10, 11, 50] {
            file.write_all_at(b"x", at * page).unwrap();
        }
        let pages = |data: Option<Range<u64>>| data.map(|data| (data.start / page, data.end / page));
        let mut data = Data::of(file.as_fd());
        // In order, and then back to what is behind.
        for (range, expected) in [
            (0..5, None),
            (5..11, Some((10, 11))),
            (11..60, Some((11, 12))),
            (12..50, None),
            (12..60, Some((50, 51))),
            (51..100, None),
            (60..100, None),
            (0..100, Some((10, 12))),
        ] {
            let (start, end): (u64, u64) = (range.start, range.end);
            assert_eq!(pages(data.first_in(start * page..end * page).unwrap()), expected, "{range:?}");
        }
        let mut all = Data::everywhere(file.as_fd());
        assert_eq!(all.first_in(3..7).unwrap(), Some(3..7));
        assert_eq!(all.first_in(3..3).unwrap(), None);
    }
}
