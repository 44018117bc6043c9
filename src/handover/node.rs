//! One node as a check sees it: its blob, its memory, and the account of what it owns.

use alloc::string::String;
use alloc::vec::Vec;

use super::claims::{Owners, sort_by_number};
use super::layouts::Layouts;
use crate::abi;
use crate::abi::Plain;
use crate::abi::vmalloc::Descriptor;
use crate::block;
use crate::compat::{Compat, CompatList};
use crate::mem::{Bits, Folio, Geometry, MemError, Memory, PageRange, Pfn, PhysAddr, PhysRange};
use crate::num::{u64_of, usize_of};
use crate::radix::Tree;
use crate::report::{Code, Fault, Findings};
use crate::vmalloc::Area;

/// Memory of which only what was preserved can be read.
pub(super) struct Preserved<'a> {
    memory: &'a dyn Memory,
    tree: &'a Tree,
}

impl Memory for Preserved<'_> {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    fn extents(&self) -> &[PhysRange] {
        self.memory.extents()
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        let len = u64_of(to.len());
        let pages = PhysRange::new(at, len).and_then(|bytes| PageRange::around(bytes, self.memory.geometry()));
        match pages {
            None => Err(MemError::Outside { at, len }),
            Some(pages) if self.tree.covers(pages) => self.memory.read(at, to),
            Some(_) => Err(MemError::NotPreserved { at, len }),
        }
    }
}

/// One node of an incoming handover, while it is checked.
///
/// What a check reads it must also *claim*: the plan compares what all nodes claim with what was preserved, with each
/// other, and with the `mem` that they declare.
pub struct Node<'a, M> {
    pub(super) name: &'a str,
    pub(super) path: &'a str,
    pub(super) source: &'a M,
    pub(super) view: Preserved<'a>,
    pub(super) tree: &'a Tree,
    pub(super) blob: PhysRange,
    /// What the node is made of: its own list, or what its reader takes it for.
    pub(super) made_of: CompatList<'a>,
    pub(super) layouts: &'a Layouts,
    pub(super) owners: &'a mut Owners,
    /// Pages of the lists that were read, of all nodes: so that lists that share pages cost linear time.
    pub(super) taken: &'a mut Bits,
    pub(super) findings: &'a mut Findings,
    /// Which part of the node is being read; empty outside of [`Node::part`].
    pub(super) part: String,
    /// Whether the block of the blob was claimed.
    pub(super) blob_claimed: bool,
}

impl<'a, M: Memory> Node<'a, M> {
    pub(super) const fn view(memory: &'a dyn Memory, tree: &'a Tree) -> Preserved<'a> {
        Preserved { memory, tree }
    }

    /// The name of the node in the root FDT.
    #[must_use]
    pub const fn name(&self) -> &str {
        self.name
    }

    /// The memory that the handover lives in, of which only what was preserved can be read.
    #[must_use]
    pub fn memory(&self) -> &dyn Memory {
        &self.view
    }

    /// What the handover came in, with what travels beside the memory.
    #[must_use]
    pub const fn source(&self) -> &M {
        self.source
    }

    /// Which blocks are preserved.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        self.tree
    }

    /// The page size.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.tree.geometry()
    }

    /// What the node is made of, one of the versions that its reader takes: its own list, or that of
    /// [`Check::compat`](super::Check::compat) where the blob says what it is.
    #[must_use]
    pub const fn made_of(&self) -> CompatList<'a> {
        self.made_of
    }

    /// The number of the owner's version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.made_of.owner().version()
    }

    /// The version in which the node uses a layout; where its list does not say, as in what Linux writes, `implied`.
    fn used(&self, implied: Compat<'static>) -> Compat<'a> {
        self.made_of.find(implied.name()).unwrap_or(implied)
    }

    /// Where the blob is, and how many bytes.
    #[must_use]
    pub const fn blob_range(&self) -> PhysRange {
        self.blob
    }

    /// Copies the blob, and claims the block that it is in.
    ///
    /// # Errors
    /// [`Code::TooLarge`] when it is larger than `limit` bytes; [`Code::NotPreserved`] when it is not in the tree.
    pub fn blob(&mut self, limit: u64) -> Result<Vec<u8>, Fault> {
        let (start, size) = (self.blob.start(), self.blob.size());
        if size > limit {
            let fault = Fault::new(Code::TooLarge).address(start.get()).item("blob-size");
            return Err(fault.found(size).expected(format_args!("at most {limit}")));
        }
        self.claim_blob(self.blob)?;
        let mut bytes = alloc::vec![0; usize_of(size)];
        self.view.read(start, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies the blob as one structure, of this library's wire formats or of your own (see [`Plain`]), and claims the
    /// block that it is in. A longer blob is taken, as Linux does.
    ///
    /// # Errors
    /// [`Code::Truncated`] when it is too short; [`Code::NotPreserved`] when it is not in the tree.
    pub fn blob_as<T: Plain>(&mut self) -> Result<T, Fault> {
        let (start, size) = (self.blob.start(), self.blob.size());
        if size < u64_of(size_of::<T>()) {
            let name = core::any::type_name::<T>();
            let name = name.rsplit("::").next().unwrap_or(name);
            let fault = Fault::new(Code::Truncated).address(start.get()).item("blob-size");
            return Err(fault.found(size).expected(format_args!("at least {} ({name})", size_of::<T>())));
        }
        self.claim_blob(self.blob)?;
        Ok(crate::mem::read_wire(&self.view, start)?)
    }

    /// Copies the first bytes of the blob, which say what the rest is, and claims the block that it is in; nothing when
    /// the blob is shorter.
    ///
    /// # Errors
    /// [`Code::NotPreserved`] when they are not in the tree.
    pub(crate) fn blob_head<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Fault> {
        let mut bytes = [0; N];
        let Some(range) = PhysRange::new(self.blob.start(), u64_of(N)).filter(|_| self.blob.size() >= u64_of(N)) else {
            return Ok(None);
        };
        self.claim_blob(range)?;
        self.view.read(range.start(), &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Claims the preserved block that the blob is in, once; it must hold all these bytes.
    fn claim_blob(&mut self, bytes: PhysRange) -> Result<(), Fault> {
        let geometry = self.geometry();
        let fault = |code| Fault::new(code).address(bytes.start().get()).item("preserved-data");
        if bytes.start().get() == 0 {
            return Err(fault(Code::NotPreserved).found("address 0"));
        }
        let first = bytes
            .start()
            .page_around(geometry)
            .ok_or_else(|| fault(Code::TooLarge).found(bytes).expected("an address below 2^47 pages"))?;
        let folio = self
            .tree
            .holder(first)
            .ok_or_else(|| fault(Code::NotPreserved).found(format_args!("{bytes}, which is not preserved")))?;
        let block = folio.range().bytes(geometry);
        if !block.contains(bytes.start(), bytes.size()) {
            return Err(fault(Code::PreservedOtherwise)
                .found(format_args!("{bytes}, which leaves its block {block}"))
                .expected("a blob in one preserved block"));
        }
        if !core::mem::replace(&mut self.blob_claimed, true) {
            self.taken.insert(first.get());
            self.try_claim(folio)?;
        }
        Ok(())
    }

    /// Says that the node owns this block, which must have been preserved exactly so. What is wrong with it is reported,
    /// and the check goes on.
    pub fn claim(&mut self, folio: Folio) {
        if let Err(fault) = self.try_claim(folio) {
            self.report(fault);
        }
    }

    /// Like [`Node::claim`], for who must not go on: reading a block again for every owner that it has costs more than
    /// the input justifies.
    ///
    /// # Errors
    /// [`Code::NotPreserved`], [`Code::PreservedOtherwise`], [`Code::OwnedTwice`].
    pub fn try_claim(&mut self, folio: Folio) -> Result<(), Fault> {
        if self.tree.contains(folio) {
            return self.owners.claim(folio, self.tree.geometry());
        }
        // Nobody else has a right to it either, but one finding for one block is enough.
        Err(self.not_exactly(folio))
    }

    /// As [`Node::try_claim`], of a block that the tree itself told.
    pub(crate) fn claim_held(&mut self, folio: Folio) -> Result<(), Fault> {
        if self.owners.take(folio) { Ok(()) } else { Err(self.owners.conflict(folio, self.tree.geometry())) }
    }

    /// [`Node::try_claim`] of a page that is one structure, so that no list goes through it.
    pub(crate) fn claim_page(&mut self, page: Pfn) -> Result<(), Fault> {
        self.taken.insert(page.get());
        self.try_claim(Folio::page(page))
    }

    fn not_exactly(&self, folio: Folio) -> Fault {
        let fault = match self.tree.holder(folio.pfn()) {
            None => Fault::new(Code::NotPreserved).found(format_args!("{folio}, which is not preserved")),
            Some(other) => Fault::new(Code::PreservedOtherwise)
                .found(format_args!("preserved as {other}"))
                .expected(format_args!("{folio}")),
        };
        fault.address(folio.addr(self.geometry()).get())
    }

    /// Copies and checks a vmalloc area, and claims its chunks and its blocks.
    ///
    /// # Errors
    /// As [`Area::load`], in the version that the node's list names; and for the first block that cannot be claimed: an area whose blocks are all its own is not
    /// larger than what was preserved.
    pub fn area(&mut self, descriptor: &Descriptor) -> Result<Area, Fault> {
        let found = self.used(abi::vmalloc::COMPAT);
        let loaded = self.layouts.vmalloc(found)?.load(found, &self.view, descriptor, self.taken)?;
        self.claim_pages(loaded.chunks);
        let area = loaded.area;
        // In the order of their addresses, whatever that of the array is: neighbours are found faster than strangers.
        let mut blocks = area.blocks().to_vec();
        sort_by_number(&mut blocks, |pfn| pfn.get());
        let mut preserved = self.tree.blocks_of(area.order());
        let mut first = None;
        for block in blocks.into_iter().filter_map(|pfn| Folio::new(pfn, area.order())) {
            let preserved = preserved(block.pfn());
            if preserved && self.owners.take(block) {
                continue;
            }
            if first.is_none() {
                let geometry = self.tree.geometry();
                first = Some(if preserved { self.owners.conflict(block, geometry) } else { self.not_exactly(block) });
            }
        }
        match first {
            None => Ok(area),
            Some(fault) => Err(fault),
        }
    }

    /// Copies and checks a block set of so many records, and claims its pages.
    ///
    /// # Errors
    /// As [`block::load`].
    pub fn records<R: Plain>(&mut self, first: u64, count: u64) -> Result<Vec<R>, Fault> {
        self.block_set(first, Some(count))
    }

    /// As [`Node::records`], without a count from an owner who says none. A break is reported, with the address of the
    /// owner where it has none; the records in front of it are there all the same, each with its address.
    pub(crate) fn records_so_far<R: Plain>(
        &mut self,
        first: u64,
        count: Option<u64>,
        owner: PhysAddr,
    ) -> Vec<(PhysAddr, R)> {
        let found = self.used(abi::block::COMPAT);
        let part = match self.layouts.block(found) {
            Ok(format) => block::load_part(format, found, &self.view, PhysAddr::new(first), count, self.taken),
            Err(fault) => block::Part { records: Vec::new(), blocks: Vec::new(), fault: Some(fault) },
        };
        self.claim_pages(part.blocks);
        if let Some(fault) = part.fault {
            self.report(fault.address(owner.get()));
        }
        part.records
    }

    /// Copies and checks a block set whose owner does not say how many records it has, and claims its pages.
    ///
    /// # Errors
    /// As [`block::load`].
    pub fn all_records<R: Plain>(&mut self, first: u64) -> Result<Vec<R>, Fault> {
        self.block_set(first, None)
    }

    fn block_set<R: Plain>(&mut self, first: u64, count: Option<u64>) -> Result<Vec<R>, Fault> {
        let found = self.used(abi::block::COMPAT);
        let format = self.layouts.block(found)?;
        let loaded = block::load_as(format, found, &self.view, PhysAddr::new(first), count, self.taken)?;
        self.claim_pages(loaded.blocks);
        Ok(loaded.records)
    }

    /// Checks a block set of so many records of that many bytes, and claims its pages: which is what can be told of
    /// records whose meaning is another's.
    ///
    /// # Errors
    /// As [`block::load`].
    pub fn blocks(&mut self, first: u64, count: u64, record: u64) -> Result<Vec<Pfn>, Fault> {
        let found = self.used(abi::block::COMPAT);
        let format = self.layouts.block(found)?;
        let blocks = block::survey_as(format, found, &self.view, PhysAddr::new(first), record, count, self.taken)?;
        self.claim_pages(blocks.clone());
        Ok(blocks)
    }

    fn claim_pages(&mut self, pages: Vec<Pfn>) {
        for page in pages {
            self.claim(Folio::page(page));
        }
    }

    /// Says that the node owns these pages, in whatever blocks they were preserved: for ranges that Linux splits
    /// itself. What is wrong with it is reported.
    pub fn claim_range(&mut self, range: PageRange) {
        if let Err(fault) = self.owners.claim_range(range, self.tree) {
            self.report(fault);
        }
    }

    /// Reports something that is wrong and goes on. The plan refuses when it is an error.
    pub fn report(&mut self, fault: Fault) {
        let fault = if self.part.is_empty() { fault } else { fault.within(&self.part) };
        self.findings.add(self.path, fault);
    }

    /// Reads a part of the node, such as `files[7]`: all that is reported meanwhile is told with that name in front,
    /// also the fault by which it ends, and the check goes on with the next part.
    pub fn part<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Option<T> {
        let outer = self.part.len();
        if outer > 0 {
            self.part.push('.');
        }
        self.part.push_str(name);
        self.owners.enter(&self.part);
        let result = read(self).map_err(|fault| self.report(fault)).ok();
        self.part.truncate(outer);
        self.owners.enter(&self.part);
        result
    }
}
