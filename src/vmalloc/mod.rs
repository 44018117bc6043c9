//! Scattered pages as one array: layout [`vmalloc-v1`](crate::abi::vmalloc).
//!
//! An [`Area`] is a list of blocks of one order, in the order of the array. [`Area::store`] writes the chunks that
//! describe it, byte for byte as Linux lays them out; [`Area::load`] copies and checks them. The blocks themselves
//! belong to whoever made the area, unless [`store_bytes`] allocated them.
//!
//! ```
//! use kho::mem::{Bits, Geometry, Order, PageRange, Pfn, Ram};
//! use kho::vmalloc::{Area, store_bytes};
//!
//! let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(1).unwrap(), 16).unwrap());
//! let stored = store_bytes(&mut ram, Order::ZERO, &[7; 10_000])?;
//! assert_eq!((stored.descriptor.total_pages.get(), stored.chunks.len()), (3, 1));
//!
//! let loaded = Area::load(&ram, &stored.descriptor, &mut Bits::default())?;
//! let mut bytes = [0; 10_000];
//! loaded.area.read(&ram, 0, &mut bytes)?;
//! assert_eq!(bytes, [7; 10_000]);
//! # Ok::<(), kho::report::Fault>(())
//! ```

use alloc::vec;
use alloc::vec::Vec;
use core::iter;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::abi::vmalloc::{COMPAT, ChunkHeader, Descriptor, FLAG_ALLOC, FLAGS};
use crate::compat::{Compat, Reads};
use crate::mem::{Bits, Folio, Frame, Frames, Geometry, Memory, Order, Pfn, PhysAddr, chain};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Blocks of one order that are one array. All are aligned to their order and none is page 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    order: Order,
    flags: u16,
    blocks: Vec<Pfn>,
}

/// An area as it stands in memory: what [`Area::store`] allocated for it.
#[derive(Debug)]
#[must_use = "frames that are dropped stay allocated"]
pub struct Stored {
    /// What goes into the owner's structure.
    pub descriptor: Descriptor,
    /// The pages of the chain, in its order.
    pub chunks: Vec<Frame>,
    /// The blocks of the array, in its order, where [`store_bytes`] allocated them; else empty.
    pub blocks: Vec<Frame>,
}

/// An area that was read back and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The array.
    pub area: Area,
    /// The pages of the chain, in its order: the metadata that came with it.
    pub chunks: Vec<Pfn>,
}

/// How areas stand in memory, in some versions. Others than [`V1`] are made known to a
/// [`Registry`](crate::handover::Registry) and an [`Outgoing`](crate::handover::Outgoing) as a
/// [`Layout`](crate::handover::Layout).
pub trait Format {
    /// The versions that it reads and writes.
    fn versions(&self) -> Reads<'static>;

    /// Copies and checks an area that somebody else wrote in the version `found`, one of [`Format::versions`]. `taken`
    /// is as for [`Area::load`].
    ///
    /// # Errors
    /// The first break.
    fn load(
        &self,
        found: Compat<'_>,
        memory: &dyn Memory,
        descriptor: &Descriptor,
        taken: &mut Bits,
    ) -> Result<Loaded, Fault>;

    /// Writes what describes the area in that version. On error nothing stays allocated.
    ///
    /// # Errors
    /// What makes it impossible.
    fn store(&self, version: Compat<'_>, area: &Area, frames: &mut dyn Frames) -> Result<Stored, Fault>;
}

/// `vmalloc-v1`, as Linux has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct V1;

impl Format for V1 {
    fn versions(&self) -> Reads<'static> {
        Reads::only(COMPAT)
    }

    fn load(
        &self,
        _: Compat<'_>,
        memory: &dyn Memory,
        descriptor: &Descriptor,
        taken: &mut Bits,
    ) -> Result<Loaded, Fault> {
        Area::load(memory, descriptor, taken)
    }

    fn store(&self, _: Compat<'_>, area: &Area, frames: &mut dyn Frames) -> Result<Stored, Fault> {
        area.store(frames)
    }
}

impl Area {
    /// An area of nothing, for blocks of that order.
    ///
    /// # Errors
    /// [`Code::VmallocFlags`] when `flags` has others than [`FLAGS`].
    pub fn new(order: Order, flags: u16) -> Result<Self, Fault> {
        check_flags(flags)?;
        Ok(Area { order, flags, blocks: Vec::new() })
    }

    /// The area of these blocks.
    ///
    /// # Errors
    /// As [`Area::new`] and [`Area::push`].
    pub fn from_folios(order: Order, flags: u16, folios: impl IntoIterator<Item = Folio>) -> Result<Self, Fault> {
        let mut area = Area::new(order, flags)?;
        folios.into_iter().try_for_each(|folio| area.push(folio))?;
        Ok(area)
    }

    /// Adds a block at the end of the array.
    ///
    /// # Errors
    /// [`Code::Refused`] for a block of another order or at page 0, whose address ends a chunk; [`Code::TooLarge`] when
    /// the pages no longer fit 32 bits.
    pub fn push(&mut self, folio: Folio) -> Result<(), Fault> {
        if folio.order() != self.order || folio.pfn().get() == 0 {
            return Err(Fault::new(Code::Refused)
                .found(folio)
                .expected(format_args!("order {} behind page 0", self.order)));
        }
        let pages = u64::from(self.total_pages()).saturating_add(self.order.pages());
        if pages > u64::from(u32::MAX) {
            return Err(too_large("total_pages", pages, u32::MAX));
        }
        self.blocks.push(folio.pfn());
        Ok(())
    }

    /// log2 of the pages of each block.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// [`FLAGS`].
    #[must_use]
    pub const fn flags(&self) -> u16 {
        self.flags
    }

    /// The first page of each block.
    #[must_use]
    pub fn blocks(&self) -> &[Pfn] {
        &self.blocks
    }

    /// The blocks.
    pub fn folios(&self) -> impl Iterator<Item = Folio> + '_ {
        self.blocks.iter().filter_map(|&pfn| Folio::new(pfn, self.order))
    }

    /// The pages of all blocks.
    #[must_use]
    pub fn total_pages(&self) -> u32 {
        u64_of(self.blocks.len()).checked_mul(self.order.pages()).and_then(|pages| pages.try_into().ok()).unwrap_or(0)
    }

    /// The bytes of all blocks, below 2^48.
    #[must_use]
    pub fn bytes(&self, geometry: Geometry) -> u64 {
        u64::from(self.total_pages()) << geometry.page_shift()
    }

    /// Where the byte at that offset of the array is.
    pub(crate) fn place(&self, offset: u64, geometry: Geometry) -> Option<PhysAddr> {
        let size = self.order.bytes(geometry);
        let block = self.blocks.get(usize_of(offset.checked_div(size)?))?;
        block.addr(geometry).checked_add(offset.checked_rem(size)?)
    }

    /// Writes the chunks that describe this area. A chunk that fills exactly is followed by an empty one, as Linux has
    /// it. On error nothing stays allocated.
    ///
    /// # Errors
    /// [`Code::Refused`] for an area without blocks, which no reader takes; and as [`Frames::alloc`] and
    /// [`Frames::write`].
    pub fn store(&self, frames: &mut dyn Frames) -> Result<Stored, Fault> {
        if self.blocks.is_empty() {
            return Err(Fault::new(Code::Refused).found("an area of no pages").expected("at least one block"));
        }
        let geometry = frames.geometry();
        let capacity = usize_of(geometry.chunk_capacity());
        let mut parts: Vec<&[Pfn]> = self.blocks.chunks(capacity).collect();
        if parts.last().is_some_and(|part| part.len() == capacity) {
            parts.push(&[]);
        }
        let chunks = chain::store(frames, parts.into_iter(), |part, page| {
            for block in part {
                page.extend_from_slice(&block.addr(geometry).get().to_le_bytes());
            }
        })?;
        let descriptor = Descriptor {
            first: chunks.first().map_or(0, |chunk| chunk.folio().addr(geometry).get()).into(),
            total_pages: self.total_pages().into(),
            flags: self.flags.into(),
            order: u16::try_from(self.order.get()).unwrap_or(u16::MAX).into(),
        };
        Ok(Stored { descriptor, chunks, blocks: Vec::new() })
    }

    /// Copies and checks an area that somebody else described. `taken` has the pages of the lists that were read
    /// before; those of this one are added, also on error, so that many lists that share pages cost linear time.
    ///
    /// Takes what Linux takes: a chunk ends at its first zero, whatever stands behind. Whose the blocks are is not
    /// checked here: whoever collects the claims of all owners sees which are not preserved, or claimed twice. Who has
    /// no claims asks [`Area::check_unique`].
    ///
    /// # Errors
    /// - [`Code::VmallocFlags`]: flags that nobody knows.
    /// - [`Code::TooLarge`]: an order beyond [`Order::MAX`] or an address beyond [`Pfn::LIMIT`].
    /// - [`Code::VmallocPages`]: `total_pages` is zero, no multiple of a block, or not what the chunks hold.
    /// - [`Code::Unaligned`]: a chunk that is no page, a block that is not aligned to the order.
    /// - [`Code::ListCycle`], [`Code::ListLong`]: a chain that returns, or has more chunks than `total_pages` fill.
    /// - [`Code::OwnedTwice`]: a chunk that another list has.
    /// - [`Code::Outside`], [`Code::Io`]: as [`Memory::read`] of a chunk. Blocks are not read.
    pub fn load(memory: &dyn Memory, descriptor: &Descriptor, taken: &mut Bits) -> Result<Loaded, Fault> {
        let geometry = memory.geometry();
        check_flags(descriptor.flags.get())?;
        let order = descriptor.order.get();
        let order = Order::new(order.into()).ok_or_else(|| too_large("order", order, Order::MAX))?;
        let total_pages = descriptor.total_pages.get();
        let disagrees = || Fault::new(Code::VmallocPages).item("total_pages").found(total_pages);
        let count = u64::from(total_pages) >> order.get();
        if count == 0 || count << order.get() != u64::from(total_pages) {
            return Err(disagrees().expected(format_args!("a nonzero multiple of {}", order.pages())));
        }

        // All chunks but the last are full.
        let limit = count.checked_div(geometry.chunk_capacity()).unwrap_or(0).saturating_add(1);
        let mut chain = chain::Chain::new(memory, descriptor.first.get(), limit, taken);
        let mut blocks = Vec::new();
        while let Some((at, chunk)) = chain.follow()? {
            let words = chunk.get(size_of::<ChunkHeader>()..).unwrap_or_default();
            let words = <[U64]>::ref_from_bytes(words).map_err(|_| Fault::new(Code::Truncated).address(at.get()))?;
            for (index, word) in words.iter().take_while(|word| word.get() != 0).enumerate() {
                blocks.push(
                    block_at(word.get(), order, geometry)
                        .map_err(|fault| fault.item(alloc::format!("phys[{index}]")).address(at.get()))?,
                );
            }
            if u64_of(blocks.len()) > count {
                return Err(disagrees().expected(format_args!("at least {}", u64_of(blocks.len()) << order.get())));
            }
        }
        if u64_of(blocks.len()) < count {
            return Err(disagrees().expected(u64_of(blocks.len()) << order.get()));
        }
        Ok(Loaded { area: Area { order, flags: descriptor.flags.get(), blocks }, chunks: chain.into_pages() })
    }

    /// Whether every block stands once. In order it costs next to nothing, else a sort.
    ///
    /// # Errors
    /// [`Code::OwnedTwice`] with the address of a block that stands twice.
    pub fn check_unique(&self, geometry: Geometry) -> Result<(), Fault> {
        // Not by a bitmap: addresses far apart cost a hostile writer nothing, and must not cost a leaf of it each.
        let mut places: Vec<(Pfn, usize)> = self.blocks.iter().copied().zip(0..).collect();
        places.sort();
        match iter::zip(&places, places.iter().skip(1)).find(|(one, other)| one.0 == other.0) {
            None => Ok(()),
            Some((&(block, one), &(_, other))) => Err(Fault::new(Code::OwnedTwice)
                .address(block.addr(geometry).get())
                .item(alloc::format!("blocks[{other}]"))
                .found(format_args!("the block of blocks[{one}]"))
                .expected("another one")),
        }
    }

    /// Copies bytes of the array, from `offset` on.
    ///
    /// # Errors
    /// [`Code::TooLarge`] when the array is shorter, and as [`Memory::read`].
    pub fn read(&self, memory: &dyn Memory, offset: u64, to: &mut [u8]) -> Result<(), Fault> {
        let geometry = memory.geometry();
        let (len, all) = (u64_of(to.len()), self.bytes(geometry));
        let end = offset.saturating_add(len);
        if end > all {
            return Err(too_large("end", end, all));
        }
        let shift = geometry.page_shift().saturating_add(self.order.get());
        let size = self.order.bytes(geometry);
        let mut skip = offset & size.wrapping_sub(1);
        let mut rest = to;
        for block in self.blocks.iter().skip(usize_of(offset >> shift)) {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at_mut(usize_of(size.saturating_sub(skip)).min(rest.len()));
            // Inside the block: no overflow.
            memory.read(PhysAddr::new(block.addr(geometry).get().wrapping_add(skip)), now)?;
            (skip, rest) = (0, later);
        }
        Ok(())
    }

    /// Copies the first `count` records of the array. Memory grows with what was read, not with `count`.
    ///
    /// # Errors
    /// [`Code::TooLarge`] when the array has no room for so many, and as [`Memory::read`].
    pub fn read_records<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        memory: &dyn Memory,
        count: u64,
    ) -> Result<Vec<T>, Fault> {
        let mut records = Vec::new();
        self.each_record(memory, count, |_, record: T| {
            records.push(record);
            Ok(())
        })?;
        Ok(records)
    }

    /// Reads the first `count` records of the array, a page of them at a time, and gives `each` their numbers and the
    /// records. For arrays of which little is kept: a sparse source can claim gigabytes of zeros.
    ///
    /// # Errors
    /// [`Code::TooLarge`] when the array has no room for so many, as [`Memory::read`], and the first of `each`.
    pub fn each_record<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        memory: &dyn Memory,
        count: u64,
        mut each: impl FnMut(u64, T) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let geometry = memory.geometry();
        let size = u64_of(size_of::<T>());
        let room = self.bytes(geometry).checked_div(size).unwrap_or(0);
        if count > room {
            return Err(too_large("count", count, room));
        }
        let at_once = geometry.page_size().checked_div(size).unwrap_or(0).max(1);
        let mut buffer = vec![T::new_zeroed(); usize_of(at_once.min(count))];
        let mut done = 0_u64;
        while let Some(rest) = count.checked_sub(done).filter(|&rest| rest > 0) {
            buffer.truncate(usize_of(rest));
            self.read(memory, done.saturating_mul(size), buffer.as_mut_slice().as_mut_bytes())?;
            for &record in &buffer {
                each(done, record)?;
                done = done.saturating_add(1);
            }
        }
        Ok(())
    }
}

impl Stored {
    /// Gives back all that was allocated: unpreserve.
    pub fn free(self, frames: &mut dyn Frames) {
        chain::free(frames, self.chunks);
        chain::free(frames, self.blocks);
    }
}

/// Copies bytes into new blocks of that order and describes them as [`V1`] does ([`FLAG_ALLOC`]): an array that Linux
/// would have from `vmalloc`. The last block ends in zeros. On error nothing stays allocated.
///
/// # Errors
/// [`Code::Refused`] for no bytes, [`Code::TooLarge`] for more pages than fit 32 bits, and as [`Area::store`].
pub fn store_bytes(frames: &mut dyn Frames, order: Order, bytes: &[u8]) -> Result<Stored, Fault> {
    store_bytes_as(&V1, COMPAT, frames, order, bytes)
}

/// As [`store_bytes`], described in that version.
///
/// # Errors
/// As [`store_bytes`] and [`Format::store`].
pub fn store_bytes_as(
    format: &dyn Format,
    version: Compat<'_>,
    frames: &mut dyn Frames,
    order: Order,
    bytes: &[u8],
) -> Result<Stored, Fault> {
    let geometry = frames.geometry();
    let parts = bytes.chunks(usize_of(order.bytes(geometry)));
    let pages = u64_of(parts.len()).saturating_mul(order.pages());
    if pages > u64::from(u32::MAX) {
        return Err(too_large("total_pages", pages, u32::MAX));
    }
    let blocks = chain::alloc_blocks(frames, order, parts.len())?;
    let filled = iter::zip(&blocks, parts).try_for_each(|(block, part)| frames.write(block, 0, part));
    let stored = filled
        .map_err(Fault::from)
        .and_then(|()| Area::from_folios(order, FLAG_ALLOC, blocks.iter().map(Frame::folio)))
        .and_then(|area| format.store(version, &area, frames));
    match stored {
        Ok(stored) => Ok(Stored { blocks, ..stored }),
        Err(fault) => {
            chain::free(frames, blocks);
            Err(fault)
        }
    }
}

fn check_flags(flags: u16) -> Result<(), Fault> {
    if flags & !FLAGS == 0 {
        return Ok(());
    }
    Err(Fault::new(Code::VmallocFlags)
        .item("flags")
        .found(format_args!("{flags:#x}"))
        .expected(format_args!("none but {FLAGS:#x}")))
}

fn too_large(item: &'static str, found: impl core::fmt::Display, most: impl core::fmt::Display) -> Fault {
    Fault::new(Code::TooLarge).item(item).found(found).expected(format_args!("at most {most}"))
}

/// The block that a word of a chunk names.
fn block_at(word: u64, order: Order, geometry: Geometry) -> Result<Pfn, Fault> {
    let found = |code| Fault::new(code).found(format_args!("{word:#x}"));
    let size = order.bytes(geometry);
    if word & size.wrapping_sub(1) != 0 {
        return Err(found(Code::Unaligned).expected(format_args!("a multiple of {size:#x}")));
    }
    Pfn::new(word >> geometry.page_shift())
        .ok_or_else(|| found(Code::TooLarge).expected(format_args!("below {:#x}", Pfn::LIMIT << geometry.page_shift())))
}

#[cfg(test)]
mod tests;
