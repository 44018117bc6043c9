//! The tree and the root FDT, written when a handover is finished.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::MEM_LIMIT;
use super::claims::{coalesce, largest};
use super::finished::Root;
use super::outgoing::Outgoing;
use super::scope::Home;
use crate::abi::kho;
use crate::fdt::Builder;
use crate::mem::{Frame, Geometry, Order, PageRange, PhysAddr, PhysRange};
use crate::num::u64_of;
use crate::radix;
use crate::report::{Code, Fault};

/// What the root says beyond what Linux reads.
#[derive(Clone, Copy)]
struct Shape {
    /// What the root and its nodes are made of.
    lists: bool,
    /// Of each node the memory: so many of its largest ranges.
    mem: Option<usize>,
}

impl Shape {
    const WHOLE: Shape = Shape { lists: true, mem: Some(MEM_LIMIT) };
}

impl<M: Home> Outgoing<M> {
    pub(super) fn write_root(&mut self) -> Result<Root, Fault> {
        let geometry = self.memory.geometry();
        let ranges = self.ranges();
        // The size does not depend on where the tree will be.
        let size = |shape| Ok(u64_of(self.root_fdt(PhysAddr::new(0), &ranges, shape)?.len()));
        let shape = if self.linux.is_some() { fit(geometry.page_size(), &ranges, size)? } else { Shape::WHOLE };
        let size = size(shape)?;
        let order =
            Order::holding(size, geometry).ok_or_else(|| Fault::new(Code::TooLarge).item("root FDT").found(size))?;
        let page = self.memory.alloc(order)?;
        let folio = page.folio();
        self.tree.add(folio);
        let written = self.write_tree_and_fdt(&page, geometry, |this, tree| this.root_fdt(tree, &ranges, shape));
        match written {
            Ok((stored, range)) => Ok(Root { page, stored, range, warnings: warnings(geometry, &ranges, shape) }),
            Err(fault) => {
                self.tree.remove(folio);
                self.memory.free(page);
                Err(fault)
            }
        }
    }

    fn write_tree_and_fdt(
        &mut self,
        page: &Frame,
        geometry: Geometry,
        root_fdt: impl Fn(&Self, PhysAddr) -> Result<Vec<u8>, Fault>,
    ) -> Result<(radix::Stored, PhysRange), Fault> {
        let stored = self.tree.store(&mut self.memory)?;
        let done = (|| {
            let fdt = root_fdt(self, stored.root)?;
            self.memory.write(page, 0, &fdt)?;
            let range = PhysRange::new(page.folio().addr(geometry), u64_of(fdt.len()))
                .ok_or_else(|| Fault::new(Code::TooLarge).item("root FDT").found(fdt.len()))?;
            self.memory.announce(Some(range))?;
            Ok(range)
        })();
        match done {
            Ok(range) => Ok((stored, range)),
            Err(fault) => {
                stored.free(&mut self.memory);
                Err(fault)
            }
        }
    }

    /// The memory of each node, in its largest ranges, and whether these are all.
    fn ranges(&self) -> Vec<(Vec<PageRange>, bool)> {
        let ranges = self.nodes.iter().map(|node| {
            let mut ranges: Vec<PageRange> = node.kept.folios.iter().map(|folio| folio.range()).collect();
            coalesce(&mut ranges);
            let partial = largest(&mut ranges, MEM_LIMIT);
            (ranges, partial)
        });
        ranges.collect()
    }

    fn root_fdt(&self, tree: PhysAddr, ranges: &[(Vec<PageRange>, bool)], shape: Shape) -> Result<Vec<u8>, Fault> {
        let geometry = self.memory.geometry();
        let mut fdt = Builder::new();
        let mut made_of: Vec<String> = [crate::abi::radix::COMPAT]
            .into_iter()
            .chain(self.nodes.iter().flat_map(|node| node.made_of.list().uses().to_vec()))
            .filter(|_| shape.lists)
            .map(|compat| compat.to_string())
            .collect();
        made_of.sort_unstable();
        made_of.dedup();
        fdt.strings(kho::COMPATIBLE, [kho::COMPAT.to_string()].into_iter().chain(made_of))?;
        if shape.mem.is_some() {
            fdt.cells_u32(kho::ADDRESS_CELLS, &[2])?;
            fdt.cells_u32(kho::SIZE_CELLS, &[2])?;
        }
        fdt.u64_native(kho::PRESERVED_MEMORY_MAP, tree.get())?;
        for (node, (ranges, partial)) in self.nodes.iter().zip(ranges) {
            fdt.node(&node.name, |fdt| {
                if shape.lists {
                    fdt.strings(kho::COMPATIBLE, node.made_of.list().iter().map(|compat| compat.to_string()))?;
                }
                if let Some(limit) = shape.mem {
                    let mut ranges = ranges.clone();
                    let partial = largest(&mut ranges, limit) || *partial;
                    let bytes: Vec<PhysRange> = ranges.iter().map(|range| range.bytes(geometry)).collect();
                    fdt.mem(&bytes)?;
                    if partial {
                        fdt.empty(kho::MEM_PARTIAL)?;
                    }
                }
                if node.optional {
                    fdt.empty(kho::OPTIONAL)?;
                }
                fdt.u64_native(kho::PRESERVED_DATA, node.blob.range().start().get())?;
                fdt.u64_native(kho::BLOB_SIZE, node.blob.range().size())
            })?;
        }
        fdt.finish()
    }
}

/// The most that fits into a page: fewer ranges of each node, then none, then no lists.
fn fit(
    page: u64,
    ranges: &[(Vec<PageRange>, bool)],
    size: impl Fn(Shape) -> Result<u64, Fault>,
) -> Result<Shape, Fault> {
    let fits = |shape| Ok::<bool, Fault>(size(shape)? <= page);
    if fits(Shape::WHOLE)? {
        return Ok(Shape::WHOLE);
    }
    // The most ranges of a node that fit. One more range is never fewer bytes, except the last one of a node, which
    // saves `mem-partial`: with all of them listed it does not fit, and below that the search may stop one too early.
    let longest = ranges.iter().map(|(ranges, _)| ranges.len()).max().unwrap_or(0);
    let (mut low, mut high) = (0, longest);
    while low < high {
        let middle = low.saturating_add(high).div_ceil(2);
        if fits(Shape { lists: true, mem: Some(middle) })? {
            low = middle;
        } else {
            high = middle.saturating_sub(1);
        }
    }
    let shapes = [
        Shape { lists: true, mem: Some(low).filter(|&low| low > 0) },
        Shape { lists: true, mem: None },
        Shape { lists: false, mem: None },
    ];
    for shape in shapes {
        if fits(shape)? {
            return Ok(shape);
        }
    }
    let bare = size(Shape { lists: false, mem: None })?;
    let fault = Fault::new(Code::TooLarge).item("root FDT").found(format_args!("{bare} bytes"));
    Err(fault.expected(format_args!("at most {page}, a page, for Linux")))
}

fn warnings(geometry: Geometry, ranges: &[(Vec<PageRange>, bool)], shape: Shape) -> Vec<Fault> {
    let full = |item: &'static str| {
        let fault = Fault::new(Code::RootFull).item(item);
        fault.expected(format_args!("a root FDT of at most {} bytes, a page, for Linux", geometry.page_size()))
    };
    let mut warnings = Vec::new();
    match shape.mem {
        None => warnings.push(full(kho::MEM).found("left out")),
        Some(limit) if ranges.iter().any(|(ranges, _)| ranges.len() > limit) => {
            warnings.push(full(kho::MEM).found(format_args!("only the {limit} largest ranges of each node")));
        }
        Some(_) => {}
    }
    if !shape.lists {
        warnings.push(full(kho::COMPATIBLE).found("left out"));
    }
    warnings
}
