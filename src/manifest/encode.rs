//! A manifest as bytes, made by the compiler.

use super::{Entry, LAYOUTS, What};
use crate::abi;
use crate::abi::manifest::{
    COMPAT, KIND_LAYOUT, KIND_NODE, KIND_STATE, NAME, READS, TYPE, VERSIONS_ENTRY, VERSIONS_MAGIC, VERSIONS_VERSION,
    WRITES,
};
use crate::compat::{Compat, CompatList, MadeOf, Reads, Terms};
use crate::num::{low_u16, low_u32, u64_of};
use crate::out::Out;
use crate::state::{self, Shape};

/// Bytes of a section, aligned as notes are.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4))]
pub struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Bytes<N> {
    /// The bytes.
    #[must_use]
    pub const fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

const HEADER: usize = size_of::<abi::manifest::Header>();
const ENTRY: usize = size_of::<abi::manifest::Entry>();
/// Header and name of the note.
const NOTE: usize = size_of::<abi::manifest::NoteHeader>() + NAME.len();

impl<'a> Out<'a> {
    const fn compat(mut self, compat: Compat<'_>) -> Out<'a> {
        let mut printed = compat.printed();
        while let Some(byte) = printed.step() {
            self = self.byte(byte);
        }
        self
    }

    const fn made_of(self, list: CompatList<'_>) -> Out<'a> {
        let mut out = self.compat(list.owner());
        let mut uses = list.uses();
        while let [compat, more @ ..] = uses {
            out = out.byte(b';').compat(*compat);
            uses = more;
        }
        out
    }

    const fn entry(self, kind: u16, flags: u16, oldest: u32, node: &str, made_of: CompatList<'_>) -> Out<'a> {
        let text = made_of_size(made_of);
        let size = ENTRY.saturating_add(node.len()).saturating_add(text).next_multiple_of(4);
        self.u32(low_u32(size))
            .u16(kind)
            .u16(flags)
            .u32(oldest)
            .u16(low_u16(node.len()))
            .u16(low_u16(text))
            .bytes(node.as_bytes())
            .made_of(made_of)
            .pad(4)
    }

    const fn state(self, flags: u16, node: &str, shape: &Shape) -> Out<'a> {
        let description = shape.bytes();
        assert!(description.len() <= 0xffff, "the description of a state has at most 65535 bytes");
        let size = ENTRY.saturating_add(node.len()).saturating_add(description.len()).next_multiple_of(4);
        self.u32(low_u32(size))
            .u16(KIND_STATE)
            .u16(flags)
            .u32(shape.min_version())
            .u16(low_u16(node.len()))
            .u16(low_u16(description.len()))
            .bytes(node.as_bytes())
            .bytes(description)
            .pad(4)
    }

    const fn layout(self, versions: Reads<'_>, flags: u16) -> Out<'a> {
        self.entry(KIND_LAYOUT, flags, versions.oldest(), "", CompatList::new(versions.newest(), &[]))
    }
}

const fn made_of_size(list: CompatList<'_>) -> usize {
    let counted = Out::counting();
    let size = counted.made_of(list).len;
    assert!(size <= 0xffff, "a composite has at most 65535 bytes");
    size
}

/// Everything of the description behind its header, and how many entries that is.
const fn body<'a>(mut out: Out<'a>, entries: &[Entry]) -> (Out<'a>, u32) {
    let mut count: u32 = 0;
    let mut layouts = LAYOUTS;
    while let [versions, more @ ..] = layouts {
        out = out.layout(*versions, READS | WRITES);
        count = count.saturating_add(1);
        layouts = more;
    }
    let mut of_layouts = count;
    let mut rest = entries;
    while let [entry, more @ ..] = rest {
        match entry.what {
            What::Layout(versions) => {
                out = out.layout(versions, entry.flags);
                count = count.saturating_add(1);
                of_layouts = of_layouts.saturating_add(1);
            }
            What::Node(node, mut lists) => {
                let before = count;
                while let Some((made_of, more)) = MadeOf::first_of(lists) {
                    out = out.entry(KIND_NODE, entry.flags, made_of.oldest, node, made_of.newest);
                    count = count.saturating_add(1);
                    lists = more;
                }
                assert!(count.saturating_sub(before) <= Terms::MOST, "a node has at most 64 ranges of versions");
            }
            What::States(node, shapes) => {
                let versions = state::MADE_OF.owner().version();
                out = out.entry(KIND_NODE, entry.flags, versions, node, state::MADE_OF);
                count = count.saturating_add(1);
                state::check_closed(shapes);
                let mut rest = shapes;
                while let [shape, more @ ..] = rest {
                    out = out.state(entry.flags, node, shape);
                    count = count.saturating_add(1);
                    rest = more;
                }
            }
        }
        rest = more;
    }
    assert!(of_layouts <= Terms::MOST, "there are at most 64 layouts");
    (out, count)
}

/// Each node stands once for each side.
const fn check_once(entries: &[Entry]) {
    let mut rest = entries;
    while let [entry, more @ ..] = rest {
        let mut others = more;
        while let [other, behind @ ..] = others {
            if let (Some(one), Some(another)) = (entry.what.node(), other.what.node())
                && entry.flags & other.flags & (READS | WRITES) != 0
            {
                assert!(!same(one.as_bytes(), another.as_bytes()), "a node is declared once for each side");
            }
            others = behind;
        }
        rest = more;
    }
}

const fn same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([a, more @ ..], [b, rest @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (more, rest);
    }
    one.is_empty() && other.is_empty()
}

/// Bytes of the note.
#[doc(hidden)]
#[must_use]
pub const fn note_size(entries: &[Entry]) -> usize {
    let (body, _) = body(Out::counting(), entries);
    NOTE.saturating_add(HEADER).saturating_add(body.len)
}

/// The note.
#[doc(hidden)]
#[must_use]
pub const fn note<const N: usize>(entries: &[Entry]) -> Bytes<N> {
    check_once(entries);
    let (_, count) = body(Out::counting(), entries);
    assert!(count <= super::MOST && u64_of(N) <= super::LIMIT, "a manifest that readers take");
    let mut bytes = [0; N];
    let out = Out::new(&mut bytes);
    let out = out.u32(low_u32(NAME.len())).u32(low_u32(N.saturating_sub(NOTE))).u32(TYPE).bytes(&NAME);
    let out = out.u32(COMPAT.version()).u32(low_u32(HEADER)).u32(count);
    let (out, _) = body(out, entries);
    assert!(out.is_full(N), "note_size says how long it is");
    Bytes(bytes)
}

/// Everything behind the header of the table.
const fn table<'a>(mut out: Out<'a>, entries: &[Entry]) -> Out<'a> {
    let mut rest = entries;
    while let [entry, more @ ..] = rest {
        let mut lists: &[CompatList<'_>] = match entry.what {
            What::Node(_, lists) => lists,
            What::States(..) => &[state::MADE_OF],
            What::Layout(_) => &[],
        };
        if entry.has(READS) {
            while let [list, more @ ..] = lists {
                // With its header the table stays a multiple of 8; each field is padded by itself.
                let end = out.len.saturating_add(VERSIONS_ENTRY);
                out = out.compat(list.owner());
                while out.len < end {
                    out = out.byte(0);
                }
                lists = more;
            }
        }
        rest = more;
    }
    out
}

/// Bytes of the table of versions.
#[doc(hidden)]
#[must_use]
pub const fn versions_size(entries: &[Entry]) -> usize {
    table(Out::counting_from(size_of::<abi::manifest::VersionsHeader>()), entries).len
}

/// The table of versions.
#[doc(hidden)]
#[must_use]
pub const fn versions<const N: usize>(entries: &[Entry]) -> Bytes<N> {
    let mut bytes = [0; N];
    let out = Out::new(&mut bytes);
    let out = table(out.u32(VERSIONS_MAGIC).u32(VERSIONS_VERSION), entries);
    assert!(out.is_full(N), "versions_size says how long it is");
    Bytes(bytes)
}
