//! Flattened device trees: read, write, print.
//!
//! The root of a handover is one, and so are the blobs of some components (`memblock`, `kho_test`). What makes them
//! special is that Linux keeps native (little-endian) integers in their values, where other device trees have
//! big-endian cells, and takes names that device trees forbid. So names are bytes here and values are raw; who reads
//! them says which integers they are.
//!
//! - [`Fdt::parse`] checks everything once, in time linear in the size (n log n against a blob that is made to be
//!   slow); after that, iteration and lookups cannot fail.
//! - [`Builder`] writes trees, over the crate `vm-fdt` (feature `write`).
//! - [`dts`] prints a tree as source, each known value decoded in a comment.
//!
//! Source of the layout: Devicetree Specification 0.4, chapter 5, version 17 of the format.
//!
//! ```
//! # #[cfg(feature = "write")] {
//! use kho::fdt::{Builder, Fdt};
//!
//! let mut root = Builder::new();
//! root.strings("compatible", ["kho-v4", "radix-v1"])?;
//! root.node("LUO", |luo| luo.u64_native("preserved-data", 0x66_8000))?;
//! let blob = root.finish()?;
//!
//! let fdt = Fdt::parse(&blob)?;
//! let luo = fdt.root().child("LUO").unwrap();
//! assert_eq!(luo.required("preserved-data")?.u64_native()?, 0x66_8000);
//! # }
//! # Ok::<(), kho::report::Fault>(())
//! ```

mod check;
pub mod dts;
mod edit;
mod names;
mod read;
#[cfg(all(feature = "std", feature = "serde"))]
mod salvage;
mod values;
#[cfg(feature = "write")]
mod write;

#[cfg(test)]
mod tests;

pub(crate) use check::total_size;
pub use read::{Children, Event, Fdt, Node, Properties, Property, Reservations, Walk};
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) use salvage::salvage;
pub use values::{MemRanges, Strings};
#[cfg(feature = "write")]
pub use write::Builder;
#[cfg(feature = "write")]
pub(crate) use write::check_node_name;

/// Levels of nodes that are read and written, the root included; as `vm-fdt` and Linux have it.
pub const MAX_DEPTH: usize = 64;
/// Bytes of a tree that are read, as in libfdt.
pub const MAX_SIZE: u32 = 0x7fff_ffff;
/// Bytes of a node's or property's name that are read. Device trees are meant to have at most 31.
pub const MAX_NAME: usize = 255;

const MAGIC: u32 = 0xd00d_feed;
/// The version of the format that is read: the first with the size of the structure block.
const VERSION: u32 = 17;

const HEADER: u32 = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Bytes from a PROP token to its value: the token, the length, the offset of the name.
const PROP_HEAD: u32 = 12;

/// The big-endian u32 at that offset.
#[inline]
fn be32(bytes: &[u8], at: u32) -> Option<u32> {
    let tail = bytes.get(crate::num::index_of(at)..)?;
    tail.first_chunk().map(|four| u32::from_be_bytes(*four))
}

/// The big-endian u64 at that offset.
fn be64(bytes: &[u8], at: u32) -> Option<u64> {
    let tail = bytes.get(crate::num::index_of(at)..)?;
    tail.first_chunk().map(|eight| u64::from_be_bytes(*eight))
}

/// The next multiple of 4; none beyond `u32`.
#[inline]
const fn align4(at: u32) -> u32 {
    // Offsets are at most MAX_SIZE: nothing wraps.
    at.wrapping_add(3) & !3
}
