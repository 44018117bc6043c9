//! The predecessor's half.

use alloc::vec::Vec;

use zerocopy::IntoBytes as _;

use super::{MADE_OF, Rule, Sum};
use crate::abi::kho::COMPATIBLE;
use crate::abi::kho_test::{COMPAT, CSUM, DATA, FOLIOS_INFO, MAGIC, MAGIC_VALUE, NR_FOLIOS};
use crate::compat::CompatList;
use crate::fdt::Builder;
use crate::handover::{Blob, Home, Preserve, Scope};
use crate::mem::{Frames as _, Memory as _, Order};
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// Contents to be handed over as Linux's test module does: one folio for each, of the order that is given.
///
/// ```
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::mem::{Geometry, Order, PageRange, Pfn, Ram};
/// use kho::selftest::{Payload, Rule, SelfTestNode};
///
/// let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
/// let mut outgoing = Outgoing::new(ram);
/// let folios = vec![(Order::ZERO, &b"one page"[..]), (Order::new(2).unwrap(), b"four")];
/// outgoing.preserve("kho_test", &Payload { folios, rule: Rule::NATIVE })?;
/// let (memory, root) = outgoing.finish()?.into_parts();
///
/// let mut registry = Registry::new();
/// let found = registry.read("kho_test", SelfTestNode);
/// let mut restored = Incoming::new(memory, root.start()).plan(&registry).accept()?.restore()?;
/// assert_eq!(restored.take(&found).unwrap().folios.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    /// Order of each folio, and its bytes from its start on; the rest of it is zero.
    pub folios: Vec<(Order, &'a [u8])>,
    /// How the checksum is computed: as the machine does that will restore it.
    pub rule: Rule,
}

impl<M: Home> Preserve<M> for Payload<'_> {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        let geometry = scope.geometry();
        let mut words: Vec<u8> = Vec::with_capacity(self.folios.len().saturating_mul(8));
        let mut sum = Sum::new(self.rule);
        for (order, bytes) in &self.folios {
            if u64_of(bytes.len()) > order.bytes(geometry) {
                let fault = Fault::new(Code::TooLarge).item("folio").found(bytes.len());
                return Err(fault.expected(format_args!("at most {}, a folio of order {order}", order.bytes(geometry))));
            }
            let frame = scope.alloc_bulk(*order)?;
            scope.write(&frame, 0, bytes)?;
            // A tail of less than a word counts with the zeros behind it.
            let (whole, tail) = bytes.as_chunks::<4>();
            sum.add(whole.as_flattened());
            let mut last = [0; 4];
            last.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
            sum.add(&last);
            sum.end_of_folio();
            let word = frame.folio().addr(geometry).get() | u64::from(order.get());
            words.extend_from_slice(&word.to_le_bytes());
        }
        let stored = scope.area_of(Order::ZERO, &words)?;
        let count = u32::try_from(self.folios.len())
            .map_err(|_| Fault::new(Code::TooLarge).item(NR_FOLIOS).found(self.folios.len()))?;
        let mut fdt = Builder::new();
        fdt.strings(COMPATIBLE, [alloc::format!("{COMPAT}")])?;
        fdt.u32_native(MAGIC, MAGIC_VALUE)?;
        fdt.node(DATA, |data| {
            data.u32_native(NR_FOLIOS, count)?;
            data.bytes(FOLIOS_INFO, stored.descriptor.as_bytes())?;
            data.u32_native(CSUM, sum.get())
        })?;
        // Linux takes its own tree only from a block of order 1 or more.
        let one = Order::new(1).unwrap_or(Order::ZERO);
        scope.blob_of_order(&fdt.finish()?, one)
    }
}
