//! Hostile trees, and a whole handover with a few of its bytes changed: planning ends without a panic and costs no more
//! than the input, and what it calls fine restores.

use alloc::string::ToString as _;
use alloc::vec::Vec;
use std::os::fd::AsFd as _;
use std::sync::LazyLock;

use proptest::prelude::*;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::testing::{page, ram, records};
use super::{Blob, Incoming, Outgoing, Preserve, Registry, Scope, Verdict};
use crate::abi::luo::{File, Flb, FlbHeader, Head, Session};
use crate::abi::{kexec_metadata, memblock, memfd};
use crate::compat::{Compat, CompatList};
use crate::fdt::Builder;
use crate::luo::LuoNode;
use crate::mem::{Folio, Frames as _, Geometry, Memory as _, Order, Pfn, PhysAddr, Ram};
use crate::memblock::MemblockNode;
use crate::memfd::{ByPages, MemfdNode};
use crate::metadata::MetadataNode;
use crate::payload::{Bytes, BytesNode, RECORDS_USE, Records, RecordsNode};
use crate::radix::Tree;
use crate::report::{Code, Fault, Findings};
use crate::selftest::{Payload, Rule, SelfTestNode};
use crate::{luo, metadata};

pub(super) const BYTES: CompatList<'static> = CompatList::new(Compat::new("test-bytes", 1), &[]);
pub(super) const TABLE: CompatList<'static> = CompatList::new(Compat::new("test-table", 1), RECORDS_USE);

/// Two sessions with a memfd of two pages and a file that nobody knows, and a global.
struct Sessions;

impl Preserve<Ram> for Sessions {
    fn compat(&self) -> CompatList<'static> {
        luo::MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        let mut sessions = [Session::new_zeroed(); 2];
        for (number, session) in (1_u8..).zip(&mut sessions) {
            let folios: Vec<_> = (0..2_u64)
                .map(|index| {
                    let pfn = scope.alloc(Order::ZERO).unwrap().folio().pfn().get();
                    memfd::Folio { pfn_flags: (pfn | 3 << memfd::PFN_BITS).into(), index: index.into() }
                })
                .collect();
            let mut wire = memfd::Memfd::new_zeroed();
            (wire.size, wire.nr_folios) = ((scope.geometry().page_size() + 1).into(), 2.into());
            wire.folios = crate::vmalloc::store_bytes(scope, Order::ZERO, folios.as_bytes())?.descriptor;
            let mut files = [File::new_zeroed(); 2];
            files[0].compatible[..8].copy_from_slice(b"memfd-v2");
            files[0].data = page(scope, wire.as_bytes()).into();
            files[1].compatible[..13].copy_from_slice(b"kvm_vm_luo_v1");
            files[1].token = 1.into();
            session.name[0] = b'a' + number;
            (session.files, session.count) = (records(scope, &files).into(), 2.into());
        }
        let mut flbs = FlbHeader { page_count: 1.into(), count: 1.into() }.as_bytes().to_vec();
        let mut flb = Flb::new_zeroed();
        (flb.name[0], flb.count) = (b'f', 2.into());
        flbs.extend(flb.as_bytes());
        let head = Head {
            compatible: *b"luo-v5\0\0",
            liveupdate_number: 1.into(),
            sessions: records(scope, &sessions).into(),
            flbs: page(scope, &flbs).into(),
        };
        scope.blob(head.as_bytes())
    }
}

struct Reserved;

impl Preserve<Ram> for Reserved {
    fn compat(&self) -> CompatList<'static> {
        crate::memblock::MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        let block = scope.alloc(Order::new(2).unwrap())?;
        let mut fdt = Builder::new();
        fdt.strings("compatible", ["memblock-v1"])?;
        fdt.node("mem", |fdt| {
            fdt.strings("compatible", ["reserve-mem-v1"])?;
            fdt.u64_native(memblock::START, block.folio().addr(scope.geometry()).get())?;
            fdt.u64_native(memblock::SIZE, block.folio().order().bytes(scope.geometry()))
        })?;
        scope.blob(&fdt.finish()?)
    }
}

/// The pages of a handover that are not all zero, and where its root is.
struct Taken {
    geometry: Geometry,
    root: PhysAddr,
    pages: Vec<(u64, Vec<u8>)>,
    /// Page and offset of every byte that is not zero.
    places: Vec<(usize, usize)>,
}

/// A handover with a node of every kind that this library reads in ordinary memory.
pub(super) fn whole(geometry: Geometry) -> Incoming<Ram> {
    let file = std::fs::File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap());
    std::io::Write::write_all(&mut &file, b"some text").unwrap();
    file.set_len(40_000).unwrap();
    let mut metadata = [0; 73];
    (metadata[0], metadata[4]) = (1, b'7');
    let table: Vec<u64> = (0..1_100).map(|number| number * 3).collect();
    let table: Vec<zerocopy::little_endian::U64> = table.into_iter().map(Into::into).collect();
    let mut outgoing = Outgoing::new(ram(geometry));
    let memfd = ByPages { file: file.as_fd(), order: Order::new(2).unwrap() };
    let folios = alloc::vec![(Order::ZERO, b"one".as_slice()), (Order::new(3).unwrap(), b"two")];
    outgoing.preserve("memfd", &memfd).unwrap();
    outgoing.preserve("kho_test", &Payload { folios, rule: Rule::Words }).unwrap();
    outgoing.preserve("LUO", &Sessions).unwrap();
    outgoing.preserve("memblock", &Reserved).unwrap();
    outgoing.preserve(kexec_metadata::NODE, &Bytes { made_of: metadata::MADE_OF, bytes: &metadata }).unwrap();
    outgoing.preserve("bytes", &Bytes { made_of: BYTES, bytes: b"hello" }).unwrap();
    outgoing.preserve("table", &Records { made_of: TABLE, records: &table }).unwrap();
    let (memory, root) = outgoing.finish().unwrap().into_parts();
    Incoming::new(memory, root.start())
}

impl Taken {
    fn make(geometry: Geometry) -> Self {
        let incoming = whole(geometry);
        let (root, memory) = (incoming.root(), incoming.into_memory());
        let mut pages = Vec::new();
        for number in 0x100..0x1100 {
            let mut bytes = alloc::vec![0; usize::try_from(geometry.page_size()).unwrap()];
            let at = number << geometry.page_shift();
            memory.read(PhysAddr::new(at), &mut bytes).unwrap();
            if bytes.iter().any(|&byte| byte != 0) {
                pages.push((at, bytes));
            }
        }
        let places = pages.iter().enumerate().flat_map(|(number, (_, bytes))| {
            bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(move |(offset, _)| (number, offset))
        });
        let places = places.collect();
        Taken { geometry, root, pages, places }
    }

    /// The handover with those bytes changed, planned, and restored when it is fine; else what was found.
    fn change(&self, changes: &[Change]) -> Result<(), Findings> {
        let mut memory = ram(self.geometry);
        let mut pages = self.pages.clone();
        for change in changes {
            let (number, offset) = self.places[change.place.index(self.places.len())];
            let bytes = &mut pages[number].1;
            match change.how {
                How::Flip { skip, mask } => {
                    let at = (offset + skip) % bytes.len();
                    bytes[at] ^= mask;
                }
                How::Word(word) => bytes[offset & !7..][..8].copy_from_slice(&word.to_le_bytes()),
                How::Page(other, low) => {
                    let address = self.pages[other.index(self.pages.len())].0 + low;
                    bytes[offset & !7..][..8].copy_from_slice(&address.to_le_bytes());
                }
            }
        }
        for (at, bytes) in &pages {
            memory.poke(PhysAddr::new(*at), bytes).unwrap();
        }
        let mut registry = Registry::new();
        registry.add_optional("memfd", MemfdNode);
        registry.add_optional("kho_test", SelfTestNode);
        registry.read_optional("LUO", LuoNode);
        registry.read_optional("memblock", MemblockNode);
        registry.read_optional(kexec_metadata::NODE, MetadataNode);
        registry.read_optional("bytes", BytesNode { made_of: BYTES, limit: 4096 });
        registry.read_optional("table", RecordsNode::<zerocopy::little_endian::U64>::new(TABLE));
        let plan = Incoming::new(memory, self.root).plan(&registry);
        if plan.verdict() != Verdict::Fine {
            return Err(plan.findings().clone());
        }
        let findings = plan.findings().clone();
        let restored = plan.accept().unwrap().restore();
        let restored = restored.unwrap_or_else(|failed| panic!("{changes:?} was fine: {findings}\n{failed}"));
        restored.finish().1.unwrap();
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Change {
    place: prop::sample::Index,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Flip {
        skip: usize,
        mask: u8,
    },
    /// The word around the place.
    Word(u64),
    /// The word becomes the address of a page that is used otherwise, and a bit more.
    Page(prop::sample::Index, u64),
}

fn change() -> impl Strategy<Value = Change> {
    let word = prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>(), (0_u32..64).prop_map(|bit| 1 << bit)];
    let low = prop_oneof![6 => Just(0_u64), 1 => 1..64_u64, 1 => Just(4096)];
    let how = prop_oneof![
        4 => (prop_oneof![3 => Just(0_usize), 1 => 0..16_usize], 1..=u8::MAX)
            .prop_map(|(skip, mask)| How::Flip { skip, mask }),
        1 => word.prop_map(How::Word),
        2 => (any::<prop::sample::Index>(), low).prop_map(|(page, low)| How::Page(page, low)),
    ];
    (any::<prop::sample::Index>(), how).prop_map(|(place, how)| Change { place, how })
}

fn codes(findings: &Findings) -> Vec<Code> {
    findings.kept().iter().map(|finding| finding.fault.code()).collect()
}

/// A handover of no nodes whose tree has these blocks and, when told to, its own root.
fn empty(geometry: Geometry, blocks: &[Folio], its_own: bool) -> Findings {
    let mut memory = ram(geometry);
    let page = memory.alloc(Order::ZERO).unwrap().folio();
    let store = |memory: &mut Ram, more: &[Folio]| {
        let mut tree = Tree::new(geometry);
        tree.add(page);
        for folio in blocks.iter().chain(more) {
            tree.add(*folio);
        }
        tree.store(memory).unwrap().root
    };
    let map = if its_own {
        // The same pages are handed out again when a tree is written anew.
        let first = Folio::page(Pfn::new(page.pfn().get() + 1).unwrap());
        store(&mut memory, &[first])
    } else {
        store(&mut memory, &[])
    };
    let mut fdt = Builder::new();
    fdt.strings("compatible", ["kho-v4"]).unwrap();
    fdt.u64_native("preserved-memory-map", map.get()).unwrap();
    let at = page.addr(geometry);
    memory.poke(at, &fdt.finish().unwrap()).unwrap();
    Incoming::new(memory, at).plan(&Registry::new()).findings().clone()
}

#[test]
fn what_could_not_be_admitted_is_found_by_the_plan() {
    let folio = |pfn, order| Folio::new(Pfn::new(pfn).unwrap(), Order::new(order).unwrap()).unwrap();
    assert!(empty(Geometry::K4, &[], false).is_empty());
    let findings = empty(Geometry::K4, &[folio(0x10ff, 0), folio(0x2000, 3)], false);
    let text = "error: /: outside: preserved block at 0x2000000: found 0x2000000..0x2008000, expected inside the memory \
                that was handed over";
    assert_eq!(findings.kept()[0].to_string(), text);
    assert_eq!(codes(&empty(Geometry::K4, &[folio(0xff, 0)], false)), [Code::Outside, Code::Unowned]);
    assert_eq!(codes(&empty(Geometry::K4, &[folio(0x1100, 0)], false)), [Code::Outside, Code::Unowned]);
    let findings = empty(Geometry::K4, &[], true);
    assert_eq!(codes(&findings), [Code::OwnedTwice, Code::Unowned]);
    assert_eq!(
        findings.kept()[0].fault.to_string(),
        "owned-twice: at 0x101000: a page of the tree, which is preserved in pfn 0x101 order 0"
    );
}

#[test]
fn a_bit_that_stands_for_half_of_all_pages_costs_no_more_than_a_bit() {
    // The root FDT is in it, so it is claimed.
    let all = Folio::new(Pfn::new(0).unwrap(), Order::MAX).unwrap();
    let findings = empty(Geometry::K4, &[all], false);
    assert_eq!(codes(&findings)[..3], [Code::PreservedTwice, Code::OwnedTwice, Code::Outside]);
    let mut memory = ram(Geometry::K4);
    let page = memory.alloc(Order::ZERO).unwrap().folio().addr(Geometry::K4);
    let mut tree = Tree::new(Geometry::K4);
    tree.add(all);
    let map = tree.store(&mut memory).unwrap().root;
    let mut fdt = Builder::new();
    fdt.strings("compatible", ["kho-v4"]).unwrap();
    fdt.u64_native("preserved-memory-map", map.get()).unwrap();
    memory.poke(page, &fdt.finish().unwrap()).unwrap();
    let findings = Incoming::new(memory, page).plan(&Registry::new()).findings().clone();
    assert_eq!(codes(&findings), [Code::OwnedTwice, Code::Outside], "{findings}");
}

static TAKEN: LazyLock<[Taken; 2]> = LazyLock::new(|| [Taken::make(Geometry::K4), Taken::make(Geometry::K16)]);

#[test]
fn unchanged_it_is_fine() {
    for taken in &*TAKEN {
        taken.change(&[]).unwrap_or_else(|findings| panic!("{findings}"));
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(1_000))]

    #[test]
    fn a_changed_handover_is_refused_or_restores(
        taken in 0..2_usize, changes in prop::collection::vec(change(), 1..4)
    ) {
        let _ = TAKEN[taken].change(&changes);
    }
}
