//! Handovers that this library authors for a machine, of the sessions that `scenario.rs` names.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use kho::compat::{Compat, CompatList};
use kho::handover::{Incoming, Outgoing, Registry};
use kho::linux::Boot;
use kho::luo::{FileContent, Flb, LuoNode, NewContent, NewFile, NewSession, Sessions};
use kho::mem::{Folio, Geometry, Memory as _, Order, PageRange, PhysAddr, PhysRange, Ram};
use kho::memblock::{MemblockNode, NewRange, Ranges};
use kho::memfd::{Contents, NewFolio};
use kho::metadata::{Metadata, MetadataNode};
use kho::payload::Bytes;
use kho::selftest::{Payload, Rule, SelfTestNode};

use super::scenario::{self, Memfd, PAGE};

pub(crate) const MIB: u64 = 1 << 20;

/// Where things are in the machine that is to restore it.
pub(crate) struct Place {
    /// Where the handover is authored.
    pub(crate) window: PhysRange,
    /// What is there when the machine starts, and is said so.
    pub(crate) kernel: PhysRange,
    pub(crate) scratch: [PhysRange; 3],
    /// How its kernel sums.
    pub(crate) rule: Rule,
    /// Nodes that no kernel knows.
    pub(crate) strangers: usize,
}

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

pub(crate) struct Authored {
    pub(crate) ram: Ram,
    pub(crate) boot: Boot,
    /// Address and order of each folio of a memfd.
    pub(crate) folios: BTreeSet<(u64, u32)>,
    /// What the guest says of its memory and of each file, before and after Linux filled the holes.
    pub(crate) says: [Vec<String>; 2],
    /// What the guest reads.
    pub(crate) plan: String,
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

pub(crate) fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

pub(crate) fn author(scenario: &str, place: &Place) -> Authored {
    let window = PageRange::around(place.window, Geometry::K4).unwrap();
    let mut ram = Ram::new(Geometry::K4, window);
    // Not in the window, but said: what lies there when the machine starts.
    ram.keep_out("kernel", place.kernel).unwrap();
    let mut outgoing = Outgoing::for_linux(ram, &place.scratch).unwrap();

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
    outgoing.preserve("kho_test", &Payload { folios, rule: place.rule }).unwrap();
    let kept = noise(MIB as usize);
    let reserved = NewRange { name: "testmem".into(), size: MIB, align: 65536, bytes: &kept };
    outgoing.preserve("memblock", &Ranges { ranges: vec![reserved] }).unwrap();
    let metadata = Metadata { previous_release: "0.1-authored".into(), kexec_count: 1 };
    outgoing.preserve("kexec-metadata", &metadata).unwrap();

    for number in 0..place.strangers {
        let made_of = CompatList::new(Compat::new("stranger", 1), &[]);
        outgoing.preserve(&format!("stranger{number}"), &Bytes { made_of, bytes: b"?" }).unwrap();
    }

    let finished = outgoing.finish().unwrap();
    let left_out: Vec<_> = finished.warnings().iter().map(|warning| warning.at().item.clone().unwrap()).collect();
    assert_eq!(left_out, if place.strangers > 0 { vec!["mem", "compatible"] } else { vec![] });
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
