//! The output formats of `read`. Bytes arrive in chunks, whose borders do not affect the output.

use super::hexdump::Hexdump;
use super::value::Number;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use std::io::{self, Write};

/// The output format of `read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Hexdump,
    Raw,
    Hex,
    Text,
    Json,
    Number(Number),
}

impl Format {
    const WORDS: [Self; 5] = [Self::Hexdump, Self::Raw, Self::Hex, Self::Text, Self::Json];
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Format; 15] = {
            let mut all = [Format::Raw; 15];
            let mut index = 0;
            while index < Format::WORDS.len() {
                all[index] = Format::WORDS[index];
                index += 1;
            }
            while index < all.len() {
                all[index] = Format::Number(Number::ALL[index - Format::WORDS.len()]);
                index += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Hexdump => "hexdump",
            Self::Raw => "raw",
            Self::Hex => "hex",
            Self::Text => "text",
            Self::Json => "json",
            Self::Number(number) => number.name(),
        }))
    }
}

/// Prints one range: call [`Printer::begin`], then [`Printer::chunk`] any number of times, then
/// [`Printer::finish`].
#[derive(Debug)]
pub(super) enum Printer {
    Hexdump(Hexdump),
    Raw,
    Hex,
    /// The first bytes of a character that the end of a chunk cut in two, at most three.
    Text(Vec<u8>),
    Json {
        address: u64,
        length: u64,
    },
    Numbers(Number),
    JsonNumbers {
        address: u64,
        length: u64,
        number: Number,
        first: bool,
    },
}

impl Printer {
    /// Prints `length` bytes at `address`. With `json`, numbers become a JSON array.
    pub(super) fn new(format: Format, json: bool, address: u64, length: u64) -> Self {
        match format {
            Format::Hexdump => Self::Hexdump(Hexdump::new(address)),
            Format::Raw => Self::Raw,
            Format::Hex => Self::Hex,
            Format::Text => Self::Text(Vec::new()),
            Format::Json => Self::Json { address, length },
            Format::Number(number) if json => Self::JsonNumbers {
                address,
                length,
                number,
                first: true,
            },
            Format::Number(number) => Self::Numbers(number),
        }
    }

    /// Writes the text that comes before the first byte.
    pub(super) fn begin(&self, output: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Json { address, length } => {
                write!(
                    output,
                    "{{\"address\":{address},\"length\":{length},\"hex\":\""
                )
            }
            Self::JsonNumbers {
                address,
                length,
                number,
                ..
            } => {
                let kind = number.name();
                write!(
                    output,
                    "{{\"address\":{address},\"length\":{length},\"type\":\"{kind}\",\"values\":["
                )
            }
            _ => Ok(()),
        }
    }

    /// Prints the next bytes. The length of every chunk but the last must be a multiple of eight,
    /// so that no number is cut in two.
    pub(super) fn chunk(&mut self, data: &[u8], output: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Hexdump(dump) => dump.chunk(data, output),
            Self::Raw => output.write_all(data),
            Self::Hex | Self::Json { .. } => hex(data, output),
            Self::Text(cut) => {
                cut.extend_from_slice(data);
                let rest = text(cut, output)?;
                cut.drain(..cut.len() - rest);
                Ok(())
            }
            Self::Numbers(number) => data
                .chunks_exact(number.size())
                .try_for_each(|bytes| writeln!(output, "{}", number.decode(bytes))),
            Self::JsonNumbers { number, first, .. } => {
                data.chunks_exact(number.size()).try_for_each(|bytes| {
                    let comma = if std::mem::take(first) { "" } else { "," };
                    write!(output, "{comma}{}", number.decode(bytes).json())
                })
            }
        }
    }

    /// Writes the text that comes after the last byte.
    pub(super) fn finish(self, output: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Hexdump(dump) => dump.finish(output),
            Self::Raw | Self::Numbers(_) => Ok(()),
            Self::Hex => output.write_all(b"\n"),
            Self::Text(cut) => {
                escape(&cut, output)?;
                output.write_all(b"\n")
            }
            Self::Json { .. } => output.write_all(b"\"}\n"),
            Self::JsonNumbers { .. } => output.write_all(b"]}\n"),
        }
    }
}

fn hex(data: &[u8], output: &mut impl Write) -> io::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Encodes a block at a time: one write per byte would cost more than the network.
    for block in data.chunks(512) {
        let mut digits = [0; 1024];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(block) {
            pair.copy_from_slice(&[
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]);
        }
        output.write_all(&digits[..2 * block.len()])?;
    }
    Ok(())
}

/// Prints bytes as UTF-8; invalid bytes and control characters appear as `\xNN`. Returns how many
/// bytes at the end were not printed, because they may be the first bytes of a character.
fn text(mut data: &[u8], output: &mut impl Write) -> io::Result<usize> {
    loop {
        let (valid, bad) = match std::str::from_utf8(data) {
            Ok(_) => (data.len(), None),
            Err(error) => (error.valid_up_to(), error.error_len()),
        };
        let (good, rest) = data.split_at(valid);
        // `good` is valid UTF-8, so no character is replaced.
        for character in String::from_utf8_lossy(good).chars() {
            if character.is_control() && character != '\n' && character != '\t' {
                escape(character.encode_utf8(&mut [0; 4]).as_bytes(), output)?;
            } else {
                write!(output, "{character}")?;
            }
        }
        match bad {
            Some(length) => {
                escape(&rest[..length], output)?;
                data = &rest[length..];
            }
            None => return Ok(rest.len()),
        }
    }
}

fn escape(bytes: &[u8], output: &mut impl Write) -> io::Result<()> {
    bytes
        .iter()
        .try_for_each(|byte| write!(output, "\\x{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn print(format: Format, json: bool, chunks: &[&[u8]]) -> String {
        let mut output = Vec::new();
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let mut printer = Printer::new(format, json, 16, length);
        printer.begin(&mut output).unwrap();
        for chunk in chunks {
            printer.chunk(chunk, &mut output).unwrap();
        }
        printer.finish(&mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn every_format_prints_as_documented() {
        let data: &[&[u8]] = &[&[1, 0, 0, 0, 255, 255, 255, 255], &[2, 0, 0, 0]];
        assert_eq!(
            print(Format::Hex, false, data),
            "01000000ffffffff02000000\n"
        );
        assert_eq!(
            print(Format::Number(Number::I32), false, data),
            "1\n-1\n2\n"
        );
        assert_eq!(
            print(Format::Number(Number::U32), true, data),
            "{\"address\":16,\"length\":12,\"type\":\"u32\",\"values\":[1,4294967295,2]}\n"
        );
        assert_eq!(
            print(Format::Json, true, data),
            "{\"address\":16,\"length\":12,\"hex\":\"01000000ffffffff02000000\"}\n"
        );
        assert_eq!(print(Format::Raw, false, &[b"a\n", b"b"]), "a\nb");
        assert_eq!(print(Format::Hexdump, false, &[]), "");
    }

    #[test]
    fn text_contains_no_character_that_could_control_a_terminal() {
        assert_eq!(print(Format::Text, false, &[b"hello"]), "hello\n");
        assert_eq!(
            print(Format::Text, false, &[b"a\x1b[2J\0\tb\xff\xc3"]),
            "a\\x1b[2J\\x00\tb\\xff\\xc3\n"
        );
        assert_eq!(
            print(Format::Text, false, &["\u{9b}".as_bytes()]),
            "\\xc2\\x9b\n"
        );
        assert_eq!(print(Format::Text, false, &[b"\xe2\x82", b"\xac!"]), "€!\n");
    }

    #[test]
    fn the_command_line_accepts_every_format() {
        let words: Vec<String> = Format::value_variants()
            .iter()
            .map(|format| format.to_possible_value().unwrap().get_name().to_owned())
            .collect();
        assert_eq!(
            words.join(" "),
            "hexdump raw hex text json u8 u16 u32 u64 i8 i16 i32 i64 f32 f64"
        );
    }

    proptest! {
        #[test]
        fn the_borders_of_chunks_do_not_affect_text(text in any::<Vec<u8>>(), cut in any::<usize>()) {
            let (first, second) = text.split_at(cut % (text.len() + 1));
            prop_assert_eq!(print(Format::Text, false, &[first, second]), print(Format::Text, false, &[&text]));
        }
    }
}
