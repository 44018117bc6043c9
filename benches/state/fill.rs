//! The values: the same in every run, and like those of real machines. Most registers are zero or small, some are whole
//! addresses; save areas and configuration spaces are mostly zero.

use crate::models::{
    Device, Lapic, Map, MpState, Msr, Pages, Pci, Queue, Record, Rtc, Segment, Serial, Sregs, Timer, TimerMode, Vcpu,
    VirtioBlk, VirtioNet, Vmm, XSAVE_BYTES,
};

/// `splitmix64`: small, seeded, and good enough for values.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// What a register has: 40 % zero, 30 % a count or an offset, 20 % an address of the kernel, 10 % of a program.
    fn register(&mut self) -> u64 {
        match self.below(10) {
            0..=3 => 0,
            4..=6 => self.below(1 << 16),
            7 | 8 => 0xffff_8880_0000_0000 | self.below(1 << 38) & !7,
            _ => 0x7f00_0000_0000 | self.below(1 << 40),
        }
    }

    /// An address of the guest's memory, of 64 GiB.
    fn guest(&mut self, align: u64) -> u64 {
        self.below(1 << 36) & !(align - 1)
    }

    fn mostly_zero(&mut self, bytes: &mut [u8], percent: u64) {
        for byte in bytes {
            if self.chance(percent) {
                *byte = self.next() as u8;
            }
        }
    }

    fn config(&mut self) -> Vec<u8> {
        let mut config = vec![0; 256];
        self.mostly_zero(&mut config[..64], 50);
        self.mostly_zero(&mut config[64..], 5);
        config
    }

    fn queues(&mut self, count: usize) -> Vec<Queue> {
        let queue = |random: &mut Random| {
            let ready = random.chance(80);
            let mut address = |align| if ready { random.guest(align) } else { 0 };
            let (desc, avail, used) = (address(4096), address(2), address(4));
            Queue { size: 256, ready, desc, avail, used, next_avail: if ready { random.next() as u16 } else { 0 } }
        };
        (0..count).map(|_| queue(self)).collect()
    }
}

pub(crate) fn vmm(vcpus: u32, devices: usize) -> Vmm {
    let mut random = Random(1);
    Vmm {
        vcpus: (0..vcpus).map(|id| vcpu(&mut random, id)).collect(),
        devices: (0..devices).map(|number| device(&mut random, number)).collect(),
    }
}

fn segment(random: &mut Random, number: usize) -> Segment {
    // In long mode, only fs, gs, tr and ldt have a base.
    let based = matches!(number, 3 | 4 | 6);
    Segment {
        base: if based { random.register() } else { 0 },
        limit: if based { 0x67 } else { 0xffff_ffff },
        selector: (number as u16 + 1) * 8,
        kind: if number == 0 { 11 } else { 3 },
        dpl: if random.chance(30) { 3 } else { 0 },
        present: number != 7,
        code_or_data: number < 6,
        long: number == 0,
        big: number != 0,
        granular: !based,
        unusable: number == 7,
    }
}

fn vcpu(random: &mut Random, id: u32) -> Vcpu {
    let mut xsave = [0; XSAVE_BYTES];
    // x87 and half of the sixteen registers of SSE are used, then the header says what is there; the rest is AVX's.
    random.mostly_zero(&mut xsave[..160], 15);
    random.mostly_zero(&mut xsave[160..288], 90);
    xsave[512] = 7;
    random.mostly_zero(&mut xsave[576..], 10);
    let msr = |random: &mut Random, number: u32| Msr {
        index: if number < 16 { 0x10 + number * 7 } else { 0xc000_0080 + number },
        value: random.register(),
    };
    let lapic_reg = |random: &mut Random| match random.below(10) {
        0..=5 => 0,
        6..=8 => random.below(256) as u32,
        _ => random.next() as u32,
    };
    Vcpu {
        id,
        regs: std::array::from_fn(|_| random.register()),
        sregs: Sregs {
            segments: std::array::from_fn(|number| segment(random, number)),
            cr0: 0x8005_0033,
            cr2: random.register(),
            cr3: random.guest(4096),
            cr4: 0x3706f0,
            cr8: 0,
            efer: 0xd01,
        },
        xsave,
        msrs: (0..40).map(|number| msr(random, number)).collect(),
        lapic: Lapic {
            regs: std::array::from_fn(|_| lapic_reg(random)),
            timer: Timer {
                mode: [TimerMode::OneShot, TimerMode::Periodic, TimerMode::Deadline, TimerMode::Deadline]
                    [random.below(4) as usize],
                deadline: random.below(1 << 48),
                divide: 1 << random.below(8),
            },
        },
        mp_state: match random.below(10) {
            0..=4 => MpState::Runnable,
            5..=8 => MpState::Halted,
            _ if random.chance(50) => MpState::Uninitialized,
            _ => MpState::InitReceived,
        },
        pending_irq: random.chance(20).then(|| 32 + random.below(200) as u8),
    }
}

/// Of ten: two serial lines, two network cards, three disks, two passed-through functions, one clock.
fn device(random: &mut Random, number: usize) -> Device {
    match number % 5 {
        0 => Device::Serial(Serial {
            name: format!("serial-{number}"),
            baud_divisor: 1,
            interrupt_enable: 5,
            line_control: 3,
            modem_control: 11,
            line_status: 0x60,
            scratch: 0,
            input: (0..random.below(16)).map(|_| b' ' + random.below(94) as u8).collect(),
        }),
        1 => Device::VirtioNet(VirtioNet {
            name: format!("virtio-net-{number}"),
            mac: [0x52, 0x54, 0, random.next() as u8, random.next() as u8, number as u8],
            mtu: 1500,
            link_up: random.chance(90),
            features: 0x1_3001_0023 | random.below(1 << 20) << 8,
            status: 15,
            queues: random.queues(9),
            config: random.config(),
        }),
        2 | 3 if number % 10 != 8 => Device::VirtioBlk(VirtioBlk {
            name: format!("virtio-blk-{number}"),
            path: format!("/var/lib/machines/guest-17/disk-{number}.raw"),
            sectors: random.below(1 << 31),
            read_only: random.chance(20),
            features: 0x1_3000_0e54,
            status: 15,
            queues: random.queues(4),
            config: random.config(),
        }),
        4 => Device::Pci(Pci {
            name: format!("0000:00:{number:02x}.0"),
            bus: 0,
            slot: number as u8,
            function: 0,
            bars: std::array::from_fn(|bar| if bar < 2 { random.guest(4096) } else { 0 }),
            config: random.config(),
        }),
        _ => {
            let mut cmos = vec![0; 128];
            random.mostly_zero(&mut cmos, 30);
            Device::Rtc(Rtc {
                name: format!("rtc-{number}"),
                index: random.below(128) as u8,
                cmos,
                offset_seconds: random.below(7200) as i64 - 3600,
            })
        }
    }
}

pub(crate) fn map(count: usize) -> Map {
    let mut random = Random(2);
    let record = |random: &mut Random| Record {
        hits: if random.chance(70) { random.below(100) as u32 } else { random.below(1 << 24) as u32 },
        size: random.below(1 << 20) as u32,
        // Seconds since 1970, within a year.
        expires: 1_780_000_000 + random.below(31_536_000),
        flags: if random.chance(80) { 0 } else { random.below(8) as u8 },
        name: (0..8 + random.below(9)).map(|_| char::from(b'a' + random.below(26) as u8)).collect(),
    };
    let mut map = Map { records: Default::default() };
    while map.records.len() < count {
        // Keys are hashes, as often in caches.
        let key = random.next();
        map.records.insert(key, record(&mut random));
    }
    map
}

pub(crate) fn pages(bytes: usize) -> Pages {
    let mut random = Random(3);
    Pages { bytes: (0..bytes / 8).flat_map(|_| random.next().to_le_bytes()).collect() }
}
