//! `kho luo create` and `kho luo preserve`: before the kexec.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use kho::liveupdate::NewSession;

use super::item::{Source, pair};
use super::preflight::{lines, look};
use super::{AtDevice, Failed, Next, SESSION, Session, new, told};

/// What is preserved.
#[derive(clap::Args)]
struct Files {
    /// Preserve the bytes of the file at PATH, in a memfd that is made for them
    #[arg(long = "copy", value_name = "TOKEN=PATH", value_parser = pair())]
    copies: Vec<(u64, OsString)>,
    /// Ask the kernel also where preflight found that it would refuse
    #[arg(long)]
    force: bool,
}

/// Arguments of `kho luo create`.
#[derive(clap::Args)]
#[command(after_help = CREATE_HELP)]
pub(super) struct Create {
    /// 1 to 63 bytes; no other new session has it
    name: OsString,
    #[command(flatten)]
    device: AtDevice,
    /// Preserve a memfd: an inherited descriptor, or a path as /proc/PID/fd/N
    #[arg(long = "preserve", value_name = "TOKEN=FD|PATH", value_parser = pair())]
    files: Vec<(u64, OsString)>,
    #[command(flatten)]
    more: Files,
    /// Runs in the place of `kho` and holds the session, its descriptor in $KHO_LUO_SESSION
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

const CREATE_HELP: &str = "\
When COMMAND and all whom it gave the descriptor have ended, the session is
closed: its files are not preserved any more, and nothing else happens to them.
If a file is refused, COMMAND is not run. Tokens are decimal or 0x...

Examples:
  kho luo create state --copy 1=/run/state.json -- kexec -e
  kho luo create vm-7 --preserve 0x10=/proc/1234/fd/5 -- sh -c '
      kho luo preserve --session $KHO_LUO_SESSION 0x11=/proc/1234/fd/6 &&
      exec systemctl kexec'

Exit codes: what COMMAND returns; 1 preflight found what Linux would refuse, 2 it
could not be done.";

/// Arguments of `kho luo preserve`.
#[derive(clap::Args)]
#[command(after_help = PRESERVE_HELP)]
pub(super) struct Preserve {
    #[command(flatten)]
    session: Session,
    /// Memfds: inherited descriptors, or paths as /proc/PID/fd/N
    #[arg(value_name = "TOKEN=FD|PATH", value_parser = pair(), required_unless_present = "copies")]
    files: Vec<(u64, OsString)>,
    #[command(flatten)]
    more: Files,
}

const PRESERVE_HELP: &str = "\
What was preserved before stays so if a file is refused. There is no way to take
one file back: only to close the session.

Example:
  kho luo preserve --session $KHO_LUO_SESSION 0x11=9 --copy 2=/run/state.json

Exit codes: 0 done, 1 preflight found what Linux would refuse, 2 it could not be
done.";

pub(super) fn create(args: &Create) -> Result<ExitCode, Failed> {
    let mut next = Next::new(&args.command)?;
    let Some(sources) = sources(&args.files, &args.more)? else { return Ok(ExitCode::from(1)) };
    let device = args.device.open()?;
    let session = device.create(args.name.as_encoded_bytes()).map_err(|refused| told(None, &refused))?;
    // Others may want it while COMMAND runs.
    drop(device);
    give(&session, &sources)?;
    drop(sources);
    next.pass(SESSION, OwnedFd::from(session))?;
    Err(next.exec())
}

pub(super) fn preserve(args: &Preserve) -> Result<ExitCode, Failed> {
    let session = new(args.session.number)?;
    let Some(sources) = sources(&args.files, &args.more)? else { return Ok(ExitCode::from(1)) };
    give(&session, &sources)?;
    Ok(ExitCode::SUCCESS)
}

/// The files, looked at; none if Linux would refuse them.
fn sources(files: &[(u64, OsString)], more: &Files) -> Result<Option<Vec<Source>>, Failed> {
    let mut sources = Vec::new();
    for (token, place) in files {
        sources.push(Source::itself(*token, place)?);
    }
    for (token, path) in &more.copies {
        sources.push(Source::copy(*token, path)?);
    }
    let told = look(&sources);
    if !told.findings.is_empty() {
        anstream::stderr().write_all(lines(&told).as_bytes())?;
    }
    Ok((told.findings.errors() == 0 || more.force).then_some(sources))
}

fn give(session: &NewSession, sources: &[Source]) -> Result<(), Failed> {
    for source in sources {
        session.preserve(source.token, source).map_err(|refused| {
            let refused = told(None, &refused);
            format!("{}: {refused}", source.name)
        })?;
    }
    Ok(())
}
