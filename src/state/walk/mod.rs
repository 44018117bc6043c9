//! Reading an image by its own descriptions, without the types: to check all of it before anything is restored, and to
//! show it.

mod scalars;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::abi::state::kind;
use crate::num::{index_of, u64_of, usize_of};
use crate::report::{Code, Fault};
use crate::state::description::{DescriptionBody, FieldDescription};
use crate::state::fit::Written;
use crate::state::image::Image;
use crate::state::keys::Keys;
use crate::state::kind::{Kind, scalar};
use crate::state::limits;
use crate::state::live::{self, Live, Lives};
use crate::state::number;
use crate::state::shown::{SHOWN, Shown, ShownObject, ShownState};

/// So many bytes of values are kept for each byte of the image, and at most: names are in it once, and shown with each
/// value.
const ROOM: usize = 256;
const MOST: usize = 256 << 20;
/// So many variants are named.
const VARIANTS: usize = 8;

/// Reads all of an image by its descriptions. `keep` says whether values are wanted, or only whether they are right.
///
/// What is right here is restored by the types that fit: lengths, texts, tags, keys, links, bulk data and resources are
/// all looked at. Each error has its path and its offset; the first in each object is told, and `report` may be called
/// at most once for each.
///
/// The values, as far as they are in proportion to the image, and whether these are all that lists show.
pub(crate) fn objects(
    image: &Image<'_>,
    written: &Written,
    keep: bool,
    report: &mut dyn FnMut(Fault),
) -> (Vec<ShownObject>, bool) {
    let room = image.meta().len().saturating_mul(ROOM).saturating_add(1 << 16).min(MOST);
    let lives = live::all(written);
    let mut walk = Walk {
        image,
        written,
        lives: &lives,
        keep,
        room,
        is_whole: true,
        rest: &[],
        end: 0,
        depth: 0,
        deepest: 0,
        heights: Vec::new(),
        object: 0,
        bulk: BTreeMap::new(),
        taken: alloc::vec![false; image.resources().len()],
    };
    let names: BTreeMap<u32, String> = image
        .instances()
        .zip(image.instance_rows())
        .map(|((id, number), row)| (row.object.get(), instance_name(written, id, number)))
        .collect();
    let mut shown = Vec::new();
    let mut broken = false;
    for (number, object) in image.objects().iter().enumerate() {
        walk.object = u32::try_from(number).unwrap_or(u32::MAX);
        walk.rest = image.meta().get(object.start..object.end).unwrap_or_default();
        walk.end = object.end;
        (walk.depth, walk.deepest) = (1, 1);
        walk.keep = keep && walk.has_room(0);
        let value = walk.value(&object.ty).and_then(|value| walk.ends("object").map(|()| value));
        walk.heights.push(walk.deepest);
        match value {
            Ok(value) if walk.keep => shown.push(ShownObject { ty: walk.name(&object.ty), value }),
            Ok(_) => {}
            Err(fault) => {
                broken = true;
                let name = names.get(&walk.object).cloned();
                report(fault.within(&name.unwrap_or_else(|| format!("objects[{number}]"))));
                if walk.keep {
                    shown.push(ShownObject { ty: walk.name(&object.ty), value: Shown::None });
                }
            }
        }
    }
    // What is broken may have had them.
    let unused = walk.taken.iter().position(|taken| !taken).filter(|_| !broken);
    if let Some(unused) = unused {
        report(Fault::new(Code::StateResource).item(format!("resources[{unused}]")).found("one that no value has"));
    }
    (shown, walk.is_whole)
}

/// As errors name it: `vmm`, or `vmm#2` for another number than 0.
pub(crate) fn instance_name(written: &Written, id: u32, number: u64) -> String {
    let name = written.get(&id).map_or_else(|| format!("state {id}"), |(of, _)| of.name.clone());
    named(&name, number)
}

/// As [`instance_name`].
pub(crate) fn named(name: &str, number: u64) -> String {
    if number == 0 { name.to_string() } else { format!("{name}#{number}") }
}

struct Walk<'a> {
    image: &'a Image<'a>,
    written: &'a Written,
    lives: &'a Lives<'a>,
    keep: bool,
    /// So many bytes of values may still be kept.
    room: usize,
    /// Whether there was room for all.
    is_whole: bool,
    rest: &'a [u8],
    end: usize,
    depth: u32,
    /// The deepest that it was, in this object.
    deepest: u32,
    /// The same of each object before it.
    heights: Vec<u32>,
    /// The number of the object that is being read.
    object: u32,
    /// The bulk data that values have: where they begin and where they end.
    bulk: BTreeMap<u64, u64>,
    taken: Vec<bool>,
}

type Result<T> = core::result::Result<T, Fault>;

impl<'a> Walk<'a> {
    fn offset(&self) -> u64 {
        u64_of(self.end.saturating_sub(self.rest.len()))
    }

    fn fault(&self, code: Code) -> Fault {
        Fault::new(code).offset(self.offset())
    }

    /// A type, with the names of its states.
    fn name(&self, ty: &Kind) -> String {
        ty.named(&|id| self.written.get(&id).map(|(of, _)| of.name.as_str())).to_string()
    }

    /// Reads a part of a value; none when it is not to be shown. What is around it has its room already, so that what is
    /// left out are the last parts, and not the whole.
    fn part<T>(&mut self, place: usize, name: &str, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        let outer = self.keep;
        self.keep = outer && place < SHOWN && self.has_room(name.len());
        let shows = self.keep;
        let value = read(self);
        self.keep = outer;
        value.map(|value| shows.then_some(value))
    }

    /// Whether there is room for another value with that much text.
    fn has_room(&mut self, text: usize) -> bool {
        let left = self.room.checked_sub(size_of::<(String, Shown)>().saturating_add(text));
        self.is_whole = self.is_whole && left.is_some();
        self.room = left.unwrap_or(0);
        left.is_some()
    }

    fn ends(&self, what: &'static str) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.fault(Code::StateLength).item(what).found(format_args!("{left} bytes behind it"))),
        }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| {
            let fault = self.fault(Code::Truncated).found(format_args!("{} bytes", self.rest.len()));
            fault.expected(format_args!("at least {len}"))
        })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N)?;
        bytes.first_chunk().copied().ok_or_else(|| self.fault(Code::Truncated))
    }

    fn flag(&mut self) -> Result<bool> {
        let fault = self.fault(Code::StateTag);
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(fault.found(other).expected("0 or 1")),
        }
    }

    fn number(&mut self) -> Result<u64> {
        let (number, rest) = number::read(self.rest).map_err(|broken| match broken {
            number::Broken::Short => {
                let fault = self.fault(Code::Truncated).found(format_args!("{} bytes", self.rest.len()));
                fault.expected("a number")
            }
            number::Broken::Long => self.fault(Code::StateNumber).found("a longer form").expected("the shortest form"),
        })?;
        self.rest = rest;
        Ok(number)
    }

    fn len(&mut self) -> Result<usize> {
        let at = self.offset();
        let len = self.number()?;
        let left = u64_of(self.rest.len());
        if len <= left {
            return Ok(usize_of(len));
        }
        let fault = Fault::new(Code::StateLength).offset(at).found(len);
        Err(fault.expected(format_args!("at most {left}, the bytes that are left")))
    }

    fn value(&mut self, ty: &Kind) -> Result<Shown> {
        match ty {
            Kind::Scalar(of) => self.scalar(*of),
            Kind::Array(count, of) => {
                let count = self.fits(*count)?;
                self.list(count, of)
            }
            Kind::Seq(of) => {
                let count = self.len()?;
                self.list(count, of)
            }
            Kind::Map(key, value) => self.map(key, value),
            Kind::Set(of) => self.set(of),
            Kind::Option(of) => {
                if self.flag()? {
                    self.value(of)
                } else {
                    Ok(Shown::None)
                }
            }
            Kind::Tuple(types) => {
                let mut shown = Vec::new();
                for (index, of) in types.iter().enumerate() {
                    let value = self.part(index, "", |walk| walk.value(of));
                    shown.extend(value.map_err(|fault| fault.within(&index.to_string()))?);
                }
                Ok(Shown::List(shown, u64_of(types.len())))
            }
            Kind::State(id) => self.state(*id),
            Kind::Shared(of) => {
                let fault = self.fault(Code::StateCycle);
                let at = self.offset();
                let number = self.number()?;
                let number = self.object_is(number, of, at)?;
                if number >= self.object {
                    let fault = fault.found(format_args!("object {number} as a part of object {}", self.object));
                    return Err(fault.expected("one that stands before it: only weak links go back"));
                }
                let height = self.heights.get(index_of(number)).copied().unwrap_or(0);
                self.reaches(self.depth.saturating_add(height))?;
                Ok(Shown::Object(number))
            }
            Kind::Link(of) => {
                let at = self.offset();
                let number = u32::from_le_bytes(self.array()?).checked_sub(1);
                if let Some(number) = number {
                    self.object_is(number.into(), of, at)?;
                }
                Ok(Shown::Link(number))
            }
            Kind::Plain(of) => self.bulk(scalar(*of).and_then(|(_, size)| size).map_or(1, u64::from)),
            Kind::Records { size, .. } => self.bulk(*size),
        }
    }

    /// A count that a type says: each takes at least a byte.
    fn fits(&self, count: u64) -> Result<usize> {
        let left = u64_of(self.rest.len());
        if count <= left {
            return Ok(usize_of(count));
        }
        let fault = self.fault(Code::Truncated).found(format_args!("{left} bytes"));
        Err(fault.expected(format_args!("{count} elements")))
    }

    /// The number of an object, when it is one of that type.
    fn object_is(&self, number: u64, ty: &Kind, at: u64) -> Result<u32> {
        let fault = |code| Fault::new(code).offset(at);
        let objects = self.image.objects();
        let index = u32::try_from(number).ok();
        match index.and_then(|index| Some((index, objects.get(index_of(index))?))) {
            None => {
                let fault = fault(Code::StateId).found(format_args!("object {number}"));
                Err(fault.expected(format_args!("one of {}", objects.len())))
            }
            Some((index, object)) if object.ty == *ty => Ok(index),
            Some((_, object)) => {
                let fault = fault(Code::StateShared).found(format_args!("object {number}, {}", self.name(&object.ty)));
                Err(fault.expected(self.name(ty)))
            }
        }
    }

    fn list(&mut self, count: usize, of: &Kind) -> Result<Shown> {
        if *of == Kind::Scalar(kind::U8) {
            let bytes = self.bytes(count)?;
            let kept = if self.keep { bytes.get(..SHOWN).unwrap_or(bytes).to_vec() } else { Vec::new() };
            return Ok(Shown::Bytes(kept, u64_of(count)));
        }
        let mut shown = Vec::new();
        for index in 0..count {
            let value = self.part(index, "", |walk| walk.value(of));
            shown.extend(value.map_err(|fault| fault.within(&format!("[{index}]")))?);
        }
        Ok(Shown::List(shown, u64_of(count)))
    }

    /// Reads a key; its bytes, and the value.
    fn key(&mut self, of: &Kind) -> Result<(&'a [u8], Shown)> {
        let before = self.rest;
        let value = self.value(of)?;
        let len = before.len().saturating_sub(self.rest.len());
        Ok((before.get(..len).unwrap_or_default(), value))
    }

    fn map(&mut self, key: &Kind, of: &Kind) -> Result<Shown> {
        let count = self.len()?;
        let (mut keys, mut shown) = (Keys::default(), Vec::new());
        for index in 0..count {
            let pair = self.part(index, "", |walk| {
                let (bytes, key) = walk.key(key).map_err(|fault| fault.within("key"))?;
                keys.add(bytes);
                Ok((key, walk.value(of)?))
            });
            shown.extend(pair.map_err(|fault| fault.within(&format!("[{index}]")))?);
        }
        keys.are_unique().map_err(|()| self.fault(Code::StateKey).found("a key twice, in what ends here"))?;
        Ok(Shown::Map(shown, u64_of(count)))
    }

    fn set(&mut self, of: &Kind) -> Result<Shown> {
        let count = self.len()?;
        let (mut keys, mut shown) = (Keys::default(), Vec::new());
        for index in 0..count {
            let value = self.part(index, "", |walk| {
                let (bytes, value) = walk.key(of)?;
                keys.add(bytes);
                Ok(value)
            });
            shown.extend(value.map_err(|fault| fault.within(&format!("[{index}]")))?);
        }
        keys.are_unique().map_err(|()| self.fault(Code::StateKey).found("a key twice, in what ends here"))?;
        Ok(Shown::Set(shown, u64_of(count)))
    }

    fn state(&mut self, id: u32) -> Result<Shown> {
        let lives = self.lives;
        let live =
            lives.get(&id).ok_or_else(|| self.fault(Code::StateId).found(format_args!("no description of id {id}")))?;
        self.depth = self.depth.saturating_add(1);
        self.reaches(self.depth)?;
        let version = live.version;
        let mut shown = ShownState { id, name: String::new(), version, variant: None, fields: Vec::new() };
        if self.keep {
            shown.name.clone_from(&live.of.name);
        }
        match &live.of.body {
            DescriptionBody::Struct { .. } => {
                self.fields(&live.fields, &mut shown)?;
                if !live.parts.is_empty() {
                    self.subsections(live, &mut shown)?;
                }
            }
            DescriptionBody::Enum { .. } => {
                let fault = self.fault(Code::StateTag);
                let tag = self.number()?;
                let (variant, fields) = live.variants.get(&tag).ok_or_else(|| {
                    // One fault is told of each object, whatever there is of variants.
                    let mut known = live.variants.values();
                    let some = known.by_ref().take(VARIANTS).map(|(one, _)| format!("{} ({})", one.tag, one.name));
                    let mut some: Vec<_> = some.collect();
                    some.extend(known.next().map(|_| "others".to_string()));
                    fault.item("tag").found(tag).expected(some.join(", "))
                })?;
                if self.keep {
                    shown.variant = Some(variant.name.clone());
                }
                self.fields(fields, &mut shown).map_err(|fault| fault.within(&variant.name))?;
            }
        }
        self.depth = self.depth.saturating_sub(1);
        Ok(if self.keep { Shown::State(Box::new(shown)) } else { Shown::None })
    }

    /// Whoever restores may come to a shared object from here first, and then as deep as this.
    fn reaches(&mut self, depth: u32) -> Result<()> {
        self.deepest = self.deepest.max(depth);
        if depth <= limits::DEPTH {
            return Ok(());
        }
        let fault = self.fault(Code::StateDepth);
        Err(fault.expected(format_args!("at most {} states in each other", limits::DEPTH)))
    }

    fn fields(&mut self, fields: &[&FieldDescription], shown: &mut ShownState) -> Result<()> {
        for field in fields {
            let value = self.part(0, &field.name, |walk| {
                let there = !field.when || walk.flag()?;
                if there { walk.value(&field.ty) } else { Ok(Shown::None) }
            });
            let value = value.map_err(|fault| fault.within(&field.name))?;
            shown.fields.extend(value.map(|value| (field.name.clone(), value)));
        }
        Ok(())
    }

    fn subsections(&mut self, live: &Live<'_>, shown: &mut ShownState) -> Result<()> {
        let count = self.len()?;
        let mut seen = alloc::collections::BTreeSet::new();
        for _ in 0..count {
            let fault = self.fault(Code::StateId);
            let id = u32::from_le_bytes(self.array()?);
            let part = live.parts.get(&id).ok_or_else(|| {
                let fault = fault.clone().found(format_args!("a subsection of id {id}"));
                fault.expected("one that the description has")
            })?;
            if !seen.insert(id) {
                return Err(fault.item(part.name.clone()).found("a subsection that is there twice"));
            }
            let at = self.offset();
            let len = u64::from(u32::from_le_bytes(self.array()?));
            let left = u64_of(self.rest.len());
            if len > left {
                let fault = Fault::new(Code::StateLength).offset(at).item(part.name.clone()).found(len);
                return Err(fault.expected(format_args!("at most {left}, the bytes that are left")));
            }
            let (own, behind) = self.rest.split_at_checked(usize_of(len)).unwrap_or_default();
            let end = self.end;
            (self.rest, self.end) = (own, end.saturating_sub(behind.len()));
            let value = self.part(0, &part.name, |walk| {
                let value = walk.state(id)?;
                walk.ends("subsection").map(|()| value)
            });
            let value = value.map_err(|fault| fault.within(&part.name))?;
            (self.rest, self.end) = (behind, end);
            shown.fields.extend(value.map(|value| (part.name.clone(), value)));
        }
        Ok(())
    }
}
