//! A parcel through a unix socket of type SOCK_SEQPACKET.

use std::collections::BTreeSet;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

use super::parcel::{
    Assembler, BATCH, COMPAT, END, End, FILES, HAS_BATON, HAS_LINE, HAS_REASON, HAS_REPORT, HAS_TICKET, Head, MAGIC,
    MESSAGE_LIMIT, Other, Prefix, Progress, REASON, REASON_LIMIT, REPORT, REPORT_LIMIT, TICKET, TicketRecord,
};
use super::ticket::{Identity, Ticket};
use super::{Cargo, Parcel};
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// How long a message may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// What cannot be done at once fails: nobody is at the other end.
    Never,
    Until(Instant),
}

impl Wait {
    /// Waits until the socket may be ready; false when the time is over.
    pub(super) fn ready(self, socket: BorrowedFd<'_>, flags: PollFlags) -> Result<bool, Errno> {
        let Wait::Until(end) = self else { return Ok(false) };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(socket, flags)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(errno),
        }
    }
}

/// Why a message could not be sent.
#[derive(Debug)]
pub(super) struct SendError {
    /// What was sent: `head`, `ticket`, `reason`, `files[253..]`, `end`.
    pub(super) what: String,
    pub(super) errno: Errno,
}

/// Makes the send buffer large enough for the whole cargo, if the system lets us; a message that does not fit fails.
pub(super) fn make_room(socket: BorrowedFd<'_>, files: usize) {
    // What one message costs in the kernel is its bytes rounded up to a slab, and some 600 bytes of bookkeeping.
    let batches = files.div_ceil(BATCH).saturating_mul(8 * 1024);
    let wanted = batches.saturating_add(MESSAGE_LIMIT.saturating_mul(2)).saturating_add(64 * 1024);
    if sockopt::socket_send_buffer_size(socket).is_ok_and(|size| size >= wanted) {
        return;
    }
    // Without privilege the kernel caps this at net.core.wmem_max, silently.
    if sockopt::set_socket_send_buffer_size_force(socket, wanted).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, wanted);
    }
}

/// Sends everything but the end.
pub(super) fn send(socket: BorrowedFd<'_>, cargo: &Cargo<'_>, wait: Wait) -> Result<(), SendError> {
    let put = |what: &str, bytes: &[&[u8]], descriptors: &[BorrowedFd<'_>]| {
        send_message(socket, bytes, descriptors, wait).map_err(|errno| SendError { what: what.to_owned(), errno })
    };
    let (first, program) = match (&cargo.other, cargo.ticket, cargo.reason) {
        (Some(other), ..) => (HAS_BATON | if other.line.is_some() { HAS_LINE } else { 0 }, None),
        (None, _, Some(_)) => (HAS_REASON, None),
        (None, Some(ticket), None) => (HAS_TICKET, Some(ticket)),
        (None, None, None) => (0, None),
    };
    let flag = first | if cargo.report.is_some() { HAS_REPORT } else { 0 };
    let head = Head {
        magic: MAGIC,
        version: U32::new(COMPAT.version()),
        flags: U32::new(flag),
        nonce: U64::new(cargo.nonce),
        files: U64::new(u64_of(cargo.files.len())),
    };
    let mut carried = vec![cargo.arena];
    carried.extend(program.map(|ticket| ticket.file.as_fd()));
    if let Some(Other { baton, process, line }) = cargo.other {
        carried.extend([baton, process]);
        carried.extend(line);
    }
    put("head", &[head.as_bytes()], &carried)?;

    if let Some(Ticket { identity, argv, copy, .. }) = program {
        let Identity { device, inode, size, mtime, mtime_nsec, build_id } = identity;
        let record = TicketRecord {
            kind: U32::new(TICKET),
            copy: U32::new(u32::from(*copy)),
            device: U64::new(*device),
            inode: U64::new(*inode),
            size: U64::new(*size),
            mtime: U64::new(mtime.cast_unsigned()),
            mtime_nsec: U64::new(*mtime_nsec),
            build_id: count(build_id.len()),
            argc: count(argv.len()),
        };
        let mut text = Vec::new();
        for arg in argv {
            text.extend_from_slice(arg.as_bytes());
            text.push(0);
        }
        put("ticket", &[record.as_bytes(), build_id, &text], &[])?;
    }
    let text = |what: &str, kind: u32, text: &str, limit: usize| {
        let text = text.get(..text.floor_char_boundary(limit)).unwrap_or_default();
        let prefix = Prefix { kind: U32::new(kind), count: count(text.len()) };
        put(what, &[prefix.as_bytes(), text.as_bytes()], &[])
    };
    if first == HAS_REASON {
        text("reason", REASON, cargo.reason.unwrap_or_default(), REASON_LIMIT)?;
    }
    if let Some(report) = cargo.report {
        text("report", REPORT, report, REPORT_LIMIT)?;
    }
    send_files(socket, &cargo.files, wait)
}

/// Sends files, in as many messages as it takes.
pub(super) fn send_files(socket: BorrowedFd<'_>, files: &[(u64, BorrowedFd<'_>)], wait: Wait) -> Result<(), SendError> {
    for (nth, batch) in files.chunks(BATCH).enumerate() {
        let (tokens, files): (Vec<U64>, Vec<BorrowedFd<'_>>) =
            batch.iter().map(|(token, file)| (U64::new(*token), *file)).unzip();
        let prefix = Prefix { kind: U32::new(FILES), count: count(batch.len()) };
        let what = || format!("files[{}..]", nth.saturating_mul(BATCH));
        send_message(socket, &[prefix.as_bytes(), tokens.as_bytes()], &files, wait)
            .map_err(|errno| SendError { what: what(), errno })?;
    }
    Ok(())
}

/// Sends the end, with the time.
pub(super) fn finish(socket: BorrowedFd<'_>, stamp_ns: u64, wait: Wait) -> Result<(), SendError> {
    let end = End { kind: U32::new(END), reserved: U32::new(0), stamp: U64::new(stamp_ns) };
    send_message(socket, &[end.as_bytes()], &[], wait).map_err(|errno| SendError { what: "end".to_owned(), errno })
}

/// All counts here are bounded by [`MESSAGE_LIMIT`].
fn count(n: usize) -> U32 {
    U32::new(u32::try_from(n).unwrap_or(u32::MAX))
}

/// Sends one message, whole or not at all.
pub(super) fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[&[u8]],
    descriptors: &[BorrowedFd<'_>],
    wait: Wait,
) -> Result<(), Errno> {
    let bytes: Vec<IoSlice<'_>> = bytes.iter().map(|part| IoSlice::new(part)).collect();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::INVAL);
        }
        match sendmsg(socket, &bytes, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno @ Errno::AGAIN) => {
                if !wait.ready(socket, PollFlags::OUT)? {
                    return Err(errno);
                }
            }
            // Of descriptors that are on their way the system counts how many, and says nothing when there are fewer:
            // the other side receives them meanwhile.
            Err(errno @ (Errno::TOOMANYREFS | Errno::NOBUFS)) => match wait {
                Wait::Until(end) if Instant::now() < end => std::thread::sleep(Duration::from_micros(200)),
                _ => return Err(errno),
            },
            Err(errno) => return Err(errno),
        }
    }
}

/// Receives a parcel of at most so many files, until its end.
///
/// # Errors
/// What [`Assembler::push`] says; [`Code::ParcelLimit`] when the kernel could not install a descriptor;
/// [`Code::Truncated`] when the stream ends before the parcel does.
pub(super) fn receive(socket: BorrowedFd<'_>, most: usize, wait: Wait) -> Result<Parcel, Fault> {
    let mut assembler = Assembler::new(most);
    let mut buffer = vec![0; MESSAGE_LIMIT];
    loop {
        let (bytes, descriptors) = receive_message(socket, &mut buffer, wait)?;
        if bytes.is_empty() {
            return Err(Fault::new(Code::Truncated).item("parcel").found("the end of the stream").expected("end"));
        }
        // Instead of a parcel, or amid one.
        if let Some(refusal) = super::line::refusal(bytes) {
            return Err(refusal);
        }
        if let Progress::Done(raw) = assembler.push(bytes, descriptors)? {
            let ticket =
                raw.ticket.map(|raw| Ticket { file: raw.file, identity: raw.identity, argv: raw.argv, copy: raw.copy });
            return Ok(Parcel {
                nonce: raw.nonce,
                stamp_ns: raw.stamp_ns,
                arena: raw.arena,
                files: raw.files,
                ticket,
                reason: raw.reason,
                report: raw.report,
                other: raw.other,
                ahead: BTreeSet::new(),
            });
        }
    }
}

/// That nothing follows the end: the sender closed its end, or at least is silent.
pub(super) fn nothing_left(socket: BorrowedFd<'_>) -> Result<(), Fault> {
    match recv_peek(socket, &mut [0; 8]) {
        Ok(0) | Err(Errno::AGAIN) => Ok(()),
        Ok(_) => Err(Fault::new(Code::ParcelMessage).item("parcel").found("a message").expected("nothing behind end")),
        Err(errno) => Err(Fault::new(Code::Io).item("parcel").found(errno)),
    }
}

/// Copies the first bytes of the next message and leaves it where it is, with its descriptors.
pub(super) fn recv_peek(socket: BorrowedFd<'_>, to: &mut [u8]) -> Result<usize, Errno> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    // Without a control buffer the kernel installs no descriptor.
    rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *to, flags)).map(|(copied, _)| copied)
}

/// Receives one message: its bytes, none at the end of the stream, and its descriptors.
pub(super) fn receive_message<'b>(
    socket: BorrowedFd<'_>,
    buffer: &'b mut [u8],
    wait: Wait,
) -> Result<(&'b [u8], Vec<OwnedFd>), Fault> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let io = |errno: Errno| Fault::new(Code::Io).item("parcel").found(errno);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let (got, mut control) = loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(socket, &mut [IoSliceMut::new(&mut *buffer)], &mut control, flags) {
            Ok(got) => break (got, control),
            // That the other end was closed with something unread is told once, and before what it said last.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => match wait {
                Wait::Never => {
                    return Err(Fault::new(Code::Truncated).item("parcel").found("no further message").expected("end"));
                }
                Wait::Until(_) => {
                    if !wait.ready(socket, PollFlags::IN).map_err(io)? {
                        return Err(Fault::new(Code::Late).item("message").found("none in its time"));
                    }
                }
            },
            Err(errno) => return Err(io(errno)),
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(Fault::new(Code::TooLarge)
            .item("message")
            .found("a longer message")
            .expected(format_args!("at most {} bytes", buffer.len())));
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        return Err(Fault::new(Code::ParcelLimit)
            .item("message")
            .found(format_args!("only {} descriptors of this message", descriptors.len()))
            .expected(format_args!("all of them: RLIMIT_NOFILE is {}", limit.unwrap_or(u64::MAX))));
    }
    Ok((buffer.get(..got.bytes).unwrap_or_default(), descriptors))
}
