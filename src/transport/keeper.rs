//! Exec, and who keeps the handover meanwhile.
//!
//! Exec leaves nobody behind: if the successor dies before it has taken over, the state is gone with it. A keeper is a small
//! process that is there before: the predecessor's own program, started anew, which waits inside
//! [`Arrival::take`](super::Arrival::take) with the arena and all files. When the successor takes over, the keeper ends and
//! nobody ever hears of it. When the successor dies, refuses, or does not take over in time, the keeper *is* the
//! predecessor again: its `Arrival::take` returns the handover, with the reason.
//!
//! It runs, idle, in the start of the program, before it is needed: so going back costs no exec, and whether the program
//! can be started at all is known before anything freezes.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions};
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

use super::baton::Baton;
use super::commit::Word;
use super::decide::{self, Decided, Opposite, Patience};
use super::door::own_process;
use super::exec::Program;
use super::handoff::{Arrival, Closing, NotTaken};
use super::line::{self, KEEP, KEEPING, Keep, Line};
use super::parcel::Other;
use super::report::{Report, Whose};
use super::socket::{self, Wait};
use super::upgrade::{Leaving, Left, Sealed, Way};
use super::{Bundle, Cargo, Ticket, living, sys};
use crate::compat::Terms;
use crate::files::{Beside as _, Route};
use crate::handover::Finished;
use crate::report::{Code, Fault};
use crate::trace::Stopwatch;

/// Leaving by exec, as a [`Way`].
///
/// With a [keeper](Exec::kept) it is safe against a successor that dies: the keeper goes on. Without one, a successor that
/// refuses can come back by the ticket, and one that dies is lost.
///
/// [`Upgrade::run`](super::Upgrade::run) comes back with `Ok` only in one case: exec failed, and the keeper has begun to
/// serve meanwhile. Then this process ends.
#[derive(Debug)]
pub struct Exec<'a> {
    program: &'a Program,
    ticket: Option<&'a Ticket>,
    keeper: Option<Keeper>,
    kept: bool,
}

/// A process that goes on with the handover if the successor does not.
#[derive(Debug)]
pub struct Keeper(Opposite);

impl<'a> Exec<'a> {
    /// Replaces this process by that program.
    #[must_use]
    pub const fn new(program: &'a Program) -> Self {
        Exec { program, ticket: None, keeper: None, kept: false }
    }

    /// With a way back, for a successor that refuses.
    #[must_use]
    pub const fn ticket(mut self, ticket: &'a Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    /// With a keeper, which is started from the ticket: the program that goes on if the successor does not. It must come to
    /// [`Arrival::take`](super::Arrival::take) early, as every successor must, and do nothing before that it must not do
    /// beside the process that serves.
    ///
    /// The keeper has another process id than the process that it replaces.
    #[must_use]
    pub const fn kept(mut self, ticket: &'a Ticket) -> Self {
        (self.ticket, self.kept) = (Some(ticket), true);
        self
    }
}

impl Sealed for Exec<'_> {}

impl Way for Exec<'_> {
    type Left = Left;

    fn route(&self) -> Route {
        Route::Exec
    }

    fn meet(&mut self, leaving: &Leaving<'_>) -> Result<Option<Terms>, Fault> {
        let reads = self.program.asked()?;
        if let Some(ticket) = self.ticket.filter(|_| self.kept) {
            self.keeper = Some(Keeper::start(ticket, leaving)?);
        }
        Ok(reads)
    }

    fn prepare(&mut self, _: &Leaving<'_>, _: &Bundle) -> Result<(), Fault> {
        Ok(())
    }

    fn deliver(
        self,
        leaving: &Leaving<'_>,
        finished: Finished<Bundle>,
        report: &mut Report,
    ) -> Result<Left, (Fault, Finished<Bundle>)> {
        if let Err(error) = finished.ask(self.program) {
            return Err((error.as_fault(), finished));
        }
        let watch = Stopwatch::start();
        let own = match own_process() {
            Ok(own) => own,
            Err(fault) => return Err((fault, finished)),
        };
        let text = report.so_far();
        let bundle = finished.memory();
        if let Some(keeper) = &self.keeper {
            let other = Other { baton: keeper.0.baton.as_fd(), process: own.as_fd(), line: None };
            let wait = Wait::for_(decide::within(leaving.patience.accept, leaving.budget, report));
            if let Err(fault) = living::send(&keeper.0.line, bundle, &BTreeSet::new(), other, &text, wait) {
                return keeper.give_up(leaving, fault.within("keeper"), finished, report);
            }
        }
        watch.event("deliver", "/");
        let mut cargo = Cargo::new(bundle.arena().nonce(), bundle.arena().fd());
        cargo.extend(bundle.files().iter());
        cargo.report = Some(&text);
        match &self.keeper {
            Some(keeper) => cargo.other = Some(keeper.as_other()),
            None => cargo.ticket = self.ticket,
        }
        // Inherited as well as handed over, a file would be open twice, and once without an owner.
        let closing = Closing::on_exec(bundle.files().iter().map(|(_, file)| file));
        let fault = cargo.exec(self.program).as_fault();
        drop((closing, cargo));
        match &self.keeper {
            Some(keeper) => keeper.give_up(leaving, fault, finished, report),
            None => Err((fault, finished)),
        }
    }
}

impl Keeper {
    /// Starts the program of the ticket, and waits until it keeps.
    fn start(ticket: &Ticket, leaving: &Leaving<'_>) -> Result<Self, Fault> {
        ticket.verify()?;
        let nonce = crate::mem::random()?;
        let (line, other) = Line::pair()?;
        // Where stdio is closed the socket would take its place.
        let other = match other.as_raw_fd() {
            0..=2 => rustix::io::fcntl_dupfd_cloexec(&other, 3).map_err(|errno| io("dup", errno))?,
            _ => other,
        };
        let nanos = |time: Duration| U64::new(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let keep = Keep {
            magic: line::MAGIC,
            version: U32::new(line::UPGRADE.version()),
            reserved: U32::ZERO,
            nonce: U64::new(nonce),
            accept: nanos(leaving.patience.accept),
            commit: nanos(leaving.patience.commit),
            budget: leaving.budget.map_or(U64::new(u64::MAX), nanos),
        };
        line.say(KEEP, &[keep.as_bytes()], Wait::Never)?;
        let baton = Baton::new()?;
        let child = ticket.spawn(other.as_fd(), nonce).map_err(|error| error.as_fault().within("keeper"))?;
        drop(other);
        let keeping = line.expect(KEEPING, Wait::for_(leaving.patience.hello));
        let keeper = Keeper(Opposite { line, process: child, known: true, baton });
        match keeping {
            Ok(_) => Ok(keeper),
            Err(fault) => {
                // A program that does not come to `Arrival::take` would serve beside this one.
                living::end(keeper.0.process.as_fd());
                Err(fault.within("keeper"))
            }
        }
    }

    fn as_other(&self) -> Other<std::os::fd::BorrowedFd<'_>> {
        let Opposite { line, process, baton, .. } = &self.0;
        Other { baton: baton.as_fd(), process: process.as_fd(), line: Some(line.as_fd()) }
    }

    /// This process goes on itself, unless the keeper has begun to.
    fn give_up(
        &self,
        leaving: &Leaving<'_>,
        fault: Fault,
        finished: Finished<Bundle>,
        report: &mut Report,
    ) -> Result<Left, (Fault, Finished<Bundle>)> {
        match decide::take_back(&self.0, leaving.patience) {
            Ok(true) => Err((fault, finished)),
            Ok(false) | Err(_) => {
                report.gather(Whose::Predecessor);
                Ok(Left { report: std::mem::take(report) })
            }
        }
    }
}

/// A keeper that is not needed ends by itself, and must not stay as a zombie of this process.
pub(super) fn reap(process: OwnedFd) {
    let reaper = std::thread::Builder::new().name("kho-reap".into()).stack_size(64 << 10);
    // Without a thread it stays a zombie until this process ends: of no harm.
    let _ = reaper.spawn(move || {
        let _ = rustix::process::waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED);
    });
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It finds the line closed, or the baton taken, and ends; dropped is also one of a run that failed early.
        if let Ok(process) = self.0.process.try_clone() {
            let _ = self.0.line.say(line::ABORT, &[], Wait::Never);
            reap(process);
        }
    }
}

/// The life of a keeper: inside [`Arrival::take`], with the socket that it inherited. Comes back only when this process
/// goes on with the handover.
pub(super) fn keep(socket: OwnedFd) -> Result<Arrival, NotTaken> {
    let failed = |fault| NotTaken { fault, parcel: None };
    let line = Line::of(socket).map_err(failed)?;
    let text = line.expect(KEEP, Wait::Never).map_err(failed)?;
    let keep = Keep::read(&text).map_err(failed)?;
    let time = |nanos: U64| Duration::from_nanos(nanos.get());
    let patience = Patience { accept: time(keep.accept), commit: time(keep.commit), ..Patience::default() };
    let budget = Some(keep.budget.get()).filter(|nanos| *nanos != u64::MAX).map(Duration::from_nanos);
    line.say(KEEPING, &[], Wait::for_(Duration::from_secs(1))).map_err(failed)?;

    // Until it leaves, the predecessor serves. What ends the line before a parcel is in it ends the keeper.
    let forever = Wait::for_(Duration::from_secs(u64::from(u32::MAX)));
    let Ok(mut parcel) = socket::receive(line.as_fd(), usize::MAX, forever) else { sys::exit() };
    let mut report = Report::default();
    report.add_text(Whose::Predecessor, parcel.report.as_deref().unwrap_or_default());
    let Some(Other { baton, process, .. }) = parcel.other.take() else { sys::exit() };
    let Ok(baton) = Baton::of(baton) else { sys::exit() };
    let opposite = Opposite { line, process, known: true, baton };
    let start = Instant::now();
    match decide::predecessor(&opposite, &patience, budget, &mut report) {
        Ok(Decided::Ours(why)) => {
            decide::tell(&opposite.line, Word::Abort, &why.to_string());
            // What it has besides, a port or a lock, is free only when it is gone.
            if !line::has_ended(opposite.process.as_fd(), Duration::from_millis(200)) {
                living::end(opposite.process.as_fd());
            }
            // What the successor measured is of a handover that was not.
            report.forget(Whose::Successor);
            parcel.reason = Some(format!("{why} (after {:.1?})", start.elapsed()));
            report.ends();
            Arrival::with(parcel, report, None)
        }
        Ok(Decided::Theirs(_)) | Err(_) => sys::exit(),
    }
}

fn io(item: &'static str, errno: rustix::io::Errno) -> Fault {
    Fault::new(Code::Io).item(item).found(errno)
}
