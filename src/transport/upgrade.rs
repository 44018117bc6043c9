//! Leaving, step by step, whatever the way is: and staying, as before, when a step fails.

use std::collections::BTreeSet;
use std::time::Duration;

use super::decide::{Patience, over_budget};
use super::exec::monotonic_ns;
use super::freeze::{Frozen, Part, caught};
use super::report::{Report, Whose};
use super::{Bundle, Parked, door};
use crate::compat::Terms;
use crate::files::Beside as _;
use crate::handover::{Finished, Outgoing, Unfinished, Verdict};
use crate::manifest::Manifest;
use crate::report::{Code, Fault, Finding, Findings};
use crate::trace::Stopwatch;

/// What a program does to hand itself over: which parts stand still, what is preserved, and how long all of it may take.
/// Made once, and [run](Upgrade::run) whenever it is time; `S` is the program's own, which all its functions work on.
///
/// ```no_run
/// use std::time::Duration;
///
/// use kho::compat::{Compat, CompatList};
/// use kho::payload::Bytes;
/// use kho::transport::{Bundle, Door, Part, Upgrade};
///
/// const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
/// kho::manifest! { static MANIFEST = [both("state", &[STATE])]; }
///
/// struct Service { requests: u64, accepting: bool }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut service = Service { requests: 42, accepting: true };
/// let upgrade = Upgrade::new(&MANIFEST)
///     .part(Part::new("listener")
///         .freeze(|service: &mut Service, _| Ok(service.accepting = false))
///         .unfreeze(|service| service.accepting = true))
///     .preserve(|service: &mut Service, outgoing| {
///         outgoing.preserve("state", &Bytes { made_of: STATE, bytes: &service.requests.to_le_bytes() })
///     })
///     .budget(Duration::from_millis(50));
///
/// let door = Door::bind("/run/service/upgrade")?;
/// let mut bundle = Bundle::new(1 << 30)?;
/// loop {
///     // Serve, until somebody is at the door. An error is about one caller.
///     let Ok(Some(caller)) = door.accept().inspect_err(|fault| eprintln!("{fault}")) else { continue };
///     match upgrade.run(&mut service, bundle, caller) {
///         Ok(left) => return Ok(println!("{}", left.report)),
///         Err(stayed) => {
///             eprintln!("still serving: {stayed}");
///             bundle = stayed.bundle;
///         }
///     }
/// }
/// # }
/// ```
pub struct Upgrade<S> {
    manifest: &'static Manifest,
    parts: Vec<Part<S>>,
    prepare: Step<S>,
    preserve: Step<S>,
    budget: Option<Duration>,
    patience: Patience,
}

type Step<S> = Box<dyn Fn(&mut S, &mut Outgoing<Bundle>) -> Result<(), Fault> + Send + Sync>;

impl<S> std::fmt::Debug for Upgrade<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrade").field("parts", &self.parts).field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// How a handover leaves: [`Exec`](super::Exec), to the [`Caller`](super::Caller) at a door, or in a session of
/// `/dev/liveupdate`.
pub trait Way: Sealed {
    /// What remains of a process that left.
    type Left;

    /// Which files it carries.
    #[doc(hidden)]
    fn route(&self) -> crate::files::Route;

    /// What the successor reads, as far as that can be known.
    ///
    /// # Errors
    /// When it cannot be asked, or would refuse.
    #[doc(hidden)]
    fn meet(&mut self, leaving: &Leaving<'_>) -> Result<Option<Terms>, Fault>;

    /// Sends what may travel while this program serves.
    ///
    /// # Errors
    /// When it does not arrive.
    #[doc(hidden)]
    fn prepare(&mut self, leaving: &Leaving<'_>, bundle: &Bundle) -> Result<(), Fault>;

    /// Tells the successor that nothing comes of it.
    #[doc(hidden)]
    fn refuse(&mut self, fault: &Fault) {
        let _ = fault;
    }

    /// Leaves.
    ///
    /// # Errors
    /// Why this program goes on, and the handover.
    #[doc(hidden)]
    fn deliver(
        self,
        leaving: &Leaving<'_>,
        finished: Finished<Bundle>,
        report: &mut Report,
    ) -> Result<Self::Left, (Fault, Finished<Bundle>)>;
}

/// Ways are these.
#[doc(hidden)]
pub trait Sealed {}

/// What a way is told.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Leaving<'a> {
    pub(super) manifest: &'static Manifest,
    pub(super) patience: &'a Patience,
    pub(super) budget: Option<Duration>,
}

/// Another process serves now. This one has nothing more to do, and must not answer any request: end it, by
/// `std::process::exit` where a destructor would act on something that both have (shut a socket down, unlink a path, free a
/// lock).
#[derive(Debug)]
#[must_use = "this process must end"]
pub struct Left {
    /// What was measured, on both sides.
    pub report: Report,
}

/// The program goes on, as it was before.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {fault}")]
pub struct Stayed {
    /// The step that failed: `hello`, `prepare`, `freeze`, `preserve` or `deliver`.
    pub step: &'static str,
    /// Why.
    pub fault: Fault,
    /// What left before is here again; files that the hooks added are not in it any more.
    pub bundle: Bundle,
    /// What was measured.
    pub report: Report,
}

impl<S> Upgrade<S> {
    /// An upgrade of a program with that manifest, which preserves nothing yet.
    #[must_use]
    pub fn new(manifest: &'static Manifest) -> Self {
        let nothing = || -> Step<S> { Box::new(|_, _| Ok(())) };
        let (prepare, preserve) = (nothing(), nothing());
        Upgrade { manifest, parts: Vec::new(), prepare, preserve, budget: None, patience: Patience::default() }
    }

    /// Adds a part that stands still while the state is preserved.
    #[must_use]
    pub fn part(mut self, part: Part<S>) -> Self {
        self.parts.push(part);
        self
    }

    /// What is preserved while the program serves: files that travel by descriptor, and memory that does not move. It may
    /// still be written to until its part is frozen.
    #[must_use]
    pub fn prepare(
        mut self,
        step: impl Fn(&mut S, &mut Outgoing<Bundle>) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Self {
        self.prepare = Box::new(step);
        self
    }

    /// What is preserved once everything stands still.
    #[must_use]
    pub fn preserve(
        mut self,
        step: impl Fn(&mut S, &mut Outgoing<Bundle>) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Self {
        self.preserve = Box::new(step);
        self
    }

    /// How long the blackout may last, from the first hook that freezes: over it, the handover is given up, as long as that
    /// can be: until exec, where nobody keeps it, and until the successor has taken over. Hooks have limits of their own.
    /// Without it, it may last as long as the [patience](Upgrade::patience) does.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = Some(budget);
        self
    }

    /// How long to wait for the other side.
    #[must_use]
    pub fn patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Hands over, with the memory that the program's blocks are in. Returns when another process serves, or when this one
    /// goes on: then everything that was frozen has been unfrozen, in reverse, and nothing is preserved.
    ///
    /// It works on the thread that calls it, also while it waits for the other side. Until the parts are frozen the other
    /// threads of the program serve; a program of one thread does not serve meanwhile: it should wait until the caller
    /// [is ready](super::Caller::is_ready), and have little [patience](Upgrade::patience) with `hello` and `prepare`, which
    /// take an honest successor a millisecond.
    ///
    /// # Panics
    /// When a hook does. What was frozen is unfrozen first, and the successor does not take over; the memory is dropped with
    /// everything in it, so a program that catches the panic goes on without.
    ///
    /// # Errors
    /// The program goes on: why, with the memory.
    pub fn run<W: Way>(&self, service: &mut S, bundle: Bundle, mut way: W) -> Result<W::Left, Stayed> {
        Report::begin();
        let leaving = Leaving { manifest: self.manifest, patience: &self.patience, budget: self.budget };
        let mut report = Report::default();
        let had: BTreeSet<u64> = bundle.files().iter().map(|(token, _)| token).collect();
        let stay = |step, fault, outgoing: Outgoing<Bundle>, mut report: Report| {
            let mut bundle = outgoing.into_memory();
            let new: Vec<u64> =
                bundle.files().iter().map(|(token, _)| token).filter(|token| !had.contains(token)).collect();
            new.into_iter().for_each(|token| drop(bundle.files_mut().take(token)));
            report.gather(Whose::Predecessor);
            Stayed { step, fault, bundle, report }
        };

        let watch = Stopwatch::start();
        let met = Frozen::check(&self.parts).and_then(|()| way.meet(&leaving));
        let mut outgoing = Outgoing::of(bundle, self.manifest);
        let met = met.and_then(|reads| match reads {
            Some(reads) => judged(&door::refused(&self.manifest.writes(), &reads))
                .and_then(|()| outgoing.write_for(&reads))
                .map(|()| Some(reads)),
            None => Ok(None),
        });
        watch.event("hello", "/");
        let reads = match met {
            Ok(reads) => reads,
            Err(fault) => {
                way.refuse(&fault);
                return Err(stay("hello", fault, outgoing, report));
            }
        };

        let watch = Stopwatch::start();
        let prepared = (self.prepare)(service, &mut outgoing)
            .and_then(|()| carried(outgoing.memory(), &way))
            .and_then(|()| way.prepare(&leaving, outgoing.memory()));
        watch.event("prepare", "/");
        if let Err(fault) = prepared {
            way.refuse(&fault);
            return Err(stay("prepare", fault, outgoing, report));
        }

        // From here on the program stands still.
        report.frozen_at = Some(monotonic_ns());
        let watch = Stopwatch::start();
        let frozen = Frozen::all(&self.parts, service);
        watch.event("freeze", "/");
        let frozen = match frozen {
            Ok(frozen) => frozen,
            Err(fault) => {
                way.refuse(&fault);
                report.ends();
                return Err(stay("freeze", fault, outgoing, report));
            }
        };
        let watch = Stopwatch::start();
        let preserved = match caught(|| (self.preserve)(service, &mut outgoing)) {
            Ok(preserved) => preserved,
            Err(panic) => {
                way.refuse(&Fault::new(Code::Refused).item("preserve").found("a panic"));
                frozen.undo(service);
                std::panic::resume_unwind(panic)
            }
        };
        watch.event("preserve", "/");
        let result = match preserved {
            Err(fault) => {
                way.refuse(&fault);
                Err(("preserve", fault, outgoing))
            }
            Ok(()) => {
                let watch = Stopwatch::start();
                let finished = outgoing.finish();
                watch.event("finish", "/");
                match finished {
                    Err(unfinished) => {
                        way.refuse(&unfinished.fault);
                        Err(("preserve", unfinished.fault, unfinished.outgoing))
                    }
                    Ok(finished) => self.deliver(&leaving, way, reads.as_ref(), finished, &mut report),
                }
            }
        };
        match result {
            Ok(left) => Ok(left),
            Err((step, fault, outgoing)) => {
                frozen.undo(service);
                report.ends();
                Err(stay(step, fault, outgoing, report))
            }
        }
    }

    /// Goes on, where the kernel was not left after all: takes everything back, unfreezes, and gives the memory.
    pub fn resume(&self, service: &mut S, parked: Parked) -> Bundle {
        let outgoing = unfinished(parked.preserved.cancel());
        Frozen::of(&self.parts).undo(service);
        outgoing.into_memory()
    }

    /// The last step; back to how it was before it was finished when it fails.
    #[allow(clippy::type_complexity, reason = "one of two ends")]
    fn deliver<W: Way>(
        &self,
        leaving: &Leaving<'_>,
        mut way: W,
        reads: Option<&Terms>,
        finished: Finished<Bundle>,
        report: &mut Report,
    ) -> Result<W::Left, (&'static str, Fault, Outgoing<Bundle>)> {
        let dark = report.dark();
        let fine = match self.budget.filter(|budget| dark > *budget) {
            Some(budget) => Err(over_budget(dark, budget)),
            None => carried(finished.memory(), &way).and_then(|()| foretold(&finished, reads)),
        };
        let result = match fine {
            Ok(()) => way.deliver(leaving, finished, report),
            Err(fault) => {
                way.refuse(&fault);
                Err((fault, finished))
            }
        };
        result.map_err(|(fault, finished)| {
            let mut outgoing = unfinished(finished.cancel());
            // A successor that did not take over had the memory, and may have used what was free in it.
            outgoing.memory_mut().distrust();
            ("deliver", fault, outgoing)
        })
    }
}

/// The handover as it was before it was finished. An arena that cannot forget where its root was is of no harm: nobody has
/// been told of it, or has it any more.
fn unfinished(cancelled: Result<Outgoing<Bundle>, Unfinished<Bundle>>) -> Outgoing<Bundle> {
    cancelled.unwrap_or_else(|unfinished| unfinished.outgoing)
}

/// Whether this way carries every file.
fn carried(bundle: &Bundle, way: &impl Way) -> Result<(), Fault> {
    bundle.files().refused_by(way.route()).into_iter().next().map_or(Ok(()), Err)
}

/// Whether the successor would refuse the versions in what was written.
fn foretold(finished: &Finished<Bundle>, reads: Option<&Terms>) -> Result<(), Fault> {
    let Some(reads) = reads else { return Ok(()) };
    let forecast = finished.forecast(reads)?;
    match forecast.verdict() {
        Verdict::Refused => Err(Fault::new(Code::Refused).item("successor").found(&forecast)),
        _ => Ok(()),
    }
}

/// All that was found, as one fault; the fault itself where there is one.
fn judged(findings: &Findings) -> Result<(), Fault> {
    match findings.kept() {
        [] => Ok(()),
        [Finding { node, fault }] => Err(fault.clone().within(node)),
        _ => Err(Fault::new(Code::Refused).item("successor").found(findings)),
    }
}
