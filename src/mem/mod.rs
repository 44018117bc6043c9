//! Memory by physical address: the types of addresses, and the traits of what can be read and allocated.
//!
//! [`Memory`] copies, it does not lend: so an arena, a dump, `/proc/kcore`, guest memory and a firmware's identity map
//! all fit, and what is checked cannot change afterwards. [`Frames`] adds blocks of pages that can be allocated,
//! written and freed. "Physical" means whatever space the handover uses: the machine's, or that of an arena.

mod addr;
mod alloc;
#[cfg(feature = "std")]
mod arena;
mod bits;
pub(crate) mod chain;
#[cfg(feature = "std")]
mod file;
mod geometry;
#[cfg(feature = "std")]
mod image;
mod inherited;
mod machine;
#[cfg(feature = "std")]
mod map;
#[cfg(feature = "std")]
mod pour;
mod ram;
mod scan;

use core::fmt;

pub use addr::{Folio, Order, PageRange, Pfn, PhysAddr, PhysRange};
pub(crate) use alloc::fresh_home;
pub use alloc::{Frame, FrameAllocator};
#[cfg(feature = "std")]
pub(crate) use arena::random;
#[cfg(feature = "std")]
pub use arena::{Arena, StillMapped};
pub use bits::{Bits, Cursor, Numbers, Runs};
pub use geometry::Geometry;
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) use image::IOMEM;
#[cfg(feature = "std")]
pub use image::{Image, ImageKind, Source};
pub use machine::Machine;
#[cfg(feature = "std")]
pub use map::{MapFailed, Mapping};
#[cfg(feature = "std")]
pub use pour::{Pour, Pouring, Run};
pub use ram::Ram;
pub use scan::find_fdt;

use crate::report::{Code, Fault};

/// Why memory could not be read, written or allocated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemError {
    /// Not (wholly) inside the memory that there is.
    #[error("{at} + {len:#x} bytes is outside the memory that was handed over")]
    Outside {
        /// First byte that was asked for.
        at: PhysAddr,
        /// How many bytes were asked for.
        len: u64,
    },
    /// The system refused to read or write.
    #[error("{at} + {len:#x} bytes: {reason}")]
    Io {
        /// First byte that was asked for.
        at: PhysAddr,
        /// How many bytes were asked for.
        len: u64,
        /// The system's own words.
        reason: ::alloc::string::String,
    },
    /// No free block of that order is left.
    #[error("no free block of order {order} is left")]
    Exhausted {
        /// The order that was asked for.
        order: Order,
    },
    /// Memory that the predecessor did not preserve: whatever is there now means nothing.
    #[error("{at} + {len:#x} bytes was not preserved")]
    NotPreserved {
        /// First byte that was asked for.
        at: PhysAddr,
        /// How many bytes were asked for.
        len: u64,
    },
    /// A block that is not there to be taken: free, or taken already, or of another memory.
    #[error("{folio} is not a block that can be taken or written here")]
    NotHeld {
        /// The block.
        folio: Folio,
    },
    /// A block in pages that are kept for somebody else.
    #[error("{folio} is in the pages of {owner}")]
    KeptOut {
        /// The block.
        folio: Folio,
        /// Whose pages they are.
        owner: ::alloc::string::String,
    },
}

impl From<MemError> for Fault {
    fn from(error: MemError) -> Fault {
        match &error {
            MemError::Outside { at, len } => Fault::new(Code::Outside)
                .address(at.get())
                .found(format_args!("{len:#x} bytes outside the memory that was handed over")),
            MemError::NotPreserved { at, len } => Fault::new(Code::NotPreserved)
                .address(at.get())
                .found(format_args!("{len:#x} bytes that nobody preserved")),
            MemError::Io { at, len, reason } => {
                Fault::new(Code::Io).address(at.get()).found(format_args!("{len:#x} bytes: {reason}"))
            }
            MemError::Exhausted { .. } => Fault::new(Code::Exhausted).found(&error),
            MemError::NotHeld { .. } => Fault::new(Code::Refused).found(&error),
            MemError::KeptOut { .. } => Fault::new(Code::OwnedTwice).found(&error),
        }
    }
}

/// Memory that can be read by physical address.
pub trait Memory {
    /// The page size of the machine that this memory comes from. Nothing in the data says it.
    fn geometry(&self) -> Geometry;

    /// The ranges that can be read, sorted and disjoint.
    fn extents(&self) -> &[PhysRange];

    /// Whether the extents are all the memory that there is, so that what was preserved must be in them. A dump may lack
    /// some of its machine.
    fn is_whole(&self) -> bool {
        false
    }

    /// Copies the bytes from `at` on into `to`, all of them or none.
    ///
    /// # Errors
    /// [`MemError::Outside`] when a byte is in no extent, [`MemError::Io`] when the source refuses.
    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError>;
}

/// Memory in which blocks of pages can be allocated, written and freed.
///
/// A block that is held is a [`Frame`]; only its holder can write it, and it cannot be copied.
pub trait Frames: Memory {
    /// Allocates a block of `1 << order` pages, aligned to its own size. Its contents are zero.
    ///
    /// # Errors
    /// [`MemError::Exhausted`] when none is left.
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError>;

    /// Whether the frame is of this memory.
    fn holds(&self, frame: &Frame) -> bool;

    /// Gives a block back. A frame of another memory is dropped without effect.
    fn free(&mut self, frame: Frame);

    /// Writes into a block, `offset` bytes from its start.
    ///
    /// # Errors
    /// [`MemError::Outside`] when the bytes do not fit into the block, [`MemError::NotHeld`] when the frame is of
    /// another memory, [`MemError::Io`] when the system refuses.
    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError>;
}

/// Memory that came from a predecessor: blocks that it preserved can be taken over, each once.
pub trait Claim: Frames {
    /// Rebuilds what is free and what can be claimed: `preserved` blocks can be claimed, `nodes` (the pages of the radix
    /// tree) stay as they are until [`Claim::release_rest`], and all other pages are free.
    ///
    /// May be called again, when a restore failed: all frames that were claimed or allocated since are void then, and
    /// nothing that the predecessor preserved has changed.
    ///
    /// # Errors
    /// [`Code::Outside`] when a block is not in this memory, [`Code::PreservedTwice`] and [`Code::OwnedTwice`] when
    /// blocks overlap, [`Code::Refused`] when the memory is in use otherwise.
    fn admit(
        &mut self,
        preserved: &mut dyn Iterator<Item = Folio>,
        nodes: &mut dyn Iterator<Item = PageRange>,
    ) -> Result<(), Fault>;

    /// Takes over a block that the predecessor preserved. [Freed](Frames::free), it is preserved and unclaimed again,
    /// until [`Claim::release_rest`].
    ///
    /// # Errors
    /// [`MemError::NotHeld`] when no such block was preserved, or it was taken already.
    fn claim(&mut self, folio: Folio) -> Result<Frame, MemError>;

    /// Ends the handover: frees what nobody claimed, and the pages of the tree; how many preserved pages nobody
    /// claimed. There is no way back to the predecessor after this.
    ///
    /// # Errors
    /// [`Code::Refused`] before [`Claim::admit`], [`Code::Io`] when the end cannot be written down; nothing is freed
    /// then.
    fn release_rest(&mut self) -> Result<u64, Fault>;
}

/// `memory_of!([GENERICS] TYPE, |it| MEMORY)`: a type that holds a memory is read as that memory, in every method of
/// [`Memory`], those with a default included.
macro_rules! memory_of {
    ([$($generics:tt)*] $type:ty, |$it:ident| $memory:expr) => {
        impl<$($generics)*> $crate::mem::Memory for $type {
            fn geometry(&self) -> $crate::mem::Geometry {
                let $it = self;
                $memory.geometry()
            }

            fn extents(&self) -> &[$crate::mem::PhysRange] {
                let $it = self;
                $memory.extents()
            }

            fn is_whole(&self) -> bool {
                let $it = self;
                $memory.is_whole()
            }

            fn read(&self, at: $crate::mem::PhysAddr, to: &mut [u8]) -> Result<(), $crate::mem::MemError> {
                let $it = self;
                $memory.read(at, to)
            }
        }
    };
}
#[cfg(feature = "write")]
pub(crate) use memory_of;

memory_of!([M: Memory + ?Sized] &M, |it| (**it));

/// Reads one structure, of this library's wire formats or of your own.
///
/// # Errors
/// As [`Memory::read`].
pub fn read_wire<T: crate::abi::Plain>(memory: &dyn Memory, at: PhysAddr) -> Result<T, MemError> {
    let mut value = T::new_zeroed();
    memory.read(at, value.as_mut_bytes())?;
    Ok(value)
}

/// One structure out of a copy of its bytes; more behind it is no harm.
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) fn wire_in<T: crate::abi::Plain>(bytes: &[u8]) -> Result<T, Fault> {
    let fault = || Fault::new(Code::Truncated).found(format_args!("{} bytes", bytes.len())).expected(size_of::<T>());
    T::read_from_prefix(bytes).map(|(value, _)| value).map_err(|_| fault())
}

impl fmt::Debug for dyn Memory + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("geometry", &self.geometry()).field("extents", &self.extents()).finish()
    }
}
