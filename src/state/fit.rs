//! Whether what was written is what a reader reads: description by description, before any value is looked at.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::description::{Description, DescriptionBody, FieldDescription};
use super::error::Result;
use super::image::Image;
use super::kind::Kind;
use super::shape::{Shape, Shapes, closure};
use super::value::State;
use crate::report::{Code, Fault};

/// Descriptions by id, each with the version that was written, or that is known.
pub(crate) type Written = BTreeMap<u32, (Description, u32)>;

/// Where one state does not fit: every finding, each with the path of the first field that leads there.
pub(crate) struct Fit {
    pub(crate) findings: Vec<Fault>,
    /// Whether everything was written in the newest version, and with a count of subsections where there is one here.
    pub(crate) newest: bool,
}

/// Whether this state can be restored from the image. Most of the time the descriptions are the same bytes.
pub(crate) fn fits_one<T: State>(image: &Image<'_>) -> Result<bool> {
    let known = closure([T::SHAPE], |_| true)?;
    if same(image, &known) {
        return Ok(true);
    }
    let mut fit = Fit { findings: Vec::new(), newest: true };
    fit.check(&written(image)?, &read(&known)?, [T::SHAPE.id()]);
    match fit.findings.into_iter().find(|fault| fault.code().severity() == crate::report::Severity::Error) {
        Some(fault) => Err(fault.into()),
        None => Ok(fit.newest),
    }
}

/// Whether all that was written is known here, in the newest version and byte for byte.
pub(crate) fn same(image: &Image<'_>, known: &Shapes) -> bool {
    image.versions().all(|(id, version)| {
        let Some(shape) = known.get(&id) else { return false };
        let is_same = image.shape(id) == Some((version, shape.bytes)) && version == shape.version();
        let mut parts = Vec::new();
        shape.parts(|_| false, &mut parts);
        is_same && parts.iter().all(|part| image.shape(part.id()).is_some())
    })
}

/// The descriptions of an image.
pub(crate) fn written(image: &Image<'_>) -> core::result::Result<Written, Fault> {
    Ok(image.descriptions()?.into_iter().map(|(of, version)| (of.id, (of, version))).collect())
}

/// The descriptions of a program, as another program has them.
pub(crate) fn read(known: &Shapes) -> core::result::Result<Written, Fault> {
    known.values().map(|shape| read_one(shape).map(|of| (of.id, (of, shape.version())))).collect()
}

fn read_one(shape: &Shape) -> core::result::Result<Description, Fault> {
    Description::parse(shape.bytes).map_err(|fault| fault.within(shape.name()))
}

impl Fit {
    /// Holds what was written against what is known, from these states on.
    pub(crate) fn check(&mut self, written: &Written, known: &Written, roots: impl IntoIterator<Item = u32>) {
        let name = |id: u32| written.get(&id).map_or_else(|| format!("state {id}"), |(of, _)| of.name.clone());
        let mut waiting: VecDeque<(u32, String)> = roots.into_iter().map(|id| (id, name(id))).collect();
        let mut seen: BTreeSet<u32> = BTreeSet::new();
        while let Some((id, path)) = waiting.pop_front() {
            if !seen.insert(id) {
                continue;
            }
            let Some((wrote, version)) = written.get(&id) else {
                let fault = Fault::new(Code::StateId).item(path).found(format_args!("no description of id {id}"));
                self.findings.push(fault.expected("a description of every state"));
                continue;
            };
            let Some((reads, newest)) = known.get(&id) else {
                self.stranger(wrote, &path);
                continue;
            };
            if !self.version(wrote, *version, reads, &path) {
                continue;
            }
            // Whether there are subsections at all is seen in the bytes, and no version says it.
            let alike = wrote.subsections().is_empty() == reads.subsections().is_empty();
            self.newest = self.newest && version == newest && alike;
            self.fields(wrote, reads, *version, &path, &mut waiting);
            self.subsections(wrote, reads, written, &path, &mut waiting);
        }
    }

    fn stranger(&mut self, wrote: &Description, path: &str) {
        let code = if wrote.ignorable { Code::StateIgnored } else { Code::StateUnknown };
        self.findings.push(Fault::new(code).item(path.to_string()).found(format_args!("id {}", wrote.id)));
    }

    fn version(&mut self, wrote: &Description, version: u32, reads: &Description, path: &str) -> bool {
        if (reads.min_version..=reads.version).contains(&version) {
            return true;
        }
        let code = if version < reads.min_version { Code::VersionOlder } else { Code::VersionNewer };
        let fault = Fault::new(code).item(path.to_string()).found(format_args!("version {version} of {}", wrote.name));
        let expected = match (reads.min_version, reads.version) {
            (one, other) if one == other => format!("version {one}"),
            (oldest, newest) => format!("version {oldest} to {newest}"),
        };
        self.findings.push(fault.expected(expected));
        false
    }

    fn fields(
        &mut self,
        wrote: &Description,
        reads: &Description,
        version: u32,
        path: &str,
        waiting: &mut VecDeque<(u32, String)>,
    ) {
        match (&wrote.body, &reads.body) {
            (DescriptionBody::Struct { fields, .. }, DescriptionBody::Struct { fields: known, .. }) => {
                self.compare(fields, known, version, path, waiting);
            }
            (DescriptionBody::Enum { variants }, DescriptionBody::Enum { variants: known }) => {
                for variant in variants.iter().filter(|variant| variant.since <= version) {
                    let path = format!("{path}.{}", variant.name);
                    match known.iter().find(|known| known.tag == variant.tag && known.since <= version) {
                        Some(known) => self.compare(&variant.fields, &known.fields, version, &path, waiting),
                        None => {
                            self.differs(&path, format_args!("variant {}", variant.tag), "no such variant", version)
                        }
                    }
                }
            }
            _ => self.differs(path, "another kind of state", "a structure here, an enum there", version),
        }
    }

    fn compare(
        &mut self,
        wrote: &[FieldDescription],
        reads: &[FieldDescription],
        version: u32,
        path: &str,
        waiting: &mut VecDeque<(u32, String)>,
    ) {
        let mut known = reads.iter().filter(|field| field.is_in(version));
        for field in wrote.iter().filter(|field| field.is_in(version)) {
            let path = format!("{path}.{}", field.name);
            let Some(other) = known.next() else {
                return self.differs(&path, &field.ty, "no such field", version);
            };
            if other.name != field.name {
                return self.differs(
                    &path,
                    format_args!("the field {}", field.name),
                    format_args!("{} in its place", other.name),
                    version,
                );
            }
            if other.ty != field.ty || other.when != field.when {
                let text = |field: &FieldDescription| {
                    format!("{}{}", field.ty, if field.when { " under a condition" } else { "" })
                };
                self.differs(&path, text(field), text(other), version);
                continue;
            }
            field.ty.states(&mut |id, inner| waiting.push_back((id, format!("{path}{inner}"))));
        }
        if let Some(missing) = known.next() {
            self.differs(&format!("{path}.{}", missing.name), "no such field", &missing.ty, version);
        }
    }

    fn differs(&mut self, path: &str, found: impl core::fmt::Display, expected: impl core::fmt::Display, version: u32) {
        let fault = Fault::new(Code::StateField).item(path.to_string()).found(found);
        self.findings.push(fault.expected(format_args!("{expected}, in version {version}")));
    }

    /// Only those that were written have a description in the image.
    fn subsections(
        &mut self,
        wrote: &Description,
        reads: &Description,
        written: &Written,
        path: &str,
        waiting: &mut VecDeque<(u32, String)>,
    ) {
        for part in wrote.subsections().iter().filter(|part| written.contains_key(&part.id)) {
            let path = format!("{path}.{}", part.name);
            if reads.subsections().iter().any(|known| known.id == part.id) {
                waiting.push_back((part.id, path));
            } else {
                let code = if part.required { Code::StateUnknown } else { Code::StateIgnored };
                let fault = Fault::new(code).item(path).found(format_args!("a subsection of id {}", part.id));
                let required = "one that this reader knows, or none, because it is required";
                self.findings.push(if part.required { fault.expected(required) } else { fault });
            }
        }
    }
}

impl Kind {
    /// The states in it, each with its way there: `[]` in a collection.
    pub(crate) fn states(&self, found: &mut dyn FnMut(u32, &str)) {
        match self {
            Kind::Scalar(_) | Kind::Plain(_) | Kind::Records { .. } => {}
            Kind::State(id) => found(*id, ""),
            Kind::Option(of) | Kind::Shared(of) | Kind::Link(of) => of.states(found),
            Kind::Array(_, of) | Kind::Seq(of) | Kind::Set(of) => {
                of.states(&mut |id, inner| found(id, &format!("[]{inner}")));
            }
            Kind::Map(key, value) => {
                key.states(&mut |id, inner| found(id, &format!("[].key{inner}")));
                value.states(&mut |id, inner| found(id, &format!("[]{inner}")));
            }
            Kind::Tuple(types) => {
                for (index, of) in types.iter().enumerate() {
                    of.states(&mut |id, inner| found(id, &format!(".{index}{inner}")));
                }
            }
        }
    }
}
