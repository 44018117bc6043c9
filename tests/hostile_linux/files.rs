//! memfds and their folios.

use super::machine::*;
use super::{case, holds};

/// The two pages at `at` of the file of 49 become one block of order 1: its records `first` and the next have them.
fn join(m: &mut Machine, at: u64) {
    m.unpreserve(at, 0);
    m.unpreserve(at + PAGE, 0);
    m.preserve(at, 1);
}

/// The number of the record of the file `0x2` that has the page.
fn record(page: u64) -> u64 {
    6126 - (page >> 12)
}

#[test]
fn structures() {
    holds(&[
        case(
            "1: a page number taken for an address",
            4,
            |m| m.set(m.file(0, 1) + 48, TWO >> 12),
            &[
                "error: /LUO: unaligned: sessions[vm-session].files[0x2].data at 0x695050: found 0x69a; as a page number it is 0x69a000, which is preserved, expected the address of a page of its own, below 2^47 pages",
            ],
        ),
        case(
            "2: one structure under two tokens",
            4,
            |m| m.set(m.file(0, 1) + 48, ABC),
            &[
                "error: /LUO: file-duplicate: sessions[vm-session].files[0x2].data at 0x695050: found 0x696000, which the file at 0x695010 has too, expected a file of its own",
            ],
        ),
        case(
            "2: one structure in two sessions",
            4,
            |m| m.set(m.file(1, 0) + 48, ABC),
            &[
                "error: /LUO: file-duplicate: sessions[second].files[0x7].data at 0x6a3010: found 0x696000, which the file at 0x695010 has too, expected a file of its own",
            ],
        ),
        case(
            "2: one file, preserved twice",
            4,
            |m| {
                // As Linux does it: a structure, an array and a chunk of its own, and the same folios.
                let [memfd, chunk, array] = [m.kept(), m.kept(), m.kept()];
                let (bytes, records) = (m.bytes(SEVEN, 48).to_vec(), m.bytes(m.folio(SEVEN, 0), 48).to_vec());
                m.poke(memfd, &bytes);
                m.set(memfd + 32, chunk);
                m.set(chunk + 8, array);
                m.poke(array, &records);
                m.set(m.file(0, 2) + 48, memfd);
            },
            &[
                "error: /LUO: owned-twice: sessions[second].files[0x7].folios at 0x17ba000: 0x17ba000..0x17bb000, of which sessions[vm-session].files[0x3] of /LUO owns a page; and 2 more of its folios so",
            ],
        ),
        case(
            "3: more than 2^32 pages",
            4,
            |m| m.set(TWO + 8, (1 << 44) + 200_000),
            &[
                "error: /LUO: too-large: sessions[vm-session].files[0x2].size at 0x69a000: found 17592186244416, expected at most 4294967295 pages",
            ],
        ),
        case(
            "3: a size that wraps",
            4,
            |m| m.set(TWO + 8, u64::MAX),
            &[
                "error: /LUO: too-large: sessions[vm-session].files[0x2].size at 0x69a000: found 18446744073709551615, expected at most 4294967295 pages",
            ],
        ),
        case(
            "a position beyond the largest",
            4,
            |m| m.set(TWO, 1 << 63),
            &[
                "error: /LUO: too-large: sessions[vm-session].files[0x2].pos at 0x69a000: found 9223372036854775808, expected below 2^63",
            ],
        ),
        case(
            "seals that nobody knows",
            4,
            |m| m.poke(TWO + 16, &0x46_u32.to_le_bytes()),
            &[
                "error: /LUO: memfd-seals: sessions[vm-session].files[0x2].seals at 0x69a000: found 0x46, expected seals of 0x3f",
            ],
        ),
        case(
            "21: flags of a memfd",
            4,
            |m| m.poke(TWO + 20, &[1]),
            &["error: /LUO: reserved: sessions[vm-session].files[0x2].flags at 0x69a000: found 1, expected 0"],
        ),
        case(
            "16: more folios than the array holds",
            4,
            |m| {
                m.set(TWO + 8, 1 << 30);
                m.set(TWO + 24, 257);
            },
            &[
                "error: /LUO: memfd-size: sessions[vm-session].files[0x2].nr_folios at 0x69a000: found 257, expected at most 256, what the array holds",
            ],
        ),
        case(
            "16: more folios than the file has pages",
            4,
            |m| m.set(TWO + 24, 50),
            &[
                "error: /LUO: memfd-size: sessions[vm-session].files[0x2].nr_folios at 0x69a000: found 50, expected at most 49, the pages of 200000 bytes",
            ],
        ),
        case(
            "16: so many folios that it wraps",
            4,
            |m| m.set(TWO + 24, 1 << 60),
            &[
                "error: /LUO: memfd-size: sessions[vm-session].files[0x2].nr_folios at 0x69a000: found 1152921504606846976, expected at most 49, the pages of 200000 bytes",
            ],
        ),
        case(
            "no folios and an array",
            4,
            |m| m.set(TWO + 24, 0),
            &[
                "error: /LUO: memfd-size: sessions[vm-session].files[0x2].folios at 0x69a000: found an array at 0x6a0000, expected none, for no folios",
            ],
        ),
        case(
            "an empty file with folios",
            4,
            |m| m.set(TWO + 8, 0),
            &[
                "error: /LUO: memfd-size: sessions[vm-session].files[0x2].nr_folios at 0x69a000: found 49, expected at most 0, the pages of 0 bytes",
            ],
        ),
        case(
            "24: a structure in the page of the globals",
            4,
            |m| m.set(m.file(0, 1) + 48, FLBS),
            &[
                "error: /LUO: reserved: sessions[vm-session].files[0x2].flags at 0x667000: found 1633972341, expected 0",
                "error: /LUO: owned-twice: flbs at 0x667000: 0x667000..0x668000, of which sessions[vm-session].files[0x2] of /LUO owns a page",
            ],
        ),
        case(
            "24: two structures in one page",
            4,
            |m| {
                let bytes = m.bytes(THREE, 48).to_vec();
                m.poke(ABC + 64, &bytes);
                m.set(m.file(0, 2) + 48, ABC + 64);
            },
            &[
                "error: /LUO: unaligned: sessions[vm-session].files[0x3].data at 0x695090: found 0x696040, expected the address of a page of its own, below 2^47 pages",
            ],
        ),
        case(
            "a structure that nobody preserved",
            4,
            |m| m.unpreserve(TWO, 0),
            &[
                "error: /LUO: not-preserved: sessions[vm-session].files[0x2].data at 0x69a000: pfn 0x69a order 0, which is not preserved",
            ],
        ),
        case(
            "a structure that is not in the memory",
            4,
            |m| m.set(m.file(0, 1) + 48, 0x7ff0_0000),
            &[
                "error: /LUO: not-preserved: sessions[vm-session].files[0x2].data at 0x7ff00000: pfn 0x7ff00 order 0, which is not preserved",
            ],
        ),
        case(
            "a structure at 0",
            4,
            |m| m.set(m.file(0, 1) + 48, 0),
            &[
                "error: /LUO: not-preserved: sessions[vm-session].files[0x2].data at 0x0: pfn 0x0 order 0, which is not preserved",
            ],
        ),
        case(
            "a structure that is preserved and not in the dump",
            4,
            |m| m.lose(TWO),
            &[
                "error: /LUO: outside: sessions[vm-session].files[0x2] at 0x69a000: 0x30 bytes outside the memory that was handed over",
            ],
        ),
    ]);
}

#[test]
fn folios() {
    holds(&[
        case(
            "1: an address taken for a page number",
            4,
            |m| m.set(m.folio(TWO, 7), 3 << 52 | 6119 << 12),
            &[
                "error: /LUO: not-preserved: sessions[vm-session].files[0x2].folios[7].pfn at 0x17e7000000: pfn 0x17e7000, which is not preserved; as an address it is pfn 0x17e7, which is",
            ],
        ),
        case("1: a hole", 4, |m| m.set(m.folio(TWO, 7), 3 << 52), &[]).changing(&["LUO"]),
        case(
            "5: one folio in the middle that nobody preserved",
            4,
            |m| m.unpreserve(6119 << 12, 0),
            &[
                "error: /LUO: not-preserved: sessions[vm-session].files[0x2].folios[7].pfn at 0x17e7000: pfn 0x17e7, which is not preserved",
            ],
        ),
        case(
            "flags of a folio that nobody knows",
            4,
            |m| m.set(m.folio(TWO, 7), 7 << 52 | 6119),
            &[
                "error: /LUO: folio-flags: sessions[vm-session].files[0x2].folios[7].flags at 0x69b070: found 0x7, expected flags of 0x3",
            ],
        ),
        case(
            "a page number beyond all memory",
            4,
            |m| m.set(m.folio(TWO, 7), 3 << 52 | 1 << 48),
            &[
                "error: /LUO: too-large: sessions[vm-session].files[0x2].folios[7].pfn at 0x69b070: found 0x1000000000000, expected below 2^47",
            ],
        ),
        case(
            "17: two records of one folio",
            4,
            |m| m.set(m.folio(TWO, 7), 3 << 52 | 6118),
            &[
                "error: /LUO: owned-twice: sessions[vm-session].files[0x2].folios at 0x17e6000: 0x17e6000..0x17e7000, of which sessions[vm-session].files[0x2] of /LUO owns a page",
            ],
        ),
        case(
            "17: two folios at one index",
            4,
            |m| m.set(m.folio(TWO, 7) + 8, 8),
            &[
                "error: /LUO: memfd-index: sessions[vm-session].files[0x2].folios.index at 0x17e6000: found 0x8, inside the folio before it, expected at least 0x9",
            ],
        ),
        case(
            "17: an index behind the end",
            4,
            |m| m.set(m.folio(TWO, 7) + 8, 49),
            &[
                "error: /LUO: memfd-index: sessions[vm-session].files[0x2].folios[7].index at 0x17e7000: found 0x31, expected below 0x31, the pages of the file",
            ],
        ),
        case(
            "17: an index that wraps",
            4,
            |m| m.set(m.folio(TWO, 7) + 8, u64::MAX),
            &[
                "error: /LUO: memfd-index: sessions[vm-session].files[0x2].folios[7].index at 0x17e7000: found 0xffffffffffffffff, expected below 0x31, the pages of the file",
            ],
        ),
        case(
            "17: a folio of another file",
            4,
            |m| m.set(m.folio(TWO, 7), 3 << 52 | 6129),
            &[
                "error: /LUO: owned-twice: sessions[vm-session].files[0x2].folios at 0x17f1000: 0x17f1000..0x17f2000, of which sessions[vm-session].files[0xabc] of /LUO owns a page",
            ],
        ),
        case(
            "17: a folio in the middle of its block",
            4,
            |m| join(m, 6118 << 12),
            &[
                "error: /LUO: preserved-otherwise: sessions[vm-session].files[0x2].folios[7].pfn at 0x17e7000: found pfn 0x17e7, inside pfn 0x17e6 order 1, expected the first page of a preserved block",
            ],
        ),
        case(
            "4: a folio of two pages that counts as one",
            4,
            |m| {
                join(m, 6118 << 12);
                // Its second page's record is that of a hole: so the folio at index 7 has index 8 too.
                m.set(m.folio(TWO, record(6119 << 12)), 0);
                m.set(m.folio(TWO, record(6118 << 12)) + 8, 8);
                m.set(m.folio(TWO, record(6117 << 12)) + 8, 9);
            },
            &[
                "error: /LUO: memfd-index: sessions[vm-session].files[0x2].folios.index at 0x17e5000: found 0x9, inside the folio before it, expected at least 0xa",
            ],
        ),
        case(
            "17: an index that is no multiple of the folio",
            4,
            |m| {
                join(m, 6118 << 12);
                m.set(m.folio(TWO, record(6119 << 12)), 0);
                m.set(m.folio(TWO, record(6118 << 12)) + 8, 7);
            },
            &[
                "error: /LUO: memfd-index: sessions[vm-session].files[0x2].folios[8].index at 0x17e6000: found 0x7, expected a multiple of 0x2, the pages of the folio",
            ],
        ),
        case(
            "7: a folio that was preserved in two halves",
            5,
            |m| {
                // The kernel's test has one of order 5.
                m.unpreserve(0x50_0000, 5);
                m.preserve(0x50_0000, 4);
                m.preserve(0x51_0000, 4);
            },
            &[
                "error: /kho_test: preserved-otherwise: folios[0] at 0x500000: found preserved as pfn 0x500 order 4, expected pfn 0x500 order 5",
            ],
        ),
        case(
            "8: a run of pages restored as one folio",
            5,
            |m| {
                m.unpreserve(0x50_0000, 5);
                (0..32).for_each(|page| m.preserve(0x50_0000 + page * PAGE, 0));
            },
            &[
                "error: /kho_test: preserved-otherwise: folios[0] at 0x500000: found preserved as pfn 0x500 order 0, expected pfn 0x500 order 5",
            ],
        ),
        case(
            "17: every folio of a file in another",
            4,
            |m| {
                (0..3).for_each(|n| m.set(m.folio(SEVEN, n), m.get(m.folio(ABC, n))));
            },
            &[
                "error: /LUO: owned-twice: sessions[second].files[0x7].folios at 0x17f1000: 0x17f1000..0x17f2000, of which sessions[vm-session].files[0xabc] of /LUO owns a page; and 2 more of its folios so",
            ],
        ),
    ]);
}
