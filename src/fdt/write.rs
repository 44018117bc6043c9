//! Writes trees, over the crate `vm-fdt`.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use vm_fdt::{Error, FdtWriter, FdtWriterNode};

use super::{MAX_DEPTH, MAX_NAME, MAX_SIZE};
use crate::abi::kho::MEM;
use crate::mem::PhysRange;
use crate::num::{index_of, u64_of};
use crate::report::{Code, Fault};

/// Names that a device tree is meant to have are no longer, in bytes; for nodes, without the unit address.
const MAX_WRITTEN: usize = 31;

/// Writes a device tree: one unnamed root, properties before subnodes, nothing twice.
///
/// Methods write into the node that is open: the root, or in the closure of [`Builder::node`] that node. A property or
/// node that is refused is not written. What [`Builder::finish`] gives, [`Fdt::parse`](super::Fdt::parse) takes.
///
/// Names are those of the Devicetree Specification, which are fewer than the reader takes: 1 to 31 characters, for
/// nodes a letter and then letters, digits and `,._+-`, optionally `@` and a unit address of the same characters; for
/// properties letters, digits and `,._+?#-`.
///
/// ```
/// use kho::fdt::Builder;
///
/// let mut root = Builder::new();
/// root.u64_native("preserved-memory-map", 0x45_2000)?;
/// root.node("LUO", |luo| {
///     luo.u64_native("preserved-data", 0x66_8000)?;
///     luo.u64_native("blob-size", 32)
/// })?;
/// assert_eq!(&root.finish()?[..4], [0xd0, 0x0d, 0xfe, 0xed]);
/// # Ok::<(), kho::report::Fault>(())
/// ```
#[derive(Debug)]
pub struct Builder {
    /// The writer with its root open, or why there is none.
    state: Result<(FdtWriter, FdtWriterNode), Fault>,
    /// Names in each open node, the root's first.
    open: Vec<Open>,
    /// Bytes that are certainly written: enough to stop before the size overflows.
    size: u64,
}

#[derive(Debug, Default)]
struct Open {
    properties: BTreeSet<String>,
    children: BTreeSet<String>,
}

fn fault(error: &Error, item: &str) -> Fault {
    let code = match error {
        Error::TotalSizeTooLarge | Error::PropertyValueTooLarge => Code::TooLarge,
        Error::InvalidNodeName | Error::InvalidPropertyName | Error::InvalidString => Code::FdtName,
        Error::NodeDepthTooLarge => Code::FdtDepth,
        _ => Code::FdtStructure,
    };
    Fault::new(code).item(item.to_owned()).found(error)
}

/// Refuses a name that a node of a handover cannot have: one that cannot be written, and one with a unit address, which
/// Linux would also find without it.
pub(crate) fn check_node_name(name: &str) -> Result<(), Fault> {
    check_name(name, true)?;
    if name.contains('@') {
        let fault = Fault::new(Code::FdtName).item(name.to_owned()).found("a unit address");
        return Err(fault.expected("a name without @: Linux would take NAME@ADDRESS for NAME"));
    }
    Ok(())
}

/// Refuses a name that `vm-fdt` would refuse without saying why.
fn check_name(name: &str, node: bool) -> Result<(), Fault> {
    let refuse = |found: &str| {
        let expected = if node {
            "a letter, then letters, digits and ,._+- (at most 31 in all), then perhaps @ and a unit address"
        } else {
            "1 to 31 letters, digits and ,._+?#-"
        };
        Err(Fault::new(Code::FdtName).item(name.escape_default().to_string()).found(found).expected(expected))
    };
    let (base, unit) = match name.split_once('@') {
        Some((base, unit)) if node => (base, unit),
        _ => (name, ""),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || ",._+-".contains(c) || (!node && "?#".contains(c));
    if base.is_empty() {
        return refuse("no name");
    }
    if let Some(wrong) = base.chars().chain(unit.chars()).find(|&c| !allowed(c)) {
        return refuse(&alloc::format!("the character {wrong:?}"));
    }
    if node && !base.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return refuse("no letter at the start");
    }
    if base.len() > MAX_WRITTEN || name.len() > MAX_NAME {
        return refuse(&alloc::format!("{} characters", name.len()));
    }
    Ok(())
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    /// A tree whose root is open.
    #[must_use]
    pub fn new() -> Self {
        let start = || {
            let mut writer = FdtWriter::new()?;
            let root = writer.begin_node("")?;
            Ok((writer, root))
        };
        Builder { state: start().map_err(|error| fault(&error, "/")), open: alloc::vec![Open::default()], size: 0 }
    }

    /// Writes a subnode. The closure gets this same builder, with the new node open.
    ///
    /// # Errors
    /// [`Code::FdtName`], [`Code::FdtDuplicate`], [`Code::FdtDepth`], [`Code::TooLarge`]; then nothing is written. The
    /// fault of the closure: then the node is there and incomplete, so all that follows gives the same fault.
    pub fn node<T>(&mut self, name: &str, inside: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.state.as_ref().map_err(Fault::clone)?;
        check_name(name, true)?;
        let level = self.open.len();
        let Some(parent) = self.open.last_mut() else { return Err(Fault::new(Code::FdtStructure)) };
        if parent.children.contains(name) {
            return Err(twice(name, "node"));
        }
        if level >= MAX_DEPTH {
            return Err(Fault::new(Code::FdtDepth)
                .item(name.to_owned())
                .found(format_args!("a node on level {}", MAX_DEPTH.saturating_add(1)))
                .expected(format_args!("at most {MAX_DEPTH} levels")));
        }
        grow(&mut self.size, name.len(), name)?;
        let (writer, _) = self.state.as_mut().map_err(|fault| Fault::clone(fault))?;
        let node = writer.begin_node(name).map_err(|error| fault(&error, name))?;
        parent.children.insert(name.to_owned());

        self.open.push(Open::default());
        let result = inside(self);
        self.open.pop();
        let (writer, _) = self.state.as_mut().map_err(|fault| Fault::clone(fault))?;
        let result = writer.end_node(node).map_err(|error| fault(&error, name)).and(result);
        if let Err(fault) = &result {
            self.state = Err(fault.clone());
        }
        result
    }

    /// Writes a property of these bytes.
    ///
    /// # Errors
    /// [`Code::FdtName`], [`Code::FdtDuplicate`], [`Code::TooLarge`], and [`Code::FdtStructure`] when the node has a
    /// subnode already; then nothing is written.
    pub fn bytes(&mut self, name: &str, value: &[u8]) -> Result<(), Fault> {
        self.state.as_ref().map_err(Fault::clone)?;
        check_name(name, false)?;
        let Some(open) = self.open.last_mut() else { return Err(Fault::new(Code::FdtStructure)) };
        if open.properties.contains(name) {
            return Err(twice(name, "property"));
        }
        if !open.children.is_empty() {
            return Err(Fault::new(Code::FdtStructure)
                .item(name.to_owned())
                .found("a property behind a subnode")
                .expected("properties before subnodes"));
        }
        grow(&mut self.size, name.len().saturating_add(value.len()), name)?;
        let (writer, _) = self.state.as_mut().map_err(|fault| Fault::clone(fault))?;
        writer.property(name, value).map_err(|error| fault(&error, name))?;
        open.properties.insert(name.to_owned());
        Ok(())
    }

    /// Writes a u32 as Linux keeps it in a handover: native, which is little-endian.
    ///
    /// # Errors
    /// As [`Builder::bytes`].
    pub fn u32_native(&mut self, name: &str, value: u32) -> Result<(), Fault> {
        self.bytes(name, &value.to_le_bytes())
    }

    /// Writes a u64 as Linux keeps it in a handover: native, which is little-endian.
    ///
    /// # Errors
    /// As [`Builder::bytes`].
    pub fn u64_native(&mut self, name: &str, value: u64) -> Result<(), Fault> {
        self.bytes(name, &value.to_le_bytes())
    }

    /// Writes cells as device trees have them: big-endian.
    ///
    /// # Errors
    /// As [`Builder::bytes`].
    pub fn cells_u32(&mut self, name: &str, cells: &[u32]) -> Result<(), Fault> {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.bytes(name, &value)
    }

    /// Writes a list of strings, each with a NUL behind it.
    ///
    /// # Errors
    /// [`Code::Text`] when a string has a NUL; otherwise as [`Builder::bytes`].
    pub fn strings<S: AsRef<str>>(&mut self, name: &str, list: impl IntoIterator<Item = S>) -> Result<(), Fault> {
        let mut value = Vec::new();
        for string in list {
            let string = string.as_ref();
            if string.contains('\0') {
                return Err(Fault::new(Code::Text)
                    .item(name.to_owned())
                    .found(format_args!("a NUL in {string:?}"))
                    .expected("strings without NUL"));
            }
            value.extend_from_slice(string.as_bytes());
            value.push(0);
        }
        self.bytes(name, &value)
    }

    /// Writes the property `mem`: pairs of big-endian u64, address and size.
    ///
    /// # Errors
    /// As [`Builder::bytes`].
    pub fn mem(&mut self, ranges: &[PhysRange]) -> Result<(), Fault> {
        let numbers = ranges.iter().flat_map(|range| [range.start().get(), range.size()]);
        let value: Vec<u8> = numbers.flat_map(u64::to_be_bytes).collect();
        self.bytes(MEM, &value)
    }

    /// Writes a property without a value: it says something by being there.
    ///
    /// # Errors
    /// As [`Builder::bytes`].
    pub fn empty(&mut self, name: &str) -> Result<(), Fault> {
        self.bytes(name, &[])
    }

    /// Ends the root and gives the blob.
    ///
    /// # Errors
    /// The fault of a closure that left its node incomplete; [`Code::TooLarge`].
    pub fn finish(self) -> Result<Vec<u8>, Fault> {
        let (mut writer, root) = self.state?;
        writer.end_node(root).map_err(|error| fault(&error, "/"))?;
        let blob = writer.finish().map_err(|error| fault(&error, "/"))?;
        if blob.len() > index_of(MAX_SIZE) {
            return Err(too_large(u64_of(blob.len()), "/"));
        }
        Ok(blob)
    }
}

fn twice(name: &str, what: &str) -> Fault {
    Fault::new(Code::FdtDuplicate)
        .item(name.to_owned())
        .found(format_args!("a second {what} of that name"))
        .expected("unique names in each node")
}

fn too_large(size: u64, item: &str) -> Fault {
    Fault::new(Code::TooLarge)
        .item(item.to_owned())
        .found(format_args!("{size} bytes"))
        .expected(format_args!("at most {MAX_SIZE}"))
}

/// Counts bytes that will be written, so that too large a tree is refused before it is on the heap.
fn grow(size: &mut u64, more: usize, item: &str) -> Result<(), Fault> {
    let grown = size.saturating_add(u64_of(more));
    if grown > MAX_SIZE.into() {
        return Err(too_large(grown, item));
    }
    *size = grown;
    Ok(())
}
