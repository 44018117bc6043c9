//! A whole handover as one tree of plain values: for people, for `kho dump` and `kho check`, and as JSON.
//!
//! [`open`] finds out what a file is, finds the root of the handover in it, has it planned as a successor would, by
//! readers that restore nothing, and returns [`Decoded`]: what there is, what it holds, and everything that is wrong
//! with it. What is wrong with one node does not hide the others; what nobody here understands is shown as bytes.
//!
//! All values are [`serde::Serialize`] with stable names. Addresses and sizes are numbers, in bytes; an address can need
//! all 64 bits, which some JSON readers (JavaScript, jq before 1.7) round above 2^53.
//!
//! ```
//! use kho::inspect::{self, Options};
//!
//! // A machine that was frozen at the moment of kexec.
//! let decoded = inspect::open("tests/data/linux-7.2-x86_64/frozen.core", &Options::default())?;
//! for node in &decoded.nodes {
//!     println!("{}: {:?}", node.name, node.content);
//! }
//! assert_eq!(decoded.errors, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod body;
mod content;
mod copy;
mod debugfs;
mod diff;
mod extract;
mod find;
mod map;
mod show;
mod states;
#[cfg(all(test, feature = "derive"))]
mod states_tests;
#[cfg(test)]
mod tests;
mod view;

use alloc::sync::Arc;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use crate::abi::kho;
use crate::fdt::Fdt;
use crate::handover::{declared, match_any};
use crate::mem::{Geometry, IOMEM, Image, ImageKind, Memory, PageRange, PhysAddr, PhysRange, Source};
use crate::num::{u64_of, usize_of};
use crate::radix::Tree;
use crate::report::{Class, Code, Fault, Findings};

pub use content::{Content, Device, GuestRegion, Memfd, NamedRange, Session, SessionFile};
pub use diff::{Change, ChangeKind, Diff, DiffOptions, NotCompared};
pub use extract::{Extracted, Item, Opened, Place};
pub use map::{Map, MapOwner, OwnerKind, Stretch};
pub use states::{StateBulk, StateDescription, StateImage, StateInstance, StateObject};
pub use view::{
    Candidate, Decoded, FoundBy, Node, OrderCount, PageSize, PageSizeBy, Preserved, Problem, Range, Root, SourceKind,
    SourceView,
};

/// What is to be known of a tree that makes no sense.
const OVERWRITTEN: &str = "in the memory of the next kernel a tree that is none is as expected: its pages are not \
                           preserved, and are used again once that kernel has booted";
/// Linux's list of what is at which physical address.
/// The memory of the running kernel.
const KCORE: &str = "/proc/kcore";
/// So many bytes of what nobody understands are shown.
const FIRST_BYTES: u64 = 64;
/// Blobs that are device trees and printed as such: of nodes that name one blob, each costs its size.
const SUB_TREES: usize = 64;
/// A device tree in a file larger than this, in bytes, is not read.
const TREE_LIMIT: u64 = 64 << 20;

/// What is known of a file beforehand.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Physical address of the root FDT; else it is searched for.
    pub fdt: Option<PhysAddr>,
    /// The page size; else that of the arena, or the one that the tree fits.
    pub geometry: Option<Geometry>,
    /// The file is raw memory, and its first byte, or that at [`Options::offset`], is at that physical address.
    pub base: Option<PhysAddr>,
    /// Bytes of the file before the raw memory.
    pub offset: u64,
    /// Whether the memory may change while it is read, so that it must be read until two readings are the same.
    /// `/proc/kcore` and devices are known for it.
    pub live: bool,
    /// Where the next kernel allocates before it has read the tree; the handover does not say it. An empty range is
    /// legal.
    pub scratch: Vec<PhysRange>,
    /// Whether [`Decoded::map`] is wanted.
    pub map: bool,
}

/// Why nothing of a file can be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct NotShown {
    /// What is wrong.
    pub fault: Fault,
    hint: Hint,
}

impl NotShown {
    /// What may help, for people.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self.hint {
            Hint::None => return None,
            Hint::NoMemory => "a device tree alone has no memory: --fdt, --base and --page-size are for memory images",
            Hint::ShortTree => {
                "a copy of debugfs kho/out/fdt is cut like this: the kernel exports it with the size that it had at \
                 boot; dump the memory instead, or take kho/in/fdt after the kexec"
            }
            Hint::NoMagic => {
                "raw memory needs --base ADDR, the physical address of its first byte; not every file in debugfs \
                 kho/*/sub_fdts is a device tree (LUO and kexec-metadata are not)"
            }
            Hint::NoRoot => "--fdt ADDR says where the root FDT is",
            Hint::Unfinished => {
                "its header names no root: the predecessor has not finished, or took the handover back; --fdt ADDR \
                 shows what is at an address all the same"
            }
        })
    }

    /// Whether it is a handover, and broken; else it is none, or could not be read.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let code = self.fault.code();
        code.class() == Class::Corrupt
            && !matches!(code, Code::Truncated | Code::Outside | Code::NoHandover | Code::Magic)
    }
}

impl From<Fault> for NotShown {
    fn from(fault: Fault) -> Self {
        NotShown { fault, hint: Hint::None }
    }
}

/// What may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    None,
    NoMemory,
    ShortTree,
    NoMagic,
    NoRoot,
    Unfinished,
}

/// Decodes a file: a device tree, an arena, an ELF core, raw memory, or states that were saved as bytes.
///
/// In memory, the root FDT is where the options or the header of an arena say; else every page of the memory is looked
/// at, and of several handovers that one is taken which has the fewest errors.
///
/// # Errors
/// When nothing can be shown: no file, no handover, or a root that cannot be read.
pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Decoded, NotShown> {
    Opened::open(path, options).map(|opened| opened.decoded)
}

/// As [`open`], with the memory.
fn open_all(path: &Path, options: &Options) -> Result<Opened, NotShown> {
    let metadata = std::fs::metadata(path);
    let kind = metadata.as_ref().ok().map(std::fs::Metadata::file_type);
    if kind.is_some_and(|kind| kind.is_dir()) {
        if options.fdt.is_some() || options.base.is_some() {
            let fault = Fault::new(Code::FileKind).item("file").found("a directory").expected("memory");
            return Err(NotShown { fault, hint: Hint::NoMemory });
        }
        return debugfs::open(path, options.geometry);
    }
    // To open one would wait for somebody who writes into it.
    if kind.is_some_and(|kind| kind.is_fifo()) {
        return Err(Fault::new(Code::FileKind).item("file").found("a pipe").expected("a file with a size").into());
    }
    let open = || File::open(path).map_err(|error| Fault::new(Code::Io).item(path.display().to_string()).found(error));
    if kind.is_some_and(|kind| kind.is_char_device()) && options.base.is_none() {
        let iomem = std::fs::read_to_string(IOMEM).map_err(|error| Fault::new(Code::Io).item(IOMEM).found(error))?;
        return with_memory(Image::device(open()?, &iomem)?, &Options { live: true, ..options.clone() });
    }
    if let Some(base) = options.base {
        return with_memory(Image::raw_from(open()?, options.offset, base, Geometry::K4)?, options);
    }
    let live = options.live || path.canonicalize().is_ok_and(|path| path == Path::new(KCORE));
    let options = &Options { live, ..options.clone() };
    match Image::open(path) {
        Ok(Source::Image(image)) => with_memory(image, options),
        Ok(Source::DeviceTree(_)) if options.fdt.is_some() || options.geometry.is_some() => {
            let fault = Fault::new(Code::FileKind).item("file").found("a device tree").expected("memory");
            Err(NotShown { fault, hint: Hint::NoMemory })
        }
        Ok(Source::DeviceTree(mut file)) => {
            let mut bytes = Vec::new();
            // Its size was found by a seek to its end.
            file.rewind()
                .and_then(|()| file.take(TREE_LIMIT).read_to_end(&mut bytes))
                .map_err(|error| Fault::new(Code::Io).found(error))?;
            Ok(Opened { decoded: device_tree(&bytes)?, memory: None })
        }
        Ok(Source::States(_)) if options.fdt.is_some() || options.geometry.is_some() => {
            let fault = Fault::new(Code::FileKind).item("file").found("saved states").expected("memory");
            Err(NotShown { fault, hint: Hint::NoMemory })
        }
        Ok(Source::States(file)) => Ok(states::open(file)?),
        Err(fault) => {
            let hint = if fault.code() == Code::Magic { Hint::NoMagic } else { Hint::None };
            Err(NotShown { fault, hint })
        }
    }
}

/// Decodes a device tree by itself: what the root of a handover says, and whether it could be one. The memory that it
/// speaks of is not there.
///
/// # Errors
/// When it cannot be read as a device tree.
pub fn device_tree(bytes: &[u8]) -> Result<Decoded, NotShown> {
    let fdt = Fdt::parse(bytes).map_err(|fault| {
        let short = fault.code() == Code::Truncated && fault.at().item.as_deref() == Some("totalsize");
        let hint = if short { Hint::ShortTree } else { Hint::None };
        NotShown { fault, hint }
    })?;
    let mut findings = Findings::default();
    let root = Root::of(&fdt, None, FoundBy::File);
    if root.is_handover {
        check_root(&fdt, &mut findings);
        check_names(&fdt, &mut findings);
        check_nodes(&fdt, Geometry::K4, &mut findings);
    }
    let nodes = if root.is_handover { nodes(&fdt) } else { Vec::new() };
    let source = SourceView { kind: SourceKind::DeviceTree, bytes: u64_of(bytes.len()), extents: 0 };
    Ok(Decoded::new(source, root, nodes, &findings, vec![("/".into(), None, fdt.bytes().to_vec())]))
}

/// Decodes memory. Its page size is what the options say, whatever that of the image is, unless it is an arena.
///
/// # Errors
/// When it has no handover whose root can be read.
pub fn memory(image: Image, options: &Options) -> Result<Decoded, NotShown> {
    with_memory(image, options).map(|opened| opened.decoded)
}

/// As [`memory`], which is kept.
fn with_memory(image: Image, options: &Options) -> Result<Opened, NotShown> {
    let size = image.extents().iter().fold(0_u64, |sum, extent| sum.saturating_add(extent.size()));
    let kind = image.kind();
    let source = SourceView { kind: kind.into(), bytes: size, extents: image.extents().len() };
    let image = Arc::new(image);
    let mut unread = None;
    let (roots, by) = match (options.fdt, kind, image.arena_root()) {
        (Some(root), ..) => (vec![root], FoundBy::Option),
        (None, ImageKind::Arena, Some((root, _))) => (vec![root], FoundBy::Header),
        (None, ImageKind::Arena, None) => {
            let fault = Fault::new(Code::NoHandover).item("fdt_addr").found(0).expected("the address of a root FDT");
            return Err(NotShown { fault, hint: Hint::Unfinished });
        }
        (None, ..) => {
            let found = find::roots(&image)?;
            unread = found.unread;
            (found.roots, FoundBy::Search)
        }
    };
    let geometries = match (kind, options.geometry) {
        (ImageKind::Arena, _) => vec![(image.geometry(), PageSizeBy::Header)],
        (_, Some(geometry)) => vec![(geometry, PageSizeBy::Option)],
        _ => Geometry::ALL.map(|geometry| (geometry, PageSizeBy::Guess)).into(),
    };
    let (best, others) = find::best(&image, &roots, &geometries)?.ok_or_else(|| {
        let fault = Fault::new(Code::NoHandover).found(format_args!("no root FDT in {size} bytes of memory"));
        NotShown { fault: fault.expected("a device tree whose compatible is kho-vN"), hint: Hint::NoRoot }
    })?;
    let (best, steady) = if options.live { find::steady(&image, best)? } else { (best, true) };
    let find::Looked { root: address, bytes, geometry: (geometry, page_size_by), plan, owners, seen } = best;

    let fdt = Fdt::parse(&bytes).map_err(|fault| fault.address(address.get()))?;
    let mut findings = plan.findings().clone();
    check_names(&fdt, &mut findings);
    if !steady {
        let fault = Fault::new(Code::ChangedWhileRead).address(address.get());
        findings.add("/", fault.found(format_args!("{} readings, no two of them the same", find::READINGS)));
    }
    if let Some(fault) = unread {
        findings.add("/", fault);
    }
    if kind != ImageKind::Arena {
        check_tree(&fdt, address, plan.tree().filter(|_| !plan.is_tree_broken()), &mut findings);
    }
    if plan.tree().is_none() {
        // The plan stopped at the root: what the nodes say can be told all the same.
        check_nodes(&fdt, geometry, &mut findings);
    }
    map::check_scratch(&options.scratch, &plan, &owners, &mut findings);
    let map = options.map.then(|| Map::of(image.extents(), &options.scratch, &plan, &owners));
    drop(owners);
    let mut nodes = nodes(&fdt);
    let mut seen = seen.take();
    let mut trees = vec![("/".into(), Some(address.get()), fdt.bytes().to_vec())];
    let reader = Reader { image: &image, tree: plan.tree() };
    let mut reports = plan.nodes().iter();
    for node in &mut nodes {
        if let Some(report) = reports.next() {
            node.owned = Some(report.owned);
            node.verdict = Some(report.verdict);
        }
        let (read_as, content) = seen.remove(&node.name).unzip();
        node.read_as = read_as;
        let Some(blob) = &node.blob else { continue };
        node.content = content.or_else(|| reader.first_bytes(blob));
        if trees.len() < SUB_TREES
            && let Some(tree) = reader.sub_tree(blob)
        {
            trees.push((node.name.clone(), Some(blob.address), tree));
        }
    }
    let mut decoded = Decoded::new(source, Root::of(&fdt, Some(address.get()), by), nodes, &findings, trees);
    decoded.page_size = Some(PageSize { bytes: geometry.page_size(), by: page_size_by });
    decoded.machine = image.machine();
    decoded.candidates = others;
    decoded.scratch = options.scratch.iter().map(Range::from).collect();
    decoded.map = map;
    decoded.preserved = plan.tree().filter(|_| !plan.is_tree_broken()).map(Preserved::of);
    Ok(Opened { decoded, memory: plan.into_tree().map(|tree| (image, tree)) })
}

/// Reads blobs of which no component is known.
struct Reader<'a> {
    image: &'a Image,
    tree: Option<&'a Tree>,
}

impl Reader<'_> {
    fn read(&self, blob: &Range, most: u64) -> Option<Vec<u8>> {
        let range = PhysRange::new(PhysAddr::new(blob.address), blob.size.min(most))?;
        let tree = self.tree?;
        if blob.address == 0 || !tree.covers(PageRange::around(range, tree.geometry())?) {
            return None;
        }
        let mut bytes = vec![0; usize_of(range.size())];
        self.image.read(range.start(), &mut bytes).ok()?;
        Some(bytes)
    }

    fn first_bytes(&self, blob: &Range) -> Option<Content> {
        let bytes = self.read(blob, FIRST_BYTES)?;
        Some(Content::Bytes { first_bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    /// The blob, when it is a device tree.
    fn sub_tree(&self, blob: &Range) -> Option<Vec<u8>> {
        let head = self.read(blob, 8)?;
        crate::fdt::total_size(head.first_chunk()?).ok()?;
        let bytes = self.read(blob, crate::selftest::BLOB_LIMIT)?;
        let size = Fdt::parse(&bytes).ok()?.bytes().len();
        bytes.get(..size).map(<[u8]>::to_vec)
    }
}

/// Whether the tree was overwritten, as it is in memory of the kernel that came after.
fn check_tree(fdt: &Fdt<'_>, root: PhysAddr, tree: Option<&Tree>, findings: &mut Findings) {
    let held = |tree: &Tree| root.page_around(tree.geometry()).is_some_and(|page| tree.holder(page).is_some());
    let mut of_root = Findings::default();
    check_root(fdt, &mut of_root);
    if of_root.is_empty() && !tree.is_some_and(held) {
        findings.add("/", Fault::new(Code::Stale).item(kho::PRESERVED_MEMORY_MAP).found(OVERWRITTEN));
    }
}

fn check_root(fdt: &Fdt<'_>, findings: &mut Findings) {
    let root = fdt.root();
    let compatible = root.required(kho::COMPATIBLE).and_then(|property| match_any(property.value(), kho::COMPAT));
    if let Err(fault) = compatible {
        findings.add("/", fault.item(kho::COMPATIBLE));
    }
    match root.required(kho::PRESERVED_MEMORY_MAP).and_then(|property| property.u64_native()) {
        Ok(0) => findings.add("/", Fault::new(Code::NoHandover).item(kho::PRESERVED_MEMORY_MAP).found(0)),
        Ok(_) => {}
        Err(fault) => findings.add("/", fault),
    }
}

/// Whether Linux would find another node by a name of its own: what it finds there may stop it, and nobody looked at it.
fn check_names(fdt: &Fdt<'_>, findings: &mut Findings) {
    use crate::abi::{kexec_metadata, kho_test, luo, memblock};
    for name in [memblock::NODE, luo::NODE, kexec_metadata::NODE, kho_test::NODE] {
        if let Err(fault) = fdt.root().child_as_linux(name) {
            findings.add("/", fault);
        }
    }
}

fn check_nodes(fdt: &Fdt<'_>, geometry: Geometry, findings: &mut Findings) {
    for node in fdt.root().children() {
        let path = format!("/{}", String::from_utf8_lossy(node.name()));
        let checked =
            declared(&node, &path).and_then(|declared| declared.mem(geometry).try_for_each(|range| range.map(drop)));
        if let Err(fault) = checked {
            findings.add(&path, fault);
        }
    }
}

/// What the nodes say of themselves, as far as it can be read.
fn nodes(fdt: &Fdt<'_>) -> Vec<Node> {
    fdt.root().children().map(|node| Node::of(&node)).collect()
}
