//! Old and new: what one release writes, in any version that it can, another one reads or refuses as a naive model says.

use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString as _};
use std::vec::Vec;

use proptest::prelude::*;

use super::super::fit::{Fit, Written};
use super::super::node::negotiate;
use super::*;
use crate::report::{Code, Severity};
use crate::state::{self, Shown, State, SubsectionDescription, Versions};

/// What a release changes.
#[derive(Clone, Debug)]
enum Step {
    /// A field more, somewhere.
    Add(prop::sample::Index),
    /// A field less.
    Deprecate(prop::sample::Index),
    /// A part that may be missing, without a new version.
    Part { required: bool },
    /// The oldest version is not read any more.
    Raise,
    /// A field has another type in all versions: what nobody may do.
    Cheat(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => index().prop_map(Step::Add),
        2 => index().prop_map(Step::Deprecate),
        3 => any::<bool>().prop_map(|required| Step::Part { required }),
        2 => Just(Step::Raise),
        1 => index().prop_map(Step::Cheat),
    ]
}

/// A state as a map: the versions of each field, and the release in which it got another type, if any.
#[derive(Clone, Debug)]
struct Release {
    version: u32,
    oldest: u32,
    /// Name, since, until, how often its type was changed.
    fields: Vec<(String, u32, u32, u32)>,
    parts: Vec<(u32, bool)>,
}

impl Release {
    fn next(&self, step: &Step, number: usize) -> Release {
        let mut next = self.clone();
        match step {
            Step::Add(place) => {
                next.version += 1;
                let field = (format!("f{number}"), next.version, 0, 0);
                next.fields.insert(place.index(self.fields.len() + 1), field);
            }
            Step::Deprecate(which) => {
                // One stays: without a field there is nothing.
                let there: Vec<_> = (0..next.fields.len()).filter(|at| next.fields[*at].2 == 0).collect();
                if there.len() > 1 {
                    next.version += 1;
                    next.fields[there[which.index(there.len())]].2 = next.version;
                }
            }
            Step::Part { required } => next.parts.push((200 + u32::try_from(number).unwrap(), *required)),
            Step::Raise => next.oldest = (next.oldest + 1).min(next.version),
            Step::Cheat(which) => {
                let count = next.fields.len();
                next.fields[which.index(count)].3 += 1;
            }
        }
        next
    }

    fn description(&self) -> Description {
        let kinds = [kind::U64, kind::U32, kind::U16];
        let field = |(name, since, until, changed): &(String, u32, u32, u32)| FieldDescription {
            name: name.clone(),
            since: *since,
            until: *until,
            when: false,
            ty: Kind::Scalar(kinds[*changed as usize % 3]),
        };
        let part = |(id, required): &(u32, bool)| SubsectionDescription {
            name: format!("p{id}"),
            id: *id,
            required: *required,
        };
        let body = DescriptionBody::Struct {
            fields: self.fields.iter().map(field).collect(),
            subsections: self.parts.iter().map(part).collect(),
        };
        Description { version: self.version, min_version: self.oldest, body, ..described(100, &[]) }
    }

    fn has(field: &(String, u32, u32, u32), version: u32) -> bool {
        field.1 <= version && (field.2 == 0 || version < field.2)
    }

    /// In that version, with these parts; and what each field is.
    fn write(&self, version: u32, parts: &[(u32, bool)]) -> (Made, BTreeMap<String, u64>) {
        let (mut object, mut values) = (Vec::new(), BTreeMap::new());
        for (at, field) in self.fields.iter().enumerate().filter(|(_, field)| Release::has(field, version)) {
            let value = at as u64 * 1000 + u64::from(version);
            object.extend(number(value));
            values.insert(field.0.clone(), value);
        }
        if !self.parts.is_empty() {
            object.extend(number(parts.len() as u64));
        }
        for (id, _) in parts {
            object.extend([&id.to_le_bytes()[..], &1_u32.to_le_bytes(), &number(u64::from(*id) - 199)[..1]].concat());
            values.insert(format!("p{id}"), u64::from(*id) - 199);
        }
        let mut made = Made { shapes: vec![(100, version, description_bytes(&self.description()))], ..Made::default() };
        for (id, _) in parts {
            made.shapes.push((*id, 1, description_bytes(&described(*id, &[("x", Kind::Scalar(kind::U64))]))));
        }
        made.add(100, &object);
        (made, values)
    }

    /// What a reader makes of it: codes of refusal and what is left behind, or of each field what it is, where it is not
    /// the default.
    fn reads(&self, writer: &Release, version: u32, parts: &[(u32, bool)], values: &BTreeMap<String, u64>) -> Model {
        if version < self.oldest {
            return Model { codes: vec![Code::VersionOlder], values: BTreeMap::new() };
        }
        if version > self.version {
            return Model { codes: vec![Code::VersionNewer], values: BTreeMap::new() };
        }
        let mut model = Model { codes: Vec::new(), values: BTreeMap::new() };
        for field in self.fields.iter().filter(|field| Release::has(field, version)) {
            let written = writer.fields.iter().find(|other| other.0 == field.0).unwrap();
            if written.3 % 3 != field.3 % 3 {
                model.codes.push(Code::StateField);
            }
            model.values.insert(field.0.clone(), values[&field.0]);
        }
        for part in parts {
            if self.parts.contains(part) {
                model.values.insert(format!("p{}", part.0), u64::from(part.0) - 199);
            } else {
                model.codes.push(if part.1 { Code::StateUnknown } else { Code::StateIgnored });
            }
        }
        model
    }
}

struct Model {
    codes: Vec<Code>,
    values: BTreeMap<String, u64>,
}

/// What the descriptions say of each other.
fn judged(made: &Made, reader: &Release) -> (Vec<Code>, bool) {
    let bytes = made.bytes();
    let written = fit::written(&Image::open(&bytes).unwrap()).unwrap();
    let mut known: Written = BTreeMap::from([(100, (reader.description(), reader.version))]);
    for (id, _) in &reader.parts {
        known.insert(*id, (described(*id, &[("x", Kind::Scalar(kind::U64))]), 1));
    }
    let mut fit = Fit { findings: Vec::new(), newest: true };
    fit.check(&written, &known, [100]);
    (fit.findings.iter().map(crate::report::Fault::code).collect(), fit.newest)
}

/// What is there, by name, as who has only the bytes reads it.
fn shown(made: &Made) -> BTreeMap<String, u64> {
    let all = walked(&made.bytes()).unwrap();
    let Shown::State(root) = &all[0].value else { panic!() };
    let number = |value: &Shown| match value {
        Shown::Number(number) => *number,
        Shown::State(part) => match part.fields[0].1 {
            Shown::Number(number) => number,
            _ => panic!(),
        },
        _ => panic!(),
    };
    root.fields.iter().map(|(name, value)| (name.clone(), number(value))).collect()
}

proptest! {
    #![proptest_config(crate::testing::cases(200))]

    #[test]
    fn each_release_reads_each_other_as_the_model_says(
        steps in prop::collection::vec(step(), 1..9), chosen in any::<u16>()
    ) {
        let mut releases = vec![Release { version: 1, oldest: 1, fields: vec![("f".into(), 1, 0, 0)], parts: Vec::new() }];
        for (number, step) in steps.iter().enumerate() {
            releases.push(releases[number].next(step, number));
        }
        for writer in &releases {
            for reader in &releases {
                for version in writer.oldest..=writer.version {
                    let bit = |part: &&(u32, bool)| chosen >> (part.0 % 16) & 1 == 1;
                    let parts: Vec<_> = writer.parts.iter().filter(bit).copied().collect();
                    let (made, values) = writer.write(version, &parts);
                    prop_assert_eq!(&shown(&made), &values);
                    let model = reader.reads(writer, version, &parts, &values);
                    let (mut codes, newest) = judged(&made, reader);
                    let (mut expected, read) = (model.codes.clone(), model.values);
                    codes.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(&codes, &expected, "{:?} reads {:?} in {}", reader, writer, version);
                    if codes.iter().all(|code| code.severity() != Severity::Error) {
                        let alike = writer.parts.is_empty() == reader.parts.is_empty();
                        prop_assert_eq!(newest, version == reader.version && alike);
                        // Every field of the reader is there under its name, or is not in that version.
                        let ignored = codes.len();
                        prop_assert_eq!(read.len() + ignored, values.len());
                        prop_assert!(read.iter().all(|(name, value)| values.get(name) == Some(value)));
                    }
                }
                // Before anything is written: in the newest version that both have, with all parts.
                let part = |(id, _): &(u32, bool)| described(*id, &[("x", Kind::Scalar(kind::U64))]);
                let all = |release: &Release| {
                    std::iter::once(release.description()).chain(release.parts.iter().map(part)).collect::<Vec<_>>()
                };
                let version = writer.version.min(reader.version).max(writer.oldest);
                let (_, values) = writer.write(version, &writer.parts);
                let mut expected = reader.reads(writer, version, &writer.parts, &values).codes;
                let mut codes: Vec<Code> = negotiate(&all(writer), &all(reader)).iter().map(crate::report::Fault::code).collect();
                codes.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(codes, expected, "{:?} hands over to {:?}", writer, reader);
            }
        }
    }
}

/// Six releases of one program. What a release has, by name.
trait Release6: State + Sized {
    const OLDEST: u32;
    const NEWEST: u32;
    fn make() -> Self;
    fn has(&self) -> BTreeMap<&'static str, u64>;
}

macro_rules! release {
    ($module:ident: $oldest:literal to $newest:literal, [$($old:meta),*] { $($(#[$meta:meta])* $field:ident: $ty:ty = $value:expr => $shown:expr;)* } $($more:item)*) => {
        mod $module {
            use super::*;

            #[derive(State)]
            #[state(id = 500, version = $newest, min_version = $oldest, name = "thing")]
            $(#[state($old)])*
            pub(super) struct Thing {
                $($(#[$meta])* pub(super) $field: $ty,)*
            }

            impl Release6 for Thing {
                const OLDEST: u32 = $oldest;
                const NEWEST: u32 = $newest;

                fn make() -> Self {
                    Thing { $($field: $value,)* }
                }

                fn has(&self) -> BTreeMap<&'static str, u64> {
                    $(let $field = |$field: &$ty| -> u64 { let show: fn(&$ty) -> u64 = $shown; show($field) };)*
                    BTreeMap::from([$((stringify!($field), $field(&self.$field)),)*])
                }
            }

            $($more)*
        }
    };
}

#[derive(State, Clone)]
#[state(id = 501, version = 1)]
struct Part {
    x: u32,
}

#[derive(State, Clone)]
#[state(id = 502, version = 1, ignorable)]
struct Other {
    x: u32,
}

release! { one: 1 to 1, [] { a: u32 = 11 => |a| (*a).into(); } }
release! { two: 1 to 2, [] {
    a: u32 = 21 => |a| (*a).into();
    #[state(since = 2, default = 7)]
    b: u16 = 22 => |b| (*b).into();
} }
release! { three: 1 to 3, [deprecated(name = "a", ty = u32, until = 3, write = Thing::old, read = Thing::read)] {
    #[state(since = 3, default)]
    wide: u64 = 31 => |wide| *wide;
    #[state(since = 2, default = 7)]
    b: u16 = 32 => |b| (*b).into();
}
impl Thing {
    fn old(&self) -> u32 {
        self.wide as u32
    }
    fn read(&mut self, a: u32) {
        self.wide = a.into();
    }
} }
release! { four: 2 to 4, [deprecated(name = "a", ty = u32, until = 3, write = Thing::old, read = Thing::read)] {
    #[state(since = 3, default)]
    wide: u64 = 41 => |wide| *wide;
    b: u16 = 42 => |b| (*b).into();
    #[state(since = 4, default = "none".into())]
    c: String = "four".into() => |c| c.len() as u64;
    #[state(subsection = required)]
    part: Option<Part> = Some(Part { x: 43 }) => |part| part.as_ref().map_or(0, |part| part.x.into());
}
impl Thing {
    fn old(&self) -> u32 {
        self.wide as u32
    }
    fn read(&mut self, a: u32) {
        self.wide = a.into();
    }
} }
release! { five: 4 to 4, [] {
    wide: u64 = 51 => |wide| *wide;
    b: u16 = 52 => |b| (*b).into();
    c: String = "five5".into() => |c| c.len() as u64;
    #[state(subsection = required)]
    part: Option<Part> = None => |part| part.as_ref().map_or(0, |part| part.x.into());
    #[state(subsection = ignorable)]
    other: Option<Other> = Some(Other { x: 53 }) => |other| other.as_ref().map_or(0, |other| other.x.into());
} }
release! { six: 4 to 5, [] {
    wide: u64 = 61 => |wide| *wide;
    b: u16 = 62 => |b| (*b).into();
    c: String = "sixsix".into() => |c| c.len() as u64;
    #[state(since = 5, default = 3, required)]
    d: u8 = 3 => |d| (*d).into();
    #[state(subsection = required)]
    part: Option<Part> = Some(Part { x: 63 }) => |part| part.as_ref().map_or(0, |part| part.x.into());
    #[state(subsection = ignorable)]
    other: Option<Other> = None => |other| other.as_ref().map_or(0, |other| other.x.into());
} }

/// Since which version a field is there, and what it is before.
const FIELDS: [(&str, u32, u64); 4] = [("wide", 1, 0), ("b", 2, 7), ("c", 4, 4), ("d", 5, 3)];

/// What becomes of it by the rules, without the code.
fn expected<W: Release6, R: Release6>(version: u32) -> Result<BTreeMap<&'static str, u64>, Code> {
    let (written, reads) = (W::make().has(), R::make().has());
    if version < R::OLDEST {
        return Err(Code::VersionOlder);
    }
    if version > R::NEWEST {
        return Err(Code::VersionNewer);
    }
    if written.get("part").is_some_and(|part| *part > 0) && !reads.contains_key("part") {
        return Err(Code::StateUnknown);
    }
    let value = |name: &'static str| {
        let alias = if written.contains_key(name) { name } else { "a" };
        let before = FIELDS.iter().find(|field| field.0 == name).filter(|field| version < field.1);
        match name {
            "a" => written.get("a").or(written.get("wide")).copied().unwrap(),
            "wide" => written[alias],
            _ => before.map_or_else(|| written.get(name).copied().unwrap_or(0), |field| field.2),
        }
    };
    Ok(reads.keys().map(|name| (*name, value(name))).collect())
}

fn pair<W: Release6, R: Release6>() {
    for version in W::OLDEST..=W::NEWEST {
        let bytes = state::save_as(&W::make(), &Versions::of::<W>(version).unwrap()).unwrap();
        let found = state::restore::<R>(&bytes);
        let found = found.map(|thing| thing.has()).map_err(|error| error.fault().code());
        let names = format!("{} to {} in {version}", std::any::type_name::<W>(), std::any::type_name::<R>());
        assert_eq!(found, expected::<W, R>(version), "{names}");
    }
    for version in [W::OLDEST - 1, W::NEWEST + 1] {
        let code = if version < W::OLDEST { Code::VersionOlder } else { Code::VersionNewer };
        assert_eq!(Versions::of::<W>(version).unwrap_err().code(), code);
    }
}

#[test]
fn six_releases_read_each_other_in_both_directions() {
    macro_rules! all {
        (of $writer:ident) => {
            pair::<$writer::Thing, one::Thing>();
            pair::<$writer::Thing, two::Thing>();
            pair::<$writer::Thing, three::Thing>();
            pair::<$writer::Thing, four::Thing>();
            pair::<$writer::Thing, five::Thing>();
            pair::<$writer::Thing, six::Thing>();
        };
        ($($writer:ident)*) => { $(all!(of $writer);)* };
    }
    all!(one two three four five six);
    // What an older version cannot say is not written in it.
    let six = six::Thing { d: 4, ..six::Thing::make() };
    let error = state::save_as(&six, &Versions::of::<six::Thing>(4).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "state-older: thing.d: found a value of version 5, expected one that version 4 can say"
    );
}
