//! Bulk data: elements of one size, byte for byte, aligned, and in place where they may stay.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, Range};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::abi::state::kind;
use crate::report::{Code, Fault};
use crate::state::error::Result;
use crate::state::resource::Held;
use crate::state::restore::Restorer;
use crate::state::save::Saver;
use crate::state::shape::{Element, Type};

/// An element of bulk data: its bytes are its value. For a structure of one's own, of fields of
/// `zerocopy::little_endian` or bytes:
///
/// ```
/// use kho::state::{Bulk, Element};
/// use zerocopy::little_endian::U64;
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
///
/// #[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
/// #[repr(C)]
/// struct Event {
///     time: U64,
///     kind: U64,
/// }
/// impl Bulk for Event {
///     const ELEMENT: Element = Element::Record { name: "event", size: size_of::<Event>() };
/// }
/// ```
pub trait Bulk: FromBytes + IntoBytes + KnownLayout + Immutable + Copy + 'static {
    /// What it is.
    const ELEMENT: Element;
}

macro_rules! elements {
    ($($ty:ty = $kind:ident),*) => {$(
        impl Bulk for $ty {
            const ELEMENT: Element = Element::Scalar(kind::$kind);
        }
    )*};
}

elements!(u8 = U8, i8 = I8);
// Their bytes are their value where the machine is little-endian, as every machine that Linux hands over on.
#[cfg(target_endian = "little")]
elements!(
    u16 = U16,
    u32 = U32,
    u64 = U64,
    u128 = U128,
    i16 = I16,
    i32 = I32,
    i64 = I64,
    i128 = I128,
    f32 = F32,
    f64 = F64
);

mod wire {
    use zerocopy::little_endian::{F32, F64, I16, I32, I64, I128, U16, U32, U64, U128};

    use super::{Bulk, Element, kind};

    elements!(
        U16 = U16,
        U32 = U32,
        U64 = U64,
        U128 = U128,
        I16 = I16,
        I32 = I32,
        I64 = I64,
        I128 = I128,
        F32 = F32,
        F64 = F64
    );
}

/// A field of bulk data, with `#[state(plain)]`: a vector, a boxed slice or an array of [elements](Bulk), or
/// [`InPlace`].
pub trait PlainField: Sized {
    /// Its type on the wire.
    const TYPE: Type;

    /// Writes it.
    ///
    /// # Errors
    /// When there is no room for it.
    fn save(&self, out: &mut Saver<'_>) -> Result<()>;

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with its length, or its place.
    fn restore(input: &mut Restorer<'_>) -> Result<Self>;
}

/// Elements from bytes, as many as there are, wherever they are.
pub(crate) fn copied<T: Bulk>(bytes: &[u8]) -> Vec<T> {
    if let Ok(elements) = <[T]>::ref_from_bytes(bytes) {
        return elements.to_vec();
    }
    let chunks = bytes.chunks_exact(size_of::<T>());
    chunks.filter_map(|chunk| T::read_from_bytes(chunk).ok()).collect()
}

impl<T: Bulk> PlainField for Vec<T> {
    const TYPE: Type = Type::Plain(T::ELEMENT);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.bulk(self.as_bytes())
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        input.bulk()
    }
}

impl<T: Bulk> PlainField for Box<[T]> {
    const TYPE: Type = Type::Plain(T::ELEMENT);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.bulk(self.as_bytes())
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        input.bulk().map(Vec::into_boxed_slice)
    }
}

impl<T: Bulk, const N: usize> PlainField for [T; N] {
    const TYPE: Type = Type::Plain(T::ELEMENT);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.bulk(self.as_bytes())
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let at = input.offset();
        let (_, range) = input.bulk_in_place(size_of::<T>())?;
        let bytes = input.lent(range);
        let found = bytes.len().checked_div(size_of::<T>()).unwrap_or(0);
        let mut array = <[T; N]>::new_zeroed();
        if found == N {
            for (to, from) in array.as_mut_bytes().iter_mut().zip(bytes) {
                *to = *from;
            }
            return Ok(array);
        }
        let fault = Fault::new(Code::StateLength).offset(at).found(format_args!("{found} elements"));
        Err(fault.expected(N).into())
    }
}

/// Bulk data that stay where they were handed over: nothing is copied, the elements are read there.
///
/// From bytes that are only lent, or that do not lie as the elements must, a copy is made.
#[derive(Clone)]
pub struct InPlace<T> {
    place: Place<T>,
}

#[derive(Clone)]
enum Place<T> {
    Held(Arc<Held>, Range<usize>),
    Own(Arc<[T]>),
}

impl<T: Bulk> InPlace<T> {
    /// Whether the elements had to be copied.
    #[must_use]
    pub const fn is_copy(&self) -> bool {
        matches!(self.place, Place::Own(_))
    }
}

impl<T: Bulk> From<Vec<T>> for InPlace<T> {
    fn from(elements: Vec<T>) -> Self {
        InPlace { place: Place::Own(elements.into()) }
    }
}

impl<T: Bulk> Deref for InPlace<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.place {
            Place::Own(elements) => elements,
            Place::Held(held, range) => {
                let bytes = held.get(range.clone()).unwrap_or_default();
                // It was tried when it was made, and nothing moves.
                <[T]>::ref_from_bytes(bytes).unwrap_or_default()
            }
        }
    }
}

impl<T: Bulk + fmt::Debug> fmt::Debug for InPlace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Bulk> PlainField for InPlace<T> {
    const TYPE: Type = Type::Plain(T::ELEMENT);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.bulk((**self).as_bytes())
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let (held, range) = input.bulk_in_place(size_of::<T>())?;
        if let Some(held) = held
            && held.get(range.clone()).is_some_and(|bytes| <[T]>::ref_from_bytes(bytes).is_ok())
        {
            return Ok(InPlace { place: Place::Held(held, range) });
        }
        Ok(copied(input.lent(range)).into())
    }
}
