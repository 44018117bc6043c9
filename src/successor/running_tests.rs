//! A running kernel, by copies of what it exports.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Answer, By, Carried, Consequence, Plan, Profile, Statement, Verdict};
use crate::inspect::{self, Options};
use crate::mem::Machine;
use crate::report::Code;

const BANNER: &str = "Linux version 7.2.13 (me@here) #1 SMP";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            // Not its mode.
            fs::write(to, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// The root of a machine, with what Linux 7.2 exported `before` or `after` a kexec, or nothing of it.
fn root(half: &str) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("proc/sys/kernel")).unwrap();
    fs::write(root.path().join("proc/version"), format!("{BANNER}\n")).unwrap();
    fs::write(root.path().join("proc/sys/kernel/arch"), "x86_64\n").unwrap();
    let kho = root.path().join("sys/kernel/debug/kho");
    if !half.is_empty() {
        copy(&Path::new("tests/data/linux-7.2-x86_64/debugfs").join(half), &kho);
    }
    (root, kho)
}

fn components(profile: &Profile, by: By) -> Vec<&str> {
    let mut of: Vec<&str> =
        profile.understands.iter().filter(|s| s.by == by).map(|statement| statement.component.as_str()).collect();
    of.sort_unstable();
    of
}

fn plan(next: &Profile) -> Plan {
    let frozen = inspect::open("tests/data/linux-7.2-x86_64/frozen.core", &Options::default()).unwrap();
    Plan::new(&Carried::from(&frozen), next, &[])
}

#[track_caller]
fn line(plan: &Plan, component: &str) -> (Verdict, Option<Code>, Consequence, Option<By>) {
    let line = plan.lines.iter().find(|line| line.component == component);
    let line = line.unwrap_or_else(|| panic!("{component}: {plan:#?}"));
    (line.verdict, line.code, line.consequence, line.by)
}

const FINE: (Verdict, Option<Code>, Consequence, Option<By>) =
    (Verdict::Fine, None, Consequence::None, Some(By::Exported));
const UNTOLD: (Verdict, Option<Code>, Consequence, Option<By>) =
    (Verdict::Untold, Some(Code::SuccessorSilent), Consequence::Unforeseen, None);

#[test]
fn what_it_hands_over_it_reads() {
    let (root, _kho) = root("before");
    let mut next = Profile::running_at(root.path()).unwrap();
    assert_eq!((next.banner.as_deref(), next.layers.join(" > ").as_str()), (Some(BANNER), "running kernel"));
    assert_eq!((next.machine, next.machine_by), (Some(Machine::X86), Some(By::Exported)));
    assert_eq!((next.page_size, next.page_size_by), (Some(4096), Some(By::Exported)));
    let exported = ["kexec-metadata-v1", "kho-test-v1", "kho-v4", "luo-v5", "memblock-v1"];
    assert_eq!(components(&next, By::Exported), exported);
    assert_eq!(components(&next, By::Implied), ["block-v1", "radix-v1", "vmalloc-v1"]);

    let told = plan(&next);
    for component in exported {
        assert_eq!(line(&told, component), FINE, "{component}");
    }
    // Which handlers it has is exported nowhere.
    assert_eq!((line(&told, "memfd-v2"), told.answer), (UNTOLD, Answer::CannotTell));
    assert_eq!(told.lines.iter().find(|line| line.component == "memfd-v2").map(|line| line.count), Some(5));
    assert_eq!(told.notes, [format!("running: {}", Profile::EXPORTS_NOT)]);
    next.understands.push(Statement::pinned("memfd-v2"));
    assert_eq!(plan(&next).answer, Answer::Go);
}

#[test]
fn after_a_kexec_it_exports_less() {
    let (root, kho) = root("after");
    let next = Profile::running_at(root.path()).unwrap();
    assert_eq!(components(&next, By::Exported), ["kexec-metadata-v1", "kho-v4", "luo-v5", "memblock-v1"]);
    assert_eq!(line(&plan(&next), "kho-test-v1"), UNTOLD);
    // No live update, and no memory that is reserved by name: nobody knows, and nothing is refused for it.
    for name in ["LUO", "memblock"] {
        fs::remove_file(kho.join("out/sub_fdts").join(name)).unwrap();
    }
    let told = plan(&Profile::running_at(root.path()).unwrap());
    assert_eq!((line(&told, "luo-v5"), line(&told, "memblock-v1")), (UNTOLD, UNTOLD));
    assert_eq!((line(&told, "kho-v4"), told.answer), (FINE, Answer::CannotTell));
    // Nor is the root.
    fs::remove_file(kho.join("in/fdt")).unwrap();
    let next = Profile::running_at(root.path()).unwrap();
    assert_eq!((components(&next, By::Exported), line(&plan(&next), "kho-v4")), (vec!["kexec-metadata-v1"], UNTOLD));
}

#[test]
fn other_versions_are_read_out_of_what_it_exports() {
    for (file, from, to, component, consequence) in [
        ("out/sub_fdts/LUO", "luo-v5", "luo-v6", "luo-v5", Consequence::Panic),
        ("out/fdt", "kho-v4", "kho-v5", "kho-v4", Consequence::AllMemoryLost),
        ("out/sub_fdts/memblock", "memblock-v1", "memblock-v2", "memblock-v1", Consequence::AllocatedAfresh),
    ] {
        let (root, kho) = root("before");
        let mut bytes = fs::read(kho.join(file)).unwrap();
        let at = bytes.windows(from.len()).position(|bytes| bytes == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(kho.join(file), bytes).unwrap();
        let next = Profile::running_at(root.path()).unwrap();
        assert!(components(&next, By::Exported).contains(&to), "{next:?}");
        let (_, code, then, _) = line(&plan(&next), component);
        assert_eq!((code, then), (Some(Code::VersionOlder), consequence));
    }
}

#[test]
fn a_kernel_that_exports_nothing() {
    let (root, kho) = root("");
    let fault = Profile::running_at(root.path()).unwrap_err();
    assert_eq!((fault.code(), fault.found_text()), (Code::SuccessorSilent, "no out/"));
    assert_eq!(
        fault.to_string(),
        "successor-silent: sys/kernel/debug/kho: found no out/, expected what a kernel exports that was booted with \
         kho=on, where debugfs is mounted"
    );
    // Something that says nothing.
    fs::create_dir_all(kho.join("out/sub_fdts")).unwrap();
    let fault = Profile::running_at(root.path()).unwrap_err();
    assert_eq!(fault.code(), Code::SuccessorSilent);
    fs::write(kho.join("out/fdt"), b"no tree").unwrap();
    let fault = Profile::running_at(root.path()).unwrap_err();
    assert_eq!(fault.code(), Code::SuccessorSilent);
    fs::write(kho.join("out/sub_fdts/pci"), [1, 0, 0, 0]).unwrap();
    assert_eq!(Profile::running_at(root.path()).unwrap_err().code(), Code::SuccessorSilent);
}

#[cfg(feature = "images")]
#[test]
fn its_configuration() {
    use std::io::Write as _;

    let with = |root: &Path, text: &str| {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        to.write_all(text.as_bytes()).unwrap();
        fs::write(root.join("proc/config.gz"), to.finish().unwrap()).unwrap();
        Profile::running_at(root)
    };
    let (root, _kho) = root("");
    // It says that there is no handover: that is an answer.
    let next = with(root.path(), "# CONFIG_KEXEC_HANDOVER is not set\n").unwrap();
    let (verdict, code, consequence, _) = line(&plan(&next), "kho-v4");
    assert_eq!((verdict, code), (Verdict::Refused, Some(Code::SuccessorWithout)));
    assert_eq!(consequence, Consequence::AllMemoryLost);
    // It says that there is one, which is not switched on.
    let fault = with(root.path(), "CONFIG_KEXEC_HANDOVER=y\n").unwrap_err();
    assert_eq!(fault.code(), Code::SuccessorSilent);
    fs::write(root.path().join("proc/sys/kernel/arch"), "aarch64\n").unwrap();
    let next = with(root.path(), "CONFIG_ARM64_64K_PAGES=y\n").unwrap();
    assert_eq!((next.machine, next.page_size), (Some(Machine::Arm64), Some(65536)));
    assert_eq!(next.page_size_by, Some(By::Config));
}
