//! The values that are shown.

use core::fmt;

use serde::Serialize;

use super::content::{Content, block};
use crate::abi::kho;
use crate::fdt::{self, Fdt, dts};
use crate::handover::Verdict;
use crate::mem::{Folio, ImageKind, Machine, Order, PhysRange};
use crate::num::usize_of;
use crate::radix::Tree;
use crate::report::{Class, Code, Finding, Findings, Severity};

/// A handover, decoded.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Decoded {
    /// What it was read from.
    pub source: SourceView,
    /// None for a device tree by itself.
    pub page_size: Option<PageSize>,
    /// The architecture of the machine that wrote it, where the source says it.
    pub machine: Option<Machine>,
    /// The root FDT.
    pub root: Root,
    /// Other roots that the search found, and how they did.
    pub candidates: Vec<Candidate>,
    /// What the radix tree preserves; none where it could not be read.
    pub preserved: Option<Preserved>,
    /// The nodes, in the order of the root FDT.
    pub nodes: Vec<Node>,
    /// What is wrong, at most [`Findings::LIMIT`] of it.
    pub findings: Vec<Problem>,
    /// How many errors were found.
    pub errors: u64,
    /// How many warnings were found.
    pub warnings: u64,
    /// Where the next kernel allocates before it has read the tree, as far as that is known: of a copy of debugfs, and
    /// what [`Options::scratch`](super::Options) says.
    pub scratch: Vec<Range>,
    /// Who owns what, if [`Options::map`](super::Options) asked for it and there is memory.
    #[serde(skip)]
    pub map: Option<super::Map>,
    /// The root FDT and the blobs that are device trees: name of the node, address, bytes.
    #[serde(skip)]
    trees: Vec<(String, Option<u64>, Vec<u8>)>,
}

impl Decoded {
    pub(super) fn new(
        source: SourceView,
        root: Root,
        nodes: Vec<Node>,
        findings: &Findings,
        trees: Vec<(String, Option<u64>, Vec<u8>)>,
    ) -> Self {
        Decoded {
            source,
            page_size: None,
            machine: None,
            root,
            candidates: Vec::new(),
            preserved: None,
            nodes,
            findings: findings.kept().iter().map(Problem::from).collect(),
            errors: findings.errors(),
            warnings: findings.warnings(),
            scratch: Vec::new(),
            map: None,
            trees,
        }
    }

    /// Prints the root FDT as source that `dtc` compiles, as [`dts::print`] does. Behind it, as comments, the blobs of
    /// nodes that are device trees themselves.
    ///
    /// # Errors
    /// Only those of `out`.
    pub fn print_dts(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let mut trees = self.trees.iter();
        if self.root.found_by != FoundBy::Missing
            && let Some(fdt) = trees.next().and_then(|(.., bytes)| Fdt::parse(bytes).ok())
        {
            dts::print(&fdt, out)?;
        }
        for (name, address, bytes) in trees {
            let Ok(fdt) = Fdt::parse(bytes) else { continue };
            let name = name.escape_debug();
            writeln!(out, "\n// The blob of {name}, at {:#x}, is a device tree of its own:", address.unwrap_or(0))?;
            let mut text = String::new();
            dts::print(&fdt, &mut text)?;
            for line in text.lines() {
                writeln!(out, "{}", format_args!("// {line}").to_string().trim_end())?;
            }
        }
        Ok(())
    }
}

/// What something was read from.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SourceView {
    /// What kind of file.
    pub kind: SourceKind,
    /// Bytes of memory; of a device tree, of the file.
    pub bytes: u64,
    /// Ranges of memory.
    pub extents: usize,
}

/// What kind of file something was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SourceKind {
    /// A device tree by itself.
    DeviceTree,
    /// An arena.
    Arena,
    /// An ELF core.
    Core,
    /// Raw memory.
    Raw,
    /// A copy of Linux's debugfs directory `kho`.
    Debugfs,
    /// States that were saved as bytes.
    States,
}

impl From<ImageKind> for SourceKind {
    fn from(kind: ImageKind) -> Self {
        match kind {
            ImageKind::Raw => SourceKind::Raw,
            ImageKind::Core => SourceKind::Core,
            ImageKind::Arena => SourceKind::Arena,
        }
    }
}

/// The page size, and who says so.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PageSize {
    /// Bytes of a page.
    pub bytes: u64,
    /// Who says so.
    pub by: PageSizeBy,
}

/// Who says what the page size is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PageSizeBy {
    /// The header of the arena.
    Header,
    /// [`Options::geometry`](super::Options).
    Option,
    /// The tree: it preserves its own root with this page size, and with no smaller one.
    Tree,
    /// Nobody: no tree can be read that preserves its root.
    Guess,
}

/// The root of the handover.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Root {
    /// Physical address, in bytes; none for a device tree by itself.
    pub address: Option<u64>,
    /// Bytes.
    pub size: u64,
    /// How it was found.
    pub found_by: FoundBy,
    /// What it says that it is made of.
    pub compatible: Vec<String>,
    /// Whether it says that it is the root of a handover, of whatever version.
    pub is_handover: bool,
    /// Physical address of the radix tree, as it says.
    pub preserved_memory_map: Option<u64>,
}

impl Root {
    pub(super) fn of(fdt: &Fdt<'_>, address: Option<u64>, found_by: FoundBy) -> Self {
        let root = fdt.root();
        Root {
            address,
            size: crate::num::u64_of(fdt.bytes().len()),
            found_by,
            compatible: compatible(&root),
            is_handover: super::find::is_root(fdt),
            preserved_memory_map: number(&root, kho::PRESERVED_MEMORY_MAP),
        }
    }
}

impl Root {
    /// None, of a source that has blobs all the same.
    pub(super) const fn missing() -> Self {
        Root {
            address: None,
            size: 0,
            found_by: FoundBy::Missing,
            compatible: Vec::new(),
            is_handover: false,
            preserved_memory_map: None,
        }
    }
}

/// How the root was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// It is the file.
    File,
    /// By the header of the arena.
    Header,
    /// By [`Options::fdt`](super::Options).
    Option,
    /// By a look at every page.
    Search,
    /// Not at all: there are blobs, and no root.
    Missing,
}

/// A root that was found and not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Candidate {
    /// Physical address, in bytes.
    pub address: u64,
    /// How many errors it has; none when it was not looked at, because its tree cannot be read or there were too many.
    pub errors: Option<u64>,
}

/// Bytes by physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Range {
    /// The first one.
    pub address: u64,
    /// How many.
    pub size: u64,
}

impl From<&PhysRange> for Range {
    fn from(range: &PhysRange) -> Self {
        Range { address: range.start().get(), size: range.size() }
    }
}

/// What is preserved.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Preserved {
    /// Blocks.
    pub blocks: u64,
    /// Pages of all blocks.
    pub pages: u64,
    /// Bytes of all blocks.
    pub bytes: u64,
    /// How many blocks there are of each order, ascending.
    pub orders: Vec<OrderCount>,
    /// How many ranges the blocks are, neighbours joined.
    pub range_count: u64,
    /// These ranges by ascending address; the first [`Preserved::KEPT`].
    pub ranges: Vec<Range>,
    /// The blocks by ascending address: physical address and order. Of more than [`Preserved::KEPT`] so many.
    pub entries: Vec<(u64, u32)>,
}

/// Blocks of one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OrderCount {
    /// log2 of the pages of a block.
    pub order: u32,
    /// How many.
    pub blocks: u64,
}

impl Preserved {
    /// So many ranges and blocks are kept, the others are counted only: one bit of a tree is a block and a range, so
    /// that a file of some megabytes would take gigabytes otherwise.
    pub const KEPT: usize = 1 << 20;

    pub(super) fn of(tree: &Tree) -> Self {
        let geometry = tree.geometry();
        let mut orders: Vec<OrderCount> = Vec::new();
        let kept = usize_of(tree.len()).min(Self::KEPT);
        // One after the other: either can be megabytes.
        let mut ranges: Vec<Range> = Vec::new();
        let mut range_count = 0_u64;
        for range in tree.ranges() {
            range_count = range_count.saturating_add(1);
            if ranges.len() < kept {
                let bytes = range.bytes(geometry);
                ranges.push(Range { address: bytes.start().get(), size: bytes.size() });
            }
        }
        ranges.shrink_to_fit();
        // By order, the large ones first, each by address: they are few before the pages, which are merged with them.
        let mut large: Vec<Folio> = Vec::new();
        let mut pages = tree.iter().peekable();
        while let Some(folio) = pages.next_if(|folio| folio.order() > Order::ZERO) {
            count(&mut orders, folio.order(), 1);
            if large.len() < Self::KEPT {
                large.push(folio);
            }
        }
        let of_pages = tree.len().saturating_sub(orders.iter().fold(0, |sum, order| sum.saturating_add(order.blocks)));
        if of_pages > 0 {
            count(&mut orders, Order::ZERO, of_pages);
        }
        orders.reverse();
        large.sort_unstable();
        let mut large = large.into_iter().peekable();
        let mut entries: Vec<(u64, u32)> = Vec::with_capacity(kept);
        while entries.len() < kept {
            let page = pages.peek().map(|page| page.pfn());
            let next = large.next_if(|folio| page.is_none_or(|page| folio.pfn() <= page)).or_else(|| pages.next());
            let Some(folio) = next else { break };
            entries.push(block(folio, geometry));
        }
        Preserved {
            blocks: tree.len(),
            pages: tree.pages(),
            bytes: tree.pages().saturating_mul(geometry.page_size()),
            orders,
            range_count,
            ranges,
            entries,
        }
    }
}

/// Counts blocks of an order that is that of the last ones, or a new one.
fn count(orders: &mut Vec<OrderCount>, order: Order, blocks: u64) {
    match orders.last_mut() {
        Some(last) if last.order == order.get() => last.blocks = last.blocks.saturating_add(blocks),
        _ => orders.push(OrderCount { order: order.get(), blocks }),
    }
}

/// A node of the root FDT.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Node {
    /// Its name; bytes that are no text are replaced.
    pub name: String,
    /// What it says that it is made of; nothing in what Linux writes, whose blobs say it.
    pub compatible: Vec<String>,
    /// The layout as which its blob was read.
    pub read_as: Option<String>,
    /// Its blob.
    pub blob: Option<Range>,
    /// Whether a reader that does not understand it may leave it.
    pub optional: bool,
    /// What it says that it owns.
    pub mem: Vec<Range>,
    /// Whether [`Node::mem`] lists the largest ranges only.
    pub mem_partial: bool,
    /// Bytes that it owns, in whole pages, as its data has it.
    pub owned: Option<u64>,
    /// What a successor that understands all this would do with it.
    pub verdict: Option<Verdict>,
    /// What its blob holds.
    pub content: Option<Content>,
}

impl Node {
    pub(super) fn of(node: &fdt::Node<'_>) -> Self {
        let blob = number(node, kho::PRESERVED_DATA).zip(number(node, kho::BLOB_SIZE));
        let mem = node.property(kho::MEM).into_iter().flat_map(|property| property.mem_ranges());
        Node {
            name: String::from_utf8_lossy(node.name()).into_owned(),
            compatible: compatible(node),
            read_as: None,
            blob: blob.map(|(address, size)| Range { address, size }),
            optional: node.property(kho::OPTIONAL).is_some(),
            mem: mem.flatten().map(|range| Range { address: range.start().get(), size: range.size() }).collect(),
            mem_partial: node.property(kho::MEM_PARTIAL).is_some(),
            owned: None,
            verdict: None,
            content: None,
        }
    }
}

impl Node {
    /// A node of which only the blob is there.
    pub(super) const fn named(name: String) -> Self {
        Node {
            name,
            compatible: Vec::new(),
            read_as: None,
            blob: None,
            optional: false,
            mem: Vec::new(),
            mem_partial: false,
            owned: None,
            verdict: None,
            content: None,
        }
    }
}

fn number(node: &fdt::Node<'_>, name: &str) -> Option<u64> {
    node.property(name)?.u64_native().ok()
}

fn compatible(node: &fdt::Node<'_>) -> Vec<String> {
    let value = node.property(kho::COMPATIBLE).map_or(&[][..], |property| property.value());
    let strings = value.split(|&byte| byte == 0).filter(|string| !string.is_empty());
    strings.map(|string| String::from_utf8_lossy(string).into_owned()).collect()
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Problem {
    /// What, as a word that never changes its meaning.
    pub code: Code,
    /// What kind of trouble that is.
    pub class: Class,
    /// Whether it stops the handover.
    pub severity: Severity,
    /// Path of the node: `/` or `/NAME`.
    pub node: String,
    /// The property, field or record.
    pub item: Option<String>,
    /// Physical address, in bytes.
    pub address: Option<u64>,
    /// Offset in the device tree, in bytes.
    pub offset: Option<u64>,
    /// What was found; empty when the code says it all.
    pub found: String,
    /// What was expected; empty when the code says it all.
    pub expected: String,
    /// All of it as one line for people.
    pub text: String,
}

impl From<&Finding> for Problem {
    fn from(finding: &Finding) -> Self {
        let (fault, at) = (&finding.fault, finding.fault.at());
        Problem {
            code: fault.code(),
            class: fault.code().class(),
            severity: fault.code().severity(),
            node: finding.node.clone(),
            item: at.item.as_ref().map(ToString::to_string),
            address: at.address,
            offset: at.offset,
            found: fault.found_text().into(),
            expected: fault.expected_text().into(),
            text: finding.to_string(),
        }
    }
}
