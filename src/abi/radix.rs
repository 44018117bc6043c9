//! Which pages are preserved: a radix tree of bitmaps.
//!
//! Every node is one page: inner nodes are arrays of [`Entry`], leaves are arrays of [`Word`]. The numbers that depend
//! on the page size are in [`Geometry`](crate::mem::Geometry).

use zerocopy::little_endian::U64;

use crate::compat::Compat;

/// The layout of this file.
pub const COMPAT: Compat<'static> = Compat::new("radix", 1);

/// Physical address of a child; 0 is none.
pub type Entry = U64;

/// 64 bits of a leaf, the lowest key in the lowest bit.
pub type Word = U64;
