//! A dump of the guest, taken while it leaves, held against what the guest made.

use std::path::Path;

use kho::abi::kho::COMPAT;
use kho::abi::session::{ARENA, ROOT};
use kho::handover::Verdict;
use kho::inspect::{Content, Decoded, Item, Opened, Options, Place, Session, SessionFile};
use kho::mem::{Image, Memory as _, PhysAddr};
use kho::selftest::Rule;

use super::scenario::{self, HANDOVER, Memfd, PAGE, SERVED};

/// A dump that is as it must be, for what is to be known beyond that.
pub(crate) struct Frozen {
    pub(crate) decoded: Decoded,
    /// Folios of all files by order.
    pub(crate) orders: [u64; 10],
}

/// Decodes the dump, and compares every session, every file and every byte. `update` is the number of the live update,
/// 1 for the first one.
pub(crate) fn check(core: &Path, scenario: &str, release: &str, update: u64) -> Frozen {
    let opened = Opened::open(core, &Options::default()).unwrap();
    let decoded = &opened.decoded;
    let findings: Vec<&str> = decoded.findings.iter().map(|problem| &*problem.text).collect();
    assert!(findings.is_empty(), "{findings:#?}");
    assert_eq!(decoded.root.compatible, [COMPAT.to_string()]);
    assert_eq!(decoded.page_size.as_ref().unwrap().bytes, PAGE);
    for node in &decoded.nodes {
        assert_eq!(node.verdict, Some(Verdict::Fine), "{node:?}");
    }
    let names: Vec<&str> = decoded.nodes.iter().map(|node| &*node.name).collect();
    // Linux's test of itself preserves something in the first kernel only.
    let test = ["kho_test"].iter().take(usize::from(update == 1));
    assert_eq!(names, ["memblock", "LUO"].iter().chain(test).chain(&["kexec-metadata"]).copied().collect::<Vec<_>>());
    others(decoded, release, update);
    let Some(Content::Luo { number, sessions, flbs }) = content(decoded, "LUO") else { panic!("{:?}", decoded.nodes) };
    assert_eq!(*number, update);

    let wanted = scenario::sessions(scenario);
    let (whole, sessions): (Vec<&Session>, Vec<&Session>) =
        sessions.iter().partition(|session| is_whole(session.name.as_bytes()));
    let names: Vec<String> = sessions.iter().map(|session| session.name.to_string()).collect();
    let wanted_names: Vec<&str> = wanted.iter().map(|session| &*session.name).collect();
    assert_eq!(names, wanted_names);
    let image = opened.image().unwrap();
    let mut orders = [0; 10];
    for (session, wanted) in sessions.iter().zip(&wanted) {
        files(image, session, wanted, update, &mut orders);
    }
    let mut wanted_files: u64 = wanted.iter().map(|session| session.files.len() as u64).sum();
    for session in whole {
        if session.name.as_bytes() == SERVED.as_bytes() {
            assert_eq!(update, 1);
            served(&opened, session);
        } else {
            handover(&opened, session, update, &mut orders);
        }
        wanted_files += session.files.len() as u64;
    }
    extracted(&opened, &wanted);
    // Linux's test counts every file, by three globals.
    let flbs: Vec<(String, u64, u64)> = flbs.iter().map(|flb| (flb.name.to_string(), flb.data, flb.count)).collect();
    let wanted_flbs = [0, 1, 2].map(|n| (format!("liveupdate-test-flb-v{n}"), 0xfeed_f00d_cafe_bee0 + n, wanted_files));
    assert_eq!(flbs, wanted_flbs);
    Frozen { orders, decoded: opened.decoded }
}

/// The same bytes, as `kho extract` takes them out.
fn extracted(opened: &Opened, wanted: &[scenario::Session]) {
    let mut items = opened.memfds();
    items.retain(|item| !matches!(item.place(), Place::File { session, .. } if is_whole(session.as_bytes())));
    let files = wanted.iter().flat_map(|session| session.files.iter().map(move |file| (&*session.name, file)));
    assert_eq!(items.len(), files.clone().count());
    for (item, (session, file)) in items.iter().zip(files) {
        let Place::File { session: name, token } = item.place() else { panic!("{item:?}") };
        assert_eq!((name.as_bytes(), token), (session.as_bytes(), file.token));
        let mut bytes = Vec::new();
        opened.stream(item, &mut bytes).unwrap();
        assert!(bytes == file.bytes(session), "{session} {token:#x}: other bytes are taken out");
    }
}

/// Whether a session has a whole handover, with an arena.
fn is_whole(name: &[u8]) -> bool {
    [HANDOVER, SERVED].iter().any(|whole| whole.as_bytes() == name)
}

/// The session of `kho serve-demo`: all of it is in the arena.
fn served(opened: &Opened, session: &Session) {
    let tokens: Vec<u64> = session.files.iter().map(|file| file.token).collect();
    assert_eq!(tokens, [ARENA, ROOT]);
    assert_eq!(nodes(&arena(opened, SERVED)), ["store", "served"]);
}

/// The bytes of the arena of a session.
fn arena(opened: &Opened, session: &str) -> Vec<u8> {
    let is_it = |item: &&Item<'_>| matches!(item.place(), Place::File { session: name, token: ARENA } if name.as_bytes() == session.as_bytes());
    let mut bytes = Vec::new();
    opened.stream(opened.memfds().iter().find(is_it).unwrap(), &mut bytes).unwrap();
    bytes
}

/// What is preserved in an arena, which is as it must be.
fn nodes(arena: &[u8]) -> Vec<String> {
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&copy, arena).unwrap();
    let decoded = kho::inspect::open(&copy, &Options::default()).unwrap();
    assert_eq!(decoded.errors, 0, "{:?}", decoded.findings);
    decoded.nodes.iter().map(|node| node.name.to_string()).collect()
}

/// The session of a whole handover: its files, and what is in its arena.
fn handover(opened: &Opened, session: &Session, update: u64, orders: &mut [u64; 10]) {
    let wanted = scenario::handover();
    let tokens: Vec<u64> = session.files.iter().map(|file| file.token).collect();
    // What is preserved while the guest serves, as it is before the second kexec, stands before the arena.
    let early = if update == 1 { 0 } else { 3 };
    let mut expected: Vec<u64> = wanted.files.iter().map(|file| file.token).collect();
    expected.insert(early, ARENA);
    expected.push(ROOT);
    assert_eq!(tokens, expected);
    let files = session.files.iter().filter(|file| ![ARENA, ROOT].contains(&file.token));
    for (file, memfd) in files.zip(&wanted.files) {
        file_is(opened.image().unwrap(), file, memfd, HANDOVER, update, orders);
    }
    let arena = arena(opened, HANDOVER);
    assert_eq!(arena.len() as u64, scenario::ARENA_SIZE);
    assert_eq!(nodes(&arena), ["bytes", "array", "state", "files"]);
}

fn content<'a>(decoded: &'a Decoded, name: &str) -> Option<&'a Content> {
    decoded.nodes.iter().find(|node| node.name == name)?.content.as_ref()
}

/// What is not of the guest's doing, but of its command line.
fn others(decoded: &Decoded, release: &str, update: u64) {
    let Some(Content::Memblock { ranges }) = content(decoded, "memblock") else { panic!("{:?}", decoded.nodes) };
    let ranges: Vec<(String, u64)> = ranges.iter().map(|range| (range.name.to_string(), range.size)).collect();
    assert_eq!(ranges, [("testmem".into(), 1 << 20)]);
    let Some(Content::KexecMetadata(metadata)) = content(decoded, "kexec-metadata") else {
        panic!("{:?}", decoded.nodes)
    };
    assert_eq!((metadata.previous_release.to_string(), u64::from(metadata.kexec_count)), (release.into(), update));
    if update == 1 {
        let Some(Content::KhoTest { rule, bytes, .. }) = content(decoded, "kho_test") else {
            panic!("{:?}", decoded.nodes)
        };
        assert_eq!((*rule, *bytes), (Rule::Words, 131_072));
    }
}

fn files(image: &Image, session: &Session, wanted: &scenario::Session, update: u64, orders: &mut [u64; 10]) {
    let tokens: Vec<u64> = session.files.iter().map(|file| file.token).collect();
    let wanted_tokens: Vec<u64> = wanted.files.iter().map(|file| file.token).collect();
    assert_eq!(tokens, wanted_tokens, "{}", wanted.name);
    for (file, memfd) in session.files.iter().zip(&wanted.files) {
        file_is(image, file, memfd, &wanted.name, update, orders);
    }
}

fn file_is(image: &Image, file: &SessionFile, wanted: &Memfd, session: &str, update: u64, orders: &mut [u64; 10]) {
    let what = format!("{session} {:#x}", wanted.token);
    assert_eq!(file.compatible, "memfd-v2", "{what}");
    let memfd = file.memfd.as_ref().unwrap();
    assert_eq!((memfd.pos, memfd.size), (wanted.pos, wanted.size), "{what}");
    let seals = if update == 1 { wanted.seals_preserved() } else { wanted.seals_restored() };
    let names = ["seal", "shrink", "grow", "write", "future-write", "exec"];
    let wanted_seals: Vec<&str> =
        (0..).zip(names).filter(|(bit, _)| seals >> bit & 1 == 1).map(|(_, name)| name).collect();
    assert_eq!(memfd.seals, wanted_seals, "{what}");

    // Linux fills holes, so the folios follow each other from the first to the last page.
    let mut bytes = Vec::new();
    for &(address, order, index) in &memfd.folios {
        assert_eq!(index * PAGE, bytes.len() as u64, "{what}");
        orders[order as usize] += 1;
        let from = bytes.len();
        bytes.resize(from + (PAGE << order) as usize, 0);
        image.read(PhysAddr::new(address), &mut bytes[from..]).unwrap();
    }
    assert!(bytes.len() as u64 >= wanted.size, "{what}");
    // Behind the end, a page is zero, too.
    let mut wanted_bytes = wanted.bytes(session);
    wanted_bytes.resize(bytes.len(), 0);
    assert!(bytes == wanted_bytes, "{what}: other bytes");
}
