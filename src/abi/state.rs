//! Ours: typed state.
//!
//! A node's blob is [`Blob`]: where the image is. The image is metadata and bulk data. The metadata are, in this order
//! and without gaps: [`Header`], [`Use`]s, [`Instance`]s, [`Resource`]s, the shapes (each a length and that many
//! bytes), and the objects (each its type, a length and that many bytes). Numbers without a fixed size are written as in
//! `kho::state`: little-endian, the count of trailing zeros of the first byte says how many bytes follow.

use zerocopy::little_endian::{U32, U64};

pub use super::state_kind as kind;
use super::vmalloc::Descriptor;
use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file. It uses `vmalloc-v1`. The number is also [`Header::version`].
pub const COMPAT: Compat<'static> = Compat::new("kho-state", 1);

/// Name of the node that has the states, where its owner does not choose another one.
pub const NODE: &str = "state";

/// [`Header::magic`]: "KHOSTATE".
pub const MAGIC: u64 = 0x4554_4154_534f_484b;

/// [`Header::flags`]: [`Header::bulk_crc`] is there.
pub const BULK_CRC: u32 = 1;

/// Bulk data begin at multiples of this.
pub const BULK_ALIGN: u64 = 64;

/// [`Resource::kind`]: a block of pages. `a` is its address, `b` the log2 of its pages.
pub const FOLIO: u32 = 1;
/// [`Resource::kind`]: blocks of one order as one array. The words are its [`Descriptor`].
pub const AREA: u32 = 2;
/// [`Resource::kind`]: a memfd. `a` is its token in the node of files.
pub const MEMFD: u32 = 3;
/// [`Resource::kind`]: a descriptor of any kind. `a` is its token in the node of files.
pub const DESCRIPTOR: u32 = 4;

wire! {
    /// The blob of a node: the image, in scattered blocks.
    pub struct Blob: 48 align 8 of Some(COMPAT) => {
        /// Bytes of metadata.
        0 meta: U64,
        /// Bytes of bulk data.
        8 bulk: U64,
        /// The blocks of the metadata.
        16 meta_blocks: Descriptor,
        /// The blocks of the bulk data; unset when there are none.
        32 bulk_blocks: Descriptor,
    }

    /// Start of the metadata.
    pub struct Header: 64 align 8 of Some(COMPAT) => {
        /// [`MAGIC`].
        0 magic: U64,
        /// Version of this format.
        8 version: U32,
        /// CRC-32 (IEEE) of the metadata, this field taken as zero.
        12 crc: U32,
        /// Bytes of metadata, this header included.
        16 meta: U64,
        /// Bytes of bulk data.
        24 bulk: U64,
        /// [`BULK_CRC`].
        32 flags: U32,
        /// CRC-32 of the bulk data; 0 where it was not asked for.
        36 bulk_crc: U32,
        /// How many [`Use`]s, and as many shapes.
        40 uses: U32,
        /// How many [`Instance`]s.
        44 instances: U32,
        /// How many [`Resource`]s.
        48 resources: U32,
        /// How many objects.
        52 objects: U32,
        /// Zero.
        56 reserved: U64,
    }

    /// In which version a description was written. They ascend by id, and the shapes stand in the same order.
    pub struct Use: 8 align 4 of Some(COMPAT) => {
        /// Id of the description.
        0 id: U32,
        /// The version.
        4 version: U32,
    }

    /// An object that can be asked for. They ascend by description and number.
    pub struct Instance: 16 align 8 of Some(COMPAT) => {
        /// The number that its owner gave it.
        0 number: U64,
        /// Id of its description.
        8 id: U32,
        /// Which object.
        12 object: U32,
    }

    /// What travels beside the bytes.
    pub struct Resource: 32 align 8 of Some(COMPAT) => {
        /// [`FOLIO`], [`AREA`], [`MEMFD`], [`DESCRIPTOR`].
        0 kind: U32,
        /// Zero.
        4 reserved: U32,
        /// First word.
        8 a: U64,
        /// Second word.
        16 b: U64,
        /// Third word.
        24 c: U64,
    }
}
