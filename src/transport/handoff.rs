//! The typed half of exec: a finished handover leaves, and an incoming one arrives.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use rustix::io::FdFlags;

use super::arrive::{self, Came};
use super::baton::Baton;
use super::commit::Word;
use super::decide::{self, Opposite, Patience};
use super::exec::{Ask, monotonic_ns};
use super::line::Line;
use super::report::{Report, Whose};
use super::turn::{Before, Ours, Turn};
use super::{Bundle, Cargo, ExecError, Other, Parcel, Program, Ticket, keeper};
use crate::files::{Beside as _, Files, Kind};
use crate::handover::{Finished, Incoming, Outgoing, Registry, Restored, Unfinished, Verdict};
use crate::mem::{Arena, PhysAddr};
use crate::report::{Code, Fault};

/// The program was not replaced: why, and the handover as it was.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotReplaced {
    /// Why.
    pub error: ExecError,
    /// The handover, still finished: [`Finished::cancel`] goes on as before it.
    pub finished: Finished<Bundle>,
}

impl Finished<Bundle> {
    /// Replaces this process by `program`, which finds the handover with [`Arrival::take`]. With a `ticket`, a successor
    /// that refuses can come back.
    ///
    /// The program is asked first, by what its file says ([`Program::manifest`]): this process stays when it would refuse
    /// ([`ExecError::Refused`]), and if it has a manifest itself also when it cannot be told ([`ExecError::Untold`]). See
    /// [`Program::only_if_told`], [`Program::even_if_untold`] and [`Program::without_asking`].
    ///
    /// All other threads end, without unwinding; destructors do not run.
    ///
    /// # Errors
    /// Returns only when the process was not replaced. Everything is as it was then: descriptors and their flags,
    /// signals, environment, mappings.
    #[must_use]
    pub fn exec(self, program: &Program, ticket: Option<&Ticket>) -> NotReplaced {
        if let Err(error) = self.ask(program) {
            return NotReplaced { error, finished: self };
        }
        let error = {
            let bundle = self.memory();
            let mut cargo = Cargo::new(bundle.arena().nonce(), bundle.arena().fd());
            cargo.extend(bundle.files().iter());
            if let Some(ticket) = ticket {
                cargo = cargo.ticket(ticket);
            }
            // Inherited as well as handed over, a file would be open twice, and once without an owner.
            let _closing = Closing::on_exec(bundle.files().iter().map(|(_, file)| file));
            cargo.exec(program)
        };
        NotReplaced { error, finished: self }
    }

    pub(super) fn ask(&self, program: &Program) -> Result<(), ExecError> {
        let must_say = match program.ask {
            Ask::Nothing => return Ok(()),
            Ask::Refusal => false,
            Ask::AsWeSay => self.is_declared(),
            Ask::Consent => true,
        };
        match program.says().map_err(ExecError::Manifest)? {
            Ok(found) => {
                let forecast = self.forecast(&found.reads);
                let forecast = forecast.map_err(|fault| ExecError::io("root FDT", std::io::Error::other(fault)))?;
                if forecast.verdict() == Verdict::Refused { Err(ExecError::Refused(forecast)) } else { Ok(()) }
            }
            Err(why) if must_say => Err(ExecError::Untold { why }),
            Err(_) => Ok(()),
        }
    }
}

impl Outgoing<Bundle> {
    /// Writes what the program reads, as its manifest says it: [`Outgoing::write_for`]. Whether it says anything: without
    /// a manifest, or with one from the future, the newest versions are written.
    ///
    /// # Errors
    /// As [`Outgoing::write_for`] and, when its manifest is broken, [`Found::of_file`](crate::manifest::Found::of_file).
    pub fn write_for_program(&mut self, program: &Program) -> Result<bool, Fault> {
        match program.says()? {
            Ok(found) => self.write_for(&found.reads).map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

/// Descriptors that are close-on-exec as long as this lives, and were not before.
pub(super) struct Closing<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Closing<'a> {
    pub(super) fn on_exec(files: impl Iterator<Item = BorrowedFd<'a>>) -> Self {
        let set = |file: &BorrowedFd<'a>| {
            rustix::io::fcntl_getfd(file).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
                && rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC).is_ok()
        };
        Closing(files.filter(set).collect())
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        for file in &self.0 {
            // What was set a moment ago can be cleared.
            let _ = rustix::io::fcntl_setfd(file, FdFlags::empty());
        }
    }
}

/// A handover that arrived in this process.
///
/// ```
/// use kho::handover::Registry;
/// use kho::transport::Arrival;
///
/// // In a program that was started by itself nothing arrives.
/// let Some(arrival) = Arrival::take()? else { return Ok(()) };
/// let registry = Registry::new();
/// match arrival.incoming.plan(&registry).accept() {
///     Ok(accepted) => {
///         let restored = accepted.restore()?;
///         // From here on this process serves. An error: another one does, and this one ends.
///         println!("{}", arrival.turn.take()?);
///         let (_bundle, released) = restored.finish();
///         released?;
///     }
///     // The predecessor goes on: it lives, or its program runs in this process, on the same handover.
///     Err(refused) => arrival.turn.refuse(refused.incoming, &refused.findings.to_string()).map_err(|(error, _)| error)?,
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Arrival {
    /// The handover, of which nothing is known yet.
    pub incoming: Incoming<Bundle>,
    /// What this process does with it: it takes over, or refuses.
    pub turn: Turn,
    /// Why a successor sent this handover back, when this process is the predecessor again.
    pub reason: Option<String>,
    /// CLOCK_MONOTONIC of the predecessor right before it left, in nanoseconds; CLOCK_REALTIME across a kexec.
    pub left_at: u64,
}

impl Arrival {
    /// Plans, accepts and restores, by what this program understands; where that fails, [refuses](Turn::refuse) in the words
    /// that were found. What is left to do is to take the values, to look at them, and to [take](Turn::take) the turn.
    ///
    /// ```no_run
    /// use kho::handover::Registry;
    /// use kho::payload::BytesNode;
    /// use kho::transport::Call;
    /// # const STATE: kho::compat::CompatList<'static> = kho::compat::CompatList::new(kho::compat::Compat::new("s", 1), &[]);
    /// # kho::manifest! { static MANIFEST = [both("state", &[STATE])]; }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut registry = Registry::of(&MANIFEST);
    /// let state = registry.read("state", BytesNode { made_of: STATE, limit: 8 });
    /// let arrival = Call::connect("/run/service/upgrade", &[])?.arrive(&MANIFEST)?;
    /// let (mut restored, turn) = arrival.restore(&registry)?;
    /// let state: [u8; 8] = restored.take(&state).ok_or("no state")?.try_into().map_err(|_| "a state of another size")?;
    /// turn.take()?;
    /// # let _ = state;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What was found. The predecessor goes on then, or the handover is in the error, where nobody does.
    pub fn restore(self, registry: &Registry<Bundle>) -> Result<(Restored<Bundle>, Turn), NotRestored> {
        let Arrival { incoming, turn, .. } = self;
        let (reason, incoming) = match incoming.plan(registry).accept() {
            Err(refused) => (refused.findings.to_string(), refused.incoming),
            Ok(accepted) => match accepted.restore() {
                Ok(restored) => return Ok((restored, turn)),
                Err(failed) => (failed.to_string(), failed.incoming),
            },
        };
        let left = turn.refuse(incoming, &reason).err();
        Err(NotRestored { reason, left })
    }

    /// The handover that was left for this process; none when it was started otherwise. Once in a process.
    ///
    /// In a process that was started as a [keeper](super::Exec::kept) it returns only when that process goes on with the
    /// handover, and else ends it.
    ///
    /// # Errors
    /// As [`arrive`](super::arrive) and [`Arrival::of`].
    pub fn take() -> Result<Option<Self>, NotTaken> {
        match arrive::came() {
            Ok(None) => Ok(None),
            Ok(Some(Came::Parcel(parcel))) => Arrival::of(*parcel).map(Some),
            Ok(Some(Came::Keep(socket))) => keeper::keep(socket).map(Some),
            Err(fault) => Err(NotTaken { fault, parcel: None }),
        }
    }

    /// The handover in a parcel.
    ///
    /// # Errors
    /// When what arrived is not a handover that can be read here: an arena that is none, of another version or size or
    /// without seals, another nonce. The parcel is in the error, and can go back; where a keeper waits, it goes on when this
    /// process ends.
    pub fn of(mut parcel: Parcel) -> Result<Self, NotTaken> {
        let mut report = Report::default();
        report.add_text(Whose::Predecessor, parcel.report.as_deref().unwrap_or_default());
        Report::begin();
        let opposite = match parcel.other.take() {
            Some(Other { baton, process, line: Some(line) }) => {
                let made = super::is_kind(process.as_fd(), Kind::Pidfd, "process", "a pidfd")
                    .and_then(|()| Baton::of(baton))
                    .and_then(|baton| Ok(Opposite { line: Line::of(line)?, process, known: true, baton }));
                match made {
                    Ok(opposite) => Some((opposite, Patience::default().commit, true)),
                    Err(fault) => return Err(NotTaken { fault, parcel: Some(Box::new(parcel)) }),
                }
            }
            _ => None,
        };
        Arrival::with(parcel, report, opposite)
    }

    /// The handover in a parcel, with who may go on instead, how long to wait for it, and whether it is a keeper.
    pub(super) fn with(
        parcel: Parcel,
        report: Report,
        opposite: Option<(Opposite, Duration, bool)>,
    ) -> Result<Self, NotTaken> {
        match open(&parcel.arena, parcel.nonce) {
            Ok((arena, root)) => {
                let Parcel { stamp_ns, files, ticket, reason, ahead, .. } = parcel;
                let ours = Ours::default();
                let mut report = report;
                report.add(Whose::Successor, "arrive", monotonic_ns().saturating_sub(stamp_ns));
                let before = match opposite {
                    None => Before::Nobody(ticket.map(WayBack)),
                    Some((opposite, patience, keeper)) => {
                        Before::Process { opposite: Box::new(opposite), patience, keeper }
                    }
                };
                let waits = matches!(before, Before::Process { .. });
                let bundle =
                    Bundle::of(arena, Files::received(files).ahead(ahead)).held_by(waits.then(|| ours.clone()));
                let turn = Turn::new(before, ours, report);
                Ok(Arrival { incoming: Incoming::new(bundle, root), turn, reason, left_at: stamp_ns })
            }
            Err(fault) => {
                // A keeper goes on when this process ends, and a predecessor at once.
                if let Some((opposite, _, false)) = &opposite {
                    decide::tell(&opposite.line, Word::Refused, &fault.to_string());
                }
                Err(NotTaken { fault, parcel: Some(Box::new(parcel)) })
            }
        }
    }
}

/// The arena that came, by a descriptor of its own, and where its root FDT is.
pub(super) fn open(arena: &OwnedFd, nonce: u64) -> Result<(Arena, PhysAddr), Fault> {
    let arena = arena.try_clone().map_err(|error| Fault::new(Code::Io).item("arena").found(error))?;
    let arena = Arena::open(arena)?;
    if arena.nonce() != nonce {
        return Err(Fault::new(Code::FileIdentity)
            .item("nonce")
            .found(format_args!("an arena of the handover {:#x}", arena.nonce()))
            .expected(format_args!("{nonce:#x}")));
    }
    let unfinished = || Fault::new(Code::NoHandover).item("fdt_addr").found("an arena that was not finished");
    let (root, _) = arena.root().ok_or_else(unfinished)?;
    Ok((arena, root))
}

/// A handover was refused, or could not be restored.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct NotRestored {
    /// Why, in the words of the plan.
    pub reason: String,
    /// The handover, where nobody goes on with it: why nobody does, and the handover as it came. None when the predecessor
    /// or its keeper was told.
    pub left: Option<(ExecError, Incoming<Bundle>)>,
}

/// Something arrived that is not a handover which can be read here.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct NotTaken {
    /// Why.
    pub fault: Fault,
    /// What arrived, whole: [`Parcel::go_back`] returns it to the predecessor. None when the parcel itself could not be
    /// received: see [`arrive`](fn@super::arrive).
    pub parcel: Option<Box<Parcel>>,
}

/// The predecessor's own program, as it was when it left.
#[derive(Debug)]
pub struct WayBack(Ticket);

impl WayBack {
    /// Executes the predecessor's program on the same handover, which must be untouched: refused, or failed to restore.
    /// It learns `reason`.
    ///
    /// # Errors
    /// Returns only when that was not possible, with the handover.
    #[must_use]
    pub fn go(&self, incoming: Incoming<Bundle>, reason: &str) -> (ExecError, Incoming<Bundle>) {
        let error = {
            let bundle = incoming.memory();
            let mut cargo = Cargo::new(bundle.arena().nonce(), bundle.arena().fd());
            cargo.extend(bundle.files().iter());
            cargo.go_back(&self.0, reason)
        };
        (error, incoming)
    }

    /// Whose program it is.
    #[must_use]
    pub const fn ticket(&self) -> &Ticket {
        &self.0
    }
}

impl From<NotReplaced> for Unfinished<Bundle> {
    fn from(stayed: NotReplaced) -> Self {
        let fault = Fault::new(Code::Io).item("exec").found(&stayed.error);
        match stayed.finished.cancel() {
            Ok(outgoing) => Unfinished { fault, outgoing },
            Err(unfinished) => unfinished,
        }
    }
}
