//! Where the machine came from: a packed structure.

use zerocopy::little_endian::U32;

use super::wire::wire;

/// Name of the node in the root FDT.
pub const NODE: &str = "kexec-metadata";

/// [`KexecMetadata::version`] of this layout; there is no compatibility string.
pub const VERSION: u32 = 1;

wire! {
    /// The blob of the subtree.
    pub struct KexecMetadata: 73 align 1 of None => {
        /// [`VERSION`].
        0 version: U32,
        /// `uname -r` of the kernel that wrote it, and zeros.
        4 previous_release: [u8; 65],
        /// How many kexecs this machine has had.
        69 kexec_count: U32,
    }
}
