//! Hand a running program's memory, files and typed state to its successor.
#![cfg_attr(not(feature = "std"), no_std)]
#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

extern crate alloc;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("kho is for 64-bit machines: Linux hands over only there");

#[cfg(all(feature = "std", not(target_os = "linux")))]
compile_error!("the feature `std` of kho is for Linux: it uses memfd, execveat and SCM_RIGHTS");

pub mod abi;
pub mod block;
pub mod compat;
pub mod fdt;
#[cfg(feature = "std")]
pub mod files;
pub mod handover;
#[cfg(all(feature = "std", feature = "serde"))]
pub mod inspect;
pub mod mem;
pub mod memfd;
mod num;
pub mod payload;
pub mod radix;
pub mod report;
pub mod selftest;
mod trace;
#[cfg(feature = "std")]
pub mod transport;
pub mod vmalloc;
