//! The second version: a total of 64 bits and what was added; it reads and writes the first version too.

mod manifest;

use kho_test_programs::lists::{self, COUNTER_V1, COUNTER_V2, HINTS_V1};
use kho_test_programs::{Version, serve};

fn main() -> std::process::ExitCode {
    serve(&Version {
        name: "counter-v2",
        manifest: Some(&manifest::MANIFEST),
        counter: &[COUNTER_V2, COUNTER_V1],
        hints: Some(HINTS_V1),
    })
}
