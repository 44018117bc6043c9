//! What may not change under a version of a state, as a file: `state.lock`, beside the bytes that each version wrote.
//!
//! A state that a program wrote is read by programs that are not written yet. So what a version looks like is kept in
//! the project: a section in `state.lock` for each state and version, and for each version a file with a state as it
//! was saved. [`kho::state_tests!`](crate::state_tests) makes tests that hold the code against both.
//!
//! # How a project begins
//! ```sh
//! mkdir -p tests/states && touch tests/states/state.lock
//! ```
//! and `tests/states.rs`:
//! ```ignore
//! kho::state_tests! {
//!     folder: "tests/states",
//!     Vcpu = Vcpu::sample(),
//!     Timer = Timer::default() => |timer, version| assert!(version > 1 || timer.slack == 0),
//! }
//! ```
//! Each type has a value to be saved; it should have something in every field. What stands behind `=>` is called with
//! every value that was restored, of any version. States inside of these are in the lock by themselves.
//! `KHO_BLESS=1 cargo test` then writes the sections and, for each version that the code writes, `vcpu-v1.state`.
//! All of the folder is committed. If the newest variant of an enum is in the sample, older versions cannot be written
//! of it: begin with one that all can say.
//!
//! The tests are one for the lock, `the_states_are_what_the_lock_says`, and one for each file, `vcpu_v1_is_restored`:
//! today's code restores it. Where all in it is of the newest version, its values are also those of the sample, and
//! its description is the one that is written today. (`HashMap` and `HashSet` may save theirs in another order.)
//!
//! # With a change
//! What a test says: a new version, `since`, `deprecated(..)`. Then `KHO_BLESS=1 cargo test` adds the new version to the
//! lock, and its file. The newest version may change and be blessed again as long as it is not published; every older
//! one never does, because somebody had a reason for a newer one.
//! (A project that begins at a later version than the first has one section for all versions up to it. It is to be marked
//! published at once: until then a blessing changes all of them.)
//!
//! # At a release
//! ```sh
//! KHO_BLESS=1 KHO_PUBLISH="vmm 1.4" cargo test
//! ```
//! marks all that is not marked yet. From then on no blessing changes it, nor its file; the sample stays as it is until
//! the next version.
//!
//! # What is allowed, and told
//! - A raised `min_version`: sections of versions that are no longer read are marked retired, and their files are not
//!   restored any more (they may be removed).
//! - A state that is gone: its sections are marked retired, so that its id is not used again.
//! - Another `name` for a state of which all else is the same. Its id is what it is known by, and the name is for
//!   people. Names of fields, variants and subsections are held: `rename` keeps them.
//! - A new subsection, under any version: that is what they are for.
//!
//! A raised `min_version` of a state that others are made of must be theirs, too, as far as their older files have it:
//! otherwise these are not restored any more, and nothing is blessed.
//!
//! # What is not held
//! What is code and not layout: the value of a `default`, whether a field is `required`, the functions of
//! `deprecated(..)`. The check behind `=>`, which is called for old versions too, can hold what they come to.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

mod check;
mod compare;
mod golden;
#[cfg(all(test, feature = "derive"))]
mod golden_tests;
#[cfg(all(test, feature = "derive"))]
mod tests;
mod text;
mod values;

pub use check::{Complaint, Refusal, Remedy};
#[doc(hidden)]
pub use golden::{Case, Suite};
pub use text::Broken;

use super::description::{Description, DescriptionBody, FieldDescription, SubsectionDescription, has};
use super::shape::{Shape, closure};
use crate::report::Fault;

/// A state as it was when this version of it was the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is known by.
    pub id: u32,
    /// Its name, for people.
    pub name: String,
    /// The version.
    pub version: u32,
    /// The oldest version that is read and written.
    pub from: u32,
    /// Whether a reader that does not know it may leave it.
    pub ignorable: bool,
    /// In which release, when it is: from then on it never changes.
    pub published: Option<String>,
    /// The code no longer reads it.
    pub retired: bool,
    /// Files with saved states, by the version that they are in.
    pub blobs: BTreeMap<u32, Blob>,
    /// What it is made of.
    pub body: Body,
}

/// A file with a saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its name, in the folder of the lock.
    pub file: String,
    /// 64-bit FNV-1a of its bytes.
    pub sum: u64,
}

/// What a state is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Fields, and parts that may be missing.
    Struct {
        /// In the order of the wire.
        fields: Vec<Field>,
        /// The parts.
        subsections: Vec<SubsectionDescription>,
    },
    /// One of several.
    Enum {
        /// All of them.
        variants: Vec<Variant>,
    },
}

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type, as a [`Kind`](super::Kind) is printed.
    pub ty: String,
    /// The first version that has it.
    pub since: u32,
    /// The first version that no longer has it; 0 where the newest has it.
    pub until: u32,
    /// Whether it is there only under a condition.
    pub when: bool,
}

/// One of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Its value on the wire.
    pub tag: u32,
    /// The first version that has it.
    pub since: u32,
    /// Its fields.
    pub fields: Vec<Field>,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// By id and version.
    pub sections: BTreeMap<(u32, u32), Section>,
}

/// What the code has now: these states and all that they are made of, by id.
///
/// # Errors
/// [`Code::StateId`](crate::report::Code::StateId) for an id that two of them have.
pub fn of_code(states: impl IntoIterator<Item = &'static Shape>) -> Result<Vec<Section>, Fault> {
    let shapes = closure(states, |_| true)?;
    shapes.values().map(|shape| Description::parse(shape.bytes()).map(|of| Section::of(&of))).collect()
}

/// 64-bit FNV-1a.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl Field {
    fn of(field: &FieldDescription) -> Field {
        let FieldDescription { name, since, until, when, ty } = field;
        // A condition that is not there since the first version is written as if it were.
        let since = (*since).max(1);
        Field { name: name.clone(), ty: ty.to_string(), since, until: *until, when: *when }
    }

    fn is_in(&self, version: u32) -> bool {
        has(self.since, self.until, version)
    }
}

impl Section {
    /// A description as the lock has it: of its newest version, without marks.
    #[must_use]
    pub fn of(description: &Description) -> Section {
        let fields = |fields: &[FieldDescription]| fields.iter().map(Field::of).collect();
        let body = match &description.body {
            DescriptionBody::Struct { fields: all, subsections } => {
                Body::Struct { fields: fields(all), subsections: subsections.clone() }
            }
            DescriptionBody::Enum { variants } => {
                let variants = variants.iter().map(|variant| Variant {
                    name: variant.name.clone(),
                    tag: variant.tag,
                    since: variant.since.max(1),
                    fields: fields(&variant.fields),
                });
                Body::Enum { variants: variants.collect() }
            }
        };
        let Description { id, name, version, min_version, ignorable, .. } = description;
        Section {
            id: *id,
            name: name.clone(),
            version: *version,
            from: *min_version,
            ignorable: *ignorable,
            published: None,
            retired: false,
            blobs: BTreeMap::new(),
            body,
        }
    }

    /// A short name for this very layout: 64-bit FNV-1a of what the file says of it, marks and files left out.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fnv(self.layout().into_bytes())
    }

    fn subsections(&self) -> &[SubsectionDescription] {
        match &self.body {
            Body::Struct { subsections, .. } => subsections,
            Body::Enum { .. } => &[],
        }
    }

    const fn is_enum(&self) -> bool {
        matches!(self.body, Body::Enum { .. })
    }
}

impl Lock {
    /// The sections of one state, the oldest first.
    pub fn of(&self, id: u32) -> impl DoubleEndedIterator<Item = &Section> {
        self.sections.range((id, 0)..=(id, u32::MAX)).map(|(_, section)| section)
    }

    /// Whether no blessing changes this section: it is published, or a newer one is there, which somebody wanted.
    #[must_use]
    pub fn is_final(&self, section: &Section) -> bool {
        section.published.is_some()
            || self.of(section.id).next_back().is_some_and(|last| last.version > section.version)
    }

    /// Marks what the code reads and nobody has published yet as published by `whom`, as a release does it.
    pub fn publish(&mut self, whom: &str) {
        for section in self.sections.values_mut().filter(|section| section.published.is_none() && !section.retired) {
            section.published = Some(whom.into());
        }
    }
}
