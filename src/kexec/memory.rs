//! The memory map of the running machine.

use alloc::vec::Vec;
use std::path::Path;

use zerocopy::FromBytes as _;

use crate::abi::x86_boot as abi;
use crate::mem::{PhysAddr, PhysRange};
use crate::report::{Code, Fault};

/// A range of the machine's memory and what it is, as the numbers of the boot protocol have it
/// ([`E820_RAM`](crate::abi::x86_boot::E820_RAM) and its neighbours).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Where.
    pub range: PhysRange,
    /// What.
    pub kind: u32,
}

/// What memory the machine has, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap(Vec<MemoryRange>);

/// The names that a kernel gives to the ranges of its memory map. What has another one is a device, not memory.
const KINDS: [(&str, u32); 8] = [
    ("System RAM", abi::E820_RAM),
    ("Reserved", abi::E820_RESERVED),
    ("reserved", abi::E820_RESERVED),
    ("ACPI Tables", abi::E820_ACPI),
    ("ACPI Non-volatile Storage", abi::E820_NVS),
    ("Unusable memory", abi::E820_UNUSABLE),
    ("Persistent Memory", abi::E820_PMEM),
    ("Soft Reserved", abi::E820_RESERVED),
];

impl MemoryMap {
    /// Of the running machine: as its firmware had it, which the kernel shows in `/sys/kernel/boot_params/data`, or else
    /// as `/proc/iomem` has it. Only root is shown either.
    ///
    /// # Errors
    /// [`Code::Io`] when both are missing; as [`MemoryMap::parse`].
    pub fn of_this_machine() -> Result<MemoryMap, Fault> {
        let params = std::fs::read("/sys/kernel/boot_params/data").unwrap_or_default();
        if let Some(map) = MemoryMap::of_boot_params(&params) {
            return Ok(map);
        }
        let path = Path::new("/proc/iomem");
        let text = std::fs::read_to_string(path)
            .map_err(|error| Fault::new(Code::Io).item(path.display().to_string()).found(error))?;
        MemoryMap::parse(&text)
    }

    /// Of the page of boot parameters that a kernel was started with. None when that is not all: ranges that overlap,
    /// or so many that more are elsewhere.
    #[must_use]
    pub fn of_boot_params(params: &[u8]) -> Option<MemoryMap> {
        let count = usize::from(*params.get(abi::E820_ENTRIES)?);
        if count == 0 || count >= abi::E820_MAX {
            return None;
        }
        let table = params.get(abi::E820_TABLE..)?;
        let (entries, _) = <[abi::E820Entry]>::ref_from_prefix_with_elems(table, count).ok()?;
        let ranges = entries.iter().map(|entry| {
            let range = PhysRange::new(PhysAddr::new(entry.addr.get()), entry.size.get())?;
            Some(MemoryRange { range, kind: entry.kind.get() })
        });
        let mut ranges: Vec<MemoryRange> = ranges.collect::<Option<_>>()?;
        ranges.sort_unstable_by_key(|memory| memory.range);
        let apart = ranges.iter().zip(ranges.iter().skip(1)).all(|(one, next)| one.range.end() <= next.range.start());
        let some = ranges.iter().any(|memory| memory.kind == abi::E820_RAM);
        (apart && some).then_some(MemoryMap(ranges))
    }

    /// Of a copy of `/proc/iomem`: lines of `START-END : NAME`, hexadecimal; what is indented lies inside another.
    ///
    /// # Errors
    /// [`Code::Text`] for a line that is none; [`Code::Refused`] when no memory is in it, as people are shown that are
    /// not root.
    pub fn parse(text: &str) -> Result<MemoryMap, Fault> {
        let mut ranges: Vec<MemoryRange> = Vec::new();
        for (number, line) in (1_u64..).zip(text.lines()).filter(|(_, line)| !line.starts_with(' ')) {
            let fault =
                |found: &str| Fault::new(Code::Text).item(format!("line {number}")).found(format_args!("{found:?}"));
            let (range, name) = line.split_once(" : ").ok_or_else(|| fault(line).expected("START-END : NAME"))?;
            let Some(kind) = KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind) else { continue };
            let ends = range.split_once('-').and_then(|(start, end)| {
                Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
            });
            let (start, last) = ends.ok_or_else(|| fault(range).expected("START-END, hexadecimal"))?;
            if last == 0 {
                continue;
            }
            let size = last.checked_sub(start).and_then(|size| size.checked_add(1));
            let range = size.and_then(|size| PhysRange::new(PhysAddr::new(start), size));
            let range = range.ok_or_else(|| fault(line).expected("an end behind the start"))?;
            if ranges.last().is_some_and(|before| before.range.end() > range.start()) {
                return Err(fault(line).expected("an address behind the range before"));
            }
            ranges.push(MemoryRange { range, kind });
        }
        if !ranges.iter().any(|range| range.kind == abi::E820_RAM) {
            let fault = Fault::new(Code::Refused).item("System RAM");
            return Err(fault.found("no address of it").expected("a memory map, which only root is shown"));
        }
        Ok(MemoryMap(ranges))
    }

    /// All ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.0
    }

    /// The memory that can be used.
    pub fn ram(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.0.iter().filter(|range| range.kind == abi::E820_RAM).map(|range| range.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q35: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-0009ffff : Reserved
000a0000-000bffff : PCI Bus 0000:00
000f0000-000fffff : Reserved
  000f0000-000fffff : System ROM
00100000-07fdcfff : System RAM
  01000000-016fffff : Kernel code
07fdd000-07ffffff : Reserved
b0000000-bfffffff : PCI ECAM 0000 [bus 00-ff]
";

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), end - start).unwrap()
    }

    #[test]
    fn what_is_memory_and_what_is_not() {
        let map = MemoryMap::parse(Q35).unwrap();
        assert_eq!(map.ranges().len(), 6, "{map:?}");
        let ram: Vec<PhysRange> = map.ram().collect();
        assert_eq!(ram, [range(0x1000, 0x9_fc00), range(0x10_0000, 0x7fd_d000)]);
    }

    #[test]
    fn what_the_firmware_said() {
        let mut params = vec![0; 4096];
        let mut entry = |number: usize, addr: u64, size: u64, kind: u32| {
            let at = 0x2d0 + 20 * number;
            params[at..at + 8].copy_from_slice(&addr.to_le_bytes());
            params[at + 8..at + 16].copy_from_slice(&size.to_le_bytes());
            params[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
        };
        entry(0, 0x10_0000, 0x100_0000, 1);
        entry(1, 0x1000, 0x9_e000, 1);
        entry(2, 0x110_0000, 0x1000, 2);
        let with = |count: u8, params: &[u8]| {
            let mut params = params.to_vec();
            params[0x1e8] = count;
            MemoryMap::of_boot_params(&params)
        };
        let map = with(3, &params).unwrap();
        assert_eq!(map.ram().collect::<Vec<_>>(), [range(0x1000, 0x9_f000), range(0x10_0000, 0x110_0000)]);
        assert_eq!(map.ranges()[2], MemoryRange { range: range(0x110_0000, 0x110_1000), kind: 2 });
        assert_eq!(with(0, &params), None);
        assert_eq!(with(128, &params), None, "there may be more of them elsewhere");
        params[0x2d0 + 48..0x2d0 + 56].copy_from_slice(&0x2000_u64.to_le_bytes());
        assert!(with(3, &params).is_some());
        params[0x2d0 + 8..0x2d0 + 16].copy_from_slice(&0x100_0001_u64.to_le_bytes());
        assert_eq!(with(3, &params), None, "ranges that overlap");
        assert_eq!(MemoryMap::of_boot_params(&params[..0x200]), None);
    }

    #[test]
    fn what_people_see_who_are_not_root() {
        let text = "00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n";
        let fault = MemoryMap::parse(text).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "refused: System RAM: found no address of it, expected a memory map, which only root is shown"
        );
    }

    #[test]
    fn lines_that_are_none() {
        for text in ["0-1", "x-2 : System RAM", "2-1 : System RAM", "0-ffffffffffffffff : System RAM"] {
            assert_eq!(MemoryMap::parse(text).unwrap_err().code(), Code::Text, "{text}");
        }
        let fault = MemoryMap::parse("1000-1fff : System RAM\n0-fff : System RAM\n").unwrap_err();
        assert_eq!(fault.at().item.as_deref(), Some("line 2"));
    }
}
