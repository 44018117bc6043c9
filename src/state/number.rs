//! Numbers without a fixed size.
//!
//! The count of trailing zeros of the first byte says how many bytes follow; above them and a 1 stands the number,
//! little-endian. So 7 bits take one byte, 56 bits eight, and everything else a zero byte and eight more: never longer
//! than LEB128, and read with one load. Each number has one form, the shortest.

use crate::num::{bits_of, index_of, signed_of, u64_of};
use crate::out::Out;

/// The longest form.
pub(crate) const MOST: usize = 9;

/// Bytes of the form, and the form itself as far as eight bytes go.
pub(crate) const fn form(number: u64) -> (u64, u32) {
    let bits = 64_u32.saturating_sub((number | 1).leading_zeros());
    let bytes = bits.div_ceil(7);
    if bytes > 8 { (number, 9) } else { ((number << 1 | 1) << bytes.saturating_sub(1), bytes) }
}

/// Bytes of the form.
pub(crate) const fn len(number: u64) -> usize {
    index_of(form(number).1)
}

/// Appends the form.
pub(crate) fn push(out: &mut alloc::vec::Vec<u8>, number: u64) {
    let (raw, bytes) = form(number);
    if bytes > 8 {
        out.push(0);
        out.extend_from_slice(&raw.to_le_bytes());
    } else {
        let end = out.len().saturating_add(index_of(bytes));
        out.extend_from_slice(&raw.to_le_bytes());
        out.truncate(end);
    }
}

impl<'a> Out<'a> {
    pub(crate) const fn number32(self, number: u32) -> Out<'a> {
        self.number(u64_of(index_of(number)))
    }

    pub(crate) const fn number(mut self, number: u64) -> Out<'a> {
        let (raw, bytes) = form(number);
        let mut left = bytes;
        if bytes > 8 {
            self = self.byte(0);
            left = 8;
        }
        let mut all: &[u8] = &raw.to_le_bytes();
        while let ([byte, rest @ ..], 1..) = (all, left) {
            self = self.byte(*byte);
            left = left.saturating_sub(1);
            all = rest;
        }
        self
    }
}

/// Why there is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The bytes end before it does.
    Short,
    /// It has a shorter form.
    Long,
}

/// Reads a number; what is behind it.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Result<(u64, &[u8]), Broken> {
    match bytes {
        [first, rest @ ..] if first & 1 == 1 => Ok((u64::from(first >> 1), rest)),
        _ => read_long(bytes),
    }
}

#[inline]
fn read_long(bytes: &[u8]) -> Result<(u64, &[u8]), Broken> {
    let Some(head) = bytes.first_chunk::<8>() else { return read_at_end(bytes) };
    let raw = u64::from_le_bytes(*head);
    let zeros = raw.trailing_zeros();
    if zeros >= 8 {
        return read_nine(bytes);
    }
    // 2 to 8 bytes of 8 bits, of which zeros + 1 are the mark.
    let unused = 56_u32.saturating_sub(zeros.saturating_mul(8));
    let number = (raw << unused) >> unused >> zeros >> 1;
    if number >> zeros.saturating_mul(7) == 0 {
        return Err(Broken::Long);
    }
    let rest = bytes.get(index_of(zeros).saturating_add(1)..).ok_or(Broken::Short)?;
    Ok((number, rest))
}

#[cold]
fn read_nine(bytes: &[u8]) -> Result<(u64, &[u8]), Broken> {
    let (raw, rest) = bytes.get(1..).and_then(<[u8]>::split_first_chunk::<8>).ok_or(Broken::Short)?;
    let number = u64::from_le_bytes(*raw);
    if number >> 56 == 0 { Err(Broken::Long) } else { Ok((number, rest)) }
}

/// The last bytes, padded.
#[cold]
fn read_at_end(bytes: &[u8]) -> Result<(u64, &[u8]), Broken> {
    let first = bytes.first().ok_or(Broken::Short)?;
    let len = index_of(first.trailing_zeros()).saturating_add(1);
    let rest = bytes.get(len..).ok_or(Broken::Short)?;
    let mut padded = [0; MOST];
    for (to, from) in padded.iter_mut().zip(bytes) {
        *to = *from;
    }
    let (number, _) = read_long(&padded)?;
    Ok((number, rest))
}

/// A signed number as one whose size follows its distance from zero.
#[inline]
pub(crate) const fn zigzag(number: i64) -> u64 {
    bits_of(number << 1 ^ (number >> 63))
}

/// The opposite of [`zigzag`].
#[inline]
pub(crate) const fn unzigzag(number: u64) -> i64 {
    signed_of(number >> 1) ^ signed_of(number & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn every_length_has_one_form_and_is_read_back() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]);
        for number in edges {
            let mut bytes = Vec::new();
            push(&mut bytes, number);
            assert_eq!(bytes.len(), form(number).1 as usize, "{number:#x}");
            let leb = ((64 - (number | 1).leading_zeros()).div_ceil(7)) as usize;
            assert!(bytes.len() <= leb, "{number:#x}: never longer than LEB128");
            assert_eq!(read(&bytes), Ok((number, &[][..])), "{number:#x}");
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Err(Broken::Short), "{number:#x} cut at {cut}");
            }
            let mut room = [0xff; 9];
            let (_, len) = (Out::new(&mut room).number(number), form(number).1 as usize);
            assert_eq!(&room[..len], &bytes[..], "{number:#x}: the compiler writes the same");
            bytes.extend_from_slice(&[0xaa; 9]);
            assert_eq!(read(&bytes), Ok((number, &[0xaa; 9][..])), "{number:#x} with bytes behind it");
        }
        for number in [0, 1, -1, 63, -64, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(number)), number);
        }
    }

    #[test]
    fn a_longer_form_is_refused() {
        for (long, _) in [(&[0b0000_0010, 0][..], 2), (&[0b0000_0100, 0, 0], 3), (&[0, 1, 0, 0, 0, 0, 0, 0, 0], 9)] {
            assert_eq!(read(long), Err(Broken::Long), "{long:?}");
            assert_eq!(read(&[long, &[9; 9]].concat()), Err(Broken::Long), "{long:?} with bytes behind it");
        }
    }
}
