//! The models as a user of prost declares them: these are the application's own types, so turning the other models into
//! them is not timed.
//!
//! What is as a rule an address or mostly large is `fixed64`: it is faster than a varint in both directions, and larger
//! where it is small. Bytes are `Bytes`: prost copies a `Vec<u8>` twice when it restores. Messages are `required`: no
//! `Option` around what is always there.

use std::collections::BTreeMap;

use prost::bytes::Bytes;
use prost::{Enumeration, Message, Oneof};

use crate::models;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Vmm {
    #[prost(message, repeated, tag = "1")]
    vcpus: Vec<Vcpu>,
    #[prost(message, repeated, tag = "2")]
    devices: Vec<Device>,
}

#[derive(Clone, PartialEq, Message)]
struct Vcpu {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(fixed64, repeated, tag = "2")]
    regs: Vec<u64>,
    #[prost(message, required, tag = "3")]
    sregs: Sregs,
    #[prost(bytes = "bytes", tag = "4")]
    xsave: Bytes,
    #[prost(message, repeated, tag = "5")]
    msrs: Vec<Msr>,
    #[prost(message, required, tag = "6")]
    lapic: Lapic,
    #[prost(enumeration = "MpState", tag = "7")]
    mp_state: i32,
    #[prost(uint32, optional, tag = "8")]
    pending_irq: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Sregs {
    #[prost(message, repeated, tag = "1")]
    segments: Vec<Segment>,
    #[prost(uint64, tag = "2")]
    cr0: u64,
    #[prost(fixed64, tag = "3")]
    cr2: u64,
    #[prost(fixed64, tag = "4")]
    cr3: u64,
    #[prost(uint64, tag = "5")]
    cr4: u64,
    #[prost(uint64, tag = "6")]
    cr8: u64,
    #[prost(uint64, tag = "7")]
    efer: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Segment {
    #[prost(fixed64, tag = "1")]
    base: u64,
    #[prost(fixed32, tag = "2")]
    limit: u32,
    #[prost(uint32, tag = "3")]
    selector: u32,
    #[prost(uint32, tag = "4")]
    kind: u32,
    #[prost(uint32, tag = "5")]
    dpl: u32,
    #[prost(bool, tag = "6")]
    present: bool,
    #[prost(bool, tag = "7")]
    code_or_data: bool,
    #[prost(bool, tag = "8")]
    long: bool,
    #[prost(bool, tag = "9")]
    big: bool,
    #[prost(bool, tag = "10")]
    granular: bool,
    #[prost(bool, tag = "11")]
    unusable: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Msr {
    #[prost(fixed32, tag = "1")]
    index: u32,
    #[prost(fixed64, tag = "2")]
    value: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Lapic {
    #[prost(fixed32, repeated, tag = "1")]
    regs: Vec<u32>,
    #[prost(message, required, tag = "2")]
    timer: Timer,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Timer {
    #[prost(enumeration = "TimerMode", tag = "1")]
    mode: i32,
    #[prost(fixed64, tag = "2")]
    deadline: u64,
    #[prost(uint32, tag = "3")]
    divide: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
enum TimerMode {
    OneShot = 0,
    Periodic = 1,
    Deadline = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
enum MpState {
    Runnable = 0,
    Uninitialized = 1,
    InitReceived = 2,
    Halted = 3,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Serial(Serial),
    #[prost(message, tag = "2")]
    VirtioNet(VirtioNet),
    #[prost(message, tag = "3")]
    VirtioBlk(VirtioBlk),
    #[prost(message, tag = "4")]
    Rtc(Rtc),
    #[prost(message, tag = "5")]
    Pci(Pci),
}

#[derive(Clone, PartialEq, Message)]
struct Serial {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    baud_divisor: u32,
    #[prost(uint32, tag = "3")]
    interrupt_enable: u32,
    #[prost(uint32, tag = "4")]
    line_control: u32,
    #[prost(uint32, tag = "5")]
    modem_control: u32,
    #[prost(uint32, tag = "6")]
    line_status: u32,
    #[prost(uint32, tag = "7")]
    scratch: u32,
    #[prost(bytes = "bytes", tag = "8")]
    input: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct VirtioNet {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    mac: Bytes,
    #[prost(uint32, tag = "3")]
    mtu: u32,
    #[prost(bool, tag = "4")]
    link_up: bool,
    #[prost(fixed64, tag = "5")]
    features: u64,
    #[prost(uint32, tag = "6")]
    status: u32,
    #[prost(message, repeated, tag = "7")]
    queues: Vec<Queue>,
    #[prost(bytes = "bytes", tag = "8")]
    config: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct VirtioBlk {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    path: String,
    #[prost(uint64, tag = "3")]
    sectors: u64,
    #[prost(bool, tag = "4")]
    read_only: bool,
    #[prost(fixed64, tag = "5")]
    features: u64,
    #[prost(uint32, tag = "6")]
    status: u32,
    #[prost(message, repeated, tag = "7")]
    queues: Vec<Queue>,
    #[prost(bytes = "bytes", tag = "8")]
    config: Bytes,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Queue {
    #[prost(uint32, tag = "1")]
    size: u32,
    #[prost(bool, tag = "2")]
    ready: bool,
    #[prost(fixed64, tag = "3")]
    desc: u64,
    #[prost(fixed64, tag = "4")]
    avail: u64,
    #[prost(fixed64, tag = "5")]
    used: u64,
    #[prost(uint32, tag = "6")]
    next_avail: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Rtc {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    index: u32,
    #[prost(bytes = "bytes", tag = "3")]
    cmos: Bytes,
    #[prost(sint64, tag = "4")]
    offset_seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Pci {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    bus: u32,
    #[prost(uint32, tag = "3")]
    slot: u32,
    #[prost(uint32, tag = "4")]
    function: u32,
    #[prost(fixed64, repeated, tag = "5")]
    bars: Vec<u64>,
    #[prost(bytes = "bytes", tag = "6")]
    config: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Map {
    #[prost(btree_map = "uint64, message", tag = "1")]
    records: BTreeMap<u64, Record>,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    hits: u32,
    #[prost(uint32, tag = "2")]
    size: u32,
    #[prost(uint64, tag = "3")]
    expires: u64,
    #[prost(uint32, tag = "4")]
    flags: u32,
    #[prost(string, tag = "5")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Pages {
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

impl From<&models::Vmm> for Vmm {
    fn from(from: &models::Vmm) -> Self {
        Vmm { vcpus: from.vcpus.iter().map(vcpu).collect(), devices: from.devices.iter().map(device).collect() }
    }
}

impl From<&models::Map> for Map {
    fn from(from: &models::Map) -> Self {
        let record = |from: &models::Record| Record {
            hits: from.hits,
            size: from.size,
            expires: from.expires,
            flags: from.flags.into(),
            name: from.name.clone(),
        };
        Map { records: from.records.iter().map(|(&key, from)| (key, record(from))).collect() }
    }
}

impl From<&models::Pages> for Pages {
    fn from(from: &models::Pages) -> Self {
        Pages { bytes: Bytes::copy_from_slice(&from.bytes) }
    }
}

fn vcpu(from: &models::Vcpu) -> Vcpu {
    let msr = |from: &models::Msr| Msr { index: from.index, value: from.value };
    let segment = |from: &models::Segment| Segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector.into(),
        kind: from.kind.into(),
        dpl: from.dpl.into(),
        present: from.present,
        code_or_data: from.code_or_data,
        long: from.long,
        big: from.big,
        granular: from.granular,
        unusable: from.unusable,
    };
    let models::Sregs { segments, cr0, cr2, cr3, cr4, cr8, efer } = &from.sregs;
    let segments = segments.iter().map(segment).collect();
    let models::Timer { mode, deadline, divide } = &from.lapic.timer;
    Vcpu {
        id: from.id,
        regs: from.regs.to_vec(),
        sregs: Sregs { segments, cr0: *cr0, cr2: *cr2, cr3: *cr3, cr4: *cr4, cr8: *cr8, efer: *efer },
        xsave: Bytes::copy_from_slice(&from.xsave),
        msrs: from.msrs.iter().map(msr).collect(),
        lapic: Lapic {
            regs: from.lapic.regs.to_vec(),
            // The variants have the same numbers here and there.
            timer: Timer { mode: *mode as i32, deadline: *deadline, divide: u32::from(*divide) },
        },
        mp_state: from.mp_state as i32,
        pending_irq: from.pending_irq.map(u32::from),
    }
}

fn queue(from: &models::Queue) -> Queue {
    Queue {
        size: from.size.into(),
        ready: from.ready,
        desc: from.desc,
        avail: from.avail,
        used: from.used,
        next_avail: from.next_avail.into(),
    }
}

fn device(from: &models::Device) -> Device {
    let kind = match from {
        models::Device::Serial(from) => Kind::Serial(Serial {
            name: from.name.clone(),
            baud_divisor: from.baud_divisor.into(),
            interrupt_enable: from.interrupt_enable.into(),
            line_control: from.line_control.into(),
            modem_control: from.modem_control.into(),
            line_status: from.line_status.into(),
            scratch: from.scratch.into(),
            input: Bytes::copy_from_slice(&from.input),
        }),
        models::Device::VirtioNet(from) => Kind::VirtioNet(VirtioNet {
            name: from.name.clone(),
            mac: Bytes::copy_from_slice(&from.mac),
            mtu: from.mtu.into(),
            link_up: from.link_up,
            features: from.features,
            status: from.status.into(),
            queues: from.queues.iter().map(queue).collect(),
            config: Bytes::copy_from_slice(&from.config),
        }),
        models::Device::VirtioBlk(from) => Kind::VirtioBlk(VirtioBlk {
            name: from.name.clone(),
            path: from.path.clone(),
            sectors: from.sectors,
            read_only: from.read_only,
            features: from.features,
            status: from.status.into(),
            queues: from.queues.iter().map(queue).collect(),
            config: Bytes::copy_from_slice(&from.config),
        }),
        models::Device::Rtc(from) => Kind::Rtc(Rtc {
            name: from.name.clone(),
            index: from.index.into(),
            cmos: Bytes::copy_from_slice(&from.cmos),
            offset_seconds: from.offset_seconds,
        }),
        models::Device::Pci(from) => Kind::Pci(Pci {
            name: from.name.clone(),
            bus: from.bus.into(),
            slot: from.slot.into(),
            function: from.function.into(),
            bars: from.bars.to_vec(),
            config: Bytes::copy_from_slice(&from.config),
        }),
    };
    Device { kind: Some(kind) }
}
