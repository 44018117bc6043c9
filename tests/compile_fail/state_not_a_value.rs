//! A field that is no value, and a subsection that is no state.

use kho::state::State;

#[derive(State)]
#[state(id = 1, version = 1)]
struct Vcpu {
    started: std::time::Instant,
    #[state(subsection = required)]
    timers: Option<Vec<u64>>,
}

fn main() {}
