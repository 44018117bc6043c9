//! A program that replaces itself by exec and goes on with what it had: `cargo run --example self_exec`.

use std::error::Error;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};

use kho::abi;
use kho::compat::{Compat, CompatList};
use kho::files::FilesNode;
use kho::handover::{Incoming, Outgoing, Registry};
use kho::mem::{Frames as _, Order};
use kho::payload::{ARRAY_USE, Array, ArrayNode, Bytes, BytesNode};
use kho::transport::{Arrival, Bundle, Program, Ticket, Turn};

/// What the data means, in which version, and what it is made of. A successor that expects something else refuses.
const CACHE: CompatList<'static> = CompatList::new(Compat::new("example-cache", 1), ARRAY_USE);
const STATE: CompatList<'static> = CompatList::new(Compat::new("example-state", 1), &[]);

kho::manifest! {
    /// The same for others: `kho manifest target/debug/examples/self_exec`. A predecessor that leaves for this program asks
    /// it first.
    static MANIFEST = [
        both(abi::files::NODE, &[kho::files::MADE_OF]),
        both("cache", &[CACHE]),
        both("state", &[STATE]),
    ];
}

/// The program's own name for its file.
const LOG: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    match Arrival::take()? {
        None => leave(),
        Some(arrival) => arrive(arrival),
    }
}

fn leave() -> Result<(), Box<dyn Error>> {
    // Memory that outlives the program. 1 GiB is its limit: what is never written costs nothing.
    let mut outgoing = Outgoing::of(Bundle::new(1 << 30)?, &MANIFEST);
    let (mut blocks, mut bytes) = (Vec::new(), 0);
    for number in 0..16 {
        let mut block = outgoing.alloc(Order::ZERO)?;
        let page = outgoing.memory().arena().bytes_mut(&mut block)?;
        page.fill(number);
        bytes += u64::try_from(page.len())?;
        blocks.push(block);
    }
    let mut log = File::from(rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC)?);
    writeln!(log, "written by process {}", std::process::id())?;

    // A file as it is, an array where it is, a few bytes as a copy.
    outgoing.preserve_file(LOG, log.into())?;
    outgoing.preserve("cache", &Array { made_of: CACHE, frames: &blocks, bytes })?;
    outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"request 4711 is half done" })?;

    // Returns only when the process was not replaced, because the program would refuse or could not be started; then
    // everything is as it was before.
    let stayed = outgoing.finish()?.exec(&Program::current()?, Some(&Ticket::current()?));
    Err(stayed.into())
}

fn arrive(arrival: Arrival) -> Result<(), Box<dyn Error>> {
    if let Some(reason) = &arrival.reason {
        println!("the successor refused, this is the predecessor again: {reason}");
    }
    // What this program understands, held to what it says. Each handle is the right to take one result.
    let mut registry = Registry::of(&MANIFEST);
    let files = registry.add(abi::files::NODE, FilesNode);
    let cache = registry.add("cache", ArrayNode { made_of: CACHE });
    let state = registry.read("state", BytesNode { made_of: STATE, limit: 4096 });

    // The plan changes nothing, and a restore that fails undoes itself: the old program can go on with all of it.
    let Arrival { incoming, turn, .. } = arrival;
    let accepted = match incoming.plan(&registry).accept() {
        Ok(accepted) => accepted,
        Err(refused) => return go_back(turn, &refused.to_string(), refused.incoming),
    };
    let mut restored = match accepted.restore() {
        Ok(restored) => restored,
        Err(failed) => return go_back(turn, &failed.to_string(), failed.incoming),
    };
    let mut files = restored.take(&files).ok_or("files")?;
    let cache = restored.take(&cache).ok_or("cache")?;
    let state = restored.take(&state).ok_or("state")?;
    // From here on there is no way back; what was only needed for the handover is freed.
    turn.take()?;
    let (_bundle, released) = restored.finish();
    released?;

    let mut log = File::from(files.take(LOG).ok_or("log")?);
    let mut text = String::new();
    log.rewind()?;
    log.read_to_string(&mut text)?;
    println!("log: {}", text.trim_end());
    println!("cache: {} bytes in one mapping, the last is {}", cache.len(), cache[cache.len() - 1]);
    println!("state: {}", String::from_utf8(state)?);
    Ok(())
}

fn go_back(turn: Turn, reason: &str, incoming: Incoming<Bundle>) -> Result<(), Box<dyn Error>> {
    turn.refuse(incoming, reason)
        .map_err(|(stayed, _)| format!("{reason}; and the way back is closed: {stayed}").into())
}
