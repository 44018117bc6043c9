//! Prints a tree as source (DTS), each known value decoded in a comment.
//!
//! `dtc -I dts -O dtb` compiles it back to the same nodes, properties and bytes, in the same order. `dtc -I dtb -O dts`
//! prints valid source too, but shows native integers byte-swapped.
//!
//! **What source cannot say.** Linux takes any bytes as names in `memblock`, device tree source does not; and `dtc`
//! drops or refuses some properties (`name`, `linux,phandle`, and a `phandle` that is not a number of its own). Such a
//! property, or node with all that is in it, is printed behind `//` on each line, names escaped as in Rust's byte
//! strings: it can be read, and is not compiled. The line before says so.

use alloc::collections::BTreeSet;
use core::fmt::{self, Write};

use zerocopy::FromBytes as _;

use super::read::{Event, Fdt, Property, show};
use crate::abi::{kho, kho_test, memblock, vmalloc};

/// Prints the tree.
///
/// ```
/// # #[cfg(feature = "write")] {
/// use kho::fdt::{Builder, Fdt, dts};
///
/// let mut root = Builder::new();
/// root.strings("compatible", ["kho-v4"])?;
/// root.u64_native("preserved-memory-map", 0x45_2000)?;
/// let blob = root.finish()?;
///
/// let mut text = String::new();
/// dts::print(&Fdt::parse(&blob)?, &mut text).unwrap();
/// assert!(text.contains("preserved-memory-map = [00 20 45 00 00 00 00 00]; /* 0x452000 */"));
/// # }
/// # Ok::<(), kho::report::Fault>(())
/// ```
///
/// # Errors
/// Only those of `out`.
pub fn print(fdt: &Fdt<'_>, out: &mut impl Write) -> fmt::Result {
    out.write_str("/dts-v1/;\n")?;
    for (start, size) in fdt.reservations() {
        writeln!(out, "/memreserve/ {start:#x} {size:#x};")?;
    }
    let mut printer = Printer { out, depth: 0, silent: None, phandles: BTreeSet::new() };
    for event in fdt.walk() {
        match event {
            Event::Enter(node) => printer.enter(node.name())?,
            Event::Property(property) => printer.property(&property)?,
            Event::Leave => printer.leave()?,
        }
    }
    Ok(())
}

struct Printer<'w, W> {
    out: &'w mut W,
    depth: usize,
    /// Depth of the node that is printed as a comment, with all that is in it.
    silent: Option<usize>,
    phandles: BTreeSet<[u8; 4]>,
}

const UNSAYABLE: &str = "// not in the compiled tree, because source cannot say it:\n";

impl<W: Write> Printer<'_, W> {
    /// Begins a line.
    fn line(&mut self, comment: bool) -> fmt::Result {
        if comment || self.silent.is_some() {
            self.out.write_str("// ")?;
        }
        (0..self.depth).try_for_each(|_| self.out.write_char('\t'))
    }

    fn enter(&mut self, name: &[u8]) -> fmt::Result {
        self.out.write_char('\n')?;
        if self.depth != 0 && self.silent.is_none() && !node_sayable(name) {
            self.out.write_str(UNSAYABLE)?;
            self.silent = Some(self.depth);
        }
        self.line(false)?;
        match self.depth {
            0 => self.out.write_str("/ {\n")?,
            _ => writeln!(self.out, "{} {{", show(name))?,
        }
        self.depth = self.depth.saturating_add(1);
        Ok(())
    }

    fn leave(&mut self) -> fmt::Result {
        self.depth = self.depth.saturating_sub(1);
        self.line(false)?;
        self.out.write_str("};\n")?;
        if self.silent == Some(self.depth) {
            self.silent = None;
        }
        Ok(())
    }

    fn property(&mut self, property: &Property<'_>) -> fmt::Result {
        let comment = self.silent.is_none() && !self.property_sayable(property);
        if comment {
            self.out.write_str(UNSAYABLE)?;
        }
        self.line(comment)?;
        self.out.write_str(&show(property.name()))?;
        let shape = Shape::of(property);
        if !property.value().is_empty() {
            self.out.write_str(" = ")?;
            self.value(property, shape, comment)?;
        }
        self.out.write_char(';')?;
        note(property, shape, self.out)?;
        self.out.write_char('\n')
    }

    fn property_sayable(&mut self, property: &Property<'_>) -> bool {
        match property.name() {
            b"name" | b"linux,phandle" => false,
            b"phandle" => match <[u8; 4]>::try_from(property.value()) {
                Ok([0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff]) | Err(_) => false,
                Ok(handle) => self.phandles.insert(handle),
            },
            name => name.iter().all(|b| b.is_ascii_alphanumeric() || b",._+*#?-".contains(b)),
        }
    }

    /// The value, not empty, as source.
    fn value(&mut self, property: &Property<'_>, shape: Shape, comment: bool) -> fmt::Result {
        match shape {
            Shape::Ranges => {
                let (pairs, _) = property.value().as_chunks::<16>();
                for (index, (pair, range)) in pairs.iter().zip(property.mem_ranges()).enumerate() {
                    if index != 0 {
                        self.out.write_str(",\n")?;
                        self.line(comment)?;
                        self.out.write_char('\t')?;
                    }
                    cells(pair, self.out)?;
                    match range {
                        Ok(range) => write!(self.out, " /* {range} */")?,
                        Err(fault) => write!(self.out, " /* {}: {} */", fault.code(), fault.found_text())?,
                    }
                }
                Ok(())
            }
            Shape::Cells => cells(property.value(), self.out),
            Shape::Strings => strings(property.value(), self.out),
            Shape::Address | Shape::Size | Shape::Hex | Shape::Count | Shape::Vmalloc | Shape::Bytes => {
                let mut gap = '[';
                for byte in property.value() {
                    write!(self.out, "{gap}{byte:02x}")?;
                    gap = ' ';
                }
                self.out.write_char(']')
            }
        }
    }
}

/// What a value is, by its property's name and its size; unknown ones by their looks.
#[derive(Clone, Copy)]
enum Shape {
    /// Native u64: an address.
    Address,
    /// Native u64: bytes.
    Size,
    /// Native u32, of no magnitude.
    Hex,
    /// Native u32.
    Count,
    Vmalloc,
    Ranges,
    Cells,
    Strings,
    Bytes,
}

impl Shape {
    fn of(property: &Property<'_>) -> Shape {
        let value = property.value();
        let name = core::str::from_utf8(property.name()).unwrap_or("");
        match (name, value.len()) {
            (kho::PRESERVED_MEMORY_MAP | kho::PRESERVED_DATA | memblock::START, 8) => Shape::Address,
            (kho::BLOB_SIZE | memblock::SIZE, 8) => Shape::Size,
            (kho_test::MAGIC | kho_test::CSUM, 4) => Shape::Hex,
            (kho_test::NR_FOLIOS, 4) => Shape::Count,
            (kho_test::FOLIOS_INFO, 16) => Shape::Vmalloc,
            (kho::ADDRESS_CELLS | kho::SIZE_CELLS, 4) => Shape::Cells,
            (kho::MEM, size) if size.is_multiple_of(16) => Shape::Ranges,
            _ if is_strings(value) => Shape::Strings,
            _ => Shape::Bytes,
        }
    }
}

/// Printable strings, none of them empty, each with a NUL behind it.
fn is_strings(value: &[u8]) -> bool {
    let Some(list) = value.strip_suffix(&[0]) else { return false };
    let printable = |string: &[u8]| !string.is_empty() && string.iter().all(|byte| matches!(byte, b' '..=b'~'));
    list.split(|&byte| byte == 0).all(printable)
}

fn node_sayable(name: &[u8]) -> bool {
    let mut ats = 0usize;
    name.iter().all(|&byte| {
        ats = ats.saturating_add((byte == b'@').into());
        ats <= 1 && (byte.is_ascii_alphanumeric() || b",._+-@".contains(&byte))
    })
}

fn cells(value: &[u8], out: &mut impl Write) -> fmt::Result {
    let (cells, _) = value.as_chunks::<4>();
    let mut gap = '<';
    for cell in cells {
        write!(out, "{gap}{:#x}", u32::from_be_bytes(*cell))?;
        gap = ' ';
    }
    out.write_char('>')
}

/// Strings for which [`is_strings`] holds: nothing to escape but the two characters that end or escape.
fn strings(value: &[u8], out: &mut impl Write) -> fmt::Result {
    let list = value.strip_suffix(&[0]).unwrap_or(value);
    for (index, string) in list.split(|&byte| byte == 0).enumerate() {
        out.write_str(if index == 0 { "\"" } else { ", \"" })?;
        for &byte in string {
            if byte == b'"' || byte == b'\\' {
                out.write_char('\\')?;
            }
            out.write_char(byte.into())?;
        }
        out.write_char('"')?;
    }
    Ok(())
}

/// The comment behind a value.
fn note(property: &Property<'_>, shape: Shape, out: &mut impl Write) -> fmt::Result {
    let number = || property.u64_native().or_else(|_| property.u32_native().map(u64::from)).unwrap_or(0);
    match shape {
        Shape::Address | Shape::Hex => write!(out, " /* {:#x} */", number()),
        Shape::Size => write!(out, " /* {} bytes */", number()),
        Shape::Count => write!(out, " /* {} */", number()),
        Shape::Vmalloc => match vmalloc::Descriptor::read_from_bytes(property.value()) {
            Ok(area) => write!(
                out,
                " /* vmalloc: first chunk {:#x}, total_pages {}, flags {:#x}, order {} */",
                area.first, area.total_pages, area.flags, area.order
            ),
            Err(_) => Ok(()),
        },
        Shape::Ranges | Shape::Cells | Shape::Strings | Shape::Bytes => Ok(()),
    }
}
