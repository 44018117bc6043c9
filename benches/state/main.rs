//! Saving and restoring state: time and size, beside formats that tolerate other versions, and formats that do not.
//!
//! `cargo bench -p kho-benches --bench state`, with `-- --quick` only to show that it runs, with `-- map` for one of them.
//!
//! Ratios are to the fastest version-tolerant peer of that direction (never to ours), or to a plain copy where there is
//! one; and to postcard. Below one is less time, or fewer bytes. Times include allocation; that results are freed is
//! not timed. Values are in the types that the format wants before the clock starts.
#![allow(clippy::unwrap_used)]

mod fill;
mod models;
mod ours;
mod peers;
mod proto;
mod table;
mod tolerance;

use std::hint::black_box;

use kho_benches::quick;
use ours::Ours;
use peers::{Bincode, Json, Memcpy, MessagePack, Postcard, Prost, Rkyv};
use table::Table;

/// The rows for types of serde's, with those that are not version-tolerant last; JSON has a place only where it is not
/// a gibibyte of digits.
macro_rules! rows {
    ($table:ident, $value:expr, $proto:expr, json: $json:expr) => {
        $table.row::<Prost, _>($proto);
        $table.row::<Ours, _>($value);
        if $json {
            $table.row::<Json, _>($value);
        }
        $table.row::<MessagePack, _>($value);
        $table.row::<Postcard, _>($value);
        $table.row::<Bincode, _>($value);
        $table.row::<Rkyv, _>($value);
    };
}

/// Lets the allocator have memory that it need not fetch from the kernel: a page fault in a virtual machine costs more
/// than all work on the page, and hits whoever goes first.
///
/// What is larger than 31 MiB comes fresh from the kernel each time, for every format: that is the third workload.
fn prime() -> impl Sized {
    // glibc takes this from the kernel, and once it is freed, keeps what is smaller, and twice that at the heap's end.
    drop(black_box(vec![1_u8; 31 << 20]));
    let many: Vec<Box<[u64; 512]>> = (0..1 << 14).map(|_| black_box(Box::new([1; 512]))).collect();
    // Freed memory goes back to the kernel only from the end of the heap: this stays there.
    let last = black_box(Box::new([1_u64; 512]));
    drop(many);
    last
}

fn main() {
    tolerance::check();
    let _last = prime();

    let wanted = |name: &str| {
        let mut names = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|arg| arg == name)
    };
    if wanted("vmm") {
        let vmm = fill::vmm(64, 40);
        let proto = proto::Vmm::from(&vmm);
        let mut table = Table::new("vmm: 64 virtual processors and 40 devices");
        rows!(table, &vmm, &proto, json: true);
        table.run();
    }
    if wanted("map") {
        let count = if quick() { 10_000 } else { 100_000 };
        // A copy lies in memory in the order of its keys, as prost's, which is made from it: where texts are scattered,
        // finding them is most of the time, and the format is the least.
        let map = fill::map(count).clone();
        let proto = proto::Map::from(&map);
        let mut table = Table::new(format!("map: an ordered map of {count} small records"));
        rows!(table, &map, &proto, json: true);
        table.run();
    }
    if wanted("pages") {
        let mebibytes = if quick() { 32 } else { 256 };
        let pages = fill::pages(mebibytes << 20);
        let proto = proto::Pages::from(&pages);
        let mut table = Table::new(format!("pages: {mebibytes} MiB of plain pages"));
        table.row::<Memcpy, _>(&pages);
        rows!(table, &pages, &proto, json: false);
        table.run();
    }
    // Huge pages make a page fault, and with it a fresh allocation, much cheaper.
    if let Ok(huge) = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled") {
        println!("transparent huge pages: {}", huge.trim());
    }
}
