//! The contents of the memory during a benchmark: each address has a fixed byte, for all request
//! sizes. A timed write writes the bytes that are already there, so a read can be checked at any
//! time.

use dsm_service::cli::random::SplitMix64;

/// The longest request.
pub const MAX_SIZE: usize = 1 << 20;

/// The period of the pattern in bytes: a prime, so that no two slots begin with the same bytes.
const PERIOD: usize = 1_048_573;

/// The bytes of one period, and [`MAX_SIZE`] more.
pub struct BytePattern(Vec<u8>);

impl BytePattern {
    /// The pattern with this number. Patterns with different numbers have different bytes.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let mut bytes = vec![0; PERIOD + MAX_SIZE];
        SplitMix64::new(number).fill(&mut bytes[..PERIOD]);
        bytes.copy_within(..MAX_SIZE, PERIOD);
        Self(bytes)
    }

    /// The bytes from `offset` on; at most [`MAX_SIZE`].
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below the period
    #[must_use]
    pub fn at(&self, offset: u64, length: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.0[start..start + length]
    }
}
