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

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

use crate::files::Kind;
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

    /// A baton that came: an eventfd, and one that reaching for cannot hold us.
    pub(super) fn of(fd: OwnedFd) -> Result<Self, Fault> {
        super::is_kind(fd.as_fd(), Kind::Eventfd, "baton", "an eventfd")?;
        match rustix::fs::fcntl_getfl(&fd) {
            Ok(flags) if flags.contains(OFlags::NONBLOCK) => Ok(Baton(fd)),
            _ => Err(Fault::new(Code::FileKind).item("baton").found("a file that blocks").expected("an eventfd")),
        }
    }

    /// Whether somebody has marked it; takes nothing.
    pub(super) fn is_full(&self) -> bool {
        let mut wanted = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut wanted, Some(&at_once))).is_ok_and(|ready| ready > 0)
    }

    /// Takes it, if it is free. Once a side was told [`Reach::Theirs`] it must not ask again.
    pub(super) fn reach(&self) -> Result<Reach, Fault> {
        let mut value = [0; 8];
        match rustix::io::retry_on_intr(|| self.read(&mut value)) {
            Ok(8) => Ok(if u64::from_ne_bytes(value) == 1 { Reach::Ours } else { Reach::Theirs }),
            Err(Errno::AGAIN) => Ok(Reach::Between),
            Ok(short) => Err(Fault::new(Code::FileKind).item("baton").found(format_args!("{short} bytes"))),
            Err(errno) => Err(Fault::new(Code::FileKind).item("baton").found(errno).expected("an eventfd")),
        }
    }

    /// Whoever has the other descriptor can make it one that blocks, at any time: so this read says itself that it must not.
    fn read(&self, value: &mut [u8; 8]) -> Result<usize, Errno> {
        /// No position: as `read`.
        const HERE: u64 = u64::MAX;
        let mut to = [std::io::IoSliceMut::new(&mut value[..])];
        match rustix::io::preadv2(&self.0, &mut to, HERE, ReadWriteFlags::NOWAIT) {
            // Before Linux 5.8.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => rustix::io::read(&self.0, &mut value[..]),
            read => read,
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
        let says = |fd: OwnedFd| Baton::of(fd).unwrap_err().to_string();
        assert_eq!(says(reader.try_clone().unwrap().into()), "file-kind: baton: found pipe, expected an eventfd");
        for end in [OwnedFd::from(reader), writer.into()] {
            let flags = rustix::fs::fcntl_getfl(&end).unwrap();
            rustix::fs::fcntl_setfl(&end, flags | OFlags::NONBLOCK).unwrap();
            // With nothing in it, it would look like a baton that somebody has, for ever.
            assert_eq!(says(end), "file-kind: baton: found pipe, expected an eventfd");
        }
        let memfd = rustix::fs::memfd_create(c"baton", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&memfd, &1_u64.to_ne_bytes()).unwrap();
        rustix::fs::fcntl_setfl(&memfd, OFlags::NONBLOCK).unwrap();
        assert_eq!(says(memfd), "file-kind: baton: found memfd, expected an eventfd");
        let blocks = rustix::event::eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(says(blocks), "file-kind: baton: found a file that blocks, expected an eventfd");
    }

    #[test]
    fn one_that_is_made_to_block_later_holds_nobody_either() {
        let baton = Baton::new().unwrap();
        let hostile = baton.0.try_clone().unwrap();
        assert_eq!(Baton(hostile.try_clone().unwrap()).reach().unwrap(), Reach::Ours);
        rustix::fs::fcntl_setfl(&hostile, OFlags::empty()).unwrap();
        assert_eq!(baton.reach().unwrap(), Reach::Between);
        assert!(!baton.is_full());
        baton.mark().unwrap();
        assert!(baton.is_full());
        assert_eq!(baton.reach().unwrap(), Reach::Theirs);
    }

    #[test]
    fn one_whose_value_was_changed_is_nobodys_twice() {
        for value in [2_u64, 3, u64::MAX - 3] {
            let baton = Baton::new().unwrap();
            rustix::io::write(&baton.0, &value.to_ne_bytes()).unwrap();
            assert_eq!(baton.reach().unwrap(), Reach::Theirs, "{value}");
        }
    }
}
