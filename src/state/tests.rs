//! What users do with states, and what hostile bytes do.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crate::abi::state::NODE;
use crate::handover::{Incoming, Outgoing, Registry};
use crate::manifest::{self, Entry, Manifest};
use crate::mem::{Geometry, PageRange, Pfn, Ram};
use crate::state::{self, ArcLink, InPlace, Origin, RcLink, State, States, StatesNode, Versions};

#[derive(State, Clone, Debug, PartialEq, Default)]
#[state(id = 1, version = 2, min_version = 1)]
struct Timer {
    deadline: u64,
    #[state(since = 2, default)]
    slack: i32,
}

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 2, version = 1)]
enum Mode {
    #[state(tag = 1)]
    Off,
    #[state(tag = 7)]
    Periodic { every: u32, timers: Vec<Timer> },
    #[state(tag = 9)]
    Raw(u8, String),
}

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 3, version = 3, min_version = 1, name = "all",
    deprecated(name = "gone", ty = u16, until = 2, after = "b"),
    deprecated(name = "late", ty = String, since = 2, until = 3))]
pub(super) struct All {
    a: bool,
    b: u8,
    c: (u16, i64, char),
    d: [u32; 5],
    e: Option<Box<Mode>>,
    f: BTreeMap<String, Timer>,
    g: BTreeSet<i16>,
    h: Vec<Mode>,
    i: VecDeque<f64>,
    j: HashMap<u64, Vec<u8>>,
    k: HashSet<char>,
    #[state(when = |b, a| *b > 3 && *a, default)]
    l: u64,
    #[state(plain)]
    m: Vec<u64>,
    #[state(since = 3, default, plain)]
    n: Vec<u8>,
    #[state(subsection = required)]
    o: Option<Timer>,
    #[state(subsection = ignorable)]
    p: Option<Mode>,
    q: u128,
    r: i128,
    s: std::time::Duration,
}

pub(super) fn all() -> All {
    All {
        a: true,
        b: 200,
        c: (65535, i64::MIN, '\u{10ffff}'),
        d: [0, 1, 127, 128, u32::MAX],
        e: Some(Box::new(Mode::Periodic { every: 9, timers: vec![Timer { deadline: 1, slack: -1 }; 3] })),
        f: BTreeMap::from([("x".into(), Timer { deadline: u64::MAX, slack: i32::MIN })]),
        g: BTreeSet::from([-5, 0, 5, i16::MAX]),
        h: vec![Mode::Off, Mode::Raw(3, "text".into())],
        i: VecDeque::from([1.5, -0.0]),
        j: HashMap::from([(1, vec![1, 2, 3]), (9, vec![])]),
        k: HashSet::from(['a', 'b']),
        l: 77,
        m: (0..1000).collect(),
        n: vec![7; 100],
        o: Some(Timer { deadline: 5, slack: 6 }),
        p: Some(Mode::Off),
        q: u128::MAX,
        r: i128::MIN,
        s: std::time::Duration::from_millis(1500),
    }
}

/// Another one.
pub(super) fn other() -> All {
    All { a: false, j: HashMap::new(), ..all() }
}

#[test]
fn every_kind_of_field_comes_back() {
    let bytes = state::save(&all()).unwrap();
    assert_eq!(state::restore::<All>(&bytes).unwrap(), all());
    let image = state::Image::open(&bytes).unwrap();
    let written = super::fit::written(&image).unwrap();
    let mut faults = Vec::new();
    let (shown, is_whole) = super::walk::objects(&image, &written, true, &mut |fault| faults.push(fault));
    assert_eq!((faults, shown.len(), is_whole), (vec![], 1, true), "who never saw the types reads it too");
}

#[test]
fn older_versions_are_written_and_read() {
    for version in [1, 2] {
        let versions = Versions::of::<All>(version).unwrap();
        let bytes = state::save_as(&all(), &versions).unwrap();
        let back: All = state::restore(&bytes).unwrap();
        assert_eq!(back, All { n: vec![], ..all() });
    }
    let versions = Versions::of::<Timer>(1).unwrap();
    let back: All = state::restore(&state::save_as(&all(), &versions).unwrap()).unwrap();
    assert_eq!(back.o, Some(Timer { deadline: 5, slack: 0 }));
}

#[derive(State)]
#[state(id = 10, version = 1)]
struct Tree {
    root: Rc<Node>,
    again: Rc<Node>,
}

#[derive(State)]
#[state(id = 11, version = 1)]
struct Node {
    value: u32,
    children: RefCell<Vec<Rc<Node>>>,
    parent: RcLink<Node>,
}

#[test]
fn shared_objects_are_one_and_weak_links_go_back() {
    let leaf = |value| Rc::new(Node { value, children: RefCell::default(), parent: RcLink::new() });
    let root = leaf(1);
    for value in 2..5 {
        let child = leaf(value);
        child.parent.set(&root);
        root.children.borrow_mut().push(child);
    }
    let twin = root.children.borrow()[0].clone();
    root.children.borrow_mut().push(twin);
    let tree = Tree { again: root.clone(), root };
    let back: Tree = state::restore(&state::save(&tree).unwrap()).unwrap();
    assert!(Rc::ptr_eq(&back.root, &back.again));
    let children = back.root.children.borrow();
    assert_eq!(children.iter().map(|child| child.value).collect::<Vec<_>>(), [2, 3, 4, 2]);
    assert!(Rc::ptr_eq(&children[0], &children[3]));
    assert!(children.iter().all(|child| Rc::ptr_eq(&child.parent.get().unwrap(), &back.root)));
}

#[test]
fn objects_that_own_each_other_are_refused() {
    let one = Rc::new(Node { value: 1, children: RefCell::default(), parent: RcLink::new() });
    one.children.borrow_mut().push(one.clone());
    let error = state::save(&Tree { root: one.clone(), again: one.clone() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "state-cycle: tree.root.children[0]: found an object that owns itself, expected a weak link back"
    );
    one.children.borrow_mut().clear();
}

#[derive(State, Debug)]
#[state(id = 12, version = 1)]
struct Pages {
    #[state(plain)]
    pages: InPlace<u64>,
    lock: Arc<Mutex<u32>>,
    to: ArcLink<Mutex<u32>>,
}

#[test]
fn bulk_data_stay_where_they_are() {
    let lock = Arc::new(Mutex::new(5));
    let pages = Pages { pages: vec![3; 4096].into(), to: ArcLink::to(&lock), lock };
    let saved = state::Saved::of(&pages, None, true).unwrap();
    let back: Pages = saved.restore().unwrap();
    assert!(!back.pages.is_copy() && back.pages[..] == [3; 4096]);
    assert!(Arc::ptr_eq(&back.to.get().unwrap(), &back.lock));
}

/// One state in three releases of a program: the version is the same, and subsections come and go.
mod parts {
    use super::*;

    #[derive(State, Debug, PartialEq)]
    #[state(id = 20, version = 1, name = "with")]
    pub(super) struct Without {
        pub(super) a: u32,
        pub(super) b: Vec<Timer>,
    }

    #[derive(State, Debug, PartialEq)]
    #[state(id = 20, version = 1)]
    pub(super) struct With {
        pub(super) a: u32,
        pub(super) b: Vec<Timer>,
        #[state(subsection = ignorable)]
        pub(super) c: Option<Part>,
    }

    #[derive(State, Debug, PartialEq)]
    #[state(id = 20, version = 1, name = "with")]
    pub(super) struct Must {
        pub(super) a: u32,
        pub(super) b: Vec<Timer>,
        #[state(subsection = required)]
        pub(super) c: Option<Part>,
    }

    #[derive(State, Debug, PartialEq, Clone)]
    #[state(id = 21, version = 1)]
    pub(super) struct Part(pub(super) String);
}

#[test]
fn the_first_subsection_may_be_added_and_the_last_one_removed() {
    use parts::{Must, Part, With, Without};
    // In the state that is asked for, and in one of several within another object.
    #[derive(State, Debug, PartialEq)]
    #[state(id = 22, version = 1, name = "outer")]
    struct Old(Vec<Without>, u8);
    #[derive(State, Debug, PartialEq)]
    #[state(id = 22, version = 1, name = "outer")]
    struct New(Vec<With>, u8);

    let b = || vec![Timer { deadline: 7, slack: 8 }; 2];
    let without = || Without { a: 5, b: b() };
    for c in [None, Some(Part("more".into()))] {
        let with = |c: &Option<Part>| With { a: 5, b: b(), c: c.clone() };
        let bytes = state::save(&New(vec![with(&c), with(&None)], 9)).unwrap();
        assert_eq!(state::restore::<Old>(&bytes).unwrap(), Old(vec![without(), without()], 9), "{c:?} is left out");
        assert_eq!(state::restore::<Without>(&state::save(&with(&c)).unwrap()).unwrap(), without());
        let refused = state::restore::<Without>(&state::save(&Must { a: 5, b: b(), c: c.clone() }).unwrap());
        match c {
            None => assert_eq!(refused.unwrap(), without(), "what is not there is no reason to refuse"),
            Some(_) => assert_eq!(
                refused.unwrap_err().to_string(),
                "state-unknown: with.c: found a subsection of id 21, expected one that this reader knows, or none, because it is required"
            ),
        }
    }
    let bytes = state::save(&Old(vec![without(), without()], 9)).unwrap();
    let none = || With { a: 5, b: b(), c: None };
    assert_eq!(state::restore::<New>(&bytes).unwrap(), New(vec![none(), none()], 9));
}

#[test]
fn a_handover_has_some_of_the_states_of_the_manifest_and_no_others() {
    const ENTRIES: &[Entry] = &[manifest::states(NODE, &[Timer::SHAPE, Mode::SHAPE])];
    static NOTE: manifest::Bytes<{ manifest::note_size(ENTRIES) }> = manifest::note(ENTRIES);
    static VERSIONS: manifest::Bytes<{ manifest::versions_size(ENTRIES) }> = manifest::versions(ENTRIES);
    static MANIFEST: Manifest = Manifest::new(ENTRIES, NOTE.as_slice(), VERSIONS.as_slice());

    let ram = || Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
    let timer = Rc::new(RefCell::new(Timer { deadline: 4, slack: 5 }));
    let mut states = States::new();
    states.attach(7, &timer).unwrap();
    let mut outgoing = Outgoing::of(ram(), &MANIFEST);
    outgoing.preserve(NODE, &states).unwrap();
    let (memory, root) = outgoing.finish().unwrap().into_parts();

    let mut registry = Registry::of(&MANIFEST);
    let node = registry.add(NODE, StatesNode::new(&[Timer::SHAPE, Mode::SHAPE]));
    let mut restored = Incoming::new(memory, root.start()).plan(&registry).accept().unwrap().restore().unwrap();
    let mut came = restored.take(&node).unwrap();
    let timer = Rc::new(RefCell::new(Timer::default()));
    assert_eq!(came.attach(7, &timer).unwrap(), Origin::Restored { version: 2 });
    assert_eq!(*timer.borrow(), Timer { deadline: 4, slack: 5 });

    let stranger = Rc::new(RefCell::new(parts::Part("no such state".into())));
    states.attach(0, &stranger).unwrap();
    assert_eq!(
        Outgoing::of(ram(), &MANIFEST).preserve(NODE, &states).unwrap_err().to_string(),
        "manifest-disagrees: /state: found the state part (id 21, version 1, from 1), \
         expected no such state, as the manifest says"
    );
}

#[test]
fn a_state_without_its_description_is_refused() {
    // The row of `timer` is taken out of what saved a `mode`, which has timers: 8 bytes, and its description.
    let mut bytes = state::save(&Holds { mode: Mode::Off }).unwrap();
    let timer = Timer::SHAPE.bytes();
    let place = bytes.windows(timer.len()).position(|window| window == timer).unwrap();
    bytes.drain(place - number_len(timer.len())..place + timer.len());
    bytes.drain(64..72);
    let (uses, meta) = (bytes[40] - 1, bytes.len() as u64);
    bytes[40] = uses;
    bytes[16..24].copy_from_slice(&meta.to_le_bytes());
    bytes[12..16].fill(0);
    let crc = crc32fast::hash(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let error = state::restore::<Holds>(&bytes).err().unwrap();
    assert_eq!(
        error.to_string(),
        "state-id: holds.mode.periodic.timers[]: found no description of id 1, expected a description of every state"
    );
}

#[derive(State)]
#[state(id = 60, version = 1)]
struct Holds {
    mode: Mode,
}

fn number_len(number: usize) -> usize {
    if number < 128 { 1 } else { 2 }
}

#[test]
fn another_file_is_told_as_such_however_short_it_is() {
    let error = state::restore::<Timer>(b"a text of another program").unwrap_err();
    assert_eq!(error.to_string(), "magic: magic at offset 0x0: found 0x6f20747865742061, expected 0x45544154534f484b");
}
