//! Real kernels, in QEMU: what Linux hands over is read by this library, and what this library writes is restored by
//! Linux. See `kernels/mod.rs` for what that needs.

mod kernels;

use kernels::{Arch, kernels, qemu};

/// The harness itself: a kernel without an init panics, and its log says so.
#[test]
fn a_machine_boots_and_its_log_is_read() {
    for arch in [Arch::X86, Arch::Arm64] {
        for kernel in kernels(arch) {
            let machine = qemu::Machine::new(&kernel, 128, &kernels::cpio::Cpio::new().folder("nothing").finish());
            let log = machine.start().finish();
            assert!(
                log.contains("Kernel panic - not syncing: ")
                    && log.contains(&format!("Linux version {}", kernel.version)),
                "{log}"
            );
            assert!(std::panic::catch_unwind(|| kernels::kernel_is_well(&log)).is_err());
        }
    }
}
