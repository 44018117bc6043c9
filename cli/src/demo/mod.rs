//! `kho demo`: a real process hands over to a real successor.

mod arrive;
mod keep;
mod leave;
pub(crate) mod parts;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use kho::transport::Arrival;

use crate::units::parse_size;

/// What of the demo is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table
    Text,
    /// One JSON object
    Json,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kho demo
  kho demo --size 4GiB --keep out
  kho demo --size 16MiB --format json

Exit codes: 0 every byte arrived, 1 something differs or the plan refused (it is named), 2 the handover could
not be made.")]
pub(crate) struct Args {
    /// Bytes of the memfd that travels by descriptor
    #[arg(long, value_parser = parse_size, default_value = "1GiB", value_name = "SIZE")]
    pub(crate) size: u64,
    /// Leave the device tree, its source, the arena and the memfds in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

/// Both processes run this: the predecessor, and after the exec its successor, which finds a handover.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match Arrival::take()? {
        None => Err(leave::leave(args)?.into()),
        Some(arrival) => arrive::arrive(args, arrival),
    }
}

/// All that is handed over is in memory, and a machine that runs out of it kills whom it likes.
pub(crate) fn enough_memory(wanted: u64) -> Result<(), Box<dyn std::error::Error>> {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    match free.map(|kib| kib.saturating_mul(1024)) {
        Some(free) if wanted > free => {
            let (wanted, free) = (crate::units::size(wanted), crate::units::size(free));
            Err(format!("--size: the demo would need {wanted} of memory, and {free} are available").into())
        }
        _ => Ok(()),
    }
}

/// CLOCK_MONOTONIC in nanoseconds: the same clock in both processes.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// A bar for work that takes more than a second, on a terminal only.
struct Progress {
    bar: indicatif::ProgressBar,
    done: u64,
    since: std::time::Instant,
}

impl Progress {
    fn new(what: &'static str, total: u64) -> Self {
        let bar = indicatif::ProgressBar::with_draw_target(Some(total), indicatif::ProgressDrawTarget::hidden());
        let style = indicatif::ProgressStyle::with_template("{msg:>12} {bar:40} {bytes}/{total_bytes}");
        bar.set_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()));
        bar.set_message(what);
        Progress { bar, done: 0, since: std::time::Instant::now() }
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.bar.is_hidden() && self.since.elapsed().as_secs() >= 1 {
            // Draws nothing where standard error is no terminal.
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        self.bar.set_position(self.done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
