//! The deadline of a worker: when it stops waiting for others.

use super::attachment::SegmentAttachment;
use crate::sys::clock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How far the coarse clock may be behind: one tick of a kernel with 100 ticks per second, the
/// fewest that exist. It is added to each deadline, so that no wait ends early.
const COARSE_CLOCK_TICK: u64 = 10_000_000;

/// An instant up to which a worker waits. It is checked only when the worker has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(
    /// In ns of `CLOCK_MONOTONIC`.
    u64,
);

impl Deadline {
    /// No deadline: the worker waits as long as it takes.
    pub const NEVER: Self = Self(u64::MAX);

    /// The deadline of a call that began at `now`, by [`clock::coarse`], and may take `timeout`,
    /// both in ns. A timeout is at most some years.
    #[inline]
    #[must_use]
    pub fn after(now: u64, timeout: u64) -> Self {
        Self(now + timeout + COARSE_CLOCK_TICK)
    }

    /// The time left; zero when the deadline has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        if self == Self::NEVER {
            Duration::MAX
        } else {
            Duration::from_nanos(self.0.saturating_sub(clock::now()))
        }
    }

    /// The timeout, in ns, from which [`Deadline::after`] makes the same deadline now. It uses the
    /// same clock, so that a deadline that is converted repeatedly does not move.
    #[must_use]
    pub fn timeout(self) -> u64 {
        self.0
            .saturating_sub(clock::coarse())
            .saturating_sub(COARSE_CLOCK_TICK)
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }

    /// The same instant by the clock of the standard library; not for [`Deadline::NEVER`].
    #[must_use]
    pub fn instant(self) -> Instant {
        Instant::now() + self.left()
    }
}

impl SegmentAttachment {
    /// The deadline of a worker of this process.
    pub(super) fn deadline_of(&self, worker: usize) -> Deadline {
        Deadline(self.deadlines[worker].load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn set_deadline(&self, worker: usize, deadline: Deadline) {
        self.deadlines[worker].store(deadline.0, Ordering::Relaxed);
    }
}
