//! Copies out of an arena into a file.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{SeekFrom, copy_file_range, fstat, seek};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::{Arena, Lease};
use crate::mem::file::{read_at, write_at};
use crate::mem::{MemError, Pour, Pouring, Run};
use crate::num::{u64_of, usize_of};

impl Pour for Arena {
    fn pour(&self, runs: Vec<Run>, file: BorrowedFd<'_>) -> Result<Pouring, MemError> {
        /// Less is copied in the time that a thread takes to start.
        const BESIDE: u64 = 1 << 20;
        for &Run { from: at, len, .. } in &runs {
            if !self.extents.iter().any(|extent| extent.contains(at, len)) {
                return Err(MemError::Outside { at, len });
            }
        }
        let base = self.facts.base();
        // Whoever holds slices of another arena, or of this one, would see them change: so no arena is in use in the
        // file, and none can come into use before this is over.
        let lease = Lease::take(file).map_err(|fault| self.io(self.base(), 0, fault))?;
        let total = runs.iter().fold(0, |sum: u64, run| sum.saturating_add(run.len));
        // What a predecessor only promised to use must not cost memory here. As long as no more is copied than the arena
        // has, holes need not be looked for, which is a good part of the time.
        let stat = fstat(&self.fd).map_err(|error| self.io(self.base(), 0, error))?;
        let has = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let holes = self.poured.fetch_add(total, Ordering::Relaxed).saturating_add(total) > has;
        if total < BESIDE {
            pour(self.fd.as_fd(), base, file, &runs, holes)?;
            return Ok(Pouring::DONE);
        }
        let dup = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, 0).map_err(|error| self.io(self.base(), 0, error));
        let (from, to) = (dup(self.fd.as_fd())?, dup(file)?);
        Pouring::beside(move || {
            let _lease = lease;
            pour(from.as_fd(), base, to.as_fd(), &runs, holes)
        })
    }
}

/// Copies runs out of an arena whose first byte has the address `base`.
///
/// With `holes`, holes stay holes. Where data is, is asked once for each piece of it and not for each run, because the
/// answer costs time by its size.
fn pour(arena: BorrowedFd<'_>, base: u64, file: BorrowedFd<'_>, runs: &[Run], holes: bool) -> Result<(), MemError> {
    let mut known = if holes { 0..0 } else { 0..u64::MAX };
    let mut buffer = Vec::new();
    for run in runs {
        let failed = |error: &dyn ToString| MemError::Io { at: run.from, len: run.len, reason: error.to_string() };
        let mut from = run.from.get().saturating_sub(base);
        let (mut to, end) = (run.offset, run.offset.saturating_add(run.len));
        while to < end {
            if !known.contains(&from) {
                let data = match seek(arena, SeekFrom::Data(from)) {
                    Ok(data) => data,
                    Err(Errno::NXIO) => break,
                    Err(_) => from,
                };
                known = data..seek(arena, SeekFrom::Hole(data)).unwrap_or(u64::MAX);
                if known.is_empty() {
                    return Err(failed(&"the arena changes while it is copied"));
                }
                let skip = data.saturating_sub(from).min(end.saturating_sub(to));
                (from, to) = (from.saturating_add(skip), to.saturating_add(skip));
                continue;
            }
            let rest = usize_of(end.saturating_sub(to).min(known.end.saturating_sub(from)));
            // Both are of tmpfs, so the system copies once; where it does not want to, we do.
            let done = match copy_file_range(arena, Some(&mut from), file, Some(&mut to), rest) {
                Ok(done) => done,
                Err(Errno::INTR) => continue,
                Err(_) => 0,
            };
            if done == 0 {
                buffer.resize(rest.min(1 << 20), 0);
                read_at(arena, from, &mut buffer).map_err(|error| failed(&error))?;
                write_at(file, to, &buffer).map_err(|error| failed(&error))?;
                from = from.saturating_add(u64_of(buffer.len()));
                to = to.saturating_add(u64_of(buffer.len()));
            }
        }
    }
    Ok(())
}
