//! States in handovers and alone, by a reader that has none of the types.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::rc::Rc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::handover::{Outgoing, Verdict};
use crate::mem::{Frame, Frames as _, Memory as _, Order, Pfn, Ram};
use crate::state::{self, RcLink, Saved, State, States, Versions};

const BASE: u64 = 1 << 30;

#[derive(State, Clone)]
#[state(id = 1, version = 2, min_version = 1)]
struct Timer {
    deadline: u64,
    #[state(since = 2, default)]
    slack: i32,
}

#[derive(State)]
#[state(id = 2, version = 1)]
enum Mode {
    #[state(tag = 0)]
    Off,
    #[state(tag = 7)]
    Periodic { every: u32 },
}

#[derive(State)]
#[state(id = 3, version = 1)]
struct Bus {
    speed: u16,
    owner: RcLink<RefCell<Bus>>,
}

#[derive(State)]
#[state(id = 7, version = 3, min_version = 3)]
struct Vmm {
    name: String,
    timers: Vec<Timer>,
    mode: Mode,
    off: Mode,
    seed: Vec<u8>,
    big: u128,
    ratio: f32,
    bus: Rc<RefCell<Bus>>,
    again: Option<Rc<RefCell<Bus>>>,
    irqs: BTreeMap<u8, bool>,
    ids: HashSet<u32>,
    #[state(plain)]
    ram: Vec<u32>,
    #[state(subsection = ignorable)]
    late: Option<Timer>,
}

fn vmm() -> Vmm {
    let bus = Rc::new(RefCell::new(Bus { speed: 5, owner: RcLink::new() }));
    bus.borrow().owner.set(&bus);
    Vmm {
        name: "a \"vm\"".into(),
        timers: vec![Timer { deadline: u64::MAX, slack: -1 }, Timer { deadline: 0, slack: 0 }],
        mode: Mode::Periodic { every: 9 },
        off: Mode::Off,
        seed: vec![1, 2, 255],
        big: u128::MAX,
        ratio: 0.1,
        again: Some(bus.clone()),
        bus,
        irqs: BTreeMap::from([(3, true)]),
        ids: HashSet::from([11]),
        ram: vec![0x0403_0201; 5],
        late: Some(Timer { deadline: 4, slack: 5 }),
    }
}

fn value() -> serde_json::Value {
    json!({
        "name": "a \"vm\"",
        "timers": [{"deadline": u64::MAX, "slack": -1}, {"deadline": 0, "slack": 0}],
        "mode": {"variant": "periodic", "fields": {"every": 9}},
        "off": {"variant": "off"},
        "seed": {"len": 3, "hex": "0102ff"},
        "big": "340282366920938463463374607431768211455",
        "ratio": 0.1,
        "bus": {"object": 0},
        "again": {"object": 0},
        "irqs": [{"key": 3, "value": true}],
        "ids": [11],
        "ram": {"bulk": {"bytes": 20, "offset": 0, "first": "01020304010203040102030401020304"}},
        "late": {"deadline": 4, "slack": 5}
    })
}

fn alone(bytes: &[u8]) -> Opened {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Opened::open(file.path(), &Options::default()).unwrap()
}

fn states(opened: &Opened) -> &StateImage {
    let Some(Content::States(states)) = &opened.decoded.nodes[0].content else { panic!("{:?}", opened.decoded) };
    states
}

/// The memory of a machine that hands these over as the node `vm`, with a block of its own.
fn machine(vmm: Vmm, pages: u8) -> Opened {
    #[derive(State)]
    #[state(id = 20, version = 1)]
    struct Pages {
        frame: Frame,
    }
    let window = PageRange::new(Pfn::new(BASE >> 12).unwrap(), 256).unwrap();
    let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, window));
    let frame = outgoing.alloc(Order::new(1).unwrap()).unwrap();
    outgoing.write(&frame, 0, &[pages; 8]).unwrap();
    let mut states = States::new();
    states.with_bulk_checksum(true);
    states.attach(0, &Rc::new(RefCell::new(vmm))).unwrap();
    states.attach(4, &Rc::new(RefCell::new(Pages { frame }))).unwrap();
    outgoing.preserve("vm", &states).unwrap();
    let (ram, _) = outgoing.finish().unwrap().into_parts();
    let mut bytes = vec![0; 256 << 12];
    ram.read(PhysAddr::new(BASE), &mut bytes).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    Opened::of(Image::raw(file, PhysAddr::new(BASE), Geometry::K4).unwrap(), &Options::default()).unwrap()
}

#[test]
fn a_node_of_any_name_is_shown_by_what_it_says_of_itself() {
    let opened = machine(vmm(), 1);
    assert_eq!((opened.decoded.errors, opened.decoded.warnings), (0, 0), "{:?}", opened.decoded.findings);
    let node = &opened.decoded.nodes[0];
    assert_eq!((node.verdict, node.read_as.as_deref()), (Some(Verdict::Fine), Some("kho-state-v1")));
    let shown = serde_json::to_value(states(&opened)).unwrap();
    assert_eq!(
        shown["instances"][0],
        json!({
            "name": "vmm", "id": 7, "number": 0, "version": 3, "object": 1, "value": value(),
        })
    );
    let frame = &shown["instances"][1];
    assert_eq!((&frame["name"], &frame["number"]), (&json!("pages"), &json!(4)));
    let folio = &frame["value"]["frame"]["folio"];
    assert_eq!(folio["order"], 1);
    assert!(folio["address"].as_u64().unwrap() >= BASE);
    assert_eq!(
        shown["objects"],
        json!([
            {"number": 0, "type": "bus", "value": {"speed": 5, "owner": {"link": 0}}}
        ])
    );
    assert_eq!((&shown["bulk"]["bytes"], &shown["bulk"]["checksum"]), (&json!(20), &json!(true)));
    assert_eq!((shown["bulk"]["blocks"].as_array().unwrap().len(), &shown["complete"]), (1, &json!(true)));
    assert_eq!(
        shown["descriptions"][0],
        json!({
            "written": 2, "id": 1, "name": "timer", "version": 2, "min_version": 1, "ignorable": false,
            "body": {"struct": {
                "fields": [
                    {"name": "deadline", "since": 1, "until": 0, "when": false, "type": "u64"},
                    {"name": "slack", "since": 2, "until": 0, "when": false, "type": "i32"},
                ],
                "subsections": [],
            }},
        })
    );
}

#[test]
fn states_that_were_saved_alone() {
    let bytes = state::save(&vmm()).unwrap();
    let opened = alone(&bytes);
    assert_eq!(opened.decoded.findings, []);
    assert_eq!(opened.decoded.source.kind, SourceKind::States);
    let shown = serde_json::to_value(states(&opened)).unwrap();
    assert_eq!(shown["instances"][0]["value"], value());
    assert_eq!(shown["bulk"]["offset"].as_u64().unwrap() + 20, bytes.len() as u64);
    // Cut bulk data, a byte that is not as it was, a length that is beyond.
    let opened = alone(&bytes[..bytes.len() - 1]);
    let told: Vec<&str> = opened.decoded.findings.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(told, ["error: /state: truncated: bulk at offset 0x18: found 19 bytes, expected 20"]);
    let mut other = bytes.clone();
    other[100] ^= 1;
    let opened = alone(&other);
    assert_eq!((opened.decoded.findings[0].code, opened.decoded.errors), (Code::Checksum, 1));
    assert_eq!(opened.decoded.nodes[0].verdict, Some(Verdict::Refused));
    for len in 8..64 {
        assert_eq!(alone(&bytes[..len]).decoded.findings[0].code, Code::Truncated);
    }
    let saved = Saved::of(&vmm(), None, true).unwrap().into_bytes();
    assert_eq!(alone(&saved).decoded.findings, []);
    let mut other = saved.clone();
    *other.last_mut().unwrap() ^= 1;
    let opened = alone(&other);
    assert_eq!(opened.decoded.findings[0].item.as_deref(), Some("bulk_crc"));
    assert!(opened.decoded.nodes[0].content.is_some(), "the rest is shown");
}

/// An image of which a byte was changed, with the checksum of that.
fn patched(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let meta = usize_of(u64::from_le_bytes(bytes[16..24].try_into().unwrap())).min(bytes.len());
    bytes[12..16].copy_from_slice(&[0; 4]);
    let crc = crc32fast::hash(&bytes[..meta]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn what_is_wrong_with_a_value_is_told_with_its_path() {
    let bytes = state::save(&vmm()).unwrap();
    // The tag of the mode, and its field.
    let at = bytes.windows(3).rposition(|bytes| bytes == [15, 19, 1]).unwrap();
    let opened = alone(&patched(&bytes, |bytes| bytes[at] = 0x0b));
    let told: Vec<&str> = opened.decoded.findings.iter().map(|problem| problem.text.as_str()).collect();
    let says = "found 5, expected 0 (off), 7 (periodic)";
    assert_eq!(told, [format!("error: /state: state-tag: vmm.mode.tag at offset {at:#x}: {says}")]);
    assert_eq!(states(&opened).instances[0].value, None);
    assert_eq!(states(&opened).objects.len(), 1, "the others are shown");
}

fn changes(a: &Opened, b: &Opened) -> Vec<String> {
    let diff = Diff::of(a, b, DiffOptions::default());
    let side = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let changes = diff.changes.into_iter().map(|change| {
        let at = change.offset.map(|at| format!(" at {at}")).unwrap_or_default();
        format!("{}{at}: {} -> {}", change.path, side(change.a), side(change.b))
    });
    let not = diff.not_compared.into_iter().map(|not| format!("not {}", not.path));
    changes.chain(not).collect()
}

fn other() -> Vmm {
    let mut other = vmm();
    other.name = "b".into();
    other.timers[1].slack = 3;
    other.timers.push(Timer { deadline: 1, slack: 1 });
    other.mode = Mode::Off;
    other.seed = vec![1, 3];
    other.bus.borrow_mut().speed = 6;
    other.again = Some(Rc::new(RefCell::new(Bus { speed: 6, owner: RcLink::new() })));
    other.irqs = BTreeMap::from([(3, false), (4, true)]);
    other.ids = HashSet::from([12]);
    other.ram[4] ^= 0x100;
    other.late = None;
    other
}

#[test]
fn states_side_by_side() {
    let wanted = |node: &str| {
        let lines = [
            "vmm.name: \"a \"vm\"\" -> \"b\"",
            "vmm.timers.len: 2 -> 3",
            "vmm.timers[1].slack: 0 -> 3",
            "vmm.mode: periodic -> off",
            "vmm.seed.len: 3 -> 2",
            "vmm.seed at 1: 0x02 -> 0x03",
            "vmm.again: object 0 -> object 1",
            "vmm.irqs[3]: true -> false",
            "vmm.irqs[4]: - -> true",
            "vmm.ids[11]: 11 -> -",
            "vmm.ids[12]: - -> 12",
            "vmm.ram at 17: 0x02 -> 0x03",
            "vmm.late: timer -> -",
        ];
        lines.map(|line| format!("/{node} {line}")).to_vec()
    };
    let (a, b) = (alone(&state::save(&vmm()).unwrap()), alone(&state::save(&other()).unwrap()));
    assert_eq!(changes(&a, &a), [""; 0]);
    let last = "/state vmm.bus.speed: 5 -> 6".to_owned();
    assert_eq!(changes(&a, &b), [wanted("state"), vec![last]].concat());

    let (a, b) = (machine(vmm(), 1), machine(other(), 2));
    assert_eq!(changes(&a, &machine(vmm(), 1)), [""; 0]);
    let found = changes(&a, &b);
    let frame = "/vm pages#4.frame.content at 0: 0x01 -> 0x02".to_owned();
    for line in [wanted("vm"), vec![frame, "/vm vmm.bus.speed: 5 -> 6".into()]].concat() {
        assert!(found.contains(&line), "{line} is not in {found:#?}");
    }
}

#[test]
fn another_version_side_by_side() {
    let one = Timer { deadline: 1, slack: 2 };
    let older = state::save_as(&one, &Versions::of::<Timer>(1).unwrap()).unwrap();
    let (a, b) = (alone(&older), alone(&state::save(&one).unwrap()));
    assert_eq!(changes(&a, &b), ["/state versions[timer]: 1 -> 2", "/state timer.slack: - -> 2"]);
}

#[test]
fn long_lists_and_many_differences_are_bounded() {
    #[derive(State)]
    #[state(id = 9, version = 1)]
    struct Long {
        all: Vec<u32>,
    }
    let many = 70_000;
    let (ones, twos) = (Long { all: vec![1; many] }, Long { all: vec![2; many] });
    let (a, b) = (alone(&state::save(&ones).unwrap()), alone(&state::save(&twos).unwrap()));
    let shown = serde_json::to_value(&states(&a).instances[0].value).unwrap();
    assert_eq!((&shown["all"]["len"], shown["all"]["first"].as_array().unwrap().len()), (&json!(many), state::SHOWN));
    let found = changes(&a, &b);
    assert_eq!(found.iter().filter(|line| line.starts_with("/state long.all[")).count(), 4_096);
    assert_eq!(found[4_096..], ["not /state long.all", "not /state values"]);
}

/// Names that are as long as they can be, of values that take a byte each.
#[test]
fn what_is_shown_is_in_proportion_to_the_image() {
    use crate::state::{Body, Desc, Field, Restorer, Saver, Shape, Type, Value, shape_bytes, shape_size};

    struct Many;
    const NAME: &str = match core::str::from_utf8(&[b'n'; 255]) {
        Ok(name) => name,
        Err(_) => "",
    };
    const FIELD: Field = Field {
        name: NAME,
        since: 1,
        until: 0,
        when: false,
        ty: Type::Seq(&Type::State { id: 31, shape: || Empty::SHAPE }),
    };
    const DESC: Desc = Desc {
        name: NAME,
        id: 30,
        version: 1,
        min_version: 1,
        ignorable: false,
        body: Body::Struct { fields: &[FIELD], subsections: &[] },
    };
    #[derive(State)]
    #[state(id = 31, version = 1)]
    struct Empty {
        a_name_that_is_long_and_says_no_more_than_one_byte_of_it_would_have_said_if_it_had_been_one_byte_long_and_no_more_than_that:
            bool,
    }
    impl Value for Many {
        const TYPE: Type = Type::State { id: 30, shape: || Many::SHAPE };

        fn save(&self, out: &mut Saver<'_>) -> state::Result<()> {
            out.enter(Self::SHAPE)?;
            out.number(1 << 20);
            out.bytes(&[0; 1 << 20]);
            out.leave();
            Ok(())
        }

        fn restore(_: &mut Restorer<'_>) -> state::Result<Self> {
            Ok(Many)
        }
    }
    impl State for Many {
        const SHAPE: &'static Shape = &Shape::new(DESC, &shape_bytes::<{ shape_size(&DESC) }>(&DESC));
    }
    let bytes = state::save(&Many).unwrap();
    let opened = alone(&bytes);
    assert_eq!(opened.decoded.findings, []);
    let json = serde_json::to_vec(&opened.decoded).unwrap();
    assert!(json.len() < 20 << 20, "{}", json.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_change_is_shown_or_told(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let whole = alone(&state::save(&vmm()).unwrap());
        let bytes = state::save(&vmm()).unwrap();
        let bytes = patched(&bytes, |bytes| {
            for (index, value) in changes {
                let at = 8 + index.index(bytes.len() - 8);
                bytes[at] = value;
            }
        });
        let opened = alone(&bytes);
        serde_json::to_vec(&opened.decoded).unwrap();
        let _ = Diff::of(&whole, &opened, DiffOptions::default());
        let _ = Diff::of(&opened, &whole, DiffOptions::default());
        let _ = crate::successor::Carried::from(&opened.decoded);
    }
}
