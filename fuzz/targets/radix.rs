//! Any memory as a radix tree: an error, or a tree that comes back the same when it is stored.
#![cfg_attr(feature = "run", no_main)]

use kho::mem::{Memory as _, PageRange, Pfn, Ram};
use kho::radix::Tree;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((memory, root)) = kho_fuzz::memory(data) else { return };
    let Ok(loaded) = Tree::load(&memory, root) else { return };
    assert!(loaded.nodes.len() <= kho_fuzz::PAGES);
    let tree = loaded.tree;
    assert_eq!(tree.iter().count() as u64, tree.len());
    if tree.check_disjoint().is_ok() {
        assert_eq!(tree.ranges().map(|range| range.count()).sum::<u64>(), tree.pages());
    }
    // Everything that it has lies in nodes that lie in so many pages; a few more, should it be spread otherwise.
    let window = Pfn::new(1 << 20).and_then(|first| PageRange::new(first, 4 * kho_fuzz::PAGES));
    let mut other = Ram::new(memory.geometry(), window.expect("pages below the limit"));
    let stored = tree.store(&mut other).expect("room for its nodes");
    assert!(Tree::load(&other, stored.root).expect("what was just stored").tree == tree);
});

#[cfg(not(feature = "run"))]
fn main() {}
