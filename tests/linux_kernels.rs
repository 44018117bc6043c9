//! Real kernels, in QEMU: what Linux hands over is read by this library, and what this library writes is restored by
//! Linux. See `kernels/mod.rs` for what that needs.

mod kernels;

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

fn machine(kernel: &Kernel) -> Option<Machine> {
    let machine = Machine::new(kernel, 192, &guest::initramfs(kernel)?);
    Some(machine.append(
        "kho=on liveupdate=on kho_scratch=16M,48M,0 reserve_mem=1M:4096:testmem test_kho.max_mem=131072 printk.devkmsg=on",
    ))
}

#[test]
fn probe() {
    for kernel in kernels(Arch::X86) {
        let Some(machine) = machine(&kernel) else { return };
        let log = machine.append("kho_refusals=1 kho_last=2").start().finish();
        println!("{log}");
    }
}
