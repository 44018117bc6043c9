//! What happens in the next kernel: Linux 7.2 and 7.3, as read from their sources and seen on booted kernels.

use core::fmt;

use serde::Serialize;

use crate::abi::{kho, luo};
use crate::report::Code;

/// What happens in the next kernel. New ones may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Consequence {
    /// It is taken over.
    None,
    /// A word in the log, and a cold boot.
    AllMemoryLost,
    /// The kernel panics early.
    Panic,
    /// EIO at the first open of `/dev/liveupdate`, and for good.
    SessionsUnreachable,
    /// Nobody reads the sessions.
    NoLiveUpdate,
    /// Memory reserved by name is allocated anew.
    AllocatedAfresh,
    /// Who left the handover is not known.
    MetadataIgnored,
    /// Nobody takes it over.
    StaysReserved,
    /// It is read as something that it is not.
    Misread,
    /// The program refuses all of it.
    SuccessorRefuses,
    /// The program goes on without it.
    LeftBehind,
    /// Nobody can say.
    Unforeseen,
}

impl Consequence {
    /// For people.
    #[must_use]
    pub const fn then(self) -> &'static str {
        match self {
            Consequence::None => "it is taken over",
            Consequence::AllMemoryLost => {
                "the next kernel says so in its log and boots cold, with new scratch: all preserved memory is lost"
            }
            Consequence::Panic => {
                "the next kernel panics early in its boot, often before its console shows anything (earlycon does), \
                 whether liveupdate=on or not, unless kho=off"
            }
            Consequence::SessionsUnreachable => {
                "the next kernel boots; the first open of /dev/liveupdate fails with EIO, and every one after it: no \
                 session can be retrieved"
            }
            Consequence::NoLiveUpdate => {
                "the next kernel boots without live update: no session can be retrieved, and their memory stays reserved \
                 until it is left"
            }
            Consequence::AllocatedAfresh => {
                "the next kernel allocates the reserved memory afresh, in its scratch: what was in it is lost, and it cannot \
                 be handed on from there"
            }
            Consequence::MetadataIgnored => {
                "the next kernel ignores it, and does not log who handed over; nothing is lost"
            }
            Consequence::StaysReserved => {
                "the next kernel does not take it: its memory stays reserved until it is left"
            }
            Consequence::Misread => {
                "the next kernel does not notice, and reads it as something else: wrong memory is taken for preserved"
            }
            Consequence::SuccessorRefuses => {
                "the program refuses the whole handover at its door and restores nothing; exec does not leave for it"
            }
            Consequence::LeftBehind => "the program goes on without it, and its memory is freed",
            Consequence::Unforeseen => "what the successor does with it is not known",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Consequence::None => "nothing",
            Consequence::AllMemoryLost => {
                "choose a kernel that reads this root; a cold boot is what you get from this one"
            }
            Consequence::Panic => {
                "choose a kernel that reads this version; to give up the sessions, boot this one with kho=off: memory that is \
                 reserved by name comes back all the same"
            }
            Consequence::SessionsUnreachable => {
                "choose a kernel that has the handler in this version, or take these files out of their sessions first"
            }
            Consequence::NoLiveUpdate => "choose a kernel with CONFIG_LIVEUPDATE, or finish the sessions first",
            Consequence::AllocatedAfresh => {
                "save what is in the reserved memory, or choose a kernel that reads this version"
            }
            Consequence::MetadataIgnored => "nothing",
            Consequence::StaysReserved => {
                "leave it out of the handover, or accept that its memory is missing until then"
            }
            Consequence::SuccessorRefuses => {
                "choose a program that reads this version, or write one that it reads (Outgoing::write_for)"
            }
            Consequence::LeftBehind => "nothing, if the successor can do without",
            Consequence::Misread => {
                "do not go: choose a kernel of the same architecture, with the same layout and page size"
            }
            Consequence::Unforeseen => "do not go before it is known why: see kho check",
        }
    }

    /// What comes of a handover that is broken: code, node and item of what was found.
    pub(super) fn of_broken(code: Code, node: &str, item: &str) -> Consequence {
        let is_head = [kho::COMPATIBLE, kho::PRESERVED_MEMORY_MAP].contains(&item);
        let is_chain = matches!(code, Code::BlockCount | Code::ListCycle | Code::ListLong);
        if node == "/" {
            return if is_head || code == Code::NoHandover {
                Consequence::AllMemoryLost
            } else {
                Consequence::Unforeseen
            };
        }
        if node.strip_prefix('/') != Some(luo::NODE) {
            return Consequence::Unforeseen;
        }
        let is_short = matches!(
            code,
            Code::Truncated | Code::PropertyMissing | Code::PropertySize | Code::CompatMissing | Code::CompatSyntax
        );
        if item.starts_with("sessions[") {
            // Of its files, or of its name.
            let known = is_chain || code == Code::NameDuplicate;
            return if known { Consequence::SessionsUnreachable } else { Consequence::Unforeseen };
        }
        if !item.starts_with("flbs") && (is_chain || is_short) { Consequence::Panic } else { Consequence::Unforeseen }
    }
}

impl fmt::Display for Consequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.then())
    }
}
