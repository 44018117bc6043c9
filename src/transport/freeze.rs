//! Parts of a program that stand still while it is handed over: who waits for whom, and the way back.

use std::time::{Duration, Instant};

use crate::report::{Code, Fault};
use crate::trace::Stopwatch;

/// Freezes a part, until that time.
type Freeze<S> = Box<dyn Fn(&mut S, Instant) -> Result<(), String> + Send + Sync>;
type Unfreeze<S> = Box<dyn Fn(&mut S) + Send + Sync>;

/// A part of a program that must stand still while its state is preserved: a listener, workers, a device.
///
/// ```
/// use std::time::Duration;
///
/// use kho::transport::Part;
///
/// struct Service { accepting: bool, workers: usize }
///
/// let listener = Part::new("listener")
///     .freeze(|service: &mut Service, _| Ok(service.accepting = false))
///     .unfreeze(|service| service.accepting = true);
/// let workers = Part::new("workers")
///     .after(&["listener"])
///     .within(Duration::from_millis(20))
///     .freeze(|service: &mut Service, until| match service.workers {
///         0 => Ok(()),
///         busy => Err(format!("{busy} workers are busy, until {until:?}")),
///     });
/// # drop((listener, workers));
/// ```
pub struct Part<S> {
    name: String,
    after: Vec<String>,
    within: Duration,
    freeze: Freeze<S>,
    unfreeze: Unfreeze<S>,
}

impl<S> std::fmt::Debug for Part<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("name", &self.name).field("after", &self.after).finish_non_exhaustive()
    }
}

impl<S> Part<S> {
    /// A part that does nothing yet, and may take a second for it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Part {
            name: name.to_owned(),
            after: Vec::new(),
            within: Duration::from_secs(1),
            freeze: Box::new(|_, _| Ok(())),
            unfreeze: Box::new(|_| ()),
        }
    }

    /// It is frozen after those, and unfrozen before them.
    #[must_use]
    pub fn after(mut self, names: &[&str]) -> Self {
        self.after.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// How long freezing may take. The hook is told until when; one that comes back later fails like one that says so. What
    /// a hook waits for it must wait for with that limit: one that never comes back cannot be stopped from here.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// Brings it to a standstill, until that time, or says why it cannot.
    #[must_use]
    pub fn freeze(mut self, hook: impl Fn(&mut S, Instant) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.freeze = Box::new(hook);
        self
    }

    /// Lets it go on. It is called also after a freeze that failed, was late or panicked, and must undo whatever that did.
    #[must_use]
    pub fn unfreeze(mut self, hook: impl Fn(&mut S) + Send + Sync + 'static) -> Self {
        self.unfreeze = Box::new(hook);
        self
    }
}

/// The order in which parts are frozen: as they were added, and each behind those that it waits for.
///
/// # Errors
/// [`Code::FreezeOrder`] when there is none.
fn order<S>(parts: &[Part<S>]) -> Result<Vec<&Part<S>>, Fault> {
    let mut order: Vec<&Part<S>> = Vec::new();
    let mut left: Vec<&Part<S>> = parts.iter().collect();
    while !left.is_empty() {
        let placed = |name: &String| order.iter().any(|part| part.name == *name);
        let Some(next) = left.iter().position(|part| part.after.iter().all(placed)) else {
            let names = |parts: &[&Part<S>]| parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join(", ");
            let missing = left.iter().flat_map(|part| &part.after);
            let missing = missing.into_iter().find(|name| parts.iter().all(|part| part.name != **name));
            let fault = Fault::new(Code::FreezeOrder).item(names(&left));
            return Err(match missing {
                Some(name) => fault.found(format_args!("{name}, which is no part")),
                None => fault.found("parts that wait for each other"),
            });
        };
        order.push(left.remove(next));
    }
    Ok(order)
}

/// What is frozen, the last one last.
pub(super) struct Frozen<'a, S> {
    parts: Vec<&'a Part<S>>,
}

impl<'a, S> Frozen<'a, S> {
    /// That there is an order. Before anything else happens.
    pub(super) fn check(parts: &[Part<S>]) -> Result<(), Fault> {
        order(parts).map(drop)
    }

    /// All of them, which are frozen. Parts without an order never were.
    pub(super) fn of(parts: &'a [Part<S>]) -> Self {
        Frozen { parts: order(parts).unwrap_or_default() }
    }

    /// Freezes all, or none.
    pub(super) fn all(parts: &'a [Part<S>], service: &mut S) -> Result<Self, Fault> {
        let mut frozen = Frozen { parts: Vec::new() };
        for part in order(parts)? {
            let (watch, start) = (Stopwatch::start(), Instant::now());
            let until = start.checked_add(part.within).unwrap_or(start);
            frozen.parts.push(part);
            let result = caught(|| (part.freeze)(service, until)).unwrap_or_else(|panic| {
                Frozen { parts: std::mem::take(&mut frozen.parts) }.undo(service);
                std::panic::resume_unwind(panic)
            });
            watch.event("freeze", &part.name);
            let took = start.elapsed();
            let fault = match result {
                Err(why) => Fault::new(Code::Freeze).item(part.name.clone()).found(why),
                Ok(()) if took > part.within => Fault::new(Code::Late)
                    .item(part.name.clone())
                    .found(format_args!("{took:.1?} to freeze"))
                    .expected(format_args!("at most {:?}", part.within)),
                Ok(()) => continue,
            };
            frozen.undo(service);
            return Err(fault);
        }
        Ok(frozen)
    }

    /// Lets all go on, the last one first; also when one of them panics, and then that panic goes on.
    pub(super) fn undo(self, service: &mut S) {
        let mut first = None;
        for part in self.parts.into_iter().rev() {
            let watch = Stopwatch::start();
            if let Err(panic) = caught(|| (part.unfreeze)(service)) {
                first.get_or_insert(panic);
            }
            watch.event("unfreeze", &part.name);
        }
        if let Some(panic) = first {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Runs a hook of the program. Whoever gets its panic lets it go on: so nobody sees what it left half done, but for hooks
/// that unfreeze, and they are told so.
pub(super) fn caught<T>(hook: impl FnOnce() -> T) -> std::thread::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(hook))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Log = Vec<String>;

    fn part(name: &'static str, after: &[&str]) -> Part<Log> {
        Part::new(name)
            .after(after)
            .freeze(move |log: &mut Log, _| {
                log.push(format!("+{name}"));
                Ok(())
            })
            .unfreeze(move |log| log.push(format!("-{name}")))
    }

    #[test]
    fn each_is_frozen_after_those_it_needs_and_unfrozen_before_them() {
        let parts =
            [part("disk", &["vcpus", "net"]), part("net", &["vcpus"]), part("vcpus", &[]), part("log", &["disk"])];
        let mut log = Log::new();
        Frozen::all(&parts, &mut log).unwrap().undo(&mut log);
        assert_eq!(log.join(" "), "+vcpus +net +disk +log -log -disk -net -vcpus");
        // So does who was frozen by somebody else, and goes on.
        let mut log = Log::new();
        Frozen::of(&parts).undo(&mut log);
        assert_eq!(log.join(" "), "-log -disk -net -vcpus");
    }

    #[test]
    fn one_that_fails_or_is_late_undoes_all_itself_too() {
        let refuses = part("b", &["a"]).freeze(|log: &mut Log, _| {
            log.push("+b".into());
            Err("a device is busy".into())
        });
        let mut log = Log::new();
        let fault = Frozen::all(&[part("a", &[]), refuses, part("c", &[])], &mut log).err().unwrap();
        assert_eq!(fault.to_string(), "freeze: b: a device is busy");
        assert_eq!(log.join(" "), "+a +b -b -a");

        let late = part("b", &["a"]).within(Duration::from_millis(1)).freeze(|_, until| {
            while Instant::now() <= until {
                std::thread::yield_now();
            }
            Ok(())
        });
        let mut log = Log::new();
        let fault = Frozen::all(&[part("a", &[]), late], &mut log).err().unwrap();
        assert_eq!((fault.code(), fault.expected_text()), (Code::Late, "at most 1ms"));
        assert_eq!(log.join(" "), "+a -b -a");
    }

    #[test]
    fn an_order_that_cannot_be_is_told_before_anything_is_frozen() {
        let says = |parts: &[Part<Log>]| {
            let mut log = Log::new();
            let fault = Frozen::all(parts, &mut log).err().unwrap();
            assert!(log.is_empty());
            assert_eq!(Frozen::check(parts).unwrap_err(), fault);
            fault.to_string()
        };
        let circle = [part("a", &["b"]), part("b", &["a"]), part("c", &[])];
        assert_eq!(says(&circle), "freeze-order: a, b: parts that wait for each other");
        assert_eq!(says(&[part("a", &["a"])]), "freeze-order: a: parts that wait for each other");
        assert_eq!(says(&[part("a", &["x"])]), "freeze-order: a: x, which is no part");
    }

    #[test]
    fn a_hook_that_panics_undoes_all_and_goes_on_panicking() {
        let panics = part("b", &["a"]).freeze(|log: &mut Log, _| {
            log.push("+b".into());
            panic!("a bug")
        });
        let mut log = Log::new();
        let parts = [part("a", &[]), panics, part("c", &["b"])];
        let panic = caught(|| Frozen::all(&parts, &mut log).map(drop)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"a bug"));
        assert_eq!(log.join(" "), "+a +b -b -a");

        let parts = [part("a", &[]), part("b", &["a"]).unfreeze(|_| panic!("another bug")), part("c", &["b"])];
        let mut log = Log::new();
        let frozen = Frozen::all(&parts, &mut log).unwrap();
        let panic = caught(|| frozen.undo(&mut log)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"another bug"));
        assert_eq!(log.join(" "), "+a +b +c -c -a");
    }
}
