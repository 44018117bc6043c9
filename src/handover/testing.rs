//! Handovers of one node that is written by hand, for the tests of components.

use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::RefCell;

use super::{Blob, Check, Incoming, Node, Outgoing, Preserve, Registry, Scope};
use crate::abi::Plain;
use crate::block::BlockSet;
use crate::compat::CompatList;
use crate::mem::{Frames as _, Geometry, Memory as _, Order, PageRange, Pfn, Ram};
use crate::report::{Code, Fault};

pub(crate) const NODE: &str = "node";

pub(crate) fn ram(geometry: Geometry) -> Ram {
    Ram::new(geometry, PageRange::new(Pfn::new(0x100).unwrap(), 4096).unwrap())
}

struct Written<F>(CompatList<'static>, F);

impl<F: Fn(&mut Scope<'_, Ram>) -> Result<Blob, Fault>> Preserve<Ram> for Written<F> {
    fn compat(&self) -> CompatList<'static> {
        self.0
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        self.1(scope)
    }
}

/// A handover of the node that the closure writes.
pub(crate) fn written(
    geometry: Geometry,
    made_of: CompatList<'static>,
    write: impl Fn(&mut Scope<'_, Ram>) -> Result<Blob, Fault>,
) -> Incoming<Ram> {
    sent(geometry, &Written(made_of, write))
}

/// A handover of that node.
pub(crate) fn sent<C: Preserve<Ram>>(geometry: Geometry, component: &C) -> Incoming<Ram> {
    let mut outgoing = Outgoing::new(ram(geometry));
    outgoing.preserve(NODE, component).unwrap();
    let (memory, root) = outgoing.finish().unwrap().into_parts();
    Incoming::new(memory, root.start())
}

struct Keep<C: Check<Ram>>(C, Rc<RefCell<Option<C::Checked>>>);

impl<C: Check<Ram>> Check<Ram> for Keep<C>
where
    C::Checked: Clone,
{
    type Checked = ();

    fn compat(&self) -> CompatList<'static> {
        self.0.compat()
    }

    fn check(&self, node: &mut Node<'_, Ram>) -> Result<(), Fault> {
        *self.1.borrow_mut() = Some(self.0.check(node)?);
        Ok(())
    }
}

/// Plans it. What the check read, and every finding without the node's name. A node that is fine must own all that is
/// preserved; of one that is not, what nobody owns is left out.
pub(crate) fn planned<C: Check<Ram> + 'static>(incoming: Incoming<Ram>, check: C) -> (Option<C::Checked>, Vec<String>)
where
    C::Checked: Clone,
{
    let kept = Rc::new(RefCell::new(None));
    let mut registry = Registry::new();
    registry.read(NODE, Keep(check, Rc::clone(&kept)));
    let plan = incoming.plan(&registry);
    let fine = plan.findings().errors() == 0;
    let findings = plan.findings().kept().iter().filter(|finding| fine || finding.fault.code() != Code::Unowned);
    let findings = findings.map(|finding| finding.fault.to_string()).collect();
    (kept.take(), findings)
}

/// Writes one structure into a page of its own; its address.
pub(crate) fn page(scope: &mut Scope<'_, Ram>, bytes: &[u8]) -> u64 {
    block(scope, 0, bytes)
}

/// Writes bytes into a block of that order; its address.
pub(crate) fn block(scope: &mut Scope<'_, Ram>, order: u32, bytes: &[u8]) -> u64 {
    let frame = scope.alloc(Order::new(order).unwrap()).unwrap();
    scope.write(&frame, 0, bytes).unwrap();
    frame.folio().addr(scope.geometry()).get()
}

/// Writes a block set; the address of its first block.
pub(crate) fn records<R: Plain>(scope: &mut Scope<'_, Ram>, records: &[R]) -> u64 {
    BlockSet::from(records.to_vec()).store(scope).unwrap().first.get()
}
