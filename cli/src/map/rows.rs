//! Which stretches of memory get a row of the picture.

use kho::inspect::{Map, OwnerKind};

/// Cells of a row.
pub(crate) const COLUMNS: u64 = 64;
/// A picture has at most so many lines, so that it is looked at as a whole.
const LINES: usize = 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// One row of cells.
    Row { start: u64 },
    /// Many rows of scratch and nothing else.
    Scratch { start: u64, end: u64 },
    /// Nothing that anybody owns.
    Gap { start: u64, end: u64 },
}

pub(crate) struct Rows {
    /// Bytes of a row, a power of two.
    pub(crate) bytes: u64,
    pub(crate) lines: Vec<Line>,
}

/// The smallest rows with which all that is owned fits: of at least a page for each cell.
pub(crate) fn rows(map: &Map, page: u64) -> Rows {
    let smallest = COLUMNS * page.max(1).next_power_of_two();
    (smallest.trailing_zeros()..63)
        .find_map(|shift| Some(Rows { bytes: 1 << shift, lines: lines(map, shift)? }))
        .unwrap_or(Rows { bytes: 1 << 63, lines: vec![Line::Row { start: 0 }] })
}

fn lines(map: &Map, shift: u32) -> Option<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    // The first row that has no line yet.
    let mut next = 0;
    for stretch in &map.ranges {
        let end = stretch.address.saturating_add(stretch.size);
        let (first, last) = ((stretch.address >> shift).max(next), (end - 1) >> shift);
        if first > last {
            continue;
        }
        if first > next && !lines.is_empty() {
            lines.push(Line::Gap { start: next << shift, end: first << shift });
        }
        let owner = |owner: &u32| map.owners.get(*owner as usize).map(|owner| owner.kind);
        let scratch = matches!(&stretch.owners[..], [only] if owner(only) == Some(OwnerKind::Scratch));
        // Rows that have nothing else.
        let whole = if stretch.address > first << shift { first + 1 } else { first };
        let behind = if end == end_of(last, shift) { last + 1 } else { last };
        let row = |row: u64| Line::Row { start: row << shift };
        if scratch && behind.saturating_sub(whole) > 1 {
            lines.extend((first..whole).map(row));
            lines.push(Line::Scratch { start: whole << shift, end: end_of(behind - 1, shift) });
            lines.extend((behind..=last).map(row));
        } else if last - first >= LINES as u64 {
            return None;
        } else {
            lines.extend((first..=last).map(row));
        }
        next = last + 1;
        if lines.len() > LINES {
            return None;
        }
    }
    Some(lines)
}

/// The first address behind a row; the last one of all behind the last row.
fn end_of(row: u64, shift: u32) -> u64 {
    let last = (row << shift) | ((1 << shift) - 1);
    last.saturating_add(1)
}
