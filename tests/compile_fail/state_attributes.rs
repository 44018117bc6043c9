//! All that is wrong is told at once.

use kho::state::State;

#[derive(State)]
#[state(id = 0, version = 1, min_version = 2)]
struct Vcpu {
    #[state(since = 3)]
    a: u8,
    #[state(required)]
    b: u8,
    #[state(skip)]
    c: u8,
    #[state(plain, subsection = required)]
    d: Vec<u8>,
    #[state(vesion = 1)]
    e: u8,
}

#[derive(State)]
#[state(id = 2, version = 1)]
struct Of<T>(T);

#[derive(State)]
#[state(id = 3, version = 1, deprecated(name = "old", ty = u8, until = 2))]
struct Nothing;

fn main() {}
