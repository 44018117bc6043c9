//! Files of every kind across a real exec, and to a process beside: the successor goes on with each of them where the
//! predecessor was.
#![cfg(all(feature = "std", feature = "derive"))]

#[path = "common/calls.rs"]
mod calls;
mod common;

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::{cell::RefCell, mem};

use kho::abi::{files, state::NODE};
use kho::files::{Beside as _, FilesNode, Kind, Route};
use kho::handover::{Outgoing, Registry};
use kho::state::{FileDescriptor, Origin, State, States, StatesNode};
use kho::transport::{Arrival, Bundle, Call, Caller, Upgrade};
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitIdOptions, pidfd_open};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use common::*;

const EVENT: u64 = 1;
const EPOLL: u64 = 2;
const LISTENER: u64 = 3;
const CLIENT: u64 = 4;
const READER: u64 = 5;
const WRITER: u64 = 6;
const TIMER: u64 = 7;
const SIGNALS: u64 = 8;
const CHILD: u64 = 9;
const TALK: u64 = 10;
const LOG: u64 = 11;
const SCRATCH: u64 = 12;
const ZERO: u64 = 13;
const RAM: u64 = 14;
const HUGE: u64 = 15;
const HUGE_BYTES: u64 = 2 << 20;

kho::manifest! {
    static MANIFEST = [both(files::NODE, &[kho::files::MADE_OF]), states(NODE, &[Server::SHAPE]).optional()];
}

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[
        ("all", leave_with_all),
        ("all: arrive", || arrive_with_all(Arrival::take().unwrap().expect("a handover"), true)),
        ("beside", leave_beside),
        ("beside: arrive", || {
            let number = std::env::var(HOW).unwrap().parse().unwrap();
            arrive_with_all(Call::inherited(number).unwrap().arrive(&MANIFEST).unwrap(), false);
        }),
        ("states", leave_with_states),
        ("states: arrive", arrive_with_states),
        ("unwatched", leave_without_what_is_watched),
        ("unwatched: arrive", arrive_without_what_is_watched),
    ]);
}

fn leave(outgoing: Outgoing<Bundle>) {
    let role = std::env::var(ROLE).unwrap() + ": arrive";
    panic!("{}", outgoing.finish().unwrap().exec(&next(&role), None));
}

fn watch(file: &OwnedFd, data: u64) -> OwnedFd {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, file, epoll::EventData::new_u64(data), epoll::EventFlags::IN).unwrap();
    epoll
}

#[test]
fn a_successor_goes_on_with_every_kind() {
    for role in ["all", "beside"] {
        // A child inherits what the thread that starts it blocks, so that none of its threads takes these signals: a test
        // runs in a thread of its own, and cannot block them for the main one.
        calls::block(&[libc::SIGUSR1, libc::SIGUSR2]);
        let text = succeeds(child(&me(), role));
        for line in text.lines().filter(|line| line.contains("needs ")) {
            eprintln!("{line}");
        }
    }
}

fn leave_with_all() {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    let (files, folder) = all_files();
    files.into_iter().for_each(|(token, file)| outgoing.preserve_file(token, file).unwrap());
    let refused = outgoing.memory().files().refused_by(Route::Session);
    assert_eq!(refused.len(), outgoing.memory().files().len() - 1, "the memfd alone");
    let program = next("all: arrive").env(EXPECT, folder.to_str().unwrap());
    panic!("{}", outgoing.finish().unwrap().exec(&program, None));
}

/// To a child, by a socket that it inherits.
fn leave_beside() {
    type Files = Vec<(u64, OwnedFd)>;
    let (mut files, folder) = all_files();
    let (caller, other) = Caller::pair().unwrap();
    rustix::io::fcntl_setfd(&other, rustix::io::FdFlags::empty()).unwrap();
    let mut command = child(&me(), "beside: arrive");
    command.env(HOW, other.as_raw_fd().to_string()).env(EXPECT, &folder);
    let successor = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(other);
    let upgrade = Upgrade::new(&MANIFEST).prepare(|files: &mut Files, outgoing| {
        let add = |(token, file)| outgoing.preserve_file(token, file).map_err(|rejected| rejected.fault);
        files.drain(..).try_for_each(add)
    });
    drop(upgrade.run(&mut files, Bundle::new(1 << 20).unwrap(), caller).unwrap());
    let output = successor.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("verdict: ok"));
}

/// One of each kind, in use, and the folder where the named ones are.
#[allow(clippy::zombie_processes, reason = "the successor ends the child")]
fn all_files() -> (Vec<(u64, OwnedFd)>, PathBuf) {
    let mut files = Vec::new();
    let mut keep = |token, file: OwnedFd| files.push((token, file));
    let folder = tempfile::tempdir().unwrap().keep();

    let event = eventfd(41, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    keep(EPOLL, watch(&event, 77));
    keep(EVENT, event);

    let listener = UnixListener::bind(folder.join("socket")).unwrap();
    let mut client = UnixStream::connect(folder.join("socket")).unwrap();
    client.write_all(b"waiting").unwrap();
    keep(LISTENER, listener.into());
    keep(CLIENT, client.into());

    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"left in the pipe").unwrap();
    keep(READER, reader.into());
    keep(WRITER, writer.into());

    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let it_value = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    let spec = Itimerspec { it_value, it_interval: Timespec { tv_sec: 0, tv_nsec: 0 } };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).unwrap();
    keep(TIMER, timer);

    keep(SIGNALS, calls::signalfd(&[libc::SIGUSR1, libc::SIGUSR2]));
    rustix::process::kill_process(rustix::process::getpid(), Signal::USR1).unwrap();

    // Another process, which goes on talking to whoever has the other end.
    let (mut talk, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let echo = Command::new("cat").stdin(theirs.try_clone().unwrap()).stdout(Stdio::from(theirs)).spawn().unwrap();
    talk.write_all(b"before").unwrap();
    keep(CHILD, pidfd_open(Pid::from_child(&echo), PidfdFlags::empty()).unwrap());
    keep(TALK, talk.into());

    let mut log = File::create_new(folder.join("log")).unwrap();
    log.write_all(b"predecessor\n").unwrap();
    keep(LOG, log.into());
    let mut scratch = tempfile::tempfile_in(&folder).unwrap();
    scratch.write_all(b"0123").unwrap();
    scratch.seek(SeekFrom::Start(2)).unwrap();
    keep(SCRATCH, scratch.into());
    keep(ZERO, File::open("/dev/zero").unwrap().into());
    keep(RAM, memfd("ram"));

    match huge() {
        Ok(file) => keep(HUGE, file),
        Err(error) => println!("needs huge pages (sysctl vm.nr_hugepages=1): {error}"),
    }
    (files, folder)
}

/// A page of 2 MiB that is there. The file alone could be made without any.
fn huge() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = rustix::fs::memfd_create(c"huge", flags)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, HUGE_BYTES)?;
    Ok(file)
}

fn arrive() -> (Registry<Bundle>, Arrival) {
    (Registry::new(), Arrival::take().unwrap().expect("a handover"))
}

/// Whether something can be read within so many milliseconds.
fn ready(file: BorrowedFd<'_>, ms: i64) -> bool {
    let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

fn read(file: &mut impl std::io::Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes).unwrap();
    bytes
}

/// Where the predecessor was in this process, its signals are this one's, and its child.
fn arrive_with_all(arrival: Arrival, same_process: bool) {
    let mut registry = Registry::new();
    let handle = registry.add(files::NODE, FilesNode);
    let plan = arrival.incoming.plan(&registry);
    assert_eq!(plan.findings().to_string(), "");
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let mut files = restored.take(&handle).unwrap();
    arrival.turn.take().unwrap();
    restored.finish().1.unwrap();
    let mut take = |token| files.take(token).unwrap();

    let (event, mut events) = (take(EVENT), take(EPOLL));
    let mut seen = Vec::with_capacity(8);
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut waiting = |epoll: &mut OwnedFd| {
        seen.clear();
        epoll::wait(&*epoll, rustix::buffer::spare_capacity(&mut seen), Some(&now)).unwrap();
        seen.iter().map(|event| event.data.u64()).collect::<Vec<u64>>()
    };
    assert_eq!(waiting(&mut events), [77], "the registration has come, with its data");
    let mut event = File::from(event);
    assert_eq!(read(&mut event, 8), 41_u64.to_ne_bytes());
    assert_eq!(waiting(&mut events), [0; 0]);
    event.write_all(&2_u64.to_ne_bytes()).unwrap();
    assert_eq!(waiting(&mut events), [77]);

    let listener = UnixListener::from(take(LISTENER));
    let mut client = UnixStream::from(take(CLIENT));
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(read(&mut server, 7), b"waiting");
    server.write_all(b"served").unwrap();
    assert_eq!(read(&mut client, 6), b"served");

    let (mut reader, writer) = (File::from(take(READER)), take(WRITER));
    assert_eq!(read(&mut reader, 16), b"left in the pipe");
    File::from(writer).write_all(b"!").unwrap();
    assert_eq!(read(&mut reader, 1), b"!");

    let timer = take(TIMER);
    assert!(ready(timer.as_fd(), 10_000), "the timer runs on");
    assert_eq!(read(&mut File::from(timer), 8), 1_u64.to_ne_bytes());

    let mut signals = File::from(take(SIGNALS));
    let number = |signals: &mut File| i32::from_ne_bytes(read(signals, 128)[..4].try_into().unwrap());
    if same_process {
        assert_eq!(number(&mut signals), libc::SIGUSR1, "it was pending when the predecessor left");
    }
    rustix::process::kill_process(rustix::process::getpid(), Signal::USR2).unwrap();
    assert_eq!(number(&mut signals), libc::SIGUSR2);

    let (process, mut talk) = (take(CHILD), UnixStream::from(take(TALK)));
    assert_eq!(read(&mut talk, 6), b"before");
    talk.write_all(b"after").unwrap();
    assert_eq!(read(&mut talk, 5), b"after");
    assert!(!ready(process.as_fd(), 0), "the child lives");
    rustix::process::pidfd_send_signal(&process, Signal::TERM).unwrap();
    assert!(ready(process.as_fd(), 10_000), "and has ended");
    if same_process {
        let ended = rustix::process::waitid(rustix::process::WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED);
        assert_eq!(ended.unwrap().unwrap().terminating_signal(), Some(libc::SIGTERM));
    }

    let folder = PathBuf::from(std::env::var(EXPECT).unwrap());
    File::from(take(LOG)).write_all(b"successor\n").unwrap();
    assert_eq!(std::fs::read_to_string(folder.join("log")).unwrap(), "predecessor\nsuccessor\n");
    std::fs::remove_dir_all(folder).unwrap();
    let mut scratch = File::from(take(SCRATCH));
    let mut rest = String::new();
    scratch.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "23");
    assert_eq!(read(&mut File::from(take(ZERO)), 3), [0; 3]);
    assert_eq!(read(&mut File::from(take(RAM)), 3), b"ram");
    if let Some(huge) = files.take(HUGE) {
        assert_eq!(Kind::of(&huge).unwrap(), Kind::Hugetlb);
        assert_eq!(read(&mut File::from(huge), HUGE_BYTES as usize), vec![0; HUGE_BYTES as usize]);
    }
    assert!(files.is_empty());
}

/// What a server has open, as a part of its state.
#[derive(State)]
#[state(id = 30, version = 1)]
struct Server {
    name: String,
    wake: FileDescriptor,
    listener: FileDescriptor,
}

#[test]
fn descriptors_that_a_state_has_are_of_any_kind() {
    succeeds(child(&me(), "states"));
}

fn leave_with_states() {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let server = Server {
        name: listener.local_addr().unwrap().to_string(),
        wake: eventfd(5, EventfdFlags::CLOEXEC).unwrap().into(),
        listener: OwnedFd::from(listener).into(),
    };
    let server = Rc::new(RefCell::new(server));
    let mut states = States::new();
    assert_eq!(states.attach(0, &server).unwrap(), Origin::Fresh);
    outgoing.preserve(NODE, &states).unwrap();
    // What does not travel is refused by the state's own path, and nothing stays.
    assert!(outgoing.unpreserve(NODE));
    let wake = mem::replace(&mut server.borrow_mut().wake, OwnedFd::from(File::open("/").unwrap()).into());
    let says =
        "file-kind: server.wake.files[0x8000000000000000].kind: a directory, which the successor opens by its path";
    assert_eq!(outgoing.preserve(NODE, &states).unwrap_err().to_string(), says);
    assert!(outgoing.memory().files().is_empty());
    server.borrow_mut().wake = wake;
    outgoing.preserve(NODE, &states).unwrap();
    leave(outgoing);
}

fn arrive_with_states() {
    let (mut registry, arrival) = arrive();
    registry.add(files::NODE, FilesNode);
    let node = registry.add(NODE, StatesNode::new(&[Server::SHAPE]));
    let plan = arrival.incoming.plan(&registry);
    assert_eq!(plan.findings().to_string(), "");
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let server = restored.take(&node).unwrap().take::<Server>(0).unwrap().unwrap();
    drop(restored);
    let client = std::net::TcpStream::connect(&server.name).unwrap();
    let (_, from) = std::net::TcpListener::from(OwnedFd::from(server.listener)).accept().unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    assert_eq!(read(&mut File::from(OwnedFd::from(server.wake)), 8), 5_u64.to_ne_bytes());
}

#[test]
fn an_epoll_loses_what_does_not_travel_and_the_plan_says_so() {
    succeeds(child(&me(), "unwatched"));
}

fn leave_without_what_is_watched() {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    outgoing.preserve_file(EPOLL, watch(&event, 77)).unwrap();
    // Open until exec closes it.
    mem::forget(event);
    leave(outgoing);
}

fn arrive_without_what_is_watched() {
    let (mut registry, arrival) = arrive();
    registry.add(files::NODE, FilesNode);
    let told = arrival.incoming.plan(&registry).findings().to_string();
    assert_eq!(told, "error: /files: file-identity: files[0x2].watches: found 0x0, expected 0x1");
}
