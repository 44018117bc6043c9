//! Typed state for people: values by the descriptions that came with them, and these descriptions.

use std::collections::BTreeMap;

use kho::abi::state::{AREA, FOLIO, MEMFD};
use kho::inspect::StateImage;
use kho::state::{Description, DescriptionBody, FieldDescription, Shown, ShownState};

use crate::source::{BOLD, DIM, clean, count, paint};
use crate::units::size;

/// So many lines are printed of the values of one node, and of its descriptions.
const LINES: usize = 200;
/// So many elements of one list.
const ELEMENTS: usize = 12;
/// A list of values that is shorter is on one line, in characters.
const SHORT: usize = 72;
/// So much of a text is shown, in characters.
const TEXT: usize = 200;

/// The values of a node, a line each, and what they are made of.
pub(crate) fn shown(states: &StateImage, line: &mut dyn FnMut(String)) {
    let counts = [(states.instances.len(), "instance"), (states.objects.len(), "shared object")];
    let counts = counts.map(|(number, what)| count(number as u64, what)).join(", ");
    let bulk = match states.bulk.bytes {
        0 => "no bulk data".into(),
        bytes if states.bulk.checksum => format!("bulk data {} with a checksum", size(bytes)),
        bytes => format!("bulk data {}", size(bytes)),
    };
    line(format!("{counts}; {}, {bulk}", size(states.meta)));
    let titles: BTreeMap<u32, String> = states.instances.iter().rev().map(|one| (one.object, one.title())).collect();
    let mut tree = Tree { titles: &titles, left: LINES, missing: 0, line };
    for one in &states.instances {
        let title = paint(BOLD, format_args!("{}#{}", clean(&one.name), one.number));
        let about = format!("version {} (id {})", one.version, one.id);
        match &one.value {
            Some(Shown::State(state)) => {
                let variant = state.variant.as_ref().map(|name| format!(": {}", clean(name))).unwrap_or_default();
                tree.line(0, format_args!("{title}  {about}{variant}"));
                tree.fields(1, state);
            }
            _ if titles.get(&one.object).is_some_and(|first| *first != one.title()) => {
                let same = titles.get(&one.object).map(|first| clean(first)).unwrap_or_default();
                tree.line(0, format_args!("{title}  {about}, the same object as {same}"));
            }
            _ => tree.line(0, format_args!("{title}  {about}: cannot be read")),
        }
    }
    for one in &states.objects {
        match &one.value {
            Some(value) => tree.value(0, &format!("object {}", one.number), value),
            None => tree.line(0, format_args!("object {}  {}: cannot be read", one.number, clean(&one.ty))),
        }
    }
    tree.end();
    if !states.complete {
        line(paint(DIM, "... not all values are kept: there are too many"));
    }
    if !states.descriptions.is_empty() {
        line("made of".into());
    }
    let mut left = LINES;
    let mut missing = 0_u64;
    descriptions(states.descriptions.iter().map(|of| (&of.description, Some(of.written))), &mut |text| match left
        .checked_sub(1)
    {
        Some(rest) => {
            left = rest;
            line(format!("    {text}"));
        }
        None => missing += 1,
    });
    if missing > 0 {
        line(paint(DIM, format_args!("    ... and {missing} more lines: --format json has all")));
    }
}

struct Tree<'a> {
    titles: &'a BTreeMap<u32, String>,
    left: usize,
    missing: u64,
    line: &'a mut dyn FnMut(String),
}

impl Tree<'_> {
    fn line(&mut self, depth: usize, text: std::fmt::Arguments<'_>) {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                (self.line)(format!("{:1$}{text}", "", depth * 4));
            }
            None => self.missing += 1,
        }
    }

    fn end(self) {
        if self.missing > 0 {
            (self.line)(paint(DIM, "... and more: --format json has all"));
        }
    }

    fn fields(&mut self, depth: usize, state: &ShownState) {
        let short = state.fields.iter().map(|(name, _)| name.chars().count()).filter(|width| *width <= 24);
        let wide = short.max().unwrap_or(0);
        for (name, value) in &state.fields {
            self.value(depth, &format!("{:<wide$}", clean(name)), value);
        }
    }

    fn value(&mut self, depth: usize, label: &str, value: &Shown) {
        if self.left == 0 {
            self.missing += 1;
            return;
        }
        if let Some(text) = self.on_one_line(value) {
            return self.line(depth, format_args!("{label}  {text}"));
        }
        match value {
            Shown::State(state) => {
                let variant = state.variant.as_ref().map(|name| format!(": {}", clean(name))).unwrap_or_default();
                let (name, version) = (clean(&state.name), state.version);
                self.line(depth, format_args!("{label}  {name} version {version}{variant}"));
                self.fields(depth + 1, state);
            }
            Shown::List(list, len) | Shown::Set(list, len) => {
                self.line(depth, format_args!("{label}  {}", count(*len, "element")));
                for (index, value) in list.iter().take(ELEMENTS).enumerate() {
                    self.value(depth + 1, &format!("[{index}]"), value);
                }
                self.more(depth + 1, *len);
            }
            Shown::Map(list, len) => {
                let entries = if *len == 1 { "entry" } else { "entries" };
                self.line(depth, format_args!("{label}  {len} {entries}"));
                for (key, value) in list.iter().take(ELEMENTS) {
                    match self.on_one_line(key) {
                        Some(key) => self.value(depth + 1, &format!("[{key}]"), value),
                        None => {
                            self.value(depth + 1, "key", key);
                            self.value(depth + 1, "value", value);
                        }
                    }
                }
                self.more(depth + 1, *len);
            }
            _ => {}
        }
    }

    fn more(&mut self, depth: usize, len: u64) {
        let more = len.saturating_sub(ELEMENTS as u64);
        if more > 0 {
            self.line(depth, format_args!("{}", paint(DIM, format_args!("... and {more} more"))));
        }
    }

    /// A value that needs no more than its line.
    fn on_one_line(&self, value: &Shown) -> Option<String> {
        Some(match value {
            Shown::Number(number) if *number >= 0x1000 => format!("{number} ({number:#x})"),
            Shown::Number(number) => number.to_string(),
            Shown::Negative(number) => number.to_string(),
            Shown::Big(number) => number.to_string(),
            Shown::BigNegative(number) => number.to_string(),
            Shown::Bool(value) => value.to_string(),
            Shown::Float(number) => format!("{:?}", number.0),
            Shown::Text(text) => {
                let more = if text.chars().nth(TEXT).is_some() { "..." } else { "" };
                let some: String = text.chars().take(TEXT).collect();
                format!("\"{}\"{more}", clean(&some))
            }
            Shown::Bytes(bytes, len) => {
                let more = if *len > 16 { " ..." } else { "" };
                format!("{}{}{more}", count(*len, "byte"), hex(bytes))
            }
            Shown::None => "none".into(),
            Shown::Object(number) => self.object(*number),
            Shown::Link(Some(number)) => format!("weak {}", self.object(*number)),
            Shown::Link(None) => "weak -> nothing".into(),
            Shown::Bulk { bytes: 0, .. } => "no bulk data".into(),
            Shown::Bulk { bytes, offset, first } => {
                let more = if *bytes > first.len() as u64 { " ..." } else { "" };
                format!("{} of bulk data at {offset:#x}:{}{more}", size(*bytes), hex(first))
            }
            Shown::Resource(one) => match one.kind.get() {
                FOLIO => format!("pages of order {} at {:#x}", one.b, one.a),
                // Its second word: pages, flags, order.
                AREA => format!("{}, listed at {:#x}", count(one.b.get() & 0xffff_ffff, "page"), one.a),
                MEMFD => format!("memfd, token {:#x}", one.a),
                _ => format!("descriptor, token {:#x}", one.a),
            },
            Shown::List(list, len) | Shown::Set(list, len) => {
                if list.len() as u64 != *len || list.len() > SHORT {
                    return None;
                }
                let is_simple = |value: &Shown| {
                    !matches!(value, Shown::List(..) | Shown::Set(..) | Shown::Map(..) | Shown::State(_))
                };
                let texts: Option<Vec<String>> =
                    list.iter().map(|value| is_simple(value).then(|| self.on_one_line(value)).flatten()).collect();
                let text = format!("[{}]", texts?.join(", "));
                return (text.chars().count() <= SHORT).then_some(text);
            }
            Shown::Map(_, 0) => "[]".into(),
            Shown::State(state) if state.fields.is_empty() => match &state.variant {
                Some(variant) => format!("{} version {}: {}", clean(&state.name), state.version, clean(variant)),
                None => return None,
            },
            _ => return None,
        })
    }

    fn object(&self, number: u32) -> String {
        match self.titles.get(&number) {
            Some(title) => format!("-> {}", clean(title)),
            None => format!("-> object {number}"),
        }
    }
}

/// The first of them, each behind a space.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(16).map(|byte| format!(" {byte:02x}")).collect()
}

/// What states are made of: each with its fields, a line each.
pub(crate) fn descriptions<'a>(
    all: impl Iterator<Item = (&'a Description, Option<u32>)> + Clone,
    line: &mut dyn FnMut(String),
) {
    let names: BTreeMap<u32, &str> = all.clone().map(|(of, _)| (of.id, of.name.as_str())).collect();
    for (of, written) in all {
        let mut about = format!("id {}, version {}", of.id, written.unwrap_or(of.version));
        if written.is_some_and(|written| written != of.version) {
            about = format!("{about} of {}", of.version);
        }
        if of.min_version < of.version {
            about = format!("{about}, from {}", of.min_version);
        }
        if of.ignorable {
            about.push_str(", ignorable");
        }
        match &of.body {
            DescriptionBody::Struct { fields: all, subsections } => {
                line(format!("{}  {about}", paint(BOLD, clean(&of.name))));
                let parts = subsections.iter().map(|part| part.name.chars().count());
                let wide = all.iter().map(|field| field.name.chars().count()).chain(parts).max().unwrap_or(0).min(24);
                fields(all, wide, &names, "    ", line);
                for part in subsections {
                    let of = names.get(&part.id).map_or_else(|| format!("state {}", part.id), |name| clean(name));
                    let needed = if part.required { "" } else { ", ignorable" };
                    line(format!("    {:<wide$}  {of}, a subsection{needed}", clean(&part.name)));
                }
            }
            DescriptionBody::Enum { variants } => {
                line(format!("{}  {about}, one of", paint(BOLD, clean(&of.name))));
                for variant in variants {
                    let since = if variant.since > 1 { format!(", since {}", variant.since) } else { String::new() };
                    line(format!("    {} ({}){since}", clean(&variant.name), variant.tag));
                    let wide = variant.fields.iter().map(|field| field.name.chars().count()).max().unwrap_or(0).min(24);
                    fields(&variant.fields, wide, &names, "        ", line);
                }
            }
        }
    }
}

fn fields(
    all: &[FieldDescription],
    wide: usize,
    names: &BTreeMap<u32, &str>,
    indent: &str,
    line: &mut dyn FnMut(String),
) {
    let known = |id: u32| names.get(&id).copied();
    for field in all {
        let mut text = format!("{indent}{:<wide$}  {}", clean(&field.name), clean(&field.ty.named(&known).to_string()));
        if field.since > 1 {
            text = format!("{text}, since {}", field.since);
        }
        if field.until > 0 {
            text = format!("{text}, until {}", field.until);
        }
        if field.when {
            text.push_str(", under a condition");
        }
        line(text);
    }
}
