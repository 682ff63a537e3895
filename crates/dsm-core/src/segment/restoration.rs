//! A restoration replaces the memory of a closed segment, and opens the segment only when every
//! byte is there.

use super::attachment::SegmentAttachment;
use super::gate::{AccessError, Gate};
use super::intent::pages;
use super::superblock::Field;
use super::worker::Worker;
use super::{Segment, SegmentError};
use crate::protocol::Extent;
use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;

/// A segment while its memory is replaced: all others are refused. If it is dropped without
/// [`Restoration::commit`] before anything was changed, the segment opens with its old contents
/// when the snapshot lock is released; otherwise it stays closed until another restore.
pub struct Restoration<'a> {
    worker: &'a mut Worker,
    /// The address of the master that restores.
    restorer: Ipv6Addr,
    /// Whether something was changed, or is about to be.
    begun: bool,
}

impl<'a> Restoration<'a> {
    pub(super) fn new(worker: &'a mut Worker, restorer: Ipv6Addr) -> Self {
        worker.restoring = true;
        Self {
            worker,
            restorer,
            begun: false,
        }
    }

    /// Discards the old contents: from now on only a commit opens the segment.
    pub fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            let attachment = &self.worker.attachment;
            attachment.set_restorer(self.restorer);
            // Before the first byte is changed. A segment that waits for a restore, or was half
            // restored, keeps its state.
            if attachment
                .tables
                .superblock
                .change_gate(Gate::Unchanged, Gate::Closed(AccessError::Restoring))
            {
                attachment.note_unfrozen(u64::MAX);
            }
        }
    }

    /// Writes `data`, which has the extent's length.
    pub fn write(&mut self, extent: Extent, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.begin();
        // A restoring worker is never refused.
        let _ = self.worker.write(extent, data, None);
    }

    /// Sets every byte of the extent to zero. Pages that were never written are skipped, and do not
    /// count as a change.
    pub fn zero(&mut self, extent: Extent) {
        let attachment = &self.worker.attachment;
        // At most k, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        let mut touched = pages(extent.offset() as usize, extent.length());
        if touched.any(|page| {
            attachment
                .tables
                .pages
                .version(page)
                .load(Ordering::Relaxed)
                != 0
        }) {
            self.begin();
            let _ = self.worker.fill(extent, 0, None);
        }
    }

    /// Opens the segment with a new incarnation, and returns it. The caller has written every byte.
    ///
    /// # Errors
    /// When the kernel has no random numbers. The segment stays closed.
    pub fn commit(self) -> Result<u64, SegmentError> {
        let incarnation = super::create::random_incarnation()?;
        let attachment = &self.worker.attachment;
        attachment
            .tables
            .superblock
            .word(Field::Incarnation)
            .store(incarnation, Ordering::Release);
        attachment.set_restorer(Ipv6Addr::UNSPECIFIED);
        attachment.tables.superblock.set_gate(Gate::Open);
        Ok(incarnation)
    }

    /// Opens the segment with its old contents, if it was open before and nothing was changed.
    /// Otherwise it stays closed. Returns whether it is open.
    #[must_use]
    pub fn cancel(self) -> bool {
        self.worker.attachment.open_unchanged()
    }
}

impl Drop for Restoration<'_> {
    fn drop(&mut self) {
        self.worker.restoring = false;
    }
}

impl Segment {
    /// The address of the master that has begun to change the memory of a segment that is being
    /// restored; `None` when it is unknown.
    #[must_use]
    pub fn restorer(&self) -> Option<Ipv6Addr> {
        let half = |field: Field| {
            u128::from(
                self.attachment
                    .tables
                    .superblock
                    .word(field)
                    .load(Ordering::Acquire),
            )
        };
        let address =
            Ipv6Addr::from_bits(half(Field::RestorerHigh) << 64 | half(Field::RestorerLow));
        (!address.is_unspecified()).then_some(address)
    }
}

impl SegmentAttachment {
    fn set_restorer(&self, address: Ipv6Addr) {
        let bits = address.to_bits();
        // The two halves of 16 bytes.
        #[allow(clippy::cast_possible_truncation)]
        for (field, half) in [
            (Field::RestorerLow, bits as u64),
            (Field::RestorerHigh, (bits >> 64) as u64),
        ] {
            self.tables
                .superblock
                .word(field)
                .store(half, Ordering::Release);
        }
    }

    /// Opens a segment that was closed for a restore which changed nothing: it keeps its contents
    /// and its incarnation. The caller holds the snapshot lock. Returns whether the segment was
    /// opened.
    pub(super) fn open_unchanged(&self) -> bool {
        let opened = self
            .tables
            .superblock
            .change_gate(Gate::Unchanged, Gate::Open);
        if opened {
            self.note_unfrozen(u64::MAX);
        }
        opened
    }
}
