//! The bytes of what was handed over, out of the memory into files.

use alloc::borrow::Cow;
use alloc::sync::Arc;
use core::fmt::{self, Write as _};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;

use super::body::Body;
use super::content::{Content, NamedRange};
use super::copy::{Beside, Copy, Here, Sink, ZEROS, write_blocks};
use super::view::{Decoded, Node};
use super::{NotShown, Options, open_all, with_memory};
use crate::abi::luo;
use crate::handover::Verdict;
use crate::mem::{Geometry, Image, PhysAddr, PhysRange};
use crate::num::{u64_of, usize_of};
use crate::radix::Tree;
use crate::report::{Code, Fault};
use crate::text::Name;

/// From this size on, in bytes, a thread is worth it.
pub(super) const LARGE: u64 = 4 << 20;

/// So much may be streamed of what is all holes, in bytes.
const STREAMED: u64 = 1 << 30;

/// A handover with the memory that it was decoded from, so that what it holds can be read.
///
/// ```
/// use kho::inspect::{Opened, Options};
///
/// // A machine that was frozen at the moment of kexec.
/// let opened = Opened::open("tests/data/linux-7.2-x86_64/frozen.core", &Options::default())?;
/// let file = opened.find(b"vm-session/0xabc").ok_or("no such file")?;
/// let mut bytes = Vec::new();
/// let copied = opened.stream(&file, &mut bytes)?;
/// assert_eq!(copied.bytes, bytes.len() as u64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Opened {
    /// What was found.
    pub decoded: Decoded,
    /// What it was found in, and what of it is preserved. None without memory, or without a tree.
    pub(super) memory: Option<(Arc<Image>, Tree)>,
}

/// Where something is, by the names that its owner gave it.
///
/// Printed as people write it, `SESSION/TOKEN`: the token is lower-case hexadecimal after `0x`, and every byte of a name that is
/// not a letter, a digit or one of `_+=@:,.-` is `%` and two hexadecimal digits; so is a `.` or `-` at the front. No name
/// at all is `%00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A file of a session.
    File {
        /// The name of the session.
        session: &'a Name,
        /// The token of the file.
        token: u64,
    },
    /// What a node holds.
    Node(&'a str),
    /// A named range of a node.
    Range {
        /// The node.
        node: &'a str,
        /// The range.
        name: &'a Name,
    },
}

impl Place<'_> {
    /// A name for a file that holds it: `SESSION.TOKEN`, `NODE`, or `NODE~NAME`, escaped as in the printed form. It
    /// names nothing but a file in its directory, no two places have the same, and the names can be had back from it.
    #[must_use]
    pub fn file_name(&self) -> String {
        // Only what stands behind the last dot is a token, and a node has no dot.
        match self {
            Place::File { session, token } => format!("{}.{token:x}", escaped(session.as_bytes(), true)),
            Place::Node(name) => escaped(name.as_bytes(), false),
            Place::Range { node, name } => {
                format!("{}~{}", escaped(node.as_bytes(), false), escaped(name.as_bytes(), false))
            }
        }
    }

    /// Whether people may mean this by `text`: the printed form, or the names as their bytes are; a token is hexadecimal
    /// with `0x`, and decimal without, as everywhere.
    fn is_meant(&self, text: &[u8]) -> bool {
        let last = text.iter().rposition(|&byte| byte == b'/').and_then(|at| text.split_at_checked(at));
        match self {
            Place::File { session, token } => last.is_some_and(|(name, number)| {
                let (digits, radix) = match number.strip_prefix(b"/0x") {
                    Some(hex) => (hex, 16),
                    None => (number.strip_prefix(b"/").unwrap_or_default(), 10),
                };
                let digits = core::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'));
                name == session.as_bytes()
                    && digits.and_then(|digits| u64::from_str_radix(digits, radix).ok()) == Some(*token)
            }),
            Place::Node(node) => text == node.as_bytes(),
            Place::Range { node, name } => {
                text.strip_prefix(node.as_bytes()).and_then(|text| text.strip_prefix(b"/")) == Some(name.as_bytes())
            }
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { session, token } => write!(f, "{}/{token:#x}", escaped(session.as_bytes(), true)),
            Place::Node(name) => f.write_str(&escaped(name.as_bytes(), true)),
            Place::Range { node, name } => {
                write!(f, "{}/{}", escaped(node.as_bytes(), true), escaped(name.as_bytes(), true))
            }
        }
    }
}

/// A name that is safe as a part of a file's name and on a terminal.
fn escaped(name: &[u8], dots: bool) -> String {
    if name.is_empty() {
        // No name has a zero, and a file should not be hidden.
        return "%00".into();
    }
    let mut text = String::with_capacity(name.len());
    for (at, &byte) in name.iter().enumerate() {
        let plain = match byte {
            b'_' | b'+' | b'=' | b'@' | b':' | b',' => true,
            b'.' => dots && at > 0,
            b'-' => at > 0,
            other => other.is_ascii_alphanumeric(),
        };
        if plain {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

/// Something whose bytes can be taken out of the memory, or why not.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    place: Place<'a>,
    body: Result<Body<'a>, Cow<'a, str>>,
}

impl<'a> Item<'a> {
    /// Where it is.
    #[must_use]
    pub const fn place(&self) -> Place<'a> {
        self.place
    }

    /// How many bytes it has; none when they cannot be taken out.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.body.as_ref().ok().map(Body::size)
    }

    /// Why it cannot be taken out.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.body.as_ref().err().map(AsRef::as_ref)
    }

    fn of(place: Place<'a>, body: Body<'a>) -> Self {
        Item { place, body: Ok(body) }
    }

    fn not(place: Place<'a>, why: impl Into<Cow<'a, str>>) -> Self {
        Item { place, body: Err(why.into()) }
    }
}

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of it that were zero or are no memory, in whole blocks of 4 KiB: in a file they are holes.
    pub holes: u64,
}

impl Opened {
    /// As [`inspect::open`](super::open), and keeps the memory.
    ///
    /// # Errors
    /// As there.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self, NotShown> {
        open_all(path.as_ref(), options)
    }

    /// As [`inspect::memory`](super::memory), which is kept.
    ///
    /// # Errors
    /// As there.
    pub fn of(image: Image, options: &Options) -> Result<Self, NotShown> {
        with_memory(image, options)
    }

    /// The memory, of which only what is preserved means anything. None of a device tree, or when the tree that says
    /// what is preserved could not be read.
    #[must_use]
    pub fn image(&self) -> Option<&Image> {
        self.memory.as_ref().map(|(image, _)| &**image)
    }

    /// Every file of every session and every node that is a memfd, also those that cannot be taken out.
    #[must_use]
    pub fn memfds(&self) -> Vec<Item<'_>> {
        let mut items: Vec<Item<'_>> = Vec::new();
        for node in &self.decoded.nodes {
            match &node.content {
                Some(Content::Memfd(file)) => items.push(Item::of(Place::Node(&node.name), Body::Memfd(file))),
                Some(Content::Luo { sessions, .. }) => {
                    let files =
                        sessions.iter().flat_map(|session| session.files.iter().map(move |file| (session, file)));
                    items.extend(files.map(|(session, file)| {
                        let place = Place::File { session: &session.name, token: file.token };
                        match &file.memfd {
                            Some(memfd) => Item::of(place, Body::Memfd(memfd)),
                            None => Item::not(place, self.why(&session.name, file.token, &file.compatible)),
                        }
                    }));
                }
                Some(Content::Files { .. }) => {
                    items.push(Item::not(
                        Place::Node(&node.name),
                        "its files travel beside the memory, and are not in it",
                    ));
                }
                // What it has is not known: it may well be files.
                _ if node.verdict == Some(Verdict::Refused) && may_have_files(node) => {
                    items.push(Item::not(Place::Node(&node.name), "it cannot be read: kho check says why"));
                }
                _ => {}
            }
        }
        let mut names = BTreeSet::new();
        for item in &mut items {
            if !names.insert(item.place.file_name()) {
                item.body = Err("a second one under the names of another".into());
            }
        }
        items
    }

    /// What people mean by `SESSION/TOKEN`, by `NODE`, or by `NODE/RANGE` for memory that was reserved by name.
    ///
    /// Of a node, that is what its blob describes: a memfd, the folios of `kho_test`, records, an array; of every
    /// other one the blob itself.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<Item<'_>> {
        let mut items = self.memfds();
        self.decoded.nodes.iter().for_each(|node| self.parts(node, &mut items));
        let printed = items.iter().position(|item| item.place.to_string().as_bytes() == text);
        let meant = printed.or_else(|| items.iter().position(|item| item.place.is_meant(text)))?;
        Some(items.swap_remove(meant))
    }

    fn parts<'a>(&'a self, node: &'a Node, items: &mut Vec<Item<'a>>) {
        let whole = Place::Node(&node.name);
        let body = match &node.content {
            Some(Content::Memfd(_) | Content::Files { .. }) => return,
            Some(Content::KhoTest { bytes, folios, .. }) => Body::Blocks(folios, *bytes),
            Some(Content::Array { bytes, blocks }) => Body::Blocks(blocks, *bytes),
            Some(Content::Records { blocks, record_size, count, .. }) => Body::Records(blocks, *record_size, *count),
            other => {
                if let Some(Content::Memblock { ranges }) = other {
                    items.extend(ranges.iter().filter_map(|range| {
                        let place = Place::Range { node: &node.name, name: &range.name };
                        Some(Item::of(place, self.reserved(range)?))
                    }));
                }
                match node.blob.and_then(|blob| PhysRange::new(PhysAddr::new(blob.address), blob.size)) {
                    Some(blob) => Body::Bytes(blob),
                    None => return items.push(Item::not(whole, "it has no blob")),
                }
            }
        };
        items.push(Item::of(whole, body));
    }

    /// The memory of a named range, without the part of a page at its end, which is not preserved.
    pub(super) fn reserved(&self, range: &NamedRange) -> Option<Body<'_>> {
        let size = range.size & !self.geometry()?.page_size().wrapping_sub(1);
        PhysRange::new(PhysAddr::new(range.address), size).map(Body::Bytes)
    }

    /// Why a file of a session cannot be taken out.
    fn why(&self, session: &Name, token: u64, compatible: &str) -> String {
        let item = format!("sessions[{session}].files[{token:#x}]");
        let mut findings = self.decoded.findings.iter();
        let named = |text: &str| text.strip_prefix(&item).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        match findings.find(|problem| problem.item.as_deref().is_some_and(named)) {
            Some(problem) if problem.code != Code::ComponentOpaque => problem.text.clone(),
            _ => format!("{} is a handler of which nothing is known here", compatible.escape_debug()),
        }
    }

    fn geometry(&self) -> Option<Geometry> {
        self.memory.as_ref().map(|(_, tree)| tree.geometry())
    }

    /// Copies it into a file that is new and empty, and leaves holes where it has no memory or is zero.
    ///
    /// # Errors
    /// [`Code::Refused`] for what cannot be taken out, [`Code::NotPreserved`] and [`Code::Outside`] for what is not
    /// there, [`Code::Io`] when the memory cannot be read or the file not be written. What was written stays.
    pub fn extract(&self, item: &Item<'_>, to: &File) -> Result<Extracted, Fault> {
        // At once: a size that no file can have is told before any of it is written. The size is the handover's, so that
        // what is wrong with it is no fault of this machine.
        let size = item.size().unwrap_or(0);
        to.set_len(size).map_err(|error| {
            let fault = Fault::new(Code::Io).item("size").found(format_args!("{size} bytes: {error}"));
            if error.kind() == std::io::ErrorKind::FileTooLarge { fault } else { fault.offset(0) }
        })?;
        if size >= LARGE {
            self.copy_beside(item, to)
        } else {
            self.copy(item, &mut Here(&mut |offset, bytes| to.write_all_at(bytes, offset)))
        }
    }

    /// As [`Opened::extract`], into what cannot have holes: they are zeros there.
    ///
    /// # Errors
    /// As [`Opened::extract`], and [`Code::TooLarge`] when it is larger than all memory and than 1 GiB, so that most of it
    /// is holes: a few bytes can say that there are a million gigabytes of them.
    pub fn stream(&self, item: &Item<'_>, to: &mut dyn Write) -> Result<Extracted, Fault> {
        let most = self.image().map_or(0, Image::bytes_in_file).max(STREAMED);
        if let Some(size) = item.size().filter(|&size| size > most) {
            let fault = Fault::new(Code::TooLarge).item("size").found(format_args!("{size} bytes"));
            return Err(fault.expected(format_args!("at most {most} where holes are not kept; a file keeps them")));
        }
        let mut here = 0_u64;
        let zeros = |to: &mut dyn Write, here: &mut u64, until: u64| {
            while let Some(gap) = until.checked_sub(*here).filter(|&gap| gap > 0) {
                let now = usize_of(gap).min(ZEROS.len());
                to.write_all(ZEROS.get(..now).unwrap_or_default())?;
                *here = here.saturating_add(u64_of(now));
            }
            Ok::<(), std::io::Error>(())
        };
        let mut write = |offset: u64, bytes: &[u8]| {
            zeros(to, &mut here, offset)?;
            here = here.saturating_add(u64_of(bytes.len()));
            to.write_all(bytes)
        };
        let done = self.copy(item, &mut Here(&mut write))?;
        zeros(to, &mut here, done.bytes)
            .and_then(|()| to.flush())
            .map_err(|error| Fault::new(Code::Io).offset(here).found(error))?;
        Ok(done)
    }

    /// Writes in a thread of its own: reading pages that lie scattered takes about as long as writing them.
    fn copy_beside(&self, item: &Item<'_>, to: &File) -> Result<Extracted, Fault> {
        let (mut beside, filled, empty) = Beside::new();
        let writing = move || {
            let mut written = 0_u64;
            for (offset, bytes) in filled {
                let now = write_blocks(offset, &bytes, &mut |offset, bytes| to.write_all_at(bytes, offset))?;
                written = written.saturating_add(now);
                // Nobody waits for the last ones.
                let _ = empty.send(bytes);
            }
            Ok(written)
        };
        thread::scope(|scope| {
            let Ok(writer) = thread::Builder::new().name("kho-extract".into()).spawn_scoped(scope, writing) else {
                return self.copy(item, &mut Here(&mut |offset, bytes| to.write_all_at(bytes, offset)));
            };
            let copied = self.copy(item, &mut beside);
            drop(beside);
            // Why it could not write says more than that it has ended.
            let written =
                writer.join().unwrap_or_else(|_| Err(Fault::new(Code::Io).offset(0).found("the writer panicked")))?;
            copied.map(|done| Extracted { holes: done.bytes.saturating_sub(written), ..done })
        })
    }

    /// Gives what there is to `sink`, by ascending offset.
    fn copy(&self, item: &Item<'_>, sink: &mut dyn Sink) -> Result<Extracted, Fault> {
        let body = item.body.as_ref().map_err(|why| Fault::new(Code::Refused).found(why))?;
        let (bytes, written) = (body.size(), self.copy_body(*body, sink)?);
        Ok(Extracted { bytes, holes: bytes.saturating_sub(written) })
    }

    /// As [`Opened::copy`]; how much of it was written, as far as `sink` knows.
    pub(super) fn copy_body(&self, body: Body<'_>, sink: &mut dyn Sink) -> Result<u64, Fault> {
        let Some((image, tree)) = &self.memory else {
            return Err(Fault::new(Code::Refused).found("no memory, or no tree that says what of it is preserved"));
        };
        let mut copy = Copy::new(image, tree, sink);
        body.runs(image, tree.geometry(), &mut |run| copy.run(run))?;
        copy.flush()?;
        Ok(copy.written)
    }
}

/// Whether a node that was not read is one of those that have files.
fn may_have_files(node: &Node) -> bool {
    let memfd = crate::abi::memfd::COMPAT.name();
    node.name == luo::NODE
        || node.compatible.iter().any(|text| text.starts_with(memfd) || text.starts_with(luo::COMPAT.name()))
}
