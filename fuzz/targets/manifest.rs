//! Any bytes as a note, as a table of versions, and as a program: an error, or terms that can be negotiated.
#![cfg_attr(feature = "run", no_main)]

use kho::compat::{Outcome, negotiate};
use kho::manifest::{Found, table};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Found::parse_desc(data);
    let _ = table(data, false);
    let _ = table(data, true);
    if let Ok(found) = Found::parse(data) {
        let both = negotiate(&found.writes, &found.reads);
        for agreed in both.nodes {
            if let Outcome::Drop(why) | Outcome::Refuse(why) = agreed.outcome {
                assert!(!why.is_empty(), "{}: refused for no reason", agreed.node);
            }
        }
        // A program that hands over to itself reads what it writes, where it says the same of both.
        if found.reads == found.writes {
            assert!(!negotiate(&found.writes, &found.reads).is_refused());
        }
    }
    if let Ok(file) = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::CLOEXEC)
        && rustix::io::write(&file, data).is_ok_and(|written| written == data.len())
    {
        let _ = Found::of_file(&file);
        let _ = Found::versions_of_file(&file);
    }
});

#[cfg(not(feature = "run"))]
fn main() {}
