//! Where a living predecessor and its successor meet: a unix socket.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::PidfdFlags;
use zerocopy::IntoBytes as _;

use super::baton::Baton;
use super::decide::{Opposite, Patience};
use super::handoff::{Arrival, NotTaken};
use super::line::{HELLO, Hello, Line, PREPARED, REFUSED, has_ended};
use super::parcel::unique;
use super::report::{Report, Whose};
use super::socket::{self, Wait};
use super::sys;
use crate::compat::{Outcome, negotiate};
use crate::liveupdate::inherited;
use crate::manifest::{Found, Manifest};
use crate::report::{Code, Fault, Finding, Findings};

/// So many may wait at a door.
const BACKLOG: i32 = 4;

/// Who is at the other end of a connection, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process, in this process's namespace; 0 when it has none there.
    pub pid: u32,
    /// Its user, when it connected.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Where successors ask for the handover: a listening unix socket of type SOCK_SEQPACKET.
///
/// ```no_run
/// use kho::transport::Door;
///
/// let door = Door::bind("/run/service/upgrade")?;
/// // In the loop of the service, when the door is readable:
/// if let Some(caller) = door.accept()? {
///     println!("process {} wants to take over", caller.peer().pid);
/// }
/// # Ok::<(), kho::report::Fault>(())
/// ```
///
/// # Who is let in
/// Processes of this process's user and of root, by the credentials that the kernel has of them; others with
/// [`Door::allow`]. The socket has mode 0600. One at a time: another one is told so, and closed, as long as a [`Caller`]
/// of this door lives.
///
/// Users who are allowed must also get through the mode and the folder of the path: `chmod` or `chgrp` it. And they must
/// [trust](Call::connect) this user.
///
/// # The door of the successor
/// A door is a listening socket like others, and is handed over like any file, in
/// [`Upgrade::prepare`](super::Upgrade::prepare): the path stays where it is, and the successor makes a `Door` of the
/// descriptor. To bind the path anew would fail as long as the predecessor has not ended.
#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    allowed: Vec<u32>,
    busy: Arc<AtomicBool>,
}

impl Door {
    /// A door at that path. A socket there that nobody listens to is replaced.
    ///
    /// # Errors
    /// [`Code::PeerBusy`] when somebody listens there; [`Code::FileKind`] when something else is there; [`Code::Io`].
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, Fault> {
        let path = path.as_ref();
        let io = |errno: Errno| Fault::new(Code::Io).item(path.to_string_lossy().into_owned()).found(errno);
        let address = address(path).map_err(io)?;
        let socket = new_socket().map_err(io)?;
        // Before it has a path, which it gets with that mode: there is no moment in between.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(io)?;
        if let Ok(stat) = rustix::fs::lstat(path) {
            let item = path.to_string_lossy().into_owned();
            if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
                return Err(Fault::new(Code::FileKind)
                    .item(item)
                    .found("another file")
                    .expected("a socket, or nothing"));
            }
            match rustix::net::connect(&new_socket().map_err(io)?, &address) {
                Err(Errno::CONNREFUSED) => rustix::fs::unlink(path).map_err(io)?,
                _ => return Err(Fault::new(Code::PeerBusy).item(item).found("a socket that somebody listens to")),
            }
        }
        rustix::net::bind(&socket, &address).map_err(io)?;
        rustix::net::listen(&socket, BACKLOG).map_err(io)?;
        Ok(Door { socket, allowed: Vec::new(), busy: Arc::default() })
    }

    /// Lets these users in, too.
    #[must_use]
    pub fn allow(mut self, users: &[u32]) -> Self {
        self.allowed.extend(users);
        self
    }

    /// The next caller, if there is one. Does not wait: poll the door.
    ///
    /// # Errors
    /// An error is about one caller: say it somewhere, and go on.
    /// [`Code::PeerUser`] for a user who is not let in and [`Code::PeerBusy`] while another caller is served: both are told
    /// so and closed, and the door is as before. [`Code::Io`].
    pub fn accept(&self) -> Result<Option<Caller>, Fault> {
        let io = |errno: Errno| Fault::new(Code::Io).item("accept").found(errno);
        // Who listened last is whom the kernel names to those who connect: a predecessor that handed the door over, or a
        // successor that accepted before its turn.
        let anew = sys::peer(self.socket.as_fd()).is_ok_and(|[pid, ..]| pid != std::process::id());
        if anew {
            let _ = rustix::net::listen(&self.socket, BACKLOG);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let line = loop {
            match rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.socket, flags)) {
                // Who connected when the door was another process's finds that, hangs up, and connects again.
                Ok(socket) if anew && hangs_up(&socket) => {}
                Ok(socket) => break Line::of(socket)?,
                Err(Errno::AGAIN | Errno::CONNABORTED) => return Ok(None),
                Err(errno) => return Err(io(errno)),
            }
        };
        let refuse = |fault: Fault| {
            let _ = line.say(REFUSED, &[fault.to_string().as_bytes()], Wait::Never);
            Err(fault)
        };
        let peer = peer_of(line.as_fd())?;
        if !is_let_in(peer.uid, &self.allowed) {
            return refuse(stranger(peer));
        }
        let process = match sys::peer_process(line.as_fd(), peer.pid) {
            Ok(process) => process,
            Err(error) => return refuse(Fault::new(Code::Io).item("pidfd").found(error)),
        };
        if self.busy.swap(true, Ordering::SeqCst) {
            return refuse(Fault::new(Code::PeerBusy).item("door").found("another caller, who came before"));
        }
        let busy = Some(Busy(self.busy.clone()));
        Ok(Some(Caller { line, process: Some(process), known: true, early: BTreeSet::new(), peer, busy }))
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Door> for OwnedFd {
    fn from(door: Door) -> Self {
        door.socket
    }
}

/// A door that was handed over, or inherited. Whom it lets in beside this user must be said again.
///
/// [Accept](Door::accept) only after [`Turn::take`](super::Turn::take): from then on the kernel names this process to those
/// who connect. Who connected before, and finds the process gone that had the door, [connects](Call::connect) again by
/// itself.
impl From<OwnedFd> for Door {
    fn from(socket: OwnedFd) -> Self {
        Door { socket, allowed: Vec::new(), busy: Arc::default() }
    }
}

/// Whether a caller hangs up before it has said anything. One that does not says so at once.
fn hangs_up(socket: &OwnedFd) -> bool {
    let wait = Wait::for_(Duration::from_millis(100));
    while socket::recv_peek(socket.as_fd(), &mut [0]) == Err(Errno::AGAIN) {
        if !wait.ready(socket.as_fd(), PollFlags::IN).unwrap_or(false) {
            return false;
        }
    }
    socket::recv_peek(socket.as_fd(), &mut [0]) == Ok(0)
}

/// From the end of a process that handed its door over until its successor accepts, at most.
const GAP: Duration = Duration::from_secs(5);

fn nobodys_door() -> Fault {
    let fault = Fault::new(Code::PeerClosed).item("door").found("one of a process that has ended");
    fault.expected("to connect anew, to the process that has the door now")
}

/// As long as it lives, the door has a caller.
#[derive(Debug)]
pub(super) struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// A process that wants to take over: what [`Upgrade::run`](super::Upgrade::run) hands over to.
#[derive(Debug)]
pub struct Caller {
    pub(super) line: Line,
    /// A pidfd; the other side's own word for a connection that it inherited.
    pub(super) process: Option<OwnedFd>,
    /// By the kernel's word.
    pub(super) known: bool,
    /// Tokens of the files that were sent ahead.
    pub(super) early: BTreeSet<u64>,
    peer: Peer,
    pub(super) busy: Option<Busy>,
}

impl Caller {
    /// Both ends of a connection for a successor that this process starts itself: the other end is for it to inherit, and
    /// there [`Call::of`]. It is close-on-exec, until whoever starts it clears that.
    ///
    /// # Errors
    /// [`Code::Io`].
    pub fn pair() -> Result<(Caller, OwnedFd), Fault> {
        let (line, other) = Line::pair()?;
        let peer = peer_of(line.as_fd())?;
        Ok((Caller { line, process: None, known: false, early: BTreeSet::new(), peer, busy: None }, other))
    }

    /// Who it is; of a [pair](Caller::pair), who made it.
    #[must_use]
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// Whether it has said what it reads. A program of one thread waits for that in its own loop
    /// ([`AsFd`]: when it is readable), so that nobody who connects and says nothing holds it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        socket::recv_peek(self.line.as_fd(), &mut [0]).is_ok()
    }

    /// Refuses, and says why.
    pub fn refuse(self, why: &str) {
        let _ = self.line.say(REFUSED, &[why.as_bytes()], Wait::Never);
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

/// A successor's connection to the predecessor.
#[derive(Debug)]
pub struct Call {
    line: Line,
    process: OwnedFd,
    patience: Patience,
    most: usize,
}

impl Call {
    /// Connects to the door of a service that runs.
    ///
    /// # Errors
    /// [`Code::PeerClosed`] when nobody listens there; [`Code::PeerBusy`] when too many wait there already;
    /// [`Code::PeerUser`] when that is neither this user nor root, nor one of `users`; [`Code::Io`].
    pub fn connect(path: impl AsRef<Path>, users: &[u32]) -> Result<Self, Fault> {
        let path = path.as_ref();
        let io = |errno: Errno| {
            let code = match errno {
                Errno::CONNREFUSED | Errno::NOENT => Code::PeerClosed,
                // So many wait there already.
                Errno::AGAIN => Code::PeerBusy,
                _ => Code::Io,
            };
            Fault::new(code).item(path.to_string_lossy().into_owned()).found(errno)
        };
        let until = Instant::now().checked_add(GAP).unwrap_or_else(Instant::now);
        loop {
            let socket = new_socket().map_err(io)?;
            rustix::net::connect(&socket, &address(path).map_err(io)?).map_err(io)?;
            let line = Line::of(socket)?;
            let peer = peer_of(line.as_fd())?;
            if !is_let_in(peer.uid, users) {
                return Err(stranger(peer));
            }
            match sys::peer_process(line.as_fd(), peer.pid) {
                Ok(process) if !has_ended(process.as_fd(), Duration::ZERO) => return Ok(Call::new(line, process)),
                Ok(_) if Instant::now() >= until => return Err(nobodys_door()),
                Err(error) if Instant::now() >= until => return Err(Fault::new(Code::Io).item("pidfd").found(error)),
                // It was handed over, and who has it now has not accepted yet.
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// The other end of [`Caller::pair`], by the number of a descriptor that this process inherited: as [`Call::of`].
    ///
    /// # Errors
    /// As [`Call::of`], and [`Code::Io`] when the number is no open descriptor.
    pub fn inherited(number: RawFd) -> Result<Self, Fault> {
        let socket = inherited(number).map_err(|error| Fault::new(Code::Io).item("inherited").found(error))?;
        // Nobody else inherits it: the number itself stays open, and is nobody's.
        sys::close_on_exec(number).map_err(|error| Fault::new(Code::Io).item("inherited").found(error))?;
        Call::of(socket)
    }

    /// The other end of [`Caller::pair`]. Its maker is the predecessor.
    ///
    /// # Errors
    /// [`Code::FileKind`] when it is no such socket; [`Code::PeerClosed`] when its maker is gone.
    pub fn of(socket: OwnedFd) -> Result<Self, Fault> {
        let line = Line::of(socket)?;
        let peer = peer_of(line.as_fd())?;
        let process = sys::peer_process(line.as_fd(), peer.pid)
            .map_err(|error| Fault::new(Code::PeerClosed).item("pidfd").found(error))?;
        Ok(Call::new(line, process))
    }

    fn new(line: Line, process: OwnedFd) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        Call { line, process, patience: Patience::default(), most: crate::num::usize_of(limit) }
    }

    /// Waits so long; [`Patience::accept`] is how long the predecessor may take to freeze and deliver.
    #[must_use]
    pub const fn patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Takes at most so many files; without it, as many as this process may have open.
    #[must_use]
    pub const fn at_most(mut self, files: usize) -> Self {
        self.most = files;
        self
    }

    /// Says what this program reads, hears what the other one writes, and receives the handover: files while the
    /// predecessor still serves, then, when it stands still, the rest. What comes is not looked at before the plan.
    ///
    /// # Errors
    /// [`Code::Refused`] with the predecessor's own words, which are those of the plan where versions do not fit;
    /// [`Code::Late`]; [`Code::PeerClosed`]; whatever a peer can do wrong. Nothing has changed then, and the predecessor
    /// goes on.
    pub fn arrive(self, manifest: &'static Manifest) -> Result<Arrival, NotTaken> {
        let told = |fault: Fault| {
            let fault = self.line.why(fault);
            // Nothing depends on it; without, the predecessor finds only that the line is closed.
            let _ = self.line.say(REFUSED, &[fault.to_string().as_bytes()], Wait::Never);
            NotTaken { fault, parcel: None }
        };
        let (mut parcel, baton, report) = self.receive(manifest).map_err(told)?;
        let Call { line, process, patience, .. } = self;
        // The kernel's word for who it is, and not its own.
        parcel.other = Some(super::Other { baton, process, line: Some(line.into_fd()) });
        Arrival::of_living(parcel, report, patience)
    }

    fn receive(&self, manifest: &'static Manifest) -> Result<(super::Parcel, OwnedFd, Report), Fault> {
        let Call { line, process, patience, most } = self;
        let own = own_process()?;
        let hello = Hello::new();
        line.say(HELLO, &[hello.as_bytes(), manifest.note()], Wait::for_(patience.hello))?;
        line.pass(own.as_fd(), Wait::for_(patience.hello))?;
        let text = line.expect(HELLO, Wait::for_(patience.hello))?;
        let (_, note) = Hello::read(&text)?;
        fits(&Found::parse(note).map_err(|fault| fault.within("hello"))?, manifest)?;
        // A door that was handed over names who listened when this process connected. To take that one's end for the end
        // of the one that speaks would be to serve beside it.
        if has_ended(process.as_fd(), Duration::ZERO) {
            return Err(nobodys_door());
        }

        let mut early = line.hear_files(*most, Wait::for_(patience.prepare))?;
        unique(&early)?;
        line.say(PREPARED, &[], Wait::for_(patience.prepare))?;

        let late = most.saturating_sub(early.len());
        let parcel = socket::receive(line.as_fd(), late, Wait::for_(patience.accept));
        let mut parcel = parcel.map_err(|fault| match fault.found_text() {
            // Not a parcel that is wrong, but one that nobody sends any more.
            found @ "the end of the stream" => Fault::new(Code::PeerClosed).item("parcel").found(found),
            _ => fault,
        })?;
        Report::begin();
        parcel.ahead = early.iter().map(|(token, _)| *token).collect();
        early.append(&mut parcel.files);
        unique(&early)?;
        parcel.files = early;
        let Some(other) = parcel.other.take() else {
            return Err(Fault::new(Code::ParcelCount).item("baton").found("none"));
        };
        let mut report = Report::default();
        report.add_text(Whose::Predecessor, parcel.report.as_deref().unwrap_or_default());
        Ok((parcel, other.baton, report))
    }
}

impl Arrival {
    /// A handover with a process that goes on if this one does not.
    pub(super) fn of_living(
        mut parcel: super::Parcel,
        report: Report,
        patience: Patience,
    ) -> Result<Arrival, NotTaken> {
        let Some(super::Other { baton, process, line: Some(line) }) = parcel.other.take() else {
            return Arrival::of(parcel);
        };
        let opposite = Baton::of(baton)
            .and_then(|baton| Ok(Opposite { line: Line::of(line)?, process, known: true, baton }))
            .map_err(|fault| NotTaken { fault, parcel: None })?;
        Arrival::with(parcel, report, Some((opposite, patience.commit, false)))
    }
}

/// What would be refused, in the words of the plan, from what both say of themselves.
pub(super) fn refused(writes: &crate::compat::Terms, reads: &crate::compat::Terms) -> Findings {
    let mut findings = Findings::default();
    for agreed in negotiate(writes, reads).nodes {
        if let Outcome::Refuse(why) = agreed.outcome {
            why.into_iter().for_each(|fault| findings.add(&format!("/{}", agreed.node), fault));
        }
    }
    findings
}

fn fits(other: &Found, manifest: &'static Manifest) -> Result<(), Fault> {
    let findings = refused(&other.writes, &manifest.reads());
    match findings.kept().first() {
        Some(Finding { node, fault }) => Err(fault.clone().within(node)),
        None => Ok(()),
    }
}

fn address(path: &Path) -> Result<SocketAddrUnix, Errno> {
    // The kernel would choose a name.
    if path.as_os_str().is_empty() {
        return Err(Errno::NOENT);
    }
    SocketAddrUnix::new(path)
}

fn new_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// A pidfd of this process.
pub(super) fn own_process() -> Result<OwnedFd, Fault> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(|errno| Fault::new(Code::Io).item("pidfd_open").found(errno))
}

fn peer_of(socket: BorrowedFd<'_>) -> Result<Peer, Fault> {
    sys::peer(socket)
        .map_err(|error| Fault::new(Code::Io).item("SO_PEERCRED").found(error))
        .map(|[pid, uid, gid]| Peer { pid, uid, gid })
}

fn is_let_in(uid: u32, users: &[u32]) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw() || users.contains(&uid)
}

fn stranger(peer: Peer) -> Fault {
    let own = rustix::process::geteuid().as_raw();
    Fault::new(Code::PeerUser)
        .item("peer")
        .found(format_args!("user {}", peer.uid))
        .expected(format_args!("user {own}, root, or one that is allowed"))
}
