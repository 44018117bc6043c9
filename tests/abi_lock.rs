//! `abi.lock`: what the library reads and writes is what the lock says, and nothing of `src/abi` is left out.
//!
//! `KHO_BLESS=1 cargo test --test abi_lock` writes new versions into it. At a release, `KHO_PUBLISH="kho 0.1.0"` beside
//! it marks all that is not published yet: from then on it never changes.

use std::path::{Path, PathBuf};

use kho::abi::{COMPONENTS, LAYOUTS};
use kho::lock::{Lock, of_code};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

#[test]
fn the_code_is_what_the_lock_says() {
    let path = root().join("abi.lock");
    let code = of_code();
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let lock = Lock::parse(&text).unwrap_or_else(|error| panic!("abi.lock: {error}"));
    if std::env::var_os("KHO_BLESS").is_some() {
        let mut blessed = lock.bless(&code).unwrap_or_else(|refusal| panic!("{refusal}"));
        if let Ok(whom) = std::env::var("KHO_PUBLISH") {
            assert!(!whom.is_empty() && !whom.contains('\n'), "KHO_PUBLISH is a release, as \"kho 0.1.0\"");
            blessed.publish(&whom);
        }
        std::fs::write(&path, blessed.to_string()).unwrap();
        return;
    }
    let complaints: Vec<_> = lock.check(&code).iter().map(ToString::to_string).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    assert!(lock.to_string() == text, "abi.lock is not as it is written: KHO_BLESS=1 cargo test --test abi_lock");
}

/// Every `pub const`, `pub type` and `pub struct` of `src/abi` that is a part of the ABI.
#[test]
fn nothing_is_forgotten() {
    // Machinery, and what a reader knows of other versions.
    const NOT_ABI: [&str; 5] = ["mod.rs", "wire.rs", "components.rs", "kho::KNOWN_VERSIONS", "mod.rs::LAYOUTS"];
    let components = std::fs::read_to_string(root().join("src/abi/components.rs")).unwrap();
    let mut seen = 0;
    for file in std::fs::read_dir(root().join("src/abi")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if NOT_ABI.contains(&name) {
            continue;
        }
        let module = path.file_stem().unwrap().to_str().unwrap();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let line = line.trim_start();
            let item = ["pub const ", "pub type ", "pub struct "].iter().find_map(|kind| line.strip_prefix(kind));
            let Some(item) = item.filter(|_| !line.contains(": Compat<")) else { continue };
            let end = item.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap();
            let item = &item[..end];
            if NOT_ABI.contains(&format!("{module}::{item}").as_str()) {
                continue;
            }
            let listed = if line.starts_with("pub struct ") {
                components.contains(&format!("{module}::{item}::LAYOUT"))
            } else {
                in_constants(&components, module, item) || components.contains(&format!("{module}::{item}"))
            };
            assert!(listed, "{module}::{item} is in no component of src/abi/components.rs: nothing would lock it");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} items: the search has lost its way");
}

/// Whether `constants!(module: ... item ...)` is there.
fn in_constants(text: &str, module: &str, item: &str) -> bool {
    text.split(&format!("constants!({module}:"))
        .skip(1)
        .any(|rest| rest.split(')').next().unwrap().split_whitespace().any(|word| word == item))
}

#[test]
fn each_structure_is_in_the_component_that_owns_it() {
    let mut of_components = Vec::new();
    for component in COMPONENTS {
        for layout in component.layouts {
            if let Some(compat) = layout.compat {
                assert_eq!(component.key.to_string(), compat.to_string(), "{}", layout.name);
            }
            of_components.push((component.key.to_string(), layout.name));
        }
    }
    let count = of_components.len();
    of_components.sort();
    of_components.dedup();
    assert_eq!((of_components.len(), count), (LAYOUTS.len(), LAYOUTS.len()));
}

#[test]
fn page_sizes_and_device_trees_are_in_it() {
    let text = std::fs::read_to_string(root().join("abi.lock")).unwrap();
    let has = |key: &str, lines: &[&str]| {
        let entry = text.split("\n\n").find(|entry| entry.starts_with(&format!("{key}\n"))).unwrap();
        for line in lines {
            assert!(entry.lines().any(|other| other == format!("  {line}")), "{key}: {line}\n{entry}");
        }
    };
    has("radix-v1", &["page 4K depth = 6", "page 16K depth = 5", "page 64K depth = 4", "page 64K leaf bits = 19"]);
    has("vmalloc-v1", &["page 16K addresses per chunk = 2047", "const FLAGS = 3 (0x3 u16)"]);
    has("luo-v5", &["page 4K sessions per block = 51", "page 64K files per block = 1023", "published Linux 7.2"]);
    has("kho-v4", &["property /* blob-size = native u64", "property / preserved-memory-map = native u64"]);
    has("kho-test-v1", &["property /data csum = native u32", "const MAGIC_VALUE = 1263030049 (0x4b484f21 u32)"]);
    has("reserve-mem-v1", &["property /* start = native u64"]);
}
