//! The pages that the next kernel is started with: entry stub, boot parameters, setup data, command line.

use alloc::vec;
use alloc::vec::Vec;

use zerocopy::IntoBytes as _;

use super::{Boot, MemoryMap};
use crate::abi::x86_boot as abi;
use crate::linux::{self, scratch_array};
use crate::mem::{PhysAddr, PhysRange};
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

const PAGE: u64 = 4096;

/// What is where in the pages, from their start.
const PARAMS: u64 = PAGE;
const DATA: u64 = 2 * PAGE;
const SCRATCH: u64 = 3 * PAGE;
const COMMAND_LINE: u64 = 4 * PAGE;

/// Where the parts of the next kernel are.
pub(super) struct Placed {
    pub(super) pages: PhysAddr,
    pub(super) kernel: PhysAddr,
    pub(super) initrd: Option<PhysRange>,
}

/// Bytes of the pages.
pub(super) fn size(boot: &Boot<'_>) -> u64 {
    COMMAND_LINE.saturating_add(u64_of(boot.command_line.len())).saturating_add(1).next_multiple_of(PAGE)
}

/// The pages as bytes.
pub(super) fn pages(boot: &Boot<'_>, placed: &Placed) -> Result<Vec<u8>, Fault> {
    let mut pages = vec![0; usize_of(size(boot))];
    let at = |offset: u64| placed.pages.get().saturating_add(offset);
    let entry = placed.kernel.get().saturating_add(abi::ENTRY_64);
    put(&mut pages, 0, &stub(placed.pages.get(), at(PARAMS), entry));
    let mut params = params(boot, placed, at(COMMAND_LINE))?;
    if let Some(passing) = boot.handover {
        put(&mut params, abi::SETUP_DATA, &at(DATA).to_le_bytes());
        let scratch = scratch_array(&passing.scratch);
        if u64_of(scratch.len()) > PAGE {
            let fault = Fault::new(Code::TooLarge).item("scratch").found(format_args!("{} bytes", scratch.len()));
            return Err(fault.expected("an array of at most a page"));
        }
        let array = PhysRange::new(PhysAddr::new(at(SCRATCH)), u64_of(scratch.len())).unwrap_or(passing.root);
        let told = linux::Boot { fdt: passing.root, scratch: array };
        put(&mut pages, usize_of(DATA), &told.setup_data(PhysAddr::new(0)));
        put(&mut pages, usize_of(SCRATCH), &scratch);
    }
    put(&mut pages, usize_of(PARAMS), &params);
    put(&mut pages, usize_of(COMMAND_LINE), boot.command_line);
    Ok(pages)
}

/// Overwrites the bytes from `offset` on; all callers have room for them.
fn put(to: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(to) = to.get_mut(offset..).and_then(|to| to.get_mut(..bytes.len())) {
        to.copy_from_slice(bytes);
    }
}

fn params(boot: &Boot<'_>, placed: &Placed, command_line: u64) -> Result<Vec<u8>, Fault> {
    let limit = boot.kernel.command_line_size;
    if u64_of(boot.command_line.len()) > limit || boot.command_line.contains(&0) {
        return Err(Fault::new(Code::TooLarge)
            .item("command line")
            .found(format_args!("{} bytes", boot.command_line.len()))
            .expected(format_args!("at most {limit}, and no zero among them")));
    }
    let mut params = vec![0; abi::BOOT_PARAMS];
    put(&mut params, abi::HEADER, boot.kernel.header());
    put(&mut params, abi::TYPE_OF_LOADER, &[0xff]);
    split(&mut params, abi::CMD_LINE_PTR, abi::EXT_CMD_LINE_PTR, command_line);
    if let Some(initrd) = placed.initrd {
        split(&mut params, abi::RAMDISK_IMAGE, abi::EXT_RAMDISK_IMAGE, initrd.start().get());
        split(&mut params, abi::RAMDISK_SIZE, abi::EXT_RAMDISK_SIZE, initrd.size());
    }
    put(&mut params, abi::ACPI_RSDP, &boot.rsdp.unwrap_or(0).to_le_bytes());
    let (count, table) = e820(boot.memory)?;
    put(&mut params, abi::E820_ENTRIES, &[count]);
    put(&mut params, abi::E820_TABLE, &table);
    Ok(params)
}

/// A number of 64 bits in two fields of 32.
fn split(params: &mut [u8], low: usize, high: usize, number: u64) {
    let bytes = number.to_le_bytes();
    let (first, second) = bytes.split_at(4);
    put(params, low, first);
    put(params, high, second);
}

fn e820(memory: &MemoryMap) -> Result<(u8, Vec<u8>), Fault> {
    let ranges = memory.ranges();
    let count = u8::try_from(ranges.len()).ok().filter(|&count| usize::from(count) <= abi::E820_MAX);
    let count = count.ok_or_else(|| {
        Fault::new(Code::TooLarge)
            .item("memory map")
            .found(format_args!("{} ranges", ranges.len()))
            .expected(format_args!("at most {}", abi::E820_MAX))
    })?;
    let entries = ranges.iter().map(|memory| abi::E820Entry {
        addr: memory.range.start().get().into(),
        size: memory.range.size().into(),
        kind: memory.kind.into(),
    });
    Ok((count, entries.collect::<Vec<_>>().as_bytes().to_vec()))
}

/// Bytes of the stub's parts, from its start.
const CONTINUE: usize = 0x40;
const GDTR: usize = 0x80;
const GDT: usize = 0x90;

/// 64-bit code that is entered in any state that a kernel leaves behind with its memory mapped one to one, and enters
/// the next kernel as the boot protocol asks: interrupts off, flat segments 0x10 for code and 0x18 for data in a table
/// that stays, the boot parameters in rsi.
fn stub(base: u64, params: u64, entry: u64) -> Vec<u8> {
    let at = |offset: usize| base.saturating_add(u64_of(offset)).to_le_bytes();
    let lgdt_end: usize = 0x13;
    let to_gdtr = u32::try_from(GDTR.saturating_sub(lgdt_end)).unwrap_or(0).to_le_bytes();
    let first: [&[u8]; 9] = [
        &[0xfa], // cli
        &[0xfc], // cld
        &[0x48, 0xbc],
        &base.saturating_add(PAGE).to_le_bytes(), // mov rsp, end of this page
        &[0x0f, 0x01, 0x15],
        &to_gdtr, // lgdt [rip + ...]
        &[0x48, 0xb8],
        &at(CONTINUE),                   // mov rax, CONTINUE
        &[0x6a, 0x10, 0x50, 0x48, 0xcb], // push 0x10; push rax; retfq
    ];
    let second: [&[u8]; 6] = [
        &[0x66, 0xb8, 0x18, 0x00],                                     // mov ax, 0x18
        &[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x8e, 0xe0, 0x8e, 0xe8], // mov ds, es, ss, fs, gs from ax
        &[0x48, 0xbe],
        &params.to_le_bytes(), // mov rsi, params
        &[0x48, 0xb8],
        &entry.to_le_bytes(), // mov rax, entry
    ];
    let mut code = vec![0; GDT];
    put(&mut code, 0, &first.concat());
    let mut tail = second.concat();
    tail.extend_from_slice(&[0xff, 0xe0]); // jmp rax
    put(&mut code, CONTINUE, &tail);
    let table: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    let table: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let limit = u16::try_from(table.len().saturating_sub(1)).unwrap_or(0);
    put(&mut code, GDTR, &limit.to_le_bytes());
    put(&mut code, GDTR.saturating_add(2), &at(GDT));
    code.extend_from_slice(&table);
    code
}
