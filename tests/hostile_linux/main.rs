//! Every defect that LINUX-ABI knows of, done to a real frozen machine: each case is a change of one structure and the
//! whole diagnosis of it. Beside the diagnosis, all that is not broken must be shown as before.
//!
//! A new case is a line in one of the tables: its name, the change, the findings as `kho check` prints them, and how
//! many of the five files can still be shown.
#![cfg(all(feature = "std", feature = "serde"))]

mod arrays;
mod files;
mod lists;
mod machine;
mod root;
mod tree;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kho::inspect::{Content, Decoded, Options, SessionFile};
use machine::{Machine, options};

/// One way to be wrong.
struct Case {
    name: &'static str,
    change: fn(&mut Machine),
    /// Every error, and every warning but those of what nobody owns any more.
    told: &'static [&'static str],
    /// Files that are shown as before, of five.
    files: usize,
    /// Nodes that the change itself makes others, or takes from what can be known.
    changes: &'static [&'static str],
}

impl Case {
    const fn changing(self, changes: &'static [&'static str]) -> Self {
        Case { changes, ..self }
    }
}

const fn case(name: &'static str, files: usize, change: fn(&mut Machine), told: &'static [&'static str]) -> Case {
    Case { name, change, told, files, changes: &[] }
}

/// Debug builds on a busy machine are slow; what is endless or quadratic is slower.
const PATIENCE: Duration = Duration::from_secs(10);

fn sound(decoded: &Decoded) -> BTreeMap<&str, &kho::inspect::Node> {
    decoded.nodes.iter().map(|node| (node.name.as_str(), node)).collect()
}

fn shown_files(decoded: &Decoded) -> Vec<&SessionFile> {
    let sessions = decoded.nodes.iter().flat_map(|node| match &node.content {
        Some(Content::Luo { sessions, .. }) => sessions.as_slice(),
        _ => &[],
    });
    sessions.flat_map(|session| &session.files).filter(|file| file.memfd.is_some()).collect()
}

/// Does each case to the frozen machine; all that is not as expected, together.
fn holds(cases: &[Case]) {
    holds_with(cases, &options());
}

fn holds_with(cases: &[Case], options: &Options) {
    let good = Machine::frozen();
    let before = good.decode(options).unwrap();
    assert_eq!(shown_files(&before).len(), 5);
    let mut wrong = String::new();
    for case in cases {
        let mut machine = good.clone();
        (case.change)(&mut machine);
        let start = Instant::now();
        let after = machine.decode(options).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert!(start.elapsed() < PATIENCE, "{}: {:?}", case.name, start.elapsed());
        let told: Vec<&str> = after
            .findings
            .iter()
            .map(|f| f.text.as_str())
            // What a broken tree entails.
            .filter(|text| !text.starts_with("warning: /: unowned") && !text.starts_with("warning: /: stale"))
            .collect();
        if told != case.told {
            wrong += &format!(
                "{}: told\n    {}\n  and not\n    {}\n",
                case.name,
                told.join("\n    "),
                case.told.join("\n    ")
            );
        }
        let files = shown_files(&after).into_iter().filter(|file| shown_files(&before).contains(file)).count();
        if files != case.files {
            wrong += &format!("{}: {files} files are shown, and not {}\n", case.name, case.files);
        }
        assert_eq!(after.nodes.len().max(before.nodes.len()), after.nodes.len(), "{}: a node is not shown", case.name);
        // A node of which nothing was told is as it was.
        for (name, node) in sound(&before) {
            let path = format!("/{name}");
            let is_told = after.findings.iter().any(|finding| finding.node == path);
            let same =
                sound(&after).get(name).is_some_and(|now| now.content == node.content && now.verdict == node.verdict);
            if !is_told && !same && (after.preserved.is_some() || case.files == 5) && !case.changes.contains(&name) {
                wrong += &format!("{}: {name} is not shown as before\n", case.name);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
