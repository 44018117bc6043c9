//! Real kernels, in QEMU: what Linux hands over is read by this library, and what this library writes is restored by
//! Linux. See `kernels/mod.rs` for what that needs.

#[path = "kernels/altered.rs"]
mod altered;
#[path = "kernels/arm64.rs"]
mod arm64;
mod kernels;
#[path = "kernels/kexec_load.rs"]
mod kexec_load;

use kernels::frozen::{self, Frozen};
use kernels::qemu::Machine;
use kernels::{Arch, Kernel, guest, kernels};

/// The harness itself: a kernel without an init panics, and its log says so.
#[test]
fn a_machine_boots_and_its_log_is_read() {
    for kernel in [Arch::X86, Arch::Arm64].into_iter().flat_map(kernels) {
        let log = Machine::new(&kernel, 128, &kernels::cpio::Cpio::new().folder("nothing").finish()).start().finish();
        assert!(log.contains(&format!("Linux version {}", kernel.version)), "{log}");
        assert!(log.contains("Kernel panic - not syncing: "), "{log}");
        assert!(std::panic::catch_unwind(|| kernels::kernel_is_well(&log)).is_err());
    }
}

/// The guest of `tests/guest`.
fn machine(kernel: &Kernel, options: &str) -> Option<Machine> {
    leaving_for(kernel, kernel, options)
}

/// The same, with another next kernel.
fn leaving_for(next: &Kernel, kernel: &Kernel, options: &str) -> Option<Machine> {
    let machine = Machine::new(kernel, 192, &guest::initramfs(next)?);
    // The last ones: functions are where they were, and what the guest writes into the log is not thinned out.
    let machine = machine.append("kho=on kho_scratch=16M,48M,0 nokaslr printk.devkmsg=on");
    Some(machine.append("reserve_mem=1M:4096:testmem test_kho.max_mem=131072").append(options))
}

/// Boots, and leaves twice: at both times the memory is dumped while everything is frozen, and decoded here.
fn two_updates(kernel: &Kernel, scenario: &str, options: &str) -> Option<(String, [Frozen; 2])> {
    let machine = machine(kernel, &format!("liveupdate=on kho_scenario={scenario} kho_last=2 kho_wait=1 {options}"))?
        .with_gdb()
        .with_qmp();
    let mut guest = machine.start();
    let address = guest.wait_for("guest: machine_kexec ");
    let mut gdb = guest.gdb();
    let mut qmp = guest.qmp();
    guest.send(b"\n");
    let core = guest.dir().join("core");
    // As uname has it, for example `7.2.13`.
    let log = guest.log();
    let (release, _) = log.split_once("Linux version ").and_then(|(_, rest)| rest.split_once(' ')).unwrap();
    let frozen = [1, 2].map(|update| {
        gdb.run_to(u64::from_str_radix(&address, 16).unwrap());
        qmp.dump(&core);
        let frozen = frozen::check(&core, scenario, release, update);
        assert_eq!(frozen.decoded.machine, Some(kho::mem::Machine::X86));
        frozen
    });
    gdb.detach();
    let log = guest.finish();
    assert_eq!(log.matches("Linux version ").count(), 3, "{log}");
    assert_eq!(log.matches("Revived memory reservation 'testmem' from KHO").count(), 2, "{log}");
    assert_eq!(log.matches("test_kho: KHO restore succeeded").count(), 1, "{log}");
    Some((log, frozen))
}

const TWO_UPDATES: [&str; 8] = ["make", "load 0", "debugfs 1", "take 1", "again 1", "load 1", "debugfs 2", "take 2"];

#[test]
fn x86_64_sessions_survive_two_updates_and_are_read_from_the_frozen_machine() {
    for kernel in kernels(Arch::X86) {
        let Some((log, frozen)) = two_updates(&kernel, "many", "kho_handover=1") else { return };
        let mut expected = Vec::from(TWO_UPDATES);
        // The session of `kho luo`, after those of the library, a whole handover, and a service.
        expected.splice(1..1, ["handover 0", "serve-demo 0"]);
        expected.splice(7..7, ["command 1", "handover 1", "serve-demo 1"]);
        expected.extend(["command 2", "handover 2"]);
        kernels::verdicts(&log, &expected);
        served(&log);
        for Frozen { orders, .. } in frozen {
            assert!(orders[0] > 2000 && orders[1..] == [0; 9], "{orders:?}");
        }
    }
}

/// What `kho serve-demo` showed in both kernels: what the clients counted, and what they found again.
#[track_caller]
fn served(log: &str) {
    let shown: Vec<&str> =
        log.lines().filter_map(|line| line.trim_end().split_once("guest| ")).map(|(_, text)| text).collect();
    let counts = |half: &str| -> Vec<Vec<u64>> {
        let rows = shown.iter().filter_map(|line| line.strip_prefix(half)).filter(|row| !row.contains("ms"));
        rows.map(|row| row.split_whitespace().take(7).map(|cell| cell.parse().unwrap()).collect()).collect()
    };
    // In the first kernel, and as the second one was told.
    let (before, after) = (counts("session, before "), counts("session, after "));
    assert!(before.len() == 2 && before[0] == before[1] && after.len() == 1, "{before:?} {after:?}\n{log}");
    for (row, upgrades) in [(&before[0], 0), (&after[0], 1)] {
        // Sent and answered, then what must be nothing.
        assert!(row[0] == upgrades && row[1] > 10 && row[1] == row[2] && row[3..] == [0; 4], "{row:?}\n{log}");
    }
    let found = shown.iter().find_map(|line| line.strip_prefix("taken from session serve-demo: "));
    let (keys, others) = found.unwrap().split_once(" keys, ").unwrap();
    // A quarter of the slots, and 64 of each client.
    assert_eq!((keys, others), ("8320", "0 not as before the kexec"), "{log}");
    assert_eq!(shown.iter().filter(|line| **line == "nothing lost, nothing wrong").count(), 2, "{log}");
}

/// Folios of 2 MiB.
#[test]
fn x86_64_sessions_of_huge_pages() {
    for kernel in kernels(Arch::X86) {
        let Some((log, frozen)) = two_updates(&kernel, "huge", "transparent_hugepage_shmem=always") else { return };
        kernels::verdicts(&log, &TWO_UPDATES);
        for Frozen { orders, .. } in frozen {
            assert!(orders[9] >= 11, "{orders:?}");
        }
    }
}

/// What the kernel refuses, and what of it `kho dump` shows while it runs.
#[test]
fn x86_64_refusals_and_a_live_machine() {
    for kernel in kernels(Arch::X86) {
        let Some(machine) = machine(&kernel, "liveupdate=on kho_scenario=many kho_refusals=1 kho_live=1") else {
            return;
        };
        let before = ["refusals before", "make", "/proc/kcore", "/dev/mem", "plan", "running", "out/fdt", "load 0"];
        let after = ["debugfs 1", "/proc/kcore", "running", "refusals after", "take 1", "command 1"];
        kernels::verdicts(&machine.start().finish(), &[&before[..], &after[..]].concat());
    }
}

#[test]
fn x86_64_without_live_update() {
    for kernel in kernels(Arch::X86) {
        let Some(machine) = machine(&kernel, "liveupdate=off") else { return };
        kernels::verdicts(&machine.start().finish(), &["refusals without"]);
    }
}
