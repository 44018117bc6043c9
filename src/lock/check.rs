//! Whether the code still is what the lock says, and how the lock follows it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{Difference, Entry, Lock, differences};

/// Where code and lock disagree about one component in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// `memfd-v2`.
    pub key: String,
    /// What is the matter.
    pub what: What,
    /// Who published it, if anybody has.
    pub published: Option<String>,
}

/// What is the matter with a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Another layout under the same version.
    Changed(Vec<Difference>),
    /// It has no version and has more than before; what was there is as it was.
    Grown(Vec<Difference>),
    /// Not in the lock yet.
    New,
    /// The code no longer has it.
    Gone,
    /// The lock says that the code no longer has it; it has, and as it was.
    Back,
}

impl Complaint {
    /// Whether no blessing helps.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.published.is_some() && matches!(self.what, What::Changed(_))
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.what {
            What::Changed(list) => {
                writeln!(f, "{key}: another layout under the same version")?;
                list.iter().try_for_each(|difference| writeln!(f, "  {difference}"))?;
                match &self.published {
                    Some(whom) => write!(
                        f,
                        "  {key} is published ({whom}) and never changes: make it a new version in src/abi, then \
                         KHO_BLESS=1 cargo test --test abi_lock"
                    ),
                    None => write!(
                        f,
                        "  {key} is not published: a new version in src/abi, or the same one blessed: KHO_BLESS=1 \
                         cargo test --test abi_lock"
                    ),
                }
            }
            What::Grown(list) => {
                writeln!(f, "{key}: more than the lock has")?;
                list.iter().try_for_each(|difference| writeln!(f, "  {difference}"))?;
                f.write_str("  KHO_BLESS=1 cargo test --test abi_lock adds it")
            }
            What::New => write!(f, "{key}: not in the lock; KHO_BLESS=1 cargo test --test abi_lock adds it"),
            What::Gone if self.published.is_some() => {
                write!(f, "{key}: no longer in the code; KHO_BLESS=1 cargo test --test abi_lock marks it retired")
            }
            What::Gone => {
                write!(f, "{key}: no longer in the code; KHO_BLESS=1 cargo test --test abi_lock drops it")
            }
            What::Back => {
                write!(f, "{key}: in the code again; KHO_BLESS=1 cargo test --test abi_lock takes its mark away")
            }
        }
    }
}

/// What no blessing changes: published versions whose layout is another one now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lock was not written, published versions never change:{}", lines(.0))]
pub struct Refusal(pub Vec<Complaint>);

fn lines(complaints: &[Complaint]) -> String {
    complaints.iter().map(|complaint| alloc::format!("\n{complaint}")).collect()
}

impl Lock {
    /// Where these entries and the lock disagree, in the order of the keys.
    #[must_use]
    pub fn check(&self, code: &[Entry]) -> Vec<Complaint> {
        let mut complaints: Vec<Complaint> = code.iter().filter_map(|now| self.complaint(now)).collect();
        for entry in self.entries.values().filter(|entry| !entry.retired) {
            if !code.iter().any(|now| now.key == entry.key) {
                let (key, published) = (entry.key.clone(), entry.published.clone());
                complaints.push(Complaint { key, what: What::Gone, published });
            }
        }
        complaints.sort_by(|a, b| a.key.cmp(&b.key));
        complaints
    }

    fn complaint(&self, now: &Entry) -> Option<Complaint> {
        let key = now.key.clone();
        let Some(locked) = self.entries.get(&now.key) else {
            return Some(Complaint { key, what: What::New, published: None });
        };
        let list = differences(locked, now);
        let what = match () {
            () if list.is_empty() && !locked.retired => return None,
            () if list.is_empty() => What::Back,
            () if now.compat().is_none() && list.iter().all(Difference::is_growth) => What::Grown(list),
            () => What::Changed(list),
        };
        Some(Complaint { key, what, published: locked.published.clone() })
    }

    /// The lock as these entries want it: what is new is added, what changed without being published is replaced, what
    /// is gone is dropped, or marked retired when it was published.
    ///
    /// # Errors
    ///
    /// [`Refusal`] with every published version whose layout changed; then nothing is blessed.
    pub fn bless(&self, code: &[Entry]) -> Result<Lock, Refusal> {
        let complaints = self.check(code);
        let last: Vec<Complaint> = complaints.iter().filter(|complaint| complaint.is_final()).cloned().collect();
        if !last.is_empty() {
            return Err(Refusal(last));
        }
        let mut blessed = self.clone();
        for complaint in complaints {
            let now = code.iter().find(|entry| entry.key == complaint.key);
            match (now, complaint.published) {
                (Some(now), published) => {
                    let entry = Entry { published, retired: false, ..now.clone() };
                    blessed.entries.insert(complaint.key, entry);
                }
                (None, Some(_)) => {
                    if let Some(entry) = blessed.entries.get_mut(&complaint.key) {
                        entry.retired = true;
                    }
                }
                (None, None) => {
                    blessed.entries.remove(&complaint.key);
                }
            }
        }
        Ok(blessed)
    }
}
