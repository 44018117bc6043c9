//! Wire formats: layouts and constants, no behaviour.
//!
//! One file for each header of the handover ABI. Each owns its compatibility string and the structures of its version,
//! with offsets written out by hand and asserted when the library is compiled; `LAYOUT` of each structure says the same
//! as data, for the ABI lock, for dumps and for comparison with a kernel's BTF.
//!
//! All integers are little-endian ("native" of x86-64 and arm64), whatever machine reads them, and every structure can
//! be read from any address: alignment is a rule about where Linux puts them ([`Layout::align`]), not about the bytes.
//!
//! Sources: the UAPI and ABI headers of Linux 7.2.13 and 7.3.4 as facts, checked on running kernels.

mod components;
mod wire;

pub mod arena;
pub mod block;
pub mod files;
pub mod guest;
pub mod kexec_metadata;
pub mod kho;
pub mod kho_test;
pub mod liveupdate;
pub mod luo;
pub mod manifest;
pub mod memblock;
pub mod memfd;
pub mod payload;
pub mod radix;
pub mod session;
pub mod state;
pub mod state_kind;
pub mod vmalloc;
pub mod x86_boot;

pub use components::{COMPONENTS, Component, Constant, Formula, Key, Property, Value};
pub use wire::{Field, Layout, Plain, Wire};

/// The layout of every structure here, in the order of the files.
pub const LAYOUTS: &[&Layout] = &[
    arena::Header::LAYOUT,
    block::Header::LAYOUT,
    files::Table::LAYOUT,
    files::Record::LAYOUT,
    guest::Table::LAYOUT,
    guest::Region::LAYOUT,
    kexec_metadata::KexecMetadata::LAYOUT,
    kho::Scratch::LAYOUT,
    kho::SetupHeader::LAYOUT,
    kho::SetupData::LAYOUT,
    liveupdate::SessionByName::LAYOUT,
    liveupdate::SessionFile::LAYOUT,
    liveupdate::SessionFinish::LAYOUT,
    luo::Head::LAYOUT,
    luo::Session::LAYOUT,
    luo::File::LAYOUT,
    luo::FlbHeader::LAYOUT,
    luo::Flb::LAYOUT,
    manifest::NoteHeader::LAYOUT,
    manifest::Header::LAYOUT,
    manifest::Entry::LAYOUT,
    manifest::VersionsHeader::LAYOUT,
    memfd::Memfd::LAYOUT,
    memfd::Folio::LAYOUT,
    payload::Records::LAYOUT,
    payload::Array::LAYOUT,
    session::Head::LAYOUT,
    state::Blob::LAYOUT,
    state::Header::LAYOUT,
    state::Use::LAYOUT,
    state::Instance::LAYOUT,
    state::Resource::LAYOUT,
    vmalloc::Descriptor::LAYOUT,
    vmalloc::ChunkHeader::LAYOUT,
    x86_boot::E820Entry::LAYOUT,
];
