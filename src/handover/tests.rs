//! The law: nothing is restored that was not planned and accepted as a whole; what fails leaves nothing.

use alloc::rc::Rc;
use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::*;
use crate::compat::{Compat, CompatList};
use crate::fdt::{Builder, Fdt};
use crate::mem::{Folio, Frames as _, Geometry, MemError, Memory as _, Order, PageRange, Pfn, PhysAddr, Ram};
use crate::report::{Class, Code, Fault, Findings};

pub(super) const ONE: CompatList<'static> = CompatList::new(Compat::new("test-one", 1), &[]);
const TWO: CompatList<'static> = CompatList::new(Compat::new("test-one", 2), &[]);

fn ram(geometry: Geometry) -> Ram {
    Ram::new(geometry, PageRange::new(Pfn::new(0x100).unwrap(), 4096).unwrap())
}

/// Preserves a blob and a block of an order; fails after that when told to.
pub(super) struct Part {
    made_of: CompatList<'static>,
    text: &'static str,
    order: u32,
    fails: bool,
    optional: bool,
}

impl Part {
    pub(super) const fn new(text: &'static str) -> Self {
        Part { made_of: ONE, text, order: 3, fails: false, optional: false }
    }
}

impl Preserve<Ram> for Part {
    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn optional(&self) -> bool {
        self.optional
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        let block = scope.alloc(Order::new(self.order).unwrap())?;
        scope.write(&block, 0, self.text.as_bytes())?;
        let address = block.folio().addr(scope.geometry()).get();
        let blob = scope.blob(&address.to_le_bytes())?;
        if self.fails { Err(Fault::new(Code::Refused).found("told to")) } else { Ok(blob) }
    }
}

/// Reads a [`Part`], and writes down every step.
#[derive(Clone)]
pub(super) struct Reader {
    name: &'static str,
    order: u32,
    log: Rc<RefCell<Vec<&'static str>>>,
    fails: bool,
}

/// Undone when it is dropped before its commit.
pub(super) struct Ready {
    folio: Folio,
    log: Option<Rc<RefCell<Vec<&'static str>>>>,
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.borrow_mut().push("undone");
        }
    }
}

impl Check<Ram> for Reader {
    type Checked = Folio;

    fn compat(&self) -> CompatList<'static> {
        ONE
    }

    fn check(&self, node: &mut Node<'_, Ram>) -> Result<Folio, Fault> {
        let bytes = node.blob(8)?;
        let at = PhysAddr::new(u64::from_le_bytes(bytes.try_into().unwrap()));
        let folio = Folio::new(at.page(node.geometry()).unwrap(), Order::new(self.order).unwrap()).unwrap();
        node.claim(folio);
        Ok(folio)
    }
}

impl Component<Ram> for Reader {
    type Prepared = Ready;
    type Restored = (&'static str, Folio);

    fn prepare(&self, folio: Folio, memory: &mut Ram) -> Result<Ready, Fault> {
        let _frame = crate::mem::Claim::claim(memory, folio)?;
        if self.fails {
            return Err(Fault::new(Code::Refused).found("told to"));
        }
        self.log.borrow_mut().push("prepared");
        Ok(Ready { folio, log: Some(self.log.clone()) })
    }

    fn commit(&self, mut ready: Ready, _: &mut Ram) -> Self::Restored {
        ready.log = None;
        self.log.borrow_mut().push("committed");
        (self.name, ready.folio)
    }
}

pub(super) fn reader(name: &'static str) -> Reader {
    Reader { name, order: 3, log: Rc::default(), fails: false }
}

pub(super) const NAMES: [&str; 20] = [
    "n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10", "n11", "n12", "n13", "n14", "n15", "n16", "n17",
    "n18", "n19",
];

pub(super) fn twenty(odd_one: &Part) -> Incoming<Ram> {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    for (number, name) in NAMES.into_iter().enumerate() {
        let part = Part::new("hello");
        outgoing.preserve(name, if number == 13 { odd_one } else { &part }).unwrap();
    }
    arrive(outgoing.finish().unwrap())
}

fn arrive(finished: Finished<Ram>) -> Incoming<Ram> {
    let (memory, root) = finished.into_parts();
    Incoming::new(memory, root.start())
}

fn errors(findings: &Findings) -> Vec<Code> {
    findings.kept().iter().map(|finding| finding.fault.code()).collect()
}

#[test]
fn what_goes_out_comes_in() {
    for geometry in Geometry::ALL {
        let mut outgoing = Outgoing::new(ram(geometry));
        outgoing.preserve("part", &Part::new("hello")).unwrap();
        let finished = outgoing.finish().unwrap();
        assert!(finished.metadata_bytes() >= 4 * geometry.page_size());
        let mut registry = Registry::new();
        let handle = registry.add("part", reader("part"));
        let plan = arrive(finished).plan(&registry);
        assert_eq!(plan.findings(), &Findings::default(), "{}", plan.findings());
        assert_eq!(plan.nodes()[0].compatible, ["test-one-v1"]);
        assert_eq!(plan.nodes()[0].owned, 9 * geometry.page_size());
        let mut restored = plan.accept().unwrap().restore().unwrap();
        let (name, folio) = restored.take(&handle).unwrap();
        assert!(restored.take(&handle).is_none());
        let mut text = [0; 5];
        restored.memory().read(folio.addr(geometry), &mut text).unwrap();
        assert_eq!((name, &text), ("part", b"hello"));
        let (memory, _) = restored.finish();
        assert_eq!(memory.free_pages(), 4096 - 8, "all but the block that was taken over is free again");
    }
}

#[test]
fn a_handle_of_another_registry_takes_nothing() {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve("part", &Part::new("hello")).unwrap();
    let registry_of = |name| {
        let mut registry = Registry::new();
        let handle = registry.add(name, reader("part"));
        (registry, handle)
    };
    let ((registry, handle), (_other, stranger)) = (registry_of("part"), registry_of("other"));
    let mut restored = arrive(outgoing.finish().unwrap()).plan(&registry).accept().unwrap().restore().unwrap();
    assert!(restored.take(&stranger).is_none(), "of the same place and type, and not what it stands for");
    assert!(restored.take(&handle).is_some());
}

#[test]
fn nothing_runs_when_one_of_twenty_is_incompatible() {
    let incoming = twenty(&Part { made_of: TWO, ..Part::new("newer") });
    let log = Rc::default();
    let mut registry = Registry::new();
    for name in NAMES {
        registry.add(name, Reader { log: Rc::clone(&log), ..reader(name) });
    }
    let refused = incoming.plan(&registry).accept().err().unwrap();
    assert_eq!(errors(&refused.findings), [Code::VersionNewer]);
    let finding = &refused.findings.kept()[0];
    assert_eq!(finding.to_string(), "error: /n13: version-newer: compatible: found test-one-v2, expected test-one-v1");
    assert_eq!(finding.fault.code().class(), Class::Mismatch);
    assert!(refused.nodes.iter().all(|node| (node.verdict == Verdict::Fine) == (node.name != "n13")));
    assert!(log.borrow().is_empty());
    // It may be tried again by somebody who understands.
    assert_eq!(errors(refused.incoming.plan(&Registry::new()).findings()).len(), 20);
}

#[test]
fn a_prepare_that_fails_undoes_those_before_it_and_gives_the_handover_back() {
    let incoming = twenty(&Part::new("fine"));
    let log = Rc::default();
    let mut registry = Registry::new();
    for name in NAMES {
        registry.add(name, Reader { log: Rc::clone(&log), fails: name == "n13", ..reader(name) });
    }
    let failed = incoming.plan(&registry).accept().unwrap().restore().err().unwrap();
    assert_eq!((failed.node.as_str(), failed.fault.code()), ("/n13", Code::Refused));
    let steps = log.take();
    assert_eq!(steps.iter().filter(|step| **step == "prepared").count(), 13);
    assert_eq!(steps.iter().filter(|step| **step == "undone").count(), 13);
    assert!(!steps.contains(&"committed"));
    // The same handover restores whole when nothing fails.
    let mut registry = Registry::new();
    let handles: Vec<_> = NAMES.into_iter().map(|name| registry.add(name, reader(name))).collect();
    let mut restored = failed.incoming.plan(&registry).accept().unwrap().restore().unwrap();
    assert!(handles.iter().zip(NAMES).all(|(handle, name)| restored.take(handle).unwrap().0 == name));
}

#[test]
fn a_preserve_that_fails_leaves_nothing_preserved() {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve("kept", &Part::new("kept")).unwrap();
    let free = outgoing.memory().free_pages();
    let fault = outgoing.preserve("failed", &Part { fails: true, ..Part::new("") }).unwrap_err();
    assert_eq!(fault.code(), Code::Refused);
    assert_eq!(outgoing.memory().free_pages(), free);
    // Twice the same name, and names that no device tree can have.
    assert_eq!(outgoing.preserve("kept", &Part::new("")).unwrap_err().code(), Code::FdtDuplicate);
    for name in ["", "a/b", "0abc", "a-name-of-more-than-31-bytes-does-not-fit"] {
        assert_eq!(outgoing.preserve(name, &Part::new("")).unwrap_err().code(), Code::FdtName, "{name}");
    }
    assert_eq!(outgoing.memory().free_pages(), free);
    assert!(outgoing.unpreserve("kept") && !outgoing.unpreserve("kept"));
    assert_eq!(outgoing.into_memory().free_pages(), 4096);
}

#[test]
fn a_finish_that_fails_or_is_cancelled_leaves_the_handover_as_it_was() {
    let small = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 12).unwrap());
    let mut outgoing = Outgoing::new(small);
    outgoing.preserve("part", &Part::new("hello")).unwrap();
    // 9 pages are used, and the tree needs more than the 3 that are left.
    let unfinished = outgoing.finish().err().unwrap();
    assert_eq!(unfinished.fault.code(), Code::Exhausted);
    assert_eq!(unfinished.outgoing.memory().free_pages(), 3);

    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve("part", &Part::new("hello")).unwrap();
    let free = outgoing.memory().free_pages();
    let first = outgoing.finish().unwrap();
    let (root, fdt) = (first.root(), first.root_fdt().unwrap());
    let again = first.cancel().unwrap();
    assert_eq!(again.memory().free_pages(), free);
    let second = again.finish().unwrap();
    assert_eq!((second.root(), second.root_fdt().unwrap()), (root, fdt));
}

#[test]
fn frames_of_the_user_are_preserved_once_and_cannot_be_freed_meanwhile() {
    struct Twice<'a>(&'a crate::mem::Frame);
    impl Preserve<Ram> for Twice<'_> {
        fn compat(&self) -> CompatList<'static> {
            ONE
        }
        fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
            scope.preserve(self.0)?;
            scope.blob(b"x")
        }
    }
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let frame = outgoing.alloc(Order::new(1).unwrap()).unwrap();
    outgoing.preserve("one", &Twice(&frame)).unwrap();
    assert_eq!(outgoing.preserve("two", &Twice(&frame)).unwrap_err().code(), Code::OwnedTwice);
    let free = outgoing.memory().free_pages();
    outgoing.free(frame);
    assert_eq!(outgoing.memory().free_pages(), free);
    let foreign = ram(Geometry::K4).alloc(Order::ZERO).unwrap();
    assert_eq!(outgoing.preserve("three", &Twice(&foreign)).unwrap_err().code(), Code::Refused);
}

#[test]
fn a_frame_of_a_scope_is_worth_nothing_outside_of_it() {
    struct Leak(Cell<Option<crate::mem::Frame>>);
    impl Preserve<Ram> for Leak {
        fn compat(&self) -> CompatList<'static> {
            ONE
        }
        fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
            self.0.set(Some(scope.alloc(Order::ZERO)?));
            scope.blob(b"x")
        }
    }
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let leak = Leak(Cell::new(None));
    outgoing.preserve("leak", &leak).unwrap();
    let frame = leak.0.take().unwrap();
    assert!(matches!(outgoing.write(&frame, 0, b"y"), Err(MemError::NotHeld { .. })));
    let free = outgoing.memory().free_pages();
    outgoing.free(frame);
    assert_eq!(outgoing.memory().free_pages(), free);
}

#[test]
fn unknown_components_refuse_and_optional_ones_are_dropped() {
    let incoming = twenty(&Part { optional: true, ..Part::new("optional") });
    let mut registry = Registry::new();
    for name in NAMES.into_iter().filter(|name| *name != "n13") {
        registry.add(name, reader(name));
    }
    let plan = incoming.plan(&registry);
    assert_eq!(errors(plan.findings()), [Code::ComponentDropped]);
    assert_eq!(plan.nodes()[13].verdict, Verdict::Dropped);
    let accepted = plan.accept().unwrap();
    let (memory, _) = accepted.restore().unwrap().finish();
    assert_eq!(memory.free_pages(), 4096 - 19 * 8, "what was dropped is free");

    let plan = twenty(&Part::new("required")).plan(&registry);
    assert_eq!(errors(plan.findings()), [Code::ComponentUnknown]);
    let text = plan.findings().to_string();
    assert_eq!(text, "error: /n13: component-unknown: compatible: found test-one-v1".replace("found ", ""));

    registry.add("more", reader("more"));
    registry.add_optional("less", reader("less"));
    registry.add("n13", reader("n13"));
    let plan = twenty(&Part::new("fine")).plan(&registry);
    assert_eq!(errors(plan.findings()), [Code::ComponentMissing]);
    assert_eq!(plan.findings().kept()[0].node, "/more");
}

/// A handover of one node, with its root FDT rewritten by hand: `edit` gets the properties of the node.
fn edited(edit: impl FnOnce(&mut Builder, u64, u64, &[crate::mem::PhysRange])) -> Findings {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve("part", &Part::new("hello")).unwrap();
    let finished = outgoing.finish().unwrap();
    let bytes = finished.root_fdt().unwrap();
    let fdt = Fdt::parse(&bytes).unwrap();
    let map = fdt.root().property("preserved-memory-map").unwrap().u64_native().unwrap();
    let node = fdt.root().child("part").unwrap();
    let blob = node.property("preserved-data").unwrap().u64_native().unwrap();
    let mem: Vec<_> = node.property("mem").unwrap().mem_ranges().map(Result::unwrap).collect();
    let mut builder = Builder::new();
    builder.strings("compatible", ["kho-v4"]).unwrap();
    builder.u64_native("preserved-memory-map", map).unwrap();
    builder
        .node("part", |builder| {
            edit(builder, blob, 8, &mem);
            Ok(())
        })
        .unwrap();
    let (mut memory, root) = finished.into_parts();
    memory.poke(root.start(), &builder.finish().unwrap()).unwrap();
    let mut registry = Registry::new();
    registry.add("part", reader("part"));
    Incoming::new(memory, root.start()).plan(&registry).findings().clone()
}

#[test]
fn a_node_that_lies_is_told_so() {
    let node = |builder: &mut Builder, blob: u64, size: u64, mem: &[crate::mem::PhysRange]| {
        builder.strings("compatible", ["test-one-v1"]).unwrap();
        builder.mem(mem).unwrap();
        builder.u64_native("preserved-data", blob).unwrap();
        builder.u64_native("blob-size", size).unwrap();
    };
    assert!(edited(node).is_empty());
    let code =
        |findings: Findings| errors(&findings).into_iter().filter(|code| *code != Code::Unowned).collect::<Vec<_>>();
    assert_eq!(code(edited(|b, _, size, mem| node(b, 0, size, mem))), [Code::NotPreserved]);
    assert_eq!(code(edited(|b, blob, _, mem| node(b, blob, 9, mem))), [Code::TooLarge]);
    assert_eq!(code(edited(|b, blob, _, mem| node(b, blob + 0xffc, 8, mem))), [Code::PreservedOtherwise]);
    assert_eq!(code(edited(|b, _, size, mem| node(b, u64::MAX - 3, size, mem))), [Code::TooLarge]);
    assert_eq!(code(edited(|b, blob, size, mem| node(b, blob, size, &mem[..mem.len() - 1]))), [Code::MemDisagrees]);
    assert_eq!(code(edited(|b, _, size, mem| node(b, 0xdead_0000_0000, size, mem))), [Code::NotPreserved]);
    assert_eq!(
        code(edited(|b, blob, _, _| {
            b.strings("compatible", ["test-one-v1"]).unwrap();
            b.u64_native("preserved-data", blob).unwrap();
        })),
        [Code::PropertyMissing]
    );
    assert_eq!(
        code(edited(|b, blob, size, _| {
            b.u64_native("preserved-data", blob).unwrap();
            b.u64_native("blob-size", size).unwrap();
        })),
        [Code::CompatMissing]
    );
    assert_eq!(
        code(edited(|b, blob, size, _| {
            b.strings("compatible", ["other-v1"]).unwrap();
            b.u64_native("preserved-data", blob).unwrap();
            b.u64_native("blob-size", size).unwrap();
        })),
        [Code::ComponentUnknown, Code::ComponentUnlisted]
    );
}

#[test]
fn two_nodes_that_own_one_page_are_told_with_both_names() {
    struct Same(Cell<u64>);
    impl Preserve<Ram> for Same {
        fn compat(&self) -> CompatList<'static> {
            ONE
        }
        fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
            if self.0.get() == 0 {
                let block = scope.alloc(Order::new(3).unwrap())?;
                self.0.set(block.folio().addr(scope.geometry()).get());
            }
            scope.blob(&self.0.get().to_le_bytes())
        }
    }
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    let same = Same(Cell::new(0));
    outgoing.preserve("first", &same).unwrap();
    outgoing.preserve("second", &same).unwrap();
    let mut registry = Registry::new();
    registry.add("first", reader("first"));
    registry.add("second", reader("second"));
    let plan = arrive(outgoing.finish().unwrap()).plan(&registry);
    assert!(plan.findings().has(Code::OwnedTwice), "{}", plan.findings());
    let finding = &plan.findings().kept()[0];
    assert_eq!(finding.node, "/second");
    assert!(finding.fault.found_text().ends_with("of which /first owns a page"), "{finding}");
}

#[test]
fn a_block_restored_in_another_order_than_preserved_is_refused() {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve("part", &Part::new("hello")).unwrap();
    let mut registry = Registry::new();
    registry.add("part", Reader { order: 2, ..reader("part") });
    let plan = arrive(outgoing.finish().unwrap()).plan(&registry);
    let finding = &plan.findings().kept()[0];
    assert_eq!(finding.fault.code(), Code::PreservedOtherwise);
    assert_eq!(finding.fault.found_text(), "preserved as pfn 0x100 order 3");
    assert_eq!(finding.fault.expected_text(), "pfn 0x100 order 2");
}

#[test]
fn roots_that_are_none_are_told_what_they_are() {
    let plan = |memory: Ram, root: u64| Incoming::new(memory, PhysAddr::new(root)).plan(&Registry::new());
    let code = |plan: Plan<Ram>| {
        assert_eq!(plan.verdict(), Verdict::Refused);
        errors(plan.findings())
    };
    assert_eq!(code(plan(ram(Geometry::K4), 0)), [Code::NoHandover]);
    assert_eq!(code(plan(ram(Geometry::K4), 0x100_000)), [Code::FdtHeader]);
    assert_eq!(code(plan(ram(Geometry::K4), 0x1000)), [Code::Outside]);
    let root = |compatible: &[&str], map: u64| {
        let mut memory = ram(Geometry::K4);
        let mut fdt = Builder::new();
        fdt.strings("compatible", compatible).unwrap();
        fdt.u64_native("preserved-memory-map", map).unwrap();
        memory.poke(PhysAddr::new(0x100_000), &fdt.finish().unwrap()).unwrap();
        plan(memory, 0x100_000)
    };
    assert_eq!(code(root(&["kho-v4"], 0)), [Code::NoHandover]);
    assert_eq!(code(root(&["kho-v3"], 0x101_000)), [Code::VersionOlder]);
    assert_eq!(code(root(&["kho-v5"], 0x101_000)), [Code::VersionNewer]);
    assert_eq!(code(root(&["linux,dummy-virt"], 0x101_000)), [Code::ComponentUnknown]);
    assert_eq!(code(root(&["linux,dummy", "kho-v5", "kho-v4"], 0x101_000)), [Code::NotPreserved]);
    assert_eq!(code(root(&["kho-v4"], 0x101_008)), [Code::Unaligned]);
    let mut huge = ram(Geometry::K4);
    huge.poke(PhysAddr::new(0x100_000), &[0xd0, 0x0d, 0xfe, 0xed, 0xff, 0xff, 0xff, 0xff]).unwrap();
    assert_eq!(code(plan(huge, 0x100_000)), [Code::TooLarge]);
}

#[test]
fn what_nobody_owns_is_a_warning_with_its_place() {
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve("part", &Part::new("hello")).unwrap();
    let mut registry = Registry::new();
    registry.read("part", Blind);
    let plan = arrive(outgoing.finish().unwrap()).plan(&registry);
    // The node says `mem` of a block that its reader does not claim, and then nobody does.
    assert_eq!(errors(plan.findings()), [Code::MemDisagrees, Code::Unowned]);
    assert!(
        plan.findings()
            .to_string()
            .contains("warning: /: unowned: at 0x100000: 8 pages that no node owns, these first")
    );
}

struct Blind;

impl Check<Ram> for Blind {
    type Checked = ();

    fn compat(&self) -> CompatList<'static> {
        ONE
    }

    fn check(&self, node: &mut Node<'_, Ram>) -> Result<(), Fault> {
        node.blob(8).map(drop)
    }
}
