//! Doors, and who comes to them: floods, other users, other files at a path, too few descriptors, and wishes to keep that are
//! for somebody else.
#![cfg(feature = "std")]

mod common;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/living.rs"]
mod service;

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;

use kho::report::Code;
use kho::transport::{Call, Caller, Door};
use rustix::event::EventfdFlags;
use rustix::process::{Resource, Rlimit};

use common::*;
use raw::*;
use service::*;

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[
        ("takes over", takes_over),
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

#[test]
fn thousands_of_connections_to_a_door() {
    let _alone = alone();
    let (meeting, service) = (Meeting::new(), Service::new());
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
    let (meeting, service) = (Meeting::new(), Service::new());
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
        ("another", other.as_fd(), "deliver: late: found nothing within "),
        ("a dead one", gone.as_fd(), "deliver: peer-closed: found a process that has ended, expected accepted"),
    ] {
        let (caller, end) = Caller::pair().unwrap();
        let stayed = std::thread::scope(|scope| {
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
            left.unwrap_err()
        });
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
    let (mut meeting, service) = (Meeting::new(), Service::new());
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
    // …and the first connection, of which nothing is left: that is passed over.
    let mut service = Service::new();
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
    let (meeting, mut service) = (Meeting::new(), Service::new());
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
            assert!(!Raw(theirs).hears(KEEP).is_empty(), "{how}");
        }
    }
}
