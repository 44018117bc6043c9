//! What the successor understands: components by the name of their node.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::any::Any;
use core::marker::PhantomData;

use super::layouts::{Layout, Layouts};
use super::node::Node;
use crate::compat::{CompatList, MadeOf, Reads, Term, Terms};
use crate::manifest::Manifest;
use crate::mem::{Memory, fresh_home};
use crate::report::Fault;
use crate::state::Description;

/// Reads a node and says whether it is fine; changes nothing.
pub trait Check<M: Memory> {
    /// What was read and checked, in owned copies: the memory is not looked at again.
    type Checked: 'static;

    /// What the node is made of in the newest version that is read: its owner first, then the layouts that it uses.
    /// Those stand here in the version that is written by default; which others are read is their own matter (see
    /// [`Registry::add_layout`]).
    fn compat(&self) -> CompatList<'static>;

    /// Older versions that are read too: [`Node::version`] tells which one it is.
    fn older(&self) -> &'static [CompatList<'static>] {
        &[]
    }

    /// The states that are read, of a node that has states: the same as in the manifest.
    fn states(&self) -> Vec<Description> {
        Vec::new()
    }

    /// Whether the node's blob says itself what it is, as in everything that Linux writes: a node without a list is
    /// right then.
    fn names_itself(&self) -> bool {
        false
    }

    /// What of the node's own list this reader does not take: nothing when it takes all of it. A list that is neither
    /// [`Check::compat`] nor one of [`Check::older`] is refused, unless the reader says otherwise here, as one does that
    /// shows data of any owner. `layouts` are the versions of layouts that are known.
    fn mismatches(&self, list: CompatList<'_>, layouts: &[Reads<'static>]) -> Vec<Fault> {
        list.refused(&takes(self.compat(), self.older()), layouts).into_iter().map(Fault::from).collect()
    }

    /// Reads the node, claims what it owns, and checks all of it.
    ///
    /// # Errors
    /// The first break that makes it impossible to go on; what can be told besides goes to [`Node::report`].
    fn check(&self, node: &mut Node<'_, M>) -> Result<Self::Checked, Fault>;
}

/// The composites that a component reads or writes.
pub(super) fn takes(compat: CompatList<'static>, older: &'static [CompatList<'static>]) -> Vec<MadeOf<'static>> {
    let lists: Vec<_> = core::iter::once(compat).chain(older.iter().copied()).collect();
    MadeOf::all_of(&lists)
}

/// Restores a node: [`Component::prepare`] may fail and is undone by dropping its result; [`Component::commit`] cannot
/// fail.
pub trait Component<M: Memory>: Check<M> {
    /// Everything that can fail is done; dropping it undoes it.
    type Prepared: 'static;
    /// What the successor gets.
    type Restored: 'static;

    /// Does everything that can fail.
    ///
    /// # Errors
    /// Whatever makes it impossible. All components that were prepared before are dropped then.
    fn prepare(&self, checked: Self::Checked, memory: &mut M) -> Result<Self::Prepared, Fault>;

    /// Waits for what [`Component::prepare`] began beside the others, such as a large copy. All components are prepared
    /// before the first is settled, and all are settled before the first is committed.
    ///
    /// # Errors
    /// As [`Component::prepare`].
    fn settle(&self, prepared: Self::Prepared) -> Result<Self::Prepared, Fault> {
        Ok(prepared)
    }

    /// Makes it so.
    fn commit(&self, prepared: Self::Prepared, memory: &mut M) -> Self::Restored;
}

/// A component that is checked and has nothing to restore: its result is what the check read.
struct Look<C>(C);

impl<M: Memory, C: Check<M>> Check<M> for Look<C> {
    type Checked = C::Checked;

    fn compat(&self) -> CompatList<'static> {
        self.0.compat()
    }

    fn names_itself(&self) -> bool {
        self.0.names_itself()
    }

    fn older(&self) -> &'static [CompatList<'static>] {
        self.0.older()
    }

    fn states(&self) -> Vec<Description> {
        self.0.states()
    }

    fn mismatches(&self, list: CompatList<'_>, layouts: &[Reads<'static>]) -> Vec<Fault> {
        self.0.mismatches(list, layouts)
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Self::Checked, Fault> {
        self.0.check(node)
    }
}

impl<M: Memory, C: Check<M>> Component<M> for Look<C> {
    type Prepared = C::Checked;
    type Restored = C::Checked;

    fn prepare(&self, checked: Self::Checked, _: &mut M) -> Result<Self::Prepared, Fault> {
        Ok(checked)
    }

    fn commit(&self, prepared: Self::Prepared, _: &mut M) -> Self::Restored {
        prepared
    }
}

/// The right to take the result of one component, with its type.
#[derive(Debug)]
pub struct Handle<T> {
    /// Of which registry.
    pub(super) home: u64,
    pub(super) slot: usize,
    restored: PhantomData<fn() -> T>,
}

/// The components that a successor understands, each under the name of its node.
///
/// ```
/// # #[cfg(feature = "write")] {
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::payload::{Bytes, BytesNode};
/// # use kho::compat::{Compat, CompatList};
/// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
/// # const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
/// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
/// # let mut outgoing = Outgoing::new(ram);
/// # outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"42 requests" })?;
/// # let (memory, root) = outgoing.finish()?.into_parts();
/// # let incoming = Incoming::new(memory, root.start());
///
/// let mut registry = Registry::new();
/// let state = registry.read("state", BytesNode { made_of: STATE, limit: 4096 });
/// let hints = registry.read_optional("hints", BytesNode { made_of: STATE, limit: 4096 });
/// let mut restored = incoming.plan(&registry).accept()?.restore()?;
/// assert_eq!(restored.take(&state).as_deref(), Some(&b"42 requests"[..]));
/// assert_eq!(restored.take(&hints), None);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Registry<M> {
    pub(super) entries: Vec<Entry<M>>,
    /// Index of the entry that has the name.
    names: BTreeMap<String, usize>,
    pub(super) strangers: Strangers,
    pub(super) layouts: Layouts,
    /// What the program says of itself.
    pub(super) manifest: Option<&'static Manifest>,
    /// A number that no other registry has, so that a handle cannot take what another registry restored.
    pub(super) home: u64,
}

/// What becomes of a node that no component understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strangers {
    /// It refuses the handover, unless it is optional.
    Refuse,
    /// It is told and left alone.
    Show,
}

pub(super) struct Entry<M> {
    pub(super) name: String,
    /// Whether a handover without the node is refused.
    pub(super) required: bool,
    pub(super) component: Rc<dyn Erased<M>>,
}

impl<M> Default for Registry<M> {
    fn default() -> Self {
        Registry {
            entries: Vec::new(),
            names: BTreeMap::new(),
            strangers: Strangers::Refuse,
            layouts: Layouts::default(),
            manifest: None,
            home: fresh_home(),
        }
    }
}

impl<M: Memory + 'static> Registry<M> {
    /// A registry that understands nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry that is to understand what the program's manifest says that it reads, no less and no more: every plan
    /// refuses with [`Code::ManifestDisagrees`](crate::report::Code::ManifestDisagrees) until it does.
    ///
    /// ```
    /// # #[cfg(feature = "write")] {
    /// use kho::compat::{Compat, CompatList};
    /// use kho::handover::Registry;
    /// use kho::payload::BytesNode;
    /// # use kho::handover::{Incoming, Outgoing};
    /// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
    ///
    /// const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
    /// kho::manifest! {
    ///     static MANIFEST = [both("state", &[STATE])];
    /// }
    /// let mut registry = Registry::of(&MANIFEST);
    /// registry.read_optional("state", BytesNode { made_of: STATE, limit: 4096 });
    /// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
    /// # let (memory, root) = Outgoing::new(ram).finish()?.into_parts();
    /// # let incoming = Incoming::new(memory, root.start());
    /// let plan = incoming.plan(&registry);
    /// let says = concat!(
    ///     "error: /: manifest-disagrees: /state: found my-state-v1 (from v1, optional), ",
    ///     "expected my-state-v1 (from v1), as the manifest says",
    /// );
    /// assert_eq!(plan.findings().kept()[0].to_string(), says);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn of(manifest: &'static Manifest) -> Self {
        Registry { manifest: Some(manifest), ..Self::default() }
    }

    /// Where this differs from the manifest of [`Registry::of`]: nothing, or every plan will refuse. For a test of the
    /// program, which notices before the first handover does.
    ///
    /// ```
    /// use kho::compat::{Compat, CompatList};
    /// use kho::handover::Registry;
    /// use kho::mem::Ram;
    /// use kho::payload::BytesNode;
    ///
    /// const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
    /// kho::manifest! {
    ///     static MANIFEST = [both("state", &[STATE])];
    /// }
    /// fn registry() -> Registry<Ram> {
    ///     let mut registry = Registry::of(&MANIFEST);
    ///     registry.read("state", BytesNode { made_of: STATE, limit: 4096 });
    ///     registry
    /// }
    /// assert_eq!(registry().disagreements(), []);
    /// ```
    #[must_use]
    pub fn disagreements(&self) -> Vec<Fault> {
        let says = self.manifest.map(Manifest::reads);
        says.map_or_else(Vec::new, |says| Manifest::differences(&says, &self.terms()))
    }

    /// A registry for those who look and restore nothing: a node that nobody understands is no error.
    #[must_use]
    pub fn observing() -> Self {
        Registry { strangers: Strangers::Show, ..Self::default() }
    }

    /// The node `name` must be there, and `component` restores it. A later component of the same name replaces an
    /// earlier one, whose handle then yields nothing.
    pub fn add<C: Component<M> + 'static>(&mut self, name: &str, component: C) -> Handle<C::Restored> {
        self.push(name, true, component)
    }

    /// Like [`Registry::add`], but a handover without the node is fine.
    pub fn add_optional<C: Component<M> + 'static>(&mut self, name: &str, component: C) -> Handle<C::Restored> {
        self.push(name, false, component)
    }

    /// The node `name` must be there, and its result is what `check` read: for data that is copied out anyway, for
    /// decoders, and for those who restore by other means.
    pub fn read<C: Check<M> + 'static>(&mut self, name: &str, check: C) -> Handle<C::Checked> {
        self.push(name, true, Look(check))
    }

    /// Like [`Registry::read`], but a handover without the node is fine.
    pub fn read_optional<C: Check<M> + 'static>(&mut self, name: &str, check: C) -> Handle<C::Checked> {
        self.push(name, false, Look(check))
    }

    /// Makes a layout known in further versions. Components that use it read them without knowing: their lists name the
    /// version, and the plan hands the data to whoever owns it.
    pub fn add_layout(&mut self, layout: Layout) {
        self.layouts.add(layout);
    }

    /// What is understood, as a predecessor is told of it: the nodes, and the layouts that they use.
    #[must_use]
    pub fn terms(&self) -> Terms {
        let entries = self.names.values().filter_map(|slot| self.entries.get(*slot));
        let nodes = entries.flat_map(|entry| {
            let takes = takes(entry.component.compat(), entry.component.older());
            let states = entry.component.states();
            takes
                .into_iter()
                .map(move |made_of| Term::node(&entry.name, made_of, entry.required).with_states(states.clone()))
        });
        nodes.chain(self.layouts.versions().into_iter().map(Term::layout)).collect()
    }

    fn push<C: Component<M> + 'static>(&mut self, name: &str, required: bool, component: C) -> Handle<C::Restored> {
        let slot = self.entries.len();
        let earlier = self.names.insert(name.into(), slot);
        if let Some(entry) = earlier.and_then(|earlier| self.entries.get_mut(earlier)) {
            // Its slot stays, so that handles stay what they are.
            entry.required = false;
        }
        self.entries.push(Entry { name: name.into(), required, component: Rc::new(component) });
        Handle { home: self.home, slot, restored: PhantomData }
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }
}

/// A component without its types. Each step hands the next one on in a box, so that nothing is cast until the user
/// takes the result by a typed [`Handle`].
pub(super) trait Erased<M> {
    fn compat(&self) -> CompatList<'static>;
    fn names_itself(&self) -> bool;
    fn older(&self) -> &'static [CompatList<'static>];
    fn states(&self) -> Vec<Description>;
    fn mismatches(&self, list: CompatList<'_>, layouts: &[Reads<'static>]) -> Vec<Fault>;
    fn check(self: Rc<Self>, node: &mut Node<'_, M>) -> Result<Box<dyn CheckedStep<M>>, Fault>;
}

pub(super) trait CheckedStep<M> {
    fn prepare(self: Box<Self>, memory: &mut M) -> Result<Box<dyn PreparedStep<M>>, Fault>;
}

pub(super) trait PreparedStep<M> {
    fn settle(self: Box<Self>) -> Result<Box<dyn PreparedStep<M>>, Fault>;
    fn commit(self: Box<Self>, memory: &mut M) -> Box<dyn Any>;
}

impl<M: Memory + 'static, C: Component<M> + 'static> Erased<M> for C {
    fn compat(&self) -> CompatList<'static> {
        Check::compat(self)
    }

    fn names_itself(&self) -> bool {
        Check::names_itself(self)
    }

    fn older(&self) -> &'static [CompatList<'static>] {
        Check::older(self)
    }

    fn states(&self) -> Vec<Description> {
        Check::states(self)
    }

    fn mismatches(&self, list: CompatList<'_>, layouts: &[Reads<'static>]) -> Vec<Fault> {
        Check::mismatches(self, list, layouts)
    }

    fn check(self: Rc<Self>, node: &mut Node<'_, M>) -> Result<Box<dyn CheckedStep<M>>, Fault> {
        let checked = Check::check(&*self, node)?;
        Ok(Box::new(ReadyToPrepare::<M, C> { component: self, checked }))
    }
}

struct ReadyToPrepare<M: Memory, C: Component<M>> {
    component: Rc<C>,
    checked: C::Checked,
}

impl<M: Memory + 'static, C: Component<M> + 'static> CheckedStep<M> for ReadyToPrepare<M, C> {
    fn prepare(self: Box<Self>, memory: &mut M) -> Result<Box<dyn PreparedStep<M>>, Fault> {
        let prepared = self.component.prepare(self.checked, memory)?;
        Ok(Box::new(ReadyToCommit::<M, C> { component: self.component, prepared }))
    }
}

struct ReadyToCommit<M: Memory, C: Component<M>> {
    component: Rc<C>,
    prepared: C::Prepared,
}

impl<M: Memory + 'static, C: Component<M> + 'static> PreparedStep<M> for ReadyToCommit<M, C> {
    fn settle(self: Box<Self>) -> Result<Box<dyn PreparedStep<M>>, Fault> {
        let prepared = self.component.settle(self.prepared)?;
        Ok(Box::new(ReadyToCommit::<M, C> { component: self.component, prepared }))
    }

    fn commit(self: Box<Self>, memory: &mut M) -> Box<dyn Any> {
        Box::new(self.component.commit(self.prepared, memory))
    }
}
