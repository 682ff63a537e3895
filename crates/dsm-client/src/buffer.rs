//! The bytes that were received and not yet parsed.

use std::ops::Range;

/// The most bytes that one receive takes. A header with the longest text of a refusal fits several
/// times.
const CAPACITY: usize = 16 << 10;

/// A buffer of fixed size.
#[derive(Debug)]
pub(super) struct Input {
    /// Empty until first used, then of [`CAPACITY`] bytes.
    bytes: Vec<u8>,
    unread: Range<usize>,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            unread: 0..0,
        }
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.unread.clone()]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.unread = 0..0;
    }

    /// Drops the first `count` unread bytes; there must be that many.
    pub(super) fn consume(&mut self, count: usize) {
        self.unread.start += count;
    }

    /// Moves as many bytes as fit from the front into `target`; returns how many.
    pub(super) fn take_into(&mut self, target: &mut [u8]) -> usize {
        let count = target.len().min(self.unread.len());
        target[..count].copy_from_slice(&self.unread()[..count]);
        self.consume(count);
        count
    }

    /// Where the next received bytes go. It is never empty, since what is left unread is less than
    /// one frame without data.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes.resize(CAPACITY, 0);
        }
        if self.unread.start > 0 {
            self.bytes.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        &mut self.bytes[self.unread.end..]
    }

    /// `count` bytes were put into [`Input::space`].
    pub(super) fn received(&mut self, count: usize) {
        self.unread.end += count;
    }
}
