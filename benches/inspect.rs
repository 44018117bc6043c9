//! Decoding a machine of a million pages in ten thousand files: time, beside reading the same metadata once, and memory.
//!
//! `cargo bench -p kho-benches --bench inspect`
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::hint::black_box;
use std::sync::atomic::Ordering;

use kho::abi::luo::{self, Head, Session};
use kho::abi::memfd::{FOLIO_DIRTY, FOLIO_UPTODATE, Folio, Memfd, PFN_BITS};
use kho::block::BlockSet;
use kho::compat::CompatList;
use kho::handover::{Blob, Outgoing, Preserve, Scope};
use kho::inspect::{Content, Opened, Options};
use kho::mem::{Arena, Frame, Frames as _, Geometry, Image, Memory as _, Order, PhysAddr, PhysRange};
use kho::report::Fault;
use kho::vmalloc;
use kho_benches::memory::{Counting, NOW, PEAK};
use kho_benches::{Contest, quick};
use zerocopy::IntoBytes as _;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A machine's sessions: files of scattered pages to which nobody wrote.
struct Machine<'a> {
    sessions: usize,
    files: usize,
    /// Dealt out to the files.
    pages: &'a [Frame],
}

impl Preserve<Arena> for Machine<'_> {
    fn compat(&self) -> CompatList<'static> {
        kho::luo::MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Arena>) -> Result<Blob, Fault> {
        let geometry = scope.geometry();
        self.pages.iter().try_for_each(|frame| scope.preserve(frame))?;
        let mut files = Vec::new();
        let flags = (FOLIO_DIRTY | FOLIO_UPTODATE) << PFN_BITS;
        for (token, pages) in (0_u64..).zip(self.pages.chunks(self.pages.len() / self.files)) {
            let record = |(index, frame): (u64, &Frame)| Folio {
                pfn_flags: (frame.folio().pfn().get() | flags).into(),
                index: index.into(),
            };
            let records: Vec<Folio> = (0..).zip(pages).map(record).collect();
            let folios = vmalloc::store_bytes(scope, Order::ZERO, records.as_bytes())?.descriptor;
            let (size, nr_folios) = ((pages.len() as u64 * geometry.page_size()).into(), (pages.len() as u64).into());
            let wire = Memfd { pos: 0.into(), size, seals: 0.into(), flags: 0.into(), nr_folios, folios };
            let data = scope.blob(wire.as_bytes())?.range().start().get().into();
            files.push(luo::File { compatible: kho::abi::memfd::COMPAT.to_fixed()?, data, token: token.into() });
        }
        let mut sessions = Vec::new();
        for (number, files) in files.chunks(self.files / self.sessions).enumerate() {
            let mut name = [0; luo::SESSION_NAME];
            name[..8].copy_from_slice(format!("vm-{number:05}").as_bytes());
            let count = (files.len() as u64).into();
            sessions.push(Session {
                name,
                files: BlockSet::from(files.to_vec()).store(scope)?.first.get().into(),
                count,
            });
        }
        let sessions = BlockSet::from(sessions).store(scope)?.first.get().into();
        let head = Head { compatible: luo::COMPAT.to_fixed()?, liveupdate_number: 1.into(), sessions, flbs: 0.into() };
        scope.blob(head.as_bytes())
    }
}

struct Dump {
    file: File,
    base: PhysAddr,
    root: PhysAddr,
}

impl Dump {
    fn new(sessions: usize, files: usize, pages: usize) -> Self {
        // As Linux has it: one page of root FDT, which does not say what the node owns.
        let scratch = PhysRange::new(PhysAddr::new(1 << 30), 64 << 20).unwrap();
        let mut outgoing = Outgoing::for_linux(Arena::new(64 << 30).unwrap(), &[scratch]).unwrap();
        let mut seed = 7_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        // Of four neighbours one, so that most ranges are one page.
        let mut frames: Vec<(u64, Frame)> =
            (0..4 * pages).map(|_| (random(), outgoing.alloc(Order::ZERO).unwrap())).collect();
        frames.sort_unstable_by_key(|(key, _)| *key);
        let pages: Vec<Frame> = frames.into_iter().take(pages).map(|(_, frame)| frame).collect();
        outgoing.preserve(luo::NODE, &Machine { sessions, files, pages: &pages }).unwrap();
        let (arena, root) = outgoing.finish().unwrap().into_parts();
        // The header page is no memory, and its address is that of the arena.
        let base = PhysAddr::new(arena.base().get());
        Dump { file: arena.into_fd().unwrap().into(), base, root: root.start() }
    }

    fn image(&self) -> Image {
        Image::raw(self.file.try_clone().unwrap(), self.base, Geometry::K4).unwrap()
    }

    fn decode(&self, options: &Options) -> Opened {
        Opened::of(self.image(), options).unwrap()
    }
}

const MIB: f64 = (1 << 20) as f64;

fn main() {
    let (sessions, files, pages) = if quick() { (3, 300, 30_000) } else { (10, 10_000, 1_000_000) };
    let dump = Dump::new(sessions, files, pages);
    let known = Options { fdt: Some(dump.root), ..Options::default() };
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let opened = dump.decode(&known);
    let peak = (PEAK.load(Ordering::Relaxed) - before) as f64 / MIB;
    let kept = (NOW.load(Ordering::Relaxed) - before) as f64 / MIB;
    let decoded = &opened.decoded;
    assert_eq!(decoded.errors, 0, "{:?}", decoded.findings);
    let Some(Content::Luo { sessions: found, .. }) = &decoded.nodes[0].content else { panic!() };
    assert_eq!(found.iter().map(|session| session.files.len()).sum::<usize>(), files);
    let preserved = decoded.preserved.as_ref().unwrap();
    let read = opened.image().unwrap().bytes_read();
    println!(
        "{} pages in {} ranges, {files} files; metadata read {:.1} MiB; memory {peak:.1} MiB at most, {kept:.1} MiB kept",
        preserved.pages,
        preserved.range_count,
        read as f64 / MIB
    );
    drop(opened);
    let mut contest = Contest::new(format!("decode {pages} pages in {files} files, per page"), pages as u64);
    contest.entry("kho, the root is known", || drop(black_box(dump.decode(&known))));
    contest.entry("kho, the root is searched", || drop(black_box(dump.decode(&Options::default()))));
    contest.entry("reading as many bytes once", || {
        // Page by page, as they lie.
        let (image, mut page, mut at) = (dump.image(), vec![0; 4096], dump.base);
        while image.bytes_read() < read {
            let Some(data) = image.next_data(at) else { break };
            at = data.start();
            while at < data.end() && image.bytes_read() < read {
                image.read(at, &mut page).unwrap();
                at = PhysAddr::new(at.get() + 4096);
            }
        }
        black_box(&page);
    });
    let medians = contest.run();
    // Of this process alone, whatever else the machine does.
    let processor = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
    };
    let start = processor();
    (0..5).for_each(|_| drop(black_box(dump.decode(&known))));
    println!(
        "the whole decoding: {:.1} ms, and {:.1} ms of one processor",
        medians[0] * pages as f64 / 1e6,
        (processor() - start) / 5.0
    );
}
