//! What two sides say before one of them leaves, and what comes of it.
//!
//! Both sides speak of the same things in the same way: nodes, each with the composites that are read (or can be
//! written) there, and layouts that nodes use, each with its range of versions. [`negotiate`] holds an offer against
//! what is accepted: for each node the newest version that both know, in the newest version of each layout that both
//! know, or every reason why there is none.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{Compat, CompatList, CompatVec, MadeOf, Quoted, Reads, Short};
use crate::abi;
use crate::num::index_of;
use crate::report::{Code, Fault};
use crate::state::{self, Description};

/// What a side reads or writes in one place: a node, or a layout that nodes use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Unchecked"))]
pub struct Term {
    /// The node; empty for a layout.
    node: String,
    /// The composite in its newest version, `my-cache-v2;vmalloc-v1`.
    made_of: String,
    /// The oldest version of its owner.
    oldest: u32,
    /// Whether the handover must not be made without it.
    required: bool,
    /// The states that the node has, of one that has states.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    states: Vec<Description>,
}

/// A term as somebody wrote it.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct Unchecked {
    #[serde(default)]
    node: String,
    made_of: String,
    oldest: Option<u32>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    states: Vec<Description>,
}

#[cfg(feature = "serde")]
impl TryFrom<Unchecked> for Term {
    type Error = Fault;

    fn try_from(said: Unchecked) -> Result<Self, Fault> {
        let newest = Term::parse(&said.node, &said.made_of, 0, said.required)?;
        let only = newest.versions().map_or(0, |versions| versions.newest().version());
        let term = Term::parse(&said.node, &said.made_of, said.oldest.unwrap_or(only), said.required)?;
        Ok(term.with_states(said.states))
    }
}

/// Whether a node of a handover can have that name.
pub(crate) const fn is_node_name(name: &[u8]) -> bool {
    let [b'a'..=b'z' | b'A'..=b'Z', rest @ ..] = name else { return false };
    let mut rest = rest;
    while let [byte, more @ ..] = rest {
        if !matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b',' | b'.' | b'_' | b'+' | b'-') {
            return false;
        }
        rest = more;
    }
    name.len() <= 31
}

impl Term {
    /// What is read or written as the node `node`; `required` when the handover must not be made without it.
    #[must_use]
    pub fn node(node: &str, made_of: MadeOf<'_>, required: bool) -> Self {
        let made_of = MadeOf { oldest: made_of.owner().oldest(), ..made_of };
        Term {
            node: node.to_owned(),
            made_of: made_of.newest.to_string(),
            oldest: made_of.oldest,
            required,
            states: Vec::new(),
        }
    }

    /// The versions of a layout that nodes use.
    #[must_use]
    pub fn layout(versions: Reads<'_>) -> Self {
        Term {
            node: String::new(),
            made_of: versions.newest().to_string(),
            oldest: versions.oldest(),
            required: false,
            states: Vec::new(),
        }
    }

    /// As [`Term::node`], of a composite that somebody else wrote; a layout when `node` is empty.
    ///
    /// # Errors
    /// As [`CompatVec::parse_text`]; [`Code::TooLarge`] when `oldest` is newer than the composite;
    /// [`Code::ComponentUnlisted`] for a layout that uses something; [`Code::Text`] for a name that no node of a handover
    /// can have.
    pub fn parse(node: &str, made_of: &str, oldest: u32, required: bool) -> Result<Self, Fault> {
        // The name is told as it is.
        if !node.is_empty() && !is_node_name(node.as_bytes()) {
            let fault = Fault::new(Code::Text).item("node").found(Quoted(node.as_bytes()));
            return Err(fault.expected("a letter, then letters, digits and ,._+-, at most 31"));
        }
        let list = CompatVec::parse_text(made_of).map_err(|fault| fault.item("made_of"))?;
        let newest = list.list().owner();
        if node.is_empty() && !list.list().uses().is_empty() {
            let fault = Fault::new(Code::ComponentUnlisted).item("made_of").found(Quoted(made_of.as_bytes()));
            return Err(fault.expected(format_args!("the layout {} alone", Short(newest))));
        }
        if oldest > newest.version {
            let fault = Fault::new(Code::TooLarge).item("oldest").found(oldest);
            return Err(fault.expected(format_args!("at most {}, the version of {}", newest.version, Short(newest))));
        }
        Ok(Term { node: node.to_owned(), made_of: made_of.to_owned(), oldest, required, states: Vec::new() })
    }

    /// The node; empty for a layout.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.node
    }

    /// The composite in its newest version, `my-cache-v2;vmalloc-v1`.
    #[must_use]
    pub fn made_of(&self) -> &str {
        &self.made_of
    }

    /// The oldest version of the owner.
    #[must_use]
    pub const fn oldest(&self) -> u32 {
        self.oldest
    }

    /// Whether the handover must not be made without it.
    #[must_use]
    pub const fn is_required(&self) -> bool {
        self.required
    }

    /// The same, of a node that has these states.
    #[must_use]
    pub fn with_states(mut self, mut states: Vec<Description>) -> Self {
        states.sort_by_key(|state| state.id);
        states.dedup();
        self.states = states;
        self
    }

    /// The states that the node has, by id.
    #[must_use]
    pub fn states(&self) -> &[Description] {
        &self.states
    }

    /// Whether these are states.
    pub(crate) fn has_states(&self) -> bool {
        self.versions().is_some_and(|versions| versions.newest().name() == abi::state::COMPAT.name())
    }

    /// The composite. A value of this type always has one.
    pub(crate) fn list(&self) -> Option<CompatVec<'_>> {
        CompatVec::parse_text(&self.made_of).ok()
    }

    /// The versions of the owner. A value of this type always has them.
    pub(crate) fn versions(&self) -> Option<Reads<'_>> {
        let owner = self.made_of.split(';').next()?;
        Some(Reads::since(self.oldest, Compat::parse(owner).ok()?))
    }
}

/// All that a side reads, or all that it can write. As JSON, a list of [`Term`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "Vec<Term>"))]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(from = "Vec<Term>", into = "Vec<Term>")
)]
pub struct Terms {
    nodes: BTreeMap<String, Vec<Term>>,
    layouts: Vec<Term>,
}

impl Terms {
    /// So many terms of one node, or of layouts, are read of somebody else.
    pub const MOST: u32 = 64;

    /// Adds a term. Several of one node are several that are taken there.
    pub fn add(&mut self, term: Term) {
        if term.node.is_empty() {
            self.layouts.push(term);
        } else {
            self.nodes.entry(term.node.clone()).or_default().push(term);
        }
    }

    /// Those of nodes, by name, then those of layouts.
    pub fn iter(&self) -> impl Iterator<Item = &Term> {
        self.nodes.values().flatten().chain(&self.layouts)
    }

    /// The names of the nodes, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Whether the handover must not be made without that node.
    #[must_use]
    pub fn requires(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|terms| terms.iter().any(|term| term.required))
    }

    /// Those of one node, in the order in which they were added; of layouts when the name is empty.
    pub(crate) fn of<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Term> + use<'a> {
        let layouts = self.layouts.as_slice();
        let terms = if node.is_empty() { Some(layouts) } else { self.nodes.get(node).map(Vec::as_slice) };
        terms.into_iter().flatten()
    }

    /// The composites of that node, in the order in which they were added.
    pub(crate) fn lists(&self, node: &str) -> Vec<(CompatVec<'_>, u32)> {
        let terms = self.of(node).filter(|term| !term.node.is_empty());
        terms.filter_map(|term| Some((term.list()?, term.oldest))).collect()
    }

    /// The states that the node is read or written with; none for a node that has no states.
    #[must_use]
    pub fn states(&self, node: &str) -> Option<&[Description]> {
        self.of(node).find(|term| term.has_states()).map(Term::states)
    }

    /// Adds a state to a node of states that is known already.
    ///
    /// # Errors
    /// [`Code::StateId`] when there is no such node, or it has a state of that id.
    pub(crate) fn add_state(&mut self, node: &str, state: Description) -> Result<(), Fault> {
        let terms = self.nodes.get_mut(node).map(Vec::as_mut_slice).unwrap_or_default();
        let fault = || Fault::new(Code::StateId).item(node.to_owned()).found(state.summary());
        let Some(term) = terms.iter_mut().find(|term| term.has_states()) else {
            return Err(fault().expected("a state of a node that has states"));
        };
        match term.states.binary_search_by_key(&state.id, |known| known.id) {
            Ok(_) => Err(fault().expected("an id of its own for each state")),
            Err(place) => {
                term.states.insert(place, state);
                Ok(())
            }
        }
    }

    /// Whether these are few enough to be held against others, each against each, whoever made them.
    ///
    /// # Errors
    /// [`Code::TooLarge`] for more than [`Terms::MOST`] of one node, or of layouts.
    pub(crate) fn few(&self) -> Result<(), Fault> {
        let all = self.nodes.iter().map(|(name, terms)| (name.as_str(), terms)).chain([("layouts", &self.layouts)]);
        for (name, terms) in all {
            if terms.len() > index_of(Self::MOST) {
                let fault = Fault::new(Code::TooLarge).item(name.to_owned()).found(terms.len());
                return Err(fault.expected(format_args!("at most {} ranges of versions", Self::MOST)));
            }
        }
        Ok(())
    }

    /// The versions of layouts.
    #[must_use]
    pub fn layouts(&self) -> Vec<Reads<'_>> {
        self.layouts.iter().filter_map(Term::versions).collect()
    }
}

impl From<Vec<Term>> for Terms {
    fn from(terms: Vec<Term>) -> Self {
        Terms::from_iter(terms)
    }
}

impl From<Terms> for Vec<Term> {
    fn from(terms: Terms) -> Self {
        terms.iter().cloned().collect()
    }
}

impl Extend<Term> for Terms {
    fn extend<I: IntoIterator<Item = Term>>(&mut self, terms: I) {
        terms.into_iter().for_each(|term| self.add(term));
    }
}

impl FromIterator<Term> for Terms {
    fn from_iter<I: IntoIterator<Item = Term>>(terms: I) -> Self {
        let mut all = Terms::default();
        all.extend(terms);
        all
    }
}

/// What becomes of one node that is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is written so: `my-cache-v1;vmalloc-v1`.
    Write(String),
    /// It is optional on both sides and is left out, for these reasons.
    Drop(Vec<Fault>),
    /// The handover must not be made, for these reasons.
    Refuse(Vec<Fault>),
}

/// A node, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Its name.
    pub node: String,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What two sides agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Of each layout that both know the newest version that both know.
    pub layouts: Vec<String>,
    /// Every node that is offered or required, by name. Of one that is required and not offered the reason is
    /// [`Code::ComponentMissing`].
    pub nodes: Vec<Agreed>,
}

impl Agreement {
    /// Whether the handover must not be made.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.nodes.iter().any(|agreed| matches!(agreed.outcome, Outcome::Refuse(_)))
    }
}

/// Holds what one side can write against what the other one reads.
///
/// The same for the same input; and the versions agreed on are the same whichever side offers, if each side knows the
/// layouts that its own composites use.
///
/// ```
/// use kho::compat::{Compat, CompatList, MadeOf, Outcome, Term, Terms, negotiate};
///
/// const NEW: CompatList<'static> = CompatList::new(Compat::new("my-state", 3), &[]);
/// let writes = Terms::from_iter([Term::node("state", MadeOf { newest: NEW, oldest: 1 }, true)]);
/// let reads = Terms::from_iter([Term::parse("state", "my-state-v2", 2, true)?]);
/// let agreement = negotiate(&writes, &reads);
/// assert_eq!(agreement.nodes[0].outcome, Outcome::Write("my-state-v2".into()));
/// # Ok::<(), kho::report::Fault>(())
/// ```
#[must_use]
pub fn negotiate(offer: &Terms, accept: &Terms) -> Agreement {
    let reads = accept.layouts();
    let layouts = agree(&offer.layouts(), &reads);
    let mut nodes: BTreeMap<&str, Outcome> = BTreeMap::new();
    for node in offer.names() {
        let (offers, takes) = (offer.lists(node), accept.lists(node));
        let offers: Vec<_> = offers.iter().map(made_of).collect();
        let takes: Vec<_> = takes.iter().map(made_of).collect();
        let outcome = match settle(&offers, &takes, &Layouts { agreed: &layouts, reads: &reads }) {
            Ok(made_of) => match (offer.states(node), accept.states(node)) {
                (Some(writes), Some(reads)) => match state::negotiate(writes, reads) {
                    why if state::refuses(&why) => Outcome::Refuse(why),
                    _ => Outcome::Write(made_of.list().to_string()),
                },
                _ => Outcome::Write(made_of.list().to_string()),
            },
            Err(why) if offer.requires(node) || accept.requires(node) => Outcome::Refuse(why),
            Err(why) => Outcome::Drop(why),
        };
        nodes.insert(node, outcome);
    }
    for node in accept.names().filter(|node| accept.requires(node)) {
        let lists = accept.lists(node);
        let why = lists.first().map(|(list, _)| missing(list.list().owner()));
        nodes.entry(node).or_insert_with(|| Outcome::Refuse(Vec::from_iter(why)));
    }
    Agreement {
        layouts: layouts.iter().map(|layout| layout.to_string()).collect(),
        nodes: nodes.into_iter().map(|(node, outcome)| Agreed { node: node.to_owned(), outcome }).collect(),
    }
}

/// A node that the successor needs, and that is not there.
pub(crate) fn missing(expected: Compat<'_>) -> Fault {
    Fault::new(Code::ComponentMissing).expected(Short(expected))
}

pub(crate) fn made_of<'a>((list, oldest): &'a (CompatVec<'_>, u32)) -> MadeOf<'a> {
    MadeOf { newest: list.list(), oldest: *oldest }
}

/// Of each layout that both sides know the newest version that both know.
pub(crate) fn agree<'a>(writes: &[Reads<'a>], reads: &[Reads<'_>]) -> Vec<Compat<'a>> {
    let mut agreed: Vec<Compat<'a>> = Vec::new();
    for one in writes {
        let others = reads.iter().filter(|other| other.newest().name() == one.newest().name());
        let Some(version) = others.filter_map(|other| common(one, other)).max() else { continue };
        match agreed.iter_mut().find(|layout| layout.name() == one.newest().name()) {
            Some(layout) if layout.version() >= version => {}
            Some(layout) => *layout = one.newest().in_version(version),
            None => agreed.push(one.newest().in_version(version)),
        }
    }
    agreed
}

/// The newest version in both ranges.
fn common(one: &Reads<'_>, other: &Reads<'_>) -> Option<u32> {
    let newest = one.newest().version().min(other.newest().version());
    (newest >= one.oldest().max(other.oldest())).then_some(newest)
}

/// The layouts between two sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layouts<'a> {
    /// What the writer uses, where the reader names the layout.
    pub(crate) agreed: &'a [Compat<'a>],
    /// What the reader takes.
    pub(crate) reads: &'a [Reads<'a>],
}

/// The newest version of a node that both sides know, with every layout that it uses; or why there is none.
pub(crate) fn settle<'a>(
    offers: &[MadeOf<'a>],
    takes: &[MadeOf<'_>],
    layouts: &Layouts<'_>,
) -> Result<CompatVec<'a>, Vec<Fault>> {
    let mut best: Option<(u32, CompatVec<'a>)> = None;
    for offer in offers {
        for take in takes.iter().filter(|take| take.owner().newest().name() == offer.owner().newest().name()) {
            let Some(version) = common(&offer.owner(), &take.owner()) else { continue };
            if best.as_ref().is_some_and(|(newest, _)| *newest >= version) {
                continue;
            }
            let made_of = offer.newest.written_in(version, layouts.agreed);
            if made_of.list().refused(&[*take], layouts.reads).is_empty() {
                best = Some((version, made_of));
            }
        }
    }
    if let Some((_, made_of)) = best {
        return Ok(made_of);
    }
    let newest = offers.iter().max_by_key(|offer| offer.newest.owner().version);
    let why = newest.map(|newest| {
        let made_of = newest.newest.written_in(newest.newest.owner().version, layouts.agreed);
        made_of.list().refused(takes, layouts.reads).into_iter().map(Fault::from).collect()
    });
    Err(why.unwrap_or_default())
}

impl<'a> CompatList<'a> {
    /// The same composite in another version of its owner, and in these versions of the layouts that it uses.
    pub(crate) fn written_in(self, version: u32, layouts: &[Compat<'_>]) -> CompatVec<'a> {
        let uses = self.uses().iter().map(|entry| {
            let agreed = layouts.iter().find(|layout| layout.name() == entry.name());
            agreed.map_or(*entry, |layout| entry.in_version(layout.version()))
        });
        CompatVec::of(self.owner().in_version(version), uses.collect())
    }
}

#[cfg(test)]
#[path = "terms_tests.rs"]
mod tests;
