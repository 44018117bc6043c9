//! SIGKILL and SIGSTOP at random instants: never two serve, and one does unless the one that served was killed.
//!
//! Who serves says so in a file that all write to. `KHO_TEST_KILLS` says how often each pair is tried; 40 without it.
#![cfg(feature = "std")]

mod common;
#[path = "common/living.rs"]
mod service;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kho::transport::{Arrival, Bundle, Call, Door, Exec, Patience, Ticket};
use rustix::process::{Pid, Signal};

use common::*;
use service::*;

/// Where who serves says so.
const LOG: &str = "KHO_TEST_LOG";

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[("predecessor", predecessor), ("successor", successor), ("main", leave_kept), ("next", next_kept)]);
}

/// One line, at once.
fn log(line: &str) {
    let mut file = File::options().append(true).open(std::env::var(LOG).unwrap()).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn patience() -> Patience {
    Patience { accept: millis(2_000), commit: millis(500), ..Patience::default() }
}

fn predecessor() {
    let door = Door::bind(std::env::var(DOOR).unwrap()).unwrap();
    log("ready");
    let mut service = Service::new();
    let end = Instant::now() + millis(20_000);
    let caller = loop {
        match door.accept().unwrap() {
            Some(caller) => break caller,
            None => assert!(Instant::now() < end),
        }
        std::thread::sleep(millis(1));
    };
    match service.leave(&upgrade().patience(patience()), caller) {
        Ok(_) => log("predecessor: left"),
        Err(_) => {
            service.serves();
            log("predecessor: serves");
        }
    }
}

fn successor() {
    let arrived =
        Call::connect(std::env::var(DOOR).unwrap(), &[]).map(|call| call.patience(patience()).arrive(&MANIFEST));
    let Ok(Ok(Arrival { incoming, turn, .. })) = arrived else { return log("successor: nothing came") };
    let restored = restore(incoming);
    match turn.take() {
        Ok(_) => {
            log("successor: serves");
            restored.finish().1.unwrap();
        }
        Err(_) => log("successor: does not"),
    }
}

fn leave_kept() {
    if let Some(arrival) = Arrival::take().unwrap() {
        return take_kept(arrival, "keeper");
    }
    let (program, ticket) = (next("next"), Ticket::current().unwrap());
    log("ready");
    let mut service = Service::new();
    let way = Exec::new(&program).kept(&ticket);
    let left = upgrade().patience(patience()).run(&mut service, Bundle::new(1 << 20).unwrap(), way);
    log(if left.is_ok() { "main: left" } else { "main: serves" });
    std::thread::sleep(millis(200));
}

fn next_kept() {
    take_kept(Arrival::take().unwrap().unwrap(), "next");
}

fn take_kept(arrival: Arrival, who: &str) {
    let restored = restore(arrival.incoming);
    match arrival.turn.take() {
        Ok(_) => {
            log(&format!("{who}: serves"));
            restored.finish().1.unwrap();
        }
        Err(_) => log(&format!("{who}: does not")),
    }
}

/// Of a fixed seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn times() -> u64 {
    std::env::var("KHO_TEST_KILLS").map_or(40, |times| times.parse().unwrap())
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("log")).unwrap();
        Scene { folder }
    }

    fn start(&self, role: &str) -> Child {
        let mut command: Command = child(&me(), role);
        let at = |name: &str| self.folder.path().join(name);
        command.env(DOOR, at("door")).env(LOG, at("log")).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    fn says(&self) -> Vec<String> {
        let mut text = String::new();
        File::open(self.folder.path().join("log")).unwrap().read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn waits(&self, what: impl Fn(&[String]) -> bool) -> Vec<String> {
        let end = Instant::now() + millis(30_000);
        loop {
            let says = self.says();
            if what(&says) {
                return says;
            }
            assert!(Instant::now() < end, "{says:?}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn serving(says: &[String]) -> usize {
    says.iter().filter(|line| line.ends_with(": serves")).count()
}

/// Waits, but not for ever.
#[track_caller]
fn ends(child: &mut Child, name: &str) {
    let end = Instant::now() + millis(30_000);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "{name} never ends");
        std::thread::sleep(millis(1));
    }
}

fn signal(child: &Child, signal: Signal) {
    let _ = rustix::process::kill_process(Pid::from_child(child), signal);
}

/// Microseconds that a successor takes, from its start to its end.
fn takes() -> u64 {
    let scene = Scene::new();
    let mut predecessor = scene.start("predecessor");
    scene.waits(|says| says == ["ready"]);
    let start = Instant::now();
    let mut successor = scene.start("successor");
    ends(&mut successor, "successor");
    let took = start.elapsed();
    ends(&mut predecessor, "predecessor");
    assert_eq!(serving(&scene.says()), 1, "{:?}", scene.says());
    u64::try_from(took.as_micros()).unwrap().max(2_000)
}

#[test]
fn kills_at_random_instants() {
    let takes = takes();
    let mut dice = Dice(0x5eed);
    let (mut stayed, mut moved, mut lost) = (0, 0, 0);
    for nth in 0..times() * 2 {
        let of_successor = nth % 2 == 0;
        let scene = Scene::new();
        let mut predecessor = scene.start("predecessor");
        scene.waits(|says| says == ["ready"]);
        let mut successor = scene.start("successor");
        std::thread::sleep(Duration::from_micros(dice.next(takes)));
        signal(if of_successor { &successor } else { &predecessor }, Signal::KILL);
        if of_successor {
            ends(&mut successor, "successor");
            // One that never came leaves its predecessor as it is: somebody else comes, to see that it serves.
            if !scene.says().iter().any(|line| line.starts_with("predecessor")) {
                std::thread::sleep(millis(5));
                drop(Call::connect(scene.folder.path().join("door"), &[]));
            }
            ends(&mut predecessor, "predecessor");
        } else {
            ends(&mut predecessor, "predecessor");
            ends(&mut successor, "successor");
        }
        let says = scene.says();
        assert!(serving(&says) < 2, "two serve: {says:?}");
        let said = |line: &str| says.iter().any(|one| one == line);
        if of_successor {
            // The predecessor lives: it serves, unless the successor did, which was killed with it.
            assert!(said("predecessor: serves") != said("predecessor: left"), "{says:?}");
            assert!(!(said("predecessor: serves") && said("successor: serves")), "{says:?}");
        } else {
            // The successor lives: it serves, unless nothing was delivered, or the predecessor had gone on.
            let verdicts = ["successor: serves", "successor: nothing came", "successor: does not"];
            assert_eq!(verdicts.iter().filter(|line| said(line)).count(), 1, "{says:?}");
            assert!(!said("predecessor: left") || said("successor: serves"), "it left, and nobody serves: {says:?}");
        }
        match (serving(&says), said("predecessor: serves")) {
            (1, true) => stayed += 1,
            (1, false) => moved += 1,
            _ => lost += 1,
        }
    }
    println!("stayed {stayed}, moved {moved}, the one that served was killed {lost}");
    assert!(stayed + moved > 0);
}

#[test]
fn stops_at_random_instants() {
    let takes = takes();
    let mut dice = Dice(0xd1ce);
    for nth in 0..times() {
        let scene = Scene::new();
        let mut predecessor = scene.start("predecessor");
        scene.waits(|says| says == ["ready"]);
        let mut successor = scene.start("successor");
        std::thread::sleep(Duration::from_micros(dice.next(takes)));
        let stopped = if nth % 2 == 0 { &successor } else { &predecessor };
        signal(stopped, Signal::STOP);
        // Often less than the other one waits, and now and then more.
        std::thread::sleep(millis(if nth % 10 < 2 { 2_800 } else { dice.next(40) }));
        signal(stopped, Signal::CONT);
        ends(&mut successor, "successor");
        ends(&mut predecessor, "predecessor");
        let says = scene.says();
        // One may be killed that stopped with the baton in hand: then it does not say anything, and the other one serves.
        assert_eq!(serving(&says), 1, "{nth}: {says:?}");
    }
}

/// The children of a process.
fn children(of: &Child) -> Vec<Pid> {
    let pid = of.id();
    let text =
        std::fs::read_to_string(Path::new("/proc").join(format!("{pid}/task/{pid}/children"))).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let more = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let all: Vec<String> = more.chain([text]).collect();
    all.iter().flat_map(|text| text.split_whitespace()).filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

#[test]
fn kills_of_an_exec_and_its_keeper_at_random_instants() {
    let mut dice = Dice(0x4bee);
    let took = {
        let scene = Scene::new();
        let mut main = scene.start("main");
        scene.waits(|says| says.first().is_some_and(|line| line == "ready"));
        let start = Instant::now();
        scene.waits(|says| serving(says) == 1);
        let took = start.elapsed();
        ends(&mut main, "main");
        assert_eq!(scene.says(), ["ready", "next: serves"]);
        u64::try_from(took.as_micros()).unwrap().max(2_000)
    };
    let (mut by_main, mut by_keeper, mut lost) = (0, 0, 0);
    for nth in 0..times() * 2 {
        let of_keeper = nth % 2 == 0;
        let scene = Scene::new();
        let mut main = scene.start("main");
        scene.waits(|says| says.first().is_some_and(|line| line == "ready"));
        std::thread::sleep(Duration::from_micros(dice.next(took)));
        let keepers = children(&main);
        if of_keeper {
            keepers.iter().for_each(|keeper| drop(rustix::process::kill_process(*keeper, Signal::KILL)));
        } else {
            signal(&main, Signal::KILL);
        }
        ends(&mut main, "main");
        // A keeper that goes on says so, and one that does not ends.
        let end = Instant::now() + millis(10_000);
        while keepers.iter().any(|keeper| lives(*keeper)) {
            assert!(Instant::now() < end, "the keeper never ends: {:?}", scene.says());
            std::thread::sleep(millis(1));
        }
        let says = scene.says();
        assert!(serving(&says) < 2, "two serve: {says:?}");
        if of_keeper {
            assert_eq!(serving(&says), 1, "the keeper was killed, and nobody serves: {says:?}");
            assert!(!says.contains(&"keeper: serves".to_owned()) || !keepers.is_empty(), "{says:?}");
        }
        match says.last().unwrap().as_str() {
            "keeper: serves" => by_keeper += 1,
            "next: serves" | "main: serves" => by_main += 1,
            _ => lost += 1,
        }
    }
    println!("main serves {by_main}, its keeper {by_keeper}, the one that served was killed {lost}");
    assert!(by_main >= times() && by_main + by_keeper + lost == times() * 2);
}

/// Neither gone nor a zombie that nobody waits for.
fn lives(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
