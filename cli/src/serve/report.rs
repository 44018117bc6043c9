//! What `kho serve-demo` prints.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::Transport;
use super::control::Measured;
use super::latency::Latency;
use super::load::{Counts, Seen};
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
    /// One for each transport; by a session, one before the kexec, and one after it.
    transports: Vec<Stage>,
    /// What became of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session>,
}

/// On which side of a kexec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) enum Half {
    /// In the kernel that is left
    Before,
    /// In the next one
    After,
}

/// What became of a session.
#[derive(Debug, Serialize)]
#[serde(tag = "is", rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) enum Session {
    /// It holds the service until the kernel is left.
    Parked {
        /// Its name.
        name: String,
        /// Bytes of memory that Linux gave to holes of the arena.
        filled: u64,
        /// Where the time went.
        report: Measured,
    },
    /// The service was taken out of it.
    Taken {
        /// Its name.
        name: String,
        /// Keys that were looked at: those of the clients, and those that are there from the beginning.
        keys: u64,
        /// Of these, how many were not what the clients were told before the kexec.
        other: u64,
    },
}

/// What came of one transport.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Stage {
    transport: Transport,
    /// On which side of the kexec, by a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    half: Option<Half>,
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
    /// From when the command asked for it until it heard that the successor serves, in nanoseconds. By a session, the
    /// blackout, from when it was parked until it was taken; the predecessor's steps are what the first half shows.
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
        Stage { transport, half: None, counts: seen.counts, latency_ns, upgrades, kills_within_ns, kills, wrong }
    }

    /// What came of one side of a kexec.
    pub(super) fn half(half: Half, seen: Seen, upgrades: Vec<Upgraded>, wrong: Vec<String>) -> Self {
        let stage = Stage::new(Transport::Session, seen, upgrades, (0, Vec::new()), wrong);
        Stage { half: Some(half), ..stage }
    }

    fn name(&self) -> &'static str {
        match self.half {
            Some(Half::Before) => "session, before",
            Some(Half::After) => "session, after",
            None => self.transport(),
        }
    }

    fn transport(&self) -> &'static str {
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
    pub(super) fn new(size: u64, clients: u64, seed: u64, transports: Vec<Stage>) -> Self {
        let fine = transports.iter().all(Stage::is_fine);
        Report { size, clients, seed, fine, transports, session: None }
    }

    pub(super) fn session(self, session: Session) -> Self {
        Report { session: Some(session), ..self }
    }

    pub(super) fn print(mut self, format: Format) -> Result<ExitCode, Box<dyn Error>> {
        let text = match format {
            Format::Json => {
                // Tables are for people.
                for upgraded in self.transports.iter_mut().flat_map(|stage| &mut stage.upgrades) {
                    upgraded.report.table.clear();
                    upgraded.predecessor_report.iter_mut().for_each(|report| report.table.clear());
                }
                if let Some(Session::Parked { report, .. }) = &mut self.session {
                    report.table.clear();
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
                let (name, total) = (stage.transport(), time(last.total_ns));
                let of = if stage.half.is_some() { "parked until taken" } else { "the order to the answer" };
                writeln!(text, "\nthe last upgrade by {name}: {total} from {of}")?;
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
        match &self.session {
            Some(Session::Parked { name, filled, report }) => {
                writeln!(text, "\nparked in session {name}, which fills {} of holes", size(*filled))?;
                // It has begun, and ends in the next kernel.
                text.push_str(report.table.trim_end_matches("no blackout"));
            }
            Some(Session::Taken { name, keys, other }) => {
                writeln!(text, "\ntaken from session {name}: {keys} keys, {other} not as before the kexec")?;
            }
            None => {}
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
