//! What can be found in the bytes of an image: strings, tables, the banner, the configuration.
//!
//! The bytes are looked at in pieces, while they are unpacked and still in the cache of the processor.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem::Finder;

use super::profile::{By, Profile, Statement};
use crate::abi;
use crate::abi::manifest::{VERSIONS_ENTRY, VERSIONS_MAGIC, VERSIONS_VERSION};
use crate::compat::Compat;
use crate::manifest::table;
use crate::num::u64_of;

/// Bytes that are searched at once: the searches find them in the cache.
const PIECE: usize = 64 << 10;
/// No string that is looked for is longer, nor is what stands in front of its mark.
const OVERLAP: usize = 512;
/// So many strings are kept.
const STRINGS: usize = 1024;
/// So many with those of known components, each of which is held against each part of a handover.
const KNOWN_STRINGS: usize = 4096;
/// What a banner begins with, and ` version `.
const LINUX: &[u8] = b"Linux";
/// Bytes of a banner.
const BANNER: usize = 256;

/// What a table of versions begins with.
const HEAD: [[u8; 4]; 2] = [VERSIONS_MAGIC.to_le_bytes(), VERSIONS_VERSION.to_le_bytes()];
/// So many places are tried where a table could be.
const TABLES: usize = 64;
/// The configuration in an image, packed by gzip, stands behind this.
pub(super) const CONFIG: &[u8] = b"IKCFG_ST";

/// Components that kernels have or had, or were proposed. Others are listed as strings only.
const KNOWN: [&str; 18] = [
    "kho",
    "luo",
    "memfd",
    "memblock",
    "kho-test",
    "radix",
    "vmalloc",
    "block",
    "vfio-pci",
    "iommu",
    "iommufd",
    "kvm_vm_luo",
    "kvm_vcpu_luo",
    "guest_memfd_luo",
    "hugetlb",
    "cpu_fh",
    "mshv_kho",
    "kexec-metadata",
];

/// Components that are no handlers of files.
pub(super) const NO_HANDLERS: [&str; 8] =
    ["kho", "luo", "memblock", "kho-test", "radix", "vmalloc", "block", "kexec-metadata"];

/// What was found so far.
pub(super) struct Scanner {
    config_mark: Finder<'static>,
    metadata_mark: Finder<'static>,
    /// How far the bytes were searched.
    done: usize,
    /// The strings, and where each was first.
    strings: BTreeMap<String, u64>,
    banner: Option<String>,
    metadata: Option<u64>,
    /// Where a table of versions may stand.
    tables: Vec<usize>,
    /// Where the configuration stands.
    pub(super) config: Option<usize>,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Scanner {
            config_mark: Finder::new(CONFIG),
            metadata_mark: Finder::new(b"\0kexec-metadata\0"),
            done: 0,
            strings: BTreeMap::new(),
            banner: None,
            metadata: None,
            tables: Vec::new(),
            config: None,
        }
    }

    /// Looks at what has come since the last time. `end`: nothing will follow.
    pub(super) fn look(&mut self, bytes: &[u8], end: bool) {
        loop {
            let there = bytes.len().saturating_sub(self.done);
            if there == 0 || (!end && there < PIECE) {
                return;
            }
            let next = self.done.saturating_add(PIECE).min(bytes.len());
            // What begins in this piece may end in the next one, and is found again there.
            let from = self.done.saturating_sub(OVERLAP);
            self.piece(bytes, from, next);
            self.done = next;
        }
    }

    fn piece(&mut self, bytes: &[u8], from: usize, to: usize) {
        let Some(piece) = bytes.get(from..to) else { return };
        // One search for all that has a `v`: both marks, tables, of which the first entry has one, and the banner.
        for mark in memchr::memchr_iter(b'v', piece).filter_map(|at| at.checked_sub(1)) {
            if piece.get(mark) == Some(&b' ') && self.banner.is_none() {
                // Formats of messages begin with it, too: a version follows.
                let start = mark.checked_sub(LINUX.len());
                self.banner = start.and_then(|start| banner(piece.get(start..)?));
            }
            if !matches!(piece.get(mark), Some(b'-' | b'_')) {
                continue;
            }
            if self.tables.len() < TABLES {
                self.tables.extend(table_before(piece, mark).map(|at| from.saturating_add(at)));
            }
            // Its beginning may be missing; then it was found whole in the piece before.
            if let Some((text, start)) = string_around(piece, mark).filter(|(_, start)| *start > 0 || from == 0) {
                let at = u64_of(from.saturating_add(start));
                let text = String::from_utf8_lossy(text);
                let room = if is_known(&text) { KNOWN_STRINGS } else { STRINGS };
                if self.strings.len() < room {
                    self.strings.entry(text.into_owned()).or_insert(at);
                }
            }
        }
        if self.metadata.is_none() {
            self.metadata = self.metadata_mark.find(piece).map(|at| u64_of(from.saturating_add(at).saturating_add(1)));
        }
        if self.config.is_none() {
            self.config = self.config_mark.find(piece).map(|at| from.saturating_add(at));
        }
    }

    /// Adds what was found in these bytes to what is known already, which it does not contradict.
    pub(super) fn into_profile(self, bytes: &[u8], profile: &mut Profile) {
        profile.banner = self.banner;
        if !profile.handlers_complete {
            let mut tables = self.tables.iter().filter_map(|&at| {
                let entries = table(bytes.get(at..)?, false)?;
                Some(entries.into_iter().map(|(text, place)| (text, place.saturating_add(u64_of(at)))).collect())
            });
            if let Some(entries) = tables.next() {
                add_table(profile, entries, By::VersionTable);
            }
        }
        // Each name once: of strings there may be as many as an image has room for.
        let said = profile.understands.iter().filter_map(|statement| Some(statement.reads().ok()?.newest().name()));
        let said: BTreeSet<String> = said.map(String::from).collect();
        let metadata = self.metadata.map(|at| (String::from("kexec-metadata-v1"), at));
        for (text, offset) in self.strings.into_iter().chain(metadata) {
            if !is_known(&text) {
                profile.strings.push(text);
                continue;
            }
            let Ok(found) = Compat::parse(&text) else { continue };
            if !said.contains(found.name()) && (!profile.handlers_complete || NO_HANDLERS.contains(&found.name())) {
                profile.understands.push(Statement {
                    component: text,
                    oldest: None,
                    by: By::Strings,
                    offset: Some(offset),
                });
            }
        }
    }
}

fn is_known(text: &str) -> bool {
    Compat::parse(text).is_ok_and(|compat| KNOWN.contains(&compat.name()))
}

/// The whole string around a mark `-v` or `_v`, if it is NAME-vNUMBER and a zero, and where it starts.
fn string_around(piece: &[u8], mark: usize) -> Option<(&[u8], usize)> {
    let number = mark.checked_add(2)?;
    let digits = piece.get(number..)?.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    let end = number.checked_add(digits)?;
    if digits == 0 || piece.get(end) != Some(&0) {
        return None;
    }
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let name = piece.get(..mark)?.iter().rev().take(Compat::LONGEST).take_while(is_part).count();
    let start = mark.checked_sub(name)?;
    let text = piece.get(start..end)?;
    (text.first()?.is_ascii_alphabetic() && text.len() <= Compat::LONGEST).then_some((text, start))
}

/// Where a table begins whose first entry has this mark: that is in its first field.
fn table_before(piece: &[u8], mark: usize) -> Option<usize> {
    let head = HEAD.as_flattened();
    let first = mark.saturating_sub(head.len().saturating_add(VERSIONS_ENTRY));
    let at = piece.get(first..mark)?.windows(head.len()).position(|bytes| bytes == head)?;
    Some(first.saturating_add(at))
}

/// `Linux version 7.2.13 (...)`, one line.
fn banner(text: &[u8]) -> Option<String> {
    let line: Vec<u8> = text.iter().copied().take(BANNER).take_while(|byte| !matches!(byte, 0 | b'\n')).collect();
    let version = line.strip_prefix(LINUX)?.strip_prefix(b" version ")?.first()?;
    // Cut by the end of the piece: it is found whole in the next one, or was in the one before.
    (version.is_ascii_digit() && (line.len() == BANNER || line.len() < text.len()))
        .then(|| String::from_utf8_lossy(&line).into_owned())
}

/// Adds what a table says.
pub(super) fn add_table(profile: &mut Profile, entries: Vec<(String, u64)>, by: By) {
    profile.handlers_complete = true;
    let statement = |(component, offset)| Statement { component, oldest: None, by, offset: Some(offset) };
    profile.understands.extend(entries.into_iter().map(statement));
}

/// The statement that a kernel with the root `kho-v4` reads these parts of it, which no string of today's kernels names.
pub(super) fn imply(profile: &mut Profile) {
    let reads = |profile: &Profile, name: &str| profile.reads_of(name).next().is_some();
    if !profile.reads_of("kho").any(|(reads, _)| reads.newest() == abi::kho::COMPAT) {
        return;
    }
    for part in [abi::radix::COMPAT, abi::vmalloc::COMPAT, abi::block::COMPAT] {
        if !reads(profile, part.name()) {
            let component = part.to_string();
            profile.understands.push(Statement { component, oldest: None, by: By::Implied, offset: None });
        }
    }
}
