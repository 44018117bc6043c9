//! The predecessor's half: sessions that no kernel made.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use zerocopy::IntoBytes as _;

use super::{Flb, MADE_OF};
use crate::abi::luo::{COMPAT, File, Flb as WireFlb, FlbHeader, Head, Session};
use crate::abi::{Plain, memfd as wire};
use crate::block::BlockSet;
use crate::compat::{Compat, CompatList};
use crate::handover::{Blob, Home, Preserve, Scope};
use crate::mem::{Frames as _, Memory as _, Order};
use crate::memfd;
use crate::num::u64_of;
use crate::report::{Code, Fault};
use crate::text::Name;

/// Sessions to be handed over as Linux does it: the node `LUO`.
///
/// Linux's own rules are checked before anything is written, because its successor panics over what breaks them, or
/// answers EIO from the first open of its device on.
///
/// ```
/// use kho::handover::{Incoming, Outgoing, Registry};
/// use kho::luo::{LuoNode, NewContent, NewFile, NewSession, Sessions};
/// use kho::mem::{Geometry, Order, PageRange, Pfn, Ram};
/// use kho::memfd::Contents;
///
/// let geometry = Geometry::K4;
/// let memfd = Contents { seals: 6, ..Contents::new(geometry, b"guest memory", Order::ZERO) };
/// let files = vec![NewFile { token: 1, content: NewContent::Memfd(memfd) }];
/// let sessions = vec![NewSession { name: b"vm".into(), files }];
/// let mut outgoing = Outgoing::new(Ram::new(geometry, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap()));
/// outgoing.preserve("LUO", &Sessions { number: 1, sessions, flbs: vec![] })?;
/// let (memory, root) = outgoing.finish()?.into_parts();
///
/// let mut registry = Registry::new();
/// let luo = registry.read("LUO", LuoNode);
/// let mut restored = Incoming::new(memory, root.start()).plan(&registry).accept()?.restore()?;
/// assert_eq!(restored.take(&luo).unwrap().sessions[0].files[0].token, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sessions<'a> {
    /// 1 at the first live update, then one more each time.
    pub number: u64,
    /// The sessions.
    pub sessions: Vec<NewSession<'a>>,
    /// The globals that are bound to files, each with how many files use it; unknown names are harmless.
    pub flbs: Vec<Flb>,
}

/// A session to be authored.
#[derive(Clone, Debug)]
pub struct NewSession<'a> {
    /// 1 to 63 bytes without zeros, unique.
    pub name: Vec<u8>,
    /// Its files, in the order in which they are restored when nobody asks for one by its token.
    pub files: Vec<NewFile<'a>>,
}

/// A file of a session that is to be authored.
#[derive(Clone, Debug)]
pub struct NewFile<'a> {
    /// The user's name for it, unique in its session.
    pub token: u64,
    /// What it is.
    pub content: NewContent<'a>,
}

/// What a file of a session is.
#[derive(Clone, Debug)]
pub enum NewContent<'a> {
    /// A memfd of bytes.
    Memfd(memfd::Contents<'a>),
    /// A memfd of this process, copied.
    #[cfg(feature = "std")]
    ByPages(memfd::ByPages<'a>),
    /// What another handler takes; what it needs in memory is another node's, or nobody's.
    Opaque {
        /// The handler's exact string, 1 to 47 bytes without zeros.
        compatible: String,
        /// What it gets, for most a physical address.
        data: u64,
    },
}

impl<M: Home> Preserve<M> for Sessions<'_> {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        if self.number == 0 {
            return Err(Fault::new(Code::Refused).item("number").found(0).expected("at least 1"));
        }
        self.check_inodes()?;
        let flbs = flb_page(scope, &self.flbs)?;
        let (mut records, mut names) = (BlockSet::new(), BTreeSet::new());
        for (number, session) in self.sessions.iter().enumerate() {
            let name = field("name", &session.name).map_err(|fault| fault.within(&format!("sessions[{number}]")))?;
            let path = format!("sessions[{}]", Name::from(session.name.as_slice()));
            if !names.insert(name) {
                let fault = Fault::new(Code::NameDuplicate).item("name").found("a second session of that name");
                return Err(fault.within(&path));
            }
            let files = store_files(scope, &session.files).map_err(|fault| fault.within(&path))?;
            records.push(Session { name, files: files.into(), count: u64_of(session.files.len()).into() });
        }
        let sessions = store(scope, &records).map_err(|fault| fault.within("sessions"))?;
        let head = Head {
            compatible: COMPAT.to_fixed()?,
            liveupdate_number: self.number.into(),
            sessions: sessions.into(),
            flbs: flbs.into(),
        };
        scope.blob(head.as_bytes())
    }
}

impl Sessions<'_> {
    /// One inode under two tokens would be restored as two files.
    #[cfg(feature = "std")]
    fn check_inodes(&self) -> Result<(), Fault> {
        let mut inodes = BTreeSet::new();
        for session in &self.sessions {
            for file in &session.files {
                let NewContent::ByPages(pages) = &file.content else { continue };
                let stat =
                    rustix::fs::fstat(pages.file).map_err(|errno| Fault::new(Code::Io).item("fstat").found(errno))?;
                if !inodes.insert((stat.st_dev, stat.st_ino)) {
                    let path = format!("sessions[{}]", Name::from(session.name.as_slice()));
                    let fault = Fault::new(Code::FileDuplicate).item(format!("files[{:#x}]", file.token));
                    return Err(fault.found("a file that has another token already").within(&path));
                }
            }
        }
        Ok(())
    }

    #[cfg(not(feature = "std"))]
    fn check_inodes(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A field `char[N]` that ends in a zero.
fn field<const N: usize>(item: &'static str, text: &[u8]) -> Result<[u8; N], Fault> {
    let most = N.saturating_sub(1);
    if text.is_empty() || text.len() > most || text.contains(&0) {
        let fault = Fault::new(Code::Text).item(item).found(format_args!("\"{}\"", text.escape_ascii()));
        return Err(fault.expected(format_args!("1 to {most} bytes without zeros")));
    }
    let mut field = [0; N];
    field.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    Ok(field)
}

/// The address of the first block, 0 for no records.
fn store<M: Home, R: Plain>(scope: &mut Scope<'_, M>, records: &BlockSet<R>) -> Result<u64, Fault> {
    Ok(scope.records(records)?.first.get())
}

fn store_files<M: Home>(scope: &mut Scope<'_, M>, files: &[NewFile<'_>]) -> Result<u64, Fault> {
    let (mut records, mut tokens) = (BlockSet::new(), BTreeSet::new());
    for file in files {
        let path = format!("files[{:#x}]", file.token);
        if !tokens.insert(file.token) {
            let fault = Fault::new(Code::TokenDuplicate).item("token").found("a second file under that token");
            return Err(fault.within(&path));
        }
        records.push(store_file(scope, file).map_err(|fault| fault.within(&path))?);
    }
    store(scope, &records).map_err(|fault| fault.within("files"))
}

fn store_file<M: Home>(scope: &mut Scope<'_, M>, file: &NewFile<'_>) -> Result<File, Fault> {
    let memfd = match &file.content {
        NewContent::Memfd(contents) => contents.store(scope)?,
        #[cfg(feature = "std")]
        NewContent::ByPages(pages) => pages.store(scope)?,
        NewContent::Opaque { compatible, data } => {
            // In another version too: no kernel that takes this handover has a handler for it.
            if Compat::parse(compatible).is_ok_and(|found| found.name() == wire::COMPAT.name()) {
                let fault = Fault::new(Code::Refused).item("compatible").found(compatible);
                return Err(fault.expected("contents, of which the memfd is written"));
            }
            let compatible = field("compatible", compatible.as_bytes())?;
            return Ok(File { compatible, data: (*data).into(), token: file.token.into() });
        }
    };
    // A page of its own: Linux frees it whole.
    let page = scope.blob(memfd.as_bytes())?;
    let data = page.range().start().get().into();
    Ok(File { compatible: wire::COMPAT.to_fixed()?, data, token: file.token.into() })
}

/// The address of the page of globals, 0 for none.
fn flb_page<M: Home>(scope: &mut Scope<'_, M>, flbs: &[Flb]) -> Result<u64, Fault> {
    if flbs.is_empty() {
        return Ok(0);
    }
    let capacity = scope.geometry().block_capacity(u64_of(size_of::<WireFlb>()));
    if u64_of(flbs.len()) > capacity {
        let fault = Fault::new(Code::BlockCount).item("flbs").found(flbs.len());
        return Err(fault.expected(format_args!("at most {capacity}, what their page holds")));
    }
    let mut names = BTreeSet::new();
    let header = FlbHeader { page_count: 1.into(), count: u64_of(flbs.len()).into() };
    let mut bytes = header.as_bytes().to_vec();
    for (number, flb) in flbs.iter().enumerate() {
        let within = |fault: Fault| fault.within(&format!("flbs[{number}]"));
        let name = field("name", flb.name.as_bytes()).map_err(within)?;
        if !names.insert(name) {
            let fault = Fault::new(Code::NameDuplicate).item("name");
            return Err(within(fault.found(format_args!("a second global {}", flb.name))));
        }
        if flb.count == 0 {
            let fault = Fault::new(Code::BlockCount).item("count").found(0).expected("at least one file");
            return Err(within(fault));
        }
        let record = WireFlb { name, data: flb.data.into(), count: flb.count.into() };
        bytes.extend_from_slice(record.as_bytes());
    }
    let page = scope.alloc(Order::ZERO)?;
    scope.write(&page, 0, &bytes)?;
    Ok(page.folio().addr(scope.geometry()).get())
}
