//! Cuts: the instant that a snapshot shows, and the pages of it that writers have changed since.
//!
//! A cut begins while the gate is frozen, so that no writer is inside. From then on the first writer that
//! is about to change a page saves it aside; a reader of the cut takes a page from where it stands if nobody has saved
//! it, and from the copy area otherwise. A word beside each page's version decides between the two by compare-and-swap,
//! so that neither ever waits for the other:
//!
//! ```text
//! word = number of the cut (high half), 0: read already | 1: all zeros | slot of the copy area + 2 (low half)
//! ```
//!
//! A copy that finds no room in the copy area abandons the cut; writers go on.

use super::gate::Gate;
use super::geometry::page_size;
use super::shared::Shared;
use super::superblock::Field;
use super::{Segment, SegmentError};
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

/// To compare with: faster than a look at each byte.
static ZERO_PAGE: Page = [0; page_size()];

/// A cut that was made, to be read page by page and then ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Its number; never zero, and another one for each cut of a segment until 2^32 of them.
    pub(super) number: u32,
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
            // Nobody has ever written it; whoever does now saves it as zeros.
            if shared.page_version(page).load(Ordering::Acquire) == 0 {
                return Ok(CutPage::Zeros);
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
                return Ok(if *buffer == ZERO_PAGE { CutPage::Zeros } else { CutPage::Bytes });
            }
        }
    }
}

impl Shared {
    #[inline]
    fn cut_word(&self, page: usize) -> &AtomicU64 {
        self.mapping.word(self.geometry.page_cut(page))
    }

    fn is_cut(&self, number: u32) -> bool {
        self.gate() == Gate::Cut(number)
    }

    /// Ends the cut for everybody and gives its copy area back. Returns the pages that were saved; none when it was over
    /// already.
    pub(super) fn end_cut(&self, number: u32, worker: usize) -> Result<u64, SegmentError> {
        let ended = self.change_gate(Gate::Cut(number), Gate::Open);
        let copied = Field::CopiesTaken.of(&self.mapping).load(Ordering::Relaxed);
        // A writer that saw the cut still holds its stripes; after one turn on each stripe no such writer is left.
        self.wait_for_writers(worker);
        self.empty_copy_area()?;
        Ok(if ended { copied } else { 0 })
    }

    /// Saves what the caller, who holds the pages' stripes, is about to change and the cut still needs.
    #[inline]
    pub(super) fn save_for_cut(&self, pages: &Range<usize>, cut: Option<u32>) {
        if let Some(number) = cut {
            pages.clone().for_each(|page| self.save_page(page, number));
        }
    }

    #[cold]
    fn save_page(&self, page: usize, number: u32) {
        let word = self.cut_word(page);
        let found = word.load(Ordering::Acquire);
        if found >> 32 == u64::from(number) {
            return;
        }
        let mut bytes: Page = [0; page_size()];
        self.mapping.copy_out(self.geometry.data + page * page_size(), &mut bytes);
        let place = if bytes.iter().all(|byte| *byte == 0) {
            Some(ZEROS)
        } else {
            self.copy_aside(&bytes).map(|slot| slot + FIRST_SLOT)
        };
        match place {
            // A reader that was faster has read the page where it stands: then the copy is not needed.
            Some(place) => {
                let _ =
                    word.compare_exchange(found, u64::from(number) << 32 | place, Ordering::AcqRel, Ordering::Relaxed);
            }
            None => {
                if self.change_gate(Gate::Cut(number), Gate::Open) {
                    ::log::error!(
                        "{}: the snapshot under way was abandoned, for its copy area has no room: writers go on. Raise \
                         snapshot.copy_area in mcomp.cfg, or make room in /dev/shm",
                        self.name
                    );
                }
            }
        }
    }

    fn read_copy(&self, number: u32, place: u64, buffer: &mut Page) -> Result<CutPage, CutGone> {
        match place {
            READ => Err(CutGone),
            ZEROS => Ok(CutPage::Zeros),
            slot => {
                let read = self.read_copy_area(slot - FIRST_SLOT, buffer);
                // After the read: the area is emptied, and used again, only for a cut that is over.
                if read && self.is_cut(number) { Ok(CutPage::Bytes) } else { Err(CutGone) }
            }
        }
    }
}
