//! `kho map`: the picture, the strip and the data.

mod common;

use std::os::fd::AsRawFd as _;

use common::{Handover, PICTURE, fixture, golden, json, run};
use kho::handover::Outgoing;
use kho::mem::{Frames as _, Order};
use kho::payload::Array;
use kho::transport::Bundle;
use serde_json::{Value, json};

fn frozen() -> String {
    fixture("frozen.core").to_str().unwrap().into()
}

/// Draws into a file of its own; the picture, which must be XML.
fn drawn(args: &[&str]) -> String {
    drawn_of(0, args)
}

/// As [`drawn`], of what is broken.
fn drawn_of(code: i32, args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map.svg");
    run(code, &[&["map", "-o", path.to_str().unwrap()], args].concat());
    let picture = std::fs::read_to_string(path).unwrap();
    well_formed(&picture);
    assert!(picture.len() < 1_000_000, "{} bytes", picture.len());
    picture
}

/// Tags that open and close as they should, attributes in quotes, and no `&` or `<` that means nothing.
fn well_formed(xml: &str) {
    let mut open = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        for entity in rest[..at].split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;"].iter().any(|known| entity.starts_with(known)), "&{entity:.9}");
        }
        assert!(!rest[..at].chars().any(|c| c.is_control() && c != '\n'));
        let end = at + rest[at..].find('>').expect("a tag that ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        match (tag.strip_prefix('/'), tag.strip_suffix('/')) {
            (Some(name), _) => assert_eq!(open.pop(), Some(name), "{tag}"),
            (None, Some(_)) => {}
            (None, None) => open.push(tag.split(' ').next().unwrap()),
        }
        assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains(['&', '<']), "{tag}");
    }
    assert_eq!(open, [""; 0]);
}

fn owner<'a>(shown: &'a Value, node: &str, part: Option<&str>) -> &'a Value {
    let owners = shown["map"]["owners"].as_array().unwrap();
    owners
        .iter()
        .find(|owner| owner["node"] == node && owner["part"] == json!(part))
        .unwrap_or_else(|| panic!("{node} {part:?} is not in {owners:?}"))
}

#[test]
fn who_owns_what_of_a_real_machine() {
    let shown = json(0, &["map", &frozen()]);
    // One folio each, the structure, the array and its chunk.
    for (part, folios) in [
        ("sessions[vm-session].files[0xabc]", 3),
        ("sessions[vm-session].files[0x2]", 49),
        ("sessions[vm-session].files[0xffffffffffffffff]", 16),
        ("sessions[second].files[0x7]", 3),
    ] {
        assert_eq!(owner(&shown, "/LUO", Some(part))["bytes"], (folios + 3) * 4096, "{part}");
    }
    assert_eq!(owner(&shown, "/LUO", Some("sessions[vm-session].files[0x3]"))["bytes"], 4096);
    assert_eq!(
        owner(&shown, "/memblock", Some("testmem")),
        &json!({"kind": "node", "node": "/memblock", "part": "testmem", "bytes": 1 << 20})
    );
    let map = &shown["map"];
    assert_eq!(map["overlapping"], 0);
    // Every preserved byte is in one range of one owner, and the tree's pages are in none of them.
    let owners = map["owners"].as_array().unwrap();
    let (mut end, mut preserved, mut tree) = (0, 0, 0);
    for range in map["ranges"].as_array().unwrap() {
        let (address, size) = (range["address"].as_u64().unwrap(), range["size"].as_u64().unwrap());
        assert!(address >= end && range["owners"].as_array().unwrap().len() == 1, "{range}");
        end = address + size;
        let kind = &owners[range["owners"][0].as_u64().unwrap() as usize]["kind"];
        *(if kind == "tree" { &mut tree } else { &mut preserved }) += size;
    }
    let dumped = json(0, &["dump", &frozen()]);
    assert_eq!(dumped["preserved"]["bytes"], preserved);
    assert_eq!(tree, 20 * 4096);
    assert_eq!(map["range_count"], map["ranges"].as_array().unwrap().len());
}

#[test]
fn the_picture_says_who_owns_each_page() {
    let picture = drawn(&[&frozen()]);
    assert!(picture.contains("<title>Physical memory of frozen.core</title>"));
    // A page, a session's folios, a named range of four rows.
    assert!(picture.contains("<title>0x448000..0x449000, 4 KiB: root FDT</title>"));
    assert!(picture.contains("0x7900000..0x7a00000, 1 MiB: memblock testmem</title>"));
    assert!(picture.contains(">0x79c0000</text>"));
    assert!(!picture.contains("scratch</"));
    assert_eq!(picture, drawn(&[&frozen()]), "the same map gives the same bytes");
    assert_eq!(run(0, &["map", "--format", "svg", &frozen()]), picture);
}

#[test]
fn scratch_as_debugfs_has_it() {
    let out = fixture("debugfs/after/out");
    let args = ["--scratch", out.to_str().unwrap(), &frozen()];
    let shown = json(0, &[&["map"], &args[..]].concat());
    let ranges = json!([
        {"address": 0x0680_0000, "size": 16 << 20},
        {"address": 0x0480_0000, "size": 32 << 20},
        // Linux has empty ones.
        {"address": 0x07c0_0000, "size": 0},
    ]);
    assert_eq!(shown["map"]["scratch"], ranges);
    let scratch = shown["map"]["owners"].as_array().unwrap().iter().find(|owner| owner["kind"] == "scratch").unwrap();
    assert_eq!((&scratch["bytes"], &shown["errors"]), (&json!(48 << 20), &json!(0)));
    assert!(drawn(&args).contains("48 MiB of scratch, 192 rows"));
    run(0, &[&["check"], &args[..]].concat());
    for wrong in ["0x1000", "1x+2", "/nowhere", "0xffffffffffffffff+2"] {
        run_usage(&["map", "--scratch", wrong, &frozen()]);
    }
}

fn run_usage(args: &[&str]) {
    let output = common::kho(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn memory_that_is_preserved_in_scratch() {
    // The second scratch begins with two pages of a file, and has all of the named range's first half.
    let args = ["--scratch", "0x17bc000+8K", "--scratch", "0x7880000+1M", &frozen()];
    let shown = json(1, &[&["check"], &args[..]].concat());
    let finding = |address: u64, node: &str, item: &str, found: &str, scratch: &str| {
        let expected = format!("nothing of the handover in the scratch {scratch}");
        json!([address, node, item, "scratch-overlap", "ownership", found, expected])
    };
    let found: Vec<Value> = shown["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| json!([f["address"], f["node"], f["item"], f["code"], f["class"], f["found"], f["expected"]]))
        .collect();
    let files = "0x2000 bytes that are preserved there, these first";
    let named = "0x80000 bytes that are preserved there, these first";
    assert_eq!(
        found,
        [
            finding(
                0x17b_c000,
                "/LUO",
                "sessions[vm-session].files[0xffffffffffffffff]",
                files,
                "0x17bc000..0x17be000"
            ),
            finding(0x790_0000, "/memblock", "testmem", named, "0x7880000..0x7980000"),
        ]
    );
    let picture = drawn_of(1, &args);
    assert!(picture.contains("2 errors") && picture.contains("more than one owner"));
    let text = run(1, &[&["map"], &args[..]].concat());
    assert!(
        text.contains("0x17bc000..0x17be000 8 KiB: LUO sessions[vm-session].files[0xffffffffffffffff] and scratch"),
        "{text}"
    );
    // The tree itself, which the next kernel reads while it allocates there.
    let shown = json(1, &["check", "--scratch", "0x449000+4K", &frozen()]);
    assert_eq!((&shown["findings"][0]["item"], &shown["findings"][0]["node"]), (&json!("radix tree"), &json!("/")));
}

#[test]
fn two_owners_of_one_page_are_red() {
    let handover = Handover::new();
    let decoded = handover.decoded();
    let picture = |shown: &Value| common::node(shown, "picture")["content"]["blocks"][0][0].as_u64().unwrap();
    // The records of `orders` begin in a block of the picture.
    let orders = common::node(&decoded, "orders")["blob"]["address"].as_u64().unwrap();
    handover.poke(common::node(&decoded, "kho_test")["blob"]["address"].as_u64().unwrap(), &[0; 4]);
    let root = std::fs::read(handover.path()).unwrap();
    let at = root.windows(8).position(|bytes| bytes == orders.to_le_bytes()).unwrap() as u64;
    let base = handover.bundle.arena().base().get();
    handover.poke(base + at, &picture(&decoded).to_le_bytes());
    let shown = json(1, &["map", handover.path()]);
    assert_eq!(shown["map"]["overlapping"], 16 * 4096);
    let text = run(1, &["map", handover.path()]);
    assert!(text.contains("more than one owner") && text.contains(": orders and picture"), "{text}");
    assert!(drawn_of(1, &[handover.path()]).contains("class=\"x\""));
}

#[test]
fn a_strip_of_letters_where_there_is_no_colour() {
    let text = run(0, &["map", &frozen()]);
    assert!(!text.contains('\x1b'));
    assert!(text.contains("E LUO session vm-session                316 KiB"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 160), "{text}");
}

/// A picture of so many pages of 10 owners in turn, every other page free, so that every cell has some of them.
fn crowd(pages: usize) -> String {
    let mut outgoing = Outgoing::new(Bundle::new(512 << 20).unwrap());
    let frames: Vec<_> = (0..pages).map(|_| outgoing.alloc(Order::ZERO).unwrap()).collect();
    let mut parts: Vec<Vec<_>> = (0..10).map(|_| Vec::new()).collect();
    for (number, frame) in frames.into_iter().enumerate() {
        match number % 2 {
            0 => parts[number / 2 % 10].push(frame),
            _ => outgoing.free(frame),
        }
    }
    for (number, frames) in parts.iter().enumerate() {
        let name = format!("a-name-that-is-long-number-{number}");
        outgoing.preserve(&name, &Array { made_of: PICTURE, frames, bytes: frames.len() as u64 * 4096 }).unwrap();
    }
    let (bundle, _) = outgoing.finish().unwrap().into_parts();
    let fd = bundle.arena().read_only_fd().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let shown = json(0, &["map", &path]);
    assert!(shown["map"]["range_count"].as_u64().unwrap() > pages as u64 * 9 / 20);
    drawn(&[&path])
}

#[test]
fn however_many_ranges_the_picture_stays_small() {
    let picture = crowd(65_536);
    // A cell of 32 pages says of the first three ranges whose they are.
    assert!(picture.contains(" of 128 KiB\n0x") && picture.contains("\nand 25 more</title>"), "{}", &picture[..5000]);
    // Of more cells than that, only how much of each is owned.
    let picture = crowd(110_000);
    assert!(picture.contains(" of 128 KiB</title>") && picture.contains("class=\"o\""), "{}", &picture[..5000]);
}

#[test]
fn what_cannot_be_drawn() {
    let tree = fixture("debugfs/after/in/fdt");
    assert!(run(2, &["map", tree.to_str().unwrap()]).contains("has no memory to be drawn"));
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("core");
    std::fs::copy(frozen(), &copy).unwrap();
    let copy = copy.to_str().unwrap();
    assert!(run(2, &["map", copy, "-o", copy]).contains("is what would be drawn"));
    assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(frozen()).unwrap());
}

/// The picture in README.md.
#[test]
fn the_picture_of_the_frozen_machine() {
    let scratch = fixture("debugfs/before/out");
    golden("../docs/frozen.svg", &drawn(&[&frozen(), "--scratch", scratch.to_str().unwrap()]));
}

/// What the user says of scratch need not be in the machine, nor in any.
#[test]
fn scratch_up_to_the_end_of_the_address_space() {
    for (code, scratch) in [
        (1, "0+0xffffffffffffffff"),
        (1, "0+0x8000000000000001"),
        (0, "0x8000000000000000+0x7fffffffffffffff"),
        (0, "0xfffffffffffff000+0xfff"),
        (0, "0xffffffffffffffff+0"),
        (0, "0+0"),
    ] {
        let args = ["--scratch", scratch, &frozen()];
        let picture = drawn_of(code, &args);
        assert_eq!(picture.contains(">scratch<"), !scratch.ends_with("+0"), "{scratch}");
        let text = run(code, &[&["map"][..], &args].concat());
        assert!(text.contains("one character "), "{scratch}: {text}");
    }
}

/// A folder that came off a machine, or from anybody.
#[test]
fn scratch_of_a_folder_that_nobody_would_write() {
    let dir = tempfile::tempdir().unwrap();
    let told = |starts: &str, sizes: &str| {
        std::fs::write(dir.path().join("scratch_phys"), starts).unwrap();
        std::fs::write(dir.path().join("scratch_len"), sizes).unwrap();
        let output = common::kho(["check", "--scratch", dir.path().to_str().unwrap(), &frozen()]);
        let error = common::text(&output.stderr);
        assert!(!error.contains(['\u{1b}', '\u{7}']), "{error}");
        (output.status.code(), error.to_owned())
    };
    let (code, error) = told("0x1000\n\u{1b}[31m\u{7}x\n", "1\n2\n");
    let says = "line 2 of scratch_phys and scratch_len: \\u{1b}[31m\\u{7}x: neither a size";
    assert!(code == Some(2) && error.contains(says), "{error}");
    let (code, error) = told("0xffffffffffffffff\n", "2\n");
    assert!(code == Some(2) && error.contains("line 1 of scratch_phys and scratch_len: "), "{error}");
    assert_eq!(told("", ""), (Some(0), String::new()));
    // As many as a MiB of text has, one beside the other; some of them are where something is preserved.
    let starts: String = (0..90_000_u64).map(|page| format!("{:#x}\n", page << 12)).collect();
    assert_eq!(told(&starts, &"4096\n".repeat(90_000)).0, Some(1));
}

/// Sessions that are called what would end a tag, an entity or a line.
#[test]
fn names_that_are_no_xml() {
    use kho::luo::{NewContent, NewFile, NewSession, Sessions};
    use kho::mem::{Geometry, PageRange, Pfn, Ram};
    let names: [&[u8]; 7] = [
        b"</text>",
        b"a\"b'c",
        b"&amp;&#x0;",
        b"]]>\n",
        b"\x1b[31m\x07",
        b"\xff\xfe",
        "\u{202e}\u{fffe}\u{1f600}".as_bytes(),
    ];
    let session = |name: &&[u8]| {
        let content = NewContent::Memfd(kho::memfd::Contents::new(Geometry::K4, &[1; 9000], Order::ZERO));
        NewSession { name: name.to_vec(), files: vec![NewFile { token: 1, content }] }
    };
    let sessions = names.iter().map(session).collect();
    let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 256).unwrap()));
    outgoing.preserve("LUO", &Sessions { number: 1, sessions, flbs: vec![] }).unwrap();
    let (ram, _) = outgoing.finish().unwrap().into_parts();
    let file = tempfile::NamedTempFile::new().unwrap();
    ram.write_image(file.as_file()).unwrap();
    let args = [file.path().to_str().unwrap(), "--base", "0x100000"];
    let picture = drawn(&args);
    for shown in ["LUO session &lt;/text&gt;", "LUO session a\"b'c", "LUO session &amp;amp;&amp;#x0;", "\\x1b[31m\\x07"]
    {
        assert!(picture.contains(shown), "{shown}");
    }
    let text = run(0, &[&["map"][..], &args].concat());
    assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text}");
}
