//! What a successor would say, before anybody leaves.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use super::plan::Verdict;
use super::planner::{match_parts, match_root, stranger, unread};
use crate::abi::kho;
use crate::compat::{CompatList, MadeOf, Terms, made_of, missing};
use crate::report::{Code, Fault, Severity};
use crate::state::{Description, WrittenStates, refuses};

/// What becomes of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Foretold {
    /// Path of the node in the root FDT: `/` or `/NAME`.
    pub node: String,
    /// What it is made of.
    pub compatible: Vec<String>,
    /// What becomes of it; [`Verdict::Opaque`] when it does not say what it is.
    pub verdict: Verdict,
    /// Why, if it is not fine: the words of the successor's own [`Plan`](super::Plan).
    pub why: Vec<Fault>,
}

/// What a successor would say of versions: the same verdicts, codes and words as its [`Plan`](super::Plan), from what it
/// says that it reads, and before anything is left. Of what is in the data it says nothing: that is the plan's. Behind a
/// root that is refused the plan looks at nothing; here the nodes are told all the same.
///
/// Printed, it is what is not fine, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Forecast {
    /// The root first, then the nodes of the handover in their order, then those that the successor misses.
    pub nodes: Vec<Foretold>,
}

/// A node of a handover: its name, its list, and whether it may be left.
pub(crate) struct GivenNode<'a> {
    pub(crate) name: &'a str,
    pub(crate) list: Option<CompatList<'a>>,
    pub(crate) optional: bool,
    /// The states in it, of a node of states that could be read.
    pub(crate) states: Option<WrittenStates>,
}

impl Forecast {
    /// What a reader of these terms says to a root, whose `compatible` this is, and its nodes.
    pub(crate) fn new<'a>(reads: &Terms, root: &[u8], nodes: impl Iterator<Item = GivenNode<'a>>) -> Forecast {
        let layouts = reads.layouts();
        let texts = root.split(|&byte| byte == 0).filter(|text| !text.is_empty());
        let why = match_root(root, &layouts).and_then(|()| match_parts(root, &layouts)).err();
        let why = Vec::from_iter(why.map(|fault| fault.item(kho::COMPATIBLE)));
        let mut told = alloc::vec![Foretold {
            node: "/".into(),
            compatible: texts.map(|text| text.escape_ascii().to_string()).collect(),
            verdict: if why.is_empty() { Verdict::Fine } else { Verdict::Refused },
            why,
        }];
        let mut seen = BTreeSet::new();
        for node in nodes {
            seen.insert(node.name);
            let takes = reads.lists(node.name);
            let takes: Vec<MadeOf<'_>> = takes.iter().map(made_of).collect();
            let compatible = node.list.iter().flat_map(|list| list.iter()).map(|entry| entry.to_string());
            let compatible: Vec<String> = compatible.collect();
            let (verdict, why) = match node.list {
                _ if takes.is_empty() => {
                    let (verdict, fault) = stranger(&compatible, node.optional);
                    (verdict, named(alloc::vec![fault]))
                }
                None => (Verdict::Opaque, named(alloc::vec![Fault::new(Code::CompatMissing)])),
                Some(list) => {
                    let why: Vec<Fault> = list.refused(&takes, &layouts).into_iter().map(Fault::from).collect();
                    match why.is_empty() {
                        true => of_states(node.states.as_ref(), reads.states(node.name)),
                        false => {
                            let (verdict, why) = unread(why, node.optional && !reads.requires(node.name));
                            (verdict, named(why))
                        }
                    }
                }
            };
            told.push(Foretold { node: format!("/{}", node.name), compatible, verdict, why });
        }
        for name in reads.names().filter(|name| reads.requires(name) && !seen.contains(name)) {
            let lists = reads.lists(name);
            let Some((list, _)) = lists.first() else { continue };
            let why = alloc::vec![missing(list.list().owner())];
            let node = format!("/{name}");
            told.push(Foretold { node, compatible: Vec::new(), verdict: Verdict::Refused, why });
        }
        Forecast { nodes: told }
    }

    /// [`Verdict::Refused`] when anything is refused, [`Verdict::Opaque`] when anything cannot be told, else
    /// [`Verdict::Fine`].
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let has = |verdict| self.nodes.iter().any(|node| node.verdict == verdict);
        match (has(Verdict::Refused), has(Verdict::Opaque)) {
            (true, _) => Verdict::Refused,
            (false, true) => Verdict::Opaque,
            (false, false) => Verdict::Fine,
        }
    }
}

/// Faults of a node's list.
fn named(why: Vec<Fault>) -> Vec<Fault> {
    why.into_iter().map(|fault| fault.item(kho::COMPATIBLE)).collect()
}

/// What a reader of these states says of a node whose list it takes.
fn of_states(states: Option<&WrittenStates>, reads: Option<&[Description]>) -> (Verdict, Vec<Fault>) {
    let (Some(states), Some(reads)) = (states, reads) else { return (Verdict::Fine, Vec::new()) };
    let why = states.judge(reads);
    (if refuses(&why) { Verdict::Refused } else { Verdict::Fine }, why)
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.nodes.iter().flat_map(|told| told.why.iter().map(move |fault| (told, fault)));
        for (number, (told, fault)) in lines.enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            let severity = if told.verdict == Verdict::Refused { Severity::Error } else { Severity::Warning };
            write!(f, "{gap}{severity}: {}: {fault}", told.node)?;
        }
        Ok(())
    }
}
