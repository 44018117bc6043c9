//! The built command, as a user runs it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kho::fdt::Fdt;
use kho::mem::Arena;

fn kho(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kho")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// What it says on standard output, when it succeeds and says nothing else.
#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let output = kho(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// What it says on standard error, when it fails with that code and says nothing else.
#[track_caller]
fn fails(code: i32, args: &[&str]) -> String {
    let output = kho(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &[][..]), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

/// Node, what it is made of, bytes as the demo prints them.
const NODES: [(&str, &str, &str); 6] = [
    ("files", "kho-files-v1, block-v1", "8 MiB"),
    ("memfd", "memfd-v2, vmalloc-v1", "16 MiB"),
    ("kho_test", "kho-test-v1, vmalloc-v1", ""),
    ("table", "demo-table-v1, block-v1, kho-records-v1", "1.5 MiB"),
    ("array", "demo-array-v1, kho-array-v1, vmalloc-v1", "64 MiB"),
    ("ledger", "demo-ledger-v1", "168 B"),
];

#[test]
fn every_row_of_the_table_is_the_same() {
    let text = succeeds(&["demo", "--size", "8MiB"]);
    let (table, times) = text.split_once("\n\n").unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), NODES.len() + 1, "{text}");
    assert_eq!(rows[0].split_whitespace().collect::<Vec<_>>(), ["node", "compatible", "what", "bytes", "verdict"]);
    for (row, (node, compatible, bytes)) in rows[1..].iter().zip(NODES) {
        assert!(row.starts_with(node) && row.contains(compatible) && row.contains(bytes), "{row}");
        assert!(row.ends_with("  same"), "{row}");
    }
    for line in ["freeze -> exec", "exec -> accepted", "accepted -> restored", "blackout", "metadata written"] {
        assert!(times.lines().any(|other| other.starts_with(line)), "{line} in {times}");
    }
    // No terminal: no colour, no bar.
    assert!(!text.contains(['\x1b', '\r']));
}

#[test]
fn json_says_the_same() {
    let report: serde_json::Value =
        serde_json::from_str(&succeeds(&["demo", "--size", "8MiB", "--format", "json"])).unwrap();
    let nodes = report["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), NODES.len());
    for (node, (name, compatible, _)) in nodes.iter().zip(NODES) {
        assert_eq!(node["node"], name);
        assert_eq!(node["compatible"], serde_json::json!(compatible.split(", ").collect::<Vec<_>>()));
        assert!(node["wrong"].is_null() && node["bytes"].as_u64() > Some(0) && node["what"].is_string(), "{node}");
    }
    assert_eq!(nodes[0]["bytes"], 8 << 20);
    let phases = report["phases_ns"].as_object().unwrap();
    let time = |name: &str| phases[name].as_u64().unwrap();
    assert_eq!(phases.len(), 5);
    assert!(phases.values().all(|time| time.as_u64() > Some(0)), "{phases:?}");
    assert_eq!(time("blackout"), time("exec_to_accepted") + time("accepted_to_restored"));
    assert!(time("exec_to_main") < time("exec_to_accepted"));
    assert!(report["metadata"].as_u64().unwrap() > 100_000 * 16, "the table alone");
    assert!(report["kept"].is_null());
}

/// Runs dtc; none, told aloud, where there is no dtc and `KHO_REQUIRE` does not ask for it.
fn dtc(from: &str, to: &str, file: &Path) -> Option<Vec<u8>> {
    match Command::new("dtc").args(["-I", from, "-O", to]).arg(file).stdin(Stdio::null()).output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && told.is_empty(), "dtc: {told}");
            Some(output.stdout)
        }
        Err(error) => {
            let required = std::env::var("KHO_REQUIRE").is_ok_and(|list| list.split(',').any(|tool| tool == "dtc"));
            assert!(!required, "dtc is required: {error}");
            eprintln!("needs dtc (apt-get install device-tree-compiler)");
            None
        }
    }
}

fn hash(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut File::open(path).unwrap(), &mut hasher).unwrap();
    hasher.finalize()
}

#[test]
fn what_is_kept_is_what_was_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let keep = dir.path().join("a/b");
    let text = succeeds(&["demo", "--size", "9000KiB", "--keep", keep.to_str().unwrap()]);
    assert!(
        text.ends_with(&format!(
            "kept in {}: handover.dtb, handover.dts, arena.img, memfd.img, files/\n",
            keep.display()
        ))
    );
    let mut names: Vec<_> = std::fs::read_dir(&keep).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["arena.img", "files", "handover.dtb", "handover.dts", "memfd.img"]);
    assert_eq!(std::fs::read_dir(keep.join("files")).unwrap().count(), 1);

    let dtb = std::fs::read(keep.join("handover.dtb")).unwrap();
    let fdt = Fdt::parse(&dtb).unwrap();
    let children: Vec<_> =
        fdt.root().children().map(|node| String::from_utf8_lossy(node.name()).into_owned()).collect();
    for (node, ..) in NODES {
        assert!(children.iter().any(|child| child == node), "{node} in {children:?}");
    }
    let node = |name| fdt.root().child(name).unwrap();

    // The arena as the predecessor left it, holes included: the root is where the header says, the ledger where the
    // root says, and the ledger has the hashes of what is beside it.
    let arena = File::open(keep.join("arena.img")).unwrap();
    let read = |at: u64, len: u64| {
        let mut bytes = vec![0; len as usize];
        arena.read_exact_at(&mut bytes, at).unwrap();
        bytes
    };
    let word = |at: u64| u64::from_le_bytes(read(at, 8).try_into().unwrap());
    assert_eq!((read(0, 8).as_slice(), arena.metadata().unwrap().len()), (b"\x7fKHOARN\n".as_slice(), 1 << 30));
    assert!(arena.metadata().unwrap().blocks() * 512 < 200 << 20, "holes stay holes");
    let (base, root) = (word(24), (word(40), word(48)));
    let bytes = |at: u64, len: u64| read(at - base, len);
    assert_eq!((base, bytes(root.0, root.1)), (Arena::BASE, dtb.clone()));
    let property = |name| node("ledger").property(name).unwrap().u64_native().unwrap();
    let ledger = bytes(property("preserved-data"), property("blob-size"));
    let ram = keep.join("files/1");
    assert_eq!(std::fs::metadata(&ram).unwrap().len(), 9000 << 10);
    assert_eq!(hash(&ram).as_bytes(), &ledger[8..40]);
    let memfd = keep.join("memfd.img");
    assert_eq!(std::fs::metadata(&memfd).unwrap().len(), 16 << 20);
    assert_eq!(hash(&memfd).as_bytes(), &ledger[40..72]);

    let dts = std::fs::read_to_string(keep.join("handover.dts")).unwrap();
    assert!(dts.starts_with("/dts-v1/;\n"), "{dts}");
    for says in ["compatible = \"kho-v4\"", "kho_test {", "demo-array-v1"] {
        assert!(dts.contains(says), "{says} in {dts}");
    }
    let Some(_) = dtc("dtb", "dts", &keep.join("handover.dtb")) else { return };
    let again = dtc("dts", "dtb", &keep.join("handover.dts")).unwrap();
    // Not the same bytes: dtc orders the strings in its own way. The same tree.
    let print = |bytes: &[u8]| {
        let mut text = String::new();
        kho::fdt::dts::print(&Fdt::parse(bytes).unwrap(), &mut text).unwrap();
        text
    };
    assert_eq!(print(&again), dts);
    assert_eq!(print(&dtb), dts);
}

#[test]
fn no_bytes_at_all_are_handed_over_too() {
    let text = succeeds(&["demo", "--size", "0"]);
    let row = text.lines().find(|line| line.starts_with("files")).unwrap();
    assert!(row.contains(" 0 B  same"), "{row}");
}

#[test]
fn bad_arguments_are_told_with_exit_code_2() {
    for (size, says) in [
        ("", "neither a size, as 1GiB or 4096, nor an address, as 0xa000000"),
        ("lots", "lots: neither a size, as 1GiB or 4096, nor an address, as 0xa000000"),
        ("1.5GiB", "1.5GiB: a unit is one of B, KiB, MiB, GiB, TiB (or K, M, G, T)"),
        ("1EiB", "1EiB: a unit is one of"),
        ("99999999999999999999", "neither a size"),
        ("16777216T", "16777216T: too large"),
    ] {
        let told = fails(2, &["demo", "--size", size]);
        assert!(told.contains("--size <SIZE>") && told.contains(says), "{size}: {told}");
    }
    assert!(fails(2, &["demo", "--format", "xml"]).contains("possible values: text, json"));
    assert!(fails(2, &["demo", "more"]).contains("unexpected argument 'more'"));
}

#[test]
fn a_size_beyond_the_memory_is_refused_before_it_is_filled() {
    // The limit on files is for a demo that would try it nevertheless: that ends the demo, and not the machine.
    let script = "ulimit -f 8388608; exec \"$0\" demo --size 16TiB";
    let output = Command::new("/bin/sh").args(["-c", script, env!("CARGO_BIN_EXE_kho")]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.starts_with("kho: --size: the demo would need 16.0 TiB of memory, and ")
            && told.ends_with(" are available\n"),
        "{told}"
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let inside = file.join("out");
    for keep in [file.to_str().unwrap(), inside.to_str().unwrap(), "/proc/kho"] {
        let told = fails(2, &["demo", "--size", "1MiB", "--keep", keep]);
        assert!(told.starts_with(&format!("kho: {keep}")), "{told}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for args in [&["demo", "--size", "1MiB"][..], &["man"], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_kho")).args(args).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
    // A full disk is one.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kho")).arg("man").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"), "{output:?}");
}

#[test]
fn completions_are_scripts() {
    let script = succeeds(&["completions", "bash"]);
    assert!(script.contains("--keep") && script.contains("complete -F _kho"));
    if let Ok(mut bash) = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn() {
        bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(bash.wait().unwrap().success());
    }
    for shell in ["elvish", "fish", "powershell", "zsh"] {
        assert!(succeeds(&["completions", shell]).contains("kho"), "{shell}");
    }
    assert!(fails(2, &["completions", "tcsh"]).contains("[possible values: bash, elvish, fish, powershell, zsh]"));
}

#[test]
fn man_pages_for_all_commands() {
    let page = succeeds(&["man"]);
    assert!(page.contains(".TH kho 1") && page.contains("Exit codes"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    succeeds(&["man", "--out", dir.path().join("new").to_str().unwrap()]);
    let mut page = String::new();
    File::open(dir.path().join("new/kho-demo.1")).unwrap().read_to_string(&mut page).unwrap();
    assert!(page.contains(r"\-\-keep"), "{page}");
}
