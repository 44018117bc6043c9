//! Which node is read by whom, and what of it is shown.
//!
//! A reader of a component shows here when [`ROWS`] has a row for it: the layout, the name of Linux's node if it has
//! one, and the check with what becomes of its result.

use alloc::rc::Rc;
use core::cell::RefCell;
use std::collections::BTreeMap;

use super::content::{Content, Memfd, Session, block};
use super::find::Shared;
use super::states::ReadStates;
use crate::abi;
use crate::compat::{Compat, CompatList, CompatVec, Reads};
use crate::fdt::Fdt;
use crate::handover::{Check, Node, Registry};
use crate::mem::{Geometry, Pfn};
use crate::payload::{ARRAY_USE, ArrayNode, RECORDS_USE};
use crate::report::Fault;
use crate::vmalloc::Area;
use crate::{files, guest, luo, memblock, memfd, metadata, selftest};

/// What was read: by the name of the node, the layout as which, and the content.
pub(super) type Seen = Rc<RefCell<BTreeMap<String, (String, Content)>>>;

/// Who reads a layout.
struct Row {
    layout: Compat<'static>,
    /// The name of the node that has it without saying so, as in what Linux writes.
    node: &'static str,
    /// Whether it may be anywhere in the list of a node, behind an owner that says what it means. The layouts that it
    /// is made of are held against the list then, and the rest is the owner's.
    part: Option<&'static [Compat<'static>]>,
    plug: fn(Plug<'_>),
}

const ROWS: &[Row] = &[
    Row {
        layout: abi::files::COMPAT,
        node: "",
        part: None,
        plug: |plug| {
            plug.read(FileTable, |files, _| Content::Files { files: files.values().map(Into::into).collect() })
        },
    },
    Row {
        layout: abi::guest::COMPAT,
        node: "",
        part: None,
        plug: |plug| {
            plug.read(GuestRegions, |regions, _| Content::GuestMemory {
                regions: regions.iter().map(Into::into).collect(),
            });
        },
    },
    Row {
        layout: abi::memfd::COMPAT,
        node: "",
        part: None,
        plug: |plug| {
            plug.read(memfd::MemfdNode, |file, geometry| Content::Memfd(Memfd::of(file, geometry)));
        },
    },
    Row {
        layout: abi::luo::COMPAT,
        node: abi::luo::NODE,
        part: None,
        plug: |plug| {
            plug.read(luo::LuoNode, |found, geometry| Content::Luo {
                number: found.number,
                sessions: found.sessions.into_iter().map(|session| Session::of(session, geometry)).collect(),
                flbs: found.flbs,
            });
        },
    },
    Row {
        layout: abi::memblock::COMPAT,
        node: abi::memblock::NODE,
        part: None,
        plug: |plug| {
            plug.read(memblock::MemblockNode, |found, _| Content::Memblock {
                ranges: found.ranges.iter().map(Into::into).collect(),
            });
        },
    },
    Row {
        layout: metadata::MADE_OF.owner(),
        node: abi::kexec_metadata::NODE,
        part: None,
        plug: |plug| plug.read(metadata::MetadataNode, |found, _| Content::KexecMetadata(found)),
    },
    Row {
        layout: abi::kho_test::COMPAT,
        node: abi::kho_test::NODE,
        part: None,
        plug: |plug| {
            plug.read(selftest::SelfTestNode, |found, geometry| Content::KhoTest {
                csum: found.csum,
                rule: found.rule,
                bytes: found.folios.iter().fold(0_u64, |sum, folio| sum.saturating_add(folio.order().bytes(geometry))),
                folios: found.folios.iter().map(|&folio| block(folio, geometry)).collect(),
            });
        },
    },
    Row {
        layout: abi::state::COMPAT,
        node: "",
        part: None,
        plug: |plug| plug.read(ReadStates, |states, _| Content::States(states)),
    },
    Row {
        layout: abi::payload::RECORDS,
        node: "",
        part: Some(RECORDS_USE),
        plug: |plug| {
            plug.read(Table, |(table, blocks), geometry| Content::Records {
                first: table.first.get(),
                count: table.count.get(),
                record_size: table.record.get(),
                blocks: blocks.iter().map(|block| block.addr(geometry).get()).collect(),
            });
        },
    },
    Row {
        layout: abi::payload::ARRAY,
        node: "",
        part: Some(ARRAY_USE),
        plug: |plug| {
            let check = ArrayNode { made_of: CompatList::new(abi::payload::ARRAY, &[abi::vmalloc::COMPAT]) };
            plug.read(check, |(blocks, bytes), geometry| Content::Array {
                bytes,
                blocks: blocks.iter().flat_map(Area::folios).map(|folio| block(folio, geometry)).collect(),
            });
        },
    },
];

/// A registry of readers for the nodes of this root, which put what they read into `seen`.
pub(super) fn registry(fdt: &Fdt<'_>, seen: &Seen) -> Registry<Shared> {
    let mut registry = Registry::observing();
    for node in fdt.root().children() {
        let Ok(name) = core::str::from_utf8(node.name()) else { continue };
        let list = node.property(abi::kho::COMPATIBLE).map(|property| CompatVec::parse_fdt(property.value()));
        let row = match &list {
            None => ROWS.iter().find(|row| row.node == name),
            // The plan says what is wrong with it.
            Some(Err(_)) => None,
            Some(Ok(list)) => ROWS.iter().find(|row| row.reads(list.list())),
        };
        if let Some(row) = row {
            (row.plug)(Plug { row, name, registry: &mut registry, seen });
        }
    }
    registry
}

impl Row {
    /// Whether this is the reader, of whatever version: that another version cannot be read is for the plan to say.
    fn reads(&self, list: CompatList<'_>) -> bool {
        let name = self.layout.name();
        list.owner().name() == name || (self.part.is_some() && list.find(name).is_some())
    }
}

/// The place for a reader of a node.
struct Plug<'a> {
    row: &'static Row,
    name: &'a str,
    registry: &'a mut Registry<Shared>,
    seen: &'a Seen,
}

impl Plug<'_> {
    fn read<C: Check<Shared> + 'static>(self, check: C, show: fn(C::Checked, Geometry) -> Content) {
        let show = Show { check, row: self.row, show, seen: Rc::clone(self.seen) };
        let _ = self.registry.read_optional(self.name, show);
    }
}

/// A check whose result is shown.
struct Show<C: Check<Shared>> {
    check: C,
    row: &'static Row,
    show: fn(C::Checked, Geometry) -> Content,
    seen: Seen,
}

impl<C: Check<Shared>> Check<Shared> for Show<C> {
    type Checked = ();

    fn compat(&self) -> CompatList<'static> {
        self.check.compat()
    }

    fn older(&self) -> &'static [CompatList<'static>] {
        self.check.older()
    }

    fn names_itself(&self) -> bool {
        self.check.names_itself()
    }

    fn mismatches(&self, list: CompatList<'_>, layouts: &[Reads<'static>]) -> Vec<Fault> {
        let Some(parts) = self.row.part else { return self.check.mismatches(list, layouts) };
        let known = parts.iter().filter_map(|part| Some((part, list.find(part.name())?)));
        known.filter_map(|(part, found)| found.judge(&[Reads::only(*part)]).err().map(Fault::from)).collect()
    }

    fn check(&self, node: &mut Node<'_, Shared>) -> Result<(), Fault> {
        let checked = self.check.check(node)?;
        let content = (self.show)(checked, node.geometry());
        self.seen.borrow_mut().insert(node.name().into(), (self.row.layout.to_string(), content));
        Ok(())
    }
}

/// What a table of files says, without the files.
struct FileTable;

impl Check<Shared> for FileTable {
    type Checked = BTreeMap<u64, abi::files::Record>;

    fn compat(&self) -> CompatList<'static> {
        files::MADE_OF
    }

    fn check(&self, node: &mut Node<'_, Shared>) -> Result<Self::Checked, Fault> {
        files::read(node)
    }
}

/// A table of a guest's memory, without the files.
struct GuestRegions;

impl Check<Shared> for GuestRegions {
    type Checked = Vec<abi::guest::Region>;

    fn compat(&self) -> CompatList<'static> {
        guest::MADE_OF
    }

    fn check(&self, node: &mut Node<'_, Shared>) -> Result<Self::Checked, Fault> {
        guest::read(node)
    }
}

/// A table of records, whatever they mean.
struct Table;

impl Check<Shared> for Table {
    type Checked = (abi::payload::Records, Vec<Pfn>);

    fn compat(&self) -> CompatList<'static> {
        const MADE_OF: CompatList<'static> = CompatList::new(abi::payload::RECORDS, &[abi::block::COMPAT]);
        MADE_OF
    }

    fn check(&self, node: &mut Node<'_, Shared>) -> Result<Self::Checked, Fault> {
        let table: abi::payload::Records = node.blob_as()?;
        let blocks = node
            .blocks(table.first.get(), table.count.get(), table.record.get())
            .map_err(|fault| fault.within("records"))?;
        Ok((table, blocks))
    }
}
