//! The copy area: an object beside the segment, with the pages that writers have saved for a cut.
//!
//! It is written with `pwrite(2)`, not through a mapping: the file grows as it is needed, a full /dev/shm is an error and
//! not a SIGBUS, and giving the area back under a late reader makes its read short and nothing worse.

use super::SegmentError;
use super::cut::Page;
use super::geometry::page_size;
use super::shared::Shared;
use super::superblock::Field;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::sys::uio::{pread, pwrite};
use std::sync::atomic::Ordering;

/// The byte that the holder of the claim locks: behind the last page that can be in the area.
pub(super) const CLAIM: i64 = i64::MAX - 1;

/// The most pages: their numbers share half a word with two others.
const MOST: u64 = u32::MAX as u64 - 2;

impl Shared {
    /// Appends a page and returns its number; `None` when there is no room.
    pub(super) fn copy_aside(&self, bytes: &Page) -> Option<u64> {
        let slot = Field::CopiesTaken.of(&self.mapping).fetch_add(1, Ordering::Relaxed);
        let allowed = slot < Field::CopiesLimit.of(&self.mapping).load(Ordering::Relaxed).min(MOST);
        let written = allowed && pwrite(&self.copy_area, bytes, offset(slot)?) == Ok(bytes.len());
        written.then_some(slot)
    }

    /// Reads a page and gives its memory back; `false` when it is not there.
    pub(super) fn take_copy(&self, slot: u64, buffer: &mut Page) -> bool {
        let Some(offset) = offset(slot) else { return false };
        let read = pread(&self.copy_area, buffer, offset) == Ok(buffer.len());
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        #[allow(clippy::cast_possible_wrap)] // 4096
        let length = page_size() as i64;
        // Otherwise it is given back with all others when the cut ends.
        let _ = fallocate(&self.copy_area, flags, offset, length);
        read
    }

    pub(super) fn copy_area_is_empty(&self) -> Result<bool, SegmentError> {
        let status = fstat(&self.copy_area).map_err(SegmentError::system("look at the copy area of", &self.name))?;
        Ok(status.st_size == 0)
    }

    pub(super) fn empty_copy_area(&self) -> Result<(), SegmentError> {
        nix::unistd::ftruncate(&self.copy_area, 0).map_err(SegmentError::system("empty the copy area of", &self.name))
    }
}

/// Where a page begins; `None` beyond what a file can have.
fn offset(slot: u64) -> Option<i64> {
    i64::try_from(slot.checked_mul(page_size() as u64)?).ok()
}
