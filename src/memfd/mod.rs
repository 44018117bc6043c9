//! A memfd by its pages, as Linux lays it out                    memfd-v2
//!
//! The structure names an array of folio records; each folio is a block of the radix tree, in the exact order in which
//! it was preserved. Linux writes one such structure for each file of a session; here it is also the blob of a node, so
//! that a process can hand a small memfd over by value. A large one travels by descriptor instead: see
//! [`files`](crate::files).

#[cfg(feature = "std")]
mod carry;
#[cfg(feature = "write")]
mod save;
#[cfg(all(test, feature = "std"))]
mod tests;

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::vec::Vec;

use crate::abi;
use crate::abi::memfd::{COMPAT, FOLIO_FLAGS, Memfd, PFN_BITS, SEALS};
use crate::compat::CompatList;
use crate::handover::{Check, Node};
use crate::mem::{Folio, Geometry, Memory, PhysAddr};
use crate::num::u64_of;
use crate::report::{Code, Fault};
use crate::vmalloc::Area;

#[cfg(feature = "std")]
pub use carry::ByPages;
#[cfg(feature = "write")]
pub use save::{Contents, NewFolio};

/// What a node or a session's file of this kind is made of.
pub const MADE_OF: CompatList<'static> = CompatList::new(COMPAT, &[abi::vmalloc::COMPAT]);

/// Linux takes at most so many pages.
pub const MAX_PAGES: u64 = 0xffff_ffff;

/// A memfd that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Pages {
    /// File position in bytes.
    pub pos: u64,
    /// Bytes.
    pub size: u64,
    /// Seals, as `F_GET_SEALS` has them.
    pub seals: u32,
    /// The folios and their page offsets in the file, ascending. What no folio covers is a hole.
    pub folios: Vec<(Folio, u64)>,
}

/// Reads the file whose structure is at `at`, checks all of it and claims what it owns: chunks, array and folios. The
/// page of the structure itself is the caller's to claim.
///
/// # Errors
/// The first break, with the item and the address that it is in.
pub fn read<M: Memory>(node: &mut Node<'_, M>, wire: &Memfd, at: PhysAddr) -> Result<Pages, Fault> {
    let geometry = node.geometry();
    let fault = |code, item: &'static str| Fault::new(code).address(at.get()).item(item);
    if wire.flags.get() != 0 {
        return Err(fault(Code::Reserved, "flags").found(wire.flags).expected(0));
    }
    let (seals, size, nr) = (wire.seals.get(), wire.size.get(), wire.nr_folios.get());
    let pages = check_numbers(geometry, wire.pos.get(), size, seals).map_err(|fault| fault.address(at.get()))?;
    if nr > pages {
        return Err(fault(Code::MemfdSize, "nr_folios")
            .found(nr)
            .expected(format_args!("at most {pages}, the pages of {size} bytes")));
    }
    let mut file = Pages { pos: wire.pos.get(), size, seals, folios: Vec::new() };
    if nr == 0 {
        return match wire.folios.first.get() {
            0 => Ok(file),
            first => Err(fault(Code::MemfdSize, "folios")
                .found(format_args!("an array at {first:#x}"))
                .expected("none, for no folios")),
        };
    }
    let area = node.area(&wire.folios).map_err(|fault| fault.within("folios").address(at.get()))?;
    let room = area.bytes(geometry).checked_div(u64_of(size_of::<abi::memfd::Folio>())).unwrap_or(0);
    if nr > room {
        return Err(fault(Code::MemfdSize, "nr_folios")
            .found(nr)
            .expected(format_args!("at most {room}, what the array holds")));
    }
    let mut records = read_records(node, &area, nr, pages)?;
    records.sort_unstable_by_key(|&(_, index)| index);
    let mut end = 0;
    // Of a file that is another one's folio by folio, one finding says enough.
    let (mut first, mut others) = (None, 0_u64);
    for &(folio, index) in &records {
        if index < end {
            return Err(Fault::new(Code::MemfdIndex)
                .address(folio.addr(geometry).get())
                .item("folios.index")
                .found(format_args!("{index:#x}, inside the folio before it"))
                .expected(format_args!("at least {end:#x}")));
        }
        end = index.saturating_add(folio.order().pages());
        if let Err(fault) = node.claim_held(folio) {
            match &first {
                None => first = Some(fault),
                Some(_) => others = others.saturating_add(1),
            }
        }
    }
    if let Some(fault) = first {
        let more = fault.found_text().to_owned();
        let fault =
            if others == 0 { fault } else { fault.found(format_args!("{more}; and {others} more of its folios so")) };
        node.report(fault.item("folios"));
    }
    file.folios = records;
    Ok(file)
}

/// What Linux takes of a file's numbers; how many pages it has.
fn check_numbers(geometry: Geometry, pos: u64, size: u64, seals: u32) -> Result<u64, Fault> {
    if seals & !SEALS != 0 {
        return Err(Fault::new(Code::MemfdSeals)
            .item("seals")
            .found(format_args!("{seals:#x}"))
            .expected(format_args!("seals of {SEALS:#x}")));
    }
    let pages = geometry.pages(size);
    if pages > MAX_PAGES {
        let fault = Fault::new(Code::TooLarge).item("size").found(size);
        return Err(fault.expected(format_args!("at most {MAX_PAGES} pages")));
    }
    if i64::try_from(pos).is_err() {
        return Err(Fault::new(Code::TooLarge).item("pos").found(pos).expected("below 2^63"));
    }
    Ok(pages)
}

/// The folios of the array, without the holes: those cost a hostile writer nothing, so they cost no memory here.
fn read_records<M: Memory>(node: &Node<'_, M>, area: &Area, nr: u64, pages: u64) -> Result<Vec<(Folio, u64)>, Fault> {
    // As many as a page of the array names; what is more must come first.
    let mut folios = Vec::with_capacity(crate::num::usize_of(nr.min(node.geometry().page_size() >> 4)));
    area.each_record(node.memory(), nr, |number, record: abi::memfd::Folio| {
        let folio = read_record(node, &record, pages).map_err(|fault| {
            let fault = fault.within(&format!("folios[{number}]"));
            match area.place(number.saturating_mul(u64_of(size_of::<abi::memfd::Folio>())), node.geometry()) {
                Some(place) => fault.address(place.get()),
                None => fault,
            }
        })?;
        folios.extend(folio);
        Ok(())
    })?;
    folios.shrink_to_fit();
    Ok(folios)
}

fn read_record<M: Memory>(
    node: &Node<'_, M>,
    record: &abi::memfd::Folio,
    pages: u64,
) -> Result<Option<(Folio, u64)>, Fault> {
    let geometry = node.geometry();
    let word = record.pfn_flags.get();
    let (number, flags) = (word & (1_u64 << PFN_BITS).wrapping_sub(1), word >> PFN_BITS);
    if number == 0 {
        return Ok(None);
    }
    if flags & !FOLIO_FLAGS != 0 {
        return Err(Fault::new(Code::FolioFlags)
            .item("flags")
            .found(format_args!("{flags:#x}"))
            .expected(format_args!("flags of {FOLIO_FLAGS:#x}")));
    }
    let pfn = crate::mem::Pfn::new(number).ok_or_else(|| {
        Fault::new(Code::TooLarge).item("pfn").found(format_args!("{number:#x}")).expected("below 2^47")
    })?;
    let address = pfn.addr(geometry).get();
    let folio = node.tree().holder(pfn).ok_or_else(|| {
        let fault = Fault::new(Code::NotPreserved).address(address).item("pfn");
        let meant = PhysAddr::new(number).page(geometry).filter(|page| node.tree().holder(*page).is_some());
        match meant {
            Some(page) => {
                fault.found(format_args!("{pfn}, which is not preserved; as an address it is {page}, which is"))
            }
            None => fault.found(format_args!("{pfn}, which is not preserved")),
        }
    })?;
    if folio.pfn() != pfn {
        return Err(Fault::new(Code::PreservedOtherwise)
            .address(address)
            .item("pfn")
            .found(format_args!("{pfn}, inside {folio}"))
            .expected("the first page of a preserved block"));
    }
    let index = record.index.get();
    let fault = || Fault::new(Code::MemfdIndex).address(address).item("index").found(format_args!("{index:#x}"));
    if index & folio.order().pages().wrapping_sub(1) != 0 {
        return Err(
            fault().expected(format_args!("a multiple of {:#x}, the pages of the folio", folio.order().pages()))
        );
    }
    // Its first page: the last folio may be larger than what is left of the file.
    if index >= pages {
        return Err(fault().expected(format_args!("below {pages:#x}, the pages of the file")));
    }
    Ok(Some((folio, index)))
}

/// Reads a memfd that is a node of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemfdNode;

impl<M: Memory> Check<M> for MemfdNode {
    type Checked = Pages;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Pages, Fault> {
        let wire: Memfd = node.blob_as()?;
        read(node, &wire, node.blob_range().start())
    }
}
