//! States as bytes, without a handover: for files, sockets and tests.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::error::{Error, Result};
use super::fit;
use super::image::Image;
use super::memo::Memo;
use super::resource::Held;
use super::restore::{Restorer, Source};
use super::save::{Saver, Sink};
use super::value::State;
use super::versions::Versions;
use crate::abi::state::BULK_ALIGN;
use crate::abi::vmalloc::Descriptor;
use crate::mem::{Frame, Order};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Bulk data on the heap; no resources.
#[derive(Default)]
struct Heap {
    bulk: Vec<u8>,
    crc: bool,
}

fn beside<T>() -> core::result::Result<T, Fault> {
    let fault = Fault::new(Code::Refused).found("pages or a descriptor, in a state that is saved as bytes");
    Err(fault.expected("a handover, in which they travel beside the bytes"))
}

impl Sink for Heap {
    fn bulk(&mut self, bytes: &[u8]) -> core::result::Result<u64, Fault> {
        let start = Image::bulk_at(u64_of(self.bulk.len()));
        self.bulk.reserve_exact(usize_of(start).saturating_sub(self.bulk.len()).saturating_add(bytes.len()));
        self.bulk.resize(usize_of(start), 0);
        self.bulk.extend_from_slice(bytes);
        Ok(start)
    }

    fn bulk_total(&self) -> (u64, Option<u32>) {
        (u64_of(self.bulk.len()), self.crc.then(|| crc32fast::hash(&self.bulk)))
    }

    fn page_size(&self) -> u64 {
        4096
    }

    fn folio(&mut self, _: &Frame) -> core::result::Result<u64, Fault> {
        beside()
    }

    fn area(&mut self, _: Order, _: &[Frame]) -> core::result::Result<Descriptor, Fault> {
        beside()
    }

    #[cfg(feature = "std")]
    fn file(&mut self, _: std::os::fd::BorrowedFd<'_>, _: bool) -> core::result::Result<u64, Fault> {
        beside()
    }
}

/// A saved state as two pieces, so that bulk data are copied once.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// The metadata: what it is, and every value that is no bulk data.
    pub meta: Vec<u8>,
    /// The bulk data.
    pub bulk: Vec<u8>,
}

impl Saved {
    /// Saves a state, in the newest version or in those; the bulk data with a checksum when it is asked for.
    ///
    /// # Errors
    /// Those of its values.
    pub fn of<T: State>(state: &T, versions: Option<&Versions>, bulk_crc: bool) -> Result<Saved> {
        let mut heap = Heap { crc: bulk_crc, ..Heap::default() };
        let mut saver = Saver::new(&mut heap, versions);
        saver.instance::<T>(0, None, |out| state.save(out)).map_err(|error| error.field(T::SHAPE.name()))?;
        let meta = saver.finish()?;
        Ok(Saved { meta, bulk: heap.bulk })
    }

    /// Restores the state; [`InPlace`](super::InPlace) data stay where they are.
    ///
    /// # Errors
    /// As [`restore`].
    pub fn restore<T: State>(self) -> Result<T> {
        restore_of(&Image::open(&self.meta)?, &mut Kept(Arc::new(Held::Bytes(self.bulk))))
    }

    /// Both as one piece, as [`restore`] takes it.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        let Saved { mut meta, bulk } = self;
        if !bulk.is_empty() {
            meta.resize(usize_of(Image::bulk_at(u64_of(meta.len()))), 0);
            meta.extend_from_slice(&bulk);
        }
        meta
    }
}

/// Saves a state as bytes, in its newest version, as instance 0.
///
/// # Errors
/// Those of its values; [`Code::Refused`] for pages and descriptors, which only a handover carries.
pub fn save<T: State>(state: &T) -> Result<Vec<u8>> {
    Ok(Saved::of(state, None, false)?.into_bytes())
}

/// As [`save`], in older versions.
///
/// # Errors
/// As [`save`], and [`Code::StateOlder`] for a value that these versions cannot say.
pub fn save_as<T: State>(state: &T, versions: &Versions) -> Result<Vec<u8>> {
    Ok(Saved::of(state, Some(versions), false)?.into_bytes())
}

/// Restores the state that is instance 0 of these bytes.
///
/// # Errors
/// - As [`Image::open`] and [`Image::check_bulk`].
/// - [`Code::VersionOlder`], [`Code::VersionNewer`], [`Code::StateField`], [`Code::StateUnknown`]: saved by a program
///   whose state this one does not read.
/// - [`Code::StateMissing`]: there is no such state.
/// - What is wrong with a value, with its path and its offset.
pub fn restore<T: State>(bytes: &[u8]) -> Result<T> {
    let image = Image::open(bytes)?;
    let start = usize_of(Image::bulk_at(u64_of(image.meta().len())));
    restore_in(&image, bytes.get(start..).unwrap_or_default())
}

/// As [`restore`], of metadata and bulk data in two pieces.
///
/// # Errors
/// As [`restore`].
pub fn restore_from<T: State>(meta: &[u8], bulk: &[u8]) -> Result<T> {
    restore_in(&Image::open(meta)?, bulk)
}

fn restore_in<T: State>(image: &Image<'_>, bulk: &[u8]) -> Result<T> {
    image.check_bulk(bulk)?;
    restore_of(image, &mut Lent(bulk.get(..usize_of(image.bulk_len())).unwrap_or_default()))
}

fn restore_of<T: State>(image: &Image<'_>, source: &mut dyn Source) -> Result<T> {
    let newest = fit::fits_one::<T>(image)?;
    let number = image.instance(T::SHAPE.id(), 0).ok_or_else(|| {
        let fault = Fault::new(Code::StateMissing).item(T::SHAPE.name());
        Error::from(fault.expected(format_args!("an instance 0 of id {}", T::SHAPE.id())))
    })?;
    let mut memo = Memo::new(image);
    let mut input = Restorer::new(image, newest, &mut memo, source);
    input.object(number, &T::TYPE, T::restore).map_err(|error| error.field(T::SHAPE.name()))
}

fn nowhere<T>() -> core::result::Result<T, Fault> {
    Err(Fault::new(Code::StateResource).found("pages or a descriptor, which did not come with these bytes"))
}

/// Bytes that stay somebody else's.
struct Lent<'a>(&'a [u8]);

/// Bytes that are kept.
struct Kept(Arc<Held>);

macro_rules! without_resources {
    () => {
        fn page_size(&self) -> u64 {
            4096
        }

        fn folio(&mut self, _: usize) -> core::result::Result<Frame, Fault> {
            nowhere()
        }

        fn area(&mut self, _: usize) -> core::result::Result<Vec<Frame>, Fault> {
            nowhere()
        }

        #[cfg(feature = "std")]
        fn file(&mut self, _: usize) -> core::result::Result<std::os::fd::OwnedFd, Fault> {
            nowhere()
        }
    };
}

impl Source for Lent<'_> {
    fn bulk(&self) -> &[u8] {
        self.0
    }

    fn held(&self) -> Option<Arc<Held>> {
        None
    }

    without_resources!();
}

impl Source for Kept {
    fn bulk(&self) -> &[u8] {
        &self.0
    }

    fn held(&self) -> Option<Arc<Held>> {
        Some(Arc::clone(&self.0))
    }

    without_resources!();
}

/// Alignment of bulk data in memory is that of the heap, and of the image it is this.
const _: () = assert!(BULK_ALIGN.is_power_of_two());
