//! Leaving: what to run, and the exec.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Resource;
use rustix::time::ClockId;

use super::parcel::COMPAT;
use super::socket::{SendError, Wait};
use super::{Cargo, socket, sys};
use crate::compat::Terms;
use crate::handover::Forecast;
use crate::manifest::Found;
use crate::num::u64_of;
use crate::report::{Class, Code, Fault};

/// The environment variable that tells a successor of its parcel: `<fd>:<pid>:<nonce>:v<version>`, numbers in decimal,
/// the nonce as 16 hexadecimal digits. It is good for one process and one arrival, and worthless otherwise.
pub const VARIABLE: &str = "KHO_HANDOVER";

/// Why the process is still here. Nothing has changed: descriptors and their flags, signals, environment, mappings and
/// working directory are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The program is a directory, a pipe, a device.
    #[error("the program is not a regular file but {found}")]
    NotRegular {
        /// What it is.
        found: &'static str,
    },
    /// Nobody may execute the program.
    #[error("the program has no execute permission (mode {mode:04o})")]
    NotExecutable {
        /// The permission bits of the file.
        mode: u32,
    },
    /// The program is a script: its interpreter would have to open a descriptor that exec closes.
    #[error(
        "the program is a script (#!): a descriptor that exec closes cannot be given to its interpreter; exec the interpreter instead"
    )]
    Script,
    /// The program does not begin as an ELF file does.
    #[error("the program is no ELF file: it begins with {found:02x?}")]
    NotElf {
        /// Its first bytes, at most four.
        found: Vec<u8>,
    },
    /// The kernel would start the program in secure mode, and it would ignore the handover.
    #[error("the program would start in secure mode and ignore the handover: {why}")]
    Secure {
        /// What makes it so.
        why: &'static str,
    },
    /// An argument or a variable with a NUL, or a variable whose name is empty or has a `=`.
    #[error("an argument or variable that exec cannot pass: {text:?}")]
    Nul {
        /// The text.
        text: String,
    },
    /// The program says that it would refuse the handover: see [`Program::manifest`].
    #[error("the program would refuse the handover:\n{0}")]
    Refused(Forecast),
    /// The program says nothing of what it reads: see [`Program::only_if_told`] and [`Program::even_if_untold`].
    #[error("the program does not say what it reads: {why}")]
    Untold {
        /// Why it does not.
        why: String,
    },
    /// The program's manifest is broken.
    #[error("the program's manifest cannot be read: {0}")]
    Manifest(#[source] Fault),
    /// Two files under one token.
    #[error("two files under token {token:#x}")]
    TokenDuplicate {
        /// The token.
        token: u64,
    },
    /// A limit of the system that the handover would pass.
    #[error("{what}: {needed} needed, the limit is {limit}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// How much the handover needs.
        needed: u64,
        /// How much there is.
        limit: u64,
    },
    /// A part of the cargo that could not be put into the socket.
    #[error("{what} could not be sent: {source}")]
    Send {
        /// `head` (the arena and the ticket), `ticket`, `reason`, `files[N..]` (that and at most 252 more) or `end`.
        what: String,
        /// The system's own words, and which limit it means where that is known.
        source: io::Error,
    },
    /// The kernel refused to exec.
    #[error("exec: {0}")]
    Exec(#[source] io::Error),
    /// The parcel has no way back.
    #[error("the parcel has no return ticket")]
    NoTicket,
    /// The program of the ticket is not the one that it was made for.
    #[error("the return ticket is not good any more: {0}")]
    Ticket(#[source] Fault),
    /// Something could not be opened or read.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's own words.
        source: io::Error,
    },
}

impl ExecError {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        ExecError::Io { what: what.into(), source }
    }

    pub(super) fn as_fault(&self) -> Fault {
        let code = match self {
            ExecError::Refused(_) | ExecError::Untold { .. } => Code::Refused,
            _ => Code::Io,
        };
        Fault::new(code).item("exec").found(self)
    }

    pub(super) fn limit(what: &'static str, needed: usize, limit: usize) -> Self {
        ExecError::Limit { what, needed: u64_of(needed), limit: u64_of(limit) }
    }
}

impl From<SendError> for ExecError {
    fn from(SendError { what, errno }: SendError) -> Self {
        let source = match errno {
            Errno::AGAIN | Errno::MSGSIZE | Errno::NOBUFS => {
                io::Error::new(io::Error::from(errno).kind(), "the send buffer is full: raise net.core.wmem_max")
            }
            Errno::TOOMANYREFS => io::Error::other(
                "too many descriptors of this user are on their way: raise RLIMIT_NOFILE (ETOOMANYREFS)",
            ),
            errno => errno.into(),
        };
        ExecError::Send { what, source }
    }
}

/// What to exec: a program by descriptor, its arguments, and changes of the environment.
///
/// By descriptor means: what was opened is what runs, also if its path is replaced or removed meanwhile.
///
/// ```no_run
/// use kho::transport::{Program, Ticket};
/// # let outgoing = kho::handover::Outgoing::new(kho::transport::Bundle::new(1 << 30)?);
///
/// let program = Program::open("/usr/bin/next")?.args(["--take-over"]).env("RUST_LOG", "kho=debug");
/// let stayed = outgoing.finish()?.exec(&program, Some(&Ticket::current()?));
/// eprintln!("still here, and as before: {stayed}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Program {
    pub(super) file: OwnedFd,
    pub(super) ask: Ask,
    pub(super) argv: Vec<OsString>,
    env: BTreeMap<OsString, Option<OsString>>,
}

/// What a program is asked before this process leaves for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Nothing.
    Nothing,
    /// Whether it would refuse.
    Refusal,
    /// Whether it would accept, of whoever has a manifest himself; else whether it would refuse.
    AsWeSay,
    /// Whether it would accept.
    Consent,
}

impl Program {
    /// The program at a path, with the path as its name (`argv[0]`) and no further arguments.
    ///
    /// # Errors
    /// When it cannot be opened for reading, or could not be executed: [`ExecError::NotRegular`],
    /// [`ExecError::NotExecutable`], [`ExecError::Script`], [`ExecError::NotElf`], [`ExecError::Secure`].
    pub fn open(path: impl AsRef<Path>) -> Result<Program, ExecError> {
        let path = path.as_ref();
        Program::from_parts(open(path)?, vec![path.as_os_str().to_owned()])
    }

    /// The program that runs now, with the arguments that it was started with. This is the *old* image: if a newer one
    /// was put in its place, that is not what this execs; use [`Program::open`] for that. Needs /proc.
    ///
    /// # Errors
    /// As [`Program::open`].
    pub fn current() -> Result<Program, ExecError> {
        let path = Path::new("/proc/self/exe");
        let mut argv: Vec<OsString> = std::env::args_os().collect();
        if argv.is_empty() {
            argv.push(path.as_os_str().to_owned());
        }
        Program::from_parts(open(path)?, argv)
    }

    pub(super) fn from_parts(file: OwnedFd, argv: Vec<OsString>) -> Result<Program, ExecError> {
        let program = Program { file, ask: Ask::AsWeSay, argv, env: BTreeMap::new() };
        program.check()?;
        Ok(program)
    }

    /// What the program says that it reads and writes, from its file; none when it says nothing.
    ///
    /// [`Outgoing::write_for_program`](crate::handover::Outgoing::write_for_program) writes what it reads, and
    /// [`Finished::exec`](crate::handover::Finished::exec) stays where it would refuse.
    ///
    /// # Errors
    /// As [`Found::of_file`]: also a manifest from the future is one.
    pub fn manifest(&self) -> Result<Option<Found>, Fault> {
        Found::of_file(&self.file)
    }

    /// What it says, or why it says nothing that can be understood here: it has no manifest, or one from the future. What
    /// cannot be started is for the kernel to tell.
    ///
    /// # Errors
    /// When its manifest is broken.
    pub(super) fn says(&self) -> Result<Result<Found, String>, Fault> {
        match self.manifest() {
            Ok(Some(found)) => Ok(Ok(found)),
            Ok(None) => Ok(Err("it has no manifest".into())),
            Err(fault) if fault.code().class() == Class::Mismatch || fault.at().item.as_deref() == Some("ELF") => {
                Ok(Err(fault.to_string()))
            }
            Err(fault) => Err(fault),
        }
    }

    /// What the program reads, as far as it is asked: none where it need not say.
    ///
    /// # Errors
    /// [`Code::Refused`] when it must say and does not; when its manifest is broken.
    pub(super) fn asked(&self) -> Result<Option<Terms>, Fault> {
        match self.says()? {
            _ if self.ask == Ask::Nothing => Ok(None),
            Ok(found) => Ok(Some(found.reads)),
            Err(_) if self.ask == Ask::Refusal => Ok(None),
            Err(why) => Err(ExecError::Untold { why }.as_fault()),
        }
    }

    /// Leaves for this program without asking whether it would refuse: what it does then is for it to say.
    #[must_use]
    pub fn without_asking(self) -> Self {
        Program { ask: Ask::Nothing, ..self }
    }

    /// Leaves for this program only if it says what it reads, and that is what it gets. That is the default of a program
    /// that has a manifest itself ([`Outgoing::of`](crate::handover::Outgoing::of)).
    #[must_use]
    pub fn only_if_told(self) -> Self {
        Program { ask: Ask::Consent, ..self }
    }

    /// Leaves for this program also if it has no manifest, or one from the future. Its own plan refuses then what it does
    /// not understand, if it uses this library at all: any other program takes the process and its state with it.
    #[must_use]
    pub fn even_if_untold(self) -> Self {
        Program { ask: Ask::Refusal, ..self }
    }

    /// Sets the name of the program, `argv[0]`.
    #[must_use]
    pub fn arg0(mut self, name: impl AsRef<OsStr>) -> Self {
        self.argv.splice(..self.argv.len().min(1), [name.as_ref().to_owned()]);
        self
    }

    /// Sets all arguments behind the name, instead of those that were there.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.argv.truncate(1);
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable for the successor. All others are those of this process at the time of exec.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Keeps a variable from the successor.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), None);
        self
    }

    /// What can be known before leaving. The kernel knows the rest, and says so before it changes anything.
    fn check(&self) -> Result<(), ExecError> {
        let io = |errno: Errno| ExecError::io("program", errno.into());
        let stat = rustix::fs::fstat(&self.file).map_err(io)?;
        let found = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Directory => Some("a directory"),
            FileType::Fifo => Some("a pipe"),
            FileType::Socket => Some("a socket"),
            FileType::BlockDevice | FileType::CharacterDevice => Some("a device"),
            _ => Some("something else"),
        };
        if let Some(found) = found {
            return Err(ExecError::NotRegular { found });
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !mode.intersects(Mode::XUSR | Mode::XGRP | Mode::XOTH) {
            return Err(ExecError::NotExecutable { mode: mode.bits() });
        }
        let mut magic = [0; 4];
        let read = rustix::io::pread(&self.file, &mut magic, 0).map_err(io)?;
        match magic.get(..read).unwrap_or_default() {
            b"\x7fELF" => {}
            [b'#', b'!', ..] => return Err(ExecError::Script),
            other => return Err(ExecError::NotElf { found: other.to_vec() }),
        }
        self.check_secure(&stat, mode)
    }

    /// The kernel's rule for AT_SECURE: effective ids that are not the real ones, or capabilities from the file.
    fn check_secure(&self, stat: &rustix::fs::Stat, mode: Mode) -> Result<(), ExecError> {
        let uid = rustix::process::getuid().as_raw();
        let euid = if mode.contains(Mode::SUID) { stat.st_uid } else { rustix::process::geteuid().as_raw() };
        let gid = rustix::process::getgid().as_raw();
        // Set-group-id without group execute is an old lock mark and means nothing to exec.
        let sgid = mode.contains(Mode::SGID | Mode::XGRP);
        let egid = if sgid { stat.st_gid } else { rustix::process::getegid().as_raw() };
        if euid != uid {
            return Err(ExecError::Secure { why: "its effective user is not the real one" });
        }
        if egid != gid {
            return Err(ExecError::Secure { why: "its effective group is not the real one" });
        }
        // For root the file's capabilities add nothing.
        let capabilities = rustix::fs::fgetxattr(&self.file, c"security.capability", &mut [0_u8; 64][..]);
        if uid != 0 && capabilities.is_ok_and(|len| len > 0) {
            return Err(ExecError::Secure { why: "the file has capabilities" });
        }
        Ok(())
    }

    /// Starts the program as a keeper: see [`Ticket::spawn`](super::Ticket::spawn).
    pub(super) fn spawn(&self, socket: BorrowedFd<'_>, nonce: u64) -> Result<OwnedFd, ExecError> {
        let variable = format!("{}:{}:{nonce:016x}:k{}", socket.as_raw_fd(), std::process::id(), COMPAT.version());
        let argv = self.argv.iter().cloned().map(c_string).collect::<Result<Vec<_>, _>>()?;
        let envp = self.environment(variable.into())?;
        let pid =
            sys::spawn(self.file.as_fd(), &argv, &envp, socket).map_err(|error| ExecError::io("keeper", error))?;
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| ExecError::io("keeper", io::Error::from_raw_os_error(libc::ESRCH)))?;
        // It is our child and not waited for: the number is still its own.
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|errno| ExecError::io("pidfd_open", errno.into()))
    }

    /// The environment of the successor.
    fn environment(&self, handover: OsString) -> Result<Vec<CString>, ExecError> {
        let mut all: Vec<CString> = Vec::new();
        let mut put = |name: &OsStr, value: &OsStr| {
            let mut text = name.to_owned();
            text.push("=");
            text.push(value);
            all.push(c_string(text)?);
            Ok::<(), ExecError>(())
        };
        for (name, value) in std::env::vars_os() {
            if name != VARIABLE && !self.env.contains_key(&name) {
                put(&name, &value)?;
            }
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(ExecError::Nul { text: name.to_string_lossy().into_owned() });
            }
            if let Some(value) = value.as_ref().filter(|_| name != VARIABLE) {
                put(name, value)?;
            }
        }
        put(OsStr::new(VARIABLE), &handover)?;
        Ok(all)
    }
}

fn open(path: &Path) -> Result<OwnedFd, ExecError> {
    // NONBLOCK: a pipe must not hold us before it is refused.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| ExecError::io(path.to_string_lossy(), errno.into()))
}

fn c_string(text: OsString) -> Result<CString, ExecError> {
    CString::new(text.into_vec())
        .map_err(|error| ExecError::Nul { text: String::from_utf8_lossy(&error.into_vec()).into_owned() })
}

/// The value of [`VARIABLE`].
pub(super) fn variable(socket: RawFd, pid: u32, nonce: u64) -> OsString {
    format!("{socket}:{pid}:{nonce:016x}:v{}", COMPAT.version()).into()
}

/// The successor needs so many descriptors besides the files: stdio, arena, ticket, the socket twice, and what its
/// runtime and its predecessor's inheritable descriptors take.
const SPARE: usize = 64;

impl Cargo<'_> {
    /// Replaces this process by the program and hands the cargo to it. Returns only when that failed; nothing has
    /// changed then, and the cargo can be used again.
    ///
    /// Exec ends all other threads of the process without unwinding; destructors do not run, in no thread. Once the
    /// kernel has begun to build the new process, a failure (no memory for its stack, say) kills it: there is no way
    /// back from there. Signal dispositions are what exec makes of them: ignored ones stay ignored, handlers become the
    /// default; `SIGPIPE` is not touched. Descriptors without close-on-exec pass to the successor, as ever.
    ///
    /// # Errors
    /// Everything in [`ExecError`]. All that can be checked is checked before the cargo is packed: the program, tokens,
    /// `RLIMIT_NOFILE` (the number of files and 64 more).
    pub fn exec(&self, program: &Program) -> ExecError {
        match self.leave(program) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn leave(&self, program: &Program) -> Result<Infallible, ExecError> {
        program.check()?;
        self.check_tokens()?;
        if let Some(limit) = rustix::process::getrlimit(Resource::Nofile).current {
            let needed = u64_of(self.files.len().saturating_add(SPARE));
            if needed > limit {
                return Err(ExecError::Limit { what: "RLIMIT_NOFILE", needed, limit });
            }
        }
        let io = |errno: Errno| ExecError::io("socket", errno.into());
        let (sender, receiver) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(io)?;
        // Where stdio is closed the socket would take its place, and the successor would print into it.
        let receiver = match receiver.as_raw_fd() {
            0..=2 => rustix::io::fcntl_dupfd_cloexec(&receiver, 3).map_err(io)?,
            _ => receiver,
        };
        socket::make_room(sender.as_fd(), self.files.len());
        socket::send(sender.as_fd(), self, Wait::Never)?;

        let argv = program.argv.iter().cloned().map(c_string).collect::<Result<Vec<_>, _>>()?;
        let envp = program.environment(variable(receiver.as_raw_fd(), std::process::id(), self.nonce))?;

        socket::finish(sender.as_fd(), monotonic_ns(), Wait::Never)?;
        drop(sender);
        rustix::io::fcntl_setfd(&receiver, FdFlags::empty()).map_err(io)?;
        let error = sys::execveat(program.file.as_fd(), &argv, &envp);
        // Dropping the receiver also drops what is in it. First close-on-exec: another thread might fork in between.
        let _ = rustix::io::fcntl_setfd(&receiver, FdFlags::CLOEXEC);
        Err(ExecError::Exec(error))
    }

    fn check_tokens(&self) -> Result<(), ExecError> {
        let mut tokens: Vec<u64> = self.files.iter().map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        match tokens.windows(2).find_map(|pair| match pair {
            [one, other] if one == other => Some(*one),
            _ => None,
        }) {
            Some(token) => Err(ExecError::TokenDuplicate { token }),
            None => Ok(()),
        }
    }
}

/// CLOCK_MONOTONIC, which goes on across exec.
pub(super) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.cast_unsigned())
}
