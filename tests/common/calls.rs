//! The system calls that make files for the tests, and that rustix has no safe form of. The only file here with `unsafe`.
//!
//! Rules of this file: each function makes one call; pointers that are passed are to locals; a descriptor that a call
//! returned is new, and owned by nobody else.
#![allow(unsafe_code)]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

fn owned(number: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(number) {
        // SAFETY: the caller passes what a system call returned that makes a descriptor: nobody else owns it.
        Ok(number) if number >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `set` is a local, and sigemptyset writes it whole; a wrong number is refused by sigaddset.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            assert_eq!(libc::sigaddset(set.as_mut_ptr(), *signal), 0);
        }
        set.assume_init()
    }
}

pub(crate) fn signalfd(signals: &[i32]) -> OwnedFd {
    let set = set(signals);
    // SAFETY: the set is a local that is only read; -1 asks for a new descriptor.
    owned(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }.into()).unwrap()
}

/// Blocks signals in this thread.
pub(crate) fn block(signals: &[i32]) {
    let set = set(signals);
    // SAFETY: the set is a local that is only read; the old mask is not asked for.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }, 0);
}

pub(crate) fn io_uring() -> io::Result<OwnedFd> {
    // As large as `struct io_uring_params`, all of whose fields may be zero.
    let mut params = [0_u64; 15];
    // SAFETY: the kernel reads and writes 120 bytes at the pointer, which are a local.
    owned(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, params.as_mut_ptr()) })
}

pub(crate) fn userfaultfd() -> io::Result<OwnedFd> {
    const USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: the call takes no pointer.
    owned(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) })
}

pub(crate) fn perf_event() -> io::Result<OwnedFd> {
    // A software event (type 1), the clock of this task (config 1), of the first version of the structure (64 bytes).
    let mut attributes = [0_u64; 16];
    attributes[0] = 1 | 64 << 32;
    attributes[1] = 1;
    let (group, cpu) = (-1_i32, -1_i32);
    // SAFETY: the kernel reads 64 bytes at the pointer, which are a local of 128.
    owned(unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, cpu, group, 0_u64) })
}

/// `KVM_CREATE_VM` of `/dev/kvm`, or `KVM_CREATE_VCPU` of a machine.
pub(crate) fn kvm(file: BorrowedFd<'_>, vcpu: bool) -> io::Result<OwnedFd> {
    let request = if vcpu { 0xae41 } else { 0xae01 };
    // SAFETY: both requests take a number, 0, and no pointer, and return a new descriptor.
    owned(unsafe { libc::ioctl(file.as_raw_fd(), request, 0) }.into())
}
