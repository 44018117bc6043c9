//! What a node is made of: composites, and the two ways in which they are written.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;

use super::{Compat, Quoted, Short};
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// What a node is made of: its owner, then what the owner depends on.
///
/// Each name stands once, the owner's too, and the entries behind the owner ascend by the bytes of their printed
/// strings. At most [`CompatList::MOST`] entries. A value of this type keeps all of that, wherever it comes from.
///
/// `Copy` and borrowed, so that a component can return its list from a method:
///
/// ```
/// use kho::compat::{Compat, CompatList};
///
/// const MADE_OF: CompatList<'static> =
///     CompatList::new(Compat::new("kho-test", 1), &[Compat::new("radix", 1), Compat::new("vmalloc", 1)]);
///
/// fn compat() -> CompatList<'static> {
///     MADE_OF
/// }
/// assert_eq!(compat().to_string(), "kho-test-v1;radix-v1;vmalloc-v1");
/// ```
///
/// A list that breaks the rules does not compile:
///
/// ```compile_fail
/// use kho::compat::{Compat, CompatList};
///
/// const MADE_OF: CompatList<'static> =
///     CompatList::new(Compat::new("kho", 4), &[Compat::new("vmalloc", 1), Compat::new("radix", 1)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CompatList<'a> {
    owner: Compat<'a>,
    uses: &'a [Compat<'a>],
}

/// Why an entry cannot follow a list: the entry that stands against it, and the rule.
struct Refusal<'a> {
    earlier: Compat<'a>,
    rule: &'static str,
}

impl<'a> CompatList<'a> {
    /// So many entries a list has at most, the owner counted; also one that is read, whoever wrote it.
    pub const MOST: usize = 32;

    /// A list for a `const`: an owner and, sorted, what it depends on.
    ///
    /// # Panics
    ///
    /// When the entries break the rules above; in a `const`, that is an error of the compiler. What is known only at
    /// run time is a [`CompatVec`].
    #[must_use]
    #[track_caller]
    pub const fn new(owner: Compat<'a>, uses: &'a [Compat<'a>]) -> Self {
        assert!(uses.len() < Self::MOST, "a list has at most 32 entries, its owner counted");
        let mut len: usize = 0;
        while let Some((before, [next, ..])) = uses.split_at_checked(len) {
            let refusal = refusal(&owner, before, next);
            assert!(refusal.is_none(), "{}", rule(&refusal));
            len = len.saturating_add(1);
        }
        CompatList { owner, uses }
    }

    /// Whose list it is.
    #[must_use]
    pub const fn owner(&self) -> Compat<'a> {
        self.owner
    }

    /// What the owner depends on, in ascending order; nothing in what Linux 7.2 and 7.3 write.
    #[must_use]
    pub const fn uses(&self) -> &'a [Compat<'a>] {
        self.uses
    }

    /// Whether it uses the same, in the same versions and spelling.
    pub(crate) const fn uses_as(&self, other: &Self) -> bool {
        let (mut these, mut those) = (self.uses, other.uses);
        loop {
            match (these, those) {
                ([this, more @ ..], [that, rest @ ..]) => {
                    if !matches!(this.printed().compare(that.printed()), Ordering::Equal) {
                        return false;
                    }
                    (these, those) = (more, rest);
                }
                _ => return these.is_empty() && those.is_empty(),
            }
        }
    }

    /// Every entry, the owner first.
    pub fn iter(&self) -> impl Iterator<Item = Compat<'a>> + use<'a> {
        core::iter::once(self.owner).chain(self.uses.iter().copied())
    }

    /// The entry of that name: it says in which version that layout is written.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Compat<'a>> {
        self.iter().find(|entry| entry.name == name)
    }

    /// The value of an FDT property that is a string list: each entry and a zero.
    ///
    /// ```
    /// use kho::compat::{Compat, CompatList};
    /// const LIST: CompatList<'static> = CompatList::new(Compat::new("kho", 4), &[Compat::new("radix", 1)]);
    /// assert_eq!(LIST.to_fdt(), b"kho-v4\0radix-v1\0");
    /// ```
    #[must_use]
    pub fn to_fdt(&self) -> Vec<u8> {
        self.iter().flat_map(|entry| entry.printed().chain([0])).collect()
    }
}

/// The composite as one text, `kho-v4;radix-v1;vmalloc-v1`.
impl fmt::Display for CompatList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.owner)?;
        self.uses.iter().try_for_each(|entry| write!(f, ";{entry}"))
    }
}

/// Whether `next` may follow: one set of rules for the compiler and for what is read.
const fn refusal<'a>(owner: &Compat<'a>, uses: &[Compat<'a>], next: &Compat<'a>) -> Option<Refusal<'a>> {
    if owner.has_name_of(next) {
        return Some(Refusal { earlier: *owner, rule: "the owner only once, in front of what it uses" });
    }
    let mut rest = uses;
    while let [earlier, more @ ..] = rest {
        if earlier.has_name_of(next) {
            return Some(Refusal { earlier: *earlier, rule: "each component only once" });
        }
        rest = more;
    }
    if let [.., last] = uses
        && !matches!(last.printed().compare(next.printed()), Ordering::Less)
    {
        return Some(Refusal {
            earlier: *last,
            rule: "the entries behind the owner in ascending order of their printed strings",
        });
    }
    None
}

const fn rule(refusal: &Option<Refusal<'_>>) -> &'static str {
    match refusal {
        Some(refusal) => refusal.rule,
        None => "",
    }
}

/// A [`CompatList`] that was read: the entries borrow from the bytes, the list of them is its own.
///
/// Takes exactly what a [`CompatList`] may be, and what it takes is written again byte for byte.
///
/// Linux is laxer with an FDT: it looks for its own string anywhere in the list and ignores the rest, whatever that
/// is. A root that says only `kho-v4`, as Linux writes it, is a list with an owner that uses nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CompatVec<'a> {
    owner: Compat<'a>,
    uses: Vec<Compat<'a>>,
}

impl<'a> CompatVec<'a> {
    /// Reads the value of an FDT property: strings, each with its zero.
    ///
    /// ```
    /// use kho::compat::CompatVec;
    ///
    /// let root = CompatVec::parse_fdt(b"kho-v4\0radix-v1\0")?;
    /// assert_eq!(root.list().owner().version(), 4);
    ///
    /// let fault = CompatVec::parse_fdt(b"kho-v4\0vmalloc-v1\0radix-v1\0").unwrap_err();
    /// assert_eq!(fault.at().offset, Some(18));
    /// assert_eq!(fault.found_text(), "radix-v1 behind vmalloc-v1");
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Each with the offset of the string in `value`:
    /// - [`Code::CompatMissing`]: there is no string.
    /// - [`Code::Text`]: the last string has no zero, or one is empty.
    /// - [`Code::CompatSyntax`]: one is not `NAME-vNUMBER`.
    /// - [`Code::CompatOrder`]: two entries of one name, or not sorted.
    /// - [`Code::TooLarge`]: over [`CompatList::MOST`] entries.
    pub fn parse_fdt(value: &'a [u8]) -> Result<Self, Fault> {
        match value {
            [] => Err(missing()),
            [strings @ .., 0] => Self::split(strings, 0),
            _ => {
                let tail = value.rsplit(|byte| *byte == 0).next().unwrap_or(value);
                Err(Fault::new(Code::Text)
                    .offset(u64_of(value.len().saturating_sub(tail.len())))
                    .found(Quoted(tail))
                    .expected("a zero behind the string"))
            }
        }
    }

    /// Reads a composite, `kho-v4;radix-v1;vmalloc-v1`.
    ///
    /// ```
    /// use kho::compat::CompatVec;
    /// let found = CompatVec::parse_text("kho-v4;radix-v1;vmalloc-v1")?;
    /// assert_eq!(found.list().uses().len(), 2);
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`CompatVec::parse_fdt`].
    pub fn parse_text(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Result<Self, Fault> {
        match text.as_ref() {
            [] => Err(missing()),
            text => Self::split(text, b';'),
        }
    }

    /// A list of entries whose names are each there once.
    pub(super) fn of(owner: Compat<'a>, mut uses: Vec<Compat<'a>>) -> Self {
        // Another version may sort elsewhere.
        uses.sort_by(|one, other| one.printed().compare(other.printed()));
        CompatVec { owner, uses }
    }

    /// The entry of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Compat<'a>> {
        core::iter::once(&self.owner).chain(&self.uses).copied().find(|entry| entry.name == name)
    }

    /// What was read, in the form that everything else takes.
    #[must_use]
    pub fn list(&self) -> CompatList<'_> {
        CompatList { owner: self.owner, uses: &self.uses }
    }

    fn split(text: &'a [u8], separator: u8) -> Result<Self, Fault> {
        let mut offset: usize = 0;
        let mut list: Option<Self> = None;
        for part in text.split(|byte| *byte == separator) {
            Self::push(&mut list, part).map_err(|fault| fault.offset(u64_of(offset)))?;
            offset = offset.saturating_add(part.len()).saturating_add(1);
        }
        list.ok_or_else(missing)
    }

    fn push(list: &mut Option<Self>, part: &'a [u8]) -> Result<(), Fault> {
        if part.is_empty() {
            return Err(Fault::new(Code::Text).found("an empty string").expected("NAME-vNUMBER"));
        }
        let next = Compat::parse(part)?;
        let Some(Self { owner, uses }) = list else {
            *list = Some(CompatVec { owner: next, uses: Vec::new() });
            return Ok(());
        };
        if uses.len().saturating_add(1) >= CompatList::MOST {
            return Err(Fault::new(Code::TooLarge)
                .found(format_args!("more than {} entries", CompatList::MOST))
                .expected(format_args!("at most {}", CompatList::MOST)));
        }
        if let Some(Refusal { earlier, rule }) = refusal(owner, uses, &next) {
            let found = format_args!("{} behind {}", Short(next), Short(earlier));
            return Err(Fault::new(Code::CompatOrder).found(found).expected(rule));
        }
        uses.push(next);
        Ok(())
    }
}

fn missing() -> Fault {
    Fault::new(Code::CompatMissing).offset(0).found("an empty list").expected("NAME-vNUMBER")
}
