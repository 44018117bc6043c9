//! Named reserved memory (`reserve_mem=`): a device tree of one node for each range.
//!
//! `/ { compatible = "memblock-v1"; NAME { compatible = "reserve-mem-v1"; start = <native u64>; size = <native u64>; }; };`
//! Names are bytes: Linux also takes characters there that device trees forbid.

use crate::compat::Compat;

/// The layout of the tree.
pub const COMPAT: Compat<'static> = Compat::new("memblock", 1);
/// The layout of one of its nodes.
pub const RESERVE_MEM: Compat<'static> = Compat::new("reserve-mem", 1);

/// Name of the node in the root FDT.
pub const NODE: &str = "memblock";
/// Node: native u64, physical address of the range.
pub const START: &str = "start";
/// Node: native u64, bytes.
pub const SIZE: &str = "size";

/// Linux reserves at most so many ranges.
pub const MAX_RANGES: usize = 8;
/// Bytes of a name, without a terminating zero.
pub const MAX_NAME: usize = 15;
