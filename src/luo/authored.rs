//! Sessions that we author: what is read back, and what Linux's rules refuse.

use super::*;
use crate::abi::Plain;
use crate::handover::testing::{NODE, planned, ram, sent};
use crate::handover::{Incoming, Outgoing};
use crate::mem::{Geometry, Order, PageRange, Pfn, Ram};
use crate::memfd::{Contents, NewFolio};
use alloc::vec;

fn new_session(name: &str, files: Vec<NewFile<'static>>) -> NewSession<'static> {
    NewSession { name: name.into(), files }
}

fn of(sessions: Vec<NewSession<'static>>) -> Sessions<'static> {
    Sessions { number: 1, sessions, flbs: vec![] }
}

fn opaque(token: u64) -> NewFile<'static> {
    NewFile { token, content: NewContent::Opaque { compatible: "x-v1".into(), data: token } }
}

fn file(content: Contents<'static>) -> Sessions<'static> {
    of(vec![new_session("a", vec![NewFile { token: 0xa, content: NewContent::Memfd(content) }])])
}

/// Nothing of it stays.
fn refused(sessions: &Sessions<'_>) -> String {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let fault = outgoing.preserve(NODE, sessions).unwrap_err();
    assert_eq!(outgoing.memory().free_pages(), 4096);
    fault.to_string()
}

fn flb(name: &str, count: u64) -> Flb {
    Flb { name: Name::from(name.as_bytes()), data: 0xfeed, count }
}

#[test]
fn exact_bytes() {
    let folio = NewFolio { index: 4, order: Order::new(1).unwrap(), bytes: b"bytes" };
    let contents = Contents { pos: 5, size: 0x5001, seals: 6, folios: vec![folio] };
    let flbs = vec![flb("kvm", 2)];
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve(NODE, &Sessions { number: 3, flbs, ..file(contents) }).unwrap();
    let finished = outgoing.finish().unwrap();
    let memory = finished.memory();
    fn wire<T: Plain>(memory: &Ram, at: u64) -> T {
        read_wire(memory, PhysAddr::new(at)).unwrap()
    }
    let fdt = finished.root_fdt().unwrap();
    let node = crate::fdt::Fdt::parse(&fdt).unwrap().root().child(NODE).unwrap();
    assert_eq!(node.property("blob-size").unwrap().u64_native().unwrap(), 32);
    let head: abi::luo::Head = wire(memory, node.property("preserved-data").unwrap().u64_native().unwrap());
    assert_eq!((&head.compatible, head.liveupdate_number.get()), (b"luo-v5\0\0", 3));

    let flbs: [u8; 80] = wire(memory, head.flbs.get());
    assert_eq!(flbs[..20], *b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0kvm\0");
    assert_eq!(flbs[64..], *b"\xed\xfe\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    let session: [u8; 96] = wire(memory, head.sessions.get());
    assert_eq!(session[..18], *b"\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\0");
    assert_eq!(session[88..], [1, 0, 0, 0, 0, 0, 0, 0]);
    let files = u64::from_le_bytes(session[80..88].try_into().unwrap());
    let file: [u8; 80] = wire(memory, files);
    assert_eq!(file[..26], *b"\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0memfd-v2\0\0");
    assert_eq!(file[72..], [0xa, 0, 0, 0, 0, 0, 0, 0]);
    let memfd: abi::memfd::Memfd = wire(memory, u64::from_le_bytes(file[64..72].try_into().unwrap()));
    assert_eq!((memfd.pos.get(), memfd.size.get(), memfd.seals.get(), memfd.flags.get()), (5, 0x5001, 6, 0));
    let folios = memfd.folios;
    assert_eq!((memfd.nr_folios.get(), folios.total_pages.get(), folios.flags.get(), folios.order.get()), (1, 1, 1, 0));
    let chunk: [u64; 3] = wire::<[u8; 24]>(memory, folios.first.get())
        .as_chunks::<8>()
        .0
        .iter()
        .copied()
        .map(u64::from_le_bytes)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    assert_eq!((chunk[0], chunk[2]), (0, 0));
    let record: [u8; 32] = wire(memory, chunk[1]);
    let word = u64::from_le_bytes(record[..8].try_into().unwrap());
    assert_eq!((word >> 52, &record[8..16], &record[16..]), (3, &4_u64.to_le_bytes()[..], &[0; 16][..]));
    let at = (word & ((1 << 52) - 1)) << 12;
    assert_eq!(wire::<[u8; 6]>(memory, at), *b"bytes\0");
    // One structure in each page, so that Linux can free them one by one.
    let pages = [head.flbs.get(), head.sessions.get(), files, folios.first.get(), chunk[1], at];
    assert!(pages.iter().enumerate().all(|(n, at)| at % 4096 == 0 && !pages[..n].contains(at)), "{pages:x?}");
}

#[test]
fn full_blocks_are_not_followed_by_an_empty_one() {
    // Linux's own writer can leave one, and then the next kernel panics.
    for geometry in Geometry::ALL {
        let capacity = geometry.block_capacity(80);
        let many = |count: u64| of((0..count).map(|n| new_session(&format!("s{n}"), vec![])).collect());
        for (count, blocks) in [(capacity - 1, 1), (capacity, 1), (2 * capacity, 2), (2 * capacity + 1, 3)] {
            let mut outgoing = Outgoing::new(ram(geometry));
            let before = outgoing.memory().free_pages();
            outgoing.preserve(NODE, &many(count)).unwrap();
            assert_eq!(before - outgoing.memory().free_pages(), blocks + 1, "{count} sessions of {geometry}");
            let (found, findings) = planned(sent(geometry, &many(count)), LuoNode);
            assert_eq!(findings, [""; 0]);
            assert_eq!(found.unwrap().sessions.len() as u64, count);
        }
    }
}

#[test]
fn names_tokens_and_numbers_as_linux_takes_them() {
    let named = |name: &str| refused(&of(vec![new_session(name, vec![])]));
    let long = "x".repeat(64);
    assert_eq!(named(""), "text: sessions[0].name: found \"\", expected 1 to 63 bytes without zeros");
    assert_eq!(named(&long), format!("text: sessions[0].name: found \"{long}\", expected 1 to 63 bytes without zeros"));
    assert_eq!(named("a\0b"), "text: sessions[0].name: found \"a\\x00b\", expected 1 to 63 bytes without zeros");
    let twice = of(vec![new_session("a", vec![]), new_session("b", vec![]), new_session("a", vec![])]);
    assert_eq!(refused(&twice), "name-duplicate: sessions[a].name: a second session of that name");
    let tokens = of(vec![new_session("a", vec![opaque(1), opaque(0x10), opaque(1)])]);
    assert_eq!(refused(&tokens), "token-duplicate: sessions[a].files[0x1].token: a second file under that token");
    let handler = |compatible: &str| {
        let content = NewContent::Opaque { compatible: compatible.into(), data: 0 };
        refused(&of(vec![new_session("a", vec![NewFile { token: 0, content }])]))
    };
    assert!(handler("").starts_with("text: sessions[a].files[0x0].compatible: found \"\", expected 1 to 47"));
    assert!(handler(&"x".repeat(48)).ends_with("expected 1 to 47 bytes without zeros"));
    assert_eq!(
        handler("memfd-v2"),
        "refused: sessions[a].files[0x0].compatible: found memfd-v2, expected contents, of which the memfd is written"
    );
    // No kernel that takes luo-v5 has a handler for another one: it would answer EIO to everybody.
    for other in ["memfd-v1", "memfd-v3", "memfd_v2"] {
        assert!(handler(other).starts_with("refused: sessions[a].files[0x0].compatible: found memfd"), "{other}");
    }
    assert_eq!(refused(&Sessions { number: 0, ..of(vec![]) }), "refused: number: found 0, expected at least 1");
}

#[test]
fn globals_fill_one_page_at_most() {
    let globals = |flbs| Sessions { flbs, ..of(vec![]) };
    let many = |count: u64| globals((0..count).map(|n| flb(&format!("f{n}"), 1)).collect());
    for geometry in Geometry::ALL {
        let capacity = geometry.block_capacity(64);
        let (found, findings) = planned(sent(geometry, &many(capacity)), LuoNode);
        assert_eq!((found.unwrap().flbs.len() as u64, findings.len()), (capacity, 0));
        let fault = Outgoing::new(ram(geometry)).preserve(NODE, &many(capacity + 1)).unwrap_err();
        assert_eq!(fault.code(), Code::BlockCount);
        assert_eq!(fault.expected_text(), format!("at most {capacity}, what their page holds"));
    }
    assert_eq!(refused(&globals(vec![flb("a", 0)])), "block-count: flbs[0].count: found 0, expected at least one file");
    assert_eq!(refused(&globals(vec![flb("a", 1), flb("a", 1)])), "name-duplicate: flbs[1].name: a second global a");
    assert!(refused(&globals(vec![flb(&"a".repeat(48), 1)])).ends_with("expected 1 to 47 bytes without zeros"));
}

#[test]
fn memfds_as_linux_takes_them() {
    let of = |contents| refused(&file(contents));
    let folio = |index, order, bytes| NewFolio { index, order: Order::new(order).unwrap(), bytes };
    let at = "sessions[a].files[0xa].";
    let most = Contents { size: 0xffff_ffff << 12, ..Contents::default() };
    assert_eq!(planned(sent(Geometry::K4, &file(most.clone())), LuoNode).1, [""; 0]);
    assert_eq!(
        of(Contents { size: most.size + 1, ..most.clone() }),
        format!("too-large: {at}size: found 17592186040321, expected at most 4294967295 pages")
    );
    assert_eq!(
        of(Contents { seals: 0x40, ..most.clone() }),
        format!("memfd-seals: {at}seals: found 0x40, expected seals of 0x3f")
    );
    assert_eq!(
        of(Contents { pos: 1 << 63, ..most }),
        format!("too-large: {at}pos: found 9223372036854775808, expected below 2^63")
    );
    let with = |folios| of(Contents { size: 0x3002, folios, ..Contents::default() });
    let index = format!("memfd-index: {at}folios");
    assert_eq!(
        with(vec![folio(1, 1, b"")]),
        format!("{index}[0].index: found 0x1, expected a multiple of 0x2, its pages")
    );
    let range = "expected at least 0x2 and below 0x4, the pages of the file";
    assert_eq!(with(vec![folio(0, 1, b""), folio(1, 0, b"")]), format!("{index}[1].index: found 0x1, {range}"));
    assert_eq!(with(vec![folio(0, 1, b""), folio(4, 0, b"")]), format!("{index}[1].index: found 0x4, {range}"));
    assert_eq!(
        with(vec![folio(2, 1, &[1; 0x1003])]),
        format!("memfd-size: {at}folios[0].bytes: found 4099, expected at most 4098, what the folio and the file hold")
    );
    assert!(with(vec![folio(0, 13, b"")]).starts_with(&format!("exhausted: {at}folios[0]")));
}

#[cfg(feature = "std")]
#[test]
fn a_real_memfd_goes_under_one_token() {
    use std::os::fd::AsFd as _;
    let memfd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&memfd, b"real").unwrap();
    let other = rustix::io::dup(&memfd).unwrap();
    let new = |token, fd: &'static std::os::fd::OwnedFd| {
        let content = NewContent::ByPages(crate::memfd::ByPages { file: fd.as_fd(), order: Order::ZERO });
        NewFile { token, content }
    };
    let [memfd, other] = [memfd, other].map(|fd| &*alloc::boxed::Box::leak(alloc::boxed::Box::new(fd)));
    let sessions = of(vec![new_session("a", vec![new(1, memfd)]), new_session("b", vec![new(2, other)])]);
    let duplicate = "file-duplicate: sessions[b].files[0x2]: a file that has another token already";
    assert_eq!(refused(&sessions), duplicate);
    let incoming = sent(Geometry::K4, &of(vec![new_session("a", vec![new(1, memfd)])]));
    let (found, findings) = planned(incoming, LuoNode);
    assert_eq!(findings, [""; 0]);
    let FileContent::Memfd(pages) = &found.unwrap().sessions[0].files[0].content else { panic!() };
    assert_eq!((pages.size, pages.pos, pages.folios.len()), (4, 4, 1));
}

/// The bytes of a file out of its folios.
fn bytes_of(memory: &dyn Memory, pages: &Pages) -> Vec<u8> {
    let geometry = memory.geometry();
    let mut bytes = vec![0; usize::try_from(geometry.pages(pages.size) << geometry.page_shift()).unwrap()];
    for (folio, index) in &pages.folios {
        let from = usize::try_from(index << geometry.page_shift()).unwrap();
        let to = bytes.len().min(from + usize::try_from(folio.order().bytes(geometry)).unwrap());
        memory.read(folio.addr(geometry), &mut bytes[from..to]).unwrap();
    }
    bytes.truncate(usize::try_from(pages.size).unwrap());
    bytes
}

use proptest::prelude::*;

/// A file: its size, position, seals, the largest order, and which of its folios are holes.
fn any_file() -> impl Strategy<Value = (usize, u64, u32, u32, u64)> {
    (prop_oneof![Just(0_usize), 1_usize..3, 1_usize..200_000], 0_u64..(1 << 63), 0_u32..0x40, 0_u32..6, any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_authored_is_read_back(
        files in proptest::collection::vec(proptest::collection::vec(any_file(), 0..6), 0..5),
        geometry in prop_oneof![Just(Geometry::K4), Just(Geometry::K16), Just(Geometry::K64)],
        number in 1_u64..,
    ) {
        let noise: Vec<u8> = (0..200_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
        let contents: Vec<Vec<Contents<'_>>> = files.iter().map(|session| session.iter().map(|&(size, pos, seals, order, holes)| {
            let mut file = Contents::new(geometry, &noise[..size], Order::new(order).unwrap());
            file.folios.retain(|folio| holes >> (folio.index % 64) & 1 == 0);
            Contents { pos, seals, ..file }
        }).collect()).collect();
        let sessions = contents.iter().enumerate().map(|(number, files)| {
            let files = files.iter().zip([7, 0, u64::MAX, 3, 1, 2]);
            let files = files.map(|(file, token)| NewFile { token, content: NewContent::Memfd(file.clone()) });
            NewSession { name: format!("session {number}").into(), files: files.collect() }
        });
        let sessions = Sessions { number, sessions: sessions.collect(), flbs: vec![flb("f", 1)] };
        let window = PageRange::new(Pfn::new(0x100).unwrap(), 1 << 14).unwrap();
        let mut outgoing = Outgoing::new(Ram::new(geometry, window));
        outgoing.preserve("LUO", &sessions).unwrap();
        let (memory, root) = outgoing.finish().unwrap().into_parts();
        let mut registry = crate::handover::Registry::new();
        let luo = registry.read("LUO", LuoNode);
        let plan = Incoming::new(memory, root.start()).plan(&registry);
        prop_assert_eq!(plan.findings().to_string(), "");
        let mut restored = plan.accept().unwrap().restore().unwrap();
        let luo = restored.take(&luo).unwrap();
        prop_assert_eq!((luo.number, luo.flbs, luo.sessions.len()), (number, vec![flb("f", 1)], contents.len()));
        for ((session, files), at) in luo.sessions.iter().zip(&contents).zip(0..) {
            prop_assert_eq!(session.name.to_string(), format!("session {at}"));
            prop_assert_eq!(session.files.len(), files.len());
            for (found, file) in session.files.iter().zip(files) {
                let FileContent::Memfd(pages) = &found.content else { panic!() };
                prop_assert_eq!((pages.pos, pages.size, pages.seals), (file.pos, file.size, file.seals));
                let folios: Vec<_> = pages.folios.iter().map(|(folio, index)| (folio.order(), *index)).collect();
                let written: Vec<_> = file.folios.iter().map(|folio| (folio.order, folio.index)).collect();
                prop_assert_eq!(folios, written);
                let mut expected = vec![0; usize::try_from(file.size).unwrap()];
                for folio in &file.folios {
                    let from = usize::try_from(folio.index << geometry.page_shift()).unwrap();
                    expected[from..from + folio.bytes.len()].copy_from_slice(folio.bytes);
                }
                prop_assert!(bytes_of(restored.memory(), pages) == expected);
            }
        }
    }
}
