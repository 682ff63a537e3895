//! What the memory holds while it is measured: every address has its byte, whatever the sizes of
//! requests. Timed writes write what is there already, so that a read can be checked at any time.

use dsm_service::cli::random::Random;

/// The longest request.
pub const MAX_SIZE: usize = 1 << 20;

/// After so many bytes it begins again: a prime, so that no two slots of any size begin alike.
const PERIOD: usize = 1_048_573;

/// See the module.
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// One of several.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let mut bytes = vec![0; PERIOD + MAX_SIZE];
        Random::new(number).fill(&mut bytes[..PERIOD]);
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
