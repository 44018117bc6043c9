//! Any bytes as a kernel, and as the memory map of a machine: where everything goes, nothing lies on anything else, and
//! all of it in memory. The input begins with the length of the map (2 bytes), which is text or a page of parameters.
#![cfg_attr(feature = "run", no_main)]

use kho::kexec::{Boot, BzImage, MemoryMap};
use kho::mem::{PhysAddr, PhysRange};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&len, rest)) = data.split_first_chunk() else { return };
    let Some((map, kernel)) = rest.split_at_checked(usize::from(u16::from_le_bytes(len))) else { return };
    let text = std::str::from_utf8(map).ok().and_then(|text| MemoryMap::parse(text).ok());
    let kernel = BzImage::new(kernel.to_vec());
    for memory in text.into_iter().chain(MemoryMap::of_boot_params(map)) {
        assert!(memory.ranges().windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start()));
        let Ok(kernel) = &kernel else { continue };
        let boot = Boot { kernel, initrd: map, command_line: b"kho=on", memory: &memory, rsdp: None, handover: None };
        let Ok(segments) = boot.segments() else { continue };
        let mut end = PhysAddr::new(0x10_0000);
        for segment in segments.list() {
            assert!(segment.at >= end && segment.bytes.len() as u64 <= segment.size);
            let range = PhysRange::new(segment.at, segment.size).expect("inside memory");
            assert!(memory.ram().any(|ram| ram.contains(range.start(), range.size())), "{range}");
            end = range.end();
        }
    }
});

#[cfg(not(feature = "run"))]
fn main() {}
