//! The page size, and what follows from it.

use core::fmt;

/// The page size of the machine that wrote a handover. A part of the ABI that nothing in the data says.
///
/// The formulas are those of the radix tree and of the structures that fill a page: `tests::the_published_table` holds
/// them against the numbers of real 4K, 16K and 64K kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Geometry {
    /// Pages of 4 KiB: x86-64, most of arm64.
    #[default]
    K4,
    /// Pages of 16 KiB: arm64.
    K16,
    /// Pages of 64 KiB: arm64.
    K64,
}

impl Geometry {
    /// All three.
    pub const ALL: [Geometry; 3] = [Geometry::K4, Geometry::K16, Geometry::K64];

    /// The geometry with pages of that many bytes.
    #[must_use]
    pub const fn with_page_size(bytes: u64) -> Option<Self> {
        match bytes {
            0x1000 => Some(Geometry::K4),
            0x4000 => Some(Geometry::K16),
            0x1_0000 => Some(Geometry::K64),
            _ => None,
        }
    }

    /// log2 of the page size in bytes.
    #[must_use]
    pub const fn page_shift(self) -> u32 {
        match self {
            Geometry::K4 => 12,
            Geometry::K16 => 14,
            Geometry::K64 => 16,
        }
    }

    /// The page size in bytes.
    #[must_use]
    pub const fn page_size(self) -> u64 {
        1 << self.page_shift()
    }

    /// log2 of the entries of an inner node of the radix tree.
    #[must_use]
    pub const fn table_bits(self) -> u32 {
        self.page_shift().saturating_sub(3)
    }

    /// log2 of the bits of a leaf of the radix tree.
    #[must_use]
    pub const fn leaf_bits(self) -> u32 {
        self.page_shift().saturating_add(3)
    }

    /// Width of a key of the radix tree, in bits.
    #[must_use]
    pub const fn key_bits(self) -> u32 {
        64_u32.saturating_sub(self.page_shift()).saturating_add(1)
    }

    /// Levels of the radix tree, the leaf included.
    #[must_use]
    pub const fn depth(self) -> u32 {
        self.key_bits().saturating_sub(self.leaf_bits()).div_ceil(self.table_bits()).saturating_add(1)
    }

    /// Page addresses in one vmalloc chunk.
    #[must_use]
    pub const fn chunk_capacity(self) -> u64 {
        (self.page_size() >> 3).saturating_sub(1)
    }

    /// Records of `record` bytes in one page behind a header of 16; 0 when none fits or `record` is 0.
    #[must_use]
    pub const fn block_capacity(self, record: u64) -> u64 {
        match self.page_size().saturating_sub(16).checked_div(record) {
            Some(capacity) => capacity,
            None => 0,
        }
    }

    /// How many pages hold so many bytes.
    #[must_use]
    pub const fn pages(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.page_size())
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Geometry::K4 => "4K",
            Geometry::K16 => "16K",
            Geometry::K64 => "64K",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_table() {
        let row = |g: Geometry| {
            let keys = [g.table_bits(), g.leaf_bits(), g.key_bits(), g.depth()];
            let pages = [g.chunk_capacity(), g.block_capacity(80), g.block_capacity(64)];
            let reach = 1_u64 << (g.key_bits() - g.leaf_bits() - (g.depth() - 2) * g.table_bits());
            (keys, pages, reach)
        };
        assert_eq!(row(Geometry::K4), ([9, 15, 53, 6], [511, 51, 63], 4));
        assert_eq!(row(Geometry::K16), ([11, 17, 51, 5], [2047, 204, 255], 2));
        assert_eq!(row(Geometry::K64), ([13, 19, 49, 4], [8191, 819, 1023], 16));
    }
}
