//! The manifest in a program's file.

use alloc::string::String;
use alloc::vec::Vec;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};

use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{Endianness, ReadCache, ReadRef, elf};

use super::{Found, LIMIT, section_of_versions};
use crate::abi::manifest::{NAME, SECTION, TYPE, VERSIONS_SECTION};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

type Header = elf::FileHeader64<Endianness>;
type Cache<'f> = ReadCache<Positioned<'f>>;
type Section = elf::SectionHeader64<Endianness>;

fn bad(error: object::Error) -> Fault {
    Fault::new(Code::Truncated).item("ELF").found(error).expected("a whole ELF file")
}

impl Found {
    /// Reads the manifest of a program from its file, without running it: by its program headers, or where it is no
    /// program yet (an object file) by its sections. None when the program has none. Of the file only headers and notes
    /// are read.
    ///
    /// ```
    /// use kho::manifest::Found;
    /// // This test has no manifest.
    /// let file = std::fs::File::open("/proc/self/exe").unwrap();
    /// assert_eq!(Found::of_file(&file)?, None);
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    /// [`Code::Magic`] when it is no 64-bit ELF file, or cannot be read; [`Code::Truncated`] when it is cut;
    /// [`Code::TooLarge`] for more notes than the limit; [`Code::ForeignEndian`]; those of [`Found::parse`].
    pub fn of_file(file: impl AsFd) -> Result<Option<Found>, Fault> {
        let file = opened(file.as_fd());
        let cache = &file;
        let header = header(cache)?;
        let endian = header.endian().map_err(bad)?;
        let segments = segments(header, cache)?;
        let mut bytes = 0_u64;
        for segment in segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_NOTE) {
            bytes = bytes.saturating_add(segment.p_filesz(endian));
            check_size(bytes, "PT_NOTE")?;
            let Some(mut notes) = segment.notes(endian, cache).map_err(bad)? else { continue };
            while let Some(note) = notes.next().map_err(bad)? {
                if is_ours(note.name(), note.n_type(endian).0) {
                    return Found::parse_desc(note.desc()).map(Some);
                }
            }
        }
        // What is executed needs no sections, and may have broken ones.
        if !segments.is_empty() {
            return Ok(None);
        }
        let Some(section) = few_sections(header, cache)?.named(SECTION) else { return Ok(None) };
        check_size(section.sh_size(endian), SECTION)?;
        let data = section.data(endian, cache).map_err(bad)?;
        Found::parse(data).map(Some)
    }

    /// The table of versions in a file's section `.liveupdate_versions`, as it was proposed for kernels; none when there
    /// is no such section.
    ///
    /// # Errors
    /// As [`Found::of_file`]; [`Code::Magic`] when the section is something else.
    pub fn versions_of_file(file: impl AsFd) -> Result<Option<Vec<String>>, Fault> {
        let file = opened(file.as_fd());
        let cache = &file;
        let header = header(cache)?;
        let endian = header.endian().map_err(bad)?;
        let Some(section) = few_sections(header, cache)?.named(VERSIONS_SECTION) else { return Ok(None) };
        check_size(section.sh_size(endian), VERSIONS_SECTION)?;
        let data = section.data(endian, cache).map_err(bad)?;
        let entries = section_of_versions(data)?;
        Ok(Some(entries.into_iter().map(|(text, _)| text).collect()))
    }
}

/// Whether it is a program that is linked dynamically, which no kernel is.
#[cfg(feature = "serde")]
pub(crate) fn is_dynamic(file: impl AsFd) -> bool {
    let file = opened(file.as_fd());
    let cache = &file;
    let has_interpreter = |header: &Header| {
        let endian = header.endian().ok()?;
        let segments = segments(header, cache).ok()?;
        Some(segments.iter().any(|segment| segment.p_type(endian) == elf::PT_INTERP))
    };
    header(cache).ok().and_then(has_interpreter) == Some(true)
}

/// A file with a position of its own: the caller's, which a duplicate would share, stays.
struct Positioned<'f> {
    file: BorrowedFd<'f>,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let got = rustix::io::pread(self.file, to, self.at)?;
        self.at = self.at.saturating_add(u64_of(got));
        Ok(got)
    }
}

impl Seek for Positioned<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (u64::try_from(rustix::fs::fstat(self.file)?.st_size).unwrap_or(0), by),
        };
        self.at = base.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

fn opened(file: BorrowedFd<'_>) -> Cache<'_> {
    ReadCache::new(Positioned { file, at: 0 })
}

fn header<'c>(cache: &'c Cache<'_>) -> Result<&'c Header, Fault> {
    let header = Header::parse(cache)
        .map_err(|error| Fault::new(Code::Magic).item("ELF").found(error).expected("a 64-bit ELF file"))?;
    if header.is_big_endian() {
        return Err(Fault::new(Code::ForeignEndian).item("ELF"));
    }
    Ok(header)
}

/// Numbers that have no place in the header could be of any size, in a file that is sparse.
fn few(extended: bool, most: &'static str) -> Result<(), Fault> {
    if extended {
        let fault = Fault::new(Code::TooLarge).item("ELF").found(format_args!("more than {most}"));
        return Err(fault.expected("a number that is in the header"));
    }
    Ok(())
}

fn segments<'c>(header: &Header, cache: &'c Cache<'_>) -> Result<&'c [elf::ProgramHeader64<Endianness>], Fault> {
    let endian = header.endian().map_err(bad)?;
    few(header.e_phnum(endian) == elf::PN_XNUM, "65534 segments")?;
    header.program_headers(endian, cache).map_err(bad)
}

fn few_sections<'c, 'f>(header: &Header, cache: &'c Cache<'f>) -> Result<Sections<'c, &'c Cache<'f>>, Fault> {
    let endian = header.endian().map_err(bad)?;
    few(header.e_shnum(endian) == 0 && header.e_shoff(endian) != 0, "65279 sections")?;
    Sections::of(header, cache)
}

/// The sections of a file, and where their names are.
pub(crate) struct Sections<'d, R> {
    all: &'d [Section],
    names: (u64, u64),
    endian: Endianness,
    data: R,
}

impl<'d, R: ReadRef<'d>> Sections<'d, R> {
    pub(crate) fn of(header: &Header, data: R) -> Result<Self, Fault> {
        let endian = header.endian().map_err(bad)?;
        // It knows what is wrong with them.
        header.sections(endian, data).map_err(bad)?;
        let all = header.section_headers(endian, data).map_err(bad)?;
        let names = header.shstrndx(endian, data).ok().and_then(|index| all.get(usize_of(index.into())));
        let names = names.and_then(|names| names.file_range(endian)).unwrap_or((0, 0));
        Ok(Sections { all, names, endian, data })
    }

    /// The section of that name. Of each name only as much is read as this one is long: all names may be the same
    /// one, which ends where the file does.
    pub(crate) fn named(&self, name: &str) -> Option<&'d Section> {
        let with_zero = [name.as_bytes(), b"\0"].concat();
        let size = u64_of(with_zero.len());
        let (start, end) = (self.names.0, self.names.0.saturating_add(self.names.1));
        let is = |section: &&Section| {
            let at = start.saturating_add(section.sh_name(self.endian).into());
            at.saturating_add(size) <= end && self.data.read_bytes_at(at, size) == Ok(&*with_zero)
        };
        self.all.iter().find(is)
    }
}

fn check_size(bytes: u64, item: &'static str) -> Result<(), Fault> {
    if bytes > LIMIT {
        let fault = Fault::new(Code::TooLarge).item(item).found(bytes);
        return Err(fault.expected(format_args!("at most {LIMIT} bytes")));
    }
    Ok(())
}

fn is_ours(name: &[u8], kind: u32) -> bool {
    let own = NAME.strip_suffix(&[0]).unwrap_or(&NAME);
    name == own && kind == TYPE
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
