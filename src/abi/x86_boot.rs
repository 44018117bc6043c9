//! How a boot loader starts a 64-bit x86 kernel: the setup header of a bzImage, the page of boot parameters (the "zero
//! page"), and the memory map in it.
//!
//! Source: the boot protocol of Linux, version 2.15, as documented for boot loaders. Offsets are from the start of the
//! bzImage, and the same from the start of the page of boot parameters.

use zerocopy::little_endian::{U32, U64};

use super::wire::wire;

/// Bytes of the page of boot parameters.
pub const BOOT_PARAMS: usize = 4096;

/// u64, boot parameters: address of the ACPI root pointer; 0 when the kernel is to search for it.
pub const ACPI_RSDP: usize = 0x070;
/// u32, boot parameters: bits 32 and above of [`RAMDISK_IMAGE`].
pub const EXT_RAMDISK_IMAGE: usize = 0x0c0;
/// u32, boot parameters: bits 32 and above of [`RAMDISK_SIZE`].
pub const EXT_RAMDISK_SIZE: usize = 0x0c4;
/// u32, boot parameters: bits 32 and above of [`CMD_LINE_PTR`].
pub const EXT_CMD_LINE_PTR: usize = 0x0c8;
/// u8, boot parameters: entries of [`E820_TABLE`].
pub const E820_ENTRIES: usize = 0x1e8;
/// Boot parameters: the memory map.
pub const E820_TABLE: usize = 0x2d0;
/// Entries that fit there.
pub const E820_MAX: usize = 128;

/// The setup header starts here, with the next field.
pub const HEADER: usize = 0x1f1;
/// u8: 512-byte sectors of setup code behind the first; 0 means 4.
pub const SETUP_SECTS: usize = 0x1f1;
/// u8: added to the next offset, where the header ends.
pub const HEADER_LENGTH: usize = 0x201;
/// Where [`HEADER_LENGTH`] counts from; and [`HEADER_MAGIC`] is there.
pub const MAGIC: usize = 0x202;
/// What is at [`MAGIC`].
pub const HEADER_MAGIC: [u8; 4] = *b"HdrS";
/// u16: version of the protocol, the major number in the high byte.
pub const VERSION: usize = 0x206;
/// The first version with [`XLOADFLAGS`].
pub const VERSION_64: u16 = 0x020c;
/// u8: which boot loader it is; 0xff is one without a number.
pub const TYPE_OF_LOADER: usize = 0x210;
/// u8: flags.
pub const LOADFLAGS: usize = 0x211;
/// [`LOADFLAGS`]: the kernel belongs above 1 MiB.
pub const LOADED_HIGH: u8 = 1;
/// u32: address of the initial RAM disk.
pub const RAMDISK_IMAGE: usize = 0x218;
/// u32: bytes of it.
pub const RAMDISK_SIZE: usize = 0x21c;
/// u32: address of the command line, which ends with a zero.
pub const CMD_LINE_PTR: usize = 0x228;
/// u32: last address that the RAM disk may have.
pub const INITRD_ADDR_MAX: usize = 0x22c;
/// u32: how the kernel is to be aligned.
pub const KERNEL_ALIGNMENT: usize = 0x230;
/// u8: not 0 when the kernel may be anywhere.
pub const RELOCATABLE: usize = 0x234;
/// u16: flags.
pub const XLOADFLAGS: usize = 0x236;
/// [`XLOADFLAGS`]: there is a 64-bit entry, [`ENTRY_64`] bytes into the kernel.
pub const XLF_KERNEL_64: u16 = 1;
/// u32: longest command line, the zero not counted.
pub const CMDLINE_SIZE: usize = 0x238;
/// u64: address of the first entry of setup data, a [`SetupHeader`](super::kho::SetupHeader); 0 is none.
pub const SETUP_DATA: usize = 0x250;
/// u64: where the kernel would like to be.
pub const PREF_ADDRESS: usize = 0x258;
/// u32: bytes that it needs there until it can look at its memory map.
pub const INIT_SIZE: usize = 0x260;
/// From the start of the kernel, behind the setup sectors, to its 64-bit entry.
pub const ENTRY_64: u64 = 0x200;
/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// [`E820Entry::kind`]: memory to be used.
pub const E820_RAM: u32 = 1;
/// [`E820Entry::kind`]: not to be touched.
pub const E820_RESERVED: u32 = 2;
/// [`E820Entry::kind`]: tables that may be used once they are read.
pub const E820_ACPI: u32 = 3;
/// [`E820Entry::kind`]: to be kept over sleep.
pub const E820_NVS: u32 = 4;
/// [`E820Entry::kind`]: broken.
pub const E820_UNUSABLE: u32 = 5;
/// [`E820Entry::kind`]: persistent memory.
pub const E820_PMEM: u32 = 7;

wire! {
    /// One range of the memory map.
    pub struct E820Entry: 20 align 4 of None => {
        /// Physical address.
        0 addr: U64,
        /// Bytes.
        8 size: U64,
        /// What it is.
        16 kind: U32,
    }
}
