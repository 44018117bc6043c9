//! What two handovers do not have in common.
//!
//! Both are walked together, and what has a name is matched by it: nodes, sessions, tokens, ranges, globals. Where
//! something lies is left out unless it is asked for, because two machines that hand over the same put it elsewhere.

mod bytes;
mod content;
mod states;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

use self::bytes::Compared;
use self::content::kind;
use super::body::Body;
use super::extract::Opened;
use super::view::{Decoded, FoundBy, Node, Problem, Range, SourceKind};
use crate::mem::{Image, PhysAddr};
use crate::num::u64_of;

/// What is compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions {
    /// Whether it matters where things are: physical addresses, the inodes of files that travel beside the memory, what
    /// handlers and globals left (for most an address), and how large the root FDT became.
    pub addresses: bool,
}

/// What two handovers, A and B, do not have in common.
///
/// ```
/// use kho::inspect::{Diff, DiffOptions, Opened, Options};
///
/// // A machine that was frozen at the moment of kexec.
/// let opened = Opened::open("tests/data/linux-7.2-x86_64/frozen.core", &Options::default())?;
/// assert!(Diff::of(&opened, &opened, DiffOptions::default()).is_same());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Diff {
    /// The differences: of the root, of each node by its name, and of what is wrong.
    pub changes: Vec<Change>,
    /// What should have been compared and could not be.
    pub not_compared: Vec<NotCompared>,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Change {
    /// What kind of difference it is.
    pub kind: ChangeKind,
    /// What differs: the path of a node and what of it, as in `/LUO sessions[vm].files[0xabc].size`. The second one of a
    /// name has `#2` behind it.
    pub path: String,
    /// Of contents, the first byte that differs.
    pub offset: Option<u64>,
    /// What A has; of contents, that byte.
    pub a: Option<String>,
    /// What B has; of contents, that byte.
    pub b: Option<String>,
}

/// What kind of difference it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Only B has it.
    Added,
    /// Only A has it.
    Removed,
    /// Both have it, and not the same.
    Changed,
}

/// What could not be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NotCompared {
    /// As [`Change::path`].
    pub path: String,
    /// What is in the way in A.
    pub a: Option<String>,
    /// What is in the way in B.
    pub b: Option<String>,
}

impl Diff {
    /// Compares two handovers; their contents too, where both have their memory.
    #[must_use]
    pub fn of(a: &Opened, b: &Opened, options: DiffOptions) -> Self {
        let mut walk = Walk {
            a,
            b,
            addresses: options.addresses,
            most: [a, b].map(|side| side.image().map_or(0, most)),
            diff: Diff::default(),
        };
        walk.root();
        for ((name, nth), pair) in pairs(&a.decoded.nodes, &b.decoded.nodes, |node| node.name.as_str()) {
            walk.node(&format!("/{name}{}", number(nth)), pair);
        }
        walk.findings();
        walk.diff
    }

    /// Whether there is no difference.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.changes.is_empty()
    }
}

/// So much is read of an image: in one that is sound, each byte is in one place, and both sides may be one image.
fn most(image: &Image) -> u64 {
    image.bytes_read().saturating_add(image.bytes_in_file().saturating_mul(2))
}

/// What A and B have under a key.
type Pair<'a, T> = (Option<&'a T>, Option<&'a T>);

/// Both lists by their keys. What has the key of another is its own, by its number.
fn pairs<'a, T, K: Copy + Ord>(a: &'a [T], b: &'a [T], key: impl Fn(&'a T) -> K) -> BTreeMap<(K, u64), Pair<'a, T>> {
    let mut pairs: BTreeMap<(K, u64), Pair<'a, T>> = BTreeMap::new();
    for (list, is_a) in [(a, true), (b, false)] {
        let mut numbers: BTreeMap<K, u64> = BTreeMap::new();
        for item in list {
            let next = numbers.entry(key(item)).or_default();
            let pair = pairs.entry((key(item), *next)).or_default();
            *(if is_a { &mut pair.0 } else { &mut pair.1 }) = Some(item);
            *next = next.saturating_add(1);
        }
    }
    pairs
}

/// What is behind the path of the second one of a name.
fn number(nth: u64) -> String {
    if nth == 0 { String::new() } else { format!("#{}", nth.saturating_add(1)) }
}

struct Walk<'a> {
    a: &'a Opened,
    b: &'a Opened,
    addresses: bool,
    /// So many bytes may have been read of each.
    most: [u64; 2],
    diff: Diff,
}

impl<'a> Walk<'a> {
    /// Whether the memory of both was there.
    fn has_memory(&self) -> bool {
        has_memory(&self.a.decoded) && has_memory(&self.b.decoded)
    }

    /// Whether one of them is saved states alone, which have nothing around them.
    fn has_saved(&self) -> bool {
        [self.a, self.b].iter().any(|side| side.decoded.source.kind == SourceKind::States)
    }

    fn root(&mut self) {
        let (a, b) = (&self.a.decoded, &self.b.decoded);
        if self.has_saved() {
            return;
        }
        let why = |side: &Decoded| (!has_memory(side)).then(|| "its memory is not here".into());
        if !self.has_memory() {
            self.not_compared("/".into(), why(a), why(b));
        }
        let (root, other) = (&a.root, &b.root);
        if root.found_by != FoundBy::Missing && other.found_by != FoundBy::Missing {
            self.words("/ compatible", &root.compatible, &other.compatible);
            if self.addresses {
                self.address("/ address", root.address, other.address);
                self.value("/ size", Some(root.size), Some(other.size));
                let (map, others) = (root.preserved_memory_map, other.preserved_memory_map);
                self.address("/ preserved-memory-map", map, others);
            }
        }
        if self.has_memory() {
            let bytes = |side: &Decoded| side.page_size.as_ref().map(|page| page.bytes);
            self.value("/ page_size", bytes(a), bytes(b));
            let (kept, others) = (preserved(self.a), preserved(self.b));
            self.value("/ preserved.bytes", kept.as_ref().map(|kept| kept.0), others.as_ref().map(|kept| kept.0));
            self.value("/ preserved.blocks", kept.map(|kept| orders(&kept.1)), others.map(|kept| orders(&kept.1)));
        }
        if !a.scratch.is_empty() && !b.scratch.is_empty() {
            self.ranges("/ scratch", &a.scratch, &b.scratch);
        }
    }

    fn node(&mut self, path: &str, pair: Pair<'a, Node>) {
        let (Some(a), Some(b)) = pair else {
            let about = |node: &Node| match node.compatible.is_empty() {
                true => node.read_as.clone().unwrap_or_default(),
                false => node.compatible.join(", "),
            };
            return self.value(path, pair.0.map(about), pair.1.map(about));
        };
        if !self.has_saved() {
            self.around(path, a, b);
        }
        match (&a.content, &b.content) {
            (Some(ours), Some(theirs)) => self.content(path, (a, ours), (b, theirs)),
            (None, None) if self.has_memory() => {
                let why = || Some("it cannot be read".into());
                self.not_compared(format!("{path} content"), why(), why());
            }
            (ours, theirs) if self.has_memory() => {
                self.value(&format!("{path} kind"), ours.as_ref().map(kind), theirs.as_ref().map(kind));
            }
            _ => {}
        }
    }

    /// What a node says of itself, and what it has beside its content.
    fn around(&mut self, path: &str, a: &Node, b: &Node) {
        self.words(&format!("{path} compatible"), &a.compatible, &b.compatible);
        if self.has_memory() {
            self.value(&format!("{path} read_as"), a.read_as.as_ref(), b.read_as.as_ref());
            self.value(&format!("{path} verdict"), a.verdict, b.verdict);
            self.value(&format!("{path} owned"), a.owned, b.owned);
        }
        self.value(&format!("{path} optional"), Some(a.optional), Some(b.optional));
        self.value(&format!("{path} blob.size"), a.blob.map(|blob| blob.size), b.blob.map(|blob| blob.size));
        if self.addresses {
            let at = |node: &Node| node.blob.map(|blob| blob.address);
            self.address(&format!("{path} blob.address"), at(a), at(b));
        }
        if !a.mem_partial && !b.mem_partial {
            self.ranges(&format!("{path} mem"), &a.mem, &b.mem);
        } else if !self.has_memory() {
            let why = |node: &Node| node.mem_partial.then(|| "it says its largest ranges only".into());
            self.not_compared(format!("{path} mem"), why(a), why(b));
        }
    }

    /// What is behind a blob that nobody here understands.
    fn behind(&mut self, path: &str, a: &Node, b: &Node) {
        let why = |node: &Node, side: &Decoded| {
            let page = side.page_size.as_ref().map_or(1, |page| page.bytes);
            let blob = node.blob.map_or(0, |blob| blob.size.div_ceil(page.max(1)));
            // A blob has a block of its own.
            let blob = blob.checked_next_power_of_two().map_or(u64::MAX, |pages| pages.saturating_mul(page));
            let said = node.mem.iter().fold(0_u64, |sum, range| sum.saturating_add(range.size));
            let owned = said.max(node.owned.unwrap_or(0));
            (owned > blob).then(|| "what its blob speaks of is not known here, or cannot be read".to_owned())
        };
        let (ours, theirs) = (why(a, &self.a.decoded), why(b, &self.b.decoded));
        if ours.is_some() || theirs.is_some() {
            self.not_compared(format!("{path} memory"), ours, theirs);
        }
    }

    /// What is wrong. Of a device tree alone that is not all, and no difference to a whole handover.
    fn findings(&mut self) {
        let (a, b) = (&self.a.decoded, &self.b.decoded);
        if has_memory(a) != has_memory(b) {
            return;
        }
        let addresses = self.addresses;
        let key = |problem: &'a Problem| {
            let text = if addresses { problem.text.as_str() } else { "" };
            (problem.node.as_str(), problem.code.as_str(), problem.item.as_deref(), text)
        };
        for (((node, code, item, _), nth), (a, b)) in pairs(&a.findings, &b.findings, key) {
            let (gap, item) = (if item.is_some() { " " } else { "" }, item.unwrap_or_default());
            if a.is_none() || b.is_none() {
                let path = format!("{node} findings[{code}{gap}{item}]{}", number(nth));
                self.value(&path, a.map(|problem| &problem.text), b.map(|problem| &problem.text));
            }
        }
        // The others were counted only.
        if [a, b].iter().any(|side| side.errors.saturating_add(side.warnings) > u64_of(side.findings.len())) {
            self.value("/ errors", Some(a.errors), Some(b.errors));
            self.value("/ warnings", Some(a.warnings), Some(b.warnings));
        }
    }

    fn value<T: PartialEq + ToString>(&mut self, path: &str, a: Option<T>, b: Option<T>) {
        if a == b {
            return;
        }
        let kind = match (&a, &b) {
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Removed,
            _ => ChangeKind::Changed,
        };
        let (a, b) = (a.map(|a| a.to_string()), b.map(|b| b.to_string()));
        self.diff.changes.push(Change { kind, path: path.into(), offset: None, a, b });
    }

    fn address(&mut self, path: &str, a: Option<u64>, b: Option<u64>) {
        let text = |address| format!("{address:#x}");
        self.value(path, a.map(text), b.map(text));
    }

    fn words(&mut self, path: &str, a: &[String], b: &[String]) {
        let text = |list: &[String]| if list.is_empty() { "none".into() } else { list.join(", ") };
        if a != b {
            self.value(path, Some(text(a)), Some(text(b)));
        }
    }

    fn layout(&mut self, path: &str, a: &Orders, b: &Orders) {
        if a != b {
            self.value(path, Some(orders(a)), Some(orders(b)));
        }
    }

    /// Blocks of which each has its part of the bytes.
    fn blocks(&mut self, path: &str, name: &str, a: (&'a [(u64, u32)], u64), b: (&'a [(u64, u32)], u64)) {
        self.value(&format!("{path} size"), Some(a.1), Some(b.1));
        let of = |blocks: &[(u64, u32)]| by_order(blocks.iter().map(|block| block.1));
        self.layout(&format!("{path} {name}"), &of(a.0), &of(b.0));
        self.places(&format!("{path} {name}"), a.0, b.0, |block| block.0);
        self.bytes(format!("{path} content"), Body::Blocks(a.0, a.1), Body::Blocks(b.0, b.1));
    }

    /// The first one that lies elsewhere.
    fn places<T>(&mut self, path: &str, a: &[T], b: &[T], address: impl Fn(&T) -> u64) {
        let mut both = a.iter().map(&address).zip(b.iter().map(&address)).enumerate();
        if self.addresses
            && let Some((index, (a, b))) = both.find(|(_, (a, b))| a != b)
        {
            self.address(&format!("{path}[{index}].address"), Some(a), Some(b));
        }
    }

    /// How much they are; how many depends on where they are.
    fn ranges(&mut self, path: &str, a: &[Range], b: &[Range]) {
        let bytes = |list: &[Range]| list.iter().fold(0_u64, |sum, range| sum.saturating_add(range.size));
        self.value(&format!("{path}.bytes"), Some(bytes(a)), Some(bytes(b)));
        if self.addresses {
            self.value(&format!("{path}.ranges"), Some(a.len()), Some(b.len()));
            self.places(path, a, b, |range| range.address);
        }
    }

    /// The contents.
    fn bytes(&mut self, path: String, a: Body<'a>, b: Body<'a>) {
        let (Some(image), Some(other)) = (self.a.image(), self.b.image()) else { return };
        let [most, others] = self.most;
        let why = |image: &Image, most| {
            (image.bytes_read() > most).then(|| "more was read by now than the memory has: it is shared".to_owned())
        };
        let (ours, theirs) = (why(image, most), why(other, others));
        if ours.is_some() || theirs.is_some() {
            return self.not_compared(path, ours, theirs);
        }
        match bytes::compare((self.a, a), (self.b, b)) {
            Compared::Same => {}
            Compared::Differs(differs) => {
                let (a, b) = (Some(format!("{:#04x}", differs.a)), Some(format!("{:#04x}", differs.b)));
                let (kind, offset) = (ChangeKind::Changed, Some(differs.offset));
                self.diff.changes.push(Change { kind, path, offset, a, b });
            }
            Compared::Unread(Some(a), Some(b)) => self.not_compared(path, Some(a), Some(b)),
            // One of them has it.
            Compared::Unread(a, b) => {
                let side = |why: Option<String>| why.unwrap_or_else(|| "can be read".into());
                self.value(&path, Some(side(a)), Some(side(b)));
            }
        }
    }

    fn not_compared(&mut self, path: String, a: Option<String>, b: Option<String>) {
        self.diff.not_compared.push(NotCompared { path, a, b });
    }
}

/// Whether the memory was there, whatever could be read of it.
fn has_memory(decoded: &Decoded) -> bool {
    !matches!(decoded.source.kind, SourceKind::DeviceTree | SourceKind::Debugfs)
}

/// How many blocks there are of each order.
type Orders = BTreeMap<u32, u64>;

fn by_order(list: impl Iterator<Item = u32>) -> Orders {
    let mut orders = Orders::new();
    for order in list {
        let blocks = orders.entry(order).or_default();
        *blocks = blocks.saturating_add(1);
    }
    orders
}

/// `3 of order 0, 1 of order 5`.
fn orders(orders: &Orders) -> String {
    let text: Vec<String> = orders.iter().map(|(order, blocks)| format!("{blocks} of order {order}")).collect();
    if text.is_empty() { "none".into() } else { text.join(", ") }
}

/// Bytes and blocks that are preserved, without those of the root FDT, whose size depends on where things are.
fn preserved(opened: &Opened) -> Option<(u64, Orders)> {
    let preserved = opened.decoded.preserved.as_ref()?;
    let mut orders: Orders = preserved.orders.iter().map(|count| (count.order, count.blocks)).collect();
    let mut bytes = preserved.bytes;
    if let Some((_, tree)) = &opened.memory
        && let Some(page) = opened.decoded.root.address.and_then(|at| PhysAddr::new(at).page_around(tree.geometry()))
        && let Some(root) = tree.holder(page)
    {
        bytes = bytes.saturating_sub(root.order().bytes(tree.geometry()));
        if let Some(blocks) = orders.get_mut(&root.order().get()) {
            *blocks = blocks.saturating_sub(1);
        }
        orders.retain(|_, blocks| *blocks > 0);
    }
    Some((bytes, orders))
}
