//! A table of fixed-size records.

use alloc::vec::Vec;
use core::marker::PhantomData;

use crate::abi::{self, Plain};
use crate::compat::CompatList;
use crate::handover::{Check, Node};
use crate::mem::Memory;
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// Records to be handed over in a block set.
///
/// ```
/// use kho::compat::{Compat, CompatList};
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::mem::{Geometry, PageRange, Pfn, Ram};
/// use kho::payload::{RECORDS_USE, Records, RecordsNode};
/// use zerocopy::little_endian::{U32, U64};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
///
/// #[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
/// #[repr(C)]
/// struct Account { id: U64, credit: U32 }
///
/// const ACCOUNTS: CompatList<'static> = CompatList::new(Compat::new("my-accounts", 1), RECORDS_USE);
///
/// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
/// let accounts = [Account { id: 1.into(), credit: 30.into() }, Account { id: 2.into(), credit: 50.into() }];
/// let mut outgoing = Outgoing::new(ram);
/// outgoing.preserve("accounts", &Records { made_of: ACCOUNTS, records: &accounts })?;
/// let (memory, root) = outgoing.finish()?.into_parts();
///
/// let mut registry = Registry::new();
/// let table = registry.read("accounts", RecordsNode::<Account>::new(ACCOUNTS));
/// let mut restored = Incoming::new(memory, root.start()).plan(&registry).accept()?.restore()?;
/// assert_eq!(restored.take(&table).unwrap(), accounts);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "write")]
#[derive(Clone, Copy, Debug)]
pub struct Records<'a, R> {
    /// What they mean; uses [`RECORDS_USE`](super::RECORDS_USE).
    pub made_of: CompatList<'static>,
    /// The records.
    pub records: &'a [R],
}

#[cfg(feature = "write")]
impl<M: crate::handover::Home, R: Plain> crate::handover::Preserve<M> for Records<'_, R> {
    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn preserve(&self, scope: &mut crate::handover::Scope<'_, M>) -> Result<crate::handover::Blob, Fault> {
        let mut set = crate::block::BlockSet::new();
        set.append(self.records);
        let stored = scope.records(&set)?;
        let table = abi::payload::Records {
            first: stored.first.get().into(),
            count: u64_of(self.records.len()).into(),
            record: u64_of(size_of::<R>()).into(),
        };
        scope.blob(zerocopy::IntoBytes::as_bytes(&table))
    }
}

/// Reads [`Records`] as a vector: see [`Registry::read`](crate::handover::Registry::read).
#[derive(Clone, Copy, Debug)]
pub struct RecordsNode<R> {
    /// What the records must mean.
    pub made_of: CompatList<'static>,
    record: PhantomData<fn() -> R>,
}

impl<R> RecordsNode<R> {
    /// Records of that meaning.
    #[must_use]
    pub const fn new(made_of: CompatList<'static>) -> Self {
        RecordsNode { made_of, record: PhantomData }
    }
}

impl<M: Memory, R: Plain> Check<M> for RecordsNode<R> {
    type Checked = Vec<R>;

    fn compat(&self) -> CompatList<'static> {
        self.made_of
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Vec<R>, Fault> {
        let table: abi::payload::Records = node.blob_as()?;
        if table.record.get() != u64_of(size_of::<R>()) {
            return Err(Fault::new(Code::RecordSize)
                .address(node.blob_range().start().get())
                .item("record")
                .found(format_args!("records of {} bytes", table.record))
                .expected(format_args!("{}, the size of {}", size_of::<R>(), core::any::type_name::<R>())));
        }
        node.records(table.first.get(), table.count.get()).map_err(|fault| fault.within("records"))
    }
}
