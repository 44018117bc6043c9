//! Kexec into a kernel with a handover that was authored here: on x86-64, through `kexec_load(2)`.
//!
//! When a kernel loads the next one itself (`kexec_file_load`), it hands over what *it* preserved. This loads a bzImage
//! from user space, with any handover that a program authored: as segments at the physical addresses that it names, and
//! a `setup_data` entry that tells the next kernel of it. kexec-tools cannot do that.
//!
//! ```no_run
//! use kho::kexec::{Boot, BzImage, MemoryMap, Passing};
//! use kho::mem::{Geometry, Image, PhysAddr, PhysRange};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kernel = BzImage::new(std::fs::read("/boot/vmlinuz")?)?;
//! let initrd = std::fs::read("/boot/initrd.img")?;
//! // A handover that was authored for physical address 0x40000000, with its root at the start.
//! let (base, scratch) = (PhysAddr::new(0x4000_0000), PhysRange::new(PhysAddr::new(0x1000_0000), 64 << 20).unwrap());
//! let image = Image::raw(std::fs::File::open("handover.img")?, base, Geometry::K4)?;
//! let handover = Passing::new(&image, base, &[scratch])?;
//! let memory = MemoryMap::of_this_machine()?;
//! let boot = Boot {
//!     kernel: &kernel,
//!     initrd: &initrd,
//!     command_line: b"console=ttyS0 kho=on liveupdate=on",
//!     memory: &memory,
//!     rsdp: kho::kexec::rsdp(),
//!     handover: Some(&handover),
//! };
//! boot.segments()?.load()?;
//! // Then: systemctl kexec, or reboot(LINUX_REBOOT_CMD_KEXEC).
//! # Ok(())
//! # }
//! ```

mod boot;
mod bzimage;
mod memory;
mod passing;
mod place;
mod sys;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use rustix::io::Errno;

use crate::abi::kho::X86_LOW_LIMIT;
use crate::mem::{PhysAddr, PhysRange};
use crate::num::u64_of;
use crate::report::{Code, Fault};

pub use bzimage::BzImage;
pub use memory::{MemoryMap, MemoryRange};
pub use passing::Passing;

use boot::Placed;
use place::{Places, Wanted};

const PAGE: u64 = 4096;
/// Boot parameters and the command line are below it, so that any kernel takes them.
const FOUR_GIB: u64 = 1 << 32;

/// What is to be booted.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a BzImage,
    /// The initial RAM disk; none if empty.
    pub initrd: &'a [u8],
    /// The command line, without a zero. A handover needs `kho=on` in it, and sessions `liveupdate=on`.
    pub command_line: &'a [u8],
    /// The memory of the machine.
    pub memory: &'a MemoryMap,
    /// Physical address of the ACPI root pointer, for machines where the kernel does not find it by itself: those that
    /// were started by EFI. See [`rsdp`].
    pub rsdp: Option<u64>,
    /// What is handed over.
    pub handover: Option<&'a Passing>,
}

/// Bytes at a physical address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where they go, a page.
    pub at: PhysAddr,
    /// Bytes of memory, whole pages; what the bytes do not fill is zero.
    pub size: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A kernel that is ready to be loaded: where everything goes is decided.
#[derive(Clone, Debug)]
pub struct Segments {
    list: Vec<Segment>,
    entry: PhysAddr,
}

impl Boot<'_> {
    /// Finds a place for everything: in the scratch areas if it fits there, and else anywhere in memory.
    ///
    /// # Errors
    /// [`Code::Outside`] when the handover or a scratch area is not in the machine's memory, [`Code::Exhausted`] when
    /// there is no room, [`Code::TooLarge`] for a command line or a memory map that does not fit.
    pub fn segments(&self) -> Result<Segments, Fault> {
        let ram: Vec<PhysRange> = self.memory.ram().collect();
        let scratch = self.handover.map_or(&[][..], |handover| &handover.scratch);
        let mut places = Places::new(scratch, &ram, X86_LOW_LIMIT);
        let mut list = Vec::new();
        if let Some(handover) = self.handover {
            let segments = handover.segments.iter().filter_map(|segment| PhysRange::new(segment.at, segment.size));
            // An area without memory is nowhere.
            let areas = scratch.iter().copied().filter(|area| area.size() > 0);
            for range in areas.chain(segments.clone()) {
                inside(range, &ram)?;
            }
            segments.for_each(|segment| places.take(segment));
            list.extend(handover.segments.iter().cloned());
        }
        let kernel = places.find(&self.kernel_wanted())?;
        let initrd = self.place_initrd(&mut places)?;
        let pages = places.find(&Wanted {
            what: "boot parameters",
            size: boot::size(self),
            align: PAGE,
            from: X86_LOW_LIMIT,
            below: FOUR_GIB,
        })?;
        let bytes = boot::pages(self, &Placed { pages, kernel, initrd })?;
        list.push(Segment { at: pages, size: u64_of(bytes.len()), bytes });
        list.push(Segment::new(kernel, self.kernel.kernel()));
        if let Some(initrd) = initrd {
            list.push(Segment::new(initrd.start(), self.initrd));
        }
        list.sort_unstable_by_key(|segment| segment.at);
        Ok(Segments { list, entry: pages })
    }

    fn kernel_wanted(&self) -> Wanted {
        let kernel = self.kernel;
        let size = kernel.init_size.next_multiple_of(PAGE);
        // Below its preferred address it would move itself there, onto whatever is there.
        let below = if kernel.relocatable { u64::MAX } else { kernel.pref_address.saturating_add(size) };
        Wanted { what: "kernel", size, align: kernel.alignment.max(PAGE), from: kernel.pref_address, below }
    }

    fn place_initrd(&self, places: &mut Places) -> Result<Option<PhysRange>, Fault> {
        if self.initrd.is_empty() {
            return Ok(None);
        }
        let size = u64_of(self.initrd.len());
        let wanted = Wanted {
            what: "initial RAM disk",
            size: size.next_multiple_of(PAGE),
            align: PAGE,
            from: X86_LOW_LIMIT,
            below: self.kernel.initrd_max.saturating_add(1),
        };
        let at = places.find(&wanted)?;
        Ok(PhysRange::new(at, size))
    }
}

fn inside(range: PhysRange, ram: &[PhysRange]) -> Result<(), Fault> {
    if range.start().get() >= X86_LOW_LIMIT && ram.iter().any(|ram| ram.contains(range.start(), range.size())) {
        return Ok(());
    }
    let fault = Fault::new(Code::Outside).address(range.start().get()).item("handover").found(range);
    Err(fault.expected(format_args!("one range of the machine's memory, above {X86_LOW_LIMIT:#x}")))
}

impl Segment {
    fn new(at: PhysAddr, bytes: &[u8]) -> Self {
        Segment { at, size: u64_of(bytes.len()).next_multiple_of(PAGE), bytes: bytes.to_vec() }
    }
}

impl Segments {
    /// All segments, ascending.
    #[must_use]
    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// Where the next kernel is entered: the stub that starts it.
    #[must_use]
    pub const fn entry(&self) -> PhysAddr {
        self.entry
    }

    /// Loads it: the next kexec of this machine starts it. What was loaded before is gone.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn load(&self) -> Result<(), Refused> {
        sys::kexec_load(self.entry.get(), &self.list).map_err(|error| refused(&error))
    }
}

/// The ACPI root pointer of the running machine, where its boot parameters or EFI name it.
#[must_use]
pub fn rsdp() -> Option<u64> {
    let params = std::fs::read("/sys/kernel/boot_params/data").unwrap_or_default();
    let field = params.get(crate::abi::x86_boot::ACPI_RSDP..).and_then(<[u8]>::first_chunk::<8>);
    field.map(|bytes| u64::from_le_bytes(*bytes)).filter(|&address| address != 0).or_else(|| {
        let text = std::fs::read_to_string("/sys/firmware/efi/systab").ok()?;
        let find = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix("=0x"));
        u64::from_str_radix(find("ACPI20").or_else(|| find("ACPI"))?, 16).ok()
    })
}

/// Takes the loaded kernel away, if there is one.
///
/// # Errors
/// [`Refused`].
pub fn unload() -> Result<(), Refused> {
    sys::kexec_load(0, &[]).map_err(|error| refused(&error))
}

/// Why the running kernel does not load the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kexec_load: {errno}: {}", self.meaning())]
pub struct Refused {
    errno: Errno,
}

fn refused(error: &std::io::Error) -> Refused {
    Refused { errno: Errno::from_io_error(error).unwrap_or(Errno::IO) }
}

impl Refused {
    /// The system's error.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        self.errno
    }

    /// What the kernel means by it.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        match self.errno {
            Errno::PERM => {
                "it needs CAP_SYS_BOOT, and is refused where kernel.kexec_load_disabled is 1 or the kernel is locked down"
            }
            Errno::NOSYS => "the kernel was built without kexec_load (CONFIG_KEXEC)",
            Errno::BUSY => "somebody else is loading a kernel",
            Errno::ADDRNOTAVAIL => "a segment is not in memory that a kernel may be loaded to",
            Errno::INVAL => "segments that overlap, or more than half of the machine's memory",
            Errno::NOMEM => "no memory to keep the segments until then",
            _ => "the kernel's documentation gives it no meaning here",
        }
    }
}
