//! The ioctls of `/dev/liveupdate`: numbers and arguments. All are `_IO(0xBA, nr)` with a pointer to a structure whose
//! first field is its size.

use zerocopy::little_endian::{I32, U32, U64};

use super::wire::wire;

/// The ioctl type.
pub const TYPE: u8 = 0xba;
/// On the device, [`SessionByName`]: create a session.
pub const CREATE_SESSION: u8 = 0x00;
/// On the device, [`SessionByName`]: retrieve a session after kexec.
pub const RETRIEVE_SESSION: u8 = 0x01;
/// On a new session, [`SessionFile`]: preserve a descriptor under a token.
pub const PRESERVE_FD: u8 = 0x40;
/// On a retrieved session, [`SessionFile`]: the descriptor of a token.
pub const RETRIEVE_FD: u8 = 0x41;
/// On a retrieved session, [`SessionFinish`]: done.
pub const FINISH: u8 = 0x42;
/// On a session, [`SessionByName`] with `fd` reserved: its name.
pub const GET_NAME: u8 = 0x43;

wire! {
    /// A session and its name.
    pub struct SessionByName: 72 align 4 of None => {
        /// Bytes of this structure.
        0 size: U32,
        /// The session's descriptor, out; zero for [`GET_NAME`].
        4 fd: I32,
        /// Name and zeros.
        8 name: [u8; 64],
    }

    /// A file of a session and its token.
    pub struct SessionFile: 16 align 8 of None => {
        /// Bytes of this structure.
        0 size: U32,
        /// The descriptor, in or out.
        4 fd: I32,
        /// The token.
        8 token: U64,
    }

    /// The end of a session.
    pub struct SessionFinish: 8 align 4 of None => {
        /// Bytes of this structure.
        0 size: U32,
        /// Zero.
        4 reserved: U32,
    }
}
