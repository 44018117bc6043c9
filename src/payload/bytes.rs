//! A few bytes.

use alloc::vec::Vec;

use crate::compat::CompatList;
use crate::handover::{Check, Node};
use crate::mem::Memory;
use crate::report::Fault;

/// Bytes to be handed over in a block of their own.
#[cfg(feature = "write")]
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    /// What they mean.
    pub made_of: CompatList<'static>,
    /// The bytes.
    pub bytes: &'a [u8],
}

#[cfg(feature = "write")]
impl<M: crate::handover::Home> crate::handover::Preserve<M> for Bytes<'_> {
    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn preserve(&self, scope: &mut crate::handover::Scope<'_, M>) -> Result<crate::handover::Blob, Fault> {
        scope.blob(self.bytes)
    }
}

/// Reads [`Bytes`] as a vector: see [`Registry::read`](crate::handover::Registry::read).
#[derive(Clone, Copy, Debug)]
pub struct BytesNode {
    /// What the bytes must mean.
    pub made_of: CompatList<'static>,
    /// So many bytes are taken; a longer node is refused.
    pub limit: u64,
}

impl<M: Memory> Check<M> for BytesNode {
    type Checked = Vec<u8>;

    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Vec<u8>, Fault> {
        node.blob(self.limit)
    }
}
