//! What the service hands over besides its data: typed state, and the descriptors in it; and what its clients know, where
//! they end with it.

use kho::compat::{Compat, CompatList};
use kho::payload;
use kho::state::{FileDescriptor, State};

use super::load::KEYS;

/// Node of the data.
pub(crate) const STORE: &str = "store";
/// What the data mean.
pub(crate) const STORE_IS: CompatList<'static> = CompatList::new(Compat::new("serve-store", 1), payload::ARRAY_USE);
/// Node of the state.
pub(crate) const SERVED: &str = "served";
/// Tokens of the files that travel while the service still serves.
pub(super) const LISTENER: u64 = 1;
pub(super) const DOOR: u64 = 2;

/// A client, in the middle of whatever it says.
#[derive(Debug, State)]
#[state(id = 2, version = 1)]
pub(crate) struct Connection {
    pub(super) socket: FileDescriptor,
    /// What came and is not answered: requests, and the beginning of one.
    pub(super) input: Vec<u8>,
    /// What is answered and not sent.
    pub(super) output: Vec<u8>,
}

/// The service.
#[derive(Debug, Default, State)]
#[state(id = 1, version = 1)]
pub(crate) struct Served {
    /// Requests that were answered, by all that ever served.
    pub(super) answered: u64,
    /// Clients that ever came.
    pub(super) accepted: u64,
    /// Keys that are in the data.
    pub(super) entries: u64,
    /// How often the service was handed over.
    pub(super) upgrades: u64,
    pub(super) connections: Vec<Connection>,
}

/// What the clients know, for those in the next kernel.
#[derive(Debug, Default, State)]
#[state(id = 3, version = 1)]
pub(crate) struct Known {
    /// Requests that were sent.
    pub(super) sent: u64,
    /// All of them were answered.
    pub(super) answered: u64,
    /// Connections that were opened.
    pub(super) connections: u64,
    pub(super) clients: Vec<Keys>,
}

/// The keys of a client, and what they must be.
#[derive(Clone, Debug, Default, State)]
#[state(id = 4, version = 1)]
pub(crate) struct Keys {
    /// Of the client, from 1.
    pub(super) number: u64,
    /// Zero is also what nobody has set.
    pub(super) values: Vec<u64>,
}

impl Keys {
    /// So many clients that know nothing yet.
    pub(super) fn new(clients: u64) -> Vec<Self> {
        let values = vec![0; usize::try_from(KEYS).unwrap_or(0)];
        (1..=clients).map(|number| Keys { number, values: values.clone() }).collect()
    }

    /// One of its keys.
    pub(super) const fn key(&self, at: u64) -> u64 {
        self.number << 32 | at
    }
}
