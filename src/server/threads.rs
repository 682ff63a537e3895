//! The threads that serve connections: one per connection up to limits.threads; beyond that, a few
//! that share all connections through epoll.

use super::connection::{Connection, Mode, NextStep, TICK};
use super::context::Context;
use super::executor::Executor;
use super::gate_watcher::GateWatcher;
use super::heartbeat::Heartbeat;
use super::shared_thread::SharedThread;
use dsm_core::segment::{SegmentError, Worker};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The largest number of shared threads: more than there are cores would only cost context
/// switches.
const MAX_SHARED: usize = 8;

/// All threads that serve connections. Clones are handles of the same threads.
#[derive(Clone)]
pub(super) struct Threads {
    pub(super) context: Arc<Context>,
    shared: Arc<[Arc<Inbox>]>,
    pub(super) gate_watcher: Arc<GateWatcher>,
}

/// The queue of new connections of a shared thread, and its load.
pub(super) struct Inbox {
    arrivals: Mutex<Vec<Connection>>,
    pub(super) heartbeat: Arc<Heartbeat>,
    /// Connections that the thread serves or that are in its queue.
    load: AtomicUsize,
    /// The processor that the thread ran on at its last check.
    processor: AtomicUsize,
}

impl Inbox {
    /// The inbox of the thread of this name.
    fn new(name: String) -> io::Result<Self> {
        Ok(Self {
            arrivals: Mutex::new(Vec::new()),
            heartbeat: Arc::new(Heartbeat::new(name)?),
            load: AtomicUsize::new(0),
            processor: AtomicUsize::new(usize::MAX),
        })
    }

    /// Hands the connection to the thread.
    pub(super) fn put(&self, connection: Connection) {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        self.heartbeat.wake_up();
    }

    /// Takes the new connections. To be called by the thread after a wake-up.
    pub(super) fn take(&self) -> Vec<Connection> {
        self.heartbeat.woken();
        std::mem::take(&mut *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A connection of the thread has closed or moved.
    pub(super) fn decrement_load(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes the processor that the thread runs on.
    pub(super) fn set_processor(&self, processor: usize) {
        self.processor.store(processor, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

impl Threads {
    /// Starts the shared threads together with the server, so that a connection finds a thread even
    /// when no more can be created.
    pub(super) fn start(context: &Arc<Context>) -> io::Result<Self> {
        let count = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .clamp(2, MAX_SHARED);
        let inbox = |number| Inbox::new(format!("dsm-shared-{number}")).map(Arc::new);
        let shared = (0..count).map(inbox).collect::<io::Result<_>>()?;
        let threads = Self {
            context: Arc::clone(context),
            shared,
            gate_watcher: GateWatcher::start(context.segment.clone())?,
        };
        for inbox in threads.shared.iter() {
            let thread = SharedThread::new(threads.clone(), Arc::clone(inbox))?;
            std::thread::Builder::new()
                .name(inbox.heartbeat.name().to_owned())
                .spawn(move || thread.run())?;
        }
        context.threads.fetch_add(count, Ordering::Relaxed);
        Ok(threads)
    }

    /// The heartbeats of the shared threads.
    pub(super) fn heartbeats(&self) -> impl Iterator<Item = Arc<Heartbeat>> {
        self.shared.iter().map(|inbox| Arc::clone(&inbox.heartbeat))
    }

    /// Serves the connection on its own thread, or on a shared one when limits.threads is reached.
    pub(super) fn serve(&self, connection: Connection) {
        if self.served() >= self.context.limits.threads() {
            return self.share(connection);
        }
        match self.context.segment.worker() {
            Ok(worker) => self.dedicate(connection, worker),
            Err(error) => {
                if !matches!(error, SegmentError::TooManyWorkers { .. }) {
                    log::error!("{error}; a connection uses a shared thread");
                }
                self.share(connection);
            }
        }
    }

    /// Whether there are more connections than limits.threads. Then all of them share threads:
    /// waking one thread per request costs more than finding the requests of several connections at
    /// one wake-up.
    pub(super) fn is_crowded(&self) -> bool {
        self.served() > self.context.limits.threads()
    }

    /// The number of served connections.
    fn served(&self) -> usize {
        let own = self
            .context
            .threads
            .load(Ordering::Relaxed)
            .saturating_sub(self.shared.len());
        own + self.shared_load()
    }

    /// Serves the connection on the shared thread that has the fewest.
    pub(super) fn share(&self, connection: Connection) {
        // There are at least two shared threads.
        let Some(inbox) = self.shared.iter().min_by_key(|inbox| inbox.load()) else {
            return;
        };
        inbox.put(connection);
    }

    /// The shared thread that last ran on this processor.
    pub(super) fn on_processor(&self, processor: usize) -> Option<&Arc<Inbox>> {
        self.shared
            .iter()
            .find(|inbox| inbox.processor.load(Ordering::Relaxed) == processor)
    }

    /// Connections on shared threads, including those that are only refused.
    pub(super) fn shared_load(&self) -> usize {
        self.shared.iter().map(|inbox| inbox.load()).sum()
    }

    fn dedicate(&self, connection: Connection, worker: Worker) {
        let threads = self.clone();
        self.context.threads.fetch_add(1, Ordering::Relaxed);
        // If the thread cannot be created, the connection is taken back from here: dropping it
        // would close it without telling the client why.
        let handed_over = Arc::new(Mutex::new(Some(connection)));
        let taken_over = Arc::clone(&handed_over);
        let take = |place: &Mutex<Option<Connection>>| {
            place.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let thread = std::thread::Builder::new()
            .name("dsm-connection".to_owned())
            .spawn(move || {
                let Some(connection) = take(&taken_over) else {
                    return;
                };
                let executor = Executor::new(&threads.context, worker);
                let left = serve_alone(connection, executor, &threads);
                threads.context.threads.fetch_sub(1, Ordering::Relaxed);
                if let Some(connection) = left {
                    threads.share(connection);
                }
            });
        if let Err(error) = thread {
            self.context.threads.fetch_sub(1, Ordering::Relaxed);
            if self.context.log_limit.allows() {
                log::warn!(
                    "no thread for a connection: {error}. It shares one. Raise the limits on processes and memory (TasksMax=, ulimit -u)"
                );
            }
            take(&handed_over)
                .into_iter()
                .for_each(|connection| self.share(connection));
        }
    }
}

/// Serves one connection until it closes, or returns it when connections must share threads. Calls
/// on the socket block for at most a tick.
fn serve_alone(
    mut connection: Connection,
    mut executor: Executor,
    threads: &Threads,
) -> Option<Connection> {
    let socket = connection.socket();
    if let Err(error) = socket
        .set_receive_timeout(TICK)
        .and_then(|()| socket.set_send_timeout(TICK))
    {
        log::error!("cannot set the timeouts of a connection: {error}; it was closed");
        return None;
    }
    while connection.drive(&mut executor, Mode::Blocking) != NextStep::Close {
        if connection.expire(&executor, Instant::now()) == Some(NextStep::Close) {
            return None;
        }
        if threads.is_crowded() {
            connection.leave(&executor);
            return Some(connection);
        }
    }
    None
}
