//! Saving that fails in the middle: nothing stays preserved, and every hook that was called is told.

use std::cell::{Cell, RefCell};
use std::format;
use std::rc::Rc;
use std::string::{String, ToString as _};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use crate::files::Beside as _;
use crate::handover::{Incoming, Outgoing, Registry, Verdict};
use crate::mem::{Frames as _, Geometry, Order, PageRange, Pfn, Ram};
use crate::state::{self, Memfd, RcLink, State, States, StatesNode, Versions};
use crate::transport::Bundle;

type Log = (Vec<u32>, Vec<(u32, bool)>);

std::thread_local! {
    /// vCPUs whose hooks were called: before, and after with what it was told.
    static LOG: RefCell<Log> = const { RefCell::new((Vec::new(), Vec::new())) };
}

#[derive(State, Debug)]
#[state(id = 1, version = 1)]
struct Vmm {
    name: String,
    vcpus: Vec<Vcpu>,
    #[state(plain)]
    memory: Vec<u64>,
    last: Vec<u8>,
}

#[derive(State, Debug)]
#[state(id = 2, version = 1, before_save = Vcpu::before, after_save = Vcpu::after)]
struct Vcpu {
    id: u32,
    #[state(skip, default)]
    fails: bool,
    lock: Arc<Mutex<u32>>,
    cell: RefCell<u32>,
    #[state(plain)]
    registers: Vec<u64>,
    peer: RcLink<u32>,
}

impl Vcpu {
    fn before(&self) -> Result<(), state::Error> {
        if self.fails {
            return Err(state::Error::refused("a vCPU that runs", "one that stands"));
        }
        LOG.with_borrow_mut(|log| log.0.push(self.id));
        Ok(())
    }

    fn after(&self, saved: bool) {
        LOG.with_borrow_mut(|log| log.1.push((self.id, saved)));
    }
}

fn vmm() -> Vmm {
    let vcpu = |id| Vcpu {
        id,
        fails: false,
        lock: Arc::new(Mutex::new(id)),
        cell: RefCell::new(id),
        registers: vec![id.into(); 600],
        peer: RcLink::new(),
    };
    Vmm { name: "guest".into(), vcpus: (0..5).map(vcpu).collect(), memory: vec![3; 3000], last: vec![9; 9000] }
}

/// Those that were called before are called after, each once; what they were told.
fn told() -> Vec<(u32, bool)> {
    let (before, after) = LOG.take();
    assert_eq!(after.iter().map(|(id, _)| *id).collect::<Vec<_>>(), before);
    after
}

fn ram(pages: u64) -> Ram {
    Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), pages).unwrap())
}

type Object = Rc<RefCell<Vmm>>;

fn attached() -> (States, Object) {
    let (mut states, object) = (States::new(), Rc::new(RefCell::new(vmm())));
    states.attach(0, &object).unwrap();
    (states, object)
}

/// Preserving it fails with that; nothing of it stays, and when it is mended it is preserved.
fn fails(expected: &str, told_after: &[(u32, bool)], spoil: impl FnOnce(&Object) -> Box<dyn FnOnce(&Object)>) {
    let (states, object) = attached();
    let mut outgoing = Outgoing::new(ram(512));
    let bytes = crate::payload::Bytes {
        made_of: crate::compat::CompatList::new(crate::compat::Compat::new("b", 1), &[]),
        bytes: b"x",
    };
    outgoing.preserve("other", &bytes).unwrap();
    let (free, tree) = (outgoing.memory().free_pages(), format!("{outgoing:?}"));
    let mend = spoil(&object);
    for _ in 0..2 {
        assert_eq!(outgoing.preserve("state", &states).unwrap_err().to_string(), expected);
        assert_eq!((outgoing.memory().free_pages(), format!("{outgoing:?}")), (free, tree.clone()));
        assert_eq!(told(), told_after);
    }
    mend(&object);
    outgoing.preserve("state", &states).unwrap();
    assert_eq!(told(), [0, 1, 2, 3, 4].map(|id| (id, true)));
    let (memory, root) = outgoing.finish().unwrap().into_parts();
    let mut registry = Registry::new();
    registry.read("other", crate::payload::BytesNode { made_of: bytes.made_of, limit: 10 });
    let node = registry.add("state", StatesNode::new(&[Vmm::SHAPE]));
    let plan = Incoming::new(memory, root.start()).plan(&registry);
    assert_eq!(plan.verdict(), Verdict::Fine, "{}", plan.findings());
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let mut states = restored.take(&node).unwrap();
    let object =
        Rc::new(RefCell::new(Vmm { name: String::new(), vcpus: Vec::new(), memory: Vec::new(), last: Vec::new() }));
    states.attach(0, &object).unwrap();
    assert_eq!((object.borrow().vcpus.len(), object.borrow().memory.len()), (5, 3000));
}

#[test]
fn a_hook_of_the_third_vcpu_fails() {
    let text = "refused: vmm.vcpus[2]: found a vCPU that runs, expected one that stands";
    fails(text, &[(0, true), (1, true)], |object| {
        object.borrow_mut().vcpus[2].fails = true;
        Box::new(|object| object.borrow_mut().vcpus[2].fails = false)
    });
}

#[test]
fn a_lock_whose_holder_panicked() {
    let text = "state-busy: vmm.vcpus[3].lock: a lock whose holder panicked";
    fails(text, &[(0, true), (1, true), (2, true), (3, false)], |object| {
        let lock = object.borrow().vcpus[3].lock.clone();
        std::thread::spawn(move || {
            let _held = lock.lock().unwrap();
            std::panic::resume_unwind(Box::new("given up"));
        })
        .join()
        .unwrap_err();
        Box::new(|object| object.borrow().vcpus[3].lock.clear_poison())
    });
}

#[test]
fn a_cell_that_is_borrowed() {
    let text = "state-busy: vmm.vcpus[4].cell: a cell that is borrowed to be changed";
    let all = [(0, true), (1, true), (2, true), (3, true), (4, false)];
    fails(text, &all, |object| {
        std::mem::forget(object.borrow().vcpus[4].cell.borrow_mut());
        Box::new(|object| object.borrow_mut().vcpus[4].cell = RefCell::new(4))
    });
    // The whole of it.
    let text = "state-busy: vmm: a cell that is borrowed to be changed";
    fails(text, &[], |object| {
        let held = object.clone();
        let held: &'static Object = Box::leak(Box::new(held));
        let guard = held.borrow_mut();
        Box::new(move |_| drop(guard))
    });
}

#[test]
fn a_link_to_what_nobody_saves_is_found_when_all_is_written() {
    let text = "state-link: a link to an object that nobody saved";
    fails(text, &[0, 1, 2, 3, 4].map(|id| (id, true)), |object| {
        let stranger: &'static Rc<u32> = Box::leak(Box::new(Rc::new(5)));
        object.borrow().vcpus[1].peer.set(stranger);
        Box::new(|object| object.borrow_mut().vcpus[1].peer = RcLink::new())
    });
}

#[test]
fn memory_exhausted_at_each_allocation() {
    let (states, _object) = attached();
    let (mut failed, mut last) = (0, 0);
    for pages in 1..512 {
        let mut outgoing = Outgoing::new(ram(pages));
        let result = outgoing.preserve("state", &states);
        let told = told();
        match result {
            Ok(()) => {
                assert_eq!(told, [0, 1, 2, 3, 4].map(|id| (id, true)));
                let free = outgoing.memory().free_pages();
                assert!(outgoing.unpreserve("state"));
                assert!(free < pages && outgoing.memory().free_pages() == pages);
                last = pages;
                break;
            }
            Err(fault) => {
                assert_eq!(fault.code(), crate::report::Code::Exhausted, "{pages} pages: {fault}");
                assert_eq!(outgoing.memory().free_pages(), pages, "{fault}");
                assert_eq!(format!("{outgoing:?}"), "Outgoing { nodes: [], .. }");
                assert!(told.iter().rev().skip(1).all(|(_, saved)| *saved), "{told:?}");
                failed += 1;
            }
        }
    }
    assert!(failed > 16 && last == failed + 1, "{failed} {last}");
}

#[derive(State, Debug)]
#[state(id = 3, version = 1)]
struct Disks {
    files: Vec<Memfd>,
    last: Fails,
}

#[derive(State, Debug)]
#[state(id = 4, version = 1, before_save = Fails::before)]
struct Fails {
    fails: Cell<bool>,
}

impl Fails {
    fn before(&self) -> Result<(), state::Error> {
        if self.fails.get() { Err(state::Error::refused("not now", "later")) } else { Ok(()) }
    }
}

#[test]
fn tokens_of_files_go_with_what_failed() {
    let file = || Memfd::from(rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap());
    let disks = Rc::new(RefCell::new(Disks { files: vec![file(), file()], last: Fails { fails: Cell::new(true) } }));
    let mut states = States::new();
    states.attach(0, &disks).unwrap();
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    let page = outgoing.alloc(Order::ZERO).unwrap();
    outgoing.free(page);
    for _ in 0..2 {
        let error = outgoing.preserve("state", &states).unwrap_err();
        assert_eq!(error.to_string(), "refused: disks.last: found not now, expected later");
        assert_eq!(outgoing.memory().files().len(), 0);
    }
    disks.borrow().last.fails.set(false);
    outgoing.preserve("state", &states).unwrap();
    assert_eq!(outgoing.memory().files().len(), 2);
    // What is no memfd does not travel as one, and the one before it stays here too.
    assert!(outgoing.unpreserve("state"));
    assert_eq!(outgoing.memory().files().len(), 0);
    disks.borrow_mut().files[1] =
        Memfd::from(std::os::fd::OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap()));
    let error = outgoing.preserve("state", &states).unwrap_err();
    assert_eq!(error.to_string(), "file-kind: disks.files[1].kind: found a regular file, expected a memfd");
    assert_eq!(outgoing.memory().files().len(), 0);
}

#[derive(State, Debug)]
#[state(id = 5, version = 1)]
struct Pages {
    all: Vec<crate::mem::Frame>,
    last: Fails,
}

#[test]
fn pages_of_the_user_are_the_users_again() {
    let mut outgoing = Outgoing::new(ram(64));
    let all = vec![outgoing.alloc(Order::ZERO).unwrap(), outgoing.alloc(Order::new(2).unwrap()).unwrap()];
    let free = outgoing.memory().free_pages();
    let pages = Rc::new(RefCell::new(Pages { all, last: Fails { fails: Cell::new(true) } }));
    let mut states = States::new();
    states.attach(0, &pages).unwrap();
    assert_eq!(outgoing.preserve("state", &states).unwrap_err().code(), crate::report::Code::Refused);
    assert_eq!(outgoing.memory().free_pages(), free);
    // A block twice is one too many.
    pages.borrow().last.fails.set(false);
    let first = pages.borrow().all[0].folio();
    let twice = crate::mem::Frame::of(pages.borrow().all[0].home(), first);
    pages.borrow_mut().all.push(twice);
    let error = outgoing.preserve("state", &states).unwrap_err();
    assert!(error.to_string().starts_with("owned-twice: pages.all[2] at 0x"), "{error}");
    pages.borrow_mut().all.pop();
    outgoing.preserve("state", &states).unwrap();
    assert!(outgoing.unpreserve("state"));
    for frame in std::mem::take(&mut pages.borrow_mut().all) {
        outgoing.free(frame);
    }
    assert_eq!(outgoing.into_memory().free_pages(), 64);
}

#[test]
fn one_object_under_two_numbers_is_not_attached() {
    let object = Rc::new(RefCell::new(vmm()));
    let mut states = States::new();
    states.attach(0, &object).unwrap();
    let error = states.attach(1, &object).unwrap_err();
    let text = "state-id: vmm#1: found an object that is attached already, as vmm, expected one number for each";
    assert_eq!(error.to_string(), text);
}

#[derive(State, Debug)]
#[state(id = 6, version = 2, deprecated(name = "timer", ty = Rc<u32>, until = 2, write = Clocks::timer, read = Clocks::read))]
struct Clock {
    ticks: u32,
}

#[derive(State, Debug)]
#[state(id = 7, version = 1)]
struct Clocks {
    all: Vec<Clock>,
}

impl Clocks {
    fn timer(clock: &Clock) -> Rc<u32> {
        Rc::new(clock.ticks * 10)
    }

    fn read(clock: &mut Clock, timer: Rc<u32>) {
        clock.ticks += *timer;
    }
}

#[test]
fn objects_made_for_an_old_version_are_not_taken_for_each_other() {
    // Each is dropped when it is written, and the next one would get its place.
    let clocks = Clocks { all: (1..6).map(|ticks| Clock { ticks }).collect() };
    let bytes = state::save_as(&clocks, &Versions::of::<Clock>(1).unwrap().and::<Clocks>(1).unwrap()).unwrap();
    let back: Clocks = state::restore(&bytes).unwrap();
    assert_eq!(back.all.iter().map(|clock| clock.ticks).collect::<Vec<_>>(), [11, 22, 33, 44, 55]);
}
