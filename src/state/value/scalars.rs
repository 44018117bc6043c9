//! Numbers, characters, texts.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::Value;
use crate::abi::state::kind;
use crate::report::Code;
use crate::state::error::Result;
use crate::state::number::{len, unzigzag, zigzag};
use crate::state::restore::Restorer;
use crate::state::save::Saver;
use crate::state::shape::Type;

/// Numbers of one byte: as they are, and many at once.
impl Value for u8 {
    const TYPE: Type = Type::Scalar(kind::U8);

    #[inline]
    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.byte(*self);
        Ok(())
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        input.array().map(|[byte]| byte)
    }

    #[inline]
    fn save_all(values: &[Self], out: &mut Saver<'_>) -> Result<()> {
        out.bytes(values);
        Ok(())
    }

    #[inline]
    fn restore_all(count: usize, input: &mut Restorer<'_>) -> Result<Vec<Self>> {
        input.bytes(count).map(<[u8]>::to_vec)
    }

    #[inline]
    fn restore_array<const N: usize>(input: &mut Restorer<'_>) -> Result<[Self; N]> {
        input.array()
    }
}

/// Numbers as so many bytes.
macro_rules! fixed {
    ($($ty:ty = $kind:ident),*) => {$(
        impl Value for $ty {
            const TYPE: Type = Type::Scalar(kind::$kind);

            #[inline]
            fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                out.bytes(&self.to_le_bytes());
                Ok(())
            }

            #[inline]
            fn restore(input: &mut Restorer<'_>) -> Result<Self> {
                input.array().map(Self::from_le_bytes)
            }
        }
    )*};
}

fixed!(i8 = I8, u128 = U128, i128 = I128, f32 = F32, f64 = F64);

/// Arrays of numbers, filled in place.
macro_rules! restore_array {
    () => {
        #[inline]
        fn restore_array<const N: usize>(input: &mut Restorer<'_>) -> Result<[Self; N]> {
            let mut values = [0; N];
            for (index, value) in values.iter_mut().enumerate() {
                *value = Self::restore(input).map_err(|error| error.index(index))?;
            }
            Ok(values)
        }
    };
}

/// Numbers in as few bytes as they need.
macro_rules! numbers {
    ($($ty:ident as $wide:ty = $kind:ident by $to:expr, $from:expr;)*) => {$(
        impl Value for $ty {
            const TYPE: Type = Type::Scalar(kind::$kind);

            #[inline]
            fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                let wide = <$wide>::try_from(*self).map_err(|_| crate::state::Error::new(Code::TooLarge))?;
                out.number($to(wide));
                Ok(())
            }

            #[inline]
            fn restore(input: &mut Restorer<'_>) -> Result<Self> {
                let form = input.number()?;
                let number: $wide = $from(form);
                Self::try_from(number).map_err(|_| out_of_range(input, form, number, stringify!($ty)))
            }

            restore_array!();
        }
    )*};
}

numbers! {
    u16 as u64 = U16 by core::convert::identity, core::convert::identity;
    u32 as u64 = U32 by core::convert::identity, core::convert::identity;
    u64 as u64 = U64 by core::convert::identity, core::convert::identity;
    usize as u64 = U64 by core::convert::identity, core::convert::identity;
    i16 as i64 = I16 by zigzag, unzigzag;
    i32 as i64 = I32 by zigzag, unzigzag;
    i64 as i64 = I64 by zigzag, unzigzag;
    isize as i64 = I64 by zigzag, unzigzag;
}

#[cold]
fn out_of_range(input: &Restorer<'_>, form: u64, number: impl core::fmt::Display, ty: &str) -> crate::state::Error {
    input.fault_in(Code::StateNumber, len(form)).found(number).expected(ty).into()
}

impl Value for bool {
    const TYPE: Type = Type::Scalar(kind::BOOL);

    #[inline]
    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.byte((*self).into());
        Ok(())
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        match u8::restore(input)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(input.fault_in(Code::StateTag, 1).found(other).expected("0 or 1").into()),
        }
    }
}

impl Value for char {
    const TYPE: Type = Type::Scalar(kind::CHAR);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.number(u32::from(*self).into());
        Ok(())
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let number = u32::restore(input)?;
        char::from_u32(number).ok_or_else(|| {
            input
                .fault_in(Code::StateTag, len(number.into()))
                .found(format_args!("{number:#x}"))
                .expected("a character")
                .into()
        })
    }
}

impl Value for String {
    const TYPE: Type = Type::Scalar(kind::STR);

    #[inline]
    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.number(crate::num::u64_of(self.len()));
        out.bytes(self.as_bytes());
        Ok(())
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let len = input.length()?;
        let bytes = input.bytes(len)?;
        match core::str::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(error) => Err(input
                .fault_in(Code::Text, len)
                .found(format_args!("{len} bytes, of which that at {} is none", error.valid_up_to()))
                .expected("UTF-8")
                .into()),
        }
    }
}

impl Value for Duration {
    const TYPE: Type = Type::Tuple(&[u64::TYPE, u32::TYPE]);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        (self.as_secs(), self.subsec_nanos()).save(out)
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let (seconds, nanos) = <(u64, u32)>::restore(input)?;
        if nanos < 1_000_000_000 {
            return Ok(Duration::new(seconds, nanos));
        }
        Err(input
            .fault_in(Code::StateNumber, len(nanos.into()))
            .found(format_args!("{nanos} ns"))
            .expected("less than a second")
            .into())
    }
}
