//! Files of every kind that travel by descriptor: each arrives as what it was, each that was swapped is found, and what
//! cannot travel is refused with the reason.
#![cfg(feature = "std")]

#[path = "common/calls.rs"]
mod calls;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use kho::abi::files::NODE;
use kho::files::{Beside as _, Files, FilesNode, Kind, Route};
use kho::handover::{Incoming, Outgoing, Registry};
use kho::mem::Arena;
use kho::transport::Bundle;
use rustix::event::{EventfdFlags, epoll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

fn memfd(flags: MemfdFlags, len: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create(c"resource", MemfdFlags::CLOEXEC | flags).unwrap();
    rustix::fs::ftruncate(&file, len).unwrap();
    file
}

fn eventfd(count: u32, flags: EventfdFlags) -> OwnedFd {
    rustix::event::eventfd(count, EventfdFlags::CLOEXEC | flags).unwrap()
}

fn watching(files: &[&OwnedFd]) -> OwnedFd {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    for (number, file) in files.iter().enumerate() {
        epoll::add(&epoll, file, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN).unwrap();
    }
    epoll
}

fn timerfd(clock: TimerfdClockId, first_ms: i64, interval_ms: i64) -> OwnedFd {
    let timer = rustix::time::timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).unwrap();
    let time = |ms: i64| Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    let spec = Itimerspec { it_value: time(first_ms), it_interval: time(interval_ms) };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).unwrap();
    timer
}

/// A process that lives until its input ends, which it does with this one.
fn process() -> (Child, OwnedFd) {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let file = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    (child, file)
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The first block device that can be opened.
fn block_device() -> Option<OwnedFd> {
    let names = std::fs::read_dir("/sys/class/block").ok()?;
    let file =
        names.filter_map(|name| File::open(std::path::Path::new("/dev").join(name.ok()?.file_name())).ok()).next();
    file.map(OwnedFd::from)
}

/// A handover of these files as it arrives, but with the files that `came` makes of them.
fn arrives(files: Vec<(u64, OwnedFd)>, came: impl FnOnce(Files) -> Files) -> Incoming<Bundle> {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    for (token, file) in files {
        outgoing.preserve_file(token, file).unwrap();
    }
    let (mut bundle, root) = outgoing.finish().unwrap().into_parts();
    let files = came(std::mem::take(bundle.files_mut()));
    let arena = Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap();
    Incoming::new(Bundle::of(arena, files), root.start())
}

fn told(incoming: Incoming<Bundle>) -> String {
    let mut registry = Registry::new();
    registry.add(NODE, FilesNode);
    incoming.plan(&registry).findings().to_string()
}

#[test]
fn every_kind_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let named = File::options().read(true).append(true).create(true).open(folder.path().join("log")).unwrap();
    let unnamed = tempfile::tempfile_in(folder.path()).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("fifo"), Mode::from(0o600)).unwrap();
    let fifo = OpenOptions::new().read(true).write(true).open(folder.path().join("fifo")).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let stream = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let event = eventfd(1, EventfdFlags::empty());
    let (child, pidfd) = process();
    let mut all: Vec<(Kind, OwnedFd)> = vec![
        (Kind::Memfd, memfd(MemfdFlags::ALLOW_SEALING, 5)),
        (Kind::Regular, named.into()),
        (Kind::Pipe, reader.into()),
        (Kind::Pipe, writer.into()),
        (Kind::Pipe, fifo.into()),
        (Kind::Socket, UnixListener::bind(folder.path().join("socket")).unwrap().into()),
        (Kind::Socket, one.into()),
        (Kind::Socket, other.into()),
        (Kind::Socket, tcp.into()),
        (Kind::Socket, stream.into()),
        (Kind::Socket, UdpSocket::bind(("127.0.0.1", 0)).unwrap().into()),
        (Kind::CharDevice, OpenOptions::new().write(true).open("/dev/null").unwrap().into()),
        (Kind::CharDevice, File::open("/dev/zero").unwrap().into()),
        (Kind::Epoll, watching(&[&event])),
        (Kind::Eventfd, event),
        (Kind::Eventfd, eventfd(3, EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK)),
        (Kind::Timerfd, timerfd(TimerfdClockId::Boottime, 50_000, 1)),
        (Kind::Signalfd, calls::signalfd(&[libc::SIGUSR1, libc::SIGWINCH])),
        (Kind::Pidfd, pidfd),
    ];
    // In a tmpfs it is a memfd.
    all.push((Kind::of(&unnamed).unwrap(), unnamed.into()));
    match rustix::fs::memfd_create(c"huge", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB) {
        Ok(huge) => all.push((Kind::Hugetlb, huge)),
        Err(error) => eprintln!("needs hugetlbfs: {error}"),
    }
    match block_device() {
        Some(device) => all.push((Kind::BlockDevice, device)),
        None => eprintln!("needs a block device that may be read"),
    }
    let kinds: Vec<Kind> = all.iter().map(|(kind, _)| *kind).collect();
    let inode =
        |file: std::os::fd::BorrowedFd<'_>| rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino)).unwrap();
    let inodes: Vec<_> = all.iter().map(|(_, file)| inode(file.as_fd())).collect();
    let files = all.into_iter().zip(1..).map(|((_, file), token)| (token, file)).collect();
    let incoming = arrives(files, |files| {
        assert!(files.refused_by(Route::Exec).is_empty());
        let others = kinds.iter().filter(|kind| **kind != Kind::Memfd).count();
        assert_eq!(files.refused_by(Route::Session).len(), others);
        files
    });
    let mut registry = Registry::new();
    let handle = registry.add(NODE, FilesNode);
    let plan = incoming.plan(&registry);
    assert_eq!(plan.findings().to_string(), "");
    let files = plan.accept().unwrap().restore().unwrap().take(&handle).unwrap();
    let came: Vec<Kind> = files.iter().map(|(_, file)| Kind::of(file).unwrap()).collect();
    assert_eq!(came, kinds);
    assert_eq!(files.iter().map(|(_, file)| inode(file)).collect::<Vec<_>>(), inodes);
    end(child);
}

/// What the plan says when another file came than was recorded.
#[track_caller]
fn swapped(recorded: impl Into<OwnedFd>, came: impl Into<OwnedFd>, says: &str) {
    let came = came.into();
    // What is known by its inode is another file as long as the first is open.
    let mut kept = None;
    let told = told(arrives(vec![(1, recorded.into())], |mut files| {
        kept = files.take(1);
        Files::received([(1, came)])
    }));
    assert!(told.starts_with(&format!("error: /files: file-identity: files[0x1].{says}")), "{told} instead of {says}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_swapped_file_is_found() {
    let pipe = || OwnedFd::from(std::io::pipe().unwrap().0);
    let plain = EventfdFlags::empty();
    let (child, first) = process();
    let (second_child, second) = process();
    swapped(eventfd(0, plain), eventfd(0, plain), "eventfd-id: found 0x");
    swapped(pipe(), pipe(), "inode: found 0x");
    swapped(first, second, if of_pidfs() { "inode: found 0x" } else { "process: found 0x" });
    let (reader, writer) = std::io::pipe().unwrap();
    swapped(reader, writer, "status flags: found 0x1, expected 0x0");
    let (one, other) = UnixStream::pair().unwrap();
    swapped(one, other, "inode: found 0x");
    let event = eventfd(0, plain);
    swapped(watching(&[&event]), watching(&[]), "watches: found 0x0, expected 0x1");
    let timer = |clock| timerfd(clock, 1000, 0);
    swapped(timer(TimerfdClockId::Monotonic), timer(TimerfdClockId::Realtime), "clock: found 0x0, expected 0x1");
    let every = |interval| timerfd(TimerfdClockId::Monotonic, 1000, interval);
    swapped(every(1), every(2), "interval: found 0x1e8480, expected 0xf4240");
    let signals = |signals: &[i32]| calls::signalfd(signals);
    swapped(signals(&[1]), signals(&[1, 2]), "signals: found 0x3, expected 0x1");
    let device = |path: &str| File::open(path).unwrap();
    swapped(device("/dev/null"), device("/dev/zero"), "inode: found 0x");
    let master = || OpenOptions::new().read(true).write(true).open("/dev/ptmx").map_err(|error| error.to_string());
    match (master(), master()) {
        (Ok(one), Ok(other)) => swapped(one, other, "terminal: found 0x"),
        (Err(error), _) | (_, Err(error)) => eprintln!("needs pseudoterminals: {error}"),
    }
    swapped(tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap(), "inode: found 0x");
    let small = || memfd(MemfdFlags::empty(), 1);
    if let Ok(huge) = rustix::fs::memfd_create(c"huge", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB) {
        swapped(huge, small(), "kind: found a memfd, expected a hugetlb memfd");
    }
    swapped(small(), small(), "inode: found 0x");
    end(child);
    end(second_child);
}

fn of_pidfs() -> bool {
    let this = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    rustix::fs::fstatfs(&this).unwrap().f_type == 0x5049_4446
}

#[test]
fn a_file_of_another_kind_is_found() {
    let event = || eventfd(0, EventfdFlags::empty());
    swapped(event(), std::io::pipe().unwrap().0, "kind: found a pipe, expected an eventfd");
    swapped(std::io::pipe().unwrap().0, event(), "kind: found an eventfd, expected a pipe");
    swapped(event(), watching(&[]), "kind: found an epoll, expected an eventfd");
    swapped(
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        File::open("/dev/null").unwrap(),
        "kind: found a character device",
    );
    swapped(
        tempfile::tempfile().unwrap(),
        memfd(MemfdFlags::empty(), 0),
        "kind: found a memfd, expected a regular file",
    );
    // Kinds that do not travel are other files as well.
    let says = "kind: found a directory, which the successor opens by its path, expected an eventfd";
    swapped(event(), File::open("/").unwrap(), says);
    let by_path = || rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    swapped(event(), by_path(), "kind: found an O_PATH descriptor");
}

#[test]
fn a_descriptor_that_was_closed_early_is_missed() {
    let (reader, writer) = std::io::pipe().unwrap();
    let incoming = arrives(vec![(1, reader.into()), (2, writer.into())], |mut files| {
        drop(files.take(2));
        files
    });
    assert_eq!(told(incoming), "error: /files: token-missing: files[0x2]: no file came with that token");
}

/// What the plan says when the file was changed after it was recorded.
#[track_caller]
fn changed<F: Into<OwnedFd> + std::os::fd::AsFd>(file: F, change: impl FnOnce(&OwnedFd), says: &str) {
    let ours = file.as_fd().try_clone_to_owned().unwrap();
    let told = told(arrives(vec![(1, file.into())], |files| {
        change(&ours);
        files
    }));
    let says = if says.is_empty() { String::new() } else { format!("error: /files: file-identity: files[0x1].{says}") };
    assert_eq!(told, says);
}

#[test]
fn what_was_done_to_a_file_meanwhile_is_found() {
    let log = || {
        let mut log = tempfile::tempfile().unwrap();
        log.write_all(b"log").unwrap();
        log.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
        OwnedFd::from(log)
    };
    let file = |fd: &OwnedFd| File::from(fd.try_clone().unwrap());
    changed(log(), |fd| file(fd).set_len(1).unwrap(), "size: found 0x1, expected 0x3");
    changed(log(), |fd| assert_eq!(file(fd).seek(SeekFrom::Start(1)).unwrap(), 1), "position: found 0x1, expected 0x3");
    let chmod = |fd: &OwnedFd| file(fd).set_permissions(std::fs::Permissions::from_mode(0o400)).unwrap();
    changed(log(), chmod, "mode: found 0x100, expected 0x180");
    let ram = || memfd(MemfdFlags::ALLOW_SEALING, 4096);
    changed(ram(), |fd| rustix::fs::ftruncate(fd, 4095).unwrap(), "size: found 0xfff, expected 0x1000");
    let seal = |fd: &OwnedFd| rustix::fs::fcntl_add_seals(fd, SealFlags::GROW).unwrap();
    changed(ram(), seal, "seals: found 0x4, expected 0x0");
    let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nonblocking = |fd: &OwnedFd| rustix::io::ioctl_fionbio(fd, true).unwrap();
    changed(bound, nonblocking, "status flags: found 0x802, expected 0x2");
    let (reader, _writer) = std::io::pipe().unwrap();
    let grow = |fd: &OwnedFd| assert_eq!(rustix::pipe::fcntl_setpipe_size(fd, 0x2000).unwrap(), 0x2000);
    changed(reader, grow, "capacity: found 0x2000, expected 0x10000");
    let unbound = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    changed(unbound, |fd| rustix::net::listen(fd, 1).unwrap(), "listening: found 0x1, expected 0x0");
}

#[test]
fn a_memfd_that_lost_its_seals_is_another_one() {
    let sealed = memfd(MemfdFlags::ALLOW_SEALING, 4096);
    rustix::fs::fcntl_add_seals(&sealed, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    swapped(sealed, memfd(MemfdFlags::ALLOW_SEALING, 4096), "inode: found 0x");
    // The next kernel makes other inodes, and it is the seals that tell.
    let sealed = memfd(MemfdFlags::ALLOW_SEALING, 4096);
    rustix::fs::fcntl_add_seals(&sealed, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    let anew = memfd(MemfdFlags::ALLOW_SEALING, 4096);
    let incoming = arrives(vec![(1, sealed)], |_| Files::retrieved([(1, anew)]));
    assert_eq!(told(incoming), "error: /files: file-identity: files[0x1].seals: found 0x0, expected 0x6");
}

#[test]
fn what_goes_on_meanwhile_is_not_compared() {
    let add = |fd: &OwnedFd| assert_eq!(rustix::io::write(fd, &7_u64.to_ne_bytes()).unwrap(), 8);
    changed(eventfd(1, EventfdFlags::empty()), add, "");
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    changed(reader.try_clone().unwrap(), |_| writer.write_all(b"more").unwrap(), "");
    reader.read_exact(&mut [0; 4]).unwrap();
    changed(reader, |_| drop(writer), "");
    let (one, other) = UnixStream::pair().unwrap();
    changed(one, |_| drop(other), "");
    let timer = timerfd(TimerfdClockId::Monotonic, 1, 1);
    changed(timer, |_| std::thread::sleep(std::time::Duration::from_millis(5)), "");
    let (child, pidfd) = process();
    changed(pidfd, |_| end(child), "");
}

#[test]
fn two_descriptors_of_one_file_travel() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, "0123456789").unwrap();
    let at = |position: u64| {
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(position)).unwrap();
        file
    };
    let (first, second) = (at(3), at(7));
    let again = second.try_clone().unwrap();
    let files = vec![(1, first.into()), (2, second.into()), (3, again.into())];
    let incoming = arrives(files, |files| files);
    let mut registry = Registry::new();
    let handle = registry.add(NODE, FilesNode);
    let mut files = incoming.plan(&registry).accept().unwrap().restore().unwrap().take(&handle).unwrap();
    let mut next = |token: u64| {
        let mut byte = [0];
        File::from(files.take(token).unwrap()).read_exact(&mut byte).unwrap();
        byte[0]
    };
    // The third shares the position of the second.
    assert_eq!([next(1), next(2), next(3)], *b"378");
}

#[test]
fn what_is_bound_to_a_process_is_refused() {
    let bound = |name: &str, to: &str| format!("{name}, which is bound to the {to} of the process that made it");
    let unknown = |name: &str| format!("{name}, an anonymous inode that cannot be told from another of its kind");
    let mut made = vec![
        (
            "io_uring, which the kernel lets no unix socket carry, and whose rings are bound to the memory of the process \
             that made it"
                .to_owned(),
            calls::io_uring(),
        ),
        (bound("userfaultfd", "address space"), calls::userfaultfd()),
        (unknown("perf_event"), calls::perf_event()),
    ];
    match File::open("/dev/kvm").map_err(|error| error.to_string()) {
        Ok(kvm) => {
            let machine = calls::kvm(kvm.as_fd(), false);
            if let Ok(machine) = &machine {
                made.push((bound("kvm-vcpu:0", "memory"), calls::kvm(machine.as_fd(), true)));
            }
            made.push((bound("kvm-vm", "memory"), machine));
        }
        Err(error) => eprintln!("needs /dev/kvm: {error}"),
    }
    for (says, file) in made {
        match file {
            Ok(file) => {
                let rejected = Files::new().add(9, file).unwrap_err();
                assert_eq!(rejected.to_string(), format!("file-kind: files[0x9].kind: {says}"));
            }
            Err(error) => eprintln!("needs a kernel that makes it: {error}: {says}"),
        }
    }
}
