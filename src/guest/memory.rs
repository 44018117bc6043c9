//! The RAM of a guest as memory that a handover is read from.

use alloc::string::ToString as _;
use alloc::vec::Vec;

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryRegion as _};

use crate::mem::{Geometry, MemError, Memory, PhysAddr, PhysRange};
use crate::num::u64_of;

/// The RAM of a guest by its physical addresses, to read a handover that a kernel in there left: for
/// [`Incoming`](crate::handover::Incoming), or for the decoder as [`Image::of_memory`](crate::mem::Image::of_memory).
///
/// A guest that runs may change it meanwhile. What is read is copied once and then checked, as of any other source.
///
/// ```
/// use kho::guest::Guest;
/// use kho::mem::{Geometry, Memory as _, PhysAddr};
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
///
/// let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(1 << 32), 0x1000)])?;
/// ram.write_slice(b"hello", GuestAddress(0x1000))?;
///
/// let guest = Guest::new(ram, Geometry::K4);
/// let mut bytes = [0; 5];
/// guest.read(PhysAddr::new(0x1000), &mut bytes)?;
/// assert_eq!((&bytes, guest.extents().len()), (b"hello", 2));
/// let outside = guest.read(PhysAddr::new(0x3ffe), &mut bytes).unwrap_err();
/// assert_eq!(outside.to_string(), "0x3ffe + 0x5 bytes is outside the memory that was handed over");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Guest<M> {
    memory: M,
    geometry: Geometry,
    /// Sorted and disjoint, neighbours joined.
    extents: Vec<PhysRange>,
}

impl<M: GuestMemoryBackend> Guest<M> {
    /// The memory of a guest with pages of that size: what its kernel has, whatever that of the host is. A
    /// `GuestMemoryMmap` is cheap to clone.
    #[must_use]
    pub fn new(memory: M, geometry: Geometry) -> Self {
        let mut ranges: Vec<PhysRange> = memory
            .iter()
            // A region up to the very end is one byte shorter here: no range ends at 2^64.
            .filter_map(|region| {
                let start = region.start_addr().0;
                PhysRange::new(PhysAddr::new(start), region.len().min(u64::MAX.saturating_sub(start)))
            })
            .filter(|range| range.size() > 0)
            .collect();
        ranges.sort_unstable_by_key(|range| range.start());
        let mut extents: Vec<PhysRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            let last = extents.last_mut().filter(|last| range.start() <= last.end());
            let joined = last.as_ref().and_then(|last| {
                let end = last.end().max(range.end());
                PhysRange::new(last.start(), end.get().saturating_sub(last.start().get()))
            });
            match last.zip(joined) {
                Some((last, joined)) => *last = joined,
                None => extents.push(range),
            }
        }
        Guest { memory, geometry, extents }
    }

    /// The guest's memory.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// Gives the guest's memory back.
    #[must_use]
    pub fn into_memory(self) -> M {
        self.memory
    }
}

impl<M: GuestMemoryBackend> Memory for Guest<M> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extents(&self) -> &[PhysRange] {
        &self.extents
    }

    /// It is: a guest has no memory besides.
    fn is_whole(&self) -> bool {
        true
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        let len = u64_of(to.len());
        let before = self.extents.partition_point(|extent| extent.start() <= at);
        let extent = before.checked_sub(1).and_then(|index| self.extents.get(index));
        if !extent.is_some_and(|extent| extent.contains(at, len)) {
            return Err(MemError::Outside { at, len });
        }
        let read = self.memory.read_slice(to, GuestAddress(at.get()));
        read.map_err(|error| MemError::Io { at, len, reason: error.to_string() })
    }
}
