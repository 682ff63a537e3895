//! Intents: the write-ahead record of a worker, and how a committed one is carried out.
//!
//! A worker puts the new bytes into its slot, takes the stripes, and commits its intent. From then
//! on the write happens: the worker carries it out, or a repairer does after the worker's death.
//! Carrying it out twice gives the same bytes, because the stripes stay locked until the intent is
//! done.

use super::attachment::{SegmentAttachment, Tables};
use super::crash::{self, Point};
use super::geometry::{
    INTENT, INTENT_TABLE, LARGE_SLOT, LARGE_SLOTS, PARTICIPANTS, SESSIONS, SLOT, WORKERS, page_size,
};
use super::slot_table::SlotTable;
use crate::sys::mapping::Mapping;
use crate::sys::region::Region;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Set in the word of a worker's owner, beside the participant. Programs of format 3 that still have
/// the object mapped find no participant there: they would redo the change of a dead worker with
/// page versions of their format.
const OWNER_OF_FORMAT_4: u64 = 1 << 32;

/// The words of an intent, by offset.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum IntentField {
    /// The index of the participant that owns this worker, plus one, and [`OWNER_OF_FORMAT_4`];
    /// zero when the worker is free.
    Owner = 0,
    /// Zero while nothing is committed; else the number of the [`Source`].
    Kind = 8,
    Offset = 16,
    Length = 24,
    /// The large slot's index, or the byte of a fill.
    Detail = 32,
    /// Index of the session, plus one; zero for none.
    Session = 40,
    Sequence = 48,
    Result = 56,
}

impl IntentField {
    /// The words that a worker writes for each change.
    pub(super) const RECORD: [Self; 6] = [
        Self::Offset,
        Self::Length,
        Self::Detail,
        Self::Session,
        Self::Sequence,
        Self::Result,
    ];
}

/// The words of an intent's second cache line, by offset: what local clients have done with this
/// worker since the segment was made. Only the worker writes them, so counting needs no locked
/// instruction.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum LocalCounter {
    Reads = 64,
    Writes = 72,
    Fills = 80,
    Copies = 88,
    Atomics = 96,
    BytesRead = 104,
    BytesWritten = 112,
}

impl LocalCounter {
    /// The counters that grow with changes of the memory.
    pub(super) const CHANGES: [Self; 4] = [Self::Writes, Self::Fills, Self::Copies, Self::Atomics];
}

/// The last word of an intent's second cache line: how often the worker released a lock that others
/// waited for, or checked again on a lock that it waits for. Waiters see from it whether the worker
/// runs. It was added without a new format: a participant of an older version does not count, and
/// waiters treat it as making no progress until it releases the lock.
const PROGRESS: usize = 120;

/// Where the new bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The worker's own slot.
    Slot,
    /// The large slot with this index.
    LargeSlot(usize),
    /// One byte, repeated.
    Byte(u8),
}

impl Source {
    fn encode(self) -> (u64, u64) {
        match self {
            Self::Slot => (1, 0),
            Self::LargeSlot(index) => (2, index as u64),
            Self::Byte(byte) => (3, u64::from(byte)),
        }
    }

    /// `None` for a pair of numbers that [`Source::encode`] never returns.
    fn decode(kind: u64, detail: u64) -> Option<Self> {
        match kind {
            1 => Some(Self::Slot),
            2 => usize::try_from(detail)
                .ok()
                .filter(|index| *index < LARGE_SLOTS)
                .map(Self::LargeSlot),
            3 => u8::try_from(detail).ok().map(Self::Byte),
            _ => None,
        }
    }

    fn capacity(self) -> usize {
        match self {
            Self::Slot => SLOT,
            Self::LargeSlot(_) | Self::Byte(_) => LARGE_SLOT,
        }
    }
}

/// The id of a request in a session, under which its result is stored: the session may send the
/// request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Index into the session table, below [`SESSIONS`].
    pub session: usize,
    /// The request's id.
    pub sequence: u64,
}

/// A write that is ready to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) source: Source,
    /// First byte, as an offset into the data.
    pub(super) offset: usize,
    pub(super) length: usize,
    pub(super) request: Option<RequestId>,
    /// The old value that an atomic returns.
    pub(super) result: u64,
}

impl Intent {
    /// Writes the record of `worker` and commits it. The caller holds the stripes of every page that
    /// the write touches.
    #[inline]
    pub(super) fn commit(&self, intents: &IntentTable, worker: usize) {
        let store = |field, value| {
            intents.word(worker, field).store(value, Ordering::Relaxed);
        };
        let (kind, detail) = self.source.encode();
        store(IntentField::Offset, self.offset as u64);
        store(IntentField::Length, self.length as u64);
        store(IntentField::Detail, detail);
        store(
            IntentField::Session,
            self.request.map_or(0, |request| request.session as u64 + 1),
        );
        store(
            IntentField::Sequence,
            self.request.map_or(0, |request| request.sequence),
        );
        store(IntentField::Result, self.result);
        intents
            .word(worker, IntentField::Kind)
            .store(kind, Ordering::Release);
    }
}

/// See the module.
pub(super) struct IntentTable(Region);

impl IntentTable {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        Self(mapping.region(INTENT_TABLE..INTENT_TABLE + WORKERS * INTENT))
    }

    #[inline]
    pub(super) fn word(&self, worker: usize, field: IntentField) -> &AtomicU64 {
        self.0.word(worker * INTENT + field as usize)
    }

    #[inline]
    pub(super) fn counter(&self, worker: usize, counter: LocalCounter) -> &AtomicU64 {
        self.0.word(worker * INTENT + counter as usize)
    }

    pub(super) fn progress(&self, worker: usize) -> &AtomicU64 {
        self.0.word(worker * INTENT + PROGRESS)
    }

    /// The participant that owns `worker`; `None` for a free worker.
    pub(super) fn owner(&self, worker: usize) -> Option<usize> {
        // Also without the bit: a program of format 3 may own the worker.
        let owner = self
            .word(worker, IntentField::Owner)
            .load(Ordering::Acquire);
        usize::try_from(owner & !OWNER_OF_FORMAT_4)
            .ok()?
            .checked_sub(1)
            .filter(|index| *index < PARTICIPANTS)
    }

    /// Takes `worker` for a participant if it is free.
    pub(super) fn take(&self, worker: usize, participant: usize) -> bool {
        self.word(worker, IntentField::Owner)
            .compare_exchange(
                0,
                OWNER_OF_FORMAT_4 | (participant as u64 + 1),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Stores the owner of `worker`, which the caller owns, as programs of format 3 do: if this
    /// process dies, they can repair the worker.
    pub(super) fn own_as_format_3(&self, worker: usize, participant: usize) {
        self.word(worker, IntentField::Owner)
            .store(participant as u64 + 1, Ordering::Release);
    }

    /// Makes `worker` free.
    pub(super) fn free(&self, worker: usize) {
        self.word(worker, IntentField::Owner)
            .store(0, Ordering::Release);
    }

    /// Whether `worker` has committed an intent that is not carried out yet.
    pub(super) fn is_committed(&self, worker: usize) -> bool {
        self.word(worker, IntentField::Kind).load(Ordering::Acquire) != 0
    }

    /// Marks the intent of `worker` as carried out.
    #[inline]
    pub(super) fn finish(&self, worker: usize) {
        self.word(worker, IntentField::Kind)
            .store(0, Ordering::Release);
    }

    /// Reads the intent that a dead worker committed in a segment of `k` bytes; `None` if it had
    /// committed none. Another process wrote the record, so every field is checked.
    pub(super) fn committed(
        &self,
        worker: usize,
        k: usize,
    ) -> Option<Result<Intent, &'static str>> {
        self.is_committed(worker).then(|| self.load(worker, k))
    }

    fn load(&self, worker: usize, k: usize) -> Result<Intent, &'static str> {
        let word = |field| self.word(worker, field).load(Ordering::Relaxed);
        let number = |field| usize::try_from(word(field)).map_err(|_| "a number is too large");
        let source = Source::decode(word(IntentField::Kind), word(IntentField::Detail))
            .ok_or("its source is unknown")?;
        let (offset, length) = (number(IntentField::Offset)?, number(IntentField::Length)?);
        if length > source.capacity() || offset.checked_add(length).is_none_or(|end| end > k) {
            return Err("its range is outside the segment");
        }
        let request = match number(IntentField::Session)?.checked_sub(1) {
            Some(session) if session >= SESSIONS => return Err("its session is unknown"),
            session => session.map(|session| RequestId {
                session,
                sequence: word(IntentField::Sequence),
            }),
        };
        Ok(Intent {
            source,
            offset,
            length,
            request,
            result: word(IntentField::Result),
        })
    }
}

impl SegmentAttachment {
    /// Carries out a committed intent of `worker`: bytes, versions, session. The caller then marks
    /// the intent as done.
    #[inline]
    pub(super) fn apply(&self, worker: usize, intent: &Intent) {
        let pages = pages(intent.offset, intent.length);
        self.tables.pages.begin_change(pages.clone());
        // A reader that sees a new byte must also see the odd version.
        fence(Ordering::Release);
        if cfg!(debug_assertions) {
            self.copy_payload(worker, intent, intent.length / 2);
            crash::reached(Point::HalfCopied);
        }
        self.copy_payload(worker, intent, intent.length);
        crash::reached(Point::Copied);
        self.tables
            .pages
            .end_change(pages, self.tables.superblock.last_cut());
        crash::reached(Point::PagesDone);
        if let Some(request) = intent.request {
            self.tables.sessions.mark_executed(request, intent.result);
        }
    }

    /// Copies the first `length` bytes of the intent to their destination.
    #[inline]
    fn copy_payload(&self, worker: usize, intent: &Intent, length: usize) {
        let Tables { slots, data, .. } = &self.tables;
        let slot = match intent.source {
            Source::Slot => SlotTable::own(worker),
            Source::LargeSlot(index) => SlotTable::large(index),
            Source::Byte(byte) => return data.fill(intent.offset, length, byte),
        };
        slots.region().copy_to(slot, data, intent.offset, length);
    }
}

/// The pages that a range touches; none when it is empty.
#[inline]
pub(super) fn pages(offset: usize, length: usize) -> Range<usize> {
    let first = offset / page_size();
    if length == 0 {
        first..first
    } else {
        first..(offset + length - 1) / page_size() + 1
    }
}
