//! Regions that are mapped: written as a table, and made anew of one.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::marker::PhantomData;
use std::fs::File;
use std::os::fd::AsFd as _;

use vm_memory::bitmap::{Bitmap, NewBitmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap,
};
use zerocopy::IntoBytes as _;

use super::backing::Backing;
use super::{MADE_OF, Row, by_itself, is_count, item, looked};
use crate::abi::guest::{MAP_SHARED, Region, Table};
use crate::block::BlockSet;
use crate::compat::CompatList;
use crate::files;
use crate::handover::{Blob, Check, Component, Home, Node, Preserve, Scope};
use crate::mem::Memory as _;
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};
use crate::state::Resources;

/// A region of the predecessor, without its token.
struct Own<'a> {
    region: Region,
    file: &'a File,
    backing: Backing,
}

/// What a region is, and whether a successor can map it.
fn own<B: Bitmap>(mapped: &GuestRegionMmap<B>, page: u64) -> Result<Own<'_>, Fault> {
    let refused = |item: &'static str, found: &'static str| {
        Err(Fault::new(Code::Refused).item(item).found(found).expected("a shared mapping of a memfd"))
    };
    let flags = mapped.flags();
    let Some(part) = mapped.file_offset().filter(|_| flags & libc::MAP_ANONYMOUS == 0) else {
        return refused("file", "anonymous memory");
    };
    // The other way to say the same; the successor maps it by flags that it knows.
    let kind = match flags & libc::MAP_TYPE {
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE => MAP_SHARED,
        _ => return refused("flags", "a private mapping"),
    };
    let region = Region {
        guest: mapped.start_addr().0.into(),
        size: mapped.len().into(),
        token: 0.into(),
        offset: part.start().into(),
        prot: mapped.prot().cast_unsigned().into(),
        flags: ((flags & !libc::MAP_TYPE).cast_unsigned() | kind).into(),
        reserved: 0.into(),
    };
    by_itself(&region, page)?;
    let backing = Backing::for_region(&region, part.file().as_fd())?;
    Ok(Own { region, file: part.file(), backing })
}

/// A file of the predecessor, and the first region that is a part of it.
pub(super) struct Behind<'a> {
    file: &'a File,
    writable: bool,
    first: usize,
}

/// All regions as they are written, and the files of their tokens, which are their numbers among these.
pub(super) fn owned<'a, B: Bitmap + 'a>(
    all: impl Iterator<Item = &'a GuestRegionMmap<B>>,
    page: u64,
) -> Result<(Vec<Region>, Vec<Behind<'a>>), Fault> {
    let mut row = Row::default();
    let (mut regions, mut files) = (Vec::new(), Vec::<Behind<'_>>::new());
    let mut numbers = BTreeMap::new();
    for (first, mapped) in all.enumerate() {
        let own = own(mapped, page).and_then(|own| row.place(&own.region).map(|()| own));
        let Own { mut region, file, backing } = own.map_err(|fault| fault.within(&item(first)))?;
        let number = match numbers.entry(backing.inode) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                files.push(Behind { file, writable: backing.writable, first });
                *free.insert(files.len().saturating_sub(1))
            }
        };
        // Of several descriptors of one memfd, one that is enough for all.
        if let Some(known) = files.get_mut(number).filter(|known| !known.writable) {
            (known.file, known.writable) = (file, backing.writable);
        }
        region.token = u64_of(number).into();
        regions.push(region);
    }
    is_count(u64_of(regions.len()))?;
    Ok((regions, files))
}

/// The memory stays where it is: memfds travel as descriptors, and what is written is the table of its regions.
impl<M: Home, B: Bitmap> Preserve<M> for GuestMemoryMmap<B> {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    /// # Errors
    /// [`Code::Refused`] for anonymous memory and private mappings; [`Code::FileKind`] for files that are no memfds;
    /// [`Code::MemfdSeals`] for memfds without `F_SEAL_SHRINK`, and for such as cannot be mapped for writing again;
    /// [`Code::MemfdSize`] for those that end before their region; [`Code::Unaligned`]; [`Code::GuestMapping`] for
    /// another protection than reading, and reading and writing; [`Code::GuestRegions`] for no regions at all;
    /// [`Code::FileDuplicate`] for a memfd that is handed over otherwise too.
    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        let page = scope.geometry().page_size();
        let (mut regions, files) = owned(self.iter(), page)?;
        let tokens = files.into_iter().map(|behind| {
            let kept = files::duplicate(behind.file).and_then(|file| scope.keep_file(file));
            kept.map_err(|fault| fault.within(&item(behind.first)))
        });
        let tokens: Vec<u64> = tokens.collect::<Result<_, Fault>>()?;
        for region in &mut regions {
            region.token = tokens.get(usize_of(region.token.get())).copied().unwrap_or(u64::MAX).into();
        }
        let count = u64_of(regions.len());
        let stored = scope.records(&BlockSet::from(regions))?;
        scope.blob(Table { regions: stored.first.get().into(), count: count.into() }.as_bytes())
    }
}

/// Restores the memory of a guest: every region is mapped as it was, of the memfds that came.
///
/// `B` is what tracks dirty pages; it begins anew.
#[derive(Debug)]
pub struct GuestMemoryNode<B = ()>(PhantomData<fn() -> B>);

impl GuestMemoryNode {
    /// Memory whose dirty pages nobody tracks.
    #[must_use]
    pub const fn new() -> Self {
        GuestMemoryNode(PhantomData)
    }

    /// Memory whose dirty pages are tracked by `B`.
    #[must_use]
    pub const fn with_bitmap<B>() -> GuestMemoryNode<B> {
        GuestMemoryNode(PhantomData)
    }
}

impl<B> Default for GuestMemoryNode<B> {
    fn default() -> Self {
        GuestMemoryNode(PhantomData)
    }
}

impl<B> Clone for GuestMemoryNode<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for GuestMemoryNode<B> {}

/// Regions that were checked, each with the descriptor that it was checked with: what is mapped is what was looked at.
#[derive(Debug)]
pub struct Checked {
    regions: Vec<(Region, Arc<File>, bool)>,
}

impl<M: Resources, B: 'static> Check<M> for GuestMemoryNode<B> {
    type Checked = Checked;

    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn check(&self, node: &mut Node<'_, M>) -> Result<Checked, Fault> {
        let mut files: BTreeMap<u64, Arc<File>> = BTreeMap::new();
        let mut regions = Vec::new();
        for (number, (region, fine)) in looked(node)?.into_iter().enumerate() {
            let token = region.token.get();
            let mapped = node.part(&item(number), |node| {
                let file = match files.entry(token) {
                    Entry::Occupied(known) => Arc::clone(known.get()),
                    Entry::Vacant(free) => {
                        let file = node.source().file(token).ok_or_else(|| {
                            Fault::new(Code::TokenMissing).item("token").found(format_args!("{token:#x}"))
                        })?;
                        Arc::clone(free.insert(Arc::new(File::from(files::duplicate(file)?))))
                    }
                };
                // What is wrong with it by itself was told.
                if !fine {
                    return Ok(None);
                }
                let backing = Backing::for_region(&region, file.as_fd())?;
                Ok(Some((region, file, backing.huge)))
            });
            regions.extend(mapped.flatten());
        }
        Ok(Checked { regions })
    }
}

impl<M: Resources, B: NewBitmap + 'static> Component<M> for GuestMemoryNode<B> {
    type Prepared = GuestMemoryMmap<B>;
    type Restored = GuestMemoryMmap<B>;

    fn prepare(&self, checked: Checked, _: &mut M) -> Result<Self::Prepared, Fault> {
        let regions = checked.regions.into_iter().enumerate().map(|(number, (region, file, huge))| {
            map(&region, file, huge).map_err(|fault| fault.within(&item(number)))
        });
        let regions = regions.collect::<Result<Vec<_>, Fault>>()?;
        GuestMemoryMmap::from_regions(regions).map_err(|error| Fault::new(Code::GuestRegions).found(error))
    }

    fn commit(&self, memory: Self::Prepared, _: &mut M) -> Self::Restored {
        memory
    }
}

/// Maps a region. The system chooses where.
fn map<B: NewBitmap>(region: &Region, file: Arc<File>, huge: bool) -> Result<GuestRegionMmap<B>, Fault> {
    let size = usize_of(region.size.get());
    let mut builder = MmapRegionBuilder::new_with_bitmap(size, B::with_len(size))
        .with_file_offset(FileOffset::from_arc(file, region.offset.get()))
        .with_mmap_prot(region.prot.get().cast_signed())
        .with_mmap_flags(region.flags.get().cast_signed());
    if huge {
        builder = builder.with_hugetlbfs(true);
    }
    let mapping = builder.build().map_err(|error| Fault::new(Code::Io).item("mmap").found(error))?;
    GuestRegionMmap::new(mapping, GuestAddress(region.guest.get()))
        .ok_or_else(|| Fault::new(Code::TooLarge).item("size").found(region.size))
}
