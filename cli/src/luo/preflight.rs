//! `kho luo preflight`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::process::ExitCode;

use kho::liveupdate::{FileKind, Preflight, preflight};
use kho::report::{Finding, Severity};
use serde::Serialize;

use super::item::{Item, Source, item};
use super::{Failed, Format};
use crate::source::{count, print, print_json, severe, verdict};
use crate::units::size;

/// Arguments of `kho luo preflight`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Files of one session: inherited descriptors, or paths; without TOKEN=, tokens count from 0
    #[arg(value_name = "[TOKEN=]FD|PATH", required = true)]
    files: Vec<OsString>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

const HELP: &str = "\
By the rules of Linux 7.2 and 7.3; neither the device nor live update is needed.
Holes are filled with memory when a file is preserved: that is counted, and held
against what is available.

Examples:
  kho luo preflight 0x10=7 0x11=8         descriptors of the shell
  kho luo preflight /proc/1234/fd/5       a memfd of another process

Exit codes: 0 fine (warnings are listed), 1 Linux would refuse, or has not enough
memory, 2 a file cannot be opened.";

#[derive(Serialize)]
struct Report<'a> {
    verdict: &'static str,
    errors: u64,
    warnings: u64,
    summary: kho::liveupdate::Summary,
    files: Vec<File<'a>>,
    findings: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    #[serde(flatten)]
    facts: &'a kho::liveupdate::FileFacts,
}

#[derive(Serialize)]
struct Told<'a> {
    severity: Severity,
    #[serde(flatten)]
    finding: &'a Finding,
    text: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failed> {
    let open = |(number, text): (usize, &OsString)| {
        let (token, place) = match item(text) {
            Some(Item { token, rest: Some(rest), .. }) => (token, rest),
            _ => (number as u64, text.clone()),
        };
        Source::itself(token, OsStr::new(&place))
    };
    let sources = args.files.iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
    let told = look(&sources);
    let (errors, warnings) = (told.findings.errors(), told.findings.warnings());
    let name = |number: usize| sources.get(number).map_or("", |source| &source.name);
    match args.format {
        Format::Json => print_json(&Report {
            verdict: if errors == 0 { "fine" } else { "problems" },
            errors,
            warnings,
            summary: told.summary,
            files: told.files.iter().map(|facts| File { name: name(facts.number), facts }).collect(),
            findings: findings(&told)
                .map(|finding| Told { severity: finding.fault.code().severity(), finding, text: finding.to_string() })
                .collect(),
        })?,
        Format::Text => {
            let mut text = String::new();
            for facts in &told.files {
                let kind = match facts.kind {
                    FileKind::Memfd => "memfd",
                    FileKind::NamedShmem => "shmem with a name",
                    FileKind::Hugetlb => "huge pages",
                    FileKind::Regular => "regular file",
                    _ => "no regular file",
                };
                let _ = write!(text, "{:#x}  {}: {kind}, {}", facts.token, name(facts.number), size(facts.size));
                if facts.filled > 0 {
                    let _ = write!(text, ", {} of them holes", size(facts.filled));
                }
                if let Some(seals) = facts.seals.filter(|_| facts.kind == FileKind::Memfd) {
                    let _ = write!(text, ", seals {seals:#x}");
                }
                text.push('\n');
            }
            text.push_str(&lines(&told));
            let sum = &told.summary;
            let _ = writeln!(
                text,
                "{} of {}: {} to fill holes, at most {} of metadata: {}",
                count(sum.files, "memfd"),
                size(sum.bytes),
                size(sum.filled),
                count(sum.metadata_pages, "page"),
                verdict(errors, warnings)
            );
            print(&text)?;
        }
    }
    Ok(ExitCode::from(u8::from(errors > 0)))
}

pub(super) fn look(sources: &[Source]) -> Preflight {
    preflight(&sources.iter().map(|source| (source.token, source)).collect::<Vec<_>>())
}

fn findings(told: &Preflight) -> impl Iterator<Item = &Finding> {
    told.findings.kept().iter()
}

/// The findings, a line each.
pub(super) fn lines(told: &Preflight) -> String {
    let mut text = String::new();
    for finding in findings(told) {
        let _ = writeln!(text, "{}", severe(finding.fault.code().severity(), &finding.to_string()));
    }
    if told.findings.dropped() > 0 {
        let _ = writeln!(text, "... and {} more", told.findings.dropped());
    }
    text
}
