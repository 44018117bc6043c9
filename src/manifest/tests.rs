//! Notes: what the compiler writes is what is read, and what anybody else writes is read or told.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::abi::manifest::{KIND_LAYOUT, KIND_NODE, READS, REQUIRED, WRITES};
use crate::compat::Compat;

const ONE: CompatList<'static> = CompatList::new(Compat::new("o", 1), &[]);
const TWO: CompatList<'static> = CompatList::new(Compat::new("o", 2), &[]);
const FOUR: CompatList<'static> = CompatList::new(Compat::new("o", 4), &[abi::block::COMPAT, abi::vmalloc::COMPAT]);
const OLD: CompatList<'static> = CompatList::new(Compat::new("old_name", 0).underscored(), &[]);
const NEWEST: CompatList<'static> = CompatList::new(Compat::new("o", u32::MAX), &[abi::vmalloc::COMPAT]);

/// A manifest without the sections, of which a program has one.
macro_rules! manifest {
    ($($entry:expr),* $(,)?) => {{
        const ENTRIES: &[Entry] = &[$($entry),*];
        static NOTE: Bytes<{ note_size(ENTRIES) }> = note(ENTRIES);
        static VERSIONS: Bytes<{ versions_size(ENTRIES) }> = versions(ENTRIES);
        Manifest::new(ENTRIES, NOTE.as_slice(), VERSIONS.as_slice())
    }};
}

fn several() -> [Manifest; 6] {
    [
        manifest![],
        manifest![both("a", &[ONE])],
        manifest![both("a", &[TWO, ONE]), reads("b", &[OLD]).optional(), writes("c", &[FOUR, TWO, ONE])],
        manifest![layout(Reads::since(1, Compat::new("vmalloc", 2))), both("a", &[FOUR])],
        manifest![both("a-name-of-31-bytes-that-is-most", &[NEWEST, FOUR]).optional()],
        manifest![reads("a", &[TWO]), writes("a", &[ONE]), layout(Reads::only(Compat::new("own", 7)))],
    ]
}

#[test]
fn what_the_compiler_writes_is_what_is_read() {
    for manifest in several() {
        let found = Found::parse(manifest.note()).unwrap();
        assert_eq!(found, Found { reads: manifest.reads(), writes: manifest.writes(), passed_over: 0 });
        assert!(manifest.note().len().is_multiple_of(4) && manifest.note().as_ptr().addr().is_multiple_of(4));
        // Nothing is behind it, and nothing is missing.
        let short = manifest.note().split_last().unwrap().1;
        assert_eq!(Found::parse(short).unwrap_err().code(), Code::Truncated);
    }
}

#[test]
fn ranges_and_what_is_required_arrive() {
    let [_, _, three, ..] = several();
    let found = Found::parse(three.note()).unwrap();
    let terms = |terms: &Terms| {
        let of_nodes = terms.iter().filter(|term| !term.name().is_empty());
        let lines =
            of_nodes.map(|term| format!("{} {} {} {}", term.name(), term.made_of(), term.oldest(), term.is_required()));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(terms(&found.reads), ["a o-v2 1 true", "b old_name_v0 0 false"]);
    assert_eq!(terms(&found.writes), ["a o-v2 1 true", "c o-v4;block-v1;vmalloc-v1 4 true", "c o-v2 1 true"]);
    let layouts: Vec<String> = found.reads.layouts().iter().map(ToString::to_string).collect();
    assert_eq!(layouts, ["kho-v4", "radix-v1", "vmalloc-v1", "block-v1"]);
}

#[test]
fn the_table_of_versions_has_what_is_read_in_every_version() {
    let [none, _, three, ..] = several();
    let texts = |manifest: &Manifest| table(manifest.versions(), true).unwrap();
    assert_eq!(texts(&none), []);
    let at = |text: &str, at| (text.to_owned(), at);
    assert_eq!(texts(&three), [at("o-v2", 8), at("o-v1", 56), at("old_name_v0", 104)]);
    assert_eq!(three.versions().len(), 8 + 3 * 48);
}

#[test]
fn the_bytes_are_those_that_are_written_down() {
    let [_, one, ..] = several();
    let (header, rest) = one.note().split_at(28);
    assert_eq!(
        header,
        b"\x04\0\0\0\x88\0\0\0\x01\0\0\0kho\0\x01\0\0\0\x0c\0\0\0\x05\0\0\0",
        "{}",
        header.escape_ascii()
    );
    let (layout, rest) = rest.split_at(24);
    assert_eq!(layout, b"\x18\0\0\0\x02\0\x03\0\x04\0\0\0\0\0\x06\0kho-v4\0\0", "{}", layout.escape_ascii());
    let node = rest.rsplit_array::<24>();
    assert_eq!(node, b"\x18\0\0\0\x01\0\x07\0\x01\0\0\0\x01\0\x04\0ao-v1\0\0\0", "{}", node.escape_ascii());
}

/// The end of a slice.
trait End {
    fn rsplit_array<const N: usize>(&self) -> &[u8; N];
}

impl End for [u8] {
    fn rsplit_array<const N: usize>(&self) -> &[u8; N] {
        self.last_chunk().unwrap()
    }
}

/// A description of these entries, with a header that says so many.
fn desc(count: u32, entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [1, 12, count] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(entries.concat());
    bytes
}

fn entry_of(kind: u16, flags: u16, oldest: u32, node: &[u8], made_of: &[u8]) -> Vec<u8> {
    let size = (16 + node.len() + made_of.len()).next_multiple_of(4);
    let mut bytes = Vec::new();
    bytes.extend((size as u32).to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(oldest.to_le_bytes());
    bytes.extend((node.len() as u16).to_le_bytes());
    bytes.extend((made_of.len() as u16).to_le_bytes());
    bytes.extend(node);
    bytes.extend(made_of);
    bytes.resize(size, 0);
    bytes
}

fn node(name: &[u8], made_of: &[u8]) -> Vec<u8> {
    entry_of(KIND_NODE, READS | WRITES | REQUIRED, 0, name, made_of)
}

#[track_caller]
fn refused(desc: &[u8]) -> String {
    Found::parse_desc(desc).unwrap_err().to_string()
}

/// Of one entry.
#[track_caller]
fn refused_entry(entry: Vec<u8>) -> String {
    refused(&desc(1, &[entry]))
}

/// An entry with another number at that offset.
fn with<const N: usize>(mut entry: Vec<u8>, at: usize, number: [u8; N]) -> Vec<u8> {
    entry[at..at + N].copy_from_slice(&number);
    entry
}

#[test]
fn a_count_beyond_the_entries_is_cut() {
    let count = desc(2, &[node(b"a", b"o-v1")]);
    assert_eq!(refused(&count), "truncated: entries[1].size at offset 0x24: 0 bytes");
}

#[test]
fn a_count_beyond_all_bounds_is_refused_at_once() {
    let says = "too-large: entries: found 4294967295, expected at most 4096";
    assert_eq!(refused(&desc(u32::MAX, &[node(b"a", b"o-v1")])), says);
    let most: Vec<Vec<u8>> = (0..4096).map(|n| node(format!("n{n}").as_bytes(), b"o-v1")).collect();
    assert_eq!(Found::parse_desc(&desc(4096, &most)).unwrap().reads.names().count(), 4096);
}

/// What two programs say of one node is held against each other, each range with each.
#[test]
fn more_ranges_of_one_node_than_anybody_has_are_refused() {
    let ranges = |count: u32| {
        let entries: Vec<_> = (0..count).map(|number| node(b"n", format!("o-v{}", 2 * number).as_bytes())).collect();
        desc(count, &entries)
    };
    assert!(Found::parse_desc(&ranges(64)).is_ok());
    let says = "too-large: reads.n: found 65, expected at most 64 ranges of versions";
    assert_eq!(refused(&ranges(65)), says);
    let layouts: Vec<_> =
        (0..65).map(|n| entry_of(KIND_LAYOUT, READS, 0, b"", format!("l{n}-v1").as_bytes())).collect();
    let says = "too-large: reads.layouts: found 65, expected at most 64 ranges of versions";
    assert_eq!(refused(&desc(65, &layouts)), says);
}

#[test]
fn an_entry_of_no_size_or_less_than_its_header_is_refused() {
    for size in [0_u32, 4, 15] {
        let entry = with(node(b"a", b"o-v1"), 0, size.to_le_bytes());
        let says = format!("too-large: entries[0].size at offset 0xc: found {size}, expected at least 16");
        assert_eq!(refused_entry(entry), says);
    }
}

#[test]
fn an_entry_that_leaves_the_note_is_refused() {
    for size in [25_u32, u32::MAX] {
        let entry = with(node(b"a", b"o-v1"), 0, size.to_le_bytes());
        let says = format!("truncated: entries[0].size at offset 0xc: found 24 bytes, expected {size} bytes");
        assert_eq!(refused_entry(entry), says);
    }
    let cut = desc(1, &[node(b"a", b"o-v1")[..15].to_vec()]);
    assert_eq!(refused(&cut), "truncated: entries[0].size at offset 0xc: 15 bytes");
}

#[test]
fn texts_that_leave_their_entry_are_refused() {
    let says = "truncated: entries[0].size at offset 0xc: found 8 bytes, expected both texts in it";
    for (at, size) in [(12, 9_u16), (12, u16::MAX), (14, 8), (14, u16::MAX)] {
        assert_eq!(refused_entry(with(node(b"a", b"o-v1"), at, size.to_le_bytes())), says);
    }
}

#[test]
fn a_name_that_is_no_text_is_escaped() {
    let name = |name: &[u8]| refused_entry(node(name, b"o-v1"));
    let says = |name: &str| {
        let expected = "a letter, then letters, digits and ,._+-, at most 31";
        format!("text: entries[0].node at offset 0xc: found \"{name}\", expected {expected}")
    };
    let text = "text: entries[0].node at offset 0xc: found \"a\\xff\", expected UTF-8";
    assert_eq!(name(b"a\xff"), text);
    assert_eq!(name(b"a\x1b[31m\n"), says(r"a\x1b[31m\n"));
    assert_eq!(name(b"a/b"), says("a/b"));
    assert_eq!(name(b"a@1"), says("a@1"));
    assert_eq!(name(b"1a"), says("1a"));
    assert_eq!(name(b"a\0"), says(r"a\x00"));
    assert_eq!(name(&[b'a'; 32]), says(&"a".repeat(32)));
    let long = name(&[b'\n'; 60_000]);
    assert_eq!(long, says(&r"\n".repeat(64)).replace("\", expected", "\"... (60000 bytes), expected"));
}

#[test]
fn what_is_no_composite_is_told_where_it_breaks() {
    let list = |list: &[u8]| refused_entry(node(b"abc", list));
    let number = "expected NAME-vNUMBER";
    assert_eq!(
        list(b"o-v1;\xff-v1"),
        r#"text: entries[0].made_of at offset 0xc: found "o-v1;\xff-v1", expected UTF-8"#
    );
    let says = r#"compat-syntax: entries[0].made_of at offset 0x1f: found "\n-v1", expected NAME-vNUMBER"#;
    assert_eq!(list(b"\n-v1"), says);
    assert_eq!(list(b""), format!("compat-missing: entries[0].made_of at offset 0x1f: found an empty list, {number}"));
    let says = format!("compat-syntax: entries[0].made_of at offset 0x24: found \"l\", {number}");
    assert_eq!(list(b"o-v1;l"), says);
    let says = "compat-order: entries[0].made_of at offset 0x29: found l-v1 behind m-v1, \
                expected the entries behind the owner in ascending order of their printed strings";
    assert_eq!(list(b"o-v1;m-v1;l-v1"), says);
    // With its header, the note has 16 bytes more in front.
    let mut note = b"\x04\0\0\0\0\0\0\0\x01\0\0\0kho\0".to_vec();
    let desc = desc(1, &[node(b"abc", b"o-v1;l")]);
    note[4..8].copy_from_slice(&(desc.len() as u32).to_le_bytes());
    note.extend(desc);
    let says = format!("compat-syntax: entries[0].made_of at offset 0x34: found \"l\", {number}");
    assert_eq!(Found::parse(&note).unwrap_err().to_string(), says);
}

#[test]
fn a_huge_text_makes_a_short_message() {
    let name = format!("{}-v1", "n".repeat(60_000));
    let says = refused_entry(entry_of(KIND_NODE, READS, 2, b"a", name.as_bytes()));
    let short = format!("{}-v1 (name cut from 60000 bytes)", "n".repeat(64));
    let expected =
        format!("too-large: entries[0].oldest at offset 0xc: found 2, expected at most 1, the version of {short}");
    assert_eq!(says, expected);
    assert!(refused_entry(node(b"a", &[0xff; 60_000])).ends_with(r#"\xff"... (60000 bytes), expected UTF-8"#));
}

#[test]
fn an_oldest_version_above_the_newest_is_refused() {
    let says = "too-large: entries[0].oldest at offset 0xc: found 3, expected at most 2, the version of o-v2";
    assert_eq!(refused_entry(entry_of(KIND_NODE, READS, 3, b"a", b"o-v2;l-v9")), says);
}

#[test]
fn a_node_has_a_name_and_a_layout_has_none_and_uses_nothing() {
    let says = |name: &str| {
        let expected = "expected a name for a node, none for a layout";
        format!("text: entries[0].node at offset 0xc: found \"{name}\", {expected}")
    };
    assert_eq!(refused_entry(node(b"", b"o-v1")), says(""));
    assert_eq!(refused_entry(entry_of(KIND_LAYOUT, READS, 1, b"a", b"o-v1")), says("a"));
    let says =
        "component-unlisted: entries[0].made_of at offset 0xc: found \"o-v1;l-v1\", expected the layout o-v1 alone";
    assert_eq!(refused_entry(entry_of(KIND_LAYOUT, READS, 1, b"", b"o-v1;l-v1")), says);
}

#[test]
fn unknown_kinds_are_passed_over_and_counted() {
    let odd = entry_of(77, u16::MAX, 9, b"\xff\n", b"what is this");
    let found =
        Found::parse_desc(&desc(4, &[odd.clone(), node(b"a", b"o-v1"), odd, entry_of(0, 0, 0, b"", b"")])).unwrap();
    assert_eq!((found.passed_over, found.reads.names().collect::<Vec<_>>()), (3, alloc::vec!["a"]));
}

#[test]
fn longer_headers_and_entries_and_further_flags_are_read_as_far_as_they_are_known() {
    let mut longer = entry_of(KIND_NODE, 0xfff0 | READS, 1, b"a", b"o-v2");
    longer.extend(b"from the future!");
    let size = longer.len() as u32;
    let longer = with(longer, 0, size.to_le_bytes());
    let mut bytes = desc(2, &[]);
    bytes[4..8].copy_from_slice(&20_u32.to_le_bytes());
    bytes.extend(b"8 bytes.");
    bytes.extend([longer, node(b"b", b"o-v1")].concat());
    bytes.extend(b"and what comes behind all entries");
    let found = Found::parse_desc(&bytes).unwrap();
    let term = Term::parse("a", "o-v2", 1, false).unwrap();
    assert_eq!(found.reads.iter().next(), Some(&term));
    assert_eq!(found.writes.names().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    for size in [0_u32, 11] {
        let bytes = with(desc(0, &[]), 4, size.to_le_bytes());
        assert_eq!(refused(&bytes), format!("too-large: size: found {size}, expected at least 12"));
    }
    assert_eq!(refused(&with(desc(0, &[]), 4, u32::MAX.to_le_bytes())), "truncated: manifest: 12");
    assert_eq!(refused(&desc(0, &[])[..11]), "truncated: manifest: 11");
    assert_eq!(refused(b""), "truncated: manifest: 0");
}

#[test]
fn a_note_of_another_version_is_a_mismatch_and_nothing_of_it_is_read() {
    for (version, says) in [
        (2_u32, "version-newer: version: found kho-manifest-v2, expected kho-manifest-v1"),
        (u32::MAX, "version-newer: version: found kho-manifest-v4294967295, expected kho-manifest-v1"),
        (0, "version-older: version: found kho-manifest-v0, expected kho-manifest-v1"),
    ] {
        let mut bytes = with(desc(u32::MAX, &[]), 0, version.to_le_bytes());
        bytes.extend([0xff; 100]);
        assert_eq!(refused(&bytes), says);
    }
}

#[test]
fn a_note_beyond_the_limit_is_refused() {
    let mut bytes = desc(0, &[]);
    bytes.resize(1 << 20, 0);
    assert_eq!(Found::parse_desc(&bytes).unwrap(), Found::default());
    bytes.push(0);
    assert_eq!(refused(&bytes), "too-large: desc_size: found 1048577, expected at most 1048576");
}

#[test]
fn another_note_is_told_as_what_it_is() {
    let [_, one, ..] = several();
    let said = |at: usize, byte: u8| {
        let mut note = one.note().to_vec();
        note[at] = byte;
        Found::parse(&note).map_err(|fault| fault.to_string())
    };
    assert_eq!(said(12, b'g').unwrap_err(), r#"magic: note: found "gho\x00" of type 1, expected "kho\x00" of type 1"#);
    assert_eq!(said(8, 9).unwrap_err(), r#"magic: note: found "kho\x00" of type 9, expected "kho\x00" of type 1"#);
    assert!(said(0, 5).is_err());
    assert_eq!(said(4, 0xff).unwrap_err(), "truncated: desc_size: found 152, expected 255 and more");
}

#[test]
fn names_that_no_node_can_have_do_not_compile() {
    assert!(is_node_name(b"a") && is_node_name(b"Az09,._+-") && is_node_name(&[b'a'; 31]));
    for name in [&b""[..], b"0", b"-a", b"a b", b"a/b", b"a@1", b"a\n", b"a\xff", &[b'a'; 32]] {
        assert!(!is_node_name(name), "{}", name.escape_ascii());
        // The rule is that of handovers.
        let text = String::from_utf8_lossy(name);
        assert!(crate::fdt::check_node_name(&text).is_err(), "{text}");
    }
}

/// A note of many kinds of entries.
fn real() -> Vec<u8> {
    several().iter().flat_map(|manifest| manifest.note().to_vec()).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_manifest(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Found::parse(&bytes);
        let _ = Found::parse_desc(&bytes);
        let _ = (table(&bytes, true), table(&bytes, false));
    }

    #[test]
    fn flipped_bytes_are_an_error_or_a_manifest(
        which in 0_usize..6, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = several()[which].note().to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        match Found::parse(&bytes) {
            // All that was taken can be compared and printed.
            Ok(found) => {
                let agreement = crate::compat::negotiate(&found.writes, &found.reads);
                prop_assert!(agreement.nodes.len() <= 8);
                prop_assert!(found.reads.iter().all(|term| term.name().is_empty() || is_node_name(term.name().as_bytes())));
            }
            Err(fault) => prop_assert!(fault.to_string().chars().all(|c| !c.is_control())),
        }
    }

    #[test]
    fn any_entries_are_read_or_told(
        entries in prop::collection::vec((0..4_u16, any::<u16>(), 0..4_u32, "[a-c\n]{0,3}", "([a-c]-v[0-3];){0,2}[a-c]-v[0-3]"), 0..5),
        count in 0..6_u32,
    ) {
        let entries: Vec<Vec<u8>> = entries
            .iter()
            .map(|(kind, flags, oldest, node, made)| entry_of(*kind, *flags, *oldest, node.as_bytes(), made.as_bytes()))
            .collect();
        if let Ok(found) = Found::parse_desc(&desc(count, &entries)) {
            prop_assert!(count as usize <= entries.len() && found.passed_over <= u64::from(count));
        }
    }
}

#[test]
fn every_prefix_of_a_note_is_cut() {
    let [_, _, three, ..] = several();
    for len in 0..three.note().len() {
        assert_eq!(Found::parse(&three.note()[..len]).unwrap_err().code(), Code::Truncated, "{len}");
    }
    assert!(real().len() > 500);
}
