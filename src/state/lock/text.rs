//! The file as text: one line for each thing, so that a difference can be read.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use super::super::description::SubsectionDescription;
use super::{Blob, Body, Field, Lock, Section, Variant};

const HEAD: &str = "\
# What each state looks like in each version: `kho::state::lock`. `cargo test` compares it with the code. After a change
# that is a new version, `KHO_BLESS=1 cargo test` adds it here; `KHO_PUBLISH=\"NAME 1.0\"` beside it marks what a release
# writes. What is published never changes.
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
        for section in self.sections.values() {
            write!(f, "\n{section}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title())?;
        if let Some(whom) = &self.published {
            writeln!(f, "  published {whom}")?;
        }
        if self.retired {
            f.write_str("  retired\n")?;
        }
        writeln!(f, "  fingerprint {:016x}", self.fingerprint())?;
        for (version, Blob { file, sum }) in &self.blobs {
            writeln!(f, "  blob {version} {file} {sum:016x}")?;
        }
        let mut text = String::new();
        self.parts(&mut text);
        f.write_str(&text)
    }
}

impl Section {
    fn title(&self) -> String {
        let Section { id, name, version, from, .. } = self;
        let kind = if self.is_enum() { "enum" } else { "state" };
        let ignorable = if self.ignorable { " ignorable" } else { "" };
        format!("{kind} {name} id {id} version {version} from {from}{ignorable}")
    }

    /// What the fingerprint is of.
    pub(super) fn layout(&self) -> String {
        let mut text = self.title();
        text.push('\n');
        self.parts(&mut text);
        text
    }

    fn parts(&self, to: &mut String) {
        // Writing to a string does not fail.
        match &self.body {
            Body::Struct { fields, subsections } => {
                write_fields(to, fields);
                for SubsectionDescription { name, id, required } in subsections {
                    let _ = writeln!(to, "  subsection {name} id {id} {}", how(*required));
                }
            }
            Body::Enum { variants } => {
                for Variant { name, tag, since, fields } in variants {
                    let _ = write!(to, "  variant {tag} {name}");
                    let _ = if *since > 1 { writeln!(to, " since {since}") } else { writeln!(to) };
                    write_fields(to, fields);
                }
            }
        }
    }
}

pub(super) const fn how(required: bool) -> &'static str {
    if required { "required" } else { "ignorable" }
}

fn write_fields(to: &mut String, fields: &[Field]) {
    let width = fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
    for Field { name, ty, since, until, when } in fields {
        let _ = write!(to, "    {name:width$}  {ty}");
        if *since > 1 {
            let _ = write!(to, "  since {since}");
        }
        if *until > 0 {
            let _ = write!(to, "  until {until}");
        }
        to.push_str(if *when { "  under a condition\n" } else { "\n" });
    }
}

impl Lock {
    /// Reads the text of a lock; an empty one has nothing yet.
    ///
    /// # Errors
    /// The first line that is not as a lock is written, that repeats another, or whose fingerprint is not that of its
    /// section: then it was edited by hand.
    pub fn parse(text: &str) -> Result<Lock, Broken> {
        let mut lock = Lock::default();
        let mut open: Option<Open> = None;
        let mut last = 0_usize;
        for line in text.lines() {
            last = last.saturating_add(1);
            let broken = |why: String| Broken { line: last, why };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with(' ') {
                if let Some(done) = open.take() {
                    done.close(&mut lock, last)?;
                }
                let section = title(line).ok_or_else(|| {
                    broken(format!("{line:?}: `state NAME id N version N from N`, or `enum` in front of it"))
                })?;
                if lock.sections.contains_key(&(section.id, section.version)) {
                    return Err(broken(format!("a second section of id {}, version {}", section.id, section.version)));
                }
                open = Some(Open { section, fingerprint: None });
                continue;
            }
            let Some(open) = open.as_mut() else { return Err(broken("no state before it".into())) };
            open.line(line).map_err(|why| broken(format!("{line:?}: {why}")))?;
        }
        if let Some(done) = open {
            done.close(&mut lock, last)?;
        }
        Ok(lock)
    }
}

fn title(line: &str) -> Option<Section> {
    let words: Vec<&str> = line.split(' ').collect();
    let ([kind, name, "id", id, "version", version, "from", from], rest) = words.split_first_chunk::<8>()? else {
        return None;
    };
    let body = match *kind {
        "state" => Body::Struct { fields: Vec::new(), subsections: Vec::new() },
        "enum" => Body::Enum { variants: Vec::new() },
        _ => return None,
    };
    let ignorable = match rest {
        [] => false,
        ["ignorable"] => true,
        _ => return None,
    };
    Some(Section {
        id: id.parse().ok()?,
        name: name.to_string(),
        version: version.parse().ok()?,
        from: from.parse().ok()?,
        ignorable,
        published: None,
        retired: false,
        blobs: Default::default(),
        body,
    })
}

/// A section that is being read.
struct Open {
    section: Section,
    fingerprint: Option<u64>,
}

impl Open {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(text) = line.strip_prefix("    ") {
            let fields = match &mut self.section.body {
                Body::Struct { fields, .. } => fields,
                Body::Enum { variants } => &mut variants.last_mut().ok_or("a field of no variant")?.fields,
            };
            let field = parse_field(text).ok_or("a field is `NAME  TYPE  since N  until N  under a condition`")?;
            if fields.iter().any(|other| other.name == field.name) {
                return Err("a second field of that name");
            }
            fields.push(field);
            return Ok(());
        }
        let line = line.strip_prefix("  ").ok_or("indented by 2 or 4")?;
        if let Some(whom) = line.strip_prefix("published ") {
            self.section.published = Some(whom.into());
        } else if line == "retired" {
            self.section.retired = true;
        } else if let Some(hex) = line.strip_prefix("fingerprint ") {
            self.fingerprint = Some(u64::from_str_radix(hex, 16).map_err(|_| "16 hexadecimal digits")?);
        } else if let Some(blob) = line.strip_prefix("blob ") {
            let (version, blob) = parse_blob(blob).ok_or("`blob VERSION FILE FINGERPRINT`")?;
            if self.section.blobs.insert(version, blob).is_some() {
                return Err("a second file of that version");
            }
        } else {
            match &mut self.section.body {
                Body::Struct { subsections, .. } => {
                    subsections.push(parse_part(line).ok_or("`subsection NAME id N required` (or ignorable)")?);
                }
                Body::Enum { variants } => {
                    variants.push(parse_variant(line).ok_or("`variant TAG NAME since N`")?);
                }
            }
        }
        Ok(())
    }

    fn close(self, lock: &mut Lock, line: usize) -> Result<(), Broken> {
        let Section { id, name, version, .. } = &self.section;
        let made = self.section.fingerprint();
        if self.fingerprint != Some(made) {
            let found = self.fingerprint.map_or("missing".to_string(), |fingerprint| format!("{fingerprint:016x}"));
            let why = format!(
                "{name} version {version}: fingerprint {found}, and what it says has {made:016x}: it was edited by hand"
            );
            return Err(Broken { line, why });
        }
        lock.sections.insert((*id, *version), self.section);
        Ok(())
    }
}

fn parse_field(text: &str) -> Option<Field> {
    let mut words = text.split("  ").map(str::trim).filter(|word| !word.is_empty());
    let (name, ty) = (words.next()?, words.next()?);
    let mut field = Field { name: name.into(), ty: ty.into(), since: 1, until: 0, when: false };
    for word in words {
        if let Some(since) = word.strip_prefix("since ") {
            field.since = since.parse().ok()?;
        } else if let Some(until) = word.strip_prefix("until ") {
            field.until = until.parse().ok()?;
        } else if word == "under a condition" {
            field.when = true;
        } else {
            return None;
        }
    }
    Some(field)
}

fn parse_blob(text: &str) -> Option<(u32, Blob)> {
    let (version, rest) = text.split_once(' ')?;
    let (file, sum) = rest.rsplit_once(' ')?;
    // A file of the folder, and no other.
    let fine = !file.is_empty() && !file.contains('/') && file != "." && file != "..";
    let blob = Blob { file: file.into(), sum: u64::from_str_radix(sum, 16).ok()? };
    fine.then_some((version.parse().ok()?, blob))
}

fn parse_part(line: &str) -> Option<SubsectionDescription> {
    let (name, rest) = line.strip_prefix("subsection ")?.split_once(" id ")?;
    let (id, how) = rest.split_once(' ')?;
    let required = match how {
        "required" => true,
        "ignorable" => false,
        _ => return None,
    };
    Some(SubsectionDescription { name: name.into(), id: id.parse().ok()?, required })
}

fn parse_variant(line: &str) -> Option<Variant> {
    let (tag, rest) = line.strip_prefix("variant ")?.split_once(' ')?;
    let (name, since) = match rest.split_once(" since ") {
        Some((name, since)) => (name, since.parse().ok()?),
        None => (rest, 1),
    };
    Some(Variant { name: name.into(), tag: tag.parse().ok()?, since, fields: Vec::new() })
}
