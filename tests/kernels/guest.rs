//! The programs of the x86-64 guest, `tests/guest` and the command `kho`: built here, statically, so that they run
//! where nothing else is.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::cpio::Cpio;
use super::{Kernel, lacks};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// An initramfs with both, and the kernel that the guest loads as its next one; none where they cannot be built and
/// need not be.
pub(crate) fn initramfs(kernel: &Kernel) -> Option<Vec<u8>> {
    let (init, kho) = programs()?;
    let archive = Cpio::new().folder("dev").device("dev/console", 5, 1);
    Some(archive.file("init", 0o755, init).file("kho", 0o755, kho).file("kernel", 0o644, &kernel.bytes()).finish())
}

fn programs() -> Option<(&'static [u8], &'static [u8])> {
    static PROGRAMS: OnceLock<Option<[Vec<u8>; 2]>> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(|| {
        if !cfg!(target_arch = "x86_64") {
            lacks("kernel", "an x86-64 machine, to build the programs of the guest");
            return None;
        }
        let folder = build();
        Some(["kho-guest", "kho"].map(|name| std::fs::read(folder.join(name)).unwrap()))
    });
    programs.as_ref().map(|[init, kho]| (&init[..], &kho[..]))
}

/// In a folder of its own: static programs share nothing with the others. Small, because three kernels unpack them.
fn build() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("guest");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--release", "-p", "kho-guest", "-p", "kho-cli", "--target", TARGET])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .envs([("CARGO_PROFILE_RELEASE_DEBUG", "false"), ("CARGO_PROFILE_RELEASE_STRIP", "true")])
        .envs([("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join(TARGET).join("release")
}
