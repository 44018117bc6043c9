//! Typed state through a handover: pages, areas, memfds, bulk data; versions that fit, and that do not.
#![cfg(all(feature = "std", feature = "derive"))]

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::{cell::RefCell, mem};

use kho::abi::{files, state::NODE};
use kho::files::{Beside as _, FilesNode};
use kho::handover::{Incoming, Outgoing, Registry, Verdict};
use kho::mem::{Arena, Frame, Frames as _, Geometry, Order, PageRange, Pfn, PhysRange, Ram};
use kho::report::{Code, Fault};
use kho::state::{self, InPlace, Memfd, Origin, Scattered, State, States, StatesNode, Unclaimed};
use kho::transport::Bundle;

#[derive(State)]
#[state(id = 1, version = 1)]
struct Rich {
    name: String,
    page: Frame,
    array: Scattered,
    ram: Memfd,
    #[state(plain)]
    pages: InPlace<u64>,
    #[state(plain)]
    copied: Vec<u8>,
}

fn memfd(contents: &[u8]) -> Memfd {
    let fd = rustix_memfd();
    File::from(fd.try_clone().unwrap()).write_all(contents).unwrap();
    fd.into()
}

fn rustix_memfd() -> OwnedFd {
    rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

fn rich(outgoing: &mut Outgoing<Bundle>) -> Rich {
    let mut page = outgoing.alloc(Order::ZERO).unwrap();
    outgoing.memory().arena().bytes_mut(&mut page).unwrap()[..5].copy_from_slice(b"hello");
    let frames: Vec<Frame> = (0..3u8)
        .map(|number| {
            let mut frame = outgoing.alloc(Order::new(1).unwrap()).unwrap();
            outgoing.memory().arena().bytes_mut(&mut frame).unwrap().fill(number + 1);
            frame
        })
        .collect();
    Rich {
        name: "rich".into(),
        page,
        array: Scattered { frames, bytes: 20_000 },
        ram: memfd(b"guest"),
        pages: (0..10_000).collect::<Vec<u64>>().into(),
        copied: vec![9; 3_000_000],
    }
}

/// What a successor has of it, in the same process.
fn carried(outgoing: Outgoing<Bundle>) -> Incoming<Bundle> {
    let (mut bundle, root) = outgoing.finish().unwrap().into_parts();
    let files = mem::take(bundle.files_mut());
    let arena = Arena::open(bundle.into_arena().into_fd().unwrap()).unwrap();
    Incoming::new(Bundle::of(arena, files), root.start())
}

#[test]
fn pages_areas_memfds_and_bulk_data_come_with_their_state() {
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    let object = Rc::new(RefCell::new(rich(&mut outgoing)));
    let mut states = States::new();
    states.with_bulk_checksum(true);
    assert_eq!(states.attach(3, &object).unwrap(), Origin::Fresh);
    outgoing.preserve(NODE, &states).unwrap();
    drop((states, object));

    let mut registry = Registry::new();
    registry.add(files::NODE, FilesNode);
    let node = registry.add(NODE, StatesNode::new(&[Rich::SHAPE]));
    let plan = carried(outgoing).plan(&registry);
    assert!(plan.findings().is_empty(), "{}", plan.findings());
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let mut states = restored.take(&node).unwrap();
    assert_eq!(states.take::<Rich>(0).unwrap().map(|rich| rich.name), None, "no such number");
    let mut rich = states.take::<Rich>(3).unwrap().unwrap();
    assert_eq!(states.take::<Rich>(3).err().map(|fault| fault.code()), Some(Code::StateId), "once");
    assert!(states.finish(restored.memory_mut()).is_empty());
    let (bundle, released) = restored.finish();
    released.unwrap();

    assert_eq!(&bundle.arena().bytes(&rich.page).unwrap()[..5], b"hello");
    let mapping = bundle.arena().map_contiguous(mem::take(&mut rich.array.frames)).unwrap();
    assert!(mapping.chunks(8192).zip(1..).all(|(block, number)| block.iter().all(|byte| *byte == number)));
    assert_eq!((mapping.len(), rich.array.bytes), (3 * 8192, 20_000));
    let mut file = File::from(OwnedFd::from(rich.ram));
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "guest");
    assert!(!rich.pages.is_copy() && rich.pages.iter().copied().eq(0..10_000));
    assert_eq!(rich.copied, vec![9; 3_000_000]);
}

#[test]
fn what_nobody_attached_is_told_and_given_back() {
    let before = Bundle::new(64 << 20).unwrap().arena().free_pages();
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20).unwrap());
    let object = Rc::new(RefCell::new(rich(&mut outgoing)));
    let mut states = States::new();
    states.attach(0, &object).unwrap();
    outgoing.preserve(NODE, &states).unwrap();
    drop((states, object));
    let mut registry = Registry::new();
    registry.add(files::NODE, FilesNode);
    let node = registry.add(NODE, StatesNode::new(&[Rich::SHAPE]));
    let mut restored = carried(outgoing).plan(&registry).accept().unwrap().restore().unwrap();
    let mut states = restored.take(&node).unwrap();
    let left = states.finish(restored.memory_mut());
    assert_eq!(left, [Unclaimed { id: 1, name: "rich".into(), number: 0 }]);
    assert_eq!(left[0].to_string(), "rich (id 1) that nobody attached");
    let (bundle, released) = restored.finish();
    released.unwrap();
    assert_eq!(bundle.arena().free_pages(), before, "every page is free again");
}

#[derive(State)]
#[state(id = 2, version = 1, before_save = Fails::refuse, after_save = Fails::saved)]
struct Fails {
    page: Frame,
    file: Memfd,
    #[state(skip, default)]
    refuses: bool,
    #[state(skip, default)]
    saved: std::cell::Cell<Option<bool>>,
    last: Option<Box<Fails>>,
}

impl Fails {
    fn refuse(&self) -> state::Result<()> {
        if self.refuses { Err(state::Error::refused("a device that is busy", "one at rest")) } else { Ok(()) }
    }

    fn saved(&self, saved: bool) {
        self.saved.set(Some(saved));
    }
}

#[test]
fn a_state_that_fails_in_the_middle_leaves_nothing_preserved() {
    let mut outgoing = Outgoing::new(Bundle::new(16 << 20).unwrap());
    let mut fails = |refuses, last| Fails {
        page: outgoing.alloc(Order::ZERO).unwrap(),
        file: memfd(b"x"),
        refuses,
        saved: None.into(),
        last,
    };
    let inner = fails(true, None);
    let object = Arc::new(Mutex::new(fails(false, Some(Box::new(inner)))));
    let free = outgoing.memory().arena().free_pages();
    let mut states = States::new();
    states.attach(7, &object).unwrap();
    let fault = outgoing.preserve(NODE, &states).unwrap_err();
    assert_eq!(fault.to_string(), "refused: fails#7.last: found a device that is busy, expected one at rest");
    let count = |outgoing: &Outgoing<Bundle>| outgoing.memory().files().len();
    assert_eq!((outgoing.memory().arena().free_pages(), count(&outgoing)), (free, 0));
    assert_eq!(object.lock().unwrap().saved.get(), Some(false), "who began to save is told that it failed");

    object.lock().unwrap().last.as_mut().unwrap().refuses = false;
    outgoing.preserve(NODE, &states).unwrap();
    assert_eq!(count(&outgoing), 2);
    assert!(outgoing.unpreserve(NODE));
    assert_eq!((outgoing.memory().arena().free_pages(), count(&outgoing)), (free, 0), "nor does what is taken back");
}

/// The types of two releases.
mod v1 {
    use super::*;

    #[derive(State, Default)]
    #[state(id = 10, version = 1)]
    pub(crate) struct Vmm {
        pub(crate) vcpus: Vec<Vcpu>,
    }

    #[derive(State, Default, Clone)]
    #[state(id = 11, version = 1)]
    pub(crate) struct Vcpu {
        pub(crate) ip: u64,
        pub(crate) timer: u32,
    }
}

mod v2 {
    use super::*;

    #[derive(State, Default)]
    #[state(id = 10, version = 1)]
    pub(crate) struct Vmm {
        pub(crate) vcpus: Vec<Vcpu>,
    }

    #[derive(State, Default, Clone)]
    #[state(id = 11, version = 2, min_version = 1,
        deprecated(name = "timer", ty = u32, until = 2, after = "ip", write = Vcpu::old_timer, read = Vcpu::new_timer))]
    pub(crate) struct Vcpu {
        pub(crate) ip: u64,
        #[state(since = 2, default)]
        pub(crate) deadline: u64,
        #[state(subsection = ignorable)]
        pub(crate) debug: Option<Debug>,
    }

    #[derive(State, Default, Clone)]
    #[state(id = 12, version = 1)]
    pub(crate) struct Debug {
        pub(crate) register: u64,
    }

    impl Vcpu {
        fn old_timer(&self) -> u32 {
            self.deadline.try_into().unwrap_or(u32::MAX)
        }

        fn new_timer(&mut self, timer: u32) {
            self.deadline = timer.into();
        }
    }
}

/// The same id and version, and something else: what a lock would have refused.
mod wrong {
    use super::*;

    #[derive(State)]
    #[state(id = 10, version = 1)]
    pub(crate) struct Vmm {
        pub(crate) vcpus: Vec<Vcpu>,
    }

    #[derive(State)]
    #[state(id = 11, version = 1)]
    pub(crate) struct Vcpu {
        pub(crate) ip: u64,
        pub(crate) timer: u64,
    }
}

fn ram() -> Ram {
    Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 256).unwrap())
}

fn registry_of<T: State>() -> (Registry<Ram>, kho::handover::Handle<States>) {
    let mut registry = Registry::new();
    let node = registry.add(NODE, StatesNode::new(&[T::SHAPE]));
    (registry, node)
}

/// A predecessor with one object.
fn predecessor<T: State + 'static>(object: T) -> States {
    let mut states = States::new();
    states.attach(0, &Rc::new(RefCell::new(object))).unwrap();
    states
}

fn successor<T: State>((memory, root): (Ram, PhysRange)) -> Result<T, Fault> {
    let (registry, node) = registry_of::<T>();
    let plan = Incoming::new(memory, root.start()).plan(&registry);
    let accepted = plan.accept().map_err(|refused| refused.findings.kept()[0].fault.clone())?;
    let mut restored = accepted.restore().unwrap();
    Ok(restored.take(&node).unwrap().take(0)?.unwrap())
}

#[test]
fn an_older_predecessor_is_read_and_an_older_successor_is_written_for() {
    let mut outgoing = Outgoing::new(ram());
    let old = v1::Vmm { vcpus: vec![v1::Vcpu { ip: 5, timer: 77 }; 2] };
    outgoing.preserve(NODE, &predecessor(old)).unwrap();
    let new: v2::Vmm = successor(outgoing.finish().unwrap().into_parts()).unwrap();
    assert_eq!((new.vcpus[1].ip, new.vcpus[1].deadline), (5, 77));

    let vcpu = v2::Vcpu { ip: 6, deadline: 1 << 40, debug: Some(v2::Debug { register: 1 }) };
    let mut outgoing = Outgoing::new(ram());
    outgoing.write_for(&registry_of::<v1::Vmm>().0.terms()).unwrap();
    outgoing.preserve(NODE, &predecessor(v2::Vmm { vcpus: vec![vcpu] })).unwrap();
    let told: Vec<String> = outgoing.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "warning: /state: state-dropped: vcpu.deadline: a field of version 2",
            "warning: /state: state-ignored: vmm.vcpus[].debug: a subsection of id 12",
        ],
        "what is left behind is told before leaving"
    );
    let finished = outgoing.finish().unwrap();
    assert_eq!(finished.forecast(&registry_of::<v1::Vmm>().0.terms()).unwrap().verdict(), Verdict::Fine);
    let old: v1::Vmm = successor(finished.into_parts()).unwrap();
    assert_eq!((old.vcpus[0].ip, old.vcpus[0].timer), (6, u32::MAX));
}

#[test]
fn the_first_field_that_does_not_fit_is_named_before_leaving_and_at_the_door_alike() {
    let refusals = |finished: kho::handover::Finished<Ram>, reads: &Registry<Ram>| {
        let forecast = finished.forecast(&reads.terms()).unwrap().to_string();
        let (memory, root) = finished.into_parts();
        let plan = Incoming::new(memory, root.start()).plan(reads);
        assert_eq!(plan.verdict(), Verdict::Refused);
        assert_eq!(plan.findings().to_string(), forecast);
        forecast
    };
    let made = |states: &States| {
        let mut outgoing = Outgoing::new(ram());
        outgoing.preserve(NODE, states).unwrap();
        outgoing.finish().unwrap()
    };
    let old = || predecessor(v1::Vmm { vcpus: vec![v1::Vcpu::default()] });
    let new = || predecessor(v2::Vmm { vcpus: vec![v2::Vcpu::default()] });
    assert_eq!(
        refusals(made(&old()), &registry_of::<wrong::Vmm>().0),
        "error: /state: state-field: vmm.vcpus[].timer: found u32, expected u64, in version 1"
    );
    assert_eq!(
        refusals(made(&new()), &registry_of::<v1::Vmm>().0),
        "error: /state: version-newer: vmm.vcpus[]: found version 2 of vcpu, expected version 1"
    );
    assert_eq!(refusals(made(&old()), &registry_of::<v2::Debug>().0), "error: /state: state-unknown: vmm: id 10");
}

#[test]
fn a_handover_for_a_reader_that_cannot_read_it_is_refused_when_it_is_preserved() {
    let mut outgoing = Outgoing::new(ram());
    outgoing.write_for(&registry_of::<wrong::Vmm>().0.terms()).unwrap();
    let free = outgoing.memory().free_pages();
    let fault = outgoing.preserve(NODE, &predecessor(v1::Vmm::default())).unwrap_err();
    assert_eq!(fault.to_string(), "state-field: vmm.vcpus[].timer: found u32, expected u64, in version 1");
    assert_eq!(outgoing.memory().free_pages(), free);
}

#[test]
fn a_node_of_states_is_held_to_the_manifest() {
    kho::manifest! {
        static MANIFEST = [states("state", &[v1::Vmm::SHAPE, v1::Vcpu::SHAPE])];
    }
    let mut outgoing = Outgoing::of(ram(), &MANIFEST);
    outgoing.preserve(NODE, &predecessor(v1::Vmm::default())).unwrap();
    let mut outgoing = Outgoing::of(ram(), &MANIFEST);
    let fault = outgoing.preserve(NODE, &predecessor(v2::Vmm::default())).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "manifest-disagrees: /state: found the state vcpu (id 11, version 2, from 1), expected the state vcpu (id 11, \
         version 1, from 1), as the manifest says"
    );
    let registry = || {
        let mut registry: Registry<Ram> = Registry::of(&MANIFEST);
        registry.add(NODE, StatesNode::new(&[v1::Vmm::SHAPE]));
        registry
    };
    assert_eq!(registry().disagreements(), []);
    let found = kho::manifest::Found::parse(MANIFEST.note()).unwrap();
    assert_eq!((&found.reads, &found.writes), (&MANIFEST.reads(), &MANIFEST.writes()));
    assert_eq!(found.reads.states("state").map(<[_]>::len), Some(2));
}

#[test]
fn a_memory_without_files_takes_no_descriptor() {
    #[derive(State)]
    #[state(id = 20, version = 1)]
    struct Ram1 {
        ram: Memfd,
    }
    let mut outgoing = Outgoing::new(ram());
    let fault = outgoing.preserve(NODE, &predecessor(Ram1 { ram: memfd(b"") })).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "refused: ram1.ram: found a descriptor, in a memory that no descriptor travels beside, expected a bundle of an \
         arena and files"
    );
    let bytes = state::save(&Ram1 { ram: memfd(b"") }).unwrap_err();
    assert_eq!(
        bytes.to_string(),
        "refused: ram1.ram: found pages or a descriptor, in a state that is saved as bytes, expected a handover, in \
         which they travel beside the bytes"
    );
}

#[test]
fn what_was_not_declared_is_not_attached_though_it_came() {
    #[derive(State, Default)]
    #[state(id = 30, version = 1, ignorable)]
    struct Hints {
        hints: u32,
    }
    let mut states = predecessor(v1::Vmm::default());
    let hints = Rc::new(RefCell::new(Hints { hints: 7 }));
    states.attach(0, &hints).unwrap();
    let mut outgoing = Outgoing::new(ram());
    outgoing.preserve(NODE, &states).unwrap();
    let (memory, root) = outgoing.finish().unwrap().into_parts();

    let (registry, node) = registry_of::<v1::Vmm>();
    let plan = Incoming::new(memory, root.start()).plan(&registry);
    assert_eq!(plan.findings().to_string(), "warning: /state: state-ignored: hints: id 30");
    let mut states = plan.accept().unwrap().restore().unwrap().take(&node).unwrap();
    hints.borrow_mut().hints = 1;
    let expected = "state-unknown: hints: found id 30, which was not declared, expected a state of the StatesNode that \
                    restored these";
    assert_eq!(states.attach(0, &hints).unwrap_err().to_string(), expected);
    assert_eq!(states.take::<Hints>(0).err().unwrap().to_string(), expected);
    assert_eq!(hints.borrow().hints, 1, "it is as it was");
}
