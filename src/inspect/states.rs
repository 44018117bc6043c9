//! Typed state, shown by a reader that has none of the types.

use alloc::sync::Arc;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use serde::Serialize;

use super::content::{Content, block};
use super::extract::Opened;
use super::view::{Decoded, Node, Root, SourceKind, SourceView};
use crate::abi;
use crate::compat::CompatList;
use crate::handover::{self, Check, Verdict};
use crate::mem::{Geometry, Image as FileImage, Memory, PageRange, Pfn, PhysAddr};
use crate::num::{index_of, u64_of, usize_of};
use crate::radix::Tree;
use crate::report::{Code, Fault, Findings};
use crate::state::{Description, Image, MADE_OF, Shown, ShownObject, WrittenStates, look, named, objects};

/// States: what they are called, in which versions they were written, and their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StateImage {
    /// Bytes of metadata: everything but bulk data.
    pub meta: u64,
    /// The bulk data.
    pub bulk: StateBulk,
    /// Whether all values are here. Of lists with more than 65,536 elements the first ones are, and of everything so much
    /// as is in proportion to the image.
    pub complete: bool,
    /// The objects that their owner asks for, by id and number.
    pub instances: Vec<StateInstance>,
    /// The other objects, which several have.
    pub objects: Vec<StateObject>,
    /// What they are made of, by id.
    pub descriptions: Vec<StateDescription>,
}

/// Bulk data of states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StateBulk {
    /// How many.
    pub bytes: u64,
    /// Whether they have a checksum.
    pub checksum: bool,
    /// Where they begin in the file, of saved states alone.
    pub offset: Option<u64>,
    /// The blocks that they are in, in their order, of a handover: address and order.
    pub blocks: Vec<(u64, u32)>,
}

/// An object that its owner asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StateInstance {
    /// Name of its description.
    pub name: String,
    /// Id of its description.
    pub id: u32,
    /// The number that its owner gave it.
    pub number: u64,
    /// The version that it was written in.
    pub version: u32,
    /// Its number among all objects, by which others have it or link to it.
    pub object: u32,
    /// What it is; none where it could not be read, and where another instance is the same object.
    pub value: Option<Shown>,
}

impl StateInstance {
    /// As errors name it: `vmm`, or `vmm#2` for another number than 0.
    #[must_use]
    pub fn title(&self) -> String {
        named(&self.name, self.number)
    }
}

/// An object that several have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StateObject {
    /// Its number, by which others have it or link to it.
    pub number: u32,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: String,
    /// What it is; none where it could not be read.
    pub value: Option<Shown>,
}

/// What a state is made of, and in which version it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StateDescription {
    /// The version of its values here.
    pub written: u32,
    /// What it is made of, in all versions.
    #[serde(flatten)]
    pub description: Description,
}

impl StateImage {
    fn of(image: &Image<'_>, descriptions: Vec<StateDescription>, shown: Vec<ShownObject>, complete: bool) -> Self {
        let broken = |value: Shown| if value == Shown::None { None } else { Some(value) };
        let known: BTreeMap<u32, &StateDescription> = descriptions.iter().map(|of| (of.description.id, of)).collect();
        let mut shown: Vec<Option<ShownObject>> = shown.into_iter().map(Some).collect();
        let mut take = |number: u32| shown.get_mut(index_of(number)).and_then(Option::take);
        let instances = image.instances().zip(image.instance_rows()).map(|((id, number), row)| StateInstance {
            name: known.get(&id).map_or_else(|| format!("state {id}"), |of| of.description.name.clone()),
            id,
            number,
            version: known.get(&id).map_or(0, |of| of.written),
            object: row.object.get(),
            value: take(row.object.get()).and_then(|object| broken(object.value)),
        });
        let instances: Vec<StateInstance> = instances.collect();
        let objects = (0..).zip(shown).filter_map(|(number, object)| {
            let object = object?;
            Some(StateObject { number, ty: object.ty, value: broken(object.value) })
        });
        let bulk =
            StateBulk { bytes: image.bulk_len(), checksum: image.has_bulk_crc(), offset: None, blocks: Vec::new() };
        StateImage {
            meta: u64_of(image.meta().len()),
            bulk,
            complete,
            objects: objects.collect(),
            instances,
            descriptions,
        }
    }

    /// What a reader is asked about.
    pub(crate) fn written(&self) -> WrittenStates {
        let written = self.descriptions.iter().map(|of| (of.description.id, (of.description.clone(), of.written)));
        WrittenStates { written: written.collect(), roots: self.instances.iter().map(|one| one.id).collect() }
    }

    /// The same, with the beginnings of bulk data.
    fn with_first(mut self, read: &mut dyn FnMut(u64, &mut [u8]) -> bool) -> Self {
        let values = self.instances.iter_mut().map(|one| &mut one.value);
        let values = values.chain(self.objects.iter_mut().map(|one| &mut one.value));
        values.flatten().for_each(|value| value.read_first(read));
        self
    }
}

/// Reads a node of states, and shows it.
pub(super) struct ReadStates;

impl<M: Memory> Check<M> for ReadStates {
    type Checked = StateImage;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn check(&self, node: &mut handover::Node<'_, M>) -> Result<StateImage, Fault> {
        let looked = look(node, true)?;
        let descriptions =
            looked.written.into_values().map(|(description, written)| StateDescription { written, description });
        let mut states = StateImage::of(&looked.image, descriptions.collect(), looked.shown, looked.is_whole);
        if let Some(area) = looked.bulk {
            let geometry = node.geometry();
            states.bulk.blocks = area.folios().map(|folio| block(folio, geometry)).collect();
            let memory = node.memory();
            states = states.with_first(&mut |offset, to| area.read(memory, offset, to).is_ok());
        }
        Ok(states)
    }
}

/// Decodes states that were saved as bytes: the file begins as such. What is wrong with them is found.
pub(super) fn open(file: File) -> Result<Opened, Fault> {
    let io = |error: std::io::Error| Fault::new(Code::Io).item("file").found(error);
    let size = file.metadata().map_err(io)?.len();
    let path = format!("/{}", abi::state::NODE);
    let mut findings = Findings::default();
    let mut node = Node::named(abi::state::NODE.into());
    let mut memory = None;
    match decode(&file, size, &mut |fault| findings.add(&path, fault)) {
        Ok(states) => {
            node.read_as = Some(abi::state::COMPAT.to_string());
            node.content = Some(Content::States(states));
            memory = memory_of(file, size)?;
        }
        Err(fault) => findings.add(&path, fault),
    }
    node.verdict = Some(if findings.errors() == 0 { Verdict::Fine } else { Verdict::Refused });
    let source = SourceView { kind: SourceKind::States, bytes: size, extents: 0 };
    let decoded = Decoded::new(source, Root::missing(), vec![node], &findings, Vec::new());
    Ok(Opened { decoded, memory })
}

fn decode(file: &File, size: u64, report: &mut dyn FnMut(Fault)) -> Result<StateImage, Fault> {
    let read = |offset: u64, to: &mut [u8]| {
        file.read_exact_at(to, offset).map_err(|error| Fault::new(Code::Io).offset(offset).found(error))
    };
    let mut head = vec![0; size_of::<abi::state::Header>().min(usize_of(size))];
    read(0, &mut head)?;
    let meta = Image::header(&head)?.meta.get();
    // Of what is cut, the image says so.
    let mut bytes = vec![0; usize_of(meta.min(size).min(crate::state::limits::META))];
    read(0, &mut bytes)?;
    let image = Image::keep(bytes)?;
    let descriptions = image.descriptions()?;
    let written = descriptions.iter().cloned().map(|(of, version)| {
        let of = of.with_unique_names(version);
        (of.id, (of, version))
    });
    let (shown, complete) = objects(&image, &written.collect(), true, report);
    let descriptions = descriptions.into_iter().map(|(description, written)| StateDescription { written, description });
    let mut states = StateImage::of(&image, descriptions.collect(), shown, complete);
    let start = Image::bulk_at(meta);
    let end = start.saturating_add(image.bulk_len());
    if image.bulk_len() == 0 {
        return Ok(states);
    }
    states.bulk.offset = Some(start);
    if end > size {
        let fault = Fault::new(Code::Truncated).item("bulk").offset(24);
        let left = size.saturating_sub(start);
        report(fault.found(format_args!("{left} bytes")).expected(image.bulk_len()));
    } else if let Err(fault) = image.check_bulk_by(&mut |offset, to| read(start.saturating_add(offset), to)) {
        report(fault);
    }
    Ok(states.with_first(&mut |offset, to| read(start.saturating_add(offset), to).is_ok()))
}

/// The file as memory from 0 on, so that bulk data are compared as those of handovers.
fn memory_of(file: File, size: u64) -> Result<Option<(Arc<FileImage>, Tree)>, Fault> {
    let geometry = Geometry::K4;
    let pages = size.div_ceil(geometry.page_size());
    let Some(range) = Pfn::new(0).and_then(|first| PageRange::new(first, pages)) else { return Ok(None) };
    let mut tree = Tree::new(geometry);
    tree.add_range(range);
    let image = FileImage::raw(file, PhysAddr::new(0), geometry)?;
    Ok(Some((Arc::new(image), tree)))
}
