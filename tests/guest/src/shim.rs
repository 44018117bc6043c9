#![allow(unsafe_code)]
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
pub(crate) struct Device(File);
pub(crate) struct Session(OwnedFd);
#[repr(C)]
struct ByName {
    size: u32,
    fd: i32,
    name: [u8; 64],
}
#[repr(C)]
struct ByToken {
    size: u32,
    fd: i32,
    token: u64,
}
#[repr(C)]
struct Fin {
    size: u32,
    reserved: u32,
}
fn call<T>(fd: i32, nr: u64, arg: &mut T) -> io::Result<()> {
    let r = unsafe { libc::ioctl(fd, 0xba00 | nr, arg as *mut T) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
fn byname(n: &str) -> ByName {
    let mut b = ByName { size: 72, fd: -1, name: [0; 64] };
    let l = n.len().min(64);
    b.name[..l].copy_from_slice(&n.as_bytes()[..l]);
    b
}
impl Device {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Device(File::options().read(true).write(true).open("/dev/liveupdate")?))
    }
    pub(crate) fn create(&self, n: &str) -> io::Result<Session> {
        let mut b = byname(n);
        call(self.0.as_raw_fd(), 0, &mut b)?;
        Ok(Session(unsafe { OwnedFd::from_raw_fd(b.fd) }))
    }
    pub(crate) fn retrieve(&self, n: &str) -> io::Result<Session> {
        let mut b = byname(n);
        call(self.0.as_raw_fd(), 1, &mut b)?;
        Ok(Session(unsafe { OwnedFd::from_raw_fd(b.fd) }))
    }
}
impl Session {
    pub(crate) fn preserve(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        call(self.0.as_raw_fd(), 0x40, &mut ByToken { size: 16, fd: fd.as_fd().as_raw_fd(), token })
    }
    pub(crate) fn retrieve(&self, token: u64) -> io::Result<OwnedFd> {
        let mut b = ByToken { size: 16, fd: -1, token };
        call(self.0.as_raw_fd(), 0x41, &mut b)?;
        Ok(unsafe { OwnedFd::from_raw_fd(b.fd) })
    }
    pub(crate) fn finish(&self) -> io::Result<()> {
        call(self.0.as_raw_fd(), 0x42, &mut Fin { size: 8, reserved: 0 })
    }
    pub(crate) fn name(&self) -> io::Result<String> {
        let mut b = byname("");
        b.fd = 0;
        call(self.0.as_raw_fd(), 0x43, &mut b)?;
        Ok(String::from_utf8_lossy(b.name.split(|&x| x == 0).next().unwrap()).into_owned())
    }
}
