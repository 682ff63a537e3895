//! Intents: the write-ahead record of a worker, and how it is carried out.
//!
//! A worker puts the new bytes into its slot, takes the stripes, and marks its intent committed.
//! From then on the write happens, whoever carries it out: the worker itself, or after its death a
//! repairer. Carrying it out twice gives the same bytes, because the stripes stay taken until the
//! intent is done.

use super::crash::{self, Point};
use super::geometry::{Geometry, LARGE_SLOT, LARGE_SLOTS, SESSIONS, SLOT, page_size};
use super::shared::Shared;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The words of an intent, by offset.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum IntentField {
    /// Index of the participant whose worker this is, plus one; zero when no worker has it.
    Owner = 0,
    /// Zero, or the number of a [`Kind`]: then the intent is committed.
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
    /// What a worker writes anew with each change.
    pub(super) const RECORD: [Self; 6] = [
        Self::Offset,
        Self::Length,
        Self::Detail,
        Self::Session,
        Self::Sequence,
        Self::Result,
    ];
}

/// The words of an intent's second line, by offset: what local clients have done with this worker
/// since the segment was made. Only the worker writes them, so counting needs no locked
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
    /// Those that grow with every change of the memory.
    pub(super) const CHANGES: [Self; 4] = [Self::Writes, Self::Fills, Self::Copies, Self::Atomics];
}

/// The last word of an intent's second line: how often the worker gave back a lock for which others
/// waited, or looked again for one itself. By this the others know whether it runs. Part of no
/// format: a participant of a version that does not count is waited for as if it made no progress,
/// until it gives back what is waited for.
const PROGRESS: usize = 120;

/// Where the new bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The worker's own slot.
    Slot,
    /// This large slot.
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

/// The request that a write carries out, for a session that may ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Index into the session table, below [`SESSIONS`].
    pub session: usize,
    /// The request's id.
    pub sequence: u64,
}

/// A write that is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) source: Source,
    /// First byte, as an offset into the data.
    pub(super) offset: usize,
    pub(super) length: usize,
    pub(super) mark: Option<Mark>,
    /// The old value that an atomic returns.
    pub(super) result: u64,
}

impl Intent {
    /// Writes the record and commits it. The caller holds the stripes of every page that it
    /// touches.
    #[inline]
    pub(super) fn commit(&self, shared: &Shared, worker: usize) {
        let store = |field, value| {
            shared
                .intent_word(worker, field)
                .store(value, Ordering::Relaxed)
        };
        let (kind, detail) = self.source.encode();
        store(IntentField::Offset, self.offset as u64);
        store(IntentField::Length, self.length as u64);
        store(IntentField::Detail, detail);
        store(
            IntentField::Session,
            self.mark.map_or(0, |mark| mark.session as u64 + 1),
        );
        store(
            IntentField::Sequence,
            self.mark.map_or(0, |mark| mark.sequence),
        );
        store(IntentField::Result, self.result);
        shared
            .intent_word(worker, IntentField::Kind)
            .store(kind, Ordering::Release);
    }

    /// Reads back what a dead worker committed; `None` when it had committed nothing. Its record
    /// was written by another process, so nothing in it is believed unchecked.
    pub(super) fn load_committed(
        shared: &Shared,
        worker: usize,
    ) -> Option<Result<Self, &'static str>> {
        let kind = shared
            .intent_word(worker, IntentField::Kind)
            .load(Ordering::Acquire);
        (kind != 0).then(|| Self::load(shared, worker, kind))
    }

    fn load(shared: &Shared, worker: usize, kind: u64) -> Result<Self, &'static str> {
        let word = |field| shared.intent_word(worker, field).load(Ordering::Relaxed);
        let number = |field| usize::try_from(word(field)).map_err(|_| "a number is too large");
        let source =
            Source::decode(kind, word(IntentField::Detail)).ok_or("its source is unknown")?;
        let (offset, length) = (number(IntentField::Offset)?, number(IntentField::Length)?);
        if length > source.capacity()
            || offset
                .checked_add(length)
                .is_none_or(|end| end > shared.geometry.k)
        {
            return Err("its range is outside the segment");
        }
        let mark = match number(IntentField::Session)?.checked_sub(1) {
            Some(session) if session >= SESSIONS => return Err("its session is unknown"),
            session => session.map(|session| Mark {
                session,
                sequence: word(IntentField::Sequence),
            }),
        };
        Ok(Self {
            source,
            offset,
            length,
            mark,
            result: word(IntentField::Result),
        })
    }
}

impl Shared {
    #[inline]
    pub(super) fn intent_word(&self, worker: usize, field: IntentField) -> &AtomicU64 {
        self.mapping.word(Geometry::intent(worker) + field as usize)
    }

    #[inline]
    pub(super) fn local_counter(&self, worker: usize, counter: LocalCounter) -> &AtomicU64 {
        self.mapping
            .word(Geometry::intent(worker) + counter as usize)
    }

    pub(super) fn progress(&self, worker: usize) -> &AtomicU64 {
        self.mapping.word(Geometry::intent(worker) + PROGRESS)
    }

    /// Carries out a committed intent of `worker`: bytes, versions, session. Not the end of the
    /// intent itself.
    #[inline]
    pub(super) fn apply(&self, worker: usize, intent: &Intent) {
        let pages = pages(intent.offset, intent.length);
        for page in pages.clone() {
            // `| 1`: a redo finds odd versions where the dead worker had begun.
            let version = self.page_version(page);
            version.store(version.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        }
        // No byte may be seen before the odd versions are.
        fence(Ordering::Release);
        if cfg!(debug_assertions) {
            self.place(worker, intent, intent.length / 2);
            crash::reached(Point::HalfCopied);
        }
        self.place(worker, intent, intent.length);
        crash::reached(Point::Copied);
        for page in pages {
            let version = self.page_version(page);
            version.store(
                version.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Release,
            );
        }
        crash::reached(Point::PagesDone);
        if let Some(mark) = intent.mark {
            self.mark_executed(mark, intent.result);
        }
    }

    /// Copies the first `length` bytes of the intent to their place.
    #[inline]
    fn place(&self, worker: usize, intent: &Intent, length: usize) {
        let to = self.geometry.data + intent.offset;
        match intent.source {
            Source::Slot => self.mapping.copy_within(Geometry::slot(worker), to, length),
            Source::LargeSlot(index) => {
                self.mapping
                    .copy_within(Geometry::large_slot(index), to, length)
            }
            Source::Byte(byte) => self.mapping.fill(to, length, byte),
        }
    }

    #[inline]
    pub(super) fn page_version(&self, page: usize) -> &AtomicU64 {
        self.mapping.word(self.geometry.page_version(page))
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
