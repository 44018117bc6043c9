//! Finding device trees in memory that nobody says anything about.

use zerocopy::IntoBytes as _;
use zerocopy::big_endian::U32;

use super::{Geometry, MemError, Memory, PhysAddr, PhysRange};
use crate::num::u64_of;

/// First word of a device tree (Devicetree Specification 0.4, 5.2).
pub(super) const FDT_MAGIC: u32 = 0xd00d_feed;

/// Linux maps at most so many pages of a root.
const FDT_PAGES: u64 = 64;

/// The pages at which something starts that looks like a device tree, lowest first.
///
/// One header of 40 bytes is read per page, when the iterator gets there. A page is told when magic, versions, offsets
/// and a total of at most 64 pages make sense: whether it is a tree, and the root of a handover, only reading it tells.
/// `Image::find_fdt` (with the feature `std`) does the same and leaves out the holes of sparse files.
///
/// # Errors
/// A page that cannot be read is one, and the search goes on behind it.
///
/// ```
/// use kho::mem::{Geometry, PageRange, Pfn, PhysAddr, Ram, find_fdt};
///
/// let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(1).unwrap(), 16).unwrap());
/// let header = [0xd00dfeed_u32, 72, 56, 72, 40, 17, 16, 0, 0, 16];
/// for (i, word) in (0..).zip(header) {
///     ram.poke(PhysAddr::new(0x3000 + 4 * i), &word.to_be_bytes())?;
/// }
/// assert_eq!(find_fdt(&ram).collect::<Result<Vec<_>, _>>()?, [PhysAddr::new(0x3000)]);
/// # Ok::<(), kho::mem::MemError>(())
/// ```
pub fn find_fdt(memory: &dyn Memory) -> impl Iterator<Item = Result<PhysAddr, MemError>> {
    let extents = memory.extents();
    candidates(memory, move |from| {
        extents.get(extents.partition_point(|extent| extent.end().get() <= from)..)?.first().copied()
    })
}

/// As [`find_fdt`], in those ranges that `data` tells: the first that ends behind an address.
pub(super) fn candidates<'a>(
    memory: &'a dyn Memory,
    mut data: impl FnMut(u64) -> Option<PhysRange> + 'a,
) -> impl Iterator<Item = Result<PhysAddr, MemError>> + 'a {
    let geometry = memory.geometry();
    let (mut at, mut end) = (0_u64, 0_u64);
    core::iter::from_fn(move || {
        loop {
            if at >= end {
                let range = data(end).filter(|range| range.end().get() > end)?;
                at = range.start().get().max(at).checked_next_multiple_of(geometry.page_size())?;
                end = range.end().get();
                continue;
            }
            let here = PhysAddr::new(at);
            at = at.checked_add(geometry.page_size()).unwrap_or(end);
            match looks_like_fdt(memory, geometry, here) {
                Ok(true) => return Some(Ok(here)),
                // Outside: less than a header is left of this range.
                Ok(false) | Err(MemError::Outside { .. }) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    })
}

fn looks_like_fdt(memory: &dyn Memory, geometry: Geometry, at: PhysAddr) -> Result<bool, MemError> {
    let mut words = [U32::new(0); 10];
    memory.read(at, words.as_mut_bytes())?;
    let [magic, total, structure, strings, reserved, version, last_compatible, ..] = words.map(U32::get);
    let header = u64_of(size_of_val(&words));
    let inside = |offset: u32| header <= offset.into() && offset <= total;
    Ok(magic == FDT_MAGIC
        && u64::from(total) <= FDT_PAGES << geometry.page_shift()
        && [structure, strings, reserved].into_iter().all(inside)
        && structure.is_multiple_of(4)
        && last_compatible <= 17
        && last_compatible <= version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{PageRange, Pfn, Ram};

    const HEADER: [u32; 10] = [FDT_MAGIC, 0x100, 56, 0xf0, 40, 17, 16, 0, 0x10, 0xb8];

    fn found(poke: &[(u64, [u32; 10])]) -> Vec<u64> {
        let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x10).unwrap(), 8).unwrap());
        for (at, header) in poke {
            let bytes: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
            ram.poke(PhysAddr::new(*at), &bytes).unwrap();
        }
        find_fdt(&ram).map(|at| at.unwrap().get()).collect()
    }

    #[test]
    fn first_page_last_page_and_nothing_between_pages() {
        assert_eq!(found(&[(0x17000, HEADER), (0x10000, HEADER), (0x12008, HEADER)]), [0x10000, 0x17000]);
    }

    #[test]
    fn headers_that_make_no_sense_are_passed_over() {
        // Word and a value that it cannot have.
        for (word, value) in
            [(0, 0xedfe_0dd0), (1, 39), (1, 0x4_0001), (2, 0x101), (2, 58), (3, 0x101), (4, 39), (6, 18)]
        {
            let mut header = HEADER;
            header[word] = value;
            assert!(found(&[(0x11000, header)]).is_empty(), "word {word} is {value:#x}");
        }
        let mut largest = HEADER;
        largest[1] = 0x4_0000;
        assert_eq!(found(&[(0x11000, largest)]), [0x11000]);
    }
}
