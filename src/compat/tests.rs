use alloc::borrow::ToOwned as _;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::report::Class;

const KHO: Compat<'static> = Compat::new("kho", 4);
const RADIX: Compat<'static> = Compat::new("radix", 1);
const VMALLOC: Compat<'static> = Compat::new("vmalloc", 1);
const ROOT: CompatList<'static> = CompatList::new(KHO, &[RADIX, VMALLOC]);

/// Code, offset, found, expected.
type Verdict = (Code, Option<u64>, String, String);

fn verdict(fault: &Fault) -> Verdict {
    (fault.code(), fault.at().offset, fault.found_text().to_owned(), fault.expected_text().to_owned())
}

fn told(code: Code, offset: Option<u64>, found: &str, expected: &str) -> Verdict {
    (code, offset, found.to_owned(), expected.to_owned())
}

fn fdt_fault(value: &[u8]) -> Verdict {
    verdict(&CompatVec::parse_fdt(value).unwrap_err())
}

fn text_fault(text: &str) -> Verdict {
    verdict(&CompatVec::parse_text(text).unwrap_err())
}

#[test]
fn every_string_seen_in_the_wild_keeps_its_spelling() {
    for (text, name, version) in [
        ("kho-v4", "kho", 4),
        ("luo-v5", "luo", 5),
        ("memfd-v2", "memfd", 2),
        ("reserve-mem-v1", "reserve-mem", 1),
        ("kho-test-v1", "kho-test", 1),
        ("vfio-pci-v1", "vfio-pci", 1),
        ("kvm_vm_luo_v1", "kvm_vm_luo", 1),
        ("guest_memfd_luo_v1", "guest_memfd_luo", 1),
        ("cpu_fh_v1", "cpu_fh", 1),
        ("mshv_kho-v1", "mshv_kho", 1),
    ] {
        let compat = Compat::parse(text).unwrap();
        assert_eq!((compat.name(), compat.version()), (name, version));
        assert_eq!(compat.to_string(), text);
        assert_eq!(compat, Compat::new(name, version));
    }
}

#[test]
fn the_version_is_what_stands_behind_the_last_mark() {
    let compat = Compat::parse("a-v1_v02-v3").unwrap();
    assert_eq!((compat.name(), compat.version()), ("a-v1_v02", 3));
    assert_eq!(Compat::parse("x-v0").unwrap().version(), 0);
    assert_eq!(Compat::parse("--v4294967295").unwrap(), Compat { name: "-", version: u32::MAX, underscore: false });
}

#[test]
fn anything_but_name_and_number_is_refused_with_the_text() {
    for text in [
        "",
        "kho",
        "kho-",
        "kho-v",
        "kho4",
        "kho-4",
        "kho.v4",
        "-v4",
        "_v4",
        "v4",
        "kho-V4",
        "kho-v04",
        "kho-v00",
        "kho-v+4",
        "kho-v-4",
        "kho-v 4",
        "kho-v4 ",
        " kho-v4",
        "kho-v4\n",
        "k o-v4",
        "k;o-v4",
        "kho-v4;",
        "kho-v0x4",
        "kho-v4.1",
        "kho-v4294967296",
        "kho-v99999999999999999999",
    ] {
        let fault = Compat::parse(text).unwrap_err();
        let quoted = format!("\"{}\"", text.escape_default());
        assert_eq!(verdict(&fault), told(Code::CompatSyntax, None, &quoted, "NAME-vNUMBER"), "{text:?}");
    }
    let fault = Compat::parse(b"kh\xc3\xb6-v1\0\x7f").unwrap_err();
    assert_eq!(fault.found_text(), r#""kh\xc3\xb6-v1\x00\x7f""#);
}

#[test]
fn a_huge_foreign_text_makes_a_short_message() {
    let bytes = alloc::vec![0xff; 1 << 20];
    let fault = Compat::parse(&bytes).unwrap_err();
    assert!(fault.found_text().ends_with(r#"\xff"... (1048576 bytes)"#), "{fault}");
    assert!(fault.to_string().len() < 400, "{fault}");

    let name = "n".repeat(1 << 20);
    let text = format!("{name}-v1;{name}-v2");
    let fault = CompatVec::parse_text(&text).unwrap_err();
    assert_eq!(fault.code(), Code::CompatOrder);
    assert!(fault.to_string().len() < 400, "{fault}");

    let long = Compat::parse(text.split(';').next().unwrap()).unwrap();
    let old = [Reads::since(3, Compat { version: 9, ..long })];
    for difference in [long.judge(&[]).unwrap_err(), long.judge(&old).unwrap_err()] {
        assert!(Fault::from(difference).to_string().len() < 400);
    }
    assert!(long.to_fixed::<48>().unwrap_err().to_string().len() < 400);
}

#[test]
fn the_spelling_is_printed_and_sorted_by_but_never_compared() {
    let (dash, underscore) = (Compat::new("cpu_fh", 1), Compat::new("cpu_fh", 1).underscored());
    assert_eq!(dash, underscore);
    let hashed = |compat: &Compat<'_>| core::hash::BuildHasher::hash_one(&foldless::State, compat);
    assert_eq!(hashed(&dash), hashed(&underscore));
    assert_eq!((dash.to_string(), underscore.to_string()), ("cpu_fh-v1".to_owned(), "cpu_fh_v1".to_owned()));
    assert_eq!(underscore.judge(&[Reads::only(dash)]), Ok(()));
    // `-` sorts before `0`, and `0` before `_`.
    assert!(CompatVec::parse_text("o-v1;a-v1;a0-v1;b_v1").is_ok());
    assert_eq!(text_fault("o-v1;a_v1;a0-v1").2, "a0-v1 behind a_v1");
}

/// The smallest hasher, because `std` may be absent.
mod foldless {
    pub(super) struct State;
    pub(super) struct Sum(u64);
    impl core::hash::BuildHasher for State {
        type Hasher = Sum;
        fn build_hasher(&self) -> Sum {
            Sum(0)
        }
    }
    impl core::hash::Hasher for Sum {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0 = bytes.iter().fold(self.0, |sum, byte| sum.wrapping_mul(257).wrapping_add(u64::from(*byte)));
        }
    }
}

#[test]
fn the_root_list_has_exactly_these_bytes() {
    assert_eq!(ROOT.to_fdt(), b"kho-v4\0radix-v1\0vmalloc-v1\0");
    assert_eq!(ROOT.to_string(), "kho-v4;radix-v1;vmalloc-v1");
    assert_eq!(CompatVec::parse_fdt(&ROOT.to_fdt()).unwrap().list(), ROOT);
    assert_eq!(CompatVec::parse_text("kho-v4;radix-v1;vmalloc-v1").unwrap().list(), ROOT);
    assert_eq!(ROOT.find("radix"), Some(RADIX));
    assert_eq!(ROOT.find("kho"), Some(KHO));
    assert_eq!(ROOT.find("block"), None);
}

#[test]
fn the_root_of_todays_linux_is_an_owner_that_lists_nothing() {
    let root = CompatVec::parse_fdt(b"kho-v4\0").unwrap();
    assert_eq!((root.list().owner(), root.list().uses()), (KHO, [].as_slice()));
}

#[test]
fn a_broken_fdt_list_is_refused_where_it_breaks() {
    let number = "NAME-vNUMBER";
    assert_eq!(fdt_fault(b""), told(Code::CompatMissing, Some(0), "an empty list", number));
    assert_eq!(fdt_fault(b"\0"), told(Code::Text, Some(0), "an empty string", number));
    assert_eq!(fdt_fault(b"kho-v4\0\0"), told(Code::Text, Some(7), "an empty string", number));
    assert_eq!(fdt_fault(b"kho-v4\0\0radix-v1\0"), told(Code::Text, Some(7), "an empty string", number));
    let zero = "a zero behind the string";
    assert_eq!(fdt_fault(b"kho-v4"), told(Code::Text, Some(0), "\"kho-v4\"", zero));
    assert_eq!(fdt_fault(b"kho-v4\0radix-v1"), told(Code::Text, Some(7), "\"radix-v1\"", zero));
    assert_eq!(fdt_fault(b"kho-v4\0radix\0"), told(Code::CompatSyntax, Some(7), "\"radix\"", number));
    assert_eq!(fdt_fault(b"kho-v4;radix-v1\0"), told(Code::CompatSyntax, Some(0), "\"kho-v4;radix-v1\"", number));
}

#[test]
fn a_broken_composite_is_refused_where_it_breaks() {
    let number = "NAME-vNUMBER";
    assert_eq!(text_fault(""), told(Code::CompatMissing, Some(0), "an empty list", number));
    assert_eq!(text_fault(";"), told(Code::Text, Some(0), "an empty string", number));
    assert_eq!(text_fault("kho-v4;"), told(Code::Text, Some(7), "an empty string", number));
    assert_eq!(text_fault("kho-v4;;radix-v1"), told(Code::Text, Some(7), "an empty string", number));
    assert_eq!(text_fault("kho-v4; radix-v1"), told(Code::CompatSyntax, Some(7), "\" radix-v1\"", number));
    assert_eq!(text_fault("kho-v4\0"), told(Code::CompatSyntax, Some(0), "\"kho-v4\\x00\"", number));
}

#[test]
fn an_unsorted_or_double_entry_is_told_with_the_one_that_it_clashes_with() {
    let order = "the entries behind the owner in ascending order of their printed strings";
    let once = "each component only once";
    let owner = "the owner only once, in front of what it uses";
    let at = |offset, found, expected| told(Code::CompatOrder, Some(offset), found, expected);
    assert_eq!(text_fault("kho-v4;vmalloc-v1;radix-v1"), at(18, "radix-v1 behind vmalloc-v1", order));
    assert_eq!(fdt_fault(b"kho-v4\0vmalloc-v1\0radix-v1\0"), at(18, "radix-v1 behind vmalloc-v1", order));
    assert_eq!(text_fault("kho-v4;radix-v1;radix-v1"), at(16, "radix-v1 behind radix-v1", once));
    assert_eq!(text_fault("kho-v4;radix-v1;radix_v1"), at(16, "radix_v1 behind radix-v1", once));
    assert_eq!(text_fault("kho-v4;radix-v1;kho-v3"), at(16, "kho-v3 behind kho-v4", owner));
    // The bytes count, not the numbers; and two of one name need not be neighbours.
    assert_eq!(text_fault("kho-v4;a-v9;b-v1;c-v1;b_v2"), at(22, "b_v2 behind b-v1", once));
    assert_eq!(text_fault("kho-v4;a-v1;a-v1-b-v1;a-v2"), at(22, "a-v2 behind a-v1", once));
    assert!(CompatVec::parse_text("z-v1;a-v10;a-w-v9").is_ok());
}

#[test]
fn the_last_entry_that_fits_is_taken_and_the_next_refused() {
    let entries = |n: usize| (0..n).map(|i| format!("c{i:02}-v1")).collect::<Vec<_>>().join(";");
    assert_eq!(CompatVec::parse_text(&entries(32)).unwrap().list().iter().count(), CompatList::MOST);
    let expected = told(Code::TooLarge, Some(32 * 7), "more than 32 entries", "at most 32");
    assert_eq!(text_fault(&entries(33)), expected);
    assert_eq!(text_fault(&entries(10_000)), expected);
}

#[test]
fn a_fixed_field_ends_at_its_first_zero_and_keeps_one() {
    let longest = Compat::parse("n1234567890123456789012345678901234567890123-v1").unwrap();
    assert_eq!(longest.to_string().len(), Compat::LONGEST);
    let field = longest.to_fixed::<48>().unwrap();
    assert_eq!((&field[..47], field[47]), (longest.to_string().as_bytes(), 0));
    assert_eq!(Compat::parse_fixed(&field).unwrap(), longest);
    assert_eq!(
        verdict(&longest.to_fixed::<47>().unwrap_err()),
        told(
            Code::Refused,
            None,
            "n1234567890123456789012345678901234567890123-v1, 47 bytes",
            "a string and its zero in 47 bytes"
        )
    );
    assert!(KHO.to_fixed::<0>().is_err());

    assert_eq!(Compat::parse_fixed(b"memfd-v2\0rest\xff").unwrap(), Compat::new("memfd", 2));
    let fault = |field| verdict(&Compat::parse_fixed(field).unwrap_err());
    assert_eq!(fault(b"luo-v5xx"), told(Code::Text, None, "\"luo-v5xx\"", "a zero within 8 bytes"));
    assert_eq!(fault(b""), told(Code::Text, None, "\"\"", "a zero within 0 bytes"));
    assert_eq!(fault(b"\0luo-v5\0"), told(Code::CompatMissing, None, "an empty string", "NAME-vNUMBER"));
    assert_eq!(fault(b"luo\0\0\0\0\0"), told(Code::CompatSyntax, None, "\"luo\"", "NAME-vNUMBER"));
}

#[test]
fn a_version_outside_the_range_is_older_or_newer_and_never_corrupt() {
    let reads = [Reads::since(2, Compat::new("memfd", 4)), Reads::only(RADIX)];
    let told = |version| verdict(&Compat::new("memfd", version).judge(&reads).unwrap_err().into());
    assert_eq!(told(1), self::told(Code::VersionOlder, None, "memfd-v1", "memfd-v2..=v4"));
    assert_eq!(told(5), self::told(Code::VersionNewer, None, "memfd-v5", "memfd-v2..=v4"));
    (2..=4).for_each(|version| assert_eq!(Compat::new("memfd", version).judge(&reads), Ok(())));
    assert_eq!(
        verdict(&Compat::new("block", 1).judge(&reads).unwrap_err().into()),
        self::told(Code::ComponentUnknown, None, "block-v1", "a component that this reader knows")
    );
    assert_eq!(Reads::since(7, RADIX), Reads::only(RADIX));
}

#[test]
fn a_version_in_a_gap_is_told_against_the_newest_range() {
    let compat = |version| Compat::new("memfd", version);
    let new = Reads::since(5, compat(6));
    for reads in [[Reads::since(1, compat(2)), new], [new, Reads::since(1, compat(2))]] {
        for version in [1, 2, 5, 6] {
            assert_eq!(compat(version).judge(&reads), Ok(()));
        }
        let (gap, next) = (compat(3), compat(7));
        assert_eq!(gap.judge(&reads), Err(Difference::Older { found: gap, expected: new }));
        assert_eq!(next.judge(&reads), Err(Difference::Newer { found: next, expected: new }));
    }
}

#[test]
fn every_difference_between_two_composites_is_told_in_order() {
    let reads = [Reads::only(Compat::new("block", 1)), Reads::since(2, Compat::new("memfd", 3))];
    let expected = CompatVec::parse_text("kho-v4;files-v1;memfd-v3;radix-v1;vmalloc-v2;z-v1").unwrap();
    let found = CompatVec::parse_text("kho-v4;block-v1;memfd-v1;pci-v1;radix-v2;vmalloc-v1").unwrap();
    let faults: Vec<String> = found
        .list()
        .differences(expected.list(), &reads)
        .into_iter()
        .map(|difference| Fault::from(difference).to_string())
        .collect();
    assert_eq!(
        faults,
        [
            "component-unlisted: found block-v1, expected no such component here",
            "version-older: found memfd-v1, expected memfd-v2..=v3",
            "component-unknown: found pci-v1, expected a component that this reader knows",
            "version-newer: found radix-v2, expected radix-v1",
            "version-older: found vmalloc-v1, expected vmalloc-v2",
            "component-unlisted: found no such component here, expected files-v1",
            "component-unlisted: found no such component here, expected z-v1",
        ]
    );
    assert_eq!(expected.list().differences(expected.list(), &[]), []);
}

#[test]
fn an_extra_component_that_nobody_reads_in_that_version_is_told_by_its_version() {
    let reads = [Reads::only(Compat::new("block", 1))];
    let found = CompatVec::parse_text("kho-v4;block-v2").unwrap();
    let block = Compat::new("block", 2);
    let expected = CompatList::new(KHO, &[]);
    assert_eq!(found.list().differences(expected, &reads), [Difference::Newer { found: block, expected: reads[0] }]);
}

#[test]
fn another_owner_in_front_of_the_expected_one_is_told() {
    let found = CompatVec::parse_text("radix-v1;kho-v4").unwrap();
    let differences = found.list().differences(CompatList::new(KHO, &[RADIX]), &[]);
    assert_eq!(differences, [Difference::Owner { found: RADIX, expected: KHO }]);
    let fault = Fault::from(differences[0]);
    assert_eq!(verdict(&fault), told(Code::CompatOrder, None, "radix-v1 in front of kho-v4", "the owner first"));
}

#[test]
fn a_foreign_owner_is_a_mismatch_and_not_corruption() {
    let found = CompatVec::parse_text("acme-v1").unwrap();
    let differences = found.list().differences(CompatList::new(KHO, &[]), &[]);
    assert_eq!(
        differences,
        [Difference::Unknown { found: Compat::new("acme", 1) }, Difference::Missing { expected: KHO }]
    );
    assert!(differences.into_iter().all(|difference| Fault::from(difference).code().class() == Class::Mismatch));
}

#[cfg(feature = "std")]
#[test]
fn a_const_constructor_that_is_misused_at_run_time_refuses_too() {
    let refused = |make: fn()| std::panic::catch_unwind(make).is_err();
    assert!(refused(|| drop(Compat::new("", 1).to_string())));
    assert!(refused(|| drop(Compat::new("a b", 1).to_string())));
    assert!(refused(|| drop(Compat::new("a;b", 1).to_string())));
    assert!(refused(|| drop(CompatList::new(KHO, &[VMALLOC, RADIX]).to_string())));
}

fn name() -> impl Strategy<Value = String> {
    // Short names that collide and contain what looks like a version; and any name at all.
    prop_oneof!["[ab]{1,2}(-v1|_v2|0)?", "[!-:<-~]{1,30}"]
}

prop_compose! {
    fn entry()(name in name(), version in prop_oneof![0..12_u32, any::<u32>()], underscore: bool)
        -> (String, u32, bool) { (name, version, underscore) }
}

fn compat((name, version, underscore): &(String, u32, bool)) -> Compat<'_> {
    Compat { name, version: *version, underscore: *underscore }
}

/// Bytes that are nearly lists.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"a".to_vec()),
        Just(b"b-v1".to_vec()),
        Just(b"c_v12".to_vec()),
        Just(b"-v".to_vec()),
        Just(b"0".to_vec()),
        Just(b"\0".to_vec()),
        Just(b";".to_vec()),
        any::<u8>().prop_map(|byte| alloc::vec![byte]),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_printed_is_read_again(entry in entry()) {
        let compat = compat(&entry);
        let text = compat.to_string();
        let again = Compat::parse(&text).unwrap();
        prop_assert_eq!(again, compat);
        prop_assert_eq!(&again.to_string(), &text);
        prop_assert_eq!(compat.printed().collect::<Vec<_>>(), again.to_string().into_bytes());
        prop_assert_eq!(compat.printed().len(), again.to_string().len());
    }

    #[test]
    fn the_order_for_the_compiler_is_that_of_the_printed_strings(a in entry(), b in entry()) {
        let (a, b) = (compat(&a), compat(&b));
        prop_assert_eq!(a.printed().compare(b.printed()), a.to_string().cmp(&b.to_string()));
        prop_assert_eq!(a.has_name_of(&b), a.name() == b.name());
    }

    #[test]
    fn any_bytes_are_an_error_or_printed_again_as_they_were(bytes in nearly()) {
        if let Ok(compat) = Compat::parse(&bytes) {
            prop_assert_eq!(compat.to_string().into_bytes(), bytes.clone());
        }
        if let Ok(list) = CompatVec::parse_fdt(&bytes) {
            prop_assert_eq!(list.list().to_fdt(), bytes.clone());
        }
        if let Ok(list) = CompatVec::parse_text(&bytes) {
            prop_assert_eq!(list.list().to_string().into_bytes(), bytes.clone());
        }
        if let Ok(compat) = Compat::parse_fixed(&bytes) {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap();
            prop_assert_eq!(compat.to_string().into_bytes(), bytes[..end].to_vec());
        }
    }

    #[test]
    fn a_list_is_taken_when_a_sort_and_a_set_would_take_it(
        owner in entry(), mut uses in prop::collection::vec(entry(), 0..6), sorted: bool,
    ) {
        if sorted {
            uses.sort_by_key(|entry| compat(entry).to_string());
        }
        let strings: Vec<String> = uses.iter().map(|entry| compat(entry).to_string()).collect();
        let names: BTreeSet<&str> = uses.iter().chain([&owner]).map(|entry| entry.0.as_str()).collect();
        let good = strings.is_sorted() && names.len() == uses.len() + 1;

        let mut fdt = format!("{}\0", compat(&owner)).into_bytes();
        strings.iter().for_each(|string| fdt.extend(format!("{string}\0").bytes()));
        let read = CompatVec::parse_fdt(&fdt);
        prop_assert_eq!(read.is_ok(), good);
        match read {
            Err(fault) => prop_assert_eq!(fault.code(), Code::CompatOrder),
            Ok(read) => {
                let uses: Vec<Compat<'_>> = uses.iter().map(compat).collect();
                let list = CompatList::new(compat(&owner), &uses);
                prop_assert_eq!(read.list(), list);
                prop_assert_eq!(list.to_fdt(), fdt);
                let text = list.to_string();
                let read = CompatVec::parse_text(&text).unwrap();
                prop_assert_eq!(read.list(), list);
            }
        }
    }

    #[test]
    fn the_differences_are_those_of_a_naive_comparison(
        found in prop::collection::btree_map("[a-e]", 0..4_u32, 0..5),
        expected in prop::collection::btree_map("[a-e]", 0..4_u32, 0..5),
        reads in prop::collection::btree_map("[a-e]", (0..4_u32, 0..4_u32), 0..5),
    ) {
        let text = |map: &BTreeMap<String, u32>| {
            map.iter().fold("o-v1".to_owned(), |text, (name, version)| format!("{text};{name}-v{version}"))
        };
        let (found_text, expected_text) = (text(&found), text(&expected));
        let (found_list, expected_list) =
            (CompatVec::parse_text(&found_text).unwrap(), CompatVec::parse_text(&expected_text).unwrap());
        let ranges: Vec<Reads<'_>> =
            reads.iter().map(|(name, (low, more))| Reads::since(*low, Compat::new(name, low + more))).collect();

        let mut naive = Vec::new();
        for (name, version) in &found {
            let own = expected.get(name);
            let range = reads.get(name).map(|(low, more)| *low..=low + more).or(own.map(|own| *own..=*own));
            naive.extend(match range {
                None => Some(("unknown", name)),
                Some(range) if version < range.start() => Some(("older", name)),
                Some(range) if version > range.end() => Some(("newer", name)),
                Some(_) => own.is_none().then_some(("extra", name)),
            });
        }
        naive.extend(expected.keys().filter(|name| !found.contains_key(*name)).map(|name| ("missing", name)));

        let differences = found_list.list().differences(expected_list.list(), &ranges);
        let told: Vec<(&str, String)> = differences
            .into_iter()
            .map(|difference| match difference {
                Difference::Older { found, .. } => ("older", found.name().to_owned()),
                Difference::Newer { found, .. } => ("newer", found.name().to_owned()),
                Difference::Unknown { found } => ("unknown", found.name().to_owned()),
                Difference::Extra { found } => ("extra", found.name().to_owned()),
                Difference::Missing { expected } => ("missing", expected.name().to_owned()),
                Difference::Owner { .. } => ("owner", String::new()),
            })
            .collect();
        let naive: Vec<(&str, String)> = naive.into_iter().map(|(how, name)| (how, name.clone())).collect();
        prop_assert_eq!(told, naive);
    }
}
