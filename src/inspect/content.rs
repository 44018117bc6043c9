//! What a blob holds, by the layout as which it was read.

use serde::Serialize;

use super::states::StateImage;
use crate::abi::{files, guest};
use crate::files::Kind;
use crate::luo::{self, FileContent, Flb};
use crate::mem::{Folio, Geometry};
use crate::metadata::Metadata;
use crate::selftest::Rule;
use crate::text::Name;
use crate::{memblock, memfd};

/// What a blob holds. In JSON, `kind` says which it is. Blocks are pairs of address and order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Content {
    /// Files that travel beside the memory     kho-files-v1
    Files {
        /// By ascending token.
        files: Vec<Device>,
    },
    /// Memory of a guest in files that travel beside the memory     kho-guest-memory-v1
    GuestMemory {
        /// In the order of their addresses.
        regions: Vec<GuestRegion>,
    },
    /// A file by its pages                     memfd-v2
    Memfd(Memfd),
    /// Linux's sessions and their files       luo-v5
    Luo {
        /// Which live update it is, 1 the first.
        number: u64,
        /// The sessions; none before the machine is frozen.
        sessions: Vec<Session>,
        /// The globals that live as long as files that use them.
        flbs: Vec<Flb>,
    },
    /// Named reserved memory                   memblock-v1
    Memblock {
        /// In the order of its tree.
        ranges: Vec<NamedRange>,
    },
    /// Who left the handover                   kexec-metadata
    KexecMetadata(Metadata),
    /// The payload of Linux's test             kho-test-v1
    KhoTest {
        /// The checksum, which is right.
        csum: u32,
        /// The rule by which it is right.
        rule: Rule,
        /// Bytes of all folios.
        bytes: u64,
        /// In the order of the checksum.
        folios: Vec<(u64, u32)>,
    },
    /// A table of records, whatever they mean  kho-records-v1
    Records {
        /// Physical address of the first block.
        first: u64,
        /// How many records.
        count: u64,
        /// Bytes of one record.
        record_size: u64,
        /// Physical addresses of the blocks.
        blocks: Vec<u64>,
    },
    /// An array of scattered blocks            kho-array-v1
    Array {
        /// Bytes.
        bytes: u64,
        /// In the order of the array.
        blocks: Vec<(u64, u32)>,
    },
    /// Typed state, whatever the types        kho-state-v1
    States(StateImage),
    /// The head of Linux's sessions, when their memory is not there     luo-v5
    LuoHead {
        /// Which live update it is, 1 the first.
        number: u64,
        /// Physical address of the first block of sessions; 0 before the machine is frozen.
        sessions: u64,
        /// Physical address of the globals; 0 is none.
        flbs: u64,
    },
    /// What the payload of Linux's test says of itself, when its memory is not there     kho-test-v1
    KhoTestHead {
        /// The checksum that it should have.
        csum: u32,
        /// How many folios.
        folios: u32,
        /// Physical address of the first chunk of the array that names them.
        first: u64,
    },
    /// What nobody here understands, or what could not be read.
    Bytes {
        /// At most 64 bytes, in hexadecimal.
        first_bytes: String,
    },
}

/// A memfd by its pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Memfd {
    /// File position in bytes.
    pub pos: u64,
    /// Bytes.
    pub size: u64,
    /// Names of its seals.
    pub seals: Vec<String>,
    /// Address, order, page offset in the file; what no folio covers is a hole.
    pub folios: Vec<(u64, u32, u64)>,
}

impl Memfd {
    /// By value: the list of folios, of which there may be millions, becomes the other in its place.
    pub(super) fn of(file: memfd::Pages, geometry: Geometry) -> Self {
        let folios = file.folios.into_iter().map(|(folio, index)| {
            let (address, order) = block(folio, geometry);
            (address, order, index)
        });
        Memfd { pos: file.pos, size: file.size, seals: seals(file.seals), folios: folios.collect() }
    }
}

/// Files that Linux restores together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Session {
    /// Its name.
    pub name: Name,
    /// In the order in which they were preserved.
    pub files: Vec<SessionFile>,
}

impl Session {
    pub(super) fn of(session: luo::Session, geometry: Geometry) -> Self {
        let files = session.files.into_iter().map(|file| SessionFile::of(file, geometry));
        Session { name: session.name, files: files.collect() }
    }
}

/// A file of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SessionFile {
    /// The user's name for it.
    pub token: u64,
    /// Which handler of Linux it belongs to.
    pub compatible: String,
    /// What that handler left; for most a physical address.
    pub data: u64,
    /// Its pages, if it is a memfd that could be read; else a finding says why not.
    pub memfd: Option<Memfd>,
}

impl SessionFile {
    fn of(file: luo::File, geometry: Geometry) -> Self {
        let memfd = match file.content {
            FileContent::Memfd(pages) => Some(Memfd::of(pages, geometry)),
            FileContent::Opaque => None,
        };
        SessionFile { token: file.token, compatible: file.compatible, data: file.data, memfd }
    }
}

/// Memory that was reserved by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NamedRange {
    /// Its name.
    pub name: Name,
    /// Physical address of its first byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl From<&memblock::Range> for NamedRange {
    fn from(range: &memblock::Range) -> Self {
        NamedRange { name: range.name.clone(), address: range.start.get(), size: range.size }
    }
}

/// A file that travels beside the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Device {
    /// The user's name for it.
    pub token: u64,
    /// `memfd`, `eventfd` and so on, as [`Kind`](crate::files::Kind) is printed, or the number of a kind that is not known
    /// here.
    pub kind: String,
    /// What only this kind has, in words: which end of a pipe, the family of a socket.
    pub detail: Vec<String>,
    /// Device of the inode.
    pub device: u64,
    /// Number of the inode.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// File position in bytes.
    pub pos: u64,
    /// Names of its seals.
    pub seals: Vec<String>,
    /// Status flags, as `F_GETFL` has them.
    pub status: u32,
    /// Permission bits.
    pub mode: u32,
}

impl From<&files::Record> for Device {
    fn from(record: &files::Record) -> Self {
        Device {
            token: record.token.get(),
            kind: match Kind::of_number(record.kind.get()) {
                Some(kind) => kind.to_string(),
                None => record.kind.to_string(),
            },
            detail: crate::files::details(record),
            device: record.device.get(),
            inode: record.inode.get(),
            size: record.size.get(),
            pos: record.pos.get(),
            seals: seals(record.seals.get()),
            status: record.status.get(),
            mode: record.mode.get(),
        }
    }
}

/// A region of a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct GuestRegion {
    /// Its first address, as the guest has it.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// The token of its file.
    pub token: u64,
    /// Its first byte in the file.
    pub offset: u64,
    /// Protection, as mmap has it: 1 to read, 3 to read and write.
    pub prot: u32,
    /// Flags, as mmap has them.
    pub flags: u32,
}

impl From<&guest::Region> for GuestRegion {
    fn from(region: &guest::Region) -> Self {
        GuestRegion {
            guest: region.guest.get(),
            size: region.size.get(),
            token: region.token.get(),
            offset: region.offset.get(),
            prot: region.prot.get(),
            flags: region.flags.get(),
        }
    }
}

/// Names of the bits of `F_GET_SEALS`; what has no name as one number.
pub(super) fn seals(bits: u32) -> Vec<String> {
    const NAMES: [&str; 6] = ["seal", "shrink", "grow", "write", "future-write", "exec"];
    let named = NAMES.iter().zip(0_u32..).filter(|(_, bit)| bits & 1_u32.wrapping_shl(*bit) != 0);
    let mut names: Vec<String> = named.map(|(name, _)| (*name).into()).collect();
    if bits >> NAMES.len() != 0 {
        names.push(format!("{:#x}", bits & !0x3f));
    }
    names
}

/// Address and order.
pub(super) fn block(folio: Folio, geometry: Geometry) -> (u64, u32) {
    (folio.addr(geometry).get(), folio.order().get())
}
