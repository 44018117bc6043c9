//! Whether a file can be mapped as a region says, now and for good.

use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;

use rustix::fs::{OFlags, SealFlags};

use super::aligned;
use crate::abi::guest::{PROT_WRITE, Region};
use crate::files;
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// What is known of a file behind a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backing {
    /// Whether it is open for writing too.
    pub(super) writable: bool,
    /// Whether it is made of huge pages.
    pub(super) huge: bool,
    /// Device and inode.
    pub(super) inode: (u64, u64),
}

fn system(what: &'static str) -> impl Fn(rustix::io::Errno) -> Fault {
    move |errno| Fault::new(Code::Io).item(what).found(errno)
}

impl Backing {
    /// Looks at a memfd that cannot become shorter any more.
    pub(super) fn of(file: BorrowedFd<'_>) -> Result<(Backing, SealFlags), Fault> {
        files::is_memfd(file)?;
        let seals = rustix::fs::fcntl_get_seals(file).map_err(system("F_GET_SEALS"))?;
        if !seals.contains(SealFlags::SHRINK) {
            let fault = Fault::new(Code::MemfdSeals).item("seals").found("a memfd that can be truncated");
            return Err(fault.expected("one that cannot: seal it with F_SEAL_SHRINK"));
        }
        let access = rustix::fs::fcntl_getfl(file).map_err(system("F_GETFL"))? & OFlags::ACCMODE;
        if access == OFlags::WRONLY {
            let fault = Fault::new(Code::FileKind).item("access").found("a descriptor for writing only");
            return Err(fault.expected("one that can be mapped"));
        }
        let stat = rustix::fs::fstat(file).map_err(system("fstat"))?;
        Ok((
            Backing {
                writable: access == OFlags::RDWR,
                huge: huge_page(file)?.is_some(),
                inode: (stat.st_dev, stat.st_ino),
            },
            seals,
        ))
    }

    /// Looks at the memfd of a region: whether mapping it as the region says will be done, and no address of it can ever
    /// be behind the end of the file. What this says stays true, because seals are never taken off.
    pub(super) fn for_region(region: &Region, file: BorrowedFd<'_>) -> Result<Backing, Fault> {
        let (backing, seals) = Backing::of(file.as_fd()).map_err(|fault| fault.within("file"))?;
        if region.prot.get() & PROT_WRITE != 0 {
            if !backing.writable {
                let fault = Fault::new(Code::FileKind).item("file.access").found("a descriptor for reading only");
                return Err(fault.expected("one for reading and writing, as the region says"));
            }
            // A mapping from before the seal can be written still; nobody gets another one.
            for (seal, name) in [(SealFlags::WRITE, "F_SEAL_WRITE"), (SealFlags::FUTURE_WRITE, "F_SEAL_FUTURE_WRITE")] {
                if seals.contains(seal) {
                    let fault = Fault::new(Code::MemfdSeals).item("file.seals").found(name);
                    return Err(fault.expected("a memfd that can be mapped for writing, as the region says"));
                }
            }
        }
        aligned(region, u64_of(rustix::param::page_size()))?;
        if let Some(page) = huge_page(file)? {
            aligned(region, page)?;
        }
        let size = rustix::fs::fstat(file).map_err(system("fstat"))?.st_size;
        let end = region.offset.get().saturating_add(region.size.get());
        if u64::try_from(size).unwrap_or(0) < end {
            let fault = Fault::new(Code::MemfdSize).item("file.size").found(format_args!("{size:#x}"));
            return Err(fault.expected(format_args!("at least {end:#x}, where the region ends")));
        }
        Ok(backing)
    }
}

/// The size of the pages of a file of hugetlbfs.
fn huge_page(file: BorrowedFd<'_>) -> Result<Option<u64>, Fault> {
    let of = rustix::fs::fstatfs(file).map_err(system("fstatfs"))?;
    Ok((of.f_type == libc::HUGETLBFS_MAGIC).then(|| u64::try_from(of.f_bsize).unwrap_or(u64::MAX)))
}
