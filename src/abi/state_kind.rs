//! Ours: the kinds of types that a [state](super::state) is made of, as its description has them.
//!
//! There may be more one day, under a new version of the format; none changes its meaning.

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
/// The number of a [resource](super::state::Resource).
pub const FOLIO: u8 = 30;
/// As [`FOLIO`].
pub const AREA: u8 = 31;
/// As [`FOLIO`].
pub const MEMFD: u8 = 32;
/// As [`FOLIO`].
pub const DESCRIPTOR: u8 = 33;
/// An element of [`PLAIN`]: its name and its size in bytes follow.
pub const RECORD: u8 = 40;
/// A shape of fields. A value has them one after the other, each in front of which a byte says whether it is there when it
/// has a condition. Behind them, where the shape has subsections: how many there are, and of each its id and its length,
/// 4 bytes each, and so many bytes.
pub const STRUCT: u8 = 50;
/// A shape of variants. A value has the tag of one, a number, and its fields.
pub const ENUM: u8 = 51;
