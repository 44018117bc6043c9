//! The objects of a program that are states: attached one by one, restored when they are, saved together.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
#[cfg(feature = "write")]
use core::any::Any;
use core::cell::RefCell;
use core::fmt;
#[cfg(feature = "std")]
use std::sync::{Mutex, RwLock};

#[cfg(feature = "write")]
use super::description::Description;
use super::error::{Error, Result};
use super::image::Image;
use super::memo::Memo;
use super::resource::Held;
use super::restore::{Restorer, Source};
use super::save::Saver;
#[cfg(feature = "write")]
use super::save::Sink;
use super::shape::Shape;
use super::value::{State, Value as _, busy};
#[cfg(feature = "write")]
use super::versions::Versions;
use super::walk::named;
use crate::mem::{Folio, Frame, Frames};
use crate::report::{Code, Fault};

/// A pointer to an object that is a state: `Rc<RefCell<T>>`, `Arc<Mutex<T>>`, `Arc<RwLock<T>>`.
///
/// [`States`] keeps one, to save the object later; so does everybody else who has it.
pub trait Holder: Clone + 'static {
    /// The state.
    type State: State;

    /// Where the object is, which tells it from others.
    fn address(&self) -> usize;

    /// Saves the object.
    ///
    /// # Errors
    /// Those of the state; [`Code::StateBusy`] when somebody is changing it.
    fn save(&self, out: &mut Saver<'_>) -> Result<()>;

    /// Puts another state in the place of the one that is there.
    ///
    /// # Errors
    /// [`Code::StateBusy`] when somebody holds it.
    fn replace(&self, state: Self::State) -> Result<()>;
}

macro_rules! holder {
    ($pointer:ident<$lock:ident> by $to_change:ident, $busy:literal) => {
        impl<T: State + 'static> Holder for $pointer<$lock<T>> {
            type State = T;

            fn address(&self) -> usize {
                $pointer::as_ptr(self).addr()
            }

            fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                (**self).save(out)
            }

            fn replace(&self, state: T) -> Result<()> {
                let mut place = self.$to_change().map_err(|_| busy($busy))?;
                let old = core::mem::replace(&mut *place, state);
                // What is dropped may look at what takes its place.
                drop(place);
                drop(old);
                Ok(())
            }
        }
    };
}

holder!(Rc<RefCell> by try_borrow_mut, "a cell that is borrowed");
#[cfg(feature = "std")]
holder!(Arc<Mutex> by lock, "a lock whose holder panicked");
#[cfg(feature = "std")]
holder!(Arc<RwLock> by write, "a lock whose holder panicked");

/// A holder without its types.
trait Attached {
    fn shape(&self) -> &'static Shape;
    fn address(&self) -> usize;
    #[cfg(feature = "write")]
    fn save(&self, number: u64, out: &mut Saver<'_>) -> Result<()>;
}

impl<H: Holder> Attached for H {
    fn shape(&self) -> &'static Shape {
        H::State::SHAPE
    }

    fn address(&self) -> usize {
        Holder::address(self)
    }

    #[cfg(feature = "write")]
    fn save(&self, number: u64, out: &mut Saver<'_>) -> Result<()> {
        let holder: Box<dyn Any> = Box::new(self.clone());
        out.instance::<H::State>(number, Some((self.address(), holder)), |out| Holder::save(self, out))
    }
}

/// Where the value of an attached object comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the predecessor, who wrote it in that version.
    Restored {
        /// The version.
        version: u32,
    },
    /// Nothing was handed over: it is as it was.
    Fresh,
}

/// A state that was handed over, and that nobody attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclaimed {
    /// Id of its description.
    pub id: u32,
    /// Its name, as the predecessor has it.
    pub name: String,
    /// Its number.
    pub number: u64,
}

impl fmt::Display for Unclaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (id {}) that nobody attached", named(&self.name, self.number), self.id)
    }
}

/// What came with a handover.
pub(crate) struct Came {
    pub(crate) image: Image<'static>,
    /// Whether all of it is in the newest versions.
    pub(crate) newest: bool,
    pub(crate) bulk: Arc<Held>,
    /// One for each resource of the image.
    pub(crate) resources: Vec<Resourced>,
    pub(crate) page_size: u64,
    /// Ids of the states that it was held against.
    pub(crate) declared: BTreeSet<u32>,
}

/// A resource that was taken over. It is given to the value that has it; when that value is given up, it is given again.
pub(crate) enum Resourced {
    Blocks(u64, Vec<Folio>),
    #[cfg(feature = "std")]
    File(std::os::fd::OwnedFd),
}

/// The resources of one restore.
struct Given<'a> {
    came: &'a Came,
}

impl Given<'_> {
    fn of(&self, resource: usize) -> core::result::Result<&Resourced, Fault> {
        let resource = self.came.resources.get(resource);
        resource.ok_or_else(|| Fault::new(Code::StateResource).found("a resource that was not taken over"))
    }

    fn blocks(&self, resource: usize) -> core::result::Result<Vec<Frame>, Fault> {
        match self.of(resource)? {
            Resourced::Blocks(home, folios) => Ok(folios.iter().map(|folio| Frame::of(*home, *folio)).collect()),
            #[cfg(feature = "std")]
            Resourced::File(_) => Err(Fault::new(Code::StateResource).found("a descriptor").expected("pages")),
        }
    }
}

impl Source for Given<'_> {
    fn bulk(&self) -> &[u8] {
        &self.came.bulk
    }

    fn held(&self) -> Option<Arc<Held>> {
        Some(Arc::clone(&self.came.bulk))
    }

    fn page_size(&self) -> u64 {
        self.came.page_size
    }

    fn folio(&mut self, resource: usize) -> core::result::Result<Frame, Fault> {
        self.blocks(resource)?.pop().ok_or_else(|| Fault::new(Code::StateResource).found("no block"))
    }

    fn area(&mut self, resource: usize) -> core::result::Result<Vec<Frame>, Fault> {
        self.blocks(resource)
    }

    #[cfg(feature = "std")]
    fn file(&mut self, resource: usize) -> core::result::Result<std::os::fd::OwnedFd, Fault> {
        match self.of(resource)? {
            Resourced::File(file) => crate::files::duplicate(file),
            Resourced::Blocks(..) => Err(Fault::new(Code::StateResource).found("pages").expected("a descriptor")),
        }
    }
}

/// The objects of a program that are states.
///
/// What a predecessor handed over is restored when its object is attached; what is attached is saved, all together, when
/// the states are [preserved](crate::handover::Outgoing::preserve).
///
/// ```
/// # #[cfg(all(feature = "derive", feature = "std"))] {
/// use std::cell::RefCell;
/// use std::rc::Rc;
///
/// use kho::abi;
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::state::{Origin, State, States, StatesNode};
/// # use kho::mem::{Geometry, PageRange, Pfn, Ram};
/// # let ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap());
///
/// #[derive(State)]
/// #[state(id = 1, version = 1)]
/// struct Clock {
///     ticks: u64,
/// }
///
/// // The predecessor.
/// let clock = Rc::new(RefCell::new(Clock { ticks: 0 }));
/// let mut states = States::new();
/// assert_eq!(states.attach(0, &clock)?, Origin::Fresh);
/// clock.borrow_mut().ticks = 42;
/// let mut outgoing = Outgoing::new(ram);
/// outgoing.preserve(abi::state::NODE, &states)?;
/// let (memory, root) = outgoing.finish()?.into_parts();
///
/// // The successor.
/// let mut registry = Registry::new();
/// let node = registry.add(abi::state::NODE, StatesNode::new(&[Clock::SHAPE]));
/// let mut restored = Incoming::new(memory, root.start()).plan(&registry).accept()?.restore()?;
/// let mut states = restored.take(&node).unwrap();
/// let clock = Rc::new(RefCell::new(Clock { ticks: 0 }));
/// assert_eq!(states.attach(0, &clock)?, Origin::Restored { version: 1 });
/// assert_eq!(clock.borrow().ticks, 42);
/// assert!(states.finish(restored.memory_mut()).is_empty());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct States {
    came: Option<(Came, Memo)>,
    attached: BTreeMap<(u32, u64), Box<dyn Attached>>,
    /// What was taken by value.
    taken: BTreeSet<(u32, u64)>,
    pub(crate) bulk_checksum: bool,
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attached: Vec<String> =
            self.attached.iter().map(|((_, number), object)| named(object.shape().name(), *number)).collect();
        f.debug_struct("States").field("attached", &attached).field("unclaimed", &self.unclaimed()).finish()
    }
}

impl States {
    /// Nothing was handed over, and nothing is attached.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn of(came: Came) -> Self {
        let memo = Memo::new(&came.image);
        States { came: Some((came, memo)), ..Self::default() }
    }

    /// Whether bulk data are saved with a checksum, which their successor holds them against. Metadata always are.
    pub const fn with_bulk_checksum(&mut self, on: bool) {
        self.bulk_checksum = on;
    }

    /// Attaches an object under that number, unique among those of its description. Where the predecessor handed it
    /// over, its value takes the place of the one that is there; and from now on it is saved with the others.
    ///
    /// An object that others share by an `Rc` or `Arc` is attached before them, so that they find it.
    ///
    /// # Errors
    /// [`Code::StateId`] for a number or an object that is attached already; [`Code::StateUnknown`] for a state that was
    /// not declared, where something came; what is wrong with the value. Then the object is as it was, and not attached.
    pub fn attach<H: Holder>(&mut self, number: u64, object: &H) -> core::result::Result<Origin, Fault> {
        let shape = H::State::SHAPE;
        let place = (shape.id(), number);
        let within = |error: Error| Fault::from(error.field(&named(shape.name(), number)));
        self.is_declared(shape).map_err(within)?;
        if self.attached.contains_key(&place) {
            return Err(within(Fault::new(Code::StateId).found("a number that is attached already").into()));
        }
        if let Some(other) = self.attached.values().find(|other| other.address() == object.address()) {
            let fault = Fault::new(Code::StateId)
                .found(format_args!("an object that is attached already, as {}", other.shape().name()));
            return Err(within(fault.expected("one number for each").into()));
        }
        let origin = match &mut self.came {
            None => Origin::Fresh,
            Some((came, memo)) => match came.image.instance(place.0, number) {
                None => Origin::Fresh,
                Some(from) => restore(came, memo, from, object).map_err(within)?,
            },
        };
        self.attached.insert(place, Box::new(object.clone()));
        Ok(origin)
    }

    /// Takes what the predecessor handed over under that number, by value and once; none when nothing was. It is not
    /// attached, and not saved again until it is.
    ///
    /// For a state of which there can be none before it came, such as one with pages: attach it then in a holder.
    ///
    /// # Errors
    /// [`Code::StateId`] for a number that is attached or was taken; [`Code::StateShared`] for an object that another
    /// one has a part in already; what is wrong with the value: it can be taken again then.
    pub fn take<T: State>(&mut self, number: u64) -> core::result::Result<Option<T>, Fault> {
        let place = (T::SHAPE.id(), number);
        let within = |error: Error| Fault::from(error.field(&named(T::SHAPE.name(), number)));
        self.is_declared(T::SHAPE).map_err(within)?;
        if self.attached.contains_key(&place) || self.taken.contains(&place) {
            return Err(within(Fault::new(Code::StateId).found("a number that was attached or taken already").into()));
        }
        let Some((came, memo)) = &mut self.came else { return Ok(None) };
        let Some(from) = came.image.instance(place.0, number) else { return Ok(None) };
        if memo.is_there(from) {
            let fault = Fault::new(Code::StateShared).found("an object that others have by a pointer");
            return Err(within(fault.expected("to be attached, before them").into()));
        }
        let mark = memo.mark();
        let mut given = Given { came };
        let mut input = Restorer::new(&came.image, came.newest, memo, &mut given);
        match input.object(from, &T::TYPE, T::restore) {
            Ok(state) => {
                self.taken.insert(place);
                Ok(Some(state))
            }
            Err(error) => {
                memo.back(mark);
                Err(within(error))
            }
        }
    }

    /// What came was held against the states that were declared: no other one may read it.
    fn is_declared(&self, shape: &'static Shape) -> Result<()> {
        match &self.came {
            Some((came, _)) if !came.declared.contains(&shape.id()) => {
                let fault =
                    Fault::new(Code::StateUnknown).found(format_args!("id {}, which was not declared", shape.id()));
                Err(fault.expected("a state of the StatesNode that restored these").into())
            }
            _ => Ok(()),
        }
    }

    /// Detaches an object: it is not saved. Whether it was attached.
    pub fn detach<T: State>(&mut self, number: u64) -> bool {
        self.attached.remove(&(T::SHAPE.id(), number)).is_some()
    }

    /// The states that were handed over and that nobody attached. They are not handed on.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<Unclaimed> {
        let Some((came, _)) = &self.came else { return Vec::new() };
        let is_left = |place: &(u32, u64)| !self.attached.contains_key(place) && !self.taken.contains(place);
        let left = came.image.instances().filter(is_left);
        // They ascend by id, and a description may be long.
        let mut last = (0, String::new());
        let unclaimed = left.map(|(id, number)| {
            if last.0 != id {
                let description = came.image.description(id).ok().flatten();
                last = (id, description.map(|(of, _)| of.name).unwrap_or_default());
            }
            Unclaimed { id, name: last.1.clone(), number }
        });
        unclaimed.collect()
    }

    /// Ends the restoring, and gives back to the memory what was handed over and no object has: the pages of bulk data
    /// that nobody reads [in place](super::InPlace), and those of states that nobody attached, which are told. Their
    /// descriptors are closed.
    ///
    /// The memory is that of the handover: [`Restored::memory_mut`](crate::handover::Restored::memory_mut), or what is
    /// left of it.
    pub fn finish(&mut self, memory: &mut dyn Frames) -> Vec<Unclaimed> {
        let unclaimed = self.unclaimed();
        let Some((came, memo)) = self.came.take() else { return unclaimed };
        #[cfg(feature = "std")]
        if let Ok(Held::Mapping(mapping, _)) = Arc::try_unwrap(came.bulk) {
            mapping.into_frames().into_iter().for_each(|frame| memory.free(frame));
        }
        for (number, resource) in came.resources.iter().enumerate() {
            if let Resourced::Blocks(home, folios) = resource
                && !memo.has_taken(number)
            {
                folios.iter().for_each(|folio| memory.free(Frame::of(*home, *folio)));
            }
        }
        unclaimed
    }

    /// What is attached, as a manifest has it: everything that the objects may be made of.
    #[cfg(feature = "write")]
    pub(crate) fn descriptions(&self) -> Vec<Description> {
        let roots = self.attached.values().map(|object| object.shape());
        super::node::descriptions(roots)
    }

    /// The descriptions of what is attached.
    pub fn shapes(&self) -> impl Iterator<Item = &'static Shape> + '_ {
        self.attached.values().map(|object| object.shape())
    }

    /// Saves all that is attached; the metadata.
    #[cfg(feature = "write")]
    pub(crate) fn save(&self, sink: &mut dyn Sink, versions: Option<&Versions>) -> Result<Vec<u8>> {
        let mut saver = Saver::new(sink, versions);
        for ((_, number), object) in &self.attached {
            object.save(*number, &mut saver).map_err(|error| error.field(&named(object.shape().name(), *number)))?;
        }
        saver.finish()
    }
}

/// Restores the object `from` into this one: all of it, or nothing is changed.
fn restore<H: Holder>(came: &Came, memo: &mut Memo, from: u32, object: &H) -> Result<Origin> {
    let mark = memo.mark();
    let result = restore_into(came, memo, from, object);
    if result.is_err() {
        memo.back(mark);
    }
    result
}

fn restore_into<H: Holder>(came: &Came, memo: &mut Memo, from: u32, object: &H) -> Result<Origin> {
    memo.hold(from, Box::new(object.clone()))?;
    let mut given = Given { came };
    let mut input = Restorer::new(&came.image, came.newest, memo, &mut given);
    let state = input.object(from, &H::State::TYPE, H::State::restore)?;
    object.replace(state)?;
    let version = came.image.shape(H::State::SHAPE.id()).map_or(0, |(version, _)| version);
    Ok(Origin::Restored { version })
}
