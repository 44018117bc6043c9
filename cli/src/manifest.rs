//! `kho manifest`: what a program says of itself in its own file.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use kho::compat::{Compat, Reads, Term, Terms};
use kho::manifest::Found;
use serde::Serialize;

use crate::source::{BOLD, clean, count, open, paint, print, print_json};

/// Arguments of `kho manifest`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A program, or an object file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

const HELP: &str = "\
A manifest is what `kho::manifest!` puts into a program: the nodes that it takes
over and hands over, in which versions, and what it cannot do without. It is read
from the file; nothing is run.

Examples:
  kho manifest target/release/serviced
      what that program reads and writes
      with each state: its versions, and its fields with their types
  kho manifest --format json /usr/bin/serviced | jq '.reads[] | select(.required).node'
      what must be in a handover to it

Exit codes: 0 printed, 1 the program has none, 2 it could not be read";

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object
    Json,
}

/// What `kho manifest --format json` prints.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report {
    /// Version of the note.
    note: u32,
    #[serde(flatten)]
    found: Found,
    /// The table `.liveupdate_versions`, where the file still has its section headers.
    liveupdate_versions: Option<Vec<String>>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let name = clean(&args.file.display().to_string());
    let fails = |error: &dyn std::fmt::Display| format!("{name}: {}", clean(&error.to_string()));
    let file = open(&args.file).map_err(|error| fails(&error))?;
    let Some(found) = Found::of_file(&file).map_err(|fault| fails(&fault))? else {
        eprintln!("kho: {name}: has no manifest: kho::manifest! puts one into a program");
        return Ok(ExitCode::from(1));
    };
    let liveupdate_versions = Found::versions_of_file(&file).map_err(|fault| fails(&fault))?;
    match args.format {
        Format::Json => {
            print_json(&Report { note: kho::abi::manifest::COMPAT.version(), found, liveupdate_versions })?;
        }
        Format::Text => {
            let mut text = format!("{}\n{}", paint(BOLD, name), shown(&found));
            if let Some(versions) = liveupdate_versions {
                let versions = versions.join(", ");
                let _ = writeln!(text, "{}: {}", kho::abi::manifest::VERSIONS_SECTION, clean(&versions));
            }
            print(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is read, a line each.
pub(crate) fn reads(found: &Found) -> String {
    let mut text = String::new();
    side(&mut text, "reads", &found.reads, None);
    text
}

/// What is read and written, a line each.
fn shown(found: &Found) -> String {
    let mut text = String::new();
    side(&mut text, "reads", &found.reads, None);
    side(&mut text, "writes", &found.writes, Some(&found.reads));
    if found.passed_over > 0 {
        let _ =
            writeln!(text, "passed over: {} of kinds that this kho does not know", count(found.passed_over, "line"));
    }
    text
}

/// `before` was printed.
fn side(text: &mut String, title: &str, terms: &Terms, before: Option<&Terms>) {
    let wide = terms.names().map(str::len).max().unwrap_or(0).max("(layouts)".len());
    for term in terms.iter().filter(|term| !term.name().is_empty()) {
        let needed = if term.is_required() { "" } else { ", optional" };
        let _ = writeln!(text, "{title:<7} {:<wide$}  {}{needed}", clean(term.name()), clean(&versions(term)));
        if term.states().is_empty() {
            continue;
        }
        let mut line = |line: String| {
            let _ = writeln!(text, "{:8}{line}", "");
        };
        if before.and_then(|before| before.states(term.name())) == Some(term.states()) {
            line(format!("{} as above", count(term.states().len() as u64, "state")));
        } else {
            crate::states::descriptions(term.states().iter().map(|of| (of, None)), &mut line);
        }
    }
    let layouts: Vec<String> = terms.layouts().iter().map(Reads::to_string).collect();
    let _ = writeln!(text, "{title:<7} {:<wide$}  {}", "(layouts)", clean(&layouts.join(", ")));
}

/// `my-cache-v1..=v2, using vmalloc-v1`.
fn versions(term: &Term) -> String {
    let mut parts = term.made_of().split(';');
    let owner = parts.next().and_then(|owner| Compat::parse(owner).ok());
    let owner = owner.map_or_else(|| term.made_of().into(), |owner| Reads::since(term.oldest(), owner).to_string());
    let uses: Vec<&str> = parts.collect();
    if uses.is_empty() { owner } else { format!("{owner}, using {}", uses.join(", ")) }
}
