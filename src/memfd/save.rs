//! A memfd out of bytes.

use alloc::format;
use alloc::vec::Vec;

use zerocopy::IntoBytes as _;

use super::{MADE_OF, check_numbers};
use crate::abi::memfd::{FOLIO_DIRTY, FOLIO_UPTODATE, Folio as Record, Memfd, PFN_BITS};
use crate::compat::CompatList;
use crate::handover::{Blob, Home, Preserve, Scope};
use crate::mem::{Folio, Frames as _, Geometry, Memory as _, Order};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// A memfd to be authored: what the next kernel, or a successor, gets as a file.
///
/// ```
/// use kho::mem::{Geometry, Order};
/// use kho::memfd::{Contents, NewFolio};
///
/// // Three pages, in a folio of two and one of one.
/// let file = Contents::new(Geometry::K4, &[7; 9000], Order::new(9).unwrap());
/// assert_eq!(file.folios.iter().map(|folio| folio.order.pages()).collect::<Vec<_>>(), [2, 1]);
/// // A hole of 1 GiB, and a byte.
/// let at_the_end = NewFolio { index: 1 << 18, order: Order::ZERO, bytes: b"x" };
/// let file = Contents { pos: 0, size: (1 << 30) + 1, seals: 0, folios: vec![at_the_end] };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents<'a> {
    /// File position in bytes, below 2^63.
    pub pos: u64,
    /// Bytes, at most 2^32 - 1 pages.
    pub size: u64,
    /// Seals, as `F_GET_SEALS` has them, of [`SEALS`](crate::abi::memfd::SEALS).
    pub seals: u32,
    /// The folios, by index. What none covers is a hole.
    pub folios: Vec<NewFolio<'a>>,
}

/// A folio of a memfd that is to be authored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFolio<'a> {
    /// Page offset in the file, a multiple of its pages. Of the last folio, only the first page must be in the file.
    pub index: u64,
    /// log2 of its pages.
    pub order: Order,
    /// What it holds from its start on, none of it beyond the end of the file; the rest is zero.
    pub bytes: &'a [u8],
}

impl<'a> Contents<'a> {
    /// A file of these bytes, without seals and at position 0, in folios of at most that order; the tail is in smaller
    /// ones.
    #[must_use]
    pub fn new(geometry: Geometry, bytes: &'a [u8], order: Order) -> Self {
        let size = u64_of(bytes.len());
        let (pages, mut folios, mut index) = (geometry.pages(size), Vec::new(), 0_u64);
        while let Some(rest) = pages.checked_sub(index).filter(|&rest| rest > 0) {
            let order = folio_order(index, rest, order);
            let tail = bytes.get(usize_of(index << geometry.page_shift())..).unwrap_or_default();
            let bytes = tail.get(..usize_of(order.bytes(geometry))).unwrap_or(tail);
            folios.push(NewFolio { index, order, bytes });
            index = index.saturating_add(order.pages());
        }
        Contents { pos: 0, size, seals: 0, folios }
    }

    /// Writes the file; the structure that describes it.
    pub(crate) fn store<M: Home>(&self, scope: &mut Scope<'_, M>) -> Result<Memfd, Fault> {
        let pages = check_numbers(scope.geometry(), self.pos, self.size, self.seals)?;
        let (mut records, mut end) = (Vec::new(), 0);
        for (number, folio) in self.folios.iter().enumerate() {
            let within = |fault: Fault| fault.within(&format!("folios[{number}]"));
            end = self.check_folio(scope.geometry(), folio, pages, end).map_err(within)?;
            let frame = scope.alloc_bulk(folio.order).map_err(|error| within(error.into()))?;
            scope.write(&frame, 0, folio.bytes)?;
            records.push(record(frame.folio(), folio.index));
        }
        store(scope, self.pos, self.size, self.seals, &records)
    }

    /// The first page behind the folio.
    fn check_folio(&self, geometry: Geometry, folio: &NewFolio<'_>, pages: u64, end: u64) -> Result<u64, Fault> {
        let wrong = || Fault::new(Code::MemfdIndex).item("index").found(format_args!("{:#x}", folio.index));
        if folio.index & folio.order.pages().wrapping_sub(1) != 0 {
            return Err(wrong().expected(format_args!("a multiple of {:#x}, its pages", folio.order.pages())));
        }
        if folio.index < end || folio.index >= pages {
            let range = format_args!("at least {end:#x} and below {pages:#x}, the pages of the file");
            return Err(wrong().expected(range));
        }
        let rest = self.size.saturating_sub(folio.index << geometry.page_shift());
        let room = folio.order.bytes(geometry).min(rest);
        if u64_of(folio.bytes.len()) > room {
            let fault = Fault::new(Code::MemfdSize).item("bytes").found(folio.bytes.len());
            return Err(fault.expected(format_args!("at most {room}, what the folio and the file hold")));
        }
        Ok(folio.index.saturating_add(folio.order.pages()))
    }
}

impl<M: Home> Preserve<M> for Contents<'_> {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        let wire = self.store(scope)?;
        scope.blob(wire.as_bytes())
    }
}

/// The largest folio that can start at that index, of so many pages that are left.
pub(super) fn folio_order(index: u64, rest: u64, most: Order) -> Order {
    let order = index.trailing_zeros().min(rest.max(1).ilog2()).min(most.get());
    Order::new(order).unwrap_or(Order::ZERO)
}

/// As Linux has it: dirty, and up to date.
pub(super) fn record(folio: Folio, index: u64) -> Record {
    let flags = (FOLIO_DIRTY | FOLIO_UPTODATE) << PFN_BITS;
    Record { pfn_flags: (folio.pfn().get() | flags).into(), index: index.into() }
}

/// Writes the array of records; the structure that describes the file.
pub(super) fn store<M: Home>(
    scope: &mut Scope<'_, M>,
    pos: u64,
    size: u64,
    seals: u32,
    records: &[Record],
) -> Result<Memfd, Fault> {
    let folios = match records {
        [] => zerocopy::FromZeros::new_zeroed(),
        records => scope.area_of(Order::ZERO, records.as_bytes())?.descriptor,
    };
    let nr_folios = u64_of(records.len()).into();
    Ok(Memfd { pos: pos.into(), size: size.into(), seals: seals.into(), flags: 0.into(), nr_folios, folios })
}
