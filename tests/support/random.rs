//! Random numbers that a failed run can repeat: `DSM_TEST_SEED` sets the seed, and every test prints the one it used.

/// `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014): small, and good enough to choose moments and lengths.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Seeded from `DSM_TEST_SEED`, else from the clock. Prints the seed.
    pub(crate) fn new(test: &str) -> Self {
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |time| u64::from(time.subsec_nanos()));
        let seed = std::env::var("DSM_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
        println!("{test}: DSM_TEST_SEED={seed}");
        Self(seed)
    }

    /// With a seed that is known otherwise.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Another stream of numbers, for another thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// The next 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `low..high`.
    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// An index below `count`.
    #[allow(clippy::cast_possible_truncation)] // the remainder is below a usize
    pub(crate) fn index(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}
