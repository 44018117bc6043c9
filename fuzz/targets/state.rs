//! Typed state: any bytes as metadata, of which the checksum is right. An error or a value; and in a handover, what the
//! plan calls fine is attached, but for what only the types can know.
#![cfg_attr(feature = "run", no_main)]

use std::cell::RefCell;
use std::rc::Rc;

use kho::handover::{Incoming, Registry, Verdict};
use kho::report::Code;
use kho::state::{Description, Image, State as _, StatesNode, restore};
use kho_fuzz::{Bus, Raw, repaired};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Description::parse(data);
    let meta = repaired(data);
    if let Ok(image) = Image::open(&meta) {
        let _ = image.descriptions();
        let _ = restore::<Bus>(&meta);
    }
    let Some((memory, root)) = Raw(&meta).handed_over() else { return };
    let mut registry = Registry::new();
    let node = registry.add("state", StatesNode::new(&[Bus::SHAPE]));
    let plan = Incoming::new(memory, root).plan(&registry);
    if plan.verdict() != Verdict::Fine {
        assert!(plan.accept().is_err());
        return;
    }
    let accepted = plan.accept().expect("a plan that is fine");
    let mut restored = accepted.restore().expect("what is fine restores");
    let mut states = restored.take(&node).expect("its own handle");
    for number in 0..3 {
        let object = Rc::new(RefCell::new(Bus::default()));
        if let Err(fault) = states.attach(number, &object) {
            let known = match fault.code() {
                Code::StateCondition => true,
                Code::StateNumber => fault.found_text().ends_with(" ns"),
                // A set in a set has more than one form; two kinds of pointer are one kind in a description.
                Code::StateKey | Code::StateShared => true,
                _ => false,
            };
            assert!(known, "{fault}");
            assert!(object.borrow().is_default());
            assert_eq!(states.attach(number, &object).expect_err("what is wrong stays wrong"), fault);
        }
    }
});

#[cfg(not(feature = "run"))]
fn main() {}
