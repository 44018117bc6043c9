//! Lossless conversions between the widths that a 64-bit machine has, in one place.
//!
//! The rest of the library denies `as`: a conversion that could lose bits must be a `try_from` that somebody answers
//! for. These cannot, because `lib.rs` refuses to compile for anything but 64-bit pointers.
#![allow(clippy::as_conversions)]

/// A length or an index as the wire has it.
pub(crate) const fn u64_of(n: usize) -> u64 {
    n as u64
}

/// A count from the wire as an index of this machine.
pub(crate) const fn usize_of(n: u64) -> usize {
    n as usize
}

/// The low bits of a length, for who has checked that there are no others.
pub(crate) const fn low_u16(n: usize) -> u16 {
    n as u16
}

/// As [`low_u16`].
pub(crate) const fn low_u8(n: usize) -> u8 {
    n as u8
}

/// As [`low_u16`].
pub(crate) const fn low_u32(n: usize) -> u32 {
    n as u32
}

/// A small count as an index.
pub(crate) const fn index_of(n: u32) -> usize {
    n as usize
}

/// The bits of a number, however they are read.
pub(crate) const fn bits_of(n: i64) -> u64 {
    n as u64
}

/// As [`bits_of`].
pub(crate) const fn signed_of(n: u64) -> i64 {
    n as i64
}
