//! The gate: one word that says whether writers may enter, and for which cut they save pages.
//!
//! Every writer checks the gate while it holds its stripes. So a process that closes the gate and
//! then locks and unlocks each stripe once knows that no writer is inside, without holding a lock
//! itself. If the process that froze the memory dies or is stopped, the first writer that finds the
//! freeze expired ends it.
//!
//! ```text
//! bits 62 and 63   the rest
//! 0  open          0
//! 1  open, a cut   the number of the cut
//! 2  frozen        until this instant, in ns of the machine's clock
//! 3  closed        1: the memory was lost; 2: it is being restored; 3: it will be, and nothing was changed yet
//! ```
//!
//! Readers check the gate after their copy, and only for whether it is closed: a freeze or a cut
//! does not stop them.
//!
//! A gate in state 3 with value 3 still has its old contents. A process that finds this while it
//! holds the snapshot lock knows that the restore has ended without a change, and opens the gate:
//! see [`SegmentAttachment::open_unchanged`]. Programs that do not know the value 3 treat it as 2.

use super::Segment;
use super::attachment::SegmentAttachment;
use super::superblock::{Field, Superblock};
use crate::sys::cancellation::Uncancelled;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// The longest sleep at a frozen gate. The process that ends a freeze wakes the sleepers, unless it
/// dies in between.
const MAX_SLEEP: Duration = Duration::from_millis(5);

/// Longer than any freeze: mcomp.cfg allows 10 seconds. A freeze that seems to last longer was
/// timed by another clock, perhaps in a time namespace by a process without /proc, and counts as
/// expired.
const MAX_FREEZE: Duration = Duration::from_secs(60);

const KIND_SHIFT: u32 = 62;
const VALUE_MASK: u64 = (1 << KIND_SHIFT) - 1;

/// Why an operation on the memory was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The memory was lost, and it is not decided yet whether it starts as zeros or is restored.
    #[error("waiting for restore: its memory was lost, and mcomp.cfg says to wait")]
    Waiting,
    /// The memory is being restored, or a restore was interrupted.
    #[error("waiting for restore: a snapshot is being put back into its memory")]
    Restoring,
    /// Its server does not admit local clients, or not those of this layout.
    #[error("its server does not let local clients work on it")]
    LocalAccessDenied,
    /// The memory has another incarnation than the worker expected.
    #[error("its memory was replaced by that of a snapshot")]
    Replaced,
    /// A live process has held the pages for a second without progress: it was stopped, most
    /// likely.
    #[error("{} holds its pages and makes no progress", process(*pid))]
    PageLockTimeout {
        /// Its pid; zero when it is unknown.
        pid: u64,
    },
    /// A snapshot keeps changes out. Only of a worker that does not wait for that, see
    /// [`Worker::set_waits_for_freezes`](super::Worker::set_waits_for_freezes).
    #[error("a snapshot keeps changes out")]
    Frozen,
    /// The worker's deadline passed before the operation could begin.
    #[error("{0} until the deadline")]
    DeadlinePassed(Awaited),
}

/// What a worker waited for when its deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Awaited {
    /// The pages, or the large slots, which other changes hold.
    #[error("{} held its pages", process(*pid))]
    Pages {
        /// The pid of the process that held them last; zero when it is unknown.
        pid: u64,
    },
    /// The end of a freeze.
    #[error("a snapshot kept changes out")]
    Freeze,
    /// Room in the copy area for the pages as they were at the cut.
    #[error("the agent allocated no room for the pages that a snapshot still needs")]
    CopyArea,
    /// The end of the earlier parts of a long request.
    #[error("the earlier parts of the request took the time")]
    Parts,
}

fn process(pid: u64) -> String {
    if pid == 0 {
        "an unknown process".into()
    } else {
        format!("process {pid}")
    }
}

/// The states of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Open, with the cut of this number, in 32 bits.
    Cut(u32),
    /// Frozen until this instant, in ns of the machine's clock.
    Frozen(u64),
    Closed(AccessError),
    /// Closed for a restore that has changed nothing yet.
    Unchanged,
}

impl Gate {
    pub(super) fn encode(self) -> u64 {
        match self {
            Self::Open => 0,
            Self::Cut(number) => 1 << KIND_SHIFT | u64::from(number),
            Self::Frozen(until) => 2 << KIND_SHIFT | until & VALUE_MASK,
            Self::Closed(AccessError::Waiting) => 3 << KIND_SHIFT | 1,
            // The others are never states of the gate.
            Self::Closed(
                AccessError::Restoring
                | AccessError::LocalAccessDenied
                | AccessError::Replaced
                | AccessError::PageLockTimeout { .. }
                | AccessError::Frozen
                | AccessError::DeadlinePassed(_),
            ) => 3 << KIND_SHIFT | 2,
            Self::Unchanged => 3 << KIND_SHIFT | 3,
        }
    }

    #[allow(clippy::cast_possible_truncation)] // a cut's number has 32 bits
    pub(super) fn decode(word: u64) -> Self {
        match (word >> KIND_SHIFT, word & VALUE_MASK) {
            (0, _) => Self::Open,
            (1, number) => Self::Cut(number as u32),
            (2, until) => Self::Frozen(until),
            (_, 1) => Self::Closed(AccessError::Waiting),
            (_, 3) => Self::Unchanged,
            _ => Self::Closed(AccessError::Restoring),
        }
    }

    /// The reason why the memory can neither be read nor changed; `None` if it can.
    #[inline]
    pub(super) fn access_error(self) -> Option<AccessError> {
        match self {
            Self::Closed(error) => Some(error),
            Self::Unchanged => Some(AccessError::Restoring),
            Self::Open | Self::Cut(_) | Self::Frozen(_) => None,
        }
    }
}

/// Whether a freeze that ends at `until` has expired at `now`.
fn has_expired(until: u64, now: u64) -> bool {
    until
        .checked_sub(now)
        .is_none_or(|left| left == 0 || u128::from(left) > MAX_FREEZE.as_nanos())
}

impl Superblock {
    #[inline]
    pub(super) fn gate(&self) -> Gate {
        Gate::decode(self.word(Field::Gate).load(Ordering::Acquire))
    }

    pub(super) fn set_gate(&self, gate: Gate) {
        self.word(Field::Gate)
            .store(gate.encode(), Ordering::Release);
    }

    /// Changes the gate from one state to another; `false` when it is not in the state `from` any
    /// more. Wakes those who sleep if this ends a freeze.
    pub(super) fn change_gate(&self, from: Gate, to: Gate) -> bool {
        let is_changed = self
            .word(Field::Gate)
            .compare_exchange(
                from.encode(),
                to.encode(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok();
        if is_changed && matches!(from, Gate::Frozen(_)) {
            self.wake_waiters(Field::Gate);
        }
        is_changed
    }

    /// Passes the gate for a writer that holds its stripes. Returns the number of the cut for which
    /// it must save pages, if there is one. `permission` is what a local client's worker needs,
    /// zero for others.
    ///
    /// # Errors
    /// Why the writer may not change the memory, or not yet.
    #[inline]
    pub(super) fn pass(
        &self,
        incarnation: u64,
        permission: u64,
    ) -> Result<Option<u32>, AccessError> {
        let cut = match self.gate() {
            Gate::Open => None,
            Gate::Cut(number) => Some(number),
            Gate::Frozen(_) => return Err(AccessError::Frozen),
            Gate::Closed(error) => return Err(error),
            Gate::Unchanged => return Err(AccessError::Restoring),
        };
        self.check_worker(incarnation, permission).map(|()| cut)
    }

    /// Checks that what a reader has copied belongs to the incarnation that it expected. Call it
    /// after the copy.
    #[inline]
    pub(super) fn check_reader(
        &self,
        incarnation: u64,
        permission: u64,
    ) -> Result<(), AccessError> {
        fence(Ordering::Acquire);
        match self.gate().access_error() {
            Some(error) => Err(error),
            None => self.check_worker(incarnation, permission),
        }
    }

    #[inline]
    fn check_worker(&self, incarnation: u64, permission: u64) -> Result<(), AccessError> {
        if permission != 0 && self.word(Field::LocalAccess).load(Ordering::Acquire) != permission {
            return Err(AccessError::LocalAccessDenied);
        }
        if self.incarnation() == incarnation {
            Ok(())
        } else {
            Err(AccessError::Replaced)
        }
    }
}

impl SegmentAttachment {
    /// How long the gate may stay frozen; `None` when it is not. Ends a freeze that has expired.
    fn frozen_for(&self) -> Option<(Gate, Duration)> {
        let superblock = &self.tables.superblock;
        let gate = superblock.gate();
        let Gate::Frozen(until) = gate else {
            return None;
        };
        let now = self.clock.now();
        if !has_expired(until, now) {
            return Some((gate, Duration::from_nanos(until - now)));
        }
        if superblock.change_gate(gate, Gate::Open) {
            log::error!(
                "{}: the process that froze it for a snapshot did not unfreeze it in time: writers \
                 continue, and the snapshot fails. Raise snapshot.freeze_timeout in mcomp.cfg if this \
                 happens often",
                self.name
            );
        }
        None
    }

    /// Sleeps at the gate while it is frozen, for at most `limit` and [`MAX_SLEEP`].
    fn sleep_while_frozen(&self, gate: Gate, limit: Duration) {
        let limit = limit.min(MAX_SLEEP);
        self.tables
            .superblock
            .wait(Field::Gate, gate.encode(), limit);
    }

    /// Waits until the gate is not frozen any more, or the freeze has expired. `worker` holds no
    /// lock.
    ///
    /// # Errors
    /// [`AccessError::DeadlinePassed`] when the deadline of `worker` passes first.
    #[cold]
    pub(super) fn wait_while_frozen(&self, worker: usize) -> Result<(), AccessError> {
        let _uncancelled = Uncancelled::begin();
        while let Some((gate, lasts)) = self.frozen_for() {
            let deadline = self.deadline_of(worker);
            if deadline.has_passed() {
                return Err(AccessError::DeadlinePassed(Awaited::Freeze));
            }
            self.sleep_while_frozen(gate, lasts.min(deadline.left()));
            self.count_progress(worker);
        }
        Ok(())
    }
}

impl Segment {
    /// Waits for the end of a freeze, for at most `limit`. Returns at once when the memory is not
    /// frozen.
    pub fn wait_while_frozen(&self, limit: Duration) {
        let began = Instant::now();
        while let Some(left) = limit.checked_sub(began.elapsed())
            && let Some((gate, lasts)) = self.attachment.frozen_for()
        {
            self.attachment.sleep_while_frozen(gate, lasts.min(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::MachineClock;

    #[test]
    fn a_gate_that_was_written_is_read_back() {
        let frozen = Gate::Frozen(MachineClock::of_process().now());
        for gate in [
            Gate::Open,
            Gate::Cut(1),
            Gate::Cut(u32::MAX),
            frozen,
            Gate::Closed(AccessError::Waiting),
            Gate::Unchanged,
        ] {
            assert_eq!(Gate::decode(gate.encode()), gate);
        }
        assert_eq!(
            Gate::decode(Gate::Closed(AccessError::Restoring).encode()),
            Gate::Closed(AccessError::Restoring)
        );
    }
    #[test]
    fn a_freeze_ends_in_time_and_one_that_cannot_be_at_once() {
        let longest = u64::try_from(MAX_FREEZE.as_nanos()).unwrap();
        assert!(!has_expired(1_001, 1_000) && !has_expired(1_000 + longest, 1_000));
        assert!(
            has_expired(1_000, 1_000)
                && has_expired(999, 1_000)
                && has_expired(1_001 + longest, 1_000)
        );
    }
}
