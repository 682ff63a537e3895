//! When a worker stops waiting for others.

use super::shared::Shared;
use crate::sys::clock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How far the clock that is cheap to read may be behind: one tick of a kernel with 100 of them in
/// a second, the fewest that there are. It is added, so that no wait ends before its time.
const TICK: u64 = 10_000_000;

/// An instant up to which a worker waits. It is looked at only where there is something to wait
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(
    /// In ns of `CLOCK_MONOTONIC`.
    u64,
);

impl Deadline {
    /// That of a worker which waits as long as it takes.
    pub const NEVER: Self = Self(u64::MAX);

    /// That of a call which began at `now`, by [`clock::coarse`], and may take `timeout`, in ns, of
    /// at most some years.
    #[inline]
    #[must_use]
    pub fn after(now: u64, timeout: u64) -> Self {
        Self(now + timeout + TICK)
    }

    /// The time until then; zero when it has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        if self == Self::NEVER {
            Duration::MAX
        } else {
            Duration::from_nanos(self.0.saturating_sub(clock::now()))
        }
    }

    /// The timeout, in ns, of which [`Deadline::after`] makes this again now. By the same clock: a
    /// deadline that is taken up again and again must not move.
    #[must_use]
    pub fn timeout(self) -> u64 {
        self.0.saturating_sub(clock::coarse()).saturating_sub(TICK)
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }

    /// The same by the clock of the standard library; not for [`Deadline::NEVER`].
    #[must_use]
    pub fn instant(self) -> Instant {
        Instant::now() + self.left()
    }
}

impl Shared {
    /// Until when a worker of this process waits for others.
    pub(super) fn deadline_of(&self, worker: usize) -> Deadline {
        Deadline(self.deadlines[worker].load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn set_deadline(&self, worker: usize, deadline: Deadline) {
        self.deadlines[worker].store(deadline.0, Ordering::Relaxed);
    }
}
