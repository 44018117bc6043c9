//! Sessions, files and globals: block sets, counts, names.

use super::machine::*;
use super::{case, holds};

/// A block of one session without files behind the real one; its address.
fn second_block(m: &mut Machine) -> u64 {
    let block = m.kept();
    m.set(SESSIONS, block);
    m.set(block + 8, 1);
    m.poke(block + 16, b"third");
    block
}

#[test]
fn block_sets() {
    holds(&[
        case(
            "11: a list of sessions that is its own end",
            5,
            |m| m.set(SESSIONS, SESSIONS),
            &[
                "error: /LUO: list-cycle: sessions.next at 0x694000: found 0x694000, expected a page that this list has not had",
            ],
        ),
        case(
            "11: a list of two blocks that returns",
            5,
            |m| {
                let block = second_block(m);
                m.set(block, SESSIONS);
            },
            &[
                "error: /LUO: list-cycle: sessions.next at 0x2000000: found 0x694000, expected a page that this list has not had",
            ],
        ),
        case(
            "11: no session in the only block",
            0,
            |m| m.set(SESSIONS + 8, 0),
            &["error: /LUO: block-count: sessions.count at 0x694000: found 0, expected 1..=51"],
        ),
        case(
            "11: more sessions than a block holds",
            0,
            |m| m.set(SESSIONS + 8, 52),
            &["error: /LUO: block-count: sessions.count at 0x694000: found 52, expected 1..=51"],
        ),
        case(
            "11: an empty last block, as Linux 7.2 leaves it",
            5,
            |m| {
                let block = second_block(m);
                m.set(block + 8, 0);
            },
            &["error: /LUO: block-count: sessions.count at 0x2000000: found 0, expected 1..=51"],
        ),
        case(
            "11: a block that is no page",
            5,
            |m| m.set(SESSIONS, 0x69_4008),
            &["error: /LUO: unaligned: sessions.next at 0x694000: found 0x694008, expected a multiple of 0x1000"],
        ),
        case(
            "11: a block that nobody preserved",
            5,
            |m| {
                let block = second_block(m);
                m.unpreserve(block, 0);
            },
            &["error: /LUO: not-preserved: sessions at 0x2000000: 0x1000 bytes that nobody preserved"],
        ),
        case(
            "11: a block that is not in the memory",
            5,
            |m| m.set(SESSIONS, 0x7ff0_0000),
            &["error: /LUO: not-preserved: sessions at 0x7ff00000: 0x1000 bytes that nobody preserved"],
        ),
        case(
            "11: a block preserved in a larger one",
            5,
            |m| {
                let block = second_block(m);
                m.unpreserve(block, 0);
                m.preserve(block & !0x1fff, 1);
            },
            &[
                "error: /LUO: preserved-otherwise: sessions at 0x2000000: found preserved as pfn 0x2000 order 1, expected pfn 0x2000 order 0",
            ],
        ),
        case(
            "11: more than 10,000 blocks",
            5,
            |m| {
                let mut last = SESSIONS;
                for number in 0..10_000_u64 {
                    let block = m.kept();
                    m.set(last, block);
                    m.set(block + 8, 1);
                    m.poke(block + 16, number.to_string().as_bytes());
                    last = block;
                }
            },
            &["error: /LUO: list-long: sessions.next at 0x470e000: found 0x470f000, expected an end after 10000 pages"],
        ),
        case(
            "11: files in a list that returns",
            5,
            |m| {
                let files = m.get(m.session(0) + 64);
                m.set(files, files);
            },
            &[
                "error: /LUO: list-cycle: sessions[vm-session].next at 0x695000: found 0x695000, expected a page that this list has not had",
            ],
        ),
        case(
            "12: more files than the blocks have",
            5,
            |m| m.set(m.session(0) + 72, 5),
            &["error: /LUO: block-count: sessions[vm-session].count at 0x694010: found 5, expected 4"],
        ),
        case(
            "12: fewer files than the blocks have",
            5,
            |m| m.set(m.session(0) + 72, 3),
            &["error: /LUO: block-count: sessions[vm-session].count at 0x694010: found 3, expected at least 4"],
        ),
        case(
            "12: files without a block",
            1,
            |m| m.set(m.session(0) + 64, 0),
            &["error: /LUO: block-count: sessions[vm-session].count at 0x694010: found 4, expected 0"],
        ),
        case(
            "12: a block without files",
            5,
            |m| m.set(m.session(1) + 72, 0),
            &["error: /LUO: block-count: sessions[second].count at 0x694060: found 0, expected at least 1"],
        ),
        case(
            "12: so many files that nothing could hold them",
            5,
            |m| m.set(m.session(0) + 72, u64::MAX),
            &[
                "error: /LUO: block-count: sessions[vm-session].count at 0x694010: found 18446744073709551615, expected 4",
            ],
        ),
        case(
            "24: two sessions with one block of files",
            4,
            |m| {
                let files = m.get(m.session(0) + 64);
                m.set(m.session(1) + 64, files);
                m.set(m.session(1) + 72, 4);
            },
            &[
                "error: /LUO: owned-twice: sessions[second].first at 0x694060: found 0x695000, expected a page that nothing else has",
            ],
        ),
        case(
            "24: the files of a session in the block of the sessions",
            4,
            |m| m.set(m.session(1) + 64, SESSIONS),
            &[
                "error: /LUO: owned-twice: sessions[second].first at 0x694060: found 0x694000, expected a page that nothing else has",
            ],
        ),
    ]);
}

#[test]
fn the_head() {
    holds(&[
        case(
            "a newer version",
            0,
            |m| m.poke(HEAD, b"luo-v6"),
            &["error: /LUO: version-newer: compatible at 0x668000: found luo-v6, expected luo-v5"],
        ),
        case(
            "an older version",
            0,
            |m| m.poke(HEAD, b"luo-v4"),
            &["error: /LUO: version-older: compatible at 0x668000: found luo-v4, expected luo-v5"],
        ),
        case(
            "no version",
            0,
            |m| m.poke(HEAD, &[0; 8]),
            &["error: /LUO: compat-missing: compatible at 0x668000: found an empty string, expected luo-v5"],
        ),
        case(
            "another structure",
            0,
            |m| m.poke(HEAD, b"kho-v4\0\0"),
            &[
                "error: /LUO: component-unknown: compatible at 0x668000: found kho-v4, expected a component that this reader knows",
            ],
        ),
        case(
            "a version and more",
            0,
            |m| m.poke(HEAD, b"luo-v5\0!"),
            &["error: /LUO: compat-syntax: compatible at 0x668000: found \"luo-v5\\x00!\", expected luo-v5 and zeros"],
        ),
        case(
            "a blob that is too short",
            0,
            |m| m.set(m.property(ROOT, "LUO", "blob-size"), 31),
            &["error: /LUO: truncated: blob-size at 0x668000: found 31, expected at least 32 (Head)"],
        ),
        case(
            "a blob that leaves its page",
            0,
            |m| m.set(m.property(ROOT, "LUO", "blob-size"), 4097),
            &[
                "error: /LUO: preserved-otherwise: preserved-data at 0x668000: found 0x668000..0x669001, which leaves its block 0x668000..0x669000, expected a blob in one preserved block",
            ],
        ),
        case(
            "1: sessions by page number",
            0,
            |m| m.set(HEAD + 16, SESSIONS >> 12),
            &["error: /LUO: unaligned: sessions.first at 0x668000: found 0x694, expected a multiple of 0x1000"],
        ),
        case(
            "sessions inside a page",
            0,
            |m| m.set(HEAD + 16, SESSIONS + 16),
            &["error: /LUO: unaligned: sessions.first at 0x668000: found 0x694010, expected a multiple of 0x1000"],
        ),
        case(
            "13: a device tree where the head should be",
            0,
            |m| {
                let tree = m.bytes(MEMBLOCK, 210).to_vec();
                m.poke(HEAD, &tree);
            },
            &["error: /LUO: compat-syntax: compatible at 0x668000: found \"\\xd0\\r\\xfe\\xed\", expected luo-v5"],
        ),
        case(
            "24: the list of sessions in the page of the head",
            0,
            |m| m.set(HEAD + 16, HEAD),
            &[
                "error: /LUO: owned-twice: sessions.first at 0x668000: found 0x668000, expected a page that nothing else has",
            ],
        ),
        case(
            "24: the list of globals in the page of the head",
            5,
            |m| m.set(HEAD + 24, HEAD),
            &["error: /LUO: owned-twice: flbs at 0x668000: 0x668000..0x669000, of which /LUO owns a page"],
        ),
        case(
            "24: the blob of two nodes",
            5,
            |m| m.set(m.property(ROOT, "kexec-metadata", "preserved-data"), HEAD),
            &["error: /kexec-metadata: owned-twice: at 0x668000: 0x668000..0x669000, of which /LUO owns a page"],
        ),
    ]);
}

#[test]
fn names() {
    holds(&[
        case(
            "14: a session without a name",
            5,
            |m| m.poke(m.session(0), &[0; 64]),
            &["error: /LUO: text: sessions[0].name at 0x694010: found an empty name, expected at least one byte"],
        ),
        case(
            "14: two sessions of one name",
            5,
            |m| m.poke(m.session(1), b"vm-session\0"),
            &["error: /LUO: name-duplicate: sessions[vm-session].name at 0x694060: a second session of that name"],
        ),
        case(
            "14: a name that does not end",
            5,
            |m| m.poke(m.session(1), &[b'x'; 64]),
            &[
                "error: /LUO: text: sessions[1].name at 0x694060: found \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\", without a zero, expected a zero within 64 bytes",
            ],
        ),
        case(
            "14: a handler that does not end",
            4,
            |m| m.poke(m.file(0, 1), &[b'x'; 48]),
            &[
                "error: /LUO: text: sessions[vm-session].files[0x2].compatible at 0x695050: found \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\", without a zero, expected a zero within 48 bytes",
            ],
        ),
        case(
            "14: a file without a handler",
            4,
            |m| m.poke(m.file(0, 1), &[0; 48]),
            &["error: /LUO: compat-missing: sessions[vm-session].files[0x2].compatible at 0x695050: an empty string"],
        ),
        case(
            "14: a handler that is no text",
            4,
            |m| m.poke(m.file(0, 1), b"\xff\xfe"),
            &[
                "error: /LUO: text: sessions[vm-session].files[0x2].compatible at 0x695050: found \"\\xff\\xfemfd-v2\", expected UTF-8",
            ],
        ),
        case(
            "14: a global without a name",
            5,
            |m| m.poke(FLBS + 16, &[0; 48]),
            &["error: /LUO: text: flbs[0].name at 0x667010: found an empty name, expected at least one byte"],
        ),
        case(
            "14: two globals of one name",
            5,
            |m| m.poke(FLBS + 16 + 64, b"liveupdate-test-flb-v0"),
            &["error: /LUO: name-duplicate: flbs[1].name at 0x667050: a second global liveupdate-test-flb-v0"],
        ),
        case(
            "14: a global whose name does not end",
            5,
            |m| m.poke(FLBS + 16, &[b'f'; 48]),
            &[
                "error: /LUO: text: flbs[0].name at 0x667010: found \"ffffffffffffffffffffffffffffffffffffffffffffffff\", without a zero, expected a zero within 48 bytes",
            ],
        ),
        case(
            "15: more globals than their page holds",
            5,
            |m| m.set(FLBS + 8, 64),
            &["error: /LUO: block-count: flbs.count at 0x667000: found 64, expected at most 63"],
        ),
        case(
            "15: so many globals that it wraps",
            5,
            |m| m.set(FLBS + 8, u64::MAX),
            &["error: /LUO: block-count: flbs.count at 0x667000: found 18446744073709551615, expected at most 63"],
        ),
        case(
            "15: more globals than there are",
            5,
            |m| m.set(FLBS + 8, 4),
            &["error: /LUO: text: flbs[3].name at 0x6670d0: found an empty name, expected at least one byte"],
        ),
        case("15: globals on more than one page", 5, |m| m.set(FLBS, 2), &[]),
        case(
            "a global that no file uses",
            5,
            |m| m.set(FLBS + 16 + 56, 0),
            &["error: /LUO: block-count: flbs[0].count at 0x667010: found 0, expected at least one file"],
        ),
        case(
            "globals inside a page",
            5,
            |m| m.set(HEAD + 24, FLBS + 8),
            &[
                "error: /LUO: unaligned: flbs at 0x668000: found 0x667008, expected the address of a page of its own, below 2^47 pages",
            ],
        ),
        case(
            "globals that nobody preserved",
            5,
            |m| m.unpreserve(FLBS, 0),
            &["error: /LUO: not-preserved: flbs at 0x667000: pfn 0x667 order 0, which is not preserved"],
        ),
        case(
            "two files under one token",
            4,
            |m| m.set(m.file(0, 1) + 56, 0xabc),
            &[
                "error: /LUO: token-duplicate: sessions[vm-session].files[0xabc].token at 0x695050: a second file under that token",
            ],
        ),
        case(
            "a file of another version",
            4,
            |m| m.poke(m.file(0, 1), b"memfd-v3"),
            &[
                "error: /LUO: version-newer: sessions[vm-session].files[0x2].compatible at 0x695050: found memfd-v3, expected memfd-v2",
            ],
        ),
        case(
            "a file of a handler that nobody here knows",
            4,
            |m| m.poke(m.file(0, 1), b"vfio-pci-v1"),
            &["warning: /LUO: component-opaque: sessions[vm-session].files[0x2].compatible at 0x695050: vfio-pci-v1"],
        ),
    ]);
}
