//! Any bytes as a device tree, in which any properties of any node are set: what comes out is a tree again, has them, and
//! all else is as it was. Before the tree, the input has two lengths: of the node's name, and of the property's.
#![cfg_attr(feature = "run", no_main)]

use kho::fdt::{Fdt, Node};
use libfuzzer_sys::fuzz_target;

/// Name and properties of a node.
type Named<'a> = (Vec<u8>, Vec<(&'a [u8], &'a [u8])>);

/// Names and values of its properties but one, which only the subnode `node` has.
fn others<'a>(root: &Node<'a>, node: &str, except: &str) -> Vec<Named<'a>> {
    let properties = |of: &Node<'a>| of.properties().map(|property| (property.name(), property.value())).collect();
    let mut all = vec![(Vec::new(), properties(root))];
    for child in root.children().filter(|child| child.name() != node.as_bytes()) {
        all.push((child.name().to_vec(), properties(&child)));
    }
    let edited = root.children().find(|child| child.name() == node.as_bytes());
    let kept = edited.iter().flat_map(Node::properties).filter(|property| property.name() != except.as_bytes());
    all.push((Vec::new(), kept.map(|property| (property.name(), property.value())).collect()));
    all
}

fuzz_target!(|data: &[u8]| {
    let Some((&[node, name], rest)) = data.split_first_chunk() else { return };
    let Some((node, rest)) = rest.split_at_checked(usize::from(node % 32)) else { return };
    let Some((name, blob)) = rest.split_at_checked(usize::from(name % 40)) else { return };
    let (Ok(node), Ok(name)) = (std::str::from_utf8(node), std::str::from_utf8(name)) else { return };
    let Ok(fdt) = Fdt::parse(blob) else { return };
    let properties = [(name, &b"value"[..]), ("linux,kho-fdt", &[0; 16])];
    let Ok(edited) = fdt.with_properties(node, &properties) else { return };
    let tree = Fdt::parse(&edited).expect("what is edited is a tree");
    let found = tree.root().child(node).expect("the node is there");
    for (name, value) in properties {
        assert_eq!(found.property(name).expect("the property is there").value(), value);
    }
    assert_eq!(tree.reservations().count(), fdt.reservations().count());
    let mut after = others(&tree.root(), node, name);
    let mut before = others(&fdt.root(), node, name);
    for all in [&mut before, &mut after] {
        all.iter_mut().for_each(|(_, properties)| properties.retain(|(name, _)| *name != b"linux,kho-fdt"));
    }
    assert_eq!(before, after);
    let again = tree.with_properties(node, &properties).expect("as before");
    assert_eq!(again, edited, "once more changes nothing");
});

#[cfg(not(feature = "run"))]
fn main() {}
