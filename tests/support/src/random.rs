//! Reproducible random numbers: each test prints its seed, and `DSM_TEST_SEED` sets it.

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// A seeded generator of random numbers.
#[derive(Debug, Clone)]
pub struct Random(TestRng);

impl Random {
    /// A generator seeded from `DSM_TEST_SEED`, else from the clock. Prints the seed.
    pub fn new(test: &str) -> Self {
        let clock = || {
            std::time::UNIX_EPOCH
                .elapsed()
                .map_or(1, |time| u64::from(time.subsec_nanos()))
        };
        let seed = std::env::var("DSM_TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(clock);
        println!("{test}: DSM_TEST_SEED={seed}");
        Self::seeded(seed)
    }

    /// A generator with this seed, which it does not print.
    pub fn seeded(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    /// A second generator, seeded from this one, for another thread.
    pub fn fork(&mut self) -> Self {
        Self::seeded(self.next())
    }

    /// The next 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `low..high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    /// An index below `count`.
    #[allow(clippy::cast_possible_truncation)] // it is below a usize
    pub fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    /// A number below `bound`, by multiplication (Lemire, TOMACS 2019). Its bias does not matter in
    /// a test.
    #[allow(clippy::cast_possible_truncation)] // the high half of the product is below the bound
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
