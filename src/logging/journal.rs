//! Messages to the systemd journal.

use dsm_core::sys::queue;
use log::{Log, Metadata, Record};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use systemd_journal_logger::JournalLog;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a process that ends waits for journald to read its messages.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval between checks whether journald has read them.
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

    /// Waits until journald has handled what was sent. journald asks the kernel for the sender's
    /// unit only when it reads a message: a message of a process that has ended by then belongs to
    /// no unit, and `journalctl -u` does not show it.
    fn flush(&self) {
        // An unreachable journald cannot be waited for.
        let _ = wait_for_reader(SOCKET, FLUSH_TIMEOUT);
    }
}

/// Sends an empty message, and waits until journald has read it and so all messages queued before
/// it.
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
        assert!(wait_for_reader(path, FLUSH_TIMEOUT).is_err(), "no socket");
        let journald = UnixDatagram::bind(path).unwrap();
        let begun = Instant::now();
        wait_for_reader(path, Duration::from_millis(20)).unwrap();
        assert!(
            begun.elapsed() >= Duration::from_millis(20),
            "the message is unread"
        );
        journald.recv(&mut [0]).unwrap();

        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"a last message", path)
            .unwrap();
        let waiting = std::thread::spawn({
            let path = path.to_owned();
            move || wait_for_reader(&path, Duration::from_secs(60)).unwrap()
        });
        let mut message = [0; 20];
        assert_eq!(journald.recv(&mut message).unwrap(), 14);
        assert!(
            !waiting.is_finished(),
            "the message before the empty one was read, but may not be handled"
        );
        assert_eq!(journald.recv(&mut message).unwrap(), 0);
        waiting.join().unwrap();
    }
}
