//! Two states of a manifest with one id.

use kho::state::State;

#[derive(State)]
#[state(id = 1, version = 1)]
struct Vcpu {
    number: u32,
}

#[derive(State)]
#[state(id = 1, version = 1)]
struct Timer {
    deadline: u64,
}

kho::manifest! {
    static MANIFEST = [states("state", &[Vcpu::SHAPE, Timer::SHAPE])];
}

fn main() {
    println!("{MANIFEST:?}");
}
