//! `kho diff`: every kind of difference as a user sees it, and nothing where there is none.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use common::{Handover, NOTE, PICTURE, ROWS, fixture, json, kho, run, text};
use kho::compat::{Compat, CompatList};
use kho::handover::Outgoing;
use kho::luo::{Flb, NewContent, NewFile, NewSession, Sessions};
use kho::mem::{Frames as _, Geometry, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram};
use kho::memblock::{NewRange, Ranges};
use kho::memfd::Contents;
use kho::metadata::Metadata;
use kho::payload::{Array, Bytes, RECORDS_USE, Records};
use kho::selftest::{Payload, Rule};
use kho::text::Name;
use serde_json::{Value, json};

/// What a machine hands over.
struct Machine {
    sessions: Vec<(&'static [u8], Vec<Memfd>)>,
    flbs: Vec<(&'static [u8], u64, u64)>,
    reserved: Vec<(&'static str, Vec<u8>, u64)>,
    metadata: Metadata,
    test: Vec<(u32, Vec<u8>)>,
    rows_of: CompatList<'static>,
    rows: usize,
    picture: Vec<(u32, u8)>,
    note: Option<Vec<u8>>,
}

/// Token, position, seals, order, bytes.
type Memfd = (u64, u64, u32, u32, Vec<u8>);

fn usual() -> Machine {
    let mut disk = vec![5; 9_984];
    disk[5_000] = 6;
    Machine {
        sessions: vec![
            (b"vm", vec![(0xabc, 12, 0, 0, disk), (0x2, 0, 6, 2, vec![7; 40_000])]),
            (b"second", vec![(0x7, 0, 0, 0, Vec::new())]),
        ],
        flbs: vec![(b"iommu-v1", 0x1000, 3)],
        reserved: vec![("trace", b"what was traced".to_vec(), 8192)],
        metadata: Metadata { previous_release: "7.2.13".into(), kexec_count: 1 },
        test: vec![(1, vec![1; 5_000]), (0, vec![2; 100])],
        rows_of: ROWS,
        rows: 1_000,
        picture: vec![(1, 3), (1, 4)],
        note: Some(b"a note".to_vec()),
    }
}

/// An image of a machine, in raw memory.
struct Raw {
    dir: tempfile::TempDir,
    base: u64,
}

impl Raw {
    fn path(&self) -> String {
        self.dir.path().join("raw").to_str().unwrap().into()
    }
}

const BASE: u64 = 0xa00_0000;

fn raw(base: u64, change: impl FnOnce(&mut Machine)) -> Raw {
    let mut machine = usual();
    change(&mut machine);
    let order = |order| Order::new(order).unwrap();
    let window = PageRange::new(Pfn::new(base >> 12).unwrap(), 1024).unwrap();
    let scratch = PhysRange::new(PhysAddr::new(0x100_0000), 96 << 20).unwrap();
    let mut outgoing = Outgoing::for_linux(Ram::new(Geometry::K4, window), &[scratch]).unwrap();
    // So that what is the same lies elsewhere.
    let spare = outgoing.alloc(order((base != BASE).into())).unwrap();

    let file = |(token, pos, seals, of, bytes): &Memfd| {
        // They live until all is written.
        let bytes: &'static [u8] = Vec::leak(bytes.clone());
        let contents = Contents { pos: *pos, seals: *seals, ..Contents::new(Geometry::K4, bytes, order(*of)) };
        NewFile { token: *token, content: NewContent::Memfd(contents) }
    };
    let sessions = machine.sessions.iter();
    let sessions =
        sessions.map(|(name, files)| NewSession { name: name.to_vec(), files: files.iter().map(file).collect() });
    let flbs =
        machine.flbs.iter().map(|(name, data, count)| Flb { name: Name::from(*name), data: *data, count: *count });
    let luo = Sessions { number: 1, sessions: sessions.collect(), flbs: flbs.collect() };
    outgoing.preserve("LUO", &luo).unwrap();
    let ranges = machine.reserved.iter();
    let ranges = ranges.map(|(name, bytes, size)| NewRange { name: (*name).into(), size: *size, align: 4096, bytes });
    outgoing.preserve("memblock", &Ranges { ranges: ranges.collect() }).unwrap();
    outgoing.preserve("kexec-metadata", &machine.metadata).unwrap();
    let folios = machine.test.iter().map(|(of, bytes)| (order(*of), bytes.as_slice())).collect();
    outgoing.preserve("kho_test", &Payload { folios, rule: Rule::Words }).unwrap();
    outgoing.free(spare);
    let rows = vec![[9_u8; 24]; machine.rows];
    outgoing.preserve("orders", &Records { made_of: machine.rows_of, records: &rows }).unwrap();
    let frames: Vec<_> = machine.picture.iter().map(|(of, _)| outgoing.alloc(order(*of)).unwrap()).collect();
    let mut bytes = 0;
    for (frame, (of, fill)) in frames.iter().zip(&machine.picture) {
        let size = 4096_usize << of;
        outgoing.write(frame, 0, &vec![*fill; size]).unwrap();
        bytes += size as u64;
    }
    outgoing.preserve("picture", &Array { made_of: PICTURE, frames: &frames, bytes: bytes - 9 }).unwrap();
    if let Some(bytes) = &machine.note {
        outgoing.preserve("note", &Bytes { made_of: NOTE, bytes }).unwrap();
    }
    let (ram, _) = outgoing.finish().unwrap_or_else(|_| panic!("it fits")).into_parts();
    let raw = Raw { dir: tempfile::tempdir().unwrap(), base };
    ram.write_image(&File::create(raw.path()).unwrap()).unwrap();
    raw
}

/// What is told of two machines, without the last line.
fn told(code: i32, a: &Raw, b: &Raw, more: &[&str]) -> Vec<String> {
    let base = format!("{:#x},{:#x}", a.base, b.base);
    let told = run(code, &[&["diff", &a.path(), &b.path(), "--base", &base], more].concat());
    let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
    let last = lines.pop().unwrap();
    let verdict = match lines.len() {
        0 => "same".into(),
        1 => "1 difference".into(),
        more => format!("{more} differences"),
    };
    assert_eq!(last, format!("{} and {}: {verdict}", a.path(), b.path()));
    lines
}

/// What is told of the usual machine and one that is changed, at other addresses.
fn changed(change: impl FnOnce(&mut Machine)) -> Vec<String> {
    told(1, &raw(BASE, |_| {}), &raw(2 * BASE, change), &[])
}

/// Without what follows from sizes and is told of the whole.
fn without_totals(lines: Vec<String>) -> Vec<String> {
    let total = |line: &String| ["/ preserved.", "/LUO owned", "/LUO mem."].iter().any(|of| line.starts_with(of));
    lines.into_iter().filter(|line| !total(line)).collect()
}

fn frozen() -> String {
    fixture("frozen.core").to_str().unwrap().into()
}

#[test]
fn a_real_machine_is_the_same_as_itself() {
    let told = run(0, &["diff", &frozen(), &frozen(), "--addresses"]);
    let missing = "outside: at 0x7900000: 0x100000 bytes outside the memory that was handed over";
    assert_eq!(
        told,
        format!(
            "not compared: /memblock ranges[testmem].content: {missing}\n{0} and {0}: same, 1 not compared\n",
            frozen()
        )
    );
    let shown = json(0, &["diff", &frozen(), &frozen()]);
    let not = json!({"path": "/memblock ranges[testmem].content", "a": missing, "b": missing});
    assert_eq!(shown, json!({"verdict": "same", "addresses": false, "changes": [], "not_compared": [not]}));
}

#[test]
fn where_it_lies_is_no_difference_unless_asked_for() {
    let (a, b) = (raw(BASE, |_| {}), raw(2 * BASE, |_| {}));
    assert_eq!(told(0, &a, &b, &[]), [""; 0]);
    let lines = told(1, &a, &b, &["--addresses"]);
    for line in
        ["/ address: 0x", "/LUO sessions[vm].files[0xabc].folios[0].address: 0x", "/orders blocks[0].address: 0x"]
    {
        assert!(lines.iter().any(|told| told.starts_with(line)), "{line} is not in {lines:?}");
    }
    assert_eq!(told(0, &a, &a, &["--addresses"]), [""; 0]);
    // The data of a global is an address for most.
    let elsewhere = raw(BASE, |machine| machine.flbs[0].1 = 0x2000);
    assert_eq!(told(0, &a, &elsewhere, &[]), [""; 0]);
    assert_eq!(told(1, &a, &elsewhere, &["--addresses"]), ["/LUO flbs[iommu-v1].data: 0x1000 -> 0x2000"]);
}

#[test]
fn files_of_sessions() {
    let lines = changed(|machine| {
        let (_, pos, seals, _, bytes) = &mut machine.sessions[0].1[0];
        (*pos, *seals) = (13, 2);
        bytes.resize(12_288, 0);
        bytes[5_000] = 9;
    });
    assert_eq!(
        lines,
        [
            "/LUO sessions[vm].files[0xabc].size: 9984 -> 12288",
            "/LUO sessions[vm].files[0xabc].pos: 12 -> 13",
            "/LUO sessions[vm].files[0xabc].seals: none -> shrink",
            "/LUO sessions[vm].files[0xabc].content at 0x1388: 0x06 -> 0x09",
        ]
    );
    let lines = changed(|machine| machine.sessions[0].1[1].3 = 0);
    assert!(lines[0].starts_with("/ preserved.blocks: "), "{lines:?}");
    assert_eq!(
        without_totals(lines),
        ["/LUO sessions[vm].files[0x2].folios: 1 of order 1, 2 of order 2 -> 10 of order 0"]
    );
}

#[test]
fn what_only_one_of_them_has() {
    let lines = changed(|machine| {
        machine.sessions[0].1[1].0 = 0x3;
        machine.sessions[1].0 = b"third";
        machine.flbs[0].0 = b"iommu-v2";
        machine.reserved[0].0 = "other";
        machine.note = None;
    });
    assert_eq!(
        without_totals(lines),
        [
            "/LUO sessions[second]: only in A (1 file)",
            "/LUO sessions[third]: only in B (1 file)",
            "/LUO sessions[vm].files[0x2]: only in A (memfd-v2)",
            "/LUO sessions[vm].files[0x3]: only in B (memfd-v2)",
            "/LUO flbs[iommu-v1]: only in A (used by 3 files)",
            "/LUO flbs[iommu-v2]: only in B (used by 3 files)",
            "/memblock ranges[other]: only in B (8192)",
            "/memblock ranges[trace]: only in A (8192)",
            "/note: only in A (shop-note-v1)",
            "/note findings[component-opaque compatible]: only in A (warning: /note: component-opaque: compatible: shop-note-v1)",
        ]
    );
}

#[test]
fn what_nodes_hold() {
    const NEWER: CompatList<'static> = CompatList::new(Compat::new("shop-orders", 4), RECORDS_USE);
    assert_eq!(
        changed(|machine| {
            machine.flbs[0].2 = 4;
            machine.reserved[0].1[5] = b'W';
            machine.metadata = Metadata { previous_release: "7.3.0".into(), kexec_count: 2 };
            machine.test[1].1[99] = 3;
            machine.rows_of = NEWER;
            machine.rows = 1_001;
            machine.picture[1].1 = 5;
            machine.note = Some(b"b note!".to_vec());
        }),
        [
            "/LUO flbs[iommu-v1].count: 3 -> 4",
            "/kexec-metadata previous_release: 7.2.13 -> 7.3.0",
            "/kexec-metadata kexec_count: 1 -> 2",
            "/kho_test csum: 0x19191919 -> 0x1a191919",
            "/kho_test content at 0x2063: 0x02 -> 0x03",
            "/memblock ranges[trace].content at 0x5: 0x77 -> 0x57",
            "/note blob.size: 6 -> 7",
            "/note content at 0x0: 0x61 -> 0x62",
            "/orders compatible: shop-orders-v3, block-v1, kho-records-v1 -> shop-orders-v4, block-v1, kho-records-v1",
            "/orders count: 1000 -> 1001",
            "/picture content at 0x2000: 0x04 -> 0x05",
        ]
    );
}

#[test]
fn names_cannot_drive_the_terminal() {
    let lines = changed(|machine| machine.sessions[1].0 = "\x1b[31mred\u{202e}\n".as_bytes());
    let wanted = "/LUO sessions[\\x1b[31mred\\xe2\\x80\\xae\\n]: only in B (1 file)";
    assert!(lines.iter().any(|line| line == wanted), "{lines:?}");
    assert!(!lines.concat().contains(['\x1b', '\u{202e}']), "{lines:?}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("\x1b[31mred");
    std::fs::copy(frozen(), &path).unwrap();
    let told = run(0, &["diff", path.to_str().unwrap(), &frozen()]);
    assert!(told.contains("/\\u{1b}[31mred and /") && !told.contains('\x1b'), "{told}");
}

#[test]
fn arenas_whose_files_travel_beside_them() {
    let (a, b) = (Handover::new(), Handover::new());
    let told = run(0, &["diff", a.path(), b.path()]);
    assert_eq!(
        told,
        format!(
            "not compared: /files files: its files travel beside the memory, and are not in it\n\
             {} and {}: same, 1 not compared\n",
            a.path(),
            b.path()
        )
    );
    let told = run(1, &["diff", a.path(), b.path(), "--addresses"]);
    assert!(told.starts_with("/files files[0xabc].inode: ") && told.contains(": 1 difference,"), "{told}");
    let size = common::node(&b.decoded(), "small")["blob"]["address"].as_u64().unwrap() + 8;
    b.poke(size, &9_999_u64.to_le_bytes());
    let told = run(1, &["diff", a.path(), b.path()]);
    assert!(told.starts_with("/small size: 10000 -> 9999\nnot compared"), "{told}");
}

#[test]
fn what_is_wrong_with_one_of_them_is_a_difference() {
    let (a, b) = (Handover::new(), Handover::new());
    let blob = common::node(&b.decoded(), "orders")["blob"]["address"].as_u64().unwrap();
    b.poke(blob + 8, &77_u64.to_le_bytes());
    let shown = json(1, &["diff", a.path(), b.path()]);
    let changes = shown["changes"].as_array().unwrap();
    let of = |path: &str| {
        changes
            .iter()
            .find(|change| change["path"].as_str().unwrap().starts_with(path))
            .unwrap_or_else(|| panic!("{shown}"))
    };
    assert_eq!(
        *of("/orders verdict"),
        json!({"kind": "changed", "path": "/orders verdict", "offset": null, "a": "fine", "b": "refused"})
    );
    assert_eq!((&of("/orders kind")["a"], &of("/orders kind")["b"]), (&json!("records"), &json!("bytes")));
    let finding = of("/orders findings[");
    assert_eq!((&finding["kind"], &finding["a"]), (&json!("added"), &Value::Null));
    assert!(finding["b"].as_str().unwrap().starts_with("error: /orders: block-count: "), "{finding}");
}

#[test]
fn a_root_alone_and_a_copy_of_debugfs() {
    for other in ["debugfs/after/in/fdt", "debugfs/after/in"] {
        let shown = json(0, &["diff", &frozen(), fixture(other).to_str().unwrap()]);
        assert_eq!(shown["not_compared"][0], json!({"path": "/", "a": null, "b": "its memory is not here"}), "{other}");
    }
    let told = run(1, &["diff", &frozen(), Handover::new().path()]);
    assert!(told.starts_with("/ compatible: kho-v4 -> kho-v4, "), "{told}");
}

#[test]
fn what_cannot_be_read_is_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.dtb");
    std::fs::write(&other, kho::fdt::Builder::new().finish().unwrap()).unwrap();
    for path in ["nothing", "/proc/self", other.to_str().unwrap()] {
        for args in [["diff", &frozen(), path], ["diff", path, &frozen()]] {
            let error = run(2, &args);
            assert!(error.starts_with(&format!("kho: {path}: ")), "{error}");
        }
    }
    // Of one of them it is said that it is raw memory.
    let raw = raw(BASE, |_| {});
    let error = run(2, &["diff", &raw.path(), &frozen()]);
    assert!(error.contains("raw memory needs --base"), "{error}");
    assert!(run(1, &["diff", &raw.path(), &frozen(), "--base", "0xa000000,"]).contains("differences"));
    run(2, &["diff", &raw.path(), &frozen(), "--base", ",0xa000000"]);
    assert_eq!(kho(["diff", &frozen(), &frozen(), "--base", "1,2,3"]).status.code(), Some(2));
    assert_eq!(kho(["diff", &frozen()]).status.code(), Some(2));
}

#[test]
fn a_demo_and_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let arena = |name: &str| {
        let out = dir.path().join(name);
        run(0, &["demo", "--size", "1MiB", "--keep", out.to_str().unwrap()]);
        out.join("arena.img").to_str().unwrap().to_owned()
    };
    let (a, b) = (arena("a"), arena("b"));
    // The ledger has a time.
    let shown = json(1, &["diff", &a, &b]);
    let paths: Vec<_> =
        shown["changes"].as_array().unwrap().iter().map(|change| change["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/ledger content"], "{shown}");
}

#[test]
fn json_is_what_its_schema_says() {
    let schema: Value = serde_json::from_str(&run(0, &["schema", "diff"])).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let b = raw(BASE, |machine| {
        machine.note = None;
        machine.sessions[1].0 = b"third";
        machine.picture[0].1 = 1;
    });
    let base = format!(",{BASE:#x}");
    for other in [&raw(BASE, |_| {}).path(), &frozen()] {
        let of_a = if *other == frozen() { base.clone() } else { format!("{BASE:#x}") };
        let output = kho(["diff", other, &b.path(), "--base", &of_a, "--format", "json"]);
        let shown: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        let errors: Vec<_> = validator.iter_errors(&shown).map(|error| error.to_string()).collect();
        assert_eq!(errors, [""; 0]);
        let kinds = |kind| shown["changes"].as_array().unwrap().iter().filter(|change| change["kind"] == kind).count();
        assert!(kinds("added") > 0 && kinds("removed") > 0 && kinds("changed") > 0, "{shown}");
        // And nothing that the schema has no word for.
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let described = |pointer: &str| fields(schema.pointer(pointer).unwrap());
        assert_eq!(fields(&shown), described("/properties"));
        assert_eq!(fields(&shown["changes"][0]), described("/$defs/Change/properties"));
        let mut broken = shown.clone();
        broken["changes"][0]["kind"] = "none".into();
        assert!(!validator.is_valid(&broken));
    }
}

#[test]
fn a_terabyte_of_holes_is_compared_at_once() {
    let (a, b) = (Handover::new(), Handover::new());
    for handover in [&a, &b] {
        let blob = common::node(&handover.decoded(), "small")["blob"]["address"].as_u64().unwrap();
        handover.poke(blob + 8, &(1_u64 << 40).to_le_bytes());
    }
    let start = std::time::Instant::now();
    assert!(run(0, &["diff", a.path(), b.path()]).contains(": same"));
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[test]
fn a_core_that_was_tampered_with_is_no_way_to_panic() {
    let core = std::fs::read(frozen()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    let file = File::create(&path).unwrap();
    let mut word = 1_u64;
    for _ in 0..150 {
        file.write_all_at(&core, 0).unwrap();
        for _ in 0..8 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // What is not zero is what means something.
            let mut at = (word >> 33) as usize % core.len();
            while core[at] == 0 {
                at = (at + 1) % core.len();
            }
            file.write_all_at(&[(word >> 24) as u8], at as u64).unwrap();
        }
        for args in [[&frozen(), path.to_str().unwrap()], [path.to_str().unwrap(), &frozen()]] {
            let output = kho([["diff"].as_slice(), &args, &["--addresses"]].concat());
            let code = output.status.code();
            assert!(matches!(code, Some(0..=2)), "{code:?} {}", text(&output.stderr));
            assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
        }
    }
}
