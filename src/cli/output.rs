//! Output to standard output, standard error or a file: every error names the stream, messages and
//! JSON cannot control the terminal, and colours appear only on a terminal.

use super::failure::CliFailure;
use dsm_core::printable::{is_printable, printable};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// Bytes that are buffered before a write to the stream.
const BUFFER: usize = 256 << 10;

/// The stream that receives the results of a command.
#[derive(Debug)]
pub(super) struct OutputStream {
    writer: BufWriter<File>,
    /// The name of the file; `None` for standard output.
    path: Option<String>,
}

impl OutputStream {
    /// Standard output, without the line buffering of the standard library.
    pub(super) fn stdout() -> Result<Self, CliFailure> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned();
        let descriptor =
            descriptor.map_err(|error| CliFailure::input_output("standard output", error))?;
        Ok(Self {
            writer: BufWriter::with_capacity(BUFFER, File::from(descriptor)),
            path: None,
        })
    }

    /// The file at `path`, which is created, or truncated if it exists.
    pub(super) fn file(path: &Path) -> Result<Self, CliFailure> {
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Self {
                writer: BufWriter::with_capacity(BUFFER, file),
                path: Some(name),
            }),
            Err(error) => Err(CliFailure::input_output(name, error)),
        }
    }

    /// Calls `write` with the writer. An error names the stream.
    pub(super) fn put(
        &mut self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), CliFailure> {
        write(&mut self.writer).map_err(|error| match &self.path {
            None if error.kind() == io::ErrorKind::BrokenPipe => CliFailure::OutputClosed,
            None => CliFailure::input_output("standard output", error),
            Some(name) => CliFailure::input_output(name, error),
        })
    }

    /// Writes what is still buffered.
    pub(super) fn finish(mut self) -> Result<(), CliFailure> {
        self.put(Write::flush)
    }
}

/// Prints `text` to standard output.
pub(super) fn print(text: &str) -> Result<(), CliFailure> {
    let mut output = OutputStream::stdout()?;
    output.put(|writer| writer.write_all(text.as_bytes()))?;
    output.finish()
}

/// Prints `value` to standard output as one line of JSON.
pub(super) fn print_json(value: &serde_json::Value) -> Result<(), CliFailure> {
    print(&(escaped_json(&value.to_string()) + "\n"))
}

/// Escapes in JSON text every character that could control a terminal: `serde_json` escapes only
/// those below U+0020.
fn escaped_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if is_printable(character) {
            escaped.push(character);
        } else {
            // Such a character occurs only inside a string, where an escape means the same.
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

/// Prints an error or a warning to standard error, escaped: it may contain the names of files,
/// which other users can choose. An error of this write is ignored, as there is no other place to
/// report it.
pub(super) fn print_error(message: impl std::fmt::Display) {
    let _ = writeln!(
        io::stderr(),
        "dsmctl: {}",
        escape_lines(&message.to_string())
    );
}

/// Escapes all characters of `text` that are not printable, except line breaks.
fn escape_lines(text: &str) -> String {
    text.split('\n')
        .map(|line| printable(line, usize::MAX))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Colours the words of a table, if colours are enabled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Colours(bool);

impl Colours {
    /// Enables colours if standard output is a terminal, unless `NO_COLOR` (no-color.org) is set or
    /// `TERM` is `dumb`.
    pub(super) fn stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self(io::stdout().is_terminal() && !unwanted && !dumb)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn heading(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn escaped_json_has_the_same_value_and_cannot_control_a_terminal() {
        let value = json!({ "a\u{202e}": ["\u{1b}[31m\u{7f}\u{9b}2J", "Größe 日本 \u{e0001} \\u001b", 1.5, null] });
        let text = escaped_json(&value.to_string());
        assert!(text.chars().all(is_printable), "{text}");
        assert!(text.contains("Größe 日本 \\udb40\\udc01"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_message_keeps_its_lines_and_cannot_control_a_terminal() {
        assert_eq!(
            escape_lines("dsm-\u{1b}[31m.dsnap: no such file\n  as said"),
            "dsm-\\u{1b}[31m.dsnap: no such file\n  as said"
        );
    }
}
