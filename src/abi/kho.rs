//! The root of a handover, and how the next kernel is told of it.
//!
//! The root is a flattened device tree of at most one page: [`PRESERVED_MEMORY_MAP`] of the root node is the physical
//! address of the radix tree, each subnode names a blob by [`PRESERVED_DATA`] and [`BLOB_SIZE`]. Values are native u64.

use zerocopy::little_endian::{U32, U64};

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file.
pub const COMPAT: Compat<'static> = Compat::new("kho", 4);

/// Root and nodes: string list of what it is made of. Linux takes the root when any entry is `kho-v4`.
pub const COMPATIBLE: &str = "compatible";
/// Root: native u64, physical address of the radix tree; 0 is no handover.
pub const PRESERVED_MEMORY_MAP: &str = "preserved-memory-map";
/// Subnode: native u64, physical address of its blob.
pub const PRESERVED_DATA: &str = "preserved-data";
/// Subnode: native u64, bytes of its blob.
pub const BLOB_SIZE: &str = "blob-size";
/// Subnode, ours: pairs of big-endian u64, address and size of the memory that it owns.
pub const MEM: &str = "mem";
/// Subnode, ours: [`MEM`] lists the largest ranges only.
pub const MEM_PARTIAL: &str = "mem-partial";
/// Subnode, ours: a reader that does not understand the node may leave it.
pub const OPTIONAL: &str = "optional";
/// Root, ours: 2, so that `dtc` shows [`MEM`] right.
pub const ADDRESS_CELLS: &str = "#address-cells";
/// Root, ours: 2, so that `dtc` shows [`MEM`] right.
pub const SIZE_CELLS: &str = "#size-cells";

/// Versions of the root that Linux had: v1 keeps bitmaps by order in a chain of pages, v2 has the radix tree, v3
/// [`BLOB_SIZE`], v4 the block sets. Only v4 is decoded.
pub const KNOWN_VERSIONS: core::ops::RangeInclusive<u32> = 1..=4;

/// `type` of the x86-64 `setup_data` entry whose payload is [`SetupData`].
pub const SETUP_DATA_TYPE: u32 = 10;

/// arm64, `/chosen`: address and size of the root FDT, in root cells.
pub const CHOSEN_FDT: &str = "linux,kho-fdt";
/// arm64, `/chosen`: address and size of the array of [`Scratch`], in root cells.
pub const CHOSEN_SCRATCH: &str = "linux,kho-scratch";

/// x86-64: nothing below may be preserved, in bytes.
pub const X86_LOW_LIMIT: u64 = 1 << 20;

wire! {
    /// One scratch area: where the next kernel allocates until it has read the tree. Size 0 is legal.
    pub struct Scratch: 16 align 8 of None => {
        /// Physical address.
        0 addr: U64,
        /// Bytes.
        8 size: U64,
    }

    /// Start of each entry of the x86-64 `setup_data` list; its payload follows.
    pub struct SetupHeader: 16 align 8 of None => {
        /// Physical address of the next entry; 0 ends the list.
        0 next: U64,
        /// What it is: [`SETUP_DATA_TYPE`].
        8 kind: U32,
        /// Bytes of the payload.
        12 len: U32,
    }

    /// Payload of the x86-64 `setup_data` entry.
    pub struct SetupData: 32 align 1 of None => {
        /// Physical address of the root FDT.
        0 fdt_addr: U64,
        /// Bytes.
        8 fdt_size: U64,
        /// Physical address of the array of [`Scratch`].
        16 scratch_addr: U64,
        /// Bytes.
        24 scratch_size: U64,
    }
}
