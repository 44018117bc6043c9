//! What an upgrade costs while nobody serves: to a process that waits beside, and by exec with and without a keeper.
//!
//! `cargo bench -p kho-benches --bench living`
//!
//! Every sample is an upgrade between real processes: the predecessor starts its successor, which waits, and the blackout
//! is from the first hook that freezes until the successor has taken over, with everything restored. The kinds take turns.
//! Peers, in the same run: the same messages to and fro without a handover; the same descriptors in bare messages; and a
//! bare exec.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use kho::abi;
use kho::compat::{Compat, CompatList};
use kho::files::{self, FilesNode};
use kho::handover::Registry;
use kho::payload::{Bytes, BytesNode};
use kho::transport::{Arrival, Bundle, Call, Caller, Exec, Patience, Program, Ticket, Upgrade, Whose};
use kho_benches::quick;
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};

const STATE: CompatList<'static> = CompatList::new(Compat::new("bench-state", 1), &[]);

kho::manifest! {
    static MANIFEST = [both("state", &[STATE]), both(abi::files::NODE, &[files::MADE_OF])];
}

/// `KIND:NUMBER`: what a process of a sample does.
const ROLE: &str = "KHO_BENCH_ROLE";
/// Where its socket is.
const SOCKET: &str = "KHO_BENCH_SOCKET";

fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn memfd(bytes: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create("bench", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    if bytes > 0 {
        rustix::fs::ftruncate(&file, bytes).unwrap();
        // Its pages are there: a sparse file would cost nothing whatever is done with it.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    }
    file
}

/// What is handed over.
struct Files {
    early: Vec<OwnedFd>,
    late: Vec<OwnedFd>,
}

fn upgrade() -> Upgrade<Files> {
    let add = |outgoing: &mut kho::handover::Outgoing<Bundle>, files: &mut Vec<OwnedFd>, first: u64| {
        for (token, file) in (first..).zip(files.drain(..)) {
            outgoing.preserve_file(token, file).map_err(|rejected| rejected.fault)?;
        }
        Ok(())
    };
    Upgrade::new(&MANIFEST)
        .prepare(move |files: &mut Files, outgoing| add(outgoing, &mut files.early, 1))
        .preserve(move |files, outgoing| {
            add(outgoing, &mut files.late, 1 << 32)?;
            outgoing.preserve("state", &Bytes { made_of: STATE, bytes: &[7; 4096] })
        })
        .patience(Patience { hello: Duration::from_secs(20), ..Patience::default() })
}

fn files_of(kind: &str, number: u64) -> Files {
    let (early, late) = match kind {
        "late" => (Vec::new(), (0..number).map(|_| memfd(0)).collect()),
        "early" => ((0..number).map(|_| memfd(0)).collect(), Vec::new()),
        _ => (vec![memfd(number)], Vec::new()),
    };
    Files { early, late }
}

/// Restores all, takes over, and says how long nobody served.
fn take_over(arrival: Arrival) {
    let mut registry = Registry::of(&MANIFEST);
    registry.read("state", BytesNode { made_of: STATE, limit: 4096 });
    registry.add(abi::files::NODE, FilesNode);
    let Arrival { incoming, turn, .. } = arrival;
    let restored = incoming.plan(&registry).accept().unwrap().restore().unwrap();
    let report = turn.take().unwrap();
    if std::env::var_os("KHO_BENCH_SHOW").is_some() {
        eprintln!("{report}\n");
    }
    assert!(report.step(Whose::Predecessor, "freeze").is_some());
    println!("{}", report.blackout.unwrap());
    restored.finish().1.unwrap();
}

fn role(role: &str) {
    let (kind, number) = role.split_once(':').unwrap();
    let number: u64 = number.parse().unwrap();
    let socket = std::env::var(SOCKET).ok().map(|number| kho::liveupdate::inherited(number.parse().unwrap()).unwrap());
    match (kind, socket) {
        ("echo", Some(socket)) => echo(&socket, number),
        ("sink", Some(socket)) => sink(&socket, number),
        (_, Some(socket)) => take_over(Call::of(socket).unwrap().arrive(&MANIFEST).unwrap()),
        ("bare", None) => match std::env::var("KHO_BENCH_LEFT") {
            Ok(left) => println!("{}", now() - left.parse::<u64>().unwrap()),
            Err(_) => {
                let mut command = Command::new("/proc/self/exe");
                panic!("{}", command.env("KHO_BENCH_LEFT", now().to_string()).exec());
            }
        },
        ("exec" | "kept", None) => match Arrival::take().unwrap() {
            Some(arrival) => take_over(arrival),
            None => {
                let (program, ticket) = (Program::current().unwrap(), Ticket::current().unwrap());
                let way = Exec::new(&program);
                let way = if kind == "kept" { way.kept(&ticket) } else { way };
                let mut files = files_of(kind, number);
                panic!("{}", upgrade().run(&mut files, Bundle::new(1 << 30).unwrap(), way).unwrap_err());
            }
        },
        _ => {
            let (caller, other) = Caller::pair().unwrap();
            let child = start(role, other);
            let mut files = files_of(kind, number);
            drop(upgrade().run(&mut files, Bundle::new(1 << 30).unwrap(), caller).unwrap());
            print!("{}", String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap());
        }
    }
}

/// A child in that role, with that socket.
fn start(role: &str, socket: OwnedFd) -> std::process::Child {
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&socket).to_string();
    let mut command = Command::new("/proc/self/exe");
    let child = command.env(ROLE, role).env(SOCKET, number).stdout(Stdio::piped()).spawn().unwrap();
    drop(socket);
    child
}

/// A process that echoes: what three messages to and fro cost.
fn echo(socket: &OwnedFd, rounds: u64) {
    let mut byte = [0];
    for _ in 0..rounds {
        rustix::io::read(socket, &mut byte[..]).unwrap();
        rustix::io::write(socket, &byte).unwrap();
    }
}

/// Receives so many descriptors, and says so.
fn sink(socket: &OwnedFd, number: u64) {
    use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};
    let mut got = Vec::new();
    rustix::io::write(socket, &[1]).unwrap();
    while (got.len() as u64) < number {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 8];
        recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        for message in control.drain() {
            if let rustix::net::RecvAncillaryMessage::ScmRights(files) = message {
                got.extend(files);
            }
        }
    }
    rustix::io::write(socket, &[1]).unwrap();
}

/// Nanoseconds of a bare peer: messages to and fro, or descriptors.
fn peer(kind: &str, number: u64) -> u64 {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let files: Vec<OwnedFd> = if kind == "sink" { (0..number).map(|_| memfd(0)).collect() } else { Vec::new() };
    let child = start(&format!("{kind}:{number}"), theirs);
    let mut byte = [0];
    let started = if kind == "sink" {
        rustix::io::read(&ours, &mut byte[..]).unwrap();
        let started = now();
        for batch in files.chunks(253) {
            use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
            let batch: Vec<_> = batch.iter().map(|file| file.as_fd()).collect();
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&batch)));
            sendmsg(&ours, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        }
        rustix::io::read(&ours, &mut byte[..]).unwrap();
        started
    } else {
        // The first wakes it up.
        rustix::io::write(&ours, &byte).unwrap();
        rustix::io::read(&ours, &mut byte[..]).unwrap();
        let started = now();
        for _ in 1..number {
            rustix::io::write(&ours, &byte).unwrap();
            rustix::io::read(&ours, &mut byte[..]).unwrap();
        }
        started
    };
    let took = now() - started;
    drop(child.wait_with_output());
    took
}

fn sample(role: &str) -> u64 {
    let (kind, number) = role.split_once(':').unwrap();
    if matches!(kind, "echo" | "sink") {
        return peer(kind, number.parse().unwrap());
    }
    let output =
        Command::new(std::env::current_exe().unwrap()).env(ROLE, role).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse().unwrap_or_else(|_| panic!("{role}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn main() {
    if let Ok(what) = std::env::var(ROLE) {
        return role(&what);
    }
    // Root may: the descriptors of both sides, and those on their way.
    let wanted = Rlimit { current: Some(65_536), maximum: Some(65_536) };
    if rustix::process::setrlimit(Resource::Nofile, wanted).is_err() {
        println!("RLIMIT_NOFILE cannot be raised: fewer descriptors are handed over");
    }
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(1024);
    let many = if quick() { 1_000 } else { 10_000.min(limit / 2) };
    let (large, rounds) = if quick() { (256 << 20, 3) } else { (8_u64 << 30, 15) };
    let kinds = [
        ("three messages to and fro, bare".to_owned(), "echo:4".to_owned()),
        ("unix: memfd of 16 MiB".to_owned(), format!("size:{}", 16 << 20)),
        (format!("unix: memfd of {} MiB", large >> 20), format!("size:{large}")),
        (format!("{many} descriptors in bare messages"), format!("sink:{many}")),
        (format!("unix: {many} descriptors, sent ahead"), format!("early:{many}")),
        (format!("unix: {many} descriptors, all late"), format!("late:{many}")),
        ("bare exec".to_owned(), "bare:0".to_owned()),
        ("exec: memfd of 16 MiB".to_owned(), format!("exec:{}", 16 << 20)),
        ("the same, with a keeper".to_owned(), format!("kept:{}", 16 << 20)),
    ];
    let mut times = vec![Vec::new(); kinds.len()];
    for _ in 0..rounds {
        for (times, (_, role)) in times.iter_mut().zip(&kinds) {
            times.push(sample(role));
        }
    }
    println!("| {:<45} | {:>9} | {:>9} | {:>9} |", "blackout, ms", "median", "min", "max");
    for (times, (name, _)) in times.iter_mut().zip(&kinds) {
        times.sort_unstable();
        let [median, min, max] =
            [times[times.len() / 2], times[0], times[times.len() - 1]].map(|nanos| nanos as f64 / 1e6);
        println!("| {name:<45} | {median:>9.3} | {min:>9.3} | {max:>9.3} |");
    }
}
