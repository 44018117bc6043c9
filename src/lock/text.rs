//! The file as text: one line for each thing, so that a difference can be read.

use alloc::format;
use alloc::string::{String, ToString as _};
use core::fmt::{self, Write as _};

use super::{Entry, Field, Lock, Structure};

const HEAD: &str = "\
# What each component looks like in each version: sizes, offsets, widths, types, constants, and what follows from the
# page size. Made from src/abi; `cargo test` compares. A changed layout is a new version: raise its number in src/abi,
# then `KHO_BLESS=1 cargo test --test abi_lock` adds it here. What is published never changes.
";

/// Why a text is no lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Broken {
    /// Counted from 1.
    pub line: usize,
    /// What was found and what was expected.
    pub why: String,
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for entry in self.entries.values() {
            write!(f, "\n{entry}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.key)?;
        if let Some(whom) = &self.published {
            writeln!(f, "  published {whom}")?;
        }
        if self.retired {
            f.write_str("  retired\n")?;
        }
        writeln!(f, "  fingerprint {:016x}", self.fingerprint())?;
        let mut body = String::new();
        self.body(&mut body);
        f.write_str(&body)
    }
}

impl Entry {
    /// What the fingerprint is of.
    pub(super) fn body(&self, to: &mut String) {
        // Writing to a string does not fail.
        for (key, value) in &self.values {
            let _ = writeln!(to, "  {key} = {value}");
        }
        for (name, structure) in &self.structures {
            let _ = write!(to, "  struct {name}: {} bytes", structure.size);
            if let Some(align) = structure.align {
                let _ = write!(to, ", aligned to {align}");
            }
            to.push('\n');
            for field in &structure.fields {
                let _ = writeln!(to, "    {} +{} {}: {}", field.offset, field.size, field.name, field.ty);
            }
        }
    }
}

impl Lock {
    /// Reads the text of a lock.
    ///
    /// # Errors
    ///
    /// The first line that is not as [`Lock`] is written, that repeats another, or whose fingerprint is not that of its
    /// entry: then it was edited by hand.
    pub fn parse(text: &str) -> Result<Lock, Broken> {
        let mut lock = Lock::default();
        let mut open: Option<Open> = None;
        let mut last = 0;
        for (index, line) in text.lines().enumerate() {
            let number = index.saturating_add(1);
            last = number;
            let broken = |why: String| Broken { line: number, why };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with(' ') {
                if let Some(done) = open.take() {
                    done.close(&mut lock, number)?;
                }
                if lock.entries.contains_key(line) {
                    return Err(broken(format!("a second entry of {line}")));
                }
                open = Some(Open { entry: Entry { key: line.into(), ..Entry::default() }, ..Open::default() });
                continue;
            }
            let Some(open) = open.as_mut() else { return Err(broken("no component before it".into())) };
            open.line(line).map_err(|why| broken(format!("{line:?}: {why}")))?;
        }
        if let Some(done) = open {
            done.close(&mut lock, last)?;
        }
        Ok(lock)
    }
}

/// An entry that is being read.
#[derive(Default)]
struct Open {
    entry: Entry,
    fingerprint: Option<u64>,
    structure: Option<String>,
}

impl Open {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(field) = line.strip_prefix("    ") {
            let structure = self.structure.as_ref().and_then(|name| self.entry.structures.get_mut(name));
            let structure = structure.ok_or("a field of no struct")?;
            let field = parse_field(field).ok_or("a field is `OFFSET +SIZE NAME: TYPE`")?;
            if structure.fields.iter().any(|other| other.name == field.name) {
                return Err("a second field of that name");
            }
            structure.fields.push(field);
            return Ok(());
        }
        let line = line.strip_prefix("  ").ok_or("indented by 2 or 4")?;
        if let Some(whom) = line.strip_prefix("published ") {
            self.entry.published = Some(whom.into());
        } else if line == "retired" {
            self.entry.retired = true;
        } else if let Some(hex) = line.strip_prefix("fingerprint ") {
            self.fingerprint = Some(u64::from_str_radix(hex, 16).map_err(|_| "16 hexadecimal digits")?);
        } else if let Some(structure) = line.strip_prefix("struct ") {
            let (name, structure) = parse_structure(structure).ok_or("`struct NAME: N bytes, aligned to N`")?;
            if self.entry.structures.insert(name.clone(), structure).is_some() {
                return Err("a second struct of that name");
            }
            self.structure = Some(name);
        } else {
            let known = ["const ", "page ", "property "].iter().any(|kind| line.starts_with(kind));
            let (key, value) =
                line.split_once(" = ").filter(|_| known).ok_or("const, page or property, and its value")?;
            if self.entry.values.insert(key.into(), value.into()).is_some() {
                return Err("a second one of that name");
            }
        }
        Ok(())
    }

    fn close(self, lock: &mut Lock, line: usize) -> Result<(), Broken> {
        let made = self.entry.fingerprint();
        if self.fingerprint != Some(made) {
            let why = format!(
                "{}: fingerprint {}, and what it says has {made:016x}: it was edited by hand",
                self.entry.key,
                self.fingerprint.map_or("missing".to_string(), |fingerprint| format!("{fingerprint:016x}"))
            );
            return Err(Broken { line, why });
        }
        lock.entries.insert(self.entry.key.clone(), self.entry);
        Ok(())
    }
}

fn parse_field(text: &str) -> Option<Field> {
    let (offset, rest) = text.split_once(" +")?;
    let (size, rest) = rest.split_once(' ')?;
    let (name, ty) = rest.split_once(": ")?;
    Some(Field { name: name.into(), offset: offset.parse().ok()?, size: size.parse().ok()?, ty: ty.into() })
}

fn parse_structure(text: &str) -> Option<(String, Structure)> {
    let (name, rest) = text.split_once(": ")?;
    let (size, align) = match rest.split_once(" bytes, aligned to ") {
        Some((size, align)) => (size, Some(align.parse().ok()?)),
        None => (rest.strip_suffix(" bytes")?, None),
    };
    Some((name.into(), Structure { size: size.parse().ok()?, align, fields: alloc::vec::Vec::new() }))
}
