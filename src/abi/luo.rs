//! Live Update Orchestrator: sessions and their files (subtree [`NODE`]).

use zerocopy::little_endian::U64;

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file. Compared over the 8 bytes of [`Head::compatible`].
pub const COMPAT: Compat<'static> = Compat::new("luo", 5);

/// Name of the node in the root FDT. Its blob is a [`Head`], not a device tree.
pub const NODE: &str = "LUO";

/// Bytes of a session's name, the terminating zero included.
pub const SESSION_NAME: usize = 64;
/// Bytes of the compatibility string of a file, the terminating zero included.
pub const FILE_COMPATIBLE: usize = 48;

wire! {
    /// The blob of the subtree. Longer is accepted.
    pub struct Head: 32 align 8 of Some(COMPAT) => {
        /// `luo-v5` and zeros.
        0 compatible: [u8; 8],
        /// 1 at the first live update, then one more each time.
        8 liveupdate_number: U64,
        /// Physical address of the first block of [`Session`]s; 0 is none, and until the machine freezes.
        16 sessions: U64,
        /// Physical address of the page of [`Flb`]s; 0 is none.
        24 flbs: U64,
    }

    /// A session, in a block set.
    pub struct Session: 80 align 8 of Some(COMPAT) => {
        /// 1 to 63 bytes and zeros; unique.
        0 name: [u8; 64],
        /// Physical address of the first block of [`File`]s; 0 is none.
        64 files: U64,
        /// Files of the session.
        72 count: U64,
    }

    /// A file of a session, in a block set.
    pub struct File: 64 align 8 of Some(COMPAT) => {
        /// Which handler it belongs to: `memfd-v2` and zeros.
        0 compatible: [u8; 48],
        /// What that handler left; a physical address for memfd.
        48 data: U64,
        /// The user's name for it, unique in the session.
        56 token: U64,
    }

    /// Start of the page of [`Flb`]s, the global data that live and die with files.
    pub struct FlbHeader: 16 align 8 of Some(COMPAT) => {
        /// 1; not read.
        0 page_count: U64,
        /// Records that follow.
        8 count: U64,
    }

    /// One global that is bound to files.
    pub struct Flb: 64 align 8 of Some(COMPAT) => {
        /// Its name and zeros.
        0 name: [u8; 48],
        /// What its owner left.
        48 data: U64,
        /// Files that use it, at least 1.
        56 count: U64,
    }
}
