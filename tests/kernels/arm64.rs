//! Handovers that this library authors, restored by unmodified arm64 kernels, and what those hand on.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use kho::inspect::{Content, Decoded};
use kho::linux::{Boot, chosen};
use kho::selftest::Rule;

use crate::kernels::authored::{Authored, MIB, Place, author, range};
use crate::kernels::cpio::Cpio;
use crate::kernels::qemu::{self, Machine};
use crate::kernels::{Arch, Kernel, frozen, kernels, lacks, verdicts};

/// Of `scenario.rs`: small files, more than a page of sessions, more than a page of files; and folios of 2 MiB.
const SCENARIOS: [&str; 2] = ["many", "huge"];
/// Nodes that no kernel knows, so many that the page of the root has no room for what only this library reads.
const STRANGERS: usize = 45;
/// Of QEMU's board `virt`.
const RAM: u64 = 0x4000_0000;
const MEMORY: u32 = 320;
/// Where the handover is authored.
pub(crate) const WINDOW: u64 = RAM + 160 * MIB;

pub(crate) fn authored(scenario: &str) -> Authored {
    let place = Place {
        window: range(WINDOW, 64 * MIB),
        kernel: range(RAM, 64 * MIB),
        scratch: [range(RAM + 64 * MIB, 64 * MIB), range(0, 0), range(RAM + 128 * MIB, 32 * MIB)],
        rule: Rule::Folded,
        strangers: if scenario == "huge" { STRANGERS } else { 0 },
    };
    author(scenario, &place)
}

/// The init, built now; none where its compiler is missing and need not be there.
pub(crate) fn init(folder: &Path) -> Option<Vec<u8>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/arm64-init.c");
    let program = folder.join("init");
    let mut command = Command::new("aarch64-linux-gnu-gcc");
    command.args(["-static", "-Os", "-Wall", "-Wextra", "-Werror", "-s", "-o"]).arg(&program).arg(&source);
    let Ok(output) = command.output() else {
        lacks("aarch64-gcc", "aarch64-linux-gnu-gcc (apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross)");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(std::fs::read(program).unwrap())
}

/// A machine that was handed this, with more in its initramfs.
pub(crate) fn machine(kernel: &Kernel, authored: &Authored, initramfs: Cpio) -> Machine {
    let machine = Machine::new(kernel, MEMORY, &initramfs.finish());
    let [image, dtb] = ["image", "virt.dtb"].map(|name| machine.dir().join(name));
    authored.ram.write_image(&File::create(&image).unwrap()).unwrap();
    let dump = format!("virt,dumpdtb={}", dtb.display());
    qemu::run(Arch::Arm64, ["-M", &dump, "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", &format!("{MEMORY}M")]);
    let told = chosen(&std::fs::read(&dtb).unwrap(), &authored.boot).unwrap();
    dtc_takes(&told, &authored.boot);
    std::fs::write(&dtb, told).unwrap();
    let loader = format!("loader,file={},addr={WINDOW:#x},force-raw=on", image.display());
    machine
        .args(["-dtb", dtb.to_str().unwrap(), "-device", &loader])
        .append("kho=on liveupdate=on reserve_mem=1M:65536:testmem printk.devkmsg=on")
}

pub(crate) fn base(init: &[u8], plan: &str) -> Cpio {
    let archive = Cpio::new().folder("dev").device("dev/console", 5, 1);
    archive.file("init", 0o755, init).file("plan", 0o644, plan.as_bytes())
}

/// The machine's tree, edited, is one for others too.
fn dtc_takes(dtb: &[u8], boot: &Boot) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dtb).unwrap();
    let Ok(output) = Command::new("dtc").args(["-q", "-I", "dtb", "-O", "dts"]).arg(file.path()).output() else {
        return lacks("dtc", "dtc (apt-get install device-tree-compiler)");
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, range) in [("fdt", boot.fdt), ("scratch", boot.scratch)] {
        let line = format!("linux,kho-{name} = <0x00 {:#x} 0x00 {:#x}>;", range.start().get(), range.size());
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert!(text.contains("stdout-path = \"/pl011@9000000\";") && text.contains("intc@8000000"), "{text}");
}

/// What the guest said of memory and files.
pub(crate) fn said(log: &str) -> Vec<&str> {
    let said = log.lines().filter_map(|line| line.trim_end().split_once("guest: "));
    said.map(|(_, said)| said).filter(|said| said.starts_with("file ") || said.starts_with("memory ")).collect()
}

/// What a kernel says that restored the first handover.
#[track_caller]
fn restored(log: &str) {
    for line in [
        "KHO: found kexec handover data",
        "test_kho: KHO restore succeeded",
        "luo: Retrieved live update data, liveupdate number: 1",
        "Revived memory reservation 'testmem' from KHO",
        "KHO: exec from: 0.1-authored (count 1)",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }
}

/// A kernel restores all of it, byte for byte.
#[test]
fn arm64_restores_what_was_authored() {
    let folder = tempfile::tempdir().unwrap();
    for kernel in kernels(Arch::Arm64) {
        let Some(init) = init(folder.path()) else { return };
        for scenario in SCENARIOS {
            let authored = authored(scenario);
            let log = machine(&kernel, &authored, base(&init, &authored.plan)).start().finish();
            verdicts(&log, &["finished"]);
            restored(&log);
            assert_eq!(said(&log), authored.says[0], "{log}");
        }
    }
}

/// The kernel preserves again what it restored. The machine is frozen at that moment and decoded: the same sessions,
/// tokens, positions, seals and bytes, in the very folios that were authored. And the kernel after that has all of it.
#[test]
fn arm64_hands_on_what_was_authored() {
    let folder = tempfile::tempdir().unwrap();
    for kernel in kernels(Arch::Arm64) {
        let Some(init) = init(folder.path()) else { return };
        for scenario in SCENARIOS {
            let authored = authored(scenario);
            let next = base(&init, &authored.plan).finish();
            let initramfs = base(&init, &authored.plan).file("kernel", 0o644, &kernel.bytes());
            let machine = machine(&kernel, &authored, initramfs.file("initrd", 0o644, &next));
            let mut guest = machine.with_gdb().with_qmp().start();
            let line = guest.wait_for("Linux version ");
            let release = line.split(' ').next().unwrap();
            let address = guest.wait_for("guest: machine_kexec ");
            let mut gdb = guest.gdb();
            guest.send(b"\n");
            gdb.run_to(u64::from_str_radix(&address, 16).unwrap());
            let core = guest.dir().join("core");
            guest.qmp().dump(&core);
            let decoded = frozen::check(&core, scenario, release, 2).decoded;
            assert_eq!(decoded.machine, Some(kho::mem::Machine::Arm64));
            let lost: Vec<_> = authored.folios.difference(&folios(&decoded)).copied().collect();
            assert!(lost.is_empty(), "{lost:x?}");

            gdb.detach();
            let log = guest.finish();
            verdicts(&log, &["finished", "preserved", "finished"]);
            restored(&log);
            assert_eq!(said(&log), authored.says.concat(), "{log}");
            for line in ["liveupdate number: 2", &format!("KHO: exec from: {release} (count 2)")] {
                assert!(log.contains(line), "{line}\n{log}");
            }
        }
    }
}

/// Address and order of each folio of a memfd.
fn folios(decoded: &Decoded) -> BTreeSet<(u64, u32)> {
    let sessions = decoded.nodes.iter().filter_map(|node| match &node.content {
        Some(Content::Luo { sessions, .. }) => Some(sessions),
        _ => None,
    });
    let files = sessions.flatten().flat_map(|session| &session.files).filter_map(|file| file.memfd.as_ref());
    files.flat_map(|memfd| &memfd.folios).map(|&(address, order, _)| (address, order)).collect()
}
