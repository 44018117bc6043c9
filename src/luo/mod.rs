//! Linux's sessions and their files, as the Live Update Orchestrator leaves them          luo-v5
//!
//! The blob is a head that names the sessions, a block set, and the globals that live as long as files that use them.
//! Each session names its files, another block set; each file names what its handler left. A memfd is read to its last
//! page; what other handlers left is shown by its address and not looked into.
//!
//! Sessions are there only once the machine is frozen, which is when it reboots.

#[cfg(all(test, feature = "write"))]
mod authored;
#[cfg(feature = "write")]
mod save;
#[cfg(all(test, feature = "write"))]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::abi::{self, block, memfd as wire};
use crate::compat::{Compat, CompatList, Reads};
use crate::handover::{Check, Node};
use crate::mem::{Memory, Pfn, PhysAddr, read_wire};
use crate::memfd::{self, Pages};
use crate::num::u64_of;
use crate::report::{Code, Fault};
use crate::text::{self, Name};

#[cfg(feature = "write")]
pub use save::{NewContent, NewFile, NewSession, Sessions};

/// What the node is made of, when it says so. What the files are made of they say themselves, each by its handler.
pub const MADE_OF: CompatList<'static> = CompatList::new(abi::luo::COMPAT, &[block::COMPAT]);

/// What a machine took along.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Luo {
    /// 1 at the first live update, then one more each time.
    pub number: u64,
    /// The sessions; none before the machine is frozen.
    pub sessions: Vec<Session>,
    /// The globals that are bound to files.
    pub flbs: Vec<Flb>,
}

/// Files that are restored together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Session {
    /// Its name, 1 to 63 bytes, unique.
    pub name: Name,
    /// Its files, in the order in which they were preserved.
    pub files: Vec<File>,
}

/// A file of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct File {
    /// Which handler it belongs to.
    pub compatible: String,
    /// The user's name for it, unique in its session.
    pub token: u64,
    /// What the handler left; for most a physical address.
    pub data: u64,
    /// What that is.
    pub content: FileContent,
}

/// What a file's handler left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum FileContent {
    /// A memfd, by its pages.
    Memfd(Pages),
    /// Nobody here can read it, or it is broken: a finding says which.
    Opaque,
}

/// A global that is bound to files: it is restored with the first of them and goes with the last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Flb {
    /// Its name.
    pub name: Name,
    /// What its owner left.
    pub data: u64,
    /// Files that use it.
    pub count: u64,
}

/// Reads the node `LUO`: see [`Registry::read`](crate::handover::Registry::read).
///
/// ```
/// # #[cfg(feature = "std")] {
/// use kho::handover::{Incoming, Registry};
/// use kho::luo::LuoNode;
/// use kho::mem::{Image, PhysAddr, Source};
///
/// // A machine that was frozen at the moment of kexec.
/// let Source::Image(image) = Image::open("tests/data/linux-7.2-x86_64/frozen.core")? else { unreachable!() };
/// let mut registry = Registry::observing();
/// let luo = registry.read("LUO", LuoNode);
/// let plan = Incoming::new(image, PhysAddr::new(0x44_8000)).plan(&registry);
/// assert_eq!(plan.findings().errors(), 0);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LuoNode;

impl<M: Memory> Check<M> for LuoNode {
    type Checked = Luo;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn names_itself(&self) -> bool {
        true
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Luo, Fault> {
        let start = node.blob_range().start();
        // The version first: another one may well have a shorter head, and that is not corrupt.
        if let Some(compatible) = node.blob_head()? {
            check_version(&compatible).map_err(|fault| fault.address(start.get()).item("compatible"))?;
        }
        let head: abi::luo::Head = node.blob_as()?;
        let records = node.part("sessions", |node| Ok(node.records_so_far(head.sessions.get(), None, start)));
        let mut seen = Seen::default();
        let mut sessions = Vec::new();
        for (number, (at, record)) in (0_u64..).zip(records.unwrap_or_default()) {
            sessions.extend(session(node, number, at, &record, &mut seen));
        }
        let flbs = match head.flbs.get() {
            0 => Vec::new(),
            at => flbs(node, PhysAddr::new(at), start),
        };
        Ok(Luo { number: head.liveupdate_number.get(), sessions, flbs })
    }
}

/// The head, out of a copy of the blob.
#[cfg(all(feature = "std", feature = "serde"))]
pub(crate) fn head(bytes: &[u8]) -> Result<abi::luo::Head, Fault> {
    if let Some(compatible) = bytes.first_chunk() {
        check_version(compatible).map_err(|fault| fault.item("compatible"))?;
    }
    crate::mem::wire_in(bytes)
}

/// Linux compares all 8 bytes.
fn check_version(field: &[u8; 8]) -> Result<(), Fault> {
    let expected = abi::luo::COMPAT;
    if *field == expected.to_fixed::<8>()? {
        return Ok(());
    }
    // A version of three digits fills the field.
    let text = text::terminated(field).unwrap_or(field);
    if text.is_empty() {
        return Err(Fault::new(Code::CompatMissing).found("an empty string").expected(expected));
    }
    let found = Compat::parse(text).map_err(|fault| fault.expected(expected))?;
    found.judge(&[Reads::only(expected)])?;
    Err(Fault::new(Code::CompatSyntax)
        .found(format_args!("\"{}\"", field.escape_ascii()))
        .expected(format_args!("{expected} and zeros")))
}

/// What must not come twice.
#[derive(Default)]
struct Seen {
    /// Names of sessions.
    names: BTreeSet<Name>,
    /// The address of each memfd, and the record of its file.
    memfds: BTreeMap<u64, PhysAddr>,
}

fn session<M: Memory>(
    node: &mut Node<'_, M>,
    number: u64,
    at: PhysAddr,
    record: &abi::luo::Session,
    seen: &mut Seen,
) -> Option<Session> {
    let nameless = |fault: Fault| fault.address(at.get()).item("name").within(&format!("sessions[{number}]"));
    let name = match Name::fixed(&record.name) {
        Ok(name) => name,
        Err(fault) => {
            node.report(nameless(fault));
            Name::from(record.name.split(|&byte| byte == 0).next().unwrap_or_default())
        }
    };
    let path = if name.as_bytes().is_empty() { format!("sessions[{number}]") } else { format!("sessions[{name}]") };
    let files = node.part(&path, |node| {
        if !name.as_bytes().is_empty() && !seen.names.insert(name.clone()) {
            // Linux finds it out at the first open of its device, and answers EIO from then on.
            let fault = Fault::new(Code::NameDuplicate).address(at.get()).item("name");
            node.report(fault.found("a second session of that name"));
        }
        let records = node.records_so_far(record.files.get(), Some(record.count.get()), at);
        let mut tokens = BTreeSet::new();
        Ok(records.iter().filter_map(|(at, record)| file(node, *at, record, &mut tokens, seen)).collect())
    });
    Some(Session { name, files: files.unwrap_or_default() })
}

fn file<M: Memory>(
    node: &mut Node<'_, M>,
    at: PhysAddr,
    record: &abi::luo::File,
    tokens: &mut BTreeSet<u64>,
    seen: &mut Seen,
) -> Option<File> {
    let (token, data) = (record.token.get(), record.data.get());
    node.part(&format!("files[{token:#x}]"), |node| {
        let fault = |code, item: &'static str| Fault::new(code).address(at.get()).item(item);
        if !tokens.insert(token) {
            node.report(fault(Code::TokenDuplicate, "token").found("a second file under that token"));
        }
        let compatible =
            text::fixed_text(&record.compatible).map_err(|fault| fault.item("compatible").address(at.get()))?;
        if compatible.is_empty() {
            return Err(fault(Code::CompatMissing, "compatible").found("an empty string"));
        }
        let content = content(node, &compatible, at, data, seen);
        Ok(File { compatible, token, data, content })
    })
}

fn content<M: Memory>(
    node: &mut Node<'_, M>,
    compatible: &str,
    at: PhysAddr,
    data: u64,
    seen: &mut Seen,
) -> FileContent {
    // Linux chooses the handler by the exact string, so that no other spelling is a memfd.
    let content = if compatible == wire::COMPAT.to_string() {
        match *seen.memfds.entry(data).or_insert(at) {
            first if first == at => memfd(node, PhysAddr::new(data)).map(FileContent::Memfd),
            first => Err(Fault::new(Code::FileDuplicate)
                .item("data")
                .found(format_args!("{data:#x}, which the file at {first} has too"))
                .expected("a file of its own")),
        }
    } else {
        let found = Compat::parse(compatible).ok().filter(|found| found.name() == wire::COMPAT.name());
        let judged = found.map_or(Ok(()), |found| found.judge(&[Reads::only(wire::COMPAT)]));
        let opaque = || Fault::new(Code::ComponentOpaque).found(compatible.escape_default());
        Err(judged.map_or_else(Fault::from, |()| opaque()).item("compatible"))
    };
    content.unwrap_or_else(|fault| {
        node.report(fault.address(at.get()));
        FileContent::Opaque
    })
}

/// The structure has a page of its own.
fn memfd<M: Memory>(node: &mut Node<'_, M>, at: PhysAddr) -> Result<Pages, Fault> {
    claim_page(node, at).map_err(|fault| fault.item("data"))?;
    let wire: wire::Memfd = read_wire(node.memory(), at)?;
    memfd::read(node, &wire, at)
}

fn flbs<M: Memory>(node: &mut Node<'_, M>, at: PhysAddr, head: PhysAddr) -> Vec<Flb> {
    let size = u64_of(size_of::<abi::luo::Flb>());
    let count = node.part("flbs", |node| {
        claim_page(node, at).map_err(|fault| fault.address(head.get()))?;
        let header: abi::luo::FlbHeader = read_wire(node.memory(), at)?;
        let (count, capacity) = (header.count.get(), node.geometry().block_capacity(size));
        if count > capacity {
            let fault = Fault::new(Code::BlockCount).address(at.get()).item("count");
            return Err(fault.found(count).expected(format_args!("at most {capacity}")));
        }
        Ok(count)
    });
    let mut names = BTreeSet::new();
    let mut flbs = Vec::new();
    for number in 0..count.unwrap_or(0) {
        // Inside the page.
        let at = PhysAddr::new(at.get().saturating_add(16).saturating_add(number.saturating_mul(size)));
        let read = |node: &mut Node<'_, M>| {
            let record: abi::luo::Flb = read_wire(node.memory(), at)?;
            flb(&record, &mut names).map_err(|fault| fault.address(at.get()))
        };
        flbs.extend(node.part(&format!("flbs[{number}]"), read));
    }
    flbs
}

fn flb(record: &abi::luo::Flb, names: &mut BTreeSet<Name>) -> Result<Flb, Fault> {
    let name = Name::fixed(&record.name).map_err(|fault| fault.item("name"))?;
    if !names.insert(name.clone()) {
        return Err(Fault::new(Code::NameDuplicate).item("name").found(format_args!("a second global {name}")));
    }
    if record.count.get() == 0 {
        return Err(Fault::new(Code::BlockCount).item("count").found(0).expected("at least one file"));
    }
    Ok(Flb { name, data: record.data.get(), count: record.count.get() })
}

fn claim_page<M: Memory>(node: &mut Node<'_, M>, at: PhysAddr) -> Result<(), Fault> {
    let geometry = node.geometry();
    let page = at.page(geometry).ok_or_else(|| {
        let fault = Fault::new(Code::Unaligned).expected("the address of a page of its own, below 2^47 pages");
        let meant = Pfn::new(at.get()).filter(|page| node.tree().holder(*page).is_some());
        match meant {
            Some(page) => {
                fault.found(format_args!("{at}; as a page number it is {}, which is preserved", page.addr(geometry)))
            }
            None => fault.found(at),
        }
    })?;
    node.claim_page(page)
}
