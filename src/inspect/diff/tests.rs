//! Bytes at the edges of pieces, holes, and memory that one of the two lacks.

use alloc::sync::Arc;
use std::io::Write as _;

use super::super::Options;
use super::*;
use crate::compat::{Compat, CompatList};
use crate::handover::{Blob, Outgoing, Preserve, Scope};
use crate::inspect::{Content, SessionFile};
use crate::luo::{NewContent, NewFile, NewSession, Sessions};
use crate::mem::{Frames as _, Geometry, Memory as _, Order, PageRange, Pfn, Ram};
use crate::memfd::{Contents, NewFolio};
use crate::num::usize_of;
use crate::report::Fault;

const BASE: u64 = 1 << 30;
/// A file of which the first is read in a thread.
const LARGE: usize = 9 << 20;

/// The memory of a machine that hands over one file, in a session of that name.
fn memory(files: Vec<(u64, Contents<'_>)>) -> Vec<u8> {
    let pages = 4096;
    let window = PageRange::new(Pfn::new(BASE >> 12).unwrap(), pages).unwrap();
    let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, window));
    let files = files.into_iter().map(|(token, content)| NewFile { token, content: NewContent::Memfd(content) });
    let sessions = vec![NewSession { name: b"vm".into(), files: files.collect() }];
    outgoing.preserve("LUO", &Sessions { number: 1, sessions, flbs: Vec::new() }).unwrap();
    let (ram, _) = outgoing.finish().unwrap().into_parts();
    let mut bytes = vec![0; usize_of(pages << 12)];
    ram.read(PhysAddr::new(BASE), &mut bytes).unwrap();
    bytes
}

fn open(bytes: &[u8]) -> Opened {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Opened::of(Image::raw(file, PhysAddr::new(BASE), Geometry::K4).unwrap(), &Options::default()).unwrap()
}

fn opened(content: Contents<'_>) -> Opened {
    open(&memory(vec![(1, content)]))
}

fn plain(bytes: &[u8]) -> Opened {
    opened(Contents::new(Geometry::K4, bytes, Order::new(3).unwrap()))
}

/// Where the contents differ and how, if they do.
fn content(a: &Opened, b: &Opened) -> Option<(u64, String, String)> {
    let diff = Diff::of(a, b, DiffOptions::default());
    assert_eq!(diff.not_compared, []);
    let change = diff.changes.into_iter().find(|change| change.path == "/LUO sessions[vm].files[0x1].content")?;
    Some((change.offset.unwrap(), change.a.unwrap(), change.b.unwrap()))
}

#[test]
fn the_first_byte_that_differs_wherever_it_is() {
    for size in [1, 4097, 70_000, LARGE] {
        let bytes: Vec<u8> = (0..size).map(|at| (at / 7) as u8).collect();
        let a = plain(&bytes);
        assert_eq!(content(&a, &plain(&bytes)), None);
        for at in [0, 4095, 4096, (256 << 10) - 1, 256 << 10, (5 << 20) + 1, size - 1] {
            let mut other = bytes.clone();
            let Some(byte) = other.get_mut(at) else { continue };
            *byte ^= 0x80;
            // What comes later is not told.
            *other.last_mut().unwrap() ^= if at + 1 < size { 1 } else { 0 };
            let (ours, theirs) = (format!("{:#04x}", bytes[at]), format!("{:#04x}", other[at]));
            let b = plain(&other);
            let at = at as u64;
            assert_eq!(content(&a, &b), Some((at, ours.clone(), theirs.clone())), "{size}");
            assert_eq!(content(&b, &a), Some((at, theirs, ours)), "{size}");
        }
    }
}

#[test]
fn holes_are_zeros() {
    for size in [20 << 12, LARGE as u64] {
        let folio = |index, bytes| NewFolio { index, order: Order::ZERO, bytes };
        let holes = Contents { size, folios: vec![folio(2, b"two"), folio(19, b"")], ..Contents::default() };
        let mut zeros = vec![0; usize_of(size)];
        zeros[2 << 12..][..3].copy_from_slice(b"two");
        let (a, b) = (opened(holes), plain(&zeros));
        assert_eq!((content(&a, &b), content(&b, &a)), (None, None));
        // A byte where the other has a hole: before, behind and between what it has.
        for at in [5, (7 << 12) + 9, usize_of(size) - 1] {
            let mut other = zeros.clone();
            other[at] = 3;
            let b = plain(&other);
            let at = at as u64;
            assert_eq!(content(&a, &b), Some((at, "0x00".into(), "0x03".into())));
            assert_eq!(content(&b, &a), Some((at, "0x03".into(), "0x00".into())));
        }
    }
}

#[test]
fn of_two_sizes_both_have_the_shorter() {
    for size in [10_000, LARGE] {
        let (long, short) = (plain(&vec![1; size]), plain(&vec![1; 4_100]));
        for (a, b) in [(&long, &short), (&short, &long)] {
            let diff = Diff::of(a, b, DiffOptions::default());
            let paths: Vec<_> = diff.changes.iter().map(|change| change.path.as_str()).collect();
            assert!(paths.contains(&"/LUO sessions[vm].files[0x1].size"), "{paths:?}");
            assert!(!paths.contains(&"/LUO sessions[vm].files[0x1].content"), "{paths:?}");
        }
        let (none, long) = (plain(b""), plain(&vec![1; size]));
        assert_eq!((content(&none, &long), content(&long, &none)), (None, None));
    }
}

/// The same, of which the memory ends there.
fn cut(bytes: &[u8], end: u64) -> Opened {
    let mut opened = open(bytes);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes[..usize_of(end - BASE)]).unwrap();
    let image = Image::raw(file, PhysAddr::new(BASE), Geometry::K4).unwrap();
    opened.memory = opened.memory.take().map(|(_, tree)| (Arc::new(image), tree));
    opened
}

fn files(opened: &mut Opened) -> &mut Vec<SessionFile> {
    let Some(Content::Luo { sessions, .. }) = &mut opened.decoded.nodes[0].content else { panic!("no sessions") };
    &mut sessions[0].files
}

fn folios(opened: &mut Opened) -> Vec<(u64, u32, u64)> {
    files(opened)[0].memfd.as_ref().unwrap().folios.clone()
}

#[test]
fn memory_that_only_one_has_is_a_difference() {
    for size in [64 << 12, LARGE] {
        let bytes = vec![1; size];
        let memory = memory(vec![(1, Contents::new(Geometry::K4, &bytes, Order::ZERO))]);
        let mut whole = open(&memory);
        let last = folios(&mut whole).iter().map(|folio| folio.0).max().unwrap();
        let cut = cut(&memory, last);
        for (a, b, is_whole) in [(&whole, &cut, true), (&cut, &whole, false)] {
            let diff = Diff::of(a, b, DiffOptions::default());
            let [change] = &diff.changes[..] else { panic!("{diff:?}") };
            let (ours, theirs) = if is_whole { (&change.a, &change.b) } else { (&change.b, &change.a) };
            assert_eq!((change.kind, ours.as_deref()), (ChangeKind::Changed, Some("can be read")));
            assert!(theirs.as_ref().unwrap().starts_with("outside: at 0x"), "{theirs:?}");
        }
        let diff = Diff::of(&cut, &cut, DiffOptions::default());
        let [not] = &diff.not_compared[..] else { panic!("{diff:?}") };
        assert!(diff.is_same() && not.a.is_some() && not.a == not.b, "{diff:?}");
    }
}

/// A blob that says where a block is, and its owner is nobody that is known here.
struct Foreign(u8);

impl Preserve<Ram> for Foreign {
    fn compat(&self) -> CompatList<'static> {
        const { CompatList::new(Compat::new("foreign", 1), &[]) }
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        let block = scope.alloc(Order::ZERO)?;
        scope.write(&block, 0, &[self.0])?;
        let at = block.folio().addr(scope.geometry()).get();
        scope.blob(&at.to_le_bytes())
    }
}

#[test]
fn what_nobody_can_compare_is_named() {
    let of = |byte| {
        let window = PageRange::new(Pfn::new(BASE >> 12).unwrap(), 64).unwrap();
        let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, window));
        outgoing.preserve("foreign", &Foreign(byte)).unwrap();
        let (ram, _) = outgoing.finish().unwrap().into_parts();
        let mut bytes = vec![0; 64 << 12];
        ram.read(PhysAddr::new(BASE), &mut bytes).unwrap();
        open(&bytes)
    };
    let (mut a, mut b) = (of(1), of(2));
    let paths = |a: &Opened, b: &Opened| {
        let diff = Diff::of(a, b, DiffOptions::default());
        assert!(diff.is_same(), "{diff:?}");
        diff.not_compared.into_iter().map(|not| not.path).collect::<Vec<_>>()
    };
    assert_eq!(paths(&a, &b), ["/foreign memory"]);
    // A blob that is not in the memory.
    (a.decoded.nodes[0].content, b.decoded.nodes[0].content) = (None, None);
    assert_eq!(paths(&a, &b), ["/foreign content"]);
}

#[test]
fn what_has_the_name_of_another_is_compared_with_its_like() {
    let list = |tokens: &[u64]| tokens.to_vec();
    let (a, b) = (list(&[1, 1, 2]), list(&[1, 3, 1, 1]));
    let pairs: Vec<_> =
        pairs(&a, &b, |token| *token).into_iter().map(|(key, (a, b))| (key, a.is_some(), b.is_some())).collect();
    let wanted = [
        ((1, 0), true, true),
        ((1, 1), true, true),
        ((1, 2), false, true),
        ((2, 0), true, false),
        ((3, 0), false, true),
    ];
    assert_eq!(pairs, wanted);
    assert_eq!((number(0), number(1)), (String::new(), "#2".into()));
}

#[test]
fn folios_in_many_files_are_not_read_for_ever() {
    let bytes = vec![1; 1 << 20];
    let content = || Contents::new(Geometry::K4, &bytes, Order::new(8).unwrap());
    let memory = memory((1..=9).map(|token| (token, content())).collect());
    let first = folios(&mut open(&memory))[0];
    let mut shared = cut(&memory, first.0 + (1 << 20));
    for file in files(&mut shared) {
        file.memfd.as_mut().unwrap().folios = vec![first];
    }
    let image = shared.image().unwrap();
    let (before, all) = (image.bytes_read(), image.bytes_in_file());
    let diff = Diff::of(&shared, &shared, DiffOptions::default());
    assert!(diff.is_same() && !diff.not_compared.is_empty(), "{diff:?}");
    assert_eq!(diff.not_compared[0].a.as_deref(), Some("more was read by now than the memory has: it is shared"));
    let read = shared.image().unwrap().bytes_read() - before;
    assert!(read <= 2 * all + (2 << 20), "{read} of {all}");
}
