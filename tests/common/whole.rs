//! A handover with one node of each kind and two files, and what must arrive of it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use kho::abi::{files, kho_test};
use kho::compat::{Compat, CompatList};
use kho::files::{Files, FilesNode};
use kho::handover::{Handle, Incoming, Outgoing, Registry};
use kho::mem::{Frame, Frames as _, MemError, Memory as _, Order};
use kho::memfd::{ByPages, MemfdNode};
use kho::payload::{ARRAY_USE, Array, ArrayNode, Bytes, BytesNode, Contiguous, RECORDS_USE, Records, RecordsNode};
use kho::selftest::{Payload, Rule, SelfTestNode};
use kho::transport::Bundle;
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use rustix::io::FdFlags;
use zerocopy::little_endian::U64;

pub(crate) const TABLE: CompatList<'static> = CompatList::new(Compat::new("test-table", 1), RECORDS_USE);
pub(crate) const ARRAY: CompatList<'static> = CompatList::new(Compat::new("test-array", 1), ARRAY_USE);
pub(crate) const STATE: CompatList<'static> = CompatList::new(Compat::new("test-state", 1), &[]);
/// Bytes of the file under token 1.
pub(crate) const SIZE: u64 = 100_000;

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut word = seed;
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (word >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn rows() -> Vec<U64> {
    (0..5_000).map(|number: u64| U64::new(number * number)).collect()
}

pub(crate) fn contents(file: BorrowedFd<'_>) -> Vec<u8> {
    let size = rustix::fs::fstat(file).unwrap().st_size as usize;
    let mut bytes = vec![0; size];
    File::from(file.try_clone_to_owned().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A memfd that can be sealed, with noise and a position.
pub(crate) fn noisy(seed: u64, len: u64, pos: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create(c"noisy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let file = File::from(file);
    file.write_all_at(&noise(seed, len as usize), 0).unwrap();
    rustix::fs::seek(&file, SeekFrom::Start(pos)).unwrap();
    file.into()
}

/// One node of each kind, and two files.
pub(crate) fn all() -> Outgoing<Bundle> {
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    outgoing.preserve_file(1, noisy(1, SIZE, 77)).unwrap();
    let second = noisy(2, 5, 0);
    rustix::fs::fcntl_add_seals(&second, SealFlags::WRITE | SealFlags::GROW).unwrap();
    // It is ours, and will not be inherited beside what arrives.
    rustix::io::fcntl_setfd(&second, FdFlags::empty()).unwrap();
    outgoing.preserve_file(u64::MAX, second).unwrap();

    let carried = noisy(3, 50_001, 0x1234);
    rustix::fs::fcntl_add_seals(&carried, SealFlags::SHRINK).unwrap();
    outgoing.preserve("memfd", &ByPages { file: carried.as_fd(), order: Order::new(2).unwrap() }).unwrap();
    let folios = [(0, noise(4, 4096)), (3, noise(5, 30_001))];
    let folios = folios.iter().map(|(order, bytes)| (Order::new(*order).unwrap(), bytes.as_slice())).collect();
    outgoing.preserve(kho_test::NODE, &Payload { folios, rule: Rule::NATIVE }).unwrap();
    outgoing.preserve("table", &Records { made_of: TABLE, records: &rows() }).unwrap();
    outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"the state" }).unwrap();

    let order = Order::new(1).unwrap();
    let mut frames: Vec<Frame> = (0..8).map(|_| outgoing.alloc(order)).collect::<Result<_, MemError>>().unwrap();
    for spare in [6, 4, 2] {
        outgoing.free(frames.remove(spare));
    }
    frames.reverse();
    let bytes = noise(6, 5 * order.bytes(outgoing.geometry()) as usize - 9);
    for (frame, part) in frames.iter().zip(bytes.chunks(order.bytes(outgoing.geometry()) as usize)) {
        outgoing.write(frame, 0, part).unwrap();
    }
    outgoing.preserve("array", &Array { made_of: ARRAY, frames: &frames, bytes: bytes.len() as u64 }).unwrap();
    outgoing
}

pub(crate) struct Handles {
    pub(crate) files: Handle<Files>,
    pub(crate) memfd: Handle<OwnedFd>,
    pub(crate) test: Handle<Vec<Frame>>,
    pub(crate) table: Handle<Vec<U64>>,
    pub(crate) state: Handle<Vec<u8>>,
    pub(crate) array: Handle<Contiguous>,
}

pub(crate) fn registry() -> (Registry<Bundle>, Handles) {
    let mut registry = Registry::new();
    let handles = Handles {
        files: registry.add(files::NODE, FilesNode),
        memfd: registry.add("memfd", MemfdNode),
        test: registry.add(kho_test::NODE, SelfTestNode),
        table: registry.read("table", RecordsNode::new(TABLE)),
        state: registry.read("state", BytesNode { made_of: STATE, limit: 9 }),
        array: registry.add("array", ArrayNode { made_of: ARRAY }),
    };
    (registry, handles)
}

/// Restores everything and compares it with what [`all`] made.
pub(crate) fn restore_by(incoming: Incoming<Bundle>, registry: &Registry<Bundle>, handles: &Handles) -> Files {
    let plan = incoming.plan(registry);
    assert!(plan.findings().errors() == 0 && plan.findings().warnings() <= 1, "{}", plan.findings());
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let files = restored.take(&handles.files).unwrap();
    let look = |token| {
        let file = files.get(token).unwrap();
        (
            contents(file),
            rustix::fs::fcntl_get_seals(file).unwrap(),
            rustix::fs::seek(file, SeekFrom::Current(0)).unwrap(),
            rustix::io::fcntl_getfd(file).unwrap(),
        )
    };
    assert_eq!(files.len(), 2);
    assert_eq!(look(1), (noise(1, SIZE as usize), SealFlags::empty(), 77, FdFlags::CLOEXEC));
    assert_eq!(look(u64::MAX), (noise(2, 5), SealFlags::WRITE | SealFlags::GROW, 0, FdFlags::CLOEXEC));
    let memfd = restored.take(&handles.memfd).unwrap();
    assert_eq!(contents(memfd.as_fd()), noise(3, 50_001));
    assert_eq!(rustix::fs::fcntl_get_seals(&memfd).unwrap(), SealFlags::SHRINK);
    assert_eq!(rustix::fs::seek(&memfd, SeekFrom::Current(0)).unwrap(), 0x1234);
    let folios = restored.take(&handles.test).unwrap();
    let arena = restored.memory().arena();
    let starts = |frame: &Frame, bytes: &[u8]| arena.bytes(frame).unwrap().starts_with(bytes);
    assert!(folios.len() == 2 && starts(&folios[0], &noise(4, 4096)) && starts(&folios[1], &noise(5, 30_001)));
    assert_eq!(restored.take(&handles.table).unwrap(), rows());
    assert_eq!(restored.take(&handles.state).unwrap(), b"the state");
    let array = restored.take(&handles.array).unwrap();
    assert_eq!(array[..], noise(6, array.len()));
    assert_eq!(array.len(), 5 * Order::new(1).unwrap().bytes(restored.memory().geometry()) as usize - 9);
    assert!(!array.is_copy());
    drop(array);
    let (bundle, released) = restored.finish();
    assert!(released.unwrap() > 0 && bundle.arena().root().is_none());
    files
}
