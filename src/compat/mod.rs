//! Who understands what: components, the versions of their layouts, and how two sides differ.
//!
//! A [`Compat`] is one component and the number of its layout, `radix-v1`. A [`CompatList`] is what a node is made of:
//! the owner first, then the components whose layout it uses. The list travels in one of two codecs: as an FDT string
//! list ([`CompatList::to_fdt`], [`CompatVec::parse_fdt`]) or as one text, `kho-v4;radix-v1;vmalloc-v1` (`Display`,
//! [`CompatVec::parse_text`]); one component alone also travels in a fixed `char[N]` ([`Compat::to_fixed`],
//! [`Compat::parse_fixed`]). What a reader takes is a slice of [`Reads`]; [`Compat::judge`] and
//! [`CompatList::differences`] say which component differs, and how.
//!
//! ```
//! use kho::compat::{Compat, CompatList, CompatVec, Reads};
//!
//! const NODE: CompatList<'static> =
//!     CompatList::new(Compat::new("kho", 4), &[Compat::new("radix", 1), Compat::new("vmalloc", 1)]);
//! const READS: &[Reads<'static>] = &[Reads::since(1, Compat::new("radix", 2))];
//!
//! let found = CompatVec::parse_fdt(b"kho-v4\0radix-v3\0vmalloc-v1\0")?;
//! let differences = found.list().differences(NODE, READS);
//! assert_eq!(differences.len(), 1);
//! let fault = kho::report::Fault::from(differences[0]);
//! assert_eq!(fault.to_string(), "version-newer: found radix-v3, expected radix-v1..=v2");
//! # Ok::<(), kho::report::Fault>(())
//! ```

mod list;
mod matching;
mod terms;
#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};

pub use list::{CompatList, CompatVec};
pub use matching::{Difference, MadeOf, Reads};
pub use terms::{Agreed, Agreement, Outcome, Term, Terms, negotiate};
#[cfg(feature = "write")]
pub(crate) use terms::{Layouts, agree, made_of, settle};
pub(crate) use terms::{is_node_name, missing};

use crate::report::{Code, Fault};

/// A component and the version of its layout: `radix-v1`.
///
/// A name is one or more printable ASCII characters, without space and `;` (which separates the entries of a
/// composite). The version is a `u32`, in decimal and without leading zeros. Both spellings that Linux patches use are
/// known, `kho-v4` and `kvm_vm_luo_v1`: the one that was read is printed again, but two values are equal when name and
/// version are, in whatever spelling.
///
/// Not `Ord`: where order counts, in a [`CompatList`], it is that of the bytes of the printed string, in which the
/// spelling takes part and `radix-v10` comes before `radix-v9`.
///
/// ```
/// use kho::compat::Compat;
/// const RADIX: Compat<'static> = Compat::new("radix", 1);
/// assert_eq!(RADIX.to_string(), "radix-v1");
/// assert_eq!(Compat::parse("radix_v1")?, RADIX);
/// # Ok::<(), kho::report::Fault>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Compat<'a> {
    name: &'a str,
    version: u32,
    underscore: bool,
}

impl<'a> Compat<'a> {
    /// The longest printed string that [`Compat::new`] makes, in bytes: with its zero it fits the `char[48]` of LUO's
    /// file records and of the section `.liveupdate_versions`. What is read may be longer: no FDT forbids it.
    pub const LONGEST: usize = 47;

    /// A component of that name in that version, printed `NAME-vNUMBER`. Meant for a `const`.
    ///
    /// # Panics
    ///
    /// When the name is none, or the printed string is over [`Compat::LONGEST`]; in a `const`, that is an error of the
    /// compiler. A name that is known only at run time goes through [`Compat::parse`].
    #[must_use]
    #[track_caller]
    pub const fn new(name: &'a str, version: u32) -> Self {
        assert!(is_name(name.as_bytes()), "the name of a component is printable ASCII without space and `;`");
        let compat = Compat { name, version, underscore: false };
        assert!(compat.printed().len() <= Self::LONGEST, "NAME-vNUMBER must fit 47 bytes: LUO has a char[48] for it");
        compat
    }

    /// The same component, printed `NAME_vNUMBER`.
    ///
    /// ```
    /// use kho::compat::Compat;
    /// const KVM_VM: Compat<'static> = Compat::new("kvm_vm_luo", 1).underscored();
    /// assert_eq!(KVM_VM.to_string(), "kvm_vm_luo_v1");
    /// ```
    #[must_use]
    pub const fn underscored(self) -> Self {
        Compat { underscore: true, ..self }
    }

    /// The name, without the version.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// The number of the version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The same component in another version.
    pub(crate) const fn in_version(self, version: u32) -> Self {
        Compat { version, ..self }
    }

    /// Reads `NAME-vNUMBER` or `NAME_vNUMBER`. What it takes, it prints again byte for byte.
    ///
    /// ```
    /// use kho::compat::Compat;
    /// let found = Compat::parse("mshv_kho-v1")?;
    /// assert_eq!((found.name(), found.version()), ("mshv_kho", 1));
    /// let fault = Compat::parse("kho-4").unwrap_err();
    /// assert_eq!(fault.to_string(), "compat-syntax: found \"kho-4\", expected NAME-vNUMBER");
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::CompatSyntax`] for anything else, with the text; long texts are cut.
    pub fn parse(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Result<Self, Fault> {
        let text = text.as_ref();
        split(text).ok_or_else(|| Fault::new(Code::CompatSyntax).found(Quoted(text)).expected("NAME-vNUMBER"))
    }

    /// Reads a field `char[N]`, which holds one string and a zero.
    ///
    /// What follows the first zero is not looked at: Linux compares such fields as strings.
    ///
    /// ```
    /// use kho::compat::Compat;
    /// assert_eq!(Compat::parse_fixed(b"luo-v5\0\0")?, Compat::new("luo", 5));
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::Text`] when there is no zero, [`Code::CompatMissing`] when the string is empty, or that of
    /// [`Compat::parse`].
    pub fn parse_fixed(field: &'a [u8]) -> Result<Self, Fault> {
        let mut parts = field.split(|byte| *byte == 0);
        match (parts.next(), parts.next()) {
            (_, None) | (None, _) => Err(Fault::new(Code::Text)
                .found(Quoted(field))
                .expected(format_args!("a zero within {} bytes", field.len()))),
            (Some([]), _) => Err(Fault::new(Code::CompatMissing).found("an empty string").expected("NAME-vNUMBER")),
            (Some(text), _) => Self::parse(text),
        }
    }

    /// The printed string as a field `char[N]`, filled up with zeros, of which there is at least one.
    ///
    /// ```
    /// use kho::compat::Compat;
    /// assert_eq!(&Compat::new("luo", 5).to_fixed::<8>()?, b"luo-v5\0\0");
    /// assert!(Compat::new("memfd", 2).to_fixed::<8>().is_err());
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::Refused`] when the string and a zero do not fit.
    pub fn to_fixed<const N: usize>(&self) -> Result<[u8; N], Fault> {
        let text = self.printed();
        if text.len() >= N {
            return Err(Fault::new(Code::Refused)
                .found(format_args!("{}, {} bytes", Short(*self), text.len()))
                .expected(format_args!("a string and its zero in {N} bytes")));
        }
        let mut field = [0; N];
        field.iter_mut().zip(text).for_each(|(to, byte)| *to = byte);
        Ok(field)
    }

    /// The bytes of the printed string, also for a `const`.
    pub(crate) const fn printed(&self) -> Printed<'a> {
        let divisor = match self.version.checked_ilog10() {
            Some(digits) => 10_u32.saturating_pow(digits),
            None => 1,
        };
        let mark = if self.underscore { b"_v" } else { b"-v" };
        Printed { name: self.name.as_bytes(), mark, version: self.version, divisor }
    }

    /// Whether it is the same component, in whatever version.
    pub(crate) const fn has_name_of(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.name.as_bytes(), other.name.as_bytes());
        loop {
            match (a, b) {
                ([x, more @ ..], [y, rest @ ..]) if *x == *y => (a, b) = (more, rest),
                _ => return a.is_empty() && b.is_empty(),
            }
        }
    }
}

impl PartialEq for Compat<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.version) == (other.name, other.version)
    }
}

impl Eq for Compat<'_> {}

impl Hash for Compat<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.name, self.version).hash(state);
    }
}

impl fmt::Display for Compat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.underscore { '_' } else { '-' };
        write!(f, "{}{mark}v{}", self.name, self.version)
    }
}

/// Cuts at the last `-v` or `_v`; none when a part is missing or malformed.
fn split(text: &[u8]) -> Option<Compat<'_>> {
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (head, number) = text.split_at_checked(text.len().checked_sub(digits)?)?;
    let (name, underscore) = match head {
        [name @ .., b'-', b'v'] => (name, false),
        [name @ .., b'_', b'v'] => (name, true),
        _ => return None,
    };
    if !is_name(name) || matches!(number, [b'0', _, ..]) {
        return None;
    }
    let name = str::from_utf8(name).ok()?;
    let version = str::from_utf8(number).ok()?.parse().ok()?;
    Some(Compat { name, version, underscore })
}

const fn is_name(mut name: &[u8]) -> bool {
    if name.is_empty() {
        return false;
    }
    while let [byte, rest @ ..] = name {
        if !byte.is_ascii_graphic() || *byte == b';' {
            return false;
        }
        name = rest;
    }
    true
}

/// The bytes of a printed [`Compat`], one by one: an iterator that a `const fn` can use too.
#[derive(Clone, Copy)]
pub(crate) struct Printed<'a> {
    name: &'a [u8],
    mark: &'static [u8],
    version: u32,
    /// Of the next digit; zero behind the last one.
    divisor: u32,
}

impl Printed<'_> {
    pub(crate) const fn step(&mut self) -> Option<u8> {
        if let [byte, rest @ ..] = self.name {
            self.name = rest;
            return Some(*byte);
        }
        if let [byte, rest @ ..] = self.mark {
            self.mark = rest;
            return Some(*byte);
        }
        let Some(high) = self.version.checked_div(self.divisor) else { return None };
        self.divisor /= 10;
        let [digit, ..] = (high % 10).to_le_bytes();
        Some(b'0' | digit)
    }

    const fn len(mut self) -> usize {
        let mut len: usize = 0;
        while self.step().is_some() {
            len = len.saturating_add(1);
        }
        len
    }

    const fn compare(mut self, mut other: Self) -> Ordering {
        loop {
            match (self.step(), other.step()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => return Ordering::Less,
                (Some(_), None) => return Ordering::Greater,
                (Some(a), Some(b)) if a < b => return Ordering::Less,
                (Some(a), Some(b)) if a > b => return Ordering::Greater,
                _ => {}
            }
        }
    }
}

impl Iterator for Printed<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        self.step()
    }
}

/// Foreign bytes in a message: escaped, and cut when long.
pub(crate) struct Quoted<'a>(pub(crate) &'a [u8]);

impl Quoted<'_> {
    const LONGEST: usize = 64;
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(Self::LONGEST) {
            Some((head, [_, ..])) => write!(f, "\"{}\"... ({} bytes)", head.escape_ascii(), self.0.len()),
            _ => write!(f, "\"{}\"", self.0.escape_ascii()),
        }
    }
}

/// A component in a message: as it is printed, but its name cut when long.
struct Short<'a>(Compat<'a>);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.name.split_at_checked(Quoted::LONGEST) {
            Some((head, tail)) if !tail.is_empty() => write!(f, "{}", Compat { name: head, ..self.0 })
                .and_then(|()| write!(f, " (name cut from {} bytes)", self.0.name.len())),
            _ => write!(f, "{}", self.0),
        }
    }
}
