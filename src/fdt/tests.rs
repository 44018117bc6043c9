//! Blobs made by hand: what is refused, with which code and where; and that nothing panics.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::report::{Code, Fault};

/// A blob as its parts, each of them free to be wrong.
#[derive(Clone, Default)]
struct Raw {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Raw {
    fn root() -> Raw {
        Raw::default().begin("")
    }
    fn word(mut self, word: u32) -> Raw {
        self.structure.extend(word.to_be_bytes());
        self
    }
    fn pad(mut self) -> Raw {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
        self
    }
    fn begin(self, name: impl AsRef<[u8]>) -> Raw {
        let mut raw = self.word(BEGIN_NODE);
        raw.structure.extend(name.as_ref());
        raw.structure.push(0);
        raw.pad()
    }
    fn end(self) -> Raw {
        self.word(END_NODE)
    }
    /// A property whose name is new in the strings block.
    fn property(mut self, name: &str, value: &[u8]) -> Raw {
        let offset = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        self.property_at(offset, value)
    }
    fn property_at(self, offset: u32, value: &[u8]) -> Raw {
        let mut raw = self.word(PROP).word(value.len() as u32).word(offset);
        raw.structure.extend(value);
        raw.pad()
    }
    /// Offset in the blob of what comes next.
    fn here(&self) -> u64 {
        56 + self.structure.len() as u64
    }
    /// Header, an empty list of reservations, structure (without END), strings.
    fn blob_without_end(&self) -> Vec<u8> {
        let strings = 56 + self.structure.len();
        let total = strings + self.strings.len();
        let header = [0xd00d_feed, total, 56, strings, 40, 17, 16, 0, self.strings.len(), self.structure.len()];
        let mut blob: Vec<u8> = header.iter().flat_map(|&field| (field as u32).to_be_bytes()).collect();
        blob.extend([0; 16]);
        blob.extend(&self.structure);
        blob.extend(&self.strings);
        blob
    }
    fn blob(self) -> Vec<u8> {
        self.word(END).blob_without_end()
    }
}

fn small() -> Vec<u8> {
    let raw = Raw::root()
        .property("compatible", b"kho-v4\0")
        .property("preserved-memory-map", &[0, 0x20, 0x45, 0, 0, 0, 0, 0]);
    raw.begin("LUO").property("preserved-data", &[7; 8]).end().begin("x@1").end().end().blob()
}

#[track_caller]
fn refused(blob: &[u8]) -> Fault {
    let fault = Fdt::parse(blob).unwrap_err();
    assert!(fault.at().offset.is_some() && fault.at().item.is_some(), "{fault}");
    fault
}

#[track_caller]
fn refused_as(blob: &[u8], code: Code, offset: u64, item: &str) {
    let fault = refused(blob);
    assert_eq!(
        (fault.code(), fault.at().offset, fault.at().item.as_deref()),
        (code, Some(offset), Some(item)),
        "{fault}"
    );
}

/// Everything that can be asked of a tree, and that all ways through it agree.
fn ask_everything(fdt: &Fdt<'_>) {
    fn by_children(node: &Node<'_>, to: &mut Vec<String>) {
        to.push(format!("{node:?}"));
        to.extend(node.properties().map(|property| format!("{property:?}")));
        for child in node.children() {
            by_children(&child, to);
        }
        to.push("leave".into());
    }
    let mut walked = Vec::new();
    for event in fdt.walk() {
        match event {
            Event::Enter(node) => {
                for name in ["LUO", "x", "mem"] {
                    let _ = (node.property(name), node.child(name), node.child_as_linux(name).is_ok());
                }
                walked.push(format!("{node:?}"));
            }
            Event::Property(property) => {
                let _ = (property.u32_native().is_ok(), property.u64_native().is_ok());
                let _ = property.strings().map(Iterator::count);
                let _ = property.mem_ranges().filter(Result::is_ok).count();
                walked.push(format!("{property:?}"));
            }
            Event::Leave => walked.push("leave".into()),
        }
    }
    let mut nested = Vec::new();
    by_children(&fdt.root(), &mut nested);
    assert_eq!(walked, nested);
    let _ = fdt.reservations().count();
    let mut text = String::new();
    dts::print(fdt, &mut text).unwrap();
}

#[test]
fn a_small_tree_reads_as_it_was_made() {
    let mut blob = small();
    let total = blob.len();
    blob.resize(4096, 0xaa);
    let fdt = Fdt::parse(&blob).unwrap();
    assert_eq!(fdt.bytes().len(), total, "what is behind totalsize is no part of it");

    let root = fdt.root();
    assert_eq!(root.name(), b"");
    let compatible: Vec<&str> = root.property("compatible").unwrap().strings().unwrap().collect();
    assert_eq!(compatible, ["kho-v4"]);
    assert_eq!(root.required("preserved-memory-map").unwrap().u64_native(), Ok(0x45_2000));
    let names: Vec<&[u8]> = root.children().map(|child| child.name()).collect();
    assert_eq!(names, [&b"LUO"[..], b"x@1"]);
    assert_eq!(root.child("LUO").unwrap().property("preserved-data").unwrap().value(), [7; 8]);
    assert!(root.child("x").is_none(), "lookups are exact");
    let missing = root.required("nothing").unwrap_err();
    assert_eq!((missing.code(), missing.at().offset), (Code::PropertyMissing, Some(56)));
    ask_everything(&fdt);
}

#[test]
fn values_of_the_wrong_size_or_form_are_named() {
    let raw = Raw::root().property("five", b"abcde").property("list", b"a\0\0b\0").property("none", b"");
    let raw = raw.property("open", b"a\0bc").property("utf", b"a\0\xff\0");
    let mem: Vec<u8> = [0x1000u64, 0x2000, u64::MAX, 2].iter().flat_map(|n| n.to_be_bytes()).collect();
    let blob = raw.property("mem", &mem).end().blob();
    let root = Fdt::parse(&blob).unwrap().root();
    let get = |name| root.property(name).unwrap();

    let fault = get("five").u64_native().unwrap_err();
    assert_eq!(format!("{fault}"), "property-size: five at offset 0x4c: found 5 bytes, expected 8 bytes");
    assert_eq!(get("list").strings().unwrap().collect::<Vec<_>>(), ["a", "", "b"]);
    assert_eq!(get("none").strings().unwrap().count(), 0);
    for (name, offset) in [("open", 2), ("utf", 2)] {
        let fault = get(name).strings().unwrap_err();
        assert_eq!((fault.code(), fault.at().offset), (Code::Text, Some(get(name).offset() + offset)), "{name}");
    }
    let ranges: Vec<_> = get("mem").mem_ranges().collect();
    assert_eq!(ranges[0].as_ref().map(|range| format!("{range}")), Ok("0x1000..0x3000".into()));
    let fault = ranges[1].as_ref().unwrap_err();
    assert_eq!((fault.code(), fault.at().offset), (Code::TooLarge, Some(get("mem").offset() + 16)));
    let odd: Vec<_> = get("five").mem_ranges().map(|range| range.unwrap_err().code()).collect();
    assert_eq!(odd, [Code::PropertySize]);
}

#[test]
fn what_linux_would_take_for_a_name() {
    let found = |children: &[&str], name: &str| {
        let raw = children.iter().fold(Raw::root(), |raw, child| raw.begin(child).end());
        let blob = raw.end().blob();
        let root = Fdt::parse(&blob).unwrap().root();
        root.child_as_linux(name).map(|child| child.map(|child| child.name().to_vec())).map_err(|fault| fault.code())
    };
    assert_eq!(found(&["LUO1", "LU", "LUO"], "LUO"), Ok(Some(b"LUO".to_vec())));
    assert_eq!(found(&["LUO", "LUO@1"], "LUO"), Ok(Some(b"LUO".to_vec())), "the first hit wins");
    assert_eq!(found(&["LUO@1", "LUO"], "LUO"), Err(Code::FdtUnitAddress));
    assert_eq!(found(&["LUO@1@2", "LUO@1"], "LUO@1"), Ok(Some(b"LUO@1".to_vec())), "no guess behind an @");
    assert_eq!(found(&["a"], "LUO"), Ok(None));
}

#[test]
fn truncated_at_every_length() {
    let blob = small();
    for len in 0..blob.len() {
        let fault = refused(&blob[..len]);
        assert_eq!(fault.code(), Code::Truncated, "{len}: {fault}");
        assert_eq!(fault.found_text(), format!("{len} bytes"));
        let expected = if len < 40 { "40 (header)".into() } else { format!("{} (totalsize)", blob.len()) };
        assert_eq!(fault.expected_text(), expected);
    }
}

#[test]
fn every_header_field_that_lies() {
    let blob = small();
    let total = blob.len() as u32;
    let field = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap());
    let strings = field(12);
    for (at, value, code, offset, item) in [
        (0, 0xedfe_0dd0, Code::FdtHeader, 0, "magic"),
        (4, total + 1, Code::Truncated, 4, "totalsize"),
        (4, 0x8000_0000, Code::TooLarge, 4, "totalsize"),
        (4, 39, Code::FdtHeader, 8, "off_dt_struct"),
        (4, total - 1, Code::FdtHeader, 12, "off_dt_strings"),
        (8, 58, Code::FdtHeader, 8, "off_dt_struct"),
        (8, u32::MAX - 3, Code::FdtHeader, 8, "off_dt_struct"),
        (8, 60, Code::FdtHeader, 12, "off_dt_strings"),
        (8, 52, Code::FdtHeader, 8, "off_dt_struct"),
        (12, total + 1, Code::FdtHeader, 12, "off_dt_strings"),
        (12, strings - 1, Code::FdtHeader, 12, "off_dt_strings"),
        (12, 8, Code::FdtHeader, 12, "off_dt_strings"),
        (16, 44, Code::FdtHeader, 16, "off_mem_rsvmap"),
        (16, 32, Code::FdtHeader, 16, "off_mem_rsvmap"),
        (16, total & !7, Code::FdtHeader, 16, "off_mem_rsvmap"),
        (16, !7, Code::FdtHeader, 16, "off_mem_rsvmap"),
        (20, 16, Code::VersionOlder, 20, "version"),
        (24, 18, Code::VersionNewer, 24, "last_comp_version"),
        (32, u32::MAX, Code::FdtHeader, 12, "off_dt_strings"),
        (36, u32::MAX - 3, Code::FdtHeader, 8, "off_dt_struct"),
        (36, 2, Code::FdtHeader, 36, "size_dt_struct"),
        (36, field(36) + 4, Code::FdtHeader, 12, "off_dt_strings"),
        (36, 0, Code::FdtStructure, 56, "size_dt_struct"),
    ] {
        let mut lying = blob.clone();
        lying[at..at + 4].copy_from_slice(&value.to_be_bytes());
        if at == 12 && value == 8 {
            // As large as before, so that it lies over the header only.
            lying[32..36].copy_from_slice(&8u32.to_be_bytes());
        }
        let fault = refused(&lying);
        let place = (fault.code(), fault.at().offset, fault.at().item.as_deref());
        assert_eq!(place, (code, Some(offset), Some(item)), "field {at} = {value:#x}: {fault}");
    }
    // A later version that says it can be read as this one is no error.
    let mut later = blob.clone();
    later[20..24].copy_from_slice(&1000u32.to_be_bytes());
    assert!(Fdt::parse(&later).is_ok());
    // Smaller names than are used.
    let mut short = blob.clone();
    short[32..36].copy_from_slice(&3u32.to_be_bytes());
    assert_eq!(refused(&short).code(), Code::FdtName);
}

#[test]
fn reservations_without_an_end_are_refused_and_others_are_read() {
    let blob = small();
    let mut open = blob.clone();
    // Behind the strings are entries up to the end of the blob, none of size 0.
    open.resize(blob.len().next_multiple_of(8) + 64, 1);
    let at = blob.len().next_multiple_of(8) as u32;
    let total = open.len() as u32;
    open[4..8].copy_from_slice(&total.to_be_bytes());
    open[16..20].copy_from_slice(&at.to_be_bytes());
    refused_as(&open, Code::FdtHeader, 16, "off_mem_rsvmap");
    open[at as usize + 24..at as usize + 32].fill(0);
    let fdt = Fdt::parse(&open).unwrap();
    assert_eq!(fdt.reservations().collect::<Vec<_>>(), [(0x0101_0101_0101_0101, 0x0101_0101_0101_0101)]);
}

#[test]
fn broken_structures() {
    let lone = Raw::root().end();
    let cases: Vec<(&str, Vec<u8>, u64)> = vec![
        ("bad token", Raw::root().word(5).end().blob(), 64),
        ("swapped token", Raw::root().word(0x0200_0000).end().blob(), 64),
        ("no END", lone.blob_without_end(), 68),
        ("no root", Raw::default().blob(), 56),
        ("END in the root", Raw::root().blob(), 64),
        ("END_NODE twice", lone.clone().end().blob(), 68),
        ("second root", lone.clone().begin("").end().blob(), 68),
        ("second root with a name", lone.clone().begin("b").end().blob(), 68),
        ("property outside", lone.clone().property("a", b"").blob(), 68),
        ("property first", Raw::default().property("a", b"").blob(), 56),
        ("property behind a subnode", Raw::root().begin("a").end().property("p", b"").end().blob(), 76),
        ("bytes after END", lone.clone().word(END).word(0).blob_without_end(), 72),
        ("a tree after END", lone.clone().word(END).begin("").end().blob(), 72),
        ("value past the end", Raw::root().word(PROP).word(5).word(0).word(0).blob_without_end(), 64),
        ("value of 4 GiB", Raw::root().word(PROP).word(u32::MAX).word(0).end().blob(), 64),
        ("property cut", Raw::root().word(PROP).word(0).blob_without_end(), 64),
    ];
    for (what, blob, offset) in cases {
        let fault = refused(&blob);
        assert_eq!((fault.code(), fault.at().offset), (Code::FdtStructure, Some(offset)), "{what}: {fault}");
    }
}

#[test]
fn broken_names() {
    let long = |len: usize| "n".repeat(len);
    let mut open = Raw::root().word(BEGIN_NODE);
    open.structure.extend(b"abcd");
    let mut strings = Raw::root().property("abc", b"");
    strings.strings.pop();
    let cases: Vec<(&str, Vec<u8>, u64, &str)> = vec![
        ("node without NUL", open.blob_without_end(), 64, "node name"),
        ("node of 256 bytes", Raw::root().begin(long(256)).end().end().blob(), 64, "node name"),
        ("node without a name", Raw::root().begin("").end().end().blob(), 64, "node name"),
        ("root with a name", Raw::default().begin("r").end().blob(), 56, "node name"),
        ("property without NUL", strings.end().blob(), 64, "property name"),
        ("property of 256 bytes", Raw::root().property(&long(256), b"").end().blob(), 64, "property name"),
        ("property without a name", Raw::root().property("", b"").end().blob(), 64, "property name"),
        ("property name outside", Raw::root().property_at(1, b"").end().blob(), 64, "property name"),
        ("property name far outside", Raw::root().property_at(u32::MAX, b"").end().blob(), 64, "property name"),
    ];
    for (what, blob, offset, item) in cases {
        let fault = refused(&blob);
        let place = (fault.code(), fault.at().offset, fault.at().item.as_deref());
        assert_eq!(place, (Code::FdtName, Some(offset), Some(item)), "{what}: {fault}");
    }
    let most = Raw::root().property(&long(255), b"").begin(long(255)).end().end().blob();
    ask_everything(&Fdt::parse(&most).unwrap());
    let odd = Raw::root().begin(b"a/b \xff*/\n\"").end().end().blob();
    ask_everything(&Fdt::parse(&odd).unwrap());
}

#[test]
fn names_that_stand_twice() {
    let a = Raw::root().property("a", b"1").property("b", b"");
    refused_as(&a.clone().property_at(0, b"2").end().blob(), Code::FdtDuplicate, a.here(), "a");
    refused_as(&a.clone().property("a", b"2").end().blob(), Code::FdtDuplicate, a.here(), "a");
    // The same name in a node and in its parent, or of a node and of a property, is no duplicate; nor is a name that is
    // the end of another one.
    let fine = a.clone().property("xa", b"").begin("a").property_at(0, b"").begin("a").end().end().begin("xa").end();
    let twice = fine.clone().begin("a").end();
    refused_as(&twice.end().blob(), Code::FdtDuplicate, fine.here(), "a");
    ask_everything(&Fdt::parse(&fine.end().blob()).unwrap());
}

#[test]
fn depth_is_limited_and_nothing_recurses() {
    let nest = |levels: usize| {
        let down = (1..levels).fold(Raw::root(), |raw, _| raw.begin("n"));
        (0..levels).fold(down, |raw, _| raw.end()).blob()
    };
    ask_everything(&Fdt::parse(&nest(MAX_DEPTH)).unwrap());
    // 8 bytes for each of the 64 levels that are allowed.
    refused_as(&nest(MAX_DEPTH + 1), Code::FdtDepth, 56 + 8 * 64, "structure");
    refused_as(&nest(10_000), Code::FdtDepth, 56 + 8 * 64, "structure");
}

#[test]
fn large_trees_of_every_bad_shape_take_linear_time() {
    // Each would take minutes if something were quadratic.
    let mut many = Raw::root();
    for n in 0..100_000 {
        many = many.property(&format!("p{n}"), b"");
    }
    let here = many.here();
    let repeated = many.clone().property("p77", b"").end().blob();
    refused_as(&repeated, Code::FdtDuplicate, here, "p77");
    assert_eq!(Fdt::parse(&many.end().blob()).unwrap().root().properties().count(), 100_000);

    let mut flat = Raw::root();
    for n in 0..200_000 {
        flat = flat.begin(format!("n{n}")).end();
    }
    let here = flat.here();
    refused_as(&flat.clone().begin("n199999").end().end().blob(), Code::FdtDuplicate, here, "n199999");
    assert_eq!(Fdt::parse(&flat.end().blob()).unwrap().root().children().count(), 200_000);

    // One name of a mebibyte, and 100,000 properties that point into it.
    let mut long = Raw::root();
    long.strings = vec![b'x'; 1 << 20];
    for n in 0..100_000 {
        long = long.property_at(n, b"");
    }
    refused_as(&long.end().blob(), Code::FdtName, 64, "property name");

    let mut nops = Raw::default();
    for _ in 0..1_000_000 {
        nops = nops.word(NOP);
    }
    let nops = nops.begin("").word(NOP).property("a", b"").word(NOP).begin("b").word(NOP).end().word(NOP).end();
    ask_everything(&Fdt::parse(&nops.word(NOP).blob()).unwrap());
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic && bytes.len() >= 28 {
            bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
            bytes[20..28].copy_from_slice(&[0, 0, 0, 17, 0, 0, 0, 16]);
        }
        if let Ok(fdt) = Fdt::parse(&bytes) {
            ask_everything(&fdt);
        }
    }

    #[test]
    fn any_tokens_never_panic(words in prop::collection::vec((0..8u32, any::<u32>()), 0..40)) {
        let mut raw = Raw::root();
        raw.strings.extend(b"compatible\0mem\0size\0\xff*/\0");
        for (kind, word) in words {
            raw = match kind {
                0 | 1 => raw.begin([b'a' + (word % 3) as u8]),
                2 | 3 => raw.end(),
                4 | 5 => raw.property_at(word % 24, &word.to_le_bytes()[..(word % 4) as usize]),
                6 => raw.word(NOP),
                _ => raw.word(word % 16),
            };
        }
        if let Ok(fdt) = Fdt::parse(&raw.end().blob()) {
            ask_everything(&fdt);
        }
    }

    #[test]
    fn mutated_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut blob = small();
        for (at, byte) in changes {
            let at = at.index(blob.len());
            blob[at] = byte;
        }
        match Fdt::parse(&blob) {
            Ok(fdt) => ask_everything(&fdt),
            Err(fault) => prop_assert!(fault.at().offset.is_some() && fault.at().item.is_some()),
        }
    }
}
