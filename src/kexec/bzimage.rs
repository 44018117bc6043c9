//! A bzImage: what a boot loader has to know of it.

use alloc::vec::Vec;

use crate::abi::x86_boot as abi;
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Where the header must end in the boot parameters: other fields follow.
const HEADER_MAX: usize = 0x290;

/// A 64-bit x86 kernel as a file, its setup header checked.
#[derive(Clone, Debug)]
pub struct BzImage {
    bytes: Vec<u8>,
    /// Bytes before the kernel proper.
    setup: usize,
    /// End of the setup header.
    header_end: usize,
    pub(super) alignment: u64,
    pub(super) relocatable: bool,
    pub(super) pref_address: u64,
    pub(super) init_size: u64,
    pub(super) command_line_size: u64,
    pub(super) initrd_max: u64,
}

/// Little-endian numbers at an offset; what is not there is a fault that names the field.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn get<const N: usize>(&self, offset: usize, name: &'static str) -> Result<[u8; N], Fault> {
        self.0.get(offset..).and_then(<[u8]>::first_chunk::<N>).copied().ok_or_else(|| {
            Fault::new(Code::Truncated)
                .offset(u64_of(offset))
                .item(name)
                .found(format_args!("{} bytes", self.0.len()))
                .expected("a bzImage")
        })
    }

    fn u8(&self, offset: usize, name: &'static str) -> Result<u8, Fault> {
        self.get(offset, name).map(u8::from_le_bytes)
    }

    fn u16(&self, offset: usize, name: &'static str) -> Result<u16, Fault> {
        self.get(offset, name).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: usize, name: &'static str) -> Result<u64, Fault> {
        self.get(offset, name).map(|bytes| u64::from(u32::from_le_bytes(bytes)))
    }

    fn u64(&self, offset: usize, name: &'static str) -> Result<u64, Fault> {
        self.get(offset, name).map(u64::from_le_bytes)
    }
}

impl BzImage {
    /// Takes a kernel, as it is in `/boot`.
    ///
    /// # Errors
    /// [`Code::Magic`] when it is no bzImage, [`Code::Truncated`], [`Code::VersionOlder`] before protocol 2.12 (Linux
    /// 3.8), [`Code::FileKind`] when it has no 64-bit entry, [`Code::Unaligned`] and [`Code::TooLarge`] for numbers that
    /// cannot be.
    pub fn new(bytes: Vec<u8>) -> Result<BzImage, Fault> {
        let fields = Fields(&bytes);
        let fault = |code, offset, item| Fault::new(code).offset(u64_of(offset)).item(item);
        let magic = fields.get::<4>(abi::MAGIC, "header")?;
        if magic != abi::HEADER_MAGIC {
            return Err(fault(Code::Magic, abi::MAGIC, "header")
                .found(format_args!("\"{}\"", magic.escape_ascii()))
                .expected("\"HdrS\", a bzImage"));
        }
        let version = fields.u16(abi::VERSION, "version")?;
        if version < abi::VERSION_64 {
            return Err(fault(Code::VersionOlder, abi::VERSION, "version")
                .found(format_args!("{}.{}", version >> 8, version & 0xff))
                .expected("at least 2.12"));
        }
        if fields.u16(abi::XLOADFLAGS, "xloadflags")? & abi::XLF_KERNEL_64 == 0 {
            return Err(fault(Code::FileKind, abi::XLOADFLAGS, "xloadflags")
                .found("a kernel without a 64-bit entry")
                .expected("a kernel for x86-64"));
        }
        let sectors = match fields.u8(abi::SETUP_SECTS, "setup_sects")? {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let setup = usize_of(sectors.saturating_add(1).saturating_mul(abi::SECTOR));
        let header_end = abi::MAGIC.saturating_add(usize::from(fields.u8(abi::HEADER_LENGTH, "jump")?));
        let least = abi::INIT_SIZE.saturating_add(4);
        if header_end < least {
            return Err(fault(Code::Truncated, abi::HEADER_LENGTH, "jump")
                .found(format_args!("a header that ends at {header_end:#x}"))
                .expected(format_args!("at least {least:#x}, behind init_size")));
        }
        let alignment = fields.u32(abi::KERNEL_ALIGNMENT, "kernel_alignment")?;
        let init_size = fields.u32(abi::INIT_SIZE, "init_size")?;
        let pref_address = fields.u64(abi::PREF_ADDRESS, "pref_address")?;
        if !alignment.is_power_of_two() || pref_address & alignment.wrapping_sub(1) != 0 {
            return Err(fault(Code::Unaligned, abi::PREF_ADDRESS, "pref_address")
                .found(format_args!("{pref_address:#x}"))
                .expected(format_args!("a multiple of {alignment:#x}")));
        }
        let kernel = bytes.get(setup..).unwrap_or_default().len();
        if u64_of(kernel) <= abi::ENTRY_64 || u64_of(kernel) > init_size {
            return Err(fault(Code::Truncated, setup, "kernel")
                .found(format_args!("{kernel} bytes behind {sectors} sectors of setup"))
                .expected(format_args!("some, and at most the {init_size} of init_size")));
        }
        Ok(BzImage {
            setup,
            // A later kernel may have more than the boot parameters have room for.
            header_end: header_end.min(HEADER_MAX),
            alignment,
            relocatable: fields.u8(abi::RELOCATABLE, "relocatable_kernel")? != 0,
            pref_address,
            init_size,
            command_line_size: fields.u32(abi::CMDLINE_SIZE, "cmdline_size")?,
            initrd_max: fields.u32(abi::INITRD_ADDR_MAX, "initrd_addr_max")?,
            bytes,
        })
    }

    /// What is loaded: all behind the setup code.
    pub(super) fn kernel(&self) -> &[u8] {
        self.bytes.get(self.setup..).unwrap_or_default()
    }

    /// The setup header, which the loader copies into the boot parameters and completes.
    pub(super) fn header(&self) -> &[u8] {
        self.bytes.get(abi::HEADER..self.header_end).unwrap_or_default()
    }
}
