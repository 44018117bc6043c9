//! Ours: typed state.
//!
//! A node's blob is [`Blob`]: where the image is. The image is metadata and bulk data. The metadata are, in this order
//! and without gaps: [`Header`], [`Use`]s, [`Instance`]s, [`Resource`]s, the shapes (each a length and that many
//! bytes), and the objects (each its type, a length and that many bytes). Numbers without a fixed size are written as in
//! `kho::state`: little-endian, the count of trailing zeros of the first byte says how many bytes follow.

use zerocopy::little_endian::{U32, U64};

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

/// [`Kinds`](self) of types, as shapes have them.
pub mod kind {
    /// One byte, 0 or 1.
    pub const BOOL: u8 = 1;
    /// One byte.
    pub const U8: u8 = 2;
    /// A number.
    pub const U16: u8 = 3;
    /// A number.
    pub const U32: u8 = 4;
    /// A number.
    pub const U64: u8 = 5;
    /// 16 bytes.
    pub const U128: u8 = 6;
    /// One byte.
    pub const I8: u8 = 7;
    /// A number, of which the lowest bit is the sign.
    pub const I16: u8 = 8;
    /// As [`I16`].
    pub const I32: u8 = 9;
    /// As [`I16`].
    pub const I64: u8 = 10;
    /// 16 bytes.
    pub const I128: u8 = 11;
    /// 4 bytes, IEEE 754.
    pub const F32: u8 = 12;
    /// 8 bytes, IEEE 754.
    pub const F64: u8 = 13;
    /// A number, a Unicode scalar value.
    pub const CHAR: u8 = 14;
    /// A length and UTF-8.
    pub const STR: u8 = 15;
    /// So many values, one after the other: a count and a type follow.
    pub const ARRAY: u8 = 20;
    /// A length and values.
    pub const SEQ: u8 = 21;
    /// A length and pairs; no key twice. Two types follow.
    pub const MAP: u8 = 22;
    /// A length and values, none twice.
    pub const SET: u8 = 23;
    /// 0, or 1 and a value.
    pub const OPTION: u8 = 24;
    /// Values of several types: their count and they follow.
    pub const TUPLE: u8 = 25;
    /// A state: the id of its description follows, 4 bytes.
    pub const STATE: u8 = 26;
    /// The number of an object, one that stands before.
    pub const SHARED: u8 = 27;
    /// The number of an object and 1, or 0: 4 bytes.
    pub const LINK: u8 = 28;
    /// Bulk data: their length in bytes, and their offset where that is not zero. An element follows: [`RECORD`] or a
    /// kind of fixed size.
    pub const PLAIN: u8 = 29;
    /// The number of a [resource](super::Resource).
    pub const FOLIO: u8 = 30;
    /// As [`FOLIO`].
    pub const AREA: u8 = 31;
    /// As [`FOLIO`].
    pub const MEMFD: u8 = 32;
    /// As [`FOLIO`].
    pub const DESCRIPTOR: u8 = 33;
    /// An element of [`PLAIN`]: its name and its size in bytes follow.
    pub const RECORD: u8 = 40;
    /// A shape of fields. A value has them one after the other, each in front of which a byte says whether it is there
    /// when it has a condition. Behind them, where the shape has subsections: how many there are, and of each its id and
    /// its length, 4 bytes each, and so many bytes.
    pub const STRUCT: u8 = 50;
    /// A shape of variants. A value has the tag of one, a number, and its fields.
    pub const ENUM: u8 = 51;
}
