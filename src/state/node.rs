//! States as a node of a handover.

use alloc::borrow::Cow;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::attach::{Came, Resourced, States};
use super::description::Description;
use super::fit::{self, Fit};
use super::image::Image;
use super::limits;
use super::resource::{Held, descriptor_of, folio_of};
use super::shape::{Shape, closure};
use super::shown::ShownObject;
use super::walk;
use crate::abi;
use crate::abi::state::{AREA, Blob, DESCRIPTOR, FOLIO, MEMFD};
use crate::compat::CompatList;
use crate::handover::{Check, Component, Node};
use crate::mem::{Claim, Folio, Frame, Memory};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault, Severity};
use crate::vmalloc::Area;

/// What a node of states is made of.
pub const MADE_OF: CompatList<'static> = CompatList::new(abi::state::COMPAT, &[abi::vmalloc::COMPAT]);

/// A memory that states come out of, and what travels beside it.
pub trait Resources: Memory {
    /// The file of that token, where files travel beside this memory.
    #[cfg(feature = "std")]
    fn file(&self, token: u64) -> Option<std::os::fd::BorrowedFd<'_>> {
        let _ = token;
        None
    }

    /// The arena that this memory is, so that bulk data stay where they are; without one they are copied.
    #[cfg(feature = "std")]
    fn arena(&self) -> Option<&crate::mem::Arena> {
        None
    }
}

impl Resources for crate::mem::Ram {}

#[cfg(feature = "std")]
impl Resources for crate::mem::Arena {
    fn arena(&self) -> Option<&crate::mem::Arena> {
        Some(self)
    }
}

#[cfg(feature = "std")]
impl Resources for crate::transport::Bundle {
    fn file(&self, token: u64) -> Option<std::os::fd::BorrowedFd<'_>> {
        crate::files::Beside::files(self).get(token)
    }

    fn arena(&self) -> Option<&crate::mem::Arena> {
        Some(self.as_ref())
    }
}

/// Everything that these states may be made of, as a file has it.
pub(crate) fn descriptions(roots: impl IntoIterator<Item = &'static Shape>) -> Vec<Description> {
    let shapes = closure(roots, |_| true).unwrap_or_default();
    shapes.values().filter_map(|shape| Description::parse(shape.bytes).ok()).collect()
}

/// Restores a node of [`States`]: those of which the descriptions are declared here.
///
/// The plan reads all of it by the descriptions that came with it: what does not fit, and what is broken, refuses the
/// handover before any type of the program is asked.
#[derive(Clone, Debug)]
pub struct StatesNode {
    declared: Vec<&'static Shape>,
}

impl StatesNode {
    /// These descriptions are read.
    #[must_use]
    pub fn new(declared: &[&'static Shape]) -> Self {
        StatesNode { declared: declared.to_vec() }
    }
}

/// A resource that was claimed on paper.
#[derive(Debug)]
enum Claimed {
    Folio(Folio),
    Area(Area),
    File(u64),
}

/// States that were read and checked.
#[derive(Debug)]
pub struct Checked {
    image: Image<'static>,
    newest: bool,
    bulk: Option<Area>,
    resources: Vec<Claimed>,
}

/// Reads the blob and the metadata of a node of states, and claims their blocks.
///
/// # Errors
/// As [`Node::blob_as`], [`Node::area`] and [`Image::open`].
pub(crate) fn read<M: Memory>(node: &mut Node<'_, M>) -> Result<(Image<'static>, Option<Area>), Fault> {
    let blob: Blob = node.blob_as()?;
    let at = node.blob_range().start().get();
    let meta = node.area(&blob.meta_blocks).map_err(|fault| fault.within("meta_blocks"))?;
    let size = blob.meta.get();
    let held = meta.bytes(node.geometry()).min(limits::META);
    if size > held {
        let fault = Fault::new(Code::StateLength).address(at).item("meta").found(size);
        return Err(fault.expected(format_args!("at most {held}, what the blocks hold")));
    }
    let mut bytes = alloc::vec![0; usize_of(size)];
    meta.read(node.memory(), 0, &mut bytes)?;
    let image = Image::keep(bytes)?;
    let disagrees = |item: &'static str, found: u64, expected: u64| {
        let fault = Fault::new(Code::StateLength).address(at).item(item).found(found);
        fault.expected(format_args!("{expected}, as the header says"))
    };
    if u64_of(image.meta().len()) != size {
        return Err(disagrees("meta", size, u64_of(image.meta().len())));
    }
    if blob.bulk.get() != image.bulk_len() {
        return Err(disagrees("bulk", blob.bulk.get(), image.bulk_len()));
    }
    let mut bulk = None;
    if image.bulk_len() > 0 {
        let area = node.area(&blob.bulk_blocks).map_err(|fault| fault.within("bulk_blocks"))?;
        let held = area.bytes(node.geometry());
        if image.bulk_len() > held {
            let fault = Fault::new(Code::StateLength).address(at).item("bulk").found(image.bulk_len());
            return Err(fault.expected(format_args!("at most {held}, what the blocks hold")));
        }
        bulk = Some(area);
    }
    Ok((image, bulk))
}

/// Claims what a resource names.
fn claim<M: Memory>(node: &mut Node<'_, M>, resource: &abi::state::Resource) -> Result<Claimed, Fault> {
    match resource.kind.get() {
        FOLIO => {
            let folio = folio_of(resource, node.geometry().page_shift())?;
            node.try_claim(folio)?;
            Ok(Claimed::Folio(folio))
        }
        AREA => Ok(Claimed::Area(node.area(&descriptor_of(resource))?)),
        MEMFD | DESCRIPTOR => Ok(Claimed::File(resource.a.get())),
        other => Err(Fault::new(Code::StateResource).item("kind").found(other).expected("1 to 4")),
    }
}

/// A node of states that was looked at.
pub(crate) struct Looked {
    pub(crate) image: Image<'static>,
    pub(crate) written: fit::Written,
    pub(crate) bulk: Option<Area>,
    resources: Vec<Claimed>,
    /// The first objects, if they are wanted.
    #[cfg_attr(not(all(feature = "std", feature = "serde")), allow(dead_code, reason = "nobody shows them"))]
    pub(crate) shown: Vec<ShownObject>,
    /// Whether these are all.
    #[cfg_attr(not(all(feature = "std", feature = "serde")), allow(dead_code, reason = "as above"))]
    pub(crate) is_whole: bool,
}

/// Reads and checks a node of states without the types of anybody: by what it says of itself. What it owns is claimed;
/// what is wrong with it is reported. The values are there when they are wanted.
///
/// # Errors
/// As [`read`].
pub(crate) fn look<M: Memory>(node: &mut Node<'_, M>, keep: bool) -> Result<Looked, Fault> {
    let (image, bulk) = read(node)?;
    // Before anything that may fail: what is claimed has an owner, whatever is wrong with it.
    let mut resources = Vec::new();
    let mut tokens = BTreeSet::new();
    for (number, resource) in image.resources().iter().enumerate() {
        let item = format!("resources[{number}]");
        if let Some(one) = node.part(&item, |node| {
            let one = claim(node, resource)?;
            match one {
                Claimed::File(token) if !tokens.insert(token) => {
                    Err(Fault::new(Code::TokenDuplicate).item("token").found(format_args!("{token:#x}")))
                }
                one => Ok(one),
            }
        }) {
            resources.push(one);
        }
    }
    let written = fit::written(&image)?;
    let (shown, is_whole) = walk::objects(&image, &shown_by(&written, keep), keep, &mut |fault| node.report(fault));
    if let Some(area) = &bulk {
        let checked = image.check_bulk_by(&mut |offset, bytes| area.read(node.memory(), offset, bytes));
        checked.unwrap_or_else(|fault| node.report(fault));
    }
    Ok(Looked { image, written, bulk, resources, shown, is_whole })
}

/// The descriptions as values are shown by them.
fn shown_by(written: &fit::Written, keep: bool) -> Cow<'_, fit::Written> {
    #[cfg(all(feature = "std", feature = "serde"))]
    if keep {
        let all = written.values().cloned().map(|(of, version)| (of.with_unique_names(version), version));
        return Cow::Owned(all.map(|(of, version)| (of.id, (of, version))).collect());
    }
    let _ = keep;
    Cow::Borrowed(written)
}

impl<M: Resources> Check<M> for StatesNode {
    type Checked = Checked;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn states(&self) -> Vec<Description> {
        descriptions(self.declared.iter().copied())
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Checked, Fault> {
        let Looked { image, written, bulk, resources, .. } = look(node, false)?;
        let known = closure(self.declared.iter().copied(), |_| true)?;
        let newest = fit::same(&image, &known) || {
            let mut fit = Fit { findings: Vec::new(), newest: true };
            fit.check(&written, &fit::read(&known)?, image.instances().map(|(id, _)| id));
            // A description that stays behind is in no newest version, and nobody asks for it.
            let newest = fit.newest && fit.findings.is_empty();
            fit.findings.into_iter().for_each(|fault| node.report(fault));
            newest
        };
        #[cfg(feature = "std")]
        for resource in image.resources().iter().filter(|one| one.kind == MEMFD || one.kind == DESCRIPTOR) {
            let item = format!("files[{:#x}]", resource.a);
            let fault = match node.source().file(resource.a.get()) {
                None => Some(Fault::new(Code::TokenMissing).item(item)),
                Some(file) if resource.kind == MEMFD => {
                    crate::files::is_memfd(file).err().map(|fault| fault.within(&item))
                }
                Some(_) => None,
            };
            if let Some(fault) = fault {
                node.report(fault);
            }
        }
        Ok(Checked { image, newest, bulk, resources })
    }
}

/// Reads a node of states for those who look and restore nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookAtStates;

impl<M: Memory> Check<M> for LookAtStates {
    type Checked = Image<'static>;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Image<'static>, Fault> {
        Ok(look(node, false)?.image)
    }
}

fn claim_all<M: Claim>(memory: &mut M, area: &Area) -> Result<Vec<Frame>, Fault> {
    Ok(area.folios().map(|folio| memory.claim(folio)).collect::<Result<Vec<_>, _>>()?)
}

/// Bulk data where they are, or a copy.
fn held<M: Resources + Claim>(memory: &mut M, area: Option<&Area>, bytes: u64) -> Result<Held, Fault> {
    let Some(area) = area else { return Ok(Held::Bytes(Vec::new())) };
    let frames = claim_all(memory, area)?;
    #[cfg(feature = "std")]
    if let Some(arena) = memory.arena() {
        let mapping = arena.map_contiguous(frames).map_err(|failed| Fault::from(failed.error))?;
        return Ok(Held::Mapping(mapping, usize_of(bytes)));
    }
    let mut copy = alloc::vec![0; usize_of(bytes)];
    area.read(memory, 0, &mut copy)?;
    frames.into_iter().for_each(|frame| memory.free(frame));
    Ok(Held::Bytes(copy))
}

impl<M: Resources + Claim> Component<M> for StatesNode {
    type Prepared = States;
    type Restored = States;

    fn prepare(&self, checked: Checked, memory: &mut M) -> Result<States, Fault> {
        let Checked { image, newest, bulk, resources } = checked;
        let bulk = Arc::new(held(memory, bulk.as_ref(), image.bulk_len())?);
        let mut given = Vec::with_capacity(resources.len());
        for resource in resources {
            let blocks = |frames: Vec<Frame>| {
                let home = frames.first().map_or(0, Frame::home);
                Resourced::Blocks(home, frames.iter().map(Frame::folio).collect())
            };
            given.push(match resource {
                Claimed::Folio(folio) => blocks(alloc::vec![memory.claim(folio)?]),
                Claimed::Area(area) => blocks(claim_all(memory, &area)?),
                #[cfg(feature = "std")]
                Claimed::File(token) => {
                    let file = memory.file(token);
                    let file = file.ok_or_else(|| Fault::new(Code::TokenMissing).item(format!("files[{token:#x}]")))?;
                    Resourced::File(crate::files::duplicate(file)?)
                }
                #[cfg(not(feature = "std"))]
                Claimed::File(token) => {
                    return Err(Fault::new(Code::TokenMissing).item(format!("files[{token:#x}]")));
                }
            });
        }
        let page_size = memory.geometry().page_size();
        let declared = closure(self.declared.iter().copied(), |_| true)?.into_keys().collect();
        Ok(States::of(Came { image, newest, bulk, resources: given, page_size, declared }))
    }

    fn commit(&self, states: States, _: &mut M) -> States {
        states
    }
}

/// What is in a node of states: descriptions, and those of the objects that can be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WrittenStates {
    pub(crate) written: fit::Written,
    pub(crate) roots: Vec<u32>,
}

impl WrittenStates {
    #[cfg(feature = "write")]
    pub(crate) fn of(image: &Image<'_>) -> Result<Self, Fault> {
        Ok(WrittenStates { written: fit::written(image)?, roots: image.instances().map(|(id, _)| id).collect() })
    }

    /// What a reader says of them: the words of its plan.
    pub(crate) fn judge(&self, reads: &[Description]) -> Vec<Fault> {
        let known = reads.iter().map(|of| (of.id, (of.clone(), of.version))).collect();
        let mut fit = Fit { findings: Vec::new(), newest: true };
        fit.check(&self.written, &known, self.roots.iter().copied());
        fit.findings
    }
}

/// What would become of the states of one program in another one, each written in the newest version that both know:
/// every reason against it.
pub(crate) fn negotiate(writes: &[Description], reads: &[Description]) -> Vec<Fault> {
    let version = |of: &Description| {
        let known = reads.iter().find(|known| known.id == of.id);
        known.map_or(of.version, |known| of.version.min(known.version).max(of.min_version))
    };
    let written: fit::Written = writes.iter().map(|of| (of.id, (of.clone(), version(of)))).collect();
    let mut parts = BTreeSet::new();
    for of in writes {
        of.parts(&mut |id| {
            if id != of.id {
                parts.insert(id);
            }
        });
    }
    let roots: Vec<u32> = writes.iter().map(|of| of.id).filter(|id| !parts.contains(id)).collect();
    WrittenStates { written, roots }.judge(reads)
}

/// The states of a node that was just written, as it stands in memory; none where its blocks are described otherwise.
#[cfg(feature = "write")]
pub(crate) fn written_in(memory: &dyn Memory, blob: crate::mem::PhysRange) -> Option<WrittenStates> {
    let wire: Blob = crate::mem::read_wire(memory, blob.start()).ok()?;
    let area = Area::load(memory, &wire.meta_blocks, &mut crate::mem::Bits::default()).ok()?.area;
    let size = wire.meta.get().min(area.bytes(memory.geometry()));
    let mut bytes = alloc::vec![0; usize_of(size)];
    area.read(memory, 0, &mut bytes).ok()?;
    WrittenStates::of(&Image::open(&bytes).ok()?).ok()
}

/// Whether any of these refuses.
pub(crate) fn refuses(findings: &[Fault]) -> bool {
    findings.iter().any(|fault| fault.code().severity() == Severity::Error)
}
