//! What a state is made of, as the program that has the type says it: constants, and their bytes.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;

use super::limits;
use crate::abi::state::kind;
use crate::num::u64_of;
use crate::out::Out;
use crate::report::{Code, Fault};

/// A type as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// A value without parts: its [kind](crate::abi::state::kind).
    Scalar(u8),
    /// So many values.
    Array(usize, &'static Type),
    /// Values, as many as there are.
    Seq(&'static Type),
    /// Keys and values; no key twice.
    Map(&'static Type, &'static Type),
    /// Values, none twice.
    Set(&'static Type),
    /// A value or none.
    Option(&'static Type),
    /// Values of several types.
    Tuple(&'static [Type]),
    /// A state with a description of its own.
    State {
        /// Its id.
        id: u32,
        /// What it is made of. A function, because a type may have itself as a part.
        shape: fn() -> &'static Shape,
    },
    /// An object that several have: an `Rc` or `Arc`.
    Shared(&'static Type),
    /// A weak link to such an object.
    Link(&'static Type),
    /// Bulk data: elements of one size, byte for byte.
    Plain(Element),
}

/// An element of bulk data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A number of fixed size: its [kind](crate::abi::state::kind).
    Scalar(u8),
    /// A structure that only its owner looks into.
    Record {
        /// Its name.
        name: &'static str,
        /// Bytes.
        size: usize,
    },
}

/// What a state is: its id, its versions and its fields. `#[derive(State)]` writes it.
#[derive(Clone, Copy, Debug)]
pub struct Desc {
    /// Its name, for people.
    pub name: &'static str,
    /// What it is known by, in every version and under every name.
    pub id: u32,
    /// The newest version.
    pub version: u32,
    /// The oldest version that is read and written.
    pub min_version: u32,
    /// Whether a successor that does not know it may leave it.
    pub ignorable: bool,
    /// What it is made of.
    pub body: Body,
}

/// What a state is made of.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// Fields, and parts with descriptions of their own that may be missing.
    Struct {
        /// The fields of all versions, in the order of the wire.
        fields: &'static [Field],
        /// The parts.
        subsections: &'static [Subsection],
    },
    /// One of several.
    Enum {
        /// All of them.
        variants: &'static [Variant],
    },
}

/// A field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// The first version that has it.
    pub since: u32,
    /// The first version that no longer has it; 0 where the newest has it.
    pub until: u32,
    /// Whether it is there only under a condition.
    pub when: bool,
    /// Its type.
    pub ty: Type,
}

/// A part that may be missing, whatever the version.
#[derive(Clone, Copy, Debug)]
pub struct Subsection {
    /// Name of the field.
    pub name: &'static str,
    /// Id of its description.
    pub id: u32,
    /// Its description.
    pub shape: fn() -> &'static Shape,
    /// Whether a reader that does not know it must refuse.
    pub required: bool,
}

/// One of several.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Its name.
    pub name: &'static str,
    /// Its value on the wire.
    pub tag: u32,
    /// The first version that has it.
    pub since: u32,
    /// Its fields.
    pub fields: &'static [Field],
}

/// The description of a state, and its bytes.
#[derive(Debug)]
pub struct Shape {
    pub(crate) desc: Desc,
    pub(crate) bytes: &'static [u8],
}

impl PartialEq for Shape {
    fn eq(&self, other: &Shape) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Shape {}

impl Shape {
    /// For `#[derive(State)]`, with the bytes of [`shape_bytes`].
    #[doc(hidden)]
    #[must_use]
    pub const fn new(desc: Desc, bytes: &'static [u8]) -> Shape {
        Shape { desc, bytes }
    }

    /// What it is known by.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.desc.id
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.desc.name
    }

    /// The newest version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.desc.version
    }

    /// The oldest version that is read and written.
    #[must_use]
    pub const fn min_version(&self) -> u32 {
        self.desc.min_version
    }

    /// As a file has it: see [`Description::parse`](super::Description::parse).
    #[must_use]
    pub const fn bytes(&self) -> &'static [u8] {
        self.bytes
    }

    /// The states that are parts of it, directly.
    pub(crate) fn parts(&self, subsections: impl Fn(u32) -> bool, found: &mut Vec<&'static Shape>) {
        match self.desc.body {
            Body::Struct { fields, subsections: parts } => {
                fields.iter().for_each(|field| field.ty.parts(found));
                let wanted = parts.iter().filter(|part| subsections(part.id));
                found.extend(wanted.map(|part| (part.shape)()));
            }
            Body::Enum { variants } => {
                variants.iter().flat_map(|variant| variant.fields).for_each(|field| field.ty.parts(found));
            }
        }
    }
}

impl Type {
    /// Of the types that a program has, which nest as deep as it was written.
    fn parts(&self, found: &mut Vec<&'static Shape>) {
        match self {
            Type::Scalar(_) | Type::Plain(_) => {}
            Type::Array(_, ty)
            | Type::Seq(ty)
            | Type::Set(ty)
            | Type::Option(ty)
            | Type::Shared(ty)
            | Type::Link(ty) => {
                ty.parts(found);
            }
            Type::Map(key, value) => {
                key.parts(found);
                value.parts(found);
            }
            Type::Tuple(types) => types.iter().for_each(|ty| ty.parts(found)),
            Type::State { shape, .. } => found.push(shape()),
        }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![0; ty(Out::counting(), self).len];
        ty(Out::new(&mut bytes), self);
        bytes
    }
}

/// All that these states are made of, by id.
pub(crate) type Shapes = BTreeMap<u32, &'static Shape>;

/// These states and all that they are made of; of subsections, those of which this says so.
///
/// # Errors
/// [`Code::StateId`] for an id that two of them have.
pub(crate) fn closure(
    roots: impl IntoIterator<Item = &'static Shape>,
    subsections: impl Fn(u32) -> bool,
) -> Result<Shapes, Fault> {
    let mut shapes = Shapes::new();
    let mut waiting: Vec<&'static Shape> = roots.into_iter().collect();
    while let Some(shape) = waiting.pop() {
        match shapes.entry(shape.id()) {
            Entry::Vacant(place) => {
                place.insert(shape);
                shape.parts(&subsections, &mut waiting);
            }
            Entry::Occupied(place) if place.get().bytes == shape.bytes => {}
            Entry::Occupied(place) => {
                let names = format_args!("{} and {}", place.get().name(), shape.name());
                let fault = Fault::new(Code::StateId).item(alloc::format!("id {}", shape.id()));
                return Err(fault.found(names).expected("an id of its own for each state"));
            }
        }
    }
    Ok(shapes)
}

/// Panics when a state is not here that another one is made of, or two have one id.
#[track_caller]
pub(crate) const fn check_closed(shapes: &[&Shape]) {
    let mut rest = shapes;
    while let [shape, more @ ..] = rest {
        assert!(!has_id(more, shape.desc.id), "two states of a manifest have the same id");
        match shape.desc.body {
            Body::Struct { fields, subsections } => {
                check_fields(shapes, fields);
                let mut parts = subsections;
                while let [part, more @ ..] = parts {
                    check_id(shapes, part.id);
                    parts = more;
                }
            }
            Body::Enum { variants } => {
                let mut all = variants;
                while let [variant, more @ ..] = all {
                    check_fields(shapes, variant.fields);
                    all = more;
                }
            }
        }
        rest = more;
    }
}

const fn has_id(shapes: &[&Shape], id: u32) -> bool {
    let mut rest = shapes;
    while let [shape, more @ ..] = rest {
        if shape.desc.id == id {
            return true;
        }
        rest = more;
    }
    false
}

#[track_caller]
const fn check_id(shapes: &[&Shape], id: u32) {
    assert!(
        has_id(shapes, id),
        "a state that another one of the manifest is made of is not in the manifest: add its SHAPE"
    );
}

#[track_caller]
const fn check_fields(shapes: &[&Shape], fields: &[Field]) {
    let mut rest = fields;
    while let [field, more @ ..] = rest {
        check_type(shapes, &field.ty);
        rest = more;
    }
}

#[track_caller]
const fn check_type(shapes: &[&Shape], ty: &Type) {
    match ty {
        Type::Scalar(_) | Type::Plain(_) => {}
        Type::Array(_, of) | Type::Seq(of) | Type::Set(of) | Type::Option(of) | Type::Shared(of) | Type::Link(of) => {
            check_type(shapes, of);
        }
        Type::Map(key, value) => {
            check_type(shapes, key);
            check_type(shapes, value);
        }
        Type::Tuple(types) => {
            let mut rest = *types;
            while let [of, more @ ..] = rest {
                check_type(shapes, of);
                rest = more;
            }
        }
        Type::State { id, .. } => check_id(shapes, *id),
    }
}

const fn ty<'a>(out: Out<'a>, of: &Type) -> Out<'a> {
    ty_within(out, of, limits::TYPE_DEPTH)
}

const fn ty_within<'a>(out: Out<'a>, of: &Type, depth: u32) -> Out<'a> {
    assert!(depth > 0, "types of a field nest at most 8 deep: make the inner ones a state of their own");
    let deeper = depth.saturating_sub(1);
    match of {
        Type::Scalar(kind) => out.byte(*kind),
        Type::Array(count, of) => {
            assert!(*count > 0, "an array of nothing has no place in a state");
            ty_within(out.byte(kind::ARRAY).number(u64_of(*count)), of, deeper)
        }
        Type::Seq(of) => ty_within(out.byte(kind::SEQ), of, deeper),
        Type::Map(key, value) => ty_within(ty_within(out.byte(kind::MAP), key, deeper), value, deeper),
        Type::Set(of) => ty_within(out.byte(kind::SET), of, deeper),
        Type::Option(of) => ty_within(out.byte(kind::OPTION), of, deeper),
        Type::Tuple(types) => {
            assert!(!types.is_empty(), "an empty tuple has no place in a state");
            let mut out = out.byte(kind::TUPLE).number(u64_of(types.len()));
            let mut rest = *types;
            while let [first, more @ ..] = rest {
                out = ty_within(out, first, deeper);
                rest = more;
            }
            out
        }
        Type::State { id, .. } => out.byte(kind::STATE).u32(*id),
        Type::Shared(of) => ty_within(out.byte(kind::SHARED), of, deeper),
        Type::Link(of) => ty_within(out.byte(kind::LINK), of, deeper),
        Type::Plain(Element::Scalar(kind)) => out.byte(kind::PLAIN).byte(*kind),
        Type::Plain(Element::Record { name, size }) => {
            assert!(*size > 0, "elements have a size");
            out.byte(kind::PLAIN).byte(kind::RECORD).text(name).number(u64_of(*size))
        }
    }
}

const fn fields<'a>(out: Out<'a>, all: &[Field]) -> Out<'a> {
    assert!(all.len() <= limits::FIELDS, "a state has at most 1024 fields");
    let mut out = out.number(u64_of(all.len()));
    let mut rest = all;
    while let [field, more @ ..] = rest {
        out = out.text(field.name).number32(field.since).number32(field.until);
        out = ty(out.byte(if field.when { 1 } else { 0 }), &field.ty);
        rest = more;
    }
    out
}

const fn shape<'a>(out: Out<'a>, desc: &Desc) -> Out<'a> {
    assert!(desc.id != 0 && desc.min_version != 0 && desc.min_version <= desc.version, "ids and versions begin at 1");
    let out = out.u32(desc.id).u32(desc.version).u32(desc.min_version).byte(if desc.ignorable { 1 } else { 0 });
    let out = out.text(desc.name);
    match desc.body {
        Body::Struct { fields: all, subsections } => {
            let mut out = fields(out.byte(kind::STRUCT), all).number(u64_of(subsections.len()));
            let mut rest = subsections;
            while let [part, more @ ..] = rest {
                out = out.text(part.name).u32(part.id).byte(if part.required { 1 } else { 0 });
                rest = more;
            }
            out
        }
        Body::Enum { variants } => {
            assert!(variants.len() <= limits::FIELDS, "an enum has at most 1024 variants");
            let mut out = out.byte(kind::ENUM).number(u64_of(variants.len()));
            let mut rest = variants;
            while let [variant, more @ ..] = rest {
                out = fields(out.text(variant.name).number32(variant.tag).number32(variant.since), variant.fields);
                rest = more;
            }
            out
        }
    }
}

/// Bytes of the description.
#[doc(hidden)]
#[must_use]
pub const fn shape_size(desc: &Desc) -> usize {
    shape(Out::counting(), desc).len
}

/// The description.
#[doc(hidden)]
#[must_use]
pub const fn shape_bytes<const N: usize>(desc: &Desc) -> [u8; N] {
    let mut bytes = [0; N];
    assert!(shape(Out::new(&mut bytes), desc).is_full(N), "shape_size says how long it is");
    bytes
}
