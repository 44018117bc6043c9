//! Copies out of an arena into a file.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{copy_file_range, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::{Arena, Lease};
use crate::mem::file::{Data, read_at, write_at};
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
            pour(self.fd.as_fd(), base, file, runs, holes)?;
            return Ok(Pouring::DONE);
        }
        let dup = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, 0).map_err(|error| self.io(self.base(), 0, error));
        let (from, to) = (dup(self.fd.as_fd())?, dup(file)?);
        Pouring::beside(move || {
            let _lease = lease;
            pour(from.as_fd(), base, to.as_fd(), runs, holes)
        })
    }
}

/// Copies runs out of an arena whose first byte has the address `base`. With `holes`, holes stay holes.
fn pour(
    arena: BorrowedFd<'_>,
    base: u64,
    file: BorrowedFd<'_>,
    mut runs: Vec<Run>,
    holes: bool,
) -> Result<(), MemError> {
    let mut data = if holes { Data::of(arena) } else { Data::everywhere(arena) };
    if holes {
        runs.sort_unstable_by_key(|run| run.from);
    }
    let mut buffer = Vec::new();
    for run in runs {
        let failed = |error: &dyn ToString| MemError::Io { at: run.from, len: run.len, reason: error.to_string() };
        let start = run.from.get().saturating_sub(base);
        let end = start.saturating_add(run.len);
        let mut from = start;
        while let Some(piece) = data.first_in(from..end).map_err(|error| failed(&error))? {
            from = piece.start;
            let mut to = run.offset.saturating_add(from.saturating_sub(start));
            let rest = usize_of(piece.end.saturating_sub(from));
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
            }
        }
    }
    Ok(())
}
