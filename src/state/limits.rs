//! How much is followed.

/// States and shared objects nest so deep at most.
pub const DEPTH: u32 = 64;

/// A type nests so deep at most.
pub const TYPE_DEPTH: u32 = 8;

/// A state has so many fields, variants or subsections at most.
pub const FIELDS: usize = 1024;

/// So many descriptions are in one image at most.
pub const SHAPES: usize = 4096;

/// Metadata of an image, in bytes.
pub const META: u64 = 1 << 32;
