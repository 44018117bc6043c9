//! A test binary that is predecessor and successor in one: each scenario starts it again as a child, which runs only the
//! test `role`, whose part the variable `KHO_TEST_ROLE` names. The last image says `verdict: ok`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use kho::transport::{Program, VARIABLE};
use rustix::fs::MemfdFlags;

pub(crate) const ROLE: &str = "KHO_TEST_ROLE";
pub(crate) const EXPECT: &str = "KHO_TEST_EXPECT";
pub(crate) const HOW: &str = "KHO_TEST_HOW";
pub(crate) const ARGS: [&str; 3] = ["--exact", "role", "--nocapture"];

pub(crate) fn child(program: &Path, role: &str) -> Command {
    let mut command = Command::new(program);
    command.args(ARGS).env(ROLE, role);
    command
}

pub(crate) fn me() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// What the test `role` of a binary does: nothing, or in a child the part that the environment names.
pub(crate) fn play(parts: &[(&str, fn())]) {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (_, part) = parts.iter().find(|(name, _)| *name == role).unwrap_or_else(|| panic!("no role {role}"));
    part();
    println!("verdict: ok");
    std::process::exit(0);
}

#[track_caller]
pub(crate) fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("verdict: ok\n"), "{}\n{text}\n{errors}", output.status);
    text
}

pub(crate) fn memfd(content: &str) -> OwnedFd {
    let file = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
    File::from(file.try_clone().unwrap()).write_all_at(content.as_bytes(), 0).unwrap();
    file
}

pub(crate) fn inode(file: impl AsFd) -> String {
    let stat = rustix::fs::fstat(file).unwrap();
    format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// All open descriptors, and whether they are close-on-exec. Without the one that reads the list.
pub(crate) fn descriptors() -> BTreeMap<i32, bool> {
    let names: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let flags = |name: &String| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{name}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
        Some((name.parse().unwrap(), i64::from_str_radix(flags, 8).unwrap() & 0o2_000_000 != 0))
    };
    names.iter().filter_map(flags).collect()
}

pub(crate) fn socket_number() -> i32 {
    std::env::var(VARIABLE).unwrap().split(':').next().unwrap().parse().unwrap()
}

pub(crate) fn inheritable() -> Vec<i32> {
    descriptors().into_iter().filter(|(_, cloexec)| !cloexec).map(|(number, _)| number).collect()
}

pub(crate) fn next(role: &str) -> Program {
    Program::current().unwrap().env(ROLE, role)
}

/// All that a refused exec could have changed.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) descriptors: BTreeMap<i32, bool>,
    pub(crate) signals: Vec<String>,
    pub(crate) env: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    pub(crate) folder: PathBuf,
    pub(crate) threads: usize,
}

pub(crate) fn snapshot() -> (Snapshot, usize) {
    // Of this thread, which execs: /proc/self is the main one, and that blocks all signals as long as it is in
    // pthread_create, which it may still be when the thread of the test runs already.
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let snapshot = Snapshot {
        descriptors: descriptors(),
        signals: signals(&status),
        env: std::env::vars_os().collect(),
        folder: std::env::current_dir().unwrap(),
        threads: std::fs::read_dir("/proc/self/task").unwrap().count(),
    };
    (snapshot, std::fs::read_to_string("/proc/self/maps").unwrap().lines().count())
}

/// What `/proc/PID/status` says of signals. Of `SigQ` only the limit: how many signals are queued is counted over all
/// processes of the user, so any other one changes it. What is queued for this process is in `SigPnd` and `ShdPnd`.
fn signals(status: &str) -> Vec<String> {
    let ours = status.lines().filter(|line| ["Sig", "ShdPnd"].iter().any(|name| line.starts_with(name)));
    ours.map(|line| match (line.strip_prefix("SigQ:"), line.split_once('/')) {
        (Some(_), Some((_, limit))) => format!("SigQ: {limit}"),
        _ => line.to_owned(),
    })
    .collect()
}

pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
