//! `kho manifest`, and `kho plan` against programs. The program is `kho` itself: its demo has a manifest.

mod common;

use common::{Handover, fixture, json, run};
use kho::compat::{Compat, CompatList};
use kho::handover::Outgoing;
use kho::payload::Bytes;
use kho::transport::Bundle;

const KHO: &str = env!("CARGO_BIN_EXE_kho");

/// A program whose manifest was changed in its file.
fn changed(changes: &[(&[u8], &[u8])]) -> tempfile::NamedTempFile {
    let mut bytes = std::fs::read(KHO).unwrap();
    // Right behind the name and type of the note.
    let note = b"\x01\0\0\0kho\0\x01\0\0\0\x0c\0\0\0";
    let at = bytes.windows(note.len()).position(|bytes| bytes == note).unwrap();
    for (from, to) in changes {
        assert_eq!(from.len(), to.len());
        let rest = &mut bytes[at..];
        let here = rest.windows(from.len()).position(|bytes| bytes == *from).unwrap();
        rest[here..here + to.len()].copy_from_slice(to);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn a_program_says_what_it_reads_and_writes() {
    let shown = run(0, &["manifest", KHO]);
    assert!(
        shown.contains("\nreads   table      demo-table-v1, using block-v1, kho-records-v1, optional\n"),
        "{shown}"
    );
    assert!(shown.contains("\nwrites  memfd      memfd-v2, using vmalloc-v1\n"), "{shown}");
    assert!(shown.contains("\nreads   (layouts)  kho-v4, radix-v1, vmalloc-v1, block-v1\n"), "{shown}");
    assert!(
        shown.ends_with(
            ".liveupdate_versions: kho-files-v1, memfd-v2, kho-test-v1, demo-table-v1, demo-array-v1, demo-ledger-v1, \
             serve-store-v1, kho-state-v1\n"
        ),
        "{shown}"
    );
    let report = json(0, &["manifest", KHO]);
    let schema = serde_json::from_str(&run(0, &["schema", "manifest"])).unwrap();
    jsonschema::validate(&schema, &report).unwrap();
    assert_eq!(report["note"], 1);
    // It has two demos, and what the one leaves the other does not.
    let array = |required: bool| {
        serde_json::json!({
            "node": "array", "made_of": "demo-array-v1;kho-array-v1;vmalloc-v1", "oldest": 1, "required": required
        })
    };
    assert_eq!((&report["reads"][0], &report["writes"][0]), (&array(false), &array(true)));
    // The same by the other name, which also takes kernels.
    assert!(run(0, &["understands", KHO]).contains("reads   ledger     demo-ledger-v1, optional\n"));
}

#[test]
fn files_without_a_manifest_or_with_a_broken_one() {
    let shown = run(2, &["manifest", "/nowhere"]);
    assert!(shown.starts_with("kho: /nowhere: "), "{shown}");
    let shown = run(2, &["manifest", fixture("frozen.json").to_str().unwrap()]);
    assert!(shown.contains("magic: ELF") && shown.contains("expected a 64-bit ELF file"), "{shown}");
    let none = common::kho(["manifest", "/bin/true"]);
    assert_eq!((none.status.code(), none.stdout.len()), (Some(1), 0));
    let says = "kho: /bin/true: has no manifest: kho::manifest! puts one into a program\n";
    assert_eq!(common::text(&none.stderr), says);
    let future = changed(&[(b"\x01\0\0\0\x0c\0\0\0", b"\x07\0\0\0\x0c\0\0\0")]);
    let shown = run(2, &["manifest", future.path().to_str().unwrap()]);
    assert!(shown.contains("version-newer: version: found kho-manifest-v7, expected kho-manifest-v1"), "{shown}");
    // A name that would drive the terminal is none that a node can have.
    let red = changed(&[(b"ledger", b"\x1b[31mx")]);
    let shown = run(2, &["manifest", red.path().to_str().unwrap()]);
    assert!(shown.contains("found \"\\x1b[31mx\", expected a letter") && !shown.contains('\u{1b}'), "{shown}");
    let broken = changed(&[(b"demo-ledger-v1", b"demo-ledger-vx")]);
    let shown = run(2, &["manifest", broken.path().to_str().unwrap()]);
    assert!(shown.contains("compat-syntax: entries["), "{shown}");
}

#[test]
fn plans_against_programs() {
    let out = tempfile::tempdir().unwrap();
    run(0, &["demo", "--size", "1MiB", "--keep", out.path().to_str().unwrap()]);
    let arena = out.path().join("arena.img");
    let arena = arena.to_str().unwrap();
    let shown = run(0, &["plan", arena, "--against", KHO]);
    assert!(shown.starts_with("successor  ") && shown.contains("a program, by its manifest: reads 8 nodes"), "{shown}");
    assert!(shown.ends_with(": go\n"), "{shown}");
    let report = json(0, &["plan", arena, "--against", KHO]);
    let schema = serde_json::from_str(&run(0, &["schema", "plan"])).unwrap();
    jsonschema::validate(&schema, &report).unwrap();
    assert_eq!((&report["answer"], &report["lines"][1]["by"]), (&"go".into(), &"manifest".into()));

    // A successor that reads a range, as the entry's oldest version stays 1.
    let newer = changed(&[(b"demo-array-v1", b"demo-array-v3")]);
    let shown = run(0, &["plan", arena, "--against", newer.path().to_str().unwrap()]);
    assert!(shown.contains("reads demo-array-v1..=v3\n"), "{shown}");
    let other = changed(&[(b"demo-array-v1;kho-array-v1", b"demo-array-v1;kho-array-v2")]);
    let shown = run(1, &["plan", arena, "--against", other.path().to_str().unwrap()]);
    let why = "    why   version-older: compatible: found kho-array-v1, expected kho-array-v2\n";
    assert!(shown.contains(why) && shown.ends_with(": refused\n"), "{shown}");

    // From what a program would write, in the version that the other one reads.
    let shown = run(0, &["plan", KHO, "--against", KHO]);
    assert!(
        shown.contains("versions are those that would be written for this successor") && shown.ends_with(": go\n"),
        "{shown}"
    );

    // A pinned profile of a program.
    let pinned = tempfile::NamedTempFile::new().unwrap();
    let mut profile = json(0, &["understands", KHO]);
    std::fs::write(pinned.path(), profile.to_string()).unwrap();
    let against = pinned.path().to_str().unwrap();
    assert!(run(0, &["plan", arena, "--against", against]).ends_with(": go\n"));
    let reads = profile["program"]["reads"].as_array_mut().unwrap();
    let ledger = reads.iter_mut().find(|term| term["node"] == "ledger").unwrap();
    (ledger["made_of"], ledger["oldest"]) = ("demo-ledger-v3".into(), 2.into());
    std::fs::write(pinned.path(), profile.to_string()).unwrap();
    let shown = run(1, &["plan", arena, "--against", against]);
    assert!(shown.contains("version-older: compatible: found demo-ledger-v1, expected demo-ledger-v2..=v3"), "{shown}");
    assert!(shown.contains("    then  the program refuses the whole handover at its door"), "{shown}");
    let report = json(1, &["plan", arena, "--against", against]);
    let line = report["lines"].as_array().unwrap().iter().find(|line| line["node"] == "/ledger").unwrap();
    assert_eq!(
        (&line["verdict"], &line["code"], &line["consequence"]),
        (&"refused".into(), &"version-older".into(), &"successor-refuses".into())
    );
    let text = profile.to_string().replace("\"oldest\":2", "\"oldest\":9");
    std::fs::write(pinned.path(), text).unwrap();
    let shown = run(2, &["plan", arena, "--against", against]);
    assert!(shown.contains("oldest: found 9, expected at most 3"), "{shown}");
}

#[test]
fn what_a_program_does_not_know() {
    const ODD: CompatList<'static> = CompatList::new(Compat::new("odd-thing", 1), &[]);
    let mut outgoing = Outgoing::new(Bundle::new(16 << 20).unwrap());
    outgoing.preserve("odd", &Bytes { made_of: ODD, bytes: b"?" }).unwrap();
    let handover = Handover::of(outgoing, Vec::new());
    let shown = run(1, &["plan", handover.path(), "--against", KHO]);
    assert!(shown.contains("component-unknown: compatible: odd-thing-v1"), "{shown}");
    // One that cannot do without a node.
    let pinned = tempfile::NamedTempFile::new().unwrap();
    let mut profile = json(0, &["understands", KHO]);
    let reads = profile["program"]["reads"].as_array_mut().unwrap();
    reads.iter_mut().find(|term| term["node"] == "memfd").unwrap()["required"] = true.into();
    std::fs::write(pinned.path(), profile.to_string()).unwrap();
    let shown = run(1, &["plan", handover.path(), "--against", pinned.path().to_str().unwrap()]);
    assert!(shown.contains("component-missing: expected memfd-v2"), "{shown}");
    // A kernel's handover means nothing to it.
    let frozen = fixture("frozen.core");
    let shown = run(1, &["plan", frozen.to_str().unwrap(), "--against", KHO]);
    assert!(shown.contains("a node that does not say what it is"), "{shown}");
    assert!(shown.contains("reads kho-test-v1"), "what says itself what it is: {shown}");
}
