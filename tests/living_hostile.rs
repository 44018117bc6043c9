//! Successors that close, stall, flood and lie, against a predecessor that must go on as before. Their own half of the
//! protocol is written by hand.
#![cfg(feature = "std")]

mod common;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/living.rs"]
mod service;

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use kho::report::Code;
use kho::transport::{Call, Caller, Door, Left, Patience, Stayed, Turn};
use rustix::event::EventfdFlags;
use rustix::process::{Resource, Rlimit, Signal};

use common::*;
use raw::*;
use service::*;

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[
        ("takes over", || {
            let before = inheritable();
            let arrival = arrive();
            assert_eq!(inheritable(), before, "all that came is close-on-exec");
            let restored = restore(arrival.incoming);
            arrival.turn.take().unwrap();
            restored.finish().1.unwrap();
        }),
        ("does as told", does_as_told),
        ("holds the baton", holds_the_baton),
        ("stranger", stranger),
        ("few descriptors", few_descriptors),
        ("kept", kept),
        ("door", || {
            let door = Door::bind(std::env::var(DOOR).unwrap()).unwrap();
            std::fs::set_permissions(std::env::var(DOOR).unwrap(), mode(0o666)).unwrap();
            println!("{}", door.as_fd().as_raw_fd());
            std::thread::sleep(millis(60_000));
        }),
    ]);
}

fn mode(mode: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

fn arrive() -> kho::transport::Arrival {
    Call::connect(std::env::var(DOOR).unwrap(), &[]).unwrap().arrive(&MANIFEST).unwrap()
}

fn hostile() -> (Meeting, Service) {
    (Meeting::new(), Service::new())
}

/// An upgrade to a successor of that script, whose connection lasts as long as what the script returns.
fn meets<T: Send>(
    meeting: &Meeting,
    service: &mut Service,
    patience: Patience,
    script: impl FnOnce(Raw) -> T + Send,
) -> (Result<Left, Stayed>, T) {
    std::thread::scope(|scope| {
        let successor = scope.spawn(|| script(Raw::connect(&meeting.path)));
        let left = service.leave(&upgrade().patience(patience), meeting.caller());
        (left, successor.join().unwrap())
    })
}

#[test]
fn a_successor_that_closes_the_connection_in_any_state() {
    let _alone = alone();
    let (meeting, mut service) = hostile();
    let before = descriptors();
    for (state, name) in STATES.into_iter().enumerate() {
        let (left, held) =
            meets(&meeting, &mut service, Patience::default(), |raw| come_to(&raw, state, MANIFEST.note()));
        let stayed = left.unwrap_err();
        assert_eq!(stayed.fault.code(), Code::PeerClosed, "{name}: {stayed}");
        let steps: &[&str] = match state {
            0 | 1 => &["hello"],
            // The hello may be said, or not any more.
            2 => &["hello", "prepare"],
            3 | 4 => &["prepare"],
            _ => &["deliver"],
        };
        assert!(steps.contains(&stayed.step), "{name}: {stayed}");
        service.serves();
        // The baton is the predecessor's, and says so.
        assert_eq!(held.baton.as_ref().map(value), (state >= 6).then_some(2), "{name}");
        drop((stayed, held));
        assert_eq!(descriptors(), before, "{name}");
    }
    meeting.hands_over(service);
}

#[test]
fn a_successor_that_stalls_in_any_state() {
    let _alone = alone();
    let (meeting, mut service) = hostile();
    let before = descriptors();
    for (state, name) in STATES.into_iter().enumerate() {
        let start = Instant::now();
        let (left, (raw, held)) = meets(&meeting, &mut service, impatient(), |raw| {
            let held = come_to(&raw, state, MANIFEST.note());
            (raw, held)
        });
        assert!(start.elapsed() < millis(8_000), "{name}: {:?}", start.elapsed());
        let stayed = left.unwrap_err();
        assert_eq!(stayed.fault.code(), Code::Late, "{name}: {stayed}");
        let step = ["hello", "hello", "prepare", "prepare", "prepare"].get(state).copied().unwrap_or("deliver");
        assert_eq!(stayed.step, step, "{name}: {stayed}");
        service.serves();
        assert_eq!(held.baton.as_ref().map(value), (state >= 6).then_some(2), "{name}");
        let (kind, told) = raw.rest().pop().unwrap();
        assert!([ABORT, REFUSED].contains(&kind) && told.starts_with("late: "), "{name}: {kind} {told}");
        drop((stayed, held, raw));
        assert_eq!(descriptors(), before, "{name}");
    }
    meeting.hands_over(service);
}

/// What each does when it is in that state, and what the predecessor says of it.
type Lie = (&'static str, usize, fn(&Raw), &'static str);

const FLOODS: &[Lie] = &[
    (
        "a text without end",
        0,
        |raw| {
            let _ = raw.send(&prefixed(HELLO, 1 << 20, &[0; 32 << 10]), &[]);
            while raw.send(&prefixed(MORE, 1 << 20, &[0; 32 << 10]), &[]).is_ok() {}
        },
        "hello: magic: hello: found \\x00",
    ),
    (
        "small pieces without end",
        0,
        |raw| {
            let _ = raw.send(&prefixed(HELLO, 1 << 20, b"a"), &[]);
            while raw.send(&prefixed(MORE, 1 << 20, b"a"), &[]).is_ok() {}
        },
        "hello: parcel-message: message: found 1 bytes, expected 32768",
    ),
    (
        "a text that is too long",
        0,
        |raw| drop(raw.send(&prefixed(HELLO, (1 << 20) + 1, &[0; 99]), &[])),
        "hello: too-large: message: found 1048577, expected at most 1048576 bytes",
    ),
    (
        "a datagram that is too long",
        0,
        |raw| drop(raw.send(&prefixed(HELLO, 60_000, &[0; 60_000]), &[])),
        "hello: too-large: message: found a longer message, expected at most 32776 bytes",
    ),
    (
        "more of nothing",
        0,
        |raw| raw.say(MORE, b"a"),
        "hello: parcel-message: kind: found more, expected a first message",
    ),
    (
        "a short datagram",
        0,
        |raw| drop(raw.send(&[17; 7], &[])),
        "hello: truncated: message: found 7 bytes, expected 8 bytes and more",
    ),
    (
        "descriptors on a hello",
        0,
        |raw| with_253(raw, HELLO, &hello(1, MANIFEST.note())),
        "hello: parcel-count: message: found 253 descriptors, expected 0",
    ),
    (
        "descriptors on prepared",
        3,
        |raw| {
            while raw.hears_files() {}
            with_253(raw, PREPARED, b"");
        },
        "prepare: parcel-count: message: found 253 descriptors, expected 0",
    ),
    ("descriptors on accepted", 7, |raw| with_253(raw, ACCEPTED, b""), "deliver: peer-closed: accepted"),
    (
        "many descriptors for a process",
        1,
        |raw| with_253(raw, PROCESS, b""),
        "hello: parcel-count: process: expected one descriptor",
    ),
    (
        "hellos without end",
        0,
        |raw| while raw.send(&prefixed(HELLO, 16, &hello(1, b"")), &[]).is_ok() {},
        "hello: parcel-message: kind: found hello, expected process",
    ),
    (
        "accepted without end",
        7,
        |raw| while raw.send(&prefixed(ACCEPTED, 0, b""), &[]).is_ok() {},
        "deliver: parcel-message: kind: found accepted, again, expected committed",
    ),
    (
        "a report without end",
        7,
        |raw| {
            let _ = raw.send(&prefixed(ACCEPTED, 1 << 20, &[b'\n'; 32 << 10]), &[]);
            while raw.send(&prefixed(ACCEPTED, 1 << 20, &[b'\n'; 32 << 10]), &[]).is_ok() {}
        },
        "deliver: peer-closed: accepted",
    ),
];

const LIES: &[Lie] = &[
    (
        "committed, and has not",
        7,
        |raw| raw.say(COMMITTED, b""),
        "deliver: parcel-message: committed: a lie: it has not",
    ),
    (
        "committed, and has not, once it may",
        9,
        |raw| raw.say(COMMITTED, b""),
        "deliver: parcel-message: committed: a lie: it has not",
    ),
    (
        "accepted twice",
        9,
        |raw| raw.say(ACCEPTED, b""),
        "deliver: parcel-message: kind: found accepted, again, expected committed",
    ),
    (
        "accepted before anything came",
        2,
        |raw| raw.say(ACCEPTED, b""),
        "prepare: parcel-message: kind: found accepted, expected prepared",
    ),
    ("aborts", 7, |raw| raw.say(ABORT, b""), "deliver: parcel-message: kind: found abort, expected accepted"),
    ("aborts early", 4, |raw| raw.say(ABORT, b"why not"), "prepare: refused: why not"),
    ("commits", 7, |raw| raw.say(COMMIT, b""), "deliver: parcel-message: kind: found commit, expected accepted"),
    ("refuses late", 9, |raw| raw.say(REFUSED, b"\x1b[2J"), "deliver: refused: successor: \u{fffd}[2J"),
    (
        "a version to come",
        0,
        |raw| raw.say(HELLO, &hello(2, b"")),
        "hello: version-newer: hello: found kho-upgrade-v2, expected kho-upgrade-v1",
    ),
    (
        "a version before all",
        0,
        |raw| raw.say(HELLO, &hello(0, b"")),
        "hello: version-older: hello: found kho-upgrade-v0, expected kho-upgrade-v1",
    ),
    (
        "no magic",
        0,
        |raw| raw.say(HELLO, &[b'a'; 16]),
        "hello: magic: hello: found aaaaaaaa, expected \\x7fKHOUP\\x00\\n",
    ),
    (
        "half a hello",
        0,
        |raw| raw.say(HELLO, &hello(1, b"")[..9]),
        "hello: truncated: hello: found 9 bytes, expected 16 bytes",
    ),
    ("a note that is none", 1, |raw| raw.pass(own_pidfd()), "hello: magic: hello.note: found "),
    ("no process", 1, |raw| raw.pass(memfd("")), "hello: file-kind: process: found memfd, expected a pidfd"),
    ("process without", 1, |raw| raw.say(PROCESS, b""), "hello: parcel-count: process: expected one descriptor"),
];

impl Raw {
    fn hears_files(&self) -> bool {
        self.hear().is_some_and(|(bytes, _)| bytes[..4] == FILES.to_le_bytes())
    }
}

fn with_253(raw: &Raw, kind: u32, text: &[u8]) {
    let file = memfd("");
    raw.send(&prefixed(kind, text.len(), text), &[file.as_fd(); 253]).unwrap();
}

fn all_of(lies: &[Lie]) {
    let _alone = alone();
    let (meeting, mut service) = hostile();
    let before = descriptors();
    for (name, state, lie, says) in lies {
        let note: &[u8] = if *name == "a note that is none" { &[0xff; 40] } else { MANIFEST.note() };
        let (left, kept) = meets(&meeting, &mut service, Patience::default(), |raw| {
            let held = come_to(&raw, *state, note);
            lie(&raw);
            (raw, held)
        });
        let stayed = left.unwrap_err();
        assert!(stayed.to_string().starts_with(says), "{name}: {stayed}");
        service.serves();
        drop((stayed, kept));
        assert_eq!(descriptors(), before, "{name}");
    }
    meeting.hands_over(service);
}

#[test]
fn a_successor_that_floods() {
    all_of(FLOODS);
}

#[test]
fn a_successor_that_lies() {
    all_of(LIES);
}

#[test]
fn a_successor_that_speaks_before_it_is_asked_and_then_does_it_all_right() {
    let _alone = alone();
    let (meeting, mut service) = hostile();
    // Nothing is wrong with a baton that is taken and marked without being told to: it is the rule that counts.
    let (left, ()) = meets(&meeting, &mut service, Patience::default(), |raw| {
        let held = come_to(&raw, 7, MANIFEST.note());
        let baton = held.baton.as_ref().unwrap();
        assert_eq!(value(baton), 1);
        rustix::io::write(baton, &2_u64.to_ne_bytes()).unwrap();
        raw.say(COMMITTED, b"");
        assert_eq!(raw.rest(), []);
    });
    assert!(left.is_ok());
    assert_eq!(service.frozen, ["listener", "workers"], "it stays frozen");
}

#[test]
fn a_successor_that_writes_to_what_is_free_in_the_arena() {
    use std::os::unix::fs::FileExt as _;
    let _alone = alone();
    let (meeting, mut service) = hostile();
    let (left, ()) = meets(&meeting, &mut service, Patience::default(), |raw| {
        let held = come_to(&raw, 7, MANIFEST.note());
        let arena = std::fs::File::from(held.files[1].try_clone().unwrap());
        let size = arena.metadata().unwrap().len();
        arena.write_all_at(&[0xff; 4096], size - 4096).unwrap();
        let cut = rustix::fs::ftruncate(&arena, 4096);
        assert!(cut.is_err() && rustix::fs::ftruncate(&arena, size * 2).is_err(), "{cut:?}");
    });
    assert_eq!(left.unwrap_err().step, "deliver");
    // It allocates all of it, and finds it empty.
    service.serves();
    meeting.hands_over(service);
}

#[test]
fn thousands_of_connections_to_a_door() {
    let _alone = alone();
    let (meeting, service) = hostile();
    let before = descriptors();
    let first = Raw::connect(&meeting.path);
    let caller = meeting.caller();
    for nth in 0..2_000 {
        let raw = Raw::connect(&meeting.path);
        let fault = meeting.door.accept().unwrap_err();
        assert_eq!(fault.to_string(), "peer-busy: door: another caller, who came before", "{nth}");
        assert_eq!(raw.hears(REFUSED), fault.to_string());
    }
    // Nor do those who do not wait for an answer stay.
    for _ in 0..500 {
        drop(Raw::connect(&meeting.path));
        assert_eq!(meeting.door.accept().unwrap_err().code(), Code::PeerBusy);
    }
    assert!(meeting.door.accept().unwrap().is_none());
    let waiting: Vec<Call> = std::iter::from_fn(|| Call::connect(&meeting.path, &[]).ok()).take(100).collect();
    assert!((1..100).contains(&waiting.len()), "{}", waiting.len());
    assert_eq!(Call::connect(&meeting.path, &[]).unwrap_err().code(), Code::PeerBusy);
    drop(waiting);
    while !matches!(meeting.door.accept(), Ok(None)) {}
    drop((first, caller));
    assert_eq!(descriptors(), before);
    meeting.hands_over(service);
}

#[test]
fn one_at_a_time() {
    let (meeting, service) = hostile();
    let first = Raw::connect(&meeting.path);
    let caller = meeting.caller();
    let call = Call::connect(&meeting.path, &[]).unwrap();
    let told = meeting.door.accept().unwrap_err();
    assert_eq!(told.to_string(), "peer-busy: door: another caller, who came before");
    let said = call.arrive(&MANIFEST).unwrap_err().fault;
    assert_eq!(said.to_string(), format!("refused: {told}"));
    caller.refuse("not you");
    assert_eq!(first.hears(REFUSED), "not you");
    meeting.hands_over(service);
}

/// A child that is a successor, up to the point that it is told.
fn does_as_told() {
    let how = std::env::var(HOW).unwrap();
    let stop = || {
        rustix::process::kill_process(rustix::process::getpid(), Signal::STOP).unwrap();
        // Another thread may be the one that takes the signal.
        std::thread::sleep(millis(100));
    };
    if how == "stops before" {
        let call = Call::connect(std::env::var(DOOR).unwrap(), &[]).unwrap();
        stop();
        println!("told: {}", call.arrive(&MANIFEST).unwrap_err());
        return;
    }
    let arrival = arrive();
    match how.as_str() {
        "drops its turn" => drop(arrival.turn),
        "drops all" => drop(arrival),
        "never takes it" => std::thread::sleep(millis(60_000)),
        "finishes before" => {
            let (bundle, released) = restore(arrival.incoming).finish();
            let says =
                "refused: handover: found one that the predecessor may still go on with, expected Turn::take before it";
            assert_eq!(released.unwrap_err().to_string(), says);
            drop(bundle);
            arrival
                .turn
                .refuse(
                    kho::handover::Incoming::new(
                        kho::transport::Bundle::new(1 << 16).unwrap(),
                        kho::mem::PhysAddr::new(0),
                    ),
                    "finished",
                )
                .unwrap();
        }
        "writes before" => {
            use kho::mem::{Frames as _, Order};
            let (mut bundle, _) = restore(arrival.incoming).finish();
            let fault = bundle.alloc(Order::ZERO).unwrap_err().to_string();
            assert!(fault.contains("Turn::take before it"), "{fault}");
            std::process::exit(3);
        }
        "stops restored" => {
            let _restored = restore(arrival.incoming);
            stop();
            println!("told: {}", Turn::take(arrival.turn).unwrap_err());
        }
        other => panic!("no way {other}"),
    }
}

#[test]
fn a_successor_that_does_not_take_its_turn() {
    let _alone = alone();
    let (meeting, mut service) = hostile();
    for (how, says) in [
        ("drops its turn", "deliver: peer-closed: accepted"),
        ("drops all", "deliver: peer-closed: accepted"),
        ("never takes it", "deliver: late: accepted: nothing"),
        ("finishes before", "deliver: refused: successor: finished"),
        ("writes before", "deliver: peer-closed: accepted"),
        ("stops before", "hello: late: message: none in its time"),
        ("stops restored", "deliver: late: accepted: nothing"),
    ] {
        let mut child = meeting.start("does as told", how);
        let patience = if how == "stops before" {
            impatient()
        } else {
            Patience {
                accept: millis(if how.contains("turn") || how.contains("before") { 10_000 } else { 1_500 }),
                ..Patience::default()
            }
        };
        let stayed = service.leave(&upgrade().patience(patience), meeting.caller()).unwrap_err();
        assert!(stayed.to_string().starts_with(says), "{how}: {stayed}");
        service.serves();
        if how == "never takes it" {
            child.kill().unwrap();
        }
        let pid = rustix::process::Pid::from_child(&child);
        while rustix::process::kill_process(pid, Signal::CONT).is_ok() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(millis(2));
        }
        let said = finished(child);
        match how {
            "stops before" => assert!(said.contains("told: refused: late: message"), "{said}"),
            "stops restored" => assert!(said.contains("told: peer-serves: predecessor"), "{said}"),
            "never takes it" | "writes before" => {}
            _ => assert!(said.contains("verdict: ok"), "{how}: {said}"),
        }
        assert!(!said.contains("panicked"), "{how}: {said}");
    }
    meeting.hands_over(service);
}

/// Takes the baton, and then is what it was told to be.
fn holds_the_baton() {
    let raw = Raw::connect(Path::new(&std::env::var(DOOR).unwrap()));
    let held = come_to(&raw, 9, MANIFEST.note());
    let baton = held.baton.unwrap();
    assert_eq!(value(&baton), 1);
    match std::env::var(HOW).unwrap().as_str() {
        "dies" => {}
        "makes it block" => {
            rustix::fs::fcntl_setfl(&baton, rustix::fs::OFlags::empty()).unwrap();
            std::thread::sleep(millis(60_000));
        }
        "stalls" => std::thread::sleep(millis(60_000)),
        "stops" => {
            rustix::process::kill_process(rustix::process::getpid(), Signal::STOP).unwrap();
            std::thread::sleep(millis(60_000));
        }
        "marks it late" => {
            std::thread::sleep(millis(400));
            rustix::io::write(&baton, &2_u64.to_ne_bytes()).unwrap();
            std::thread::sleep(millis(3_000));
        }
        other => panic!("no way {other}"),
    }
    std::process::exit(0);
}

#[test]
fn a_successor_that_holds_the_baton_and_does_not_serve() {
    let _alone = alone();
    let (meeting, mut service) = hostile();
    for (how, ended) in
        [("dies", "exit status: 0"), ("stalls", "signal: 9"), ("stops", "signal: 9"), ("makes it block", "signal: 9")]
    {
        let child = meeting.start("holds the baton", how);
        let start = Instant::now();
        let patience = Patience { commit: millis(300), ..Patience::default() };
        let stayed = service.leave(&upgrade().patience(patience), meeting.caller()).unwrap_err();
        assert!(start.elapsed() < millis(15_000), "{how}");
        assert_eq!(stayed.step, "deliver", "{how}: {stayed}");
        let said = finished(child);
        assert!(said.contains(ended), "{how}: {said}");
        service.serves();
    }
    // It serves, however late it says so.
    let child = meeting.start("holds the baton", "marks it late");
    let patience = Patience { commit: millis(100), ..Patience::default() };
    assert!(service.leave(&upgrade().patience(patience), meeting.caller()).is_ok());
    let said = finished(child);
    assert!(said.contains("exit status: 0"), "{said}");
}

/// What a child of [`Caller::pair`] says that it is.
#[test]
fn a_process_that_is_another_one_is_not_harmed() {
    let _alone = alone();
    let mut service = Service::new();
    let before = descriptors();
    let mut innocent = Command::new("sleep").arg("60").spawn().unwrap();
    let pidfd = |child: &std::process::Child| {
        let flags = rustix::process::PidfdFlags::empty();
        rustix::process::pidfd_open(rustix::process::Pid::from_child(child), flags).unwrap()
    };
    let gone = {
        let mut gone = Command::new("true").spawn().unwrap();
        let fd = pidfd(&gone);
        gone.wait().unwrap();
        fd
    };
    let other = pidfd(&innocent);
    for (name, process, says) in [
        ("another", other.as_fd(), "deliver: late: accepted: nothing"),
        ("a dead one", gone.as_fd(), "deliver: peer-closed: accepted: a process that has ended"),
    ] {
        let (caller, end) = Caller::pair().unwrap();
        let left = std::thread::scope(|scope| {
            let successor = scope.spawn(|| {
                let raw = Raw(end);
                raw.say(HELLO, &hello(1, MANIFEST.note()));
                raw.pass(process);
                raw.hears(HELLO);
                while raw.hears_files() {}
                raw.say(PREPARED, b"");
                raw
            });
            let left = service.leave(&upgrade().patience(impatient()), caller);
            drop(successor.join().unwrap());
            left
        });
        let stayed = left.unwrap_err();
        assert!(stayed.to_string().starts_with(says), "{name}: {stayed}");
        service.serves();
    }
    assert!(innocent.try_wait().unwrap().is_none(), "it was killed");
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    drop((gone, other));
    assert_eq!(descriptors(), before);
}

/// Whether something came, and whether the descriptor that the variable names is as it was.
fn kept() {
    match kho::transport::Arrival::take() {
        Ok(None) => println!("told: nothing"),
        other => println!("told: {}", other.unwrap_err()),
    }
    let number = socket_number();
    println!("inheritable: {}", number == 900 || inheritable().contains(&number));
}

/// A process of another user, at a door that lets it connect.
fn stranger() {
    match Call::connect(std::env::var(DOOR).unwrap(), &[0]) {
        Ok(call) => println!("told: {}", call.arrive(&MANIFEST).unwrap_err()),
        Err(fault) => println!("told: {fault}"),
    }
}

/// Starts a child as nobody; none, and says so, where this user may not.
fn as_nobody(meeting: &Meeting, role: &str, path: &Path) -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can start a process of another user");
        return None;
    }
    std::fs::set_permissions(meeting.folder.path(), mode(0o777)).unwrap();
    use std::os::unix::process::CommandExt as _;
    let mut command = child(&me(), role);
    command.env(DOOR, path).uid(65534).gid(65534).current_dir("/");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    Some(command)
}

#[test]
fn a_process_of_another_user_is_not_let_in_unless_allowed() {
    let _alone = alone();
    let (mut meeting, service) = hostile();
    let before = descriptors();
    let path = meeting.path.clone();
    let Some(mut command) = as_nobody(&meeting, "stranger", &path) else { return };
    let said = finished(command.spawn().unwrap());
    assert!(said.contains("told: io: ") && said.contains("Permission denied"), "the socket has mode 0600: {said}");
    assert!(meeting.door.accept().unwrap().is_none());

    std::fs::set_permissions(&path, mode(0o666)).unwrap();
    let child = command.spawn().unwrap();
    let refused = loop {
        match meeting.door.accept() {
            Ok(None) => std::thread::sleep(millis(1)),
            Ok(Some(caller)) => panic!("let in: {caller:?}"),
            Err(fault) => break fault.to_string(),
        }
    };
    assert_eq!(refused, "peer-user: peer: found user 65534, expected user 0, root, or one that is allowed");
    let said = finished(child);
    assert!(said.contains("told: refused: peer-user: peer: found user 65534"), "{said}");
    assert_eq!(descriptors(), before);

    meeting.door = meeting.door.allow(&[65534]);
    let child = command.spawn().unwrap();
    let caller = meeting.caller();
    assert_eq!(caller.peer().uid, 65534);
    caller.refuse("only looking");
    let said = finished(child);
    assert!(said.contains("told: refused: only looking"), "{said}");
    meeting.hands_over(service);
}

#[test]
fn a_door_of_another_user_is_not_trusted() {
    let _alone = alone();
    let meeting = Meeting::new();
    let path = meeting.folder.path().join("other");
    let Some(mut command) = as_nobody(&meeting, "door", &path) else { return };
    let mut child = command.spawn().unwrap();
    drop(Raw::connect(&path));
    let fault = Call::connect(&path, &[]).unwrap_err();
    assert_eq!(fault.to_string(), "peer-user: peer: found user 65534, expected user 0, root, or one that is allowed");
    assert_eq!(Call::connect(&path, &[1]).unwrap_err().code(), Code::PeerUser);
    assert!(Call::connect(&path, &[65534]).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_at_the_path_of_a_door() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let says =
        |path: &Path| Door::bind(path).unwrap_err().to_string().replace(&path.to_string_lossy().into_owned(), "PATH");
    std::fs::write(at("file"), "mine").unwrap();
    assert_eq!(says(&at("file")), "file-kind: PATH: found another file, expected a socket, or nothing");
    assert_eq!(std::fs::read(at("file")).unwrap(), b"mine");
    std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
    assert_eq!(says(&at("link")), "file-kind: PATH: found another file, expected a socket, or nothing");
    assert_eq!(says(folder.path()), "file-kind: PATH: found another file, expected a socket, or nothing");
    assert!(says(&at("no/folder")).contains("No such file or directory"));
    assert!(says(&at(&"a".repeat(108))).contains("File name too long"));
    assert!(Door::bind("").unwrap_err().to_string().contains("No such file or directory"));
    assert!(Call::connect("", &[]).is_err());
    // No name but a path: an abstract one has no owner.
    assert!(Door::bind("\0kho").unwrap_err().to_string().contains("Invalid argument"));

    let door = Door::bind(at("door")).unwrap();
    let stat = std::fs::metadata(at("door")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&stat.permissions()) & 0o7777, 0o600);
    assert_eq!(says(&at("door")), "peer-busy: PATH: a socket that somebody listens to");
    assert!(door.accept().unwrap().is_some(), "it looked whether somebody listens");
    drop(door);
    assert_eq!(Call::connect(at("door"), &[]).unwrap_err().code(), Code::PeerClosed);
    drop(Door::bind(at("door")).unwrap());
    // Where a stream listens, somebody does.
    let _other = std::os::unix::net::UnixListener::bind(at("stream")).unwrap();
    assert_eq!(says(&at("stream")), "peer-busy: PATH: a socket that somebody listens to");
}

#[test]
fn a_door_that_was_handed_over_names_who_has_it_now() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    // Its first owner has ended, and this process has a copy of its descriptor.
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let mut owner = child(&me(), "door");
    let mut owner = owner.env(DOOR, &path).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(Raw::connect(&path));
    let number: i32 = {
        use std::io::BufRead as _;
        let lines = std::io::BufReader::new(owner.stdout.take().unwrap()).lines();
        lines.map_while(Result::ok).find_map(|line| line.trim().parse().ok()).unwrap()
    };
    let door = stolen(&owner, number);
    // Who connected while that one had it…
    let early = Call::connect(&path, &[]).unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    drop((ours, theirs));
    let meeting = Meeting { folder, path, door: Door::from(door) };
    // …and the first connection, of which nothing is left.
    let mut service = Service::new();
    let stayed = service.leave(&upgrade(), meeting.caller()).unwrap_err();
    assert_eq!(stayed.fault.code(), Code::PeerClosed, "{stayed}");
    let fault = std::thread::scope(|scope| {
        let early = scope.spawn(|| early.arrive(&MANIFEST).unwrap_err().to_string());
        let stayed = service.leave(&upgrade(), meeting.caller()).unwrap_err();
        assert!(stayed.to_string().contains("door: "), "{stayed}");
        early.join().unwrap()
    });
    assert!(fault.starts_with("peer-closed: door: found one of a process that has ended"), "{fault}");
    service.serves();
    meeting.hands_over(service);
}

/// A descriptor of another process.
fn stolen(process: &std::process::Child, number: i32) -> OwnedFd {
    let flags = rustix::process::PidfdFlags::empty();
    let pidfd = rustix::process::pidfd_open(rustix::process::Pid::from_child(process), flags).unwrap();
    rustix::process::pidfd_getfd(&pidfd, number, rustix::process::PidfdGetfdFlags::empty()).unwrap()
}

/// Too few descriptors are left for what comes.
fn few_descriptors() {
    let call = Call::connect(std::env::var(DOOR).unwrap(), &[]).unwrap();
    let before = descriptors();
    // One for its own pidfd, and none for a file.
    let free = (0..).find(|number| !before.contains_key(number)).unwrap() as u64;
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let set =
        |current| rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
    set(free + 1);
    let fault = call.arrive(&MANIFEST).unwrap_err();
    set(1_024);
    println!("told: {fault}");
    assert_eq!(descriptors().len(), before.len() - 2, "the line and the pidfd are closed, and nothing else is open");
}

#[test]
fn a_successor_that_may_not_have_enough_descriptors() {
    let _alone = alone();
    let (meeting, mut service) = hostile();
    let child = meeting.start("few descriptors", "");
    let stayed = service.leave(&upgrade(), meeting.caller()).unwrap_err();
    let said = finished(child);
    assert!(said.contains("told: parcel-limit: message: found only 0 descriptors of this message"), "{said}");
    assert!(said.contains("verdict: ok"), "{said}");
    assert!(stayed.to_string().starts_with("prepare: refused: parcel-limit: message"), "{stayed}");
    service.serves();
    meeting.hands_over(service);
}

#[test]
fn a_predecessor_whose_hook_panics() {
    let _alone = alone();
    let (meeting, mut service) = hostile();
    for freezes in [true, false] {
        let child = meeting.start("does as told", "stops before");
        let caller = meeting.caller();
        let upgrade = if freezes {
            upgrade().part(kho::transport::Part::new("broken").freeze(|_, _| panic!("a bug")))
        } else {
            upgrade().preserve(|_, _| panic!("a bug"))
        };
        let pid = rustix::process::Pid::from_child(&child);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..200).for_each(|_| {
                    let _ = rustix::process::kill_process(pid, Signal::CONT);
                    std::thread::sleep(millis(5));
                })
            });
            let bundle = kho::transport::Bundle::new(1 << 20).unwrap();
            let run = std::panic::AssertUnwindSafe(|| drop(upgrade.run(&mut service, bundle, caller)));
            let panic = std::panic::catch_unwind(run).unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&"a bug"));
        });
        service.serves();
        let said = finished(child);
        let told = if freezes {
            "told: peer-closed: parcel: the end of the stream"
        } else {
            "told: refused: refused: preserve: a panic"
        };
        assert!(said.contains(told), "{said}");
    }
    meeting.hands_over(service);
}

#[test]
fn a_wish_to_keep_that_is_for_somebody_else() {
    use kho::transport::VARIABLE;
    let _alone = alone();
    let pid = std::process::id();
    let keep = |nonce: u64| {
        let words = [nonce, 1_000_000_000, 1_000_000_000, u64::MAX].map(u64::to_le_bytes).concat();
        let text = [b"\x7fKHOUP\0\n".as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0], &words].concat();
        prefixed(KEEP, text.len(), &text)
    };
    for (how, answers) in [
        ("right", true),
        ("another process", false),
        ("another nonce", false),
        ("a version to come", false),
        ("another file", false),
        ("an eventfd", false),
        ("a number that is none", false),
        ("nothing in it", false),
    ] {
        let (one, other) = Caller::pair().unwrap();
        drop(one);
        drop(other);
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let ours = Raw(ours);
        if how != "nothing in it" {
            ours.send(&keep(if how == "another nonce" { 8 } else { 7 }), &[]).unwrap();
        }
        let passed: OwnedFd = match how {
            "another file" => memfd(""),
            "an eventfd" => rustix::event::eventfd(1, EventfdFlags::CLOEXEC).unwrap(),
            _ => theirs.try_clone().unwrap(),
        };
        rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::empty()).unwrap();
        let number = if how == "a number that is none" { 900 } else { passed.as_raw_fd() };
        let named = if how == "another process" { 1 } else { pid };
        let version = if how == "a version to come" { 2 } else { 1 };
        let mut command = child(&me(), "kept");
        let said = command.env(VARIABLE, format!("{number}:{named}:0000000000000007:k{version}"));
        let mut started = said.stdout(std::process::Stdio::piped()).spawn().unwrap();
        drop(passed);
        if answers {
            // It keeps, until the line ends.
            assert_eq!(ours.hears(26), "");
            drop((ours, theirs));
            let said = finished(started);
            assert!(said.starts_with("exit status: 0") && !said.contains("told"), "{how}: {said}");
            continue;
        }
        let _ = started.wait().unwrap();
        let said = finished(started);
        let told = if how == "a version to come" { "told: version-newer: parcel" } else { "told: nothing" };
        assert!(said.contains(told) && said.contains("inheritable: true"), "{how}: {said}");
        // And what is in the socket is still there.
        if how != "nothing in it" {
            assert_eq!(Raw(theirs).hears(KEEP).len() > 0, true, "{how}");
        }
    }
}
