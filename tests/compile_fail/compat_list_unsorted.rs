use kho::compat::{Compat, CompatList};

const _: CompatList<'static> =
    CompatList::new(Compat::new("kho", 4), &[Compat::new("vmalloc", 1), Compat::new("radix", 1)]);

fn main() {}
