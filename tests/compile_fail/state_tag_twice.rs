//! Two variants that are one on the wire.

use kho::state::State;

#[derive(State)]
#[state(id = 1, version = 1)]
enum Mode {
    #[state(tag = 1)]
    Off,
    #[state(tag = 1)]
    Periodic { every: u32 },
}

fn main() {}
