//! What the tests of `dump` and `check` share: the command, the fixture, and an arena as a file.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kho::compat::{Compat, CompatList};
use kho::handover::Outgoing;
use kho::mem::{Frame, Frames as _, Order};
use kho::memfd::ByPages;
use kho::payload::{ARRAY_USE, Array, Bytes, RECORDS_USE, Records};
use kho::selftest::{Payload, Rule};
use kho::transport::Bundle;
use serde_json::Value;

pub(crate) const ROWS: CompatList<'static> = CompatList::new(Compat::new("shop-orders", 3), RECORDS_USE);
pub(crate) const PICTURE: CompatList<'static> = CompatList::new(Compat::new("shop-picture", 1), ARRAY_USE);
pub(crate) const NOTE: CompatList<'static> = CompatList::new(Compat::new("shop-note", 1), &[]);

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/linux-7.2-x86_64").join(name)
}

pub(crate) fn kho<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kho")).args(args).env("CLICOLOR", "1").output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The output of a command that must end so, with nothing on the error channel unless it is 2.
pub(crate) fn run(code: i32, args: &[&str]) -> String {
    let output = kho(args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    if code == 2 {
        assert!(out.is_empty(), "{out}");
        assert!(err.starts_with("kho: "), "{err}");
        return err.into();
    }
    assert!(err.is_empty(), "{err}");
    out.into()
}

pub(crate) fn json(code: i32, args: &[&str]) -> Value {
    serde_json::from_str(&run(code, &[args, &["--format", "json"]].concat())).unwrap()
}

pub(crate) fn node<'a>(decoded: &'a Value, name: &str) -> &'a Value {
    decoded["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap()
}

/// An arena with one node of every kind that this library writes.
pub(crate) struct Handover {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) bundle: Bundle,
    pub(crate) frames: Vec<Frame>,
}

impl Handover {
    pub(crate) fn new() -> Handover {
        let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
        let page = [7; 5000];
        let order = |order| Order::new(order).unwrap();
        let payload = Payload { folios: vec![(order(1), &page), (order(0), b"hello")], rule: Rule::Words };
        outgoing.preserve("kho_test", &payload).unwrap();
        let rows: Vec<[u8; 24]> = vec![[9; 24]; 1000];
        outgoing.preserve("orders", &Records { made_of: ROWS, records: &rows }).unwrap();
        let frames: Vec<_> = (0..3).map(|_| outgoing.alloc(order(4)).unwrap()).collect();
        outgoing.preserve("picture", &Array { made_of: PICTURE, frames: &frames, bytes: 150_000 }).unwrap();
        outgoing.preserve("note", &Bytes { made_of: NOTE, bytes: b"\x1b[31mnot red\x1b[0m" }).unwrap();
        let small = memfd("small", 10_000);
        outgoing.preserve("small", &ByPages { file: small.as_fd(), order: order(0) }).unwrap();
        outgoing.preserve_file(0xabc, memfd("large", 1 << 20).into()).unwrap();
        Handover::of(outgoing, frames)
    }

    /// A handover as a file, and blocks of the user that are in it.
    pub(crate) fn of(outgoing: Outgoing<Bundle>, frames: Vec<Frame>) -> Handover {
        let (bundle, _) = outgoing.finish().unwrap().into_parts();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("arena");
        let handover = Handover { dir, path, bundle, frames };
        handover.save();
        handover
    }

    /// Writes the arena into a file, and only the pages that have something.
    pub(crate) fn save(&self) {
        let mut arena = File::from(self.bundle.arena().read_only_fd().unwrap());
        let size = arena.seek(SeekFrom::End(0)).unwrap();
        let mut file = File::create(&self.path).unwrap();
        file.set_len(size).unwrap();
        let mut page = vec![0; 1 << 16];
        // All that these handovers use is at the start.
        for at in (0..16 << 20).step_by(page.len()) {
            arena.seek(SeekFrom::Start(at)).unwrap();
            arena.read_exact(&mut page).unwrap();
            if page.iter().any(|&byte| byte != 0) {
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&page).unwrap();
            }
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Changes bytes at a physical address.
    pub(crate) fn poke(&self, address: u64, bytes: &[u8]) {
        let offset = address - self.bundle.arena().base().get();
        let mut file = File::options().write(true).open(&self.path).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(bytes).unwrap();
    }

    pub(crate) fn decoded(&self) -> Value {
        json(0, &["dump", self.path()])
    }
}

fn memfd(name: &str, size: usize) -> File {
    use rustix::fs::{MemfdFlags, memfd_create};
    let mut file = File::from(memfd_create(name, MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap());
    file.write_all(&vec![5; size]).unwrap();
    file
}

/// Runs `dtc` on source; none when it is not there and need not be.
pub(crate) fn dtc(source: &str) -> Option<Output> {
    let spawned = Command::new("dtc")
        .args(["-I", "dts", "-O", "dtb", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        let required = std::env::var("KHO_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|tool| tool == "dtc"), "needs dtc (apt-get install device-tree-compiler)");
        println!("needs dtc (apt-get install device-tree-compiler)");
        return None;
    };
    child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

/// What is shown must be what the file of the repository has. `KHO_BLESS=1` writes it there.
#[track_caller]
pub(crate) fn golden(path: &str, shown: &str) {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("KHO_BLESS").is_some() {
        std::fs::write(&golden, shown).unwrap();
    }
    let golden = std::fs::read_to_string(golden).unwrap();
    assert!(shown == golden, "KHO_BLESS=1 writes what is shown now into {path}:\n{shown}");
}
