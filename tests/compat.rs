//! Predecessor against successor, as the field would read it: what a node (or a root) says that it is made of, what the
//! successor takes there, and the verdict. Each row is judged before leaving ([`Forecast`], from what the successor
//! says) and at the door ([`Plan`], by real data): verdict, codes and words must be the same.
//!
//! `cargo test --test compat -- --nocapture` prints the tables.
#![cfg(feature = "std")]

use std::fmt::Write as _;
use std::rc::Rc;

use kho::abi::vmalloc::Descriptor;
use kho::compat::{Compat, CompatList, CompatVec, Reads};
use kho::handover::{Blob, Check, Home, Incoming, Layout, Node, Outgoing, Preserve, Registry, Scope, Verdict};
use kho::mem::{Bits, Frames, Geometry, Memory, PageRange, Pfn, Ram};
use kho::report::{Class, Fault};
use kho::vmalloc::{Area, Format, Loaded, Stored};

/// A composite that lives as long as the test.
fn made_of(text: &str) -> CompatList<'static> {
    let text: &'static str = String::leak(text.into());
    Box::leak(Box::new(CompatVec::parse_text(text).unwrap())).list()
}

/// One byte that says that it is made of anything.
struct Given {
    list: CompatList<'static>,
    optional: bool,
}

impl<M: Home> Preserve<M> for Given {
    fn compat(&self) -> CompatList<'static> {
        self.list
    }

    fn optional(&self) -> bool {
        self.optional
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        scope.blob(b"x")
    }
}

/// A reader of these composites, the newest first.
struct Taken(&'static [CompatList<'static>]);

impl<M: Memory> Check<M> for Taken {
    type Checked = u32;

    fn compat(&self) -> CompatList<'static> {
        self.0[0]
    }

    fn older(&self) -> &'static [CompatList<'static>] {
        &self.0[1..]
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<u32, Fault> {
        assert_eq!(node.blob(1)?, b"x");
        Ok(node.version())
    }
}

/// A successor that knows vmalloc up to version 2.
struct VmallocV2;

impl Format for VmallocV2 {
    fn versions(&self) -> Reads<'static> {
        Reads::since(1, Compat::new("vmalloc", 2))
    }

    fn load(&self, _: Compat<'_>, memory: &dyn Memory, at: &Descriptor, taken: &mut Bits) -> Result<Loaded, Fault> {
        Area::load(memory, at, taken)
    }

    fn store(&self, _: Compat<'_>, area: &Area, frames: &mut dyn Frames) -> Result<Stored, Fault> {
        area.store(frames)
    }
}

/// `my-v2, my-v1`: what is taken, the newest first. In front of it, `optional` or `vmalloc-v2:` (that version is known).
fn registry(successor: &str) -> Registry<Ram> {
    let mut registry = Registry::new();
    let mut rest = successor;
    if let Some(more) = rest.strip_prefix("vmalloc-v2: ") {
        registry.add_layout(Layout::Vmalloc(Rc::new(VmallocV2)));
        rest = more;
    }
    let optional = rest.strip_prefix("optional ");
    let lists = optional.unwrap_or(rest);
    if lists == "-" {
        return registry;
    }
    let lists: Vec<CompatList<'static>> = lists.split(", ").map(made_of).collect();
    let taken = Taken(Vec::leak(lists));
    let _ = match optional {
        Some(_) => registry.read_optional("node", taken),
        None => registry.read("node", taken),
    };
    registry
}

fn ram() -> Ram {
    Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap())
}

/// Verdict and findings, without `Unowned`.
type Told = (Verdict, Vec<String>);

/// What the successor says of it, before and at its door.
fn told(predecessor: &str, successor: &str) -> (Told, Told) {
    let registry = registry(successor);
    let mut outgoing = Outgoing::new(ram());
    if predecessor != "-" {
        let optional = predecessor.strip_prefix("optional ");
        let given = Given { list: made_of(optional.unwrap_or(predecessor)), optional: optional.is_some() };
        outgoing.preserve("node", &given).unwrap();
    }
    let finished = outgoing.finish().unwrap();
    let forecast = finished.forecast(&registry.terms()).unwrap();
    let of_node = forecast.nodes.iter().find(|told| told.node == "/node");
    let before = of_node
        .map_or((Verdict::Fine, Vec::new()), |told| (told.verdict, told.why.iter().map(ToString::to_string).collect()));

    let (memory, root) = finished.into_parts();
    let plan = Incoming::new(memory, root.start()).plan(&registry);
    let words = plan.findings().kept().iter().filter(|finding| finding.node == "/node");
    let words: Vec<String> = words.map(|finding| finding.fault.to_string()).collect();
    for finding in plan.findings().kept() {
        assert_ne!(finding.fault.code().class(), Class::Corrupt, "a mismatch is never corruption: {finding}");
    }
    let verdict = plan.nodes().first().map_or(plan.verdict(), |node| node.verdict);
    assert_eq!(plan.accept().is_ok(), verdict != Verdict::Refused);
    (before, (verdict, words))
}

use Verdict::{Dropped, Fine, Refused};

/// What the node is made of; what the successor takes; the verdict; the first word of each finding.
const NODES: &[(&str, &str, Verdict, &[&str])] = &[
    // One component, one version.
    ("my-v1", "my-v1", Fine, &[]),
    ("my-v2", "my-v1", Refused, &["version-newer"]),
    ("my-v1", "my-v2", Refused, &["version-older"]),
    ("my-v10", "my-v9", Refused, &["version-newer"]),
    ("my-v4294967295", "my-v4294967294", Refused, &["version-newer"]),
    ("other-v1", "my-v1", Refused, &["component-unknown", "component-unlisted"]),
    // The spelling is nothing.
    ("kvm_vm_luo_v1", "kvm_vm_luo-v1", Fine, &[]),
    ("kvm_vm_luo_v2", "kvm_vm_luo-v1", Refused, &["version-newer"]),
    // Ranges, and a gap in one.
    ("my-v1", "my-v2, my-v1", Fine, &[]),
    ("my-v2", "my-v3, my-v2, my-v1", Fine, &[]),
    ("my-v3", "my-v2, my-v1", Refused, &["version-newer"]),
    ("my-v0", "my-v2, my-v1", Refused, &["version-older"]),
    ("my-v2", "my-v3, my-v1", Refused, &["version-older"]),
    // What it uses: judged by whoever owns that.
    ("my-v1;vmalloc-v1", "my-v1;vmalloc-v1", Fine, &[]),
    ("my-v1;vmalloc-v2", "my-v1;vmalloc-v1", Refused, &["version-newer"]),
    ("my-v1;vmalloc-v0", "my-v1;vmalloc-v1", Refused, &["version-older"]),
    ("my-v1;vmalloc-v2", "vmalloc-v2: my-v1;vmalloc-v1", Fine, &[]),
    ("my-v1;vmalloc-v1", "vmalloc-v2: my-v1;vmalloc-v1", Fine, &[]),
    ("my-v1;vmalloc-v3", "vmalloc-v2: my-v1;vmalloc-v1", Refused, &["version-newer"]),
    ("my-v1", "my-v1;vmalloc-v1", Refused, &["component-unlisted"]),
    ("my-v1;vmalloc-v1", "my-v1", Refused, &["component-unlisted"]),
    ("my-v1;block-v1;vmalloc-v1", "my-v1;block-v1;vmalloc-v1", Fine, &[]),
    ("my-v1;block-v2;vmalloc-v2", "my-v1;block-v1;vmalloc-v1", Refused, &["version-newer", "version-newer"]),
    ("my-v2;block-v2;vmalloc-v1", "my-v1;vmalloc-v1", Refused, &["version-newer", "version-newer"]),
    // A layout that only this component knows: exactly as it stands there.
    ("my-v1;my-part-v1", "my-v1;my-part-v1", Fine, &[]),
    ("my-v1;my-part-v2", "my-v1;my-part-v1", Refused, &["version-newer"]),
    ("my-v1;my-part-v1", "my-v1;my-part-v2", Refused, &["version-older"]),
    ("my-v1;stranger-v1", "my-v1", Refused, &["component-unknown"]),
    // Each version has its own list.
    ("my-v2;vmalloc-v1", "my-v2;vmalloc-v1, my-v1", Fine, &[]),
    ("my-v1", "my-v2;vmalloc-v1, my-v1", Fine, &[]),
    ("my-v1;vmalloc-v1", "my-v2;vmalloc-v1, my-v1", Refused, &["component-unlisted"]),
    ("my-v2", "my-v2;vmalloc-v1, my-v1", Refused, &["component-unlisted"]),
    // Required and optional, on both sides.
    ("optional my-v2", "optional my-v1", Dropped, &["component-dropped"]),
    ("optional my-v2", "my-v1", Refused, &["version-newer"]),
    ("my-v2", "optional my-v1", Refused, &["version-newer"]),
    ("optional my-v1;vmalloc-v2", "optional my-v1;vmalloc-v1", Dropped, &["component-dropped"]),
    ("optional my-v1", "-", Dropped, &["component-dropped"]),
    ("my-v1", "-", Refused, &["component-unknown"]),
    ("-", "my-v1", Refused, &["component-missing"]),
    ("-", "optional my-v1", Fine, &[]),
    ("-", "-", Fine, &[]),
    ("optional my-v1", "my-v1", Fine, &[]),
    // A tree of its own is the node's matter, not the root's.
    ("optional my-v1;radix-v2", "optional my-v1;radix-v1", Dropped, &["component-dropped"]),
    ("my-v1;radix-v2", "my-v1;radix-v1", Refused, &["version-newer"]),
];

#[test]
fn nodes_before_leaving_and_at_the_door() {
    assert!(NODES.len() >= 40);
    let mut table = format!("{:<28} {:<32} {:<8} why\n", "predecessor", "successor", "verdict");
    for (predecessor, successor, verdict, codes) in NODES {
        let (before, door) = told(predecessor, successor);
        assert_eq!(before, door, "{predecessor} against {successor}");
        assert_eq!(door.0, *verdict, "{predecessor} against {successor}: {:?}", door.1);
        let words: Vec<&str> = door.1.iter().map(|text| text.split(':').next().unwrap()).collect();
        assert_eq!(words, *codes, "{predecessor} against {successor}");
        let _ = writeln!(table, "{predecessor:<28} {successor:<32} {verdict:<8} {}", door.1.join("; "));
    }
    println!("{table}");
}

#[test]
fn the_words_say_what_was_found_and_what_was_expected() {
    let words = |predecessor, successor| told(predecessor, successor).1.1.join("\n");
    assert_eq!(words("my-v3", "my-v2, my-v1"), "version-newer: compatible: found my-v3, expected my-v1..=v2");
    assert_eq!(
        words("my-v1;vmalloc-v3", "vmalloc-v2: my-v1;vmalloc-v1"),
        "version-newer: compatible: found vmalloc-v3, expected vmalloc-v1..=v2"
    );
    assert_eq!(words("optional my-v2", "optional my-v1"), "component-dropped: compatible: found my-v2, expected my-v1");
    assert_eq!(words("my-v1", "-"), "component-unknown: compatible: my-v1");
    assert_eq!(words("-", "my-v1"), "component-missing: expected my-v1");
}

/// The strings of a root, in its own number of bytes, and what a successor of today says to them.
const ROOTS: &[(&[&str], &str)] = &[
    (&["kho-v4", "radix-v1"], ""),
    (&["kho-v3", "kho-v4"], ""),
    (&["kho-v4", "a-v1"], ""),
    (&["kho-v4", "vmalloc-v7"], ""),
    (&["kho-v5", "radix-v1"], "version-newer: compatible: found kho-v5, expected kho-v4"),
    (&["kho-v3", "radix-v1"], "version-older: compatible: found kho-v3, expected kho-v4"),
    (&["kho-v4", "radix-v2"], "version-newer: compatible: found radix-v2, expected radix-v1"),
    (&["kho-v4", "radix-v0"], "version-older: compatible: found radix-v0, expected radix-v1"),
    (&["abc-v4", "radix-v1"], "component-unknown: compatible: found abc-v4\\x00radix-v1, expected kho-v4"),
];

#[test]
fn roots_at_the_door() {
    for (strings, says) in ROOTS {
        let finished = Outgoing::new(ram()).finish().unwrap();
        let fdt = finished.root_fdt().unwrap();
        let (mut memory, root) = finished.into_parts();
        let ours = b"kho-v4\0radix-v1\0";
        let at = fdt.windows(ours.len()).position(|bytes| bytes == ours).unwrap();
        let mut text: Vec<u8> = strings.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
        // The same number of bytes: one more string that Linux does not know.
        if text.len() < ours.len() {
            let rest = ours.len() - text.len();
            text.extend(format!("{:z<1$}\0", "x", rest - 1).into_bytes());
        }
        text.truncate(ours.len());
        memory.poke(kho::mem::PhysAddr::new(root.start().get() + at as u64), &text).unwrap();
        let plan = Incoming::new(memory, root.start()).plan(&Registry::new());
        let findings: Vec<String> = plan.findings().kept().iter().map(|one| one.fault.to_string()).collect();
        assert_eq!(findings.join("\n"), *says, "{strings:?}");
    }
}

/// What a kernel does: each row of what a mismatch costs. What the frozen machine's memory says instead; what the next
/// kernel reads; the component; what becomes of it, and of the machine.
#[cfg(feature = "serde")]
#[test]
fn kernels_and_what_a_mismatch_costs() {
    use kho::inspect::{self, Options};
    use kho::successor::Consequence::{
        AllMemoryLost, AllocatedAfresh, MetadataIgnored, Misread, NoLiveUpdate, None as TakenOver, Panic,
        SessionsUnreachable, StaysReserved,
    };
    use kho::successor::Verdict::{Dropped, Fine, Refused};
    use kho::successor::{Answer, Carried, Plan, Profile, Statement};

    const ALL: &str = "kho-v4 luo-v5 memfd-v2 memblock-v1 kexec-metadata-v1 kho-test-v1";
    let rows = [
        ("", ALL, "kho-v4", Fine, TakenOver, Answer::Go),
        ("", ALL, "luo-v5", Fine, TakenOver, Answer::Go),
        ("", "kho-v3 kho-v4 luo-v4 luo-v5 memfd-v1 memfd-v2", "luo-v5", Fine, TakenOver, Answer::Go),
        // No kho-v4: a line in the log, and a cold boot.
        ("kho-v4 kho-v5", ALL, "kho-v5", Refused, AllMemoryLost, Answer::Refused),
        ("kho-v4 kho-v3", ALL, "kho-v3", Refused, AllMemoryLost, Answer::Refused),
        ("", "kho-v5 luo-v5 memfd-v2", "kho-v4", Refused, AllMemoryLost, Answer::Refused),
        ("", "luo-v5 memfd-v2", "kho-v4", Refused, AllMemoryLost, Answer::Refused),
        // The tree under the root is another one, and nobody notices.
        ("", "kho-v4 radix-v2 luo-v5 memfd-v2", "radix-v1", Refused, Misread, Answer::Refused),
        // luo-v5 differs: a panic.
        ("luo-v5 luo-v6", ALL, "luo-v6", Refused, Panic, Answer::Refused),
        ("", "kho-v4 luo-v6 memfd-v2", "luo-v5", Refused, Panic, Answer::Refused),
        ("", "kho-v4 luo-v4 memfd-v2", "luo-v5", Refused, Panic, Answer::Refused),
        ("", "kho-v4 memfd-v2", "luo-v5", Refused, NoLiveUpdate, Answer::Refused),
        // An unknown handler: EIO at the first open of /dev/liveupdate.
        ("", "kho-v4 luo-v5 memfd-v3", "memfd-v2", Refused, SessionsUnreachable, Answer::Refused),
        ("", "kho-v4 luo-v5 memfd-v1", "memfd-v2", Refused, SessionsUnreachable, Answer::Refused),
        ("memfd-v2 hugetl-v1", ALL, "hugetl-v1", Refused, SessionsUnreachable, Answer::Refused),
        // memblock and kexec-metadata differ.
        ("memblock-v1 memblock-v2", ALL, "memblock-v2", Dropped, AllocatedAfresh, Answer::Go),
        ("", "kho-v4 luo-v5 memfd-v2", "memblock-v1", Dropped, AllocatedAfresh, Answer::Go),
        ("", "kho-v4 luo-v5 memfd-v2 kexec-metadata-v2", "kexec-metadata-v1", Dropped, MetadataIgnored, Answer::Go),
        ("kho-test-v1 kho-test-v2", ALL, "kho-test-v2", Dropped, StaysReserved, Answer::Go),
    ];
    let core = std::fs::read("tests/data/linux-7.2-x86_64/frozen.core").unwrap();
    let mut table = format!("{:<24} {:<44} {:<18} {:<16} then\n", "machine", "next kernel", "component", "verdict");
    for (change, reads, component, verdict, consequence, answer) in rows {
        let mut core = core.clone();
        if let Some((from, to)) = change.split_once(' ') {
            let from = [from.as_bytes(), b"\0"].concat();
            let places: Vec<usize> = (0..core.len()).filter(|&at| core[at..].starts_with(&from)).collect();
            let to = &to.as_bytes()[..from.len().min(to.len())];
            places.iter().for_each(|&at| {
                core[at..at + from.len()].fill(0);
                core[at..at + to.len()].copy_from_slice(to);
            });
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &core).unwrap();
        let decoded = inspect::open(file.path(), &Options::default()).unwrap();
        let mut next = Profile::default();
        next.understands.extend(reads.split(' ').map(Statement::pinned));
        let plan = Plan::new(&Carried::from(&decoded), &next, &[]);
        let line = plan.lines.iter().find(|line| line.component == component);
        let line = line.unwrap_or_else(|| panic!("{change}: no {component} in {plan:#?}"));
        assert_eq!((line.verdict, line.consequence, plan.answer), (verdict, consequence, answer), "{change}: {reads}");
        let _ = writeln!(table, "{change:<24} {reads:<44.44} {component:<18} {verdict:<16} {}", line.then);
    }
    println!("{table}");
}
