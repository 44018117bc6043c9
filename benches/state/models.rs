//! What is saved, as an application would declare it. All formats but prost have these very types; prost's are in
//! `proto.rs`.
//!
//! `serde_bytes` and `serde_big_array` are what serde needs for its best: without them bytes are sequences of numbers.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use kho::state::State;
use rkyv::Archive;
use serde::{Deserialize, Serialize};

/// The bytes of a save area for SSE and AVX: legacy region, header, upper halves.
pub(crate) const XSAVE_BYTES: usize = 832;

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 101, version = 1)]
pub(crate) struct Vmm {
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) devices: Vec<Device>,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 102, version = 1)]
pub(crate) struct Vcpu {
    pub(crate) id: u32,
    /// Sixteen general registers, rip, rflags.
    pub(crate) regs: [u64; 18],
    pub(crate) sregs: Sregs,
    #[serde(with = "serde_bytes")]
    pub(crate) xsave: [u8; XSAVE_BYTES],
    pub(crate) msrs: Vec<Msr>,
    pub(crate) lapic: Lapic,
    pub(crate) mp_state: MpState,
    pub(crate) pending_irq: Option<u8>,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 103, version = 1)]
pub(crate) struct Sregs {
    /// cs, ds, es, fs, gs, ss, tr, ldt.
    pub(crate) segments: [Segment; 8],
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) cr8: u64,
    pub(crate) efer: u64,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 104, version = 1)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) limit: u32,
    pub(crate) selector: u16,
    pub(crate) kind: u8,
    pub(crate) dpl: u8,
    pub(crate) present: bool,
    pub(crate) code_or_data: bool,
    pub(crate) long: bool,
    pub(crate) big: bool,
    pub(crate) granular: bool,
    pub(crate) unusable: bool,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 105, version = 1)]
pub(crate) struct Msr {
    pub(crate) index: u32,
    pub(crate) value: u64,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 106, version = 1)]
pub(crate) struct Lapic {
    #[serde(with = "serde_big_array::BigArray")]
    pub(crate) regs: [u32; 64],
    pub(crate) timer: Timer,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 107, version = 1)]
pub(crate) struct Timer {
    pub(crate) mode: TimerMode,
    pub(crate) deadline: u64,
    pub(crate) divide: u8,
}

#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 108, version = 1)]
pub(crate) enum TimerMode {
    #[state(tag = 1)]
    OneShot,
    #[state(tag = 2)]
    Periodic,
    #[state(tag = 3)]
    Deadline,
}

#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 109, version = 1)]
pub(crate) enum MpState {
    #[state(tag = 1)]
    Runnable,
    #[state(tag = 2)]
    Uninitialized,
    #[state(tag = 3)]
    InitReceived,
    #[state(tag = 4)]
    Halted,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 110, version = 1)]
pub(crate) enum Device {
    #[state(tag = 1)]
    Serial(Serial),
    #[state(tag = 2)]
    VirtioNet(VirtioNet),
    #[state(tag = 3)]
    VirtioBlk(VirtioBlk),
    #[state(tag = 4)]
    Rtc(Rtc),
    #[state(tag = 5)]
    Pci(Pci),
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 111, version = 1)]
pub(crate) struct Serial {
    pub(crate) name: String,
    pub(crate) baud_divisor: u16,
    pub(crate) interrupt_enable: u8,
    pub(crate) line_control: u8,
    pub(crate) modem_control: u8,
    pub(crate) line_status: u8,
    pub(crate) scratch: u8,
    #[serde(with = "serde_bytes")]
    pub(crate) input: Vec<u8>,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 112, version = 1)]
pub(crate) struct VirtioNet {
    pub(crate) name: String,
    #[serde(with = "serde_bytes")]
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u16,
    pub(crate) link_up: bool,
    pub(crate) features: u64,
    pub(crate) status: u8,
    pub(crate) queues: Vec<Queue>,
    #[serde(with = "serde_bytes")]
    pub(crate) config: Vec<u8>,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 113, version = 1)]
pub(crate) struct VirtioBlk {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) sectors: u64,
    pub(crate) read_only: bool,
    pub(crate) features: u64,
    pub(crate) status: u8,
    pub(crate) queues: Vec<Queue>,
    #[serde(with = "serde_bytes")]
    pub(crate) config: Vec<u8>,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 114, version = 1)]
pub(crate) struct Queue {
    pub(crate) size: u16,
    pub(crate) ready: bool,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    pub(crate) next_avail: u16,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 115, version = 1)]
pub(crate) struct Rtc {
    pub(crate) name: String,
    pub(crate) index: u8,
    #[serde(with = "serde_bytes")]
    pub(crate) cmos: Vec<u8>,
    pub(crate) offset_seconds: i64,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 116, version = 1)]
pub(crate) struct Pci {
    pub(crate) name: String,
    pub(crate) bus: u8,
    pub(crate) slot: u8,
    pub(crate) function: u8,
    pub(crate) bars: [u64; 6],
    #[serde(with = "serde_bytes")]
    pub(crate) config: Vec<u8>,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 117, version = 1)]
pub(crate) struct Map {
    pub(crate) records: BTreeMap<u64, Record>,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 118, version = 1)]
pub(crate) struct Record {
    pub(crate) hits: u32,
    pub(crate) size: u32,
    pub(crate) expires: u64,
    pub(crate) flags: u8,
    pub(crate) name: String,
}

#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Encode,
    Decode,
    State,
    Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[state(id = 119, version = 1)]
pub(crate) struct Pages {
    #[serde(with = "serde_bytes")]
    #[state(plain)]
    pub(crate) bytes: Vec<u8>,
}
