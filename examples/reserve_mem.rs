//! Named ranges of memory that outlive the program, as `reserve_mem=` of Linux names them: a log of crashes, a buffer of
//! a device. `cargo run --example reserve_mem`.
//!
//! A program keeps a table of such ranges: name, size, and the pages. It hands them over by exec to its next release,
//! which finds them by name, with the contents that they had. Two things are shown here:
//!
//! - A field that is saved by code of one's own (`with`): the pages of a range are preserved where they are.
//! - Saving that fails in the middle. Two ranges and a part of the third are preserved already when it turns out that
//!   the third cannot be. Then nothing stays preserved, the program works on, and hands over when it can.
//!
//! This file plays both releases. Its manifest is that of the newer one, which it is started as the second time.

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;

use kho::abi::state::NODE;
use kho::handover::{Outgoing, Registry};
use kho::mem::{Frame, Frames, Memory as _, Order};
use kho::report::Code;
use kho::state::{Origin, State, States, StatesNode};
use kho::transport::{Arrival, Bundle, Program};

kho::manifest! {
    /// What the file says of itself, in `kho manifest target/debug/examples/reserve_mem` too. A predecessor asks it
    /// before it leaves: the first release does so below, without a line of code.
    static MANIFEST = [states(NODE, &[v2::Table::SHAPE, v2::Range::SHAPE])];
}

/// The pages of a range: how many, and the blocks that they are.
#[derive(Debug)]
struct Pages {
    count: u64,
    blocks: Vec<Frame>,
}

/// How [`Pages`] are saved, which are no state: the type may be somebody else's. What a value is made of must be told
/// (`TYPE`), because all of it can be read without the program that wrote it: `kho check` does so, and every plan.
mod pages {
    use kho::mem::Frame;
    use kho::state::{Error, Restorer, Result, Saver, Type, Value};

    use super::Pages;

    pub(super) const TYPE: Type = Type::Tuple(&[u64::TYPE, <Vec<Frame>>::TYPE]);

    /// A frame that is saved is preserved, here as anywhere: whatever fails afterwards takes it back.
    pub(super) fn save(pages: &Pages, out: &mut Saver<'_>) -> Result<()> {
        out.field("count", &pages.count)?;
        out.field("blocks", &pages.blocks)
    }

    pub(super) fn restore(input: &mut Restorer<'_>) -> Result<Pages> {
        let pages = Pages { count: input.field("count")?, blocks: input.field("blocks")? };
        // What makes no sense to us is refused; the path of the field is put in front.
        let found: u64 = pages.blocks.iter().map(|block| block.folio().order().pages()).sum();
        if found == pages.count { Ok(pages) } else { Err(Error::refused(found, format_args!("{} pages", pages.count))) }
    }
}

/// The first release.
mod v1 {
    use super::*;

    #[derive(State, Default)]
    #[state(id = 1, version = 1, name = "reserve")]
    pub(super) struct Table {
        pub(super) ranges: Vec<Range>,
    }

    #[derive(State)]
    #[state(id = 2, version = 1)]
    pub(super) struct Range {
        pub(super) name: String,
        #[state(with = pages)]
        pub(super) pages: Pages,
    }
}

/// The second release: a range has an attribute more.
mod v2 {
    use super::*;

    #[derive(State, Default)]
    #[state(id = 1, version = 1, name = "reserve")]
    pub(super) struct Table {
        pub(super) ranges: Vec<Range>,
    }

    #[derive(State)]
    #[state(id = 2, version = 2)]
    pub(super) struct Range {
        pub(super) name: String,
        // Nobody promised more of the ranges that version 1 had.
        #[state(since = 2, default)]
        pub(super) read_only: bool,
        #[state(with = pages)]
        pub(super) pages: Pages,
    }
}

/// What the ranges are called, and how many pages they have.
const CRASHES: (&str, u64) = ("crashes", 16);
const SCRATCH: (&str, u64) = ("scratch", 4);
const DEVICE: (&str, u64) = ("device-buffer", 11);

fn main() -> Result<(), Box<dyn Error>> {
    match Arrival::take()? {
        None => first_release(),
        Some(arrival) => second_release(arrival),
    }
}

fn first_release() -> Result<(), Box<dyn Error>> {
    // No manifest: that of this file is the other release's.
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20)?);
    let table = Rc::new(RefCell::new(v1::Table::default()));
    let mut states = States::new();
    assert_eq!(states.attach(0, &table)?, Origin::Fresh);
    for (name, pages) in [CRASHES, SCRATCH, DEVICE] {
        let pages = reserve(&mut outgoing, pages)?;
        fill(&mut outgoing, &pages, name)?;
        println!("v1: {name} has {} pages in {} blocks", pages.count, pages.blocks.len());
        table.borrow_mut().ranges.push(v1::Range { name: name.into(), pages });
    }

    // A mistake, as it happens: the last block of the third range is not of the memory that will be handed over.
    let mut elsewhere = Bundle::new(1 << 20)?;
    let strange = elsewhere.alloc(Order::ZERO)?;
    let good = table.borrow_mut().ranges[2].pages.blocks.pop().ok_or("no block")?;
    table.borrow_mut().ranges[2].pages.blocks.push(strange);

    let free = outgoing.memory().arena().free_pages();
    let fault = outgoing.preserve(NODE, &states).unwrap_err();
    println!("v1: could not be saved: {fault}");
    assert_eq!(fault.code(), Code::Refused);
    assert!(fault.to_string().contains("reserve.ranges[2].pages.blocks[2]"), "which block it is: {fault}");
    // What had been written by then is free again, and what had been preserved is not any more: a block that is
    // preserved would not be freed.
    assert_eq!(outgoing.memory().arena().free_pages(), free);
    let scratch = table.borrow_mut().ranges.remove(1);
    scratch.pages.blocks.into_iter().for_each(|block| outgoing.free(block));
    assert_eq!(outgoing.memory().arena().free_pages(), free + SCRATCH.1);
    println!("v1: nothing stayed preserved; {} is given up, {} more pages are free", scratch.name, SCRATCH.1);

    // The program works on, and mends what was wrong.
    let crash = b"a crash that was none";
    outgoing.write(&table.borrow().ranges[0].pages.blocks[0], 0, crash)?;
    table.borrow_mut().ranges[1].pages.blocks[2] = good;

    outgoing.preserve(NODE, &states)?;
    println!("v1: saved at the second try");
    let stayed = outgoing.finish()?.exec(&Program::current()?, None);
    Err(stayed.into())
}

fn second_release(arrival: Arrival) -> Result<(), Box<dyn Error>> {
    // Held to what the manifest says: a state that is not in both is found out by the first plan.
    let mut registry = Registry::of(&MANIFEST);
    let node = registry.add(NODE, StatesNode::new(&[v2::Table::SHAPE]));
    let mut restored = arrival.incoming.plan(&registry).accept()?.restore()?;
    let mut states = restored.take(&node).ok_or("no states came")?;
    let table = Rc::new(RefCell::new(v2::Table::default()));
    // The table itself did not change. Its ranges did: they were written in version 1, and are read as such.
    assert_eq!(states.attach(0, &table)?, Origin::Restored { version: 1 });
    let left = states.finish(restored.memory_mut());
    assert!(left.is_empty(), "{left:?}");
    let (mut bundle, released) = restored.finish();
    println!(
        "v2: took over {} ranges; the {} pages that only the handover needed are free",
        table.borrow().ranges.len(),
        released?
    );

    let table = table.borrow();
    for (name, pages) in [CRASHES, DEVICE] {
        let range = table.ranges.iter().find(|range| range.name == name).ok_or("a range is gone")?;
        assert!(!range.read_only, "what version 1 did not say");
        assert_eq!(range.pages.count, pages);
        let found = read(&bundle, &range.pages)?;
        let mut expected = contents(name, found.len());
        if name == CRASHES.0 {
            let crash = b"a crash that was none";
            expected[..crash.len()].copy_from_slice(crash);
        }
        assert!(found == expected, "{name} has other contents");
        println!("v2: found {name}, {} bytes as they were", found.len());
    }
    assert!(table.ranges.iter().all(|range| range.name != SCRATCH.0), "it was given up");

    // The pages are this process's own now. All others are free, but the one with the header of the arena.
    let all = bundle.arena().size() / bundle.geometry().page_size();
    let used = all - bundle.arena().free_pages();
    assert_eq!(used, CRASHES.1 + DEVICE.1 + 1);
    let more = reserve(&mut bundle, SCRATCH.1)?;
    fill(&mut bundle, &more, SCRATCH.0)?;
    assert_eq!(read(&bundle, &more)?, contents(SCRATCH.0, read(&bundle, &more)?.len()));
    println!("v2: {used} of {all} pages were in use; {} is reserved anew", SCRATCH.0);
    Ok(())
}

/// Reserves so many pages in the largest blocks that make them up.
fn reserve<M: Frames>(memory: &mut M, pages: u64) -> Result<Pages, Box<dyn Error>> {
    let (mut blocks, mut left) = (Vec::new(), pages);
    while left > 0 {
        let order = Order::new(left.ilog2()).ok_or("too many pages")?;
        blocks.push(memory.alloc(order)?);
        left -= order.pages();
    }
    Ok(Pages { count: pages, blocks })
}

/// What a range of that name has in it.
fn contents(name: &str, len: usize) -> Vec<u8> {
    let of_page = (0..len).map(|at| (at / 4096) as u8);
    name.bytes().cycle().zip(of_page).map(|(letter, page)| letter ^ page).collect()
}

fn fill<M: Frames>(memory: &mut M, pages: &Pages, name: &str) -> Result<(), Box<dyn Error>> {
    let page = usize::try_from(memory.geometry().page_size())?;
    let bytes = contents(name, usize::try_from(pages.count)? * page);
    let mut rest = &bytes[..];
    for block in &pages.blocks {
        let (now, later) = rest.split_at(usize::try_from(block.folio().order().pages())? * page);
        memory.write(block, 0, now)?;
        rest = later;
    }
    Ok(())
}

fn read(bundle: &Bundle, pages: &Pages) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    for block in &pages.blocks {
        bytes.extend_from_slice(bundle.arena().bytes(block)?);
    }
    Ok(bytes)
}
