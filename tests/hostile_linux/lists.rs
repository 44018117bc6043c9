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
        case("11: a list of sessions that is its own end", 5, |m| m.set(SESSIONS, SESSIONS), &[]),
        case(
            "11: a list of two blocks that returns",
            5,
            |m| {
                let block = second_block(m);
                m.set(block, SESSIONS);
            },
            &[],
        ),
        case("11: no session in the only block", 5, |m| m.set(SESSIONS + 8, 0), &[]),
        case("11: more sessions than a block holds", 5, |m| m.set(SESSIONS + 8, 52), &[]),
        case(
            "11: an empty last block, as Linux 7.2 leaves it",
            5,
            |m| {
                let block = second_block(m);
                m.set(block + 8, 0);
            },
            &[],
        ),
        case("11: a block that is no page", 5, |m| m.set(SESSIONS, 0x69_4008), &[]),
        case(
            "11: a block that nobody preserved",
            5,
            |m| {
                let block = second_block(m);
                m.unpreserve(block, 0);
            },
            &[],
        ),
        case("11: a block that is not in the memory", 5, |m| m.set(SESSIONS, 0x7ff0_0000), &[]),
        case(
            "11: a block preserved in a larger one",
            5,
            |m| {
                let block = second_block(m);
                m.unpreserve(block, 0);
                m.preserve(block & !0x1fff, 1);
            },
            &[],
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
            &[],
        ),
        case(
            "11: files in a list that returns",
            5,
            |m| {
                let files = m.get(m.session(0) + 64);
                m.set(files, files);
            },
            &[],
        ),
        case("12: more files than the blocks have", 5, |m| m.set(m.session(0) + 72, 5), &[]),
        case("12: fewer files than the blocks have", 5, |m| m.set(m.session(0) + 72, 3), &[]),
        case("12: files without a block", 5, |m| m.set(m.session(0) + 64, 0), &[]),
        case("12: a block without files", 5, |m| m.set(m.session(1) + 72, 0), &[]),
        case("12: so many files that nothing could hold them", 5, |m| m.set(m.session(0) + 72, u64::MAX), &[]),
        case(
            "24: two sessions with one block of files",
            5,
            |m| {
                let files = m.get(m.session(0) + 64);
                m.set(m.session(1) + 64, files);
                m.set(m.session(1) + 72, 4);
            },
            &[],
        ),
        case("24: the files of a session in the block of the sessions", 5, |m| m.set(m.session(1) + 64, SESSIONS), &[]),
    ]);
}

#[test]
fn the_head() {
    holds(&[
        case("a newer version", 5, |m| m.poke(HEAD, b"luo-v6"), &[]),
        case("an older version", 5, |m| m.poke(HEAD, b"luo-v4"), &[]),
        case("no version", 5, |m| m.poke(HEAD, &[0; 8]), &[]),
        case("another structure", 5, |m| m.poke(HEAD, b"kho-v4\0\0"), &[]),
        case("a version and more", 5, |m| m.poke(HEAD, b"luo-v5\0!"), &[]),
        case("a blob that is too short", 5, |m| m.set(m.property(ROOT, "LUO", "blob-size"), 31), &[]),
        case("a blob that leaves its page", 5, |m| m.set(m.property(ROOT, "LUO", "blob-size"), 4097), &[]),
        case("1: sessions by page number", 5, |m| m.set(HEAD + 16, SESSIONS >> 12), &[]),
        case("sessions inside a page", 5, |m| m.set(HEAD + 16, SESSIONS + 16), &[]),
        case(
            "13: a device tree where the head should be",
            5,
            |m| {
                let tree = m.bytes(MEMBLOCK, 210).to_vec();
                m.poke(HEAD, &tree);
            },
            &[],
        ),
        case("24: the list of sessions in the page of the head", 5, |m| m.set(HEAD + 16, HEAD), &[]),
        case("24: the list of globals in the page of the head", 5, |m| m.set(HEAD + 24, HEAD), &[]),
        case(
            "24: the blob of two nodes",
            5,
            |m| m.set(m.property(ROOT, "kexec-metadata", "preserved-data"), HEAD),
            &[],
        ),
    ]);
}

#[test]
fn names() {
    holds(&[
        case("14: a session without a name", 5, |m| m.poke(m.session(0), &[0; 64]), &[]),
        case("14: two sessions of one name", 5, |m| m.poke(m.session(1), b"vm-session\0"), &[]),
        case("14: a name that does not end", 5, |m| m.poke(m.session(1), &[b'x'; 64]), &[]),
        case("14: a handler that does not end", 5, |m| m.poke(m.file(0, 1), &[b'x'; 48]), &[]),
        case("14: a file without a handler", 5, |m| m.poke(m.file(0, 1), &[0; 48]), &[]),
        case("14: a handler that is no text", 5, |m| m.poke(m.file(0, 1), b"\xff\xfe"), &[]),
        case("14: a global without a name", 5, |m| m.poke(FLBS + 16, &[0; 48]), &[]),
        case("14: two globals of one name", 5, |m| m.poke(FLBS + 16 + 64, b"liveupdate-test-flb-v0"), &[]),
        case("14: a global whose name does not end", 5, |m| m.poke(FLBS + 16, &[b'f'; 48]), &[]),
        case("15: more globals than their page holds", 5, |m| m.set(FLBS + 8, 64), &[]),
        case("15: so many globals that it wraps", 5, |m| m.set(FLBS + 8, u64::MAX), &[]),
        case("15: more globals than there are", 5, |m| m.set(FLBS + 8, 4), &[]),
        case("15: globals on more than one page", 5, |m| m.set(FLBS, 2), &[]),
        case("a global that no file uses", 5, |m| m.set(FLBS + 16 + 56, 0), &[]),
        case("globals inside a page", 5, |m| m.set(HEAD + 24, FLBS + 8), &[]),
        case("globals that nobody preserved", 5, |m| m.unpreserve(FLBS, 0), &[]),
        case("two files under one token", 5, |m| m.set(m.file(0, 1) + 56, 0xabc), &[]),
        case("a file of another version", 5, |m| m.poke(m.file(0, 1), b"memfd-v3"), &[]),
        case("a file of a handler that nobody here knows", 4, |m| m.poke(m.file(0, 1), b"vfio-pci-v1"), &[]),
    ]);
}
