//! Reads: they take no lock unless they lose several races against writers.
//!
//! A read returns bytes that the memory had at one instant between its begin and its end.

use super::critical::HeldLocks;
use super::critical_section::LockedPageWait;
use super::gate::AccessError;
use super::geometry::stripes;
use super::intent::LocalCounter;
use super::page_version::{self, WRITE_LOCKED};
use super::worker::Worker;
use crate::layout::MAX_ATOMIC;
use crate::protocol::Extent;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

/// How often a reader retries after a race against a writer before it takes the stripes. Zero in a
/// build that measures what reads without locks are worth.
const MAX_OPTIMISTIC_READS: u32 = if cfg!(dsm_bench_without = "optimistic-reads") {
    0
} else {
    8
};

/// The most pages that one request touches: the longest request, not aligned.
#[allow(clippy::cast_possible_truncation)] // 257
const MAX_PAGES: usize = (MAX_ATOMIC / crate::layout::PAGE) as usize + 1;

/// A read of at most this many pages keeps their versions in a small array: clearing a large one
/// costs more than the read.
const SMALL_READ_PAGES: usize = 4;

impl Worker {
    /// Copies the extent's bytes into `buffer`, which has the extent's length. Takes no lock unless
    /// it loses several races against writers. After an error the content of the buffer is
    /// undefined.
    ///
    /// # Errors
    /// [`AccessError`]: the memory cannot be used now, or a stalled process holds the pages.
    ///
    /// # Panics
    /// When the lengths differ, or the extent was checked against another segment.
    #[inline]
    pub fn read(&mut self, extent: Extent, buffer: &mut [u8]) -> Result<(), AccessError> {
        assert_eq!(extent.length(), buffer.len(), "buffer and extent");
        let (offset, pages) = self.locate(extent);
        let mut few = [0; SMALL_READ_PAGES];
        let mut many;
        let versions: &mut [u64] = if pages.len() <= SMALL_READ_PAGES {
            &mut few
        } else {
            many = [0; MAX_PAGES];
            &mut many
        };
        for _ in 0..MAX_OPTIMISTIC_READS {
            if self.read_optimistically(offset, pages.clone(), versions, buffer) {
                return self.check_read(buffer.len());
            }
            std::hint::spin_loop();
        }
        let mut waited = LockedPageWait::default();
        loop {
            let mut held = HeldLocks::NONE;
            self.lock(stripes(&pages), &mut held)?;
            let tables = &self.attachment.tables;
            let is_free = tables.pages.are_free(&pages, WRITE_LOCKED);
            if is_free {
                tables.data.copy_out(offset, buffer);
            }
            self.unlock(&mut held);
            if is_free {
                return self.check_read(buffer.len());
            }
            self.wait_for_locked_page(&mut waited)?;
        }
    }

    /// Checks the gate, the permission and the incarnation after the copy of a read, and counts it.
    #[inline]
    fn check_read(&self, length: usize) -> Result<(), AccessError> {
        self.attachment
            .tables
            .superblock
            .check_reader(self.incarnation, self.permission)?;
        self.count(LocalCounter::Reads, length);
        Ok(())
    }

    /// Makes one attempt: versions, bytes, versions again. Returns `true` if no writer was inside:
    /// then, at the instant between the two loads of the versions, every page had the bytes that
    /// were copied.
    #[inline]
    fn read_optimistically(
        &self,
        offset: usize,
        pages: Range<usize>,
        versions: &mut [u64],
        buffer: &mut [u8],
    ) -> bool {
        for (page, version) in pages.clone().zip(versions.iter_mut()) {
            *version = self
                .attachment
                .tables
                .pages
                .version(page)
                .load(Ordering::Acquire);
            if !page_version::is_readable(*version) {
                return false;
            }
        }
        self.attachment.tables.data.copy_out(offset, buffer);
        // The second load of the versions must not move before the copy.
        fence(Ordering::Acquire);
        pages.zip(versions.iter()).all(|(page, version)| {
            self.attachment
                .tables
                .pages
                .version(page)
                .load(Ordering::Relaxed)
                == *version
        })
    }
}
