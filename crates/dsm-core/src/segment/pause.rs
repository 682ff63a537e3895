//! The pause between two freezes: however often agents are asked for a freeze, writers are kept out
//! of a segment for at most one part in [`PERIOD_FACTOR`] of the time.
//!
//! It is stored in the segment, so that neither another connection nor another agent starts anew.
//! Only the holder of the snapshot lock reads and changes it. A freeze whose process dies counts
//! with its full lease.

use super::attachment::SegmentAttachment;
use super::superblock::Field;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Writers are kept out for at most one part in this many of the time: a program that writes loses
/// at most a tenth to a peer that freezes as often as it can. Consecutive snapshots, with freezes
/// of a millisecond, do not have to wait.
const PERIOD_FACTOR: u64 = 10;

/// The longest pause: the pause after the longest time for which [`super::Frozen::close`] leaves the
/// memory unchanged, a minute, with a margin. A later time in the segment was written by another
/// clock, or is a damaged word.
const MAX_PAUSE: Duration = Duration::from_secs(10 * 60);

impl SegmentAttachment {
    /// Records that a freeze of at most `lease` begins now. Returns its end, in ns of
    /// [`crate::sys::clock::MachineClock`].
    pub(super) fn note_frozen(&self, lease: Duration) -> u64 {
        let now = self.clock.now();
        let lease = nanoseconds(lease);
        self.tables
            .superblock
            .word(Field::FrozenAt)
            .store(now, Ordering::Relaxed);
        self.set_next_freeze(now, lease);
        now.saturating_add(lease)
    }

    /// Records that the freeze has ended: now, or at `until` if that is earlier.
    pub(super) fn note_unfrozen(&self, until: u64) {
        let now = self.clock.now();
        // At most now: an agent of an older version wrote the time by the clock of its time
        // namespace.
        let frozen = self
            .tables
            .superblock
            .word(Field::FrozenAt)
            .load(Ordering::Relaxed)
            .min(now);
        self.set_next_freeze(frozen, now.min(until).saturating_sub(frozen));
    }

    /// The time until the next freeze may begin.
    pub(super) fn pause(&self) -> Duration {
        let next = self
            .tables
            .superblock
            .word(Field::NextFreeze)
            .load(Ordering::Relaxed);
        Duration::from_nanos(next.saturating_sub(self.clock.now())).min(MAX_PAUSE)
    }

    /// The next freeze begins at least `PERIOD_FACTOR` times as long after the beginning of this one as
    /// this one lasted.
    fn set_next_freeze(&self, begun: u64, lasted: u64) {
        let next = begun.saturating_add(lasted.saturating_mul(PERIOD_FACTOR));
        self.tables
            .superblock
            .word(Field::NextFreeze)
            .store(next, Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
