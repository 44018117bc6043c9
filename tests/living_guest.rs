//! Memory of a guest to a process beside: what could become shorter under the successor is not handed over.
#![cfg(all(feature = "std", feature = "vm-memory"))]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kho::abi;
use kho::files::{self, FilesNode};
use kho::guest::{self, GuestMemoryNode};
use kho::handover::Registry;
use kho::report::Code;
use kho::transport::{Bundle, Call, Caller, Door, Upgrade};
use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};

use common::*;

const DOOR: &str = "KHO_TEST_DOOR";
const SIZE: usize = 64 << 10;

kho::manifest! {
    static MANIFEST = [both(abi::files::NODE, &[files::MADE_OF]), both(guest::NODE, &[guest::MADE_OF])];
}

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[("takes over", || {
        let path = std::env::var(DOOR).unwrap();
        let arrival = Call::connect(&path, &[]).unwrap().arrive(&MANIFEST).unwrap();
        let mut registry = Registry::of(&MANIFEST);
        registry.add(abi::files::NODE, FilesNode);
        let node = registry.add(guest::NODE, GuestMemoryNode::new());
        let mut restored = arrival.incoming.plan(&registry).accept().unwrap().restore().unwrap();
        let memory: GuestMemoryMmap = restored.take(&node).unwrap();
        arrival.turn.take().unwrap();
        waits(&Path::new(&path).with_extension("cut"));
        let mut bytes = vec![0; SIZE];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
    })]);
}

fn waits(path: &Path) {
    let end = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn upgrade() -> Upgrade<Arc<File>> {
    Upgrade::new(&MANIFEST).preserve(|file: &mut Arc<File>, outgoing| {
        let region = (GuestAddress(0), SIZE, Some(FileOffset::from_arc(Arc::clone(file), 0)));
        let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges_with_files([region]).unwrap();
        outgoing.preserve(guest::NODE, &memory)
    })
}

#[test]
fn memory_that_is_cut_behind_its_back_reaches_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let door = Door::bind(&path).unwrap();
    let memfd = rustix::fs::memfd_create(c"guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = Arc::new(File::from(memfd));
    file.write_all_at(&[7; SIZE], 0).unwrap();
    let start = || {
        let mut command = child(&me(), "takes over");
        command.env(DOOR, &path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let caller = || -> Caller {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match door.accept().unwrap() {
                Some(caller) => return caller,
                None => assert!(Instant::now() < end),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    };

    // One that can be cut does not leave.
    let child = start();
    let bundle = Bundle::new(1 << 20).unwrap();
    let stayed = upgrade().run(&mut file, bundle, caller()).unwrap_err();
    assert_eq!((stayed.step, stayed.fault.code()), ("preserve", Code::MemfdSeals), "{stayed}");
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("SIGBUS"));

    // One that cannot be leaves, and whoever has it tries in vain.
    rustix::fs::fcntl_add_seals(&*file, SealFlags::SHRINK).unwrap();
    let child = start();
    let left = upgrade().run(&mut file, stayed.bundle, caller());
    assert!(left.is_ok());
    assert!(rustix::fs::ftruncate(&*file, 0).is_err());
    File::create(path.with_extension("cut")).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("verdict: ok"), "{}: {said}", output.status);
}
