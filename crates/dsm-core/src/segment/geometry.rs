//! The position of every table inside a segment's shared-memory object. Pure arithmetic.
//!
//! ```text
//! superblock | participants | locks | intents | slots | large slots | sessions | page table | (align) data: k bytes
//! ```

use crate::layout::{MAX_ATOMIC, PAGE};
use crate::protocol::WINDOW;
use std::ops::Range;

/// Bytes of a cache line. Records that different processes write have separate lines.
pub(super) const CACHE_LINE: usize = 64;

/// The most processes that may have a segment mapped at once. Each entry takes a cache line.
pub(super) const PARTICIPANTS: usize = 64;

/// The first participant index of local clients: the lower ones are reserved for the server and
/// snapshot agents.
pub(super) const FIRST_CLIENT: usize = 4;

/// The most threads, of all participants, that may work on a segment at once. Each has an intent
/// and a slot.
pub const WORKERS: usize = 96;

/// The first worker of participants that are not the server. The server's share is one worker for
/// each of at most 32 threads with one connection, one for each of at most 8 shared threads, and
/// one for its self-probe.
pub(super) const FIRST_AGENT_WORKER: usize = 41;

/// The first worker of local clients; some lower ones are reserved for snapshot agents.
pub(super) const FIRST_CLIENT_WORKER: usize = 48;

/// The workers that all local clients of a segment share.
pub const CLIENT_WORKERS: usize = WORKERS - FIRST_CLIENT_WORKER;

/// Payloads of at most this many bytes wait in the worker's own slot.
pub const SLOT: usize = 64 << 10;

/// Slots for longer payloads, shared by all workers. Four keep both cores of a small machine busy.
pub(super) const LARGE_SLOTS: usize = 4;

/// Bytes of a large slot.
#[allow(clippy::cast_possible_truncation)] // 1 MiB
pub(super) const LARGE_SLOT: usize = MAX_ATOMIC as usize;

/// Page p is guarded by stripe p mod `STRIPES`; a mask of stripes fits one u64.
pub(super) const STRIPES: usize = 64;

/// Locks: those of the large slots first, then the stripes. A worker that takes several locks takes
/// them in this order.
pub(super) const LOCKS: usize = LARGE_SLOTS + STRIPES;

/// Sessions that the segment remembers: more than a server can have connections, so that an unused
/// one can always be evicted.
pub const SESSIONS: usize = 4160;

/// Bytes of a session: a cache line of state, then the results of the last `WINDOW` requests.
#[allow(clippy::cast_possible_truncation)] // 64
pub(super) const SESSION: usize = CACHE_LINE + WINDOW as usize * 8;

/// Bytes of a page's entry in the page table: its version, and the word that says where the page is
/// as of the latest cut.
pub(super) const PAGE_ENTRY: usize = 16;

/// Bytes of an intent: two cache lines.
pub(super) const INTENT: usize = 2 * CACHE_LINE;

/// Bytes of the superblock, with room for more fields.
pub(super) const SUPERBLOCK_AREA: usize = 4096;
pub(super) const PARTICIPANT_TABLE: usize = SUPERBLOCK_AREA;
pub(super) const LOCK_TABLE: usize = PARTICIPANT_TABLE + PARTICIPANTS * CACHE_LINE;
pub(super) const INTENT_TABLE: usize = LOCK_TABLE + 2 * SUPERBLOCK_AREA;
pub(super) const SLOT_TABLE: usize = INTENT_TABLE + WORKERS * INTENT;
pub(super) const LARGE_SLOT_TABLE: usize = SLOT_TABLE + WORKERS * SLOT;
pub(super) const SESSION_TABLE: usize = LARGE_SLOT_TABLE + LARGE_SLOTS * LARGE_SLOT;
pub(super) const PAGE_TABLE: usize = SESSION_TABLE + SESSIONS * SESSION;

/// The data begins at a multiple of this, so that the kernel can map it with huge pages.
const DATA_ALIGNMENT: usize = 2 << 20;

const _: () = assert!(
    LOCKS * CACHE_LINE <= 2 * SUPERBLOCK_AREA
        && STRIPES == 64
        && PAGE_TABLE.is_multiple_of(CACHE_LINE)
);

/// The part of the geometry that depends on k. The constants above hold for every segment of this
/// format version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes attachment.
    pub(super) k: usize,
    /// First byte of the data.
    pub(super) data: usize,
    /// Bytes of the whole object.
    pub(super) total: usize,
}

impl Geometry {
    /// `None` when the object would not fit the address space of this machine.
    pub(super) fn new(k: u64) -> Option<Self> {
        let k = usize::try_from(k).ok()?;
        let pages = k / page_size();
        let data = PAGE_TABLE
            .checked_add(pages.checked_mul(PAGE_ENTRY)?)?
            .checked_next_multiple_of(DATA_ALIGNMENT)?;
        let total = data.checked_add(k)?;
        i64::try_from(total).ok()?;
        Some(Self { k, data, total })
    }

    /// The offset in the object of the record of participant `index`.
    pub(super) fn participant(index: usize) -> usize {
        assert!(index < PARTICIPANTS);
        PARTICIPANT_TABLE + index * CACHE_LINE
    }

    /// Where the page table is.
    pub(super) fn page_table(self) -> Range<usize> {
        PAGE_TABLE..PAGE_TABLE + self.k / page_size() * PAGE_ENTRY
    }

    /// Where the data is.
    pub(super) fn data(self) -> Range<usize> {
        self.data..self.total
    }
}

/// [`PAGE`] as a usize.
#[allow(clippy::cast_possible_truncation)] // 4096
pub(super) const fn page_size() -> usize {
    PAGE as usize
}

/// Bytes of shared memory that a segment of `k` bytes takes beyond k, including its semaphores (a
/// page each). At most 16 MiB or 5 % of k, whichever is larger.
#[must_use]
pub fn overhead(k: u64) -> u64 {
    Geometry::new(k).map_or(0, |geometry| geometry.data as u64 + LOCKS as u64 * PAGE)
}

/// The stripes that guard the pages, as a mask.
#[inline]
pub(super) fn stripes(pages: &Range<usize>) -> u64 {
    if pages.len() >= STRIPES {
        u64::MAX
    } else {
        pages
            .clone()
            .fold(0, |mask, page| mask | 1 << (page % STRIPES))
    }
}

/// The numbers of the set bits, ascending.
#[inline]
pub(super) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let bit = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            bit
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overhead_stays_under_sixteen_mebibytes_or_a_twentieth() {
        for shift in 12..44 {
            for k in (8..16).map(|eighths| ((1_u64 << shift) / 8 * eighths).next_multiple_of(PAGE))
            {
                let allowed = (k / 20).max(16 << 20);
                assert!(
                    overhead(k) <= allowed,
                    "k = {k}: {} is over {allowed}",
                    overhead(k)
                );
            }
        }
    }

    #[test]
    fn a_k_beyond_the_address_space_has_no_geometry() {
        assert_eq!(Geometry::new(u64::MAX - 4095), None);
        assert_eq!(Geometry::new(1 << 63), None);
    }
}
