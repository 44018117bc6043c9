//! A real Linux 7.2 machine, frozen before kexec, through the whole planner: every node is understood, every value is
//! what another decoder found (`frozen.json`), and every preserved page has an owner.

use std::path::{Path, PathBuf};

use kho::abi;
use kho::handover::{Accepted, Check, Handle, Incoming, Node, Registry, Verdict};
use kho::luo::{FileContent, Luo, LuoNode};
use kho::mem::{Folio, Geometry, Image, Memory as _, PhysAddr, Source};
use kho::memblock::{Memblock, MemblockNode};
use kho::metadata::{Metadata, MetadataNode};
use kho::report::{Fault, Findings};
use kho::selftest::{Found, Rule, SelfTest};
use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/linux-7.2-x86_64").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(data("frozen.json")).unwrap()).unwrap()
}
