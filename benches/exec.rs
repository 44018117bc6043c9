//! What a handover across exec costs above a bare exec.
//!
//! `cargo build --release && cargo bench -p kho-benches --bench exec`
//!
//! Every sample is a process of its own that prepares, notes the time, execs itself, and says how long it was until
//! everything was there. The kinds take turns, so that a machine that slows down slows all of them. The row of the demo
//! is what `kho demo` itself reports; it needs the built command beside this one.
//!
//! Unsafe: one mapping of a memfd that is never truncated, for the row that shows what leaving it mapped costs.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use kho::files::FilesNode;
use kho::handover::{Outgoing, Registry};
use kho::transport::{Arrival, Bundle, Program};
use kho_benches::quick;
use rustix::fs::MemfdFlags;

/// `KIND:BYTES`, and in a bare successor also the time of departure.
const ROLE: &str = "KHO_BENCH_ROLE";
const LEFT: &str = "KHO_BENCH_LEFT";

fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn memfd(bytes: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create("bench", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, bytes).unwrap();
    // Its pages are there: a sparse file would cost nothing whatever is done with it.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1)).unwrap();
    file
}

fn touch(file: &OwnedFd, bytes: u64) {
    use rustix::mm::{MapFlags, ProtFlags};
    let len = bytes as usize;
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping at an address that the system chooses; the file is as long and nobody shrinks it.
    let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file, 0) }.unwrap().cast::<u8>();
    for offset in (0..len).step_by(4096) {
        // SAFETY: inside the mapping, which stays until the process is replaced; nobody else knows of it.
        unsafe { at.add(offset).write_volatile(1) };
    }
}

/// The predecessor of one sample. Never returns when all is well.
fn leave(role: &str) {
    let (kind, bytes) = role.split_once(':').unwrap();
    let bytes: u64 = bytes.parse().unwrap();
    if kind == "bare" {
        let mut command = Command::new("/proc/self/exe");
        command.env(ROLE, role).env(LEFT, now().to_string());
        panic!("{}", command.exec());
    }
    let file = memfd(bytes);
    if kind == "mapped" {
        touch(&file, bytes);
    }
    let program = Program::current().unwrap();
    let left = now();
    let mut outgoing = Outgoing::new(Bundle::new(1 << 30).unwrap());
    outgoing.preserve_file(1, file).unwrap();
    let finished = outgoing.finish().unwrap();
    panic!("{}", finished.exec(&program.env(LEFT, left.to_string()), None));
}

/// The successor: everything restored, and the time since the predecessor began.
fn arrive(role: &str, left: u64) {
    let restored = (!role.starts_with("bare")).then(|| {
        let arrival = Arrival::take().unwrap().expect("a handover");
        let mut registry = Registry::new();
        let handle = registry.add(kho::abi::files::NODE, FilesNode);
        let mut restored = arrival.incoming.plan(&registry).accept().unwrap().restore().unwrap();
        restored.take(&handle).unwrap()
    });
    println!("{}", now() - left);
    drop(restored);
}

fn sample(role: &str) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap()).env(ROLE, role).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse().unwrap_or_else(|_| panic!("{role}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// What `kho demo` says of itself: its blackout in nanoseconds.
fn demo() -> Option<u64> {
    let command = std::env::current_exe().ok()?.parent()?.parent()?.join("kho");
    let output = Command::new(command).args(["demo", "--size", "16MiB", "--format", "json"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (_, rest) = text.split_once("\"blackout\":")?;
    rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return match std::env::var(LEFT) {
            Ok(left) => arrive(&role, left.parse().unwrap()),
            Err(_) => leave(&role),
        };
    }
    let large = if quick() { 256 << 20 } else { 8_u64 << 30 };
    let rounds = if quick() { 3 } else { 15 };
    let kinds = [
        ("bare exec".to_owned(), "bare:0".to_owned()),
        ("memfd of 16 MiB by descriptor".to_owned(), format!("fd:{}", 16 << 20)),
        (format!("memfd of {} MiB by descriptor", large >> 20), format!("fd:{large}")),
        (format!("the same, left mapped and touched ({} MiB)", large >> 20), format!("mapped:{large}")),
    ];
    let mut times = vec![Vec::new(); kinds.len() + 1];
    // The large ones in turns of their own: gigabytes that come and go slow down whatever is measured beside them.
    for _ in 0..rounds {
        for (times, (_, role)) in times.iter_mut().zip(&kinds).take(2) {
            times.push(sample(role));
        }
        times[kinds.len()].extend(demo());
    }
    for _ in 0..rounds {
        for (times, (_, role)) in times.iter_mut().zip(&kinds).skip(2) {
            times.push(sample(role));
        }
    }
    let median = |times: &mut Vec<u64>| {
        times.sort_unstable();
        times.get(times.len() / 2).map(|time| *time as f64 / 1e6)
    };
    let medians: Vec<Option<f64>> = times.iter_mut().map(median).collect();
    let bare = medians[0].unwrap();
    println!("| {:<50} | {:>9} | {:>14} |", "exec, until everything is restored", "ms", "above bare, ms");
    let names = kinds.iter().map(|(name, _)| name.as_str()).chain(["kho demo --size 16MiB, its blackout"]);
    for (name, median) in names.zip(medians) {
        match median {
            Some(median) => println!("| {name:<50} | {median:>9.2} | {:>14.2} |", median - bare),
            None => println!("| {name:<50} | needs the command: cargo build --release |"),
        }
    }
}
