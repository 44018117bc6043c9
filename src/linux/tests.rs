use super::*;
use crate::compat::{Compat, CompatList};
use crate::handover::{Blob, Incoming, Outgoing, Preserve, Registry, Scope};
use crate::luo::{LuoNode, NewContent, NewFile, NewSession, Sessions};
use crate::mem::{Folio, Frames as _, Memory as _, Order, PageRange, Pfn, Ram};
use crate::memblock::{MemblockNode, NewRange, Ranges};
use crate::memfd::Contents;
use crate::metadata::{Metadata, MetadataNode};
use crate::num::u64_of;
use crate::selftest::{Payload, Rule, SelfTestNode};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

/// 16 MiB above everything else, and where scratch is in each geometry.
fn ram(geometry: Geometry) -> (Ram, PhysRange) {
    let first = Pfn::new(0x8000_0000 >> geometry.page_shift()).unwrap();
    let window = PageRange::new(first, (16 << 20) >> geometry.page_shift()).unwrap();
    (Ram::new(geometry, window), range(0x4000_0000, 0x2000_0000))
}

fn outgoing() -> Outgoing<Ram> {
    let (ram, scratch) = ram(Geometry::K4);
    Outgoing::for_linux(ram, &[scratch]).unwrap()
}

/// Linux takes what is there for what it knows: of `LUO` it panics then.
#[test]
fn nothing_else_under_the_names_of_linux() {
    let text = Metadata { previous_release: "7.2.13".into(), kexec_count: 1 };
    for name in ["LUO", "memblock", "kho_test"] {
        let mut outgoing = outgoing();
        let fault = outgoing.preserve(name, &text).unwrap_err();
        assert_eq!((fault.code(), fault.at().item.as_deref()), (Code::Refused, Some(name)));
        assert_eq!(fault.found_text(), "kexec-metadata-v1");
        outgoing.preserve("elsewhere", &text).unwrap();
    }
    let fault = outgoing().preserve("kexec-metadata", &Ranges::default()).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "refused: kexec-metadata: found memblock-v1, expected kexec-metadata-v1, as Linux has it under that name"
    );
    // A process knows its own names.
    Outgoing::new(ram(Geometry::K4).0).preserve("LUO", &text).unwrap();
}

#[test]
fn everything_that_linux_knows_comes_back_equal() {
    for geometry in Geometry::ALL {
        let (ram, scratch) = ram(geometry);
        let free = ram.free_pages();
        let mut outgoing = Outgoing::for_linux(ram, &[range(0, 0), scratch]).unwrap();
        let folios = vec![(Order::ZERO, &b"one"[..]), (Order::new(3).unwrap(), &b"eight"[..])];
        outgoing.preserve("kho_test", &Payload { folios, rule: Rule::Folded }).unwrap();
        let memfd = Contents { pos: 3, seals: 0x3f, ..Contents::new(geometry, &[7; 100_000], Order::new(2).unwrap()) };
        let files = vec![NewFile { token: 9, content: NewContent::Memfd(memfd) }];
        let sessions = vec![NewSession { name: b"vm".into(), files }];
        outgoing.preserve("LUO", &Sessions { number: 4, sessions, flbs: vec![] }).unwrap();
        let memory = NewRange { name: "mem".into(), size: 5 * geometry.page_size(), align: 1 << 20, bytes: b"kept" };
        outgoing.preserve("memblock", &Ranges { ranges: vec![memory] }).unwrap();
        let metadata = Metadata { previous_release: "7.2.13".into(), kexec_count: 4 };
        outgoing.preserve("kexec-metadata", &metadata).unwrap();

        let finished = outgoing.finish().unwrap();
        assert_eq!(finished.warnings(), []);
        let boot = finished.boot().unwrap();
        assert_eq!(boot.fdt, finished.root());
        let mut array = [1; 32];
        finished.memory().read(boot.scratch.start(), &mut array).unwrap();
        assert_eq!(boot.scratch.size(), 32);
        assert_eq!(array[16..], [0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0]);
        assert_eq!(array[..16], [0; 16]);

        // All the same after changing one's mind.
        let outgoing = finished.cancel().unwrap();
        let finished = outgoing.finish().unwrap();
        assert_eq!(finished.boot(), Some(boot));
        let (memory, root) = finished.into_parts();
        let mut registry = Registry::new();
        let test = registry.read("kho_test", SelfTestNode);
        let luo = registry.read("LUO", LuoNode);
        let memblock = registry.read("memblock", MemblockNode);
        let found = registry.read("kexec-metadata", MetadataNode);
        let plan = Incoming::new(memory, root.start()).plan(&registry);
        assert_eq!(plan.findings().to_string(), "");
        let mut restored = plan.accept().unwrap().restore().unwrap();
        let test = restored.take(&test).unwrap();
        assert_eq!((test.folios.len(), test.rule), (2, Rule::Folded));
        let luo = restored.take(&luo).unwrap();
        assert_eq!((luo.number, luo.sessions[0].files[0].token), (4, 9));
        let memblock = restored.take(&memblock).unwrap();
        assert_eq!(
            (memblock.ranges[0].size, memblock.ranges[0].start.get() % (1 << 20)),
            (5 * geometry.page_size(), 0)
        );
        let mut bytes = [0; 5];
        restored.memory().read(memblock.ranges[0].start, &mut bytes).unwrap();
        assert_eq!(&bytes, b"kept\0");
        assert_eq!(restored.take(&found).unwrap(), metadata);
        let (memory, released) = restored.finish();
        released.unwrap();
        // The array of scratch areas is nobody's to restore: the kernel reserves it where it is.
        assert_eq!(memory.free_pages(), free);
    }
}

/// A node that owns scattered pages and uses layouts.
struct Scattered(usize);

const USES: &[Compat<'static>] = &[Compat::new("another-layout-of-some-name", 1), Compat::new("block", 1)];

impl Preserve<Ram> for Scattered {
    fn compat(&self) -> CompatList<'static> {
        const { CompatList::new(Compat::new("test-scattered", 1), USES) }
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        let frames: Vec<_> = (0..self.0 * 2).map(|_| scope.alloc(Order::ZERO).unwrap()).collect();
        frames.into_iter().step_by(2).for_each(|frame| scope.free(frame));
        scope.blob(b"blob")
    }
}

/// How many ranges of a node are listed (none without `mem`), whether it says that there are more, and whether it has a
/// list.
type Told = (Option<usize>, bool, bool);

/// Warnings, what each node tells, and the size of the root.
fn told(nodes: usize, pages: usize) -> (Vec<String>, Vec<Told>, u64) {
    let mut outgoing = outgoing();
    for number in 0..nodes {
        outgoing.preserve(&format!("n{number}"), &Scattered(pages)).unwrap();
    }
    let finished = outgoing.finish().unwrap();
    let fdt = finished.root_fdt().unwrap();
    let root = Fdt::parse(&fdt).unwrap().root();
    let lists = root.property("compatible").unwrap().strings().unwrap().count() > 1;
    let nodes = root.children().map(|node| {
        let mem = node.property("mem").map(|mem| mem.mem_ranges().count());
        assert_eq!(node.property("compatible").is_some(), lists);
        (mem, node.property("mem-partial").is_some(), lists)
    });
    let warnings = finished.warnings().iter().map(ToString::to_string).collect();
    (warnings, nodes.collect(), u64_of(fdt.len()))
}

#[test]
fn a_full_page_tells_less_and_says_so() {
    let full = ", expected a root FDT of at most 4096 bytes, a page, for Linux";
    // All of it fits; each range is 16 bytes.
    let (warnings, nodes, size) = told(1, 200);
    assert_eq!((warnings.len(), nodes[0], size <= 4096), (0, (Some(200), false, true), true));
    // Some ranges do not, and not one more would.
    let (warnings, nodes, size) = told(2, 200);
    let (Some(most), true, true) = nodes[0] else { panic!("{nodes:?}") };
    assert_eq!(warnings, [format!("root-full: mem: found only the {most} largest ranges of each node{full}")]);
    assert!(nodes == [(Some(most), true, true); 2] && (4096 - 32..=4096).contains(&size), "{nodes:?} {size}");
    // No ranges at all, but lists.
    let (warnings, nodes, size) = told(26, 10);
    assert_eq!(warnings, [format!("root-full: mem: found left out{full}")]);
    assert!(nodes == [(None, false, true); 26] && size <= 4096, "{nodes:?} {size}");
    // Only what Linux reads.
    let (warnings, nodes, size) = told(50, 1);
    let expected = ["mem", "compatible"].map(|item| format!("root-full: {item}: found left out{full}"));
    assert_eq!(warnings, expected);
    assert!(nodes == [(None, false, false); 50] && size <= 4096, "{nodes:?} {size}");
}

/// A successor finds no lists there, and a forecast does not say that it would.
#[test]
fn what_a_full_page_does_not_tell_is_not_foretold_as_fine() {
    let foretold = |nodes: usize| {
        let mut outgoing = outgoing();
        let mut reads = crate::handover::Registry::<Ram>::new().terms();
        for number in 0..nodes {
            outgoing.preserve(&format!("n{number}"), &Scattered(1)).unwrap();
            let made_of = outgoing.made_of(&format!("n{number}")).unwrap().into();
            reads.add(crate::compat::Term::node(&format!("n{number}"), made_of, true));
        }
        outgoing.finish().unwrap().forecast(&reads).unwrap().verdict()
    };
    use crate::handover::Verdict;
    assert_eq!((foretold(2), foretold(50)), (Verdict::Fine, Verdict::Opaque));
}

#[test]
fn a_root_that_does_not_fit_at_all_is_refused() {
    let mut outgoing = outgoing();
    for number in 0..80 {
        outgoing.preserve(&format!("n{number}"), &Scattered(0)).unwrap();
    }
    let unfinished = outgoing.finish().unwrap_err();
    assert_eq!(
        unfinished.fault.to_string(),
        "too-large: root FDT: found 4329 bytes, expected at most 4096, a page, for Linux"
    );
    // With fewer it fits.
    let mut outgoing = unfinished.outgoing;
    (50..80).for_each(|number| assert!(outgoing.unpreserve(&format!("n{number}"))));
    assert_eq!(outgoing.finish().unwrap().warnings().len(), 2);
}

#[test]
fn nothing_is_authored_in_scratch_or_below_a_mebibyte() {
    let window = PageRange::new(Pfn::new(0xf0).unwrap(), 0x1000).unwrap();
    let scratch = [range(0x40_0000, 0x40_0000), range(0x80_0000, 0)];
    let mut outgoing = Outgoing::for_linux(Ram::new(Geometry::K4, window), &scratch).unwrap();
    let mut pages = Vec::new();
    while let Ok(frame) = outgoing.alloc(Order::ZERO) {
        pages.push(frame.folio().pfn().get());
    }
    let allowed = |page: &u64| (0x100..0x400).contains(page) || (0x800..0x10f0).contains(page);
    // All but the page of the array.
    assert!(pages.len() == 0x300 + 0x8f0 - 1 && pages.iter().all(allowed));

    let mut ram = Ram::new(Geometry::K4, window);
    let fault = Fault::from(
        Outgoing::for_linux(Ram::new(Geometry::K4, window), &scratch)
            .map(|outgoing| {
                let mut ram = outgoing.into_memory();
                ram.alloc_at(Folio::page(Pfn::new(0x500).unwrap())).unwrap_err()
            })
            .unwrap(),
    );
    assert_eq!(fault.to_string(), "owned-twice: pfn 0x500 order 0 is in the pages of scratch 0x400000..0x800000");
    let _held = ram.alloc(Order::ZERO).unwrap();
    let fault = Outgoing::for_linux(ram, &scratch).unwrap_err();
    assert_eq!((fault.code(), fault.found_text()), (Code::Refused, "a memory of which blocks were handed out"));
}

#[test]
fn scratch_as_linux_takes_it() {
    let refused = |geometry, areas: &[PhysRange]| check_scratch(geometry, areas).unwrap_err().to_string();
    let m = 1 << 20;
    check_scratch(Geometry::K4, &[range(8 * m, 4 * m), range(4 * m, 4 * m), range(1, 0)]).unwrap();
    check_scratch(Geometry::K64, &[range(512 * m, 1024 * m)]).unwrap();
    assert_eq!(refused(Geometry::K4, &[]), "refused: scratch: found no memory, expected at least one area");
    assert_eq!(refused(Geometry::K4, &[range(m, 0)]), "refused: scratch: found no memory, expected at least one area");
    assert_eq!(
        refused(Geometry::K4, &[range(0, 4 * m)]),
        "refused: scratch at 0x0: found 0x0..0x400000, expected not page 0, which means none"
    );
    assert_eq!(
        refused(Geometry::K16, &[range(32 * m, 4 * m)]),
        "unaligned: scratch at 0x2000000: found 0x2000000..0x2400000, expected start and size in units of 0x2000000"
    );
    assert_eq!(
        refused(Geometry::K4, &[range(8 * m, 8 * m), range(4 * m, 8 * m)]),
        "owned-twice: scratch at 0x800000: found 0x800000..0x1000000, expected a start behind 0x400000..0xc00000"
    );
    let far = refused(Geometry::K4, &[range(1 << 59, 4 * m)]);
    assert!(far.starts_with("too-large: scratch at 0x800000000000000"), "{far}");
}

#[test]
fn an_entry_of_setup_data() {
    let boot = Boot { fdt: range(0x1122_3344_5566, 0x345), scratch: range(0x77_8899_aabb, 48) };
    #[rustfmt::skip]
    let expected = [
        0x00, 0x10, 0x20, 0, 0, 0, 0, 0,  10, 0, 0, 0,  32, 0, 0, 0,
        0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0,  0x45, 0x03, 0, 0, 0, 0, 0, 0,
        0xbb, 0xaa, 0x99, 0x88, 0x77, 0, 0, 0,  48, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(boot.setup_data(PhysAddr::new(0x20_1000)), expected);
}

#[test]
fn cells_of_the_machine() {
    let tree = |address: Option<u32>, size: Option<&[u8]>| {
        let mut root = crate::fdt::Builder::new();
        address.into_iter().for_each(|cells| root.cells_u32("#address-cells", &[cells]).unwrap());
        size.into_iter().for_each(|cells| root.bytes("#size-cells", cells).unwrap());
        root.node("chosen", |chosen| chosen.bytes(CHOSEN_FDT, b"stale")).unwrap();
        root.finish().unwrap()
    };
    let boot = Boot { fdt: range(0x4c00_1000, 600), scratch: range(0x1_0000_0000, 32) };
    let near = Boot { scratch: range(0x4c00_0000, 32), ..boot };
    let one = &[0, 0, 0, 1][..];
    let set = chosen(&tree(Some(1), Some(one)), &near).unwrap();
    let node = Fdt::parse(&set).unwrap().root().child("chosen").unwrap();
    let names: Vec<_> = node.properties().map(|property| (property.name(), property.value())).collect();
    assert_eq!(names[0], (&b"linux,kho-fdt"[..], &b"\x4c\0\x10\0\0\0\x02\x58"[..]));
    assert_eq!(names[1], (&b"linux,kho-scratch"[..], &b"\x4c\0\0\0\0\0\0\x20"[..]));
    assert_eq!(names.len(), 2);
    let fault = |dtb: &[u8]| chosen(dtb, &boot).unwrap_err();
    assert_eq!(
        fault(&tree(Some(1), Some(one))).to_string(),
        "too-large: linux,kho-scratch: found 0x100000000, expected a number for 1 cells"
    );
    assert_eq!(fault(&tree(None, Some(one))).code(), Code::PropertyMissing);
    assert_eq!(fault(&tree(Some(2), Some(&[0; 3]))).code(), Code::PropertySize);
    assert_eq!(fault(&tree(Some(3), Some(one))).found_text(), "3");
    assert_eq!(fault(b"no tree").code(), Code::FdtHeader);
}

#[cfg(feature = "std")]
#[test]
fn a_memory_that_chooses_places_itself() {
    let arena = || crate::mem::Arena::new(1 << 20).unwrap();
    // It cannot keep anything out, or hand out a run of pages.
    let base = arena().base().get();
    let fault = Outgoing::for_linux(arena(), &[range(base, 4 << 20)]).unwrap_err();
    assert_eq!(
        fault.to_string(),
        format!(
            "refused: scratch {base:#x}..{:#x} at {base:#x}: a memory that has these pages, and cannot keep them out",
            base + (4 << 20)
        )
    );
    let mut outgoing = Outgoing::for_linux(arena(), &[range(4 << 20, 4 << 20)]).unwrap();
    let free = outgoing.memory().free_pages();
    let memory = NewRange { name: "mem".into(), size: 8192, align: 1, bytes: b"" };
    let fault = outgoing.preserve("memblock", &Ranges { ranges: vec![memory] }).unwrap_err();
    assert_eq!((fault.code(), outgoing.memory().free_pages()), (Code::Refused, free));
}
