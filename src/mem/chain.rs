//! Lists of pages that begin with the address of the next page: vmalloc's chunks, the blocks of a block set.
//!
//! A fault names the page in which the bad address stands; the first address stands in the owner, who adds its place.

use alloc::vec::Vec;

use zerocopy::FromBytes as _;
use zerocopy::little_endian::U64;

use super::{Bits, Frame, Frames, MemError, Memory, Order, Pfn, PhysAddr};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Allocates `count` blocks. On error all are free again.
///
/// Page 0 is refused, because its address means "none" in every structure of the handover.
pub(crate) fn alloc_blocks(frames: &mut dyn Frames, order: Order, count: usize) -> Result<Vec<Frame>, Fault> {
    let mut held = Vec::new();
    while held.len() < count {
        match frames.alloc(order) {
            Ok(frame) => held.push(frame),
            Err(error) => {
                free(frames, held);
                return Err(error.into());
            }
        }
        if held.last().is_some_and(|frame| frame.folio().pfn().get() == 0) {
            free(frames, held);
            return Err(Fault::new(Code::Refused).found("page 0").expected("memory that starts behind it"));
        }
    }
    Ok(held)
}

/// Gives all of them back.
pub(crate) fn free(frames: &mut dyn Frames, held: Vec<Frame>) {
    for frame in held {
        frames.free(frame);
    }
}

/// Writes one page for each body: the address of the next page, then what `fill` adds of that body. On error all are
/// free again.
pub(crate) fn store<B>(
    frames: &mut dyn Frames,
    bodies: impl ExactSizeIterator<Item = B>,
    fill: impl FnMut(B, &mut Vec<u8>),
) -> Result<Vec<Frame>, Fault> {
    let held = alloc_blocks(frames, Order::ZERO, bodies.len())?;
    match write(frames, &held, bodies, fill) {
        Ok(()) => Ok(held),
        Err(error) => {
            free(frames, held);
            Err(error.into())
        }
    }
}

fn write<B>(
    frames: &mut dyn Frames,
    held: &[Frame],
    bodies: impl Iterator<Item = B>,
    mut fill: impl FnMut(B, &mut Vec<u8>),
) -> Result<(), MemError> {
    let geometry = frames.geometry();
    let mut followers = held.iter().skip(1);
    let mut page = Vec::new();
    for (frame, body) in held.iter().zip(bodies) {
        let next = followers.next().map_or(0, |next| next.folio().addr(geometry).get());
        page.clear();
        page.extend_from_slice(&next.to_le_bytes());
        fill(body, &mut page);
        frames.write(frame, 0, &page)?;
    }
    Ok(())
}

/// A list that is being followed. Each page is copied once.
pub(crate) struct Chain<'a> {
    memory: &'a dyn Memory,
    /// Pages of this list and of those before it.
    taken: &'a mut Bits,
    /// The address of the page to come; 0 is the end.
    next: u64,
    /// At most so many pages.
    limit: u64,
    /// Bytes of some pages, from the page `ahead_from` on.
    ahead: Vec<u8>,
    ahead_from: u64,
    /// So many pages are read at once.
    reach: u64,
    pages: Vec<Pfn>,
}

/// Lists that were written in one go mostly lie in one piece, and each read of an arena or a dump is a system call: as
/// long as the next page is the neighbour, twice as many are read as before, up to so many.
const REACH: u64 = 16;

impl<'a> Chain<'a> {
    /// The list that starts at `first`, of at most `limit` pages, none of them in `taken`.
    pub(crate) fn new(memory: &'a dyn Memory, first: u64, limit: u64, taken: &'a mut Bits) -> Self {
        Chain { memory, taken, next: first, limit, ahead: Vec::new(), ahead_from: 0, reach: 1, pages: Vec::new() }
    }

    /// The next page and its bytes; none at the end.
    pub(crate) fn follow(&mut self) -> Result<Option<(PhysAddr, &[u8])>, Fault> {
        if self.next == 0 {
            return Ok(None);
        }
        let geometry = self.memory.geometry();
        let at = PhysAddr::new(self.next);
        let Some(pfn) = at.page(geometry) else {
            return Err(if at.get() & geometry.page_size().wrapping_sub(1) == 0 {
                self.fault(Code::TooLarge).expected(format_args!("below {:#x}", Pfn::LIMIT << geometry.page_shift()))
            } else {
                self.fault(Code::Unaligned).expected(format_args!("a multiple of {:#x}", geometry.page_size()))
            });
        };
        if self.taken.contains(pfn.get()) {
            return Err(if self.pages.contains(&pfn) {
                self.fault(Code::ListCycle).expected("a page that this list has not had")
            } else {
                self.fault(Code::OwnedTwice).expected("a page that nothing else has")
            });
        }
        if u64_of(self.pages.len()) >= self.limit {
            return Err(self.fault(Code::ListLong).expected(format_args!("an end after {} pages", self.limit)));
        }
        self.taken.insert(pfn.get());
        self.fetch(at, pfn)?;
        self.pages.push(pfn);
        let size = usize_of(geometry.page_size());
        let from = usize_of(pfn.get().wrapping_sub(self.ahead_from)).saturating_mul(size);
        let page = self.ahead.get(from..).and_then(|rest| rest.get(..size)).unwrap_or_default();
        self.next = U64::read_from_prefix(page).map_or(0, |(next, _)| next.get());
        Ok(Some((at, page)))
    }

    /// Makes sure that the page is among those that were copied.
    fn fetch(&mut self, at: PhysAddr, pfn: Pfn) -> Result<(), Fault> {
        let size = self.memory.geometry().page_size();
        let held = u64_of(self.ahead.len()).checked_div(size).unwrap_or(0);
        if pfn.get().checked_sub(self.ahead_from).is_some_and(|skip| skip < held) {
            return Ok(());
        }
        self.ahead_from = pfn.get();
        let neighbour = self.pages.last().is_some_and(|last| last.get().wrapping_add(1) == pfn.get());
        self.reach = if neighbour { self.reach.saturating_mul(2).min(REACH) } else { 1 };
        if self.reach > 1 {
            self.ahead.resize(usize_of(size.saturating_mul(self.reach)), 0);
            if self.memory.read(at, &mut self.ahead).is_ok() {
                return Ok(());
            }
        }
        // Only the list itself must be readable, not what is behind it.
        self.ahead.resize(usize_of(size), 0);
        self.memory.read(at, &mut self.ahead).map_err(|error| {
            self.ahead.clear();
            match error {
                MemError::Outside { .. } => self.fault(Code::Outside).expected("a page that was handed over"),
                other => other.into(),
            }
        })
    }

    /// The pages that the list consists of, in its order.
    pub(crate) fn into_pages(self) -> Vec<Pfn> {
        self.pages
    }

    fn fault(&self, code: Code) -> Fault {
        let fault = Fault::new(code).found(format_args!("{:#x}", self.next));
        match self.pages.last() {
            None => fault.item("first"),
            Some(page) => fault.item("next").address(page.addr(self.memory.geometry()).get()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    /// Words that hostile lists are made of: pages 0x10 to 0x16, near misses, small counts, anything.
    pub(crate) fn word() -> impl Strategy<Value = u64> {
        prop_oneof![
            6 => (0x10_u64..0x17).prop_map(|page| page << 12),
            4 => Just(0),
            4 => 0_u64..70,
            1 => (0x10_u64..0x17, 1_u64..4096).prop_map(|(page, skip)| page << 12 | skip),
            1 => any::<u64>(),
            1 => any::<u64>().prop_map(|word| word & !0xfff),
        ]
    }
}
