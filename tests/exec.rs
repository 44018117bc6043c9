//! Real processes that exec real successors.
//!
//! The test binary is predecessor and successor in one: each scenario starts it again as a child, which runs only the
//! test [`role`], whose part the variable `KHO_TEST_ROLE` names. The last image says `verdict: ok`.
#![cfg(feature = "std")]

mod common;

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use kho::report::Code;
use kho::transport::{Cargo, ExecError, Parcel, Program, Ticket, arrive};
use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use common::*;

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[
        ("files", leave_with_files),
        ("files: arrive", arrive_with_files),
        ("grandchild", || assert!(arrive().unwrap().is_none())),
        ("stale", || assert!(arrive().unwrap().is_none())),
        ("many", leave_with_many),
        ("many: arrive", arrive_with_many),
        ("narrow: arrive", arrive_in_a_narrow_table),
        ("failed", fail_to_leave),
        ("failed: arrive", || assert_eq!(arrived().files[0].0, 1)),
        ("signals", leave_to_cat),
        ("back", leave_with_ticket),
        ("back: refuse", refuse),
    ]);
}

fn arrived() -> Parcel {
    arrive().unwrap().expect("a parcel")
}

#[test]
fn files_arrive_with_their_tokens_and_nothing_else_does() {
    let mut command = child(&me(), "files");
    command.env("KHO_TEST_REMOVED", "x").env("KHO_TEST_KEPT", "kept");
    succeeds(command);
}

fn leave_with_files() {
    let arena = memfd("arena");
    let files: Vec<OwnedFd> = ["a", "b", "c"].into_iter().map(memfd).collect();
    let tokens = [u64::MAX, 0, 7];
    // What the program itself lets its successor inherit is its own affair.
    let _inherited = rustix::io::dup(&arena).unwrap();
    let list: Vec<String> = files.iter().chain([&arena]).map(inode).collect();
    let expect = format!("{:?} {}", inheritable(), list.join(" "));
    let mut cargo = Cargo::new(0xabc, arena.as_fd());
    cargo.extend(tokens.into_iter().zip(files.iter().map(AsFd::as_fd)));
    let program = next("files: arrive").env(EXPECT, expect).env_remove("KHO_TEST_REMOVED");
    panic!("{}", cargo.exec(&program));
}

fn arrive_with_files() {
    let expect = std::env::var(EXPECT).unwrap();
    assert_eq!(std::env::var("KHO_TEST_KEPT").unwrap(), "kept");
    assert!(std::env::var("KHO_TEST_REMOVED").is_err());
    let mut before = inheritable();
    assert_eq!(descriptors().len(), before.len(), "all of them inherited");
    before.retain(|number| *number != socket_number());
    assert_eq!(descriptors().len(), before.len() + 1, "the socket is there");

    let parcel = arrived();
    let list: Vec<String> = parcel.files.iter().map(|(_, file)| file).chain([&parcel.arena]).map(inode).collect();
    assert_eq!(format!("{before:?} {}", list.join(" ")), expect);
    assert_eq!(parcel.files.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [u64::MAX, 0, 7]);
    assert_eq!((parcel.nonce, parcel.ticket.is_none(), parcel.reason.is_none()), (0xabc, true, true));
    assert!(parcel.stamp_ns < now_ns() && parcel.stamp_ns + 20_000_000_000 > now_ns());
    for file in parcel.files.iter().map(|(_, file)| file).chain([&parcel.arena]) {
        assert!(rustix::io::fcntl_getfd(file).unwrap().contains(FdFlags::CLOEXEC));
    }
    assert_eq!(inheritable(), before, "nobody inherits the socket any more");
    assert_eq!(descriptors().len(), before.len() + 5, "four came; the socket is there, and empty");
    assert!(arrive().unwrap().is_none(), "a second time");
    drop(parcel);

    // The variable is still in the environment: a child gets it, and so does another program in this process.
    succeeds(child(&me(), "grandchild"));
    let error = child(&me(), "stale").exec();
    panic!("{error}");
}

#[test]
fn two_thousand_descriptors() {
    succeeds(child(&me(), "many"));
}

fn leave_with_many() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let arena = memfd("");
    let files: Vec<OwnedFd> = (0..2_000).map(|n| memfd(&format!("file {n}"))).collect();
    let mut cargo = Cargo::new(1, arena.as_fd());
    cargo.extend((0..).zip(files.iter().map(AsFd::as_fd)));
    panic!("{}", cargo.exec(&next("many: arrive")));
}

fn arrive_with_many() {
    let parcel = arrived();
    assert_eq!(parcel.files.len(), 2_000);
    for (token, file) in &parcel.files {
        let mut text = String::new();
        File::from(file.try_clone().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("file {token}"));
    }
    // On, with a limit that the sender can see to be too small ...
    let mut cargo = Cargo::new(2, parcel.arena.as_fd());
    cargo.extend(parcel.files.iter().map(|(token, file)| (*token, file.as_fd())));
    let limit = |current| {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).unwrap();
    };
    limit(2_063);
    let error = cargo.exec(&next("narrow: arrive")).to_string();
    assert_eq!(error, "RLIMIT_NOFILE: 2064 needed, the limit is 2063");
    limit(2_064);
    panic!("{}", cargo.exec(&next("narrow: arrive")));
}

fn arrive_in_a_narrow_table() {
    // ... and with one that only the receiver sees.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(100), ..limit }).unwrap();
    let before = descriptors().len();
    let fault = arrive().unwrap_err();
    assert_eq!((fault.code(), fault.expected_text()), (Code::ParcelLimit, "all of them: RLIMIT_NOFILE is 100"));
    assert_eq!(descriptors().len(), before, "what did come is closed");
}

#[test]
fn a_refused_exec_changes_nothing() {
    succeeds(child(&me(), "failed"));
}

fn fail_to_leave() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, mode: u32, content: &[u8]| {
        let path = folder.path().join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let image = std::fs::read(me()).unwrap();
    let mut no_interpreter = image.clone();
    let interpreter = no_interpreter.windows(5).position(|bytes| bytes == b"/lib6" || bytes == b"/lib/");
    if let Some(at) = interpreter {
        no_interpreter[at + 1] = b'X';
    }
    let busy = make("busy", 0o755, &image);
    let writer = OpenOptions::new().append(true).open(&busy).unwrap();
    let mut no_elf = b"\x7fELF".to_vec();
    no_elf.resize(200, 0xff);
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o777.into(), 0).unwrap();

    let (arena, file) = (memfd(""), memfd("file"));
    let cargo = Cargo::new(5, arena.as_fd()).file(1, file.as_fd());
    let exec = |path: &Path| Program::open(path).map_or_else(|error| error, |program| cargo.exec(&program));
    let exec = &exec;
    let at = |path: PathBuf| move || exec(&path);
    type Try<'a> = Box<dyn Fn() -> ExecError + 'a>;
    let twice = Cargo::new(5, arena.as_fd()).file(9, file.as_fd()).file(9, arena.as_fd());
    let mut tries: Vec<(&str, Try<'_>)> = vec![
        ("the program has no execute permission (mode 0644)", Box::new(at(make("mode", 0o644, &image)))),
        ("the program is no ELF file: it begins with [74, 65, 78, 74]", Box::new(at(make("text", 0o755, b"text")))),
        ("the program is no ELF file: it begins with []", Box::new(at(make("empty", 0o755, b"")))),
        ("the program is a script (#!): ", Box::new(at(make("script", 0o755, b"#!/bin/sh\n")))),
        ("the program is not a regular file but a directory", Box::new(at(folder.path().to_owned()))),
        ("the program is not a regular file but a pipe", Box::new(at(fifo))),
        ("No such file or directory", Box::new(at(folder.path().join("absent")))),
        ("exec: Exec format error", Box::new(at(make("no elf", 0o755, &no_elf)))),
        ("exec: Text file busy", Box::new(at(busy))),
        ("exec: Argument list too long", Box::new(|| cargo.exec(&next("").args(["x".repeat(200_000)])))),
        ("exec: Argument list too long", Box::new(|| cargo.exec(&next("").env("LONG", "x".repeat(200_000))))),
        ("cannot pass: \"a\\0b\"", Box::new(|| cargo.exec(&next("").args(["a\0b"])))),
        ("cannot pass: \"A=B\"", Box::new(|| cargo.exec(&next("").env("A=B", "")))),
        ("two files under token 0x9", Box::new(|| twice.exec(&next("")))),
    ];
    if interpreter.is_some() {
        let path = make("no interpreter", 0o755, &no_interpreter);
        tries.push(("exec: No such file or directory", Box::new(at(path))));
    }
    if rustix::process::getuid().is_root() {
        let path = make("other group", 0o755, &image);
        std::os::unix::fs::chown(&path, None, Some(65_534)).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o2755)).unwrap();
        tries.push(("its effective group is not the real one", Box::new(at(path))));
    }
    let (first, first_maps) = snapshot();
    for round in 0..2 {
        for (says, try_it) in &tries {
            let error = try_it().to_string();
            assert!(error.contains(says), "{error} instead of {says}");
            let (after, maps) = snapshot();
            assert_eq!(after, first, "{says}");
            // The heap may grow, once.
            assert!(maps <= first_maps + 4, "{says}, round {round}: {maps} mappings after {first_maps}");
        }
    }
    drop(writer);
    let gone = make("gone", 0o755, &image);
    let program = Program::open(&gone).unwrap().args(ARGS).env(ROLE, "failed: arrive");
    std::fs::remove_file(gone).unwrap();
    // Destructors do not run in exec.
    folder.close().unwrap();
    panic!("{}", cargo.exec(&program));
}

#[test]
fn signals_stay_as_they_were() {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("trap '' USR1; exec \"$0\" \"$@\"").arg(me()).args(ARGS).env(ROLE, "signals");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let masks: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("SigIgn:")).map(str::trim).collect();
    let [before, after] = masks[..] else { panic!("{text}") };
    assert_eq!(before, after);
    // Signals 10 (USR1) and 13 (PIPE), counted from 1.
    let mask = u64::from_str_radix(after, 16).unwrap();
    assert_eq!(mask & (1 << 9 | 1 << 12), 1 << 9 | 1 << 12, "{mask:#x}");
}

fn leave_to_cat() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("SigIgn:")).unwrap());
    let arena = memfd("");
    // A program that knows nothing of handovers, and of which no Rust runtime changes a signal.
    let program = Program::open("/bin/cat").unwrap().args(["/proc/self/status"]);
    panic!("{}", Cargo::new(1, arena.as_fd()).exec(&program));
}

#[test]
fn a_refused_handover_goes_back() {
    for how in ["plain", "replaced", "removed", "overwritten", "copy overwritten"] {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("predecessor");
        std::fs::copy(me(), &program).unwrap();
        let mut command = child(&program, "back");
        command.env(HOW, how).env(EXPECT, me());
        let text = succeeds(command);
        assert_eq!(text.contains("came back"), how != "overwritten", "{how}: {text}");
    }
}

fn leave_with_ticket() {
    let (arena, file) = (memfd("arena"), memfd("file"));
    let program = Program::current().unwrap();
    let how = std::env::var(HOW).unwrap();
    let ticket = if how.starts_with("copy") { Ticket::copy(&program) } else { Ticket::current() }.unwrap();
    let cargo = Cargo::new(77, arena.as_fd()).file(4, file.as_fd()).ticket(&ticket);
    let successor = Program::open(std::env::var(EXPECT).unwrap()).unwrap().args(ARGS).env(ROLE, "back: refuse");
    let identity = format!("{} {} {}", inode(&arena), inode(&file), std::fs::metadata("/proc/self/exe").unwrap().ino());
    panic!("{}", cargo.exec(&successor.env(EXPECT, identity)));
}

fn refuse() {
    let parcel = arrived();
    let identity = format!(
        "{} {} {}",
        inode(&parcel.arena),
        inode(&parcel.files[0].1),
        std::fs::metadata("/proc/self/exe").unwrap().ino()
    );
    let how = std::env::var(HOW).unwrap();
    let expect = std::env::var(EXPECT).unwrap();
    assert_eq!((parcel.nonce, parcel.files[0].0), (77, 4));
    if let Some(reason) = &parcel.reason {
        // The predecessor again.
        println!("came back");
        assert_eq!(reason, "state-v3 is newer than state-v2");
        // A copy is another inode, all else is the same.
        assert_eq!(identity == expect, !how.starts_with("copy"), "{identity} {expect}");
        assert!(parcel.ticket.is_none());
        assert!(matches!(parcel.go_back("again"), ExecError::NoTicket));
        return;
    }
    let ticket = parcel.ticket.as_ref().unwrap();
    assert_eq!(ticket.verify(), Ok(()));
    let path = PathBuf::from(&ticket.argv()[0]);
    assert_eq!(ticket.argv()[1..], ARGS);
    match how.as_str() {
        "plain" => {}
        "removed" => std::fs::remove_file(&path).unwrap(),
        "replaced" => {
            let new = path.with_extension("new");
            std::fs::write(&new, "new").unwrap();
            std::fs::rename(new, &path).unwrap();
        }
        _ => std::fs::write(&path, "#!/bin/false").unwrap(),
    }
    let before = snapshot().0;
    let error = parcel.go_back("state-v3 is newer than state-v2");
    assert_eq!(how, "overwritten", "{error}");
    assert_eq!(snapshot().0, before);
    let ExecError::Ticket(fault) = error else { panic!("{error}") };
    assert_eq!((fault.code(), fault.found_text()), (Code::FileIdentity, "12"));
    assert_eq!(fault.at().item.as_deref(), Some("ticket.size"));
}
