//! Parsers for the numbers of the command line: addresses and lengths, words, bytes, indexes and
//! durations.

use super::negative::unmark_text;
use dsm_config::{SizeError, parse_duration, parse_size};
use std::ops::RangeInclusive;
use std::time::Duration;

/// The range of durations that `--timeout` and `--duration` accept.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);

/// Parses an address or a length in bytes: a sum of terms joined by `+`. Each term is `0x` with
/// hexadecimal digits, or a size in the syntax of mcomp.cfg.
pub(super) fn quantity(text: &str) -> Result<u64, String> {
    let text = unmark_text(text);
    if text.starts_with('-') {
        return Err("it is negative: give 0 or more".to_owned());
    }
    text.split('+').try_fold(0_u64, |sum, part| {
        sum.checked_add(term(part.trim())?)
            .ok_or_else(|| "it is more than 2^64-1 bytes".to_owned())
    })
}

fn term(text: &str) -> Result<u64, String> {
    match hexadecimal_digits(text) {
        Some(digits) => u64::from_str_radix(digits, 16).map_err(|_| {
            format!("{text:?} is not a 64-bit hexadecimal number: write it like 0x1000")
        }),
        None => parse_size(text).map_err(|error| match error {
            SizeError::Form => {
                format!("{error}; or write hexadecimal like 0x1000, or a sum like 1MiB+16")
            }
            other => other.to_string(),
        }),
    }
}

/// The digits after `0x`; `None` if a sign comes first, which `from_str_radix` would accept.
fn hexadecimal_digits(text: &str) -> Option<&str> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))?;
    (!digits.starts_with(['+', '-'])).then_some(digits)
}

/// Parses a whole number, decimal or hexadecimal with `0x`, with or without a minus.
pub(super) fn integer(text: &str) -> Result<i128, String> {
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let parsed = match hexadecimal_digits(magnitude) {
        Some(digits) => i128::from_str_radix(digits, 16).ok(),
        None if magnitude.starts_with(|c: char| c.is_ascii_digit()) => magnitude.parse().ok(),
        None => None,
    };
    let number = parsed
        .ok_or_else(|| format!("{text:?} is not a whole number: write it like 42, -42 or 0x2a"))?;
    Ok(if negative { -number } else { number })
}

/// Parses the value of a word of 64 bits: 0 to 2^64 - 1, or a negative number down to -2^63, which
/// becomes its two's complement.
pub(super) fn word(text: &str) -> Result<u64, String> {
    let text = unmark_text(text);
    let number = integer(text)?;
    u64::try_from(number)
        .or_else(|_| i64::try_from(number).map(i64::cast_unsigned))
        .map_err(|_| format!("{text} does not fit 64 bits: give a number from -2^63 to 2^64 - 1"))
}

/// Parses the value of one byte, 0 to 255.
pub(super) fn byte(text: &str) -> Result<u8, String> {
    let text = unmark_text(text);
    let value = integer(text)
        .ok()
        .and_then(|value| u8::try_from(value).ok());
    value.ok_or_else(|| {
        format!("{text:?} is not a byte: give a whole number from 0 to 255, or 0x00 to 0xff")
    })
}

/// Parses a server's index.
pub(super) fn index(text: &str) -> Result<usize, String> {
    let text = unmark_text(text);
    text.parse().map_err(|_| {
        format!("{text:?} is not the index of a server: give a whole number, 0 or more")
    })
}

/// Parses a duration with a unit, such as `5s` or `500ms`, from 1ms to 24h.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_none(text)? {
        duration if TIMEOUT.contains(&duration) => Ok(duration),
        _ => Err("give a duration from 1ms to 24h".to_owned()),
    }
}

/// Parses a duration of up to 24h, which may be `0s`.
pub(super) fn duration_or_none(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(duration) if duration <= *TIMEOUT.end() => Ok(duration),
        Some(_) => Err("give a duration of up to 24h".to_owned()),
        None => Err(format!(
            "{text:?} is not a duration: write it like 5s, 500ms or 1m 30s"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_and_lengths_parse_in_every_form() {
        for (text, value) in [
            ("0", 0),
            ("4096", 4096),
            ("0x1000", 4096),
            ("0XfF", 255),
            ("4KiB", 4096),
            ("4 kib", 4096),
            ("7B", 7),
            ("1MiB+16", (1 << 20) + 16),
            ("1GiB+1MiB+0x10", (1 << 30) + (1 << 20) + 16),
            ("1kB", 1000),
            ("8192PiB", 1 << 63),
            ("18446744073709551615", u64::MAX),
            ("0xffffffffffffffff", u64::MAX),
        ] {
            assert_eq!(quantity(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn malformed_and_too_large_addresses_are_refused() {
        for text in [
            "", "-1", "+", "1+", "+1", "0x", "0x+1", "0xg", "4K", "1.5MiB", "KiB", "4KiBKiB",
            "1_000", "0x10KiB",
        ] {
            assert!(quantity(text).is_err(), "{text}");
        }
        for text in [
            "18446744073709551616",
            "16384PiB",
            "18446744073709551615+1",
            "0x10000000000000000",
        ] {
            assert!(quantity(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_negative_word_becomes_its_twos_complement() {
        assert_eq!(word("-1"), Ok(u64::MAX));
        assert_eq!(word("-0x10"), Ok(u64::MAX - 15));
        assert_eq!(word("-9223372036854775808"), Ok(1 << 63));
        assert_eq!(word("18446744073709551615"), Ok(u64::MAX));
        for text in [
            "-9223372036854775809",
            "18446744073709551616",
            "",
            "-",
            "--1",
            "0x-1",
            "1e3",
            "one",
        ] {
            assert!(word(text).is_err(), "{text}");
        }
        assert_eq!(byte("0xff"), Ok(255));
        assert!(byte("256").is_err() && byte("-1").is_err());
    }

    #[test]
    fn a_duration_needs_a_unit_and_is_not_zero() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["0s", "5", "", "-1s", "soon", "25h", "1day"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration_or_none("0s"), Ok(Duration::ZERO));
        assert!(duration_or_none("5").is_err() && duration_or_none("25h").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,24}") {
            let _ = (quantity(&text), word(&text), byte(&text), duration(&text));
        }

        #[test]
        fn every_printed_number_parses_to_itself(value in any::<u64>()) {
            prop_assert_eq!(quantity(&value.to_string()), Ok(value));
            prop_assert_eq!(quantity(&format!("{value:#x}")), Ok(value));
            prop_assert_eq!(word(&value.cast_signed().to_string()), Ok(value));
        }
    }
}
