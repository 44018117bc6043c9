//! Whole handovers between real processes, and what becomes of the ones that are refused.
#![cfg(feature = "std")]

mod common;
#[path = "common/whole.rs"]
mod whole;

use std::fs::Permissions;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use kho::compat::{Compat, CompatList};
use kho::files::Files;
use kho::handover::{Blob, Check, Component, Home, Incoming, Node, Outgoing, Preserve, Scope, Verdict};
use kho::mem::Memory;
use kho::payload::BytesNode;
use kho::report::{Code, Fault};
use kho::transport::{Arrival, Bundle, ExecError, Program, Ticket};
use rustix::io::FdFlags;

use common::*;
use whole::*;

/// Not a test of its own: the part of a child.
#[test]
fn role() {
    play(&[
        ("all", || leave_with(1, |_| {})),
        ("all: arrive", arrive_with_all),
        ("newer", || {
            leave_with(1, |outgoing| outgoing.preserve("n", &Extra { optional: false, made_of: TWO }).unwrap())
        }),
        ("newer: arrive", refuse_the_newer),
        ("fails", || {
            leave_with(1, |outgoing| outgoing.preserve("n", &Extra { optional: false, made_of: ONE }).unwrap())
        }),
        ("fails: arrive", fail_to_restore),
        ("unknown", leave_with_an_unknown),
        ("unknown: arrive", arrive_with_an_unknown),
        ("failed", fail_to_leave),
        ("failed: arrive", || drop(restore_all(Arrival::take().unwrap().unwrap().incoming))),
        ("example", leave_to_the_example),
    ]);
}

const ONE: CompatList<'static> = CompatList::new(Compat::new("test-extra", 1), &[]);
const TWO: CompatList<'static> = CompatList::new(Compat::new("test-extra", 2), &[]);
fn restore_all(incoming: Incoming<Bundle>) -> Files {
    let (mut registry, handles) = registry();
    registry.read_optional("n", BytesNode { made_of: ONE, limit: 1 });
    restore_by(incoming, &registry, &handles)
}

/// A node of one byte.
struct Extra {
    made_of: CompatList<'static>,
    optional: bool,
}

impl<M: Home> Preserve<M> for Extra {
    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn optional(&self) -> bool {
        self.optional
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        scope.blob(b"x")
    }
}

/// What the harness lets its children inherit.
const INHERITED: &str = "KHO_TEST_INHERITED";

/// Leaves for the role `ROLE: arrive`, with that many tickets.
fn leave_with(tickets: usize, change: impl FnOnce(&mut Outgoing<Bundle>)) {
    let inherited = format!("{:?}", inheritable());
    let mut outgoing = all();
    change(&mut outgoing);
    let role = std::env::var(ROLE).unwrap() + ": arrive";
    let ticket = (tickets > 0).then(|| Ticket::current().unwrap());
    let program = next(&role).env(EXPECT, std::process::id().to_string()).env(INHERITED, inherited);
    panic!("{}", outgoing.finish().unwrap().exec(&program, ticket.as_ref()));
}

fn arrival() -> Arrival {
    let arrival = Arrival::take().unwrap().expect("a handover");
    assert_eq!(std::env::var(EXPECT).unwrap(), std::process::id().to_string(), "the same process");
    arrival
}

/// What is open besides that, and whether it is close-on-exec. Without the socket once nobody inherits it any more.
fn opened() -> Vec<bool> {
    let mut all = descriptors();
    let inherited = std::env::var(INHERITED).unwrap();
    for number in inherited.trim_matches(['[', ']']).split(", ") {
        all.remove(&number.parse().unwrap()).expect("inherited");
    }
    if all.get(&socket_number()) == Some(&true) {
        all.remove(&socket_number());
    }
    all.into_values().collect()
}

#[test]
fn every_component_arrives_equal_and_nothing_else_does() {
    succeeds(child(&me(), "all"));
}

fn arrive_with_all() {
    assert_eq!(opened(), [false], "the socket alone");
    let Arrival { incoming, turn, reason, left_at } = arrival();
    assert!(left_at < now_ns() && left_at + 20_000_000_000 > now_ns() && reason.is_none());
    assert_eq!(opened(), [true; 4], "arena, ticket, two files");
    drop(turn);
    let (registry, handles) = registry();
    let files = restore_by(incoming, &registry, &handles);
    // The memfd by pages, the arena and all mappings are gone with what was restored.
    assert_eq!(opened(), [true; 2]);
    assert!(!std::fs::read_to_string("/proc/self/maps").unwrap().contains("kho-arena"));
    drop(files);
    assert_eq!(opened(), [true; 0]);
}

#[test]
fn another_version_is_refused_in_the_plan_and_goes_back() {
    let text = succeeds(child(&me(), "newer"));
    assert!(
        text.contains("came back: error: /n: version-newer: compatible: found test-extra-v2, expected test-extra-v1")
    );
}

fn refuse_the_newer() {
    let Arrival { incoming, turn, reason, .. } = arrival();
    let (mut registry, handles) = registry();
    if let Some(reason) = reason {
        // The predecessor again, which understands what it wrote.
        println!("came back: {reason}");
        assert!(turn.back().is_none(), "once refused, it does not travel to and fro");
        registry.read("n", BytesNode { made_of: TWO, limit: 1 });
        restore_by(incoming, &registry, &handles);
        return;
    }
    registry.read("n", BytesNode { made_of: ONE, limit: 1 });
    let root = incoming.root();
    let before = contents(incoming.memory().arena().read_only_fd().unwrap().as_fd());
    let refused = incoming.plan(&registry).accept().unwrap_err();
    let verdicts: Vec<Verdict> = refused.nodes.iter().map(|node| node.verdict).collect();
    assert_eq!(refused.nodes[5].name, "n");
    assert_eq!(
        (verdicts[5], verdicts.iter().filter(|verdict| **verdict == Verdict::Fine).count()),
        (Verdict::Refused, 6)
    );
    assert_eq!((refused.incoming.root(), opened()), (root, vec![true; 4]));
    assert!(
        contents(refused.incoming.memory().arena().read_only_fd().unwrap().as_fd()) == before,
        "the plan wrote into the arena"
    );
    let (error, _) = turn.refuse(refused.incoming, &refused.findings.to_string()).unwrap_err();
    panic!("{error}");
}

/// Understands its node, and cannot restore it.
struct Fails;

impl<M: Memory> Check<M> for Fails {
    type Checked = ();

    fn compat(&self) -> CompatList<'static> {
        ONE
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<(), Fault> {
        node.blob(1).map(drop)
    }
}

impl<M: Memory> Component<M> for Fails {
    type Prepared = ();
    type Restored = ();

    fn prepare(&self, (): (), _: &mut M) -> Result<(), Fault> {
        Err(Fault::new(Code::Refused).found("told to"))
    }

    fn commit(&self, (): (), _: &mut M) {}
}

#[test]
fn a_restore_that_fails_leaves_nothing_restored() {
    for how in ["here", "back"] {
        let mut command = child(&me(), "fails");
        command.env(HOW, how);
        assert_eq!(succeeds(command).contains("came back: /n: refused: told to"), how == "back");
    }
}

fn fail_to_restore() {
    let Arrival { incoming, turn, reason, .. } = arrival();
    if let Some(reason) = reason {
        println!("came back: {reason}");
        restore_all(incoming);
        return;
    }
    let (mut registry, _) = registry();
    registry.add("n", Fails);
    let before = contents(incoming.memory().arena().read_only_fd().unwrap().as_fd());
    let accepted = incoming.plan(&registry).accept().unwrap();
    let failed = accepted.restore().unwrap_err();
    assert_eq!((failed.node.as_str(), failed.fault.to_string().as_str()), ("/n", "refused: told to"));
    // The memfd by pages is closed, the array unmapped, the arena as it came.
    assert_eq!(opened(), [true; 4]);
    assert!(!std::fs::read_to_string("/proc/self/maps").unwrap().contains("kho-arena"));
    assert!(
        contents(failed.incoming.memory().arena().read_only_fd().unwrap().as_fd()) == before,
        "a failed restore wrote into the arena"
    );
    if std::env::var(HOW).unwrap() == "here" {
        restore_all(failed.incoming);
        return;
    }
    let reason = failed.to_string();
    let (error, _) = turn.refuse(failed.incoming, &reason).unwrap_err();
    panic!("{error}");
}

#[test]
fn an_unknown_component_refuses_unless_it_is_optional() {
    for how in ["required", "optional"] {
        let mut command = child(&me(), "unknown");
        command.env(HOW, how);
        let text = succeeds(command);
        let says = "came back: error: /n: component-unknown: compatible: test-extra-v1\n";
        assert_eq!(text.contains(says), how == "required", "{text}");
    }
}

fn leave_with_an_unknown() {
    let optional = std::env::var(HOW).unwrap() == "optional";
    leave_with(1, |outgoing| outgoing.preserve("n", &Extra { optional, made_of: ONE }).unwrap());
}

fn arrive_with_an_unknown() {
    let Arrival { incoming, turn, reason, .. } = arrival();
    if let Some(reason) = reason {
        println!("came back: {reason}");
        restore_all(incoming);
        return;
    }
    let (registry, handles) = registry();
    let plan = incoming.plan(&registry);
    assert_eq!(plan.nodes()[5].name, "n");
    if std::env::var(HOW).unwrap() == "optional" {
        let told = plan.findings().to_string();
        assert_eq!(told, "warning: /n: component-dropped: compatible: test-extra-v1");
        assert_eq!((plan.nodes()[5].verdict, plan.verdict()), (Verdict::Dropped, Verdict::Fine));
        let mut restored = plan.accept().unwrap().restore().unwrap();
        assert_eq!(restored.take(&handles.state).unwrap(), b"the state");
        assert_eq!(restored.take(&handles.table).unwrap(), rows());
        return;
    }
    let refused = plan.accept().unwrap_err();
    let (error, _) = turn.refuse(refused.incoming, &refused.findings.to_string()).unwrap_err();
    panic!("{error}");
}

#[test]
fn an_exec_that_fails_leaves_the_predecessor_as_it_was() {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("trap '' USR1; exec \"$0\" \"$@\"").arg(me()).args(ARGS).env(ROLE, "failed");
    succeeds(command);
}

fn fail_to_leave() {
    let folder = tempfile::tempdir().unwrap();
    let image = std::fs::read(me()).unwrap();
    let make = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    };
    let open = |path: &PathBuf| Program::open(path).unwrap();
    let mut no_elf = b"\x7fELF".to_vec();
    no_elf.resize(200, 0xff);
    let locked = make("locked", &image);
    let overwritten = make("overwritten", &image);
    let programs = [
        ("the program has no execute permission (mode 0644)", open(&locked)),
        ("the program is no ELF file: it begins with [74, 65, 78, 74]", open(&overwritten)),
        ("exec: Exec format error", open(&make("no elf", &no_elf))),
        ("exec: Argument list too long", next("").args(["x".repeat(200_000)])),
    ];
    std::fs::set_permissions(locked, Permissions::from_mode(0o644)).unwrap();
    std::fs::write(overwritten, "text").unwrap();

    let mut outgoing = all();
    let ticket = Ticket::current().unwrap();
    let free = outgoing.memory().arena().free_pages();
    let (first, first_maps) = snapshot();
    assert!(first.signals.iter().any(|line| line.starts_with("SigIgn:") && !line.ends_with("0000")));
    assert!(first.descriptors.iter().any(|(number, cloexec)| *number > 2 && !cloexec), "a file without close-on-exec");
    for (says, program) in &programs {
        let stayed = outgoing.finish().unwrap().exec(program, Some(&ticket));
        assert!(stayed.to_string().contains(says), "{stayed} instead of {says}");
        // Still finished, and could be tried again as it is.
        assert!(stayed.finished.memory().arena().root().is_some());
        outgoing = stayed.finished.cancel().unwrap();
        assert!(outgoing.memory().arena().root().is_none());
        assert_eq!(outgoing.memory().arena().free_pages(), free, "{says}");
        let (after, maps) = snapshot();
        assert_eq!(after, first, "{says}");
        assert!(maps <= first_maps + 4, "{says}: {maps} mappings after {first_maps}");
    }
    // What was preserved can be taken back, and preserved anew.
    let file = outgoing.unpreserve_file(u64::MAX).unwrap();
    assert_eq!(rustix::io::fcntl_getfd(&file).unwrap(), FdFlags::empty());
    outgoing.preserve_file(u64::MAX, file).unwrap();
    // Destructors do not run in exec.
    folder.close().unwrap();
    panic!("{}", outgoing.finish().unwrap().exec(&next("failed: arrive"), None));
}

/// `cargo test` builds the examples too, next to the folder of this binary.
fn example() -> PathBuf {
    let path = me().parent().unwrap().parent().unwrap().join("examples/self_exec");
    assert!(path.exists(), "{} is not there: cargo build --example self_exec", path.display());
    path
}

#[test]
fn the_example_hands_over_to_itself() {
    let output = Command::new(example()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(output.status.success() && output.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&output.stderr));
    let bytes = 16 * rustix::param::page_size();
    assert!(lines[0].starts_with("log: written by process "), "{text}");
    assert_eq!(lines[1], format!("cache: {bytes} bytes in one mapping, the last is 15"));
    assert_eq!(lines[2..], ["state: request 4711 is half done"]);
}

#[test]
fn the_example_goes_back_when_it_does_not_understand() {
    let text = succeeds(child(&me(), "example"));
    // The predecessor asked, and stayed; then it left all the same, and came back for the same reasons.
    assert!(
        text.contains("stayed: the program would refuse the handover:\nerror: /memfd: component-unknown: "),
        "{text}"
    );
    assert!(text.contains("came back: the handover was refused:\nerror: /memfd: component-unknown: "), "{text}");
    assert!(text.contains("error: /cache: component-missing: expected example-cache-v1\n"), "{text}");
}

fn leave_to_the_example() {
    if let Some(arrival) = Arrival::take().unwrap() {
        println!("came back: {}", arrival.reason.unwrap());
        restore_all(arrival.incoming);
        return;
    }
    let (program, ticket) = (Program::open(example()).unwrap(), Ticket::current().unwrap());
    let stayed = all().finish().unwrap().exec(&program, Some(&ticket));
    assert!(matches!(stayed.error, ExecError::Refused(_)));
    println!("stayed: {stayed}");
    panic!("{}", stayed.finished.exec(&program.without_asking(), Some(&ticket)));
}
