//! Real kernels, in QEMU: what Linux hands over is read by this library, and what this library writes is restored by
//! Linux. See `kernels/mod.rs` for what that needs.

mod kernels;

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
    let machine = Machine::new(kernel, 192, &guest::initramfs(kernel)?);
    // The last one: what the guest writes into the log is not thinned out.
    let machine = machine.append("kho=on liveupdate=on kho_scratch=16M,48M,0 printk.devkmsg=on");
    Some(machine.append("reserve_mem=1M:4096:testmem test_kho.max_mem=131072").append(options))
}

/// Boots, and leaves twice: at both times the memory is dumped while everything is frozen, and decoded here.
fn two_updates(kernel: &Kernel, scenario: &str, options: &str) -> Option<(String, [Frozen; 2])> {
    let machine =
        machine(kernel, &format!("kho_scenario={scenario} kho_last=2 kho_wait=1 {options}"))?.with_gdb().with_qmp();
    let mut guest = machine.start();
    let address = guest.wait_for("guest: machine_kexec ");
    let mut gdb = guest.gdb();
    let mut qmp = guest.qmp();
    guest.send(b"\n");
    let core = guest.dir().join("core");
    let frozen = [1, 2].map(|update| {
        gdb.run_to(u64::from_str_radix(&address, 16).unwrap());
        qmp.dump(&core);
        frozen::check(&core, scenario, update)
    });
    gdb.detach();
    Some((guest.finish(), frozen))
}

const TWO_UPDATES: [&str; 6] = ["make", "load 0", "take 1", "again 1", "load 1", "take 2"];

#[test]
fn x86_64_sessions_survive_two_updates_and_are_read_from_the_frozen_machine() {
    for kernel in kernels(Arch::X86) {
        let Some((log, frozen)) = two_updates(&kernel, "many", "") else { return };
        kernels::verdicts(&log, &TWO_UPDATES);
        for Frozen { decoded, orders } in frozen {
            assert!(orders[0] > 2000 && orders[1..] == [0; 9], "{orders:?}");
        }
    }
}

/// Folios of 2 MiB.
#[test]
fn x86_64_sessions_of_huge_pages() {
    for kernel in kernels(Arch::X86) {
        let Some((log, frozen)) = two_updates(&kernel, "huge", "transparent_hugepage_shmem=always") else { return };
        kernels::verdicts(&log, &TWO_UPDATES);
        for Frozen { orders, .. } in frozen {
            println!("{orders:?}");
            assert!(orders[9] >= 2, "{orders:?}");
        }
    }
}
