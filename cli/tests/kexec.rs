//! `kho kexec`: what it says before anything is loaded. That kernels boot is tested in `tests/linux_kernels.rs`.

mod common;

use common::{fixture, kho};

/// The smallest file that is a bzImage: a setup header, and a kernel of nothing.
fn bzimage() -> tempfile::NamedTempFile {
    let mut bytes = vec![0; 0x800];
    let mut put = |at: usize, with: &[u8]| bytes[at..at + with.len()].copy_from_slice(with);
    put(0x1f1, &[1]);
    put(0x200, b"\xeb\x6aHdrS\x0f\x02");
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 0, 1, 0]);
    put(0x238, &0x7ff_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn what_is_no_kernel() {
    let output = kho(["kexec", "load", fixture("frozen.core").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = "magic: header at offset 0x202: found \"\\x00\\x00\\x06\\x00\", expected \"HdrS\", a bzImage\n";
    assert!(error.starts_with("kho: ") && error.ends_with(expected), "{error}");
}

/// Nothing is read that does not end, and nothing that no kernel can be.
#[test]
fn what_is_no_file() {
    let sparse = tempfile::NamedTempFile::new().unwrap();
    sparse.as_file().set_len(5 << 30).unwrap();
    let path = sparse.path().to_str().unwrap();
    let kernel = bzimage();
    for (args, says) in [
        (vec!["/dev/zero"], "/dev/zero: a device, not a file"),
        (vec![path], "larger than 4 GiB"),
        (vec![kernel.path().to_str().unwrap(), "--initrd", "/dev/zero"], "/dev/zero: a device, not a file"),
        (vec!["/"], "/: Is a directory"),
    ] {
        let output = kho([vec!["kexec", "load", "--dry-run"], args].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(error.starts_with("kho: ") && error.contains(says), "{error}");
    }
}

#[test]
fn a_handover_without_scratch_is_refused_by_name() {
    let (kernel, core) = (bzimage(), fixture("frozen.core"));
    let output = kho(["kexec", "load", kernel.path().to_str().unwrap(), "--handover", core.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--scratch <START+SIZE|DIR>"), "{error}");
}

/// The frozen machine has something at 0x448000.
#[test]
fn scratch_where_something_is_preserved() {
    let (kernel, core) = (bzimage(), fixture("frozen.core"));
    let args = ["--handover", core.to_str().unwrap(), "--scratch", "4MiB+4MiB", "--dry-run"];
    let output = kho([&["kexec", "load", kernel.path().to_str().unwrap()][..], &args].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("scratch-overlap") && output.stdout.is_empty(), "{error}");
}

/// Where everything would go in the memory of this machine, which only root is shown.
#[test]
fn a_dry_run_loads_nothing() {
    let kernel = bzimage();
    let output = kho(["kexec", "load", kernel.path().to_str().unwrap(), "--dry-run", "--format", "json"]);
    let error = String::from_utf8(output.stderr).unwrap();
    if output.status.code() == Some(2) {
        assert!(error.contains("System RAM"), "{error}");
        return;
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let segments = report["segments"].as_array().unwrap();
    let [pages, kernel] = segments.as_slice() else { panic!("{report}") };
    assert_eq!(report["entry"], pages["address"]);
    assert_eq!((&kernel["size"], &kernel["bytes"]), (&0x1000.into(), &0x400.into()));
    assert!(kernel["address"].as_u64().unwrap() >= 0x100_0000 && pages["address"].as_u64().unwrap() >= 0x10_0000);
}

/// The kernel would lose it and say nothing.
#[test]
fn a_kernel_that_is_not_told_to_take_handovers() {
    let (kernel, core) = (bzimage(), fixture("frozen.core"));
    let load = |line: &str, more: &[&str]| {
        let args = ["--handover", core.to_str().unwrap(), "--scratch", "0x4800000+48MiB", "--command-line", line];
        let output = kho([&["kexec", "load", kernel.path().to_str().unwrap(), "--dry-run"], &args[..], more].concat());
        String::from_utf8(output.stderr).unwrap()
    };
    for (line, missing) in [("", "kho=on"), ("kho=off liveupdate=on", "kho=on"), ("kho=on", "liveupdate=on")] {
        let error = load(line, &[]);
        assert!(error.starts_with(&format!("kho: the command line has no {missing}, without which")), "{error}");
    }
    for error in
        [load("kho=on liveupdate=on", &[]), load("kho=off kho=1 liveupdate=on", &[]), load("", &["--on-by-default"])]
    {
        assert!(!error.contains("the command line has no"), "{error}");
    }
}
