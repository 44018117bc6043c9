//! Sessions: made, taken, held against what they must be.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use kho::liveupdate::{Device, NewSession, RetrievedSession};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

use crate::scenario::{self, BY_COMMAND, CLOSED, EXEC, Memfd, Session};
use crate::system::{option, say};
use crate::{Fails, command, refusals, step};

/// What must not be dropped before the kernel is left.
#[derive(Default)]
pub(crate) struct Held {
    sessions: Vec<NewSession>,
    holder: Option<std::process::Child>,
}

fn wanted() -> Vec<Session> {
    scenario::sessions(&option("kho_scenario").unwrap_or_default())
}

/// Makes all sessions.
pub(crate) fn make() -> Fails<Held> {
    let mut held = Held::default();
    let device = Device::open()?;
    for wanted in wanted().iter().filter(|session| session.name != BY_COMMAND) {
        held.sessions.push(one(&device, wanted)?);
    }
    drop(device);
    if let Some(wanted) = wanted().iter().find(|session| session.name == BY_COMMAND) {
        held.holder = Some(command::make(wanted)?);
    }
    Ok(held)
}

fn one(device: &Device, wanted: &Session) -> Fails<NewSession> {
    let session = device.create(&wanted.name)?;
    // What the kernel calls it.
    let session = NewSession::from_fd(session.into()).map_err(|(_, refused)| refused)?;
    if session.name().as_bytes() != wanted.name.as_bytes() {
        return Err(format!("{:?} is called {}", wanted.name, session.name()).into());
    }
    for memfd in &wanted.files {
        let mut file = empty(memfd)?;
        if memfd.late {
            session.preserve(memfd.token, &file)?;
            fill(&mut file, &wanted.name, memfd)?;
        } else {
            fill(&mut file, &wanted.name, memfd)?;
            session.preserve(memfd.token, file)?;
        }
    }
    Ok(session)
}

/// Of its size, all of it a hole.
fn empty(wanted: &Memfd) -> Fails<File> {
    // Without a word about it, they can be executed.
    let mode = if wanted.seals & EXEC == 0 { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | mode)?);
    file.set_len(wanted.size)?;
    Ok(file)
}

fn fill(file: &mut File, session: &str, wanted: &Memfd) -> Fails {
    let bytes = wanted.bytes(session);
    for range in &wanted.written {
        file.write_all_at(&bytes[range.start as usize..range.end as usize], range.start)?;
    }
    file.seek(SeekFrom::Start(wanted.pos))?;
    Ok(fcntl_add_seals(file, SealFlags::from_bits_retain(wanted.seals))?)
}

pub(crate) fn create(session: &str, wanted: &Memfd) -> Fails<File> {
    let mut file = empty(wanted)?;
    fill(&mut file, session, wanted)?;
    Ok(file)
}

/// Takes all sessions, and unless it is the last boot makes them again.
pub(crate) fn take(boot: u32, last: bool) -> Fails<Held> {
    let device = Device::open()?;
    let mut taken = Vec::new();
    for wanted in wanted().iter().filter(|session| session.name != BY_COMMAND) {
        taken.push((wanted.clone(), session(&device, wanted)?));
    }
    say(&format!("guest: ok take {boot}"));
    let mut held = Held::default();
    if !last {
        step(&format!("again {boot}"), || {
            for (wanted, files) in &taken {
                held.sessions.push(again(&device, wanted, files)?);
            }
            Ok(())
        })?;
    }
    drop(device);
    if let Some(wanted) = crate::sessions::wanted().iter().find(|session| session.name == BY_COMMAND) {
        step(&format!("command {boot}"), || {
            if last {
                return command::take(wanted);
            }
            held.holder = Some(command::pass_on(wanted)?);
            Ok(())
        })?;
    }
    Ok(held)
}

fn session(device: &Device, wanted: &Session) -> Fails<Vec<File>> {
    let session = device.retrieve(&wanted.name)?;
    if wanted.name == CLOSED {
        drop(OwnedFd::from(session));
        refusals::gone(device, "a freed session", CLOSED)?;
        return Ok(Vec::new());
    }
    let session = RetrievedSession::from_fd(session.into()).map_err(|(_, refused)| refused)?;
    if session.name().as_bytes() != wanted.name.as_bytes() {
        return Err(format!("{:?} is called {}", wanted.name, session.name()).into());
    }
    let mut files = Vec::new();
    // Not in the order in which they were preserved.
    for memfd in wanted.files.iter().rev() {
        files.push(same(&wanted.name, memfd, session.retrieve(memfd.token)?)?);
    }
    files.reverse();
    if wanted.name == "sizes" {
        the_same_open_file(&session, &wanted.files[2], &mut files[2])?;
        refusals::after(device, &session, &files[2])?;
    }
    session.finish().map_err(|(_, refused)| refused)?;
    if wanted.name == "sizes" {
        refusals::gone(device, "a finished session", &wanted.name)?;
    }
    Ok(files)
}

/// Retrieved twice, a file is the same open file: one position.
fn the_same_open_file(session: &RetrievedSession, wanted: &Memfd, file: &mut File) -> Fails {
    let mut other = File::from(session.retrieve(wanted.token)?);
    other.seek(SeekFrom::Start(17))?;
    let at = file.stream_position()?;
    file.seek(SeekFrom::Start(wanted.pos))?;
    if at == 17 { Ok(()) } else { Err("retrieved twice, it is another file".into()) }
}

/// With the files that came, except those that were freed.
fn again(device: &Device, wanted: &Session, files: &[File]) -> Fails<NewSession> {
    if wanted.name == CLOSED {
        return one(device, wanted);
    }
    let session = device.create(&wanted.name)?;
    for (memfd, file) in wanted.files.iter().zip(files) {
        session.preserve(memfd.token, file)?;
    }
    Ok(session)
}

/// The file, if it is what was preserved.
pub(crate) fn same(session: &str, wanted: &Memfd, fd: OwnedFd) -> Fails<File> {
    let mut file = File::from(fd);
    let (stat, seals) = (file.metadata()?, fcntl_get_seals(&file)?.bits());
    // The position first: what follows does not change it.
    let is = (file.stream_position()?, stat.len(), stat.mode() & 0o777, seals);
    let must_be = (wanted.pos, wanted.size, 0o777, wanted.seals_restored());
    let at = format!("{session} {:#x}", wanted.token);
    if is != must_be {
        return Err(format!("{at}: position, size, mode, seals are {is:?} and not {must_be:?}").into());
    }
    let mut bytes = vec![0; wanted.size as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let expected = wanted.bytes(session);
    if bytes != expected {
        let first = bytes.iter().zip(&expected).position(|(one, other)| one != other);
        return Err(format!("{at}: other bytes, the first one at {first:?}").into());
    }
    Ok(file)
}
