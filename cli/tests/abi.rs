//! `kho abi`, on small kernels of structures alone, compiled with BTF.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{json, run, text};

/// An object file of `common/kernel.c` with these macros; none without a gcc that knows BTF.
fn kernel(dir: &Path, name: &str, macros: &[&str]) -> Option<PathBuf> {
    let object = dir.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/kernel.c");
    let gcc = Command::new("gcc").args(["-gbtf", "-c", "-o"]).arg(&object).args(macros).arg(source).output();
    if let Ok(output) = &gcc
        && output.status.success()
    {
        return Some(object);
    }
    let required = std::env::var("KHO_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|tool| tool == "gcc"), "needs gcc 12 or later (apt-get install gcc): {gcc:?}");
    println!("needs gcc 12 or later (apt-get install gcc)");
    None
}

fn compare(code: i32, new: &Path, old: &str) -> String {
    run(code, &["abi", new.to_str().unwrap(), "--against", old])
}

#[test]
fn structures_as_ours_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let Some(same) = kernel(dir.path(), "same.o", &["-DMEMFD=\"memfd-v2\""]) else { return };
    assert_eq!(compare(0, &same, "lock"), "same\n");
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../abi.lock");
    assert_eq!(compare(0, &same, lock.to_str().unwrap()), "same\n");
    assert_eq!(run(0, &["abi", lock.to_str().unwrap(), "--against", "lock"]), "same\n");
    let shown = run(0, &["abi", same.to_str().unwrap()]);
    assert!(
        shown.contains("  struct memfd_luo_folio_ser: 16 bytes\n    0 +8 pfn:52|flags:12: U64\n    8 +8 index: U64\n"),
        "{shown}"
    );
    assert!(shown.contains("\nluo-v5\n") && shown.contains("    64 +8 file_set_ser.files: U64\n"), "{shown}");

    // BTF alone: the same, and no versions.
    let raw = dir.path().join("raw.btf");
    let section = format!(".BTF={}", raw.display());
    let copied = Command::new("objcopy").arg("--dump-section").arg(section).arg(&same).arg("/dev/null").output();
    assert!(copied.as_ref().is_ok_and(|output| output.status.success()), "{copied:?}");
    assert_eq!(compare(0, &raw, "lock"), "same\n");
    assert!(run(0, &["abi", raw.to_str().unwrap()]).contains("\nluo\n"));
    assert_eq!(compare(0, &raw, same.to_str().unwrap()), "same\n");
}

#[test]
fn a_moved_field_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Some(moved) = kernel(dir.path(), "moved.o", &["-DMEMFD=\"memfd-v2\"", "-DMOVED"]) else { return };
    let expected = "\
memfd (v2): error: an ABI change without a new version
  memfd_luo_ser.size: moved 8 -> 16
  memfd_luo_ser.seals: moved 16 -> 8
  memfd_luo_ser.flags: moved 20 -> 12
different
";
    assert_eq!(compare(1, &moved, "lock"), expected);
    let same = kernel(dir.path(), "same.o", &["-DMEMFD=\"memfd-v2\""]).unwrap();
    assert_eq!(compare(1, &moved, same.to_str().unwrap()), expected);
    let report = json(1, &["abi", moved.to_str().unwrap(), "--against", "lock"]);
    assert_eq!(report["verdict"], "different");
    let memfd = &report["components"][0];
    assert_eq!((memfd["version"].as_str(), memfd["new_version"].as_u64()), (Some("unbumped"), Some(2)));
    assert_eq!(
        memfd["differences"][0],
        serde_json::json!({"item": "memfd_luo_ser.size", "how": "moved", "old": "8", "new": "16"})
    );
}

#[test]
fn a_new_version_is_different_and_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let Some(next) = kernel(dir.path(), "next.o", &["-DMEMFD=\"memfd-v3\"", "-DBITS"]) else { return };
    let said = compare(1, &next, "lock");
    let expected = "\
memfd (v2 -> v3): a new version
  memfd_luo_folio_ser.pfn_flags: renamed pfn_flags -> pfn:50|flags:14
different
";
    assert_eq!(said, expected);
    // Without strings nobody can tell.
    let mute = kernel(dir.path(), "mute.o", &["-DBITS"]).unwrap();
    assert!(
        compare(1, &mute, "lock").starts_with(
            "memfd (v2, and the new one does not say): changed; an error, unless its version was raised\n"
        )
    );
}

#[test]
fn structures_that_are_not_known_are_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let Some(more) = kernel(dir.path(), "more.o", &["-DUNKNOWN"]) else { return };
    assert_eq!(compare(0, &more, "lock"), "struct vfio_luo_ser: not known here\nsame\n");
    let shown = json(0, &["abi", more.to_str().unwrap()]);
    assert_eq!(shown["unknown"], serde_json::json!(["vfio_luo_ser"]));
}

#[test]
fn what_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let said = |path: &str| run(2, &["abi", path]);
    assert!(said("/nowhere").contains("No such file"));
    assert!(said(&file("gz", b"\x1f\x8b\x08\0")).contains("a compressed kernel has to be unpacked first"));
    assert!(said(&file("short", b"\x9f\xeb\x01\0")).contains("its BTF cannot be read"));
    assert!(said(&file("elf", b"\x7fELF\x02\x01\x01")).contains("a broken ELF file"));
    assert!(said(&file("text", b"a text\n  of mine\n")).contains("no lock: line 2"));
    assert!(said(env!("CARGO_BIN_EXE_kho")).contains("an ELF file without .BTF"));
}

#[test]
fn the_running_kernel_if_it_says() {
    let path = "/sys/kernel/btf/vmlinux";
    if !Path::new(path).exists() {
        println!("needs a kernel with /sys/kernel/btf/vmlinux");
        return;
    }
    let output = common::kho(["abi", path, "--against", "lock"]);
    // Any kernel may be here: that it is read, and that reading ends, is what counts.
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.code().is_some_and(|code| code < 2) || said.contains("no structure that is handed over"),
        "{said}"
    );
}
