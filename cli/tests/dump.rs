//! `kho dump`: what a user sees of real and of made handovers.

mod common;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use common::{Handover, dtc, fixture, golden, json, node, run, text};
use kho::abi::luo;
use kho::block::BlockSet;
use kho::compat::{Compat, CompatList};
use kho::handover::{Blob, Outgoing, Preserve, Scope};
use kho::report::Fault;
use kho::transport::Bundle;
use serde_json::{Value, json};

fn frozen() -> (String, Value) {
    let expected = serde_json::from_slice(&std::fs::read(fixture("frozen.json")).unwrap()).unwrap();
    (fixture("frozen.core").to_str().unwrap().into(), expected)
}

#[test]
fn a_frozen_machine_as_another_decoder_found_it() {
    let (core, expected) = frozen();
    let decoded = json(0, &["dump", &core]);
    assert_eq!(decoded["preserved"]["entries"], expected["preserved"]);
    assert_eq!(decoded["preserved"]["pages"], expected["preserved_pages"]);
    assert_eq!(decoded["root"]["address"], expected["fdt"]);
    assert_eq!(decoded["root"]["compatible"], json!([expected["compatible"]]));
    assert_eq!(decoded["root"]["preserved_memory_map"], expected["memory_map"]);
    assert_eq!(decoded["root"]["found_by"], "search");
    assert_eq!(decoded["page_size"], json!({"bytes": 4096, "by": "tree"}));
    let subtrees = expected["subtrees"].as_object().unwrap();
    assert_eq!(decoded["nodes"].as_array().unwrap().len(), subtrees.len());
    for (name, wanted) in subtrees {
        assert_eq!(node(&decoded, name)["blob"], json!({"address": wanted["phys"], "size": wanted["size"]}), "{name}");
    }
    let (wanted, content) = (&subtrees["kho_test"], &node(&decoded, "kho_test")["content"]);
    assert_eq!(content["kind"], "kho-test");
    assert_eq!(content["csum"], wanted["csum"]);
    assert_eq!(content["folios"], wanted["folios"]);
    assert_eq!(content["rule"], "words");
    for node in decoded["nodes"].as_array().unwrap() {
        assert_eq!(node["verdict"], "fine", "{}", node["name"]);
    }
    assert_eq!(decoded["findings"], json!([]));
}

#[test]
fn sessions_reserved_memory_and_metadata_as_another_decoder_found_them() {
    let (core, mut expected) = frozen();
    let decoded = json(0, &["dump", &core]);
    let preserved: Vec<(u64, u64)> = serde_json::from_value(expected["preserved"].clone()).unwrap();
    let preserved = BTreeMap::from_iter(preserved);
    let content = |name| &node(&decoded, name)["content"];

    let mut wanted = expected["subtrees"]["LUO"].take();
    for file in wanted["sessions"].as_array_mut().unwrap().iter_mut().flat_map(|s| s["files"].as_array_mut().unwrap()) {
        // What the other decoder says as numbers: pages and seals.
        let memfd = &file["memfd"];
        let folios = memfd["folios"].as_array().unwrap().iter().map(|folio| {
            let address = folio[0].as_u64().unwrap() * 4096;
            json!([address, preserved[&address], folio[2]])
        });
        let seals = match memfd["seals"].as_u64().unwrap() {
            0 => json!([]),
            6 => json!(["shrink", "grow"]),
            other => panic!("seals {other:#x}"),
        };
        let (pos, size) = (&memfd["pos"], &memfd["size"]);
        file["memfd"] = json!({"pos": pos, "size": size, "seals": seals, "folios": folios.collect::<Vec<_>>()});
    }
    let luo = json!({
        "kind": "luo", "number": wanted["number"], "sessions": wanted["sessions"], "flbs": wanted["flbs"],
    });
    assert_eq!(*content("LUO"), luo);
    assert_eq!(node(&decoded, "LUO")["read_as"], wanted["compatible"]);

    let wanted = &expected["subtrees"]["memblock"];
    let ranges = wanted["reserve"].as_object().unwrap().iter();
    let ranges = ranges.map(|(name, range)| json!({"name": name, "address": range["start"], "size": range["size"]}));
    assert_eq!(*content("memblock"), json!({"kind": "memblock", "ranges": ranges.collect::<Vec<_>>()}));
    assert_eq!(node(&decoded, "memblock")["read_as"], wanted["compatible"]);

    let wanted = &expected["subtrees"]["kexec-metadata"];
    let (release, count) = (&wanted["previous_release"], &wanted["kexec_count"]);
    let metadata = json!({"kind": "kexec-metadata", "previous_release": release, "kexec_count": count});
    assert_eq!(*content("kexec-metadata"), metadata);
}

/// A handover with Linux's node `LUO`: a session of that name, and so many files of a handler that nobody here knows.
fn sessions(name: &[u8], files: u64) -> Handover {
    struct Sessions<'a>(&'a [u8], u64);

    impl Preserve<Bundle> for Sessions<'_> {
        fn compat(&self) -> CompatList<'static> {
            kho::luo::MADE_OF
        }

        fn preserve(&self, scope: &mut Scope<'_, Bundle>) -> Result<Blob, Fault> {
            let compatible = Compat::new("kvm-vm", 1).to_fixed()?;
            let file = |n: u64| luo::File { compatible, data: (0x7000 + n).into(), token: n.into() };
            let first = BlockSet::from((0..self.1).map(file).collect::<Vec<_>>()).store(scope)?.first.get();
            let mut name = [0; luo::SESSION_NAME];
            name[..self.0.len()].copy_from_slice(self.0);
            let session = luo::Session { name, files: first.into(), count: self.1.into() };
            let sessions = BlockSet::from(vec![session]).store(scope)?.first.get().into();
            let compatible = luo::COMPAT.to_fixed()?;
            let head = luo::Head { compatible, liveupdate_number: 3.into(), sessions, flbs: 0.into() };
            scope.blob(zerocopy::IntoBytes::as_bytes(&head))
        }
    }

    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    outgoing.preserve(luo::NODE, &Sessions(name, files)).unwrap();
    Handover::of(outgoing, Vec::new())
}

#[test]
fn of_many_files_the_first_are_shown_and_json_has_all() {
    let handover = sessions(b"many", 15);
    let shown = run(0, &["dump", handover.path()]);
    assert!(shown.contains("    live update 3: 1 session, 15 files, 0 FLBs\n    session many: 15 files\n"), "{shown}");
    assert!(
        shown.contains("        token 0xb: kvm-vm-v1, not looked into: data 0x700b\n        ... and 3 more"),
        "{shown}"
    );
    assert!(!shown.contains("token 0xc:"), "{shown}");
    let decoded = handover.decoded();
    let files = &node(&decoded, "LUO")["content"]["sessions"][0]["files"];
    assert_eq!(files.as_array().unwrap().len(), 15);
    assert_eq!(files[14], json!({"token": 14, "compatible": "kvm-vm-v1", "data": 0x700e, "memfd": null}));
    // Told of each, and no reason to refuse.
    let opaque = decoded["findings"].as_array().unwrap().iter().filter(|finding| finding["code"] == "component-opaque");
    assert_eq!((opaque.count(), &decoded["errors"]), (15, &json!(0)));
    assert_eq!(decoded["findings"][14]["item"], "sessions[many].files[0xe].compatible");
}

#[test]
fn names_of_sessions_cannot_drive_the_terminal() {
    // Escape sequences, and a character that turns the direction of what follows it.
    for (name, shown) in [("\x1b[31mred", "\\x1b[31mred"), ("nam\u{202e}e", "nam\\u{202e}e"), ("a\nb", "a\\nb")] {
        let handover = sessions(name.as_bytes(), 1);
        let tree = run(0, &["dump", handover.path()]);
        assert!(tree.contains(&format!("    session {shown}: 1 file\n")), "{tree}");
        for text in [tree, run(0, &["check", handover.path()])] {
            assert!(!text.contains(['\x1b', '\u{202e}']), "{text}");
            assert!(text.contains(&format!("sessions[{shown}].files[0x0].compatible at 0x")), "{text}");
        }
    }
}

#[test]
fn ranges_orders_and_blocks_are_the_same_pages() {
    let decoded = json(0, &["dump", &frozen().0]);
    let preserved = &decoded["preserved"];
    let entries: Vec<(u64, u32)> = serde_json::from_value(preserved["entries"].clone()).unwrap();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &(address, order) in &entries {
        let size = 4096 << order;
        match ranges.last_mut() {
            Some(last) if last.0 + last.1 == address => last.1 += size,
            _ => ranges.push((address, size)),
        }
    }
    let ranges: Vec<Value> =
        ranges.into_iter().map(|(address, size)| json!({"address": address, "size": size})).collect();
    assert_eq!(preserved["ranges"], json!(ranges));
    assert_eq!(preserved["blocks"], entries.len());
    for count in preserved["orders"].as_array().unwrap() {
        let blocks = entries.iter().filter(|entry| count["order"] == entry.1).count();
        assert_eq!(count["blocks"], blocks);
    }
}

#[test]
fn raw_memory_and_addresses_as_people_write_them() {
    let (core, expected) = frozen();
    // One page of the machine: the one with the root.
    let (dir, bytes) = (tempfile::tempdir().unwrap(), std::fs::read(&core).unwrap());
    let at = bytes.windows(4).position(|four| four == [0xd0, 0x0d, 0xfe, 0xed]).unwrap();
    let raw = dir.path().join("raw");
    std::fs::write(&raw, &bytes[at..at + 4096]).unwrap();
    let raw = raw.to_str().unwrap();
    let root = expected["fdt"].as_u64().unwrap();
    let decoded = json(1, &["dump", "--base", &format!("{root:#x}"), raw]);
    assert_eq!((&decoded["source"]["kind"], &decoded["root"]["address"]), (&json!("raw"), &expected["fdt"]));
    // The tree is not in that page: an error, and what the root says is shown all the same.
    assert_eq!(decoded["findings"][0]["code"], "outside");
    assert_eq!(decoded["nodes"].as_array().unwrap().len(), 4);
    let hint = run(2, &["dump", raw, "--fdt", "0x1000"]);
    assert!(hint.contains("for memory images"), "{hint}");
    for fdt in [format!("{root:#x}"), root.to_string(), "4384K".into()] {
        let decoded = json(0, &["dump", &core, "--fdt", &fdt, "--page-size", "4k"]);
        assert_eq!((&decoded["errors"], &decoded["root"]["found_by"]), (&json!(0), &json!("option")), "{fdt}");
    }
}

#[test]
fn the_root_alone() {
    let root = fixture("debugfs/after/in/fdt");
    let decoded = json(0, &["dump", root.to_str().unwrap()]);
    assert_eq!(decoded["source"]["kind"], "device-tree");
    assert_eq!(decoded["preserved"], Value::Null);
    assert_eq!(node(&decoded, "LUO")["blob"], json!({"address": 6_717_440, "size": 32}));
    assert_eq!(node(&decoded, "LUO")["content"], Value::Null);
    let shown = run(0, &["dump", root.to_str().unwrap()]);
    assert!(shown.contains("the memory that it names is not here"), "{shown}");
}

#[test]
fn the_copy_that_debugfs_cuts() {
    let cut = fixture("debugfs/before/out/fdt");
    let error = run(2, &["dump", cut.to_str().unwrap()]);
    assert!(error.contains("truncated") && error.contains("found 233 bytes, expected 405"), "{error}");
    assert!(error.contains("the size that it had at boot"), "{error}");
}

#[test]
fn every_kind_of_node_that_this_library_writes() {
    let handover = Handover::new();
    let decoded = handover.decoded();
    assert_eq!(decoded["errors"], 0, "{}", decoded["findings"]);
    assert_eq!(decoded["root"]["found_by"], "header");
    let content = |name| &node(&decoded, name)["content"];

    let test = content("kho_test");
    assert_eq!((&test["kind"], &test["bytes"]), (&json!("kho-test"), &json!(3 * 4096)));
    assert_eq!(test["folios"][0][1], 1);

    let orders = content("orders");
    assert_eq!(orders["kind"], "records");
    // 170 records of 24 bytes fit into a page.
    assert_eq!((&orders["count"], &orders["record_size"]), (&json!(1000), &json!(24)));
    assert_eq!(orders["blocks"].as_array().unwrap().len(), 6);
    assert_eq!(orders["blocks"][0], orders["first"]);
    assert_eq!(node(&decoded, "orders")["compatible"], json!(["shop-orders-v3", "block-v1", "kho-records-v1"]));
    assert_eq!(node(&decoded, "orders")["read_as"], "kho-records-v1");

    let picture = content("picture");
    let blocks: Vec<(u64, u32)> = serde_json::from_value(picture["blocks"].clone()).unwrap();
    let frames = handover.frames.iter().map(|frame| {
        let folio = frame.folio();
        (folio.addr(kho::mem::Geometry::K4).get(), folio.order().get())
    });
    assert_eq!((blocks, &picture["bytes"]), (frames.collect(), &json!(150_000)));

    let small = content("small");
    assert_eq!((&small["kind"], &small["size"], &small["pos"]), (&json!("memfd"), &json!(10_000), &json!(10_000)));
    assert_eq!(small["folios"].as_array().unwrap().len(), 3);

    let files = &content("files")["files"];
    assert_eq!(
        (&files[0]["token"], &files[0]["size"], &files[0]["kind"]),
        (&json!(0xabc), &json!(1 << 20), &json!("memfd"))
    );
    assert_eq!(files.as_array().unwrap().len(), 1);

    // Nobody knows what a note is.
    let note = content("note");
    let bytes: String = b"\x1b[31mnot red\x1b[0m".iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(*note, json!({"kind": "bytes", "first_bytes": bytes}));
    assert_eq!(node(&decoded, "note")["verdict"], "opaque");
    for node in decoded["nodes"].as_array().unwrap().iter().filter(|node| node["name"] != "note") {
        let owned: u64 = node["mem"].as_array().unwrap().iter().map(|range| range["size"].as_u64().unwrap()).sum();
        assert_eq!(node["owned"], owned, "{}", node["name"]);
    }
}

#[test]
fn the_tree_is_for_people_and_cannot_drive_their_terminal() {
    let shown = run(0, &["dump", Handover::new().path()]);
    assert!(shown.contains("1000 records of 24 B in 6 pages"), "{shown}");
    assert!(shown.contains("token 0xabc: memfd of 1 MiB, no seals, position 1048576"), "{shown}");
    assert!(shown.contains("array of 146.4 KiB in 3 blocks: 3 of order 4"), "{shown}");
    assert!(!shown.contains('\x1b'), "no colour where no terminal is, and none of the handover's own");
}

/// A pipe, a device, a socket and a file under the tokens 1 to 4.
fn resources(capacity: usize, len: u64) -> Handover {
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    let (reader, _writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&reader, capacity).unwrap();
    outgoing.preserve_file(1, reader.into()).unwrap();
    outgoing.preserve_file(2, std::fs::File::open("/dev/null").unwrap().into()).unwrap();
    outgoing.preserve_file(3, std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().into()).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    outgoing.preserve_file(4, file.into()).unwrap();
    Handover::of(outgoing, Vec::new())
}

#[test]
fn files_are_shown_and_compared_by_what_they_are() {
    let (one, other) = (resources(4096, 2048), resources(8192, 1024));
    let shown = run(0, &["dump", one.path()]);
    for line in [
        "token 0x1: pipe, reading end, capacity 4096, inode ",
        "token 0x2: character device, 1:3, inode ",
        "token 0x3: socket, inet, stream, protocol 6, listening, inode ",
        "token 0x4: regular file of 2 KiB, position 0, inode ",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let decoded = one.decoded();
    let file = &node(&decoded, "files")["content"]["files"][0];
    assert_eq!((&file["kind"], &file["detail"]), (&json!("pipe"), &json!(["reading end", "capacity 4096"])));
    let told = run(1, &["diff", one.path(), other.path()]);
    assert!(told.contains("files[0x4].size: 2048 -> 1024"), "{told}");
    assert!(told.contains("files[0x1].detail: ") && told.contains("capacity 8192"), "{told}");
}

#[test]
fn the_tree_of_the_frozen_machine() {
    let shown = run(0, &["dump", &frozen().0]);
    golden("tests/golden/frozen.txt", shown.split_once('\n').unwrap().1);
}

#[test]
fn source_that_dtc_compiles_to_the_same_tree() {
    let handover = Handover::new();
    let root = std::fs::read(fixture("debugfs/after/in/fdt")).unwrap();
    for (path, sub) in [(frozen().0.as_str(), 2), (handover.path(), 1)] {
        let source = run(0, &["dump", "--format", "dts", path]);
        assert_eq!(source.matches("is a device tree of its own:").count(), sub, "{source}");
        let Some(compiled) = dtc(&source) else { return };
        assert!(compiled.status.success() && compiled.stderr.is_empty(), "{}", text(&compiled.stderr));
        let fdt = kho::fdt::Fdt::parse(&compiled.stdout).unwrap();
        let shown: Vec<_> = fdt.root().children().map(|node| node.name().to_vec()).collect();
        if sub == 2 {
            let real = kho::fdt::Fdt::parse(&root).unwrap();
            assert_eq!(shown, real.root().children().map(|node| node.name().to_vec()).collect::<Vec<_>>());
        } else {
            assert_eq!(shown.len(), 6);
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for format in ["tree", "dts", "json"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kho"))
            .args(["dump", "--format", format, &frozen().0])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{format}");
    }
}
