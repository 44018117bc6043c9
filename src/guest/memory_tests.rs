//! A handover that lies in the RAM of a guest, and reading where there is no RAM.

use alloc::string::ToString as _;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

use super::Guest;
use crate::handover::{Incoming, NodeReport, Outgoing, Registry};
use crate::luo::{LuoNode, NewContent, NewFile, NewSession, Sessions};
use crate::mem::{Geometry, MemError, Memory, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram};
use crate::memfd::Contents;
use crate::report::Code;
use crate::selftest::{Payload, Rule, SelfTestNode};

const MIB: u64 = 1 << 20;
const WINDOW: u64 = 0x4c00_0000;

/// A handover as it is made for a kernel, and where its root is.
fn authored() -> (Ram, PhysAddr) {
    let geometry = Geometry::K4;
    let window = PageRange::new(Pfn::new(WINDOW >> 12).unwrap(), 0x1000).unwrap();
    let scratch = PhysRange::new(PhysAddr::new(0x4400_0000), 64 * MIB).unwrap();
    let mut outgoing = Outgoing::for_linux(Ram::new(geometry, window), &[scratch]).unwrap();
    let bytes: Vec<u8> = (0..40_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let disk = NewContent::Memfd(Contents::new(geometry, &bytes, Order::ZERO));
    let vm = NewSession { name: b"vm".into(), files: vec![NewFile { token: 1, content: disk }] };
    outgoing.preserve("LUO", &Sessions { number: 1, sessions: vec![vm], flbs: vec![] }).unwrap();
    // A block of 4 MiB and one of 8: some of it is on both sides of the border between two regions.
    let folios = vec![(Order::new(10).unwrap(), &b"hello"[..]), (Order::new(11).unwrap(), &b"world"[..])];
    outgoing.preserve("kho_test", &Payload { folios, rule: Rule::Words }).unwrap();
    let (ram, root) = outgoing.finish().unwrap().into_parts();
    (ram, root.start())
}

/// The same bytes in a guest that has other memory too; its RAM ends at that address.
fn guest_until(ram: &Ram, end: u64) -> Guest<GuestMemoryMmap> {
    let regions = [(0, 64 * MIB), (WINDOW, 5 * MIB), (WINDOW + 5 * MIB, end - WINDOW - 5 * MIB), (1 << 32, MIB)];
    let regions = regions.map(|(at, size)| (GuestAddress(at), usize::try_from(size).unwrap()));
    let memory = GuestMemoryMmap::from_ranges(&regions).unwrap();
    for (at, bytes) in ram.segments() {
        let there = bytes.len().min(usize::try_from(end.saturating_sub(at.get())).unwrap());
        memory.write_slice(&bytes[..there], GuestAddress(at.get())).unwrap();
    }
    Guest::new(memory, Geometry::K4)
}

fn planned<M: Memory + 'static>(memory: M, root: PhysAddr) -> (Vec<NodeReport>, Vec<Code>, alloc::string::String) {
    let mut registry = Registry::new();
    registry.read("LUO", LuoNode);
    registry.read("kho_test", SelfTestNode);
    let plan = Incoming::new(memory, root).plan(&registry);
    let codes = plan.findings().kept().iter().map(|finding| finding.fault.code()).collect();
    (plan.nodes().to_vec(), codes, plan.findings().to_string())
}

#[test]
fn a_handover_in_the_ram_of_a_guest_is_planned_as_where_it_was_made() {
    let (ram, root) = authored();
    let guest = guest_until(&ram, WINDOW + 16 * MIB);
    let extents: Vec<(u64, u64)> = guest.extents().iter().map(|range| (range.start().get(), range.size())).collect();
    assert_eq!(extents, [(0, 64 * MIB), (WINDOW, 16 * MIB), (1 << 32, MIB)], "neighbours are one");
    let in_guest = planned(guest, root);
    assert_eq!((in_guest.0.len(), in_guest.2.as_str()), (2, ""));
    assert_eq!(in_guest, planned(ram, root));
}

#[test]
fn what_the_guest_has_no_ram_for_is_outside() {
    let (ram, root) = authored();
    // The larger block begins at 8 MiB.
    let (_, codes, _) = planned(guest_until(&ram, WINDOW + 10 * MIB), root);
    assert!(codes.contains(&Code::Outside), "{codes:?}");
}

#[cfg(feature = "serde")]
#[test]
fn a_handover_in_the_ram_of_a_guest_is_decoded_as_where_it_was_made() {
    use crate::inspect::{self, Options};
    use crate::mem::Image;

    let (ram, root) = authored();
    let guest = guest_until(&ram, WINDOW + 16 * MIB);
    let shown = |image| {
        let decoded = inspect::memory(image, &Options::default()).unwrap();
        assert_eq!((decoded.root.address, decoded.errors), (Some(root.get()), 0), "{:?}", decoded.findings);
        serde_json::to_value((&decoded.nodes, &decoded.findings, &decoded.preserved)).unwrap()
    };
    assert_eq!(shown(Image::of_memory(guest)), shown(Image::of_memory(ram)));
}

#[test]
fn a_guest_without_memory_has_nothing() {
    let guest = Guest::new(GuestMemoryMmap::<()>::new(), Geometry::K64);
    assert_eq!((guest.extents(), guest.geometry()), (&[][..], Geometry::K64));
    let at = PhysAddr::new(0);
    assert_eq!(guest.read(at, &mut [0]), Err(MemError::Outside { at, len: 1 }));
    assert_eq!(guest.into_memory().num_regions(), 0);
}

proptest! {
    #![proptest_config(crate::testing::cases(128))]

    /// Every byte has its address in it; what is in no region is not in the model.
    #[test]
    fn reading_is_as_in_a_naive_model(
        base in prop_oneof![Just(0_u64), Just(0x1000), Just(u64::MAX - 0x2_0000), any::<u64>()],
        regions in prop::collection::vec((prop_oneof![2 => Just(0_u64), 1 => 1_u64..0x1800], 1_u64..0x1800), 1..6),
        reads in prop::collection::vec((prop_oneof![4 => 0_u64..0x9000, 1 => any::<u64>()], 0_usize..0x2800), 1..40),
    ) {
        let mut model = alloc::collections::BTreeMap::new();
        let (mut ranges, mut next) = (Vec::new(), base);
        for (gap, size) in regions {
            let Some(start) = next.checked_add(gap) else { break };
            let Some(end) = start.checked_add(size) else { break };
            ranges.push((GuestAddress(start), usize::try_from(size).unwrap()));
            model.extend((start..end).map(|at| (at, u8::try_from(at.wrapping_mul(31) >> 3 & 0xff).unwrap())));
            next = end;
        }
        prop_assume!(!ranges.is_empty());
        let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
        for (at, byte) in &model {
            memory.write_slice(&[*byte], GuestAddress(*at)).unwrap();
        }
        let guest = Guest::new(memory, Geometry::K4);
        for (offset, len) in reads {
            let at = base.wrapping_add(offset);
            let mut found = vec![0xee; len];
            let read = guest.read(PhysAddr::new(at), &mut found);
            let expected: Option<Vec<u8>> =
                (0..u64::try_from(len).unwrap()).map(|n| model.get(&at.checked_add(n)?).copied()).collect();
            match expected {
                Some(expected) if len > 0 => prop_assert!(read.is_ok() && found == expected, "{at:#x} {len:#x} {read:?}"),
                // Nothing is read either way.
                Some(_) => {}
                None => {
                    let len = u64::try_from(len).unwrap();
                    prop_assert_eq!(read, Err(MemError::Outside { at: PhysAddr::new(at), len }));
                    prop_assert!(found.iter().all(|byte| *byte == 0xee), "all of it or nothing");
                }
            }
        }
    }
}
