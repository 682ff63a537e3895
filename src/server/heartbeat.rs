//! Whether a thread on which many peers depend still comes round to the next of them. The
//! watchdog asks, the thread answers between two pieces of work; a thread that is stuck in one
//! does not.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
pub(super) struct Heartbeat {
    /// The name of the thread.
    name: String,
    /// Wakes the thread, whatever else it waits for.
    wake: EventFd,
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Heartbeat {
    /// Of a thread that will wait for [`Heartbeat::wake`] too.
    pub(super) fn new(name: String) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            name,
            wake,
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Readable when the thread shall come round.
    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Has the thread come round.
    pub(super) fn wake_up(&self) {
        // It can fail only if the counter is full, and then the thread wakes up too.
        let _ = self.wake.write(1);
    }

    /// For the thread: it has come round, and the next wake-up is a new one.
    pub(super) fn woken(&self) {
        // Resets the counter; empty already is fine.
        let _ = self.wake.read();
    }

    /// Asks the thread.
    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Release);
        self.wake_up();
    }

    /// For the thread, as often as it comes round: the answer to all that was asked.
    #[inline]
    pub(super) fn beat(&self) {
        self.answered
            .store(self.asked.load(Ordering::Acquire), Ordering::Release);
    }

    /// Whether the thread has answered what was asked last.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.asked.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_come_round_is_found_and_one_that_does_again_is_well() {
        let heartbeat = Heartbeat::new("dsm-test".to_owned()).unwrap();
        assert!(heartbeat.is_answered(), "nothing was asked");
        heartbeat.ask();
        heartbeat.ask();
        assert!(!heartbeat.is_answered());
        heartbeat.woken();
        assert!(!heartbeat.is_answered(), "woken, and then stuck");
        heartbeat.beat();
        assert!(heartbeat.is_answered());
        heartbeat.ask();
        assert!(!heartbeat.is_answered());
    }
}
