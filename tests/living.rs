//! Upgrades to a process that lives beside its predecessor, and by exec with a keeper: real processes, which die, stall,
//! refuse and lie.
#![cfg(feature = "std")]

mod common;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use kho::abi;
use kho::compat::{Compat, CompatList};
use kho::files::{self, Files, FilesNode};
use kho::handover::{Handle, Incoming, Registry, Restored};
use kho::payload::{Bytes, BytesNode};
use kho::transport::{
    Arrival, Bundle, Call, Caller, Door, Exec, Left, Part, Patience, Program, Stayed, Ticket, Upgrade, Whose,
};

use common::*;
use rustix::process::WaitOptions;

const STATE: CompatList<'static> = CompatList::new(Compat::new("test-living", 1), &[]);
const NEXT: CompatList<'static> = CompatList::new(Compat::new("test-living", 2), &[]);

kho::manifest! {
    static MANIFEST = [both("state", &[STATE]), both(abi::files::NODE, &[files::MADE_OF])];
}

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[
        ("takes over", take_over),
        ("refuses", || {
            let Arrival { incoming, turn, .. } = arrive();
            turn.refuse(incoming, "not today").unwrap();
        }),
        ("is slow", || {
            let (_restored, turn) = arrive().restore(&registry().0).unwrap();
            std::thread::sleep(Duration::from_secs(3));
            assert_eq!(
                turn.take().unwrap_err().to_string().split(": found").next(),
                Some("peer-serves: predecessor: budget: blackout")
            );
        }),
        ("reads another version", || {
            let mut other = Registry::new();
            other.read("state", BytesNode { made_of: NEXT, limit: 8 });
            let refused = arrive().restore(&other).unwrap_err();
            assert!(refused.left.is_none());
            println!("{refused}");
        }),
        ("kept", leave_with_a_keeper),
        ("kept: next", next_or_again),
    ]);
}

/// Where the door is.
const DOOR: &str = "KHO_TEST_DOOR";

/// A service: a number, a memfd of text, and what was done to it.
struct Service {
    number: u64,
    log: File,
    frozen: Vec<&'static str>,
}

impl Service {
    fn new(number: u64) -> Self {
        Service { number, log: memfd("log").into(), frozen: Vec::new() }
    }
}

fn part(name: &'static str) -> Part<Service> {
    Part::new(name)
        .freeze(move |service: &mut Service, _| {
            service.frozen.push(name);
            Ok(())
        })
        .unfreeze(move |service| assert_eq!(service.frozen.pop(), Some(name)))
}

fn upgrade() -> Upgrade<Service> {
    Upgrade::new(&MANIFEST)
        .part(part("workers").after(&["listener"]))
        .part(part("listener"))
        .prepare(|service: &mut Service, outgoing| {
            let log = OwnedFd::from(service.log.try_clone().unwrap());
            outgoing.preserve_file(1, log).map_err(|rejected| rejected.fault)
        })
        .preserve(|service, outgoing| {
            assert_eq!(service.frozen, ["listener", "workers"]);
            outgoing.preserve_file(2, memfd("late")).map_err(|rejected| rejected.fault)?;
            outgoing.preserve("state", &Bytes { made_of: STATE, bytes: &service.number.to_le_bytes() })
        })
        .patience(Patience { accept: Duration::from_secs(20), ..Patience::default() })
}

fn arrive() -> Arrival {
    Call::connect(std::env::var(DOOR).unwrap(), &[]).unwrap().arrive(&MANIFEST).unwrap()
}

fn take_over() {
    let Arrival { incoming, turn, .. } = arrive();
    let restored = restore(incoming);
    let report = turn.take().unwrap();
    assert!(report.blackout.unwrap() > 0 && report.step(Whose::Successor, "plan").is_some(), "{report}");
    assert!(report.step(Whose::Predecessor, "freeze").is_some(), "{report}");
    restored.finish().1.unwrap();
}

fn registry() -> (Registry<Bundle>, Handle<Vec<u8>>, Handle<Files>) {
    let mut registry = Registry::of(&MANIFEST);
    let state = registry.read("state", BytesNode { made_of: STATE, limit: 8 });
    let files = registry.add(abi::files::NODE, FilesNode);
    (registry, state, files)
}

/// Restores all, and looks at all of it.
fn restore(incoming: Incoming<Bundle>) -> Restored<Bundle> {
    let (registry, state, files) = registry();
    let mut restored = incoming.plan(&registry).accept().unwrap().restore().unwrap();
    assert_eq!(restored.take(&state).unwrap(), 42_u64.to_le_bytes());
    let mut files = restored.take(&files).unwrap();
    for (token, text) in [(1, "log"), (2, "late")] {
        let mut found = vec![0; text.len()];
        File::from(files.take(token).unwrap()).read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, text.as_bytes());
    }
    assert!(files.is_empty(), "a file that was taken back");
    restored
}

struct Meeting {
    _folder: tempfile::TempDir,
    path: PathBuf,
    door: Door,
}

impl Meeting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("door");
        let door = Door::bind(&path).unwrap();
        Meeting { _folder: folder, path, door }
    }

    fn start(&self, role: &str) -> Child {
        let mut command = child(&me(), role);
        command.env(DOOR, &self.path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn caller(&self) -> Caller {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Some(caller) = self.door.accept().unwrap() {
                return caller;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("nobody came");
    }

    /// An upgrade to a child in that role.
    fn upgrade(&self, service: &mut Service, role: &str) -> (Result<Left, Stayed>, String) {
        let child = self.start(role);
        let result = upgrade().run(service, Bundle::new(1 << 20).unwrap(), self.caller());
        (result, finished(child))
    }
}

#[track_caller]
fn finished(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    format!("{}\n{said}", output.status)
}

#[test]
fn a_successor_that_lives_beside_its_predecessor_takes_over() {
    let meeting = Meeting::new();
    let mut service = Service::new(42);
    let (left, said) = meeting.upgrade(&mut service, "takes over");
    assert!(said.contains("verdict: ok"), "{said}");
    let report = left.unwrap().report;
    assert!(report.step(Whose::Successor, "plan").is_some() && report.blackout.is_some(), "{report}");
    assert_eq!(service.frozen, ["listener", "workers"], "it stays frozen");
}

#[test]
fn a_successor_that_refuses_leaves_the_predecessor_as_it_was() {
    let meeting = Meeting::new();
    let mut service = Service::new(42);
    for _ in 0..2 {
        let (left, said) = meeting.upgrade(&mut service, "refuses");
        assert!(said.contains("verdict: ok"), "{said}");
        let stayed = left.unwrap_err();
        assert_eq!((stayed.step, stayed.fault.to_string().as_str()), ("deliver", "refused: successor: not today"));
        assert!(service.frozen.is_empty(), "{:?}", service.frozen);
        assert!(stayed.bundle.arena().free_pages() > 0);
    }
    let (left, said) = meeting.upgrade(&mut service, "takes over");
    assert!(left.is_ok() && said.contains("verdict: ok"), "{said}");
}

#[test]
fn a_blackout_is_not_longer_than_its_budget() {
    let meeting = Meeting::new();
    let mut service = Service::new(42);
    let child = meeting.start("is slow");
    let upgrade = upgrade().budget(Duration::from_millis(150));
    let caller = meeting.caller();
    let began = Instant::now();
    let stayed = upgrade.run(&mut service, Bundle::new(1 << 20).unwrap(), caller).unwrap_err();
    assert!(stayed.to_string().starts_with("deliver: budget: blackout: found "), "{stayed}");
    // The successor sleeps for 3 s, and the patience is one of 20.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(service.frozen.is_empty());
    let said = finished(child);
    assert!(said.contains("verdict: ok"), "{said}");
}

#[test]
fn what_the_plan_refuses_is_told_to_the_predecessor() {
    let meeting = Meeting::new();
    let mut service = Service::new(42);
    let (left, said) = meeting.upgrade(&mut service, "reads another version");
    let words = "/state: version-older: compatible: found test-living-v1, expected test-living-v2";
    assert!(said.contains(words) && said.contains("verdict: ok"), "{said}");
    let stayed = left.unwrap_err().to_string();
    assert!(stayed.starts_with("deliver: refused: successor: ") && stayed.contains(words), "{stayed}");
}

#[test]
fn a_file_that_was_sent_ahead_can_be_taken_back() {
    let meeting = Meeting::new();
    let mut service = Service::new(42);
    let child = meeting.start("takes over");
    let upgrade = Upgrade::new(&MANIFEST)
        .part(part("listener"))
        .prepare(|service: &mut Service, outgoing| {
            outgoing.lend_file(1, &service.log)?;
            outgoing.lend_file(3, memfd("closed meanwhile"))
        })
        .preserve(|service, outgoing| {
            drop(outgoing.unpreserve_file(3).expect("it was added"));
            outgoing.preserve_file(2, memfd("late"))?;
            outgoing.preserve("state", &Bytes { made_of: STATE, bytes: &service.number.to_le_bytes() })
        });
    let left = upgrade.run(&mut service, Bundle::new(1 << 20).unwrap(), meeting.caller());
    let said = finished(child);
    assert!(left.is_ok() && said.contains("verdict: ok"), "{said}");
}

/// What becomes of the successor of an exec with a keeper, and who goes on.
#[track_caller]
fn kept(how: &str) -> String {
    let mut command = child(&me(), "kept");
    command.env(HOW, how);
    // The keeper, too, writes there: its end is the end of the output.
    let output = command.output().unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

#[test]
fn a_keeper_ends_when_the_successor_takes_over() {
    let said = kept("takes over");
    assert!(said.contains("the successor serves") && said.contains("verdict: ok"), "{said}");
    assert!(!said.contains("again"), "{said}");
}

#[test]
fn a_keeper_goes_on_when_the_successor_does_not() {
    for (how, why) in [
        ("dies", "peer-closed: found a process that has ended, expected accepted"),
        ("dies restored", "peer-closed: found a process that has ended, expected accepted"),
        ("refuses", "refused: successor: not today"),
        ("stalls", "late: found nothing within "),
        ("stops", "late: found nothing within "),
        ("is over budget", "budget: blackout: found "),
    ] {
        let said = kept(how);
        assert!(said.contains(&format!("again: {why}")), "{how}: {said}");
        assert!(said.contains("the keeper serves") && said.contains("verdict: ok"), "{how}: {said}");
        assert!(!said.contains("the successor serves"), "{how}: {said}");
    }
}

#[test]
fn with_a_keeper_that_cannot_be_nothing_happens() {
    let said = kept("exec fails");
    assert!(said.contains("stayed: deliver: io: exec: exec: Exec format error"), "{said}");
    let said = kept("keeper fails");
    assert!(said.contains("stayed: hello: late: keeper.message: none in its time"), "{said}");
}

fn leave_with_a_keeper() {
    if let Some(arrival) = Arrival::take().unwrap() {
        return go_on(arrival, "the keeper");
    }
    let how = std::env::var(HOW).unwrap();
    let mut service = Service::new(42);
    let mut ticket = Ticket::current().unwrap();
    let mut program = next("kept: next");
    // Short where it is waited for in vain, and else so long that no busy machine is taken for a late successor.
    let accept = if how.starts_with("st") { Duration::from_millis(400) } else { Duration::from_secs(20) };
    let mut patience = Patience { accept, ..Patience::default() };
    let folder = tempfile::tempdir().unwrap();
    if how == "exec fails" {
        // It begins as a program does, and is none: only the kernel finds that.
        let path = folder.path().join("program");
        std::fs::write(&path, b"\x7fELF, and nothing else").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        program = Program::open(&path).unwrap().without_asking();
    }
    if how == "keeper fails" {
        ticket = Ticket::of(&Program::open("/bin/sleep").unwrap().args(["60"])).unwrap();
        patience.hello = Duration::from_millis(200);
    }
    let mut upgrade = upgrade().patience(patience);
    if how == "is over budget" {
        upgrade = upgrade.budget(Duration::from_secs(1));
    }
    let way = Exec::new(&program).kept(&ticket);
    let stayed = upgrade.run(&mut service, Bundle::new(1 << 20).unwrap(), way).unwrap_err();
    println!("stayed: {stayed}");
    assert!(service.frozen.is_empty());
    // What was started has ended: nobody serves beside this process.
    let end = Instant::now() + Duration::from_secs(5);
    while rustix::process::wait(WaitOptions::NOHANG).is_ok() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(rustix::process::wait(WaitOptions::NOHANG).is_err(), "a child is left");
}

fn next_or_again() {
    let how = std::env::var(HOW).unwrap();
    let kill = |signal| rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
    if how == "dies" {
        kill(rustix::process::Signal::KILL);
    }
    let arrival = Arrival::take().unwrap().unwrap();
    let late = |time| std::thread::sleep(Duration::from_millis(time));
    match how.as_str() {
        "stalls" => late(60_000),
        "stops" => kill(rustix::process::Signal::STOP),
        "is over budget" => late(3_000),
        "refuses" => {
            arrival.turn.refuse(arrival.incoming, "not today").unwrap();
            std::process::exit(0);
        }
        _ => {}
    }
    go_on(arrival, "the successor");
}

fn go_on(arrival: Arrival, who: &str) {
    let Arrival { incoming, turn, reason, .. } = arrival;
    if let Some(reason) = reason {
        println!("again: {reason}");
    }
    let restored = restore(incoming);
    if std::env::var(HOW).unwrap() == "dies restored" && who == "the successor" {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    }
    match turn.take() {
        Ok(report) => {
            restored.finish().1.unwrap();
            println!("{who} serves\n{report}");
        }
        Err(fault) => {
            println!("{who} does not: {fault}");
            std::process::exit(1);
        }
    }
}
