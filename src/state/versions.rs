//! In which version each state is written.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use super::description::Description;
use super::shape::{Body, Shape, Shapes, closure};
use super::value::State;
use crate::report::{Code, Fault};

/// In which versions states are written, where that is not the newest: for a reader that is older.
///
/// ```
/// # #[cfg(feature = "derive")] {
/// use kho::state::{self, State, Versions};
///
/// #[derive(State)]
/// #[state(id = 7, version = 2)]
/// struct Timer {
///     deadline: u64,
///     #[state(since = 2, default)]
///     slack: u64,
/// }
///
/// let older = Versions::of::<Timer>(1)?;
/// let timer = Timer { deadline: 5, slack: 9 };
/// let bytes = state::save_as(&timer, &older)?;
/// let back: Timer = state::restore(&bytes)?;
/// assert_eq!((back.deadline, back.slack), (5, 0));
/// assert_eq!(older.dropped()[0].to_string(), "state-dropped: timer.slack: a field of version 2");
/// # }
/// # Ok::<(), kho::state::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Versions {
    shapes: Shapes,
    chosen: BTreeMap<u32, u32>,
}

impl Versions {
    /// One state in that version, and all that it is made of in the newest; see [`Versions::and`].
    ///
    /// # Errors
    /// As [`Versions::and`].
    pub fn of<T: State>(version: u32) -> Result<Versions, Fault> {
        Versions::default().and::<T>(version)
    }

    /// Another state in that version.
    ///
    /// # Errors
    /// [`Code::VersionOlder`] or [`Code::VersionNewer`] for a version that it cannot be written in.
    pub fn and<T: State>(mut self, version: u32) -> Result<Versions, Fault> {
        self.add([T::SHAPE])?;
        self.choose(T::SHAPE, version)?;
        Ok(self)
    }

    /// The newest versions in which these states can be written and in which that reader reads them. What the reader
    /// does not have stays in its newest version: whether the reader may do without is the plan's matter.
    ///
    /// # Errors
    /// All that the reader is too old or too new for.
    pub fn for_reader(
        states: impl IntoIterator<Item = &'static Shape>,
        reader: &[Description],
    ) -> Result<Versions, Vec<Fault>> {
        let mut versions = Versions::default();
        versions.add(states).map_err(|fault| alloc::vec![fault])?;
        let mut faults = Vec::new();
        for shape in versions.shapes.clone().into_values() {
            let Some(known) = reader.iter().find(|known| known.id == shape.id()) else { continue };
            let version = shape.version().min(known.version);
            let oldest = shape.min_version().max(known.min_version);
            if version >= oldest {
                versions.chosen.insert(shape.id(), version);
            } else {
                let older = shape.version() < known.min_version;
                let fault = Fault::new(if older { Code::VersionOlder } else { Code::VersionNewer }).item(shape.name());
                let (from, to) = (shape.min_version(), shape.version());
                let fault = fault.found(format_args!("versions {from} to {to}"));
                faults.push(fault.expected(format_args!("one of {} to {}", known.min_version, known.version)));
            }
        }
        if faults.is_empty() { Ok(versions) } else { Err(faults) }
    }

    fn add(&mut self, states: impl IntoIterator<Item = &'static Shape>) -> Result<(), Fault> {
        let known: Vec<&'static Shape> = self.shapes.values().copied().chain(states).collect();
        self.shapes = closure(known, |_| true)?;
        Ok(())
    }

    fn choose(&mut self, shape: &'static Shape, version: u32) -> Result<(), Fault> {
        let (oldest, newest) = (shape.min_version(), shape.version());
        if version < oldest || version > newest {
            let code = if version < oldest { Code::VersionOlder } else { Code::VersionNewer };
            let fault = Fault::new(code).item(shape.name()).found(format_args!("version {version}"));
            return Err(fault.expected(format_args!("{oldest} to {newest}")));
        }
        self.chosen.insert(shape.id(), version);
        Ok(())
    }

    /// The version that this state is written in.
    #[must_use]
    pub fn of_shape(&self, shape: &'static Shape) -> u32 {
        self.chosen.get(&shape.id()).copied().unwrap_or(shape.version())
    }

    /// What these versions do not have, and what is therefore left behind: each of [`Code::StateDropped`]. Fields that
    /// are `required` are told too: they are not written either, and saving fails when they are not their default.
    #[must_use]
    pub fn dropped(&self) -> Vec<Fault> {
        let mut dropped = Vec::new();
        for shape in self.shapes.values() {
            let version = self.of_shape(shape);
            let Body::Struct { fields, .. } = shape.desc.body else { continue };
            for field in fields.iter().filter(|field| field.since > version) {
                let fault = Fault::new(Code::StateDropped).item(format!("{}.{}", shape.name(), field.name));
                dropped.push(fault.found(format_args!("a field of version {}", field.since)));
            }
        }
        dropped
    }
}
