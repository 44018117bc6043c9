//! What may not change under a version, as a file: `abi.lock` in the root of the repository.
//!
//! An [`Entry`] for each component and version: its structures with every offset, its constants, its numbers by page
//! size, its device tree properties. [`of_code`] makes the entries from [`COMPONENTS`],
//! [`Lock::parse`] reads those of the file, and [`Lock::check`] tells how the two differ, field by field.
//!
//! An entry that is marked published never changes again: [`Lock::bless`] refuses. It is kept, marked retired, when the
//! code no longer has it, so that its version is not used a second time. Components without a version, as ioctls, may
//! gain structures and constants, and what they have stays.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

mod check;
mod differ;
#[cfg(test)]
mod tests;
mod text;

pub use check::{Complaint, Refusal, What};
pub use differ::{Difference, differences};
pub use text::Broken;

use crate::abi::{COMPONENTS, Component, Layout};
use crate::compat::Compat;
use crate::mem::Geometry;

/// A component in one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// `memfd-v2`, or a name without a version.
    pub key: String,
    /// By whom and in which release, when it is: from then on it never changes.
    pub published: Option<String>,
    /// The code no longer has it.
    pub retired: bool,
    /// Constants, numbers by page size and properties: `const FLAGS`, `page 4K depth`, `property /data csum`.
    pub values: BTreeMap<String, String>,
    /// Its structures by name.
    pub structures: BTreeMap<String, Structure>,
}

/// A structure as it lies in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// Bytes.
    pub size: u64,
    /// Bytes; none where it is not known (BTF does not say).
    pub align: Option<u64>,
    /// In the order of their offsets.
    pub fields: Vec<Field>,
}

/// A field of a [`Structure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, unique in the structure.
    pub name: String,
    /// Bytes from the start.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// As [`abi`](crate::abi) spells it: `U64`, `[u8; 48]`, the name of a structure.
    pub ty: String,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// By [`Entry::key`].
    pub entries: BTreeMap<String, Entry>,
}

impl Entry {
    /// Name and version, where it has one.
    #[must_use]
    pub fn compat(&self) -> Option<Compat<'_>> {
        Compat::parse(&self.key).ok()
    }

    /// A short name for this very layout: 64-bit FNV-1a of what the file says of it, the marks left out.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut text = self.key.clone();
        text.push('\n');
        self.body(&mut text);
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    fn of(component: &Component) -> Entry {
        let mut entry = Entry { key: component.key.to_string(), ..Entry::default() };
        for constant in component.constants {
            let mut value = String::new();
            // Writing to a string does not fail.
            let _ = constant.value.show(&mut value);
            entry.values.insert(alloc::format!("const {}", constant.name), value);
        }
        for formula in component.formulas {
            for geometry in Geometry::ALL {
                let key = alloc::format!("page {geometry} {}", formula.name);
                entry.values.insert(key, (formula.of)(geometry).to_string());
            }
        }
        for property in component.properties {
            entry.values.insert(alloc::format!("property {} {}", property.node, property.name), property.ty.into());
        }
        entry.structures = component.layouts.iter().map(|layout| (layout.name.into(), Structure::of(layout))).collect();
        entry
    }
}

impl Structure {
    fn of(layout: &Layout) -> Structure {
        let fields = layout.fields.iter().map(|field| Field {
            name: field.name.into(),
            offset: crate::num::u64_of(field.offset),
            size: crate::num::u64_of(field.size),
            ty: field.ty.into(),
        });
        Structure {
            size: crate::num::u64_of(layout.size),
            align: Some(crate::num::u64_of(layout.align)),
            fields: fields.collect(),
        }
    }
}

/// What the library reads and writes now.
#[must_use]
pub fn of_code() -> Vec<Entry> {
    COMPONENTS.iter().map(Entry::of).collect()
}

impl Lock {
    /// The lock of these entries; of two with one key the later counts.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Lock {
        Lock { entries: entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect() }
    }

    /// The entry of a component: in that version, or else in the highest one that is not retired.
    #[must_use]
    pub fn find(&self, name: &str, version: Option<u32>) -> Option<&Entry> {
        if let Some(entry) = self.entries.get(name) {
            return Some(entry);
        }
        let of_name = self.entries.values().filter_map(|entry| {
            let compat = entry.compat()?;
            (compat.name() == name).then_some((compat.version(), entry))
        });
        match version {
            Some(wanted) => of_name.filter(|(version, _)| *version == wanted).map(|(_, entry)| entry).next(),
            None => of_name.filter(|(_, entry)| !entry.retired).max_by_key(|(version, _)| *version).map(|(_, e)| e),
        }
    }

    /// Marks what the code has and nobody has published yet as published by `whom`, as a release does it.
    pub fn publish(&mut self, whom: &str) {
        for entry in self.entries.values_mut().filter(|entry| entry.published.is_none()) {
            entry.published = Some(whom.into());
        }
    }
}
