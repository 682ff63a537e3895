//! The critical section of a worker: what it locks, checks and commits around a change.
//!
//! Every change takes the same steps, in this order: a large slot if it needs one, the stripes of
//! its pages in ascending order, the gate, the copies that a cut still needs, the intent. An error
//! before the commit releases everything, and nothing was changed.

use super::crash::{self, Point};
use super::critical::HeldLocks;
use super::gate::{AccessError, Awaited};
use super::geometry::{LARGE_SLOTS, SLOT, bits, stripes};
use super::intent::{Intent, Source};
use super::page_version::{LOCKED, WRITE_LOCKED};
use super::slot_table::SlotTable;
use super::worker::Worker;
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long a worker waits for a page that a flag locks: as long as for a worker that makes no
/// progress.
const LOCKED_PAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it sleeps between two checks of the flag.
const LOCKED_PAGE_POLL: Duration = Duration::from_micros(100);

/// Since when a worker waits for a page that a flag locks.
#[derive(Default)]
pub(super) struct LockedPageWait(Option<Instant>);

impl Worker {
    /// Takes a large slot if `length` needs one. Large slots come before stripes in the lock order.
    #[inline]
    pub(super) fn large_slot_for(
        &self,
        length: usize,
        held: &mut HeldLocks,
    ) -> Result<(), AccessError> {
        if length <= SLOT {
            return Ok(());
        }
        let free = (0..LARGE_SLOTS)
            .find(|index| self.attachment.tables.locks.try_take(*index, self.index));
        let index = free.unwrap_or(self.index % LARGE_SLOTS);
        if free.is_none() {
            self.attachment.lock(index, self.index)?;
        }
        held.large_slot = Some(index);
        Ok(())
    }

    /// Where the new bytes of a change wait, as a source and as an offset into the slots.
    #[inline]
    pub(super) fn source(&self, large_slot: Option<usize>) -> (Source, usize) {
        match large_slot {
            Some(index) => (Source::LargeSlot(index), SlotTable::large(index)),
            None => (Source::Slot, SlotTable::own(self.index)),
        }
    }

    /// Takes the stripes for a change of the pages `written`, which also reads the pages `read`, in
    /// addition to what is held, and passes the gate. Returns the number of the cut for which pages
    /// must be saved, if there is one. After an error nothing is held.
    ///
    /// # Errors
    /// [`AccessError::Frozen`] is for [`Worker::across_freezes`].
    #[inline]
    pub(super) fn enter(
        &self,
        written: &Range<usize>,
        read: &Range<usize>,
        held: &mut HeldLocks,
    ) -> Result<Option<u32>, AccessError> {
        let stripes = stripes(written) | stripes(read);
        let tables = &self.attachment.tables;
        let mut waited = LockedPageWait::default();
        loop {
            self.lock(stripes, held)?;
            if self.restoring {
                return Ok(None);
            }
            match tables.superblock.pass(self.incarnation, self.permission) {
                Ok(cut)
                    if tables.pages.are_free(written, LOCKED)
                        && tables.pages.are_free(read, WRITE_LOCKED) =>
                {
                    return Ok(cut);
                }
                Ok(_) => {
                    self.unlock_stripes(held);
                    self.unlock_on_error(self.wait_for_locked_page(&mut waited), held)?;
                }
                Err(error) => {
                    self.unlock(held);
                    return Err(error);
                }
            }
        }
    }

    /// Sleeps for a moment, because a flag keeps this worker from a page, see
    /// [`super::page_version`]. The worker holds no stripe.
    ///
    /// # Errors
    /// [`AccessError::DeadlinePassed`] when the deadline of the worker has passed, and
    /// [`AccessError::PageLockTimeout`] when it has waited for [`LOCKED_PAGE_TIMEOUT`].
    #[cold]
    pub(super) fn wait_for_locked_page(
        &self,
        waited: &mut LockedPageWait,
    ) -> Result<(), AccessError> {
        let began = *waited.0.get_or_insert_with(Instant::now);
        if self.attachment.deadline_of(self.index).has_passed() {
            return Err(AccessError::DeadlinePassed(Awaited::Pages { pid: 0 }));
        }
        if began.elapsed() >= LOCKED_PAGE_TIMEOUT {
            return Err(AccessError::PageLockTimeout { pid: 0 });
        }
        std::thread::sleep(LOCKED_PAGE_POLL);
        self.attachment.count_progress(self.index);
        Ok(())
    }

    /// Saves the pages that the change is about to overwrite and the cut still needs. After an
    /// error nothing is held.
    #[inline(always)]
    #[allow(clippy::inline_always)] // else it is a call of each change
    pub(super) fn save_for_cut(
        &self,
        pages: &Range<usize>,
        cut: Option<u32>,
        held: &mut HeldLocks,
    ) -> Result<(), AccessError> {
        match cut {
            Some(number) => self.unlock_on_error(
                self.attachment.save_for_cut(pages, number, self.index),
                held,
            ),
            None => Ok(()),
        }
    }

    #[cold]
    fn unlock_on_error(
        &self,
        outcome: Result<(), AccessError>,
        held: &mut HeldLocks,
    ) -> Result<(), AccessError> {
        if outcome.is_err() {
            self.unlock(held);
        }
        outcome
    }

    /// Takes the stripes of the mask in addition to what is held, in ascending order: all workers
    /// use this order, so no two of them can deadlock. After an error nothing is held.
    #[inline(always)]
    #[allow(clippy::inline_always)] // else it is a call of each change
    pub(super) fn lock(&self, stripes: u64, held: &mut HeldLocks) -> Result<(), AccessError> {
        for stripe in bits(stripes) {
            if let Err(error) = self.attachment.lock(LARGE_SLOTS + stripe, self.index) {
                self.unlock(held);
                return Err(error);
            }
            held.stripes |= 1 << stripe;
        }
        crash::reached(Point::Locked);
        Ok(())
    }

    #[inline]
    pub(super) fn unlock(&self, held: &mut HeldLocks) {
        self.unlock_stripes(held);
        if let Some(index) = held.large_slot {
            self.attachment.unlock(index, self.index);
            held.large_slot = None;
        }
    }

    #[inline]
    fn unlock_stripes(&self, held: &mut HeldLocks) {
        crash::reached(Point::Done);
        for stripe in bits(held.stripes) {
            self.attachment.unlock(LARGE_SLOTS + stripe, self.index);
            crash::reached(Point::HalfUnlocked);
        }
        held.stripes = 0;
    }

    /// Commits the intent, carries it out and ends it. The caller holds the stripes.
    #[inline]
    pub(super) fn carry_out(&self, intent: &Intent) {
        intent.commit(&self.attachment.tables.intents, self.index);
        crash::reached(Point::Committed);
        self.attachment.apply(self.index, intent);
        self.attachment.tables.intents.finish(self.index);
    }
}
