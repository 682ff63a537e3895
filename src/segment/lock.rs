//! Locks between processes: a word that says who owns it, and a semaphore on which contenders sleep.
//!
//! A POSIX semaphore does not say who holds it, and is not given back when its holder dies. So the word decides:
//! whoever swaps it from zero to its own worker number owns the lock, and there is no instant at which a death leaves
//! the owner unknown. The semaphore only carries sleep: a contender sets the word's high bit, the owner posts when it
//! gives the lock back and finds that bit. A post that is lost with its receiver costs others one [`NAP`], never more.

use super::gate::Shut;
use super::geometry::Geometry;
use super::shared::Shared;
use crate::sys::semaphore::Wait;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The bit of the word that says that somebody sleeps, or may.
const CONTENDED: u64 = 1 << 63;

/// Looks at a taken lock before sleeping: a critical section of a few hundred nanoseconds is often over by then.
const SPINS: u32 = 100;

/// The longest sleep before a contender looks whether the owner is still alive.
const NAP: Duration = Duration::from_millis(20);

/// How long an owner is waited for that is alive and gives nothing back: longer than one takes that only gets little of
/// the processors. Whoever waits for one that was stopped must not stand still as long as it does.
const PATIENCE: Duration = Duration::from_secs(1);

/// The word's value for a lock owned by `worker`.
fn owned_by(worker: usize) -> u64 {
    worker as u64 + 1
}

/// Which worker a word's value names; `None` when the lock is free.
fn owner(word: u64) -> Option<usize> {
    // Values that no worker wrote are possible only if memory was overwritten; they name no worker either.
    usize::try_from(word & !CONTENDED).ok()?.checked_sub(1)
}

impl Shared {
    /// Takes the lock if it is free.
    #[inline]
    pub(super) fn try_lock(&self, lock: usize, worker: usize) -> bool {
        let word = self.mapping.word(Geometry::lock(lock));
        word.compare_exchange(0, owned_by(worker), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock, sleeping while somebody alive has it, and repairing whoever died with it.
    ///
    /// # Errors
    /// [`Shut::Held`] when its owner is alive and does not go on.
    #[inline]
    pub(super) fn lock(&self, lock: usize, worker: usize) -> Result<(), Shut> {
        if self.try_lock(lock, worker) { Ok(()) } else { self.lock_contended(lock, worker) }
    }

    #[cold]
    fn lock_contended(&self, lock: usize, worker: usize) -> Result<(), Shut> {
        let word = self.mapping.word(Geometry::lock(lock));
        for _ in 0..SPINS {
            if word.load(Ordering::Relaxed) == 0 && self.try_lock(lock, worker) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        // Who has had it since when, without giving it back.
        let mut held = (None, Instant::now());
        loop {
            let found = word.load(Ordering::Relaxed);
            if found == 0 {
                // Others may sleep still: take it as contended, so that giving it back wakes the next.
                let taken = owned_by(worker) | CONTENDED;
                if word.compare_exchange(0, taken, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Ok(());
                }
                continue;
            }
            let contended = found | CONTENDED;
            if found != contended
                && word.compare_exchange(found, contended, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            if self.semaphores[lock].wait(NAP) == Wait::Posted {
                held = (None, Instant::now());
                self.idler.store(0, Ordering::Relaxed);
            } else if let Some(owner) = owner(word.load(Ordering::Relaxed)) {
                self.repair_if_dead(owner);
                // Others of this process have waited for it already.
                let is_known = self.idler.load(Ordering::Relaxed) == owned_by(owner);
                if held.0 != Some(owner) {
                    held = (Some(owner), Instant::now());
                } else if is_known || held.1.elapsed() >= PATIENCE {
                    self.idler.store(owned_by(owner), Ordering::Relaxed);
                    return Err(Shut::Held { pid: self.pid_of(owner) });
                }
            }
        }
    }

    /// Gives back a lock that the caller owns.
    #[inline]
    pub(super) fn unlock(&self, lock: usize) {
        if self.mapping.word(Geometry::lock(lock)).swap(0, Ordering::Release) & CONTENDED != 0 {
            self.semaphores[lock].post_once();
        }
    }

    /// Gives back every lock that the dead `worker` owns, and says how many. Only its repairer calls this, after the redo.
    pub(super) fn unlock_all_of(&self, worker: usize) -> usize {
        let mut owned = 0;
        for lock in 0..self.semaphores.len() {
            let word = self.mapping.word(Geometry::lock(lock));
            if owner(word.load(Ordering::Acquire)) == Some(worker) {
                word.store(0, Ordering::Release);
                self.semaphores[lock].post_once();
                owned += 1;
            }
        }
        owned
    }
}
