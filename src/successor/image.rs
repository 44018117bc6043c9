//! Images of kernels, from the outside in: what is in what, and what the innermost says.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{Endianness, elf};

use super::profile::{By, Profile, Setting};
use super::scan::{self, Scanner};
use super::unpack::{Packing, unpack};
use crate::abi::manifest::VERSIONS_SECTION;
use crate::abi::x86_boot;
use crate::manifest::{self, Found, is_dynamic, section_of_versions};
use crate::mem::Machine;
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// Images in images: a UKI has a zboot image that is packed, and the whole may be packed once more.
const DEPTH: usize = 8;
/// Bytes of the configuration, unpacked.
#[cfg(feature = "images")]
const CONFIG_LIMIT: u64 = 4 << 20;
/// Bytes of names in an unsettled section.
const FEATURE: usize = 48 + 3 * 8;

/// Bytes of an image, packed and unpacked, at most.
pub const LIMIT: u64 = 512 << 20;

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    BzImage,
    Zboot,
    Arm64,
    RiscV,
    Pe,
    Elf,
    Packed(Packing),
    Other,
}

impl Kind {
    fn of(bytes: &[u8]) -> Kind {
        let has = |at: usize, magic: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic));
        if has(x86_boot::MAGIC, &x86_boot::HEADER_MAGIC) {
            Kind::BzImage
        } else if has(0, b"MZ") && has(4, b"zimg") {
            Kind::Zboot
        } else if has(0x38, b"ARM\x64") {
            Kind::Arm64
        } else if has(0x38, b"RSC\x05") {
            Kind::RiscV
        } else if has(0, b"MZ") {
            Kind::Pe
        } else if has(0, &elf::ELFMAG) {
            Kind::Elf
        } else {
            Packing::of(bytes).map_or(Kind::Other, Kind::Packed)
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Kind::BzImage => "bzImage",
            Kind::Zboot => "zboot",
            Kind::Arm64 => "arm64 Image",
            Kind::RiscV => "RISC-V Image",
            Kind::Pe => "UKI",
            Kind::Elf => "elf",
            Kind::Packed(packing) => packing.name(),
            Kind::Other => "raw",
        }
    }
}

/// Whether these first 1024 bytes of a file are those of a kernel image, packed or not. Cores are none.
#[must_use]
pub fn is_image(head: &[u8]) -> bool {
    match Kind::of(head) {
        Kind::Other => false,
        // e_type; a core of any byte order.
        Kind::Elf => !matches!(head.get(16..18), Some([4, 0] | [0, 4])),
        _ => true,
    }
}

impl Profile {
    /// Reads what a kernel understands from its image, without running it.
    ///
    /// `vmlinux`, `bzImage`, `Image` of arm64 and RISC-V, zboot images, UKIs, and any of them packed by gzip, xz, zstd,
    /// lz4, bzip2 or lzma (feature `images`). A program that has a [manifest](mod@crate::manifest) is a profile too: of its
    /// file only that is read.
    ///
    /// ```no_run
    /// use kho::successor::Profile;
    /// let next = Profile::of_image("/boot/vmlinuz")?;
    /// for statement in &next.understands {
    ///     println!("{} ({})", statement.component, statement.by);
    /// }
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    /// [`Code::Io`]; [`Code::Magic`] when it is no image of a kernel; [`Code::Truncated`]; [`Code::ImagePacked`],
    /// [`Code::ImagePacking`] and [`Code::ImageLimit`] of what cannot be unpacked; [`Code::FileKind`] of a core.
    pub fn of_image(path: impl AsRef<Path>) -> Result<Profile, Fault> {
        let io = |error| Fault::new(Code::Io).item(path.as_ref().display().to_string()).found(error);
        let file = File::open(&path).map_err(io)?;
        match Found::of_file(&file) {
            Ok(Some(found)) => return Ok(Profile::of_program(found)),
            Ok(None) if is_dynamic(&file) => {
                let fault = Fault::new(Code::SuccessorSilent).item("program").found("a program without a manifest");
                return Err(fault.expected("what kho::manifest! puts into it: nothing else says what it reads"));
            }
            // What is wrong with the note of a program is told; of what is no whole ELF file, below.
            Err(fault) if fault.at().item.as_deref() != Some("ELF") => return Err(fault),
            _ => {}
        }
        let mut bytes = Vec::new();
        file.take(LIMIT.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
        Profile::of_bytes(&bytes)
    }

    /// As [`Profile::of_image`], of an image in memory.
    ///
    /// # Errors
    /// As [`Profile::of_image`].
    pub fn of_bytes(bytes: &[u8]) -> Result<Profile, Fault> {
        Profile::within(bytes, LIMIT)
    }

    /// As [`Profile::of_bytes`], with another limit than 512 MiB for all that is unpacked.
    ///
    /// # Errors
    /// As [`Profile::of_image`].
    pub fn within(bytes: &[u8], limit: u64) -> Result<Profile, Fault> {
        if u64_of(bytes.len()) > limit {
            let fault = Fault::new(Code::ImageLimit).item("file").found("more");
            return Err(fault.expected(format_args!("at most {limit} bytes")));
        }
        let mut profile = Profile { profile: Profile::VERSION, ..Profile::default() };
        let mut image = Cow::Borrowed(bytes);
        let mut scanner = None;
        let mut left = limit;
        for _ in 0..DEPTH {
            let kind = Kind::of(&image);
            profile.layers.push(kind.name().into());
            let inner = match kind {
                Kind::BzImage => {
                    let flags = image.get(x86_boot::XLOADFLAGS).copied().unwrap_or(0);
                    let is_64 = u16::from(flags) & x86_boot::XLF_KERNEL_64 != 0;
                    profile.machine = is_64.then_some(Machine::X86);
                    payload(&image)?
                }
                Kind::Zboot => zboot(&image)?,
                Kind::Pe => linux_section(&image)?,
                Kind::Packed(packing) => {
                    let mut looks = Scanner::new();
                    let out = unpack(packing, &image, left, &mut |bytes, end| looks.look(bytes, end))?;
                    left = left.saturating_sub(u64_of(out.len()));
                    scanner = Some(looks);
                    image = Cow::Owned(out);
                    continue;
                }
                Kind::Arm64 | Kind::RiscV | Kind::Elf | Kind::Other => {
                    return innermost(kind, &image, scanner, profile);
                }
            };
            scanner = None;
            image = match image {
                Cow::Borrowed(all) => Cow::Borrowed(all.get(inner.clone()).unwrap_or_default()),
                Cow::Owned(mut all) => {
                    all.truncate(inner.end);
                    all.drain(..inner.start.min(all.len()));
                    Cow::Owned(all)
                }
            };
        }
        let fault = Fault::new(Code::ImageLimit).item(profile.layers.join(" in "));
        Err(fault.found("more").expected(format_args!("images nested at most {DEPTH} deep")))
    }
}

type Span = core::ops::Range<usize>;

/// A part of an image by what its header says.
fn span(image: &[u8], item: &'static str, start: u64, size: u64) -> Result<Span, Fault> {
    let end = start.checked_add(size).filter(|&end| end <= u64_of(image.len()) && size > 0);
    let span = end.and_then(|end| Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?));
    span.ok_or_else(|| {
        let fault = Fault::new(Code::Truncated).item(item).offset(start).found(format_args!("{size} bytes"));
        fault.expected(format_args!("at least one byte, inside of an image of {} bytes", image.len()))
    })
}

fn u32_at(image: &[u8], at: usize, item: &'static str) -> Result<u64, Fault> {
    let field = image.get(at..).and_then(|rest| rest.first_chunk::<4>());
    let cut = || Fault::new(Code::Truncated).item(item).found(format_args!("{} bytes", image.len()));
    field.map(|field| u32::from_le_bytes(*field).into()).ok_or_else(cut)
}

/// Where the packed kernel is in a bzImage.
fn payload(image: &[u8]) -> Result<Span, Fault> {
    let sectors = match image.get(x86_boot::SETUP_SECTS).copied().unwrap_or(0) {
        0 => 4,
        more => u64::from(more),
    };
    let offset = u32_at(image, x86_boot::PAYLOAD_OFFSET, "payload_offset")?;
    let size = u32_at(image, x86_boot::PAYLOAD_LENGTH, "payload_length")?;
    span(image, "payload_offset", sectors.saturating_add(1).saturating_mul(512).saturating_add(offset), size)
}

/// Where the packed kernel is in an EFI zboot image; its header names the packing.
fn zboot(image: &[u8]) -> Result<Span, Fault> {
    let (offset, size) = (u32_at(image, 8, "payload")?, u32_at(image, 12, "payload")?);
    let span = span(image, "payload", offset, size)?;
    let packed = image.get(span.clone()).unwrap_or_default();
    if Kind::of(packed) == Kind::Other {
        let name = image.get(24..56).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
        let fault = Fault::new(Code::ImagePacking).item("payload").offset(offset);
        return Err(fault.found(name.escape_ascii()).expected("gzip, xz, zstd, lz4, bzip2 or lzma"));
    }
    Ok(span)
}

/// Where the kernel is in a unified kernel image: the section `.linux`.
fn linux_section(image: &[u8]) -> Result<Span, Fault> {
    use object::read::pe::ImageNtHeaders;
    fn section<Nt: ImageNtHeaders>(image: &[u8]) -> object::Result<Option<(u32, u32)>> {
        let dos = object::pe::ImageDosHeader::parse(image)?;
        let mut offset = dos.nt_headers_offset().into();
        let (nt, _) = Nt::parse(image, &mut offset)?;
        let sections = nt.sections(image, offset)?;
        let linux = sections.iter().find(|section| &section.name == b".linux\0\0");
        Ok(linux.map(object::pe::ImageSectionHeader::pe_file_range))
    }
    let found = section::<object::pe::ImageNtHeaders64>(image)
        .or_else(|_| section::<object::pe::ImageNtHeaders32>(image))
        .map_err(|error| Fault::new(Code::ImageHeader).item("PE").found(error).expected("a PE image"))?;
    let Some((start, size)) = found else {
        let fault = Fault::new(Code::Magic).item("PE").found("no section .linux");
        return Err(fault.expected("a unified kernel image, a zboot image or a bzImage"));
    };
    span(image, ".linux", start.into(), size.into())
}

/// What the kernel itself says.
fn innermost(kind: Kind, image: &[u8], scanner: Option<Scanner>, mut profile: Profile) -> Result<Profile, Fault> {
    let mut header_says = |machine: Option<Machine>, bytes: Option<u64>| {
        profile.page_size = bytes;
        profile.page_size_by = bytes.map(|_| By::Header);
        profile.machine = machine.or(profile.machine);
        profile.machine_by = profile.machine.map(|_| By::Header);
    };
    match kind {
        Kind::Elf => {
            let facts = sections(image)?;
            header_says(facts.machine, facts.page_size);
            if let Some(entries) = facts.versions {
                scan::add_table(&mut profile, entries, By::LiveupdateVersions);
            }
            profile.unsettled = facts.features;
        }
        // Bits 1 and 2 of its flags.
        Kind::Arm64 => {
            let size = match image.get(0x18).map(|flags| flags >> 1 & 3) {
                Some(1) => Some(4 << 10),
                Some(2) => Some(16 << 10),
                Some(3) => Some(64 << 10),
                _ => None,
            };
            header_says(Some(Machine::Arm64), size);
        }
        Kind::RiscV => header_says(Some(Machine::RiscV64), Some(4 << 10)),
        _ => header_says(None, None),
    }
    let scanner = scanner.unwrap_or_else(|| {
        let mut scanner = Scanner::new();
        scanner.look(image, true);
        scanner
    });
    configuration(image, scanner.config, &mut profile);
    scanner.into_profile(image, &mut profile);
    scan::imply(&mut profile);
    if !profile.is_kernel() {
        let what = profile.layers.join(", in it ");
        let fault = Fault::new(Code::Magic).item("image").found(format_args!("{what}, without \"Linux version\""));
        return Err(fault.expected("an image of a kernel, or a program with a manifest"));
    }
    Ok(profile)
}

/// What the headers of an ELF file say.
struct Sections {
    machine: Option<Machine>,
    page_size: Option<u64>,
    versions: Option<Vec<(String, u64)>>,
    features: Vec<String>,
}

fn sections(image: &[u8]) -> Result<Sections, Fault> {
    let bad = |error: object::Error| Fault::new(Code::Truncated).item("ELF").found(error).expected("a whole ELF file");
    let header = elf::FileHeader64::<Endianness>::parse(image).map_err(bad)?;
    let endian = header.endian().map_err(bad)?;
    if header.e_type(endian) == elf::ET_CORE {
        return Err(Fault::new(Code::FileKind).item("ELF").found("a core").expected("an image of a kernel"));
    }
    let machine = Machine::of_elf(header.e_machine(endian).0);
    let page_size = (machine == Some(Machine::X86)).then_some(4 << 10);
    let sections = manifest::Sections::of(header, image)?;
    let data = |name: &str| -> Result<Option<(&[u8], u64)>, Fault> {
        let Some(section) = sections.named(name) else { return Ok(None) };
        let bytes = section.data(endian, image).map_err(bad)?;
        Ok(Some((bytes, section.sh_offset(endian))))
    };
    let versions = data(VERSIONS_SECTION)?.map(|(bytes, at)| -> Result<Vec<(String, u64)>, Fault> {
        let entries = section_of_versions(bytes).map_err(|fault| fault.offset(at))?;
        Ok(entries.into_iter().map(|(text, place)| (text, place.saturating_add(at))).collect())
    });
    let features = data(".liveupdate_features")?.map_or_else(Vec::new, |(bytes, _)| {
        let names = bytes.chunks(FEATURE).take(1024).filter_map(|record| record.split(|&byte| byte == 0).next());
        names.filter(|name| !name.is_empty()).map(|name| name.escape_ascii().to_string()).collect()
    });
    Ok(Sections { machine, page_size, versions: versions.transpose()?, features })
}

/// The configuration that is in the image, if there is one.
fn configuration(image: &[u8], at: Option<usize>, profile: &mut Profile) {
    if let Some(packed) = at.and_then(|at| image.get(at.checked_add(scan::CONFIG.len())?..)) {
        packed_configuration(packed, profile);
    }
}

/// A configuration that is packed by gzip, as kernels have it; anything else is none.
pub(super) fn packed_configuration(packed: &[u8], profile: &mut Profile) {
    let Some(text) = Some(packed).filter(|packed| Packing::of(packed) == Some(Packing::Gzip)).and_then(unpacked) else {
        return;
    };
    let text = String::from_utf8_lossy(&text);
    let value = |name: &str| {
        let set = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        set.unwrap_or("n").chars().take(64).collect::<String>()
    };
    for name in ["CONFIG_KEXEC_HANDOVER", "CONFIG_LIVEUPDATE", "CONFIG_KEXEC_FILE", "CONFIG_MEMFD_CREATE"] {
        profile.config.push(Setting { name: name.into(), value: value(name) });
    }
    let shift = value("CONFIG_PAGE_SHIFT").parse::<u32>().ok().filter(|shift| (12..=16).contains(shift));
    let size = shift.and_then(|shift| 1_u64.checked_shl(shift)).or_else(|| {
        let names = [("4K", 4), ("16K", 16), ("64K", 64)];
        let set = names.iter().find(|(name, _)| value(&format!("CONFIG_ARM64_{name}_PAGES")) == "y");
        set.map(|&(_, size)| size << 10)
    });
    if let (Some(size), None) = (size, profile.page_size) {
        profile.page_size = Some(size);
        profile.page_size_by = Some(By::Config);
    }
}

#[cfg(feature = "images")]
fn unpacked(packed: &[u8]) -> Option<Vec<u8>> {
    unpack(Packing::Gzip, packed, CONFIG_LIMIT, &mut |_, _| ()).ok()
}

#[cfg(not(feature = "images"))]
fn unpacked(_: &[u8]) -> Option<Vec<u8>> {
    None
}
