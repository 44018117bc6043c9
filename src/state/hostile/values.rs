//! Values that are wrong: what is told by the descriptions alone, and what the types say, is the same.

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::format;
use std::rc::Rc;
use std::string::{String, ToString as _};
use std::sync::Arc;
use std::time::Duration;
use std::vec::Vec;

use super::*;
use crate::state::{self, ArcLink, InPlace, RcLink, State};

macro_rules! fields {
    ($($name:ident = $id:literal: $ty:ty $(, $attr:ident)?;)*) => {$(
        #[derive(State, Debug)]
        #[state(id = $id, version = 1)]
        struct $name {
            $(#[state($attr)])?
            a: $ty,
        }
    )*};
}

fields! {
    Text = 20: String;
    Flag = 21: bool;
    Maybe = 22: Option<u8>;
    Letter = 23: char;
    N16 = 24: u16;
    I16 = 25: i16;
    N64 = 26: u64;
    Four = 27: [u16; 4];
    List = 28: Vec<u32>;
    Bytes = 29: Vec<u8>;
    Map = 30: BTreeMap<u16, u8>;
    Hashed = 31: HashMap<u16, u8>;
    Set = 32: BTreeSet<u16>;
    HashedSet = 33: HashSet<u16>;
    Plain = 35: Vec<u32>, plain;
    Placed = 36: InPlace<u64>, plain;
    Two = 37: [u16; 2], plain;
    Time = 38: Duration;
    Pair = 39: (u8, bool);
    Deep = 40: Vec<(u8, Option<Text>)>;
    Linked = 42: Option<Rc<Linked>>;
}

#[derive(State, Debug)]
#[state(id = 34, version = 2)]
enum Mode {
    #[state(tag = 1)]
    Off,
    #[state(tag = 7)]
    On { level: u16 },
    #[state(tag = 9, since = 2)]
    Late,
}

#[derive(State, Debug)]
#[state(id = 43, version = 1)]
struct Shared {
    a: Rc<u32>,
    b: Rc<u32>,
    c: RcLink<u32>,
}

#[derive(State, Debug)]
#[state(id = 45, version = 1)]
struct Mixed {
    a: Rc<u32>,
    b: Arc<u32>,
}

#[derive(State, Debug)]
#[state(id = 46, version = 1)]
struct MixedLink {
    a: ArcLink<u32>,
    b: Rc<u32>,
}

/// What is wrong with this object by its description, and by its type; `@` with a number is an offset in it.
pub(super) fn told<T: State>(made: &Made, of: usize) -> [String; 2] {
    let bytes = made.bytes();
    let start = made.start(of);
    let relative = |mut text: String| {
        if let Some((before, after)) = text.clone().split_once("at offset 0x") {
            let end = after.find(|letter: char| !letter.is_ascii_hexdigit()).unwrap_or(after.len());
            let at = u64::from_str_radix(&after[..end], 16).unwrap();
            text = format!("{before}@{}{}", at.cast_signed() - start.cast_signed(), &after[end..]);
        }
        text
    };
    let by_type = state::restore::<T>(&bytes).err().unwrap();
    [relative(wrong(&bytes)), relative(by_type.to_string())]
}

pub(super) fn both<T: State>(made: &Made, of: usize, expected: &str) {
    assert_eq!(told::<T>(made, of), [expected, expected]);
}

pub(super) fn alike<T: State>(object: &[u8], expected: &str) {
    both::<T>(&Made::of(&[T::SHAPE], object), 0, expected);
}

fn apart<T: State>(object: &[u8], by_description: &str, by_type: &str) {
    assert_eq!(told::<T>(&Made::of(&[T::SHAPE], object), 0), [by_description, by_type]);
}

const U64: [u8; 9] = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

#[test]
fn bools_options_characters_and_tags_that_mean_nothing() {
    alike::<Flag>(&[2], "state-tag: flag.a @0: found 2, expected 0 or 1");
    alike::<Flag>(&[], "truncated: flag.a @0: found 0 bytes, expected at least 1");
    alike::<Maybe>(&[2, 5], "state-tag: maybe.a @0: found 2, expected 0 or 1");
    alike::<Maybe>(&[1], "truncated: maybe.a @1: found 0 bytes, expected at least 1");
    alike::<Maybe>(&[0, 5], "state-length: maybe.object @1: 1 bytes behind it");
    alike::<Letter>(&number(0xd800), "state-tag: letter.a @0: found 0xd800, expected a character");
    alike::<Letter>(&number(0x11_0000), "state-tag: letter.a @0: found 0x110000, expected a character");
    alike::<Mode>(&number(2), "state-tag: mode.tag @0: found 2, expected 1 (off), 7 (on), 9 (late)");
    alike::<Mode>(&number(7), "truncated: mode.on.level @1: found 0 bytes, expected a number");
    apart::<Mode>(
        &number(1 << 32),
        "state-tag: mode.tag @0: found 4294967296, expected 1 (off), 7 (on), 9 (late)",
        "state-tag: mode.tag @0: found 4294967296, expected at most 32 bits",
    );
    // A tag that the version does not have yet.
    let mut made = Made::of(&[Mode::SHAPE], &number(9));
    made.shapes[0].1 = 1;
    let [by_description, by_type] = told::<Mode>(&made, 0);
    assert_eq!(by_description, "state-tag: mode.tag @0: found 9, expected 1 (off), 7 (on)");
    assert_eq!(by_type, "state-tag: mode.tag @0: found 9, expected 1 (off), 7 (on), 9 (late)");
    alike::<Pair>(&[7, 7], "state-tag: pair.a.1 @1: found 7, expected 0 or 1");
    let deep = [number(2), vec![1, 0, 2, 1], text("x"), vec![9]].concat();
    both::<Deep>(&Made::of(&[Deep::SHAPE, Text::SHAPE], &deep), 0, "state-length: deep.object @7: 1 bytes behind it");
    let deep = [number(2), vec![1, 0, 2, 1], number(1), vec![0xff]].concat();
    let none = "found 1 bytes, of which that at 0 is none, expected UTF-8";
    both::<Deep>(&Made::of(&[Deep::SHAPE, Text::SHAPE], &deep), 0, &format!("text: deep.a[1].1.a @6: {none}"));
    // What it is made of is not described.
    let made = Made::of(&[Deep::SHAPE], &[number(1), vec![1, 1], text("x")].concat());
    let at = made.start(0) + 3;
    assert_eq!(wrong(&made.bytes()), format!("state-id: deep.a[0].1 at offset {at:#x}: no description of id 20"));
}

#[test]
fn numbers_in_a_longer_form_or_beyond_their_type() {
    apart::<N16>(
        &number(65536),
        "state-number: n16.a @0: found 65536, expected at most 65535",
        "state-number: n16.a @0: found 65536, expected u16",
    );
    apart::<I16>(
        &number(65536),
        "state-number: i16.a @0: found 32768, expected -32768 to 32767",
        "state-number: i16.a @0: found 32768, expected i16",
    );
    let longer = "found a longer form, expected the shortest form";
    for bytes in
        [&[2, 0][..], &[2 | 0xfc, 1], &[4, 2, 0], &[128, 255, 255, 255, 255, 255, 255, 1], &[0, 1, 0, 0, 0, 0, 0, 0, 0]]
    {
        alike::<N64>(bytes, &format!("state-number: n64.a @0: {longer}"));
        alike::<N16>(bytes, &format!("state-number: n16.a @0: {longer}"));
    }
    alike::<N64>(&[0, 1, 2], "truncated: n64.a @0: found 3 bytes, expected a number");
    alike::<N64>(&[], "truncated: n64.a @0: found 0 bytes, expected a number");
    apart::<Four>(
        &[1, 1, 1],
        "truncated: four.a @0: found 3 bytes, expected 4 elements",
        "truncated: four.a[3] @3: found 0 bytes, expected a number",
    );
    let by_type = Made::of(&[Time::SHAPE], &[number(1), number(1_000_000_000)].concat());
    assert_eq!(walked(&by_type.bytes()).map(|shown| shown.len()), Ok(1), "only the type knows that it is a time");
    let error = state::restore::<Time>(&by_type.bytes()).unwrap_err();
    let at = by_type.start(0) + 1;
    let text = format!("state-number: time.a at offset {at:#x}: found 1000000000 ns, expected less than a second");
    assert_eq!(error.to_string(), text);
}

#[test]
fn texts_that_are_none() {
    let with = |bytes: &[u8]| [number(bytes.len() as u64), bytes.to_vec()].concat();
    let none = "is none, expected UTF-8";
    alike::<Text>(&with(b"ab\xff"), &format!("text: text.a @1: found 3 bytes, of which that at 2 {none}"));
    alike::<Text>(&with(b"\xc0\x80"), &format!("text: text.a @1: found 2 bytes, of which that at 0 {none}"));
    alike::<Text>(&with(b"\xed\xa0\x80"), &format!("text: text.a @1: found 3 bytes, of which that at 0 {none}"));
    alike::<Text>(&number(3), "state-length: text.a @0: found 3, expected at most 0, the bytes that are left");
}

#[test]
fn collections_that_claim_more_than_the_bytes_left() {
    let all = "expected at most 1, the bytes that are left";
    let claim = [U64.to_vec(), vec![1]].concat();
    let most = u64::MAX;
    alike::<List>(&claim, &format!("state-length: list.a @0: found {most}, {all}"));
    alike::<Bytes>(&claim, &format!("state-length: bytes.a @0: found {most}, {all}"));
    alike::<Map>(&claim, &format!("state-length: map.a @0: found {most}, {all}"));
    alike::<Hashed>(&claim, &format!("state-length: hashed.a @0: found {most}, {all}"));
    alike::<Set>(&claim, &format!("state-length: set.a @0: found {most}, {all}"));
    alike::<HashedSet>(&claim, &format!("state-length: hashed_set.a @0: found {most}, {all}"));
    alike::<Text>(&claim, &format!("state-length: text.a @0: found {most}, {all}"));
    alike::<List>(
        &[number(3), number(500), number(1)].concat(),
        "truncated: list.a[2] @4: found 0 bytes, expected a number",
    );
    alike::<Map>(
        &[number(2), number(5), vec![5], vec![]].concat(),
        "truncated: map.a[1].key @3: found 0 bytes, expected a number",
    );
    alike::<List>(&[number(1), number(5), number(6)].concat(), "state-length: list.object @2: 1 bytes behind it");
}

#[test]
fn keys_that_are_there_twice() {
    let pairs = |keys: &[u64]| {
        let pairs = keys.iter().flat_map(|key| [number(*key), vec![1]].concat()).collect();
        [number(keys.len() as u64), pairs].concat()
    };
    let set = |keys: &[u64]| [number(keys.len() as u64), keys.iter().flat_map(|key| number(*key)).collect()].concat();
    for keys in [&[5, 5][..], &[1, 5, 3, 5], &[9, 500, 9]] {
        let end = pairs(keys).len();
        alike::<Map>(&pairs(keys), &format!("state-key: map.a @{end}: a key twice, in what ends here"));
        let [by_description, by_type] = told::<Hashed>(&Made::of(&[Hashed::SHAPE], &pairs(keys)), 0);
        assert_eq!(by_description, format!("state-key: hashed.a @{end}: a key twice, in what ends here"));
        let last = keys.len() - 1;
        assert_eq!(by_type, format!("state-key: hashed.a[{last}] @{end}: a key twice, in what ends here"));
        let end = set(keys).len();
        alike::<Set>(&set(keys), &format!("state-key: set.a @{end}: a key twice, in what ends here"));
        let [by_description, by_type] = told::<HashedSet>(&Made::of(&[HashedSet::SHAPE], &set(keys)), 0);
        assert_eq!(by_description, format!("state-key: hashed_set.a @{end}: a key twice, in what ends here"));
        assert_eq!(by_type, format!("state-key: hashed_set.a[{last}] @{end}: a key twice, in what ends here"));
    }
    // Any order is fine.
    let made = Made::of(&[Map::SHAPE], &pairs(&[500, 3, 70, 2]));
    assert_eq!(walked(&made.bytes()).unwrap().len(), 1);
    assert_eq!(state::restore::<Map>(&made.bytes()).unwrap().a.into_keys().collect::<Vec<_>>(), [2, 3, 70, 500]);
}

#[test]
fn bulk_data_that_are_elsewhere() {
    let with = |bulk: usize, object: Vec<u8>| {
        let mut made = Made::of(&[Plain::SHAPE], &object);
        made.bulk = vec![7; bulk];
        made
    };
    let place = |len: u64, at: u64| [number(len), number(at)].concat();
    let told = |bulk, len, at, expected: &str| {
        let found = format!("state-length: plain.a @0: found {len} bytes at {at:#x} of the bulk data, expected ");
        both::<Plain>(&with(bulk, place(len, at)), 0, &(found + expected));
    };
    assert_eq!(state::restore::<Plain>(&with(8, place(8, 0)).bytes()).unwrap().a, [0x0707_0707; 2]);
    told(8, 12, 0, "at most 8, at multiples of 64");
    told(8, 8, 64, "at most 8, at multiples of 64");
    told(128, 8, 32, "at most 128, at multiples of 64");
    told(128, 8, u64::MAX - 63, "at most 128, at multiples of 64");
    told(128, u64::MAX - 63, 64, "at most 128, at multiples of 64");
    told(128, 7, 64, "a multiple of 4");
    both::<Plain>(&with(8, number(8)), 0, "truncated: plain.a @1: found 0 bytes, expected a number");
    // Nothing has no place.
    both::<Plain>(&with(8, place(0, 0)), 0, "state-length: plain.object @1: 1 bytes behind it");
    let made = |object: &[u8], bulk: usize| {
        let mut made = Made::of(&[Placed::SHAPE], object);
        made.bulk = vec![7; bulk];
        made
    };
    both::<Placed>(
        &made(&place(4, 0), 8),
        0,
        "state-length: placed.a @0: found 4 bytes at 0x0 of the bulk data, expected a multiple of 8",
    );
    // Of an array only the type knows the length.
    let mut two = Made::of(&[Two::SHAPE], &place(6, 0));
    two.bulk = vec![7; 6];
    walked(&two.bytes()).unwrap();
    let text = format!("state-length: two.a at offset {:#x}: found 3 elements, expected 2", two.start(0));
    assert_eq!(state::restore::<Two>(&two.bytes()).unwrap_err().to_string(), text);
}

#[test]
fn bulk_data_that_two_values_have() {
    let list = described(50, &[("a", Kind::Seq(Box::new(Kind::State(51))))]);
    let plain = described(51, &[("p", Kind::Plain(kind::U8))]);
    let told = |places: &[(u64, u64)]| {
        let values = places.iter().flat_map(|(len, at)| [number(*len), number(*at)].concat()).collect();
        let object = [number(places.len() as u64), values].concat();
        let mut made = image_of(&[list.clone(), plain.clone()], &object);
        made.bulk = vec![0; 256];
        walked(&made.bytes()).map(drop)
    };
    assert_eq!(told(&[(64, 0), (64, 128), (64, 64), (64, 192)]), Ok(()));
    for places in [&[(1, 0), (1, 0)][..], &[(65, 0), (1, 64)], &[(1, 64), (65, 0)], &[(1, 0), (10, 128), (200, 0)]] {
        let error = told(places).unwrap_err();
        assert!(error.len() == 1 && error[0].ends_with("expected bytes that no other value has"), "{error:?}");
    }
    // The types only count, so that no more is copied than came.
    let mut made = Made::of(&[Plain::SHAPE], &[number(8), number(0)].concat());
    made.bulk = vec![7; 8];
    made.add(35, &[number(8), number(0)].concat());
    let mut states = made.came(&[Plain::SHAPE]);
    let [one, other] = [(); 2].map(|()| Rc::new(std::cell::RefCell::new(Plain { a: vec![1] })));
    states.attach(0, &one).unwrap();
    let error = states.attach(1, &other).unwrap_err().to_string();
    assert!(error.starts_with("state-length: plain#1.a at offset 0x"), "{error}");
    assert!(
        error.ends_with(": found 8 bytes at 0x0 of the bulk data, expected bytes that no other value has"),
        "{error}"
    );
    assert_eq!(other.borrow().a, [1]);
}

fn shared(objects: &[(Kind, Vec<u8>)], root: &[u8]) -> Made {
    let mut made = Made::of(&[Shared::SHAPE], root);
    made.objects.splice(0..0, objects.iter().cloned());
    made.instances[0].2 = u32::try_from(objects.len()).unwrap();
    made
}

#[test]
fn shared_objects_out_of_range_or_of_the_wrong_type() {
    let one = || (Kind::Scalar(kind::U32), number(5));
    let root = |a: u64, b: u64, c: u32| [number(a), number(b), c.to_le_bytes().to_vec()].concat();
    let good = state::restore::<Shared>(&shared(&[one()], &root(0, 0, 1)).bytes()).unwrap();
    assert!(Rc::ptr_eq(&good.a, &good.b) && Rc::ptr_eq(&good.c.get().unwrap(), &good.a));
    both::<Shared>(&shared(&[one()], &root(0, 2, 0)), 1, "state-id: shared.b @1: found object 2, expected one of 2");
    both::<Shared>(
        &shared(&[one()], &root(u64::MAX, 0, 0)),
        1,
        &format!("state-id: shared.a @0: found object {}, expected one of 2", u64::MAX),
    );
    both::<Shared>(&shared(&[one()], &root(0, 0, 3)), 1, "state-id: shared.c @2: found object 2, expected one of 2");
    both::<Shared>(
        &shared(&[one()], &root(0, 0, u32::MAX)),
        1,
        "state-id: shared.c @2: found object 4294967294, expected one of 2",
    );
    let other = (Kind::Scalar(kind::U64), number(5));
    both::<Shared>(
        &shared(&[one(), other.clone()], &root(0, 1, 0)),
        2,
        "state-shared: shared.b @1: found object 1, u64, expected u32",
    );
    both::<Shared>(
        &shared(&[one(), other], &root(0, 0, 2)),
        2,
        "state-shared: shared.c @2: found object 1, u64, expected u32",
    );
    let itself = told::<Shared>(&shared(&[], &root(0, 0, 0)), 0);
    assert_eq!(
        itself,
        [
            "state-shared: shared.a @0: found object 0, shared, expected u32",
            "state-shared: shared.a @0: found object 0, state 43, expected u32",
        ]
    );
}

#[test]
fn objects_that_own_themselves_or_each_other() {
    // `Linked` of object 0, as an instance and as an owner.
    let own = |to: u64| [vec![1], number(to)].concat();
    let cycle = "a weak link back";
    let made = Made::of(&[Linked::SHAPE], &own(0));
    let [by_description, by_type] = told::<Linked>(&made, 0);
    let only = "expected one that stands before it: only weak links go back";
    assert_eq!(by_description, format!("state-cycle: linked.a @1: found object 0 as a part of object 0, {only}"));
    // The root is nobody's but is restored again as a part: that is the cycle.
    assert_eq!(by_type, format!("state-cycle: linked.a.a @1: found object 0 in itself, expected {cycle}"));
    let mut made = Made::of(&[Linked::SHAPE], &own(1));
    made.objects.push((Kind::State(42), own(0)));
    assert_eq!(walked(&made.bytes()).unwrap_err().len(), 1);
    let error = state::restore::<Linked>(&made.bytes()).unwrap_err().to_string();
    assert!(error.starts_with("state-cycle: linked.a.a.a at offset "), "{error}");
    let again = walked(&made.bytes()).unwrap_err().remove(0);
    assert!(again.starts_with("state-cycle: linked.a at offset "), "{again}");
    assert!(again.ends_with(&format!(": found object 1 as a part of object 0, {only}")), "{again}");
    // An attached object is there already when it finds itself.
    let mut states = made.came(&[Linked::SHAPE]);
    let object = Rc::new(std::cell::RefCell::new(Linked { a: None }));
    let error = states.attach(0, &object).unwrap_err();
    assert!(error.to_string().starts_with("state-shared: linked"), "{error}");
    assert!(object.borrow().a.is_none());
}

#[test]
fn one_kind_of_pointer_to_an_object() {
    let one = || (Kind::Scalar(kind::U32), number(5));
    let with = |shape: &Shape, root: &[u8]| {
        let mut made = Made::of(&[shape], root);
        made.objects.insert(0, one());
        made.instances[0].2 = 1;
        made.bytes()
    };
    let text = "found object 0, which was restored otherwise, expected one kind of pointer to an object";
    let bytes = with(Mixed::SHAPE, &[number(0), number(0)].concat());
    walked(&bytes).unwrap();
    assert_eq!(state::restore::<Mixed>(&bytes).unwrap_err().to_string(), format!("state-shared: mixed.b: {text}"));
    let bytes = with(MixedLink::SHAPE, &[vec![1, 0, 0, 0], number(0)].concat());
    walked(&bytes).unwrap();
    assert_eq!(
        state::restore::<MixedLink>(&bytes).unwrap_err().to_string(),
        format!("state-shared: mixed_link.b: {text}")
    );
}
