//! The plan of a large handover: time, beside reading its metadata once, and memory.
//!
//! `cargo bench -p kho-benches --bench plan`
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::atomic::Ordering;

use kho::compat::{Compat, CompatList};
use kho::handover::{Incoming, Outgoing, Registry, Verdict};
use kho::mem::{Frame, Frames as _, Memory as _, Order, PhysAddr};
use kho::payload::{ARRAY_USE, Array, ArrayNode, RECORDS_USE, Records, RecordsNode};
use kho::transport::Bundle;
use kho_benches::memory::{Counting, NOW, PEAK};
use kho_benches::{Contest, quick};

const PAGES_IS: CompatList<'static> = CompatList::new(Compat::new("bench-pages", 1), ARRAY_USE);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Handover {
    memory: &'static Bundle,
    root: PhysAddr,
    root_size: u64,
    metadata: u64,
    nodes: usize,
}

/// So many pages, no two of them neighbours for long, dealt out to the nodes at random.
fn handover(nodes: usize, pages: usize) -> Handover {
    let mut outgoing = Outgoing::new(Bundle::new(64 << 30).unwrap());
    let frames: Vec<Frame> = (0..4 * pages).map(|_| outgoing.alloc(Order::ZERO).unwrap()).collect();
    let mut seed = 7_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let mut scattered: Vec<(u64, Frame)> = frames.into_iter().map(|frame| (random(), frame)).collect();
    scattered.sort_unstable_by_key(|(key, _)| *key);
    let frames: Vec<Frame> = scattered.into_iter().take(pages).map(|(_, frame)| frame).collect();
    for (number, frames) in frames.chunks(pages / nodes).enumerate() {
        let bytes = frames.len() as u64 * outgoing.geometry().page_size();
        outgoing.preserve(&format!("node-{number}"), &Array { made_of: PAGES_IS, frames, bytes }).unwrap();
    }
    let finished = outgoing.finish().unwrap();
    let metadata = finished.metadata_bytes();
    let (memory, root) = finished.into_parts();
    Handover { memory: Box::leak(Box::new(memory)), root: root.start(), root_size: root.size(), metadata, nodes }
}

fn plan(handover: &Handover) {
    let mut registry: Registry<&'static Bundle> = Registry::new();
    for number in 0..handover.nodes {
        let _handle = registry.read(&format!("node-{number}"), ArrayNode { made_of: PAGES_IS });
    }
    let plan = Incoming::new(handover.memory, handover.root).plan(&registry);
    assert_eq!((plan.verdict(), plan.findings().warnings()), (Verdict::Fine, 0), "{}", plan.findings());
    black_box(plan);
}

const TABLE_IS: CompatList<'static> = CompatList::new(Compat::new("bench-table", 1), RECORDS_USE);

/// A table of fixed-size records, planned, beside copying as many bytes.
fn table(count: usize) {
    let records: Vec<[u8; 40]> = (0..count).map(|number| [number as u8; 40]).collect();
    let mut outgoing = Outgoing::new(Bundle::new(1 << 30).unwrap());
    outgoing.preserve("table", &Records { made_of: TABLE_IS, records: &records }).unwrap();
    let (memory, root) = outgoing.finish().unwrap().into_parts();
    let memory: &'static Bundle = Box::leak(Box::new(memory));
    let mut contest = Contest::new(format!("plan: a table of {count} records of 40 bytes, per record"), count as u64);
    contest.entry("kho, the whole plan", || {
        let mut registry: Registry<&'static Bundle> = Registry::new();
        let _handle = registry.read("table", RecordsNode::<[u8; 40]>::new(TABLE_IS));
        let plan = Incoming::new(memory, root.start()).plan(&registry);
        assert_eq!(plan.verdict(), Verdict::Fine);
        black_box(plan);
    });
    contest.entry("copying as many bytes in memory", || drop(black_box(records.clone())));
    contest.run();
}

fn main() {
    table(100_000);
    let (nodes, pages) = if quick() { (100, 100_000) } else { (1_000, 1_000_000) };
    let handover = handover(nodes, pages);
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    plan(&handover);
    let peak = (PEAK.load(Ordering::Relaxed) - before) as f64 / f64::from(1 << 20);
    let metadata = handover.metadata as f64 / f64::from(1 << 20);
    println!(
        "memory of the plan: {peak:.1} MiB at most; metadata {metadata:.1} MiB, of it the root FDT {:.1} MiB; ratio {:.2}",
        handover.root_size as f64 / f64::from(1 << 20),
        peak / metadata
    );
    let mut contest = Contest::new(format!("plan: {pages} scattered pages in {nodes} nodes, per page"), pages as u64);
    contest.entry("kho, the whole plan", || plan(&handover));
    contest.entry("reading as many bytes once", || {
        let mut page = vec![0; 4096];
        for number in 0..handover.metadata / 4096 {
            let at = handover.root.get() + number % handover.root_size.div_ceil(4096) * 4096;
            handover.memory.read(PhysAddr::new(at), &mut page).unwrap();
            black_box(&page);
        }
    });
    let medians = contest.run();
    println!("the whole plan: {:.1} ms", medians[0] * pages as f64 / 1e6);
}
