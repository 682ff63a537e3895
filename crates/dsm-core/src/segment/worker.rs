//! Workers: the only code that reads and writes the data of a segment.
//!
//! A worker guarantees that each of its operations is atomic to every other worker of any process,
//! and that an operation of a killed process is either carried out in full or not at all.

use super::crash::{self, Point};
use super::critical::Held;
use super::deadline::Deadline;
use super::gate::Shut;
use super::geometry::{Geometry, LARGE_SLOTS, LINE, SLOT, bits, page_size, stripes};
use super::intent::{Intent, IntentField, LocalCounter, Mark, Source, pages};
use super::shared::Shared;
use crate::layout::MAX_ATOMIC;
use crate::protocol::{AtomicOperation, Extent, Operation, Word};
use nix::sys::socket::MsgFlags;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// How often a reader retries after a race against a writer before it takes the stripes. Zero in a
/// build that measures what reads without locks are worth.
const OPTIMISTIC_READS: u32 = if cfg!(dsm_bench_without = "optimistic-reads") {
    0
} else {
    8
};

/// The most pages that one request touches: the longest request, not aligned.
#[allow(clippy::cast_possible_truncation)] // 257
const MAX_PAGES: usize = (MAX_ATOMIC / crate::layout::PAGE) as usize + 1;

/// A read of at most this many pages keeps their versions in a small array: clearing a large one
/// costs more than the read.
const FEW_PAGES: usize = 4;

/// The most bytes that [`Worker::announce`] prefetches.
const ANNOUNCED: usize = 4 * LINE;

/// A thread's right to work on a segment: one intent and one slot.
///
/// Every method is linearizable with every other one, of any worker of any process. If this process
/// is killed, the operation has happened in full or not at all.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    index: usize,
    /// The incarnation that its operations expect.
    incarnation: u64,
    /// The permission that the server must grant to a local client's worker; zero for other
    /// workers.
    permission: u64,
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

    /// Sets the incarnation that the following operations expect; they fail with [`Shut::Replaced`]
    /// if the segment has another one. A new worker expects the incarnation that the segment had
    /// when the worker was made.
    #[inline]
    pub fn expect(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
    }

    /// Sets the deadline of the following operations; one that has to wait beyond it fails with
    /// [`Shut::Late`]. A new worker has no deadline.
    #[inline]
    pub fn wait_until(&mut self, deadline: Deadline) {
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
    pub fn announce(&self, offset: u64, length: usize) {
        let geometry = &self.shared.geometry;
        if let Ok(offset) = usize::try_from(offset)
            && offset < geometry.k
        {
            self.shared
                .mapping
                .prefetch(geometry.page_version(offset / page_size()));
            // The processor's own prefetcher fetches what follows the first lines.
            for ahead in (0..length.clamp(1, ANNOUNCED)).step_by(LINE) {
                self.shared.mapping.prefetch(geometry.data + offset + ahead);
            }
        }
    }

    /// Copies the extent's bytes into `buffer`, which has the extent's length. Takes no lock unless
    /// it loses several races against writers. After an error the content of the buffer is
    /// undefined.
    ///
    /// # Errors
    /// [`Shut`], as for every method that follows: the memory, or a page of it, cannot be used now.
    /// Nothing was changed.
    ///
    /// # Panics
    /// When the lengths differ, or the extent was checked against another segment.
    #[inline]
    pub fn read(&mut self, extent: Extent, buffer: &mut [u8]) -> Result<(), Shut> {
        assert_eq!(extent.length(), buffer.len(), "buffer and extent");
        let (offset, pages) = self.place(extent);
        let mut few = [0; FEW_PAGES];
        let mut many;
        let versions: &mut [u64] = if pages.len() <= FEW_PAGES {
            &mut few
        } else {
            many = [0; MAX_PAGES];
            &mut many
        };
        for _ in 0..OPTIMISTIC_READS {
            if self.read_optimistically(offset, pages.clone(), versions, buffer) {
                return self.check_read(buffer.len());
            }
            std::hint::spin_loop();
        }
        let held = self.lock(stripes(&pages), Held::NOTHING)?;
        self.shared
            .mapping
            .copy_out(self.shared.geometry.data + offset, buffer);
        self.unlock(held);
        self.check_read(buffer.len())
    }

    /// Writes `data`, which has the extent's length.
    ///
    /// # Errors
    /// [`Shut`]
    ///
    /// # Panics
    /// When the lengths differ, or the extent was checked against another segment.
    #[inline]
    pub fn write(&mut self, extent: Extent, data: &[u8], mark: Option<Mark>) -> Result<(), Shut> {
        assert_eq!(extent.length(), data.len(), "data and extent");
        if cfg!(dsm_bench_without = "crash-safety") {
            return self.write_in_place(extent, data, mark);
        }
        let (offset, _) = self.place(extent);
        let held = self.large_slot_for(data.len())?;
        let (source, slot) = self.source(held.large_slot);
        self.shared.mapping.copy_in(slot, data);
        self.write_from_slot(
            &Intent {
                source,
                offset,
                length: data.len(),
                mark,
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
    pub fn write_received(&mut self, extent: Extent, mark: Option<Mark>) -> Result<(), Shut> {
        assert!(extent.length() <= SLOT, "more than the slot");
        let (offset, _) = self.place(extent);
        let write = Intent {
            source: Source::Slot,
            offset,
            length: extent.length(),
            mark,
            result: 0,
        };
        self.write_from_slot(&write, Held::NOTHING)
    }

    /// Writes the content of a slot. `held` includes the slot if it is a large one.
    #[inline]
    fn write_from_slot(&mut self, write: &Intent, held: Held) -> Result<(), Shut> {
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
        mark: Option<Mark>,
    ) -> Result<(), Shut> {
        let (offset, pages) = self.place(extent);
        let (held, cut) = self.enter(stripes(&pages), Held::NOTHING)?;
        let held = self.save_for_cut(&pages, cut, held)?;
        self.count(LocalCounter::Writes, data.len());
        let versions = || pages.clone().map(|page| self.shared.page_version(page));
        versions().for_each(|version| {
            version.store(version.load(Ordering::Relaxed) | 1, Ordering::Relaxed)
        });
        fence(Ordering::Release);
        self.shared
            .mapping
            .copy_in(self.shared.geometry.data + offset, data);
        versions().for_each(|version| {
            version.store(
                version.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Release,
            )
        });
        if let Some(mark) = mark {
            self.shared.mark_executed(mark, 0);
        }
        self.unlock(held);
        Ok(())
    }

    /// Sets every byte of the extent to `byte`.
    ///
    /// # Errors
    /// [`Shut`]
    pub fn fill(&mut self, extent: Extent, byte: u8, mark: Option<Mark>) -> Result<(), Shut> {
        let (offset, pages) = self.place(extent);
        let (held, cut) = self.enter(stripes(&pages), Held::NOTHING)?;
        let held = self.save_for_cut(&pages, cut, held)?;
        self.count(LocalCounter::Fills, extent.length());
        self.carry_out(&Intent {
            source: Source::Byte(byte),
            offset,
            length: extent.length(),
            mark,
            result: 0,
        });
        self.unlock(held);
        Ok(())
    }

    /// Changes a word and returns what it was.
    ///
    /// # Errors
    /// [`Shut`]
    #[inline]
    pub fn atomic(
        &mut self,
        word: Word,
        operation: AtomicOperation,
        mark: Option<Mark>,
    ) -> Result<u64, Shut> {
        let (offset, pages) = self.place(word.extent());
        let (mut held, cut) = self.enter(stripes(&pages), Held::NOTHING)?;
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
                mark,
                result: old,
            });
        } else {
            self.count(LocalCounter::Atomics, 8);
            if let Some(mark) = mark {
                // Nothing changes, so there is nothing to redo: if this process is killed before
                // this line, the client's retry compares again.
                self.shared.mark_executed(mark, old);
            }
        }
        self.unlock(held);
        Ok(old)
    }

    /// Copies `from` to `to`, which have the same length and may overlap.
    ///
    /// # Errors
    /// [`Shut`]
    ///
    /// # Panics
    /// When the lengths differ, or an extent was checked against another segment.
    pub fn copy(&mut self, from: Extent, to: Extent, mark: Option<Mark>) -> Result<(), Shut> {
        assert_eq!(from.length(), to.length(), "the two extents");
        let ((from_offset, from_pages), (offset, pages)) = (self.place(from), self.place(to));
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
            mark,
            result: 0,
        });
        self.unlock(held);
        Ok(())
    }

    /// Carries out an operation that changes memory, on behalf of the request `mark`. Returns the
    /// old value for an atomic, and zero for every other operation. For an operation that changes
    /// nothing it does nothing and returns zero.
    ///
    /// # Errors
    /// [`Shut`]
    #[inline]
    pub fn change(&mut self, operation: &Operation<'_>, mark: Option<Mark>) -> Result<u64, Shut> {
        match *operation {
            Operation::Write(extent, data) => self.write(extent, data, mark).map(|()| 0),
            Operation::Fill(extent, byte) => self.fill(extent, byte, mark).map(|()| 0),
            Operation::Atomic(word, atomic) => self.atomic(word, atomic, mark),
            Operation::Copy { from, to } => self.copy(from, to, mark).map(|()| 0),
            Operation::Hello(_) | Operation::Read(_) | Operation::Status | Operation::Ping(_) => {
                Ok(0)
            }
        }
    }

    /// Checks the gate, the permission and the incarnation after the copy of a read, and counts it.
    #[inline]
    fn check_read(&self, length: usize) -> Result<(), Shut> {
        self.shared
            .check_reader(self.incarnation, self.permission)?;
        self.count(LocalCounter::Reads, length);
        Ok(())
    }

    /// Counts an operation of a local client. A change is counted before it is made: so
    /// [`super::Segment::activity`] misses no change, however the worker dies.
    #[inline]
    fn count(&self, counter: LocalCounter, bytes: usize) {
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
    fn place(&self, extent: Extent) -> (usize, Range<usize>) {
        assert!(
            extent.end() <= self.shared.geometry.k as u64,
            "{extent:?} was checked against another segment"
        );
        // At most k, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        let offset = extent.offset() as usize;
        (offset, pages(offset, extent.length()))
    }

    /// Makes one attempt: versions, bytes, versions again. Returns `true` if no writer was inside:
    /// then, at the instant between the two loads of the versions, every page had the bytes that
    /// were copied.
    #[inline]
    fn read_optimistically(
        &self,
        offset: usize,
        pages: Range<usize>,
        versions: &mut [u64],
        buffer: &mut [u8],
    ) -> bool {
        for (page, version) in pages.clone().zip(versions.iter_mut()) {
            *version = self.shared.page_version(page).load(Ordering::Acquire);
            if *version & 1 == 1 {
                return false;
            }
        }
        self.shared
            .mapping
            .copy_out(self.shared.geometry.data + offset, buffer);
        // The second load of the versions must not move before the copy.
        fence(Ordering::Acquire);
        pages.zip(versions.iter()).all(|(page, version)| {
            self.shared.page_version(page).load(Ordering::Relaxed) == *version
        })
    }

    /// Takes a large slot if `length` needs one. Large slots come before stripes in the lock order.
    #[inline]
    fn large_slot_for(&self, length: usize) -> Result<Held, Shut> {
        if length <= SLOT {
            return Ok(Held::NOTHING);
        }
        let free = (0..LARGE_SLOTS).find(|index| self.shared.try_lock(*index, self.index));
        let index = free.unwrap_or(self.index % LARGE_SLOTS);
        if free.is_none() {
            self.shared.lock(index, self.index)?;
        }
        Ok(Held {
            stripes: 0,
            large_slot: Some(index),
        })
    }

    /// Where the new bytes of a change wait, as a source and as an offset into the mapping.
    #[inline]
    fn source(&self, large_slot: Option<usize>) -> (Source, usize) {
        match large_slot {
            Some(index) => (Source::LargeSlot(index), Geometry::large_slot(index)),
            None => (Source::Slot, Geometry::slot(self.index)),
        }
    }

    /// Takes the stripes for a change in addition to what is held, and passes the gate. Returns the
    /// number of the cut for which pages must be saved, if there is one. After an error nothing is
    /// held.
    #[inline]
    fn enter(&self, stripes: u64, mut held: Held) -> Result<(Held, Option<u32>), Shut> {
        loop {
            held = self.lock(stripes, held)?;
            if self.restoring {
                return Ok((held, None));
            }
            match self.shared.pass(self.incarnation, self.permission) {
                Ok(cut) => return Ok((held, cut)),
                Err(None) => held = self.step_aside(held)?,
                Err(Some(shut)) => {
                    self.unlock(held);
                    return Err(shut);
                }
            }
        }
    }

    /// Releases the stripes and waits while the gate is frozen. After an error nothing is held.
    #[cold]
    fn step_aside(&self, mut held: Held) -> Result<Held, Shut> {
        self.unlock_stripes(&held);
        held.stripes = 0;
        self.or_unlock(self.shared.wait_while_frozen(self.index), held)
    }

    /// Saves the pages that the change is about to overwrite and the cut still needs. After an
    /// error nothing is held.
    #[inline(always)]
    #[allow(clippy::inline_always)] // else it is a call of each change
    fn save_for_cut(
        &self,
        pages: &Range<usize>,
        cut: Option<u32>,
        held: Held,
    ) -> Result<Held, Shut> {
        match cut {
            Some(number) => {
                self.or_unlock(self.shared.save_for_cut(pages, number, self.index), held)
            }
            None => Ok(held),
        }
    }

    #[cold]
    fn or_unlock(&self, outcome: Result<(), Shut>, held: Held) -> Result<Held, Shut> {
        match outcome {
            Ok(()) => Ok(held),
            Err(shut) => {
                self.unlock(held);
                Err(shut)
            }
        }
    }

    /// Takes the stripes of the mask in addition to what is held, in ascending order: all workers
    /// use this order, so no two of them can deadlock. After an error nothing is held.
    #[inline(always)]
    #[allow(clippy::inline_always)] // else it is a call of each change
    fn lock(&self, stripes: u64, mut held: Held) -> Result<Held, Shut> {
        for stripe in bits(stripes) {
            if let Err(shut) = self.shared.lock(LARGE_SLOTS + stripe, self.index) {
                self.unlock(held);
                return Err(shut);
            }
            held.stripes |= 1 << stripe;
        }
        crash::reached(Point::Locked);
        Ok(held)
    }

    #[inline]
    fn unlock(&self, held: Held) {
        self.unlock_stripes(&held);
        if let Some(index) = held.large_slot {
            self.shared.unlock(index, self.index);
        }
        std::mem::forget(held);
    }

    #[inline]
    fn unlock_stripes(&self, held: &Held) {
        crash::reached(Point::Done);
        for stripe in bits(held.stripes) {
            self.shared.unlock(LARGE_SLOTS + stripe, self.index);
            crash::reached(Point::HalfUnlocked);
        }
    }

    /// Commits the intent, carries it out and ends it. The caller holds the stripes.
    #[inline]
    fn carry_out(&self, intent: &Intent) {
        intent.commit(&self.shared, self.index);
        crash::reached(Point::Committed);
        self.shared.apply(self.index, intent);
        self.shared
            .intent_word(self.index, IntentField::Kind)
            .store(0, Ordering::Release);
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
