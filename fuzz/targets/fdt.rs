//! Any bytes as a device tree: parse, walk, look up, print, decode. What is printed is not looked at, only made.
#![cfg_attr(feature = "run", no_main)]

use kho::fdt::{Event, Fdt, dts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let decoded = kho::inspect::device_tree(data);
    let Ok(fdt) = Fdt::parse(data) else {
        assert!(decoded.is_err());
        return;
    };
    let (mut depth, mut events) = (0_usize, 0_usize);
    for event in fdt.walk() {
        events += 1;
        match event {
            Event::Enter(node) => {
                depth += 1;
                assert!(node.properties().count() <= data.len() && node.children().count() <= data.len());
                let _ = std::str::from_utf8(node.name()).map(|name| fdt.root().child_as_linux(name));
            }
            Event::Property(property) => {
                assert!(property.value().len() <= data.len());
                let _ = (property.u32_native(), property.u64_native());
                let _ = property.strings().map(Iterator::count);
                let _ = property.mem_ranges().count();
            }
            Event::Leave => depth -= 1,
        }
    }
    assert!(depth == 0 && events <= data.len());
    let _ = fdt.reservations().count();
    if let Ok(edited) = fdt.with_properties("chosen", &[("linux,kho-fdt", &[0; 16])]) {
        assert!(Fdt::parse(&edited).is_ok(), "what is edited is a tree");
    }
    let mut text = String::new();
    dts::print(&fdt, &mut text).expect("a string takes everything");
    decoded.expect("it could be parsed").print_dts(&mut text).expect("a string takes everything");
});

#[cfg(not(feature = "run"))]
fn main() {}
