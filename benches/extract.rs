//! `Opened::extract` of 1 GiB, beside `cp` of as many bytes in the same directory.
//!
//! `cargo bench -p kho-benches --bench extract`; `KHO_BENCH_DIR` says where (a disk, or /dev/shm), else where temporary
//! files are. Both are processes of their own, so that the system holds nothing else against one of them (who has written
//! gigabytes is made to wait); what they read is on the disk and in memory, what they write need not reach the disk.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kho::abi::memfd::{FOLIO_DIRTY, FOLIO_UPTODATE, Folio, Memfd, PFN_BITS};
use kho::compat::CompatList;
use kho::handover::{Blob, Outgoing, Preserve, Scope};
use kho::inspect::{Opened, Options};
use kho::mem::{Arena, Memory as _, Order};
use kho::memfd::MADE_OF;
use kho::report::Fault;
use kho::vmalloc;
use kho_benches::quick;
use zerocopy::IntoBytes as _;

/// A memfd whose folios were allocated and not written: the file that the arena is copied to gets the bytes.
struct Sparse {
    order: Order,
    bytes: u64,
    shuffled: bool,
}

impl Preserve<Arena> for Sparse {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Arena>) -> Result<Blob, Fault> {
        let geometry = scope.geometry();
        let count = self.bytes / self.order.bytes(geometry);
        let mut frames = (0..count).map(|_| scope.alloc_bulk(self.order)).collect::<Result<Vec<_>, _>>()?;
        if self.shuffled {
            let mut seed = 7_u64;
            frames.sort_by_cached_key(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                seed >> 33
            });
        }
        let flags = (FOLIO_DIRTY | FOLIO_UPTODATE) << PFN_BITS;
        let record = |(number, frame): (u64, &kho::mem::Frame)| Folio {
            pfn_flags: (frame.folio().pfn().get() | flags).into(),
            index: (number * self.order.pages()).into(),
        };
        let records: Vec<Folio> = (0..).zip(&frames).map(record).collect();
        let folios = vmalloc::store_bytes(scope, Order::ZERO, records.as_bytes())?.descriptor;
        let (size, nr_folios) = (self.bytes.into(), count.into());
        let wire = Memfd { pos: 0.into(), size, seals: 0.into(), flags: 0.into(), nr_folios, folios };
        scope.blob(wire.as_bytes())
    }
}

/// An arena as a file, whose memfd is full of noise.
fn image(dir: &Path, memfd: &Sparse) -> PathBuf {
    let mut outgoing = Outgoing::new(Arena::new(4 << 30).unwrap());
    outgoing.preserve("memfd", memfd).unwrap();
    let (arena, _) = outgoing.finish().unwrap().into_parts();
    let end = arena.size();
    let path = dir.join("image");
    let from = File::from(arena.into_fd().unwrap());
    let to = File::create(&path).unwrap();
    to.set_len(end).unwrap();
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
        let hole = rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(data)).unwrap();
        let mut bytes = vec![0; (hole - data) as usize];
        from.read_exact_at(&mut bytes, data).unwrap();
        to.write_all_at(&bytes, data).unwrap();
        at = hole;
    }
    let opened = Opened::open(&path, &Options::default()).unwrap();
    assert_eq!(opened.decoded.errors, 0, "{:?}", opened.decoded.findings);
    let Some(kho::inspect::Content::Memfd(memfd)) = &opened.decoded.nodes[0].content else { panic!() };
    let base = opened.image().unwrap().extents()[0].start();
    let mut noise = vec![0_u8; 1 << 20];
    for (number, word) in (1_u64..).zip(noise.chunks_mut(8)) {
        word.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    // In large pieces, as a dump is written: what was written page by page, the page cache of a disk has page by page.
    let starts = || memfd.folios.iter().map(|&(address, ..)| address);
    let end = memfd.folios.iter().map(|&(address, order, _)| address + (4096 << order)).max().unwrap();
    let (first, all) = (starts().min().unwrap(), memfd.folios.iter().map(|&(_, order, _)| 4096 << order).sum::<u64>());
    assert_eq!(end - first, all, "the folios are all that is there");
    for at in (0..all).step_by(noise.len()) {
        let piece = &noise[..noise.len().min((all - at) as usize)];
        to.write_all_at(piece, first + at - base.get() + 4096).unwrap();
    }
    path
}

fn contest(dir: &Path, title: &str, memfd: &Sparse) {
    let path = image(dir, memfd);
    let (plain, out) = (dir.join("plain"), dir.join("out"));
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    let extract = |to: &Path| run(Command::new(std::env::current_exe().unwrap()).arg(CHILD).arg(&path).arg(to));
    let copy = |to: &Path| run(Command::new("cp").arg(&plain).arg(to));
    // What cp copies is what was extracted.
    extract(&plain);
    for file in [&path, &plain] {
        File::open(file).unwrap().sync_all().unwrap();
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..if quick() { 2 } else { 7 } {
        for (work, times) in [&extract as &dyn Fn(&Path), &copy].into_iter().zip(&mut times) {
            let start = Instant::now();
            work(&out);
            times.push(start.elapsed().as_secs_f64());
            std::fs::remove_file(&out).unwrap();
        }
    }
    let [kho, cp] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    let speed = |time: f64| memfd.bytes as f64 / time / f64::from(1 << 30);
    println!(
        "| {title:<44} | kho {:.2} GiB/s | cp {:.2} GiB/s | kho has {:.0} % of the speed of cp |",
        speed(kho),
        speed(cp),
        cp / kho * 100.0
    );
    for file in [path, plain] {
        std::fs::remove_file(file).unwrap();
    }
}

const CHILD: &str = "extract-in-this-process";

/// All of it: the image is decoded, too.
fn child(image: &Path, to: &Path) {
    let opened = Opened::open(image, &Options::default()).unwrap();
    let item = opened.find(b"memfd").unwrap();
    let done = opened.extract(&item, &File::create_new(to).unwrap()).unwrap();
    assert_eq!((Some(done.bytes), done.holes), (item.size(), 0));
}

fn main() {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if let [first, image, to] = &args[..]
        && first == Path::new(CHILD)
    {
        return child(image, to);
    }
    let dir = std::env::var_os("KHO_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("kho-bench-extract-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let bytes = if quick() { 16 << 20 } else { 1 << 30 };
    let order = |order| Order::new(order).unwrap();
    for (title, order, shuffled) in [
        ("extract a memfd, folios of 2 MiB", order(9), false),
        ("extract a memfd, neighbouring pages", order(0), false),
        ("extract a memfd, scattered pages", order(0), true),
    ] {
        contest(&dir, title, &Sparse { order, bytes, shuffled });
    }
    std::fs::remove_dir(&dir).unwrap();
}
