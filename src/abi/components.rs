//! What of this room is ABI, component by component, as data: what `abi.lock` is made from.

use core::fmt;
use core::ops::RangeInclusive;

use super::{
    Layout, arena, block, files, guest, kexec_metadata, kho, kho_test, liveupdate, luo, manifest, memblock, memfd,
    payload, radix, session, state, state_kind, vmalloc, x86_boot,
};
use crate::compat::Compat;
use crate::mem::Geometry;

/// A component in one version: all that may not change under that version.
#[derive(Clone, Copy, Debug)]
pub struct Component {
    /// What it is called.
    pub key: Key,
    /// Its structures.
    pub layouts: &'static [&'static Layout],
    /// Its numbers, names and magic values.
    pub constants: &'static [Constant],
    /// What of it depends on the page size.
    pub formulas: &'static [Formula],
    /// Its properties in device trees.
    pub properties: &'static [Property],
}

/// What a component is called.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// By name and version.
    Version(Compat<'static>),
    /// By a name without a version, as ioctls and boot protocols are: they may grow and never change.
    Unversioned(&'static str),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Version(compat) => write!(f, "{compat}"),
            Key::Unversioned(name) => f.write_str(name),
        }
    }
}

/// A constant of the ABI.
#[derive(Clone, Copy)]
pub struct Constant {
    /// Its name in this library, with its module where another one of the component has it too.
    pub name: &'static str,
    /// Its value and type, as the lock writes them.
    pub value: &'static dyn Value,
}

impl fmt::Debug for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = ", self.name)?;
        self.value.show(f)
    }
}

/// A value with its type, as the lock writes it.
pub trait Value: Sync {
    /// `3 (0x3 u16)`, `"compatible"`, `1..=4 (u32)`.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result;
}

macro_rules! number {
    ($($ty:ty)*) => {$(
        impl Value for $ty {
            fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
                write!(f, "{self} ({self:#x} {})", stringify!($ty))
            }
        }
        impl Value for RangeInclusive<$ty> {
            fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
                write!(f, "{}..={} ({})", self.start(), self.end(), stringify!($ty))
            }
        }
    )*};
}

number!(u8 u16 u32 u64 usize);

impl Value for &'static str {
    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl<const N: usize> Value for [u8; N] {
    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

/// A type that is no structure: an alias of a number.
struct Alias<T>(core::marker::PhantomData<fn() -> T>, &'static str);

impl<T> Value for Alias<T> {
    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.1, size_of::<T>())
    }
}

/// A number that follows from the page size.
#[derive(Clone, Copy, Debug)]
pub struct Formula {
    /// What it is, in words.
    pub name: &'static str,
    /// The number.
    pub of: fn(Geometry) -> u64,
}

/// A property of a node in a device tree.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// The node: `/`, or `/data`; `*` is any name.
    pub node: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its value, in words.
    pub ty: &'static str,
}

const fn property(node: &'static str, name: &'static str, ty: &'static str) -> Property {
    Property { node, name, ty }
}

const fn formula(name: &'static str, of: fn(Geometry) -> u64) -> Formula {
    Formula { name, of }
}

macro_rules! constants {
    ($module:ident: $($name:ident)*) => {
        &[$(Constant { name: stringify!($name), value: &$module::$name }),*]
    };
}

/// A component without anything: the rest of a literal.
const fn named(key: Key) -> Component {
    Component { key, layouts: &[], constants: &[], formulas: &[], properties: &[] }
}

const fn version(compat: Compat<'static>) -> Component {
    named(Key::Version(compat))
}

const U64: &str = "native u64";
const U32: &str = "native u32";
const STRINGS: &str = "string list";
const PAIRS: &str = "pairs of big-endian u64";
const CELL: &str = "big-endian u32";
const CELLS: &str = "address and size in root cells, big-endian";
const FLAG: &str = "empty";

/// Every component of this room. `tests/abi_lock.rs` fails for a constant or structure that is in no component.
pub const COMPONENTS: &[Component] = &[
    Component {
        layouts: &[arena::Header::LAYOUT],
        constants: constants!(arena: MAGIC BYTE_ORDER),
        ..version(arena::COMPAT)
    },
    Component { layouts: &[block::Header::LAYOUT], constants: constants!(block: MAX_BLOCKS), ..version(block::COMPAT) },
    Component {
        layouts: &[files::Table::LAYOUT, files::Record::LAYOUT],
        constants: constants!(files:
            NODE KIND_MEMFD KIND_HUGETLB KIND_REGULAR KIND_PIPE KIND_SOCKET KIND_CHAR_DEVICE KIND_BLOCK_DEVICE
            KIND_EVENTFD KIND_EPOLL KIND_TIMERFD KIND_SIGNALFD KIND_PIDFD EVENTFD_ID EVENTFD_SEMAPHORE PIDFD_INODE),
        formulas: &[formula("records per block", |g| g.block_capacity(80))],
        ..version(files::COMPAT)
    },
    Component {
        layouts: &[guest::Table::LAYOUT, guest::Region::LAYOUT],
        constants: constants!(guest:
            NODE MAX_REGIONS PROT_READ PROT_WRITE MAP_SHARED MAP_NORESERVE MAP_POPULATE),
        formulas: &[formula("regions per block", |g| g.block_capacity(48))],
        ..version(guest::COMPAT)
    },
    Component {
        layouts: &[kexec_metadata::KexecMetadata::LAYOUT],
        constants: constants!(kexec_metadata: NODE VERSION),
        ..version(Compat::new("kexec-metadata", kexec_metadata::VERSION))
    },
    Component {
        constants: constants!(kho: COMPATIBLE PRESERVED_MEMORY_MAP PRESERVED_DATA BLOB_SIZE),
        properties: &[
            property("/", kho::COMPATIBLE, STRINGS),
            property("/", kho::PRESERVED_MEMORY_MAP, U64),
            property("/*", kho::PRESERVED_DATA, U64),
            property("/*", kho::BLOB_SIZE, U64),
        ],
        ..version(kho::COMPAT)
    },
    // What this library adds to the root, which Linux ignores.
    Component {
        constants: constants!(kho: MEM MEM_PARTIAL OPTIONAL ADDRESS_CELLS SIZE_CELLS),
        properties: &[
            property("/", kho::ADDRESS_CELLS, CELL),
            property("/", kho::SIZE_CELLS, CELL),
            property("/*", kho::COMPATIBLE, STRINGS),
            property("/*", kho::MEM, PAIRS),
            property("/*", kho::MEM_PARTIAL, FLAG),
            property("/*", kho::OPTIONAL, FLAG),
        ],
        ..named(Key::Unversioned("kho-root-additions"))
    },
    Component {
        layouts: &[kho::Scratch::LAYOUT, kho::SetupHeader::LAYOUT, kho::SetupData::LAYOUT],
        constants: constants!(kho: SETUP_DATA_TYPE CHOSEN_FDT CHOSEN_SCRATCH X86_LOW_LIMIT),
        properties: &[property("/chosen", kho::CHOSEN_FDT, CELLS), property("/chosen", kho::CHOSEN_SCRATCH, CELLS)],
        ..named(Key::Unversioned("kho-boot"))
    },
    Component {
        constants: constants!(kho_test: NODE MAGIC MAGIC_VALUE DATA NR_FOLIOS FOLIOS_INFO CSUM),
        properties: &[
            property("/", kho::COMPATIBLE, STRINGS),
            property("/", kho_test::MAGIC, U32),
            property("/data", kho_test::NR_FOLIOS, U32),
            property("/data", kho_test::FOLIOS_INFO, "vmalloc descriptor of native u64"),
            property("/data", kho_test::CSUM, U32),
        ],
        ..version(kho_test::COMPAT)
    },
    Component {
        layouts: &[
            liveupdate::SessionByName::LAYOUT,
            liveupdate::SessionFile::LAYOUT,
            liveupdate::SessionFinish::LAYOUT,
        ],
        constants: constants!(liveupdate:
            TYPE CREATE_SESSION RETRIEVE_SESSION PRESERVE_FD RETRIEVE_FD FINISH GET_NAME),
        ..named(Key::Unversioned("liveupdate-ioctl"))
    },
    Component {
        layouts: &[
            luo::Head::LAYOUT,
            luo::Session::LAYOUT,
            luo::File::LAYOUT,
            luo::FlbHeader::LAYOUT,
            luo::Flb::LAYOUT,
        ],
        constants: constants!(luo: NODE SESSION_NAME FILE_COMPATIBLE),
        formulas: &[
            formula("sessions per block", |g| g.block_capacity(80)),
            formula("files per block", |g| g.block_capacity(64)),
            formula("FLBs in their page", |g| g.block_capacity(64)),
        ],
        ..version(luo::COMPAT)
    },
    Component {
        layouts: &[manifest::NoteHeader::LAYOUT, manifest::Header::LAYOUT, manifest::Entry::LAYOUT],
        constants: constants!(manifest: SECTION NAME TYPE KIND_NODE KIND_LAYOUT KIND_STATE READS WRITES REQUIRED),
        ..version(manifest::COMPAT)
    },
    // As it was proposed for kernels.
    Component {
        layouts: &[manifest::VersionsHeader::LAYOUT],
        constants: constants!(manifest: VERSIONS_SECTION VERSIONS_MAGIC VERSIONS_VERSION VERSIONS_ENTRY),
        ..named(Key::Unversioned("liveupdate-versions"))
    },
    Component {
        constants: constants!(memblock: NODE MAX_RANGES MAX_NAME),
        properties: &[property("/", kho::COMPATIBLE, STRINGS)],
        ..version(memblock::COMPAT)
    },
    Component {
        constants: constants!(memblock: START SIZE),
        properties: &[
            property("/*", kho::COMPATIBLE, STRINGS),
            property("/*", memblock::START, U64),
            property("/*", memblock::SIZE, U64),
        ],
        ..version(memblock::RESERVE_MEM)
    },
    Component {
        layouts: &[memfd::Memfd::LAYOUT, memfd::Folio::LAYOUT],
        constants: constants!(memfd: SEALS PFN_BITS FOLIO_DIRTY FOLIO_UPTODATE FOLIO_FLAGS),
        ..version(memfd::COMPAT)
    },
    Component { layouts: &[payload::Array::LAYOUT], ..version(payload::ARRAY) },
    Component { layouts: &[payload::Records::LAYOUT], ..version(payload::RECORDS) },
    Component {
        constants: &[
            Constant { name: "Entry", value: &Alias::<radix::Entry>(core::marker::PhantomData, "U64") },
            Constant { name: "Word", value: &Alias::<radix::Word>(core::marker::PhantomData, "U64") },
        ],
        formulas: &[
            formula("table bits", |g| u64::from(g.table_bits())),
            formula("leaf bits", |g| u64::from(g.leaf_bits())),
            formula("key bits", |g| u64::from(g.key_bits())),
            formula("depth", |g| u64::from(g.depth())),
        ],
        ..version(radix::COMPAT)
    },
    Component {
        layouts: &[session::Head::LAYOUT],
        constants: constants!(session: MAGIC ROOT ARENA RESERVED MAX_FILES),
        ..version(session::COMPAT)
    },
    Component {
        layouts: &[
            state::Blob::LAYOUT,
            state::Header::LAYOUT,
            state::Use::LAYOUT,
            state::Instance::LAYOUT,
            state::Resource::LAYOUT,
        ],
        constants: constants!(state: NODE MAGIC BULK_CRC BULK_ALIGN FOLIO AREA MEMFD DESCRIPTOR),
        ..version(state::COMPAT)
    },
    Component {
        constants: constants!(state_kind:
            BOOL U8 U16 U32 U64 U128 I8 I16 I32 I64 I128 F32 F64 CHAR STR ARRAY SEQ MAP SET OPTION TUPLE STATE SHARED
            LINK PLAIN FOLIO AREA MEMFD DESCRIPTOR RECORD STRUCT ENUM),
        ..named(Key::Unversioned("kho-state-kinds"))
    },
    Component {
        layouts: &[vmalloc::Descriptor::LAYOUT, vmalloc::ChunkHeader::LAYOUT],
        constants: &[
            Constant { name: "FLAG_ALLOC", value: &vmalloc::FLAG_ALLOC },
            Constant { name: "FLAG_HUGE", value: &vmalloc::FLAG_HUGE },
            Constant { name: "FLAGS", value: &vmalloc::FLAGS },
            Constant { name: "Address", value: &Alias::<vmalloc::Address>(core::marker::PhantomData, "U64") },
        ],
        formulas: &[formula("addresses per chunk", Geometry::chunk_capacity)],
        ..version(vmalloc::COMPAT)
    },
    Component {
        layouts: &[x86_boot::E820Entry::LAYOUT],
        constants: constants!(x86_boot:
            BOOT_PARAMS ACPI_RSDP EXT_RAMDISK_IMAGE EXT_RAMDISK_SIZE EXT_CMD_LINE_PTR E820_ENTRIES E820_TABLE E820_MAX
            HEADER SETUP_SECTS HEADER_LENGTH MAGIC HEADER_MAGIC VERSION VERSION_64 TYPE_OF_LOADER LOADFLAGS LOADED_HIGH
            RAMDISK_IMAGE RAMDISK_SIZE CMD_LINE_PTR INITRD_ADDR_MAX KERNEL_ALIGNMENT RELOCATABLE XLOADFLAGS
            XLF_KERNEL_64 CMDLINE_SIZE PAYLOAD_OFFSET PAYLOAD_LENGTH SETUP_DATA PREF_ADDRESS INIT_SIZE ENTRY_64 SECTOR
            E820_RAM E820_RESERVED
            E820_ACPI E820_NVS E820_UNUSABLE E820_PMEM),
        ..named(Key::Unversioned("x86-boot"))
    },
];
