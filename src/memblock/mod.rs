//! Named reserved memory, as `reserve_mem=` makes it             memblock-v1
//!
//! A device tree of one node for each range. The ranges themselves are preserved in whatever blocks Linux splits them
//! into; a partial last page is not preserved.

#[cfg(feature = "write")]
mod save;
#[cfg(all(test, feature = "write"))]
mod tests;

use alloc::format;
use alloc::vec::Vec;

use crate::abi::kho::COMPATIBLE;
use crate::abi::memblock::{COMPAT, MAX_NAME, MAX_RANGES, RESERVE_MEM, SIZE, START};
use crate::compat::CompatList;
use crate::fdt::{self, Fdt};
use crate::handover::{Check, Node, match_any};
use crate::mem::{Geometry, Memory, PageRange, PhysAddr, PhysRange};
use crate::report::{Code, Fault};
use crate::text::Name;

#[cfg(feature = "write")]
pub use save::{NewRange, Ranges};

/// What the node is made of, when it says so.
pub const MADE_OF: CompatList<'static> = CompatList::new(COMPAT, &[]);

/// The blob is a device tree of at most 8 nodes; Linux makes one of a page.
const BLOB_LIMIT: u64 = 64 << 10;

/// All named ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Memblock {
    /// The ranges, in the order of the tree.
    pub ranges: Vec<Range>,
}

/// One named range.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Range {
    /// Its name: 1 to 15 bytes of anything.
    pub name: Name,
    /// Its first byte.
    pub start: PhysAddr,
    /// Bytes. What they have beyond whole pages was not preserved.
    pub size: u64,
}

/// Reads the node `memblock`: see [`Registry::read`](crate::handover::Registry::read).
#[derive(Clone, Copy, Debug, Default)]
pub struct MemblockNode;

impl<M: Memory> Check<M> for MemblockNode {
    type Checked = Memblock;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn names_itself(&self) -> bool {
        true
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Memblock, Fault> {
        let at = node.blob_range().start().get();
        let bytes = node.blob(BLOB_LIMIT)?;
        let fdt = Fdt::parse(&bytes).map_err(|fault| fault.address(at))?;
        let mut ranges: Vec<Range> = Vec::new();
        for child in children(&fdt) {
            let child = child.map_err(|fault| fault.address(at))?;
            let range = node.part(&format!("{}", Name::from(child.name())), |node| {
                let range = read(&child, &ranges, node.geometry());
                let range = range.map_err(|fault| fault.address(at).offset(child.offset()))?;
                claim(&range, node);
                Ok(range)
            });
            ranges.extend(range);
        }
        Ok(Memblock { ranges })
    }
}

/// The nodes of the ranges, once the tree is known to be one of ranges.
fn children<'a>(fdt: &Fdt<'a>) -> impl Iterator<Item = Result<fdt::Node<'a>, Fault>> {
    let root = fdt.root();
    let list = root.required(COMPATIBLE);
    let right = list.and_then(|list| match_any(list.value(), COMPAT).map_err(|fault| fault.item(COMPATIBLE)));
    let (wrong, children) = match right {
        Ok(()) => (None, Some(root.children())),
        Err(fault) => (Some(Err(fault)), None),
    };
    let bounded = children.into_iter().flatten().enumerate().map(|(number, child)| {
        if number < MAX_RANGES {
            return Ok(child);
        }
        let fault = Fault::new(Code::TooLarge).offset(child.offset());
        Err(fault.found(format_args!("more than {MAX_RANGES} ranges")).expected(format_args!("at most {MAX_RANGES}")))
    });
    wrong.into_iter().chain(bounded)
}

#[cfg(all(feature = "std", feature = "serde"))]
impl Memblock {
    /// Out of a copy of the blob.
    pub(crate) fn parse(bytes: &[u8], geometry: Geometry) -> Result<Self, Fault> {
        let fdt = Fdt::parse(bytes)?;
        let mut ranges: Vec<Range> = Vec::new();
        for child in children(&fdt) {
            let child = child?;
            ranges.push(read(&child, &ranges, geometry).map_err(|fault| fault.offset(child.offset()))?);
        }
        Ok(Memblock { ranges })
    }
}

fn read(child: &fdt::Node<'_>, before: &[Range], geometry: Geometry) -> Result<Range, Fault> {
    let name = child.name();
    if name.len() > MAX_NAME || name.iter().all(u8::is_ascii_whitespace) {
        return Err(Fault::new(Code::Text)
            .found(format_args!("a name of {} bytes", name.len()))
            .expected(format_args!("1 to {MAX_NAME} bytes that are not all blank")));
    }
    let taken =
        before.iter().find(|range| range.name.as_bytes().strip_prefix(name).is_some_and(|rest| rest.starts_with(b"@")));
    if let Some(other) = taken.filter(|_| !name.contains(&b'@')) {
        return Err(Fault::new(Code::FdtUnitAddress).found(format_args!("{} in front of it", other.name)));
    }
    let list = child.required(COMPATIBLE)?;
    match_any(list.value(), RESERVE_MEM).map_err(|fault| fault.item(COMPATIBLE))?;
    let start = PhysAddr::new(child.required(START)?.u64_native()?);
    let size = child.required(SIZE)?.u64_native()?;
    let ends = PhysRange::new(start, size).is_some_and(|bytes| PageRange::around(bytes, geometry).is_some());
    if size == 0 || !ends {
        let fault = Fault::new(Code::TooLarge).item(SIZE).found(format_args!("{size:#x} bytes from {start} on"));
        return Err(fault.expected("at least one byte, below 2^47 pages"));
    }
    Ok(Range { name: Name::from(name), start, size })
}

/// The whole pages of the range, from the one that it starts in.
fn claim<M: Memory>(range: &Range, node: &mut Node<'_, M>) {
    let geometry = node.geometry();
    let first = range.start.page_around(geometry);
    let pages = first.and_then(|first| PageRange::new(first, range.size >> geometry.page_shift()));
    if let Some(pages) = pages {
        node.claim_range(pages);
    }
}
