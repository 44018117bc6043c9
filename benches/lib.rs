//! Shared parts of the benchmarks: a contest between ways to do the same work, in interleaved rounds.

use std::time::{Duration, Instant};

/// Whether to run a short version that only shows that everything works: `KHO_BENCH_QUICK=1`.
#[must_use]
pub fn quick() -> bool {
    std::env::var_os("KHO_BENCH_QUICK").is_some_and(|value| value == "1")
}

/// Ways to do the same work, timed in turns so that a noisy moment hits all of them.
pub struct Contest<'a> {
    title: String,
    units: u64,
    entries: Vec<(String, Box<dyn FnMut() + 'a>)>,
}

impl<'a> Contest<'a> {
    /// A contest over work of `unit_count` units: pages, nodes.
    #[must_use]
    pub fn new(title: impl Into<String>, unit_count: u64) -> Self {
        Contest { title: title.into(), units: unit_count.max(1), entries: Vec::new() }
    }

    /// One way to do it. The first is what the others are compared with.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>, work: impl FnMut() + 'a) -> Self {
        self.entries.push((name.into(), Box::new(work)));
        self
    }

    /// Runs all and prints a row for each: median nanoseconds per unit, and the ratio to the first.
    pub fn run(mut self) {
        let rounds = if quick() { 1 } else { 9 };
        let mut times: Vec<Vec<Duration>> = self.entries.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for ((_, work), times) in self.entries.iter_mut().zip(&mut times) {
                let start = Instant::now();
                work();
                times.push(start.elapsed());
            }
        }
        println!("{}", self.title);
        let mut first = None;
        for ((name, _), mut times) in self.entries.into_iter().zip(times) {
            times.sort();
            #[allow(clippy::cast_precision_loss, reason = "figures for people")]
            let each = times[times.len() / 2].as_nanos() as f64 / self.units as f64;
            let ratio = each / *first.get_or_insert(each);
            println!("  {name:<34} {each:>10.3} ns  {ratio:>8.2}x");
        }
    }
}
