//! A kernel in miniature: no std, its own panic handler and allocator, and the reading side of kho.
//!
//! Unsafe: the allocator gives every caller a piece of its own of one static array, and the entry point trusts its
//! caller for one pointer and length.
#![no_std]

extern crate alloc;

use alloc::string::ToString as _;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use kho::fdt::Fdt;
use kho::handover::{Incoming, Registry, Verdict};
use kho::mem::{Geometry, PageRange, Pfn, PhysAddr, Ram};
use kho::radix::Tree;

const ROOM: usize = 16 << 20;

/// Hands out the array from its start on and takes nothing back.
struct Bump {
    room: UnsafeCell<[u8; ROOM]>,
    used: AtomicUsize,
}

// SAFETY: the array is reached only through the pieces that `alloc` gives out, no two of which overlap: `used` only
// grows, and by one atomic step for each piece.
unsafe impl Sync for Bump {}

// SAFETY: a piece lies inside the array, is aligned as asked, overlaps no other one, and stays for ever.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.room.get().cast::<u8>();
        let end_of = |used: usize| {
            let skip = start.wrapping_add(used).align_offset(layout.align());
            used.checked_add(skip)?.checked_add(layout.size()).filter(|&end| end <= ROOM)
        };
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end_of) {
            Ok(used) => {
                let skip = start.wrapping_add(used).align_offset(layout.align());
                start.wrapping_add(used + skip)
            }
            Err(_) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Bump = Bump { room: UnsafeCell::new([0; ROOM]), used: AtomicUsize::new(0) };

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Plans the handover in `len` bytes of memory that begin at physical address 4096, with its root FDT at `root`.
/// Gives how many errors there are; text of the first one goes to nobody, but is made.
///
/// # Safety
/// `image` points to `len` bytes, which do not change until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kho_no_std_look(image: *const u8, len: usize, root: u64) -> u64 {
    // SAFETY: as the caller promises.
    let bytes = unsafe { core::slice::from_raw_parts(image, len) };
    look(bytes, root).unwrap_or(u64::MAX)
}

fn look(bytes: &[u8], root: u64) -> Option<u64> {
    let pages = Geometry::K4.pages(u64::try_from(bytes.len()).ok()?);
    let mut memory = Ram::new(Geometry::K4, PageRange::new(Pfn::new(1)?, pages)?);
    memory.poke(PhysAddr::new(4096), bytes).ok()?;

    // Each by itself, and then all of it.
    let tree = Fdt::parse(bytes).ok().map(|fdt| fdt.walk().count());
    let preserved = Tree::load(&memory, PhysAddr::new(root)).ok().map(|loaded| loaded.tree.pages());
    let plan = Incoming::new(memory, PhysAddr::new(root)).plan(&Registry::observing());
    let text = plan.findings().kept().first().map(|finding| finding.to_string().len());
    let fine = plan.verdict() == Verdict::Fine;
    match (tree, preserved, text) {
        (None, None, None) if fine => Some(0),
        _ => Some(plan.findings().errors()),
    }
}
