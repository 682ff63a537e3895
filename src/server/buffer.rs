//! The buffers of connections, and the one budget that bounds them all.

use super::limits::LiveLimits;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a buffer has as soon as it is used, and again when it lies idle and memory is short.
pub(super) const BASE: usize = 16 << 10;

/// Bytes that a buffer grows to so that more requests fit, though each of them would fit without.
const WIDEST: usize = 256 << 10;

/// The memory that all connections' buffers take beyond [`BASE`], at most `limits.buffer_memory`.
pub(super) struct Budget {
    used: AtomicU64,
    limits: Arc<LiveLimits>,
}

impl Budget {
    pub(super) fn new(limits: Arc<LiveLimits>) -> Self {
        Self { used: AtomicU64::new(0), limits }
    }

    /// Takes `bytes` if they are there.
    fn take(&self, bytes: usize) -> bool {
        let limit = self.limits.buffer_memory();
        let more = |used: u64| used.checked_add(bytes as u64).filter(|sum| *sum <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// More than half is used: idle buffers should shrink.
    fn is_short(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limits.buffer_memory() / 2
    }
}

/// The budget cannot give what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfMemory;

/// Bytes that come in at the end and go out at the front. Has no memory until it is used.
///
/// The memory behind it is initialised once when it grows, not with every use.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    held: Range<usize>,
    budget: Arc<Budget>,
}

impl Buffer {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { bytes: Vec::new(), held: 0..0, budget }
    }

    /// Gets memory, that of `spare` if it has any.
    #[inline]
    pub(super) fn borrow(&mut self, spare: &mut Self) {
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, &mut spare.bytes);
            if self.bytes.is_empty() {
                self.bytes = vec![0; BASE];
            }
        }
    }

    /// Gives its memory to `spare`, unless something is held in it. Then whoever holds something has memory of its own,
    /// and all others use the same, which stays in the processor's cache.
    #[inline]
    pub(super) fn give_back(&mut self, spare: &mut Self) {
        if self.held.is_empty() && spare.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, &mut spare.bytes);
        } else if self.held.is_empty() {
            self.release();
        }
    }

    /// Gives its memory up; nothing is held in it.
    fn release(&mut self) {
        self.budget.give_back(beyond_base(self.bytes.len()));
        self.bytes = Vec::new();
    }

    /// What is held.
    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.held.clone()]
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Lets the first `count` bytes go.
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.held.len(), "more than is held");
        self.held.start += count;
        if self.held.is_empty() {
            self.held = 0..0;
        }
    }

    /// Makes room for `count` bytes after what is held, moving or growing as needed.
    #[inline]
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        if self.bytes.len() - self.held.end >= count { Ok(()) } else { self.make_room(count) }
    }

    #[cold]
    fn make_room(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let needed = self.held.len() + count;
        if needed > self.bytes.len() {
            let size = needed.next_multiple_of(BASE);
            if !self.budget.take(beyond_base(size) - beyond_base(self.bytes.len())) {
                return Err(OutOfMemory);
            }
            self.bytes.resize(size, 0);
        }
        self.bytes.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        Ok(())
    }

    /// The room after what is held, to be filled; [`Buffer::commit`] then says how much was.
    #[inline]
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.held.end..]
    }

    /// The first `count` bytes of the room were filled.
    #[inline]
    pub(super) fn commit(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.held.end, "more than there is room for");
        self.held.end += count;
    }

    /// Appends `data`.
    #[inline]
    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), OutOfMemory> {
        self.reserve(data.len())?;
        self.room()[..data.len()].copy_from_slice(data);
        self.commit(data.len());
        Ok(())
    }

    /// Makes room for `count` bytes after the first `at` that are held, to be filled: it counts as held.
    pub(super) fn insert(&mut self, at: usize, count: usize) -> Result<&mut [u8], OutOfMemory> {
        assert!(at <= self.held.len(), "more than is held");
        self.reserve(count)?;
        let at = self.held.start + at;
        self.bytes.copy_within(at..self.held.end, at + count);
        self.held.end += count;
        Ok(&mut self.bytes[at..at + count])
    }

    /// Doubles the buffer, up to [`WIDEST`]: to be called when what has come filled it, so that a client with many requests
    /// under way has them executed together. Does nothing while memory is short.
    pub(super) fn widen(&mut self) {
        let more = self.bytes.len().min(WIDEST.saturating_sub(self.bytes.len()));
        if more > 0 && !self.budget.is_short() && self.budget.take(more) {
            self.bytes.resize(self.bytes.len() + more, 0);
        }
    }

    /// Gives grown memory back if nothing is held and memory is short.
    pub(super) fn shrink_if_idle(&mut self) {
        if self.held.is_empty() && self.bytes.len() > BASE && self.budget.is_short() {
            self.release();
            self.bytes = vec![0; BASE];
        }
    }
}

/// Bytes of a buffer of this size that count.
fn beyond_base(size: usize) -> usize {
    size.saturating_sub(BASE)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}
