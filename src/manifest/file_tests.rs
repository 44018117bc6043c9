//! Programs that are none, are cut, or lie.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::MemfdFlags;

use super::*;

/// A note of no entries.
const NOTE: &[u8] = b"\x04\0\0\0\x0c\0\0\0\x01\0\0\0kho\0\x01\0\0\0\x0c\0\0\0\0\0\0\0";
/// One of somebody else's.
const OTHER: &[u8] = b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNU\0abcd";

/// A program header: type, offset, bytes in the file, alignment.
type Segment = (u32, u64, u64, u64);

/// A program of these segments, and what is behind them.
fn elf(segments: &[Segment], behind: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
    // Entry, program headers, sections, flags; then sizes and counts.
    for word in [0_u64, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, segments.len() as u16, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for (kind, offset, size, align) in segments {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(4_u32.to_le_bytes());
        for word in [*offset, 0, 0, *size, *size, *align] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.extend(behind);
    bytes
}

/// One note segment right behind its header.
fn with_note(note: &[u8]) -> Vec<u8> {
    elf(&[(4, 64 + 56, note.len() as u64, 4)], note)
}

fn file(bytes: &[u8]) -> OwnedFd {
    let mut file = File::from(rustix::fs::memfd_create("program", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file.into()
}

fn found(bytes: &[u8]) -> Result<Option<Found>, String> {
    let file = file(bytes);
    // Where the caller stands in his file is nobody else's matter.
    let before = rustix::fs::seek(&file, rustix::fs::SeekFrom::Current(0)).unwrap();
    let found = Found::of_file(&file);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Current(0)).unwrap(), before);
    let _ = Found::versions_of_file(&file);
    found.map_err(|fault| fault.to_string())
}

fn refused(bytes: &[u8]) -> String {
    found(bytes).unwrap_err()
}

#[test]
fn a_note_is_found_behind_others_and_in_the_second_segment() {
    let none = Ok(Some(Found::default()));
    assert_eq!(found(&with_note(NOTE)), none);
    assert_eq!(found(&with_note(&[OTHER, NOTE].concat())), none);
    let both = [OTHER, NOTE].concat();
    let start = 64 + 3 * 56;
    let segments = [(1, 0, 64, 0x1000), (4, start, 20, 4), (4, start + 20, NOTE.len() as u64, 4)];
    assert_eq!(found(&elf(&segments, &both)), none);
    assert_eq!(found(&elf(&[segments[0], (4, start - 56, 20, 4)], &both)), Ok(None));
    assert_eq!(found(&elf(&[], b"")), Ok(None));
}

#[test]
fn what_is_no_program_is_refused() {
    let says = "magic: ELF: found Invalid ELF header size or alignment, expected a 64-bit ELF file";
    assert_eq!(refused(b""), says);
    assert_eq!(refused(b"\x7fELF"), says);
    let says = "magic: ELF: found Unsupported ELF header, expected a 64-bit ELF file";
    assert_eq!(refused(&[b'#'; 100]), says);
    let mut narrow = with_note(NOTE);
    narrow[4] = 1;
    assert_eq!(refused(&narrow), says);
    let fault = Found::of_file(File::open("/").unwrap()).unwrap_err();
    assert_eq!(fault.code(), Code::Magic);
    let null = Found::of_file(File::open("/dev/null").unwrap()).unwrap_err();
    assert_eq!(null.code(), Code::Magic);
}

#[test]
fn a_program_of_a_big_endian_machine_is_refused() {
    let mut bytes = with_note(NOTE);
    bytes[5] = 2;
    assert_eq!(refused(&bytes), "foreign-endian: ELF: written by a big-endian machine");
}

#[test]
fn every_prefix_of_a_program_is_an_error_or_has_no_manifest() {
    let whole = elf(&[(1, 0, 64, 0x1000), (4, 64 + 2 * 56, 20 + 28, 4)], &[OTHER, NOTE].concat());
    assert_eq!(found(&whole), Ok(Some(Found::default())));
    for len in 0..whole.len() {
        let says = found(&whole[..len]);
        assert!(says.is_err(), "{len}: {says:?}");
    }
    let real = std::fs::read("/proc/self/exe").unwrap();
    let step = real.len() / 97 + 1;
    for len in (0..600).step_by(7).chain((0..real.len()).step_by(step)) {
        let says = found(&real[..len]);
        assert!(says.is_err() || says == Ok(None), "{len}: {says:?}");
    }
}

#[test]
fn absurd_segments_are_refused_and_not_read() {
    let says = |bytes: u64| format!("too-large: PT_NOTE: found {bytes}, expected at most 1048576");
    let segment = |size| elf(&[(4, 120, size, 4)], NOTE);
    assert_eq!(refused(&segment(1 << 60)), says(1 << 60) + " bytes");
    assert_eq!(refused(&segment(u64::MAX)), says(u64::MAX) + " bytes");
    assert_eq!(refused(&segment((1 << 20) + 1)), says((1 << 20) + 1) + " bytes");
    let cut = "truncated: ELF: found Invalid ELF note segment offset or size, expected a whole ELF file";
    assert_eq!(refused(&segment(1 << 20)), cut);
    assert_eq!(refused(&elf(&[(4, u64::MAX - 3, 28, 4)], NOTE)), cut);
    let align = "truncated: ELF: found Invalid ELF note alignment, expected a whole ELF file";
    assert_eq!(refused(&elf(&[(4, 120, 28, 16)], NOTE)), align);
}

#[test]
fn many_segments_are_as_much_as_one() {
    let segments: Vec<Segment> = (0..1000).map(|n| (4, 64 + 1000 * 56 + n, 12 * 43690, 4)).collect();
    let mut bytes = elf(&segments, b"");
    bytes.resize(1 << 20, 0);
    // Zeros are notes of nothing.
    assert_eq!(refused(&bytes), "too-large: PT_NOTE: found 1572840, expected at most 1048576 bytes");
}

#[test]
fn numbers_that_are_not_in_the_header_are_refused() {
    let header = "expected a number that is in the header";
    let mut bytes = with_note(NOTE);
    bytes[56..58].copy_from_slice(&0xffff_u16.to_le_bytes());
    // A section 0 that claims 2^32 - 1 program headers, in a file that has room for them.
    bytes[40..48].copy_from_slice(&0x1000_u64.to_le_bytes());
    bytes.resize(0x1000 + 64, 0);
    bytes[0x1000 + 44..0x1000 + 48].copy_from_slice(&u32::MAX.to_le_bytes());
    let sparse = File::from(file(&bytes));
    sparse.set_len(1 << 40).unwrap();
    let fault = Found::of_file(&sparse).unwrap_err();
    assert_eq!(fault.to_string(), format!("too-large: ELF: found more than 65534 segments, {header}"));
    // And one that claims as many sections.
    sparse.write_all_at(&[0, 0], 56).unwrap();
    sparse.write_all_at(&u64::from(u32::MAX).to_le_bytes(), 0x1000 + 32).unwrap();
    let says = format!("too-large: ELF: found more than 65279 sections, {header}");
    assert_eq!(Found::of_file(&sparse).unwrap_err().to_string(), says);
    assert_eq!(Found::versions_of_file(&sparse).unwrap_err().to_string(), says);
}

#[test]
fn broken_sections_of_a_program_that_runs_are_nothing_to_its_manifest() {
    for mut bytes in [with_note(NOTE), with_note(OTHER)] {
        let expected = found(&bytes);
        bytes[40..48].copy_from_slice(&0xdead_0000_u64.to_le_bytes());
        bytes[60..62].copy_from_slice(&7_u16.to_le_bytes());
        assert_eq!(found(&bytes), expected);
    }
}

#[test]
fn a_broken_manifest_is_told_with_its_place() {
    let note = |desc: &[u8]| {
        let mut note = NOTE[..16].to_vec();
        note[4] = desc.len() as u8;
        note.extend(desc);
        refused(&with_note(&note))
    };
    assert_eq!(note(b""), "truncated: manifest: 0");
    let newer = b"\x02\0\0\0\x0c\0\0\0\0\0\0\0";
    assert_eq!(note(newer), "version-newer: version: found kho-manifest-v2, expected kho-manifest-v1");
    let cut = b"\x01\0\0\0\x0c\0\0\0\x01\0\0\0";
    assert_eq!(note(cut), "truncated: entries[0].size at offset 0xc: 0 bytes");
}

/// An object file: no segments, and one section of that name, which claims so many bytes.
fn object(name: &str, size: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = elf(&[], b"");
    bytes[16] = 1;
    bytes[32..40].fill(0);
    bytes[40..48].copy_from_slice(&64_u64.to_le_bytes());
    bytes[60] = 3;
    bytes[62] = 2;
    let names = format!("\0{name}\0");
    let data_at = 64 + 3 * 64;
    let section = |name: u32, kind: u32, at: usize, size: u64| {
        let mut section = [name.to_le_bytes(), kind.to_le_bytes()].concat();
        for word in [0, 0, at as u64, size, 0, 4, 0] {
            section.extend(word.to_le_bytes());
        }
        section
    };
    bytes.extend([0; 64]);
    bytes.extend(section(1, 7, data_at, size));
    bytes.extend(section(0, 3, data_at + data.len(), names.len() as u64));
    bytes.extend(data);
    bytes.extend(names.as_bytes());
    bytes
}

fn of_whole(name: &str, data: &[u8]) -> Vec<u8> {
    object(name, data.len() as u64, data)
}

#[test]
fn an_object_file_has_it_in_its_section() {
    assert_eq!(found(&of_whole(".note.kho", NOTE)), Ok(Some(Found::default())));
    assert_eq!(found(&of_whole(".note.other", NOTE)), Ok(None));
    let says = r#"magic: note: found "GNU\x00" of type 3, expected "kho\x00" of type 1"#;
    assert_eq!(refused(&of_whole(".note.kho", OTHER)), says);
    assert_eq!(refused(&of_whole(".note.kho", b"")), "truncated: note: 0");
}

#[test]
fn a_section_beyond_the_limit_or_the_file_is_refused() {
    for size in [(1 << 20) + 1, 1 << 60, u64::MAX] {
        let says = format!("too-large: .note.kho: found {size}, expected at most 1048576 bytes");
        assert_eq!(refused(&object(".note.kho", size, NOTE)), says);
        let file = file(&object(".liveupdate_versions", size, NOTE));
        let fault = Found::versions_of_file(&file).unwrap_err();
        assert_eq!(fault.to_string(), says.replace(".note.kho", ".liveupdate_versions"));
    }
    let says = "truncated: ELF: found Invalid ELF section size or offset, expected a whole ELF file";
    assert_eq!(refused(&object(".note.kho", 1 << 20, NOTE)), says);
}

#[test]
fn a_table_of_versions_is_read_as_far_as_it_is_one() {
    let versions = |data: &[u8]| {
        let found = Found::versions_of_file(file(&of_whole(".liveupdate_versions", data)));
        found.map_err(|fault| fault.to_string())
    };
    let head = b"PUVL\x01\0\0\0";
    let field = |text: &[u8]| [text, &[0; 48]].concat()[..48].to_vec();
    let all = [head.to_vec(), field(b"a-v1"), field(b""), field(b"no version"), field(b"b_v2\0rest")].concat();
    assert_eq!(versions(&all), Ok(Some(vec!["a-v1".into(), "b_v2".into()])));
    assert_eq!(versions(&all[..all.len() - 1]), Ok(Some(vec!["a-v1".into()])), "half a field is none");
    assert_eq!(versions(head), Ok(Some(vec![])));
    let expected = "expected 0x4c565550 and version 1";
    let other = versions(b"PUVL\x02\0\0\0");
    assert_eq!(other, Err(format!(r"magic: .liveupdate_versions: found PUVL\x02\x00\x00\x00, {expected}")));
    let control = versions(b"\n\x1b");
    assert_eq!(control, Err(format!(r"magic: .liveupdate_versions: found \n\x1b, {expected}")));
    // More than are read: those behind are counted as nothing.
    let many = [head.to_vec(), field(b"a-v1").repeat(2000)].concat();
    assert_eq!(versions(&many).unwrap().unwrap().len(), 1024);
}
