//! Header, tables, descriptions; truncation and flipped bits.

use std::format;
use std::string::{String, ToString as _};
use std::vec::Vec;

use super::super::tests::{All, all};
use super::*;
use crate::report::Code;
use crate::state::{self, State, SubsectionDescription};

#[derive(State, Debug, PartialEq)]
#[state(id = 7, version = 3, min_version = 2)]
struct Small {
    a: u8,
}

fn small() -> Made {
    Made::of(&[Small::SHAPE], &[5])
}

/// The header and the tables of it are told wrong in this way.
fn told(change: impl FnOnce(&mut Made)) -> String {
    let mut made = small();
    change(&mut made);
    Image::open(&made.bytes()).unwrap_err().to_string()
}

/// Bytes of the metadata are these.
fn poked(at: usize, bytes: &[u8]) -> String {
    let mut meta = small().bytes();
    meta[at..at + bytes.len()].copy_from_slice(bytes);
    repair(&mut meta);
    Image::open(&meta).unwrap_err().to_string()
}

/// Its description is this.
fn schema(bytes: &[u8]) -> String {
    let mut made = small();
    made.shapes[0].2 = bytes.to_vec();
    let bytes = made.bytes();
    assert!(state::restore::<Small>(&bytes).is_err());
    Image::open(&bytes).unwrap().description(7).unwrap_err().to_string()
}

#[test]
fn what_is_made_by_hand_is_what_is_written() {
    assert_eq!(small().bytes(), state::save(&Small { a: 5 }).unwrap());
    assert_eq!(crc(b"123456789"), 0xcbf4_3926);
    let of = Description::parse(All::SHAPE.bytes()).unwrap();
    assert_eq!(description_bytes(&of), All::SHAPE.bytes());
}

#[test]
fn truncated_at_every_byte() {
    let saved = state::Saved::of(&all(), None, true).unwrap();
    let (meta, bytes) = (saved.meta.len(), saved.into_bytes());
    assert_eq!(state::restore::<All>(&bytes).unwrap(), all());
    for cut in 0..bytes.len() {
        let text = state::restore::<All>(&bytes[..cut]).unwrap_err().to_string();
        let expected = match cut {
            0..64 => format!("truncated: header at offset 0x0: found {cut}, expected at least 64 bytes"),
            _ if cut < meta => format!("truncated: meta at offset 0x10: found {cut} bytes, expected {meta}"),
            _ => {
                let (found, all) =
                    (cut.saturating_sub(meta.next_multiple_of(64)), bytes.len() - meta.next_multiple_of(64));
                format!("truncated: bulk at offset 0x18: found {found} bytes, expected {all}")
            }
        };
        assert_eq!(text, expected);
    }
    // And with a header that says that this is all.
    for cut in 64..meta {
        let mut bytes = bytes[..cut].to_vec();
        bytes[16..24].copy_from_slice(&(cut as u64).to_le_bytes());
        bytes[24..32].fill(0);
        repair(&mut bytes);
        let fault = Image::open(&bytes).unwrap_err();
        assert!(matches!(fault.code(), Code::Truncated | Code::StateLength), "{fault}");
    }
}

/// What only the types can know is refused by them; everything else by the walk before.
fn only_types_know(error: &state::Error) -> bool {
    match error.fault().code() {
        Code::StateCondition => true,
        Code::StateNumber => error.fault().found_text().ends_with(" ns"),
        _ => false,
    }
}

#[test]
fn every_bit_flipped() {
    let saved = state::Saved::of(&all(), None, true).unwrap();
    let (meta, bytes) = (saved.meta.len(), saved.into_bytes());
    let (mut restored, mut refused) = (0, 0);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let at_once = state::restore::<All>(&flipped);
        if bit / 8 < meta || bit / 8 >= meta.next_multiple_of(64) {
            at_once.unwrap_err();
        } else {
            assert_eq!(at_once.unwrap(), all(), "padding");
        }
        if bit / 8 >= meta {
            continue;
        }
        repair(&mut flipped);
        let result = state::restore::<All>(&flipped);
        if walked(&flipped).is_ok() && fit::fits_one::<All>(&Image::open(&flipped).unwrap()).is_ok() {
            match result {
                Ok(_) => restored += 1,
                Err(error) if error.fault().code() == Code::StateMissing || only_types_know(&error) => refused += 1,
                // A longer array of bulk data, a checksum of them.
                Err(error) => {
                    assert!(matches!(error.fault().code(), Code::Checksum | Code::Truncated), "bit {bit}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(restored > 1000 && refused > 50, "{restored} {refused}");
}

#[test]
fn another_version_of_the_format_is_a_mismatch_and_no_corruption() {
    let mut bytes = small().bytes();
    bytes[8] = 2;
    let error = state::restore::<Small>(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "version-newer: version at offset 0x8: found kho-state-v2, expected kho-state-v1");
    bytes[8] = 0;
    let error = state::restore::<Small>(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "version-older: version at offset 0x8: found kho-state-v0, expected kho-state-v1");
    bytes[0] = b'k';
    let error = state::restore::<Small>(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "magic: magic at offset 0x0: found 0x45544154534f486b, expected 0x45544154534f484b");
}

#[test]
fn both_checksums_are_held_to() {
    let mut bytes = small().bytes();
    let crc = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
    *bytes.last_mut().unwrap() = 6;
    let now = Image::open(&bytes).unwrap_err();
    assert_eq!(
        (now.code(), now.to_string().ends_with(&format!("expected {crc:#010x}"))),
        (Code::Checksum, true),
        "{now}"
    );
    let mut bytes = state::Saved::of(&all(), None, true).unwrap().into_bytes();
    *bytes.last_mut().unwrap() ^= 1;
    let error = state::restore::<All>(&bytes).unwrap_err();
    assert!(error.to_string().starts_with("checksum: bulk_crc at offset 0x24: found 0x"), "{error}");
    // Not asked for, not looked at; but then it is zero.
    bytes[32] = 0;
    repair(&mut bytes);
    assert!(state::restore::<All>(&bytes).unwrap_err().to_string().starts_with("reserved: bulk_crc at offset 0x24: "));
    bytes[36..40].fill(0);
    repair(&mut bytes);
    assert_ne!(state::restore::<All>(&bytes).unwrap(), all());
}

#[test]
fn a_header_that_lies() {
    assert_eq!(
        poked(16, &[0xff; 8]),
        format!("truncated: meta at offset 0x10: found {} bytes, expected {}", small().bytes().len(), u64::MAX)
    );
    assert_eq!(
        poked(16, &63_u64.to_le_bytes()),
        format!("truncated: meta at offset 0x10: found {} bytes, expected 63", small().bytes().len())
    );
    assert_eq!(poked(32, &[4]), "reserved: flags at offset 0x20: 0x4 and 0x0");
    assert_eq!(poked(56, &[1]), "reserved: flags at offset 0x20: 0x0 and 0x1");
    assert_eq!(poked(36, &[1]), "reserved: bulk_crc at offset 0x24: found 0x00000001, expected 0 without the flag");
    assert_eq!(poked(40, &[0xff; 4]), "truncated: uses at offset 0x40: 4294967295");
    assert_eq!(poked(44, &[0xff; 4]), "truncated: instances at offset 0x48: 4294967295");
    assert_eq!(poked(48, &[0xff; 4]), "truncated: resources at offset 0x58: 4294967295");
    let end = small().bytes().len();
    assert_eq!(
        poked(52, &[0xff; 4]),
        format!("truncated: objects[1].type at offset {end:#x}: the data ends before the structure does")
    );
    assert_eq!(poked(52, &[0]), format!("state-length: meta at offset {:#x}: 7 bytes behind the objects", end - 7));
    // The size of the bulk data is only a number until they are asked for.
    let mut bytes = small().bytes();
    bytes[24..32].fill(0xff);
    repair(&mut bytes);
    assert_eq!(
        state::restore::<Small>(&bytes).unwrap_err().to_string(),
        format!("truncated: bulk at offset 0x18: found 0 bytes, expected {}", u64::MAX)
    );
}

#[test]
fn lengths_that_lie() {
    let at = 64 + 8 + 16;
    let left = small().bytes().len() - at;
    // Longer than what is left, in each form; and the number itself at the end.
    assert_eq!(
        poked(at, &[0xfd]),
        format!(
            "state-length: shapes at offset {at:#x}: found 126, expected at most {}, the bytes that are left",
            left - 1
        )
    );
    assert_eq!(
        poked(at, &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        format!(
            "state-length: shapes at offset {at:#x}: found {}, expected at most {}, the bytes that are left",
            u64::MAX,
            left - 9
        )
    );
    assert_eq!(poked(at, &[2, 0]), format!("state-number: shapes at offset {at:#x}: {}", Code::StateNumber.about()));
    let end = small().bytes().len();
    assert_eq!(
        poked(end - 2, &[5]),
        format!(
            "state-length: objects[0].length at offset {:#x}: found 2, expected at most 1, the bytes that are left",
            end - 2
        )
    );
    assert_eq!(
        poked(end - 2, &[1]),
        format!("state-length: meta at offset {:#x}: 1 bytes behind the objects", end - 1)
    );
    assert_eq!(
        told(|made| made.objects[0].0 = Kind::Scalar(99)),
        format!(
            "state-schema: objects[0].type at offset {:#x}: found 99, expected a type that this reader knows",
            end - 7
        )
    );
}

#[test]
fn ids_that_are_there_twice_or_name_nothing() {
    let twice = |made: &mut Made| made.shapes.push(made.shapes[0].clone());
    assert_eq!(told(twice), "state-id: uses: found id 7, expected ids that ascend");
    let falls = |made: &mut Made| made.shapes.push((6, 1, made.shapes[0].2.clone()));
    assert_eq!(told(falls), "state-id: uses: found id 6, expected ids that ascend");
    let again = |made: &mut Made| {
        made.instances.push(made.instances[0]);
    };
    assert_eq!(told(again), "state-id: instances[1]: found id 7, number 0, expected rows that ascend");
    let one_object = |made: &mut Made| made.instances.push((1, 7, 0));
    assert_eq!(told(one_object), "state-id: instances[1]: found object 0, expected one that no row before it has");
    assert_eq!(
        told(|made| made.instances[0].2 = 1),
        "state-id: instances[0]: found object 1, expected one that is there"
    );
    assert_eq!(told(|made| made.instances[0].1 = 8), "state-id: instances[0]: found state 7, expected state 8");
    let stranger = |made: &mut Made| made.objects[0].0 = Kind::Seq(Box::new(Kind::State(7)));
    assert_eq!(told(stranger), "state-id: instances[0]: found [state 7], expected state 7");
    assert_eq!(told(|made| made.shapes.clear()), "state-id: instances[0]: no description of id 7");
    let of_another = |made: &mut Made| {
        made.shapes[0].0 = 8;
        made.instances[0].1 = 8;
        made.objects[0].0 = Kind::State(8);
    };
    let mut made = small();
    of_another(&mut made);
    let bytes = made.bytes();
    let text = Image::open(&bytes).unwrap().description(8).unwrap_err().to_string();
    assert_eq!(text, "state-schema: shapes[8].id at offset 0x59: found 7, expected 8");
}

#[test]
fn more_descriptions_than_are_followed() {
    let mut made = Made::default();
    for id in 1..=4097 {
        made.shapes.push((id, 1, description_bytes(&described(id, &[("a", Kind::Scalar(kind::U8))]))));
    }
    assert_eq!(
        Image::open(&made.bytes()).unwrap_err().to_string(),
        "too-large: uses: found 4097, expected at most 4096"
    );
    made.shapes.pop();
    assert_eq!(Image::open(&made.bytes()).unwrap().descriptions().unwrap().len(), 4096);
}

#[test]
fn versions_outside_of_what_the_description_says() {
    for version in [0, 1, 4, u32::MAX] {
        let mut made = small();
        made.shapes[0].1 = version;
        let bytes = made.bytes();
        let text = format!("state-schema: shapes[7].version at offset 0x59: found {version}, expected 2 to 3");
        assert_eq!(Image::open(&bytes).unwrap().description(7).unwrap_err().to_string(), text);
        assert_eq!(state::restore::<Small>(&bytes).unwrap_err().to_string(), text);
    }
}

#[test]
fn descriptions_that_contradict_themselves() {
    let whole = || described(7, &[("a", Kind::Scalar(kind::U8))]);
    let with = |change: &dyn Fn(&mut Description)| {
        let mut of = whole();
        change(&mut of);
        let mut made = small();
        made.shapes[0] = (7, 1, description_bytes(&of));
        Image::open(&made.bytes()).unwrap().description(7).unwrap_err().to_string()
    };
    let fields = |of: &mut Description,
                  change: &dyn Fn(&mut Vec<FieldDescription>, &mut Vec<SubsectionDescription>)| {
        let DescriptionBody::Struct { fields, subsections } = &mut of.body else { return };
        change(fields, subsections);
    };
    let typed = |ty: Kind| with(&|of| fields(of, &|fields, _| fields[0].ty = ty.clone()));
    assert_eq!(with(&|of| of.id = 0), "state-schema: shapes[7].id at offset 0x59: found 0, expected an id");
    assert_eq!(
        with(&|of| of.min_version = 2),
        "state-schema: shapes[7].min_version at offset 0x61: found 2, expected 1 to 1"
    );
    assert_eq!(
        with(&|of| of.min_version = 0),
        "state-schema: shapes[7].min_version at offset 0x61: found 0, expected 1 to 1"
    );
    // It takes no bytes: a list could claim any number of it.
    assert_eq!(
        with(&|of| fields(of, &|fields, _| fields.clear())),
        "state-schema: shapes[7].fields at offset 0x59: found none, expected a field in version 1"
    );
    assert_eq!(
        with(&|of| fields(of, &|fields, _| fields[0].since = 2)),
        "state-schema: shapes[7].fields at offset 0x59: found none, expected a field in version 1"
    );
    assert_eq!(
        with(&|of| fields(of, &|fields, _| fields[0].until = 1)),
        "state-schema: shapes[7].until at offset 0x6e: found 1, expected 0, or more than 1"
    );
    let part = |id| SubsectionDescription { name: "p".into(), id, required: false };
    assert_eq!(
        with(&|of| fields(of, &|_, parts| parts.extend([part(9), part(9)]))),
        "state-schema: shapes[7].subsections at offset 0x7f: 9 twice"
    );
    let variant = |tag| state::VariantDescription { name: "v".into(), tag, since: 1, fields: Vec::new() };
    let tags = |of: &mut Description| of.body = DescriptionBody::Enum { variants: vec![variant(3), variant(3)] };
    assert_eq!(with(&tags), "state-schema: shapes[7].variants at offset 0x74: 3 twice");
    assert_eq!(
        typed(Kind::Array(0, Box::new(Kind::Scalar(kind::U8)))),
        "state-schema: shapes[7].count at offset 0x71: found 0, expected at least 1"
    );
    assert_eq!(
        typed(Kind::Tuple(Vec::new())),
        "state-schema: shapes[7].tuple at offset 0x71: found 0, expected at least 1"
    );
    assert_eq!(
        typed(Kind::Scalar(16)),
        "state-schema: shapes[7].type at offset 0x70: found 16, expected a type that this reader knows"
    );
    assert_eq!(
        typed(Kind::Plain(kind::STR)),
        "state-schema: shapes[7].element at offset 0x71: found 15, expected a type of fixed size"
    );
    assert_eq!(
        typed(Kind::Records { name: "r".into(), size: 0 }),
        "state-schema: shapes[7].size at offset 0x74: found 0, expected at least 1"
    );
    let nested = (0..8).fold(Kind::Scalar(kind::U8), |of, _| Kind::Option(Box::new(of)));
    assert_eq!(typed(nested), "state-depth: shapes[7].type at offset 0x78: expected at most 8 types in each other");
}

#[test]
fn descriptions_of_bytes_that_mean_nothing() {
    let good = Small::SHAPE.bytes();
    for cut in 0..good.len() {
        let text = schema(&good[..cut]);
        // A count is held against what is left.
        let code = if cut == 21 { "state-schema" } else { "truncated" };
        assert!(text.starts_with(&format!("{code}: shapes[7].")), "{cut}: {text}");
    }
    assert_eq!(
        schema(&[good, &[0]].concat()),
        format!("state-schema: shapes[7].description at offset {:#x}: bytes behind it", 0x59 + good.len())
    );
    let with = |at: usize, bytes: &[u8]| {
        let mut all = good.to_vec();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        schema(&all)
    };
    assert_eq!(with(12, &[2]), "state-schema: shapes[7].ignorable at offset 0x65: found 2, expected 0 or 1");
    // `small`, of five letters.
    assert_eq!(with(14, &[0xff]), "text: shapes[7].name at offset 0x67: found \"\\xffmall\", expected a name in UTF-8");
    assert_eq!(
        with(14, b"\x1b[2J"),
        "text: shapes[7].name at offset 0x67: found \"\\x1b[2Jl\", expected a name in UTF-8"
    );
    assert_eq!(
        with(14, "\u{85}".as_bytes()),
        "text: shapes[7].name at offset 0x67: found \"\\xc2\\x85all\", expected a name in UTF-8"
    );
    assert_eq!(with(13, &[0]), "text: shapes[7].name at offset 0x67: found \"\", expected a name in UTF-8");
    assert_eq!(
        with(19, &[52]),
        "state-schema: shapes[7].body at offset 0x6c: found 52, expected a structure or an enum"
    );
    assert_eq!(with(20, &[0xff]), "state-schema: shapes[7].fields at offset 0x6d: found 127, expected at most 7");
    assert_eq!(with(25, &[2]), "state-schema: shapes[7].when at offset 0x72: found 2, expected 0 or 1");
    // A number that could be shorter, and one beyond 32 bits.
    let long = [&good[..23], &[2, 0], &good[24..]].concat();
    assert_eq!(
        schema(&long),
        "state-number: shapes[7].since at offset 0x70: a number that is not written in its shortest form, or beyond the range of its type"
    );
    let wide = [&good[..23], &number(1 << 32), &good[24..]].concat();
    assert_eq!(
        schema(&wide),
        "state-schema: shapes[7].since at offset 0x70: found 4294967296, expected at most 32 bits"
    );
}
