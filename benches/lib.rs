//! Shared parts of the benchmarks: contests between ways to do the same work, in the same run.

pub mod memory;

use std::time::{Duration, Instant};

/// Whether the small, fast version was asked for: `KHO_BENCH_QUICK=1`, or `-- --quick`. Its figures are not to be
/// published.
#[must_use]
pub fn quick() -> bool {
    std::env::var_os("KHO_BENCH_QUICK").is_some_and(|value| value != "0")
        || std::env::args().any(|arg| arg == "--quick")
}

/// Several ways to do the same work. The first entry is ours; the others are its peers.
///
/// Rounds are interleaved (ours, peer, ours, peer ...), so that a machine that slows down slows all of them.
pub struct Contest<'a> {
    title: String,
    unit_count: u64,
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    name: String,
    work: Box<dyn FnMut() + 'a>,
    /// So often in one round: short work is repeated until the clock can measure it.
    repeat: u32,
    /// Time of one repetition, for each round.
    rounds: Vec<Duration>,
}

impl<'a> Contest<'a> {
    /// A contest whose work is `unit_count` units: nodes, pages, bytes. Results are given for one unit.
    #[must_use]
    pub fn new(title: impl Into<String>, unit_count: u64) -> Self {
        Contest { title: title.into(), unit_count, entries: Vec::new() }
    }

    /// Adds a way to do all of the work once.
    pub fn entry(&mut self, name: impl Into<String>, work: impl FnMut() + 'a) -> &mut Self {
        self.entries.push(Entry { name: name.into(), work: Box::new(work), repeat: 1, rounds: Vec::new() });
        self
    }

    /// Runs all entries, prints a row for each, and gives their medians in nanoseconds for one unit.
    pub fn run(&mut self) -> Vec<f64> {
        let (rounds, enough) = if quick() { (3, Duration::from_millis(1)) } else { (15, Duration::from_millis(20)) };
        for entry in &mut self.entries {
            // Also warms caches and the heap.
            let once = entry.time().max(Duration::from_nanos(1));
            entry.repeat = u32::try_from(enough.as_nanos().div_ceil(once.as_nanos())).unwrap_or(u32::MAX).max(1);
        }
        for _ in 0..rounds {
            for entry in &mut self.entries {
                let time = entry.time();
                entry.rounds.push(time);
            }
        }
        let medians: Vec<f64> = self.entries.iter_mut().map(|entry| entry.median(self.unit_count)).collect();

        println!("| {:<44} | {:<26} | {:>12} | {:>7} |", self.title, "", "ns/unit", "ratio");
        for (entry, median) in self.entries.iter().zip(&medians) {
            println!("| {:<44} | {:<26} | {median:>12.3} | {:>6.2}x |", "", entry.name, median / medians[0]);
        }
        medians
    }
}

impl Entry<'_> {
    fn time(&mut self) -> Duration {
        let start = Instant::now();
        for _ in 0..self.repeat {
            (self.work)();
        }
        start.elapsed() / self.repeat
    }

    fn median(&mut self, unit_count: u64) -> f64 {
        self.rounds.sort_unstable();
        let middle = self.rounds.get(self.rounds.len() / 2).copied().unwrap_or_default();
        middle.as_secs_f64() * 1e9 / unit_count.max(1) as f64
    }
}
