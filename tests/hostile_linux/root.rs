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
        case(
            "10: no tree",
            0,
            |m| m.set(m.property(ROOT, "/", "preserved-memory-map"), 0),
            &["error: /: no-handover: preserved-memory-map: 0"],
        ),
        case(
            "10: a tree that is not in the memory",
            0,
            |m| m.set(m.property(ROOT, "/", "preserved-memory-map"), 0x7ff0_0000),
            &[
                "error: /: outside: radix root at 0x7ff00000: found 0x7ff00000, expected a page of the memory that was handed over",
            ],
        ),
        case(
            "10: a tree that is no page",
            0,
            |m| m.set(m.property(ROOT, "/", "preserved-memory-map"), 0x45_2008),
            &["error: /: unaligned: radix root at 0x452008: found 0x452008, expected a multiple of 0x1000"],
        ),
        case(
            "1: a tree by page number",
            0,
            |m| m.set(m.property(ROOT, "/", "preserved-memory-map"), m.tree() >> 12),
            &["error: /: unaligned: radix root at 0x452: found 0x452, expected a multiple of 0x1000"],
        ),
        case(
            "a newer version",
            0,
            |m| m.poke(m.property(ROOT, "/", "compatible"), b"kho-v5"),
            &["error: /: version-newer: compatible: found kho-v5, expected kho-v4"],
        ),
        case(
            "an older version",
            0,
            |m| m.poke(m.property(ROOT, "/", "compatible"), b"kho-v3"),
            &["error: /: version-older: compatible: found kho-v3, expected kho-v4"],
        ),
        case(
            "a root that nobody preserved",
            5,
            |m| m.unpreserve(ROOT, 0),
            &["error: /: not-preserved: at 0x448000: a root FDT that is not in one preserved block"],
        ),
        case(
            "23: NAME@x taken for NAME",
            0,
            |m| {
                let map = m.tree();
                m.root(map, |name| if name == "LUO" { vec!["LUO@1".into()] } else { same(name) });
            },
            &[
                "warning: /LUO@1: component-opaque: a node that does not say what it is",
                "error: /: fdt-unit-address: LUO at offset 0xa4: found LUO@1, expected LUO",
            ],
        )
        .changing(&["LUO"]),
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
            &[
                "warning: /kho_test@2: component-opaque: a node that does not say what it is",
                "error: /: fdt-unit-address: kho_test at offset 0xa4: found kho_test@2, expected kho_test",
            ],
        ),
        case(
            "a node that nobody knows",
            5,
            |m| {
                let map = m.tree();
                m.root(map, |name| if name == "memblock" { vec!["pci".into(), "memblock".into()] } else { same(name) });
            },
            &["warning: /pci: component-opaque: a node that does not say what it is"],
        ),
        case(
            "a blob that nobody preserved",
            5,
            |m| m.unpreserve(METADATA, 0),
            &[
                "error: /kexec-metadata: not-preserved: preserved-data at 0x44e000: 0x44e000..0x44e004, which is not preserved",
            ],
        ),
        case(
            "1: a blob by page number",
            5,
            |m| m.set(m.property(ROOT, "memblock", "preserved-data"), MEMBLOCK >> 12),
            &["error: /memblock: not-preserved: preserved-data at 0x65d: 0x65d..0x72f, which is not preserved"],
        ),
        case(
            "a blob at 0",
            5,
            |m| m.set(m.property(ROOT, "memblock", "preserved-data"), 0),
            &["error: /memblock: not-preserved: preserved-data at 0x0: address 0"],
        ),
        case(
            "a blob beyond all memory",
            5,
            |m| m.set(m.property(ROOT, "memblock", "preserved-data"), u64::MAX - 7),
            &["error: /memblock: too-large: blob-size at 0xfffffffffffffff8: found 210, expected a blob that ends"],
        ),
    ]);
}

#[test]
fn named_ranges() {
    let _ = MEMBLOCK;
    holds(&[
        case("13: no device tree", 5, |m| m.poke(MEMBLOCK, &[0xff; 4]), &["error: /memblock: fdt-header: magic at offset 0x0 at 0x65d000: found 0xffffffff, expected 0xd00dfeed"]),
        case(
            "13: a device tree that is longer than its blob",
            5,
            |m| m.poke(MEMBLOCK + 4, &4096_u32.to_be_bytes()),
            &["error: /memblock: truncated: totalsize at offset 0x4 at 0x65d000: found 210 bytes, expected 4096 (totalsize)"],
        ),
        case(
            "13: a blob that is shorter than its device tree",
            5,
            |m| m.set(m.property(ROOT, "memblock", "blob-size"), 100),
            &["error: /memblock: truncated: totalsize at offset 0x4 at 0x65d000: found 100 bytes, expected 210 (totalsize)"],
        ),
        case("another version", 5, |m| m.poke(m.property(MEMBLOCK, "/", "compatible"), b"memblock-v2"), &["error: /memblock: version-newer: compatible at 0x65d000: found memblock-v2, expected memblock-v1"]),
        case(
            "another kind of range",
            5,
            |m| m.poke(m.property(MEMBLOCK, "testmem", "compatible"), b"reserve-mem-v2"),
            &["error: /memblock: version-newer: testmem.compatible at offset 0x60 at 0x65d000: found reserve-mem-v2, expected reserve-mem-v1"],
        ),
        case("1: a range by page number", 5, |m| m.set(m.property(MEMBLOCK, "testmem", "start"), 0x7900), &["error: /memblock: not-preserved: testmem at 0x7000: 0x7000..0x107000, of which the page 0x7000 is not preserved"]),
        case("a range of nothing", 5, |m| m.set(m.property(MEMBLOCK, "testmem", "size"), 0), &["error: /memblock: too-large: testmem.size at offset 0x60 at 0x65d000: found 0x0 bytes from 0x7900000 on, expected at least one byte, below 2^47 pages"]),
        case("a range that wraps", 5, |m| m.set(m.property(MEMBLOCK, "testmem", "size"), u64::MAX), &["error: /memblock: too-large: testmem.size at offset 0x60 at 0x65d000: found 0xffffffffffffffff bytes from 0x7900000 on, expected at least one byte, below 2^47 pages"]),
        case(
            "a range that is larger than what was preserved",
            5,
            |m| m.set(m.property(MEMBLOCK, "testmem", "size"), 2 << 20),
            &["error: /memblock: not-preserved: testmem at 0x7900000: 0x7900000..0x7b00000, of which the page 0x7a00000 is not preserved"],
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
            &["error: /memblock: not-preserved: testmem at 0x7900000: 0x7900000..0x7a00000, of which the page 0x7964000 is not preserved"],
        ),
        case(
            "17: a range over the pages of a file",
            5,
            |m| {
                m.set(m.property(MEMBLOCK, "testmem", "start"), 6078 << 12);
                m.set(m.property(MEMBLOCK, "testmem", "size"), 4096);
            },
            &["error: /LUO: owned-twice: sessions[vm-session].files[0x2].folios at 0x17be000: 0x17be000..0x17bf000, of which testmem of /memblock owns a page"],
        )
        .changing(&["memblock"]),
    ]);
}

#[test]
fn where_the_machine_came_from() {
    holds(&[
        case(
            "a newer version",
            5,
            |m| m.poke(METADATA, &[2]),
            &["error: /kexec-metadata: version-newer: version at 0x44e000: found 2, expected 1"],
        ),
        case(
            "no version",
            5,
            |m| m.poke(METADATA, &[0]),
            &["error: /kexec-metadata: version-older: version at 0x44e000: found 0, expected 1"],
        ),
        case(
            "too short",
            5,
            |m| m.set(m.property(ROOT, "kexec-metadata", "blob-size"), 72),
            &[
                "error: /kexec-metadata: truncated: blob-size at 0x44e000: found 72, expected at least 73 (KexecMetadata)",
            ],
        ),
        case(
            "a release that does not end",
            5,
            |m| m.poke(METADATA + 4, &[b'6'; 65]),
            &[
                "error: /kexec-metadata: text: previous_release at offset 0x4 at 0x44e000: found \"66666666666666666666666666666666666666666666666666666666666666666\", without a zero, expected a zero within 65 bytes",
            ],
        ),
        case(
            "a release that is no text",
            5,
            |m| m.poke(METADATA + 4, &[0xff]),
            &[
                "error: /kexec-metadata: text: previous_release at offset 0x4 at 0x44e000: found \"\\xff.2.13\", expected UTF-8",
            ],
        ),
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
            case(
                "19: a page that is preserved in it and that nobody owns",
                5,
                |m| m.preserve(0x481_0000, 0),
                &[
                    "error: /: scratch-overlap: at 0x4810000: found 0x1000 bytes that are preserved there, these first, expected nothing of the handover in the scratch 0x4800000..0x6800000",
                ],
            ),
            case(
                "19: a range in it",
                5,
                |m| {
                    m.preserve(0x600_0000, 12);
                    m.set(m.property(MEMBLOCK, "testmem", "start"), 0x600_0000);
                },
                &[
                    "error: /memblock: scratch-overlap: testmem at 0x6000000: found 0x800000 bytes that are preserved there, these first, expected nothing of the handover in the scratch 0x4800000..0x6800000",
                    "error: /memblock: scratch-overlap: testmem at 0x6800000: found 0x800000 bytes that are preserved there, these first, expected nothing of the handover in the scratch 0x6800000..0x7800000",
                ],
            ),
        ],
        &own,
    );
    holds_with(
        &[case(
            "19: over the root, the tree and a file",
            5,
            |_| (),
            &[
                "error: /: scratch-overlap: at 0x448000: found 0x1000 bytes that are preserved there, these first, expected nothing of the handover in the scratch 0x448000..0x44a000",
                "error: /: scratch-overlap: radix tree at 0x449000: found 0x1000 bytes of the tree there, these first, expected nothing of the handover in the scratch 0x448000..0x44a000",
                "error: /LUO: scratch-overlap: sessions[vm-session].files[0x2] at 0x17be000: found 0x1 bytes that are preserved there, these first, expected nothing of the handover in the scratch 0x17be000..0x17be001",
            ],
        )],
        &scratch(&[(0x44_8000, 0x2000), (0x17b_e000, 1)]),
    );
}
