//! The bytes of a parcel's messages: constants and structures, without behaviour.

use std::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::compat::Compat;

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
/// A report has at most so many bytes.
pub(super) const REPORT_LIMIT: usize = 64 * 1024;
/// A build id has at most so many bytes; 20 is what linkers write.
pub(super) const BUILD_ID_LIMIT: usize = 64;
/// No message is longer.
pub(super) const MESSAGE_LIMIT: usize = size_of::<TicketRecord>() + BUILD_ID_LIMIT + ARGV_LIMIT;
const _: () = assert!(MESSAGE_LIMIT >= size_of::<Prefix>() + REPORT_LIMIT);

/// [`Head::flags`]: a ticket follows.
pub(super) const HAS_TICKET: u32 = 1;
/// [`Head::flags`]: the parcel came back, a reason follows.
pub(super) const HAS_REASON: u32 = 2;

/// [`Head::flags`]: two descriptors, the baton and the process (pidfd) of who holds it until it is taken.
pub(super) const HAS_BATON: u32 = 4;
/// [`Head::flags`], with a baton: a further descriptor, the line to that process.
pub(super) const HAS_LINE: u32 = 8;
/// [`Head::flags`]: a report follows.
pub(super) const HAS_REPORT: u32 = 16;

/// [`Prefix::kind`] of the ticket.
pub(super) const TICKET: u32 = 1;
/// [`Prefix::kind`] of the reason.
pub(super) const REASON: u32 = 2;
/// [`Prefix::kind`] of files.
pub(super) const FILES: u32 = 3;
/// [`Prefix::kind`] of the end.
pub(super) const END: u32 = 4;
/// [`Prefix::kind`] of the report.
pub(super) const REPORT: u32 = 5;

/// The first message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Head {
    /// [`MAGIC`].
    pub(super) magic: [u8; 8],
    /// The version of [`COMPAT`].
    pub(super) version: U32,
    /// [`HAS_TICKET`], [`HAS_REASON`] or [`HAS_BATON`], one at most; the others as they say.
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
    /// [`REASON`], [`REPORT`] or [`FILES`].
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
