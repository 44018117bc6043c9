//! A real Linux 7.2 machine, frozen before kexec, through the whole planner: every node is understood, every value is
//! what another decoder found (`frozen.json`), and every preserved page has an owner.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kho::abi;
use kho::compat::CompatList;
use kho::handover::{Check, Incoming, Node, Plan, Registry, Verdict};
use kho::luo::{FileContent, Flb, Luo, LuoNode, Session};
use kho::mem::{Geometry, Image, Memory as _, PhysAddr, Source};
use kho::memblock::{Memblock, MemblockNode};
use kho::metadata::{Metadata, MetadataNode};
use kho::report::Fault;
use kho::selftest::{Found, Rule, SelfTestNode};
use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/linux-7.2-x86_64").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(data("frozen.json")).unwrap()).unwrap()
}

/// Keeps what a check read: an image is only looked at, so nothing of it is ever restored.
struct Keep<C: Check<Image>>(C, Rc<RefCell<Option<C::Checked>>>);

impl<C: Check<Image>> Check<Image> for Keep<C>
where
    C::Checked: Clone,
{
    type Checked = ();

    fn compat(&self) -> CompatList<'static> {
        self.0.compat()
    }

    fn names_itself(&self) -> bool {
        self.0.names_itself()
    }

    fn check(&self, node: &mut Node<'_, Image>) -> Result<(), Fault> {
        *self.1.borrow_mut() = Some(self.0.check(node)?);
        Ok(())
    }
}

fn read<C: Check<Image> + 'static>(
    registry: &mut Registry<Image>,
    name: &str,
    check: C,
) -> Rc<RefCell<Option<C::Checked>>>
where
    C::Checked: Clone,
{
    let kept = Rc::new(RefCell::new(None));
    registry.read(name, Keep(check, Rc::clone(&kept)));
    kept
}

struct Machine {
    plan: Plan<Image>,
    luo: Luo,
    memblock: Memblock,
    metadata: Metadata,
    kho_test: Found,
}

fn frozen() -> Machine {
    let Source::Image(image) = Image::open(data("frozen.core")).unwrap() else { panic!("a core is memory") };
    let mut registry = Registry::observing();
    let luo = read(&mut registry, abi::luo::NODE, LuoNode);
    let memblock = read(&mut registry, abi::memblock::NODE, MemblockNode);
    let metadata = read(&mut registry, abi::kexec_metadata::NODE, MetadataNode);
    let kho_test = read(&mut registry, abi::kho_test::NODE, SelfTestNode);
    let root = PhysAddr::new(expected()["fdt"].as_u64().unwrap());
    let plan = Incoming::new(image, root).plan(&registry);
    assert_eq!(plan.findings().to_string(), "");
    Machine {
        luo: luo.take().unwrap(),
        memblock: memblock.take().unwrap(),
        metadata: metadata.take().unwrap(),
        kho_test: kho_test.take().unwrap(),
        plan,
    }
}

#[test]
fn the_whole_machine_is_fine_and_every_page_has_an_owner() {
    let Machine { plan, .. } = frozen();
    assert_eq!(plan.verdict(), Verdict::Fine);
    let nodes: Vec<(&str, Verdict)> = plan.nodes().iter().map(|node| (node.name.as_str(), node.verdict)).collect();
    let fine = |name| (name, Verdict::Fine);
    assert_eq!(nodes, [fine("memblock"), fine("LUO"), fine("kho_test"), fine("kexec-metadata")]);
    // No warning `unowned`, so the nodes and the page of the root FDT are all that was preserved.
    let owned: u64 = plan.nodes().iter().map(|node| node.owned).sum();
    assert_eq!(owned / 4096 + 1, expected()["preserved_pages"].as_u64().unwrap());
}

/// As the other decoder printed it.
fn session(session: &Session) -> Value {
    let files = session.files.iter().map(|file| {
        let FileContent::Memfd(memfd) = &file.content else { panic!("{file:?}") };
        let folios = memfd.folios.iter().map(|(folio, index)| json!([folio.pfn().get(), 3, index]));
        json!({
            "compatible": file.compatible, "token": file.token, "data": file.data,
            "memfd": {
                "pos": memfd.pos, "size": memfd.size, "seals": memfd.seals, "flags": 0,
                "nr_folios": memfd.folios.len(), "folios": folios.collect::<Vec<_>>(),
            },
        })
    });
    json!({ "name": session.name.to_string(), "files": files.collect::<Vec<_>>() })
}

#[test]
fn sessions_files_and_globals() {
    let Machine { plan, luo, .. } = frozen();
    let mut expected = expected()["subtrees"]["LUO"].take();
    for session in expected["sessions"].as_array_mut().unwrap() {
        for file in session["files"].as_array_mut().unwrap() {
            // Of the contents, which are compared with the files themselves below.
            file["memfd"].as_object_mut().unwrap().remove("sha256");
        }
    }
    assert_eq!(json!(luo.number), expected["number"]);
    assert_eq!(Value::from_iter(luo.sessions.iter().map(session)), expected["sessions"]);
    let flb = |flb: &Flb| json!({ "name": flb.name.to_string(), "data": flb.data, "count": flb.count });
    assert_eq!(Value::from_iter(luo.flbs.iter().map(flb)), expected["flbs"]);

    for (session, file) in luo.sessions.iter().flat_map(|session| session.files.iter().map(move |file| (session, file)))
    {
        let FileContent::Memfd(memfd) = &file.content else { panic!("{file:?}") };
        let mut bytes = vec![0; memfd.size.next_multiple_of(4096) as usize];
        for (folio, index) in &memfd.folios {
            let at = *index as usize * 4096;
            plan.memory().read(folio.addr(Geometry::K4), &mut bytes[at..at + 4096]).unwrap();
        }
        bytes.truncate(memfd.size as usize);
        let written = std::fs::read(data(&format!("memfds/{}.{:x}", session.name, file.token))).unwrap();
        assert!(bytes == written, "{} {:#x}", session.name, file.token);
    }
}

#[test]
fn reserved_memory_metadata_and_the_checksum_of_kho_test() {
    let Machine { memblock, metadata, kho_test, .. } = frozen();
    let expected = expected()["subtrees"].take();
    let ranges = memblock.ranges.iter().map(|range| {
        let node = json!({ "compatible": "reserve-mem-v1", "start": range.start.get(), "size": range.size });
        (range.name.to_string(), node)
    });
    assert_eq!(Value::from_iter(ranges), expected["memblock"]["reserve"]);

    let wanted = &expected["kexec-metadata"];
    assert_eq!(
        json!([metadata.previous_release, metadata.kexec_count]),
        json!([wanted["previous_release"], wanted["kexec_count"]])
    );

    assert_eq!((kho_test.csum, kho_test.rule), (3_576_354_709, Rule::Words));
    let folios = kho_test.folios.iter().map(|folio| json!([folio.addr(Geometry::K4).get(), folio.order().get()]));
    assert_eq!(Value::from_iter(folios), expected["kho_test"]["folios"]);
}
