//! A condition sees only what was read before it.

use kho::state::State;

#[derive(State)]
#[state(id = 1, version = 1)]
struct Timer {
    #[state(default, when = |mode| *mode > 0)]
    deadline: u64,
    mode: u8,
}

fn main() {}
