//! What the kernel must refuse, and what it must not.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use kho::liveupdate::{Cause, Device, NewSession, Refused, RetrievedSession, preflight};
use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create};
use rustix::io::Errno;

use crate::expected::{self, Refusal};
use crate::scenario;
use crate::system::option;
use crate::{Fails, step};

/// A cause and an errno; none where the kernel did it.
type Answer = Option<(Cause, i32)>;

struct Expected(&'static [Refusal]);

impl Expected {
    fn is(&self, name: &str, answer: Answer) -> Fails {
        let &(_, cause, errno) = self.0.iter().find(|(known, ..)| *known == name).ok_or(format!("{name}: who?"))?;
        step(&format!("refused {name}"), || match answer {
            Some(got) if got == (cause, errno.raw_os_error()) => Ok(()),
            got => Err(format!("{got:?} and not {cause:?} {errno:?}").into()),
        })
    }

    /// The kernel does not take a file, and preflight knows that before.
    fn file(&self, name: &str, session: &NewSession, file: impl AsFd) -> Fails {
        let told = preflight(&[(77, &file)]);
        if told.findings.errors() == 0 {
            return Err(format!("{name}: preflight takes it").into());
        }
        self.is(name, refused(session.preserve(77, file)))
    }
}

fn refused<T>(result: Result<T, Refused>) -> Answer {
    result.err().map(|refused| (refused.cause(), refused.errno()))
}

fn given<T>(result: Result<T, (OwnedFd, Refused)>) -> Answer {
    result.err().map(|(_, refused)| (refused.cause(), refused.errno()))
}

fn system(result: std::io::Result<()>) -> Answer {
    result.err().map(|error| (Cause::Unknown, error.raw_os_error().unwrap_or(0)))
}

/// Before sessions are made; nothing of it stays.
pub(crate) fn before() -> Fails {
    let expected = Expected(&expected::BEFORE);
    let device = Device::open()?;
    expected.is("a second opener", refused(Device::open()))?;
    expected.is("a session that nobody left", refused(device.retrieve("one")))?;
    let one = device.create("one")?;
    expected.is("a second session of that name", refused(device.create("one")))?;
    expected.is("no name", refused(device.create("")))?;
    expected.is("a name of 64 bytes", refused(device.create("x".repeat(64))))?;

    let file = File::from(memfd()?);
    file.set_len(scenario::PAGE)?;
    expected.is("a new session as a retrieved one", given(RetrievedSession::from_fd(again(&one)?)))?;
    expected.is("a memfd as a session", given(NewSession::from_fd(again(&file)?)))?;
    expected.is("the device as a session", given(NewSession::from_fd(again(&device)?)))?;
    one.preserve(1, &file)?;
    expected.is("a file under a second token", refused(one.preserve(2, &file)))?;
    let two = device.create("two")?;
    expected.is("a file in a second session", refused(two.preserve(1, &file)))?;
    expected.is("a second file under that token", refused(one.preserve(1, memfd()?)))?;
    kinds(&expected, &two)?;

    expected.is("a larger file than it was", system(file.set_len(2 * scenario::PAGE)))?;
    expected.is("bytes behind the end", system(file.write_all_at(b"x", scenario::PAGE)))?;
    step("bytes in place", || Ok(file.write_all_at(b"x", 5)?))?;
    // A second descriptor of a session holds it; the last one that is closed gives its files free.
    let second = again(&one)?;
    drop(one);
    if refused(two.preserve(1, &file)) != Some((Cause::FileTaken, Errno::BUSY.raw_os_error())) {
        return Err("a session ended that was still open".into());
    }
    drop(second);
    step("free again", || {
        file.set_len(2 * scenario::PAGE)?;
        Ok(two.preserve(1, &file)?)
    })
}

fn kinds(expected: &Expected, session: &NewSession) -> Fails {
    fs::write("/tmp/named", "x")?;
    expected.file("a file with a name", session, File::open("/tmp/named")?)?;
    expected.file("a file of the initramfs", session, File::open("/init")?)?;
    expected.file("a file of procfs", session, File::open("/proc/cmdline")?)?;
    expected.file("a folder", session, File::open("/tmp")?)?;
    expected.file("a device", session, File::open("/dev/null")?)?;
    expected.file("a pipe", session, std::io::pipe()?.0)?;
    expected.file("a session", session, again(session)?)?;
    expected.file("hugetlb", session, memfd_create("huge", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB)?)?;
    let path = rustix::fs::open("/tmp/named", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    expected.file("O_PATH", session, path)?;
    let large = memfd()?;
    ftruncate(&large, scenario::PAGE << 32)?;
    expected.file("2^32 pages", session, large)?;
    let unlinked = File::open("/tmp/named")?;
    fs::remove_file("/tmp/named")?;
    step("a file without a name", || Ok(session.preserve(3, unlinked)?))
}

/// In the next kernel: with a session that was retrieved and is not finished, and a file of it.
pub(crate) fn after(device: &Device, session: &RetrievedSession, file: &File) -> Fails {
    if option("kho_refusals").is_none() {
        return Ok(());
    }
    let expected = Expected(&expected::AFTER);
    expected.is("a session that nobody left", refused(device.retrieve("one")))?;
    expected.is("a session twice", refused(device.retrieve(session.name().as_bytes())))?;
    expected.is("a retrieved session as a new one", given(NewSession::from_fd(again(session)?)))?;
    expected.is("a token that nobody gave", refused(session.retrieve(0xdead)))?;
    let new = device.create(session.name().as_bytes())?;
    expected.is("a file of an unfinished session", refused(new.preserve(1, file)))?;
    fs::write("/tmp/named", "x")?;
    expected.file("a file with a name", &new, File::open("/tmp/named")?)
}

/// A session that ended.
pub(crate) fn gone(device: &Device, what: &str, name: &str) -> Fails {
    if option("kho_refusals").is_none() {
        return Ok(());
    }
    Expected(&expected::AFTER).is(what, refused(device.retrieve(name)))
}

fn memfd() -> Fails<OwnedFd> {
    Ok(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

fn again(fd: impl AsFd) -> Fails<OwnedFd> {
    Ok(fd.as_fd().try_clone_to_owned()?)
}
