//! The predecessor.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use blake3::Hasher;
use kho::abi::kho_test;
use kho::handover::Outgoing;
use kho::mem::{Frame, Frames as _, MemError, Order};
use kho::memfd::ByPages;
use kho::payload::{Array, Bytes, Records};
use kho::selftest::{Payload, Rule};
use kho::transport::{Bundle, NotReplaced, Program, Ticket};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use zerocopy::IntoBytes as _;

use super::parts::{self, Ledger, Noise, Row};
use super::{Args, Progress, enough_memory, now};

type Failed = Box<dyn std::error::Error>;

/// Makes everything, freezes, and leaves. Returns only when the process could not be replaced.
pub(super) fn leave(args: &Args) -> Result<NotReplaced, Failed> {
    let page = kho::mem::Geometry::with_page_size(u64::try_from(rustix::param::page_size())?)
        .ok_or("pages of this machine are neither 4K, 16K nor 64K")?;
    enough_memory(args.size.saturating_add(2 * (parts::MEMFD_SIZE + parts::ARRAY_SIZE)))?;
    let mut outgoing = Outgoing::of(Bundle::new(1 << 30)?, &crate::program::MANIFEST);

    let (ram, ram_hash) = memfd("ram", args.size, 1)?;
    seal(&ram, SealFlags::GROW | SealFlags::SHRINK)?;
    let (memfd, memfd_hash) = memfd("carried", parts::MEMFD_SIZE, 2)?;
    seal(&memfd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    rustix::fs::seek(&memfd, SeekFrom::Start(parts::MEMFD_POS))?;
    let (folios, test_hash) = folios(page);
    let (rows, table_hash) = rows();
    let block = Order::holding(parts::BLOCK, page).ok_or("blocks of that size")?;
    let (array, array_hash) = array(&mut outgoing, block)?;
    let program = Program::current()?.args(std::env::args_os().skip(1));
    let ticket = Ticket::current()?;

    let frozen_at = now();
    outgoing.preserve_file(parts::RAM, ram)?;
    outgoing.preserve(parts::MEMFD, &ByPages { file: memfd.as_fd(), order: Order::ZERO })?;
    let payload = folios.iter().map(|(order, bytes)| (*order, bytes.as_slice())).collect();
    outgoing.preserve(kho_test::NODE, &Payload { folios: payload, rule: Rule::NATIVE })?;
    outgoing.preserve(parts::TABLE, &Records { made_of: parts::TABLE_IS, records: &rows })?;
    let bytes = parts::ARRAY_SIZE;
    outgoing.preserve(parts::ARRAY, &Array { made_of: parts::ARRAY_IS, frames: &array, bytes })?;
    let ledger = Ledger {
        frozen_at: frozen_at.into(),
        ram: ram_hash,
        memfd: memfd_hash,
        test: test_hash,
        table: table_hash,
        array: array_hash,
    };
    outgoing.preserve(parts::LEDGER, &Bytes { made_of: parts::LEDGER_IS, bytes: ledger.as_bytes() })?;
    // These bytes are in the arena now. Freed here, they do not have to be freed by the exec.
    drop((memfd, folios, rows));
    let finished = outgoing.finish()?;
    let program = program.env(super::arrive::METADATA, finished.metadata_bytes().to_string());
    // The successor copies its table into fresh memory, and on small pages each costs a fault: ask its allocator for huge
    // ones. Other allocators ignore it.
    let program = program.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    Ok(finished.exec(&program, Some(&ticket)))
}

fn seal(file: &OwnedFd, seals: SealFlags) -> Result<(), Failed> {
    Ok(rustix::fs::fcntl_add_seals(file, seals)?)
}

/// A memfd full of noise, and its hash.
fn memfd(name: &'static str, size: u64, seed: u64) -> Result<(OwnedFd, [u8; 32]), Failed> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, size)?;
    let file = File::from(file);
    let (mut noise, mut hasher, mut progress) = (Noise::new(seed), Hasher::new(), Progress::new("filling", size));
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let len = usize::try_from((size - at).min(1 << 20))?;
        noise.fill(&mut piece[..len]);
        hasher.update(&piece[..len]);
        file.write_all_at(&piece[..len], at)?;
        at += u64::try_from(len)?;
        progress.add(u64::try_from(len)?);
    }
    Ok((file.into(), hasher.finalize().into()))
}

fn folios(page: kho::mem::Geometry) -> (Vec<(Order, Vec<u8>)>, [u8; 32]) {
    let (mut noise, mut hasher) = (Noise::new(3), Hasher::new());
    let orders = parts::ORDERS.into_iter().filter_map(Order::new);
    let folios = orders.map(|order| {
        let mut bytes = vec![0; usize::try_from(order.bytes(page)).unwrap_or(0)];
        noise.fill(&mut bytes);
        hasher.update(&bytes);
        (order, bytes)
    });
    let folios = folios.collect();
    (folios, hasher.finalize().into())
}

fn rows() -> (Vec<Row>, [u8; 32]) {
    let mut noise = Noise::new(4);
    let row = |number: u64| Row { number: number.into(), key: noise.next().into() };
    let rows: Vec<Row> = (0..parts::ROWS).map(row).collect();
    let hash = blake3::hash(rows.as_bytes());
    (rows, hash.into())
}

/// Blocks that are scattered: twice as many are allocated, in no order, and every other one is freed.
fn array(outgoing: &mut Outgoing<Bundle>, block: Order) -> Result<(Vec<Frame>, [u8; 32]), Failed> {
    let blocks = usize::try_from(parts::ARRAY_SIZE / parts::BLOCK)?;
    let frames = (0..2 * blocks).map(|_| outgoing.alloc(block)).collect::<Result<Vec<Frame>, MemError>>()?;
    let (mut noise, mut hasher) = (Noise::new(5), Hasher::new());
    let mut pairs: Vec<(u64, Frame)> = frames.into_iter().map(|frame| (noise.next(), frame)).collect();
    pairs.sort_unstable_by_key(|(key, _)| *key);
    let mut frames: Vec<Frame> = pairs.into_iter().map(|(_, frame)| frame).collect();
    for spare in frames.split_off(blocks) {
        outgoing.free(spare);
    }
    let mut bytes = vec![0; usize::try_from(parts::BLOCK)?];
    for frame in &frames {
        noise.fill(&mut bytes);
        hasher.update(&bytes);
        outgoing.write(frame, 0, &bytes)?;
    }
    Ok((frames, hasher.finalize().into()))
}
