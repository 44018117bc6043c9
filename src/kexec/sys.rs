//! The system call `kexec_load`. The only file here with `unsafe`.
//!
//! Rules of this file: one function, one call; what is pointed to lives in the caller's slices for the whole call.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use std::io;

use super::Segment;

/// As the kernel has it.
#[repr(C)]
struct Wire {
    buf: *const u8,
    bufsz: usize,
    mem: usize,
    memsz: usize,
}

/// Loads these segments, of which none takes the loaded kernel away.
pub(super) fn kexec_load(entry: u64, segments: &[Segment]) -> io::Result<()> {
    let wires: Vec<Wire> = segments
        .iter()
        .map(|segment| Wire {
            buf: segment.bytes.as_ptr(),
            bufsz: segment.bytes.len(),
            mem: crate::num::usize_of(segment.at.get()),
            memsz: crate::num::usize_of(segment.size),
        })
        .collect();
    // SAFETY: the kernel reads `wires.len()` entries of the layout that it documents, and of each `bufsz` bytes from
    // `buf` on, which are the bytes of a slice that lives as long as `segments` is borrowed. It writes nothing. What
    // `mem` names is physical memory after this process's end; memory of this process is not touched by it.
    let done = unsafe { libc::syscall(libc::SYS_kexec_load, entry, wires.len(), wires.as_ptr(), 0_u64) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
