//! Workers: the handles through which threads read and change a segment.
//!
//! A worker guarantees that each of its operations is atomic to every other worker of any process,
//! and that an operation of a killed process is either carried out in full or not at all.

use super::critical::HeldLocks;
use super::deadline::Deadline;
use super::gate::AccessError;
use super::geometry::{CACHE_LINE, Geometry, SLOT, page_size, stripes};
use super::intent::{Intent, IntentField, LocalCounter, RequestId, Source, pages};
use super::shared::Shared;
use crate::protocol::{AtomicOperation, Extent, Operation, Word};
use nix::sys::socket::MsgFlags;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// The most bytes that [`Worker::prefetch`] prefetches.
const MAX_PREFETCH: usize = 4 * CACHE_LINE;

/// A thread's right to work on a segment: one intent and one slot.
///
/// Every method is linearizable with every other one, of any worker of any process. If this process
/// is killed, the operation has happened in full or not at all.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    /// The incarnation that its operations expect.
    pub(super) incarnation: u64,
    /// The permission that the server must grant to a local client's worker; zero for other
    /// workers.
    pub(super) permission: u64,
    /// This worker restores the memory: it passes the gate, which is closed to all others.
    pub(super) restoring: bool,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, index: usize) -> Self {
        let (incarnation, permission) = (shared.incarnation(), shared.role.permission());
        shared.set_deadline(index, Deadline::NEVER);
        Self {
            shared,
            index,
            incarnation,
            permission,
            restoring: false,
        }
    }

    /// Sets the incarnation that the following operations expect; they fail with [`AccessError::Replaced`]
    /// if the segment has another one. A new worker expects the incarnation that the segment had
    /// when the worker was made.
    #[inline]
    pub fn set_incarnation(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
    }

    /// Sets the deadline of the following operations; one that has to wait beyond it fails with
    /// [`AccessError::DeadlinePassed`]. A new worker has no deadline.
    #[inline]
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.shared.set_deadline(self.index, deadline);
    }

    /// The deadline that was set last.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.shared.deadline_of(self.index)
    }

    /// Its index, below [`super::WORKERS`]. No two workers of a segment have the same index at the
    /// same time.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether a change would have to wait now because a snapshot has frozen the memory.
    #[inline]
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.shared.is_frozen()
    }

    /// Prefetches into the processor's cache what a request for `length` bytes at `offset` will
    /// need. The numbers come from a peer and are not checked yet: one that is out of bounds is
    /// ignored.
    #[inline]
    pub fn prefetch(&self, offset: u64, length: usize) {
        let geometry = &self.shared.geometry;
        if let Ok(offset) = usize::try_from(offset)
            && offset < geometry.k
        {
            self.shared
                .mapping
                .prefetch(geometry.page_version(offset / page_size()));
            // The processor's own prefetcher fetches what follows the first lines.
            for ahead in (0..length.clamp(1, MAX_PREFETCH)).step_by(CACHE_LINE) {
                self.shared.mapping.prefetch(geometry.data + offset + ahead);
            }
        }
    }

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
        let held = self.large_slot_for(data.len())?;
        let (source, slot) = self.source(held.large_slot);
        self.shared.mapping.copy_in(slot, data);
        self.write_from_slot(
            &Intent {
                source,
                offset,
                length: data.len(),
                request,
                result: 0,
            },
            held,
        )
    }

    /// Receives from `socket`: into `head` until it is full, then into this range of the worker's
    /// slot, then into `tail`. Returns the number of bytes received. Any other operation of this
    /// worker may overwrite its slot; [`Worker::write_received`] uses it.
    ///
    /// # Errors
    /// Those of `recvmsg(2)`.
    ///
    /// # Panics
    /// When the range is not inside the slot.
    pub fn receive(
        &mut self,
        socket: impl AsFd,
        head: &mut [u8],
        slot: &Range<usize>,
        tail: &mut [u8],
        flags: MsgFlags,
    ) -> nix::Result<usize> {
        assert!(slot.end <= SLOT, "{slot:?} is not inside the slot");
        let begin = Geometry::slot(self.index);
        self.shared.mapping.receive(
            socket,
            head,
            begin + slot.start..begin + slot.end,
            tail,
            flags,
        )
    }

    /// Copies the first bytes of the slot, where [`Worker::receive`] has put them.
    ///
    /// # Panics
    /// When the buffer is longer than the slot.
    pub fn copy_received(&self, buffer: &mut [u8]) {
        assert!(buffer.len() <= SLOT, "more than the slot");
        self.shared
            .mapping
            .copy_out(Geometry::slot(self.index), buffer);
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
        self.write_from_slot(&write, HeldLocks::NONE)
    }

    /// Writes the content of a slot. `held` includes the slot if it is a large one.
    #[inline]
    fn write_from_slot(&mut self, write: &Intent, held: HeldLocks) -> Result<(), AccessError> {
        let pages = pages(write.offset, write.length);
        let (held, cut) = self.enter(stripes(&pages), held)?;
        let held = self.save_for_cut(&pages, cut, held)?;
        self.count(LocalCounter::Writes, write.length);
        self.carry_out(write);
        self.unlock(held);
        Ok(())
    }

    /// As [`Worker::write`] without slot and intent. A process killed in the middle leaves half of
    /// the write and odd versions; its stripes are repaired all the same. It exists only for a
    /// build that measures what the slot and the intent cost. It shares no code with
    /// `Shared::apply`, so that other builds pay nothing for it.
    fn write_in_place(
        &mut self,
        extent: Extent,
        data: &[u8],
        request: Option<RequestId>,
    ) -> Result<(), AccessError> {
        let (offset, pages) = self.locate(extent);
        let (held, cut) = self.enter(stripes(&pages), HeldLocks::NONE)?;
        let held = self.save_for_cut(&pages, cut, held)?;
        self.count(LocalCounter::Writes, data.len());
        let versions = || pages.clone().map(|page| self.shared.page_version(page));
        versions().for_each(|version| {
            version.store(version.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        });
        fence(Ordering::Release);
        self.shared
            .mapping
            .copy_in(self.shared.geometry.data + offset, data);
        versions().for_each(|version| {
            version.store(
                version.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Release,
            );
        });
        if let Some(request) = request {
            self.shared.mark_executed(request, 0);
        }
        self.unlock(held);
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
        let (held, cut) = self.enter(stripes(&pages), HeldLocks::NONE)?;
        let held = self.save_for_cut(&pages, cut, held)?;
        self.count(LocalCounter::Fills, extent.length());
        self.carry_out(&Intent {
            source: Source::Byte(byte),
            offset,
            length: extent.length(),
            request,
            result: 0,
        });
        self.unlock(held);
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
        let (mut held, cut) = self.enter(stripes(&pages), HeldLocks::NONE)?;
        let mut bytes = [0; 8];
        self.shared
            .mapping
            .copy_out(self.shared.geometry.data + offset, &mut bytes);
        let old = u64::from_le_bytes(bytes);
        if let Some(new) = operation.apply(old) {
            let (source, slot) = self.source(None);
            self.shared.mapping.copy_in(slot, &new.to_le_bytes());
            held = self.save_for_cut(&pages, cut, held)?;
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
                self.shared.mark_executed(request, old);
            }
        }
        self.unlock(held);
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
        let held = self.large_slot_for(length)?;
        let (source, slot) = self.source(held.large_slot);
        let (held, cut) = self.enter(stripes(&from_pages) | stripes(&pages), held)?;
        self.shared
            .mapping
            .copy_within(self.shared.geometry.data + from_offset, slot, length);
        let held = self.save_for_cut(&pages, cut, held)?;
        self.count(LocalCounter::Copies, length);
        self.carry_out(&Intent {
            source,
            offset,
            length,
            request,
            result: 0,
        });
        self.unlock(held);
        Ok(())
    }

    /// Carries out an operation that changes memory, on behalf of `request`. Returns the
    /// old value for an atomic, and zero for every other operation. For an operation that changes
    /// nothing it does nothing and returns zero.
    ///
    /// # Errors
    /// [`AccessError`]
    #[inline]
    pub fn change(
        &mut self,
        operation: &Operation<'_>,
        request: Option<RequestId>,
    ) -> Result<u64, AccessError> {
        match *operation {
            Operation::Write(extent, data) => self.write(extent, data, request).map(|()| 0),
            Operation::Fill(extent, byte) => self.fill(extent, byte, request).map(|()| 0),
            Operation::Atomic(word, atomic) => self.atomic(word, atomic, request),
            Operation::Copy { from, to } => self.copy(from, to, request).map(|()| 0),
            Operation::Hello(_) | Operation::Read(_) | Operation::Status | Operation::Ping(_) => {
                Ok(0)
            }
        }
    }

    /// Counts an operation of a local client. A change is counted before it is made: so
    /// [`super::Segment::activity`] misses no change, however the worker dies.
    #[inline]
    pub(super) fn count(&self, counter: LocalCounter, bytes: usize) {
        if self.permission != 0 {
            let is_read = matches!(counter, LocalCounter::Reads);
            let sum = if is_read {
                LocalCounter::BytesRead
            } else {
                LocalCounter::BytesWritten
            };
            for (counter, more) in [(counter, 1), (sum, bytes as u64)] {
                let word = self.shared.local_counter(self.index, counter);
                word.store(
                    word.load(Ordering::Relaxed).wrapping_add(more),
                    Ordering::Relaxed,
                );
            }
        }
    }

    /// The extent as an offset into the data, and its pages. Asserts that the extent was checked
    /// against this segment.
    #[inline]
    pub(super) fn locate(&self, extent: Extent) -> (usize, Range<usize>) {
        assert!(
            extent.end() <= self.shared.geometry.k as u64,
            "{extent:?} was checked against another segment"
        );
        // At most k, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        let offset = extent.offset() as usize;
        (offset, pages(offset, extent.length()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.shared.is_inherited() {
            return;
        }
        self.shared
            .intent_word(self.index, IntentField::Owner)
            .store(0, Ordering::Release);
    }
}
