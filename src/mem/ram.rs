//! An image in ordinary memory: small handovers, tests, and what is authored for a machine.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::inherited::Inherited;
use super::{
    Claim, Folio, Frame, FrameAllocator, Frames, Geometry, MemError, Memory, Order, PageRange, PhysAddr, PhysRange,
};
use crate::num::{u64_of, usize_of};
use crate::report::Fault;

/// A window of pages in ordinary memory. Pages that were never written are zero and cost nothing.
///
/// ```
/// use kho::mem::{Frames as _, Geometry, Memory as _, Order, PageRange, Pfn, Ram};
///
/// let window = PageRange::new(Pfn::new(0x100).unwrap(), 16).unwrap();
/// let mut ram = Ram::new(Geometry::K4, window);
/// let frame = ram.alloc(Order::ZERO)?;
/// ram.write(&frame, 8, b"hello")?;
/// let mut bytes = [0; 5];
/// ram.read(frame.folio().addr(Geometry::K4).checked_add(8).unwrap(), &mut bytes)?;
/// assert_eq!(&bytes, b"hello");
/// # Ok::<(), kho::mem::MemError>(())
/// ```
#[derive(Debug)]
pub struct Ram {
    frames: FrameAllocator,
    /// What a predecessor preserved and nobody took over.
    inherited: Inherited,

    extents: [PhysRange; 1],
    /// The pages that were written, by page number.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Ram {
    /// All pages are free and zero.
    #[must_use]
    pub fn new(geometry: Geometry, window: PageRange) -> Self {
        Ram {
            frames: FrameAllocator::new(geometry, window),
            inherited: Inherited::default(),
            extents: [window.bytes(geometry)],
            pages: BTreeMap::new(),
        }
    }

    /// Writes anywhere inside the window, whoever holds the pages: for images made by hand.
    ///
    /// # Errors
    /// [`MemError::Outside`] when a byte is outside the window.
    pub fn poke(&mut self, at: PhysAddr, bytes: &[u8]) -> Result<(), MemError> {
        self.inside(at, u64_of(bytes.len()))?;
        let mut rest = bytes;
        let mut at = at.get();
        let size = self.geometry().page_size();
        while !rest.is_empty() {
            let skip = at & size.wrapping_sub(1);
            let (now, later) = rest.split_at(usize_of(size.wrapping_sub(skip)).min(rest.len()));
            let page =
                self.pages.entry(at >> self.frames.geometry().page_shift()).or_insert_with(|| vec![0; usize_of(size)]);
            if let Some(to) = page.get_mut(usize_of(skip)..).and_then(|page| page.get_mut(..now.len())) {
                to.copy_from_slice(now);
            }
            at = at.wrapping_add(u64_of(now.len()));
            rest = later;
        }
        Ok(())
    }

    /// Takes exactly this block, if all of it is free.
    ///
    /// # Errors
    /// [`MemError::NotHeld`] when a page of it is not free.
    pub fn alloc_at(&mut self, folio: Folio) -> Result<Frame, MemError> {
        self.frames.alloc_at(folio)
    }

    /// How many pages are free.
    #[must_use]
    pub const fn free_pages(&self) -> u64 {
        self.frames.free_pages()
    }

    fn inside(&self, at: PhysAddr, len: u64) -> Result<(), MemError> {
        let [extent] = self.extents;
        if extent.contains(at, len) { Ok(()) } else { Err(MemError::Outside { at, len }) }
    }
}

impl Memory for Ram {
    fn geometry(&self) -> Geometry {
        self.frames.geometry()
    }

    fn extents(&self) -> &[PhysRange] {
        &self.extents
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        self.inside(at, u64_of(to.len()))?;
        let size = self.geometry().page_size();
        let mut rest = to;
        let mut at = at.get();
        while !rest.is_empty() {
            let skip = at & size.wrapping_sub(1);
            let (now, later) = rest.split_at_mut(usize_of(size.wrapping_sub(skip)).min(rest.len()));
            let page = self.pages.get(&(at >> self.geometry().page_shift()));
            match page.and_then(|page| page.get(usize_of(skip)..)).and_then(|page| page.get(..now.len())) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => now.fill(0),
            }
            at = at.wrapping_add(u64_of(now.len()));
            rest = later;
        }
        Ok(())
    }
}

impl Frames for Ram {
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        let frame = self.frames.alloc(order)?;
        let range = frame.folio().range();
        // Whoever held these pages before may have left something in them.
        let stale: Vec<u64> = self.pages.range(range.start().get()..range.end()).map(|(&page, _)| page).collect();
        for page in stale {
            self.pages.remove(&page);
        }
        Ok(frame)
    }

    fn holds(&self, frame: &Frame) -> bool {
        self.frames.holds(frame)
    }

    fn free(&mut self, frame: Frame) {
        if self.frames.holds(&frame)
            && let Some(frame) = self.inherited.unclaim(frame)
        {
            self.frames.free(frame);
        }
    }

    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError> {
        let at = self.frames.place(frame, offset, u64_of(bytes.len()))?;
        self.poke(at, bytes)
    }
}

impl Claim for Ram {
    fn admit(
        &mut self,
        preserved: &mut dyn Iterator<Item = Folio>,
        nodes: &mut dyn Iterator<Item = PageRange>,
    ) -> Result<(), Fault> {
        (self.frames, self.inherited) = Inherited::new(self.frames.geometry(), self.frames.window(), preserved, nodes)?;
        Ok(())
    }

    fn claim(&mut self, folio: Folio) -> Result<Frame, MemError> {
        self.inherited.claim(&self.frames, folio)
    }

    fn release_rest(&mut self) -> Result<u64, Fault> {
        let inherited = core::mem::take(&mut self.inherited);
        for pages in inherited.rest() {
            self.frames.release(pages);
        }
        Ok(inherited.unclaimed_pages())
    }
}

#[cfg(feature = "std")]
impl super::Pour for Ram {
    fn pour(&self, runs: Vec<super::Run>, file: std::os::fd::BorrowedFd<'_>) -> Result<super::Pouring, MemError> {
        let mut piece = vec![0; 256 << 10];
        for super::Run { from: at, len, offset } in runs {
            self.inside(at, len)?;
            let mut done = 0_u64;
            while let Some(rest) = len.checked_sub(done).filter(|&rest| rest > 0) {
                let Some(piece) = piece.get_mut(..usize_of(rest.min(256 << 10))) else { break };
                let from = PhysAddr::new(at.get().saturating_add(done));
                self.read(from, piece)?;
                let len = u64_of(piece.len());
                super::file::write_at(file, offset.saturating_add(done), piece).map_err(|error| MemError::Io {
                    at: from,
                    len,
                    reason: error.to_string(),
                })?;
                done = done.saturating_add(len);
            }
        }
        Ok(super::Pouring::DONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Pfn;

    #[test]
    fn across_pages_and_at_the_edges() {
        let mut ram = Ram::new(Geometry::K16, PageRange::new(Pfn::new(4).unwrap(), 2).unwrap());
        let at = PhysAddr::new(0x4000 * 5 - 3);
        ram.poke(at, b"abcdef").unwrap();
        let mut back = [0xff; 8];
        ram.read(PhysAddr::new(at.get() - 1), &mut back).unwrap();
        assert_eq!(&back, b"\0abcdef\0");
        let end = PhysAddr::new(0x4000 * 6 - 1);
        assert_eq!(ram.poke(end, b"xy"), Err(MemError::Outside { at: end, len: 2 }));
        assert_eq!(ram.read(PhysAddr::new(0), &mut back), Err(MemError::Outside { at: PhysAddr::new(0), len: 8 }));
    }

    #[test]
    fn allocated_memory_is_zero_again() {
        let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(1).unwrap(), 1).unwrap());
        let frame = ram.alloc(Order::ZERO).unwrap();
        ram.write(&frame, 0, b"secret").unwrap();
        assert!(matches!(ram.write(&frame, 0xffe, b"abc"), Err(MemError::Outside { .. })));
        ram.free(frame);
        let _frame = ram.alloc(Order::ZERO).unwrap();
        let mut bytes = [1; 6];
        ram.read(PhysAddr::new(0x1000), &mut bytes).unwrap();
        assert_eq!(bytes, [0; 6]);
    }
}
