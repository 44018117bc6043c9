//! Successors that close, stall, flood and lie, against a predecessor that must go on as before. Their own half of the
//! protocol is written by hand.
#![cfg(feature = "std")]

mod common;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/living.rs"]
mod service;

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use kho::report::Code;
use kho::transport::{Call, Left, Patience, Stayed, Turn};
use rustix::process::Signal;

use common::*;
use raw::*;
use service::*;

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[("takes over", takes_over), ("does as told", does_as_told), ("holds the baton", holds_the_baton)]);
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
    ("descriptors on accepted", 7, |raw| with_253(raw, ACCEPTED, b""), "deliver: peer-closed: found "),
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
        "deliver: peer-closed: found ",
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
        ("drops its turn", "deliver: refused: successor: it gave up before it had taken over"),
        ("drops all", "deliver: refused: successor: it gave up before it had taken over"),
        ("never takes it", "deliver: late: found nothing within "),
        ("finishes before", "deliver: refused: successor: finished"),
        ("writes before", "deliver: peer-closed: found "),
        ("stops before", "hello: late: message: none in its time"),
        ("stops restored", "deliver: late: found nothing within "),
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
