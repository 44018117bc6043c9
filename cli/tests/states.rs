//! Typed state: `kho dump`, `check`, `diff` and `plan` have none of these types.

mod common;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use common::{Handover, json, run};
use kho::compat::{MadeOf, Term, Terms};
use kho::handover::Outgoing;
use kho::state::{self, Description, MADE_OF, State, States, Versions};
use kho::transport::Bundle;
use serde_json::Value;

#[derive(State)]
#[state(id = 1, version = 2, min_version = 1)]
struct Vcpu {
    rip: u64,
    #[state(since = 2, default)]
    timer: u32,
}

#[derive(State)]
#[state(id = 2, version = 1)]
enum Mode {
    #[state(tag = 1)]
    Off,
    #[state(tag = 2)]
    Run { since: u64 },
}

#[derive(State)]
#[state(id = 3, version = 1)]
struct Bus {
    slots: Vec<u8>,
}

#[derive(State)]
#[state(id = 7, version = 2, min_version = 2)]
struct Vmm {
    name: String,
    vcpus: Vec<Vcpu>,
    mode: Mode,
    last: Option<Mode>,
    bus: Rc<RefCell<Bus>>,
    masks: [u16; 3],
    #[state(plain)]
    ram: Vec<u8>,
    #[state(subsection = ignorable)]
    late: Option<Bus>,
}

fn vmm() -> Vmm {
    Vmm {
        name: "\x1b[31mred".into(),
        vcpus: vec![Vcpu { rip: 0xfff0, timer: 7 }, Vcpu { rip: 0, timer: 0 }],
        mode: Mode::Run { since: 5 },
        last: Some(Mode::Off),
        bus: Rc::new(RefCell::new(Bus { slots: vec![1, 2, 3] })),
        masks: [1, 2, 3],
        ram: vec![9; 100],
        late: None,
    }
}

fn saved(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> String {
    let path: PathBuf = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().into()
}

fn valid(of: &str, value: &Value) {
    let schema = serde_json::from_str(&run(0, &["schema", of])).unwrap();
    jsonschema::validate(&schema, value).unwrap();
}

const VALUES: &str = "    1 instance, 1 shared object; 388 B, bulk data 100 B
    vmm#0  version 2 (id 7)
        name   \"\\u{1b}[31mred\"
        vcpus  2 elements
            [0]  vcpu version 2
                rip    65520 (0xfff0)
                timer  7
            [1]  vcpu version 2
                rip    0
                timer  0
        mode   mode version 1: run
            since  5
        last   mode version 1: off
        bus    -> object 0
        masks  [1, 2, 3]
        ram    100 B of bulk data at 0x0: 09 09 09 09 09 09 09 09 09 09 09 09 09 09 09 09 ...
    object 0  bus version 1
        slots  3 bytes 01 02 03
    made of
        vcpu  id 1, version 2, from 1
            rip    u64
            timer  u32, since 2
        mode  id 2, version 1, one of
            off (1)
            run (2)
                since  u64
        bus  id 3, version 1
            slots  [u8]
        vmm  id 7, version 2
            name   str
            vcpus  [vcpu]
            mode   mode
            last   mode?
            bus    shared bus
            masks  [u16; 3]
            ram    plain u8
            late   bus, a subsection, ignorable
";

#[test]
fn states_that_a_program_saved_are_shown_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved(&dir, "state.bin", &state::save(&vmm()).unwrap());
    let shown = run(0, &["dump", &path]);
    let head = format!("{path}\nsource     saved states, 548 B\n\nstate  kho-state-v1  fine\n");
    assert_eq!(shown, format!("{head}{VALUES}\nfine\n"));
    let decoded = json(0, &["dump", &path]);
    valid("dump", &decoded);
    let value = &decoded["nodes"][0]["content"]["instances"][0]["value"];
    assert_eq!(value["vcpus"][0], serde_json::json!({"rip": 65520, "timer": 7}));
    assert_eq!(value["mode"], serde_json::json!({"variant": "run", "fields": {"since": 5}}));
    assert_eq!(run(0, &["check", &path]), format!("source     saved states, 548 B\n{path}: fine\n"));
    let checked = json(0, &["check", &path]);
    valid("check", &checked);
    assert_eq!(checked["checked"], "states");

    let mut bytes = std::fs::read(&path).unwrap();
    bytes[80] ^= 1;
    let path = saved(&dir, "broken.bin", &bytes);
    let shown = run(1, &["check", &path]);
    assert!(shown.contains("\nerror: /state: checksum: crc at offset 0xc: found 0x"), "{shown}");
    assert!(run(1, &["dump", &path]).ends_with(": 1 error\n") || run(1, &["dump", &path]).ends_with("\n1 error\n"));
    valid("dump", &json(1, &["dump", &path]));
    let shown = run(2, &["dump", "--fdt", "0x1000", &path]);
    assert!(shown.contains("found saved states, expected memory"), "{shown}");
    let shown = run(2, &["plan", &path, "--against", env!("CARGO_BIN_EXE_kho")]);
    assert!(shown.contains("states that were saved alone"), "{shown}");
}

fn handover(vmm: Vmm) -> Handover {
    let mut outgoing = Outgoing::new(Bundle::new(16 << 20).unwrap());
    let mut states = States::new();
    states.attach(0, &Rc::new(RefCell::new(vmm))).unwrap();
    outgoing.preserve("machine", &states).unwrap();
    Handover::of(outgoing, Vec::new())
}

#[test]
fn states_in_a_handover() {
    let handover = handover(vmm());
    let shown = run(0, &["dump", handover.path()]);
    assert!(shown.contains(&format!(", owns 80 KiB\n{VALUES}")), "{shown}");
    assert!(shown.ends_with("\nfine\n"), "{shown}");
    valid("dump", &handover.decoded());
}

#[test]
fn states_field_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = vmm();
    other.vcpus[1].timer = 9;
    other.mode = Mode::Off;
    other.bus.borrow_mut().slots[2] = 4;
    other.ram[99] = 8;
    other.late = Some(Bus { slots: Vec::new() });
    let old = Versions::of::<Vcpu>(1).unwrap();
    let a = saved(&dir, "a", &state::save(&vmm()).unwrap());
    let b = saved(&dir, "b", &state::save(&other).unwrap());
    let c = saved(&dir, "c", &state::save_as(&vmm(), &old).unwrap());
    let lines = |node: &str| {
        format!(
            "/{node} vmm.vcpus[1].timer: 0 -> 9
/{node} vmm.mode: run -> off
/{node} vmm.ram at 0x63: 0x09 -> 0x08
/{node} vmm.late: only in B (bus)
/{node} vmm.bus.slots at 0x2: 0x03 -> 0x04
"
        )
    };
    assert_eq!(run(1, &["diff", &a, &b]), format!("{}{a} and {b}: 5 differences\n", lines("state")));
    assert_eq!(run(0, &["diff", &a, &a]), format!("{a} and {a}: same\n"));
    let report = json(1, &["diff", &a, &b]);
    valid("diff", &report);
    assert_eq!(report["changes"][0]["path"], "/state vmm.vcpus[1].timer");
    let versions = "/state versions[vcpu]: 2 -> 1
/state vmm.vcpus[0].timer: only in A (7)
/state vmm.vcpus[1].timer: only in A (0)
";
    assert_eq!(run(1, &["diff", &a, &c]), format!("{versions}{a} and {c}: 3 differences\n"));
    let (one, two) = (handover(vmm()), handover(other));
    let shown = run(1, &["diff", one.path(), two.path()]);
    assert!(shown.contains(&lines("machine")), "{shown}");
}

/// The states of a program, some of which are other ones.
fn program(dir: &tempfile::TempDir, name: &str, change: impl Fn(&mut Vec<Description>)) -> String {
    let mut states: Vec<Description> = [Vcpu::SHAPE, Mode::SHAPE, Bus::SHAPE, Vmm::SHAPE]
        .map(|shape| Description::parse(shape.bytes()).unwrap())
        .into();
    change(&mut states);
    let made_of = MadeOf { newest: MADE_OF, oldest: MADE_OF.owner().version() };
    let term = Term::node("machine", made_of, true).with_states(states);
    let layouts = ["kho-v4", "radix-v1", "vmalloc-v1", "block-v1"].map(|text| Term::parse("", text, 1, false));
    let terms: Terms = layouts
        .into_iter()
        .map(|term| term.unwrap_or_else(|_| Term::parse("", "kho-v4", 4, false).unwrap()))
        .chain([term])
        .collect();
    let mut profile = json(0, &["understands", env!("CARGO_BIN_EXE_kho")]);
    profile["program"]["reads"] = serde_json::to_value(&terms).unwrap();
    profile["program"]["writes"] = serde_json::to_value(&terms).unwrap();
    saved(dir, name, profile.to_string().as_bytes())
}

#[test]
fn a_plan_names_the_first_field_that_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let handover = handover(vmm());
    let same = program(&dir, "same.json", |_| {});
    let shown = run(0, &["plan", handover.path(), "--against", &same]);
    assert!(shown.ends_with(": go\n"), "{shown}");
    let field = |states: &mut Vec<Description>| {
        let text = serde_json::to_string(&states[0]).unwrap().replace("\"type\":\"u32\"", "\"type\":\"u64\"");
        states[0] = serde_json::from_str(&text).unwrap();
    };
    let other = program(&dir, "other.json", field);
    let why = "    why   state-field: vmm.vcpus[].timer: found u32, expected u64, in version 2\n";
    for file in [handover.path(), &same] {
        let shown = run(1, &["plan", file, "--against", &other]);
        assert!(shown.contains(why) && shown.ends_with(": refused\n"), "{shown}");
        let report = json(1, &["plan", file, "--against", &other]);
        valid("plan", &report);
        let line = report["lines"].as_array().unwrap().iter().find(|line| line["node"] == "/machine").unwrap();
        assert_eq!((&line["code"], &line["verdict"]), (&"state-field".into(), &"refused".into()));
    }
    let without = program(&dir, "without.json", |states| {
        states.remove(1);
    });
    let shown = run(1, &["plan", handover.path(), "--against", &without]);
    assert!(shown.contains("    why   state-unknown: vmm.mode: id 2\n"), "{shown}");
    // As a program's manifest has it.
    let shown = run(0, &["understands", &same]);
    let states = "reads   machine    kho-state-v1, using vmalloc-v1
        vcpu  id 1, version 2, from 1
            rip    u64
            timer  u32, since 2
        mode  id 2, version 1, one of
            off (1)
            run (2)
                since  u64
";
    assert!(shown.contains(states), "{shown}");
    let shown = run(
        2,
        &["understands", &{
            let text = std::fs::read_to_string(&same).unwrap().replace("[u16; 3]", "[u16; 0]");
            saved(&dir, "broken.json", text.as_bytes())
        }],
    );
    assert!(shown.contains("state-schema: type: found \"[u16; 0]\", expected a type, as [u64; 18]"), "{shown}");
}
