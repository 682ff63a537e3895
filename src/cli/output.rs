//! Standard output or a file, with its name in every error; and whether a terminal is at the other
//! end.

use super::failure::Failure;
use dsm_core::printable::{is_printable, printable};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// Bytes gathered before one write.
const BUFFER: usize = 256 << 10;

/// Where results go.
#[derive(Debug)]
pub(super) struct Output {
    writer: BufWriter<File>,
    /// The file's name; none for standard output.
    path: Option<String>,
}

impl Output {
    /// Standard output, without the line buffer that the standard library puts before it.
    pub(super) fn stdout() -> Result<Self, Failure> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned();
        let descriptor =
            descriptor.map_err(|error| Failure::input_output("standard output", error))?;
        Ok(Self {
            writer: BufWriter::with_capacity(BUFFER, File::from(descriptor)),
            path: None,
        })
    }

    /// A file, emptied if it exists.
    pub(super) fn file(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Self {
                writer: BufWriter::with_capacity(BUFFER, file),
                path: Some(name),
            }),
            Err(error) => Err(Failure::input_output(name, error)),
        }
    }

    /// Does some writing, and gives its error the name.
    pub(super) fn put(
        &mut self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        write(&mut self.writer).map_err(|error| match &self.path {
            None if error.kind() == io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            None => Failure::input_output("standard output", error),
            Some(name) => Failure::input_output(name, error),
        })
    }

    /// Hands everything to the system.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.put(Write::flush)
    }
}

/// Prints a text on standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = Output::stdout()?;
    output.put(|writer| writer.write_all(text.as_bytes()))?;
    output.finish()
}

/// Prints a value as one line of JSON on standard output.
pub(super) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&(escaped_json(&value.to_string()) + "\n"))
}

/// JSON whose strings have no character that could steer a terminal: JSON itself asks only for C0
/// to be escaped.
fn escaped_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if is_printable(character) {
            escaped.push(character);
        } else {
            // Outside of strings there are none.
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

/// Prints a message on standard error, whose lines steer no terminal: names of files in it may be
/// another user's choice. When that fails too, there is no one left to tell.
pub(super) fn complain(message: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "dsmctl: {}", harmless(&message.to_string()));
}

/// The text with all but its line breaks escaped that is not printable.
fn harmless(text: &str) -> String {
    text.split('\n')
        .map(|line| printable(line, usize::MAX))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Colours for states, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Colours(bool);

impl Colours {
    /// Colours for standard output: only on a terminal, and never when `NO_COLOR` is set
    /// (no-color.org).
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
    fn json_means_the_same_and_steers_no_terminal() {
        let value = json!({ "a\u{202e}": ["\u{1b}[31m\u{7f}\u{9b}2J", "Größe 日本 \u{e0001} \\u001b", 1.5, null] });
        let text = escaped_json(&value.to_string());
        assert!(text.chars().all(is_printable), "{text}");
        assert!(text.contains("Größe 日本 \\udb40\\udc01"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_message_keeps_its_lines_and_steers_no_terminal() {
        assert_eq!(
            harmless("dsm-\u{1b}[31m.dsnap: no such file\n  as said"),
            "dsm-\\u{1b}[31m.dsnap: no such file\n  as said"
        );
    }
}
