//! What the compiler refuses. After a change of a message: `TRYBUILD=overwrite cargo test --test compile_fail`.

#[test]
fn composites_and_manifests_that_break_their_rules_do_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile_fail/compat_good.rs");
    cases.compile_fail("tests/compile_fail/compat_list_*.rs");
    cases.compile_fail("tests/compile_fail/compat_name_*.rs");
    cases.compile_fail("tests/compile_fail/manifest_*.rs");
}

#[cfg(feature = "derive")]
#[test]
fn states_that_break_their_rules_do_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile_fail/state_good.rs");
    cases.compile_fail("tests/compile_fail/state_[!g]*.rs");
}
