//! The macro that makes a wire structure, and the trait that all of them have.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::compat::Compat;

/// One field of a wire structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Its type, as this library spells it.
    pub ty: &'static str,
}

/// A wire structure as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Layout {
    /// The name of the structure in this library.
    pub name: &'static str,
    /// The component that the structure belongs to; none where it is negotiated elsewhere (boot protocol, ioctl).
    #[cfg_attr(feature = "serde", serde(skip))]
    pub compat: Option<Compat<'static>>,
    /// Bytes, without padding behind.
    pub size: usize,
    /// How Linux aligns it, in bytes. Reading it needs no alignment.
    pub align: usize,
    /// All fields, in order, without gaps.
    pub fields: &'static [Field],
}

/// Any structure that can be read and written as it stands: its bytes are its value, wherever they are. Derive the
/// traits of `zerocopy` 0.8 (feature `derive`), with fields of `zerocopy::little_endian`, and it is there.
///
/// ```
/// use zerocopy::little_endian::{U32, U64};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
///
/// #[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
/// #[repr(C)]
/// struct Region {
///     guest: U64,
///     pages: U32,
/// }
///
/// fn size<R: kho::abi::Plain>() -> usize {
///     size_of::<R>()
/// }
/// assert_eq!(size::<Region>(), 12);
/// ```
pub trait Plain: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy + 'static {}

impl<T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy + 'static> Plain for T {}

/// A structure of this library's wire formats.
pub trait Wire: Plain {
    /// Size and offsets as data.
    const LAYOUT: &'static Layout;
}

/// Declares wire structures: name, size and alignment, then each field behind its offset.
///
/// Size, alignment and every offset are asserted when the library is compiled; that the fields leave no gap is what
/// `IntoBytes` asserts.
macro_rules! wire {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal align $align:literal of $compat:expr => {
            $($(#[$field_meta:meta])* $offset:literal $field:ident: $ty:ty,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        const _: () = {
            assert!(size_of::<$name>() == $size, concat!("size of ", stringify!($name)));
            assert!(align_of::<$name>() == 1, concat!("alignment of ", stringify!($name)));
            assert!(usize::is_multiple_of($size, $align), concat!("padding behind ", stringify!($name)));
            $(assert!(
                core::mem::offset_of!($name, $field) == $offset,
                concat!("offset of ", stringify!($name), ".", stringify!($field)),
            );)*
        };

        impl $name {
            /// Size and offsets as data.
            pub const LAYOUT: &'static $crate::abi::Layout = &$crate::abi::Layout {
                name: stringify!($name),
                compat: $compat,
                size: $size,
                align: $align,
                fields: &[$($crate::abi::Field {
                    name: stringify!($field),
                    offset: $offset,
                    size: size_of::<$ty>(),
                    ty: stringify!($ty),
                }),*],
            };
        }

        impl $crate::abi::Wire for $name {
            const LAYOUT: &'static $crate::abi::Layout = $name::LAYOUT;
        }
    )*};
}

pub(crate) use wire;
