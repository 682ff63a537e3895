//! What is asked for, once it is known to make sense; and the requests of one connection that follow from it.

use super::arguments::Bench;
use super::random::Random;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::layout::{Layout, MAX_ATOMIC};
use std::time::Duration;

/// The most connections: each takes a thread.
pub(super) const MAX_CONNECTIONS: u64 = 1000;

/// The most requests under way on a connection: as many as the library's pipeline takes.
pub(super) const MAX_DEPTH: u64 = 128;

/// Bytes of data that may be under way on all connections, and so about what dsmctl takes of this machine's memory.
const MAX_UNDER_WAY: u64 = 1 << 30;

/// Bytes of a word, which is what an addition changes.
const WORD: u64 = 8;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Add,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Add];

    /// Several of them, in the table and in JSON.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Write => "writes",
            Self::Add => "adds",
        }
    }
}

/// What requests do that change memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Change {
    Write,
    Add,
}

/// In which order addresses come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Pattern {
    Random,
    Sequential,
}

/// When a measurement ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    After(Duration),
    /// So many requests, on all connections.
    Count(u64),
}

/// Everything that decides which requests are made.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The first address and the length of the range.
    pub(super) address: u64,
    pub(super) length: u64,
    /// Bytes of a request; at least one fits the range.
    pub(super) size: u64,
    /// Of 100 requests, so many read.
    pub(super) reads: u64,
    /// What the others do.
    pub(super) change: Kind,
    pub(super) connections: u64,
    pub(super) depth: u64,
    pub(super) end: End,
    pub(super) warm_up: Duration,
    pub(super) pattern: Pattern,
    pub(super) seed: u64,
}

impl Plan {
    /// Checks what the command line asks for.
    pub(super) fn new(bench: &Bench, layout: &Layout) -> Result<Self, Failure> {
        let changes = bench.reads < 100;
        let (address, length) = match bench.range.given() {
            Some(range) => range,
            None if changes => return Err(no_range(bench, layout)),
            None => (0, layout.size()),
        };
        layout.pieces(address, length).map(drop)?;
        check_size(bench.size, length)?;
        if bench.change == Change::Add {
            check_additions(bench, address)?;
        }
        let under_way = bench.connections * bench.depth * bench.size;
        if under_way > MAX_UNDER_WAY {
            return Err(Failure::Usage(format!(
                "{} connections with {} requests of {} each would have {} under way: allowed are {}. Make one of --connections, --depth and --size smaller",
                bench.connections,
                bench.depth,
                human::bytes(bench.size),
                human::bytes(under_way),
                human::bytes(MAX_UNDER_WAY)
            )));
        }
        Ok(Self {
            address,
            length,
            size: bench.size,
            reads: bench.reads,
            change: if bench.change == Change::Add { Kind::Add } else { Kind::Write },
            connections: bench.connections,
            depth: bench.depth,
            end: bench.count.map_or(End::After(bench.duration), End::Count),
            warm_up: bench.warm_up,
            pattern: bench.pattern,
            seed: bench.seed,
        })
    }

    /// The kinds of requests that there are.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        let (reads, changes) = (self.reads > 0, self.reads < 100);
        let change = self.change;
        Kind::ALL.into_iter().filter(move |kind| (*kind == Kind::Read && reads) || (*kind == change && changes))
    }

    /// How many different addresses there are; at least one.
    fn places(&self) -> u64 {
        self.length / self.size
    }

    /// The requests of one connection, without end.
    pub(super) fn tasks(&self, connection: u64) -> Tasks<'_> {
        // Two seeds next to each other share no stream.
        let random = Random::new(Random::new(self.seed).next().wrapping_add(connection));
        let begin = u128::from(self.places()) * u128::from(connection) / u128::from(self.connections);
        // Less than `places`, since the connection is one of `connections`.
        #[allow(clippy::cast_possible_truncation)]
        let next = (self.pattern == Pattern::Sequential).then_some(begin as u64);
        Tasks { plan: self, places: self.places(), random, next }
    }

    /// How many of `count` requests are the connection's.
    pub(super) fn share(&self, connection: u64, count: u64) -> u64 {
        count / self.connections + u64::from(connection < count % self.connections)
    }
}

fn no_range(bench: &Bench, layout: &Layout) -> Failure {
    Failure::Usage(format!(
        "with --reads {} the other requests change memory, and what was there is gone: say where they may, \
         with --range ADDRESS LENGTH (the whole memory is --range 0 {})",
        bench.reads,
        layout.size()
    ))
}

fn check_size(size: u64, length: u64) -> Result<(), Failure> {
    let allowed = "allowed is --size 1 to 1MiB, and not more than the range has";
    let wrong = if size == 0 {
        format!("a request of no bytes measures nothing: {allowed}")
    } else if size > MAX_ATOMIC {
        format!("a request of {} is too long: {allowed}", human::exact_bytes(size))
    } else if size > length {
        let (size, length) = (human::exact_bytes(size), human::exact_bytes(length));
        format!("a request of {size} does not fit a range of {length}: {allowed}")
    } else {
        return Ok(());
    };
    Err(Failure::Usage(wrong))
}

/// Additions are to words, and so must the places be.
fn check_additions(bench: &Bench, address: u64) -> Result<(), Failure> {
    let wrong = if bench.reads == 100 {
        "with --reads 100 nothing is added: make --reads less than 100, 0 for additions only".to_owned()
    } else if bench.size != WORD {
        format!("an addition is to a word of 8 bytes, not of {}: leave --size out", bench.size)
    } else if !address.is_multiple_of(WORD) {
        let (down, up) = (address & !7, address.next_multiple_of(WORD));
        format!(
            "additions are to aligned words: the range begins at {address}, which is not a multiple of 8, as {down} and {up} are"
        )
    } else {
        return Ok(());
    };
    Err(Failure::Usage(wrong))
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) kind: Kind,
    pub(super) address: u64,
}

/// See [`Plan::tasks`].
pub(super) struct Tasks<'p> {
    plan: &'p Plan,
    places: u64,
    random: Random,
    /// The place of the next request; none when they are random.
    next: Option<u64>,
}

impl Tasks<'_> {
    #[inline]
    pub(super) fn next(&mut self) -> Task {
        let place = match &mut self.next {
            Some(next) => {
                let place = *next;
                *next = if place + 1 == self.places { 0 } else { place + 1 };
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
        Task { kind, address: self.plan.address + place * self.plan.size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        }
    }

    fn addresses(plan: &Plan, connection: u64, count: usize) -> Vec<u64> {
        let mut tasks = plan.tasks(connection);
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
        let other = Plan { seed: 2, ..plan.clone() };
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
