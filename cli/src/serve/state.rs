//! What the service hands over besides its data: typed state, and the descriptors in it.

use kho::compat::{Compat, CompatList};
use kho::payload;
use kho::state::{FileDescriptor, State};

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
