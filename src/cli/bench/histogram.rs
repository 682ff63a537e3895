//! How many requests took how long, in buckets that are 3 % wide.

/// Buckets of each doubling.
const FINENESS: usize = 32;

/// Below this many nanoseconds each number has a bucket of its own.
const EXACT: usize = 2 * FINENESS;

/// For all that a u64 can hold.
const BUCKETS: usize = EXACT + (u64::BITS - EXACT.ilog2()) as usize * FINENESS;

/// See the module.
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![0; BUCKETS])
    }

    /// Counts a request that took so long.
    #[inline]
    pub fn add(&mut self, nanoseconds: u64) {
        self.0[bucket(nanoseconds)] += 1;
    }

    /// Adds what the other has counted.
    pub fn merge(&mut self, other: &Self) {
        self.0
            .iter_mut()
            .zip(&other.0)
            .for_each(|(ours, theirs)| *ours += theirs);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The buckets that are not empty, in ascending order: the first number of nanoseconds that
    /// falls into it, the first that falls into the next one, and how many did.
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

    /// Nanoseconds that all but one in `one_in` requests stayed within; `None` when there was no
    /// request.
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
fn middle(bucket: usize) -> u64 {
    least(bucket) + (1 << shift_of(bucket)) / 2
}

/// The first value in this bucket.
fn least(bucket: usize) -> u64 {
    let values = if bucket < EXACT {
        bucket
    } else {
        bucket % FINENESS + FINENESS
    };
    (values as u64) << shift_of(bucket)
}

/// The bucket holds as many values as 2 to the power of this.
#[allow(clippy::cast_possible_truncation)] // fewer than 64
fn shift_of(bucket: usize) -> u32 {
    if bucket < EXACT {
        0
    } else {
        (bucket / FINENESS - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_up_to_the_last_number() {
        for index in 1..BUCKETS {
            assert_eq!(bucket(least(index)), index);
            assert_eq!(bucket(least(index) - 1), index - 1);
            assert_eq!(bucket(middle(index)), index);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_number_is_in_a_bucket_that_is_at_most_four_percent_wide(value in 64..u64::MAX) {
            let mut histogram = Histogram::new();
            histogram.add(value);
            let (from, below, count) = histogram.buckets().next().unwrap();
            prop_assert!(from <= value && (value < below || below == u64::MAX));
            prop_assert!(below - from <= from / 100 * 4 || below - from <= from / 32 + 1);
            prop_assert_eq!((count, histogram.count()), (1, 1));
        }
    }
}
