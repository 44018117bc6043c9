//! What the tests on real kernels share: the kernels, a machine to boot them in, and what a kernel's log must not say.
//!
//! Every kernel in `$KHO_TEST_KERNELS` is tested; by default those in `shared/kernels` beside the repository. They are
//! named `linux-VERSION-x86_64.bzImage` and `linux-VERSION-arm64.Image.gz`.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod authored;
pub(crate) mod cpio;
pub(crate) mod frozen;
pub(crate) mod gdb;
pub(crate) mod guest;
pub(crate) mod image;
pub(crate) mod qemu;
pub(crate) mod qmp;
pub(crate) mod scenario;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    X86,
    Arm64,
}

impl Arch {
    fn ending(self) -> &'static str {
        match self {
            Arch::X86 => "-x86_64.bzImage",
            Arch::Arm64 => "-arm64.Image.gz",
        }
    }
}

/// A kernel that is there.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) arch: Arch,
    pub(crate) version: String,
    pub(crate) path: PathBuf,
}

impl Kernel {
    /// The image as QEMU loads it: what is `.gz` is unpacked.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let file = std::fs::read(&self.path).unwrap();
        if self.path.extension().is_none_or(|extension| extension != "gz") {
            return file;
        }
        let mut image = Vec::new();
        flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut image).unwrap();
        image
    }
}

/// The images of kernels for an architecture, to be read and not to be run.
pub(crate) fn images(arch: Arch) -> Vec<Kernel> {
    let kernels = found(arch);
    if kernels.is_empty() {
        lacks("kernel", &format!("a kernel *{} in {} (or KHO_TEST_KERNELS=DIR)", arch.ending(), folder().display()));
    }
    kernels
}

/// The kernels for an architecture, by version; none where those or QEMU are missing and need not be there.
pub(crate) fn kernels(arch: Arch) -> Vec<Kernel> {
    let kernels = images(arch);
    if !kernels.is_empty() && !qemu::is_there(arch) {
        lacks("qemu", &format!("qemu (apt-get install {})", qemu::package(arch)));
        return Vec::new();
    }
    kernels
}

fn folder() -> PathBuf {
    std::env::var_os("KHO_TEST_KERNELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/kernels"), PathBuf::from)
}

fn found(arch: Arch) -> Vec<Kernel> {
    let Ok(entries) = std::fs::read_dir(folder()) else { return Vec::new() };
    let kernel = |path: PathBuf| {
        let version = path.file_name()?.to_str()?.strip_prefix("linux-")?.strip_suffix(arch.ending())?.to_owned();
        Some(Kernel { arch, version, path })
    };
    let mut kernels: Vec<Kernel> = entries.filter_map(|entry| kernel(entry.unwrap().path())).collect();
    kernels.sort_by(|one, other| one.version.cmp(&other.version));
    kernels
}

/// Says what is missing, past the capture of the test's output; a failure if `KHO_REQUIRE` has the word.
#[track_caller]
pub(crate) fn lacks(word: &str, what: &str) {
    let required = std::env::var("KHO_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == word), "needs {what}");
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    std::io::stderr().write_all(format!("{test}: skipped, needs {what}\n").as_bytes()).unwrap();
}

/// A kernel that is well says none of these.
const TROUBLE: [&str; 8] = [
    "Kernel panic",
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace:",
    "Call trace:",
    "refcount_t:",
    "Unable to handle kernel",
];

/// The kernel found nothing wrong, and the guest said `guest: ok NAME` for each of these in this order, and nothing else,
/// and `guest: done` as its last word.
#[track_caller]
pub(crate) fn verdicts(log: &str, expected: &[&str]) {
    kernel_is_well(log);
    let said: Vec<&str> =
        log.lines().filter_map(|line| line.trim_end().split_once("guest: ")).map(|(_, v)| v).collect();
    let verdicts: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix("ok ")).collect();
    let failed: Vec<&&str> = said.iter().filter(|line| line.starts_with("FAIL")).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{log}");
    assert!(verdicts == expected, "verdicts:\n{verdicts:#?}\nexpected:\n{expected:#?}\n{log}");
    assert_eq!(said.last(), Some(&"done"), "{log}");
}

#[track_caller]
pub(crate) fn kernel_is_well(log: &str) {
    let trouble: Vec<&str> = log.lines().filter(|line| TROUBLE.iter().any(|word| line.contains(word))).collect();
    assert!(trouble.is_empty(), "the kernel says {trouble:#?}\n{log}");
}
