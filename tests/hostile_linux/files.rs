//! memfds, their arrays and folios; the payload of the kernel's own test.

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
        case("1: a page number taken for an address", 5, |m| m.set(m.file(0, 1) + 48, TWO >> 12), &[]),
        case("2: one structure under two tokens", 5, |m| m.set(m.file(0, 1) + 48, ABC), &[]),
        case("2: one structure in two sessions", 5, |m| m.set(m.file(1, 0) + 48, ABC), &[]),
        case(
            "2: one file, preserved twice",
            5,
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
            &[],
        ),
        case("3: more than 2^32 pages", 5, |m| m.set(TWO + 8, (1 << 44) + 200_000), &[]),
        case("3: a size that wraps", 5, |m| m.set(TWO + 8, u64::MAX), &[]),
        case("a position beyond the largest", 5, |m| m.set(TWO, 1 << 63), &[]),
        case("seals that nobody knows", 5, |m| m.poke(TWO + 16, &0x46_u32.to_le_bytes()), &[]),
        case("21: flags of a memfd", 5, |m| m.poke(TWO + 20, &[1]), &[]),
        case(
            "16: more folios than the array holds",
            5,
            |m| {
                m.set(TWO + 8, 1 << 30);
                m.set(TWO + 24, 257);
            },
            &[],
        ),
        case("16: more folios than the file has pages", 5, |m| m.set(TWO + 24, 50), &[]),
        case("16: so many folios that it wraps", 5, |m| m.set(TWO + 24, 1 << 60), &[]),
        case("no folios and an array", 5, |m| m.set(TWO + 24, 0), &[]),
        case("an empty file with folios", 5, |m| m.set(TWO + 8, 0), &[]),
        case("24: a structure in the page of the globals", 5, |m| m.set(m.file(0, 1) + 48, FLBS), &[]),
        case(
            "24: two structures in one page",
            5,
            |m| {
                let bytes = m.bytes(THREE, 48).to_vec();
                m.poke(ABC + 64, &bytes);
                m.set(m.file(0, 2) + 48, ABC + 64);
            },
            &[],
        ),
        case("a structure that nobody preserved", 5, |m| m.unpreserve(TWO, 0), &[]),
        case("a structure that is not in the memory", 5, |m| m.set(m.file(0, 1) + 48, 0x7ff0_0000), &[]),
        case("a structure at 0", 5, |m| m.set(m.file(0, 1) + 48, 0), &[]),
        case("a structure that is preserved and not in the dump", 5, |m| m.lose(TWO), &[]),
    ]);
}

#[test]
fn arrays() {
    holds(&[
        case("9: more pages than addresses", 5, |m| m.poke(TWO + 40, &2_u32.to_le_bytes()), &[]),
        case(
            "9: fewer pages than addresses",
            5,
            |m| {
                let (chunk, page) = (m.get(TWO + 32), m.kept());
                m.set(chunk + 16, page);
            },
            &[],
        ),
        case("9: no pages", 5, |m| m.poke(TWO + 40, &[0; 4]), &[]),
        case("9: flags that nobody knows", 5, |m| m.poke(TWO + 44, &[4]), &[]),
        case("9: an order that there is not", 5, |m| m.poke(TWO + 46, &[47]), &[]),
        case("9: pages that are no multiple of the order", 5, |m| m.poke(TWO + 46, &[1]), &[]),
        case(
            "9: an order that was not preserved so",
            5,
            |m| {
                m.poke(TWO + 40, &2_u32.to_le_bytes());
                m.poke(TWO + 46, &[1]);
            },
            &[],
        ),
        case("1: a chunk by page number", 5, |m| m.set(TWO + 32, m.get(TWO + 32) >> 12), &[]),
        case(
            "1: a page of the array by page number",
            5,
            |m| m.set(m.get(TWO + 32) + 8, m.get(m.get(TWO + 32) + 8) >> 12),
            &[],
        ),
        case("a chain of chunks that returns", 5, |m| m.set(m.get(TWO + 32), m.get(TWO + 32)), &[]),
        case(
            "a chain of chunks that goes on for nothing",
            5,
            |m| {
                let more = m.kept();
                m.set(m.get(TWO + 32), more);
            },
            &[],
        ),
        case("a chunk that nobody preserved", 5, |m| m.unpreserve(m.get(TWO + 32), 0), &[]),
        case("a page of the array that nobody preserved", 5, |m| m.unpreserve(m.get(m.get(TWO + 32) + 8), 0), &[]),
        case("24: a chunk of two files", 5, |m| m.set(TWO + 32, m.get(ABC + 32)), &[]),
        case("24: an array of two files", 5, |m| m.set(m.get(TWO + 32) + 8, m.get(m.get(ABC + 32) + 8)), &[]),
        case("24: an array in the page of its chunk", 5, |m| m.set(m.get(TWO + 32) + 8, m.get(TWO + 32)), &[]),
    ]);
}

#[test]
fn folios() {
    holds(&[
        case("1: an address taken for a page number", 5, |m| m.set(m.folio(TWO, 7), 3 << 52 | 6119 << 12), &[]),
        case("1: a hole", 5, |m| m.set(m.folio(TWO, 7), 3 << 52), &[]),
        case("5: one folio in the middle that nobody preserved", 5, |m| m.unpreserve(6119 << 12, 0), &[]),
        case("flags of a folio that nobody knows", 5, |m| m.set(m.folio(TWO, 7), 7 << 52 | 6119), &[]),
        case("a page number beyond all memory", 5, |m| m.set(m.folio(TWO, 7), 3 << 52 | 1 << 48), &[]),
        case("17: two records of one folio", 5, |m| m.set(m.folio(TWO, 7), 3 << 52 | 6118), &[]),
        case("17: two folios at one index", 5, |m| m.set(m.folio(TWO, 7) + 8, 8), &[]),
        case("17: an index behind the end", 5, |m| m.set(m.folio(TWO, 7) + 8, 49), &[]),
        case("17: an index that wraps", 5, |m| m.set(m.folio(TWO, 7) + 8, u64::MAX), &[]),
        case("17: a folio of another file", 5, |m| m.set(m.folio(TWO, 7), 3 << 52 | 6129), &[]),
        case("17: a folio in the middle of its block", 5, |m| join(m, 6118 << 12), &[]),
        case(
            "4: a folio of two pages that counts as one",
            5,
            |m| {
                join(m, 6118 << 12);
                // Its second page's record is that of a hole: so the folio at index 7 has index 8 too.
                m.set(m.folio(TWO, record(6119 << 12)), 0);
                m.set(m.folio(TWO, record(6118 << 12)) + 8, 8);
                m.set(m.folio(TWO, record(6117 << 12)) + 8, 9);
            },
            &[],
        ),
        case(
            "17: an index that is no multiple of the folio",
            5,
            |m| {
                join(m, 6118 << 12);
                m.set(m.folio(TWO, record(6119 << 12)), 0);
                m.set(m.folio(TWO, record(6118 << 12)) + 8, 7);
            },
            &[],
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
            &[],
        ),
        case(
            "8: a run of pages restored as one folio",
            5,
            |m| {
                m.unpreserve(0x50_0000, 5);
                (0..32).for_each(|page| m.preserve(0x50_0000 + page * PAGE, 0));
            },
            &[],
        ),
        case(
            "17: every folio of a file in another",
            5,
            |m| {
                (0..3).for_each(|n| m.set(m.folio(SEVEN, n), m.get(m.folio(ABC, n))));
            },
            &[],
        ),
    ]);
}

#[test]
fn the_kernels_own_test() {
    holds(&[
        case("13: a blob that is no device tree", 5, |m| m.poke(TEST, &[0; 4]), &[]),
        case("13: a device tree larger than its blob", 5, |m| m.poke(TEST + 4, &0x4000_u32.to_be_bytes()), &[]),
        case("another version", 5, |m| m.poke(m.property(TEST, "/", "compatible"), b"kho-test-v2"), &[]),
        case("another magic number", 5, |m| m.poke(m.property(TEST, "/", "magic"), &[0; 4]), &[]),
        case("another checksum", 5, |m| m.poke(m.property(TEST, "data", "csum"), &[0; 4]), &[]),
        case("other bytes", 5, |m| m.poke(0x50_0000, &[0xff, 0xfe]), &[]),
        case(
            "more folios than the array holds",
            5,
            |m| m.poke(m.property(TEST, "data", "nr_folios"), &600_u32.to_le_bytes()),
            &[],
        ),
        case(
            "more folios than there are",
            5,
            |m| m.poke(m.property(TEST, "data", "nr_folios"), &2_u32.to_le_bytes()),
            &[],
        ),
        case(
            "9: its array has flags that nobody knows",
            5,
            |m| m.poke(m.property(TEST, "data", "folios_info") + 12, &[8]),
            &[],
        ),
        case(
            "a folio of another order",
            5,
            |m| {
                let array = m.get(m.get(m.property(TEST, "data", "folios_info")) + 8);
                m.set(array, 0x50_0004);
            },
            &[],
        ),
    ]);
}
