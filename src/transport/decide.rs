//! The [decision](super::commit), with a real line, a real process and a real baton.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::baton::Baton;
use super::commit::{Act, Event, Machine, Side, Word};
use super::line::{ABORT, ACCEPTED, COMMIT, COMMITTED, Happened, Line, REFUSED, name_of};
use super::living;
use super::report::{Report, Whose};
use super::socket::Wait;
use crate::report::{Code, Fault};

/// How long one waits for the other side.
///
/// When a time is over, the predecessor goes on, if the successor has not taken over yet. The other way round, a successor
/// that hears nothing takes over, if the predecessor has not gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the first words of the other side.
    pub hello: Duration,
    /// Until the successor has received what travels while the predecessor serves.
    pub prepare: Duration,
    /// Until the successor has everything restored. The predecessor stands still meanwhile.
    pub accept: Duration,
    /// Until the successor has taken over, once it may. Also how long, and a second at least, a process may be the one that
    /// goes on and not do so (one that was stopped, say): then it is killed, and the other one goes on.
    pub commit: Duration,
}

impl Default for Patience {
    /// 5 s, 10 s, 30 s and 5 s.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Patience { hello: seconds(5), prepare: seconds(10), accept: seconds(30), commit: seconds(5) }
    }
}

/// The other side, while it is not decided who goes on.
#[derive(Debug)]
pub(super) struct Opposite {
    pub(super) line: Line,
    /// A pidfd.
    pub(super) process: OwnedFd,
    /// That this is the process is not only its own word: so it may be killed.
    pub(super) known: bool,
    pub(super) baton: Baton,
}

/// Who goes on.
#[derive(Debug)]
pub(super) enum Decided {
    /// This side. The baton is marked. Why, as far as it is a predecessor's.
    Ours(Fault),
    /// The other one; what it said of it, as far as it is a successor that hears that.
    Theirs(Fault),
}

/// While the other side has the baton and does not serve yet, one looks again so often.
const BRIEFLY: Duration = Duration::from_millis(2);
/// Nobody is killed sooner.
const GRACE: Duration = Duration::from_secs(1);
/// What is said when all is decided is said at once, or not.
const LAST_WORD: Duration = Duration::from_millis(100);

/// The predecessor's half, or its keeper's, from the moment when everything is delivered.
///
/// # Errors
/// When the baton cannot be read: it is not decided then, and nobody may serve who has not before.
pub(super) fn predecessor(
    opposite: &Opposite,
    patience: &Patience,
    budget: Option<Duration>,
    report: &mut Report,
) -> Result<Decided, Fault> {
    let mut machine = Machine::new(Side::Predecessor);
    let first = within(patience.accept, budget, report);
    let mut until = later(first);
    let mut why = silent(first, phase(false));
    let mut accepted = false;
    run(opposite, &mut machine, &mut until, |machine, event| match event {
        Happened::Said(message) => match message.kind {
            ACCEPTED if accepted => {
                why = Fault::new(Code::ParcelMessage).item("kind").found("accepted, again").expected("committed");
                (Event::Heard(Word::Accepted), patience.commit)
            }
            ACCEPTED => {
                report.replace_text(Whose::Successor, &message.whole());
                let dark = report.dark();
                if let Some(budget) = budget.filter(|budget| dark > *budget) {
                    machine.within(false);
                    why = over_budget(dark, budget);
                } else {
                    accepted = true;
                    why = silent(patience.commit, phase(true));
                }
                (Event::Heard(Word::Accepted), within(patience.commit, budget, report))
            }
            COMMITTED => {
                report.replace_text(Whose::Successor, &message.whole());
                why = Fault::new(Code::ParcelMessage).item("committed").found("a lie: it has not");
                (Event::Heard(Word::Committed), patience.commit)
            }
            REFUSED => {
                why = Fault::new(Code::Refused).item("successor").found(message.said());
                (Event::Heard(Word::Refused), patience.commit)
            }
            other => {
                why = Fault::new(Code::ParcelMessage).item("kind").found(name_of(other)).expected(phase(accepted));
                (Event::Heard(Word::Abort), patience.commit)
            }
        },
        Happened::Closed => {
            why = Fault::new(Code::PeerClosed).found("the end of the connection").expected(phase(accepted));
            (Event::Closed, patience.commit)
        }
        Happened::Dead => {
            why = Fault::new(Code::PeerClosed).found("a process that has ended").expected(phase(accepted));
            (Event::Dead, patience.commit)
        }
        Happened::Late => {
            let dark = report.dark();
            if let Some(budget) = budget.filter(|budget| dark > *budget) {
                why = over_budget(dark, budget);
            }
            (Event::Late, patience.commit)
        }
    })
    .map(|ours| if ours { Decided::Ours(why.clone()) } else { Decided::Theirs(why.clone()) })
}

fn phase(accepted: bool) -> &'static str {
    if accepted { "committed" } else { "accepted" }
}

/// Nothing was said in that time.
fn silent(time: Duration, expected: &str) -> Fault {
    Fault::new(Code::Late).found(format_args!("nothing within {time:.1?}")).expected(expected)
}

/// That time, or less where the blackout would be longer than it may be.
pub(super) fn within(time: Duration, budget: Option<Duration>, report: &Report) -> Duration {
    // One look more than the budget, which is then exceeded.
    let left = |budget: Duration| budget.saturating_sub(report.dark()).saturating_add(Duration::from_micros(100));
    budget.map_or(time, |budget| left(budget).min(time))
}

pub(super) fn over_budget(dark: Duration, budget: Duration) -> Fault {
    Fault::new(Code::Budget)
        .item("blackout")
        .found(format_args!("{dark:.1?}"))
        .expected(format_args!("at most {budget:?}"))
}

/// The successor's half, once everything is restored.
///
/// # Errors
/// As [`predecessor`].
pub(super) fn successor(opposite: &Opposite, patience: Duration, report: &Report) -> Result<Decided, Fault> {
    let mut machine = Machine::new(Side::Successor);
    let mut until = later(patience);
    let text = report.to_text(Whose::Successor);
    // One that cannot be told is found to be gone below.
    let _ = opposite.line.say(ACCEPTED, &[text.as_bytes()], Wait::for_(patience));
    let mut why = Fault::new(Code::PeerServes).item("predecessor").found("a process that goes on");
    let ours = run(opposite, &mut machine, &mut until, |_, event| {
        let event = match event {
            Happened::Said(message) if message.kind == COMMIT => Event::Heard(Word::Commit),
            Happened::Said(message) => {
                why = Fault::new(Code::PeerServes).item("predecessor").found(message.said());
                Event::Heard(Word::Abort)
            }
            Happened::Closed => Event::Closed,
            Happened::Dead => Event::Dead,
            Happened::Late => Event::Late,
        };
        (event, patience)
    })?;
    Ok(if ours { Decided::Ours(why) } else { Decided::Theirs(why) })
}

/// Runs the machine to its end; whether this side goes on. `hear` says what an event means, and how long to wait for the
/// next one when something is said in answer.
fn run(
    opposite: &Opposite,
    machine: &mut Machine,
    until: &mut Instant,
    mut hear: impl FnMut(&mut Machine, Happened) -> (Event, Duration),
) -> Result<bool, Fault> {
    let Opposite { line, process, baton, .. } = opposite;
    let mut between = None;
    loop {
        let (event, patience) = hear(machine, line.next(Some(process.as_fd()), *until));
        let mut act = machine.on(event);
        if act == Act::Reach {
            act = machine.on(Event::Reached(baton.reach()?));
        }
        match act {
            // A reach has told one of the others.
            Act::Reach => {}
            Act::WaitBriefly => {
                // A closed line would wake us at once, again and again.
                std::thread::sleep(BRIEFLY);
                *until = later(BRIEFLY);
                if between.get_or_insert_with(Instant::now).elapsed() > patience.max(GRACE) {
                    end_between(opposite);
                    between = None;
                }
            }
            Act::Say(word) => {
                let _ = line.say(kind(word), &[], Wait::for_(LAST_WORD));
                *until = later(patience);
            }
            Act::Serve(_) => {
                baton.mark()?;
                return Ok(true);
            }
            Act::Yield => return Ok(false),
        }
    }
}

/// Ends a process that took the baton and does not mark it: there is one step between, so it was stopped there, or means
/// to. Dead, it never served. One that marked it meanwhile goes on.
fn end_between(opposite: &Opposite) {
    let Opposite { process, baton, known: true, .. } = opposite else { return };
    // One that may not be stopped may not be killed either: then there is nothing but to wait.
    if rustix::process::pidfd_send_signal(process, Signal::STOP).is_err() {
        return;
    }
    // It stops when it comes back from the kernel.
    std::thread::sleep(Duration::from_millis(20));
    if baton.is_full() {
        let _ = rustix::process::pidfd_send_signal(process, Signal::CONT);
    } else {
        living::end(process.as_fd());
    }
}

/// The last word of who has the baton: nothing depends on it.
pub(super) fn tell(line: &Line, word: Word, text: &str) {
    let _ = line.say(kind(word), &[text.as_bytes()], Wait::for_(LAST_WORD));
}

/// What was to be delivered was not, as far as that is known: takes the baton back. False when the other side goes on.
pub(super) fn take_back(opposite: &Opposite, patience: &Patience) -> Result<bool, Fault> {
    let mut machine = Machine::new(Side::Predecessor);
    let mut until = Instant::now();
    run(opposite, &mut machine, &mut until, |_, event| {
        let event = match event {
            // Whatever it was: it is not to commit.
            Happened::Said(_) => Event::Heard(Word::Refused),
            Happened::Closed => Event::Closed,
            Happened::Dead => Event::Dead,
            Happened::Late => Event::Late,
        };
        (event, patience.commit)
    })
}

const fn kind(word: Word) -> u32 {
    match word {
        Word::Accepted => ACCEPTED,
        Word::Refused => REFUSED,
        Word::Commit => COMMIT,
        Word::Committed => COMMITTED,
        Word::Abort => ABORT,
    }
}

fn later(time: Duration) -> Instant {
    match Wait::for_(time) {
        Wait::Until(end) => end,
        Wait::Never => Instant::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags};

    /// A baton that was delivered to a process which has ended, or to one that lives, with the other end of its line.
    fn delivered(ended: bool) -> (Opposite, OwnedFd, Baton, Ended) {
        let (line, other) = Line::pair().unwrap();
        let baton = Baton::new().unwrap();
        let theirs = Baton::of(baton.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mut child = std::process::Command::new("sleep").arg(if ended { "0" } else { "60" }).spawn().unwrap();
        let process = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        if ended {
            child.wait().unwrap();
        }
        (Opposite { line, process, known: true, baton }, other, theirs, Ended(child))
    }

    /// A child that does not outlive the test.
    struct Ended(std::process::Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn back(opposite: &Opposite) -> bool {
        let patience = Patience { commit: Duration::from_millis(10), ..Patience::default() };
        take_back(opposite, &patience).unwrap()
    }

    #[test]
    fn what_could_not_be_delivered_is_taken_back_unless_the_other_side_serves() {
        let (opposite, _line, theirs, _child) = delivered(true);
        assert!(back(&opposite));
        assert_eq!(theirs.reach().unwrap(), super::super::baton::Reach::Theirs);

        let (opposite, _line, theirs, _child) = delivered(true);
        theirs.reach().unwrap();
        theirs.mark().unwrap();
        assert!(!back(&opposite));
    }

    #[test]
    fn it_is_taken_back_from_one_that_died_between_taking_and_serving() {
        let (opposite, line, theirs, _child) = delivered(true);
        theirs.reach().unwrap();
        drop(line);
        assert!(back(&opposite), "nobody would serve");
    }

    #[test]
    fn one_that_stalls_between_is_ended_and_one_that_marked_it_is_not() {
        let (opposite, _line, theirs, _child) = delivered(false);
        theirs.reach().unwrap();
        assert!(back(&opposite));
        assert!(has_ended(&opposite), "it may serve yet");

        let (opposite, _line, theirs, _child) = delivered(false);
        theirs.reach().unwrap();
        theirs.mark().unwrap();
        end_between(&opposite);
        assert!(!has_ended(&opposite));
    }

    #[test]
    fn one_that_is_only_said_to_be_the_other_side_is_not_ended() {
        let (mut opposite, _line, theirs, _child) = delivered(false);
        opposite.known = false;
        theirs.reach().unwrap();
        end_between(&opposite);
        assert!(!has_ended(&opposite));
    }

    fn has_ended(opposite: &Opposite) -> bool {
        super::super::line::has_ended(opposite.process.as_fd(), Duration::ZERO)
    }
}
