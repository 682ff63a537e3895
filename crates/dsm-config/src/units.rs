//! Reads and writes sizes and durations as text: `64MiB`, `500ms`.

use bytesize::Unit;
use std::time::Duration;

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// The text does not begin with a whole number, or its unit is unknown.
    #[error(
        "a size is a whole number, alone or with one of B, KiB, MiB, GiB, TiB, PiB (1024), kB, MB, GB, TB, PB (1000)"
    )]
    Form,
    /// A unit such as K or Ki, which some programs read as 1000 and others as 1024.
    #[error("the unit {0:?} is ambiguous: write {1:?} for 1024 or {2:?} for 1000")]
    Ambiguous(String, String, String),
    /// The size does not fit 64 bits.
    #[error("it is more than 2^64-1 bytes")]
    TooLarge,
}

/// Reads a size in bytes, exactly: a whole number, alone or with a unit (`64MiB`, `64 MiB`, `1GB`).
///
/// # Errors
/// When the text is anything else, or more than `u64::MAX` bytes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Form);
    }
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Ok(number);
    }
    // `Unit` reads "64K" and "64Ki", and units that the manual page does not have.
    let letter = unit.chars().next().unwrap_or_default().to_ascii_uppercase();
    if "KMGTP".contains(letter)
        && (unit.len() == 1
            || unit
                .get(1..)
                .is_some_and(|rest| rest.eq_ignore_ascii_case("i")))
    {
        return Err(SizeError::Ambiguous(
            unit.to_owned(),
            format!("{letter}iB"),
            format!("{}B", if letter == 'K' { 'k' } else { letter }),
        ));
    }
    let is_known =
        unit.len() <= 3 && "BKMGTP".contains(letter) && unit.to_ascii_uppercase().ends_with('B');
    let factor = unit
        .parse::<Unit>()
        .ok()
        .filter(|_| is_known)
        .ok_or(SizeError::Form)?
        * 1;
    number.checked_mul(factor).ok_or(SizeError::TooLarge)
}

/// Reads a length of time: whole numbers with the units ms, s, m and h, such as `500ms` or `1m
/// 30s`. `None` when the text is anything else.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    // humantime reads many more units, among them M for a month, and fractions.
    let units = text
        .split(|c: char| !c.is_alphabetic())
        .filter(|unit| !unit.is_empty());
    let known = !text.contains('.')
        && units
            .into_iter()
            .all(|unit| ["ms", "s", "m", "h"].contains(&unit));
    humantime::parse_duration(text).ok().filter(|_| known)
}

/// Writes a size in bytes with the largest binary unit that divides it; [`parse_size`] reads it
/// back.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let units = ["PiB", "TiB", "GiB", "MiB", "KiB"];
    let powers = (1..=5).rev().map(|power| 1_u64 << (10 * power));
    let unit = units
        .into_iter()
        .zip(powers)
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    unit.map_or_else(
        || bytes.to_string(),
        |(unit, factor)| format!("{}{unit}", bytes / factor),
    )
}

/// Writes a size in bytes for people: in the largest unit that it is at least one of, with one
/// decimal, rounded down, unless it is a whole number of them. [`parse_size`] may not read it back.
#[must_use]
pub fn approximate_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    let shift = 10 * unit;
    if bytes & ((1 << shift) - 1) == 0 {
        return format!("{} {}", bytes >> shift, UNITS[unit]);
    }
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_exact_and_have_no_ambiguous_unit() {
        let good = [
            ("0", 0),
            ("4096", 4096),
            ("1B", 1),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1MB", 1_000_000),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "MiB", "-1", "+1", "1.5GiB", "1KiB ", "1 K iB", "1Qi", "0x10", "1_000", "１",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::Form), "{text}");
        }
        for text in ["18446744073709551616", "16384PiB", "99999999999999999999B"] {
            assert_eq!(parse_size(text), Err(SizeError::TooLarge), "{text}");
        }
        for text in ["64M", "64Ki", "1 p"] {
            assert!(
                matches!(parse_size(text), Err(SizeError::Ambiguous(..))),
                "{text}"
            );
        }
        for text in ["1EB", "1EiB", "1ki b", "1kibi", "1bytes", "1KiBB"] {
            assert_eq!(parse_size(text), Err(SizeError::Form), "{text}");
        }
    }

    #[test]
    fn durations_have_four_units() {
        assert_eq!(
            parse_duration("1h 2m3s 4ms"),
            Some(Duration::from_millis(3_723_004))
        );
        for text in ["", "5", "5sec", "1M", "1day", "5us", "-1s", "1.5s", "s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_size_that_was_written_is_read_back(bytes in any::<u64>(), shift in 0_u32..64) {
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = parse_size(&text);
        }
    }
}
