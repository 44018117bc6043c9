//! Hand a running program's memory, files and data to its successor.
//!
//! A process that replaces itself (a VMM, a database, a proxy, a cache) keeps what took long to build: blocks of memory
//! where they are, open files as descriptors, tables and small state as checked copies. The bytes are those of Linux's
//! own Kexec HandOver (KHO): a flattened device tree whose nodes name their data, a radix tree of preserved pages,
//! vmalloc areas, block sets. So the same library reads what a kernel hands over.
//!
//! # From one process to the next
//! ```no_run
//! use kho::abi;
//! use kho::compat::{Compat, CompatList};
//! use kho::files::FilesNode;
//! use kho::handover::{Outgoing, Registry};
//! use kho::payload::{Bytes, BytesNode};
//! use kho::transport::{Arrival, Bundle, Program, Ticket};
//!
//! // What the bytes mean, and in which version.
//! const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let Some(arrival) = Arrival::take()? else {
//!         // The predecessor: preserve, finish, leave. It returns only when that failed, and then all is as before.
//!         let mut outgoing = Outgoing::new(Bundle::new(1 << 30)?);
//!         outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"42 requests" })?;
//!         return Err(outgoing.finish()?.exec(&Program::current()?, Some(&Ticket::current()?)).into());
//!     };
//!     // The successor: say what is understood, plan, accept, restore.
//!     let mut registry = Registry::new();
//!     let state = registry.read("state", BytesNode { made_of: STATE, limit: 4096 });
//!     registry.add_optional(abi::files::NODE, FilesNode);
//!     let mut restored = arrival.incoming.plan(&registry).accept()?.restore()?;
//!     println!("{:?}", restored.take(&state));
//!     let (_bundle, released) = restored.finish();
//!     released?;
//!     Ok(())
//! }
//! ```
//! State whose types change between releases is declared: see [`state`].
//!
//! A program that is upgraded says what it reads and writes: see [`manifest`](mod@manifest), [`handover::Registry::of`],
//! [`handover::Outgoing::of`] and [`handover::Outgoing::write_for`]. `tests/programs` is a whole service in three versions.
//!
//! `examples/self_exec.rs` is the same with memory, a file, and the way back to a predecessor when the plan refuses.
//!
//! # The law
//! Nothing is restored from a handover that was not planned and accepted as a whole: the types of [`handover`] leave no
//! other way. The plan finds *every* problem, each with a stable [code](report::Code), its place, what was found and
//! what was expected; a version that nobody here reads is never told as corruption. What fails leaves nothing behind.
//!
//! # Rooms
//! | room | what it is |
//! |---|---|
//! | [`report`] | findings: code, class, place, found, expected |
//! | [`compat`] | names and versions of layouts, lists of them, and how two sides differ |
//! | [`abi`] | wire formats: structures with their offsets, constants; no behaviour |
//! | [`lock`] | what may not change under a version: `abi.lock`, and how two states of it differ |
//! | [`fdt`] | device trees: a validating reader, a writer, a printer of source |
//! | [`mem`] | addresses, memory, frames; arenas, images, mappings |
//! | [`radix`], [`vmalloc`], [`block`] | which pages are preserved; scattered pages as one array; records in linked pages |
//! | [`manifest`](mod@manifest) | what a program reads and writes, in its own file |
//! | [`handover`] | the core: outgoing, incoming, plan, accepted, restored |
//! | [`memfd`], [`selftest`], [`luo`], [`memblock`], [`metadata`] | what Linux knows |
//! | `linux` | how the next kernel is told of a handover that was made for it |
//! | `files`, [`payload`] | descriptors by token; bytes, tables and arrays as nodes |
//! | [`state`] | typed state in versions: saved, restored, skipped, downgraded |
//! | [`guest`] | memory of virtual machines: read, and handed over region by region |
//! | `transport` | how a handover travels: exec, a unix socket, a session of `/dev/liveupdate`; who goes on when one dies |
//! | `kexec` | x86-64: the next kernel loaded from user space, with a handover that was authored |
//! | `liveupdate` | `/dev/liveupdate`: sessions whose files outlive the kernel; what Linux would do to a file |
//! | `inspect` | a dump, an arena or a device tree as one tree of values |
//! | `successor` | what a next kernel understands, from its image, and what would become of a handover in it |
//!
//! # Features
//! - none: `no_std` with `alloc`; reads, checks and plans. Depends on `zerocopy`, `thiserror` and `crc32fast` only.
//! - `write`: device trees are written and handovers made ([`handover::Outgoing`]); adds `vm-fdt`.
//! - `std` (default): arenas, images, files, exec; Linux only. Adds `rustix`, `libc`, `object` and `radsort`.
//! - `derive` (default): `#[derive(State)]`; adds `kho-derive`, at compile time only.
//! - `tracing` (default): an event for each step, with `std`: target `kho`, level debug, with `step` (`check`, `plan`,
//!   `prepare`, `settle`, `commit` and `restore`; of who leaves `hello`, `prepare`, `freeze`, `preserve`, `finish`,
//!   `deliver`, `accept` and `unfreeze`), `node` (`/` is the whole step) and `nanos`.
//! - `schema`: JSON Schemas of the values of `serde`. Adds `schemars`.
//! - `serde`: findings, plans and layouts as values; with `std` also `inspect` and `successor`.
//! - `images`: packed images of kernels are unpacked; adds `flate2`, `lzma-rust2`, `ruzstd`, `lz4_flex` and `bzip2`.
//! - `vm-memory`: memory of virtual machines as rust-vmm has it (see [`guest`]); implies `std`, adds `vm-memory`.
#![cfg_attr(not(feature = "std"), no_std)]
#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

extern crate alloc;
// What `#[derive(State)]` writes says `::kho`, also in the tests of this crate.
#[cfg(test)]
extern crate self as kho;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("kho is for 64-bit machines: Linux hands over only there");

#[cfg(all(feature = "std", not(target_os = "linux")))]
compile_error!("the feature `std` of kho is for Linux: it uses memfd, execveat and SCM_RIGHTS");

pub mod abi;
pub mod block;
pub mod compat;
pub mod fdt;
#[cfg(feature = "std")]
pub mod files;
pub mod guest;
pub mod handover;
#[cfg(all(feature = "std", feature = "serde"))]
pub mod inspect;
#[cfg(feature = "std")]
pub mod kexec;
#[cfg(feature = "write")]
pub mod linux;
#[cfg(feature = "std")]
pub mod liveupdate;
pub mod lock;
pub mod luo;
pub mod manifest;
pub mod mem;
pub mod memblock;
pub mod memfd;
pub mod metadata;
mod num;
mod out;
pub mod payload;
pub mod radix;
pub mod report;
pub mod selftest;
pub mod state;
#[cfg(all(feature = "std", feature = "serde"))]
pub mod successor;
#[cfg(test)]
mod testing;
pub mod text;
mod trace;
#[cfg(feature = "std")]
pub mod transport;
pub mod vmalloc;

#[cfg(all(feature = "derive", feature = "std"))]
pub use kho_derive::state_tests;
