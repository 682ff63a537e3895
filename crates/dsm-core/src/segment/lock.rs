//! Locks between processes: a word that says who owns it, and a semaphore on which contenders
//! sleep.
//!
//! A POSIX semaphore does not say who holds it, and is not given back when its holder dies. So the
//! word decides: whoever swaps it from zero to its own worker number owns the lock, and there is no
//! instant at which a death leaves the owner unknown. The semaphore only carries sleep: a contender
//! sets the word's high bit, the owner posts when it gives the lock back and finds that bit. A post
//! that is lost with its receiver costs others one [`NAP`], never more.

use super::gate::{Awaited, Shut};
use super::geometry::{Geometry, WORKERS};
use super::shared::Shared;
use crate::sys::cancellation::Uncancelled;
use crate::sys::semaphore::Wait;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The bit of the word that says that somebody sleeps, or may.
const CONTENDED: u64 = 1 << 63;

/// Looks at a taken lock before sleeping: a critical section of a few hundred nanoseconds is often
/// over by then.
const SPINS: u32 = 100;

/// The longest sleep before a contender looks whether the owner is still alive.
const NAP: Duration = Duration::from_millis(20);

/// How long an owner is waited for that is alive and makes no progress: longer than one takes that
/// only gets little of the processors. A waiter for one that was stopped must not wait as long as
/// that lasts.
const STALL: Duration = Duration::from_secs(1);

/// Looks at an owner in that time, at least: a waiter that did not run either, because its machine
/// was paused or all processors were busy, has not seen a stall.
const LOOKS: u32 = 10;

/// The word's value for a lock owned by `worker`.
fn owned_by(worker: usize) -> u64 {
    worker as u64 + 1
}

/// Which worker a word's value names; `None` when the lock is free.
pub(super) fn owner(word: u64) -> Option<usize> {
    // Values that no worker wrote are possible only if memory was overwritten; they name no worker
    // either.
    usize::try_from(word & !CONTENDED).ok()?.checked_sub(1)
}

/// A critical section that a waiter has found a lock in: by which worker, and what that had counted
/// as its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Section {
    worker: usize,
    progress: u64,
}

/// What a waiter has seen of the owner that it waits for.
#[derive(Debug, Default)]
struct Watch(Option<(Section, Instant, u32)>);

impl Watch {
    /// Notes that `section` has the lock now. `true` when it has had it for so long that its worker
    /// has stalled.
    fn look(&mut self, section: Section, now: Instant) -> bool {
        match &mut self.0 {
            Some((same, since, looks)) if *same == section => {
                *looks += 1;
                *looks >= LOOKS && now.saturating_duration_since(*since) >= STALL
            }
            watched => {
                *watched = Some((section, now, 0));
                false
            }
        }
    }
}

impl Shared {
    /// Takes the lock if it is free.
    #[inline]
    pub(super) fn try_lock(&self, lock: usize, worker: usize) -> bool {
        let word = self.mapping.word(Geometry::lock(lock));
        word.compare_exchange(0, owned_by(worker), Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes the lock, sleeping while somebody alive has it, and repairing whoever died with it.
    ///
    /// # Errors
    /// [`Shut::Held`] when its owner is alive and makes no progress, [`Shut::Late`] when the
    /// worker's deadline passes before.
    #[inline]
    pub(super) fn lock(&self, lock: usize, worker: usize) -> Result<(), Shut> {
        if self.try_lock(lock, worker) {
            Ok(())
        } else {
            self.lock_contended(lock, worker)
        }
    }

    #[cold]
    fn lock_contended(&self, lock: usize, worker: usize) -> Result<(), Shut> {
        let _uncancelled = Uncancelled::begin();
        let word = self.mapping.word(Geometry::lock(lock));
        for _ in 0..SPINS {
            if word.load(Ordering::Relaxed) == 0 && self.try_lock(lock, worker) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let (mut watch, deadline) = (Watch::default(), self.deadline_of(worker));
        let (mut left, mut last_wait) = (deadline.left(), None);
        loop {
            let found = word.load(Ordering::Relaxed);
            if found == 0 {
                // Others may sleep still: take it as contended, so that giving it back wakes the
                // next.
                let taken = owned_by(worker) | CONTENDED;
                if word
                    .compare_exchange(0, taken, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    return Ok(());
                }
                continue;
            }
            // Not before an owner that has died was looked for, however short the time is.
            if let Some(wait) = last_wait
                && left.is_zero()
            {
                if wait == Wait::Posted {
                    // Meant for one that waits.
                    self.semaphores[lock].post_once();
                }
                return Err(Shut::Late(Awaited::Pages {
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
                // Only giving it back takes the bit away: this is another critical section than the
                // one before.
                watch = Watch::default();
            }
            let wait = self.semaphores[lock].wait(NAP.min(left));
            (left, last_wait) = (deadline.left(), Some(wait));
            // A waiter runs: one that wants what it holds waits for the owner at the end of the
            // chain.
            self.count_progress(worker);
            if wait == Wait::Posted {
                // It was given back, perhaps by an owner of a version that does not count its
                // progress.
                watch = Watch::default();
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
                // No worker that has written this thinks that it holds the lock: it names none, or
                // the one that waits here.
                let _ = word.compare_exchange(now, 0, Ordering::Relaxed, Ordering::Relaxed);
                continue;
            };
            self.repair_if_dead(owner);
            let section = self.section_of(owner);
            if self.is_known_stall(section) || watch.look(section, Instant::now()) {
                self.remember_stall(section);
                return Err(Shut::Held {
                    pid: self.pid_of(owner),
                });
            }
        }
    }

    /// Gives back a lock that `worker` owns.
    #[inline]
    pub(super) fn unlock(&self, lock: usize, worker: usize) {
        if self
            .mapping
            .word(Geometry::lock(lock))
            .swap(0, Ordering::Release)
            & CONTENDED
            != 0
        {
            self.wake(lock, worker);
        }
    }

    #[cold]
    fn wake(&self, lock: usize, worker: usize) {
        // Before it can own this lock again: its next critical section is another one for all that
        // wait.
        self.count_progress(worker);
        self.semaphores[lock].post_once();
    }

    /// The critical section that a worker is in, if it is in one.
    fn section_of(&self, worker: usize) -> Section {
        Section {
            worker,
            progress: self.progress(worker).load(Ordering::Relaxed),
        }
    }

    /// Notes that `worker`, a thread of the caller or a dead one, runs. Only one thread does so at
    /// a time.
    #[cold]
    pub(super) fn count_progress(&self, worker: usize) {
        let progress = self.progress(worker);
        progress.store(
            progress.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
    }

    /// Whether a thread of this process has waited for this very section in vain. Without this each
    /// request for such a page would take a thread of the server for a second, and there are more
    /// connections than threads.
    fn is_known_stall(&self, section: Section) -> bool {
        self.stalls[section.worker].load(Ordering::Relaxed) == section.progress.wrapping_add(1)
    }

    fn remember_stall(&self, section: Section) {
        self.stalls[section.worker].store(section.progress.wrapping_add(1), Ordering::Relaxed);
    }

    fn forget_stall(&self, worker: usize) {
        if let Some(stall) = self.stalls.get(worker) {
            stall.store(0, Ordering::Relaxed);
        }
    }

    /// Gives back every lock that the dead `worker` owns, and says how many. Only its repairer
    /// calls this, after the redo.
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
        let (mut watch, began) = (Watch::default(), Instant::now());
        let section = Section {
            worker: 3,
            progress: 7,
        };
        let first = (0..100).find(|step| watch.look(section, began + *step * STEP));
        assert_eq!(first, Some(40));
    }

    #[test]
    fn an_owner_that_makes_progress_never_stalls() {
        let (mut watch, began) = (Watch::default(), Instant::now());
        for step in 0..400 {
            let section = Section {
                worker: 3,
                progress: u64::from(step / 39),
            };
            assert!(!watch.look(section, began + step * STEP), "in step {step}");
        }
    }

    #[test]
    fn a_waiter_that_did_not_run_has_seen_no_stall() {
        let (mut watch, began) = (Watch::default(), Instant::now());
        let section = Section {
            worker: 3,
            progress: 7,
        };
        assert!(!watch.look(section, began));
        let after_a_pause = began + 60 * STALL;
        assert!((1..LOOKS).all(|_| !watch.look(section, after_a_pause)));
        assert!(watch.look(section, after_a_pause));
    }
}
