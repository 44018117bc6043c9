//! Saving: values as bytes, behind what they are made of.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use core::any::Any;
use core::mem;

use zerocopy::IntoBytes as _;

use super::error::{Error, Result};
use super::limits;
use super::number;
use super::shape::{self, Shape, Type};
use super::value::{PlainField, State, Value};
use super::versions::Versions;
use crate::abi::state::{BULK_CRC, COMPAT, Header, Instance, MAGIC, Resource, Use};
use crate::abi::vmalloc::Descriptor;
use crate::mem::{Frame, Order};
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// Objects of at least so many bytes are segments of their own.
const SEGMENT: usize = 1 << 16;

/// So many elements tell how large the others are.
const SAMPLE: usize = 32;

/// Room for more bytes is not made at once.
const MOST_FORESEEN: usize = 64 << 20;

/// Where bulk data and resources go while a state is saved.
pub(crate) trait Sink {
    /// Appends bulk data behind padding to [`BULK_ALIGN`](crate::abi::state::BULK_ALIGN); where they begin.
    fn bulk(&mut self, bytes: &[u8]) -> core::result::Result<u64, Fault>;
    /// Bytes of bulk data, and their checksum where it was asked for.
    fn bulk_total(&self) -> (u64, Option<u32>);
    /// Bytes of a page.
    fn page_size(&self) -> u64;
    /// Preserves a block that the user holds; its address.
    fn folio(&mut self, frame: &Frame) -> core::result::Result<u64, Fault>;
    /// Preserves blocks that the user holds, as one array.
    fn area(&mut self, order: Order, frames: &[Frame]) -> core::result::Result<Descriptor, Fault>;
    /// Keeps a descriptor, which may have to be a memfd; its token.
    #[cfg(feature = "std")]
    fn file(&mut self, file: std::os::fd::BorrowedFd<'_>, memfd: bool) -> core::result::Result<u64, Fault>;
}

/// A state while it is saved. What [`Value::save`] writes into.
pub struct Saver<'a> {
    /// The object that is being written.
    out: Vec<u8>,
    /// Links in it: where, and to what.
    links: Vec<(usize, usize)>,
    /// The objects that are written, in segments: a large one is not copied to the others.
    objects: Vec<Vec<u8>>,
    /// Links in them: segment, where, and to what.
    object_links: Vec<(usize, usize, usize)>,
    count: u32,
    /// Objects that several have, by address.
    shared: BTreeMap<usize, Shared>,
    depth: u32,
    /// The deepest that it was, in the object that is being written.
    deepest: u32,
    versions: Option<&'a Versions>,
    roots: Vec<&'static Shape>,
    /// The subsections that were written.
    parts: BTreeMap<u32, ()>,
    instances: BTreeMap<(u32, u64), u32>,
    /// The objects of these.
    asked: BTreeSet<u32>,
    resources: Vec<Resource>,
    pub(super) sink: &'a mut dyn Sink,
}

/// An object that several have.
enum Shared {
    /// It is being written.
    Busy,
    /// It is held, so that no other object gets its address meanwhile.
    Written {
        number: u32,
        /// How deep what is in it nests.
        height: u32,
        _holder: Box<dyn Any>,
    },
}

impl<'a> Saver<'a> {
    pub(crate) fn new(sink: &'a mut dyn Sink, versions: Option<&'a Versions>) -> Self {
        Saver {
            out: Vec::new(),
            links: Vec::new(),
            objects: Vec::new(),
            object_links: Vec::new(),
            count: 0,
            shared: BTreeMap::new(),
            depth: 0,
            deepest: 0,
            versions,
            roots: Vec::new(),
            parts: BTreeMap::new(),
            instances: BTreeMap::new(),
            asked: BTreeSet::new(),
            resources: Vec::new(),
            sink,
        }
    }

    /// Saves an object that can be asked for. With the address of its holder, and the holder, where others may share it.
    pub(crate) fn instance<T: State>(
        &mut self,
        instance: u64,
        held: Option<(usize, Box<dyn Any>)>,
        save: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let place = (T::SHAPE.id(), instance);
        if self.instances.contains_key(&place) {
            let fault = Fault::new(Code::StateId).item(format!("instance {instance}"));
            return Err(fault.found("a number that another object has").into());
        }
        let number = self.object(&T::TYPE, held, save)?;
        if !self.asked.insert(number) {
            let fault = Fault::new(Code::StateId).found("an object that has another number already");
            return Err(fault.expected("one number for each").into());
        }
        self.roots.push(T::SHAPE);
        self.instances.insert(place, number);
        Ok(())
    }

    /// Writes an object, once, and its number.
    pub(crate) fn shared(
        &mut self,
        ty: &Type,
        address: usize,
        holder: impl Any,
        save: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let number = match self.known(address)? {
            Some(number) => number,
            None => self.object(ty, Some((address, Box::new(holder))), save)?,
        };
        self.number(number.into());
        Ok(())
    }

    /// The object at that address, when it is written. It counts as deep as if it were written here: who restores may
    /// come to it from here first.
    fn known(&mut self, address: usize) -> Result<Option<u32>> {
        let (number, height) = match self.shared.get(&address) {
            None => return Ok(None),
            Some(Shared::Written { number, height, .. }) => (*number, *height),
            Some(Shared::Busy) => {
                let fault = Fault::new(Code::StateCycle).found("an object that owns itself");
                return Err(fault.expected("a weak link back").into());
            }
        };
        self.reaches(self.depth.saturating_add(height))?;
        Ok(Some(number))
    }

    fn object(
        &mut self,
        ty: &Type,
        held: Option<(usize, Box<dyn Any>)>,
        save: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<u32> {
        if let Some((address, _)) = held {
            if let Some(number) = self.known(address)? {
                return Ok(number);
            }
            self.shared.insert(address, Shared::Busy);
        }
        let (outer, outer_links) = (mem::take(&mut self.out), mem::take(&mut self.links));
        let (base, outer_deepest) = (self.depth, mem::replace(&mut self.deepest, self.depth));
        self.deeper()?;
        save(self)?;
        self.leave();
        let height = self.deepest.saturating_sub(base);
        self.deepest = self.deepest.max(outer_deepest);
        let content = mem::replace(&mut self.out, outer);
        let links = mem::replace(&mut self.links, outer_links);
        let mut head = ty.bytes();
        number::push(&mut head, u64_of(content.len()));
        self.append(head);
        let (segment, start) = self.append(content);
        self.object_links.extend(links.into_iter().map(|(at, to)| (segment, start.saturating_add(at), to)));
        let number = self.count;
        self.count = number.checked_add(1).ok_or_else(|| Error::new(Code::TooLarge))?;
        if let Some((address, holder)) = held {
            self.shared.insert(address, Shared::Written { number, height, _holder: holder });
        }
        Ok(number)
    }

    /// Appends bytes to the objects; in which segment they begin, and where.
    fn append(&mut self, bytes: Vec<u8>) -> (usize, usize) {
        let large = bytes.len() >= SEGMENT;
        let last = self.objects.last_mut().filter(|last| !large && last.len() < SEGMENT);
        let start = match last {
            Some(last) => {
                let start = last.len();
                last.extend_from_slice(&bytes);
                start
            }
            None => {
                self.objects.push(bytes);
                0
            }
        };
        (self.objects.len().saturating_sub(1), start)
    }

    /// Writes a link to the object at that address, whenever that is saved.
    pub(crate) fn link(&mut self, address: Option<usize>) {
        if let Some(address) = address {
            self.links.push((self.out.len(), address));
        }
        self.out.extend_from_slice(&[0; 4]);
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth = self.depth.saturating_add(1);
        self.reaches(self.depth)
    }

    #[inline]
    fn reaches(&mut self, depth: u32) -> Result<()> {
        self.deepest = self.deepest.max(depth);
        if depth > limits::DEPTH { Err(too_deep()) } else { Ok(()) }
    }

    /// Begins a state; the version that it is to be written in.
    ///
    /// # Errors
    /// [`Code::StateDepth`].
    #[inline]
    pub fn enter(&mut self, shape: &'static Shape) -> Result<u32> {
        self.deeper()?;
        Ok(match self.versions {
            None => shape.desc.version,
            Some(versions) => versions.of_shape(shape),
        })
    }

    /// Ends a state.
    #[inline]
    pub fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Saves a field.
    ///
    /// # Errors
    /// Those of the value, with the name of the field in front.
    #[inline]
    pub fn field<T: Value>(&mut self, name: &'static str, value: &T) -> Result<()> {
        value.save(self).map_err(|error| error.field(name))
    }

    /// Saves a field of bulk data.
    ///
    /// # Errors
    /// As [`Saver::field`].
    #[inline]
    pub fn plain<T: PlainField>(&mut self, name: &'static str, value: &T) -> Result<()> {
        value.save(self).map_err(|error| error.field(name))
    }

    /// Saves a field by other means.
    ///
    /// # Errors
    /// As [`Saver::field`].
    #[inline]
    pub fn with(&mut self, name: &'static str, save: impl FnOnce(&mut Saver<'_>) -> Result<()>) -> Result<()> {
        save(self).map_err(|error| error.field(name))
    }

    /// Says whether a field with a condition follows.
    #[inline]
    pub fn present(&mut self, there: bool) {
        self.out.push(there.into());
    }

    /// Says which variant follows.
    #[inline]
    pub fn tag(&mut self, tag: u32) {
        self.number(tag.into());
    }

    /// The error of a field or variant that the version to be written does not have.
    #[cold]
    #[must_use]
    pub fn inexpressible(&self, name: &'static str, since: u32, version: u32) -> Error {
        let fault = Fault::new(Code::StateOlder).item(name).found(format_args!("a value of version {since}"));
        fault.expected(format_args!("one that version {version} can say")).into()
    }

    /// Says how many subsections follow.
    #[inline]
    pub fn subsections(&mut self, count: u32) {
        self.number(count.into());
    }

    /// Saves a subsection.
    ///
    /// # Errors
    /// As [`Saver::field`].
    pub fn subsection<T: State>(&mut self, name: &'static str, value: &T) -> Result<()> {
        self.parts.insert(T::SHAPE.id(), ());
        self.out.extend_from_slice(&T::SHAPE.id().to_le_bytes());
        // Its length stands in front, and is known behind.
        let place = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        let start = self.out.len();
        self.field(name, value)?;
        let len = self.out.len().saturating_sub(start);
        let len = u32::try_from(len).map_err(|_| Error::new(Code::TooLarge).field(name))?;
        self.patch(place, len);
        Ok(())
    }

    fn patch(&mut self, place: usize, value: u32) {
        if let Some(bytes) = self.out.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
            *bytes = value.to_le_bytes();
        }
    }

    /// Writes a number in as few bytes as it needs.
    #[inline]
    pub fn number(&mut self, number: u64) {
        number::push(&mut self.out, number);
    }

    /// Writes bytes as they are: their length is the type's, or was written.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes one byte.
    #[inline]
    pub(crate) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    /// Where the next byte of the object goes: for [`Saver::foresee`].
    #[inline]
    pub(crate) fn written(&self) -> usize {
        self.out.len()
    }

    /// Makes room for the rest of a collection when [`SAMPLE`] of its elements are written, since that place: growing
    /// step by step costs more than writing.
    #[inline]
    pub(crate) fn foresee(&mut self, since: usize, done: usize, count: usize) {
        if done == SAMPLE {
            self.foresee_rest(since, count);
        }
    }

    #[cold]
    fn foresee_rest(&mut self, since: usize, count: usize) {
        let sample = self.out.len().saturating_sub(since);
        let all = sample.saturating_mul(count) >> SAMPLE.ilog2();
        // An eighth more, for those that are larger. It is a guess: a wrong one costs nothing that is used.
        let room = all.saturating_sub(sample).saturating_add(all >> 3).min(MOST_FORESEEN);
        let _ = self.out.try_reserve(room);
    }

    /// Writes bulk data, beside the rest.
    ///
    /// # Errors
    /// When there is no room for them.
    pub(crate) fn bulk(&mut self, bytes: &[u8]) -> Result<()> {
        self.number(u64_of(bytes.len()));
        if !bytes.is_empty() {
            let offset = self.sink.bulk(bytes)?;
            self.number(offset);
        }
        Ok(())
    }

    /// Writes a resource: its number in the table.
    pub(crate) fn resource(&mut self, resource: Resource) {
        self.number(u64_of(self.resources.len()));
        self.resources.push(resource);
    }

    /// The metadata of the image.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        for (segment, place, address) in mem::take(&mut self.object_links) {
            let Some(Shared::Written { number, .. }) = self.shared.get(&address) else {
                return Err(Fault::new(Code::StateLink).found("a link to an object that nobody saved").into());
            };
            let segment = self.objects.get_mut(segment);
            let bytes = segment.and_then(|segment| segment.get_mut(place..)).and_then(<[u8]>::first_chunk_mut);
            if let Some(bytes) = bytes {
                *bytes = number.saturating_add(1).to_le_bytes();
            }
        }
        let shapes = shape::closure(self.roots.iter().copied(), |part| self.parts.contains_key(&part))?;
        let count = |len: usize| {
            u32::try_from(len).map_err(|_| Error::from(Fault::new(Code::TooLarge).item("header").found(len)))
        };
        let (bulk, bulk_crc) = self.sink.bulk_total();
        let mut header = Header {
            magic: MAGIC.into(),
            version: COMPAT.version().into(),
            crc: 0.into(),
            meta: 0.into(),
            bulk: bulk.into(),
            flags: bulk_crc.map_or(0, |_| BULK_CRC).into(),
            bulk_crc: bulk_crc.unwrap_or(0).into(),
            uses: count(shapes.len())?.into(),
            instances: count(self.instances.len())?.into(),
            resources: count(self.resources.len())?.into(),
            objects: self.count.into(),
            reserved: 0.into(),
        };
        let mut meta = Vec::with_capacity(4096);
        meta.extend_from_slice(header.as_bytes());
        for (id, shape) in &shapes {
            let version = self.versions.map_or(shape.desc.version, |versions| versions.of_shape(shape));
            meta.extend_from_slice(Use { id: (*id).into(), version: version.into() }.as_bytes());
        }
        for ((id, number), object) in &self.instances {
            let row = Instance { number: (*number).into(), id: (*id).into(), object: (*object).into() };
            meta.extend_from_slice(row.as_bytes());
        }
        meta.extend_from_slice(self.resources.as_bytes());
        for shape in shapes.values() {
            number::push(&mut meta, u64_of(shape.bytes.len()));
            meta.extend_from_slice(shape.bytes);
        }
        let mut meta = joined(meta, mem::take(&mut self.objects));
        if u64_of(meta.len()) > limits::META {
            let fault = Fault::new(Code::TooLarge).item("metadata").found(meta.len());
            return Err(fault.expected(format_args!("at most {}", limits::META)).into());
        }
        header.meta = u64_of(meta.len()).into();
        put(&mut meta, header.as_bytes());
        header.crc = crc32fast::hash(&meta).into();
        put(&mut meta, header.as_bytes());
        Ok(meta)
    }
}

/// The segments behind the first one. The largest stays where it is, because memory that is touched for the first time
/// costs more than moving what is there.
fn joined(first: Vec<u8>, mut others: Vec<Vec<u8>>) -> Vec<u8> {
    let largest = others.iter().enumerate().max_by_key(|(_, segment)| segment.len()).map(|(place, _)| place);
    let Some(place) = largest else { return first };
    let behind = others.split_off(place.saturating_add(1));
    let mut joined = others.pop().unwrap_or_default();
    let before = others.into_iter().fold(first, |mut all, segment| {
        all.extend_from_slice(&segment);
        all
    });
    joined.splice(0..0, before);
    behind.iter().for_each(|segment| joined.extend_from_slice(segment));
    joined
}

fn put(meta: &mut [u8], header: &[u8]) {
    for (to, from) in meta.iter_mut().zip(header) {
        *to = *from;
    }
}

#[cold]
pub(super) fn too_deep() -> Error {
    let fault = Fault::new(Code::StateDepth);
    fault.expected(format_args!("at most {} states in each other", limits::DEPTH)).into()
}
