//! The service itself: one thread that answers lines of many connections.

use std::fmt::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::time::Timespec;

use super::state::{Connection, Served};
use super::store::Store;

/// So many requests of one connection are answered before it is the turn of the others.
const TURN: usize = 4;
/// A connection that does not read its answers is not read from.
const OUTPUT: usize = 64 << 10;
/// The longest line.
const LINE: usize = 256;

/// The thread, and how it is stopped.
pub(super) struct Worker {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<Store>,
}

impl Worker {
    /// Serves from now on.
    pub(super) fn start(store: Store, served: &Arc<Mutex<Served>>, listener: &Arc<OwnedFd>) -> Result<Self, Errno> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (told, served, listener) = (stop.clone(), served.clone(), listener.clone());
        let thread = std::thread::spawn(move || {
            let mut store = store;
            if let Ok(mut served) = served.lock() {
                serve(&mut store, &mut served, listener.as_fd(), told.as_fd());
            }
            store
        });
        Ok(Worker { stop, thread })
    }

    /// Brings it to a standstill, between two requests: whatever is not answered is in the state.
    pub(super) fn stop(self) -> Result<Store, String> {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).map_err(|errno| errno.to_string())?;
        self.thread.join().map_err(|_| "the thread that serves has panicked".into())
    }
}

/// Until it is told to stop.
fn serve(store: &mut Store, served: &mut Served, listener: BorrowedFd<'_>, stop: BorrowedFd<'_>) {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        let more = served.connections.iter().any(Connection::has_more);
        let mut watched = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        watched.push(PollFd::from_borrowed_fd(listener, PollFlags::IN));
        for connection in &served.connections {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, !connection.output.is_empty());
            flags.set(PollFlags::IN, connection.output.len() < OUTPUT);
            watched.push(PollFd::from_borrowed_fd(connection.socket.as_fd(), flags));
        }
        if poll(&mut watched, more.then_some(&at_once)).is_err() {
            // A signal. Anything else comes again, and would be seen by the clients.
            continue;
        }
        let ready: Vec<bool> = watched.iter().map(|one| !one.revents().is_empty()).collect();
        if ready[0] {
            return;
        }
        let mut gone = Vec::new();
        for (at, connection) in served.connections.iter_mut().enumerate() {
            let open = !ready[at + 2] || connection.read();
            let mut news = News { connections: ready.len() - 2, upgrades: served.upgrades, ..News::default() };
            connection.answer(store, &mut news, (served.answered, served.entries));
            (served.answered, served.entries) = (served.answered + news.answered, served.entries + news.entries);
            if !connection.write() || !open {
                gone.push(at);
            }
        }
        for at in gone.into_iter().rev() {
            served.connections.swap_remove(at);
        }
        if ready[1] {
            accept(served, listener);
        }
    }
}

fn accept(served: &mut Served, listener: BorrowedFd<'_>) {
    while let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        // Answers are small and waited for.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
        served.accepted += 1;
        served.connections.push(Connection { socket: socket.into(), input: Vec::new(), output: Vec::new() });
    }
}

/// What a connection changed of the whole.
#[derive(Default)]
struct News {
    answered: u64,
    entries: u64,
    connections: usize,
    upgrades: u64,
}

impl Connection {
    /// Whether nothing waits for an answer, and no answer to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.input.is_empty() && self.output.is_empty()
    }

    fn has_more(&self) -> bool {
        self.output.len() < OUTPUT && self.input.contains(&b'\n')
    }

    /// Reads what is there; whether the other end is.
    fn read(&mut self) -> bool {
        let mut piece = [0; 4096];
        match rustix::io::read(&self.socket, &mut piece[..]) {
            Ok(0) => false,
            Ok(len) => {
                self.input.extend_from_slice(&piece[..len]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// Writes what there is room for; whether the other end is there.
    fn write(&mut self) -> bool {
        if self.output.is_empty() {
            return true;
        }
        match rustix::net::send(&self.socket, &self.output, rustix::net::SendFlags::NOSIGNAL) {
            Ok(len) => {
                self.output.drain(..len);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    fn answer(&mut self, store: &mut Store, news: &mut News, (answered, entries): (u64, u64)) {
        for _ in 0..TURN {
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else { break };
            if self.output.len() >= OUTPUT {
                return;
            }
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let mut answer = match one(store, line.trim_end(), news) {
                Some(answer) => answer,
                None if line.starts_with("STAT") => format!(
                    "answered {} entries {} connections {} upgrades {} pid {}",
                    answered + news.answered,
                    entries + news.entries,
                    news.connections,
                    news.upgrades,
                    std::process::id()
                ),
                None => "ERR what is SET k v, GET k, INCR k, STAT or CHECK".into(),
            };
            answer.push('\n');
            news.answered += 1;
            self.output.extend_from_slice(answer.as_bytes());
        }
        if self.input.len() > LINE && !self.input.contains(&b'\n') {
            self.input.clear();
            self.output.extend_from_slice(b"ERR a line that is too long\n");
        }
    }
}

/// Answers a request about the data; none when it is about something else.
fn one(store: &mut Store, line: &str, news: &mut News) -> Option<String> {
    let mut words = line.split(' ');
    let verb = words.next()?;
    if verb == "CHECK" {
        let (keys, broken) = store.check();
        return Some(format!("keys {keys} broken {broken}"));
    }
    let key = words.next()?.parse().ok()?;
    let value = words.next().map(str::parse);
    let mut set = |store: &mut Store, value| match store.set(key, value) {
        Some(new) => {
            news.entries += u64::from(new);
            true
        }
        None => false,
    };
    let mut answer = String::new();
    match (verb, value, words.next()) {
        ("GET", None, None) => match store.get(key) {
            Some(value) => write!(answer, "{value}").ok()?,
            None => answer.push_str("NONE"),
        },
        ("SET", Some(Ok(value)), None) => answer.push_str(if set(store, value) { "OK" } else { "ERR full" }),
        ("INCR", None, None) => {
            let value = store.get(key).unwrap_or(0).wrapping_add(1);
            if set(store, value) {
                write!(answer, "{value}").ok()?;
            } else {
                answer.push_str("ERR full");
            }
        }
        _ => return None,
    }
    Some(answer)
}
