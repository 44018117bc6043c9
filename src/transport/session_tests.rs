use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::Errno;

use super::*;
use crate::abi::files::NODE;
use crate::compat::{Compat, CompatList};
use crate::files::FilesNode;
use crate::handover::Registry;
use crate::liveupdate::Operation;
use crate::mem::Arena;
use crate::payload::{Bytes, BytesNode};
use crate::transport::Ticket;

const MADE_OF: CompatList<'static> = CompatList::new(Compat::new("test-bytes", 1), &[]);

/// Stands in for a session, with Linux's rules.
#[derive(Default)]
struct Stand {
    files: RefCell<BTreeMap<u64, OwnedFd>>,
    /// It is full then.
    limit: Option<usize>,
}

impl Keep for Stand {
    fn keep(&self, token: u64, file: BorrowedFd<'_>) -> Result<(), Refused> {
        let refused = |errno| Err(Refused::new(Operation::Preserve, errno).session(&b"vm-7"[..].into()).token(token));
        let mut files = self.files.borrow_mut();
        if self.limit == Some(files.len()) {
            return refused(Errno::NOSPC);
        }
        if files.contains_key(&token) {
            return refused(Errno::EXIST);
        }
        let inode = |file: BorrowedFd<'_>| fstat(file).unwrap().st_ino;
        if files.values().any(|other| inode(other.as_fd()) == inode(file)) {
            return refused(Errno::BUSY);
        }
        files.insert(token, file.try_clone_to_owned().unwrap());
        Ok(())
    }
}

impl Give for Stand {
    fn give(&self, token: u64) -> Result<OwnedFd, Refused> {
        match self.files.borrow().get(&token) {
            Some(file) => Ok(file.try_clone().unwrap()),
            None => {
                let refused = Refused::new(Operation::RetrieveFile, Errno::NOENT);
                Err(refused.session(&b"vm-7"[..].into()).token(token))
            }
        }
    }
}

impl Stand {
    /// What the next kernel makes of it: other files, of the mode 0777, with the bytes, seals and positions.
    fn kexec(&self) -> Stand {
        let next = |file: &OwnedFd| {
            let size = fstat(file).unwrap().st_size as u64;
            let mut bytes = vec![0; size as usize];
            std::fs::File::from(file.try_clone().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
            let new = memfd(&bytes, MemfdFlags::EXEC);
            rustix::fs::seek(&new, SeekFrom::Start(rustix::fs::seek(file, SeekFrom::Current(0)).unwrap())).unwrap();
            fcntl_add_seals(&new, fcntl_get_seals(file).unwrap()).unwrap();
            new
        };
        let files = self.files.borrow().iter().map(|(token, file)| (*token, next(file))).collect();
        Stand { files: RefCell::new(files), limit: None }
    }

    fn replace(&self, token: u64, file: OwnedFd) -> OwnedFd {
        self.files.borrow_mut().insert(token, file).unwrap()
    }

    fn remove(&self, token: u64) {
        self.files.borrow_mut().remove(&token).unwrap();
    }
}

fn memfd(bytes: &[u8], flags: MemfdFlags) -> OwnedFd {
    let file = memfd_create("test", flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&file, bytes).unwrap();
    file
}

/// A handover of bytes and two files.
fn outgoing() -> Outgoing<Bundle> {
    let mut outgoing = Outgoing::new(Bundle::new(1 << 20).unwrap());
    outgoing.preserve("bytes", &Bytes { made_of: MADE_OF, bytes: b"across a kexec" }).unwrap();
    outgoing.preserve_file(9, memfd(b"nine", MemfdFlags::EXEC)).unwrap();
    let sealed = memfd(b"one", MemfdFlags::EXEC);
    fcntl_add_seals(&sealed, SealFlags::WRITE | SealFlags::SEAL).unwrap();
    outgoing.preserve_file(1, sealed).unwrap();
    outgoing
}

fn preserved() -> (Stand, Finished<Bundle>) {
    let (stand, finished) = (Stand::default(), outgoing().finish().unwrap());
    cargo_of(finished.memory()).preserve_by(&stand, &BTreeSet::new()).unwrap();
    (stand, finished)
}

fn restore(incoming: Incoming<Bundle>) -> (Bundle, Vec<u8>, Files) {
    let mut registry = Registry::new();
    let files = registry.add(NODE, FilesNode);
    let bytes = registry.read("bytes", BytesNode { made_of: MADE_OF, limit: 100 });
    let mut restored = incoming.plan(&registry).accept().unwrap().restore().unwrap();
    let (files, bytes) = (restored.take(&files).unwrap(), restored.take(&bytes).unwrap());
    let (bundle, released) = restored.finish();
    released.unwrap();
    (bundle, bytes, files)
}

#[test]
fn a_handover_crosses_twice() {
    let (stand, finished) = preserved();
    assert_eq!(stand.files.borrow().keys().copied().collect::<Vec<_>>(), [1, 9, ARENA, ROOT]);
    let next = stand.kexec();
    drop((stand, finished));
    let (incoming, preserved_at) = take(&next).unwrap();
    assert!(preserved_at <= now() && now() - preserved_at < 60_000_000_000);
    let (bundle, bytes, mut files) = restore(incoming);
    assert_eq!((bytes.as_slice(), files.len()), (&b"across a kexec"[..], 2));
    drop(next);

    // The same arena and files again.
    let mut outgoing = Outgoing::new(bundle);
    for token in [1, 9] {
        outgoing.preserve_file(token, files.take(token).unwrap()).unwrap();
    }
    outgoing.preserve("bytes", &Bytes { made_of: MADE_OF, bytes: b"and again" }).unwrap();
    let (stand, finished) = (Stand::default(), outgoing.finish().unwrap());
    let told = cargo_of(finished.memory()).preserve_by(&stand, &BTreeSet::new()).unwrap();
    // Only what was given back since is a hole.
    assert!(told.summary.filled < (1 << 19) && told.findings.errors() == 0, "{}", told.findings);
    let (_, bytes, files) = restore(take(&stand.kexec()).unwrap().0);
    assert_eq!((bytes.as_slice(), files.len()), (&b"and again"[..], 2));
}

#[test]
fn what_it_costs_is_told() {
    let finished = outgoing().finish().unwrap();
    let blocks = fstat(finished.memory().arena().fd()).unwrap().st_blocks as u64;
    let told = cargo_of(finished.memory()).preserve_by(&Stand::default(), &BTreeSet::new()).unwrap();
    assert_eq!(told.summary.filled, (1 << 20) - blocks * 512);
    assert_eq!((told.files.len(), told.findings.errors(), told.findings.warnings()), (4, 0, 1));
    let text = told.findings.to_string();
    assert!(text.starts_with("warning: arena: holes-filled: holes at offset "), "{text}");
}

/// Refused before the kernel is asked, in these words.
#[track_caller]
fn refused(cargo: &Cargo<'_>, says: &str) {
    let stand = Stand::default();
    let error = cargo.preserve_by(&stand, &BTreeSet::new()).unwrap_err();
    assert!(stand.files.borrow().is_empty(), "the kernel was not asked");
    let SessionError::Told(told) = &error else { panic!("{error}") };
    assert!(told.findings.errors() > 0);
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(lines, [says]);
}

#[test]
fn what_linux_or_the_successor_would_refuse_is_told_before() {
    let arena = Arena::new(1 << 20).unwrap();
    let cargo = || Cargo::new(arena.nonce(), arena.fd());
    let file = memfd(b"x", MemfdFlags::EXEC);
    let file = file.as_fd();
    refused(&cargo().file(1, file).file(2, file), "error: files[0x2]: file-duplicate: the file of token 0x1");
    let other = memfd(b"y", MemfdFlags::EXEC);
    let says = "error: files[0x1]: token-duplicate: another file has this token";
    refused(&cargo().file(1, file).file(1, other.as_fd()), says);
    let says = format!("error: files[0x3]: file-duplicate: the file of token {ARENA:#x}");
    refused(&cargo().file(3, arena.fd()), &says);
    let (pipe, _writer) = std::io::pipe().unwrap();
    let says =
        "error: files[0x4]: file-kind: found no regular file, expected a memfd, or another shmem file without a name";
    refused(&cargo().file(4, pipe.as_fd()), says);
    for token in [ROOT, ARENA, RESERVED] {
        let says = format!(
            "error: files[{token:#x}]: refused: token: found a token of the transport, expected below {RESERVED:#x}"
        );
        refused(&cargo().file(token, file), &says);
    }
    let noexec = memfd(b"x", MemfdFlags::NOEXEC_SEAL);
    let says = "error: files[0x5]: memfd-seals: seals: found 0x20, which comes back as 0x3e: it cannot be written then, \
        expected a memfd made with MFD_EXEC, without F_SEAL_EXEC";
    refused(&cargo().file(5, noexec.as_fd()), says);
    let ticket = Ticket::current().unwrap();
    let says = "error: session: refused: ticket: a way back, which does not cross a kexec";
    refused(&cargo().ticket(&ticket), says);
    assert!(cargo().file(RESERVED - 1, file).preserve_by(&Stand::default(), &BTreeSet::new()).is_ok());
}

#[test]
fn an_arena_of_more_holes_than_memory() {
    let arena = Arena::new(8 << 40).unwrap();
    let stand = Stand::default();
    let error = Cargo::new(arena.nonce(), arena.fd()).preserve_by(&stand, &BTreeSet::new()).unwrap_err();
    assert!(error.to_string().contains("error: session: memory-short: memory: found "), "{error}");
    assert!(stand.files.borrow().is_empty());
}

#[test]
fn a_kernel_that_refuses_in_the_middle_has_no_root() {
    for limit in 0..4 {
        let (stand, finished) = (Stand { limit: Some(limit), ..Stand::default() }, outgoing().finish().unwrap());
        let error = cargo_of(finished.memory()).preserve_by(&stand, &BTreeSet::new()).unwrap_err();
        let SessionError::Refused { refused, preserved } = error else { panic!("{error}") };
        assert_eq!(refused.cause(), Cause::Full);
        assert_eq!(preserved, [ARENA, 1, 9][..limit]);
        assert_eq!(take(&stand.kexec()).unwrap_err().code(), Code::NoHandover);
        // The handover is as it was, for another session.
        let stand = Stand::default();
        cargo_of(finished.memory()).preserve_by(&stand, &BTreeSet::new()).unwrap();
        let (_, bytes, _) = restore(take(&stand.kexec()).unwrap().0);
        assert_eq!(bytes, b"across a kexec");
    }
    // A file of the caller's, who gave the session, under a token of ours.
    let (stand, finished) = (Stand::default(), outgoing().finish().unwrap());
    stand.keep(9, memfd(b"theirs", MemfdFlags::EXEC).as_fd()).unwrap();
    let error = cargo_of(finished.memory()).preserve_by(&stand, &BTreeSet::new()).unwrap_err();
    assert_eq!(error.to_string(), "preserve token 0x9 of session vm-7: a file of this session has that token (EEXIST)");
}

#[test]
fn a_handover_that_is_not_taken_is_there_again() {
    let next = preserved().0.kexec();
    // Nobody knows `bytes`.
    let registry = Registry::new();
    let refused = take(&next).unwrap().0.plan(&registry).accept().unwrap_err();
    assert!(refused.findings.has(Code::ComponentUnknown));
    drop(refused);
    drop(take(&next).unwrap());
    let (_, bytes, _) = restore(take(&next).unwrap().0);
    assert_eq!(bytes, b"across a kexec");
    // Restored, it is gone: the arena has no root.
    assert_eq!(take(&next).unwrap_err().to_string(), "no-handover: fdt_addr: an arena that was not finished");
}

#[track_caller]
fn not_taken(stand: &Stand, says: &str) {
    assert_eq!(take(stand).unwrap_err().to_string(), says);
}

#[test]
fn sessions_that_lack_something() {
    let missing = |token| {
        let next = preserved().0.kexec();
        next.remove(token);
        next
    };
    let no = |token: u64| {
        format!("retrieve token {token:#x} of session vm-7: no file of this session has that token (ENOENT)")
    };
    not_taken(&missing(ROOT), &format!("no-handover: root: {}", no(ROOT)));
    not_taken(&missing(ARENA), &format!("token-missing: arena: {}", no(ARENA)));
    not_taken(&missing(9), &format!("token-missing: files[0x9]: {}", no(9)));
    not_taken(&Stand::default(), &format!("no-handover: root: {}", no(ROOT)));
}

#[test]
fn roots_that_are_none() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let next = preserved().0.kexec();
        let mut bytes = Root::read(next.give(ROOT).unwrap()).unwrap().encode();
        change(&mut bytes);
        let file = memfd(&bytes, MemfdFlags::EXEC);
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE).unwrap();
        next.replace(ROOT, file);
        next
    };
    not_taken(&with(&|bytes| bytes[8] = 2), "version-newer: root: found kho-session-v2, expected kho-session-v1");
    not_taken(
        &with(&|bytes| bytes[0] = b'x'),
        "magic: root.magic: found 0x784b484f5345530a, expected 0x7f4b484f5345530a",
    );
    not_taken(&with(&|bytes| bytes.truncate(20)), "truncated: root.head: found 20 bytes, expected 48 bytes");
    not_taken(&with(&|bytes| bytes.truncate(60)), "truncated: root.tokens: found 12 bytes, expected 16 bytes");
    // A token that the session has not, and one fewer than the handover has.
    let other = |bytes: &mut Vec<u8>| bytes[48] = 77;
    let no = "retrieve token 0x4d of session vm-7: no file of this session has that token (ENOENT)";
    not_taken(&with(&other), &format!("token-missing: files[0x4d]: {no}"));
    let (incoming, _) = take(&with(&|bytes| {
        bytes.truncate(56);
        bytes[40] = 1;
    }))
    .unwrap();
    let mut registry = Registry::new();
    registry.add(NODE, FilesNode);
    registry.read("bytes", BytesNode { made_of: MADE_OF, limit: 100 });
    let refused = incoming.plan(&registry).accept().unwrap_err();
    assert!(refused.findings.has(Code::TokenMissing), "{}", refused.findings);
}

#[test]
fn arenas_that_are_not_of_this_handover() {
    let next = preserved().0.kexec();
    let another = preserved().0.kexec();
    let nonces = [&next, &another].map(|stand| Root::read(stand.give(ROOT).unwrap()).unwrap().nonce);
    let ours = next.replace(ARENA, another.give(ARENA).unwrap());
    let [expected, found] = nonces;
    let says = format!("file-identity: nonce: found an arena of the handover {found:#x}, expected {expected:#x}");
    not_taken(&next, &says);
    next.replace(ARENA, memfd(b"x", MemfdFlags::EXEC));
    assert_eq!(take(&next).unwrap_err().code(), Code::MemfdSeals);
    // Nothing was lost by that.
    next.replace(ARENA, ours);
    assert!(take(&next).is_ok());
}

#[test]
fn another_file_in_the_place_of_ours_stops_the_plan() {
    let next = preserved().0.kexec();
    next.replace(9, memfd(b"longer than nine", MemfdFlags::EXEC));
    let mut registry = Registry::new();
    registry.add(NODE, FilesNode);
    registry.read("bytes", BytesNode { made_of: MADE_OF, limit: 100 });
    let refused = take(&next).unwrap().0.plan(&registry).accept().unwrap_err();
    assert_eq!(refused.findings.kept()[0].fault.code(), Code::FileIdentity, "{}", refused.findings);
}
