//! A checked tree: iteration and lookups that cannot fail.
//!
//! Nothing is stored beside the blob. Where the checks of `check.rs` have made something impossible, the code here
//! answers with an empty name or an end, and does not panic.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use core::fmt;

use super::names::name_len;
use super::values::{MemRanges, Strings};
use super::{BEGIN_NODE, END_NODE, NOP, PROP, PROP_HEAD, align4, be32, be64, check};
use crate::num::{index_of, u64_of};
use crate::report::{Code, Fault};

/// A flattened device tree that was checked.
#[derive(Clone, Copy)]
pub struct Fdt<'a> {
    /// Exactly totalsize bytes.
    pub(super) blob: &'a [u8],
    pub(super) structure: u32,
    pub(super) structure_end: u32,
    pub(super) strings: u32,
    pub(super) strings_end: u32,
}

impl<'a> Fdt<'a> {
    /// Checks a blob. It may be followed by other bytes, as in a page; what is behind totalsize is not looked at.
    ///
    /// Taken is what libfdt's full check takes, with these exceptions: a version before 17, blocks that overlap or are
    /// not aligned, no root at all, properties behind subnodes, bytes behind the END token, names that stand twice,
    /// unnamed nodes and properties, names of more than [`MAX_NAME`](super::MAX_NAME) bytes and more than [`MAX_DEPTH`](super::MAX_DEPTH)
    /// levels are refused. Names may have any byte but NUL.
    ///
    /// Time is linear in the size, or n log n for names that were made to collide; memory is at most a small multiple
    /// of the size, and freed on return.
    ///
    /// # Errors
    /// All with an offset in the blob and an item. [`Code::FdtHeader`]: no device tree, or blocks that are impossible.
    /// [`Code::Truncated`]: fewer bytes than the header or totalsize. [`Code::VersionOlder`], [`Code::VersionNewer`]:
    /// another version of the format. [`Code::TooLarge`], [`Code::FdtDepth`]: beyond the limits of this reader.
    /// [`Code::FdtStructure`], [`Code::FdtName`], [`Code::FdtDuplicate`]: as they say.
    pub fn parse(bytes: &'a [u8]) -> Result<Fdt<'a>, Fault> {
        let fdt = check::header(bytes)?;
        check::structure(&fdt)?;
        Ok(fdt)
    }

    /// The blob, cut to its totalsize.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.blob
    }

    /// The root node. Its name is empty.
    #[must_use]
    pub fn root(&self) -> Node<'a> {
        let mut at = self.structure;
        while self.token(at) == NOP {
            at = at.wrapping_add(4);
        }
        Node { fdt: *self, at, name_len: 0 }
    }

    /// The whole tree in one pass, in linear time: see [`Node::walk`].
    #[must_use]
    pub fn walk(&self) -> Walk<'a> {
        self.root().walk()
    }

    /// The memory reservations. A handover has none.
    #[must_use]
    pub fn reservations(&self) -> Reservations<'a> {
        Reservations { blob: self.blob, at: be32(self.blob, 16).unwrap_or(u32::MAX) }
    }

    #[inline]
    fn token(&self, at: u32) -> u32 {
        be32(self.blob, at).unwrap_or(super::END)
    }

    #[inline]
    fn node_at(&self, at: u32) -> Node<'a> {
        Node { fdt: *self, at, name_len: name_len(self.blob, at.wrapping_add(4)).unwrap_or(0) }
    }

    #[inline]
    fn property_at(&self, at: u32) -> Property<'a> {
        Property { fdt: *self, at, size: be32(self.blob, at.wrapping_add(4)).unwrap_or(0) }
    }

    #[inline]
    pub(super) fn slice(&self, start: u32, len: u32) -> &'a [u8] {
        let start = index_of(start);
        self.blob.get(start..start.wrapping_add(index_of(len))).unwrap_or(&[])
    }
}

impl fmt::Debug for Fdt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fdt").field("bytes", &self.blob.len()).finish_non_exhaustive()
    }
}

/// A name for people: bytes that are not printable ASCII are escaped.
pub(super) fn show(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

/// A node of a tree.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    fdt: Fdt<'a>,
    at: u32,
    name_len: u32,
}

impl<'a> Node<'a> {
    /// Its name with the unit address, if any. Empty for the root and for nothing else.
    #[must_use]
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.fdt.slice(self.at.wrapping_add(4), self.name_len)
    }

    /// Where its token is in the blob, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at.into()
    }

    /// Offset of the first token in it.
    #[inline]
    pub(super) fn inside(&self) -> u32 {
        align4(self.at.wrapping_add(5).wrapping_add(self.name_len))
    }

    /// Its properties, in the order of the blob.
    #[must_use]
    pub fn properties(&self) -> Properties<'a> {
        Properties { fdt: self.fdt, at: self.inside() }
    }

    /// The property of exactly that name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<Property<'a>> {
        self.properties().find(|property| property.name() == name.as_bytes())
    }

    /// The property of exactly that name, which has to be there.
    ///
    /// # Errors
    /// [`Code::PropertyMissing`].
    pub fn required(&self, name: &str) -> Result<Property<'a>, Fault> {
        self.property(name).ok_or_else(|| Fault::new(Code::PropertyMissing).offset(self.offset()).item(name.to_owned()))
    }

    /// Its subnodes, in the order of the blob.
    ///
    /// To step to the next one, what is inside of the one before is skipped: looking at all nodes of a tree costs its
    /// size times its depth this way, and only its size with [`Node::walk`].
    #[must_use]
    pub fn children(&self) -> Children<'a> {
        Children { fdt: self.fdt, at: self.inside(), depth: 0 }
    }

    /// The subnode of exactly that name. What Linux would find may be another one: [`Node::child_as_linux`].
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Node<'a>> {
        self.children().find(|child| child.name() == name.as_bytes())
    }

    /// The subnode that Linux finds under that name, if that is the one of exactly that name.
    ///
    /// Linux takes the first node that is called `NAME` or, when the name has no `@` itself, `NAME@` and anything.
    ///
    /// # Errors
    /// [`Code::FdtUnitAddress`] when Linux would take a `NAME@...` for `NAME`.
    pub fn child_as_linux(&self, name: &str) -> Result<Option<Node<'a>>, Fault> {
        let plain = !name.contains('@');
        for child in self.children() {
            match child.name().strip_prefix(name.as_bytes()) {
                Some([]) => return Ok(Some(child)),
                Some([b'@', ..]) if plain => {
                    return Err(Fault::new(Code::FdtUnitAddress)
                        .offset(child.offset())
                        .item(name.to_owned())
                        .found(show(child.name()))
                        .expected(name));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Itself, its properties and all that is below, in the order of the blob and in linear time.
    #[must_use]
    pub fn walk(&self) -> Walk<'a> {
        Walk { fdt: self.fdt, at: self.at, depth: 0, done: false }
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({:#x} {})", self.at, show(self.name()))
    }
}

/// A property of a node.
#[derive(Clone, Copy)]
pub struct Property<'a> {
    fdt: Fdt<'a>,
    pub(super) at: u32,
    pub(super) size: u32,
}

impl<'a> Property<'a> {
    /// Its name.
    #[must_use]
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        let offset = be32(self.fdt.blob, self.at.wrapping_add(8)).unwrap_or(u32::MAX);
        let start = self.fdt.strings.saturating_add(offset);
        self.fdt.slice(start, name_len(self.fdt.blob, start).unwrap_or(0))
    }

    /// Its bytes.
    #[must_use]
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        self.fdt.slice(self.at.wrapping_add(PROP_HEAD), self.size)
    }

    /// Where its value is in the blob, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.at).wrapping_add(PROP_HEAD.into())
    }

    pub(super) fn fault(&self, code: Code) -> Fault {
        Fault::new(code).offset(self.offset()).item(show(self.name()))
    }

    fn exactly<const SIZE: usize>(&self) -> Result<[u8; SIZE], Fault> {
        self.value().try_into().map_err(|_| {
            self.fault(Code::PropertySize)
                .found(format_args!("{} bytes", self.size))
                .expected(format_args!("{SIZE} bytes"))
        })
    }

    /// The value as Linux keeps a u32 in a handover: native, which is little-endian.
    ///
    /// # Errors
    /// [`Code::PropertySize`] unless it has 4 bytes.
    pub fn u32_native(&self) -> Result<u32, Fault> {
        self.exactly().map(u32::from_le_bytes)
    }

    /// The value as Linux keeps a u64 in a handover: native, which is little-endian.
    ///
    /// # Errors
    /// [`Code::PropertySize`] unless it has 8 bytes.
    pub fn u64_native(&self) -> Result<u64, Fault> {
        self.exactly().map(u64::from_le_bytes)
    }

    /// The value as a list of strings, each with a NUL behind it. No bytes are an empty list.
    ///
    /// # Errors
    /// [`Code::Text`] with the offset of the string that is not UTF-8 or not terminated.
    pub fn strings(&self) -> Result<Strings<'a>, Fault> {
        let value = self.value();
        let text = core::str::from_utf8(value).map_err(|error| {
            let at = self.offset().wrapping_add(u64_of(error.valid_up_to()));
            Fault::new(Code::Text).offset(at).item(show(self.name())).found("not UTF-8").expected("a list of strings")
        })?;
        match text.strip_suffix('\0') {
            Some(list) => Ok(Strings { rest: Some(list) }),
            None if text.is_empty() => Ok(Strings { rest: None }),
            None => {
                let last = text.rfind('\0').map_or(0, |nul| nul.wrapping_add(1));
                let at = self.offset().wrapping_add(u64_of(last));
                Err(Fault::new(Code::Text)
                    .offset(at)
                    .item(show(self.name()))
                    .found("no NUL behind the last string")
                    .expected("a list of strings"))
            }
        }
    }

    /// The value as pairs of big-endian u64, address and size: the property `mem` of a handover.
    ///
    /// A value that is not a multiple of 16 bytes gives one [`Code::PropertySize`] and nothing else; a range that passes
    /// the end of the address space is a [`Code::TooLarge`] in its place.
    #[must_use]
    pub fn mem_ranges(&self) -> MemRanges<'a> {
        MemRanges { property: *self, index: 0 }
    }
}

impl fmt::Debug for Property<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Property({:#x} {}: {} bytes)", self.at, show(self.name()), self.size)
    }
}

/// The properties of a node: [`Node::properties`].
#[derive(Clone, Debug)]
pub struct Properties<'a> {
    fdt: Fdt<'a>,
    at: u32,
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    #[inline]
    fn next(&mut self) -> Option<Property<'a>> {
        loop {
            match self.fdt.token(self.at) {
                PROP => {
                    let property = self.fdt.property_at(self.at);
                    self.at = property.behind();
                    return Some(property);
                }
                NOP => self.at = self.at.wrapping_add(4),
                _ => return None,
            }
        }
    }
}

impl Property<'_> {
    /// Offset of the token behind it.
    #[inline]
    fn behind(&self) -> u32 {
        align4(self.at.wrapping_add(PROP_HEAD).wrapping_add(self.size))
    }
}

/// The subnodes of a node: [`Node::children`].
#[derive(Clone, Debug)]
pub struct Children<'a> {
    fdt: Fdt<'a>,
    at: u32,
    /// Levels below the children's own parent: 1 or more while the rest of a child is skipped.
    depth: u32,
}

impl<'a> Iterator for Children<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        loop {
            match self.fdt.token(self.at) {
                PROP => self.at = self.fdt.property_at(self.at).behind(),
                BEGIN_NODE => {
                    let node = self.fdt.node_at(self.at);
                    self.at = node.inside();
                    self.depth = self.depth.wrapping_add(1);
                    if self.depth == 1 {
                        return Some(node);
                    }
                }
                END_NODE => {
                    self.depth = self.depth.checked_sub(1)?;
                    self.at = self.at.wrapping_add(4);
                }
                NOP => self.at = self.at.wrapping_add(4),
                _ => return None,
            }
        }
    }
}

/// What [`Node::walk`] comes by.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A node begins.
    Enter(Node<'a>),
    /// A property of the node that is open.
    Property(Property<'a>),
    /// The node that is open ends.
    Leave,
}

/// A node and all below: [`Node::walk`].
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    fdt: Fdt<'a>,
    at: u32,
    depth: u32,
    done: bool,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Event<'a>;

    #[inline]
    fn next(&mut self) -> Option<Event<'a>> {
        if self.done {
            return None;
        }
        loop {
            match self.fdt.token(self.at) {
                PROP => {
                    let property = self.fdt.property_at(self.at);
                    self.at = property.behind();
                    return Some(Event::Property(property));
                }
                BEGIN_NODE => {
                    let node = self.fdt.node_at(self.at);
                    self.at = node.inside();
                    self.depth = self.depth.wrapping_add(1);
                    return Some(Event::Enter(node));
                }
                END_NODE => {
                    self.at = self.at.wrapping_add(4);
                    self.depth = self.depth.saturating_sub(1);
                    self.done = self.depth == 0;
                    return Some(Event::Leave);
                }
                NOP => self.at = self.at.wrapping_add(4),
                _ => return None,
            }
        }
    }
}

/// Memory reservations, address and size in bytes: [`Fdt::reservations`].
#[derive(Clone, Debug)]
pub struct Reservations<'a> {
    blob: &'a [u8],
    at: u32,
}

impl Iterator for Reservations<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let start = be64(self.blob, self.at)?;
        let size = be64(self.blob, self.at.saturating_add(8))?;
        if size == 0 {
            return None;
        }
        self.at = self.at.saturating_add(16);
        Some((start, size))
    }
}
