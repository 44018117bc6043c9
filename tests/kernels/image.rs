//! Images with a version changed: unpacked, and packed again so that they boot.

use std::io::{Read as _, Write as _};
use std::path::Path;

use super::{Arch, Kernel};

/// The kernel itself, unpacked: vmlinux of x86-64, Image of arm64.
pub(crate) fn unpacked(kernel: &Kernel) -> Vec<u8> {
    let image = kernel.bytes();
    if kernel.arch == Arch::Arm64 {
        return image;
    }
    let packed = &image[payload(&image)];
    let mut vmlinux = Vec::new();
    match packed[0] {
        0xfd => lzma_rust2::XzReader::new(packed, false).read_to_end(&mut vmlinux).unwrap(),
        0x1f => flate2::read::GzDecoder::new(packed).read_to_end(&mut vmlinux).unwrap(),
        other => panic!("this test does not unpack {other:#x}"),
    };
    vmlinux
}

/// Where the packed kernel is in a bzImage.
fn payload(image: &[u8]) -> std::ops::Range<usize> {
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let start = (usize::from(image[0x1f1]) + 1) * 512 + word(0x248);
    start..start + word(0x24c)
}

/// Writes another version over this one, wherever the string is.
pub(crate) fn change(image: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let from = [from.as_bytes(), b"\0"].concat();
    let places: Vec<usize> = (0..image.len() - from.len()).filter(|&at| image[at..].starts_with(&from)).collect();
    assert!(!places.is_empty(), "{from:?}");
    places.iter().for_each(|&at| image[at..at + to.len()].copy_from_slice(to.as_bytes()));
}

/// The same kernel with other versions in it, as a file that boots; none where it is larger when packed again, because
/// nothing in a bzImage can be moved.
pub(crate) fn altered(kernel: &Kernel, changes: &[(&str, &str)], folder: &Path) -> Option<Kernel> {
    let mut inner = unpacked(kernel);
    changes.iter().for_each(|(from, to)| change(&mut inner, from, to));
    if kernel.arch == Arch::X86 {
        let mut image = kernel.bytes();
        let place = payload(&image);
        // At the end of what is packed, the kernel's build wrote the size of what comes out, which is the same.
        let room = place.len() - 4;
        let packed = packed(&inner, image[place.start])?;
        let Some(rest) = room.checked_sub(packed.len()) else {
            eprintln!("{}: {} bytes when packed again, and room for {room}", kernel.path.display(), packed.len());
            return None;
        };
        image[place.start..place.start + packed.len()].copy_from_slice(&packed);
        image[place.start + packed.len()..][..rest].fill(0);
        inner = image;
    }
    let path = folder.join(format!("altered-{}", changes[0].1));
    std::fs::write(&path, inner).unwrap();
    Some(Kernel { path, ..kernel.clone() })
}

/// As kernels are packed; none for what they are not packed with here.
fn packed(bytes: &[u8], first: u8) -> Option<Vec<u8>> {
    if first != 0xfd {
        eprintln!("this test does not pack {first:#x}");
        return None;
    }
    let mut options = lzma_rust2::XzOptions::with_preset(6);
    options.check_type = lzma_rust2::CheckType::Crc32;
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    options.lzma_options.nice_len = 273;
    options.lzma_options.depth_limit = 512;
    let mut to = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    to.write_all(bytes).unwrap();
    Some(to.finish().unwrap())
}
