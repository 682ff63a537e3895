//! Workers: threads that read and write a segment. Everything that happens to the data happens
//! here.

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

/// Races that a reader may lose against writers before it takes the stripes. None in a build that
/// measures what reads without locks are worth.
const OPTIMISTIC_READS: u32 = if cfg!(dsm_bench_without = "optimistic-reads") {
    0
} else {
    8
};

/// The most pages that a request touches: the longest request, not aligned.
#[allow(clippy::cast_possible_truncation)] // 257
const MAX_PAGES: usize = (MAX_ATOMIC / crate::layout::PAGE) as usize + 1;

/// Up to this many pages a reader keeps their versions in a small array: clearing a large one costs
/// more than the read.
const FEW_PAGES: usize = 4;

/// Bytes that are fetched for a request that was announced.
const ANNOUNCED: usize = 4 * LINE;

/// A thread's right to work on a segment: an intent and a slot of its own.
///
/// Every method is linearizable with every other, by any worker of any process, and happens wholly
/// or not at all whenever this process is killed.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    index: usize,
    /// The memory that it means to work on.
    incarnation: u64,
    /// What a local client's worker needs of the server; zero for others.
    permission: u64,
    /// It replaces the memory: the gate is shut by its owner, and not for it.
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

    /// Says which memory all that follows means: it is refused with [`Shut::Replaced`] for another
    /// one. At first it is that of when the worker was made.
    #[inline]
    pub fn expect(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
    }

    /// Says until when all that follows may wait for others: then it is refused with
    /// [`Shut::Late`]. At first there is no such instant.
    #[inline]
    pub fn wait_until(&mut self, deadline: Deadline) {
        self.shared.set_deadline(self.index, deadline);
    }

    /// What it was told last.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.shared.deadline_of(self.index)
    }

    /// Its number, below [`super::WORKERS`]; no two workers of a segment have the same at a time.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether a change would have to wait now, because the memory stands still for a snapshot.
    #[inline]
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.shared.is_frozen()
    }

    /// Says that a request for `length` bytes at `offset` will follow soon, of which nothing is
    /// believed yet: the processor fetches what is needed first.
    #[inline]
    pub fn announce(&self, offset: u64, length: usize) {
        let geometry = &self.shared.geometry;
        if let Ok(offset) = usize::try_from(offset)
            && offset < geometry.k
        {
            self.shared
                .mapping
                .prefetch(geometry.page_version(offset / page_size()));
            // The processor itself goes on with what lies behind the first lines.
            for ahead in (0..length.clamp(1, ANNOUNCED)).step_by(LINE) {
                self.shared.mapping.prefetch(geometry.data + offset + ahead);
            }
        }
    }

    /// Copies the extent's bytes into `buffer`, which has the extent's length. Takes no lock unless
    /// it loses several races against writers. What is in the buffer after a refusal means nothing.
    ///
    /// # Errors
    /// [`Shut`], as for every method that follows: the memory is not there to be used, or a page of
    /// it not now. Nothing was changed.
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

    /// Receives what has come on `socket`: into `head` until that is full, then into this worker's
    /// slot, to the bytes of this range, then into `tail`. Returns how many bytes came. Whatever
    /// else this worker does may overwrite what is in its slot, until [`Worker::write_received`].
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

    /// Copies what was received into the first bytes of the slot.
    ///
    /// # Panics
    /// When the buffer is longer than the slot.
    pub fn copy_received(&self, buffer: &mut [u8]) {
        assert!(buffer.len() <= SLOT, "more than the slot");
        self.shared
            .mapping
            .copy_out(Geometry::slot(self.index), buffer);
    }

    /// As [`Worker::write`], of the bytes that [`Worker::receive`] has put into the slot.
    ///
    /// # Errors
    /// As [`Worker::write`].
    ///
    /// # Panics
    /// When it is longer than the slot.
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

    /// Carries out the write of what is in a slot, which is held if it is a large one.
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

    /// As [`Worker::write`], but a death in the middle leaves half of it, odd versions, and stripes
    /// that are repaired all the same: nothing says what was to be done. Only for a build that
    /// measures what the slot and the intent cost; else as `Shared::apply`, which is not shared
    /// with it so that this leaves no trace in other builds.
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
                // Nothing changes, so there is nothing to redo: killed before this, the comparison
                // is made again.
                self.shared.mark_executed(mark, old);
            }
        }
        self.unlock(held);
        Ok(old)
    }

    /// Copies `from` to `to`, which have one length and may overlap.
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

    /// Carries out an operation that changes memory, for `mark`. Returns the old value of an
    /// atomic, else zero; so it does, without doing anything, for an operation that changes
    /// nothing.
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

    /// Ends a read of `length` bytes, which are copied.
    #[inline]
    fn check_read(&self, length: usize) -> Result<(), Shut> {
        self.shared
            .check_reader(self.incarnation, self.permission)?;
        self.count(LocalCounter::Reads, length);
        Ok(())
    }

    /// Counts what a local client does. A change is counted before it is made: however its worker
    /// dies, no change is missed by whoever looks for changes.
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

    /// The extent as an offset into the data, and its pages. Asserts what [`Extent`] has promised
    /// for this segment.
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

    /// One try: versions, bytes, versions again. `true` when no writer was inside: then at the
    /// instant between the two looks every page stood as it was copied.
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
        // The second look must not happen before the copy.
        fence(Ordering::Acquire);
        pages.zip(versions.iter()).all(|(page, version)| {
            self.shared.page_version(page).load(Ordering::Relaxed) == *version
        })
    }

    /// Takes a large slot when `length` needs one. Large slots come before stripes in the order of
    /// locks.
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

    /// Where a payload lands, as a source and as an offset into the mapping.
    #[inline]
    fn source(&self, large_slot: Option<usize>) -> (Source, usize) {
        match large_slot {
            Some(index) => (Source::LargeSlot(index), Geometry::large_slot(index)),
            None => (Source::Slot, Geometry::slot(self.index)),
        }
    }

    /// Takes the stripes for a change beside the large slot that may be held, once the gate lets it
    /// pass. Returns for which cut pages must be saved. After a refusal nothing is held.
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

    /// Gives the stripes back and waits while the gate is frozen. After an error nothing is held.
    #[cold]
    fn step_aside(&self, mut held: Held) -> Result<Held, Shut> {
        self.unlock_stripes(&held);
        held.stripes = 0;
        self.or_unlock(self.shared.wait_while_frozen(self.index), held)
    }

    /// Saves what is about to be changed and the cut still needs. After an error nothing is held.
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

    /// Takes the stripes of the mask in ascending order, the order of all workers, beside what is
    /// held. After an error nothing is held.
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

    /// Commits the intent, carries it out and ends it. The stripes are held.
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
