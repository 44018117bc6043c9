//! Random descriptions, and random values by them: bytes, and how they are to be shown.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::{String, ToString as _};
use std::vec::Vec;

use super::*;
use crate::abi::state::{FOLIO, Resource};
use crate::state::shown::Float;
use crate::state::{Shown, ShownState, SubsectionDescription, VariantDescription};

/// Makes descriptions and values by them, and says how they are shown.
pub(super) struct Random {
    seed: u64,
    pub(super) descriptions: Vec<(Description, u32)>,
    pub(super) made: Made,
    pub(super) shown: Vec<Shown>,
}

const SCALARS: [u8; 15] = [
    kind::BOOL,
    kind::U8,
    kind::U16,
    kind::U32,
    kind::U64,
    kind::U128,
    kind::I8,
    kind::I16,
    kind::I32,
    kind::I64,
    kind::I128,
    kind::F32,
    kind::F64,
    kind::CHAR,
    kind::STR,
];
const KEYS: [u8; 5] = [kind::U8, kind::U16, kind::I32, kind::CHAR, kind::STR];

impl Random {
    fn word(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.word() >> 33).unwrap() % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn name(&mut self) -> String {
        ["a", "timer", "vcpu-0", "Größe", "0"][self.below(5)].repeat(1 + self.below(3))
    }

    /// A type of states from that place on, which nest no deeper than their number.
    fn kind(&mut self, next: usize, depth: usize) -> Kind {
        let deeper = |random: &mut Self| Box::new(random.kind(next, depth - 1));
        match self.below(if depth == 0 { 2 } else { 12 }) {
            0 => Kind::Scalar(self.of(&SCALARS)),
            1 if next < self.descriptions.len() => {
                let place = next + self.below(self.descriptions.len() - next);
                Kind::State(self.descriptions[place].0.id)
            }
            1 => Kind::Scalar(kind::FOLIO),
            2 => Kind::Array(1 + self.word() % 4, deeper(self)),
            3 => Kind::Seq(deeper(self)),
            4 => Kind::Map(Box::new(Kind::Scalar(self.of(&KEYS))), deeper(self)),
            5 => Kind::Set(Box::new(Kind::Scalar(self.of(&KEYS)))),
            6 => Kind::Option(deeper(self)),
            7 => Kind::Tuple((0..1 + self.below(3)).map(|_| self.kind(next, depth - 1)).collect()),
            8 => Kind::Shared(deeper(self)),
            9 => Kind::Link(deeper(self)),
            10 => Kind::Plain(self.of(&SCALARS[..11])),
            _ => Kind::Records { name: self.name(), size: 1 + self.word() % 40 },
        }
    }

    /// Fields of which at least one is there in that version.
    fn fields(&mut self, next: usize, version: u32) -> Vec<FieldDescription> {
        let mut fields: Vec<FieldDescription> = (0..1 + self.below(4))
            .map(|_| {
                let since = u32::try_from(1 + self.below(4)).unwrap();
                let until = if self.below(3) == 0 { since + 1 + u32::try_from(self.below(3)).unwrap() } else { 0 };
                FieldDescription { name: self.name(), since, until, when: self.below(4) == 0, ty: self.kind(next, 3) }
            })
            .collect();
        if fields.iter().all(|field| field.since > version || field.until != 0 && field.until <= version) {
            (fields[0].since, fields[0].until) = (1, 0);
        }
        fields
    }

    fn describe(&mut self, count: usize) {
        // From the last, so that each may have those behind it.
        let blank = described(1, &[]);
        self.descriptions = (0..count).map(|at| (Description { id: 10 + at as u32 * 7, ..blank.clone() }, 1)).collect();
        for at in (0..count).rev() {
            let version = u32::try_from(1 + self.below(4)).unwrap();
            let body = if self.below(3) == 0 && at > 0 {
                let variant = |random: &mut Self, number: u32| VariantDescription {
                    name: random.name(),
                    tag: number * 77_777,
                    since: if number == 0 { 1 } else { 1 + number % 4 },
                    fields: if random.below(3) == 0 { Vec::new() } else { random.fields(at + 1, version) },
                };
                DescriptionBody::Enum { variants: (0..3).map(|number| variant(self, number)).collect() }
            } else {
                let parts = (at + 1..count).filter(|_| self.below(4) == 0).collect::<Vec<_>>();
                let subsections = parts.into_iter().map(|at| SubsectionDescription {
                    name: self.name(),
                    id: 10 + at as u32 * 7,
                    required: self.below(2) == 0,
                });
                let subsections = subsections.collect();
                DescriptionBody::Struct { fields: self.fields(at + 1, version), subsections }
            };
            let (name, newest) = (self.name(), version + u32::try_from(self.below(3)).unwrap());
            let of =
                Description { id: 10 + at as u32 * 7, name, version: newest, min_version: 1, ignorable: false, body };
            self.descriptions[at] = (of, version);
        }
        for (of, version) in &self.descriptions {
            self.made.shapes.push((of.id, *version, description_bytes(of)));
        }
    }

    fn scalar(&mut self, of: u8, out: &mut Vec<u8>) -> Shown {
        let signed = |out: &mut Vec<u8>, value: i64| {
            out.extend(number(if value < 0 { !(value.cast_unsigned() << 1) } else { value.cast_unsigned() << 1 }));
            if value < 0 { Shown::Negative(value) } else { Shown::Number(value.cast_unsigned()) }
        };
        let shift = self.below(64);
        let word = self.word() >> shift;
        let unsigned = |out: &mut Vec<u8>, word: u64| {
            out.extend(number(word));
            Shown::Number(word)
        };
        match of {
            kind::BOOL => {
                out.push(u8::from(word % 2 == 1));
                Shown::Bool(word % 2 == 1)
            }
            kind::U8 => {
                out.push(word as u8);
                Shown::Number(word & 0xff)
            }
            kind::U16 => unsigned(out, word & 0xffff),
            kind::U32 => unsigned(out, word & 0xffff_ffff),
            kind::U64 => unsigned(out, word),
            kind::U128 => {
                out.extend((u128::from(word) << 50).to_le_bytes());
                Shown::Big(u128::from(word) << 50)
            }
            kind::I8 => {
                out.push(word as u8);
                let value = i64::from(word as u8 as i8);
                if value < 0 { Shown::Negative(value) } else { Shown::Number(value.cast_unsigned()) }
            }
            kind::I16 => signed(out, (word as i16).into()),
            kind::I32 => signed(out, (word as i32).into()),
            kind::I64 => signed(out, word.cast_signed()),
            kind::I128 => {
                let value = i128::from(word.cast_signed()) << 40;
                out.extend(value.to_le_bytes());
                if value < 0 { Shown::BigNegative(value) } else { Shown::Big(value.unsigned_abs()) }
            }
            kind::F32 => {
                out.extend((word as f32).to_le_bytes());
                Shown::Float(Float((word as f32).to_string().parse().unwrap()))
            }
            kind::F64 => {
                out.extend((word as f64).to_le_bytes());
                Shown::Float(Float(word as f64))
            }
            kind::CHAR => {
                let letter = char::from_u32(word as u32 % 0x11_0000).unwrap_or('x');
                out.extend(number(u64::from(u32::from(letter))));
                Shown::Text(letter.into())
            }
            kind::STR => {
                let name = self.name().repeat(self.below(30));
                out.extend(text(&name));
                Shown::Text(name)
            }
            _ => {
                let words = [self.word(), self.word(), 0];
                out.extend(number(self.made.resources.len() as u64));
                self.made.resources.push((FOLIO, words));
                let [a, b, c] = words.map(Into::into);
                Shown::Resource(Resource { kind: FOLIO.into(), reserved: 0.into(), a, b, c })
            }
        }
    }

    fn list(&mut self, count: usize, of: &Kind, out: &mut Vec<u8>) -> Shown {
        let start = out.len();
        let shown: Vec<Shown> = (0..count).map(|_| self.value(of, out)).collect();
        if *of == Kind::Scalar(kind::U8) {
            return Shown::Bytes(out[start..].to_vec(), count as u64);
        }
        Shown::List(shown, count as u64)
    }

    fn keys(&mut self, of: &Kind) -> BTreeMap<Vec<u8>, Shown> {
        let mut keys = BTreeMap::new();
        for _ in 0..self.below(5) {
            let mut bytes = Vec::new();
            let shown = self.value(of, &mut bytes);
            keys.insert(bytes, shown);
        }
        keys
    }

    fn value(&mut self, of: &Kind, out: &mut Vec<u8>) -> Shown {
        match of {
            Kind::Scalar(of) => self.scalar(*of, out),
            Kind::Array(count, of) => self.list(usize::try_from(*count).unwrap(), of, out),
            Kind::Seq(of) => {
                let count = self.below(5);
                out.extend(number(count as u64));
                self.list(count, of, out)
            }
            Kind::Map(key, of) => {
                let keys = self.keys(key);
                out.extend(number(keys.len() as u64));
                let pairs = keys.into_iter().map(|(bytes, key)| {
                    out.extend(bytes);
                    (key, self.value(of, out))
                });
                let pairs: Vec<_> = pairs.collect();
                let count = pairs.len() as u64;
                Shown::Map(pairs, count)
            }
            Kind::Set(of) => {
                let keys = self.keys(of);
                out.extend(number(keys.len() as u64));
                let count = keys.len() as u64;
                Shown::Set(
                    keys.into_iter()
                        .map(|(bytes, key)| {
                            out.extend(bytes);
                            key
                        })
                        .collect(),
                    count,
                )
            }
            Kind::Option(of) => {
                let there = self.below(3) > 0;
                out.push(there.into());
                if there { self.value(of, out) } else { Shown::None }
            }
            Kind::Tuple(all) => {
                let shown = all.iter().map(|of| self.value(of, out)).collect();
                Shown::List(shown, all.len() as u64)
            }
            Kind::State(id) => self.state(*id, out),
            Kind::Shared(of) => {
                let there =
                    self.made.objects.iter().position(|(known, _)| known == &**of).filter(|_| self.below(2) == 0);
                let place = there.unwrap_or_else(|| self.object(of));
                out.extend(number(place as u64));
                Shown::Object(u32::try_from(place).unwrap())
            }
            Kind::Link(of) => {
                let to = self.made.objects.iter().position(|(known, _)| known == &**of);
                let to = to.map(|to| u32::try_from(to).unwrap());
                out.extend(to.map_or(0, |to| to + 1).to_le_bytes());
                Shown::Link(to)
            }
            Kind::Plain(of) => {
                let unit = match *of {
                    kind::BOOL | kind::U8 | kind::I8 => 1,
                    kind::U16 | kind::I16 => 2,
                    kind::U32 | kind::I32 => 4,
                    kind::U64 | kind::I64 => 8,
                    _ => 16,
                };
                self.bulk(unit, out)
            }
            Kind::Records { size, .. } => self.bulk(usize::try_from(*size).unwrap(), out),
        }
    }

    fn bulk(&mut self, unit: usize, out: &mut Vec<u8>) -> Shown {
        let len = unit * self.below(20);
        out.extend(number(len as u64));
        if len == 0 {
            return Shown::Bulk { bytes: 0, offset: 0, first: Vec::new() };
        }
        let at = self.made.bulk.len().next_multiple_of(64);
        self.made.bulk.resize(at + len, 3);
        out.extend(number(at as u64));
        Shown::Bulk { bytes: len as u64, offset: at as u64, first: Vec::new() }
    }

    fn fields_of(&mut self, fields: &[FieldDescription], version: u32, out: &mut Vec<u8>) -> Vec<(String, Shown)> {
        let mut shown = Vec::new();
        for field in fields {
            if field.since > version || field.until != 0 && version >= field.until {
                continue;
            }
            let there = !field.when || self.below(2) == 0;
            if field.when {
                out.push(there.into());
            }
            let value = if there { self.value(&field.ty, out) } else { Shown::None };
            shown.push((field.name.clone(), value));
        }
        shown
    }

    fn state(&mut self, id: u32, out: &mut Vec<u8>) -> Shown {
        let (of, version) = self.descriptions.iter().find(|(of, _)| of.id == id).unwrap().clone();
        let mut shown = ShownState { id, name: of.name, version, variant: None, fields: Vec::new() };
        match of.body {
            DescriptionBody::Struct { fields, subsections } => {
                shown.fields = self.fields_of(&fields, version, out);
                let parts: Vec<_> = subsections.iter().filter(|_| self.below(2) == 0).collect();
                if !subsections.is_empty() {
                    out.extend(number(parts.len() as u64));
                }
                for part in parts {
                    let mut own = Vec::new();
                    let value = self.state(part.id, &mut own);
                    out.extend(part.id.to_le_bytes());
                    out.extend(u32::try_from(own.len()).unwrap().to_le_bytes());
                    out.extend(own);
                    shown.fields.push((part.name.clone(), value));
                }
            }
            DescriptionBody::Enum { variants } => {
                let known: Vec<_> = variants.into_iter().filter(|variant| variant.since <= version).collect();
                let variant = known[self.below(known.len())].clone();
                out.extend(number(variant.tag.into()));
                shown.variant = Some(variant.name);
                shown.fields = self.fields_of(&variant.fields, version, out);
            }
        }
        Shown::State(Box::new(shown))
    }

    fn object(&mut self, of: &Kind) -> usize {
        let mut bytes = Vec::new();
        let shown = self.value(of, &mut bytes);
        self.made.objects.push((of.clone(), bytes));
        self.shown.push(shown);
        self.shown.len() - 1
    }
}

pub(super) fn random(seed: u64) -> Random {
    let mut random = Random { seed: seed | 1, descriptions: Vec::new(), made: Made::default(), shown: Vec::new() };
    let count = 1 + random.below(5);
    random.describe(count);
    for instance in 0..1 + random.below(3) as u64 {
        let object = random.object(&Kind::State(10));
        random.made.instances.push((instance * 5, 10, u32::try_from(object).unwrap()));
    }
    random
}
