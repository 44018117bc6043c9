//! A state that another one is made of is not in the manifest.

use kho::state::State;

#[derive(State)]
#[state(id = 1, version = 1)]
struct Vcpu {
    timers: Vec<Timer>,
}

#[derive(State)]
#[state(id = 2, version = 1)]
struct Timer {
    deadline: u64,
}

kho::manifest! {
    static MANIFEST = [states("state", &[Vcpu::SHAPE])];
}

fn main() {
    println!("{MANIFEST:?}");
}
