//! The way back: the predecessor's program as a descriptor, and what it looked like.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use object::elf::{ELF_NOTE_GNU, FileHeader64, NT_GNU_BUILD_ID, PT_NOTE};
use object::read::elf::{FileHeader as _, NoteIterator, ProgramHeader as _};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use zerocopy::IntoBytes as _;

use super::exec::{ExecError, Program};
use super::parcel::{ARGV_LIMIT, BUILD_ID_LIMIT};
use crate::num::usize_of;
use crate::report::{Code, Fault};

/// What tells one program file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: i64,
    pub(super) mtime_nsec: u64,
    /// Empty when the file has none.
    pub(super) build_id: Vec<u8>,
}

/// The seals of a copy: nothing about it can change any more.
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A return ticket: with it a successor that refuses the handover can exec the predecessor back onto it.
///
/// It holds the program by descriptor, so it survives that the file is replaced by a new one (as package managers and
/// linkers do) or removed. A file that is overwritten *in place* would run as something else: [`Ticket::verify`] tells
/// by device, inode, size, time of change and GNU build id. A file without a build id that is overwritten with as many
/// bytes and whose time is set back goes unnoticed; [`Ticket::copy`] makes a sealed copy in memory, which cannot be
/// overwritten at all.
///
/// ```
/// use kho::transport::Ticket;
///
/// let ticket = Ticket::current()?;
/// ticket.verify()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ticket {
    pub(super) file: OwnedFd,
    pub(super) identity: Identity,
    pub(super) argv: Vec<OsString>,
    pub(super) copy: bool,
}

impl Ticket {
    /// A ticket back to the program that runs, as it was started: `Ticket::of(&Program::current()?)`.
    ///
    /// # Errors
    /// As [`Program::current`] and [`Ticket::of`].
    pub fn current() -> Result<Ticket, ExecError> {
        Ticket::of(&Program::current()?)
    }

    /// A ticket to a program with its arguments. Changes of the environment that the program asks for do not travel.
    ///
    /// # Errors
    /// [`ExecError::Io`] when the file cannot be read; [`ExecError::Limit`] when the arguments, each with its NUL, have
    /// more than 65,536 bytes; [`ExecError::Nul`] when an argument has a NUL.
    pub fn of(program: &Program) -> Result<Ticket, ExecError> {
        let file = program.file.try_clone().map_err(|source| ExecError::io("ticket", source))?;
        Ticket::with(file, program, false)
    }

    /// The same with a sealed copy of the program in memory (a memfd), which costs as much memory as the file is long.
    ///
    /// # Errors
    /// As [`Ticket::of`], and [`ExecError::Io`] when the copy cannot be made: where `vm.memfd_noexec` is 2, the system
    /// has no executable memfds.
    pub fn copy(program: &Program) -> Result<Ticket, ExecError> {
        let io = |errno: Errno| ExecError::io("copy of the program", errno.into());
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Before Linux 6.3 every memfd is executable and the flag unknown.
        let copy = match rustix::fs::memfd_create(c"kho-ticket", flags | MemfdFlags::EXEC) {
            Err(Errno::INVAL) => rustix::fs::memfd_create(c"kho-ticket", flags),
            other => other,
        }
        .map_err(io)?;
        let size = size_of_file(program.file.as_fd()).map_err(io)?;
        let mut at = 0;
        while at < size {
            let rest = usize_of(size.saturating_sub(at));
            // Moves `at`; the file's own position stays.
            if rustix::fs::sendfile(&copy, &program.file, Some(&mut at), rest).map_err(io)? == 0 {
                break;
            }
        }
        rustix::fs::fcntl_add_seals(&copy, SEALS).map_err(io)?;
        // A file that is open for writing cannot be executed: the copy is opened anew for reading only.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy));
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(io)?;
        Ticket::with(file, program, true)
    }

    fn with(file: OwnedFd, program: &Program, copy: bool) -> Result<Ticket, ExecError> {
        let bytes = program.argv.iter().fold(0_usize, |sum, arg| sum.saturating_add(arg.len()).saturating_add(1));
        if bytes > ARGV_LIMIT {
            return Err(ExecError::limit("the arguments of a ticket, bytes", bytes, ARGV_LIMIT));
        }
        if let Some(arg) = program.argv.iter().find(|arg| arg.as_bytes().contains(&0)) {
            return Err(ExecError::Nul { text: arg.to_string_lossy().into_owned() });
        }
        let identity = identify(file.as_fd()).map_err(|errno| ExecError::io("ticket", errno.into()))?;
        Ok(Ticket { file, identity, argv: program.argv.clone(), copy })
    }

    /// The arguments with which the program will start, the name first.
    #[must_use]
    pub fn argv(&self) -> &[OsString] {
        &self.argv
    }

    /// The GNU build id that the program had when the ticket was made; empty when it had none.
    #[must_use]
    pub fn build_id(&self) -> &[u8] {
        &self.identity.build_id
    }

    /// Whether this is a sealed copy.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        self.copy
    }

    /// Whether the file still is what it was when the ticket was made.
    ///
    /// # Errors
    /// [`Code::FileIdentity`] with the first item that differs, what it is and what it was; [`Code::MemfdSeals`] when
    /// the copy is not sealed; [`Code::Io`] when the file cannot be read.
    pub fn verify(&self) -> Result<(), Fault> {
        let now = identify(self.file.as_fd()).map_err(|errno| Fault::new(Code::Io).item("ticket").found(errno))?;
        let was = &self.identity;
        differs("ticket.device", format_args!("{:#x}", now.device), format_args!("{:#x}", was.device))?;
        differs("ticket.inode", now.inode, was.inode)?;
        differs("ticket.size", now.size, was.size)?;
        differs("ticket.build-id", hex(&now.build_id), hex(&was.build_id))?;
        let time = |one: &Identity| format!("{}.{:09}", one.mtime, one.mtime_nsec);
        differs("ticket.mtime", time(&now), time(was))?;
        if self.copy {
            let seals = rustix::fs::fcntl_get_seals(&self.file)
                .map_err(|errno| Fault::new(Code::Io).item("ticket.seals").found(errno))?;
            if !seals.contains(SEALS) {
                return Err(Fault::new(Code::MemfdSeals)
                    .item("ticket.seals")
                    .found(format_args!("{:#x}", seals.bits()))
                    .expected(format_args!("{:#x}", SEALS.bits())));
            }
        }
        Ok(())
    }

    /// Starts the program as a keeper of the handover with that nonce, which inherits the socket. A pidfd of it.
    pub(super) fn spawn(&self, socket: BorrowedFd<'_>, nonce: u64) -> Result<OwnedFd, ExecError> {
        self.program()?.spawn(socket, nonce)
    }

    pub(super) fn program(&self) -> Result<Program, ExecError> {
        let file = self.file.try_clone().map_err(|source| ExecError::io("ticket", source))?;
        Program::from_parts(file, self.argv.clone())
    }
}

fn differs(item: &'static str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Result<(), Fault> {
    let (found, expected) = (found.to_string(), expected.to_string());
    if found == expected {
        return Ok(());
    }
    Err(Fault::new(Code::FileIdentity).item(item).found(found).expected(expected))
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "none".to_owned();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn size_of_file(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    // Sizes are never negative.
    Ok(rustix::fs::fstat(file)?.st_size.cast_unsigned())
}

fn identify(file: BorrowedFd<'_>) -> Result<Identity, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(Identity {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size.cast_unsigned(),
        mtime: stat.st_mtime,
        mtime_nsec: stat.st_mtime_nsec,
        build_id: build_id(file)?,
    })
}

/// Headers and notes are looked for in so many bytes; real ones have a few hundred.
const WINDOW: usize = 64 * 1024;

/// The GNU build id of a 64-bit ELF file; empty when there is none, or no such file. Reads a bounded part of the file.
fn build_id(file: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let head = read_at(file, 0, WINDOW)?;
    let head = head.bytes();
    let Ok(elf) = FileHeader64::<object::Endianness>::parse(head) else { return Ok(Vec::new()) };
    let Ok(endian) = elf.endian() else { return Ok(Vec::new()) };
    let Ok(segments) = elf.program_headers(endian, head) else { return Ok(Vec::new()) };
    // A hostile file has many segments; a real one two with notes.
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_NOTE).take(16) {
        let notes = read_at(file, segment.p_offset(endian), usize_of(segment.p_filesz(endian)).min(WINDOW))?;
        let notes =
            NoteIterator::<FileHeader64<object::Endianness>>::new(endian, segment.p_align(endian), notes.bytes());
        let mut notes = match notes {
            Ok(notes) => notes,
            Err(_) => continue,
        };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == ELF_NOTE_GNU && note.n_type(endian) == NT_GNU_BUILD_ID {
                return Ok(note.desc().get(..BUILD_ID_LIMIT).unwrap_or(note.desc()).to_vec());
            }
        }
    }
    Ok(Vec::new())
}

/// Bytes that begin at a multiple of 8, as the ELF structures need it.
struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    fn bytes(&self) -> &[u8] {
        self.words.as_bytes().get(..self.len).unwrap_or_default()
    }
}

fn read_at(file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Aligned, Errno> {
    let mut words = vec![0_u64; len.div_ceil(8)];
    let room = words.as_mut_bytes().get_mut(..len).unwrap_or_default();
    let mut filled = 0_usize;
    while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(crate::num::u64_of(filled));
        match rustix::io::pread(file, rest, at) {
            Ok(0) => break,
            // An offset that a hostile header names can be beyond what a file can have.
            Err(Errno::INVAL | Errno::OVERFLOW) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(read) => filled = filled.saturating_add(read),
        }
    }
    Ok(Aligned { words, len: filled })
}

#[cfg(test)]
#[path = "ticket_tests.rs"]
mod tests;
