//! What fails late, and memory that says something else the second time.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::Debug;

use super::flipped::{BYTES, TABLE, whole};
use super::tests::{NAMES, ONE, Part, reader, twenty};
use super::{Check, Component, Handle, Incoming, Node, Outgoing, Registry, Verdict};
use crate::abi::kexec_metadata;
use crate::compat::{Compat, CompatList};
use crate::luo::LuoNode;
use crate::mem::{
    Arena, Bits, Claim as _, Folio, Frames as _, Geometry, MemError, Memory, Order, PhysAddr, PhysRange, Ram,
};
use crate::memblock::MemblockNode;
use crate::memfd::MemfdNode;
use crate::metadata::MetadataNode;
use crate::payload::{ARRAY_USE, Array, ArrayNode, Bytes, BytesNode, RecordsNode};
use crate::report::{Code, Fault};
use crate::selftest::SelfTestNode;

type Log = Rc<RefCell<Vec<(&'static str, &'static str)>>>;

/// Reads a [`Part`], and writes down every step. May fail when it is settled.
struct Late {
    name: &'static str,
    log: Log,
    fails: bool,
}

/// Undone when it is dropped before its commit.
struct Undo {
    name: &'static str,
    folio: Folio,
    log: Option<Log>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.borrow_mut().push((self.name, "undone"));
        }
    }
}

impl Check<Ram> for Late {
    type Checked = Folio;

    fn compat(&self) -> CompatList<'static> {
        ONE
    }

    fn check(&self, node: &mut Node<'_, Ram>) -> Result<Folio, Fault> {
        reader(self.name).check(node)
    }
}

impl Component<Ram> for Late {
    type Prepared = Undo;
    type Restored = Folio;

    fn prepare(&self, folio: Folio, memory: &mut Ram) -> Result<Undo, Fault> {
        let _taken_over = memory.claim(folio)?;
        // And something of its own, in memory that is free.
        let own = memory.alloc(Order::ZERO)?;
        memory.write(&own, 0, &[0xff; 4096])?;
        self.log.borrow_mut().push((self.name, "prepared"));
        Ok(Undo { name: self.name, folio, log: Some(Rc::clone(&self.log)) })
    }

    fn settle(&self, undo: Undo) -> Result<Undo, Fault> {
        if self.fails {
            return Err(Fault::new(Code::Io).found("too late"));
        }
        self.log.borrow_mut().push((self.name, "settled"));
        Ok(undo)
    }

    fn commit(&self, mut undo: Undo, _: &mut Ram) -> Folio {
        undo.log = None;
        self.log.borrow_mut().push((self.name, "committed"));
        undo.folio
    }
}

fn registry(fails: &str) -> (Registry<Ram>, Vec<Handle<Folio>>, Log) {
    let (mut registry, log) = (Registry::new(), Log::default());
    let late = |name| Late { name, log: Rc::clone(&log), fails: name == fails };
    let handles = NAMES.into_iter().map(|name| registry.add(name, late(name))).collect();
    (registry, handles, log)
}

#[test]
fn a_settle_that_fails_undoes_all_and_gives_the_handover_back() {
    let mut incoming = twenty(&Part::new("fine"));
    let root = incoming.root();
    // The first, one in the middle, the last; each on what the failure before it left.
    for fails in ["n0", "n13", "n19"] {
        let (registry, _, log) = registry(fails);
        let failed = incoming.plan(&registry).accept().unwrap().restore().err().unwrap();
        assert_eq!((failed.to_string(), failed.fault.code()), (format!("/{fails}: io: too late"), Code::Io));
        let steps = log.take();
        let of = |what: &str| steps.iter().filter(|step| step.1 == what).map(|step| step.0).collect::<Vec<_>>();
        let at = NAMES.iter().position(|name| *name == fails).unwrap();
        assert_eq!(of("prepared"), NAMES, "all, before the first is settled");
        assert_eq!(of("settled"), NAMES[..at]);
        assert_eq!(of("committed"), [""; 0]);
        // The one that failed first, then the last that was prepared, and so on: each may build on those before it.
        let undone: Vec<_> = [fails].into_iter().chain(NAMES.into_iter().rev().filter(|name| *name != fails)).collect();
        assert_eq!(of("undone"), undone);
        incoming = failed.incoming;
        assert_eq!(incoming.root(), root);
    }
    let (registry, handles, log) = registry("none");
    let mut restored = incoming.plan(&registry).accept().unwrap().restore().unwrap();
    assert_eq!(log.borrow().iter().filter(|step| step.1 == "committed").count(), 20);
    assert!(log.borrow().iter().all(|step| step.1 != "undone"));
    for (number, handle) in handles.iter().enumerate() {
        let mut text = [0; 5];
        let folio = restored.take(handle).unwrap();
        restored.memory().read(folio.addr(Geometry::K4), &mut text).unwrap();
        assert_eq!(&text[..4], if number == 13 { b"fine" } else { b"hell" });
    }
    // Twenty blocks of eight pages, and the twenty pages of now: nothing of the three that failed.
    assert_eq!(restored.finish().0.free_pages(), 4096 - 20 * 8 - 20);
}

/// Reads nothing, and fails when it is settled.
struct TooLate;

impl<M: Memory> Check<M> for TooLate {
    type Checked = ();

    fn compat(&self) -> CompatList<'static> {
        BYTES
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<(), Fault> {
        node.blob(5).map(drop)
    }
}

impl<M: Memory> Component<M> for TooLate {
    type Prepared = ();
    type Restored = ();

    fn prepare(&self, (): (), _: &mut M) -> Result<(), Fault> {
        Ok(())
    }

    fn settle(&self, (): ()) -> Result<(), Fault> {
        Err(Fault::new(Code::Io).found("too late"))
    }

    fn commit(&self, (): (), _: &mut M) {}
}

#[test]
fn mappings_of_a_restore_that_failed_late_are_gone() {
    const CACHE: CompatList<'static> = CompatList::new(Compat::new("test-cache", 1), ARRAY_USE);
    let mut outgoing = Outgoing::new(Arena::new(1 << 20).unwrap());
    let frames = [outgoing.alloc(Order::ZERO).unwrap()];
    outgoing.write(&frames[0], 0, b"kept").unwrap();
    outgoing.preserve("cache", &Array { made_of: CACHE, frames: &frames, bytes: 4 }).unwrap();
    outgoing.preserve("late", &Bytes { made_of: BYTES, bytes: b"hello" }).unwrap();
    let (arena, root) = outgoing.finish().unwrap().into_parts();
    let mut registry = Registry::new();
    let cache = registry.add("cache", ArrayNode { made_of: CACHE });
    let incoming = Incoming::new(Arena::open(arena.into_fd().unwrap()).unwrap(), root.start());

    let mut failing = Registry::new();
    failing.add("cache", ArrayNode { made_of: CACHE });
    failing.add("late", TooLate);
    let failed = incoming.plan(&failing).accept().unwrap().restore().err().unwrap();
    assert_eq!(failed.to_string(), "/late: io: too late");
    // An arena of which a mapping was left would refuse to be admitted again.
    registry.read("late", BytesNode { made_of: BYTES, limit: 5 });
    let mut restored = failed.incoming.plan(&registry).accept().unwrap().restore().unwrap();
    assert_eq!(restored.take(&cache).unwrap()[..], *b"kept");
}

/// Memory in which every byte is another one when it is read again.
struct Restless {
    ram: Ram,
    /// Addresses that were read.
    read: RefCell<Bits>,
    /// What a byte becomes, by its address.
    change: fn(u64, u8) -> u8,
    /// Bytes that were read again, and are always the same.
    steady: PhysRange,
}

impl Memory for Restless {
    fn geometry(&self) -> Geometry {
        self.ram.geometry()
    }

    fn extents(&self) -> &[PhysRange] {
        self.ram.extents()
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        self.ram.read(at, to)?;
        let mut read = self.read.borrow_mut();
        for (address, byte) in (at.get()..).zip(to) {
            if !read.insert(address) && !self.steady.contains(PhysAddr::new(address), 1) {
                *byte = (self.change)(address, *byte);
            }
        }
        Ok(())
    }
}

/// Keeps what a check read, in words.
struct Told<C>(C, Rc<RefCell<Vec<String>>>);

impl<M: Memory, C: Check<M>> Check<M> for Told<C>
where
    C::Checked: Debug,
{
    type Checked = ();

    fn compat(&self) -> CompatList<'static> {
        self.0.compat()
    }

    fn names_itself(&self) -> bool {
        self.0.names_itself()
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<(), Fault> {
        let checked = self.0.check(node)?;
        self.1.borrow_mut().push(format!("{checked:?}"));
        Ok(())
    }
}

/// The plan's verdict, every finding, and what was read.
fn planned<M: Memory + 'static>(incoming: Incoming<M>) -> (Verdict, Vec<String>, Vec<String>) {
    let told = Rc::default();
    let mut registry = Registry::new();
    let seven = &mut registry;
    seven.read("memfd", Told(MemfdNode, Rc::clone(&told)));
    seven.read("kho_test", Told(SelfTestNode, Rc::clone(&told)));
    seven.read("LUO", Told(LuoNode, Rc::clone(&told)));
    seven.read("memblock", Told(MemblockNode, Rc::clone(&told)));
    seven.read(kexec_metadata::NODE, Told(MetadataNode, Rc::clone(&told)));
    seven.read("bytes", Told(BytesNode { made_of: BYTES, limit: 4096 }, Rc::clone(&told)));
    seven.read("table", Told(RecordsNode::<zerocopy::little_endian::U64>::new(TABLE), Rc::clone(&told)));
    let plan = incoming.plan(&registry);
    let (verdict, findings) = (plan.verdict(), plan.findings().clone());
    assert_eq!(verdict == Verdict::Fine, findings.errors() == 0, "{findings}");
    assert_eq!(plan.accept().is_ok(), verdict == Verdict::Fine);
    (verdict, findings.kept().iter().map(ToString::to_string).collect(), told.take())
}

fn restless(geometry: Geometry, steady: u64, change: fn(u64, u8) -> u8) -> Incoming<Restless> {
    let incoming = whole(geometry);
    let root = incoming.root();
    let (ram, steady) = (incoming.into_memory(), PhysRange::new(root, steady).unwrap());
    Incoming::new(Restless { ram, read: RefCell::default(), change, steady }, root)
}

#[test]
fn what_was_read_once_is_not_read_again() {
    for geometry in Geometry::ALL {
        let calm = planned(whole(geometry));
        assert_eq!((calm.0, calm.2.len()), (Verdict::Fine, 7), "{:?}", calm.1);
        // But for the eight bytes that say how large the root is. All of it changes, a bit of it, or it is gone.
        for change in [(|_, byte| !byte) as fn(u64, u8) -> u8, |_, byte| byte ^ 1, |_, _| 0] {
            assert_eq!(planned(restless(geometry, 8, change)), calm, "{geometry}");
        }
    }
}

#[test]
fn a_root_that_changes_between_two_reads_is_refused() {
    /// Changes the byte of the root that is so far from the start of its page.
    fn nth<const N: u64>(address: u64, byte: u8) -> u8 {
        if address & 0xfff == N { byte ^ 0x40 } else { byte }
    }
    let found = |change| {
        let (verdict, mut findings, told) = planned(restless(Geometry::K4, 0, change));
        assert_eq!((verdict, findings.len(), told.len()), (Verdict::Refused, 1, 0), "{findings:?}");
        findings.remove(0)
    };
    // The magic, and the size: larger than what was copied, by four sizes of it.
    assert!(found(nth::<0>).starts_with("error: /: fdt-header: magic"), "{}", found(nth::<0>));
    for size in [found(nth::<4>), found(nth::<5>), found(nth::<6>)] {
        assert!(size.starts_with("error: /: truncated: totalsize"), "{size}");
    }
    assert!(found(|_, byte| !byte).starts_with("error: /: fdt-header: magic"));
    assert!(found(|_, _| 0).starts_with("error: /: fdt-header: magic"));
}
