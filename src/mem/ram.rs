//! An image in ordinary memory: small handovers, tests, and what is authored for a machine.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::inherited::Inherited;
use super::{
    Claim, Folio, Frame, FrameAllocator, Frames, Geometry, MemError, Memory, Order, PageRange, Pfn, PhysAddr, PhysRange,
};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

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
    /// Pages that are never handed out, and whose they are.
    kept_out: Vec<(String, PageRange)>,
    /// How many pages of the window these are.
    kept_pages: u64,
}

impl Ram {
    /// All pages are free and zero. Page 0 is never handed out: its address means "none" in every structure.
    #[must_use]
    pub fn new(geometry: Geometry, window: PageRange) -> Self {
        let mut this = Ram {
            frames: FrameAllocator::new(geometry, window),
            inherited: Inherited::default(),
            extents: [window.bytes(geometry)],
            pages: BTreeMap::new(),
            kept_out: Vec::new(),
            kept_pages: 0,
        };
        if let Some(first) = Pfn::new(0).and_then(|pfn| PageRange::new(pfn, 1))
            && first.overlaps(window)
        {
            this.reserve(first);
            this.kept_out.push(("address 0, which means none".to_owned(), first));
        }
        this
    }

    /// Never hands out a page of these bytes: they are somebody else's, as scratch, a kernel, an initrd. They may pass
    /// the window, and overlap what is kept out already.
    ///
    /// ```
    /// use kho::mem::{Folio, Geometry, PageRange, Pfn, PhysAddr, PhysRange, Ram};
    ///
    /// let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 16).unwrap());
    /// ram.keep_out("initrd", PhysRange::new(PhysAddr::new(0x10_2000), 0x1800).unwrap())?;
    /// assert_eq!(ram.free_pages(), 14);
    /// let refused = ram.alloc_at(Folio::page(Pfn::new(0x103).unwrap())).unwrap_err();
    /// assert_eq!(refused.to_string(), "pfn 0x103 order 0 is in the pages of initrd");
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    /// [`Code::Refused`] when blocks of this memory were handed out already, so that one may lie there;
    /// [`Code::TooLarge`] for bytes beyond [`Pfn::LIMIT`].
    pub fn keep_out(&mut self, owner: &str, bytes: PhysRange) -> Result<(), Fault> {
        let fault = |code| Fault::new(code).address(bytes.start().get()).item(owner.to_owned());
        let pages = PageRange::around(bytes, self.geometry())
            .ok_or_else(|| fault(Code::TooLarge).found(bytes).expected("below 2^47 pages"))?;
        let is_inside = |(_, kept): &(String, PageRange)| kept.start() <= pages.start() && pages.end() <= kept.end();
        if pages.overlaps(self.frames.window()) && !self.kept_out.iter().any(is_inside) {
            if self.frames.free_pages().saturating_add(self.kept_pages) != self.frames.window().count() {
                let fault = fault(Code::Refused).found("a memory of which blocks were handed out");
                return Err(fault.expected("pages that are kept out before the first block is allocated"));
            }
            self.reserve(pages);
        }
        self.kept_out.push((owner.to_owned(), pages));
        Ok(())
    }

    fn reserve(&mut self, pages: PageRange) {
        let before = self.frames.free_pages();
        self.frames.reserve(pages);
        self.kept_pages = self.kept_pages.saturating_add(before.saturating_sub(self.frames.free_pages()));
    }

    /// What a loader has to put into place: the bytes of all blocks that are held and of all pages that were written,
    /// by address, neighbours joined. Blocks that were never written are zeros, which memory elsewhere is not.
    pub fn segments(&self) -> impl Iterator<Item = (PhysAddr, Vec<u8>)> + '_ {
        let kept = self.kept_out.iter().map(|(_, pages)| *pages);
        let held = kept.fold(self.frames.used(), |ranges, hole| {
            ranges.into_iter().flat_map(|range| without(range, hole)).collect()
        });
        let written = self.pages.keys().filter_map(|&page| PageRange::new(Pfn::new(page)?, 1));
        let mut ranges: Vec<PageRange> = held.into_iter().chain(written).collect();
        ranges.sort_unstable();
        let mut ranges = ranges.into_iter().peekable();
        core::iter::from_fn(move || {
            let first = ranges.next()?;
            let mut end = first.end();
            while let Some(next) = ranges.next_if(|next| next.start().get() <= end) {
                end = end.max(next.end());
            }
            let run = PageRange::new(first.start(), end.saturating_sub(first.start().get()))?.bytes(self.geometry());
            let mut bytes = vec![0; usize_of(run.size())];
            // Inside the window.
            self.read(run.start(), &mut bytes).ok()?;
            Some((run.start(), bytes))
        })
    }

    /// Writes the whole window as a file that a machine loads at its first address, as QEMU's
    /// `-device loader,file=FILE,addr=0x...,force-raw=on`. Pages that were never written are holes of it.
    ///
    /// # Errors
    /// What the system says.
    #[cfg(feature = "std")]
    pub fn write_image(&self, file: &std::fs::File) -> std::io::Result<()> {
        let [window] = self.extents;
        file.set_len(0)?;
        file.set_len(window.size())?;
        for (&page, bytes) in &self.pages {
            let at = (page << self.geometry().page_shift()).wrapping_sub(window.start().get());
            std::os::unix::fs::FileExt::write_all_at(file, bytes, at)?;
        }
        Ok(())
    }

    /// Forgets what was written into a block.
    fn clear(&mut self, block: PageRange) {
        let stale: Vec<u64> = self.pages.range(block.start().get()..block.end()).map(|(&page, _)| page).collect();
        for page in stale {
            self.pages.remove(&page);
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

    /// Takes exactly this block, if all of it is free. Its contents are zero.
    ///
    /// # Errors
    /// [`MemError::KeptOut`] when a page of it is [kept out](Ram::keep_out), else [`MemError::NotHeld`] when one is not
    /// free.
    pub fn alloc_at(&mut self, folio: Folio) -> Result<Frame, MemError> {
        if let Some((owner, _)) = self.kept_out.iter().find(|(_, pages)| pages.overlaps(folio.range())) {
            return Err(MemError::KeptOut { folio, owner: owner.clone() });
        }
        let frame = self.frames.alloc_at(folio)?;
        self.clear(folio.range());
        Ok(frame)
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

/// The pages of a range that are not in the hole.
fn without(range: PageRange, hole: PageRange) -> impl Iterator<Item = PageRange> {
    let part = |from: u64, to: u64| PageRange::new(Pfn::new(from)?, to.checked_sub(from).filter(|&count| count > 0)?);
    let (start, end) = (range.start().get(), range.end());
    let (from, to) = (hole.start().get(), hole.end());
    part(start, end.min(from)).into_iter().chain(part(start.max(to), end))
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
        // An image made by hand may have something there.
        self.clear(frame.folio().range());
        Ok(frame)
    }

    fn holds(&self, frame: &Frame) -> bool {
        self.frames.holds(frame)
    }

    fn free(&mut self, frame: Frame) {
        if self.frames.holds(&frame)
            && let Some(frame) = self.inherited.unclaim(frame)
        {
            self.clear(frame.folio().range());
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
        self.kept_pages = 0;
        let kept: Vec<PageRange> = self.kept_out.iter().map(|(_, pages)| *pages).collect();
        kept.into_iter().for_each(|pages| self.reserve(pages));
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

    fn bytes(start: u64, size: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), size).unwrap()
    }

    #[test]
    fn what_is_kept_out_is_never_handed_out() {
        let window = PageRange::new(Pfn::new(0x10).unwrap(), 32).unwrap();
        let mut ram = Ram::new(Geometry::K4, window);
        ram.keep_out("scratch", bytes(0x1_8000, 0x4000)).unwrap();
        ram.keep_out("initrd", bytes(0x1_9fff, 2)).unwrap();
        ram.keep_out("kernel", bytes(0x2_e000, 1 << 20)).unwrap();
        ram.keep_out("dtb", bytes(0x100_0000, 0x1000)).unwrap();
        assert_eq!(ram.free_pages(), 26);
        let at = |page, order| Folio::new(Pfn::new(page).unwrap(), Order::new(order).unwrap()).unwrap();
        let kept = ram.alloc_at(at(0x18, 3)).unwrap_err();
        assert_eq!(kept, MemError::KeptOut { folio: at(0x18, 3), owner: "scratch".into() });
        let fault = Fault::from(kept);
        assert_eq!(fault.to_string(), "owned-twice: pfn 0x18 order 3 is in the pages of scratch");
        let all: Vec<Frame> = std::iter::from_fn(|| ram.alloc(Order::ZERO).ok()).collect();
        let mut pages: Vec<u64> = all.iter().map(|frame| frame.folio().pfn().get()).collect();
        pages.sort_unstable();
        assert_eq!(pages, (0x10..0x18).chain(0x1c..0x2e).collect::<Vec<_>>());
        // What is inside is kept out already; what is not may be held by now.
        ram.keep_out("scratch", bytes(0x1_9000, 0x1000)).unwrap();
        let fault = ram.keep_out("late", bytes(0x1_b000, 0x2000)).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "refused: late at 0x1b000: found a memory of which blocks were handed out, expected pages that are kept \
             out before the first block is allocated"
        );
        ram.keep_out("elsewhere", bytes(0x100_0000, 0x2000)).unwrap();
        let fault = ram.keep_out("far", bytes(u64::MAX, 0)).unwrap_err();
        assert_eq!((fault.code(), fault.expected_text()), (Code::TooLarge, "below 2^47 pages"));
    }

    /// A tree in page 0 would be no tree.
    #[test]
    fn page_0_is_nobodys() {
        let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0).unwrap(), 4).unwrap());
        assert_eq!(ram.free_pages(), 3);
        let refused = ram.alloc_at(Folio::page(Pfn::new(0).unwrap())).unwrap_err();
        assert_eq!(refused.to_string(), "pfn 0x0 order 0 is in the pages of address 0, which means none");
        ram.keep_out("low", bytes(0, 0x2000)).unwrap();
        assert_eq!(ram.alloc(Order::new(1).unwrap()).unwrap().folio().pfn().get(), 2);
        assert!(ram.alloc(Order::ZERO).is_err());
        ram.admit(&mut std::iter::empty(), &mut std::iter::empty()).unwrap();
        assert_eq!(ram.free_pages(), 2);
    }

    #[test]
    fn a_successor_does_not_get_what_is_kept_out_either() {
        let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x10).unwrap(), 16).unwrap());
        ram.keep_out("scratch", bytes(0x1_8000, 0x8000)).unwrap();
        let held = Folio::page(Pfn::new(0x10).unwrap());
        ram.admit(&mut [held].into_iter(), &mut std::iter::empty()).unwrap();
        assert_eq!(ram.free_pages(), 7);
    }

    #[test]
    fn segments_and_the_raw_image() {
        let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x10).unwrap(), 16).unwrap());
        ram.keep_out("scratch", bytes(0x1_2000, 0x2000)).unwrap();
        let [one, _two, four] = [0, 0, 2].map(|order| ram.alloc(Order::new(order).unwrap()).unwrap());
        ram.write(&one, 1, b"one").unwrap();
        ram.write(&four, 0x3fff, b"4").unwrap();
        ram.poke(PhysAddr::new(0x1_3002), b"in scratch").unwrap();
        let gone = ram.alloc(Order::new(3).unwrap()).unwrap();
        ram.write(&gone, 0, b"gone").unwrap();
        ram.free(gone);
        let segments: Vec<_> = ram.segments().collect();
        let places: Vec<_> = segments.iter().map(|(at, bytes)| (at.get(), bytes.len())).collect();
        assert_eq!(places, [(0x1_0000, 0x2000), (0x1_3000, 0x5000)]);
        assert_eq!((&segments[0].1[..5], segments[1].1[0x4fff]), (&b"\0one\0"[..], b'4'));
        #[cfg(feature = "std")]
        {
            let file = tempfile::tempfile().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[1; 99], 1 << 20).unwrap();
            ram.write_image(&file).unwrap();
            let mut image = vec![1; 1 << 20];
            assert_eq!(std::os::unix::fs::FileExt::read_at(&file, &mut image, 0).unwrap(), 16 << 12);
            let mut whole = vec![0; 16 << 12];
            ram.read(PhysAddr::new(0x1_0000), &mut whole).unwrap();
            assert!(image[..16 << 12] == whole);
        }
    }
}
