//! Tables that lie, and files that are not what a table wants.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;
use rustix::fs::SealFlags;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::tests::{arrived, memfd, memory, page, region, registry, sent};
use super::*;
use crate::fdt::Fdt;
use crate::files::{Beside as _, Files, OURS};
use crate::handover::{Blob, Incoming, Outgoing, Preserve, Scope};
use crate::mem::{Arena, PhysAddr, read_wire};
use crate::transport::Bundle;

const AT: u64 = 1 << 32;

/// Three regions of two memfds, the first of three pages and the second of two.
fn incoming() -> Incoming<Bundle> {
    let (one, two) = (memfd(3, SealFlags::SHRINK), memfd(2, SealFlags::SHRINK));
    sent(&memory(vec![region(0, 1, &one, 0), region(AT, 2, &one, 1), region(2 * AT, 2, &two, 0)]))
}

/// Where the table is.
fn table_of(incoming: &Incoming<Bundle>) -> PhysAddr {
    let memory = incoming.memory();
    let mut bytes = vec![0; 4096];
    crate::mem::Memory::read(memory, incoming.root(), &mut bytes).unwrap();
    let fdt = Fdt::parse(&bytes).unwrap();
    let blob = fdt.root().child(NODE).unwrap().property("preserved-data").unwrap().u64_native().unwrap();
    PhysAddr::new(blob)
}

fn poke(incoming: &Incoming<Bundle>, at: PhysAddr, bytes: &[u8]) {
    let arena = incoming.memory().arena();
    let file = File::from(arena.fd().try_clone_to_owned().unwrap());
    file.write_all_at(bytes, at.get() - arena.base().get()).unwrap();
}

/// What the plan says of it, without `error: /guest-memory: `, and without warnings.
fn told(incoming: Incoming<Bundle>) -> Vec<String> {
    let (registry, _) = registry();
    let Err(refused) = incoming.plan(&registry).accept() else { return Vec::new() };
    let errors = refused.findings.kept().iter().map(|one| one.to_string().replace("error: /guest-memory: ", ""));
    errors.filter(|text| !text.starts_with("warning: ")).collect()
}

/// The address of a record.
fn place(incoming: &Incoming<Bundle>, which: u64) -> PhysAddr {
    let table: Table = read_wire(incoming.memory(), table_of(incoming)).unwrap();
    // Behind the two words of the block.
    PhysAddr::new(table.regions.get() + 16 + which * 48)
}

/// Three regions, one record of which is changed.
fn changed(which: u64, change: impl FnOnce(&mut Region)) -> Vec<String> {
    let incoming = incoming();
    let at = place(&incoming, which);
    let mut region: Region = read_wire(incoming.memory(), at).unwrap();
    change(&mut region);
    poke(&incoming, at, region.as_bytes());
    told(incoming)
}

fn counted(count: u64) -> Vec<String> {
    let incoming = incoming();
    let at = table_of(&incoming);
    poke(&incoming, PhysAddr::new(at.get() + 8), &count.to_le_bytes());
    told(incoming).into_iter().map(|text| text.replace(&at.to_string(), "TABLE")).collect()
}

#[test]
fn what_nobody_changed_is_fine() {
    assert_eq!(changed(1, |_| ()), [""; 0]);
}

#[test]
fn a_table_of_no_regions() {
    assert_eq!(counted(0)[0], "guest-regions: count at TABLE: found 0, expected 1 to 32764 regions");
}

#[test]
fn a_table_of_more_regions_than_anybody_maps() {
    let says = "too-large: count at TABLE: found 32765, expected 1 to 32764 regions";
    assert_eq!(counted(MAX_REGIONS + 1)[0], says);
    assert!(counted(u64::MAX)[0].starts_with("too-large: count at TABLE: found 18446744073709551615"));
}

#[test]
fn a_table_that_lies_about_its_records() {
    assert_eq!(counted(4)[0], "block-count: regions.count: found 4, expected 3");
    assert_eq!(counted(2)[0], "block-count: regions.count: found 2, expected at least 3");
    let incoming = incoming();
    poke(&incoming, table_of(&incoming), &0_u64.to_le_bytes());
    assert_eq!(told(incoming)[0], "block-count: regions.count: found 3, expected 0");
    let incoming = self::incoming();
    poke(&incoming, table_of(&incoming), &0xdead_0000_0000_u64.to_le_bytes());
    assert!(told(incoming)[0].starts_with("not-preserved: regions"));
}

#[test]
fn a_blob_that_is_too_short() {
    struct Short;
    impl<M: crate::handover::Home> Preserve<M> for Short {
        fn compat(&self) -> CompatList<'static> {
            MADE_OF
        }
        fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
            scope.blob(&[1; 15])
        }
    }
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    outgoing.preserve(NODE, &Short).unwrap();
    outgoing.preserve_file(1, std::sync::Arc::try_unwrap(memfd(1, SealFlags::SHRINK)).unwrap().into()).unwrap();
    let said = told(arrived(outgoing));
    assert!(said[0].starts_with("truncated: blob-size"), "{said:?}");
}

#[test]
fn a_reserved_field_that_is_not_zero() {
    assert_eq!(
        changed(1, |region| region.reserved = 7.into()),
        ["reserved: regions[1].reserved: found 0x7, expected 0"]
    );
}

#[test]
fn a_region_without_bytes() {
    let says = "guest-regions: regions[1].size: found 0x0, expected at least a page";
    assert_eq!(changed(1, |region| region.size = 0.into()), [says]);
}

#[test]
fn a_size_or_an_offset_that_is_not_whole_pages() {
    let page = page();
    let says = |item, found| {
        format!("unaligned: regions[1].{item}: found {found:#x}, expected a multiple of {page:#x}, the page size")
    };
    assert_eq!(changed(1, |region| region.size = (page + 1).into()), [says("size", page + 1)]);
    assert_eq!(changed(1, |region| region.size = 1.into()), [says("size", 1)]);
    assert_eq!(changed(1, |region| region.offset = (page / 2).into()), [says("offset", page / 2)]);
    assert_eq!(changed(1, |region| region.offset = u64::MAX.into()), [says("offset", u64::MAX)]);
}

#[test]
fn a_region_that_passes_the_end_of_the_address_space() {
    let page = page();
    let last = u64::MAX - page + 1;
    let says = |size| {
        format!("too-large: regions[2].size: found {size:#x}, expected an end of what begins at {last:#x} below 2^64")
    };
    assert_eq!(changed(2, |region| region.guest = last.into()), [says(2 * page)]);
    let says = format!(
        "too-large: regions[2].size: found {last:#x}, expected an end of what begins at {:#x} below 2^64",
        2 * AT
    );
    assert_eq!(changed(2, |region| region.size = last.into()), [says]);
}

#[test]
fn an_offset_that_no_file_has() {
    let page = page();
    for offset in [1 << 63, (1 << 63) - page, u64::MAX - page + 1] {
        let says = format!(
            "too-large: regions[1].offset: found {offset:#x}, expected an end, {:#x} bytes behind it, below 2^63",
            2 * page
        );
        assert_eq!(changed(1, |region| region.offset = offset.into()), [says]);
    }
}

#[test]
fn regions_that_overlap() {
    let page = page();
    let said = changed(1, |region| region.guest = 0.into());
    assert_eq!(
        said,
        [format!("guest-regions: regions[1].guest: found 0x0, expected at least {page:#x}, where those before it end")]
    );
    // One that holds all that come behind it.
    let said = changed(0, |region| region.size = (1_u64 << 40).into());
    assert_eq!(said[1..].len(), 2, "{said:?}");
    assert!(said.iter().any(|text| text.starts_with("guest-regions: regions[2].guest: found 0x200000000")), "{said:?}");
}

#[test]
fn regions_that_are_not_in_order() {
    let says = |number, at: u64, expected| {
        format!("guest-regions: regions[{number}].guest: found {at:#x}, expected {expected}")
    };
    let said = changed(0, |region| region.guest = (1_u64 << 40).into());
    let first = says(1, AT, "an address behind 0x10000000000, where the one before it begins");
    let end = format!("at least {:#x}, where those before it end", (1 << 40) + page());
    assert_eq!(said, [first, says(2, 2 * AT, &end)]);
}

#[test]
fn a_protection_that_nobody_maps() {
    for prot in [0, 2, 4, 5, 7, 0x8000_0001, u32::MAX] {
        let says =
            format!("guest-mapping: regions[1].prot: found {prot:#x}, expected 0x1 (read) or 0x3 (read and write)");
        assert_eq!(changed(1, |region| region.prot = prot.into()), [says]);
    }
    assert_eq!(changed(1, |region| region.prot = 1.into()), [""; 0]);
}

/// Among them MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS and MAP_HUGETLB: what is mapped is never anything else, or elsewhere.
#[test]
fn flags_that_nobody_maps_with() {
    for flags in [0, 2, 3, 0x11, 0x21, 0x4_0001, 0x10_0001, 0x4000, u32::MAX] {
        let said = changed(1, |region| region.flags = flags.into());
        assert!(
            said[0].starts_with(&format!("guest-mapping: regions[1].flags: found {flags:#x}, expected")),
            "{said:?}"
        );
        assert_eq!(said.len(), 1);
    }
    assert_eq!(changed(1, |region| region.flags = 0xc001.into()), [""; 0]);
}

#[test]
fn a_token_that_no_file_has() {
    let says = "token-missing: regions[1].token: 0x1";
    assert_eq!(changed(1, |region| region.token = 1.into()), [says]);
}

#[test]
fn a_token_of_another_file_that_is_too_short() {
    let page = page();
    let says = format!(
        "memfd-size: regions[1].file.size: found {:#x}, expected at least {:#x}, where the region ends",
        2 * page,
        3 * page
    );
    assert_eq!(changed(1, |region| region.token = (OURS + 1).into()), [says]);
}

#[test]
fn a_file_that_ends_before_its_region() {
    let page = page();
    let says = |end: u64| {
        format!(
            "memfd-size: regions[2].file.size: found {:#x}, expected at least {end:#x}, where the region ends",
            2 * page
        )
    };
    assert_eq!(changed(2, |region| region.offset = page.into()), [says(3 * page)]);
    assert_eq!(changed(2, |region| region.size = (page << 20).into()), [says(page << 20)]);
}

/// The handover with another file in the place of its second one.
fn swapped(file: impl Into<OwnedFd>) -> Vec<String> {
    let incoming = incoming();
    let root = incoming.root();
    let mut bundle = incoming.into_memory();
    let mut files = core::mem::take(bundle.files_mut());
    let came = vec![(OURS, files.take(OURS).unwrap()), (OURS + 1, file.into())];
    let bundle = Bundle::of(Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap(), Files::received(came));
    // That it is another file is told of the files, in any case.
    let said = told(Incoming::new(bundle, root));
    assert!(said.iter().any(|text| text.starts_with("error: /files: ")), "{said:?}");
    said.into_iter().filter(|text| !text.starts_with("error: /files: ")).collect()
}

fn own(file: std::sync::Arc<File>) -> OwnedFd {
    std::sync::Arc::try_unwrap(file).unwrap().into()
}

#[test]
fn a_file_that_is_no_memfd() {
    let says = |what| format!("file-kind: regions[2].file.kind: found {what}, expected a memfd");
    assert_eq!(swapped(File::open("/dev/null").unwrap()), [says("a character device")]);
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(swapped(socket), [says("a socket")]);
}

#[test]
fn a_memfd_that_can_be_truncated() {
    let says = "memfd-seals: regions[2].file.seals: found a memfd that can be truncated, expected one that cannot: seal it \
                with F_SEAL_SHRINK";
    assert_eq!(swapped(own(memfd(2, SealFlags::GROW))), [says]);
}

#[test]
fn a_memfd_that_cannot_be_written() {
    let says = "memfd-seals: regions[2].file.seals: found F_SEAL_WRITE, expected a memfd that can be mapped for writing, as \
                the region says";
    assert_eq!(swapped(own(memfd(2, SealFlags::SHRINK | SealFlags::WRITE))), [says]);
}

#[test]
fn what_was_checked_is_what_is_mapped() {
    let incoming = incoming();
    let (registry, node) = registry();
    let held = incoming.memory().files().get(OURS).unwrap().try_clone_to_owned().unwrap();
    let accepted = incoming.plan(&registry).accept().unwrap();
    // Whoever has the memfd still may try what he likes: its seal says no.
    assert_eq!(rustix::fs::ftruncate(&held, 0), Err(rustix::io::Errno::PERM));
    let mut restored = accepted.restore().unwrap();
    let memory = restored.take(&node).unwrap();
    let mut byte = [0];
    vm_memory::Bytes::read_slice(&memory, &mut byte, vm_memory::GuestAddress(AT)).unwrap();
    assert_eq!(byte, [2]);
}

proptest! {
    #![proptest_config(crate::testing::cases(64))]

    /// Any bytes in place of a record or of the table: a plan that refuses, or a memory that can be read to its last byte.
    #[test]
    fn any_record_is_an_error_or_memory(
        which in 0_u64..3,
        bytes in any::<[u8; 48]>(),
        keep in any::<u8>(),
        high in any::<bool>(),
    ) {
        let incoming = incoming();
        let at = place(&incoming, which);
        let mut record: Region = read_wire(incoming.memory(), at).unwrap();
        let wild = Region::read_from_bytes(&bytes).unwrap();
        // Some fields stay as they were, and some numbers are small: more of it is near to what is right.
        let number = |n: u64| if high { n } else { (n & 7) * page() };
        if keep & 1 == 0 { record.guest = number(wild.guest.get()).into(); }
        if keep & 2 == 0 { record.size = number(wild.size.get()).into(); }
        if keep & 4 == 0 { record.offset = number(wild.offset.get()).into(); }
        if keep & 8 == 0 { record.token = (OURS + (wild.token.get() & 1)).into(); }
        if keep & 16 == 0 { record.prot = (wild.prot.get() & 3).into(); }
        if keep & 0xe0 == 0 { record.flags = wild.flags; }
        poke(&incoming, at, record.as_bytes());
        let (registry, node) = registry();
        if let Ok(accepted) = incoming.plan(&registry).accept() {
            let memory = accepted.restore().unwrap().take(&node).unwrap();
            for region in vm_memory::GuestMemoryBackend::iter(&memory) {
                let last = vm_memory::GuestMemoryRegion::last_addr(region);
                vm_memory::Bytes::read_slice(&memory, &mut [0], last).unwrap();
            }
        }
    }
}
