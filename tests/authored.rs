//! What the writers accept, the readers find fine: handovers of whatever anybody may ask for, authored for Linux or for
//! a process, written as an image, and read back as `kho check` reads it.
#![cfg(all(feature = "std", feature = "serde"))]

use kho::handover::Outgoing;
use kho::inspect::{self, Decoded, Options, Problem};
use kho::luo::{Flb, NewContent, NewFile, NewSession, Sessions};
use kho::mem::{Geometry, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram};
use kho::memblock::{NewRange, Ranges};
use kho::memfd::{Contents, NewFolio};
use kho::metadata::Metadata;
use kho::selftest::{Payload, Rule};
use kho::text::Name;
use proptest::collection::vec;
use proptest::prelude::*;

fn geometries() -> impl Strategy<Value = Geometry> {
    prop::sample::select(Geometry::ALL.to_vec())
}

/// A number that is often at an edge.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..10,
        0x1000_u64 - 2..0x1003,
        (0_u32..64).prop_map(|shift| 1 << shift),
        Just(u64::MAX),
        any::<u64>()
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![6 => 0_u32..4, 1 => 4_u32..47].prop_map(|order| Order::new(order).unwrap())
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => "[a-z]{1,3}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..70)]
}

static BYTES: [u8; 0x9000] = [7; 0x9000];

fn bytes() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![Just(0), 0_usize..0x1002, 0..BYTES.len()].prop_map(|len| &BYTES[..len])
}

fn contents(geometry: Geometry) -> impl Strategy<Value = Contents<'static>> {
    let any_folio = (0_u64..40, order(), bytes()).prop_map(|(index, order, bytes)| NewFolio { index, order, bytes });
    let odd = (number(), number(), prop_oneof![Just(0), 0_u32..0x40, any::<u32>()], vec(any_folio, 0..4))
        .prop_map(|(pos, size, seals, folios)| Contents { pos, size, seals, folios });
    let plain = (bytes(), order()).prop_map(move |(bytes, order)| Contents::new(geometry, bytes, order));
    prop_oneof![plain, odd]
}

fn content(geometry: Geometry) -> impl Strategy<Value = NewContent<'static>> {
    let compatible = prop_oneof![Just("memfd-v1".into()), Just("memfd-v2".into()), "[a-z_-]{0,3}v1", ".{0,50}"];
    prop_oneof![
        3 => contents(geometry).prop_map(NewContent::Memfd),
        1 => (compatible, number()).prop_map(|(compatible, data): (String, u64)| NewContent::Opaque { compatible, data }),
    ]
}

fn sessions(geometry: Geometry) -> impl Strategy<Value = Sessions<'static>> {
    let file = (0_u64..9, content(geometry)).prop_map(|(token, content)| NewFile { token, content });
    let session = (name(), vec(file, 0..4)).prop_map(|(name, files)| NewSession { name, files });
    let flb = (name(), number(), 0_u64..3).prop_map(|(name, data, count)| Flb {
        name: Name::from(name.as_slice()),
        data,
        count,
    });
    (0_u64..9, vec(session, 0..4), vec(flb, 0..3)).prop_map(|(number, sessions, flbs)| Sessions {
        number,
        sessions,
        flbs,
    })
}

fn ranges() -> impl Strategy<Value = Ranges<'static>> {
    let name = prop_oneof![3 => "[a-z]{1,4}", 1 => ".{0,17}", 1 => "[ -~]{0,17}"];
    let size = prop_oneof![(0_u64..40).prop_map(|pages| pages << 12), number()];
    let range =
        (name, size, number(), bytes()).prop_map(|(name, size, align, bytes)| NewRange { name, size, align, bytes });
    vec(range, 0..10).prop_map(|ranges| Ranges { ranges })
}

/// Pages, and areas of scratch of which some are in them.
fn place(geometry: Geometry) -> impl Strategy<Value = (PageRange, Vec<PhysRange>)> {
    let unit: u64 = [4 << 20, 32 << 20, 512 << 20][Geometry::ALL.iter().position(|one| *one == geometry).unwrap()];
    let start = prop_oneof![Just(0), Just(1_u64), Just(0x100), 0x4000_u64..0x5000, Just(1 << 36), Just(Pfn::LIMIT)];
    (start, 1_u64..0x1000, vec((0_u64..20, 0_u64..3), 0..3), any::<bool>()).prop_map(
        move |(start, count, areas, far)| {
            let window = PageRange::new(Pfn::new(start.min(Pfn::LIMIT - count)).unwrap(), count).unwrap();
            let base = if far { 1 << 40 } else { window.bytes(geometry).start().get() & !(unit - 1) };
            let area =
                |(at, size): (u64, u64)| PhysRange::new(PhysAddr::new(base.wrapping_add(at * unit)), size * unit);
            (window, areas.into_iter().filter_map(area).collect())
        },
    )
}

/// As `kho check --scratch` reads it.
fn read_back(ram: &Ram, geometry: Geometry, root: PhysAddr, window: PageRange, scratch: &[PhysRange]) -> Decoded {
    let file = tempfile::NamedTempFile::new().unwrap();
    ram.write_image(file.as_file()).unwrap();
    let options = Options {
        fdt: Some(root),
        geometry: Some(geometry),
        base: Some(window.bytes(geometry).start()),
        scratch: scratch.to_vec(),
        ..Options::default()
    };
    inspect::open(file.path(), &options).unwrap()
}

#[derive(Clone, Debug)]
struct Asked {
    geometry: Geometry,
    window: PageRange,
    scratch: Vec<PhysRange>,
    for_linux: bool,
    luo: Sessions<'static>,
    memblock: Ranges<'static>,
    payload: Vec<(Order, &'static [u8])>,
    release: String,
}

fn asked() -> impl Strategy<Value = Asked> {
    geometries().prop_flat_map(|geometry| {
        let payload = vec((order(), bytes()), 0..4);
        let rest = (sessions(geometry), ranges(), payload, prop_oneof!["[0-9.]{1,6}", ".{0,40}"]);
        (place(geometry), any::<bool>(), rest).prop_map(move |(place, for_linux, (luo, memblock, payload, release))| {
            let (window, scratch) = place;
            Asked { geometry, window, scratch, for_linux, luo, memblock, payload, release }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 1 << 20, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64)
    ) })]

    #[test]
    fn what_is_accepted_is_fine(asked in asked()) {
        let ram = Ram::new(asked.geometry, asked.window);
        let outgoing =
            if asked.for_linux { Outgoing::for_linux(ram, &asked.scratch) } else { Ok(Outgoing::new(ram)) };
        let Ok(mut outgoing) = outgoing else { return Ok(()) };
        let free = outgoing.memory().free_pages();
        let rule = Rule::NATIVE;
        let metadata = Metadata { previous_release: asked.release.clone(), kexec_count: 1 };
        let payload = Payload { folios: asked.payload.clone(), rule };
        let done = [
            outgoing.preserve("LUO", &asked.luo),
            outgoing.preserve("memblock", &asked.memblock),
            outgoing.preserve("kho_test", &payload),
            outgoing.preserve("kexec-metadata", &metadata),
        ];
        if done.iter().all(Result::is_err) {
            prop_assert_eq!(outgoing.memory().free_pages(), free, "nothing of it stays");
        }
        let Ok(finished) = outgoing.finish() else { return Ok(()) };
        let root = finished.root().start();
        let (ram, _) = finished.into_parts();
        let scratch = if asked.for_linux { &asked.scratch[..] } else { &[] };
        let decoded = read_back(&ram, asked.geometry, root, asked.window, scratch);
        // Files of a handler that nobody knows are what was asked for.
        let opaque = |problem: &&Problem| problem.text.starts_with("warning: /LUO: component-opaque: sessions[");
        let problems: Vec<_> = decoded.findings.iter().filter(|problem| !opaque(problem)).map(|problem| &problem.text).collect();
        prop_assert!(problems.is_empty(), "{problems:#?}\n{done:?}");
    }
}
