//! The second version, which does not say what it is.

use kho_test_programs::lists::{COUNTER_V1, COUNTER_V2, HINTS_V1};
use kho_test_programs::{Version, serve};

fn main() -> std::process::ExitCode {
    serve(&Version {
        name: "counter-untold",
        manifest: None,
        counter: &[COUNTER_V2, COUNTER_V1],
        hints: Some(HINTS_V1),
    })
}
