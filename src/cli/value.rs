//! Typed values: conversion between text on the command line and bytes in the memory. Numbers are
//! little-endian, as in the atomic operations.

use super::negative::unmark;
use super::number;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A type of numbers with a fixed width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
}

/// The type of the values of `write`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    Number(Number),
    Hex,
    Text,
}

/// A decoded number, ready to be displayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Decoded {
    Integer(i128),
    F32(f32),
    F64(f64),
}

impl Number {
    /// Every type; within each family the narrowest comes first.
    pub(super) const ALL: [Self; 10] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F32,
        Self::F64,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// The width in bytes: 1, 2, 4 or 8.
    pub(super) fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The least and the greatest whole number of the type; `None` for floating point.
    fn bounds(self) -> Option<(i128, i128)> {
        match self {
            Self::F32 | Self::F64 => None,
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => {
                let half = 1_i128 << (8 * self.size() - 1);
                Some((-half, half - 1))
            }
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => {
                Some((0, (1_i128 << (8 * self.size())) - 1))
            }
        }
    }

    fn encode(self, text: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
        if let Some((least, greatest)) = self.bounds() {
            let value = number::integer(text)?;
            if !(least..=greatest).contains(&value) {
                return Err(format!(
                    "{text} does not fit {} ({least} to {greatest})",
                    self.name()
                ));
            }
            bytes.extend_from_slice(&value.to_le_bytes()[..self.size()]);
            return Ok(());
        }
        // Parsing rounds a finite text that is too large to infinity, and one that is too small to
        // zero. Both are refused, so that the memory never holds another value than the text.
        let infinite = text.to_ascii_lowercase().contains("inf");
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        let zero = !mantissa.contains(|c: char| ('1'..='9').contains(&c));
        let (stored, is_infinite, is_zero) = if self == Self::F32 {
            let value: f32 = text.parse().map_err(|_| not_a_number(text))?;
            (
                value.to_le_bytes().to_vec(),
                value.is_infinite(),
                value == 0.0,
            )
        } else {
            let value: f64 = text.parse().map_err(|_| not_a_number(text))?;
            (
                value.to_le_bytes().to_vec(),
                value.is_infinite(),
                value == 0.0,
            )
        };
        if is_infinite && !infinite {
            return Err(format!(
                "{text} does not fit {}: it is too large",
                self.name()
            ));
        }
        if is_zero && !zero {
            return Err(format!(
                "{text} does not fit {}: it is so small that it would be stored as 0",
                self.name()
            ));
        }
        bytes.extend_from_slice(&stored);
        Ok(())
    }

    /// Decodes the first `size()` bytes; missing bytes count as zero.
    pub(super) fn decode(self, bytes: &[u8]) -> Decoded {
        let mut wide = [0_u8; 8];
        let length = self.size().min(bytes.len());
        wide[..length].copy_from_slice(&bytes[..length]);
        let raw = u64::from_le_bytes(wide);
        // The casts drop the zero bytes above the type's width, or reinterpret the same bits as
        // signed. Both are intended.
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Decoded::Integer(i128::from(raw)),
            Self::I8 => Decoded::Integer(i128::from(raw as i8)),
            Self::I16 => Decoded::Integer(i128::from(raw as i16)),
            Self::I32 => Decoded::Integer(i128::from(raw as i32)),
            Self::I64 => Decoded::Integer(i128::from(raw as i64)),
            Self::F32 => Decoded::F32(f32::from_bits(raw as u32)),
            Self::F64 => Decoded::F64(f64::from_bits(raw)),
        }
    }
}

fn not_a_number(text: &str) -> String {
    format!("{text:?} is not a number: write it like 1.5, -2e-3, inf or nan")
}

impl fmt::Display for Decoded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(formatter, "{value}"),
            // Debug prints the shortest text that parses to the same number, with an exponent if
            // that is shorter.
            Self::F32(value) => write!(formatter, "{value:?}"),
            Self::F64(value) => write!(formatter, "{value:?}"),
        }
    }
}

impl Decoded {
    /// The value in JSON: a number, or a string where JSON has no number for it (NaN and the
    /// infinities).
    pub(super) fn json(self) -> String {
        match self {
            Self::F32(value) if !value.is_finite() => format!("\"{self}\""),
            Self::F64(value) if !value.is_finite() => format!("\"{self}\""),
            _ => self.to_string(),
        }
    }
}

impl ValueType {
    /// Encodes the values, without separators between them.
    pub(super) fn encode<T: AsRef<OsStr>>(self, values: &[T]) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        for value in values.iter().map(|value| unmark(value.as_ref())) {
            match self {
                Self::Number(number) => number.encode(utf8(value)?, &mut bytes)?,
                Self::Hex => decode_hex(utf8(value)?, &mut bytes)?,
                Self::Text => bytes.extend_from_slice(value.as_bytes()),
            }
        }
        Ok(bytes)
    }
}

fn utf8(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| {
        format!(
            "\"{}\" is not UTF-8: give --type text, which accepts any bytes",
            value.display()
        )
    })
}

fn decode_hex(text: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
    let digits: Option<Vec<u8>> = text
        .strip_prefix("0x")
        .unwrap_or(text)
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.ok_or_else(|| {
        format!("{text:?} is not hexadecimal: use only the digits 0-9, a-f and A-F")
    })?;
    if !digits.len().is_multiple_of(2) {
        return Err(format!(
            "{text:?} has {} hexadecimal digits, an odd number: write each byte with two, such \
             as 0a",
            digits.len()
        ));
    }
    bytes.extend(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    Ok(())
}

impl ValueEnum for ValueType {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [ValueType; 12] = {
            let mut all = [ValueType::Hex; 12];
            let mut index = 0;
            while index < Number::ALL.len() {
                all[index] = ValueType::Number(Number::ALL[index]);
                index += 1;
            }
            all[11] = ValueType::Text;
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Number(number) => number.name(),
            Self::Hex => "hex",
            Self::Text => "text",
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(kind: ValueType, values: &[&str]) -> Result<Vec<u8>, String> {
        kind.encode(values)
    }

    #[test]
    fn numbers_are_little_endian_and_contiguous() {
        assert_eq!(
            encode(ValueType::Number(Number::I32), &["-5", "7"]),
            Ok(vec![0xfb, 0xff, 0xff, 0xff, 7, 0, 0, 0])
        );
        assert_eq!(
            encode(ValueType::Number(Number::U16), &["0x1234"]),
            Ok(vec![0x34, 0x12])
        );
        assert_eq!(
            encode(ValueType::Number(Number::F32), &["1.5"]),
            Ok(1.5_f32.to_le_bytes().to_vec())
        );
        assert_eq!(
            encode(ValueType::Number(Number::F64), &["-inf"]),
            Ok(f64::NEG_INFINITY.to_le_bytes().to_vec())
        );
    }

    #[test]
    fn every_type_accepts_its_bounds_and_refuses_one_more() {
        for number in Number::ALL {
            let Some((least, greatest)) = number.bounds() else {
                continue;
            };
            for value in [least, greatest] {
                let bytes = encode(ValueType::Number(number), &[&value.to_string()]).unwrap();
                assert_eq!(bytes.len(), number.size());
                assert_eq!(number.decode(&bytes), Decoded::Integer(value));
            }
            for value in [least - 1, greatest + 1] {
                assert!(
                    encode(ValueType::Number(number), &[&value.to_string()]).is_err(),
                    "{number:?} {value}"
                );
            }
        }
        assert_eq!(
            encode(ValueType::Number(Number::U8), &["300"]).unwrap_err(),
            "300 does not fit u8 (0 to 255)"
        );
    }

    #[test]
    fn a_finite_number_never_becomes_infinite() {
        assert!(encode(ValueType::Number(Number::F32), &["1e40"]).is_err());
        assert!(encode(ValueType::Number(Number::F64), &["1e400"]).is_err());
        assert!(encode(ValueType::Number(Number::F64), &["1e40", "inf", "nan"]).is_ok());
        assert!(encode(ValueType::Number(Number::F64), &["1e-400"]).is_err());
        assert!(encode(ValueType::Number(Number::F32), &["-1e-60"]).is_err());
        assert!(
            encode(
                ValueType::Number(Number::F64),
                &["5e-324", "0", "-0.0e9", "0e-999"]
            )
            .is_ok()
        );
    }

    #[test]
    fn hex_and_text_are_bytes() {
        assert_eq!(
            encode(ValueType::Hex, &["68656C6c6f"]),
            Ok(b"hello".to_vec())
        );
        assert_eq!(
            encode(ValueType::Hex, &["0x68 65", "6c6c6f"]),
            Ok(b"hello".to_vec())
        );
        assert!(
            encode(ValueType::Hex, &["abc"]).is_err() && encode(ValueType::Hex, &["zz"]).is_err()
        );
        assert_eq!(
            encode(ValueType::Text, &["hel", "lo"]),
            Ok(b"hello".to_vec())
        );
        let latin = OsStr::from_bytes(b"caf\xe9");
        assert_eq!(ValueType::Text.encode(&[latin]), Ok(b"caf\xe9".to_vec()));
        assert!(
            ValueType::Hex
                .encode(&[latin])
                .unwrap_err()
                .contains("not UTF-8")
        );
    }

    #[test]
    fn nan_and_infinity_are_strings_in_json() {
        assert_eq!(Decoded::F64(f64::NAN).json(), "\"NaN\"");
        assert_eq!(Decoded::F32(f32::NEG_INFINITY).json(), "\"-inf\"");
        assert_eq!(Decoded::F64(1e300).json(), "1e300");
        assert_eq!(Decoded::F64(2.0).to_string(), "2.0");
    }

    proptest! {
        #[test]
        fn what_is_decoded_and_shown_encodes_to_the_same_bytes(bytes in any::<[u8; 8]>(), which in 0_usize..10) {
            let number = Number::ALL[which];
            let shown = number.decode(&bytes).to_string();
            let stored = encode(ValueType::Number(number), &[&shown]).unwrap();
            // All bit patterns of NaN display as the same text.
            prop_assert!(shown == "NaN" || stored == bytes[..number.size()]);
        }

        #[test]
        fn no_text_makes_the_encoder_panic(text in ".{0,16}", which in 0_usize..12) {
            let _ = encode(ValueType::value_variants()[which], &[&text]);
        }
    }
}
