//! Open files by the user's token: what travels beside the memory    kho-files-v1
//!
//! A descriptor travels as a descriptor; nothing of its contents is copied. The node `files` records what each file
//! *is* (device, inode, size, seals, position, flags), and the plan of the successor holds the descriptors that came
//! against it: a memfd that was swapped for another file stops the handover before anything is restored.

mod identity;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
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
/// use kho::files::Files;
/// use rustix::fs::{MemfdFlags, memfd_create};
///
/// let mut files = Files::new();
/// files.add(1, memfd_create("log", MemfdFlags::CLOEXEC)?)?;
/// let rejected = files.add(2, File::open("/dev/null")?.into()).unwrap_err();
/// assert!(rejected.to_string().starts_with("file-kind: files[0x2]"), "{rejected}");
/// assert!(files.take(1).is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Files {
    held: BTreeMap<u64, OwnedFd>,
    /// Device and inode of the files that were added, and their token.
    inodes: BTreeMap<(u64, u64), u64>,
    /// Whether the next kernel made them anew: not the open files that were handed over, but others like them.
    reborn: bool,
}

/// How files travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// Across exec: the same open files.
    Exec,
    /// Through a unix socket, to another process: the same open files.
    Socket,
    /// In a session of `/dev/liveupdate`, across a kexec: the next kernel makes files that have the contents, size, seals
    /// and position of those that were preserved.
    Session,
}

impl Files {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file that is to be handed over. Today these are memfds.
    ///
    /// # Errors
    /// [`Code::TokenDuplicate`] for a token that is taken, [`Code::FileDuplicate`] for a file that has a token already
    /// (it would be restored twice), [`Code::FileKind`] for anything that is no memfd. The file comes back.
    pub fn add(&mut self, token: u64, file: OwnedFd) -> Result<(), Rejected> {
        match self.fits(token, file.as_fd()) {
            Ok(inode) => {
                self.inodes.insert(inode, token);
                self.held.insert(token, file);
                Ok(())
            }
            Err(fault) => Err(Rejected { fault: fault.within(&format!("files[{token:#x}]")), file }),
        }
    }

    fn fits(&self, token: u64, file: BorrowedFd<'_>) -> Result<(u64, u64), Fault> {
        if self.held.contains_key(&token) {
            return Err(Fault::new(Code::TokenDuplicate).item("token").found("a token that is taken"));
        }
        let new = identity::record(token, file)?;
        let inode = (new.device.get(), new.inode.get());
        match self.inodes.get(&inode) {
            None => Ok(inode),
            Some(other) => Err(Fault::new(Code::FileDuplicate)
                .item("inode")
                .found(format_args!("inode {}, which has the token {other:#x} already", new.inode))),
        }
    }

    /// The files as a transport received them, unchecked: the plan checks them.
    #[must_use]
    pub fn received(files: impl IntoIterator<Item = (u64, OwnedFd)>) -> Self {
        Files { held: files.into_iter().collect(), ..Self::default() }
    }

    /// The files as the next kernel made them anew ([`Route::Session`]), unchecked: the plan checks what crosses a kexec.
    #[must_use]
    pub fn retrieved(files: impl IntoIterator<Item = (u64, OwnedFd)>) -> Self {
        Files { reborn: true, ..Self::received(files) }
    }

    /// The file of that token.
    #[must_use]
    pub fn get(&self, token: u64) -> Option<BorrowedFd<'_>> {
        self.held.get(&token).map(AsFd::as_fd)
    }

    /// Takes the file of that token.
    pub fn take(&mut self, token: u64) -> Option<OwnedFd> {
        self.inodes.retain(|_, held| *held != token);
        self.held.remove(&token)
    }

    /// All files, by ascending token.
    pub fn iter(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.held.iter().map(|(token, file)| (*token, file.as_fd()))
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
        let records = self.iter().map(|(token, file)| {
            identity::record(token, file).map_err(|fault| fault.within(&format!("files[{token:#x}]")))
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
    identity::record(0, file).map(|_| ())
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
    type Checked = ();

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<(), Fault> {
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
        for (token, _) in came.iter().filter(|(token, _)| !records.contains_key(token)) {
            wrong.push(
                Fault::new(Code::FileIdentity).item(format!("files[{token:#x}]")).found("a file that no record names"),
            );
        }
        wrong.into_iter().for_each(|fault| node.report(fault));
        Ok(())
    }
}

impl<M: Memory + Beside> Component<M> for FilesNode {
    type Prepared = ();
    /// The files. Each is close-on-exec, whatever it was before.
    type Restored = Files;

    fn prepare(&self, (): (), _: &mut M) -> Result<(), Fault> {
        Ok(())
    }

    fn commit(&self, (): (), memory: &mut M) -> Files {
        let files = core::mem::take(memory.files_mut());
        for (_, file) in files.iter() {
            // Transports set it when they receive; of an open descriptor it cannot fail.
            let _ = rustix::io::fcntl_setfd(file, rustix::io::FdFlags::CLOEXEC);
        }
        files
    }
}

#[cfg(test)]
mod tests;
