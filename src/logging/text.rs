//! Formats messages as lines of text, for standard error and syslog. No I/O.

use super::Event;
use dsm_core::printable::is_printable;
use log::kv::{Error, Key, Source, Value, VisitSource};
use std::fmt::{self, Write};

/// What a line break in a message becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineBreak {
    /// An indented new line, which cannot be mistaken for another message.
    Indented,
    /// The two characters `\n`: the whole message is one line.
    Escaped,
}

/// Appends a message and then its fields as ` KEY=value`. Control and format characters are
/// escaped: text of a peer can neither imitate another message nor control the terminal.
pub(super) fn append(
    line: &mut String,
    message: fmt::Arguments<'_>,
    fields: &dyn Source,
    line_break: LineBreak,
) {
    // Writing to a string succeeds, unless a value's own Display fails: then the line ends there.
    let _ = write!(Escaping { line, line_break }, "{message}");
    let _ = fields.visit(&mut Fields { line });
}

struct Escaping<'a> {
    line: &'a mut String,
    line_break: LineBreak,
}

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '\n' if self.line_break == LineBreak::Indented => self.line.push_str("\n    "),
                '\t' => self.line.push('\t'),
                other if is_printable(other) => self.line.push(other),
                other => self.line.extend(other.escape_default()),
            }
        }
        Ok(())
    }
}

struct Fields<'a> {
    line: &'a mut String,
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        // Useful only with the journal's catalog.
        if key.as_str() == Event::FIELD {
            return Ok(());
        }
        let text = value.to_string();
        let plain =
            |character: char| character.is_ascii_graphic() && character != '"' && character != '=';
        if !text.is_empty() && text.chars().all(plain) {
            write!(self.line, " {key}={text}")?;
        } else {
            write!(self.line, " {key}={text:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: fmt::Arguments<'_>, fields: &dyn Source, line_break: LineBreak) -> String {
        let mut line = String::new();
        append(&mut line, message, fields, line_break);
        line
    }

    #[test]
    fn fields_follow_the_message_and_are_quoted_when_needed() {
        let fields = [
            ("DSM_SERVER", Value::from(1)),
            ("DSM_ERROR", Value::from("no such file")),
            ("X", "".into()),
            (Event::FIELD, "0".into()),
        ];
        let line = text(
            format_args!("server {} is ready", 1),
            &fields.as_slice(),
            LineBreak::Escaped,
        );
        assert_eq!(
            line,
            "server 1 is ready DSM_SERVER=1 DSM_ERROR=\"no such file\" X=\"\""
        );
    }

    #[test]
    fn a_message_cannot_forge_another_one_or_control_the_terminal() {
        let evil = "refused\nINFO all is well\x1b[2J\u{9b}2J\u{202e}";
        let none: &[(&str, Value<'_>)] = &[("P", Value::from(evil))];
        let line = text(format_args!("{evil}"), &none, LineBreak::Escaped);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.chars().all(is_printable), "{line}");
        let line = text(format_args!("{evil}"), &none, LineBreak::Indented);
        assert!(
            line.lines().skip(1).all(|rest| rest.starts_with("    ")),
            "{line}"
        );
        assert!(line.chars().all(|c| c == '\n' || is_printable(c)), "{line}");
    }
}
