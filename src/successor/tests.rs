//! Images, made here.

use std::io::Write as _;

use super::{By, Profile, is_image};
use crate::mem::Machine;
use crate::report::{Class, Code, Fault};

const BANNER: &[u8] = b"\0Linux version 7.9.1 (me@here) #1 SMP\n\0";
const STRINGS: &[u8] =
    b"\0kho-v4\0not a kho-v5 \0\xffmemfd-v2\0luo-v5\0mshv_kho-v1\0memblock-v1\0spectre_v2\0kexec-metadata\0";

/// What a kernel without sections is: its bytes, with strings in the middle and over the edge of what is read at once.
fn raw(more: &[u8]) -> Vec<u8> {
    let mut image = vec![0x90; 65_536 - 40];
    image.extend_from_slice(STRINGS);
    image.resize(200_000, 0xcc);
    image.extend_from_slice(BANNER);
    image.extend_from_slice(more);
    image.resize(300_000, 0);
    image[..64].fill(0);
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image[0x18] = 0b1010;
    image
}

fn table(entries: &[&str]) -> Vec<u8> {
    let mut table = [0x4c56_5550_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    for entry in entries {
        let mut field = [0; 48];
        field[..entry.len()].copy_from_slice(entry.as_bytes());
        table.extend_from_slice(&field);
    }
    table
}

/// A 64-bit ELF file with these sections.
fn elf(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut names = vec![0];
    let mut body = Vec::new();
    let mut headers = vec![[0; 64]];
    let mut header = |name: u32, kind: u32, offset: usize, size: usize| {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        headers.push(header);
    };
    for (name, bytes) in sections {
        header(names.len() as u32, 1, 64 + body.len(), bytes.len());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        body.extend_from_slice(bytes);
    }
    let at = names.len();
    names.extend_from_slice(b".shstrtab\0");
    header(at as u32, 3, 64 + body.len(), names.len());
    body.extend_from_slice(&names);
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16] = 2;
    file[18] = 62;
    file[20] = 1;
    file[40..48].copy_from_slice(&(64 + body.len() as u64).to_le_bytes());
    file[52] = 64;
    file[58] = 64;
    file[60..62].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    file[62..64].copy_from_slice(&(headers.len() as u16 - 1).to_le_bytes());
    file.extend_from_slice(&body);
    file.extend(headers.concat());
    file
}

fn kernel(table: &[u8]) -> Vec<u8> {
    elf(&[(".rodata", &[BANNER, STRINGS].concat()), (".liveupdate_versions", table)])
}

/// A bzImage whose payload is this; kernels append its size to what is packed.
fn bz_image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 3 * 512];
    image[0x1f1] = 2;
    image[..2].copy_from_slice(b"MZ");
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
    image.resize(3 * 512 + 100, 0);
    image.extend_from_slice(payload);
    image.extend_from_slice(&300_000_u32.to_le_bytes());
    image.resize(image.len() + 1000, 0);
    image
}

fn zboot(payload: &[u8], name: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 512];
    image[..8].copy_from_slice(b"MZ\0\0zimg");
    image[8..12].copy_from_slice(&512_u32.to_le_bytes());
    image[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image[24..24 + name.len()].copy_from_slice(name);
    image.extend_from_slice(payload);
    image.resize(image.len() + 100, 7);
    image
}

/// A PE image with the sections `.osrel` and `.linux`.
fn uki(name: &[u8; 8], linux: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[..2].copy_from_slice(b"MZ");
    image[0x3c] = 0x80;
    image[0x80..0x84].copy_from_slice(b"PE\0\0");
    image[0x84..0x86].copy_from_slice(&0x8664_u16.to_le_bytes());
    image[0x86] = 2;
    image[0x94] = 112;
    image[0x98..0x9a].copy_from_slice(&0x20b_u16.to_le_bytes());
    let mut at = 0x98 + 112;
    for (name, size, offset) in [(b".osrel\0\0", 16, 512), (name, linux.len(), 1024)] {
        image[at..at + 8].copy_from_slice(name);
        image[at + 8..at + 12].copy_from_slice(&(size as u32).to_le_bytes());
        image[at + 16..at + 20].copy_from_slice(&((size as u32).next_multiple_of(512)).to_le_bytes());
        image[at + 20..at + 24].copy_from_slice(&(offset as u32).to_le_bytes());
        at += 40;
    }
    image.extend_from_slice(linux);
    image.resize(image.len().next_multiple_of(512), 0);
    image
}

fn refused(image: &[u8]) -> Fault {
    Profile::within(image, 1 << 20).unwrap_err()
}

#[track_caller]
fn is_understood(image: &[u8], layers: &[&str]) -> Profile {
    assert!(is_image(&image[..1024.min(image.len())]));
    let profile = Profile::of_bytes(image).unwrap();
    assert_eq!(profile.layers, layers);
    assert_eq!(profile.banner.as_deref(), Some("Linux version 7.9.1 (me@here) #1 SMP"));
    for component in ["kho-v4", "luo-v5", "memfd-v2", "memblock-v1", "kexec-metadata-v1", "radix-v1"] {
        assert!(
            profile.understands.iter().any(|statement| statement.component == component),
            "{component} {profile:?}"
        );
    }
    assert!(!profile.understands.iter().any(|statement| statement.component.contains("kho-v5")), "{profile:?}");
    profile
}

#[test]
fn strings_are_a_heuristic_and_whole_ones() {
    let profile = is_understood(&raw(b""), &["arm64 Image"]);
    assert_eq!((profile.page_size, profile.page_size_by), (Some(4096), Some(By::Header)));
    assert_eq!((profile.machine, profile.machine_by), (Some(Machine::Arm64), Some(By::Header)));
    assert_eq!(profile.strings, ["spectre_v2"]);
    assert!(profile.is_heuristic() && !profile.handlers_complete);
    let other = profile.understands.iter().find(|statement| statement.component == "mshv_kho-v1");
    assert_eq!(other.map(|statement| statement.by), Some(By::Strings));
    let memfd = profile.understands.iter().find(|statement| statement.component == "memfd-v2").unwrap();
    assert_eq!((memfd.by, memfd.offset), (By::Strings, Some(65_536 - 40 + 23)));
    // Also with the string at every place around the edge of a piece.
    for shift in 0..80 {
        let mut image = vec![0x90; 65_536 - 80 + shift];
        image.extend_from_slice(STRINGS);
        image.extend_from_slice(BANNER);
        image.resize(200_000, 0);
        is_understood(&elf(&[(".rodata", &image)]), &["elf"]);
        let found = Profile::of_bytes(&elf(&[(".rodata", &image)])).unwrap();
        assert!(!found.understands.iter().any(|statement| statement.component == "kho-v1"), "{found:?}");
    }
}

#[test]
fn the_machine_is_in_the_header() {
    for (number, machine) in [(62, Some(Machine::X86)), (183, Some(Machine::Arm64)), (243, Some(Machine::RiscV64))]
        .into_iter()
        .chain([(258, None), (3, None)])
    {
        let mut image = kernel(&table(&[]));
        image[18..20].copy_from_slice(&u16::to_le_bytes(number));
        let profile = Profile::of_bytes(&image).unwrap();
        assert_eq!((profile.machine, profile.machine_by), (machine, machine.map(|_| By::Header)));
        // The wrapping of x86-64 says it, too; but what is in it is the kernel.
        let mut image = bz_image(&image);
        assert_eq!(Profile::of_bytes(&image).unwrap().machine, machine);
        image[0x236] = 1;
        assert_eq!(Profile::of_bytes(&image).unwrap().machine, machine.or(Some(Machine::X86)));
    }
    let mut image = raw(b"");
    image[0x38..0x3c].copy_from_slice(b"RSC\x05");
    assert_eq!(Profile::of_bytes(&image).unwrap().machine, Some(Machine::RiscV64));
    image[0x38..0x3c].fill(0);
    assert_eq!(Profile::of_bytes(&image).unwrap().machine, None);
}

#[test]
fn the_section_is_heard_before_strings() {
    let profile = is_understood(&kernel(&table(&["memfd-v2", "hugetlb-v3", "\x1b[31m-v1"])), &["elf"]);
    assert!(profile.handlers_complete);
    let by = |component: &str| {
        profile.understands.iter().filter(|s| s.component == component).map(|s| s.by).collect::<Vec<_>>()
    };
    assert_eq!(by("memfd-v2"), [By::LiveupdateVersions]);
    assert_eq!(by("hugetlb-v3"), [By::LiveupdateVersions]);
    assert_eq!(by("kho-v4"), [By::Strings]);
    // It names every handler, so that a string of another version is none.
    let profile = Profile::of_bytes(&kernel(&table(&["memfd-v3"]))).unwrap();
    let memfd: Vec<_> = profile.understands.iter().filter(|s| s.component.starts_with("memfd")).collect();
    assert_eq!(memfd.len(), 1);
    // Another format of it.
    let mut other = table(&["memfd-v2"]);
    other[4] = 2;
    let fault = refused(&kernel(&other));
    assert_eq!((fault.code(), fault.at().item.as_deref()), (Code::Magic, Some(".liveupdate_versions")));
    // In an image without sections it is found by its magic; what only looks like it is not taken.
    let profile = Profile::of_bytes(&raw(&[b"PUVL".as_slice(), &[9; 60], &table(&["memfd-v2"])].concat())).unwrap();
    assert!(profile.understands.iter().any(|s| s.component == "memfd-v2" && s.by == By::VersionTable));
    // At every place around the edge of what is read at once, and behind what only begins like it.
    for shift in 0..100 {
        let image = [&vec![0x90; 65_536 - 80 + shift][..], b"PUVL", &table(&["vfio.pci-v1", "a_v2"]), BANNER].concat();
        let profile = Profile::of_bytes(&elf(&[(".rodata", &image)])).unwrap();
        let told = profile.understands.iter().filter(|s| s.by == By::VersionTable).map(|s| s.component.as_str());
        assert_eq!(told.collect::<Vec<_>>(), ["vfio.pci-v1", "a_v2"], "{shift}");
        assert!(profile.handlers_complete);
    }
    let unsettled =
        elf(&[(".liveupdate_features", &[b"memfd\x1b\0".as_slice(), &[0; 65]].concat()), (".rodata", BANNER)]);
    assert_eq!(Profile::of_bytes(&unsettled).unwrap().unsettled, ["memfd\\x1b"]);
}

#[test]
fn what_is_no_image_of_a_kernel() {
    for (image, code) in [
        (b"".to_vec(), Code::Magic),
        (b"hello".to_vec(), Code::Magic),
        (b"MZ".to_vec(), Code::ImageHeader),
        (uki(b".text\0\0\0", b"x"), Code::Magic),
        (elf(&[(".text", b"kho-v4\0")]), Code::Magic),
        (kernel(&[])[..200].to_vec(), Code::Truncated),
        (bz_image(b"").drain(..0x240).collect(), Code::Truncated),
        (bz_image(b"x").drain(..1600).collect(), Code::Truncated),
        (zboot(b"?????", b"zip\x1b\0"), Code::ImagePacking),
        (b"\x89LZO\0\r\n\x1a\n".to_vec(), Code::ImagePacking),
        (vec![0; (1 << 20) + 1], Code::ImageLimit),
    ] {
        assert_eq!(refused(&image).code(), code, "{:?}", &image[..image.len().min(64)]);
    }
    let fault = refused(&zboot(b"?????", b"zip\x1b\0"));
    assert_eq!(fault.found_text(), "zip\\x1b");
    let mut core = kernel(&table(&[]));
    core[16] = 4;
    assert!(!is_image(&core));
    assert_eq!(refused(&core).code(), Code::FileKind);
    assert!(!is_image(b"{}") && !is_image(b""));
}

#[test]
fn absurd_sizes_are_cut_short() {
    for field in [0x248, 0x24c] {
        let mut image = bz_image(&raw(b""));
        image[field..field + 4].fill(0xff);
        assert_eq!(refused(&image).code(), Code::Truncated);
    }
    let mut image = zboot(&raw(b""), b"gzip");
    image[8..16].fill(0xff);
    assert_eq!(refused(&image).code(), Code::Truncated);
    let mut image = uki(b".linux\0\0", &raw(b""));
    let at = 0x98 + 112 + 40;
    image[at + 20..at + 24].fill(0xff);
    assert_eq!(refused(&image).code(), Code::Truncated);
    let mut image = kernel(&table(&["memfd-v2"]));
    image[60..62].fill(0xff);
    assert_eq!(refused(&image).code(), Code::Truncated);
    // A table of more entries than anybody has.
    let many: Vec<String> = (0..5000).map(|number| format!("handler{number}-v1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let profile = Profile::of_bytes(&kernel(&table(&many))).unwrap();
    assert!(profile.understands.len() < 1100);
    // Nested without end.
    let mut image = raw(b"");
    for _ in 0..10 {
        image = uki(b".linux\0\0", &image);
    }
    assert_eq!(refused(&image).code(), Code::ImageLimit);
}

/// The names of sections may all be one, which ends where the image does.
#[test]
fn many_sections_of_one_long_name_are_not_read_for_ever() {
    let (sections, names) = (100_000_u64, 16_u64 << 20);
    let mut image = elf(&[]);
    image.resize(64, 0);
    image[40..48].copy_from_slice(&64_u64.to_le_bytes());
    image[60..62].copy_from_slice(&0_u16.to_le_bytes());
    image[62..64].copy_from_slice(&1_u16.to_le_bytes());
    for number in 0..sections {
        let mut header = [0; 64];
        if number == 0 {
            header[32..40].copy_from_slice(&sections.to_le_bytes());
        } else {
            header[4] = 3;
            header[24..32].copy_from_slice(&(64 + 64 * sections).to_le_bytes());
            header[32..40].copy_from_slice(&names.to_le_bytes());
        }
        image.extend(header);
    }
    image.resize(image.len() + names as usize - 1, b'a');
    image.push(0);
    let start = std::time::Instant::now();
    assert_eq!(Profile::of_bytes(&image).unwrap_err().code(), Code::Magic);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn strings_that_are_known_in_many_versions_are_not_searched_for_ever() {
    let mut image = raw(b"");
    for version in 0..10_000 {
        for name in ["kho", "luo", "memfd", "memblock", "radix", "vmalloc", "block", "vfio-pci", "iommu"] {
            image.extend(format!("{name}-v{version}\0{name}_v{version}\0").into_bytes());
        }
    }
    let start = std::time::Instant::now();
    let profile = Profile::of_bytes(&image).unwrap();
    assert_eq!(profile.understands.iter().filter(|statement| statement.by == By::Strings).count(), 4096);
    assert!(profile.pinned().is_ok(), "what is read of an image can be pinned");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn no_prefix_of_an_image_panics() {
    for image in
        [kernel(&table(&["memfd-v2"])), uki(b".linux\0\0", &[0; 64]), bz_image(b"\x1f\x8b"), zboot(b"BZh9", b"x")]
    {
        for end in 0..image.len().min(4096) {
            let _ = Profile::within(&image[..end], 1 << 20);
            let mut turned = image.clone();
            turned[end] ^= 0xff;
            let _ = Profile::within(&turned, 1 << 20);
        }
    }
}

#[cfg(feature = "images")]
mod packed {
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
        let mut to = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    fn lzma(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::LzmaOptions::with_preset(1);
        let mut to = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut frame = 0x184c_2102_u32.to_le_bytes().to_vec();
        for block in bytes.chunks(8 << 20) {
            let packed = lz4_flex::block::compress(block);
            frame.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            frame.extend_from_slice(&packed);
        }
        frame
    }

    type Pack = fn(&[u8]) -> Vec<u8>;
    const ALL: [(&str, Pack); 6] =
        [("gzip", gzip), ("xz", xz), ("zstd", zstd), ("lz4", lz4), ("bzip2", bzip2), ("lzma", lzma)];

    #[test]
    fn every_packing_in_every_wrapping() {
        for (name, pack) in ALL {
            is_understood(&pack(&raw(b"")), &[name, "arm64 Image"]);
            is_understood(&bz_image(&pack(&kernel(&table(&["memfd-v2"])))), &["bzImage", name, "elf"]);
            is_understood(&zboot(&pack(&raw(b"")), name.as_bytes()), &["zboot", name, "arm64 Image"]);
            let whole = uki(b".linux\0\0", &zboot(&pack(&raw(b"")), name.as_bytes()));
            is_understood(&whole, &["UKI", "zboot", name, "arm64 Image"]);
            let profile = is_understood(&pack(&whole), &[name, "UKI", "zboot", name, "arm64 Image"]);
            assert_eq!(profile.page_size, Some(4096));
        }
        is_understood(&bz_image(&kernel(&table(&["memfd-v2"]))), &["bzImage", "elf"]);
    }

    #[test]
    fn more_than_a_block_of_lz4() {
        let mut image = raw(b"");
        image.splice(100..100, vec![5; 20 << 20]);
        is_understood(&lz4(&image), &["lz4", "arm64 Image"]);
    }

    /// Each of them ends nothing, and costs no more than it unpacks to.
    #[test]
    fn many_small_blocks_of_lz4() {
        let image = raw(b"");
        let mut frames = Vec::new();
        for (number, block) in image.chunks(7).enumerate() {
            if number % 1000 == 0 {
                frames.extend_from_slice(&0x184c_2102_u32.to_le_bytes());
            }
            let packed = lz4_flex::block::compress(block);
            frames.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            frames.extend_from_slice(&packed);
        }
        frames.extend_from_slice(&300_000_u32.to_le_bytes());
        is_understood(&frames, &["lz4", "arm64 Image"]);
    }

    #[test]
    fn bombs_are_bounded() {
        for (name, pack) in ALL {
            let bomb = pack(&vec![0; 3 << 20]);
            let fault = refused(&bomb);
            assert_eq!((fault.code(), fault.expected_text()), (Code::ImageLimit, "at most 1048576 bytes"), "{name}");
            // What is unpacked on the way counts, too.
            let twice = pack(&gzip(&vec![0; 1 << 20]));
            assert!(refused(&twice).code() == Code::ImageLimit || refused(&twice).code() == Code::Magic, "{name}");
        }
    }

    #[test]
    fn what_is_cut_or_turned_is_refused_and_never_a_panic() {
        for (name, pack) in ALL {
            let whole = pack(&raw(b""));
            let fault = Profile::of_bytes(&whole[..whole.len() / 2]).unwrap_err();
            // Frames of lz4 say nothing of their end.
            assert!(matches!(fault.code(), Code::ImagePacked | Code::Magic), "{name}: {fault}");
            for at in (0..whole.len()).step_by(whole.len() / 97 + 1) {
                let _ = Profile::within(&whole[..at], 1 << 20);
                let mut turned = whole.clone();
                turned[at] ^= 0x55;
                if let Err(fault) = Profile::within(&turned, 1 << 20) {
                    assert_ne!(fault.code().class(), Class::Mismatch, "{name}: {fault}");
                }
            }
        }
    }

    #[test]
    fn absurd_windows_are_refused() {
        // lzma with a dictionary of 4 GiB.
        let mut image = lzma(&raw(b""));
        image[1..5].fill(0xff);
        assert!(Profile::of_bytes(&image).is_err());
        image[1..5].copy_from_slice(&[0, 0, 0xff, 0x7f]);
        assert_eq!(Profile::of_bytes(&image).unwrap_err().code(), Code::ImagePacked);
    }

    #[test]
    fn the_configuration_in_the_image() {
        let config = b"CONFIG_KEXEC_HANDOVER=y\n# CONFIG_LIVEUPDATE is not set\nCONFIG_ARM64_16K_PAGES=y\n";
        let blob = [b"IKCFG_ST".as_slice(), &gzip(config), b"IKCFG_ED"].concat();
        let mut image = raw(&blob);
        image[0x18] = 0;
        let profile = Profile::of_bytes(&image).unwrap();
        let value = |name: &str| &profile.config.iter().find(|setting| setting.name == name).unwrap().value;
        assert_eq!((value("CONFIG_KEXEC_HANDOVER").as_str(), value("CONFIG_LIVEUPDATE").as_str()), ("y", "n"));
        assert_eq!((profile.page_size, profile.page_size_by), (Some(16384), Some(By::Config)));
        // A bomb in its place is no configuration.
        let blob = [b"IKCFG_ST".as_slice(), &gzip(&vec![b'x'; 5 << 20])].concat();
        assert!(Profile::of_bytes(&raw(&blob)).unwrap().config.is_empty());
    }
}
