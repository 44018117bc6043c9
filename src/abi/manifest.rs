//! Ours: what a program reads and writes, in an ELF note; and the table of versions that was proposed for kernels.
//!
//! The note's name is [`NAME`], its type [`TYPE`]. Its description is a [`Header`], then [`Entry`]s, each followed by the
//! name of its node and its composite, and zeros up to a multiple of 4.

use zerocopy::little_endian::{U16, U32};

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file. The number is also [`Header::version`].
pub const COMPAT: Compat<'static> = Compat::new("kho-manifest", 1);

/// The section that has the note.
pub const SECTION: &str = ".note.kho";
/// Name of the note, with its zero.
pub const NAME: [u8; 4] = *b"kho\0";
/// Type of the note.
pub const TYPE: u32 = 1;

/// [`Entry::kind`]: a node.
pub const KIND_NODE: u16 = 1;
/// [`Entry::kind`]: a layout that nodes use.
pub const KIND_LAYOUT: u16 = 2;
/// [`Entry::kind`]: a state of a node that has states, whose entry stands before. Its second text is the description,
/// as [`Shape::bytes`](crate::state::Shape::bytes) has it.
pub const KIND_STATE: u16 = 3;
/// [`Entry::flags`]: the program reads it.
pub const READS: u16 = 1;
/// [`Entry::flags`]: the program can write it.
pub const WRITES: u16 = 2;
/// [`Entry::flags`]: a handover without it is not made.
pub const REQUIRED: u16 = 4;

/// The section that was proposed for kernels: the versions of the handlers of files that one has.
pub const VERSIONS_SECTION: &str = ".liveupdate_versions";
/// [`VersionsHeader::magic`]: "LVUP".
pub const VERSIONS_MAGIC: u32 = 0x4c56_5550;
/// [`VersionsHeader::version`].
pub const VERSIONS_VERSION: u32 = 1;
/// Bytes of each string behind the header, filled up with zeros.
pub const VERSIONS_ENTRY: usize = 48;

wire! {
    /// What every ELF note begins with; its name follows, then its description.
    pub struct NoteHeader: 12 align 4 of Some(COMPAT) => {
        /// Bytes of the name, with its zero.
        0 name_size: U32,
        /// Bytes of the description.
        4 desc_size: U32,
        /// [`TYPE`].
        8 kind: U32,
    }

    /// Start of the description.
    pub struct Header: 12 align 4 of Some(COMPAT) => {
        /// Version of this note.
        0 version: U32,
        /// Bytes of this header: the entries begin behind it.
        4 size: U32,
        /// How many entries.
        8 entries: U32,
    }

    /// Start of an entry.
    pub struct Entry: 16 align 4 of Some(COMPAT) => {
        /// Bytes of the entry, with this header, both texts and the zeros behind them: what follows is the next one.
        0 size: U32,
        /// [`KIND_NODE`], [`KIND_LAYOUT`], [`KIND_STATE`]; others are passed over.
        4 kind: U16,
        /// [`READS`], [`WRITES`], [`REQUIRED`]; others mean nothing.
        6 flags: U16,
        /// Number of the oldest version of the composite's owner, or of the state.
        8 oldest: U32,
        /// Bytes of the node's name.
        12 node_size: U16,
        /// Bytes of the composite, `my-cache-v2;vmalloc-v1`, in its newest version; or of the description.
        14 made_of_size: U16,
    }

    /// Start of the section of versions; strings of [`VERSIONS_ENTRY`] bytes fill the rest of it.
    pub struct VersionsHeader: 8 align 4 of None => {
        /// [`VERSIONS_MAGIC`], native.
        0 magic: U32,
        /// [`VERSIONS_VERSION`].
        4 version: U32,
    }
}
