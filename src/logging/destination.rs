//! Chooses between journal, syslog and standard error.

use super::journal::JournalLogger;
use super::repair::log_repairs;
use super::syslog::SyslogLogger;
use super::terminal::TerminalLogger;
use log::{LevelFilter, Log};
use systemd_journal_logger::connected_to_journal;

/// Where log messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDestination {
    /// The systemd journal, by its native protocol.
    Journal,
    /// Standard error: a terminal, a pipe or a file.
    Terminal,
    /// The local syslog daemon.
    Syslog,
}

impl LogDestination {
    /// Syslog for a process that was detached with `--daemonize`; the journal when standard error
    /// is connected to it, as in a systemd service; standard error otherwise.
    #[must_use]
    pub fn choose(daemonized: bool) -> Self {
        if daemonized {
            Self::Syslog
        } else if connected_to_journal() {
            Self::Journal
        } else {
            Self::Terminal
        }
    }

    fn logger(self) -> Result<Box<dyn Log>, String> {
        match self {
            Self::Journal => match JournalLogger::connect() {
                Ok(journal) => Ok(Box::new(journal)),
                Err(error) => Err(format!(
                    "the journal cannot be reached ({error}); messages go to standard error"
                )),
            },
            Self::Syslog => match SyslogLogger::connect() {
                Ok(syslog) => Ok(Box::new(syslog)),
                Err(error) => Err(format!(
                    "syslog cannot be reached ({error}); messages go to standard error"
                )),
            },
            Self::Terminal => Ok(Box::new(TerminalLogger::new())),
        }
    }
}

/// Sends the messages of this process from `level` up to `destination`. When journal or syslog
/// cannot be reached, messages go to standard error, and the first one reports that. Only the first
/// call of a process chooses the destination; later ones set the level.
pub fn init(destination: LogDestination, level: LevelFilter) {
    let (logger, warning) = match destination.logger() {
        Ok(logger) => (logger, None),
        Err(warning) => (
            Box::new(TerminalLogger::new()) as Box<dyn Log>,
            Some(warning),
        ),
    };
    let installed = log::set_boxed_logger(logger).is_ok();
    set_level(level);
    log_repairs();
    if let (true, Some(warning)) = (installed, warning) {
        log::warn!("{warning}");
    }
}

/// Waits until logged messages have arrived, for the end of the process.
pub fn flush() {
    log::logger().flush();
}

/// Changes the least important level that is logged, at once and for all threads.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}
