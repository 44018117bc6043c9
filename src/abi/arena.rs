//! Ours: the first page of an arena.

use zerocopy::little_endian::{U32, U64};

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file.
pub const COMPAT: Compat<'static> = Compat::new("kho-arena", 1);

/// First bytes of an arena: no text, no ELF, no device tree.
pub const MAGIC: [u8; 8] = *b"\x7fKHOARN\n";

/// [`Header::byte_order`] when it is read in the order in which it was written.
pub const BYTE_ORDER: u32 = 0x0102_0304;

wire! {
    /// At offset 0 of an arena; the rest of the page is zero.
    pub struct Header: 64 align 8 of Some(COMPAT) => {
        /// [`MAGIC`].
        0 magic: [u8; 8],
        /// The version of [`COMPAT`].
        8 version: U32,
        /// [`BYTE_ORDER`].
        12 byte_order: U32,
        /// log2 of the page size.
        16 page_shift: U32,
        /// Zero.
        20 reserved: U32,
        /// The address of offset 0: what is called physical in the handover, minus this, is an offset in the arena.
        24 base: U64,
        /// Bytes of the arena.
        32 size: U64,
        /// Physical address of the root FDT; 0 until the handover is finished.
        40 fdt_addr: U64,
        /// Bytes of the root FDT.
        48 fdt_size: U64,
        /// Drawn anew for each handover, and sent beside it: a stale or swapped arena has another one.
        56 nonce: U64,
    }
}
