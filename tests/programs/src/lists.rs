//! What the nodes are made of, in every version that there ever was.

use kho::abi;
use kho::compat::{Compat, CompatList};

/// A total of 32 bits.
pub const COUNTER_V1: CompatList<'static> = CompatList::new(Compat::new("test-counter", 1), &[]);
/// A total of 64 bits, and what was added, as records.
pub const COUNTER_V2: CompatList<'static> = CompatList::new(Compat::new("test-counter", 2), &[abi::block::COMPAT]);
/// The same, and what was added as an array.
pub const COUNTER_V3: CompatList<'static> = CompatList::new(Compat::new("test-counter", 3), &[abi::vmalloc::COMPAT]);
/// A text.
pub const HINTS_V1: CompatList<'static> = CompatList::new(Compat::new("test-hints", 1), &[]);
/// Another text.
pub const HINTS_V2: CompatList<'static> = CompatList::new(Compat::new("test-hints", 2), &[]);
/// Files by descriptor; as the library has it, with whatever features.
pub const FILES: CompatList<'static> = CompatList::new(abi::files::COMPAT, &[abi::block::COMPAT]);
