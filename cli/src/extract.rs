//! `kho extract`: the bytes of what is handed over.

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use kho::inspect::{Content, Extracted, Item, Opened, Place};
use kho::mem::Image;
use kho::report::Fault;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::source::{BOLD, Source, clean, count, paint, print, print_json};
use crate::units::size;

/// Arguments of `kho extract`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
#[command(group(clap::ArgGroup::new("where").required(true).args(["all", "output"])))]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// SESSION/TOKEN (decimal, or hexadecimal with 0x), NODE, or NODE/RANGE for memory that was reserved by name
    #[arg(value_name = "WHAT", conflicts_with = "all", required_unless_present = "all")]
    what: Option<OsString>,
    /// Write every memfd into this directory, as SESSION.TOKEN (hexadecimal) and NODE
    #[arg(long, value_name = "DIR")]
    all: Option<PathBuf>,
    /// Write WHAT into this file; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// How it is told what was written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

const HELP: &str = "\
Files are sparse: what no memory is for, and what is zero, is a hole. A file
appears when it is complete, and only its owner can read it. In its name, bytes
of a session that are not letters, digits or one of _+=@:,.- are % and two
hexadecimal digits; kho takes names in that form and as they are.

Examples:
  kho extract frozen.core --all files
      files/vm-session.abc, files/second.7 ...
  kho extract frozen.core vm-session/0xabc -o disk.img
      the file under token 0xabc
  kho extract frozen.core memblock/testmem -o - | strings
      memory that was reserved by name
  kho extract arena orders -o orders.bin
      what a node holds: records, an array, a memfd, the folios of kho_test;
      of every other node its blob

Exit codes:
  0  all was written
  1  something could not be taken out and is named; the rest was written
  2  it could not be done: no such file, no handover, nothing of that name,
     a file that exists, a full disk";

/// Bytes of a name, on every file system that matters.
const NAME_MAX: usize = 255;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object: written (node or session and token, path, bytes, holes), not_written (and why)
    Json,
}

#[derive(Default, Serialize)]
struct Report {
    written: Vec<Written>,
    not_written: Vec<NotWritten>,
}

#[derive(Serialize)]
struct Names {
    session: Option<String>,
    token: Option<u64>,
    node: Option<String>,
    range: Option<String>,
}

#[derive(Serialize)]
struct Written {
    #[serde(flatten)]
    names: Names,
    path: String,
    bytes: u64,
    holes: u64,
}

#[derive(Serialize)]
struct NotWritten {
    #[serde(flatten)]
    names: Names,
    #[serde(skip)]
    what: String,
    why: String,
}

impl Names {
    fn of(place: Place<'_>) -> Names {
        let mut names = Names { session: None, token: None, node: None, range: None };
        match place {
            Place::File { session, token } => (names.session, names.token) = (Some(session.to_string()), Some(token)),
            Place::Node(node) => names.node = Some(node.into()),
            Place::Range { node, name } => (names.node, names.range) = (Some(node.into()), Some(name.to_string())),
        }
        names
    }
}

/// Why an item has no file.
enum Failed {
    /// What is handed over is to blame: the next one may be fine.
    Source(String),
    /// This machine is.
    Here(String),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        // What cannot be written knows an offset, what cannot be read an address.
        let text = fault.to_string();
        if fault.at().offset.is_some() && fault.at().address.is_none() {
            Failed::Here(text)
        } else {
            Failed::Source(text)
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let to_stdout = args.output.as_ref().is_some_and(|path| path == Path::new("-"));
    if to_stdout && args.format == Format::Json {
        return Err("--format json and the bytes cannot both go to standard output".into());
    }
    let opened = args.source.open().map_err(|error| args.source.not_shown(&error))?;
    match (&args.all, &args.what, &args.output) {
        (Some(dir), ..) => all(args, &opened, dir),
        (None, Some(what), Some(path)) => one(args, &opened, what.as_bytes(), path),
        // clap does not let it come to that.
        _ => Err("nothing to extract".into()),
    }
}

fn all(args: &Args, opened: &Opened, dir: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let items = opened.memfds();
    let path = |item: &Item<'_>| dir.join(item.place().file_name());
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", shown(dir)))?;
    let taken = |item: &&Item<'_>| item.refused().is_none() && path(item).symlink_metadata().is_ok();
    if let Some(item) = items.iter().find(taken).filter(|_| !args.force) {
        return Err(format!("{} exists: nothing was written (--force replaces it)", shown(&path(item))).into());
    }
    if let Some(item) = items.iter().find(|item| item.refused().is_none() && args.source.is(&path(item))) {
        return Err(format!("{} is what it would be read from", shown(&path(item))).into());
    }
    let mut report = Report::default();
    // Of a memory that is sound, each byte is in one file. What is in many would fill any disk.
    let read = || opened.image().map_or(0, Image::bytes_read);
    let most = read().saturating_add(opened.image().map_or(0, Image::bytes_in_file));
    for item in &items {
        let path = path(item);
        if path.file_name().is_some_and(|name| name.len() > NAME_MAX) {
            report.did_not(item, "its name is too long for a file: -o takes any".into());
            continue;
        }
        if read() > most {
            report.did_not(item, "more was read by now than the memory has: files have folios of each other".into());
            continue;
        }
        match file(args, opened, item, &path) {
            Ok(done) => report.wrote(item, &path, done),
            Err(Failed::Source(why)) => report.did_not(item, why),
            Err(Failed::Here(why)) => {
                tell(args, opened, &report)?;
                return Err(format!("{}: {}", shown(&path), clean(&why)).into());
            }
        }
    }
    tell(args, opened, &report)?;
    Ok(ExitCode::from(u8::from(!report.not_written.is_empty())))
}

fn one(args: &Args, opened: &Opened, what: &[u8], path: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let Some(item) = opened.find(what) else {
        let name = String::from_utf8_lossy(what);
        return Err(format!("{}: nothing is called {}{}", args.source.name(), clean(&name), there_is(opened)).into());
    };
    let to_stdout = path == Path::new("-");
    if !to_stdout && args.source.is(path) {
        return Err(format!("{} is what it would be read from", shown(path)).into());
    }
    let done = if to_stdout {
        stream(opened, &item, &mut io::stdout().lock())
    } else if path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        // A device or a pipe takes the bytes, and is not replaced.
        let out = File::options().write(true).open(path).map_err(|error| Failed::Here(error.to_string()));
        let is_file = |out: &File| out.metadata().is_ok_and(|meta| meta.is_file());
        // It may have become one since it was looked at.
        let out = out.and_then(|out| if is_file(&out) { Err(Failed::Here("it changes".into())) } else { Ok(out) });
        out.and_then(|mut out| stream(opened, &item, &mut out))
    } else {
        file(args, opened, &item, path)
    };
    let mut report = Report::default();
    match done {
        Ok(_) if to_stdout => return Ok(ExitCode::SUCCESS),
        Ok(done) => report.wrote(&item, path, done),
        Err(Failed::Here(why)) => return Err(format!("{}: {}", shown(path), clean(&why)).into()),
        Err(Failed::Source(why)) if to_stdout => {
            writeln!(io::stderr(), "kho: {}: {}: {}", args.source.name(), item.place(), clean(&why))?;
            return Ok(ExitCode::from(1));
        }
        Err(Failed::Source(why)) => report.did_not(&item, why),
    }
    tell(args, opened, &report)?;
    Ok(ExitCode::from(u8::from(!report.not_written.is_empty())))
}

/// Makes a file that has its name when it is complete, and not before.
fn file(args: &Args, opened: &Opened, item: &Item<'_>, path: &Path) -> Result<Extracted, Failed> {
    let here = |error: &dyn std::fmt::Display| Failed::Here(error.to_string());
    if let Some(why) = item.refused() {
        return Err(Failed::Source(why.into()));
    }
    if path.is_dir() {
        return Err(Failed::Here("a directory".into()));
    }
    if !args.force && path.symlink_metadata().is_ok() {
        return Err(Failed::Here("it exists (--force replaces it)".into()));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = NamedTempFile::with_prefix_in(".kho-extract-", dir).map_err(|error| here(&error))?;
    let done = opened.extract(item, file.as_file())?;
    // Neither follows a link that somebody put there.
    let kept = if args.force { file.persist(path) } else { file.persist_noclobber(path) };
    kept.map_err(|error| here(&error.error))?;
    Ok(done)
}

/// Writes into what takes bytes one after the other. A reader that has seen enough is no error.
fn stream(opened: &Opened, item: &Item<'_>, out: &mut dyn io::Write) -> Result<Extracted, Failed> {
    struct Pipe<'a>(&'a mut dyn io::Write, bool);
    impl io::Write for Pipe<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes).inspect_err(|error| self.1 |= error.kind() == io::ErrorKind::BrokenPipe)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush().inspect_err(|error| self.1 |= error.kind() == io::ErrorKind::BrokenPipe)
        }
    }
    if let Some(why) = item.refused() {
        return Err(Failed::Source(why.into()));
    }
    let mut pipe = Pipe(out, false);
    match opened.stream(item, &mut pipe) {
        Err(_) if pipe.1 => Ok(Extracted { bytes: 0, holes: 0 }),
        done => Ok(done?),
    }
}

impl Report {
    fn wrote(&mut self, item: &Item<'_>, path: &Path, Extracted { bytes, holes }: Extracted) {
        let path = path.to_string_lossy().into_owned();
        self.written.push(Written { names: Names::of(item.place()), path, bytes, holes });
    }

    fn did_not(&mut self, item: &Item<'_>, why: String) {
        self.not_written.push(NotWritten { names: Names::of(item.place()), what: item.place().to_string(), why });
    }
}

fn tell(args: &Args, opened: &Opened, report: &Report) -> io::Result<()> {
    if args.format == Format::Json {
        return print_json(report);
    }
    let mut text = String::new();
    for file in &report.written {
        let _ = write!(text, "{}  {}", clean(&file.path), size(file.bytes));
        if file.holes > 0 {
            let _ = write!(text, ", {} of it holes", size(file.holes));
        }
        text.push('\n');
    }
    for not in &report.not_written {
        let _ = writeln!(text, "not written: {}: {}", not.what, clean(&not.why));
    }
    if args.all.is_some() {
        let bytes = report.written.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        let files = paint(BOLD, count(report.written.len() as u64, "file"));
        let _ = write!(text, "{files}, {}", size(bytes));
        if !report.not_written.is_empty() {
            let _ = write!(text, "; {} not written", report.not_written.len());
        } else if report.written.is_empty() {
            text.push_str(": ");
            text.push_str(why_nothing(opened));
        }
        text.push('\n');
    }
    print(&text)
}

/// Why there is no memfd.
fn why_nothing(opened: &Opened) -> &'static str {
    if opened.image().is_none() {
        return "no memory is here, or no tree that says what of it is preserved";
    }
    let frozen = |content: &Content| !matches!(content, Content::Luo { sessions, .. } if sessions.is_empty());
    if opened.decoded.nodes.iter().filter_map(|node| node.content.as_ref()).all(frozen) {
        "no memfd is handed over"
    } else {
        "Linux writes its sessions when it freezes, at the end, and that was not reached"
    }
}

/// What could have been meant.
fn there_is(opened: &Opened) -> String {
    const SHOWN: usize = 12;
    let places = opened.memfds().into_iter().map(|item| item.place().to_string());
    let places: BTreeSet<String> =
        places.chain(opened.decoded.nodes.iter().map(|node| Place::Node(&node.name).to_string())).collect();
    let more = if places.len() > SHOWN { " ..." } else { "" };
    format!("\nthere is: {}{more}", places.into_iter().take(SHOWN).collect::<Vec<_>>().join(" "))
}

fn shown(path: &Path) -> String {
    clean(&path.display().to_string())
}
