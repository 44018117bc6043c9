//! A service that is replaced by a process beside it, which fails first and then takes over: `cargo run --example upgrade`.
//!
//! The service counts what it is sent through a socket. Its successor is another process, as a service manager would start
//! it: it knocks at the door, learns whether the versions fit, receives the socket while the old one still serves, and the
//! count when that stands still. The first successor is killed before it has taken over: nobody notices. The second takes
//! over, and what was sent meanwhile waits in the socket for it.
//!
//! This file plays all of them; its first argument says which.

use std::error::Error;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use kho::abi;
use kho::compat::{Compat, CompatList};
use kho::files::{self, FilesNode};
use kho::handover::Registry;
use kho::payload::{Bytes, BytesNode};
use kho::transport::{Arrival, Bundle, Call, Door, Part, Upgrade};

const COUNT: CompatList<'static> = CompatList::new(Compat::new("example-count", 1), &[]);

kho::manifest! {
    static MANIFEST = [both("count", &[COUNT]), both(abi::files::NODE, &[files::MADE_OF])];
}

/// Token of the socket.
const INBOX: u64 = 1;

struct Service {
    inbox: UnixDatagram,
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
            let inbox = OwnedFd::from(
                service
                    .inbox
                    .try_clone()
                    .map_err(|error| kho::report::Fault::new(kho::report::Code::Io).item("inbox").found(error))?,
            );
            outgoing.preserve_file(INBOX, inbox).map_err(|rejected| rejected.fault)
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
    let mut service = Service { inbox, count: 0, open: true };
    let path = folder.join("door");
    let door = Door::bind(&path)?;
    let mut bundle = Bundle::new(1 << 20)?;

    for role in ["dies", "successor"] {
        for _ in 0..10 {
            sender.send(b"work")?;
            service.serve();
        }
        println!("predecessor: counted {}", service.count);
        let mut child = start(role, &path)?;
        let caller = loop {
            match door.accept()? {
                Some(caller) => break caller,
                None => std::thread::sleep(Duration::from_millis(1)),
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
    drop(arrival.incoming.plan(&registry().0).accept()?.restore()?);
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Ok(())
}

type Handles = (kho::handover::Handle<Vec<u8>>, kho::handover::Handle<files::Files>);

fn registry() -> (Registry<Bundle>, Handles) {
    let mut registry = Registry::of(&MANIFEST);
    let count = registry.read("count", BytesNode { made_of: COUNT, limit: 8 });
    let files = registry.add(abi::files::NODE, FilesNode);
    (registry, (count, files))
}

fn successor(door: &Path) -> Result<(), Box<dyn Error>> {
    let Arrival { incoming, turn, .. } = Call::connect(door, &[])?.arrive(&MANIFEST)?;
    let (registry, (count, files)) = registry();
    let mut restored = incoming.plan(&registry).accept()?.restore()?;
    // From here on this process serves: an error would say that the other one does.
    turn.take()?;
    let count = restored.take(&count).ok_or("no count")?.try_into().map_err(|_| "a count of another size")?;
    let inbox = restored.take(&files).and_then(|mut files| files.take(INBOX)).ok_or("no inbox")?;
    restored.finish().1?;

    let mut service = Service { inbox: UnixDatagram::from(inbox), count: u64::from_le_bytes(count), open: true };
    assert!(rustix::fs::fcntl_getfl(service.inbox.as_fd())?.contains(rustix::fs::OFlags::NONBLOCK));
    service.serve();
    println!("successor: counted {}", service.count);
    // Twice ten, and the two that were sent meanwhile.
    if service.count == 22 { Ok(()) } else { Err("something was lost".into()) }
}
