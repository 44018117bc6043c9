//! Handovers that this library authors, loaded by `kexec_load(2)` into unmodified x86-64 kernels.

use kho::mem::Memory as _;
use kho::selftest::Rule;

use crate::kernels::authored::{MIB, Place, author, range};
use crate::kernels::qemu::Machine;
use crate::kernels::{Arch, guest, kernel_is_well, kernels, verdicts};

const MEMORY: u32 = 320;

/// The first kernel preserves nothing of it: `kho kexec` loads the next one with what the host authored. That one
/// restores it, and hands it on to a third by its own means.
#[test]
fn x86_64_restores_what_was_authored_and_hands_it_on() {
    for kernel in kernels(Arch::X86) {
        let Some(programs) = guest::archive(&kernel) else { return };
        let place = Place {
            window: range(160 * MIB, 64 * MIB),
            kernel: range(16 * MIB, 16 * MIB),
            scratch: [range(16 * MIB, 96 * MIB), range(0, 0), range(0, 0)],
            rule: Rule::Words,
            strangers: 0,
        };
        let authored = author("huge", &place);
        let initramfs = programs.file("handover", 0o644, &image(&authored.ram));
        let options = "kho=on liveupdate=on kho_scratch=16M,64M,0 nokaslr printk.devkmsg=on";
        let log = Machine::new(&kernel, MEMORY, &initramfs.finish())
            .append(options)
            .append("reserve_mem=1M:4096:testmem test_kho.max_mem=131072")
            .append("kho_scenario=huge kho_last=2 kho_authored=0xa000000 kho_scratch_at=0x1000000+96MiB")
            .start()
            .finish();
        kernel_is_well(&log);
        verdicts(&log, &["load authored", "debugfs 1", "take 1", "again 1", "load 1", "debugfs 2", "take 2"]);
        assert_eq!(log.matches("Linux version ").count(), 3, "{log}");
        for line in [
            "KHO: found kexec handover data",
            "test_kho: KHO restore succeeded",
            "luo: Retrieved live update data, liveupdate number: 1",
            "luo: Retrieved live update data, liveupdate number: 2",
            "Revived memory reservation 'testmem' from KHO",
            "KHO: exec from: 0.1-authored (count 1)",
        ] {
            assert!(log.contains(line), "{line}\n{log}");
        }
    }
}

/// The memory up to its last byte that is not zero by itself.
fn image(ram: &kho::mem::Ram) -> Vec<u8> {
    let window = ram.extents()[0];
    let end = ram.segments().map(|(at, bytes)| at.get() + bytes.len() as u64).max().unwrap();
    let mut bytes = vec![0; (end - window.start().get()) as usize];
    ram.read(window.start(), &mut bytes).unwrap();
    bytes
}
