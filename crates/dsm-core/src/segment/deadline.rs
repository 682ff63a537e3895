//! When a worker stops waiting for others.

use crate::sys::clock;
use std::time::{Duration, Instant};

/// How far the clock that is cheap to read may be behind: one tick of a kernel with 100 of them in a second, the fewest that
/// there are. It is added, so that no wait ends before its time.
const TICK: u64 = 10_000_000;

/// An instant up to which a worker waits. It is looked at only where there is something to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(
    /// In ns of `CLOCK_MONOTONIC`.
    u64,
);

impl Deadline {
    /// That of a worker which waits as long as it takes.
    pub const NEVER: Self = Self(u64::MAX);

    /// That of a call which began at `now`, by [`clock::coarse`], and may take `timeout`.
    #[inline]
    #[must_use]
    pub fn after(now: u64, timeout: Duration) -> Self {
        // Timeouts are at most a year.
        #[allow(clippy::cast_possible_truncation)]
        let timeout = timeout.as_nanos() as u64;
        Self(now.saturating_add(timeout).saturating_add(TICK))
    }

    /// The time until then; zero when it has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        if self == Self::NEVER { Duration::MAX } else { Duration::from_nanos(self.0.saturating_sub(clock::now())) }
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
