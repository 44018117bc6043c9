//! A node that is declared twice.

use kho::compat::{Compat, CompatList};

const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);

kho::manifest! {
    static MANIFEST = [reads("state", &[STATE]).optional(), both("state", &[STATE])];
}

fn main() {
    println!("{MANIFEST:?}");
}
