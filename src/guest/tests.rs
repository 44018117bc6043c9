//! Memory of a guest that goes from one process to the next, and what `preserve` does not take.

use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
    GuestRegionMmap,
};

use super::*;
use crate::files::{Beside as _, FilesNode};
use crate::handover::{Incoming, Outgoing, Registry};
use crate::mem::Arena;
use crate::transport::Bundle;

pub(super) const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;
pub(super) const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

pub(super) fn page() -> u64 {
    rustix::param::page_size().try_into().unwrap()
}

/// A memfd of so many pages with these seals, each page with its number in it.
pub(super) fn memfd(pages: u64, seals: SealFlags) -> Arc<File> {
    let file = rustix::fs::memfd_create(c"guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let file = File::from(file);
    file.set_len(pages * page()).unwrap();
    for number in 0..pages {
        file.write_all_at(&[u8::try_from(number + 1).unwrap()], number * page()).unwrap();
    }
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    Arc::new(file)
}

fn mapping(at: u64, pages: u64, file: Option<(&Arc<File>, u64)>, prot: i32, flags: i32) -> GuestRegionMmap {
    let mut builder =
        MmapRegionBuilder::new(usize::try_from(pages * page()).unwrap()).with_mmap_prot(prot).with_mmap_flags(flags);
    if let Some((file, offset)) = file {
        builder = builder.with_file_offset(FileOffset::from_arc(Arc::clone(file), offset * page()));
    }
    GuestRegionMmap::new(builder.build().unwrap(), GuestAddress(at)).unwrap()
}

/// So many pages of a file, from that one on, read and written.
pub(super) fn region(at: u64, pages: u64, file: &Arc<File>, offset: u64) -> GuestRegionMmap {
    mapping(at, pages, Some((file, offset)), READ_WRITE, SHARED)
}

pub(super) fn memory(regions: Vec<GuestRegionMmap>) -> GuestMemoryMmap {
    GuestMemoryMmap::from_regions(regions).unwrap()
}

/// As it arrives in a process that has nothing of the predecessor but what travels.
pub(super) fn arrived(outgoing: Outgoing<Bundle>) -> Incoming<Bundle> {
    let (mut bundle, root) = outgoing.finish().unwrap().into_parts();
    let files = core::mem::take(bundle.files_mut());
    let arena = Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap();
    Incoming::new(Bundle::of(arena, files), root.start())
}

pub(super) fn sent(memory: &GuestMemoryMmap) -> Incoming<Bundle> {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    outgoing.preserve(NODE, memory).unwrap();
    arrived(outgoing)
}

pub(super) fn registry() -> (Registry<Bundle>, crate::handover::Handle<GuestMemoryMmap>) {
    let mut registry = Registry::new();
    registry.add(abi::files::NODE, FilesNode);
    let node = registry.add(NODE, GuestMemoryNode::new());
    (registry, node)
}

fn received(incoming: Incoming<Bundle>) -> GuestMemoryMmap {
    let (registry, node) = registry();
    let plan = incoming.plan(&registry);
    assert_eq!(plan.findings().to_string(), "");
    plan.accept().unwrap().restore().unwrap().take(&node).unwrap()
}

type Shown = (u64, u64, u64, i32, i32);

/// Address, size, offset, protection and flags of each region.
fn shown(memory: &GuestMemoryMmap) -> Vec<Shown> {
    let show = |region: &GuestRegionMmap| {
        let offset = region.file_offset().unwrap().start();
        (region.start_addr().0, region.len(), offset, region.prot(), region.flags())
    };
    memory.iter().map(show).collect()
}

#[test]
fn all_regions_are_mapped_again_as_they_were() {
    let one = memfd(6, SealFlags::SHRINK);
    let two = memfd(1, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    let rom = memfd(2, SealFlags::SHRINK | SealFlags::WRITE);
    let high = u64::MAX - 4 * page() + 1 - page();
    let before = memory(vec![
        region(0, 2, &one, 4),
        region(2 * page(), 4, &one, 0),
        mapping(1 << 31, 2, Some((&rom, 0)), libc::PROT_READ, libc::MAP_SHARED),
        mapping(1 << 32, 1, Some((&two, 0)), READ_WRITE, libc::MAP_SHARED_VALIDATE | libc::MAP_POPULATE),
        region(high, 4, &one, 1),
    ]);
    let inodes = [&one, &two, &rom].map(|file| file.metadata().unwrap().ino());
    let incoming = sent(&before);
    assert_eq!(incoming.memory().files().len(), 3, "a memfd stands once");
    let mut expected = shown(&before);
    expected[3].4 = libc::MAP_SHARED | libc::MAP_POPULATE;
    // Nothing of the predecessor is left but what travels.
    drop((before, one, two, rom));

    let after = received(incoming);
    assert_eq!(shown(&after), expected);
    let found: Vec<u64> =
        after.iter().map(|region| region.file_offset().unwrap().file().metadata().unwrap().ino()).collect();
    assert_eq!(found, [inodes[0], inodes[0], inodes[2], inodes[1], inodes[0]]);
    for (at, number) in [(0, 5), (page(), 6), (2 * page(), 1), (1 << 31, 1), (1 << 32, 1), (high + 3 * page(), 5)] {
        assert_eq!(after.read_obj::<u8>(GuestAddress(at)).unwrap(), number, "{at:#x}");
    }
    // One memory, of two regions.
    after.write_obj(99_u8, GuestAddress(2 * page())).unwrap();
    after.write_obj(98_u8, GuestAddress(high)).unwrap();
    assert_eq!(after.read_obj::<u8>(GuestAddress(3 * page())).unwrap(), 98);
}

/// The pages are the same ones, not others with the same contents.
#[test]
fn not_a_byte_is_copied() {
    let file = memfd(4, SealFlags::SHRINK);
    let before = memory(vec![region(0, 4, &file, 0)]);
    let after = received(sent(&before));
    before.write_slice(b"written by the one", GuestAddress(page() - 3)).unwrap();
    let mut bytes = [0; 18];
    after.read_slice(&mut bytes, GuestAddress(page() - 3)).unwrap();
    assert_eq!(&bytes, b"written by the one");
}

#[test]
fn dirty_pages_are_tracked_by_whom_the_successor_wants() {
    #[derive(Debug, Default)]
    struct Seen(std::sync::atomic::AtomicUsize);
    impl<'a> vm_memory::bitmap::WithBitmapSlice<'a> for Seen {
        type S = ();
    }
    impl vm_memory::bitmap::Bitmap for Seen {
        fn mark_dirty(&self, _: usize, _: usize) {}
        fn dirty_at(&self, _: usize) -> bool {
            false
        }
        fn slice_at(&self, _: usize) {}
    }
    impl vm_memory::bitmap::NewBitmap for Seen {
        fn with_len(len: usize) -> Self {
            Seen(len.into())
        }
    }
    let file = memfd(2, SealFlags::SHRINK);
    let incoming = sent(&memory(vec![region(0, 2, &file, 0)]));
    let mut registry = Registry::new();
    registry.add(abi::files::NODE, FilesNode);
    let node = registry.add(NODE, GuestMemoryNode::with_bitmap::<Seen>());
    let mut restored = incoming.plan(&registry).accept().unwrap().restore().unwrap();
    let after = restored.take(&node).unwrap();
    let region = after.iter().next().unwrap();
    assert_eq!(region.get_mmap().bitmap().0.load(std::sync::atomic::Ordering::Relaxed), region.size());
}

#[test]
fn it_goes_on_to_the_next_and_the_next() {
    let file = memfd(3, SealFlags::SHRINK);
    let mut memory = memory(vec![region(page(), 1, &file, 2), region(1 << 40, 2, &file, 0)]);
    let first = shown(&memory);
    drop(file);
    for step in 1..4_u8 {
        memory.write_obj(step, GuestAddress(1 << 40)).unwrap();
        memory = received(sent(&memory));
        assert_eq!((shown(&memory), memory.read_obj::<u8>(GuestAddress(1 << 40)).unwrap()), (first.clone(), step));
    }
}

/// What is wrong with it, and nothing stays preserved.
fn refused(memory: &GuestMemoryMmap) -> String {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    let free = outgoing.memory().arena().free_pages();
    let fault = outgoing.preserve(NODE, memory).unwrap_err();
    assert_eq!((outgoing.memory().files().len(), outgoing.memory().arena().free_pages()), (0, free));
    fault.to_string()
}

/// As [`refused`], of a second region behind one that is fine.
fn second(region: GuestRegionMmap) -> String {
    let fine = self::region(0, 1, &memfd(1, SealFlags::SHRINK), 0);
    refused(&memory(vec![fine, region]))
}

const AT: u64 = 1 << 30;

#[test]
fn anonymous_memory_is_refused() {
    let says = "refused: regions[1].file: found anonymous memory, expected a shared mapping of a memfd";
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    assert_eq!(second(mapping(AT, 1, None, READ_WRITE, private)), says);
    assert_eq!(second(mapping(AT, 1, None, READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS)), says);
    // A file that is given with it means nothing.
    let file = memfd(1, SealFlags::SHRINK);
    assert_eq!(second(mapping(AT, 1, Some((&file, 0)), READ_WRITE, private)), says);
}

#[test]
fn a_private_mapping_is_refused() {
    let file = memfd(1, SealFlags::SHRINK);
    let says = "refused: regions[1].flags: found a private mapping, expected a shared mapping of a memfd";
    assert_eq!(second(mapping(AT, 1, Some((&file, 0)), READ_WRITE, libc::MAP_PRIVATE)), says);
}

#[test]
fn a_file_that_is_no_memfd_is_refused() {
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.set_len(page()).unwrap();
    let says = second(region(AT, 1, &file, 0));
    // On a tmpfs such a file has seals, of which none can be added.
    let known = ["file-kind: regions[1].file.kind: found a regular file, expected a memfd", UNSEALED];
    assert!(known.contains(&says.as_str()), "{says}");
}

const UNSEALED: &str = "memfd-seals: regions[1].file.seals: found a memfd that can be truncated, expected one that cannot: \
                        seal it with F_SEAL_SHRINK";

#[test]
fn a_memfd_that_can_be_truncated_is_refused() {
    assert_eq!(second(region(AT, 1, &memfd(1, SealFlags::GROW), 0)), UNSEALED);
    assert_eq!(second(region(AT, 1, &memfd(1, SealFlags::empty()), 0)), UNSEALED);
}

#[test]
fn memory_that_could_not_be_mapped_for_writing_again_is_refused() {
    let file = memfd(1, SealFlags::SHRINK);
    let mapped = region(AT, 1, &file, 0);
    rustix::fs::fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).unwrap();
    let says = "memfd-seals: regions[1].file.seals: found F_SEAL_FUTURE_WRITE, expected a memfd that can be mapped for \
                writing, as the region says";
    assert_eq!(second(mapped), says);
    // One that is only read can.
    let rom = mapping(AT, 1, Some((&file, 0)), libc::PROT_READ, SHARED);
    assert_eq!(shown(&received(sent(&memory(vec![rom])))).len(), 1);
}

fn opened_anew(file: &File, flags: OFlags) -> Arc<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Arc::new(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap().into())
}

#[test]
fn of_several_descriptors_of_a_memfd_the_one_that_can_write_travels() {
    let file = memfd(2, SealFlags::SHRINK);
    let reading = opened_anew(&file, OFlags::RDONLY);
    let rom = mapping(0, 1, Some((&reading, 0)), libc::PROT_READ, SHARED);
    let incoming = sent(&memory(vec![rom, region(AT, 1, &file, 1)]));
    assert_eq!(incoming.memory().files().len(), 1);
    let after = received(incoming);
    after.write_obj(77_u8, GuestAddress(AT)).unwrap();
    assert_eq!(after.iter().next().unwrap().prot(), libc::PROT_READ);
}

#[test]
fn a_descriptor_that_cannot_be_mapped_as_the_region_says_is_refused() {
    // The region says more than its mapping ever had: only by hand.
    let reading = opened_anew(&memfd(1, SealFlags::SHRINK), OFlags::RDONLY);
    let raw = region_of(READ_WRITE);
    let fault = backing::Backing::for_region(&raw, reading.as_fd()).unwrap_err().to_string();
    let says = "file-kind: file.access: found a descriptor for reading only, expected one for reading and writing, as the \
                region says";
    assert_eq!(fault, says);
    let writing = opened_anew(&memfd(1, SealFlags::SHRINK), OFlags::WRONLY);
    let fault = backing::Backing::for_region(&raw, writing.as_fd()).unwrap_err().to_string();
    assert_eq!(fault, "file-kind: file.access: found a descriptor for writing only, expected one that can be mapped");
}

fn region_of(prot: i32) -> Region {
    Region {
        guest: 0.into(),
        size: page().into(),
        token: 0.into(),
        offset: 0.into(),
        prot: prot.cast_unsigned().into(),
        flags: MAP_SHARED.into(),
        reserved: 0.into(),
    }
}

#[test]
fn a_file_that_ends_before_its_region_is_refused() {
    let end = 3 * page();
    let says = format!(
        "memfd-size: regions[1].file.size: found {:#x}, expected at least {end:#x}, where the region ends",
        end - page()
    );
    assert_eq!(second(region(AT, 2, &memfd(2, SealFlags::SHRINK), 1)), says);
}

#[test]
fn what_is_not_whole_pages_is_refused() {
    let file = memfd(2, SealFlags::SHRINK);
    let part = FileOffset::from_arc(file, 0);
    let odd = GuestRegionMmap::from_range(GuestAddress(AT), 4095, Some(part)).unwrap();
    let says = format!("unaligned: regions[1].size: found 0xfff, expected a multiple of {:#x}, the page size", page());
    assert_eq!(second(odd), says);
}

#[test]
fn other_protections_and_flags_are_refused() {
    let file = memfd(1, SealFlags::SHRINK);
    let with = |prot, flags| second(mapping(AT, 1, Some((&file, 0)), prot, flags));
    let says = "expected 0x1 (read) or 0x3 (read and write)";
    assert_eq!(with(libc::PROT_NONE, SHARED), format!("guest-mapping: regions[1].prot: found 0x0, {says}"));
    let code = READ_WRITE | libc::PROT_EXEC;
    assert_eq!(with(code, SHARED), format!("guest-mapping: regions[1].prot: found 0x7, {says}"));
    let says = "guest-mapping: regions[1].flags: found 0x10001, expected 0x1 (shared), with 0x4000 (no reserve) or 0x8000 \
                (populate) or without";
    assert_eq!(with(READ_WRITE, libc::MAP_SHARED | libc::MAP_NONBLOCK), says);
}

#[test]
fn no_regions_are_refused() {
    let says = "guest-regions: count: found 0, expected 1 to 32764 regions";
    assert_eq!(refused(&GuestMemoryMmap::new()), says);
}

/// `GuestMemoryMmap` does not take such; other collections could.
#[test]
fn regions_that_overlap_or_are_not_in_order_are_refused() {
    let file = memfd(4, SealFlags::SHRINK);
    let told =
        |regions: [GuestRegionMmap; 2]| regions::owned(regions.iter(), page()).map(|_| ()).unwrap_err().to_string();
    let says = format!(
        "guest-regions: regions[1].guest: found {:#x}, expected at least {:#x}, where those before it end",
        page(),
        2 * page()
    );
    assert_eq!(told([region(0, 2, &file, 0), region(page(), 2, &file, 2)]), says);
    let says = "guest-regions: regions[1].guest: found 0x0, expected an address behind 0x40000000, where the one before it begins";
    assert_eq!(told([region(AT, 2, &file, 0), region(0, 2, &file, 2)]), says);
}

#[test]
fn a_memfd_that_is_handed_over_otherwise_is_refused() {
    let file = memfd(1, SealFlags::SHRINK);
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    outgoing.preserve_file(5, OwnedFd::from(file.try_clone().unwrap())).unwrap();
    let fault = outgoing.preserve(NODE, &memory(vec![region(0, 1, &file, 0)])).unwrap_err();
    assert_eq!(fault.code(), Code::FileDuplicate);
    assert!(
        fault.to_string().starts_with("file-duplicate: regions[0].files[0x8000000000000000].inode: inode "),
        "{fault}"
    );
    assert!(fault.to_string().ends_with("which has the token 0x5 already"), "{fault}");
    // Taken back, it can go.
    assert!(outgoing.unpreserve_file(5).is_some());
    outgoing.preserve(NODE, &memory(vec![region(0, 1, &file, 0)])).unwrap();
}

#[test]
fn two_guests_have_a_node_each() {
    let (one, two) = (memfd(1, SealFlags::SHRINK), memfd(2, SealFlags::SHRINK));
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    outgoing.preserve("one", &memory(vec![region(0, 1, &one, 0)])).unwrap();
    outgoing.preserve("two", &memory(vec![region(AT, 1, &two, 1)])).unwrap();
    let mut registry = Registry::new();
    registry.add(abi::files::NODE, FilesNode);
    let nodes = ["one", "two"].map(|name| registry.add(name, GuestMemoryNode::new()));
    let mut restored = arrived(outgoing).plan(&registry).accept().unwrap().restore().unwrap();
    let [one, two] = nodes.map(|node| restored.take(&node).unwrap());
    assert_eq!(one.read_obj::<u8>(GuestAddress(0)).unwrap(), 1);
    assert_eq!(two.read_obj::<u8>(GuestAddress(AT)).unwrap(), 2);
}

/// Where the system has such: none has to be reserved for it.
#[test]
fn huge_pages_stay_huge() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let Ok(file) = rustix::fs::memfd_create(c"guest", flags) else {
        eprintln!("needs huge pages");
        return;
    };
    let huge = u64::try_from(rustix::fs::fstatfs(&file).unwrap().f_bsize).unwrap();
    rustix::fs::ftruncate(&file, 2 * huge).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    let file = Arc::new(File::from(file));
    let before = memory(vec![region(0, huge / page(), &file, huge / page())]);
    let after = received(sent(&before));
    assert_eq!(shown(&after), shown(&before));
    assert_eq!(after.iter().next().unwrap().is_hugetlbfs(), Some(true));
    // Not of the size of its pages: the system would round it up, and unmap less.
    let odd = Region { size: page().into(), ..region_of(READ_WRITE) };
    let fault = backing::Backing::for_region(&odd, file.as_fd()).unwrap_err();
    let says = format!("unaligned: size: found {:#x}, expected a multiple of {huge:#x}, the page size", page());
    assert_eq!(fault.to_string(), says);
}

#[cfg(feature = "serde")]
#[test]
fn the_regions_are_shown_without_the_files() {
    use crate::inspect::{self, Content, Options};

    let file = memfd(3, SealFlags::SHRINK);
    let rom = mapping(AT, 2, Some((&file, 1)), libc::PROT_READ, SHARED);
    let incoming = sent(&memory(vec![region(0, 1, &file, 0), rom]));
    let path = format!("/proc/self/fd/{}", incoming.memory().arena().fd().as_raw_fd());
    let shown = inspect::open(path, &Options::default()).unwrap();
    assert_eq!((shown.errors, shown.warnings), (0, 0), "{:?}", shown.findings);
    let node = shown.nodes.iter().find(|node| node.name == NODE).unwrap();
    let Some(Content::GuestMemory { regions }) = &node.content else { panic!("{node:?}") };
    let found: Vec<_> =
        regions.iter().map(|one| (one.guest, one.size, one.token, one.offset, one.prot, one.flags)).collect();
    let token = crate::files::OURS;
    assert_eq!(found, [(0, page(), token, 0, 3, 0x4001), (AT, 2 * page(), token, page(), 1, 0x4001)]);
}

#[cfg(feature = "serde")]
#[test]
fn regions_that_differ_are_told_one_by_one() {
    use crate::inspect::{Diff, DiffOptions, Opened, Options};

    let opened = |regions: Vec<GuestRegionMmap>| {
        let incoming = sent(&memory(regions));
        let path = format!("/proc/self/fd/{}", incoming.memory().arena().fd().as_raw_fd());
        Opened::open(path, &Options::default()).unwrap()
    };
    let file = memfd(3, SealFlags::SHRINK);
    let one = opened(vec![region(0, 1, &file, 0), region(AT, 1, &file, 1)]);
    let rom = mapping(AT, 1, Some((&file, 2)), libc::PROT_READ, SHARED);
    let two = opened(vec![region(0, 1, &file, 0), rom, region(2 * AT, 1, &file, 1)]);
    let changes = Diff::of(&one, &two, DiffOptions::default()).changes;
    let told = changes.iter().filter(|change| change.path.contains("regions"));
    let told: Vec<_> = told.map(|one| (one.path.as_str(), one.a.as_deref(), one.b.as_deref())).collect();
    let (a, b) = (page().to_string(), (2 * page()).to_string());
    let size = format!("{} bytes", page());
    assert_eq!(
        told,
        [
            ("/guest-memory regions[0x40000000].offset", Some(a.as_str()), Some(b.as_str())),
            ("/guest-memory regions[0x40000000].prot", Some("3"), Some("1")),
            ("/guest-memory regions[0x80000000]", None, Some(size.as_str())),
        ]
    );
}
