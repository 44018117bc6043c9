//! A memfd by its pages.

use zerocopy::little_endian::{U32, U64};

use super::vmalloc::Descriptor;
use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file. It implies `vmalloc-v1`.
pub const COMPAT: Compat<'static> = Compat::new("memfd", 2);

/// `F_SEAL_SEAL`, `SHRINK`, `GROW`, `WRITE`, `FUTURE_WRITE` and `EXEC`: the seals that Linux restores.
pub const SEALS: u32 = 0x3f;

/// Bits of [`Folio::pfn_flags`] that are the page frame number.
pub const PFN_BITS: u32 = 52;
/// Flag of a folio, above the [`PFN_BITS`]: its contents differ from what is on disk.
pub const FOLIO_DIRTY: u64 = 1;
/// Flag of a folio: its contents are valid.
pub const FOLIO_UPTODATE: u64 = 2;
/// All flags that Linux knows; it sets both.
pub const FOLIO_FLAGS: u64 = FOLIO_DIRTY | FOLIO_UPTODATE;

wire! {
    /// The file.
    pub struct Memfd: 48 align 8 of Some(COMPAT) => {
        /// File position in bytes.
        0 pos: U64,
        /// Bytes.
        8 size: U64,
        /// [`SEALS`].
        16 seals: U32,
        /// Zero.
        20 flags: U32,
        /// Records in the array.
        24 nr_folios: U64,
        /// Where the array of [`Folio`]s is; unset when there is none.
        32 folios: Descriptor,
    }

    /// A folio of the file. Its order is in the radix tree.
    pub struct Folio: 16 align 8 of Some(COMPAT) => {
        /// Page frame number in the low [`PFN_BITS`] (0 is a hole), flags above.
        0 pfn_flags: U64,
        /// Page offset in the file.
        8 index: U64,
    }
}
