//! What a saved state holds, as lines that can be compared: values by their paths, without the order that hashing gave.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::super::description::{DescriptionBody, Kind};
use super::super::fit::{self, Written};
use super::super::image::Image;
use super::super::walk::{self, Shown, ShownState};
use super::fnv;
use crate::num::usize_of;
use crate::report::Fault;

/// Every value, each with its path.
pub(super) fn values(bytes: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    let image = Image::open(bytes)?;
    let written = fit::written(&image)?;
    let mut broken = None;
    let objects = walk::objects(&image, &written, true, &mut |fault| {
        broken.get_or_insert(fault);
    });
    if let Some(fault) = broken {
        return Err(fault);
    }
    let start = usize_of(Image::bulk_at(crate::num::u64_of(image.meta().len())));
    let mut lines = Lines { written: &written, bulk: bytes.get(start..).unwrap_or_default(), all: Vec::new() };
    for (number, (object, shown)) in image.objects().iter().zip(&objects).enumerate() {
        let path = match (&shown.value, number) {
            (Shown::State(state), 0) => state.name.clone(),
            _ => format!("objects[{number}]"),
        };
        lines.value(&path, &shown.value, &object.ty);
    }
    Ok(lines.all)
}

struct Lines<'a> {
    written: &'a Written,
    bulk: &'a [u8],
    all: Vec<(String, String)>,
}

impl Lines<'_> {
    fn value(&mut self, path: &str, value: &Shown, kind: &Kind) {
        match (value, kind) {
            (Shown::None, Kind::Option(_)) => self.all.push((path.into(), "none".into())),
            (value, Kind::Option(of)) => self.value(path, value, of),
            (Shown::State(state), Kind::State(id)) => self.state(path, state, *id),
            (Shown::List(values, _), Kind::Array(_, of) | Kind::Seq(of)) => {
                self.all.push((path.into(), format!("{} values", values.len())));
                for (index, value) in values.iter().enumerate() {
                    self.value(&format!("{path}[{index}]"), value, of);
                }
            }
            (Shown::List(values, _), Kind::Tuple(types)) => {
                for (index, (value, of)) in values.iter().zip(types).enumerate() {
                    self.value(&format!("{path}.{index}"), value, of);
                }
            }
            (Shown::List(values, _), Kind::Set(of)) => {
                let mut texts: Vec<String> = values.iter().map(|value| self.text(value, of)).collect();
                texts.sort();
                self.all.push((path.into(), format!("{{{}}}", texts.join(", "))));
            }
            (Shown::Map(pairs, _), Kind::Map(key, of)) => {
                let mut pairs: Vec<(String, &Shown)> =
                    pairs.iter().map(|(name, value)| (self.text(name, key), value)).collect();
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                self.all.push((path.into(), format!("{} pairs", pairs.len())));
                for (name, value) in pairs {
                    self.value(&format!("{path}[{name}]"), value, of);
                }
            }
            (Shown::Bulk(size, start), _) => {
                let data = self.bulk.get(usize_of(*start)..usize_of(start.saturating_add(*size))).unwrap_or_default();
                let sum = fnv(data.iter().copied());
                self.all.push((path.into(), format!("{size} bytes with the fingerprint {sum:016x}")));
            }
            (value, _) => self.all.push((path.into(), plain(value))),
        }
    }

    fn state(&mut self, path: &str, state: &ShownState, id: u32) {
        let of = self.written.get(&id).map(|(of, _)| of);
        let fields = match (of.map(|of| &of.body), &state.variant) {
            (Some(DescriptionBody::Struct { fields, .. }), _) => &fields[..],
            (Some(DescriptionBody::Enum { variants }), Some(name)) => {
                self.all.push((path.into(), name.clone()));
                variants.iter().find(|variant| variant.name == *name).map_or(&[][..], |variant| &variant.fields)
            }
            _ => &[],
        };
        for (name, value) in &state.fields {
            let path = format!("{path}.{name}");
            let part = of.and_then(|of| of.subsections().iter().find(|part| part.name == *name));
            match (fields.iter().find(|field| field.name == *name), part) {
                (Some(field), _) => self.value(&path, value, &field.ty),
                (None, Some(part)) => self.value(&path, value, &Kind::State(part.id)),
                (None, None) => self.all.push((path, plain(value))),
            }
        }
    }

    /// All of a value in one line.
    fn text(&self, value: &Shown, kind: &Kind) -> String {
        let mut lines = Lines { written: self.written, bulk: self.bulk, all: Vec::new() };
        lines.value("", value, kind);
        match &lines.all[..] {
            [(path, text)] if path.is_empty() => text.clone(),
            all => all.iter().map(|(path, text)| format!("{path} {text}")).collect::<Vec<_>>().join(" "),
        }
    }
}

fn plain(value: &Shown) -> String {
    match value {
        Shown::Number(number) => number.to_string(),
        Shown::Negative(number) => number.to_string(),
        Shown::Big(number) => number.to_string(),
        Shown::Bool(value) => value.to_string(),
        Shown::Float(number) => format!("{number:?}"),
        Shown::Text(text) => format!("{text:?}"),
        Shown::None => "nothing".into(),
        other => format!("{other:?}"),
    }
}
