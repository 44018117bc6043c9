//! Arriving: finding the parcel that was left for this process, and nothing else.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::exec::VARIABLE;
use super::line::{Keep, is_keep_of};
use super::parcel::{Head, Prefix, check_head, check_version, is_head_of};
use super::{Parcel, socket, sys};
use crate::liveupdate::inherited;
use crate::report::{Code, Fault};

/// Set by the first arrival of this process.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the parcel that the predecessor left for this process; `None` when there is none.
///
/// There is none when [`VARIABLE`] is not set or not well-formed, names another process, or names a descriptor that is
/// not the socket of that handover (closed since, or opened anew for something else): such a descriptor is left exactly
/// as it is. Neither is there one in a program that the kernel started in secure mode (set-user-id and the like), nor
/// the second time.
///
/// Call it early: other code of the process may close or list inherited descriptors. The inherited descriptor stays open
/// until the process ends or execs, as an empty socket that is close-on-exec: nothing shows that it is nobody else's to
/// close. The variable stays in the environment, because a process with threads cannot change that safely; it is
/// worthless after the arrival.
///
/// # Errors
/// A parcel is there and cannot be taken. [`Code::VersionOlder`] and [`Code::VersionNewer`]: it was packed by another
/// version of this library; it stays where it is, and a program that understands it can be exec'd in this process.
/// After all others ([`Code::ParcelLimit`], [`Code::ParcelCount`], [`Code::Truncated`] and so on) it is lost.
pub fn arrive() -> Result<Option<Parcel>, Fault> {
    let Some(variable) = std::env::var_os(VARIABLE) else { return Ok(None) };
    arrive_by(&variable, std::process::id(), sys::secure(), &TAKEN)
}

/// What came for this process.
#[derive(Debug)]
pub(super) enum Came {
    /// A handover.
    Parcel(Box<Parcel>),
    /// The wish to keep one: a socket to who will leave.
    Keep(OwnedFd),
}

/// As [`arrive`], and what a keeper is started with.
pub(super) fn came() -> Result<Option<Came>, Fault> {
    let Some(variable) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let Some(named) = parse(&variable).filter(|named| named.keeps && !sys::secure()) else {
        return arrive().map(|parcel| parcel.map(Box::new).map(Came::Parcel));
    };
    // Made by who started this process, which is named by its number.
    let Some((socket, _)) = ours(named.number, named.pid, named.nonce)? else { return Ok(None) };
    check_version(named.version)?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    sys::close_on_exec(named.number).map_err(|error| Fault::new(Code::Io).item(VARIABLE).found(error))?;
    Ok(Some(Came::Keep(socket)))
}

fn arrive_by(variable: &OsStr, pid: u32, secure: bool, taken: &AtomicBool) -> Result<Option<Parcel>, Fault> {
    let is_ours = |named: &Named| named.pid == pid && !named.keeps && !secure;
    let Some(Named { number, version, nonce, .. }) = parse(variable).filter(is_ours) else {
        return Ok(None);
    };
    let Some((ours, first)) = ours(number, pid, nonce)? else { return Ok(None) };
    check_version(version)?;
    check_head(first.get(..size_of::<Head>()).unwrap_or(&first))?;
    // From here on the parcel is consumed: by one thread only.
    if taken.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    sys::close_on_exec(number).map_err(|error| Fault::new(Code::Io).item(VARIABLE).found(error))?;
    let parcel = socket::receive(ours.as_fd(), usize::MAX, socket::Wait::Never)?;
    socket::nothing_left(ours.as_fd())?;
    Ok(Some(parcel))
}

/// What [`VARIABLE`] says.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    number: RawFd,
    pid: u32,
    nonce: u64,
    version: u32,
    /// It is to keep a handover, and was started by that process.
    keeps: bool,
}

fn parse(variable: &OsStr) -> Option<Named> {
    let mut fields = variable.to_str()?.split(':');
    let (number, pid, nonce, version) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let keeps = version.starts_with('k');
    let version = version.strip_prefix(['v', 'k'])?;
    if fields.next().is_some() || ![number, pid, version].into_iter().all(digits) {
        return None;
    }
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if nonce.len() != 16 || !nonce.bytes().all(hex) {
        return None;
    }
    Some(Named {
        number: number.parse().ok()?,
        pid: pid.parse().ok()?,
        nonce: u64::from_str_radix(nonce, 16).ok()?,
        version: version.parse().ok()?,
        keeps,
    })
}

/// A duplicate of the socket behind `number` and the first bytes in it, if it is the one of that handover.
///
/// Nothing is consumed, and nothing is done to the descriptor that could be noticed if it is somebody else's.
fn ours(number: RawFd, pid: u32, nonce: u64) -> Result<Option<(OwnedFd, Vec<u8>)>, Fault> {
    // Inherited means: close-on-exec is off. What this process opened itself has it on, as a rule.
    match sys::flags(number) {
        Ok(flags) if flags & libc::FD_CLOEXEC == 0 => {}
        _ => return Ok(None),
    }
    let socket = match inherited(number) {
        Ok(socket) => socket,
        // EMFILE: the parcel may be there, and would not fit anyway.
        Err(error) => return Err(Fault::new(Code::Io).item(VARIABLE).found(error)),
    };
    let kind = (sockopt::socket_domain(&socket), sockopt::socket_type(&socket));
    if kind != (Ok(AddressFamily::UNIX), Ok(SocketType::SEQPACKET)) {
        return Ok(None);
    }
    // The pair was made by that very process, before exec.
    if sys::peer(socket.as_fd()).ok().map(|[maker, ..]| maker) != Some(pid) {
        return Ok(None);
    }
    let mut first = [0; size_of::<Prefix>() + size_of::<Keep>()];
    let copied = socket::recv_peek(socket.as_fd(), &mut first).unwrap_or(0);
    let seen = first.get(..copied).unwrap_or_default();
    Ok((is_head_of(seen, nonce) || is_keep_of(seen, nonce)).then_some((socket, seen.to_vec())))
}

#[cfg(test)]
#[path = "arrive_tests.rs"]
mod tests;
