//! The way across a kexec: arena and files in a session of `/dev/liveupdate`.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use super::report::{Report, Whose};
use super::root::Root;
use super::turn::{Before, Ours, Turn};
use super::upgrade::{Leaving, Sealed, Way};
use super::{Arrival, Bundle, Cargo, Program, handoff};
use crate::abi::session::{ARENA, RESERVED, ROOT};
use crate::compat::Terms;
use crate::files::{Beside as _, Files, Route};
use crate::handover::{Finished, Incoming, Outgoing, Unfinished};
use crate::liveupdate::{Cause, NewSession, Preflight, Refused, RetrievedSession, preflight_as};
use crate::report::{Code, Fault, Finding, Severity};
use crate::trace::Stopwatch;

/// What keeps files by token: a new session, or what stands in for one in tests.
pub(super) trait Keep {
    fn keep(&self, token: u64, file: BorrowedFd<'_>) -> Result<(), Refused>;
}

impl Keep for NewSession {
    fn keep(&self, token: u64, file: BorrowedFd<'_>) -> Result<(), Refused> {
        self.preserve(token, file)
    }
}

/// What gives files back by token: a retrieved session, or what stands in for one in tests.
pub(super) trait Give {
    fn give(&self, token: u64) -> Result<OwnedFd, Refused>;
}

impl Give for RetrievedSession {
    fn give(&self, token: u64) -> Result<OwnedFd, Refused> {
        self.retrieve(token)
    }
}

/// A cargo was not preserved: why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// It was told before the kernel was asked; nothing was preserved. All that was found, not only the first.
    #[error("{}", .0.findings)]
    Told(Box<Preflight>),
    /// The root record could not be made; nothing was preserved.
    #[error("{0}")]
    Root(Fault),
    /// The kernel refused.
    #[error("{refused}")]
    Refused {
        /// What, and why.
        refused: Refused,
        /// What was preserved before, by token. It stays in the session until that is closed. The root is not among it, so
        /// the session carries no handover.
        preserved: Vec<u64>,
    },
}

impl Cargo<'_> {
    /// Preserves the cargo in a session, so that [`SessionParcel::of`] has it in the next kernel: the arena and the files
    /// under their tokens, then the root record that names them all. See [the module](super#in-a-session).
    ///
    /// What comes back says what it costs, and what will be different: holes that were filled, modes that are lost.
    ///
    /// # Errors
    /// [`SessionError::Told`] with everything that Linux would refuse, as [`preflight`](crate::liveupdate::preflight()) finds
    /// it; with files that would come back with other seals ([`Code::MemfdSeals`]), because no successor would take them;
    /// with tokens from [`RESERVED`] on and with a ticket ([`Code::Refused`]): there is no way back across a kexec.
    pub fn preserve_in(&self, session: &NewSession) -> Result<Preflight, SessionError> {
        self.preserve_by(session, &BTreeSet::new())
    }

    /// As [`Cargo::preserve_in`], and the session has those files already: by [`Cargo::preserve_early`].
    pub(super) fn preserve_by(&self, session: &impl Keep, early: &BTreeSet<u64>) -> Result<Preflight, SessionError> {
        let tokens = self.files.iter().map(|(token, _)| *token).collect();
        let root = Root { nonce: self.nonce, stamp: now(), arena: ARENA, files: tokens };
        let record = root.memfd().map_err(SessionError::Root)?;
        let ours = [(ARENA, self.arena)];
        let files = self.files.iter().copied().filter(|(token, _)| *token < RESERVED);
        // The root last: it says that everything else is there.
        let all: Vec<(u64, BorrowedFd<'_>)> = ours.into_iter().chain(files).chain([(ROOT, record.as_fd())]).collect();
        let told = self.told(&all)?;
        keep(session, all.into_iter().filter(|(token, _)| !early.contains(token)))?;
        Ok(told)
    }

    /// Preserves the files alone, while the program serves: their holes are filled then, and their sizes fixed. What is in
    /// them may still change.
    pub(super) fn preserve_early(&self, session: &impl Keep) -> Result<(), SessionError> {
        self.told(&self.files)?;
        keep(session, self.files.iter().copied())
    }

    /// What would become of these, before the kernel is asked.
    fn told(&self, all: &[(u64, BorrowedFd<'_>)]) -> Result<Preflight, SessionError> {
        let mut told = preflight_as(all, told_as);
        for (token, _) in self.files.iter().filter(|(token, _)| *token >= RESERVED) {
            let fault = Fault::new(Code::Refused).item("token").found("a token of the transport");
            told.findings.add(&node_of(*token), fault.expected(format_args!("below {RESERVED:#x}")));
        }
        if self.ticket.is_some() {
            let fault = Fault::new(Code::Refused).item("ticket").found("a way back, which does not cross a kexec");
            told.findings.add("session", fault);
        }
        if told.findings.errors() > 0 { Err(SessionError::Told(Box::new(told))) } else { Ok(told) }
    }
}

fn keep<'a>(session: &impl Keep, files: impl Iterator<Item = (u64, BorrowedFd<'a>)>) -> Result<(), SessionError> {
    let mut preserved = Vec::new();
    for (token, file) in files {
        match session.keep(token, file) {
            Ok(()) => preserved.push(token),
            Err(refused) => return Err(SessionError::Refused { refused, preserved }),
        }
    }
    Ok(())
}

/// What is found of a file, in the words of a handover.
fn told_as(token: u64, fault: Fault) -> Option<(String, Fault)> {
    let node = match token {
        ARENA => "arena".to_owned(),
        ROOT => "root".to_owned(),
        token => node_of(token),
    };
    match fault.code() {
        // Nobody looks at the modes of these.
        Code::MemfdMode if matches!(token, ARENA | ROOT) => None,
        // A successor holds the seals against what they were.
        Code::MemfdUnwritable => {
            let seals = Fault::new(Code::MemfdSeals).item("seals").found(fault.found_text());
            Some((node, seals.expected("a memfd made with MFD_EXEC, without F_SEAL_EXEC")))
        }
        _ => Some((node, fault)),
    }
}

fn node_of(token: u64) -> String {
    format!("files[{token:#x}]")
}

/// CLOCK_REALTIME, in nanoseconds: the clocks that start with the kernel mean nothing to the next one.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What a session of the previous kernel has, not checked but for the root record.
#[derive(Debug)]
#[non_exhaustive]
pub struct SessionParcel {
    /// The nonce of the handover, to be compared with the one in the arena's header.
    pub nonce: u64,
    /// CLOCK_REALTIME when the predecessor preserved it, in nanoseconds.
    pub preserved_at: u64,
    /// The arena.
    pub arena: OwnedFd,
    /// Files by token, in the order in which they were added. Tokens are unique.
    pub files: Vec<(u64, OwnedFd)>,
}

impl SessionParcel {
    /// Takes everything that the root record names. The session still has it, and gives the same open files when it is
    /// asked again, until it is finished.
    ///
    /// # Errors
    /// [`Code::NoHandover`] for a session without a root record; [`Code::Magic`], [`Code::VersionOlder`],
    /// [`Code::VersionNewer`] and others for a record that is none or cannot be read here; [`Code::TokenMissing`] for the
    /// arena or a file that it names and the session has not; [`Code::Io`] when the kernel cannot restore one.
    pub fn of(session: &RetrievedSession) -> Result<Self, Fault> {
        SessionParcel::from(session)
    }

    pub(super) fn from(session: &impl Give) -> Result<Self, Fault> {
        let root = Root::read(given(session, ROOT, "root", Code::NoHandover)?)?;
        let arena = given(session, root.arena, "arena", Code::TokenMissing)?;
        let files = root
            .files
            .iter()
            .map(|token| given(session, *token, &node_of(*token), Code::TokenMissing).map(|file| (*token, file)));
        let files = files.collect::<Result<_, _>>()?;
        Ok(SessionParcel { nonce: root.nonce, preserved_at: root.stamp, arena, files })
    }
}

fn given(session: &impl Give, token: u64, what: &str, missing: Code) -> Result<OwnedFd, Fault> {
    session.give(token).map_err(|refused| {
        let code = if refused.cause() == Cause::NoSuchToken { missing } else { Code::Io };
        Fault::new(code).item(what.to_owned()).found(refused)
    })
}

impl Finished<Bundle> {
    /// Preserves the handover in a session, for a successor in the next kernel: [`Arrival::of_session`]. The session may be
    /// one that was given, and may have other files than those of the handover.
    ///
    /// Everything that Linux or the successor would refuse is found before the kernel is asked; what it costs is
    /// [`Preserved::told`]. See [the module](super#in-a-session).
    ///
    /// # Errors
    /// The handover and the session, and why: as [`Cargo::preserve_in`].
    pub fn preserve_in(self, session: NewSession) -> Result<Preserved, Box<NotPreserved>> {
        self.preserve_rest(session, &BTreeSet::new())
    }

    fn preserve_rest(self, session: NewSession, early: &BTreeSet<u64>) -> Result<Preserved, Box<NotPreserved>> {
        match cargo_of(self.memory()).preserve_by(&session, early) {
            Ok(told) => Ok(Preserved { session, finished: self, told }),
            Err(error) => Err(Box::new(NotPreserved { error, finished: self, session })),
        }
    }
}

fn cargo_of(bundle: &Bundle) -> Cargo<'_> {
    let mut cargo = Cargo::new(bundle.arena().nonce(), bundle.arena().fd());
    cargo.extend(bundle.files().iter());
    cargo
}

/// A handover that was not preserved in a session.
///
/// Linux has no way to take single files out of a session. So when the kernel refused in the middle
/// ([`SessionError::Refused`]), what was preserved before stays preserved, and cannot be preserved again, until the session
/// is closed: drop it, if it has nothing else, and try with another one.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct NotPreserved {
    /// Why.
    pub error: SessionError,
    /// The handover, still finished: [`Finished::cancel`] goes on as before it.
    pub finished: Finished<Bundle>,
    /// The session, which carries no handover.
    pub session: NewSession,
}

/// A handover that is preserved: the next kernel has it, if this value lives until then.
///
/// Dropped, the session is closed, and nothing is handed over. The end of the process drops it too; who cannot live until
/// the kernel is left gives a second descriptor of the [session](Preserved::session) to somebody who can.
#[derive(Debug)]
#[must_use = "dropped, nothing is handed over"]
pub struct Preserved {
    // Before the handover, so that what is dropped is not preserved any more.
    session: NewSession,
    finished: Finished<Bundle>,
    told: Preflight,
}

impl Preserved {
    /// What preserving cost ([`Preflight::summary`]: bytes that filled holes, pages that describe the files), and warnings.
    #[must_use]
    pub const fn told(&self) -> &Preflight {
        &self.told
    }

    /// The session, to give a second descriptor of it to somebody else: `session().as_fd().try_clone_to_owned()`.
    pub const fn session(&self) -> &NewSession {
        &self.session
    }

    /// The handover as it was preserved. Its contents may still change in place until the kernel is left; size, seals and
    /// position of a file may not: the successor holds them against what is recorded.
    #[must_use]
    pub const fn finished(&self) -> &Finished<Bundle> {
        &self.finished
    }

    /// Gives up leaving: closes the session, and gives the handover as it was before it was finished. Holes that were filled
    /// stay filled.
    ///
    /// A second descriptor of the session, if there is one, keeps arena and files preserved; no successor takes them, because
    /// the arena has no root then.
    ///
    /// # Errors
    /// As [`Finished::cancel`].
    #[allow(clippy::result_large_err, reason = "as Finished::cancel, where it depends on the memory")]
    pub fn cancel(self) -> Result<Outgoing<Bundle>, Unfinished<Bundle>> {
        let Preserved { session, finished, .. } = self;
        drop(session);
        finished.cancel()
    }
}

/// Leaving in a session of `/dev/liveupdate`, as a [`Way`]: the files are preserved while the program serves, the rest
/// when it stands still.
///
/// ```no_run
/// use kho::liveupdate::Device;
/// use kho::transport::{Bundle, InSession, Upgrade};
/// # kho::manifest! { static MANIFEST = []; }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (mut service, upgrade) = ((), Upgrade::new(&MANIFEST));
/// let way = InSession::new(Device::open()?.create("vm-7")?);
/// let parked = upgrade.run(&mut service, Bundle::new(16 << 20)?, way)?;
/// println!("{}\n{}", parked.report, parked.preserved.told().findings);
/// // Now the kernel is left. Where that fails, the program goes on:
/// let bundle = upgrade.resume(&mut service, parked);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct InSession<'a> {
    session: NewSession,
    program: Option<&'a Program>,
    early: BTreeSet<u64>,
}

impl<'a> InSession<'a> {
    /// In that session, for a successor of which nothing is known.
    pub fn new(session: NewSession) -> Self {
        InSession { session, program: None, early: BTreeSet::new() }
    }

    /// For that program, which is to run in the next kernel: it is asked what it reads, and written for.
    #[must_use]
    pub fn read_by(mut self, program: &'a Program) -> Self {
        self.program = Some(program);
        self
    }
}

/// A program that stands still, and whose handover is in a session: it can leave the kernel now.
#[derive(Debug)]
#[must_use = "dropped, nothing is handed over"]
pub struct Parked {
    /// The handover, and what preserving it cost.
    pub preserved: Preserved,
    /// What was measured until here.
    pub report: Report,
}

impl Sealed for InSession<'_> {}

impl Way for InSession<'_> {
    type Left = Parked;

    fn route(&self) -> Route {
        Route::Session
    }

    fn meet(&mut self, _: &Leaving<'_>) -> Result<Option<Terms>, Fault> {
        self.program.map_or(Ok(None), Program::asked)
    }

    fn prepare(&mut self, _: &Leaving<'_>, bundle: &Bundle) -> Result<(), Fault> {
        cargo_of(bundle).preserve_early(&self.session).map_err(Fault::from)?;
        self.early = bundle.files().iter().map(|(token, _)| token).collect();
        Ok(())
    }

    fn deliver(
        self,
        _: &Leaving<'_>,
        finished: Finished<Bundle>,
        report: &mut Report,
    ) -> Result<Parked, (Fault, Finished<Bundle>)> {
        let watch = Stopwatch::start();
        let preserved = finished.preserve_rest(self.session, &self.early);
        watch.event("deliver", "/");
        match preserved {
            Ok(preserved) => {
                report.gather(Whose::Predecessor);
                Ok(Parked { preserved, report: std::mem::take(report) })
            }
            // The session is closed: nothing is preserved.
            Err(not) => Err((Fault::from(not.error), not.finished)),
        }
    }
}

impl From<SessionError> for Fault {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Root(fault) => fault,
            SessionError::Refused { refused, .. } => Fault::new(Code::Io).item("session").found(refused),
            SessionError::Told(told) => {
                let error = |finding: &&Finding| finding.fault.code().severity() == Severity::Error;
                let mut errors = told.findings.kept().iter().filter(error);
                match (errors.next(), errors.next()) {
                    (Some(Finding { node, fault }), None) => fault.clone().within(node),
                    _ => Fault::new(Code::Refused).item("session").found(&told.findings),
                }
            }
        }
    }
}

impl Arrival {
    /// The handover in a session that the previous kernel left.
    ///
    /// [`Turn::take`](super::Turn::take) finishes the session: from then on arena and files are only this process's, and can
    /// be preserved again. Until then, and when it is refused, nothing is lost: the session still has everything
    /// ([`Turn::into_session`](super::Turn::into_session)).
    ///
    /// ```no_run
    /// use kho::handover::Registry;
    /// use kho::liveupdate::Device;
    /// use kho::transport::Arrival;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let arrival = Arrival::of_session(Device::open()?.retrieve("vm-7")?)?;
    /// let restored = arrival.incoming.plan(&Registry::new()).accept()?.restore()?;
    /// arrival.turn.take()?;
    /// let (bundle, released) = restored.finish();
    /// released?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`SessionParcel::of`], and when its arena is none or cannot be opened here, or is of another handover
    /// ([`Code::FileIdentity`]). The session comes back, and still has everything.
    pub fn of_session(session: RetrievedSession) -> Result<Arrival, Box<NotRetrieved>> {
        Report::begin();
        match take(&session) {
            Ok((mut incoming, left_at)) => {
                let ours = Ours::default();
                incoming = incoming.map(|bundle| bundle.held_by(Some(ours.clone())));
                let before = Before::Session { session: Box::new(session), since: left_at };
                let turn = Turn::new(before, ours, Report::default());
                Ok(Arrival { incoming, turn, reason: None, left_at })
            }
            Err(fault) => Err(Box::new(NotRetrieved { fault, session })),
        }
    }
}

/// The handover, and when it was preserved.
pub(super) fn take(session: &impl Give) -> Result<(Incoming<Bundle>, u64), Fault> {
    let SessionParcel { nonce, preserved_at, arena, files } = SessionParcel::from(session)?;
    let (arena, root) = handoff::open(&arena, nonce)?;
    Ok((Incoming::new(Bundle::of(arena, Files::retrieved(files)), root), preserved_at))
}

/// A session has no handover that can be read here.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
#[non_exhaustive]
pub struct NotRetrieved {
    /// Why.
    pub fault: Fault,
    /// The session, which still has everything that it had: for another program, or another try.
    pub session: RetrievedSession,
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
