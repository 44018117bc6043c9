//! The events that the feature `tracing` promises: one for each step of plan and restore, with its node and its time.
#![cfg(all(feature = "std", feature = "tracing"))]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use kho::compat::{Compat, CompatList};
use kho::handover::{Incoming, Outgoing, Registry};
use kho::mem::{Geometry, PageRange, Pfn, PhysAddr, Ram};
use kho::payload::{Bytes, BytesNode};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const STATE: CompatList<'static> = CompatList::new(Compat::new("test-state", 1), &[]);
const NEXT: CompatList<'static> = CompatList::new(Compat::new("test-state", 2), &[]);

/// Keeps the fields of all events of the target `kho`, as text.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>);

struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value.to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("not a number, not a text: {value:?}"));
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "kho"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        assert_eq!(*event.metadata().level(), Level::DEBUG);
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What `run` told: step and node of each event. That each has a time and nothing else is checked here.
fn told(run: impl FnOnce()) -> Vec<String> {
    let recorder = Recorder::default();
    tracing::subscriber::with_default(recorder.clone(), run);
    let events = std::mem::take(&mut *recorder.0.lock().unwrap());
    let tell = |event: &BTreeMap<&str, String>| {
        assert_eq!(event.keys().copied().collect::<Vec<_>>(), ["nanos", "node", "step"]);
        let nanos: u64 = event["nanos"].parse().unwrap();
        assert!(nanos < 60_000_000_000, "a step of {nanos} ns");
        format!("{} {}", event["step"], event["node"])
    };
    events.iter().map(tell).collect()
}

fn handover() -> (Ram, PhysAddr) {
    let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x100).unwrap(), 64).unwrap()));
    for name in ["one", "two"] {
        outgoing.preserve(name, &Bytes { made_of: STATE, bytes: name.as_bytes() }).unwrap();
    }
    let (memory, root) = outgoing.finish().unwrap().into_parts();
    (memory, root.start())
}

fn registry(two: CompatList<'static>) -> Registry<Ram> {
    let mut registry = Registry::new();
    registry.read("one", BytesNode { made_of: STATE, limit: 4096 });
    registry.read("two", BytesNode { made_of: two, limit: 4096 });
    registry
}

#[test]
fn every_step_of_plan_and_restore_is_told_with_its_node_and_its_time() {
    let (memory, root) = handover();
    let incoming = Incoming::new(memory, root);
    let events = told(|| {
        let _restored = incoming.plan(&registry(STATE)).accept().unwrap().restore().unwrap();
    });
    let expected = [
        "check /one",
        "check /two",
        "plan /",
        "prepare /one",
        "prepare /two",
        "settle /one",
        "settle /two",
        "commit /one",
        "commit /two",
        "restore /",
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_refused_plan_tells_its_checks_and_restores_nothing() {
    let (memory, root) = handover();
    let incoming = Incoming::new(memory, root);
    let events = told(|| assert!(incoming.plan(&registry(NEXT)).accept().is_err()));
    assert_eq!(events, ["check /one", "check /two", "plan /"]);
}
