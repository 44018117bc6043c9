//! Any file as `kho dump` and `kho check` take it: an ELF core, an arena, raw memory.
#![cfg_attr(feature = "run", no_main)]

use std::fs::File;
use std::io::Write as _;

use kho::inspect::{self, Options};
use kho::mem::{Geometry, Image, PhysAddr, Source};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

fn file(data: &[u8]) -> File {
    let mut file = File::from(memfd_create(c"fuzz", MemfdFlags::CLOEXEC).expect("memfd_create"));
    file.write_all(data).expect("a memfd takes it");
    file
}

fuzz_target!(|data: &[u8]| {
    let image = match Image::from_file(file(data)) {
        Ok(Source::Image(image)) => image,
        Ok(_) => return,
        Err(_) => match Image::raw(file(data), PhysAddr::new(1 << 16), Geometry::K4) {
            Ok(image) => image,
            Err(_) => return,
        },
    };
    match inspect::memory(image, &Options::default()) {
        Ok(decoded) => {
            let mut text = String::new();
            decoded.print_dts(&mut text).expect("a string takes everything");
        }
        Err(error) => drop((error.to_string(), error.hint(), error.is_broken())),
    }
});

#[cfg(not(feature = "run"))]
fn main() {}
