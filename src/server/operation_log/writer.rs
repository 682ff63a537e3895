//! The thread that writes the operation log.

use super::file::{LogFile, PartialWrite, Rotation};
use super::{
    LogSwitch, OperationLogEntry, QUEUE_CAPACITY, QueueItem, SharedLogState, WriterCommands,
};
use crate::logging::Event;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How long entries gather after the first one has arrived.
///
/// Without this pause the thread sleeps in `recv` between entries, and each request thread that
/// records an entry pays for waking it: measured on two cores with 10,000, 50,000 and 200,000
/// entries a second, 5.7, 3.7 and 0.7 µs per entry, and up to 7 ms when all cores were busy. While
/// entries gather, the queue wakes no thread, and an entry costs 0.03 to 0.08 µs. An idle server
/// stays asleep, because the first entry is awaited in `recv`. 20 ms leave the queue room for three
/// million entries a second; 100 ms were not measurably cheaper, and under overload four times as
/// many lines were lost.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// Bytes of lines per write(2).
const BATCH: usize = 256 << 10;

/// The shortest interval between two messages about discarded lines: under overload the log rotates
/// every few seconds.
const DISCARD_REPORT_INTERVAL: Duration = Duration::from_secs(600);

/// How long the queue must not have been full before the overflow counts as over.
const OVERFLOW_RECOVERY: Duration = Duration::from_secs(1);

pub(super) struct LogWriter {
    shared: Arc<SharedLogState>,
    queue: Receiver<QueueItem>,
    file: Option<LogFile>,
    text: String,
    lines: u64,
    /// While the file cannot be written: the lines that were lost before this failure.
    failing_since: Option<u64>,
    /// When discarded lines were last reported.
    discard_reported: Option<Instant>,
    overflow: Overflow,
}

/// The state of a queue overflow.
struct Overflow {
    /// Lines lost to overflows at the last check, and when that number last rose.
    seen: u64,
    rose: Instant,
    /// During an overflow: the lines that were lost before it began.
    since: Option<u64>,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<SharedLogState>, queue: Receiver<QueueItem>) -> Self {
        let overflow = Overflow {
            seen: 0,
            rose: Instant::now(),
            since: None,
        };
        let text = String::with_capacity(BATCH + 256);
        Self {
            shared,
            queue,
            file: None,
            text,
            lines: 0,
            failing_since: None,
            discard_reported: None,
            overflow,
        }
    }

    pub(super) fn run(mut self) {
        let mut again = false;
        loop {
            let first = match self.wait(again) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut commands = self.gather(if again || first.is_none() {
                Duration::ZERO
            } else {
                GATHER_TIME
            });
            // Queued entries were recorded for the old file, if there is one.
            if self.file.is_none()
                && let Some(switch) = commands.switch.take()
            {
                self.switch(switch);
            }
            self.open();
            again = self.drain(first);
            self.write();
            self.watch_overflow();
            if let Some(switch) = commands.switch {
                self.switch(switch);
            }
            if commands.stop {
                self.end();
                return;
            }
        }
    }

    /// Waits for the first item. Does not block when the previous round left something to do.
    fn wait(&self, again: bool) -> Result<QueueItem, RecvTimeoutError> {
        if again {
            self.queue.recv_timeout(Duration::ZERO)
        } else if self.overflow.since.is_some() {
            self.queue.recv_timeout(OVERFLOW_RECOVERY)
        } else {
            self.queue
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    /// Waits while entries gather, until commands arrive or `period` has passed, and takes the
    /// commands.
    fn gather(&self, period: Duration) -> WriterCommands {
        let idle = |commands: &mut WriterCommands| commands.switch.is_none() && !commands.stop;
        let waited = self
            .shared
            .commanded
            .wait_timeout_while(self.shared.commands(), period, idle);
        let (mut commands, _) = waited.unwrap_or_else(PoisonError::into_inner);
        WriterCommands {
            switch: commands.switch.take(),
            stop: commands.stop,
            ..WriterCommands::default()
        }
    }

    /// Takes at most as many items as the queue can hold. Whether there may be more to do: entries,
    /// or commands whose wake-up was taken.
    fn drain(&mut self, first: Option<QueueItem>) -> bool {
        let mut next = first.or_else(|| self.queue.try_recv().ok());
        let mut woken = false;
        for _ in 0..QUEUE_CAPACITY {
            match next {
                Some(QueueItem::Entry(entry)) => self.push(&entry),
                Some(QueueItem::Wake) => woken = true,
                None => return woken,
            }
            next = self.queue.try_recv().ok();
        }
        if let Some(QueueItem::Entry(entry)) = next {
            self.push(&entry);
        }
        true
    }

    fn push(&mut self, entry: &OperationLogEntry) {
        match &self.file {
            Some(file) if file.is_open() => {
                entry.append_to(&mut self.text);
                self.lines += 1;
                if self.text.len() >= BATCH {
                    self.write();
                }
            }
            // The file cannot be written, or the log was switched off while this line was queued.
            _ => {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn open(&mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.open()
        {
            self.fail(self.shared.failed.load(Ordering::Relaxed), &error);
        }
    }

    fn write(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let Some(file) = self.file.as_mut().filter(|_| lines > 0) else {
            return;
        };
        let room = file
            .rotate_if_full(self.text.len())
            .map_err(|error| PartialWrite { written: 0, error });
        let outcome = room.and_then(|room| file.append(&self.text).map(|()| room));
        self.text.clear();
        match outcome {
            Ok(room) => {
                self.shared.written.fetch_add(lines, Ordering::Relaxed);
                self.recover();
                if room == (Rotation::Rotated { discarded: true }) {
                    self.report_discarded();
                }
            }
            Err(PartialWrite { written, error }) => {
                self.shared.written.fetch_add(written, Ordering::Relaxed);
                let before = self
                    .shared
                    .failed
                    .fetch_add(lines - written, Ordering::Relaxed);
                self.fail(before, &error);
            }
        }
    }

    /// Reports that lines are being lost, once per failure.
    fn fail(&mut self, lost_before: u64, error: &io::Error) {
        if self.failing_since.is_none() {
            self.failing_since = Some(lost_before);
            let path = self.path();
            log::warn!(
                MESSAGE_ID = Event::OperationLogLosing.id(), DSM_SERVER = self.shared.index,
                DSM_FILE:% = path.display(), DSM_ERROR:% = error;
                "operation log {}: {error}. dsmd serves requests without it, and lines are lost until the file can be written \
                 (tried every second). Check that log.directory of mcomp.cfg exists, has room, and is writable for dsmd, also \
                 in the sandbox of its unit (ReadWritePaths=)",
                path.display()
            );
        }
    }

    /// Reports that the file can be written again, and how many lines were lost.
    fn recover(&mut self) {
        if let Some(lost) = self.end_failure() {
            self.report_lost(lost, "it is written again");
        }
    }

    /// Reports how many lines were lost with a file that is not written again.
    fn give_up(&mut self) {
        if let Some(lost) = self.end_failure().filter(|lost| *lost > 0) {
            self.report_lost(lost, "it is closed");
        }
    }

    fn end_failure(&mut self) -> Option<u64> {
        self.failing_since
            .take()
            .map(|before| self.shared.failed.load(Ordering::Relaxed) - before)
    }

    fn report_lost(&self, lost: u64, why: &str) {
        let path = self.path();
        log::warn!(
            MESSAGE_ID = Event::OperationLogLosing.id(), DSM_SERVER = self.shared.index,
            DSM_FILE:% = path.display(), DSM_LOST = lost;
            "operation log {}: {why}; {lost} lines were lost",
            path.display()
        );
    }

    /// Reports that older lines were discarded, at most once per interval.
    fn report_discarded(&mut self) {
        if self
            .discard_reported
            .is_some_and(|at| at.elapsed() < DISCARD_REPORT_INTERVAL)
        {
            return;
        }
        self.discard_reported = Some(Instant::now());
        let Some(file) = &self.file else { return };
        log::warn!(
            MESSAGE_ID = Event::OperationLogLosing.id(), DSM_SERVER = self.shared.index,
            DSM_FILE:% = file.path().display();
            "operation log {}: it has reached log.max_size again; its lines are now in {}, and the older lines of that file \
             were discarded. To keep more, raise log.max_size or record fewer operations",
            file.path().display(), file.old_path().display()
        );
    }

    fn watch_overflow(&mut self) {
        let lost = self.shared.overflowed.load(Ordering::Relaxed);
        if lost > self.overflow.seen {
            if self.overflow.since.is_none() {
                self.overflow.since = Some(self.overflow.seen);
                let path = self.path();
                log::warn!(
                    MESSAGE_ID = Event::OperationLogLosing.id(), DSM_SERVER = self.shared.index,
                    DSM_FILE:% = path.display();
                    "operation log {}: operations come faster than their lines can be written. dsmd serves them all, \
                     but lines are lost: record fewer operations (log.operations), or use a faster disk",
                    path.display()
                );
            }
            self.overflow.seen = lost;
            self.overflow.rose = Instant::now();
        } else if self.overflow.rose.elapsed() >= OVERFLOW_RECOVERY {
            self.end_overflow();
        }
    }

    fn end_overflow(&mut self) {
        if let Some(before) = self.overflow.since.take() {
            self.report_lost(self.overflow.seen - before, "the queue has room again");
        }
    }

    /// Switches to another file, or reopens the same path. Opens it immediately, so that an error
    /// is reported at once.
    fn switch(&mut self, switch: LogSwitch) {
        self.give_up();
        self.file = match switch {
            LogSwitch::To(file) => Some(file),
            LogSwitch::Off => None,
        };
        self.open();
        let mut commands = self.shared.commands();
        // If another switch was commanded since, the caller waits for that one.
        commands.switched = commands.switch.is_none();
        self.shared.done.notify_all();
    }

    /// To be called after the log was switched off and the queue was drained: all lines are
    /// written.
    fn end(mut self) {
        self.give_up();
        self.end_overflow();
        self.shared.commands().stopped = true;
        self.shared.done.notify_all();
    }

    fn path(&self) -> PathBuf {
        self.file
            .as_ref()
            .map(|file| file.path().to_owned())
            .unwrap_or_default()
    }
}
