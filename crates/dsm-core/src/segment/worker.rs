//! Workers: the handles through which threads read and change a segment.
//!
//! A worker guarantees that each of its operations is atomic to every other worker of any process,
//! and that an operation of a killed process is either carried out in full or not at all.

use super::attachment::SegmentAttachment;
use super::deadline::Deadline;
use super::gate::AccessError;
use super::geometry::{CACHE_LINE, SLOT, page_size};
use super::intent::{LocalCounter, pages};
use super::slot_table::SlotTable;
use crate::protocol::Extent;
use crate::sys::region::Region;
use nix::sys::socket::MsgFlags;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The most bytes that [`Worker::prefetch`] prefetches.
const MAX_PREFETCH: usize = 4 * CACHE_LINE;

/// A thread's right to work on a segment: one intent and one slot.
///
/// Every method is linearizable with every other one, of any worker of any process. If this process
/// is killed, the operation has happened in full or not at all.
pub struct Worker {
    pub(super) attachment: Arc<SegmentAttachment>,
    pub(super) index: usize,
    /// The incarnation that its operations expect.
    pub(super) incarnation: u64,
    /// The permission that the server must grant to a local client's worker; zero for other
    /// workers.
    pub(super) permission: u64,
    /// This worker restores the memory: it passes the gate, which is closed to all others.
    pub(super) restoring: bool,
    /// See [`Worker::set_waits_for_freezes`].
    waits_for_freezes: bool,
}

impl Worker {
    pub(super) fn new(attachment: Arc<SegmentAttachment>, index: usize) -> Self {
        let (incarnation, permission) = (
            attachment.tables.superblock.incarnation(),
            attachment.role.permission(),
        );
        attachment.set_deadline(index, Deadline::NEVER);
        Self {
            attachment,
            index,
            incarnation,
            permission,
            restoring: false,
            waits_for_freezes: true,
        }
    }

    /// Sets the incarnation that the following operations expect; they fail with
    /// [`AccessError::Replaced`] if the segment has another one. A new worker expects the incarnation
    /// that the segment had when the worker was made.
    #[inline]
    pub fn set_incarnation(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
    }

    /// Sets the deadline of the following operations; one that has to wait beyond it fails with
    /// [`AccessError::DeadlinePassed`]. A new worker has no deadline.
    #[inline]
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.attachment.set_deadline(self.index, deadline);
    }

    /// Whether a change waits while a snapshot has frozen the memory, as those of a new worker do.
    /// Otherwise it fails with [`AccessError::Frozen`] and has changed nothing: the
    /// caller can do other work in the meantime.
    pub fn set_waits_for_freezes(&mut self, waits: bool) {
        self.waits_for_freezes = waits;
    }

    /// Attempts a change. While the memory is frozen the attempt fails and holds no lock, for
    /// which others would wait; it is repeated after the freeze, unless the worker does not wait.
    #[inline]
    pub(super) fn across_freezes<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        loop {
            match attempt(self) {
                Err(AccessError::Frozen) if self.waits_for_freezes => {
                    self.attachment.wait_while_frozen(self.index)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// The deadline that was set last.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.attachment.deadline_of(self.index)
    }

    /// Its index, below [`super::WORKERS`]. No two workers of a segment have the same index at the
    /// same time.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Prefetches into the processor's cache what a request for `length` bytes at `offset` will
    /// need. The numbers come from a peer and are not checked yet: one that is out of bounds is
    /// ignored.
    #[inline]
    pub fn prefetch(&self, offset: u64, length: usize) {
        let tables = &self.attachment.tables;
        if let Ok(offset) = usize::try_from(offset)
            && offset < self.attachment.geometry.k
        {
            tables.pages.prefetch(offset / page_size());
            // The processor's own prefetcher fetches what follows the first lines.
            for ahead in (0..length.clamp(1, MAX_PREFETCH)).step_by(CACHE_LINE) {
                tables.data.prefetch(offset + ahead);
            }
        }
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
        let begin = SlotTable::own(self.index);
        self.slots().receive(
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
        self.slots().copy_out(SlotTable::own(self.index), buffer);
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
                let word = self.attachment.tables.intents.counter(self.index, counter);
                word.store(
                    word.load(Ordering::Relaxed).wrapping_add(more),
                    Ordering::Relaxed,
                );
            }
        }
    }

    /// The bytes of all slots.
    #[inline]
    pub(super) fn slots(&self) -> &Region {
        self.attachment.tables.slots.region()
    }

    /// The extent as an offset into the data, and its pages. Asserts that the extent was checked
    /// against this segment.
    #[inline]
    pub(super) fn locate(&self, extent: Extent) -> (usize, Range<usize>) {
        assert!(
            extent.end() <= self.attachment.geometry.k as u64,
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
        if self.attachment.is_inherited() {
            return;
        }
        self.attachment.tables.intents.free(self.index);
    }
}
