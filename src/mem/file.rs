//! Reading and writing files at an offset, all or an error.

use std::io;
use std::os::fd::BorrowedFd;

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

/// What the system refused, and in its own words why.
pub(super) fn io_fault(what: &'static str, error: impl std::fmt::Display) -> Fault {
    Fault::new(Code::Io).item(what).found(error)
}
