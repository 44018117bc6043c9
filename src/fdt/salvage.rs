//! What is left of a device tree that was cut off.

use alloc::vec::Vec;

use super::{BEGIN_NODE, END, END_NODE, NOP, PROP, align4, be32};
use crate::num::{index_of, u64_of};

/// A tree of what is whole in a blob that ends too early: nodes that are open are closed, and what is cut in the middle
/// is left out. `strings` are the names of its properties, should they be behind the cut.
///
/// None when not even the start of the structure is there. Whether it is a sound tree only reading it tells.
pub(crate) fn salvage(bytes: &[u8], strings: &[u8]) -> Option<Vec<u8>> {
    let word = |at: u32| be32(bytes, at);
    let (structure, names, names_size) = (word(8)?, word(12)?, word(32)?);
    let whole = bytes.get(index_of(names)..).and_then(|rest| rest.get(..index_of(names_size)));
    let strings = whole.unwrap_or(strings);
    let (mut at, mut depth) = (structure, 0_u32);
    let mut kept: Vec<u8> = Vec::new();
    while let Some(token) = word(at) {
        let body = at.checked_add(4)?;
        let end = match token {
            BEGIN_NODE => {
                let name = bytes.get(index_of(body)..)?;
                let Some(len) = name.iter().position(|&byte| byte == 0) else { break };
                depth = depth.checked_add(1)?;
                // The zero is there; what aligns the next token may be cut.
                body.checked_add(u32::try_from(len).ok()?)?.checked_add(1)?
            }
            END_NODE if depth > 0 => {
                depth = depth.checked_sub(1)?;
                body
            }
            PROP => match word(body).and_then(|len| body.checked_add(8)?.checked_add(len)) {
                Some(end) if u64::from(end) <= u64_of(bytes.len()) => end,
                _ => break,
            },
            NOP => body,
            _ => break,
        };
        kept.extend_from_slice(bytes.get(index_of(at)..index_of(end))?);
        at = align4(end);
        kept.resize(kept.len().checked_next_multiple_of(4)?, 0);
    }
    if kept.is_empty() {
        return None;
    }
    (0..depth).for_each(|_| kept.extend_from_slice(&END_NODE.to_be_bytes()));
    kept.extend_from_slice(&END.to_be_bytes());
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).ok();
    // Header, one empty reservation, structure, names.
    let first = 56_u32;
    let behind = first.checked_add(size(&kept)?)?;
    let total = behind.checked_add(size(strings)?)?;
    let header = [super::MAGIC, total, first, behind, 40, 17, 16, 0, size(strings)?, size(&kept)?];
    let mut tree: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
    tree.resize(index_of(first), 0);
    tree.extend_from_slice(&kept);
    tree.extend_from_slice(strings);
    Some(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::{Builder, Fdt};

    #[test]
    fn what_is_whole_stays_wherever_it_is_cut() {
        let mut builder = Builder::new();
        builder.strings("compatible", ["kho-v4"]).unwrap();
        for name in ["one", "two"] {
            builder.node(name, |node| node.u64_native("preserved-data", 0x1000)).unwrap();
        }
        let blob = builder.finish().unwrap();
        let names = be32(&blob, 12).unwrap() as usize;
        let mut counts = Vec::new();
        for len in 0..blob.len() {
            let Some(tree) = salvage(&blob[..len], &blob[names..]) else {
                assert!(len < 61, "{len}");
                continue;
            };
            let fdt = Fdt::parse(&tree).unwrap();
            let whole = fdt.root().children().filter(|node| node.property("preserved-data").is_some()).count();
            counts.push(whole);
        }
        assert!(counts.is_sorted());
        counts.dedup();
        assert_eq!(counts, [0, 1, 2]);
        // Nothing is cut: the same tree.
        let tree = salvage(&blob, b"").unwrap();
        assert_eq!(Fdt::parse(&tree).unwrap().root().children().count(), 2);
    }

    #[test]
    fn hostile_words_end_it() {
        assert_eq!(salvage(b"", b""), None);
        assert_eq!(salvage(&[0xff; 64], b""), None);
        let mut blob = [0_u8; 80];
        blob[11] = 56;
        blob[56..].copy_from_slice(&[[0, 0, 0, 1], [0; 4], [0, 0, 0, 3], [0xff; 4], [0xff; 4], [0xff; 4]].concat());
        assert_eq!(Fdt::parse(&salvage(&blob, b"").unwrap()).unwrap().root().properties().count(), 0);
    }
}
