//! The checksum, which Linux computes differently by architecture.

use crate::num::u64_of;

/// How folios are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum Rule {
    /// x86-64: native 32-bit words, end-around carry, on across all folios.
    Words,
    /// arm64 (and x86-64 under KASAN or KMSAN): each folio's sum is folded to 16 bits before it is added.
    Folded,
}

impl Rule {
    /// Both.
    pub const ALL: [Rule; 2] = [Rule::Words, Rule::Folded];

    /// That of the machine that this was compiled for.
    pub const NATIVE: Rule = if cfg!(target_arch = "aarch64") { Rule::Folded } else { Rule::Words };
}

/// A checksum in the making.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    rule: Rule,
    /// Folios that ended.
    total: u32,
    /// Words of the folio at hand, not folded yet.
    words: u64,
}

impl Sum {
    /// Of nothing.
    #[must_use]
    pub const fn new(rule: Rule) -> Self {
        Sum { rule, total: 0, words: 0 }
    }

    /// Adds bytes of the folio at hand. Their number is a multiple of 4, as in all pages; what is left over is not
    /// counted.
    pub fn add(&mut self, bytes: &[u8]) {
        // 2^32 words fit before the sum of 64 bits can overflow; a piece is far smaller, and is folded after.
        let (words, _) = bytes.as_chunks::<4>();
        debug_assert!(u64_of(words.len()) < 1 << 32);
        let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from(u32::from_le_bytes(*word))));
        self.words = u64::from(fold32(u64::from(fold32(self.words)).wrapping_add(u64::from(fold32(sum)))));
    }

    /// The folio at hand is complete.
    pub fn end_of_folio(&mut self) {
        let folio = match self.rule {
            Rule::Words => fold32(self.words),
            Rule::Folded => u32::from(fold16(fold32(self.words))),
        };
        self.total = fold32(u64::from(self.total).wrapping_add(u64::from(folio)));
        self.words = 0;
    }

    /// The checksum of the folios that ended.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.total
    }
}

/// Adds the upper half to the lower until none is left: the carry goes around.
#[allow(clippy::as_conversions, reason = "both halves are taken on purpose; the second sum fits")]
const fn fold32(sum: u64) -> u32 {
    let once = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    ((once & 0xffff_ffff) as u32).wrapping_add((once >> 32) as u32)
}

#[allow(clippy::as_conversions, reason = "both halves are taken on purpose; the second sum fits")]
const fn fold16(sum: u32) -> u16 {
    let once = (sum & 0xffff).wrapping_add(sum >> 16);
    ((once & 0xffff) as u16).wrapping_add((once >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rule: Rule, folios: &[&[u8]]) -> u32 {
        let mut sum = Sum::new(rule);
        for folio in folios {
            for piece in folio.chunks(8) {
                sum.add(piece);
            }
            sum.end_of_folio();
        }
        sum.get()
    }

    #[test]
    fn the_carry_goes_around() {
        let ones = [0xff; 8];
        let mut two = [0; 8];
        two[0] = 2;
        assert_eq!(sum(Rule::Words, &[&ones, &two]), 2);
        assert_eq!(sum(Rule::Folded, &[&ones, &two]), 0x1_0001);
    }

    #[test]
    fn pieces_and_folios_do_not_matter_to_words() {
        let bytes: Vec<u8> = (0..64_u8).map(|byte| byte.wrapping_mul(151)).collect();
        let naive = bytes.chunks(4).fold(0_u64, |sum, word| {
            let sum = sum + u64::from(u32::from_le_bytes(word.try_into().unwrap()));
            (sum & 0xffff_ffff) + (sum >> 32)
        });
        assert_eq!(u64::from(sum(Rule::Words, &[&bytes])), naive);
        assert_eq!(sum(Rule::Words, &[&bytes[..32], &bytes[32..]]), sum(Rule::Words, &[&bytes]));
    }
}
