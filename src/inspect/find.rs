//! Which device tree in memory is the root of the handover.

use alloc::sync::Arc;
use core::cell::RefCell;
use core::hash::{Hash as _, Hasher as _};
use std::hash::DefaultHasher;

use super::show::{self, Seen};
use super::view::{Candidate, PageSizeBy};
use super::{Hint, NotShown};
use crate::abi::kho;
use crate::compat::Compat;
use crate::fdt::Fdt;
use crate::handover::{Incoming, Owners, Plan, read_root};
use crate::mem::{Geometry, Image, MemError, Memory, PhysAddr, PhysRange};
use crate::radix::Tree;
use crate::report::{Code, Fault};

/// So many device trees are read while searching, and so many roots looked into: a memory that is made of them must not
/// cost its size squared.
const TREES: usize = 4_096;
pub(super) const ROOTS: usize = 16;

/// A source that may change is read at most so often.
pub(super) const READINGS: usize = 6;

/// An image that several plans read, each with its own page size.
pub(super) struct Shared {
    image: Arc<Image>,
    geometry: Geometry,
    /// Of all that was read, and where; of a source that may change.
    digest: Option<RefCell<DefaultHasher>>,
}

impl Memory for Shared {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extents(&self) -> &[PhysRange] {
        self.image.extents()
    }

    fn is_whole(&self) -> bool {
        self.image.is_whole()
    }

    fn read(&self, at: PhysAddr, to: &mut [u8]) -> Result<(), MemError> {
        let read = self.image.read(at, to);
        if let Some(digest) = &self.digest {
            let mut digest = digest.borrow_mut();
            (at.get(), read.is_ok()).hash(&mut *digest);
            digest.write(to);
        }
        read
    }
}

/// Whether a device tree says that it is the root of a handover, of whatever version.
pub(super) fn is_root(fdt: &Fdt<'_>) -> bool {
    let root = fdt.root();
    let Some(compatible) = root.property(kho::COMPATIBLE) else { return false };
    let mut list = compatible.value().split(|&byte| byte == 0).filter_map(|text| Compat::parse(text).ok());
    list.any(|compat| compat.name() == kho::COMPAT.name())
}

/// What the search found.
pub(super) struct Roots {
    /// By ascending address.
    pub(super) roots: Vec<PhysAddr>,
    /// What could not be read, if anything.
    pub(super) unread: Option<Fault>,
}

/// All roots in a memory of which nothing is known. What cannot be read is passed over.
///
/// # Errors
/// When no root is found and something could not be read: it may be there.
pub(super) fn roots(image: &Image) -> Result<Roots, Fault> {
    let mut roots = Vec::new();
    let (mut trees, mut unread, mut first) = (0_usize, 0_u64, None);
    for at in image.find_fdt() {
        match at {
            Ok(at) => {
                let bytes = read_root(image, at).unwrap_or_default();
                let root = Fdt::parse(&bytes)
                    .is_ok_and(|fdt| is_root(&fdt) && fdt.root().property(kho::PRESERVED_MEMORY_MAP).is_some());
                roots.extend(root.then_some(at));
                trees = trees.saturating_add(1);
                if trees >= TREES {
                    break;
                }
            }
            Err(error) => {
                unread = unread.saturating_add(1);
                first.get_or_insert(error);
            }
        }
    }
    let unread = first.map(|error| {
        let MemError::Io { at, reason, .. } = &error else { return Fault::from(error) };
        let code = if roots.is_empty() { Code::Io } else { Code::Unread };
        Fault::new(code).address(at.get()).found(format_args!("{unread} pages, of which the first says: {reason}"))
    });
    match unread {
        Some(fault) if roots.is_empty() => Err(fault),
        unread => Ok(Roots { roots, unread }),
    }
}

/// Reads a source that may change until two readings are the same: the last one, and whether it is as the one before.
pub(super) fn steady(image: &Arc<Image>, best: Looked) -> Result<(Looked, bool), NotShown> {
    let (root, geometry) = (best.root, best.geometry);
    drop(best);
    settle(|| {
        let memory = Shared { image: Arc::clone(image), geometry: geometry.0, digest: Some(RefCell::default()) };
        let looked = plan(memory, root, geometry)?;
        let digest = looked.plan.memory().digest.as_ref().map_or(0, |digest| digest.borrow().finish());
        Ok((looked, digest))
    })
}

/// Does it until it has the same digest twice, at most [`READINGS`] times; a reading that fails is one of them.
fn settle<T>(mut read: impl FnMut() -> Result<(T, u64), NotShown>) -> Result<(T, bool), NotShown> {
    let mut last: Option<(Result<T, NotShown>, Option<u64>)> = None;
    for _ in 0..READINGS {
        // Not both at once: either may be large.
        let before = last.take().and_then(|(_, digest)| digest);
        match read() {
            Ok((value, digest)) if before == Some(digest) => return Ok((value, true)),
            Ok((value, digest)) => last = Some((Ok(value), Some(digest))),
            Err(error) => last = Some((Err(error), None)),
        }
    }
    match last {
        Some((Ok(value), _)) => Ok((value, false)),
        Some((Err(error), _)) => Err(error),
        None => Err(Fault::new(Code::ChangedWhileRead).into()),
    }
}

/// A root that was looked into.
pub(super) struct Looked {
    pub(super) root: PhysAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) geometry: (Geometry, PageSizeBy),
    pub(super) plan: Plan<Shared>,
    pub(super) owners: Owners,
    pub(super) seen: Seen,
}

impl Looked {
    /// Less is better.
    fn score(&self) -> (bool, u64) {
        (self.plan.tree().is_none() || self.plan.is_tree_broken(), self.plan.findings().errors())
    }
}

/// Looks into the roots, and takes the one with the fewest errors, the first one of several: it, and the others.
pub(super) fn best(
    image: &Arc<Image>,
    roots: &[PhysAddr],
    geometries: &[(Geometry, PageSizeBy)],
) -> Result<Option<(Looked, Vec<Candidate>)>, NotShown> {
    let mut best: Option<Looked> = None;
    let mut all = Vec::new();
    for (number, &root) in roots.iter().enumerate() {
        let mut errors = None;
        // With several, what has no tree is not worth more; if none has, the first one is.
        if number == 0
            || (number < ROOTS && geometries.iter().any(|(geometry, _)| tree(image, root, *geometry).is_some()))
        {
            let looked = look(image, root, geometries)?;
            errors = (!looked.score().0).then(|| looked.plan.findings().errors());
            if best.as_ref().is_none_or(|best| looked.score() < best.score()) {
                best = Some(looked);
            }
        }
        all.push(Candidate { address: root.get(), errors });
    }
    Ok(best.map(|best| {
        all.retain(|candidate| candidate.address != best.root.get());
        (best, all)
    }))
}

/// The tree of a root, if it can be read with that page size: cheap, beside a plan that may sum gigabytes.
fn tree(image: &Arc<Image>, root: PhysAddr, geometry: Geometry) -> Option<Tree> {
    let memory = Shared { image: Arc::clone(image), geometry, digest: None };
    let bytes = read_root(&memory, root).ok()?;
    let map = Fdt::parse(&bytes).ok()?.root().property(kho::PRESERVED_MEMORY_MAP)?.u64_native().ok()?;
    Tree::load(&memory, PhysAddr::new(map)).ok().map(|loaded| loaded.tree)
}

/// The page size to read a root with. That a tree can be read means little: with a smaller page size than its own it
/// may look empty. But a root is always preserved itself.
fn geometry(image: &Arc<Image>, root: PhysAddr, geometries: &[(Geometry, PageSizeBy)]) -> (Geometry, PageSizeBy) {
    let first = geometries.first().copied().unwrap_or((Geometry::K4, PageSizeBy::Guess));
    if geometries.len() < 2 {
        return first;
    }
    let mut readable = None;
    for &choice in geometries {
        let Some(tree) = tree(image, root, choice.0) else { continue };
        if root.page_around(choice.0).is_some_and(|page| tree.holder(page).is_some()) {
            return (choice.0, PageSizeBy::Tree);
        }
        readable = readable.or((!tree.is_empty()).then_some(choice));
    }
    readable.unwrap_or(first)
}

/// Plans a root.
fn look(image: &Arc<Image>, root: PhysAddr, geometries: &[(Geometry, PageSizeBy)]) -> Result<Looked, NotShown> {
    let geometry = geometry(image, root, geometries);
    plan(Shared { image: Arc::clone(image), geometry: geometry.0, digest: None }, root, geometry)
}

fn plan(memory: Shared, root: PhysAddr, geometry: (Geometry, PageSizeBy)) -> Result<Looked, NotShown> {
    let bytes = read_root(&memory, root).map_err(|fault| match fault.at().item.as_deref() {
        // No device tree at all.
        Some("magic") => NotShown {
            fault: Fault::new(Code::NoHandover)
                .address(root.get())
                .found(fault.found_text())
                .expected(fault.expected_text()),
            hint: Hint::NoRoot,
        },
        _ => NotShown::from(fault),
    })?;
    let fdt = Fdt::parse(&bytes).map_err(|fault| fault.address(root.get()))?;
    let seen = Seen::default();
    let registry = show::registry(&fdt, &seen);
    let (plan, owners) = Incoming::new(memory, root).plan_with_owners(&registry);
    Ok(Looked { root, bytes, geometry, plan, owners, seen })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(digests: &[Option<u64>]) -> Option<(usize, bool)> {
        let mut number = 0;
        let settled = settle(|| {
            number += 1;
            match digests[(number - 1) % digests.len()] {
                Some(digest) => Ok((number, digest)),
                None => Err(Fault::new(Code::FdtHeader).into()),
            }
        });
        settled.ok()
    }

    #[test]
    fn it_is_read_until_two_readings_are_the_same() {
        assert_eq!(readings(&[Some(7)]), Some((2, true)));
        assert_eq!(readings(&[Some(1), Some(2), None, Some(3), Some(3)]), Some((5, true)));
        assert_eq!(readings(&[Some(1), Some(2)]), Some((READINGS, false)));
        assert_eq!(readings(&[Some(1), None]), None, "the last reading failed");
        assert_eq!(readings(&[None, Some(1)]), Some((READINGS, false)), "a failure between two is a change");
    }
}
