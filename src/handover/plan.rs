//! The verdict before anything is touched.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::accepted::Accepted;
use super::claims::Owners;
use super::incoming::Incoming;
use super::planner::Planner;
use super::registry::{CheckedStep, Registry};
use crate::mem::{Bits, Memory, PhysRange};
use crate::radix::{self, Tree};
use crate::report::Findings;
use crate::trace::Stopwatch;

/// What the plan says of a node, or of the whole handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum Verdict {
    /// It will be restored.
    Fine,
    /// It is optional and nobody here understands it, or not in this version: it will be left.
    Dropped,
    /// Nobody here looks into it, and nobody has to: see [`Registry::observing`].
    Opaque,
    /// It stops the handover.
    Refused,
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            Verdict::Fine => "fine",
            Verdict::Dropped => "dropped",
            Verdict::Opaque => "opaque",
            Verdict::Refused => "refused",
        })
    }
}

/// What the plan says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct NodeReport {
    /// The name of the node in the root FDT; bytes that are no text are replaced.
    pub name: String,
    /// What it says that it is made of.
    pub compatible: Vec<String>,
    /// Its blob.
    pub blob: Option<PhysRange>,
    /// Bytes that it owns, in whole pages.
    pub owned: u64,
    /// What happens to it.
    pub verdict: Verdict,
}

pub(super) struct Step<M> {
    pub(super) slot: usize,
    pub(super) path: String,
    pub(super) checked: Box<dyn CheckedStep<M>>,
}

/// What the successor found in a handover, all of it, before anything is touched.
///
/// ```
/// # #[cfg(feature = "write")] {
/// use kho::handover::{Incoming, Outgoing, Registry, Verdict};
/// use kho::payload::{Bytes, BytesNode};
/// # use kho::compat::{Compat, CompatList};
/// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
/// # const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
/// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
/// # let mut outgoing = Outgoing::new(ram);
/// # outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"42 requests" })?;
/// # let (memory, root) = outgoing.finish()?.into_parts();
/// # let incoming = Incoming::new(memory, root.start());
///
/// // A successor that reads version 2 only.
/// const NEXT: CompatList<'static> = CompatList::new(Compat::new("my-state", 2), &[]);
/// let mut registry = Registry::new();
/// registry.read("state", BytesNode { made_of: NEXT, limit: 4096 });
///
/// let plan = incoming.plan(&registry);
/// assert_eq!(plan.nodes()[0].verdict, Verdict::Refused);
/// let says = "error: /state: version-older: compatible: found my-state-v1, expected my-state-v2";
/// assert_eq!(plan.findings().kept()[0].to_string(), says);
/// let incoming = plan.accept().unwrap_err().incoming; // As it came: it may go back.
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Plan<M> {
    incoming: Incoming<M>,
    slots: usize,
    home: u64,
    findings: Findings,
    nodes: Vec<NodeReport>,
    tree: Option<radix::Loaded>,
    tree_broken: bool,
    steps: Vec<Step<M>>,
}

impl<M: Memory + 'static> Plan<M> {
    pub(super) fn make(incoming: Incoming<M>, registry: &Registry<M>) -> (Self, Owners) {
        let watch = Stopwatch::start();
        let mut findings = Findings::default();
        let mut planner = Planner {
            incoming: &incoming,
            registry,
            findings: &mut findings,
            taken: Bits::new(),
            tree_broken: false,
            nodes: Vec::new(),
            steps: Vec::new(),
            layouts: registry.layouts.versions(),
            root_list: Vec::new(),
        };
        let mut owners = Owners::default();
        let tree = match planner.root(&mut owners) {
            Ok(tree) => Some(tree),
            Err(fault) => {
                planner.findings.add("/", fault);
                None
            }
        };
        let Planner { nodes, steps, tree_broken, .. } = planner;
        watch.event("plan", "/");
        (
            Plan {
                slots: registry.entries.len(),
                home: registry.home,
                incoming,
                findings,
                nodes,
                tree,
                tree_broken,
                steps,
            },
            owners,
        )
    }

    /// Everything that was found, errors and warnings.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.findings
    }

    /// What was found of each node, in the order of the root FDT.
    #[must_use]
    pub fn nodes(&self) -> &[NodeReport] {
        &self.nodes
    }

    /// Whether [`Plan::tree`] lacks what could not be read.
    #[cfg(all(feature = "std", feature = "serde"))]
    pub(crate) const fn is_tree_broken(&self) -> bool {
        self.tree_broken
    }

    /// Which blocks are preserved; none when the tree could not be read. One that is broken has what could be, where the
    /// registry is [observing](Registry::observing).
    #[must_use]
    pub fn tree(&self) -> Option<&Tree> {
        self.tree.as_ref().map(|loaded| &loaded.tree)
    }

    /// As [`Plan::tree`], and nothing else.
    #[cfg(all(feature = "std", feature = "serde"))]
    pub(crate) fn into_tree(self) -> Option<Tree> {
        self.tree.map(|loaded| loaded.tree)
    }

    /// The page numbers of the tree's own nodes.
    #[cfg(all(feature = "std", feature = "serde"))]
    pub(crate) fn tree_nodes(&self) -> Option<&Bits> {
        self.tree.as_ref().map(|loaded| &loaded.nodes)
    }

    /// [`Verdict::Fine`] or [`Verdict::Refused`].
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.findings.errors() == 0 && self.tree.is_some() && !self.tree_broken {
            Verdict::Fine
        } else {
            Verdict::Refused
        }
    }

    /// The memory that the handover lives in.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.incoming.memory
    }

    /// Takes the handover over, unless an error was found.
    ///
    /// # Errors
    /// The findings, and the handover as it came: it may be sent back.
    pub fn accept(self) -> Result<Accepted<M>, Refused<M>> {
        let fine = self.verdict() == Verdict::Fine;
        let Plan { incoming, slots, home, findings, nodes, tree, steps, .. } = self;
        match tree {
            Some(tree) if fine => Ok(Accepted { incoming, slots, home, tree, steps }),
            _ => Err(Refused { findings, nodes, incoming }),
        }
    }
}

impl<M> core::fmt::Debug for Plan<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Plan").field("findings", &self.findings).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// A handover that was refused, as it came: nothing of it has changed.
#[derive(thiserror::Error)]
#[error("the handover was refused:\n{findings}")]
pub struct Refused<M> {
    /// Why.
    pub findings: Findings,
    /// What was found of each node.
    pub nodes: Vec<NodeReport>,
    /// The handover.
    pub incoming: Incoming<M>,
}

impl<M> core::fmt::Debug for Refused<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Refused").field("findings", &self.findings).finish_non_exhaustive()
    }
}
