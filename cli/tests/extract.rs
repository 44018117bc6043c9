//! `kho extract`: every byte, under names that nobody can abuse.

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use common::{Handover, fixture, json, kho, run, text};
use kho::abi::luo;
use kho::block::BlockSet;
use kho::compat::{Compat, CompatList};
use kho::handover::{Blob, Outgoing, Preserve, Scope};
use kho::inspect::{Opened, Options};
use kho::mem::{Frames as _, Order};
use kho::memfd::ByPages;
use kho::report::{Code, Fault};
use kho::transport::Bundle;
use serde_json::json;

fn frozen() -> String {
    fixture("frozen.core").to_str().unwrap().into()
}

fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_memfd_of_a_frozen_machine_as_its_owner_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a/b");
    let told = run(0, &["extract", &frozen(), "--all", out.to_str().unwrap()]);
    assert!(told.ends_with("5 files, 281.0 KiB\n"), "{told}");
    let theirs = names(&fixture("memfds"));
    assert_eq!(names(&out), theirs);
    for name in theirs {
        let bytes = std::fs::read(out.join(&name)).unwrap();
        assert!(bytes == std::fs::read(fixture("memfds").join(&name)).unwrap(), "{name}");
        assert_eq!(out.join(&name).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn one_of_them_into_a_file_and_into_a_pipe() {
    let (dir, core) = (tempfile::tempdir().unwrap(), frozen());
    let wanted = std::fs::read(fixture("memfds/vm-session.ffffffffffffffff")).unwrap();
    for what in ["vm-session/0xffffffffffffffff", "vm-session/0xFFFFFFFFFFFFFFFF", "vm-session/18446744073709551615"] {
        let output = kho(["extract", &core, what, "-o", "-"]);
        assert!(output.status.success() && output.stdout == wanted && output.stderr.is_empty(), "{what}");
    }
    let path = dir.path().join("file");
    let told = json(0, &["extract", &core, "vm-session/0xffffffffffffffff", "-o", path.to_str().unwrap()]);
    assert!(std::fs::read(&path).unwrap() == wanted);
    // The owner wrote the last page and a half of it; what is zero is a hole.
    let holes = wanted.chunks(4096).filter(|page| page.iter().all(|&byte| byte == 0)).count() as u64 * 4096;
    assert!(holes > 0 && path.metadata().unwrap().blocks() * 512 <= 65536 - holes);
    assert_eq!(
        told,
        json!({
            "written": [{
                "session": "vm-session", "token": u64::MAX, "node": null, "range": null,
                "path": path, "bytes": 65536, "holes": holes,
            }],
            "not_written": [],
        })
    );
}

#[test]
fn what_exists_is_not_overwritten() {
    let (dir, core) = (tempfile::tempdir().unwrap(), frozen());
    let all = ["extract", &core, "--all", dir.path().to_str().unwrap()];
    let file = dir.path().join("second.7");
    std::fs::write(&file, "mine").unwrap();
    let error = run(2, &all);
    assert!(error.contains("second.7 exists: nothing was written (--force"), "{error}");
    assert_eq!(names(dir.path()).len(), 1, "nothing else, and no temporary file");
    let one = ["extract", &core, "second/7", "-o", file.to_str().unwrap()];
    assert!(run(2, &one).contains("it exists (--force replaces it)"));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    run(0, &[&one[..], &["--force"]].concat());
    assert_eq!(file.metadata().unwrap().len(), 12288);
    // A link is replaced, and what it leads to is not touched.
    let victim = tempfile::NamedTempFile::new().unwrap();
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(victim.path(), &file).unwrap();
    assert!(run(2, &all).contains("exists"));
    run(0, &[&all[..], &["--force"]].concat());
    assert!(!file.symlink_metadata().unwrap().is_symlink());
    assert_eq!((victim.path().metadata().unwrap().len(), names(dir.path()).len()), (0, 5));
}

#[test]
fn a_device_takes_the_bytes_and_stays_a_device() {
    run(0, &["extract", &frozen(), "second/7", "-o", "/dev/null", "--force"]);
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    if Path::new("/dev/full").exists() {
        let error = run(2, &["extract", &frozen(), "second/7", "-o", "/dev/full"]);
        assert!(error.contains("/dev/full") && error.contains("No space left"), "{error}");
    }
}

#[test]
fn what_nodes_hold() {
    let handover = Handover::new();
    let bytes = |what: &str| {
        let output = kho(["extract", handover.path(), what, "-o", "-"]);
        assert!(output.status.success(), "{what}: {}", text(&output.stderr));
        output.stdout
    };
    assert!(bytes("orders") == [[9; 24]; 1000].concat(), "records of six pages, without their headers");
    assert_eq!(bytes("picture"), [0; 150_000]);
    assert_eq!(bytes("note"), b"\x1b[31mnot red\x1b[0m");
    assert!(bytes("small") == [5; 10_000]);
    let folios = bytes("kho_test");
    assert!(folios.len() == 3 * 4096 && folios[..5000] == [7; 5000] && folios[8192..8197] == *b"hello");

    // Of the node `files` only a table is there: its descriptors are not in the memory.
    let dir = tempfile::tempdir().unwrap();
    let told = json(1, &["extract", handover.path(), "--all", dir.path().to_str().unwrap()]);
    assert_eq!(told["written"].as_array().unwrap().len(), 1);
    assert_eq!((&told["written"][0]["node"], &told["written"][0]["bytes"]), (&json!("small"), &json!(10_000)));
    assert_eq!(told["not_written"][0]["node"], "files");
    assert_eq!(told["not_written"][0]["why"], "its files travel beside the memory, and are not in it");
    assert_eq!(names(dir.path()), BTreeSet::from(["small".to_owned()]));
    let error = run(2, &["extract", handover.path(), "nobody", "-o", "-"]);
    assert!(
        error.contains("nothing is called nobody\nthere is: files kho_test note orders picture small\n"),
        "{error}"
    );
}

#[test]
fn reserved_memory_by_its_name() {
    // The fixture does not have it; what its dump lacks is told with its address.
    let output = kho(["extract", &frozen(), "memblock/testmem", "-o", "-"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let error = text(&output.stderr);
    assert!(error.contains("memblock/testmem: outside: at 0x7900000"), "{error}");
}

/// Sessions of these names, each with a file of a handler that is not known, and their tokens.
struct Sessions(Vec<(Vec<u8>, &'static str, u64)>);

impl Preserve<Bundle> for Sessions {
    fn compat(&self) -> CompatList<'static> {
        kho::luo::MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Bundle>) -> Result<Blob, Fault> {
        let mut sessions = Vec::new();
        for (name, compatible, token) in &self.0 {
            // An empty memfd: its structure is a page of zeros.
            let frame = scope.alloc(Order::ZERO)?;
            let data = frame.folio().addr(kho::mem::Geometry::K4).get().into();
            let compatible = Compat::parse(compatible)?.to_fixed()?;
            let file = luo::File { compatible, data, token: (*token).into() };
            let files = BlockSet::from(vec![file]).store(scope)?.first.get().into();
            let mut field = [0; luo::SESSION_NAME];
            field[..name.len()].copy_from_slice(name);
            sessions.push(luo::Session { name: field, files, count: 1.into() });
        }
        let sessions = BlockSet::from(sessions).store(scope)?.first.get().into();
        let compatible = luo::COMPAT.to_fixed()?;
        let head = luo::Head { compatible, liveupdate_number: 1.into(), sessions, flbs: 0.into() };
        scope.blob(zerocopy::IntoBytes::as_bytes(&head))
    }
}

fn sessions(list: &[(&[u8], &'static str, u64)]) -> Handover {
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    let list = list.iter().map(|(name, compatible, token)| (name.to_vec(), *compatible, *token)).collect();
    outgoing.preserve(luo::NODE, &Sessions(list)).unwrap();
    Handover::of(outgoing, Vec::new())
}

#[test]
fn names_of_sessions_lead_nowhere_and_never_meet() {
    // A name, and the file of its token 1; each pair would be one file if names were taken as they are.
    let list: &[(&[u8], &str)] = &[
        (b"../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd.1"),
        (b"a/b", "a%2fb.1"),
        (b"a%2fb", "a%252fb.1"),
        (b"..", "%2e..1"),
        (b".", "%2e.1"),
        (b"", "%00.1"),
        (b"-rf", "%2drf.1"),
        (b"a.1", "a.1.1"),
        (b"a", "a.1"),
        (b"\x1b[31m\n", "%1b%5b31m%0a.1"),
        (b"\xff\xfe", "%ff%fe.1"),
        ("\u{202e}x".as_bytes(), "%e2%80%aex.1"),
        (&[b'/'; 63], ""),
        (b"vm 1", "vm%201.1"),
    ];
    let with_tokens: Vec<_> = list.iter().map(|(name, _)| (*name, "memfd-v2", 1)).collect();
    let handover = sessions(&with_tokens);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    run(0, &["extract", handover.path(), "--all", out.to_str().unwrap()]);
    assert_eq!(names(dir.path()), BTreeSet::from(["out".to_owned()]));
    let mut wanted: BTreeSet<String> = list.iter().map(|(_, file)| (*file).to_owned()).collect();
    wanted.remove("");
    wanted.insert(format!("{}.1", "%2f".repeat(63)));
    assert_eq!(names(&out), wanted);
    // The names can be had back, and are taken as they are and as they are printed.
    let opened = Opened::open(handover.path(), &Options::default()).unwrap();
    for (item, (name, _)) in opened.memfds().iter().zip(list) {
        let printed = item.place().to_string();
        assert!(printed.is_ascii() && !printed.contains(char::is_control), "{printed}");
        assert_eq!(unescaped(printed.strip_suffix("/0x1").unwrap()), *name);
        let raw = [*name, b"/1"].concat();
        // Where one could be the other, what is printed wins.
        let meant = if name.contains(&b'%') { printed.into_bytes() } else { raw };
        assert_eq!(opened.find(&meant).unwrap().place(), item.place());
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(&part.as_bytes()[2..]);
    }
    // No name has a zero: that is how none is written.
    if bytes == [0] { Vec::new() } else { bytes }
}

#[test]
fn what_cannot_be_taken_out_is_named() {
    let handover = sessions(&[
        (b"vm", "vfio-pci-v1", 1),
        (b"vm2", "memfd-v3", 2),
        (b"vm3", "memfd-v2", 3),
        (b"vm3", "memfd-v2", 3),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let told = json(1, &["extract", handover.path(), "--all", dir.path().to_str().unwrap()]);
    assert_eq!(names(dir.path()), BTreeSet::from(["vm3.3".to_owned()]));
    let not = told["not_written"].as_array().unwrap();
    let why = |at: usize| not[at]["why"].as_str().unwrap();
    assert_eq!((&not[0]["session"], &not[0]["token"]), (&json!("vm"), &json!(1)));
    assert_eq!(why(0), "vfio-pci-v1 is a handler of which nothing is known here");
    assert!(why(1).contains("version-newer") && why(1).contains("found memfd-v3"), "{not:?}");
    assert_eq!(why(2), "a second one under the names of another");
    let told = run(1, &["extract", handover.path(), "vm/1", "-o", dir.path().join("x").to_str().unwrap()]);
    assert_eq!(told, "not written: vm/0x1: vfio-pci-v1 is a handler of which nothing is known here\n");
    assert!(!dir.path().join("x").exists());
}

#[test]
fn holes_stay_holes() {
    use rustix::fs::{MemfdFlags, memfd_create};
    let mut file = File::from(memfd_create("holes", MemfdFlags::CLOEXEC).unwrap());
    // A page, a hole, 5 bytes at the end of a page, zeros, and a tail.
    file.write_all(&[1; 4096]).unwrap();
    let tail = (1 << 20) + 123;
    file.set_len(tail).unwrap();
    use std::os::unix::fs::FileExt as _;
    file.write_all_at(b"12345", 0x8000 - 5).unwrap();
    file.write_all_at(&[3; 100], tail - 100).unwrap();
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    outgoing.preserve("file", &ByPages { file: file.as_fd(), order: Order::ZERO }).unwrap();
    let handover = Handover::of(outgoing, Vec::new());
    let path = handover.dir.path().join("out");
    let told = json(0, &["extract", handover.path(), "file", "-o", path.to_str().unwrap()]);
    let mut wanted = vec![0; tail as usize];
    file.read_exact_at(&mut wanted, 0).unwrap();
    assert!(std::fs::read(&path).unwrap() == wanted);
    assert_eq!(
        (&told["written"][0]["bytes"], &told["written"][0]["holes"]),
        (&json!(tail), &json!(tail - 2 * 4096 - 123))
    );
    assert!(path.metadata().unwrap().blocks() * 512 < 32 << 10);
    assert!(kho(["extract", handover.path(), "file", "-o", "-"]).stdout == wanted);
}

#[test]
fn a_handover_without_memory_has_nothing_to_extract() {
    let dir = tempfile::tempdir().unwrap();
    let root = fixture("debugfs/after/in/fdt");
    let told = run(0, &["extract", root.to_str().unwrap(), "--all", dir.path().to_str().unwrap()]);
    assert!(told.contains("0 files, 0 B: no memory is here"), "{told}");
    let opened = Opened::open(&root, &Options::default()).unwrap();
    assert!(opened.image().is_none());
    let item = opened.find(b"LUO").unwrap();
    let fault = opened.stream(&item, &mut std::io::sink()).unwrap_err();
    assert_eq!(
        (fault.code(), fault.found_text()),
        (Code::Refused, "no memory, or no tree that says what of it is preserved")
    );
}

#[test]
fn a_memfd_that_was_never_preserved_is_not_read() {
    // A dump that lacks the folios: the file is named, and the others are written.
    let dir = tempfile::tempdir().unwrap();
    let mut core = std::fs::read(fixture("frozen.core")).unwrap();
    // The last segment has most folios of vm-session/2: it says that it begins elsewhere.
    let header = 64 + 56 * 12 + 24;
    assert_eq!(core[header..header + 8], 0x17b_c000_u64.to_le_bytes());
    core[header..header + 8].copy_from_slice(&0x900_0000_u64.to_le_bytes());
    let path = dir.path().join("core");
    std::fs::write(&path, core).unwrap();
    let told = json(1, &["extract", path.to_str().unwrap(), "--all", dir.path().join("out").to_str().unwrap()]);
    let not = told["not_written"].as_array().unwrap();
    assert!(!not.is_empty() && not[0]["why"].as_str().unwrap().starts_with("outside: at 0x"), "{told}");
    assert_eq!(names(&dir.path().join("out")).len(), 5 - not.len(), "no temporary file stays");
}

#[test]
fn a_large_file_is_written_beside_the_reading() {
    use std::os::unix::fs::FileExt as _;

    use rustix::fs::{MemfdFlags, memfd_create};
    let file = File::from(memfd_create("large", MemfdFlags::CLOEXEC).unwrap());
    let size = (9 << 20) + 5;
    file.set_len(size).unwrap();
    // What is not zero begins and ends where buffers do, and in the middle of blocks.
    for (at, len) in
        [(0, 1), (4095, 2), ((256 << 10) - 1, 2), (1 << 20, 3 << 20), ((5 << 20) + 100, 70_000), (size - 1, 1)]
    {
        file.write_all_at(&vec![0xa5; len], at).unwrap();
    }
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    outgoing.preserve("file", &ByPages { file: file.as_fd(), order: Order::ZERO }).unwrap();
    let handover = Handover::of(outgoing, Vec::new());
    let opened = Opened::open(handover.path(), &Options::default()).unwrap();
    let item = opened.find(b"file").unwrap();
    let mut wanted = vec![0; size as usize];
    file.read_exact_at(&mut wanted, 0).unwrap();
    let path = handover.dir.path().join("out");
    let done = opened.extract(&item, &File::create_new(&path).unwrap()).unwrap();
    assert!(std::fs::read(&path).unwrap() == wanted);
    let full = wanted.chunks(4096).filter(|block| block.iter().any(|&byte| byte != 0)).map(<[u8]>::len).sum::<usize>();
    assert_eq!((done.bytes, done.holes), (size, size - full as u64));
    let mut streamed = Vec::new();
    assert_eq!(opened.stream(&item, &mut streamed).unwrap(), done);
    assert!(streamed == wanted);
    // A file that cannot be written: why not, and where.
    let sealed = File::from(memfd_create("sealed", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap());
    rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::WRITE).unwrap();
    let fault = opened.extract(&item, &sealed).unwrap_err();
    assert_eq!((fault.code(), fault.at().offset), (Code::Io, Some(0)));
    assert!(fault.found_text().contains("Operation not permitted"), "{fault}");
    // One that cannot even get its size.
    let fault = opened.extract(&item, &File::open(&path).unwrap()).unwrap_err();
    assert_eq!((fault.code(), fault.at().offset, fault.at().item.as_deref()), (Code::Io, Some(0), Some("size")));
}
