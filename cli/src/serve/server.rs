//! A life of the service: how it begins, how it is handed over, and how it ends.

use std::error::Error;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kho::handover::Outgoing;
use kho::report::{Code, Fault};
use kho::state::States;
use kho::transport::{
    Arrival, Bundle, Call, Door, Exec, Left, Part, Patience, Program, Stayed, Ticket, Turn, Upgrade, Way,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};

use super::control::{self, Measured, Order, Said};
use super::state::{DOOR, LISTENER, SERVED, STORE, Served};
use super::store::{BLOCK, Store};
use super::worker::Worker;
use super::{Life, Role};
use crate::program::{self, MANIFEST};

type Failed = Box<dyn Error>;

/// What the hooks of an upgrade work on. Requests are answered by a thread of its own, so that the service goes on while
/// its successor is asked and prepared.
struct Service {
    listener: Arc<OwnedFd>,
    door: Door,
    served: Arc<Mutex<Served>>,
    worker: Option<Worker>,
    /// The data, while nobody serves.
    store: Option<Store>,
    /// The life that is to come next.
    next: u64,
}

/// The whole life of a server, whichever way it began.
pub(super) fn live(life: &Life) -> Result<ExitCode, Failed> {
    let done = begin(life);
    if let Err(error) = &done {
        let why = error.to_string();
        let _ = control::say(rustix::stdio::stdin(), &Said::Failed { pid: std::process::id(), why });
    }
    done
}

fn begin(life: &Life) -> Result<ExitCode, Failed> {
    // First of all: a keeper waits in here, and comes back only when it is to serve.
    if let Some(arrival) = Arrival::take()? {
        return take_over(life, arrival);
    }
    die_with(life.parent)?;
    match life.role {
        Role::First => first(life),
        Role::Next => {
            let patience = Patience { accept: Duration::from_secs(10), ..Patience::default() };
            let call = Call::connect(&life.door, &[])?.patience(patience);
            take_over(life, call.arrive(&MANIFEST)?)
        }
    }
}

/// What is a child of the command ends with it, even where it is stopped. Others hear that their socket is closed.
fn die_with(parent: u32) -> Result<(), Failed> {
    if rustix::process::getppid().is_some_and(|pid| u32::try_from(pid.as_raw_nonzero().get()) == Ok(parent)) {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    Ok(())
}

fn first(life: &Life) -> Result<ExitCode, Failed> {
    // Room for the metadata of a handover, which is freed again after it.
    let mut bundle = Bundle::new(life.size.saturating_add(64 << 20))?;
    let (store, fixed) = Store::new(&mut bundle, life.size, BLOCK)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&listener, &SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::listen(&listener, 1024)?;
    let port = std::net::SocketAddr::try_from(rustix::net::getsockname(&listener)?)?.port();
    let listener = Arc::new(listener);
    let served = Arc::new(Mutex::new(Served { entries: fixed, ..Served::default() }));
    let worker = Worker::start(store, &served, &listener)?;
    let service =
        Service { listener, door: Door::bind(&life.door)?, served, worker: Some(worker), store: None, next: 0 };
    say(&Said::Serving { pid: std::process::id(), port, fixed })?;
    go_on(life, service, bundle)
}

fn say(said: &Said) -> Result<(), Failed> {
    Ok(control::say(rustix::stdio::stdin(), said)?)
}

/// Restores what came, and serves on. What cannot be restored is refused: the predecessor, or its keeper, goes on.
fn take_over(life: &Life, arrival: Arrival) -> Result<ExitCode, Failed> {
    let Arrival { incoming, turn, reason, .. } = arrival;
    let (registry, parts) = program::registry();
    let refuse = |turn: Turn, incoming, why: &str| {
        turn.refuse(incoming, why).map_err(|(error, _)| format!("{why}; and nobody goes on instead: {error}"))
    };
    let accepted = match incoming.plan(&registry).accept() {
        Ok(accepted) => accepted,
        Err(refused) => {
            let why = refused.to_string();
            refuse(turn, refused.incoming, &why)?;
            return Err(why.into());
        }
    };
    let mut restored = match accepted.restore() {
        Ok(restored) => restored,
        Err(failed) => {
            let why = failed.to_string();
            refuse(turn, failed.incoming, &why)?;
            return Err(why.into());
        }
    };
    // From here on a failure drops the turn, which is a refusal.
    let missing = "a handover of something else";
    let mut files = restored.take(&parts.files).ok_or(missing)?;
    let listener = Arc::new(files.take(LISTENER).ok_or("no listener came")?);
    let door = files.take(DOOR).ok_or("no door came")?;
    let mut states = restored.take(&parts.served).ok_or(missing)?;
    let mut served: Served = states.take(0)?.ok_or("no service came")?;
    served.upgrades += 1;
    let served = Arc::new(Mutex::new(served));
    let store = Store::of(restored.take(&parts.store).ok_or(missing)?);
    say(&Said::Restored { pid: std::process::id() })?;

    let report = turn.take()?;
    let worker = Worker::start(store, &served, &listener)?;
    // Not before: it listens anew, and whoever knocked would be told that this process has the door.
    let door = Door::from(door);
    let (mut bundle, released) = restored.finish();
    released?;
    states.finish(&mut bundle);
    say(&Said::TookOver { pid: std::process::id(), reason, measured: Measured::from(&report) })?;
    go_on(life, Service { listener, door, served, worker: Some(worker), store: None, next: 0 }, bundle)
}

/// Serves, and hands over when somebody is at the door or an order comes, until another one serves or the command is gone.
fn go_on(life: &Life, mut service: Service, mut bundle: Bundle) -> Result<ExitCode, Failed> {
    let upgrade = upgrade();
    let orders = rustix::stdio::stdin();
    loop {
        let (called, ordered) = wait(&service.door, orders)?;
        if called {
            match service.door.accept() {
                Ok(Some(caller)) => bundle = hand_over(&upgrade, &mut service, bundle, caller)?,
                Ok(None) => {}
                // One that is gone already, or a stranger.
                Err(fault) => say(&stayed("door", &fault))?,
            }
        }
        if !ordered {
            continue;
        }
        match control::hear(orders)? {
            None => return Ok(ExitCode::SUCCESS),
            Some(Order::Who) => say(&Said::Here { pid: std::process::id() })?,
            Some(Order::Leave { kept, life: next }) => {
                service.next = next;
                let program = Program::current()?.args(life.next(next));
                let ticket = Ticket::current()?;
                let way = Exec::new(&program);
                let way = if kept { way.kept(&ticket) } else { way.ticket(&ticket) };
                bundle = hand_over(&upgrade, &mut service, bundle, way)?;
            }
        }
    }
}

/// Whether somebody is at the door, and whether there is an order.
fn wait(door: &Door, orders: BorrowedFd<'_>) -> Result<(bool, bool), Failed> {
    let mut watched =
        [PollFd::from_borrowed_fd(door.as_fd(), PollFlags::IN), PollFd::from_borrowed_fd(orders, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut watched, None))?;
    let [door, orders] = watched.map(|one| !one.revents().is_empty());
    Ok((door, orders))
}

/// An upgrade: it ends this process, or gives the memory back.
fn hand_over<W: Way<Left = Left>>(
    upgrade: &Upgrade<Service>,
    service: &mut Service,
    bundle: Bundle,
    way: W,
) -> Result<Bundle, Failed> {
    match upgrade.run(service, bundle, way) {
        Ok(left) => {
            say(&Said::Left { pid: std::process::id(), measured: Measured::from(&left.report) })?;
            // What others have now is not taken apart here.
            std::process::exit(0)
        }
        Err(Stayed { step, fault, bundle, .. }) => {
            say(&stayed(step, &fault))?;
            Ok(bundle)
        }
    }
}

fn stayed(step: &str, fault: &Fault) -> Said {
    Said::Stayed { pid: std::process::id(), step: step.into(), why: fault.to_string() }
}

fn upgrade() -> Upgrade<Service> {
    let requests = Part::new("requests")
        .freeze(|service: &mut Service, _| {
            let worker = service.worker.take().ok_or("nobody serves")?;
            service.store = Some(worker.stop()?);
            Ok(())
        })
        .unfreeze(|service| {
            if let Some(store) = service.store.take() {
                // Where no thread can be started the clients will tell.
                service.worker = Worker::start(store, &service.served, &service.listener).ok();
            }
        });
    Upgrade::new(&MANIFEST)
        .part(requests)
        .prepare(|service: &mut Service, outgoing| {
            add(outgoing, LISTENER, service.listener.as_fd())?;
            add(outgoing, DOOR, service.door.as_fd())
        })
        .preserve(|service, outgoing| {
            let store = service.store.as_ref().ok_or_else(|| refused("data that somebody changes"))?;
            outgoing.preserve(STORE, &store.as_array())?;
            let mut states = States::new();
            states.attach(0, &service.served)?;
            outgoing.preserve_optional(SERVED, &states)?;
            let _ = say(&Said::Leaving { pid: std::process::id(), life: service.next });
            Ok(())
        })
        .patience(Patience { accept: Duration::from_secs(10), ..Patience::default() })
}

fn add(outgoing: &mut Outgoing<Bundle>, token: u64, file: BorrowedFd<'_>) -> Result<(), Fault> {
    let file = file.try_clone_to_owned().map_err(|error| refused(&error.to_string()))?;
    outgoing.preserve_file(token, file).map_err(|rejected| rejected.fault)
}

fn refused(why: &str) -> Fault {
    Fault::new(Code::Refused).found(why)
}

/// The process of that number.
pub(super) fn process(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}
