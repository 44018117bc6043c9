//! Properties of a tree that somebody else wrote, changed in its blob.
//!
//! Not read and written again: a machine's tree has names that the Devicetree Specification forbids, and all that is not
//! changed must stay as it is.

use alloc::string::ToString as _;
use alloc::vec::Vec;

use super::read::show;
use super::{BEGIN_NODE, END_NODE, Fdt, HEADER, MAX_SIZE, Node, PROP, PROP_HEAD, Property, align4, be32};
use crate::num::{index_of, u64_of};
use crate::report::{Code, Fault};

impl Fdt<'_> {
    /// The same tree in which a subnode of the root has these properties, before its others; those of the same name are
    /// replaced. The node is added when there is none. Everything else is kept, byte for byte.
    ///
    /// ```
    /// use kho::fdt::{Builder, Fdt};
    ///
    /// let mut root = Builder::new();
    /// root.node("chosen", |chosen| chosen.strings("bootargs", ["quiet"]))?;
    /// let blob = root.finish()?;
    /// let blob = Fdt::parse(&blob)?.with_properties("chosen", &[("linux,kho-fdt", &[0; 16])])?;
    /// let chosen = Fdt::parse(&blob)?.root().child("chosen").unwrap();
    /// assert_eq!(chosen.properties().count(), 2);
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    /// [`Code::FdtName`] for a name that is empty or has a NUL, [`Code::FdtUnitAddress`] when Linux would find another
    /// node, [`Code::FdtDuplicate`] for a property that is given twice, [`Code::TooLarge`].
    pub fn with_properties(&self, node: &str, properties: &[(&str, &[u8])]) -> Result<Vec<u8>, Fault> {
        let names = properties.iter().map(|(name, _)| *name);
        for (at, name) in names.clone().enumerate() {
            if name.is_empty() || name.contains('\0') {
                return Err(Fault::new(Code::FdtName).item(show(name.as_bytes())).expected("a name without NUL"));
            }
            if names.clone().take(at).any(|earlier| earlier == name) {
                return Err(Fault::new(Code::FdtDuplicate).item(name.to_string()).found("a second value for it"));
            }
        }
        if node.is_empty() || node.contains(['\0', '/']) {
            return Err(Fault::new(Code::FdtName).item(show(node.as_bytes())).expected("the name of a subnode"));
        }
        let found = self.root().child_as_linux(node)?;

        let mut strings = self.slice(self.strings, self.strings_end.saturating_sub(self.strings)).to_vec();
        let mut added = Vec::new();
        for (name, value) in properties {
            let len = u32::try_from(value.len()).map_err(|_| too_large(u64_of(value.len())))?;
            for word in [PROP, len, place(&mut strings, name.as_bytes())?] {
                added.extend_from_slice(&word.to_be_bytes());
            }
            added.extend_from_slice(value);
            pad(&mut added);
        }

        let mut structure = Vec::new();
        let at = match &found {
            Some(node) => node.inside(),
            None => self.root().end_of_properties(),
        };
        structure.extend_from_slice(self.slice(self.structure, at.saturating_sub(self.structure)));
        match found {
            Some(_) => structure.extend_from_slice(&added),
            None => {
                structure.extend_from_slice(&BEGIN_NODE.to_be_bytes());
                structure.extend_from_slice(node.as_bytes());
                structure.push(0);
                pad(&mut structure);
                structure.extend_from_slice(&added);
                structure.extend_from_slice(&END_NODE.to_be_bytes());
            }
        }
        let mut from = at;
        for property in found.iter().flat_map(Node::properties) {
            if names.clone().any(|name| name.as_bytes() == property.name()) {
                structure.extend_from_slice(self.slice(from, property.at.saturating_sub(from)));
                from = property.end();
            }
        }
        structure.extend_from_slice(self.slice(from, self.structure_end.saturating_sub(from)));
        self.assemble(&structure, &strings)
    }

    /// Header, reservations, structure, strings: in this order, which all readers take.
    fn assemble(&self, structure: &[u8], strings: &[u8]) -> Result<Vec<u8>, Fault> {
        // The list ends in an entry of zeros.
        let reservations = self.reservations().count().saturating_add(1).saturating_mul(16);
        let from = index_of(be32(self.blob, 16).unwrap_or(0));
        let reservations = self.blob.get(from..from.saturating_add(reservations)).unwrap_or_default();
        let at = index_of(HEADER);
        let structure_at = at.saturating_add(reservations.len());
        let strings_at = structure_at.saturating_add(structure.len());
        let total = strings_at.saturating_add(strings.len());
        if total > index_of(MAX_SIZE) {
            return Err(too_large(u64_of(total)));
        }
        let mut blob = Vec::with_capacity(total);
        let old = |offset| be32(self.blob, offset).unwrap_or(0);
        blob.extend_from_slice(&super::MAGIC.to_be_bytes());
        for size in [total, structure_at, strings_at, at] {
            blob.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
        }
        // Version, last compatible version, boot processor.
        for word in [old(20), old(24), old(28)] {
            blob.extend_from_slice(&word.to_be_bytes());
        }
        for size in [strings.len(), structure.len()] {
            blob.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
        }
        for part in [reservations, structure, strings] {
            blob.extend_from_slice(part);
        }
        Ok(blob)
    }
}

/// Offset of the name in the strings, where it is put if it is in none of them.
fn place(strings: &mut Vec<u8>, name: &[u8]) -> Result<u32, Fault> {
    let len = name.len().saturating_add(1);
    let is_it = |window: &[u8]| window.split_last().is_some_and(|(&last, rest)| last == 0 && rest == name);
    let at = strings.windows(len).position(is_it).unwrap_or_else(|| {
        let at = strings.len();
        strings.extend_from_slice(name);
        strings.push(0);
        at
    });
    u32::try_from(at).map_err(|_| too_large(u64_of(at)))
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn too_large(size: u64) -> Fault {
    Fault::new(Code::TooLarge).found(format_args!("{size} bytes")).expected(format_args!("at most {MAX_SIZE}"))
}

impl Node<'_> {
    /// Where its last property ends, or its name.
    fn end_of_properties(&self) -> u32 {
        self.properties().last().map_or_else(|| self.inside(), |property| property.end())
    }
}

impl Property<'_> {
    /// Offset of the token behind it.
    fn end(&self) -> u32 {
        align4(self.at.wrapping_add(PROP_HEAD).wrapping_add(self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;

    /// Every node's path and its properties.
    fn all(blob: &[u8]) -> Vec<(String, Vec<u8>)> {
        fn visit(node: &Node<'_>, path: &str, to: &mut Vec<(String, Vec<u8>)>) {
            let path = alloc::format!("{path}/{}", show(node.name()));
            to.push((path.clone(), vec![]));
            for property in node.properties() {
                to.push((alloc::format!("{path}:{}", show(property.name())), property.value().into()));
            }
            node.children().for_each(|child| visit(&child, &path, to));
        }
        let mut list = Vec::new();
        visit(&Fdt::parse(blob).unwrap().root(), "", &mut list);
        list
    }

    /// A tree by hand: two reservations, boot processor 7, NOPs, names that no specification allows, padding.
    fn machine(chosen: bool) -> Vec<u8> {
        let mut structure: Vec<u8> = Vec::new();
        let word = |to: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|word| to.extend(word.to_be_bytes()));
        word(&mut structure, &[super::super::NOP, BEGIN_NODE, 0]);
        word(&mut structure, &[PROP, 4, 0, 2]);
        word(&mut structure, &[PROP, 3, 5, 0x61_62_63_00]);
        word(&mut structure, &[super::super::NOP]);
        if chosen {
            word(&mut structure, &[BEGIN_NODE, u32::from_be_bytes(*b"chos"), u32::from_be_bytes(*b"en\0\0")]);
            word(&mut structure, &[PROP, 0, 5, super::super::NOP, PROP, 4, 11, 9, PROP, 4, 0, 3]);
            word(&mut structure, &[BEGIN_NODE, u32::from_be_bytes(*b"0/!\0"), END_NODE, END_NODE]);
        }
        word(&mut structure, &[BEGIN_NODE, u32::from_be_bytes(*b"z\0\0\0"), END_NODE, END_NODE, super::super::END]);
        let strings = b"cell\0 odd!\0linux,x\0";
        let mut blob = Vec::new();
        let (at, end) = (48 + 48, 48 + 48 + structure.len());
        let words = [0xd00d_feed, end + strings.len() + 5, at, end, 48, 17, 16, 7, strings.len(), structure.len()];
        word(&mut blob, &words.map(|word| word as u32));
        blob.extend([0xee; 8]);
        word(&mut blob, &[0, 1, 0, 2, 0, 3, 0, 4, 0, 0, 0, 0]);
        blob.extend(structure);
        blob.extend(strings);
        blob.extend([0xee; 5]);
        blob
    }

    #[test]
    fn properties_are_set_and_all_else_is_kept() {
        let old = machine(true);
        let edited = Fdt::parse(&old).unwrap().with_properties("chosen", &[("x", b"12345"), ("linux,x", &[])]).unwrap();
        let mut expected = all(&old);
        let at = expected.iter().position(|(path, _)| path == "//chosen").unwrap() + 1;
        expected.retain(|(path, _)| path != "//chosen:linux,x");
        expected.splice(at..at, [("//chosen:x".into(), b"12345".into()), ("//chosen:linux,x".into(), vec![])]);
        assert_eq!(all(&edited), expected);
        let fdt = Fdt::parse(&edited).unwrap();
        assert_eq!(be32(&edited, 28), Some(7));
        assert_eq!(fdt.reservations().count(), 2);
        assert_eq!(fdt.bytes().len(), edited.len());
        // The name was among the strings already, as the end of another.
        assert_eq!(edited.len(), 40 + 48 + be32(&old, 36).unwrap() as usize - 16 + 20 + 12 + 19);
        // Once more changes nothing.
        let again = fdt.with_properties("chosen", &[("x", b"12345"), ("linux,x", &[])]).unwrap();
        assert_eq!(again, edited);
    }

    #[test]
    fn a_node_that_is_not_there_is_added() {
        let old = machine(false);
        let edited = Fdt::parse(&old).unwrap().with_properties("chosen", &[("new", b"1")]).unwrap();
        let mut expected = all(&old);
        let at = expected.iter().position(|(path, _)| path == "//z").unwrap();
        expected.splice(at..at, [("//chosen".into(), vec![]), ("//chosen:new".into(), b"1".into())]);
        assert_eq!(all(&edited), expected);
        let bare = super::super::Builder::new().finish().unwrap();
        let edited = Fdt::parse(&bare).unwrap().with_properties("chosen", &[]).unwrap();
        assert_eq!(all(&edited), [("/".into(), vec![]), ("//chosen".into(), vec![])]);
    }

    #[test]
    fn what_cannot_be_set() {
        let blob = machine(true);
        let fdt = Fdt::parse(&blob).unwrap();
        let code = |node, properties: &[(&str, &[u8])]| fdt.with_properties(node, properties).unwrap_err().code();
        assert_eq!(code("chosen", &[("a", b""), ("b", b""), ("a", b"")]), Code::FdtDuplicate);
        assert_eq!(code("chosen", &[("a\0", b"")]), Code::FdtName);
        assert_eq!(code("chosen", &[("", b"")]), Code::FdtName);
        assert_eq!(code("", &[]), Code::FdtName);
        assert_eq!(code("a/b", &[]), Code::FdtName);
        let mut other = super::super::Builder::new();
        other.node("chosen@0", |_| Ok(())).unwrap();
        let other = other.finish().unwrap();
        let fault = Fdt::parse(&other).unwrap().with_properties("chosen", &[]).unwrap_err();
        assert_eq!(fault.code(), Code::FdtUnitAddress);
    }

    proptest::proptest! {
        /// What the reader takes can be edited, whoever made it, and is taken again.
        #[test]
        fn hostile_trees(
            chosen: bool,
            changes in proptest::collection::vec((0_usize..300, proptest::prelude::any::<u8>()), 0..4),
        ) {
            let mut blob = machine(chosen);
            let len = blob.len();
            changes.iter().for_each(|&(at, byte)| blob[at % len] = byte);
            let Ok(fdt) = Fdt::parse(&blob) else { return Ok(()) };
            if let Ok(edited) = fdt.with_properties("chosen", &[("linux,x", b"1"), ("new", &[2; 5])]) {
                let edited = Fdt::parse(&edited).unwrap();
                let node = edited.root().child("chosen").unwrap();
                let values = ["linux,x", "new"].map(|name| node.property(name).unwrap().value());
                proptest::prop_assert_eq!(values, [&[b'1'][..], &[2; 5]]);
                proptest::prop_assert_eq!(edited.reservations().count(), fdt.reservations().count());
            }
        }
    }
}
