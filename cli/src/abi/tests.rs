//! Hostile BTF: an error, never a panic, in bounded time and memory.

use proptest::prelude::*;

use super::btf::extract;

/// A header, types and strings, little-endian.
fn btf(types: &[u32], strings: &[u8]) -> Vec<u8> {
    let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
    let lengths = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    bytes.extend(lengths.iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}

const STRUCT: u32 = 4 << 24;
const TYPEDEF: u32 = 8 << 24;
const ARRAY: u32 = 3 << 24;
const INT: u32 = 1 << 24;

/// `struct luo_ser { x a; ... }`, of that many members of the type 2.
fn of(members: u32, second: &[u32]) -> Vec<u8> {
    let mut types = vec![1, STRUCT | members, 8];
    types.extend((0..members).flat_map(|_| [9, 2, 0]));
    types.extend(second);
    btf(&types, b"\0luo_ser\0a\0")
}

fn refused(bytes: &[u8]) -> String {
    extract(bytes).map(|_| ()).unwrap_err()
}

#[test]
fn one_number() {
    let found = extract(&of(1, &[9, INT, 8, 64])).unwrap().found;
    assert_eq!(found[0].known.linux, "luo_ser");
    assert_eq!(found[0].structure.fields[0].ty, "U64");
}

#[test]
fn a_structure_that_lies_in_itself() {
    assert!(refused(&of(1, &[9, STRUCT | 1, 8, 9, 2, 0])).contains("nested without end"));
    assert!(refused(&of(1, &[9, STRUCT | 2, 8, 9, 2, 0, 9, 2, 0])).contains("nested without end"));
}

#[test]
fn a_name_for_itself() {
    assert!(refused(&of(1, &[9, TYPEDEF, 2])).contains("names for names without end"));
}

#[test]
fn an_array_of_itself_and_one_that_is_too_large() {
    assert!(refused(&of(1, &[0, ARRAY, 0, 2, 2, 9])).contains("nested without end"));
    let nested: Vec<u32> = (3..8).flat_map(|id| [0, ARRAY, 0, id, id, u32::MAX]).chain([9, INT, 8, 64]).collect();
    assert!(refused(&of(1, &nested)).contains("an array larger than memory"));
}

#[test]
fn a_tree_of_empty_structures() {
    // Each has a thousand of the next, and the last has nothing: no field is ever seen.
    let mut second = Vec::new();
    for id in 2..10 {
        second.extend([9, STRUCT | 1000, 0]);
        second.extend((0..1000).flat_map(|_| [9, id + 1, 0]));
    }
    second.extend([9, STRUCT, 0]);
    assert!(refused(&of(1, &second)).contains("larger than any structure"));
}

#[test]
fn one_long_name_for_everything() {
    let mut types = vec![1, STRUCT | 60_000, 8];
    types.extend((0..60_000).flat_map(|_| [9, 2, 0]));
    let mut strings = b"\0luo_ser\0".to_vec();
    strings.extend(vec![b'a'; 1 << 20]);
    strings.push(0);
    assert!(refused(&btf(&types, &strings)).contains("repeated without end"));
}

#[test]
fn a_type_that_is_not_there() {
    assert!(refused(&of(1, &[])).contains("a type that is not there"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = extract(&bytes);
        let _ = extract(&[&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0][..], &bytes].concat());
    }

    #[test]
    fn any_types(
        types in proptest::collection::vec(prop_oneof![0..12_u32, (0..20_u32, 0..3_u32).prop_map(|(kind, n)| kind << 24 | n), any::<u32>()], 0..60),
        first in proptest::collection::vec(0..12_u32, 3),
    ) {
        let mut all = vec![1, STRUCT | 1, 8];
        all.extend(first);
        all.extend(types);
        let _ = extract(&btf(&all, b"\0luo_ser\0a\0memfd_luo_ser\0"));
    }
}
