//! The lock table: a word for each lock, which names the worker that owns it.

use super::geometry::{CACHE_LINE, LOCK_TABLE, LOCKS};
use crate::sys::mapping::Mapping;
use crate::sys::region::Region;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bit of a word that is set while a contender sleeps, or may be about to.
pub(super) const CONTENDED: u64 = 1 << 63;

/// The value of the word of a lock that `worker` owns.
pub(super) fn owned_by(worker: usize) -> u64 {
    worker as u64 + 1
}

/// The worker that the value of a word names; `None` when the lock is free.
pub(super) fn owner(word: u64) -> Option<usize> {
    // Only overwritten memory has values that no worker wrote; they name no worker either.
    usize::try_from(word & !CONTENDED).ok()?.checked_sub(1)
}

/// See the module.
pub(super) struct LockTable(Region);

impl LockTable {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        Self(mapping.region(LOCK_TABLE..LOCK_TABLE + LOCKS * CACHE_LINE))
    }

    #[inline]
    pub(super) fn word(&self, lock: usize) -> &AtomicU64 {
        self.0.word(lock * CACHE_LINE)
    }

    /// Takes the lock if it is free.
    #[inline]
    pub(super) fn try_take(&self, lock: usize, worker: usize) -> bool {
        self.word(lock)
            .compare_exchange(0, owned_by(worker), Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Releases the lock. Returns whether contenders may sleep.
    #[inline]
    pub(super) fn release(&self, lock: usize) -> bool {
        self.word(lock).swap(0, Ordering::Release) & CONTENDED != 0
    }

    /// The locks that `worker` owns.
    pub(super) fn owned(&self, worker: usize) -> impl Iterator<Item = usize> + '_ {
        (0..LOCKS)
            .filter(move |lock| owner(self.word(*lock).load(Ordering::Acquire)) == Some(worker))
    }
}
