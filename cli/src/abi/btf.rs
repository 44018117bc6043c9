//! The layouts of structures in BTF, the type information that a kernel carries.

use std::cell::Cell;
use std::collections::BTreeMap;

use btfparse::{Error, ErrorKind, Offset, Readable, TypeInformation, TypeVariant};
use kho::lock::{Field, Structure};

use super::names::{KNOWN, Known, looks_handed_over};

/// Types inside of types: more is nothing that a compiler wrote.
const DEPTH: u32 = 16;
/// Fields of one structure.
const FIELDS: usize = 4096;
/// Longest name of a field, those that it lies in included.
const NAME: usize = 256;
/// So many types are looked at for one structure.
const STEPS: u32 = 1 << 18;
/// So often may each byte be read: names are read wherever they are used, and one long name that everything has would
/// be copied without end. A real kernel needs three times.
const READS_PER_BYTE: usize = 16;

/// A structure that is handed over.
pub(super) struct Found {
    /// Its names.
    pub(super) known: &'static Known,
    /// As it is in the kernel, with the kernel's names.
    pub(super) structure: Structure,
}

/// What is in a BTF.
pub(super) struct Extracted {
    /// In the order of the table.
    pub(super) found: Vec<Found>,
    /// Names of structures that look as if they were handed over, and are not known here.
    pub(super) unknown: Vec<String>,
}

/// Bytes that may be read so often.
struct Bounded<'a> {
    bytes: &'a [u8],
    left: Cell<usize>,
}

impl Readable for Bounded<'_> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let left = self.left.get().checked_sub(buffer.len());
        let left = left.ok_or_else(|| Error::new(ErrorKind::InvalidString, "its names are repeated without end"))?;
        self.left.set(left);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = from.checked_add(buffer.len()).and_then(|to| self.bytes.get(from..to));
        let part = part.ok_or_else(|| Error::new(ErrorKind::EOF, &format!("it ends before offset {offset:#x}")))?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// Every structure of the table that is there.
pub(super) fn extract(bytes: &[u8]) -> Result<Extracted, String> {
    let left = Cell::new(bytes.len().saturating_mul(READS_PER_BYTE));
    let types = TypeInformation::new(&Bounded { bytes, left });
    let types = types.map_err(|error| format!("its BTF cannot be read: {}", error.message()))?;
    let all = types.get();
    let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (id, variant) in all {
        let TypeVariant::Struct(structure) = variant else { continue };
        let Some(name) = structure.name().as_deref() else { continue };
        if let Some(known) = KNOWN.iter().find(|known| known.linux == name) {
            ids.entry(known.linux).or_insert(*id);
        } else if looks_handed_over(name) && !unknown.iter().any(|other| other == name) && unknown.len() < FIELDS {
            unknown.push(name.to_owned());
        }
    }
    let mut found = Vec::new();
    for known in KNOWN {
        let Some(id) = ids.get(known.linux) else { continue };
        let Some(TypeVariant::Struct(whole)) = all.get(id) else { continue };
        let mut walk = Walk { all, fields: Vec::new(), bits: None, steps: Cell::new(STEPS) };
        walk.members(whole.member_list(), 0, "", DEPTH).map_err(|why| format!("struct {}: {why}", known.linux))?;
        walk.flush();
        let structure = Structure { size: *whole.size() as u64, align: None, fields: walk.fields };
        found.push(Found { known, structure });
    }
    Ok(Extracted { found, unknown })
}

struct Walk<'a> {
    all: &'a BTreeMap<u32, TypeVariant>,
    fields: Vec<Field>,
    /// Bit fields that lie in one unit so far: name, first bit, width, unit in bits.
    bits: Option<(String, u64, u64, u64)>,
    steps: Cell<u32>,
}

impl<'a> Walk<'a> {
    /// Adds the members of a structure whose first bit is `base`; of nested ones that the table does not have, theirs.
    fn members(
        &mut self,
        members: &[btfparse::Member],
        base: u64,
        prefix: &str,
        depth: u32,
    ) -> Result<(), &'static str> {
        let depth = depth.checked_sub(1).ok_or("nested without end")?;
        for member in members {
            if self.fields.len() >= FIELDS {
                return Err("more fields than any structure has");
            }
            let (offset, width) = match member.offset() {
                Offset::ByteOffset(bytes) => (u64::from(bytes) * 8, 0),
                Offset::BitOffsetAndSize(offset, width) => (u64::from(offset), u64::from(width)),
            };
            let at = base + offset;
            let name = format!("{prefix}{}", member.name().unwrap_or_default());
            if name.len() > NAME {
                return Err("a name longer than any field has");
            }
            if width > 0 {
                let unit = self.spell(member.tid(), depth)?.1.saturating_mul(8);
                self.bit_field(&name, at, width, unit);
                continue;
            }
            self.flush();
            if !at.is_multiple_of(8) {
                return Err("a field between two bytes");
            }
            match self.resolve(member.tid())? {
                Some(TypeVariant::Struct(inner)) if !is_known(inner.name().as_deref()) => {
                    let prefix = if member.name().is_some() { format!("{name}.") } else { prefix.to_owned() };
                    self.members(inner.member_list(), at, &prefix, depth)?;
                }
                _ => {
                    let (ty, size) = self.spell(member.tid(), depth)?;
                    // An array without length, behind the structure.
                    if size > 0 {
                        self.fields.push(Field { name, offset: at / 8, size, ty });
                    }
                }
            }
        }
        Ok(())
    }

    /// Joins the bit fields of one unit: `pfn:52|flags:12`.
    fn bit_field(&mut self, name: &str, at: u64, width: u64, unit: u64) {
        if let Some((names, first, sum, of)) = &mut self.bits
            && *first + *sum == at
            && *sum + width <= *of
        {
            names.push_str(&format!("|{name}:{width}"));
            *sum += width;
            return;
        }
        self.flush();
        self.bits = Some((format!("{name}:{width}"), at, width, unit));
    }

    /// Ends a run of bit fields.
    fn flush(&mut self) {
        if let Some((name, first, sum, _)) = self.bits.take() {
            let size = sum.div_ceil(8);
            self.fields.push(Field { name, offset: first / 8, size, ty: format!("U{}", size * 8) });
        }
    }

    /// The type behind names and qualifiers; none is `void`.
    fn resolve(&self, id: u32) -> Result<Option<&'a TypeVariant>, &'static str> {
        let steps = self.steps.get().checked_sub(1).ok_or("larger than any structure that is handed over")?;
        self.steps.set(steps);
        let mut id = id;
        for _ in 0..64 {
            if id == 0 {
                return Ok(None);
            }
            let all: &'a BTreeMap<u32, TypeVariant> = self.all;
            let variant = all.get(&id).ok_or("a type that is not there")?;
            id = match variant {
                TypeVariant::Typedef(named) => *named.tid(),
                TypeVariant::Const(named) => *named.tid(),
                TypeVariant::Volatile(named) => *named.tid(),
                TypeVariant::Restrict(named) => *named.tid(),
                TypeVariant::TypeTag(named) => *named.tid(),
                _ => return Ok(Some(variant)),
            };
        }
        Err("names for names without end")
    }

    /// A type as the lock spells it, and its bytes.
    fn spell(&self, id: u32, depth: u32) -> Result<(String, u64), &'static str> {
        let depth = depth.checked_sub(1).ok_or("nested without end")?;
        let number = |signed: bool, size: u64| match size {
            1 => "u8".to_owned(),
            _ => format!("{}{}", if signed { 'I' } else { 'U' }, size.saturating_mul(8)),
        };
        let text = |name: &Option<String>| name.clone().unwrap_or_else(|| "without a name".into());
        Ok(match self.resolve(id)? {
            Some(TypeVariant::Int(int)) => (number(*int.signed(), *int.size() as u64), *int.size() as u64),
            Some(TypeVariant::Enum(of)) => (number(false, *of.size() as u64), *of.size() as u64),
            Some(TypeVariant::Enum64(of)) => (number(false, *of.size() as u64), *of.size() as u64),
            Some(TypeVariant::Ptr(_)) => ("pointer".into(), 8),
            Some(TypeVariant::Array(array)) => {
                let (ty, size) = self.spell(*array.element_tid(), depth)?;
                let count = u64::from(*array.element_count());
                (format!("[{ty}; {count}]"), size.checked_mul(count).ok_or("an array larger than memory")?)
            }
            Some(TypeVariant::Struct(inner)) => {
                let here = KNOWN.iter().find(|known| Some(known.linux) == inner.name().as_deref());
                let ty = here.map_or_else(|| format!("struct {}", text(inner.name())), |known| known.here.into());
                (ty, *inner.size() as u64)
            }
            // An address and the pointer that it becomes: what is handed over is the number.
            Some(TypeVariant::Union(union)) => {
                let size = *union.size() as u64;
                let mut numbers = union.member_list().iter().filter_map(|member| match self.resolve(member.tid()) {
                    Ok(Some(TypeVariant::Int(int))) if *int.size() as u64 == size => Some(number(*int.signed(), size)),
                    _ => None,
                });
                (numbers.next().unwrap_or_else(|| format!("union {}", text(union.name()))), size)
            }
            Some(TypeVariant::Float(float)) => (format!("f{}", *float.size() as u64 * 8), *float.size() as u64),
            _ => return Err("a field of a type without size"),
        })
    }
}

fn is_known(name: Option<&str>) -> bool {
    KNOWN.iter().any(|known| Some(known.linux) == name)
}
