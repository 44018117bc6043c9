//! The command `kho`.

mod check;
mod dump;
mod source;
#[allow(dead_code, reason = "durations are the demo's")]
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "kho", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a handover: a device tree, an arena, an ELF core or raw memory
    Dump(dump::Args),
    /// Check a handover as a successor would, and list everything that is wrong
    Check(check::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Dump(args) => dump::run(&args),
        Command::Check(args) => check::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("kho: {error}");
        ExitCode::from(2)
    })
}
