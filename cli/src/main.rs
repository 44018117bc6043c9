//! The command `kho`: show, check and demonstrate handovers.

mod abi;
mod check;
mod demo;
mod diff;
mod dump;
mod extract;
mod kexec;
mod luo;
mod manifest;
mod map;
mod plan;
mod program;
mod schema;
mod serve;
mod source;
mod states;
mod units;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Hand a running program's memory and files to its successor, and look at what is handed over.
#[derive(Parser)]
#[command(name = "kho", version, max_term_width = 100, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  kho demo                          a real handover across exec, verified byte for byte
  kho demo --keep out               the same, and the device tree, arena and memfds in out/
  kho serve-demo                    a service that is upgraded while it is used
  kho dump out/arena.img            what is in it
  kho dump state.bin                states that a program saved, by their own descriptions
  kho map vmcore -o map.svg         its memory, and who owns what
  kho check vmcore                  everything that is wrong with what a machine handed over
  kho diff before.core after.core   what two handovers do not have in common
  kho extract vmcore --all files    every memfd of every session as a file
  kho plan vmcore --against Image   whether a next kernel would take it, and what happens if not
  kho manifest target/release/next  what that program reads and writes
  kho luo preflight 7 8             whether Linux would keep these files over a kexec

Exit codes: 0 fine, 1 problems were found and named, 2 it could not be done.";

#[derive(Subcommand)]
enum Command {
    /// Hand over to a new process image across exec, and verify every byte
    Demo(demo::Args),
    /// Upgrade a service while clients use it, by every transport, and count what is lost: nothing
    ServeDemo(serve::Args),
    /// Show what is in a handover: a device tree, an arena, an ELF core, raw memory or saved states
    Dump(dump::Args),
    /// Check a handover as a successor would, and list everything that is wrong
    Check(check::Args),
    /// Compare two handovers: what they are made of, what they hold, and every byte of it
    Diff(diff::Args),
    /// Take the bytes of what is handed over out of it: memfds, reserved memory, arrays
    Extract(extract::Args),
    /// Draw physical memory and who owns it
    Map(map::Args),
    /// Say what would become of a handover in a successor, a kernel or a program, before anybody leaves
    Plan(plan::Args),
    /// Show what a kernel or a program understands, from its file
    Understands(plan::Understands),
    /// Show what a program says that it reads and writes
    Manifest(manifest::Args),
    /// Print the JSON Schema of what the other commands print as JSON
    Schema(schema::Args),
    /// Keep files over a kexec, in sessions of /dev/liveupdate
    Luo(luo::Args),
    /// Load the next kernel from user space, with a handover that a program authored (x86-64)
    Kexec(kexec::Args),
    /// Show the layouts that a kernel hands over, and compare them with another's or with our own
    Abi(abi::Args),
    /// Print completions for a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write one for each command into a directory
    Man {
        /// Where the pages go
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::ServeDemo(args) => serve::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Understands(args) => plan::understands(&args),
        Command::Manifest(args) => manifest::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Luo(args) => luo::run(&args),
        Command::Kexec(args) => kexec::run(&args),
        Command::Abi(args) => abi::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kho", &mut script);
            print(&script)
        }
        Command::Man { out } => man(out),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "kho: {error}");
        ExitCode::from(2)
    })
}

/// Writes to standard output; a reader that has seen enough is no error.
fn print(bytes: &[u8]) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match std::io::stdout().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn man(out: Option<PathBuf>) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Some(dir) = out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return print(&page);
    };
    std::fs::create_dir_all(&dir)?;
    clap_mangen::generate_to(Cli::command(), dir)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
