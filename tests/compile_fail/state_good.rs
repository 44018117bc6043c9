//! What is right compiles, without a warning, beside names that the expansion could take for its own.
#![deny(warnings)]

use kho::state::{Error, State};

#[derive(State, Debug, PartialEq)]
#[state(id = 1, version = 3, min_version = 2, after_restore = Self::check)]
#[state(deprecated(name = "timer", ty = u64, until = 3, after = "apic", write = Self::first, read = Self::read))]
struct Vcpu {
    apic: u32,
    #[state(since = 3, default)]
    timers: Vec<u64>,
    result: Result,
    #[state(default, when = |result, apic| matches!(result, Result::Ok(_)) && *apic > 1)]
    r#type: u8,
    #[state(subsection = ignorable, rename = "statistics")]
    option: Option<Part>,
    #[state(skip, default = 5)]
    cache: u8,
}

#[derive(State, Debug, PartialEq)]
#[state(id = 2, version = 1)]
enum Result {
    #[state(tag = 1)]
    Ok(u8),
    #[state(tag = 2)]
    Err,
}

#[derive(State, Debug, PartialEq)]
#[state(id = 3, version = 1, ignorable)]
struct Part(u8);

impl Vcpu {
    fn first(&self) -> u64 {
        self.timers.first().copied().unwrap_or(0)
    }

    fn read(&mut self, timer: u64) {
        self.timers = vec![timer];
    }

    fn check(&mut self, _: u32) -> std::result::Result<(), Error> {
        Ok(())
    }
}

kho::manifest! {
    static MANIFEST = [states("state", &[Vcpu::SHAPE, Result::SHAPE, Part::SHAPE])];
}

fn main() {
    println!("{MANIFEST:?}");
    let vcpu = Vcpu { apic: 2, timers: vec![1, 2], result: Result::Ok(1), r#type: 3, option: Some(Part(1)), cache: 5 };
    assert_eq!(kho::state::restore::<Vcpu>(&kho::state::save(&vcpu).unwrap()).unwrap(), vcpu);
    let _ = Result::Err;
}
