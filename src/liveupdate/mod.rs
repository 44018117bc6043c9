//! `/dev/liveupdate`: files that outlive the kernel.
//!
//! Linux's Live Update Orchestrator (LUO) keeps open files across a kexec, in named sessions. Before: a [`NewSession`] is
//! created, and files are preserved in it, each under a token of 64 bits. After: the [`RetrievedSession`] of that name
//! gives them back by their tokens. In Linux 7.2 and 7.3 the files are memfds, unlinked shmem; [`preflight()`] says what of
//! a file Linux would refuse, change or pay for, before it is asked.
//!
//! ```no_run
//! use kho::liveupdate::{Device, preflight};
//! use rustix::fs::{MemfdFlags, memfd_create};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Before the kexec.
//! let memory = memfd_create("guest memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
//! println!("{}", preflight(&[(1, &memory)]).findings);
//! let session = Device::open()?.create("vm-7")?;
//! session.preserve(1, &memory)?;
//! // The session must be open when the kernel is left: `session` must live until then.
//!
//! // In the next kernel.
//! let session = Device::open()?.retrieve("vm-7")?;
//! let memory = session.retrieve(1)?;
//! session.finish().map_err(|(_session, refused)| refused)?;
//! # Ok(())
//! # }
//! ```
//!
//! A whole handover, an arena and files with everything that is in them, travels in a session by
//! [`transport`](crate::transport#in-a-session).
//!
//! # Who opens the device
//! It has **one opener at a time**: everybody else gets `EBUSY`. A service manager may hold it and give a unit the
//! descriptor of its session. So everything here works on a session that it is given ([`NewSession::from_fd`],
//! [`RetrievedSession::from_fd`]), and the device is opened by [`Device::open`] only. Sessions live without it: close it
//! as soon as you have yours.
//!
//! # How long things live
//! - A **new** session lives as long as its descriptor is open somewhere. Closed before the kexec, it un-preserves its
//!   files: they stay as they are in this kernel, and are not there in the next. Dropping a [`NewSession`] does that.
//! - A **retrieved** session that is closed is finished: Linux frees the memfds that were not retrieved. So dropping a
//!   [`RetrievedSession`] does *not* close it (see there), [`RetrievedSession::finish`] does.
//! - Descriptors come with **close-on-exec set**, sessions as well as files. Clear it (`rustix::io::fcntl_setfd`) for
//!   those that an exec must not close.
//! - **Nothing carries over** to the kexec after the next: what came must be preserved again, and can be once its session
//!   is finished. Names of new and of retrieved sessions do not collide.
//! - Of a memfd come back: bytes and position as they were when the kernel was left, size and seals as they were when it
//!   was preserved. While it is preserved its size is fixed, its bytes may be written, and a seal that is added then is
//!   **lost**: seal before. Its name does not come back; its mode is 0777 and it is open for reading and writing, whatever
//!   it was.
//! - Preserving **fills holes** with memory; where there is not enough, the kernel kills for it.

mod device;
mod preflight;
mod refused;
mod session;
mod sys;
#[cfg(test)]
mod tests;

pub(crate) use preflight::preflight_as;

pub use device::{DEVICE, Device};
pub use preflight::{FileFacts, FileKind, Preflight, Summary, preflight};
pub use refused::{Cause, Operation, Refused};
pub use session::{NewSession, RetrievedSession, inherited};
