//! What preserving would do to files, told before the kernel is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::abi::block::MAX_BLOCKS;
use crate::abi::luo::File as FileRecord;
use crate::abi::memfd::{Folio, SEALS};
use crate::mem::Geometry;
use crate::memfd::MAX_PAGES;
use crate::num::u64_of;
use crate::report::{Code, Fault, Findings};

/// `F_SEAL_EXEC`.
const EXEC: u32 = 0x20;
/// `F_SEAL_SHRINK`, `GROW`, `WRITE` and `FUTURE_WRITE`: what sealing a file that may be executed adds.
const WRITES: u32 = 0x1e;
/// The mode of every memfd that comes back.
const MODE_AFTER: u32 = 0o777;
/// File systems by the `f_type` of statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// st_blocks counts these.
const SECTOR: u64 = 512;

/// What a file is, as far as preserving goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum FileKind {
    /// A memfd, or other shmem without a name.
    Memfd,
    /// A file of a tmpfs that has a name.
    NamedShmem,
    /// Huge pages of hugetlbfs.
    Hugetlb,
    /// A regular file of another file system.
    Regular,
    /// Not a regular file: a device, a pipe, a socket, an anonymous inode.
    Other,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FileFacts {
    /// Which of the files that were given, from 0.
    pub number: usize,
    /// Its token.
    pub token: u64,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Bytes of memory that it has now, a file's tail filled up to a page.
    pub allocated: u64,
    /// Bytes of memory that Linux would allocate to fill its holes. A page that is in swap is none.
    pub filled: u64,
    /// Its seals; none where the file cannot have any.
    pub seals: Option<u32>,
    /// Its permissions.
    pub mode: u32,
    /// The position of its descriptor.
    pub pos: u64,
}

/// All files together. Each inode is counted once, and only memfds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Summary {
    /// Files.
    pub files: u64,
    /// Bytes of their sizes.
    pub bytes: u64,
    /// Bytes of memory that Linux would allocate to fill their holes.
    pub filled: u64,
    /// Pages of metadata at most: file records, and for each memfd its structure, the array of its folios (16 bytes each,
    /// as if all were single pages) and that array's chunks. Not the tree of preserved pages.
    pub metadata_pages: u64,
}

/// What [`preflight()`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Preflight {
    /// What Linux would refuse (errors), change or pay for (warnings). The node is `token 0x..`, or `session`.
    pub findings: Findings,
    /// The files, as they were given. Those that could not be looked at are missing.
    pub files: Vec<FileFacts>,
    /// All together.
    pub summary: Summary,
}

/// Looks at files that are to be preserved in one session. Nothing is changed, and the device is not needed.
///
/// The rules are those of Linux 7.2 and 7.3; a later kernel may take more.
///
/// | code | severity | when |
/// |---|---|---|
/// | [`Code::TokenDuplicate`] | error | a token stands twice |
/// | [`Code::FileDuplicate`] | error | one file (inode) under two tokens |
/// | [`Code::FileKind`] | error | hugetlb, a file with a name, not shmem at all, opened with `O_PATH` |
/// | [`Code::MemfdSeals`] | error | seals beyond [`SEALS`] |
/// | [`Code::TooLarge`] | error | more than 2^32-1 pages |
/// | [`Code::ListLong`] | error | more files than a session takes |
/// | [`Code::MemoryShort`] | error | less memory is available than that takes: the kernel would kill processes for it |
/// | [`Code::Io`] | error | the file could not be looked at |
/// | [`Code::HolesFilled`] | warning | holes, which are filled with memory; the offset is that of the first |
/// | [`Code::MemfdMode`] | warning | the mode comes back as 0777 |
/// | [`Code::MemfdUnwritable`] | warning | `MFD_NOEXEC_SEAL`: it comes back sealed against writing |
///
/// ```
/// use kho::liveupdate::preflight;
/// use kho::report::Code;
/// use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
///
/// let file = memfd_create("ram", MemfdFlags::CLOEXEC)?;
/// ftruncate(&file, 1 << 20)?;
/// let told = preflight(&[(1, &file), (2, &file)]);
/// assert!(told.findings.has(Code::FileDuplicate));
/// assert_eq!(told.summary.filled, 1 << 20);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn preflight(files: &[(u64, impl AsFd)]) -> Preflight {
    preflight_as(files, |token, fault| Some((format!("token {token:#x}"), fault)))
}

/// As [`preflight()`], by who knows what the tokens stand for: it names the node of what is found of a file, and may see it
/// otherwise or pass over it.
pub(crate) fn preflight_as(
    files: &[(u64, impl AsFd)],
    told_as: impl Fn(u64, Fault) -> Option<(String, Fault)>,
) -> Preflight {
    let geometry = Geometry::with_page_size(u64_of(rustix::param::page_size())).unwrap_or(Geometry::K4);
    let mut told = Preflight::default();
    let mut tokens = BTreeSet::new();
    let mut inodes: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (number, (token, file)) in files.iter().enumerate() {
        let (token, file) = (*token, file.as_fd());
        let mut add = |fault| {
            if let Some((node, fault)) = told_as(token, fault) {
                told.findings.add(&node, fault);
            }
        };
        if !tokens.insert(token) {
            add(Fault::new(Code::TokenDuplicate).found("another file has this token"));
        }
        let facts = match look(number, token, file, geometry) {
            Ok((stat, facts)) => {
                if let Some(first) = inodes.insert((stat.st_dev, stat.st_ino), token) {
                    if first != token {
                        add(Fault::new(Code::FileDuplicate).found(format_args!("the file of token {first:#x}")));
                    }
                    told.files.push(facts);
                    continue;
                }
                facts
            }
            Err(fault) => {
                add(fault);
                continue;
            }
        };
        judge(&facts, file, geometry).into_iter().for_each(&mut add);
        if facts.kind == FileKind::Memfd {
            told.summary.add(&facts, geometry);
        }
        told.files.push(facts);
    }
    let blocks = told.summary.files.div_ceil(records_per_page(geometry));
    if let Some(fault) = too_many(told.summary.files, geometry) {
        told.findings.add("session", fault);
    }
    told.summary.metadata_pages = told.summary.metadata_pages.saturating_add(blocks);
    let metadata = told.summary.metadata_pages.saturating_mul(geometry.page_size());
    let needed = told.summary.filled.saturating_add(metadata);
    if let Some(available) = available().filter(|&available| needed > available) {
        let fault = Fault::new(Code::MemoryShort).item("memory").found(format_args!("{available} bytes available"));
        told.findings
            .add("session", fault.expected(format_args!("{needed} bytes to fill holes and describe the files")));
    }
    told
}

impl Summary {
    fn add(&mut self, facts: &FileFacts, geometry: Geometry) {
        self.files = self.files.saturating_add(1);
        self.bytes = self.bytes.saturating_add(facts.size);
        self.filled = self.filled.saturating_add(facts.filled);
        let records = geometry.pages(facts.size).saturating_mul(u64_of(size_of::<Folio>()));
        let array = geometry.pages(records);
        // A chunk that is exactly full is followed by an empty one.
        let chunks = match array {
            0 => 0,
            pages => pages.checked_div(geometry.chunk_capacity()).unwrap_or(0).saturating_add(1),
        };
        self.metadata_pages = self.metadata_pages.saturating_add(1).saturating_add(array).saturating_add(chunks);
    }
}

fn system(what: &'static str) -> impl Fn(Errno) -> Fault {
    move |errno| Fault::new(Code::Io).item(what).found(errno)
}

fn records_per_page(geometry: Geometry) -> u64 {
    geometry.block_capacity(u64_of(size_of::<FileRecord>())).max(1)
}

pub(super) fn too_many(files: u64, geometry: Geometry) -> Option<Fault> {
    let most = MAX_BLOCKS.saturating_mul(records_per_page(geometry));
    (files > most)
        .then(|| Fault::new(Code::ListLong).item("files").found(files).expected(format_args!("at most {most}")))
}

/// Bytes of memory that may be had without killing for it, as the kernel estimates.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What the file is.
fn look(number: usize, token: u64, file: BorrowedFd<'_>, geometry: Geometry) -> Result<(Stat, FileFacts), Fault> {
    let stat = rustix::fs::fstat(file).map_err(system("fstat"))?;
    let status = rustix::fs::fcntl_getfl(file).map_err(system("F_GETFL"))?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_file && status.contains(OFlags::PATH) {
        return Err(Fault::new(Code::FileKind).found("a descriptor opened with O_PATH").expected(EXPECTED));
    }
    let kind = if is_file {
        let fs = rustix::fs::fstatfs(file).map_err(system("fstatfs"))?;
        match u64::try_from(fs.f_type) {
            Ok(HUGETLBFS_MAGIC) => FileKind::Hugetlb,
            Ok(TMPFS_MAGIC) if stat.st_nlink == 0 => FileKind::Memfd,
            Ok(TMPFS_MAGIC) => FileKind::NamedShmem,
            _ => FileKind::Regular,
        }
    } else {
        FileKind::Other
    };
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(SECTOR);
    let whole = geometry.pages(size).saturating_mul(geometry.page_size());
    let facts = FileFacts {
        number,
        token,
        kind,
        size,
        allocated,
        filled: if kind == FileKind::Memfd { whole.saturating_sub(allocated) } else { 0 },
        seals: rustix::fs::fcntl_get_seals(file).ok().map(|seals| seals.bits()),
        mode: stat.st_mode & 0o7777,
        // What cannot be sought has no position.
        pos: rustix::fs::seek(file, SeekFrom::Current(0)).unwrap_or(0),
    };
    Ok((stat, facts))
}

const EXPECTED: &str = "a memfd, or another shmem file without a name";

/// What Linux would refuse, change or pay for.
pub(super) fn judge(facts: &FileFacts, file: BorrowedFd<'_>, geometry: Geometry) -> Vec<Fault> {
    let kind = match facts.kind {
        FileKind::Memfd => None,
        FileKind::NamedShmem => Some("a shmem file with a name"),
        FileKind::Hugetlb => Some("huge pages (hugetlb)"),
        FileKind::Regular => Some("a file of another file system"),
        FileKind::Other => Some("no regular file"),
    };
    if let Some(kind) = kind {
        return vec![Fault::new(Code::FileKind).found(kind).expected(EXPECTED)];
    }
    let mut faults = Vec::new();
    let seals = facts.seals.unwrap_or(0);
    if seals & !SEALS != 0 {
        let fault = Fault::new(Code::MemfdSeals).item("seals").found(format_args!("{seals:#x}"));
        faults.push(fault.expected(format_args!("seals of {SEALS:#x}")));
    }
    if geometry.pages(facts.size) > MAX_PAGES {
        let fault = Fault::new(Code::TooLarge).item("size").found(facts.size);
        faults.push(fault.expected(format_args!("at most {MAX_PAGES} pages")));
    }
    if facts.filled > 0 {
        let fault = Fault::new(Code::HolesFilled).item("holes");
        let fault = fault.found(format_args!("{} bytes that Linux allocates and fills", facts.filled));
        faults.push(match first_hole(file, facts.size) {
            Some(offset) => fault.offset(offset),
            None => fault,
        });
    }
    let executable = facts.mode & 0o111 != 0;
    if seals & EXEC != 0 && !executable && seals & WRITES != WRITES {
        let after = seals | WRITES;
        let found = format!("{seals:#x}, which comes back as {after:#x}: it cannot be written then");
        faults.push(Fault::new(Code::MemfdUnwritable).item("seals").found(found));
    }
    if facts.mode != MODE_AFTER {
        let found = format!("{:#o}, which comes back as {MODE_AFTER:#o}", facts.mode);
        faults.push(Fault::new(Code::MemfdMode).item("mode").found(found));
    }
    faults
}

/// Where the first hole starts. Asked of an open file of its own: the position of the user's must not move.
fn first_hole(file: BorrowedFd<'_>, size: u64) -> Option<u64> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let own = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    rustix::fs::seek(&own, SeekFrom::Hole(0)).ok().filter(|&hole| hole < size)
}
