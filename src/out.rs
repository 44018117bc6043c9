//! Bytes that the compiler writes: tables of constants as they stand in a file.

use crate::num::low_u8;

/// Counts bytes, and writes them where there is room: once to know how long a table is, once to fill it.
pub(crate) struct Out<'a> {
    rest: &'a mut [u8],
    pub(crate) len: usize,
}

impl<'a> Out<'a> {
    /// Fills these bytes.
    pub(crate) const fn new(rest: &'a mut [u8]) -> Out<'a> {
        Out { rest, len: 0 }
    }

    /// Counts only.
    pub(crate) const fn counting() -> Out<'static> {
        Out::counting_from(0)
    }

    /// Counts only, what stands behind so many bytes.
    pub(crate) const fn counting_from(len: usize) -> Out<'static> {
        Out { rest: &mut [], len }
    }

    /// Whether so many bytes were wanted, and there was room for exactly these.
    pub(crate) const fn is_full(&self, len: usize) -> bool {
        self.rest.is_empty() && self.len == len
    }

    pub(crate) const fn byte(self, byte: u8) -> Out<'a> {
        let len = self.len.saturating_add(1);
        match self.rest {
            [here, rest @ ..] => {
                *here = byte;
                Out { rest, len }
            }
            [] => Out { rest: &mut [], len },
        }
    }

    pub(crate) const fn bytes(mut self, mut bytes: &[u8]) -> Out<'a> {
        while let [byte, rest @ ..] = bytes {
            self = self.byte(*byte);
            bytes = rest;
        }
        self
    }

    pub(crate) const fn u16(self, number: u16) -> Out<'a> {
        self.bytes(&number.to_le_bytes())
    }

    pub(crate) const fn u32(self, number: u32) -> Out<'a> {
        self.bytes(&number.to_le_bytes())
    }

    /// A short text behind its length.
    pub(crate) const fn text(self, text: &str) -> Out<'a> {
        assert!(text.len() <= 0xff, "a name has at most 255 bytes");
        self.byte(low_u8(text.len())).bytes(text.as_bytes())
    }

    /// Zeros up to a multiple.
    pub(crate) const fn pad(mut self, multiple: usize) -> Out<'a> {
        while !self.len.is_multiple_of(multiple) {
            self = self.byte(0);
        }
        self
    }
}
