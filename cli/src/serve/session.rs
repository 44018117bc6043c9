//! `--transport session`: across a kexec, in two halves. Nothing that runs survives it, so the clients end when all is
//! answered, hand what they know to those of the next kernel, and these go on from there. The service is in the command
//! itself, and its clients come to a unix socket: a kernel that is made for this need not have TCP.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kho::liveupdate::{Cause, DEVICE, Device, NewSession, RetrievedSession};
use kho::report::{Code, Fault};
use kho::state::States;
use kho::transport::{Arrival, Bundle, InSession, Part, Upgrade};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Args;
use super::control::Measured;
use super::drive::nanos;
use super::load::{Address, Counts, Load, Seen};
use super::report::{Half, Report, Session, Stage, Upgraded};
use super::state::{Keys, Known, SERVED, STORE, Served};
use super::store::{BLOCK, FIXED, Store, mix};
use super::worker::Worker;
use crate::demo::Format;
use crate::program::{self, MANIFEST};

type Failed = Box<dyn Error>;

/// What the hooks of the upgrade work on.
struct Service {
    listener: Arc<OwnedFd>,
    served: Arc<Mutex<Served>>,
    /// What the clients know, once they have ended.
    known: Arc<Mutex<Known>>,
    worker: Option<Worker>,
    /// The data, while nobody serves.
    store: Option<Store>,
}

/// Whichever half it is.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failed> {
    let of = |error: &dyn std::fmt::Display| format!("--transport session: {error}");
    if !Path::new(DEVICE).exists() {
        let why = "it needs a kernel with CONFIG_LIVEUPDATE that was booted with kho=on liveupdate=on";
        return Err(of(&format_args!("{DEVICE} is not there: {why}")).into());
    }
    // Before anything is taken, which would be lost with this process.
    let rest = args.rest()?;
    let device = Device::open().map_err(|refused| of(&refused))?;
    match device.retrieve(&args.session) {
        Ok(session) => {
            drop(device);
            second(args, rest, session)
        }
        Err(refused) if refused.cause() == Cause::NoSuchSession => {
            let session = device.create(&args.session).map_err(|refused| of(&refused))?;
            // One process has it at a time, and this one stays.
            drop(device);
            first(args, rest, session)
        }
        Err(refused) => Err(of(&refused).into()),
    }
}

/// Before the kexec. It comes back only where something was wrong.
fn first(args: &Args, rest: Duration, session: NewSession) -> Result<ExitCode, Failed> {
    let seed = args.random();
    crate::demo::enough_memory(args.size.saturating_mul(2))?;
    let (block, room) = layout(args.size);
    let mut bundle = Bundle::new(room)?;
    let (store, fixed) = Store::new(&mut bundle, args.size, block)?;
    let size = store.bytes();
    let known = Known { clients: Keys::new(args.clients), ..Known::default() };
    let served = Served { entries: fixed, ..Served::default() };
    let (mut service, seen, told) = Service::load(store, served, known, rest, seed)?;
    if !seen.counts.is_fine() || !told.is_empty() {
        let stage = Stage::half(Half::Before, seen, Vec::new(), told);
        return Report::new(size, args.clients, seed, vec![stage]).print(args.format);
    }
    // It stays until the process ends, and with it the session.
    let parked = upgrade().run(&mut service, bundle, InSession::new(session))?;
    let told = service.check().told;
    let fine = told.is_empty();
    let measured = Measured::from(&parked.report);
    let filled = parked.preserved.told().summary.filled;
    let stage = Stage::half(Half::Before, seen, Vec::new(), told);
    let report = Report::new(size, args.clients, seed, vec![stage]);
    let name = args.session.clone();
    let code = report.session(Session::Parked { name, filled, report: measured }).print(args.format)?;
    if !fine {
        return Ok(code);
    }
    if matches!(args.format, Format::Text) {
        let line = format!("parked: process {} holds the session until the kernel is left\n", std::process::id());
        crate::print(line.as_bytes())?;
    }
    loop {
        std::thread::park();
    }
}

/// In the next kernel.
fn second(args: &Args, rest: Duration, session: RetrievedSession) -> Result<ExitCode, Failed> {
    let (start, seed) = (Instant::now(), args.random());
    let Arrival { incoming, turn, .. } = Arrival::of_session(session)?;
    let (registry, parts) = program::registry();
    let mut restored = incoming.plan(&registry).accept()?.restore()?;
    let missing = "a handover of something else";
    let mut states = restored.take(&parts.served).ok_or(missing)?;
    let mut served: Served = states.take(0)?.ok_or(missing)?;
    let known: Known = states.take(0)?.ok_or(missing)?;
    let store = Store::of(restored.take(&parts.store).ok_or(missing)?);
    let measured = Measured::from(&turn.take()?);
    let successor_ns = nanos(start);
    let (mut bundle, released) = restored.finish();
    released?;
    states.finish(&mut bundle);

    served.upgrades += 1;
    let (size, clients) = (store.bytes(), u64::try_from(known.clients.len()).unwrap_or(0));
    let Check { keys, other, told: mut wrong } = check(&store, &served, &known);
    let counts =
        Counts { sent: known.sent, answered: known.answered, connections: known.connections, ..Counts::default() };
    let before = Stage::half(Half::Before, Seen { counts, ..Seen::default() }, Vec::new(), Vec::new());
    let (mut service, seen, told) = Service::load(store, served, known, rest, seed)?;
    wrong.extend(told);
    // What was lost by the clients is worse than what is left of it here.
    wrong.extend(service.stop().err());
    wrong.extend(service.check().told);
    let total_ns = measured.blackout.unwrap_or(successor_ns);
    let pid = std::process::id();
    let upgraded = Upgraded { number: 1, pid, total_ns, successor_ns, report: measured, predecessor_report: None };
    let after = Stage::half(Half::After, seen, vec![upgraded], wrong);
    let report = Report::new(size, clients, seed, vec![before, after]);
    report.session(Session::Taken { name: args.session.clone(), keys, other }).print(args.format)
}

/// Bytes of each block and of the arena, all of which will be memory: the data, a block with the header in it, and some
/// for the metadata of the handover.
const fn layout(size: u64) -> (u64, u64) {
    let block = if size < 8 * BLOCK { 64 << 10 } else { BLOCK };
    (block, size.div_ceil(block).saturating_add(1).saturating_mul(block).saturating_add(1 << 20))
}

impl Service {
    /// Serves, for clients that go on from what they know, until these have no more to ask; what they saw, and what went
    /// wrong.
    fn load(
        store: Store,
        served: Served,
        known: Known,
        rest: Duration,
        seed: u64,
    ) -> Result<(Self, Seen, Vec<String>), Failed> {
        let folder = tempfile::Builder::new().prefix("kho-serve-").tempdir()?;
        let path = folder.path().join("clients");
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
        rustix::net::listen(&listener, 1024)?;
        let (listener, served, fixed) = (Arc::new(listener), Arc::new(Mutex::new(served)), store.fixed());
        let worker = Some(Worker::start(store, &served, &listener)?);
        let mut load = Load::start(Address::Path(path), fixed, known.clients.clone(), seed);
        std::thread::sleep(rest);
        let (seen, told) = load.stop();
        let known = Known {
            sent: known.sent + seen.counts.sent,
            answered: known.answered + seen.counts.answered,
            connections: known.connections + seen.counts.connections,
            clients: seen.keys.clone(),
        };
        Ok((Service { listener, served, known: Arc::new(Mutex::new(known)), worker, store: None }, seen, told))
    }

    /// Brings it to a standstill.
    fn stop(&mut self) -> Result<(), String> {
        let worker = self.worker.take().ok_or("nobody serves")?;
        self.store = Some(worker.stop()?);
        // The clients have ended, whether or not that was seen yet.
        let mut served = locked(&self.served);
        served.connections.retain(|connection| !connection.is_idle());
        if served.connections.is_empty() { Ok(()) } else { Err("a request that is not answered".into()) }
    }

    /// What stands still, against what the clients know.
    fn check(&self) -> Check {
        match &self.store {
            Some(store) => check(store, &locked(&self.served), &locked(&self.known)),
            None => Check { told: vec!["a service that does not stand still".into()], ..Check::default() },
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came of looking at the data.
#[derive(Debug, Default)]
struct Check {
    /// Keys that must be there, or must not.
    keys: u64,
    /// Those that are not as they must be.
    other: u64,
    /// What is wrong, in words.
    told: Vec<String>,
}

fn check(store: &Store, served: &Served, known: &Known) -> Check {
    let of_clients = known.clients.iter().flat_map(|client| {
        let values = (0..).zip(&client.values);
        values.map(|(at, value)| (client.key(at), *value))
    });
    let all = of_clients.chain((0..store.fixed()).map(|number| FIXED | number).map(|key| (key, mix(key))));
    let mut check = Check::default();
    for (key, value) in all {
        check.keys += 1;
        let found = store.get(key);
        // What nobody has set is zero to the clients.
        if found.unwrap_or(0) != value {
            check.other += 1;
            if check.told.len() < 8 {
                check.told.push(format!("key {key}: found {found:?}, expected {value}"));
            }
        }
    }
    let (found, expected) = ((store.check(), served.answered), ((served.entries, 0), known.sent));
    if found != expected {
        let ((keys, broken), answered) = found;
        check.told.push(format!(
            "the service: found {keys} keys, {broken} broken, {answered} requests answered, expected {} keys and {} requests",
            served.entries, known.sent
        ));
    }
    check
}

fn upgrade() -> Upgrade<Service> {
    let requests = Part::new("requests").freeze(|service: &mut Service, _| service.stop()).unfreeze(|service| {
        if let Some(store) = service.store.take() {
            service.worker = Worker::start(store, &service.served, &service.listener).ok();
        }
    });
    Upgrade::new(&MANIFEST).part(requests).preserve(|service: &mut Service, outgoing| {
        let still = service.store.as_ref();
        let store = still.ok_or_else(|| Fault::new(Code::Refused).found("data that somebody changes"))?;
        outgoing.preserve(STORE, &store.as_array())?;
        let mut states = States::new();
        states.attach(0, &service.served)?;
        states.attach(0, &service.known)?;
        outgoing.preserve_optional(SERVED, &states)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_go_on_from_what_they_know_and_what_is_not_there_is_found() {
        let (block, room) = layout(1 << 20);
        let mut bundle = Bundle::new(room).unwrap();
        let (store, fixed) = Store::new(&mut bundle, 1 << 20, block).unwrap();
        let known = Known { clients: Keys::new(2), ..Known::default() };
        let served = Served { entries: fixed, ..Served::default() };
        let rest = Duration::from_millis(50);
        let (mut service, seen, told) = Service::load(store, served, known, rest, 1).unwrap();
        assert!(seen.counts.is_fine() && seen.counts.sent > 10 && told.is_empty(), "{seen:?} {told:?}");
        service.stop().unwrap();
        let Check { keys, other, told } = service.check();
        assert_eq!((keys, other, told), (fixed + 128, 0, Vec::new()));

        let known = std::mem::take(&mut *locked(&service.known));
        let served = std::mem::take(&mut *locked(&service.served));
        let sent = known.sent;
        let (mut again, seen, told) = Service::load(service.store.take().unwrap(), served, known, rest, 2).unwrap();
        assert!(seen.counts.is_fine() && told.is_empty(), "{seen:?} {told:?}");
        assert!(again.check().told[0].contains("does not stand still"));
        again.stop().unwrap();
        assert!(again.check().told.is_empty() && locked(&again.known).sent == sent + seen.counts.sent);

        // One answer that is not there, and one slot of those that are there from the beginning.
        let store = again.store.as_mut().unwrap();
        let (mine, theirs) = (locked(&again.known).clients[1].key(7), FIXED | 3);
        let value = store.get(mine).unwrap_or(0);
        store.set(mine, value + 1).unwrap();
        store.set(theirs, 0).unwrap();
        let Check { other, told, .. } = again.check();
        assert_eq!(other, 2, "{told:?}");
        assert!(told[0].starts_with(&format!("key {mine}: found Some({}), expected {value}", value + 1)), "{told:?}");
    }
}
