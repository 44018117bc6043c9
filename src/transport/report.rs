//! Where the time went.

use std::fmt;
use std::time::Duration;

use super::exec::monotonic_ns;
use super::parcel::REPORT_LIMIT;
use crate::trace::{self, Step};

/// So many steps of the other side are kept.
const MOST: usize = 4096;

/// Whose time it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum Whose {
    /// Of who leaves.
    Predecessor,
    /// Of who takes over.
    Successor,
}

/// One step, of one component or of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Timing {
    /// Whose.
    pub of: Whose,
    /// `hello`, `prepare`, `freeze`, `preserve`, `finish`, `deliver`, and `accept`, which waits for the successor. Of that:
    /// `arrive`, from when the predecessor had sent the last of it; `plan` and `check`; `restore`, `prepare`, `settle` and
    /// `commit`.
    pub step: String,
    /// The node, or the part that is frozen; `/` is the whole step.
    pub node: String,
    /// Nanoseconds.
    pub nanos: u64,
}

/// What was measured in a handover, by both sides as far as they told each other.
///
/// Printed it is a table: the whole steps, and below each its slowest parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Report {
    /// Every step, in its order; steps of the other side first.
    pub timings: Vec<Timing>,
    /// From the first hook that froze until the successor took over, or the predecessor went on: nanoseconds.
    pub blackout: Option<u64>,
    /// CLOCK_MONOTONIC when the first hook began.
    pub(super) frozen_at: Option<u64>,
}

impl Report {
    /// Measures from now on what this thread does.
    pub(super) fn begin() {
        trace::record();
    }

    /// Adds what was measured since [`Report::begin`].
    pub(super) fn gather(&mut self, of: Whose) {
        let timing = |(step, node, nanos): Step| Timing { of, step: step.to_owned(), node, nanos };
        self.timings.extend(trace::recorded().into_iter().map(timing));
    }

    /// What the predecessor has measured so far, for who takes over; it goes on measuring.
    pub(super) fn so_far(&mut self) -> String {
        self.gather(Whose::Predecessor);
        Report::begin();
        self.to_text(Whose::Predecessor)
    }

    /// Adds a whole step that was measured otherwise.
    pub(super) fn add(&mut self, of: Whose, step: &str, nanos: u64) {
        self.timings.push(Timing { of, step: step.to_owned(), node: "/".to_owned(), nanos });
    }

    /// Ends the blackout now, if it has begun.
    pub(super) fn ends(&mut self) {
        self.blackout = self.frozen_at.map(|at| monotonic_ns().saturating_sub(at));
    }

    /// How long the blackout has lasted.
    pub(super) fn dark(&self) -> Duration {
        let since = self.frozen_at.map_or(0, |at| monotonic_ns().saturating_sub(at));
        Duration::from_nanos(since)
    }

    /// The time of a whole step.
    #[must_use]
    pub fn step(&self, of: Whose, step: &str) -> Option<Duration> {
        let whole = self.timings.iter().find(|one| one.of == of && one.step == step && one.node == "/")?;
        Some(Duration::from_nanos(whole.nanos))
    }

    /// For the other side: its own steps only, cut where a message would be too long.
    pub(super) fn to_text(&self, of: Whose) -> String {
        let mut text = format!("frozen\t/\t{}\n", self.frozen_at.unwrap_or(0));
        for Timing { step, node, nanos, .. } in self.timings.iter().filter(|timing| timing.of == of) {
            let line = format!("{step}\t{node}\t{nanos}\n");
            if text.len().saturating_add(line.len()) > REPORT_LIMIT {
                break;
            }
            text.push_str(&line);
        }
        text
    }

    /// What the other side tells anew, with what it told before in it.
    pub(super) fn replace_text(&mut self, of: Whose, text: &str) {
        self.forget(of);
        self.add_text(of, text);
    }

    /// Drops what that side measured.
    pub(super) fn forget(&mut self, of: Whose) {
        self.timings.retain(|timing| timing.of != of);
    }

    /// What the other side told. Lines that are none are passed over: nothing depends on them.
    pub(super) fn add_text(&mut self, of: Whose, text: &str) {
        for line in text.lines().take(MOST) {
            let mut fields = line.split('\t');
            let (Some(step), Some(node), Some(number), None) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Ok(nanos) = number.parse() else { continue };
            if step == "frozen" {
                self.frozen_at = self.frozen_at.or(Some(nanos).filter(|nanos| *nanos != 0));
            } else if step.len() <= 64 && node.len() <= 256 {
                self.timings.push(Timing { of, step: step.to_owned(), node: node.to_owned(), nanos });
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for of in [Whose::Predecessor, Whose::Successor] {
            let ours: Vec<&Timing> = self.timings.iter().filter(|one| one.of == of).collect();
            for whole in ours.iter().filter(|one| one.node == "/") {
                let side = if of == Whose::Predecessor { "predecessor" } else { "successor" };
                writeln!(f, "{side:<12} {:<9} {:>10}", whole.step, Nanos(whole.nanos))?;
                let mut parts: Vec<_> = ours.iter().filter(|one| one.step == whole.step && one.node != "/").collect();
                parts.sort_by_key(|part| std::cmp::Reverse(part.nanos));
                for part in parts.iter().take(5) {
                    writeln!(f, "{:<12} {:<9} {:>10}  {}", "", "", Nanos(part.nanos), part.node)?;
                }
            }
        }
        match self.blackout {
            Some(nanos) => write!(f, "{:<22} {:>10}", "blackout", Nanos(nanos)),
            None => write!(f, "no blackout"),
        }
    }
}

/// A time in milliseconds, or microseconds below one.
struct Nanos(u64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match Duration::from_nanos(self.0).as_secs_f64() {
            seconds if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
            seconds => format!("{:.2} ms", seconds * 1e3),
        };
        f.pad_integral(true, "", &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_come_together_and_junk_is_passed_over() {
        let mut report = Report { frozen_at: Some(1), ..Report::default() };
        let timing = |step: &str, node: &str, nanos| Timing {
            of: Whose::Predecessor,
            step: step.into(),
            node: node.into(),
            nanos,
        };
        report.timings = vec![timing("freeze", "clients", 900), timing("freeze", "/", 2_500_000)];
        let text = report.to_text(Whose::Predecessor);
        assert_eq!(text, "frozen\t/\t1\nfreeze\tclients\t900\nfreeze\t/\t2500000\n");
        let mut other = Report::default();
        other.add_text(Whose::Predecessor, &(text + "junk\nplan\t/\tmany\na\tb\t1\tc\n"));
        assert_eq!((&other.timings, other.frozen_at), (&report.timings, Some(1)));
        other.blackout = Some(3_000_000);
        let shown = "\
predecessor  freeze       2.50 ms
                             1 us  clients
blackout                  3.00 ms";
        assert_eq!(other.to_string(), shown);
    }
}
