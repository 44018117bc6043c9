//! Attaching what is broken: the object is as it was, and what is wrong once may be right the next time.

use std::cell::{Cell, RefCell};
use std::format;
use std::rc::Rc;
use std::string::ToString as _;
use std::sync::{Arc, Mutex, RwLock};
use std::vec::Vec;

use super::*;
use crate::report::Code;
use crate::state::{self, Holder, Origin, RcLink, State};

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 1, version = 1)]
struct Vmm {
    vcpus: Vec<Vcpu>,
}

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 2, version = 1)]
struct Vcpu {
    running: bool,
    lapic: Lapic,
}

#[derive(State, Clone, Debug, PartialEq)]
#[state(id = 3, version = 1)]
struct Lapic {
    id: u32,
    timer: Option<u64>,
}

fn vmm(vcpus: u32) -> Vmm {
    let vcpu = |id: u32| Vcpu { running: true, lapic: Lapic { id, timer: Some((id * 300).into()) } };
    Vmm { vcpus: (0..vcpus).map(vcpu).collect() }
}

/// As the bytes of five vCPUs are, with the timer of the fourth one wrong.
fn broken() -> Made {
    let mut object = number(5);
    for id in 0..5_u64 {
        let start = [vec![1], number(id)].concat();
        object.extend([start, vec![if id == 3 { 7 } else { 1 }], number(id * 300)].concat());
    }
    Made::of(&[Vmm::SHAPE, Vcpu::SHAPE, Lapic::SHAPE], &object)
}

fn refused<H: Holder>(states: &mut States, number: u64, object: &H) -> std::string::String {
    let fault = states.attach(number, object).unwrap_err();
    assert_eq!(states.attach(number, object).unwrap_err(), fault, "what is wrong stays wrong");
    fault.to_string()
}

#[test]
fn the_path_and_the_place_of_what_is_broken() {
    let mut made = broken();
    made.add(3, &[vec![3], vec![0]].concat());
    let mut states = made.came(&[Vmm::SHAPE]);
    let object = Rc::new(RefCell::new(vmm(2)));
    let text = refused(&mut states, 0, &object);
    let lapic = made.start(0);
    let place = text.split_once("at offset 0x").and_then(|(_, rest)| rest.split_once(':')).unwrap().0;
    let place = usize::from_str_radix(place, 16).unwrap();
    assert_eq!(text, format!("state-tag: vmm.vcpus[3].lapic.timer at offset {place:#x}: found 7, expected 0 or 1"));
    assert_eq!((made.bytes()[place], place as u64 > lapic), (7, true), "that byte it is");
    assert_eq!(*object.borrow(), vmm(2));
    assert_eq!(walked(&made.bytes()).unwrap_err(), [text]);
    // It is not attached, and another one is nobody's worse for it.
    assert_eq!(
        format!("{states:?}"),
        "States { attached: [], unclaimed: [Unclaimed { id: 1, name: \"vmm\", number: 0 }, Unclaimed { id: 3, name: \"lapic\", number: 0 }] }"
    );
    let lapic = Rc::new(RefCell::new(Lapic { id: 9, timer: None }));
    assert_eq!(states.attach(0, &lapic).unwrap(), Origin::Restored { version: 1 });
    assert_eq!((lapic.borrow().id, states.unclaimed().len()), (1, 1));
}

#[test]
fn no_bit_of_an_object_changes_half_of_another() {
    let saved = state::save(&vmm(5)).unwrap();
    let start = Image::open(&saved).unwrap().objects()[0].start;
    for bit in start * 8..saved.len() * 8 {
        let mut bytes = saved.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        repair(&mut bytes);
        let object = Arc::new(Mutex::new(vmm(1)));
        let mut states = came(&bytes, &[Vmm::SHAPE]).unwrap();
        let result = states.attach(0, &object);
        assert_eq!(result.is_ok(), walked(&bytes).is_ok(), "{result:?}");
        let now = object.lock().unwrap().clone();
        assert_eq!(now == vmm(1), result.is_err());
        assert_ne!(now, vmm(5));
    }
}

#[derive(State, Debug)]
#[state(id = 10, version = 1)]
struct Bus {
    first: Rc<Cell<u32>>,
    devices: Vec<Rc<RefCell<Device>>>,
    strict: RcLink<RefCell<Device>>,
}

#[derive(State, Debug)]
#[state(id = 11, version = 1, after_restore = Device::check)]
struct Device {
    irq: u32,
    shared: Rc<Cell<u32>>,
    bus: RcLink<RefCell<Bus>>,
}

std::thread_local! {
    static REFUSED: Cell<Option<u32>> = const { Cell::new(None) };
}

impl Device {
    fn check(&mut self, _: u32) -> Result<(), state::Error> {
        match REFUSED.get() {
            Some(irq) if irq == self.irq => Err(state::Error::refused(irq, "an interrupt that is free")),
            _ => Ok(()),
        }
    }
}

fn bus() -> Rc<RefCell<Bus>> {
    let first = Rc::new(Cell::new(7));
    let device = |irq| Rc::new(RefCell::new(Device { irq, shared: first.clone(), bus: RcLink::new() }));
    let bus = Rc::new(RefCell::new(Bus { devices: (1..4).map(device).collect(), first, strict: RcLink::new() }));
    bus.borrow().devices.iter().for_each(|device| device.borrow().bus.set(&bus));
    bus.borrow().strict.set(&bus.borrow().devices[2]);
    bus
}

fn empty_bus() -> Rc<RefCell<Bus>> {
    Rc::new(RefCell::new(Bus { first: Rc::default(), devices: Vec::new(), strict: RcLink::new() }))
}

/// The bus and its last device, each attached.
fn handed_over() -> Vec<u8> {
    let (bus, mut states) = (bus(), States::new());
    states.attach(0, &bus).unwrap();
    states.attach(5, &bus.borrow().devices[2]).unwrap();
    struct Nowhere;
    impl super::super::save::Sink for Nowhere {
        fn bulk(&mut self, _: &[u8]) -> Result<u64, Fault> {
            Err(Fault::new(Code::Refused))
        }
        fn bulk_total(&self) -> (u64, Option<u32>) {
            (0, None)
        }
        fn page_size(&self) -> u64 {
            4096
        }
        fn folio(&mut self, _: &crate::mem::Frame) -> Result<u64, Fault> {
            Err(Fault::new(Code::Refused))
        }
        fn area(
            &mut self,
            _: crate::mem::Order,
            _: &[crate::mem::Frame],
        ) -> Result<crate::abi::vmalloc::Descriptor, Fault> {
            Err(Fault::new(Code::Refused))
        }
        fn file(&mut self, _: std::os::fd::BorrowedFd<'_>, _: bool) -> Result<u64, Fault> {
            Err(Fault::new(Code::Refused))
        }
    }
    states.save(&mut Nowhere, None).unwrap()
}

#[test]
fn an_owner_that_refuses_once_is_asked_again() {
    let bytes = handed_over();
    walked(&bytes).unwrap();
    for refused in [1, 2, 3] {
        let mut states = came(&bytes, &[Bus::SHAPE]).unwrap();
        let (bus, last) =
            (empty_bus(), Rc::new(RefCell::new(Device { irq: 0, shared: Rc::default(), bus: RcLink::new() })));
        REFUSED.set(Some(refused));
        // The last device is shared: it comes first. What it links to comes later.
        let attached = states.attach(5, &last);
        if refused == 3 {
            let text = "refused: device#5: found 3, expected an interrupt that is free";
            assert_eq!(attached.unwrap_err().to_string(), text);
            assert_eq!((last.borrow().irq, last.borrow().bus.get().is_none()), (0, true));
            REFUSED.set(None);
            states.attach(5, &last).unwrap();
            REFUSED.set(Some(2));
        } else {
            attached.unwrap();
        }
        let which = if refused == 1 { 0 } else { 1 };
        let error = states.attach(0, &bus).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("refused: bus.devices[{which}]: found {}, expected an interrupt that is free", which + 1)
        );
        assert_eq!((bus.borrow().devices.len(), bus.borrow().first.get()), (0, 0), "as it was");
        REFUSED.set(None);
        states.attach(0, &bus).unwrap();
        let all = bus.borrow();
        assert_eq!(all.devices.iter().map(|device| device.borrow().irq).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(Rc::ptr_eq(&all.devices[2], &last) && Rc::ptr_eq(&all.strict.get().unwrap(), &last));
        // One object for all of them, whether it came with the last device or with the bus.
        assert!(all.devices.iter().all(|device| Rc::ptr_eq(&device.borrow().shared, &all.first)));
        assert!(all.devices.iter().all(|device| Rc::ptr_eq(&device.borrow().bus.get().unwrap(), &bus)));
        assert_eq!(states.finish(&mut crate::handover::testing::ram(crate::mem::Geometry::K4)), []);
    }
}

#[test]
fn an_object_that_came_as_a_part_of_another_is_attached_too_late() {
    let mut states = came(&handed_over(), &[Bus::SHAPE]).unwrap();
    let (bus, last) =
        (empty_bus(), Rc::new(RefCell::new(Device { irq: 0, shared: Rc::default(), bus: RcLink::new() })));
    states.attach(0, &bus).unwrap();
    let text = "state-shared: device#5: found an object that came as a part of another one already, expected to be \
                attached before that";
    assert_eq!(refused(&mut states, 5, &last), text);
    assert_eq!(last.borrow().irq, 0);
    // The one that came is the one to go on with.
    let came = bus.borrow().devices[2].clone();
    assert_eq!(came.borrow().irq, 3);
}

#[test]
fn an_object_that_somebody_holds() {
    let bytes = state::save(&vmm(2)).unwrap();
    let mut states = came(&bytes, &[Vmm::SHAPE]).unwrap();
    let object = Rc::new(RefCell::new(vmm(1)));
    let held = object.borrow();
    assert_eq!(refused(&mut states, 0, &object), "state-busy: vmm: a cell that is borrowed");
    drop(held);
    states.attach(0, &object).unwrap();
    assert_eq!(*object.borrow(), vmm(2));
    assert_eq!(refused(&mut states, 0, &object), "state-id: vmm: a number that is attached already");
    assert!(states.detach::<Vmm>(0) && !states.detach::<Vmm>(0));

    let poisoned = Arc::new(Mutex::new(vmm(1)));
    let other = Arc::clone(&poisoned);
    std::thread::spawn(move || {
        let _held = other.lock().unwrap();
        std::panic::resume_unwind(Box::new("given up"));
    })
    .join()
    .unwrap_err();
    let mut states = came(&bytes, &[Vmm::SHAPE]).unwrap();
    assert_eq!(refused(&mut states, 0, &poisoned), "state-busy: vmm: a lock whose holder panicked");
    poisoned.clear_poison();
    assert_eq!(*poisoned.lock().unwrap(), vmm(1));
    states.attach(0, &poisoned).unwrap();
    assert_eq!(*poisoned.lock().unwrap(), vmm(2));
    let mut states = came(&bytes, &[Vmm::SHAPE]).unwrap();
    let lock = Arc::new(RwLock::new(vmm(1)));
    states.attach(0, &lock).unwrap();
    assert_eq!(*lock.read().unwrap(), vmm(2));
}

#[test]
fn what_is_dropped_may_look_at_what_takes_its_place() {
    #[derive(State)]
    #[state(id = 20, version = 1)]
    struct Looks {
        number: u32,
        #[state(skip, default)]
        at: Option<Rc<RefCell<Looks>>>,
    }
    std::thread_local! {
        static SEEN: Cell<u32> = const { Cell::new(0) };
    }
    impl Drop for Looks {
        fn drop(&mut self) {
            if let Some(at) = self.at.take() {
                SEEN.set(at.borrow().number);
            }
        }
    }
    let bytes = state::save(&Looks { number: 42, at: None }).unwrap();
    let object = Rc::new(RefCell::new(Looks { number: 1, at: None }));
    object.borrow_mut().at = Some(object.clone());
    came(&bytes, &[Looks::SHAPE]).unwrap().attach(0, &object).unwrap();
    assert_eq!(SEEN.get(), 42);
}

#[test]
fn the_names_of_what_nobody_attached_cost_one_look_at_each_description() {
    let mut of = described(30, &[("a", Kind::Scalar(kind::U8))]);
    let DescriptionBody::Struct { fields, .. } = &mut of.body else { panic!() };
    let other = FieldDescription { since: 2, ..fields[0].clone() };
    fields.extend(std::iter::repeat_n(other, 1000));
    let mut made = image_of(&[of], &[1]);
    for _ in 0..20_000 {
        made.objects.push((Kind::State(30), vec![1]));
        made.instances.push((made.instances.len() as u64, 30, u32::try_from(made.objects.len() - 1).unwrap()));
    }
    let states = made.came(&[]);
    let begin = std::time::Instant::now();
    assert_eq!(states.unclaimed().len(), 20_001);
    assert!(begin.elapsed() < std::time::Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(states.unclaimed()[20_000].to_string(), "s30#20000 (id 30) that nobody attached");
}
