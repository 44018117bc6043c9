//! What becomes of a handover in a program that says what it reads.

use super::carried::{Carried, Given};
use super::consequence::Consequence;
use super::plan::{Answer, Line, Plan, Verdict, broken, line};
use super::profile::By;
use crate::compat::{Compat, CompatVec, Outcome, Reads, Terms, made_of, negotiate};
use crate::handover::{self, Forecast, GivenNode};
use crate::manifest::Found;
use crate::report::{Code, Fault};

/// The words are those that the program itself would use: see [`Forecast`].
pub(super) fn plan(carried: &Carried, program: &Found, required: &[&str]) -> Plan {
    let reads = &program.reads;
    let mut lines: Vec<Line> =
        broken(carried).into_iter().map(|line| said(line, Verdict::Refused, Consequence::SuccessorRefuses)).collect();
    let mut notes = Vec::new();
    match &carried.given {
        Given::Nodes(root, nodes) => {
            let root: Vec<u8> = root.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
            let texts: Vec<String> = nodes.iter().map(|node| node.compatible.join(";")).collect();
            let lists: Vec<Option<CompatVec<'_>>> = texts.iter().map(|text| CompatVec::parse_text(text).ok()).collect();
            let given = nodes.iter().zip(&lists).map(|(node, list)| GivenNode {
                name: &node.name,
                list: list.as_ref().map(CompatVec::list),
                optional: node.optional,
                states: node.states.clone(),
            });
            let forecast = Forecast::new(reads, &root, given);
            // The root first, then these nodes, then what is missing.
            let given = core::iter::once(None).chain(nodes.iter().map(Some)).chain(core::iter::repeat(None));
            for (told, node) in forecast.nodes.iter().zip(given) {
                let verdict = match told.verdict {
                    handover::Verdict::Fine => Verdict::Fine,
                    handover::Verdict::Dropped => Verdict::Dropped,
                    handover::Verdict::Opaque => Verdict::Untold,
                    handover::Verdict::Refused => Verdict::Refused,
                };
                let of_blob = node.and_then(|node| node.read_as.as_deref());
                lines.push(
                    match of_blob.filter(|_| verdict == Verdict::Untold).and_then(|text| Compat::parse(text).ok()) {
                        Some(found) => of_blob_of(reads, &told.node, found),
                        None => of_node(reads, &told.node, &told.compatible.join(", "), verdict, &told.why, false),
                    },
                );
            }
        }
        Given::Terms(writes) => {
            let root: Vec<u8> = ["kho", "radix"].iter().flat_map(|name| newest_of(writes, name)).collect();
            let forecast = Forecast::new(reads, &root, core::iter::empty());
            lines.extend(forecast.nodes.first().map(|told| {
                let verdict = if told.why.is_empty() { Verdict::Fine } else { Verdict::Refused };
                of_node(reads, &told.node, &told.compatible.join(", "), verdict, &told.why, false)
            }));
            notes.push("versions are those that would be written for this successor".into());
            for agreed in negotiate(writes, reads).nodes {
                let newest = writes.iter().find(|term| term.name() == agreed.node).map_or("", |term| term.made_of());
                let (verdict, component, why) = match agreed.outcome {
                    Outcome::Write(made_of) => (Verdict::Fine, made_of, Vec::new()),
                    Outcome::Drop(why) => (Verdict::Dropped, newest.into(), why),
                    Outcome::Refuse(why) => (Verdict::Refused, newest.into(), why),
                };
                let node = format!("/{}", agreed.node);
                lines.push(of_node(reads, &node, &component.replace(';', ", "), verdict, &why, true));
            }
        }
    }
    lines.iter_mut().for_each(|line| line.require(required));
    Plan { answer: Answer::of(&lines), lines, not_reached: 0, notes }
}

/// What says itself what it is, as everything that Linux writes.
fn of_blob_of(reads: &Terms, path: &str, found: Compat<'_>) -> Line {
    let lists = reads.lists(path.trim_start_matches('/'));
    let ranges: Vec<Reads<'_>> = lists.iter().map(|list| made_of(list).owner()).collect();
    match found.judge(&ranges) {
        Ok(()) => of_node(reads, path, &found.to_string(), Verdict::Fine, &[], false),
        Err(difference) => of_node(reads, path, &found.to_string(), Verdict::Refused, &[difference.into()], false),
    }
}

/// `is_best`: no other version can be written.
fn of_node(reads: &Terms, path: &str, component: &str, verdict: Verdict, why: &[Fault], is_best: bool) -> Line {
    let name = path.trim_start_matches('/');
    let of_root = |owner: &str| matches!(owner, "kho" | "radix");
    let ranges = reads.of(name).filter_map(|term| {
        let versions = term.versions()?;
        (!name.is_empty() || of_root(versions.newest().name())).then(|| versions.to_string())
    });
    let consequence = match verdict {
        Verdict::Fine => Consequence::None,
        Verdict::Dropped => Consequence::LeftBehind,
        Verdict::Refused => Consequence::SuccessorRefuses,
        Verdict::Untold => Consequence::Unforeseen,
    };
    let texts: Vec<String> = why.iter().map(ToString::to_string).collect();
    let mut told = line(path, component, verdict, why.first(), consequence);
    if told.code == Some(Code::ComponentMissing) {
        told.advice = "hand it over, or choose a program that does without";
    } else if verdict == Verdict::Refused && is_best {
        told.advice = "choose a program that reads a version that this one writes";
    }
    Line { reads: ranges.collect(), by: Some(By::Manifest), why: texts.join("; "), ..told }
}

/// The newest version of a layout, and a zero.
fn newest_of(writes: &Terms, name: &str) -> Vec<u8> {
    let versions = writes.layouts().into_iter().filter(|versions| versions.newest().name() == name);
    let newest = versions.map(|versions| versions.newest()).max_by_key(|compat| compat.version());
    newest.map_or_else(Vec::new, |newest| format!("{newest}\0").into_bytes())
}

fn said(line: Line, verdict: Verdict, consequence: Consequence) -> Line {
    Line { verdict, consequence, then: consequence.then(), advice: consequence.advice(), ..line }
}
