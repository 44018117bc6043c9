//! The root, the named ranges, where the machine came from, and scratch.

use kho::inspect::Options;
use kho::mem::{PhysAddr, PhysRange};

use super::machine::*;
use super::{case, holds, holds_with};

fn same(name: &str) -> Vec<String> {
    vec![name.into()]
}

#[test]
fn the_root() {
    holds(&[
        case("10: no tree", 0, |m| m.set(m.property(ROOT, "/", "preserved-memory-map"), 0), &[]),
        case(
            "10: a tree that is not in the memory",
            0,
            |m| m.set(m.property(ROOT, "/", "preserved-memory-map"), 0x7ff0_0000),
            &[],
        ),
        case("10: a tree that is no page", 0, |m| m.set(m.property(ROOT, "/", "preserved-memory-map"), 0x45_2008), &[]),
        case(
            "1: a tree by page number",
            0,
            |m| m.set(m.property(ROOT, "/", "preserved-memory-map"), m.tree() >> 12),
            &[],
        ),
        case("a newer version", 0, |m| m.poke(m.property(ROOT, "/", "compatible"), b"kho-v5"), &[]),
        case("an older version", 0, |m| m.poke(m.property(ROOT, "/", "compatible"), b"kho-v3"), &[]),
        case("a root that nobody preserved", 5, |m| m.unpreserve(ROOT, 0), &[]),
        case(
            "23: NAME@x taken for NAME",
            0,
            |m| {
                let map = m.tree();
                m.root(map, |name| if name == "LUO" { vec!["LUO@1".into()] } else { same(name) });
            },
            &[],
        ),
        case(
            "23: NAME@x in front of NAME",
            5,
            |m| {
                let map = m.tree();
                m.root(
                    map,
                    |name| if name == "memblock" { vec!["memblock".into(), "kho_test@2".into()] } else { same(name) },
                );
            },
            &[],
        ),
        case(
            "a node that nobody knows",
            5,
            |m| {
                let map = m.tree();
                m.root(map, |name| if name == "memblock" { vec!["pci".into(), "memblock".into()] } else { same(name) });
            },
            &[],
        ),
        case("a blob that nobody preserved", 5, |m| m.unpreserve(METADATA, 0), &[]),
        case(
            "1: a blob by page number",
            5,
            |m| m.set(m.property(ROOT, "memblock", "preserved-data"), MEMBLOCK >> 12),
            &[],
        ),
        case("a blob at 0", 5, |m| m.set(m.property(ROOT, "memblock", "preserved-data"), 0), &[]),
        case(
            "a blob beyond all memory",
            5,
            |m| m.set(m.property(ROOT, "memblock", "preserved-data"), u64::MAX - 7),
            &[],
        ),
    ]);
}

#[test]
fn named_ranges() {
    let _ = MEMBLOCK;
    holds(&[
        case("13: no device tree", 5, |m| m.poke(MEMBLOCK, &[0xff; 4]), &[]),
        case(
            "13: a device tree that is longer than its blob",
            5,
            |m| m.poke(MEMBLOCK + 4, &4096_u32.to_be_bytes()),
            &[],
        ),
        case(
            "13: a blob that is shorter than its device tree",
            5,
            |m| m.set(m.property(ROOT, "memblock", "blob-size"), 100),
            &[],
        ),
        case("another version", 5, |m| m.poke(m.property(MEMBLOCK, "/", "compatible"), b"memblock-v2"), &[]),
        case(
            "another kind of range",
            5,
            |m| m.poke(m.property(MEMBLOCK, "testmem", "compatible"), b"reserve-mem-v2"),
            &[],
        ),
        case("1: a range by page number", 5, |m| m.set(m.property(MEMBLOCK, "testmem", "start"), 0x7900), &[]),
        case("a range of nothing", 5, |m| m.set(m.property(MEMBLOCK, "testmem", "size"), 0), &[]),
        case("a range that wraps", 5, |m| m.set(m.property(MEMBLOCK, "testmem", "size"), u64::MAX), &[]),
        case(
            "a range that is larger than what was preserved",
            5,
            |m| m.set(m.property(MEMBLOCK, "testmem", "size"), 2 << 20),
            &[],
        ),
        case(
            "7: a range that was preserved in other blocks",
            5,
            |m| {
                m.unpreserve(0x790_0000, 8);
                (0..16).for_each(|block| m.preserve(0x790_0000 + block * 0x1_0000, 4));
            },
            &[],
        ),
        case(
            "a range with a page in the middle that nobody preserved",
            5,
            |m| {
                m.unpreserve(0x790_0000, 8);
                (0..256).filter(|page| *page != 100).for_each(|page| m.preserve(0x790_0000 + page * PAGE, 0));
            },
            &[],
        ),
        case(
            "17: a range over the pages of a file",
            5,
            |m| {
                m.set(m.property(MEMBLOCK, "testmem", "start"), 6078 << 12);
                m.set(m.property(MEMBLOCK, "testmem", "size"), 4096);
            },
            &[],
        ),
    ]);
}

#[test]
fn where_the_machine_came_from() {
    holds(&[
        case("a newer version", 5, |m| m.poke(METADATA, &[2]), &[]),
        case("no version", 5, |m| m.poke(METADATA, &[0]), &[]),
        case("too short", 5, |m| m.set(m.property(ROOT, "kexec-metadata", "blob-size"), 72), &[]),
        case("a release that does not end", 5, |m| m.poke(METADATA + 4, &[b'6'; 65]), &[]),
        case("a release that is no text", 5, |m| m.poke(METADATA + 4, &[0xff]), &[]),
    ]);
}

#[test]
fn scratch() {
    let scratch = |list: &[(u64, u64)]| Options {
        scratch: list.iter().map(|&(start, size)| PhysRange::new(PhysAddr::new(start), size).unwrap()).collect(),
        ..options()
    };
    // What the machine itself had, with its empty one.
    let own = scratch(&[(0x680_0000, 0x100_0000), (0x480_0000, 0x200_0000), (0x7c0_0000, 0)]);
    holds_with(
        &[
            case("19: as it was", 5, |_| (), &[]),
            case("19: a page that is preserved in it and that nobody owns", 5, |m| m.preserve(0x481_0000, 0), &[]),
            case(
                "19: a range in it",
                5,
                |m| {
                    m.preserve(0x600_0000, 12);
                    m.set(m.property(MEMBLOCK, "testmem", "start"), 0x600_0000);
                },
                &[],
            ),
        ],
        &own,
    );
    holds_with(
        &[case("19: over the root, the tree and a file", 5, |_| (), &[])],
        &scratch(&[(0x44_8000, 0x2000), (0x17b_e000, 1)]),
    );
}
