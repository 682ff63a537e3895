//! A histogram of latencies. Its buckets are at most 1/32 (3 %) of their values wide.

/// Buckets between a power of two and the next.
const SUB_BUCKETS: usize = 32;

/// Below this many nanoseconds, each value has its own bucket.
const EXACT: usize = 2 * SUB_BUCKETS;

/// The number of buckets for all values of a u64.
const BUCKETS: usize = EXACT + (u64::BITS - EXACT.ilog2()) as usize * SUB_BUCKETS;

/// The number of values in each bucket.
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![0; BUCKETS])
    }

    /// Counts a request that took `nanoseconds`.
    #[inline]
    pub fn add(&mut self, nanoseconds: u64) {
        self.0[bucket_of(nanoseconds)] += 1;
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        self.0
            .iter_mut()
            .zip(&other.0)
            .for_each(|(ours, theirs)| *ours += theirs);
    }

    /// The number of counted requests.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The buckets that are not empty, in ascending order: the lower bound in nanoseconds, the
    /// upper bound, which is outside the bucket, and the count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let bounds = |index| {
            (
                least(index),
                if index + 1 < BUCKETS {
                    least(index + 1)
                } else {
                    u64::MAX
                },
            )
        };
        let filled = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(move |(index, count)| (bounds(index).0, bounds(index).1, *count))
    }

    /// The nanoseconds within which all but one of `one_in` requests ended, so that 100 gives the
    /// 99th percentile; `None` without requests.
    #[must_use]
    pub fn all_but(&self, one_in: u64) -> Option<u64> {
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

/// The index of the bucket that contains `value`.
#[inline]
#[allow(clippy::cast_possible_truncation)] // fewer than BUCKETS
fn bucket_of(value: u64) -> usize {
    if value < EXACT as u64 {
        return value as usize;
    }
    // Keeps the leading bits of the value: the first one, and as many as SUB_BUCKETS needs.
    let shift = value.ilog2() - SUB_BUCKETS.ilog2();
    shift as usize * SUB_BUCKETS + (value >> shift) as usize
}

/// The middle of the values in this bucket.
fn middle(bucket: usize) -> u64 {
    least(bucket) + (1 << shift_of(bucket)) / 2
}

/// The least value in this bucket.
fn least(bucket: usize) -> u64 {
    let values = if bucket < EXACT {
        bucket
    } else {
        bucket % SUB_BUCKETS + SUB_BUCKETS
    };
    (values as u64) << shift_of(bucket)
}

/// The binary logarithm of the number of values in this bucket.
#[allow(clippy::cast_possible_truncation)] // fewer than 64
fn shift_of(bucket: usize) -> u32 {
    if bucket < EXACT {
        0
    } else {
        (bucket / SUB_BUCKETS - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_cover_every_value_without_gaps() {
        for index in 1..BUCKETS {
            assert_eq!(bucket_of(least(index)), index);
            assert_eq!(bucket_of(least(index) - 1), index - 1);
            assert_eq!(bucket_of(middle(index)), index);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn the_bucket_of_a_value_is_at_most_four_percent_wide(value in 64..u64::MAX) {
            let mut histogram = Histogram::new();
            histogram.add(value);
            let (from, below, count) = histogram.buckets().next().unwrap();
            prop_assert!(from <= value && (value < below || below == u64::MAX));
            prop_assert!(below - from <= from / 100 * 4 || below - from <= from / 32 + 1);
            prop_assert_eq!((count, histogram.count()), (1, 1));
        }
    }
}
