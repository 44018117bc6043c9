//! Plain data as nodes of a handover: bytes, tables of records, arrays of pages.
//!
//! Their owner, the name and version of what the data *means*, is the user's own. A list names it first, then what the
//! data is made of:
//!
//! ```
//! use kho::compat::{Compat, CompatList};
//! use kho::{abi, payload};
//!
//! const ORDERS: CompatList<'static> =
//!     CompatList::new(Compat::new("shop-orders", 3), payload::RECORDS_USE);
//! assert_eq!(ORDERS.to_string(), "shop-orders-v3;block-v1;kho-records-v1");
//! ```

#[cfg(feature = "std")]
mod array;
mod bytes;
mod records;
#[cfg(all(test, feature = "std"))]
mod tests;

use crate::abi;
use crate::compat::Compat;

#[cfg(feature = "std")]
pub use array::{Array, ArrayNode, Contiguous, MappedArray};
#[cfg(feature = "write")]
pub use bytes::Bytes;
pub use bytes::BytesNode;
#[cfg(feature = "write")]
pub use records::Records;
pub use records::RecordsNode;

/// What every table of records is made of.
pub const RECORDS_USE: &[Compat<'static>] = &[abi::block::COMPAT, abi::payload::RECORDS];
/// What every array of pages is made of.
pub const ARRAY_USE: &[Compat<'static>] = &[abi::payload::ARRAY, abi::vmalloc::COMPAT];
