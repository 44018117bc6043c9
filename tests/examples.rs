//! The examples of typed state, as a user runs them: each hands over to other versions of itself, checks what came, and
//! fails when anything is not as it was.
#![cfg(all(feature = "std", feature = "derive"))]

mod common;

use std::process::Command;

use common::me;

/// Runs an example to its end, over all of its execs; what it said. `cargo test` builds the examples too, next to the
/// folder of this binary.
#[track_caller]
fn says(name: &str) -> String {
    let path = me().parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not there: cargo build --example {name}", path.display());
    let output = Command::new(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{}\n{text}\n{errors}", output.status);
    text
}

/// Lines that must be there, in this order.
#[track_caller]
fn in_order(text: &str, lines: &[&str]) {
    let mut said = text.lines();
    for line in lines {
        assert!(said.any(|found| found.starts_with(line)), "no line {line:?}, or not in its place:\n{text}");
    }
}

#[test]
fn a_state_goes_through_four_releases_and_back_to_the_first() {
    let text = says("kstate_test");
    let lines = [
        "v1 begins: Test { value: 6, pointer: 4711, string: \"kstate\", folio: Some(",
        "   Test { value: 6, i: -1, pointer: 4711, string: \"kstate\", folio: Some(",
        "   Test { i: 42, pointer: 4711, string: \"kstate\", folio: Some(",
        "v4 leaves for v4",
        "v4 leaves for v1",
        "   state-dropped: test.i: a field of version 2",
        "v1 takes over: fine",
        "   warning: /state: state-ignored: test.note: a subsection of id 2",
        "   Test { value: 6, pointer: 4711, string: \"kstate\", folio: Some(",
        "all 6 steps are done; the folio says: v1 v2 v3 v4 v4 v1",
    ];
    in_order(&text, &lines);
    assert_eq!(text.matches("state-dropped").count(), 1, "an upgrade drops nothing:\n{text}");
}

#[test]
fn reserved_ranges_survive_a_save_that_fails_and_one_that_does_not() {
    let lines = [
        "v1: could not be saved: refused: reserve.ranges[2].pages.blocks[2]: ",
        "v1: nothing stayed preserved; scratch is given up, 4 more pages are free",
        "v1: saved at the second try",
        "v2: took over 2 ranges",
        "v2: found crashes, ",
        "v2: found device-buffer, ",
        "v2: 28 of 16384 pages were in use; scratch is reserved anew",
    ];
    // Pages of 4 KiB are assumed by the last line only.
    let lines = if rustix::param::page_size() == 4096 { &lines[..] } else { &lines[..6] };
    in_order(&says("reserve_mem"), lines);
}

#[test]
fn no_event_of_a_trace_is_lost_or_repeated() {
    let text = says("trace_ring");
    in_order(&text, &["life 0, release 1: ", "life 1, release 2: ", "life 4, release 2: ", "cpu 0: ", "cpu 3: "]);
    let last = text.lines().last().unwrap();
    assert!(last.ends_with("events was repeated, or lost uncounted, in 4 handovers"), "{text}");
}

#[test]
fn a_service_outlives_a_successor_that_dies_and_is_replaced_by_the_next() {
    let text = says("upgrade");
    let lines = [
        "predecessor: counted 10",
        "predecessor: still serving, deliver: peer-closed: found a process that has ended, expected accepted",
        "predecessor: counted 21",
    ];
    in_order(&text, &lines);
    for line in ["successor: counted 22", "predecessor  freeze", "successor    plan", "blackout  "] {
        assert!(text.lines().any(|found| found.starts_with(line)), "no line {line:?}:\n{text}");
    }
}

// `cargo test` from the root has the feature, by the command's tests.
#[cfg(feature = "vm-memory")]
#[test]
fn a_vmm_is_upgraded_and_rolled_back_under_its_guest() {
    let text = says("vmm");
    let lines = [
        "release 1 leaves for release 2",
        "release 2: blackout ",
        "release 2 leaves for release 1",
        "   state-dropped: vcpu.tsc_khz: a field of version 2",
        "release 1: blackout ",
        "all of it was there each time, 2 times",
    ];
    in_order(&text, &lines);
    assert_eq!(text.matches("state-dropped").count(), 1, "an upgrade drops nothing:\n{text}");
}
