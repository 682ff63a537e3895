//! The operation log: one line for each operation, on disk, written beside the service and never in
//! its way.

mod entry;
mod file;
mod writer;

pub use entry::Entry;

use dsm_config::OperationLogMode;
use dsm_core::protocol::{LoggedOperations, Opcode, OperationLogStatus};
use file::LogFile;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use writer::Writer;

/// Lines that may wait for the disk. At a million operations a second that is 65 ms of them, in 5
/// MiB.
const QUEUE: usize = 65_536;

/// The longest wait for the thread to turn to another file.
const TURN: Duration = Duration::from_secs(1);

const OFF: u8 = 0;
const WRITES: u8 = 1;
const ALL: u8 = 2;

/// The operation log of one server. Clones are handles of the same log.
///
/// A thread of its own, `dsm-oplog`, writes the lines. It and the queue to it come into being when
/// the log is first turned on, and last until [`OperationLog::stop`] or the end of the process.
/// What is still in the queue when the process is killed is lost: at most what was done in the last
/// 20 ms, unless the disk is slow.
#[derive(Clone)]
pub struct OperationLog {
    shared: Arc<Shared>,
}

/// What the handles and the thread have in common.
struct Shared {
    index: u32,
    mode: AtomicU8,
    queue: OnceLock<SyncSender<Message>>,
    written: AtomicU64,
    /// Lines lost because the queue was full.
    overflowed: AtomicU64,
    /// Lines lost because the file could not be written.
    failed: AtomicU64,
    orders: Mutex<Orders>,
    /// There are orders.
    ordered: Condvar,
    /// Orders have been carried out.
    done: Condvar,
}

/// What goes through the queue.
#[derive(Clone, Copy)]
enum Message {
    Entry(Entry),
    /// There are orders, or were.
    Wake,
}

/// What the thread is to do beside writing.
#[derive(Default)]
struct Orders {
    /// Go on with another file, or none.
    turn: Option<Turn>,
    /// The thread has turned to the last file that was ordered.
    turned: bool,
    /// Write what is in the queue, and end.
    stop: bool,
    /// The thread has ended.
    stopped: bool,
}

/// What the thread writes to from now on.
enum Turn {
    To(LogFile),
    Off,
}

impl OperationLog {
    /// Starts the operation log of server `index` in the file `operations-INDEX.log` of
    /// `directory`. Before that has more than `max_size` bytes it becomes
    /// `operations-INDEX.log.old`, in place of what had that name.
    ///
    /// It does not fail: an operation log that cannot be written says so at level warning, and
    /// counts the lines that are lost. Call it after the process was detached, since a fork takes
    /// no threads along.
    #[must_use]
    pub fn start(mode: OperationLogMode, directory: &Path, max_size: u64, index: u32) -> Self {
        let log = Self {
            shared: Arc::new(Shared {
                index,
                mode: AtomicU8::new(OFF),
                queue: OnceLock::new(),
                written: AtomicU64::new(0),
                overflowed: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                orders: Mutex::default(),
                ordered: Condvar::new(),
                done: Condvar::new(),
            }),
        };
        log.reconfigure(mode, directory, max_size);
        log
    }

    /// Whether operations of this kind are to be recorded: with "writes" those that may change the
    /// memory, with "all" reads too. Costs one relaxed load.
    #[inline]
    #[must_use]
    pub fn wants(&self, opcode: Opcode) -> bool {
        match self.shared.mode.load(Ordering::Relaxed) {
            OFF => false,
            WRITES => opcode.mutates(),
            _ => opcode.mutates() || opcode == Opcode::Read,
        }
    }

    /// Whether no operation is to be recorded.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.shared.mode.load(Ordering::Relaxed) == OFF
    }

    /// Hands a line to the thread. Never waits and never allocates: when the queue is full the line
    /// is lost, and counted.
    #[inline]
    pub fn record(&self, entry: Entry) {
        if let Some(queue) = self.shared.queue.get()
            && queue.try_send(Message::Entry(entry)).is_err()
        {
            self.shared.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes over another mode, directory or size, and opens the file again in any case, for
    /// `logrotate(8)`. Lines recorded before this call go to the old file, those after it to the
    /// new one. Waits for the thread to turn to it, at most a second: a disk that hangs does not
    /// keep the caller.
    pub fn reconfigure(&self, mode: OperationLogMode, directory: &Path, max_size: u64) {
        let shared = &self.shared;
        let wanted = match mode {
            OperationLogMode::Off => OFF,
            OperationLogMode::Writes => WRITES,
            _ => ALL,
        };
        let mut orders = shared.orders();
        if orders.stop {
            return;
        }
        if wanted != OFF
            && let Err(error) = self.start_thread()
        {
            log::warn!(DSM_SERVER = shared.index; "operation log: it stays off, its thread cannot be started: {error}");
            return;
        }
        orders.turn = Some(if wanted == OFF {
            Turn::Off
        } else {
            Turn::To(LogFile::new(directory, shared.index, max_size))
        });
        orders.turned = false;
        shared.mode.store(wanted, Ordering::Relaxed);
        if shared.queue.get().is_some() {
            shared.carry_out(orders, TURN, |orders| orders.turned);
        }
    }

    /// What the status reply says.
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

    /// Turns the log off for good, and waits until all that was recorded is written, at most
    /// `deadline`.
    pub fn stop(&self, deadline: Duration) {
        let shared = &self.shared;
        shared.mode.store(OFF, Ordering::Relaxed);
        let mut orders = shared.orders();
        orders.stop = true;
        if shared.queue.get().is_some()
            && !shared.carry_out(orders, deadline, |orders| orders.stopped)
        {
            log::warn!(
                DSM_SERVER = shared.index;
                "operation log: the disk did not take the last lines within {}; they are lost",
                humantime::format_duration(deadline)
            );
        }
    }

    /// Starts the thread unless it runs. The caller holds the orders, so that two do not start it.
    fn start_thread(&self) -> io::Result<()> {
        if self.shared.queue.get().is_some() {
            return Ok(());
        }
        let (sender, receiver) = sync_channel(QUEUE);
        let writer = Writer::new(Arc::clone(&self.shared), receiver);
        std::thread::Builder::new()
            .name("dsm-oplog".to_owned())
            .spawn(move || writer.run())?;
        // It was empty above, and nobody else fills it meanwhile.
        let _ = self.shared.queue.set(sender);
        Ok(())
    }
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread carry out `orders`. Whether that was done within `deadline`.
    fn carry_out(
        &self,
        orders: MutexGuard<'_, Orders>,
        deadline: Duration,
        done: fn(&Orders) -> bool,
    ) -> bool {
        // The thread lets entries gather, or waits for one. When the queue is full it does neither.
        self.ordered.notify_all();
        if let Some(queue) = self.queue.get() {
            let _ = queue.try_send(Message::Wake);
        }
        let waited = self
            .done
            .wait_timeout_while(orders, deadline, |orders| !done(orders));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lost(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}
