//! `kho diff`: what two handovers do not have in common.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use kho::inspect::{Change, ChangeKind, Diff, DiffOptions, NotCompared, Opened};
use serde::Serialize;

use crate::source::{BOLD, DIM, GREEN, Pages, RED, Source, YELLOW, clean, is_handover, paint, print, print_json};
use crate::units::parse_size;

/// Arguments of `kho diff`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A handover: an ELF core, an arena, a device tree, a copy of /sys/kernel/debug/kho, or raw memory; or saved states
    #[arg(value_name = "A")]
    a: PathBuf,
    /// Another one, of any of these
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Compare where things are, too: physical addresses, inodes of files beside the memory, what handlers and globals
    /// of Linux left, the size of the root FDT
    #[arg(long)]
    addresses: bool,
    /// Physical address of the root FDT
    #[arg(long, value_name = "ADDR[,ADDR]", value_parser = Two::<u64>::parse_size)]
    fdt: Option<Two<u64>>,
    /// Page size of the machine that wrote it
    #[arg(long, value_name = "SIZE[,SIZE]", value_parser = Two::<Pages>::parse_pages)]
    page_size: Option<Two<Pages>>,
    /// It is raw memory, and its first byte is at this physical address
    #[arg(long, value_name = "ADDR[,ADDR]", value_parser = Two::<u64>::parse_size)]
    base: Option<Two<u64>>,
    /// Bytes of the file before the raw memory
    #[arg(long, value_name = "BYTES[,BYTES]", value_parser = Two::<u64>::parse_size, requires = "base")]
    offset: Option<Two<u64>>,
    /// The memory may change meanwhile: read it until two readings are the same
    #[arg(long)]
    live: bool,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

const HELP: &str = "\
Compared are the components and their versions, nodes, sessions, files by
token, globals, reserved memory, tables, arrays, states field by field, what is
preserved and what is wrong; and where both have their memory, the bytes of each file, table, array
and range, and of each blob that nobody here understands. Where things lie is
no difference without --addresses.

What is said of a source is said of both, or of each: --base 0x1000,0x2000, and
of B alone: --base ,0x2000.

Examples:
  kho diff before.core after.core
      /LUO sessions[vm].files[0xabc].size: 9984 -> 12288
      /LUO sessions[vm].files[0xabc].content at 0x1000: 0x05 -> 0x06
      /note: only in B (shop-note-v1)
  kho diff before.bin after.bin
      /state vmm.vcpus[3].timer: 7 -> 9
      states that a program saved, field by field; also in handovers
  kho diff authored.img frozen.core --base 0xa000000,
      raw memory, and a core
  kho diff --format json a b | jq '.changes[] | select(.kind == \"added\").path'

Exit codes:
  0  the same; what could not be compared in either is named
  1  different
  2  one of them could not be read: no such file, no handover, broken";

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object: verdict, addresses, changes, not_compared
    Json,
}

/// What `--format json` prints.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report<'a> {
    /// `same` or `different`.
    verdict: &'static str,
    /// Whether it was compared where things are.
    addresses: bool,
    /// The differences and what could not be compared.
    #[serde(flatten)]
    diff: &'a Diff,
}

/// Something that is said of both sources, or of each.
#[derive(Clone, Copy)]
struct Two<T> {
    a: Option<T>,
    b: Option<T>,
}

impl<T: Copy> Two<T> {
    fn parse(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        let one = |text: &str| if text.is_empty() { Ok(None) } else { one(text).map(Some) };
        match text.split_once(',') {
            None => one(text).map(|both| Two { a: both, b: both }),
            Some((a, b)) => Ok(Two { a: one(a)?, b: one(b)? }),
        }
    }
}

impl Two<u64> {
    fn parse_size(text: &str) -> Result<Self, String> {
        Two::parse(text, parse_size)
    }
}

impl Two<Pages> {
    fn parse_pages(text: &str) -> Result<Self, String> {
        Two::parse(text, |text| Pages::from_str(text, true).map_err(|_| "neither 4K, 16K nor 64K".into()))
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let (a, b) = (source(args, true), source(args, false));
    let diff = Diff::of(&opened(&a)?, &opened(&b)?, DiffOptions { addresses: args.addresses });
    match args.format {
        Format::Json => {
            let verdict = if diff.is_same() { "same" } else { "different" };
            print_json(&Report { verdict, addresses: args.addresses, diff: &diff })?;
        }
        Format::Text => print(&text(&diff, &a.name(), &b.name()))?,
    }
    Ok(ExitCode::from(u8::from(!diff.is_same())))
}

fn source(args: &Args, is_a: bool) -> Source {
    fn of<T: Copy>(two: &Option<Two<T>>, is_a: bool) -> Option<T> {
        two.as_ref().and_then(|two| if is_a { two.a } else { two.b })
    }
    Source {
        file: if is_a { &args.a } else { &args.b }.clone(),
        fdt: of(&args.fdt, is_a),
        page_size: of(&args.page_size, is_a),
        base: of(&args.base, is_a),
        offset: of(&args.offset, is_a).unwrap_or(0),
        live: args.live,
        scratch: Vec::new(),
    }
}

fn opened(source: &Source) -> Result<Opened, Box<dyn Error>> {
    let opened = source.open().map_err(|error| source.not_shown(&error))?;
    if !is_handover(&opened.decoded) {
        let name = source.name();
        return Err(
            format!("{name}: a device tree, and not the root of a handover: its compatible has no kho-vN").into()
        );
    }
    Ok(opened)
}

/// So many lines are printed of what could not be compared.
const LINES: usize = 12;

fn text(diff: &Diff, a: &str, b: &str) -> String {
    let mut text = String::new();
    for change in &diff.changes {
        let _ = writeln!(text, "{}", line(change));
    }
    for not in diff.not_compared.iter().take(LINES) {
        let _ = writeln!(text, "{}", paint(DIM, not_compared(not)));
    }
    if diff.not_compared.len() > LINES {
        let more = format!("... and {} more: --format json has all", diff.not_compared.len() - LINES);
        let _ = writeln!(text, "{}", paint(DIM, more));
    }
    let verdict = match diff.changes.len() as u64 {
        0 => paint(GREEN, "same"),
        1 => paint(RED, "1 difference"),
        more => paint(RED, format_args!("{more} differences")),
    };
    let _ = write!(text, "{}: {verdict}", paint(BOLD, format_args!("{a} and {b}")));
    if !diff.not_compared.is_empty() {
        let _ = write!(text, ", {} not compared", diff.not_compared.len());
    }
    text.push('\n');
    text
}

fn line(change: &Change) -> String {
    let path = paint(BOLD, clean(&change.path));
    let side = |value: &Option<String>| clean(value.as_deref().unwrap_or_default());
    let (a, b) = (side(&change.a), side(&change.b));
    let only = |style, side: &str, value: String| {
        let about = if value.is_empty() { value } else { format!(" ({value})") };
        format!("{path}: {}{about}", paint(style, format_args!("only in {side}")))
    };
    match (change.kind, change.offset) {
        (ChangeKind::Added, _) => only(GREEN, "B", b),
        (ChangeKind::Removed, _) => only(RED, "A", a),
        (ChangeKind::Changed, None) => format!("{path}: {a} {} {b}", paint(YELLOW, "->")),
        (ChangeKind::Changed, Some(offset)) => format!("{path} at {offset:#x}: {a} {} {b}", paint(YELLOW, "->")),
    }
}

fn not_compared(not: &NotCompared) -> String {
    let why = match (&not.a, &not.b) {
        (Some(a), Some(b)) if a == b => a.clone(),
        (a, b) => {
            let side = |name: &str, why: &Option<String>| why.as_ref().map(|why| format!("{name}: {why}"));
            [side("A", a), side("B", b)].into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
    };
    format!("not compared: {}: {}", clean(&not.path), clean(&why))
}
