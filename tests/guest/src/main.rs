//! The init of a machine that is replaced: it makes sessions, leaves by kexec, and finds them again in the next kernel.
//! What it says goes into the kernel's log: `guest: ok NAME`, `guest: FAIL NAME: why`, `guest: done`.

mod command;
#[path = "../../kernels/cpio.rs"]
#[allow(dead_code, reason = "the host uses the rest")]
mod cpio;
mod handover;
#[path = "../../kernels/refusals.rs"]
mod refusals;
#[path = "../../kernels/scenario.rs"]
#[allow(dead_code, reason = "the host uses the rest")]
mod scenario;
mod sessions;
mod system;

use std::error::Error;

use kho::liveupdate::Device;
use system::{option, say};

type Fails<T = ()> = Result<T, Box<dyn Error>>;

fn main() {
    // An init gets words of the kernel's command line.
    if let (2.., Some(role)) = (std::process::id(), std::env::args().nth(1)) {
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
    if option("liveupdate").as_deref() == Some("off") {
        return step("refusals without", refusals::without);
    }
    let last = option("kho_last").map_or(Ok(1), |number| number.parse())?;
    let mut held = sessions::Held::default();
    if let (0, Some(base), Some(scratch)) = (boot, option("kho_authored"), option("kho_scratch_at")) {
        step("load authored", || system::load_authored(&base, &scratch))?;
        command::kho(&["kexec", "now"])?;
        return Err("kexec came back".into());
    }
    let refusals = option("kho_refusals").is_some();
    let live = option("kho_live").is_some();
    let altered = option("kho_altered").is_some();
    let whole = option("kho_handover").is_some();
    let (mut preserved, mut served) = (None, None);
    if boot == 0 {
        if refusals {
            step("refusals before", || {
                held.sessions = refusals::before()?;
                Ok(())
            })?;
        }
        step("make", || sessions::make(&mut held))?;
        if whole {
            step("handover 0", || {
                preserved = Some(handover::make()?);
                Ok(())
            })?;
            step("serve-demo 0", || {
                served = Some(command::serves()?);
                Ok(())
            })?;
        }
        if live {
            first_live()?;
        }
        if altered {
            command::planned(&["/proc/kcore", "--against", "/kernel"])?;
        }
    } else if altered {
        return left_by_another();
    } else {
        step(&format!("debugfs {boot}"), || in_fdt(boot))?;
        if live {
            next_live()?;
        }
        if refusals {
            step("refusals after", refusals::after)?;
        }
        sessions::take(&mut held, boot, boot == last)?;
        if whole {
            step(&format!("handover {boot}"), || {
                preserved = handover::take(boot, boot == last)?;
                Ok(())
            })?;
            // It goes no further: who runs it again makes a new one.
            if boot == 1 {
                step("serve-demo 1", command::serves_on)?;
            }
        }
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
    drop((held, preserved, served));
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
fn first_live() -> Fails {
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
    const RUNNING: [&str; 6] = [
        "kho-v4 reads kho-v4 (exported by the running kernel)",
        "luo-v5 reads luo-v5 (exported by the running kernel)",
        "memblock-v1 reads memblock-v1 (exported by the running kernel)",
        "kho-test-v1 reads kho-test-v1 (exported by the running kernel)",
        "kexec-metadata-v1 reads kexec-metadata-v1 (exported by the running kernel)",
        "/proc/kcore against running: go",
    ];
    const PLANNED: [&str; 5] = [
        "kho-v4 reads kho-v4",
        "luo-v5 reads luo-v5",
        "memblock-v1 reads memblock-v1",
        "a machine that runs shows no session",
        "/proc/kcore against /kernel: go",
    ];
    step("/proc/kcore", || command::shows(&["dump", "/proc/kcore"], &SHOWN))?;
    step("/dev/mem", || command::shows(&["dump", "/dev/mem"], &SHOWN))?;
    // The kernel that is loaded next is the same.
    step("plan", || command::shows(&["plan", "/proc/kcore", "--against", "/kernel"], &PLANNED))?;
    step("running", || command::shows(&["plan", "/proc/kcore", "--against", "running"], &RUNNING))?;
    step("out/fdt", || {
        let hint = "hint: a copy of debugfs kho/out/fdt is cut like this";
        command::refuses(&["dump", "/sys/kernel/debug/kho/out/fdt"], hint)
    })
}

/// What a kernel makes of a handover that is not its own: the session `many` is asked for twice.
fn left_by_another() -> Fails {
    let there = std::fs::exists("/sys/kernel/debug/kho/in/fdt")?;
    say(&format!("guest: in/fdt {}", if there { "there" } else { "absent" }));
    for _ in 0..2 {
        match Device::open().and_then(|device| device.retrieve("many")) {
            Ok(session) => say(&format!("guest: retrieved {}", session.name())),
            Err(refused) => say(&format!("guest: {refused}")),
        }
    }
    Ok(())
}

/// Its own handover, and not what it took over: of that the tree's pages are overwritten.
fn next_live() -> Fails {
    let shown = ["live update 2: 0 sessions", ", its tree cannot be read"];
    step("/proc/kcore", || command::shows(&["dump", "/proc/kcore"], &shown))?;
    // Its own root is not exported any more.
    let by = "exported by the running kernel";
    let reads =
        ["kho-v4", "luo-v5", "memblock-v1", "kexec-metadata-v1"].map(|name| format!("reads      {name:<20} {by}"));
    let known = ["machine    x86-64", "page size  4 KiB"].map(String::from);
    let shown: Vec<&str> = reads.iter().chain(&known).map(String::as_str).collect();
    step("running", || command::shows(&["understands", "running"], &shown))
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
