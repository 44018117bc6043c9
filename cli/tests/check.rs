//! `kho check`: what is fine, what is wrong, and what could not be checked.

mod common;

use common::{Handover, fixture, json, node, run};
use serde_json::{Value, json};

fn frozen() -> String {
    fixture("frozen.core").to_str().unwrap().into()
}

fn codes(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

#[test]
fn what_is_fine() {
    let shown = run(0, &["check", &frozen()]);
    assert!(shown.ends_with("frozen.core: fine\n"), "{shown}");
    let report = json(0, &["check", &frozen()]);
    assert_eq!(report, json!({"verdict": "fine", "checked": "handover", "errors": 0, "warnings": 0, "findings": []}));
    let handover = Handover::new();
    let report = json(0, &["check", handover.path()]);
    // A note, whose page nobody reads: its `mem` owns it all the same.
    assert_eq!(codes(&report), ["component-opaque"]);
    assert_eq!(report["warnings"], 1);
    let root = fixture("debugfs/after/in/fdt");
    let shown = run(0, &["check", root.to_str().unwrap()]);
    assert!(
        shown.contains("the root FDT alone") && shown.ends_with("in/fdt: fine, as far as the root FDT goes\n"),
        "{shown}"
    );
    assert_eq!(json(0, &["check", root.to_str().unwrap()])["checked"], "root-fdt");
}

#[test]
fn one_broken_node_does_not_hide_the_others() {
    let handover = Handover::new();
    let decoded = handover.decoded();
    let blob = |name: &str| node(&decoded, name)["blob"]["address"].as_u64().unwrap();
    let folio = node(&decoded, "kho_test")["content"]["folios"][0][0].as_u64().unwrap();
    handover.poke(folio + 100, b"!");
    let block = node(&decoded, "orders")["content"]["blocks"][2].as_u64().unwrap();
    handover.poke(block + 8, &200_u64.to_le_bytes());
    handover.poke(blob("small") + 16, &0x80_u32.to_le_bytes());
    let report = json(1, &["check", handover.path()]);
    let found = |code: &str| {
        let all = report["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["code"] == code).unwrap_or_else(|| panic!("no {code} in {report}")).clone()
    };
    let sum = found("checksum");
    assert_eq!(
        (&sum["node"], &sum["class"], &sum["severity"]),
        (&json!("/kho_test"), &json!("corrupt"), &json!("error"))
    );
    let count = found("block-count");
    assert_eq!((&count["node"], &count["address"]), (&json!("/orders"), &json!(block)));
    assert_eq!((&count["found"], &count["expected"]), (&json!("200"), &json!("1..=170")));
    assert_eq!(found("memfd-seals")["node"], "/small");
    assert_eq!(report["verdict"], "problems");

    let shown = run(1, &["check", handover.path()]);
    assert!(shown.contains("error: /orders: block-count: records.count at"), "{shown}");
    // It can still be shown: the others whole, of these the bytes.
    let decoded = json(1, &["dump", handover.path()]);
    assert_eq!(node(&decoded, "picture")["content"]["kind"], "array");
    assert_eq!(node(&decoded, "orders")["content"]["kind"], "bytes");
    assert_eq!(node(&decoded, "orders")["verdict"], "refused");
}

#[test]
fn another_version_is_a_mismatch_and_not_corruption() {
    let handover = Handover::new();
    let root = handover.decoded()["root"]["address"].as_u64().unwrap();
    let bytes = std::fs::read(&handover.path).unwrap();
    let replace = |from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|part| part == from).unwrap();
        handover.poke(handover.bundle.arena().base().get() + at as u64, to);
    };
    replace(b"shop-orders-v3\0block-v1\0", b"shop-orders-v9\0block-v2\0");
    let report = json(1, &["check", handover.path()]);
    let newer = &report["findings"][0];
    // What the owner's version means is the owner's business; how its blocks lie is not.
    assert_eq!(
        (&newer["code"], &newer["class"], &newer["node"]),
        (&json!("version-newer"), &json!("mismatch"), &json!("/orders"))
    );
    assert_eq!((&newer["found"], &newer["expected"]), (&json!("block-v2"), &json!("block-v1")));
    assert!(!codes(&report).contains(&"block-count"));
    replace(b"kho-v4\0", b"kho-v7\0");
    let report = json(1, &["check", handover.path()]);
    assert_eq!(codes(&report), ["version-newer"]);
    assert_eq!(report["findings"][0]["node"], "/");
    // Its nodes are shown all the same.
    let decoded = json(1, &["dump", handover.path(), "--fdt", &root.to_string()]);
    assert_eq!(decoded["nodes"].as_array().unwrap().len(), 6);
}

/// The frozen machine with other bytes in place of the first ones of that kind, as a file.
fn changed(dir: &tempfile::TempDir, from: &[u8], to: &[u8]) -> String {
    let mut core = std::fs::read(frozen()).unwrap();
    let at = core.windows(from.len()).position(|part| part == from).unwrap();
    core[at..at + to.len()].copy_from_slice(to);
    let path = dir.path().join("changed.core");
    std::fs::write(&path, core).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn a_file_of_another_version_does_not_hide_its_session() {
    let dir = tempfile::tempdir().unwrap();
    let core = changed(&dir, b"memfd-v2", b"memfd-v3");
    let report = json(1, &["check", &core]);
    // Its pages have no owner then.
    assert_eq!(codes(&report), ["version-newer", "unowned"]);
    let newer = &report["findings"][0];
    assert_eq!(
        (&newer["node"], &newer["item"], &newer["class"]),
        (&json!("/LUO"), &json!("sessions[vm-session].files[0xabc].compatible"), &json!("mismatch"))
    );
    let shown = run(1, &["dump", &core]);
    assert!(shown.contains("token 0xabc: memfd-v3, not looked into: data 0x696000"), "{shown}");
    assert!(shown.contains("token 0x2: memfd of 195.3 KiB"), "{shown}");
}

#[test]
fn a_node_that_says_nothing_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let core = changed(&dir, b"LUO\0", b"LUX\0");
    let report = json(0, &["check", &core]);
    assert_eq!(codes(&report), ["component-opaque", "unowned"]);
    let text = "warning: /LUX: component-opaque: a node that does not say what it is";
    assert_eq!(report["findings"][0]["text"], text);
    assert!(run(0, &["check", &core]).contains(text));
}

#[test]
fn a_broken_root_is_a_problem() {
    let handover = Handover::new();
    let root = handover.decoded()["root"]["address"].as_u64().unwrap();
    // The offset of the structure block.
    handover.poke(root + 8, &[0xff; 4]);
    let report = json(1, &["check", handover.path()]);
    assert_eq!(codes(&report), ["fdt-header"]);
    assert_eq!(report["findings"][0]["address"], root);
    // Dump has nothing else to show, and agrees.
    assert_eq!(json(1, &["dump", handover.path()]), report);
    for format in ["tree", "dts"] {
        assert_eq!(run(1, &["dump", "--format", format, handover.path()]), run(1, &["check", handover.path()]));
    }
    assert!(run(1, &["dump", handover.path()]).contains("fdt-header: off_dt_struct"));
}

#[test]
fn a_tree_that_cannot_be_read_stops_the_rest() {
    let report = json(1, &["check", &frozen(), "--page-size", "64K"]);
    assert_eq!(codes(&report), ["unaligned", "stale"]);
    assert_eq!((&report["findings"][0]["address"], &report["findings"][0]["node"]), (&json!(0x45_2000), &json!("/")));
}

#[test]
fn what_could_not_be_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let core = std::fs::read(frozen()).unwrap();
    let cut = fixture("debugfs/before/out/fdt");
    let sub = fixture("debugfs/after/in/sub_fdts/kho_test");
    let luo = fixture("debugfs/after/in/sub_fdts/LUO");
    for (path, words) in [
        (dir.path().join("none").to_str().unwrap().to_owned(), "No such file"),
        (dir.path().to_str().unwrap().into(), "a directory"),
        (file("empty", b""), "truncated"),
        (file("garbage", &[0x5a; 8192]), "--base ADDR"),
        (file("header", &core[..100]), "truncated"),
        (file("half", &core[..core.len() / 2]), "truncated: segment["),
        (cut.to_str().unwrap().into(), "the size that it had at boot"),
        (sub.to_str().unwrap().into(), "not the root of a handover: its compatible is \"kho-test-v1\""),
        (luo.to_str().unwrap().into(), "not every file in debugfs"),
    ] {
        let error = run(2, &["check", &path]);
        assert!(error.contains(words) && error.contains(&path), "{words}: {error}");
    }
    // Memory without a handover, and addresses where none is.
    let blank = file("blank", &[0; 65536]);
    let error = run(2, &["check", &blank, "--base", "1M"]);
    assert!(error.contains("no-handover: found no root FDT in 65536 bytes"), "{error}");
    assert!(run(2, &["check", &frozen(), "--fdt", "0x449000"]).contains("no-handover: at 0x449000"));
    assert!(run(2, &["check", &frozen(), "--fdt", "1"]).contains("outside"));
    // Not what a size is.
    assert_eq!(common::kho(["check", &frozen(), "--page-size", "8K"]).status.code(), Some(2));
    assert_eq!(common::kho(["check", &frozen(), "--fdt", "here"]).status.code(), Some(2));
}

#[test]
fn an_arena_that_was_not_finished_or_was_cut() {
    let handover = Handover::new();
    let header =
        |offset: u64, value: u64| handover.poke(handover.bundle.arena().base().get() + offset, &value.to_le_bytes());
    header(40, 0);
    header(48, 0);
    let error = run(2, &["check", handover.path()]);
    assert!(error.contains("no-handover") && error.contains("has not finished"), "{error}");
    let handover = Handover::new();
    std::fs::File::options().write(true).open(&handover.path).unwrap().set_len(1 << 20).unwrap();
    let output = common::kho(["check", handover.path()]);
    assert_eq!(output.status.code(), Some(2), "{}", common::text(&output.stderr));
}

#[test]
fn of_several_roots_the_one_without_errors_is_taken() {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("frozen.json")).unwrap()).unwrap();
    let root = expected["fdt"].as_u64().unwrap();
    // A copy of the root in a page that comes earlier: not preserved, so that it has errors.
    let mut core = std::fs::read(frozen()).unwrap();
    let page = core.windows(4).position(|four| four == [0xd0, 0x0d, 0xfe, 0xed]).unwrap();
    let copy = core[page..page + 4096].to_vec();
    let word = |at: usize| u64::from_le_bytes(core[at..at + 8].try_into().unwrap());
    let headers = word(32) as usize;
    // One more segment, in the place of the note if there is one, else behind the others.
    let count = usize::from(u16::from_le_bytes([core[56], core[57]]));
    let mut table = core[headers..headers + 56 * count].to_vec();
    let mut segment = [0_u8; 56];
    segment[..4].copy_from_slice(&1_u32.to_le_bytes());
    let behind = core.len().next_multiple_of(4096);
    for (at, value) in [(8, behind as u64), (24, 0x10_0000), (32, 4096), (40, 4096)] {
        segment[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    table.extend_from_slice(&segment);
    core.resize(behind, 0);
    core.extend_from_slice(&copy);
    let place = core.len() as u64;
    core.extend_from_slice(&table);
    core[32..40].copy_from_slice(&place.to_le_bytes());
    core[56..58].copy_from_slice(&(count as u16 + 1).to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.core");
    std::fs::write(&path, core).unwrap();
    let path = path.to_str().unwrap();
    let decoded = json(0, &["dump", path]);
    assert_eq!((&decoded["root"]["address"], &decoded["errors"]), (&json!(root), &json!(0)));
    assert_eq!(decoded["candidates"], json!([{"address": 0x10_0000, "errors": 1}]));
    let shown = run(0, &["check", path]);
    assert!(shown.contains("another    0x100000, 1 error: not shown (--fdt 0x100000)"), "{shown}");
    run(1, &["check", path, "--fdt", "0x100000"]);
}
