//! Log messages on standard error.

use super::text::{self, LineBreak};
use log::{Level, Log, Metadata, Record};
use std::io::{IsTerminal, Write};
use std::time::SystemTime;
use systemd_journal_logger::connected_to_journal;

/// Writes `TIME LEVEL message KEY=value` lines. The time is omitted when standard error is
/// connected to the journal, which adds it: that is the case when the journal's native protocol
/// fails. Colour is used only on a terminal, and not when `NO_COLOR` is set to anything but the
/// empty string (<https://no-color.org>).
pub(super) struct TerminalLogger {
    time: bool,
    colour: bool,
}

impl TerminalLogger {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            time: !connected_to_journal(),
            colour,
        }
    }

    fn line(&self, now: SystemTime, record: &Record<'_>) -> String {
        let mut line = String::with_capacity(160);
        if self.time && now >= SystemTime::UNIX_EPOCH {
            line += &humantime::format_rfc3339_millis(now).to_string();
            line.push(' ');
        }
        if self.colour {
            line += colour(record.level());
            line += record.level().as_str();
            line += "\x1b[0m";
        } else {
            line += record.level().as_str();
        }
        line.push(' ');
        text::append(
            &mut line,
            *record.args(),
            record.key_values(),
            LineBreak::Indented,
        );
        line.push('\n');
        line
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Error => "\x1b[1;31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[36m",
        Level::Trace => "\x1b[2m",
    }
}

impl Log for TerminalLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // One write per line, so that lines of several threads do not mix. There is nowhere to
            // report an error.
            let _ = std::io::stderr()
                .lock()
                .write_all(self.line(SystemTime::now(), record).as_bytes());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(time: bool, colour: bool) -> String {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_500);
        let fields = [("DSM_SERVER", 1)];
        let mut record = Record::builder();
        record.level(Level::Info).key_values(&fields);
        let logger = TerminalLogger { time, colour };
        logger.line(now, &record.args(format_args!("ready")).build())
    }

    #[test]
    fn a_line_has_a_time_unless_the_journal_adds_it_and_colour_only_on_a_terminal() {
        assert_eq!(line(false, false), "INFO ready DSM_SERVER=1\n");
        assert_eq!(
            line(true, false),
            "1970-01-01T00:00:01.500Z INFO ready DSM_SERVER=1\n"
        );
        assert_eq!(
            line(true, true),
            "1970-01-01T00:00:01.500Z \x1b[32mINFO\x1b[0m ready DSM_SERVER=1\n"
        );
    }
}
