//! States of the predecessor, written as a node.

use alloc::vec::Vec;

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::attach::States;
use super::description::Description;
use super::image::Image;
use super::node::{MADE_OF, WrittenStates};
use super::save::Sink;
use super::versions::Versions;
use crate::abi::state::Blob as Wire;
use crate::abi::vmalloc::Descriptor;
use crate::compat::CompatList;
use crate::handover::{Blob, Home, Preserve, Scope};
use crate::mem::{Frame, Frames as _, Memory as _, Order};
use crate::num::u64_of;
use crate::report::{Code, Fault, Severity};
use crate::vmalloc::Area;

/// Blocks of at least so many bytes of bulk data are large.
const LARGE: u64 = 1 << 20;

/// Bulk data and resources of a node that is being written.
struct ToScope<'s, 'a, M: Home> {
    scope: &'s mut Scope<'a, M>,
    /// Blocks of bulk data, all of one order, and how many bytes of them are used.
    blocks: Vec<Frame>,
    order: Order,
    used: u64,
    crc: Option<crc32fast::Hasher>,
}

impl<M: Home> ToScope<'_, '_, M> {
    /// Appends bytes, block by block.
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
        }
        let size = self.order.bytes(self.scope.geometry());
        while !bytes.is_empty() {
            let offset = self.used.checked_rem(size).unwrap_or(0);
            if offset == 0 {
                let block = self.scope.alloc_bulk(self.order)?;
                self.blocks.push(block);
            }
            let room = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            if let Some(block) = self.blocks.last() {
                self.scope.write(block, offset, now)?;
            }
            self.used = self.used.saturating_add(u64_of(now.len()));
            bytes = later;
        }
        Ok(())
    }

    /// What describes the blocks.
    fn finish(self) -> Result<Descriptor, Fault> {
        if self.blocks.is_empty() {
            return Ok(Descriptor::new_zeroed());
        }
        let area = Area::from_folios(self.order, 0, self.blocks.iter().map(Frame::folio))?;
        Ok(self.scope.area(&area)?.descriptor)
    }
}

impl<M: Home> Sink for ToScope<'_, '_, M> {
    fn bulk(&mut self, bytes: &[u8]) -> Result<u64, Fault> {
        if self.blocks.is_empty() {
            // The first data say what kind they are: many bytes in few large blocks, or few in small ones. What a large
            // block has beyond them costs no memory where it is never touched.
            let large = u64_of(bytes.len()) >= LARGE;
            let order = Order::holding(if large { LARGE << 1 } else { LARGE >> 4 }, self.scope.geometry());
            self.order = order.unwrap_or(Order::ZERO);
        }
        let start = Image::bulk_at(self.used);
        let zeros = [0; 64];
        let padding = usize::try_from(start.saturating_sub(self.used)).unwrap_or(0);
        self.append(zeros.get(..padding).unwrap_or_default())?;
        self.append(bytes)?;
        Ok(start)
    }

    fn bulk_total(&self) -> (u64, Option<u32>) {
        (self.used, self.crc.clone().map(crc32fast::Hasher::finalize))
    }

    fn page_size(&self) -> u64 {
        self.scope.geometry().page_size()
    }

    fn folio(&mut self, frame: &Frame) -> Result<u64, Fault> {
        self.scope.preserve(frame)?;
        Ok(frame.folio().addr(self.scope.geometry()).get())
    }

    fn area(&mut self, order: Order, frames: &[Frame]) -> Result<Descriptor, Fault> {
        let area = Area::from_folios(order, 0, frames.iter().map(Frame::folio))?;
        for frame in frames {
            self.scope.preserve(frame)?;
        }
        Ok(self.scope.area(&area)?.descriptor)
    }

    #[cfg(feature = "std")]
    fn file(&mut self, file: std::os::fd::BorrowedFd<'_>, memfd: bool) -> Result<u64, Fault> {
        if memfd {
            crate::files::is_memfd(file)?;
        }
        self.scope.keep_file(crate::files::duplicate(file)?)
    }
}

/// Blocks for so many bytes: at most an eighth is wasted.
fn order_for(bytes: u64, page_shift: u32) -> Order {
    let pages = bytes >> page_shift;
    let order = pages.checked_ilog2().unwrap_or(0).saturating_sub(3);
    Order::new(order).unwrap_or(Order::MAX)
}

impl<M: Home> Preserve<M> for States {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn states(&self) -> Vec<Description> {
        self.descriptions()
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        // What the successor does not take is told here and now, in the words of its plan.
        let reader = scope.reader_states();
        let versions = reader.map(|reader| Versions::for_reader(self.shapes(), reader).map_err(first)).transpose()?;
        let crc = self.bulk_checksum.then(crc32fast::Hasher::new);
        let mut sink = ToScope { scope, blocks: Vec::new(), order: Order::ZERO, used: 0, crc };
        let meta = self.save(&mut sink, versions.as_ref())?;
        let bulk = sink.used;
        let told = match reader {
            None => Vec::new(),
            Some(reader) => WrittenStates::of(&Image::open(&meta)?)?.judge(reader),
        };
        let bulk_blocks = sink.finish()?;
        for fault in versions.iter().flat_map(Versions::dropped).chain(told) {
            if fault.code().severity() == Severity::Error {
                return Err(fault);
            }
            scope.warn(fault);
        }
        let order = order_for(u64_of(meta.len()), scope.geometry().page_shift());
        let meta_blocks = scope.area_of(order, &meta)?.descriptor;
        let wire = Wire { meta: u64_of(meta.len()).into(), bulk: bulk.into(), meta_blocks, bulk_blocks };
        scope.blob(wire.as_bytes())
    }
}

/// The first of several reasons.
fn first(faults: Vec<Fault>) -> Fault {
    faults.into_iter().next().unwrap_or_else(|| Fault::new(Code::Refused))
}
