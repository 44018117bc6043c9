//! Any bytes as what something is made of, in every spelling: an error, or the same bytes when written again.
#![cfg_attr(feature = "run", no_main)]

use kho::compat::{Compat, CompatVec, Reads};
use kho::report::Fault;
use libfuzzer_sys::fuzz_target;

const OURS: &[Compat<'static>] = &[Compat::new("memfd", 2), Compat::new("vmalloc", 1)];

fuzz_target!(|data: &[u8]| {
    if let Ok(compat) = Compat::parse(data) {
        assert_eq!(compat.to_string().as_bytes(), data);
        if let Ok(field) = compat.to_fixed::<48>() {
            assert_eq!(Compat::parse_fixed(&field).expect("a field that was just written"), compat);
        }
    }
    let _ = Compat::parse_fixed(data);
    if let Ok(list) = CompatVec::parse_text(data) {
        assert_eq!(list.list().to_string().as_bytes(), data);
    }
    if let Ok(vec) = CompatVec::parse_fdt(data) {
        let list = vec.list();
        assert_eq!(list.to_fdt(), data);
        let reads = [Reads::only(list.owner()), Reads::since(1, OURS[0])];
        let _ = list.owner().judge(&reads).map_err(|difference| Fault::from(difference).to_string());
        let differences: Vec<_> = list.differences(list, &reads).into_iter().map(Fault::from).collect();
        assert!(differences.is_empty(), "it differs from itself: {differences:?}");
    }
});

#[cfg(not(feature = "run"))]
fn main() {}
