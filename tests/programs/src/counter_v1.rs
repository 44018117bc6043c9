//! The first version: a total of 32 bits, and no hints.

use kho_test_programs::lists::{COUNTER_V1, FILES};
use kho_test_programs::{Version, serve};

kho::manifest! {
    static MANIFEST = [both("counter", &[COUNTER_V1]), both("files", &[FILES])];
}

fn main() -> std::process::ExitCode {
    serve(&Version { name: "counter-v1", manifest: Some(&MANIFEST), counter: &[COUNTER_V1], hints: None })
}
