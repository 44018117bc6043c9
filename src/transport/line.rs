//! What two living processes say to each other, in datagrams of a SOCK_SEQPACKET socket: `kho-upgrade-v1`.
//!
//! Each message is a [`Prefix`] with its kind and the bytes of its text, and the text; one that is longer than a datagram
//! goes on in messages of kind [`MORE`]. Integers are little-endian. A handover itself is a [parcel](super::parcel).
//!
//! | kind | from | text |
//! |---|---|---|
//! | hello | both, first | [`Hello`], and the note of the manifest |
//! | process | successor | none, with its pidfd: of one that inherited its end the kernel knows only who made it |
//! | files, kind 3 of a parcel | predecessor | those that travel while it serves |
//! | prepare | predecessor | none; that was all of them |
//! | prepared | successor | none |
//! | (the parcel) | predecessor | |
//! | accepted | successor | its report |
//! | commit | predecessor | none |
//! | committed | successor | its report |
//! | abort | predecessor | why it goes on |
//! | refused | both, at any time | why |
//! | keep | predecessor to its keeper | [`Keep`] |
//! | keeping | keeper | none |

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::parcel::{FILES, MESSAGE_LIMIT, Prefix, REASON_LIMIT};
use super::socket::{self, Wait};
use crate::compat::Compat;
use crate::files::Kind;
use crate::num::index_of;
use crate::report::{Code, Fault};

/// The protocol between a predecessor and a successor that live at the same time.
pub const UPGRADE: Compat<'static> = Compat::new("kho-upgrade", 1);

/// First bytes of what each side says first.
pub(super) const MAGIC: [u8; 8] = *b"\x7fKHOUP\0\n";

pub(super) const MORE: u32 = 16;
pub(super) const HELLO: u32 = 17;
pub(super) const PREPARE: u32 = 18;
pub(super) const PREPARED: u32 = 19;
pub(super) const ACCEPTED: u32 = 20;
pub(super) const COMMIT: u32 = 21;
pub(super) const COMMITTED: u32 = 22;
pub(super) const ABORT: u32 = 23;
pub(super) const REFUSED: u32 = 24;
pub(super) const KEEP: u32 = 25;
pub(super) const KEEPING: u32 = 26;
pub(super) const PROCESS: u32 = 27;

/// No text is longer: a manifest may have so many bytes, and little else has any.
pub(super) const TEXT_LIMIT: usize = 1 << 20;
/// Bytes of text in one datagram.
const PIECE: usize = 32 * 1024;
const DATAGRAM: usize = size_of::<Prefix>() + PIECE;

/// What each side says first; behind it the note of its manifest, which may be empty.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Hello {
    /// [`MAGIC`].
    pub(super) magic: [u8; 8],
    /// The version of [`UPGRADE`].
    pub(super) version: U32,
    /// Zero.
    pub(super) reserved: U32,
}

/// What a keeper is told.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Keep {
    /// [`MAGIC`].
    pub(super) magic: [u8; 8],
    /// The version of [`UPGRADE`].
    pub(super) version: U32,
    /// Zero.
    pub(super) reserved: U32,
    /// What the keeper's environment has, too.
    pub(super) nonce: U64,
    /// Nanoseconds that the successor has until it accepts, and then until it commits.
    pub(super) accept: U64,
    pub(super) commit: U64,
    /// Nanoseconds that the blackout may last; all bits set when it may last forever.
    pub(super) budget: U64,
}

const _: () = assert!(size_of::<Hello>() == 16 && size_of::<Keep>() == 48);

impl Hello {
    pub(super) const fn new() -> Self {
        Hello { magic: MAGIC, version: U32::new(UPGRADE.version()), reserved: U32::ZERO }
    }

    /// The hello of the other side, and the note behind it.
    pub(super) fn read(text: &[u8]) -> Result<(Hello, &[u8]), Fault> {
        let short = || Fault::new(Code::Truncated).item("hello").found(format_args!("{} bytes", text.len()));
        let (hello, note) = Hello::read_from_prefix(text).map_err(|_| short().expected("16 bytes"))?;
        check(hello.magic, hello.version.get(), "hello")?;
        if hello.reserved.get() != 0 {
            return Err(Fault::new(Code::Reserved).item("hello.reserved").found(hello.reserved).expected(0));
        }
        Ok((hello, note))
    }
}

/// Whether these are the first bytes of a message to the keeper of the handover with that nonce.
pub(super) fn is_keep_of(bytes: &[u8], nonce: u64) -> bool {
    let Ok((prefix, text)) = Prefix::read_from_prefix(bytes) else { return false };
    let head = Keep::read_from_prefix(text);
    prefix.kind.get() == KEEP && head.is_ok_and(|(head, _)| head.magic == MAGIC && head.nonce.get() == nonce)
}

impl Keep {
    pub(super) fn read(text: &[u8]) -> Result<Keep, Fault> {
        let found = || Fault::new(Code::Truncated).item("keep").found(format_args!("{} bytes", text.len()));
        let (keep, _) = Keep::read_from_prefix(text).map_err(|_| found().expected("48 bytes"))?;
        check(keep.magic, keep.version.get(), "keep")?;
        Ok(keep)
    }
}

fn check(magic: [u8; 8], version: u32, item: &'static str) -> Result<(), Fault> {
    if magic != MAGIC {
        let fault = Fault::new(Code::Magic).item(item).found(magic.escape_ascii());
        return Err(fault.expected(MAGIC.escape_ascii()));
    }
    let code = match version.cmp(&UPGRADE.version()) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => Code::VersionOlder,
        std::cmp::Ordering::Greater => Code::VersionNewer,
    };
    Err(Fault::new(code).item(item).found(Compat::new(UPGRADE.name(), version)).expected(UPGRADE))
}

/// What was said.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: u32,
    pub(super) text: Vec<u8>,
}

/// A message of which all has come so far that it says.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Its kind, how long it will be, and its text so far.
    begun: Option<(u32, usize, Vec<u8>)>,
}

/// What happened on a line, or to who is at its other end.
#[derive(Debug)]
pub(super) enum Happened {
    Said(Message),
    Closed,
    Dead,
    Late,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Line(OwnedFd);

impl Line {
    /// Both ends of a new one. Both are close-on-exec.
    pub(super) fn pair() -> Result<(Line, OwnedFd), Fault> {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map(|(one, other)| (Line(one), other))
            .map_err(|errno| Fault::new(Code::Io).item("socketpair").found(errno))
    }

    /// An end that came from somewhere.
    pub(super) fn of(socket: OwnedFd) -> Result<Self, Fault> {
        let kind = (sockopt::socket_domain(&socket), sockopt::socket_type(&socket));
        if kind == (Ok(AddressFamily::UNIX), Ok(SocketType::SEQPACKET)) {
            return Ok(Line(socket));
        }
        Err(Fault::new(Code::FileKind).item("line").found("another file").expected("a unix socket of type SEQPACKET"))
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Says something.
    pub(super) fn say(&self, kind: u32, parts: &[&[u8]], wait: Wait) -> Result<(), Fault> {
        let text = parts.concat();
        let count = U32::new(u32::try_from(text.len()).unwrap_or(u32::MAX));
        let (mut kind, mut rest) = (kind, text.as_slice());
        loop {
            let (now, later) = rest.split_at(rest.len().min(PIECE));
            let prefix = Prefix { kind: U32::new(kind), count };
            socket::send_message(self.0.as_fd(), &[prefix.as_bytes(), now], &[], wait).map_err(|errno| gone(&errno))?;
            if later.is_empty() {
                return Ok(());
            }
            (kind, rest) = (MORE, later);
        }
    }

    /// The next message, whole. Descriptors that come with it are closed: who expects some uses [`Line::hear_files`].
    pub(super) fn hear(&self, wait: Wait) -> Result<Message, Fault> {
        let mut buffer = vec![0; DATAGRAM];
        let mut pieces = Pieces::default();
        loop {
            let (bytes, descriptors) = socket::receive_message(self.0.as_fd(), &mut buffer, wait)?;
            if let Some(message) = pieces.push(bytes, descriptors.len())? {
                return Ok(message);
            }
        }
    }

    /// The text of the next message, which must be of that kind. What the other side says when it refuses is the error.
    pub(super) fn expect(&self, kind: u32, wait: Wait) -> Result<Vec<u8>, Fault> {
        let message = self.hear(wait)?;
        match message.kind {
            found if found == kind => Ok(message.text),
            REFUSED | ABORT => Err(Fault::new(Code::Refused).found(message.said())),
            found => Err(unexpected(found, name_of(kind))),
        }
    }

    /// Passes this process's own pidfd.
    pub(super) fn pass(&self, process: BorrowedFd<'_>, wait: Wait) -> Result<(), Fault> {
        let prefix = Prefix { kind: U32::new(PROCESS), count: U32::ZERO };
        socket::send_message(self.0.as_fd(), &[prefix.as_bytes()], &[process], wait).map_err(|errno| gone(&errno))
    }

    /// The pidfd that the other side passes.
    pub(super) fn take_process(&self, wait: Wait) -> Result<OwnedFd, Fault> {
        let mut buffer = [0; 64];
        let (bytes, mut descriptors) = socket::receive_message(self.0.as_fd(), &mut buffer, wait)?;
        if bytes.is_empty() {
            return Err(Fault::new(Code::PeerClosed).item("process").found("the end of the connection"));
        }
        let kind = U32::read_from_prefix(bytes).map_or(0, |(kind, _)| kind.get());
        match (kind, descriptors.pop(), descriptors.is_empty()) {
            (PROCESS, Some(process), true) => {
                super::is_kind(process.as_fd(), Kind::Pidfd, "process", "a pidfd").map(|()| process)
            }
            (PROCESS, ..) => Err(Fault::new(Code::ParcelCount).item("process").expected("one descriptor")),
            (other, ..) => Err(unexpected(other, "process")),
        }
    }

    /// Files that come ahead of the parcel, until it is said that those are all: at most so many.
    pub(super) fn hear_files(&self, limit: usize, wait: Wait) -> Result<Vec<(u64, OwnedFd)>, Fault> {
        let mut buffer = vec![0; MESSAGE_LIMIT];
        let mut files = Vec::new();
        loop {
            let (bytes, descriptors) = socket::receive_message(self.0.as_fd(), &mut buffer, wait)?;
            if bytes.is_empty() {
                return Err(Fault::new(Code::PeerClosed).item("files").found("the end of the connection"));
            }
            let kind = U32::read_from_prefix(bytes).map_or(0, |(kind, _)| kind.get());
            match kind {
                FILES => super::parcel::read_files(bytes, descriptors, &mut files, limit)?,
                PREPARE if descriptors.is_empty() => return Ok(files),
                other => return Err(refusal(bytes).unwrap_or_else(|| unexpected(other, "files or prepare"))),
            }
        }
    }

    /// Why the other side is gone, if it said so before it closed.
    pub(super) fn why(&self, fault: Fault) -> Fault {
        if fault.code() != Code::PeerClosed {
            return fault;
        }
        let said = std::iter::from_fn(|| self.hear(Wait::Never).ok()).take(8).find(|one| one.kind == REFUSED);
        said.map_or(fault, |message| Fault::new(Code::Refused).found(message.said()))
    }

    /// What happens next, until that time. What was said before the other side died is heard first.
    pub(super) fn next(&self, process: Option<BorrowedFd<'_>>, end: Instant) -> Happened {
        let mut buffer = vec![0; DATAGRAM];
        // Kept from one look to the next: the rest of a message may come later than its beginning.
        let mut pieces = Pieces::default();
        loop {
            let came = socket::receive_message(self.0.as_fd(), &mut buffer, Wait::Never);
            match came.and_then(|(bytes, descriptors)| pieces.push(bytes, descriptors.len())) {
                Ok(Some(message)) => return Happened::Said(message),
                Ok(None) => continue,
                // Nothing is there yet.
                Err(fault) if fault.code() == Code::Truncated && fault.expected_text() == "end" => {}
                Err(_) => {
                    // A line that ends is the first that is seen of a death: descriptors go before the process does.
                    let dead = process.is_some_and(|process| has_ended(process, DYING));
                    return if dead { Happened::Dead } else { Happened::Closed };
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            let mut wanted = vec![PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
            wanted.extend(process.map(|process| PollFd::from_borrowed_fd(process, PollFlags::IN)));
            match rustix::event::poll(&mut wanted, Some(&timespec(left))) {
                Ok(0) => return Happened::Late,
                Err(errno) if errno != Errno::INTR => return Happened::Closed,
                _ => {}
            }
            let flagged = |index: usize| wanted.get(index).is_some_and(|one| !one.revents().is_empty());
            if flagged(1) && !flagged(0) {
                return Happened::Dead;
            }
        }
    }
}

impl Pieces {
    /// Takes the next datagram, which so many descriptors came with; the message, when it is whole.
    ///
    /// All pieces but the last are as long as they can be: so a message of a given length has few, and each is bounded.
    pub(super) fn push(&mut self, bytes: &[u8], descriptors: usize) -> Result<Option<Message>, Fault> {
        if bytes.is_empty() {
            return Err(Fault::new(Code::PeerClosed).item("message").found("the end of the connection"));
        }
        if descriptors != 0 {
            let fault = Fault::new(Code::ParcelCount).item("message");
            return Err(fault.found(format_args!("{descriptors} descriptors")).expected(0));
        }
        let (prefix, piece) = Prefix::read_from_prefix(bytes).map_err(|_| {
            let fault = Fault::new(Code::Truncated).item("message");
            fault.found(format_args!("{} bytes", bytes.len())).expected("8 bytes and more")
        })?;
        let (now, count) = (prefix.kind.get(), index_of(prefix.count.get()));
        if count > TEXT_LIMIT {
            let fault = Fault::new(Code::TooLarge).item("message").found(count);
            return Err(fault.expected(format_args!("at most {TEXT_LIMIT} bytes")));
        }
        let (kind, mut text) = match self.begun.take() {
            None if now == MORE => return Err(unexpected(now, "a first message")),
            None => (now, Vec::new()),
            Some((_, total, _)) if now != MORE || count != total => {
                return Err(unexpected(now, "more of the message before"));
            }
            Some((kind, _, text)) => (kind, text),
        };
        let wanted = count.saturating_sub(text.len()).min(PIECE);
        if piece.len() != wanted {
            let fault = Fault::new(Code::ParcelMessage).item("message");
            return Err(fault.found(format_args!("{} bytes", piece.len())).expected(wanted));
        }
        text.extend_from_slice(piece);
        if text.len() == count {
            return Ok(Some(Message { kind, text }));
        }
        self.begun = Some((kind, count, text));
        Ok(None)
    }
}

impl Message {
    /// Its text, for people: not too much of it, and nothing that a terminal or a log would take for something else.
    pub(super) fn said(&self) -> String {
        readable(&self.text)
    }
}

/// What the other side says when it goes on itself.
pub(super) fn refusal(bytes: &[u8]) -> Option<Fault> {
    let (prefix, text) = Prefix::read_from_prefix(bytes).ok()?;
    let refuses = matches!(prefix.kind.get(), REFUSED | ABORT);
    refuses.then(|| Fault::new(Code::Refused).found(readable(text)))
}

fn readable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..REASON_LIMIT).unwrap_or(text));
    let plain = |char: char| !char.is_control() || char == '\n' || char == '\t';
    text.chars().map(|char| if plain(char) { char } else { char::REPLACEMENT_CHARACTER }).collect()
}

impl Wait {
    pub(super) fn for_(time: Duration) -> Self {
        let now = Instant::now();
        // A century is as good as forever.
        let century = Duration::from_secs(1 << 31);
        Wait::Until(now.checked_add(time.min(century)).unwrap_or(now))
    }
}

/// From the end of its descriptors to that of the process.
const DYING: Duration = Duration::from_millis(20);

/// Waits until a process has ended; false when the time is over before.
pub(super) fn has_ended(process: BorrowedFd<'_>, within: Duration) -> bool {
    let start = Instant::now();
    loop {
        let mut wanted = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
        match rustix::event::poll(&mut wanted, Some(&timespec(within.saturating_sub(start.elapsed())))) {
            // A signal is no reason to take a process for one that lives.
            Err(Errno::INTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}

pub(super) fn timespec(time: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec::try_from(time).unwrap_or(rustix::event::Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

fn gone(errno: &Errno) -> Fault {
    match *errno {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => {
            Fault::new(Code::PeerClosed).item("message").found("nobody at the other end")
        }
        Errno::AGAIN => Fault::new(Code::Late).item("message").found("a process that does not listen"),
        errno => Fault::new(Code::Io).item("message").found(errno),
    }
}

fn unexpected(found: u32, expected: &str) -> Fault {
    Fault::new(Code::ParcelMessage).item("kind").found(name_of(found)).expected(expected)
}

pub(super) fn name_of(kind: u32) -> &'static str {
    match kind {
        FILES => "files",
        MORE => "more",
        HELLO => "hello",
        PREPARE => "prepare",
        PREPARED => "prepared",
        ACCEPTED => "accepted",
        COMMIT => "commit",
        COMMITTED => "committed",
        ABORT => "abort",
        REFUSED => "refused",
        KEEP => "keep",
        KEEPING => "keeping",
        PROCESS => "process",
        _ => "an unknown kind",
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
