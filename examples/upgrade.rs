//! A service that is replaced by a process beside it, which fails first and then takes over: `cargo run --example upgrade`.
//!
//! The service counts what it is sent through a socket. Its successor is another process, as a service manager would start
//! it: it knocks at the door, learns whether the versions fit, receives the socket while the old one still serves, and the
//! count when that stands still. The first successor is killed before it has taken over: nobody notices. The second takes
//! over, and what was sent meanwhile waits in the socket for it.
//!
//! This file plays all of them; its first argument says which.

use std::error::Error;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use kho::abi;
use kho::compat::{Compat, CompatList};
use kho::files::{self, Files, FilesNode};
use kho::handover::{Handle, Registry};
use kho::payload::{Bytes, BytesNode};
use kho::transport::{Bundle, Call, Door, Part, Upgrade};

const COUNT: CompatList<'static> = CompatList::new(Compat::new("example-count", 1), &[]);

kho::manifest! {
    static MANIFEST = [both("count", &[COUNT]), both(abi::files::NODE, &[files::MADE_OF])];
}

/// Tokens of the socket, and of the door itself: so the path stays where it is, for the successor's successor.
const INBOX: u64 = 1;
const DOOR: u64 = 2;

struct Service {
    inbox: UnixDatagram,
    door: Door,
    count: u64,
    /// Whether it takes what is sent.
    open: bool,
}

impl Service {
    /// Counts what waits.
    fn serve(&mut self) {
        while self.open && self.inbox.recv(&mut [0; 16]).is_ok() {
            self.count += 1;
        }
    }
}

/// What it takes to hand the service over, whoever it goes to.
fn upgrade() -> Upgrade<Service> {
    Upgrade::new(&MANIFEST)
        .part(
            Part::new("inbox")
                .freeze(|service: &mut Service, _| {
                    service.open = false;
                    Ok(())
                })
                .unfreeze(|service| service.open = true),
        )
        .prepare(|service, outgoing| {
            outgoing.lend_file(INBOX, &service.inbox)?;
            outgoing.lend_file(DOOR, &service.door)
        })
        .preserve(|service, outgoing| {
            outgoing.preserve("count", &Bytes { made_of: COUNT, bytes: &service.count.to_le_bytes() })
        })
        .budget(Duration::from_secs(2))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("successor"), Some(door)) => successor(Path::new(&door)),
        (Some("dies"), Some(door)) => dies(Path::new(&door)),
        _ => predecessor(),
    }
}

fn predecessor() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("kho-upgrade-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let (inbox, sender) = UnixDatagram::pair()?;
    inbox.set_nonblocking(true)?;
    let path = folder.join("door");
    let mut service = Service { inbox, door: Door::bind(&path)?, count: 0, open: true };
    let mut bundle = Bundle::new(1 << 20)?;

    for role in ["dies", "successor"] {
        for _ in 0..10 {
            sender.send(b"work")?;
            service.serve();
        }
        println!("predecessor: counted {}", service.count);
        let mut child = start(role, &path)?;
        let caller = loop {
            match service.door.accept() {
                Ok(Some(caller)) => break caller,
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                // It is about one caller: another user, say.
                Err(fault) => eprintln!("predecessor: {fault}"),
            }
        };
        // Sent when nobody may be counting.
        sender.send(b"work")?;
        match upgrade().run(&mut service, bundle, caller) {
            Ok(left) => {
                println!("predecessor: {} serves now\n{}", child.id(), left.report);
                std::fs::remove_dir_all(&folder)?;
                let ended = child.wait()?;
                return if ended.success() { Ok(()) } else { Err("the successor failed".into()) };
            }
            Err(stayed) => {
                println!("predecessor: still serving, {stayed}");
                bundle = stayed.bundle;
                child.wait()?;
            }
        }
    }
    Err("nobody took over".into())
}

fn start(role: &str, door: &Path) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).arg(role).arg(door).spawn()
}

/// Everything is restored, and then the power of one process fails.
fn dies(door: &Path) -> Result<(), Box<dyn Error>> {
    let arrival = Call::connect(door, &[])?.arrive(&MANIFEST)?;
    let (_restored, _turn) = arrival.restore(&registry().0)?;
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Ok(())
}

fn registry() -> (Registry<Bundle>, Handle<Vec<u8>>, Handle<Files>) {
    let mut registry = Registry::of(&MANIFEST);
    let count = registry.read("count", BytesNode { made_of: COUNT, limit: 8 });
    let files = registry.add(abi::files::NODE, FilesNode);
    (registry, count, files)
}

fn successor(door: &Path) -> Result<(), Box<dyn Error>> {
    let arrival = Call::connect(door, &[])?.arrive(&MANIFEST)?;
    let (registry, count, files) = registry();
    // What does not fit is refused, and the predecessor told why.
    let (mut restored, turn) = arrival.restore(&registry)?;
    let count = restored.take(&count).ok_or("no count")?.try_into().map_err(|_| "a count of another size")?;
    let mut files = restored.take(&files).ok_or("no files")?;
    let mut file = |token| files.take(token).ok_or("a file is missing");
    let (inbox, door) = (UnixDatagram::from(file(INBOX)?), Door::from(file(DOOR)?));
    // All that can fail was before: from here on this process serves. An error would say that the other one does.
    turn.take()?;
    restored.finish().1?;

    let mut service = Service { inbox, door, count: u64::from_le_bytes(count), open: true };
    service.serve();
    println!("successor: counted {}", service.count);
    // Twice ten, and the two that were sent meanwhile.
    if service.count == 22 { Ok(()) } else { Err("something was lost".into()) }
}
