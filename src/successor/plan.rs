//! The verdict: what becomes of each component in the next kernel.

use core::fmt;
use std::collections::BTreeMap;

use serde::Serialize;

use super::carried::{Carried, Item, Role};
use super::consequence::Consequence;
use super::profile::{By, Profile};
use crate::compat::{Compat, Difference};
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// What becomes of one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The successor reads it.
    Fine,
    /// The successor goes on without it.
    Dropped,
    /// The handover must not be made.
    Refused,
    /// Nothing says whether the successor reads it.
    Untold,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Fine => "fine",
            Verdict::Dropped => "will be dropped",
            Verdict::Refused => "refused",
            Verdict::Untold => "cannot be told",
        })
    }
}

/// Whether to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing is refused, and all could be told.
    Go,
    /// Something is refused.
    Refused,
    /// Nothing is refused, but something could not be told.
    CannotTell,
}

impl Answer {
    pub(super) fn of(lines: &[Line]) -> Answer {
        let has = |verdict| lines.iter().any(|line: &Line| line.verdict == verdict);
        if has(Verdict::Refused) {
            Answer::Refused
        } else if has(Verdict::Untold) || lines.is_empty() {
            Answer::CannotTell
        } else {
            Answer::Go
        }
    }
}

/// One component of the handover, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Line {
    /// Path of the node: `/` or `/NAME`.
    pub node: String,
    /// What the handover has: `memfd-v2`; empty where that could not be read.
    pub component: String,
    /// How many files of it there are, for sessions and handlers of files; how often it was found, for what is broken.
    pub count: u64,
    /// What the successor reads of that name.
    pub reads: Vec<String>,
    /// Who says so.
    pub by: Option<By>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why, if it is not fine.
    pub code: Option<Code>,
    /// Why, for people.
    pub why: String,
    /// What happens in the next kernel.
    pub consequence: Consequence,
    /// The same, for people.
    pub then: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

/// What would become of a handover in a successor.
///
/// ```
/// use kho::inspect::{self, Options};
/// use kho::successor::{Answer, Carried, Consequence, Plan, Profile, Statement};
///
/// let frozen = inspect::open("tests/data/linux-7.2-x86_64/frozen.core", &Options::default())?;
/// // As an operator has pinned it, or of an image: Profile::of_image("bzImage")?
/// let mut next = Profile::default();
/// for component in ["kho-v4", "luo-v6", "memfd-v2", "memblock-v1", "kho-test-v1", "kexec-metadata-v1"] {
///     next.understands.push(Statement::pinned(component));
/// }
/// let plan = Plan::new(&Carried::from(&frozen), &next, &[]);
/// assert_eq!(plan.answer, Answer::Refused);
/// let luo = plan.lines.iter().find(|line| line.node == "/LUO").unwrap();
/// assert_eq!((luo.component.as_str(), luo.consequence), ("luo-v5", Consequence::Panic));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Plan {
    /// Whether to go.
    pub answer: Answer,
    /// Each component, in the order in which a kernel comes to them.
    pub lines: Vec<Line>,
    /// Components that a kernel never comes to, because it refuses the root, or is one of another architecture.
    pub not_reached: u64,
    /// What could not be known, for people.
    pub notes: Vec<String>,
}

impl Plan {
    /// Holds what is carried against what the successor says that it reads. What would be dropped is refused when its
    /// node or its component is in `required`: `memblock`.
    #[must_use]
    pub fn new(carried: &Carried, successor: &Profile, required: &[&str]) -> Plan {
        if let Some(program) = &successor.program {
            return super::program::plan(carried, program, required);
        }
        let mut successor = successor.clone();
        super::scan::imply(&mut successor);
        let successor = &successor;
        let mut lines = broken(carried);
        // What another architecture handed over, a kernel does not come to.
        let foreign = machine(carried, successor);
        let items = if foreign.is_some() { &[] } else { carried.items.as_slice() };
        let mut not_reached = if foreign.is_some() { carried.len() } else { 0 };
        lines.extend(foreign);
        lines.extend(page_size(carried, successor));
        for (number, item) in (1_u64..).zip(items) {
            let mut line = Judge { item, successor }.line();
            line.require(required);
            let lost = line.verdict == Verdict::Refused && item.role == Role::Root;
            lines.push(line);
            if lost {
                not_reached = carried.len().saturating_sub(number);
                break;
            }
        }
        let answer = Answer::of(&lines);
        let mut notes = Vec::new();
        if successor.is_heuristic() {
            notes.push(format!("heuristic: {}", Profile::CANNOT_KNOW));
        }
        if successor.is_exported() {
            notes.push(format!("running: {}", Profile::EXPORTS_NOT));
        }
        match (carried.page_size, successor.page_size) {
            (_, None) => notes.push("page size: the successor does not say its own, which must be the same".into()),
            (None, _) => notes.push("page size: that of the handover is not known, and must be the same".into()),
            _ => {}
        }
        match (carried.machine, successor.machine) {
            (_, None) => {
                notes.push("machine: the successor does not say its architecture, which must be the same".into())
            }
            (None, _) => notes.push("machine: that of the handover is not known, and must be the same".into()),
            _ => {}
        }
        if carried.items.iter().any(|item| item.role == Role::Luo && item.count == 0) {
            notes.push(
                "sessions: a machine that runs shows no session, for Linux writes them when it freezes: which handlers \
                 their files need is not among this"
                    .into(),
            );
        }
        Plan { answer, lines, not_reached, notes }
    }
}

impl Line {
    /// Whether it is of the node or the component of that name: `memblock`, `memblock-v1`.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        let owner = self.component.split(", ").next().unwrap_or("");
        let component = Compat::parse(owner).map_or("", |found| found.name());
        [self.node.trim_start_matches('/'), component, owner, &self.component].contains(&name)
    }

    /// What would be dropped is refused, if it is one of these names.
    pub(super) fn require(&mut self, required: &[&str]) {
        if self.verdict == Verdict::Dropped && required.iter().any(|name| self.is_named(name)) {
            self.verdict = Verdict::Refused;
            self.why.push_str("; and it is required");
            self.advice = "choose a successor that reads it, or do without";
        }
    }
}

pub(super) fn line(
    node: &str,
    component: &str,
    verdict: Verdict,
    fault: Option<&Fault>,
    consequence: Consequence,
) -> Line {
    Line {
        node: node.into(),
        component: component.into(),
        count: 1,
        reads: Vec::new(),
        by: None,
        verdict,
        code: fault.map(Fault::code),
        why: fault.map(ToString::to_string).unwrap_or_default(),
        consequence,
        then: consequence.then(),
        advice: consequence.advice(),
    }
}

/// What is wrong with the handover itself: once for each node and code, with how often.
pub(super) fn broken(carried: &Carried) -> Vec<Line> {
    let mut seen = BTreeMap::new();
    let mut lines: Vec<Line> = Vec::new();
    for (code, node, item, text) in &carried.broken {
        let consequence = Consequence::of_broken(*code, node, item);
        let next = lines.len();
        let number = *seen.entry((code, node, consequence)).or_insert(next);
        match lines.get_mut(number) {
            Some(line) => line.count = line.count.saturating_add(1),
            None => lines.push(Line {
                code: Some(*code),
                why: text.clone(),
                ..line(node, "", Verdict::Refused, None, consequence)
            }),
        }
    }
    lines
}

fn page_size(carried: &Carried, successor: &Profile) -> Option<Line> {
    let (found, expected) = carried.page_size.zip(successor.page_size)?;
    let fault = Fault::new(Code::PageSize).found(found).expected(expected);
    let line = line("/", "", Verdict::Refused, Some(&fault), Consequence::Misread);
    (found != expected).then_some(Line { by: successor.page_size_by, ..line })
}

fn machine(carried: &Carried, successor: &Profile) -> Option<Line> {
    let (found, expected) = carried.machine.zip(successor.machine)?;
    let fault = Fault::new(Code::Machine).found(found).expected(expected);
    let line = line("/", "", Verdict::Refused, Some(&fault), Consequence::Misread);
    (found != expected).then_some(Line { by: successor.machine_by, ..line })
}

/// So many versions are shown of one component: each line has them, and who makes an image chooses how many there are.
const READS: usize = 64;

struct Judge<'a> {
    item: &'a Item,
    successor: &'a Profile,
}

impl<'a> Judge<'a> {
    fn line(&self) -> Line {
        let item = self.item;
        let base = Line {
            count: item.count,
            ..line(&item.node, &item.components.join(", "), Verdict::Fine, None, Consequence::None)
        };
        let Some((found, judged)) = self.judged() else {
            return self.unread(base);
        };
        let (reads, by) = self.reads(found);
        let base = Line { reads, by, ..base };
        if let Some(fault) = self.built_without() {
            return self.not_fine(base, &fault, true);
        }
        match judged {
            Ok(by) => Line { by: Some(by), ..base },
            Err(None) => self.silent(base),
            Err(Some(fault)) => self.not_fine(base, &fault, false),
        }
    }

    /// One entry that is read, or why the newest is not; none where nobody knows what it is.
    fn judged(&self) -> Option<(&'a str, Result<By, Option<Fault>>)> {
        let mut refused = None;
        for found in &self.item.components {
            match self.judge(found) {
                Ok(by) => return Some((found, Ok(by))),
                Err(fault) => refused = Some((found.as_str(), Err(fault))),
            }
        }
        refused
    }

    fn judge(&self, found: &'a str) -> Result<By, Option<Fault>> {
        // Kernels compare strings; a range is a statement about numbers.
        let exact = self.successor.understands.iter().find(|statement| statement.component == found);
        if let Some(statement) = exact {
            return Ok(statement.by);
        }
        let Ok(compat) = Compat::parse(found) else {
            return self.unknown(found, Fault::new(Code::ComponentUnknown).found(found.escape_debug()));
        };
        let mut ranges = Vec::new();
        for (reads, by) in self.successor.reads_of(compat.name()) {
            if reads.oldest() != reads.newest().version() && compat.judge(&[reads]).is_ok() {
                return Ok(by);
            }
            ranges.push(reads);
        }
        match compat.judge(&ranges) {
            // The same number in another spelling is another string.
            Ok(()) => Err(Some(Difference::Unknown { found: compat }.into())),
            Err(difference @ Difference::Unknown { .. }) => self.unknown(found, difference.into()),
            Err(difference) => Err(Some(difference.into())),
        }
    }

    /// A name of which the successor does not speak.
    fn unknown(&self, found: &str, fault: Fault) -> Result<By, Option<Fault>> {
        let told = self.item.role == Role::Handler && self.successor.handlers_complete;
        if self.successor.is_exported() && !told {
            return Err(None);
        }
        if self.item.role != Role::Handler || told {
            return Err(Some(fault));
        }
        if self.successor.strings.iter().any(|text| text == found) {
            return Ok(By::Strings);
        }
        // Handlers of files may come with modules, which are not in the image; that of memfd is built in.
        let is_memfd = found.starts_with("memfd-v") || found.starts_with("memfd_v");
        Err(if is_memfd || !self.successor.is_heuristic() { Some(fault) } else { None })
    }

    fn reads(&self, found: &'a str) -> (Vec<String>, Option<By>) {
        let Ok(compat) = Compat::parse(found) else { return (Vec::new(), None) };
        let reads: Vec<_> = self.successor.reads_of(compat.name()).take(READS).collect();
        let by = reads.first().map(|(_, by)| *by);
        (reads.iter().map(|(reads, _)| reads.to_string()).collect(), by)
    }

    /// A successor that was built without what looks at this at all.
    fn built_without(&self) -> Option<Fault> {
        let (name, option) = match self.item.role {
            Role::Root => ("kho", "CONFIG_KEXEC_HANDOVER"),
            Role::Luo => ("luo", "CONFIG_LIVEUPDATE"),
            _ => return None,
        };
        let fault = || Fault::new(Code::SuccessorWithout).item(option);
        if self.successor.built_in(option) == Some(false) {
            return Some(fault().found("not set"));
        }
        let none = !self.successor.is_exported() && self.successor.reads_of(name).next().is_none();
        none.then(|| fault().found(format_args!("no {name}-vNUMBER")))
    }

    fn not_fine(&self, base: Line, fault: &Fault, without: bool) -> Line {
        use Consequence::{
            AllMemoryLost, AllocatedAfresh, MetadataIgnored, Misread, NoLiveUpdate, Panic, SessionsUnreachable,
            StaysReserved,
        };
        let (verdict, consequence) = match self.item.role {
            Role::Root => (Verdict::Refused, AllMemoryLost),
            Role::RootPart => (Verdict::Refused, Misread),
            // Without files nobody misses it.
            Role::Luo if without && self.item.count == 0 => (Verdict::Dropped, NoLiveUpdate),
            Role::Luo if without => (Verdict::Refused, NoLiveUpdate),
            Role::Luo => (Verdict::Refused, Panic),
            Role::Handler => (Verdict::Refused, SessionsUnreachable),
            Role::Memblock => (Verdict::Dropped, AllocatedAfresh),
            Role::Metadata => (Verdict::Dropped, MetadataIgnored),
            Role::SelfTest | Role::Other => (Verdict::Dropped, StaysReserved),
        };
        let unknown = verdict == Verdict::Dropped && fault.code() == Code::ComponentUnknown;
        Line {
            verdict,
            code: Some(if unknown { Code::ComponentDropped } else { fault.code() }),
            why: if unknown {
                format!("{}: {}", Code::ComponentDropped, fault.found_text())
            } else {
                fault.to_string()
            },
            consequence,
            then: consequence.then(),
            advice: consequence.advice(),
            ..base
        }
    }

    fn silent(&self, base: Line) -> Line {
        let fault = Fault::new(Code::SuccessorSilent).found(base.component.escape_debug());
        if self.successor.is_exported() {
            let fault = fault.expected("a word of it in what the running kernel exports");
            return Line {
                count: base.count,
                advice: "name the image of that kernel instead, or pin a profile with what is known of it",
                ..line(&base.node, &base.component, Verdict::Untold, Some(&fault), Consequence::Unforeseen)
            };
        }
        let fault =
            fault.expected("a handler in the image, or in a module that is loaded before /dev/liveupdate is opened");
        Line {
            verdict: Verdict::Untold,
            code: Some(fault.code()),
            why: fault.to_string(),
            consequence: Consequence::SessionsUnreachable,
            then: "if no module brings its handler: the first open of /dev/liveupdate fails with EIO, and every one after it",
            advice: "pin a profile that names it, once it is known that the module is loaded early",
            ..base
        }
    }

    /// What it is could not be read.
    fn unread(&self, base: Line) -> Line {
        let by_name = self.item.role == Role::Other;
        let (verdict, consequence) = match self.item.role {
            // Linux looks at names of nodes, and passes those that it does not know.
            Role::Other => (Verdict::Dropped, Consequence::StaysReserved),
            Role::Root => (Verdict::Refused, Consequence::AllMemoryLost),
            _ => (Verdict::Untold, Consequence::Unforeseen),
        };
        let code = if by_name { Code::ComponentDropped } else { Code::CompatMissing };
        let code = if self.item.role == Role::Root || by_name { code } else { Code::SuccessorSilent };
        let fault = Fault::new(code).found("what it is could not be read");
        Line {
            verdict,
            code: Some(code),
            why: fault.to_string(),
            consequence,
            then: consequence.then(),
            advice: consequence.advice(),
            ..base
        }
    }
}

impl Plan {
    /// How many components have that verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> u64 {
        u64_of(self.lines.iter().filter(|line| line.verdict == verdict).count())
    }
}
