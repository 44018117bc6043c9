//! The check at the door: of twenty components one does not fit, and nothing runs. What the door says was foretold.

use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::RefCell;

use super::testing::ram;
use super::tests::NAMES;
use super::*;
use crate::abi;
use crate::compat::{Compat, CompatList, Term};
use crate::fdt::{self, Builder, Fdt};
use crate::mem::{Geometry, Order, Ram};
use crate::report::Fault;
use crate::selftest::{Payload, Rule, SelfTestNode};

const ONE: CompatList<'static> = CompatList::new(Compat::new("test-one", 1), &[]);
const TWO: CompatList<'static> = CompatList::new(Compat::new("test-one", 2), &[abi::block::COMPAT]);
const THREE: CompatList<'static> = CompatList::new(Compat::new("test-one", 3), &[abi::block::COMPAT]);
const FUTURE: CompatList<'static> = CompatList::new(Compat::new("test-one", 1), &[Compat::new("block", 9)]);
const RENAMED: CompatList<'static> = CompatList::new(Compat::new("test-new", 2), &[]);
const NOBODYS: CompatList<'static> = CompatList::new(Compat::new("test-new", 1), &[]);
const OTHER: CompatList<'static> = CompatList::new(Compat::new("test-other", 1), &[]);

/// A component of these versions, the newest first.
#[derive(Clone, Copy)]
struct Part {
    versions: &'static [CompatList<'static>],
    optional: bool,
}

const fn part(versions: &'static [CompatList<'static>]) -> Part {
    Part { versions, optional: false }
}

const fn optional(versions: &'static [CompatList<'static>]) -> Part {
    Part { versions, optional: true }
}

impl Preserve<Ram> for Part {
    fn compat(&self) -> CompatList<'static> {
        self.versions[0]
    }

    fn older(&self) -> &'static [CompatList<'static>] {
        &self.versions[1..]
    }

    fn optional(&self) -> bool {
        self.optional
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        let version = scope.version();
        scope.blob(&version.to_le_bytes())
    }
}

/// What ran, in its order.
type Log = Rc<RefCell<Vec<String>>>;

struct Reader {
    name: &'static str,
    versions: &'static [CompatList<'static>],
    log: Log,
}

impl Check<Ram> for Reader {
    type Checked = u32;

    fn compat(&self) -> CompatList<'static> {
        self.versions[0]
    }

    fn older(&self) -> &'static [CompatList<'static>] {
        &self.versions[1..]
    }

    fn check(&self, node: &mut Node<'_, Ram>) -> Result<u32, Fault> {
        let bytes = node.blob(4)?;
        assert_eq!(bytes, node.version().to_le_bytes(), "the list says what was written");
        Ok(node.version())
    }
}

impl Component<Ram> for Reader {
    type Prepared = u32;
    type Restored = u32;

    fn prepare(&self, version: u32, _: &mut Ram) -> Result<u32, Fault> {
        self.log.borrow_mut().push(alloc::format!("prepare {}", self.name));
        Ok(version)
    }

    fn commit(&self, version: u32, _: &mut Ram) -> u32 {
        self.log.borrow_mut().push(alloc::format!("commit {} v{version}", self.name));
        version
    }
}

/// Twenty components, the fourteenth of which is written as `written` (if at all) and read as `read` (if at all),
/// required where that is not optional. What the door says, which versions were restored, and pages that are in use
/// after it.
fn at_the_door(written: Option<Part>, read: Option<Part>) -> (String, Vec<u32>, u64) {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let log = Log::default();
    let mut registry = Registry::new();
    let mut handles = Vec::new();
    for (number, name) in NAMES.into_iter().enumerate() {
        let (written, read) = if number == 13 { (written, read) } else { (Some(part(&[ONE])), Some(part(&[ONE]))) };
        if let Some(written) = written {
            outgoing.preserve(name, &written).unwrap();
        }
        if let Some(Part { versions, optional }) = read {
            let reader = Reader { name, versions, log: Rc::clone(&log) };
            handles.push(match optional {
                true => registry.add_optional(name, reader),
                false => registry.add(name, reader),
            });
        }
    }
    let finished = outgoing.finish().unwrap();
    let forecast = finished.forecast(&registry.terms()).unwrap();
    let (memory, root) = finished.into_parts();
    let plan = Incoming::new(memory, root.start()).plan(&registry);
    let says = plan.findings().to_string();
    assert_eq!(forecast.to_string(), says, "it was foretold in other words");
    assert_eq!(forecast.verdict(), plan.verdict());
    assert!(log.borrow().is_empty(), "a plan ran something");
    match plan.accept() {
        Err(refused) => {
            assert!(log.borrow().is_empty(), "something ran: {:?}", log.borrow());
            drop(refused);
            (says, Vec::new(), 0)
        }
        Ok(accepted) => {
            let mut restored = accepted.restore().unwrap();
            let versions: Vec<u32> = handles.iter().filter_map(|handle| restored.take(handle)).collect();
            assert_eq!(log.borrow().iter().filter(|step| step.starts_with("commit ")).count(), versions.len());
            let (memory, released) = restored.finish();
            released.unwrap();
            (says, versions, 4096 - memory.free_pages())
        }
    }
}

fn refused(written: Option<Part>, read: Option<Part>) -> String {
    let (says, versions, _) = at_the_door(written, read);
    assert_eq!(versions, [0; 0]);
    says
}

/// All but the fourteenth, which comes in that version or not at all.
fn all(fourteenth: Option<u32>) -> Vec<u32> {
    [[1; 13].as_slice(), fourteenth.as_slice(), &[1; 6]].concat()
}

#[test]
fn what_fits_runs_in_the_version_that_was_written() {
    assert_eq!(at_the_door(Some(part(&[ONE])), Some(part(&[ONE]))), (String::new(), all(Some(1)), 0));
    for (versions, version) in [(&[ONE][..], 1), (&[TWO], 2), (&[THREE], 3)] {
        let (says, ran, _) = at_the_door(Some(part(versions)), Some(part(&[THREE, TWO, ONE])));
        assert_eq!((says.as_str(), ran), ("", all(Some(version))));
    }
    // What is written is the newest, unless it is written for somebody.
    let (says, ran, _) = at_the_door(Some(part(&[THREE, TWO, ONE])), Some(optional(&[THREE])));
    assert_eq!((says.as_str(), ran), ("", all(Some(3))));
}

/// A component that took another name reads what it wrote under the old one, and nothing that nobody wrote.
#[test]
fn an_older_version_of_another_owner_is_not_one_of_the_newer_owner() {
    let read = Some(part(&[RENAMED, ONE]));
    assert_eq!(at_the_door(Some(part(&[ONE])), read), (String::new(), all(Some(1)), 0));
    assert_eq!(at_the_door(Some(part(&[RENAMED])), read), (String::new(), all(Some(2)), 0));
    let says = "error: /n13: version-older: compatible: found test-new-v1, expected test-new-v2";
    assert_eq!(refused(Some(part(&[NOBODYS])), read), says);
}

#[test]
fn nothing_runs_when_a_version_is_not_read() {
    let says = "error: /n13: version-newer: compatible: found test-one-v3, expected test-one-v2";
    assert_eq!(refused(Some(part(&[THREE])), Some(part(&[TWO, ONE]))), says);
    let says = "error: /n13: version-older: compatible: found test-one-v1, expected test-one-v2..=v3";
    assert_eq!(refused(Some(part(&[ONE])), Some(part(&[THREE, TWO]))), says);
    let says = "error: /n13: version-newer: compatible: found block-v9, expected block-v1";
    assert_eq!(refused(Some(part(&[FUTURE])), Some(part(&[ONE]))), says);
}

#[test]
fn nothing_runs_when_somebody_else_owns_the_node() {
    let says = "\
error: /n13: component-unknown: compatible: found test-other-v1, expected a component that this reader knows
error: /n13: component-unlisted: compatible: found no such component here, expected test-one-v1";
    assert_eq!(refused(Some(part(&[OTHER])), Some(part(&[ONE]))), says);
    let says = "error: /n13: component-unknown: compatible: test-one-v2, block-v1";
    assert_eq!(refused(Some(part(&[TWO])), None), says);
}

#[test]
fn nothing_runs_when_what_must_be_there_is_not() {
    let says = "error: /n13: component-missing: expected test-one-v3";
    assert_eq!(refused(None, Some(part(&[THREE, ONE]))), says);
    let (says, ran, _) = at_the_door(None, Some(optional(&[ONE])));
    assert_eq!((says.as_str(), ran), ("", all(None)));
}

#[test]
fn what_neither_needs_is_dropped_with_its_memory() {
    let says = "warning: /n13: component-dropped: compatible: found test-one-v3, expected test-one-v2";
    let dropped = at_the_door(Some(optional(&[THREE])), Some(optional(&[TWO, ONE])));
    assert_eq!(dropped, (says.into(), all(None), 0));
    let says = "warning: /n13: component-dropped: compatible: test-one-v1";
    assert_eq!(at_the_door(Some(optional(&[ONE])), None), (says.into(), all(None), 0));
}

#[test]
fn what_either_needs_is_not_dropped() {
    let says = "error: /n13: version-newer: compatible: found test-one-v3, expected test-one-v2";
    assert_eq!(refused(Some(part(&[THREE])), Some(optional(&[TWO, ONE]))), says);
    assert_eq!(refused(Some(optional(&[THREE])), Some(part(&[TWO, ONE]))), says);
}

/// Each of them is told, and it is one handover or none.
#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let log = Log::default();
    let mut registry = Registry::new();
    for (number, name) in NAMES.into_iter().enumerate() {
        outgoing.preserve(name, &part(if number % 2 == 0 { &[THREE] } else { &[ONE] })).unwrap();
        registry.add(name, Reader { name, versions: &[TWO, ONE], log: Rc::clone(&log) });
    }
    registry.add("more", Reader { name: "more", versions: &[ONE], log: Rc::clone(&log) });
    let finished = outgoing.finish().unwrap();
    let forecast = finished.forecast(&registry.terms()).unwrap().to_string();
    let (memory, root) = finished.into_parts();
    let refused = Incoming::new(memory, root.start()).plan(&registry).accept().unwrap_err();
    let newer = |name: &&str| {
        alloc::format!("error: /{name}: version-newer: compatible: found test-one-v3, expected test-one-v2\n")
    };
    let newer: String = NAMES.iter().step_by(2).map(newer).collect();
    assert_eq!(refused.findings.to_string(), newer + "error: /more: component-missing: expected test-one-v1");
    assert_eq!(forecast, refused.findings.to_string());
    assert!(log.borrow().is_empty());
}

/// Written for somebody, the same twenty fit.
#[test]
fn what_is_written_for_the_reader_is_taken() {
    let log = Log::default();
    let mut registry = Registry::new();
    let mut handles = Vec::new();
    for name in NAMES {
        let versions: &'static [CompatList<'static>] = if name == "n13" { &[ONE] } else { &[THREE, TWO] };
        handles.push(registry.add_optional(name, Reader { name, versions, log: Rc::clone(&log) }));
    }
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.write_for(&registry.terms()).unwrap();
    for name in NAMES {
        outgoing.preserve(name, &part(&[TWO, ONE])).unwrap();
    }
    outgoing.preserve("more", &optional(&[ONE])).unwrap();
    let dropped: Vec<String> =
        outgoing.dropped().iter().map(|(node, why)| alloc::format!("{node}: {} {}", why.len(), why[0])).collect();
    let says = "more: 1 component-unknown: found test-one-v1, expected a component that this reader knows";
    assert_eq!(dropped, [says]);
    let (memory, root) = outgoing.finish().unwrap().into_parts();
    let plan = Incoming::new(memory, root.start()).plan(&registry);
    assert!(plan.findings().is_empty(), "{}", plan.findings());
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let versions: Vec<u32> = handles.iter().filter_map(|handle| restored.take(handle)).collect();
    assert_eq!(versions, [[2; 13].as_slice(), &[1], &[2; 6]].concat());
}

/// What Linux writes has no lists: then the root's says in which version a layout is used.
#[test]
fn a_layout_that_only_the_root_names_in_another_version_is_not_read_as_ours() {
    let says = |root: &[&str]| {
        let mut outgoing = Outgoing::new(ram(Geometry::K4));
        let payload = Payload { folios: alloc::vec![(Order::ZERO, b"one".as_slice())], rule: Rule::Words };
        outgoing.preserve("kho_test", &payload).unwrap();
        let finished = outgoing.finish().unwrap();
        let bytes = finished.root_fdt().unwrap();
        let written = Fdt::parse(&bytes).unwrap().root();
        let number = |node: fdt::Node<'_>, name| node.property(name).unwrap().u64_native().unwrap();
        let node = written.child("kho_test").unwrap();
        let mut builder = Builder::new();
        builder.strings("compatible", root.iter().copied()).unwrap();
        builder.u64_native("preserved-memory-map", number(written, "preserved-memory-map")).unwrap();
        builder
            .node("kho_test", |fdt| {
                fdt.u64_native("preserved-data", number(node, "preserved-data"))?;
                fdt.u64_native("blob-size", number(node, "blob-size"))
            })
            .unwrap();
        let (mut memory, root) = finished.into_parts();
        memory.poke(root.start(), &builder.finish().unwrap()).unwrap();
        let mut registry = Registry::new();
        registry.add("kho_test", SelfTestNode);
        Incoming::new(memory, root.start()).plan(&registry).findings().kept().first().map(ToString::to_string)
    };
    let newer = "error: /kho_test: version-newer: compatible: found vmalloc-v2, expected vmalloc-v1";
    assert_eq!(says(&["kho-v4", "radix-v1", "vmalloc-v2"]).as_deref(), Some(newer));
    assert_eq!(says(&["kho-v4", "radix-v1", "vmalloc-v1", "vmalloc-v2"]), None);
    assert_eq!(says(&["kho-v4", "block-v9", "radix-v1"]), None);
    assert_eq!(says(&["kho-v4"]), None);
}

#[test]
fn a_reader_is_named_before_anything_is_written_and_must_read_the_root() {
    let reads = Registry::<Ram>::new().terms();
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve("n0", &part(&[ONE])).unwrap();
    let says = "refused: /n0: found a node that is preserved already, expected a handover of which nothing is written";
    assert_eq!(outgoing.write_for(&reads).unwrap_err().to_string(), says);
    outgoing.unpreserve("n0");
    outgoing.write_for(&reads).unwrap();

    let mut refused = |layouts: &[(&str, u32)]| {
        let terms = layouts.iter().map(|(newest, oldest)| Term::parse("", newest, *oldest, false).unwrap());
        outgoing.write_for(&terms.collect()).unwrap_err().to_string()
    };
    let older = "version-older: compatible: found kho-v4, expected kho-v5..=v6";
    assert_eq!(refused(&[("kho-v6", 5), ("radix-v1", 1)]), older);
    let newer = "version-newer: compatible: found radix-v1, expected radix-v0";
    assert_eq!(refused(&[("kho-v4", 4), ("radix-v0", 0)]), newer);
    let unknown = "component-unknown: compatible: found kho-v4, expected a component that this reader knows";
    assert_eq!(refused(&[]), unknown);
    // As before it: the reader that was named first.
    let says = "component-unknown: /n0: found test-one-v1, expected a component that this reader knows";
    assert_eq!(outgoing.preserve("n0", &part(&[ONE])).unwrap_err().to_string(), says);
}
