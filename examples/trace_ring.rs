//! A trace that goes on while the program is replaced: `cargo run --example trace_ring`.
//!
//! Each CPU (here a thread) writes events into a ring of pages of its own. When the ring is full, its oldest page is overwritten, and
//! what was not read by then is lost: that is how such rings work, but it has to be *counted*. A reader takes events out
//! while the CPUs write. Again and again the program hands over to its next release by exec, with pages that are full of
//! unread events. They stay where they are; what travels are the numbers that say what they mean.
//!
//! The writer counts what it overwrites. The reader counts the gaps that it sees in the sequence numbers. The two know
//! nothing of each other, and must agree at the end, of every single event: none is there twice, none is gone uncounted.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::thread;

use kho::abi::state::NODE;
use kho::handover::{Outgoing, Registry};
use kho::mem::{Arena, Frame, Frames as _, Memory as _, Order};
use kho::state::{Origin, State, States, StatesNode};
use kho::transport::{Arrival, Bundle, Program};

/// How many CPUs, and how many pages the ring of each has.
const CPUS: u64 = 4;
const PAGES: u64 = 4;
/// Processes, one after the other. The first one is release 1, all others are release 2.
const LIVES: u64 = 5;

/// Bytes of an event: its sequence number, and what happened.
const EVENT: usize = 16;

kho::manifest! {
    /// That of release 2, which this file is. It plays release 1 for the first process only.
    static MANIFEST = [states(NODE, &[v2::Cpu::SHAPE, Ring::SHAPE])];
}

/// Both releases have the same ring. A state within states has an id and versions, too.
#[derive(State)]
#[state(id = 2, version = 1)]
struct Ring {
    /// The pages, which are preserved where they are.
    pages: Vec<Frame>,
    /// Sequence number of the next event to be written.
    head: u64,
    /// Sequence number of the oldest event that is still to be read.
    tail: u64,
    /// Events that were overwritten before they were read.
    overwritten: u64,
}

/// What the reader saw of a CPU.
#[derive(Debug, Default)]
struct Seen {
    /// The sequence number that comes next if none is lost.
    next: u64,
    read: u64,
    /// Numbers that never came.
    missed: u64,
}

mod v1 {
    use super::*;

    #[derive(State)]
    #[state(id = 1, version = 1)]
    pub(super) struct Cpu {
        pub(super) label: String,
        pub(super) ring: Ring,
        // A type that is no state can be saved as some that is a value.
        #[state(with = seen)]
        pub(super) seen: Seen,
    }
}

mod v2 {
    use super::*;

    #[derive(State)]
    #[state(id = 1, version = 2, after_restore = Self::fill_in)]
    // Nobody ever looked at the label: CPUs have numbers. A reader of version 1 gets one that is made up.
    #[state(deprecated(name = "label", ty = String, until = 2))]
    pub(super) struct Cpu {
        pub(super) ring: Ring,
        #[state(with = seen)]
        pub(super) seen: Seen,
        // How full the ring ever was.
        #[state(since = 2, default)]
        pub(super) most: u64,
    }

    impl Cpu {
        /// A default is a constant. What has to be worked out of other fields is worked out here.
        fn fill_in(&mut self, version: u32) -> Result<(), kho::state::Error> {
            if version < 2 {
                self.most = self.ring.head - self.ring.tail;
            }
            // Also the place for what no type says.
            let waiting = self.ring.head.checked_sub(self.ring.tail);
            match waiting {
                Some(waiting) if waiting <= self.most => Ok(()),
                _ => {
                    Err(kho::state::Error::refused(format_args!("{waiting:?} events"), "no more than there ever were"))
                }
            }
        }
    }
}

/// [`Seen`] as three numbers.
mod seen {
    use kho::state::{Restorer, Result, Saver, Type, Value};

    use super::Seen;

    pub(super) const TYPE: Type = <(u64, u64, u64)>::TYPE;

    pub(super) fn save(seen: &Seen, out: &mut Saver<'_>) -> Result<()> {
        (seen.next, seen.read, seen.missed).save(out)
    }

    pub(super) fn restore(input: &mut Restorer<'_>) -> Result<Seen> {
        let (next, read, missed) = Value::restore(input)?;
        Ok(Seen { next, read, missed })
    }
}

/// What the code below needs of a CPU, of either release.
trait Cpu: State + Send + 'static {
    fn new(ring: Ring) -> Self;
    fn parts(&mut self) -> (&mut Ring, &mut Seen);
    fn has_written(&mut self) {}
}

impl Cpu for v1::Cpu {
    fn new(ring: Ring) -> Self {
        v1::Cpu { label: "a cpu".into(), ring, seen: Seen::default() }
    }

    fn parts(&mut self) -> (&mut Ring, &mut Seen) {
        (&mut self.ring, &mut self.seen)
    }
}

impl Cpu for v2::Cpu {
    fn new(ring: Ring) -> Self {
        v2::Cpu { ring, seen: Seen::default(), most: 0 }
    }

    fn parts(&mut self) -> (&mut Ring, &mut Seen) {
        (&mut self.ring, &mut self.seen)
    }

    fn has_written(&mut self) {
        self.most = self.most.max(self.ring.head - self.ring.tail);
    }
}

/// Events that a page has room for.
fn per_page(arena: &Arena) -> u64 {
    arena.geometry().page_size() / EVENT as u64
}

/// Events that each CPU writes in the life of one process: three times what its ring can hold.
fn to_write(arena: &Arena) -> u64 {
    3 * PAGES * per_page(arena)
}

/// Events that the reader takes of each CPU at most: few enough that some are overwritten and some are left for the
/// successor, however the threads run.
fn to_read(arena: &Arena) -> u64 {
    PAGES * per_page(arena) / 2
}

impl Ring {
    /// In which page the event is, and at which byte.
    fn place(&self, per_page: u64, event: u64) -> (usize, usize) {
        let page = event / per_page % self.pages.len() as u64;
        (page as usize, (event % per_page) as usize * EVENT)
    }

    fn write(&mut self, arena: &Arena, what: u64) {
        let per_page = per_page(arena);
        let (page, at) = self.place(per_page, self.head);
        // The first event of a page that was written before: all that is left in it is lost.
        let gone = (self.head + per_page).saturating_sub(per_page * self.pages.len() as u64);
        if at == 0 && self.tail < gone {
            self.overwritten += gone - self.tail;
            self.tail = gone;
        }
        let bytes = &mut arena.bytes_mut(&mut self.pages[page]).unwrap()[at..at + EVENT];
        bytes[..8].copy_from_slice(&self.head.to_le_bytes());
        bytes[8..].copy_from_slice(&what.to_le_bytes());
        self.head += 1;
    }

    /// The oldest event: the sequence number that it has in its page, and what happened.
    fn read(&mut self, arena: &Arena) -> Option<(u64, u64)> {
        if self.tail == self.head {
            return None;
        }
        let (page, at) = self.place(per_page(arena), self.tail);
        self.tail += 1;
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap();
        let bytes = &arena.bytes(&self.pages[page]).unwrap()[at..at + EVENT];
        Some((word(&bytes[..8]), word(&bytes[8..])))
    }
}

/// What happens on a CPU: anything, but the same each time, so that an event is known again.
fn what_happens(cpu: u64, event: u64) -> u64 {
    (event + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ cpu
}

impl Seen {
    /// An event was read: it must be a later one than all before it, and the right one.
    fn take(&mut self, cpu: u64, (event, what): (u64, u64)) {
        assert!(event >= self.next, "cpu {cpu}: event {event} again, or out of its turn");
        assert_eq!(what, what_happens(cpu, event), "cpu {cpu}: another event than {event}");
        self.missed += event - self.next;
        self.read += 1;
        self.next = event + 1;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let life = std::env::args().nth(1).map_or(Ok(0), |life| life.parse())?;
    if life == 0 { live::<v1::Cpu>(life) } else { live::<v2::Cpu>(life) }
}

/// The life of one process.
fn live<C: Cpu>(life: u64) -> Result<(), Box<dyn Error>> {
    let (states, bundle, cpus) = match Arrival::take()? {
        None => begin::<C>()?,
        Some(arrival) => take_over::<C>(life, arrival)?,
    };
    // What the handovers needed beside the pages of the rings was given back each time: one page is the header.
    let all = bundle.arena().size() / bundle.geometry().page_size();
    assert_eq!(bundle.arena().free_pages(), all - CPUS * PAGES - 1, "pages were lost");

    // Exec ends all threads, wherever they are. So they come to rest before: here, by coming to their end.
    write_and_read(&cpus, bundle.arena());
    let (mut written, mut read, mut overwritten) = (0, 0, 0);
    for cpu in &cpus {
        let mut cpu = cpu.lock().map_err(|_| "a thread panicked")?;
        let (ring, seen) = cpu.parts();
        assert_eq!(ring.head, (life + 1) * to_write(bundle.arena()));
        assert!(ring.overwritten > 0 && ring.head > ring.tail, "nothing to hand over would be no test");
        (written, read, overwritten) = (written + ring.head, read + seen.read, overwritten + ring.overwritten);
    }
    let (release, wait) = (C::SHAPE.version(), written - read - overwritten);
    println!("life {life}, release {release}: {written} written, {read} read, {overwritten} overwritten, {wait} wait");
    if life + 1 == LIVES {
        return settle_accounts(&cpus, bundle.arena());
    }
    // Release 2 holds itself to its manifest, release 1 has none in this file.
    let mut outgoing = if life == 0 { Outgoing::new(bundle) } else { Outgoing::of(bundle, &MANIFEST) };
    outgoing.preserve(NODE, &states)?;
    Err(outgoing.finish()?.exec(&Program::current()?.args([(life + 1).to_string()]), None).into())
}

/// The objects are shared: the states have one pointer to each, to save it when it is time.
type Running<C> = (States, Bundle, Vec<Arc<Mutex<C>>>);

fn begin<C: Cpu>() -> Result<Running<C>, Box<dyn Error>> {
    let (mut states, mut bundle, mut cpus) = (States::new(), Bundle::new(64 << 20)?, Vec::new());
    for number in 0..CPUS {
        let pages = (0..PAGES).map(|_| bundle.alloc(Order::ZERO)).collect::<Result<_, _>>()?;
        let cpu = Arc::new(Mutex::new(C::new(Ring { pages, head: 0, tail: 0, overwritten: 0 })));
        assert_eq!(states.attach(number, &cpu)?, Origin::Fresh);
        cpus.push(cpu);
    }
    Ok((states, bundle, cpus))
}

fn take_over<C: Cpu>(life: u64, arrival: Arrival) -> Result<Running<C>, Box<dyn Error>> {
    let mut registry = Registry::of(&MANIFEST);
    let node = registry.add(NODE, StatesNode::new(&[C::SHAPE]));
    let mut restored = arrival.incoming.plan(&registry).accept()?.restore()?;
    let (mut states, mut cpus) = (restored.take(&node).ok_or("no states came")?, Vec::new());
    for number in 0..CPUS {
        // An object is there before it is restored. This one has no pages yet: they come.
        let cpu = Arc::new(Mutex::new(C::new(Ring { pages: Vec::new(), head: 0, tail: 0, overwritten: 0 })));
        let version = if life == 1 { 1 } else { 2 };
        assert_eq!(states.attach(number, &cpu)?, Origin::Restored { version });
        cpus.push(cpu);
    }
    let left = states.finish(restored.memory_mut());
    assert!(left.is_empty(), "{left:?}");
    let (bundle, released) = restored.finish();
    released?;
    Ok((states, bundle, cpus))
}

/// A thread for each CPU, and this one reads.
fn write_and_read<C: Cpu>(cpus: &[Arc<Mutex<C>>], arena: &Arena) {
    thread::scope(|scope| {
        for (number, cpu) in (0..).zip(cpus) {
            scope.spawn(move || {
                for _ in 0..to_write(arena) {
                    let mut cpu = cpu.lock().unwrap();
                    let (ring, _) = cpu.parts();
                    ring.write(arena, what_happens(number, ring.head));
                    cpu.has_written();
                }
            });
        }
        for _ in 0..to_read(arena) {
            for (number, cpu) in (0..).zip(cpus) {
                let mut cpu = cpu.lock().unwrap();
                let (ring, seen) = cpu.parts();
                if let Some(event) = ring.read(arena) {
                    seen.take(number, event);
                }
            }
        }
    });
}

/// Reads all that is left, and holds the two accounts against each other.
fn settle_accounts<C: Cpu>(cpus: &[Arc<Mutex<C>>], arena: &Arena) -> Result<(), Box<dyn Error>> {
    for (number, cpu) in (0..).zip(cpus) {
        let mut cpu = cpu.lock().map_err(|_| "a thread panicked")?;
        let (ring, seen) = cpu.parts();
        while let Some(event) = ring.read(arena) {
            seen.take(number, event);
        }
        assert_eq!(seen.next, ring.head, "the newest event was read");
        assert_eq!(seen.read + seen.missed, LIVES * to_write(arena), "every event was read or missed");
        assert_eq!(seen.missed, ring.overwritten, "what the reader missed is what the writer overwrote");
        println!("cpu {number}: {} events = {} read + {} overwritten", ring.head, seen.read, seen.missed);
    }
    println!(
        "not one of {} events was repeated, or lost uncounted, in {} handovers",
        CPUS * LIVES * to_write(arena),
        LIVES - 1
    );
    Ok(())
}
