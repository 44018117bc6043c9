//! What is wrong, where, what was found and what was expected: one vocabulary for every room.
//!
//! A low room (radix, vmalloc, block ...) returns the first break inside one structure as a [`Fault`]. The plan gives
//! it the name of its node, which makes it a [`Finding`], and goes on with the next structure: [`Findings`] collects
//! them all, bounded. The [`Code`] decides the [`Class`] and the [`Severity`], so that a mismatch of versions cannot be
//! reported as corruption, nor the other way round.

mod code;

use alloc::borrow::{Cow, ToOwned as _};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub use code::{Class, Code, Severity};

/// Where in the handover something is.
///
/// All parts are optional, because a structure knows only its own: an address in memory, an offset in a blob, the
/// property of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct At {
    /// Physical address, in bytes.
    pub address: Option<u64>,
    /// Offset in a blob, in bytes.
    pub offset: Option<u64>,
    /// Name of a property, a field or a record.
    pub item: Option<Cow<'static, str>>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if let Some(item) = &self.item {
            write!(f, "{item}")?;
            gap = " ";
        }
        if let Some(offset) = self.offset {
            write!(f, "{gap}at offset {offset:#x}")?;
            gap = " ";
        }
        if let Some(address) = self.address {
            write!(f, "{gap}at {address:#x}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong inside one structure: a stable code, the place, what was found, what was expected.
///
/// ```
/// use kho::report::{Class, Code, Fault};
///
/// let fault = Fault::new(Code::BlockCount).address(0x5000).item("count").found(52).expected("1..=51");
/// assert_eq!(fault.to_string(), "block-count: count at 0x5000: found 52, expected 1..=51");
/// assert_eq!(fault.code().class(), Class::Corrupt);
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use]
pub struct Fault {
    code: Code,
    at: At,
    found: Cow<'static, str>,
    expected: Cow<'static, str>,
}

impl Fault {
    /// A fault of this kind, with nothing else known yet.
    pub const fn new(code: Code) -> Self {
        Fault {
            code,
            at: At { address: None, offset: None, item: None },
            found: Cow::Borrowed(""),
            expected: Cow::Borrowed(""),
        }
    }

    /// The physical address, in bytes. The innermost one stays: it was there first and is the most exact.
    pub fn address(mut self, address: u64) -> Self {
        self.at.address.get_or_insert(address);
        self
    }

    /// The offset in the blob, in bytes; like [`Fault::address`], the first one stays.
    pub fn offset(mut self, offset: u64) -> Self {
        self.at.offset.get_or_insert(offset);
        self
    }

    /// The same in something larger, in which what it speaks of begins at `start`.
    pub(crate) fn moved(mut self, start: u64) -> Self {
        self.at.offset = self.at.offset.map(|offset| offset.saturating_add(start));
        self
    }

    /// The property, field or record that is wrong; like [`Fault::address`], the first one stays.
    pub fn item(mut self, item: impl Into<Cow<'static, str>>) -> Self {
        if self.at.item.is_none() {
            self.at.item = Some(item.into());
        }
        self
    }

    /// Puts `outer` in front of the item: `files[3]` and `token` become `files[3].token`, `vcpus` and `[3]` `vcpus[3]`.
    pub fn within(mut self, outer: &str) -> Self {
        self.at.item = Some(match self.at.item.take() {
            Some(inner) if inner.starts_with('[') => Cow::Owned(format!("{outer}{inner}")),
            Some(inner) => Cow::Owned(format!("{outer}.{inner}")),
            None => Cow::Owned(outer.to_owned()),
        });
        self
    }

    /// What was found. Numbers that are addresses should be given with `{:#x}`.
    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.found = Cow::Owned(format!("{found}"));
        self
    }

    /// What was expected.
    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.expected = Cow::Owned(format!("{expected}"));
        self
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Where it is.
    #[must_use]
    pub const fn at(&self) -> &At {
        &self.at
    }

    /// What was found, as text; empty when the code says it all.
    #[must_use]
    pub fn found_text(&self) -> &str {
        &self.found
    }

    /// What was expected, as text; empty when the code says it all.
    #[must_use]
    pub fn expected_text(&self) -> &str {
        &self.expected
    }
}

/// As it is printed: it is what a `main` that returns it shows, and an `unwrap` that fails.
impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if self.at != At::default() {
            write!(f, ": {}", self.at)?;
        }
        match (self.found.is_empty(), self.expected.is_empty()) {
            (false, false) => write!(f, ": found {}, expected {}", self.found, self.expected),
            (false, true) => write!(f, ": {}", self.found),
            (true, false) => write!(f, ": expected {}", self.expected),
            (true, true) => write!(f, ": {}", self.code.about()),
        }
    }
}

/// A [`Fault`] and the node of the handover that it was found in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Finding {
    /// Path of the node in the root FDT: `/` or `/NAME`.
    pub node: String,
    /// What is wrong there.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub fault: Fault,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.fault.code.severity(), self.node, self.fault)
    }
}

/// All that was found, of which the first [`Findings::LIMIT`] are kept and the rest counted. Printed, one line each.
///
/// Bounded, because what is read may be hostile: a handover of a million broken records costs a thousand findings.
///
/// ```
/// use kho::report::{Code, Fault, Findings};
///
/// let mut findings = Findings::default();
/// findings.add("/cache", Fault::new(Code::VersionNewer).found("my-cache-v2").expected("my-cache-v1"));
/// findings.add("/", Fault::new(Code::Unowned).address(0x5000));
/// assert_eq!((findings.errors(), findings.warnings()), (1, 1));
/// assert!(findings.has(Code::VersionNewer));
/// assert_eq!(findings.kept()[0].to_string(), "error: /cache: version-newer: found my-cache-v2, expected my-cache-v1");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Findings {
    kept: Vec<Finding>,
    /// Counts of all findings, kept or not, by severity.
    errors: u64,
    warnings: u64,
}

impl Findings {
    /// So many findings are kept whole.
    pub const LIMIT: usize = 1_000;

    /// Adds one finding; beyond the limit it is counted only.
    pub fn add(&mut self, node: &str, fault: Fault) {
        match fault.code.severity() {
            Severity::Error => self.errors = self.errors.saturating_add(1),
            Severity::Warning => self.warnings = self.warnings.saturating_add(1),
        }
        if self.kept.len() < Self::LIMIT {
            self.kept.push(Finding { node: node.to_owned(), fault });
        }
    }

    /// Forgets what was found of other codes, and those that were counted only.
    pub(crate) fn retain(&mut self, keep: impl Fn(Code) -> bool) {
        let kept = core::mem::take(self).kept;
        kept.into_iter().filter(|finding| keep(finding.fault.code)).for_each(|f| self.add(&f.node, f.fault));
    }

    /// The findings that were kept, in the order in which they were found.
    #[must_use]
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }

    /// How many errors were found, kept or not.
    #[must_use]
    pub const fn errors(&self) -> u64 {
        self.errors
    }

    /// How many warnings were found, kept or not.
    #[must_use]
    pub const fn warnings(&self) -> u64 {
        self.warnings
    }

    /// How many findings were counted but not kept.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.errors.saturating_add(self.warnings).saturating_sub(crate::num::u64_of(self.kept.len()))
    }

    /// Whether nothing at all was found.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.errors == 0 && self.warnings == 0
    }

    /// Whether a finding with this code was kept.
    #[must_use]
    pub fn has(&self, code: Code) -> bool {
        self.kept.iter().any(|finding| finding.fault.code == code)
    }
}

#[cfg(feature = "std")]
impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Fault::new(Code::Io).found(error)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, finding) in self.kept.iter().enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            write!(f, "{gap}{finding}")?;
        }
        match self.dropped() {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn a_flood_is_counted_but_not_kept() {
        let mut findings = Findings::default();
        for address in 0..1_500 {
            findings.add("/x", Fault::new(Code::NotPreserved).address(address));
        }
        findings.add("/x", Fault::new(Code::Unowned));
        assert_eq!(findings.kept().len(), 1_000);
        assert_eq!((findings.errors(), findings.warnings(), findings.dropped()), (1_500, 1, 501));
        assert!(findings.to_string().ends_with("\n... and 501 more"));
    }

    #[test]
    fn the_innermost_place_wins_and_paths_grow_outwards() {
        let fault = Fault::new(Code::MemfdIndex).address(0x10).address(0x20).item("index").within("folios[3]");
        assert_eq!(fault.at().address, Some(0x10));
        assert_eq!(fault.at().item.as_deref(), Some("folios[3].index"));
    }

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let mut seen = alloc::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{code}");
            assert!(!code.about().is_empty() && !code.about().ends_with('.'), "{code}");
        }
    }
}
