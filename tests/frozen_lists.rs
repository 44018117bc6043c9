//! The block sets and vmalloc areas of a real Linux 7.2 machine, frozen before kexec: every value as another decoder
//! found it (`frozen.json`), every byte of the memfds as their owner wrote it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kho::abi::{luo, memfd, vmalloc};
use kho::block::{self, BlockSet};
use kho::mem::{Bits, Geometry, Image, Memory as _, PageRange, Pfn, PhysAddr, Ram, Source, read_wire};
use kho::vmalloc::{Area, Loaded};
use serde_json::Value;
use zerocopy::FromBytes as _;
use zerocopy::little_endian::U64;

const PAGE: usize = 4096;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/linux-7.2-x86_64").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(data("frozen.json")).unwrap()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The bytes before the first zero.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes.split(|&byte| byte == 0).next().unwrap()).unwrap()
}

fn page(core: &Image, pfn: Pfn) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    core.read(pfn.addr(Geometry::K4), &mut bytes).unwrap();
    bytes
}

/// What is read, and which pages it took.
struct Machine {
    core: Image,
    /// Pages of all lists.
    taken: Bits,
    /// Order-0 blocks that the machine preserved, by address.
    preserved: BTreeSet<u64>,
}

impl Machine {
    fn frozen(expected: &Value) -> Self {
        let preserved = list(&expected["preserved"]).iter().filter(|block| block[1] == 0);
        let Source::Image(core) = Image::open(data("frozen.core")).unwrap() else { panic!("a core is memory") };
        Machine { core, taken: Bits::default(), preserved: preserved.map(|block| number(&block[0])).collect() }
    }

    fn is_preserved(&self, pages: &[Pfn]) {
        for page in pages {
            assert!(self.preserved.contains(&page.addr(Geometry::K4).get()), "{page} is not preserved");
        }
    }

    fn records<R: kho::abi::Wire>(&mut self, first: u64, count: u64) -> Vec<R> {
        let loaded = block::load::<R>(&self.core, PhysAddr::new(first), Some(count), &mut self.taken).unwrap();
        self.is_preserved(&loaded.blocks);
        // Written again, the page is the one that Linux wrote.
        let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(1).unwrap(), 1).unwrap());
        let _stored = BlockSet::from(loaded.records.clone()).store(&mut ram).unwrap();
        assert!(page(&self.core, loaded.blocks[0]) == first_page(&ram), "the block at {first:#x}");
        loaded.records
    }

    fn area(&mut self, descriptor: &vmalloc::Descriptor) -> Area {
        let Loaded { area, chunks } = Area::load(&self.core, descriptor, &mut self.taken).unwrap();
        self.is_preserved(&chunks);
        self.is_preserved(area.blocks());
        let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(1).unwrap(), 1).unwrap());
        let stored = area.store(&mut ram).unwrap();
        assert!(page(&self.core, chunks[0]) == first_page(&ram), "the chunk of {descriptor:?}");
        assert_eq!(vmalloc::Descriptor { first: descriptor.first, ..stored.descriptor }, *descriptor);
        area
    }

    /// Compares a memfd with what the other decoder found, and gives its bytes.
    fn memfd(&mut self, at: u64, expected: &Value) -> Vec<u8> {
        let found: memfd::Memfd = read_wire(&self.core, PhysAddr::new(at)).unwrap();
        assert_eq!(found.pos.get(), number(&expected["pos"]));
        assert_eq!(found.size.get(), number(&expected["size"]));
        assert_eq!(u64::from(found.seals.get()), number(&expected["seals"]));
        assert_eq!(u64::from(found.flags.get()), number(&expected["flags"]));
        assert_eq!(found.nr_folios.get(), number(&expected["nr_folios"]));
        if found.nr_folios.get() == 0 {
            assert_eq!((found.folios.first.get(), found.folios.total_pages.get()), (0, 0));
            return Vec::new();
        }
        let folios: Vec<memfd::Folio> =
            self.area(&found.folios).read_records(&self.core, found.nr_folios.get()).unwrap();
        let split = |folio: &memfd::Folio| {
            let word = folio.pfn_flags.get();
            [word & ((1 << memfd::PFN_BITS) - 1), word >> memfd::PFN_BITS, folio.index.get()]
        };
        let folios: Vec<[u64; 3]> = folios.iter().map(split).collect();
        let wanted = list(&expected["folios"]).iter();
        assert_eq!(folios, wanted.map(|folio| [0, 1, 2].map(|item| number(&folio[item]))).collect::<Vec<_>>());

        let mut bytes = vec![0; (found.size.get() as usize).next_multiple_of(PAGE)];
        for [pfn, _, index] in folios {
            let pfn = Pfn::new(pfn).unwrap();
            self.is_preserved(&[pfn]);
            bytes[index as usize * PAGE..][..PAGE].copy_from_slice(&page(&self.core, pfn));
        }
        bytes.truncate(found.size.get() as usize);
        bytes
    }
}

fn first_page(ram: &Ram) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    ram.read(PhysAddr::new(0x1000), &mut bytes).unwrap();
    bytes
}

#[test]
fn sessions_files_and_memfds() {
    let expected = expected();
    let wanted = &expected["subtrees"]["LUO"];
    let mut machine = Machine::frozen(&expected);
    let head: luo::Head = read_wire(&machine.core, PhysAddr::new(6_717_440)).unwrap();
    assert_eq!(text(&head.compatible), "luo-v5");
    assert_eq!(head.liveupdate_number.get(), number(&wanted["number"]));
    assert_eq!(head.sessions.get(), number(&wanted["sessions_pa"]));

    let mut memfds = 0;
    let wanted = list(&wanted["sessions"]);
    let sessions: Vec<luo::Session> = machine.records(head.sessions.get(), wanted.len() as u64);
    for (session, wanted) in sessions.iter().zip(wanted) {
        let name = text(&session.name);
        assert_eq!(name, wanted["name"]);
        let wanted = list(&wanted["files"]);
        assert_eq!(session.count.get(), wanted.len() as u64);
        let files: Vec<luo::File> = machine.records(session.files.get(), session.count.get());
        for (file, wanted) in files.iter().zip(wanted) {
            let token = file.token.get();
            assert_eq!(text(&file.compatible), wanted["compatible"]);
            assert_eq!((token, file.data.get()), (number(&wanted["token"]), number(&wanted["data"])));
            let bytes = machine.memfd(file.data.get(), &wanted["memfd"]);
            let written = std::fs::read(data(&format!("memfds/{name}.{token:x}"))).unwrap();
            assert!(bytes == written, "memfd {token:#x} of {name}");
            memfds += 1;
        }
    }
    assert_eq!((sessions.len(), memfds), (2, 5));
    // One page of sessions, two of files, and a chunk for each memfd that has a size.
    assert_eq!(machine.taken.len(), 7);
}

#[test]
fn file_bound_globals() {
    let expected = expected();
    let wanted = &expected["subtrees"]["LUO"];
    let at = PhysAddr::new(number(&wanted["flbs_pa"]));
    let machine = Machine::frozen(&expected);
    machine.is_preserved(&[at.page(Geometry::K4).unwrap()]);
    let header: luo::FlbHeader = read_wire(&machine.core, at).unwrap();
    let wanted = list(&wanted["flbs"]);
    assert_eq!((header.page_count.get(), header.count.get()), (1, wanted.len() as u64));
    for (index, wanted) in wanted.iter().enumerate() {
        let flb: luo::Flb = read_wire(&machine.core, at.checked_add(16 + 64 * index as u64).unwrap()).unwrap();
        assert_eq!(text(&flb.name), wanted["name"]);
        assert_eq!([flb.data.get(), flb.count.get()], [number(&wanted["data"]), number(&wanted["count"])]);
    }
}

#[test]
fn the_array_of_kho_test() {
    let expected = expected();
    let wanted = &expected["subtrees"]["kho_test"];
    let mut machine = Machine::frozen(&expected);
    let mut blob = vec![0; number(&wanted["size"]) as usize];
    machine.core.read(PhysAddr::new(number(&wanted["phys"])), &mut blob).unwrap();
    let tree = fdt::Fdt::new(&blob).unwrap();
    let data = tree.find_node("/data").unwrap();
    let descriptor = vmalloc::Descriptor::read_from_bytes(data.property("folios_info").unwrap().value).unwrap();
    let words: Vec<U64> = machine.area(&descriptor).read_records(&machine.core, number(&wanted["nr_folios"])).unwrap();
    let folios = words.iter().map(|word| vec![word.get() & !0xfff, word.get() & 0xfff]);
    let wanted = list(&wanted["folios"]).iter().map(|folio| list(folio).iter().map(number).collect::<Vec<_>>());
    assert!(folios.eq(wanted));
}
