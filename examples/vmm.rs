//! A virtual machine that goes on while its VMM is replaced: `cargo run --example vmm --features vm-memory`.
//!
//! A VMM has two kinds of state. The memory of the guest is large and is not touched: it is in a memfd, whose descriptor
//! travels, with a table of what of it is where in the guest. The rest is small and has structure: vCPUs with their interrupt controllers, a bus, devices that several
//! parts of the VMM share, and that know the bus they are on.
//!
//! The VMM is upgraded from release 1 to release 2 by exec, and rolled back to release 1. Each time the guest stands
//! still from the moment its vCPUs are frozen to the moment they can run again: the blackout, which is measured.
//!
//! This file plays both releases; its argument says which step of [`ROUTE`] it is. There is no guest: what one would have
//! done to its memory is done by `run`.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};

use kho::abi;
use kho::compat::Terms;
use kho::files::FilesNode;
use kho::guest::{self, GuestMemoryNode};
use kho::handover::{Handle, Outgoing, Registry};
use kho::state::{ArcLink, Origin, State, States, StatesNode, Versions};
use kho::transport::{Arrival, Bundle, Program};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::time::{ClockId, clock_gettime};
use vm_memory::{
    Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
};

/// Which release each process is: an upgrade, and the way back.
const ROUTE: [u32; 3] = [1, 2, 1];

/// The memory of the guest, from which address on and how much, in MiB: on both sides of a hole for devices.
const REGIONS: [(u64, u64); 2] = [(0, 48), (4096, 16)];
const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;
const VCPUS: u32 = 4;

// What is the same in both releases stands here once. Every state has an id that no other one of the program has.

/// What a vCPU does. On the wire a variant is its tag, whatever its name and its place here.
#[derive(State, Debug, PartialEq)]
#[state(id = 10, version = 1)]
enum Mode {
    #[state(tag = 1)]
    Running,
    #[state(tag = 2)]
    Waiting { vector: u8 },
}

/// The interrupt controller of a vCPU, where the VMM has it and not the kernel.
#[derive(State, Debug, PartialEq)]
#[state(id = 11, version = 1)]
struct Lapic {
    timer: u32,
    /// Many bytes, as they are: `plain` copies them as one piece.
    #[state(plain)]
    registers: Vec<u8>,
}

/// What kind of device it is, with what only that kind has.
#[derive(State, Debug, PartialEq)]
#[state(id = 12, version = 1)]
enum Kind {
    #[state(tag = 1)]
    Console { output: VecDeque<u8> },
    #[state(tag = 2)]
    Disk { sectors: u64, in_flight: Vec<(u64, u32)> },
}

/// The code of the VMM, which the releases have in common while their types differ: in real life it is one file, which
/// was edited between them.
macro_rules! code_of_both_releases {
    () => {
        impl Vmm for Vm {
            fn power_on(&mut self) {
                self.vcpus = (0..VCPUS).map(|number| Vcpu::new(number, mode(number), lapic(number))).collect();
                for (irq, kind) in (4..).zip(kinds(0)) {
                    let device = Device::new(irq, kind, ArcLink::to(&self.bus));
                    lock(&self.bus).devices.push(Arc::new(Mutex::new(device)));
                }
                self.console = lock(&self.bus).devices.first().cloned();
            }

            fn run(&mut self, step: usize) {
                self.vcpus.iter_mut().filter(|vcpu| vcpu.mode == Mode::Running).for_each(Vcpu::run);
                if let Some(console) = &self.console
                    && let Kind::Console { output } = &mut lock(console).kind
                {
                    output.push_back(b'0' + step as u8);
                }
            }

            fn check(&self, step: usize) {
                assert_eq!(self.vcpus.len(), VCPUS as usize);
                for (number, vcpu) in (0..).zip(&self.vcpus) {
                    let rip = if vcpu.mode == Mode::Running { step as u64 * u64::from(number + 1) } else { 0 };
                    assert_eq!((vcpu.number, vcpu.rip, &vcpu.mode), (number, rip, &mode(number)));
                    assert_eq!(vcpu.lapic, lapic(number));
                }
                let bus = lock(&self.bus);
                let same = self.console.as_ref().is_some_and(|console| Arc::ptr_eq(console, &bus.devices[0]));
                assert!(same && bus.devices.len() == 2, "there is one console, and it is on the bus");
                for ((irq, kind), device) in (4..).zip(kinds(step)).zip(&bus.devices) {
                    let device = lock(device);
                    assert_eq!((device.irq(), &device.kind), (irq, &kind));
                    assert!(Arc::ptr_eq(&device.bus.get().unwrap(), &self.bus), "the device knows its bus");
                }
            }

            fn frozen_at(&mut self) -> &mut u64 {
                &mut self.frozen_at
            }
        }
    };
}

/// The first release.
mod v1 {
    use super::*;

    #[derive(State, Default)]
    #[state(id = 1, version = 1)]
    pub(super) struct Vm {
        frozen_at: u64,
        vcpus: Vec<Vcpu>,
        bus: Arc<Mutex<Bus>>,
        /// The same object as on the bus: saved once, and the same object again afterwards.
        console: Option<Arc<Mutex<Device>>>,
    }

    #[derive(State)]
    #[state(id = 2, version = 1)]
    struct Vcpu {
        number: u32,
        rip: u64,
        mode: Mode,
        /// Only in the bytes when it is there. A release that has never heard of it must refuse, and not lose it.
        #[state(subsection = required)]
        lapic: Option<Lapic>,
    }

    #[derive(State, Default)]
    #[state(id = 3, version = 1)]
    struct Bus {
        devices: Vec<Arc<Mutex<Device>>>,
    }

    #[derive(State)]
    #[state(id = 4, version = 1)]
    struct Device {
        irq: u32,
        kind: Kind,
        /// Back to who owns it: a weak link, or the two would own each other.
        bus: ArcLink<Mutex<Bus>>,
    }

    impl Vcpu {
        fn new(number: u32, mode: Mode, lapic: Option<Lapic>) -> Self {
            Vcpu { number, rip: 0, mode, lapic }
        }

        fn run(&mut self) {
            self.rip += u64::from(self.number) + 1;
        }
    }

    impl Device {
        fn new(irq: u32, kind: Kind, bus: ArcLink<Mutex<Bus>>) -> Self {
            Device { irq, kind, bus }
        }

        fn irq(&self) -> u32 {
            self.irq
        }
    }

    code_of_both_releases!();
}

/// The second release.
mod v2 {
    use super::*;

    // It names the same types as before, and these have changed; it has not.
    #[derive(State, Default)]
    #[state(id = 1, version = 1)]
    pub(super) struct Vm {
        frozen_at: u64,
        vcpus: Vec<Vcpu>,
        bus: Arc<Mutex<Bus>>,
        console: Option<Arc<Mutex<Device>>>,
    }

    #[derive(State)]
    #[state(id = 2, version = 2)]
    struct Vcpu {
        number: u32,
        rip: u64,
        // New: left out for a reader of version 1.
        #[state(since = 2, default = 1_000_000)]
        tsc_khz: u32,
        mode: Mode,
        #[state(subsection = required)]
        lapic: Option<Lapic>,
    }

    #[derive(State, Default)]
    #[state(id = 3, version = 1)]
    struct Bus {
        devices: Vec<Arc<Mutex<Device>>>,
    }

    // Another name in the source is no other version: on the wire the field is called what it was.
    #[derive(State)]
    #[state(id = 4, version = 1)]
    struct Device {
        #[state(rename = "irq")]
        interrupt_line: u32,
        kind: Kind,
        bus: ArcLink<Mutex<Bus>>,
    }

    impl Vcpu {
        fn new(number: u32, mode: Mode, lapic: Option<Lapic>) -> Self {
            Vcpu { number, rip: 0, tsc_khz: 0, mode, lapic }
        }

        fn run(&mut self) {
            assert_eq!(self.tsc_khz, 1_000_000, "what release 1 could not say");
            self.tsc_khz = 2_100_000;
            self.rip += u64::from(self.number) + 1;
        }
    }

    impl Device {
        fn new(interrupt_line: u32, kind: Kind, bus: ArcLink<Mutex<Bus>>) -> Self {
            Device { interrupt_line, kind, bus }
        }

        fn irq(&self) -> u32 {
            self.interrupt_line
        }
    }

    code_of_both_releases!();
}

/// What the rest of this file wants of a VMM.
trait Vmm: State + Default + 'static {
    /// The first process makes the machine.
    fn power_on(&mut self);
    /// What the guest does in the life of one process.
    fn run(&mut self, step: usize);
    /// Whether the machine is as the processes before this one left it.
    fn check(&self, step: usize);
    fn frozen_at(&mut self) -> &mut u64;
}

fn lapic(vcpu: u32) -> Option<Lapic> {
    (vcpu != 1).then(|| Lapic { timer: 1000 + vcpu, registers: (0..=255).rev().collect() })
}

fn mode(vcpu: u32) -> Mode {
    if vcpu + 1 < VCPUS { Mode::Running } else { Mode::Waiting { vector: 0x9f } }
}

/// The devices, after so many steps: each writes a digit on the console.
fn kinds(steps: usize) -> [Kind; 2] {
    let output = (0..steps).map(|step| b'0' + step as u8).collect();
    [Kind::Console { output }, Kind::Disk { sectors: 1 << 20, in_flight: vec![(512, 8), (4096, 1)] }]
}

fn main() -> Result<(), Box<dyn Error>> {
    let step = std::env::args().nth(1).map_or(Ok(0), |step| step.parse())?;
    match ROUTE[step] {
        1 => live::<v1::Vm>(step),
        _ => live::<v2::Vm>(step),
    }
}

/// What a release reads: the memory of the guest, its own states, and in the node `files` the descriptor of the memory.
fn registry<T: Vmm>() -> (Registry<Bundle>, Handle<GuestMemoryMmap>, Handle<States>) {
    let mut registry = Registry::new();
    let memory = registry.add(guest::NODE, GuestMemoryNode::new());
    let states = registry.add(abi::state::NODE, StatesNode::new(&[T::SHAPE]));
    registry.add(abi::files::NODE, FilesNode);
    (registry, memory, states)
}

/// What the release reads. A VMM that hands over to another file asks that: `Outgoing::write_for_program`.
fn reads_of(release: u32) -> Terms {
    match release {
        1 => registry::<v1::Vm>().0.terms(),
        _ => registry::<v2::Vm>().0.terms(),
    }
}

/// The life of one process.
fn live<T: Vmm>(step: usize) -> Result<(), Box<dyn Error>> {
    let vm = Arc::new(Mutex::new(T::default()));
    let (memory, states) = match Arrival::take()? {
        None => {
            let mut states = States::new();
            states.attach(0, &vm)?;
            lock(&vm).power_on();
            let memory = new_memory()?;
            let size: u64 = memory.iter().map(|region| region.len()).sum();
            println!("release 1: a guest with {VCPUS} vCPUs and {} MiB", size / MIB);
            (memory, states)
        }
        Some(arrival) => take_over(&vm, step, arrival)?,
    };
    // The guest runs.
    let mut machine = lock(&vm);
    machine.check(step);
    machine.run(step);
    check_and_write(&memory, step)?;

    let Some(next) = ROUTE.get(step + 1) else {
        println!("all of it was there each time, {} times", step);
        return Ok(());
    };
    let (reads, release) = (reads_of(*next), ROUTE[step]);
    let known = reads.states(abi::state::NODE).unwrap_or_default();
    let versions = Versions::for_reader(states.shapes(), known).map_err(|faults| format!("{faults:?}"))?;
    println!("release {release} leaves for release {next}");
    versions.dropped().iter().for_each(|dropped| println!("   {dropped}"));
    let program = Program::current()?.args([(step + 1).to_string(), inode_of(&memory)?.to_string()]);

    // All that could be done before is done. From here on the guest stands still.
    *machine.frozen_at() = now();
    // Saving waits for the lock.
    drop(machine);
    let mut outgoing = Outgoing::new(Bundle::new(64 << 20)?);
    outgoing.write_for(&reads)?;
    outgoing.preserve(guest::NODE, &memory)?;
    outgoing.preserve(abi::state::NODE, &states)?;
    let finished = outgoing.finish()?;
    // Else exec would do it, page by page that was touched, while the guest stands still. The memfd stays.
    drop(memory);
    Err(finished.exec(&program, None).into())
}

fn take_over<T: Vmm>(
    vm: &Arc<Mutex<T>>,
    step: usize,
    arrival: Arrival,
) -> Result<(GuestMemoryMmap, States), Box<dyn Error>> {
    let (began, left_at) = (now(), arrival.left_at);
    let (registry, memory, states) = registry::<T>();
    let mut restored = arrival.incoming.plan(&registry).accept()?.restore()?;
    let memory = restored.take(&memory).ok_or("no guest memory came")?;
    let mut states = restored.take(&states).ok_or("no states came")?;
    assert!(matches!(states.attach(0, vm)?, Origin::Restored { .. }));
    let left = states.finish(restored.memory_mut());
    assert!(left.is_empty(), "{left:?}");
    // The states are in objects of ours, and nothing of the arena is needed any more: the next handover has its own.
    let (_, released) = restored.finish();
    released?;
    // The guest could run from here on.
    let (done, frozen) = (now(), *lock(vm).frozen_at());
    let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
    println!(
        "release {}: blackout {:.1} ms: {:.1} saving, {:.1} exec, {:.1} restoring",
        ROUTE[step],
        ms(frozen, done),
        ms(frozen, left_at),
        ms(left_at, began),
        ms(began, done)
    );
    let inode = std::env::args().nth(2).ok_or("no inode")?;
    assert_eq!(inode_of(&memory)?.to_string(), inode, "the same memfd, not a copy");
    Ok((memory, states))
}

/// Memory of a new guest: both regions are in one memfd, one behind the other. It cannot be truncated any more, or no
/// successor would take it: what it maps must stay there.
fn new_memory() -> Result<GuestMemoryMmap, Box<dyn Error>> {
    let ram = rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&ram, REGIONS.iter().map(|(_, size)| size * MIB).sum())?;
    rustix::fs::fcntl_add_seals(&ram, SealFlags::SHRINK | SealFlags::GROW)?;
    let (ram, mut offset) = (Arc::new(File::from(ram)), 0);
    let regions = REGIONS.map(|(at, size)| {
        let part = FileOffset::from_arc(Arc::clone(&ram), offset);
        offset += size * MIB;
        (GuestAddress(at * MIB), (size * MIB) as usize, Some(part))
    });
    Ok(GuestMemoryMmap::from_ranges_with_files(regions)?)
}

/// The memfd of the guest's memory, which is one for all regions.
fn inode_of(memory: &GuestMemoryMmap) -> Result<u64, Box<dyn Error>> {
    let mut inodes = Vec::new();
    for region in memory.iter() {
        inodes.push(region.file_offset().ok_or("no file")?.file().metadata()?.ino());
    }
    inodes.dedup();
    assert_eq!((inodes.len(), memory.num_regions()), (1, REGIONS.len()));
    Ok(inodes[0])
}

/// Every page has the number of the process that wrote it last, and its own number in all other bytes.
fn check_and_write(memory: &GuestMemoryMmap, step: usize) -> Result<(), Box<dyn Error>> {
    let mut found = vec![0; PAGE];
    for (at, size) in REGIONS {
        for at in (at * MIB..(at + size) * MIB).step_by(PAGE) {
            let page = at / PAGE as u64;
            let mut expected = vec![page as u8; PAGE];
            if let Some(before) = step.checked_sub(1) {
                expected[..8].copy_from_slice(&before.to_le_bytes());
                memory.read_slice(&mut found, GuestAddress(at))?;
                assert!(found == expected, "page {page} has other contents");
            }
            expected[..8].copy_from_slice(&step.to_le_bytes());
            memory.write_slice(&expected, GuestAddress(at))?;
        }
    }
    Ok(())
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|_| panic!("another thread panicked"))
}

/// A clock that goes on over exec: `Arrival::left_at` is of the same.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
