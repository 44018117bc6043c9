//! States, value by value, by the names that their descriptions give.

use alloc::collections::{BTreeMap, VecDeque};
use core::fmt::Write as _;

use super::super::body::Body;
use super::super::extract::Opened;
use super::super::states::{StateDescription, StateImage, StateInstance};
use super::{Change, ChangeKind, Pair, Walk, pairs};
use crate::abi::state::{AREA, FOLIO, Resource};
use crate::mem::{PhysAddr, PhysRange};
use crate::num::u64_of;
use crate::state::{Shown, ShownState, descriptor_of};

/// So many differences of one node are told.
const CHANGES: usize = 4_096;
/// A path that is longer, in bytes, ends at the next shared object, which has a number.
const PATH: usize = 1_024;
/// So much of a text is shown, in characters.
const TEXT: usize = 40;
/// So many bytes are shown.
const BYTES: usize = 16;

/// Both sides of one node.
struct Both<'a> {
    a: Side<'a>,
    b: Side<'a>,
    /// Which object of B has the place of which of A.
    same: BTreeMap<u32, u32>,
    /// Objects that are to be compared, and the first path to them.
    waiting: VecDeque<(String, u32, u32)>,
    /// Differences before this node.
    before: usize,
    path: String,
}

struct Side<'a> {
    states: &'a StateImage,
    objects: BTreeMap<u32, &'a Shown>,
}

impl<'a> Side<'a> {
    fn of(states: &'a StateImage) -> Self {
        let shared = states.objects.iter().filter_map(|one| Some((one.number, one.value.as_ref()?)));
        let asked = states.instances.iter().filter_map(|one| Some((one.object, one.value.as_ref()?)));
        Side { states, objects: shared.chain(asked).collect() }
    }

    /// Bulk data, of a handover or of a file.
    fn bulk(&self, bytes: u64, offset: u64) -> Option<Body<'a>> {
        match self.states.bulk.offset {
            Some(start) => PhysRange::new(PhysAddr::new(start.checked_add(offset)?), bytes).map(Body::Bytes),
            None => Some(Body::Slice(&self.states.bulk.blocks, offset, bytes)),
        }
    }
}

impl<'a> Walk<'a> {
    pub(super) fn states(&mut self, path: &str, a: &'a StateImage, b: &'a StateImage) {
        for ((id, _), (a, b)) in pairs(&a.descriptions, &b.descriptions, |of| of.description.id) {
            let name = a.or(b).map_or_else(|| id.to_string(), |of| of.description.name.clone());
            let version = |of: &StateDescription| of.written;
            self.value(&format!("{path} versions[{name}]"), a.map(version), b.map(version));
        }
        let mut both = Both {
            a: Side::of(a),
            b: Side::of(b),
            same: BTreeMap::new(),
            waiting: VecDeque::new(),
            before: self.diff.changes.len(),
            path: String::new(),
        };
        let instances = pairs(&a.instances, &b.instances, |one| (one.id, one.number));
        for pair in instances.values() {
            if let (Some(a), Some(b)) = pair {
                both.same.entry(a.object).or_insert(b.object);
            }
        }
        for (a, b) in instances.into_values() {
            let title = a.or(b).map(StateInstance::title).unwrap_or_default();
            both.path = format!("{path} {title}");
            match (a, b) {
                (Some(a), Some(b)) => match (&a.value, &b.value) {
                    (Some(ours), Some(theirs)) => self.shown(&mut both, ours, theirs),
                    // Another instance is the same object.
                    (None, None) => {}
                    (ours, theirs) => {
                        let side =
                            |value: &Option<Shown>| if value.is_some() { "can be read" } else { "cannot be read" };
                        self.value(&both.path, Some(side(ours)), Some(side(theirs)));
                    }
                },
                (a, b) => {
                    let about = |one: &StateInstance| format!("version {}", one.version);
                    self.value(&both.path, a.map(about), b.map(about));
                }
            }
        }
        while let Some((at, ours, theirs)) = both.waiting.pop_front() {
            let objects = (both.a.objects.get(&ours).copied(), both.b.objects.get(&theirs).copied());
            both.path = if at.len() > PATH { format!("{path} objects[{ours}]") } else { at };
            if let (Some(ours), Some(theirs)) = objects {
                self.shown(&mut both, ours, theirs);
            }
        }
        if !(a.complete && b.complete) {
            let why = |side: &StateImage| (!side.complete).then(|| "not all of its values are kept".into());
            self.not_compared(format!("{path} values"), why(a), why(b));
        }
        if self.is_full(&both) {
            let why = || Some(format!("{CHANGES} differences are told"));
            self.not_compared(format!("{path} values"), why(), why());
        }
    }

    fn is_full(&self, both: &Both<'a>) -> bool {
        self.diff.changes.len().saturating_sub(both.before) >= CHANGES
    }

    fn shown(&mut self, both: &mut Both<'a>, a: &'a Shown, b: &'a Shown) {
        if self.is_full(both) {
            return;
        }
        match (a, b) {
            (Shown::State(a), Shown::State(b)) if a.id == b.id && a.variant == b.variant => self.fields(both, a, b),
            (Shown::List(ours, len), Shown::List(theirs, others)) => {
                self.len(both, *len, *others);
                for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
                    self.inside(both, format_args!("[{index}]"), (Some(a), Some(b)));
                }
                self.rest(both, (ours.len(), *len), (theirs.len(), *others));
            }
            (Shown::Set(ours, len), Shown::Set(theirs, others)) => {
                for pair in joined(ours, theirs, |one| one) {
                    // Those that both have are the same.
                    if let (Some(one), None) | (None, Some(one)) = pair {
                        self.inside(both, format_args!("[{}]", brief(one)), pair);
                    }
                }
                self.rest(both, (ours.len(), *len), (theirs.len(), *others));
            }
            (Shown::Map(ours, len), Shown::Map(theirs, others)) => {
                for (a, b) in joined(ours, theirs, |(key, _)| key) {
                    let key = a.or(b).map(|(key, _)| brief(key)).unwrap_or_default();
                    self.inside(both, format_args!("[{key}]"), (a.map(|(_, of)| of), b.map(|(_, of)| of)));
                }
                self.rest(both, (ours.len(), *len), (theirs.len(), *others));
            }
            (Shown::Bytes(ours, len), Shown::Bytes(theirs, others)) => {
                self.len(both, *len, *others);
                let mut bytes = (0_u64..).zip(ours.iter().zip(theirs));
                if let Some((offset, (a, b))) = bytes.find(|(_, (a, b))| a != b) {
                    let (a, b) = (Some(format!("{a:#04x}")), Some(format!("{b:#04x}")));
                    let (kind, path) = (ChangeKind::Changed, both.path.clone());
                    self.diff.changes.push(Change { kind, path, offset: Some(offset), a, b });
                }
                self.rest(both, (ours.len(), *len), (theirs.len(), *others));
            }
            (Shown::Bulk { bytes, offset, first }, Shown::Bulk { bytes: size, offset: at, first: others }) => {
                let len = format!("{}.bytes", both.path);
                self.value(&len, Some(bytes), Some(size));
                match (both.a.bulk(*bytes, *offset), both.b.bulk(*size, *at)) {
                    (Some(a), Some(b)) if self.a.image().is_some() && self.b.image().is_some() => {
                        self.bytes(both.path.clone(), a, b);
                    }
                    _ => self.value(&format!("{}.first", both.path), Some(hex(first)), Some(hex(others))),
                }
            }
            (Shown::Object(ours), Shown::Object(theirs)) | (Shown::Link(Some(ours)), Shown::Link(Some(theirs))) => {
                match both.same.get(ours) {
                    Some(same) if same == theirs => {}
                    Some(_) => self.value(&both.path, Some(brief(a)), Some(brief(b))),
                    None => {
                        both.same.insert(*ours, *theirs);
                        both.waiting.push_back((both.path.clone(), *ours, *theirs));
                    }
                }
            }
            (Shown::Resource(ours), Shown::Resource(theirs)) if ours.kind == theirs.kind => {
                self.resource(&both.path.clone(), ours, theirs);
            }
            (a, b) if a == b => {}
            (a, b) => self.value(&both.path, Some(brief(a)), Some(brief(b))),
        }
    }

    /// What is inside, behind this path.
    fn inside(&mut self, both: &mut Both<'a>, step: core::fmt::Arguments<'_>, pair: Pair<'a, Shown>) {
        if self.is_full(both) {
            return;
        }
        let len = both.path.len();
        let _ = both.path.write_fmt(step);
        match pair {
            (Some(a), Some(b)) => self.shown(both, a, b),
            (a, b) => self.value(&both.path, a.map(brief), b.map(brief)),
        }
        both.path.truncate(len);
    }

    fn fields(&mut self, both: &mut Both<'a>, a: &'a ShownState, b: &'a ShownState) {
        let is_same = a.fields.len() == b.fields.len()
            && a.fields.iter().zip(&b.fields).all(|((name, _), (other, _))| name == other);
        if is_same {
            for ((name, a), (_, b)) in a.fields.iter().zip(&b.fields) {
                self.inside(both, format_args!(".{name}"), (Some(a), Some(b)));
            }
            return;
        }
        let mut others: BTreeMap<&str, &'a Shown> = b.fields.iter().map(|(name, of)| (name.as_str(), of)).collect();
        for (name, value) in &a.fields {
            let other = others.remove(name.as_str());
            self.inside(both, format_args!(".{name}"), (Some(value), other));
        }
        for (name, value) in &b.fields {
            if others.contains_key(name.as_str()) {
                self.inside(both, format_args!(".{name}"), (None, Some(value)));
            }
        }
    }

    fn len(&mut self, both: &Both<'a>, a: u64, b: u64) {
        if a != b {
            self.value(&format!("{}.len", both.path), Some(a), Some(b));
        }
    }

    /// Elements that are counted only.
    fn rest(&mut self, both: &Both<'a>, a: (usize, u64), b: (usize, u64)) {
        let why = |(kept, all): (usize, u64)| (u64_of(kept) < all).then(|| format!("{kept} of {all} are kept"));
        if why(a).is_some() || why(b).is_some() {
            self.not_compared(both.path.clone(), why(a), why(b));
        }
    }

    fn resource(&mut self, path: &str, a: &Resource, b: &Resource) {
        match a.kind.get() {
            FOLIO => {
                self.value(&format!("{path}.order"), Some(a.b), Some(b.b));
                if self.addresses {
                    self.address(&format!("{path}.address"), Some(a.a.get()), Some(b.a.get()));
                }
                if let (Some(a), Some(b)) = (folio(self.a, a), folio(self.b, b)) {
                    self.bytes(format!("{path}.content"), a, b);
                }
            }
            AREA => {
                let (a, b) = (descriptor_of(a), descriptor_of(b));
                self.value(&format!("{path}.pages"), Some(a.total_pages), Some(b.total_pages));
                self.value(&format!("{path}.order"), Some(a.order), Some(b.order));
                let why = || Some("its blocks are not among what is kept".into());
                self.not_compared(format!("{path}.content"), why(), why());
            }
            _ => {
                if self.addresses {
                    self.address(&format!("{path}.token"), Some(a.a.get()), Some(b.a.get()));
                }
                let why = || Some("its file travels beside the memory, and is not in it".into());
                self.not_compared(format!("{path}.content"), why(), why());
            }
        }
    }
}

fn folio<'a>(opened: &Opened, resource: &Resource) -> Option<Body<'a>> {
    let page = opened.decoded.page_size.as_ref()?.bytes;
    let size = page.checked_shl(u32::try_from(resource.b.get()).ok()?)?;
    PhysRange::new(PhysAddr::new(resource.a.get()), size).map(Body::Bytes)
}

/// Both lists by what they are, or by a part of it.
fn joined<'a, T>(a: &'a [T], b: &'a [T], key: impl Fn(&'a T) -> &'a Shown) -> Vec<Pair<'a, T>> {
    let mut all: BTreeMap<String, Pair<'a, T>> = BTreeMap::new();
    for one in a {
        all.entry(format!("{:?}", key(one))).or_default().0 = Some(one);
    }
    for one in b {
        all.entry(format!("{:?}", key(one))).or_default().1 = Some(one);
    }
    all.into_values().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// A value in a few words.
fn brief(value: &Shown) -> String {
    let counted = |number: u64, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    match value {
        Shown::Number(number) => number.to_string(),
        Shown::Negative(number) => number.to_string(),
        Shown::Big(number) => number.to_string(),
        Shown::BigNegative(number) => number.to_string(),
        Shown::Bool(value) => value.to_string(),
        Shown::Float(number) => number.0.to_string(),
        Shown::Text(text) if text.chars().nth(TEXT).is_some() => {
            let some: String = text.chars().take(TEXT).collect();
            format!("\"{some}...\"")
        }
        Shown::Text(text) => format!("\"{text}\""),
        Shown::Bytes(bytes, len) if *len <= u64_of(BYTES) => format!("0x{}", hex(bytes)),
        Shown::Bytes(_, len) => counted(*len, "byte"),
        Shown::List(_, len) | Shown::Set(_, len) => counted(*len, "element"),
        Shown::Map(_, len) => format!("{len} entr{}", if *len == 1 { "y" } else { "ies" }),
        Shown::None => "none".into(),
        Shown::State(state) => state.variant.as_ref().unwrap_or(&state.name).clone(),
        Shown::Object(number) => format!("object {number}"),
        Shown::Link(Some(number)) => format!("a link to object {number}"),
        Shown::Link(None) => "a link to nothing".into(),
        Shown::Bulk { bytes, .. } => counted(*bytes, "byte"),
        Shown::Resource(one) => match one.kind.get() {
            FOLIO => format!("pages of order {}", one.b),
            AREA => counted(descriptor_of(one).total_pages.get().into(), "page"),
            _ => "a file".into(),
        },
    }
}
