//! Ours: plain data as nodes of a handover, a table of records and an array of bytes.

use zerocopy::little_endian::U64;

use super::vmalloc::Descriptor;
use super::wire::wire;
use crate::compat::Compat;

/// The layout of [`Records`]. It uses `block-v1`.
pub const RECORDS: Compat<'static> = Compat::new("kho-records", 1);
/// The layout of [`Array`]. It uses `vmalloc-v1`.
pub const ARRAY: Compat<'static> = Compat::new("kho-array", 1);

wire! {
    /// The blob of a table: records of one size in a block set.
    pub struct Records: 24 align 8 of Some(RECORDS) => {
        /// Physical address of the first block; 0 is none.
        0 first: U64,
        /// How many records.
        8 count: U64,
        /// Bytes of one record.
        16 record: U64,
    }

    /// The blob of an array: bytes in scattered blocks.
    pub struct Array: 24 align 8 of Some(ARRAY) => {
        /// Bytes; what the last block has beyond them means nothing.
        0 bytes: U64,
        /// The blocks; unset when there are no bytes.
        8 blocks: Descriptor,
    }
}
