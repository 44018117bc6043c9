//! Any memory as a handover: the plan ends, and what it calls fine can be restored.
#![cfg_attr(feature = "run", no_main)]

use kho::abi::kexec_metadata;
use kho::handover::{Incoming, Registry, Verdict};
use kho::luo::LuoNode;
use kho::memblock::MemblockNode;
use kho::memfd::MemfdNode;
use kho::metadata::MetadataNode;
use kho::payload::{ArrayNode, BytesNode, RecordsNode};
use kho::selftest::SelfTestNode;
use kho_fuzz::{ARRAY, BYTES, TABLE};
use libfuzzer_sys::fuzz_target;
use zerocopy::little_endian::U64;

fuzz_target!(|data: &[u8]| {
    let Some((memory, root)) = kho_fuzz::memory(data) else { return };
    let mut registry = Registry::observing();
    registry.add_optional("memfd", MemfdNode);
    registry.add_optional("kho_test", SelfTestNode);
    registry.read_optional("LUO", LuoNode);
    registry.read_optional("memblock", MemblockNode);
    registry.read_optional(kexec_metadata::NODE, MetadataNode);
    registry.read_optional("bytes", BytesNode { made_of: BYTES, limit: 4096 });
    registry.read_optional("table", RecordsNode::<U64>::new(TABLE));
    registry.read_optional("array", ArrayNode { made_of: ARRAY });
    let plan = Incoming::new(memory, root).plan(&registry);
    let text = plan.findings().to_string();
    if plan.verdict() == Verdict::Fine {
        let accepted = plan.accept().unwrap_or_else(|refused| panic!("fine, but refused: {refused}"));
        let restored = accepted.restore().unwrap_or_else(|failed| panic!("{text}\nfine, but not restored: {failed}"));
        restored.finish().1.unwrap_or_else(|fault| panic!("{text}\nrestored, but not finished: {fault}"));
    } else {
        assert!(!text.is_empty(), "refused without a reason");
    }
});

#[cfg(not(feature = "run"))]
fn main() {}
