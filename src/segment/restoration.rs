//! Putting other bytes into a segment that is shut, and opening it when all of them are there.

use super::SegmentError;
use super::gate::Gate;
use super::intent::pages;
use super::superblock::Field;
use super::worker::Worker;
use crate::protocol::Extent;
use std::sync::atomic::Ordering;

/// The memory of a segment while it is replaced. Nobody else reads or changes it, and after a drop without
/// [`Restoration::commit`] or [`Restoration::cancel`] nobody does until another restore.
pub struct Restoration<'a> {
    worker: &'a mut Worker,
    was_open: bool,
    /// Nothing was changed yet.
    untouched: bool,
}

impl<'a> Restoration<'a> {
    pub(super) fn new(worker: &'a mut Worker, was_open: bool) -> Self {
        worker.restoring = true;
        Self { worker, was_open, untouched: true }
    }

    /// Writes `data`, which has the extent's length.
    pub fn write(&mut self, extent: Extent, data: &[u8]) {
        self.untouched = false;
        // A worker that restores is never refused.
        let _ = self.worker.write(extent, data, None);
    }

    /// Sets every byte of the extent to zero; pages that nobody has ever written cost nothing.
    pub fn zero(&mut self, extent: Extent) {
        let shared = &self.worker.shared;
        // At most k, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        let mut touched = pages(extent.offset() as usize, extent.length());
        if touched.any(|page| shared.page_version(page).load(Ordering::Relaxed) != 0) {
            self.untouched = false;
            let _ = self.worker.fill(extent, 0, None);
        }
    }

    /// Opens the segment with a new incarnation, which it returns: every byte is as it shall be.
    ///
    /// # Errors
    /// When the kernel has no random numbers; the segment stays shut.
    pub fn commit(self) -> Result<u64, SegmentError> {
        let incarnation = super::open::random_incarnation()?;
        Field::Incarnation.of(&self.worker.shared.mapping).store(incarnation, Ordering::Release);
        self.worker.shared.set_gate(Gate::Open);
        Ok(incarnation)
    }

    /// Opens the segment as it was, if it was open and nothing was changed. Otherwise it stays shut. Returns whether it is
    /// open.
    #[must_use]
    pub fn cancel(self) -> bool {
        let opens = self.was_open && self.untouched;
        if opens {
            self.worker.shared.set_gate(Gate::Open);
        }
        opens
    }
}

impl Drop for Restoration<'_> {
    fn drop(&mut self) {
        self.worker.restoring = false;
    }
}
