//! The state that all threads of a server share.

use super::buffer::Budget;
use super::limits::LiveLimits;
use super::operation_log::OperationLog;
use super::session::SessionTable;
use super::statistics::Statistics;
use crate::logging::LogRateLimit;
use dsm_config::Config;
use dsm_core::Incarnation;
use dsm_core::layout::Layout;
use dsm_core::net::Stream;
use dsm_core::protocol::{Connections, MemoryState, Status};
use dsm_core::segment::{AccessError, FORMAT, NameCheck, Segment, WORKERS, overhead};
use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a stopping server checks whether the last connection has closed.
const STOP_POLL: Duration = Duration::from_millis(5);

/// The state of one server.
pub(super) struct Context {
    pub(super) layout: Layout,
    pub(super) index: u32,
    pub(super) segment: Segment,
    pub(super) sessions: SessionTable,
    pub(super) statistics: Statistics,
    pub(super) limits: Arc<LiveLimits>,
    pub(super) budget: Arc<Budget>,
    pub(super) operation_log: OperationLog,
    pub(super) threads: AtomicUsize,
    /// Limits the log lines that clients can cause.
    pub(super) log_limit: LogRateLimit,
    /// How the segment's names were found by the last check.
    names: Mutex<NameCheck>,
    started: Instant,
    stopping: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
    next_socket: AtomicU64,
    /// The sockets of all open connections, to wake their threads when the server stops.
    sockets: Mutex<HashMap<u64, Arc<Stream>>>,
}

/// A socket in the table of open connections, which is removed from it when this is dropped.
pub(super) struct RegisteredSocket {
    context: Arc<Context>,
    number: u64,
}

impl Context {
    /// The context of a server with descriptors for `max_connections` connections, whatever limit
    /// is configured.
    pub(super) fn new(
        config: &Config,
        index: u32,
        segment: Segment,
        operation_log: OperationLog,
        max_connections: usize,
    ) -> Self {
        let limits = Arc::new(LiveLimits::new(&config.limits, max_connections));
        Self {
            layout: config.layout.clone(),
            index,
            sessions: SessionTable::new(segment.clone()),
            segment,
            statistics: Statistics::new(WORKERS),
            budget: Arc::new(Budget::new(Arc::clone(&limits))),
            limits,
            operation_log,
            threads: AtomicUsize::new(0),
            log_limit: LogRateLimit::default(),
            names: Mutex::new(NameCheck::Intact),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            next_socket: AtomicU64::new(0),
            sockets: Mutex::new(HashMap::new()),
        }
    }

    /// The server's address in the network map.
    pub(super) fn address(&self) -> &str {
        &self.layout.addresses()[self.index as usize]
    }

    /// The address of the first byte of this server's segment.
    pub(super) fn base(&self) -> u64 {
        u64::from(self.index) * self.layout.share_size()
    }

    /// The incarnation of the memory; zero while it waits for a restore.
    pub(super) fn incarnation(&self) -> u64 {
        // The order matters: read after the access check, the incarnation could be that of a
        // restore that is still in progress.
        let incarnation = self.segment.incarnation();
        if self.segment.access_error().is_some() {
            0
        } else {
            incarnation
        }
    }

    /// Enables access by local clients through shared memory, unless the operation log is on, which
    /// would miss their operations.
    pub(super) fn update_local_access(&self) {
        if self.operation_log.is_off() {
            self.segment
                .enable_local_access(self.layout.segment_fingerprint(self.index));
        } else {
            self.segment.disable_local_access();
        }
    }

    /// Admits a new connection; `None` when limits.connections are open.
    pub(super) fn admit(self: &Arc<Self>, socket: &Arc<Stream>) -> Option<RegisteredSocket> {
        let mut sockets = self.sockets();
        if sockets.len() >= self.limits.connections() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let number = self.next_socket.fetch_add(1, Ordering::Relaxed);
        sockets.insert(number, Arc::clone(socket));
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Some(RegisteredSocket {
            context: Arc::clone(self),
            number,
        })
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Lets every connection finish the requests that it has received, and waits for them at most
    /// `limits.shutdown_timeout`. Returns the number of connections still open.
    pub(super) fn stop(&self) -> usize {
        self.stopping.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + self.limits.shutdown_timeout();
        loop {
            let sockets = self.sockets();
            let open = sockets.len();
            if open == 0 || Instant::now() >= deadline {
                return open;
            }
            for socket in sockets.values() {
                // The thread can still read what has arrived and then finds the end. It is no error
                // if the connection has closed already.
                let _ = socket.shutdown(Shutdown::Read);
            }
            drop(sockets);
            std::thread::sleep(STOP_POLL);
        }
    }

    /// Counts of connections, for the status.
    pub(super) fn connections(&self) -> Connections {
        let mut connections = Connections::default();
        connections.open = self.sockets().len() as u64;
        connections.limit = self.limits.connections() as u64;
        connections.accepted = self.accepted.load(Ordering::Relaxed);
        connections.refused = self.refused.load(Ordering::Relaxed);
        connections.threads = self.threads.load(Ordering::Relaxed) as u64;
        connections
    }

    /// The reply to a status request.
    pub(super) fn status(&self) -> Status {
        let mut status = Status::default();
        status.version = String::from(env!("CARGO_PKG_VERSION"));
        status.name = String::from(self.layout.name());
        status.index = self.index;
        status.address = String::from(self.address());
        status.pid = std::process::id();
        status.uptime_seconds = self.started.elapsed().as_secs();
        status.incarnation = Incarnation::new(self.segment.incarnation());
        status.fingerprint = self.layout.fingerprint().to_string();
        status.memory = match (self.segment.access_error(), self.names()) {
            (None, NameCheck::Intact | NameCheck::Restored) => MemoryState::InUse,
            (None, NameCheck::PartsRemoved) => MemoryState::InUsePartsRemoved,
            (None, NameCheck::Removed) => MemoryState::InUseRemoved,
            (Some(AccessError::Waiting), _) => MemoryState::WaitingForRestore,
            (Some(_), _) => MemoryState::BeingRestored,
        };
        status.k = self.layout.share_size();
        status.overhead_bytes = overhead(self.layout.share_size());
        status.format = FORMAT;
        status.connections = self.connections();
        status.sessions = self.sessions.status();
        status.operations = self.statistics.operations();
        status.traffic = self.statistics.traffic();
        status.local = self.segment.local_traffic();
        status.recovery.participants = self.segment.participants() as u64;
        (status.recovery.repaired, status.recovery.redone_writes) = self.segment.repairs();
        status.latency = self.statistics.latency();
        status.operation_log = self.operation_log.status();
        status
    }

    /// How the segment's names were found by the last check.
    pub(super) fn names(&self) -> NameCheck {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how the segment's names were found. Returns the previous value.
    pub(super) fn set_names(&self, found: NameCheck) -> NameCheck {
        std::mem::replace(
            &mut *self.names.lock().unwrap_or_else(PoisonError::into_inner),
            found,
        )
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<u64, Arc<Stream>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RegisteredSocket {
    fn drop(&mut self) {
        self.context.sockets().remove(&self.number);
    }
}
