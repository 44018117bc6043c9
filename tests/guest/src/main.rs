//! The init of a machine that is replaced: it makes sessions, leaves by kexec, and finds them again in the next kernel.
//! What it says goes into the kernel's log: `guest: ok NAME`, `guest: FAIL NAME: why`, `guest: done`.

mod command;
#[path = "../../kernels/cpio.rs"]
#[allow(dead_code, reason = "the host uses the rest")]
mod cpio;
#[path = "../../kernels/refusals.rs"]
mod expected;
mod refusals;
#[path = "../../kernels/scenario.rs"]
#[allow(dead_code, reason = "the host uses the rest")]
mod scenario;
mod sessions;
mod system;

use std::error::Error;

use system::{option, say};

type Fails<T = ()> = Result<T, Box<dyn Error>>;

fn main() {
    if let Some(role) = std::env::args().nth(1) {
        if let Err(error) = command::role(&role) {
            println!("{role}: {error}");
        }
        return;
    }
    if let Err(error) = system::mounts() {
        println!("guest: FAIL mounts: {error}");
    }
    let boot = option("kho_boot").and_then(|number| number.parse().ok()).unwrap_or(0);
    if let Err(error) = run(boot) {
        say(&format!("guest: FAIL boot {boot}: {error}"));
    }
    say("guest: done");
    system::end();
}

fn run(boot: u32) -> Fails {
    let last = option("kho_last").map_or(Ok(1), |number| number.parse())?;
    let mut held = sessions::Held::default();
    if boot == 0 {
        if option("kho_refusals").is_some() {
            refusals::before()?;
        }
        step("make", || {
            held = sessions::make()?;
            Ok(())
        })?;
        if option("kho_live").is_some() {
            live(boot)?;
        }
    } else {
        step(&format!("debugfs {boot}"), || in_fdt(boot))?;
        if option("kho_live").is_some() {
            live(boot)?;
        }
        held = sessions::take(boot, boot == last)?;
    }
    if boot == last {
        return Ok(());
    }
    step(&format!("load {boot}"), || system::load_next(boot + 1))?;
    if boot == 0 && option("kho_wait").is_some() {
        say(&format!("guest: machine_kexec {:x}", system::symbol("machine_kexec")?));
        system::wait_for_a_byte()?;
    }
    let left = system::kexec();
    drop(held);
    left
}

/// What the previous kernel left, as this one exports it.
fn in_fdt(boot: u32) -> Fails {
    // Linux's test of itself preserves something in the first kernel only.
    let test = if boot == 1 { "kho_test " } else { "" };
    let fine = "fine, as far as the root FDT goes";
    let nodes = ["root FDT", "kho-v4", "memblock ", "LUO ", "kexec-metadata ", test, fine];
    command::shows(&["dump", "/sys/kernel/debug/kho/in/fdt"], &nodes)
}

/// What the running kernel shows of itself: all but the sessions, which it writes when it freezes. Their files are
/// preserved already, by owners that nobody can know yet.
fn live(boot: u32) -> Fails {
    if boot > 0 {
        // Its own handover, and not what it took over: of that the tree's pages are overwritten.
        let args = ["dump", "/proc/kcore"];
        return step("/proc/kcore", || {
            command::shows(&args, &["live update 2: 0 sessions", ", its tree cannot be read"])
        });
    }
    const SHOWN: [&str; 8] = [
        "kho-v4 (found by search)",
        "memblock-v1",
        "reserve_mem testmem: 1 MiB at ",
        "live update 1: 0 sessions, 0 files, 0 FLBs",
        "Linux writes its sessions when it freezes",
        "is right (words, as x86-64)",
        "left by Linux ",
        "pages that no node owns",
    ];
    step("/proc/kcore", || command::shows(&["dump", "/proc/kcore"], &SHOWN))?;
    step("/dev/mem", || command::shows(&["dump", "/dev/mem"], &SHOWN))?;
    step("out/fdt", || {
        let hint = "hint: a copy of debugfs kho/out/fdt is cut like this";
        command::refuses(&["dump", "/sys/kernel/debug/kho/out/fdt"], hint)
    })
}

/// One thing that is tried, and its verdict.
fn step(name: &str, what: impl FnOnce() -> Fails) -> Fails {
    match what() {
        Ok(()) => say(&format!("guest: ok {name}")),
        Err(error) => {
            say(&format!("guest: FAIL {name}: {error}"));
            return Err("that stops it".into());
        }
    }
    Ok(())
}
