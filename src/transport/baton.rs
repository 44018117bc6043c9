//! Who serves: one unit in an eventfd, which exactly one side can take.
//!
//! The kernel is the judge: reading an eventfd takes all that is in it, at once, and two processes that read at the same
//! time do not both get it. It needs no third process, no shared memory, and it outlives whoever holds it. What is in it
//! says how far things are:
//!
//! | value | meaning |
//! |---|---|
//! | 1 | nobody has taken it |
//! | 0 | somebody has taken it, and does not serve yet |
//! | 2 | somebody has taken it, and serves, or has served |
//!
//! So whoever comes second learns from one read whether the other one serves; and when it finds 0 and the other one is
//! dead, that one never served.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::report::{Code, Fault};

/// What a read of the baton says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// It was free, and is ours now.
    Ours,
    /// The other side has it, and serves.
    Theirs,
    /// The other side has it, and did not serve yet.
    Between,
}

#[derive(Debug)]
pub(super) struct Baton(OwnedFd);

impl Baton {
    /// A baton that nobody has taken.
    pub(super) fn new() -> Result<Self, Fault> {
        let made = rustix::event::eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        made.map(Baton).map_err(|errno| Fault::new(Code::Io).item("eventfd").found(errno))
    }

    /// A baton that came. That it is one shows when it is reached for; here, that reaching for it cannot hold us.
    pub(super) fn of(fd: OwnedFd) -> Result<Self, Fault> {
        match rustix::fs::fcntl_getfl(&fd) {
            Ok(flags) if flags.contains(OFlags::NONBLOCK) => Ok(Baton(fd)),
            _ => Err(Fault::new(Code::FileKind).item("baton").found("a file that blocks").expected("an eventfd")),
        }
    }

    /// Takes it, if it is free. Once a side was told [`Reach::Theirs`] it must not ask again.
    pub(super) fn reach(&self) -> Result<Reach, Fault> {
        let mut value = [0; 8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut value[..])) {
            Ok(8) => Ok(if u64::from_ne_bytes(value) == 1 { Reach::Ours } else { Reach::Theirs }),
            Err(Errno::AGAIN) => Ok(Reach::Between),
            Ok(short) => Err(Fault::new(Code::FileKind).item("baton").found(format_args!("{short} bytes"))),
            Err(errno) => Err(Fault::new(Code::FileKind).item("baton").found(errno).expected("an eventfd")),
        }
    }

    /// Says that whoever took it serves. Before it does.
    pub(super) fn mark(&self) -> Result<(), Fault> {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &2_u64.to_ne_bytes()));
        written.map(drop).map_err(|errno| Fault::new(Code::Io).item("baton").found(errno))
    }
}

impl AsFd for Baton {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_side_takes_it_and_the_other_learns_how_far_it_is() {
        let baton = Baton::new().unwrap();
        let other = Baton::of(baton.0.try_clone().unwrap()).unwrap();
        assert_eq!(baton.reach().unwrap(), Reach::Ours);
        assert_eq!(other.reach().unwrap(), Reach::Between);
        assert_eq!(other.reach().unwrap(), Reach::Between);
        baton.mark().unwrap();
        assert_eq!(other.reach().unwrap(), Reach::Theirs);
    }

    #[test]
    fn of_many_at_once_one_takes_it() {
        for _ in 0..200 {
            let baton = Baton::new().unwrap();
            let reached: Vec<Reach> = std::thread::scope(|scope| {
                let runners: Vec<_> = (0..4).map(|_| scope.spawn(|| baton.reach().unwrap())).collect();
                runners.into_iter().map(|runner| runner.join().unwrap()).collect()
            });
            assert_eq!(reached.iter().filter(|reach| **reach == Reach::Ours).count(), 1, "{reached:?}");
        }
    }

    #[test]
    fn what_is_no_baton_is_refused_and_holds_nobody() {
        let (reader, writer) = std::io::pipe().unwrap();
        let says = "file-kind: baton: found a file that blocks, expected an eventfd";
        assert_eq!(Baton::of(reader.try_clone().unwrap().into()).unwrap_err().to_string(), says);
        for end in [OwnedFd::from(reader), writer.into()] {
            let flags = rustix::fs::fcntl_getfl(&end).unwrap();
            rustix::fs::fcntl_setfl(&end, flags | OFlags::NONBLOCK).unwrap();
            let baton = Baton::of(end).unwrap();
            match baton.reach() {
                // A pipe with nothing in it looks like a baton that somebody has: whoever gave it must say more.
                Ok(reach) => assert_eq!(reach, Reach::Between),
                Err(fault) => assert_eq!(
                    fault.to_string(),
                    "file-kind: baton: found Bad file descriptor (os error 9), expected an eventfd"
                ),
            }
        }
    }
}
