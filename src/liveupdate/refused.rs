//! What the kernel means when it refuses.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::text::Name;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Operation {
    /// Opening the device.
    Open,
    /// Making a new session.
    Create,
    /// Taking a session of the previous kernel.
    Retrieve,
    /// Looking at a descriptor that was given: its name and its kind.
    Given,
    /// Preserving a file in a new session.
    Preserve,
    /// Taking a file out of a retrieved session.
    RetrieveFile,
    /// Finishing a retrieved session.
    Finish,
}

macro_rules! causes {
    ($($(#[$meta:meta])* $variant:ident = $word:literal, $about:literal, $hint:literal;)*) => {
        /// Why the kernel refused: its errno, read by what was asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub enum Cause {
            $(#[doc = $about] $(#[$meta])* #[cfg_attr(feature = "serde", serde(rename = $word))] $variant,)*
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant),*];

            /// A word that never changes its meaning, as JSON has it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Cause::$variant => $word),* }
            }

            /// One line for people.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Cause::$variant => $about),* }
            }

            /// What to do; empty where nothing can be said.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Cause::$variant => $hint),* }
            }
        }
    };
}

causes! {
    NoLiveUpdate = "no-live-update", "this kernel has no live update, or it is not switched on",
        "the kernel needs CONFIG_LIVEUPDATE, and liveupdate=on and kho=on on its command line";
    OpenElsewhere = "open-elsewhere", "somebody else has the device open, and it has one opener at a time",
        "wait for it, or let its opener (a service manager?) give you the descriptor of a session";
    Forbidden = "forbidden", "not permitted", "the device is for root";
    IncomingBroken = "incoming-broken", "the kernel could not read the sessions of its predecessor",
        "the kernel's log says why: an unknown file handler, a duplicate name, a broken list; this stays so until the next boot";
    WrongKind = "wrong-kind", "not a live update device or session", "";
    BadName = "bad-name", "a name that no session can have", "1 to 63 bytes, none of them zero";
    NameTaken = "name-taken", "a new session of that name exists",
        "names are unique in a kernel: take another, or close the session that has it";
    NoSuchSession = "no-such-session", "the previous kernel left no session of that name",
        "the session must have been open when that kernel was left; it is also gone once it was finished, or closed after it was retrieved";
    AlreadyRetrieved = "already-retrieved", "that session was retrieved already",
        "it can be retrieved once: who has it must give its descriptor away";
    TokenTaken = "token-taken", "a file of this session has that token", "tokens are unique in a session";
    FileTaken = "file-taken", "this file is preserved already, in this session or another, or came with a session that is not finished",
        "a file is preserved once, under one token; finish the session that it came with before it is preserved again";
    NotPreservable = "not-preservable", "this kernel preserves no such file",
        "Linux 7.2 and 7.3 preserve memfds and other unlinked shmem, not hugetlb; preflight says what this file is";
    Seals = "seals", "the file has seals that Linux does not preserve",
        "it knows F_SEAL_SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE and EXEC";
    TooLarge = "too-large", "the file has more than 2^32-1 pages", "";
    Full = "full", "the session is full", "open another session";
    BadDescriptor = "bad-descriptor", "not an open file", "O_PATH descriptors are none";
    NoSuchToken = "no-such-token", "no file of this session has that token", "";
    RetrieveFailed = "retrieve-failed", "the kernel could not restore the file, and does not try again",
        "the kernel's log says why";
    NotFinished = "not-finished", "a file of the session cannot be finished yet",
        "retrieve what is not retrieved; devices may have to be put to use before";
    NewerThanKernel = "newer-than-kernel", "the request has fields that this kernel does not know", "";
    OtherKind = "other-kind", "a session of the other kind",
        "new sessions take files, retrieved ones give them back";
    NoMemory = "no-memory", "the kernel has not enough memory",
        "preserving fills the holes of a memfd, and copies nothing";
    Interrupted = "interrupted", "a signal came in between", "ask again";
    Unknown = "unknown", "nothing that is known to mean more than that", "the kernel's log may say why";
}

/// The kernel refused: what was asked, its answer, and what it means by it.
///
/// ```
/// use kho::liveupdate::{Cause, Device};
///
/// let refused = Device::open_at("/nowhere").unwrap_err();
/// assert_eq!(refused.cause(), Cause::NoLiveUpdate);
/// assert_eq!(refused.to_string(), "open: this kernel has no live update, or it is not switched on (ENOENT)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    operation: Operation,
    session: Option<Name>,
    token: Option<u64>,
    errno: Errno,
    cause: Cause,
}

impl Refused {
    pub(crate) fn new(operation: Operation, errno: Errno) -> Self {
        Refused { operation, session: None, token: None, errno, cause: meaning(operation, errno) }
    }

    pub(crate) fn session(mut self, name: &Name) -> Self {
        self.session = Some(name.clone());
        self
    }

    pub(crate) fn token(mut self, token: u64) -> Self {
        self.token = Some(token);
        self
    }

    /// What is known better than the errno says.
    pub(super) fn because(mut self, cause: Cause) -> Self {
        self.cause = cause;
        self
    }

    /// What was asked.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// Of which session; none for the device, and for a descriptor that is no session.
    #[must_use]
    pub const fn session_name(&self) -> Option<&Name> {
        self.session.as_ref()
    }

    /// For which file.
    #[must_use]
    pub const fn token_asked(&self) -> Option<u64> {
        self.token
    }

    /// The kernel's answer, as `std::io::Error::from_raw_os_error` takes it.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        self.errno.raw_os_error()
    }

    /// What it means.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// What to do; empty where nothing can be said.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        self.cause.hint()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.operation {
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Retrieve | Operation::RetrieveFile => "retrieve",
            Operation::Given => "descriptor",
            Operation::Preserve => "preserve",
            Operation::Finish => "finish",
        })?;
        if let Some(token) = self.token {
            write!(f, " token {token:#x} of")?;
        }
        if let Some(session) = &self.session {
            write!(f, "{} session {session}", if self.operation == Operation::Given { " of" } else { "" })?;
        }
        write!(f, ": {} ({})", self.cause.about(), ErrnoName(self.errno))
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        io::Error::new(io::Error::from(refused.errno).kind(), refused)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Refused {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = to.serialize_struct("Refused", 6)?;
        fields.serialize_field("operation", &self.operation)?;
        fields.serialize_field("session", &self.session)?;
        fields.serialize_field("token", &self.token)?;
        fields.serialize_field("errno", &self.errno())?;
        fields.serialize_field("cause", &self.cause)?;
        fields.serialize_field("text", &self.to_string())?;
        fields.end()
    }
}

/// What an errno means for an operation: as Linux 7.2.13 answers, where it can be made to (`tests/kernels/refusals.rs`).
/// It knows no seals beyond those that it preserves, so `EOPNOTSUPP` was not seen.
pub(super) fn meaning(operation: Operation, errno: Errno) -> Cause {
    use Operation as Op;
    match (operation, errno) {
        (_, Errno::NOMEM) => Cause::NoMemory,
        (_, Errno::INTR) => Cause::Interrupted,
        (Op::Open, Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::OPNOTSUPP) => Cause::NoLiveUpdate,
        (Op::Open, Errno::BUSY) => Cause::OpenElsewhere,
        (Op::Open, Errno::ACCESS | Errno::PERM) => Cause::Forbidden,
        (Op::Open, Errno::IO) => Cause::IncomingBroken,
        (Op::Open, Errno::ISDIR) => Cause::WrongKind,
        (Op::Open, _) => Cause::Unknown,
        // EBADF: what was opened with O_PATH takes no request at all.
        (_, Errno::NOTTY) | (Op::Given, Errno::INVAL | Errno::BADF) => Cause::WrongKind,
        (_, Errno::TOOBIG) => Cause::NewerThanKernel,
        (Op::Create, Errno::EXIST) => Cause::NameTaken,
        (Op::Create, Errno::INVAL) => Cause::BadName,
        (Op::Retrieve, Errno::NOENT) => Cause::NoSuchSession,
        (Op::Retrieve, Errno::INVAL) => Cause::AlreadyRetrieved,
        (Op::Preserve, Errno::EXIST) => Cause::TokenTaken,
        (Op::Preserve, Errno::BUSY) => Cause::FileTaken,
        (Op::Preserve, Errno::NOENT) => Cause::NotPreservable,
        (Op::Preserve, Errno::OPNOTSUPP) => Cause::Seals,
        (Op::Preserve, Errno::FBIG) => Cause::TooLarge,
        (Op::Preserve, Errno::NOSPC) => Cause::Full,
        (Op::Preserve, Errno::BADF) => Cause::BadDescriptor,
        (Op::RetrieveFile, Errno::NOENT) => Cause::NoSuchToken,
        (Op::Finish, Errno::BUSY) => Cause::NotFinished,
        (Op::RetrieveFile, _) => Cause::RetrieveFailed,
        _ => Cause::Unknown,
    }
}

/// An errno by its name where it is one of those above, and in the system's words.
pub(super) struct ErrnoName(pub(super) Errno);

impl fmt::Display for ErrnoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Errno::ACCESS => "EACCES",
            Errno::BADF => "EBADF",
            Errno::BUSY => "EBUSY",
            Errno::EXIST => "EEXIST",
            Errno::FBIG => "EFBIG",
            Errno::INTR => "EINTR",
            Errno::INVAL => "EINVAL",
            Errno::IO => "EIO",
            Errno::ISDIR => "EISDIR",
            Errno::NODEV => "ENODEV",
            Errno::NOENT => "ENOENT",
            Errno::NOMEM => "ENOMEM",
            Errno::NOSPC => "ENOSPC",
            Errno::NOTTY => "ENOTTY",
            Errno::NXIO => "ENXIO",
            Errno::OPNOTSUPP => "EOPNOTSUPP",
            Errno::PERM => "EPERM",
            Errno::TOOBIG => "E2BIG",
            other => return write!(f, "{other}"),
        })
    }
}
