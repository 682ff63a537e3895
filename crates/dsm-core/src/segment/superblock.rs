//! The superblock: the identity, the format and the state of the object, and the words that all
//! participants share. An object is checked against it before it is mapped.

use super::SegmentError;
use super::geometry::{
    Geometry, INTENT, INTENT_TABLE, LARGE_SLOT, LARGE_SLOT_TABLE, LOCK_TABLE, LOCKS, PAGE_ENTRY,
    PAGE_TABLE, PARTICIPANT_TABLE, PARTICIPANTS, SESSION, SESSION_TABLE, SESSIONS, SLOT,
    SLOT_TABLE, SUPERBLOCK_AREA, WORKERS,
};
use crate::layout::{Fingerprint, Layout};
use crate::sys::mapping::Mapping;
use crate::sys::region::Region;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// "dsm-seg" and a zero byte.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"dsm-seg\0");

/// The format of the object. It changes whenever the geometry or the meaning of a field changes.
pub const FORMAT: u64 = 4;

/// The format of which [`super::upgrade`] makes this one.
const OLDER_FORMAT: u64 = 3;

/// What an error calls [`Field::Format`].
const FORMAT_FIELD: &str = "the format version";

/// Bytes at the start of the object that [`check`] looks at.
pub(super) const SIZE: usize = 128;

/// The words of the superblock, by offset.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum Field {
    Magic = 0,
    Format = 8,
    State = 16,
    K = 24,
    Index = 32,
    Geometry = 40,
    FingerprintLow = 48,
    FingerprintHigh = 56,
    // A cache line that every request reads, and that is seldom written.
    Incarnation = 64,
    /// A [`super::gate::Gate`].
    Gate = 72,
    /// The number of the latest cut.
    LastCut = 80,
    /// The most pages that its copy area may have.
    CopiesLimit = 88,
    /// Zero, or the [`permission`] of the layout whose local clients may use the segment. Added
    /// without a new format: a program that does not set it admits no local client.
    LocalAccess = 96,
    /// Zero. A later version sets a bit for what programs that do not know it must not use.
    Features = 104,
    // Counters.
    Repaired = 128,
    RedoneWrites = 136,
    CopiesTaken = 144,
    /// One more than the number of pages of the copy area that its agent has allocated; zero while
    /// no agent allocates ahead of writers. Added without a new format: while it is zero, writers
    /// allocate what they need.
    CopiesAllocated = 152,
    /// How often the server has reloaded its configuration, and how often it has refused to. Added
    /// without a new format.
    ReloadsDone = 160,
    ReloadsRefused = 168,
    // What agents record about freezes and restores. Added without a new format: zeros if an older
    // program made the segment, or was the last to freeze or restore it.
    /// When the latest freeze began, in ns of `CLOCK_MONOTONIC`.
    FrozenAt = 192,
    /// The earliest time of the next freeze, by the same clock.
    NextFreeze = 200,
    /// The two halves of the address of the master that began to restore the segment.
    RestorerLow = 208,
    RestorerHigh = 216,
}

/// The superblock of a mapped object.
pub(super) struct Superblock(Region);

/// The state of the segment; a word of the superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum State {
    /// Being created: its contents mean nothing.
    Initialising = 0,
    /// In use.
    Ready = 1,
    /// Replaced by a newer object of the same name.
    Retired = 2,
}

/// The system and server that a segment belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) k: u64,
    pub(super) index: u64,
    pub(super) fingerprint: Fingerprint,
}

impl Identity {
    pub(super) fn new(layout: &Layout, index: u32) -> Self {
        Self {
            k: layout.share_size(),
            index: u64::from(index),
            fingerprint: layout.segment_fingerprint(index),
        }
    }
}

/// A hash of all table sizes that are compiled in.
fn geometry_id() -> u64 {
    let tables = [
        PARTICIPANT_TABLE,
        LOCK_TABLE,
        INTENT_TABLE,
        SLOT_TABLE,
        LARGE_SLOT_TABLE,
        SESSION_TABLE,
        PAGE_TABLE,
    ];
    let sizes = [
        PARTICIPANTS,
        WORKERS,
        SLOT,
        LOCKS,
        SESSIONS,
        SESSION,
        INTENT,
        LARGE_SLOT,
        PAGE_ENTRY,
    ];
    tables
        .iter()
        .chain(&sizes)
        .fold(0, |id: u64, size| id.wrapping_mul(1_000_003) + *size as u64)
}

/// The first bytes of an object that is being created. They identify it as ours if its creator
/// dies.
pub(super) fn unfinished_head() -> [u8; 24] {
    let mut head = [0; 24];
    for (field, value) in [
        (Field::Magic, MAGIC),
        (Field::Format, FORMAT),
        (Field::State, State::Initialising as u64),
    ] {
        head[field as usize..field as usize + 8].copy_from_slice(&value.to_le_bytes());
    }
    head
}

impl Superblock {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        Self(mapping.region(0..SUPERBLOCK_AREA))
    }

    #[inline]
    pub(super) fn word(&self, field: Field) -> &AtomicU64 {
        self.0.word(field as usize)
    }

    /// Waits for a wake-up while the word of a field is `value`, for at most `limit`.
    pub(super) fn wait(&self, field: Field, value: u64, limit: Duration) {
        // Whatever ended the wait, the caller looks again.
        let _ = self.0.wait(field as usize, value, limit);
    }

    /// Wakes all who wait for a change of a field.
    pub(super) fn wake_waiters(&self, field: Field) {
        self.0.wake_waiters(field as usize);
    }

    /// Writes the superblock of a new object except the state, which stays
    /// [`State::Initialising`].
    pub(super) fn write(&self, identity: &Identity, incarnation: u64) {
        for (field, value) in [
            (Field::Format, FORMAT),
            (Field::K, identity.k),
            (Field::Index, identity.index),
            (Field::Geometry, geometry_id()),
            (Field::Incarnation, incarnation),
            (Field::Magic, MAGIC),
        ] {
            self.word(field).store(value, Ordering::Relaxed);
        }
        self.write_fingerprint(identity.fingerprint);
    }

    /// Records the layout that the server serves.
    pub(super) fn write_fingerprint(&self, fingerprint: Fingerprint) {
        let (low, high) = halves(fingerprint);
        self.word(Field::FingerprintLow)
            .store(low, Ordering::Relaxed);
        self.word(Field::FingerprintHigh)
            .store(high, Ordering::Relaxed);
    }

    /// Marks the object as one of this format.
    pub(super) fn write_format(&self) {
        self.word(Field::Format).store(FORMAT, Ordering::Release);
    }

    /// Whether the segment was last served with this layout.
    pub(super) fn has_fingerprint(&self, fingerprint: Fingerprint) -> bool {
        let low = self.word(Field::FingerprintLow).load(Ordering::Relaxed);
        let high = self.word(Field::FingerprintHigh).load(Ordering::Relaxed);
        (low, high) == halves(fingerprint)
    }

    /// Sets the state. A participant that sees it also sees everything that was written before.
    pub(super) fn set_state(&self, state: State) {
        self.word(Field::State)
            .store(state as u64, Ordering::Release);
    }

    /// Whether the segment can be used.
    pub(super) fn is_ready(&self) -> bool {
        self.word(Field::State).load(Ordering::Acquire) == State::Ready as u64
    }

    /// The number of the latest cut; zero before the first.
    #[inline]
    pub(super) fn last_cut(&self) -> u64 {
        self.word(Field::LastCut).load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn incarnation(&self) -> u64 {
        self.word(Field::Incarnation).load(Ordering::Acquire)
    }
}

/// The value of [`Field::LocalAccess`] while local clients of a layout are admitted; never zero. It
/// depends on the layout: a client whose layout is not served any more finds another number with
/// the check that it makes anyway.
pub(super) fn permission(fingerprint: Fingerprint) -> u64 {
    halves(fingerprint).0 | 1
}

fn halves(fingerprint: Fingerprint) -> (u64, u64) {
    let number = u128::from_le_bytes(fingerprint.0);
    // The two halves of 16 bytes.
    #[allow(clippy::cast_possible_truncation)]
    (number as u64, (number >> 64) as u64)
}

/// The result of a check of an object's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It fits and can be opened.
    Ready,
    /// It fits once it is upgraded from the older format.
    Older,
    /// Its creator died before it was ready: its contents mean nothing.
    Unfinished,
    /// A newer object has replaced it.
    Retired,
}

/// Checks an object of `size` bytes by a copy of its first [`SIZE`] bytes, before the object is
/// mapped.
pub(super) fn check(
    name: &str,
    bytes: &[u8; SIZE],
    size: u64,
    identity: &Identity,
    geometry: &Geometry,
) -> Result<Verdict, SegmentError> {
    let word = |field: Field| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[field as usize..field as usize + 8]);
        u64::from_le_bytes(eight)
    };
    let mismatch = |field, found: String, expected: String| {
        Err(SegmentError::Mismatch {
            name: name.to_owned(),
            field,
            found,
            expected,
        })
    };
    let magic = word(Field::Magic);
    if magic != MAGIC {
        return mismatch(
            "the magic",
            format!("{magic:#018x}"),
            format!("{MAGIC:#018x}"),
        );
    }
    let format = word(Field::Format);
    if format != FORMAT && format != OLDER_FORMAT {
        return mismatch(FORMAT_FIELD, format.to_string(), FORMAT.to_string());
    }
    if word(Field::State) == State::Initialising as u64 {
        return Ok(Verdict::Unfinished);
    }
    for (what, field, expected) in [
        ("k", Field::K, identity.k),
        ("the server index", Field::Index, identity.index),
        (
            "the identity of the table sizes",
            Field::Geometry,
            geometry_id(),
        ),
    ] {
        if word(field) != expected {
            return mismatch(what, word(field).to_string(), expected.to_string());
        }
    }
    if size != geometry.total as u64 {
        return mismatch(
            "the size in bytes",
            size.to_string(),
            geometry.total.to_string(),
        );
    }
    let features = word(Field::Features);
    if features != 0 {
        return mismatch(
            "the set of features",
            format!("{features:#x}"),
            "0".to_owned(),
        );
    }
    match word(Field::State) {
        state if state == State::Ready as u64 && format == OLDER_FORMAT => Ok(Verdict::Older),
        state if state == State::Ready as u64 => Ok(Verdict::Ready),
        state if state == State::Retired as u64 => Ok(Verdict::Retired),
        state => mismatch(
            "the state",
            state.to_string(),
            format!("{}", State::Ready as u64),
        ),
    }
}
