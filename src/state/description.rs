//! What a state is made of, as a file says it: read without the program that wrote it.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use super::kind::{Kind, scalar};
use super::limits;
use super::number;
use super::shape::{Element, Type};
use crate::abi::state::kind;
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// What a state is: its id, its versions and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Description {
    /// What it is known by, in every version and under every name.
    pub id: u32,
    /// Its name, for people.
    pub name: String,
    /// The newest version.
    pub version: u32,
    /// The oldest version that is read and written.
    pub min_version: u32,
    /// Whether a reader that does not know it may leave it.
    pub ignorable: bool,
    /// What it is made of.
    pub body: DescriptionBody,
}

/// What a state is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DescriptionBody {
    /// Fields, and parts with descriptions of their own that may be missing.
    Struct {
        /// The fields of all versions, in the order of the wire.
        fields: Vec<FieldDescription>,
        /// The parts.
        subsections: Vec<SubsectionDescription>,
    },
    /// One of several.
    Enum {
        /// All of them.
        variants: Vec<VariantDescription>,
    },
}

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FieldDescription {
    /// Its name.
    pub name: String,
    /// The first version that has it.
    pub since: u32,
    /// The first version that no longer has it; 0 where the newest has it.
    pub until: u32,
    /// Whether it is there only under a condition.
    pub when: bool,
    /// Its type.
    #[cfg_attr(feature = "serde", serde(rename = "type"))]
    pub ty: Kind,
}

/// A part that may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SubsectionDescription {
    /// Its name.
    pub name: String,
    /// Id of its description.
    pub id: u32,
    /// Whether a reader that does not know it must refuse.
    pub required: bool,
}

/// One of several.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VariantDescription {
    /// Its name.
    pub name: String,
    /// Its value on the wire.
    pub tag: u32,
    /// The first version that has it.
    pub since: u32,
    /// Its fields.
    pub fields: Vec<FieldDescription>,
}

/// Whether a version has a field of these.
pub(crate) const fn has(since: u32, until: u32, version: u32) -> bool {
    since <= version && (until == 0 || version < until)
}

impl FieldDescription {
    /// Whether that version has it.
    #[must_use]
    pub const fn is_in(&self, version: u32) -> bool {
        has(self.since, self.until, version)
    }
}

impl Description {
    /// Reads a description, all of these bytes.
    ///
    /// # Errors
    /// [`Code::Truncated`], [`Code::Text`] and [`Code::StateSchema`], with the offset in the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Description, Fault> {
        let mut input = Input { all: bytes.len(), rest: bytes, last: 0 };
        let description = input.description().map_err(|fault| fault.offset(input.offset()))?;
        if input.rest.is_empty() {
            return Ok(description);
        }
        input.last = input.offset();
        Err(input.fault("description").found("bytes behind it"))
    }

    /// The same, in which the fields that a version has have a name each: the second one of a name has `#2` behind it.
    #[cfg(all(feature = "std", feature = "serde"))]
    pub(crate) fn with_unique_names(mut self, version: u32) -> Description {
        fn rename<'a>(names: impl Iterator<Item = &'a mut String>) {
            let mut seen = alloc::collections::BTreeMap::<String, u32>::new();
            for name in names {
                let times = seen.entry(name.clone()).or_default();
                *times = times.saturating_add(1);
                if *times > 1 {
                    *name = alloc::format!("{name}#{times}");
                }
            }
        }
        fn of(fields: &mut [FieldDescription], version: u32) -> impl Iterator<Item = &mut String> {
            fields.iter_mut().filter(move |field| field.is_in(version)).map(|field| &mut field.name)
        }
        match &mut self.body {
            DescriptionBody::Struct { fields, subsections } => {
                rename(of(fields, version).chain(subsections.iter_mut().map(|part| &mut part.name)));
            }
            DescriptionBody::Enum { variants } => {
                variants.iter_mut().for_each(|variant| rename(of(&mut variant.fields, version)));
            }
        }
        self
    }

    /// Its name, id and versions, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let Description { id, name, version, min_version, .. } = self;
        alloc::format!("the state {name} (id {id}, version {version}, from {min_version})")
    }

    /// The fields of a structure, or of the variant with that tag.
    #[must_use]
    pub fn fields(&self, tag: Option<u32>) -> &[FieldDescription] {
        match (&self.body, tag) {
            (DescriptionBody::Struct { fields, .. }, None) => fields,
            (DescriptionBody::Enum { variants }, Some(tag)) => {
                variants.iter().find(|variant| variant.tag == tag).map_or(&[], |variant| &variant.fields)
            }
            _ => &[],
        }
    }

    /// The parts that may be missing.
    #[must_use]
    pub fn subsections(&self) -> &[SubsectionDescription] {
        match &self.body {
            DescriptionBody::Struct { subsections, .. } => subsections,
            DescriptionBody::Enum { .. } => &[],
        }
    }

    /// The ids of all states that it may be made of, directly.
    pub(crate) fn parts(&self, found: &mut dyn FnMut(u32)) {
        let variants = match &self.body {
            DescriptionBody::Struct { .. } => &[][..],
            DescriptionBody::Enum { variants } => variants,
        };
        let fields = self.fields(None).iter().chain(variants.iter().flat_map(|variant| &variant.fields));
        fields.for_each(|field| field.ty.states(&mut |id, _| found(id)));
        self.subsections().iter().for_each(|part| found(part.id));
    }

    /// Whether a value of this in that version takes at least one byte, so that a length bounds how many there are.
    pub(crate) fn takes_bytes(&self, version: u32) -> bool {
        match &self.body {
            DescriptionBody::Enum { .. } => true,
            DescriptionBody::Struct { fields, subsections } => {
                !subsections.is_empty() || fields.iter().any(|field| field.is_in(version))
            }
        }
    }
}

impl Kind {
    /// As a file has it.
    pub(crate) fn of(ty: &Type) -> Kind {
        let boxed = |ty: &Type| Box::new(Kind::of(ty));
        match *ty {
            Type::Scalar(kind) => Kind::Scalar(kind),
            Type::Array(count, of) => Kind::Array(u64_of(count), boxed(of)),
            Type::Seq(of) => Kind::Seq(boxed(of)),
            Type::Map(key, value) => Kind::Map(boxed(key), boxed(value)),
            Type::Set(of) => Kind::Set(boxed(of)),
            Type::Option(of) => Kind::Option(boxed(of)),
            Type::Tuple(types) => Kind::Tuple(types.iter().map(Kind::of).collect()),
            Type::State { id, .. } => Kind::State(id),
            Type::Shared(of) => Kind::Shared(boxed(of)),
            Type::Link(of) => Kind::Link(boxed(of)),
            Type::Plain(Element::Scalar(kind)) => Kind::Plain(kind),
            Type::Plain(Element::Record { name, size }) => Kind::Records { name: name.to_string(), size: u64_of(size) },
        }
    }

    /// Whether it is this type.
    pub(crate) fn is(&self, ty: &Type) -> bool {
        match (self, *ty) {
            (Kind::State(id), Type::State { id: other, .. }) => *id == other,
            _ => *self == Kind::of(ty),
        }
    }

    /// Reads a type at the start of bytes; how many it takes.
    pub(crate) fn parse_prefix(bytes: &[u8]) -> Result<(Kind, usize), Fault> {
        let mut input = Input { all: bytes.len(), rest: bytes, last: 0 };
        Ok((input.kind(limits::TYPE_DEPTH)?, usize_of(input.offset())))
    }
}

struct Input<'a> {
    all: usize,
    rest: &'a [u8],
    /// Where what was read last begins.
    last: u64,
}

impl<'a> Input<'a> {
    fn offset(&self) -> u64 {
        u64_of(self.all.saturating_sub(self.rest.len()))
    }

    /// What was read last makes no sense.
    fn fault(&self, item: &'static str) -> Fault {
        Fault::new(Code::StateSchema).item(item).offset(self.last)
    }

    fn cut(&self, item: &'static str) -> Fault {
        Fault::new(Code::Truncated).item(item).offset(self.offset())
    }

    fn bytes<const N: usize>(&mut self, item: &'static str) -> Result<[u8; N], Fault> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.cut(item))?;
        self.last = self.offset();
        self.rest = rest;
        Ok(*bytes)
    }

    fn byte(&mut self, item: &'static str) -> Result<u8, Fault> {
        self.bytes::<1>(item).map(|[byte]| byte)
    }

    fn flag(&mut self, item: &'static str) -> Result<bool, Fault> {
        match self.byte(item)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.fault(item).found(other).expected("0 or 1")),
        }
    }

    fn u32(&mut self, item: &'static str) -> Result<u32, Fault> {
        self.bytes(item).map(u32::from_le_bytes)
    }

    fn number(&mut self, item: &'static str) -> Result<u64, Fault> {
        let (number, rest) = number::read(self.rest).map_err(|broken| match broken {
            number::Broken::Short => self.cut(item),
            number::Broken::Long => Fault::new(Code::StateNumber).item(item).offset(self.offset()),
        })?;
        self.last = self.offset();
        self.rest = rest;
        Ok(number)
    }

    fn number32(&mut self, item: &'static str) -> Result<u32, Fault> {
        let number = self.number(item)?;
        u32::try_from(number).map_err(|_| self.fault(item).found(number).expected("at most 32 bits"))
    }

    fn count(&mut self, item: &'static str, most: usize) -> Result<usize, Fault> {
        let count = usize_of(self.number(item)?);
        // Each takes bytes, so that what is left bounds it too.
        let most = most.min(self.rest.len());
        if count > most {
            Err(self.fault(item).found(count).expected(format_args!("at most {most}")))
        } else {
            Ok(count)
        }
    }

    fn text(&mut self, item: &'static str) -> Result<String, Fault> {
        let len = usize::from(self.byte(item)?);
        let (text, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.cut(item))?;
        let text = core::str::from_utf8(text).ok().filter(|text| !text.is_empty() && !text.contains(char::is_control));
        let text = text.ok_or_else(|| {
            let found = crate::compat::Quoted(self.rest.get(..len).unwrap_or_default());
            Fault::new(Code::Text).item(item).offset(self.offset()).found(found).expected("a name in UTF-8")
        })?;
        self.rest = rest;
        Ok(text.to_string())
    }

    fn description(&mut self) -> Result<Description, Fault> {
        let id = self.u32("id")?;
        if id == 0 {
            return Err(self.fault("id").found(0).expected("an id"));
        }
        let (version, min_version) = (self.u32("version")?, self.u32("min_version")?);
        if min_version == 0 || min_version > version {
            return Err(self.fault("min_version").found(min_version).expected(format_args!("1 to {version}")));
        }
        let (ignorable, name) = (self.flag("ignorable")?, self.text("name")?);
        let body = match self.byte("body")? {
            kind::STRUCT => {
                let fields = self.fields()?;
                let count = self.count("subsections", limits::FIELDS)?;
                let parts = (0..count).map(|_| {
                    let (name, id) = (self.text("subsection")?, self.u32("subsection")?);
                    Ok(SubsectionDescription { name, id, required: self.flag("subsection")? })
                });
                let subsections: Vec<SubsectionDescription> = parts.collect::<Result<_, Fault>>()?;
                self.unique("subsections", subsections.iter().map(|part| part.id))?;
                DescriptionBody::Struct { fields, subsections }
            }
            kind::ENUM => {
                let count = self.count("variants", limits::FIELDS)?;
                let variants = (0..count).map(|_| {
                    let (name, tag, since) = (self.text("variant")?, self.number32("tag")?, self.number32("since")?);
                    Ok(VariantDescription { name, tag, since, fields: self.fields()? })
                });
                let variants: Vec<VariantDescription> = variants.collect::<Result<_, Fault>>()?;
                self.unique("variants", variants.iter().map(|variant| variant.tag))?;
                DescriptionBody::Enum { variants }
            }
            other => return Err(self.fault("body").found(other).expected("a structure or an enum")),
        };
        Ok(Description { id, name, version, min_version, ignorable, body })
    }

    fn unique<T: Ord + fmt::Display + Copy>(
        &self,
        item: &'static str,
        all: impl Iterator<Item = T>,
    ) -> Result<(), Fault> {
        let mut seen = BTreeSet::new();
        for one in all {
            if !seen.insert(one) {
                return Err(self.fault(item).found(format_args!("{one} twice")));
            }
        }
        Ok(())
    }

    fn fields(&mut self) -> Result<Vec<FieldDescription>, Fault> {
        let count = self.count("fields", limits::FIELDS)?;
        let fields = (0..count).map(|_| {
            let (name, since, until) = (self.text("field")?, self.number32("since")?, self.number32("until")?);
            if until != 0 && since >= until {
                return Err(self.fault("until").found(until).expected(format_args!("0, or more than {since}")));
            }
            Ok(FieldDescription { name, since, until, when: self.flag("when")?, ty: self.kind(limits::TYPE_DEPTH)? })
        });
        fields.collect()
    }

    /// At most so deep: what is read bounds the recursion, and this bounds it further.
    fn kind(&mut self, depth: u32) -> Result<Kind, Fault> {
        let Some(deeper) = depth.checked_sub(1) else {
            let fault = Fault::new(Code::StateDepth).item("type").offset(self.offset());
            return Err(fault.expected(format_args!("at most {} types in each other", limits::TYPE_DEPTH)));
        };
        Ok(match self.byte("type")? {
            kind::ARRAY => {
                let count = self.number("count")?;
                if count == 0 {
                    return Err(self.fault("count").found(0).expected("at least 1"));
                }
                Kind::Array(count, Box::new(self.kind(deeper)?))
            }
            kind::SEQ => Kind::Seq(Box::new(self.kind(deeper)?)),
            kind::MAP => Kind::Map(Box::new(self.kind(deeper)?), Box::new(self.kind(deeper)?)),
            kind::SET => Kind::Set(Box::new(self.kind(deeper)?)),
            kind::OPTION => Kind::Option(Box::new(self.kind(deeper)?)),
            kind::TUPLE => {
                let count = self.count("tuple", limits::FIELDS)?;
                if count == 0 {
                    return Err(self.fault("tuple").found(0).expected("at least 1"));
                }
                Kind::Tuple((0..count).map(|_| self.kind(deeper)).collect::<Result<_, _>>()?)
            }
            kind::STATE => Kind::State(self.u32("state")?),
            kind::SHARED => Kind::Shared(Box::new(self.kind(deeper)?)),
            kind::LINK => Kind::Link(Box::new(self.kind(deeper)?)),
            kind::PLAIN => match self.byte("element")? {
                kind::RECORD => {
                    let (name, size) = (self.text("element")?, self.number("size")?);
                    if size == 0 {
                        return Err(self.fault("size").found(0).expected("at least 1"));
                    }
                    Kind::Records { name, size }
                }
                of if scalar(of).is_some_and(|(_, size)| size.is_some()) => Kind::Plain(of),
                of => return Err(self.fault("element").found(of).expected("a type of fixed size")),
            },
            of if scalar(of).is_some() => Kind::Scalar(of),
            of => return Err(self.fault("type").found(of).expected("a type that this reader knows")),
        })
    }
}

/// Where the states that a program has are not those of its manifest: the first of them.
pub(crate) fn disagree(node: &str, said: &[Description], done: &[Description]) -> Option<Fault> {
    let ids: BTreeSet<u32> = said.iter().chain(done).map(|of| of.id).collect();
    let find = |all: &[Description], id: u32| all.iter().find(|of| of.id == id).cloned();
    let text = |of: Option<Description>| of.map_or_else(|| "no such state".into(), |of| of.summary());
    let mut pairs = ids.into_iter().map(|id| (find(said, id), find(done, id)));
    let (said, done) = pairs.find(|(said, done)| said != done)?;
    let fault = Fault::new(Code::ManifestDisagrees).item(alloc::format!("/{node}")).found(text(done));
    Some(fault.expected(alloc::format!("{}, as the manifest says", text(said))))
}
