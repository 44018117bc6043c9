//! What the demo hands over, as both sides know it.

use kho::compat::{Compat, CompatList};
use kho::payload;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Token of the memfd that travels by descriptor.
pub(super) const RAM: u64 = 1;
/// Node of the memfd that travels by its pages.
pub(crate) const MEMFD: &str = "memfd";
/// Bytes of that.
pub(super) const MEMFD_SIZE: u64 = 16 << 20;
/// Its file position.
pub(super) const MEMFD_POS: u64 = 0x1234;
/// Node of the table.
pub(crate) const TABLE: &str = "table";
/// Records of that.
pub(super) const ROWS: u64 = 100_000;
/// Node of the array.
pub(crate) const ARRAY: &str = "array";
/// Bytes of that.
pub(super) const ARRAY_SIZE: u64 = 64 << 20;
/// Bytes of each of its blocks.
pub(super) const BLOCK: u64 = 64 << 10;
/// Node of what the predecessor knows of all this.
pub(crate) const LEDGER: &str = "ledger";
/// Orders of the folios of the kho_test payload.
pub(super) const ORDERS: [u32; 8] = [0, 3, 1, 0, 5, 2, 4, 0];

/// What the table means.
pub(crate) const TABLE_IS: CompatList<'static> = CompatList::new(Compat::new("demo-table", 1), payload::RECORDS_USE);
/// What the array means.
pub(crate) const ARRAY_IS: CompatList<'static> = CompatList::new(Compat::new("demo-array", 1), payload::ARRAY_USE);
/// What the ledger means.
pub(crate) const LEDGER_IS: CompatList<'static> = CompatList::new(Compat::new("demo-ledger", 1), &[]);

/// A record of the table.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Row {
    pub(super) number: U64,
    pub(super) key: U64,
}

/// What the predecessor tells its successor of the demo itself.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Ledger {
    /// When the predecessor stopped to do anything else, on the monotonic clock.
    pub(super) frozen_at: U64,
    pub(super) ram: [u8; 32],
    pub(super) memfd: [u8; 32],
    pub(super) test: [u8; 32],
    pub(super) table: [u8; 32],
    pub(super) array: [u8; 32],
}

/// Bytes that look like nothing: each part has other ones, and none of its blocks are alike.
pub(super) struct Noise(u64);

impl Noise {
    pub(super) const fn new(seed: u64) -> Self {
        Noise(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        // splitmix64, by Sebastiano Vigna, in the public domain.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
