//! Handovers that this library authors, restored by unmodified arm64 kernels, and what those hand on.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use kho::compat::{Compat, CompatList};
use kho::handover::{Incoming, Outgoing, Registry};
use kho::inspect::{Content, Decoded};
use kho::linux::{Boot, chosen};
use kho::luo::{FileContent, Flb, LuoNode, NewContent, NewFile, NewSession, Sessions};
use kho::mem::{Folio, Geometry, Memory as _, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram};
use kho::memblock::{MemblockNode, NewRange, Ranges};
use kho::memfd::{Contents, NewFolio};
use kho::metadata::{Metadata, MetadataNode};
use kho::payload::Bytes;
use kho::selftest::{Payload, Rule, SelfTestNode};

use crate::kernels::cpio::Cpio;
use crate::kernels::qemu::{self, Machine};
use crate::kernels::scenario::{self, Memfd, PAGE};
use crate::kernels::{Arch, Kernel, frozen, kernels, lacks, verdicts};

const MIB: u64 = 1 << 20;
/// Of `scenario.rs`: small files, more than a page of sessions, more than a page of files; and folios of 2 MiB.
const SCENARIOS: [&str; 2] = ["many", "huge"];
/// Nodes that no kernel knows, so many that the page of the root has no room for what only this library reads.
const STRANGERS: usize = 45;
/// Of QEMU's board `virt`.
const RAM: u64 = 0x4000_0000;
const MEMORY: u32 = 320;
/// Where the handover is authored.
const WINDOW: u64 = RAM + 160 * MIB;

/// The largest folios of a file, by its token.
fn order_of(scenario: &str, token: u64) -> u32 {
    if scenario == "huge" { 9 } else { [0, 2, 0, 4, 3, 1][(token % 6) as usize] }
}

/// The folios that have what was written into a file; each as large as the order and its place in the file allow.
/// Those of 2 MiB may pass the end of the file, as in Linux.
fn contents<'a>(file: &Memfd, bytes: &'a [u8], order: u32) -> Contents<'a> {
    let (pages, mut index, mut folios) = (file.size.div_ceil(PAGE), 0, Vec::new());
    while index < pages {
        let order = if order == 9 { 9 } else { order.min(index.trailing_zeros()).min((pages - index).ilog2()) };
        let order = Order::new(order).unwrap();
        let (from, end) = (index * PAGE, (index + order.pages()) * PAGE);
        if file.written.iter().any(|range| range.start < end && from < range.end) {
            let bytes = &bytes[from as usize..end.min(file.size) as usize];
            folios.push(NewFolio { index, order, bytes });
        }
        index += order.pages();
    }
    Contents { pos: file.pos, size: file.size, seals: file.seals_preserved(), folios }
}

struct Authored {
    ram: Ram,
    boot: Boot,
    /// Address and order of each folio of a memfd.
    folios: BTreeSet<(u64, u32)>,
    /// What the guest says of its memory and of each file, before and after Linux filled the holes.
    says: [Vec<String>; 2],
    /// What the guest reads.
    plan: String,
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn says(session: &str, file: &Memfd, bytes: &[u8], contents: &Contents<'_>, filled: bool) -> String {
    let (token, size, pos, seals) = (file.token, file.size, file.pos, file.seals_restored());
    let sum = fnv(bytes);
    let mut data: Vec<(u64, u64)> = Vec::new();
    for folio in &contents.folios {
        let (from, end) = (folio.index * PAGE, (folio.index + folio.order.pages()) * PAGE);
        match data.last_mut() {
            Some(last) if last.1 == from => last.1 = end,
            _ => data.push((from, end)),
        }
    }
    if filled && size > 0 {
        data = vec![(0, size)];
    }
    let data = data.iter().fold(String::new(), |mut text, (from, end)| {
        write!(text, "{from:x}-{:x},", end.min(&size)).unwrap();
        text
    });
    format!("file {session}/{token:x} size={size:x} pos={pos:x} seals={seals:x} mode=777 sum={sum:016x} data={data}")
}

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

fn author(scenario: &str) -> Authored {
    let window = PageRange::new(Pfn::new(WINDOW / PAGE).unwrap(), 64 * MIB / PAGE).unwrap();
    let mut ram = Ram::new(Geometry::K4, window);
    // Not in the window, but said: what lies there when the machine starts.
    ram.keep_out("kernel", range(RAM, 64 * MIB)).unwrap();
    let scratch = [range(RAM + 64 * MIB, 64 * MIB), range(0, 0), range(RAM + 128 * MIB, 32 * MIB)];
    let mut outgoing = Outgoing::for_linux(ram, &scratch).unwrap();

    let sessions = scenario::sessions(scenario);
    let files = sessions.iter().flat_map(|session| session.files.iter().map(|file| file.bytes(&session.name)));
    let bytes: Vec<Vec<u8>> = files.collect();
    let mut rest = bytes.iter();
    let (mut new, mut plan, mut said) = (Vec::new(), String::new(), [Vec::new(), Vec::new()]);
    for session in &sessions {
        writeln!(plan, "session {}", session.name).unwrap();
        let files = session.files.iter().map(|file| {
            writeln!(plan, "file {:x}", file.token).unwrap();
            let bytes = rest.next().unwrap();
            let contents = contents(file, bytes, order_of(scenario, file.token));
            for (said, filled) in said.iter_mut().zip([false, true]) {
                said.push(says(&session.name, file, bytes, &contents, filled));
            }
            NewFile { token: file.token, content: NewContent::Memfd(contents) }
        });
        new.push(NewSession { name: session.name.clone().into(), files: files.collect() });
    }
    // The test kernels count every file by three globals.
    let flbs = (0..3).map(|number| Flb {
        name: format!("liveupdate-test-flb-v{number}").as_bytes().into(),
        data: 0xfeed_f00d_cafe_bee0 + number,
        count: bytes.len() as u64,
    });
    outgoing.preserve("LUO", &Sessions { number: 1, sessions: new, flbs: flbs.collect() }).unwrap();
    let mut tested: Vec<Vec<u8>> = [1, 4096, 30_000, 100_000].map(noise).into();
    tested.push(Vec::new());
    let orders = [0, 0, 3, 5, 2].map(|order| Order::new(order).unwrap());
    let folios = orders.into_iter().zip(tested.iter().map(Vec::as_slice)).collect();
    outgoing.preserve("kho_test", &Payload { folios, rule: Rule::Folded }).unwrap();
    let kept = noise(MIB as usize);
    let reserved = NewRange { name: "testmem".into(), size: MIB, align: 65536, bytes: &kept };
    outgoing.preserve("memblock", &Ranges { ranges: vec![reserved] }).unwrap();
    let metadata = Metadata { previous_release: "0.1-authored".into(), kexec_count: 1 };
    outgoing.preserve("kexec-metadata", &metadata).unwrap();

    let strangers = if scenario == "huge" { STRANGERS } else { 0 };
    for number in 0..strangers {
        let made_of = CompatList::new(Compat::new("stranger", 1), &[]);
        outgoing.preserve(&format!("stranger{number}"), &Bytes { made_of, bytes: b"?" }).unwrap();
    }

    let finished = outgoing.finish().unwrap();
    let left_out: Vec<_> = finished.warnings().iter().map(|warning| warning.at().item.clone().unwrap()).collect();
    assert_eq!(left_out, if strangers > 0 { vec!["mem", "compatible"] } else { vec![] });
    let boot = finished.boot().unwrap();
    let (ram, root) = finished.into_parts();
    let (folios, start) = read_back(&ram, root.start());
    let memory = format!("memory {start:x} {:016x}", fnv(&kept));
    said.iter_mut().for_each(|said| said.insert(0, memory.clone()));
    plan.insert_str(0, &format!("memory {start:x} {MIB:x}\n"));
    Authored { ram, boot, folios, says: said, plan }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 21) as u8).collect()
}

/// Our own plan takes it: the folios of all memfds, and where the named range is.
fn read_back(ram: &Ram, root: PhysAddr) -> (BTreeSet<(u64, u32)>, u64) {
    // A copy of the memory, which the registry owns.
    let bytes = ram.extents()[0];
    let window = PageRange::around(bytes, Geometry::K4).unwrap();
    let mut copy = Ram::new(Geometry::K4, window);
    ram.segments().for_each(|(at, bytes)| copy.poke(at, &bytes).unwrap());
    let mut registry = Registry::observing();
    let luo = registry.read("LUO", LuoNode);
    let memblock = registry.read("memblock", MemblockNode);
    registry.read("kho_test", SelfTestNode);
    registry.read("kexec-metadata", MetadataNode);
    let plan = Incoming::new(copy, root).plan(&registry);
    assert_eq!(plan.findings().errors(), 0, "{}", plan.findings());
    let mut restored = plan.accept().unwrap().restore().unwrap();
    let luo = restored.take(&luo).unwrap();
    let memfds = luo.sessions.iter().flat_map(|session| &session.files).filter_map(|file| match &file.content {
        FileContent::Memfd(pages) => Some(&pages.folios),
        FileContent::Opaque => None,
    });
    let folio = |(folio, _): &(Folio, u64)| (folio.addr(Geometry::K4).get(), folio.order().get());
    let folios = memfds.flatten().map(folio).collect();
    (folios, restored.take(&memblock).unwrap().ranges[0].start.get())
}

/// The init, built now; none where its compiler is missing and need not be there.
fn init(folder: &Path) -> Option<Vec<u8>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/arm64-init.c");
    let program = folder.join("init");
    let mut command = Command::new("aarch64-linux-gnu-gcc");
    command.args(["-static", "-Os", "-Wall", "-Wextra", "-Werror", "-s", "-o"]).arg(&program).arg(&source);
    let Ok(output) = command.output() else {
        lacks("aarch64-gcc", "aarch64-linux-gnu-gcc (apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross)");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(std::fs::read(program).unwrap())
}

/// A machine that was handed this, with more in its initramfs.
fn machine(kernel: &Kernel, authored: &Authored, initramfs: Cpio) -> Machine {
    let machine = Machine::new(kernel, MEMORY, &initramfs.finish());
    let [image, dtb] = ["image", "virt.dtb"].map(|name| machine.dir().join(name));
    authored.ram.write_image(&File::create(&image).unwrap()).unwrap();
    let dump = format!("virt,dumpdtb={}", dtb.display());
    qemu::run(Arch::Arm64, ["-M", &dump, "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", &format!("{MEMORY}M")]);
    let told = chosen(&std::fs::read(&dtb).unwrap(), &authored.boot).unwrap();
    dtc_takes(&told, &authored.boot);
    std::fs::write(&dtb, told).unwrap();
    let loader = format!("loader,file={},addr={WINDOW:#x},force-raw=on", image.display());
    machine
        .args(["-dtb", dtb.to_str().unwrap(), "-device", &loader])
        .append("kho=on liveupdate=on reserve_mem=1M:65536:testmem printk.devkmsg=on")
}

fn base(init: &[u8], plan: &str) -> Cpio {
    let archive = Cpio::new().folder("dev").device("dev/console", 5, 1);
    archive.file("init", 0o755, init).file("plan", 0o644, plan.as_bytes())
}

/// The machine's tree, edited, is one for others too.
fn dtc_takes(dtb: &[u8], boot: &Boot) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dtb).unwrap();
    let Ok(output) = Command::new("dtc").args(["-q", "-I", "dtb", "-O", "dts"]).arg(file.path()).output() else {
        return lacks("dtc", "dtc (apt-get install device-tree-compiler)");
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, range) in [("fdt", boot.fdt), ("scratch", boot.scratch)] {
        let line = format!("linux,kho-{name} = <0x00 {:#x} 0x00 {:#x}>;", range.start().get(), range.size());
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert!(text.contains("stdout-path = \"/pl011@9000000\";") && text.contains("intc@8000000"), "{text}");
}

/// What the guest said of memory and files.
fn said(log: &str) -> Vec<&str> {
    let said = log.lines().filter_map(|line| line.trim_end().split_once("guest: "));
    said.map(|(_, said)| said).filter(|said| said.starts_with("file ") || said.starts_with("memory ")).collect()
}

/// What a kernel says that restored the first handover.
#[track_caller]
fn restored(log: &str) {
    for line in [
        "KHO: found kexec handover data",
        "test_kho: KHO restore succeeded",
        "luo: Retrieved live update data, liveupdate number: 1",
        "Revived memory reservation 'testmem' from KHO",
        "KHO: exec from: 0.1-authored (count 1)",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }
}

/// A kernel restores all of it, byte for byte.
#[test]
fn arm64_restores_what_was_authored() {
    let folder = tempfile::tempdir().unwrap();
    for kernel in kernels(Arch::Arm64) {
        let Some(init) = init(folder.path()) else { return };
        for scenario in SCENARIOS {
            let authored = author(scenario);
            let log = machine(&kernel, &authored, base(&init, &authored.plan)).start().finish();
            verdicts(&log, &["finished"]);
            restored(&log);
            assert_eq!(said(&log), authored.says[0], "{log}");
        }
    }
}

/// The kernel preserves again what it restored. The machine is frozen at that moment and decoded: the same sessions,
/// tokens, positions, seals and bytes, in the very folios that were authored. And the kernel after that has all of it.
#[test]
fn arm64_hands_on_what_was_authored() {
    let folder = tempfile::tempdir().unwrap();
    for kernel in kernels(Arch::Arm64) {
        let Some(init) = init(folder.path()) else { return };
        for scenario in SCENARIOS {
            let authored = author(scenario);
            let next = base(&init, &authored.plan).finish();
            let initramfs = base(&init, &authored.plan).file("kernel", 0o644, &kernel.bytes());
            let machine = machine(&kernel, &authored, initramfs.file("initrd", 0o644, &next));
            let mut guest = machine.with_gdb().with_qmp().start();
            let line = guest.wait_for("Linux version ");
            let release = line.split(' ').next().unwrap();
            let address = guest.wait_for("guest: machine_kexec ");
            let mut gdb = guest.gdb();
            guest.send(b"\n");
            gdb.run_to(u64::from_str_radix(&address, 16).unwrap());
            let core = guest.dir().join("core");
            guest.qmp().dump(&core);
            let decoded = frozen::check(&core, scenario, release, 2).decoded;
            let lost: Vec<_> = authored.folios.difference(&folios(&decoded)).copied().collect();
            assert!(lost.is_empty(), "{lost:x?}");

            gdb.detach();
            let log = guest.finish();
            verdicts(&log, &["finished", "preserved", "finished"]);
            restored(&log);
            assert_eq!(said(&log), authored.says.concat(), "{log}");
            for line in ["liveupdate number: 2", &format!("KHO: exec from: {release} (count 2)")] {
                assert!(log.contains(line), "{line}\n{log}");
            }
        }
    }
}

/// Address and order of each folio of a memfd.
fn folios(decoded: &Decoded) -> BTreeSet<(u64, u32)> {
    let sessions = decoded.nodes.iter().filter_map(|node| match &node.content {
        Some(Content::Luo { sessions, .. }) => Some(sessions),
        _ => None,
    });
    let files = sessions.flatten().flat_map(|session| &session.files).filter_map(|file| file.memfd.as_ref());
    files.flat_map(|memfd| &memfd.folios).map(|&(address, order, _)| (address, order)).collect()
}
