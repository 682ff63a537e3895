//! Wakes the shared threads when a freeze ends. One thread waits at the gate for all of them, so that
//! they serve their other connections in the meantime.

use super::connection::TICK;
use super::heartbeat::Heartbeat;
use dsm_core::segment::Segment;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The threads that have parked a request, for the thread that watches the gate.
#[derive(Default)]
pub(super) struct GateWatcher {
    parked: Mutex<Vec<Arc<Heartbeat>>>,
    has_parked: Condvar,
}

impl GateWatcher {
    /// Starts the thread.
    pub(super) fn start(segment: Segment) -> io::Result<Arc<Self>> {
        let watcher = Arc::new(Self::default());
        let watching = Arc::clone(&watcher);
        std::thread::Builder::new()
            .name("dsm-gate".to_owned())
            .spawn(move || watching.watch(&segment))?;
        Ok(watcher)
    }

    /// Wakes the thread of this heartbeat once the memory is not frozen. To be called after it has
    /// parked a request.
    pub(super) fn wake_when_unfrozen(&self, heartbeat: Arc<Heartbeat>) {
        self.parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(heartbeat);
        self.has_parked.notify_one();
    }

    fn watch(&self, segment: &Segment) {
        loop {
            let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
            // The condition is checked again by the loop, after a wake-up without a cause too.
            drop(
                self.has_parked
                    .wait_while(parked, |parked| parked.is_empty())
                    .unwrap_or_else(PoisonError::into_inner),
            );
            segment.wait_while_frozen(TICK);
            // Who parks from here on is found by the next round. A thread that is woken while the
            // memory is frozen parks again.
            let parked =
                std::mem::take(&mut *self.parked.lock().unwrap_or_else(PoisonError::into_inner));
            parked.iter().for_each(|heartbeat| heartbeat.wake_up());
        }
    }
}
