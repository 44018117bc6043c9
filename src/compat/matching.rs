//! What a reader takes, and how what it finds differs from that.

use alloc::vec::Vec;
use core::fmt;

use super::{Compat, CompatList, Short};
use crate::report::{Code, Fault};

/// The versions of one component that a reader takes: an unbroken range.
///
/// ```
/// use kho::compat::{Compat, Reads};
/// const RADIX: Reads<'static> = Reads::since(1, Compat::new("radix", 3));
/// assert_eq!(RADIX.to_string(), "radix-v1..=v3");
/// assert_eq!(Reads::only(Compat::new("kho", 4)).to_string(), "kho-v4");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reads<'a> {
    newest: Compat<'a>,
    oldest: u32,
}

impl<'a> Reads<'a> {
    /// This version and no other.
    #[must_use]
    pub const fn only(compat: Compat<'a>) -> Self {
        Reads { newest: compat, oldest: compat.version }
    }

    /// Every version from `oldest` to that of `newest`, both included. When `oldest` is above it, `newest` alone.
    #[must_use]
    pub const fn since(oldest: u32, newest: Compat<'a>) -> Self {
        Reads { newest, oldest: if oldest < newest.version { oldest } else { newest.version } }
    }

    /// The newest version that the reader takes.
    #[must_use]
    pub const fn newest(&self) -> Compat<'a> {
        self.newest
    }

    /// The number of the oldest version that the reader takes.
    #[must_use]
    pub const fn oldest(&self) -> u32 {
        self.oldest
    }

    fn judge(&self, found: Compat<'a>) -> Result<(), Difference<'a>> {
        if found.version > self.newest.version {
            Err(Difference::Newer { found, expected: *self })
        } else if found.version < self.oldest {
            Err(Difference::Older { found, expected: *self })
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Reads<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = self.newest.version;
        if self.oldest == newest {
            return write!(f, "{}", Short(self.newest));
        }
        write!(f, "{}..=v{newest}", Short(Compat { version: self.oldest, ..self.newest }))
    }
}

/// One component in which what was found differs from what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Difference<'a> {
    /// Found in an older version than the reader takes.
    Older {
        /// What the data says.
        found: Compat<'a>,
        /// What the reader takes.
        expected: Reads<'a>,
    },
    /// Found in a newer version than the reader takes.
    Newer {
        /// What the data says.
        found: Compat<'a>,
        /// What the reader takes.
        expected: Reads<'a>,
    },
    /// Found, and nobody here knows that name.
    Unknown {
        /// What the data says.
        found: Compat<'a>,
    },
    /// Found and understood, but not a part of what was expected here.
    Extra {
        /// What the data says.
        found: Compat<'a>,
    },
    /// Expected and not found.
    Missing {
        /// What should have been there.
        expected: Compat<'a>,
    },
    /// The expected owner is listed, but another component stands in its place.
    Owner {
        /// What stands first.
        found: Compat<'a>,
        /// What should stand first.
        expected: Compat<'a>,
    },
}

/// [`Difference::Older`] and [`Difference::Newer`] become [`Code::VersionOlder`] and [`Code::VersionNewer`],
/// [`Difference::Unknown`] becomes [`Code::ComponentUnknown`], [`Difference::Extra`] and [`Difference::Missing`]
/// become [`Code::ComponentUnlisted`]: all of them mismatches. [`Difference::Owner`] becomes [`Code::CompatOrder`].
impl From<Difference<'_>> for Fault {
    fn from(difference: Difference<'_>) -> Fault {
        match difference {
            Difference::Older { found, expected } => {
                Fault::new(Code::VersionOlder).found(Short(found)).expected(expected)
            }
            Difference::Newer { found, expected } => {
                Fault::new(Code::VersionNewer).found(Short(found)).expected(expected)
            }
            Difference::Unknown { found } => {
                Fault::new(Code::ComponentUnknown).found(Short(found)).expected("a component that this reader knows")
            }
            Difference::Extra { found } => {
                Fault::new(Code::ComponentUnlisted).found(Short(found)).expected("no such component here")
            }
            Difference::Missing { expected } => {
                Fault::new(Code::ComponentUnlisted).found("no such component here").expected(Short(expected))
            }
            Difference::Owner { found, expected } => Fault::new(Code::CompatOrder)
                .found(format_args!("{} in front of {}", Short(found), Short(expected)))
                .expected("the owner first"),
        }
    }
}

impl<'a> Compat<'a> {
    /// Whether a reader takes this component in this version, by name and number; the spelling is nothing.
    ///
    /// `reads` may name a component more than once, when the versions it takes have a gap. A version in the gap is
    /// told against the newest range.
    ///
    /// ```
    /// use kho::compat::{Compat, Difference, Reads};
    /// const READS: &[Reads<'static>] = &[Reads::since(2, Compat::new("memfd", 3))];
    ///
    /// assert_eq!(Compat::parse("memfd_v2")?.judge(READS), Ok(()));
    /// let old = Compat::parse("memfd-v1")?;
    /// assert_eq!(old.judge(READS), Err(Difference::Older { found: old, expected: READS[0] }));
    /// let new = Compat::parse("hugetlb-v1")?;
    /// assert_eq!(new.judge(READS), Err(Difference::Unknown { found: new }));
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Difference::Older`], [`Difference::Newer`] or [`Difference::Unknown`].
    pub fn judge(self, reads: &[Reads<'a>]) -> Result<(), Difference<'a>> {
        let mut verdict = Err(Difference::Unknown { found: self });
        let mut newest = None;
        for range in reads.iter().filter(|range| range.newest.name == self.name) {
            let judged = range.judge(self);
            if judged.is_ok() {
                return judged;
            }
            if newest < Some(range.newest.version) {
                newest = Some(range.newest.version);
                verdict = judged;
            }
        }
        verdict
    }
}

/// A composite that a side reads or writes, in a range of versions of its owner: what the owner uses is the same in all
/// of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MadeOf<'a> {
    /// The composite in the newest of these versions.
    pub newest: CompatList<'a>,
    /// The number of the oldest of these versions.
    pub oldest: u32,
}

impl<'a> MadeOf<'a> {
    /// The versions of the owner.
    #[must_use]
    pub const fn owner(&self) -> Reads<'a> {
        Reads::since(self.oldest, self.newest.owner())
    }
}

impl<'a> MadeOf<'a> {
    /// The first range of these composites, the newest of which is the first, and what is behind it: versions of one
    /// owner that follow each other and use the same are one range.
    pub(crate) const fn first_of<'l>(lists: &'l [CompatList<'a>]) -> Option<(MadeOf<'a>, &'l [CompatList<'a>])> {
        let [newest, rest @ ..] = lists else { return None };
        let (mut oldest, mut rest) = (newest.owner().version, rest);
        while let [next, more @ ..] = rest {
            let (same, follows) = (next.owner().has_name_of(&newest.owner()), oldest.checked_sub(1));
            if !same || !matches!(follows, Some(version) if version == next.owner().version) || !next.uses_as(newest) {
                break;
            }
            (oldest, rest) = (next.owner().version, more);
        }
        Some((MadeOf { newest: *newest, oldest }, rest))
    }

    /// All ranges of these composites.
    pub(crate) fn all_of(mut lists: &[CompatList<'a>]) -> Vec<MadeOf<'a>> {
        let mut ranges = Vec::new();
        while let Some((range, rest)) = MadeOf::first_of(lists) {
            ranges.push(range);
            lists = rest;
        }
        ranges
    }
}

impl<'a> From<CompatList<'a>> for MadeOf<'a> {
    fn from(newest: CompatList<'a>) -> Self {
        MadeOf { newest, oldest: newest.owner().version }
    }
}

impl<'a> CompatList<'a> {
    /// Why a reader does not take a node with this list; nothing when it does.
    ///
    /// `takes` is what the reader takes in this place: one of them must have the version of the owner. What the owner
    /// uses is judged by whoever owns *that* layout, if `layouts` names it, and must else stand in exactly the version
    /// that the reader knows. Of a version of the owner that is not taken nothing else is told than that, and which
    /// layouts are not known; of another owner the differences from the newest.
    ///
    /// ```
    /// use kho::compat::{Compat, CompatList, CompatVec, MadeOf, Reads};
    ///
    /// const VMALLOC: Compat<'static> = Compat::new("vmalloc", 1);
    /// const OLD: CompatList<'static> = CompatList::new(Compat::new("my-cache", 1), &[]);
    /// const NEW: CompatList<'static> = CompatList::new(Compat::new("my-cache", 2), &[VMALLOC]);
    /// let takes = [MadeOf::from(NEW), MadeOf::from(OLD)];
    /// let layouts = [Reads::since(1, Compat::new("vmalloc", 2))];
    ///
    /// let refused = |text| CompatVec::parse_text(text).unwrap().list().refused(&takes, &layouts).len();
    /// assert_eq!((refused("my-cache-v1"), refused("my-cache-v2;vmalloc-v2")), (0, 0));
    /// assert_eq!((refused("my-cache-v3;vmalloc-v1"), refused("my-cache-v2;vmalloc-v3")), (1, 1));
    /// ```
    #[must_use]
    pub fn refused(self, takes: &[MadeOf<'a>], layouts: &[Reads<'a>]) -> Vec<Difference<'a>> {
        let owner = self.owner();
        let mut reads = layouts.to_vec();
        let mut first = None;
        for fits in takes.iter().filter(|made_of| owner.judge(&[made_of.owner()]).is_ok()) {
            // Another owner that is taken here says nothing of what this one uses.
            reads.truncate(layouts.len());
            reads.push(fits.owner());
            let differences = self.differences(fits.newest, &reads);
            if differences.is_empty() {
                return differences;
            }
            first = first.or(Some(differences));
        }
        if let Some(differences) = first {
            return differences;
        }
        let Some(newest) = takes.iter().max_by_key(|made_of| made_of.newest.owner().version) else {
            return alloc::vec![Difference::Unknown { found: owner }];
        };
        reads.truncate(layouts.len());
        reads.extend(takes.iter().map(MadeOf::owner));
        let mut differences = self.differences(newest.newest, &reads);
        if takes.iter().any(|made_of| made_of.newest.owner().name == owner.name) {
            // What another version of the owner uses is no fault of its own, and layouts of its name are not it.
            let owners: Vec<Reads<'a>> = takes.iter().map(MadeOf::owner).collect();
            differences.retain(|one| match one {
                Difference::Extra { .. } | Difference::Missing { .. } => false,
                Difference::Older { found, .. } | Difference::Newer { found, .. } => *found != owner,
                Difference::Unknown { .. } | Difference::Owner { .. } => true,
            });
            differences.splice(..0, owner.judge(&owners).err());
        }
        differences
    }

    /// Every difference between this list, which was found, and the one that was expected in its place.
    ///
    /// An entry that `reads` names is judged by that; one that only `expected` names must have the version that stands
    /// there. So `&[]` compares two composites exactly.
    ///
    /// In a fixed order: [`Difference::Owner`], then the entries found in the order of this list, then those missing
    /// in the order of `expected`. Each entry is told once: one that is extra *and* of a version that nobody reads
    /// is told as older or newer.
    ///
    /// A list of the owner alone, as Linux 7.2 and 7.3 write it, says nothing of what the owner uses, and every use is
    /// told as [`Difference::Missing`]. Whoever reads such data compares with what he takes it to imply.
    ///
    /// ```
    /// use kho::compat::{Compat, CompatList, CompatVec, Difference};
    /// const KHO: Compat<'static> = Compat::new("kho", 4);
    /// const RADIX: Compat<'static> = Compat::new("radix", 1);
    /// const BLOCK: Compat<'static> = Compat::new("block", 1);
    ///
    /// let found = CompatVec::parse_text("kho-v4;block-v1")?;
    /// assert_eq!(
    ///     found.list().differences(CompatList::new(KHO, &[RADIX]), &[]),
    ///     [Difference::Unknown { found: BLOCK }, Difference::Missing { expected: RADIX }],
    /// );
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    #[must_use]
    pub fn differences(self, expected: CompatList<'a>, reads: &[Reads<'a>]) -> Vec<Difference<'a>> {
        let (first, owner) = (self.owner(), expected.owner());
        let moved = self.uses().iter().any(|entry| entry.name == owner.name);
        let moved = moved.then_some(Difference::Owner { found: first, expected: owner });

        let found = self.iter().filter_map(|found| match (found.judge(reads), expected.find(found.name)) {
            (Ok(()), Some(_)) => None,
            (Ok(()), None) => Some(Difference::Extra { found }),
            (Err(Difference::Unknown { .. }), Some(version)) => Reads::only(version).judge(found).err(),
            (Err(difference), _) => Some(difference),
        });
        let missing = expected
            .iter()
            .filter(|entry| self.find(entry.name).is_none())
            .map(|expected| Difference::Missing { expected });
        moved.into_iter().chain(found).chain(missing).collect()
    }
}
