//! Locks between processes: a word that names the owner, and a semaphore on which contenders sleep.
//!
//! A POSIX semaphore does not name its holder, and the kernel does not release it when the holder
//! dies. So the word decides: a worker owns the lock once it has swapped the word from zero to its
//! own number, and no death leaves the owner unknown. The semaphore only wakes sleepers: a
//! contender sets the high bit of the word, and an owner that finds this bit on release posts the
//! semaphore. If the woken process dies, the other contenders lose at most one [`POLL_INTERVAL`].

use super::attachment::SegmentAttachment;
use super::gate::{AccessError, Awaited};
use super::geometry::WORKERS;
use super::lock_table::{CONTENDED, owned_by, owner};
use crate::sys::cancellation::Uncancelled;
use crate::sys::semaphore::Wait;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a contender polls the lock before it sleeps: a critical section of a few hundred
/// nanoseconds has often ended by then.
const MAX_SPINS: u32 = 100;

/// The longest sleep before a contender checks that the owner is still alive.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a contender waits for an owner that is alive and makes no progress. It is longer than a
/// critical section takes on an overloaded machine, and bounds the wait for a process that was
/// stopped.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The fewest observations of an owner in that time: a waiter that was itself not scheduled,
/// because its machine was paused or overloaded, has not seen a stall.
const MIN_OBSERVATIONS: u32 = 10;

/// A critical section that a waiter observes: the worker that owns the lock, and its progress
/// counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CriticalSection {
    worker: usize,
    progress: u64,
}

/// What a waiter has observed of the owner that it waits for.
#[derive(Debug, Default)]
struct StallDetector(Option<(CriticalSection, Instant, u32)>);

impl StallDetector {
    /// Records that `section` holds the lock at `now`. Returns `true` if it has held the lock for
    /// so long that its worker counts as stalled.
    fn observe(&mut self, section: CriticalSection, now: Instant) -> bool {
        match &mut self.0 {
            Some((same, since, observations)) if *same == section => {
                *observations += 1;
                *observations >= MIN_OBSERVATIONS
                    && now.saturating_duration_since(*since) >= STALL_TIMEOUT
            }
            observed => {
                *observed = Some((section, now, 0));
                false
            }
        }
    }
}

impl SegmentAttachment {
    /// Takes the lock. It sleeps while a live worker owns the lock, and repairs an owner that has
    /// died.
    ///
    /// # Errors
    /// [`AccessError::PageLockTimeout`] when the owner is alive and makes no progress, [`AccessError::DeadlinePassed`] when the
    /// deadline of `worker` passes first.
    #[inline]
    pub(super) fn lock(&self, lock: usize, worker: usize) -> Result<(), AccessError> {
        if self.tables.locks.try_take(lock, worker) {
            Ok(())
        } else {
            self.lock_contended(lock, worker)
        }
    }

    #[cold]
    fn lock_contended(&self, lock: usize, worker: usize) -> Result<(), AccessError> {
        let _uncancelled = Uncancelled::begin();
        let locks = &self.tables.locks;
        let word = locks.word(lock);
        for _ in 0..MAX_SPINS {
            if word.load(Ordering::Relaxed) == 0 && locks.try_take(lock, worker) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let (mut detector, deadline) = (StallDetector::default(), self.deadline_of(worker));
        let (mut left, mut last_wait) = (deadline.left(), None);
        loop {
            let found = word.load(Ordering::Relaxed);
            if found == 0 {
                // Other contenders may still sleep: take it as contended, so that its release wakes
                // the next one.
                let taken = owned_by(worker) | CONTENDED;
                if word
                    .compare_exchange(0, taken, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    return Ok(());
                }
                continue;
            }
            // Checked only after at least one sleep, so that a dead owner is repaired however short
            // the deadline is.
            if let Some(wait) = last_wait
                && left.is_zero()
            {
                if wait == Wait::Posted {
                    // This post was meant for a contender that still waits: pass it on.
                    self.semaphores[lock].post_once();
                }
                return Err(AccessError::DeadlinePassed(Awaited::Pages {
                    pid: owner(found).map_or(0, |owner| self.pid_of(owner)),
                }));
            }
            if found & CONTENDED == 0 {
                if word
                    .compare_exchange(
                        found,
                        found | CONTENDED,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    )
                    .is_err()
                {
                    continue;
                }
                // Only a release clears the bit, so this is another critical section than the last
                // one observed.
                detector = StallDetector::default();
            }
            let wait = self.semaphores[lock].wait(POLL_INTERVAL.min(left));
            (left, last_wait) = (deadline.left(), Some(wait));
            // A waiter counts as running: a chain of waiters waits for the owner at the end of the
            // chain.
            self.count_progress(worker);
            if wait == Wait::Posted {
                // It was released, perhaps by an owner of a version that does not count its
                // progress.
                detector = StallDetector::default();
                owner(found)
                    .into_iter()
                    .for_each(|owner| self.forget_stall(owner));
                continue;
            }
            let now = word.load(Ordering::Relaxed);
            if now & CONTENDED == 0 {
                continue;
            }
            let Some(owner) = owner(now).filter(|owner| *owner < WORKERS && *owner != worker)
            else {
                // The word names no worker, or this very worker, which waits here: no live worker
                // owns the lock.
                let _ = word.compare_exchange(now, 0, Ordering::Relaxed, Ordering::Relaxed);
                continue;
            };
            self.repair_if_dead(owner);
            let section = self.critical_section_of(owner);
            if self.is_known_stall(section) || detector.observe(section, Instant::now()) {
                self.remember_stall(section);
                return Err(AccessError::PageLockTimeout {
                    pid: self.pid_of(owner),
                });
            }
        }
    }

    /// Releases a lock that `worker` owns.
    #[inline]
    pub(super) fn unlock(&self, lock: usize, worker: usize) {
        if self.tables.locks.release(lock) {
            self.wake(lock, worker);
        }
    }

    #[cold]
    fn wake(&self, lock: usize, worker: usize) {
        // Counted before the worker can own this lock again: to all waiters its next critical
        // section differs from this one.
        self.count_progress(worker);
        self.semaphores[lock].post_once();
    }

    /// The critical section that a worker is in now, if it is in one.
    fn critical_section_of(&self, worker: usize) -> CriticalSection {
        CriticalSection {
            worker,
            progress: self.tables.intents.progress(worker).load(Ordering::Relaxed),
        }
    }

    /// Records that `worker`, a thread of the caller or a dead one, makes progress. Only one thread
    /// does so at a time.
    #[cold]
    pub(super) fn count_progress(&self, worker: usize) {
        let progress = self.tables.intents.progress(worker);
        progress.store(
            progress.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
    }

    /// Whether a thread of this process has timed out on this very section. Without this check each
    /// request for such a page would block a thread of the server for a second, and there are more
    /// connections than threads.
    fn is_known_stall(&self, section: CriticalSection) -> bool {
        self.stalls[section.worker].load(Ordering::Relaxed) == section.progress.wrapping_add(1)
    }

    fn remember_stall(&self, section: CriticalSection) {
        self.stalls[section.worker].store(section.progress.wrapping_add(1), Ordering::Relaxed);
    }

    fn forget_stall(&self, worker: usize) {
        if let Some(stall) = self.stalls.get(worker) {
            stall.store(0, Ordering::Relaxed);
        }
    }

    /// Releases every lock that the dead `worker` owns, and returns their number. Only its repairer
    /// calls this, after the redo.
    pub(super) fn unlock_all_of(&self, worker: usize) -> usize {
        let mut owned = 0;
        for lock in self.tables.locks.owned(worker) {
            self.tables.locks.release(lock);
            self.semaphores[lock].post_once();
            owned += 1;
        }
        // Another thread may become this worker.
        self.count_progress(worker);
        owned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(25);

    #[test]
    fn an_owner_has_stalled_after_a_second_in_one_section() {
        let (mut detector, began) = (StallDetector::default(), Instant::now());
        let section = CriticalSection {
            worker: 3,
            progress: 7,
        };
        let first = (0..100).find(|step| detector.observe(section, began + *step * STEP));
        assert_eq!(first, Some(40));
    }

    #[test]
    fn an_owner_that_makes_progress_never_stalls() {
        let (mut detector, began) = (StallDetector::default(), Instant::now());
        for step in 0..400 {
            let section = CriticalSection {
                worker: 3,
                progress: u64::from(step / 39),
            };
            assert!(
                !detector.observe(section, began + step * STEP),
                "in step {step}"
            );
        }
    }

    #[test]
    fn a_waiter_that_did_not_run_has_seen_no_stall() {
        let (mut detector, began) = (StallDetector::default(), Instant::now());
        let section = CriticalSection {
            worker: 3,
            progress: 7,
        };
        assert!(!detector.observe(section, began));
        let after_a_pause = began + 60 * STALL_TIMEOUT;
        assert!((1..MIN_OBSERVATIONS).all(|_| !detector.observe(section, after_a_pause)));
        assert!(detector.observe(section, after_a_pause));
    }
}
