//! The operation log: one line for each operation, in a file. A dedicated thread writes it, so that
//! no request waits for the disk.

mod entry;
mod file;
mod writer;

pub use entry::OperationLogEntry;

use dsm_config::OperationLogMode;
use dsm_core::protocol::{LoggedOperations, MemoryRange, Opcode, OperationLogStatus};
use file::LogFile;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use writer::LogWriter;

/// Lines that may wait for the disk: 65 ms of a million operations a second, in 5 MiB.
const QUEUE_CAPACITY: usize = 65_536;

/// The longest wait for the thread to switch to another file.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(1);

const OFF: u8 = 0;
const WRITES: u8 = 1;
const ALL: u8 = 2;

/// The operation log of one server. Clones are handles of the same log.
///
/// The thread `dsm-oplog` writes the lines. It and its queue are created when the log is first
/// switched on, and last until [`OperationLog::stop`] or the end of the process. Lines in the queue
/// are lost when the process is killed: at most those of the last 20 ms, unless the disk is slow.
#[derive(Clone)]
pub struct OperationLog {
    shared: Arc<SharedLogState>,
}

/// The state that the handles and the thread share.
struct SharedLogState {
    index: u32,
    mode: AtomicU8,
    queue: OnceLock<SyncSender<QueueItem>>,
    written: AtomicU64,
    /// Lines lost because the queue was full.
    overflowed: AtomicU64,
    /// Lines lost because the file could not be written.
    failed: AtomicU64,
    commands: Mutex<WriterCommands>,
    /// Signalled when there are commands.
    commanded: Condvar,
    /// Signalled when commands have been executed.
    done: Condvar,
}

/// An item of the queue.
#[derive(Clone, Copy)]
enum QueueItem {
    Entry(OperationLogEntry),
    /// Wakes the thread to look for commands; it may have executed them already.
    Wake,
}

/// What the thread should do besides writing.
#[derive(Default)]
struct WriterCommands {
    /// Switch to another file, or to none.
    switch: Option<LogSwitch>,
    /// The thread has executed the last switch.
    switched: bool,
    /// Write what is in the queue, and end.
    stop: bool,
    /// The thread has ended.
    stopped: bool,
}

/// Where the thread writes from now on.
enum LogSwitch {
    To(LogFile),
    Off,
}

impl OperationLog {
    /// Starts the operation log of server `index` in the file `operations-INDEX.log` of
    /// `directory`. Before the file exceeds `max_size` bytes, it is renamed to
    /// `operations-INDEX.log.old` and replaces the previous file of that name.
    ///
    /// It does not fail: an operation log that cannot be written warns and counts the lines that
    /// are lost. Call it after the process has detached, since a fork takes no threads along.
    #[must_use]
    pub fn start(mode: OperationLogMode, directory: &Path, max_size: u64, index: u32) -> Self {
        let log = Self {
            shared: Arc::new(SharedLogState {
                index,
                mode: AtomicU8::new(OFF),
                queue: OnceLock::new(),
                written: AtomicU64::new(0),
                overflowed: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                commands: Mutex::default(),
                commanded: Condvar::new(),
                done: Condvar::new(),
            }),
        };
        log.reconfigure(mode, directory, max_size);
        log
    }

    /// Whether operations of this kind are recorded: with "writes" those that may change the
    /// memory, with "all" reads too. Costs one relaxed load.
    #[inline]
    #[must_use]
    pub fn wants(&self, opcode: Opcode) -> bool {
        match self.shared.mode.load(Ordering::Relaxed) {
            OFF => false,
            WRITES => opcode.mutates(),
            _ => opcode.entry().range != MemoryRange::None,
        }
    }

    /// Whether no operation is recorded.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.shared.mode.load(Ordering::Relaxed) == OFF
    }

    /// Queues a line. Never blocks and never allocates: when the queue is full, the line is lost
    /// and counted.
    #[inline]
    pub fn record(&self, entry: OperationLogEntry) {
        if let Some(queue) = self.shared.queue.get()
            && queue.try_send(QueueItem::Entry(entry)).is_err()
        {
            self.shared.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Applies another mode, directory or size, and reopens the file in any case, for
    /// `logrotate(8)`. Lines recorded before this call go to the old file, later ones to the new
    /// one. Waits at most a second for the thread to switch: a disk that hangs does not block the
    /// caller for longer.
    pub fn reconfigure(&self, mode: OperationLogMode, directory: &Path, max_size: u64) {
        let shared = &self.shared;
        let wanted = match mode {
            OperationLogMode::Off => OFF,
            OperationLogMode::Writes => WRITES,
            _ => ALL,
        };
        let mut commands = shared.commands();
        if commands.stop {
            return;
        }
        if wanted != OFF
            && let Err(error) = self.start_thread()
        {
            log::warn!(DSM_SERVER = shared.index; "operation log: it stays off because its thread cannot be started: {error}");
            return;
        }
        commands.switch = Some(if wanted == OFF {
            LogSwitch::Off
        } else {
            LogSwitch::To(LogFile::new(directory, shared.index, max_size))
        });
        commands.switched = false;
        shared.mode.store(wanted, Ordering::Relaxed);
        if shared.queue.get().is_some() {
            shared.execute(commands, SWITCH_TIMEOUT, |commands| commands.switched);
        }
    }

    /// The log's part of the status reply.
    #[must_use]
    pub fn status(&self) -> OperationLogStatus {
        let mut status = OperationLogStatus::default();
        status.mode = match self.shared.mode.load(Ordering::Relaxed) {
            OFF => LoggedOperations::Off,
            WRITES => LoggedOperations::Writes,
            _ => LoggedOperations::All,
        };
        status.written = self.shared.written.load(Ordering::Relaxed);
        status.lost = self.shared.lost();
        status
    }

    /// Switches the log off for good, and waits at most `deadline` until all recorded lines are
    /// written.
    pub fn stop(&self, deadline: Duration) {
        let shared = &self.shared;
        shared.mode.store(OFF, Ordering::Relaxed);
        let mut commands = shared.commands();
        commands.stop = true;
        if shared.queue.get().is_some()
            && !shared.execute(commands, deadline, |commands| commands.stopped)
        {
            log::warn!(
                DSM_SERVER = shared.index;
                "operation log: the disk did not take the last lines within {}; they are lost",
                humantime::format_duration(deadline)
            );
        }
    }

    /// Starts the thread unless it runs. The caller holds the lock of the commands, so that only
    /// one thread is started.
    fn start_thread(&self) -> io::Result<()> {
        if self.shared.queue.get().is_some() {
            return Ok(());
        }
        let (sender, receiver) = sync_channel(QUEUE_CAPACITY);
        let writer = LogWriter::new(Arc::clone(&self.shared), receiver);
        std::thread::Builder::new()
            .name("dsm-oplog".to_owned())
            .spawn(move || writer.run())?;
        // The cell was empty above, and the lock of the commands keeps other callers from filling
        // it.
        let _ = self.shared.queue.set(sender);
        Ok(())
    }
}

impl SharedLogState {
    fn commands(&self) -> MutexGuard<'_, WriterCommands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread execute `commands`. Whether it has done so within `deadline`.
    fn execute(
        &self,
        commands: MutexGuard<'_, WriterCommands>,
        deadline: Duration,
        done: fn(&WriterCommands) -> bool,
    ) -> bool {
        // The thread waits for `commanded` while entries gather, or for the queue. With a full
        // queue it waits for neither, so a failed send does no harm.
        self.commanded.notify_all();
        if let Some(queue) = self.queue.get() {
            let _ = queue.try_send(QueueItem::Wake);
        }
        let waited = self
            .done
            .wait_timeout_while(commands, deadline, |commands| !done(commands));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lost(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}
