//! Fixed-size records in linked pages: layout [`block-v1`](crate::abi::block).
//!
//! A [`BlockSet`] lives on the heap and is written page by page when it is stored; [`load`] copies and checks one.
//! Where Linux's own writer leaves an empty last block, the next kernel panics: this one never writes one.
//!
//! ```
//! use kho::abi::luo::File;
//! use kho::block::{self, BlockSet};
//! use kho::mem::{Bits, Geometry, PageRange, Pfn, Ram};
//!
//! let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(1).unwrap(), 16).unwrap());
//! let mut set = BlockSet::new();
//! set.extend((0..100).map(|token| File { compatible: [0; 48], data: 0.into(), token: token.into() }));
//! let stored = set.store(&mut ram)?;
//! assert_eq!(stored.blocks.len(), 2); // 63 records fit one page
//!
//! let loaded = block::load::<File>(&ram, stored.first, Some(100), &mut Bits::default())?;
//! assert_eq!(loaded.records, set.as_slice());
//! # Ok::<(), kho::report::Fault>(())
//! ```

use alloc::vec::Vec;

use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::abi::Plain;
use crate::abi::block::{COMPAT, Header, MAX_BLOCKS};
use crate::compat::{Compat, Reads};
use crate::mem::{Bits, Frame, Frames, Geometry, Memory, Pfn, PhysAddr, chain};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Records that are to be handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSet<R> {
    records: Vec<R>,
}

/// A block set as it stands in memory.
#[derive(Debug)]
#[must_use = "frames that are dropped stay allocated"]
pub struct Stored {
    /// The address of the first block, for the owner's structure; 0 when there are no records.
    pub first: PhysAddr,
    /// The blocks, in the order of the list.
    pub blocks: Vec<Frame>,
}

/// A block set that was read back and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<R> {
    /// All records, in order.
    pub records: Vec<R>,
    /// The pages that they stood in.
    pub blocks: Vec<Pfn>,
}

impl<R: Plain> BlockSet<R> {
    /// No records.
    #[must_use]
    pub const fn new() -> Self {
        BlockSet { records: Vec::new() }
    }

    /// Adds a record at the end.
    pub fn push(&mut self, record: R) {
        self.records.push(record);
    }

    /// Adds records at the end.
    pub fn append(&mut self, records: &[R]) {
        self.records.extend_from_slice(records);
    }

    /// Takes away the last record.
    pub fn pop(&mut self) -> Option<R> {
        self.records.pop()
    }

    /// Keeps the first `len` records.
    pub fn truncate(&mut self, len: usize) {
        self.records.truncate(len);
    }

    /// How many records there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[R] {
        &self.records
    }

    /// The records, in order, to be changed in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [R] {
        &mut self.records
    }

    /// The records, in order.
    pub fn iter(&self) -> core::slice::Iter<'_, R> {
        self.records.iter()
    }

    /// Writes the blocks as [`V1`] has them: all full but the last, and none empty. On error nothing stays allocated.
    ///
    /// # Errors
    /// [`Code::ListLong`] for more than [`MAX_BLOCKS`] blocks, which no reader follows; [`Code::TooLarge`] for a record
    /// that does not fit into a page; and as [`Frames::alloc`] and [`Frames::write`].
    pub fn store(&self, frames: &mut dyn Frames) -> Result<Stored, Fault> {
        self.store_as(&V1, COMPAT, frames)
    }

    /// As [`BlockSet::store`], in that version.
    ///
    /// # Errors
    /// As [`Format::store`].
    pub fn store_as(&self, format: &dyn Format, version: Compat<'_>, frames: &mut dyn Frames) -> Result<Stored, Fault> {
        format.store(version, Record::of::<R>(), self.records.as_bytes(), frames)
    }
}

impl<R: Plain> Default for BlockSet<R> {
    fn default() -> Self {
        BlockSet::new()
    }
}

impl<R> From<Vec<R>> for BlockSet<R> {
    fn from(records: Vec<R>) -> Self {
        BlockSet { records }
    }
}

impl<R> Extend<R> for BlockSet<R> {
    fn extend<I: IntoIterator<Item = R>>(&mut self, records: I) {
        self.records.extend(records);
    }
}

impl<'a, R> IntoIterator for &'a BlockSet<R> {
    type Item = &'a R;
    type IntoIter = core::slice::Iter<'a, R>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}

impl Stored {
    /// Gives back all that was allocated: unpreserve.
    pub fn free(self, frames: &mut dyn Frames) {
        chain::free(frames, self.blocks);
    }
}

/// Bytes that are reserved for records before they are there.
const RESERVE: u64 = 4 << 20;

/// The size of the records of a set.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Bytes of one record.
    pub bytes: u64,
    /// What a record is, for people.
    pub name: &'static str,
}

impl Record {
    /// Records of that type.
    #[must_use]
    pub fn of<R: Plain>() -> Self {
        Record { bytes: u64_of(size_of::<R>()), name: core::any::type_name::<R>() }
    }
}

/// Where a block set is, as its owner says.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// The address of the first block; 0 is a set of no records.
    pub first: PhysAddr,
    /// How many records there are, where the owner says it.
    pub count: Option<u64>,
    /// What a record is.
    pub record: Record,
}

/// How block sets stand in memory, in some versions. Others than [`V1`] are made known to a
/// [`Registry`](crate::handover::Registry) and an [`Outgoing`](crate::handover::Outgoing) as a
/// [`Layout`](crate::handover::Layout).
pub trait Format {
    /// The versions that it reads and writes.
    fn versions(&self) -> Reads<'static>;

    /// Follows a set that somebody else wrote in the version `found`, one of [`Format::versions`]. `each` gets the
    /// address of the first record of a block, and the bytes of its records. `taken` has the pages of the lists that
    /// were read before; those of this one are added, also on error, so that many lists that share pages cost linear
    /// time.
    ///
    /// Beside the pages that were read, whether all is right.
    fn walk(
        &self,
        found: Compat<'_>,
        memory: &dyn Memory,
        set: &Set,
        taken: &mut Bits,
        each: &mut dyn FnMut(PhysAddr, &[u8]),
    ) -> (Vec<Pfn>, Result<(), Fault>);

    /// Writes records, whose bytes follow each other, in that version. On error nothing stays allocated.
    ///
    /// # Errors
    /// What makes it impossible.
    fn store(
        &self,
        version: Compat<'_>,
        record: Record,
        bytes: &[u8],
        frames: &mut dyn Frames,
    ) -> Result<Stored, Fault>;
}

/// `block-v1`, as Linux has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct V1;

impl Format for V1 {
    fn versions(&self) -> Reads<'static> {
        Reads::only(COMPAT)
    }

    fn walk(
        &self,
        _: Compat<'_>,
        memory: &dyn Memory,
        set: &Set,
        taken: &mut Bits,
        each: &mut dyn FnMut(PhysAddr, &[u8]),
    ) -> (Vec<Pfn>, Result<(), Fault>) {
        let mut chain = chain::Chain::new(memory, set.first.get(), MAX_BLOCKS, taken);
        let walked = room(memory.geometry(), set.record).and_then(|capacity| {
            walk(&mut chain, capacity, set.count, |at, body, here| {
                // At most a page: neither overflows.
                let bytes = here.wrapping_mul(usize_of(set.record.bytes));
                each(PhysAddr::new(at.get().wrapping_add(u64_of(size_of::<Header>()))), body.get(..bytes)?);
                Some(())
            })
        });
        (chain.into_pages(), walked)
    }

    fn store(&self, _: Compat<'_>, record: Record, bytes: &[u8], frames: &mut dyn Frames) -> Result<Stored, Fault> {
        let geometry = frames.geometry();
        let size = room(geometry, record)?.saturating_mul(record.bytes);
        let parts = bytes.chunks(usize_of(size));
        if u64_of(parts.len()) > MAX_BLOCKS {
            return Err(Fault::new(Code::ListLong)
                .item("blocks")
                .found(parts.len())
                .expected(format_args!("at most {MAX_BLOCKS}")));
        }
        let blocks = chain::store(frames, parts, |part, page| {
            let records = u64_of(part.len()).checked_div(record.bytes).unwrap_or(0);
            page.extend_from_slice(&records.to_le_bytes());
            page.extend_from_slice(part);
        })?;
        let first = blocks.first().map_or_else(PhysAddr::default, |block| block.folio().addr(geometry));
        Ok(Stored { first, blocks })
    }
}

/// Copies and checks a block set of [`V1`]; none at all when `first` is 0.
///
/// `count` is how many records the owner says there are, where it says so. `taken` has the pages of the lists that were
/// read before; those of this one are added, also on error, so that many lists that share pages cost linear time.
///
/// # Errors
/// - [`Code::BlockCount`]: a block without records or with more than it holds; a `count` that is another.
/// - [`Code::ListCycle`], [`Code::ListLong`]: a list that returns, or has more than [`MAX_BLOCKS`].
/// - [`Code::OwnedTwice`]: a block that another list has.
/// - [`Code::Unaligned`], [`Code::TooLarge`]: a block that is no page; also a record that does not fit into one.
/// - [`Code::Outside`], [`Code::Io`]: as [`Memory::read`].
pub fn load<R: Plain>(
    memory: &dyn Memory,
    first: PhysAddr,
    count: Option<u64>,
    taken: &mut Bits,
) -> Result<Loaded<R>, Fault> {
    load_as(&V1, COMPAT, memory, first, count, taken)
}

/// As [`load`], of a set in that version.
///
/// # Errors
/// As [`Format::walk`].
pub fn load_as<R: Plain>(
    format: &dyn Format,
    found: Compat<'_>,
    memory: &dyn Memory,
    first: PhysAddr,
    count: Option<u64>,
    taken: &mut Bits,
) -> Result<Loaded<R>, Fault> {
    // What the owner says is believed up to a few MiB; beyond that the records themselves must come.
    let room = count.unwrap_or(0).min(RESERVE.checked_div(u64_of(size_of::<R>())).unwrap_or(0));
    let mut records: Vec<R> = Vec::with_capacity(usize_of(room));
    let set = Set { first, count, record: Record::of::<R>() };
    let (blocks, walked) = format.walk(found, memory, &set, taken, &mut |_, bytes| {
        records.extend_from_slice(<[R]>::ref_from_bytes(bytes).unwrap_or_default());
    });
    walked.map(|()| Loaded { records, blocks })
}

/// What was read of a block set, all of it or up to the first break.
pub(crate) struct Part<R> {
    /// The records, each with its address.
    pub(crate) records: Vec<(PhysAddr, R)>,
    pub(crate) blocks: Vec<Pfn>,
    /// The break.
    pub(crate) fault: Option<Fault>,
}

/// As [`load_as`], for who can do with a part.
pub(crate) fn load_part<R: Plain>(
    format: &dyn Format,
    found: Compat<'_>,
    memory: &dyn Memory,
    first: PhysAddr,
    count: Option<u64>,
    taken: &mut Bits,
) -> Part<R> {
    let mut records = Vec::new();
    let set = Set { first, count, record: Record::of::<R>() };
    let (blocks, walked) = format.walk(found, memory, &set, taken, &mut |first, bytes| {
        let here = <[R]>::ref_from_bytes(bytes).unwrap_or_default();
        let places = (first.get()..).step_by(size_of::<R>()).map(PhysAddr::new);
        records.extend(places.zip(here.iter().copied()));
    });
    Part { records, blocks, fault: walked.err() }
}

/// Checks a block set of [`V1`] of `count` records of `record` bytes without copying them: its pages.
///
/// # Errors
/// As [`load`].
pub fn survey(
    memory: &dyn Memory,
    first: PhysAddr,
    record: u64,
    count: u64,
    taken: &mut Bits,
) -> Result<Vec<Pfn>, Fault> {
    survey_as(&V1, COMPAT, memory, first, record, count, taken)
}

/// As [`survey`], of a set in that version.
///
/// # Errors
/// As [`Format::walk`].
pub fn survey_as(
    format: &dyn Format,
    found: Compat<'_>,
    memory: &dyn Memory,
    first: PhysAddr,
    record: u64,
    count: u64,
    taken: &mut Bits,
) -> Result<Vec<Pfn>, Fault> {
    let set = Set { first, count: Some(count), record: Record { bytes: record, name: "record" } };
    let (blocks, walked) = format.walk(found, memory, &set, taken, &mut |_, _| ());
    walked.map(|()| blocks)
}

/// Follows the blocks of a set and checks their counts; `each` gets the address of a block, what is behind the header,
/// and how many records that is, at most `capacity`.
fn walk(
    chain: &mut chain::Chain<'_>,
    capacity: u64,
    count: Option<u64>,
    mut each: impl FnMut(PhysAddr, &[u8], usize) -> Option<()>,
) -> Result<(), Fault> {
    let wrong = |found: u64| Fault::new(Code::BlockCount).item("count").found(found);
    let mut total = 0_u64;
    while let Some((at, page)) = chain.follow()? {
        let cut = || Fault::new(Code::Truncated).address(at.get());
        let (header, body) = Header::read_from_prefix(page).map_err(|_| cut())?;
        let here = header.count.get();
        if !(1..=capacity).contains(&here) {
            return Err(wrong(here).address(at.get()).expected(format_args!("1..={capacity}")));
        }
        each(at, body, usize_of(here)).ok_or_else(cut)?;
        total = total.saturating_add(here);
        if let Some(count) = count.filter(|&count| count < total) {
            return Err(wrong(count).expected(format_args!("at least {total}")));
        }
    }
    match count {
        Some(count) if count != total => Err(wrong(count).expected(total)),
        _ => Ok(()),
    }
}

/// Records of one block.
fn room(geometry: Geometry, record: Record) -> Result<u64, Fault> {
    match geometry.block_capacity(record.bytes) {
        0 => {
            let most = geometry.page_size().saturating_sub(u64_of(size_of::<Header>()));
            let fault = Fault::new(Code::TooLarge).item(record.name).found(record.bytes);
            Err(fault.expected(format_args!("1..={most} bytes")))
        }
        capacity => Ok(capacity),
    }
}

#[cfg(test)]
mod tests;
