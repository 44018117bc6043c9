//! Copies out of a memory into a file, beside whatever else is done.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use alloc::string::ToString as _;
use alloc::vec::Vec;

use super::{MemError, Memory, PhysAddr};

/// Bytes of a memory and their place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they are.
    pub from: PhysAddr,
    /// How many.
    pub len: u64,
    /// Where they go, in bytes from the start of the file.
    pub offset: u64,
}

/// Memory whose bytes can be copied into a file.
pub trait Pour: Memory {
    /// Begins to copy the runs, which lie apart in the file. It may go on beside the caller until [`Pouring::wait`].
    ///
    /// The file is new: where the memory is zero because nobody ever wrote to it, nothing may be written.
    ///
    /// # Errors
    /// As [`Memory::read`]; [`MemError::Io`] when the file cannot be written, is an [`Arena`](super::Arena) that this
    /// process uses, or is being filled by another copy.
    fn pour(&self, runs: Vec<Run>, file: BorrowedFd<'_>) -> Result<Pouring, MemError>;
}

/// A copy that may still be going on. Dropped, it is waited for.
#[derive(Debug)]
#[must_use = "whether it went well is known after `wait`"]
pub struct Pouring(Option<JoinHandle<Result<(), MemError>>>);

impl Pouring {
    /// Everything is copied already.
    pub const DONE: Pouring = Pouring(None);

    /// Does the work in a thread of its own; where there can be none, at once.
    ///
    /// # Errors
    /// Those of the work, when it is done at once.
    pub fn beside(work: impl FnOnce() -> Result<(), MemError> + Send + 'static) -> Result<Pouring, MemError> {
        let work = Arc::new(Mutex::new(Some(work)));
        let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let theirs = Arc::clone(&work);
        match Builder::new().name("kho-pour".to_string()).spawn(move || take(&theirs).map_or(Ok(()), |work| work())) {
            Ok(thread) => Ok(Pouring(Some(thread))),
            Err(_) => take(&work).map_or(Ok(()), |work| work()).map(|()| Pouring::DONE),
        }
    }

    /// Waits until everything is copied.
    ///
    /// # Errors
    /// Why it could not be.
    pub fn wait(mut self) -> Result<(), MemError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), MemError> {
        let panicked = || MemError::Io { at: PhysAddr::new(0), len: 0, reason: "the copy panicked".to_string() };
        self.0.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(panicked())))
    }
}

impl Drop for Pouring {
    fn drop(&mut self) {
        // Nobody wants to know any more, but the file must not change after it was given up.
        let _ = self.join();
    }
}
