//! Ours: the table of descriptors that travel beside the memory.
//!
//! The blob is a [`Table`] whose records are in a block set. The descriptors themselves travel by the transport, in the
//! order of the records.

use zerocopy::little_endian::{U32, U64};

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file. It uses `block-v1`.
pub const COMPAT: Compat<'static> = Compat::new("kho-files", 1);

/// Name of the node in the root FDT.
pub const NODE: &str = "files";

/// [`Record::kind`]: a memfd.
pub const KIND_MEMFD: u32 = 1;

wire! {
    /// The blob of the node.
    pub struct Table: 16 align 8 of Some(COMPAT) => {
        /// Physical address of the first block of [`Record`]s; 0 is none.
        0 records: U64,
        /// How many records.
        8 count: U64,
    }

    /// One descriptor.
    pub struct Record: 72 align 8 of Some(COMPAT) => {
        /// The user's name for it, unique in the table.
        0 token: U64,
        /// [`KIND_MEMFD`].
        8 kind: U32,
        /// Seals, as `F_GET_SEALS` has them.
        12 seals: U32,
        /// Device of the inode, major and minor as `makedev` joins them.
        16 device: U64,
        /// Number of the inode.
        24 inode: U64,
        /// Bytes.
        32 size: U64,
        /// File position in bytes.
        40 pos: U64,
        /// Status flags, as `F_GETFL` has them.
        48 status: U32,
        /// Descriptor flags, as `F_GETFD` had them with the predecessor (bit 0: close-on-exec).
        52 descriptor: U32,
        /// Permission bits of the inode.
        56 mode: U32,
        /// Zero.
        60 reserved: U32,
        /// Zero.
        64 reserved2: U64,
    }
}
