//! Fixed-size records in linked pages.

use zerocopy::little_endian::U64;

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file.
pub const COMPAT: Compat<'static> = Compat::new("block", 1);

/// Readers follow so many blocks of one set.
pub const MAX_BLOCKS: u64 = 10_000;

wire! {
    /// Start of a block, one page; records of one size fill the rest of it.
    pub struct Header: 16 align 8 of Some(COMPAT) => {
        /// Physical address of the next block; 0 ends the chain.
        0 next: U64,
        /// Records in this block: 1 to as many as the page holds.
        8 count: U64,
    }
}
