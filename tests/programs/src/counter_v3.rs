//! The third version, which has forgotten the first two.

use kho_test_programs::lists::{COUNTER_V3, FILES, HINTS_V2};
use kho_test_programs::{Version, serve};

kho::manifest! {
    static MANIFEST = [both("counter", &[COUNTER_V3]), both("files", &[FILES]), both("hints", &[HINTS_V2]).optional()];
}

fn main() -> std::process::ExitCode {
    serve(&Version { name: "counter-v3", manifest: Some(&MANIFEST), counter: &[COUNTER_V3], hints: Some(HINTS_V2) })
}
