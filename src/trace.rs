//! Time of each step: as `tracing` events with that feature, and for whoever records them on this thread; nothing without
//! `std`.

#[cfg(feature = "std")]
use std::cell::RefCell;

/// A step that was measured: its name, its node, and nanoseconds.
#[cfg(feature = "std")]
pub(crate) type Step = (&'static str, String, u64);

#[cfg(feature = "std")]
std::thread_local! {
    static RECORDED: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

/// Keeps every step that this thread measures from now on.
#[cfg(feature = "std")]
pub(crate) fn record() {
    RECORDED.set(Some(Vec::new()));
}

/// What was kept since [`record`], in its order; nothing is kept from now on.
#[cfg(feature = "std")]
pub(crate) fn recorded() -> Vec<Step> {
    RECORDED.take().unwrap_or_default()
}

/// Started before a step, told when it is done.
pub(crate) struct Stopwatch {
    #[cfg(feature = "std")]
    start: std::time::Instant,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Stopwatch {
            #[cfg(feature = "std")]
            start: std::time::Instant::now(),
        }
    }

    /// One event: the step, the node, and the nanoseconds since the start.
    pub(crate) fn event(&self, step: &'static str, node: &str) {
        #[cfg(feature = "std")]
        {
            let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            #[cfg(feature = "tracing")]
            tracing::debug!(target: "kho", step, node, nanos);
            RECORDED.with_borrow_mut(|steps| {
                if let Some(steps) = steps {
                    steps.push((step, node.into(), nanos));
                }
            });
        }
        #[cfg(not(feature = "std"))]
        let _ = (step, node);
    }
}
