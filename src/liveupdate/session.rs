//! Sessions: of the next kernel, and of the previous one.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use super::refused::{Cause, Operation, Refused};
use rustix::io::Errno;

use super::sys;
use crate::abi::liveupdate::{FINISH, GET_NAME, PRESERVE_FD, RETRIEVE_FD, SessionByName, SessionFile, SessionFinish};
use crate::abi::luo::SESSION_NAME;
use crate::text::{Name, terminated};

/// A session that this kernel will hand to the next one.
///
/// Dropped, and so closed, it un-preserves its files, unless its descriptor is open elsewhere too: a failure on the way
/// leaves nothing preserved, and the files are as they were. So keep it until the kernel is left: hold the value, give
/// the descriptor to who holds it ([`OwnedFd::from`]), or [`keep`](NewSession::keep) it for the rest of the process.
#[derive(Debug)]
#[must_use = "a new session that is dropped preserves nothing"]
pub struct NewSession {
    fd: OwnedFd,
    name: Name,
}

impl NewSession {
    pub(super) fn made(fd: OwnedFd, name: Name) -> Self {
        NewSession { fd, name }
    }

    /// A session whose descriptor this process was given, by a service manager say. The kernel is asked whether it is
    /// one, for its name, and whether it is new.
    ///
    /// # Errors
    /// The descriptor, and [`Cause::WrongKind`] when it is no session, [`Cause::OtherKind`] when it was retrieved.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, (OwnedFd, Refused)> {
        match given(fd.as_fd(), Kind::New) {
            Ok(name) => Ok(NewSession { fd, name }),
            Err(refused) => Err((fd, refused)),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Preserves an open file under a token. The session holds the file from now on: it may be closed.
    ///
    /// Holes of a memfd are filled with memory now. What was preserved before stays so when this fails.
    ///
    /// # Errors
    /// [`Cause::TokenTaken`], [`Cause::FileTaken`],
    /// [`Cause::NotPreservable`], [`Cause::TooLarge`] and others:
    /// [`preflight()`](super::preflight()) tells most of them before.
    pub fn preserve(&self, token: u64, file: impl AsFd) -> Result<(), Refused> {
        let mut argument = by_token(token, file.as_fd().as_raw_fd());
        sys::ask(self.as_fd(), PRESERVE_FD, &mut argument)
            .map_err(|errno| Refused::new(Operation::Preserve, errno).session(&self.name).token(token))
    }

    /// Leaves it open for the rest of the process, and its files preserved. An exec closes it all the same.
    pub fn keep(self) {
        let _ = ManuallyDrop::new(self.fd);
    }
}

/// A session that the previous kernel left.
///
/// To close it is to finish it: Linux then frees the memfds that were not retrieved. An early return must not cost them,
/// so a value that is dropped **stays open until the process ends**. End it with [`finish`](RetrievedSession::finish), or
/// take the descriptor ([`OwnedFd::from`]) and close that.
#[derive(Debug)]
#[must_use = "a retrieved session that is dropped stays open until the process ends: finish it"]
pub struct RetrievedSession {
    fd: ManuallyDrop<OwnedFd>,
    name: Name,
}

impl RetrievedSession {
    pub(super) fn made(fd: OwnedFd, name: Name) -> Self {
        RetrievedSession { fd: ManuallyDrop::new(fd), name }
    }

    /// A session whose descriptor this process was given. As [`NewSession::from_fd`].
    ///
    /// # Errors
    /// The descriptor, and [`Cause::WrongKind`] when it is no session, [`Cause::OtherKind`] when it is a new one.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, (OwnedFd, Refused)> {
        match given(fd.as_fd(), Kind::Retrieved) {
            Ok(name) => Ok(RetrievedSession::made(fd, name)),
            Err(refused) => Err((fd, refused)),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The file of a token. Asked again, the kernel gives the same open file again.
    ///
    /// # Errors
    /// [`Cause::NoSuchToken`]; anything else is final for this token: the kernel does not try
    /// a second time.
    pub fn retrieve(&self, token: u64) -> Result<OwnedFd, Refused> {
        sys::ask_for_fd(self.as_fd(), RETRIEVE_FD, by_token(token, -1))
            .map_err(|errno| Refused::new(Operation::RetrieveFile, errno).session(&self.name).token(token))
    }

    /// Ends the session. Memfds that were not retrieved are freed; those that were belong to who holds them.
    ///
    /// # Errors
    /// The session, as it was, and [`Cause::NotFinished`] when a file is not ready for it.
    pub fn finish(self) -> Result<(), (Self, Refused)> {
        let mut argument = SessionFinish { size: 0.into(), reserved: 0.into() };
        match sys::ask(self.as_fd(), FINISH, &mut argument) {
            Ok(()) => {
                drop(OwnedFd::from(self));
                Ok(())
            }
            Err(errno) => {
                let refused = Refused::new(Operation::Finish, errno).session(&self.name);
                Err((self, refused))
            }
        }
    }
}

/// The argument that names a file.
pub(super) fn by_token(token: u64, fd: i32) -> SessionFile {
    SessionFile { size: 0.into(), fd: fd.into(), token: token.into() }
}

/// A second descriptor, close-on-exec, of what a number from the environment or the command line means: a session or a
/// file that this process inherited. The number itself stays open, and so does a session: nothing ends when this value is
/// dropped.
///
/// # Errors
/// As F_DUPFD_CLOEXEC of fcntl(2): `EBADF` when the number is no open descriptor.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    sys::duplicate(number)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    New,
    Retrieved,
}

/// The name of a session that was given, if it is one, and not of the other kind.
fn given(fd: BorrowedFd<'_>, expected: Kind) -> Result<Name, Refused> {
    let mut argument = SessionByName { size: 0.into(), fd: 0.into(), name: [0; SESSION_NAME] };
    sys::ask(fd, GET_NAME, &mut argument).map_err(|errno| Refused::new(Operation::Given, errno))?;
    let name = Name::from(terminated(&argument.name).unwrap_or(&argument.name));
    // Preserving no file changes nothing, and the kinds answer differently: retrieved ones do not take the request.
    let kind = match sys::ask(fd, PRESERVE_FD, &mut by_token(0, -1)) {
        Err(Errno::INVAL) => Kind::Retrieved,
        Err(Errno::BADF | Errno::EXIST) => Kind::New,
        // Nothing that is known: who gave it must know.
        _ => expected,
    };
    if kind != expected {
        return Err(Refused::new(Operation::Given, Errno::INVAL).session(&name).because(Cause::OtherKind));
    }
    Ok(name)
}

impl AsFd for NewSession {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for RetrievedSession {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Closing it un-preserves the files of the session.
impl From<NewSession> for OwnedFd {
    fn from(session: NewSession) -> Self {
        session.fd
    }
}

/// Closing it finishes the session.
impl From<RetrievedSession> for OwnedFd {
    fn from(session: RetrievedSession) -> Self {
        ManuallyDrop::into_inner(session.fd)
    }
}
