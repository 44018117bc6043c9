//! Whether two bodies have the same bytes: both are read once, and holes are zeros that nobody reads.

use std::sync::mpsc;
use std::thread;

use super::super::body::Body;
use super::super::copy::{Sink, ZEROS};
use super::super::extract::{LARGE, Opened};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Buffers on their way from the thread that reads the first body.
const BUFFERS: usize = 16;

/// Bytes and their offset.
type Piece = (u64, Vec<u8>);

/// The first byte that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Differs {
    pub(super) offset: u64,
    pub(super) a: u8,
    pub(super) b: u8,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Compared {
    Same,
    Differs(Differs),
    /// Why the bytes of A or of B, or of both, could not be read.
    Unread(Option<String>, Option<String>),
}

/// Compares, as far as both go.
pub(super) fn compare(a: (&Opened, Body<'_>), b: (&Opened, Body<'_>)) -> Compared {
    let until = a.1.size().min(b.1.size());
    if until < LARGE {
        let mut pieces: Vec<Result<Piece, Fault>> = Vec::new();
        let copied = a.0.copy_body(
            a.1,
            &mut Give(&mut |(offset, mut bytes): Piece| {
                // The buffer is larger than most files.
                bytes.shrink_to_fit();
                pieces.push(Ok((offset, bytes)));
                if offset < until { Ok(()) } else { Err(stopped()) }
            }),
        );
        // What lies behind the end of the other is not asked for.
        let is_past = pieces.last().is_some_and(|piece| piece.as_ref().is_ok_and(|(offset, _)| *offset >= until));
        pieces.extend(copied.err().filter(|_| !is_past).map(Err));
        return against(&mut pieces.into_iter(), b, until);
    }
    // Beside each other: reading is what takes the time.
    let (give, pieces) = mpsc::sync_channel(BUFFERS);
    thread::scope(|scope| {
        let reading = move || {
            let copied = a.0.copy_body(a.1, &mut Give(&mut |piece| give.send(Ok(piece)).map_err(|_| stopped())));
            // When nobody listens any more, it was stopped.
            let _ = copied.map_err(|fault| give.send(Err(fault)));
        };
        if let Err(error) = thread::Builder::new().name("kho-diff".into()).spawn_scoped(scope, reading) {
            return Compared::Unread(Some(Fault::new(Code::Io).found(error).to_string()), None);
        }
        against(&mut pieces.into_iter(), b, until)
    })
}

/// Ends a copy of which no more is needed; nobody is told.
fn stopped() -> Fault {
    Fault::new(Code::Io).found("stopped")
}

fn against(
    pieces: &mut dyn Iterator<Item = Result<Piece, Fault>>,
    (opened, body): (&Opened, Body<'_>),
    until: u64,
) -> Compared {
    let mut against = Against { pieces, piece: (0, Vec::new()), at: 0, until, differs: None, failed: None };
    let copied = opened.copy_body(body, &mut against).err().filter(|_| !against.is_done());
    if copied.is_none() {
        against.compare(until, None);
    }
    if let (Some(differs), None) = (against.differs, &copied) {
        return Compared::Differs(differs);
    }
    if copied.is_some() && against.failed.is_none() {
        // Whether the other could be read is to be told too.
        against.failed = Iterator::find_map(&mut against.pieces, Result::err);
    }
    match (against.failed, copied) {
        (None, None) => Compared::Same,
        (a, b) => Compared::Unread(a.map(|fault| fault.to_string()), b.map(|fault| fault.to_string())),
    }
}

/// Passes on what was read.
struct Give<'a>(&'a mut dyn FnMut(Piece) -> Result<(), Fault>);

impl Sink for Give<'_> {
    fn take(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(Vec<u8>, u64), Fault> {
        (self.0)((offset, bytes))?;
        Ok((Vec::new(), 0))
    }
}

/// Holds what is read of the second body against the pieces of the first.
struct Against<'a> {
    pieces: &'a mut dyn Iterator<Item = Result<Piece, Fault>>,
    /// The last one.
    piece: Piece,
    /// So far they were compared.
    at: u64,
    until: u64,
    differs: Option<Differs>,
    /// Why there are no more pieces.
    failed: Option<Fault>,
}

impl Sink for Against<'_> {
    fn take(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(Vec<u8>, u64), Fault> {
        self.compare(offset, None);
        // Pieces ascend; what would not is not looked at twice.
        let new = bytes.get(usize_of(self.at.saturating_sub(offset))..);
        self.compare(offset.saturating_add(u64_of(bytes.len())), new);
        if self.is_done() { Err(stopped()) } else { Ok((bytes, 0)) }
    }
}

impl Against<'_> {
    fn is_done(&self) -> bool {
        self.differs.is_some() || (self.at >= self.until && self.failed.is_none())
    }

    /// Compares until there: what the second body has, or that it has nothing but zeros.
    fn compare(&mut self, end: u64, mut ours: Option<&[u8]>) {
        let end = end.min(self.until);
        while self.at < end && self.differs.is_none() {
            self.load();
            if self.failed.is_some() {
                // What it would have had is not known, which is not zeros.
                return;
            }
            let (start, bytes) = &self.piece;
            let into = self.at.checked_sub(*start).and_then(|into| bytes.get(usize_of(into)..));
            let theirs = into.filter(|bytes| !bytes.is_empty());
            let gap = if *start > self.at { end.min(*start) } else { end }.saturating_sub(self.at);
            let len = usize_of(gap).min(theirs.map_or(usize::MAX, <[u8]>::len));
            let now = ours.map(|bytes| bytes.split_at(len.min(bytes.len())));
            let theirs = theirs.and_then(|bytes| bytes.get(..len));
            if let Some((index, a, b)) = first_difference(theirs, now.map(|(now, _)| now)) {
                self.differs = Some(Differs { offset: self.at.saturating_add(u64_of(index)), a, b });
            }
            ours = now.map(|(_, rest)| rest);
            self.at = self.at.saturating_add(u64_of(len));
        }
    }

    /// The next piece, when the last one was compared to its end.
    fn load(&mut self) {
        while self.failed.is_none() && self.piece.0.saturating_add(u64_of(self.piece.1.len())) <= self.at {
            match self.pieces.next() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(fault)) => return self.failed = Some(fault),
                None => return self.piece = (u64::MAX, Vec::new()),
            }
        }
    }
}

/// Where two stretches of the same length differ, and how; none is zeros.
fn first_difference(a: Option<&[u8]>, b: Option<&[u8]>) -> Option<(usize, u8, u8)> {
    let len = a.or(b)?.len();
    for start in (0..len).step_by(ZEROS.len()) {
        let block = start..start.saturating_add(ZEROS.len()).min(len);
        let zeros = ZEROS.get(..block.len())?;
        let ours = a.map_or(Some(zeros), |bytes| bytes.get(block.clone()))?;
        let theirs = b.map_or(Some(zeros), |bytes| bytes.get(block))?;
        if ours != theirs {
            let mut bytes = ours.iter().zip(theirs).enumerate();
            let (index, (a, b)) = bytes.find(|(_, (a, b))| a != b)?;
            return Some((start.saturating_add(index), *a, *b));
        }
    }
    None
}
