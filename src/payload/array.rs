//! An array in scattered blocks, restored as one contiguous mapping.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use zerocopy::IntoBytes as _;

use crate::abi;
use crate::compat::CompatList;
use crate::handover::{Blob, Check, Component, Home, Node, Preserve, Scope};
use crate::mem::{Arena, Claim, Frame, Mapping, Memory};
use crate::num::usize_of;
use crate::report::{Code, Fault};
use crate::vmalloc::Area;

/// Blocks of one order that the user holds, to be handed over as one array. Nothing is copied.
///
/// ```
/// use kho::compat::{Compat, CompatList};
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::mem::{Arena, Frames as _, Order};
/// use kho::payload::{ARRAY_USE, Array, ArrayNode};
///
/// const CACHE: CompatList<'static> = CompatList::new(Compat::new("my-cache", 1), ARRAY_USE);
///
/// let mut outgoing = Outgoing::new(Arena::new(1 << 20)?);
/// let mut frames = vec![outgoing.alloc(Order::ZERO)?, outgoing.alloc(Order::ZERO)?];
/// let mut bytes = 0;
/// for frame in &mut frames {
///     let page = outgoing.memory().bytes_mut(frame)?;
///     page.fill(7);
///     bytes += page.len() as u64;
/// }
/// outgoing.preserve("cache", &Array { made_of: CACHE, frames: &frames, bytes })?;
/// let (arena, root) = outgoing.finish()?.into_parts();
///
/// // The successor, here in the same process: one slice of all blocks.
/// let mut registry = Registry::new();
/// let cache = registry.add("cache", ArrayNode { made_of: CACHE });
/// let incoming = Incoming::new(Arena::open(arena.into_fd()?)?, root.start());
/// let mut restored = incoming.plan(&registry).accept()?.restore()?;
/// let cache = restored.take(&cache).unwrap();
/// assert!(cache.len() as u64 == bytes && cache.iter().all(|&byte| byte == 7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    /// What the bytes mean; uses [`ARRAY_USE`](super::ARRAY_USE).
    pub made_of: CompatList<'static>,
    /// The blocks, in the order of the array; all of one order.
    pub frames: &'a [Frame],
    /// Bytes of the array, at most what the blocks hold.
    pub bytes: u64,
}

impl<M: Home> Preserve<M> for Array<'_> {
    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        preserve(scope, self.frames, self.bytes)
    }
}

/// The same of blocks that are [mapped](Arena::map_contiguous): they stay mapped while they are handed over, and a
/// predecessor that stays goes on with the mapping as it is.
///
/// ```
/// use kho::compat::{Compat, CompatList};
/// use kho::handover::Outgoing;
/// use kho::mem::{Arena, Frames as _, Order};
/// use kho::payload::{ARRAY_USE, MappedArray};
///
/// const CACHE: CompatList<'static> = CompatList::new(Compat::new("my-cache", 1), ARRAY_USE);
///
/// let mut outgoing = Outgoing::new(Arena::new(1 << 20)?);
/// let frames = vec![outgoing.alloc(Order::ZERO)?, outgoing.alloc(Order::ZERO)?];
/// let mut cache = outgoing.memory().map_contiguous(frames).map_err(|failed| failed.error)?;
/// let bytes = cache.len() as u64;
/// outgoing.preserve("cache", &MappedArray { made_of: CACHE, mapping: &cache, bytes })?;
/// cache.fill(7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MappedArray<'a> {
    /// What the bytes mean; uses [`ARRAY_USE`](super::ARRAY_USE).
    pub made_of: CompatList<'static>,
    /// The blocks. A [copy](Mapping::is_copy) of them is refused: what was written to it is not in the blocks.
    pub mapping: &'a Mapping,
    /// Bytes of the array, at most what the blocks hold.
    pub bytes: u64,
}

impl<M: Home> Preserve<M> for MappedArray<'_> {
    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        if self.mapping.is_copy() {
            return Err(Fault::new(Code::Refused).item("mapping").found("a copy").expected("the blocks themselves"));
        }
        preserve(scope, self.mapping.blocks(), self.bytes)
    }
}

fn preserve<M: Home>(scope: &mut Scope<'_, M>, frames: &[Frame], bytes: u64) -> Result<Blob, Fault> {
    let blocks = match frames {
        [] => zerocopy::FromZeros::new_zeroed(),
        [first, ..] => {
            let area = Area::from_folios(first.folio().order(), 0, frames.iter().map(Frame::folio))?;
            for frame in frames {
                scope.preserve(frame)?;
            }
            scope.area(&area)?.descriptor
        }
    };
    let held = frames
        .iter()
        .fold(0_u64, |sum, frame| sum.saturating_add(frame.folio().range().bytes(Memory::geometry(scope)).size()));
    if bytes > held {
        return Err(Fault::new(Code::TooLarge)
            .item("bytes")
            .found(bytes)
            .expected(format_args!("at most {held}, what the blocks hold")));
    }
    let array = abi::payload::Array { bytes: bytes.into(), blocks };
    scope.blob(array.as_bytes())
}

/// Restores an [`Array`] as one contiguous [`Mapping`].
#[derive(Clone, Copy, Debug)]
pub struct ArrayNode {
    /// What the bytes must mean.
    pub made_of: CompatList<'static>,
}

impl<M: Memory> Check<M> for ArrayNode {
    /// The blocks in order, none when there is no byte, and the bytes of the array.
    type Checked = (Option<Area>, u64);

    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Self::Checked, Fault> {
        let array: abi::payload::Array = node.blob_as()?;
        let bytes = array.bytes.get();
        if bytes == 0 && array.blocks == zerocopy::FromZeros::new_zeroed() {
            return Ok((None, 0));
        }
        let area = node.area(&array.blocks).map_err(|fault| fault.within("blocks"))?;
        let held = area.bytes(node.geometry());
        if bytes > held {
            return Err(Fault::new(Code::VmallocPages)
                .address(node.blob_range().start().get())
                .item("bytes")
                .found(bytes)
                .expected(format_args!("at most {held}, what the blocks hold")));
        }
        Ok((Some(area), bytes))
    }
}

/// An array that was restored: all of its blocks in one mapping.
#[derive(Debug)]
pub struct Contiguous {
    mapping: Mapping,
    bytes: usize,
}

impl Contiguous {
    /// The mapping, with what the last block has beyond the array.
    #[must_use]
    pub fn into_mapping(self) -> Mapping {
        self.mapping
    }

    /// Whether the bytes had to be copied: see [`Mapping::is_copy`].
    #[must_use]
    pub const fn is_copy(&self) -> bool {
        self.mapping.is_copy()
    }
}

impl Deref for Contiguous {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.mapping.get(..self.bytes).unwrap_or_default()
    }
}

impl DerefMut for Contiguous {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.mapping.get_mut(..self.bytes).unwrap_or_default()
    }
}

impl<M: Claim + AsRef<Arena>> Component<M> for ArrayNode {
    type Prepared = Contiguous;
    type Restored = Contiguous;

    fn prepare(&self, (area, bytes): Self::Checked, memory: &mut M) -> Result<Contiguous, Fault> {
        let folios = area.iter().flat_map(Area::folios);
        let frames = folios.map(|folio| memory.claim(folio)).collect::<Result<Vec<Frame>, _>>()?;
        let mapping = memory.as_ref().map_contiguous(frames).map_err(|failed| Fault::from(failed.error))?;
        Ok(Contiguous { mapping, bytes: usize_of(bytes) })
    }

    fn commit(&self, array: Contiguous, _: &mut M) -> Contiguous {
        array
    }
}
