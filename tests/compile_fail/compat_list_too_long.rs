use kho::compat::{Compat, CompatList};

const USES: [Compat<'static>; CompatList::MOST] = [Compat::new("radix", 1); CompatList::MOST];
const _: CompatList<'static> = CompatList::new(Compat::new("kho", 4), &USES);

fn main() {}
