//! Any file as `kho dump`, `kho check`, `kho map` and `kho extract` take it: an ELF core, an arena, raw memory.
#![cfg_attr(feature = "run", no_main)]

use std::fs::File;
use std::io::{self, Write};

use kho::inspect::{Opened, Options};
use kho::mem::{Geometry, Image, PhysAddr, Source};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

fn file(data: &[u8]) -> File {
    let mut file = File::from(memfd_create(c"fuzz", MemfdFlags::CLOEXEC).expect("memfd_create"));
    file.write_all(data).expect("a memfd takes it");
    file
}

/// Takes some megabytes: a pipe may get up to 1 GiB of zeros, which would be all that is tried.
struct Limited(usize);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| io::Error::other("enough"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
    let opened = match Opened::of(image, &Options { map: true, ..Options::default() }) {
        Ok(opened) => opened,
        Err(error) => return drop((error.to_string(), error.hint(), error.is_broken())),
    };
    let mut text = String::new();
    opened.decoded.print_dts(&mut text).expect("a string takes everything");
    let nodes = opened.decoded.nodes.iter().filter_map(|node| opened.find(node.name.as_bytes()));
    for item in opened.memfds().into_iter().chain(nodes) {
        let name = item.place().file_name();
        assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
        if let Ok(done) = opened.stream(&item, &mut Limited(4 << 20)) {
            assert_eq!(Some(done.bytes), item.size());
        }
        let out = file(&[]);
        if let Ok(done) = opened.extract(&item, &out) {
            assert_eq!(out.metadata().expect("fstat").len(), done.bytes);
        }
    }
});

#[cfg(not(feature = "run"))]
fn main() {}
