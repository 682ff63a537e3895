//! Log messages to the local syslog daemon, for a detached dsmd on a host without a journal.

use super::text::{self, LineBreak};
use log::{Level, Log, Metadata, Record};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

/// The socket of syslog daemons on Linux, systemd-journald included.
const SOCKET: &str = "/dev/log";

/// How long a message waits for a syslog daemon that does not read, before it is sent again on a
/// new connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends messages to `/dev/log`, and reconnects when the daemon was restarted.
///
/// The logger of the `syslog` crate is not enough: it never reconnects, waits without bound, panics
/// when its lock is poisoned, and drops fields.
pub(super) struct SyslogLogger {
    socket: PathBuf,
    connection: Mutex<Logger<LoggerBackend, Tagged>>,
}

impl SyslogLogger {
    pub(super) fn connect() -> Result<Self, syslog::Error> {
        Self::connect_to(Path::new(SOCKET))
    }

    fn connect_to(socket: &Path) -> Result<Self, syslog::Error> {
        Ok(Self {
            socket: socket.to_owned(),
            connection: Mutex::new(connect(socket)?),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Logger<LoggerBackend, Tagged>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(socket: &Path) -> Result<Logger<LoggerBackend, Tagged>, syslog::Error> {
    let logger = syslog::unix_custom(Tagged, socket)?;
    match &logger.backend {
        LoggerBackend::Unix(socket) => socket.set_write_timeout(Some(SEND_TIMEOUT))?,
        LoggerBackend::UnixStream(stream) => {
            stream.get_ref().set_write_timeout(Some(SEND_TIMEOUT))?;
        }
        LoggerBackend::Udp(..) | LoggerBackend::Tcp(..) => {}
    }
    Ok(logger)
}

impl Log for SyslogLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = String::with_capacity(160);
        text::append(
            &mut line,
            *record.args(),
            record.key_values(),
            LineBreak::Escaped,
        );
        let mut connection = self.connection();
        if send(&mut connection, record.level(), &line).is_err()
            && let Ok(fresh) = connect(&self.socket)
        {
            *connection = fresh;
            // There is nowhere to report an error.
            let _ = send(&mut connection, record.level(), &line);
        }
    }

    fn flush(&self) {
        let _ = self.connection().backend.flush();
    }
}

fn send(
    logger: &mut Logger<LoggerBackend, Tagged>,
    level: Level,
    line: &str,
) -> Result<(), syslog::Error> {
    match level {
        Level::Error => logger.err(line),
        Level::Warn => logger.warning(line),
        Level::Info => logger.info(line),
        Level::Debug | Level::Trace => logger.debug(line),
    }
}

/// `<priority>dsmd[pid]: message`, without a time: the daemon adds it, while the crate's RFC 3164
/// formatter would send UTC where local time is expected. The pid is read for each message, so that
/// a logger made before a fork does not name the parent.
#[derive(Debug, Clone, Copy)]
struct Tagged;

impl<T: Display> LogFormat<T> for Tagged {
    fn format<W: Write>(
        &self,
        writer: &mut W,
        severity: Severity,
        message: T,
    ) -> Result<(), syslog::Error> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        // A single write_fmt, which the backend sends as one datagram.
        write!(
            writer,
            "<{priority}>dsmd[{}]: {message}",
            std::process::id()
        )
        .map_err(syslog::Error::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn send_message(logger: &SyslogLogger, level: Level, message: &str) {
        logger.log(
            &Record::builder()
                .level(level)
                .args(format_args!("{message}"))
                .build(),
        );
    }

    fn receive_message(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_message_has_priority_name_and_pid_and_finds_a_restarted_daemon() {
        log::set_max_level(log::LevelFilter::Trace);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let pid = std::process::id();
        let daemon = UnixDatagram::bind(&path).unwrap();
        let logger = SyslogLogger::connect_to(&path).unwrap();
        send_message(&logger, Level::Warn, "refused\n10.0.0.5:1");
        assert_eq!(
            receive_message(&daemon),
            format!("<28>dsmd[{pid}]: refused\\n10.0.0.5:1")
        );
        drop(daemon);
        send_message(&logger, Level::Error, "lost");
        std::fs::remove_file(&path).unwrap();
        let daemon = UnixDatagram::bind(&path).unwrap();
        send_message(&logger, Level::Info, "back");
        assert_eq!(receive_message(&daemon), format!("<30>dsmd[{pid}]: back"));
    }

    #[test]
    fn a_daemon_that_does_not_read_blocks_a_message_for_a_bounded_time() {
        log::set_max_level(log::LevelFilter::Trace);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let logger = SyslogLogger::connect_to(&path).unwrap();
        // The kernel queues a few datagrams; only later ones block.
        let filling = std::time::Instant::now();
        let mut longest = Duration::ZERO;
        while longest < SEND_TIMEOUT && filling.elapsed() < Duration::from_secs(20) {
            let begun = std::time::Instant::now();
            send_message(&logger, Level::Info, "unread");
            longest = longest.max(begun.elapsed());
        }
        assert!(
            longest >= SEND_TIMEOUT && longest < SEND_TIMEOUT * 4,
            "{longest:?}"
        );
    }
}
