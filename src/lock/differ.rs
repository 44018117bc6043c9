//! How two layouts of one component differ, thing by thing.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use super::{Entry, Field, Structure};

/// One difference between two layouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs: `Memfd.seals`, `Memfd`, `const FLAGS`.
    pub item: String,
    /// How: `moved`, `renamed`, `size`, `type`, `align`, `value`, `new` or `gone`.
    pub how: &'static str,
    /// What it was; empty when it is new.
    pub old: String,
    /// What it is; empty when it is gone.
    pub new: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { item, how, old, new } = self;
        match *how {
            "new" => write!(f, "{item}: new, {new}"),
            "gone" => write!(f, "{item}: gone, was {old}"),
            _ => write!(f, "{item}: {how} {old} -> {new}"),
        }
    }
}

impl Difference {
    /// Whether something was added beside what was there: no field in a structure that stays.
    pub(super) fn is_growth(&self) -> bool {
        self.how == "new" && (!self.item.contains('.') || self.item.contains(' '))
    }
}

/// All differences between two layouts, structures first; none when they are the same. Marks do not count, nor an
/// alignment that one side does not know.
#[must_use]
pub fn differences(old: &Entry, new: &Entry) -> Vec<Difference> {
    let mut all = Vec::new();
    each(&old.structures, &new.structures, |name, old, new| match (old, new) {
        (Some(old), Some(new)) => structure(name, old, new, &mut all),
        (Some(old), None) => all.push(gone(name, format!("{} bytes", old.size))),
        (None, Some(new)) => all.push(added(name, format!("{} bytes", new.size))),
        (None, None) => {}
    });
    each(&old.values, &new.values, |name, old, new| match (old, new) {
        (Some(old), Some(new)) => changed(name, "value", old, new, &mut all),
        (Some(old), None) => all.push(gone(name, old.clone())),
        (None, Some(new)) => all.push(added(name, new.clone())),
        (None, None) => {}
    });
    all
}

/// Every key of both, in order.
fn each<'a, V>(
    old: &'a BTreeMap<String, V>,
    new: &'a BTreeMap<String, V>,
    mut tell: impl FnMut(&str, Option<&'a V>, Option<&'a V>),
) {
    for (key, value) in old {
        tell(key, Some(value), new.get(key));
    }
    for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        tell(key, None, Some(value));
    }
}

/// The differences of one structure, in the order of the old fields, then the new ones.
pub(super) fn structure(name: &str, old: &Structure, new: &Structure, all: &mut Vec<Difference>) {
    changed(name, "size", &old.size, &new.size, all);
    if let (Some(old), Some(new)) = (old.align, new.align) {
        changed(name, "align", &old, &new, all);
    }
    let named = |fields: &[Field], name: &str| fields.iter().any(|field| field.name == name);
    let mut renamed: Vec<&str> = Vec::new();
    for was in &old.fields {
        let item = format!("{name}.{}", was.name);
        if let Some(is) = new.fields.iter().find(|is| is.name == was.name) {
            changed(&item, "moved", &was.offset, &is.offset, all);
            changed(&item, "size", &was.size, &is.size, all);
            changed(&item, "type", &was.ty, &is.ty, all);
            continue;
        }
        // The same place and kind under a name that the old one has not.
        let same = |is: &&Field| (is.offset, is.size, &is.ty) == (was.offset, was.size, &was.ty);
        match new.fields.iter().find(|is| same(is) && !named(&old.fields, &is.name)) {
            Some(is) => {
                renamed.push(&is.name);
                changed(&item, "renamed", &was.name, &is.name, all);
            }
            None => all.push(gone(&item, place(was))),
        }
    }
    for is in &new.fields {
        if !named(&old.fields, &is.name) && !renamed.contains(&is.name.as_str()) {
            all.push(added(&format!("{name}.{}", is.name), place(is)));
        }
    }
}

fn place(field: &Field) -> String {
    format!("{} of {} bytes at {}", field.ty, field.size, field.offset)
}

fn changed<T: PartialEq + fmt::Display>(item: &str, how: &'static str, old: &T, new: &T, all: &mut Vec<Difference>) {
    if old != new {
        all.push(Difference { item: item.into(), how, old: old.to_string(), new: new.to_string() });
    }
}

fn gone(item: &str, old: String) -> Difference {
    Difference { item: item.into(), how: "gone", old, new: String::new() }
}

fn added(item: &str, new: String) -> Difference {
    Difference { item: item.into(), how: "new", old: String::new(), new }
}
