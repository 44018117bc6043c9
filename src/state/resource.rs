//! What a state can have besides bytes: blocks of pages, areas, descriptors.

use alloc::vec::Vec;
use core::ops::Deref;

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::error::{Error, Result};
use super::restore::Restorer;
use super::save::Saver;
use super::shape::Type;
use super::value::Value;
use crate::abi::state::{AREA, FOLIO, Resource, kind};
use crate::abi::vmalloc::Descriptor;
use crate::mem::{Folio, Frame, Order, Pfn, PhysAddr};
use crate::report::{Code, Fault};

/// Bulk data that are kept.
#[derive(Debug)]
pub(crate) enum Held {
    Bytes(Vec<u8>),
    #[cfg(feature = "std")]
    /// So many bytes of it.
    Mapping(crate::mem::Mapping, usize),
}

impl Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Held::Bytes(bytes) => bytes,
            #[cfg(feature = "std")]
            Held::Mapping(mapping, len) => mapping.get(..*len).unwrap_or_default(),
        }
    }
}

/// The block that a resource names.
pub(crate) fn folio_of(resource: &Resource, page_shift: u32) -> core::result::Result<Folio, Fault> {
    let fault = || Fault::new(Code::StateResource).item("folio").found(format_args!("{:#x}", resource.a));
    let order = u32::try_from(resource.b.get()).ok().and_then(Order::new);
    let order = order.ok_or_else(|| {
        let fault = Fault::new(Code::TooLarge).item("order").found(resource.b);
        fault.expected(format_args!("at most {}", Order::MAX))
    })?;
    let at = PhysAddr::new(resource.a.get());
    let page = at.get() >> page_shift;
    let aligned = page << page_shift == at.get();
    Pfn::new(page)
        .filter(|_| aligned && resource.c == 0)
        .and_then(|pfn| Folio::new(pfn, order))
        .ok_or_else(|| fault().expected(format_args!("the address of a block of order {order}")))
}

/// The words of a resource that is an area.
pub(crate) fn descriptor_of(resource: &Resource) -> Descriptor {
    let mut bytes = [0; size_of::<Descriptor>()];
    let words = resource.as_bytes().get(8..).unwrap_or_default();
    for (to, from) in bytes.iter_mut().zip(words) {
        *to = *from;
    }
    Descriptor::read_from_bytes(&bytes).unwrap_or_else(|_| zerocopy::FromZeros::new_zeroed())
}

/// A block that the user holds: preserved where it is, nothing is copied.
impl Value for Frame {
    const TYPE: Type = Type::Scalar(kind::FOLIO);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        let at = out.sink.folio(self)?;
        let order = u64::from(self.folio().order().get());
        out.resource(Resource { kind: FOLIO.into(), reserved: 0.into(), a: at.into(), b: order.into(), c: 0.into() });
        Ok(())
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        input.resource(FOLIO, |source, number, _| source.folio(number))
    }
}

/// Blocks of one order that the user holds, as one array: a vmalloc area. Nothing is copied; map them again with
/// `Arena::map_contiguous`.
#[derive(Debug, Default)]
pub struct Scattered {
    /// The blocks, in the order of the array.
    pub frames: Vec<Frame>,
    /// Bytes of the array, at most what the blocks hold.
    pub bytes: u64,
}

impl Value for Scattered {
    const TYPE: Type = Type::Tuple(&[u64::TYPE, Type::Option(&Type::Scalar(kind::AREA))]);

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        self.bytes.save(out)?;
        out.present(!self.frames.is_empty());
        let held = match self.frames.first() {
            None => 0,
            Some(first) => {
                let descriptor = out.sink.area(first.folio().order(), &self.frames)?;
                let mut resource =
                    Resource { kind: AREA.into(), reserved: 0.into(), a: 0.into(), b: 0.into(), c: 0.into() };
                let words = resource.as_mut_bytes().iter_mut().skip(8);
                for (to, from) in words.zip(descriptor.as_bytes()) {
                    *to = *from;
                }
                out.resource(resource);
                out.sink.page_size().saturating_mul(descriptor.total_pages.get().into())
            }
        };
        if self.bytes <= held {
            return Ok(());
        }
        let fault = Fault::new(Code::TooLarge).item("bytes").found(self.bytes);
        Err(Error::from(fault.expected(format_args!("at most {held}, what the blocks hold"))))
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        let bytes = u64::restore(input).map_err(|error| error.field("bytes"))?;
        let mut held = 0;
        let mut frames = Vec::new();
        if bool::restore(input)? {
            frames = input.resource(AREA, |source, number, resource| {
                let frames = source.area(number)?;
                held = source.page_size().saturating_mul(descriptor_of(resource).total_pages.get().into());
                Ok(frames)
            })?;
        }
        if bytes <= held {
            return Ok(Scattered { frames, bytes });
        }
        let fault = input.fault(Code::StateResource).item("bytes").found(bytes);
        Err(fault.expected(format_args!("at most {held}, what the blocks hold")).into())
    }
}

#[cfg(feature = "std")]
mod files {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use super::*;
    use crate::abi::state::{DESCRIPTOR, MEMFD};

    macro_rules! files {
        ($($(#[$meta:meta])* $name:ident = $kind:ident;)*) => {$(
            $(#[$meta])*
            #[derive(Debug)]
            pub struct $name(OwnedFd);

            impl From<OwnedFd> for $name {
                fn from(file: OwnedFd) -> Self {
                    $name(file)
                }
            }

            impl From<$name> for OwnedFd {
                fn from(file: $name) -> Self {
                    file.0
                }
            }

            impl AsFd for $name {
                fn as_fd(&self) -> BorrowedFd<'_> {
                    self.0.as_fd()
                }
            }

            impl Value for $name {
                const TYPE: Type = Type::Scalar(kind::$kind);

                fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                    let token = out.sink.file(self.as_fd(), $kind == MEMFD)?;
                    out.resource(Resource {
                        kind: $kind.into(),
                        reserved: 0.into(),
                        a: token.into(),
                        b: 0.into(),
                        c: 0.into(),
                    });
                    Ok(())
                }

                fn restore(input: &mut Restorer<'_>) -> Result<Self> {
                    input.resource($kind, |source, number, _| source.file(number)).map($name)
                }
            }
        )*};
    }

    files! {
        /// A memfd that a state has: the descriptor travels, its contents are not copied. What travels is a duplicate,
        /// and what is restored is one too.
        Memfd = MEMFD;
        /// A descriptor of any [kind](crate::files::Kind) that travels: a socket, an eventfd, a device, a file. The open
        /// file itself travels and is shared, as after `dup`. What each kind is held against on arrival, and what to
        /// heed, is in the [table of kinds](crate::files#kinds).
        FileDescriptor = DESCRIPTOR;
    }
}

#[cfg(feature = "std")]
pub use files::{FileDescriptor, Memfd};
