//! The memory of a virtual machine    kho-guest-memory-v1
//!
//! Two things, both for memory as rust-vmm has it (feature `vm-memory`):
//!
//! - `Guest` reads a handover that lies in a guest's RAM, as a kernel there left it: any `vm_memory::GuestMemoryBackend`
//!   is a [`Memory`], for plans, readers and [`Image::of_memory`](crate::mem::Image::of_memory).
//! - A `GuestMemoryMmap` is handed over to the next VMM as a table of its regions: address, size, memfd, offset,
//!   protection, flags. The memfds travel as descriptors. The successor maps them again, and not a byte is copied.
//!
//! What cannot be handed over so is told by `preserve`, before anybody leaves: anonymous memory, private mappings, files
//! that are no memfds, memfds that can still be truncated. A memfd without `F_SEAL_SHRINK` would be a SIGBUS in the
//! successor, whenever somebody who still has it cuts it. Dirty bitmaps are not handed over: what comes back has a fresh
//! one.
//!
//! ```
//! # #[cfg(feature = "vm-memory")] {
//! use kho::files::FilesNode;
//! use kho::guest::{self, GuestMemoryNode};
//! use kho::handover::{Incoming, Outgoing, Registry};
//! use kho::transport::Bundle;
//! use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
//! use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
//! # use kho::mem::Arena;
//!
//! kho::manifest! {
//!     static MANIFEST = [both("files", &[kho::files::MADE_OF]), both(guest::NODE, &[guest::MADE_OF])];
//! }
//!
//! // The predecessor: two regions, as around a hole for devices, in one memfd that cannot be truncated.
//! let ram = memfd_create("guest-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
//! ftruncate(&ram, 8 << 20)?;
//! fcntl_add_seals(&ram, SealFlags::SHRINK)?;
//! let ram = std::sync::Arc::new(std::fs::File::from(ram));
//! let region = |at, size, offset| (GuestAddress(at), size, Some(FileOffset::from_arc(ram.clone(), offset)));
//! let regions = [region(0, 6 << 20, 0), region(4 << 30, 2 << 20, 6 << 20)];
//! let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges_with_files(regions)?;
//! memory.write_slice(b"above the hole", GuestAddress(4 << 30))?;
//!
//! let mut outgoing = Outgoing::of(Bundle::new(1 << 20)?, &MANIFEST);
//! outgoing.preserve(guest::NODE, &memory)?;
//! # let (mut bundle, root) = outgoing.finish()?.into_parts();
//! # let files = std::mem::take(kho::files::Beside::files_mut(&mut bundle));
//! # let arena = Arena::open(bundle.into_arena().into_fd()?)?;
//! # let incoming = Incoming::new(Bundle::of(arena, files), root.start());
//! # drop(memory);
//!
//! // The successor.
//! let mut registry = Registry::of(&MANIFEST);
//! registry.add(kho::abi::files::NODE, FilesNode);
//! let node = registry.add(guest::NODE, GuestMemoryNode::new());
//! let mut restored = incoming.plan(&registry).accept()?.restore()?;
//! let memory: GuestMemoryMmap = restored.take(&node).ok_or("no guest memory came")?;
//! let mut bytes = [0; 14];
//! memory.read_slice(&mut bytes, GuestAddress(4 << 30))?;
//! assert_eq!(&bytes, b"above the hole");
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! Files that the program hands over itself are others: a memfd has one token, and [`Code::FileDuplicate`] refuses to give
//! it a second one. What the table gave is in [`Files`](crate::files::Files) too, from [`files::OURS`](crate::files::OURS)
//! on.

use alloc::format;
use alloc::vec::Vec;

use crate::abi;
use crate::abi::guest::{
    COMPAT, MAP_NORESERVE, MAP_POPULATE, MAP_SHARED, MAX_REGIONS, PROT_READ, PROT_WRITE, Region, Table,
};
use crate::compat::CompatList;
use crate::handover::Node;
use crate::mem::Memory;
use crate::report::{Code, Fault};

#[cfg(feature = "vm-memory")]
mod backing;
#[cfg(all(test, feature = "vm-memory"))]
mod hostile;
#[cfg(feature = "vm-memory")]
mod memory;
#[cfg(all(test, feature = "vm-memory"))]
mod memory_tests;
#[cfg(feature = "vm-memory")]
mod regions;
#[cfg(all(test, feature = "vm-memory"))]
mod tests;

pub use crate::abi::guest::NODE;
#[cfg(feature = "vm-memory")]
pub use memory::Guest;
#[cfg(feature = "vm-memory")]
pub use regions::{Checked, GuestMemoryNode};

/// What the node is made of.
pub const MADE_OF: CompatList<'static> = CompatList::new(COMPAT, &[abi::block::COMPAT]);

/// Reads the table of a node and checks what can be checked without the files, as of an image, whose files are elsewhere.
/// What is wrong with a region is reported, and it is among the others all the same.
///
/// # Errors
/// As [`Node::blob_as`] and [`Node::records`]; [`Code::GuestRegions`] for an empty table, [`Code::TooLarge`] for one of
/// more than [`MAX_REGIONS`].
pub fn read<M: Memory>(node: &mut Node<'_, M>) -> Result<Vec<Region>, Fault> {
    Ok(looked(node)?.into_iter().map(|(region, _)| region).collect())
}

/// The regions, and whether each is fine by itself and behind the one before it.
fn looked<M: Memory>(node: &mut Node<'_, M>) -> Result<Vec<(Region, bool)>, Fault> {
    let table: Table = node.blob_as()?;
    let at = node.blob_range().start().get();
    is_count(table.count.get()).map_err(|fault| fault.address(at))?;
    let regions: Vec<Region> =
        node.records(table.regions.get(), table.count.get()).map_err(|fault| fault.within("regions"))?;
    let page = node.geometry().page_size();
    let mut row = Row::default();
    let looked = regions.into_iter().enumerate().map(|(number, region)| {
        // Also behind one that is wrong the next has its place.
        let place = row.place(&region);
        let fine = node.part(&item(number), |_| by_itself(&region, page).and(place)).is_some();
        (region, fine)
    });
    Ok(looked.collect())
}

fn item(number: usize) -> alloc::string::String {
    format!("regions[{number}]")
}

fn is_count(count: u64) -> Result<(), Fault> {
    let code = match count {
        0 => Code::GuestRegions,
        1..=MAX_REGIONS => return Ok(()),
        _ => Code::TooLarge,
    };
    Err(Fault::new(code).item("count").found(count).expected(format_args!("1 to {MAX_REGIONS} regions")))
}

/// Whether a region could be mapped by somebody who has the file.
fn by_itself(region: &Region, page: u64) -> Result<(), Fault> {
    let fault = |code, item: &'static str, found: u64| Fault::new(code).item(item).found(format_args!("{found:#x}"));
    let (prot, flags) = (region.prot.get(), region.flags.get());
    if prot != PROT_READ && prot != PROT_READ | PROT_WRITE {
        let fault = fault(Code::GuestMapping, "prot", prot.into());
        return Err(fault.expected("0x1 (read) or 0x3 (read and write)"));
    }
    if flags & MAP_SHARED == 0 || flags & !(MAP_SHARED | MAP_NORESERVE | MAP_POPULATE) != 0 {
        let fault = fault(Code::GuestMapping, "flags", flags.into());
        return Err(fault.expected("0x1 (shared), with 0x4000 (no reserve) or 0x8000 (populate) or without"));
    }
    if region.reserved != 0 {
        return Err(fault(Code::Reserved, "reserved", region.reserved.get()).expected(0));
    }
    let (guest, size, offset) = (region.guest.get(), region.size.get(), region.offset.get());
    if size == 0 {
        return Err(fault(Code::GuestRegions, "size", 0).expected("at least a page"));
    }
    aligned(region, page)?;
    if guest.checked_add(size).is_none() {
        let fault = fault(Code::TooLarge, "size", size);
        return Err(fault.expected(format_args!("an end of what begins at {guest:#x} below 2^64")));
    }
    // Offsets in files are signed.
    if offset.checked_add(size).is_none_or(|end| i64::try_from(end).is_err()) {
        let fault = fault(Code::TooLarge, "offset", offset);
        return Err(fault.expected(format_args!("an end, {size:#x} bytes behind it, below 2^63")));
    }
    Ok(())
}

/// Whether size and offset are multiples of the page size.
fn aligned(region: &Region, page: u64) -> Result<(), Fault> {
    let fields = [("size", region.size.get()), ("offset", region.offset.get())];
    match fields.into_iter().find(|(_, value)| value.checked_rem(page) != Some(0)) {
        None => Ok(()),
        Some((item, found)) => {
            let fault = Fault::new(Code::Unaligned).item(item).found(format_args!("{found:#x}"));
            Err(fault.expected(format_args!("a multiple of {page:#x}, the page size")))
        }
    }
}

/// The regions so far, one behind the other.
#[derive(Default)]
struct Row {
    /// First address of the last one, and the end of all.
    last: Option<(u64, u64)>,
}

impl Row {
    /// Whether this one is behind those before it.
    fn place(&mut self, region: &Region) -> Result<(), Fault> {
        let start = region.guest.get();
        let end = start.saturating_add(region.size.get());
        let fault = || Fault::new(Code::GuestRegions).item("guest").found(format_args!("{start:#x}"));
        let (before, taken) = self.last.unwrap_or((0, 0));
        self.last = Some((start, end.max(taken)));
        if start < before {
            return Err(fault().expected(format_args!("an address behind {before:#x}, where the one before it begins")));
        }
        if start < taken {
            return Err(fault().expected(format_args!("at least {taken:#x}, where those before it end")));
        }
        Ok(())
    }
}
