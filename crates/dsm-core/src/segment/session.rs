//! The session table: which requests of each session were executed, so that a request that is sent
//! again is not executed again.
//!
//! Only the server writes it, under a lock of its process for each session. A repairer writes it
//! for a server that died.

use super::Segment;
use super::geometry::{SESSION, SESSION_TABLE, SESSIONS};
use super::intent::RequestId;
use crate::protocol::WINDOW;
use crate::sys::mapping::Mapping;
use crate::sys::region::Region;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The words of a session, by offset; the results follow at 64.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
enum SessionField {
    IdLow = 0,
    IdHigh = 8,
    /// 1 when the entry is in use.
    Used = 16,
    LastExecuted = 24,
    /// When the session was last used, in nanoseconds since 1970, but never before a session that
    /// was used earlier: the order in which entries are evicted after a restart. A running server
    /// keeps this order in its own memory.
    Opened = 32,
}

const RESULTS: usize = 64;
const _: () = assert!(RESULTS as u64 + WINDOW * 8 == SESSION as u64);

/// See the module.
pub(super) struct SessionRecords(Region);

impl SessionRecords {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        Self(mapping.region(SESSION_TABLE..SESSION_TABLE + SESSIONS * SESSION))
    }

    #[inline]
    fn word(&self, session: usize, field: SessionField) -> &AtomicU64 {
        self.0.word(session * SESSION + field as usize)
    }

    #[inline]
    fn result(&self, request: RequestId) -> &AtomicU64 {
        // Below WINDOW.
        #[allow(clippy::cast_possible_truncation)]
        let index = (request.sequence % WINDOW) as usize;
        self.0.word(request.session * SESSION + RESULTS + index * 8)
    }

    /// Records that a request was executed and its result. Idempotent. If the process is killed in
    /// the middle, nothing is recorded.
    #[inline]
    pub(super) fn mark_executed(&self, request: RequestId, result: u64) {
        self.result(request).store(result, Ordering::Relaxed);
        self.word(request.session, SessionField::LastExecuted)
            .store(request.sequence, Ordering::Release);
    }
}

/// An entry of the session table that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEntry {
    /// Index into the table.
    pub index: usize,
    /// The random id that the client chose.
    pub id: [u8; 16],
    /// When it was last used, in nanoseconds since 1970; later than for any session that was used
    /// before it.
    pub opened: u64,
}

impl Segment {
    /// Every session in the table.
    pub fn sessions(&self) -> impl Iterator<Item = SessionEntry> + '_ {
        (0..SESSIONS).filter_map(|index| {
            let word = |field| {
                self.attachment
                    .tables
                    .sessions
                    .word(index, field)
                    .load(Ordering::Acquire)
            };
            (word(SessionField::Used) == 1).then(|| {
                let mut id = [0; 16];
                id[..8].copy_from_slice(&word(SessionField::IdLow).to_le_bytes());
                id[8..].copy_from_slice(&word(SessionField::IdHigh).to_le_bytes());
                SessionEntry {
                    index,
                    id,
                    opened: word(SessionField::Opened),
                }
            })
        })
    }

    /// Assigns entry `index` to the session `id`, which has executed nothing yet. If the process is
    /// killed in the middle, the entry is free.
    pub fn begin_session(&self, index: usize, id: [u8; 16], now: u64) {
        let number = u128::from_le_bytes(id);
        let store = |field, value| {
            self.attachment
                .tables
                .sessions
                .word(index, field)
                .store(value, Ordering::Release);
        };
        store(SessionField::Used, 0);
        // The two halves of 16 bytes.
        #[allow(clippy::cast_possible_truncation)]
        {
            store(SessionField::IdLow, number as u64);
            store(SessionField::IdHigh, (number >> 64) as u64);
        }
        store(SessionField::LastExecuted, 0);
        store(SessionField::Opened, now);
        store(SessionField::Used, 1);
    }

    /// Records that entry `index` was used at `now` nanoseconds since 1970, which is not before any
    /// time recorded so far.
    pub fn touch_session(&self, index: usize, now: u64) {
        self.attachment
            .tables
            .sessions
            .word(index, SessionField::Opened)
            .store(now, Ordering::Release);
    }

    /// The id of the last executed request of the session that could change memory; zero for none.
    #[must_use]
    #[inline]
    pub fn last_executed(&self, index: usize) -> u64 {
        self.attachment
            .tables
            .sessions
            .word(index, SessionField::LastExecuted)
            .load(Ordering::Acquire)
    }

    /// The result of an executed request; `None` unless it is among the last [`WINDOW`] ids of its
    /// session.
    #[must_use]
    pub fn executed_result(&self, request: RequestId) -> Option<u64> {
        let last = self.last_executed(request.session);
        let kept = request.sequence <= last && last - request.sequence < WINDOW;
        kept.then(|| {
            self.attachment
                .tables
                .sessions
                .result(request)
                .load(Ordering::Relaxed)
        })
    }
}
