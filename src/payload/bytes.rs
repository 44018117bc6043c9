//! A few bytes.

use alloc::vec::Vec;

use crate::compat::CompatList;
use crate::handover::{Check, Node};
use crate::mem::Memory;
use crate::report::Fault;

/// Bytes to be handed over in a block of their own.
///
/// ```
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::payload::{Bytes, BytesNode};
/// # use kho::compat::{Compat, CompatList};
/// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
/// # const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
/// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
///
/// let mut outgoing = Outgoing::new(ram);
/// outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"42 requests" })?;
/// let (memory, root) = outgoing.finish()?.into_parts();
///
/// let mut registry = Registry::new();
/// let state = registry.read("state", BytesNode { made_of: STATE, limit: 4096 });
/// let mut restored = Incoming::new(memory, root.start()).plan(&registry).accept()?.restore()?;
/// assert_eq!(restored.take(&state).unwrap(), b"42 requests");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
