//! Values that were read by their descriptions, as they are shown.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::abi::state::Resource;

/// So many elements of a list are shown; the rest is counted.
pub const SHOWN: usize = 1 << 16;

/// A value as it is shown.
///
/// In JSON, a value is what its type suggests:
///
/// | value | JSON |
/// |---|---|
/// | numbers of at most 64 bits, `bool`, text | a number, `true`, a string |
/// | numbers of 128 bits; floats that are no number | a string: `"340282366920938463463374607431768211455"`, `"NaN"` |
/// | a structure | an object: its fields, in their order |
/// | an enum | `{"variant": "periodic", "fields": {"every": 9}}`, without `fields` where it has none |
/// | an option, a field under a condition | the value, or `null` |
/// | a list, a set, an array, a tuple | an array; `{"len": 100000, "first": [...]}` when not all are shown |
/// | a map | as a list, each `{"key": ..., "value": ...}` |
/// | bytes | `{"len": 3, "hex": "010203"}`, of which at most 64 are shown |
/// | a shared object, a weak link | `{"object": 2}`, `{"link": 2}`, `{"link": null}` |
/// | bulk data | `{"bulk": {"bytes": 4096, "offset": 64, "first": "0102"}}`: the offset is that in all bulk data |
/// | pages | `{"folio": {"address": 8192, "order": 0}}`, `{"area": {"first": 12288, "pages": 512, "order": 0}}` |
/// | a file | `{"memfd": 5}`, `{"descriptor": 6}`: its token |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A number, as people write it.
    Number(u64),
    /// A number below zero.
    Negative(i64),
    /// A number of 128 bits.
    Big(u128),
    /// A number of 128 bits below zero.
    BigNegative(i128),
    /// As the type has it.
    Bool(bool),
    /// As the type has it.
    Float(Float),
    /// A text, or a character.
    Text(String),
    /// Numbers of one byte, those that are shown, and how many there are.
    Bytes(Vec<u8>, u64),
    /// Those that are shown, and how many there are.
    List(Vec<Shown>, u64),
    /// The same, in no order that means something.
    Set(Vec<Shown>, u64),
    /// Keys and values that are shown, and how many there are.
    Map(Vec<(Shown, Shown)>, u64),
    /// No value.
    None,
    /// A state.
    State(Box<ShownState>),
    /// A shared object: its number.
    Object(u32),
    /// A weak link to an object, or to none.
    Link(Option<u32>),
    /// Bulk data.
    Bulk {
        /// How many.
        bytes: u64,
        /// Where they begin in all bulk data.
        offset: u64,
        /// The first of them, where they can be read: at most [`Shown::FIRST`].
        first: Vec<u8>,
    },
    /// Pages or a descriptor: the resource.
    Resource(Resource),
}

impl Shown {
    /// So many bytes of bulk data are shown.
    pub const FIRST: usize = 16;

    /// So many numbers of one byte are shown as text or JSON.
    pub const HEX: usize = 64;

    /// Looks at the beginnings of bulk data: `read` reads some at an offset.
    #[cfg(all(feature = "std", feature = "serde"))]
    pub(crate) fn read_first(&mut self, read: &mut dyn FnMut(u64, &mut [u8]) -> bool) {
        match self {
            Shown::Bulk { bytes, offset, first } => {
                let most = crate::num::usize_of(*bytes).min(Self::FIRST);
                let mut buffer = alloc::vec![0; most];
                if read(*offset, &mut buffer) {
                    *first = buffer;
                }
            }
            Shown::List(list, _) | Shown::Set(list, _) => list.iter_mut().for_each(|value| value.read_first(read)),
            Shown::Map(list, _) => list.iter_mut().for_each(|(_, value)| value.read_first(read)),
            Shown::State(state) => state.fields.iter_mut().for_each(|(_, value)| value.read_first(read)),
            _ => {}
        }
    }
}

/// A number of which each pattern of bits is the same as itself, and as no other.
#[derive(Clone, Copy, Debug)]
pub struct Float(pub f64);

impl PartialEq for Float {
    fn eq(&self, other: &Float) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Float {}

/// A state as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownState {
    /// Id of its description.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The version that it was written in.
    pub version: u32,
    /// Name of the variant, of an enum.
    pub variant: Option<String>,
    /// Fields and subsections, by name. A field whose condition says no has no value.
    pub fields: Vec<(String, Shown)>,
}

/// An object of an image, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownObject {
    /// Its type, as people write it.
    pub ty: String,
    /// What it is.
    pub value: Shown,
}

/// Bytes in hexadecimal, at most so many.
#[cfg(feature = "serde")]
fn hex(bytes: &[u8], most: usize) -> String {
    use core::fmt::Write as _;

    let mut text = String::new();
    for byte in bytes.iter().take(most) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(feature = "serde")]
mod json {
    use alloc::string::ToString as _;

    use serde::ser::{Serialize, SerializeMap as _, Serializer};

    use super::{Shown, ShownState, hex};
    use crate::abi::state::{AREA, DESCRIPTOR, FOLIO, MEMFD};
    use crate::num::u64_of;
    use crate::state::resource::descriptor_of;

    /// One entry of an object.
    struct Entry<'a, T>(&'a str, T);

    impl<T: Serialize> Serialize for Entry<'_, T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(self.0, &self.1)?;
            map.end()
        }
    }

    #[derive(serde::Serialize)]
    struct Bytes {
        len: u64,
        hex: alloc::string::String,
    }

    #[derive(serde::Serialize)]
    struct Bulk {
        bytes: u64,
        offset: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        first: alloc::string::String,
    }

    #[derive(serde::Serialize)]
    struct Folio {
        address: u64,
        order: u64,
    }

    #[derive(serde::Serialize)]
    struct Area {
        first: u64,
        pages: u32,
        order: u16,
    }

    #[derive(serde::Serialize)]
    struct Pair<'a> {
        key: &'a Shown,
        value: &'a Shown,
    }

    /// A list of which not all is shown.
    #[derive(serde::Serialize)]
    struct Cut<T> {
        len: u64,
        first: T,
    }

    fn list<S: Serializer>(serializer: S, shown: &[impl Serialize], len: u64) -> Result<S::Ok, S::Error> {
        if u64_of(shown.len()) == len {
            shown.serialize(serializer)
        } else {
            Cut { len, first: shown }.serialize(serializer)
        }
    }

    struct Fields<'a>(&'a ShownState);

    impl Serialize for Fields<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.fields.iter().map(|(name, value)| (name, value)))
        }
    }

    impl Serialize for Shown {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self {
                Shown::Number(number) => serializer.serialize_u64(*number),
                Shown::Negative(number) => serializer.serialize_i64(*number),
                Shown::Big(number) => serializer.collect_str(number),
                Shown::BigNegative(number) => serializer.collect_str(number),
                Shown::Bool(value) => serializer.serialize_bool(*value),
                Shown::Float(number) if number.0.is_finite() => serializer.serialize_f64(number.0),
                Shown::Float(number) => serializer.collect_str(&number.0.to_string()),
                Shown::Text(text) => serializer.serialize_str(text),
                Shown::Bytes(bytes, len) => Bytes { len: *len, hex: hex(bytes, Self::HEX) }.serialize(serializer),
                Shown::List(shown, len) | Shown::Set(shown, len) => list(serializer, shown, *len),
                Shown::Map(shown, len) => {
                    let pairs: alloc::vec::Vec<_> = shown.iter().map(|(key, value)| Pair { key, value }).collect();
                    list(serializer, &pairs, *len)
                }
                Shown::None => serializer.serialize_none(),
                Shown::State(state) => match &state.variant {
                    None => Fields(state).serialize(serializer),
                    Some(name) => {
                        let mut map = serializer.serialize_map(None)?;
                        map.serialize_entry("variant", name)?;
                        if !state.fields.is_empty() {
                            map.serialize_entry("fields", &Fields(state))?;
                        }
                        map.end()
                    }
                },
                Shown::Object(number) => Entry("object", number).serialize(serializer),
                Shown::Link(number) => Entry("link", number).serialize(serializer),
                Shown::Bulk { bytes, offset, first } => {
                    let bulk = Bulk { bytes: *bytes, offset: *offset, first: hex(first, Self::FIRST) };
                    Entry("bulk", bulk).serialize(serializer)
                }
                Shown::Resource(one) => match one.kind.get() {
                    FOLIO => Entry("folio", Folio { address: one.a.get(), order: one.b.get() }).serialize(serializer),
                    AREA => {
                        let of = descriptor_of(one);
                        let (first, pages, order) = (of.first.get(), of.total_pages.get(), of.order.get());
                        Entry("area", Area { first, pages, order }).serialize(serializer)
                    }
                    MEMFD => Entry("memfd", one.a.get()).serialize(serializer),
                    DESCRIPTOR => Entry("descriptor", one.a.get()).serialize(serializer),
                    other => Entry("resource", other).serialize(serializer),
                },
            }
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Shown {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "Value".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let value = generator.subschema_for::<Shown>();
        schemars::json_schema!({
            "description": "A value, as its type suggests. Numbers of 128 bits and floats that are no number are strings. A \
                            structure is an object with its fields in their order; an enum {variant, fields}; a map a list \
                            of {key, value}; a list of which not all is shown {len, first}; bytes {len, hex}, at most 64 of \
                            them; a shared object {object: NUMBER}, a weak link {link: NUMBER or null}; bulk data {bulk: \
                            {bytes, offset, first}}; pages {folio: {address, order}} or {area: {first, pages, order}}; a file \
                            {memfd: TOKEN} or {descriptor: TOKEN}.",
            "anyOf": [
                { "type": ["number", "boolean", "string", "null"] },
                { "type": "array", "items": value },
                { "type": "object", "additionalProperties": value }
            ]
        })
    }
}
