//! Changes of the memory: each is atomic to every other worker of any process, and an operation of a
//! killed process is either carried out in full or not at all.

use super::critical::HeldLocks;
use super::gate::AccessError;
use super::geometry::SLOT;
use super::intent::{Intent, LocalCounter, RequestId, Source, pages};
use super::worker::Worker;
use crate::protocol::{AtomicOperation, Extent, MemoryChange, Word};
use std::sync::atomic::{Ordering, fence};

impl Worker {
    /// Writes `data`, which has the extent's length.
    ///
    /// # Errors
    /// [`AccessError`]
    ///
    /// # Panics
    /// When the lengths differ, or the extent was checked against another segment.
    #[inline]
    pub fn write(
        &mut self,
        extent: Extent,
        data: &[u8],
        request: Option<RequestId>,
    ) -> Result<(), AccessError> {
        assert_eq!(extent.length(), data.len(), "data and extent");
        if cfg!(dsm_bench_without = "crash-safety") {
            return self.write_in_place(extent, data, request);
        }
        let (offset, _) = self.locate(extent);
        self.across_freezes(|worker| {
            let mut held = HeldLocks::NONE;
            worker.large_slot_for(data.len(), &mut held)?;
            let (source, slot) = worker.source(held.large_slot);
            worker.slots().copy_in(slot, data);
            worker.write_from_slot(
                &Intent {
                    source,
                    offset,
                    length: data.len(),
                    request,
                    result: 0,
                },
                &mut held,
            )
        })
    }

    /// As [`Worker::write`], with the bytes that [`Worker::receive`] has put into the slot.
    ///
    /// # Errors
    /// As [`Worker::write`].
    ///
    /// # Panics
    /// When the extent is longer than the slot.
    pub fn write_received(
        &mut self,
        extent: Extent,
        request: Option<RequestId>,
    ) -> Result<(), AccessError> {
        assert!(extent.length() <= SLOT, "more than the slot");
        let (offset, _) = self.locate(extent);
        let write = Intent {
            source: Source::Slot,
            offset,
            length: extent.length(),
            request,
            result: 0,
        };
        let mut held = HeldLocks::NONE;
        self.across_freezes(|worker| worker.write_from_slot(&write, &mut held))
    }

    /// Writes the content of a slot. `held` includes the slot if it is a large one.
    #[inline]
    fn write_from_slot(&mut self, write: &Intent, held: &mut HeldLocks) -> Result<(), AccessError> {
        let pages = pages(write.offset, write.length);
        let cut = self.enter(&pages, &(0..0), held)?;
        self.save_for_cut(&pages, cut, held)?;
        self.count(LocalCounter::Writes, write.length);
        self.carry_out(write);
        self.unlock(held);
        Ok(())
    }

    /// As [`Worker::write`] without slot and intent. A process killed in the middle leaves half of
    /// the write and odd versions; its stripes are repaired all the same. It exists only for a
    /// build that measures what the slot and the intent cost. It shares no code with
    /// `SegmentAttachment::apply`, so that other builds pay nothing for it.
    fn write_in_place(
        &mut self,
        extent: Extent,
        data: &[u8],
        request: Option<RequestId>,
    ) -> Result<(), AccessError> {
        let (offset, pages) = self.locate(extent);
        let mut held = HeldLocks::NONE;
        let cut = self.across_freezes(|worker| worker.enter(&pages, &(0..0), &mut held))?;
        self.save_for_cut(&pages, cut, &mut held)?;
        self.count(LocalCounter::Writes, data.len());
        let tables = &self.attachment.tables;
        tables.pages.begin_change(pages.clone());
        fence(Ordering::Release);
        tables.data.copy_in(offset, data);
        tables.pages.end_change(pages, tables.superblock.last_cut());
        if let Some(request) = request {
            self.attachment.tables.sessions.mark_executed(request, 0);
        }
        self.unlock(&mut held);
        Ok(())
    }

    /// Sets every byte of the extent to `byte`.
    ///
    /// # Errors
    /// [`AccessError`]
    pub fn fill(
        &mut self,
        extent: Extent,
        byte: u8,
        request: Option<RequestId>,
    ) -> Result<(), AccessError> {
        let (offset, pages) = self.locate(extent);
        let mut held = HeldLocks::NONE;
        let cut = self.across_freezes(|worker| worker.enter(&pages, &(0..0), &mut held))?;
        self.save_for_cut(&pages, cut, &mut held)?;
        self.count(LocalCounter::Fills, extent.length());
        self.carry_out(&Intent {
            source: Source::Byte(byte),
            offset,
            length: extent.length(),
            request,
            result: 0,
        });
        self.unlock(&mut held);
        Ok(())
    }

    /// Changes a word and returns what it was.
    ///
    /// # Errors
    /// [`AccessError`]
    #[inline]
    pub fn atomic(
        &mut self,
        word: Word,
        operation: AtomicOperation,
        request: Option<RequestId>,
    ) -> Result<u64, AccessError> {
        let (offset, pages) = self.locate(word.extent());
        let mut held = HeldLocks::NONE;
        let cut = self.across_freezes(|worker| worker.enter(&pages, &(0..0), &mut held))?;
        let mut bytes = [0; 8];
        self.attachment.tables.data.copy_out(offset, &mut bytes);
        let old = u64::from_le_bytes(bytes);
        if let Some(new) = operation.apply(old) {
            let (source, slot) = self.source(None);
            self.slots().copy_in(slot, &new.to_le_bytes());
            self.save_for_cut(&pages, cut, &mut held)?;
            self.count(LocalCounter::Atomics, 8);
            self.carry_out(&Intent {
                source,
                offset,
                length: 8,
                request,
                result: old,
            });
        } else {
            self.count(LocalCounter::Atomics, 8);
            if let Some(request) = request {
                // Nothing changes, so there is nothing to redo: if this process is killed before
                // this line, the client's retry compares again.
                self.attachment.tables.sessions.mark_executed(request, old);
            }
        }
        self.unlock(&mut held);
        Ok(old)
    }

    /// Copies `from` to `to`, which have the same length and may overlap.
    ///
    /// # Errors
    /// [`AccessError`]
    ///
    /// # Panics
    /// When the lengths differ, or an extent was checked against another segment.
    pub fn copy(
        &mut self,
        from: Extent,
        to: Extent,
        request: Option<RequestId>,
    ) -> Result<(), AccessError> {
        assert_eq!(from.length(), to.length(), "the two extents");
        let ((from_offset, from_pages), (offset, pages)) = (self.locate(from), self.locate(to));
        let length = to.length();
        let mut held = HeldLocks::NONE;
        let cut = self.across_freezes(|worker| {
            worker.large_slot_for(length, &mut held)?;
            worker.enter(&pages, &from_pages, &mut held)
        })?;
        let (source, slot) = self.source(held.large_slot);
        self.attachment
            .tables
            .data
            .copy_to(from_offset, self.slots(), slot, length);
        self.save_for_cut(&pages, cut, &mut held)?;
        self.count(LocalCounter::Copies, length);
        self.carry_out(&Intent {
            source,
            offset,
            length,
            request,
            result: 0,
        });
        self.unlock(&mut held);
        Ok(())
    }

    /// Carries out a change on behalf of `request`. Returns the old value for an atomic, and zero for
    /// every other change.
    ///
    /// # Errors
    /// [`AccessError`]
    #[inline]
    pub fn change(
        &mut self,
        change: &MemoryChange<'_>,
        request: Option<RequestId>,
    ) -> Result<u64, AccessError> {
        match *change {
            MemoryChange::Write(extent, data) => self.write(extent, data, request).map(|()| 0),
            MemoryChange::Fill(extent, byte) => self.fill(extent, byte, request).map(|()| 0),
            MemoryChange::Atomic(word, atomic) => self.atomic(word, atomic, request),
            MemoryChange::Copy { from, to } => self.copy(from, to, request).map(|()| 0),
        }
    }
}
