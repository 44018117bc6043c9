//! The node `counter` in three versions.

use kho::abi::vmalloc::Descriptor;
use kho::block::BlockSet;
use kho::compat::CompatList;
use kho::handover::{Blob, Check, Component, Home, Node, Preserve, Scope};
use kho::mem::{Memory, Order};
use kho::report::{Code, Fault};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// The sum.
    pub total: u64,
    /// What it is the sum of, as far as it is known.
    pub history: Vec<u64>,
}

/// Version 1 is a [`U32`]; this is version 2.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Second {
    total: U64,
    first: U64,
    count: U64,
}

/// Version 3.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Third {
    total: U64,
    count: U64,
    history: Descriptor,
}

/// Writes the node in the newest of these versions, or in an older one.
pub struct Writes<'a>(pub &'static [CompatList<'static>], pub &'a Counter);

impl<M: Home> Preserve<M> for Writes<'_> {
    fn compat(&self) -> CompatList<'static> {
        self.0[0]
    }

    fn older(&self) -> &'static [CompatList<'static>] {
        &self.0[1..]
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        let Counter { total, history } = self.1;
        let records: Vec<U64> = history.iter().map(|number| U64::new(*number)).collect();
        let count = U64::new(records.len() as u64);
        match scope.version() {
            1 => {
                let total = u32::try_from(*total).map_err(|_| {
                    let fault = Fault::new(Code::TooLarge).item("total").found(total);
                    fault.expected(format_args!("at most {}, all that test-counter-v1 can say", u32::MAX))
                })?;
                scope.blob(U32::new(total).as_bytes())
            }
            2 => {
                let stored = scope.records(&BlockSet::from(records))?;
                let first = stored.first.get().into();
                scope.blob(Second { total: (*total).into(), first, count }.as_bytes())
            }
            _ => {
                let history = match &records[..] {
                    [] => Descriptor::new_zeroed(),
                    records => scope.area_of(Order::ZERO, records.as_bytes())?.descriptor,
                };
                scope.blob(Third { total: (*total).into(), count, history }.as_bytes())
            }
        }
    }
}

/// Reads the node in each of these versions.
pub struct Reads {
    /// The newest first.
    pub versions: &'static [CompatList<'static>],
    /// Whether what was found fine cannot be restored.
    pub fails: bool,
}

impl<M: Memory> Check<M> for Reads {
    type Checked = Counter;

    fn compat(&self) -> CompatList<'static> {
        self.versions[0]
    }

    fn older(&self) -> &'static [CompatList<'static>] {
        &self.versions[1..]
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Counter, Fault> {
        let (total, records) = match node.version() {
            1 => (u64::from(node.blob_as::<U32>()?.get()), Vec::new()),
            2 => {
                let Second { total, first, count } = node.blob_as()?;
                (total.get(), node.records(first.get(), count.get()).map_err(|fault| fault.within("history"))?)
            }
            _ => {
                let Third { total, count, history } = node.blob_as()?;
                if count.get() == 0 {
                    (total.get(), Vec::new())
                } else {
                    let area = node.area(&history).map_err(|fault| fault.within("history"))?;
                    (total.get(), area.read_records(node.memory(), count.get())?)
                }
            }
        };
        Ok(Counter { total, history: records.into_iter().map(|number: U64| number.get()).collect() })
    }
}

impl<M: Memory> Component<M> for Reads {
    type Prepared = Counter;
    type Restored = Counter;

    fn prepare(&self, counter: Counter, _: &mut M) -> Result<Counter, Fault> {
        if self.fails { Err(Fault::new(Code::Refused).found("told to")) } else { Ok(counter) }
    }

    fn commit(&self, counter: Counter, _: &mut M) -> Counter {
        counter
    }
}
