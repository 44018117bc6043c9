//! Names that somebody else chose: bytes, which are text most of the time.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::report::{Code, Fault};

/// A name as its owner wrote it. Linux takes any bytes but zero.
///
/// It is printed as it is when it is text that a terminal can show, else escaped.
///
/// ```
/// use kho::text::Name;
/// assert_eq!(Name::from(b"vm-session".as_slice()).to_string(), "vm-session");
/// assert_eq!(Name::from(b"a\xff\n".as_slice()).to_string(), "a\\xff\\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Vec<u8>);

impl Name {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads a field `char[N]`: a name and at least one zero. What follows the first zero is not looked at.
    pub(crate) fn fixed(field: &[u8]) -> Result<Self, Fault> {
        let text = terminated(field)?;
        if text.is_empty() {
            return Err(Fault::new(Code::Text).found("an empty name").expected("at least one byte"));
        }
        Ok(Name::from(text))
    }
}

/// The bytes before the first zero of a field `char[N]`.
pub(crate) fn terminated(field: &[u8]) -> Result<&[u8], Fault> {
    let mut parts = field.splitn(2, |&byte| byte == 0);
    match (parts.next(), parts.next()) {
        (Some(text), Some(_)) => Ok(text),
        _ => Err(Fault::new(Code::Text)
            .found(format_args!("\"{}\", without a zero", field.escape_ascii()))
            .expected(format_args!("a zero within {} bytes", field.len()))),
    }
}

/// The text in a field `char[N]`; it may be empty.
pub(crate) fn fixed_text(field: &[u8]) -> Result<String, Fault> {
    let text = terminated(field)?;
    match core::str::from_utf8(text) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(Fault::new(Code::Text).found(format_args!("\"{}\"", text.escape_ascii())).expected("UTF-8")),
    }
}

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Self {
        Name(bytes.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match core::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A string: what is not text that a terminal can show is escaped, as [`Name`] is printed.
#[cfg(feature = "schema")]
impl schemars::JsonSchema for Name {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A name as its owner wrote it, escaped where it is not text that a terminal can show.",
            "type": "string",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_in_a_zero() {
        assert_eq!(Name::fixed(b"ab\0c").unwrap().as_bytes(), b"ab");
        let fault = Name::fixed(b"abc").unwrap_err();
        assert_eq!(fault.to_string(), "text: found \"abc\", without a zero, expected a zero within 3 bytes");
        assert_eq!(Name::fixed(b"\0ab").unwrap_err().found_text(), "an empty name");
        assert_eq!(fixed_text(b"\0ab").unwrap(), "");
        let fault = fixed_text(b"a\xff\0").unwrap_err();
        assert_eq!((fault.found_text(), fault.expected_text()), ("\"a\\xff\"", "UTF-8"));
    }
}
