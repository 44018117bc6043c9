//! What may be done after a plan: all of it, or nothing.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::incoming::{Incoming, Restored};
use super::plan::Step;
use super::registry::PreparedStep;
use crate::mem::{Claim, PageRange, Pfn};
use crate::radix;
use crate::report::Fault;
use crate::trace::Stopwatch;

/// A handover that was planned and found fine as a whole: the only thing that can be restored.
pub struct Accepted<M> {
    pub(super) incoming: Incoming<M>,
    pub(super) slots: usize,
    pub(super) home: u64,
    pub(super) tree: radix::Loaded,
    pub(super) steps: Vec<Step<M>>,
}

impl<M> core::fmt::Debug for Accepted<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let nodes: Vec<&str> = self.steps.iter().map(|step| step.path.as_str()).collect();
        f.debug_struct("Accepted").field("nodes", &nodes).finish_non_exhaustive()
    }
}

impl<M: Claim> Accepted<M> {
    /// Prepares every component, and when all are prepared commits them all.
    ///
    /// # Errors
    /// When a component cannot be prepared: those that were prepared are undone, nothing is restored, and the handover
    /// comes back as it was.
    pub fn restore(self) -> Result<Restored<M>, Failed<M>> {
        let whole = Stopwatch::start();
        let Accepted { incoming: Incoming { mut memory, root }, slots, home, tree, steps } = self;
        let prepared = admit(&mut memory, &tree)
            .map_err(|fault| ("/".into(), fault))
            .and_then(|()| Self::prepare(steps, &mut memory));
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err((node, mut fault)) => {
                // What was claimed and allocated since is void.
                if let Err(error) = admit(&mut memory, &tree) {
                    fault = error;
                }
                return Err(Failed { fault, node, incoming: Incoming { memory, root } });
            }
        };
        let mut values: Vec<_> = (0..slots).map(|_| None).collect();
        for (slot, path, step) in prepared {
            let watch = Stopwatch::start();
            let value = step.commit(&mut memory);
            watch.event("commit", &path);
            if let Some(place) = values.get_mut(slot) {
                *place = Some(value);
            }
        }
        whole.event("restore", "/");
        Ok(Restored { memory, home, values })
    }

    /// Prepares all and settles all. On an error those that were prepared are dropped, the last one first: it may build
    /// on those before it.
    fn prepare(steps: Vec<Step<M>>, memory: &mut M) -> Result<Vec<Ready<M>>, (String, Fault)> {
        let mut prepared: Vec<Ready<M>> = Vec::with_capacity(steps.len());
        for Step { slot, path, checked } in steps {
            let watch = Stopwatch::start();
            let result = checked.prepare(memory);
            watch.event("prepare", &path);
            match result {
                Ok(step) => prepared.push((slot, path, step)),
                Err(fault) => {
                    while prepared.pop().is_some() {}
                    return Err((path, fault));
                }
            }
        }
        let mut waiting = prepared.into_iter();
        let mut settled: Vec<Ready<M>> = Vec::with_capacity(waiting.len());
        while let Some((slot, path, step)) = waiting.next() {
            let watch = Stopwatch::start();
            let result = step.settle();
            watch.event("settle", &path);
            match result {
                Ok(step) => settled.push((slot, path, step)),
                Err(fault) => {
                    while waiting.next_back().is_some() {}
                    while settled.pop().is_some() {}
                    return Err((path, fault));
                }
            }
        }
        Ok(settled)
    }
}

/// A component that is prepared: its slot, the path of its node, and the step to come.
type Ready<M> = (usize, String, Box<dyn PreparedStep<M>>);

fn admit<M: Claim>(memory: &mut M, tree: &radix::Loaded) -> Result<(), Fault> {
    let mut nodes = tree.nodes.runs().filter_map(|(start, count)| PageRange::new(Pfn::new(start)?, count));
    memory.admit(&mut tree.tree.iter(), &mut nodes)
}

/// A restore that failed, and the handover as it was before.
#[derive(thiserror::Error)]
#[error("{node}: {fault}")]
pub struct Failed<M> {
    /// Why.
    pub fault: Fault,
    /// Path of the node that could not be prepared.
    pub node: String,
    /// The handover.
    pub incoming: Incoming<M>,
}

impl<M> core::fmt::Debug for Failed<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Failed").field("node", &self.node).field("fault", &self.fault).finish_non_exhaustive()
    }
}
