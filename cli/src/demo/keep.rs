//! `--keep`: what a reader of the handover would want to look at.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use kho::fdt::{Fdt, dts};
use kho::files::Files;
use kho::mem::{Arena, Memory as _};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::Progress;

type Failed = Box<dyn std::error::Error>;

/// Writes `handover.dtb`, `handover.dts`, `arena.img`, `memfd.img` and `files/TOKEN`. Nothing of the handover has been
/// released yet, so that all of it is as the predecessor left it.
pub(super) fn keep(dir: &Path, arena: &Arena, files: &Files, memfd: &OwnedFd) -> Result<(), Failed> {
    let said = |error: std::io::Error| format!("{}: {error}", dir.display());
    std::fs::create_dir_all(dir.join("files")).map_err(said)?;
    let (root, size) = arena.root().ok_or("the arena names no root")?;
    let mut dtb = vec![0; usize::try_from(size)?];
    arena.read(root, &mut dtb)?;
    std::fs::write(dir.join("handover.dtb"), &dtb).map_err(said)?;
    let mut text = String::new();
    dts::print(&Fdt::parse(&dtb)?, &mut text)?;
    std::fs::write(dir.join("handover.dts"), text).map_err(said)?;
    copy(arena.read_only_fd()?, &dir.join("arena.img"))?;
    copy(memfd, &dir.join("memfd.img"))?;
    for (token, file) in files.iter() {
        copy(file, &dir.join("files").join(format!("{token:x}")))?;
    }
    Ok(())
}

/// Copies what is data; holes stay holes.
fn copy(from: impl AsFd, path: &Path) -> Result<(), Failed> {
    let pos = rustix::fs::seek(&from, SeekFrom::Current(0))?;
    let size = u64::try_from(rustix::fs::fstat(&from)?.st_size)?;
    let source = File::from(from.as_fd().try_clone_to_owned()?);
    let target = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    target.set_len(size)?;
    let mut progress = Progress::new("keeping", size);
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(&from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&from, SeekFrom::Hole(data))?;
        progress.add(data - at);
        at = data;
        while at < end {
            let len = usize::try_from((end - at).min(1 << 20))?;
            source.read_exact_at(&mut piece[..len], at)?;
            target.write_all_at(&piece[..len], at).map_err(|error| format!("{}: {error}", path.display()))?;
            at += u64::try_from(len)?;
            progress.add(u64::try_from(len)?);
        }
    }
    // The position belongs to the file, not to the descriptor, and the file is the successor's.
    rustix::fs::seek(&from, SeekFrom::Start(pos))?;
    Ok(())
}
