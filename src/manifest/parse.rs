//! A manifest of somebody else's.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use zerocopy::FromBytes as _;

use crate::abi::manifest::{
    COMPAT, Entry, Header, KIND_LAYOUT, KIND_NODE, KIND_STATE, NAME, NoteHeader, READS, REQUIRED, TYPE, VERSIONS_ENTRY,
    VERSIONS_MAGIC, VERSIONS_SECTION, VERSIONS_VERSION, WRITES,
};
use crate::compat::{Compat, Quoted, Term, Terms};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};
use crate::state::Description;

/// What a program says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Found {
    /// What it reads.
    pub reads: Terms,
    /// What it can write.
    pub writes: Terms,
    /// Entries of a kind that is not known here, which were passed over.
    pub passed_over: u64,
}

impl Found {
    /// Reads a note, with its header: [`Manifest::note`](super::Manifest::note).
    ///
    /// What a newer library may add is passed over: longer headers and entries, further kinds and flags.
    ///
    /// # Errors
    /// [`Code::VersionNewer`] or [`Code::VersionOlder`] for a note of another version, of which nothing is read;
    /// [`Code::Magic`] for a note that is another one; [`Code::Truncated`], [`Code::TooLarge`], [`Code::Text`] and those
    /// of [`Term::parse`] for one that is broken. Offsets are those in the note.
    pub fn parse(note: &[u8]) -> Result<Found, Fault> {
        let cut = |item: &'static str| Fault::new(Code::Truncated).item(item).found(note.len());
        let (header, rest) = NoteHeader::read_from_prefix(note).map_err(|_| cut("note"))?;
        let (name, rest) = rest.split_first_chunk::<4>().ok_or_else(|| cut("note"))?;
        if *name != NAME || header.kind.get() != TYPE || usize_of(header.name_size.get().into()) != NAME.len() {
            let found = format_args!("\"{}\" of type {}", name.escape_ascii(), header.kind);
            let fault = Fault::new(Code::Magic).item("note").found(found);
            return Err(fault.expected(format_args!("\"{}\" of type {TYPE}", NAME.escape_ascii())));
        }
        let size = usize_of(header.desc_size.get().into());
        let desc = rest.get(..size).ok_or_else(|| cut("desc_size").expected(format_args!("{size} and more")))?;
        let offset = u64_of(note.len().saturating_sub(rest.len()));
        Found::parse_desc(desc).map_err(|fault| fault.offset(0).moved(offset))
    }

    /// Reads the description of a note.
    ///
    /// # Errors
    /// As [`Found::parse`]; offsets are those in the description.
    pub fn parse_desc(desc: &[u8]) -> Result<Found, Fault> {
        if u64_of(desc.len()) > super::LIMIT {
            let fault = Fault::new(Code::TooLarge).item("desc_size").found(desc.len());
            return Err(fault.expected(format_args!("at most {}", super::LIMIT)));
        }
        let cut = || Fault::new(Code::Truncated).item("manifest").found(desc.len());
        let (header, _) = Header::read_from_prefix(desc).map_err(|_| cut())?;
        if header.version.get() != COMPAT.version() {
            let newer = header.version.get() > COMPAT.version();
            let fault = Fault::new(if newer { Code::VersionNewer } else { Code::VersionOlder }).item("version");
            return Err(fault.found(format_args!("{}-v{}", COMPAT.name(), header.version)).expected(COMPAT));
        }
        if header.entries.get() > super::MOST {
            let fault = Fault::new(Code::TooLarge).item("entries").found(header.entries);
            return Err(fault.expected(format_args!("at most {}", super::MOST)));
        }
        let start = usize_of(header.size.get().into());
        if start < size_of::<Header>() {
            let fault = Fault::new(Code::TooLarge).item("size").found(start);
            return Err(fault.expected(format_args!("at least {}", size_of::<Header>())));
        }
        let mut rest = desc.get(start..).ok_or_else(cut)?;
        let mut found = Found::default();
        for number in 0..header.entries.get() {
            let offset = u64_of(desc.len().saturating_sub(rest.len()));
            let within = |fault: Fault| fault.within(&alloc::format!("entries[{number}]")).offset(offset);
            rest = found.entry(rest, offset).map_err(within)?;
        }
        found.few()?;
        Ok(found)
    }

    /// Whether it can be held against what another program says.
    ///
    /// # Errors
    /// [`Code::TooLarge`] for more than [`Terms::MOST`] ranges of versions of one node, or of layouts.
    pub(crate) fn few(&self) -> Result<(), Fault> {
        self.reads.few().map_err(|fault| fault.within("reads"))?;
        self.writes.few().map_err(|fault| fault.within("writes"))
    }

    /// Reads an entry, which is at that offset; what is behind it.
    fn entry<'a>(&mut self, bytes: &'a [u8], at: u64) -> Result<&'a [u8], Fault> {
        let cut = |found: usize| Fault::new(Code::Truncated).item("size").found(format_args!("{found} bytes"));
        let (header, _) = Entry::read_from_prefix(bytes).map_err(|_| cut(bytes.len()))?;
        let size = usize_of(header.size.get().into());
        let wanted = || format_args!("{size} bytes").to_string();
        let (entry, rest) = bytes.split_at_checked(size).ok_or_else(|| cut(bytes.len()).expected(wanted()))?;
        let body = entry.get(size_of::<Entry>()..).ok_or_else(|| {
            Fault::new(Code::TooLarge)
                .item("size")
                .found(size)
                .expected(format_args!("at least {}", size_of::<Entry>()))
        })?;
        if ![KIND_NODE, KIND_LAYOUT, KIND_STATE].contains(&header.kind.get()) {
            self.passed_over = self.passed_over.saturating_add(1);
            return Ok(rest);
        }
        let split = |bytes: &'a [u8], size: u16| bytes.split_at_checked(usize_of(size.into()));
        let texts = split(body, header.node_size.get())
            .and_then(|(node, body)| Some((node, split(body, header.made_of_size.get())?.0)));
        let (node, made_of) = texts.ok_or_else(|| cut(body.len()).expected("both texts in it"))?;
        let text = |bytes: &'a [u8], item: &'static str| {
            let text = core::str::from_utf8(bytes);
            text.map_err(|_| Fault::new(Code::Text).item(item).found(Quoted(bytes)).expected("UTF-8"))
        };
        if node.is_empty() != (header.kind.get() == KIND_LAYOUT) {
            let fault = Fault::new(Code::Text).item("node").found(Quoted(node));
            return Err(fault.expected("a name for a node, none for a layout"));
        }
        let flags = header.flags.get();
        if header.kind.get() == KIND_STATE {
            let node = text(node, "node")?;
            let start = at.saturating_add(u64_of(size_of::<Entry>())).saturating_add(u64_of(node.len()));
            let state = Description::parse(made_of).map_err(|fault| fault.moved(start))?;
            if flags & READS != 0 {
                self.reads.add_state(node, state.clone())?;
            }
            if flags & WRITES != 0 {
                self.writes.add_state(node, state)?;
            }
            return Ok(rest);
        }
        let (node, made_of) = (text(node, "node")?, text(made_of, "made_of")?);
        let term = Term::parse(node, made_of, header.oldest.get(), flags & REQUIRED != 0).map_err(|fault| {
            let start = at.saturating_add(u64_of(size_of::<Entry>())).saturating_add(u64_of(node.len()));
            fault.moved(start)
        })?;
        if flags & READS != 0 {
            self.reads.add(term.clone());
        }
        if flags & WRITES != 0 {
            self.writes.add(term);
        }
        Ok(rest)
    }
}

/// So many entries of a table are read.
const ENTRIES: usize = 1024;

/// The entries of a table of versions, and their offsets in it. In a section, the table goes to its end; elsewhere, to
/// the first field that is not NAME-vNUMBER and zeros.
#[must_use]
pub fn table(bytes: &[u8], section: bool) -> Option<Vec<(String, u64)>> {
    let (head, mut rest) = bytes.split_first_chunk::<8>()?;
    if *head != [VERSIONS_MAGIC.to_le_bytes(), VERSIONS_VERSION.to_le_bytes()].concat().as_slice() {
        return None;
    }
    let mut entries = Vec::new();
    let mut at = 8_u64;
    while let Some((field, more)) = rest.split_first_chunk::<VERSIONS_ENTRY>() {
        match Compat::parse_fixed(field) {
            Ok(compat) if entries.len() < ENTRIES => entries.push((compat.to_string(), at)),
            // Sections are filled up with zeros.
            _ if section => {}
            _ => break,
        }
        rest = more;
        at = at.saturating_add(u64_of(VERSIONS_ENTRY));
    }
    (section || !entries.is_empty()).then_some(entries)
}

/// The entries of the section `.liveupdate_versions`, and their offsets in it.
///
/// # Errors
/// [`Code::Magic`] when it is something else, or in another version.
pub fn section_of_versions(bytes: &[u8]) -> Result<Vec<(String, u64)>, Fault> {
    table(bytes, true).ok_or_else(|| {
        let head = bytes.get(..8).unwrap_or(bytes).escape_ascii();
        let fault = Fault::new(Code::Magic).item(VERSIONS_SECTION).found(head);
        fault.expected(format_args!("{VERSIONS_MAGIC:#x} and version {VERSIONS_VERSION}"))
    })
}
