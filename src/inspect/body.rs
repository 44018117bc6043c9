//! Where the bytes of something are.

use super::content::Memfd;
use crate::abi::block::Header;
use crate::mem::{Geometry, Image, PhysAddr, PhysRange, Run, read_wire};
use crate::num::usize_of;
use crate::report::Fault;

/// Where the bytes of something are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body<'a> {
    Memfd(&'a Memfd),
    /// The first bytes of blocks one behind the other.
    Blocks(&'a [(u64, u32)], u64),
    /// Records of that size, of which there are so many, in blocks.
    Records(&'a [u64], u64, u64),
    Bytes(PhysRange),
    /// Of blocks of one order, one behind the other, so many bytes from there on.
    Slice(&'a [(u64, u32)], u64, u64),
}

impl Body<'_> {
    pub(super) fn size(&self) -> u64 {
        match self {
            Body::Memfd(file) => file.size,
            Body::Blocks(_, bytes) | Body::Slice(_, _, bytes) => *bytes,
            Body::Records(_, size, count) => size.saturating_mul(*count),
            Body::Bytes(range) => range.size(),
        }
    }

    /// Where its bytes are, by ascending offset, neighbours joined.
    pub(super) fn runs(
        self,
        image: &Image,
        geometry: Geometry,
        each: &mut dyn FnMut(Run) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut last: Option<Run> = None;
        let mut push = |from: u64, len: u64, offset: u64| {
            let next = Run { from: PhysAddr::new(from), len, offset };
            match &mut last {
                Some(run)
                    if run.from.checked_add(run.len) == Some(next.from)
                        && run.offset.checked_add(run.len) == Some(offset) =>
                {
                    run.len = run.len.saturating_add(len);
                    Ok(())
                }
                _ => last.replace(next).map_or(Ok(()), &mut *each),
            }
        };
        match self {
            Body::Memfd(file) => {
                for &(address, order, index) in &file.folios {
                    let offset = index.saturating_mul(geometry.page_size());
                    let rest = file.size.saturating_sub(offset);
                    push(address, geometry.page_size().checked_shl(order).unwrap_or(0).min(rest), offset)?;
                }
            }
            Body::Blocks(blocks, bytes) => {
                let mut offset = 0_u64;
                for &(address, order) in blocks {
                    let len = geometry.page_size().checked_shl(order).unwrap_or(0).min(bytes.saturating_sub(offset));
                    push(address, len, offset)?;
                    offset = offset.saturating_add(len);
                }
            }
            Body::Records(blocks, size, count) => {
                let (mut offset, all) = (0_u64, size.saturating_mul(count));
                for &block in blocks {
                    let header: Header = read_wire(image, PhysAddr::new(block))?;
                    // The counts were checked; a source that changes since must not make it longer.
                    let len = header.count.get().saturating_mul(size).min(all.saturating_sub(offset));
                    let len = len.min(geometry.page_size().saturating_sub(16));
                    push(block.saturating_add(16), len, offset)?;
                    offset = offset.saturating_add(len);
                }
            }
            Body::Bytes(range) => push(range.start().get(), range.size(), 0)?,
            Body::Slice(blocks, start, bytes) => {
                let order = blocks.first().map_or(0, |block| block.1);
                let size = geometry.page_size().checked_shl(order).unwrap_or(0);
                let (first, mut skip) = (start.checked_div(size).unwrap_or(0), start.checked_rem(size).unwrap_or(0));
                let mut offset = 0_u64;
                for &(address, _) in blocks.iter().skip(usize_of(first)) {
                    let len = size.saturating_sub(skip).min(bytes.saturating_sub(offset));
                    if len == 0 {
                        break;
                    }
                    push(address.saturating_add(skip), len, offset)?;
                    (skip, offset) = (0, offset.saturating_add(len));
                }
            }
        }
        last.map_or(Ok(()), each)
    }
}
