//! Ours: what a session of `/dev/liveupdate` has that carries a handover.
//!
//! Linux gives files back by their tokens and cannot list them. So a memfd under a token that never changes, [`ROOT`], says
//! which others are there: a [`Head`], then a `u64` for the token of each file. It is sealed, and preserved last: a session
//! without it carries no handover.

use zerocopy::little_endian::{U32, U64};

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file.
pub const COMPAT: Compat<'static> = Compat::new("kho-session", 1);

/// First bytes of the root record.
pub const MAGIC: [u8; 8] = *b"\x7fKHOSES\n";

/// The token of the root record, in every version.
pub const ROOT: u64 = u64::MAX;
/// The token of the arena.
pub const ARENA: u64 = u64::MAX - 1;
/// Tokens from here on are those of the transport: no file of a handover has one.
pub const RESERVED: u64 = u64::MAX - 15;

/// A root record names at most so many files; Linux takes fewer.
pub const MAX_FILES: u64 = 1 << 20;

wire! {
    /// Start of the root record; [`Head::files`] tokens follow. The first 16 bytes stay where they are in all versions.
    pub struct Head: 48 align 8 of Some(COMPAT) => {
        /// [`MAGIC`].
        0 magic: [u8; 8],
        /// The version of [`COMPAT`].
        8 version: U32,
        /// Zero.
        12 reserved: U32,
        /// The nonce of the arena.
        16 nonce: U64,
        /// CLOCK_REALTIME when the handover was preserved, in nanoseconds.
        24 stamp: U64,
        /// The token of the arena: [`ARENA`].
        32 arena: U64,
        /// How many files, at most [`MAX_FILES`].
        40 files: U64,
    }
}
