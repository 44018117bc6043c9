//! A copy of Linux's `/sys/kernel/debug/kho`: roots and blobs, without the memory that they speak of.
//!
//! `out` is what this kernel will hand over, `in` what it was handed. What to know about them: `out/fdt` is exported
//! with the size that it had at boot, and there only after a cold one; not every file in `sub_fdts` is a device tree;
//! sessions are written when the machine freezes, so that no file here ever shows one; and `in/sub_fdts/LUO` is memory
//! that the kernel has given back.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::content::Content;
use super::view::{Decoded, FoundBy, Node, Range, Root, SourceKind, SourceView};
use super::{FIRST_BYTES, Hint, NotShown, Opened, check_names, check_nodes, check_root};
use crate::abi::{kexec_metadata, kho, kho_test, luo, memblock};
use crate::fdt::{Fdt, salvage, total_size};
use crate::mem::{Geometry, PhysAddr, PhysRange};
use crate::memblock::Memblock;
use crate::metadata::{self, Metadata};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault, Findings};

/// Larger files are no copies of what Linux exports, in bytes.
const LIMIT: u64 = 4 << 20;
/// So many blobs are read, and so many bytes of all files.
const BLOBS: usize = 1_024;
const ALL: u64 = 64 << 20;

/// The names of properties as Linux 7.2 writes them, when they are behind the cut.
const NAMES: &[u8] = b"preserved-memory-map\0compatible\0preserved-data\0blob-size\0";

/// Decodes the directory, or one of its two halves.
pub(super) fn open(dir: &Path, geometry: Option<Geometry>) -> Result<Opened, NotShown> {
    let mut copy = Copy { geometry, ..Copy::default() };
    let is_half =
        |dir: &Path| ["fdt", "sub_fdts", "scratch_phys", "bootmem_phys"].iter().any(|name| dir.join(name).exists());
    if is_half(dir) {
        let incoming = dir.canonicalize().is_ok_and(|dir| dir.file_name().is_some_and(|name| name == "in"));
        copy.half(dir, "", incoming);
    } else {
        for (name, incoming) in [("in", true), ("out", false)] {
            if is_half(&dir.join(name)) {
                copy.half(&dir.join(name), &format!("{name}/"), incoming);
            }
        }
        let is_empty = copy.roots.is_empty() && copy.nodes.is_empty() && copy.scratch.is_empty();
        if is_empty && copy.findings.is_empty() {
            let fault = Fault::new(Code::FileKind).item("file").found("a directory");
            let fault = fault.expected("a file, or a copy of debugfs kho with in/ or out/");
            return Err(NotShown { fault, hint: Hint::None });
        }
    }
    Ok(copy.finish())
}

/// Device trees: name, address, bytes.
type Trees = Vec<(String, Option<u64>, Vec<u8>)>;

#[derive(Default)]
struct Copy {
    findings: Findings,
    bytes: u64,
    roots: Vec<Root>,
    root_trees: Trees,
    nodes: Vec<Node>,
    trees: Trees,
    scratch: Vec<Range>,
    geometry: Option<Geometry>,
}

impl Copy {
    fn half(&mut self, dir: &Path, prefix: &str, incoming: bool) {
        let first = self.nodes.len();
        let path = dir.join("fdt");
        if path.exists() {
            if let Some(bytes) = self.read(&path, &format!("/{prefix}fdt"))
                && let Err(fault) = self.root(&bytes, prefix)
            {
                self.findings.add(&format!("/{prefix}fdt"), fault);
            }
        } else if !incoming {
            let fault = Fault::new(Code::Partial).item("fdt").found("no file");
            let fault = fault.expected("the root FDT, which Linux exports after a cold boot only");
            self.findings.add(&format!("/{prefix}fdt"), fault);
        }
        let blobs = dir.join("sub_fdts");
        let mut names: Vec<String> = Vec::new();
        let mut entries = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        for entry in entries.by_ref().take(BLOBS) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        if entries.next().is_some() {
            let fault = Fault::new(Code::Partial).item("sub_fdts").found("more files").expected(BLOBS);
            self.findings.add(&format!("/{prefix}sub_fdts"), fault);
        }
        names.sort_unstable();
        for name in names {
            if let Some(bytes) = self.read(&blobs.join(&name), &format!("/{prefix}{name}")) {
                self.blob(&name, &bytes, prefix, first, incoming);
            }
        }
        self.scratch(dir, prefix);
    }

    /// What is in a file; none when it cannot be read, which is told like that it is longer.
    fn read(&mut self, path: &Path, node: &str) -> Option<Vec<u8>> {
        let most = LIMIT.min(ALL.saturating_sub(self.bytes));
        match contents(path, most.saturating_add(1)) {
            Ok(mut bytes) => {
                if u64_of(bytes.len()) > most {
                    bytes.truncate(usize_of(most));
                    let fault = Fault::new(Code::Partial).found(format_args!("more than {most} bytes"));
                    self.findings.add(node, fault.expected(format_args!("at most {LIMIT}, and {ALL} of all files")));
                }
                self.bytes = self.bytes.saturating_add(u64_of(bytes.len()));
                Some(bytes)
            }
            Err(fault) => {
                self.findings.add(node, fault);
                None
            }
        }
    }

    fn root(&mut self, bytes: &[u8], prefix: &str) -> Result<(), Fault> {
        let mended;
        let mut whole = true;
        let fdt = match Fdt::parse(bytes) {
            Err(fault) if fault.code() == Code::Truncated && fault.at().item.as_deref() == Some("totalsize") => {
                mended = salvage(bytes, NAMES).ok_or_else(|| fault.clone())?;
                // That the names are those of Linux 7.2 must show, or nothing can be said.
                let fdt = Fdt::parse(&mended).map_err(|_| fault.clone())?;
                fdt.root()
                    .required(kho::PRESERVED_MEMORY_MAP)
                    .and_then(|map| map.u64_native())
                    .map_err(|_| fault.clone())?;
                if !super::find::is_root(&fdt) {
                    return Err(fault);
                }
                let partial = Fault::new(Code::Partial).item("totalsize").found(fault.found_text());
                let expected = format!(
                    "{}: Linux exports out/fdt with the size that it had at boot, so that nodes are missing",
                    fault.expected_text()
                );
                self.findings.add(&format!("/{prefix}fdt"), partial.expected(expected));
                whole = false;
                fdt
            }
            other => other?,
        };
        let mut root = Root::of(&fdt, None, FoundBy::File);
        root.size = bytes.first_chunk().and_then(|head| total_size(head).ok()).map_or(root.size, u64::from);
        if root.is_handover {
            let mut findings = Findings::default();
            check_root(&fdt, &mut findings);
            check_names(&fdt, &mut findings);
            if whole {
                check_nodes(&fdt, self.geometry.unwrap_or_default(), &mut findings);
            }
            for finding in findings.kept() {
                let path = finding.node.trim_start_matches('/');
                self.findings.add(&format!("/{prefix}{path}"), finding.fault.clone());
            }
            self.nodes.extend(fdt.root().children().map(|node| {
                let mut node = Node::of(&node);
                node.name.insert_str(0, prefix);
                node
            }));
        }
        self.roots.push(root);
        self.root_trees.push((format!("{prefix}fdt"), None, fdt.bytes().to_vec()));
        Ok(())
    }

    /// What a file of `sub_fdts` holds, by the layout that Linux has under that name.
    fn blob(&mut self, name: &str, bytes: &[u8], prefix: &str, first: usize, incoming: bool) {
        let path = format!("/{prefix}{name}");
        let full = format!("{prefix}{name}");
        let known = self.nodes.get(first..).unwrap_or_default().iter().position(|node| node.name == full);
        let node = match known.and_then(|at| self.nodes.get_mut(first.saturating_add(at))) {
            Some(node) => node,
            None => {
                self.nodes.push(Node::named(full));
                let Some(node) = self.nodes.last_mut() else { return };
                node
            }
        };
        if let Some(size) = node.blob.map(|blob| blob.size).filter(|&size| size > u64_of(bytes.len())) {
            let fault = Fault::new(Code::Partial).item(kho::BLOB_SIZE).found(format_args!("{} bytes", bytes.len()));
            self.findings.add(&path, fault.expected(format_args!("{size}")));
        }
        let read = match name {
            luo::NODE => crate::luo::head(bytes).map(|head| {
                let (number, sessions, flbs) = (head.liveupdate_number.get(), head.sessions.get(), head.flbs.get());
                Some((luo::COMPAT, Content::LuoHead { number, sessions, flbs }))
            }),
            memblock::NODE => Memblock::parse(bytes, self.geometry.unwrap_or_default()).map(|found| {
                Some((memblock::COMPAT, Content::Memblock { ranges: found.ranges.iter().map(Into::into).collect() }))
            }),
            kexec_metadata::NODE => {
                Metadata::parse(bytes).map(|found| Some((metadata::MADE_OF.owner(), Content::KexecMetadata(found))))
            }
            kho_test::NODE => crate::selftest::read_blob(bytes).map(|found| {
                let (csum, folios, first) = (found.csum, found.count, found.info.first.get());
                Some((kho_test::COMPAT, Content::KhoTestHead { csum, folios, first }))
            }),
            _ => Ok(None),
        };
        match read {
            Ok(Some((layout, content))) => (node.read_as, node.content) = (Some(layout.to_string()), Some(content)),
            Ok(None) => {
                let fault = Fault::new(Code::ComponentOpaque)
                    .found(format_args!("{} bytes that nobody here understands", bytes.len()));
                self.findings.add(&path, fault);
            }
            // Linux gives the head of what came in back at boot, and goes on to show where it was.
            Err(fault) if incoming && name == luo::NODE => {
                let stale = Fault::new(Code::Stale).item("compatible").found(fault.found_text());
                self.findings.add(
                    &path,
                    stale.expected(format_args!("{}, which the kernel has read and freed by now", luo::COMPAT)),
                );
            }
            Err(fault) => self.findings.add(&path, fault),
        }
        if node.content.is_none() {
            let shown = bytes.iter().take(usize_of(FIRST_BYTES));
            node.content = Some(Content::Bytes { first_bytes: shown.map(|byte| format!("{byte:02x}")).collect() });
        }
        if let Ok(fdt) = Fdt::parse(bytes) {
            self.trees.push((
                format!("{prefix}sub_fdts/{name}"),
                node.blob.map(|blob| blob.address),
                fdt.bytes().to_vec(),
            ));
        }
    }

    fn scratch(&mut self, dir: &Path, prefix: &str) {
        for name in ["scratch", "bootmem"] {
            let mut numbers = |what: &str| -> Option<Vec<u64>> {
                let (path, node) = (dir.join(format!("{name}_{what}")), format!("/{prefix}{name}_{what}"));
                let bytes = path.exists().then(|| self.read(&path, &node))??;
                let number = |line: &str| u64::from_str_radix(line.trim().strip_prefix("0x")?, 16).ok();
                let numbers = std::str::from_utf8(&bytes).ok().and_then(|text| text.lines().map(number).collect());
                if numbers.is_none() {
                    let fault = Fault::new(Code::Text).found("no list of numbers").expected("lines as 0x6800000");
                    self.findings.add(&node, fault);
                }
                numbers
            };
            let (Some(starts), Some(sizes)) = (numbers("phys"), numbers("len")) else { continue };
            if starts.len() != sizes.len() {
                let fault =
                    Fault::new(Code::Partial).item(format!("{name}_len")).found(format_args!("{} areas", sizes.len()));
                self.findings.add(&format!("/{prefix}{name}"), fault.expected(starts.len()));
            }
            let ranges = starts.into_iter().zip(sizes);
            let ranges = ranges.filter(|(start, size)| PhysRange::new(PhysAddr::new(*start), *size).is_some());
            self.scratch.extend(ranges.map(|(address, size)| Range { address, size }));
        }
    }

    fn finish(self) -> Opened {
        let Copy { findings, bytes, roots, mut root_trees, nodes, trees, scratch, .. } = self;
        root_trees.extend(trees);
        let source = SourceView { kind: SourceKind::Debugfs, bytes, extents: 0 };
        let root = roots.into_iter().next().unwrap_or_else(Root::missing);
        let mut decoded = Decoded::new(source, root, nodes, &findings, root_trees);
        decoded.scratch = scratch;
        Opened { decoded, memory: None }
    }
}

/// So many bytes of a file at most. What is no file is not opened, or not waited for: a pipe may have nobody who writes.
fn contents(path: &Path, most: u64) -> Result<Vec<u8>, Fault> {
    let io = |error| Fault::new(Code::Io).found(error);
    let is_file = |meta: std::fs::Metadata| match meta.is_file() {
        true => Ok(()),
        false => Err(Fault::new(Code::FileKind).found(format_args!("{:?}", meta.file_type())).expected("a file")),
    };
    is_file(path.metadata().map_err(io)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|error| io(error.into()))?;
    let file = File::from(file);
    is_file(file.metadata().map_err(io)?)?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}
