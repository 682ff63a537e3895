//! The threads that serve connections: one each up to a bound; beyond it, a few that share all of
//! them through epoll.

use super::connection::{Connection, Mode, NextStep, TICK};
use super::context::Context;
use super::request_handler::Executor;
use super::heartbeat::Heartbeat;
use super::shared_thread::SharedThread;
use dsm_core::segment::{SegmentError, Worker};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The most threads that share connections: more than cores would only switch.
const MAX_SHARED: usize = 8;

/// All threads that serve connections.
#[derive(Clone)]
pub(super) struct Threads {
    pub(super) context: Arc<Context>,
    shared: Arc<[Arc<Inbox>]>,
}

/// Where a shared thread finds its new connections.
pub(super) struct Inbox {
    arrivals: Mutex<Vec<Connection>>,
    pub(super) heartbeat: Arc<Heartbeat>,
    /// Connections that the thread has or will have.
    load: AtomicUsize,
    /// Where the thread ran when it looked last.
    processor: AtomicUsize,
}

impl Inbox {
    /// Of the thread of this name.
    fn new(name: String) -> io::Result<Self> {
        Ok(Self {
            arrivals: Mutex::new(Vec::new()),
            heartbeat: Arc::new(Heartbeat::new(name)?),
            load: AtomicUsize::new(0),
            processor: AtomicUsize::new(usize::MAX),
        })
    }

    /// The thread serves this connection from now on.
    pub(super) fn put(&self, connection: Connection) {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        self.heartbeat.wake_up();
    }

    /// The connections that have come since; for the thread, once it was woken.
    pub(super) fn take(&self) -> Vec<Connection> {
        self.heartbeat.woken();
        std::mem::take(&mut *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The thread has one connection less.
    pub(super) fn decrement_load(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// The thread runs on this processor now.
    pub(super) fn runs_on(&self, processor: usize) {
        self.processor.store(processor, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

impl Threads {
    /// Starts the shared threads, so that whatever happens later a connection finds a thread.
    pub(super) fn start(context: &Arc<Context>) -> io::Result<Self> {
        let count = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .clamp(2, MAX_SHARED);
        let inbox = |number| Inbox::new(format!("dsm-shared-{number}")).map(Arc::new);
        let shared = (0..count).map(inbox).collect::<io::Result<_>>()?;
        let threads = Self {
            context: Arc::clone(context),
            shared,
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

    /// Serves the connection on a thread of its own, or on a shared one when the bound is reached.
    pub(super) fn serve(&self, connection: Connection) {
        if self.served() >= self.context.limits.threads() {
            return self.share(connection);
        }
        match self.context.segment.worker() {
            Ok(worker) => self.dedicate(connection, worker),
            Err(error) => {
                if !matches!(error, SegmentError::TooManyWorkers { .. }) {
                    log::error!("{error}: a connection shares a thread");
                }
                self.share(connection);
            }
        }
    }

    /// There are more connections than may have threads of their own: then all of them share. A
    /// thread that is woken for each request of one connection costs more than one that finds
    /// requests of several.
    pub(super) fn is_crowded(&self) -> bool {
        self.served() > self.context.limits.threads()
    }

    /// Connections that there are.
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

    /// The shared thread that runs on this processor, if one does.
    pub(super) fn on(&self, processor: usize) -> Option<&Arc<Inbox>> {
        self.shared
            .iter()
            .find(|inbox| inbox.processor.load(Ordering::Relaxed) == processor)
    }

    /// Connections on shared threads, those that are only told that they are too many among them.
    pub(super) fn shared_load(&self) -> usize {
        self.shared.iter().map(|inbox| inbox.load()).sum()
    }

    fn dedicate(&self, connection: Connection, worker: Worker) {
        let threads = self.clone();
        self.context.threads.fetch_add(1, Ordering::Relaxed);
        // Here it can be taken back when there is no thread to be had: a client whose connection is
        // dropped is told nothing.
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
            if self.context.log_gate.opens() {
                log::warn!(
                    "no thread for a connection: {error}. It shares one; see the limits on processes and memory (TasksMax=, ulimit)"
                );
            }
            take(&handed_over)
                .into_iter()
                .for_each(|connection| self.share(connection));
        }
    }
}

/// Serves one connection to its end, or until there are so many that they share; every call on the
/// socket waits, but never longer than a tick.
fn serve_alone(
    mut connection: Connection,
    mut executor: Executor,
    threads: &Threads,
) -> Option<Connection> {
    let socket = connection.socket();
    if let Err(error) = socket
        .set_read_timeout(Some(TICK))
        .and_then(|()| socket.set_write_timeout(Some(TICK)))
    {
        log::error!("set a time limit on a connection: {error}; it was closed");
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
