//! The predecessor's half of an upgrade to a process that lives beside it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use rustix::process::Signal;
use zerocopy::IntoBytes as _;

use super::baton::Baton;
use super::commit::Word;
use super::decide::{self, Decided, Opposite};
use super::door::{Caller, own_process};
use super::exec::monotonic_ns;
use super::line::{self, HELLO, Hello, Line, PREPARE, PREPARED, REFUSED};
use super::parcel::Other;
use super::report::{Report, Whose};
use super::socket::{self, SendError, Wait};
use super::upgrade::{Leaving, Left, Sealed, Way};
use super::{Bundle, Cargo};
use crate::compat::Terms;
use crate::files::{Beside as _, Route};
use crate::handover::Finished;
use crate::manifest::Found;
use crate::report::{Code, Fault};

impl Sealed for Caller {}

impl Way for Caller {
    type Left = Left;

    fn route(&self) -> Route {
        Route::Socket
    }

    fn meet(&mut self, leaving: &Leaving<'_>) -> Result<Option<Terms>, Fault> {
        let wait = Wait::for_(leaving.patience.hello);
        let hello = Hello::new();
        let text = self.line.expect(HELLO, wait)?;
        let (_, note) = Hello::read(&text).inspect_err(|fault| self.tell(fault))?;
        let told = self.line.take_process(wait)?;
        let known = self.process.is_some();
        self.process.get_or_insert(told);
        self.known = known;
        let found = Found::parse(note).map_err(|fault| fault.within("hello")).inspect_err(|fault| self.tell(fault))?;
        // Both find what does not fit, and say it in the same words.
        self.line.say(HELLO, &[hello.as_bytes(), leaving.manifest.note()], wait)?;
        Ok(Some(found.reads))
    }

    fn prepare(&mut self, leaving: &Leaving<'_>, bundle: &Bundle) -> Result<(), Fault> {
        let wait = Wait::for_(leaving.patience.prepare);
        let files: Vec<(u64, BorrowedFd<'_>)> = bundle.files().iter().collect();
        socket::send_files(self.line.as_fd(), &files, wait).map_err(|error| self.line.why(unsent(error)))?;
        self.early = files.iter().map(|(token, _)| *token).collect();
        self.line.say(PREPARE, &[], wait).map_err(|fault| self.line.why(fault))?;
        self.line.expect(PREPARED, wait).map(drop)
    }

    fn refuse(&mut self, fault: &Fault) {
        self.tell(fault);
    }

    fn deliver(
        self,
        leaving: &Leaving<'_>,
        finished: Finished<Bundle>,
        report: &mut Report,
    ) -> Result<Left, (Fault, Finished<Bundle>)> {
        let watch = crate::trace::Stopwatch::start();
        let (baton, process) = match Baton::new().and_then(|baton| Ok((baton, own_process()?))) {
            Ok(made) => made,
            Err(fault) => return Err((fault, finished)),
        };
        let text = report.so_far();
        let other = Other { baton: baton.as_fd(), process: process.as_fd(), line: None };
        let time = decide::within(leaving.patience.accept, leaving.budget, report);
        let sent = send(&self.line, finished.memory(), &self.early, other, &text, Wait::for_(time));
        watch.event("deliver", "/");
        let Caller { line, process: Some(process), known, busy: _busy, .. } = self else {
            return Err((Fault::new(Code::PeerClosed).item("process").found("a process that is not known"), finished));
        };
        let opposite = Opposite { line, process, known, baton };
        if let Err(fault) = sent {
            let fault = opposite.line.why(fault);
            // What was sent may be whole all the same: the baton decides.
            return match decide::take_back(&opposite, leaving.patience) {
                Ok(true) => {
                    decide::tell(&opposite.line, Word::Abort, &fault.to_string());
                    Err((fault, finished))
                }
                Ok(false) | Err(_) => left(report),
            };
        }
        let watch = crate::trace::Stopwatch::start();
        let decided = decide::predecessor(&opposite, leaving.patience, leaving.budget, report);
        watch.event("accept", "/");
        match decided {
            Ok(Decided::Ours(fault)) => {
                decide::tell(&opposite.line, Word::Abort, &fault.to_string());
                Err((fault, finished))
            }
            // A baton that cannot be read any more may be theirs.
            Ok(Decided::Theirs(_)) | Err(_) => left(report),
        }
    }
}

fn left<E>(report: &mut Report) -> Result<Left, E> {
    report.ends();
    report.gather(Whose::Predecessor);
    Ok(Left { report: std::mem::take(report) })
}

impl Caller {
    fn tell(&self, fault: &Fault) {
        let _ = self.line.say(REFUSED, &[fault.to_string().as_bytes()], Wait::Never);
    }
}

/// The parcel, without the files that were sent before.
pub(super) fn send(
    line: &Line,
    bundle: &Bundle,
    early: &BTreeSet<u64>,
    other: Other<BorrowedFd<'_>>,
    report: &str,
    wait: Wait,
) -> Result<(), Fault> {
    let mut cargo = Cargo::new(bundle.arena().nonce(), bundle.arena().fd());
    cargo.extend(bundle.files().iter().filter(|(token, _)| !early.contains(token)));
    (cargo.other, cargo.report) = (Some(other), Some(report));
    socket::send(line.as_fd(), &cargo, wait)
        .and_then(|()| socket::finish(line.as_fd(), monotonic_ns(), wait))
        .map_err(unsent)
}

fn unsent(SendError { what, errno }: SendError) -> Fault {
    use rustix::io::Errno;
    let code = match errno {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Code::PeerClosed,
        Errno::AGAIN => Code::Late,
        _ => Code::Io,
    };
    Fault::new(code).item(what).found(errno)
}

/// Ends a process that does not matter any more, and waits until it has.
pub(super) fn end(process: BorrowedFd<'_>) {
    let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
    let _ = line::has_ended(process, Duration::from_secs(5));
}
