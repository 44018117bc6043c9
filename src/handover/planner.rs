//! How a plan is made: everything in a handover is held against what the registry understands.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::claims::{Owners, not_preserved};
use super::incoming::{Incoming, read_root};
use super::node::Node;
use super::plan::{NodeReport, Step, Verdict};
use super::registry::{Registry, Strangers};
use crate::abi;
use crate::abi::kho;
use crate::compat::{Compat, CompatList, CompatVec, Reads, missing};
use crate::fdt::{self, Fdt, Property};
use crate::mem::{Bits, Geometry, Memory, PageRange, Pfn, PhysAddr, PhysRange};
use crate::radix::{self, Tree};
use crate::report::{Class, Code, Fault, Findings};
use crate::trace::Stopwatch;

pub(super) struct Planner<'a, M> {
    pub(super) incoming: &'a Incoming<M>,
    pub(super) registry: &'a Registry<M>,
    pub(super) findings: &'a mut Findings,
    pub(super) taken: Bits,
    /// Whether a part of the tree could not be read.
    pub(super) tree_broken: bool,
    pub(super) nodes: Vec<NodeReport>,
    pub(super) steps: Vec<Step<M>>,
    /// The versions of layouts that are known.
    pub(super) layouts: Vec<Reads<'static>>,
    /// What the root says that it is made of.
    pub(super) root_list: Vec<String>,
}

/// What a node says of itself.
pub(crate) struct Declared<'f> {
    name: &'f str,
    path: String,
    list: Option<CompatVec<'f>>,
    blob: PhysRange,
    mem: Option<Property<'f>>,
    partial: bool,
    optional: bool,
}

impl Declared<'_> {
    fn compatible(&self) -> Vec<String> {
        self.list.iter().flat_map(|list| list.list().iter()).map(|compat| compat.to_string()).collect()
    }

    /// The memory that it says it owns, in whole pages; nothing where it does not say.
    pub(crate) fn mem(&self, geometry: Geometry) -> impl Iterator<Item = Result<PageRange, Fault>> + '_ {
        let ranges = self.mem.iter().flat_map(Property::mem_ranges);
        ranges.map(move |range| whole_pages(range?, geometry).map_err(|fault| fault.item(kho::MEM)))
    }
}

impl<M: Memory + 'static> Planner<'_, M> {
    /// Checks everything. An error here means that nothing further can be known; what is wrong in one node is added to
    /// the findings and the next node is looked at.
    pub(super) fn root(&mut self, owners: &mut Owners) -> Result<radix::Loaded, Fault> {
        for fault in self.registry.disagreements() {
            self.findings.add("/", fault);
        }
        let memory = &self.incoming.memory;
        let bytes = read_root(memory, self.incoming.root)?;
        let fdt = Fdt::parse(&bytes).map_err(|fault| fault.address(self.incoming.root.get()))?;
        let root = fdt.root();
        let made_of = root.required(kho::COMPATIBLE)?.value();
        match_root(made_of, &self.layouts)
            .and_then(|()| match_parts(made_of, &self.layouts))
            .map_err(|fault| fault.item(kho::COMPATIBLE))?;
        let texts = made_of.split(|&byte| byte == 0).filter_map(|text| core::str::from_utf8(text).ok());
        self.root_list = texts.map(String::from).collect();
        let map = root.required(kho::PRESERVED_MEMORY_MAP)?.u64_native()?;
        if map == 0 {
            return Err(Fault::new(Code::NoHandover).item(kho::PRESERVED_MEMORY_MAP).found(0));
        }
        let (loaded, broken) = match self.registry.strangers {
            Strangers::Refuse => (Tree::load(memory, PhysAddr::new(map))?, None),
            // Who only looks wants to see what is left, too.
            Strangers::Show => Tree::load_part(memory, PhysAddr::new(map))?,
        };
        if let Some(fault) = broken {
            self.findings.add("/", fault);
            self.tree_broken = true;
        }
        if let Err(fault) = loaded.tree.check_disjoint() {
            self.findings.add("/", fault);
        }
        self.placed(&loaded);
        owners.begin("/");
        self.claim_root(&loaded.tree, bytes.len(), owners);
        for node in root.children() {
            self.node(&node, &loaded.tree, owners);
        }
        self.missing();
        self.unowned(&loaded.tree, owners);
        if self.tree_broken {
            // What the tree lost is nobody else's fault.
            let lost = [Code::NotPreserved, Code::PreservedOtherwise, Code::Unowned];
            self.findings.retain(|code| !lost.contains(&code));
        }
        Ok(loaded)
    }

    /// Whether the memory can be rebuilt from the tree: what would fail in [`Claim::admit`] is found before.
    fn placed(&mut self, loaded: &radix::Loaded) {
        let (tree, memory) = (&loaded.tree, &self.incoming.memory);
        let geometry = tree.geometry();
        let node = loaded.nodes.iter().filter_map(Pfn::new).find_map(|page| Some((page, tree.holder(page)?)));
        if let Some((page, folio)) = node {
            let fault = Fault::new(Code::OwnedTwice).address(page.addr(geometry).get());
            self.findings.add("/", fault.found(format_args!("a page of the tree, which is preserved in {folio}")));
        }
        let inside = |bytes: &PhysRange| {
            let next = memory.extents().partition_point(|extent| extent.start() <= bytes.start());
            let extent = next.checked_sub(1).and_then(|last| memory.extents().get(last));
            extent.is_some_and(|extent| extent.contains(bytes.start(), bytes.size()))
        };
        // Of memory in one piece the ends say it all; going through a million ranges takes longer than the rest of a plan.
        if !memory.is_whole() || tree.span().is_none_or(|span| inside(&span.bytes(geometry))) {
            return;
        }
        if let Some(bytes) = tree.ranges().map(|range| range.bytes(geometry)).find(|bytes| !inside(bytes)) {
            let fault = Fault::new(Code::Outside).address(bytes.start().get()).item("preserved block");
            self.findings.add("/", fault.found(bytes).expected("inside the memory that was handed over"));
        }
    }

    /// The root FDT is preserved like everything else; without that the next kernel would hand its page out.
    fn claim_root(&mut self, tree: &Tree, size: usize, owners: &mut Owners) {
        let geometry = tree.geometry();
        let range = PhysRange::new(self.incoming.root, crate::num::u64_of(size));
        let folio = self.incoming.root.page_around(geometry).and_then(|page| tree.holder(page));
        let claimed = match (folio, range) {
            (Some(folio), Some(range)) if folio.range().bytes(geometry).contains(range.start(), range.size()) => {
                owners.claim(folio, geometry)
            }
            _ => Err(Fault::new(Code::NotPreserved)
                .address(self.incoming.root.get())
                .found("a root FDT that is not in one preserved block")),
        };
        if let Err(fault) = claimed {
            self.findings.add("/", fault);
        }
    }

    fn node(&mut self, node: &fdt::Node<'_>, tree: &Tree, owners: &mut Owners) {
        let text = String::from_utf8_lossy(node.name()).into_owned();
        let path = format!("/{text}");
        owners.begin(&path);
        let watch = Stopwatch::start();
        let mut report =
            NodeReport { name: text, compatible: Vec::new(), blob: None, owned: 0, verdict: Verdict::Refused };
        match declared(node, &path) {
            Ok(declared) => {
                report.compatible = declared.compatible();
                report.blob = Some(declared.blob);
                report.verdict = self.declared(&declared, tree, owners);
            }
            Err(fault) => self.findings.add(&path, fault),
        }
        report.owned = owners.claimed_pages().saturating_mul(tree.geometry().page_size());
        watch.event("check", &path);
        self.nodes.push(report);
    }

    fn declared(&mut self, declared: &Declared<'_>, tree: &Tree, owners: &mut Owners) -> Verdict {
        let errors = self.findings.errors();
        let Some(slot) = self.registry.find(declared.name) else {
            let list = declared.compatible();
            let (verdict, fault) = match self.registry.strangers {
                Strangers::Show => (Verdict::Opaque, unknown(Code::ComponentOpaque, &list)),
                Strangers::Refuse => stranger(&list, declared.optional),
            };
            self.findings.add(&declared.path, fault);
            self.own_declared(declared, tree, owners);
            return verdict;
        };
        let Some(entry) = self.registry.entries.get(slot) else { return Verdict::Refused };
        let component = entry.component.clone();
        let mismatch = match &declared.list {
            Some(list) => component.mismatches(list.list(), &self.layouts),
            None if component.names_itself() => self.implied(component.compat()),
            None => {
                alloc::vec![Fault::new(Code::CompatMissing).item(kho::COMPATIBLE).expected(component.compat().owner())]
            }
        };
        if !mismatch.is_empty() {
            // Of a layout that this reader does not know nothing more can be said, least of all that it is corrupt.
            self.own_declared(declared, tree, owners);
            let (verdict, faults) = unread(mismatch, declared.optional && !entry.required);
            for fault in faults {
                self.findings.add(&declared.path, fault.item(kho::COMPATIBLE));
            }
            return verdict;
        }
        let mut node = Node {
            name: declared.name,
            path: &declared.path,
            source: &self.incoming.memory,
            view: Node::<M>::view(&self.incoming.memory, tree),
            tree,
            blob: declared.blob,
            made_of: declared.list.as_ref().map_or_else(|| component.compat(), CompatVec::list),
            layouts: &self.registry.layouts,
            owners,
            taken: &mut self.taken,
            findings: self.findings,
            part: String::new(),
            blob_claimed: false,
        };
        match component.check(&mut node) {
            Ok(checked) => {
                // What could not be read was not claimed either: one finding for it is enough.
                if self.findings.errors() == errors {
                    self.compare_mem(declared, tree, owners);
                }
                self.steps.push(Step { slot, path: declared.path.clone(), checked });
            }
            Err(fault) => self.findings.add(&declared.path, fault),
        }
        if self.findings.errors() == errors { Verdict::Fine } else { Verdict::Refused }
    }

    /// Why a node that has no list is not read: what it is taken to use has another version in the root's list.
    fn implied(&self, list: CompatList<'static>) -> Vec<Fault> {
        let said: Vec<Compat<'_>> =
            self.root_list.iter().filter_map(|text| Compat::parse(text.as_str()).ok()).collect();
        let differs = |entry: &Compat<'static>| {
            let mut versions = said.iter().filter(|found| found.name() == entry.name());
            let first = *versions.clone().next()?;
            match versions.any(|found| found == entry) {
                true => None,
                false => first.judge(&[Reads::only(*entry)]).err().map(Fault::from),
            }
        };
        list.uses().iter().filter_map(differs).collect()
    }

    /// A node that nobody looks into owns what it says.
    fn own_declared(&mut self, declared: &Declared<'_>, tree: &Tree, owners: &mut Owners) {
        for range in declared.mem(tree.geometry()) {
            let owned = range.and_then(|range| owners.claim_range(range, tree));
            if let Err(fault) = owned {
                self.findings.add(&declared.path, fault.item(kho::MEM));
            }
        }
    }

    /// `mem` is a summary of what the node's data uses; a summary that says something else is a lie to every tool that
    /// trusts it.
    fn compare_mem(&mut self, declared: &Declared<'_>, tree: &Tree, owners: &mut Owners) {
        let Some(mem) = &declared.mem else { return };
        // Mostly it is right, and then its bytes are those that we would write; what is wrong is looked for only if not.
        let (pairs, rest) = mem.value().as_chunks::<16>();
        let same = {
            let ours = owners.claimed().map(|range| range.bytes(tree.geometry()));
            let ours = ours.map(|bytes| u128::from(bytes.start().get()) << 64 | u128::from(bytes.size()));
            rest.is_empty() && ours.eq(pairs.iter().map(|pair| u128::from_be_bytes(*pair)))
        };
        if same {
            return;
        }
        let geometry = tree.geometry();
        let mut claimed = owners.claimed();
        for range in declared.mem(geometry) {
            let said = range.and_then(|range| {
                if range.count() == 0 {
                    return Err(Fault::new(Code::MemDisagrees).found("an empty range"));
                }
                // Both are sorted, so what was passed over does not come any more.
                let same =
                    if declared.partial { claimed.any(|claim| claim == range) } else { claimed.next() == Some(range) };
                if same {
                    return Ok(());
                }
                let bytes = range.bytes(geometry);
                Err(if tree.covers(range) {
                    let fault = Fault::new(Code::MemDisagrees).address(bytes.start().get()).found(bytes);
                    fault.expected("the ranges that the node's data uses, ascending")
                } else {
                    not_preserved(range, tree)
                })
            });
            if let Err(fault) = said {
                self.findings.add(&declared.path, fault.item(kho::MEM));
                return;
            }
        }
        if !declared.partial
            && let Some(left) = claimed.next()
        {
            let left = left.bytes(geometry);
            let fault = Fault::new(Code::MemDisagrees).address(left.start().get()).item(kho::MEM);
            let fault = fault.found("nothing more").expected(format_args!("{left} too, which the node's data uses"));
            self.findings.add(&declared.path, fault);
        }
    }

    fn missing(&mut self) {
        let seen: alloc::collections::BTreeSet<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        for entry in self.registry.entries.iter().filter(|entry| entry.required) {
            if !seen.contains(entry.name.as_str()) {
                self.findings.add(&format!("/{}", entry.name), missing(entry.component.compat().owner()));
            }
        }
    }

    fn unowned(&mut self, tree: &Tree, owners: &Owners) {
        // What was claimed is preserved, each page once: so the difference is what nobody claimed.
        let pages = tree.pages().saturating_sub(owners.pages());
        if pages == 0 {
            return;
        }
        let first = tree.iter().find(|block| !owners.owns(*block));
        let at = first.map_or(0, |block| block.addr(tree.geometry()).get());
        let fault = Fault::new(Code::Unowned).address(at);
        self.findings.add("/", fault.found(format_args!("{pages} pages that no node owns, these first")));
    }
}

fn unknown(code: Code, list: &[String]) -> Fault {
    if list.is_empty() {
        Fault::new(code).found("a node that does not say what it is")
    } else {
        Fault::new(code).item(kho::COMPATIBLE).found(list.join(", "))
    }
}

/// What becomes of a node that nobody reads.
pub(super) fn stranger(list: &[String], optional: bool) -> (Verdict, Fault) {
    match optional {
        true => (Verdict::Dropped, unknown(Code::ComponentDropped, list)),
        false => (Verdict::Refused, unknown(Code::ComponentUnknown, list)),
    }
}

/// What becomes of a node that is not read for these reasons. One that may be left is dropped, and told why.
pub(super) fn unread(why: Vec<Fault>, may_be_left: bool) -> (Verdict, Vec<Fault>) {
    let mismatch = why.iter().all(|fault| fault.code().class() == Class::Mismatch);
    if !may_be_left || !mismatch {
        return (Verdict::Refused, why);
    }
    let dropped = why.into_iter().map(|fault| {
        let told = Fault::new(Code::ComponentDropped).found(fault.found_text());
        if fault.expected_text().is_empty() { told } else { told.expected(fault.expected_text()) }
    });
    (Verdict::Dropped, dropped.collect())
}

/// Holds the string list of a blob against the one version that its reader takes, as Linux does: any entry that is
/// right makes it right, and what the other entries say is nothing.
///
/// # Errors
/// [`Code::VersionOlder`], [`Code::VersionNewer`], or [`Code::ComponentUnknown`] when no entry has the name.
pub(crate) fn match_any(value: &[u8], expected: Compat<'static>) -> Result<(), Fault> {
    match_ranges(value, expected, &[Reads::only(expected)])
}

fn match_ranges(value: &[u8], expected: Compat<'static>, reads: &[Reads<'_>]) -> Result<(), Fault> {
    let list: Vec<Compat<'_>> = value.split(|&byte| byte == 0).filter_map(|text| Compat::parse(text).ok()).collect();
    let verdicts = list.iter().filter(|compat| compat.name() == expected.name());
    let mut fault = None;
    for compat in verdicts {
        match compat.judge(reads) {
            Ok(()) => return Ok(()),
            Err(difference) => fault = fault.or_else(|| Some(Fault::from(difference))),
        }
    }
    Err(fault.unwrap_or_else(|| {
        // A list may fill its tree; its start says enough.
        let text = value.strip_suffix(&[0]).unwrap_or(value);
        let text = text.get(..64).unwrap_or(text);
        Fault::new(Code::ComponentUnknown).found(text.escape_ascii()).expected(expected)
    }))
}

/// Holds the string list of a root against the versions that are read.
pub(super) fn match_root(value: &[u8], layouts: &[Reads<'_>]) -> Result<(), Fault> {
    let ranges: Vec<Reads<'_>> =
        layouts.iter().copied().filter(|reads| reads.newest().name() == kho::COMPAT.name()).collect();
    match_ranges(value, kho::COMPAT, &ranges)
}

/// Holds what the root says of its tree against what is read here; what nodes use is their matter. A root that does not
/// say it has the tree of its time. Nodes may use other trees of their own, whose versions stand in the root's list too:
/// one that is read is enough, as of the root itself.
pub(super) fn match_parts(value: &[u8], layouts: &[Reads<'_>]) -> Result<(), Fault> {
    let tree = abi::radix::COMPAT.name();
    let list = value.split(|&byte| byte == 0).filter_map(|text| Compat::parse(text).ok());
    let judged: Vec<Result<(), Fault>> =
        list.filter(|compat| compat.name() == tree).map(|compat| compat.judge(layouts).map_err(Fault::from)).collect();
    if judged.iter().any(Result::is_ok) { Ok(()) } else { judged.into_iter().collect() }
}

/// Reads what a node says of itself.
///
/// # Errors
/// The first property that is missing or wrong.
pub(crate) fn declared<'f>(node: &fdt::Node<'f>, path: &str) -> Result<Declared<'f>, Fault> {
    let name = core::str::from_utf8(node.name())
        .map_err(|_| Fault::new(Code::FdtName).offset(node.offset()).found("a name that is not UTF-8"))?;
    let list = match node.property(kho::COMPATIBLE) {
        None => None,
        Some(property) => Some(CompatVec::parse_fdt(property.value()).map_err(|fault| fault.within(kho::COMPATIBLE))?),
    };
    let start = node.required(kho::PRESERVED_DATA)?.u64_native()?;
    let size = node.required(kho::BLOB_SIZE)?.u64_native()?;
    let blob = PhysRange::new(PhysAddr::new(start), size).ok_or_else(|| {
        Fault::new(Code::TooLarge).address(start).item(kho::BLOB_SIZE).found(size).expected("a blob that ends")
    })?;
    Ok(Declared {
        name,
        path: path.into(),
        list,
        blob,
        mem: node.property(kho::MEM),
        partial: node.property(kho::MEM_PARTIAL).is_some(),
        optional: node.property(kho::OPTIONAL).is_some(),
    })
}

fn whole_pages(range: PhysRange, geometry: Geometry) -> Result<PageRange, Fault> {
    let fault = |code| Fault::new(code).address(range.start().get()).found(range);
    if (range.start().get() | range.size()) & geometry.page_size().wrapping_sub(1) != 0 {
        return Err(fault(Code::Unaligned).expected("whole pages"));
    }
    Pfn::new(range.start().get() >> geometry.page_shift())
        .and_then(|start| PageRange::new(start, range.size() >> geometry.page_shift()))
        .ok_or_else(|| fault(Code::TooLarge).expected("addresses below 2^47 pages"))
}
