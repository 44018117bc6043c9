//! The lock with invented layouts.

use super::*;

fn field(offset: u64, size: u64, name: &str, ty: &str) -> Field {
    Field { name: name.into(), offset, size, ty: ty.into() }
}

/// `shop-vN`: one structure of three fields, and three values.
fn shop(version: u32) -> Entry {
    let fields = vec![field(0, 8, "next", "U64"), field(8, 4, "count", "U32"), field(12, 4, "flags", "U32")];
    let values = [("const MAGIC", "0x7 (u32)"), ("const FLAG", "0x1 (u16)"), ("page 4K records", "63")];
    Entry {
        key: format!("shop-v{version}"),
        values: values.map(|(key, value)| (key.to_string(), value.to_string())).into(),
        structures: [("Order".to_string(), Structure { size: 16, align: Some(8), fields })].into(),
        ..Entry::default()
    }
}

fn published(entry: Entry) -> Entry {
    Entry { published: Some("kho 0.1.0".into()), ..entry }
}

fn order(entry: &mut Entry) -> &mut Structure {
    entry.structures.get_mut("Order").unwrap()
}

/// What is said of a change under the same version, published or not; blessing refuses exactly the published one.
fn said(change: impl Fn(&mut Entry)) -> Vec<String> {
    let mut now = shop(1);
    change(&mut now);
    let code = [now.clone()];
    let said = [shop(1), published(shop(1))].map(|locked| {
        let lock = Lock::new([locked.clone()]);
        let complaints = lock.check(&code);
        let [Complaint { what: What::Changed(list), .. }] = complaints.as_slice() else { panic!("{complaints:?}") };
        match lock.bless(&code) {
            Ok(blessed) => {
                assert!(locked.published.is_none());
                assert_eq!(blessed.check(&code), []);
                assert_ne!(now.fingerprint(), locked.fingerprint());
            }
            Err(refusal) => {
                assert!(locked.published.is_some());
                assert_eq!(refusal.0, complaints);
                assert!(refusal.to_string().contains("shop-v1 is published (kho 0.1.0) and never changes"));
            }
        }
        list.iter().map(ToString::to_string).collect::<Vec<_>>()
    });
    assert_eq!(said[0], said[1]);
    said[0].clone()
}

#[test]
fn nothing_changed() {
    let lock = Lock::new([published(shop(1))]);
    assert_eq!(lock.check(&[shop(1)]), []);
    assert_eq!(lock.bless(&[shop(1)]).unwrap(), lock);
}

#[test]
fn a_field_that_moved() {
    let moved = said(|now| {
        order(now).fields[1].offset = 12;
        order(now).fields[2].offset = 8;
    });
    assert_eq!(moved, ["Order.count: moved 8 -> 12", "Order.flags: moved 12 -> 8"]);
}

#[test]
fn a_field_with_another_name() {
    assert_eq!(said(|now| order(now).fields[1].name = "number".into()), ["Order.count: renamed count -> number"]);
}

#[test]
fn a_wider_field() {
    let wider = said(|now| {
        order(now).fields[2] = field(12, 8, "flags", "U64");
        order(now).size = 24;
    });
    assert_eq!(wider, ["Order: size 16 -> 24", "Order.flags: size 4 -> 8", "Order.flags: type U32 -> U64"]);
}

#[test]
fn another_type_of_the_same_width() {
    assert_eq!(said(|now| order(now).fields[2].ty = "I32".into()), ["Order.flags: type U32 -> I32"]);
}

#[test]
fn a_new_field_at_the_end() {
    let longer = said(|now| {
        order(now).fields.push(field(16, 8, "nonce", "U64"));
        order(now).size = 24;
    });
    assert_eq!(longer, ["Order: size 16 -> 24", "Order.nonce: new, U64 of 8 bytes at 16"]);
}

#[test]
fn a_field_that_is_gone() {
    let gone = said(|now| {
        order(now).fields.pop();
    });
    assert_eq!(gone, ["Order.flags: gone, was U32 of 4 bytes at 12"]);
}

#[test]
fn another_alignment() {
    assert_eq!(said(|now| order(now).align = Some(1)), ["Order: align 8 -> 1"]);
}

#[test]
fn a_structure_more_or_less() {
    assert_eq!(said(|now| now.structures.clear()), ["Order: gone, was 16 bytes"]);
    let more = said(|now| {
        now.structures.insert("Row".into(), Structure { size: 8, align: Some(8), fields: Vec::new() });
    });
    assert_eq!(more, ["Row: new, 8 bytes"]);
}

#[test]
fn constants_and_formulas() {
    let removed = said(|now| {
        now.values.remove("const MAGIC");
    });
    assert_eq!(removed, ["const MAGIC: gone, was 0x7 (u32)"]);
    let set = |key: &'static str, value: &'static str| {
        said(move |now| {
            now.values.insert(key.into(), value.into());
        })
    };
    assert_eq!(set("const FLAG", "0x1 (u32)"), ["const FLAG: value 0x1 (u16) -> 0x1 (u32)"]);
    assert_eq!(set("page 4K records", "62"), ["page 4K records: value 63 -> 62"]);
    assert_eq!(set("property /data csum", "native u32"), ["property /data csum: new, native u32"]);
}

#[test]
fn a_new_version_beside_the_published_one() {
    let lock = Lock::new([published(shop(1))]);
    let mut second = shop(2);
    order(&mut second).fields[2] = field(12, 4, "state", "U32");
    let code = [shop(1), second.clone()];
    assert_eq!(
        lock.check(&code).iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["shop-v2: not in the lock; KHO_BLESS=1 cargo test --test abi_lock adds it"]
    );
    let mut blessed = lock.bless(&code).unwrap();
    assert_eq!(blessed.entries["shop-v1"], published(shop(1)));
    assert_eq!(blessed.entries["shop-v2"], second);
    assert_eq!(blessed.find("shop", None).unwrap().key, "shop-v2");
    assert_eq!(blessed.find("shop", Some(1)).unwrap().key, "shop-v1");

    // A release publishes what is left, and leaves the marks that are there.
    blessed.publish("kho 0.2.0");
    assert_eq!(blessed.entries["shop-v1"].published.as_deref(), Some("kho 0.1.0"));
    assert_eq!(blessed.entries["shop-v2"].published.as_deref(), Some("kho 0.2.0"));
    let mut third = second;
    third.values.clear();
    assert!(blessed.bless(&[shop(1), third]).is_err());
}

#[test]
fn one_refusal_blesses_nothing_else() {
    let mut changed = shop(1);
    changed.values.clear();
    let refusal = Lock::new([published(shop(1))]).bless(&[changed, shop(2)]).unwrap_err();
    assert_eq!(refusal.0.iter().map(|complaint| complaint.key.as_str()).collect::<Vec<_>>(), ["shop-v1"]);
}

#[test]
fn what_the_code_no_longer_has() {
    let lock = Lock::new([published(shop(1)), shop(2)]);
    let whats: Vec<_> = lock.check(&[]).into_iter().map(|complaint| complaint.what).collect();
    assert_eq!(whats, [What::Gone, What::Gone]);
    let blessed = lock.bless(&[]).unwrap();
    // The published one stays, so that its number cannot mean something else one day.
    assert_eq!(blessed.entries.len(), 1);
    assert!(blessed.entries["shop-v1"].retired);
    assert_eq!(blessed.check(&[]), []);
    assert_eq!(blessed.find("shop", None), None);

    let mut other = shop(1);
    order(&mut other).fields.pop();
    assert!(blessed.bless(&[other]).is_err());
    let complaints = blessed.check(&[shop(1)]);
    assert_eq!(complaints[0].what, What::Back);
    assert_eq!(blessed.bless(&[shop(1)]).unwrap(), Lock::new([published(shop(1))]));
}

#[test]
fn what_has_no_version_may_grow_only() {
    let ioctl = || Entry { key: "shop-ioctl".into(), ..published(shop(1)) };
    let lock = Lock::new([ioctl()]);
    let mut more = ioctl();
    more.values.insert("const CLOSE".into(), "0x44 (u8)".into());
    more.structures.insert("Close".into(), Structure { size: 4, align: Some(4), fields: Vec::new() });
    assert!(matches!(lock.check(&[more.clone()])[0].what, What::Grown(_)));
    let blessed = lock.bless(&[more.clone()]).unwrap();
    assert_eq!(blessed.entries["shop-ioctl"], more);
    // Less is never blessed again, nor is a longer structure.
    assert!(blessed.bless(&[ioctl()]).is_err());
    order(&mut more).fields.push(field(16, 8, "nonce", "U64"));
    assert!(blessed.bless(&[more]).is_err());
}

#[test]
fn the_text_is_read_again_as_it_was() {
    let lock = Lock::new([published(shop(1)), Entry { retired: true, ..published(shop(2)) }, shop(10)]);
    let text = lock.to_string();
    assert_eq!(Lock::parse(&text).unwrap(), lock);
    let shown = "\
shop-v1
  published kho 0.1.0
  fingerprint 8d03f0a6d9ab4b1c
  const FLAG = 0x1 (u16)
  const MAGIC = 0x7 (u32)
  page 4K records = 63
  struct Order: 16 bytes, aligned to 8
    0 +8 next: U64
    8 +4 count: U32
    12 +4 flags: U32
";
    let fingerprint = format!("{:016x}", shop(1).fingerprint());
    assert!(text.contains(&shown.replace("8d03f0a6d9ab4b1c", &fingerprint)), "{text}");
}

#[test]
fn a_lock_that_was_edited_by_hand() {
    let text = Lock::new([published(shop(1))]).to_string();
    let line = |broken: &str| Lock::parse(broken).map_err(|error| error.to_string()).unwrap_err();
    assert!(line(&text.replace("12 +4", "16 +4")).contains("it was edited by hand"));
    assert!(line(&text.replace("  fingerprint", "  const")).contains("const, page or property, and its value"));
    assert!(line("  const X = 1\n").contains("line 1: no component before it"));
    assert!(line(&format!("{text}\n{}", shop(1))).contains("a second entry of shop-v1"));
    assert!(line("a-v1\n    0 +8 next: U64\n").contains("a field of no struct"));
    // Who published it is no part of the layout.
    assert!(Lock::parse(&text.replace("kho 0.1.0", "kho 0.1.1")).is_ok());
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_lock_or_an_error(text in "([a-z0-9 +:=\n-]|  |    |struct |bytes|fingerprint ){0,200}") {
        let _ = Lock::parse(&text);
    }
}
