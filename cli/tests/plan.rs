//! `kho plan` and `kho understands`: exit codes, what is printed, and that nothing of an image drives the terminal.

mod common;

use common::{fixture, json, run};

/// An image for x86-64 that is nothing but a header, these strings and a banner.
fn image(strings: &str) -> tempfile::NamedTempFile {
    let mut header = vec![0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (header[16], header[18], header[20], header[52]) = (2, 62, 1, 64);
    made(header, strings)
}

/// The same for arm64.
fn arm64(strings: &str) -> tempfile::NamedTempFile {
    let mut header = vec![0; 64];
    header[0x38..0x3c].copy_from_slice(b"ARM\x64");
    header[0x18] = 0b10;
    made(header, strings)
}

fn made(mut bytes: Vec<u8>, strings: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    bytes.extend_from_slice(b"\0Linux version 9.9 \x1b[31m(red)\n\0");
    strings.split(' ').for_each(|text| bytes.extend([text.as_bytes(), b"\0"].concat()));
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn schema_takes(name: &str, value: &serde_json::Value) {
    let schema = serde_json::from_str(&run(0, &["schema", name])).unwrap();
    jsonschema::validate(&schema, value).unwrap();
}

const ALL: &str = "kho-v4 luo-v5 memfd-v2 memblock-v1 kho-test-v1 kexec-metadata";

#[test]
fn go_refused_and_cannot_be_told() {
    let frozen = fixture("frozen.core");
    let frozen = frozen.to_str().unwrap();
    let next = image(ALL);
    let args = |image: &tempfile::NamedTempFile| {
        ["plan", frozen, "--against", image.path().to_str().unwrap()].map(String::from).to_vec()
    };
    let plan = |code: i32, strings: &str| {
        let image = image(strings);
        let args = args(&image);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        (run(code, &args), json(code, &args))
    };
    let (shown, report) = plan(0, ALL);
    assert!(shown.ends_with(": go\n") && shown.contains("Linux version 9.9") && !shown.contains('\u{1b}'), "{shown}");
    assert_eq!((&report["answer"], &report["lines"][0]["by"]), (&"go".into(), &"strings".into()));
    schema_takes("plan", &report);

    let (shown, report) = plan(1, &ALL.replace("luo-v5", "luo-v6"));
    assert!(shown.contains("version-older: found luo-v5, expected luo-v6"), "{shown}");
    assert!(shown.contains("the next kernel panics") && shown.ends_with(": refused\n"), "{shown}");
    let lines = report["lines"].as_array().unwrap();
    let luo = lines.iter().find(|line| line["component"] == "luo-v5").unwrap();
    assert_eq!(
        (&luo["verdict"], &luo["code"], &luo["consequence"]),
        (&"refused".into(), &"version-older".into(), &"panic".into())
    );
    schema_takes("plan", &report);
    let (shown, _) = plan(1, &ALL.replace("kho-v4", "kho-v5"));
    assert!(
        shown.contains("all preserved memory is lost")
            && shown.contains("not reached: 8 components, because of the above"),
        "{shown}"
    );

    // Another architecture, and all that it reads.
    let other = arm64(ALL);
    let args = args(&other);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let shown = run(1, &args);
    assert!(shown.contains("why   machine: found x86-64, expected arm64\n"), "{shown}");
    assert!(shown.contains("    do    do not go: choose a kernel of the same architecture"), "{shown}");
    assert!(shown.ends_with(": refused\n") && shown.matches("refused  ").count() == 1, "{shown}");
    let report = json(1, &args);
    let line = &report["lines"][0];
    assert_eq!((&line["code"], &line["consequence"]), (&"machine".into(), &"misread".into()));
    assert_eq!((&line["by"], &report["successor"]["machine"]), (&"header".into(), &"arm64".into()));
    schema_takes("plan", &report);

    // A kernel against a kernel, and what is required.
    let path = next.path().to_str().unwrap();
    assert!(run(0, &["plan", path, "--against", path]).ends_with(": go\n"));
    let poor = image(&ALL.replace("memblock-v1", "x"));
    let poor = poor.path().to_str().unwrap();
    assert!(run(0, &["plan", frozen, "--against", poor]).ends_with("go, 1 will be dropped\n"));
    assert!(run(1, &["plan", frozen, "--require", "memblock", "--against", poor]).contains("allocates the reserved"));
    let modules = image(&format!("{ALL} vfio-pci-v1"));
    let modules = modules.path().to_str().unwrap();
    let output = common::kho(["plan", modules, "--against", path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(common::text(&output.stdout).ends_with(": cannot be told\n"));
    let shown = run(1, &["plan", frozen, "--require", "memblock", "--against", poor]);
    assert!(shown.contains("; and it is required\n"), "{shown}");
    assert!(shown.contains("    do    choose a successor that reads it, or do without\n"), "{shown}");
    let shown = run(2, &["plan", frozen, "--require", "memblok", "--against", poor]);
    assert_eq!(shown, "kho: --require memblok: no node or component of the handover has that name\n");
    let shown = run(2, &["plan", frozen, "--against", "/bin/true"]);
    assert!(shown.contains("successor-silent: program: found a program without a manifest"), "{shown}");
    // What is none.
    assert!(run(2, &["plan", frozen, "--against", frozen]).contains("file-kind"));
    assert!(run(2, &["plan", frozen, "--against", "/nowhere"]).contains("/nowhere: "));
}

/// The machine of the test may be any: what the guests of `tests/linux_kernels.rs` export is held against every word.
#[test]
fn the_kernel_that_runs() {
    let output = common::kho(["understands", "running"]);
    let (shown, errors) = (common::text(&output.stdout), common::text(&output.stderr));
    match output.status.code() {
        Some(0) => assert!(shown.contains("image      running kernel\n"), "{shown}"),
        Some(2) => {
            let why =
                ["successor-silent: ", "io: "].iter().any(|code| errors.contains(&format!("kho: running: {code}")));
            assert!(why && shown.is_empty(), "{errors}");
        }
        other => panic!("{other:?}: {shown}{errors}"),
    }
    // A file of that name is meant with its folder.
    assert!(run(2, &["understands", "./running"]).starts_with("kho: ./running: "));
}

#[test]
fn a_profile_is_printed_and_pinned() {
    let next = image(ALL);
    let path = next.path().to_str().unwrap();
    let shown = run(0, &["understands", path]);
    assert!(shown.contains("\\u{1b}[31m(red)") && !shown.contains("\u{1b}[31m(red)"), "{shown}");
    assert!(
        shown.contains("a string, heuristic")
            && shown.contains("page size  4 KiB (header)\nmachine    x86-64 (header)"),
        "{shown}"
    );
    let profile = json(0, &["understands", path]);
    schema_takes("understands", &profile);
    let pinned = tempfile::NamedTempFile::new().unwrap();
    let frozen = fixture("frozen.core");
    let args = ["plan", frozen.to_str().unwrap(), "--against", pinned.path().to_str().unwrap()];
    std::fs::write(pinned.path(), profile.to_string()).unwrap();
    assert!(run(0, &args).ends_with(": go\n"));
    std::fs::write(pinned.path(), profile.to_string().replace("memfd-v2", "memfd-v9")).unwrap();
    assert!(run(1, &args).contains("EIO"));
    std::fs::write(pinned.path(), r#"{"profile": 7}"#).unwrap();
    assert!(run(2, &args).contains("version-newer"));
    std::fs::write(pinned.path(), "{ no").unwrap();
    assert!(run(2, &args).contains("not a profile"));
}
