//! Ours: the table of descriptors that travel beside the memory.
//!
//! The blob is a [`Table`] whose records are in a block set. The descriptors themselves travel by the transport, in the
//! order of the records.

use zerocopy::little_endian::{U32, U64};

use super::wire::wire;
use crate::compat::Compat;

/// The layout of this file. It uses `block-v1`.
pub const COMPAT: Compat<'static> = Compat::new("kho-files", 1);

/// Name of the node in the root FDT.
pub const NODE: &str = "files";

/// [`Record::kind`]: a memfd, or another file of tmpfs without a name. No details.
pub const KIND_MEMFD: u32 = 1;
/// A memfd of huge pages. [`Record::detail`]: bytes of a page.
pub const KIND_HUGETLB: u32 = 2;
/// A regular file, with a name or without. No details.
pub const KIND_REGULAR: u32 = 3;
/// A pipe or FIFO; the status flags say which end. [`Record::detail`]: its capacity in bytes.
pub const KIND_PIPE: u32 = 4;
/// A socket. [`Record::detail`]: its domain, and in the upper half its type. [`Record::more`]: its protocol, and in the
/// upper half 1 when it listens.
pub const KIND_SOCKET: u32 = 5;
/// A character device. [`Record::detail`]: its device number, major and minor as `makedev` joins them.
/// [`Record::more`]: of the master of a pseudoterminal (5:2) the number of that terminal plus one, when the kernel says
/// it.
pub const KIND_CHAR_DEVICE: u32 = 6;
/// A block device. [`Record::detail`]: as of a character device.
pub const KIND_BLOCK_DEVICE: u32 = 7;
/// An eventfd. [`Record::detail`]: its id, when [`EVENTFD_ID`] is in [`Record::more`].
pub const KIND_EVENTFD: u32 = 8;
/// An epoll. [`Record::detail`]: how many descriptors it watches.
pub const KIND_EPOLL: u32 = 9;
/// A timerfd. [`Record::detail`]: its clock. [`Record::more`]: its interval in nanoseconds; 0 is none.
pub const KIND_TIMERFD: u32 = 10;
/// A signalfd. [`Record::detail`]: its signals; signal 1 is bit 0.
pub const KIND_SIGNALFD: u32 = 11;
/// A pidfd. [`Record::detail`]: the process, as the pid namespace of the predecessor's `/proc` numbers it; 0 for one of
/// another namespace, 2^64-1 for one that is gone. [`Record::more`]: [`PIDFD_INODE`].
pub const KIND_PIDFD: u32 = 12;

/// [`Record::more`] of an eventfd: the kernel says its id.
pub const EVENTFD_ID: u64 = 1;
/// [`Record::more`] of an eventfd: it counts as a semaphore.
pub const EVENTFD_SEMAPHORE: u64 = 2;
/// [`Record::more`] of a pidfd: its inode is of pidfs, and no other process has it.
pub const PIDFD_INODE: u64 = 1;

wire! {
    /// The blob of the node.
    pub struct Table: 16 align 8 of Some(COMPAT) => {
        /// Physical address of the first block of [`Record`]s; 0 is none.
        0 records: U64,
        /// How many records.
        8 count: U64,
    }

    /// One descriptor.
    pub struct Record: 80 align 8 of Some(COMPAT) => {
        /// The user's name for it, unique in the table.
        0 token: U64,
        /// What it is: [`KIND_MEMFD`] and so on.
        8 kind: U32,
        /// Seals of a memfd, as `F_GET_SEALS` has them; zero of other kinds.
        12 seals: U32,
        /// Device of the inode, major and minor as `makedev` joins them.
        16 device: U64,
        /// Number of the inode.
        24 inode: U64,
        /// Bytes; zero of what has no size.
        32 size: U64,
        /// File position in bytes; zero of what has none.
        40 pos: U64,
        /// Status flags, as `F_GETFL` has them.
        48 status: U32,
        /// Descriptor flags, as `F_GETFD` had them with the predecessor (bit 0: close-on-exec).
        52 descriptor: U32,
        /// Permission bits of the inode.
        56 mode: U32,
        /// Zero.
        60 reserved: U32,
        /// What only this kind has; zero of a kind that has nothing of its own.
        64 detail: U64,
        /// The same, of a kind that has more.
        72 more: U64,
    }
}
