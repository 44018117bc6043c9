//! The predecessor's half.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::MADE_OF;
use crate::abi::kho::COMPATIBLE;
use crate::abi::memblock::{COMPAT, MAX_NAME, MAX_RANGES, RESERVE_MEM, SIZE, START};
use crate::compat::CompatList;
use crate::fdt::Builder;
use crate::handover::{Blob, Home, Preserve, Scope};
use crate::mem::{Frames as _, Memory as _, Order};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Ranges to be handed over as Linux hands over those of `reserve_mem=`: the node `memblock`. The next kernel finds one
/// again when its command line asks for the same name, size and alignment.
///
/// ```
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::memblock::{MemblockNode, NewRange, Ranges};
/// use kho::mem::{Geometry, PageRange, Pfn, Ram};
///
/// // For a kernel with reserve_mem=12288:8192:ramoops
/// let range = NewRange { name: "ramoops".into(), size: 12288, align: 8192, bytes: b"the last words" };
/// let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x101).unwrap(), 64).unwrap()));
/// outgoing.preserve("memblock", &Ranges { ranges: vec![range] })?;
/// let (memory, root) = outgoing.finish()?.into_parts();
///
/// let mut registry = Registry::new();
/// let memblock = registry.read("memblock", MemblockNode);
/// let mut restored = Incoming::new(memory, root.start()).plan(&registry).accept()?.restore()?;
/// assert_eq!(restored.take(&memblock).unwrap().ranges[0].start.get() % 8192, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ranges<'a> {
    /// At most [`MAX_RANGES`].
    pub ranges: Vec<NewRange<'a>>,
}

/// A named range to be authored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRange<'a> {
    /// Its name: 1 to [`MAX_NAME`] characters that a device tree can have, no `@`.
    pub name: String,
    /// Bytes, in whole pages: Linux preserves no others.
    pub size: u64,
    /// Bytes to a multiple of which it is aligned, a power of two; less than a page is a page.
    pub align: u64,
    /// What it holds from its start on; the rest is zero.
    pub bytes: &'a [u8],
}

impl<M: Home> Preserve<M> for Ranges<'_> {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        if self.ranges.len() > MAX_RANGES {
            let fault = Fault::new(Code::TooLarge).item("ranges").found(self.ranges.len());
            return Err(fault.expected(format_args!("at most {MAX_RANGES}")));
        }
        let mut fdt = Builder::new();
        fdt.strings(COMPATIBLE, [format!("{COMPAT}")])?;
        for range in &self.ranges {
            let start = range.store(scope).map_err(|fault| fault.within(&range.name))?;
            fdt.node(&range.name, |node| {
                node.strings(COMPATIBLE, [format!("{RESERVE_MEM}")])?;
                node.u64_native(START, start)?;
                node.u64_native(SIZE, range.size)
            })?;
        }
        scope.blob(&fdt.finish()?)
    }
}

impl NewRange<'_> {
    /// Allocates and fills it; where it is.
    fn store<M: Home>(&self, scope: &mut Scope<'_, M>) -> Result<u64, Fault> {
        let geometry = scope.geometry();
        if self.name.len() > MAX_NAME {
            let fault = Fault::new(Code::Text).item("name").found(format_args!("{} bytes", self.name.len()));
            return Err(fault.expected(format_args!("at most {MAX_NAME}")));
        }
        crate::fdt::check_node_name(&self.name)?;
        let pages = self.size >> geometry.page_shift();
        if self.size == 0 || pages << geometry.page_shift() != self.size {
            let fault = Fault::new(Code::Unaligned).item("size").found(format_args!("{:#x}", self.size));
            return Err(fault.expected(format_args!("whole pages of {:#x}", geometry.page_size())));
        }
        let align = Some(self.align).filter(|align| align.is_power_of_two());
        let align = align.and_then(|align| Order::holding(align, geometry)).ok_or_else(|| {
            Fault::new(Code::Unaligned).item("align").found(self.align).expected("a power of two, below 2^47 pages")
        })?;
        if u64_of(self.bytes.len()) > self.size {
            let fault = Fault::new(Code::TooLarge).item("bytes").found(self.bytes.len());
            return Err(fault.expected(format_args!("at most {}, the size", self.size)));
        }
        let (run, blocks) = scope.alloc_run(pages, align)?;
        let mut rest = self.bytes;
        for block in blocks {
            let (now, later) = rest.split_at(usize_of(block.folio().order().bytes(geometry)).min(rest.len()));
            scope.write(&block, 0, now)?;
            rest = later;
        }
        Ok(run.start().addr(geometry).get())
    }
}
