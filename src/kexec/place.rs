//! Where things go in the next kernel's memory.

use alloc::vec::Vec;

use crate::mem::{PhysAddr, PhysRange};
use crate::report::{Code, Fault};

/// Memory that nobody has taken yet, the better places first.
pub(super) struct Places {
    free: Vec<PhysRange>,
}

/// What is wanted.
pub(super) struct Wanted {
    pub(super) what: &'static str,
    pub(super) size: u64,
    /// A power of two.
    pub(super) align: u64,
    pub(super) from: u64,
    /// The first address behind it must not be above that.
    pub(super) below: u64,
}

impl Places {
    /// In ascending order: first in `preferred`, then in all of `ram`. Nothing below `from`.
    pub(super) fn new(preferred: &[PhysRange], ram: &[PhysRange], from: u64) -> Self {
        let mut places = Places { free: Vec::new() };
        for area in preferred {
            places.free.extend(ram.iter().filter_map(|range| overlap(*range, *area)));
        }
        let mut rest = Places { free: ram.to_vec() };
        preferred.iter().for_each(|area| rest.take(*area));
        places.free.append(&mut rest.free);
        if let Some(low) = PhysRange::new(PhysAddr::new(0), from) {
            places.take(low);
        }
        places
    }

    /// Nothing else goes there.
    pub(super) fn take(&mut self, taken: PhysRange) {
        let free = core::mem::take(&mut self.free);
        for range in free {
            let before = between(range.start(), range.end().min(taken.start()));
            let behind = between(range.start().max(taken.end()), range.end());
            if overlap(range, taken).is_none() {
                self.free.push(range);
            } else {
                self.free.extend(before.into_iter().chain(behind));
            }
        }
    }

    /// The lowest address in the best place, taken.
    pub(super) fn find(&mut self, wanted: &Wanted) -> Result<PhysAddr, Fault> {
        let fits = |range: &PhysRange| {
            let start = range.start().get().max(wanted.from).checked_next_multiple_of(wanted.align)?;
            let place = PhysRange::new(PhysAddr::new(start), wanted.size)?;
            (place.end() <= range.end() && place.end().get() <= wanted.below).then_some(place)
        };
        let place = self.free.iter().find_map(fits).ok_or_else(|| {
            Fault::new(Code::Exhausted)
                .item(wanted.what)
                .found(format_args!("no {:#x} bytes in one piece", wanted.size))
                .expected(format_args!(
                    "free memory in {:#x}..{:#x}, aligned to {:#x}",
                    wanted.from, wanted.below, wanted.align
                ))
        })?;
        self.take(place);
        Ok(place.start())
    }
}

fn between(start: PhysAddr, end: PhysAddr) -> Option<PhysRange> {
    PhysRange::new(start, end.get().checked_sub(start.get()).filter(|&size| size > 0)?)
}

fn overlap(one: PhysRange, other: PhysRange) -> Option<PhysRange> {
    between(one.start().max(other.start()), one.end().min(other.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), end - start).unwrap()
    }

    fn wanted(size: u64, from: u64) -> Wanted {
        Wanted { what: "kernel", size, align: 0x10, from, below: 0x1000 }
    }

    #[test]
    fn the_better_places_first_and_nothing_twice() {
        let mut places = Places::new(&[range(0x400, 0x500)], &[range(0, 0x200), range(0x300, 0x2000)], 0x100);
        places.take(range(0x408, 0x410));
        assert_eq!(places.find(&wanted(0x20, 0)), Ok(PhysAddr::new(0x410)), "preferred, behind what is taken");
        assert_eq!(places.find(&wanted(0x100, 0)), Ok(PhysAddr::new(0x100)), "not preferred, and not below 0x100");
        assert_eq!(places.find(&wanted(0xd0, 0x400)), Ok(PhysAddr::new(0x430)));
        assert_eq!(places.find(&wanted(0xb00, 0)), Ok(PhysAddr::new(0x500)));
        assert_eq!(places.find(&wanted(0x100, 0x300)), Ok(PhysAddr::new(0x300)));
        let fault = places.find(&wanted(0x100, 0x300)).unwrap_err();
        assert_eq!(fault.code(), Code::Exhausted);
        assert_eq!(
            fault.to_string(),
            "exhausted: kernel: found no 0x100 bytes in one piece, expected free memory in 0x300..0x1000, aligned to 0x10"
        );
    }
}
