//! What a handover carries, as a next kernel would look at it.

use std::collections::BTreeMap;

use super::profile::{By, Profile};
use super::scan::NO_HANDLERS;
use crate::abi::{self, kexec_metadata, kho, kho_test, luo, memblock};
use crate::compat::{Compat, Term, Terms};
use crate::inspect::{Content, Decoded, Node, Problem};
use crate::mem::Machine;
use crate::num::u64_of;
use crate::report::{Class, Code, Severity};
use crate::state::WrittenStates;

/// What a handover carries.
///
/// Of a handover that exists ([`Carried::from`] what `inspect` decoded) or that a kernel would write
/// ([`Carried::written_by`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub(super) items: Vec<Item>,
    /// The same as a program looks at it.
    pub(super) given: Given,
    /// Bytes of a page, where they are known.
    pub(super) page_size: Option<u64>,
    /// The architecture of the machine that wrote it, where that is known.
    pub(super) machine: Option<Machine>,
    /// What is wrong with it, other than versions: code, node, item, text.
    pub(super) broken: Vec<(Code, String, String, String)>,
}

/// What a program is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// A handover that exists: the strings of its root, and its nodes.
    Nodes(Vec<String>, Vec<GivenNode>),
    /// What a program can write, each in several versions.
    Terms(Terms),
}

/// A node of a handover that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenNode {
    pub(super) name: String,
    pub(super) compatible: Vec<String>,
    /// As what its blob was read, which may say what it is.
    pub(super) read_as: Option<String>,
    pub(super) optional: bool,
    /// The states in it.
    pub(super) states: Option<WrittenStates>,
}

impl Default for Given {
    fn default() -> Self {
        Given::Nodes(Vec::new(), Vec::new())
    }
}

/// What a component is to a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Root,
    /// What the root is made of; Linux does not look whether it is said.
    RootPart,
    Luo,
    Handler,
    Memblock,
    Metadata,
    SelfTest,
    Other,
}

impl Role {
    /// That of a node.
    fn of(node: &str) -> Role {
        match node {
            luo::NODE => Role::Luo,
            memblock::NODE => Role::Memblock,
            kexec_metadata::NODE => Role::Metadata,
            kho_test::NODE => Role::SelfTest,
            _ => Role::Other,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) node: String,
    pub(super) role: Role,
    /// What it says that it is; several of which one is enough, for a root. None where it could not be read.
    pub(super) components: Vec<String>,
    /// Files of a handler; files of all sessions.
    pub(super) count: u64,
    /// It is not said, but known.
    pub(super) implied: bool,
}

impl Carried {
    /// What the kernel of an image writes: the newest version of each component that it has.
    #[must_use]
    pub fn written_by(profile: &Profile) -> Carried {
        if let Some(program) = &profile.program {
            return Carried::written_by_program(&program.writes);
        }
        let mut newest = BTreeMap::new();
        for statement in &profile.understands {
            let Ok(reads) = statement.reads() else { continue };
            let entry = newest.entry(reads.newest().name()).or_insert((reads.newest().version(), statement));
            if entry.0 < reads.newest().version() {
                *entry = (reads.newest().version(), statement);
            }
        }
        let mut items = Vec::new();
        for (name, (_, statement)) in newest {
            let (role, node) = match name {
                "kho" => (Role::Root, "/"),
                "radix" | "vmalloc" | "block" => (Role::RootPart, "/"),
                "luo" => (Role::Luo, luo::NODE),
                "memblock" => (Role::Memblock, memblock::NODE),
                "kexec-metadata" => (Role::Metadata, kexec_metadata::NODE),
                "kho-test" => (Role::SelfTest, kho_test::NODE),
                handler if !NO_HANDLERS.contains(&handler) => (Role::Handler, luo::NODE),
                _ => (Role::Other, "/"),
            };
            let node = if node == "/" { "/".into() } else { format!("/{node}") };
            let count = u64::from(role == Role::Luo);
            let implied = statement.by == By::Implied;
            items.push(Item { node, role, components: vec![statement.component.clone()], count, implied });
        }
        items.sort_by_key(|item| item.role);
        let node = |item: &Item| GivenNode {
            name: item.node.trim_start_matches('/').into(),
            compatible: Vec::new(),
            read_as: item.components.first().cloned(),
            optional: false,
            states: None,
        };
        let of = |root: bool| items.iter().filter(move |item| (item.node == "/") == root && item.role != Role::Handler);
        let root = of(true).flat_map(|item| item.components.clone()).collect();
        let given = Given::Nodes(root, of(false).map(node).collect());
        Carried { items, given, page_size: profile.page_size, machine: profile.machine, broken: Vec::new() }
    }

    /// What a program writes for whom it knows nothing of: the newest version of each node.
    fn written_by_program(writes: &Terms) -> Carried {
        let list = |term: &Term| term.made_of().split(';').map(String::from).collect::<Vec<String>>();
        let mut carried = Carried::default();
        let layouts = writes.iter().filter(|term| term.name().is_empty());
        carried.root(&layouts.flat_map(list).collect::<Vec<String>>());
        for name in writes.names() {
            let newest = writes
                .iter()
                .filter(|term| term.name() == name)
                .max_by_key(|term| term.versions().map(|v| v.newest().version()));
            let components = newest.map(list).unwrap_or_default().into_iter().take(1).collect();
            let node = format!("/{name}");
            carried.items.push(Item { node, role: Role::of(name), components, count: 1, implied: false });
        }
        carried.given = Given::Terms(writes.clone());
        carried
    }

    /// Whether nothing is carried: not even a root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.items.iter().any(|item| item.role == Role::Root)
    }
}

impl From<&Decoded> for Carried {
    fn from(decoded: &Decoded) -> Carried {
        let page_size = decoded.page_size.as_ref().map(|page| page.bytes);
        let mut carried = Carried { page_size, machine: decoded.machine, ..Carried::default() };
        carried.root(&decoded.root.compatible);
        let node = |node: &Node| GivenNode {
            name: node.name.clone(),
            compatible: node.compatible.clone(),
            read_as: node.read_as.clone(),
            optional: node.optional,
            states: match &node.content {
                Some(Content::States(states)) => Some(states.written()),
                _ => None,
            },
        };
        carried.given = Given::Nodes(decoded.root.compatible.clone(), decoded.nodes.iter().map(node).collect());
        for node in &decoded.nodes {
            carried.node(node, &decoded.findings);
        }
        // A mismatch is for the successor to judge: it may well read what this library does not.
        let broken = decoded
            .findings
            .iter()
            .filter(|problem| problem.severity == Severity::Error && !matches!(problem.class, Class::Mismatch));
        let fields = |problem: &Problem| {
            let item = problem.item.clone().unwrap_or_default();
            (problem.code, problem.node.clone(), item, problem.text.clone())
        };
        carried.broken = broken.map(fields).collect();
        carried
    }
}

impl Carried {
    fn root(&mut self, list: &[String]) {
        let of = |text: &&String, name: &str| Compat::parse(text.as_str()).is_ok_and(|found| found.name() == name);
        let said = |name: &str| list.iter().filter(|text| of(text, name)).cloned().collect::<Vec<_>>();
        let item = |role, components, implied| Item { node: "/".into(), role, components, count: 1, implied };
        let versions = said(kho::COMPAT.name());
        let is_v4 = versions.iter().any(|text| *text == kho::COMPAT.to_string());
        self.items.push(item(Role::Root, versions, false));
        for part in [abi::radix::COMPAT, abi::vmalloc::COMPAT, abi::block::COMPAT] {
            match said(part.name()) {
                list if !list.is_empty() => self.items.push(item(Role::RootPart, list, false)),
                _ if is_v4 => self.items.push(item(Role::RootPart, vec![part.to_string()], true)),
                _ => {}
            }
        }
    }

    fn node(&mut self, node: &Node, findings: &[Problem]) {
        let path = format!("/{}", node.name);
        let role = Role::of(&node.name);
        // What could be read says what it is; of another version, the finding does.
        let of_finding = || {
            let of_node = findings.iter().filter(|problem| problem.node == path && problem.class == Class::Mismatch);
            let mut found = of_node.filter(|problem| problem.item.as_deref() == Some("compatible"));
            found.find(|problem| Compat::parse(&problem.found).is_ok()).map(|problem| problem.found.clone())
        };
        let component = match role {
            Role::Other => node.compatible.first().cloned().or_else(|| node.read_as.clone()),
            _ => node.read_as.clone().or_else(of_finding),
        };
        let mut handlers = BTreeMap::<&str, u64>::new();
        if let Some(Content::Luo { sessions, .. }) = &node.content {
            for file in sessions.iter().flat_map(|session| &session.files) {
                let count = handlers.entry(&file.compatible).or_default();
                *count = count.saturating_add(1);
            }
        }
        let count = if role == Role::Luo && component.is_some() && node.content.is_some() {
            handlers.values().fold(0_u64, |sum, count| sum.saturating_add(*count))
        } else {
            1
        };
        let components = Vec::from_iter(component);
        self.items.push(Item { node: path.clone(), role, components, count, implied: false });
        for (handler, count) in handlers {
            let components = vec![handler.into()];
            self.items.push(Item { node: path.clone(), role: Role::Handler, components, count, implied: false });
        }
    }

    /// How many items there are.
    pub(super) fn len(&self) -> u64 {
        u64_of(self.items.len())
    }
}
