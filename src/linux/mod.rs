//! How the next kernel is told of a handover.
//!
//! A handover [for Linux](crate::handover::Outgoing::for_linux) ends in a [`Boot`]: where its root FDT is, and where the
//! array of scratch areas. arm64 is told by two properties of the machine's device tree, [`chosen`]; x86-64 by an entry
//! of its `setup_data` list, [`Boot::setup_data`].

use alloc::vec::Vec;

use zerocopy::IntoBytes as _;

use crate::abi::kho::{CHOSEN_FDT, CHOSEN_SCRATCH, SETUP_DATA_TYPE, Scratch, SetupData, SetupHeader};
use crate::fdt::{Fdt, Node};
use crate::mem::{Geometry, PhysAddr, PhysRange};
use crate::report::{Code, Fault};

#[cfg(test)]
mod tests;

/// What the next kernel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The root FDT.
    pub fdt: PhysRange,
    /// The array of scratch areas.
    pub scratch: PhysRange,
}

impl Boot {
    /// The x86-64 `setup_data` entry: 48 bytes, to be put where the list of the boot parameters leads. `next` is the
    /// physical address of the entry behind it, 0 for none.
    #[must_use]
    pub fn setup_data(&self, next: PhysAddr) -> [u8; 48] {
        let payload = SetupData {
            fdt_addr: self.fdt.start().get().into(),
            fdt_size: self.fdt.size().into(),
            scratch_addr: self.scratch.start().get().into(),
            scratch_size: self.scratch.size().into(),
        };
        let header = SetupHeader { next: next.get().into(), kind: SETUP_DATA_TYPE.into(), len: 32.into() };
        let mut entry = [0; 48];
        let bytes = header.as_bytes().iter().chain(payload.as_bytes());
        entry.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        entry
    }
}

/// The device tree of an arm64 machine with the properties by which its kernel finds the handover; all else in it is
/// kept, byte for byte. Any that it had are replaced.
///
/// ```
/// use kho::fdt::{Builder, Fdt};
/// use kho::linux::{Boot, chosen};
/// use kho::mem::{PhysAddr, PhysRange};
///
/// let mut machine = Builder::new();
/// machine.cells_u32("#address-cells", &[2])?;
/// machine.cells_u32("#size-cells", &[2])?;
/// let dtb = machine.finish()?;
/// let range = |start, size| PhysRange::new(PhysAddr::new(start), size).unwrap();
/// let dtb = chosen(&dtb, &Boot { fdt: range(0x4c00_1000, 600), scratch: range(0x4c00_0000, 32) })?;
/// let node = Fdt::parse(&dtb)?.root().child("chosen").unwrap();
/// assert_eq!(node.required("linux,kho-fdt")?.value(), b"\0\0\0\0\x4c\0\x10\0\0\0\0\0\0\0\x02\x58");
/// # Ok::<(), kho::report::Fault>(())
/// ```
///
/// # Errors
/// As [`Fdt::parse`] for what is no device tree; [`Code::PropertyMissing`], [`Code::PropertySize`] and
/// [`Code::TooLarge`] when the root's cells are not said or cannot hold the addresses; [`Code::FdtUnitAddress`] when
/// Linux would find another node than `/chosen`.
pub fn chosen(dtb: &[u8], boot: &Boot) -> Result<Vec<u8>, Fault> {
    let tree = Fdt::parse(dtb)?;
    let root = tree.root();
    let cells = [cells(&root, "#address-cells")?, cells(&root, "#size-cells")?];
    let pair = |name, range: PhysRange| {
        let mut value = Vec::new();
        for (number, cells) in [range.start().get(), range.size()].into_iter().zip(cells) {
            match (cells, u32::try_from(number)) {
                (1, Ok(number)) => value.extend_from_slice(&number.to_be_bytes()),
                (2, _) => value.extend_from_slice(&number.to_be_bytes()),
                _ => {
                    let fault = Fault::new(Code::TooLarge).item(name).found(format_args!("{number:#x}"));
                    return Err(fault.expected(format_args!("a number for {cells} cells")));
                }
            }
        }
        Ok(value)
    };
    let fdt = pair(CHOSEN_FDT, boot.fdt)?;
    let scratch = pair(CHOSEN_SCRATCH, boot.scratch)?;
    tree.with_properties("chosen", &[(CHOSEN_FDT, &fdt), (CHOSEN_SCRATCH, &scratch)])
}

/// How many words an address or a size has in the root.
fn cells(root: &Node<'_>, name: &'static str) -> Result<u32, Fault> {
    let property = root.required(name)?;
    let value = property.value().try_into().map(u32::from_be_bytes).map_err(|_| {
        Fault::new(Code::PropertySize).offset(property.offset()).item(name).found(property.value().len()).expected(4)
    })?;
    match value {
        1 | 2 => Ok(value),
        _ => Err(Fault::new(Code::TooLarge).offset(property.offset()).item(name).found(value).expected("1 or 2")),
    }
}

/// Refuses scratch areas that Linux would not take or could not boot in: none of any size, areas that are not aligned
/// to the largest block of its page allocator (4 MiB with pages of 4K, 32 MiB with 16K, 512 MiB with 64K), page 0, and
/// areas that overlap.
///
/// # Errors
/// [`Code::Refused`], [`Code::Unaligned`], [`Code::OwnedTwice`]; [`Code::TooLarge`] beyond 2^47 pages.
pub fn check_scratch(geometry: Geometry, areas: &[PhysRange]) -> Result<(), Fault> {
    let block: u64 = match geometry {
        Geometry::K4 => 4 << 20,
        Geometry::K16 => 32 << 20,
        Geometry::K64 => 512 << 20,
    };
    let mut used: Vec<PhysRange> = areas.iter().copied().filter(|area| area.size() > 0).collect();
    let fault = |area: &PhysRange, code| Fault::new(code).address(area.start().get()).item("scratch").found(area);
    if used.is_empty() {
        return Err(Fault::new(Code::Refused).item("scratch").found("no memory").expected("at least one area"));
    }
    for area in &used {
        if area.start().get() == 0 {
            return Err(fault(area, Code::Refused).expected("not page 0, which means none"));
        }
        if (area.start().get() | area.size()) & block.wrapping_sub(1) != 0 {
            return Err(fault(area, Code::Unaligned).expected(format_args!("start and size in units of {block:#x}")));
        }
        if crate::mem::PageRange::around(*area, geometry).is_none() {
            return Err(fault(area, Code::TooLarge).expected("below 2^47 pages"));
        }
    }
    used.sort_unstable();
    for (one, other) in used.iter().zip(used.iter().skip(1)) {
        if other.start() < one.end() {
            return Err(fault(other, Code::OwnedTwice).expected(format_args!("a start behind {one}")));
        }
    }
    Ok(())
}

/// The array of scratch areas, as Linux lays it out: 16 bytes each.
#[must_use]
pub fn scratch_array(areas: &[PhysRange]) -> Vec<u8> {
    let entry = |area: &PhysRange| Scratch { addr: area.start().get().into(), size: area.size().into() };
    let mut bytes = Vec::with_capacity(areas.len().saturating_mul(size_of::<Scratch>()));
    areas.iter().for_each(|area| bytes.extend_from_slice(entry(area).as_bytes()));
    bytes
}
