//! Cuts: the instant that a snapshot shows, and the pages of it that writers have changed since.
//!
//! A cut begins while the gate is frozen, so that no writer is inside. From then on the first
//! writer that is about to change a page saves the page in the copy area. A reader of the cut takes
//! a saved page from the copy area and every other page from the data. A word beside the version of
//! each page decides between the two by compare-and-swap, so that neither ever waits for the other:
//!
//! ```text
//! word = number of the cut (high half), 0: already read | 1: all zeros | slot of the copy area + 2 (low half)
//! ```
//!
//! A writer that finds no room in the copy area ends the cut, and continues.

use super::attachment::SegmentAttachment;
use super::copy_area::CopyError;
use super::gate::{AccessError, Awaited, Gate};
use super::geometry::page_size;
use super::snapshot_lock::FreezeError;
use super::superblock::Field;
use super::{Segment, SegmentError};
use crate::sys::cancellation::Uncancelled;
use nix::sys::uio::pread;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

/// The low half of a page's word: where the page is, as of the cut.
const READ: u64 = 0;
const ZEROS: u64 = 1;
const FIRST_SLOT: u64 = 2;

/// The low half of a word.
const LOW: u64 = u32::MAX as u64;

/// The bytes of one page.
pub type Page = [u8; page_size()];

/// Comparing with this is faster than checking each byte.
static ZERO_PAGE: Page = [0; page_size()];

/// A cut, to be read page by page and then ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Its number; never zero, and unique among the last 2^32 cuts of a segment.
    pub(super) number: u32,
}

/// The cut has ended: its owner ended it, or the copy area had no room for a page that a writer
/// changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot was abandoned: the copy area was full, or another snapshot took its place")]
pub struct CutEnded;

/// The most pages that one call reads: enough to make the cost of the calls negligible, with a
/// small buffer.
pub const CUT_RUN: usize = 16;

/// Pages as the cut shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutPages {
    /// All bytes are zero; the buffer is unchanged.
    Zeros,
    /// The bytes are in the buffer.
    Bytes,
}

impl Segment {
    /// Reads a run of pages of the cut, at most [`CUT_RUN`], into `buffer`, which has their length.
    /// Takes no lock. Each page can be read once: after that writers need not save it, and its
    /// memory in the copy area is released.
    ///
    /// # Errors
    /// [`CutEnded`], also for a page that was already read. The content of the buffer is undefined
    /// then.
    ///
    /// # Panics
    /// When the lengths differ, or the run is longer than [`CUT_RUN`].
    pub fn read_cut(
        &self,
        cut: Cut,
        pages: Range<usize>,
        buffer: &mut [u8],
    ) -> Result<CutPages, CutEnded> {
        assert!(
            pages.len() <= CUT_RUN && buffer.len() == pages.len() * page_size(),
            "{pages:?}"
        );
        let attachment = &self.attachment;
        // A page that was never written is zeros; a writer that changes it from now on saves it as
        // zeros.
        if pages.clone().all(|page| {
            attachment
                .tables
                .pages
                .version(page)
                .load(Ordering::Acquire)
                == 0
        }) {
            return if attachment.is_cut(cut.number) {
                Ok(CutPages::Zeros)
            } else {
                Err(CutEnded)
            };
        }
        let mut found = [0; CUT_RUN];
        for (page, found) in pages.clone().zip(&mut found) {
            *found = attachment
                .tables
                .pages
                .cut_word(page)
                .load(Ordering::Acquire);
        }
        attachment.read_data(&pages, buffer)?;
        for ((page, found), bytes) in pages.zip(found).zip(buffer.as_chunks_mut().0) {
            attachment.resolve_page(cut.number, page, found, bytes)?;
        }
        // A writer that found no room has ended the cut before it changed its page.
        fence(Ordering::Acquire);
        if attachment.is_cut(cut.number) {
            Ok(CutPages::Bytes)
        } else {
            Err(CutEnded)
        }
    }
}

impl SegmentAttachment {
    fn is_cut(&self, number: u32) -> bool {
        self.tables.superblock.gate() == Gate::Cut(number)
    }

    /// Ends the cut and empties its copy area. Returns the number of pages that were saved; zero if
    /// the cut had already ended.
    pub(super) fn end_cut(&self, number: u32, worker: usize) -> Result<u64, SegmentError> {
        let ended = self
            .tables
            .superblock
            .change_gate(Gate::Cut(number), Gate::Open);
        let copied = self
            .tables
            .superblock
            .word(Field::CopiesTaken)
            .load(Ordering::Relaxed);
        // A writer that saw the cut still holds its stripes; after each stripe was locked and
        // unlocked once, no such writer is left. A stalled writer delays this for as long as it is
        // stalled.
        while self.wait_for_writers(worker).is_err() {}
        self.empty_copy_area()?;
        Ok(if ended { copied } else { 0 })
    }

    /// Ends a cut that a dead process left, if there is one, and empties the copy area. The caller
    /// has the snapshot lock.
    ///
    /// # Errors
    /// [`FreezeError::Access`] when a writer has stalled that may still save a page for the cut; the
    /// cut has ended then. [`FreezeError::Segment`] when the copy area cannot be emptied.
    pub(super) fn end_abandoned_cut(&self, worker: usize) -> Result<(), FreezeError> {
        let superblock = &self.tables.superblock;
        if let found @ Gate::Cut(_) = superblock.gate() {
            superblock.change_gate(found, Gate::Open);
        }
        self.wait_for_writers(worker)?;
        Ok(self.empty_copy_area()?)
    }

    /// Saves those of the pages that the cut still needs. The caller holds their stripes and is
    /// about to change them.
    ///
    /// # Errors
    /// [`AccessError::DeadlinePassed`] when the deadline of `worker` passes first. Then the caller may change no
    /// page; the cut continues, and so do its copies.
    #[cold]
    pub(super) fn save_for_cut(
        &self,
        pages: &Range<usize>,
        number: u32,
        worker: usize,
    ) -> Result<(), AccessError> {
        pages
            .clone()
            .try_for_each(|page| self.save_page(page, number, worker))
    }

    fn save_page(&self, page: usize, number: u32, worker: usize) -> Result<(), AccessError> {
        let _uncancelled = Uncancelled::begin();
        let word = self.tables.pages.cut_word(page);
        let found = word.load(Ordering::Acquire);
        if found >> 32 == u64::from(number) {
            return Ok(());
        }
        let mut bytes: Page = [0; page_size()];
        self.tables.data.copy_out(page * page_size(), &mut bytes);
        let place = if bytes == ZERO_PAGE {
            Ok(ZEROS)
        } else {
            self.copy_aside(&bytes, number, self.deadline_of(worker))
                .map(|slot| slot + FIRST_SLOT)
        };
        match place {
            // A reader that was faster has read the page from the data: then the copy is not
            // needed.
            Ok(place) => {
                let _ = word.compare_exchange(
                    found,
                    u64::from(number) << 32 | place,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                );
            }
            Err(CopyError::DeadlinePassed) => {
                return Err(AccessError::DeadlinePassed(Awaited::CopyArea));
            }
            Err(cause) => {
                if self
                    .tables
                    .superblock
                    .change_gate(Gate::Cut(number), Gate::Open)
                {
                    log::error!(
                        "{}: the snapshot was abandoned, because its copy area has no room ({cause}). \
                         Writers continue. Raise snapshot.copy_area in mcomp.cfg, or make room in /dev/shm",
                        self.name
                    );
                }
            }
        }
        Ok(())
    }

    /// Copies pages from the data. It uses the file and not the mapping: the page tables of a
    /// process that reads all of a large segment once would take more memory than anything else of
    /// it.
    fn read_data(&self, pages: &Range<usize>, buffer: &mut [u8]) -> Result<(), CutEnded> {
        let offset =
            i64::try_from(self.geometry.data + pages.start * page_size()).map_err(|_| CutEnded)?;
        // The object was measured when it was mapped, and no program of ours makes it shorter.
        let read = pread(&self.file, buffer, offset);
        // The loads of the pages' words must not move before the copy.
        fence(Ordering::Acquire);
        if read == Ok(buffer.len()) {
            Ok(())
        } else {
            Err(CutEnded)
        }
    }

    /// Turns `bytes`, a copy of the page that was made after its word was `found`, into the page as
    /// of the cut.
    fn resolve_page(
        &self,
        number: u32,
        page: usize,
        mut found: u64,
        bytes: &mut Page,
    ) -> Result<(), CutEnded> {
        let word = self.tables.pages.cut_word(page);
        let read = u64::from(number) << 32 | READ;
        if found >> 32 != u64::from(number) {
            // If no writer has saved the page by the time of this exchange, no writer has changed
            // it since the cut.
            match word.compare_exchange(found, read, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(saved) => found = saved,
            }
        }
        match found & LOW {
            READ => return Err(CutEnded),
            ZEROS => bytes.fill(0),
            slot if self.take_copy(slot - FIRST_SLOT, bytes) => {}
            _ => return Err(CutEnded),
        }
        word.store(read, Ordering::Release);
        Ok(())
    }
}
