//! What came in, and what was made of it.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;

use super::ROOT_LIMIT;
use super::plan::Plan;
use super::registry::{Handle, Registry};
use crate::fdt;
use crate::mem::{Claim, Memory, PhysAddr};
use crate::num::usize_of;
use crate::report::{Code, Fault};

/// A handover that has come in and of which nothing is known yet.
pub struct Incoming<M> {
    pub(super) memory: M,
    pub(super) root: PhysAddr,
}

impl<M: Memory + 'static> Incoming<M> {
    /// The handover in this memory whose root FDT is at that address.
    pub const fn new(memory: M, root: PhysAddr) -> Self {
        Incoming { memory, root }
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// The same handover in the same memory, otherwise wrapped.
    #[cfg(feature = "std")]
    pub(crate) fn map(self, wrap: impl FnOnce(M) -> M) -> Self {
        Incoming { memory: wrap(self.memory), root: self.root }
    }

    /// Gives the memory back.
    #[must_use]
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// Where the root FDT is.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// Reads and checks everything, changes nothing, and finds every problem. Time and memory are linear in the
    /// metadata that is there.
    #[must_use]
    pub fn plan(self, registry: &Registry<M>) -> Plan<M> {
        Plan::make(self, registry).0
    }

    /// As [`Incoming::plan`], and who owns what.
    #[cfg(all(feature = "std", feature = "serde"))]
    pub(crate) fn plan_with_owners(self, registry: &Registry<M>) -> (Plan<M>, super::Owners) {
        Plan::make(self, registry)
    }
}

impl<M> core::fmt::Debug for Incoming<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Incoming").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Copies the root FDT out of the memory: what is checked cannot change any more.
pub(crate) fn read_root(memory: &dyn Memory, root: PhysAddr) -> Result<Vec<u8>, Fault> {
    if root.get() == 0 {
        return Err(Fault::new(Code::NoHandover).found("a root FDT at address 0"));
    }
    let mut head = [0; 8];
    memory.read(root, &mut head)?;
    let size = fdt::total_size(&head).map_err(|fault| fault.address(root.get()))?;
    if u64::from(size) > ROOT_LIMIT {
        return Err(Fault::new(Code::TooLarge)
            .address(root.get())
            .item("totalsize")
            .found(size)
            .expected(format_args!("at most {ROOT_LIMIT}")));
    }
    let mut bytes = vec![0; usize_of(u64::from(size))];
    memory.read(root, &mut bytes)?;
    Ok(bytes)
}

/// A handover that was restored: take what each component made of its node, then [finish](Restored::finish). Dropped
/// before that, the memory goes with what was not taken.
#[must_use]
pub struct Restored<M> {
    pub(super) memory: M,
    /// Of which registry the values are.
    pub(super) home: u64,
    pub(super) values: Vec<Option<Box<dyn Any>>>,
}

impl<M: Claim> Restored<M> {
    /// Takes the result of a component, once. None when its node was not there, when it was taken already, or when the
    /// handle is of another registry.
    pub fn take<T: 'static>(&mut self, handle: &Handle<T>) -> Option<T> {
        let value = self.values.get_mut(handle.slot).filter(|_| handle.home == self.home)?;
        match value.take()?.downcast() {
            Ok(taken) => Some(*taken),
            Err(other) => {
                *value = Some(other);
                None
            }
        }
    }

    /// The memory, to look at while results are taken.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// The memory, to give back what results have and nobody wants.
    pub const fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// The point of no return: frees the root FDT, the tree and whatever no component took over. Gives the memory, and
    /// how many preserved pages nobody took over: those of metadata and of contents that were copied.
    ///
    /// # Errors
    /// Beside the memory, when the end of the handover cannot be written down; nothing is freed then.
    pub fn finish(mut self) -> (M, Result<u64, Fault>) {
        let pages = self.memory.release_rest();
        (self.memory, pages)
    }
}

impl<M> core::fmt::Debug for Restored<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Restored").finish_non_exhaustive()
    }
}
