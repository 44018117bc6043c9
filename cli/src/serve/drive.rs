//! One transport: the service is started, put under load, handed over again and again, and looked at in the end.

use std::collections::BTreeSet;
use std::error::Error;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, kill_process};
use rustix::time::Timespec;

use super::control::{self, Order, Said};
use super::load::{Address, Counts, Load, Random, ask};
use super::report::{Kill, Stage, Upgraded};
use super::state::Keys;
use super::{Args, Life, Role, Transport, kill, server};

pub(super) type Failed = Box<dyn Error>;

/// What a server does not do in so long it does never.
const PATIENCE: Duration = Duration::from_secs(20);

/// The servers of one transport. Dropped, none is left.
pub(super) struct Servers {
    pub(super) transport: Transport,
    /// Our end of the socket, and the servers'.
    ends: Option<(OwnedFd, OwnedFd)>,
    folder: tempfile::TempDir,
    size: u64,
    /// The one that serves.
    pub(super) pid: u32,
    /// Numbers of lives.
    pub(super) lives: u64,
    /// All that we know of.
    known: BTreeSet<u32>,
}

pub(super) fn run(args: &Args, transport: Transport, seed: u64) -> Result<Stage, Failed> {
    let rest = args.rest()?;
    let mut servers = Servers::new(transport, args.size)?;
    let pid = servers.start(Role::First)?;
    let (port, fixed) = match servers.hear(PATIENCE)? {
        Said::Serving { port, fixed, .. } => (port, fixed),
        other => return Err(unexpected(&other)),
    };
    servers.pid = pid;
    let address = Address::Port(port);
    let mut load = Load::start(address.clone(), fixed, Keys::new(args.clients), seed);
    let (mut upgrades, mut kills) = (Vec::new(), Vec::new());
    let done = work(args, rest, seed, &mut servers, &load, (&mut upgrades, &mut kills));
    let (seen, mut told) = load.stop();
    match done {
        Ok(()) => told.extend(differs(&seen.counts, args.upgrades, transport, &kills, &address)),
        // What could not be done is one thing; what was lost by it another, and worse.
        Err(error) if seen.counts.is_fine() => return Err(error),
        Err(error) => told.push(error.to_string()),
    }
    servers.end()?;
    let usual = usual(&upgrades);
    Ok(Stage::new(transport, seen, upgrades, (usual, kills), told))
}

/// What a successor takes at least; of none that was measured nothing is known.
fn usual(upgrades: &[Upgraded]) -> u64 {
    upgrades.iter().map(|upgraded| upgraded.successor_ns).min().unwrap_or(10_000_000).max(1)
}

/// All upgrades, and those whose successor is killed.
fn work(
    args: &Args,
    rest: Duration,
    seed: u64,
    servers: &mut Servers,
    load: &Load,
    (upgrades, kills): (&mut Vec<Upgraded>, &mut Vec<Kill>),
) -> Result<(), Failed> {
    for number in 1..=args.upgrades {
        std::thread::sleep(rest);
        load.turn();
        let upgraded = servers.upgrade(number);
        load.turn();
        upgrades.push(upgraded?);
    }
    std::thread::sleep(rest);
    if servers.transport == Transport::Exec {
        return Ok(());
    }
    load.kills();
    let (mut random, usual) = (Random(seed), usual(upgrades));
    for number in 1..=args.kill {
        std::thread::sleep(rest.min(Duration::from_millis(20)));
        load.turn();
        let killed = kill::kill(servers, number, random.below(usual));
        load.turn();
        kills.push(killed?);
    }
    // What a kill did shows when it is over.
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// What the service says of itself, against what the clients know.
fn differs(seen: &Counts, upgrades: u64, transport: Transport, kills: &[Kill], address: &Address) -> Option<String> {
    // A keeper that goes on has taken over what it kept; a predecessor that lives has nothing to take.
    let more = kills.iter().filter(|kill| transport == Transport::Keeper || kill.took_over()).count();
    let upgrades = upgrades + u64::try_from(more).unwrap_or(0);
    let asked = ask(address, "CHECK").and_then(|check| Ok((check, ask(address, "STAT")?)));
    let (check, stat) = match &asked {
        Ok((check, stat)) => (check.as_str(), stat.as_str()),
        Err(error) => return Some(format!("the service does not answer in the end: {error}")),
    };
    let number = |text: &str, name| {
        let mut words = text.split(' ').skip_while(|word| *word != name);
        words.nth(1).and_then(|word| word.parse::<u64>().ok())
    };
    let found = [number(check, "broken"), number(stat, "entries"), number(stat, "answered"), number(stat, "upgrades")];
    // The first question is a request, too.
    let expected = [Some(0), number(check, "keys"), Some(seen.sent + 1), Some(upgrades)];
    (found != expected).then(|| {
        format!("the service: found {check}, {stat}, expected {} requests and {upgrades} upgrades", seen.sent + 1)
    })
}

pub(super) fn unexpected(said: &Said) -> Failed {
    match said {
        Said::Failed { pid, why } => format!("process {pid}: {why}").into(),
        Said::Stayed { pid, step, why } => format!("process {pid} still serves: {step}: {why}").into(),
        other => format!("a server said what nobody asked: {other:?}").into(),
    }
}

/// Since then, in nanoseconds.
pub(super) fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Servers {
    fn new(transport: Transport, size: u64) -> Result<Self, Failed> {
        // Keepers lose their parents, and are to be ours then.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Servers {
            transport,
            ends: Some(control::pair()?),
            folder: tempfile::Builder::new().prefix("kho-serve-").tempdir()?,
            size,
            pid: 0,
            lives: 0,
            known: BTreeSet::new(),
        })
    }

    fn ends(&self) -> Result<&(OwnedFd, OwnedFd), Failed> {
        self.ends.as_ref().ok_or_else(|| "the servers have ended".into())
    }

    fn door(&self) -> PathBuf {
        self.folder.path().join("door")
    }

    /// Starts this program as a server. From this thread: when it ends, they do.
    pub(super) fn start(&mut self, role: Role) -> Result<u32, Failed> {
        self.lives += 1;
        let life = Life { role, door: self.door(), size: self.size, number: self.lives, parent: std::process::id() };
        let mut command = Command::new("/proc/self/exe");
        command.arg0("kho").args(life.args()).stdin(self.ends()?.1.try_clone()?).stdout(Stdio::null());
        let pid = command.spawn()?.id();
        self.known.insert(pid);
        Ok(pid)
    }

    pub(super) fn say(&self, order: &Order) -> Result<(), Failed> {
        Ok(control::say(&self.ends()?.0, order)?)
    }

    /// What a server says in that time; an error when none does.
    pub(super) fn hear(&mut self, within: Duration) -> Result<Said, Failed> {
        self.hears(within)?.ok_or_else(|| format!("no server said anything for {within:?}").into())
    }

    /// What a server says in that time, if one does.
    pub(super) fn hears(&mut self, within: Duration) -> Result<Option<Said>, Failed> {
        let until = Instant::now() + within;
        let ours = &self.ends()?.0;
        let mut watched = [PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::IN)];
        loop {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
            match poll(&mut watched, Some(&left)) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let said = control::hear::<Said>(ours)?;
        if let Some(Said::TookOver { pid, .. }) = &said {
            self.known.insert(*pid);
        }
        Ok(said)
    }

    /// One upgrade to its end.
    fn upgrade(&mut self, number: u64) -> Result<Upgraded, Failed> {
        let start = Instant::now();
        let mut successor_from = start;
        let successor = if self.transport == Transport::Unix {
            self.start(Role::Next)?
        } else {
            self.lives += 1;
            self.say(&Order::Leave { kept: self.transport == Transport::Keeper, life: self.lives })?;
            self.pid
        };
        let (mut took_over, mut left) = (None, None);
        while took_over.is_none() || (self.transport == Transport::Unix && left.is_none()) {
            match self.hear(PATIENCE)? {
                Said::Leaving { pid, .. } => {
                    if pid == successor {
                        successor_from = Instant::now();
                    }
                }
                Said::Restored { .. } => {}
                Said::TookOver { pid, reason: None, measured } if pid == successor => {
                    took_over = Some((nanos(start), nanos(successor_from), measured));
                }
                Said::Left { measured, .. } => left = Some(measured),
                other => return Err(unexpected(&other)),
            }
        }
        self.pid = successor;
        self.reap();
        let (total_ns, successor_ns, report) = took_over.ok_or("nobody took over")?;
        Ok(Upgraded { number, pid: successor, total_ns, successor_ns, report, predecessor_report: left })
    }

    /// Those that have ended.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if status.exited() || status.signaled() {
                self.known.retain(|known| server::process(*known) != Some(pid));
            }
        }
    }

    /// Ends the service: the command has nothing more to say.
    fn end(&mut self) -> Result<(), Failed> {
        self.ends = None;
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            self.reap();
            if matches!(rustix::process::wait(WaitOptions::NOHANG), Err(Errno::CHILD)) {
                self.known.clear();
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!("servers that do not end: {:?}", self.known).into())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if self.ends.is_some() || !self.known.is_empty() {
            for pid in self.known.iter().filter_map(|pid| server::process(*pid)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = self.end();
        }
    }
}

impl Life {
    /// The arguments of a server.
    pub(super) fn args(&self) -> Vec<String> {
        let role = if self.role == Role::First { "first" } else { "next" };
        let mut args: Vec<String> = ["serve-demo", "--role", role, "--door"].map(String::from).into();
        args.push(self.door.to_string_lossy().into_owned());
        for (name, value) in [("--size", self.size), ("--life", self.number), ("--parent", self.parent.into())] {
            args.extend([name.into(), value.to_string()]);
        }
        args
    }

    /// The same for the life after this one.
    pub(super) fn next(&self, number: u64) -> Vec<String> {
        Life { role: Role::Next, number, ..self.clone() }.args()
    }
}
