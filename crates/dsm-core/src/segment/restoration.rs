//! Putting other bytes into a segment that is shut, and opening it when all of them are there.

use super::gate::{Gate, Shut};
use super::intent::pages;
use super::shared::Shared;
use super::superblock::Field;
use super::worker::Worker;
use super::{Segment, SegmentError};
use crate::protocol::Extent;
use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;

/// The memory of a segment while it is replaced: all others are refused. After a drop without
/// [`Restoration::commit`] it is in use as it was if nothing was changed, once the claim is given
/// back; otherwise it stays shut until another restore.
pub struct Restoration<'a> {
    worker: &'a mut Worker,
    /// Who restores.
    restorer: Ipv6Addr,
    /// Something was changed, or is about to be.
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

    /// Says that the memory of before is given up: from now on only a commit opens the segment.
    pub fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            let shared = &self.worker.shared;
            shared.set_restorer(self.restorer);
            // Before the first byte is changed. One that waits for a restore, or was half restored
            // before, stays what it is.
            if shared.change_gate(Gate::Unchanged, Gate::Shut(Shut::Restoring)) {
                shared.thawed(u64::MAX);
            }
        }
    }

    /// Writes `data`, which has the extent's length.
    pub fn write(&mut self, extent: Extent, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.begin();
        // A worker that restores is never refused.
        let _ = self.worker.write(extent, data, None);
    }

    /// Sets every byte of the extent to zero; pages that were never written cost nothing, and are
    /// no change.
    pub fn zero(&mut self, extent: Extent) {
        let shared = &self.worker.shared;
        // At most k, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        let mut touched = pages(extent.offset() as usize, extent.length());
        if touched.any(|page| shared.page_version(page).load(Ordering::Relaxed) != 0) {
            self.begin();
            let _ = self.worker.fill(extent, 0, None);
        }
    }

    /// Opens the segment with a new incarnation, which it returns: every byte is as it shall be.
    ///
    /// # Errors
    /// When the kernel has no random numbers; the segment stays shut.
    pub fn commit(self) -> Result<u64, SegmentError> {
        let incarnation = super::open::random_incarnation()?;
        let shared = &self.worker.shared;
        Field::Incarnation
            .of(&shared.mapping)
            .store(incarnation, Ordering::Release);
        shared.set_restorer(Ipv6Addr::UNSPECIFIED);
        shared.set_gate(Gate::Open);
        Ok(incarnation)
    }

    /// Opens the segment as it was, if it was open and nothing was changed. Otherwise it stays
    /// shut. Returns whether it is open.
    #[must_use]
    pub fn cancel(self) -> bool {
        self.worker.shared.open_unchanged()
    }
}

impl Drop for Restoration<'_> {
    fn drop(&mut self) {
        self.worker.restoring = false;
    }
}

impl Segment {
    /// Who has begun to change the memory of a segment that is being restored; `None` when that is
    /// not known.
    #[must_use]
    pub fn restorer(&self) -> Option<Ipv6Addr> {
        let half =
            |field: Field| u128::from(field.of(&self.shared.mapping).load(Ordering::Acquire));
        let address =
            Ipv6Addr::from_bits(half(Field::RestorerHigh) << 64 | half(Field::RestorerLow));
        (!address.is_unspecified()).then_some(address)
    }
}

impl Shared {
    fn set_restorer(&self, address: Ipv6Addr) {
        let bits = address.to_bits();
        // The two halves of 16 bytes.
        #[allow(clippy::cast_possible_truncation)]
        for (field, half) in [
            (Field::RestorerLow, bits as u64),
            (Field::RestorerHigh, (bits >> 64) as u64),
        ] {
            field.of(&self.mapping).store(half, Ordering::Release);
        }
    }

    /// Opens a segment that was shut for a restore which has changed nothing and changes nothing
    /// any more: it has its memory and its incarnation of before. The caller has the claim. Returns
    /// whether it did.
    pub(super) fn open_unchanged(&self) -> bool {
        let opened = self.change_gate(Gate::Unchanged, Gate::Open);
        if opened {
            self.thawed(u64::MAX);
        }
        opened
    }
}
