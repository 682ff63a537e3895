//! The page table: for each page its version, and the word that says where the page is as of the
//! latest cut.

use super::geometry::{Geometry, PAGE_ENTRY};
use super::page_version::{self, WAITED};
use crate::sys::mapping::Mapping;
use crate::sys::region::Region;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The offset of the cut word from the version.
const CUT_WORD: usize = 8;

/// See the module.
pub(super) struct PageTable(Region);

impl PageTable {
    pub(super) fn new(mapping: &Arc<Mapping>, geometry: Geometry) -> Self {
        Self(mapping.region(geometry.page_table()))
    }

    /// The version of a page, see [`super::page_version`].
    #[inline]
    pub(super) fn version(&self, page: usize) -> &AtomicU64 {
        self.0.word(page * PAGE_ENTRY)
    }

    /// Where a page is as of the latest cut, see [`super::cut`].
    #[inline]
    pub(super) fn cut_word(&self, page: usize) -> &AtomicU64 {
        self.0.word(page * PAGE_ENTRY + CUT_WORD)
    }

    /// Marks the pages as being written.
    #[inline]
    pub(super) fn begin_change(&self, pages: Range<usize>) {
        for page in pages {
            let version = self.version(page);
            // For a redo this is the value that the dead worker stored.
            version.store(
                page_version::begin(version.load(Ordering::Relaxed)),
                Ordering::Relaxed,
            );
        }
    }

    /// Marks the pages as written, since the cut of this number, and wakes those who wait for a
    /// change of them.
    #[inline]
    pub(super) fn end_change(&self, pages: Range<usize>, cut: u64) {
        for page in pages {
            let version = self.version(page);
            let old = version.load(Ordering::Relaxed);
            version.store(page_version::end(old, cut), Ordering::Release);
            if old & WAITED != 0 {
                self.wake_waiters(page);
            }
        }
    }

    /// Wakes those who wait for a change of a page.
    #[cold]
    pub(super) fn wake_waiters(&self, page: usize) {
        self.0.wake_waiters(page * PAGE_ENTRY);
    }

    /// Whether none of the pages has one of the flags.
    #[inline]
    pub(super) fn are_free(&self, pages: &Range<usize>, flags: u64) -> bool {
        pages
            .clone()
            .all(|page| self.version(page).load(Ordering::Relaxed) & flags == 0)
    }

    /// Prefetches the entry of a page, which may be outside.
    #[inline]
    pub(super) fn prefetch(&self, page: usize) {
        self.0.prefetch(page * PAGE_ENTRY);
    }
}

#[cfg(test)]
mod tests {
    use super::super::page_version::{READ_LOCKED, WAITED, WRITE_LOCKED};
    use super::super::test_memory::{K, UnitTestMemory};
    use super::super::{AccessError, Deadline, Segment, Worker};
    use super::*;
    use crate::layout::PAGE;
    use crate::protocol::{AtomicOperation, Extent, Word};
    use crate::sys::clock;
    use std::time::Duration;

    /// Longer than a worker that is let through needs, beside two busy loops.
    const AMPLE: Duration = Duration::from_secs(60);

    /// The flags of the page that the tests use, as a program of a later version may set them.
    fn set_flags(segment: &Segment, flags: u64) {
        let version = segment.attachment.tables.pages.version(1);
        version.fetch_and(!(READ_LOCKED | WRITE_LOCKED | WAITED), Ordering::Relaxed);
        version.fetch_or(flags, Ordering::Relaxed);
    }

    fn worker(segment: &Segment, timeout: Duration) -> Worker {
        let mut worker = segment.worker().unwrap();
        let timeout = u64::try_from(timeout.as_nanos()).unwrap();
        worker.set_deadline(Deadline::after(clock::coarse(), timeout));
        worker
    }

    type LockedPageAccess = fn(&mut Worker) -> Result<(), AccessError>;

    /// What a program can do with bytes of pages 0 and 1.
    const OPERATIONS: [LockedPageAccess; 6] = [
        |worker| worker.read(around(), &mut [0; 16]),
        |worker| worker.write(around(), &[1; 16], None),
        |worker| worker.fill(around(), 2, None),
        |worker| {
            let word = Word::new(PAGE, K).unwrap();
            let failing = AtomicOperation::CompareAndSwap {
                expected: 77,
                new: 1,
            };
            worker.atomic(word, failing, None).map(|_| ())
        },
        |worker| worker.copy(around(), elsewhere(), None),
        |worker| worker.copy(elsewhere(), around(), None),
    ];

    fn around() -> Extent {
        Extent::new(PAGE - 8, 16, K).unwrap()
    }

    fn elsewhere() -> Extent {
        Extent::new(4 * PAGE, 16, K).unwrap()
    }

    #[test]
    fn a_page_that_is_locked_for_writing_is_neither_read_nor_written_until_it_is_free() {
        let memory = UnitTestMemory::new("locked");
        let segment = memory.serve();
        for operation in OPERATIONS {
            set_flags(&segment, WRITE_LOCKED);
            let late = operation(&mut worker(&segment, Duration::from_millis(50)));
            assert!(
                matches!(late, Err(AccessError::DeadlinePassed(_))),
                "{late:?}"
            );
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| operation(&mut worker(&segment, AMPLE)));
                std::thread::sleep(Duration::from_millis(50));
                assert!(!waiting.is_finished());
                set_flags(&segment, 0);
                waiting.join().unwrap().unwrap();
            });
        }
        // Other pages were never affected, and no stripe is held.
        set_flags(&segment, WRITE_LOCKED);
        worker(&segment, AMPLE).fill(elsewhere(), 3, None).unwrap();
    }

    #[test]
    fn a_page_that_is_locked_for_reading_is_read_and_not_written() {
        let memory = UnitTestMemory::new("read-locked");
        let segment = memory.serve();
        set_flags(&segment, READ_LOCKED);
        let [read, write, fill, _, copy_from, copy_to] = OPERATIONS;
        for allowed in [read, copy_from] {
            allowed(&mut worker(&segment, AMPLE)).unwrap();
        }
        for refused in [write, fill, copy_to] {
            let late = refused(&mut worker(&segment, Duration::from_millis(20)));
            assert!(
                matches!(late, Err(AccessError::DeadlinePassed(_))),
                "{late:?}"
            );
        }
    }

    #[test]
    fn a_worker_without_a_deadline_gives_up_a_page_that_stays_locked() {
        let memory = UnitTestMemory::new("stays-locked");
        let segment = memory.serve();
        set_flags(&segment, WRITE_LOCKED);
        let outcome = segment.worker().unwrap().fill(around(), 1, None);
        assert_eq!(outcome, Err(AccessError::PageLockTimeout { pid: 0 }));
    }

    #[test]
    fn a_change_clears_the_flag_of_those_who_wait_and_keeps_the_page_written() {
        let memory = UnitTestMemory::new("waited");
        let segment = memory.serve();
        set_flags(&segment, WAITED);
        worker(&segment, AMPLE).fill(around(), 1, None).unwrap();
        let version = segment
            .attachment
            .tables
            .pages
            .version(1)
            .load(Ordering::Relaxed);
        assert_eq!(version, 2);
    }

    #[test]
    fn a_change_wakes_those_who_wait_for_it() {
        let memory = UnitTestMemory::new("woken");
        let segment = memory.serve();
        set_flags(&segment, WAITED);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| segment.attachment.tables.pages.wait(1, AMPLE));
            while !waiting.is_finished() {
                // Again and again: the thread may not wait yet when the first change is made.
                set_flags(&segment, WAITED);
                worker(&segment, AMPLE).fill(around(), 1, None).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(waiting.join().unwrap(), "the wait timed out");
        });
    }

    impl PageTable {
        /// Waits until a change of the page wakes this thread; false when the time has passed.
        fn wait(&self, page: usize, timeout: Duration) -> bool {
            let began = std::time::Instant::now();
            while began.elapsed() < timeout {
                let version = self.version(page).load(Ordering::Acquire);
                if self.0.wait(page * PAGE_ENTRY, version, timeout) {
                    return true;
                }
            }
            false
        }
    }
}
