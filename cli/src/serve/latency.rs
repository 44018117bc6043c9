//! How long requests took: counts in buckets that are at most a sixteenth of their value wide.

use serde::Serialize;

/// Buckets of each power of two.
const STEPS: u64 = 32;

/// A histogram of nanoseconds. Its memory is bounded, whatever comes.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// What is shown of it.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Latency {
    /// How many there were.
    pub(super) requests: u64,
    /// The time that half of them did not exceed, in nanoseconds.
    pub(super) p50: u64,
    /// 99 of a hundred.
    pub(super) p99: u64,
    /// 999 of a thousand.
    #[serde(rename = "p99.9")]
    pub(super) p999: u64,
    /// The longest of all.
    pub(super) max: u64,
}

impl Histogram {
    pub(super) fn add(&mut self, nanos: u64) {
        let at = bucket(nanos);
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    pub(super) fn merge(&mut self, other: &Histogram) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The upper end of the bucket in which that part of all is reached.
    fn reached(&self, of_a_thousand: u64) -> u64 {
        let wanted = (self.total * of_a_thousand).div_ceil(1000);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return highest(at).min(self.max);
            }
        }
        self.max
    }

    pub(super) fn latency(&self) -> Latency {
        let [p50, p99, p999] = [500, 990, 999].map(|part| self.reached(part));
        Latency { requests: self.total, p50, p99, p999, max: self.max }
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = u64::from((nanos / STEPS).checked_ilog2().map_or(0, |log| log + 1));
    usize::try_from(shift * STEPS + (nanos >> shift)).unwrap_or(0)
}

/// The largest value in a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).unwrap_or(0);
    let shift = bucket / STEPS;
    let base = bucket - shift * STEPS;
    ((base + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_in_order() {
        let mut last = 0;
        for nanos in (0..100_000).chain((0..40).map(|shift| 3_u64 << shift)) {
            let at = bucket(nanos);
            assert!(at >= last || nanos < 100_000, "{nanos}");
            last = at;
            let highest = highest(at);
            assert!(nanos <= highest && highest - nanos <= nanos / 16 + 1, "{nanos}: {at}, to {highest}");
        }
    }

    #[test]
    fn parts_of_a_thousand() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.latency().max, 0);
        (1..=998).for_each(|_| histogram.add(10));
        histogram.add(20);
        let mut other = Histogram::default();
        other.add(5_000);
        histogram.merge(&other);
        let latency = histogram.latency();
        assert_eq!((latency.requests, latency.p50, latency.p99, latency.p999), (1000, 10, 10, 20));
        assert_eq!(latency.max, 5_000);
    }
}
