//! The payload of Linux's own test module: a device tree (in a folio of order 1 or more) that names folios.
//!
//! `/ { compatible = "kho-test-v1"; magic = <native u32>; data { nr_folios = <native u32>; folios_info = [vmalloc
//! descriptor of an array of native u64]; csum = <native u32>; }; };` Each word of the array is the physical address of
//! a folio with its order in the low bits.

use crate::compat::Compat;

/// The layout of this file. It uses `vmalloc-v1`.
pub const COMPAT: Compat<'static> = Compat::new("kho-test", 1);

/// Name of the node in the root FDT.
pub const NODE: &str = "kho_test";
/// Root: native u32, [`MAGIC_VALUE`].
pub const MAGIC: &str = "magic";
/// `KHO!`.
pub const MAGIC_VALUE: u32 = 0x4b48_4f21;
/// Name of the node that has the rest.
pub const DATA: &str = "data";
/// Data: native u32, folios.
pub const NR_FOLIOS: &str = "nr_folios";
/// Data: vmalloc descriptor of the array.
pub const FOLIOS_INFO: &str = "folios_info";
/// Data: native u32, checksum over all folios in the order of the array.
pub const CSUM: &str = "csum";
