//! A copy out of the memory: read by pages wherever they lie, written in pieces, and nothing of what is zero.

use std::collections::BTreeMap;
use std::sync::mpsc;

use crate::mem::{Image, MemError, Memory as _, PageRange, PhysAddr, PhysRange, Run};
use crate::num::{u64_of, usize_of};
use crate::radix::Tree;
use crate::report::{Code, Fault};

/// Bytes that are copied at a time: fits a cache, and is few system calls for a megabyte.
const PIECE: usize = 256 << 10;
/// Buffers on their way between the two threads of a large copy.
const BUFFERS: usize = 16;
/// Holes are asked for from multiples of this on, in bytes.
const WINDOW: u64 = 1 << 30;
/// What is zero in units of this becomes a hole: the smallest page of any file system that matters.
const BLOCK: usize = 4096;

pub(super) static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Takes bytes and their offset.
pub(super) type Writing<'a> = dyn FnMut(u64, &[u8]) -> std::io::Result<()> + 'a;

/// What becomes of a buffer that is full.
pub(super) trait Sink {
    /// Takes bytes and their offset, and gives a buffer for the next ones; how many of them were written, if that is
    /// known yet.
    fn take(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(Vec<u8>, u64), Fault>;
}

/// Writes at once.
pub(super) struct Here<'a>(pub(super) &'a mut Writing<'a>);

impl Sink for Here<'_> {
    fn take(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(Vec<u8>, u64), Fault> {
        let written = write_blocks(offset, &bytes, self.0)?;
        Ok((bytes, written))
    }
}

/// Leaves it to another thread.
pub(super) struct Beside {
    full: mpsc::SyncSender<(u64, Vec<u8>)>,
    emptied: mpsc::Receiver<Vec<u8>>,
    buffers: usize,
}

impl Beside {
    /// For a writer that takes from the one and gives back to the other, and the ends that are its own.
    #[allow(clippy::type_complexity, reason = "the two ends of two channels")]
    pub(super) fn new() -> (Self, mpsc::Receiver<(u64, Vec<u8>)>, mpsc::Sender<Vec<u8>>) {
        let (full, filled) = mpsc::sync_channel(BUFFERS);
        let (empty, emptied) = mpsc::channel();
        (Beside { full, emptied, buffers: 1 }, filled, empty)
    }
}

impl Sink for Beside {
    fn take(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(Vec<u8>, u64), Fault> {
        let ended = || Fault::new(Code::Io).offset(offset).found("the writer has ended");
        self.full.send((offset, bytes)).map_err(|_| ended())?;
        if self.buffers < BUFFERS {
            self.buffers = self.buffers.saturating_add(1);
            return Ok((Vec::new(), 0));
        }
        Ok((self.emptied.recv().map_err(|_| ended())?, 0))
    }
}

/// Writes what of these bytes is not zero, by whole blocks of the file; how many.
pub(super) fn write_blocks(offset: u64, bytes: &[u8], write: &mut Writing<'_>) -> Result<u64, Fault> {
    let (mut here, mut from, mut written) = (offset, offset, 0_u64);
    let (mut rest, mut full) = (bytes, bytes);
    // Blocks of the file, not of the buffer.
    let mut size = BLOCK.saturating_sub(usize_of(offset) % BLOCK);
    loop {
        let (block, later) = rest.split_at(size.min(rest.len()));
        if block.is_empty() || block == ZEROS.get(..block.len()).unwrap_or_default() {
            // What is full ends here.
            let (now, _) = full.split_at(usize_of(here.saturating_sub(from)).min(full.len()));
            if !now.is_empty() {
                write(from, now).map_err(|error| Fault::new(Code::Io).offset(from).found(error))?;
                written = written.saturating_add(u64_of(now.len()));
            }
            if block.is_empty() {
                return Ok(written);
            }
            from = here.saturating_add(u64_of(block.len()));
            full = later;
        }
        here = here.saturating_add(u64_of(block.len()));
        (rest, size) = (later, BLOCK);
    }
}

/// A copy that is going on.
pub(super) struct Copy<'a> {
    image: &'a Image,
    tree: &'a Tree,
    /// What is known of where the file of the image has memory: first byte, the one behind the last, and whether it has.
    known: BTreeMap<PhysAddr, (PhysAddr, bool)>,
    /// So many bytes may still be read. A folio that is in two places of one file, or in two files, is broken: without a
    /// limit, it could be made to cost any multiple of itself.
    left: u64,
    buffer: Vec<u8>,
    /// So many bytes of the buffer are filled.
    held: usize,
    /// Where they go.
    offset: u64,
    pub(super) written: u64,
    sink: &'a mut dyn Sink,
}

impl<'a> Copy<'a> {
    pub(super) fn new(image: &'a Image, tree: &'a Tree, sink: &'a mut dyn Sink) -> Self {
        let buffer = vec![0; PIECE];
        Copy {
            image,
            tree,
            known: BTreeMap::new(),
            left: image.bytes_in_file(),
            buffer,
            held: 0,
            offset: 0,
            written: 0,
            sink,
        }
    }

    pub(super) fn run(&mut self, run: Run) -> Result<(), Fault> {
        let Some(range) = PhysRange::new(run.from, run.len).filter(|range| range.size() > 0) else { return Ok(()) };
        let outside = || MemError::Outside { at: run.from, len: run.len };
        let pages = PageRange::around(range, self.tree.geometry()).ok_or_else(outside)?;
        if !self.tree.covers(pages) {
            return Err(MemError::NotPreserved { at: run.from, len: run.len }.into());
        }
        let extents = self.image.extents();
        let before = extents.partition_point(|extent| extent.start() <= run.from);
        let extent = before.checked_sub(1).and_then(|index| extents.get(index));
        if !extent.is_some_and(|extent| extent.contains(run.from, run.len)) {
            return Err(outside().into());
        }
        let mut at = run.from;
        while let Some(data) = self.data_from(at).filter(|data| data.start() < range.end()) {
            let start = data.start().max(at);
            let end = data.end().min(range.end());
            let skip = start.get().saturating_sub(run.from.get());
            self.take(start, end.get().saturating_sub(start.get()), run.offset.saturating_add(skip))?;
            at = end;
            if at >= range.end() {
                break;
            }
        }
        Ok(())
    }

    /// The first bytes from there on that the file has. What the system said is remembered: folios are many, and to
    /// find the end of what is there it may have to look at each page of it. For the same reason it is asked from some
    /// way before: of folios in no order, each could be just below what is known.
    fn data_from(&mut self, at: PhysAddr) -> Option<PhysRange> {
        const LAST: PhysAddr = PhysAddr::new(u64::MAX);
        let known = self.known.range(..=at).next_back().map(|(start, &(end, data))| (*start, end, data));
        let (mut start, mut end, mut data) = known.unwrap_or_default();
        while end <= at || !data {
            // What follows a hole that ends behind `at` is known: it was found with it.
            let next = if end > at { self.known.get(&end).map(|&(until, data)| (end, until, data)) } else { None };
            (start, end, data) = match next {
                Some(next) => next,
                None => {
                    let from = end.max(PhysAddr::new(at.get() & !WINDOW.wrapping_sub(1)));
                    let found = self.image.next_data(from);
                    let (start, end) = found.map_or((LAST, LAST), |found| (found.start(), found.end()));
                    // Holes are remembered too: to cross one may take as many questions as it has pieces.
                    self.known.insert(from, (start, false));
                    self.known.insert(start, (end, true));
                    (start, end, true)
                }
            };
            if start == LAST {
                return None;
            }
        }
        PhysRange::new(start, end.get().saturating_sub(start.get()))
    }

    /// Copies bytes that are there.
    fn take(&mut self, mut from: PhysAddr, mut len: u64, mut offset: u64) -> Result<(), Fault> {
        self.left = self.left.checked_sub(len).ok_or_else(|| {
            let fault = Fault::new(Code::OwnedTwice).address(from.get());
            fault.found("more bytes than all memory has: folios that are in it more than once")
        })?;
        while len > 0 {
            if self.held == self.buffer.len() || self.offset.checked_add(u64_of(self.held)) != Some(offset) {
                self.flush()?;
                self.offset = offset;
            }
            let room = self.buffer.get_mut(self.held..).unwrap_or_default();
            let now = usize_of(len).min(room.len());
            self.image.read(from, room.get_mut(..now).unwrap_or_default())?;
            self.held = self.held.saturating_add(now);
            from = PhysAddr::new(from.get().saturating_add(u64_of(now)));
            (len, offset) = (len.saturating_sub(u64_of(now)), offset.saturating_add(u64_of(now)));
        }
        Ok(())
    }

    /// Passes on what is in the buffer.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        if self.held > 0 {
            self.buffer.truncate(self.held);
            let (buffer, written) = self.sink.take(self.offset, core::mem::take(&mut self.buffer))?;
            self.buffer = buffer;
            self.buffer.resize(PIECE, 0);
            self.held = 0;
            self.written = self.written.saturating_add(written);
        }
        Ok(())
    }
}
