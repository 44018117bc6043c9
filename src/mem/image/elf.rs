//! ELF cores: which bytes of the file are which memory.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use object::LittleEndian as LE;
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, ET_CORE, FileHeader64, PN_XNUM, PT_LOAD, ProgramHeader64, SectionHeader64,
};
use object::pod::{self, Pod};

use super::Piece;
use crate::mem::Machine;
use crate::mem::file::{io_fault, read_at};
use crate::num::{index_of, u64_of};
use crate::report::{Code, Fault};

/// More segments than any machine has ranges of memory; their headers are 56 MiB.
const MAX_SEGMENTS: u32 = 1 << 20;

/// Bytes of one program header.
const SEGMENT: u16 = 56;

/// Program headers that are read at once.
const BATCH: u32 = 1024;

/// `p_paddr` of what has no physical address.
const NO_ADDRESS: u64 = u64::MAX;

/// Memory that a segment describes.
struct Span {
    start: u64,
    end: u64,
    from: Option<u64>,
}

/// The memory of a core, sorted and disjoint, and whose it was.
pub(super) fn pieces(fd: BorrowedFd<'_>, file_size: u64) -> Result<(Vec<Piece>, Option<Machine>), Fault> {
    let source = Source { fd, size: file_size };
    let header = source.read::<8>("ELF header", 0)?;
    let header = view::<FileHeader64<LE>>(&header)?;
    let bad = |item: &'static str, offset: u64, found: u64, expected: u64| {
        Fault::new(Code::ImageHeader).item(item).offset(offset).found(found).expected(expected)
    };
    if header.e_ident.class != ELFCLASS64 {
        return Err(Fault::new(Code::FileKind)
            .item("e_ident.class")
            .offset(4)
            .found(header.e_ident.class.0)
            .expected("2: ELF of 64 bit"));
    }
    if header.e_ident.data == ELFDATA2MSB {
        return Err(Fault::new(Code::ForeignEndian)
            .item("e_ident.data")
            .offset(5)
            .found("2: big-endian")
            .expected("1: little-endian"));
    }
    if header.e_ident.data != ELFDATA2LSB {
        return Err(bad("e_ident.data", 5, header.e_ident.data.0.into(), 1));
    }
    if header.e_type.get(LE) != ET_CORE {
        return Err(Fault::new(Code::FileKind)
            .item("e_type")
            .offset(16)
            .found(header.e_type.get(LE).0)
            .expected("4: a core"));
    }
    if header.e_phentsize.get(LE) != SEGMENT {
        return Err(bad("e_phentsize", 54, header.e_phentsize.get(LE).into(), SEGMENT.into()));
    }
    let count = match header.e_phnum.get(LE) {
        PN_XNUM => {
            // The real number does not fit and stands in the first section header.
            let section = source.read::<8>("section[0]", header.e_shoff.get(LE))?;
            view::<SectionHeader64<LE>>(&section)?.sh_info.get(LE)
        }
        few => few.into(),
    };
    if count > MAX_SEGMENTS {
        return Err(Fault::new(Code::TooLarge)
            .item("e_phnum")
            .found(format_args!("{count} segments"))
            .expected(format_args!("{MAX_SEGMENTS} at most")));
    }
    let pieces = resolve(&spans(&source, header.e_phoff.get(LE), count)?);
    // Otherwise a small file could be made to cost a walk over any amount of memory.
    let used =
        pieces.iter().filter(|piece| piece.from.is_some()).fold(0_u64, |sum, piece| sum.saturating_add(piece.size));
    if used > file_size {
        return Err(Fault::new(Code::ImageHeader)
            .item("segments")
            .found(format_args!("{used:#x} bytes of memory in a file of {file_size:#x}"))
            .expected("no byte of the file in two places of memory"));
    }
    Ok((pieces, Machine::of_elf(header.e_machine.get(LE).0)))
}

/// All spans, those first that have bytes in the file.
fn spans(source: &Source<'_>, table: u64, count: u32) -> Result<Vec<Span>, Fault> {
    let end = u64::from(count).saturating_mul(SEGMENT.into()).saturating_add(table);
    if end > source.size {
        return Err(source.truncated("program headers".into(), table, end));
    }
    let (mut filled, mut zero) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < count {
        let now = count.saturating_sub(done).min(BATCH);
        let mut words = vec![0_u64; index_of(now).saturating_mul(usize::from(SEGMENT) / 8)];
        let at = u64::from(done).saturating_mul(SEGMENT.into()).saturating_add(table);
        read_at(source.fd, at, pod::bytes_of_slice_mut(&mut words))
            .map_err(|error| io_fault("program headers", error))?;
        let segments = pod::slice_from_all_bytes::<ProgramHeader64<LE>>(pod::bytes_of_slice(&words));
        for (segment, index) in segments.unwrap_or_default().iter().zip(done..) {
            if segment.p_type.get(LE) == PT_LOAD && segment.p_paddr.get(LE) != NO_ADDRESS {
                load(source, segment, index, &mut filled, &mut zero)?;
            }
        }
        done = done.saturating_add(now);
    }
    filled.append(&mut zero);
    Ok(filled)
}

fn load(
    source: &Source<'_>,
    segment: &ProgramHeader64<LE>,
    index: u32,
    filled: &mut Vec<Span>,
    zero: &mut Vec<Span>,
) -> Result<(), Fault> {
    let (start, from) = (segment.p_paddr.get(LE), segment.p_offset.get(LE));
    let (in_file, in_memory) = (segment.p_filesz.get(LE), segment.p_memsz.get(LE));
    let fault = |code, field| Fault::new(code).item(format!("segment[{index}].{field}")).address(start);
    if in_file > in_memory {
        return Err(fault(Code::ImageHeader, "p_filesz")
            .found(format_args!("{in_file:#x}"))
            .expected(format_args!("{in_memory:#x} at most, as p_memsz says")));
    }
    let Some(end) = start.checked_add(in_memory) else {
        let found = format!("{in_memory:#x} bytes from {start:#x} on");
        return Err(fault(Code::TooLarge, "p_memsz").found(found).expected("an end below 2^64"));
    };
    let until = from.saturating_add(in_file);
    if in_file > 0 && until > source.size {
        return Err(source.truncated(format!("segment[{index}]"), from, until).address(start));
    }
    let middle = start.saturating_add(in_file);
    if start < middle {
        filled.push(Span { start, end: middle, from: Some(from) });
    }
    if middle < end {
        zero.push(Span { start: middle, end, from: None });
    }
    Ok(())
}

/// Cuts overlaps, so that of all spans over a byte the first one wins.
///
/// A sweep over all starts and ends with the set of the spans that are open: n log n, also for spans that all overlap.
fn resolve(spans: &[Span]) -> Vec<Piece> {
    let mut edges: Vec<(u64, usize)> =
        spans.iter().zip(0..).flat_map(|(span, index)| [(span.start, index), (span.end, index)]).collect();
    edges.sort_unstable();
    let mut open = BTreeSet::new();
    let mut pieces: Vec<Piece> = Vec::new();
    let mut here = 0;
    for (at, index) in edges {
        if let Some(span) = open.first().filter(|_| here < at).and_then(|&first: &usize| spans.get(first)) {
            let from = span.from.map(|from| from.saturating_add(here.saturating_sub(span.start)));
            let size = at.saturating_sub(here);
            let goes_on = |last: &&mut Piece| {
                last.end() == here && last.from.map(|before| before.saturating_add(last.size)) == from
            };
            match pieces.last_mut().filter(goes_on) {
                Some(last) => last.size = last.size.saturating_add(size),
                None => pieces.push(Piece { start: here, size, from }),
            }
        }
        here = at;
        // Each span comes twice: where it starts and where it ends.
        if !open.remove(&index) {
            open.insert(index);
        }
    }
    pieces
}

struct Source<'a> {
    fd: BorrowedFd<'a>,
    size: u64,
}

impl Source<'_> {
    /// `N` words at an offset, aligned as the structures of `object` need it.
    fn read<const N: usize>(&self, what: &'static str, at: u64) -> Result<[u64; N], Fault> {
        let end = at.saturating_add(u64_of(N.saturating_mul(8)));
        if end > self.size {
            return Err(self.truncated(what.into(), at, end));
        }
        let mut words = [0; N];
        read_at(self.fd, at, pod::bytes_of_slice_mut(&mut words)).map_err(|error| io_fault(what, error))?;
        Ok(words)
    }

    fn truncated(&self, what: String, at: u64, end: u64) -> Fault {
        Fault::new(Code::Truncated)
            .item(what)
            .offset(at)
            .found(format_args!("a file of {} bytes", self.size))
            .expected(format_args!("{end} bytes at least"))
    }
}

fn view<T: Pod>(words: &[u64]) -> Result<&T, Fault> {
    let seen = pod::from_bytes::<T>(pod::bytes_of_slice(words));
    seen.map(|(value, _)| value).map_err(|()| Fault::new(Code::ImageHeader).item("ELF header"))
}

const _: () = {
    assert!(size_of::<FileHeader64<LE>>() == 64 && size_of::<SectionHeader64<LE>>() == 64);
    assert!(size_of::<ProgramHeader64<LE>>() == 56 && SEGMENT == 56);
};
