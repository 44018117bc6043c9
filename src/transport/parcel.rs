//! The messages of a parcel: `kho-parcel-v1`, pure, without sockets.
//!
//! Each message is one datagram of a SOCK_SEQPACKET socket, with descriptors attached. All integers are little-endian.
//! In this order:
//!
//! | message | bytes | descriptors |
//! |---|---|---|
//! | head | [`Head`] | the arena; behind it the ticket's program, if there is a ticket |
//! | ticket, if there is one | [`TicketRecord`], build id, arguments (each with its NUL) | none |
//! | reason, if it came back | [`Prefix`], UTF-8 | none |
//! | files, 1 to 253 each | [`Prefix`], one `u64` token each | one for each token |
//! | end | [`End`] | none |
//!
//! 253 is the kernel's limit for one message. Of [`Head`] the first 24 bytes (magic, version, nonce) stay where they
//! are in all versions, so that every reader can tell whose parcel it is and which version it would need.

use std::collections::HashSet;
use std::ffi::OsString;
use std::mem::offset_of;
use std::os::unix::ffi::OsStringExt as _;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ticket::Identity;
use crate::compat::Compat;
use crate::num::{index_of, u64_of, usize_of};
use crate::report::{Code, Fault};

/// The format of the messages that carry descriptors through a socket.
pub const COMPAT: Compat<'static> = Compat::new("kho-parcel", 1);

/// First bytes of a parcel.
pub(super) const MAGIC: [u8; 8] = *b"\x7fKHOPCL\n";
/// The kernel attaches at most so many descriptors to one message (SCM_MAX_FD).
pub(super) const BATCH: usize = 253;
/// A ticket carries at most so many bytes of arguments, each with its NUL.
pub(super) const ARGV_LIMIT: usize = 64 * 1024;
/// A reason has at most so many bytes.
pub(super) const REASON_LIMIT: usize = 4 * 1024;
/// A build id has at most so many bytes; 20 is what linkers write.
pub(super) const BUILD_ID_LIMIT: usize = 64;
/// No message is longer.
pub(super) const MESSAGE_LIMIT: usize = size_of::<TicketRecord>() + BUILD_ID_LIMIT + ARGV_LIMIT;

/// [`Head::flags`]: a ticket follows.
pub(super) const HAS_TICKET: u32 = 1;
/// [`Head::flags`]: the parcel came back, a reason follows.
pub(super) const HAS_REASON: u32 = 2;

/// [`Prefix::kind`] of the ticket.
pub(super) const TICKET: u32 = 1;
/// [`Prefix::kind`] of the reason.
pub(super) const REASON: u32 = 2;
/// [`Prefix::kind`] of files.
pub(super) const FILES: u32 = 3;
/// [`Prefix::kind`] of the end.
pub(super) const END: u32 = 4;

/// The first message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Head {
    /// [`MAGIC`].
    pub(super) magic: [u8; 8],
    /// The version of [`COMPAT`].
    pub(super) version: U32,
    /// [`HAS_TICKET`] or [`HAS_REASON`], not both.
    pub(super) flags: U32,
    /// The nonce of the handover.
    pub(super) nonce: U64,
    /// How many files follow, in all messages.
    pub(super) files: U64,
}

/// Before the text of a reason and the tokens of files.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Prefix {
    /// [`REASON`] or [`FILES`].
    pub(super) kind: U32,
    /// Bytes of text, or number of tokens.
    pub(super) count: U32,
}

/// The ticket; behind it the build id and the arguments.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct TicketRecord {
    /// [`TICKET`].
    pub(super) kind: U32,
    /// 1 when the file is a sealed copy.
    pub(super) copy: U32,
    /// Device of the inode.
    pub(super) device: U64,
    /// Number of the inode.
    pub(super) inode: U64,
    /// Bytes.
    pub(super) size: U64,
    /// Time of the last change of contents: seconds, two's complement.
    pub(super) mtime: U64,
    /// The same: nanoseconds.
    pub(super) mtime_nsec: U64,
    /// Bytes of the build id; 0 is none.
    pub(super) build_id: U32,
    /// How many arguments.
    pub(super) argc: U32,
}

/// The last message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct End {
    /// [`END`].
    pub(super) kind: U32,
    /// Zero.
    pub(super) reserved: U32,
    /// CLOCK_MONOTONIC of the sender, in nanoseconds.
    pub(super) stamp: U64,
}

const _: () = {
    assert!(size_of::<Head>() == 32);
    assert!(offset_of!(Head, version) == 8 && offset_of!(Head, flags) == 12);
    assert!(offset_of!(Head, nonce) == 16 && offset_of!(Head, files) == 24);
    assert!(size_of::<Prefix>() == 8 && offset_of!(Prefix, count) == 4);
    assert!(size_of::<TicketRecord>() == 56);
    assert!(offset_of!(TicketRecord, copy) == 4 && offset_of!(TicketRecord, device) == 8);
    assert!(offset_of!(TicketRecord, inode) == 16 && offset_of!(TicketRecord, size) == 24);
    assert!(offset_of!(TicketRecord, mtime) == 32 && offset_of!(TicketRecord, mtime_nsec) == 40);
    assert!(offset_of!(TicketRecord, build_id) == 48 && offset_of!(TicketRecord, argc) == 52);
    assert!(size_of::<End>() == 16 && offset_of!(End, reserved) == 4 && offset_of!(End, stamp) == 8);
};

/// A ticket as it was received; `F` is the descriptor.
#[derive(Debug)]
pub(super) struct RawTicket<F> {
    pub(super) file: F,
    pub(super) copy: bool,
    pub(super) identity: Identity,
    pub(super) argv: Vec<OsString>,
}

/// A parcel as it was received; `F` is the descriptor.
#[derive(Debug)]
pub(super) struct RawParcel<F> {
    pub(super) nonce: u64,
    pub(super) stamp_ns: u64,
    pub(super) arena: F,
    pub(super) files: Vec<(u64, F)>,
    pub(super) ticket: Option<RawTicket<F>>,
    pub(super) reason: Option<String>,
}

/// Whether these are the first bytes of the parcel with that nonce. Of any version.
pub(super) fn is_head_of(bytes: &[u8], nonce: u64) -> bool {
    Head::read_from_prefix(bytes).is_ok_and(|(head, _)| head.magic == MAGIC && head.nonce.get() == nonce)
}

/// Checks what can be known before a message is consumed: that it is the head of a parcel of this version.
///
/// # Errors
/// [`Code::Magic`], [`Code::VersionOlder`], [`Code::VersionNewer`], [`Code::Truncated`].
pub(super) fn check_head(bytes: &[u8]) -> Result<Head, Fault> {
    let Ok((head, _)) = Head::read_from_prefix(bytes) else {
        return Err(short("head", bytes.len(), size_of::<Head>()));
    };
    if head.magic != MAGIC {
        let found = u64::from_be_bytes(head.magic);
        let expected = u64::from_be_bytes(MAGIC);
        return Err(Fault::new(Code::Magic)
            .item("head.magic")
            .found(format_args!("{found:#018x}"))
            .expected(format_args!("{expected:#018x}")));
    }
    check_version(head.version.get())?;
    // A later version may have a longer head; this one has not.
    same_length("head", bytes.len(), size_of::<Head>())?;
    Ok(head)
}

/// Compares a version of [`COMPAT`] with ours.
pub(super) fn check_version(version: u32) -> Result<(), Fault> {
    let code = match version.cmp(&COMPAT.version()) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => Code::VersionOlder,
        std::cmp::Ordering::Greater => Code::VersionNewer,
    };
    Err(Fault::new(code).item("parcel").found(Compat::new(COMPAT.name(), version)).expected(COMPAT))
}

/// Puts messages together, in their order, and refuses everything else.
#[derive(Debug)]
pub(super) struct Assembler<F> {
    state: State<F>,
    tokens: HashSet<u64>,
}

#[derive(Debug)]
enum State<F> {
    Head,
    /// `next` says which optional message is still to come.
    Body {
        head: Head,
        next: Next,
        arena: F,
        program: Option<F>,
        files: Vec<(u64, F)>,
        ticket: Option<RawTicket<F>>,
        reason: Option<String>,
    },
    /// A message was refused: nothing that comes later counts.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Ticket,
    Reason,
    Files,
}

/// What a message led to.
#[derive(Debug)]
pub(super) enum Progress<F> {
    More,
    Done(RawParcel<F>),
}

impl<F> Assembler<F> {
    pub(super) fn new() -> Self {
        Assembler { state: State::Head, tokens: HashSet::new() }
    }

    /// Takes the next message and the descriptors that came with it.
    ///
    /// # Errors
    /// Any message that is not the next one of a parcel; the parcel is lost then, its descriptors are closed.
    pub(super) fn push(&mut self, bytes: &[u8], descriptors: Vec<F>) -> Result<Progress<F>, Fault> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Head => self.head(bytes, descriptors),
            State::Broken => Err(unexpected("after a refused message", "nothing")),
            State::Body { head, next, arena, program, mut files, mut ticket, mut reason } => {
                let mut program = program;
                let mut next = next;
                let mut done = None;
                match (next, kind(bytes)?) {
                    (Next::Ticket, TICKET) => {
                        let [] = exactly::<F, 0>("ticket", descriptors)?;
                        if let Some(file) = program.take() {
                            ticket = Some(read_ticket(bytes, file)?);
                        }
                        next = Next::Files;
                    }
                    (Next::Reason, REASON) => {
                        let [] = exactly::<F, 0>("reason", descriptors)?;
                        reason = Some(read_reason(bytes)?);
                        next = Next::Files;
                    }
                    (Next::Files, FILES) => {
                        self.files(bytes, descriptors, &mut files, head.files.get())?;
                    }
                    (Next::Files, END) => {
                        let [] = exactly::<F, 0>("end", descriptors)?;
                        done = Some(read_end(bytes, u64_of(files.len()), head.files.get())?);
                    }
                    (next, found) => return Err(unexpected(name_of(found), &format!("{next:?}").to_lowercase())),
                }
                if let Some(stamp_ns) = done {
                    let nonce = head.nonce.get();
                    return Ok(Progress::Done(RawParcel { nonce, stamp_ns, arena, files, ticket, reason }));
                }
                self.state = State::Body { head, next, arena, program, files, ticket, reason };
                Ok(Progress::More)
            }
        }
    }

    fn head(&mut self, bytes: &[u8], descriptors: Vec<F>) -> Result<Progress<F>, Fault> {
        let head = check_head(bytes)?;
        let (next, arena, program) = match head.flags.get() {
            HAS_TICKET => {
                let [arena, program] = exactly("head", descriptors)?;
                (Next::Ticket, arena, Some(program))
            }
            flags @ (0 | HAS_REASON) => {
                let [arena] = exactly("head", descriptors)?;
                (if flags == 0 { Next::Files } else { Next::Reason }, arena, None)
            }
            flags => {
                return Err(Fault::new(Code::ParcelMessage)
                    .item("head.flags")
                    .found(format_args!("{flags:#x}"))
                    .expected("0, 1 (ticket) or 2 (reason)"));
            }
        };
        self.state = State::Body { head, next, arena, program, files: Vec::new(), ticket: None, reason: None };
        Ok(Progress::More)
    }

    fn files(&mut self, bytes: &[u8], descriptors: Vec<F>, files: &mut Vec<(u64, F)>, total: u64) -> Result<(), Fault> {
        let (prefix, rest) = prefix(bytes, "files")?;
        let count = index_of(prefix.count.get());
        if count == 0 || count > BATCH {
            return Err(Fault::new(Code::ParcelMessage).item("files.count").found(count).expected("1..=253"));
        }
        same_length("files.tokens", rest.len(), count.saturating_mul(size_of::<U64>()))?;
        let Ok(tokens) = <[U64]>::ref_from_bytes(rest) else {
            return Err(short("files.tokens", rest.len(), count.saturating_mul(size_of::<U64>())));
        };
        if descriptors.len() != count {
            return Err(miscounted("files", descriptors.len(), count));
        }
        let after = u64_of(files.len()).saturating_add(u64_of(count));
        if after > total {
            return Err(miscounted("files", usize_of(after), usize_of(total)));
        }
        for (token, file) in tokens.iter().zip(descriptors) {
            let token = token.get();
            if !self.tokens.insert(token) {
                return Err(Fault::new(Code::TokenDuplicate).item("files.token").found(token));
            }
            files.push((token, file));
        }
        Ok(())
    }
}

fn kind(bytes: &[u8]) -> Result<u32, Fault> {
    match U32::read_from_prefix(bytes) {
        Ok((kind, _)) => Ok(kind.get()),
        Err(_) => Err(short("message", bytes.len(), size_of::<U32>())),
    }
}

fn prefix<'a>(bytes: &'a [u8], item: &'static str) -> Result<(Prefix, &'a [u8]), Fault> {
    Prefix::read_from_prefix(bytes).map_err(|_| short(item, bytes.len(), size_of::<Prefix>()))
}

fn read_reason(bytes: &[u8]) -> Result<String, Fault> {
    let (prefix, text) = prefix(bytes, "reason")?;
    let count = index_of(prefix.count.get());
    if count > REASON_LIMIT {
        return Err(Fault::new(Code::TooLarge).item("reason").found(count).expected("at most 4096 bytes"));
    }
    same_length("reason", text.len(), count)?;
    let text = std::str::from_utf8(text)
        .map_err(|error| Fault::new(Code::Text).item("reason").offset(u64_of(error.valid_up_to())).found("no UTF-8"))?;
    Ok(text.to_owned())
}

fn read_ticket<F>(bytes: &[u8], file: F) -> Result<RawTicket<F>, Fault> {
    let (record, rest) =
        TicketRecord::read_from_prefix(bytes).map_err(|_| short("ticket", bytes.len(), size_of::<TicketRecord>()))?;
    let copy = match record.copy.get() {
        0 => false,
        1 => true,
        other => return Err(Fault::new(Code::ParcelMessage).item("ticket.copy").found(other).expected("0 or 1")),
    };
    let build_id = index_of(record.build_id.get());
    if build_id > BUILD_ID_LIMIT {
        return Err(Fault::new(Code::TooLarge).item("ticket.build_id").found(build_id).expected("at most 64 bytes"));
    }
    let (build_id, text) =
        rest.split_at_checked(build_id).ok_or_else(|| short("ticket.build_id", rest.len(), build_id))?;
    if text.len() > ARGV_LIMIT {
        return Err(Fault::new(Code::TooLarge).item("ticket.argv").found(text.len()).expected("at most 65536 bytes"));
    }
    let unterminated = || Fault::new(Code::Text).item("ticket.argv").found("an argument without its NUL");
    let argv: Vec<OsString> = match text.split_last() {
        None => Vec::new(),
        Some((0, text)) => text.split(|byte| *byte == 0).map(|one| OsString::from_vec(one.to_vec())).collect(),
        Some(_) => return Err(unterminated()),
    };
    let argc = index_of(record.argc.get());
    if argv.len() != argc || argc == 0 {
        return Err(Fault::new(Code::ParcelCount).item("ticket.argc").found(argc).expected(argv.len().max(1)));
    }
    let identity = Identity {
        device: record.device.get(),
        inode: record.inode.get(),
        size: record.size.get(),
        mtime: record.mtime.get().cast_signed(),
        mtime_nsec: record.mtime_nsec.get(),
        build_id: build_id.to_vec(),
    };
    Ok(RawTicket { file, copy, identity, argv })
}

fn read_end(bytes: &[u8], files: u64, total: u64) -> Result<u64, Fault> {
    let Ok((end, _)) = End::read_from_prefix(bytes) else {
        return Err(short("end", bytes.len(), size_of::<End>()));
    };
    same_length("end", bytes.len(), size_of::<End>())?;
    if end.reserved.get() != 0 {
        return Err(Fault::new(Code::Reserved).item("end.reserved").found(end.reserved.get()).expected(0));
    }
    if files != total {
        return Err(miscounted("files", usize_of(files), usize_of(total)));
    }
    Ok(end.stamp.get())
}

/// Exactly `N` descriptors.
fn exactly<F, const N: usize>(item: &'static str, descriptors: Vec<F>) -> Result<[F; N], Fault> {
    let found = descriptors.len();
    <[F; N]>::try_from(descriptors).map_err(|_| miscounted(item, found, N))
}

fn miscounted(item: &'static str, found: usize, expected: usize) -> Fault {
    Fault::new(Code::ParcelCount)
        .item(item)
        .found(format_args!("{found} descriptors"))
        .expected(format_args!("{expected}"))
}

fn unexpected(found: &str, expected: &str) -> Fault {
    Fault::new(Code::ParcelMessage).item("kind").found(found).expected(expected)
}

fn name_of(kind: u32) -> &'static str {
    match kind {
        TICKET => "ticket",
        REASON => "reason",
        FILES => "files",
        END => "end",
        _ => "an unknown kind",
    }
}

fn short(item: &'static str, found: usize, expected: usize) -> Fault {
    Fault::new(Code::Truncated)
        .item(item)
        .found(format_args!("{found} bytes"))
        .expected(format_args!("{expected} bytes"))
}

fn same_length(item: &'static str, found: usize, expected: usize) -> Result<(), Fault> {
    match found.cmp(&expected) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(short(item, found, expected)),
        std::cmp::Ordering::Greater => Err(Fault::new(Code::ParcelMessage)
            .item(item)
            .found(format_args!("{found} bytes"))
            .expected(format_args!("{expected} bytes"))),
    }
}

#[cfg(test)]
#[path = "parcel_tests.rs"]
mod tests;
