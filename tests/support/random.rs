//! Random numbers that a failed run can repeat: `DSM_TEST_SEED` sets the seed, and every test prints the one it used.

use dsm_service::cli::random as generator;

/// Good enough to choose moments and lengths.
#[derive(Debug, Clone)]
pub(crate) struct Random(generator::Random);

impl Random {
    /// Seeded from `DSM_TEST_SEED`, else from the clock. Prints the seed.
    pub(crate) fn new(test: &str) -> Self {
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |time| u64::from(time.subsec_nanos()));
        let seed = std::env::var("DSM_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
        println!("{test}: DSM_TEST_SEED={seed}");
        Self::seeded(seed)
    }

    /// With a seed that is known otherwise.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(generator::Random::new(seed))
    }

    /// Another stream of numbers, for another thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self::seeded(self.next())
    }

    /// The next 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// A number in `low..high`.
    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.below(high - low)
    }

    /// An index below `count`.
    #[allow(clippy::cast_possible_truncation)] // it is below a usize
    pub(crate) fn index(&mut self, count: usize) -> usize {
        self.0.below(count as u64) as usize
    }
}
