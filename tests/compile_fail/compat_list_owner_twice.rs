use kho::compat::{Compat, CompatList};

const _: CompatList<'static> = CompatList::new(Compat::new("kho", 4), &[Compat::new("kho", 3)]);

fn main() {}
