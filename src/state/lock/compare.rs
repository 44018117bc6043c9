//! How what the code has for versions of a state differs from what the lock has for them.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;

use super::text::how;
use super::{Body, Field, Section, Variant};
use crate::report::{Code, Fault};

/// All differences that a reader or a writer of these versions would notice; each thing once, with the newest version
/// that has it. Both are structures, or both are enums.
pub(super) fn differences(locked: &Section, today: &Section, from: u32, to: u32) -> Vec<Fault> {
    let mut found = Differences { locked, today, faults: Vec::new(), seen: BTreeSet::new() };
    if from > to {
        return found.faults;
    }
    // Between these versions nothing comes or goes.
    let mut ends = BTreeSet::from([to]);
    for version in edges(locked).chain(edges(today)).map(|first| first.saturating_sub(1)) {
        if (from..to).contains(&version) {
            ends.insert(version);
        }
    }
    for version in ends.into_iter().rev() {
        found.version(version);
    }
    found.subsections();
    found.faults
}

/// Versions in which something came or went.
fn edges(section: &Section) -> impl Iterator<Item = u32> {
    let (fields, variants) = match &section.body {
        Body::Struct { fields, .. } => (&fields[..], &[][..]),
        Body::Enum { variants } => (&[][..], &variants[..]),
    };
    let inner = variants.iter().flat_map(|variant| &variant.fields);
    let fields = fields.iter().chain(inner).flat_map(|field| [field.since, field.until]);
    fields.chain(variants.iter().map(|variant| variant.since))
}

struct Differences<'a> {
    locked: &'a Section,
    today: &'a Section,
    faults: Vec<Fault>,
    seen: BTreeSet<String>,
}

impl Differences<'_> {
    fn tell(&mut self, item: String, found: impl Display, expected: impl Display) {
        if self.seen.insert(item.clone()) {
            self.faults.push(Fault::new(Code::StateLock).item(item).found(found).expected(expected));
        }
    }

    /// The version that a change belongs into.
    fn next(&self) -> u32 {
        self.today.version.max(self.locked.version.saturating_add(1))
    }

    /// The same, as it is written in the code.
    fn since_next(&self) -> String {
        let next = self.next();
        if self.today.version == next { format!("since = {next}") } else { format!("version = {next}, since = {next}") }
    }

    fn version(&mut self, version: u32) {
        let (locked, today) = (self.locked, self.today);
        match (&locked.body, &today.body) {
            (Body::Struct { fields, .. }, Body::Struct { fields: now, .. }) => {
                self.fields(&locked.name, fields, now, version, false);
            }
            (Body::Enum { variants }, Body::Enum { variants: now }) => {
                self.variants(variants, now, version);
            }
            _ => {}
        }
    }

    fn variants(&mut self, locked: &[Variant], today: &[Variant], version: u32) {
        let find = |all: &[Variant], tag: u32| all.iter().position(|one| one.tag == tag && one.since <= version);
        for was in locked.iter().filter(|was| was.since <= version) {
            let item = format!("{}.{}", self.locked.name, was.name);
            let tag = was.tag;
            let Some(now) = find(today, tag).and_then(|index| today.get(index)) else {
                self.tell(item, "no such variant", format_args!("one with tag {tag}, which version {version} has"));
                continue;
            };
            if now.name != was.name {
                let name = &was.name;
                self.tell(
                    item,
                    format_args!("{} with its tag {tag}", now.name),
                    format_args!(
                        "{name}, as version {version} has it: rename = \"{name}\" when it is the same, and else a new \
                         tag, {}",
                        self.since_next()
                    ),
                );
                continue;
            }
            self.fields(&item, &was.fields, &now.fields, version, true);
        }
        for now in today.iter().filter(|now| now.since <= version) {
            if find(locked, now.tag).is_none() {
                let item = format!("{}.{}", self.locked.name, now.name);
                let since = self.since_next();
                self.tell(
                    item,
                    format_args!("variant {}", now.tag),
                    format_args!("{since}: version {version} is locked without it"),
                );
            }
        }
    }

    fn fields(&mut self, path: &str, locked: &[Field], today: &[Field], version: u32, of_variant: bool) {
        let there =
            |all: &'_ [Field]| -> Vec<Field> { all.iter().filter(|field| field.is_in(version)).cloned().collect() };
        let (locked, today) = (there(locked), there(today));
        let named = |all: &[Field], name: &str| all.iter().any(|field| field.name == name);
        let before = self.faults.len();
        let mut renamed: Vec<&str> = Vec::new();
        for (place, was) in locked.iter().enumerate() {
            let item = format!("{path}.{}", was.name);
            let name = &was.name;
            if let Some(now) = today.iter().find(|now| now.name == was.name) {
                if (&now.ty, now.when) != (&was.ty, was.when) {
                    let since = self.since_next();
                    self.tell(
                        item,
                        text(now),
                        format_args!("{} in version {version}: another type is another field, {since}", text(was)),
                    );
                }
                continue;
            }
            // In the same place, with the same type, under a name that was not there.
            let other = today.get(place).filter(|now| (&now.ty, now.when) == (&was.ty, was.when));
            if let Some(other) = other.filter(|now| !named(&locked, &now.name)) {
                renamed.push(&other.name);
                self.tell(
                    item,
                    format_args!("{} in its place", other.name),
                    format_args!("{name}, as version {version} has it: rename = \"{name}\" keeps the name"),
                );
                continue;
            }
            let how = if of_variant {
                "leave it in the variant, or give the new form a tag of its own".into()
            } else {
                let until = if was.until > 0 { was.until } else { self.next() };
                let since = if was.since > 1 { format!(" since = {},", was.since) } else { String::new() };
                format!("declare it with deprecated(name = \"{name}\",{since} until = {until}, ..)")
            };
            let expected = format!("{}, which version {version} has: {how}", text(was));
            self.tell(item, "no such field", expected);
        }
        for now in &today {
            if !named(&locked, &now.name) && !renamed.contains(&now.name.as_str()) {
                let since = self.since_next();
                self.tell(
                    format!("{path}.{}", now.name),
                    text(now),
                    format_args!("{since}: version {version} is locked without it"),
                );
            }
        }
        let moved = locked.iter().zip(&today).position(|(was, now)| was.name != now.name);
        if let Some(place) = moved.filter(|_| self.faults.len() == before && locked.len() == today.len()) {
            let Some(was) = locked.get(place) else { return };
            let now = today.iter().position(|now| now.name == was.name).unwrap_or(place);
            self.tell(
                format!("{path}.{}", was.name),
                behind(&today, now),
                format_args!("{}, where version {version} has it", behind(&locked, place)),
            );
        }
    }

    /// They have no version: as long as any version is read, they stay.
    fn subsections(&mut self) {
        let (locked, today) = (self.locked, self.today);
        for was in locked.subsections() {
            let item = format!("{}.{}", locked.name, was.name);
            let Some(now) = today.subsections().iter().find(|now| now.id == was.id) else {
                match today.subsections().iter().find(|now| now.name == was.name) {
                    Some(now) => self.tell(
                        item,
                        format_args!("a subsection of id {}", now.id),
                        format_args!("id {}: another state is another subsection, beside this one", was.id),
                    ),
                    None => self.tell(
                        item,
                        "no such subsection",
                        format_args!(
                            "one of id {}, which programs of version {} write: keep it as long as min_version is at \
                             most {}",
                            was.id, locked.version, locked.version
                        ),
                    ),
                }
                continue;
            };
            if now.name != was.name {
                let found = format_args!("id {} as {}", now.id, now.name);
                self.tell(item, found, format_args!("rename = \"{}\", which keeps the name", was.name));
            } else if now.required != was.required {
                self.tell(item, how(now.required), format_args!("{}, as it was written", how(was.required)));
            }
        }
    }
}

fn text(field: &Field) -> String {
    format!("{}{}", field.ty, if field.when { " under a condition" } else { "" })
}

fn behind(fields: &[Field], place: usize) -> String {
    match place.checked_sub(1).and_then(|before| fields.get(before)) {
        Some(before) => format!("it behind {}", before.name),
        None => "it in front".into(),
    }
}
