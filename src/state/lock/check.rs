//! Whether the code still is what the lock says, and how the lock follows it.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use super::compare::differences;
use super::{Body, Lock, Section};
use crate::report::{Code, Fault};

/// Where code and lock disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where, what was found and what was expected: [`Code::StateLock`], and the path of a field as item.
    pub fault: Fault,
    /// What helps.
    pub remedy: Remedy,
}

/// What helps where code and lock disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// No blessing: another code. Why.
    Never(String),
    /// Another code, or a blessing, because nobody has this version yet. Which one.
    Draft(String),
    /// A blessing: the lock is to follow, and somebody must say so. What it does.
    Bless(&'static str),
}

pub(super) const COMMAND: &str = "KHO_BLESS=1 cargo test";

impl Complaint {
    /// Whether no blessing helps.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self.remedy, Remedy::Never(_))
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.fault)?;
        match &self.remedy {
            Remedy::Never(why) => write!(f, "  {why}"),
            Remedy::Draft(which) => {
                write!(f, "  {which} is not published: as said, or the same version blessed again: {COMMAND}")
            }
            Remedy::Bless(what) => write!(f, "  {COMMAND} {what}"),
        }
    }
}

/// What no blessing changes: versions that somebody has, and that are another thing now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing was written, because no blessing changes this:{}", lines(.0))]
pub struct Refusal(pub Vec<Complaint>);

pub(super) fn lines(complaints: &[Complaint]) -> String {
    complaints.iter().map(|complaint| format!("\n{complaint}")).collect()
}

impl Lock {
    /// Where the code and the lock disagree. `code` is from [`of_code`](super::of_code).
    #[must_use]
    pub fn check(&self, code: &[Section]) -> Vec<Complaint> {
        let mut all = Vec::new();
        for today in code {
            self.state(today, &mut all);
        }
        let ids: BTreeSet<u32> = code.iter().map(|today| today.id).collect();
        let living = self.sections.values().filter(|section| !section.retired);
        let gone: BTreeSet<u32> = living.map(|section| section.id).filter(|id| !ids.contains(id)).collect();
        for newest in gone.into_iter().filter_map(|id| self.of(id).next_back()) {
            let fault = Fault::new(Code::StateLock).item(newest.name.clone());
            let complaint = match code.iter().find(|today| today.name == newest.name) {
                Some(today) => Complaint {
                    fault: fault
                        .found(format_args!("id {}", today.id))
                        .expected(format_args!("id {}, which stays with it", newest.id)),
                    remedy: self.remedy(newest),
                },
                None => Complaint {
                    fault: fault
                        .found("no such state in the code")
                        .expected(format_args!("id {}, which the lock has", newest.id)),
                    remedy: Remedy::Bless("says that it is gone on purpose, and marks it retired"),
                },
            };
            all.push(complaint);
        }
        all
    }

    pub(super) fn remedy(&self, section: &Section) -> Remedy {
        let which = format!("{} version {}", section.name, section.version);
        match &section.published {
            Some(whom) => Remedy::Never(format!("{which} is published ({whom}) and never changes")),
            None if self.is_final(section) => Remedy::Never(format!("{which} is not the newest, and never changes")),
            None => Remedy::Draft(which),
        }
    }

    /// One state that the code has.
    fn state(&self, today: &Section, all: &mut Vec<Complaint>) {
        let Section { id, name, version, .. } = today;
        let fault = || Fault::new(Code::StateLock).item(name.clone());
        let Some(newest) = self.of(*id).next_back() else {
            let fault = fault().found(format_args!("version {version} of id {id}")).expected("it in the lock");
            all.push(Complaint { fault, remedy: Remedy::Bless("adds it") });
            return;
        };
        if self.of(*id).any(|section| section.is_enum() != today.is_enum()) {
            let kind = |section: &Section| if section.is_enum() { "enum" } else { "structure" };
            let found = format!("the {} {name}", kind(today));
            all.push(self.reused(newest, found, format!("the {} {}", kind(newest), newest.name)));
            return;
        }
        let before = all.len();
        let mut first = 1;
        for section in self.of(*id) {
            let from = first.max(section.from).max(today.from);
            let faults = differences(section, today, from, section.version.min(*version));
            all.extend(faults.into_iter().map(|fault| Complaint { fault, remedy: self.remedy(section) }));
            first = section.version.saturating_add(1);
        }
        let renamed = *name != newest.name;
        if renamed && (all.len() > before || self.of(*id).all(|section| section.retired)) {
            // Not the field by field: they are of something else.
            all.truncate(before);
            all.push(self.reused(newest, format!("{name}, made of other fields"), newest.name.clone()));
            return;
        }
        if renamed {
            let fault = fault().found(format_args!("the name {name} for id {id}"));
            let fault = fault.expected(format_args!("{}, as the lock has it", newest.name));
            all.push(Complaint { fault, remedy: Remedy::Bless("takes the new name: the id is what counts") });
        }
        self.versions(today, newest, all);
    }

    fn reused(&self, newest: &Section, found: String, was: String) -> Complaint {
        let fault = Fault::new(Code::StateLock).item(format!("id {}", newest.id)).found(found);
        let fault = fault.expected(format_args!("{was}, which has it: give a new state an id of its own"));
        Complaint { fault, remedy: self.remedy(newest) }
    }

    /// What is about the state as a whole.
    fn versions(&self, today: &Section, newest: &Section, all: &mut Vec<Complaint>) {
        let Section { name, version, from, .. } = today;
        let fault = || Fault::new(Code::StateLock).item(name.clone());
        if *version < newest.version {
            let fault = fault().found(format_args!("version {version}"));
            let fault = fault.expected(format_args!("{}, which the lock has: versions only rise", newest.version));
            all.push(Complaint { fault, remedy: self.remedy(newest) });
        } else if *version > newest.version {
            let fault = fault().found(format_args!("version {version}")).expected("it in the lock");
            all.push(Complaint { fault, remedy: Remedy::Bless("adds it") });
        } else {
            if today.ignorable != newest.ignorable {
                let text = |ignorable: bool| if ignorable { "ignorable" } else { "not ignorable" };
                let next = version.saturating_add(1);
                let fault = fault().found(text(today.ignorable));
                let fault = fault.expected(format_args!("{} until version {next}", text(newest.ignorable)));
                all.push(Complaint { fault, remedy: self.remedy(newest) });
            }
            for part in self.new_parts(today, newest) {
                let fault = Fault::new(Code::StateLock).item(format!("{name}.{}", part.name));
                let fault = fault.found(format_args!("a subsection of id {}", part.id)).expected("it in the lock");
                all.push(Complaint { fault, remedy: Remedy::Bless("adds it") });
            }
        }
        let oldest = self.of(today.id).filter(|section| !section.retired).map(|section| section.from).min();
        let fault = fault().found(format_args!("versions from {from}"));
        match oldest {
            Some(oldest) if *from > oldest => {
                let fault = fault.expected(format_args!("from {oldest}: what older programs saved is refused now"));
                all.push(Complaint {
                    fault,
                    remedy: Remedy::Bless("says so, and marks what is no longer read retired"),
                });
            }
            Some(oldest) if *from < oldest => {
                let fault = fault.expected(format_args!("from {oldest}, as the lock has it"));
                all.push(Complaint { fault, remedy: Remedy::Bless("says so") });
            }
            Some(_) => {}
            None => {
                let fault = fault.expected("none, because all are retired");
                all.push(Complaint { fault, remedy: Remedy::Bless("takes the mark away") });
            }
        }
    }

    fn new_parts<'a>(
        &self,
        today: &'a Section,
        newest: &'a Section,
    ) -> impl Iterator<Item = &'a super::SubsectionDescription> {
        let known = |id: u32, name: &str| newest.subsections().iter().any(|was| was.id == id || was.name == name);
        today.subsections().iter().filter(move |part| !known(part.id, &part.name))
    }

    /// The lock as the code wants it: new versions are added, the newest one that is not published is replaced, what is
    /// no longer read is marked retired.
    ///
    /// # Errors
    /// [`Refusal`] with all that no blessing changes; then nothing is blessed.
    pub fn bless(&self, code: &[Section]) -> Result<Lock, Refusal> {
        let last: Vec<Complaint> = self.check(code).into_iter().filter(Complaint::is_final).collect();
        if !last.is_empty() {
            return Err(Refusal(last));
        }
        let mut blessed = self.clone();
        let ids: BTreeSet<u32> = code.iter().map(|today| today.id).collect();
        blessed.sections.retain(|_, section| ids.contains(&section.id) || self.is_final(section));
        for section in blessed.sections.values_mut().filter(|section| !ids.contains(&section.id)) {
            section.retired = true;
        }
        for today in code {
            blessed.follow(today);
        }
        Ok(blessed)
    }

    fn follow(&mut self, today: &Section) {
        let id = today.id;
        // A version that nobody has, and that the code has no longer.
        self.sections.retain(|_, section| section.id != id || section.version <= today.version);
        let newest = self.sections.entry((id, today.version)).or_insert_with(|| today.clone());
        if newest.published.is_none() {
            let blobs = core::mem::take(&mut newest.blobs);
            *newest = Section { blobs, ..today.clone() };
        } else {
            newest.name = today.name.to_string();
            if let (Body::Struct { subsections: known, .. }, now) = (&mut newest.body, today.subsections()) {
                let new: Vec<_> =
                    now.iter().filter(|part| known.iter().all(|was| was.id != part.id)).cloned().collect();
                known.extend(new);
            }
        }
        let mut first = true;
        for (_, section) in self.sections.range_mut((id, 0)..=(id, u32::MAX)) {
            section.retired = section.version < today.from;
            if !section.retired {
                section.from = if first { today.from } else { section.from.max(today.from) };
                first = false;
            }
        }
    }
}
