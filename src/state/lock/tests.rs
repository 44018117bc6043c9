//! Every rule, with the text that a user reads.

mod text;

use std::string::{String, ToString as _};
use std::vec::Vec;
use std::{assert, assert_eq, format};

use super::{Lock, of_code};
use crate::state::{Shape, State};

#[derive(State)]
#[state(id = 9, version = 1)]
struct Lapic {
    timer: u32,
}

#[derive(State)]
#[state(id = 7, version = 2, deprecated(name = "old", ty = u16, until = 2, after = "regs"))]
struct Vcpu {
    id: u32,
    #[state(default, when = |id| *id > 0)]
    regs: [u64; 18],
    #[state(since = 2, default)]
    tsc: u64,
    #[state(subsection = required)]
    lapic: Option<Lapic>,
}

#[derive(State)]
#[state(id = 8, version = 2, ignorable)]
enum Mode {
    #[state(tag = 1)]
    Running,
    #[state(tag = 2)]
    Paused { at: u64 },
    #[state(tag = 3, since = 2)]
    Moving(u32),
}

fn lock(published: bool, shapes: &[&'static Shape]) -> Lock {
    let mut lock = Lock::default().bless(&of_code(shapes.iter().copied()).unwrap()).unwrap();
    if published {
        lock.publish("vmm 1.0");
    }
    lock
}

/// What a code of these states is told by a published lock of those.
fn told(was: &[&'static Shape], now: &[&'static Shape]) -> Vec<String> {
    let code = of_code(now.iter().copied()).unwrap();
    let complaints = lock(true, was).check(&code);
    assert_eq!(lock(true, was).bless(&code).is_err(), complaints.iter().any(super::Complaint::is_final));
    complaints.iter().map(ToString::to_string).collect()
}

/// The same of a structure with these fields and attributes, in the place of one with those.
macro_rules! told {
    (($($was:tt)*) ($($now:tt)*)) => {{
        let was = { #[allow(dead_code)] #[derive(State)] $($was)* X::SHAPE };
        let now = { #[allow(dead_code)] #[derive(State)] $($now)* X::SHAPE };
        told(&[was], &[now])
    }};
}

#[test]
fn a_deleted_field() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32, old: u16 })
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32 })
    };
    assert_eq!(
        texts,
        ["state-lock: vcpu.old: found no such field, expected u16, which version 1 has: declare it with \
          deprecated(name = \"old\", until = 2, ..)\n  vcpu version 1 is published (vmm 1.0) and never changes"]
    );
    // As it was said, all is well.
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32, old: u16 })
        (#[state(id = 7, version = 2, name = "vcpu", deprecated(name = "old", ty = u16, until = 2, after = "id"))]
         struct X { id: u32 })
    };
    assert_eq!(texts, ["state-lock: vcpu: found version 2, expected it in the lock\n  KHO_BLESS=1 cargo test adds it"]);
}

#[test]
fn a_type_changed_under_the_same_version() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32, b: u16 })
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u64, b: u16 })
    };
    assert_eq!(
        texts,
        ["state-lock: vcpu.id: found u64, expected u32 in version 1: another type is another field, version = 2, \
          since = 2\n  vcpu version 1 is published (vmm 1.0) and never changes"]
    );
    let texts = told! {
        (#[state(id = 7, version = 2, name = "vcpu")] struct X { id: u32, b: u16 })
        (#[state(id = 7, version = 3, name = "vcpu")] struct X { id: u32, #[state(default, when = |id| *id > 0)] b: u16 })
    };
    assert_eq!(
        texts[0],
        "state-lock: vcpu.b: found u16 under a condition, expected u16 in version 2: another type is another field, \
         since = 3\n  vcpu version 2 is published (vmm 1.0) and never changes"
    );
}

#[test]
fn types_that_could_be_confused() {
    use std::rc::Rc;
    let texts = told! {
        (#[state(id = 7, version = 1)] struct X { a: Option<Rc<u8>>, b: Option<(u8,)> })
        (#[state(id = 7, version = 1)] struct X { a: Rc<Option<u8>>, b: (Option<u8>,) })
    };
    assert!(texts[0].starts_with("state-lock: x.a: found shared u8?, expected (shared u8)? in version 1"), "{texts:?}");
    assert!(texts[1].starts_with("state-lock: x.b: found (u8?,), expected (u8,)? in version 1"), "{texts:?}");
}

#[test]
fn a_new_field_under_a_locked_version() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32 })
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32, tsc: u64 })
    };
    assert_eq!(
        texts,
        ["state-lock: vcpu.tsc: found u64, expected version = 2, since = 2: version 1 is locked without it\n  vcpu \
          version 1 is published (vmm 1.0) and never changes"]
    );
}

#[test]
fn a_renamed_field() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32, b: u16 })
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { number: u32, b: u16 })
    };
    assert_eq!(
        texts,
        [
            "state-lock: vcpu.id: found number in its place, expected id, as version 1 has it: rename = \"id\" keeps the \
          name\n  vcpu version 1 is published (vmm 1.0) and never changes"
        ]
    );
}

#[test]
fn a_moved_field() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { a: u32, b: u16, c: u8 })
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { a: u32, c: u8, b: u16 })
    };
    assert_eq!(
        texts,
        ["state-lock: vcpu.b: found it behind c, expected it behind a, where version 1 has it\n  vcpu version 1 is \
          published (vmm 1.0) and never changes"]
    );
}

#[test]
fn a_reused_id() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32 })
        (#[state(id = 7, version = 1, name = "timer")] struct X { deadline: u64 })
    };
    assert_eq!(
        texts,
        [
            "state-lock: id 7: found timer, made of other fields, expected vcpu, which has it: give a new state an id of \
          its own\n  vcpu version 1 is published (vmm 1.0) and never changes"
        ]
    );
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32 })
        (#[state(id = 7, version = 1, name = "vcpu")] enum X { #[state(tag = 1)] A })
    };
    assert!(texts[0].starts_with("state-lock: id 7: found the enum vcpu, expected the structure vcpu, which has it"));
}

#[test]
fn an_id_that_is_retired_is_not_used_again() {
    let gone = lock(true, &[Vcpu::SHAPE]).bless(&of_code([Lapic::SHAPE]).unwrap()).unwrap();
    assert!(gone.sections[&(7, 2)].retired);
    let other = {
        #[allow(dead_code)]
        #[derive(State)]
        #[state(id = 7, version = 3, min_version = 3)]
        struct Disk {
            sectors: u64,
        }
        Disk::SHAPE
    };
    let complaints = gone.check(&of_code([other, Lapic::SHAPE]).unwrap());
    assert_eq!(
        complaints[0].fault.to_string(),
        "state-lock: id 7: found disk, made of other fields, expected vcpu, which has it: give a new state an id of \
         its own"
    );
    // The same one may come back.
    let complaints = gone.check(&of_code([Vcpu::SHAPE]).unwrap());
    assert_eq!(
        complaints[0].to_string(),
        "state-lock: vcpu: found versions from 1, expected none, because all are retired\n  KHO_BLESS=1 cargo test \
         takes the mark away"
    );
}

#[test]
fn another_label_alone_is_told_and_allowed() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32 })
        (#[state(id = 7, version = 1, name = "cpu")] struct X { id: u32 })
    };
    assert_eq!(
        texts,
        ["state-lock: cpu: found the name cpu for id 7, expected vcpu, as the lock has it\n  KHO_BLESS=1 cargo test \
          takes the new name: the id is what counts"]
    );
}

#[test]
fn another_id_under_the_same_name() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32 })
        (#[state(id = 8, version = 1, name = "vcpu")] struct X { id: u32 })
    };
    assert_eq!(
        texts[1],
        "state-lock: vcpu: found id 8, expected id 7, which stays with it\n  vcpu version 1 is published (vmm 1.0) and \
         never changes"
    );
}

#[test]
fn a_raised_min_version() {
    let was = lock(true, &[Vcpu::SHAPE]);
    let now = {
        #[allow(dead_code)]
        #[derive(State)]
        #[state(id = 7, version = 3, min_version = 3, name = "vcpu")]
        struct Vcpu3 {
            id: u32,
            #[state(since = 3, default)]
            flags: u8,
        }
        of_code([Vcpu3::SHAPE, Lapic::SHAPE]).unwrap()
    };
    let complaints: Vec<String> = was.check(&now).iter().map(ToString::to_string).collect();
    assert_eq!(
        complaints,
        [
            "state-lock: vcpu: found version 3, expected it in the lock\n  KHO_BLESS=1 cargo test adds it",
            "state-lock: vcpu: found versions from 3, expected from 1: what older programs saved is refused now\n  \
             KHO_BLESS=1 cargo test says so, and marks what is no longer read retired",
        ]
    );
    let blessed = was.bless(&now).unwrap();
    assert!(blessed.sections[&(7, 2)].retired && !blessed.sections[&(7, 3)].retired);
    assert_eq!(blessed.check(&now), []);
    assert_eq!(Lock::parse(&blessed.to_string()).unwrap(), blessed);
    // Reading them again is held to what they were.
    let complaints = blessed.check(&of_code([Vcpu::SHAPE]).unwrap());
    assert!(complaints[0].to_string().starts_with("state-lock: vcpu: found version 2, expected 3"), "{complaints:?}");
}

#[test]
fn a_lowered_version() {
    let texts = told! {
        (#[state(id = 7, version = 2, name = "vcpu")] struct X { id: u32 })
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32 })
    };
    assert_eq!(
        texts,
        ["state-lock: vcpu: found version 1, expected 2, which the lock has: versions only rise\n  vcpu version 2 is \
          published (vmm 1.0) and never changes"]
    );
}

#[test]
fn a_state_that_vanished() {
    assert_eq!(
        told(&[Mode::SHAPE, Lapic::SHAPE], &[Lapic::SHAPE]),
        ["state-lock: mode: found no such state in the code, expected id 8, which the lock has\n  KHO_BLESS=1 cargo \
          test says that it is gone on purpose, and marks it retired"]
    );
}

#[test]
fn variants() {
    macro_rules! mode {
        ($($now:tt)*) => {
            told! {
                (#[state(id = 8, version = 1, name = "mode")] enum X {
                    #[state(tag = 1)] Running,
                    #[state(tag = 2)] Paused { at: u64 },
                })
                (#[state(id = 8, version = 1, name = "mode")] enum X { $($now)* })
            }
        };
    }
    let end = "\n  mode version 1 is published (vmm 1.0) and never changes";
    assert_eq!(
        mode!(
            #[state(tag = 1)]
            Running,
        ),
        [format!("state-lock: mode.paused: found no such variant, expected one with tag 2, which version 1 has{end}")]
    );
    assert_eq!(
        mode!(
            #[state(tag = 1)]
            Running,
            #[state(tag = 2)]
            Stopped { at: u64 }
        ),
        [format!(
            "state-lock: mode.paused: found stopped with its tag 2, expected paused, as version 1 has it: rename = \
             \"paused\" when it is the same, and else a new tag, version = 2, since = 2{end}"
        )]
    );
    assert_eq!(
        mode!(
            #[state(tag = 1)]
            Running,
            #[state(tag = 2)]
            Paused {}
        ),
        [format!(
            "state-lock: mode.paused.at: found no such field, expected u64, which version 1 has: leave it in the \
             variant, or give the new form a tag of its own{end}"
        )]
    );
    assert_eq!(
        mode!(
            #[state(tag = 1)]
            Running,
            #[state(tag = 2)]
            Paused { at: i64 }
        ),
        [format!(
            "state-lock: mode.paused.at: found i64, expected u64 in version 1: another type is another field, version \
             = 2, since = 2{end}"
        )]
    );
    assert_eq!(
        mode!(
            #[state(tag = 1)]
            Running,
            #[state(tag = 2)]
            Paused { at: u64 },
            #[state(tag = 3)]
            Moving
        ),
        [format!(
            "state-lock: mode.moving: found variant 3, expected version = 2, since = 2: version 1 is locked without \
             it{end}"
        )]
    );
    // Their order is nothing.
    assert_eq!(
        mode!(
            #[state(tag = 2)]
            Paused { at: u64 },
            #[state(tag = 1)]
            Running
        ),
        [""; 0]
    );
}

#[test]
fn subsections() {
    #[derive(State)]
    #[state(id = 10, version = 1)]
    struct Stats {
        exits: u64,
    }
    macro_rules! vcpu {
        ($($now:tt)*) => {{
            let texts = told! {
                (#[state(id = 7, version = 1, name = "vcpu")]
                 struct X { id: u32, #[state(subsection = required)] lapic: Option<Lapic> })
                (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32, $($now)* })
            };
            texts.into_iter().filter(|text| text.contains("vcpu")).collect::<Vec<_>>()
        }};
    }
    let end = "\n  vcpu version 1 is published (vmm 1.0) and never changes";
    assert_eq!(
        vcpu!(),
        [format!(
            "state-lock: vcpu.lapic: found no such subsection, expected one of id 9, which programs of version 1 \
             write: keep it as long as min_version is at most 1{end}"
        )]
    );
    assert_eq!(
        vcpu!(#[state(subsection = ignorable)] lapic: Option<Lapic>),
        [format!("state-lock: vcpu.lapic: found ignorable, expected required, as it was written{end}")]
    );
    assert_eq!(
        vcpu!(#[state(subsection = required)] lapic: Option<Stats>),
        [format!(
            "state-lock: vcpu.lapic: found a subsection of id 10, expected id 9: another state is another subsection, \
             beside this one{end}"
        )]
    );
    assert_eq!(
        vcpu!(#[state(subsection = required)] apic: Option<Lapic>),
        [format!("state-lock: vcpu.lapic: found id 9 as apic, expected rename = \"lapic\", which keeps the name{end}")]
    );
    // A new one has no version: it is told, and added.
    assert_eq!(
        vcpu!(#[state(subsection = required)] lapic: Option<Lapic>, #[state(subsection = ignorable)] s: Option<Stats>),
        ["state-lock: vcpu.s: found a subsection of id 10, expected it in the lock\n  KHO_BLESS=1 cargo test adds it"]
    );
}

#[test]
fn whether_it_may_be_ignored() {
    let texts = told! {
        (#[state(id = 7, version = 1, name = "vcpu", ignorable)] struct X { id: u32 })
        (#[state(id = 7, version = 1, name = "vcpu")] struct X { id: u32 })
    };
    assert_eq!(
        texts,
        ["state-lock: vcpu: found not ignorable, expected ignorable until version 2\n  vcpu version 1 is published \
          (vmm 1.0) and never changes"]
    );
}

#[test]
fn only_the_newest_that_nobody_has_is_blessed_again() {
    let with = |version: u32| {
        let mut code = of_code([Lapic::SHAPE]).unwrap();
        code[0].version = version;
        code
    };
    let other = |version: u32| {
        let mut code = with(version);
        if let super::Body::Struct { fields, .. } = &mut code[0].body {
            fields[0].ty = "u8".into();
        }
        code
    };
    let draft = Lock::default().bless(&with(1)).unwrap();
    assert_eq!(
        draft.check(&other(1))[0].to_string(),
        "state-lock: lapic.timer: found u8, expected u32 in version 1: another type is another field, version = 2, \
         since = 2\n  lapic version 1 is not published: as said, or the same version blessed again: KHO_BLESS=1 cargo \
         test"
    );
    let again = draft.bless(&other(1)).unwrap();
    assert_eq!(again.check(&other(1)), []);
    // With a newer one beside it, it is what somebody has.
    let two = draft.bless(&with(2)).unwrap();
    let refusal = two.bless(&other(2)).unwrap_err();
    assert!(refusal.to_string().contains("lapic version 1 is not the newest, and never changes"), "{refusal}");
    // A version that nobody has can be taken back.
    let back = two.bless(&with(1));
    assert_eq!(back.unwrap(), draft);
}
