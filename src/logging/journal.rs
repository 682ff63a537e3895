//! Messages to the systemd journal.

use dsm_core::sys::queue;
use log::{Log, Metadata, Record};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use systemd_journal_logger::JournalLog;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a process that ends waits for journald.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it looks whether journald has read.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The journal, by its native protocol.
pub(super) struct JournalLogger(JournalLog);

impl JournalLogger {
    pub(super) fn connect() -> io::Result<Self> {
        JournalLog::new().map(Self)
    }
}

impl Log for JournalLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.0.log(record);
    }

    /// Waits until journald has dealt with what was sent. It asks the kernel for a sender's unit
    /// only when it reads a message: the last one of a process that is gone by then belongs to no
    /// unit, and `journalctl -u` does not show it.
    fn flush(&self) {
        // Whoever cannot be asked is not waited for.
        let _ = wait_for_reader(SOCKET, FLUSH_TIMEOUT);
    }
}

/// Sends nothing, after all else in journald's queue, and waits until that is read.
fn wait_for_reader(socket: &str, timeout: Duration) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(timeout))?;
    let deadline = Instant::now() + timeout;
    sender.send_to(&[], socket)?;
    while queue::is_unread(&sender)? && Instant::now() < deadline {
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_waits_until_its_messages_are_read_but_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let path = path.to_str().unwrap();
        assert!(wait_for_reader(path, FLUSH_TIMEOUT).is_err(), "there is nobody");
        let journald = UnixDatagram::bind(path).unwrap();
        let begun = Instant::now();
        wait_for_reader(path, Duration::from_millis(20)).unwrap();
        assert!(
            begun.elapsed() >= Duration::from_millis(20),
            "nobody has read"
        );
        journald.recv(&mut [0]).unwrap();

        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"the last words", path)
            .unwrap();
        let waiting = std::thread::spawn({
            let path = path.to_owned();
            move || wait_for_reader(&path, Duration::from_secs(60)).unwrap()
        });
        let mut message = [0; 20];
        assert_eq!(journald.recv(&mut message).unwrap(), 14);
        assert!(
            !waiting.is_finished(),
            "the last words were read, and may not be dealt with"
        );
        assert_eq!(journald.recv(&mut message).unwrap(), 0);
        waiting.join().unwrap();
    }
}
