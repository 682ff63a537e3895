//! The limits in force: those of mcomp.cfg, which a reload can change under open connections.

use dsm_config::Limits;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Limits that every thread reads without a lock. [`Limits`] says what they mean.
pub(super) struct LiveLimits {
    /// The largest number of connections that the process has descriptors for.
    max_connections: usize,
    connections: AtomicUsize,
    threads: AtomicUsize,
    hello_timeout: AtomicU64,
    request_timeout: AtomicU64,
    shutdown_timeout: AtomicU64,
    buffer_memory: AtomicU64,
}

impl LiveLimits {
    pub(super) fn new(limits: &Limits, max_connections: usize) -> Self {
        let live = Self {
            max_connections,
            connections: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            hello_timeout: AtomicU64::new(0),
            request_timeout: AtomicU64::new(0),
            shutdown_timeout: AtomicU64::new(0),
            buffer_memory: AtomicU64::new(0),
        };
        live.set(limits);
        live
    }

    pub(super) fn set(&self, limits: &Limits) {
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.connections.store(
            limits.connections.min(self.max_connections),
            Ordering::Relaxed,
        );
        self.threads.store(limits.threads, Ordering::Relaxed);
        self.hello_timeout
            .store(milliseconds(limits.hello_timeout), Ordering::Relaxed);
        self.request_timeout
            .store(milliseconds(limits.request_timeout), Ordering::Relaxed);
        self.shutdown_timeout
            .store(milliseconds(limits.shutdown_timeout), Ordering::Relaxed);
        self.buffer_memory
            .store(limits.buffer_memory, Ordering::Relaxed);
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    pub(super) fn hello_timeout(&self) -> Duration {
        Duration::from_millis(self.hello_timeout.load(Ordering::Relaxed))
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout.load(Ordering::Relaxed))
    }

    pub(super) fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout.load(Ordering::Relaxed))
    }

    pub(super) fn buffer_memory(&self) -> u64 {
        self.buffer_memory.load(Ordering::Relaxed)
    }
}
