//! What is looked at: a lock, BTF alone, or an ELF file with BTF in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use kho::lock::Lock;
use object::{Object as _, ObjectSection as _, ReadCache};

use super::btf::{Found, extract};
use super::names::STRINGS;

/// A kernel with everything in it has 10 MB.
const LARGEST_BTF: u64 = 64 << 20;
/// The strings of a kernel are in less.
const LARGEST_STRINGS: u64 = 128 << 20;
const LARGEST_LOCK: u64 = 4 << 20;

/// What a file says.
pub(super) enum Image {
    /// A lock, or what this command was built with.
    Lock(Lock),
    /// Types of a kernel.
    Kernel(Kernel),
}

/// Types of a kernel.
pub(super) struct Kernel {
    pub(super) found: Vec<Found>,
    pub(super) unknown: Vec<String>,
    /// The highest version of each component whose string is in the image; none of BTF alone.
    pub(super) versions: BTreeMap<&'static str, u32>,
}

/// Reads a file, or `lock`.
pub(super) fn read(path: &Path) -> Result<Image, String> {
    if path.as_os_str() == "lock" {
        return Ok(Image::Lock(Lock::new(kho::lock::of_code())));
    }
    let io = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(io)?;
    let mut start = Vec::new();
    file.by_ref().take(4).read_to_end(&mut start).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    match start.as_slice() {
        [0x7f, b'E', b'L', b'F'] => elf(file),
        [0x9f, 0xeb, ..] | [0xeb, 0x9f, ..] => kernel(&limited(file, LARGEST_BTF)?, BTreeMap::new()),
        [b'#' | b'a'..=b'z', ..] => {
            let text = String::from_utf8(limited(file, LARGEST_LOCK)?);
            let text = text.map_err(|_| "neither a lock, nor BTF, nor ELF".to_owned())?;
            Lock::parse(&text).map(Image::Lock).map_err(|error| format!("no lock: {error}"))
        }
        _ => Err("neither a lock, nor BTF, nor ELF\nhint: a compressed kernel has to be unpacked first, by \
                  scripts/extract-vmlinux; the running one's types are in /sys/kernel/btf/vmlinux"
            .into()),
    }
}

fn limited(file: File, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit { Err(format!("larger than {limit} bytes")) } else { Ok(bytes) }
}

fn elf(file: File) -> Result<Image, String> {
    let cache = ReadCache::new(file);
    let elf = object::File::parse(&cache).map_err(|error| format!("a broken ELF file: {error}"))?;
    let none =
        "an ELF file without .BTF\nhint: the kernel needs CONFIG_DEBUG_INFO_BTF; a C file `gcc -gbtf`, or `pahole -J`";
    let section = elf.section_by_name(".BTF").ok_or(none)?;
    if section.size() > LARGEST_BTF {
        return Err(format!(".BTF is larger than {LARGEST_BTF} bytes"));
    }
    let bytes = section.data().map_err(|error| format!(".BTF cannot be read: {error}"))?;
    let mut versions = BTreeMap::new();
    let mut left = LARGEST_STRINGS;
    for section in elf.sections().filter(|s| s.name().is_ok_and(|n| n.starts_with(".rodata") || n == ".init.data")) {
        let Some(less) = left.checked_sub(section.size()) else { break };
        left = less;
        if let Ok(data) = section.data() {
            strings(data, &mut versions);
        }
    }
    kernel(bytes, versions)
}

fn kernel(bytes: &[u8], versions: BTreeMap<&'static str, u32>) -> Result<Image, String> {
    let extracted = extract(bytes)?;
    if extracted.found.is_empty() {
        return Err("it has no structure that is handed over: a kernel without KEXEC_HANDOVER?".into());
    }
    Ok(Image::Kernel(Kernel { found: extracted.found, unknown: extracted.unknown, versions }))
}

/// Finds `NAME-vNUMBER` between zeros, or at the start; the highest version of each name counts.
fn strings(data: &[u8], versions: &mut BTreeMap<&'static str, u32>) {
    for text in data.split(|byte| *byte == 0).filter(|text| (4..=47).contains(&text.len())) {
        let Some(text) = std::str::from_utf8(text).ok().filter(|text| text.contains("-v")) else { continue };
        let Ok(compat) = kho::compat::Compat::parse(text) else { continue };
        if let Some(name) = STRINGS.iter().find(|name| **name == compat.name()) {
            let highest = versions.entry(name).or_insert(0);
            *highest = compat.version().max(*highest);
        }
    }
}
