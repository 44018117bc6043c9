//! Values without parts.

use alloc::string::ToString as _;
use alloc::vec::Vec;

use super::{Result, Walk};
use crate::abi::state::{AREA, BULK_ALIGN, DESCRIPTOR, FOLIO, MEMFD, kind};
use crate::report::{Code, Fault};
use crate::state::number::unzigzag;
use crate::state::shown::{Float, Shown};

impl Walk<'_> {
    pub(super) fn scalar(&mut self, of: u8) -> Result<Shown> {
        Ok(match of {
            kind::BOOL => Shown::Bool(self.flag()?),
            kind::U8 => Shown::Number(self.array().map(|[byte]| byte)?.into()),
            kind::U16 => Shown::Number(self.at_most(u16::MAX.into())?),
            kind::U32 => Shown::Number(self.at_most(u32::MAX.into())?),
            kind::U64 => Shown::Number(self.number()?),
            kind::U128 => Shown::Big(u128::from_le_bytes(self.array()?)),
            kind::I8 => signed(i8::from_le_bytes(self.array()?).into()),
            kind::I16 => signed(self.between(i16::MIN.into(), i16::MAX.into())?),
            kind::I32 => signed(self.between(i32::MIN.into(), i32::MAX.into())?),
            kind::I64 => signed(unzigzag(self.number()?)),
            kind::I128 => match i128::from_le_bytes(self.array()?) {
                number if number < 0 => Shown::BigNegative(number),
                number => Shown::Big(number.unsigned_abs()),
            },
            kind::F32 => {
                let number = f32::from_le_bytes(self.array()?);
                Shown::Float(Float(if self.keep { shortest(number) } else { 0.0 }))
            }
            kind::F64 => Shown::Float(Float(f64::from_le_bytes(self.array()?))),
            kind::CHAR => {
                let fault = self.fault(Code::StateTag);
                let number = self.at_most(u32::MAX.into())?;
                let character = u32::try_from(number).ok().and_then(char::from_u32);
                let character =
                    character.ok_or_else(|| fault.found(format_args!("{number:#x}")).expected("a character"))?;
                if self.keep { Shown::Text(character.to_string()) } else { Shown::None }
            }
            kind::STR => {
                let len = self.len()?;
                let fault = self.fault(Code::Text);
                let text = core::str::from_utf8(self.bytes(len)?).map_err(|error| {
                    fault
                        .found(format_args!("{len} bytes, of which that at {} is none", error.valid_up_to()))
                        .expected("UTF-8")
                })?;
                if self.keep { Shown::Text(text.to_string()) } else { Shown::None }
            }
            kind::FOLIO | kind::AREA | kind::MEMFD | kind::DESCRIPTOR => self.resource(of)?,
            other => return Err(self.fault(Code::StateSchema).found(other).expected("a type that this reader knows")),
        })
    }

    pub(super) fn bulk(&mut self, unit: u64) -> Result<Shown> {
        let at = self.offset();
        let len = self.number()?;
        if len == 0 {
            return Ok(Shown::Bulk { bytes: 0, offset: 0, first: Vec::new() });
        }
        let offset = self.number()?;
        let fault = || {
            let fault = Fault::new(Code::StateLength).offset(at);
            fault.found(format_args!("{len} bytes at {offset:#x} of the bulk data"))
        };
        let size = self.image.bulk_len();
        let inside = offset.checked_add(len).is_some_and(|end| end <= size) && offset.is_multiple_of(BULK_ALIGN);
        if !inside {
            return Err(fault().expected(format_args!("at most {size}, at multiples of {BULK_ALIGN}")));
        }
        if !len.is_multiple_of(unit) {
            return Err(fault().expected(format_args!("a multiple of {unit}")));
        }
        let end = offset.saturating_add(len);
        // Those before it end before it, when the last of them does.
        if self.bulk.range(..end).next_back().is_some_and(|(_, before)| *before > offset) {
            return Err(fault().expected("bytes that no other value has"));
        }
        self.bulk.insert(offset, end);
        Ok(Shown::Bulk { bytes: len, offset, first: Vec::new() })
    }

    pub(super) fn resource(&mut self, of: u8) -> Result<Shown> {
        let at = self.offset();
        let number = self.number()?;
        let fault = || Fault::new(Code::StateResource).offset(at).found(format_args!("resource {number}"));
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let resource = self
            .image
            .resources()
            .get(index)
            .ok_or_else(|| fault().expected(format_args!("one of {}", self.image.resources().len())))?;
        let wanted = match of {
            kind::FOLIO => FOLIO,
            kind::AREA => AREA,
            kind::MEMFD => MEMFD,
            _ => DESCRIPTOR,
        };
        if resource.kind != wanted {
            let fault = fault().found(format_args!("resource {number} of kind {}", resource.kind));
            return Err(fault.expected(format_args!("kind {wanted}")));
        }
        match self.taken.get_mut(index) {
            Some(taken) if !*taken => *taken = true,
            _ => return Err(fault().expected("one that no other value has")),
        }
        Ok(Shown::Resource(*resource))
    }

    fn at_most(&mut self, most: u64) -> Result<u64> {
        let fault = self.fault(Code::StateNumber);
        match self.number()? {
            number if number <= most => Ok(number),
            number => Err(fault.found(number).expected(format_args!("at most {most}"))),
        }
    }

    fn between(&mut self, least: i64, most: i64) -> Result<i64> {
        let fault = self.fault(Code::StateNumber);
        match unzigzag(self.number()?) {
            number if (least..=most).contains(&number) => Ok(number),
            number => Err(fault.found(number).expected(format_args!("{least} to {most}"))),
        }
    }
}

/// The number that is written as that one.
fn shortest(number: f32) -> f64 {
    let text = number.to_string();
    text.parse().unwrap_or_else(|_| number.into())
}

fn signed(number: i64) -> Shown {
    u64::try_from(number).map_or(Shown::Negative(number), Shown::Number)
}
