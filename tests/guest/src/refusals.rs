use crate::Fails;
use crate::scenario;
use crate::shim::*;
use crate::system::say;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;

fn show<T>(name: &str, r: std::io::Result<T>) {
    say(&format!("probe: {name}: {:?}", r.map(|_| ())))
}

pub(crate) fn before() -> Fails {
    let d = Device::open()?;
    show("second opener", Device::open());
    let s = d.create("a")?;
    show("duplicate", d.create("a"));
    show("empty name", d.create(""));
    show("64 name", d.create(&"x".repeat(64)));
    show("retrieve session", d.retrieve("a"));
    let m = memfd_create("x", MemfdFlags::ALLOW_SEALING)?;
    s.preserve(&m, 1)?;
    show("same inode", s.preserve(&m, 2));
    let s2 = d.create("b")?;
    show("same inode other session", s2.preserve(&m, 1));
    let m2 = memfd_create("y", MemfdFlags::ALLOW_SEALING)?;
    show("same token", s.preserve(&m2, 1));
    std::fs::write("/tmp/file", b"x")?;
    show("tmpfs", s.preserve(File::open("/tmp/file")?, 100));
    let f = File::open("/tmp/file")?;
    std::fs::remove_file("/tmp/file")?;
    show("tmpfs unlinked", s.preserve(f, 101));
    show("ramfs", s.preserve(File::open("/init")?, 102));
    show("null", s.preserve(File::open("/dev/null")?, 103));
    show("proc", s.preserve(File::open("/proc/self/stat")?, 104));
    show("path fd", s.preserve(rustix::fs::open("/dev", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())?, 105));
    show("dir", s.preserve(File::open("/dev")?, 106));
    let huge = memfd_create("h", MemfdFlags::HUGETLB);
    show("hugetlb memfd", huge.as_ref().map_err(|e| (*e).into()));
    if let Ok(h) = huge {
        show("hugetlb", s.preserve(h, 107));
    }
    show("retrieve fd on outgoing", s.retrieve(1));
    show("finish outgoing", s.finish());
    let w = memfd_create("ro", MemfdFlags::ALLOW_SEALING)?;
    let ro = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&w)))?;
    show("read-only", s.preserve(ro, 4));
    let big = memfd_create("big", MemfdFlags::empty())?;
    show("truncate 1<<45", rustix::fs::ftruncate(&big, 1 << 45).map_err(Into::into));
    show("efbig", s.preserve(big, 5));
    let g = memfd_create("g", MemfdFlags::ALLOW_SEALING)?;
    s.preserve(&g, 7)?;
    show("addseals after", rustix::fs::fcntl_add_seals(&g, rustix::fs::SealFlags::GROW).map_err(Into::into));
    let _ = scenario::PAGE;
    let m = File::from(m);
    show("grow", m.set_len(8192));
    show("write", std::os::unix::fs::FileExt::write_all_at(&m, b"abc", 0));
    drop(s);
    show("grow after", m.set_len(8192));
    show("same inode after close", s2.preserve(&m, 1));
    Ok(())
}
