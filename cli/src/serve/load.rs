//! The clients: each owns some keys, knows what they must be, and checks every answer.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::latency::Histogram;
use super::state::Keys;
use super::store::{FIXED, mix};

/// Keys of each client.
pub(super) const KEYS: u64 = 64;
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two batches: the machine has other things to do, the next process for one.
const PAUSE: Duration = Duration::from_micros(500);

/// What is to be zero, and what it is of.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Counts {
    /// Requests that were sent.
    pub(super) sent: u64,
    /// Requests that were answered rightly.
    pub(super) answered: u64,
    /// Requests without an answer.
    pub(super) lost: u64,
    /// Requests with another answer than the only right one.
    pub(super) wrong: u64,
    /// Connections that the service closed or reset.
    pub(super) closed: u64,
    /// Connections that it did not accept.
    pub(super) refused: u64,
    /// Connections that were opened.
    pub(super) connections: u64,
    /// Of these, while an upgrade was under way.
    pub(super) connections_during: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.closed += other.closed;
        self.refused += other.refused;
        self.connections += other.connections;
        self.connections_during += other.connections_during;
    }

    /// Whether nothing is lost or wrong.
    pub(super) const fn is_fine(&self) -> bool {
        self.sent == self.answered && self.lost + self.wrong + self.closed + self.refused == 0
    }
}

/// Where the service listens.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// Of this machine, TCP
    Port(u16),
    /// A unix socket
    Path(PathBuf),
}

/// What the clients know of what happens.
#[derive(Debug)]
struct Shared {
    address: Address,
    /// Keys that are there from the beginning.
    fixed: u64,
    /// Odd while an upgrade is under way.
    phase: AtomicU64,
    /// Successors are killed in the upgrades.
    killing: AtomicBool,
    stop: AtomicBool,
    /// What went wrong, in words; the first few.
    told: Mutex<Vec<String>>,
}

/// What a client counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) counts: Counts,
    /// At rest, during upgrades, and during those whose successor is killed.
    pub(super) latency: [Histogram; 3],
    /// What its keys are now.
    pub(super) keys: Vec<Keys>,
}

/// Clients, each a thread.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// Clients that go on from what they know.
    pub(super) fn start(address: Address, fixed: u64, clients: Vec<Keys>, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            address,
            fixed,
            phase: AtomicU64::new(0),
            killing: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            told: Mutex::default(),
        });
        let client = |keys: Keys| {
            let client = Client {
                shared: shared.clone(),
                random: Random(mix(seed ^ mix(keys.number))),
                keys,
                seen: Seen::default(),
            };
            std::thread::spawn(move || client.run())
        };
        Load { clients: clients.into_iter().map(client).collect(), shared }
    }

    /// An upgrade begins, or is over.
    pub(super) fn turn(&self) {
        self.shared.phase.fetch_add(1, Ordering::SeqCst);
    }

    /// From now on successors are killed.
    pub(super) fn kills(&self) {
        self.shared.killing.store(true, Ordering::SeqCst);
    }

    /// Ends the load; what all clients saw, and what went wrong.
    pub(super) fn stop(&mut self) -> (Seen, Vec<String>) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut all = Seen::default();
        for client in self.clients.drain(..) {
            match client.join() {
                Ok(seen) => {
                    all.counts.add(&seen.counts);
                    all.latency.iter_mut().zip(&seen.latency).for_each(|(all, seen)| all.merge(seen));
                    all.keys.extend(seen.keys);
                }
                Err(_) => self.shared.tell("a client panicked".into()),
            }
        }
        (all, self.shared.told.lock().map(|told| told.clone()).unwrap_or_default())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn tell(&self, what: String) {
        if let Ok(mut told) = self.told.lock()
            && told.len() < 16
        {
            told.push(what);
        }
    }
}

/// Numbers that look like nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// Below that number, which is not zero.
    pub(super) const fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % end
    }
}

struct Client {
    shared: Arc<Shared>,
    keys: Keys,
    random: Random,
    seen: Seen,
}

/// A connection of either kind.
trait Stream: io::Read + io::Write {}

impl<T: io::Read + io::Write> Stream for T {}

/// A connection, and what came of the next answer.
struct Wire {
    stream: Box<dyn Stream>,
    rest: Vec<u8>,
}

impl Client {
    fn run(mut self) -> Seen {
        if let Some(mut wire) = self.connect() {
            let mut batches = 50 + self.random.below(150);
            while !self.shared.stop.load(Ordering::SeqCst) {
                if !self.batch(&mut wire) {
                    break;
                }
                batches -= 1;
                let during = self.shared.phase.load(Ordering::SeqCst) % 2 == 1;
                if batches == 0 || during && self.random.below(4) == 0 {
                    // All that was asked is answered: nobody misses the old connection.
                    let Some(new) = self.connect() else { break };
                    (wire, batches) = (new, 50 + self.random.below(150));
                }
                std::thread::sleep(PAUSE);
            }
        }
        self.seen.keys.push(self.keys);
        self.seen
    }

    fn connect(&mut self) -> Option<Wire> {
        match Wire::to(&self.shared.address) {
            Ok(wire) => {
                self.seen.counts.connections += 1;
                self.seen.counts.connections_during += self.shared.phase.load(Ordering::SeqCst) % 2;
                Some(wire)
            }
            Err(error) => {
                self.seen.counts.refused += 1;
                self.shared.tell(format!("client {}: no connection: {error}", self.keys.number));
                None
            }
        }
    }

    /// A few requests at once, and their answers. False when there is nothing to go on with.
    fn batch(&mut self, wire: &mut Wire) -> bool {
        let count = 1 + self.random.below(6);
        let requests: Vec<(String, String)> = (0..count).map(|_| self.request()).collect();
        let text: String = requests.iter().map(|(request, _)| request.as_str()).collect();
        let before = self.shared.phase.load(Ordering::SeqCst);
        let start = Instant::now();
        self.seen.counts.sent += count;
        // Now and then a request comes in two parts, and whoever has the first must hand it on.
        let cut = if self.random.below(8) == 0 { self.random.below(24) } else { 0 };
        let (first, second) = text.as_bytes().split_at(usize::try_from(cut).unwrap_or(0).min(text.len()));
        let sent = wire.stream.write_all(first).and_then(|()| {
            if !first.is_empty() {
                std::thread::sleep(PAUSE);
            }
            wire.stream.write_all(second)
        });
        let mut left = count;
        let result = sent.and_then(|()| {
            for (request, expected) in &requests {
                let answer = wire.line()?;
                let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let after = self.shared.phase.load(Ordering::SeqCst);
                let during = before % 2 == 1 || before != after;
                let killing = during && self.shared.killing.load(Ordering::SeqCst);
                self.seen.latency[usize::from(during) + usize::from(killing)].add(nanos);
                left -= 1;
                if answer == *expected {
                    self.seen.counts.answered += 1;
                } else {
                    self.seen.counts.wrong += 1;
                    let request = request.trim_end();
                    let number = self.keys.number;
                    self.shared.tell(format!("client {number}: {request}: found {answer:?}, expected {expected:?}"));
                }
            }
            Ok(())
        });
        if let Err(error) = result {
            self.seen.counts.lost += left;
            let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            self.seen.counts.closed += u64::from(!timed_out);
            self.shared.tell(format!("client {}: {left} without an answer: {error}", self.keys.number));
            return false;
        }
        true
    }

    /// A request, and the only right answer to it.
    fn request(&mut self) -> (String, String) {
        let at = self.random.below(KEYS);
        let key = self.keys.key(at);
        let value = &mut self.keys.values[usize::try_from(at).unwrap_or(0)];
        match self.random.below(10) {
            0..5 => {
                *value = value.wrapping_add(1);
                (format!("INCR {key}\n"), value.to_string())
            }
            5..7 => {
                *value = self.random.below(1 << 40);
                (format!("SET {key} {value}\n"), "OK".into())
            }
            7..9 => {
                // What nobody has set has no value; INCR makes no difference between that and zero.
                if *value == 0 {
                    *value = 1;
                    return (format!("SET {key} 1\n"), "OK".into());
                }
                (format!("GET {key}\n"), value.to_string())
            }
            _ => {
                let key = FIXED | self.random.below(self.shared.fixed.max(1));
                (format!("GET {key}\n"), mix(key).to_string())
            }
        }
    }
}

impl Wire {
    fn to(address: &Address) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match address {
            Address::Port(port) => {
                let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], *port)), PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            Address::Path(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        };
        Ok(Wire { stream, rest: Vec::new() })
    }

    /// The next line, without its end.
    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.rest.extend_from_slice(&piece[..len]),
                // A read that has a timeout is not begun again by the kernel.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Asks one thing on a connection of its own.
pub(super) fn ask(address: &Address, request: &str) -> io::Result<String> {
    let mut wire = Wire::to(address)?;
    wire.stream.write_all(format!("{request}\n").as_bytes())?;
    wire.line()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// What clients see of a service that answers so; none closes the connection.
    fn seen(answer: fn(&str) -> Option<&'static str>) -> (Counts, Vec<String>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut load = Load::start(Address::Port(listener.local_addr().unwrap().port()), 1, Keys::new(1), 1);
        let (stream, _) = listener.accept().unwrap();
        let mut lines = io::BufReader::new(stream.try_clone().unwrap()).lines();
        for _ in 0..20 {
            let Some(Ok(line)) = lines.next() else { break };
            let Some(text) = answer(&line) else { break };
            let _ = (&stream).write_all(text.as_bytes());
        }
        drop((stream, lines, listener));
        let (seen, told) = load.stop();
        (seen.counts, told)
    }

    #[test]
    fn a_service_that_is_wrong_is_found_out() {
        let (counts, told) = seen(|_| Some("4711\n"));
        assert!(counts.wrong > 0 && !counts.is_fine(), "{counts:?}");
        assert!(told[0].contains("found \"4711\", expected "), "{told:?}");
    }

    #[test]
    fn a_service_that_closes_a_connection_is_found_out() {
        let (counts, told) = seen(|_| None);
        assert!(counts.lost > 0 && counts.closed == 1 && counts.answered == 0 && !counts.is_fine(), "{counts:?}");
        assert_eq!(counts.sent, counts.lost, "{told:?}");
    }
}
