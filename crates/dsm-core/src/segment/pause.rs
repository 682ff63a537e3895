//! The pause between two freezes: however often agents are asked for one, writers are kept out of a
//! segment for at most one part in [`SHARE`] of the time.
//!
//! It is kept in the segment, so that neither another connection nor another agent begins anew;
//! only who has the claim looks at it and changes it. A freeze whose maker dies counts as one of
//! the longest time that it could take.

use super::shared::Shared;
use super::superblock::Field;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Of so many parts of the time writers are kept out for one at most: a program that writes loses a
/// tenth to a peer that freezes as often as it can. Snapshots that follow each other, with freezes
/// of a millisecond, do not have to wait.
const SHARE: u64 = 10;

/// The longest pause: what follows the longest time for which [`super::Frozen::shut`] leaves the
/// memory unchanged, a minute, with something to spare. A later time in the segment is that of
/// another clock, or of a damaged word.
const LONGEST: Duration = Duration::from_secs(10 * 60);

impl Shared {
    /// Notes that writers are kept out from now on, for at most `lease`. Returns until when that
    /// is, in ns of [`crate::sys::clock::MachineClock`].
    pub(super) fn freezes(&self, lease: Duration) -> u64 {
        let now = self.clock.now();
        let lease = nanoseconds(lease);
        Field::FrozenAt
            .of(&self.mapping)
            .store(now, Ordering::Relaxed);
        self.rest(now, lease);
        now.saturating_add(lease)
    }

    /// Notes that they are not kept out any more: since `until`, if that is over.
    pub(super) fn thawed(&self, until: u64) {
        let now = self.clock.now();
        // Not later than now: an agent of an older version wrote it by the clock of its time
        // namespace.
        let frozen = Field::FrozenAt
            .of(&self.mapping)
            .load(Ordering::Relaxed)
            .min(now);
        self.rest(frozen, now.min(until).saturating_sub(frozen));
    }

    /// How long writers shall be left alone from now on.
    pub(super) fn pause(&self) -> Duration {
        let next = Field::NextFreeze.of(&self.mapping).load(Ordering::Relaxed);
        Duration::from_nanos(next.saturating_sub(self.clock.now())).min(LONGEST)
    }

    /// The next freeze comes `SHARE` times as long as this one lasted after it has begun.
    fn rest(&self, begun: u64, lasted: u64) {
        let next = begun.saturating_add(lasted.saturating_mul(SHARE));
        Field::NextFreeze
            .of(&self.mapping)
            .store(next, Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
