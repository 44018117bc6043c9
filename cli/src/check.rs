//! `kho check`: whether a successor would take it.

use std::error::Error;
use std::process::ExitCode;

use clap::ValueEnum;
use kho::inspect::{Decoded, NotShown, Problem, SourceKind};
use serde::Serialize;

use crate::source::{BOLD, Source, clean, findings, head, is_handover, not_there, paint, print, print_json, verdict};

/// Arguments of `kho check`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

const HELP: &str = "\
The file is read as a successor would read it: structure, tree, ownership,
and every component that is known here. Nothing is restored or changed.

Examples:
  kho check frozen.core
      a dump of a machine that was frozen before its kexec
  kho check --scratch debugfs/out frozen.core
      nor may anything lie in scratch, which the handover does not name; from
      a copy of /sys/kernel/debug/kho/out, or each as 0x6800000+16M
  kho check state.bin
      states that a program saved
  kho check --format json vmcore | jq '.findings[] | {code, node}'

Exit codes:
  0  fine; warnings are listed. Of a device tree alone only the root is
     checked, and it says so (JSON: \"checked\": \"root-fdt\")
  1  problems were found and listed
  2  it could not be checked: no such file, no handover, or cut so that
     nothing can be said";

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object: verdict, checked, errors, warnings, findings
    Json,
}

/// What `--format json` prints.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report<'a> {
    /// `fine` or `problems`.
    verdict: &'static str,
    /// How much was checked: `handover`, `root-fdt` where the rest is not there or cannot be found, or `states` of a file
    /// with nothing else.
    checked: &'static str,
    /// How many errors were found.
    errors: u64,
    /// How many warnings were found.
    warnings: u64,
    /// What is wrong.
    findings: &'a [Problem],
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    match args.source.decode() {
        Ok(decoded) if !is_handover(&decoded) => {
            let list = clean(&decoded.root.compatible.join(", "));
            let name = args.source.name();
            Err(format!(
                "{name}: a device tree, and not the root of a handover: its compatible is \"{list}\", not kho-vN"
            )
            .into())
        }
        Ok(decoded) => {
            report(args, &decoded)?;
            Ok(ExitCode::from(u8::from(decoded.errors > 0)))
        }
        Err(error) => broken(&args.source, error, matches!(args.format, Format::Json)),
    }
}

/// Tells of a root that could not be decoded because it is broken; of anything else that it could not be looked at.
pub(crate) fn broken(source: &Source, error: NotShown, json: bool) -> Result<ExitCode, Box<dyn Error>> {
    if !error.is_broken() {
        return Err(source.not_shown(&error));
    }
    let problem = Problem::from(&kho::report::Finding { node: "/".into(), fault: error.fault });
    if json {
        let findings = std::slice::from_ref(&problem);
        print_json(&Report { verdict: "problems", checked: "root-fdt", errors: 1, warnings: 0, findings })?;
    } else {
        print(&format!("{}\n{}: {}\n", clean(&problem.text), paint(BOLD, source.name()), verdict(1, 0)))?;
    }
    Ok(ExitCode::from(1))
}

fn report(args: &Args, decoded: &Decoded) -> std::io::Result<()> {
    let Decoded { errors, warnings, findings: list, .. } = decoded;
    match args.format {
        Format::Json => print_json(&Report {
            verdict: if *errors == 0 { "fine" } else { "problems" },
            checked: match decoded.source.kind {
                SourceKind::States => "states",
                _ if alone(decoded) => "root-fdt",
                _ => "handover",
            },
            errors: *errors,
            warnings: *warnings,
            findings: list,
        }),
        Format::Text => print(&format!(
            "{}{}{}{}: {}{}\n",
            head(decoded),
            not_there(decoded),
            findings(decoded),
            paint(BOLD, args.source.name()),
            verdict(*errors, *warnings),
            if alone(decoded) { ", as far as the root FDT goes" } else { "" }
        )),
    }
}

/// Whether the memory is not there.
fn alone(decoded: &Decoded) -> bool {
    matches!(decoded.source.kind, SourceKind::DeviceTree | SourceKind::Debugfs)
}
