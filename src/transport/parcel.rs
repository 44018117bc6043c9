//! The messages of a parcel: `kho-parcel-v1`, pure, without sockets.
//!
//! Each message is one datagram of a SOCK_SEQPACKET socket, with descriptors attached. All integers are little-endian.
//! In this order:
//!
//! | message | bytes | descriptors |
//! |---|---|---|
//! | head | [`Head`] | the arena; then what its flags say: the ticket's program; the baton and the process of the other side; the line to it |
//! | ticket, if there is one | [`TicketRecord`], build id, arguments (each with its NUL) | none |
//! | reason, if it came back | [`Prefix`], UTF-8 | none |
//! | report, if there is one | [`Prefix`], UTF-8 | none |
//! | files, 1 to 253 each | [`Prefix`], one `u64` token each | one for each token |
//! | end | [`End`] | none |
//!
//! 253 is the kernel's limit for one message. Of [`Head`] the first 24 bytes (magic, version, nonce) stay where they
//! are in all versions, so that every reader can tell whose parcel it is and which version it would need.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use zerocopy::FromBytes as _;
use zerocopy::little_endian::{U32, U64};

pub use super::parcel_wire::COMPAT;
pub(super) use super::parcel_wire::*;
use super::ticket::Identity;
use crate::compat::Compat;
use crate::num::{index_of, u64_of, usize_of};
use crate::report::{Code, Fault};

/// A ticket as it was received; `F` is the descriptor.
#[derive(Debug)]
pub(super) struct RawTicket<F> {
    pub(super) file: F,
    pub(super) copy: bool,
    pub(super) identity: Identity,
    pub(super) argv: Vec<OsString>,
}

/// The other side, which goes on if nobody takes the baton; `F` is the descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Other<F> {
    pub(super) baton: F,
    /// A pidfd.
    pub(super) process: F,
    /// How to speak to it, where that is not how the parcel came.
    pub(super) line: Option<F>,
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
    pub(super) other: Option<Other<F>>,
    pub(super) report: Option<String>,
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
    /// No parcel may have more files.
    most: u64,
}

#[derive(Debug)]
enum State<F> {
    Head,
    /// `next` says which optional message is still to come.
    Body {
        head: Head,
        next: Next,
        program: Option<F>,
        parcel: Box<RawParcel<F>>,
    },
    /// A message was refused: nothing that comes later counts.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Ticket,
    Reason,
    Report,
    Files,
}

/// What a message led to.
#[derive(Debug)]
pub(super) enum Progress<F> {
    More,
    Done(RawParcel<F>),
}

impl<F> Assembler<F> {
    pub(super) fn new(most: usize) -> Self {
        Assembler { state: State::Head, most: u64_of(most) }
    }

    /// Takes the next message and the descriptors that came with it.
    ///
    /// # Errors
    /// Any message that is not the next one of a parcel; the parcel is lost then, its descriptors are closed.
    pub(super) fn push(&mut self, bytes: &[u8], descriptors: Vec<F>) -> Result<Progress<F>, Fault> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Head => self.head(bytes, descriptors),
            State::Broken => Err(unexpected("after a refused message", "nothing")),
            State::Body { head, mut next, mut program, mut parcel } => {
                match (next, kind(bytes)?) {
                    (Next::Ticket, TICKET) => {
                        let [] = exactly::<F, 0>("ticket", descriptors)?;
                        if let Some(file) = program.take() {
                            parcel.ticket = Some(read_ticket(bytes, file)?);
                        }
                        next = after_first(&head);
                    }
                    (Next::Reason, REASON) => {
                        let [] = exactly::<F, 0>("reason", descriptors)?;
                        parcel.reason = Some(read_text(bytes, "reason", REASON_LIMIT)?);
                        next = after_first(&head);
                    }
                    (Next::Report, REPORT) => {
                        let [] = exactly::<F, 0>("report", descriptors)?;
                        parcel.report = Some(read_text(bytes, "report", REPORT_LIMIT)?);
                        next = Next::Files;
                    }
                    (Next::Files, FILES) => {
                        read_files(bytes, descriptors, &mut parcel.files, usize_of(head.files.get()))?;
                    }
                    (Next::Files, END) => {
                        let [] = exactly::<F, 0>("end", descriptors)?;
                        unique(&parcel.files)?;
                        parcel.stamp_ns = read_end(bytes, u64_of(parcel.files.len()), head.files.get())?;
                        return Ok(Progress::Done(*parcel));
                    }
                    (next, found) => return Err(unexpected(name_of(found), &format!("{next:?}").to_lowercase())),
                }
                self.state = State::Body { head, next, program, parcel };
                Ok(Progress::More)
            }
        }
    }

    fn head(&mut self, bytes: &[u8], descriptors: Vec<F>) -> Result<Progress<F>, Fault> {
        let head = check_head(bytes)?;
        let flags = head.flags.get();
        let has = |flag: u32| flags & flag != 0;
        let firsts = [HAS_TICKET, HAS_REASON, HAS_BATON].into_iter().filter(|flag| has(*flag)).count();
        let known = HAS_TICKET | HAS_REASON | HAS_BATON | HAS_LINE | HAS_REPORT;
        if flags & !known != 0 || firsts > 1 || has(HAS_LINE) && !has(HAS_BATON) {
            return Err(Fault::new(Code::ParcelMessage)
                .item("head.flags")
                .found(format_args!("{flags:#x}"))
                .expected("at most one of 1 (ticket), 2 (reason), 4 (baton); 8 (line) with a baton; 16 (report)"));
        }
        let expected = match flags & (HAS_TICKET | HAS_BATON | HAS_LINE) {
            0 => 1,
            HAS_TICKET => 2,
            HAS_BATON => 3,
            _ => 4,
        };
        if head.files.get() > self.most {
            let fault = Fault::new(Code::ParcelLimit).item("head.files").found(head.files.get());
            return Err(fault.expected(format_args!("at most {}", self.most)));
        }
        let found = descriptors.len();
        let miscount = || miscounted("head", found, expected);
        if found != expected {
            return Err(miscount());
        }
        let mut came = descriptors.into_iter();
        let arena = came.next().ok_or_else(miscount)?;
        let program = if has(HAS_TICKET) { came.next() } else { None };
        let other = match (came.next(), came.next()) {
            (Some(baton), Some(process)) => Some(Other { baton, process, line: came.next() }),
            _ => None,
        };
        let next = match flags {
            _ if has(HAS_TICKET) => Next::Ticket,
            _ if has(HAS_REASON) => Next::Reason,
            _ => after_first(&head),
        };
        let parcel = Box::new(RawParcel {
            nonce: head.nonce.get(),
            stamp_ns: 0,
            arena,
            files: Vec::new(),
            ticket: None,
            reason: None,
            other,
            report: None,
        });
        self.state = State::Body { head, next, program, parcel };
        Ok(Progress::More)
    }
}

/// Files and their tokens from one message, to those that came before it; `limit` of them in all.
pub(super) fn read_files<F>(
    bytes: &[u8],
    descriptors: Vec<F>,
    files: &mut Vec<(u64, F)>,
    limit: usize,
) -> Result<(), Fault> {
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
    let after = files.len().saturating_add(count);
    if after > limit {
        return Err(miscounted("files", after, limit));
    }
    files.extend(tokens.iter().map(|token| token.get()).zip(descriptors));
    Ok(())
}

/// That no token stands twice.
pub(super) fn unique<F>(files: &[(u64, F)]) -> Result<(), Fault> {
    let mut tokens = HashSet::with_capacity(files.len());
    match files.iter().find(|(token, _)| !tokens.insert(*token)) {
        Some((token, _)) => Err(Fault::new(Code::TokenDuplicate).item("files.token").found(*token)),
        None => Ok(()),
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

/// What comes behind the ticket or the reason.
fn after_first(head: &Head) -> Next {
    if head.flags.get() & HAS_REPORT != 0 { Next::Report } else { Next::Files }
}

fn read_text(bytes: &[u8], item: &'static str, limit: usize) -> Result<String, Fault> {
    let (prefix, text) = prefix(bytes, item)?;
    let count = index_of(prefix.count.get());
    if count > limit {
        let fault = Fault::new(Code::TooLarge).item(item).found(count);
        return Err(fault.expected(format_args!("at most {limit} bytes")));
    }
    same_length(item, text.len(), count)?;
    let text = std::str::from_utf8(text)
        .map_err(|error| Fault::new(Code::Text).item(item).offset(u64_of(error.valid_up_to())).found("no UTF-8"))?;
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
        REPORT => "report",
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
