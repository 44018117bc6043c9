//! Where a handover is read from: cores of every kind and page size, devices, raw memory, copies of debugfs, memory that
//! changes meanwhile.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{json, kho, node, run};
use kho::compat::{Compat, CompatList};
use kho::handover::{Blob, Home, Outgoing, Preserve, Scope};
use kho::inspect::{Content, Opened, Options, PageSizeBy};
use kho::luo::{Flb, NewContent, NewFile, NewSession, Sessions};
use kho::mem::{Geometry, Image, Memory as _, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram};
use kho::memblock::{NewRange, Ranges};
use kho::memfd::Contents;
use kho::metadata::Metadata;
use kho::report::{Code, Fault};
use kho::selftest::{Payload, Rule};
use serde_json::{Value, json};

const BASE: u64 = 4 << 30;
/// Nodes and handlers that kernels in the making write.
const NODES: [(&str, Compat<'static>); 3] =
    [("pci", Compat::new("pci", 1)), ("iommu", Compat::new("iommu", 1)), ("cpu_fh", Compat::new("cpu_fh", 1))];
const HANDLERS: [&str; 8] = [
    "vfio-pci-v1",
    "guest_memfd_luo_v1",
    "kvm_vm_luo_v1",
    "kvm_vcpu_luo_v1",
    "iommufd-v1",
    "hugetlb-v1",
    "mshv_kho-v1",
    "no version at all",
];

struct Opaque(CompatList<'static>);

impl<M: Home> Preserve<M> for Opaque {
    fn compat(&self) -> CompatList<'static> {
        self.0
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        scope.blob(&1_u32.to_le_bytes())
    }
}

fn words(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// A machine with everything that Linux hands over: its memory, and where the root and the tree are.
struct Machine {
    segments: Vec<(u64, Vec<u8>)>,
    root: u64,
    disk: Vec<u8>,
}

fn machine(geometry: Geometry) -> Machine {
    machine_at(geometry, BASE)
}

fn machine_at(geometry: Geometry, base: u64) -> Machine {
    let first = Pfn::new(base >> geometry.page_shift()).unwrap();
    let scratch = PhysRange::new(PhysAddr::new(1 << 30), 512 << 20).unwrap();
    let ram = Ram::new(geometry, PageRange::new(first, 512).unwrap());
    let mut outgoing = Outgoing::for_linux(ram, &[scratch]).unwrap();
    let page = geometry.page_size() as usize;
    let order = |order| Order::new(order).unwrap();
    let (disk, folio) = (words(5 * page + 77), words(page));
    let payload = Payload { folios: vec![(order(0), &folio), (order(1), &folio)], rule: Rule::Folded };
    outgoing.preserve("kho_test", &payload).unwrap();
    let memfd = |bytes, order| NewContent::Memfd(Contents::new(geometry, bytes, order));
    let files = vec![
        NewFile { token: 0xabc, content: memfd(&disk, order(2)) },
        NewFile { token: 2, content: memfd(&[], order(0)) },
    ];
    let strangers = HANDLERS.iter().zip(1..).map(|(compatible, token)| NewFile {
        token,
        content: NewContent::Opaque { compatible: (*compatible).into(), data: 0x1234_5678 + token },
    });
    let sessions = vec![
        NewSession { name: b"vm".into(), files },
        NewSession { name: b"strangers".into(), files: strangers.collect() },
    ];
    let flbs = vec![Flb { name: b"flb".as_slice().into(), data: 7, count: 2 }];
    outgoing.preserve("LUO", &Sessions { number: 3, sessions, flbs }).unwrap();
    let size = 2 * page as u64;
    let range = NewRange { name: "ramoops".into(), size, align: size, bytes: b"the last words" };
    outgoing.preserve("memblock", &Ranges { ranges: vec![range] }).unwrap();
    let metadata = Metadata { previous_release: "7.3.4".into(), kexec_count: 2 };
    outgoing.preserve("kexec-metadata", &metadata).unwrap();
    for (name, compat) in NODES {
        let list = match compat.name() {
            "pci" => CompatList::new(Compat::new("pci", 1), &[]),
            "iommu" => CompatList::new(Compat::new("iommu", 1), &[]),
            _ => CompatList::new(Compat::new("cpu_fh", 1), &[]),
        };
        outgoing.preserve(name, &Opaque(list)).unwrap();
    }
    let (ram, root) = outgoing.finish().unwrap().into_parts();
    let segments = ram.segments().map(|(at, bytes)| (at.get(), bytes)).collect();
    Machine { segments, root: root.start().get(), disk }
}

/// Header and program headers of a core: virtual address, physical address, offset in the file, bytes.
fn headers(segments: &[[u64; 4]]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(64_u64.to_le_bytes());
    bytes.extend([0; 12]);
    for half in [64_u16, 56, segments.len() as u16, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    assert_eq!(bytes.len(), 64);
    for [virt, phys, offset, size] in segments {
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(6_u32.to_le_bytes());
        for word in [*offset, *virt, *phys, *size, *size, 0x1000] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}

impl Machine {
    /// What QEMU writes: each range once, by physical address, or once for each mapping when it follows the page tables.
    fn core(&self, path: &Path, paging: bool) {
        let mut segments = Vec::new();
        let mut offset = 0x10000;
        let file = File::create(path).unwrap();
        for (at, bytes) in &self.segments {
            file.write_all_at(bytes, offset).unwrap();
            let size = bytes.len() as u64;
            if paging {
                // The direct mapping, and some of it again where the kernel's text is.
                segments.push([0xffff_8880_0000_0000 + at, *at, offset, size]);
                segments.push([
                    (0xffff_ffff_8000_0000_u64).wrapping_add(*at),
                    *at + 0x1000,
                    offset + 0x1000,
                    size - 0x1000,
                ]);
            } else {
                segments.push([0, *at, offset, size]);
            }
            offset += size;
        }
        file.write_all_at(&headers(&segments), 0).unwrap();
    }

    fn raw(&self, path: &Path, before: u64) {
        let file = File::create(path).unwrap();
        for (at, bytes) in &self.segments {
            file.write_all_at(bytes, before + at - BASE).unwrap();
        }
    }

    fn end(&self) -> u64 {
        let (at, bytes) = self.segments.last().unwrap();
        at + bytes.len() as u64
    }

    /// Changes bytes of the machine.
    fn poke(&mut self, address: u64, bytes: &[u8]) {
        let (at, to) = self.segments.iter_mut().rev().find(|(at, _)| *at <= address).unwrap();
        to[(address - *at) as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

fn holds_everything(opened: &Opened, machine: &Machine) {
    let decoded = &opened.decoded;
    assert_eq!(decoded.errors, 0, "{:?}", decoded.findings);
    let content = |name: &str| decoded.nodes.iter().find(|node| node.name == name).unwrap().content.as_ref().unwrap();
    let Content::KhoTest { rule: Rule::Folded, folios, .. } = content("kho_test") else { panic!() };
    assert_eq!(folios.iter().map(|folio| folio.1).collect::<Vec<_>>(), [0, 1]);
    let Content::Luo { number: 3, sessions, flbs } = content("LUO") else { panic!() };
    assert_eq!(sessions.iter().map(|session| session.files.len()).collect::<Vec<_>>(), [2, HANDLERS.len()]);
    assert_eq!((flbs.len(), flbs[0].data), (1, 7));
    let Content::Memblock { ranges } = content("memblock") else { panic!() };
    assert_eq!(
        (ranges[0].name.to_string().as_str(), ranges[0].size),
        ("ramoops", 2 * decoded.page_size.as_ref().unwrap().bytes)
    );
    let Content::KexecMetadata(metadata) = content("kexec-metadata") else { panic!() };
    assert_eq!(metadata.kexec_count, 2);
    let mut bytes = Vec::new();
    opened.stream(&opened.find(b"vm/0xabc").unwrap(), &mut bytes).unwrap();
    assert!(bytes == machine.disk);
    bytes.clear();
    opened.stream(&opened.find(b"memblock/ramoops").unwrap(), &mut bytes).unwrap();
    assert!(bytes.starts_with(b"the last words\0") && bytes.len() as u64 == ranges[0].size);
}

fn temp() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory");
    (dir, path)
}

#[test]
fn every_structure_of_machines_of_all_page_sizes() {
    for geometry in Geometry::ALL {
        let (machine, (_dir, path)) = (machine(geometry), temp());
        for paging in [false, true] {
            machine.core(&path, paging);
            let opened = Opened::open(&path, &Options::default()).unwrap();
            let page = opened.decoded.page_size.as_ref().unwrap();
            assert_eq!((page.bytes, page.by), (geometry.page_size(), PageSizeBy::Tree));
            assert_eq!(opened.decoded.root.address, Some(machine.root));
            holds_everything(&opened, &machine);
        }
        let shown = run(0, &["dump", path.to_str().unwrap()]);
        let size = geometry.page_size() >> 10;
        assert!(shown.contains(&format!("pages of {size} KiB (with them its tree preserves its root)")), "{shown}");
        let shown = run(0, &["dump", path.to_str().unwrap(), "--page-size", &geometry.to_string()]);
        assert!(shown.contains("(as --page-size says)"), "{shown}");
    }
}

#[test]
fn what_is_in_the_making_is_opaque_and_never_fatal() {
    let (machine, (_dir, path)) = (machine(Geometry::K4), temp());
    machine.core(&path, false);
    let decoded = json(0, &["dump", path.to_str().unwrap()]);
    assert_eq!(decoded["errors"], 0);
    for (name, compat) in NODES {
        let node = node(&decoded, name);
        assert_eq!((&node["verdict"], &node["compatible"]), (&json!("opaque"), &json!([compat.to_string()])), "{name}");
        assert_eq!((&node["blob"]["size"], &node["content"]["first_bytes"]), (&json!(4), &json!("01000000")), "{name}");
    }
    let files = &node(&decoded, "LUO")["content"]["sessions"][1]["files"];
    let told = |item: &str| {
        let findings = decoded["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["item"] == item);
        finding.map(|finding| (finding["code"].clone(), finding["found"].clone()))
    };
    for (number, name) in HANDLERS.iter().enumerate() {
        let token = number as u64 + 1;
        assert_eq!(
            files[number],
            json!({"token": token, "compatible": name, "data": 0x1234_5678 + token, "memfd": null})
        );
        let item = format!("sessions[strangers].files[{token:#x}].compatible");
        assert_eq!(told(&item), Some((json!("component-opaque"), json!(name))), "{name}");
    }
    run(0, &["check", path.to_str().unwrap()]);
}

#[test]
fn the_layout_of_kcore() {
    let (machine, (_dir, path)) = (machine(Geometry::K4), temp());
    // Virtual addresses, offsets that follow from them, -1 for what has no physical address, and a file of 8 TiB.
    let file = File::create(&path).unwrap();
    let far = 8 << 40;
    let mut segments = vec![[0xffff_c900_0000_0000, u64::MAX, 0x10000, 1 << 40]];
    for (at, bytes) in &machine.segments {
        file.write_all_at(bytes, far + at).unwrap();
        segments.push([0xffff_8880_0000_0000 + at, *at, far + at, bytes.len() as u64]);
    }
    file.write_all_at(&headers(&segments), 0).unwrap();
    let opened = Opened::open(&path, &Options::default()).unwrap();
    holds_everything(&opened, &machine);
    let size: usize = machine.segments.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(opened.decoded.source.bytes, size as u64);
}

#[test]
fn of_a_sparse_core_of_512_gib_only_what_is_needed_is_read() {
    let (machine, (_dir, path)) = (machine(Geometry::K4), temp());
    let file = File::create(&path).unwrap();
    file.set_len(0x1000 + (512 << 30)).unwrap();
    file.write_all_at(&headers(&[[0, 0, 0x1000, 512 << 30]]), 0).unwrap();
    for (at, bytes) in &machine.segments {
        file.write_all_at(bytes, 0x1000 + at).unwrap();
    }
    let read = |options: &Options| {
        let opened = Opened::open(&path, options).unwrap();
        assert_eq!(opened.decoded.source.bytes, 512 << 30);
        assert_eq!(opened.decoded.errors, 0, "{:?}", opened.decoded.findings);
        opened.image().unwrap().bytes_read()
    };
    let searched = read(&Options::default());
    let known = read(&Options { fdt: Some(PhysAddr::new(machine.root)), ..Options::default() });
    // 40 bytes of each page that is there, and of the tree, the lists and the folios with a checksum each once or twice.
    assert!(searched < 512 << 10, "{searched}");
    assert!(known < searched, "{known} {searched}");
    // A memory that is not sparse is not read whole either when the root is known: what was never read is never missed.
    let source = json(0, &["dump", path.to_str().unwrap(), "--fdt", &format!("{:#x}", machine.root)])["source"].take();
    assert_eq!(source["bytes"], 512_u64 << 30);
}

#[test]
fn raw_memory_behind_an_offset() {
    let (machine, (_dir, path)) = (machine(Geometry::K16), temp());
    machine.raw(&path, 0x3000);
    let args = ["dump", path.to_str().unwrap(), "--base", "4GiB", "--offset", "12K"];
    let decoded = json(0, &args);
    assert_eq!((&decoded["errors"], &decoded["root"]["address"]), (&json!(0), &json!(machine.root)));
    assert_eq!(decoded["page_size"], json!({"bytes": 16384, "by": "tree"}));
    assert!(run(2, &[&args[..5], &["1T"]].concat()).contains("truncated"));
    assert_eq!(kho(["dump", path.to_str().unwrap(), "--offset", "12K"]).status.code(), Some(2));
}

#[test]
fn a_device_whose_memory_cannot_all_be_read() {
    // The memory of this process is such a device: no size, no holes, and most addresses give an error.
    let mut memory = vec![0_u8; 1 << 20 << 2];
    let base = (memory.as_ptr() as u64).next_multiple_of(1 << 20);
    let machine = machine_at(Geometry::K4, base);
    let skip = (base - memory.as_ptr() as u64) as usize;
    for (at, bytes) in &machine.segments {
        memory[skip + (at - base) as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    let open = |iomem: &str| Image::device(File::open("/proc/self/mem").unwrap(), iomem);
    let end = machine.end() - 1;
    let iomem = format!(
        "00000000-00000fff : Reserved\n00001000-00005fff : System RAM\n\
         {base:08x}-{end:08x} : System RAM\n  {base:08x}-{end:08x} : Kernel code\n"
    );
    let opened = Opened::of(open(&iomem).unwrap(), &Options { live: true, ..Options::default() }).unwrap();
    holds_everything(&opened, &machine);
    let told: Vec<_> = opened.decoded.findings.iter().filter(|finding| finding.code == Code::Unread).collect();
    assert_eq!((told.len(), told[0].address), (1, Some(0x1000)));
    assert!(told[0].found.starts_with("5 pages, of which the first says: Input/output error"), "{}", told[0].text);
    // Nothing can be read, and so nothing is known.
    let error = Opened::of(open("00001000-00004fff : System RAM").unwrap(), &Options::default()).unwrap_err();
    assert_eq!((error.fault.code(), error.fault.at().address), (Code::Io, Some(0x1000)));
    // What users that are not root see of /proc/iomem.
    let fault = open("00000000-00000000 : System RAM\n00000000-00000000 : System RAM").unwrap_err();
    assert_eq!((fault.code(), fault.found_text()), (Code::Io, "no addresses of System RAM"));
    for hostile in [
        "",
        " : System RAM",
        "5-1 : System RAM",
        "x-y : System RAM",
        "-: System RAM",
        "0-ffffffffffffffff : System RAM",
    ] {
        let _ = open(hostile).map(|image| image.extents().len());
    }
}

#[test]
fn memory_that_changes_while_it_is_read_is_told() {
    let (machine, (_dir, path)) = (machine(Geometry::K4), temp());
    machine.raw(&path, 0);
    let options = Options { base: Some(PhysAddr::new(BASE)), live: true, ..Options::default() };
    let steady = Opened::open(&path, &options).unwrap();
    holds_everything(&steady, &machine);
    assert!(!steady.decoded.findings.iter().any(|finding| finding.code == Code::ChangedWhileRead));

    // The number of the live update, which counts up as fast as it can.
    let blob = steady.decoded.nodes.iter().find(|node| node.name == "LUO").unwrap().blob.unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 4_u64.. {
                file.write_all_at(&number.to_le_bytes(), blob.address - BASE + 8).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut told = None;
        // On a busy machine the other thread may stand still for some readings.
        let start = std::time::Instant::now();
        while start.elapsed().as_secs() < 60 {
            let opened = Opened::open(&path, &options).unwrap();
            told = opened.decoded.findings.into_iter().find(|finding| finding.code == Code::ChangedWhileRead);
            if told.is_some() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let told = told.expect("a counter that stood still for a minute");
        assert_eq!(
            (told.node.as_str(), told.address, told.found.as_str()),
            ("/", Some(machine.root), "6 readings, no two of them the same")
        );
    });
    // Once it is quiet it is consistent again, and what is told is of one moment.
    let opened = Opened::open(&path, &options).unwrap();
    assert_eq!(opened.decoded.errors, 0);
}

#[test]
fn the_tree_of_what_came_in_is_the_next_kernels_memory() {
    let mut machine = machine(Geometry::K4);
    let (_dir, path) = temp();
    machine.core(&path, false);
    let map = json(0, &["dump", path.to_str().unwrap()])["root"]["preserved_memory_map"].as_u64().unwrap();
    let told = |decoded: &Value| {
        let findings = decoded["findings"].as_array().unwrap();
        let stale = findings.iter().find(|finding| finding["code"] == "stale").unwrap();
        assert!(stale["found"].as_str().unwrap().contains("its pages are not preserved"), "{stale}");
        assert_eq!((&stale["severity"], &stale["item"]), (&json!("warning"), &json!("preserved-memory-map")));
        findings[0]["code"].as_str().unwrap().to_owned()
    };
    // Somebody's data, and a page that was cleared.
    machine.poke(map, &words(4096));
    machine.core(&path, false);
    let output = kho(["dump", "--format", "json", path.to_str().unwrap()]);
    let decoded: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(["radix-key", "unaligned", "outside"].contains(&told(&decoded).as_str()), "{decoded}");
    assert_eq!(decoded["nodes"].as_array().unwrap().len(), 7, "what the root says is shown all the same");
    machine.poke(map, &[0; 4096]);
    machine.core(&path, false);
    let output = kho(["dump", "--format", "json", path.to_str().unwrap()]);
    assert_eq!(told(&serde_json::from_slice(&output.stdout).unwrap()), "not-preserved");
    let checked = kho(["check", path.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(1), "a successor would lose it all");
}
