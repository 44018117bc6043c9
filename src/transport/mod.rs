//! How a handover travels, and who goes on when something dies on the way.
//!
//! One description of the program, [`Upgrade`], leaves by any [way](Way); one [`Arrival`] comes of each:
//!
//! | way | predecessor | successor |
//! |---|---|---|
//! | exec | `upgrade.run(.., Exec::new(&program))`: [`Exec`] | [`Arrival::take`] |
//! | exec with a keeper | `Exec::new(&program).kept(&ticket)` | [`Arrival::take`] |
//! | unix socket | `upgrade.run(.., caller)`, of `door.accept()`: [`Door`], [`Caller`] | `Call::connect(path, &[])?.arrive(&MANIFEST)`: [`Call`] |
//! | session | `upgrade.run(.., InSession::new(session))`: [`InSession`] | [`Arrival::of_session`] |
//!
//! The successor plans, accepts and restores, looks at what it got, and then takes its [`Turn`]: from there on it serves,
//! and nobody else.
//!
//! ```no_run
//! use kho::handover::Registry;
//! use kho::transport::Call;
//! # kho::manifest! { static MANIFEST = []; }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // What arrived is looked at, and nothing is changed. What does not fit is refused, in the words of the plan.
//! let arrival = Call::connect("/run/service/upgrade", &[])?.arrive(&MANIFEST)?;
//! let (restored, turn) = arrival.restore(&Registry::of(&MANIFEST))?;
//! // Take all values, and check them; the last thing that may fail comes before this line.
//! println!("{}", turn.take()?);
//! let (bundle, released) = restored.finish();
//! released?;
//! # Ok(())
//! # }
//! ```
//!
#![doc = include_str!("../../docs/upgrade.md")]
//!
//! # Across exec, by hand
//! This is the raw half. A [`Cargo`] names what travels: the arena (a memfd), files by token, and optionally a return
//! [`Ticket`]. [`Cargo::exec`] replaces the process by a [`Program`]; [`arrive`] gives the successor a [`Parcel`] with
//! the same. What the arena means, and whether the successor takes it, is decided by
//! [the core](crate), which can send a parcel back with [`Parcel::go_back`].
//!
//! ## How it works
//! The descriptors wait as SCM_RIGHTS messages in a connected pair of unix sockets (format: `kho-parcel-v1`). The
//! sending end is closed before exec; the receiving end is the only descriptor that loses its close-on-exec flag, right
//! before exec, and it is named in one environment variable, [`VARIABLE`], with process id and nonce. So nothing else
//! leaks into the successor, and a variable that somebody inherits by accident is worth nothing.
//!
//! ```no_run
//! use std::os::fd::AsFd;
//!
//! use kho::transport::{Cargo, Program, Ticket, arrive};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (arena, log) = (std::fs::File::open("/dev/null")?, std::fs::File::open("/dev/null")?);
//! # fn understood(_: &kho::transport::Parcel) -> bool { true }
//! // The successor, first thing in main:
//! if let Some(parcel) = arrive()? {
//!     if !understood(&parcel) {
//!         return Err(parcel.go_back("state-v3 is newer than state-v2").into());
//!     }
//! }
//! // The predecessor, when it is time:
//! let ticket = Ticket::current()?;
//! let cargo = Cargo::new(0x5eed, arena.as_fd()).file(1, log.as_fd()).ticket(&ticket);
//! let error = cargo.exec(&Program::open("/usr/bin/next")?.args(["--take-over"]));
//! eprintln!("still here, and as before: {error}");
//! # Ok(())
//! # }
//! ```
//!
//! ## What exec does besides
//! Exec ends all other threads of the process, without unwinding. Between the clearing of the close-on-exec flag and
//! exec, a thread that forks could pass the socket to its child; the child cannot use it, because the process id is
//! another one, but holds the parcel's files open. Stop such threads before.
//!
//! # In a session
//! Across a kexec, arena and files travel in a session of [`/dev/liveupdate`](crate::liveupdate), one that is given or that
//! the caller made: [`Finished::preserve_in`](crate::handover::Finished::preserve_in), then
//! [`Arrival::of_session`] in the next kernel, which gives the same `Incoming` as exec does. The raw half is
//! [`Cargo::preserve_in`] and [`SessionParcel`].
//!
//! ```no_run
//! use kho::handover::Outgoing;
//! use kho::liveupdate::Device;
//! use kho::transport::Bundle;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Not larger than need be: Linux fills all of it with memory.
//! let mut outgoing = Outgoing::new(Bundle::new(16 << 20)?);
//! // ... preserve ...
//! let session = Device::open()?.create("vm-7")?;
//! let preserved = outgoing.finish()?.preserve_in(session)?;
//! println!("{} bytes of holes\n{}", preserved.told().summary.filled, preserved.told().findings);
//! // Leave now, and keep `preserved` until then. Or stay after all:
//! outgoing = preserved.cancel()?;
//! # Ok(())
//! # }
//! ```
//!
//! - **Tokens.** Files have those that they have in the handover: the user's, and from
//!   [`OURS`](crate::files::OURS) on those of states. The last 16 are the transport's
//!   ([`RESERVED`](crate::abi::session::RESERVED)): one for the arena, one for the root.
//! - **The root record** (`kho-session-v1`, [`abi::session`](crate::abi::session)) is a small sealed memfd that names all
//!   tokens, because Linux cannot list them, and has the nonce of the arena. It is preserved last: a session without it
//!   carries no handover. The session may have other files beside it.
//! - **What is told before**: everything that [`preflight`](crate::liveupdate::preflight()) finds, over arena, files and
//!   root together. One file under two tokens, a kind that Linux does not preserve, too little memory: an error, and the
//!   kernel is not asked. Also an error: a file that is sealed against execution (`MFD_NOEXEC_SEAL`), because it comes back
//!   sealed against writing.
//! - **What it costs**: Linux gives memory to every hole. An arena is sparse until then, so its *whole size* is memory from
//!   then on, and still in the next kernel. [`Preserved::told`] has the bytes.
//! - **What survives**: bytes and positions as they are when the kernel is left; sizes and seals. Not modes, names, how a
//!   descriptor was opened, and which inode a file was: the plan compares size, seals and position.
//!   Add no seal once it is preserved: it would be lost. A kernel with pages of another size takes no arena
//!   ([`Code::PageSize`]).
//! - **Before** the kernel is left, the session must stay open: a [`Preserved`] that is dropped, or whose process ends,
//!   hands over nothing. A shutdown that kills processes kills that one, too: give a second descriptor of the session to who
//!   leaves last, a service manager say.
//! - **After**, the session has everything until it is finished. A plan that refuses and a restore that fails change nothing:
//!   [`Arrival::of_session`] can be called again on the session, also by another program that inherits it
//!   ([`inherited`](crate::liveupdate::inherited)). [`Turn::take`] finishes it once the handover is restored: only then can
//!   arena and files be preserved again.
//! - **A successor that dies** before that closes the session if nobody else has it open, and with it everything that was
//!   handed over is gone. Who has it open, a service manager say, can give it to the next try. That finds the handover as
//!   the one before left it: whole if nothing was restored, and none ([`Code::NoHandover`])
//!   after [`Restored::finish`](crate::handover::Restored::finish).
//! - **No way back**: a ticket is refused, because the kernel that could run that program is gone.

#![allow(clippy::result_large_err, reason = "what fails gives the handover back, as in `handover`")]

mod arrive;
mod baton;
mod bundle;
mod commit;
mod decide;
mod door;
mod exec;
mod freeze;
mod handoff;
mod keeper;
mod line;
mod living;
mod parcel;
mod parcel_wire;
mod report;
mod root;
mod session;
mod socket;
mod sys;
mod ticket;
mod turn;
mod upgrade;

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::files::Kind;
use crate::report::{Code, Fault};

pub use arrive::arrive;
pub use bundle::Bundle;
pub use decide::Patience;
pub use door::{Call, Caller, Door, Peer};
pub use exec::{ExecError, Program, VARIABLE};
pub use freeze::Part;
pub use handoff::{Arrival, NotReplaced, NotRestored, NotTaken, WayBack};
pub use keeper::{Exec, Keeper};
pub use line::UPGRADE;
pub use parcel::COMPAT;
use parcel::Other;
pub use report::{Report, Timing, Whose};
pub use session::{InSession, NotPreserved, NotRetrieved, Parked, Preserved, SessionError, SessionParcel};
pub use ticket::Ticket;
pub use turn::Turn;
pub use upgrade::{Left, Stayed, Upgrade, Way};

/// That a descriptor that came is what it is said to be. Where `/proc` is not mounted nothing tells.
fn is_kind(file: BorrowedFd<'_>, kind: Kind, item: &'static str, expected: &str) -> Result<(), Fault> {
    let found = match Kind::of(file) {
        Ok(found) if found == kind => return Ok(()),
        Ok(found) => found.to_string(),
        Err(fault) if fault.code() == Code::Io => return Ok(()),
        Err(fault) => fault.found_text().to_owned(),
    };
    Err(Fault::new(Code::FileKind).item(item).found(found).expected(expected))
}

/// What leaves: borrowed, so that a refused exec has nothing to give back.
#[derive(Clone, Debug)]
pub struct Cargo<'a> {
    nonce: u64,
    arena: BorrowedFd<'a>,
    files: Vec<(u64, BorrowedFd<'a>)>,
    ticket: Option<&'a Ticket>,
    reason: Option<&'a str>,
    /// Who goes on if the successor does not.
    other: Option<Other<BorrowedFd<'a>>>,
    report: Option<&'a str>,
}

impl<'a> Cargo<'a> {
    /// A cargo of one arena. The nonce is drawn anew for each handover; it must be hard to guess only insofar as two
    /// handovers must not have the same.
    #[must_use]
    pub fn new(nonce: u64, arena: BorrowedFd<'a>) -> Self {
        Cargo { nonce, arena, files: Vec::new(), ticket: None, reason: None, other: None, report: None }
    }

    /// Adds a file under a token. Order is kept; a token that is there twice is refused by [`Cargo::exec`].
    #[must_use]
    pub fn file(mut self, token: u64, file: BorrowedFd<'a>) -> Self {
        self.files.push((token, file));
        self
    }

    /// Adds the way back.
    #[must_use]
    pub fn ticket(mut self, ticket: &'a Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    /// Execs the ticket's program with this cargo, and tells it why: see [`Parcel::go_back`].
    pub(crate) fn go_back(mut self, ticket: &Ticket, reason: &'a str) -> ExecError {
        // What overwrites the file between here and exec goes unnoticed; a sealed copy has no such gap.
        if let Err(fault) = ticket.verify() {
            return ExecError::Ticket(fault);
        }
        match ticket.program() {
            Ok(program) => {
                (self.ticket, self.reason) = (None, Some(reason));
                self.exec(&program)
            }
            Err(error) => error,
        }
    }
}

impl<'a> Extend<(u64, BorrowedFd<'a>)> for Cargo<'a> {
    fn extend<I: IntoIterator<Item = (u64, BorrowedFd<'a>)>>(&mut self, files: I) {
        self.files.extend(files);
    }
}

/// What arrived. All descriptors are close-on-exec.
#[derive(Debug)]
#[non_exhaustive]
pub struct Parcel {
    /// The nonce of the handover, to be compared with the one in the arena's header.
    pub nonce: u64,
    /// CLOCK_MONOTONIC of the predecessor right before it left, in nanoseconds.
    pub stamp_ns: u64,
    /// The arena. Not checked: whoever maps it checks kind, seals and size before.
    pub arena: OwnedFd,
    /// Files by token, in the order in which they were added. Tokens are unique.
    pub files: Vec<(u64, OwnedFd)>,
    /// The way back, if the predecessor gave one. A parcel that came back has none.
    pub ticket: Option<Ticket>,
    /// Set when this parcel came back: why the successor refused it.
    pub reason: Option<String>,
    /// What the predecessor measured.
    pub report: Option<String>,
    other: Option<Other<OwnedFd>>,
    /// Tokens of the files that came before it.
    ahead: BTreeSet<u64>,
}

impl Parcel {
    /// Execs the predecessor's program onto the same handover, and tells it why. Returns only when that failed; the
    /// parcel is then as it was.
    ///
    /// The program starts with the arguments that the ticket carries, with the environment, working directory and
    /// signal dispositions of this process. It receives arena, files and nonce as they came, and no ticket: a handover
    /// that was refused once does not travel to and fro.
    ///
    /// # Errors
    /// [`ExecError::NoTicket`], [`ExecError::Ticket`] when the file of the ticket was changed since, and what
    /// [`Cargo::exec`] returns.
    pub fn go_back(&self, reason: &str) -> ExecError {
        use std::os::fd::AsFd as _;
        let Some(ticket) = &self.ticket else { return ExecError::NoTicket };
        let mut cargo = Cargo::new(self.nonce, self.arena.as_fd());
        cargo.extend(self.files.iter().map(|(token, file)| (*token, file.as_fd())));
        cargo.go_back(ticket, reason)
    }
}
