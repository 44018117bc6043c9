//! Device trees from outside: what we write, other readers and `dtc` read; what Linux wrote, we read.
#![allow(missing_docs)]

use std::process::{Command, Stdio};

use kho::fdt::{Builder, Event, Fdt, Node, dts};
use kho::mem::{PhysAddr, PhysRange};
use kho::report::{Code, Fault};
use proptest::prelude::*;

/// A tree as plain data: the naive model.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    name: Vec<u8>,
    properties: Vec<(Vec<u8>, Vec<u8>)>,
    children: Vec<Model>,
}

impl Model {
    fn of(node: Node<'_>) -> Model {
        Model {
            name: node.name().to_vec(),
            properties: node.properties().map(|p| (p.name().to_vec(), p.value().to_vec())).collect(),
            children: node.children().map(Model::of).collect(),
        }
    }

    fn parse(blob: &[u8]) -> Model {
        Model::of(Fdt::parse(blob).unwrap_or_else(|fault| panic!("{fault}")).root())
    }

    fn write(&self, to: &mut Builder) -> Result<(), Fault> {
        for (name, value) in &self.properties {
            to.bytes(str::from_utf8(name).unwrap(), value)?;
        }
        for child in &self.children {
            to.node(str::from_utf8(&child.name).unwrap(), |to| child.write(to))?;
        }
        Ok(())
    }

    fn blob(&self) -> Result<Vec<u8>, Fault> {
        let mut root = Builder::new();
        self.write(&mut root)?;
        root.finish()
    }

    /// Drops all but the first of equal names.
    fn without_duplicates(mut self) -> Model {
        let mut seen = std::collections::BTreeSet::new();
        self.properties.retain(|(name, _)| seen.insert(name.clone()));
        let mut seen = std::collections::BTreeSet::new();
        self.children.retain(|child| seen.insert(child.name.clone()));
        self.children = self.children.into_iter().map(Model::without_duplicates).collect();
        self
    }

    fn has_duplicates(&self) -> bool {
        *self != self.clone().without_duplicates()
    }
}

/// Trees of names that the writer takes. With few names there are often duplicates.
fn models(names: &'static str) -> impl Strategy<Value = Model> {
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        "[ -~]{1,8}(\0[ -~]{1,8}){0,2}\0".prop_map(String::into_bytes),
    ];
    let properties = prop::collection::vec((names.prop_map(String::into_bytes), value), 0..5);
    let node = (names.prop_map(String::into_bytes), properties);
    let leaf = node.clone().prop_map(|(name, properties)| Model { name, properties, children: Vec::new() });
    let tree = leaf.prop_recursive(4, 24, 4, move |inner| {
        (node.clone(), prop::collection::vec(inner, 0..4)).prop_map(|((name, properties), children)| Model {
            name,
            properties,
            children,
        })
    });
    tree.prop_map(|root| Model { name: Vec::new(), ..root })
}

fn handover() -> Vec<u8> {
    let range = |start, size| PhysRange::new(PhysAddr::new(start), size).unwrap();
    let build = || {
        let mut root = Builder::new();
        root.strings("compatible", ["kho-v4", "radix-v1", "vmalloc-v1"])?;
        root.cells_u32("#address-cells", &[2])?;
        root.cells_u32("#size-cells", &[2])?;
        root.u64_native("preserved-memory-map", 0x45_2000)?;
        for (number, name) in (1..).zip(["memblock", "LUO", "kho_test"]) {
            root.node(name, |node| {
                node.strings("compatible", [format!("{name}-v1").as_str(), "vmalloc-v1"])?;
                node.mem(&[range(number << 20, 0x1000), range(number << 24, 0x3_0000)])?;
                node.u64_native("preserved-data", number << 20)?;
                node.u64_native("blob-size", 210)?;
                node.empty("optional")
            })?;
        }
        root.finish()
    };
    build().unwrap_or_else(|fault: Fault| panic!("{fault}"))
}

fn print(blob: &[u8]) -> String {
    let mut text = String::new();
    dts::print(&Fdt::parse(blob).unwrap(), &mut text).unwrap();
    text
}

/// Runs dtc. None, told aloud, where there is no dtc and `KHO_REQUIRE` does not ask for it.
fn dtc(from: &str, to: &str, input: &[u8]) -> Option<(Vec<u8>, String)> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    std::fs::write(&file, input).unwrap();
    let run = Command::new("dtc").args(["-I", from, "-O", to]).arg(&file).stdin(Stdio::null()).output();
    match run {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "dtc refuses: {told}\n{}", String::from_utf8_lossy(input));
            Some((output.stdout, told))
        }
        Err(error) => {
            let required = std::env::var("KHO_REQUIRE").is_ok_and(|list| list.split(',').any(|tool| tool == "dtc"));
            assert!(!required, "dtc is required: {error}");
            eprintln!("needs dtc (apt-get install device-tree-compiler)");
            None
        }
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let file = format!("{}/tests/data/linux-7.2-x86_64/debugfs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn the_writer_writes_these_bytes() {
    let mut root = Builder::new();
    root.u32_native("n", 0x0102_0304).unwrap();
    root.node("a", |a| {
        a.strings("n", ["x", "y"])?;
        a.cells_u32("c", &[1])
    })
    .unwrap();
    #[rustfmt::skip]
    let expected = [
        [0xd0, 0x0d, 0xfe, 0xed], [0, 0, 0, 0x88], [0, 0, 0, 0x38], [0, 0, 0, 0x84], // magic, totalsize, struct, strings
        [0, 0, 0, 0x28], [0, 0, 0, 17], [0, 0, 0, 16], [0; 4], [0, 0, 0, 4], [0, 0, 0, 0x4c], // reserve, versions, sizes
        [0; 4], [0; 4], [0; 4], [0; 4], // no reservations
        [0, 0, 0, 1], [0; 4], // root
        [0, 0, 0, 3], [0, 0, 0, 4], [0, 0, 0, 0], [4, 3, 2, 1], // n, little-endian
        [0, 0, 0, 1], *b"a\0\0\0",
        [0, 0, 0, 3], [0, 0, 0, 4], [0, 0, 0, 0], *b"x\0y\0",
        [0, 0, 0, 3], [0, 0, 0, 4], [0, 0, 0, 2], [0, 0, 0, 1], // c, big-endian
        [0, 0, 0, 2], [0, 0, 0, 2], [0, 0, 0, 9],
        *b"n\0c\0",
    ].concat();
    let blob = root.finish().unwrap();
    assert_eq!(blob, expected);
}

#[test]
fn the_writer_refuses_and_goes_on() {
    let mut root = Builder::new();
    root.empty("p").unwrap();
    let fault = root.empty("p").unwrap_err();
    assert_eq!(
        fault.to_string(),
        "fdt-duplicate: p: found a second property of that name, expected unique names in each node"
    );
    assert_eq!(root.strings("s", ["a\0b"]).unwrap_err().code(), Code::Text);
    for (name, why) in [
        ("0abc", "no letter at the start"),
        ("a/b", "the character '/'"),
        ("", "no name"),
        ("@1", "no name"),
        ("a@1@2", "the character '@'"),
        ("a\0", "the character '\\0'"),
        ("ä", "the character 'ä'"),
        ("abcdefghijklmnopqrstuvwxyzabcdef", "32 characters"),
    ] {
        let fault = root.node(name, |_| Ok(())).unwrap_err();
        assert_eq!((fault.code(), fault.found_text()), (Code::FdtName, why), "{name}");
    }
    for name in ["", "a@1", "a/b", "abcdefghijklmnopqrstuvwxyzabcdef"] {
        assert_eq!(root.empty(name).unwrap_err().code(), Code::FdtName, "{name}");
    }
    root.node("a", |_| Ok(())).unwrap();
    root.node("a@1", |_| Ok(())).unwrap();
    assert_eq!(root.node("a", |_| Ok(())).unwrap_err().code(), Code::FdtDuplicate);
    let fault = root.empty("late").unwrap_err();
    assert_eq!((fault.code(), fault.found_text()), (Code::FdtStructure, "a property behind a subnode"));

    // All that was refused left nothing.
    let tree = Model::parse(&root.finish().unwrap());
    assert_eq!(tree.properties, [(b"p".to_vec(), Vec::new())]);
    assert_eq!(tree.children.iter().map(|child| &child.name[..]).collect::<Vec<_>>(), [&b"a"[..], b"a@1"]);
}

#[test]
fn a_node_that_fails_half_way_fails_the_tree() {
    let mut root = Builder::new();
    let mine = Fault::new(Code::Exhausted).item("mine");
    assert_eq!(root.node("a", |_| Err::<(), _>(mine.clone())), Err(mine.clone()));
    assert_eq!(root.empty("b"), Err(mine.clone()));
    assert_eq!(root.finish(), Err(mine));
}

#[test]
fn the_writer_nests_as_deep_as_the_reader_reads() {
    fn down(node: &mut Builder, levels: usize) -> Result<(), Fault> {
        if levels == 0 { Ok(()) } else { node.node("n", |node| down(node, levels - 1)) }
    }
    let mut root = Builder::new();
    down(&mut root, kho::fdt::MAX_DEPTH - 1).unwrap();
    assert!(Fdt::parse(&root.finish().unwrap()).is_ok());
    let fault = down(&mut Builder::new(), kho::fdt::MAX_DEPTH).unwrap_err();
    assert_eq!(fault.code(), Code::FdtDepth);
}

proptest! {
    #[test]
    fn what_is_written_is_read(model in models("[a-c][a-z0-9,._+-]{0,3}")) {
        match model.blob() {
            Ok(blob) => {
                prop_assert!(!model.has_duplicates());
                prop_assert_eq!(Model::parse(&blob), model);
            }
            Err(fault) => {
                prop_assert_eq!(fault.code(), Code::FdtDuplicate);
                prop_assert!(model.has_duplicates());
            }
        }
    }

    #[test]
    fn other_readers_read_the_same(model in models("[a-z][a-z0-9,._+-]{0,12}")) {
        use dtoolkit::{Node as _, Property as _};

        fn by_dtoolkit(node: dtoolkit::fdt::FdtNode<'_>, name: &[u8]) -> Model {
            Model {
                name: name.to_vec(),
                properties: node.properties().map(|p| (p.name().as_bytes().to_vec(), p.value().to_vec())).collect(),
                children: node.children().map(|child| by_dtoolkit(child, child.name().as_bytes())).collect(),
            }
        }
        fn by_fdt(node: fdt::node::FdtNode<'_, '_>, name: &[u8]) -> Model {
            Model {
                name: name.to_vec(),
                properties: node.properties().map(|p| (p.name.as_bytes().to_vec(), p.value.to_vec())).collect(),
                children: node.children().map(|child| by_fdt(child, child.name.as_bytes())).collect(),
            }
        }
        let model = model.without_duplicates();
        let blob = model.blob().unwrap();
        let other = dtoolkit::fdt::Fdt::new(&blob).unwrap();
        prop_assert_eq!(&by_dtoolkit(other.root(), b""), &model);
        let other = fdt::Fdt::new(&blob).unwrap();
        prop_assert_eq!(&by_fdt(other.find_node("/").unwrap(), b""), &model);
    }
}

proptest! {
    /// A tree with properties set, by another way: taken apart, changed, and written anew.
    #[test]
    fn properties_are_set_and_nothing_else_changes(
        model in models("[a-c][a-z0-9,._+-]{0,3}"),
        node in "[a-c]",
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 2),
    ) {
        let mut model = model.without_duplicates();
        let properties = [("a", &values[0][..]), ("linux,kho-fdt", &values[1])];
        let edited = Fdt::parse(&model.blob().unwrap()).unwrap().with_properties(&node, &properties);
        let name = node.as_bytes();
        let taken = model.children.iter().find(|child| child.name.split(|&byte| byte == b'@').next() == Some(name));
        if taken.is_some_and(|child| child.name != name) {
            prop_assert_eq!(edited.unwrap_err().code(), Code::FdtUnitAddress);
            return Ok(());
        }
        if !model.children.iter().any(|child| child.name == name) {
            model.children.insert(0, Model { name: name.into(), properties: Vec::new(), children: Vec::new() });
        }
        let child = model.children.iter_mut().find(|child| child.name == name).unwrap();
        child.properties.retain(|(name, _)| !properties.iter().any(|(set, _)| set.as_bytes() == name));
        let set = properties.map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
        child.properties.splice(0..0, set);
        let edited = edited.unwrap();
        prop_assert_eq!(Model::parse(&edited), model);
        prop_assert!(dtoolkit::fdt::Fdt::new(&edited).is_ok() && fdt::Fdt::new(&edited).is_ok());
    }
}

#[test]
fn dtc_takes_a_machine_that_was_told_of_a_handover() {
    let mut machine = Builder::new();
    machine.cells_u32("#address-cells", &[2]).unwrap();
    machine.cells_u32("#size-cells", &[2]).unwrap();
    machine.node("chosen", |chosen| chosen.strings("bootargs", ["quiet"])).unwrap();
    let range = |start, size| PhysRange::new(PhysAddr::new(start), size).unwrap();
    let boot = kho::linux::Boot { fdt: range(0x4c00_1000, 600), scratch: range(0x1_4c00_0000, 32) };
    let blob = kho::linux::chosen(&machine.finish().unwrap(), &boot).unwrap();
    let Some((text, told)) = dtc("dtb", "dts", &blob) else { return };
    assert_eq!(told, "");
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("linux,kho-fdt = <0x00 0x4c001000 0x00 0x258>;"), "{text}");
    assert!(text.contains("linux,kho-scratch = <0x01 0x4c000000 0x00 0x20>;"), "{text}");
    assert!(text.contains("bootargs = \"quiet\";"), "{text}");
}

#[test]
fn source_says_what_values_mean() {
    let text = print(&handover());
    for line in [
        "\tcompatible = \"kho-v4\", \"radix-v1\", \"vmalloc-v1\";\n",
        "\t#address-cells = <0x2>;\n",
        "\tpreserved-memory-map = [00 20 45 00 00 00 00 00]; /* 0x452000 */\n",
        "\n\tLUO {\n",
        "\t\tmem = <0x0 0x200000 0x0 0x1000> /* 0x200000..0x201000 */,\n\t\t\t<0x0 0x2000000 0x0 0x30000> /* 0x2000000..0x2030000 */;\n",
        "\t\tblob-size = [d2 00 00 00 00 00 00 00]; /* 210 bytes */\n",
        "\t\toptional;\n",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
    let text = print(&fixture("after/in/sub_fdts/kho_test"));
    for line in [
        "\tmagic = [21 4f 48 4b]; /* 0x4b484f21 */\n",
        "\t\tnr_folios = [01 00 00 00]; /* 1 */\n",
        "; /* vmalloc: first chunk 0x4a1000, total_pages 1, flags 0x1, order 0 */\n",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn dtc_takes_a_handover_without_a_warning() {
    let blob = handover();
    let Some((text, told)) = dtc("dtb", "dts", &blob) else { return };
    assert_eq!(told, "");
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("mem = <0x00 0x200000 0x00 0x1000 0x00 0x2000000 0x00 0x30000>;"), "{text}");
}

#[test]
fn dtc_compiles_our_source_to_the_same_tree() {
    for blob in [
        handover(),
        fixture("after/in/fdt"),
        fixture("after/in/sub_fdts/kho_test"),
        fixture("after/in/sub_fdts/memblock"),
    ] {
        let Some((compiled, _)) = dtc("dts", "dtb", print(&blob).as_bytes()) else { return };
        assert_eq!(Model::parse(&compiled), Model::parse(&blob));
    }
}

/// As Linux writes them: any bytes as names.
fn raw(names: &[(&[u8], &[&[u8]])]) -> Vec<u8> {
    let mut structure: Vec<u8> = [0, 0, 0, 1, 0, 0, 0, 0].to_vec();
    let mut strings = Vec::new();
    for (name, properties) in names {
        structure.extend(1u32.to_be_bytes());
        structure.extend(*name);
        structure.resize(structure.len() / 4 * 4 + 4, 0);
        for property in *properties {
            structure.extend([3, 4, strings.len() as u32].iter().flat_map(|word| word.to_be_bytes()));
            structure.extend(*b"\xff\xfe\xfd\xfc");
            strings.extend(*property);
            strings.push(0);
        }
        structure.extend(2u32.to_be_bytes());
    }
    structure.extend([2u32, 9].iter().flat_map(|word| word.to_be_bytes()));
    let end = 56 + structure.len();
    let header = [0xd00d_feed, end + strings.len(), 56, end, 40, 17, 16, 0, strings.len(), structure.len()];
    let mut blob: Vec<u8> = header.iter().flat_map(|&field| (field as u32).to_be_bytes()).collect();
    blob.extend([0; 16]);
    blob.extend(structure);
    blob.extend(strings);
    blob
}

#[test]
fn what_source_cannot_say_is_shown_and_not_compiled() {
    let blob = raw(&[
        (b"good", &[b"name", b"phandle", b"linux,phandle", b"ok", b"a b"]),
        (b"tab\t*/ \"\xff\\\n};", &[b"start", b"x\n}"]),
        (b"also", &[b"phandle"]),
        (b"hash#", &[b"lost"]),
    ]);
    let text = print(&blob);
    assert!(text.contains("\n// \ttab\\t*/ \\\"\\xff\\\\\\n}; {\n// \t\tstart = [ff fe fd fc];\n"), "{text}");
    let Some((compiled, _)) = dtc("dts", "dtb", text.as_bytes()) else { return };
    let tree = Model::parse(&compiled);
    let names = |model: &Model| model.properties.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(tree.children.iter().map(|child| &child.name[..]).collect::<Vec<_>>(), [&b"good"[..], b"also"]);
    assert_eq!(names(&tree.children[0]), [b"phandle".to_vec(), b"ok".to_vec()]);
    assert!(names(&tree.children[1]).is_empty(), "a phandle that stands twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn source_round_trip(model in models("[a-z][a-zA-Z0-9,._+-]{0,12}")) {
        let model = model.without_duplicates();
        let Some((compiled, _)) = dtc("dts", "dtb", print(&model.blob().unwrap()).as_bytes()) else { return Ok(()) };
        // dtc's own properties apart: see the module `dts`.
        if !model.properties.iter().any(|(name, _)| name == b"name" || name == b"phandle") {
            prop_assert_eq!(Model::parse(&compiled), model);
        }
    }

    #[test]
    fn source_of_any_names_compiles(names in prop::collection::vec(prop::collection::vec(1..=255u8, 1..4), 1..8)) {
        let mut seen = std::collections::BTreeSet::new();
        let names: Vec<&[u8]> = names.iter().map(|name| &name[..]).filter(|name| seen.insert(*name)).collect();
        let nodes: Vec<(&[u8], &[&[u8]])> = names.iter().map(|name| (*name, &names[..])).collect();
        dtc("dts", "dtb", print(&raw(&nodes)).as_bytes());
    }

    #[test]
    fn source_of_any_ascii_name_compiles(names in prop::collection::vec("[!-~]{1,2}", 1..12)) {
        let names: std::collections::BTreeSet<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let names: Vec<&[u8]> = names.into_iter().collect();
        let nodes: Vec<(&[u8], &[&[u8]])> = names.iter().map(|name| (*name, &names[..])).collect();
        dtc("dts", "dtb", print(&raw(&nodes)).as_bytes());
    }
}

#[test]
fn linux_exports_a_truncated_root_and_the_fault_says_so() {
    let fault = Fdt::parse(&fixture("before/out/fdt")).unwrap_err();
    assert_eq!(fault.code(), Code::Truncated);
    assert_eq!(fault.to_string(), "truncated: totalsize at offset 0x4: found 233 bytes, expected 405 (totalsize)");
}

#[test]
fn the_root_that_linux_handed_over() {
    let blob = fixture("after/in/fdt");
    let fdt = Fdt::parse(&blob).unwrap();
    let root = fdt.root();
    assert_eq!(root.required("compatible").unwrap().strings().unwrap().collect::<Vec<_>>(), ["kho-v4"]);
    assert_eq!(root.required("preserved-memory-map").unwrap().u64_native(), Ok(0x45_2000));
    let number = |node: &Node<'_>, name| node.required(name).unwrap().u64_native().unwrap();
    let nodes: Vec<_> = root
        .children()
        .map(|node| (node.name().to_vec(), number(&node, "preserved-data"), number(&node, "blob-size")))
        .collect();
    assert_eq!(
        nodes,
        [
            (b"memblock".to_vec(), 0x65_d000, 210),
            (b"LUO".to_vec(), 0x66_8000, 32),
            (b"kho_test".to_vec(), 0x4f_c000, 240),
            (b"kexec-metadata".to_vec(), 0x44_e000, 73),
        ]
    );
    assert_eq!(fdt.walk().filter(|event| matches!(event, Event::Property(_))).count(), 2 + 4 * 2);
}

#[test]
fn the_blobs_that_linux_handed_over() {
    let blob = fixture("after/in/sub_fdts/memblock");
    let fdt = Fdt::parse(&blob).unwrap();
    let range = fdt.root().child("testmem").unwrap();
    assert_eq!(range.required("start").unwrap().u64_native(), Ok(0x790_0000));
    assert_eq!(range.required("size").unwrap().u64_native(), Ok(0x10_0000));

    let blob = fixture("after/in/sub_fdts/kho_test");
    let fdt = Fdt::parse(&blob).unwrap();
    assert_eq!(fdt.root().required("magic").unwrap().u32_native(), Ok(kho::abi::kho_test::MAGIC_VALUE));
    assert_eq!(fdt.root().child("data").unwrap().required("folios_info").unwrap().value().len(), 16);

    for name in ["LUO", "kexec-metadata"] {
        let fault = Fdt::parse(&fixture(&format!("after/in/sub_fdts/{name}"))).unwrap_err();
        assert_eq!((fault.code(), fault.at().offset), (Code::FdtHeader, Some(0)), "{name} is no device tree");
    }
}
