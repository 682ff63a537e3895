//! How many requests took how long, in buckets that are 3 % wide.

/// Buckets of each doubling.
const FINENESS: usize = 32;

/// Below this many nanoseconds each number has a bucket of its own.
const EXACT: usize = 2 * FINENESS;

/// For all that a u64 can hold.
const BUCKETS: usize = EXACT + (u64::BITS - EXACT.ilog2()) as usize * FINENESS;

/// See the module.
pub(crate) struct Histogram(Vec<u64>);

impl Histogram {
    pub(crate) fn new() -> Self {
        Self(vec![0; BUCKETS])
    }

    #[inline]
    pub(crate) fn add(&mut self, nanoseconds: u64) {
        self.0[bucket(nanoseconds)] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(ours, theirs)| *ours += theirs);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Nanoseconds that all but one in `one_in` requests stayed within; `None` when there was no request.
    pub(crate) fn all_but(&self, one_in: u64) -> Option<u64> {
        let mut slower = self.count() / one_in;
        for (index, count) in self.0.iter().enumerate().rev() {
            if *count > slower {
                return Some(middle(index));
            }
            slower -= count;
        }
        None
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // fewer than BUCKETS
fn bucket(value: u64) -> usize {
    if value < EXACT as u64 {
        return value as usize;
    }
    // The first bits of the value, as many as FINENESS has.
    let shift = value.ilog2() - FINENESS.ilog2();
    shift as usize * FINENESS + (value >> shift) as usize
}

/// Of the values in this bucket.
#[allow(clippy::cast_possible_truncation)] // fewer than 64
fn middle(bucket: usize) -> u64 {
    if bucket < EXACT {
        return bucket as u64;
    }
    let shift = (bucket / FINENESS - 1) as u32;
    (((bucket % FINENESS + FINENESS) as u64) << shift) + (1 << shift) / 2
}
