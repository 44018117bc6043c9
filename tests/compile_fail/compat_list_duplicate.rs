use kho::compat::{Compat, CompatList};

// In another version and spelling, and sorted: still the same component.
const _: CompatList<'static> =
    CompatList::new(Compat::new("kho", 4), &[Compat::new("radix", 1), Compat::new("radix", 2).underscored()]);

fn main() {}
