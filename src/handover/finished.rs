//! A handover that is ready to leave, or could not be made so.

use alloc::vec::Vec;

use super::outgoing::Outgoing;
use super::scope::Home;
use super::{Forecast, GivenNode};
use crate::abi::kho;
use crate::compat::Terms;
use crate::fdt::Fdt;
use crate::linux::Boot;
use crate::mem::{Frame, PhysRange};
use crate::num::u64_of;
use crate::radix;
use crate::report::Fault;

pub(super) struct Root {
    pub(super) page: Frame,
    pub(super) stored: radix::Stored,
    pub(super) range: PhysRange,
    /// What it has no room for.
    pub(super) warnings: Vec<Fault>,
}

/// A handover that could not be finished, as it was before.
#[derive(thiserror::Error)]
#[error("{fault}")]
pub struct Unfinished<M: Home> {
    /// Why.
    pub fault: Fault,
    /// The handover, unchanged.
    pub outgoing: Outgoing<M>,
}

impl<M: Home> core::fmt::Debug for Unfinished<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Unfinished").field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// A handover that is ready to leave: tree and root FDT are written.
pub struct Finished<M: Home> {
    pub(super) outgoing: Outgoing<M>,
    pub(super) root: Root,
    pub(super) own: Option<&'static str>,
}

impl<M: Home> core::fmt::Debug for Finished<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Finished").field("root", &self.root.range).finish_non_exhaustive()
    }
}

impl<M: Home> Finished<M> {
    /// Where the root FDT is.
    #[must_use]
    pub const fn root(&self) -> PhysRange {
        self.root.range
    }

    /// What the next kernel is told by its boot protocol: of a handover [for Linux](Outgoing::for_linux).
    #[must_use]
    pub fn boot(&self) -> Option<Boot> {
        self.outgoing.linux.as_ref().map(|linux| Boot { fdt: self.root.range, scratch: linux.range })
    }

    /// What the root FDT does not say for lack of room, each of [`Code::RootFull`](crate::report::Code::RootFull): only
    /// a handover [for Linux](Outgoing::for_linux), whose root is one page, has any.
    pub fn warnings(&self) -> &[Fault] {
        &self.root.warnings
    }

    /// Whether the program says what it writes.
    #[cfg(feature = "std")]
    pub(crate) const fn is_declared(&self) -> bool {
        self.outgoing.declared.is_some()
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.outgoing.memory
    }

    /// What a successor that reads these terms would say of versions.
    ///
    /// # Errors
    /// When the root FDT cannot be read back.
    pub fn forecast(&self, reads: &Terms) -> Result<Forecast, Fault> {
        let bytes = self.root_fdt()?;
        let root = Fdt::parse(&bytes)?;
        // A root that is full has no lists, and a successor finds none then.
        let nodes = root.root().children().zip(&self.outgoing.nodes).map(|(written, node)| GivenNode {
            name: &node.name,
            list: written.property(kho::COMPATIBLE).map(|_| node.made_of.list()),
            optional: node.optional,
            states: (node.made_of.list().owner().name() == crate::abi::state::COMPAT.name())
                .then(|| crate::state::written_in(&self.outgoing.memory, node.blob.range()))
                .flatten(),
        });
        Ok(Forecast::new(reads, root.root().required(kho::COMPATIBLE)?.value(), nodes))
    }

    /// The bytes of the root FDT.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn root_fdt(&self) -> Result<Vec<u8>, Fault> {
        let mut bytes = alloc::vec![0; crate::num::usize_of(self.root.range.size())];
        self.outgoing.memory.read(self.root.range.start(), &mut bytes)?;
        Ok(bytes)
    }

    /// Bytes of metadata that were written: tree, root FDT and everything that components allocated through their
    /// scopes, in whole pages.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        let kept = self.outgoing.nodes.iter().map(|node| {
            let all =
                node.kept.frames.values().fold(0_u64, |sum, frame| sum.saturating_add(frame.folio().order().pages()));
            all.saturating_sub(node.kept.bulk)
        });
        let root = [u64_of(self.root.stored.nodes.len()), self.root.page.folio().order().pages()];
        let pages: u64 = kept.chain(root).fold(0, u64::saturating_add);
        pages.saturating_mul(self.outgoing.memory.geometry().page_size())
    }

    /// Gives up leaving: the handover as it was before it was finished.
    ///
    /// # Errors
    /// When the memory cannot forget where the root was; it is still usable.
    pub fn cancel(self) -> Result<Outgoing<M>, Unfinished<M>> {
        let Finished { mut outgoing, root, own } = self;
        outgoing.tree.remove(root.page.folio());
        outgoing.memory.free(root.page);
        root.stored.free(&mut outgoing.memory);
        if let Some(name) = own {
            outgoing.unpreserve(name);
        }
        match outgoing.memory.announce(None) {
            Ok(()) => Ok(outgoing),
            Err(fault) => Err(Unfinished { fault, outgoing }),
        }
    }

    /// Leaves: the memory as it stands, for any transport, and where the root FDT is. Frames of the predecessor are
    /// still good for it.
    #[must_use]
    pub fn into_parts(self) -> (M, PhysRange) {
        (self.outgoing.memory, self.root.range)
    }
}
