//! The heartbeat of a thread that many peers depend on. The watchdog requests a beat, and the
//! thread beats between two pieces of work; a thread that is stuck in one does not.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module's comment.
pub(super) struct Heartbeat {
    /// The name of the thread.
    name: String,
    /// Wakes the thread, whatever else it waits for.
    wake: EventFd,
    requested: AtomicU64,
    answered: AtomicU64,
}

impl Heartbeat {
    /// The heartbeat of a thread that will wait for [`Heartbeat::wake`] too.
    pub(super) fn new(name: String) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            name,
            wake,
            requested: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Readable when the thread should wake up.
    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Wakes the thread.
    pub(super) fn wake_up(&self) {
        // The write fails only if the counter is full; then the thread is being woken up already.
        let _ = self.wake.write(1);
    }

    /// To be called by the thread after a wake-up: resets the eventfd.
    pub(super) fn woken(&self) {
        // An empty counter is no error.
        let _ = self.wake.read();
    }

    /// Requests a beat from the thread.
    pub(super) fn request(&self) {
        self.requested.fetch_add(1, Ordering::Release);
        self.wake_up();
    }

    /// To be called by the thread in every round of its loop: answers all requests so far.
    #[inline]
    pub(super) fn beat(&self) {
        self.answered
            .store(self.requested.load(Ordering::Acquire), Ordering::Release);
    }

    /// Whether the thread has beaten since the last request.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.requested.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_thread_misses_its_heartbeat_and_one_that_runs_again_does_not() {
        let heartbeat = Heartbeat::new("dsm-test".to_owned()).unwrap();
        assert!(heartbeat.is_answered(), "nothing was requested");
        heartbeat.request();
        heartbeat.request();
        assert!(!heartbeat.is_answered());
        heartbeat.woken();
        assert!(!heartbeat.is_answered(), "woken up, and then stuck");
        heartbeat.beat();
        assert!(heartbeat.is_answered());
        heartbeat.request();
        assert!(!heartbeat.is_answered());
    }
}
