//! A service that is upgraded to a process beside it.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::result_large_err, reason = "what a test does with it")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kho::abi;
use kho::compat::{Compat, CompatList};
use kho::files::{self, Beside as _, FilesNode};
use kho::handover::{Incoming, Registry, Restored};
use kho::mem::{Frame, Frames as _, Memory as _, Order};
use kho::payload::{Bytes, BytesNode};
use kho::transport::{Arrival, Bundle, Call, Caller, Door, Left, Part, Patience, Stayed, Upgrade};

use crate::common::*;

pub(crate) const STATE: CompatList<'static> = CompatList::new(Compat::new("test-living", 1), &[]);
/// Where the door is.
pub(crate) const DOOR: &str = "KHO_TEST_DOOR";

kho::manifest! {
    pub(crate) static MANIFEST = [both("state", &[STATE]), both(abi::files::NODE, &[files::MADE_OF])];
}

/// Tests that count descriptors, one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Short enough for a test that waits until it is over.
pub(crate) fn impatient() -> Patience {
    Patience { hello: millis(400), prepare: millis(400), accept: millis(500), commit: millis(400) }
}

/// A service: a number, a memfd of text, a block that it does not hand over, and what is frozen.
pub(crate) struct Service {
    pub(crate) number: u64,
    pub(crate) log: File,
    pub(crate) frozen: Vec<&'static str>,
    bundle: Option<Bundle>,
    own: Frame,
    free: u64,
}

impl Service {
    pub(crate) fn new() -> Self {
        let mut bundle = Bundle::new(1 << 20).unwrap();
        let own = bundle.alloc(Order::ZERO).unwrap();
        bundle.write(&own, 0, b"not handed over").unwrap();
        let free = bundle.arena().free_pages();
        Service { number: 42, log: memfd("log").into(), frozen: Vec::new(), bundle: Some(bundle), own, free }
    }

    /// Runs it, and has the memory again if it goes on.
    pub(crate) fn leave(&mut self, upgrade: &Upgrade<Service>, caller: Caller) -> Result<Left, Stayed> {
        let bundle = self.bundle.take().unwrap();
        upgrade.run(self, bundle, caller).map_err(|mut stayed| {
            self.bundle = Some(std::mem::replace(&mut stayed.bundle, Bundle::new(1 << 16).unwrap()));
            stayed
        })
    }

    /// It is as it was before.
    #[track_caller]
    pub(crate) fn serves(&mut self) {
        assert!(self.frozen.is_empty(), "{:?} stays frozen", self.frozen);
        let bundle = self.bundle.as_mut().expect("the memory is gone");
        assert!(bundle.files().is_empty() && bundle.arena().root().is_none());
        assert_eq!(bundle.arena().free_pages(), self.free);
        let mut bytes = [0; 15];
        let at = self.own.folio().addr(bundle.arena().geometry());
        bundle.arena().read(at, &mut bytes).unwrap();
        assert_eq!(&bytes, b"not handed over");
        // And so is what was free.
        let all: Vec<Frame> = std::iter::from_fn(|| bundle.alloc(Order::ZERO).ok()).collect();
        assert_eq!(all.len() as u64, self.free);
        for frame in all {
            let mut bytes = [1; 4096];
            bundle.arena().read(frame.folio().addr(bundle.arena().geometry()), &mut bytes).unwrap();
            assert_eq!(bytes, [0; 4096], "a page that is not empty");
            bundle.free(frame);
        }
    }
}

fn part(name: &'static str) -> Part<Service> {
    Part::new(name)
        .freeze(move |service: &mut Service, _| {
            service.frozen.push(name);
            Ok(())
        })
        .unfreeze(move |service| assert_eq!(service.frozen.pop(), Some(name)))
}

pub(crate) fn upgrade() -> Upgrade<Service> {
    Upgrade::new(&MANIFEST)
        .part(part("workers").after(&["listener"]))
        .part(part("listener"))
        .prepare(|service: &mut Service, outgoing| {
            let log = OwnedFd::from(service.log.try_clone().unwrap());
            outgoing.preserve_file(1, log).map_err(|rejected| rejected.fault)
        })
        .preserve(|service, outgoing| {
            assert_eq!(service.frozen, ["listener", "workers"]);
            outgoing.preserve_file(2, memfd("late")).map_err(|rejected| rejected.fault)?;
            outgoing.preserve("state", &Bytes { made_of: STATE, bytes: &service.number.to_le_bytes() })
        })
}

/// Restores all.
pub(crate) fn restore(incoming: Incoming<Bundle>) -> Restored<Bundle> {
    let mut registry = Registry::of(&MANIFEST);
    let state = registry.read("state", BytesNode { made_of: STATE, limit: 8 });
    let files = registry.add(abi::files::NODE, FilesNode);
    let mut restored = incoming.plan(&registry).accept().unwrap().restore().unwrap();
    assert_eq!(restored.take(&state).unwrap(), 42_u64.to_le_bytes());
    assert!(restored.take(&files).unwrap().take(2).is_some());
    restored
}

pub(crate) fn arrive() -> Arrival {
    Call::connect(std::env::var(DOOR).unwrap(), &[]).unwrap().arrive(&MANIFEST).unwrap()
}

/// The part of an honest successor.
pub(crate) fn takes_over() {
    let before = inheritable();
    let arrival = arrive();
    assert_eq!(inheritable(), before, "all that came is close-on-exec");
    let restored = restore(arrival.incoming);
    arrival.turn.take().unwrap();
    restored.finish().1.unwrap();
}

pub(crate) struct Meeting {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) door: Door,
}

impl Meeting {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("door");
        let door = Door::bind(&path).unwrap();
        Meeting { folder, path, door }
    }

    pub(crate) fn start(&self, role: &str, how: &str) -> Child {
        let mut command = child(&me(), role);
        command.env(DOOR, &self.path).env(HOW, how).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[track_caller]
    pub(crate) fn caller(&self) -> Caller {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Some(caller) = self.door.accept().unwrap() {
                return caller;
            }
            std::thread::sleep(millis(1));
        }
        panic!("nobody came");
    }

    /// An honest upgrade, which ends the service.
    #[track_caller]
    pub(crate) fn hands_over(&self, mut service: Service) {
        let child = self.start("takes over", "");
        let left = service.leave(&upgrade(), self.caller());
        let said = finished(child);
        assert!(said.contains("verdict: ok"), "{said}");
        let _ = left.unwrap();
    }
}

/// How a child ended, and all that it said.
pub(crate) fn finished(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    format!("{}\n{said}", output.status)
}
