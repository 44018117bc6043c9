//! Nodes of states that nobody should have handed over: every one is refused by the plan, before anything is taken over.

use std::cell::RefCell;
use std::format;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::string::{String, ToString as _};
use std::sync::LazyLock;
use std::vec::Vec;

use proptest::prelude::*;
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::super::tests::{All, all, other};
use super::*;
use crate::abi::state::{AREA, Blob as Wire, DESCRIPTOR, FOLIO, MEMFD};
use crate::abi::vmalloc::Descriptor;
use crate::files::{Beside as _, Files, FilesNode};
use crate::handover::testing::{NODE, block, page, planned, ram, written};
use crate::handover::{Blob, Incoming, Outgoing, Preserve, Registry, Scope, Verdict};
use crate::mem::{Geometry, Memory as _, Order, PhysAddr, Ram};
use crate::report::Code;
use crate::state::{LookAtStates, MADE_OF, State, States, StatesNode};
use crate::transport::Bundle;

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 81, version = 2)]
struct Small {
    a: u8,
}

fn image() -> Made {
    Made::of(&[Small::SHAPE], &[5])
}

/// Writes metadata and bulk data as a node; the blob may be changed before.
fn store(scope: &mut Scope<'_, Ram>, made: &Made, change: &dyn Fn(&mut Scope<'_, Ram>, &mut Wire)) -> Blob {
    let all = made.bytes();
    let size = usize::try_from(Image::header(&all).unwrap().meta.get()).unwrap();
    let meta_blocks = scope.area_of(Order::ZERO, &all[..size]).unwrap().descriptor;
    let bulk_blocks = match made.bulk.len() {
        0 => Descriptor::new_zeroed(),
        _ => scope.area_of(Order::ZERO, &made.bulk).unwrap().descriptor,
    };
    let (meta, bulk) = ((size as u64).into(), (made.bulk.len() as u64).into());
    let mut wire = Wire { meta, bulk, meta_blocks, bulk_blocks };
    change(scope, &mut wire);
    scope.blob(wire.as_bytes()).unwrap()
}

fn planned_with(made: &Made, change: impl Fn(&mut Scope<'_, Ram>, &mut Wire)) -> Vec<String> {
    let incoming = || written(Geometry::K4, MADE_OF, |scope| Ok(store(scope, made, &change)));
    let (_, findings) = planned(incoming(), LookAtStates);
    // Who restores is told the same, and cannot accept it.
    let mut registry = Registry::new();
    registry.add(NODE, StatesNode::new(&[Small::SHAPE]));
    let plan = incoming().plan(&registry);
    assert_eq!(plan.findings().errors() == 0, plan.accept().is_ok());
    findings
}

fn told(made: &Made, change: impl Fn(&mut Scope<'_, Ram>, &mut Wire)) -> String {
    let mut findings = planned_with(made, change);
    assert!(!findings.is_empty());
    findings.remove(0)
}

#[test]
fn what_is_right_is_fine() {
    assert_eq!(planned_with(&image(), |_, _| {}), [""; 0]);
    let mut bulk = image();
    bulk.bulk = vec![1; 10_000];
    assert_eq!(planned_with(&bulk, |_, _| {}), [""; 0]);
}

#[test]
fn sizes_that_lie() {
    let size = Image::header(&image().bytes()).unwrap().meta.get();
    let bulk = || Made { bulk: vec![1; 5000], ..image() };
    assert_eq!(
        told(&image(), |_, wire| wire.meta = 4097.into()),
        "state-length: meta at 0x102000: found 4097, expected at most 4096, what the blocks hold"
    );
    assert_eq!(
        told(&image(), |_, wire| wire.meta = u64::MAX.into()),
        format!("state-length: meta at 0x102000: found {}, expected at most 4096, what the blocks hold", u64::MAX)
    );
    assert_eq!(
        told(&image(), |_, wire| wire.meta = 0.into()),
        "truncated: header at offset 0x0: found 0, expected at least 64 bytes"
    );
    assert_eq!(
        told(&image(), |_, wire| wire.meta = (size - 1).into()),
        format!("truncated: meta at offset 0x10: found {} bytes, expected {size}", size - 1)
    );
    assert_eq!(
        told(&image(), |_, wire| wire.meta = (size + 1).into()),
        format!("state-length: meta at 0x102000: found {}, expected {size}, as the header says", size + 1)
    );
    assert_eq!(
        told(&image(), |_, wire| wire.bulk = 1.into()),
        "state-length: bulk at 0x102000: found 1, expected 0, as the header says"
    );
    assert_eq!(
        told(&bulk(), |_, wire| wire.bulk = 4999.into()),
        "state-length: bulk at 0x105000: found 4999, expected 5000, as the header says"
    );
    let one_block = |scope: &mut Scope<'_, Ram>, wire: &mut Wire| {
        wire.bulk_blocks = scope.area_of(Order::ZERO, &[1; 4096]).unwrap().descriptor;
    };
    assert_eq!(
        told(&bulk(), one_block),
        "state-length: bulk at 0x107000: found 5000, expected at most 4096, what the blocks hold"
    );
    assert_eq!(
        told(&bulk(), |_, wire| wire.bulk_blocks = Descriptor::new_zeroed()),
        "vmalloc-pages: bulk_blocks.total_pages: found 0, expected a nonzero multiple of 1"
    );
}

#[test]
fn blocks_that_are_not_preserved_or_owned_twice() {
    let elsewhere = |_: &mut Scope<'_, Ram>, wire: &mut Wire| {
        let mut bytes = wire.meta_blocks.as_bytes().to_vec();
        bytes[..8].copy_from_slice(&0x20_0000_u64.to_le_bytes());
        wire.meta_blocks = Descriptor::read_from_bytes(&bytes).unwrap();
    };
    assert_eq!(told(&image(), elsewhere), "not-preserved: meta_blocks at 0x200000: 0x1000 bytes that nobody preserved");
    let mut bulk = image();
    bulk.bulk = image().bytes();
    assert_eq!(
        told(&bulk, |_, wire| wire.bulk_blocks = wire.meta_blocks),
        "owned-twice: bulk_blocks.first: found 0x101000, expected a page that nothing else has"
    );
    let resource = |kind: u32, words: [u64; 3]| {
        let mut made = image_of(&[described(9, &[("f", Kind::Scalar(u8::try_from(kind).unwrap() + 29))])], &number(0));
        made.resources.push((kind, words));
        told(&made, |_, _| {})
    };
    // 0x102 is the blob.
    assert_eq!(
        resource(FOLIO, [0x10_2000, 0, 0]),
        "owned-twice: resources[0] at 0x102000: 0x102000..0x103000, of which /node owns a page"
    );
    assert_eq!(
        resource(FOLIO, [0x20_0000, 0, 0]),
        "not-preserved: resources[0] at 0x200000: pfn 0x200 order 0, which is not preserved"
    );
    assert_eq!(
        resource(FOLIO, [0x10_2000, 1, 0]),
        "preserved-otherwise: resources[0] at 0x102000: found preserved as pfn 0x102 order 0, expected pfn 0x102 order 1"
    );
    assert_eq!(
        resource(FOLIO, [0x10_2001, 0, 0]),
        "state-resource: resources[0].folio: found 0x102001, expected the address of a block of order 0"
    );
    assert_eq!(
        resource(FOLIO, [0x10_1000, 1, 0]),
        "state-resource: resources[0].folio: found 0x101000, expected the address of a block of order 1"
    );
    assert_eq!(resource(FOLIO, [0x10_2000, 64, 0]), "too-large: resources[0].order: found 64, expected at most 46");
    assert_eq!(
        resource(FOLIO, [0x10_2000, 0, 1]),
        "state-resource: resources[0].folio: found 0x102000, expected the address of a block of order 0"
    );
    assert_eq!(
        resource(FOLIO, [u64::MAX << 12, 0, 0]),
        "state-resource: resources[0].folio: found 0xfffffffffffff000, expected the address of a block of order 0"
    );
    assert_eq!(
        resource(AREA, [0x20_0000, 0, 0]),
        "vmalloc-pages: resources[0].total_pages: found 0, expected a nonzero multiple of 1"
    );
    assert_eq!(
        resource(AREA, [0x10_1000, 1 << 32, 0]),
        "vmalloc-pages: resources[0].total_pages: found 0, expected a nonzero multiple of 1"
    );
    let mut made = image();
    made.resources.push((9, [0; 3]));
    let text = [
        "state-resource: resources[0].kind: found 9, expected 1 to 4",
        "state-resource: resources[0]: one that no value has",
    ];
    assert_eq!(planned_with(&made, |_, _| {}), text);
    // Two resources, one block.
    let folio = |scope: &mut Scope<'_, Ram>, _: &mut Wire| {
        page(scope, &[1]);
    };
    let list = Kind::Seq(Box::new(Kind::Scalar(kind::FOLIO)));
    let mut made = image_of(&[described(9, &[("f", list)])], &[number(2), number(0), number(1)].concat());
    made.resources = vec![(FOLIO, [0x10_2000, 0, 0]); 2];
    let text = "owned-twice: resources[1] at 0x102000: 0x102000..0x103000, of which resources[0] of /node owns a page";
    assert_eq!(planned_with(&made, folio), [text]);
    // One that no value has; claimed, it is fine otherwise.
    let mut made = image();
    made.resources = vec![(FOLIO, [0x10_2000, 0, 0])];
    assert_eq!(planned_with(&made, folio), ["state-resource: resources[0]: one that no value has"]);
    // What is preserved and named by nobody.
    let spare = |scope: &mut Scope<'_, Ram>, _: &mut Wire| {
        block(scope, 2, &[1]);
    };
    let text = "mem-disagrees: mem at 0x104000: found 0x104000..0x108000, expected the ranges that the node's data uses, ascending";
    assert_eq!(planned_with(&image(), spare), [text]);
}

#[test]
fn tokens_of_files_that_did_not_come() {
    let file = |of: u32, resources: &[(u32, [u64; 3])]| {
        let field = |name, number| (name, Kind::Scalar(u8::try_from(of + 29).unwrap()), number);
        let fields = [field("m", 0), field("n", 1)];
        let fields: Vec<_> = fields.into_iter().take(resources.len()).collect();
        let object = fields.iter().flat_map(|field| number(field.2)).collect::<Vec<_>>();
        let fields: Vec<_> = fields.into_iter().map(|(name, kind, _)| (name, kind)).collect();
        let mut made = image_of(&[described(9, &fields)], &object);
        made.resources = resources.to_vec();
        let incoming = written(Geometry::K4, MADE_OF, |scope| Ok(store(scope, &made, &|_, _| {})));
        let mut registry = Registry::new();
        registry.add(NODE, StatesNode::new(&[]));
        let plan = incoming.plan(&registry);
        plan.findings().kept().iter().map(|finding| finding.fault.to_string()).collect::<Vec<_>>()
    };
    let (unknown, missing) = ("state-unknown: s9: id 9", "token-missing: files[0x7]: no file came with that token");
    assert_eq!(file(MEMFD, &[(MEMFD, [7, 0, 0])]), [unknown, missing]);
    assert_eq!(
        file(DESCRIPTOR, &[(DESCRIPTOR, [7, 0, 0]), (DESCRIPTOR, [7, 0, 0])]),
        ["token-duplicate: resources[1].token: 0x7", unknown, missing, missing]
    );
}

struct Raw(Made);

impl Preserve<Bundle> for Raw {
    fn compat(&self) -> crate::compat::CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Bundle>) -> Result<Blob, Fault> {
        let mut made = self.0.clone();
        let file = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        made.resources[0].1[0] = scope.keep_file(file)?;
        let meta = made.bytes();
        let meta_blocks = scope.area_of(Order::ZERO, &meta)?.descriptor;
        let bulk_blocks = Descriptor::new_zeroed();
        scope.blob(Wire { meta: (meta.len() as u64).into(), bulk: 0.into(), meta_blocks, bulk_blocks }.as_bytes())
    }
}

#[test]
fn a_file_that_is_no_memfd_is_none_at_the_other_end_either() {
    let mut made = image_of(&[described(9, &[("m", Kind::Scalar(kind::MEMFD))])], &number(0));
    made.resources.push((MEMFD, [0; 3]));
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    outgoing.preserve(NODE, &Raw(made)).unwrap();
    let (mut bundle, root) = outgoing.finish().unwrap().into_parts();
    let plan = |bundle: Bundle| {
        let mut registry = Registry::new();
        registry.add_optional(crate::abi::files::NODE, FilesNode);
        registry.add(NODE, StatesNode::new(&[]));
        let plan = Incoming::new(bundle, root.start()).plan(&registry);
        plan.findings().kept().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let token = bundle.files().iter().next().unwrap().0;
    drop(bundle.files_mut().take(token));
    let other = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
    *bundle.files_mut() = Files::received([(token, other)]);
    let kind = "files[0x8000000000000000].kind: found a regular file, expected a memfd";
    let text = [
        format!("error: /{NODE}: state-unknown: s9: id 9"),
        format!("error: /{NODE}: file-kind: {kind}"),
        format!("error: /files: file-identity: {kind}"),
    ];
    assert_eq!(plan(bundle), text);
}

#[test]
fn unknown_states_are_mismatches() {
    let judge = |made: &Made, known: &[&'static Shape]| {
        let incoming = written(Geometry::K4, MADE_OF, |scope| Ok(store(scope, made, &|_, _| {})));
        let mut registry = Registry::new();
        registry.add(NODE, StatesNode::new(known));
        let plan = incoming.plan(&registry);
        let text = plan.findings().kept().iter().map(ToString::to_string).collect::<Vec<_>>();
        (plan.verdict(), text.join("; "))
    };
    assert_eq!(judge(&image(), &[Small::SHAPE]), (Verdict::Fine, String::new()));
    assert_eq!(judge(&image(), &[]), (Verdict::Refused, "error: /node: state-unknown: small: id 81".into()));
    let mut ignorable = image();
    ignorable.shapes[0].2[12] = 1;
    assert_eq!(judge(&ignorable, &[]), (Verdict::Fine, "warning: /node: state-ignored: small: id 81".into()));
    let mut newer = image();
    newer.shapes[0].1 = 3;
    newer.shapes[0].2[4] = 3;
    assert_eq!(
        judge(&newer, &[Small::SHAPE]),
        (
            Verdict::Refused,
            "error: /node: version-newer: small: found version 3 of small, expected version 1 to 2".into()
        )
    );
    #[derive(State)]
    #[state(id = 81, version = 4, min_version = 3, name = "small")]
    struct Young {
        a: u8,
    }
    assert_eq!(
        judge(&image(), &[Young::SHAPE]),
        (
            Verdict::Refused,
            "error: /node: version-older: small: found version 2 of small, expected version 3 to 4".into()
        )
    );
}

#[test]
fn the_checksum_of_bulk_data_is_held_to_before_anything_is_taken_over() {
    #[derive(State)]
    #[state(id = 3, version = 1)]
    struct Bulky {
        #[state(plain)]
        a: Vec<u8>,
    }
    let object = Rc::new(RefCell::new(Bulky { a: vec![7; (2 << 20) + 5] }));
    let mut states = States::new();
    states.with_bulk_checksum(true);
    states.attach(0, &object).unwrap();
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve(NODE, &states).unwrap();
    let (mut memory, root) = outgoing.finish().unwrap().into_parts();
    let plan = |memory: Ram| {
        let mut registry = Registry::new();
        registry.add(NODE, StatesNode::new(&[Bulky::SHAPE]));
        let plan = Incoming::new(memory, root.start()).plan(&registry);
        let text =
            plan.findings().kept().iter().map(|finding| finding.fault.to_string()).collect::<Vec<_>>().join("; ");
        (text, plan)
    };
    let sevens = (0x100..0x1100_u64).map(|page| PhysAddr::new(page << 12)).find(|at| {
        let mut bytes = [0; 16];
        memory.read(*at, &mut bytes).unwrap();
        bytes == [7; 16]
    });
    memory.poke(sevens.unwrap(), &[8]).unwrap();
    let (text, _) = plan(memory);
    assert!(text.starts_with("checksum: bulk_crc at offset 0x24: found 0x"), "{text}");
}

/// The pages of a handover with states of all kinds.
struct Taken {
    root: PhysAddr,
    pages: Vec<(u64, Vec<u8>)>,
    places: Vec<(usize, usize)>,
}

static TAKEN: LazyLock<Taken> = LazyLock::new(|| {
    let (mut states, small) = (States::new(), Rc::new(RefCell::new(Small { a: 1 })));
    states.attach(0, &Rc::new(RefCell::new(all()))).unwrap();
    states.attach(3, &Rc::new(RefCell::new(all()))).unwrap();
    states.attach(9, &small).unwrap();
    let mut outgoing = Outgoing::new(ram(Geometry::K4));
    outgoing.preserve(NODE, &states).unwrap();
    let (memory, root) = outgoing.finish().unwrap().into_parts();
    let mut taken = Taken { root: root.start(), pages: Vec::new(), places: Vec::new() };
    for number in 0x100..0x1100_u64 {
        let mut bytes = vec![0; 4096];
        memory.read(PhysAddr::new(number << 12), &mut bytes).unwrap();
        if bytes.iter().any(|byte| *byte != 0) {
            let page = taken.pages.len();
            taken.places.extend((0..4096).filter(|at| bytes[*at] != 0).map(|at| (page, at)));
            taken.pages.push((number << 12, bytes));
        }
    }
    taken
});

/// What is fine attaches, or is left as it is.
fn change(changes: &[(prop::sample::Index, u8)], repaired: bool) -> bool {
    let (taken, mut memory) = (&*TAKEN, ram(Geometry::K4));
    let mut pages = taken.pages.clone();
    for (place, mask) in changes {
        let (page, at) = taken.places[place.index(taken.places.len())];
        pages[page].1[at] ^= mask;
    }
    for (at, bytes) in &mut pages {
        if repaired && bytes.starts_with(b"KHOSTATE") {
            repair(bytes);
        }
        memory.poke(PhysAddr::new(*at), bytes).unwrap();
    }
    let mut registry = Registry::new();
    let node = registry.add(NODE, StatesNode::new(&[All::SHAPE, Small::SHAPE]));
    let plan = Incoming::new(memory, taken.root).plan(&registry);
    if plan.verdict() != Verdict::Fine {
        return false;
    }
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let mut states = restored.take(&node).unwrap();
    restored.finish().1.unwrap();
    let empty = other;
    for number in [3, 0] {
        let object = Rc::new(RefCell::new(empty()));
        if let Err(fault) = states.attach(number, &object) {
            let known = match fault.code() {
                Code::StateCondition => true,
                Code::StateNumber => fault.found_text().ends_with(" ns"),
                _ => false,
            };
            assert!(known, "{changes:?}: {fault}");
            assert_eq!(*object.borrow(), empty());
            assert_eq!(states.attach(number, &object).unwrap_err(), fault);
        }
    }
    states.attach(9, &Rc::new(RefCell::new(Small { a: 1 }))).unwrap();
    true
}

proptest! {
    #![proptest_config(crate::testing::cases(500))]

    #[test]
    fn a_changed_handover_is_refused_or_attaches(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 0..3), repaired in prop::bool::weighted(0.9)
    ) {
        change(&changes, repaired);
    }
}

#[test]
fn the_unchanged_one_attaches() {
    assert!(change(&[], false) && change(&[], true));
}
