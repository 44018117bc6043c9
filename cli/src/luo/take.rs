//! `kho luo retrieve`: after the kexec.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kho::liveupdate::RetrievedSession;
use rustix::fs::SeekFrom;
use serde::Serialize;

use super::item::{Item, item, pour};
use super::{AtDevice, FILE, Failed, Format, Next, SESSION, retrieved, told};
use crate::source::{clean, print, print_json};
use crate::units::size;

/// Arguments of `kho luo retrieve`.
#[derive(clap::Args)]
#[command(
    after_help = HELP,
    override_usage = "kho luo retrieve [OPTIONS] NAME [TOKEN[=PATH]]... [-- COMMAND...]\n       \
                      kho luo retrieve [OPTIONS] --session FD [TOKEN[=PATH]]... [-- COMMAND...]"
)]
pub(super) struct Retrieve {
    /// Name of the session (without --session), and tokens of its files: TOKEN=PATH writes the bytes to
    /// PATH, TOKEN alone passes the descriptor to COMMAND
    #[arg(value_name = "NAME|TOKEN[=PATH]")]
    words: Vec<OsString>,
    /// A retrieved session that is held, as in "$KHO_LUO_SESSION", instead of NAME
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(0..))]
    session: Option<RawFd>,
    #[command(flatten)]
    device: AtDevice,
    /// End the session when all of that is done: what was not retrieved is freed
    #[arg(long)]
    finish: bool,
    /// How the files that were written are listed; with a COMMAND they are not
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Runs in the place of `kho`; finds the session in $KHO_LUO_SESSION, unless it was finished, and the
    /// files in $KHO_LUO_FD_TOKEN, the token as it was written
    #[arg(last = true)]
    command: Vec<OsString>,
}

const HELP: &str = "\
A session can be retrieved by NAME once, and ends with who holds it. So either
--finish it, or give a COMMAND that holds it. A COMMAND that takes the files one
by one loses nothing when one of them fails; `retrieve NAME TOKEN=PATH --finish`
loses what it could not write. PATH is written as a whole or not at all, with
mode 0600, and holes where there are zeros.

Examples:
  kho luo retrieve state 1=/run/state.json --finish
  kho luo retrieve vm-7 0x10 0x11 -- sh -c 'exec vmm --ram-fd $KHO_LUO_FD_0x10'
  kho luo retrieve vm-7 -- sh -c '
      kho luo retrieve --session $KHO_LUO_SESSION 0x10=/var/ram &&
      kho luo finish --session $KHO_LUO_SESSION'

Exit codes: what COMMAND returns; 0 done, 2 it could not be done.";

/// A file that is to be written: beside its place, until it is whole.
struct Output {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    done: bool,
}

#[derive(Serialize)]
struct Written {
    token: u64,
    path: String,
    size: u64,
    pos: u64,
    seals: Option<u32>,
}

pub(super) fn retrieve(args: &Retrieve) -> Result<ExitCode, Failed> {
    let (name, tokens) = match (args.session, args.words.split_first()) {
        (Some(_), _) => (None, &args.words[..]),
        (None, Some((name, tokens))) => (Some(name), tokens),
        (None, None) => return Err("retrieve: NAME or --session FD".into()),
    };
    // All that can fail fails before the session is taken: it can be taken once.
    if name.is_some() && !args.finish && args.command.is_empty() {
        return Err("retrieve: the session would end with this command, and what was not retrieved would be freed\n\
                    hint: --finish if that is what you want, or a COMMAND that holds it"
            .into());
    }
    let mut next = Next::new(&args.command)?;
    let mut jobs = Vec::new();
    for text in tokens {
        let item = item(text).ok_or_else(|| {
            let text = clean(&text.to_string_lossy());
            format!("{text}: not TOKEN or TOKEN=PATH, a token decimal or 0x.. with at most 64 bits")
        })?;
        if item.rest.is_none() && args.command.is_empty() {
            return Err(format!("{}: where to? {0}=PATH, or a COMMAND that gets its descriptor", item.written).into());
        }
        let output = item.rest.as_deref().map(Output::new).transpose()?;
        jobs.push((item, output));
    }
    let session = match (name, args.session) {
        (Some(name), _) => {
            let device = args.device.open()?;
            device.retrieve(name.as_encoded_bytes()).map_err(|refused| told(None, &refused))?
        }
        (None, number) => retrieved(number.unwrap_or(-1))?,
    };
    let written = take(&session, jobs, &mut next).map_err(|error| {
        let lost = match name {
            Some(_) => format!("\nsession {} ends with this command: what was not written is freed", session.name()),
            None => String::new(),
        };
        format!("{error}{lost}")
    })?;
    if args.finish {
        session.finish().map_err(|(_session, refused)| told(None, &refused))?;
    } else if name.is_some() {
        next.pass(SESSION, OwnedFd::from(session))?;
    } else if let Some(number) = args.session {
        // Inherited as it was.
        next.variables.push((SESSION.into(), number.to_string()));
    }
    if !args.command.is_empty() {
        return Err(next.exec());
    }
    list(&written, args.format)?;
    Ok(ExitCode::SUCCESS)
}

fn take(
    session: &RetrievedSession,
    jobs: Vec<(Item, Option<Output>)>,
    next: &mut Next<'_>,
) -> Result<Vec<Written>, Failed> {
    let mut written = Vec::new();
    let mut failed = Vec::new();
    for (item, output) in jobs {
        let taken =
            session.retrieve(item.token).map_err(|refused| told(None, &refused)).and_then(|file| match output {
                None => next.pass(format!("{FILE}{}", item.written), file),
                Some(output) => {
                    written.push(output.write(item.token, file)?);
                    Ok(())
                }
            });
        // The others may be fine.
        if let Err(error) = taken {
            failed.push(error.to_string());
        }
    }
    if failed.is_empty() { Ok(written) } else { Err(failed.join("\n").into()) }
}

impl Output {
    fn new(path: &OsStr) -> Result<Output, Failed> {
        let path = PathBuf::from(path);
        let shown = clean(&path.display().to_string());
        // It is put in the place of the file: of what a link leads to, never of the link, which may be /dev/stdout.
        let path = match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                std::fs::canonicalize(&path).map_err(|error| format!("{shown}: where it leads: {error}"))?
            }
            _ => path,
        };
        match std::fs::metadata(&path) {
            Ok(found) if !found.is_file() => return Err(format!("{shown}: not a regular file").into()),
            Err(_) if path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
                return Err(format!("{shown}: not a file").into());
            }
            _ => {}
        }
        let Some(file_name) = path.file_name() else { return Err(format!("{shown}: not a file").into()) };
        let mut name = file_name.to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&partial);
        let file = file.map_err(|error| format!("{shown}: {error}"))?;
        Ok(Output { path, partial, file, done: false })
    }

    fn write(mut self, token: u64, from: OwnedFd) -> Result<Written, Failed> {
        let path = clean(&self.path.display().to_string());
        let pos = rustix::fs::seek(&from, SeekFrom::Current(0))?;
        let seals = rustix::fs::fcntl_get_seals(&from).ok().map(|seals| seals.bits());
        let from = File::from(from);
        let io = |error: std::io::Error| format!("{path}: {error}");
        pour(&from, &self.file).map_err(io)?;
        // Soon this may be the only copy.
        self.file.sync_all().map_err(io)?;
        std::fs::rename(&self.partial, &self.path).map_err(io)?;
        self.done = true;
        let size = from.metadata()?.len();
        Ok(Written { token, path, size, pos, seals })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(Path::new(&self.partial));
        }
    }
}

fn list(written: &[Written], format: Format) -> Result<(), Failed> {
    if format == Format::Json {
        return Ok(print_json(&written)?);
    }
    let mut text = String::new();
    for file in written {
        let _ = write!(text, "{:#x}  {}  {}", file.token, size(file.size), file.path);
        let _ = match (file.pos, file.seals) {
            (0, None | Some(0)) => writeln!(text),
            (pos, seals) => writeln!(text, "  (position {pos}, seals {:#x})", seals.unwrap_or(0)),
        };
    }
    Ok(print(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (far, link) = (dir.path().join("far"), dir.path().join("link"));
        std::fs::write(&far, "old").unwrap();
        std::os::unix::fs::symlink("far", &link).unwrap();
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, b"new").unwrap();
        let written = Output::new(link.as_os_str()).unwrap().write(7, file).unwrap();
        assert_eq!((written.size, written.pos), (3, 3));
        assert_eq!(std::fs::read_to_string(&far).unwrap(), "new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
