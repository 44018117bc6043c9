//! Addresses that cannot be mixed up and cannot overflow.
//!
//! A [`PhysAddr`] is any byte. A [`Pfn`] is a page number below 2^47, so that every page, folio and range ends below
//! 2^63 in every geometry and no sum of them overflows; real machines end at 2^57. What a hostile tree claims beyond is
//! refused where it is read.

use core::fmt;

use super::Geometry;
use crate::num::index_of;

/// A physical address, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// The address with that number. Any number is an address; 0 means "none" in every structure of the handover.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        PhysAddr(bytes)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on, unless that overflows.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(PhysAddr(sum)),
            None => None,
        }
    }

    /// The page that starts here; none when the address is not page-aligned or beyond the last page.
    #[must_use]
    pub const fn page(self, geometry: Geometry) -> Option<Pfn> {
        if self.0 & (geometry.page_size().wrapping_sub(1)) == 0 {
            Pfn::new(self.0 >> geometry.page_shift())
        } else {
            None
        }
    }

    /// The page that this byte is in.
    #[must_use]
    pub const fn page_around(self, geometry: Geometry) -> Option<Pfn> {
        Pfn::new(self.0 >> geometry.page_shift())
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A range of bytes by physical address that does not wrap. It may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PhysRange {
    start: PhysAddr,
    size: u64,
}

impl PhysRange {
    /// The range of `size` bytes from `start` on; none when it would pass the end of the address space.
    #[must_use]
    pub const fn new(start: PhysAddr, size: u64) -> Option<Self> {
        match start.0.checked_add(size) {
            Some(_) => Some(PhysRange { start, size }),
            None => None,
        }
    }

    /// The first byte.
    #[must_use]
    pub const fn start(self) -> PhysAddr {
        self.start
    }

    /// The size in bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The first byte behind the range.
    #[must_use]
    pub const fn end(self) -> PhysAddr {
        PhysAddr(self.start.0.saturating_add(self.size))
    }

    /// Whether all `len` bytes from `at` on are inside.
    #[must_use]
    pub const fn contains(self, at: PhysAddr, len: u64) -> bool {
        match at.0.checked_sub(self.start.0) {
            Some(skip) => match self.size.checked_sub(skip) {
                Some(rest) => len <= rest,
                None => false,
            },
            None => false,
        }
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start(), self.end())
    }
}

/// A page frame number, below [`Pfn::LIMIT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Pfn(u64);

impl Pfn {
    /// Page numbers are below 2^47.
    pub const LIMIT: u64 = 1 << 47;

    /// The page with that number; none from [`Pfn::LIMIT`] on.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number < Self::LIMIT { Some(Pfn(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address of its first byte.
    #[must_use]
    pub const fn addr(self, geometry: Geometry) -> PhysAddr {
        PhysAddr(self.0 << geometry.page_shift())
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// log2 of the number of pages of a block, at most [`Order::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Order(u8);

impl Order {
    /// One page.
    pub const ZERO: Order = Order(0);
    /// The largest order: half of all pages.
    pub const MAX: Order = Order(46);

    /// The order with that number; none beyond [`Order::MAX`].
    #[must_use]
    #[allow(clippy::as_conversions, reason = "checked to be at most 46; try_from is not const")]
    pub const fn new(order: u32) -> Option<Self> {
        if order <= 46 { Some(Order(order as u8)) } else { None }
    }

    /// The smallest order whose block holds that many bytes.
    #[must_use]
    pub const fn holding(bytes: u64, geometry: Geometry) -> Option<Self> {
        let pages = geometry.pages(bytes);
        match pages.checked_next_power_of_two() {
            Some(pages) => Order::new(pages.trailing_zeros()),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    #[allow(clippy::as_conversions, reason = "widening; From is not const")]
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// As an index into a table by order.
    #[must_use]
    pub const fn index(self) -> usize {
        index_of(self.get())
    }

    /// How many pages a block of this order has.
    #[must_use]
    pub const fn pages(self) -> u64 {
        1 << self.0
    }

    /// How many bytes a block of this order has.
    #[must_use]
    pub const fn bytes(self, geometry: Geometry) -> u64 {
        self.pages() << geometry.page_shift()
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A block of `1 << order` pages, aligned to its own size: the unit of preserving and of restoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Folio {
    pfn: Pfn,
    order: Order,
}

impl Folio {
    /// The block of that order that starts at that page; none when the page is not aligned to the order.
    #[must_use]
    pub const fn new(pfn: Pfn, order: Order) -> Option<Self> {
        // An aligned block below the limit also ends below it: the limit is a power of two above every order.
        if pfn.0 & order.pages().wrapping_sub(1) == 0 { Some(Folio { pfn, order }) } else { None }
    }

    /// One page.
    #[must_use]
    pub const fn page(pfn: Pfn) -> Self {
        Folio { pfn, order: Order::ZERO }
    }

    /// Its first page.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        self.pfn
    }

    /// log2 of its pages.
    #[must_use]
    pub const fn order(self) -> Order {
        self.order
    }

    /// The address of its first byte.
    #[must_use]
    pub const fn addr(self, geometry: Geometry) -> PhysAddr {
        self.pfn.addr(geometry)
    }

    /// Its pages.
    #[must_use]
    pub const fn range(self) -> PageRange {
        PageRange { start: self.pfn, count: self.order.pages() }
    }
}

impl fmt::Display for Folio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} order {}", self.pfn, self.order)
    }
}

/// A run of whole pages. It may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PageRange {
    start: Pfn,
    count: u64,
}

impl PageRange {
    /// `count` pages from `start` on; none when that passes [`Pfn::LIMIT`].
    #[must_use]
    pub const fn new(start: Pfn, count: u64) -> Option<Self> {
        match start.0.checked_add(count) {
            Some(end) if end <= Pfn::LIMIT => Some(PageRange { start, count }),
            _ => None,
        }
    }

    /// The first page.
    #[must_use]
    pub const fn start(self) -> Pfn {
        self.start
    }

    /// How many pages.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.count
    }

    /// The number of the first page behind the range. May be [`Pfn::LIMIT`], which is no page.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.0.saturating_add(self.count)
    }

    /// Whether the page is inside.
    #[must_use]
    pub const fn contains(self, pfn: Pfn) -> bool {
        self.start.0 <= pfn.0 && pfn.0 < self.end()
    }

    /// Whether a page is in both.
    #[must_use]
    pub const fn overlaps(self, other: PageRange) -> bool {
        self.start.0 < other.end() && other.start.0 < self.end() && self.count != 0 && other.count != 0
    }

    /// The bytes of these pages.
    #[must_use]
    pub const fn bytes(self, geometry: Geometry) -> PhysRange {
        // Ends below 2^63, see the head of this file.
        PhysRange { start: self.start.addr(geometry), size: self.count << geometry.page_shift() }
    }

    /// The whole pages around those bytes; none when they are beyond [`Pfn::LIMIT`].
    #[must_use]
    pub const fn around(bytes: PhysRange, geometry: Geometry) -> Option<Self> {
        let first = bytes.start.0 >> geometry.page_shift();
        let end = bytes.end().0.div_ceil(geometry.page_size());
        match Pfn::new(first) {
            Some(start) => PageRange::new(start, end.saturating_sub(first)),
            None => None,
        }
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}..{:#x}", self.start.0, self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overflows_at_the_edges() {
        let last = Pfn::new(Pfn::LIMIT - 1).unwrap();
        assert_eq!(Pfn::new(Pfn::LIMIT), None);
        assert_eq!(PageRange::new(last, 1).unwrap().bytes(Geometry::K64).end().get(), 1 << 63);
        assert_eq!(PageRange::new(last, 2), None);
        assert_eq!(PageRange::new(last, u64::MAX), None);
        assert_eq!(PhysRange::new(PhysAddr::new(u64::MAX), 1), None);
        assert_eq!(Folio::new(last, Order::new(1).unwrap()), None);
        assert_eq!(Order::holding(u64::MAX, Geometry::K4), None);
        assert_eq!(Order::holding(0, Geometry::K4), Some(Order::ZERO));
        assert_eq!(Order::holding(0x1001, Geometry::K4), Order::new(1));
    }

    #[test]
    fn containment_at_the_edges() {
        let range = PhysRange::new(PhysAddr::new(0x1000), 0x1000).unwrap();
        assert!(range.contains(PhysAddr::new(0x1000), 0x1000));
        assert!(range.contains(PhysAddr::new(0x2000), 0));
        assert!(!range.contains(PhysAddr::new(0x1fff), 2));
        assert!(!range.contains(PhysAddr::new(0xfff), 1));
        assert!(!range.contains(PhysAddr::new(0x1800), u64::MAX));
    }

    #[test]
    fn pages_around_bytes() {
        let bytes = PhysRange::new(PhysAddr::new(0x1fff), 2).unwrap();
        let pages = PageRange::around(bytes, Geometry::K4).unwrap();
        assert_eq!((pages.start().get(), pages.count()), (1, 2));
    }
}
