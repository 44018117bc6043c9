//! Restoring: bytes as values, each in a fresh place.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;

use super::error::{Error, Result};
use super::image::Image;
use super::kind::Kind;
use super::limits;
use super::memo::{Memo, Slot, other_pointer};
use super::number;
use super::resource::Held;
use super::save::too_deep;
use super::shape::{Body, Shape, Type};
use super::value::{Bulk, PlainField, State, Value};
use crate::abi::state::{BULK_ALIGN, Resource};
use crate::mem::Frame;
use crate::num::{index_of, u64_of, usize_of};
use crate::report::{Code, Fault};

/// Where bulk data and resources, by their number, come from while a state is restored.
pub(crate) trait Source {
    /// The bulk data.
    fn bulk(&self) -> &[u8];
    /// The same, to be kept; none where they are only lent.
    fn held(&self) -> Option<Arc<Held>>;
    /// Bytes of a page.
    fn page_size(&self) -> u64;
    /// A block.
    fn folio(&mut self, resource: usize) -> core::result::Result<Frame, Fault>;
    /// The blocks of an area.
    fn area(&mut self, resource: usize) -> core::result::Result<Vec<Frame>, Fault>;
    /// A descriptor.
    #[cfg(feature = "std")]
    fn file(&mut self, resource: usize) -> core::result::Result<std::os::fd::OwnedFd, Fault>;
}

/// A state while it is restored. What [`Value::restore`] reads from.
pub struct Restorer<'a> {
    rest: &'a [u8],
    /// Where the bytes end in the metadata.
    end: usize,
    depth: u32,
    /// Whether every state was written in the newest version that is known here.
    newest: bool,
    image: &'a Image<'a>,
    memo: &'a mut Memo,
    source: &'a mut dyn Source,
}

/// A subsection that was found.
#[derive(Debug)]
pub struct Subsection {
    id: u32,
    bytes: usize,
    /// Where its id is.
    at: u64,
}

impl<'a> Restorer<'a> {
    pub(crate) fn new(image: &'a Image<'a>, newest: bool, memo: &'a mut Memo, source: &'a mut dyn Source) -> Self {
        Restorer { rest: &[], end: 0, depth: 0, newest, image, memo, source }
    }

    pub(crate) fn offset(&self) -> u64 {
        u64_of(self.end.saturating_sub(self.rest.len()))
    }

    /// A fault here.
    #[cold]
    pub(crate) fn fault(&self, code: Code) -> Fault {
        Fault::new(code).offset(self.offset())
    }

    /// A fault in the value that ends here, of so many bytes.
    #[cold]
    pub(crate) fn fault_in(&self, code: Code, bytes: usize) -> Fault {
        Fault::new(code).offset(self.offset().saturating_sub(u64_of(bytes)))
    }

    /// Restores an object that nobody has yet, by this function.
    pub(crate) fn object<T>(
        &mut self,
        number: u32,
        ty: &Type,
        restore: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.object_at(number, ty, 0, restore)
    }

    /// As [`Restorer::object`], of which the number stands at that offset.
    fn object_at<T>(
        &mut self,
        number: u32,
        ty: &Type,
        at: u64,
        restore: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let object = self.image.objects().get(index_of(number)).ok_or_else(|| self.no_object(number.into(), at))?;
        if !object.ty.is(ty) {
            let fault = Fault::new(Code::StateShared).offset(at).found(format_args!("object {number}, {}", object.ty));
            return Err(fault.expected(Kind::of(ty)).into());
        }
        let (outer, depth) = ((self.rest, self.end), self.depth);
        self.rest = self.image.meta().get(object.start..object.end).unwrap_or_default();
        self.end = object.end;
        let value =
            self.deeper().and_then(|()| restore(self)).and_then(|value| self.is_empty("object").map(|()| value));
        ((self.rest, self.end), self.depth) = (outer, depth);
        value
    }

    #[cold]
    fn no_object(&self, number: u64, at: u64) -> Error {
        let fault = Fault::new(Code::StateId).offset(at).found(format_args!("object {number}"));
        fault.expected(format_args!("one of {}", self.image.objects().len())).into()
    }

    fn is_empty(&self, what: &'static str) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.fault(Code::StateLength).item(what).found(format_args!("{left} bytes behind it")).into()),
        }
    }

    /// Restores an object that several have, or gives the one that was restored.
    pub(crate) fn shared<P: Clone + 'static>(
        &mut self,
        ty: &Type,
        restore: impl FnOnce(&mut Self) -> Result<P>,
    ) -> Result<P> {
        let at = self.offset();
        let number = self.number()?;
        let number = u32::try_from(number).map_err(|_| self.no_object(number, at))?;
        match self.memo.slots.get_mut(index_of(number)) {
            None => Err(self.no_object(number.into(), at)),
            Some(Slot::Busy) => {
                let fault = Fault::new(Code::StateCycle).offset(at).found(format_args!("object {number} in itself"));
                Err(fault.expected("a weak link back").into())
            }
            Some(Slot::Done(object)) => object.downcast_ref::<P>().cloned().ok_or_else(|| other_pointer(number)),
            Some(slot) => {
                *slot = Slot::Busy;
                self.memo.objects.push(number);
                let object = self.object_at(number, ty, at, restore)?;
                self.memo.done(number, Box::new(object.clone()))?;
                Ok(object)
            }
        }
    }

    /// Reads a link: `set` is called with the object, now or when it is restored, and says whether it fits.
    pub(crate) fn link(&mut self, ty: &Type, set: impl Fn(&dyn Any) -> bool + 'static) -> Result<()> {
        let at = self.offset();
        let Some(number) = u32::from_le_bytes(self.array()?).checked_sub(1) else { return Ok(()) };
        let object = self.image.objects().get(index_of(number)).ok_or_else(|| self.no_object(number.into(), at))?;
        if !object.ty.is(ty) {
            let fault = Fault::new(Code::StateShared).offset(at).found(format_args!("object {number}, {}", object.ty));
            return Err(fault.expected(Kind::of(ty)).into());
        }
        match self.memo.slots.get(index_of(number)) {
            Some(Slot::Done(object)) if set(&**object) => {}
            Some(Slot::Done(_)) => return Err(other_pointer(number)),
            _ => {
                self.memo.links.push(number);
                self.memo.waiting.entry(number).or_default().push(Box::new(set));
            }
        }
        Ok(())
    }

    #[inline]
    fn deeper(&mut self) -> Result<()> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > limits::DEPTH { Err(self.too_deep()) } else { Ok(()) }
    }

    #[cold]
    fn too_deep(&self) -> Error {
        Fault::from(too_deep()).offset(self.offset()).into()
    }

    /// Begins a state; the version that it was written in.
    ///
    /// # Errors
    /// [`Code::StateDepth`]; [`Code::StateId`] when the image has no such state.
    #[inline]
    pub fn enter(&mut self, shape: &'static Shape) -> Result<u32> {
        self.deeper()?;
        if self.newest {
            return Ok(shape.desc.version);
        }
        match self.image.shape(shape.id()) {
            Some((version, _)) => Ok(version),
            None => Err(self.fault(Code::StateId).found(format_args!("no description of id {}", shape.id())).into()),
        }
    }

    /// Ends a state.
    #[inline]
    pub fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Restores a field.
    ///
    /// # Errors
    /// Those of the value, with the name of the field in front.
    #[inline]
    pub fn field<T: Value>(&mut self, name: &'static str) -> Result<T> {
        T::restore(self).map_err(|error| error.field(name))
    }

    /// Restores a field of bulk data.
    ///
    /// # Errors
    /// As [`Restorer::field`].
    #[inline]
    pub fn plain<T: PlainField>(&mut self, name: &'static str) -> Result<T> {
        T::restore(self).map_err(|error| error.field(name))
    }

    /// Restores a field by other means.
    ///
    /// # Errors
    /// As [`Restorer::field`].
    #[inline]
    pub fn with<T>(&mut self, name: &'static str, restore: impl FnOnce(&mut Restorer<'_>) -> Result<T>) -> Result<T> {
        restore(self).map_err(|error| error.field(name))
    }

    /// Whether a field with a condition follows.
    ///
    /// # Errors
    /// [`Code::StateCondition`] when the condition says otherwise.
    pub fn present(&mut self, name: &'static str, expected: bool) -> Result<bool> {
        let at = self.offset();
        let there = bool::restore(self).map_err(|error| error.field(name))?;
        if there == expected {
            return Ok(there);
        }
        let text = |there| if there { "a value" } else { "no value" };
        let fault = Fault::new(Code::StateCondition).offset(at).item(name).found(text(there));
        Err(fault.expected(format_args!("{}, by what stands before", text(expected))).into())
    }

    /// Which variant follows.
    ///
    /// # Errors
    /// As [`Restorer::number`].
    #[inline]
    pub fn tag(&mut self) -> Result<u32> {
        let tag = self.number()?;
        let fault = || self.fault_in(Code::StateTag, number::len(tag)).item("tag").found(tag);
        u32::try_from(tag).map_err(|_| fault().expected("at most 32 bits").into())
    }

    /// The error of a tag that no variant has.
    #[cold]
    #[must_use]
    pub fn unknown_tag(&self, tag: u32, shape: &'static Shape) -> Error {
        let fault = self.fault_in(Code::StateTag, number::len(tag.into())).item("tag").found(tag);
        let Body::Enum { variants } = shape.desc.body else { return fault.into() };
        let tags: Vec<_> = variants.iter().map(|variant| format!("{} ({})", variant.tag, variant.name)).collect();
        fault.expected(tags.join(", ")).into()
    }

    /// How many subsections follow. They are counted where the state has any in the description that came with it,
    /// whatever the one here has: the first one may have been added since, or be gone.
    ///
    /// # Errors
    /// [`Code::StateLength`] for more than the bytes can be.
    pub fn subsections(&mut self, shape: &'static Shape) -> Result<u32> {
        if !self.newest && self.written_parts(shape)?.is_empty() {
            return Ok(0);
        }
        let count = self.length()?;
        u32::try_from(count).map_err(|_| self.fault(Code::StateLength).found(count).into())
    }

    /// Passes over the subsections of a state that has none here.
    ///
    /// # Errors
    /// As [`Restorer::subsections`] and [`Restorer::skip`].
    #[inline]
    pub fn no_subsections(&mut self, shape: &'static Shape) -> Result<()> {
        if self.newest { Ok(()) } else { self.strangers(shape) }
    }

    #[cold]
    fn strangers(&mut self, shape: &'static Shape) -> Result<()> {
        for _ in 0..self.subsections(shape)? {
            let found = self.subsection()?;
            self.skip(found, shape)?;
        }
        Ok(())
    }

    /// The subsections that the state has by what was written.
    fn written_parts(&mut self, shape: &'static Shape) -> Result<&BTreeMap<u32, (String, bool)>> {
        match self.memo.parts.entry(shape.id()) {
            Entry::Occupied(place) => Ok(place.into_mut()),
            // Once: it may be as long as the image.
            Entry::Vacant(place) => {
                let written = self.image.description(shape.id())?;
                let parts = written.map(|(of, _)| of.subsections().to_vec()).unwrap_or_default();
                Ok(place.insert(parts.into_iter().map(|part| (part.id, (part.name, part.required))).collect()))
            }
        }
    }

    /// The next one.
    ///
    /// # Errors
    /// [`Code::Truncated`], [`Code::StateLength`].
    pub fn subsection(&mut self) -> Result<Subsection> {
        let at = self.offset();
        let id = u32::from_le_bytes(self.array()?);
        let bytes = u64::from(u32::from_le_bytes(self.array()?));
        let bytes = self.within(bytes, 4)?;
        Ok(Subsection { id, bytes, at })
    }

    /// Restores it when it is this one.
    ///
    /// # Errors
    /// As [`Restorer::field`]; [`Code::StateId`] when it is there twice.
    pub fn take<T: State>(&mut self, name: &'static str, found: &Subsection, place: &mut Option<T>) -> Result<bool> {
        if found.id != T::SHAPE.id() {
            return Ok(false);
        }
        if place.is_some() {
            let fault = Fault::new(Code::StateId).item(name).offset(found.at);
            return Err(fault.found("a subsection that is there twice").into());
        }
        let (own, behind) = self.rest.split_at_checked(found.bytes).unwrap_or_default();
        let end = self.end;
        (self.rest, self.end) = (own, end.saturating_sub(behind.len()));
        *place = Some(self.field(name)?);
        self.is_empty("subsection").map_err(|error| error.field(name))?;
        (self.rest, self.end) = (behind, end);
        Ok(true)
    }

    /// Passes over one that is not known here, when it may be left.
    ///
    /// # Errors
    /// [`Code::StateUnknown`] when it is required.
    pub fn skip(&mut self, found: Subsection, shape: &'static Shape) -> Result<()> {
        match self.written_parts(shape)?.get(&found.id) {
            Some((_, false)) => {
                self.rest = self.rest.get(found.bytes..).unwrap_or_default();
                Ok(())
            }
            Some((name, true)) => {
                let fault = Fault::new(Code::StateUnknown).item(name.clone()).offset(found.at);
                Err(fault.found(format_args!("a required subsection, id {}", found.id)).into())
            }
            None => {
                let fault = Fault::new(Code::StateId).offset(found.at);
                let fault = fault.found(format_args!("a subsection of id {}", found.id));
                Err(fault.expected("one that the description has").into())
            }
        }
    }

    /// Reads a number.
    ///
    /// # Errors
    /// [`Code::Truncated`]; [`Code::StateNumber`] for one that is not in its shortest form.
    #[inline]
    pub fn number(&mut self) -> Result<u64> {
        match number::read(self.rest) {
            Ok((number, rest)) => {
                self.rest = rest;
                Ok(number)
            }
            Err(broken) => Err(self.broken(broken)),
        }
    }

    #[cold]
    fn broken(&self, broken: number::Broken) -> Error {
        match broken {
            number::Broken::Short => {
                let fault = self.fault(Code::Truncated).found(format_args!("{} bytes", self.rest.len()));
                fault.expected("a number").into()
            }
            number::Broken::Long => {
                self.fault(Code::StateNumber).found("a longer form").expected("the shortest form").into()
            }
        }
    }

    #[cold]
    fn cut(&self, wanted: usize) -> Error {
        let fault = self.fault(Code::Truncated).found(format_args!("{} bytes", self.rest.len()));
        fault.expected(format_args!("at least {wanted}")).into()
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// [`Code::Truncated`].
    #[inline]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(len) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.cut(len)),
        }
    }

    /// Reads so many bytes as an array.
    ///
    /// # Errors
    /// [`Code::Truncated`].
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk::<N>() {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(*bytes)
            }
            None => Err(self.cut(N)),
        }
    }

    /// Reads a length, of which each unit takes at least one byte.
    ///
    /// # Errors
    /// As [`Restorer::number`]; [`Code::StateLength`] for more than the bytes that are left.
    #[inline]
    pub fn length(&mut self) -> Result<usize> {
        let len = self.number()?;
        self.within(len, number::len(len))
    }

    /// A length, that takes so many bytes itself.
    fn within(&self, len: u64, own: usize) -> Result<usize> {
        if len <= u64_of(self.rest.len()) {
            return Ok(usize_of(len));
        }
        let fault = self.fault_in(Code::StateLength, own).found(len);
        Err(fault.expected(format_args!("at most {}, the bytes that are left", self.rest.len())).into())
    }

    /// Reads a length of bulk data; where they are.
    fn bulk_range(&mut self, unit: usize) -> Result<Range<usize>> {
        let at = self.offset();
        let len = self.number()?;
        if len == 0 {
            return Ok(0..0);
        }
        let offset = self.number()?;
        let fault = || {
            Fault::new(Code::StateLength).offset(at).found(format_args!("{len} bytes at {offset:#x} of the bulk data"))
        };
        let size = u64_of(self.source.bulk().len());
        let end = offset.checked_add(len).filter(|&end| end <= size && offset.is_multiple_of(BULK_ALIGN));
        let end = end.ok_or_else(|| fault().expected(format_args!("at most {size}, at multiples of {BULK_ALIGN}")))?;
        if !len.is_multiple_of(u64_of(unit)) {
            return Err(fault().expected(format_args!("a multiple of {unit}")).into());
        }
        let left = self.memo.bulk_left.checked_sub(len);
        self.memo.bulk_left = left.ok_or_else(|| fault().expected("bytes that no other value has"))?;
        Ok(usize_of(offset)..usize_of(end))
    }

    /// Copies bulk data.
    pub(crate) fn bulk<T: Bulk>(&mut self) -> Result<Vec<T>> {
        let range = self.bulk_range(size_of::<T>())?;
        Ok(super::value::copied(self.source.bulk().get(range).unwrap_or_default()))
    }

    /// Bulk data where they are; none where they are only lent.
    pub(crate) fn bulk_in_place(&mut self, unit: usize) -> Result<(Option<Arc<Held>>, Range<usize>)> {
        let range = self.bulk_range(unit)?;
        Ok((self.source.held(), range))
    }

    /// The bytes of bulk data that were only lent.
    pub(crate) fn lent(&self, range: Range<usize>) -> &[u8] {
        self.source.bulk().get(range).unwrap_or_default()
    }

    /// Takes a resource.
    pub(crate) fn resource<T>(
        &mut self,
        kind: u32,
        take: impl FnOnce(&mut dyn Source, usize, &Resource) -> core::result::Result<T, Fault>,
    ) -> Result<T> {
        let at = self.offset();
        let number = self.number()?;
        let fault = || Fault::new(Code::StateResource).offset(at).found(format_args!("resource {number}"));
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let resource = self
            .image
            .resources()
            .get(index)
            .ok_or_else(|| fault().expected(format_args!("one of {}", self.image.resources().len())))?;
        if resource.kind != kind {
            let fault = fault().found(format_args!("resource {number} of kind {}", resource.kind));
            return Err(fault.expected(format_args!("kind {kind}")).into());
        }
        match self.memo.taken.get_mut(index) {
            Some(taken) if !*taken => *taken = true,
            _ => return Err(fault().expected("one that nobody took").into()),
        }
        self.memo.resources.push(index);
        take(self.source, index, resource).map_err(|error| error.offset(at).into())
    }
}
