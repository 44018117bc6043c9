//! Owners that are drawn as one: a node, a session, a named range.

use std::collections::BTreeMap;

use kho::inspect::{Map, MapOwner, OwnerKind, Stretch};

use crate::source::clean;

/// So many groups have a colour of their own; the rest share one.
pub(crate) const COLOURS: usize = 12;

/// What something is painted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Paint {
    /// A group, by its colour.
    Group(usize),
    /// The groups without one.
    Others,
    Tree,
    Scratch,
    Unowned,
    Overlap,
}

pub(crate) struct Group {
    pub(crate) label: String,
    pub(crate) paint: Paint,
    pub(crate) bytes: u64,
}

/// All groups, and who is in which.
pub(crate) struct Groups {
    /// As they come in the handover.
    pub(crate) list: Vec<Group>,
    /// By the place of the owner.
    of: Vec<Paint>,
}

impl Groups {
    pub(crate) fn of(map: &Map) -> Self {
        let mut list: Vec<Group> = Vec::new();
        let mut places = BTreeMap::new();
        let mut member = Vec::new();
        for owner in &map.owners {
            let label = group(owner);
            let place = *places.entry((owner.kind, label.clone())).or_insert(list.len());
            if place == list.len() {
                let paint = match owner.kind {
                    OwnerKind::Tree => Paint::Tree,
                    OwnerKind::Scratch => Paint::Scratch,
                    OwnerKind::Unowned => Paint::Unowned,
                    _ => Paint::Others,
                };
                list.push(Group { label, paint, bytes: 0 });
            }
            // Claims of one byte count as often as they come.
            list[place].bytes = list[place].bytes.saturating_add(owner.bytes);
            member.push(place);
        }
        // The largest have colours, in the order in which they come.
        let mut largest: Vec<usize> = (0..list.len()).filter(|&place| list[place].paint == Paint::Others).collect();
        largest.sort_by_key(|&place| std::cmp::Reverse(list[place].bytes));
        largest.truncate(COLOURS);
        largest.sort_unstable();
        for (colour, place) in largest.into_iter().enumerate() {
            list[place].paint = Paint::Group(colour);
        }
        let of = member.iter().map(|&place| list[place].paint).collect();
        let others: Vec<u64> =
            list.iter().filter(|group| group.paint == Paint::Others).map(|group| group.bytes).collect();
        list.retain(|group| group.paint != Paint::Others);
        if !others.is_empty() {
            let label = format!("{} others", others.len());
            let place = list.iter().position(|group| !matches!(group.paint, Paint::Group(_))).unwrap_or(list.len());
            list.insert(
                place,
                Group { label, paint: Paint::Others, bytes: others.into_iter().fold(0, u64::saturating_add) },
            );
        }
        Groups { list, of }
    }

    pub(crate) fn paint(&self, stretch: &Stretch) -> Paint {
        match stretch.owners[..] {
            [owner] => self.of.get(owner as usize).copied().unwrap_or(Paint::Others),
            _ => Paint::Overlap,
        }
    }
}

/// What an owner is drawn as.
fn group(owner: &MapOwner) -> String {
    let node = owner.node.strip_prefix('/').unwrap_or(&owner.node);
    let part = owner.part.as_deref().unwrap_or_default();
    // A session's name may have anything in it.
    let session = part.strip_prefix("sessions[").map(|rest| match rest.rfind("].files[") {
        Some(end) => &rest[..end],
        None => rest.strip_suffix(']').unwrap_or(rest),
    });
    match (owner.kind, session) {
        (OwnerKind::Node, Some(session)) => clean(&format!("{node} session {session}")),
        (OwnerKind::Node, None) if part.is_empty() || part == "sessions" || part == "flbs" || part == "mem" => {
            clean(node)
        }
        (OwnerKind::Node, None) => clean(&format!("{node} {part}")),
        _ => name(owner),
    }
}

/// An owner, all of it.
pub(crate) fn name(owner: &MapOwner) -> String {
    match owner.kind {
        OwnerKind::Root => "root FDT".into(),
        OwnerKind::Tree => "radix tree".into(),
        OwnerKind::Scratch => "scratch".into(),
        OwnerKind::Unowned => "preserved, nobody's".into(),
        _ => {
            let node = owner.node.strip_prefix('/').unwrap_or(&owner.node);
            clean(owner.part.as_ref().map_or(node.into(), |part| format!("{node} {part}")).as_str())
        }
    }
}

/// At most so many characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The names of all owners of a stretch.
pub(crate) fn names(map: &Map, stretch: &Stretch, most: usize) -> String {
    let owners = stretch.owners.iter().filter_map(|&owner| map.owners.get(owner as usize));
    owners.map(|owner| cut(&name(owner), most)).collect::<Vec<_>>().join(" and ")
}

/// Bytes of an owner.
pub(crate) type Part = (Paint, u64);

/// A cell of a picture: what it is made of, bytes of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) parts: Vec<Part>,
    /// The place of the first stretch in it, and of how many there are.
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Cell {
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.1).sum()
    }
}

/// So many cells of that size, from `start` on.
pub(crate) fn cells(map: &Map, groups: &Groups, start: u64, size: u64, number: usize) -> Vec<Cell> {
    let mut cells = vec![Cell::default(); number];
    let end = start.saturating_add(size.saturating_mul(number as u64));
    let from = map.ranges.partition_point(|stretch| stretch.address.saturating_add(stretch.size) <= start);
    let inside = map.ranges.iter().enumerate().skip(from).take_while(|(_, stretch)| stretch.address < end);
    for (place, stretch) in inside {
        let paint = groups.paint(stretch);
        let (first, last) = (stretch.address.max(start), stretch.address.saturating_add(stretch.size).min(end));
        let mut at = first;
        while at < last {
            let index = (at - start) / size;
            let next = start.saturating_add((index + 1).saturating_mul(size)).min(last);
            let cell = &mut cells[index as usize];
            match cell.parts.iter_mut().find(|part| part.0 == paint) {
                Some(part) => part.1 += next - at,
                None => cell.parts.push((paint, next - at)),
            }
            if cell.count == 0 {
                cell.first = place;
            }
            cell.count += 1;
            at = next;
        }
    }
    for cell in &mut cells {
        cell.parts.sort_by_key(|part| (std::cmp::Reverse(part.1), part.0));
    }
    cells
}

/// Bytes of `[start, end)` that are in the file.
pub(crate) fn held(map: &Map, start: u64, end: u64) -> u64 {
    let from = map.extents.partition_point(|extent| extent.address.saturating_add(extent.size) <= start);
    let inside = map.extents[from..].iter().take_while(|extent| extent.address < end);
    inside.map(|extent| extent.address.saturating_add(extent.size).min(end) - extent.address.max(start)).sum()
}

/// As [`span`], from and to a round address.
pub(crate) fn round_span(map: &Map) -> (u64, u64) {
    let (start, end) = span(map);
    // Scratch may be said to reach to the end of the address space.
    let grain = (end - start).max(16).checked_next_power_of_two().map_or(1 << 60, |span| span / 16);
    (start & !(grain - 1), end.checked_next_multiple_of(grain).unwrap_or(end))
}

/// From the first byte that is there to the last.
pub(crate) fn span(map: &Map) -> (u64, u64) {
    let of_extents = map.extents.iter().map(|range| (range.address, range.address.saturating_add(range.size)));
    let of_ranges = map.ranges.iter().map(|range| (range.address, range.address.saturating_add(range.size)));
    of_extents
        .chain(of_ranges)
        .fold(None, |span: Option<(u64, u64)>, (start, end)| {
            Some(span.map_or((start, end), |(first, last)| (first.min(start), last.max(end))))
        })
        .unwrap_or((0, 1))
}
