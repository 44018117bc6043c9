//! The predecessor's half: preserve components, finish, or take it all back.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::finished::{Finished, Unfinished};
use super::layouts::{Layout, Layouts};
use super::linux::{Linux, known_to_linux};
use super::reader::Reader;
use super::registry::takes;
use super::scope::{Blob, Home, Kept, Preserve, Scope, release};
use crate::compat::{CompatList, CompatVec, Difference, MadeOf, Term, Terms};
use crate::manifest::Manifest;
use crate::mem::{Bits, Frame, Frames, MemError, Order, fresh_home, memory_of};
use crate::radix::Tree;
use crate::report::{Code, Fault, Finding};
use crate::state::Description;
use crate::trace::Stopwatch;

pub(super) struct OutgoingNode {
    pub(super) name: String,
    pub(super) made_of: CompatVec<'static>,
    pub(super) optional: bool,
    pub(super) blob: Blob,
    pub(super) kept: Kept,
}

/// A handover that is being made.
///
/// The memory belongs to it until it is given back: blocks are allocated and written through it, and what is preserved
/// cannot be freed by mistake.
///
/// ```
/// use kho::handover::Outgoing;
/// use kho::payload::Bytes;
/// # use kho::compat::{Compat, CompatList};
/// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
/// # const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
/// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
///
/// let mut outgoing = Outgoing::new(ram);
/// outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"42 requests" })?;
/// assert!(outgoing.preserve("state", &Bytes { made_of: STATE, bytes: b"" }).is_err(), "a name is taken once");
///
/// let finished = outgoing.finish()?;
/// assert_eq!(finished.metadata_bytes(), 8 * 4096, "the blob, six nodes of the tree and the root FDT");
/// let mut outgoing = finished.cancel()?; // Staying after all.
/// assert!(outgoing.unpreserve("state"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Outgoing<M: Home> {
    pub(super) memory: M,
    pub(super) tree: Tree,
    /// Every page that is preserved.
    owned: Bits,
    pub(super) nodes: Vec<OutgoingNode>,
    /// What the next kernel needs, when it is for one.
    pub(super) linux: Option<Linux>,
    pub(super) layouts: Layouts,
    /// Who will read it, where that is known.
    reader: Option<Reader>,
    /// What the program says that it writes.
    pub(super) declared: Option<Terms>,
}

impl<M: Home> core::fmt::Debug for Outgoing<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let nodes: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        f.debug_struct("Outgoing").field("nodes", &nodes).finish_non_exhaustive()
    }
}

impl<M: Home> Outgoing<M> {
    /// Nothing is preserved yet.
    #[must_use]
    pub fn new(memory: M) -> Self {
        let tree = Tree::new(memory.geometry());
        Outgoing {
            memory,
            tree,
            owned: Bits::default(),
            nodes: Vec::new(),
            linux: None,
            layouts: Layouts::default(),
            reader: None,
            declared: None,
        }
    }

    /// As [`Outgoing::new`], of a program with a manifest: what it does not declare, or not so, is refused with
    /// [`Code::ManifestDisagrees`] when it is preserved.
    #[must_use]
    pub fn of(memory: M, manifest: &'static Manifest) -> Self {
        Outgoing { declared: Some(manifest.writes()), ..Outgoing::new(memory) }
    }

    /// Makes a layout known in further versions: see [`Registry::add_layout`](super::Registry::add_layout). What is
    /// written by default stays what the components say.
    pub fn add_layout(&mut self, layout: Layout) {
        self.layouts.add(layout);
    }

    /// Writes for a reader who takes these terms: from now on every component, and every layout that it uses, is
    /// written in the newest version that both know. Before anything is preserved.
    ///
    /// A successor that goes back brings what was written: what an older version cannot say, and what was
    /// [dropped](Outgoing::dropped), does not come back.
    ///
    /// ```
    /// use kho::compat::{Compat, CompatList, Term};
    /// use kho::handover::{Blob, Home, Outgoing, Preserve, Registry, Scope};
    /// use kho::report::{Code, Fault};
    /// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
    /// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
    ///
    /// struct Counter(u64);
    /// impl<M: Home> Preserve<M> for Counter {
    ///     fn compat(&self) -> CompatList<'static> {
    ///         const { CompatList::new(Compat::new("my-counter", 2), &[]) }
    ///     }
    ///     fn older(&self) -> &'static [CompatList<'static>] {
    ///         const { &[CompatList::new(Compat::new("my-counter", 1), &[])] }
    ///     }
    ///     fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
    ///         match scope.version() {
    ///             1 => scope.blob(&u32::try_from(self.0).unwrap_or(u32::MAX).to_le_bytes()),
    ///             _ => scope.blob(&self.0.to_le_bytes()),
    ///         }
    ///     }
    /// }
    ///
    /// // What a registry reads, or a program by its manifest: `Program::manifest`.
    /// let mut reads = Registry::<Ram>::new().terms();
    /// reads.add(Term::parse("counter", "my-counter-v1", 1, true)?);
    /// let mut outgoing = Outgoing::new(ram);
    /// outgoing.write_for(&reads)?;
    /// outgoing.preserve("counter", &Counter(42))?;
    /// assert_eq!(outgoing.made_of("counter").unwrap().to_string(), "my-counter-v1");
    /// assert_eq!(outgoing.preserve("other", &Counter(1)).unwrap_err().code(), Code::ComponentUnknown);
    /// # Ok::<(), Fault>(())
    /// ```
    ///
    /// # Errors
    /// [`Code::Refused`] when something is preserved already; [`Code::VersionOlder`], [`Code::VersionNewer`] or
    /// [`Code::ComponentUnknown`] when the reader does not take the root, or its tree.
    pub fn write_for(&mut self, reads: &Terms) -> Result<(), Fault> {
        if let Some(node) = self.nodes.first() {
            let fault =
                Fault::new(Code::Refused).item(format!("/{}", node.name)).found("a node that is preserved already");
            return Err(fault.expected("a handover of which nothing is written"));
        }
        self.reader = Some(Reader::new(reads, &self.layouts)?);
        Ok(())
    }

    /// What was left out because it is optional and the successor does not read it, with the reasons.
    #[must_use]
    pub fn dropped(&self) -> &[(String, Vec<Fault>)] {
        self.reader.as_ref().map_or(&[], |reader| &reader.dropped)
    }

    /// What nodes were written without, because the successor of [`Outgoing::write_for`] does not read it: fields and
    /// subsections of [states](crate::state) that stay behind.
    #[must_use]
    pub fn warnings(&self) -> Vec<Finding> {
        let of = |node: &OutgoingNode| {
            let path = format!("/{}", node.name);
            node.kept.warnings.iter().map(move |fault| Finding { node: path.clone(), fault: fault.clone() }).collect()
        };
        self.nodes.iter().flat_map(|node| -> Vec<Finding> { of(node) }).collect()
    }

    /// What the node `name` is made of, as it was written.
    #[must_use]
    pub fn made_of(&self, name: &str) -> Option<CompatList<'_>> {
        self.nodes.iter().find(|node| node.name == name).map(|node| node.made_of.list())
    }

    /// Preserves a component as the node `name`: all of it, or on an error nothing.
    ///
    /// A component that is [optional](Preserve::optional) and that the successor of [`Outgoing::write_for`] does not read
    /// is left out: see [`Outgoing::dropped`].
    ///
    /// # Errors
    /// [`Code::FdtName`] for a name that a device tree cannot have, [`Code::FdtDuplicate`] for one that is taken, what a
    /// successor of [`Outgoing::write_for`] has against it, and whatever the component says.
    pub fn preserve<C: Preserve<M> + ?Sized>(&mut self, name: &str, component: &C) -> Result<(), Fault> {
        self.preserve_as(name, component, component.optional())
    }

    /// As [`Outgoing::preserve`], and a successor that does not understand the node may leave it, whatever the component
    /// says of itself.
    ///
    /// ```
    /// use kho::handover::{Incoming, Outgoing, Registry, Verdict};
    /// use kho::payload::Bytes;
    /// # use kho::compat::{Compat, CompatList};
    /// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
    /// # const HINTS: CompatList<'static> = CompatList::new(Compat::new("my-hints", 1), &[]);
    /// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
    ///
    /// let mut outgoing = Outgoing::new(ram);
    /// outgoing.preserve_optional("hints", &Bytes { made_of: HINTS, bytes: b"the door is open" })?;
    /// let (memory, root) = outgoing.finish()?.into_parts();
    /// let plan = Incoming::new(memory, root.start()).plan(&Registry::new());
    /// assert_eq!((plan.nodes()[0].verdict, plan.verdict()), (Verdict::Dropped, Verdict::Fine));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Outgoing::preserve`].
    pub fn preserve_optional<C: Preserve<M> + ?Sized>(&mut self, name: &str, component: &C) -> Result<(), Fault> {
        self.preserve_as(name, component, true)
    }

    fn preserve_as<C: Preserve<M> + ?Sized>(&mut self, name: &str, component: &C, optional: bool) -> Result<(), Fault> {
        crate::fdt::check_node_name(name)?;
        if self.nodes.iter().any(|node| node.name == name) {
            return Err(Fault::new(Code::FdtDuplicate).item(name.to_owned()).found("a node of that name"));
        }
        if self.linux.is_some() {
            known_to_linux(name, component.compat().owner())?;
        }
        let offers = takes(component.compat(), component.older());
        if let Some(declared) = &self.declared {
            let of_node = |terms: &mut dyn Iterator<Item = Term>| terms.filter(|term| term.name() == name).collect();
            let says: Terms = of_node(&mut declared.iter().cloned());
            undeclared(&says, name, &component.states())?;
            // Of the states that the manifest has, a handover may have any.
            let states = says.states(name).unwrap_or_default();
            let does = |made_of: &MadeOf<'static>| Term::node(name, *made_of, !optional).with_states(states.to_vec());
            let does: Terms = of_node(&mut offers.iter().map(does));
            if let Some(fault) = Manifest::differences(&says, &does).into_iter().next() {
                return Err(fault);
            }
        }
        let made_of = match &mut self.reader {
            None => component.compat().written_in(component.compat().owner().version(), &[]),
            Some(reader) => match reader.settle(name, &offers, optional)? {
                Some(made_of) => made_of,
                None => return Ok(()),
            },
        };
        if let Some(declared) = &self.declared {
            let layouts = declared.layouts();
            let judged = made_of.list().uses().iter().map(|entry| entry.judge(&layouts));
            if let Some(Difference::Older { found, expected } | Difference::Newer { found, expected }) =
                judged.filter_map(Result::err).find(|one| !matches!(one, Difference::Unknown { .. }))
            {
                let fault = Fault::new(Code::ManifestDisagrees).item(format!("/{name}")).found(found);
                return Err(fault.expected(format_args!("{expected}, as the manifest says")));
            }
        }
        let mut scope = Scope {
            memory: &mut self.memory,
            tree: &mut self.tree,
            owned: &mut self.owned,
            kept: Kept::default(),
            made_of: &made_of,
            layouts: &self.layouts,
            reader: self.reader.as_ref().and_then(|reader| reader.states(name)),
            home: fresh_home(),
        };
        let watch = Stopwatch::start();
        let preserved = component.preserve(&mut scope);
        watch.event("preserve", &format!("/{name}"));
        match preserved {
            Ok(blob) => {
                let kept = scope.kept;
                self.nodes.push(OutgoingNode { name: name.to_owned(), made_of, optional, blob, kept });
                Ok(())
            }
            Err(fault) => {
                scope.unwind();
                Err(fault)
            }
        }
    }

    /// Takes back what was preserved as that node; whether there was one.
    pub fn unpreserve(&mut self, name: &str) -> bool {
        let Some(at) = self.nodes.iter().position(|node| node.name == name) else { return false };
        let node = self.nodes.remove(at);
        release(&mut self.memory, &mut self.tree, &mut self.owned, node.kept);
        true
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    #[cfg(feature = "std")]
    pub(crate) const fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Takes everything back, and gives the memory.
    #[must_use]
    pub fn into_memory(mut self) -> M {
        while let Some(node) = self.nodes.pop() {
            release(&mut self.memory, &mut self.tree, &mut self.owned, node.kept);
        }
        if let Some(linux) = self.linux {
            self.memory.free(linux.array);
        }
        self.memory
    }

    /// Writes the tree and the root FDT.
    ///
    /// # Errors
    /// What went wrong, with the handover as it was before: nothing is lost, and it may be tried again.
    pub fn finish(mut self) -> Result<Finished<M>, Unfinished<M>> {
        let own = match self.memory.own_node() {
            Ok(None) => None,
            Ok(Some((name, component))) => match self.preserve(name, &*component) {
                Ok(()) => Some(name),
                Err(fault) => return Err(Unfinished { fault: fault.within(name), outgoing: self }),
            },
            Err(fault) => return Err(Unfinished { fault, outgoing: self }),
        };
        match self.write_root() {
            Ok(root) => Ok(Finished { outgoing: self, root, own }),
            Err(fault) => {
                if let Some(name) = own {
                    self.unpreserve(name);
                }
                Err(Unfinished { fault, outgoing: self })
            }
        }
    }
}

/// Refuses a state that the manifest does not have, or has otherwise.
fn undeclared(says: &Terms, name: &str, states: &[Description]) -> Result<(), Fault> {
    let declared = says.states(name).unwrap_or_default();
    match states.iter().find(|state| !declared.contains(state)) {
        None => Ok(()),
        Some(state) => {
            let fault = Fault::new(Code::ManifestDisagrees).item(format!("/{name}")).found(state.summary());
            let said = declared.iter().find(|known| known.id == state.id);
            let said = said.map_or_else(|| "no such state".into(), Description::summary);
            Err(fault.expected(format_args!("{said}, as the manifest says")))
        }
    }
}

memory_of!([M: Home] Outgoing<M>, |it| it.memory);

impl<M: Home> Frames for Outgoing<M> {
    fn alloc(&mut self, order: Order) -> Result<Frame, MemError> {
        self.memory.alloc(order)
    }

    fn holds(&self, frame: &Frame) -> bool {
        self.memory.holds(frame)
    }

    /// A block that is preserved is not freed: unpreserve it first.
    fn free(&mut self, frame: Frame) {
        let range = frame.folio().range();
        if self.owned.next_set(range.start().get()).is_none_or(|page| page >= range.end()) {
            self.memory.free(frame);
        }
    }

    fn write(&mut self, frame: &Frame, offset: u64, bytes: &[u8]) -> Result<(), MemError> {
        self.memory.write(frame, offset, bytes)
    }
}
