//! Time of each step, as `tracing` events; nothing without the features `tracing` and `std`.

/// Started before a step, told when it is done.
pub(crate) struct Stopwatch {
    #[cfg(all(feature = "tracing", feature = "std"))]
    start: std::time::Instant,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Stopwatch {
            #[cfg(all(feature = "tracing", feature = "std"))]
            start: std::time::Instant::now(),
        }
    }

    /// One event: the step, the node, and the nanoseconds since the start.
    pub(crate) fn event(&self, step: &'static str, node: &str) {
        #[cfg(all(feature = "tracing", feature = "std"))]
        {
            let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            tracing::debug!(target: "kho", step, node, nanos);
        }
        #[cfg(not(all(feature = "tracing", feature = "std")))]
        let _ = (step, node);
    }
}
