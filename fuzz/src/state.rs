//! A state of many kinds of fields, and any metadata as a handover.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use kho::abi::state::Blob as Wire;
use kho::abi::vmalloc::Descriptor;
use kho::compat::CompatList;
use kho::handover::{Blob, Outgoing, Preserve, Scope};
use kho::mem::{Geometry, Order, PhysAddr, Ram};
use kho::report::Fault;
use kho::state::{Image, MADE_OF, RcLink, State};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// The root of what the target reads.
#[derive(State, Debug, Default)]
#[state(id = 1, version = 2)]
#[state(deprecated(name = "old", ty = u16, until = 2, after = "number"))]
pub struct Bus {
    number: u32,
    name: String,
    #[state(since = 2, default)]
    time: Duration,
    devices: Vec<Rc<Device>>,
    first: RcLink<Device>,
    by_name: BTreeMap<String, Kind>,
    sets: BTreeSet<BTreeSet<u16>>,
    #[state(default, when = |number| *number > 9)]
    more: Option<(i64, u128, char)>,
    #[state(plain)]
    bulk: Vec<u32>,
    #[state(subsection = required)]
    kind: Option<Kind>,
    #[state(subsection = ignorable)]
    extra: Option<Extra>,
}

/// What a bus has.
#[derive(State, Debug, Default)]
#[state(id = 2, version = 1)]
pub struct Device {
    irq: [u8; 3],
    next: Option<Rc<Device>>,
    flag: bool,
}

/// One of several.
#[derive(State, Debug, Default)]
#[state(id = 3, version = 1)]
pub enum Kind {
    /// None.
    #[default]
    #[state(tag = 1)]
    None,
    /// Of others.
    #[state(tag = 300)]
    Of {
        /// The others.
        all: Vec<Kind>,
        /// A number.
        number: i16,
    },
}

/// What may be left.
#[derive(State, Debug, Default)]
#[state(id = 4, version = 1, ignorable)]
pub struct Extra {
    float: f64,
}

impl Bus {
    /// Some of everything.
    #[must_use]
    pub fn full() -> Bus {
        let device = Rc::new(Device { irq: [1, 2, 3], next: None, flag: true });
        let next = Rc::new(Device { irq: [4, 5, 6], next: Some(device.clone()), flag: false });
        let first = RcLink::to(&device);
        let of = || Kind::Of { all: vec![Kind::None], number: -300 };
        Bus {
            number: 300,
            name: "bus".into(),
            time: Duration::from_millis(1500),
            devices: vec![next, device],
            first,
            by_name: BTreeMap::from([("a".into(), of()), ("b".into(), Kind::None)]),
            sets: BTreeSet::from([BTreeSet::from([1, 300]), BTreeSet::new()]),
            more: Some((-1, 1 << 100, 'x')),
            bulk: vec![7; 40],
            kind: Some(of()),
            extra: Some(Extra { float: 1.5 }),
        }
    }

    /// Whether nothing was restored into it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        format!("{self:?}") == format!("{:?}", Bus::default())
    }
}

/// The same bytes, with the size and the checksum that they should have, so that the rest of them is looked at.
#[must_use]
pub fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut meta = bytes.to_vec();
    if let Some(head) = meta.get_mut(..24) {
        head[..8].copy_from_slice(b"KHOSTATE");
        head[8..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        head[16..24].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        let mut crc = u32::MAX;
        for byte in &meta {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            }
        }
        meta[12..16].copy_from_slice(&(!crc).to_le_bytes());
    }
    meta
}

/// Metadata as a node of a handover.
pub struct Raw<'a>(pub &'a [u8]);

impl Preserve<Ram> for Raw<'_> {
    fn compat(&self) -> CompatList<'static> {
        MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        // As many bulk data as it says, when that is not more than there may be.
        let bulk = Image::header(self.0)?.bulk.get();
        let bytes = vec![0; usize::try_from(bulk.min(64 << 10)).unwrap_or(0)];
        let bulk_blocks = match bytes.len() {
            0 => Descriptor::new_zeroed(),
            _ => scope.area_of(Order::ZERO, &bytes)?.descriptor,
        };
        let meta_blocks = scope.area_of(Order::ZERO, self.0)?.descriptor;
        let meta = (self.0.len() as u64).into();
        scope.blob(Wire { meta, bulk: bulk.into(), meta_blocks, bulk_blocks }.as_bytes())
    }
}

impl Raw<'_> {
    /// The handover; none where it is too large.
    #[must_use]
    pub fn handed_over(&self) -> Option<(Ram, PhysAddr)> {
        let mut outgoing = Outgoing::new(crate::empty(Geometry::K4));
        outgoing.preserve("state", self).ok()?;
        let (memory, root) = outgoing.finish().ok()?.into_parts();
        Some((memory, root.start()))
    }
}
