//! Types, as people write them.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use super::limits;
use crate::abi::state::kind;
use crate::num::index_of;
use crate::report::{Code, Fault};

/// A type, printed and read as people write it. In JSON it is that text.
///
/// | text | what it is |
/// |---|---|
/// | `bool`, `u8` to `u128`, `i8` to `i128`, `f32`, `f64`, `char`, `str` | one value |
/// | `folio`, `area`, `memfd`, `descriptor` | pages or a file |
/// | `[u64; 18]`, `[u64]` | so many values, any number of values |
/// | `map<u32, str>`, `set<u32>` | keys and values, values, none twice |
/// | `u32?` | a value or none |
/// | `(u8, str)`, `(u8,)` | one of each |
/// | `state 7` | a state, by its id |
/// | `shared state 7`, `link state 7` | an object that several have, a weak link to one; `(shared u8)?` is one or none, `shared u8?` one that may be none |
/// | `plain u32`, `plain Vertex of 12 bytes` | bulk data of numbers, of structures |
///
/// ```
/// use kho::state::Kind;
///
/// let kind: Kind = "map<str, [state 7]?>".parse()?;
/// assert_eq!(kind, Kind::Map(Box::new("str".parse()?), Box::new(Kind::Option(Box::new("[state 7]".parse()?)))));
/// assert_eq!(kind.to_string(), "map<str, [state 7]?>");
/// assert_eq!(kind.named(&|id| (id == 7).then_some("timer")).to_string(), "map<str, [timer]?>");
/// # Ok::<(), kho::report::Fault>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value without parts: its [kind](crate::abi::state::kind).
    Scalar(u8),
    /// So many values.
    Array(u64, Box<Kind>),
    /// Values, as many as there are.
    Seq(Box<Kind>),
    /// Keys and values.
    Map(Box<Kind>, Box<Kind>),
    /// Values, none twice.
    Set(Box<Kind>),
    /// A value or none.
    Option(Box<Kind>),
    /// Values of several types.
    Tuple(Vec<Kind>),
    /// A state: the id of its description.
    State(u32),
    /// An object that several have.
    Shared(Box<Kind>),
    /// A weak link to such an object.
    Link(Box<Kind>),
    /// Bulk data of elements without a name: the [kind](crate::abi::state::kind) of each.
    Plain(u8),
    /// Bulk data of structures.
    Records {
        /// Their name.
        name: String,
        /// Bytes of each.
        size: u64,
    },
}

/// Every scalar: what it is called, and its bytes where they are fixed.
const SCALARS: [(u8, &str, Option<u8>); 19] = [
    (kind::BOOL, "bool", Some(1)),
    (kind::U8, "u8", Some(1)),
    (kind::U16, "u16", Some(2)),
    (kind::U32, "u32", Some(4)),
    (kind::U64, "u64", Some(8)),
    (kind::U128, "u128", Some(16)),
    (kind::I8, "i8", Some(1)),
    (kind::I16, "i16", Some(2)),
    (kind::I32, "i32", Some(4)),
    (kind::I64, "i64", Some(8)),
    (kind::I128, "i128", Some(16)),
    (kind::F32, "f32", Some(4)),
    (kind::F64, "f64", Some(8)),
    (kind::CHAR, "char", None),
    (kind::STR, "str", None),
    (kind::FOLIO, "folio", None),
    (kind::AREA, "area", None),
    (kind::MEMFD, "memfd", None),
    (kind::DESCRIPTOR, "descriptor", None),
];

/// What a scalar is called, and its bytes where they are fixed.
pub(crate) fn scalar(of: u8) -> Option<(&'static str, Option<u8>)> {
    SCALARS.iter().find(|(kind, ..)| *kind == of).map(|(_, name, size)| (*name, *size))
}

type Names<'a> = dyn Fn(u32) -> Option<&'a str> + 'a;

impl Kind {
    /// The same, printed with the names of its states where they are known.
    #[must_use]
    pub fn named<'a>(&'a self, names: &'a dyn Fn(u32) -> Option<&'a str>) -> impl fmt::Display + use<'a> {
        Named(self, names)
    }
}

struct Named<'a, 'n>(&'a Kind, &'a Names<'n>);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Named(self, &|_| None).fmt(f)
    }
}

impl fmt::Display for Named<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named(kind, names) = *self;
        let of = |kind| Named(kind, names);
        let name = |of: u8| scalar(of).map_or("?", |(name, _)| name);
        match kind {
            Kind::Scalar(of) => f.write_str(name(*of)),
            Kind::Array(count, inner) => write!(f, "[{}; {count}]", of(inner)),
            Kind::Seq(inner) => write!(f, "[{}]", of(inner)),
            Kind::Map(key, value) => write!(f, "map<{}, {}>", of(key), of(value)),
            Kind::Set(inner) => write!(f, "set<{}>", of(inner)),
            // `shared u8?` is a shared one that may be none.
            Kind::Option(inner) if matches!(**inner, Kind::Shared(_) | Kind::Link(_)) => write!(f, "({})?", of(inner)),
            Kind::Option(inner) => write!(f, "{}?", of(inner)),
            Kind::Tuple(types) => {
                let mut gap = "(";
                for inner in types {
                    write!(f, "{gap}{}", of(inner))?;
                    gap = ", ";
                }
                f.write_str(if types.len() == 1 { ",)" } else { ")" })
            }
            Kind::State(id) => match names(*id) {
                Some(name) => f.write_str(name),
                None => write!(f, "state {id}"),
            },
            Kind::Shared(inner) => write!(f, "shared {}", of(inner)),
            Kind::Link(inner) => write!(f, "link {}", of(inner)),
            Kind::Plain(of) => write!(f, "plain {}", name(*of)),
            Kind::Records { name, size } if is_word(name) => write!(f, "plain {name} of {size} bytes"),
            Kind::Records { name, size } => {
                f.write_str("plain \"")?;
                for c in name.chars() {
                    f.write_str(if matches!(c, '"' | '\\') { "\\" } else { "" })?;
                    fmt::Write::write_char(f, c)?;
                }
                write!(f, "\" of {size} bytes")
            }
        }
    }
}

/// A name that needs no quotes.
fn is_word(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
}

impl FromStr for Kind {
    type Err = Fault;

    /// Reads what is printed.
    ///
    /// # Errors
    /// [`Code::StateSchema`].
    fn from_str(text: &str) -> Result<Kind, Fault> {
        let mut input = Text { all: text, rest: text };
        // Parentheses are no types.
        let kind = input.kind(limits::TYPE_DEPTH.saturating_mul(2))?;
        if !input.rest.is_empty() || depth(&kind) > limits::TYPE_DEPTH {
            return Err(input.fault());
        }
        Ok(kind)
    }
}

fn depth(kind: &Kind) -> u32 {
    let inner = match kind {
        Kind::Scalar(_) | Kind::State(_) | Kind::Plain(_) | Kind::Records { .. } => 0,
        Kind::Map(key, value) => depth(key).max(depth(value)),
        Kind::Tuple(types) => types.iter().map(depth).max().unwrap_or(0),
        Kind::Array(_, of) | Kind::Seq(of) | Kind::Set(of) | Kind::Option(of) | Kind::Shared(of) | Kind::Link(of) => {
            depth(of)
        }
    };
    inner.saturating_add(1)
}

struct Text<'a> {
    all: &'a str,
    rest: &'a str,
}

impl<'a> Text<'a> {
    fn fault(&self) -> Fault {
        let fault = Fault::new(Code::StateSchema).item("type").found(crate::compat::Quoted(self.all.as_bytes()));
        fault.expected("a type, as [u64; 18] or map<u32, state 7>")
    }

    /// Whether that comes next; then it is read.
    fn takes(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn needs(&mut self, text: &str) -> Result<(), Fault> {
        if self.takes(text) { Ok(()) } else { Err(self.fault()) }
    }

    fn while_in(&mut self, allowed: impl Fn(char) -> bool) -> &'a str {
        let len = self.rest.find(|c| !allowed(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(len).unwrap_or_default();
        self.rest = rest;
        word
    }

    fn number<T: FromStr + ToString>(&mut self) -> Result<T, Fault> {
        let digits = self.while_in(|c| c.is_ascii_digit());
        digits.parse().ok().filter(|number: &T| number.to_string() == digits).ok_or_else(|| self.fault())
    }

    fn count(&mut self) -> Result<u64, Fault> {
        self.number().and_then(|count| if count == 0 { Err(self.fault()) } else { Ok(count) })
    }

    fn boxed(&mut self, depth: u32, end: &str) -> Result<Box<Kind>, Fault> {
        let kind = self.kind(depth)?;
        self.needs(end).map(|()| Box::new(kind))
    }

    fn kind(&mut self, depth: u32) -> Result<Kind, Fault> {
        let mut kind = self.whole(depth)?;
        let mut most = limits::TYPE_DEPTH;
        while self.takes("?") {
            most = most.checked_sub(1).ok_or_else(|| self.fault())?;
            kind = Kind::Option(Box::new(kind));
        }
        Ok(kind)
    }

    /// A type that is no option.
    fn whole(&mut self, depth: u32) -> Result<Kind, Fault> {
        let deeper = depth.checked_sub(1).ok_or_else(|| self.fault())?;
        if self.takes("[") {
            let of = Box::new(self.kind(deeper)?);
            if self.takes("]") {
                return Ok(Kind::Seq(of));
            }
            self.needs("; ")?;
            let count = self.count()?;
            return self.needs("]").map(|()| Kind::Array(count, of));
        }
        if self.takes("(") {
            return self.tuple(deeper);
        }
        let word = self.while_in(|c| c.is_ascii_alphanumeric());
        match word {
            "map" => {
                self.needs("<")?;
                let key = self.boxed(deeper, ", ")?;
                Ok(Kind::Map(key, self.boxed(deeper, ">")?))
            }
            "set" => {
                self.needs("<")?;
                self.boxed(deeper, ">").map(Kind::Set)
            }
            "state" => self.needs(" ").and_then(|()| self.number()).map(Kind::State),
            "shared" => self.needs(" ").and_then(|()| self.kind(deeper)).map(|of| Kind::Shared(Box::new(of))),
            "link" => self.needs(" ").and_then(|()| self.kind(deeper)).map(|of| Kind::Link(Box::new(of))),
            "plain" => self.needs(" ").and_then(|()| self.plain()),
            word => self.scalar(word).map(|(of, _)| Kind::Scalar(of)),
        }
    }

    fn scalar(&self, word: &str) -> Result<(u8, Option<u8>), Fault> {
        let found = SCALARS.iter().find(|(_, name, _)| *name == word);
        found.map(|(of, _, size)| (*of, *size)).ok_or_else(|| self.fault())
    }

    /// Behind the first parenthesis: a tuple, or a type in parentheses.
    fn tuple(&mut self, depth: u32) -> Result<Kind, Fault> {
        let mut types = Vec::new();
        while types.len() < index_of(1024).min(limits::FIELDS) {
            types.push(self.kind(depth)?);
            let is_first = types.len() == 1;
            if self.takes(")") {
                return Ok(if is_first { types.remove(0) } else { Kind::Tuple(types) });
            }
            if is_first && self.takes(",)") {
                return Ok(Kind::Tuple(types));
            }
            self.needs(", ")?;
        }
        Err(self.fault())
    }

    fn plain(&mut self) -> Result<Kind, Fault> {
        let mut name = String::new();
        if self.takes("\"") {
            while !self.takes("\"") {
                self.takes("\\");
                let c = self.rest.chars().next().filter(|c| !c.is_control()).ok_or_else(|| self.fault())?;
                self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
                name.push(c);
            }
        } else {
            name.push_str(self.while_in(|c| is_word(c.encode_utf8(&mut [0; 4]))));
        }
        if self.takes(" of ") {
            let size = self.count()?;
            self.needs(" bytes")?;
            if name.is_empty() || name.len() > 255 {
                return Err(self.fault());
            }
            return Ok(Kind::Records { name, size });
        }
        match self.scalar(&name)? {
            (of, Some(_)) => Ok(Kind::Plain(of)),
            _ => Err(self.fault()),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Kind {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "Kind".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A type, as people write it: `[u64; 18]`, `map<u32, str>`, `state 7` by its id, `u32?` for a \
                            value or none, `shared` and `link` for objects that several have, `plain` for bulk data.",
            "type": "string"
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        let all = [
            "bool",
            "u128",
            "descriptor",
            "[u64; 18]",
            "[[u8]]",
            "map<u32, str>",
            "set<(u8, i64)>",
            "u32?",
            "u32??",
            "(u8,)",
            "(u8, str?, [u8; 3])",
            "state 7",
            "shared state 7",
            "(shared state 7)?",
            "shared state 7?",
            "(link shared u8?)?",
            "plain u32",
            "plain my::Vertex of 12 bytes",
            "plain \"a \\\"b\\\\ of 3\" of 4 bytes?",
        ];
        for text in all {
            assert_eq!(text.parse::<Kind>().unwrap().to_string(), text);
        }
        assert_eq!("(u8)".parse::<Kind>(), Ok(Kind::Scalar(kind::U8)));
    }

    #[test]
    fn what_is_no_type() {
        let deep = "[".repeat(100_000);
        let many = alloc::format!("u8{}", "?".repeat(100_000));
        let nested = "[[[[[[[[u8]]]]]]]]";
        for text in [
            "",
            "u7",
            "[u8",
            "[u8; 0]",
            "[u8; 01]",
            "()",
            "(,)",
            "map<u8>",
            "state",
            "state x",
            "state 5000000000",
            "plain str",
            "plain  of 4 bytes",
            "plain x of 0 bytes",
            "plain \"x",
            "u8 ",
            " u8",
            "shared",
            "u8]",
            &deep,
            &many,
            nested,
        ] {
            assert_eq!(text.parse::<Kind>().unwrap_err().code(), Code::StateSchema, "{text:.20}");
        }
        assert!(nested[1..nested.len() - 1].parse::<Kind>().is_ok());
        let fault = "u7".parse::<Kind>().unwrap_err();
        let says = "state-schema: type: found \"u7\", expected a type, as [u64; 18] or map<u32, state 7>";
        assert_eq!(fault.to_string(), says);
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        let leaf = prop_oneof![
            (0..SCALARS.len()).prop_map(|at| Kind::Scalar(SCALARS[at].0)),
            any::<u32>().prop_map(Kind::State),
            (0..13_usize).prop_map(|at| Kind::Plain(SCALARS[at].0)),
            ("[^\\p{Cc}]{1,9}", 1..u64::MAX).prop_map(|(name, size)| Kind::Records { name, size }),
        ];
        leaf.prop_recursive(7, 30, 3, |inner| {
            let boxed = inner.clone().prop_map(Box::new);
            prop_oneof![
                (1..u64::MAX, boxed.clone()).prop_map(|(count, of)| Kind::Array(count, of)),
                boxed.clone().prop_map(Kind::Seq),
                (boxed.clone(), boxed.clone()).prop_map(|(key, value)| Kind::Map(key, value)),
                boxed.clone().prop_map(Kind::Set),
                boxed.clone().prop_map(Kind::Option),
                boxed.clone().prop_map(Kind::Shared),
                boxed.prop_map(Kind::Link),
                proptest::collection::vec(inner, 1..4).prop_map(Kind::Tuple),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_type_is_read_as_it_was_printed(kind in kinds()) {
            prop_assert_eq!(kind.to_string().parse::<Kind>(), Ok(kind));
        }

        #[test]
        fn any_text_is_a_type_or_none(text in "[a-z0-9\\[\\](){}<>,;? \"]{0,40}") {
            let _ = text.parse::<Kind>();
        }
    }
}
