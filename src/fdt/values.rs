//! Values that are lists.

use super::be64;
use super::read::{Property, show};
use crate::mem::{PhysAddr, PhysRange};
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// A list of strings: [`Property::strings`].
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    /// What is left, without the NUL at the end.
    pub(super) rest: Option<&'a str>,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        match rest.split_once('\0') {
            Some((first, rest)) => {
                self.rest = Some(rest);
                Some(first)
            }
            None => self.rest.take(),
        }
    }
}

/// Ranges of memory: [`Property::mem_ranges`].
#[derive(Clone, Debug)]
pub struct MemRanges<'a> {
    pub(super) property: Property<'a>,
    pub(super) index: usize,
}

impl Iterator for MemRanges<'_> {
    type Item = Result<PhysRange, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let (pairs, rest) = self.property.value().as_chunks::<16>();
        if !rest.is_empty() {
            if self.index != 0 {
                return None;
            }
            self.index = 1;
            return Some(Err(self
                .property
                .fault(Code::PropertySize)
                .found(format_args!("{} bytes", self.property.value().len()))
                .expected("a multiple of 16 bytes")));
        }
        let pair = pairs.get(self.index)?;
        let at = self.property.offset().wrapping_add(u64_of(self.index).wrapping_mul(16));
        self.index = self.index.wrapping_add(1);
        let (start, size) = (be64(pair, 0)?, be64(pair, 8)?);
        Some(PhysRange::new(PhysAddr::new(start), size).ok_or_else(|| {
            Fault::new(Code::TooLarge)
                .offset(at)
                .item(show(self.property.name()))
                .found(format_args!("{start:#x} and {size:#x} bytes"))
                .expected("a range within 64 bits")
        }))
    }
}
