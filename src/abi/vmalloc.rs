//! Scattered pages as one array: a descriptor and a chain of chunks.

use zerocopy::little_endian::{U16, U32, U64};

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file.
pub const COMPAT: Compat<'static> = Compat::new("vmalloc", 1);

/// [`Descriptor::flags`]: mapped with `VM_ALLOC`.
pub const FLAG_ALLOC: u16 = 1;
/// [`Descriptor::flags`]: huge mappings are allowed.
pub const FLAG_HUGE: u16 = 2;
/// All flags that Linux preserves; it refuses others when preserving and drops them silently when restoring.
pub const FLAGS: u16 = FLAG_ALLOC | FLAG_HUGE;

/// One address of a chunk: a block of `1 << order` pages, aligned to that; 0 ends the list.
pub type Address = U64;

wire! {
    /// What an area is made of. Usually inside another structure.
    pub struct Descriptor: 16 align 8 of Some(COMPAT) => {
        /// Physical address of the first chunk; 0 is an area of nothing.
        0 first: U64,
        /// Pages (not blocks) of the whole area.
        8 total_pages: U32,
        /// [`FLAGS`].
        12 flags: U16,
        /// log2 of the pages that each address stands for.
        14 order: U16,
    }

    /// Start of a chunk, one page; [`Address`]es fill the rest of it.
    pub struct ChunkHeader: 8 align 8 of Some(COMPAT) => {
        /// Physical address of the next chunk; 0 ends the chain.
        0 next: U64,
    }
}
