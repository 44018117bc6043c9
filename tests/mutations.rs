//! A frozen machine with bytes changed at random, near what is read: whatever it becomes, it is read in bounded time,
//! shown in all forms, and taken out as far as it goes. `KHO_MUTATIONS` is how many; the seed is fixed.
#![cfg(all(feature = "std", feature = "serde"))]

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use kho::inspect::{Opened, Options};
use kho::mem::{Image, Source};
use rustix::fs::{MemfdFlags, memfd_create};

/// Debug builds on a busy machine are slow; what is endless or quadratic is slower.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes so many bytes.
struct Limited(u64);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other("more than there can be"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

fn image(bytes: &[u8]) -> Option<Image> {
    let mut file = File::from(memfd_create("mutated", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    match Image::from_file(file) {
        Ok(Source::Image(image)) => Some(image),
        _ => None,
    }
}

/// Whether something was decoded.
fn look(bytes: &[u8]) -> bool {
    let Some(image) = image(bytes) else { return false };
    let Ok(opened) = Opened::of(image, &Options { map: true, ..Options::default() }) else { return false };
    let decoded = &opened.decoded;
    let shown = serde_json::to_string(decoded).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok());
    let mut source = String::new();
    decoded.print_dts(&mut source).unwrap();
    assert!(!source.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{source:?}");
    for item in opened.memfds() {
        let name = item.place().file_name();
        assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
        if let Ok(done) = opened.stream(&item, &mut Limited(4 << 30)) {
            assert_eq!(Some(done.bytes), item.size());
        }
    }
    for node in &decoded.nodes {
        if let Some(item) = opened.find(node.name.as_bytes()) {
            let _ = opened.stream(&item, &mut Limited(4 << 30));
        }
    }
    true
}

#[test]
fn whatever_a_machine_becomes_it_is_read_in_bounded_time() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/linux-7.2-x86_64/frozen.core");
    let good = std::fs::read(path).unwrap();
    assert!(look(&good));
    // Words that are not zero: what is read is there.
    let words: Vec<usize> = (0..good.len() - 7).step_by(8).filter(|&at| good[at..at + 8] != [0; 8]).collect();
    // Pages of text and of pattern have many; structures have few.
    let sparse: Vec<usize> = words
        .iter()
        .copied()
        .filter(|at| {
            let page = &good[at & !4095..((at & !4095) + 4096).min(good.len())];
            page.iter().filter(|&&byte| byte != 0).count() < 1024
        })
        .collect();
    let rounds = std::env::var("KHO_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(300_u32);
    let mut random = Random(std::env::var("KHO_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed));
    let mut shown = 0;
    for round in 0..rounds {
        let mut bytes = good.clone();
        let mut changes = Vec::new();
        for _ in 0..=random.below(4) {
            let near = if random.below(8) == 0 { &words } else { &sparse };
            let at = near[random.below(near.len())];
            let value = match random.below(7) {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << random.below(64),
                3 => random.next(),
                // The word of another structure: an address that is one.
                4 => u64::from_le_bytes(good[sparse[random.below(sparse.len())]..][..8].try_into().unwrap()),
                _ => u64::from_le_bytes(good[at..at + 8].try_into().unwrap()) ^ 1 << random.below(64),
            };
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            changes.push((at, value));
        }
        let start = Instant::now();
        let done = std::panic::catch_unwind(|| look(&bytes));
        let took = start.elapsed();
        assert!(done.is_ok() && took < PATIENCE, "round {round}, {took:?}: {changes:#x?}");
        shown += u32::from(done.is_ok_and(|done| done));
    }
    assert!(shown > rounds / 2, "{shown} of {rounds} were shown: the changes hit nothing but the headers");
}
