//! One state through four releases of a program and back to the first: `cargo run --example kstate_test`.
//!
//! KSTATE, a proposal for Linux, tests itself with a state `test`: a value, a pointer, a string and a folio. Here a
//! program has such a state, and each release of it hands over to the next one by exec. What changes on the way is what
//! changes in real programs: a field is added, another one is no longer needed, a part is there only sometimes. At the
//! end the newest release hands over to the oldest, which has to get what it can read.
//!
//! Real releases are different files. This one plays all of them: it executes itself, and the argument says which step of
//! [`ROUTE`] it is. So it has no `kho::manifest!` either, of which a file has one: what a release reads is asked of its
//! registry instead. `examples/reserve_mem.rs` has a manifest.

use std::cell::RefCell;
use std::error::Error;
use std::fmt::Debug;
use std::rc::Rc;

use kho::abi::state::NODE;
use kho::compat::Terms;
use kho::handover::{Outgoing, Registry};
use kho::mem::{Frame, Frames as _, Memory as _, Order};
use kho::state::{Origin, State, States, StatesNode, Versions};
use kho::transport::{Arrival, Bundle, Program};

/// Which release each process is. From `v4` to `v4` nothing needs to be translated, as between most releases.
const ROUTE: [&str; 6] = ["v1", "v2", "v3", "v4", "v4", "v1"];

/// The first release.
mod v1 {
    use super::*;

    /// `id` is what the state is known by in all releases, whatever it is called; `version` counts the changes of its
    /// fields.
    #[derive(State, Debug, Default)]
    #[state(id = 1, version = 1)]
    pub(super) struct Test {
        value: u64,
        /// What a pointer leads to travels, not its address.
        pointer: Box<u64>,
        string: String,
        /// A block of pages, preserved where it is: nothing of it is copied. An option, because an object is there
        /// before it is restored ([`States::attach`]), and has no block then.
        folio: Option<Frame>,
    }

    impl Release for Test {
        fn arrive(&mut self, origin: Origin) {
            match origin {
                Origin::Fresh => {
                    *self = Test { value: 6, pointer: Box::new(4711), string: "kstate".into(), folio: None };
                }
                Origin::Restored { version } => {
                    assert_eq!(version, 1, "it reads no other version");
                    assert_eq!((self.value, *self.pointer, self.string.as_str()), (6, 4711, "kstate"));
                }
            }
        }

        fn folio(&mut self) -> &mut Option<Frame> {
            &mut self.folio
        }
    }
}

/// The second release needs one more number.
mod v2 {
    use super::*;

    #[derive(State, Debug, Default)]
    #[state(id = 1, version = 2)]
    pub(super) struct Test {
        value: u64,
        // It may stand anywhere. Version 1 does not have it: then it is -1. Written for a reader of version 1, it is
        // left out; with `required` that would be refused unless it is -1.
        #[state(since = 2, default = -1)]
        i: i32,
        pointer: Box<u64>,
        string: String,
        folio: Option<Frame>,
    }

    impl Release for Test {
        fn arrive(&mut self, origin: Origin) {
            assert_eq!(origin, Origin::Restored { version: 1 });
            assert_eq!((self.value, *self.pointer, self.string.as_str()), (6, 4711, "kstate"));
            assert_eq!(self.i, -1, "what version 1 could not say");
            self.i = 42;
        }

        fn folio(&mut self) -> &mut Option<Frame> {
            &mut self.folio
        }
    }
}

/// The third release has noticed that `value` always was the length of the string.
mod v3 {
    use super::*;

    #[derive(State, Debug, Default)]
    #[state(id = 1, version = 3)]
    // Read and forgotten where an older version has it, and made up where an older version is written.
    #[state(deprecated(name = "value", ty = u64, until = 3, write = Self::value))]
    pub(super) struct Test {
        #[state(since = 2, default = -1)]
        i: i32,
        pointer: Box<u64>,
        string: String,
        folio: Option<Frame>,
    }

    impl Test {
        fn value(&self) -> u64 {
            self.string.len() as u64
        }
    }

    impl Release for Test {
        fn arrive(&mut self, origin: Origin) {
            assert_eq!(origin, Origin::Restored { version: 2 });
            assert_eq!((self.i, *self.pointer, self.string.as_str()), (42, 4711, "kstate"));
        }

        fn folio(&mut self) -> &mut Option<Frame> {
            &mut self.folio
        }
    }
}

/// The fourth release writes notes, if it has any.
mod v4 {
    use super::*;

    #[derive(State, Debug, Default)]
    #[state(id = 1, version = 4)]
    #[state(deprecated(name = "value", ty = u64, until = 3, write = Self::value))]
    pub(super) struct Test {
        #[state(since = 2, default = -1)]
        i: i32,
        pointer: Box<u64>,
        string: String,
        folio: Option<Frame>,
        // A part with an id and versions of its own, which is in the bytes only when it is there. A reader that has
        // never heard of it leaves it out, because it is ignorable; a required one would be a reason to refuse.
        #[state(subsection = ignorable)]
        note: Option<Note>,
    }

    #[derive(State, Debug)]
    #[state(id = 2, version = 1)]
    struct Note {
        text: String,
        written_by: u32,
    }

    impl Test {
        fn value(&self) -> u64 {
            self.string.len() as u64
        }
    }

    impl Release for Test {
        fn arrive(&mut self, origin: Origin) {
            assert_eq!((self.i, *self.pointer, self.string.as_str()), (42, 4711, "kstate"));
            match &self.note {
                None => {
                    assert_eq!(origin, Origin::Restored { version: 3 });
                    self.note = Some(Note { text: "remember the milk".into(), written_by: 4 });
                }
                Some(note) => {
                    assert_eq!(origin, Origin::Restored { version: 4 });
                    assert_eq!((note.text.as_str(), note.written_by), ("remember the milk", 4));
                }
            }
        }

        fn folio(&mut self) -> &mut Option<Frame> {
            &mut self.folio
        }
    }
}

/// What this file wants of each release.
trait Release: State + Debug + Default + 'static {
    /// Checks what came, and works on it.
    fn arrive(&mut self, origin: Origin);

    /// Every release writes its name into the folio: its contents are a diary that has to come along.
    fn folio(&mut self) -> &mut Option<Frame>;
}

fn main() -> Result<(), Box<dyn Error>> {
    let step = std::env::args().nth(1).map_or(Ok(0), |step| step.parse())?;
    match ROUTE[step] {
        "v1" => play::<v1::Test>(step),
        "v2" => play::<v2::Test>(step),
        "v3" => play::<v3::Test>(step),
        _ => play::<v4::Test>(step),
    }
}

/// What a release reads: all of its states, in the node of that name.
fn registry<T: Release>() -> Registry<Bundle> {
    let mut registry = Registry::new();
    registry.add(NODE, StatesNode::new(&[T::SHAPE]));
    registry
}

/// What the release `name` reads. A real program has no types of other releases, and asks the file of its successor
/// instead: `Outgoing::write_for_program`, for a successor with a manifest.
fn reads_of(name: &str) -> Terms {
    match name {
        "v1" => registry::<v1::Test>().terms(),
        "v2" => registry::<v2::Test>().terms(),
        "v3" => registry::<v3::Test>().terms(),
        _ => registry::<v4::Test>().terms(),
    }
}

/// The life of one process.
fn play<T: Release>(step: usize) -> Result<(), Box<dyn Error>> {
    let test = Rc::new(RefCell::new(T::default()));
    let (mut bundle, states) = match Arrival::take()? {
        None => {
            let mut states = States::new();
            // The same call as below: an object that was not handed over stays as it is, and will be saved.
            let origin = states.attach(0, &test)?;
            test.borrow_mut().arrive(origin);
            let mut bundle = Bundle::new(16 << 20)?;
            *test.borrow_mut().folio() = Some(bundle.alloc(Order::ZERO)?);
            println!("v1 begins: {:?}", test.borrow());
            (bundle, states)
        }
        Some(arrival) => {
            let mut registry = Registry::new();
            let node = registry.add(NODE, StatesNode::new(&[T::SHAPE]));
            let plan = arrival.incoming.plan(&registry);
            println!("{} takes over: {}", ROUTE[step], plan.verdict());
            for finding in plan.findings().kept() {
                println!("   {finding}");
            }
            let mut restored = plan.accept()?.restore()?;
            let mut states = restored.take(&node).ok_or("no states came")?;
            let origin = states.attach(0, &test)?;
            println!("   {:?}", test.borrow());
            test.borrow_mut().arrive(origin);
            // Nothing came that nobody wanted.
            let left = states.finish(restored.memory_mut());
            assert!(left.is_empty(), "{left:?}");
            let (bundle, released) = restored.finish();
            released?;
            (bundle, states)
        }
    };
    write_diary(&mut bundle, test.borrow_mut().folio().as_mut().ok_or("no folio came")?, step)?;

    let Some(next) = ROUTE.get(step + 1) else {
        println!("all {} steps are done; the folio says: {}", ROUTE.len(), ROUTE.join(" "));
        return Ok(());
    };
    let (reads, mut outgoing) = (reads_of(next), Outgoing::new(bundle));
    tell_what_is_left_behind(&states, &reads, ROUTE[step], next)?;
    // From here on everything is written in the newest version that the reader knows as well.
    outgoing.write_for(&reads)?;
    outgoing.preserve(NODE, &states)?;
    let program = Program::current()?.args([(step + 1).to_string()]);
    // Returns only when the process was not replaced. `examples/self_exec.rs` gives the successor a ticket back, too.
    Err(outgoing.finish()?.exec(&program, None).into())
}

/// Reads what the releases before this one wrote into the folio, and adds this one.
fn write_diary(bundle: &mut Bundle, folio: &mut Frame, step: usize) -> Result<(), Box<dyn Error>> {
    let arena = bundle.arena();
    // All that ever was allocated and is no longer needed was freed: what is left is the folio, beside the header.
    assert_eq!(arena.free_pages() + 2, arena.size() / arena.geometry().page_size(), "pages were lost");
    let page = arena.bytes_mut(folio)?;
    let before = ROUTE[..step].join(" ");
    assert_eq!(&page[..before.len()], before.as_bytes());
    assert!(page[before.len()..].iter().all(|&byte| byte == 0));
    let now = ROUTE[..=step].join(" ");
    page[..now.len()].copy_from_slice(now.as_bytes());
    Ok(())
}

/// What an older successor will not get. An upgrade leaves nothing behind.
fn tell_what_is_left_behind(states: &States, reads: &Terms, from: &str, to: &str) -> Result<(), Box<dyn Error>> {
    // The versions that `write_for` will choose. For bytes without a handover, `kho::state::save_as` takes them too.
    let known = reads.states(NODE).unwrap_or_default();
    let versions = Versions::for_reader(states.shapes(), known).map_err(|faults| format!("{faults:?}"))?;
    println!("{from} leaves for {to}");
    for dropped in versions.dropped() {
        println!("   {dropped}");
    }
    Ok(())
}
