//! What `kho serve-demo` prints.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::control::Measured;
use super::latency::Latency;
use super::load::{Counts, Seen};
use super::{Args, Transport};
use crate::demo::Format;
use crate::units::{size, time};

/// Verdicts of a kill.
pub(super) const SUCCESSOR: &str = "took over";
pub(super) const PREDECESSOR: &str = "predecessor goes on";

/// What `kho serve-demo --format json` prints.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report {
    /// Bytes of the data.
    size: u64,
    /// How many clients there were.
    clients: u64,
    /// Of everything that was random.
    seed: u64,
    /// Whether nothing was lost and nothing was wrong.
    fine: bool,
    /// One for each transport.
    transports: Vec<Stage>,
}

/// What came of one transport.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Stage {
    transport: Transport,
    /// What the clients counted.
    counts: Counts,
    /// How long requests took, in nanoseconds.
    latency_ns: Latencies,
    upgrades: Vec<Upgraded>,
    /// Successors are killed at random instants in so many nanoseconds: the shortest part of a successor in `upgrades`.
    kills_within_ns: u64,
    kills: Vec<Kill>,
    /// What was lost or wrong, in words; the first of it.
    wrong: Vec<String>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Latencies {
    /// No upgrade was under way.
    at_rest: Latency,
    /// An upgrade was under way while the request was.
    during_upgrades: Latency,
    /// One whose successor was to be killed.
    during_kills: Latency,
}

/// An upgrade.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Upgraded {
    /// Which one, from 1.
    pub(super) number: u64,
    /// The process that serves since.
    pub(super) pid: u32,
    /// From when the command asked for it until it heard that the successor serves, in nanoseconds.
    pub(super) total_ns: u64,
    /// The successor's part of that: from its start, or from when its predecessor stood still.
    pub(super) successor_ns: u64,
    /// Where the time went, as the successor knows it from both sides.
    pub(super) report: Measured,
    /// The same as the predecessor knows it, where it lives.
    pub(super) predecessor_report: Option<Measured>,
}

/// An upgrade whose successor was to be killed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Kill {
    /// Which one, from 1.
    pub(super) number: u64,
    /// The instant, in nanoseconds since the successor was started, or since its predecessor stood still.
    pub(super) after_ns: u64,
    /// Whether it was killed: not when it had taken over by then.
    pub(super) killed: bool,
    /// `took over` or `predecessor goes on`
    pub(super) verdict: String,
    /// Why the predecessor, or its keeper, goes on.
    pub(super) why: Option<String>,
    /// The process that serves since.
    pub(super) serves: u32,
}

impl Kill {
    pub(super) fn took_over(&self) -> bool {
        self.verdict == SUCCESSOR
    }
}

impl Stage {
    pub(super) fn new(
        transport: Transport,
        seen: Seen,
        upgrades: Vec<Upgraded>,
        (kills_within_ns, kills): (u64, Vec<Kill>),
        wrong: Vec<String>,
    ) -> Self {
        let [at_rest, during_upgrades, during_kills] = seen.latency.map(|histogram| histogram.latency());
        let latency_ns = Latencies { at_rest, during_upgrades, during_kills };
        Stage { transport, counts: seen.counts, latency_ns, upgrades, kills_within_ns, kills, wrong }
    }

    fn name(&self) -> &'static str {
        match self.transport {
            Transport::Exec => "exec",
            Transport::Keeper => "keeper",
            Transport::Unix => "unix",
            Transport::Session => "session",
            Transport::All => "all",
        }
    }

    fn is_fine(&self) -> bool {
        self.counts.is_fine() && self.wrong.is_empty()
    }
}

impl Report {
    pub(super) fn new(args: &Args, seed: u64, transports: Vec<Stage>) -> Self {
        let fine = transports.iter().all(Stage::is_fine);
        Report { size: args.size, clients: args.clients, seed, fine, transports }
    }

    pub(super) fn print(mut self, format: Format) -> Result<ExitCode, Box<dyn Error>> {
        let text = match format {
            Format::Json => {
                // Tables are for people.
                for upgraded in self.transports.iter_mut().flat_map(|stage| &mut stage.upgrades) {
                    upgraded.report.table.clear();
                    upgraded.predecessor_report.iter_mut().for_each(|report| report.table.clear());
                }
                serde_json::to_string_pretty(&self)? + "\n"
            }
            Format::Text => self.text()?,
        };
        crate::print(text.as_bytes())?;
        for stage in self.transports.iter().filter(|stage| !stage.is_fine()) {
            eprintln!("kho: {}: {:?}", stage.name(), stage.counts);
            stage.wrong.iter().for_each(|wrong| eprintln!("kho: {}: {wrong}", stage.name()));
        }
        Ok(if self.fine { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(text, "{} of data, {} clients, seed {}\n", size(self.size), self.clients, self.seed)?;
        let head = ["transport", "upgrades", "sent", "answered", "lost", "wrong", "closed", "refused", "connections"];
        let mut counts = vec![head.map(String::from)];
        let head = ["latency", "", "requests", "p50", "p99", "p99.9", "max", "", ""];
        let mut latency = vec![head.map(String::from)];
        for stage in &self.transports {
            let Counts { sent, answered, lost, wrong, closed, refused, connections, connections_during } =
                &stage.counts;
            counts.push([
                stage.name().into(),
                stage.upgrades.len().to_string(),
                sent.to_string(),
                answered.to_string(),
                lost.to_string(),
                wrong.to_string(),
                closed.to_string(),
                refused.to_string(),
                format!("{connections}, {connections_during} of them during an upgrade"),
            ]);
            let Latencies { at_rest, during_upgrades, during_kills } = &stage.latency_ns;
            let rows = [("at rest", at_rest), ("during upgrades", during_upgrades), ("during kills", during_kills)];
            for (number, (when, of)) in rows.into_iter().filter(|(_, of)| of.requests > 0).enumerate() {
                let Latency { requests, p50, p99, p999, max } = of;
                let [p50, p99, p999, max] = [p50, p99, p999, max].map(|nanos| time(*nanos));
                let name = if number == 0 { stage.name() } else { "" };
                let row = [name.into(), when.into(), requests.to_string(), p50, p99, p999, max];
                let [a, b, c, d, e, f, g] = row;
                latency.push([a, b, c, d, e, f, g, String::new(), String::new()]);
            }
        }
        table(&mut text, &counts)?;
        text.push('\n');
        table(&mut text, &latency)?;
        for stage in &self.transports {
            if let Some(last) = stage.upgrades.last() {
                let name = stage.name();
                writeln!(text, "\nthe last upgrade by {name}: {} from the order to the answer", time(last.total_ns))?;
                writeln!(text, "{}", last.report.table)?;
            }
        }
        for stage in self.transports.iter().filter(|stage| !stage.kills.is_empty()) {
            let took_over = stage.kills.iter().filter(|kill| kill.took_over()).count();
            writeln!(
                text,
                "\nkills by {}: of {}, at random instants of a successor's first {}, {took_over} came when it had taken over",
                stage.name(),
                stage.kills.len(),
                time(stage.kills_within_ns)
            )?;
            for kill in &stage.kills {
                let why = kill.why.as_deref().unwrap_or_default();
                let line = format!("{:>9}  {:<19}  {why}", time(kill.after_ns), kill.verdict);
                writeln!(text, "{}", line.trim_end())?;
            }
        }
        let verdict = if self.fine { "nothing lost, nothing wrong" } else { "SOMETHING WAS LOST OR WRONG" };
        writeln!(text, "\n{verdict}")?;
        Ok(text)
    }
}

/// Rows of cells: names to the left, numbers to the right.
fn table(text: &mut String, rows: &[[String; 9]]) -> std::fmt::Result {
    let mut widths = [0; 9];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let is_name = cell.starts_with(|first: char| !first.is_ascii_digit()) || at == 8;
            let is_head = std::ptr::eq(row, &rows[0]);
            if is_name && (at < 2 || !is_head) || at == 8 {
                write!(line, "{cell:width$}  ")?;
            } else {
                write!(line, "{cell:>width$}  ")?;
            }
        }
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(())
}
