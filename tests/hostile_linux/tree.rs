//! The radix tree.

use super::machine::*;
use super::{case, holds};

#[test]
fn keys_and_nodes() {
    holds(&[
        case(
            "18: key 0",
            5,
            |m| m.key(0, true),
            &[
                "error: /: radix-key: at 0x2003000: found 0x0, expected keys of blocks below page 0x800000000000, of order 46 at most",
            ],
        ),
        case(
            "18: key 1",
            5,
            |m| m.key(1, true),
            &[
                "error: /: radix-key: at 0x2003000: found 0x1, expected keys of blocks below page 0x800000000000, of order 46 at most",
            ],
        ),
        case(
            "18: a key that is too wide",
            5,
            |m| {
                let child = m.page();
                m.set(m.tree() + 4 * 8, child);
            },
            &["error: /: radix-key: at 0x452000: found 0x20000000000000, expected keys of 53 bits"],
        ),
        case(
            "18: a block beyond all memory",
            5,
            |m| m.key(1 << 52 | 1 << 47, true),
            &[
                "error: /: radix-key: at 0x2003000: found 0x10800000000000, expected keys of blocks below page 0x800000000000, of order 46 at most",
            ],
        ),
        case(
            "18: a child that is no page",
            5,
            |m| {
                let at = m.way(key(ROOT, 0))[2] + 8 * 100;
                m.set(at, 0x44_9008);
            },
            &["error: /: unaligned: entry 100 at 0x44a000: found 0x449008, expected a multiple of 0x1000"],
        ),
        case(
            "1: a child by page number",
            0,
            |m| {
                let way = m.way(key(ROOT, 0));
                m.set(way[0] + 8 * 2, way[1] >> 12);
            },
            &["error: /: unaligned: entry 2 at 0x452000: found 0x449, expected a multiple of 0x1000"],
        ),
        case(
            "18: a child that is not in the memory",
            5,
            |m| m.set(m.tree() + 8, 0x7ff0_0000),
            &[
                "error: /: outside: entry 1 at 0x452000: found 0x7ff00000, expected a page of the memory that was handed over",
            ],
        ).changing(&["kho_test"]),
        case(
            "18: a node that is its own ancestor",
            5,
            |m| {
                let way = m.way(key(ROOT, 0));
                m.set(way[3] + 8 * 200, way[1]);
            },
            &["error: /: radix-shared: entry 200 at 0x44b000: found 0x449000, expected a page with one parent"],
        ),
        case(
            "18: the root as a child",
            5,
            |m| m.set(m.tree(), m.tree()),
            &["error: /: radix-shared: entry 0 at 0x452000: found 0x452000, expected a page with one parent"],
        ).changing(&["kho_test", "memblock"]),
        case(
            "18: nodes that all their parents share",
            5,
            |m| {
                // Of five levels of 512 entries each: 2^45 ways to one leaf.
                let levels: Vec<u64> = (0..5).map(|_| m.page()).collect();
                for pair in levels.windows(2) {
                    (0..512).for_each(|entry| m.set(pair[0] + 8 * entry, pair[1]));
                }
                m.set(m.tree(), levels[0]);
            },
            &["error: /: radix-shared: entry 1 at 0x2003000: found 0x2004000, expected a page with one parent"],
        ).changing(&["kho_test", "memblock"]),
        case(
            "18: a leaf in two places",
            5,
            |m| {
                let way = m.way(key(ROOT, 0));
                m.set(way[4] + 8 * 300, way[5]);
            },
            &["error: /: radix-shared: entry 300 at 0x44c000: found 0x44d000, expected a page with one parent"],
        ),
        case(
            "6: a tree of one level too few",
            0,
            |m| {
                // Written with five levels instead of six: what should be the second level is the root.
                let second = m.way(key(ROOT, 0))[1];
                m.set(m.property(ROOT, "/", "preserved-memory-map"), second);
            },
            &["error: /: unaligned: entry 17 at 0x44d000: found 0x4100, expected a multiple of 0x1000"],
        ),
        case(
            "18: nodes and leaves of zeros, as unpreserving leaves them",
            5,
            |m| {
                let page = m.kept();
                m.unpreserve(page, 0);
                m.way(key(1 << 40, 3));
            },
            &[],
        ),
        case(
            "7: a page in two blocks",
            5,
            |m| m.preserve(TWO & !0x1fff, 1),
            &["error: /: preserved-twice: at 0x69a000: found blocks of order 0 and of order 1, expected one block"],
        ),
        case(
            "24: a page of the tree that is preserved",
            5,
            |m| {
                let leaf = m.way(key(ROOT, 0))[5];
                m.preserve(leaf, 0);
            },
            &["error: /: owned-twice: at 0x44d000: a page of the tree, which is preserved in pfn 0x44d order 0"],
        ),
        case(
            "a page of the tree that is not in the dump",
            0,
            |m| {
                let leaf = m.way(key(ROOT, 0))[5];
                m.lose(leaf);
            },
            &[
                "error: /: outside: entry 0 at 0x44c000: found 0x44d000, expected a page of the memory that was handed over",
            ],
        ),
    ]);
}
