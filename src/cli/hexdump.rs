//! A dump in the format of `hexdump -C`, with addresses of the memory. The size of the chunks in
//! which the bytes arrive does not affect the output.

use std::io::{self, Write};

/// Bytes per line.
const LINE: usize = 16;

/// Characters of the longest line: an address of 16 digits, 16 bytes of three characters each with
/// two gaps, the text column and a newline.
const LINE_TEXT: usize = 16 + 2 + 3 * LINE + 1 + 1 + LINE + 2 + 1;

/// A dump in progress: [`Hexdump::chunk`] adds bytes, [`Hexdump::finish`] ends it.
#[derive(Debug)]
pub(super) struct Hexdump {
    /// The address of the first byte in `line`.
    address: u64,
    /// Bytes that do not yet fill a line.
    line: Vec<u8>,
    /// The last whole line; a line equal to it is not printed.
    previous: Option<[u8; LINE]>,
    /// Whether the `*` for repeated lines has been printed.
    repeating: bool,
    /// Whether any byte has arrived.
    started: bool,
}

impl Hexdump {
    /// A dump of bytes that start at `address`.
    pub(super) fn new(address: u64) -> Self {
        Self {
            address,
            line: Vec::with_capacity(LINE),
            previous: None,
            repeating: false,
            started: false,
        }
    }

    /// Adds bytes, and prints the lines that they complete.
    pub(super) fn chunk(&mut self, mut data: &[u8], output: &mut impl Write) -> io::Result<()> {
        self.started |= !data.is_empty();
        if !self.line.is_empty() {
            let missing = (LINE - self.line.len()).min(data.len());
            self.line.extend_from_slice(&data[..missing]);
            data = &data[missing..];
            if let Some(whole) = self.line.first_chunk().copied() {
                self.line.clear();
                self.whole_line(&whole, output)?;
            }
        }
        let (lines, rest) = data.as_chunks();
        for line in lines {
            self.whole_line(line, output)?;
        }
        self.line.extend_from_slice(rest);
        Ok(())
    }

    /// Prints the incomplete last line and the address after the last byte. Prints nothing if no
    /// byte was added.
    pub(super) fn finish(self, output: &mut impl Write) -> io::Result<()> {
        if !self.started {
            return Ok(());
        }
        if !self.line.is_empty() {
            write_line(self.address, &self.line, output)?;
        }
        writeln!(output, "{:08x}", self.address + self.line.len() as u64)
    }

    fn whole_line(&mut self, line: &[u8; LINE], output: &mut impl Write) -> io::Result<()> {
        if self.previous.as_ref() == Some(line) {
            if !self.repeating {
                output.write_all(b"*\n")?;
            }
            self.repeating = true;
        } else {
            self.previous = Some(*line);
            self.repeating = false;
            write_line(self.address, line, output)?;
        }
        self.address += LINE as u64;
        Ok(())
    }
}

fn write_line(address: u64, bytes: &[u8], output: &mut impl Write) -> io::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(LINE_TEXT);
    write!(text, "{address:08x} ")?;
    for position in 0..LINE {
        if position == LINE / 2 {
            text.push(b' ');
        }
        match bytes.get(position) {
            Some(byte) => {
                text.extend_from_slice(&[
                    b' ',
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                ]);
            }
            None => text.extend_from_slice(b"   "),
        }
    }
    text.extend_from_slice(b"  |");
    text.extend(bytes.iter().map(|byte| {
        if byte.is_ascii_graphic() || *byte == b' ' {
            *byte
        } else {
            b'.'
        }
    }));
    text.extend_from_slice(b"|\n");
    output.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dump(address: u64, chunks: &[&[u8]]) -> String {
        let mut output = Vec::new();
        let mut dump = Hexdump::new(address);
        for chunk in chunks {
            dump.chunk(chunk, &mut output).unwrap();
        }
        dump.finish(&mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    // The expected texts are the output of `hexdump -C` of bsdextrautils for the same bytes.
    #[test]
    fn the_format_is_that_of_hexdump_c() {
        assert_eq!(dump(0, &[]), "");
        assert_eq!(
            dump(0, &[b"hello"]),
            "00000000  68 65 6c 6c 6f                                    |hello|\n00000005\n"
        );
        assert_eq!(
            dump(0, &[b"0123456789abcdef"]),
            "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n00000010\n"
        );
        assert_eq!(
            dump(0, &[b"\x00\x1f\x7f\x80\xff ~|\n"]),
            "00000000  00 1f 7f 80 ff 20 7e 7c  0a                       |..... ~|.|\n00000009\n"
        );
    }

    #[test]
    fn repeated_lines_become_one_star_and_a_short_last_line_is_printed() {
        let zeros = "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00";
        assert_eq!(
            dump(0, &[&[0; 70]]),
            format!(
                "00000000  {zeros}  |................|\n*\n00000040  00 00 00 00 00 00                                 |......|\n00000046\n"
            )
        );
        assert_eq!(
            dump(0, &[&[0; 32]]),
            format!("00000000  {zeros}  |................|\n*\n00000020\n")
        );
    }

    #[test]
    fn an_address_beyond_32_bits_has_as_many_digits_as_it_needs() {
        assert_eq!(
            dump(0x12_3456_789a, &[b"x"]),
            "123456789a  78                                                |x|\n123456789b\n"
        );
    }

    proptest! {
        #[test]
        fn the_size_of_the_chunks_does_not_affect_the_output(data in proptest::collection::vec(0_u8..2, 0..200), cuts in proptest::collection::vec(0_usize..40, 0..12)) {
            let mut rest = &data[..];
            let mut chunks = Vec::new();
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            prop_assert_eq!(dump(5, &chunks), dump(5, &[&data]));
        }
    }

    /// Compares with the real hexdump, where it is installed.
    #[test]
    fn random_bytes_are_printed_as_by_hexdump() {
        use std::process::{Command, Stdio};
        let mut state = 1_u32;
        for length in [
            0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 100, 4096, 5000,
        ] {
            // Mostly the same byte, so that lines repeat.
            let data: Vec<u8> = (0..length)
                .map(|position| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if position % 96 < 64 {
                        65
                    } else {
                        state.to_be_bytes()[0]
                    }
                })
                .collect();
            let Ok(mut child) = Command::new("hexdump")
                .arg("-C")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
            else {
                return;
            };
            child.stdin.take().unwrap().write_all(&data).unwrap();
            let theirs = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            assert_eq!(dump(0, &[&data]), theirs, "{length} bytes");
        }
    }
}
