//! What was restored of an image so far: objects that several have, what waits for them, and what may be taken back.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::any::Any;

use super::error::{Error, Result};
use super::image::Image;
use crate::num::index_of;
use crate::report::{Code, Fault};

/// An object that several have.
pub(super) enum Slot {
    Waiting,
    /// It is being restored.
    Busy,
    /// An `Rc` or `Arc` of it.
    Done(Box<dyn Any>),
}

/// What waits for an object.
pub(super) type Patch = Box<dyn Fn(&dyn Any) -> bool>;

/// What was restored of an image so far.
pub(crate) struct Memo {
    pub(super) slots: Vec<Slot>,
    pub(super) waiting: BTreeMap<u32, Vec<Patch>>,
    /// So many bytes of bulk data may still be taken: no two values have the same.
    pub(super) bulk_left: u64,
    pub(super) taken: Vec<bool>,
    /// The subsections of descriptions of which one was skipped: their names, and whether they are required.
    pub(super) parts: BTreeMap<u32, BTreeMap<u32, (String, bool)>>,
    /// Objects and resources of the value that is being restored, and what it linked to.
    pub(super) objects: Vec<u32>,
    pub(super) resources: Vec<usize>,
    pub(super) links: Vec<u32>,
}

/// A point to go back to.
pub(crate) struct Mark {
    bulk_left: u64,
}

impl Memo {
    pub(crate) fn new(image: &Image<'_>) -> Memo {
        Memo {
            slots: image.objects().iter().map(|_| Slot::Waiting).collect(),
            waiting: BTreeMap::new(),
            bulk_left: image.bulk_len(),
            taken: alloc::vec![false; image.resources().len()],
            parts: BTreeMap::new(),
            objects: Vec::new(),
            resources: Vec::new(),
            links: Vec::new(),
        }
    }

    /// Whether a value has that resource.
    pub(crate) fn has_taken(&self, resource: usize) -> bool {
        self.taken.get(resource).copied().unwrap_or(false)
    }

    /// Whether that object is there, as a part of another one.
    pub(crate) fn is_there(&self, number: u32) -> bool {
        !matches!(self.slots.get(index_of(number)), Some(Slot::Waiting))
    }

    /// From here on all can be taken back.
    pub(crate) fn mark(&mut self) -> Mark {
        self.objects.clear();
        self.resources.clear();
        self.links.clear();
        Mark { bulk_left: self.bulk_left }
    }

    /// Takes back what came since.
    pub(crate) fn back(&mut self, mark: Mark) {
        self.bulk_left = mark.bulk_left;
        for number in self.objects.drain(..) {
            if let Some(slot) = self.slots.get_mut(index_of(number)) {
                *slot = Slot::Waiting;
            }
        }
        for number in self.resources.drain(..) {
            if let Some(taken) = self.taken.get_mut(number) {
                *taken = false;
            }
        }
        for number in self.links.drain(..).rev() {
            if let Some(patches) = self.waiting.get_mut(&number) {
                patches.pop();
            }
        }
    }

    pub(super) fn done(&mut self, number: u32, object: Box<dyn Any>) -> Result<()> {
        // They stay: when this is taken back, the object comes again.
        let fits = self.waiting.get(&number).is_none_or(|patches| patches.iter().all(|patch| patch(&*object)));
        if let Some(slot) = self.slots.get_mut(index_of(number)) {
            *slot = Slot::Done(object);
            self.objects.push(number);
        }
        if fits { Ok(()) } else { Err(other_pointer(number)) }
    }

    /// Says who holds an object that is about to be restored, so that what is in it can link to it.
    pub(crate) fn hold(&mut self, number: u32, holder: Box<dyn Any>) -> Result<()> {
        match self.slots.get(index_of(number)) {
            Some(Slot::Waiting) => self.done(number, holder),
            _ => Err(Fault::new(Code::StateShared)
                .found("an object that came as a part of another one already")
                .expected("to be attached before that")
                .into()),
        }
    }
}

#[cold]
pub(super) fn other_pointer(number: u32) -> Error {
    let fault = Fault::new(Code::StateShared).found(format_args!("object {number}, which was restored otherwise"));
    fault.expected("one kind of pointer to an object").into()
}
