//! The oldest version first.

use kho::compat::{Compat, CompatList};

const V1: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
const V2: CompatList<'static> = CompatList::new(Compat::new("my-state", 2), &[]);

kho::manifest! {
    static MANIFEST = [both("state", &[V1, V2])];
}

fn main() {
    println!("{MANIFEST:?}");
}
