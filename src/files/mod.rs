//! Open files by the user's token: what travels beside the memory    kho-files-v1
//!
//! A descriptor travels as a descriptor; nothing of its contents is copied. The node `files` records what each file
//! *is*, and the plan of the successor holds the descriptors that came against it: a file that was swapped for another
//! one stops the handover before anything is restored.
//!
//! # Kinds
//! Across exec and through a socket every [`Kind`] travels, as the open file that it is; a session of `/dev/liveupdate`
//! carries memfds, which the next kernel makes anew. [`Files::refused_by`] tells it before anybody leaves. Compared are what
//! a file is known by (identity), and what may not change while nobody uses it (state); the status flags of all of them
//! are in the latter, and say with which access a file is open.
//!
//! | kind | identity | state, checked on arrival | exec | socket | session |
//! |---|---|---|---|---|---|
//! | memfd | device, inode | size, seals, position, mode | yes | yes | yes: then size, seals, position |
//! | hugetlb memfd | device, inode, bytes of a page | size, seals, position, mode | yes | yes | no |
//! | regular file | device, inode | size, position, mode | yes | yes | no |
//! | pipe, FIFO | device, inode, which end | capacity | yes | yes | no |
//! | socket | device, inode, domain, type, protocol | listening or not | yes | yes | no |
//! | character device | device, inode, device number; of `/dev/ptmx` which terminal | | yes | yes | no |
//! | block device | device, inode, device number | position | yes | yes | no |
//! | eventfd | its `eventfd-id` | whether it is a semaphore | yes | yes | no |
//! | epoll | | how many descriptors it watches | yes | yes | no |
//! | timerfd | | clock, interval | yes | yes | no |
//! | signalfd | | its signals | yes | yes | no |
//! | pidfd | inode; without pidfs, number of the process | | yes | yes | no |
//!
//! What goes on while the predecessor stands still is not compared: the count of an eventfd, the time that is left of a
//! timer, what is in a pipe or waits at a socket, whether the other end or the process is still there.
//!
//! Remarks:
//! - **Regular files** have a name or none; what others write to them between the record and the arrival is told as a
//!   change. One without a name in a tmpfs is a memfd. Files of `/proc` are refused: they speak of the process, thread or
//!   memory that they were opened for.
//! - **Character devices**: a driver may have bound the open file to the memory of the process (`vhost`, for one), which
//!   is not seen here.
//! - **Block devices** travel because an exclusive open must not have a gap between two processes: a disk of a virtual
//!   machine.
//! - **Eventfds** without an id (a kernel before 5.2) are told apart by nothing but their flags. The same is true of two
//!   epolls, timerfds or signalfds that are alike: the kernel says no more of them.
//! - **Epolls** keep their registrations, each by the number *and* the open file that it was made with. So the watched
//!   descriptors must travel too: one whose open file is closed by exec is watched no longer, and the plan refuses. What
//!   an event says (`data`) is as it was. To change or remove a registration takes the old number, with the same open
//!   file behind it (`dup2` it there); an epoll that is to live on is better registered anew.
//! - **Timerfds** run on, and count what expires meanwhile.
//! - **Signalfds** read the signals of whoever reads: of the successor, across exec with its blocked and pending signals;
//!   through a socket those of the other process. An epoll that watches one reports for the process that registered it.
//! - **Pidfds** stay usable for signals and polling; to wait for a process it must be a child, which it is after exec and
//!   not through a socket. There the number in a record may be of another pid namespace, where the kernel has no pidfs
//!   (before 6.9).
//! - **Unix sockets** in which descriptors wait travel in a socket themselves: kernels limit how deep that may go, and how
//!   many descriptors of a user are on their way.
//!
//! Everything else is refused, with the reason: what is bound to the memory of a process (`kvm-vm`, `kvm-vcpu`, `io_uring`,
//! `userfaultfd`), directories and `O_PATH` descriptors, anonymous inodes that nothing tells from others of their kind
//! (inotify, fanotify, bpf, perf, and what is not known here).
//!
//! Anonymous inodes (eventfd, epoll, timerfd, signalfd, pidfd) and masters of pseudoterminals are known by what `/proc`
//! says of them: it must be mounted at both ends, or the error says so. The other kinds do without.
//!
//! # One file twice
//! A memfd stands under one token only: two would be two files in a session. Of the other kinds several descriptors of one file are legitimate (two ends of a pipe, a log that is open twice at two
//! positions, `dup`), and each has a token of its own. Descriptors of one *open* file still share it when they arrived.

mod identity;
mod kind;
mod proc_info;
#[cfg(feature = "serde")]
mod shown;

pub use kind::{Kind, Route};
#[cfg(feature = "serde")]
pub(crate) use shown::details;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;

use zerocopy::IntoBytes as _;

use crate::abi;
use crate::abi::files::{COMPAT, Record, Table};
use crate::block;
use crate::compat::CompatList;
use crate::handover::{Blob, Check, Component, Home, Node, Preserve, Scope};
use crate::mem::Memory;
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// What the node is made of.
pub const MADE_OF: CompatList<'static> = CompatList::new(COMPAT, &[abi::block::COMPAT]);

/// Tokens from here on are those of descriptors that [states](crate::state) have.
pub const OURS: u64 = 1 << 63;

/// A file that was not taken, and why.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct Rejected {
    /// Why.
    pub fault: Fault,
    /// The file, open as before.
    pub file: OwnedFd,
}

impl From<Rejected> for Fault {
    fn from(rejected: Rejected) -> Self {
        rejected.fault
    }
}

/// Open files by token.
///
/// Without any the node is not written: a program that may have none says so in its manifest.
/// ```
/// kho::manifest! {
///     static MANIFEST = [
///         reads(kho::abi::files::NODE, &[kho::files::MADE_OF]).optional(),
///         writes(kho::abi::files::NODE, &[kho::files::MADE_OF]),
///     ];
/// }
/// # use kho::handover::{Incoming, Outgoing, Registry};
/// # use kho::mem::Arena;
/// # use kho::transport::Bundle;
/// # for file in [None, Some(rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC)?)] {
/// # let mut outgoing = Outgoing::of(Bundle::new(1 << 20)?, &MANIFEST);
/// # let held = file.is_some();
/// # file.map(|file| outgoing.preserve_file(1, file)).transpose()?;
/// # let (mut bundle, root) = outgoing.finish()?.into_parts();
/// # let files = std::mem::take(kho::files::Beside::files_mut(&mut bundle));
/// # let arena = Arena::open(bundle.into_arena().into_fd()?)?;
/// let mut registry = Registry::of(&MANIFEST);
/// let files_node = registry.add_optional(kho::abi::files::NODE, kho::files::FilesNode);
/// # let plan = Incoming::new(Bundle::of(arena, files), root.start()).plan(&registry);
/// # assert_eq!(plan.accept()?.restore()?.take(&files_node).is_some(), held);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```
/// use std::fs::File;
///
/// use kho::files::{Files, Route};
/// use rustix::fs::{MemfdFlags, memfd_create};
///
/// let mut files = Files::new();
/// files.add(1, memfd_create("log", MemfdFlags::CLOEXEC)?)?;
/// files.add(2, File::open("/dev/null")?.into())?;
/// let rejected = files.add(3, File::open("/")?.into()).unwrap_err();
/// let says = "file-kind: files[0x3].kind: a directory, which the successor opens by its path";
/// assert_eq!(rejected.to_string(), says);
///
/// // A session takes memfds only.
/// let told: Vec<String> = files.refused_by(Route::Session).iter().map(ToString::to_string).collect();
/// let only = "a memfd that is not hugetlb, which is all that a session carries";
/// assert_eq!(told, [format!("file-kind: files[0x2]: found a character device, expected {only}")]);
/// assert!(files.refused_by(Route::Exec).is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Files {
    held: BTreeMap<u64, Held>,
    /// Device and inode of the memfds that were added, and their token.
    inodes: BTreeMap<(u64, u64), u64>,
    /// Whether the next kernel made them anew: not the open files that were handed over, but others like them.
    reborn: bool,
    /// Tokens of those that came before the table was written: one that is not in it was taken back meanwhile.
    ahead: BTreeSet<u64>,
}

#[derive(Debug)]
struct Held {
    file: OwnedFd,
    /// What it was when it was added; nothing of one that a transport received.
    known: Option<Record>,
}

/// What stands once: a memfd, by its inode.
fn once(record: &Record) -> Option<(u64, u64)> {
    matches!(Kind::of_number(record.kind.get()), Some(Kind::Memfd | Kind::Hugetlb))
        .then(|| (record.device.get(), record.inode.get()))
}

impl Files {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file that is to be handed over.
    ///
    /// # Errors
    /// [`Code::TokenDuplicate`] for a token that is taken, [`Code::FileDuplicate`] for a memfd that has a token already
    /// (it would be restored twice), [`Code::FileKind`] for what does not travel, with the reason; [`Code::Io`] when it
    /// could not be looked at, for want of `/proc` perhaps. The file comes back.
    pub fn add(&mut self, token: u64, file: OwnedFd) -> Result<(), Rejected> {
        match self.fits(token, file.as_fd()) {
            Ok(known) => {
                if let Some(inode) = once(&known) {
                    self.inodes.insert(inode, token);
                }
                self.held.insert(token, Held { file, known: Some(known) });
                Ok(())
            }
            Err(fault) => Err(Rejected { fault: fault.within(&format!("files[{token:#x}]")), file }),
        }
    }

    /// What a file is that may be added.
    fn fits(&self, token: u64, file: BorrowedFd<'_>) -> Result<Record, Fault> {
        if self.held.contains_key(&token) {
            return Err(Fault::new(Code::TokenDuplicate).item("token").found("a token that is taken"));
        }
        // All that is recorded later must be there to be told.
        let new = identity::record(token, file)?;
        match once(&new).and_then(|inode| self.inodes.get(&inode)) {
            None => Ok(new),
            Some(other) => Err(Fault::new(Code::FileDuplicate)
                .item("inode")
                .found(format_args!("inode {}, which has the token {other:#x} already", new.inode))),
        }
    }

    /// The files that the route does not carry, each as a [`Code::FileKind`] with what it is and what would be carried;
    /// none when all can leave. A file that cannot be looked at is told as well.
    #[must_use]
    pub fn refused_by(&self, route: Route) -> Vec<Fault> {
        let carried = |held: &Held| {
            let known = held.known.as_ref().and_then(|known| Kind::of_number(known.kind.get()));
            let kind = known.map_or_else(|| Kind::of(&held.file), Ok)?;
            kind.carried_by(route).map_err(|only| Fault::new(Code::FileKind).found(kind.with_article()).expected(only))
        };
        let refused = self.held.iter().filter_map(|(token, held)| Some((token, carried(held).err()?)));
        refused.map(|(token, fault)| fault.within(&format!("files[{token:#x}]"))).collect()
    }

    /// The files as a transport received them, unchecked: the plan checks them.
    #[must_use]
    pub fn received(files: impl IntoIterator<Item = (u64, OwnedFd)>) -> Self {
        let held = files.into_iter().map(|(token, file)| (token, Held { file, known: None }));
        Files { held: held.collect(), ..Self::default() }
    }

    /// The files as the next kernel made them anew ([`Route::Session`]), unchecked: the plan checks what crosses a kexec.
    #[must_use]
    pub fn retrieved(files: impl IntoIterator<Item = (u64, OwnedFd)>) -> Self {
        Files { reborn: true, ..Self::received(files) }
    }

    /// These came ahead of the handover.
    pub(crate) fn ahead(mut self, tokens: BTreeSet<u64>) -> Self {
        self.ahead = tokens;
        self
    }

    /// The file of that token.
    #[must_use]
    pub fn get(&self, token: u64) -> Option<BorrowedFd<'_>> {
        self.held.get(&token).map(|held| held.file.as_fd())
    }

    /// Takes the file of that token.
    pub fn take(&mut self, token: u64) -> Option<OwnedFd> {
        let Held { file, known } = self.held.remove(&token)?;
        if let Some(inode) = known.as_ref().and_then(once) {
            self.inodes.remove(&inode);
        }
        Some(file)
    }

    /// All files, by ascending token.
    pub fn iter(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.held.iter().map(|(token, held)| (*token, held.file.as_fd()))
    }

    /// A token that no file has: from [`OURS`] on, which users leave to states.
    pub(crate) fn free_token(&self) -> u64 {
        let last = self.held.range(OURS..).next_back();
        last.map_or(OURS, |(token, _)| token.checked_add(1).unwrap_or(OURS))
    }

    /// How many files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What the files are, to be written as the node `files`.
    ///
    /// # Errors
    /// When a file cannot be looked at any more.
    pub fn records(&self) -> Result<FileRecords, Fault> {
        let records = self.held.iter().map(|(token, Held { file, known })| {
            let now = match known {
                Some(known) => identity::record_again(known, file.as_fd()),
                None => identity::record(*token, file.as_fd()),
            };
            now.map_err(|fault| fault.within(&format!("files[{token:#x}]")))
        });
        Ok(FileRecords(records.collect::<Result<_, _>>()?))
    }
}

/// A second descriptor of the same file, closed on exec.
pub(crate) fn duplicate(file: impl AsFd) -> Result<OwnedFd, Fault> {
    file.as_fd().try_clone_to_owned().map_err(|error| Fault::new(Code::Io).item("dup").found(error))
}

/// Whether a file is a memfd.
pub(crate) fn is_memfd(file: BorrowedFd<'_>) -> Result<(), Fault> {
    let other = |found: &str| Err(Fault::new(Code::FileKind).item("kind").found(found).expected("a memfd"));
    match Kind::of(file) {
        Ok(Kind::Memfd | Kind::Hugetlb) => Ok(()),
        Ok(kind) => other(&kind.with_article()),
        Err(fault) if fault.code() == Code::FileKind => other(fault.found_text()),
        Err(fault) => Err(fault),
    }
}

/// Memory that files travel beside.
pub trait Beside {
    /// The files that travel with it.
    fn files(&self) -> &Files;
    /// The same, to take them.
    fn files_mut(&mut self) -> &mut Files;
}

/// What files are, without the files.
#[derive(Clone, Debug)]
pub struct FileRecords(Vec<Record>);

impl<M: Home> Preserve<M> for FileRecords {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        let mut set = block::BlockSet::new();
        set.append(&self.0);
        let stored = scope.records(&set)?;
        let table = Table { records: stored.first.get().into(), count: u64_of(self.0.len()).into() };
        scope.blob(table.as_bytes())
    }
}

/// Reads what the node says of the files, by token, and checks what can be checked without them: also an image has it,
/// whose files are elsewhere. Of two records with one token the first is kept and the other reported.
///
/// # Errors
/// As [`Node::blob_as`] and [`Node::records`].
pub fn read<M: Memory>(node: &mut Node<'_, M>) -> Result<BTreeMap<u64, Record>, Fault> {
    let table: Table = node.blob_as()?;
    let records: Vec<Record> =
        node.records(table.records.get(), table.count.get()).map_err(|fault| fault.within("records"))?;
    let mut files = BTreeMap::new();
    for (number, record) in records.into_iter().enumerate() {
        let item = || format!("files[{:#x}]", record.token);
        match files.entry(record.token.get()) {
            Entry::Occupied(_) => {
                let fault = Fault::new(Code::TokenDuplicate).item(item());
                node.report(fault.found(format_args!("records[{number}] with a token that one before it has")));
                continue;
            }
            Entry::Vacant(place) => place.insert(record),
        };
        if let Err(fault) = identity::check(&record) {
            node.report(fault.within(&item()));
        }
    }
    Ok(files)
}

/// Restores the node `files`: every descriptor is the file that was handed over, or the plan refuses.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilesNode;

impl<M: Memory + Beside> Check<M> for FilesNode {
    /// Tokens of files that came ahead of the handover and were taken back since.
    type Checked = Vec<u64>;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Vec<u64>, Fault> {
        let records = read(node)?;
        let came = node.source().files();
        let mut wrong = Vec::new();
        for (token, record) in &records {
            let same = match came.get(*token) {
                None => Err(Fault::new(Code::TokenMissing)),
                Some(file) => identity::compare(record, file, came.reborn),
            };
            if let Err(fault) = same {
                wrong.push(fault.within(&format!("files[{token:#x}]")));
            }
        }
        let taken_back = |token: &u64| came.ahead.contains(token);
        for (token, _) in came.iter().filter(|(token, _)| !records.contains_key(token) && !taken_back(token)) {
            wrong.push(
                Fault::new(Code::FileIdentity).item(format!("files[{token:#x}]")).found("a file that no record names"),
            );
        }
        let taken_back = came.ahead.iter().copied().filter(|token| !records.contains_key(token)).collect();
        wrong.into_iter().for_each(|fault| node.report(fault));
        Ok(taken_back)
    }
}

impl<M: Memory + Beside> Component<M> for FilesNode {
    type Prepared = Vec<u64>;
    /// The files. Each is close-on-exec, whatever it was before.
    type Restored = Files;

    fn prepare(&self, taken_back: Vec<u64>, _: &mut M) -> Result<Vec<u64>, Fault> {
        Ok(taken_back)
    }

    fn commit(&self, taken_back: Vec<u64>, memory: &mut M) -> Files {
        let mut files = core::mem::take(memory.files_mut());
        taken_back.into_iter().for_each(|token| drop(files.take(token)));
        for (_, file) in files.iter() {
            // Transports set it when they receive; of an open descriptor it cannot fail.
            let _ = rustix::io::fcntl_setfd(file, rustix::io::FdFlags::CLOEXEC);
        }
        files
    }
}

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;
