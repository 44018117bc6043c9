//! What a program reads and writes, said in its own file: readable without running it.
//!
//! [`manifest!`](crate::manifest!) makes one static. Registry and handover are held to it
//! ([`Registry::of`](crate::handover::Registry::of), [`Outgoing::of`](crate::handover::Outgoing::of)), and
//! the same entries stand in two ELF sections: in a note of our own ([`abi::manifest`]), with
//! ranges of versions and what is required, and in `.liveupdate_versions`, as it was proposed for kernels. The sections
//! survive `strip`, link-time optimisation and static linking; a second manifest in one program does not link.
//!
//! ```
//! use kho::compat::{Compat, CompatList};
//! use kho::payload::RECORDS_USE;
//!
//! const STATE_V2: CompatList<'static> = CompatList::new(Compat::new("my-state", 2), &[]);
//! const STATE_V1: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
//! const HINTS: CompatList<'static> = CompatList::new(Compat::new("my-hints", 1), RECORDS_USE);
//!
//! kho::manifest! {
//!     /// What this program takes over and hands over.
//!     pub static MANIFEST = [
//!         both("state", &[STATE_V2, STATE_V1]),
//!         both("hints", &[HINTS]).optional(),
//!     ];
//! }
//!
//! // As another program finds it in this one's file:
//! let found = kho::manifest::Found::parse(MANIFEST.note())?;
//! assert_eq!(found.reads, MANIFEST.reads());
//! let state = found.reads.iter().find(|term| term.name() == "state").unwrap();
//! assert_eq!((state.made_of(), state.oldest(), state.is_required()), ("my-state-v2", 1, true));
//! # Ok::<(), kho::report::Fault>(())
//! ```

mod encode;
#[cfg(feature = "std")]
mod file;
mod parse;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::abi;
use crate::compat::{CompatList, MadeOf, Reads, Term, Terms, is_node_name};
use crate::report::{Code, Fault};
use crate::state::{self, Shape};

#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) use file::{Sections, is_dynamic};

pub use encode::{Bytes, note, note_size, versions, versions_size};
pub use parse::{Found, section_of_versions, table};

/// So many bytes a note has at most.
pub const LIMIT: u64 = 1 << 20;

/// So many entries a note has at most: what two programs say of each other is compared each with each.
pub const MOST: u32 = 4096;

/// The layouts that this library reads and writes, which nodes need not declare.
pub const LAYOUTS: &[Reads<'static>] = &[
    Reads::only(abi::kho::COMPAT),
    Reads::only(abi::radix::COMPAT),
    Reads::only(abi::vmalloc::COMPAT),
    Reads::only(abi::block::COMPAT),
];

/// Who a line of the manifest speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A node, and its composites, the newest first.
    Node(&'static str, &'static [CompatList<'static>]),
    /// A layout that nodes use.
    Layout(Reads<'static>),
    /// A node of states, and the states.
    States(&'static str, &'static [&'static Shape]),
}

impl What {
    /// The node, where it is one.
    const fn node(self) -> Option<&'static str> {
        match self {
            What::Node(node, _) | What::States(node, _) => Some(node),
            What::Layout(_) => None,
        }
    }
}

/// A line of a manifest: see [`both`], [`reads`], [`writes`], [`states`] and [`layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    what: What,
    /// [`abi::manifest::READS`] and the others.
    flags: u16,
}

/// The program takes the node over and hands it over, in each of these versions, the newest first. Meant for
/// [`manifest!`](crate::manifest!).
///
/// # Panics
///
/// When there is no list, or they are not of one owner in descending versions, or no node of a device tree can have the
/// name; in a `const`, that is an error of the compiler.
#[must_use]
#[track_caller]
pub const fn both(node: &'static str, made_of: &'static [CompatList<'static>]) -> Entry {
    entry(node, made_of, abi::manifest::READS | abi::manifest::WRITES | abi::manifest::REQUIRED)
}

/// The program takes the node over, in each of these versions, the newest first.
///
/// # Panics
///
/// As [`both`].
#[must_use]
#[track_caller]
pub const fn reads(node: &'static str, made_of: &'static [CompatList<'static>]) -> Entry {
    entry(node, made_of, abi::manifest::READS | abi::manifest::REQUIRED)
}

/// The program can hand the node over, in each of these versions, the newest first.
///
/// # Panics
///
/// As [`both`].
#[must_use]
#[track_caller]
pub const fn writes(node: &'static str, made_of: &'static [CompatList<'static>]) -> Entry {
    entry(node, made_of, abi::manifest::WRITES | abi::manifest::REQUIRED)
}

/// The program takes over and hands over these states, in the node of that name: all that they are made of, so that who
/// has only the file of the program can tell whether it reads what another one saved.
///
/// ```
/// # #[cfg(feature = "derive")] {
/// use kho::state::State;
///
/// #[derive(State)]
/// #[state(id = 1, version = 2)]
/// struct Clock {
///     ticks: u64,
///     alarm: Alarm,
/// }
/// #[derive(State)]
/// #[state(id = 2, version = 1)]
/// struct Alarm {
///     at: u64,
/// }
///
/// kho::manifest! {
///     static MANIFEST = [states("state", &[Clock::SHAPE, Alarm::SHAPE])];
/// }
/// let found = kho::manifest::Found::parse(MANIFEST.note())?;
/// let names: Vec<&str> = found.reads.states("state").unwrap().iter().map(|state| state.name.as_str()).collect();
/// assert_eq!(names, ["clock", "alarm"]);
/// # }
/// # Ok::<(), kho::report::Fault>(())
/// ```
///
/// # Panics
///
/// When a state is missing that another one is made of, or two have one id, or no node of a device tree can have the
/// name; in a `const`, that is an error of the compiler.
#[must_use]
#[track_caller]
pub const fn states(node: &'static str, states: &'static [&'static Shape]) -> Entry {
    check_name(node);
    state::check_closed(states);
    let flags = abi::manifest::READS | abi::manifest::WRITES | abi::manifest::REQUIRED;
    Entry { what: What::States(node, states), flags }
}

/// The program knows a layout in these versions, beyond those of [`LAYOUTS`]: what it adds with
/// [`Registry::add_layout`](crate::handover::Registry::add_layout).
#[must_use]
pub const fn layout(versions: Reads<'static>) -> Entry {
    Entry { what: What::Layout(versions), flags: abi::manifest::READS | abi::manifest::WRITES }
}

#[track_caller]
const fn check_name(node: &str) {
    assert!(
        is_node_name(node.as_bytes()),
        "the name of a node is a letter, then letters, digits and ,._+-, at most 31"
    );
}

const fn entry(node: &'static str, made_of: &'static [CompatList<'static>], flags: u16) -> Entry {
    check_name(node);
    assert!(!made_of.is_empty(), "a node has a list");
    let mut rest = made_of;
    while let [newer, more @ ..] = rest {
        if let [older, ..] = more {
            let (newer, older) = (newer.owner(), older.owner());
            assert!(newer.has_name_of(&older), "the versions of a node are of one owner");
            assert!(newer.version() > older.version(), "the newest version first");
        }
        rest = more;
    }
    Entry { what: What::Node(node, made_of), flags }
}

impl Entry {
    /// A handover without the node is fine, and a successor that does not know it may leave it.
    #[must_use]
    pub const fn optional(self) -> Entry {
        Entry { flags: self.flags & !abi::manifest::REQUIRED, ..self }
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What a program reads and writes: see [`manifest!`](crate::manifest!).
#[derive(Debug)]
pub struct Manifest {
    entries: &'static [Entry],
    note: &'static [u8],
    versions: &'static [u8],
}

impl Manifest {
    /// For [`manifest!`](crate::manifest!).
    #[doc(hidden)]
    #[must_use]
    pub const fn new(entries: &'static [Entry], note: &'static [u8], versions: &'static [u8]) -> Self {
        Manifest { entries, note, versions }
    }

    /// What the program reads.
    #[must_use]
    pub fn reads(&self) -> Terms {
        self.terms(abi::manifest::READS)
    }

    /// What the program can write.
    #[must_use]
    pub fn writes(&self) -> Terms {
        self.terms(abi::manifest::WRITES)
    }

    fn terms(&self, flag: u16) -> Terms {
        let mut terms: Terms = LAYOUTS.iter().copied().map(Term::layout).collect();
        for entry in self.entries.iter().filter(|entry| entry.has(flag)) {
            match entry.what {
                What::Layout(versions) => terms.add(Term::layout(versions)),
                What::States(node, shapes) => {
                    let required = entry.has(abi::manifest::REQUIRED);
                    let term = Term::node(
                        node,
                        MadeOf { newest: state::MADE_OF, oldest: state::MADE_OF.owner().version() },
                        required,
                    );
                    terms.add(term.with_states(state::descriptions(shapes.iter().copied())));
                }
                What::Node(node, made_of) => {
                    let required = entry.has(abi::manifest::REQUIRED);
                    terms
                        .extend(MadeOf::all_of(made_of).into_iter().map(|made_of| Term::node(node, made_of, required)));
                }
            }
        }
        terms
    }

    /// The note, as it stands in the program's file.
    #[must_use]
    pub const fn note(&self) -> &'static [u8] {
        self.note
    }

    /// The table of versions, as it stands in the program's file.
    #[must_use]
    pub const fn versions(&self) -> &'static [u8] {
        self.versions
    }

    /// Holds what a program does against what its manifest says: every difference, each of
    /// [`Code::ManifestDisagrees`] with the node as item.
    pub(crate) fn differences(says: &Terms, does: &Terms) -> Vec<Fault> {
        let lines = |terms: &Terms, node: &str| {
            let of_node = terms.of(node);
            let lines = of_node.map(|term| {
                // Nobody requires a layout by itself.
                let optional = if term.is_required() || node.is_empty() { "" } else { ", optional" };
                format!("{} (from v{}{optional})", term.made_of(), term.oldest())
            });
            let mut lines: Vec<String> = lines.collect();
            lines.sort_unstable();
            // A layout may be declared that every program has.
            lines.dedup();
            lines
        };
        // Nothing is the name of layouts.
        let nodes: BTreeSet<&str> = does.names().chain(says.names()).chain([""]).collect();
        let mut differences = Vec::new();
        for node in nodes {
            let (mut said, mut done) = (lines(says, node), lines(does, node));
            if said == done {
                let (said, done) = (says.states(node).unwrap_or_default(), does.states(node).unwrap_or_default());
                differences.extend(state::disagree(node, said, done));
                continue;
            }
            let mut item = format!("/{node}");
            if node.is_empty() {
                item = "layouts".into();
                // Of those that every program has nothing needs to be told.
                let both = said.clone();
                said.retain(|line| !done.contains(line));
                done.retain(|line| !both.contains(line));
            }
            let or_nothing = |lines: Vec<String>| if lines.is_empty() { "nothing".into() } else { lines.join(" or ") };
            let fault = Fault::new(Code::ManifestDisagrees).item(item).found(or_nothing(done));
            differences.push(fault.expected(format_args!("{}, as the manifest says", or_nothing(said))));
        }
        differences
    }
}

/// Declares what a program reads and writes: once in a program, best beside its `main`.
///
/// Each line is [`both`](crate::manifest::both), [`reads`](crate::manifest::reads) or
/// [`writes`](crate::manifest::writes) of a node, with the composites it has, the newest first, or the
/// [`states`](crate::manifest::states) of a node of states, or a [`layout`](crate::manifest::layout). The static is a [`Manifest`](crate::manifest::Manifest); its bytes stand in the
/// sections `.note.kho` and `.liveupdate_versions` of the program, for `kho manifest`, `kho plan --against` and the
/// predecessor.
///
/// ```
/// use kho::compat::{Compat, CompatList};
///
/// const STATE: CompatList<'static> = CompatList::new(Compat::new("my-state", 1), &[]);
/// kho::manifest! {
///     /// What this program takes over and hands over.
///     pub static MANIFEST = [both("state", &[STATE])];
/// }
/// ```
///
/// A second manifest in the same program fails to link: the symbol `KHO_MANIFEST` is there twice. The macro allows the
/// lint `unsafe_code` for the attributes that place it (nothing is executed); in a crate that *forbids* it, put the
/// manifest into another one.
#[macro_export]
macro_rules! manifest {
    ($(#[$meta:meta])* $vis:vis static $name:ident = [$($entry:expr),* $(,)?];) => {
        $(#[$meta])*
        $vis static $name: $crate::manifest::Manifest = {
            #[allow(unused_imports, reason = "no manifest needs all of them")]
            use $crate::manifest::{both, layout, reads, states, writes};
            const ENTRIES: &[$crate::manifest::Entry] = &[$($entry),*];

            #[used]
            #[allow(unsafe_code)]
            #[unsafe(link_section = ".note.kho")]
            #[unsafe(no_mangle)]
            static KHO_MANIFEST: $crate::manifest::Bytes<{ $crate::manifest::note_size(ENTRIES) }> =
                $crate::manifest::note(ENTRIES);

            #[used]
            #[allow(unsafe_code)]
            #[unsafe(link_section = ".liveupdate_versions")]
            static VERSIONS: $crate::manifest::Bytes<{ $crate::manifest::versions_size(ENTRIES) }> =
                $crate::manifest::versions(ENTRIES);

            $crate::manifest::Manifest::new(ENTRIES, KHO_MANIFEST.as_slice(), VERSIONS.as_slice())
        };
    };
}
