//! What a successor reads, while a handover is written for it.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::layouts::Layouts;
use crate::abi;
use crate::compat::{self, Compat, CompatVec, MadeOf, Terms, agree, made_of, settle};
use crate::report::Fault;
use crate::state::Description;

/// Who will read what is written.
pub(super) struct Reader {
    reads: Terms,
    /// The versions of layouts that are written.
    agreed: Vec<Compat<'static>>,
    /// What was left out, and why.
    pub(super) dropped: Vec<(String, Vec<Fault>)>,
}

impl Reader {
    /// # Errors
    /// When it does not read the root, or its tree.
    pub(super) fn new(reads: &Terms, layouts: &Layouts) -> Result<Self, Fault> {
        let known = reads.layouts();
        for part in [abi::kho::COMPAT, abi::radix::COMPAT] {
            part.judge(&known).map_err(|difference| Fault::from(difference).item(abi::kho::COMPATIBLE))?;
        }
        let agreed = agree(&layouts.versions(), &known);
        Ok(Reader { reads: reads.clone(), agreed, dropped: Vec::new() })
    }

    /// The states that it reads in a node; none when it reads no states there.
    pub(super) fn states(&self, name: &str) -> Option<&[Description]> {
        self.reads.states(name)
    }

    /// What a node is written as; none when it is left out.
    ///
    /// # Errors
    /// The first reason why it cannot be left out, nor read.
    pub(super) fn settle(
        &mut self,
        name: &str,
        offers: &[MadeOf<'static>],
        optional: bool,
    ) -> Result<Option<CompatVec<'static>>, Fault> {
        let takes = self.reads.lists(name);
        let takes: Vec<_> = takes.iter().map(made_of).collect();
        let layouts = compat::Layouts { agreed: &self.agreed, reads: &self.reads.layouts() };
        match settle(offers, &takes, &layouts) {
            Ok(written) => Ok(Some(written)),
            Err(why) if optional && !self.reads.requires(name) => {
                self.dropped.push((name.to_owned(), why));
                Ok(None)
            }
            Err(why) => {
                let first = why.into_iter().next();
                Err(first.unwrap_or_else(|| Fault::new(crate::report::Code::ComponentUnknown)).item(format!("/{name}")))
            }
        }
    }
}
