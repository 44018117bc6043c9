//! vmalloc areas, and the payload of the kernel's own test.

use super::machine::*;
use super::{case, holds};

#[test]
fn arrays() {
    holds(&[
        case(
            "9: more pages than addresses",
            4,
            |m| m.poke(TWO + 40, &2_u32.to_le_bytes()),
            &[
                "error: /LUO: vmalloc-pages: sessions[vm-session].files[0x2].folios.total_pages at 0x69a000: found 2, expected 1",
            ],
        ),
        case(
            "9: fewer pages than addresses",
            4,
            |m| {
                let (chunk, page) = (m.get(TWO + 32), m.kept());
                m.set(chunk + 16, page);
            },
            &[
                "error: /LUO: vmalloc-pages: sessions[vm-session].files[0x2].folios.total_pages at 0x69a000: found 1, expected at least 2",
            ],
        ),
        case(
            "9: no pages",
            4,
            |m| m.poke(TWO + 40, &[0; 4]),
            &[
                "error: /LUO: vmalloc-pages: sessions[vm-session].files[0x2].folios.total_pages at 0x69a000: found 0, expected a nonzero multiple of 1",
            ],
        ),
        case(
            "9: flags that nobody knows",
            4,
            |m| m.poke(TWO + 44, &[4]),
            &[
                "error: /LUO: vmalloc-flags: sessions[vm-session].files[0x2].folios.flags at 0x69a000: found 0x4, expected none but 0x3",
            ],
        ),
        case(
            "9: an order that there is not",
            4,
            |m| m.poke(TWO + 46, &[47]),
            &[
                "error: /LUO: too-large: sessions[vm-session].files[0x2].folios.order at 0x69a000: found 47, expected at most 46",
            ],
        ),
        case(
            "9: pages that are no multiple of the order",
            4,
            |m| m.poke(TWO + 46, &[1]),
            &[
                "error: /LUO: vmalloc-pages: sessions[vm-session].files[0x2].folios.total_pages at 0x69a000: found 1, expected a nonzero multiple of 2",
            ],
        ),
        case(
            "9: an order that was not preserved so",
            4,
            |m| {
                m.poke(TWO + 40, &2_u32.to_le_bytes());
                m.poke(TWO + 46, &[1]);
            },
            &[
                "error: /LUO: unaligned: sessions[vm-session].files[0x2].folios.phys[0] at 0x6a0000: found 0x69b000, expected a multiple of 0x2000",
            ],
        ),
        case(
            "1: a chunk by page number",
            4,
            |m| m.set(TWO + 32, m.get(TWO + 32) >> 12),
            &[
                "error: /LUO: unaligned: sessions[vm-session].files[0x2].folios.first at 0x69a000: found 0x6a0, expected a multiple of 0x1000",
            ],
        ),
        case(
            "1: a page of the array by page number",
            4,
            |m| m.set(m.get(TWO + 32) + 8, m.get(m.get(TWO + 32) + 8) >> 12),
            &[
                "error: /LUO: unaligned: sessions[vm-session].files[0x2].folios.phys[0] at 0x6a0000: found 0x69b, expected a multiple of 0x1000",
            ],
        ),
        case(
            "a chain of chunks that returns",
            4,
            |m| m.set(m.get(TWO + 32), m.get(TWO + 32)),
            &[
                "error: /LUO: list-cycle: sessions[vm-session].files[0x2].folios.next at 0x6a0000: found 0x6a0000, expected a page that this list has not had",
            ],
        ),
        case(
            "a chain of chunks that goes on for nothing",
            4,
            |m| {
                let more = m.kept();
                m.set(m.get(TWO + 32), more);
            },
            &[
                "error: /LUO: list-long: sessions[vm-session].files[0x2].folios.next at 0x6a0000: found 0x2000000, expected an end after 1 pages",
            ],
        ),
        case(
            "a chunk that nobody preserved",
            4,
            |m| m.unpreserve(m.get(TWO + 32), 0),
            &[
                "error: /LUO: not-preserved: sessions[vm-session].files[0x2].folios at 0x6a0000: 0x1000 bytes that nobody preserved",
            ],
        ),
        case(
            "a page of the array that nobody preserved",
            4,
            |m| m.unpreserve(m.get(m.get(TWO + 32) + 8), 0),
            &[
                "error: /LUO: not-preserved: sessions[vm-session].files[0x2].folios at 0x69b000: pfn 0x69b order 0, which is not preserved",
            ],
        ),
        case(
            "24: a chunk of two files",
            4,
            |m| m.set(TWO + 32, m.get(ABC + 32)),
            &[
                "error: /LUO: owned-twice: sessions[vm-session].files[0x2].folios.first at 0x69a000: found 0x699000, expected a page that nothing else has",
            ],
        ),
        case(
            "24: an array of two files",
            4,
            |m| m.set(m.get(TWO + 32) + 8, m.get(m.get(ABC + 32) + 8)),
            &[
                "error: /LUO: owned-twice: sessions[vm-session].files[0x2].folios at 0x698000: 0x698000..0x699000, of which sessions[vm-session].files[0xabc] of /LUO owns a page",
            ],
        ),
        case(
            "24: an array in the page of its chunk",
            4,
            |m| m.set(m.get(TWO + 32) + 8, m.get(TWO + 32)),
            &[
                "error: /LUO: owned-twice: sessions[vm-session].files[0x2].folios at 0x6a0000: 0x6a0000..0x6a1000, of which sessions[vm-session].files[0x2] of /LUO owns a page",
            ],
        ),
    ]);
}

#[test]
fn the_kernels_own_test() {
    holds(&[
        case(
            "13: a blob that is no device tree",
            5,
            |m| m.poke(TEST, &[0; 4]),
            &["error: /kho_test: fdt-header: magic at offset 0x0 at 0x4fc000: found 0x00000000, expected 0xd00dfeed"],
        ),
        case(
            "13: a device tree larger than its blob",
            5,
            |m| m.poke(TEST + 4, &0x4000_u32.to_be_bytes()),
            &[
                "error: /kho_test: truncated: totalsize at offset 0x4 at 0x4fc000: found 240 bytes, expected 16384 (totalsize)",
            ],
        ),
        case(
            "another version",
            5,
            |m| m.poke(m.property(TEST, "/", "compatible"), b"kho-test-v2"),
            &["error: /kho_test: version-newer: compatible at 0x4fc000: found kho-test-v2, expected kho-test-v1"],
        ),
        case(
            "another magic number",
            5,
            |m| m.poke(m.property(TEST, "/", "magic"), &[0; 4]),
            &["error: /kho_test: magic: magic at 0x4fc000: found 0x0, expected 0x4b484f21"],
        ),
        case(
            "another checksum",
            5,
            |m| m.poke(m.property(TEST, "data", "csum"), &[0; 4]),
            &[
                "error: /kho_test: checksum: csum at 0x4fc000: found 0x00000000, expected 0xd52ad795 (x86-64) or 0x0000acc0 (arm64)",
            ],
        ),
        case(
            "other bytes",
            5,
            |m| m.poke(0x50_0000, &[0xff, 0xfe]),
            &[
                "error: /kho_test: checksum: csum at 0x4fc000: found 0xd52ad795, expected 0xd52bc2a0 (x86-64) or 0x000097cc (arm64)",
            ],
        ),
        case(
            "more folios than the array holds",
            5,
            |m| m.poke(m.property(TEST, "data", "nr_folios"), &600_u32.to_le_bytes()),
            &["error: /kho_test: too-large: folios_info.count at 0x4fc000: found 600, expected at most 512"],
        ),
        case(
            "more folios than there are",
            5,
            |m| m.poke(m.property(TEST, "data", "nr_folios"), &2_u32.to_le_bytes()),
            &[
                "error: /kho_test: not-preserved: folios_info.folios[1].address at 0x0: found 0x0, expected not page 0, which means none",
            ],
        ),
        case(
            "9: its array has flags that nobody knows",
            5,
            |m| m.poke(m.property(TEST, "data", "folios_info") + 12, &[8]),
            &["error: /kho_test: vmalloc-flags: folios_info.flags at 0x4fc000: found 0x8, expected none but 0x3"],
        ),
        case(
            "a folio of another order",
            5,
            |m| {
                let array = m.get(m.get(m.property(TEST, "data", "folios_info")) + 8);
                m.set(array, 0x50_0004);
            },
            &[
                "error: /kho_test: preserved-otherwise: folios[0] at 0x500000: found preserved as pfn 0x500 order 5, expected pfn 0x500 order 4",
            ],
        ),
    ]);
}
