//! `kho map`: physical memory and who owns it.

mod groups;
mod rows;
mod svg;
mod text;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use kho::inspect::{Map, PageSize, Problem, Root, SourceView};
use serde::Serialize;

use crate::check::broken;
use crate::source::{BOLD, Source, clean, findings, head, paint, print, print_json, verdict};

/// Arguments of `kho map`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Draw it, as SVG, into this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

const HELP: &str = "\
Examples:
  kho map frozen.core
      a strip of all memory, and how much each owner has
  kho map frozen.core -o map.svg
      a picture for a browser: what is under the pointer says who owns it
  kho map --scratch debugfs/out -o map.svg vmcore
      with scratch, which the handover does not name; from a copy of
      /sys/kernel/debug/kho/out, or each range as --scratch 0x6800000+16M
  kho map --format json arena | jq '.map.owners'

In the strip a letter is who owns most of that memory, a capital where at
least half of it is owned; / scratch, % the radix tree, ? preserved and
nobody's, ! more than one owner, . free, blank not in the file.

Exit codes:
  0  it was shown, and is fine; warnings are listed
  1  problems were found and listed, and all that could be read was shown. Of
     a root that is broken only the problem is told, as `kho check` does
  2  nothing could be shown: no such file, no handover, no memory";

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// The picture
    Svg,
    /// One object: source, page_size, root, map, errors, warnings, findings
    Json,
}

/// What `--format json` prints.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report<'a> {
    /// What it was read from.
    source: &'a SourceView,
    /// The page size, and who says so.
    page_size: &'a Option<PageSize>,
    /// The root of the handover.
    root: &'a Root,
    /// Who owns what.
    map: &'a Map,
    /// How many errors were found.
    errors: u64,
    /// How many warnings were found.
    warnings: u64,
    /// What is wrong.
    findings: &'a [Problem],
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let decoded = match args.source.decode_with_map() {
        Ok(decoded) => decoded,
        Err(error) => return broken(&args.source, error, matches!(args.format, Format::Json)),
    };
    let name = args.source.name();
    let Some(map) = &decoded.map else {
        return Err(format!("{name}: a device tree alone has no memory to be drawn").into());
    };
    let picture = || svg::draw(&decoded, map, &args.source.file_name());
    if let Some(output) = &args.output {
        args.source.is_not(output)?;
        std::fs::write(output, picture())
            .map_err(|error| format!("{}: {error}", clean(&output.display().to_string())))?;
    }
    match args.format {
        Format::Svg => print(&picture())?,
        Format::Json => print_json(&Report {
            source: &decoded.source,
            page_size: &decoded.page_size,
            root: &decoded.root,
            map,
            errors: decoded.errors,
            warnings: decoded.warnings,
            findings: &decoded.findings,
        })?,
        Format::Text => print(&format!(
            "{}\n{}{}{}{}\n",
            paint(BOLD, &name),
            head(&decoded),
            text::text(map, columns()),
            findings(&decoded),
            verdict(decoded.errors, decoded.warnings)
        ))?,
    }
    Ok(ExitCode::from(u8::from(decoded.errors > 0)))
}

/// Width of the terminal; of anything else, that of a page of text.
fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(100, |size| usize::from(size.ws_col).max(1))
}
