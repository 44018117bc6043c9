//! Sizes and addresses as people write them.

use kho::mem::{PhysAddr, PhysRange};

/// Bytes: `1GiB`, `16MiB`, `64K`, `0x1000`, `4096`. The units are binary, with or without `iB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).map_err(|error| format!("{text}: {error}"));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("{text}: neither a size, as 1GiB or 4096, nor an address, as 0xa000000"))?;
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches("ib") {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("{text}: a unit is one of B, KiB, MiB, GiB, TiB (or K, M, G, T)")),
    };
    number.checked_shl(shift).filter(|size| size >> shift == number).ok_or_else(|| format!("{text}: too large"))
}

/// A range of physical addresses: `0x1000000+16MiB`.
pub(crate) fn parse_range(text: &str) -> Result<PhysRange, String> {
    let (start, bytes) = text.split_once('+').ok_or_else(|| format!("{text}: a range is START+SIZE"))?;
    let (start, bytes) = (parse_size(start)?, parse_size(bytes)?);
    PhysRange::new(PhysAddr::new(start), bytes).ok_or_else(|| format!("{text}: ends behind the last address"))
}

/// Bytes for people: exact where a unit divides them, one decimal else.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        let one = 1_u64 << shift;
        if bytes >= one {
            return if bytes.is_multiple_of(one) {
                format!("{} {unit}", bytes >> shift)
            } else {
                // Tenths, rounded down: 1023.9 KiB stays below 1 MiB.
                let tenths = (bytes >> (shift - 10)) % 1024 * 10 / 1024;
                format!("{}.{tenths} {unit}", bytes >> shift)
            };
        }
    }
    format!("{bytes} B")
}

/// A duration for people.
pub(crate) fn time(nanos: u64) -> String {
    match nanos {
        0..10_000 => format!("{nanos} ns"),
        10_000..10_000_000 => format!("{}.{:02} ms", nanos / 1_000_000, nanos / 10_000 % 100),
        10_000_000..10_000_000_000 => format!("{}.{} ms", nanos / 1_000_000, nanos / 100_000 % 10),
        _ => format!("{}.{} s", nanos / 1_000_000_000, nanos / 100_000_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("0x1000", 4096),
            ("4K", 4096),
            ("16 MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("2t", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1.5G", "-1", "1EiB", "99999999999999999999", "16777216T", "0xz"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (1536, "1.5 KiB"), ((1 << 20) - 1, "1023.9 KiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_for_people() {
        for (nanos, text) in
            [(999, "999 ns"), (1_234_567, "1.23 ms"), (12_345_678, "12.3 ms"), (61_000_000_000, "61.0 s")]
        {
            assert_eq!(time(nanos), text);
        }
    }
}
