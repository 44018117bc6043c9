use super::*;
use crate::abi::luo::{File as WireFile, Flb as WireFlb, FlbHeader, Head, Session as WireSession};
use crate::handover::Scope;
use crate::handover::testing::{block, page, planned, records, written};
use crate::mem::{Frames as _, Geometry, Memory as _, Order, Ram};
use alloc::vec;
use zerocopy::{FromZeros as _, IntoBytes as _};

fn fixed<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}

fn head(sessions: u64, flbs: u64) -> Head {
    Head { compatible: *b"luo-v5\0\0", liveupdate_number: 4.into(), sessions: sessions.into(), flbs: flbs.into() }
}

fn session(name: &str, files: u64, count: u64) -> WireSession {
    WireSession { name: fixed(name), files: files.into(), count: count.into() }
}

fn file(compatible: &str, data: u64, token: u64) -> WireFile {
    WireFile { compatible: fixed(compatible), data: data.into(), token: token.into() }
}

/// A memfd without pages, at that position.
fn empty_memfd(scope: &mut Scope<'_, Ram>, pos: u64) -> u64 {
    let mut wire = wire::Memfd::new_zeroed();
    wire.pos = pos.into();
    page(scope, wire.as_bytes())
}

/// Plans a node whose head the closure writes.
fn read(write: impl Fn(&mut Scope<'_, Ram>) -> Head) -> (Option<Luo>, Vec<String>) {
    let write = |scope: &mut Scope<'_, Ram>| {
        let head = write(scope);
        scope.blob(head.as_bytes())
    };
    planned(written(Geometry::K4, MADE_OF, write), LuoNode)
}

fn read_blob(bytes: &[u8]) -> Vec<String> {
    planned(written(Geometry::K4, MADE_OF, |scope| scope.blob(bytes)), LuoNode).1
}

/// Plans one session `a` of these files.
fn read_files(files: impl Fn(&mut Scope<'_, Ram>) -> Vec<WireFile>) -> (Option<Luo>, Vec<String>) {
    read(|scope| {
        let files = files(scope);
        let first = records(scope, &files);
        head(records(scope, &[session("a", first, files.len() as u64)]), 0)
    })
}

#[test]
fn before_the_machine_is_frozen_there_is_only_a_head() {
    let (found, findings) = read(|_| head(0, 0));
    assert_eq!(findings, [""; 0]);
    assert_eq!(found.unwrap(), Luo { number: 4, sessions: vec![], flbs: vec![] });
    // A longer head is a newer writer's, and what follows is not ours.
    let mut long = head(0, 0).as_bytes().to_vec();
    long.extend([0xff; 100]);
    assert_eq!(read_blob(&long), [""; 0]);
}

#[test]
fn sessions_files_and_globals() {
    for geometry in Geometry::ALL {
        let write = |scope: &mut Scope<'_, Ram>| {
            // More sessions than a block holds, two of them with files.
            let capacity = scope.geometry().block_capacity(80);
            let data = empty_memfd(scope, 7);
            let files = records(scope, &[file("memfd-v2", data, u64::MAX), file("kvm_vm_luo_v1", 0xdead_beef, 0)]);
            let mut sessions = vec![session(&"n".repeat(63), files, 2)];
            sessions.extend((0..capacity).map(|number| session(&alloc::format!("s {number}"), 0, 0)));
            let mut flbs = FlbHeader { page_count: 1.into(), count: 1.into() }.as_bytes().to_vec();
            flbs.extend(WireFlb { name: fixed("kvm"), data: 5.into(), count: 2.into() }.as_bytes());
            let head = head(records(scope, &sessions), page(scope, &flbs));
            scope.blob(head.as_bytes())
        };
        let (found, findings) = planned(written(geometry, MADE_OF, write), LuoNode);
        // The second record of the second page.
        let at = (0x100 + 1) * geometry.page_size() + 16 + 64;
        let opaque = alloc::format!(
            "component-opaque: sessions[{}].files[0x0].compatible at {at:#x}: kvm_vm_luo_v1",
            "n".repeat(63)
        );
        assert_eq!(findings, [opaque]);
        let found = found.unwrap();
        assert_eq!(found.sessions.len() as u64, geometry.block_capacity(80) + 1);
        assert_eq!(found.sessions[1].name.to_string(), "s 0");
        let [memfd, kvm] = &found.sessions[0].files[..] else { panic!() };
        let pages = Pages { pos: 7, size: 0, seals: 0, folios: vec![] };
        assert_eq!((memfd.token, &memfd.content), (u64::MAX, &FileContent::Memfd(pages)));
        assert_eq!((kvm.data, &kvm.content), (0xdead_beef, &FileContent::Opaque));
        assert_eq!(found.flbs, [Flb { name: Name::from(b"kvm".as_slice()), data: 5, count: 2 }]);
    }
}

#[test]
fn another_version_is_not_corruption() {
    let version = |text: &[u8]| {
        let mut bytes = head(0, 0);
        bytes.compatible = [0; 8];
        bytes.compatible[..text.len()].copy_from_slice(text);
        read_blob(bytes.as_bytes()).pop().unwrap()
    };
    let at = "compatible at 0x100000: found";
    assert_eq!(version(b"luo-v4"), alloc::format!("version-older: {at} luo-v4, expected luo-v5"));
    assert_eq!(version(b"luo-v6"), alloc::format!("version-newer: {at} luo-v6, expected luo-v5"));
    assert_eq!(version(b"luo-v500"), alloc::format!("version-newer: {at} luo-v500, expected luo-v5"));
    assert!(version(b"kho-v4").starts_with("component-unknown: compatible at 0x100000: found kho-v4"));
    assert_eq!(version(b""), alloc::format!("compat-missing: {at} an empty string, expected luo-v5"));
    assert_eq!(version(b"luo"), alloc::format!("compat-syntax: {at} \"luo\", expected luo-v5"));
    // Linux compares all bytes.
    assert!(version(b"luo_v5").starts_with("compat-syntax:"));
    assert_eq!(
        version(b"luo-v5\0x"),
        alloc::format!("compat-syntax: {at} \"luo-v5\\x00x\", expected luo-v5 and zeros")
    );
    // A newer head may be shorter than ours; ours may not.
    assert_eq!(read_blob(b"luo-v6\0\0"), [alloc::format!("version-newer: {at} luo-v6, expected luo-v5")]);
    let short = "truncated: blob-size at 0x100000: found 31, expected at least 32 (Head)";
    assert_eq!(read_blob(&head(0, 0).as_bytes()[..31]), [short]);
    assert_eq!(read_blob(b"luo"), [short.replace("31", "3")]);
}

#[test]
fn session_names() {
    let names = |sessions: &[WireSession]| read(|scope| head(records(scope, sessions), 0));
    let mut unterminated = session("", 0, 0);
    unterminated.name = [b'x'; 64];
    let (found, findings) =
        names(&[session("a", 0, 0), session("", 0, 0), unterminated, session("a", 0, 0), session("", 0, 0)]);
    assert_eq!(found.unwrap().sessions.len(), 5);
    assert_eq!(findings[0], "text: sessions[1].name at 0x100060: found an empty name, expected at least one byte");
    assert!(findings[1].starts_with("text: sessions[2].name at 0x1000b0: found \"xxx"), "{}", findings[1]);
    assert!(findings[1].ends_with("without a zero, expected a zero within 64 bytes"), "{}", findings[1]);
    assert_eq!(findings[2], "name-duplicate: sessions[a].name at 0x100100: a second session of that name");
    assert_eq!(findings[3..], [findings[0].replace("[1]", "[4]").replace("060", "150")]);
    // Names are bytes.
    let mut odd = session("", 0, 0);
    odd.name[..2].copy_from_slice(b"\xff\n");
    assert_eq!(names(&[odd]).0.unwrap().sessions[0].name.as_bytes(), b"\xff\n");
}

#[test]
fn sessions_and_their_blocks_disagree_about_files() {
    let (_, findings) = read(|scope| {
        let two = [file("x-v1", 0, 1), file("x-v1", 0, 2)];
        let files = [records(scope, &two), records(scope, &two), records(scope, &two)];
        let sessions = [
            session("more", files[0], 3),
            session("less", files[1], 1),
            session("none", files[2], 0),
            session("nowhere", 0, 2),
            session("nothing", 0, 0),
            session("far", 0x7fff_0000, 1),
            session("inside", files[2] + 8, 2),
        ];
        head(records(scope, &sessions), 0)
    });
    // What they have is shown all the same, each with its warning.
    let findings: Vec<_> = findings.into_iter().filter(|finding| !finding.starts_with("component-opaque")).collect();
    assert_eq!(
        findings,
        [
            "block-count: sessions[more].count at 0x103010: found 3, expected 2",
            "block-count: sessions[less].count at 0x103060: found 1, expected at least 2",
            "block-count: sessions[none].count at 0x1030b0: found 0, expected at least 2",
            "block-count: sessions[nowhere].count at 0x103100: found 2, expected 0",
            "not-preserved: sessions[far] at 0x7fff0000: 0x1000 bytes that nobody preserved",
            findings[5].as_str(),
        ]
    );
    assert!(
        findings[5].starts_with("unaligned: sessions[inside].first at 0x1031f0: found 0x102008"),
        "{}",
        findings[5]
    );
}

#[test]
fn a_chain_of_sessions_that_panics_the_next_kernel() {
    let chain = |change: fn(&mut [u8], u64)| {
        read(|scope| {
            let frame = scope.alloc(Order::ZERO).unwrap();
            let at = frame.folio().addr(scope.geometry()).get();
            let mut bytes = vec![0; 4096];
            bytes[8] = 1;
            bytes[16] = b'a';
            change(&mut bytes, at);
            scope.write(&frame, 0, &bytes).unwrap();
            head(at, 0)
        })
        .1
    };
    assert_eq!(chain(|_, _| ()), [""; 0]);
    // What Linux 7.2 leaves when a duplicate was refused with its last block full.
    let empty = "block-count: sessions.count at 0x100000: found 0, expected 1..=51";
    assert_eq!(chain(|bytes, _| bytes[8] = 0), [empty]);
    assert_eq!(chain(|bytes, _| bytes[8] = 52), [empty.replace("found 0", "found 52")]);
    let cycle = chain(|bytes, at| bytes[..8].copy_from_slice(&at.to_le_bytes()));
    assert_eq!(cycle.len(), 1);
    assert!(cycle[0].starts_with("list-cycle: sessions"), "{cycle:?}");
}

#[test]
fn two_sessions_that_share_their_files() {
    let (_, findings) = read(|scope| {
        let files = records(scope, &[file("x-v1", 0, 1)]);
        head(records(scope, &[session("a", files, 1), session("b", files, 1)]), 0)
    });
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[1].starts_with("owned-twice: sessions[b]"), "{findings:?}");
}

#[test]
fn files_of_strange_handlers() {
    let (found, findings) = read_files(|scope| {
        let mut unterminated = file("", 0, 4);
        unterminated.compatible = [b'h'; 48];
        let mut binary = file("", 0, 6);
        binary.compatible[0] = 0xff;
        vec![
            file("memfd-v1", 0, 1),
            file("memfd-v3", 0, 2),
            file("memfd_v2", 0, 3),
            unterminated,
            file("", 0, 5),
            binary,
            file("memfd-v2", empty_memfd(scope, 0), 7),
        ]
    });
    assert_eq!(found.unwrap().sessions[0].files.iter().map(|file| file.token).collect::<Vec<_>>(), [1, 2, 3, 7]);
    let path =
        |token: u64| alloc::format!("sessions[a].files[{token:#x}].compatible at {:#x}: ", 0x10_0fd0 + 64 * token);
    assert_eq!(findings[0], alloc::format!("version-older: {}found memfd-v1, expected memfd-v2", path(1)));
    assert_eq!(findings[1], alloc::format!("version-newer: {}found memfd-v3, expected memfd-v2", path(2)));
    assert_eq!(findings[2], alloc::format!("component-opaque: {}memfd_v2", path(3)));
    assert!(findings[3].starts_with(&alloc::format!("text: {}found \"hhh", path(4))), "{}", findings[3]);
    assert_eq!(findings[4], alloc::format!("compat-missing: {}an empty string", path(5)));
    assert_eq!(findings[5..], [alloc::format!("text: {}found \"\\xff\", expected UTF-8", path(6))]);
}

#[test]
fn two_files_under_one_token() {
    let (found, findings) = read_files(|_| vec![file("x-v1", 1, 9), file("y-v1", 2, 9)]);
    assert_eq!(found.unwrap().sessions[0].files.len(), 2);
    assert!(
        findings.contains(
            &"token-duplicate: sessions[a].files[0x9].token at 0x100050: a second file under that token".into()
        )
    );
    // In another session the token is another one.
    let (_, findings) = read(|scope| {
        let [one, two] = [(); 2].map(|()| {
            let data = empty_memfd(scope, 0);
            records(scope, &[file("memfd-v2", data, 9)])
        });
        head(records(scope, &[session("a", one, 1), session("b", two, 1)]), 0)
    });
    assert_eq!(findings, [""; 0]);
}

#[test]
fn a_broken_memfd_is_told_and_the_others_are_read() {
    let (found, findings) = read_files(|scope| {
        let mut seals = wire::Memfd::new_zeroed();
        seals.seals = 0x40.into();
        let mut folio = wire::Memfd::new_zeroed();
        (folio.size, folio.nr_folios) = (4096.into(), 1.into());
        let record = wire::Folio { pfn_flags: (3 << 52 | 0x7_0000).into(), index: 0.into() };
        folio.folios = crate::vmalloc::store_bytes(scope, Order::ZERO, record.as_bytes()).unwrap().descriptor;
        let big = block(scope, 1, &[]);
        vec![
            file("memfd-v2", page(scope, seals.as_bytes()), 1),
            file("memfd-v2", page(scope, folio.as_bytes()), 2),
            file("memfd-v2", empty_memfd(scope, 0) + 8, 3),
            file("memfd-v2", 0x7fff_0000, 4),
            file("memfd-v2", big, 5),
            file("memfd-v2", 0, 6),
            file("memfd-v2", u64::MAX << 12, 7),
            file("memfd-v2", empty_memfd(scope, 42), 0xabc),
        ]
    });
    let files = &found.unwrap().sessions[0].files;
    assert!(files[..7].iter().all(|file| file.content == FileContent::Opaque));
    assert!(matches!(&files[7].content, FileContent::Memfd(pages) if pages.pos == 42));
    let path = |token: u64| alloc::format!("sessions[a].files[{token:#x}]");
    let begins = |number: usize, text: &str| {
        let finding = &findings[number];
        let (code, rest) = text.split_once(' ').unwrap();
        assert!(finding.starts_with(&alloc::format!("{code} {}.{rest}", path(number as u64 + 1))), "{finding}");
    };
    begins(0, "memfd-seals: seals at 0x10");
    begins(1, "not-preserved: folios[0].pfn at 0x70000000: pfn 0x70000, which is not preserved");
    begins(2, "unaligned: data at 0x10");
    begins(3, "not-preserved: data at 0x7fff0000:");
    begins(4, "preserved-otherwise: data at 0x10");
    begins(5, "not-preserved: data at 0x0:");
    begins(6, "unaligned: data at 0x108190: found 0xfffffffffffff000,");
    assert_eq!(findings.len(), 7, "{findings:?}");
}

#[test]
fn one_memfd_under_two_tokens_is_told_once() {
    let (_, findings) = read_files(|scope| {
        let data = empty_memfd(scope, 0);
        vec![file("memfd-v2", data, 1), file("memfd-v2", data, 2)]
    });
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].starts_with(
            "file-duplicate: sessions[a].files[0x2].data at 0x101050: found 0x100000, which the file at 0x101010"
        ),
        "{findings:?}"
    );
}

#[test]
fn globals_that_lie() {
    let flbs = |count: u64, list: &[WireFlb]| {
        read(|scope| {
            let mut bytes = FlbHeader { page_count: 1.into(), count: count.into() }.as_bytes().to_vec();
            bytes.extend(list.as_bytes());
            head(0, page(scope, &bytes))
        })
        .1
    };
    let flb = |name: &str, count: u64| WireFlb { name: fixed(name), data: 0.into(), count: count.into() };
    assert_eq!(flbs(0, &[]), [""; 0]);
    let full: Vec<WireFlb> = (0..63).map(|number| flb(&alloc::format!("flb{number}"), 1)).collect();
    assert_eq!(flbs(63, &full), [""; 0]);
    assert_eq!(flbs(64, &full), ["block-count: flbs.count at 0x100000: found 64, expected at most 63"]);
    assert!(flbs(u64::MAX, &full)[0].contains("found 18446744073709551615"));
    let mut unterminated = flb("", 1);
    unterminated.name = [b'f'; 48];
    let findings = flbs(5, &[flb("a", 1), flb("a", 1), flb("b", 0), flb("", 1), unterminated]);
    assert_eq!(
        findings[..3],
        [
            "name-duplicate: flbs[1].name at 0x100050: a second global a",
            "block-count: flbs[2].count at 0x100090: found 0, expected at least one file",
            "text: flbs[3].name at 0x1000d0: found an empty name, expected at least one byte",
        ]
    );
    assert!(findings[3].starts_with("text: flbs[4].name at 0x100110: found \"fff"), "{}", findings[3]);
    let place = |at: u64| read(move |_| head(0, at)).1;
    assert!(place(0x100_008)[0].starts_with("unaligned: flbs at 0x100000: found 0x100008"));
    assert!(place(0x7fff_0000)[0].starts_with("not-preserved: flbs at 0x7fff0000"));
    // The head's own page.
    assert!(place(0x100_000)[0].starts_with("owned-twice: flbs at 0x100000"), "{:?}", place(0x100_000));
}

#[test]
fn many_files_of_one_array_cost_no_more_than_one() {
    // Each of 400 memfds names the same array of a whole block of records: read once, refused at once after that.
    let (_, findings) = read_files(|scope| {
        let frame = scope.alloc(Order::new(9).unwrap()).unwrap();
        let area = crate::vmalloc::Area::from_folios(frame.folio().order(), 0, [frame.folio()]).unwrap();
        (0..400)
            .map(|token| {
                let mut memfd = wire::Memfd::new_zeroed();
                (memfd.size, memfd.nr_folios) = ((1_u64 << 40).into(), (512_u64 * 256).into());
                memfd.folios = area.store(scope).unwrap().descriptor;
                file("memfd-v2", page(scope, memfd.as_bytes()), token)
            })
            .collect()
    });
    assert_eq!(findings.len(), 399);
    assert!(findings.iter().all(|finding| finding.starts_with("owned-twice: sessions[a].files[")), "{}", findings[0]);
}
