//! Everything that can be wrong with a blob, checked once.

use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::fmt;

use super::names::{Duplicates, Name, name_len};
use super::read::Fdt;
use super::{
    BEGIN_NODE, END, END_NODE, HEADER, MAGIC, MAX_DEPTH, MAX_NAME, MAX_SIZE, NOP, PROP, PROP_HEAD, VERSION, align4,
    be32, be64,
};
use crate::num::{index_of, u64_of};
use crate::report::{Code, Fault};

/// A part of the blob, from its first byte to the one behind.
struct Block {
    name: &'static str,
    /// Offset of the header field that says where it is.
    field: u64,
    start: u32,
    end: u32,
}

fn header_fault(code: Code, item: &'static str, field: u64) -> Fault {
    Fault::new(code).item(item).offset(field)
}

/// The size that the first 8 bytes of a device tree claim for it, in bytes.
pub(crate) fn total_size(head: &[u8; 8]) -> Result<u32, Fault> {
    let magic = be32(head, 0).unwrap_or(0);
    if magic != MAGIC {
        let fault = header_fault(Code::FdtHeader, "magic", 0).found(format_args!("{magic:#010x}"));
        return Err(fault.expected(format_args!("{MAGIC:#010x}")));
    }
    Ok(be32(head, 4).unwrap_or(0))
}

/// Checks the header and that all blocks are inside, aligned and apart.
pub(super) fn header(bytes: &[u8]) -> Result<Fdt<'_>, Fault> {
    if !MAGIC.to_be_bytes().iter().zip(bytes).all(|(a, b)| a == b) {
        let magic = be32(bytes, 0).map_or_else(|| format!("{} bytes", bytes.len()), |magic| format!("{magic:#010x}"));
        return Err(header_fault(Code::FdtHeader, "magic", 0).found(magic).expected(format_args!("{MAGIC:#010x}")));
    }
    let field = |at| {
        be32(bytes, at).ok_or_else(|| {
            header_fault(Code::Truncated, "header", u64_of(bytes.len()))
                .found(format_args!("{} bytes", bytes.len()))
                .expected(format_args!("{HEADER} (header)"))
        })
    };
    field(HEADER.wrapping_sub(4))?;

    let total = field(4)?;
    let (version, compatible_from) = (field(20)?, field(24)?);
    if compatible_from > VERSION {
        return Err(header_fault(Code::VersionNewer, "last_comp_version", 24)
            .found(compatible_from)
            .expected(format_args!("at most {VERSION}")));
    }
    if version < VERSION {
        return Err(header_fault(Code::VersionOlder, "version", 20)
            .found(version)
            .expected(format_args!("{VERSION} or later")));
    }
    if total > MAX_SIZE {
        return Err(header_fault(Code::TooLarge, "totalsize", 4)
            .found(format_args!("{total} bytes"))
            .expected(format_args!("at most {MAX_SIZE}")));
    }
    let Some(blob) = bytes.get(..index_of(total)) else {
        return Err(header_fault(Code::Truncated, "totalsize", 4)
            .found(format_args!("{} bytes", bytes.len()))
            .expected(format_args!("{total} (totalsize)")));
    };

    let block = |name, at: u32, size: u32, align: u32| {
        let start = field(at)?;
        if !start.is_multiple_of(align) {
            return Err(header_fault(Code::FdtHeader, name, at.into())
                .found(format_args!("offset {start:#x}"))
                .expected(format_args!("a multiple of {align}")));
        }
        match start.checked_add(size) {
            Some(end) if end <= total => Ok(Block { name, field: at.into(), start, end }),
            _ => Err(header_fault(Code::FdtHeader, name, at.into())
                .found(format_args!("{size} bytes from offset {start:#x} on"))
                .expected(format_args!("all within {total} bytes (totalsize)"))),
        }
    };
    let size_struct = field(36)?;
    if !size_struct.is_multiple_of(4) {
        return Err(header_fault(Code::FdtHeader, "size_dt_struct", 36).found(size_struct).expected("a multiple of 4"));
    }
    let structure = block("off_dt_struct", 8, size_struct, 4)?;
    let strings = block("off_dt_strings", 12, field(32)?, 1)?;
    let reserved = block("off_mem_rsvmap", 16, 0, 8)?;
    let reserved = Block { end: reservations_end(blob, reserved.start)?, ..reserved };
    let header = Block { name: "header", field: 0, start: 0, end: HEADER };

    let fdt = Fdt {
        blob,
        structure: structure.start,
        structure_end: structure.end,
        strings: strings.start,
        strings_end: strings.end,
    };
    let blocks = [header, reserved, structure, strings];
    for (index, block) in blocks.iter().enumerate() {
        for before in blocks.iter().take(index) {
            if block.start < before.end && before.start < block.end {
                return Err(header_fault(Code::FdtHeader, block.name, block.field)
                    .found(format_args!("{:#x}..{:#x}", block.start, block.end))
                    .expected(format_args!("apart from {} {:#x}..{:#x}", before.name, before.start, before.end)));
            }
        }
    }
    Ok(fdt)
}

/// The end of the list of reservations, its terminator included: an entry of size 0, as libfdt has it.
fn reservations_end(blob: &[u8], start: u32) -> Result<u32, Fault> {
    let mut at = start;
    loop {
        let size = be64(blob, at.saturating_add(8));
        at = at.saturating_add(16);
        match size {
            Some(0) => return Ok(at),
            Some(_) => {}
            None => {
                return Err(header_fault(Code::FdtHeader, "off_mem_rsvmap", 16)
                    .found(format_args!("no end of the list at offset {start:#x}"))
                    .expected("an entry of size 0"));
            }
        }
    }
}

fn structure_fault(at: u32, item: &'static str) -> Fault {
    Fault::new(Code::FdtStructure).offset(at.into()).item(item)
}

#[cold]
fn ended(at: u32, expected: impl fmt::Display) -> Fault {
    structure_fault(at, "size_dt_struct").found("the end of the structure block").expected(expected)
}

#[cold]
fn misplaced(at: u32, found: &'static str, expected: &'static str) -> Fault {
    structure_fault(at, "structure").found(found).expected(expected)
}

#[cold]
fn bad_name(at: u32, item: &'static str, block: &[u8], start: u32) -> Fault {
    let fault = Fault::new(Code::FdtName).offset(at.into()).item(item);
    match block.len().checked_sub(index_of(start)) {
        None | Some(0) => fault.found(format_args!("offset {start:#x}")).expected("an offset inside its block"),
        Some(rest) if rest > MAX_NAME => fault.found("more bytes").expected(format_args!("at most {MAX_NAME}")),
        Some(_) => fault.found("no terminating NUL in its block"),
    }
}

#[cold]
fn twice(name: Name, blob: &[u8], what: &'static str) -> Fault {
    Fault::new(Code::FdtDuplicate)
        .offset(name.at.into())
        .item(name.bytes(blob).escape_ascii().to_string())
        .found(format_args!("a second {what} of that name"))
        .expected("unique names in each node")
}

/// What stands open while the structure is walked.
struct Check<'a> {
    /// The blob up to the end of the structure block.
    structure: &'a [u8],
    /// The blob up to the end of the strings block.
    strings: &'a [u8],
    strings_start: u32,
    blob: &'a [u8],
    duplicates: Duplicates,
    /// Properties of the node that was begun last.
    properties: Vec<Name>,
    /// Children of all open nodes, those of the innermost one last.
    children: Vec<Name>,
    /// For each open node, where its children begin in `children`.
    open: [usize; MAX_DEPTH],
    depth: usize,
}

/// Checks the structure block: tokens, names, order, nesting, duplicates.
///
/// The innermost node's children are always at the end of one list, so memory and time are linear in what is read.
pub(super) fn structure(fdt: &Fdt<'_>) -> Result<(), Fault> {
    let mut check = Check {
        structure: fdt.blob.get(..index_of(fdt.structure_end)).unwrap_or(&[]),
        strings: fdt.blob.get(..index_of(fdt.strings_end)).unwrap_or(&[]),
        strings_start: fdt.strings,
        blob: fdt.blob,
        duplicates: Duplicates::default(),
        properties: Vec::new(),
        children: Vec::new(),
        open: [0; MAX_DEPTH],
        depth: 0,
    };
    let mut at = fdt.structure;
    // Properties are allowed from the begin of a node to the first begin or end behind it.
    let mut in_properties = false;
    let mut root_seen = false;
    loop {
        let token = be32(check.structure, at).ok_or_else(|| ended(at, "a token"))?;
        match token {
            PROP if in_properties => at = check.property(at)?,
            BEGIN_NODE => {
                if in_properties {
                    check.end_of_properties()?;
                }
                if check.depth == 0 && root_seen {
                    return Err(misplaced(at, "a second root", "FDT_END"));
                }
                at = check.begin(at)?;
                in_properties = true;
                root_seen = true;
            }
            END_NODE => {
                if in_properties {
                    check.end_of_properties()?;
                    in_properties = false;
                }
                check.end(at)?;
                at = at.wrapping_add(4);
            }
            NOP => at = at.wrapping_add(4),
            END => {
                if check.depth != 0 {
                    return Err(misplaced(at, "FDT_END in an open node", "FDT_END_NODE"));
                }
                if !root_seen {
                    return Err(misplaced(at, "FDT_END", "a root node"));
                }
                let end = at.wrapping_add(4);
                if end != fdt.structure_end {
                    return Err(structure_fault(end, "size_dt_struct")
                        .found(format_args!("{} bytes behind FDT_END", fdt.structure_end.saturating_sub(end)))
                        .expected("nothing"));
                }
                return Ok(());
            }
            PROP if check.depth == 0 => return Err(misplaced(at, "a property outside of nodes", "a node")),
            PROP => return Err(misplaced(at, "a property behind a subnode", "properties before subnodes")),
            other => {
                return Err(structure_fault(at, "structure")
                    .found(format_args!("token {other:#x}"))
                    .expected("1, 2, 3, 4 or 9"));
            }
        }
    }
}

impl Check<'_> {
    #[inline]
    fn begin(&mut self, at: u32) -> Result<u32, Fault> {
        let start = at.wrapping_add(4);
        let len = name_len(self.structure, start).ok_or_else(|| bad_name(at, "node name", self.structure, start))?;
        if (len == 0) != (self.depth == 0) {
            return Err(misnamed(at, len));
        }
        let Some(open) = self.open.get_mut(self.depth) else {
            return Err(too_deep(at));
        };
        if self.depth != 0 {
            self.children.push(Name { at, start, len });
        }
        *open = self.children.len();
        self.depth = self.depth.wrapping_add(1);
        Ok(align4(start.wrapping_add(len).wrapping_add(1)))
    }

    #[inline]
    fn end(&mut self, at: u32) -> Result<(), Fault> {
        let Some(depth) = self.depth.checked_sub(1) else {
            return Err(misplaced(at, "FDT_END_NODE outside of nodes", "a node"));
        };
        self.depth = depth;
        let first = self.open.get(depth).copied().unwrap_or(0);
        let children = self.children.get(first..).unwrap_or(&[]);
        if children.len() > 1
            && let Some(name) = self.duplicates.first(self.blob, children)
        {
            return Err(twice(name, self.blob, "node"));
        }
        self.children.truncate(first);
        Ok(())
    }

    #[inline]
    fn property(&mut self, at: u32) -> Result<u32, Fault> {
        let tail = self.structure.get(index_of(at)..).unwrap_or(&[]);
        let Some([_, _, _, _, a, b, c, d, e, f, g, h]) = tail.first_chunk() else {
            return Err(ended(at, "length and name of a property"));
        };
        let (size, offset) = (u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h]));
        let value = at.wrapping_add(PROP_HEAD);
        // The structure is below MAX_SIZE and `value` inside of it, as was just read.
        let rest = u64_of(self.structure.len()).saturating_sub(value.into());
        if u64::from(size) > rest {
            return Err(ended(at, format_args!("a value of {size} bytes, of which {rest} are there")));
        }
        let start = self.strings_start.saturating_add(offset);
        let Some(len) = name_len(self.strings, start) else {
            return Err(bad_name(at, "property name", self.strings, start));
        };
        if len == 0 {
            return Err(Fault::new(Code::FdtName).offset(at.into()).item("property name").found("no name"));
        }
        self.properties.push(Name { at, start, len });
        Ok(align4(value.wrapping_add(size)))
    }

    #[inline]
    fn end_of_properties(&mut self) -> Result<(), Fault> {
        if let Some(name) = self.duplicates.first(self.blob, &self.properties) {
            return Err(twice(name, self.blob, "property"));
        }
        self.properties.clear();
        Ok(())
    }
}

#[cold]
fn misnamed(at: u32, len: u32) -> Fault {
    let fault = Fault::new(Code::FdtName).offset(at.into()).item("node name");
    match len {
        0 => fault.found("no name").expected("a name for every node but the root"),
        _ => fault.found("a root with a name").expected("an unnamed root"),
    }
}

#[cold]
fn too_deep(at: u32) -> Fault {
    Fault::new(Code::FdtDepth)
        .offset(at.into())
        .item("structure")
        .found(format_args!("a node on level {}", MAX_DEPTH.saturating_add(1)))
        .expected(format_args!("at most {MAX_DEPTH} levels"))
}
