//! The states of a small virtual machine through their versions, held by `tests/states`: what was saved once is restored
//! by today's code, and a change that would break it is refused.
//!
//! After a change that is a new version: `KHO_BLESS=1 cargo test -p kho --test states`.
#![cfg(all(feature = "derive", feature = "std"))]

use std::collections::{BTreeMap, HashMap};

use kho::state::lock::{Lock, of_code};
use kho::state::{Error, State};

/// A virtual processor. Version 1 had one timer; version 2 came with `tsc`, and version 3 with any number of timers.
#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 701, version = 3, after_restore = Self::check)]
#[state(deprecated(name = "timer", ty = u64, until = 3, after = "regs", write = Self::first, read = Self::read))]
struct Vcpu {
    apic: u32,
    regs: [u64; 6],
    #[state(since = 3, default)]
    timers: Vec<Timer>,
    #[state(since = 2, default = 1_000_000)]
    tsc: u64,
    mode: Mode,
    #[state(default, when = |mode| matches!(mode, Mode::Halted { .. }))]
    pending: Vec<u8>,
    #[state(subsection = required)]
    lapic: Option<Lapic>,
    #[state(subsection = ignorable)]
    statistics: Option<Statistics>,
}

/// A timer. Version 2 came with `slack`.
#[derive(State, Clone, Debug, PartialEq, Default)]
#[state(id = 702, version = 2)]
struct Timer {
    deadline: u64,
    #[state(since = 2, default)]
    slack: i32,
}

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 703, version = 2)]
enum Mode {
    #[state(tag = 1)]
    Running,
    #[state(tag = 2)]
    Halted { since: u64 },
    #[state(tag = 3, since = 2)]
    Migrating(u32),
}

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 704, version = 1)]
struct Lapic {
    #[state(plain)]
    registers: Vec<u32>,
    timer: Option<Timer>,
}

#[derive(State, Clone, Debug, PartialEq, Default)]
#[state(id = 705, version = 1, ignorable)]
struct Statistics {
    exits: HashMap<String, u64>,
}

/// What a guest has attached. Version 2 came with shared memory.
#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 706, version = 2)]
enum Device {
    #[state(tag = 1)]
    Disk { path: String, sectors: u64, flags: BTreeMap<u16, bool> },
    #[state(tag = 2)]
    Net { mac: [u8; 6] },
    #[state(tag = 3, since = 2)]
    Shared { name: String },
}

impl Vcpu {
    fn sample() -> Vcpu {
        Vcpu {
            apic: 3,
            regs: [1, 2, 3, u64::MAX, 0, 1 << 40],
            timers: vec![Timer { deadline: 77, slack: -5 }, Timer { deadline: 99, slack: 0 }],
            tsc: 123_456_789,
            mode: Mode::Halted { since: 42 },
            pending: vec![32, 14, 255],
            lapic: Some(Lapic { registers: vec![0, 7, 9], timer: Some(Timer { deadline: 5, slack: 1 }) }),
            statistics: Some(Statistics {
                exits: ["hlt", "io", "mmio", "msr", "irq"].into_iter().zip(1..).map(|(k, v)| (k.into(), v)).collect(),
            }),
        }
    }

    fn first(&self) -> u64 {
        self.timers.first().map_or(0, |timer| timer.deadline)
    }

    fn read(&mut self, deadline: u64) {
        self.timers = vec![Timer { deadline, slack: 0 }];
    }

    fn check(&mut self, _version: u32) -> Result<(), Error> {
        if self.apic < 255 { Ok(()) } else { Err(Error::refused(self.apic, "an id of the old kind")) }
    }

    /// What each version could say of the sample.
    fn is_as_it_was(&self, version: u32) {
        let expected = match version {
            1 => Vcpu { tsc: 1_000_000, timers: vec![Timer { deadline: 77, slack: 0 }], ..Vcpu::sample() },
            2 => Vcpu { timers: vec![Timer { deadline: 77, slack: 0 }], ..Vcpu::sample() },
            _ => Vcpu::sample(),
        };
        assert_eq!(*self, expected, "version {version}");
    }
}

impl Device {
    fn sample() -> Device {
        Device::Disk { path: "/dev/vda".into(), sectors: 1 << 21, flags: BTreeMap::from([(1, true), (9, false)]) }
    }
}

kho::state_tests! {
    folder: "tests/states",
    Vcpu = Vcpu::sample() => Vcpu::is_as_it_was,
    Timer = Timer { deadline: 5, slack: 6 }
        => |timer, version| assert_eq!((timer.deadline, timer.slack), (5, if version == 1 { 0 } else { 6 })),
    Device = Device::sample() => |device, _| assert_eq!(*device, Device::sample()),
}

/// What this lock, once published, says of code with other states.
fn told(code: &'static kho::state::Shape) -> Vec<String> {
    let mut lock = Lock::parse(include_str!("states/state.lock")).unwrap();
    lock.publish("vmm 1.0");
    let complaints = lock.check(&of_code([code]).unwrap());
    let name = code.name();
    complaints
        .iter()
        .map(ToString::to_string)
        .filter(|text| text.contains(name) && !text.contains("no such state"))
        .collect()
}

mod bad {
    use super::{Lapic, Mode, State, Statistics};

    /// As `Vcpu`, by somebody who forgot what a version is.
    #[derive(State)]
    #[state(id = 701, version = 3)]
    pub(super) struct Vcpu {
        apic: u64,
        regs: [u64; 6],
        #[state(since = 2, default)]
        tsc: u64,
        mode: Mode,
        #[state(default, when = |mode| matches!(mode, Mode::Halted { .. }))]
        pending: Vec<u8>,
        nested: bool,
        #[state(subsection = ignorable)]
        lapic: Option<Lapic>,
        #[state(subsection = ignorable)]
        statistics: Option<Statistics>,
    }

    /// Something else, with the id of the timers.
    #[derive(State)]
    #[state(id = 702, version = 1)]
    pub(super) struct Clock {
        seconds: u64,
    }
}

#[test]
fn a_bad_change_is_refused_in_these_words() {
    let texts = told(bad::Vcpu::SHAPE).join("\n");
    let published = "\n  vcpu version 3 is published (vmm 1.0) and never changes\n";
    let expected = [
        "state-lock: vcpu.apic: found u64, expected u32 in version 3: another type is another field, version = 4, \
         since = 4",
        "state-lock: vcpu.timers: found no such field, expected [state 702], which version 3 has: declare it with \
         deprecated(name = \"timers\", since = 3, until = 4, ..)",
        "state-lock: vcpu.nested: found bool, expected version = 4, since = 4: version 3 is locked without it",
        "state-lock: vcpu.timer: found no such field, expected u64, which version 2 has: declare it with \
         deprecated(name = \"timer\", until = 3, ..)",
        "state-lock: vcpu.lapic: found ignorable, expected required, as it was written",
    ];
    for (text, line) in told(bad::Vcpu::SHAPE).iter().zip(expected) {
        assert_eq!(format!("{text}\n"), format!("{line}{published}"));
    }
    assert_eq!(told(bad::Vcpu::SHAPE).len(), expected.len(), "{texts}");
}

#[test]
fn an_id_is_not_used_for_something_else() {
    assert_eq!(
        told(bad::Clock::SHAPE),
        [
            "state-lock: id 702: found clock, made of other fields, expected timer, which has it: give a new state an id \
          of its own\n  timer version 2 is published (vmm 1.0) and never changes"
        ]
    );
}
