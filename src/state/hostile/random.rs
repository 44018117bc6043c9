//! Any value, any description, any bytes.

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::format;
use std::rc::Rc;
use std::string::{String, ToString as _};
use std::time::Duration;
use std::vec::Vec;

use proptest::prelude::*;

use super::made::random;
use super::*;
use crate::state::{self, Shown, State};

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 1, version = 2)]
struct Rich {
    numbers: (u8, u16, u32, u64, u128),
    signed: (i8, i16, i32, i64, i128),
    floats: [f64; 3],
    flag: Option<Option<bool>>,
    letters: Vec<char>,
    text: String,
    bytes: Vec<u8>,
    by_name: BTreeMap<String, Vec<Leaf>>,
    hashed: HashMap<i32, Box<Leaf>>,
    set: BTreeSet<(u8, i64)>,
    shared: (Rc<String>, Rc<String>),
    #[state(plain)]
    plain: Vec<u32>,
    #[state(plain)]
    more: Vec<u8>,
    time: Duration,
    #[state(since = 2, default, when = |text| text.is_empty())]
    unnamed: u16,
    #[state(subsection = ignorable)]
    leaf: Option<Leaf>,
}

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 2, version = 1)]
enum Leaf {
    #[state(tag = 0)]
    Nothing,
    #[state(tag = 4_000_000_000)]
    Number(u64),
    #[state(tag = 5)]
    Inner { leaves: Vec<Leaf>, name: String },
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let one = prop_oneof![Just(Leaf::Nothing), any::<u64>().prop_map(Leaf::Number)];
    one.prop_recursive(4, 24, 4, |inner| {
        (prop::collection::vec(inner, 0..4), ".{0,4}").prop_map(|(leaves, name)| Leaf::Inner { leaves, name })
    })
}

fn number_of_any_size() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
}

prop_compose! {
    fn rich()(
        numbers in (any::<u8>(), any::<u16>(), any::<u32>(), number_of_any_size(), any::<u128>()),
        signed in (any::<i8>(), any::<i16>(), any::<i32>(), any::<i64>(), any::<i128>()),
        floats in prop::array::uniform3(prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::INFINITE),
        (flag, letters, text, bytes) in (any::<Option<Option<bool>>>(), any::<Vec<char>>(), ".{0,9}", any::<Vec<u8>>()),
        by_name in prop::collection::btree_map(".{0,5}", prop::collection::vec(leaf(), 0..3), 0..3),
        hashed in prop::collection::hash_map(any::<i32>(), leaf().prop_map(Box::new), 0..4),
        set in prop::collection::btree_set(any::<(u8, i64)>(), 0..9),
        (one, other, same) in (any::<String>(), any::<String>(), any::<bool>()),
        (plain, more) in (any::<Vec<u32>>(), any::<Vec<u8>>()),
        (seconds, nanos, unnamed) in (any::<u64>(), 0..1_000_000_000_u32, any::<u16>()),
        leaf in prop::option::of(leaf()),
    ) -> Rich {
        let one = Rc::new(one);
        let shared = (one.clone(), if same { one } else { Rc::new(other) });
        let unnamed = if text.is_empty() { unnamed } else { 0 };
        let time = Duration::new(seconds, nanos);
        Rich {
            numbers, signed, floats, flag, letters, text, bytes, by_name, hashed, set, shared, plain, more, time, unnamed, leaf
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(300))]

    #[test]
    fn any_value_comes_back(value in rich()) {
        let bytes = state::save(&value).unwrap();
        prop_assert_eq!(walked(&bytes).unwrap().len(), if Rc::ptr_eq(&value.shared.0, &value.shared.1) { 2 } else { 3 });
        let back: Rich = state::restore(&bytes).unwrap();
        prop_assert_eq!(Rc::ptr_eq(&back.shared.0, &back.shared.1), Rc::ptr_eq(&value.shared.0, &value.shared.1));
        prop_assert_eq!(&back, &value);
        let old = state::save_as(&value, &state::Versions::of::<Rich>(1).unwrap()).unwrap();
        prop_assert_eq!(state::restore::<Rich>(&old).unwrap(), Rich { unnamed: 0, ..value });
    }

    #[test]
    fn any_description_is_read_as_it_was_meant(seed in any::<u64>()) {
        let made = random(seed);
        let bytes = made.made.bytes();
        let shown: Vec<Shown> = walked(&bytes).unwrap().into_iter().map(|object| object.value).collect();
        prop_assert_eq!(shown, made.shown);
        let image = Image::open(&bytes).unwrap();
        let described: Vec<(Description, u32)> = image.descriptions().unwrap();
        prop_assert_eq!(described, made.descriptions);
    }

    #[test]
    fn any_changed_image_is_an_error_or_a_value(
        seed in any::<u64>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)
    ) {
        let mut bytes = random(seed).made.bytes();
        let end = usize::try_from(Image::header(&bytes).unwrap().meta.get()).unwrap();
        for (place, byte) in changes {
            // The header by itself is a few numbers.
            let at = 40 + place.index(end - 40);
            bytes[at] = byte;
        }
        repair(&mut bytes);
        let _ = walked(&bytes);
        let _ = state::restore::<Rich>(&bytes);
    }

    #[test]
    fn any_change_of_a_rich_image_is_an_error_or_a_value(
        value in rich(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)
    ) {
        let saved = state::Saved::of(&value, None, false).unwrap();
        let (start, end) = (Image::open(&saved.meta).unwrap().objects()[0].start, saved.meta.len());
        let mut bytes = saved.into_bytes();
        for (place, byte) in changes {
            bytes[start + place.index(end - start)] = byte;
        }
        repair(&mut bytes);
        let by_type = state::restore::<Rich>(&bytes);
        if let (Ok(_), Err(error)) = (walked(&bytes), by_type) {
            let text = error.to_string();
            prop_assert!(text.starts_with("state-condition: ") || text.contains(" ns, expected"), "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_value(bytes in prop::collection::vec(any::<u8>(), 0..300), counts in any::<[u8; 4]>()) {
        let _ = Image::open(&bytes);
        let _ = Description::parse(&bytes);
        let _ = Kind::parse_prefix(&bytes);
        let _ = crate::state::number::read(&bytes);
        // Behind a header that is right.
        let mut image = Made::default().bytes();
        image.extend(&bytes);
        for (at, count) in (40..56).step_by(4).zip(counts) {
            image[at] = count % 4;
        }
        let size = image.len() as u64;
        image[16..24].copy_from_slice(&size.to_le_bytes());
        repair(&mut image);
        let _ = walked(&image);
        let _ = state::restore::<Rich>(&image);
    }
}

#[test]
fn what_is_made_is_of_all_kinds() {
    let all: Vec<String> =
        (1..300).flat_map(|seed| random(seed * 0x9e37_79b9).made.objects).map(|(of, _)| format!("{of}")).collect();
    assert!(
        all.len() > 600
            && all.iter().any(|of| of.starts_with("map<"))
            && all.iter().any(|of| of.starts_with("shared "))
    );
}
