//! `kho luo`: files over a kexec, by /dev/liveupdate.

mod give;
mod item;
mod preflight;
mod take;

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Subcommand, ValueEnum};
use kho::liveupdate::{DEVICE, Device, NewSession, Refused, RetrievedSession, inherited};
use rustix::io::FdFlags;

use crate::source::clean;

/// Tells a COMMAND the descriptor of its session.
pub(crate) const SESSION: &str = "KHO_LUO_SESSION";
/// And, with the token behind it as it was written, the descriptors of its files.
pub(crate) const FILE: &str = "KHO_LUO_FD_";

type Failed = Box<dyn Error>;

/// Arguments of `kho luo`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Luo,
}

const HELP: &str = "\
Linux keeps files (memfds) over a kexec in named sessions. A session that this
kernel makes must be open when the kernel is left: closed before, it preserves
nothing. In the next kernel it is retrieved once, and closing it then ends it:
what was not retrieved is freed. So both are held by a COMMAND, which finds the
descriptor of its session in $KHO_LUO_SESSION. Nothing carries over to the kexec
after that by itself.

Only `create NAME` and `retrieve NAME` open the device, which has one opener at
a time; the others work on a session that they are given.

Examples, before a kexec and after:
  kho luo create state --copy 1=/run/state.json -- kexec -e
  kho luo retrieve state 1=/run/state.json --finish

Exit codes:
  0  done; of `create` and `retrieve` with a COMMAND, what COMMAND returns
  1  `preflight`, or the same before `create` and `preserve`: Linux would refuse
     a file, or has no memory for its holes
  2  it could not be done; the kernel's answer and what it means are told";

#[derive(Subcommand)]
enum Luo {
    /// Say what Linux would refuse, change or pay for, before it is asked
    Preflight(preflight::Args),
    /// Make a session, preserve files in it, and run a command that holds it
    Create(give::Create),
    /// Preserve more files in a session that is held
    Preserve(give::Preserve),
    /// Retrieve a session of the previous kernel, or files from one that is held
    Retrieve(take::Retrieve),
    /// Print the name of a session
    Name {
        #[command(flatten)]
        session: Session,
        /// How it is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// End a retrieved session: memfds that were not retrieved are freed
    Finish {
        #[command(flatten)]
        session: Session,
    },
}

/// A session that this process inherited.
#[derive(clap::Args)]
pub(crate) struct Session {
    /// Descriptor of the session, as in "$KHO_LUO_SESSION"
    #[arg(long = "session", value_name = "FD", value_parser = clap::value_parser!(i32).range(0..))]
    number: RawFd,
}

#[derive(clap::Args)]
pub(crate) struct AtDevice {
    /// The device, if it is not /dev/liveupdate
    #[arg(long, value_name = "PATH", default_value = DEVICE, hide_default_value = true)]
    device: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failed> {
    match &args.command {
        Luo::Preflight(args) => preflight::run(args),
        Luo::Create(args) => give::create(args),
        Luo::Preserve(args) => give::preserve(args),
        Luo::Retrieve(args) => take::retrieve(args),
        Luo::Name { session, format } => name(session.number, *format),
        Luo::Finish { session } => {
            retrieved(session.number)?.finish().map_err(|(_session, refused)| told(None, &refused))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn name(number: RawFd, format: Format) -> Result<ExitCode, Failed> {
    // A descriptor is of one kind or the other; what is neither says so the second time too.
    let (name, kind) = match NewSession::from_fd(open_number(number)?) {
        Ok(session) => (session.name().clone(), "new"),
        Err((fd, _)) => {
            let session = RetrievedSession::from_fd(fd).map_err(|(_, refused)| told_number(number, &refused))?;
            (session.name().clone(), "retrieved")
        }
    };
    match format {
        Format::Text => crate::source::print(&format!("{name}\n"))?,
        Format::Json => crate::source::print_json(&serde_json::json!({ "name": name, "kind": kind }))?,
    }
    Ok(ExitCode::SUCCESS)
}

impl AtDevice {
    fn open(&self) -> Result<Device, Failed> {
        Device::open_at(&self.device).map_err(|refused| told(Some(&self.device), &refused))
    }
}

fn open_number(number: RawFd) -> Result<OwnedFd, Failed> {
    inherited(number).map_err(|error| format!("descriptor {number}: {error}").into())
}

fn new(number: RawFd) -> Result<NewSession, Failed> {
    NewSession::from_fd(open_number(number)?).map_err(|(_, refused)| told_number(number, &refused))
}

/// It stays open when the value is dropped, and its number does anyway.
fn retrieved(number: RawFd) -> Result<RetrievedSession, Failed> {
    RetrievedSession::from_fd(open_number(number)?).map_err(|(_, refused)| told_number(number, &refused))
}

fn told_number(number: RawFd, refused: &Refused) -> Failed {
    let text = told(None, refused).to_string();
    match text.strip_prefix("descriptor") {
        Some(rest) => format!("descriptor {number}{rest}").into(),
        None => text.into(),
    }
}

/// A refusal, and what to do.
fn told(what: Option<&Path>, refused: &Refused) -> Failed {
    let what = what.map(|what| clean(&format!("{}: ", what.display()))).unwrap_or_default();
    let hint = match refused.hint() {
        "" => String::new(),
        hint => format!("\nhint: {hint}"),
    };
    format!("{what}{}{hint}", clean(&refused.to_string())).into()
}

/// The command that holds what this process has: it takes this process's place, with these variables and descriptors.
struct Next<'a> {
    command: &'a [OsString],
    variables: Vec<(OsString, String)>,
    pass: Vec<OwnedFd>,
}

impl<'a> Next<'a> {
    /// A command that is there: found out before anything is done that its absence would undo.
    fn new(command: &'a [OsString]) -> Result<Self, Failed> {
        if let Some(program) = command.first() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let there = match program.as_encoded_bytes().contains(&b'/') {
                true => runs(Path::new(program)),
                false => std::env::split_paths(&path).any(|folder| runs(&folder.join(program))),
            };
            if !there {
                return Err(format!("{}: no such command", clean(&program.to_string_lossy())).into());
            }
        }
        Ok(Next { command, variables: Vec::new(), pass: Vec::new() })
    }

    /// Passes a descriptor on, its number in a variable.
    fn pass(&mut self, variable: impl Into<OsString>, fd: OwnedFd) -> Result<(), Failed> {
        // Where standard input or output is closed, it would take that place.
        let fd = if fd.as_raw_fd() < 3 { rustix::io::fcntl_dupfd_cloexec(&fd, 3)? } else { fd };
        self.variables.push((variable.into(), fd.as_raw_fd().to_string()));
        self.pass.push(fd);
        Ok(())
    }

    /// Returns only when it failed. What was to be passed is closed then, with what that means.
    fn exec(self) -> Failed {
        let Some((program, args)) = self.command.split_first() else { return "no COMMAND".into() };
        for fd in &self.pass {
            if let Err(error) = inherit(fd) {
                return error;
            }
        }
        let mut command = Command::new(program);
        command.args(args);
        // Of sessions and files that an outer `kho luo` gave, those stay that are not given anew.
        command.envs(self.variables);
        let error = command.exec();
        format!("{}: {error}", clean(&program.to_string_lossy())).into()
    }
}

fn runs(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn inherit(fd: impl AsFd) -> Result<(), Failed> {
    Ok(rustix::io::fcntl_setfd(fd, FdFlags::empty())?)
}

/// A token as people write it: decimal, or hexadecimal with 0x.
fn token(text: &OsStr) -> Option<u64> {
    let text = text.to_str()?;
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}
