//! The picture.

use std::fmt::Write as _;

use kho::inspect::{Decoded, Map};

use super::groups::{Cell, Groups, Paint, Part, cells, cut, held, names, round_span, span};
use super::rows::{COLUMNS, Line, Rows, rows};
use crate::source::count;
use crate::units::size;

/// The grid, in pixels.
const MARGIN: u64 = 24;
const LEFT: u64 = 150;
const CELL: u64 = 12;
const WIDTH: u64 = CELL * COLUMNS;
const ROW: u64 = 14;
const PITCH: u64 = 17;
/// Cells of the strip of all memory, from end to end.
const STRIP: u64 = 256;
/// The legend.
const LEGEND: u64 = LEFT + WIDTH + 128;
const LEGEND_WIDTH: u64 = 330;
const TOTAL: u64 = LEGEND + LEGEND_WIDTH + 20;
/// A file of more bytes than that is drawn with fewer words.
const LIMIT: usize = 900_000;
/// So many overlaps are named.
const OVERLAPS: usize = 8;

/// Colours that can be told apart, also by those who see fewer; red is for overlaps.
pub(crate) const COLOURS: [&str; super::groups::COLOURS] = [
    "#3b78c4", "#e39b23", "#2e9d5c", "#9a63b8", "#4fb3d9", "#b5b02c", "#c2699a", "#6b7fd7", "#1f8a8a", "#a9793f",
    "#7cae7a", "#d4856a",
];

const STYLE: &str = "\
text{font:12px system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;fill:#1c1f24}
.m{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:11px}
.h{font-size:17px;font-weight:600}.b{font-weight:600}.d{fill:#68707c}.e{text-anchor:end}.c{text-anchor:middle}
.r{fill:#c4141c}.bg{fill:#fff}.f{fill:#e4e7eb}.o{fill:#8b93a1}.t{fill:#3a3f47}.s{fill:url(#scratch)}.u{fill:#9a8f80}.x{fill:#e0101a}
.l{stroke:#c3c8d0;stroke-width:1;fill:none}.n{fill:none;stroke:#c3c8d0;stroke-width:1;stroke-dasharray:1 3}
.p0{fill:#f3f0ff}.p1{stroke:#8a80b8}
@media (prefers-color-scheme:dark){text{fill:#e4e6ea}.d{fill:#98a1ae}.r{fill:#ff6b6b}.bg{fill:#14171c}.f{fill:#2b3038}
.t{fill:#d5d9e0}.u{fill:#a89c8a}.x{fill:#ff3b3b}.l,.n{stroke:#454c57}.p0{fill:#2a2740}.p1{stroke:#7d74ad}}
";

/// Draws it. The same map gives the same bytes.
pub(crate) fn draw(decoded: &Decoded, map: &Map, title: &str) -> String {
    let page = decoded.page_size.as_ref().map_or(4096, |page| page.bytes);
    let (rows, groups) = (rows(map, page), Groups::of(map));
    let draw = |words| {
        let mut picture = Picture { map, groups: &groups, words, text: String::new() };
        let end = picture.grid(&rows, 200, page);
        let height = picture.legend(decoded, 44).max(end) + 16;
        picture.strip(92);
        let body = std::mem::take(&mut picture.text);
        picture.head(decoded, title, height);
        picture.text + &body + "</svg>\n"
    };
    let picture = draw(true);
    if picture.len() <= LIMIT { picture } else { draw(false) }
}

/// Cells in a row, on paper.
#[derive(Clone, Copy)]
struct Row {
    /// Address of the first cell, bytes of each, and how many.
    start: u64,
    bytes: u64,
    number: u64,
    y: u64,
    width: u64,
    height: u64,
}

impl Row {
    /// The place of some cells, as a path.
    fn path(&self, first: u64, number: u64) -> String {
        let (x, width) = (LEFT + first * self.width, number * self.width);
        // A line between neighbours, where there is room for one.
        let width = if self.width > 4 { width - 1 } else { width };
        format!("M{x} {}h{width}v{}h-{width}z", self.y, self.height)
    }

    fn at(&self, cell: u64) -> u64 {
        self.start.saturating_add(self.bytes.saturating_mul(cell))
    }
}

struct Picture<'a> {
    map: &'a Map,
    groups: &'a Groups,
    /// Whether each cell says all that is in it.
    words: bool,
    text: String,
}

impl Picture<'_> {
    fn head(&mut self, decoded: &Decoded, title: &str, height: u64) {
        let _ = write!(
            self.text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {TOTAL} {height}\" width=\"{TOTAL}\" \
             height=\"{height}\" role=\"img\">\n<title>Physical memory of {}</title>\n<style>\n{STYLE}",
            escape(title)
        );
        for (number, colour) in COLOURS.iter().enumerate() {
            let _ = write!(self.text, ".g{number}{{fill:{colour}}}");
        }
        self.text.push_str(
            "\n</style>\n<defs><pattern id=\"scratch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\">\
             <rect class=\"p0\" width=\"6\" height=\"6\"/><path class=\"p1\" d=\"M0 6L6 0M-1 1L1 -1M5 7L7 5\"/>\
             </pattern></defs>\n<rect class=\"bg\" width=\"100%\" height=\"100%\"/>\n",
        );
        self.line(MARGIN, 34, "h", &cut(title, 90));
        let source = &decoded.source;
        let mut what = format!("{} of memory in {}", size(source.bytes), count(source.extents as u64, "range"));
        if let Some(preserved) = &decoded.preserved {
            let _ = write!(what, ", {} preserved in {}", size(preserved.bytes), count(preserved.blocks, "block"));
        }
        if let Some(page) = &decoded.page_size {
            let _ = write!(what, ", pages of {}", size(page.bytes));
        }
        self.line(MARGIN, 55, "d", &what);
    }

    /// All memory from end to end, to scale.
    fn strip(&mut self, y: u64) {
        let (start, end) = round_span(self.map);
        let bytes = (end - start).div_ceil(STRIP).max(1);
        self.line(MARGIN, y + 12, "b", "all of it");
        self.line(MARGIN, y + 27, "d", &size(end - start));
        self.row(Row { start, bytes, number: STRIP, y, width: WIDTH / STRIP, height: 30 });
        for quarter in 0..=4 {
            let x = LEFT + WIDTH * quarter / 4;
            let at = start.saturating_add((end - start) / 4 * quarter);
            self.tick(x, y + 31);
            let class = ["m d", "m d c", "m d c", "m d c", "m d e"][quarter as usize];
            self.line(x, y + 49, class, &format!("{at:#x}"));
        }
    }

    fn tick(&mut self, x: u64, y: u64) {
        let _ = writeln!(self.text, "<path class=\"l\" d=\"M{x} {y}v5\"/>");
    }

    /// All rows in which somebody owns something; the height at which they end.
    fn grid(&mut self, rows: &Rows, top: u64, page: u64) -> u64 {
        let bytes = rows.bytes / COLUMNS;
        let scale = if bytes == page { "1 page".into() } else { count(bytes / page.max(1), "page") };
        self.line(MARGIN, top - 34, "b", "what is owned");
        let scale = format!("one row {}, one cell {} ({scale})", size(rows.bytes), size(bytes));
        self.line(LEFT, top - 34, "d", &scale);
        for eighth in 0..8 {
            let x = LEFT + WIDTH * eighth / 8;
            self.tick(x, top - 8);
            self.line(x + 3, top - 7, "m d", &format!("+{:#x}", rows.bytes / 8 * eighth));
        }
        let mut y = top;
        for line in &rows.lines {
            match *line {
                Line::Gap { start, end } => self.gap(start, end, y),
                Line::Scratch { start, end } => {
                    self.edges(start, end, y);
                    let row = Row { start, bytes: end - start, number: 1, y, width: WIDTH, height: ROW };
                    self.row(row);
                    let text = format!("{} of scratch, {} rows", size(end - start), (end - start) / rows.bytes);
                    self.label(y, &text);
                }
                Line::Row { start } => {
                    self.edges(start, start.saturating_add(rows.bytes), y);
                    self.row(Row { start, bytes, number: COLUMNS, y, width: CELL, height: ROW });
                }
            }
            y += PITCH;
        }
        if rows.lines.is_empty() {
            self.line(LEFT, y + 14, "d", "nothing");
            y += PITCH;
        }
        let more = self.map.range_count.saturating_sub(self.map.ranges.len() as u64);
        if more > 0 {
            self.line(LEFT, y + 16, "r b", &format!("and {} that only were counted", count(more, "range")));
            y += PITCH;
        }
        y
    }

    /// Rows that nobody owns anything of.
    fn gap(&mut self, start: u64, end: u64, y: u64) {
        let here = held(self.map, start, end);
        let text = match (here, end - start - here) {
            (0, all) => format!("{} that are not in the file", size(all)),
            (all, 0) => format!("{} free", size(all)),
            (free, rest) => format!("{} free, {} not in the file", size(free), size(rest)),
        };
        let _ = writeln!(self.text, "<path class=\"n\" d=\"M{LEFT} {}h{WIDTH}\"/>", y + ROW / 2);
        self.label(y, &text);
    }

    /// Words in the middle of a row.
    fn label(&mut self, y: u64, text: &str) {
        let (width, middle) = (text.chars().count() as u64 * 7 + 16, LEFT + WIDTH / 2);
        let x = middle - width / 2;
        let _ = writeln!(self.text, "<rect class=\"bg\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{ROW}\"/>");
        self.line(middle, y + 11, "d c", text);
    }

    fn edges(&mut self, start: u64, end: u64, y: u64) {
        self.line(LEFT - 8, y + 11, "m d e", &format!("{start:#x}"));
        self.line(LEFT + WIDTH + 8, y + 11, "m d", &format!("{end:#x}"));
    }

    fn row(&mut self, row: Row) {
        // What is in the file, on a line where nothing is.
        let _ = writeln!(
            self.text,
            "<path class=\"n\" d=\"M{LEFT} {}h{}\"/>",
            row.y + row.height / 2,
            row.number * row.width
        );
        let is_held = |cell: u64| cell < row.number && held(self.map, row.at(cell), row.at(cell + 1)) > 0;
        let mut path = String::new();
        let mut cell = 0;
        while cell < row.number {
            let run = (cell..).take_while(|&cell| is_held(cell)).count() as u64;
            if run > 0 {
                path.push_str(&row.path(cell, run));
            }
            cell += run + 1;
        }
        if !path.is_empty() {
            let _ = writeln!(self.text, "<path class=\"f\" d=\"{path}\"/>");
        }
        let cells = cells(self.map, self.groups, row.start, row.bytes, row.number as usize);
        let mut next = 0;
        while let Some(cell) = cells.get(next) {
            // Cells that are all of one stretch are one piece.
            let whole = |cell: &Cell| cell.count == 1 && cell.bytes() == row.bytes;
            let same = |other: &&Cell| whole(cell) && whole(other) && cell.first == other.first;
            let run = cells[next..].iter().take_while(same).count().max(1);
            if cell.count > 0 {
                self.piece(&row, next as u64, run as u64, cell);
            }
            next += run;
        }
    }

    /// Cells of the same content: all of one stretch, or one cell as a stack of what is in it.
    fn piece(&mut self, row: &Row, first: u64, run: u64, cell: &Cell) {
        self.text.push_str("<g><title>");
        self.tip(row, first, cell);
        self.text.push_str("</title>");
        let all = row.bytes.max(1) as f64;
        let mut bottom = row.height as f64;
        // An overlap is never lost among others.
        let (red, mut rest): (Vec<Part>, Vec<Part>) = cell.parts.iter().partition(|part| part.0 == Paint::Overlap);
        let most = if self.words { 3 } else { 2 };
        if rest.len() > most {
            let others: u64 = rest.drain(most - 1..).map(|part| part.1).sum();
            rest.push((Paint::Others, others));
        }
        for (paint, bytes) in red.iter().chain(&rest) {
            let least = 2.5_f64.min(bottom);
            let height = (*bytes as f64 / all * row.height as f64).clamp(least, bottom);
            if height <= 0.0 {
                break;
            }
            bottom -= height;
            let class = class(*paint);
            if height >= row.height as f64 {
                let _ = write!(self.text, "<path class=\"{class}\" d=\"{}\"/>", row.path(first, run));
            } else {
                let x = LEFT + first * row.width;
                let width = if row.width > 4 { row.width - 1 } else { row.width };
                let y = row.y as f64 + bottom;
                let _ = write!(self.text, "<path class=\"{class}\" d=\"M{x} {y:.1}h{width}v{height:.1}h-{width}z\"/>");
            }
        }
        self.text.push_str("</g>\n");
    }

    /// What a piece is, in words.
    fn tip(&mut self, row: &Row, first: u64, cell: &Cell) {
        let most = 60;
        let inside = self.map.ranges.iter().skip(cell.first).take(cell.count);
        let (start, end) = (row.at(first), row.at(first + 1));
        if cell.count == 1 {
            let stretch = &self.map.ranges[cell.first];
            let end = stretch.address.saturating_add(stretch.size);
            let names = match stretch.owners.len() {
                several @ 2.. if !self.words => format!("{several} owners"),
                _ => escape(&names(self.map, stretch, if self.words { most } else { 16 })),
            };
            let _ = write!(self.text, "{:#x}..{end:#x}, {}: {names}", stretch.address, size(stretch.size));
            return;
        }
        let _ = write!(self.text, "{start:#x}..{end:#x}, {} of {}", size(cell.bytes()), size(row.bytes));
        if !self.words {
            return;
        }
        for stretch in inside.take(3) {
            let names = escape(&names(self.map, stretch, most));
            let _ = write!(self.text, "\n{:#x} {}: {names}", stretch.address, size(stretch.size));
        }
        if cell.count > 3 {
            let _ = write!(self.text, "\nand {} more", cell.count - 3);
        }
    }

    /// What the colours mean, and what is wrong; the height at which it ends.
    fn legend(&mut self, decoded: &Decoded, top: u64) -> u64 {
        let mut y = top;
        let mut entry = |picture: &mut Self, class: &str, label: &str, bytes: Option<u64>| {
            let _ = writeln!(
                picture.text,
                "<rect class=\"{class}\" x=\"{LEGEND}\" y=\"{}\" width=\"14\" height=\"12\" rx=\"2\"/>",
                y - 10
            );
            let _ = writeln!(
                picture.text,
                "<g><title>{}</title><text x=\"{}\" y=\"{y}\">{}</text></g>",
                escape(label),
                LEGEND + 22,
                escape(&cut(label, 34))
            );
            if let Some(bytes) = bytes {
                picture.line(LEGEND + LEGEND_WIDTH, y, "m e", &size(bytes));
            }
            y += 20;
        };
        for group in &self.groups.list {
            entry(self, &class(group.paint), &group.label, Some(group.bytes));
        }
        if self.map.overlapping > 0 {
            entry(self, "x", "more than one owner", Some(self.map.overlapping));
        }
        let owned = self.map.extents.iter().fold(0_u64, |sum, extent| sum.saturating_add(extent.size));
        let (start, end) = span(self.map);
        let used: u64 = self
            .map
            .ranges
            .iter()
            .map(|range| held(self.map, range.address, range.address.saturating_add(range.size)))
            .sum();
        entry(self, "f", "free", Some(owned.saturating_sub(used)));
        entry(self, "n", "not in the file", Some((end - start).saturating_sub(owned)));
        y += 8;
        let wrong = if decoded.errors > 0 { "r b" } else { "b" };
        let verdict = match (decoded.errors, decoded.warnings) {
            (0, 0) => "fine".into(),
            (0, warnings) => count(warnings, "warning"),
            (errors, 0) => count(errors, "error"),
            (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
        };
        self.line(LEGEND, y, wrong, &verdict);
        let overlaps: Vec<_> = self.map.ranges.iter().filter(|range| range.owners.len() > 1).collect();
        for stretch in overlaps.iter().take(OVERLAPS) {
            y += 24;
            let end = stretch.address.saturating_add(stretch.size);
            self.line(LEGEND, y, "m r", &format!("{:#x}..{end:#x}, {}", stretch.address, size(stretch.size)));
            for owner in stretch.owners.iter().filter_map(|&owner| self.map.owners.get(owner as usize)) {
                y += 16;
                self.line(LEGEND + 12, y, "", &cut(&super::groups::name(owner), 48));
            }
        }
        if overlaps.len() > OVERLAPS {
            y += 24;
            self.line(LEGEND, y, "r", &format!("and {} more overlaps", overlaps.len() - OVERLAPS));
        }
        y + 8
    }

    fn line(&mut self, x: u64, y: u64, class: &str, text: &str) {
        let _ = writeln!(self.text, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>", escape(text));
    }
}

fn class(paint: Paint) -> String {
    match paint {
        Paint::Group(colour) => format!("g{colour}"),
        Paint::Others => "o".into(),
        Paint::Tree => "t".into(),
        Paint::Scratch => "s".into(),
        Paint::Unowned => "u".into(),
        Paint::Overlap => "x".into(),
    }
}

/// Text for XML. What XML cannot have at all is replaced; the names in a handover have been cleaned before.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(c),
        }
    }
    escaped
}
