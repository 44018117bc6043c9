//! The device: sessions by name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::refused::{Cause, Operation, Refused};
use super::session::{NewSession, RetrievedSession};
use super::sys;
use crate::abi::liveupdate::{CREATE_SESSION, RETRIEVE_SESSION, SessionByName};
use crate::abi::luo::SESSION_NAME;
use crate::text::Name;

/// Where Linux has it.
pub const DEVICE: &str = "/dev/liveupdate";

/// The open device. Nobody else can open it meanwhile; sessions do not need it once they are made.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens [`DEVICE`]. The first open after a kexec is when the kernel reads what its predecessor left.
    ///
    /// # Errors
    /// [`Cause::NoLiveUpdate`], [`Cause::OpenElsewhere`],
    /// [`Cause::Forbidden`], [`Cause::IncomingBroken`].
    pub fn open() -> Result<Device, Refused> {
        Device::open_at(DEVICE)
    }

    /// As [`Device::open`], where it is in another place. That the file is the device is seen at the first request.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_at(path: impl AsRef<Path>) -> Result<Device, Refused> {
        // NONBLOCK: a pipe that is there by mistake must not hold us.
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::open(path.as_ref(), flags, Mode::empty())
            .map(Device)
            .map_err(|errno| Refused::new(Operation::Open, errno))
    }

    /// Makes a session for the next kernel. It is empty, and lives as long as it is held.
    ///
    /// # Errors
    /// [`Cause::BadName`] unless the name is 1 to 63 bytes without a zero (the kernel is not asked
    /// then), [`Cause::NameTaken`].
    pub fn create(&self, name: impl AsRef<[u8]>) -> Result<NewSession, Refused> {
        let (name, fd) = self.session(Operation::Create, CREATE_SESSION, name.as_ref())?;
        Ok(NewSession::made(fd, name))
    }

    /// Takes a session that the previous kernel left. It can be taken once.
    ///
    /// # Errors
    /// [`Cause::NoSuchSession`],
    /// [`Cause::AlreadyRetrieved`], [`Cause::BadName`].
    pub fn retrieve(&self, name: impl AsRef<[u8]>) -> Result<RetrievedSession, Refused> {
        let (name, fd) = self.session(Operation::Retrieve, RETRIEVE_SESSION, name.as_ref())?;
        Ok(RetrievedSession::made(fd, name))
    }

    fn session(&self, operation: Operation, number: u8, name: &[u8]) -> Result<(Name, OwnedFd), Refused> {
        let refused = |errno| Refused::new(operation, errno).session(&Name::from(name));
        // A zero in the middle would name another session.
        let argument = by_name(name).ok_or_else(|| refused(Errno::INVAL).because(Cause::BadName))?;
        let fd = sys::ask_for_fd(self.0.as_fd(), number, argument).map_err(refused)?;
        Ok((Name::from(name), fd))
    }
}

/// The argument that names a session; none for a name that a session cannot have.
pub(super) fn by_name(name: &[u8]) -> Option<SessionByName> {
    let mut field = [0; SESSION_NAME];
    if name.is_empty() || name.contains(&0) || name.len() >= SESSION_NAME {
        return None;
    }
    field.get_mut(..name.len())?.copy_from_slice(name);
    Some(SessionByName { size: 0.into(), fd: (-1).into(), name: field })
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.0
    }
}
