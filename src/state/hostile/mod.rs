//! Images that nobody should have written, made by a writer of its own: as the format is documented, and no more clever
//! than that.

mod attached;
mod evolved;
mod handed_over;
mod made;
mod nested;
mod random;
mod saving;
mod tables;
mod values;

use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

use super::attach::{Came, States};
use super::description::{Description, DescriptionBody, FieldDescription};
use super::kind::Kind;
use super::resource::Held;
use super::shape::{Shape, closure};
use super::shown::ShownObject;
use super::walk;
use super::{Image, fit};
use crate::abi::state::kind;
use crate::report::Fault;

/// A number without a fixed size.
pub(super) fn number(number: u64) -> Vec<u8> {
    match (1..=8_u32).find(|len| number >> (7 * len) == 0) {
        Some(len) => ((u128::from(number) * 2 + 1) << (len - 1)).to_le_bytes()[..len as usize].to_vec(),
        None => [&[0][..], &number.to_le_bytes()].concat(),
    }
}

/// A length and a text.
pub(super) fn text(text: &str) -> Vec<u8> {
    [number(text.len() as u64), text.as_bytes().to_vec()].concat()
}

fn name(name: &str) -> Vec<u8> {
    [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
}

pub(super) fn type_bytes(of: &Kind) -> Vec<u8> {
    let one = |code: u8, of: &Kind| [vec![code], type_bytes(of)].concat();
    match of {
        Kind::Scalar(code) => vec![*code],
        Kind::Array(count, of) => [vec![kind::ARRAY], number(*count), type_bytes(of)].concat(),
        Kind::Seq(of) => one(kind::SEQ, of),
        Kind::Map(key, of) => [vec![kind::MAP], type_bytes(key), type_bytes(of)].concat(),
        Kind::Set(of) => one(kind::SET, of),
        Kind::Option(of) => one(kind::OPTION, of),
        Kind::Tuple(all) => {
            let count = number(all.len() as u64);
            [vec![kind::TUPLE], count, all.iter().flat_map(type_bytes).collect()].concat()
        }
        Kind::State(id) => [&[kind::STATE][..], &id.to_le_bytes()].concat(),
        Kind::Shared(of) => one(kind::SHARED, of),
        Kind::Link(of) => one(kind::LINK, of),
        Kind::Plain(code) => vec![kind::PLAIN, *code],
        Kind::Records { name: of, size } => [vec![kind::PLAIN, kind::RECORD], name(of), number(*size)].concat(),
    }
}

fn field_bytes(fields: &[FieldDescription]) -> Vec<u8> {
    let mut bytes = number(fields.len() as u64);
    for field in fields {
        bytes.extend(name(&field.name));
        bytes.extend([number(field.since.into()), number(field.until.into())].concat());
        bytes.push(field.when.into());
        bytes.extend(type_bytes(&field.ty));
    }
    bytes
}

pub(super) fn description_bytes(of: &Description) -> Vec<u8> {
    let mut bytes: Vec<u8> = [of.id, of.version, of.min_version].into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.push(of.ignorable.into());
    bytes.extend(name(&of.name));
    match &of.body {
        DescriptionBody::Struct { fields, subsections } => {
            bytes.push(kind::STRUCT);
            bytes.extend(field_bytes(fields));
            bytes.extend(number(subsections.len() as u64));
            for part in subsections {
                bytes.extend(name(&part.name));
                bytes.extend(part.id.to_le_bytes());
                bytes.push(part.required.into());
            }
        }
        DescriptionBody::Enum { variants } => {
            bytes.push(kind::ENUM);
            bytes.extend(number(variants.len() as u64));
            for variant in variants {
                bytes.extend(name(&variant.name));
                bytes.extend([number(variant.tag.into()), number(variant.since.into())].concat());
                bytes.extend(field_bytes(&variant.fields));
            }
        }
    }
    bytes
}

/// CRC-32, bit by bit.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// Makes the checksum of metadata right again.
pub(super) fn repair(meta: &mut [u8]) {
    let size = usize::try_from(u64::from_le_bytes(meta[16..24].try_into().unwrap())).unwrap_or(usize::MAX);
    let end = size.min(meta.len());
    meta[12..16].fill(0);
    let crc = crc32fast::hash(&meta[..end]);
    meta[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// An image before it is bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    /// Descriptions, each with the id and the version of its row.
    pub(super) shapes: Vec<(u32, u32, Vec<u8>)>,
    /// Number, id of the description, object.
    pub(super) instances: Vec<(u64, u32, u32)>,
    /// Kind and three words.
    pub(super) resources: Vec<(u32, [u64; 3])>,
    pub(super) objects: Vec<(Kind, Vec<u8>)>,
    pub(super) bulk: Vec<u8>,
}

impl Made {
    /// One object that is instance 0 of the first of these, each in its newest version.
    pub(super) fn of(shapes: &[&Shape], object: &[u8]) -> Made {
        let mut made = Made::default();
        for shape in shapes {
            made.shapes.push((shape.id(), shape.version(), shape.bytes().to_vec()));
        }
        made.shapes.sort_by_key(|shape| shape.0);
        made.add(shapes[0].id(), object);
        made
    }

    /// Another object with a state, as the next instance of it.
    pub(super) fn add(&mut self, id: u32, object: &[u8]) {
        let next = self.instances.iter().filter(|row| row.1 == id).count() as u64;
        self.instances.push((next, id, u32::try_from(self.objects.len()).unwrap()));
        self.instances.sort_by_key(|row| (row.1, row.0));
        self.objects.push((Kind::State(id), object.to_vec()));
    }

    /// As bytes that `restore` takes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let count = |len: usize| u32::try_from(len).unwrap();
        let mut meta = [b"KHOSTATE".to_vec(), words(&[1, 0]), vec![0; 8]].concat();
        meta.extend((self.bulk.len() as u64).to_le_bytes());
        meta.extend(words(&[0, 0, count(self.shapes.len()), count(self.instances.len())]));
        meta.extend(words(&[count(self.resources.len()), count(self.objects.len()), 0, 0]));
        for (id, version, _) in &self.shapes {
            meta.extend(words(&[*id, *version]));
        }
        for (number, id, object) in &self.instances {
            meta.extend(number.to_le_bytes());
            meta.extend(words(&[*id, *object]));
        }
        for (of, [a, b, c]) in &self.resources {
            meta.extend(words(&[*of, 0]));
            meta.extend([a, b, c].into_iter().flat_map(|word| word.to_le_bytes()));
        }
        for (.., bytes) in &self.shapes {
            meta.extend([number(bytes.len() as u64), bytes.clone()].concat());
        }
        for (of, bytes) in &self.objects {
            meta.extend([type_bytes(of), number(bytes.len() as u64), bytes.clone()].concat());
        }
        let size = meta.len() as u64;
        meta[16..24].copy_from_slice(&size.to_le_bytes());
        repair(&mut meta);
        if !self.bulk.is_empty() {
            meta.resize(meta.len().next_multiple_of(64), 0);
            meta.extend(&self.bulk);
        }
        meta
    }

    /// Where the bytes of that object begin in the metadata.
    pub(super) fn start(&self, object: usize) -> u64 {
        let image = self.bytes();
        Image::open(&image).unwrap().objects()[object].start as u64
    }

    /// As it is after a handover, with or without having been looked at.
    pub(super) fn came(&self, known: &[&'static Shape]) -> States {
        came(&self.bytes(), known).unwrap()
    }
}

/// States of an image that nobody has walked through.
pub(super) fn came(bytes: &[u8], known: &[&'static Shape]) -> Result<States, Fault> {
    let image = Image::keep(bytes.to_vec())?;
    let at = image.meta().len().next_multiple_of(64);
    let bulk = bytes.get(at..).unwrap_or_default().to_vec();
    let known = closure(known.iter().copied(), |_| true)?;
    let newest = fit::same(&image, &known);
    let bulk = Arc::new(Held::Bytes(bulk));
    let declared = known.into_keys().collect();
    Ok(States::of(Came { image, newest, bulk, resources: Vec::new(), page_size: 4096, declared }))
}

/// Reads all of it by its own descriptions: what there is, or what is wrong.
pub(super) fn walked(bytes: &[u8]) -> Result<Vec<ShownObject>, Vec<String>> {
    let image = Image::open(bytes).map_err(|fault| vec![fault.to_string()])?;
    let written = fit::written(&image).map_err(|fault| vec![fault.to_string()])?;
    let mut faults = Vec::new();
    let (shown, _) = walk::objects(&image, &written, true, &mut |fault| faults.push(fault.to_string()));
    let mut again = 0;
    walk::objects(&image, &written, false, &mut |_| again += 1);
    assert_eq!(again, faults.len(), "what is shown and what is only checked is judged alike");
    if faults.is_empty() { Ok(shown) } else { Err(faults) }
}

/// The one thing that is wrong.
pub(super) fn wrong(bytes: &[u8]) -> String {
    let mut faults = walked(bytes).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0)
}

/// A description of version 1.
pub(super) fn described(id: u32, fields: &[(&str, Kind)]) -> Description {
    let fields = fields.iter().map(|(name, ty)| FieldDescription {
        name: (*name).into(),
        since: 1,
        until: 0,
        when: false,
        ty: ty.clone(),
    });
    let body = DescriptionBody::Struct { fields: fields.collect(), subsections: Vec::new() };
    Description { id, name: std::format!("s{id}"), version: 1, min_version: 1, ignorable: false, body }
}

/// An image of these descriptions, with one instance of the first.
pub(super) fn image_of(descriptions: &[Description], object: &[u8]) -> Made {
    let mut made = Made::default();
    for of in descriptions {
        made.shapes.push((of.id, of.version, description_bytes(of)));
    }
    made.shapes.sort_by_key(|shape| shape.0);
    made.add(descriptions[0].id, object);
    made
}
