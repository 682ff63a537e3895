//! Repair of workers without an owner that still hold locks, and perhaps a committed change.
//!
//! This version leaves none ([`super::critical`]). In older versions a thread that was unwound out
//! of a change released its worker with everything that it held. The process lived on, so no lock
//! of the kernel told the others.

use super::attachment::SegmentAttachment;
use super::critical::Critical;
use super::geometry::WORKERS;

impl SegmentAttachment {
    /// Repairs every worker without an owner.
    pub(super) fn repair_all_orphans(&self) {
        (0..WORKERS).for_each(|worker| self.repair_if_orphaned(worker));
    }

    /// Repairs `worker` if it has no owner.
    #[cold]
    pub(super) fn repair_if_orphaned(&self, worker: usize) {
        if worker >= WORKERS || !self.has_leftovers(worker) {
            return;
        }
        // Take ownership first: no other thread can take this worker then, so all of its locks are
        // left over; and if this process dies, the worker is repaired together with the process.
        if self.tables.intents.take(worker, self.participant) {
            let critical = Critical::begin();
            self.repair_adopted(worker);
            self.tables.intents.free(worker);
            critical.end();
        }
    }

    /// Repairs `worker`, which the caller has just taken, if its previous owner left something.
    pub(super) fn repair_adopted(&self, worker: usize) {
        if self.has_leftovers(worker) {
            let (redone, locks) = self.repair_worker(worker);
            log::warn!(
                "repaired worker {worker} of {}, whose thread was unwound out of a change: {locks} locks \
                 released, {redone} committed writes redone",
                self.name
            );
        }
    }

    fn has_leftovers(&self, worker: usize) -> bool {
        self.tables.intents.is_committed(worker) || self.tables.locks.owned(worker).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::geometry::LARGE_SLOTS;
    use super::super::intent::{Intent, Source};
    use super::super::test_memory::{K, UnitTestMemory};
    use super::super::{AccessError, Segment, Worker};
    use super::*;
    use crate::layout::PAGE;
    use crate::protocol::Extent;
    use std::sync::atomic::Ordering;

    fn first_page() -> Extent {
        Extent::new(0, PAGE, K).unwrap()
    }

    /// Leaves what an older version left of a worker that was unwound after its commit, in the
    /// middle of its copy.
    fn leave_behind(segment: &Segment, worker: usize) {
        let attachment = &segment.attachment;
        let tables = &attachment.tables;
        assert!(tables.locks.try_take(LARGE_SLOTS, worker));
        let length = first_page().length();
        Intent {
            source: Source::Byte(7),
            offset: 0,
            length,
            request: None,
            result: 0,
        }
        .commit(&tables.intents, worker);
        tables.pages.version(0).fetch_or(1, Ordering::Relaxed);
        tables.data.fill(0, length / 2, 7);
        assert_eq!(tables.intents.owner(worker), None);
    }

    fn assert_whole(worker: &mut Worker) {
        let mut found = vec![0; first_page().length()];
        worker.read(first_page(), &mut found).unwrap();
        assert!(
            found.iter().all(|byte| *byte == 7),
            "half a write: {}, {}",
            found[0],
            found[found.len() - 1]
        );
        worker.fill(first_page(), 1, None).unwrap();
    }

    #[test]
    fn a_lock_without_an_owner_is_repaired_by_a_waiter() {
        let memory = UnitTestMemory::new("orphan-waiter");
        let segment = memory.serve();
        leave_behind(&segment, 60);
        assert_whole(&mut segment.worker().unwrap());
    }

    #[test]
    fn a_lock_without_an_owner_is_repaired_by_a_starting_server() {
        let memory = UnitTestMemory::new("orphan-start");
        let segment = memory.serve();
        leave_behind(&segment, 60);
        drop(segment);
        let segment = memory.serve();
        assert!(
            segment.attachment.tables.locks.try_take(LARGE_SLOTS, 1),
            "the lock is still held"
        );
        segment.attachment.unlock(LARGE_SLOTS, 1);
        assert_whole(&mut segment.worker().unwrap());
    }

    #[test]
    fn a_lock_without_an_owner_is_repaired_by_the_next_owner_of_its_worker() {
        let memory = UnitTestMemory::new("orphan-successor");
        let segment = memory.serve();
        leave_behind(&segment, 0);
        let mut worker = segment.worker().unwrap();
        assert_eq!(worker.index(), 0);
        assert_whole(&mut worker);
    }

    #[test]
    fn a_lock_that_names_no_worker_is_free() {
        let memory = UnitTestMemory::new("orphan-no-worker");
        let segment = memory.serve();
        for word in [WORKERS as u64 + 1, 1 << 63, u64::MAX] {
            segment
                .attachment
                .tables
                .locks
                .word(LARGE_SLOTS)
                .store(word, Ordering::Relaxed);
            segment
                .worker()
                .unwrap()
                .fill(first_page(), 1, None)
                .unwrap();
        }
    }

    #[test]
    fn an_unknown_process_is_not_shown_with_pid_zero() {
        assert!(
            !AccessError::PageLockTimeout { pid: 0 }
                .to_string()
                .contains('0')
        );
        assert!(
            AccessError::PageLockTimeout { pid: 12 }
                .to_string()
                .contains("process 12 ")
        );
    }
}
