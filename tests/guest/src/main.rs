//! The init of a machine that is replaced: it makes sessions, leaves by kexec, and finds them again in the next kernel.
//! What it says goes into the kernel's log: `guest: ok NAME`, `guest: FAIL NAME: why`, `guest: done`.
#![allow(unused_crate_dependencies)]

#[path = "../../kernels/cpio.rs"]
#[allow(dead_code)]
mod cpio;
mod refusals;
#[path = "../../kernels/scenario.rs"]
#[allow(dead_code)]
mod scenario;
mod sessions;
mod shim;
mod system;

use std::error::Error;
use std::io::Read as _;

use system::say;

type Fails<T = ()> = Result<T, Box<dyn Error>>;

fn main() {
    if let Err(error) = system::mounts() {
        println!("guest: FAIL mounts: {error}");
    }
    let boot = system::option("kho_boot").and_then(|number| number.parse().ok()).unwrap_or(0);
    if let Err(error) = run(boot) {
        say(&format!("guest: FAIL boot {boot}: {error}"));
    }
    say("guest: done");
    system::end();
}

fn run(boot: u32) -> Fails {
    let last = system::option("kho_last").map_or(Ok(1), |number| number.parse())?;
    let mut held = Vec::new();
    if boot == 0 {
        if system::option("kho_refusals").is_some() {
            refusals::before()?;
        }
        step("make", || {
            held = sessions::make()?;
            Ok(())
        })?;
    } else {
        held = sessions::take(boot, boot == last)?;
    }
    if boot == last {
        return Ok(());
    }
    step(&format!("load {boot}"), || system::load_next(boot + 1))?;
    if boot == 0 && system::option("kho_wait").is_some() {
        say(&format!("guest: machine_kexec {:x}", system::symbol("machine_kexec")?));
        std::io::stdin().read_exact(&mut [0])?;
    }
    let left = system::kexec();
    drop(held);
    left
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
