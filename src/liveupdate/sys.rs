//! The ioctls of `/dev/liveupdate`. The only file of this folder with `unsafe`.
//!
//! Rules of this file: an argument is a structure of `abi::liveupdate`, borrowed for the one call that sees it; its first
//! field is its own size and is set here, nowhere else; a descriptor is owned only if the kernel has said that it is new;
//! a number that came from outside is never closed and never owned, only duplicated.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use crate::abi::Wire;
use crate::abi::liveupdate::{SessionByName, SessionFile, SessionFinish, TYPE};

/// A structure that says its own size.
pub(super) trait Argument: Wire {
    /// Its first field.
    fn set_size(&mut self, size: u32);
}

/// An argument that a descriptor can come back in.
pub(super) trait WithFd: Argument {
    fn fd(&self) -> RawFd;
}

macro_rules! argument {
    ($($name:ident),*) => {$(
        impl Argument for $name {
            fn set_size(&mut self, size: u32) {
                self.size = size.into();
            }
        }
    )*};
}

argument!(SessionByName, SessionFile, SessionFinish);

impl WithFd for SessionByName {
    fn fd(&self) -> RawFd {
        self.fd.get()
    }
}

impl WithFd for SessionFile {
    fn fd(&self) -> RawFd {
        self.fd.get()
    }
}

/// One call: a number and what it reads and writes.
struct Call<'a, A> {
    number: u8,
    argument: &'a mut A,
}

/// The request of an ioctl of `/dev/liveupdate`: `_IO(0xBA, nr)`.
pub(super) const fn request(number: u8) -> Opcode {
    opcode::none(TYPE, number)
}

// SAFETY: `as_ptr` points at a structure that is borrowed mutably for as long as the call exists. The request is one of
// type 0xBA, which Linux has registered for /dev/liveupdate alone: it copies in and out as many bytes as the first field
// of that structure says, which `ask`, the only maker of a `Call`, has set to the size of the structure, and it keeps no
// pointer. All bytes are valid in every field (`Wire` is `FromBytes`). `IS_MUTATING` is true; there is no output.
unsafe impl<A: Argument> Ioctl for Call<'_, A> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        request(self.number)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.argument).cast()
    }

    // SAFETY: nothing is asked of the caller: neither the output nor the pointer is looked at.
    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Asks the kernel; what it answers is in the argument.
pub(super) fn ask<A: Argument>(on: BorrowedFd<'_>, number: u8, argument: &mut A) -> Result<(), Errno> {
    argument.set_size(u32::try_from(size_of::<A>()).map_err(|_| Errno::INVAL)?);
    let call = Call { number, argument };
    // SAFETY: the implementation of `Ioctl` above says why the kernel touches the argument and nothing else. `on` is open
    // for the whole call. A descriptor that is not of /dev/liveupdate answers ENOTTY, because it does not know the type.
    unsafe { rustix::ioctl::ioctl(on, call) }
}

/// Asks the kernel for a descriptor: CREATE_SESSION, RETRIEVE_SESSION or RETRIEVE_FD. The argument's `fd` goes in as -1.
pub(super) fn ask_for_fd<A: WithFd>(on: BorrowedFd<'_>, number: u8, mut argument: A) -> Result<OwnedFd, Errno> {
    ask(on, number, &mut argument)?;
    let fd = argument.fd();
    // Success without a descriptor is no answer of /dev/liveupdate. The device or session itself is not new either.
    if fd < 0 || fd == on.as_raw_fd() {
        return Err(Errno::BADF);
    }
    // SAFETY: these three requests say success only when the kernel has made a descriptor for this process and written
    // its number over the -1 that went in; so it is open, and nobody else here knows it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A second descriptor, close-on-exec and above stdio, of what is behind a number that may be no descriptor at all.
pub(super) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC leaves the original as it is and takes no pointer; a number that is not open gives EBADF.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
        new => Ok(unsafe { OwnedFd::from_raw_fd(new) }),
    }
}
