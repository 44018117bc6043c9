//! Layouts that nodes use, in the versions that are known here.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::compat::{Compat, Reads};
use crate::report::{Code, Fault};
use crate::{abi, block, vmalloc};

/// A layout that nodes use, in versions beyond those of this library: see
/// [`Registry::add_layout`](super::Registry::add_layout). The newest that is added wins where two know a version.
#[derive(Clone)]
#[non_exhaustive]
pub enum Layout {
    /// Scattered pages as one array.
    Vmalloc(Rc<dyn vmalloc::Format>),
    /// Records in linked pages.
    Block(Rc<dyn block::Format>),
}

/// The layouts that are known.
#[derive(Clone)]
pub(super) struct Layouts {
    vmalloc: Vec<Rc<dyn vmalloc::Format>>,
    block: Vec<Rc<dyn block::Format>>,
}

impl Default for Layouts {
    fn default() -> Self {
        Layouts { vmalloc: alloc::vec![Rc::new(vmalloc::V1)], block: alloc::vec![Rc::new(block::V1)] }
    }
}

impl Layouts {
    pub(super) fn add(&mut self, layout: Layout) {
        match layout {
            Layout::Vmalloc(format) => self.vmalloc.push(format),
            Layout::Block(format) => self.block.push(format),
        }
    }

    /// The versions of every layout.
    pub(super) fn versions(&self) -> Vec<Reads<'static>> {
        let fixed = [abi::kho::COMPAT, abi::radix::COMPAT].map(Reads::only);
        let vmalloc = self.vmalloc.iter().map(|format| format.versions());
        fixed.into_iter().chain(vmalloc).chain(self.block.iter().map(|format| format.versions())).collect()
    }

    pub(super) fn vmalloc(&self, found: Compat<'_>) -> Result<&dyn vmalloc::Format, Fault> {
        let knows = self.vmalloc.iter().rev().find(|format| found.judge(&[format.versions()]).is_ok());
        knows.map(|format| &**format).ok_or_else(|| nobody(found))
    }

    pub(super) fn block(&self, found: Compat<'_>) -> Result<&dyn block::Format, Fault> {
        let knows = self.block.iter().rev().find(|format| found.judge(&[format.versions()]).is_ok());
        knows.map(|format| &**format).ok_or_else(|| nobody(found))
    }
}

/// The list of a node is judged before anything is read, so this is the fault of a component whose own list is not what
/// is known here.
fn nobody(found: Compat<'_>) -> Fault {
    Fault::new(Code::ComponentUnknown).found(found).expected("a layout that is known here")
}
