//! The sequence of requests of one connection. The plan and the number of the connection determine
//! it.

use super::plan::{AddressPattern, LoadPlan, RequestKind};
use super::random::SplitMix64;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoadRequest {
    pub(super) kind: RequestKind,
    pub(super) address: u64,
}

/// An endless sequence of requests.
pub(super) struct RequestSequence<'p> {
    plan: &'p LoadPlan,
    /// The number of different addresses.
    positions: u64,
    random: SplitMix64,
    /// The position of the next request; `None` if positions are random.
    next: Option<u64>,
}

impl<'p> RequestSequence<'p> {
    /// The sequence of the connection with this number.
    pub(super) fn new(plan: &'p LoadPlan, connection: u64) -> Self {
        // Mixing the seed first gives connections of adjacent seeds different streams.
        let random = SplitMix64::new(SplitMix64::new(plan.seed).next().wrapping_add(connection));
        let begin =
            u128::from(plan.positions()) * u128::from(connection) / u128::from(plan.connections);
        // Less than `positions`, since `connection` is less than `connections`.
        #[allow(clippy::cast_possible_truncation)]
        let next = (plan.pattern == AddressPattern::Sequential).then_some(begin as u64);
        Self {
            plan,
            positions: plan.positions(),
            random,
            next,
        }
    }

    #[inline]
    pub(super) fn next(&mut self) -> LoadRequest {
        let position = match &mut self.next {
            Some(next) => {
                let position = *next;
                *next = if position + 1 == self.positions {
                    0
                } else {
                    position + 1
                };
                position
            }
            None => self.random.below(self.positions),
        };
        let reads = match self.plan.reads {
            0 => false,
            100 => true,
            percent => self.random.below(100) < percent,
        };
        let kind = if reads {
            RequestKind::Read
        } else {
            self.plan.change
        };
        LoadRequest {
            kind,
            address: self.plan.address + position * self.plan.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::plan::{LoadEnd, MAX_CONNECTIONS, RequestPath};
    use proptest::prelude::*;
    use std::time::Duration;

    fn plan(length: u64, size: u64, connections: u64, pattern: AddressPattern) -> LoadPlan {
        LoadPlan {
            address: 24,
            length,
            size,
            reads: 50,
            change: RequestKind::Write,
            connections,
            depth: 1,
            end: LoadEnd::Count(1000),
            warm_up: Duration::ZERO,
            pattern,
            seed: 1,
            path: RequestPath::Auto,
        }
    }

    fn addresses(plan: &LoadPlan, connection: u64, count: usize) -> Vec<u64> {
        let mut requests = RequestSequence::new(plan, connection);
        (0..count).map(|_| requests.next().address).collect()
    }

    proptest! {
        #[test]
        fn every_request_is_inside_the_range(length in 1_u64..1 << 40, share in 1_u64..1000, connection in 0_u64..7, random: bool) {
            let pattern = if random { AddressPattern::Random } else { AddressPattern::Sequential };
            let plan = plan(length, length.div_ceil(share), 7, pattern);
            for address in addresses(&plan, connection, 50) {
                prop_assert!(address >= 24 && address + plan.size <= 24 + length);
                prop_assert!((address - 24).is_multiple_of(plan.size));
            }
        }

        #[test]
        fn the_shares_of_all_connections_add_up_to_the_count(count in 0_u64..1 << 40, connections in 1_u64..=MAX_CONNECTIONS) {
            let plan = plan(8, 8, connections, AddressPattern::Random);
            prop_assert_eq!((0..connections).map(|connection| plan.share(connection, count)).sum::<u64>(), count);
        }
    }

    #[test]
    fn a_seed_repeats_its_addresses_and_connections_have_different_ones() {
        let plan = plan(1 << 30, 8, 2, AddressPattern::Random);
        let other = LoadPlan {
            seed: 2,
            ..plan.clone()
        };
        assert_eq!(addresses(&plan, 0, 20), addresses(&plan, 0, 20));
        assert_ne!(addresses(&plan, 0, 20), addresses(&plan, 1, 20));
        assert_ne!(addresses(&plan, 1, 20), addresses(&other, 0, 20));
    }

    #[test]
    fn sequential_connections_start_far_apart_and_wrap_around() {
        let plan = plan(32, 8, 2, AddressPattern::Sequential);
        assert_eq!(addresses(&plan, 0, 5), [24, 32, 40, 48, 24]);
        assert_eq!(addresses(&plan, 1, 5), [40, 48, 24, 32, 40]);
    }
}
