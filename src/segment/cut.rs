//! Cuts: the instant that a snapshot shows, and the pages of it that writers have changed since.
//!
//! A cut begins while every stripe is held (the freeze), so that no writer is inside. From then on the first writer that
//! is about to change a page saves it aside; a reader of the cut takes a page from where it stands if nobody has saved
//! it, and from the copy area otherwise. A word beside each page's version decides between the two by compare-and-swap,
//! so that neither ever waits for the other:
//!
//! ```text
//! word = number of the cut (high half), 0: read already | 1: all zeros | slot of the copy area + 2 (low half)
//! ```
//!
//! The copy area is written with `pwrite(2)`, not through a mapping: the file grows as it is needed, a full /dev/shm is
//! an error and not a SIGBUS, and giving the area back under a late reader makes its read short and nothing worse. A
//! copy that finds no room abandons the cut; writers go on.

use super::geometry::{LARGE_SLOTS, STRIPES, page_size};
use super::shared::Shared;
use super::superblock::Field;
use super::worker::Worker;
use super::{Segment, SegmentError};
use nix::sys::uio::{pread, pwrite};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The low half of a page's word: its place in the cut.
const READ: u64 = 0;
const ZEROS: u64 = 1;
const FIRST_SLOT: u64 = 2;

/// The low half of a word.
const LOW: u64 = u32::MAX as u64;

/// The bytes of one page.
pub type Page = [u8; page_size()];

/// A cut that was made, to be read page by page and then ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Its number; never zero, and another one for each cut of a segment until 2^32 of them.
    number: u32,
}

/// The cut is over: it was ended, or the copy area had no room for a page that a writer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot was abandoned: the copy area was full, or another snapshot took its place")]
pub struct CutGone;

/// A page as the cut shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutPage {
    /// All bytes are zero; the buffer is untouched.
    Zeros,
    /// The bytes are in the buffer.
    Bytes,
}

/// Every stripe of a segment is held: no writer is inside, and none gets in. Readers go on.
///
/// Dropping it lets the writers go on.
pub struct Frozen<'a> {
    worker: &'a mut Worker,
}

impl Worker {
    /// Waits for the writers inside and keeps others out.
    #[must_use]
    pub fn freeze(&mut self) -> Frozen<'_> {
        for stripe in 0..STRIPES {
            self.shared.lock(LARGE_SLOTS + stripe, self.index);
        }
        Frozen { worker: self }
    }
}

impl Frozen<'_> {
    /// Begins a cut that shows the memory as it is now, and lets the writers go on. A cut that is still there ends.
    /// Writers save at most `copy_area` bytes of pages.
    ///
    /// # Errors
    /// When the copy area of the cut before cannot be emptied.
    pub fn cut(self, copy_area: u64) -> Result<Cut, SegmentError> {
        let shared = &self.worker.shared;
        shared.empty_copy_area()?;
        let field = |field: Field| field.of(&shared.mapping);
        // Numbers live in half a word; zero means that there is no cut.
        #[allow(clippy::cast_possible_truncation)]
        let number = (field(Field::LastCut).load(Ordering::Relaxed) as u32).wrapping_add(1).max(1);
        field(Field::CopiesLimit).store(copy_area / page_size() as u64, Ordering::Relaxed);
        field(Field::CopiesTaken).store(0, Ordering::Relaxed);
        field(Field::LastCut).store(u64::from(number), Ordering::Relaxed);
        field(Field::Cut).store(u64::from(number), Ordering::Release);
        Ok(Cut { number })
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        for stripe in 0..STRIPES {
            self.worker.shared.unlock(LARGE_SLOTS + stripe);
        }
    }
}

impl Segment {
    /// Reads page `page` of the cut; takes no lock. Each page can be read once: after that writers need not save it.
    ///
    /// # Errors
    /// [`CutGone`], also for a page that was read already.
    pub fn read_cut(&self, cut: Cut, page: usize, buffer: &mut Page) -> Result<CutPage, CutGone> {
        let shared = &self.shared;
        let word = shared.cut_word(page);
        loop {
            if !shared.is_cut(cut.number) {
                return Err(CutGone);
            }
            let found = word.load(Ordering::Acquire);
            if found >> 32 == u64::from(cut.number) {
                return shared.read_copy(cut.number, found & LOW, buffer);
            }
            // Nobody has changed the page since the cut, if nobody has saved it by the time of the exchange below.
            shared.mapping.copy_out(shared.geometry.data + page * page_size(), buffer);
            fence(Ordering::Acquire);
            let read = u64::from(cut.number) << 32 | READ;
            if word.compare_exchange(found, read, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Ok(if buffer.iter().all(|byte| *byte == 0) { CutPage::Zeros } else { CutPage::Bytes });
            }
        }
    }

    /// Ends the cut and gives its copy area back. Returns the pages that were saved. `worker` is any of this segment.
    ///
    /// # Errors
    /// When the copy area cannot be emptied.
    pub fn end_cut(&self, cut: Cut, worker: &mut Worker) -> Result<u64, SegmentError> {
        let shared = &self.shared;
        if !shared.forget_cut(cut.number) {
            return Ok(0);
        }
        let copied = Field::CopiesTaken.of(&shared.mapping).load(Ordering::Relaxed);
        // A writer that saw the cut still holds its stripes; after one turn on each stripe no such writer is left.
        for stripe in 0..STRIPES {
            shared.lock(LARGE_SLOTS + stripe, worker.index());
            shared.unlock(LARGE_SLOTS + stripe);
        }
        shared.empty_copy_area()?;
        Ok(copied)
    }
}

impl Shared {
    #[inline]
    fn cut_word(&self, page: usize) -> &AtomicU64 {
        self.mapping.word(self.geometry.page_cut(page))
    }

    fn is_cut(&self, number: u32) -> bool {
        Field::Cut.of(&self.mapping).load(Ordering::Acquire) == u64::from(number)
    }

    /// Ends the cut for everybody; `false` when it had ended already.
    fn forget_cut(&self, number: u32) -> bool {
        let cut = Field::Cut.of(&self.mapping);
        cut.compare_exchange(u64::from(number), 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Saves what the caller, who holds the pages' stripes, is about to change and a cut still needs.
    #[inline]
    pub(super) fn save_for_cut(&self, pages: &Range<usize>) {
        // The stripes order this load after the start of any cut that the caller's change must respect.
        let number = Field::Cut.of(&self.mapping).load(Ordering::Acquire);
        if number != 0 {
            pages.clone().for_each(|page| self.save_page(page, number));
        }
    }

    #[cold]
    fn save_page(&self, page: usize, number: u64) {
        let word = self.cut_word(page);
        let found = word.load(Ordering::Acquire);
        if found >> 32 == number {
            return;
        }
        let mut bytes: Page = [0; page_size()];
        self.mapping.copy_out(self.geometry.data + page * page_size(), &mut bytes);
        let place = if bytes.iter().all(|byte| *byte == 0) { Some(ZEROS) } else { self.copy_aside(&bytes) };
        match place {
            // A reader that was faster has read the page where it stands: then the copy is not needed.
            Some(place) => {
                let _ = word.compare_exchange(found, number << 32 | place, Ordering::AcqRel, Ordering::Relaxed);
            }
            None => {
                #[allow(clippy::cast_possible_truncation)] // as it was when the cut began
                if self.forget_cut(number as u32) {
                    ::log::error!(
                        "{}: the snapshot under way was abandoned, for its copy area has no room: writers go on. Raise \
                         snapshot.copy_area in mcomp.cfg, or make room in /dev/shm",
                        self.name
                    );
                }
            }
        }
    }

    /// Appends a page to the copy area; `None` when there is no room.
    fn copy_aside(&self, bytes: &Page) -> Option<u64> {
        let slot = Field::CopiesTaken.of(&self.mapping).fetch_add(1, Ordering::Relaxed);
        let allowed = slot < Field::CopiesLimit.of(&self.mapping).load(Ordering::Relaxed).min(LOW - FIRST_SLOT);
        let written = allowed && pwrite(&self.copy_area, bytes, copy_offset(slot)?) == Ok(bytes.len());
        written.then_some(slot + FIRST_SLOT)
    }

    fn read_copy(&self, number: u32, place: u64, buffer: &mut Page) -> Result<CutPage, CutGone> {
        match place {
            READ => Err(CutGone),
            ZEROS => Ok(CutPage::Zeros),
            slot => {
                let read = pread(&self.copy_area, buffer, copy_offset(slot - FIRST_SLOT).ok_or(CutGone)?);
                // After the read: the area is emptied, and used again, only for a cut that is over.
                if read == Ok(buffer.len()) && self.is_cut(number) { Ok(CutPage::Bytes) } else { Err(CutGone) }
            }
        }
    }

    fn empty_copy_area(&self) -> Result<(), SegmentError> {
        nix::unistd::ftruncate(&self.copy_area, 0).map_err(SegmentError::system("empty the copy area of", &self.name))
    }
}

/// Where a slot of the copy area begins; `None` beyond what a file can have.
fn copy_offset(slot: u64) -> Option<i64> {
    i64::try_from(slot.checked_mul(page_size() as u64)?).ok()
}
