//! fdt
