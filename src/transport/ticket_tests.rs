use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use proptest::prelude::*;

use super::*;

/// The smallest ELF file with a build id: header, one program header, one note. 64 + 56 + 16 + 8 bytes.
fn elf(build_id: [u8; 8]) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    bytes[16..24].copy_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
    bytes[32] = 64; // e_phoff
    bytes[52..58].copy_from_slice(&[64, 0, 56, 0, 1, 0]); // e_ehsize, e_phentsize, e_phnum
    bytes[64] = 4; // p_type: PT_NOTE
    bytes[72] = 120; // p_offset
    bytes[96] = 24; // p_filesz
    bytes[112] = 4; // p_align
    bytes.extend_from_slice(b"\x04\0\0\0\x08\0\0\0\x03\0\0\0GNU\0");
    bytes.extend_from_slice(&build_id);
    bytes
}

struct Fixture {
    _folder: tempfile::TempDir,
    file: File,
    program: Program,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    File::create(&path).unwrap().write_all(&elf(*b"original")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let program = Program::open(&path).unwrap().arg0("it").args(["one", ""]);
    Fixture { _folder: folder, file, program }
}

#[test]
fn a_ticket_says_what_it_leads_to() {
    let fixture = fixture();
    let ticket = Ticket::of(&fixture.program).unwrap();
    assert_eq!((ticket.build_id(), ticket.is_copy()), (&b"original"[..], false));
    assert_eq!(ticket.argv(), ["it", "one", ""]);
    assert_eq!(ticket.verify(), Ok(()));
}

#[test]
fn other_bytes_of_the_same_size_and_time_differ_in_the_build_id() {
    let fixture = fixture();
    let ticket = Ticket::of(&fixture.program).unwrap();
    let time = fixture.file.metadata().unwrap().modified().unwrap();
    fixture.file.write_all_at(&elf(*b"modified"), 0).unwrap();
    fixture.file.set_modified(time).unwrap();
    let fault = ticket.verify().unwrap_err();
    assert_eq!(fault.code(), Code::FileIdentity);
    let says = "file-identity: ticket.build-id: found 6d6f646966696564, expected 6f726967696e616c";
    assert_eq!(fault.to_string(), says);
}

#[test]
fn another_size_or_time_is_another_program() {
    let fixture = fixture();
    let ticket = Ticket::of(&fixture.program).unwrap();
    let time = fixture.file.metadata().unwrap().modified().unwrap();
    fixture.file.set_len(200).unwrap();
    assert_eq!(ticket.verify().unwrap_err().to_string(), "file-identity: ticket.size: found 200, expected 144");
    fixture.file.set_len(144).unwrap();
    fixture.file.set_modified(time).unwrap();
    assert_eq!(ticket.verify(), Ok(()));
    fixture.file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let fault = ticket.verify().unwrap_err();
    assert_eq!((fault.at().item.as_deref(), fault.found_text()), (Some("ticket.mtime"), "0.000000000"));
}

#[test]
fn a_copy_does_not_care_and_cannot_be_written() {
    let fixture = fixture();
    let ticket = Ticket::copy(&fixture.program).unwrap();
    fixture.file.write_all_at(b"overwritten", 0).unwrap();
    assert_eq!(ticket.verify(), Ok(()));
    assert!(ticket.is_copy());
    assert_eq!(ticket.build_id(), b"original");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ticket.file));
    let writer = OpenOptions::new().write(true).open(path).unwrap();
    assert_eq!(writer.write_all_at(b"x", 0).unwrap_err().raw_os_error(), Some(1), "EPERM");
    assert_eq!(writer.set_len(0).unwrap_err().raw_os_error(), Some(1), "EPERM");
}

#[test]
fn a_copy_without_seals_is_none() {
    let fixture = fixture();
    let mut ticket = Ticket::of(&fixture.program).unwrap();
    ticket.copy = true;
    assert!(ticket.verify().is_err());
}

#[test]
fn arguments_beyond_the_limit_are_refused() {
    let fixture = fixture();
    let long = "x".repeat(ARGV_LIMIT - 4);
    let program = fixture.program.args([&long]);
    assert!(Ticket::of(&program).is_ok());
    let error = Ticket::of(&program.args([long + "x"])).unwrap_err();
    assert_eq!(error.to_string(), "the arguments of a ticket, bytes: 65537 needed, the limit is 65536");
}

fn build_id_of(bytes: &[u8]) -> Vec<u8> {
    let file = rustix::fs::memfd_create(c"elf", MemfdFlags::CLOEXEC).unwrap();
    File::from(file.try_clone().unwrap()).write_all(bytes).unwrap();
    build_id(file.as_fd()).unwrap()
}

proptest! {
    #[test]
    fn any_elf_has_a_build_id_or_none(
        changes in prop::collection::vec((0..144_usize, any::<u8>()), 0..8),
        cut in 0..=144_usize,
    ) {
        let mut bytes = elf(*b"original");
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let id = build_id_of(&bytes[..cut]);
        prop_assert!(id.len() <= BUILD_ID_LIMIT);
    }
}
