//! The payload of Linux's own test module                        kho-test-v1
//!
//! Folios of mixed orders, named by an array that a vmalloc descriptor describes, and a checksum over their bytes. The
//! smallest handover that uses everything: what the kernel's `test_kho` restores, this writes, and the other way round.

mod checksum;
#[cfg(feature = "write")]
mod save;
#[cfg(all(test, feature = "write"))]
mod tests;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::abi;
use crate::abi::kho_test::{COMPAT, CSUM, DATA, FOLIOS_INFO, MAGIC, MAGIC_VALUE, NR_FOLIOS};
use crate::compat::CompatList;
use zerocopy::little_endian::U64;

use crate::fdt::Fdt;
use crate::handover::{Check, Component, Node};
use crate::mem::{Claim, Folio, Frame, Memory, Order, PhysAddr};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};
use crate::vmalloc::Area;

pub use checksum::{Rule, Sum};
#[cfg(feature = "write")]
pub use save::Payload;

/// What the node is made of.
pub const MADE_OF: CompatList<'static> = CompatList::new(COMPAT, &[abi::vmalloc::COMPAT]);

/// The blob is a device tree of a few properties; Linux's has 240 bytes.
pub(crate) const BLOB_LIMIT: u64 = 64 << 10;
/// Bytes of a folio that are read at a time.
const PIECE: usize = 256 << 10;

/// A payload that was read and whose checksum is right.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Found {
    /// The folios in the order of the array, which is that of the checksum.
    pub folios: Vec<Folio>,
    /// The checksum.
    pub csum: u32,
    /// The rule by which it is right: that of the machine that wrote it.
    pub rule: Rule,
}

/// Reads and restores the node `kho_test`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SelfTestNode;

impl<M: Memory> Check<M> for SelfTestNode {
    type Checked = Found;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn names_itself(&self) -> bool {
        true
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Found, Fault> {
        let at = node.blob_range().start().get();
        let bytes = node.blob(BLOB_LIMIT)?;
        let stated = read_blob(&bytes).map_err(|fault| fault.address(at))?;
        let area = node.area(&stated.info).map_err(|fault| fault.within(FOLIOS_INFO).address(at))?;
        let folios = read_folios(node, &area, stated.count.into()).map_err(|fault| fault.address(at))?;
        // Only then: a folio that the array names a thousand times is not to be summed a thousand times.
        for (number, folio) in folios.iter().enumerate() {
            node.try_claim(*folio).map_err(|fault| fault.within(&format!("folios[{number}]")))?;
        }
        let rule = check_sum(node, &folios, stated.csum).map_err(|fault| fault.address(at))?;
        Ok(Found { folios, csum: stated.csum, rule })
    }
}

impl<M: Claim> Component<M> for SelfTestNode {
    type Prepared = Vec<Frame>;
    /// The folios, in the order of the array.
    type Restored = Vec<Frame>;

    fn prepare(&self, found: Found, memory: &mut M) -> Result<Vec<Frame>, Fault> {
        found.folios.into_iter().map(|folio| memory.claim(folio).map_err(Fault::from)).collect()
    }

    fn commit(&self, frames: Vec<Frame>, _: &mut M) -> Vec<Frame> {
        frames
    }
}

/// What the blob says.
pub(crate) struct Stated {
    pub(crate) count: u32,
    pub(crate) info: abi::vmalloc::Descriptor,
    pub(crate) csum: u32,
}

pub(crate) fn read_blob(bytes: &[u8]) -> Result<Stated, Fault> {
    let fdt = Fdt::parse(bytes)?;
    let root = fdt.root();
    let list = root.required(abi::kho::COMPATIBLE)?;
    crate::handover::match_any(list.value(), COMPAT).map_err(|fault| fault.item(abi::kho::COMPATIBLE))?;
    let magic = root.required(MAGIC)?.u32_native()?;
    if magic != MAGIC_VALUE {
        let fault = Fault::new(Code::Magic).item(MAGIC);
        return Err(fault.found(format_args!("{magic:#x}")).expected(format_args!("{MAGIC_VALUE:#x}")));
    }
    let data = root
        .child(DATA)
        .ok_or_else(|| Fault::new(Code::PropertyMissing).offset(root.offset()).item(DATA).expected("a node"))?;
    let info = data.required(FOLIOS_INFO)?;
    let info = zerocopy::FromBytes::read_from_bytes(info.value()).map_err(|_| {
        Fault::new(Code::PropertySize).offset(info.offset()).item(FOLIOS_INFO).found(info.value().len()).expected(16)
    })?;
    Ok(Stated { count: data.required(NR_FOLIOS)?.u32_native()?, info, csum: data.required(CSUM)?.u32_native()? })
}

fn read_folios<M: Memory>(node: &Node<'_, M>, area: &Area, count: u64) -> Result<Vec<Folio>, Fault> {
    let mut folios = Vec::new();
    area.each_record(node.memory(), count, |number, word: U64| {
        folios.push(read_word(word.get(), node).map_err(|fault| fault.within(&format!("folios[{number}]")))?);
        Ok(())
    })
    .map_err(|fault| fault.within(FOLIOS_INFO))?;
    Ok(folios)
}

/// An address whose low bits, zero in every address of a page, are the order.
fn read_word<M: Memory>(word: u64, node: &Node<'_, M>) -> Result<Folio, Fault> {
    let geometry = node.geometry();
    let low = geometry.page_size().wrapping_sub(1);
    let fault = |code| Fault::new(code).address(word & !low).found(format_args!("{word:#x}"));
    let order = u32::try_from(word & low).ok().and_then(Order::new);
    let order = order.ok_or_else(|| fault(Code::TooLarge).item("order").expected("an order below 47"))?;
    if word & !low == 0 {
        return Err(fault(Code::NotPreserved).item("address").expected("not page 0, which means none"));
    }
    let page = PhysAddr::new(word & !low).page(geometry);
    let page = page.ok_or_else(|| fault(Code::TooLarge).item("address").expected("below 2^47 pages"))?;
    Folio::new(page, order)
        .ok_or_else(|| fault(Code::Unaligned).item("address").expected(format_args!("aligned to order {order}")))
}

fn check_sum<M: Memory>(node: &Node<'_, M>, folios: &[Folio], csum: u32) -> Result<Rule, Fault> {
    let geometry = node.geometry();
    let mut sums = Rule::ALL.map(Sum::new);
    let mut buffer = vec![0; PIECE];
    for folio in folios {
        let range = folio.range().bytes(geometry);
        let mut at = range.start();
        while let Some(rest) = range.end().get().checked_sub(at.get()).filter(|&rest| rest > 0) {
            let len = usize_of(rest).min(PIECE);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            node.memory().read(at, piece)?;
            sums.iter_mut().for_each(|sum| sum.add(piece));
            at = PhysAddr::new(at.get().saturating_add(u64_of(len)));
        }
        sums.iter_mut().for_each(Sum::end_of_folio);
    }
    let right = Rule::ALL.into_iter().zip(sums).find(|(_, sum)| sum.get() == csum);
    right.map(|(rule, _)| rule).ok_or_else(|| {
        let [x86, folded] = sums.map(|sum| sum.get());
        Fault::new(Code::Checksum)
            .item(CSUM)
            .found(format_args!("{csum:#010x}"))
            .expected(format_args!("{x86:#010x} (x86-64) or {folded:#010x} (arm64)"))
    })
}
