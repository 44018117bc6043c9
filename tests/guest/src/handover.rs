//! A whole handover in a session: typed state, bytes, an array in the arena, and files; across two kexecs, by the same
//! arena and the same files.

use std::cell::RefCell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use kho::abi::session::{ARENA, ROOT};
use kho::abi::{files, state};
use kho::compat::{Compat, CompatList};
use kho::files::FilesNode;
use kho::handover::{Outgoing, Registry};
use kho::liveupdate::{Cause, Device, RetrievedSession};
use kho::mem::{Frame, Frames as _, Order};
use kho::payload::{ARRAY_USE, Array, ArrayNode, Bytes, BytesNode};
use kho::report::{Code, Fault};
use kho::state::{Memfd, State, States, StatesNode};
use kho::transport::{Arrival, Bundle, Cargo, InSession, NotPreserved, Part, Preserved, SessionError, Ticket, Upgrade};
use rustix::event::{EventfdFlags, eventfd};

use crate::Fails;
use crate::scenario::{self, ARRAY, HANDOVER, PAGE, noise};
use crate::sessions::{create, same};
use crate::system::say;

const MADE_OF: CompatList<'static> = CompatList::new(Compat::new("guest-bytes", 1), &[]);
const ARRAY_OF: CompatList<'static> = CompatList::new(Compat::new("guest-array", 1), ARRAY_USE);

kho::manifest! {
    static MANIFEST = [
        both(files::NODE, &[kho::files::MADE_OF]),
        both("bytes", &[MADE_OF]),
        both("array", &[ARRAY_OF]),
        states(state::NODE, &[Vm::SHAPE]),
    ];
}

#[derive(State)]
#[state(id = 1, version = 1)]
struct Vm {
    name: String,
    boot: u32,
    page: Frame,
    disk: Memfd,
    weights: Vec<u64>,
}

fn is(what: &str, holds: bool) -> Fails {
    if holds { Ok(()) } else { Err(format!("{what}: it is not so").into()) }
}

fn words() -> Vec<u64> {
    (0..1000).map(|number| number * number).collect()
}

/// In the first kernel: what is refused, and then the handover.
pub(crate) fn make() -> Fails<Preserved> {
    told_before()?;
    let mut outgoing = Outgoing::new(Bundle::new(scenario::ARENA_SIZE)?);
    let mut wanted = scenario::handover().files;
    let disk = wanted.pop().ok_or("no disk")?;
    for file in &wanted {
        outgoing.preserve_file(file.token, create(HANDOVER, file)?.into())?;
    }
    let mut page = outgoing.alloc(Order::ZERO)?;
    outgoing.memory().arena().bytes_mut(&mut page)?.copy_from_slice(&noise(page_token(), PAGE));
    let disk = Memfd::from(OwnedFd::from(create(HANDOVER, &disk)?));
    let order = Order::new(1).ok_or("no order 1")?;
    let mut frames = (0..5).map(|_| outgoing.alloc(order)).collect::<Result<Vec<_>, _>>()?;
    frames.reverse();
    for (frame, part) in frames.iter().zip(noise(array_token(), ARRAY).chunks(2 * PAGE as usize)) {
        outgoing.write(frame, 0, part)?;
    }
    let vm = Vm { name: "guest".into(), boot: 0, page, disk, weights: words() };
    fill(&mut outgoing, vm, &frames)?;
    let outgoing = stays_after_all(outgoing)?;
    let session = Device::open()?.create(HANDOVER)?;
    let preserved = outgoing.finish()?.preserve_in(session)?;
    is("holes stay filled", preserved.told().summary.filled == 0)?;
    Ok(preserved)
}

const fn page_token() -> u64 {
    100
}

const fn array_token() -> u64 {
    101
}

fn fill(outgoing: &mut Outgoing<Bundle>, vm: Vm, frames: &[Frame]) -> Result<(), Fault> {
    let bytes = format!("left by boot {}", vm.boot);
    outgoing.preserve("bytes", &Bytes { made_of: MADE_OF, bytes: bytes.as_bytes() })?;
    outgoing.preserve("array", &Array { made_of: ARRAY_OF, frames, bytes: ARRAY })?;
    let mut states = States::new();
    states.attach(0, &Rc::new(RefCell::new(vm)))?;
    outgoing.preserve(state::NODE, &states)
}

/// What leaves the second kernel.
struct Service {
    files: Vec<(u64, OwnedFd)>,
    vm: Option<Vm>,
    frames: Vec<Frame>,
    frozen: bool,
}

/// Files are preserved while it serves, the rest when it stands still.
fn upgrade() -> Upgrade<Service> {
    Upgrade::new(&MANIFEST)
        .part(Part::new("guest").freeze(|service: &mut Service, _| {
            service.frozen = true;
            Ok(())
        }))
        .prepare(|service, outgoing| {
            let add = |(token, file)| outgoing.preserve_file(token, file).map_err(|rejected| rejected.fault);
            service.files.drain(..).try_for_each(add)
        })
        .preserve(|service, outgoing| {
            let vm = service.vm.take().filter(|_| service.frozen).ok_or_else(|| Fault::new(Code::Refused))?;
            fill(outgoing, vm, &service.frames)
        })
}

/// What must not be asked of the kernel is told, and nothing is preserved then.
fn told_before() -> Fails {
    let session = Device::open()?.create("handover refusals")?;
    let bundle = Bundle::new(1 << 20)?;
    let arena = bundle.arena().read_only_fd()?;
    let [one, two] = [1, 2].map(|token| create(HANDOVER, &scenario::handover().files[token]));
    let (one, two) = (one?, two?);
    let event = eventfd(0, EventfdFlags::CLOEXEC)?;
    let (pipe, _writer) = std::io::pipe()?;
    let ticket = Ticket::current()?;
    let cargo = || Cargo::new(1, arena.as_fd());
    let cases = [
        ("one file twice", cargo().file(1, one.as_fd()).file(2, one.as_fd()), Code::FileDuplicate),
        ("one token twice", cargo().file(1, one.as_fd()).file(1, two.as_fd()), Code::TokenDuplicate),
        ("an eventfd", cargo().file(1, event.as_fd()), Code::FileKind),
        ("a pipe", cargo().file(1, pipe.as_fd()), Code::FileKind),
        ("a token of the transport", cargo().file(ROOT, one.as_fd()), Code::Refused),
        ("a ticket", cargo().ticket(&ticket), Code::Refused),
    ];
    for (what, cargo, code) in cases {
        match cargo.preserve_in(&session) {
            Err(SessionError::Told(told)) if told.findings.has(code) => {}
            other => return Err(format!("{what}: {other:?}").into()),
        }
    }
    // Neither is in a session, which the kernel would refuse otherwise.
    session.preserve(1, &one)?;
    Ok(session.preserve(2, &two)?)
}

/// It stays after all; the kernel refuses in the middle; and each time it is as before.
fn stays_after_all(outgoing: Outgoing<Bundle>) -> Fails<Outgoing<Bundle>> {
    let preserved = outgoing.finish()?.preserve_in(Device::open()?.create(HANDOVER)?)?;
    let told = preserved.told();
    say(&format!("guest| {} bytes of holes, {} pages", told.summary.filled, told.summary.metadata_pages));
    is("only the arena has holes", told.findings.kept().iter().all(|finding| finding.node == "arena"))?;
    is("most of the arena is one", told.summary.filled > scenario::ARENA_SIZE / 2)?;
    let outgoing = preserved.cancel()?;

    let session = Device::open()?.create(HANDOVER)?;
    let theirs = create(HANDOVER, &scenario::handover().files[1])?;
    session.preserve(2, theirs)?;
    let Err(refused) = outgoing.finish()?.preserve_in(session) else { return Err("a token that is taken".into()) };
    let NotPreserved { error: SessionError::Refused { refused, preserved }, finished, session, .. } = *refused else {
        return Err(format!("a token that is taken: {refused}").into());
    };
    is("token taken", refused.cause() == Cause::TokenTaken && preserved == [ARENA, 1])?;
    drop(session);
    Ok(finished.cancel()?)
}

/// In the next kernels: takes it, and unless it is the last one hands it over again.
pub(crate) fn take(boot: u32, last: bool) -> Fails<Option<Preserved>> {
    let device = Device::open()?;
    let session = nobody_takes_it(device.retrieve(HANDOVER)?)?;
    let Arrival { incoming, turn, .. } = Arrival::of_session(session)?;

    let mut registry = Registry::of(&MANIFEST);
    let files = registry.add(files::NODE, FilesNode);
    let bytes = registry.read("bytes", BytesNode { made_of: MADE_OF, limit: 100 });
    let array = registry.add("array", ArrayNode { made_of: ARRAY_OF });
    let states = registry.add(state::NODE, StatesNode::new(&[Vm::SHAPE]));
    let mut restored = incoming.plan(&registry).accept()?.restore()?;
    let mut files = restored.take(&files).ok_or("no files")?;
    let bytes = restored.take(&bytes).ok_or("no bytes")?;
    let array = restored.take(&array).ok_or("no array")?;
    let mut states = restored.take(&states).ok_or("no states")?;
    let mut vm = states.take::<Vm>(0)?.ok_or("no guest")?;
    is("nothing else", states.finish(restored.memory_mut()).is_empty())?;
    // The session is finished; only then may anything of it be freed.
    let report = turn.take()?;
    say(&format!("guest| blackout {} ms", report.blackout.ok_or("no blackout")? / 1_000_000));
    let (bundle, released) = restored.finish();
    released?;
    is("it is gone", device.retrieve(HANDOVER).is_err_and(|refused| refused.cause() == Cause::NoSuchSession))?;

    is("name and weights", vm.name == "guest" && vm.weights == words())?;
    is("boot", vm.boot + 1 == boot && bytes == format!("left by boot {}", vm.boot).as_bytes())?;
    is("page", bundle.arena().bytes(&vm.page)? == noise(page_token(), PAGE))?;
    is("array", array[..] == noise(array_token(), ARRAY))?;
    is("the array is where it was", !array.is_copy())?;
    let mut wanted = scenario::handover().files;
    let disk = wanted.pop().ok_or("no disk")?;
    vm.disk = OwnedFd::from(same(HANDOVER, &disk, vm.disk.into())?).into();
    let mut again = Vec::new();
    for file in &wanted {
        let came = files.take(file.token).ok_or("a file is missing")?;
        again.push((file.token, same(HANDOVER, file, came)?.into()));
    }
    // The state has a descriptor of its own.
    is("no other files", files.take(disk.token).is_some() && files.is_empty())?;
    if last {
        return Ok(None);
    }
    vm.boot = boot;
    let frames = array.into_mapping().into_frames();
    let mut service = Service { files: again, vm: Some(vm), frames, frozen: false };
    let parked = upgrade().run(&mut service, bundle, InSession::new(device.create(HANDOVER)?))?;
    let told = parked.preserved.told();
    say(&format!("guest| {} bytes of holes again", told.summary.filled));
    parked.report.to_string().lines().for_each(|line| say(&format!("guest| {line}")));
    is("the arena has few holes", told.summary.filled < scenario::ARENA_SIZE / 2)?;
    Ok(Some(parked.preserved))
}

/// A program that understands nothing of it refuses, and takes nothing away.
fn nobody_takes_it(session: RetrievedSession) -> Fails<RetrievedSession> {
    let Arrival { incoming, turn, .. } = Arrival::of_session(session)?;
    match incoming.plan(&Registry::new()).accept() {
        Err(refused) => is("unknown", refused.findings.has(Code::ComponentUnknown))?,
        Ok(_) => return Err("it is accepted by who knows nothing of it".into()),
    }
    turn.into_session().ok_or_else(|| "the session is gone".into())
}
