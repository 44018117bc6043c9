//! What the fuzz targets share: memory from a few bytes, and the shapes of the nodes that they know.

mod state;

use kho::compat::{Compat, CompatList};
use kho::mem::{Geometry, Memory as _, PageRange, Pfn, PhysAddr, Ram};
use kho::payload::{ARRAY_USE, RECORDS_USE};

pub use state::{Bus, Raw, repaired};

/// The first page of all memory here.
pub const FIRST: u64 = 0x10;
/// So many pages there are.
pub const PAGES: u64 = 64;

/// What the node `bytes` is.
pub const BYTES: CompatList<'static> = CompatList::new(Compat::new("fuzz-bytes", 1), &[]);
/// What the node `table` is.
pub const TABLE: CompatList<'static> = CompatList::new(Compat::new("fuzz-table", 1), RECORDS_USE);
/// What the node `array` is.
pub const ARRAY: CompatList<'static> = CompatList::new(Compat::new("fuzz-array", 1), ARRAY_USE);

/// Empty memory.
///
/// # Panics
/// Never: the pages are below the limit.
#[must_use]
pub fn empty(geometry: Geometry) -> Ram {
    let window = Pfn::new(FIRST).and_then(|first| PageRange::new(first, PAGES));
    Ram::new(geometry, window.expect("pages below the limit"))
}

/// Memory from few bytes, so that a mutation changes what is read and not the nothing between: which page size, which
/// page the input is about, then pieces. A piece is its page, its offset (2 bytes, little-endian), its length, and so
/// many bytes. None when there is no input.
#[must_use]
pub fn memory(data: &[u8]) -> Option<(Ram, PhysAddr)> {
    let (&[geometry, about], mut rest) = data.split_first_chunk()?;
    let geometry = *Geometry::ALL.get(usize::from(geometry) % Geometry::ALL.len())?;
    let mut memory = empty(geometry);
    while let Some((&[page, low, high, len], bytes)) = rest.split_first_chunk() {
        let (bytes, next) = bytes.split_at_checked(len.into()).unwrap_or((bytes, &[]));
        let offset = u64::from(u16::from_le_bytes([low, high])) % geometry.page_size();
        // What would reach beyond the end is left out.
        let _ = memory.poke(address(geometry, page).checked_add(offset)?, bytes);
        rest = next;
    }
    Some((memory, address(geometry, about)))
}

/// The bytes that make [`memory`] like this one, about this page.
#[must_use]
pub fn written(memory: &Ram, about: PhysAddr) -> Vec<u8> {
    let geometry = memory.geometry();
    let number = |at: PhysAddr| u8::try_from((at.get() >> geometry.page_shift()) - FIRST).unwrap_or(u8::MAX);
    let index = Geometry::ALL.iter().position(|other| *other == geometry);
    let mut bytes = vec![index.and_then(|index| u8::try_from(index).ok()).unwrap_or(0), number(about)];
    for page in 0..u8::try_from(PAGES).unwrap_or(u8::MAX) {
        let mut whole = vec![0; usize::try_from(geometry.page_size()).unwrap_or(0)];
        let _ = memory.read(address(geometry, page), &mut whole);
        for (offset, piece) in (0..).step_by(128).zip(whole.chunks(128)) {
            let Some(last) = piece.iter().rposition(|&byte| byte != 0) else { continue };
            let [low, high, ..] = u32::to_le_bytes(offset);
            bytes.extend([page, low, high, u8::try_from(last + 1).unwrap_or(u8::MAX)]);
            bytes.extend(piece.iter().take(last + 1));
        }
    }
    bytes
}

fn address(geometry: Geometry, page: u8) -> PhysAddr {
    PhysAddr::new((FIRST + u64::from(page) % PAGES) << geometry.page_shift())
}
