//! Sessions: made, taken, held against what they must be.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

use crate::scenario::{self, EXEC, Memfd};
use crate::shim::{Device, Session};
use crate::system::{option, say};
use crate::{Fails, step};

/// A session that is to survive: the descriptor keeps it.
pub(crate) struct Held {
    _session: Session,
}

/// Makes all sessions.
pub(crate) fn make() -> Fails<Vec<Held>> {
    let scenario = option("kho_scenario").unwrap_or_default();
    let device = Device::open()?;
    let mut held = Vec::new();
    for wanted in scenario::sessions(&scenario) {
        let session = device.create(&wanted.name)?;
        if session.name()? != wanted.name {
            return Err(format!("{:?} is called {:?}", wanted.name, session.name()?).into());
        }
        for memfd in &wanted.files {
            let file =
                create(&wanted.name, memfd).map_err(|error| format!("create {} {memfd:x?}: {error}", wanted.name))?;
            session
                .preserve(file, memfd.token)
                .map_err(|error| format!("preserve {} {memfd:x?}: {error}", wanted.name))?;
        }
        held.push(Held { _session: session });
    }
    Ok(held)
}

pub(crate) fn create(session: &str, wanted: &Memfd) -> Fails<File> {
    // Without it, Linux makes them executable.
    let mode = if wanted.seals & EXEC == 0 { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
    let mut file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | mode)?);
    file.set_len(wanted.size)?;
    let bytes = wanted.bytes(session);
    for range in &wanted.written {
        file.write_all_at(&bytes[range.start as usize..range.end as usize], range.start)?;
    }
    file.seek(SeekFrom::Start(wanted.pos))?;
    fcntl_add_seals(&file, SealFlags::from_bits_retain(wanted.seals))?;
    Ok(file)
}

/// Takes all sessions, and makes them again.
pub(crate) fn take(boot: u32, last: bool) -> Fails<Vec<Held>> {
    let scenario = option("kho_scenario").unwrap_or_default();
    let device = Device::open()?;
    let mut again = Vec::new();
    for wanted in scenario::sessions(&scenario) {
        let session = device.retrieve(&wanted.name).map_err(|error| format!("retrieve {:?}: {error}", wanted.name))?;
        let mut files = Vec::new();
        // Not in the order in which they were preserved.
        for memfd in wanted.files.iter().rev() {
            let file = session
                .retrieve(memfd.token)
                .map_err(|error| format!("{} {:#x}: {error}", wanted.name, memfd.token))?;
            files.push((memfd.token, same(&wanted.name, memfd, file)?));
        }
        session.finish().map_err(|error| format!("finish {:?}: {error}", wanted.name))?;
        drop(session);
        files.reverse();
        again.push((wanted.name, files));
    }
    say(&format!("guest: ok take {boot}"));
    let mut held = Vec::new();
    if last {
        return Ok(held);
    }
    step(&format!("again {boot}"), || {
        for (name, files) in &again {
            let session = device.create(name)?;
            for (token, file) in files {
                session.preserve(file, *token)?;
            }
            held.push(Held { _session: session });
        }
        Ok(())
    })?;
    Ok(held)
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
