//! `/dev/mem`: the memory of this machine while it runs. The device has no size and not only memory, so `/proc/iomem`
//! says what of it is RAM.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use super::{Piece, io_fault};
use crate::report::Fault;

/// Its device numbers, on every Linux.
const NUMBERS: (u32, u32) = (1, 1);
const RAM: &str = "System RAM";

/// Whether the file is that device.
pub(super) fn is_it(file: &File) -> Result<bool, Fault> {
    let stat = file.metadata().map_err(|error| io_fault("fstat", error))?;
    let numbers = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
    Ok(stat.file_type().is_char_device() && numbers == NUMBERS)
}

/// Lines of `START-END : System RAM`: ascending, and disjoint. Memory of devices stands further to the right, below the
/// bus that it is on. Of a page that is RAM only in part, Linux uses nothing and shows nothing.
pub(super) fn pieces(iomem: &str, page: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for line in iomem.lines() {
        let Some((range, name)) = line.trim().split_once(" : ") else { continue };
        let Some((start, last)) = range.split_once('-').filter(|_| name.starts_with(RAM)) else { continue };
        let (Ok(start), Ok(last)) = (u64::from_str_radix(start, 16), u64::from_str_radix(last, 16)) else { continue };
        let end = last.saturating_add(1) & !page.wrapping_sub(1);
        let Some(start) = start.checked_next_multiple_of(page) else { continue };
        let size = end.saturating_sub(start);
        if size > 0 && pieces.last().is_none_or(|piece| start >= piece.end()) {
            pieces.push(Piece { start, size, from: Some(start) });
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_of_iomem() {
        let text = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n  00001000-00001fff : System RAM\n\
                    0009fc00-000fffff : Reserved\n00100000-0bfdffff : System RAM\n  01000000-01503fff : Kernel code\n\
                    fee00000-fee00fff : Local APIC\nx-y : System RAM\n00000002-00000001 : System RAM\n";
        let piece = |start, end: u64| Piece { start, size: end - start, from: Some(start) };
        assert_eq!(pieces(text, 0x1000), [piece(0x1000, 0x9_f000), piece(0x10_0000, 0xbfe_0000)]);
        assert_eq!(pieces(text, 0x1_0000), [piece(0x1_0000, 0x9_0000), piece(0x10_0000, 0xbfe_0000)]);
        assert_eq!(pieces("00000000-00000000 : System RAM\n00000000-00000000 : System RAM\n", 0x1000), []);
    }
}
