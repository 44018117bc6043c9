//! The file that is looked at, and how what was found in it is written.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use kho::inspect::{Decoded, FoundBy, NotShown, Opened, Options, PageSizeBy, Problem, SourceKind};
use kho::mem::{Geometry, PhysAddr, PhysRange};
use kho::report::{Code, Severity};

use crate::units::{parse_range, parse_size, size};

/// Opens a file that is read. To open a pipe would wait for somebody who writes into it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::other("a pipe, and not a file with a size"));
    }
    File::open(path)
}

/// What is looked at.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// An ELF core (a dump of QEMU, /proc/vmcore, /proc/kcore), an arena, a device tree (.dtb), a copy of
    /// /sys/kernel/debug/kho, /dev/mem, raw memory, or saved states
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Physical address of the root FDT; without it, all pages are searched
    #[arg(long, value_name = "ADDR", value_parser = parse_size)]
    pub(crate) fdt: Option<u64>,
    /// Page size of the machine that wrote it; without it, the one that its tree fits
    #[arg(long, value_name = "SIZE", ignore_case = true)]
    pub(crate) page_size: Option<Pages>,
    /// FILE is raw memory, and its first byte is at this physical address
    #[arg(long, value_name = "ADDR", value_parser = parse_size)]
    pub(crate) base: Option<u64>,
    /// Bytes of FILE before the raw memory
    #[arg(long, value_name = "BYTES", value_parser = parse_size, default_value = "0", requires = "base")]
    pub(crate) offset: u64,
    /// The memory may change meanwhile: read it until two readings are the same (/proc/kcore and /dev/mem always are)
    #[arg(long)]
    pub(crate) live: bool,
    /// Scratch of the machine, which the handover does not name: a range, or a copy of its debugfs kho/out with
    /// scratch_phys and scratch_len; may be given more than once
    #[arg(long, value_name = "START+SIZE|DIR", value_parser = parse_scratch)]
    pub(crate) scratch: Vec<Scratch>,
}

/// A list of scratch is not longer, in bytes.
const SCRATCH_LIMIT: u64 = 1 << 20;

/// Ranges of scratch.
pub(crate) type Scratch = std::sync::Arc<[PhysRange]>;

/// `0x6800000+16M`, or a folder with `scratch_phys` and `scratch_len`.
pub(crate) fn parse_scratch(text: &str) -> Result<Scratch, String> {
    if text.contains('+') && !Path::new(text).is_dir() {
        return Ok([parse_range(text)?].into());
    }
    let read = |name: &str| {
        let inside = [Path::new(text).join(name), Path::new(text).join("out").join(name)];
        let path = inside.iter().find(|path| path.is_file()).ok_or_else(|| {
            format!("{text}: neither START+SIZE, as 0x6800000+16M, nor a folder with scratch_phys and scratch_len")
        })?;
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(SCRATCH_LIMIT).read_to_string(&mut text));
        read.map(|_| text).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (starts, sizes) = (read("scratch_phys")?, read("scratch_len")?);
    let (starts, sizes): (Vec<_>, Vec<_>) = (starts.lines().collect(), sizes.lines().collect());
    if starts.len() != sizes.len() {
        return Err(format!("{text}: scratch_phys has {} lines, and scratch_len {}", starts.len(), sizes.len()));
    }
    let range = |(number, (start, size)): (u64, (&&str, &str))| {
        parse_range(&format!("{start}+{size}"))
            .map_err(|error| clean(&format!("line {number} of scratch_phys and scratch_len: {error}")))
    };
    (1..).zip(starts.iter().zip(sizes)).map(range).collect()
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Pages {
    #[value(name = "4K", aliases = ["4KiB", "4096", "0x1000"])]
    K4,
    #[value(name = "16K", aliases = ["16KiB", "16384", "0x4000"])]
    K16,
    #[value(name = "64K", aliases = ["64KiB", "65536", "0x10000"])]
    K64,
}

impl Source {
    pub(crate) fn decode(&self) -> Result<Decoded, NotShown> {
        self.opened(false).map(|opened| opened.decoded)
    }

    /// What is in it, and the memory.
    pub(crate) fn open(&self) -> Result<Opened, NotShown> {
        self.opened(false)
    }

    /// As [`Source::decode`], and who owns what.
    pub(crate) fn decode_with_map(&self) -> Result<Decoded, NotShown> {
        self.opened(true).map(|opened| opened.decoded)
    }

    /// Whether it is said to be memory, whatever it looks like.
    pub(crate) const fn is_memory(&self) -> bool {
        self.base.is_some() || self.fdt.is_some()
    }

    /// Refuses to write over what is looked at.
    pub(crate) fn is_not(&self, output: &Path) -> Result<(), String> {
        if self.is(output) { Err(format!("{}: is what would be drawn", self.name())) } else { Ok(()) }
    }

    /// Whether a path leads to what is looked at.
    pub(crate) fn is(&self, path: &Path) -> bool {
        let same = std::fs::canonicalize(path).ok().zip(std::fs::canonicalize(&self.file).ok());
        same.is_some_and(|(path, file)| path == file)
    }

    fn opened(&self, map: bool) -> Result<Opened, NotShown> {
        let geometry = self.page_size.map(|pages| match pages {
            Pages::K4 => Geometry::K4,
            Pages::K16 => Geometry::K16,
            Pages::K64 => Geometry::K64,
        });
        let (fdt, base) = (self.fdt.map(PhysAddr::new), self.base.map(PhysAddr::new));
        let scratch = self.scratch.iter().flat_map(|ranges| ranges.iter().copied()).collect();
        let options = Options { fdt, geometry, base, offset: self.offset, live: self.live, scratch, map };
        Opened::open(&self.file, &options)
    }

    /// The name of the file, for people.
    pub(crate) fn name(&self) -> String {
        clean(&self.file.display().to_string())
    }

    /// The same, without its folders.
    pub(crate) fn file_name(&self) -> String {
        self.file.file_name().map_or_else(|| self.name(), |name| clean(&name.to_string_lossy()))
    }

    /// What is said when nothing can be shown.
    pub(crate) fn not_shown(&self, error: &NotShown) -> Box<dyn Error> {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        let fault = &error.fault;
        let why = match fault.code() {
            // The system's own words say it all.
            Code::Io if fault.at().offset.is_none() && fault.at().address.is_none() => fault.found_text().into(),
            _ => error.to_string(),
        };
        format!("{}: {}{hint}", self.name(), clean(&why)).into()
    }
}

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const RED: Style = AnsiColor::Red.on_default().bold();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();

/// Text in a style. What is printed goes through [`print()`], which takes the style away where it would be noise.
pub(crate) fn paint(style: Style, text: impl fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Text out of a handover: it may have been made to drive the terminal that it is shown on.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Escaped once is enough.
            '\'' | '"' | '\\' => clean.push(c),
            _ => clean.extend(c.escape_debug()),
        }
    }
    clean
}

/// Writes to standard output, with colour if it is a terminal that wants it. A reader that has seen enough is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    done(anstream::stdout().write_all(text.as_bytes()).and_then(|()| anstream::stdout().flush()))
}

/// As [`print()`], a value as JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = serde_json::to_writer(&mut out, value).map_err(io::Error::from);
    done(written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()))
}

fn done(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// `1 node`, `2 nodes`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Whether it is a handover, or what is known of one; else a device tree of something else.
pub(crate) fn is_handover(decoded: &Decoded) -> bool {
    decoded.root.is_handover || matches!(decoded.source.kind, SourceKind::Debugfs | SourceKind::States)
}

/// What the file is and where its root is, in two or three lines.
pub(crate) fn head(decoded: &Decoded) -> String {
    let mut text = String::new();
    let source = &decoded.source;
    let kind = match source.kind {
        SourceKind::DeviceTree => "device tree",
        SourceKind::Arena => "arena",
        SourceKind::Core => "ELF core",
        SourceKind::Raw => "raw memory",
        SourceKind::Debugfs => "copy of debugfs kho",
        SourceKind::States => "saved states",
        _ => "file",
    };
    let _ = write!(text, "{:<10} {kind}, {}", "source", size(source.bytes));
    if source.extents > 1 {
        let _ = write!(text, " in {}", count(source.extents as u64, "range"));
    }
    if let Some(page) = &decoded.page_size {
        let by = match page.by {
            PageSizeBy::Header => "as its header says",
            PageSizeBy::Option => "as --page-size says",
            PageSizeBy::Tree => "with them its tree preserves its root",
            PageSizeBy::Guess => "guessed; --page-size if that is wrong",
        };
        let _ = write!(text, ", pages of {} ({by})", size(page.bytes));
    }
    let root = &decoded.root;
    if source.kind == SourceKind::States {
        text.push('\n');
        return text;
    }
    if root.found_by == FoundBy::Missing {
        text.push_str("\nroot FDT   none is there\n");
        scratch(&mut text, decoded);
        return text;
    }
    let list = clean(&root.compatible.join(", "));
    let _ = write!(text, "\n{:<10} ", "root FDT");
    if let Some(address) = root.address {
        let _ = write!(text, "{address:#x}, ");
    }
    let _ = write!(text, "{} bytes, {}", root.size, if list.is_empty() { "no compatible" } else { &list });
    match root.found_by {
        FoundBy::Header => text.push_str(" (the header of the arena names it)"),
        FoundBy::Option => text.push_str(" (--fdt names it)"),
        FoundBy::Search => text.push_str(" (found by search)"),
        _ => {}
    }
    text.push('\n');
    scratch(&mut text, decoded);
    for other in &decoded.candidates {
        let verdict = other.errors.map_or("its tree cannot be read".into(), |errors| count(errors, "error"));
        let _ =
            writeln!(text, "{:<10} {:#x}, {verdict}: not shown (--fdt {:#x})", "another", other.address, other.address);
    }
    if let Some(preserved) = &decoded.preserved {
        let _ = write!(
            text,
            "{:<10} {} in {}, {} of {}\n{:<10} ",
            "preserved",
            size(preserved.bytes),
            count(preserved.blocks, "block"),
            count(preserved.range_count, "range"),
            count(preserved.pages, "page"),
            "by order",
        );
        let page = decoded.page_size.as_ref().map_or(0, |page| page.bytes);
        let orders = preserved.orders.iter().map(|order| {
            let bytes = page.checked_shl(order.order).unwrap_or(0);
            format!("{} of order {} ({})", order.blocks, order.order, size(bytes))
        });
        let _ = writeln!(text, "{}", orders.collect::<Vec<_>>().join(", "));
    }
    text
}

fn scratch(text: &mut String, decoded: &Decoded) {
    for (number, range) in decoded.scratch.iter().enumerate() {
        let title = if number == 0 { "scratch" } else { "" };
        let end = range.address.saturating_add(range.size);
        let _ = writeln!(text, "{title:<10} {:#x}..{end:#x}, {}", range.address, size(range.size));
    }
}

/// What was found wrong: one line each, and how many were not kept.
pub(crate) fn findings(decoded: &Decoded) -> String {
    let mut text = String::new();
    for problem in &decoded.findings {
        let _ = writeln!(text, "{}", finding(problem));
    }
    let more = (decoded.errors + decoded.warnings).saturating_sub(decoded.findings.len() as u64);
    if more > 0 {
        let _ = writeln!(text, "... and {more} more");
    }
    text
}

fn finding(problem: &Problem) -> String {
    severe(problem.severity, &problem.text)
}

/// A finding as text, which begins with its severity.
pub(crate) fn severe(severity: Severity, text: &str) -> String {
    let word = severity.to_string();
    let style = if severity == Severity::Error { RED } else { YELLOW };
    let rest = text.strip_prefix(&word).unwrap_or(text);
    format!("{}{}", paint(style, &word), clean(rest))
}

/// What was not looked into, because it is not there.
pub(crate) fn not_there(decoded: &Decoded) -> &'static str {
    match decoded.source.kind {
        SourceKind::Debugfs => {
            "what debugfs exports: the memory that it names is not here, so nothing in that was checked\n"
        }
        SourceKind::DeviceTree => {
            "the root FDT alone: the memory that it names is not here, so nothing in that was checked\n"
        }
        _ => "",
    }
}

/// `fine`, or how much is wrong.
pub(crate) fn verdict(errors: u64, warnings: u64) -> String {
    match (errors, warnings) {
        (0, 0) => paint(GREEN, "fine"),
        (0, _) => format!("{}, {}", paint(GREEN, "fine"), paint(YELLOW, count(warnings, "warning"))),
        (_, 0) => paint(RED, count(errors, "error")),
        _ => format!("{}, {}", paint(RED, count(errors, "error")), paint(YELLOW, count(warnings, "warning"))),
    }
}

pub(crate) fn node_verdict(node: &kho::inspect::Node) -> String {
    use kho::handover::Verdict;
    match node.verdict {
        None if node.content.is_some() => paint(DIM, "unproven"),
        None => paint(DIM, "not read"),
        Some(Verdict::Fine) => paint(GREEN, "fine    "),
        Some(Verdict::Refused) => paint(RED, "refused "),
        Some(other) => paint(YELLOW, format_args!("{other:<8}")),
    }
}
