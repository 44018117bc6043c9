//! The system calls that rustix has no safe form of. The only file here with `unsafe`.
//!
//! Rules of this file: each function makes one call; pointers that are passed live in locals of that function; a
//! descriptor number that came from outside is never closed and never owned, only duplicated. Other code of this folder
//! has only safe calls.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

/// Replaces this process by `file`. Returns only when the kernel refused, and then nothing has changed.
pub(super) fn execveat(file: BorrowedFd<'_>, argv: &[CString], envp: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: `file` is open for the whole call. The path is an empty, terminated string. Both arrays end in a null
    // pointer; every other entry points into a `CString` that the caller's slices keep alive. The kernel only reads
    // them. The system call is used, and not libc's wrapper, because musl and older glibc have none.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Starts `file` as a child of this process, which inherits the descriptor `keep` beside what it would across exec. Like
/// exec it leaves signal dispositions and the mask as they are. The child's memory is not copied meanwhile.
pub(super) fn spawn(file: BorrowedFd<'_>, argv: &[CString], envp: &[CString], keep: BorrowedFd<'_>) -> io::Result<u32> {
    let pointers = |strings: &[CString]| -> Vec<*mut c_char> {
        strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // The child has the same descriptors until it executes.
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    let mut actions = std::mem::MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    let mut pid = 0;
    // SAFETY: `actions` is initialised by the first call before any other one uses it, and destroyed once, after the
    // last use. The path is terminated, both arrays end in a null pointer, every other entry of them points into a
    // `CString` that the caller's slices keep alive; libc only reads them. To copy a descriptor onto itself takes its
    // close-on-exec flag away, in the child alone.
    let error = unsafe {
        match libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) {
            0 => {
                let number = keep.as_raw_fd();
                let error = match libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), number, number) {
                    0 => libc::posix_spawn(
                        &raw mut pid,
                        path.as_ptr().cast(),
                        actions.as_ptr(),
                        ptr::null(),
                        argv.as_ptr(),
                        envp.as_ptr(),
                    ),
                    error => error,
                };
                libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
                error
            }
            error => error,
        }
    };
    if error == 0 { Ok(pid.cast_unsigned()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Ends this process, at once: no destructor runs, and nothing that waits to be written is.
pub(super) fn exit() -> ! {
    // SAFETY: _exit takes no pointer and does not return.
    unsafe { libc::_exit(0) }
}

/// Whether the kernel started this program in secure mode: what its caller put into the environment is not to be used.
pub(super) fn secure() -> bool {
    // SAFETY: getauxval reads the process's own auxiliary vector and takes no pointer.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The descriptor flags behind a number that may be no descriptor at all.
pub(super) fn flags(number: RawFd) -> io::Result<c_int> {
    // SAFETY: F_GETFD changes nothing and takes no pointer; a number that is not open gives EBADF.
    match unsafe { libc::fcntl(number, libc::F_GETFD) } {
        -1 => Err(io::Error::last_os_error()),
        flags => Ok(flags),
    }
}

/// The process that made the other end of a unix socket, its user and its group; process 0 when the socket is not
/// connected, or it is unknown.
///
/// Not rustix's `socket_peercred`: it keeps the id in a `NonZero`, and the kernel gives 0 for an unconnected socket.
pub(super) fn peer(socket: BorrowedFd<'_>) -> io::Result<[u32; 3]> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let size = size_of::<libc::ucred>();
    let mut len = libc::socklen_t::try_from(size).unwrap_or(0);
    // SAFETY: `peer` is a local of `len` bytes, of which the kernel writes at most that many; any bytes are a valid
    // value of its three integers. The socket is open for the whole call.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len)
    };
    match done {
        0 => Ok([peer.pid.cast_unsigned(), peer.uid, peer.gid]),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A pidfd of the process that made the other end of a connection: from the socket itself, since Linux 6.5; before that by
/// its number, which another process may have got if that one has ended meanwhile.
pub(super) fn peer_process(socket: BorrowedFd<'_>, pid: u32) -> io::Result<OwnedFd> {
    /// SO_PEERPIDFD
    const PEERPIDFD: c_int = 77;
    let mut number: c_int = -1;
    let mut len = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or(0);
    // SAFETY: `number` is a local of `len` bytes, of which the kernel writes at most that many; the socket is open for
    // the whole call.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, PEERPIDFD, (&raw mut number).cast(), &raw mut len)
    };
    if done == 0 && number >= 0 {
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
        return Ok(unsafe { OwnedFd::from_raw_fd(number) });
    }
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Lets no later program inherit the number, which may be no descriptor at all. It stays open: an [`OwnedFd`] of it would
/// need a proof that no value of this process owns it already, and there is none. The variable that names the number
/// could have been set in this process, and the socket made in it, by safe code.
pub(super) fn close_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes no pointer, and neither closes nor opens: whoever owns the number owns the same file after
    // it. A number that is not open gives EBADF.
    match unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
