//! Ours: the memory of a guest as a table of its regions, each a part of a memfd that travels beside the memory.
//!
//! The blob is a [`Table`] whose records are in a block set. Regions are in the order of their guest addresses and do not
//! overlap; several may be parts of one memfd, which has one token. Every memfd is sealed with `F_SEAL_SHRINK`.

use zerocopy::little_endian::{U32, U64};

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file. It uses `block-v1`.
pub const COMPAT: Compat<'static> = Compat::new("kho-guest-memory", 1);

/// Name of the node in the root FDT, where a program has one guest.
pub const NODE: &str = "guest-memory";

/// A table has at most so many regions: KVM takes no more.
pub const MAX_REGIONS: u64 = 32_764;

/// [`Region::prot`]: it can be read. Every region can.
pub const PROT_READ: u32 = 1;
/// [`Region::prot`]: it can be written.
pub const PROT_WRITE: u32 = 2;

/// [`Region::flags`]: a shared mapping. Every region is one.
pub const MAP_SHARED: u32 = 0x1;
/// [`Region::flags`]: no swap is reserved for it.
pub const MAP_NORESERVE: u32 = 0x4000;
/// [`Region::flags`]: its pages are mapped at once.
pub const MAP_POPULATE: u32 = 0x8000;

wire! {
    /// The blob of the node.
    pub struct Table: 16 align 8 of Some(COMPAT) => {
        /// Physical address of the first block of [`Region`]s.
        0 regions: U64,
        /// How many regions, 1 to [`MAX_REGIONS`].
        8 count: U64,
    }

    /// One region.
    pub struct Region: 48 align 8 of Some(COMPAT) => {
        /// Its first address, as the guest has it.
        0 guest: U64,
        /// Bytes, a multiple of the page size.
        8 size: U64,
        /// The token of its memfd.
        16 token: U64,
        /// Its first byte in the memfd, a multiple of the page size.
        24 offset: U64,
        /// How it is mapped: [`PROT_READ`], [`PROT_WRITE`].
        32 prot: U32,
        /// Flags of the mapping, with the numbers of mmap on x86-64 and arm64: [`MAP_SHARED`] and others of this file.
        36 flags: U32,
        /// Zero.
        40 reserved: U64,
    }
}
