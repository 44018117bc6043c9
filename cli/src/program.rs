//! What this program takes over and hands over. Two commands do, and a program has one manifest: so each of them may find
//! the nodes of the other missing, and its own are told where they are missed.

use kho::abi::{files, kho_test};
use kho::files::{Files, FilesNode};
use kho::handover::{Handle, Registry};
use kho::mem::Frame;
use kho::memfd::MemfdNode;
use kho::payload::{ArrayNode, BytesNode, Contiguous, RecordsNode};
use kho::selftest::SelfTestNode;
use kho::state::{State as _, States, StatesNode};
use kho::transport::Bundle;

use crate::demo::parts::{self, Row};
use crate::serve::state::{self as served, Connection, Keys, Known, Served};

kho::manifest! {
    /// `kho manifest` of this very program.
    pub(crate) static MANIFEST = [
        reads(files::NODE, &[kho::files::MADE_OF]).optional(),
        writes(files::NODE, &[kho::files::MADE_OF]),
        reads(parts::MEMFD, &[kho::memfd::MADE_OF]).optional(),
        writes(parts::MEMFD, &[kho::memfd::MADE_OF]),
        reads(kho_test::NODE, &[kho::selftest::MADE_OF]).optional(),
        writes(kho_test::NODE, &[kho::selftest::MADE_OF]),
        reads(parts::TABLE, &[parts::TABLE_IS]).optional(),
        writes(parts::TABLE, &[parts::TABLE_IS]),
        reads(parts::ARRAY, &[parts::ARRAY_IS]).optional(),
        writes(parts::ARRAY, &[parts::ARRAY_IS]),
        reads(parts::LEDGER, &[parts::LEDGER_IS]).optional(),
        writes(parts::LEDGER, &[parts::LEDGER_IS]),
        reads(served::STORE, &[served::STORE_IS]).optional(),
        writes(served::STORE, &[served::STORE_IS]),
        states(served::SERVED, STATES).optional(),
    ];
}

const STATES: &[&kho::state::Shape] = &[Served::SHAPE, Connection::SHAPE, Known::SHAPE, Keys::SHAPE];

/// The right to take what came, of each node once.
pub(crate) struct Parts {
    pub(crate) files: Handle<Files>,
    pub(crate) memfd: Handle<std::os::fd::OwnedFd>,
    pub(crate) test: Handle<Vec<Frame>>,
    pub(crate) table: Handle<Vec<Row>>,
    pub(crate) array: Handle<Contiguous>,
    pub(crate) ledger: Handle<Vec<u8>>,
    pub(crate) store: Handle<Contiguous>,
    pub(crate) served: Handle<States>,
}

/// What the manifest says that is read.
pub(crate) fn registry() -> (Registry<Bundle>, Parts) {
    let mut registry = Registry::of(&MANIFEST);
    let parts = Parts {
        files: registry.add_optional(files::NODE, FilesNode),
        memfd: registry.add_optional(parts::MEMFD, MemfdNode),
        test: registry.add_optional(kho_test::NODE, SelfTestNode),
        table: registry.read_optional(parts::TABLE, RecordsNode::<Row>::new(parts::TABLE_IS)),
        array: registry.add_optional(parts::ARRAY, ArrayNode { made_of: parts::ARRAY_IS }),
        ledger: registry.read_optional(parts::LEDGER, BytesNode { made_of: parts::LEDGER_IS, limit: 4096 }),
        store: registry.add_optional(served::STORE, ArrayNode { made_of: served::STORE_IS }),
        served: registry.add_optional(served::SERVED, StatesNode::new(STATES)),
    };
    (registry, parts)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_registry_is_what_the_manifest_says() {
        assert_eq!(super::registry().0.disagreements(), []);
    }
}
