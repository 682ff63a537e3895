//! The requests of one connection, which follow from the plan.

use super::plan::{Kind, Pattern, Plan};
use super::random::Random;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) kind: Kind,
    pub(super) address: u64,
}

/// See the module. They have no end.
pub(super) struct Tasks<'p> {
    plan: &'p Plan,
    places: u64,
    random: Random,
    /// The place of the next request; none when they are random.
    next: Option<u64>,
}

impl<'p> Tasks<'p> {
    /// Those of the connection with this number.
    pub(super) fn new(plan: &'p Plan, connection: u64) -> Self {
        // Two seeds next to each other share no stream.
        let random = Random::new(Random::new(plan.seed).next().wrapping_add(connection));
        let begin =
            u128::from(plan.places()) * u128::from(connection) / u128::from(plan.connections);
        // Less than `places`, since the connection is one of `connections`.
        #[allow(clippy::cast_possible_truncation)]
        let next = (plan.pattern == Pattern::Sequential).then_some(begin as u64);
        Self {
            plan,
            places: plan.places(),
            random,
            next,
        }
    }

    #[inline]
    pub(super) fn next(&mut self) -> Task {
        let place = match &mut self.next {
            Some(next) => {
                let place = *next;
                *next = if place + 1 == self.places {
                    0
                } else {
                    place + 1
                };
                place
            }
            None => self.random.below(self.places),
        };
        let reads = match self.plan.reads {
            0 => false,
            100 => true,
            percent => self.random.below(100) < percent,
        };
        let kind = if reads { Kind::Read } else { self.plan.change };
        Task {
            kind,
            address: self.plan.address + place * self.plan.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::plan::{End, MAX_CONNECTIONS, Path};
    use proptest::prelude::*;
    use std::time::Duration;

    fn plan(length: u64, size: u64, connections: u64, pattern: Pattern) -> Plan {
        Plan {
            address: 24,
            length,
            size,
            reads: 50,
            change: Kind::Write,
            connections,
            depth: 1,
            end: End::Count(1000),
            warm_up: Duration::ZERO,
            pattern,
            seed: 1,
            path: Path::Auto,
        }
    }

    fn addresses(plan: &Plan, connection: u64, count: usize) -> Vec<u64> {
        let mut tasks = Tasks::new(plan, connection);
        (0..count).map(|_| tasks.next().address).collect()
    }

    proptest! {
        #[test]
        fn no_request_leaves_the_range(length in 1_u64..1 << 40, share in 1_u64..1000, connection in 0_u64..7, random: bool) {
            let pattern = if random { Pattern::Random } else { Pattern::Sequential };
            let plan = plan(length, length.div_ceil(share), 7, pattern);
            for address in addresses(&plan, connection, 50) {
                prop_assert!(address >= 24 && address + plan.size <= 24 + length);
                prop_assert!((address - 24).is_multiple_of(plan.size));
            }
        }

        #[test]
        fn the_shares_of_all_connections_are_the_count(count in 0_u64..1 << 40, connections in 1_u64..=MAX_CONNECTIONS) {
            let plan = plan(8, 8, connections, Pattern::Random);
            prop_assert_eq!((0..connections).map(|connection| plan.share(connection, count)).sum::<u64>(), count);
        }
    }

    #[test]
    fn a_seed_gives_the_same_addresses_again_and_each_connection_others() {
        let plan = plan(1 << 30, 8, 2, Pattern::Random);
        let other = Plan {
            seed: 2,
            ..plan.clone()
        };
        assert_eq!(addresses(&plan, 0, 20), addresses(&plan, 0, 20));
        assert_ne!(addresses(&plan, 0, 20), addresses(&plan, 1, 20));
        assert_ne!(addresses(&plan, 1, 20), addresses(&other, 0, 20));
    }

    #[test]
    fn connections_begin_far_from_each_other_and_go_round() {
        let plan = plan(32, 8, 2, Pattern::Sequential);
        assert_eq!(addresses(&plan, 0, 5), [24, 32, 40, 48, 24]);
        assert_eq!(addresses(&plan, 1, 5), [40, 48, 24, 32, 40]);
    }
}
