//! States in states: parts that may be missing, conditions, depth, descriptions that lie about their values.

use std::boxed::Box;
use std::format;
use std::rc::Rc;
use std::string::{String, ToString as _};
use std::time::{Duration, Instant};
use std::vec::Vec;

use super::values::{alike, both};
use super::*;
use crate::abi::state::{DESCRIPTOR, FOLIO, MEMFD};
use crate::report::Code;
use crate::state::{self, Shown, State, SubsectionDescription};

#[derive(State, Debug, PartialEq)]
#[state(id = 60, version = 1)]
struct Parts {
    a: u8,
    #[state(subsection = required)]
    text: Option<Text>,
    #[state(subsection = ignorable)]
    flag: Option<Flag>,
}

#[derive(State, Debug, PartialEq)]
#[state(id = 61, version = 1)]
struct Text {
    a: String,
}

#[derive(State, Debug, PartialEq)]
#[state(id = 62, version = 1)]
struct Flag {
    a: bool,
}

#[derive(State, Debug)]
#[state(id = 63, version = 1)]
struct Decided {
    kind: u8,
    #[state(default, when = |kind| *kind == 1)]
    more: u8,
}

#[derive(State, Debug)]
#[state(id = 64, version = 1)]
struct Chain {
    next: Option<Box<Chain>>,
}

#[derive(State, Debug)]
#[state(id = 65, version = 1)]
struct Linked {
    next: Option<Rc<Linked>>,
}

type Three = Option<Option<Option<Option<u8>>>>;

#[derive(State, Debug)]
#[state(id = 66, version = 1)]
struct Nest {
    a: Option<Option<Option<Three>>>,
}

#[derive(State, Debug)]
#[state(id = 67, version = 1)]
struct All {
    all: Vec<Rc<Linked>>,
}

fn part(id: u32, bytes: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat()
}

fn parts(parts: &[Vec<u8>]) -> Made {
    let object = [vec![5], number(parts.len() as u64), parts.concat()].concat();
    Made::of(&[Parts::SHAPE, Text::SHAPE, Flag::SHAPE], &object)
}

#[test]
fn subsections_that_are_wrong() {
    let (fine, flag) = (part(61, &text("x")), part(62, &[1]));
    let both_there = Parts { a: 5, text: Some(Text { a: "x".into() }), flag: Some(Flag { a: true }) };
    for order in [[fine.clone(), flag.clone()], [flag.clone(), fine.clone()]] {
        let bytes = parts(&order).bytes();
        assert_eq!(walked(&bytes).unwrap().len(), 1);
        assert_eq!(state::restore::<Parts>(&bytes).unwrap(), both_there);
    }
    let told = |list: &[Vec<u8>], expected: &str| both::<Parts>(&parts(list), 0, expected);
    told(&[fine.clone(), fine.clone()], "state-id: parts.text @12: a subsection that is there twice");
    told(&[part(99, &[1])], "state-id: parts @2: found a subsection of id 99, expected one that the description has");
    told(&[part(62, &[1, 1])], "state-length: parts.flag.subsection @11: 1 bytes behind it");
    told(&[part(62, &[7])], "state-tag: parts.flag.a @10: found 7, expected 0 or 1");
    told(
        &[part(61, &number(9))],
        "state-length: parts.text.a @10: found 9, expected at most 0, the bytes that are left",
    );
    let [by_description, by_type] =
        super::values::told::<Parts>(&parts(&[[&61_u32.to_le_bytes()[..], &[0xff; 4]].concat()]), 0);
    let most = "@6: found 4294967295, expected at most 0, the bytes that are left";
    assert_eq!(by_description, format!("state-length: parts.text {most}"));
    assert_eq!(by_type, format!("state-length: parts {most}"));
    told(&[vec![61, 0]], "truncated: parts @2: found 2 bytes, expected at least 4");
    let mut made = parts(&[]);
    made.objects[0].1 = [vec![5], number(3)].concat();
    both::<Parts>(&made, 0, "state-length: parts @1: found 3, expected at most 0, the bytes that are left");
    // One that is there, and is described nowhere.
    let mut made = parts(&[flag]);
    made.shapes.pop();
    let at = made.start(0) + 10;
    assert_eq!(wrong(&made.bytes()), format!("state-id: parts.flag at offset {at:#x}: no description of id 62"));
}

/// Subsections that only the description has.
fn with_stranger(required: bool) -> Made {
    let mut of = Description::parse(Parts::SHAPE.bytes()).unwrap();
    let DescriptionBody::Struct { subsections, .. } = &mut of.body else { panic!() };
    subsections.push(SubsectionDescription { name: "more".into(), id: 70, required });
    let mut made = parts(&[part(70, &number(300)), part(62, &[1])]);
    made.shapes[0].2 = description_bytes(&of);
    let stranger = described(70, &[("number", Kind::Scalar(kind::U64))]);
    made.shapes.push((70, 1, description_bytes(&stranger)));
    made
}

#[test]
fn what_nobody_here_knows_is_a_mismatch_and_no_corruption() {
    let made = with_stranger(true);
    walked(&made.bytes()).unwrap();
    let error = state::restore::<Parts>(&made.bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "state-unknown: parts.more: found a subsection of id 70, expected one that this reader knows, or none, because it is required"
    );
    assert_eq!(error.fault().code().class(), crate::report::Class::Mismatch);
    // The type itself says the same, should it come to that.
    let error =
        made.came(&[Parts::SHAPE]).attach(0, &Rc::new(std::cell::RefCell::new(Parts { a: 1, text: None, flag: None })));
    let at = made.start(0) + 2;
    assert_eq!(
        error.unwrap_err().to_string(),
        format!("state-unknown: parts.more at offset {at:#x}: a required subsection, id 70")
    );
    let restored = state::restore::<Parts>(&with_stranger(false).bytes()).unwrap();
    assert_eq!(restored, Parts { a: 5, text: None, flag: Some(Flag { a: true }) });
}

#[test]
fn what_is_skipped_costs_no_more_than_it_takes() {
    // A description of a thousand subsections, and ten thousand values that skip one.
    let mut of = Description::parse(Parts::SHAPE.bytes()).unwrap();
    let DescriptionBody::Struct { subsections, .. } = &mut of.body else { panic!() };
    subsections.extend((1000..2000).map(|id| SubsectionDescription { name: "n".repeat(255), id, required: false }));
    let one = [vec![5], number(1), part(1000, &[7])].concat();
    let many = [number(10_000), one.repeat(10_000)].concat();
    let list = described(71, &[("all", Kind::Seq(Box::new(Kind::State(60))))]);
    let mut made = image_of(&[list], &many);
    made.shapes.insert(0, (60, 1, description_bytes(&of)));
    for shape in [Text::SHAPE, Flag::SHAPE] {
        made.shapes.insert(1, (shape.id(), 1, shape.bytes().to_vec()));
    }
    made.shapes.sort_by_key(|shape| shape.0);
    made.shapes.push((1000, 1, description_bytes(&described(1000, &[("x", Kind::Scalar(kind::U8))]))));
    #[derive(State)]
    #[state(id = 71, version = 1, name = "s71")]
    struct Many {
        all: Vec<Parts>,
    }
    let begin = Instant::now();
    assert_eq!(walked(&made.bytes()).unwrap().len(), 1);
    assert_eq!(state::restore::<Many>(&made.bytes()).unwrap().all.len(), 10_000);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn a_condition_that_contradicts() {
    let told = |object: &[u8], text: &str| {
        let made = Made::of(&[Decided::SHAPE], object);
        walked(&made.bytes()).unwrap();
        let at = made.start(0) + 1;
        let error = state::restore::<Decided>(&made.bytes()).unwrap_err().to_string();
        assert_eq!(error, format!("state-condition: decided.more at offset {at:#x}: {text}, by what stands before"));
    };
    told(&[0, 1, 9], "found a value, expected no value");
    told(&[1, 0], "found no value, expected a value");
    alike::<Decided>(&[1, 2, 9], "state-tag: decided.more @1: found 2, expected 0 or 1");
    assert_eq!(state::restore::<Decided>(&Made::of(&[Decided::SHAPE], &[1, 1, 9]).bytes()).unwrap().more, 9);
}

#[test]
fn states_nested_too_deep() {
    let deep = |states: usize| [vec![1; states - 1], vec![0]].concat();
    // The object itself is the first of 64.
    state::restore::<Chain>(&Made::of(&[Chain::SHAPE], &deep(63)).bytes()).unwrap();
    walked(&Made::of(&[Chain::SHAPE], &deep(63)).bytes()).unwrap();
    for states in [64, 1000, 100_000] {
        let path = format!("chain{}", ".next".repeat(63));
        alike::<Chain>(&deep(states), &format!("state-depth: {path} @63: expected at most 64 states in each other"));
    }
    let mut chain = Chain { next: None };
    for _ in 0..1000 {
        chain = Chain { next: Some(Box::new(chain)) };
    }
    let text = format!("state-depth: chain{}: expected at most 64 states in each other", ".next".repeat(63));
    assert_eq!(state::save(&chain).unwrap_err().to_string(), text);
    alike::<Nest>(&[1, 1, 1, 1, 1, 1, 2], "state-tag: nest.a @6: found 2, expected 0 or 1");
    alike::<Nest>(&[1, 1, 1, 1, 1, 1], "truncated: nest.a @6: found 0 bytes, expected at least 1");
}

#[test]
fn the_deepest_that_is_read_needs_little_stack() {
    // 63 states of 7 options each.
    let ty = (0..7).fold(Kind::State(72), |of, _| Kind::Option(Box::new(of)));
    let made = image_of(&[described(72, &[("next", ty)])], &[vec![1; 62 * 7], vec![0]].concat());
    let bytes = made.bytes();
    // Without optimisation, it is not little.
    let stack = if cfg!(debug_assertions) { 16 << 20 } else { 1 << 20 };
    std::thread::Builder::new().stack_size(stack).spawn(move || walked(&bytes).unwrap()).unwrap().join().unwrap();
}

#[test]
fn shared_objects_nested_too_deep() {
    let chain = |objects: u64| {
        let mut made = Made::default();
        made.shapes.push((65, 1, Linked::SHAPE.bytes().to_vec()));
        made.objects.push((Kind::State(65), vec![0]));
        for number_of in 1..objects {
            made.objects.push((Kind::State(65), [vec![1], number(number_of - 1)].concat()));
        }
        made.instances.push((0, 65, u32::try_from(objects - 1).unwrap()));
        made
    };
    // Each is an object and a state.
    walked(&chain(32).bytes()).unwrap();
    state::restore::<Linked>(&chain(32).bytes()).unwrap();
    let bytes = chain(1000).bytes();
    let all = walked(&bytes).unwrap_err();
    assert!(all[0].starts_with("state-depth: objects[32].next at offset 0x"), "{}", all[0]);
    assert_eq!(state::restore::<Linked>(&bytes).unwrap_err().fault().code(), Code::StateDepth);
    // Whatever comes first in the list, all of it can be restored, or it is not saved.
    let mut list: Vec<Rc<Linked>> = vec![Rc::new(Linked { next: None })];
    for _ in 0..40 {
        list.push(Rc::new(Linked { next: list.last().cloned() }));
    }
    for list in [list.clone(), list.into_iter().rev().collect()] {
        let error = state::save(&All { all: list.clone() }).unwrap_err();
        assert_eq!(error.fault().code(), Code::StateDepth);
        let mut list = list;
        list.retain(|one| std::iter::successors(Some(one), |one| one.next.as_ref()).count() <= 31);
        let bytes = state::save(&All { all: list }).unwrap();
        walked(&bytes).unwrap();
        assert_eq!(state::restore::<All>(&bytes).unwrap().all.len(), 31);
    }
}

#[test]
fn descriptions_that_lie_about_their_values() {
    let told = |ty: Kind, object: &[u8]| {
        let made = image_of(&[described(73, &[("a", ty)]), described(74, &[("a", Kind::State(74))])], object);
        let at = |text: String| text.replace(&format!("{:#x}", made.start(0)), "@");
        at(wrong(&made.bytes()))
    };
    let byte = || Box::new(Kind::Scalar(kind::U8));
    assert_eq!(
        told(Kind::Array(1 << 60, byte()), &[1; 9]),
        format!("truncated: s73.a at offset @: found 9 bytes, expected {} elements", 1_u64 << 60)
    );
    assert_eq!(
        told(Kind::Array(u64::MAX, byte()), &[]),
        format!("truncated: s73.a at offset @: found 0 bytes, expected {} elements", u64::MAX)
    );
    // A state that takes no bytes, because it has itself: no number of it is there.
    let itself = format!("state-depth: s73.a[0]{}", ".a".repeat(62));
    assert!(told(Kind::Array(9, Box::new(Kind::State(74))), &[1; 9]).starts_with(&itself));
    assert!(
        told(Kind::Array(1 << 60, Box::new(Kind::State(74))), &[1; 9]).starts_with("truncated: s73.a at offset @: ")
    );
    assert_eq!(
        told(Kind::Seq(Box::new(Kind::State(75))), &[3, 1]),
        "state-id: s73.a[0] at offset 0xa6: no description of id 75"
    );
    // A field more than there is, one less, another type.
    let made = |fields: &[(&str, Kind)]| {
        let mut made = Made::of(&[Text::SHAPE], &text("abc"));
        let mut of = described(61, fields);
        of.name = "text".into();
        made.shapes[0].2 = description_bytes(&of);
        made
    };
    let string = || ("a", Kind::Scalar(kind::STR));
    let more = made(&[string(), ("b", Kind::Scalar(kind::U8))]);
    let at = more.start(0) + 4;
    assert_eq!(
        wrong(&more.bytes()),
        format!("truncated: text.b at offset {at:#x}: found 0 bytes, expected at least 1")
    );
    let refused = |made: &Made| state::restore::<Text>(&made.bytes()).unwrap_err().to_string();
    assert_eq!(refused(&more), "state-field: text.b: found u8, expected no such field, in version 1");
    let other = made(&[("a", Kind::Scalar(kind::U8))]);
    let at = other.start(0) + 1;
    assert_eq!(wrong(&other.bytes()), format!("state-length: text.object at offset {at:#x}: 3 bytes behind it"));
    assert_eq!(refused(&other), "state-field: text.a: found u8, expected str, in version 1");
    assert_eq!(
        refused(&made(&[("b", Kind::Scalar(kind::STR))])),
        "state-field: text.b: found the field b, expected a in its place, in version 1"
    );
    let mut none = made(&[string()]);
    none.shapes[0].2 =
        description_bytes(&Description { body: DescriptionBody::Enum { variants: Vec::new() }, ..described(61, &[]) });
    assert_eq!(
        refused(&none),
        "state-field: s61: found another kind of state, expected a structure here, an enum there, in version 1"
    );
}

#[test]
fn resources_of_the_wrong_kind_taken_twice_or_named_by_nobody() {
    let fields = [("f", Kind::Scalar(kind::FOLIO)), ("m", Kind::Option(Box::new(Kind::Scalar(kind::MEMFD))))];
    let told = |resources: &[u32], object: &[u8]| {
        let mut made = image_of(&[described(76, &fields)], object);
        made.resources = resources.iter().map(|of| (*of, [0; 3])).collect();
        let start = made.start(0);
        walked(&made.bytes()).map(drop).map_err(|mut all| {
            assert_eq!(all.len(), 1);
            all.remove(0).replace(&format!("{start:#x}"), "@").replace(&format!("{:#x}", start + 2), "@2")
        })
    };
    let two = [number(0), vec![1], number(1)].concat();
    assert_eq!(told(&[FOLIO, MEMFD], &two), Ok(()));
    let fail = |text: &str| Err(text.to_string());
    assert_eq!(
        told(&[MEMFD, FOLIO], &two),
        fail("state-resource: s76.f at offset @: found resource 0 of kind 3, expected kind 1")
    );
    assert_eq!(
        told(&[FOLIO, DESCRIPTOR], &two),
        fail("state-resource: s76.m at offset @2: found resource 1 of kind 4, expected kind 3")
    );
    assert_eq!(told(&[FOLIO], &two), fail("state-resource: s76.m at offset @2: found resource 1, expected one of 1"));
    assert_eq!(told(&[], &[1, 0]), fail("state-resource: s76.f at offset @: found resource 0, expected one of 0"));
    let again = image_of(
        &[described(76, &[("f", Kind::Seq(Box::new(Kind::Scalar(kind::FOLIO))))])],
        &[number(2), number(0), number(0)].concat(),
    );
    let mut again = again;
    again.resources.push((FOLIO, [0; 3]));
    let at = again.start(0) + 2;
    assert_eq!(
        wrong(&again.bytes()),
        format!("state-resource: s76.f[1] at offset {at:#x}: found resource 0, expected one that no other value has")
    );
    assert_eq!(told(&[FOLIO, MEMFD], &[1, 0]), fail("state-resource: resources[1]: one that no value has"));
    let mut reserved = again.bytes();
    reserved[64 + 8 + 16 + 4] = 1;
    repair(&mut reserved);
    assert_eq!(
        Image::open(&reserved).unwrap_err().to_string(),
        format!("reserved: resources[0]: {}", Code::Reserved.about())
    );
}

#[test]
fn fields_of_other_versions_cost_nothing_at_each_value() {
    // 60 states in each other, each with a thousand fields that this version does not have, around one byte.
    let mut all: Vec<Description> = (0..60).map(|id| described(100 + id, &[("next", Kind::State(101 + id))])).collect();
    all.push(described(160, &[("x", Kind::Scalar(kind::U8))]));
    for of in &mut all {
        let DescriptionBody::Struct { fields, .. } = &mut of.body else { panic!() };
        let dead = FieldDescription { since: 2, ty: Kind::Scalar(kind::U8), ..fields[0].clone() };
        fields.extend(std::iter::repeat_n(dead, 1000));
    }
    all.insert(0, described(99, &[("all", Kind::Seq(Box::new(Kind::State(100))))]));
    let bytes = image_of(&all, &[number(100_000), vec![1; 100_000]].concat()).bytes();
    let begin = Instant::now();
    let shown = walked(&bytes).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    // And what is shown of them is bounded: each byte would have sixty names.
    let Shown::State(root) = &shown[0].value else { panic!() };
    let Shown::List(list, count) = &root.fields[0].1 else { panic!() };
    assert_eq!(*count, 100_000);
    assert!(list.len() < 50_000, "{}", list.len());
}
