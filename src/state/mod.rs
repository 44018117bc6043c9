//! Typed state that outlives versions: declared once, saved, restored, skipped, downgraded    kho-state-v1
//!
//! A type says with `#[derive(State)]` what it is made of and in which version each field came. From that follow the
//! code that saves and restores it, its description, which travels with the bytes, and what two programs of different
//! releases can say to each other before one of them leaves.
//!
//! ```
//! # #[cfg(feature = "derive")] {
//! use kho::state::{self, State, Versions};
//!
//! /// What release 1 had.
//! mod release1 {
//!     # use kho::state::State;
//!     #[derive(State)]
//!     #[state(id = 7, version = 1)]
//!     pub struct Timer {
//!         pub deadline: u64,
//!         pub armed: bool,
//!     }
//! }
//!
//! /// Release 2 has a field more, and one less.
//! #[derive(State)]
//! #[state(id = 7, version = 2, min_version = 1)]
//! #[state(deprecated(name = "armed", ty = bool, until = 2, after = "deadline", write = Timer::was_armed))]
//! struct Timer {
//!     deadline: u64,
//!     #[state(since = 2, default = 1)]
//!     period: u64,
//! }
//! impl Timer {
//!     fn was_armed(&self) -> bool {
//!         self.deadline != 0
//!     }
//! }
//!
//! // What release 1 saved is read, and release 1 is written for.
//! let saved = state::save(&release1::Timer { deadline: 5, armed: true })?;
//! let timer: Timer = state::restore(&saved)?;
//! assert_eq!((timer.deadline, timer.period), (5, 1));
//! let older = Versions::of::<Timer>(1)?;
//! let back: release1::Timer = state::restore(&state::save_as(&timer, &older)?)?;
//! assert!(back.armed);
//! // What it cannot read it says so: a mismatch, with the field's path, and not a word of corruption.
//! let error = state::restore::<release1::Timer>(&state::save(&timer)?).err().unwrap();
//! assert_eq!(error.to_string(), "version-newer: timer: found version 2 of timer, expected version 1");
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # In a handover
//! [`States`] is what a program has of objects that are states. It is a component: preserved as a node, declared to the
//! registry with a [`StatesNode`], and in the manifest with [`states`](crate::manifest::states). Nothing is restored
//! before the plan was accepted: the plan reads all of it by the descriptions that came with it, without the types of
//! anybody. Then each object is [attached](States::attach), or [taken](States::take), and gets what was saved for it
//! under that description and number. What nobody attached is told by [`States::finish`].
//!
//! A predecessor that knows its successor ([`Outgoing::write_for`](crate::handover::Outgoing::write_for)) writes each
//! state in the newest version that both know. What that leaves behind is told before it leaves
//! ([`Outgoing::warnings`](crate::handover::Outgoing::warnings)); what the successor needs or cannot read stops it.
//!
//! # Resources
//! A state can have more than bytes: blocks of pages ([`Frame`](crate::mem::Frame)), scattered blocks as one array
//! ([`Scattered`]), descriptors ([`Memfd`], [`FileDescriptor`]). They are preserved with it, and unpreserved when saving
//! fails. Descriptors travel in the node of files: a successor adds a [`FilesNode`](crate::files::FilesNode) too, and a
//! manifest has a line for it. When no state has a descriptor the node is not written: how a program says that it may be
//! missing, see [`Files`](crate::files::Files).
//!
//! # Objects that several have
//! An `Rc` or `Arc` is saved once, and is one object again. Objects must not own each other in a circle; a weak link back
//! is an [`RcLink`] or [`ArcLink`], which finds its object whichever of both comes first.
//!
//! # What never changes its meaning
//! The id of a description, the names of its fields, the tags of variants: `kho::state_tests!` (see
//! `kho::state::lock`) makes tests that hold a program to what it has published, and to the bytes that each version
//! saved, which today's code must restore.
//!
//! # The format
//! [`abi::state`](crate::abi::state) has the tables. An image says its version first; then which descriptions there are
//! and in which version each was written, the objects that can be asked for, what travels beside the bytes, the
//! descriptions, and the objects. A checksum covers all of that, and is looked at before anything else. Bulk data
//! (`#[state(plain)]`) stand beside, aligned, with a checksum where it is asked for, and are not copied when they are
//! read [in place](InPlace).
//!
//! Fields stand in the order of the description, without names or numbers; what is not in the version that was written
//! is not there. A number takes as many bytes as it needs, at most nine: the zeros at the end of the first byte say how
//! many follow. A field with a condition has a byte in front that says whether it is there. A state that may have
//! subsections has their count behind its fields, and each has its id and its length in front. Everything is
//! little-endian.

mod attach;
mod bytes;
mod description;
mod error;
mod fit;
#[cfg(all(test, feature = "derive", feature = "std"))]
mod hostile;
mod image;
mod keys;
mod kind;
pub mod limits;
mod live;
#[cfg(feature = "std")]
pub mod lock;
mod memo;
mod node;
mod number;
#[cfg(feature = "write")]
mod preserve;
mod resource;
mod restore;
mod save;
mod shape;
mod shown;
#[cfg(all(test, feature = "derive", feature = "std"))]
mod tests;
mod value;
mod versions;
mod walk;

pub use attach::{Holder, Origin, States, Unclaimed};
pub use bytes::{Saved, restore, restore_from, save, save_as};
pub(crate) use description::disagree;
pub use description::{Description, DescriptionBody, FieldDescription, SubsectionDescription, VariantDescription};
pub use error::{Error, Result};
pub use image::Image;
#[cfg(feature = "derive")]
pub use kho_derive::State;
pub use kind::Kind;
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) use node::look;
pub use node::{LookAtStates, MADE_OF, Resources, StatesNode};
#[cfg(feature = "write")]
pub(crate) use node::{WrittenStates, written_in};
pub(crate) use node::{descriptions, negotiate, refuses};
pub use resource::Scattered;
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) use resource::descriptor_of;
#[cfg(feature = "std")]
pub use resource::{FileDescriptor, Memfd};
pub use restore::{Restorer, Subsection as Found};
pub use save::Saver;
pub(crate) use shape::check_closed;
pub use shape::{Body, Desc, Element, Field, Shape, Subsection, Type, Variant, shape_bytes, shape_size};
pub use shown::{Float, SHOWN, Shown, ShownObject, ShownState};
#[cfg(feature = "std")]
pub use value::ArcLink;
pub use value::{Bulk, InPlace, PlainField, RcLink, State, Value};
pub use versions::Versions;
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) use walk::{named, objects};
