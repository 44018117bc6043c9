//! Where the machine came from                                   kexec-metadata
//!
//! Linux leaves the release of the kernel that wrote the handover, and how often the machine has been handed over. The
//! structure has a number and no compatibility string: see [`abi::kexec_metadata`](crate::abi::kexec_metadata).

#[cfg(all(test, feature = "write"))]
mod tests;

use alloc::string::String;

#[cfg(feature = "write")]
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::U32;

use crate::abi::kexec_metadata::{KexecMetadata, NODE, VERSION};
use crate::compat::{Compat, CompatList};
#[cfg(feature = "write")]
use crate::handover::{Blob, Home, Preserve, Scope};
use crate::handover::{Check, Node};
use crate::mem::Memory;
use crate::report::{Code, Fault};
use crate::text;

/// What the node is made of, when it says so. Linux writes only the number.
pub const MADE_OF: CompatList<'static> = CompatList::new(Compat::new(NODE, VERSION), &[]);

/// What Linux says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Metadata {
    /// `uname -r` of the kernel that wrote the handover.
    pub previous_release: String,
    /// How many kexecs this machine has had.
    pub kexec_count: u32,
}

/// Writes it as the node `kexec-metadata`; the release has at most 64 bytes and no zeros.
#[cfg(feature = "write")]
impl<M: Home> Preserve<M> for Metadata {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        let mut previous_release = [0; 65];
        let text = self.previous_release.as_bytes();
        if text.len() >= previous_release.len() || text.contains(&0) {
            let fault =
                Fault::new(Code::Text).item("previous_release").found(format_args!("{:?}", self.previous_release));
            return Err(fault.expected("at most 64 bytes without zeros"));
        }
        previous_release.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        let wire = KexecMetadata { version: VERSION.into(), previous_release, kexec_count: self.kexec_count.into() };
        scope.blob(wire.as_bytes())
    }
}

/// Reads the node `kexec-metadata`: see [`Registry::read`](crate::handover::Registry::read).
#[derive(Clone, Copy, Debug, Default)]
pub struct MetadataNode;

impl<M: Memory> Check<M> for MetadataNode {
    type Checked = Metadata;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn names_itself(&self) -> bool {
        true
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Metadata, Fault> {
        let at = node.blob_range().start().get();
        // The number first: another version may well be shorter, and that is not corrupt.
        if let Some(version) = node.blob_head()? {
            check_version(U32::from_bytes(version)).map_err(|fault| fault.address(at))?;
        }
        Metadata::of(&node.blob_as()?).map_err(|fault| fault.address(at))
    }
}

fn check_version(version: U32) -> Result<(), Fault> {
    let code = match version.get() {
        VERSION => return Ok(()),
        0..VERSION => Code::VersionOlder,
        _ => Code::VersionNewer,
    };
    Err(Fault::new(code).item("version").found(version).expected(VERSION))
}

impl Metadata {
    fn of(wire: &KexecMetadata) -> Result<Self, Fault> {
        let previous_release =
            text::fixed_text(&wire.previous_release).map_err(|fault| fault.offset(4).item("previous_release"))?;
        Ok(Metadata { previous_release, kexec_count: wire.kexec_count.get() })
    }

    /// Out of a copy of the blob.
    #[cfg(all(feature = "std", feature = "serde"))]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if let Ok((version, _)) = zerocopy::FromBytes::read_from_prefix(bytes) {
            check_version(version)?;
        }
        Metadata::of(&crate::mem::wire_in(bytes)?)
    }
}
