//! The core: what goes out, what comes in, and the law between them.
//!
//! ```text
//! Outgoing --preserve--> ... --finish--> Finished     ~~ transport ~~>
//! Incoming --plan--> Plan --accept--> Accepted --restore--> Restored --finish--> memory
//! ```
//!
//! Each step consumes the one before it, so that no callback can restore anything from a handover that was not planned
//! and accepted as a whole. [`Plan`] reads and never changes: it holds the root, the tree, the ownership of every page
//! and the layout of every component against what the [`Registry`] understands, and finds *every* problem. Restoring
//! prepares all components, each of which may fail and leave nothing behind, and only then commits them all.
//!
//! A component is two traits: [`Preserve`] for the predecessor; [`Check`] and [`Component`] for the successor. The
//! memory that they work on is a parameter: an arena with files, an image, ordinary memory.
#![allow(clippy::result_large_err, reason = "what fails gives the handover back, which is as large as what succeeds")]

mod accepted;
mod claims;
#[cfg(feature = "write")]
mod finished;
#[cfg(all(test, feature = "std"))]
mod flipped;
mod incoming;
mod node;
#[cfg(feature = "write")]
mod outgoing;
mod plan;
mod planner;
mod registry;
#[cfg(feature = "write")]
mod scope;
#[cfg(all(test, feature = "write"))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use accepted::{Accepted, Failed};
#[cfg(feature = "write")]
pub use finished::{Finished, Unfinished};
pub use incoming::{Incoming, Restored};
pub use node::Node;
#[cfg(feature = "write")]
pub use outgoing::Outgoing;
pub use plan::{NodeReport, Plan, Refused, Verdict};
pub(crate) use planner::match_any;
pub use registry::{Check, Component, Handle, Registry};
#[cfg(feature = "write")]
pub use scope::{Blob, Home, OwnNode, Preserve, Scope};
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) use {incoming::read_root, planner::declared};

/// So many ranges of one node are listed in its `mem`; beyond that the largest, and the node says `mem-partial`.
pub const MEM_LIMIT: usize = 1_024;

/// A root FDT larger than this, in bytes, is refused. Linux writes at most a page.
pub const ROOT_LIMIT: u64 = 64 << 20;
