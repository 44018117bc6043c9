//! The summary in a terminal: one strip of memory, and who owns how much.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, RgbColor, Style};
use kho::inspect::Map;

use super::groups::{Cell, Groups, Paint, cells, cut, held, names, round_span};
use super::svg::COLOURS;
use crate::source::{DIM, count, paint};
use crate::units::size;

/// So many overlaps are listed.
const OVERLAPS: usize = 8;
/// Columns of a label.
const LABEL: usize = 34;

/// The strip and the bars, in so many columns.
pub(crate) fn text(map: &Map, width: usize) -> String {
    let groups = Groups::of(map);
    let mut text = String::new();
    let (start, end) = round_span(map);
    let width = width.clamp(40, 160);
    let bytes = (end - start).div_ceil(width as u64).max(1);
    text.push('\n');
    for (index, cell) in cells(map, &groups, start, bytes, width).iter().enumerate() {
        let at = start.saturating_add(bytes.saturating_mul(index as u64));
        text.push_str(&glyph(cell, bytes, held(map, at, at.saturating_add(bytes)) > 0));
    }
    let (first, last) = (format!("{start:#x}"), format!("{end:#x}"));
    let each = format!("one character {}", size(bytes));
    let room = width.saturating_sub(first.len() + last.len());
    let _ = writeln!(text, "\n{}", paint(DIM, format_args!("{first}{each:^room$}{last}")));

    text.push('\n');
    let most = groups.list.iter().map(|group| group.bytes).max().unwrap_or(0).max(1);
    let room = width.saturating_sub(LABEL + 16).max(8) as u64;
    let mut line = |key: String, label: &str, bytes: u64, style: Style| {
        // Eighths of a character.
        let eighths =
            (u128::from(bytes) * u128::from(room) * 8 / u128::from(most)).clamp(1, u128::from(room) * 8) as usize;
        let mut bar = "█".repeat(eighths / 8);
        bar.extend(" ▏▎▍▌▋▊▉".chars().nth(eighths % 8).filter(|c| *c != ' '));
        let _ = writeln!(text, "{key} {:<LABEL$} {:>10}  {}", cut(label, LABEL), size(bytes), paint(style, bar));
    };
    for group in &groups.list {
        let style = colour(group.paint);
        line(paint(style.invert(), key(group.paint)), &group.label, group.bytes, style);
    }
    if map.overlapping > 0 {
        let style = colour(Paint::Overlap);
        line(paint(style.invert(), key(Paint::Overlap)), "more than one owner", map.overlapping, style);
    }
    let overlaps = map.ranges.iter().filter(|range| range.owners.len() > 1);
    let (all, red) = (overlaps.clone().count(), colour(Paint::Overlap));
    for stretch in overlaps.take(OVERLAPS) {
        let end = stretch.address.saturating_add(stretch.size);
        let range = format!("{:#x}..{end:#x}", stretch.address);
        let _ = writeln!(text, "  {} {}: {}", paint(red, range), size(stretch.size), names(map, stretch, 60));
    }
    if all > OVERLAPS {
        let _ = writeln!(text, "  and {} more: --format json has all", count((all - OVERLAPS) as u64, "overlap"));
    }
    text.push('\n');
    text
}

/// One character for a piece of memory: a capital where at least half of it is owned, by whom most of it is; red where
/// two own a byte.
fn glyph(cell: &Cell, bytes: u64, held: bool) -> String {
    let red = cell.parts.iter().any(|part| part.0 == Paint::Overlap);
    let Some(&(most, _)) = cell.parts.first() else { return paint(DIM, if held { '·' } else { ' ' }) };
    let shown = if red { Paint::Overlap } else { most };
    let style = colour(shown);
    if cell.bytes() >= bytes.div_ceil(2) {
        paint(style.invert(), key(shown))
    } else {
        paint(style, key(shown).to_ascii_lowercase())
    }
}

/// The character of an owner; with no colour there is only that.
fn key(paint: Paint) -> char {
    match paint {
        Paint::Group(colour) => char::from(b'A' + colour as u8),
        Paint::Others => '*',
        Paint::Tree => '%',
        Paint::Scratch => '/',
        Paint::Unowned => '?',
        Paint::Overlap => '!',
    }
}

fn colour(paint: Paint) -> Style {
    match paint {
        Paint::Group(colour) => {
            let number = u32::from_str_radix(&COLOURS[colour][1..], 16).unwrap_or(0);
            let [_, red, green, blue] = number.to_be_bytes();
            Style::new().fg_color(Some(Color::Rgb(RgbColor(red, green, blue))))
        }
        Paint::Others | Paint::Unowned => AnsiColor::BrightBlack.on_default(),
        Paint::Tree => Style::new().bold(),
        Paint::Scratch => AnsiColor::Magenta.on_default(),
        Paint::Overlap => AnsiColor::Red.on_default().bold(),
    }
}
