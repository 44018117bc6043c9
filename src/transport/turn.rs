//! The successor's turn: to take over, or to refuse.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::commit::Word;
use super::decide::{self, Decided, Opposite};
use super::handoff::WayBack;
use super::line::REFUSED;
use super::report::{Report, Whose};
use super::socket::Wait;
use super::{Bundle, ExecError, session};
use crate::handover::Incoming;
use crate::liveupdate::RetrievedSession;
use crate::report::{Code, Fault};

/// Whether a handover is this process's own: before that nothing of it may be freed, because another process may go on
/// with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours(Arc<AtomicBool>);

impl Ours {
    /// That it is.
    ///
    /// # Errors
    /// [`Code::Refused`] when it is not yet.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.0.load(Ordering::SeqCst) {
            return Ok(());
        }
        let fault = Fault::new(Code::Refused).item("handover").found("one that the predecessor may still go on with");
        Err(fault.expected("Turn::take before it"))
    }

    fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Who may still go on instead of this process.
#[derive(Debug)]
pub(super) enum Before {
    /// Nobody: the predecessor is gone, by exec.
    Nobody(Option<WayBack>),
    /// A process, the predecessor itself or its keeper.
    Process { opposite: Box<Opposite>, patience: Duration, keeper: bool },
    /// Nobody: the kernel was left. The session has everything until it is finished; `since` is CLOCK_REALTIME.
    Session { session: Box<RetrievedSession>, since: u64 },
}

/// What a successor does once with a handover that came: [`take`](Turn::take) over, or [`refuse`](Turn::refuse).
///
/// Until then the predecessor, or its [keeper](super::Keeper), may go on with the same handover: so nothing of it is
/// changed, and no request is answered. Its memory refuses to allocate and to write till then, and
/// [`Restored::finish`](crate::handover::Restored::finish) refuses, too. Dropped, it is a refusal.
///
/// Descriptors are the predecessor's own open files: do not read, write, seek, accept, change flags or epolls with them
/// before. Mapping and looking is fine.
#[derive(Debug)]
#[must_use = "a turn that is dropped is a refusal"]
pub struct Turn {
    /// None once it is taken or refused.
    before: Option<Before>,
    ours: Ours,
    report: Report,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(Before::Process { opposite, .. }) = &self.before {
            let why = if std::thread::panicking() { "it panicked" } else { "it gave up before it had taken over" };
            // One that does not listen finds this process gone, or the line closed.
            let _ = opposite.line.say(REFUSED, &[why.as_bytes()], Wait::Never);
        }
    }
}

impl Turn {
    pub(super) const fn new(before: Before, ours: Ours, report: Report) -> Self {
        Turn { before: Some(before), ours, report }
    }

    /// Takes over. Everything is restored before; from here on this process serves, and no other one. What can fail comes
    /// before this call: behind it nobody goes on instead.
    ///
    /// The predecessor is told that all is accepted, and says whether it is in time. Where it died, or is silent, this
    /// process takes over too: exactly one goes on. A session is finished.
    ///
    /// # Errors
    /// [`Code::PeerServes`]: the predecessor goes on, with what it said of it. Drop everything and end, without having
    /// changed anything; the same for any other fault (a baton that cannot be read): this process must not serve.
    /// [`Code::Io`]: the kernel does not finish the session, which stays open until this process ends.
    pub fn take(mut self) -> Result<Report, Fault> {
        self.report.gather(Whose::Successor);
        match self.before.take() {
            None | Some(Before::Nobody(_)) => self.report.ends(),
            Some(Before::Session { session, since }) => {
                session.finish().map_err(|(_, refused)| Fault::new(Code::Io).item("session").found(refused))?;
                self.report.blackout = Some(session::now().saturating_sub(since));
            }
            Some(Before::Process { opposite, patience, keeper }) => {
                match decide::successor(&opposite, patience, &self.report)? {
                    Decided::Ours(_) => {
                        self.report.ends();
                        decide::tell(&opposite.line, Word::Committed, &self.report.to_text(Whose::Successor));
                    }
                    Decided::Theirs(fault) => return Err(fault),
                }
                if keeper {
                    super::keeper::reap(opposite.process);
                }
            }
        }
        self.ours.set();
        Ok(std::mem::take(&mut self.report))
    }

    /// Refuses, and says why: the predecessor goes on with the handover, which must be as it came.
    ///
    /// A predecessor that lives, or its keeper, is told, and this process has nothing more to do. Where there is none but a
    /// return [`Ticket`](super::Ticket), the predecessor's program is executed in this process, and this function returns
    /// only when that failed. Behind a kexec there is nobody: see [`Turn::into_session`].
    ///
    /// # Errors
    /// Nobody goes on instead; with the handover.
    pub fn refuse(mut self, incoming: Incoming<Bundle>, reason: &str) -> Result<(), (ExecError, Incoming<Bundle>)> {
        match self.before.take() {
            Some(Before::Nobody(Some(back))) => Err(back.go(incoming, reason)),
            None | Some(Before::Nobody(None) | Before::Session { .. }) => Err((ExecError::NoTicket, incoming)),
            Some(Before::Process { opposite, .. }) => {
                // One that does not listen finds this process gone.
                let _ = opposite.line.say(REFUSED, &[reason.as_bytes()], Wait::for_(Duration::from_secs(1)));
                Ok(())
            }
        }
    }

    /// The way back by exec, if there is one.
    #[must_use]
    pub const fn back(&self) -> Option<&WayBack> {
        match &self.before {
            Some(Before::Nobody(back)) => back.as_ref(),
            _ => None,
        }
    }

    /// The session in which the handover came, which still has everything: for another try, or another program.
    #[must_use]
    pub fn into_session(mut self) -> Option<RetrievedSession> {
        match self.before.take() {
            Some(Before::Session { session, .. }) => Some(*session),
            _ => None,
        }
    }

    /// What is measured so far: the predecessor's times, as it told them.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }
}
