//! What the tests of several rooms share.

use proptest::test_runner::Config;

/// So many random cases, unless the environment says how many (`PROPTEST_CASES`, as proptest has it).
pub(crate) fn cases(count: u32) -> Config {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config::with_cases(count),
    }
}
