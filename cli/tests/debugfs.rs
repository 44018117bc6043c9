//! Copies of `/sys/kernel/debug/kho`, and their traps.

mod common;

use common::{fixture, json, kho, node, run};
use kho::inspect::FoundBy;
use serde_json::{Value, json};

fn debugfs(dir: &str) -> (String, Value) {
    let path = fixture(&format!("debugfs/{dir}"));
    (run(0, &["dump", path.to_str().unwrap()]), json(0, &["dump", path.to_str().unwrap()]))
}

fn codes(decoded: &Value) -> Vec<(&str, &str)> {
    let findings = decoded["findings"].as_array().unwrap();
    findings.iter().map(|finding| (finding["code"].as_str().unwrap(), finding["node"].as_str().unwrap())).collect()
}

#[test]
fn debugfs_before_the_kexec() {
    let (shown, decoded) = debugfs("before");
    assert_eq!(decoded["source"]["kind"], "debugfs");
    // 233 bytes of 405: two nodes, and the name of a third.
    assert_eq!(codes(&decoded), [("partial", "/out/fdt")]);
    assert_eq!((&decoded["findings"][0]["found"], &decoded["root"]["size"]), (&json!("233 bytes"), &json!(405)));
    assert_eq!(decoded["root"]["preserved_memory_map"], 0x45_2000);
    assert_eq!(node(&decoded, "out/LUO")["blob"], json!({"address": 0x66_8000, "size": 32}));
    assert_eq!(node(&decoded, "out/kho_test")["blob"], Value::Null, "cut");
    assert_eq!(
        node(&decoded, "out/kho_test")["content"],
        json!({
            "kind": "kho-test-head", "csum": 3_576_354_709_u32, "folios": 1, "first": 0x4a_1000,
        })
    );
    assert_eq!(node(&decoded, "out/memblock")["content"]["ranges"][0]["address"], 0x790_0000);
    assert_eq!(node(&decoded, "out/kexec-metadata")["content"]["previous_release"], "7.2.13");
    // The head is there, and no session before the machine freezes.
    assert_eq!(
        node(&decoded, "out/LUO")["content"],
        json!({"kind": "luo-head", "number": 1, "sessions": 0, "flbs": 0x66_7000})
    );
    assert!(shown.contains("Linux writes its sessions when it freezes, at the end"), "{shown}");
    let area = |address: u64, size: u64| json!({"address": address, "size": size});
    assert_eq!(
        decoded["scratch"],
        json!([area(0x680_0000, 16 << 20), area(0x480_0000, 32 << 20), area(0x7c0_0000, 0)])
    );
}

#[test]
fn debugfs_after_the_kexec() {
    let (shown, decoded) = debugfs("after");
    assert_eq!(codes(&decoded), [("stale", "/in/LUO"), ("partial", "/out/fdt")]);
    assert!(shown.contains("which the kernel has read and freed by now"), "{shown}");
    assert_eq!(node(&decoded, "in/LUO")["content"]["kind"], "bytes");
    assert_eq!(node(&decoded, "out/LUO")["content"]["number"], 2);
    assert_eq!(node(&decoded, "in/kho_test")["blob"], json!({"address": 0x4f_c000, "size": 240}));
    assert_eq!(decoded["errors"], 0);
    // One half of it, whatever it is called.
    let (_, decoded) = debugfs("after/in");
    assert_eq!(node(&decoded, "memblock")["read_as"], "memblock-v1");
    let (shown, decoded) = debugfs("after/out");
    assert_eq!(decoded["root"]["found_by"], "missing");
    assert!(shown.contains("root FDT   none is there"), "{shown}");
    let source = run(0, &["dump", "--format", "dts", fixture("debugfs/after/out").to_str().unwrap()]);
    assert!(source.lines().all(|line| line.is_empty() || line.starts_with("//")), "{source}");
}

#[test]
fn debugfs_with_what_nobody_knows_and_with_what_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    assert!(run(2, &["dump", path]).contains("expected a file, or a copy of debugfs kho with in/ or out/"));
    assert!(run(2, &["dump", path, "--fdt", "0x1000"]).contains("a directory"));
    put("out/sub_fdts/pci", b"\x01\0\0\0");
    put("out/sub_fdts/LUO", b"luo-v6\0\0 and what version 6 may have");
    put("out/sub_fdts/memblock", b"no tree");
    put("out/sub_fdts/kexec-metadata", b"\x01\0\0\0");
    put("out/sub_fdts/kho_test", &std::fs::read(fixture("debugfs/after/in/sub_fdts/memblock")).unwrap());
    put("out/bootmem_phys", b"0x1000\n0x9000\n");
    put("out/bootmem_len", b"0x1000\n");
    let output = kho(["dump", "--format", "json", path]);
    let decoded: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        codes(&decoded),
        [
            ("partial", "/out/fdt"),
            ("version-newer", "/out/LUO"),
            ("truncated", "/out/kexec-metadata"),
            ("component-unknown", "/out/kho_test"),
            ("fdt-header", "/out/memblock"),
            ("component-opaque", "/out/pci"),
            ("partial", "/out/bootmem"),
        ]
    );
    assert_eq!(node(&decoded, "out/pci")["content"], json!({"kind": "bytes", "first_bytes": "01000000"}));
    assert_eq!(kho(["check", path]).status.code(), Some(1));
    // A root that is cut so early that nothing is left of it.
    put("out/fdt", &std::fs::read(fixture("debugfs/before/out/fdt")).unwrap()[..70]);
    let output = kho(["dump", "--format", "json", path]);
    let decoded: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(codes(&decoded)[0], ("truncated", "/out/fdt"));
    let found_by: FoundBy = FoundBy::Missing;
    assert_eq!(decoded["root"]["found_by"], serde_json::to_value(found_by).unwrap());
}
