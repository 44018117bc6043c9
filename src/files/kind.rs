//! What kinds of files there are, and what can carry them.

use alloc::format;
use alloc::string::String;
use core::fmt;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, OFlags, Stat};

use super::proc_info;
use crate::abi::files as abi;
use crate::report::{Code, Fault};

/// File systems by the `f_type` of statfs(2).
const HUGETLBFS: u64 = 0x9584_58f6;
const PIDFS: u64 = 0x5049_4446;
const PROCFS: u64 = 0x9fa0;
const ANONYMOUS: u64 = 0x0904_1934;
const GUEST_MEMORY: u64 = 0x474d_454d;

/// How files travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// Across exec: the same open files.
    Exec,
    /// Through a unix socket, to another process: the same open files.
    Socket,
    /// In a session of `/dev/liveupdate`, across a kexec: the next kernel makes files that have the contents, size, seals
    /// and position of those that were preserved.
    Session,
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $variant:ident = $wire:ident, $text:literal;)*) => {
        /// What a file is. The [table](super#kinds) says what each is known by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[$meta])* $variant,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// As [`Record::kind`](crate::abi::files::Record::kind) has it.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $(Kind::$variant => abi::$wire),* }
            }

            /// The kind of that number, if it is one that is known here.
            #[must_use]
            pub const fn of_number(number: u32) -> Option<Kind> {
                match number { $(abi::$wire => Some(Kind::$variant),)* _ => None }
            }

            const fn text(self) -> &'static str {
                match self { $(Kind::$variant => $text),* }
            }
        }
    };
}

kinds! {
    /// A memfd, or another file of tmpfs without a name.
    Memfd = KIND_MEMFD, "memfd";
    /// A memfd of huge pages.
    Hugetlb = KIND_HUGETLB, "hugetlb memfd";
    /// A regular file, with a name or without.
    Regular = KIND_REGULAR, "regular file";
    /// One end of a pipe, or a FIFO.
    Pipe = KIND_PIPE, "pipe";
    /// A socket of any family: listening, connected, or neither.
    Socket = KIND_SOCKET, "socket";
    /// A character device: a terminal, `/dev/kvm`, `/dev/net/tun`.
    CharDevice = KIND_CHAR_DEVICE, "character device";
    /// A block device.
    BlockDevice = KIND_BLOCK_DEVICE, "block device";
    /// An eventfd.
    Eventfd = KIND_EVENTFD, "eventfd";
    /// An epoll.
    Epoll = KIND_EPOLL, "epoll";
    /// A timerfd.
    Timerfd = KIND_TIMERFD, "timerfd";
    /// A signalfd.
    Signalfd = KIND_SIGNALFD, "signalfd";
    /// A process.
    Pidfd = KIND_PIDFD, "pidfd";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

impl Kind {
    /// What the file is.
    ///
    /// # Errors
    /// [`Code::FileKind`] for what does not travel, with the reason. [`Code::Io`] when the file could not be looked at; an
    /// anonymous inode is known by its name in `/proc`, which must be mounted.
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use kho::files::{Kind, Route};
    ///
    /// let null = File::open("/dev/null")?;
    /// let kind = Kind::of(&null)?;
    /// assert_eq!((kind, kind.to_string().as_str()), (Kind::CharDevice, "character device"));
    /// assert!(kind.carried_by(Route::Exec).is_ok() && kind.carried_by(Route::Session).is_err());
    /// let folder = Kind::of(File::open("/")?).unwrap_err();
    /// assert_eq!(folder.to_string(), "file-kind: kind: a directory, which the successor opens by its path");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(file: impl std::os::fd::AsFd) -> Result<Kind, Fault> {
        look(file.as_fd()).map(|looked| looked.kind)
    }

    /// Whether that route carries such a file; if not, what it does carry, in words.
    ///
    /// Sessions are those of Linux 7.2 and 7.3; what else Linux asks of a memfd,
    /// [`preflight`](fn@crate::liveupdate::preflight) tells.
    ///
    /// # Errors
    /// When it does not.
    pub const fn carried_by(self, route: Route) -> Result<(), &'static str> {
        match (route, self) {
            (Route::Exec | Route::Socket, _) | (Route::Session, Kind::Memfd) => Ok(()),
            (Route::Session, _) => Err("a memfd that is not hugetlb, which is all that a session carries"),
        }
    }

    /// `an eventfd`, `a pipe`.
    pub(super) fn with_article(self) -> String {
        let article = if self.text().starts_with('e') { "an" } else { "a" };
        format!("{article} {self}")
    }
}

/// A file and its kind.
pub(super) struct Looked {
    pub(super) kind: Kind,
    pub(super) stat: Stat,
    pub(super) status: OFlags,
    /// Where they were asked for.
    pub(super) seals: Option<u32>,
    /// Bytes of a block of its file system: with hugetlbfs, of a page.
    pub(super) block: u64,
    /// Whether its inode is of pidfs: no other process has it.
    pub(super) of_pidfs: bool,
}

pub(super) fn system(what: &'static str) -> impl Fn(rustix::io::Errno) -> Fault {
    move |errno| Fault::new(Code::Io).item(what).found(errno)
}

/// A file that does not travel.
fn refuse<T>(what: impl fmt::Display) -> Result<T, Fault> {
    Err(Fault::new(Code::FileKind).item("kind").found(what))
}

pub(super) fn look(file: BorrowedFd<'_>) -> Result<Looked, Fault> {
    let status = rustix::fs::fcntl_getfl(file).map_err(system("F_GETFL"))?;
    if status.contains(OFlags::PATH) {
        return refuse("an O_PATH descriptor, which names a file that it has not opened");
    }
    let stat = rustix::fs::fstat(file).map_err(system("fstat"))?;
    // Without a name, with seals, and with pages of the usual size: nothing else is so, and most files that travel are.
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 0
        && is_page(stat.st_blksize)
        && let Ok(seals) = rustix::fs::fcntl_get_seals(file)
    {
        let seals = Some(seals.bits());
        return Ok(Looked { kind: Kind::Memfd, stat, status, seals, block: 0, of_pidfs: false });
    }
    let system_of = rustix::fs::fstatfs(file).map_err(system("fstatfs"))?;
    let magic = u64::try_from(system_of.f_type).unwrap_or(0);
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => refuse("a directory, which the successor opens by its path"),
        FileType::Symlink => refuse("a symbolic link"),
        FileType::Fifo => Ok(Kind::Pipe),
        FileType::Socket => Ok(Kind::Socket),
        FileType::CharacterDevice => Ok(Kind::CharDevice),
        FileType::BlockDevice => Ok(Kind::BlockDevice),
        // Kernels differ in whether what has no name is a regular file.
        FileType::RegularFile | FileType::Unknown if magic == PIDFS => Ok(Kind::Pidfd),
        FileType::RegularFile if !matches!(magic, ANONYMOUS | GUEST_MEMORY) => regular(file, &stat, magic),
        FileType::RegularFile | FileType::Unknown => anonymous(&proc_info::link(file)?),
    }?;
    let block = u64::try_from(system_of.f_bsize).unwrap_or(0);
    Ok(Looked { kind, stat, status, seals: None, block, of_pidfs: magic == PIDFS })
}

/// Whether that is the size of a page of this machine.
pub(super) fn is_page(size: impl TryInto<usize>) -> bool {
    size.try_into().is_ok_and(|size| size == rustix::param::page_size())
}

fn regular(file: BorrowedFd<'_>, stat: &Stat, magic: u64) -> Result<Kind, Fault> {
    if magic == PROCFS {
        return refuse("a file of /proc, which speaks of what it was opened in: the successor opens it anew");
    }
    // Only files of tmpfs and hugetlbfs have seals, and only such a file without a link is a memfd.
    Ok(match rustix::fs::fcntl_get_seals(file) {
        Ok(_) if stat.st_nlink == 0 && magic == HUGETLBFS => Kind::Hugetlb,
        Ok(_) if stat.st_nlink == 0 => Kind::Memfd,
        _ => Kind::Regular,
    })
}

/// An inode without a name, by what `/proc` shows instead: `anon_inode:[eventfd]`, `anon_inode:kvm-vm`.
fn anonymous(link: &str) -> Result<Kind, Fault> {
    if link.starts_with("pidfd:") {
        return Ok(Kind::Pidfd);
    }
    let name = link.strip_prefix("anon_inode:").unwrap_or(link);
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let bound = |to: &str| refuse(format_args!("{name}, which is bound to the {to} of the process that made it"));
    match name {
        "eventfd" => Ok(Kind::Eventfd),
        "eventpoll" => Ok(Kind::Epoll),
        "timerfd" => Ok(Kind::Timerfd),
        "signalfd" => Ok(Kind::Signalfd),
        "pidfd" => Ok(Kind::Pidfd),
        "io_uring" => refuse(
            "io_uring, which the kernel lets no unix socket carry, and whose rings are bound to the memory of the process \
             that made it",
        ),
        "userfaultfd" => bound("address space"),
        _ if name.starts_with("kvm-") => bound("memory"),
        _ => refuse(format_args!("{name}, an anonymous inode that cannot be told from another of its kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_inodes_by_their_names() {
        let told = |link: &str| match anonymous(link) {
            Ok(kind) => kind.with_article(),
            Err(fault) => fault.to_string(),
        };
        let memory =
            |name: &str| format!("file-kind: kind: {name}, which is bound to the memory of the process that made it");
        assert_eq!(told("anon_inode:[eventfd]"), "an eventfd");
        assert_eq!(told("anon_inode:[eventpoll]"), "an epoll");
        assert_eq!(told("anon_inode:[pidfd]"), "a pidfd");
        assert_eq!(told("pidfd:[4242]"), "a pidfd");
        assert_eq!(told("anon_inode:kvm-vm"), memory("kvm-vm"));
        assert_eq!(told("anon_inode:kvm-vcpu:3"), memory("kvm-vcpu:3"));
        assert_eq!(told("anon_inode:[kvm-gmem]"), memory("kvm-gmem"));
        for (link, name) in [
            ("anon_inode:inotify", "inotify"),
            ("anon_inode:[fanotify]", "fanotify"),
            ("anon_inode:bpf-map", "bpf-map"),
            ("anon_inode:[perf_event]", "perf_event"),
            ("anon_inode:[never heard of]", "never heard of"),
            ("[eventfd", "[eventfd"),
            ("", ""),
        ] {
            let says =
                format!("file-kind: kind: {name}, an anonymous inode that cannot be told from another of its kind");
            assert_eq!(told(link), says);
        }
    }

    #[test]
    fn kinds_have_their_numbers_and_no_other() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_number(kind.number()), Some(*kind));
        }
        assert_eq!((Kind::of_number(0), Kind::of_number(13), Kind::of_number(u32::MAX)), (None, None, None));
    }
}
