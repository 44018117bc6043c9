//! Sources that were made to hang, to fill the disk or to lead elsewhere.

mod common;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Handover, fixture, json, kho, node, run, text};
use kho::handover::Outgoing;
use kho::inspect::{Content, Opened, Options};
use kho::luo::{NewContent, NewFile, NewSession, Sessions};
use kho::mem::{Geometry, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram};
use kho::memfd::{ByPages, Contents};
use kho::transport::Bundle;
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, memfd_create, mknodat};
use serde_json::{Value, json};

const PAGE: u64 = 4096;
/// Bytes of a folio of order 8.
const LARGE: usize = 1 << 20;

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

/// 1 TiB, and nothing of it is there.
fn endless(path: &Path) {
    File::create(path).unwrap().set_len(1 << 40).unwrap();
}

#[test]
fn a_pipe_is_no_program_and_no_way_to_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    pipe(&path);
    let path = path.to_str().unwrap();
    for args in [&["manifest", path][..], &["understands", path], &["plan", "/dev/null", "--against", path]] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kho")).args(args).spawn().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(30) {
                child.kill().unwrap();
                panic!("{args:?} waits");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(child.wait().unwrap().code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_copy_of_debugfs_is_no_way_to_hang() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let blobs = out.join("sub_fdts");
    std::fs::create_dir_all(blobs.join("directory")).unwrap();
    pipe(&out.join("fdt"));
    endless(&out.join("scratch_phys"));
    pipe(&out.join("scratch_len"));
    std::fs::write(out.join("bootmem_phys"), "garbage\n").unwrap();
    pipe(&blobs.join("LUO"));
    endless(&blobs.join("endless"));
    std::os::unix::fs::symlink("loop", blobs.join("loop")).unwrap();
    let _socket = UnixListener::bind(blobs.join("socket")).unwrap();
    std::fs::write(blobs.join("pci"), b"\x01\0\0\0").unwrap();
    let path = dir.path().to_str().unwrap();
    let start = Instant::now();
    let output = kho(["dump", path, "--format", "json"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let decoded: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut told: Vec<(&str, &str)> = Vec::new();
    for finding in decoded["findings"].as_array().unwrap() {
        told.push((finding["node"].as_str().unwrap(), finding["code"].as_str().unwrap()));
    }
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("/out/LUO", "file-kind"),
            ("/out/bootmem_phys", "text"),
            ("/out/directory", "file-kind"),
            ("/out/endless", "component-opaque"),
            ("/out/endless", "partial"),
            ("/out/fdt", "file-kind"),
            ("/out/loop", "io"),
            ("/out/pci", "component-opaque"),
            ("/out/scratch_len", "file-kind"),
            ("/out/scratch_phys", "partial"),
            ("/out/scratch_phys", "text"),
            ("/out/socket", "file-kind"),
        ]
    );
    // What is fine is shown all the same.
    assert_eq!(node(&decoded, "out/pci")["content"], json!({"kind": "bytes", "first_bytes": "01000000"}));
    // The lists of scratch, as --scratch takes them.
    assert_eq!(kho(["dump", path, "--scratch", path]).status.code(), Some(2));
}

#[test]
fn trees_of_a_copy_of_debugfs_are_bounded_together() {
    // Sparse files that are device trees of 4 MiB each by their header: a small archive of many gigabytes.
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("in/sub_fdts");
    std::fs::create_dir_all(&blobs).unwrap();
    for number in 0..40 {
        let file = File::create(blobs.join(format!("tree{number:02}"))).unwrap();
        file.set_len(4 << 20).unwrap();
    }
    let output = kho(["dump", dir.path().to_str().unwrap(), "--format", "json"]);
    let decoded: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(decoded["source"]["bytes"], 64 << 20);
    let findings = decoded["findings"].as_array().unwrap();
    assert_eq!(findings.iter().filter(|finding| finding["code"] == "partial").count(), 24);
}

#[test]
fn a_pipe_is_no_source() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    pipe(&path);
    for command in ["dump", "check", "map"] {
        for more in [&[][..], &["--base", "0x1000"]] {
            let error = run(2, &[&[command, path.to_str().unwrap()], more].concat());
            assert!(error.contains("found a pipe, expected a file with a size"), "{error}");
        }
    }
}

#[test]
fn devices_that_are_no_memory_end() {
    let socket = tempfile::tempdir().unwrap();
    let path = socket.path().join("socket");
    let _socket = UnixListener::bind(&path).unwrap();
    for path in ["/proc/self/mem", "/proc/self", "/dev/tty", path.to_str().unwrap()] {
        let output = kho(["dump", path]);
        assert_eq!(output.status.code(), Some(2), "{path}: {}", text(&output.stdout));
        assert!(text(&output.stderr).starts_with("kho: "), "{path}");
    }
    for path in ["/dev/null", "/dev/zero"] {
        assert_eq!(kho(["dump", path, "--base", "0"]).status.code(), Some(2), "{path}");
    }
}

/// A memfd of one page, which says that it has 1 TiB.
fn sparse() -> Handover {
    let mut file = File::from(memfd_create("holes", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(&[1; 4096]).unwrap();
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    outgoing.preserve("file", &ByPages { file: file.as_fd(), order: Order::ZERO }).unwrap();
    let handover = Handover::of(outgoing, Vec::new());
    let blob = node(&handover.decoded(), "file")["blob"]["address"].as_u64().unwrap();
    handover.poke(blob + 8, &(1_u64 << 40).to_le_bytes());
    handover
}

#[test]
fn a_terabyte_of_holes_is_for_files_and_not_for_pipes() {
    let handover = sparse();
    let output = kho(["extract", handover.path(), "file", "-o", "-"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let error = text(&output.stderr);
    assert!(error.contains("file: too-large: size: found 1099511627776 bytes, expected at most"), "{error}");
    let path = handover.dir.path().join("out");
    run(0, &["extract", handover.path(), "file", "-o", path.to_str().unwrap()]);
    let meta = path.metadata().unwrap();
    assert!(meta.len() == 1 << 40 && meta.blocks() * 512 <= 1 << 16, "{meta:?}");
}

#[test]
fn a_size_that_no_file_may_have_stops_nothing_else() {
    // A limit on the size of files, and its signal ignored: what a small file system says by itself.
    let handover = sparse();
    let out = handover.dir.path().join("out");
    let script = "trap '' XFSZ; ulimit -f 100000; exec \"$0\" extract \"$1\" --all \"$2\" --format json";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_kho"), handover.path(), out.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let why = told["not_written"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("io: size: 1099511627776 bytes: File too large"), "{why}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "no temporary file stays");
}

#[test]
fn a_reader_that_is_gone_is_no_error_and_a_full_device_is_one() {
    let handover = Handover::new();
    // 16 bytes, which are on their way only when all is flushed, and more than any buffer.
    for what in ["note", "picture"] {
        let extract = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_kho"));
            command.args(["extract", handover.path(), what, "-o", "-"]).stdout(stdout).output().unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = extract(writer.into());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{what}");
        let output = extract(File::options().write(true).open("/dev/full").unwrap().into());
        assert_eq!(output.status.code(), Some(2), "{what}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("No space left"), "{what}");
    }
}

#[test]
fn what_is_read_from_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let core = dir.path().join("second.7");
    std::fs::copy(fixture("frozen.core"), &core).unwrap();
    let path = core.to_str().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&core, &link).unwrap();
    for output in [path, link.to_str().unwrap()] {
        let error = run(2, &["extract", path, "second/7", "-o", output, "--force"]);
        assert!(error.contains("is what it would be read from"), "{error}");
    }
    run(2, &["extract", path, "--all", dir.path().to_str().unwrap(), "--force"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    assert!(std::fs::read(&core).unwrap() == std::fs::read(fixture("frozen.core")).unwrap());
}

#[test]
fn a_directory_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let core = fixture("frozen.core");
    let all = |path: &Path| run(2, &["extract", core.to_str().unwrap(), "--all", path.to_str().unwrap(), "--force"]);
    let (file, dangling, inside) = (dir.path().join("file"), dir.path().join("dangling"), dir.path().join("inside"));
    std::fs::write(&file, "mine").unwrap();
    all(&file);
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    all(&dangling);
    assert!(!dir.path().join("nowhere").exists());
    all(Path::new("/dev/full"));
    all(Path::new("/proc/self/nothing"));
    // A directory is in the place of a file: nothing of it is touched.
    std::fs::create_dir_all(inside.join("second.7/x")).unwrap();
    let output = kho(["extract", core.to_str().unwrap(), "--all", inside.to_str().unwrap(), "--force"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("second.7: a directory"), "{}", text(&output.stderr));
    assert!(inside.join("second.7/x").exists() && std::fs::read(&file).unwrap() == b"mine");
}

/// A core in which each file has the same large folio, the last one four times; no other large one is in it.
fn shared(files: u64) -> (tempfile::TempDir, PathBuf) {
    let geometry = Geometry::K4;
    let first = Pfn::new((4 << 30) >> geometry.page_shift()).unwrap();
    let scratch = PhysRange::new(PhysAddr::new(1 << 30), 512 << 20).unwrap();
    let ram = Ram::new(geometry, PageRange::new(first, 16384).unwrap());
    let mut outgoing = Outgoing::for_linux(ram, &[scratch]).unwrap();
    let bytes: Vec<u8> = vec![0xa5; 4 * LARGE];
    let order = Order::new(8).unwrap();
    let files = (1..=files).map(|token| {
        let size = if token == files { 4 * LARGE } else { LARGE };
        NewFile { token, content: NewContent::Memfd(Contents::new(geometry, &bytes[..size], order)) }
    });
    let sessions = vec![NewSession { name: b"vm".into(), files: files.collect() }];
    outgoing.preserve("LUO", &Sessions { number: 1, sessions, flbs: Vec::new() }).unwrap();
    let (ram, _) = outgoing.finish().unwrap().into_parts();
    let mut pages: Vec<(u64, Vec<u8>)> = Vec::new();
    for (at, bytes) in ram.segments() {
        pages.extend((at.get()..).step_by(PAGE as usize).zip(bytes.chunks(PAGE as usize).map(<[u8]>::to_vec)));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    core(&path, &pages);
    let opened = Opened::open(&path, &Options::default()).unwrap();
    assert_eq!(opened.decoded.errors, 0, "{:?}", opened.decoded.findings);
    let Some(Content::Luo { sessions, .. }) = &opened.decoded.nodes[0].content else { panic!("no sessions") };
    let folios: Vec<_> =
        sessions[0].files.iter().flat_map(|file| file.memfd.as_ref().unwrap().folios.clone()).collect();
    let is_in = |at: u64, folio: u64| (folio..folio + LARGE as u64).contains(&at);
    pages.retain(|(at, _)| folios[1..].iter().all(|folio| !is_in(*at, folio.0)));
    // Of a record, the number of the page is the lower 52 bits.
    for (at, page) in &mut pages {
        if is_in(*at, folios[0].0) {
            continue;
        }
        for record in page.chunks_mut(16) {
            let word = u64::from_le_bytes(record[..8].try_into().unwrap());
            let index = u64::from_le_bytes(record[8..].try_into().unwrap());
            let number = word & ((1 << 52) - 1);
            if word != number && folios.iter().any(|folio| folio.0 / PAGE == number && folio.2 == index) {
                record[..8].copy_from_slice(&(word - number + folios[0].0 / PAGE).to_le_bytes());
            }
        }
    }
    core(&path, &pages);
    (dir, path)
}

fn core(path: &Path, pages: &[(u64, Vec<u8>)]) {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(64_u64.to_le_bytes());
    bytes.extend([0; 12]);
    for half in [64, 56, pages.len() as u16, 64, 0, 0] {
        bytes.extend(u16::to_le_bytes(half));
    }
    let data = (bytes.len() + pages.len() * 56).next_multiple_of(PAGE as usize) as u64;
    let file = File::create(path).unwrap();
    for (number, (at, page)) in (0..).zip(pages) {
        bytes.extend([1_u32.to_le_bytes(), 6_u32.to_le_bytes()].concat());
        let offset = data + number * PAGE;
        for word in [offset, 0, *at, PAGE, PAGE, PAGE] {
            bytes.extend(word.to_le_bytes());
        }
        file.write_all_at(page, offset).unwrap();
    }
    file.write_all_at(&bytes, 0).unwrap();
}

#[test]
fn files_that_share_folios_do_not_fill_the_disk() {
    let (dir, path) = shared(10);
    let path = path.to_str().unwrap();
    assert_eq!(kho(["check", path]).status.code(), Some(1));
    let out = dir.path().join("out");
    let told = json(1, &["extract", path, "--all", out.to_str().unwrap()]);
    let (written, not) = (told["written"].as_array().unwrap(), told["not_written"].as_array().unwrap());
    // An image of little more than one of them: the second is read, and that was it.
    assert_eq!((written.len(), not.len()), (2, 8), "{told}");
    assert!(not[0]["why"].as_str().unwrap().contains("files have folios of each other"), "{told}");
    // Each by itself can be had; not the one that is four times what there is.
    run(0, &["extract", path, "vm/5", "-o", out.join("5").to_str().unwrap()]);
    let told = run(1, &["extract", path, "vm/0xa", "-o", out.join("a").to_str().unwrap()]);
    assert!(told.contains("not written: vm/0xa: owned-twice: at 0x"), "{told}");
    assert!(!out.join("a").exists());
}
