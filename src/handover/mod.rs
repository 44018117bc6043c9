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
//!
//! # A component of one's own
//! A structure that names a block by its page number. Whoever only copies data out needs no [`Component`]: [`Check`] and
//! [`Registry::read`] are enough. For plain bytes, tables and arrays there are [components](crate::payload) already.
//! ```
//! # #[cfg(feature = "write")] {
//! use kho::compat::{Compat, CompatList};
//! use kho::handover::{Blob, Check, Component, Home, Incoming, Node, Outgoing, Preserve, Registry, Scope};
//! use kho::mem::{Claim, Folio, Frame, Frames as _, Geometry, Memory, Order, PageRange, Pfn, Ram};
//! use kho::report::{Code, Fault};
//! use zerocopy::little_endian::U64;
//! use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
//!
//! /// What stands in the blob.
//! #[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
//! #[repr(C)]
//! struct Wire { ip: U64, stack: U64 }
//!
//! const VCPU: CompatList<'static> = CompatList::new(Compat::new("my-vcpu", 1), &[]);
//!
//! // The predecessor: the block is preserved where it is, the structure is copied.
//! struct Vcpu<'a> { ip: u64, stack: &'a Frame }
//! impl<M: Home> Preserve<M> for Vcpu<'_> {
//!     fn compat(&self) -> CompatList<'static> { VCPU }
//!     fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
//!         scope.preserve(self.stack)?;
//!         let stack = self.stack.folio().pfn().get().into();
//!         scope.blob(Wire { ip: self.ip.into(), stack }.as_bytes())
//!     }
//! }
//!
//! // The successor: the check claims on paper what the node owns, `prepare` takes it over.
//! struct VcpuNode;
//! impl<M: Memory> Check<M> for VcpuNode {
//!     type Checked = (u64, Folio);
//!     fn compat(&self) -> CompatList<'static> { VCPU }
//!     fn check(&self, node: &mut Node<'_, M>) -> Result<(u64, Folio), Fault> {
//!         let wire: Wire = node.blob_as()?;
//!         let page = Pfn::new(wire.stack.get());
//!         let page = page.ok_or_else(|| Fault::new(Code::TooLarge).item("stack").found(wire.stack))?;
//!         node.try_claim(Folio::page(page))?;
//!         Ok((wire.ip.get(), Folio::page(page)))
//!     }
//! }
//! impl<M: Claim> Component<M> for VcpuNode {
//!     type Prepared = (u64, Frame);
//!     type Restored = (u64, Frame);
//!     fn prepare(&self, (ip, stack): (u64, Folio), memory: &mut M) -> Result<(u64, Frame), Fault> {
//!         Ok((ip, memory.claim(stack)?))
//!     }
//!     fn commit(&self, vcpu: (u64, Frame), _: &mut M) -> (u64, Frame) { vcpu }
//! }
//!
//! let window = PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap();
//! let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, window));
//! let stack = outgoing.alloc(Order::ZERO)?;
//! outgoing.preserve("vcpu0", &Vcpu { ip: 0xfff0, stack: &stack })?;
//! let (memory, root) = outgoing.finish()?.into_parts();
//!
//! let mut registry = Registry::new();
//! let vcpu = registry.add("vcpu0", VcpuNode);
//! let mut restored = Incoming::new(memory, root.start()).plan(&registry).accept()?.restore()?;
//! let (ip, frame) = restored.take(&vcpu).unwrap();
//! assert_eq!((ip, frame.folio()), (0xfff0, stack.folio()));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![allow(clippy::result_large_err, reason = "what fails gives the handover back, which is as large as what succeeds")]

mod accepted;
mod claims;
#[cfg(all(test, feature = "write"))]
mod door;
#[cfg(feature = "write")]
mod finished;
#[cfg(all(test, feature = "std"))]
mod flipped;
#[cfg(feature = "write")]
mod forecast;
mod incoming;
mod layouts;
#[cfg(feature = "write")]
mod linux;
mod node;
#[cfg(feature = "write")]
mod outgoing;
mod plan;
mod planner;
#[cfg(feature = "write")]
mod reader;
mod registry;
#[cfg(feature = "write")]
mod root;
#[cfg(feature = "write")]
mod scope;
#[cfg(all(test, feature = "write"))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "std"))]
mod unsteady;

pub use accepted::{Accepted, Failed};
#[cfg(feature = "write")]
pub use finished::{Finished, Unfinished};
#[cfg(feature = "write")]
pub(crate) use forecast::GivenNode;
#[cfg(feature = "write")]
pub use forecast::{Forecast, Foretold};
#[cfg(feature = "std")]
pub(crate) use incoming::read_root;
pub use incoming::{Incoming, Restored};
pub use layouts::Layout;
pub use node::Node;
#[cfg(feature = "write")]
pub use outgoing::Outgoing;
pub use plan::{NodeReport, Plan, Refused, Verdict};
pub(crate) use planner::match_any;
pub use registry::{Check, Component, Handle, Registry};
#[cfg(feature = "write")]
pub use scope::{Blob, Home, OwnNode, Preserve, Scope};
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) use {claims::Owners, planner::declared};

/// So many ranges of one node are listed in its `mem`; beyond that the largest, and the node says `mem-partial`.
pub const MEM_LIMIT: usize = 1_024;

/// A root FDT larger than this, in bytes, is refused. Linux writes at most a page.
pub const ROOT_LIMIT: u64 = 64 << 20;
