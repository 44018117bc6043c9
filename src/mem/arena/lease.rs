//! One owner of one memfd in one process.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::fstat;

use crate::mem::file::io_fault;
use crate::report::{Code, Fault};

/// The right to make frames of one memfd: one owner in a process, or slices of two owners could be the same memory.
#[derive(Debug)]
pub(in crate::mem) struct Lease {
    device: u64,
    inode: u64,
}

static LEASED: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

impl Lease {
    pub(super) fn take(fd: BorrowedFd<'_>) -> Result<Arc<Lease>, Fault> {
        let stat = fstat(fd).map_err(|error| io_fault("fstat", error))?;
        let mut leased = LEASED.lock().unwrap_or_else(PoisonError::into_inner);
        if !leased.insert((stat.st_dev, stat.st_ino)) {
            return Err(Fault::new(Code::Refused)
                .item("descriptor")
                .found("a memfd that this process uses already")
                .expected("that its Arena and Mappings are gone"));
        }
        Ok(Arc::new(Lease { device: stat.st_dev, inode: stat.st_ino }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        LEASED.lock().unwrap_or_else(PoisonError::into_inner).remove(&(self.device, self.inode));
    }
}
