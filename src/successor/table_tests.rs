//! Predecessor against successor: each row of what a mismatch costs, with what a kernel does about it.

use super::carried::{Item, Role};
use super::{Answer, By, Carried, Consequence, Plan, Profile, Setting, Statement, Verdict};
use crate::inspect::{self, Options};
use crate::mem::Machine;
use crate::report::{Class, Code};

const ALL: &str = "kho-v4 luo-v5 memfd-v2 memblock-v1 kexec-metadata-v1 kho-test-v1";

fn reads(list: &str) -> Profile {
    let understands = list.split_whitespace().map(Statement::pinned).collect();
    Profile { profile: 1, understands, ..Profile::default() }
}

/// By strings, as of a kernel.
fn strings(list: &str) -> Profile {
    let mut profile = reads(list);
    profile.understands.iter_mut().for_each(|statement| statement.by = By::Strings);
    profile
}

fn frozen() -> Carried {
    let decoded = inspect::open("tests/data/linux-7.2-x86_64/frozen.core", &Options::default()).unwrap();
    Carried::from(&decoded)
}

/// The handover of the fixture, with other versions.
fn carries(changes: &[(&str, &str)]) -> Carried {
    let mut carried = frozen();
    for component in carried.items.iter_mut().flat_map(|item| &mut item.components) {
        if let Some((_, to)) = changes.iter().find(|(from, _)| component == from) {
            *component = (*to).into();
        }
    }
    carried
}

fn node(plan: &Plan, component: &str) -> (Verdict, Option<Code>, Consequence) {
    let line = plan.lines.iter().find(|line| line.component == component);
    let line = line.unwrap_or_else(|| panic!("no {component} in {:#?}", plan.lines));
    (line.verdict, line.code, line.consequence)
}

/// What the fixture says instead; what the successor reads; the component, and what becomes of it; the answer.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, Verdict, Option<Code>, Consequence, Answer);

#[test]
fn each_mismatch_has_its_consequence() {
    use Consequence::{
        AllMemoryLost, AllocatedAfresh, MetadataIgnored, Misread, NoLiveUpdate, None as TakenOver, Panic,
        SessionsUnreachable, StaysReserved,
    };
    use Verdict::{Dropped, Fine, Refused};
    let newer = Some(Code::VersionNewer);
    let older = Some(Code::VersionOlder);
    let rows: &[Row<'_>] = &[
        (&[], ALL, "kho-v4", Fine, None, TakenOver, Answer::Go),
        (&[], ALL, "luo-v5", Fine, None, TakenOver, Answer::Go),
        (&[], ALL, "memfd-v2", Fine, None, TakenOver, Answer::Go),
        (&[], ALL, "memblock-v1", Fine, None, TakenOver, Answer::Go),
        // No `kho-v4`.
        (&[], "kho-v5 luo-v5 memfd-v2", "kho-v4", Refused, older, AllMemoryLost, Answer::Refused),
        (&[("kho-v4", "kho-v5")], ALL, "kho-v5", Refused, newer, AllMemoryLost, Answer::Refused),
        (&[], "kho-v3", "kho-v4", Refused, newer, AllMemoryLost, Answer::Refused),
        (&[], "luo-v5 memfd-v2", "kho-v4", Refused, Some(Code::SuccessorWithout), AllMemoryLost, Answer::Refused),
        (&[], "kho_v4", "kho-v4", Refused, Some(Code::ComponentUnknown), AllMemoryLost, Answer::Refused),
        (
            &[],
            "kho-v3 kho-v4 luo-v5 memfd-v2 memblock-v1 kexec-metadata-v1 kho-test-v1",
            "kho-v4",
            Fine,
            None,
            TakenOver,
            Answer::Go,
        ),
        // What the root is made of.
        (&[], &format!("{ALL} radix-v2"), "radix-v1", Refused, older, Misread, Answer::Refused),
        (&[("vmalloc-v1", "vmalloc-v2")], ALL, "vmalloc-v2", Refused, newer, Misread, Answer::Refused),
        (&[], &format!("{ALL} block-v1 block-v2"), "block-v1", Fine, None, TakenOver, Answer::Go),
        // `luo-v5` differs.
        (&[], "kho-v4 luo-v6 memfd-v2", "luo-v5", Refused, older, Panic, Answer::Refused),
        (&[("luo-v5", "luo-v6")], ALL, "luo-v6", Refused, newer, Panic, Answer::Refused),
        (&[], "kho-v4 memfd-v2", "luo-v5", Refused, Some(Code::SuccessorWithout), NoLiveUpdate, Answer::Refused),
        // A handler of files.
        (&[], "kho-v4 luo-v5 memfd-v3", "memfd-v2", Refused, older, SessionsUnreachable, Answer::Refused),
        (&[("memfd-v2", "memfd-v3")], ALL, "memfd-v3", Refused, newer, SessionsUnreachable, Answer::Refused),
        (&[], "kho-v4 luo-v5", "memfd-v2", Refused, Some(Code::ComponentUnknown), SessionsUnreachable, Answer::Refused),
        (
            &[("memfd-v2", "vfio-pci-v1")],
            ALL,
            "vfio-pci-v1",
            Refused,
            Some(Code::ComponentUnknown),
            SessionsUnreachable,
            Answer::Refused,
        ),
        (
            &[("memfd-v2", "a\u{1b}[31m")],
            ALL,
            "a\u{1b}[31m",
            Refused,
            Some(Code::ComponentUnknown),
            SessionsUnreachable,
            Answer::Refused,
        ),
        // memblock, kexec-metadata, kho_test.
        (&[("memblock-v1", "memblock-v2")], ALL, "memblock-v2", Dropped, newer, AllocatedAfresh, Answer::Go),
        (
            &[],
            "kho-v4 luo-v5 memfd-v2",
            "memblock-v1",
            Dropped,
            Some(Code::ComponentDropped),
            AllocatedAfresh,
            Answer::Go,
        ),
        (
            &[("kexec-metadata-v1", "kexec-metadata-v2")],
            ALL,
            "kexec-metadata-v2",
            Dropped,
            newer,
            MetadataIgnored,
            Answer::Go,
        ),
        (&[("kho-test-v1", "kho-test-v2")], ALL, "kho-test-v2", Dropped, newer, StaysReserved, Answer::Go),
    ];
    for (changes, list, component, verdict, code, consequence, answer) in rows {
        let plan = Plan::new(&carries(changes), &reads(list), &[]);
        let what = format!("{changes:?} against {list:?}: {plan:#?}");
        assert_eq!(node(&plan, component), (*verdict, *code, *consequence), "{what}");
        assert_eq!(plan.answer, *answer, "{what}");
        let line = plan.lines.iter().find(|line| line.component == *component).unwrap();
        assert_ne!(line.code.map(Code::class), Some(Class::Corrupt), "a mismatch is no corruption: {what}");
    }
}

#[test]
fn behind_a_root_that_is_refused_nothing_is_reached() {
    let plan = Plan::new(&frozen(), &reads("kho-v5"), &[]);
    assert_eq!((plan.lines.len(), plan.not_reached), (1, frozen().len() - 1));
}

#[test]
fn ranges_are_numbers_and_a_range_that_ends_early_refuses() {
    let mut next = reads("kho-v6 luo-v5 memfd-v2");
    next.understands[0].oldest = Some(4);
    let plan = Plan::new(&frozen(), &next, &[]);
    assert_eq!(node(&plan, "kho-v4").0, Verdict::Fine);
    next.understands[0].oldest = Some(5);
    assert_eq!(node(&Plan::new(&frozen(), &next, &[]), "kho-v4").1, Some(Code::VersionOlder));
}

#[test]
fn what_is_required_is_not_dropped() {
    let next = reads("kho-v4 luo-v5 memfd-v2 kho-test-v1");
    for required in ["memblock", "memblock-v1"] {
        let plan = Plan::new(&frozen(), &next, &[required]);
        let (verdict, _, consequence) = node(&plan, "memblock-v1");
        assert_eq!((verdict, consequence), (Verdict::Refused, Consequence::AllocatedAfresh));
        assert_eq!((plan.answer, plan.count(Verdict::Dropped)), (Answer::Refused, 1));
    }
}

#[test]
fn handlers_may_come_with_modules() {
    // By strings: a module is not in the image.
    let carried = carries(&[("memfd-v2", "vfio-pci-v1")]);
    let mut next = strings(ALL);
    let plan = Plan::new(&carried, &next, &[]);
    assert_eq!(node(&plan, "vfio-pci-v1").1, Some(Code::SuccessorSilent));
    assert_eq!(plan.answer, Answer::CannotTell);
    // One that is built in.
    next.strings.push("vfio-pci-v1".into());
    assert_eq!(Plan::new(&carried, &next, &[]).answer, Answer::Go);
    // A table that names all of them.
    let next = Profile { handlers_complete: true, ..strings(ALL) };
    assert_eq!(node(&Plan::new(&carried, &next, &[]), "vfio-pci-v1").1, Some(Code::ComponentUnknown));
    // That of memfd never comes with a module.
    let plan = Plan::new(&frozen(), &strings("kho-v4 luo-v5"), &[]);
    assert_eq!(node(&plan, "memfd-v2").2, Consequence::SessionsUnreachable);
    assert_eq!(plan.answer, Answer::Refused);
}

#[test]
fn the_configuration_and_the_page_size_are_heard() {
    let off = |name: &str| {
        let config = vec![Setting { name: name.into(), value: "n".into() }];
        Plan::new(&frozen(), &Profile { config, ..reads(ALL) }, &[])
    };
    assert_eq!(
        node(&off("CONFIG_KEXEC_HANDOVER"), "kho-v4"),
        (Verdict::Refused, Some(Code::SuccessorWithout), Consequence::AllMemoryLost)
    );
    assert_eq!(node(&off("CONFIG_LIVEUPDATE"), "luo-v5").2, Consequence::NoLiveUpdate);
    let next = Profile { page_size: Some(65536), ..reads(ALL) };
    let plan = Plan::new(&frozen(), &next, &[]);
    let line = &plan.lines[0];
    assert_eq!((line.code, line.consequence), (Some(Code::PageSize), Consequence::Misread));
    assert_eq!(line.why, "page-size: found 4096, expected 65536");
    let next = Profile { page_size: Some(4096), ..reads(ALL) };
    assert_eq!(Plan::new(&frozen(), &next, &[]).answer, Answer::Go);
}

#[test]
fn another_architecture_is_refused_whatever_it_reads() {
    for (machine, text) in [(Machine::Arm64, "arm64"), (Machine::RiscV64, "riscv64")] {
        let next = Profile { machine: Some(machine), machine_by: Some(By::Header), ..reads(ALL) };
        let plan = Plan::new(&frozen(), &next, &[]);
        let line = &plan.lines[0];
        assert_eq!((line.code, line.consequence), (Some(Code::Machine), Consequence::Misread));
        assert_eq!((line.node.as_str(), line.by), ("/", Some(By::Header)));
        assert_eq!(line.why, format!("machine: found x86-64, expected {text}"));
        assert_eq!((plan.answer, plan.count(Verdict::Refused)), (Answer::Refused, 1));
        assert_eq!(Code::Machine.class(), Class::Mismatch);
    }
    let notes = |carried: &Carried, next: &Profile| Plan::new(carried, next, &[]).notes.join("; ");
    let next = Profile { machine: Some(Machine::X86), page_size: Some(4096), ..reads(ALL) };
    assert_eq!(Plan::new(&frozen(), &next, &[]).answer, Answer::Go);
    assert_eq!(notes(&frozen(), &next), "");
    // What is not known is said, and no reason to refuse.
    assert!(notes(&frozen(), &Profile { machine: None, ..next.clone() }).contains("does not say its architecture"));
    let unknown = Carried { machine: None, ..frozen() };
    assert!(notes(&unknown, &next).contains("machine: that of the handover is not known"));
    assert_eq!(Plan::new(&unknown, &next, &[]).answer, Answer::Go);
}

#[test]
fn a_machine_that_runs_shows_no_sessions() {
    let mut carried = frozen();
    carried.items.retain(|item| item.role != Role::Handler);
    carried.items.iter_mut().filter(|item| item.role == Role::Luo).for_each(|item| item.count = 0);
    let notes = Plan::new(&carried, &reads(ALL), &[]).notes;
    assert!(notes.iter().any(|note| note.starts_with("sessions: a machine that runs shows no session")), "{notes:?}");
    assert!(!Plan::new(&frozen(), &reads(ALL), &[]).notes.iter().any(|note| note.starts_with("sessions")));
}

#[test]
fn without_files_nobody_misses_live_update() {
    let mut carried = frozen();
    carried.items.retain(|item| item.role != Role::Handler);
    carried.items.iter_mut().filter(|item| item.role == Role::Luo).for_each(|item| item.count = 0);
    let plan = Plan::new(&carried, &reads("kho-v4"), &[]);
    assert_eq!((node(&plan, "luo-v5").0, plan.answer), (Verdict::Dropped, Answer::Go));
    // But another version of it is a panic all the same.
    assert_eq!(node(&Plan::new(&carried, &reads("kho-v4 luo-v6"), &[]), "luo-v5").2, Consequence::Panic);
}

#[test]
fn nodes_that_linux_does_not_know_stay_reserved() {
    let mut carried = frozen();
    let components = vec!["shop-orders-v3".into()];
    carried.items.push(Item { node: "/orders".into(), role: Role::Other, components, count: 1, implied: false });
    let plan = Plan::new(&carried, &reads(ALL), &[]);
    let dropped = (Verdict::Dropped, Some(Code::ComponentDropped), Consequence::StaysReserved);
    assert_eq!(node(&plan, "shop-orders-v3"), dropped);
    assert_eq!(plan.answer, Answer::Go);
    assert_eq!(Plan::new(&carried, &reads(ALL), &["orders"]).answer, Answer::Refused);
    assert_eq!(
        node(&Plan::new(&carried, &reads(&format!("{ALL} shop-orders-v3")), &[]), "shop-orders-v3").0,
        Verdict::Fine
    );
}

#[test]
fn what_could_not_be_read_cannot_be_told() {
    let mut carried = frozen();
    carried.items.iter_mut().filter(|item| item.role == Role::Luo).for_each(|item| item.components.clear());
    let plan = Plan::new(&carried, &reads(ALL), &[]);
    assert_eq!(plan.answer, Answer::CannotTell);
    assert!(plan.lines.iter().any(|line| line.code == Some(Code::SuccessorSilent) && line.node == "/LUO"));
}

#[test]
fn what_is_broken_has_the_consequence_that_linux_makes_of_it() {
    let rows = [
        (Code::NoHandover, "/", "preserved-memory-map", Consequence::AllMemoryLost),
        (Code::PropertySize, "/", "preserved-memory-map", Consequence::AllMemoryLost),
        (Code::RadixKey, "/", "", Consequence::Unforeseen),
        (Code::Truncated, "/LUO", "", Consequence::Panic),
        (Code::PropertyMissing, "/LUO", "preserved-data", Consequence::Panic),
        (Code::BlockCount, "/LUO", "sessions.count", Consequence::Panic),
        (Code::ListCycle, "/LUO", "sessions.next", Consequence::Panic),
        (Code::ListLong, "/LUO", "sessions", Consequence::Panic),
        (Code::NameDuplicate, "/LUO", "sessions[a].name", Consequence::SessionsUnreachable),
        (Code::BlockCount, "/LUO", "sessions[a].count", Consequence::SessionsUnreachable),
        (Code::ListCycle, "/LUO", "sessions[a].next", Consequence::SessionsUnreachable),
        (Code::NotPreserved, "/LUO", "sessions[a].files[0x1].data", Consequence::Unforeseen),
        (Code::NotPreserved, "/memblock", "", Consequence::Unforeseen),
    ];
    for (code, node, item, consequence) in rows {
        let mut carried = frozen();
        for _ in 0..3 {
            carried.broken.push((code, node.into(), item.into(), "what is wrong".into()));
        }
        let plan = Plan::new(&carried, &reads(ALL), &[]);
        let line = &plan.lines[0];
        assert_eq!((line.consequence, line.code, line.count), (consequence, Some(code), 3), "{code} {node} {item}");
        assert_eq!(plan.answer, Answer::Refused);
    }
}

#[test]
fn a_kernel_against_a_kernel() {
    let old = strings("kho-v4 luo-v5 memfd-v2 memblock-v1 kho-test-v1");
    let go = Plan::new(&Carried::written_by(&old), &strings(ALL), &[]);
    assert_eq!(go.answer, Answer::Go, "{go:#?}");
    // The newest that it has is what it writes.
    let both = strings("kho-v4 luo-v5 memfd-v2 memfd-v3");
    let plan = Plan::new(&Carried::written_by(&both), &old, &[]);
    assert_eq!(node(&plan, "memfd-v3").2, Consequence::SessionsUnreachable);
    assert!(Carried::written_by(&Profile::default()).is_empty());
}

#[test]
fn pinned_profiles_are_checked() {
    let fault = reads("kho-4").pinned().unwrap_err();
    assert_eq!((fault.code(), fault.at().item.as_deref()), (Code::CompatSyntax, Some("understands[0].component")));
    let fault = Profile { profile: 2, ..Profile::default() }.pinned().unwrap_err();
    assert_eq!((fault.code(), fault.code().class()), (Code::VersionNewer, Class::Mismatch));
    let json = r#"{"profile": 1, "of the future": [], "understands": [{"component": "kho-v4", "by": "operator"}]}"#;
    let profile: Profile = serde_json::from_str(json).unwrap();
    assert_eq!(profile.pinned().unwrap().understands, [Statement::pinned("kho-v4")]);
}

#[test]
fn statements_without_end_are_refused_and_a_line_shows_some() {
    let list: Vec<String> = (0..8192).map(|number| format!("memfd-v{number}")).collect();
    let mut profile = reads(&list.join(" "));
    assert!(profile.clone().pinned().is_ok());
    let plan = Plan::new(&carries(&[("memfd-v2", "memfd-v9000")]), &profile, &[]);
    assert!(plan.lines.iter().all(|line| line.reads.len() <= 64));
    profile.understands.push(Statement::pinned("kho-v4"));
    let says = "too-large: understands: found 8193, expected at most 8192 statements";
    assert_eq!(profile.pinned().unwrap_err().to_string(), says);
}

/// A pinned program is held to the limits of one that is read from its file.
#[test]
fn a_pinned_program_with_more_ranges_than_anybody_has_is_refused() {
    let terms: Vec<String> = (0..65).map(|number| format!(r#"{{"node":"n","made_of":"o-v{number}"}}"#)).collect();
    let json = format!(r#"{{"profile":1,"program":{{"writes":[{}]}}}}"#, terms.join(","));
    let profile: Profile = serde_json::from_str(&json).unwrap();
    let says = "too-large: program.writes.n: found 65, expected at most 64 ranges of versions";
    assert_eq!(profile.pinned().unwrap_err().to_string(), says);
}
