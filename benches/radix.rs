//! Which pages are preserved: `kho::radix::Tree` beside roaring's treemap and a plain tree.
//!
//! `KHO_BENCH_QUICK=1 cargo bench -p kho-benches --bench radix` only shows that it runs.

use std::collections::BTreeMap;
use std::hint::black_box;

use kho::mem::{Folio, Geometry, PageRange, Pfn};
use kho::radix::Tree;
use kho_benches::{Contest, quick};
use roaring::RoaringTreemap;

/// What one would write first: bitmaps in a balanced tree.
#[derive(Default)]
struct Plain(BTreeMap<u64, Box<[u64; 512]>>);

impl Plain {
    fn add(&mut self, page: u64) -> bool {
        let leaf = self.0.entry(page >> 15).or_insert_with(|| Box::new([0; 512]));
        let word = &mut leaf[(page >> 6 & 511) as usize];
        let new = *word >> (page & 63) & 1 == 0;
        *word |= 1 << (page & 63);
        new
    }

    fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(&index, leaf)| {
            let bits = move |(at, &word): (usize, &u64)| {
                let base = index << 15 | (at as u64) << 6;
                (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| base | bit)
            };
            leaf.iter().enumerate().flat_map(bits)
        })
    }
}

fn page(number: u64) -> Folio {
    Folio::page(Pfn::new(number).expect("a page below the limit"))
}

fn run(start: u64, count: u64) -> PageRange {
    PageRange::new(Pfn::new(start).expect("a page below the limit"), count).expect("a run below the limit")
}

fn tree(pages: impl Iterator<Item = u64>) -> Tree {
    let mut tree = Tree::new(Geometry::K4);
    for number in pages {
        black_box(tree.add(page(number)));
    }
    tree
}

fn roaring(pages: impl Iterator<Item = u64>) -> RoaringTreemap {
    let mut map = RoaringTreemap::new();
    for number in pages {
        black_box(map.insert(number));
    }
    map
}

fn plain(pages: impl Iterator<Item = u64>) -> Plain {
    let mut plain = Plain::default();
    for number in pages {
        black_box(plain.add(number));
    }
    plain
}

fn adding<I: Iterator<Item = u64>>(title: &str, count: u64, pages: impl Fn() -> I) {
    Contest::new(title, count)
        .entry("kho", || drop(black_box(tree(pages()))))
        .entry("roaring", || drop(black_box(roaring(pages()))))
        .entry("plain tree", || drop(black_box(plain(pages()))))
        .run();
}

/// Lets the allocator have memory that it need not fetch from the kernel: a page fault in a virtual machine costs more
/// than all work on the page, and hits whoever goes first.
fn prime() -> impl Sized {
    let pages = if quick() { 1 << 8 } else { 1 << 14 };
    let many: Vec<Box<[u64; 512]>> = (0..pages).map(|_| black_box(Box::new([1; 512]))).collect();
    // Freed memory goes back to the kernel only from the end of the heap: this stays there.
    let last = black_box(Box::new([1_u64; 512]));
    drop(many);
    last
}

fn main() {
    let _last = prime();
    let scale = if quick() { 64 } else { 1 };
    let million = (1 << 20) / scale;

    adding("add 4M order-0 pages one by one, sequential (per page)", 4 * million, || {
        0x10_0000..0x10_0000 + 4 * million
    });

    // Spread over 2^26 pages of 4 KiB: 256 GiB.
    let random = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 38;
    adding("add 16M random order-0 pages of 256 GiB (per page)", 16 * million, || (0..16 * million).map(random));

    for (title, step) in [
        ("add 1M runs of 37 pages, every 61 pages (per page)", 61),
        ("add 1M runs of 37 pages, every 64 pages (per page)", 64),
    ] {
        let pages = || (0..million).flat_map(move |n| n * step + 5..n * step + 42);
        Contest::new(title, million * 37)
            .entry("kho, as ranges", || {
                let mut tree = Tree::new(Geometry::K4);
                for n in 0..million {
                    black_box(tree.add_range(run(n * step + 5, 37)));
                }
                drop(black_box(tree));
            })
            .entry("kho, one by one", || {
                let mut tree = Tree::new(Geometry::K4);
                for n in 0..million {
                    for number in n * step + 5..n * step + 42 {
                        black_box(tree.add(page(number)));
                    }
                }
                drop(black_box(tree));
            })
            .entry("roaring, as ranges", || {
                let mut map = RoaringTreemap::new();
                for n in 0..million {
                    black_box(map.insert_range(n * step + 5..n * step + 42));
                }
                drop(black_box(map));
            })
            .entry("roaring, one by one", || drop(black_box(roaring(pages()))))
            .run();
    }

    let count = 4 * million;
    let (dense, map, btree) = (tree(0..count), roaring(0..count), plain(0..count));
    Contest::new("iterate 4M dense pages (per page)", count)
        .entry("kho", || assert_eq!(dense.iter().fold(0, |n, folio| n ^ black_box(folio).pfn().get()), 0))
        .entry("roaring", || assert_eq!(map.iter().fold(0, |n, page| n ^ black_box(page)), 0))
        .entry("plain tree", || assert_eq!(btree.iter().fold(0, |n, page| n ^ black_box(page)), 0))
        .run();
    Contest::new("iterate 4M dense pages as ranges (per page)", count)
        .entry("kho", || assert_eq!(dense.ranges().map(|range| black_box(range).count()).sum::<u64>(), count))
        .run();
}
