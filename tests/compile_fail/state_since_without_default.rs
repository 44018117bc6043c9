//! What is read of a version without the field?

use kho::state::State;

#[derive(State)]
#[state(id = 1, version = 2)]
struct Timer {
    deadline: u64,
    #[state(since = 2)]
    slack: u64,
}

fn main() {}
