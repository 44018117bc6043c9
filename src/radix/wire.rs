//! The tree as Linux has it in memory: pages of entries, and pages of bits.
//!
//! The facts are in [`crate::abi::radix`]: the key of a block is `1 << (64 - page_shift - order) | page >> order`; the
//! lowest `leaf_bits` of it are the bit in a leaf, the next `table_bits` the entry in the node above, and so on.

use alloc::vec::Vec;
use alloc::{format, vec};

use super::Tree;
use super::heap::folio;
use super::iter::Folios;
use crate::mem::{Bits, Frame, Frames, Geometry, MemError, Memory, Order, Pfn, PhysAddr};
use crate::num::{index_of, u64_of, usize_of};
use crate::report::{Code, Fault};

/// A tree that was written.
#[derive(Debug)]
pub struct Stored {
    /// The address of the root: the `preserved-memory-map` of the root FDT.
    pub root: PhysAddr,
    /// The pages of the nodes, the root first. They are not in the tree: the next kernel takes them as free.
    pub nodes: Vec<Frame>,
}

impl Stored {
    /// Frees the pages of the nodes.
    pub fn free(self, frames: &mut dyn Frames) {
        self.nodes.into_iter().for_each(|node| frames.free(node));
    }
}

/// A tree that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it says is preserved.
    pub tree: Tree,
    /// The page numbers of its own nodes: not preserved, and to be left alone as long as the tree is needed.
    pub nodes: Bits,
}

impl Tree {
    /// Writes the tree as Linux reads it, one page for each node. An empty tree is an empty root.
    ///
    /// # Errors
    /// What [`Frames::alloc`] and [`Frames::write`] return. Nothing stays allocated.
    pub fn store(&self, frames: &mut dyn Frames) -> Result<Stored, Fault> {
        let mut writer = Writer::new(self.geometry(), frames);
        match writer.tree(Folios::new(&self.levels)) {
            Ok(root) => Ok(Stored { root, nodes: writer.nodes }),
            Err(error) => {
                for frame in writer.nodes.drain(..) {
                    writer.frames.free(frame);
                }
                Err(error.into())
            }
        }
    }

    /// Reads a tree that someone else wrote, each page of it once. `memory` says the page size.
    ///
    /// Takes time by the pages that the tree has, of which there are at most as many as `memory` has. Empty nodes and
    /// leaves are legal: unpreserving frees nothing. Overlapping blocks are found by [`Tree::check_disjoint`].
    ///
    /// # Errors
    /// The address of a fault is that of the node in which it stands.
    /// - [`Code::NoHandover`]: the root is 0.
    /// - [`Code::Unaligned`], [`Code::Outside`]: a child (or the root) that is not a page of this memory.
    /// - [`Code::RadixShared`]: a child that has another parent, or is its own ancestor.
    /// - [`Code::RadixKey`]: a bit that stands for no block below [`Pfn::LIMIT`], or an entry under which there can be
    ///   none; the key as found.
    /// - [`Code::Io`]: the memory could not be read.
    pub fn load(memory: &dyn Memory, root: PhysAddr) -> Result<Loaded, Fault> {
        Self::read(memory, root, true).map(|(loaded, _)| loaded)
    }

    /// As [`Tree::load`], and what is broken is left out: the tree without it, and the first break.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub(crate) fn load_part(memory: &dyn Memory, root: PhysAddr) -> Result<(Loaded, Option<Fault>), Fault> {
        Self::read(memory, root, false)
    }

    fn read(memory: &dyn Memory, root: PhysAddr, strict: bool) -> Result<(Loaded, Option<Fault>), Fault> {
        if root.get() == 0 {
            return Err(Fault::new(Code::NoHandover).item("radix root").found(0));
        }
        let geometry = memory.geometry();
        let tree = Tree::new(geometry);
        let mut reader = Reader { memory, geometry, tree, nodes: Bits::new(), strict, broken: None };
        reader.tree(root)?;
        Ok((Loaded { tree: reader.tree, nodes: reader.nodes }, reader.broken))
    }
}

/// The key of the first block of an order; the others follow.
const fn marker(geometry: Geometry, order: u32) -> u64 {
    1 << 64_u32.wrapping_sub(geometry.page_shift()).wrapping_sub(order)
}

/// The order that a key is of. None for key 0; not limited otherwise.
fn order_of(geometry: Geometry, key: u64) -> Option<u32> {
    64_u32.checked_sub(geometry.page_shift())?.checked_sub(key.checked_ilog2()?)
}

/// Which bits of the keys the nodes of a level share: all above these. Level 0 is the leaves.
fn shift(geometry: Geometry, level: u32) -> u32 {
    geometry.leaf_bits().wrapping_add(level.wrapping_mul(geometry.table_bits()))
}

/// Writes a tree in the order of its keys: at any time only the way from the root to one leaf is open.
struct Writer<'f> {
    geometry: Geometry,
    frames: &'f mut dyn Frames,
    nodes: Vec<Frame>,
    /// The open node of each level, leaves first.
    open: Vec<Option<Open>>,
}

struct Open {
    /// The bits of the key that all below it share.
    prefix: u64,
    /// Which of `nodes`.
    node: usize,
    page: Vec<u8>,
}

impl<'f> Writer<'f> {
    fn new(geometry: Geometry, frames: &'f mut dyn Frames) -> Self {
        let open = (0..geometry.depth()).map(|_| None).collect();
        Writer { geometry, frames, nodes: Vec::new(), open }
    }

    fn tree(&mut self, mut blocks: Folios<'_>) -> Result<PhysAddr, MemError> {
        let root = self.open(self.open.len().saturating_sub(1), 0)?;
        let in_leaf = (1_u64 << self.geometry.leaf_bits()).wrapping_sub(1);
        while let Some((order, number, field)) = blocks.next_field() {
            let key = marker(self.geometry, order) | number;
            self.reach(key)?;
            // A field is a word at most and straddles none: its key is a multiple of its width, or all keys of its
            // order are in the first word.
            self.or(0, (key & in_leaf) >> 6, field << (key & 63));
        }
        for level in 0..self.open.len() {
            self.close(level)?;
        }
        Ok(root)
    }

    /// Makes the leaf of the key and all nodes above it the open ones.
    fn reach(&mut self, key: u64) -> Result<(), MemError> {
        let right = |(level, open): (u32, &Option<Open>)| {
            open.as_ref().is_some_and(|open| open.prefix == key >> shift(self.geometry, level))
        };
        let Some(lowest) = (0..).zip(&self.open).position(right) else { return Ok(()) };
        for level in (0..lowest).rev() {
            self.close(level)?;
            let at = self.open(level, key)?;
            let entry = self.prefix(level, key) & (1_u64 << self.geometry.table_bits()).wrapping_sub(1);
            self.or(level.wrapping_add(1), entry, at.get());
        }
        Ok(())
    }

    fn prefix(&self, level: usize, key: u64) -> u64 {
        // A level is at most 5.
        key >> shift(self.geometry, u32::try_from(level).unwrap_or(0))
    }

    fn open(&mut self, level: usize, key: u64) -> Result<PhysAddr, MemError> {
        let frame = self.frames.alloc(Order::ZERO)?;
        let at = frame.folio().addr(self.geometry);
        let page = vec![0; usize_of(self.geometry.page_size())];
        let node = Open { prefix: self.prefix(level, key), node: self.nodes.len(), page };
        self.nodes.push(frame);
        if let Some(place) = self.open.get_mut(level) {
            *place = Some(node);
        }
        Ok(at)
    }

    fn close(&mut self, level: usize) -> Result<(), MemError> {
        if let Some(done) = self.open.get_mut(level).and_then(Option::take)
            && let Some(frame) = self.nodes.get(done.node)
        {
            self.frames.write(frame, 0, &done.page)?;
        }
        Ok(())
    }

    /// Sets bits in a word of the open node of that level.
    fn or(&mut self, level: usize, word: u64, bits: u64) {
        let node = self.open.get_mut(level).and_then(Option::as_mut);
        let (words, _) = node.map(|node| node.page.as_chunks_mut::<8>()).unwrap_or_default();
        if let Some(bytes) = words.get_mut(usize_of(word)) {
            *bytes = (u64::from_le_bytes(*bytes) | bits).to_le_bytes();
        }
    }
}

/// Reads a tree without recursion: the nodes on the way to the page at hand are the stack, at most `depth` of them.
struct Reader<'m> {
    memory: &'m dyn Memory,
    geometry: Geometry,
    tree: Tree,
    /// Every page that was read. None is read twice, so aliases cannot multiply the work.
    nodes: Bits,
    /// Whether the first break is the end.
    strict: bool,
    /// The first one, if it is not.
    broken: Option<Fault>,
}

/// An inner node on the way.
struct Step {
    at: PhysAddr,
    /// The bits of the key that all below it share.
    prefix: u64,
    /// The entry to go on with.
    next: usize,
}

impl Reader<'_> {
    fn tree(&mut self, root: PhysAddr) -> Result<(), Fault> {
        // One copy for each level: a page is checked as it was when it was read.
        let mut pages = vec![vec![0; usize_of(self.geometry.page_size())]; index_of(self.geometry.depth())];
        let mut level = self.geometry.depth().saturating_sub(1);
        if let Some(page) = pages.get_mut(index_of(level)) {
            self.page(root, page).map_err(|fault| fault.address(root.get()).item("radix root"))?;
        }
        let mut way = vec![Step { at: root, prefix: 0, next: 0 }];
        while let Some(step) = way.last_mut() {
            let (entries, _) = pages.get(index_of(level)).map(|page| page.as_chunks::<8>()).unwrap_or_default();
            let found = entries.get(step.next..).unwrap_or(&[]).iter().position(|entry| *entry != [0; 8]);
            let Some(index) = found.map(|skip| step.next.wrapping_add(skip)) else {
                way.pop();
                level = level.wrapping_add(1);
                continue;
            };
            step.next = index.wrapping_add(1);
            let at = step.at;
            let child = PhysAddr::new(entries.get(index).map_or(0, |entry| u64::from_le_bytes(*entry)));
            let below = level.saturating_sub(1);
            // Both fit: the root's prefix is 0, and all levels together have less than 64 bits.
            let prefix = step.prefix << self.geometry.table_bits() | u64_of(index);
            let key = prefix << shift(self.geometry, below);
            if key >> self.geometry.key_bits() != 0 {
                let expected = format!("keys of {} bits", self.geometry.key_bits());
                let fault = Fault::new(Code::RadixKey).address(at.get());
                self.broken(fault.found(format_args!("{key:#x}")).expected(expected))?;
                continue;
            }
            if let Some(page) = pages.get_mut(index_of(below)) {
                if let Err(fault) = self.page(child, page) {
                    self.broken(fault.address(at.get()).item(format!("entry {index}")))?;
                    continue;
                }
                if below == 0 {
                    self.leaf(child, key, page)?;
                    continue;
                }
            }
            way.push(Step { at: child, prefix, next: 0 });
            level = below;
        }
        Ok(())
    }

    /// Reads a page of the tree, once.
    fn page(&mut self, at: PhysAddr, to: &mut [u8]) -> Result<(), Fault> {
        let size = self.geometry.page_size();
        if at.get() & size.wrapping_sub(1) != 0 {
            let expected = format!("a multiple of {size:#x}");
            return Err(Fault::new(Code::Unaligned).found(at).expected(expected));
        }
        let outside = || Fault::new(Code::Outside).found(at).expected("a page of the memory that was handed over");
        let page = at.page(self.geometry).ok_or_else(outside)?;
        if !self.nodes.insert(page.get()) {
            return Err(Fault::new(Code::RadixShared).found(at).expected("a page with one parent"));
        }
        self.memory.read(at, to).map_err(|error| {
            self.nodes.remove(page.get());
            match error {
                MemError::Outside { .. } => outside(),
                error => error.into(),
            }
        })
    }

    /// Something cannot be read: the end, or left out.
    fn broken(&mut self, fault: Fault) -> Result<(), Fault> {
        if self.strict {
            return Err(fault);
        }
        self.broken.get_or_insert(fault);
        Ok(())
    }

    /// Takes over the bits of a leaf, the keys from `first` on.
    fn leaf(&mut self, at: PhysAddr, first: u64, page: &[u8]) -> Result<(), Fault> {
        let (words, _) = page.as_chunks::<8>();
        for (key, bytes) in (first..).step_by(64).zip(words) {
            let bits = u64::from_le_bytes(*bytes);
            if bits == 0 {
                continue;
            }
            let bad = if key < 64 { self.first_word(bits) } else { self.word(key, bits) };
            if let Some(bad) = bad {
                let expected = format!("keys of blocks below page {:#x}, of order {} at most", Pfn::LIMIT, Order::MAX);
                let fault = Fault::new(Code::RadixKey).address(at.get());
                self.broken(fault.found(format_args!("{bad:#x}")).expected(expected))?;
            }
        }
        Ok(())
    }

    /// The keys 0..=63 are of several orders. The first that is no block's.
    fn first_word(&mut self, bits: u64) -> Option<u64> {
        let mut rest = bits;
        while rest != 0 {
            let key = u64::from(rest.trailing_zeros());
            let block = order_of(self.geometry, key)
                .filter(|&order| order <= Order::MAX.get())
                .and_then(|order| folio(order, key ^ marker(self.geometry, order)));
            let Some(block) = block else { return Some(key) };
            self.tree.add(block);
            rest &= rest.wrapping_sub(1);
        }
        None
    }

    /// The 64 keys from `key` on, which are all of one order. The first that is no block's.
    fn word(&mut self, key: u64, bits: u64) -> Option<u64> {
        let first = key.wrapping_add(u64::from(bits.trailing_zeros()));
        let Some(order) = order_of(self.geometry, key).filter(|&order| order <= Order::MAX.get()) else {
            return Some(first);
        };
        let number = key ^ marker(self.geometry, order);
        let room = (Pfn::LIMIT >> order).saturating_sub(number);
        let beyond = if room < 64 { bits & u64::MAX << room } else { 0 };
        if beyond != 0 {
            return Some(key.wrapping_add(u64::from(beyond.trailing_zeros())));
        }
        self.tree.add_word(order, number, bits);
        None
    }
}
