//! Any memory as lists of pages: block sets and vmalloc areas. Beside the memory, the input begins with a descriptor.
#![cfg_attr(feature = "run", no_main)]

use kho::abi::luo::{File, Session};
use kho::abi::vmalloc::Descriptor;
use kho::mem::{Bits, Memory as _, PhysAddr};
use kho::vmalloc::Area;
use kho::{block, vmalloc};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;
use zerocopy::little_endian::U64;

fuzz_target!(|data: &[u8]| {
    let Ok((descriptor, data)) = Descriptor::read_from_prefix(data) else { return };
    let Some((memory, about)) = kho_fuzz::memory(data) else { return };

    // All with one account of pages that were read, as a plan has it.
    let mut taken = Bits::new();
    if let Ok(vmalloc::Loaded { area, chunks }) = Area::load(&memory, &descriptor, &mut taken) {
        assert_eq!(area.total_pages(), descriptor.total_pages.get());
        assert!(chunks.len() as u64 <= kho_fuzz::PAGES);
        let _ = area.check_unique(memory.geometry());
        let _ = area.read_records::<U64>(&memory, area.bytes(memory.geometry()) / 16);
    }
    let first = PhysAddr::new(descriptor.first.get());
    let count = u64::from(descriptor.total_pages.get());
    let _ = block::load::<Session>(&memory, about, None, &mut taken);
    let _ = block::survey(&memory, first, u64::from(descriptor.order.get()), count, &mut taken);
    assert!(taken.len() <= kho_fuzz::PAGES);

    // Each on its own: what another one has read is no error then.
    if let Ok(block::Loaded { records, blocks }) = block::load::<File>(&memory, about, None, &mut Bits::new()) {
        assert!(blocks.len() as u64 <= kho_fuzz::PAGES && records.len() >= blocks.len());
        let again = block::load::<File>(&memory, about, Some(records.len() as u64), &mut Bits::new());
        assert!(again.expect("the right count").records == records);
    }
    let _ = Area::load(&memory, &Descriptor { first: about.get().into(), ..descriptor }, &mut Bits::new());
});

#[cfg(not(feature = "run"))]
fn main() {}
