//! A fast pseudo-random number generator, whose numbers are the same in every run.

/// `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The generator of a stream; each stream has different numbers.
    #[must_use]
    pub fn new(stream: u64) -> Self {
        // The factor spreads the initial states of adjacent streams.
        Self(stream.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    /// The next number.
    // As an iterator it would return an Option that is never None.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be zero. Uses multiplication (Lemire, TOMACS 2019),
    /// whose bias is negligible for bounds below 2^32.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // The high half of the product is below the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Fills `data` with random bytes.
    pub fn fill(&mut self, data: &mut [u8]) {
        for word in data.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }
}
